//! The open door: anyone may make a database that does not live long, within limits.
//!
//! That is what an agent or a preview deployment wants: no account, no form. Such a database is *unclaimed*: it deletes
//! itself, and the operator can claim it, whereupon it loses its end and its limits. Its name is chosen by the server, so
//! no one takes a name that others expect to find.
//!
//! Limits hold for all strangers together (how many unclaimed databases there are) and for each second (how many are
//! made), and what each database may use is among its settings.

use std::collections::BTreeMap;

use dormouse_storage::directory::TokenScope;
use serde::Deserialize;

use super::asked::ttl_ms;
use super::operations::{NewDatabase, NewToken};
use super::rate::RequestRate;
use crate::directory::ChangeRefusal;
use crate::node::Node;
use crate::options::Interval;

/// The longest life.
pub const TTL_MS_MAX: u64 = 72 * 3_600_000;

/// The settings that limit an unclaimed database.
pub const LIMITS: &[&str] = &["history", "max-memory", "max-memory-clients", "sleep-after"];

/// Databases that are made a second, and at once.
const MADE_PER_SECOND: u64 = 5;
const MADE_AT_ONCE: u64 = 20;

/// The request of a stranger.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenWish {
    /// A duration such as `2h`, at most 72h.
    pub ttl: Option<String>,
}

#[derive(Debug)]
pub struct OpenDoor {
    /// Most databases that are not claimed.
    databases_max: usize,
    /// Most bytes of data in memory of each.
    max_memory: u64,
    rate: RequestRate,
}

impl OpenDoor {
    pub fn new(databases_max: usize, max_memory: u64) -> Self {
        Self { databases_max, max_memory, rate: RequestRate::new(MADE_PER_SECOND, MADE_AT_ONCE) }
    }

    /// Lets a stranger make a database.
    ///
    /// # Errors
    /// When there are too many, or too many at once.
    pub fn admit(&self, node: &Node, asked: OpenWish, now_ms: u64) -> Result<NewDatabase, ChangeRefusal> {
        let ttl = ttl_ms(asked.ttl.as_deref())?.unwrap_or(Some(TTL_MS_MAX));
        let ttl_ms = ttl.filter(|ttl_ms| *ttl_ms <= TTL_MS_MAX);
        let ttl_ms = ttl_ms.ok_or_else(|| ChangeRefusal::Invalid("invalid ttl: expected at most 72h".to_owned()))?;
        if node.tenants.directory.known().unclaimed() >= self.databases_max {
            let text = format!("{} databases wait to be claimed or to end: no more are made now", self.databases_max);
            return Err(ChangeRefusal::Limit(text));
        }
        if !self.rate.admits(now_ms) {
            return Err(ChangeRefusal::Limit("too many databases are made at once: try again in a second".to_owned()));
        }
        let shortest = |limit: Interval, most: &str| match most.parse::<Interval>() {
            Ok(most) if most.milliseconds() < limit.milliseconds() => most.to_string(),
            _ => limit.to_string(),
        };
        let limits = node.limits;
        let sleep_after = shortest(limits.sleep_after, "60s");
        let memory = if limits.max_memory == 0 { self.max_memory } else { self.max_memory.min(limits.max_memory) };
        let clients = match limits.max_memory_clients {
            0 => self.max_memory,
            limit => self.max_memory.min(limit),
        };
        let settings = BTreeMap::from([
            ("history".into(), Some("off".into())),
            ("max-memory".into(), Some(memory.to_string().into())),
            ("max-memory-clients".into(), Some(clients.to_string().into())),
            ("sleep-after".into(), Some(sleep_after.into())),
        ]);
        let token = NewToken { scope: TokenScope::ReadWrite, prefix: Box::default(), ttl_ms: None };
        Ok(NewDatabase { name: None, ttl_ms: Some(ttl_ms), settings, token, is_unclaimed: true })
    }
}
