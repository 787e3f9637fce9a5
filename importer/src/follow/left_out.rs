//! Keys that the copy has left out. Later writes to them are left out too: the first such write would recreate the key
//! with only a part of its value.
//!
//! A key is left out until the source deletes it, replaces its value, or flushes its index. Renamed or copied, it takes
//! its mark along. A hash that the source empties field by field keeps its mark, since the stream does not say that it
//! is gone. The marks live as long as the importer's process. The reader's run ahead of the target;
//! [`brought`](super::brought) keeps those that stand for what the target holds.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::wire::request;

/// Limit of remembered keys, in bytes. Writes to keys beyond it are passed on.
const BYTES_MAX: usize = 64 << 20;
/// Overhead per key, in bytes.
const KEY_OVERHEAD: usize = 64;

/// Commands that replace the value of their first key.
const REPLACES: &[&str] = &[
    "SET",
    "SETEX",
    "PSETEX",
    "GETSET",
    "RESTORE",
    "SUNIONSTORE",
    "SINTERSTORE",
    "SDIFFSTORE",
    "ZUNIONSTORE",
    "ZINTERSTORE",
    "ZDIFFSTORE",
    "ZRANGESTORE",
    "GEOSEARCHSTORE",
];

/// The left-out keys of each index.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    by_index: BTreeMap<u64, HashSet<Arc<[u8]>>>,
    bytes: usize,
}

/// One step of the marks. It shares its keys with the marks that it was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkChange {
    Add(u64, Arc<[u8]>),
    Remove(u64, Arc<[u8]>),
    Swap(u64, u64),
    Clear(u64),
    ClearAll,
}

/// The marks, and the changes since they were last taken.
#[derive(Debug, Default)]
pub struct LeftOut {
    marks: Marks,
    changes: Vec<MarkChange>,
}

/// The treatment of a command of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// The command concerns a left-out key.
    LeaveOut,
    /// The same, and this request replaces the command.
    Instead(Vec<u8>),
}

impl Marks {
    pub fn has(&self, index: u64, key: &[u8]) -> bool {
        self.by_index.get(&index).is_some_and(|keys| keys.contains(key))
    }

    fn is_empty(&self) -> bool {
        self.by_index.is_empty()
    }

    /// Makes a change. Returns whether anything changed.
    pub fn apply(&mut self, change: &MarkChange) -> bool {
        match change {
            MarkChange::Add(index, key) => {
                let bytes = key.len() + KEY_OVERHEAD;
                let added =
                    self.bytes + bytes <= BYTES_MAX && self.by_index.entry(*index).or_default().insert(Arc::clone(key));
                if added {
                    self.bytes += bytes;
                }
                added
            }
            MarkChange::Remove(index, key) => {
                let Some(keys) = self.by_index.get_mut(index) else { return false };
                let removed = keys.remove(key);
                if removed {
                    self.bytes -= key.len() + KEY_OVERHEAD;
                }
                if keys.is_empty() {
                    self.by_index.remove(index);
                }
                removed
            }
            MarkChange::Swap(a, b) => {
                let (of_a, of_b) = (self.by_index.remove(a), self.by_index.remove(b));
                let any = of_a.is_some() || of_b.is_some();
                self.by_index.extend(of_a.map(|keys| (*b, keys)));
                self.by_index.extend(of_b.map(|keys| (*a, keys)));
                any
            }
            MarkChange::Clear(index) => {
                let Some(keys) = self.by_index.remove(index) else { return false };
                self.bytes -= keys.iter().map(|key| key.len() + KEY_OVERHEAD).sum::<usize>();
                true
            }
            MarkChange::ClearAll => !std::mem::take(self).is_empty(),
        }
    }
}

impl LeftOut {
    /// Continues from these marks.
    pub fn from(marks: Marks) -> Self {
        Self { marks, changes: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Returns the changes since the last call.
    pub fn take_changes(&mut self) -> Vec<MarkChange> {
        std::mem::take(&mut self.changes)
    }

    pub fn add(&mut self, index: u64, key: &[u8]) {
        self.change(MarkChange::Add(index, key.into()));
    }

    /// Judges the command whose name in capitals is `name`, and follows what it does to keys that were left out.
    pub fn judge(&mut self, name: &str, words: &[&[u8]], index: u64) -> Verdict {
        let Some(first) = words.get(1) else {
            match name {
                "FLUSHALL" => _ = self.change(MarkChange::ClearAll),
                "FLUSHDB" => _ = self.change(MarkChange::Clear(index)),
                _ => {}
            }
            return Verdict::Pass;
        };
        match (name, words) {
            // FLUSHALL or FLUSHDB with an option, such as ASYNC.
            ("FLUSHALL", _) => _ = self.change(MarkChange::ClearAll),
            ("FLUSHDB", _) => _ = self.change(MarkChange::Clear(index)),
            ("DEL" | "UNLINK", _) => words[1..].iter().for_each(|key| _ = self.remove(index, key)),
            ("MSET" | "MSETNX", _) => words[1..].iter().step_by(2).for_each(|key| _ = self.remove(index, key)),
            ("MSETEX", [_, count, pairs @ ..]) => {
                let keys = number(count).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
                pairs.iter().step_by(2).take(keys).for_each(|key| _ = self.remove(index, key));
            }
            ("SWAPDB", [_, a, b, ..]) => {
                if let (Some(a), Some(b)) = (number(a), number(b)) {
                    self.change(MarkChange::Swap(a, b));
                }
            }
            ("RENAME" | "RENAMENX", [_, from, to, ..]) => {
                let moves = self.remove(index, from);
                self.remove(index, to);
                if moves {
                    self.add(index, to);
                    return instead_of(to);
                }
            }
            ("COPY", [_, from, to, options @ ..]) => {
                let db = options.iter().position(|word| word.eq_ignore_ascii_case(b"DB"));
                let elsewhere = db.and_then(|at| number(options.get(at + 1)?));
                let target = elsewhere.unwrap_or(index);
                self.remove(target, to);
                if self.has(index, from) {
                    self.add(target, to);
                    return if target == index { instead_of(to) } else { Verdict::LeaveOut };
                }
            }
            ("MOVE", [_, key, to, ..]) if self.remove(index, key) => {
                if let Some(to) = number(to) {
                    self.add(to, key);
                }
                return Verdict::LeaveOut;
            }
            ("BITOP", [_, _, key, ..]) => _ = self.remove(index, key),
            ("SORT" | "GEORADIUS" | "GEORADIUSBYMEMBER", _) => {
                let stores =
                    |word: &&[u8]| word.eq_ignore_ascii_case(b"STORE") || word.eq_ignore_ascii_case(b"STOREDIST");
                let last = words.iter().rposition(stores);
                if let Some(key) = last.and_then(|at| words.get(at + 1)) {
                    self.remove(index, key);
                }
            }
            _ if REPLACES.contains(&name) => _ = self.remove(index, first),
            _ if self.has(index, first) => return Verdict::LeaveOut,
            _ => {}
        }
        Verdict::Pass
    }

    fn has(&self, index: u64, key: &[u8]) -> bool {
        self.marks.has(index, key)
    }

    fn remove(&mut self, index: u64, key: &[u8]) -> bool {
        self.has(index, key) && self.change(MarkChange::Remove(index, key.into()))
    }

    fn change(&mut self, change: MarkChange) -> bool {
        let changed = self.marks.apply(&change);
        if changed {
            self.changes.push(change);
        }
        changed
    }
}

/// Deletes the key `to`: the source no longer has its old value.
fn instead_of(to: &[u8]) -> Verdict {
    let mut bytes = Vec::new();
    request(&mut bytes, &[b"DEL", to]);
    Verdict::Instead(bytes)
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(left_out: &mut LeftOut, line: &str) -> Verdict {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        left_out.judge(&String::from_utf8_lossy(words[0]), &words, 0)
    }

    #[test]
    fn writes_to_a_key_are_left_out_until_it_is_replaced() {
        for (line, passes_after) in [
            ("DEL other h", true),
            ("UNLINK h", true),
            ("SET h v PXAT 5", true),
            ("RESTORE h 0 x REPLACE", true),
            ("MSET a h h v", true),
            ("MSET a h", false),
            ("SUNIONSTORE h a b", true),
            ("SUNIONSTORE a h b", false),
            ("BITOP AND h a", true),
            ("SORT l STORE h", true),
            ("RENAME other h", true),
            ("COPY other h REPLACE", true),
            ("COPY other h DB 3 REPLACE", false),
            ("FLUSHDB", true),
            ("MSETEX 2 other v h v", true),
            ("MSETEX 1 other h", false),
            ("MSETEX 1 other v KEEPTTL h", false),
            ("FLUSHALL ASYNC", true),
            ("SWAPDB 0 1", true),
            ("SWAPDB 1 2", false),
        ] {
            let mut left_out = LeftOut::default();
            left_out.add(0, b"h");
            assert_eq!(judge(&mut left_out, "HSET h f v"), Verdict::LeaveOut);
            assert_eq!(judge(&mut left_out, "PEXPIREAT h 5"), Verdict::LeaveOut);
            assert_eq!(judge(&mut left_out, "HSET other f v"), Verdict::Pass);
            assert_eq!(judge(&mut left_out, line), Verdict::Pass, "{line}");
            let expected = if passes_after { Verdict::Pass } else { Verdict::LeaveOut };
            assert_eq!(judge(&mut left_out, "HSET h f v"), expected, "after {line}");
        }
    }

    #[test]
    fn marks_go_along_with_their_keys() {
        let mut left_out = LeftOut::default();
        left_out.add(0, b"a");
        let gone = Verdict::Instead(b"*2\r\n$3\r\nDEL\r\n$1\r\nb\r\n".to_vec());
        assert_eq!(judge(&mut left_out, "RENAME a b"), gone);
        assert_eq!(judge(&mut left_out, "HSET a f v"), Verdict::Pass);
        assert_eq!(judge(&mut left_out, "HSET b f v"), Verdict::LeaveOut);
        assert_eq!(judge(&mut left_out, "COPY b c DB 2"), Verdict::LeaveOut);
        assert_eq!(judge(&mut left_out, "MOVE b 1"), Verdict::LeaveOut);
        assert_eq!(judge(&mut left_out, "SWAPDB 1 0"), Verdict::Pass);
        assert_eq!(judge(&mut left_out, "HDEL b f"), Verdict::LeaveOut);
        assert_eq!(left_out.judge("HSET", &[b"HSET", b"c", b"f", b"v"], 2), Verdict::LeaveOut);
        assert_eq!(judge(&mut left_out, "FLUSHALL"), Verdict::Pass);
        assert!(left_out.is_empty() && left_out.marks.bytes == 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut left_out = LeftOut::default();
        let long = vec![b'x'; BYTES_MAX / 2];
        left_out.add(0, &long);
        left_out.add(1, &long);
        assert!(left_out.marks.bytes <= BYTES_MAX);
        assert_eq!(judge(&mut left_out, "FLUSHDB"), Verdict::Pass);
        assert_eq!((left_out.marks.bytes, left_out.is_empty()), (0, true));
    }

    /// The same changes, applied elsewhere, lead to the same marks, whatever a stream holds and however it is cut into
    /// units.
    #[test]
    fn changes_lead_to_the_same_marks_elsewhere() {
        let mut state = 7u64;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % limit
        };
        for _ in 0..200 {
            let (mut ahead, mut behind) = (LeftOut::default(), Marks::default());
            for _ in 0..100 {
                let (a, b, index) = (["a", "b", "c"][below(3)], ["a", "b", "d"][below(3)], below(3));
                let line = match below(12) {
                    0..4 => {
                        ahead.add(index as u64, a.as_bytes());
                        continue;
                    }
                    4 => format!("RENAME {a} {b}"),
                    5 => format!("COPY {a} {b} DB {}", below(3)),
                    6 => format!("MOVE {a} {}", below(3)),
                    7 => format!("SWAPDB {} {}", below(3), below(3)),
                    8 => format!("DEL {a} {b}"),
                    9 => format!("SET {a} v"),
                    10 => "FLUSHDB".to_owned(),
                    _ if below(5) == 0 => "FLUSHALL".to_owned(),
                    _ => format!("HSET {a} f v"),
                };
                let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
                ahead.judge(line.split(' ').next().unwrap(), &words, index as u64);
                if below(3) == 0 {
                    ahead.take_changes().iter().for_each(|change| assert!(behind.apply(change), "{change:?}"));
                    assert_eq!((&behind.by_index, behind.bytes), (&ahead.marks.by_index, ahead.marks.bytes));
                }
            }
        }
    }
}
