//! Differences of Valkey 9.1.2 and Redis 8.10.2 from Redis 7.2, whose replies are ours.

use crate::Kind;
use crate::resp::{Reply, Words};

/// Errors: the server, the commands (`*`: any name with that beginning), our text, its text (`*`: anything), the
/// reason.
const ERRORS: &[(Kind, &[&str], &str, &str, &str)] = &[
    (
        Kind::Valkey,
        &["GEO*"],
        "ERR could not decode requested zset member",
        "ERR member * does not exist",
        "Valkey 9 names the member",
    ),
    (
        Kind::Valkey,
        &["BITCOUNT"],
        "ERR *",
        "*",
        "in Valkey 8 the end of the range became optional, and is judged later",
    ),
    (
        Kind::Valkey,
        &["GEOSEARCH*"],
        "ERR exactly one of BYRADIUS and BYBOX can be specified for *",
        "ERR exactly one of BYRADIUS, BYBOX and BYPOLYGON can be specified for *",
        "BYPOLYGON came with Valkey 9",
    ),
    (Kind::Valkey, &["GETEX"], "WRONGTYPE *", "ERR *", "Valkey 9 judges the moment before it looks for the key"),
    (
        Kind::Redis8,
        &["XREAD*"],
        "ERR Unbalanced * must be specified.",
        "ERR Unbalanced * must be specified.",
        "Redis 8 names the `+` id",
    ),
    (
        Kind::Valkey,
        &["XSETID"],
        "ERR The ID specified in XSETID is smaller than the target stream top item",
        "ERR The ID specified in XSETID is smaller than current max_deleted_entry_id",
        "newer servers look at the greatest deleted id, and do so first",
    ),
    (
        Kind::Redis8,
        &["XSETID"],
        "ERR The ID specified in XSETID is smaller than the target stream top item",
        "ERR The ID specified in XSETID is smaller than current max_deleted_entry_id",
        "newer servers look at the greatest deleted id, and do so first",
    ),
    (
        Kind::Valkey,
        &["MSETEX"],
        "ERR invalid numkeys value",
        "ERR invalid numkeys value or out of range",
        "Valkey's words differ from Redis's",
    ),
    (
        Kind::Valkey,
        &["MSETEX"],
        "ERR wrong number of key-value pairs",
        "ERR syntax error",
        "Valkey's words differ from Redis's",
    ),
    (
        Kind::Redis8,
        &["V*"],
        "ERR wrong number of arguments for 'v*' command",
        "ERR wrong number of arguments for 'V*' command",
        "Redis spells the commands of modules as they were registered",
    ),
    (
        Kind::Redis8,
        &["*"],
        "ERR unknown command '*', with args beginning with: ",
        "ERR unknown command '*'",
        "Redis 8 says nothing of arguments where there are none",
    ),
];

/// Commands, and words of their options, that came after Redis 7.0, and the servers that have them.
const NEWER: &[(&[&str], &[&str], &[Kind])] = &[
    (&["SET"], &["IFEQ"], &[Kind::Valkey, Kind::Redis8]),
    (&["SET"], &["IFNE", "IFDEQ", "IFDNE"], &[Kind::Redis8]),
    (&["MSETEX"], &[], &[Kind::Valkey, Kind::Redis8]),
    (&["DIGEST", "DELEX", "INCREX", "LMOVEM", "BLMOVEM", "SUNIONCARD", "SDIFFCARD"], &[], &[Kind::Redis8]),
    (&["DELIFEQ"], &[], &[Kind::Valkey]),
    (&["ZUNION", "ZINTER", "ZUNIONSTORE", "ZINTERSTORE"], &["COUNT"], &[Kind::Redis8]),
    (&["BITOP"], &["DIFF", "DIFF1", "ANDOR", "ONE"], &[Kind::Redis8]),
    (&["GEOSEARCH", "GEOSEARCHSTORE"], &["BYPOLYGON"], &[Kind::Valkey]),
    (&["HIMPORT"], &[], &[Kind::Redis8]),
    (&["XDELEX", "XACKDEL", "XNACK", "XCFGSET", "XIDMPRECORD"], &[], &[Kind::Redis8]),
    (&["XADD"], &["IDMP", "IDMPAUTO", "KEEPREF", "DELREF", "ACKED"], &[Kind::Redis8]),
    (&["XTRIM"], &["KEEPREF", "DELREF", "ACKED"], &[Kind::Redis8]),
    (&["XREAD", "XREADGROUP"], &["CLAIM", "MAXCOUNT", "MAXSIZE"], &[Kind::Redis8]),
];

/// Whether a server is too old for a command.
fn is_too_new(peer: Kind, words: &Words) -> bool {
    let is_any = |word: &[u8], names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    NEWER.iter().any(|(commands, options, servers)| {
        is_any(&words[0], commands)
            && !servers.contains(&peer)
            && (options.is_empty() || words[1..].iter().any(|word| is_any(word, options)))
    })
}

/// Whether a difference is listed.
pub(super) fn is_listed(peer: Kind, words: &Words, ours: &Reply, theirs: &Reply) -> bool {
    let name = String::from_utf8_lossy(&words[0]).to_ascii_uppercase();
    if let (Some(ours), Some(theirs)) = (error(ours), error(theirs)) {
        return ERRORS.iter().any(|(server, commands, says, other, _)| {
            *server == peer
                && commands.iter().any(|command| matches(command, &name))
                && matches(says, ours)
                && matches(other, theirs)
        });
    }
    match (peer, name.as_str()) {
        // Valkey checks the time before it looks for the key.
        (Kind::Valkey, "GETEX") => ours.is_null() && theirs.is_error(),
        // The end of the range is optional.
        (Kind::Valkey, "BITCOUNT") => words.len() == 3 && *ours == Reply::error("ERR syntax error"),
        // Valkey refuses the count that has no opposite.
        (Kind::Valkey, "LREM") => {
            *theirs
                == Reply::error(
                    "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
                )
        }
        // Rounding the last moments of all to seconds overflows there.
        (Kind::Redis8, "EXPIRETIME") => {
            ours.number().is_some_and(|at| at > 9.2e15) && theirs.number().is_some_and(|at| at < -9.2e15)
        }
        // Valkey keeps longer strings in one allocation with their keys.
        (Kind::Valkey, "OBJECT") if ours.bytes() == Some(b"raw") => theirs.bytes() == Some(b"embstr"),
        // Hashes of `HIMPORT` have a form of their own there, and keep it while they change. Ours are hashes like any other.
        (Kind::Redis8, "OBJECT") if theirs.bytes().is_some_and(|name| name.starts_with(b"template-")) => {
            ours.bytes().is_some_and(|name| name == b"listpack" || name == b"hashtable")
        }
        // After a bit command that changed nothing. Redis 8 chooses by the length of key and value together.
        (_, "OBJECT") => {
            ours.bytes().is_some_and(|name| name == b"int" || name == b"embstr") && theirs.bytes() == Some(b"raw")
        }
        // It prints the shortest digits that read back the same. We print 17 digits, as Redis 7.2 does.
        (
            Kind::Redis8,
            "GEOPOS" | "GEOSEARCH" | "GEORADIUS" | "GEORADIUS_RO" | "GEORADIUSBYMEMBER" | "GEORADIUSBYMEMBER_RO",
        ) => same_coordinates(ours, theirs),
        // Of two numbers of 17 digits that are equally far from a double, it takes the odd one.
        (Kind::Valkey, _) if name.starts_with('Z') && is_tie(ours, theirs) => true,
        (Kind::Redis8, "VEMB") => has_ties(ours, theirs),
        // Its packed sorted sets keep no -0, its others do. Ours never do.
        _ if name.starts_with('Z') || name.starts_with("BZ") => without_negative_zeros(theirs) == *ours,
        _ => false,
    }
}

/// Whether the replies are equal, except for such numbers in them.
fn has_ties(ours: &Reply, theirs: &Reply) -> bool {
    match (ours, theirs) {
        (Reply::Many(kind, Some(ours)), Reply::Many(other, Some(theirs))) => {
            kind == other && ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| has_ties(a, b))
        }
        _ => ours == theirs || is_tie(ours, theirs),
    }
}

/// Whether two replies are the same double in 17 digits, the last of which differs by one.
fn is_tie(ours: &Reply, theirs: &Reply) -> bool {
    let text = |reply: &Reply| reply.bytes().map(<[u8]>::to_vec).unwrap_or_default();
    let (ours_text, theirs_text) = (text(ours), text(theirs));
    let digits = |text: &[u8]| text.iter().filter(|byte| byte.is_ascii_digit()).count();
    let last = |text: &[u8]| text.last().copied().unwrap_or_default();
    ours.number().is_some_and(|number| Some(number) == theirs.number())
        && digits(&ours_text) == 17
        && ours_text.len() == theirs_text.len()
        && ours_text[..ours_text.len() - 1] == theirs_text[..ours_text.len() - 1]
        && last(&ours_text).abs_diff(last(&theirs_text)) == 1
}

fn without_negative_zeros(reply: &Reply) -> Reply {
    match reply {
        Reply::Bulk(kind, Some(text)) if text == b"-0" => Reply::Bulk(*kind, Some(b"0".to_vec())),
        Reply::Line(',', text) if text == "-0" => Reply::Line(',', "0".into()),
        Reply::Many(kind, Some(items)) => Reply::Many(*kind, Some(items.iter().map(without_negative_zeros).collect())),
        _ => reply.clone(),
    }
}

/// Whether a command is not sent, since the server treats it differently than Redis 7.2 and later replies show that.
/// `in_transaction`: MULTI came before it.
pub fn is_left_out(peer: Kind, words: &Words, in_transaction: bool) -> bool {
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let is_negative = |word: &[u8]| word.starts_with(b"-");
    if peer != Kind::Dormouse && is_too_new(peer, words) {
        return true;
    }
    // The server reads a name up to its first NUL only. The rest would be shown as it is.
    let is_newer = matches!(peer, Kind::Valkey | Kind::Redis8);
    if is_newer && is(&words[0], "CLIENT") && words.iter().any(|word| word.contains(&0)) {
        return true;
    }
    match peer {
        Kind::Valkey => {
            // Valkey 9 refuses a transaction that contains these.
            in_transaction && (is(&words[0], "MULTI") || is(&words[0], "WATCH"))
                // It refuses scores that are hexadecimal, begin with a space, or are empty. We take an empty score for
                // 0.
                || words[0].first().is_some_and(|first| b"zZ".contains(first)) && words.iter().any(|word| is_no_decimal(word))
                // It takes a negative offset of LIMIT for 0.
                || words.windows(2).any(|pair| is(&pair[0], "LIMIT") && is_negative(&pair[1]))
                // It takes the lowest index, which has no positive counterpart, for an existing one.
                || is(&words[0], "LSET") && words.get(2).is_some_and(|index| index == b"-9223372036854775808")
                || has_odd_cursor(words)
                // It refuses a condition that is said twice.
                || is(&words[0], "SET") && words.iter().filter(|word| is(word, "IFEQ")).nth(1).is_some()
        }
        Kind::Redis8 => has_odd_cursor(words),
        Kind::Dormouse | Kind::Redis => false,
    }
}

/// Whether a cursor is not made of digits alone. Newer servers refuse such a cursor; 7.2 takes whatever C's `strtoul`
/// takes.
fn has_odd_cursor(words: &Words) -> bool {
    let at = match words[0].to_ascii_uppercase().as_slice() {
        b"SCAN" => 1,
        b"SSCAN" | b"HSCAN" | b"ZSCAN" => 2,
        _ => return false,
    };
    words.get(at).is_some_and(|cursor| cursor.is_empty() || !cursor.iter().all(u8::is_ascii_digit))
}

fn error(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Line('-', text) => Some(text),
        _ => None,
    }
}

/// Whether `text` is `pattern`, in which one `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end),
        None => pattern == text,
    }
}

/// Whether a word is like `0x1p-3`, `(-0X9`, ` 7`, or empty.
fn is_no_decimal(word: &[u8]) -> bool {
    let digits: Vec<u8> = word.iter().copied().skip_while(|byte| b"( \t+-".contains(byte)).take(2).collect();
    word.first() == Some(&b' ') || word.starts_with(b"( ") || digits.is_empty() || digits.eq_ignore_ascii_case(b"0x")
}

/// Whether the replies are equal, except for numbers with other digits behind the seventeenth decimal, where ours end.
pub(super) fn same_coordinates(ours: &Reply, theirs: &Reply) -> bool {
    match (ours, theirs) {
        (Reply::Many(kind, Some(ours)), Reply::Many(other, Some(theirs))) => {
            kind == other && ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| same_coordinates(a, b))
        }
        _ => {
            let difference = ours.number().zip(theirs.number()).map(|(ours, theirs)| (ours - theirs).abs());
            ours == theirs || difference.is_some_and(|difference| difference <= 1e-17)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_one_star() {
        for (pattern, text, expected) in [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("ab*bc", "abc", false),
            ("*", "", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
