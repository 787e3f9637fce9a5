//! What `DUMP` answers and `RESTORE` takes: a value that carries its own version and checksum.
//!
//! ```text
//! +------+-------+--------------------+------------------------------+
//! | type | value | RDB version u16 LE | CRC-64 of all before, u64 LE |
//! +------+-------+--------------------+------------------------------+
//! ```

use super::{
    CodecError, Reader, checksum,
    value::{Loaded, decode_value, encode_value},
};
use crate::{record::Value, types::Limits};

/// Redis 7.2's, which is what we write.
pub const RDB_VERSION: u16 = 11;
/// Redis 8's.
const RDB_VERSION_MAX: u16 = 12;
/// Valkey 9's.
const VALKEY_VERSION: u16 = 80;

/// Why a payload was not restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Redis answers `DUMP payload version or checksum are wrong`.
    #[error("payload version or checksum are wrong")]
    Envelope,
    /// Redis answers `Bad data format`.
    #[error(transparent)]
    Value(#[from] CodecError),
}

pub fn dump(value: &Value<'_>) -> Vec<u8> {
    let mut payload = vec![0];
    payload[0] = encode_value(value, &mut payload);
    payload.extend_from_slice(&RDB_VERSION.to_le_bytes());
    payload.extend_from_slice(&checksum(&payload).to_le_bytes());
    payload
}

pub fn restore<'a>(payload: &'a [u8], limits: &Limits) -> Result<Loaded<'a>, RestoreError> {
    let (rest, sum) = payload.split_last_chunk::<8>().ok_or(RestoreError::Envelope)?;
    let (body, version) = rest.split_last_chunk::<2>().ok_or(RestoreError::Envelope)?;
    let version = u16::from_le_bytes(*version);
    if version > RDB_VERSION_MAX && version != VALKEY_VERSION || checksum(rest) != u64::from_le_bytes(*sum) {
        return Err(RestoreError::Envelope);
    }
    let mut reader = Reader::new(body);
    let kind = reader.u8()?;
    let value = decode_value(kind, &mut reader, limits)?;
    reader.finish()?;
    Ok(value)
}
