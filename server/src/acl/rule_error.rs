//! Why a rule was refused.

use dormouse_protocol::glob::TooComplex;

/// `Display` is Redis's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("Unknown command or category name in ACL")]
    Unknown,
    #[error("Syntax error")]
    Syntax,
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns"
    )]
    AfterAllKeys,
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try 'resetchannels' to start with an empty list of channels"
    )]
    AfterAllChannels,
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    #[error("The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters")]
    NotAHash,
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgOfSubcommand,
    #[error("The provided database ID is out of range")]
    DatabaseOutOfRange,
    /// Redis has no such limit.
    #[error("{0}")]
    TooComplex(TooComplex),
}

impl From<TooComplex> for RuleError {
    fn from(problem: TooComplex) -> Self {
        Self::TooComplex(problem)
    }
}
