//! The error replies of one database, counted by their first word, as `INFO errorstats` shows them.

use std::collections::BTreeMap;

use dormouse_shard::keyspace::scripts::ScriptTrace;
use parking_lot::Mutex;

/// Most counted words. Few are used, but a custom error of a script can have any.
const WORDS_MAX: usize = 128;

#[derive(Debug, Default)]
pub struct Errors {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    by_word: BTreeMap<Box<str>, u64>,
    total: u64,
}

impl Errors {
    /// Counts an encoded error reply: `-WRONGTYPE Operation ...`.
    pub fn count(&self, reply: &[u8]) {
        let text = reply.strip_prefix(b"-").unwrap_or(reply);
        let word = text.split(|byte| matches!(byte, b' ' | b'\r')).next().unwrap_or_default();
        let word = std::str::from_utf8(word).unwrap_or("ERR");
        self.add(word, 1);
    }

    /// Counts errors that begin with `word`.
    pub fn count_word(&self, word: &[u8], count: u64) {
        self.add(std::str::from_utf8(word).unwrap_or("ERR"), count);
    }

    fn add(&self, word: &str, more: u64) {
        let mut counts = self.counts.lock();
        counts.total += more;
        if let Some(count) = counts.by_word.get_mut(word) {
            *count += more;
        } else if counts.by_word.len() < WORDS_MAX {
            counts.by_word.insert(word.into(), more);
        }
    }

    pub fn total(&self) -> u64 {
        self.counts.lock().total
    }

    /// Counts in the order of the words.
    pub fn by_word(&self) -> Vec<(Box<str>, u64)> {
        self.counts.lock().by_word.iter().map(|(word, count)| (word.clone(), *count)).collect()
    }

    pub fn reset(&self) {
        *self.counts.lock() = Counts::default();
    }
}

/// Whether an error says that a command did not run at all, though it was well-formed and allowed. A script that passes such
/// an error on from one of its calls did run.
pub fn is_rejection(reply: &[u8], calls: Option<&ScriptTrace>) -> bool {
    reply.first() == Some(&b'-')
        && REJECTIONS.iter().any(|text| reply[1..].starts_with(text.as_bytes()))
        && !calls.is_some_and(|calls| calls.explains(reply))
}

const REJECTIONS: [&str; 3] = ["OOM command not allowed when used memory", "BUSY ", "MISCONF "];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_their_first_word() {
        let errors = Errors::default();
        for reply in ["-ERR syntax error\r\n", "-ERR no\r\n", "-WRONGTYPE x\r\n", "-ODD\r\n"] {
            errors.count(reply.as_bytes());
        }
        let counts = errors.by_word();
        let counts: Vec<(&str, u64)> = counts.iter().map(|(word, count)| (&**word, *count)).collect();
        assert_eq!(counts, [("ERR", 2), ("ODD", 1), ("WRONGTYPE", 1)]);
        for n in 0..1000 {
            errors.count(format!("-E{n} x\r\n").as_bytes());
        }
        assert_eq!((errors.by_word().len(), errors.total()), (WORDS_MAX, 1004));
        errors.reset();
        assert_eq!((errors.by_word().len(), errors.total()), (0, 0));
    }
}
