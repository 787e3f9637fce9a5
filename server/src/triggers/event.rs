//! Events as a receiver gets them: CloudEvents 1.0 in JSON, signed as Standard Webhooks says.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use dormouse_shard::keyspace::outbox::OutboxRecord;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use crate::clock::rfc3339;

const TYPE_OF_ONE: &str = "application/cloudevents+json";
const TYPE_OF_MANY: &str = "application/cloudevents-batch+json";
const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// An event that is to be delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CloudEvent {
    specversion: &'static str,
    /// The same at each attempt, and differs from those of all other events of the source.
    pub id: String,
    source: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    time: String,
    datacontenttype: &'static str,
    data: EventData,
}

/// The contents of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum EventData {
    Key {
        database: String,
        index: u8,
        event: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// A key that is no text.
        #[serde(skip_serializing_if = "Option::is_none")]
        key_base64: Option<String>,
    },
    Lost {
        database: String,
        trigger: String,
        /// `null`: not known, as the process that has counted them has crashed.
        events: Option<u64>,
        from: String,
        until: String,
    },
}

/// The events of records, in their order.
pub fn cloud_events(database: &str, trigger: &str, records: Vec<OutboxRecord>) -> Vec<CloudEvent> {
    let mut made = Vec::new();
    let event = |id: String, kind: String, subject: Option<String>, time_ms: u64, data: EventData| CloudEvent {
        specversion: "1.0",
        id,
        source: format!("/dormouse/databases/{database}"),
        kind,
        subject,
        time: time(time_ms),
        datacontenttype: "application/json",
        data,
    };
    for record in records {
        match record {
            OutboxRecord::Events { number, time_ms, salt, events } => {
                for (at, of) in events.into_iter().enumerate() {
                    let (key, key_base64) = match String::from_utf8(of.key.into_vec()) {
                        Ok(key) => (Some(key), None),
                        Err(error) => (None, Some(BASE64_STANDARD.encode(error.as_bytes()))),
                    };
                    let (subject, name) = (key.clone().filter(|key| !key.is_empty()), of.name.into_string());
                    let (kind, index) = (format!("dormouse.key.{name}"), of.select);
                    let data = EventData::Key { database: database.into(), index, event: name, key, key_base64 };
                    made.push(event(format!("{number:x}-{salt:x}-{at}"), kind, subject, time_ms, data));
                }
            }
            OutboxRecord::Gap { number, salt, gap } => {
                let data = EventData::Lost {
                    database: database.into(),
                    trigger: trigger.into(),
                    events: gap.events,
                    from: time(gap.from_ms),
                    until: time(gap.until_ms),
                };
                let id = format!("{number:x}-{salt:x}-lost");
                made.push(event(id, "dormouse.trigger.lost".to_owned(), None, gap.until_ms, data));
            }
        }
    }
    made
}

fn time(unix_ms: u64) -> String {
    rfc3339(unix_ms).unwrap_or_default()
}

/// The body of a request with these events, and its content type. `is_list`: they are a list, however many there are.
pub fn body(events: &[CloudEvent], is_list: bool) -> (Bytes, &'static str) {
    let written = match events {
        [event] if !is_list => serde_json::to_vec(event),
        events => serde_json::to_vec(events),
    };
    // Texts and numbers can always be written.
    (written.unwrap_or_default().into(), if is_list { TYPE_OF_MANY } else { TYPE_OF_ONE })
}

/// The headers of a request with these events, signed at a moment, unix seconds.
pub fn headers(
    own: &[(HeaderName, HeaderValue)],
    secret: &[u8],
    events: &[CloudEvent],
    (body, kind): (&[u8], &'static str),
    now_s: u64,
) -> HeaderMap {
    // The same events get the same id at each attempt. A batch that begins alike may be longer after a crash.
    let id = events.first().map(|first| format!("{}_{}", first.id, events.len())).unwrap_or_default();
    let mut headers: HeaderMap = own.iter().cloned().collect();
    let signature = signature(secret, &id, now_s, body);
    for (name, value) in [(ID, id), (TIMESTAMP, now_s.to_string()), (SIGNATURE, signature)] {
        // They are of letters, digits and a few signs.
        headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers
}

fn signature(secret: &[u8], id: &str, now_s: u64, body: &[u8]) -> String {
    let mut signed = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    signed.update(format!("{id}.{now_s}.").as_bytes());
    signed.update(body);
    format!("v1,{}", BASE64_STANDARD.encode(signed.sign()))
}

#[cfg(test)]
mod tests {
    use dormouse_shard::keyspace::outbox::OutboxEvent;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_event_has_the_key_as_text_or_in_base64() {
        let events = [(0, "set", &b"order:1"[..]), (15, "del", b"\xff\x00"), (0, "del", b"")];
        let events = events.map(|(select, name, key)| OutboxEvent { select, name: name.into(), key: key.into() });
        let record =
            OutboxRecord::Events { number: 0x1a, time_ms: 1_796_475_600_123, salt: 0xb, events: events.into() };
        let made = cloud_events("shop", "orders", vec![record]);
        let (one, kind) = body(&made[..1], false);
        let expected = json!({
            "specversion": "1.0",
            "id": "1a-b-0",
            "source": "/dormouse/databases/shop",
            "type": "dormouse.key.set",
            "subject": "order:1",
            "time": "2026-12-05T13:00:00.123Z",
            "datacontenttype": "application/json",
            "data": { "database": "shop", "index": 0, "event": "set", "key": "order:1" },
        });
        assert_eq!((serde_json::from_slice::<Value>(&one).unwrap(), kind), (expected, TYPE_OF_ONE));
        let (many, kind) = body(&made, true);
        let many: Value = serde_json::from_slice(&many).unwrap();
        assert_eq!(kind, TYPE_OF_MANY);
        let expected = json!({ "database": "shop", "index": 15, "event": "del", "key_base64": "/wA=" });
        assert_eq!((&many[1]["data"], &many[1]["subject"]), (&expected, &Value::Null));
        assert_eq!((&many[2]["data"]["key"], &many[2]["subject"]), (&json!(""), &Value::Null));
        assert_eq!(many[2]["id"], "1a-b-2");
        let (list, _) = body(&made[..1], true);
        assert!(list.starts_with(b"["));
    }

    /// The example of the Standard Webhooks specification.
    #[test]
    fn a_request_is_signed_as_standard_webhooks_says() {
        let secret = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
