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

#[cfg(test)]
mod tests {
    use super::*;

    /// Status of gRPC and HTTP, and text, as etcd 3.4 gives them.
    #[test]
    fn failures_are_told_apart() {
        let of = EtcdFailure::of_answer;
        assert_eq!(of(Some(5), 404, "etcdserver: requested lease not found"), EtcdFailure::LeaseGone);
        for (grpc, http, text) in
            [(Some(14), 503, "etcdserver: no leader"), (Some(4), 504, "context deadline exceeded"), (None, 503, "")]
        {
            assert!(matches!(of(grpc, http, text), EtcdFailure::Unreachable(_)), "{text}");
        }
        for (grpc, http) in [(Some(16), 401), (Some(2), 500), (None, 401)] {
            assert!(matches!(of(grpc, http, "etcdserver: invalid auth token"), EtcdFailure::Unauthenticated(_)));
        }
        for (grpc, http, text) in
            [(Some(8), 429, "etcdserver: mvcc: database space exceeded"), (Some(5), 404, "no such user")]
        {
            assert_eq!(of(grpc, http, text), EtcdFailure::Refused(text.to_owned()));
        }
        assert_eq!(of(None, 400, &"\u{e9}".repeat(5_000)).to_string().chars().count(), TEXT_LENGTH_MAX);
    }
}
