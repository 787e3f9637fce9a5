//! The payload of `FUNCTION DUMP`: libraries as an RDB holds them, with a version and a checksum as in
//! [`dump`](super::dump).
//!
//! ```text
//! +-----+------------------+-----+--------------------+------------------------------+
//! | 245 | text of a library| ... | RDB version u16 LE | CRC-64 of all before, u64 LE |
//! +-----+------------------+-----+--------------------+------------------------------+
//! ```

use super::dump::body_of;
use super::string::{read_string, write_plain_string};
use super::{Reader, checksum};

/// The byte before a library, here and in an RDB.
pub const LIBRARY: u8 = 245;

/// The payload of libraries with these texts. `version`: of RDB; a server refuses those newer than its own.
pub fn dump_functions<'t>(version: u16, texts: impl Iterator<Item = &'t [u8]>) -> Vec<u8> {
    let mut payload = Vec::new();
    for text in texts {
        payload.push(LIBRARY);
        write_plain_string(&mut payload, text);
    }
    payload.extend_from_slice(&version.to_le_bytes());
    let sum = checksum(&payload);
    payload.extend_from_slice(&sum.to_le_bytes());
    payload
}

/// The texts of the libraries in a payload; `None` if it is malformed.
pub fn read_functions(payload: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut reader = Reader::new(body_of(payload)?);
    let mut texts = Vec::new();
    while reader.remaining() > 0 {
        if reader.u8().ok()? != LIBRARY {
            return None;
        }
        texts.push(read_string(&mut reader).ok()?.into_vec());
    }
    Some(texts)
}
