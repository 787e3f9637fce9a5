//! etcd's messages in JSON, as its gateway writes them.
//!
//! Unknown fields are passed over and missing ones have their default, as in protobuf.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Header {
    #[serde(deserialize_with = "integer")]
    pub(crate) revision: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct KeyValue {
    #[serde(deserialize_with = "bytes")]
    pub(crate) key: Vec<u8>,
    #[serde(deserialize_with = "bytes")]
    pub(crate) value: Vec<u8>,
    #[serde(alias = "modRevision", deserialize_with = "integer")]
    pub(crate) mod_revision: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Range {
    pub(crate) header: Header,
    pub(crate) kvs: Vec<KeyValue>,
}

/// The answer to a transaction whose failure branch reads one key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Transaction {
    pub(crate) header: Header,
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Response {
    #[serde(alias = "responseRange")]
    pub(crate) response_range: Range,
}

/// The answer to a grant and to a keepalive.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Lease {
    #[serde(rename = "ID", deserialize_with = "integer")]
    pub(crate) id: i64,
    /// Seconds; 0 if there is no such lease.
    #[serde(rename = "TTL", deserialize_with = "integer")]
    pub(crate) ttl: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Login {
    pub(crate) token: String,
}

/// A request whose answer says nothing more than that it succeeded.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Done {}

/// One message of an answer that is a stream.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<T> {
    pub(crate) result: Option<T>,
    pub(crate) error: Option<Failure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Failure {
    #[serde(alias = "code")]
    pub(crate) grpc_code: Option<i64>,
    pub(crate) message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WatchAnswer {
    pub(crate) canceled: bool,
    #[serde(alias = "cancelReason")]
    pub(crate) cancel_reason: String,
    #[serde(alias = "compactRevision", deserialize_with = "integer")]
    pub(crate) compact_revision: i64,
    pub(crate) events: Vec<Event>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Event {
    #[serde(rename = "type")]
    kind: Kind,
    kv: KeyValue,
}

#[derive(Debug, Default, Deserialize)]
enum Kind {
    #[default]
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "DELETE")]
    Delete,
}

/// A change of one key.
#[derive(Debug)]
pub(crate) enum Change {
    Put(KeyValue),
    Delete { key: Vec<u8>, revision: i64 },
}

impl From<Event> for Change {
    fn from(event: Event) -> Self {
        match event.kind {
            Kind::Put => Self::Put(event.kv),
            Kind::Delete => Self::Delete { key: event.kv.key, revision: event.kv.mod_revision },
        }
    }
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// A number or its text.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(i64),
        Text(String),
    }
    match Form::deserialize(deserializer)? {
        Form::Number(number) => Ok(number),
        Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.4 writes them.
    #[test]
    fn messages_are_read() {
        let range: Range = serde_json::from_str(
            r#"{"header":{"cluster_id":"4503790210629592638","member_id":"11858049753866141320","revision":"4","raft_term":"2"},
            "kvs":[{"key":"YQ==","create_revision":"2","mod_revision":"4","version":"1","value":"YmM="}],"count":"1"}"#,
        )
        .unwrap();
        let kv = &range.kvs[0];
        assert_eq!((range.header.revision, kv.mod_revision), (4, 4));
        assert_eq!((kv.key.as_slice(), kv.value.as_slice()), (&b"a"[..], &b"bc"[..]));
        let lease: Message<Lease> =
            serde_json::from_str(r#"{"result":{"header":{"revision":"1"},"ID":"12345"}}"#).unwrap();
        assert_eq!(lease.result.map(|lease| (lease.id, lease.ttl)), Some((12345, 0)));
        let watch: Message<WatchAnswer> = serde_json::from_str(
            r#"{"result":{"header":{"revision":"7"},"events":[{"type":"DELETE","kv":{"key":"YQ==","mod_revision":"7"}},
            {"kv":{"key":"YQ==","mod_revision":"8"}}]}}"#,
        )
        .unwrap();
        let changes: Vec<Change> = watch.result.unwrap().events.into_iter().map(Change::from).collect();
        assert!(matches!(&changes[0], Change::Delete { key, revision: 7 } if key == b"a"));
        assert!(matches!(&changes[1], Change::Put(kv) if kv.value.is_empty() && kv.mod_revision == 8));
        assert!(serde_json::from_str::<Range>(r#"{"header":{"revision":"x"}}"#).is_err());
        assert!(serde_json::from_str::<Range>(r#"{"kvs":[{"key":"*"}]}"#).is_err());
    }
}
