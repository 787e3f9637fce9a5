//! Errors of a coordinator, for the operator who reads them.

/// The reason why a request to the coordinator failed. Texts name the address without its password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinationError {
    #[error("invalid cluster address `{text}`: {reason}")]
    Address { text: String, reason: &'static str },
    #[error("invalid {what} `{text}`: expected {expected}")]
    Invalid { what: &'static str, text: String, expected: &'static str },
    #[error("{url} is not supported yet: use etcd://HOST:PORT/PREFIX")]
    Unsupported { url: String },
    #[error("cannot reach {url}: {reason}. Check that etcd is running at this address")]
    Unreachable { url: String, reason: String },
    #[error("{url} refused a request: {reason}")]
    Refused { url: String, reason: String },
    /// The process had left before.
    #[error("this process has left the fleet at {url}")]
    Left { url: String },
}
