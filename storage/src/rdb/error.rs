//! Why an RDB could not be read or imported.

use std::io;

use crate::codec::CodecError;
use crate::store::StoreError;

/// Why an RDB could not be read on, and at which of its bytes.
#[derive(Debug, thiserror::Error)]
#[error("at byte {offset}: {problem}")]
pub struct RdbError {
    pub offset: u64,
    pub problem: RdbProblem,
}

#[derive(Debug, thiserror::Error)]
pub enum RdbProblem {
    #[error(transparent)]
    Input(#[from] io::Error),
    #[error(transparent)]
    Content(#[from] CodecError),
    #[error("after the value of key `{key}`, {what}, whose end cannot be found")]
    Endless { key: String, what: &'static str },
    #[error("the value of key `{key}` is damaged: {problem}")]
    Value { key: String, problem: CodecError },
    #[error("opcode {0}, which this build does not know")]
    Opcode(u8),
}

/// Why an import changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Rdb(#[from] RdbError),
    #[error("the value of key `{}` is damaged: {problem}", shown(key))]
    Value { key: Vec<u8>, problem: CodecError },
    #[error("key `{}` of index {index} occurs twice in the RDB", shown(key))]
    Twice { index: u64, key: Vec<u8> },
    #[error("the RDB has keys of index {0}; there are indexes 0 to 15")]
    Index(u64),
    #[error("unexpected data after the end of the RDB")]
    Trailing,
    #[error("{0} values in the RDB are not supported")]
    Unsupported(u64),
    #[error("database `{0}` holds data already")]
    HoldsData(String),
    #[error("cannot keep records in a temporary file: {0}")]
    Spill(io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A key as messages show it.
pub fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).escape_debug().to_string()
}
