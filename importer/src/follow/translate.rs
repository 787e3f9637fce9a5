//! Translation of newer servers' commands into the target's.
//!
//! A source sends its replicas the effect of a command. So a condition that was met is left out: the target holds the
//! same data as the source. A command that Dormouse lacks, on a type that it has, becomes requests with the same
//! effect.
//!
//! | the source says | the target is told |
//! | --- | --- |
//! | `SET key value IFEQ ...` | `SET key value`, with the expiry |
//! | `MSETEX` | a `SET` for each key |
//! | `HSETEX` that lets no field expire | `HSET` |
//! | `HGETDEL` | `HDEL` |
//! | `LMOVEM` | an `LMOVE` for each element |
//! | `DELEX`, `DELIFEQ` | `DEL` |
//! | `XADD`, `XTRIM` with `MAXLEN = threshold LIMIT count`, as a trim with `~` is sent to replicas | the same without `LIMIT` |
//! | `XADD` with `IDMP` or `IDMPAUTO` and an id | `XADD`, `XIDMPRECORD` for the message, and `XTRIM` if it trims |
//! | the same without an id: the message was sent again | nothing |
//! | `PUBLISH`, `SPUBLISH`, `PFCOUNT` if the target lacks them | nothing: they carry no data |

use dormouse_storage::codec::value::name_of_message;

use super::place::KEY;
use super::source::SourceCommand;
use super::target::Abilities;
use super::wire::request;

/// Limit of elements that one `LMOVEM` moves. Each takes a request or two.
const MOVED_MAX: u64 = 100_000;

/// The translation of a command of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Translated {
    /// Passes the command on byte for byte.
    AsIs,
    /// Sends these requests, which have its effect. `without`: the part that they leave out, if any.
    Requests { requests: Vec<Vec<u8>>, without: Option<&'static str> },
    /// The target cannot take it.
    Unsupported,
}

/// Translates the command whose name in capitals is `name`.
pub fn translate(name: &str, command: &SourceCommand, abilities: &Abilities) -> Translated {
    let words: Vec<&[u8]> = command.words().collect();
    let known = abilities.commands.contains(name);
    let translated = match name {
        "SET" => set(&words),
        "XADD" | "XTRIM" if known => add_or_trim(&words, abilities),
        _ if known => return Translated::AsIs,
        "MSETEX" => msetex(&words),
        "HSETEX" => hsetex(&words),
        "HGETDEL" => fields(&words, 2).map(|fields| one(&[&[&b"HDEL"[..], words[1]], fields].concat())),
        "LMOVEM" => lmovem(&words),
        "DELEX" | "DELIFEQ" => words.get(1).map(|key| one(&[b"DEL", key])),
        "PUBLISH" | "SPUBLISH" | "PFCOUNT" => Some(nothing(None)),
        "XCFGSET" | "XIDMPRECORD" => Some(nothing(Some(MESSAGES))),
        _ => None,
    };
    translated.unwrap_or(Translated::Unsupported)
}

/// The parts that a target lacks if it does not know `XIDMPRECORD`.
const MESSAGES: &str = "the messages of a stream's producers (XADD IDMP)";

fn nothing(without: Option<&'static str>) -> Translated {
    Translated::Requests { requests: Vec::new(), without }
}

fn one(words: &[&[u8]]) -> Translated {
    all([words.to_vec()])
}

fn all<'a>(requests: impl IntoIterator<Item = Vec<&'a [u8]>>) -> Translated {
    let encode = |words: Vec<&[u8]>| {
        let mut bytes = Vec::new();
        request(&mut bytes, &words);
        bytes
    };
    Translated::Requests { requests: requests.into_iter().map(encode).collect(), without: None }
}

fn is(word: &[u8], expected: &str) -> bool {
    word.eq_ignore_ascii_case(expected.as_bytes())
}

fn is_any(word: &[u8], expected: &[&str]) -> bool {
    expected.iter().any(|expected| is(word, expected))
}

/// Words followed by a time or a duration.
const TIMES: &[&str] = &["EX", "PX", "EXAT", "PXAT"];

fn number(word: &[u8]) -> Option<usize> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// `SET key value ... IFEQ value ...`
fn set(words: &[&[u8]]) -> Option<Translated> {
    let mut kept: Vec<&[u8]> = words.get(..3)?.to_vec();
    let mut conditional = false;
    let mut at = 3;
    while let Some(&word) = words.get(at) {
        let takes_one = is_any(word, &["IFEQ", "IFNE", "IFDEQ", "IFDNE"]);
        if takes_one {
            conditional = true;
            at += 2;
        } else if is_any(word, TIMES) {
            kept.extend(words.get(at..at + 2)?);
            at += 2;
        } else {
            kept.push(word);
            at += 1;
        }
    }
    if !conditional {
        return Some(Translated::AsIs);
    }
    kept.retain(|word| !is(word, "GET") || std::ptr::eq(*word, words[1]) || std::ptr::eq(*word, words[2]));
    Some(one(&kept))
}

/// `XADD key [NOMKSTREAM] [KEEPREF | DELREF | ACKED] [IDMP producer message | IDMPAUTO producer] [MAXLEN | MINID [= | ~] threshold
/// [LIMIT count]] id field value ...`, and `XTRIM key` with those options that it has.
///
/// A source sends an approximate trim as the exact one that it came down to, and leaves `LIMIT` in, which is only allowed
/// beside `~`.
fn add_or_trim(words: &[&[u8]], abilities: &Abilities) -> Option<Translated> {
    let (mut at, mut is_approximate) = (2, false);
    let (mut limit, mut references, mut message) = (None, None, None);
    // The options that remain, and those of a trim.
    let (mut kept, mut trim): (Vec<&[u8]>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    while let Some(&word) = words.get(at) {
        let operator = words.get(at + 1).filter(|next| [&b"="[..], b"~"].contains(next));
        let len = if is_any(word, &["MAXLEN", "MINID"]) {
            is_approximate = operator.is_some_and(|operator| *operator == b"~");
            2 + usize::from(operator.is_some())
        } else if is(word, "LIMIT") {
            // The target refuses a limit without its number.
            let Some(given) = words.get(at..at + 2) else { return Some(Translated::AsIs) };
            limit = Some(given);
            at += 2;
            continue;
        } else if is_any(word, &["KEEPREF", "DELREF", "ACKED"]) {
            references = Some(word);
            1
        } else if is(word, "IDMP") {
            message = Some((*words.get(at + 1)?, Some(*words.get(at + 2)?)));
            at += 3;
            continue;
        } else if is(word, "IDMPAUTO") {
            message = Some((*words.get(at + 1)?, None));
            at += 2;
            continue;
        } else if is(word, "NOMKSTREAM") {
            kept.push(word);
            at += 1;
            continue;
        } else {
            break;
        };
        trim.extend(words.get(at..at + len)?);
        at += len;
    }
    if references.is_some_and(|word| !is(word, "KEEPREF")) && !abilities.commands.contains("XDELEX") {
        return None;
    }
    if references.is_some() && !abilities.commands.contains("XDELEX") {
        trim.retain(|word| !is(word, "KEEPREF"));
    } else if limit.is_none_or(|_| is_approximate) && message.is_none() {
        return Some(Translated::AsIs);
    }
    trim.extend(limit.filter(|_| is_approximate).into_iter().flatten());
    let Some((producer, name)) = message else {
        return Some(one(&[&words[..2], &kept, &trim, &words[at..]].concat()));
    };
    let (id, pairs) = (*words.get(at)?, words.get(at + 1..)?);
    if id == b"*" {
        return Some(nothing(None));
    }
    let made = name_of_message(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])));
    let mut requests = vec![[&words[..2], &kept, &words[at..]].concat()];
    let knows_messages = abilities.commands.contains("XIDMPRECORD");
    if knows_messages {
        // Before the trim, which may remove the entry.
        requests.push(vec![b"XIDMPRECORD", words[1], producer, name.unwrap_or(&made), id]);
    }
    if trim.iter().any(|word| is_any(word, &["MAXLEN", "MINID"])) {
        requests.push([&[&b"XTRIM"[..], words[1]], &trim[..]].concat());
    }
    let Translated::Requests { requests, .. } = all(requests) else { return None };
    Some(Translated::Requests { requests, without: (!knows_messages).then_some(MESSAGES) })
}

/// `MSETEX numkeys key value [key value ...] [NX | XX] [EX seconds | PX ms | EXAT time | PXAT time | KEEPTTL]`
fn msetex(words: &[&[u8]]) -> Option<Translated> {
    let pairs = number(words.get(1)?)?.checked_mul(2)?;
    let end = pairs.checked_add(2)?;
    let (pairs, options) = (words.get(2..end)?, words.get(end..)?);
    let mut expiry: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    while let Some(&word) = options.get(at) {
        if is_any(word, TIMES) {
            expiry.extend(options.get(at..at + 2)?);
            at += 1;
        } else if is(word, "KEEPTTL") {
            expiry.push(word);
        } else if !is_any(word, &["NX", "XX"]) {
            return None;
        }
        at += 1;
    }
    Some(all(pairs.chunks_exact(2).map(|pair| [&[&b"SET"[..]], pair, &expiry].concat())))
}

/// `HSETEX key [NX | XX | FNX | FXX] [EX ... | KEEPTTL] FIELDS n field value [field value ...]`, options before or behind.
fn hsetex(words: &[&[u8]]) -> Option<Translated> {
    let mut at = 2;
    let (mut pairs, mut expires) = (None, false);
    while let Some(&word) = words.get(at) {
        if is(word, "FIELDS") {
            let count = number(words.get(at + 1)?)?.checked_mul(2)?;
            let end = count.checked_add(at + 2)?;
            pairs = Some(words.get(at + 2..end)?);
            at = end;
        } else if is_any(word, TIMES) {
            expires = true;
            at += 2;
        } else if is_any(word, &["NX", "XX", "FNX", "FXX", "KEEPTTL"]) {
            at += 1;
        } else {
            return None;
        }
    }
    let Translated::Requests { requests, .. } = one(&[&[&b"HSET"[..], words[1]], pairs?].concat()) else { return None };
    let without = expires.then_some("the expiry of a hash's field (HSETEX)");
    Some(Translated::Requests { requests, without })
}

/// Returns the words behind `FIELDS n` at word `at`.
fn fields<'a, 'b>(words: &'b [&'a [u8]], at: usize) -> Option<&'b [&'a [u8]]> {
    let count = number(words.get(at + 1)?)?;
    let fields = words.get(at + 2..)?;
    (is(words[at], "FIELDS") && fields.len() == count && count > 0).then_some(fields)
}

/// `LMOVEM source destination LEFT | RIGHT LEFT | RIGHT [COUNT n | EXACTLY n  OBO | BULK]`
///
/// All elements are taken out before the first is put in. If that makes a difference, they wait in a list of ours.
fn lmovem(words: &[&[u8]]) -> Option<Translated> {
    let (from, to) = (words.get(1)?, words.get(2)?);
    let (out, into) = (words.get(3)?, words.get(4)?);
    let (count, bulk) = match words.get(5..)? {
        [] => (1, true),
        [word, count, order] if is_any(word, &["COUNT", "EXACTLY"]) => (number(count)?, is(order, "BULK")),
        _ => return None,
    };
    if count as u64 > MOVED_MAX {
        return None;
    }
    let same_side = is(out, "LEFT") == is(into, "LEFT");
    let opposite: &[u8] = if is(out, "LEFT") { b"RIGHT" } else { b"LEFT" };
    if from != to && !(bulk && same_side && count > 1) {
        return Some(all((0..count).map(|_| vec![&b"LMOVE"[..], from, to, out, into])));
    }
    let waiting = format!("{KEY}:moved");
    let taken = (0..count).map(|_| vec![&b"LMOVE"[..], from, waiting.as_bytes(), out, opposite]);
    // In the order of removal, or in the block's order, which on the same side is the reverse.
    let next: &[u8] = if bulk && same_side { opposite } else { out };
    let put = (0..count).map(|_| vec![&b"LMOVE"[..], waiting.as_bytes(), to, next, into]);
    Some(all(taken.chain(put)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;

    const OLD: &[&str] = &["SET", "HSET", "HDEL", "LMOVE", "DEL", "XADD", "XTRIM"];

    fn shown(line: &str) -> String {
        shown_to(OLD, line)
    }

    fn shown_to(commands: &[&str], line: &str) -> String {
        let commands = commands.iter().map(|name| (*name).to_owned());
        let abilities = Abilities { commands: Arc::new(commands.collect::<HashSet<_>>()), indexes: 16, stages: true };
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        request(&mut bytes, &words);
        let mut command = SourceCommand::default();
        command.read(&mut &bytes[..]).unwrap();
        let name = line.split(' ').next().unwrap().to_uppercase();
        match translate(&name, &command, &abilities) {
            Translated::AsIs => "as is".to_owned(),
            Translated::Unsupported => "unsupported".to_owned(),
            Translated::Requests { requests, without } => {
                let line = |bytes: &Vec<u8>| {
                    let mut command = SourceCommand::default();
                    command.read(&mut &bytes[..]).unwrap();
                    command.words().map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
                };
                let lines: Vec<String> = requests.iter().map(line).collect();
                lines.join("; ") + &without.map_or_else(String::new, |without| format!(" without {without}"))
            }
        }
    }

    #[test]
    fn messages_and_references_of_streams_are_translated() {
        let new = [OLD, &["XDELEX", "XNACK", "XIDMPRECORD"]].concat();
        for (line, expected, to_old) in [
            ("XADD s IDMP p i 1-1 f v", "XADD s 1-1 f v; XIDMPRECORD s p i 1-1", "XADD s 1-1 f v"),
            ("XADD s IDMP p i * f v", "", ""),
            ("XADD s IDMPAUTO p * f v", "", ""),
            (
                "XADD s NOMKSTREAM idmp p i MAXLEN = 0 LIMIT 5 1-1 f IDMP",
                "XADD s NOMKSTREAM 1-1 f IDMP; XIDMPRECORD s p i 1-1; XTRIM s MAXLEN = 0",
                "XADD s NOMKSTREAM 1-1 f IDMP; XTRIM s MAXLEN = 0",
            ),
            ("XADD s KEEPREF 1-1 f v", "as is", "XADD s 1-1 f v"),
            ("XADD s ACKED MAXLEN = 5 1-1 f v", "as is", "unsupported"),
            ("XADD s MAXLEN = 5 LIMIT 7 DELREF 1-1 f v", "XADD s MAXLEN = 5 DELREF 1-1 f v", "unsupported"),
            ("XTRIM s MINID = 5-1 LIMIT 7 ACKED", "XTRIM s MINID = 5-1 ACKED", "unsupported"),
            ("XTRIM s KEEPREF MAXLEN 5", "as is", "XTRIM s MAXLEN 5"),
            ("XNACK s g FAIL IDS 1 1-1", "as is", "unsupported"),
            ("XCFGSET s IDMP-MAXSIZE 5", "", ""),
        ] {
            assert_eq!(shown_to(&new, line).split(" without ").next(), Some(expected), "{line}");
            assert_eq!(shown(line).split(" without ").next(), Some(to_old), "{line}");
        }
        assert!(shown("XADD s IDMP p i 1-1 f v").ends_with("without the messages of a stream's producers (XADD IDMP)"));
        let named = shown_to(&new, "XADD s IDMPAUTO p 1-1 b 2 a 1");
        let name = name_of_message([(&b"a"[..], &b"1"[..]), (b"b", b"2")].into_iter());
        assert_eq!(named, format!("XADD s 1-1 b 2 a 1; XIDMPRECORD s p {} 1-1", String::from_utf8_lossy(&name)));
    }

    #[test]
    fn commands_of_newer_servers_are_translated() {
        let moved = format!("{KEY}:moved");
        for (line, expected) in [
            ("SET k v", "as is"),
            ("XADD s MAXLEN = 5 LIMIT 10 1-1 f v", "XADD s MAXLEN = 5 1-1 f v"),
            ("XADD s nomkstream minid = 3-0 limit 10 4-1 LIMIT 7", "XADD s nomkstream minid = 3-0 4-1 LIMIT 7"),
            ("XADD s MAXLEN ~ 5 LIMIT 10 1-1 f v", "as is"),
            ("XADD s 1-1 LIMIT 7", "as is"),
            ("XTRIM s MAXLEN = 5 LIMIT 10", "XTRIM s MAXLEN = 5"),
            ("XTRIM s MAXLEN = 5 LIMIT", "as is"),
            ("SET k v PXAT 5", "as is"),
            ("SET k ifeq IFEQ get", "SET k ifeq"),
            ("SET GET GET IFNE x KEEPTTL", "SET GET GET KEEPTTL"),
            ("SET k v PXAT 5 ifdeq 0123456789abcdef", "SET k v PXAT 5"),
            ("MSETEX 2 a 1 b 2", "SET a 1; SET b 2"),
            ("MSETEX 2 a nx b 2 NX PXAT 77", "SET a nx PXAT 77; SET b 2 PXAT 77"),
            ("MSETEX 1 a 1 KEEPTTL", "SET a 1 KEEPTTL"),
            ("MSETEX 2 a 1", "unsupported"),
            ("MSETEX 99999999999999999999 a 1", "unsupported"),
            ("MSETEX 9223372036854775807 a 1", "unsupported"),
            ("MSETEX 1 a 1 WHAT", "unsupported"),
            ("HSETEX h KEEPTTL FIELDS 1 f v", "HSET h f v"),
            ("HSETEX h FXX FIELDS 2 f v g FIELDS", "HSET h f v g FIELDS"),
            ("HSETEX h FIELDS 1 f v PXAT 5", "HSET h f v without the expiry of a hash's field (HSETEX)"),
            ("HSETEX h FIELDS 2 f v", "unsupported"),
            ("HSETEX h PXAT 5", "unsupported"),
            ("HGETDEL h FIELDS 2 f g", "HDEL h f g"),
            ("HGETDEL h FIELDS 2 f", "unsupported"),
            ("HPEXPIREAT h 1 FIELDS 1 f", "unsupported"),
            ("DELEX k", "DEL k"),
            ("SPUBLISH c m", ""),
            ("LMOVEM a b LEFT RIGHT", "LMOVE a b LEFT RIGHT"),
            ("LMOVEM a b LEFT RIGHT EXACTLY 2 BULK", "LMOVE a b LEFT RIGHT; LMOVE a b LEFT RIGHT"),
            ("LMOVEM a b RIGHT RIGHT COUNT 2 OBO", "LMOVE a b RIGHT RIGHT; LMOVE a b RIGHT RIGHT"),
            (
                "LMOVEM a b LEFT LEFT EXACTLY 2 BULK",
                &format!(
                    "LMOVE a {moved} LEFT RIGHT; LMOVE a {moved} LEFT RIGHT; LMOVE {moved} b RIGHT LEFT; LMOVE {moved} b \
                     RIGHT LEFT"
                ),
            ),
            ("LMOVEM a a LEFT LEFT EXACTLY 1 OBO", &format!("LMOVE a {moved} LEFT RIGHT; LMOVE {moved} a LEFT LEFT")),
            ("LMOVEM a b LEFT RIGHT COUNT 100001 OBO", "unsupported"),
            ("GEOADD g 1 2 m", "unsupported"),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
    }
}
