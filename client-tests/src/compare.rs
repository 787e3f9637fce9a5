//! Legitimate differences between two servers' replies to the same commands.
//!
//! | replies | are compared |
//! | --- | --- |
//! | without an order (`KEYS`, `SMEMBERS`, `HGETALL`, ...) | sorted |
//! | scores | as numbers: Redis 7.0 prints 17 digits, 7.2 the shortest that read back the same |
//! | times to live | as far apart as the servers may have run the command: two seconds, and in a pipeline the time that it took |
//! | `OBJECT ENCODING` | where 7.0 says `quicklist`, 7.2 may say `listpack`; see [`same_encoding`] for sets |
//! | one page of a SCAN, where to stop is the server's choice | by their form alone; whole iterations are compared elsewhere |
//! | `DUMP`, whose version of RDB differs, `OBJECT REFCOUNT`, `OBJECT IDLETIME`, `MEMORY USAGE`, `SLOWLOG` | by their form alone |
//! | `XREADGROUP` with `CLAIM` | without times, in any order |
//! | `XPENDING`, `XINFO` | without times, and without the number of nodes of Redis's radix tree |
//! | searches by distance | without the order of equally distant members; with 7.0 by their form alone if the circle reaches around the earth |
//! | `LPOS` with the lowest `RANK`; arguments of `BITCOUNT` and `BITPOS` for a key that is missing or no string | refused, as 7.2 does |
//! | HyperLogLogs | without the count that Redis's `PFCOUNT` caches in them |
//! | all others, and all errors | byte for byte |
//!
//! Servers newer than Redis 7.0 must agree to the byte even where 7.0 need not: in scores, encodings and errors.
//! [`newer`] lists their differences from Redis 7.2, with reasons.

mod newer;

use std::time::Duration;

pub use newer::is_left_out;
use newer::{is_listed, same_coordinates};

use crate::Kind;
use crate::resp::{Reply, Words};

/// How far apart two servers on quiet cores run the same command, at most.
pub const APART: Duration = Duration::from_secs(2);

/// Whether `ours` is a right answer to `words` if `peer` answers `theirs`. The servers may have run the command, or one that
/// set its key's expiry, up to `apart` from each other.
pub fn agree(peer: Kind, words: &Words, ours: &Reply, theirs: &Reply, apart: Duration) -> bool {
    if ours == theirs {
        return true;
    }
    let is_older = peer == Kind::Redis;
    if !is_older && is_listed(peer, words, ours, theirs) {
        return true;
    }
    if ours.is_error() || theirs.is_error() {
        return is_older && is_newer(words, ours, theirs);
    }
    let upper = |i: usize| words.get(i).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
    let name = upper(0);
    match name.as_slice() {
        b"KEYS" | b"SMEMBERS" | b"SINTER" | b"SUNION" | b"SDIFF" | b"HKEYS" | b"HVALS" => {
            sorted(ours, 1) == sorted(theirs, 1)
        }
        b"HGETALL" => sorted(ours, 2) == sorted(theirs, 2),
        b"TTL" | b"EXPIRETIME" => close(ours, theirs, apart.as_secs_f64()),
        b"PTTL" | b"PEXPIRETIME" => close(ours, theirs, 1000.0 * apart.as_secs_f64()),
        b"SCAN" | b"SSCAN" | b"HSCAN" | b"ZSCAN" => is_page(ours) && is_page(theirs),
        b"SLOWLOG" => std::mem::discriminant(ours) == std::mem::discriminant(theirs),
        b"MEMORY" => ours.number().is_some() && theirs.number().is_some(),
        b"DUMP" => ours.bytes().is_some() && theirs.bytes().is_some(),
        b"OBJECT" => match upper(1).as_slice() {
            b"ENCODING" => is_older && same_encoding(ours, theirs),
            _ => ours.number().is_some() && theirs.number().is_some(),
        },
        b"XPENDING" => without_idle(ours) == without_idle(theirs),
        b"XREADGROUP" => without_claims(ours) == without_claims(theirs),
        b"XINFO" => match upper(1).as_slice() {
            b"CONSUMERS" if is_older => ours.items().is_some() && theirs.items().is_some(),
            _ => without_times(peer, ours) == without_times(peer, theirs),
        },
        // 7.0 makes a consumer when it is first given an entry.
        b"XGROUP" => is_older && ours.number().is_some() && theirs.number().is_some(),
        _ if name.starts_with(b"GEO") && is_by_distance(words) => same_places(peer, words, ours, theirs),
        _ if name.starts_with(b"Z") || name.starts_with(b"BZ") => is_older && same_numbers(ours, theirs),
        _ => without_cached_counts(ours) == without_cached_counts(theirs),
    }
}

/// Whether the servers hold different values from here on. We check all of a HyperLogLog before we change it. Redis
/// checks only what it reads on the way to one register. `XSETID` below the greatest deleted id is taken by 7.0 and here,
/// and refused by newer servers. Redis gives a new element of a vector set empty attributes if asked; here empty ones are none.
pub fn diverges(words: &Words, ours: &Reply, theirs: &Reply) -> bool {
    if words[0].eq_ignore_ascii_case(b"VADD") && ours == theirs && !ours.is_error() {
        return words.windows(2).any(|pair| pair[0].eq_ignore_ascii_case(b"SETATTR") && pair[1].is_empty());
    }
    if words[0].eq_ignore_ascii_case(b"XSETID") {
        let refused = "ERR The ID specified in XSETID is smaller than current max_deleted_entry_id";
        return !ours.is_error() && *theirs == Reply::error(refused);
    }
    let changes = [&b"PFADD"[..], b"PFDEBUG"].iter().any(|name| words[0].eq_ignore_ascii_case(name));
    changes && *ours == Reply::error("INVALIDOBJ Corrupted HLL object detected") && !theirs.is_error()
}

/// Whether `ours` is an error that Redis 7.2 gives and 7.0 does not.
fn is_newer(words: &Words, ours: &Reply, theirs: &Reply) -> bool {
    let range = "value must between -9223372036854775807 and 9223372036854775807";
    match words[0].to_ascii_uppercase().as_slice() {
        // 7.0 does not tell which of the two commands it was.
        b"XREAD" | b"XREADGROUP" => [ours, theirs]
            .into_iter()
            .all(|reply| matches!(reply, Reply::Line('-', text) if text.starts_with("ERR Unbalanced"))),
        b"LPOS" => *ours == Reply::error(&format!("ERR value is out of range, {range}")),
        // 7.0 first looks for the key.
        b"BITCOUNT" | b"BITPOS" => {
            let texts = ["ERR syntax error", "ERR value is not an integer or out of range"];
            let found = Reply::error("WRONGTYPE Operation against a key holding the wrong kind of value");
            texts.iter().any(|text| *ours == Reply::error(text)) && (!theirs.is_error() || *theirs == found)
        }
        // 7.0 lets so long a timeout wrap around.
        [b'B', ..] if *ours == Reply::error("ERR timeout is out of range") => {
            *theirs == Reply::error("ERR timeout is negative")
        }
        _ => false,
    }
}

/// Whether a search is sorted by distance. Equally distant members come in the order in which the server's sort leaves
/// them.
fn is_by_distance(words: &Words) -> bool {
    words.iter().any(|word| [&b"ASC"[..], b"DESC", b"COUNT"].iter().any(|sorts| word.eq_ignore_ascii_case(sorts)))
}

/// Whether the radius of a search is more than half of the earth's circumference.
fn reaches_around(words: &Words) -> bool {
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<f64>().ok();
    let meters = |unit: &[u8]| match unit.to_ascii_lowercase().as_slice() {
        b"m" => Some(1.0),
        b"km" => Some(1000.0),
        b"ft" => Some(0.3048),
        b"mi" => Some(1609.34),
        _ => None,
    };
    let mut pairs = words.windows(2).filter_map(|pair| Some(number(&pair[0])? * meters(&pair[1])?));
    pairs.any(|radius| radius > 20_000_000.0)
}

fn same_places(peer: Kind, words: &Words, ours: &Reply, theirs: &Reply) -> bool {
    let (Reply::Many(kind, Some(ours)), Reply::Many(other, Some(theirs))) = (ours, theirs) else { return false };
    let by_name = |places: &[Reply]| {
        let mut places: Vec<Reply> = places.to_vec();
        places.sort_by_key(|place| leaves(place).first().map(|name| name.to_vec()));
        places
    };
    // Members of a non-geo sorted set decode to one corner of the world, equally distant. Which of them come first is
    // open.
    let is_corner = words.get(1).is_none_or(|key| !key.starts_with(b"g"));
    // 7.0 misses members if the circle reaches around the earth.
    if peer == Kind::Redis && reaches_around(words) {
        return kind == other;
    }
    if is_corner && words.iter().any(|word| word.eq_ignore_ascii_case(b"COUNT")) {
        return kind == other && ours.len() == theirs.len();
    }
    let mut pairs = by_name(ours).into_iter().zip(by_name(theirs));
    let same = |(ours, theirs)| ours == theirs || peer == Kind::Redis8 && same_coordinates(&ours, &theirs);
    kind == other && ours.len() == theirs.len() && pairs.all(same)
}

/// Returns the kind of a many-item reply and its items in order, in groups of `width`.
fn sorted(reply: &Reply, width: usize) -> Option<(char, Vec<Vec<Reply>>)> {
    let Reply::Many(kind, Some(items)) = reply else { return None };
    let mut groups: Vec<_> = items.chunks(width).map(<[Reply]>::to_vec).collect();
    groups.sort();
    Some((*kind, groups))
}

fn is_page(reply: &Reply) -> bool {
    matches!(reply.items(), Some([Reply::Bulk('$', Some(_)), Reply::Many('*', Some(_))]))
}

fn close(ours: &Reply, theirs: &Reply, tolerance: f64) -> bool {
    let (Some(ours), Some(theirs)) = (ours.number(), theirs.number()) else { return false };
    // -1 and -2 are not times.
    ours >= 0.0 && theirs >= 0.0 && (ours - theirs).abs() <= tolerance
}

/// Whether two encodings may differ so. 7.2 packs small lists and sets. It chooses the encoding of a new value by the
/// number of members that it is told, which may include duplicates.
fn same_encoding(ours: &Reply, theirs: &Reply) -> bool {
    let (Some(ours), Some(theirs)) = (ours.bytes(), theirs.bytes()) else { return false };
    let legitimate: [(&[u8], &[u8]); 6] = [
        // After a bit command that changed nothing.
        (b"int", b"raw"),
        (b"embstr", b"raw"),
        (b"listpack", b"quicklist"),
        (b"listpack", b"hashtable"),
        (b"hashtable", b"intset"),
        (b"skiplist", b"listpack"),
    ];
    legitimate.contains(&(ours, theirs))
}

/// Returns the reply without the cached count of each HyperLogLog: Redis stores one when it is asked for it.
fn without_cached_counts(reply: &Reply) -> Reply {
    match reply {
        Reply::Bulk(kind, Some(bytes)) if bytes.starts_with(b"HYLL") && bytes.len() > 16 => {
            Reply::Bulk(*kind, Some([&bytes[..8], &bytes[16..]].concat()))
        }
        Reply::Many(kind, Some(items)) => Reply::Many(*kind, Some(items.iter().map(without_cached_counts).collect())),
        _ => reply.clone(),
    }
}

/// The entries that `XPENDING` lists, without the time since their delivery.
fn without_idle(reply: &Reply) -> Reply {
    match reply {
        Reply::Many(kind, Some(items)) if matches!(items[..], [Reply::Bulk(..), Reply::Bulk(..), _, _]) => {
            Reply::Many(*kind, Some(vec![items[0].clone(), items[1].clone(), items[3].clone()]))
        }
        Reply::Many(kind, Some(items)) => Reply::Many(*kind, Some(items.iter().map(without_idle).collect())),
        _ => reply.clone(),
    }
}

/// Entries that were claimed, without the time for which they were pending. Those that were delivered at the same time are in
/// another order when a database has slept.
fn without_claims(reply: &Reply) -> Reply {
    match reply {
        Reply::Many(kind, Some(items)) => match &items[..] {
            [id, fields @ Reply::Many(..), Reply::Line(':', _), deliveries @ Reply::Line(':', _)] => {
                Reply::Many(*kind, Some(vec![id.clone(), fields.clone(), deliveries.clone()]))
            }
            _ => {
                let mut items: Vec<Reply> = items.iter().map(without_claims).collect();
                if items.iter().all(|item| item.items().is_some_and(|entry| entry.len() == 3)) {
                    items.sort();
                }
                Reply::Many(*kind, Some(items))
            }
        },
        _ => reply.clone(),
    }
}

/// Removes from a reply to `XINFO` the times, the size of Redis's radix tree, and the fields that only some versions have.
/// Redis 7.0 creates a consumer with its first entry, and newer servers count a group's entries differently after
/// deletions.
fn without_times(peer: Kind, reply: &Reply) -> Reply {
    const MOMENTS_FROM: f64 = 1e12;
    const LEFT_OUT: [&[u8]; 12] = [
        b"idle",
        b"inactive",
        b"seen-time",
        b"active-time",
        b"radix-tree-nodes",
        b"idmp-duration",
        b"idmp-maxsize",
        b"pids-tracked",
        b"iids-tracked",
        b"iids-added",
        b"iids-duplicates",
        b"nacked-count",
    ];
    match reply {
        Reply::Line(':', _) if reply.number().is_some_and(|number| number >= MOMENTS_FROM) => {
            Reply::Line(':', "0".into())
        }
        Reply::Many(kind, Some(items)) => {
            let mut kept = Vec::new();
            let mut items = items.iter();
            while let Some(item) = items.next() {
                let is_left_out = |name: &[u8]| match peer {
                    Kind::Redis if name == b"consumers" => true,
                    Kind::Valkey | Kind::Redis8 if name == b"lag" || name == b"entries-read" => true,
                    _ => LEFT_OUT.contains(&name),
                };
                if item.bytes().is_some_and(is_left_out) {
                    items.next();
                } else {
                    kept.push(without_times(peer, item));
                }
            }
            if *kind == '%' {
                // A script returns a map in the order of Lua's table, in which the other fields have a place too.
                let mut pairs: Vec<Vec<Reply>> = kept.chunks(2).map(<[Reply]>::to_vec).collect();
                pairs.sort();
                kept = pairs.concat();
            }
            Reply::Many(*kind, Some(kept))
        }
        _ => reply.clone(),
    }
}

fn same_numbers(ours: &Reply, theirs: &Reply) -> bool {
    match (ours, theirs) {
        (Reply::Many(kind, Some(ours)), Reply::Many(other, Some(theirs))) => {
            kind == other && ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| same_numbers(a, b))
        }
        (Reply::Bulk(..), Reply::Bulk(..)) | (Reply::Line(',', _), Reply::Line(',', _)) => {
            ours == theirs || ours.number().is_some_and(|number| Some(number) == theirs.number())
        }
        _ => ours == theirs,
    }
}

/// Whether a SCAN command brought the same elements from us, in order, as from Redis.
pub fn same_elements(words: &Words, ours: &Reply, theirs: &Reply) -> bool {
    ours == theirs || (words[0] == b"ZSCAN" && same_numbers(ours, theirs))
}

/// Whether `ours` is a fair draw from `list`, of the size and form of `theirs`.
pub fn fair_draw(draw: &Words, list: &Reply, ours: &Reply, theirs: &Reply) -> bool {
    let pairs = draw.last().is_some_and(|word| word.starts_with(b"WITH"));
    let width = if pairs { 2 } else { 1 };
    let (drawn, expected) = (leaves(ours), leaves(theirs));
    if std::mem::discriminant(ours) != std::mem::discriminant(theirs) || drawn.len() != expected.len() {
        return false;
    }
    if ours.is_error() || drawn.is_empty() {
        return ours == theirs;
    }
    let all = leaves(list);
    let all: Vec<_> = all.chunks(width).collect();
    let mut drawn: Vec<_> = drawn.chunks(width).collect();
    let may_repeat = draw.get(2).is_some_and(|count| count.starts_with(b"-"));
    let number = drawn.len();
    drawn.sort();
    drawn.dedup();
    drawn.iter().all(|member| all.contains(member)) && (may_repeat || drawn.len() == number)
}

/// Returns the strings and numbers of a reply, however deep.
fn leaves(reply: &Reply) -> Vec<&[u8]> {
    match reply {
        Reply::Many(_, items) => items.iter().flatten().flat_map(leaves).collect(),
        _ => reply.bytes().into_iter().collect(),
    }
}
