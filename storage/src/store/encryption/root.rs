//! The object that holds the store's root key, wrapped by the master key.
//!
//! ```text
//! encryption/<number, 6 digits>:
//! | "DMROOT\n\n" | version u32 LE, 1 |
//! | length u32 LE | the root key, as the master key has wrapped it |
//! | length u32 LE | the contents, encrypted by a key that is derived from the root key:
//! |               |   mixed u8 | count varint | for each database that is not encrypted: length varint, name
//! | CRC-64 of all before, u64 LE |
//! ```
//!
//! The highest number counts. Only a change of the master key adds one, and deletes those before.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::keys::{CryptoFailure, DataKey, KeyBytes, unwrap, wrap};
use super::master::MasterKey;
use crate::codec::reader::write_varint;
use crate::codec::{CodecError, Reader, checksum};

const MAGIC: &[u8; 8] = b"DMROOT\n\n";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 8;
const CONTEXT: &str = "dormouse root contents";

/// The objects of a store that are not encrypted, because they are older than its encryption.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unencrypted {
    /// There were any: the directory, the ledger and the logs of then.
    pub is_mixed: bool,
    /// The databases that there were. Nothing in their folders is encrypted.
    pub databases: BTreeSet<String>,
}

/// Encodes the object.
///
/// # Errors
/// When the master key cannot wrap, or does not give back what it has wrapped: the store could never be opened again.
pub(super) fn encode(root: &KeyBytes, master: &MasterKey, unencrypted: &Unencrypted) -> Result<Vec<u8>, String> {
    let mut contents = vec![u8::from(unencrypted.is_mixed)];
    write_varint(&mut contents, unencrypted.databases.len() as u64);
    for name in &unencrypted.databases {
        write_varint(&mut contents, name.len() as u64);
        contents.extend_from_slice(name.as_bytes());
    }
    let sealed = DataKey::of(root).derive(&[CONTEXT.as_bytes()]).and_then(|key| wrap(&key, CONTEXT, &contents));
    let sealed = sealed.map_err(|CryptoFailure| "the system has no randomness".to_owned())?;
    let wrapped = master.wrap(root)?;
    if master.unwrap(&wrapped)? != *root {
        return Err("the command of the master key gives back another key than it was given".to_owned());
    }
    let mut object = MAGIC.to_vec();
    object.extend_from_slice(&VERSION.to_le_bytes());
    for part in [&wrapped, &sealed] {
        let length = u32::try_from(part.len()).map_err(|_| "the store has too many databases".to_owned())?;
        object.extend_from_slice(&length.to_le_bytes());
        object.extend_from_slice(part);
    }
    object.extend_from_slice(&checksum(&object).to_le_bytes());
    Ok(object)
}

/// Decodes the object.
///
/// # Errors
/// When it is damaged, or encrypted by another master key.
pub(super) fn decode(object: &[u8], master: &MasterKey) -> Result<(KeyBytes, Unencrypted), String> {
    let (wrapped, sealed) =
        parts(object).map_err(|error| format!("the object with its root key is damaged: {error}"))?;
    let root = master.unwrap(wrapped)?;
    let key = DataKey::of(&root).derive(&[CONTEXT.as_bytes()]);
    let contents: Option<Zeroizing<Vec<u8>>> = key.ok().and_then(|key| unwrap(&key, CONTEXT, sealed));
    // A command may answer anything.
    let contents = contents.ok_or("the master key unwraps another key than the store's")?;
    let unencrypted = decode_contents(&contents).map_err(|error| format!("its list of databases: {error}"))?;
    Ok((root, unencrypted))
}

fn parts(object: &[u8]) -> Result<(&[u8], &[u8]), CodecError> {
    let (checked, stored) =
        object.split_at_checked(object.len().wrapping_sub(CHECKSUM_BYTES)).ok_or(CodecError::Truncated)?;
    let mut reader = Reader::new(checked);
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(CodecError::Magic("root key"));
    }
    match reader.u32_le()? {
        VERSION => {}
        version => return Err(CodecError::Version { what: "root key", version }),
    }
    let (stored, computed) = (Reader::new(stored).u64_le()?, checksum(checked));
    if stored != computed {
        return Err(CodecError::Checksum { stored, computed });
    }
    let mut part = || {
        let length = reader.u32_le()? as usize;
        reader.take(length)
    };
    let parts = (part()?, part()?);
    reader.finish()?;
    Ok(parts)
}

fn decode_contents(contents: &[u8]) -> Result<Unencrypted, CodecError> {
    let mut reader = Reader::new(contents);
    let is_mixed = reader.take(1)? != [0];
    let count = reader.count(1)?;
    let mut databases = BTreeSet::new();
    for _ in 0..count {
        let length = reader.varint()?;
        let name = std::str::from_utf8(reader.take_u64(length)?).map_err(|_| CodecError::Malformed("database name"))?;
        databases.insert(name.to_owned());
    }
    reader.finish()?;
    Ok(Unencrypted { is_mixed, databases })
}

#[cfg(test)]
mod tests {
    use super::super::keys::new_key;
    use super::*;

    #[test]
    fn a_root_comes_back_and_damage_is_noticed() {
        let (root, master) = (new_key().unwrap(), MasterKey::of_bytes([1; 32]));
        let databases = BTreeSet::from(["default".to_owned(), "shop.test".to_owned()]);
        for unencrypted in [Unencrypted::default(), Unencrypted { is_mixed: true, databases }] {
            let object = encode(&root, &master, &unencrypted).unwrap();
            assert_eq!(decode(&object, &master), Ok((root.clone(), unencrypted)));
            for at in 0..object.len() {
                let mut damaged = object.clone();
                damaged[at] ^= 1;
                assert!(decode(&damaged, &master).is_err());
                assert!(decode(&object[..at], &master).is_err());
            }
            let error = decode(&object, &MasterKey::of_bytes([2; 32])).unwrap_err();
            assert!(error.contains("not the one"), "{error}");
        }
    }
}
