//! Every error text that a command can answer with, in one place, as Redis 7.2 spells it.

use std::borrow::Cow;

use dormouse_storage::log::LogRefusal;
use dormouse_types::pace;

/// The reason why a command was refused. `Display` is the text that the client sees, without the leading `-`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    #[error("ERR value is not a valid float")]
    NotAFloat,
    #[error("ERR value is out of range, must be positive")]
    NotPositive,
    #[error("ERR value is out of range")]
    OutOfRange,
    #[error("ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807")]
    NotNegatable,
    #[error("ERR count should be greater than 0")]
    CountNotPositive,
    #[error("ERR no such key")]
    NoSuchKey,
    #[error("NOREPLICAS Not enough good replicas to write.")]
    NoReplicas,
    #[error("ERR index out of range")]
    IndexOutOfRange,
    #[error("ERR offset is out of range")]
    OffsetOutOfRange,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    #[error("ERR increment would produce NaN or Infinity")]
    NotFinite,
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    StringTooLong,
    #[error("ERR wrong number of arguments for '{0}' command")]
    WrongArity(String),
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpire(&'static str),
    #[error("ERR hash value is not an integer")]
    HashValueNotAnInteger,
    #[error("ERR hash value is not a float")]
    HashValueNotAFloat,
    #[error("ERR invalid cursor")]
    InvalidCursor,
    #[error("ERR NOVALUES option can only be used in HSCAN")]
    NoValuesElsewhere,
    #[error("ERR NOSCORES option can only be used in ZSCAN")]
    NoScoresElsewhere,
    #[error("ERR DB index is out of range")]
    DbIndexOutOfRange,
    #[error("ERR invalid DB index")]
    InvalidDbIndex,
    #[error("ERR nothing is being staged: DORMOUSE IMPORT BEGIN comes first")]
    NothingStaged,
    #[error("ERR source and destination objects are the same")]
    SameObject,
    #[error("ERR numkeys should be greater than 0")]
    NumkeysNotPositive,
    #[error("ERR Number of keys can't be greater than number of args")]
    NumkeysTooLarge,
    #[error("ERR at least 1 input key is needed for '{0}' command")]
    NoInputKeys(&'static str),
    #[error("ERR LIMIT can't be negative")]
    LimitNegative,
    #[error("ERR min or max is not a float")]
    MinMaxNotAFloat,
    #[error("ERR min or max not valid string range item")]
    MinMaxNotAString,
    #[error("ERR resulting score is not a number (NaN)")]
    ScoreIsNan,
    #[error("ERR weight value is not a float")]
    WeightNotAFloat,
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    OutOfMemory,
    #[error("ERR max key size exceeded. Limit: {limit} bytes, Actual: {actual} bytes")]
    KeyTooLarge { limit: usize, actual: usize },
    #[error("ERR max single record size exceeded")]
    ValueTooLarge,
    #[error("ONCEMISMATCH this key was used for another request")]
    OnceMismatch,
    /// The reply had so many bytes.
    #[error("ONCETOOLARGE the request was run once; its reply of {0} bytes was too large to be kept")]
    OnceTooLarge(u64),
    #[error("ERR the key of ONCE must have 1 to 512 bytes")]
    OnceKey,
    #[error("ERR the receipt of this key cannot be read")]
    ReceiptUnreadable,
    /// So many of them are as many as may wait: the queue of the database is full.
    #[error("BUSY {0} slow commands of this database wait already: this one was not run")]
    Busy(usize),
    /// A command that changes nothing was told to end.
    #[error("ERR Command ended before it was done: its client is gone, or the server ends")]
    Unfinished,
    #[error("ERR the time is in the future")]
    MomentInFuture,
    /// Unix milliseconds.
    #[error("ERR the history of this database begins later, at {0} (Unix time in milliseconds)")]
    MomentLost(u64),
    #[error("ERR this database keeps no history (see the setting `history`), or none yet")]
    NoHistory,
    #[error("OOM command not allowed when used memory > 'maxmemory-total'.")]
    OutOfTotal,
    /// The value of a key is in an object that is missing or damaged; the text names it.
    #[error("STORE {0}")]
    Store(String),
    /// The database named belongs to another process of the fleet, or is on its way to one.
    #[error("TRYAGAIN database {0} is served by another node of the fleet; connect again")]
    Elsewhere(String),
    /// The same of an object that a checkpoint needs.
    #[error("STORE {0}")]
    Damaged(String),
    /// A text that only one command has.
    #[error("{0}")]
    Text(Cow<'static, str>),
}

impl Error {
    /// A text that only one command has, with its code: `ERR ...`.
    pub const fn text(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// The text without the code that clients see first.
    pub fn detail(&self) -> String {
        match self {
            Self::Store(text) | Self::Damaged(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// Whether the store has no space left.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(text) if text.ends_with(dormouse_storage::store::FULL))
    }
}

impl From<LogRefusal> for Error {
    fn from(LogRefusal(text): LogRefusal) -> Self {
        Self::Text(text.into())
    }
}

impl From<pace::Unfinished> for Error {
    fn from(pace::Unfinished: pace::Unfinished) -> Self {
        Self::Unfinished
    }
}

impl From<dormouse_protocol::glob::TooComplex> for Error {
    fn from(problem: dormouse_protocol::glob::TooComplex) -> Self {
        Self::Text(format!("ERR {problem}").into())
    }
}

/// A client's word as errors repeat it: up to its first zero byte, where a C string ends.
pub fn repeated(word: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(word.split(|byte| *byte == 0).next().unwrap_or_default())
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
