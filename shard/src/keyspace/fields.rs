//! Fields of hashes that expire.
//!
//! A field that has expired is hidden from every read ([`Live`](dormouse_types::Live)) but stays in its hash until it is
//! *reclaimed*: by a command that asks for it by name ([`Keyspace::reclaim`]), or by active expiry, which knows places,
//! indexes and shards with a stale field by their `soonest_field`, as it knows those with stale keys. Until then `HLEN`
//! counts it, and the key of a hash with no other field exists, as in Redis.
//!
//! Invariants:
//!
//! 1. Reclaiming is an effect in the log, as `HDEL` or as the deletion of the key. So a hash in memory and its replayed
//!    copy have the same fields, those that have expired included, and each command finds the same there.
//! 2. In a followed index nothing is reclaimed: its source says which fields go. Reads hide what has expired, writes
//!    find it.

use std::sync::atomic::Ordering;

use dormouse_storage::effect;
use dormouse_types::record::Record;
use dormouse_types::{Hash, ObjectMut};

use super::changes::KeyEvent;
use super::index::Index;
use super::notices::Noted;
use super::{Keyspace, Shared};

/// A hash that has lost fields by expiry.
#[derive(Debug)]
pub struct Lapsed {
    pub key: Box<[u8]>,
    pub fields: Vec<Box<[u8]>>,
    /// They were its last ones, so the key is gone.
    pub is_gone: bool,
}

impl Lapsed {
    pub(super) fn tell(&self, shared: &Shared, noted: &mut Noted, select: u8) {
        shared.changed(noted, Some(KeyEvent::HEXPIRED), select, &self.key);
        if shared.notices.wants_fields() {
            let fields = self.fields.iter().map(|field| &**field);
            shared.notices.name_fields(noted, (KeyEvent::HEXPIRED, select, &self.key), fields);
        }
        shared.tracking.dropped(&self.key);
        if self.is_gone {
            shared.dropped(noted, KeyEvent::DEL, select, &self.key);
        }
    }

    pub(super) fn write_effect(&self, body: &mut Vec<u8>) {
        if self.is_gone {
            effect::delete(body, &self.key);
            return;
        }
        let mut words: Vec<&[u8]> = vec![b"HDEL", &self.key];
        words.extend(self.fields.iter().map(|field| &**field));
        effect::command(body, words.into_iter());
    }
}

impl Keyspace<'_> {
    /// Removes those of `fields` that have expired from the hash under `key`. A command that asks for fields by name calls
    /// it before it looks at them.
    pub fn reclaim<'f>(&mut self, key: &[u8], fields: impl Iterator<Item = &'f [u8]>) {
        let is_stale = |index: &Index| index.expiring_hashes() > 0 && index.soonest_field() <= self.now_ms;
        if self.shards.iter().filter_map(|shard| shard.index(self.select)).any(is_stale) {
            self.reclaim_some(key, fields);
        }
    }

    fn reclaim_some<'f>(&mut self, key: &[u8], fields: impl Iterator<Item = &'f [u8]>) {
        let (position, select, now_ms) = (self.position(key), self.select, self.now_ms);
        let (records, placement) = (self.shared.journal.is_recording(), self.shared.placement);
        if self.is_followed() || !self.sees_expired && self.shared.is_still(now_ms) {
            return;
        }
        let at = self.shard_at(position);
        let Some(index) = self.shards[at].index_mut(select) else { return };
        if !index.may_have_stale_field(position, now_ms) {
            return;
        }
        let mut lapsed = Lapsed { key: key.into(), fields: Vec::new(), is_gone: false };
        let reclaimed = index.update(position, key, &placement, |record| {
            // A key that has expired goes as a whole.
            let is_stale = record.expiry().is_some_and(|expiry| expiry <= now_ms);
            let Some(hash) = hash_mut(record).filter(|_| !is_stale) else { return (false, ()) };
            for field in fields {
                let expiry = hash.entry(field).and_then(|(_, expiry)| expiry);
                if expiry.is_some_and(|expiry| expiry <= now_ms) && hash.remove(field) {
                    lapsed.fields.push(field.into());
                }
            }
            lapsed.is_gone = hash.is_empty();
            // The stored copy has the field hidden too, but a write of an earlier time would find it there.
            (records && !lapsed.fields.is_empty(), ())
        });
        if reclaimed.is_none() || lapsed.fields.is_empty() {
            return;
        }
        if lapsed.is_gone {
            let record = index.remove(position, key, records, &placement);
            self.bury(record);
        }
        self.shared.expired_fields.fetch_add(lapsed.fields.len() as u64, Ordering::Relaxed);
        lapsed.tell(self.shared, &mut self.noted, select);
        if records {
            self.record(key, |body| lapsed.write_effect(body));
        }
    }
}

/// The hash of a record, if it has one.
pub(super) fn hash_mut(record: &mut Record) -> Option<&mut Hash> {
    match record.object_mut()? {
        ObjectMut::Hash(hash) => Some(hash),
        _ => None,
    }
}
