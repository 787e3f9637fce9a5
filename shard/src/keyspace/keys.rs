//! Keys with values of any kind: looked for, deleted, moved, copied, and their expiry.

use dormouse_storage::effect;
use dormouse_types::Kind;
use dormouse_types::record::{Record, Value};

use super::access::Uses;
use super::changes::KeyEvent;
use super::recording::Recording;
use super::{Keyspace, kind_of};

/// The value and expiry of a key that was taken out.
#[derive(Debug)]
pub struct Taken {
    record: Record,
}

impl Taken {
    pub fn expiry(&self) -> Option<u64> {
        self.record.expiry()
    }
}

impl Keyspace<'_> {
    pub fn exists(&mut self, key: &[u8]) -> bool {
        self.read_record(key).is_some()
    }

    /// Whether a write would find `key` there: no read is counted.
    pub fn contains(&mut self, key: &[u8]) -> bool {
        let position = self.position(key);
        self.find(position, key).is_some()
    }

    pub fn kind(&mut self, key: &[u8]) -> Option<Kind> {
        self.read_record(key).map(kind_of)
    }

    /// The record itself.
    pub fn record_of(&mut self, key: &[u8]) -> Option<&Record> {
        self.read_record(key)
    }

    /// The same for commands that ask about the key rather than for its value: if there is none, that is no event.
    pub fn record_in_silence(&mut self, key: &[u8]) -> Option<&Record> {
        self.is_silent = true;
        self.read_record(key)
    }

    pub fn delete(&mut self, key: &[u8]) -> bool {
        self.take_out(key, Some(KeyEvent::DEL)).map(|taken| self.bury(Some(taken.record))).is_some()
    }

    /// Takes `key` out with its value and expiry.
    pub fn take(&mut self, key: &[u8]) -> Option<Taken> {
        self.take_out(key, self.event)
    }

    pub(super) fn take_out(&mut self, key: &[u8], event: Option<KeyEvent>) -> Option<Taken> {
        let (position, select, placement) = (self.position(key), self.select, self.shared.placement);
        let at = self.ready(position, key)?;
        let record = self.shards[at].index_mut(select)?.remove(position, key, true, &placement)?;
        self.changed(event, key);
        if self.recording == Recording::ByKey {
            self.record(key, |body| effect::delete(body, key));
        }
        Some(Taken { record })
    }

    /// Puts a taken (or copied) value under `key`, replacing any value there. Its expiry comes along. The caller has [told of
    /// the key](Self::tell_new): a key that is replaced like this counts as a new one.
    pub fn put_taken(&mut self, key: &[u8], taken: Taken) {
        let Taken { mut record } = taken;
        let expiry = record.expiry();
        let moved = match record.take_object() {
            Some(mut object) => {
                self.forget_moment(&mut object);
                Record::new_object(key, object, expiry)
            }
            None => match record.value() {
                Value::Int(n) => Record::new_raw(key, itoa::Buffer::new().format(n).as_bytes(), expiry),
                Value::Raw(bytes) => Record::new_string(key, bytes, record.origin(), expiry),
                Value::Object(_) => unreachable!("take_object answered None"),
            },
        };
        self.put_record(key, moved, false);
    }

    /// A copy of `key`'s value and expiry.
    pub fn copy_of(&mut self, key: &[u8]) -> Option<Taken> {
        let record = self.read_record(key)?;
        let expiry = record.expiry();
        let record = match record.value() {
            Value::Int(n) => Record::new_raw(key, itoa::Buffer::new().format(n).as_bytes(), expiry),
            Value::Raw(bytes) => Record::new_string(key, bytes, record.origin(), expiry),
            Value::Object(object) => Record::new_object(key, object.to_object(), expiry),
        };
        Some(Taken { record })
    }

    /// Unix milliseconds; `None`: no such key; `Some(None)`: it never expires.
    pub fn expiry(&mut self, key: &[u8]) -> Option<Option<u64>> {
        self.read_record(key).map(Record::expiry)
    }

    /// As [`Self::expiry`], for a write: no read is counted.
    pub fn expiry_unread(&mut self, key: &[u8]) -> Option<Option<u64>> {
        let position = self.position(key);
        self.find(position, key).map(|record| record.expiry())
    }

    /// Sets or removes the expiry. False: no such key, or no expiry to remove.
    pub fn set_expiry(&mut self, key: &[u8], expiry: Option<u64>) -> bool {
        let position = self.position(key);
        let (select, at, placement) = (self.select, self.ready(position, key), self.shared.placement);
        let uses = self.uses;
        let index = at.and_then(|at| self.shards[at].index_mut(select));
        let changed = index.and_then(|index| {
            index.update(position, key, &placement, |record| {
                let changed = record.expiry().is_some() || expiry.is_some();
                if changed {
                    record.set_expiry(expiry);
                    if let Uses::Changes(clock) = uses {
                        record.set_access(clock);
                    }
                }
                (changed, changed)
            })
        });
        if changed != Some(true) {
            return false;
        }
        self.changed(self.event, key);
        if self.recording == Recording::ByKey {
            self.record(key, |body| effect::expiry(body, key, expiry));
        }
        true
    }
}
