//! Usage by key prefix: which part of an application sends the requests of a database, while someone asks.
//!
//! A count is begun for a bounded time. Until it ends, each request is also counted under the prefix of its first key: what
//! stands before its first `:`, or before the second or third if that is asked for. Otherwise a request costs nothing more:
//! a count shares the flag that [monitors](crate::monitors) have.
//!
//! There are at most [`PREFIXES_MAX`] prefixes, of at most [`PREFIX_BYTES_MAX`] bytes. What comes after is counted together.

use std::collections::HashMap;

use dormouse_protocol::Request;
use dormouse_shard::commands::{Flags, Row};

use crate::peer::Peer;

/// Longest time of a count.
pub const COUNT_MS_MAX: u64 = 600_000;
/// Most parts of a key that make its prefix.
pub const DEPTH_MAX: u64 = 4;
const PREFIXES_MAX: usize = 256;
const PREFIX_BYTES_MAX: usize = 64;
/// Bytes of a key in which its prefix is looked for.
const LOOKED_AT_MAX: usize = 4096;
const COMMAND_BYTES_MAX: usize = 32;

/// A count of the requests of one database.
#[derive(Clone, Debug, Default)]
pub struct PrefixCounts {
    depth: usize,
    pub began_ms: u64,
    pub until_ms: u64,
    pub requests: u64,
    /// Those that name no key.
    pub without_key: u64,
    /// Those whose prefix found no room.
    pub others: u64,
    prefixes: HashMap<Box<[u8]>, PrefixUse>,
}

/// The requests with keys of one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixUse {
    pub requests: u64,
    /// Those of commands that write.
    pub writes: u64,
    /// The last command, and the address of its client.
    pub command: String,
    pub client: String,
    client_id: u64,
}

impl PrefixCounts {
    /// Begins a count. `depth`: parts of a key that make its prefix.
    pub fn new(now_ms: u64, length_ms: u64, depth: u64) -> Self {
        let until_ms = now_ms.saturating_add(length_ms.min(COUNT_MS_MAX));
        let depth = depth.clamp(1, DEPTH_MAX) as usize;
        Self { depth, began_ms: now_ms, until_ms, ..Self::default() }
    }

    /// Whether it goes on at this moment, which may be that of a batch that has begun before it. If the clock was set back,
    /// it has ended.
    pub fn is_on(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms && now_ms.saturating_add(COUNT_MS_MAX) > self.began_ms
    }

    /// Counts a request of a client.
    pub fn count(&mut self, row: &Row, request: Request<'_>, (client_id, peer): (u64, &Peer)) {
        self.requests += 1;
        let Some(key) = row.key_indexes(request).next().and_then(|at| request.get(at)) else {
            self.without_key += 1;
            return;
        };
        let prefix = prefix_of(key, self.depth);
        let is_full = self.prefixes.len() >= PREFIXES_MAX;
        let place = match self.prefixes.get_mut(prefix) {
            Some(place) => place,
            None if is_full => {
                self.others += 1;
                return;
            }
            None => self.prefixes.entry(prefix.into()).or_default(),
        };
        place.requests += 1;
        place.writes += u64::from(row.flags.contains(Flags::WRITE));
        let command = request.arg(0);
        let command = &command[..command.len().min(COMMAND_BYTES_MAX)];
        if !place.command.as_bytes().eq_ignore_ascii_case(command) {
            place.command = String::from_utf8_lossy(command).to_ascii_lowercase();
        }
        if place.client_id != client_id {
            place.client_id = client_id;
            place.client = peer.to_string();
        }
    }

    /// The prefixes, the most frequent first.
    pub fn sorted(&self) -> Vec<(&[u8], &PrefixUse)> {
        let mut sorted: Vec<_> = self.prefixes.iter().map(|(prefix, uses)| (&**prefix, uses)).collect();
        sorted.sort_by(|(a, x), (b, y)| y.requests.cmp(&x.requests).then_with(|| a.cmp(b)));
        sorted
    }
}

/// The part of a key before its `depth`th `:`, which is part of it; nothing if it has fewer.
fn prefix_of(key: &[u8], depth: usize) -> &[u8] {
    let key = &key[..key.len().min(LOOKED_AT_MAX)];
    let end = key.iter().enumerate().filter(|(_, byte)| **byte == b':').nth(depth - 1).map_or(0, |(at, _)| at + 1);
    &key[..end.min(PREFIX_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::OwnedRequest;

    use super::*;
    use crate::commands::TABLE;

    fn count(counts: &mut PrefixCounts, client: u64, words: &[&[u8]]) {
        let peer = Peer::Unix(format!("/run/{client}").into());
        let row = TABLE.by_name(words[0]).unwrap().row;
        counts.count(row, OwnedRequest::from_args(words).as_request(), (client, &peer));
    }

    #[test]
    fn a_prefix_ends_with_a_colon() {
        for (key, depth, expected) in [
            ("user:1:name", 1, "user:"),
            ("user:1:name", 2, "user:1:"),
            ("user:1:name", 3, ""),
            (":x", 1, ":"),
            ("plain", 1, ""),
            ("", 1, ""),
        ] {
            assert_eq!(prefix_of(key.as_bytes(), depth), expected.as_bytes(), "{key}");
        }
        let long = [b"x".repeat(1000), b":".to_vec()].concat();
        assert_eq!(prefix_of(&long, 1).len(), PREFIX_BYTES_MAX);
        let longer = [b"x".repeat(LOOKED_AT_MAX), b":".to_vec()].concat();
        assert_eq!(prefix_of(&longer, 1), b"");
    }

    #[test]
    fn requests_are_counted_by_the_prefix_of_their_first_key() {
        let mut counts = PrefixCounts::new(1_000_000, 5000, 1);
        assert!(counts.is_on(999_999) && counts.is_on(1_004_999) && !counts.is_on(1_005_000) && !counts.is_on(1000));
        count(&mut counts, 1, &[b"SET", b"user:1", b"x"]);
        count(&mut counts, 2, &[b"mget", b"user:1", b"other:2"]);
        count(&mut counts, 2, &[b"XREAD", b"COUNT", b"1", b"STREAMS", b"bull:a", b"0"]);
        count(&mut counts, 2, &[b"GET", b"plain"]);
        count(&mut counts, 3, &[b"PING"]);
        count(&mut counts, 3, &[b"EVAL", b"return 1", b"0"]);
        let found: Vec<_> = counts
            .sorted()
            .into_iter()
            .map(|(prefix, uses)| (prefix, uses.requests, uses.writes, &*uses.command, &*uses.client))
            .collect();
        let expected = [
            (&b"user:"[..], 2, 1, "mget", "/run/2:0"),
            (b"", 1, 0, "get", "/run/2:0"),
            (b"bull:", 1, 0, "xread", "/run/2:0"),
        ];
        assert_eq!(found, expected);
        assert_eq!((counts.requests, counts.without_key, counts.others), (6, 2, 0));
    }

    #[test]
    fn prefixes_are_bounded() {
        let mut counts = PrefixCounts::new(0, u64::MAX, 9);
        assert_eq!((counts.until_ms, counts.depth), (COUNT_MS_MAX, DEPTH_MAX as usize));
        counts.depth = 1;
        for number in 0..PREFIXES_MAX + 10 {
            count(&mut counts, 1, &[b"GET", format!("{number}:x").as_bytes()]);
        }
        count(&mut counts, 1, &[b"GET", b"0:x"]);
        assert_eq!((counts.sorted().len(), counts.others), (PREFIXES_MAX, 10));
        assert_eq!(counts.sorted()[0].1.requests, 2);
    }
}
