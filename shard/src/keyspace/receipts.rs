//! Receipts: what requests with `ONCE` were answered, so that they need not be run again.
//!
//! A receipt is a record of the hidden index [`RECEIPTS`]. Its key is the one that the client has chosen, so its position follows
//! from that as a key's does, and it splits, sleeps, branches, survives crashes and expires as keys do. It is written under the
//! locks of the request, and its effect is an item of the entry with the request's own effects: a crash keeps both or neither.
//!
//! No command sees receipts, no flush or swap drops them, and they are never evicted. They count as memory of the database.
//!
//! The value of the record:
//!
//! ```text
//! +-------------+ 0
//! | kind        | u8: 2 or 3, the version of the reply's protocol; 0, the reply was too large
//! | fingerprint | u128 LE, of the request
//! +-------------+ 17
//! | reply       | as the client got it; if that was too large, its length instead, u64 LE
//! +-------------+
//! ```

use dormouse_storage::shown::{RECEIPTS, RECEIPTS_KEYSPACE};
use dormouse_storage::{effect, log};
use dormouse_types::ObjectRef;
use dormouse_types::record::{Record, Value};
use smallvec::SmallVec;

use super::{Fault, Keyspace};

/// A longer reply is not kept, only its length.
pub const REPLY_BYTES_MAX: usize = 1 << 20;

const SELECT: u8 = RECEIPTS as u8;
const HEAD_BYTES: usize = 17;

/// A receipt as it stands in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt<'a> {
    pub fingerprint: u128,
    pub reply: ReceiptReply<'a>,
}

/// The first reply to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptReply<'a> {
    /// In this version of the protocol, 2 or 3.
    Kept(u8, &'a [u8]),
    /// It had so many bytes.
    TooLarge(u64),
}

impl<'a> Receipt<'a> {
    /// The receipt of a request with this reply in this version of the protocol.
    pub fn new(fingerprint: u128, version: u8, reply: &'a [u8]) -> Self {
        let reply = match reply.len() {
            ..=REPLY_BYTES_MAX => ReceiptReply::Kept(version, reply),
            bytes => ReceiptReply::TooLarge(bytes as u64),
        };
        Self { fingerprint, reply }
    }

    fn encode(&self) -> SmallVec<[u8; 256]> {
        let mut value = SmallVec::new();
        let (kind, reply) = match &self.reply {
            ReceiptReply::Kept(version, reply) => (*version, *reply),
            ReceiptReply::TooLarge(bytes) => (0, &bytes.to_le_bytes()[..]),
        };
        value.push(kind);
        value.extend_from_slice(&self.fingerprint.to_le_bytes());
        value.extend_from_slice(reply);
        value
    }

    /// `None`: the bytes are no receipt.
    pub fn decode(value: &'a [u8]) -> Option<Self> {
        let (head, rest) = value.split_first_chunk::<HEAD_BYTES>()?;
        let (kind, fingerprint) = head.split_first()?;
        let reply = match kind {
            2 | 3 => ReceiptReply::Kept(*kind, rest),
            0 => ReceiptReply::TooLarge(u64::from_le_bytes(rest.try_into().ok()?)),
            _ => return None,
        };
        Some(Self { fingerprint: u128::from_le_bytes(fingerprint.try_into().ok()?), reply })
    }
}

impl Keyspace<'_> {
    /// The place of the receipt under `key`, if it must be loaded before anyone can say whether there is one.
    #[inline]
    pub fn missing_receipt(&self, key: &[u8]) -> Option<Fault> {
        self.missing_in(SELECT, self.position(key))
    }

    /// The value of the receipt under `key`, whose place must be in memory; `None` if there is none, or it has expired.
    pub fn receipt(&mut self, key: &[u8]) -> Option<&[u8]> {
        let (position, now_ms, placement) = (self.position(key), self.now_ms, self.shared.placement);
        let at = self.shard_at(position);
        let index = self.shards[at].index_mut(SELECT)?;
        if index.get(position, key)?.expiry().is_some_and(|expiry| expiry <= now_ms) {
            // The stored copy finds by itself that it has expired.
            let record = index.remove(position, key, false, &placement);
            self.bury(record);
            return None;
        }
        match self.shards[at].index(SELECT)?.get(position, key)?.value() {
            Value::Raw(bytes) => Some(bytes),
            Value::Object(ObjectRef::Text(bytes)) => Some(bytes),
            // It is none, and cannot be decoded as one.
            _ => Some(&[]),
        }
    }

    /// Keeps a receipt under `key`, which has none, and records it as an effect.
    pub fn keep_receipt(&mut self, key: &[u8], expires_ms: u64, receipt: &Receipt<'_>) {
        let (position, placement) = (self.position(key), self.shared.placement);
        let value = receipt.encode();
        if self.shared.journal.is_recording() {
            self.take_items();
            log::format::write_effect(&mut self.items, RECEIPTS_KEYSPACE, position, |body| {
                effect::text(body, key, Some(expires_ms), &value);
            });
        }
        self.count_change();
        let mut record = Record::new_raw(key, &value, Some(expires_ms));
        record.set_access(self.uses.first());
        self.shard(position).index_or_new(SELECT).insert(position, record, &placement);
    }

    /// Changes that were made under these locks so far.
    pub fn change_count(&self) -> u64 {
        self.change_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;
    use crate::keyspace::testing::TestLog;

    /// The bytes are on disk: this test is not to be changed.
    #[test]
    fn the_value_of_a_receipt_is_laid_out_as_documented() {
        let fingerprint = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;
        let print = "100f0e0d0c0b0a090807060504030201";
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (reply, bytes) in [
            (ReceiptReply::Kept(2, b":1\r\n"), format!("02{print}3a310d0a")),
            (ReceiptReply::Kept(3, b"_\r\n"), format!("03{print}5f0d0a")),
            (ReceiptReply::TooLarge(0x0a0b), format!("00{print}0b0a000000000000")),
        ] {
            let receipt = Receipt { fingerprint, reply };
            let encoded = receipt.encode();
            assert_eq!(hex(&encoded), bytes);
            assert_eq!(Receipt::decode(&encoded), Some(receipt));
        }
        for bytes in [&b""[..], &[2; HEAD_BYTES - 1], &[1; HEAD_BYTES], &[0; HEAD_BYTES + 7]] {
            assert_eq!(Receipt::decode(bytes), None);
        }
    }

    #[test]
    fn a_long_reply_is_not_kept() {
        let reply = vec![b'x'; REPLY_BYTES_MAX + 1];
        let of = |bytes: usize| Receipt::new(1, 2, &reply[..bytes]).reply;
        assert_eq!(of(REPLY_BYTES_MAX), ReceiptReply::Kept(2, &reply[1..]));
        assert_eq!(of(REPLY_BYTES_MAX + 1), ReceiptReply::TooLarge(REPLY_BYTES_MAX as u64 + 1));
    }

    #[test]
    fn receipts_are_kept_until_they_expire_and_leave_no_trace_elsewhere() {
        let mut bench = Bench::new();
        let log = TestLog::of(&mut bench.shared);
        let now_ms = bench.now_ms;
        let mut db = bench.keyspace();
        for at in 0..1000u64 {
            let key = format!("once:{at}");
            assert_eq!(db.receipt(key.as_bytes()), None);
            let receipt = Receipt::new(at.into(), 2, b"+OK\r\n");
            db.keep_receipt(key.as_bytes(), now_ms + 1 + at, &receipt);
            let kept = db.receipt(key.as_bytes()).and_then(Receipt::decode);
            assert_eq!(kept, Some(receipt));
        }
        drop(db);
        let effects = log.effects();
        assert_eq!(effects.len(), 1000);
        assert!(effects.iter().all(|effect| effect.keyspace == RECEIPTS_KEYSPACE && !effect.followed));
        for command in ["DBSIZE", "EXISTS once:1", "FLUSHALL", "SWAPDB 0 1"] {
            assert!(["0", "OK"].contains(&&*bench.run(command)), "{command}");
        }
        assert_eq!(bench.run("RANDOMKEY"), "nil");
        bench.now_ms += 400;
        assert_eq!(bench.keyspace().receipt(b"once:399"), None);
        assert!(bench.keyspace().receipt(b"once:400").is_some());
        // What is read is removed at once, the others by a sweep, which clients do not notice.
        let (shared, now_ms) = (&bench.shared, bench.now_ms);
        let swept = bench.contents.expire(shared, now_ms, usize::MAX);
        assert_eq!(swept.removed.len(), 399);
        assert_eq!(shared.expired.load(std::sync::atomic::Ordering::Relaxed), 0);
        assert_eq!(bench.contents.index(SELECT).map(|index| index.len()), Some(600));
    }
}
