//! Failures of a request to etcd.

/// The reason why a request got no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EtcdFailure {
    /// No endpoint answered in time, or none has a leader. Another attempt may succeed.
    #[error("{0}")]
    Unreachable(String),
    #[error("the lease has ended")]
    LeaseGone,
    /// The token of an earlier login is not valid any more, or was never given.
    #[error("{0}")]
    Unauthenticated(String),
    #[error("{0}")]
    Refused(String),
}

/// gRPC's numbers for the failures that differ here.
const NOT_FOUND: i64 = 5;
const UNAVAILABLE: i64 = 14;
const UNAUTHENTICATED: i64 = 16;
const DEADLINE_EXCEEDED: i64 = 4;

const TEXT_LENGTH_MAX: usize = 300;

impl EtcdFailure {
    /// From the status of gRPC and HTTP, and etcd's text. Without a status of gRPC the one of HTTP counts.
    pub(crate) fn of_answer(grpc: Option<i64>, http: u16, text: &str) -> Self {
        let text: String = text.chars().take(TEXT_LENGTH_MAX).collect();
        match (grpc, http) {
            (Some(NOT_FOUND), _) if text.contains("lease not found") => Self::LeaseGone,
            (Some(UNAVAILABLE | DEADLINE_EXCEEDED), _) | (None, 502..=504) => Self::Unreachable(text),
            (Some(UNAUTHENTICATED), _) | (None, 401) => Self::Unauthenticated(text),
            // Old versions report an old token so.
            _ if text.contains("invalid auth token") => Self::Unauthenticated(text),
            _ => Self::Refused(text),
        }
    }
}
