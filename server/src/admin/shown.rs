//! Databases, tokens and usage as JSON. Field names do not change; new fields may be added.

use dormouse_shard::history::HistoryState;
use dormouse_shard::keyspace::INDEXES;
use dormouse_storage::directory::{DatabaseRecord, TokenRecord, TokenScope};
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

use super::operations::MadeToken;
use crate::clock::rfc3339;
use crate::commands::TABLE;
use crate::databases::Tenant;
use crate::health;
use crate::keeper;
use crate::ledger::Period;
use crate::metering::prices::money;
use crate::metering::{CommandTotals, Totals, UsageWindow};
use crate::node::Node;
use crate::options::owner_and_branch;
use crate::prefixes::{PrefixCounts, PrefixUse};

/// Where clients find the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicAddress {
    /// A host name or address, in brackets if it has colons.
    pub host: String,
    /// Schemes and ports, of TLS where the server has it; `None`: it listens on no port.
    pub redis: Option<(&'static str, u16)>,
    pub http: Option<(&'static str, u16)>,
}

impl PublicAddress {
    /// The address as the request names it, or the one on which the server listens.
    pub fn of(node: &Node, host: Option<&str>) -> Self {
        let (named, port) = host.and_then(host_and_port).unzip();
        let bind = node.facts.bind.split(' ').next().unwrap_or_default();
        let bind = match bind {
            "" | "0.0.0.0" | "::" => "127.0.0.1".to_owned(),
            bind if bind.contains(':') => format!("[{bind}]"),
            bind => bind.to_owned(),
        };
        let facts = &node.facts;
        let open = |ports: [(&'static str, u16); 2]| ports.into_iter().find(|(_, port)| *port > 0);
        let redis = open([("rediss", facts.tls.port), ("redis", facts.port)]);
        // The request has come to one of these ports, or to that of a proxy.
        let http = open([("http", facts.http_port), ("https", facts.tls.https_port)]);
        let http = http.map(|(scheme, bound)| match port.flatten() {
            Some(port) if port == facts.tls.https_port => ("https", port),
            port => (scheme, port.unwrap_or(bound)),
        });
        Self { host: named.unwrap_or(bind), redis, http }
    }
}

/// Splits a `Host` header. Only what can be part of a URL is taken.
fn host_and_port(host: &str) -> Option<(String, Option<u16>)> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port.parse().ok()?)),
        _ => (host, None),
    };
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    let is_right = match inner {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.len() <= 253 && is_plain(name),
    };
    is_right.then(|| (name.to_owned(), port))
}

/// One database. `tenant`: if it is in memory.
pub fn database(record: &DatabaseRecord, tenant: Option<&Tenant>, now_ms: u64) -> Value {
    let mut shown = Map::new();
    let mut add = |name: &str, value: Value| _ = shown.insert(name.to_owned(), value);
    add("name", json!(&*record.name));
    let owner = owner_and_branch(&record.name).map(|(owner, _)| owner).or(record.owner.as_deref());
    add("owner", json!(owner));
    let state = if record.deleted.is_some() { "deleted" } else { tenant.map_or("asleep", health::state) };
    add("state", json!(state));
    add("created_at", time(record.created_ms));
    add("expires_at", record.expires_ms.map_or(Value::Null, time));
    if let Some(deletion) = record.deleted {
        add("deleted_at", time(deletion.at_ms));
        add("recoverable_until", time(deletion.until_ms));
    }
    add("unclaimed", json!(record.is_unclaimed));
    add("settings", record.settings.iter().map(|(name, value)| (name.to_string(), json!(&**value))).collect());
    add("tokens", record.tokens.iter().map(|of| token(of, now_ms)).collect());
    if let Some(tenant) = tenant {
        let lineage = tenant.database.lineage();
        let keys: u64 = tenant.database.counts()[..INDEXES].iter().map(|(keys, _)| keys).sum();
        add("source", json!(lineage.source()));
        add("keys", json!(keys));
        add("keys_estimated", json!(tenant.database.has_estimated_counts()));
        add("stored_bytes", json!(tenant.database.counters.stored_bytes.load(Ordering::Relaxed)));
        add("shared_bytes", json!(lineage.shared_bytes));
        add("memory_bytes", json!(tenant.database.used_bytes()));
        add("problem", json!(health::told_of(tenant).first().map(|(_, text)| text)));
    }
    Value::Object(shown)
}

/// A token without its secret.
pub fn token(record: &TokenRecord, now_ms: u64) -> Value {
    let (scope, user) = match &record.scope {
        TokenScope::ReadWrite => ("read-write", None),
        TokenScope::ReadOnly => ("read-only", None),
        TokenScope::User(user) => ("user", Some(&**user)),
    };
    json!({
        "id": record.id,
        "scope": scope,
        "user": user,
        "prefix": String::from_utf8_lossy(&record.prefix),
        "created_at": time(record.created_ms),
        "expires_at": record.expires_ms.map_or(Value::Null, time),
        "expired": record.is_expired(now_ms),
    })
}

/// A token with its secret, and the URLs that clients need.
pub fn made_token(database: &str, made: &MadeToken, address: &PublicAddress, now_ms: u64) -> Value {
    let PublicAddress { host, redis, http } = address;
    let mut shown = token(&made.record, now_ms);
    shown["database"] = json!(database);
    shown["token"] = json!(made.text);
    shown["redis_url"] = json!(redis.map(|(scheme, port)| format!("{scheme}://:{}@{host}:{port}", made.text)));
    shown["rest_url"] = json!(http.map(|(scheme, port)| format!("{scheme}://{host}:{port}")));
    shown
}

/// The history of a database.
pub fn history(tenant: &Tenant) -> Value {
    let HistoryState { from_ms, until_ms, bytes, stretches } = tenant.database.history();
    json!({
        "database": tenant.name(),
        "kept_for": tenant.limits().history.to_string(),
        "from": from_ms.map(time),
        "until": from_ms.map(|_| time(until_ms)),
        "stored_bytes": bytes,
        "stretches": stretches,
    })
}

/// The usage of a database.
pub fn usage(tenant: &Tenant, now_ms: u64) -> Value {
    keeper::settle(tenant, now_ms);
    let totals = tenant.meters.totals(now_ms);
    let closed: Vec<Value> = tenant.meters.closed_windows().iter().map(window).collect();
    let spending = tenant.spending.spent().map(|spent| {
        let limits = tenant.limits().spending;
        json!({
            "since": time(spent.since_ms),
            "request_units": number(&spent.request_units.to_string()),
            "request_units_limit": limits.request_units,
            "money": money(spent.money_nano),
            "money_limit": money(limits.money_nano.into()),
            "exceeded": tenant.spending.is_exceeded(),
        })
    });
    json!({
        "database": tenant.name(),
        "spending": spending,
        "meters": totals.meters().map(|(meter, total)| (meter.name().to_owned(), number(&total.to_string()))).collect::<Map<_, _>>(),
        "window": window(&tenant.meters.usage(now_ms)),
        "closed": closed,
    })
}

/// The usage of a database in a period.
pub fn usage_of(name: &str, period: Period, windows: &[UsageWindow]) -> Value {
    json!({
        "database": name,
        "from": time(period.from_ms),
        "to": time(period.to_ms),
        "windows": windows.iter().map(window).collect::<Vec<_>>(),
    })
}

/// How often each command was called, and how many of its requests were not billed.
pub fn usage_by_command(name: &str, totals: &Totals) -> Value {
    let command = |(index, command): (usize, CommandTotals)| {
        let fields = json!({
            "calls": command.calls,
            "unbilled": command.unbilled,
            "failed": command.failed,
            "rejected": command.rejected,
            "microseconds": command.microseconds(),
        });
        (TABLE.get(index).name.to_string(), fields)
    };
    json!({ "database": name, "commands": totals.commands().map(command).collect::<Map<_, _>>() })
}

/// A count of requests by the prefixes of their keys; one that never began has counted nothing.
pub fn usage_by_prefix(name: &str, counts: &PrefixCounts, now_ms: u64) -> Value {
    let has_begun = counts.until_ms > 0;
    let prefix = |(prefix, uses): (&[u8], &PrefixUse)| {
        json!({
            "prefix": String::from_utf8_lossy(prefix),
            "requests": uses.requests,
            "writes": uses.writes,
            "command": uses.command,
            "client": uses.client,
        })
    };
    json!({
        "database": name,
        "counting": counts.is_on(now_ms),
        "start": has_begun.then(|| time(counts.began_ms)),
        "end": has_begun.then(|| time(counts.until_ms)),
        "requests": counts.requests,
        "without_key": counts.without_key,
        "others": counts.others,
        "prefixes": counts.sorted().into_iter().map(prefix).collect::<Vec<_>>(),
    })
}

fn window(window: &UsageWindow) -> Value {
    let events = window
        .events()
        .map(|event| json!({ "id": event.id, "meter": event.meter.name(), "quantity": number(&event.quantity) }));
    json!({ "start": time(window.start_ms), "end": time(window.end_ms), "events": events.collect::<Vec<_>>() })
}

/// A count as a JSON number, or as a text if it is too large for programs to read without loss.
fn number(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number))
}

/// RFC 3339, in UTC.
pub fn time(unix_ms: u64) -> Value {
    rfc3339(unix_ms).map_or(Value::Null, Value::String)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_become_part_of_a_url() {
        for (host, expected) in [
            ("example.com", Some(("example.com", None))),
            ("example.com:8379", Some(("example.com", Some(8379)))),
            ("127.0.0.1:1", Some(("127.0.0.1", Some(1)))),
            ("[::1]:8379", Some(("[::1]", Some(8379)))),
            ("[::1]", Some(("[::1]", None))),
            ("a@b", None),
            ("a/b", None),
            ("a:b", None),
            ("", None),
            (":1", None),
            ("[x]", None),
            ("a b", None),
            ("a\"b", None),
        ] {
            let found = host_and_port(host);
            assert_eq!(found.as_ref().map(|(host, port)| (host.as_str(), *port)), expected, "{host}");
        }
    }
}
