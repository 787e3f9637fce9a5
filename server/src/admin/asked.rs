//! The bodies and parameters of requests. Whatever is not exactly what a request has is refused.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use dormouse_storage::directory::TokenScope;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::operations::{NewToken, SettingChanges};
use crate::directory::ChangeRefusal;
use crate::ledger::{Period, UsageStep};
use crate::options::{Interval, PastMoment};
use crate::prefixes::{COUNT_MS_MAX, DEPTH_MAX};

/// Most bytes of a body.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Most databases in one list.
const LIST_MAX: usize = 1000;
const LIST_DEFAULT: usize = 100;
const DAY_MS: u64 = 24 * 3_600_000;

/// Why a body could not be read.
#[derive(Debug)]
pub enum Unread {
    TooLarge,
    TooSlow,
    Malformed(String),
}

/// Reads a body of JSON. One without a byte is an empty object.
///
/// # Errors
/// When it is too large, too slow, or not what is expected.
pub async fn body<T: DeserializeOwned>(body: Body) -> Result<T, Unread> {
    let bytes = bytes(body).await?;
    let bytes: &[u8] = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes).map_err(|error| Unread::Malformed(error.to_string()))
}

/// Reads a body as it is.
///
/// # Errors
/// When it is too large or too slow.
pub async fn bytes(body: Body) -> Result<Bytes, Unread> {
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await;
    read.map_err(|_| Unread::TooSlow)?.map_err(|_| Unread::TooLarge)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseWish {
    pub name: Option<String>,
    /// A duration such as `2h`.
    pub ttl: Option<String>,
    #[serde(default)]
    pub settings: SettingChanges,
    pub token: Option<TokenWish>,
}

/// A period of usage. Without any of it, the present meters are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageWish {
    /// RFC 3339, or Unix milliseconds.
    from: Option<String>,
    to: Option<String>,
    /// `minute` or `hour`.
    step: Option<String>,
    /// `json`, `csv` or `cloudevents`.
    format: Option<String>,
    /// `command`: the calls of each command instead. `prefix`: the last count by the prefixes of keys.
    by: Option<String>,
    /// Begins a count by prefix for this time.
    #[serde(rename = "for")]
    time: Option<String>,
    /// Parts of a key that make its prefix.
    depth: Option<u64>,
}

/// The breakdowns of usage that there are.
const BY_COMMAND: &str = "command";
const BY_PREFIX: &str = "prefix";

/// Usage that is broken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageBreakdown {
    Command,
    /// Milliseconds and depth of a count that is to begin; `None`: the last one is asked for.
    Prefix(Option<(u64, u64)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageFormat {
    Json,
    Csv,
    CloudEvents,
}

impl UsageWish {
    /// The breakdown that is asked for.
    ///
    /// # Errors
    /// When something else is asked for too, or another breakdown.
    pub fn breakdown(&self) -> Result<Option<UsageBreakdown>, ChangeRefusal> {
        let invalid = |text: String| Err(ChangeRefusal::Invalid(text));
        let is_of_a_count = self.time.is_some() || self.depth.is_some();
        let is_of_a_period = [&self.from, &self.to, &self.step, &self.format].iter().any(|other| other.is_some());
        match self.by.as_deref() {
            Some(BY_COMMAND) if is_of_a_period || is_of_a_count => {
                invalid("by=command goes with nothing else".to_owned())
            }
            Some(BY_COMMAND) => Ok(Some(UsageBreakdown::Command)),
            Some(BY_PREFIX) if is_of_a_period => invalid("by=prefix goes with for and depth only".to_owned()),
            Some(BY_PREFIX) => Ok(Some(UsageBreakdown::Prefix(self.count()?))),
            Some(other) => invalid(format!("invalid by `{other}`: expected command or prefix")),
            None if is_of_a_count => invalid("for and depth go with by=prefix".to_owned()),
            None => Ok(None),
        }
    }

    /// The length and the depth of a count that is to begin.
    fn count(&self) -> Result<Option<(u64, u64)>, ChangeRefusal> {
        let invalid = ChangeRefusal::Invalid;
        let Some(time) = &self.time else {
            return match self.depth {
                None => Ok(None),
                Some(_) => Err(invalid("depth goes with for".to_owned())),
            };
        };
        let length = time.parse::<Interval>().ok().and_then(Interval::duration);
        let length_ms = length.map_or(0, |length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        if !(1..=COUNT_MS_MAX).contains(&length_ms) {
            return Err(invalid(format!("invalid for `{time}`: expected at most 10m")));
        }
        let depth = self.depth.unwrap_or(1);
        if !(1..=DEPTH_MAX).contains(&depth) {
            return Err(invalid(format!("invalid depth {depth}: expected 1 to {DEPTH_MAX}")));
        }
        Ok(Some((length_ms, depth)))
    }

    /// The period and the form in which it is asked for: by default the last day, by hours if that is JSON. Events are
    /// those of minutes, as their ids name.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn period(&self, now_ms: u64) -> Result<Option<(Period, UsageFormat)>, ChangeRefusal> {
        if self.from.is_none() && self.to.is_none() && self.step.is_none() && self.format.is_none() {
            return Ok(None);
        }
        let invalid = ChangeRefusal::Invalid;
        let format = match self.format.as_deref() {
            None | Some("json") => UsageFormat::Json,
            Some("csv") => UsageFormat::Csv,
            Some("cloudevents") => UsageFormat::CloudEvents,
            Some(other) => return Err(invalid(format!("invalid format `{other}`: expected json, csv or cloudevents"))),
        };
        let step = match (self.step.as_deref(), format) {
            (Some("minute"), _) | (None, UsageFormat::Csv | UsageFormat::CloudEvents) => UsageStep::Minutes,
            (None | Some("hour"), UsageFormat::Json) => UsageStep::Hours,
            (Some("hour"), _) => return Err(invalid("events are those of minutes: leave out step=hour".to_owned())),
            (Some(other), _) => return Err(invalid(format!("invalid step `{other}`: expected minute or hour"))),
        };
        let moment = |text: &Option<String>, default: u64| match text {
            None => Ok(default),
            Some(text) => parse_moment(text).ok_or_else(|| {
                invalid(format!("invalid time `{text}`: expected such as 2026-11-30T12:00:00Z, or Unix milliseconds"))
            }),
        };
        let to_ms = moment(&self.to, now_ms)?;
        let from_ms = moment(&self.from, to_ms.saturating_sub(DAY_MS))?;
        Ok(Some((Period::new(from_ms, to_ms, step).map_err(invalid)?, format)))
    }
}

/// Reads a time in Unix milliseconds.
fn parse_moment(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| {
        let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
        u64::try_from(time.timestamp_millis()).ok()
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsWish {
    /// `never` ends the time to live.
    pub ttl: Option<String>,
    #[serde(default)]
    pub settings: SettingChanges,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchWish {
    pub name: String,
    pub ttl: Option<String>,
    /// The moment to branch, such as `2026-11-27T12:00:00Z` or `-1h`.
    pub at: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenWish {
    /// `read-write`, `read-only`, or `user`.
    pub scope: Option<String>,
    /// The user whose permissions it has, for the scope `user`.
    pub user: Option<String>,
    pub prefix: Option<String>,
    pub ttl: Option<String>,
}

/// The node that a database moves to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveWish {
    pub node: String,
}

/// A request that has nothing to say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListWish {
    /// Only those that were deleted and can be brought back.
    #[serde(default)]
    pub deleted: bool,
    pub after: Option<String>,
    pub prefix: Option<String>,
    pub limit: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteWish {
    /// For good.
    #[serde(default)]
    pub now: bool,
}

impl ListWish {
    pub fn limit(&self) -> Result<usize, ChangeRefusal> {
        match self.limit.unwrap_or(LIST_DEFAULT) {
            limit @ 1..=LIST_MAX => Ok(limit),
            _ => Err(ChangeRefusal::Invalid(format!("invalid limit: expected a number from 1 to {LIST_MAX}"))),
        }
    }
}

impl TokenWish {
    pub fn read(self) -> Result<NewToken, ChangeRefusal> {
        let scope = match (self.scope.as_deref(), self.user) {
            (None | Some("read-write"), None) => TokenScope::ReadWrite,
            (Some("read-only"), None) => TokenScope::ReadOnly,
            (None | Some("user"), Some(user)) => TokenScope::User(user.into()),
            _ => {
                let text = "invalid scope: expected read-write, read-only, or user with the name of a user";
                return Err(ChangeRefusal::Invalid(text.to_owned()));
            }
        };
        let prefix = self.prefix.unwrap_or_default().into_bytes().into();
        Ok(NewToken { scope, prefix, ttl_ms: ttl_ms(self.ttl.as_deref())?.flatten() })
    }
}

/// Reads a time to live; `Some(None)`: `never`.
///
/// # Errors
/// When it is no duration.
pub fn ttl_ms(ttl: Option<&str>) -> Result<Option<Option<u64>>, ChangeRefusal> {
    let Some(ttl) = ttl else { return Ok(None) };
    let ttl: Interval = ttl.parse().map_err(|problem| ChangeRefusal::Invalid(format!("invalid ttl: {problem}")))?;
    match ttl.duration().map(|ttl| ttl.as_millis()) {
        Some(0) => Err(ChangeRefusal::Invalid("invalid ttl: it must be longer than nothing".to_owned())),
        ttl_ms => Ok(Some(ttl_ms.map(|ttl_ms| u64::try_from(ttl_ms).unwrap_or(u64::MAX)))),
    }
}

/// Reads a moment.
///
/// # Errors
/// When it is none.
pub fn moment(at: Option<&str>) -> Result<Option<PastMoment>, ChangeRefusal> {
    at.map(str::parse).transpose().map_err(ChangeRefusal::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(json: &str) -> Result<NewToken, String> {
        let wish: TokenWish = serde_json::from_str(json).map_err(|error| error.to_string())?;
        wish.read().map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn tokens_are_read_exactly() {
        assert_eq!(token("{}"), Ok(NewToken::plain()));
        let read = token(r#"{"scope":"read-only","prefix":"p:","ttl":"1m"}"#).unwrap();
        assert_eq!((read.scope, &*read.prefix, read.ttl_ms), (TokenScope::ReadOnly, b"p:".as_slice(), Some(60_000)));
        assert_eq!(token(r#"{"user":"app"}"#).unwrap().scope, TokenScope::User("app".into()));
        for (json, part) in [
            (r#"{"scope":"all"}"#, "invalid scope"),
            (r#"{"scope":"user"}"#, "invalid scope"),
            (r#"{"scope":"read-only","user":"app"}"#, "invalid scope"),
            (r#"{"scopes":"read-only"}"#, "unknown field"),
            (r#"{"ttl":"soon"}"#, "invalid ttl"),
            (r#"{"ttl":"0"}"#, "invalid ttl"),
            (r#"{"prefix":7}"#, "invalid type"),
        ] {
            let error = token(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
        assert_eq!(ttl_ms(Some("never")), Ok(Some(None)));
        assert_eq!(ttl_ms(None), Ok(None));
    }

    #[test]
    fn bodies_are_bounded() {
        let read = |bytes: Vec<u8>| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(body::<DatabaseWish>(Body::from(bytes)))
        };
        assert!(read(Vec::new()).unwrap().name.is_none());
        assert_eq!(read(br#" {"name":"shop"} "#.to_vec()).unwrap().name.as_deref(), Some("shop"));
        assert!(matches!(read(vec![b' '; BODY_BYTES_MAX + 1]), Err(Unread::TooLarge)));
        for bytes in [&b"{"[..], b"[]", b"{\"name\":1}", b"{\"x\":1}", b"\xff", b"{} {}"] {
            assert!(matches!(read(bytes.to_vec()), Err(Unread::Malformed(_))), "{bytes:?}");
        }
        assert!(matches!(read(b"[".repeat(10_000)), Err(Unread::Malformed(_))), "deep nesting is no danger");
    }
}
