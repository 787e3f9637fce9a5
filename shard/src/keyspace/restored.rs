//! Values from elsewhere, with an idle time of their own.

use dormouse_storage::codec::value::LoadedValue;
use dormouse_types::record::Record;
use dormouse_types::record::access_clock;

use super::Keyspace;

/// The access clock has 24 bits: nothing can have been idle for longer.
const IDLE_MAX: u64 = 0xff_ffff;

impl Keyspace<'_> {
    /// Sets `key` to `value`, replacing any value. `idle_s`: seconds since it was used, if that is not now.
    pub fn restore(&mut self, key: &[u8], value: LoadedValue<'_>, expiry: Option<u64>, idle_s: Option<u64>) {
        let record = match value {
            LoadedValue::Text(text) => text.with_bytes(|bytes| Record::new_raw(key, bytes, expiry)),
            LoadedValue::Object(object) => Record::new_object(key, object, expiry),
        };
        self.replace(key, record);
        let Some(idle) = idle_s else { return };
        let (position, select) = (self.position(key), self.select);
        let clock = access_clock(self.now_ms).wrapping_sub(idle.min(IDLE_MAX) as u32) & IDLE_MAX as u32;
        let index = self.shard(position).index_mut(select);
        if let Some(record) = index.and_then(|index| index.get_mut(position, key)) {
            record.set_access(clock);
        }
    }
}
