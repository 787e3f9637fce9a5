//! Whether two servers hold the same data: every key of every logical index, with its type, contents and expiry.

use std::time::Duration;

use crate::resp::{Connection, Reply, Words};
use crate::{Kind, compare, wait_for};

/// The number of logical indexes.
pub const INDEXES: usize = 16;

/// Returns where the server at port `ours` differs from the one at `theirs`, which is of `kind`. Keys of the names
/// `left_out` do not count.
pub fn difference(kind: Kind, ours: u16, theirs: u16, left_out: &[&str]) -> Option<String> {
    difference_of(kind, (ours, theirs), left_out, as_told)
}

/// A stream as others are told of it: a group has read as many entries as were added at most, although `ENTRIESREAD` takes
/// any number. Some servers end at more.
fn as_told(stream: &Reply) -> Reply {
    let Reply::Many(kind, Some(items)) = stream else { return stream.clone() };
    let added =
        items.windows(2).find(|pair| pair[0].bytes() == Some(b"entries-added")).and_then(|pair| pair[1].number());
    let mut items = items.clone();
    if let (Some(added), Some(Reply::Many(_, Some(groups)))) = (added, items.last_mut()) {
        for group in groups {
            let Reply::Many(_, Some(fields)) = group else { continue };
            let read = fields.iter().position(|field| field.bytes() == Some(b"entries-read"));
            let has_read_all = |at: usize| fields[at + 1].number().is_some_and(|read| read >= added);
            if let Some(at) = read.filter(|&at| has_read_all(at)) {
                // The lag, which follows from it, is the next.
                fields.drain(at..at + 4);
            }
        }
    }
    Reply::Many(*kind, Some(items))
}

/// The same for a server that has followed a Redis 7.0, which is at port `theirs`. That tells its replicas `XREADGROUP` as
/// `XCLAIM`, without the number of entries that the group has read: its own replicas show another one too.
pub fn difference_of_follower(ours: u16, theirs: u16, left_out: &[&str]) -> Option<String> {
    difference_of(Kind::Redis, (ours, theirs), left_out, without_reads)
}

/// Removes from a reply to `XINFO` the number of entries that a group has read, and the lag that follows from it.
fn without_reads(reply: &Reply) -> Reply {
    let Reply::Many(kind, Some(items)) = reply else { return reply.clone() };
    let (mut kept, mut items) = (Vec::new(), items.iter());
    while let Some(item) = items.next() {
        match item.bytes() {
            Some(b"entries-read" | b"lag") => _ = items.next(),
            _ => kept.push(without_reads(item)),
        }
    }
    Reply::Many(*kind, Some(kept))
}

/// `seen`: what is compared of a reply to `XINFO`.
fn difference_of(
    kind: Kind,
    (ours, theirs): (u16, u16),
    left_out: &[&str],
    seen: fn(&Reply) -> Reply,
) -> Option<String> {
    let (mut ours, mut theirs) = (Connection::open(ours), Connection::open(theirs));
    let mut compared = 0;
    for index in 0..INDEXES {
        for connection in [&mut ours, &mut theirs] {
            connection.run(&format!("SELECT {index}"));
        }
        let (mut here, mut there) = (keys(&mut ours), keys(&mut theirs));
        for keys in [&mut here, &mut there] {
            keys.retain(|key| !left_out.iter().any(|name| key == name.as_bytes()));
            keys.sort();
        }
        if here != there {
            let missing: Vec<_> = there.iter().filter(|key| here.binary_search(key).is_err()).collect();
            let extra: Vec<_> = here.iter().filter(|key| there.binary_search(key).is_err()).collect();
            let name =
                |keys: &[&Vec<u8>]| keys.iter().take(20).map(|key| key.escape_ascii().to_string()).collect::<Vec<_>>();
            // KEYS may be wrong too.
            let found =
                missing.iter().filter(|key| ours.call(&[b"EXISTS", key.as_slice()]).number() == Some(1.0)).count();
            let ttls: Vec<_> = missing.iter().map(|key| theirs.call(&[b"PTTL", key.as_slice()]).number()).collect();
            return Some(format!(
                "index {index}: missing {:?} (TTLs {ttls:?}), of which {found} are there by name, too many {:?}",
                name(&missing),
                name(&extra)
            ));
        }
        for key in here {
            for words in questions(&mut theirs, &key) {
                let (mut a, mut b) = (ours.call(&words), theirs.call(&words));
                if words[0] == b"XINFO" {
                    (a, b) = (seen(&a), seen(&b));
                }
                if !compare::agree(kind, &words, &a, &b, compare::APART) || words[0] == b"PEXPIRETIME" && a != b {
                    let words = words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>();
                    return Some(format!("index {index}, {words:?}: {a:?}, but the other server has {b:?}"));
                }
                compared += 1;
            }
        }
    }
    (compared == 0).then(|| "nothing was there to compare".to_string())
}

/// Writes a mark at `source` and waits until `follower` has it, and so everything that the source has sent before.
pub fn catch_up(source: u16, follower: u16, limit: Duration) -> bool {
    // A mark never comes twice: the follower may still have an earlier one that the source has lost to FLUSHALL.
    let mark = fastrand::u64(..).to_string();
    let written = Connection::open(source).run(&format!("SET caught-up {mark}"));
    assert!(!written.is_error(), "the source takes no write");
    let has_mark = || (Connection::open(follower).run("GET caught-up").text() == Some(&mark)).then_some(());
    wait_for(limit, has_mark).is_some()
}

/// Waits until the server holds no key that expires within `soon_ms`. Only SCAN finds expired keys: it deletes them and
/// tells replicas so. KEYS passes over them.
pub fn let_expire(port: u16, soon_ms: f64, limit: Duration) -> Result<(), String> {
    let mut source = Connection::open(port);
    for index in 0..INDEXES {
        source.run(&format!("SELECT {index}"));
        let gone = wait_for(limit, || {
            let keys = scanned(&mut source);
            let soon = keys.iter().any(|key| {
                source.call(&[b"PTTL", key.as_slice()]).number().is_some_and(|ms| (0.0..soon_ms).contains(&ms))
            });
            (!soon).then_some(())
        });
        gone.ok_or_else(|| format!("keys of index {index} do not expire"))?;
        // A key may expire between SCAN and PTTL, and PTTL finds that.
        scanned(&mut source);
    }
    Ok(())
}

/// All keys of the selected index.
pub fn keys(connection: &mut Connection) -> Vec<Vec<u8>> {
    let reply = connection.run("KEYS *");
    reply.items().expect("KEYS answers a list").iter().filter_map(Reply::bytes).map(<[u8]>::to_vec).collect()
}

fn scanned(connection: &mut Connection) -> Vec<Vec<u8>> {
    let (mut keys, mut cursor) = (Vec::new(), b"0".to_vec());
    loop {
        let page = connection.call(&[b"SCAN", cursor.as_slice(), b"COUNT", b"500"]);
        let [next, found] = page.items().expect("SCAN answers a page") else { panic!("a page has two parts") };
        keys.extend(found.items().unwrap_or_default().iter().filter_map(Reply::bytes).map(<[u8]>::to_vec));
        cursor = next.bytes().expect("a cursor").to_vec();
        if cursor == b"0" {
            return keys;
        }
    }
}

/// Returns commands that reveal everything about a key.
fn questions(connection: &mut Connection, key: &[u8]) -> Vec<Words> {
    let kind = connection.call(&[b"TYPE", key]);
    let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Words>();
    let contents = match kind.bytes() {
        Some(b"string") => words(&[b"GET", key]),
        Some(b"hash") => words(&[b"HGETALL", key]),
        Some(b"list") => words(&[b"LRANGE", key, b"0", b"-1"]),
        Some(b"set") => words(&[b"SMEMBERS", key]),
        Some(b"zset") => words(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"]),
        Some(b"stream") => words(&[b"XRANGE", key, b"-", b"+"]),
        Some(b"array") => words(&[b"ARSCAN", key, b"0", b"18446744073709551614"]),
        _ => words(&[b"EXISTS", key]),
    };
    let mut questions = vec![words(&[b"TYPE", key]), contents, words(&[b"PEXPIRETIME", key])];
    if kind.bytes() == Some(b"stream") {
        questions.push(words(&[b"XINFO", b"STREAM", key, b"FULL", b"COUNT", b"0"]));
    }
    if kind.bytes() == Some(b"hash") {
        questions.extend(expiries(connection, key));
    }
    questions
}

/// Returns the question for the expiries of a hash's fields, if the server knows any.
fn expiries(connection: &mut Connection, key: &[u8]) -> Option<Words> {
    let reply = connection.call(&[b"HKEYS", key]);
    let fields: Words = reply.items()?.iter().filter_map(Reply::bytes).map(<[u8]>::to_vec).collect();
    let count = fields.len().to_string().into_bytes();
    let head = [b"HPEXPIRETIME".to_vec(), key.to_vec(), b"FIELDS".to_vec(), count];
    let question: Words = head.into_iter().chain(fields).collect();
    (!connection.call(&question).is_error()).then_some(question)
}
