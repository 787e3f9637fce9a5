//! The record of one database: what a server knows of it while it sleeps.
//!
//! A record is kept in memory in its encoded form, which is small: about 75 bytes with one token.
//!
//! ```text
//! | flags    | u8: 1 expires, 2 owner, 4 unclaimed, 8 settings, 16 deleted, 32 triggers
//! | name     | bytes with their length, a varint
//! | created  | varint, unix milliseconds
//! | expires  | varint, unix milliseconds, if it expires
//! | owner    | bytes, of a branch of version 0.1.0
//! | deleted  | two varints, unix milliseconds: when, and until when it can be brought back, if it is deleted
//! | next     | varint, the id of the next token
//! | tokens   | varint, their number, then for each:
//! |   id     |   varint, ascending, below `next`
//! |   hash   |   32 bytes, SHA-256 of the secret
//! |   flags  |   u8: 1 read-only, 2 user, 4 expires, 8 prefix
//! |   created, expires | varints
//! |   user, prefix     | bytes
//! | settings | varint, their number, then names and values, ascending by name
//! ```

use std::collections::BTreeMap;

use crate::codec::reader::{write_bytes, write_varint};
use crate::codec::{CodecError, Reader};

/// Longest name of a database or branch.
pub const NAME_BYTES_MAX: usize = 63;
/// Most tokens of one database.
pub const TOKENS_MAX: usize = 64;
/// Longest key prefix of a token.
pub const TOKEN_PREFIX_BYTES_MAX: usize = 256;
/// Longest name of a token's user.
pub const TOKEN_USER_BYTES_MAX: usize = 256;
/// Most settings of one database, and the most bytes of a name or value.
pub const SETTINGS_MAX: usize = 32;
pub const SETTING_BYTES_MAX: usize = 256;

const EXPIRES: u8 = 1;
const OWNER: u8 = 2;
const UNCLAIMED: u8 = 4;
const SETTINGS: u8 = 8;
const DELETED: u8 = 16;
const TRIGGERS: u8 = 32;

const TOKEN_READ_ONLY: u8 = 1;
const TOKEN_USER: u8 = 2;
const TOKEN_EXPIRES: u8 = 4;
const TOKEN_PREFIX: u8 = 8;

/// One database, as the directory knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseRecord {
    /// With its owner in front if it is a branch.
    pub name: Box<str>,
    pub created_ms: u64,
    /// When to delete it.
    pub expires_ms: Option<u64>,
    /// The owner of a branch of version 0.1.0, which does not have it in its name.
    pub owner: Option<Box<str>>,
    /// Set while it is deleted and can be brought back.
    pub deleted: Option<Deletion>,
    /// Whether a stranger has made it, and no operator has claimed it yet.
    pub is_unclaimed: bool,
    /// Whether it may have triggers: then it is opened when a server starts.
    pub has_triggers: bool,
    /// Ids of tokens are never reused.
    pub next_token: u32,
    pub tokens: Vec<TokenRecord>,
    /// The operator's settings, by name. The server knows what they mean.
    pub settings: BTreeMap<Box<str>, Box<str>>,
}

/// A deletion that can be taken back, in unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    pub at_ms: u64,
    /// From then on it is deleted for good.
    pub until_ms: u64,
}

/// A token of a database. Its secret is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: u32,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    pub created_ms: u64,
    pub expires_ms: Option<u64>,
    pub scope: TokenScope,
    /// Only keys and channels that begin with it are permitted.
    pub prefix: Box<[u8]>,
}

/// The permissions of a token within its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenScope {
    ReadWrite,
    ReadOnly,
    /// Those of a user of the database.
    User(Box<str>),
}

impl DatabaseRecord {
    pub fn new(name: &str, created_ms: u64) -> Self {
        Self {
            name: name.into(),
            created_ms,
            expires_ms: None,
            owner: None,
            deleted: None,
            is_unclaimed: false,
            has_triggers: false,
            next_token: 1,
            tokens: Vec::new(),
            settings: BTreeMap::new(),
        }
    }

    pub fn token(&self, id: u32) -> Option<&TokenRecord> {
        self.tokens.iter().find(|token| token.id == id)
    }

    /// Returns the record's fault, if it has one. One that has none can be read again.
    ///
    /// # Errors
    /// The fault.
    pub fn check(&self) -> Result<(), &'static str> {
        let is_name = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_name_byte);
        if !is_name(&self.name) || !self.owner.as_deref().is_none_or(is_name) {
            return Err("name of a database");
        }
        if self.tokens.len() > TOKENS_MAX {
            return Err("number of tokens");
        }
        if !self.tokens.is_sorted_by(|a, b| a.id < b.id)
            || self.tokens.last().is_some_and(|last| last.id >= self.next_token)
        {
            return Err("ids of tokens");
        }
        let is_token = |token: &TokenRecord| {
            let is_user = match &token.scope {
                TokenScope::User(user) => (1..=TOKEN_USER_BYTES_MAX).contains(&user.len()),
                TokenScope::ReadWrite | TokenScope::ReadOnly => true,
            };
            is_user && token.prefix.len() <= TOKEN_PREFIX_BYTES_MAX
        };
        if !self.tokens.iter().all(is_token) {
            return Err("user or prefix of a token");
        }
        let fits =
            |name: &str, value: &str| (1..=SETTING_BYTES_MAX).contains(&name.len()) && value.len() <= SETTING_BYTES_MAX;
        if self.settings.len() > SETTINGS_MAX || !self.settings.iter().all(|(name, value)| fits(name, value)) {
            return Err("settings");
        }
        Ok(())
    }

    pub fn encode(&self) -> Box<[u8]> {
        let mut out = Vec::with_capacity(80);
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        out.push(
            flag(self.expires_ms.is_some(), EXPIRES)
                | flag(self.owner.is_some(), OWNER)
                | flag(self.is_unclaimed, UNCLAIMED)
                | flag(!self.settings.is_empty(), SETTINGS)
                | flag(self.deleted.is_some(), DELETED)
                | flag(self.has_triggers, TRIGGERS),
        );
        write_bytes(&mut out, self.name.as_bytes());
        write_varint(&mut out, self.created_ms);
        self.expires_ms.iter().for_each(|expires_ms| write_varint(&mut out, *expires_ms));
        self.owner.iter().for_each(|owner| write_bytes(&mut out, owner.as_bytes()));
        if let Some(Deletion { at_ms, until_ms }) = self.deleted {
            write_varint(&mut out, at_ms);
            write_varint(&mut out, until_ms);
        }
        write_varint(&mut out, self.next_token.into());
        write_varint(&mut out, self.tokens.len() as u64);
        self.tokens.iter().for_each(|token| token.encode(&mut out));
        if !self.settings.is_empty() {
            write_varint(&mut out, self.settings.len() as u64);
            for text in self.settings.iter().flat_map(|(name, value)| [name, value]) {
                write_bytes(&mut out, text.as_bytes());
            }
        }
        out.into()
    }

    /// # Errors
    /// When the bytes are no record that this build would have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let flags = reader.u8()?;
        if flags & !(EXPIRES | OWNER | UNCLAIMED | SETTINGS | DELETED | TRIGGERS) != 0 {
            return Err(CodecError::Malformed("flags of a database"));
        }
        let name = reader.text()?.into();
        let created_ms = reader.varint()?;
        let expires_ms = if flags & EXPIRES != 0 { Some(reader.varint()?) } else { None };
        let owner = if flags & OWNER != 0 { Some(reader.text()?.into()) } else { None };
        let deleted = match flags & DELETED {
            0 => None,
            _ => Some(Deletion { at_ms: reader.varint()?, until_ms: reader.varint()? }),
        };
        let next_token = reader.varint_u32()?;
        let count = reader.count(TokenRecord::BYTES_MIN)?;
        if count > TOKENS_MAX {
            return Err(CodecError::Malformed("number of tokens"));
        }
        let tokens = (0..count).map(|_| TokenRecord::decode(&mut reader)).collect::<Result<_, _>>()?;
        let settings = if flags & SETTINGS != 0 { read_settings(&mut reader)? } else { BTreeMap::new() };
        reader.finish()?;
        let is_unclaimed = flags & UNCLAIMED != 0;
        let record = Self {
            name,
            created_ms,
            expires_ms,
            owner,
            deleted,
            is_unclaimed,
            has_triggers: flags & TRIGGERS != 0,
            next_token,
            tokens,
            settings,
        };
        record.check().map_err(CodecError::Malformed)?;
        Ok(record)
    }
}

fn read_settings(reader: &mut Reader<'_>) -> Result<BTreeMap<Box<str>, Box<str>>, CodecError> {
    let mut settings: BTreeMap<Box<str>, Box<str>> = BTreeMap::new();
    let count = reader.count(2)?;
    if !(1..=SETTINGS_MAX).contains(&count) {
        return Err(CodecError::Malformed("number of settings"));
    }
    for _ in 0..count {
        let (name, value) = (reader.text()?, reader.text()?);
        if settings.last_key_value().is_some_and(|(last, _)| **last >= *name) {
            return Err(CodecError::Malformed("order of settings"));
        }
        settings.insert(name.into(), value.into());
    }
    Ok(settings)
}

/// The bytes of which names of databases and branches consist.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
}

/// Returns the name in an encoded record. The record has been decoded before.
pub fn name_in(encoded: &[u8]) -> &str {
    let mut reader = Reader::new(encoded.get(1..).unwrap_or_default());
    reader.text().unwrap_or_default()
}

impl TokenRecord {
    /// Id, hash, flags and time of creation.
    const BYTES_MIN: usize = 1 + 32 + 1 + 1;

    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        write_varint(out, self.id.into());
        out.extend_from_slice(&self.hash);
        let scope = match &self.scope {
            TokenScope::ReadWrite => 0,
            TokenScope::ReadOnly => TOKEN_READ_ONLY,
            TokenScope::User(_) => TOKEN_USER,
        };
        let expires = if self.expires_ms.is_some() { TOKEN_EXPIRES } else { 0 };
        let prefix = if self.prefix.is_empty() { 0 } else { TOKEN_PREFIX };
        out.push(scope | expires | prefix);
        write_varint(out, self.created_ms);
        self.expires_ms.iter().for_each(|expires_ms| write_varint(out, *expires_ms));
        if let TokenScope::User(user) = &self.scope {
            write_bytes(out, user.as_bytes());
        }
        if !self.prefix.is_empty() {
            write_bytes(out, &self.prefix);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (id, hash, flags) = (reader.varint_u32()?, reader.array()?, reader.u8()?);
        if flags & !(TOKEN_READ_ONLY | TOKEN_USER | TOKEN_EXPIRES | TOKEN_PREFIX) != 0 {
            return Err(CodecError::Malformed("flags of a token"));
        }
        let created_ms = reader.varint()?;
        let expires_ms = if flags & TOKEN_EXPIRES != 0 { Some(reader.varint()?) } else { None };
        let scope = match flags & (TOKEN_READ_ONLY | TOKEN_USER) {
            0 => TokenScope::ReadWrite,
            TOKEN_READ_ONLY => TokenScope::ReadOnly,
            TOKEN_USER => TokenScope::User(reader.text()?.into()),
            _ => return Err(CodecError::Malformed("scope of a token")),
        };
        let prefix: Box<[u8]> = if flags & TOKEN_PREFIX != 0 { reader.bytes()?.into() } else { Box::default() };
        if flags & TOKEN_PREFIX != 0 && prefix.is_empty() {
            return Err(CodecError::Malformed("prefix of a token"));
        }
        Ok(Self { id, hash, created_ms, expires_ms, scope, prefix })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::tests::for_each_damage;

    pub(crate) fn full() -> DatabaseRecord {
        let token = |id, scope, prefix: &[u8], expires_ms| TokenRecord {
            id,
            hash: [id as u8; 32],
            created_ms: 1_795_424_400_000,
            expires_ms,
            scope,
            prefix: prefix.into(),
        };
        DatabaseRecord {
            expires_ms: Some(1_795_424_500_000),
            owner: Some("shop".into()),
            deleted: Some(Deletion { at_ms: 1_795_424_450_000, until_ms: 1_795_424_460_000 }),
            is_unclaimed: true,
            has_triggers: true,
            next_token: 9,
            tokens: vec![
                token(1, TokenScope::ReadWrite, b"", None),
                token(3, TokenScope::ReadOnly, b"pub:", Some(7)),
                token(8, TokenScope::User("app".into()), b"", Some(1)),
            ],
            settings: BTreeMap::from([("max-memory".into(), "100mb".into()), ("sleep-after".into(), "1m".into())]),
            ..DatabaseRecord::new("old-branch", 1_795_424_400_000)
        }
    }

    #[test]
    fn a_record_with_one_token_is_small() {
        let mut record = DatabaseRecord::new("preview-12345", 1_795_424_400_000);
        record.next_token = 2;
        let scope = TokenScope::ReadWrite;
        record.tokens.push(TokenRecord {
            id: 1,
            hash: [7; 32],
            created_ms: record.created_ms,
            expires_ms: None,
            scope,
            prefix: Box::default(),
        });
        let bytes = record.encode();
        assert_eq!(bytes.len(), 63);
        assert_eq!(name_in(&bytes), "preview-12345");
        assert_eq!(DatabaseRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn a_record_survives() {
        let record = full();
        assert_eq!(record.check(), Ok(()));
        assert_eq!(DatabaseRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn truncated_records_are_refused() {
        let bytes = full().encode();
        for length in 0..bytes.len() {
            assert!(DatabaseRecord::decode(&bytes[..length]).is_err(), "{length}");
        }
        // A record has no checksum of its own: a changed bit may make another record, but never one that differs from
        // what it would be written as.
        for_each_damage(&bytes, |bytes| {
            DatabaseRecord::decode(bytes).is_err()
                || DatabaseRecord::decode(bytes).is_ok_and(|record| *record.encode() == *bytes)
        });
    }

    #[test]
    fn faults_are_found() {
        let with = |change: fn(&mut DatabaseRecord)| {
            let mut record = full();
            change(&mut record);
            record
        };
        for (record, fault) in [
            (with(|record| record.name = "".into()), "name of a database"),
            (with(|record| record.name = "a/b".into()), "name of a database"),
            (with(|record| record.owner = Some("a".repeat(64).into())), "name of a database"),
            (with(|record| record.next_token = 8), "ids of tokens"),
            (with(|record| record.tokens.swap(0, 1)), "ids of tokens"),
            (with(|record| record.tokens[0].prefix = vec![0; 257].into()), "user or prefix of a token"),
            (with(|record| record.tokens[2].scope = TokenScope::User("".into())), "user or prefix of a token"),
            (with(|record| drop(record.settings.insert("".into(), "".into()))), "settings"),
        ] {
            assert_eq!(record.check(), Err(fault));
            assert_eq!(DatabaseRecord::decode(&record.encode()), Err(CodecError::Malformed(fault)));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_danger(bytes: Vec<u8>) {
            if let Ok(record) = DatabaseRecord::decode(&bytes) {
                prop_assert_eq!(&*record.encode(), &bytes[..]);
            }
        }
    }
}
