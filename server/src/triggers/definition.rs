//! The definition of a trigger: the events that it wants, and where they go.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dormouse_shard::keyspace::outbox::filter::TriggerFilter;
use reqwest::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::rfc3339;
use crate::options::Interval;
use crate::outbound::{Reach, ReceiverUrl, parse_header};

const NAME_BYTES_MAX: usize = 63;
const EVENTS_MAX: usize = 64;
const PATTERNS_MAX: usize = 16;
const PATTERN_BYTES_MAX: usize = 256;
const HEADERS_MAX: usize = 16;
/// Bytes of all headers: each manifest has them.
const HEADER_BYTES_MAX: usize = 8 << 10;
const RATE_MAX: u32 = 1_000_000;
const BATCH: u32 = 100;
const BATCH_MAX: u32 = 1000;
const ATTEMPTS: u32 = 20;
const ATTEMPTS_MAX: u32 = 100;
const BACKOFF_MS: u64 = 1000;
const BACKOFF_MS_MIN: u64 = 10;
const BACKOFF_MS_MAX: u64 = 3_600_000;
const DEAD_LETTER_BYTES_MAX: usize = 512;
/// Bytes of a secret, whose form is that of Standard Webhooks.
const SECRET_BYTES: usize = 32;
const SECRET_PREFIX: &str = "whsec_";

/// A trigger as it is asked for. Without a value, the server chooses.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TriggerWish {
    pub name: String,
    /// The URL that gets the events.
    pub to: String,
    /// Names of events such as `set`, classes such as `@string`, or `@all`.
    pub on: Vec<String>,
    /// Patterns of keys, as in `KEYS`; none: all keys.
    pub keys: Vec<String>,
    /// `Name: value`.
    pub headers: Vec<String>,
    /// Most events in a second; 0: no limit.
    pub rate: u32,
    /// Most events in one request; with 1, each request is one event rather than a list.
    pub batch: Option<u32>,
    /// Attempts for each batch.
    pub attempts: Option<u32>,
    /// The delay before the second attempt.
    pub backoff: Option<String>,
    /// The key of the stream with what could not be delivered.
    pub dead_letters: Option<String>,
}

/// A trigger as the manifest has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct TriggerDefinition {
    pub name: Box<str>,
    /// Differs from those of all others, also of those that had the name before.
    pub id: u64,
    pub created_ms: u64,
    pub to: Box<str>,
    pub on: Vec<Box<str>>,
    pub keys: Vec<Box<str>>,
    pub headers: Vec<Box<str>>,
    pub rate: u32,
    pub batch: u32,
    pub attempts: u32,
    pub backoff_ms: u64,
    pub dead_letters: Box<str>,
    pub secret: Box<str>,
    pub is_paused: bool,
}

impl TriggerWish {
    /// Checks it, and gives it an id and a secret.
    ///
    /// # Errors
    /// The problem with it.
    pub fn define(self, reach: Reach, now_ms: u64) -> Result<TriggerDefinition, String> {
        let is_name_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=NAME_BYTES_MAX).contains(&self.name.len()) || !self.name.bytes().all(is_name_byte) {
            let text = "expected up to 63 lower-case letters, digits and hyphens";
            return Err(format!("invalid name of a trigger `{}`: {text}", self.name.escape_default()));
        }
        let within = |what: &str, value: u64, range: std::ops::RangeInclusive<u64>| match range.contains(&value) {
            true => Ok(value),
            false => Err(format!("invalid {what} {value}: expected {} to {}", range.start(), range.end())),
        };
        within("number of events", self.on.len() as u64, 1..=EVENTS_MAX as u64)?;
        within("number of patterns", self.keys.len() as u64, 0..=PATTERNS_MAX as u64)?;
        within("number of headers", self.headers.len() as u64, 0..=HEADERS_MAX as u64)?;
        let header_bytes: usize = self.headers.iter().map(String::len).sum();
        within("number of bytes in headers", header_bytes as u64, 0..=HEADER_BYTES_MAX as u64)?;
        within("rate", self.rate.into(), 0..=RATE_MAX.into())?;
        if let Some(long) = self.keys.iter().find(|pattern| pattern.len() > PATTERN_BYTES_MAX) {
            return Err(format!("invalid pattern of {} bytes: expected at most {PATTERN_BYTES_MAX}", long.len()));
        }
        let batch = self.batch.unwrap_or(BATCH);
        within("batch", batch.into(), 1..=BATCH_MAX.into())?;
        let attempts = self.attempts.unwrap_or(ATTEMPTS);
        within("number of attempts", attempts.into(), 1..=ATTEMPTS_MAX.into())?;
        let backoff_ms = match self.backoff.as_deref() {
            None => BACKOFF_MS,
            Some(text) => {
                let interval: Interval = text.parse().map_err(|problem| format!("invalid backoff: {problem}"))?;
                let ms = interval.milliseconds();
                within("backoff in milliseconds", ms, BACKOFF_MS_MIN..=BACKOFF_MS_MAX)?
            }
        };
        let dead_letters = self.dead_letters.unwrap_or_else(|| format!("dead-letters:{}", self.name));
        within("length of the key for dead letters", dead_letters.len() as u64, 1..=DEAD_LETTER_BYTES_MAX as u64)?;
        let boxed = |texts: Vec<String>| texts.into_iter().map(String::into_boxed_str).collect();
        let definition = TriggerDefinition {
            name: self.name.into(),
            id: random()?,
            created_ms: now_ms,
            to: self.to.into(),
            on: boxed(self.on),
            keys: boxed(self.keys),
            headers: boxed(self.headers),
            rate: self.rate,
            batch,
            attempts,
            backoff_ms,
            dead_letters: dead_letters.into(),
            secret: new_secret()?.into(),
            is_paused: false,
        };
        definition.receiver(reach)?;
        definition.parsed_headers()?;
        definition.filter()?;
        Ok(definition)
    }
}

impl TriggerDefinition {
    /// # Errors
    /// When the URL makes no sense, or may not be reached.
    pub fn receiver(&self, reach: Reach) -> Result<ReceiverUrl, String> {
        ReceiverUrl::parse(&self.to, reach)
    }

    /// # Errors
    /// When a header makes no sense, or is one that deliveries have anyway.
    pub fn parsed_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let parse = |text: &str| {
            let (name, value) = parse_header(text)?;
            match name.as_str().starts_with("webhook-") {
                true => Err(format!("invalid header `{name}`: the server sets it")),
                false => Ok((name, value)),
            }
        };
        self.headers.iter().map(|text| parse(text)).collect()
    }

    /// # Errors
    /// When an event or a pattern makes no sense.
    pub fn filter(&self) -> Result<TriggerFilter, String> {
        let (on, keys) = (self.on.iter().map(|word| &**word), self.keys.iter().map(|word| &**word));
        TriggerFilter::new(on, keys, self.dead_letters.as_bytes())
    }

    /// The bytes of the secret.
    pub fn secret_bytes(&self) -> Vec<u8> {
        let text = self.secret.strip_prefix(SECRET_PREFIX).unwrap_or(&self.secret);
        BASE64_STANDARD.decode(text).unwrap_or_default()
    }

    /// It as JSON, without its secrets.
    pub fn shown(&self) -> Value {
        let header_name = |text: &str| text.split(':').next().unwrap_or_default().trim().to_owned();
        json!({
            "name": self.name,
            "to": self.to,
            "on": self.on,
            "keys": self.keys,
            "headers": self.headers.iter().map(|text| header_name(text)).collect::<Vec<_>>(),
            "rate": self.rate,
            "batch": self.batch,
            "attempts": self.attempts,
            "backoff_ms": self.backoff_ms,
            "dead_letters": self.dead_letters,
            "created_at": rfc3339(self.created_ms),
            "paused": self.is_paused,
        })
    }
}

/// The definitions as a setting of the manifest; `None`: there are none.
pub fn encode<'a>(definitions: impl Iterator<Item = &'a TriggerDefinition>) -> Option<String> {
    let all: Vec<_> = definitions.collect();
    // Maps of texts and numbers can always be written.
    (!all.is_empty()).then(|| serde_json::to_string(&all).unwrap_or_default())
}

/// The definitions in a setting, and what cannot be read.
pub fn decode(text: &str) -> (Vec<TriggerDefinition>, Vec<String>) {
    if text.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let all: Vec<Value> = match serde_json::from_str(text) {
        Ok(all) => all,
        Err(error) => return (Vec::new(), vec![error.to_string()]),
    };
    let (mut read, mut problems) = (Vec::new(), Vec::new());
    for value in all {
        match serde_json::from_value::<TriggerDefinition>(value) {
            Ok(definition) => read.push(definition),
            Err(error) => problems.push(error.to_string()),
        }
    }
    (read, problems)
}

fn random() -> Result<u64, String> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system has no randomness".to_owned())?;
    Ok(u64::from_le_bytes(bytes))
}

fn new_secret() -> Result<String, String> {
    let mut bytes = [0; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the system has no randomness".to_owned())?;
    Ok(format!("{SECRET_PREFIX}{}", BASE64_STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut TriggerWish);

    fn wish() -> TriggerWish {
        TriggerWish {
            name: "orders".to_owned(),
            to: "https://example.com/hook?key=s3cret".to_owned(),
            on: vec!["set".to_owned(), "@expired".to_owned()],
            keys: vec!["order:*".to_owned()],
            headers: vec!["Authorization: Bearer s3cret".to_owned()],
            ..TriggerWish::default()
        }
    }

    #[test]
    fn a_definition_is_kept_as_it_is() {
        let made = wish().define(Reach::Public, 7).unwrap();
        let other = TriggerWish { name: "b".to_owned(), ..wish() }.define(Reach::Public, 7).unwrap();
        assert_ne!(made.id, other.id);
        assert_eq!((made.batch, made.attempts, made.backoff_ms), (100, 20, 1000));
        assert_eq!((&*made.dead_letters, made.secret_bytes().len()), ("dead-letters:orders", 32));
        let text = encode([&made, &other].into_iter()).unwrap();
        assert_eq!(decode(&text), (vec![made.clone(), other], Vec::new()));
        assert_eq!((encode([].into_iter()), decode("")), (None, (Vec::new(), Vec::new())));
        let shown = made.shown().to_string();
        assert!(!shown.contains("Bearer") && !shown.contains(&*made.secret), "{shown}");
        let (read, problems) = decode(r#"[{"name": "a"}, 7]"#);
        assert_eq!((read.len(), problems.len()), (0, 2));
        assert_eq!(decode("{").1.len(), 1);
    }

    #[test]
    fn a_wish_that_makes_no_sense_is_refused() {
        let of = |change: Change| {
            let mut wish = wish();
            change(&mut wish);
            wish.define(Reach::Public, 7).unwrap_err()
        };
        let cases: [(Change, &str); 14] = [
            (|wish| wish.name = "Orders".to_owned(), "invalid name of a trigger"),
            (|wish| wish.name = String::new(), "invalid name of a trigger"),
            (|wish| wish.to = "ftp://example.com".to_owned(), "expected http:// or https://"),
            (|wish| wish.to = "http://127.0.0.1:80/".to_owned(), "is not public"),
            (|wish| wish.to = "http://169.254.169.254/".to_owned(), "is not that of a server"),
            (|wish| wish.on = Vec::new(), "invalid number of events"),
            (|wish| wish.on = vec!["sett".to_owned()], "unknown event `sett`"),
            (|wish| wish.keys = vec!["a".repeat(257)], "invalid pattern"),
            (|wish| wish.headers = vec!["Webhook-Id: 1".to_owned()], "the server sets it"),
            (
                |wish| wish.headers = vec![format!("a: {}", "b".repeat(3000)); 3],
                "invalid number of bytes in headers 9009",
            ),
            (|wish| wish.batch = Some(0), "invalid batch 0"),
            (|wish| wish.attempts = Some(101), "invalid number of attempts 101"),
            (|wish| wish.backoff = Some("1ms".to_owned()), "invalid backoff in milliseconds 1"),
            (|wish| wish.dead_letters = Some(String::new()), "invalid length of the key for dead letters"),
        ];
        for (change, problem) in cases {
            let refused = of(change);
            assert!(refused.contains(problem), "{refused}");
        }
        let near = TriggerWish { to: "http://127.0.0.1:80/".to_owned(), ..wish() };
        assert!(near.define(Reach::Private, 7).is_ok());
    }
}
