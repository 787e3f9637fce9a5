//! Values from elsewhere, with an idle time or a frequency of their own.

use dormouse_storage::codec::value::LoadedValue;
use dormouse_types::record::Record;

use super::Keyspace;
use super::access::Uses;

/// The access clock has 24 bits: nothing can have been idle for longer.
const IDLE_MAX: u64 = 0xff_ffff;

impl Keyspace<'_> {
    /// Sets `key` to `value`, replacing any value. `used`: seconds since it was used, if that is not now, and the counter of
    /// its uses; that which the eviction policy does not keep is left out.
    pub fn restore(
        &mut self,
        key: &[u8],
        value: LoadedValue<'_>,
        expiry: Option<u64>,
        used: (Option<u64>, Option<u8>),
    ) {
        let record = match value {
            LoadedValue::Text(text) => text.with_bytes(|bytes| Record::new_raw(key, bytes, expiry)),
            LoadedValue::Object(object) => Record::new_object(key, object, expiry),
        };
        self.tell_new(key);
        self.put_record(key, record, false);
        let access = match (self.uses, used) {
            (Uses::Clock(clock) | Uses::Changes(clock), (Some(idle), _)) => {
                clock.wrapping_sub(idle.min(IDLE_MAX) as u32) & IDLE_MAX as u32
            }
            (Uses::Frequency(now), (_, Some(counter))) => now.access(counter),
            _ => return,
        };
        let (position, select) = (self.position(key), self.select);
        let index = self.shard(position).index_mut(select);
        if let Some(record) = index.and_then(|index| index.get_mut(position, key)) {
            record.set_access(access);
        }
    }
}
