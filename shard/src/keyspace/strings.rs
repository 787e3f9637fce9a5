//! Strings in the keyspace: read, set, rewritten, changed in place.

use dormouse_storage::effect;
use dormouse_types::record::{Origin, RAW_MAX, Record, Value};
use dormouse_types::{Kind, Object, ObjectMut, ObjectRef};

use super::changes::KeyEvent;
use super::graveyard::Dead;
use super::text::{kind_of, text_of};
use super::{BURY_ABOVE, Change, Expiry, Keyspace, Text};
use crate::error::Result;

/// Longer strings than this are `raw`: they don't fit one allocation of Redis's with their header. The encoding of others
/// tells whether they were changed since they were set.
pub const EMBSTR_MAX: usize = 44;

/// The change of a string that a command has looked at.
#[derive(Debug)]
pub enum Rewrite<B> {
    Nothing,
    /// The key goes, if it exists.
    Delete,
    To(B, Expiry),
}

impl Keyspace<'_> {
    pub fn string(&mut self, key: &[u8]) -> Result<Option<Text<'_>>> {
        self.read_record(key).map(text_of).transpose()
    }

    /// Sets `key` to a string, replacing any value.
    pub fn set_string(&mut self, key: &[u8], value: &[u8], expires: Expiry) {
        self.put_string(key, value, expires);
        if let Expiry::At(_) = expires {
            self.tell(KeyEvent::EXPIRE, key);
        }
    }

    /// The same for a command that tells by itself that the key has an expiry.
    pub fn put_string(&mut self, key: &[u8], value: &[u8], expires: Expiry) {
        let position = self.position(key);
        let shared = self.shared;
        let (wants_overwrites, mut overwritten) = (shared.notices.wants_overwrites(), None);
        let set = self.update_record(position, key, |record| {
            if wants_overwrites {
                overwritten = Some(kind_of(record));
            }
            let expiry = expires.after(record.expiry());
            // The memory of a long text may serve again.
            let is_laid_down = match record.value() {
                Value::Object(ObjectRef::Text(_)) | Value::Int(_) | Value::Raw(_) => false,
                Value::Object(object) => object.heap_bytes() > BURY_ABOVE || shared.parked.wants(object),
            };
            let old = if is_laid_down { record.take_object() } else { None };
            record.set_raw(value, expiry);
            (true, (old, expiry))
        });
        match set {
            Some((old, expiry)) => {
                let dead = match old {
                    Some(old) if shared.parked.wants(old.as_ref()) => shared.park(Dead::Object(old)),
                    old => old.map(Dead::Object),
                };
                if let Some(dead) = dead {
                    self.lay_down(self.shard_at(position), dead);
                }
                if let Some(old) = overwritten {
                    self.tell_overwritten(old, Kind::String, key);
                }
                self.changed(self.event, key);
                if self.records_by_key() {
                    self.record(key, |body| effect::text(body, key, expiry, value));
                }
            }
            None => {
                self.add(position, Record::new_raw(key, value, expires.after(None)));
            }
        }
    }

    /// Replaces the string under `key` by the result of `change`, which is of `origin`; its expiry stays. One look-up:
    /// `INCR`.
    pub fn rewrite_string<B: AsRef<[u8]>, R>(
        &mut self,
        key: &[u8],
        origin: Origin,
        change: impl FnOnce(Option<Text<'_>>) -> Result<(B, R)>,
    ) -> Result<R> {
        self.rewrite_string_and_expiry(key, origin, |text, _| {
            change(text).map(|(bytes, result)| (Rewrite::To(bytes, Expiry::Keep), result))
        })
    }

    /// The same for a command that may change the expiry too, or leave the key as it is. `change` gets both.
    pub fn rewrite_string_and_expiry<B: AsRef<[u8]>, R>(
        &mut self,
        key: &[u8],
        origin: Origin,
        change: impl FnOnce(Option<Text<'_>>, Option<u64>) -> Result<(Rewrite<B>, R)>,
    ) -> Result<R> {
        let position = self.position(key);
        let mut change = Some(change);
        let mut once = move |text: Option<Text<'_>>, expiry: Option<u64>| {
            change.take().expect("the change is asked for once")(text, expiry)
        };
        let rewritten = self.update_record(position, key, |record| {
            let expiry = record.expiry();
            let outcome = text_of(record).and_then(|text| once(Some(text), expiry));
            let is_written = match &outcome {
                Ok((Rewrite::To(bytes, expires), _)) => {
                    record.set_string(bytes.as_ref(), origin, expires.after(expiry));
                    true
                }
                _ => false,
            };
            (is_written, outcome)
        });
        match rewritten {
            Some(outcome) => {
                let (rewrite, result) = outcome?;
                match rewrite {
                    Rewrite::To(..) => self.after_write(key),
                    Rewrite::Delete => _ = self.delete(key),
                    Rewrite::Nothing => {}
                }
                Ok(result)
            }
            None => {
                let (rewrite, result) = once(None, None)?;
                if let Rewrite::To(bytes, expires) = rewrite {
                    self.add(position, Record::new_string(key, bytes.as_ref(), origin, expires.after(None)));
                }
                Ok(result)
            }
        }
    }

    /// Changes the record of `key` in place, as [`Index::update`]; `None` if it does not exist.
    fn update_record<R>(
        &mut self,
        position: u64,
        key: &[u8],
        change: impl FnOnce(&mut Record) -> (bool, R),
    ) -> Option<R> {
        self.reads_objects(false);
        let (select, uses, placement) = (self.select, self.uses, self.shared.placement);
        let at = self.ready(position, key)?;
        let random = &mut self.random;
        self.shards[at].index_mut(select)?.update(position, key, &placement, |record| {
            let access = record.access();
            let (changed, result) = change(record);
            record.set_access(uses.written(access, changed, || random.u64(..)));
            (changed, result)
        })
    }

    /// Changes the bytes of a string of at least `len` where they are. `None`: nothing was done, because it is shorter, or
    /// so short that its form says whether it was changed; [`Self::update_string`] has to copy such a string.
    pub fn edit_string<R>(
        &mut self,
        key: &[u8],
        len: usize,
        change: impl FnOnce(&mut [u8]) -> Result<Change<R>>,
    ) -> Option<Result<R>> {
        let position = self.position(key);
        let len = len.max(EMBSTR_MAX + 1);
        let (select, uses) = (self.select, self.uses);
        let at = self.ready(position, key)?;
        let (random, mut has_object) = (&mut self.random, false);
        let updated = self.shards[at].index_mut(select)?.edit(position, key, |record| {
            let access = record.access();
            has_object = matches!(record.value(), Value::Object(_));
            let Some(bytes) = bytes_in_place(record).filter(|bytes| bytes.len() >= len) else { return (false, None) };
            let outcome = change(bytes).map(Change::split);
            let has_changed = matches!(outcome, Ok((true, _)));
            record.set_access(uses.written(access, has_changed, || random.u64(..)));
            match outcome {
                Ok((changed, result)) => (changed, Some(Ok((changed, result)))),
                Err(error) => (false, Some(Err(error))),
            }
        });
        self.reads_objects(has_object);
        Some(updated??.map(|(changed, result)| {
            if changed {
                self.after_write(key);
            }
            result
        }))
    }

    /// Changes the bytes of a string: `APPEND`, `SETRANGE`. Created when absent, of origin `made`; its expiry
    /// stays.
    pub fn update_string<R>(
        &mut self,
        key: &[u8],
        made: Origin,
        change: impl FnOnce(&mut Vec<u8>) -> Result<Change<R>>,
    ) -> Result<R> {
        let position = self.position(key);
        let mut change = Some(change);
        let mut once =
            move |bytes: &mut Vec<u8>| change.take().expect("the change is asked for once")(bytes).map(Change::split);
        let updated = self.update_record(position, key, |record| {
            let outcome = if let Some(ObjectMut::Text(bytes)) = record.object_mut() {
                once(bytes)
            } else {
                text_of(record).map(|text| text.to_vec()).and_then(|mut bytes| {
                    let outcome = once(&mut bytes);
                    if let Ok((true, _)) = &outcome {
                        let expiry = record.expiry();
                        // A long one is not copied: a bit far beyond the end makes half a gigabyte of zeros.
                        match bytes.len() > RAW_MAX {
                            true => record.set_object(Object::Text(bytes), expiry),
                            false => record.set_string(&bytes, Origin::Edited, expiry),
                        }
                    }
                    outcome
                })
            };
            (matches!(outcome, Ok((true, _))), outcome)
        });
        match updated {
            Some(outcome) => {
                let (changed, result) = outcome?;
                if changed {
                    self.after_write(key);
                }
                Ok(result)
            }
            None => {
                let mut bytes = Vec::new();
                let (changed, result) = once(&mut bytes)?;
                if changed {
                    let record = match bytes.len() > RAW_MAX {
                        true => Record::new_object(key, Object::Text(bytes), None),
                        false => Record::new_string(key, &bytes, made, None),
                    };
                    self.add(position, record);
                }
                Ok(result)
            }
        }
    }
}

/// The bytes of a string that has them as they are.
fn bytes_in_place(record: &mut Record) -> Option<&mut [u8]> {
    if matches!(record.value(), Value::Raw(_)) {
        return record.raw_mut();
    }
    match record.object_mut() {
        Some(ObjectMut::Text(bytes)) => Some(bytes),
        _ => None,
    }
}
