//! The servers that values are encoded for.
//!
//! A value has the newest form that its readers know. Each type decides here once: [`RdbReaders::encoding_of`] says which form
//! it has, or that the readers have no such type, and [`RdbReaders::encode`] writes that form.
//!
//! | target | version | sets | streams | hashes whose fields expire |
//! | --- | --- | --- | --- | --- |
//! | [`RdbReaders::REDIS_5`] | 9 | plain | 15 | without the expiries |
//! | [`RdbReaders::REDIS_7_0`] | 10 | plain | 19 | 24, 25, for readers that are newer |
//! | [`RdbReaders::REDIS_7_2`] | 11 | 20 | 21 | 24, 25, for readers that are newer |
//! | [`RdbReaders::REDIS_8`] | 15 | 20 | 21, 27 | 24, 25 |
//! | [`RdbReaders::VALKEY_9`] | 80 | 20 | 21 | 22 |
//!
//! Vector sets are values of a module, which Redis has from version 13 on. Others lack them.

use dormouse_types::record::Value;
use dormouse_types::{ObjectRef, Stream};

use super::newer::Dialect;
use super::{
    RDB_VERSION_OF_ARRAYS, encode_unpacked, encode_value, encoding_of, hash, kind, stream, unpacked_encoding_of,
};
use crate::codec::reader::ByteSink;

/// The first version of RDB whose readers all have vector sets. Redis 8.0 has the same as Redis 7.4, which has none.
const RDB_VERSION_OF_VECTOR_SETS: u16 = 13;

/// The readers of what is encoded: a family of servers, and the version of RDB that they know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RdbReaders {
    pub dialect: Dialect,
    /// The version of RDB.
    pub version: u16,
    /// Whether documents of JSON become strings; else the readers have no such type.
    pub json_as_string: bool,
}

impl RdbReaders {
    /// Redis 5 and 6.
    pub const REDIS_5: RdbReaders = RdbReaders::redis(9);
    pub const REDIS_7_0: RdbReaders = RdbReaders::redis(10);
    /// Redis 7.2, and all later servers.
    pub const REDIS_7_2: RdbReaders = RdbReaders::redis(11);
    /// Redis 8.10.
    pub const REDIS_8: RdbReaders = RdbReaders::redis(15);
    /// Valkey 9.0 and 9.1.
    pub const VALKEY_9: RdbReaders = RdbReaders { dialect: Dialect::Valkey, version: 80, json_as_string: false };

    /// Every target that can be chosen.
    pub const ALL: [RdbReaders; 5] = [Self::REDIS_5, Self::REDIS_7_0, Self::REDIS_7_2, Self::REDIS_8, Self::VALKEY_9];

    const fn redis(version: u16) -> RdbReaders {
        RdbReaders { dialect: Dialect::Redis, version, json_as_string: false }
    }

    /// The target of a version of RDB.
    pub fn of_version(version: u16) -> Option<RdbReaders> {
        Self::ALL.into_iter().find(|target| target.version == version)
    }

    /// The version of the server that writes this version of RDB, if that is another one than ours.
    pub fn server_version(self) -> Option<&'static str> {
        match (self.dialect, self.version) {
            (Dialect::Valkey, _) => Some("9.1.2"),
            (Dialect::Redis, 15) => Some("8.10.2"),
            (Dialect::Redis, _) => None,
        }
    }

    /// Whether its readers know an encoding that we write.
    pub fn knows(self, encoding: u8) -> bool {
        match encoding {
            kind::SET_LISTPACK | kind::STREAM_3 => self.version >= 11,
            kind::HASH_LISTPACK | kind::SORTED_SET_LISTPACK | kind::LIST_QUICKLIST_2 => self.version >= 10,
            kind::HASH_TTL | kind::HASH_TTL_LISTPACK => self.dialect == Dialect::Redis,
            kind::HASH_TTL_EARLY => self.dialect == Dialect::Valkey,
            // Valkey has no such streams.
            kind::STREAM_5 => self.dialect == Dialect::Redis && self.version >= RDB_VERSION_OF_ARRAYS,
            kind::ARRAY => !self.lacks(encoding),
            kind::OWN.. => false,
            _ => true,
        }
    }

    /// Whether its readers have no type for any value of an encoding that we write.
    pub fn lacks(self, encoding: u8) -> bool {
        match encoding {
            kind::ARRAY => self.dialect != Dialect::Redis || self.version < RDB_VERSION_OF_ARRAYS,
            kind::BLOOM | kind::CUCKOO => true,
            kind::JSON => !self.json_as_string,
            kind::VECTOR_SET => self.is_valkey() || self.version < RDB_VERSION_OF_VECTOR_SETS,
            _ => false,
        }
    }

    /// The number of the encoding that [`Self::encode`] writes. `None`: the readers have no such type.
    pub fn encoding_of(self, value: &Value<'_>) -> Option<u8> {
        let encoding = encoding_of(value);
        Some(match value {
            Value::Object(_) if self.lacks(encoding) => return None,
            Value::Object(ObjectRef::Stream(stream)) => self.stream_form(stream),
            Value::Object(ObjectRef::Hash(hash)) if self.is_valkey() && hash.expires() => kind::HASH_TTL_EARLY,
            Value::Object(object) if !self.knows(encoding) => unpacked_encoding_of(*object),
            _ => encoding,
        })
    }

    /// Appends a value in the encoding that [`Self::encoding_of`] names. A stream's groups have read no more than was added.
    pub fn encode(self, value: &Value<'_>, out: &mut impl ByteSink) {
        match value {
            Value::Object(ObjectRef::Stream(stream)) => {
                stream::encode_for_others(self.stream_form(stream), stream, out)
            }
            Value::Object(ObjectRef::Hash(hash)) if self.is_valkey() && hash.expires() => {
                hash::encode_for_valkey(hash, out)
            }
            Value::Object(object) if !self.knows(encoding_of(value)) => encode_unpacked(*object, out),
            _ => encode_value(value, out),
        };
    }

    fn is_valkey(self) -> bool {
        self.dialect == Dialect::Valkey
    }

    /// The form that has as much of a stream as its readers know.
    fn stream_form(self, stream: &Stream) -> u8 {
        match self.version {
            ..=9 => kind::STREAM,
            10 => kind::STREAM_2,
            _ if self.knows(kind::STREAM_5) => stream::form_of(stream),
            _ => kind::STREAM_3,
        }
    }
}
