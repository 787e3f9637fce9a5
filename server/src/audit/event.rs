//! One event of the audit log, and its line.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use crate::clients::{ShownSecret, Told};
use crate::peer::Peer;
use crate::strangers::Neighbourhood;

/// Most characters of a name in a line.
const NAME_CHARS_MAX: usize = 128;

/// Who acts, as far as the server knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The admin token.
    Admin,
    /// The token for `/metrics`.
    MetricsToken,
    /// The token of this number among those of the options.
    OptionToken(usize),
    /// A token that was made while the server ran.
    Token { database: Box<str>, id: u32 },
    /// A user of a database, with his password.
    User { database: Box<str>, name: Box<str> },
    /// Any client of this owner, by a token or as a user.
    ClientsOf { database: Box<str> },
    /// A client that needs no secret.
    Anyone,
    /// A client whose secret is wrong.
    Unknown,
}

impl Actor {
    /// Who a client is by now.
    pub fn of(told: &Told) -> Self {
        match (told.shown, &told.token) {
            (ShownSecret::AdminToken, _) => Self::Admin,
            (ShownSecret::OptionToken(number), _) => Self::OptionToken(number),
            (ShownSecret::Token, Some(token)) => Self::Token { database: token.database.clone(), id: token.id },
            (ShownSecret::Password, _) => {
                let name = cut(&String::from_utf8_lossy(&told.user)).into();
                Self::User { database: (&*told.database).into(), name }
            }
            (ShownSecret::Token | ShownSecret::Nothing, _) => Self::Anyone,
        }
    }

    /// The owner whose token or user it is.
    pub(super) fn owner(&self) -> Option<&str> {
        match self {
            Self::Token { database, .. } | Self::User { database, .. } | Self::ClientsOf { database } => {
                // The name of a branch begins with its owner's.
                database.split('.').next()
            }
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Admin => "admin-token",
            Self::MetricsToken => "metrics-token",
            Self::OptionToken(_) => "option-token",
            Self::Token { .. } => "token",
            Self::User { .. } => "user",
            Self::ClientsOf { .. } => "clients",
            Self::Anyone => "anyone",
            Self::Unknown => "unknown",
        }
    }
}

/// Its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditResult {
    Done,
    /// Refused, or failed, with the reason in a word.
    Refused(&'static str),
}

#[derive(Debug, Clone)]
pub struct AuditEvent {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// The action: `login`, an action of the API such as `database.create`, or the name of a command.
    pub action: &'static str,
    pub result: AuditResult,
    pub actor: Actor,
    /// The database that it was about.
    pub database: Option<Box<str>>,
    /// The id of the token that it was about.
    pub token: Option<u32>,
    /// The node of the fleet that it was about.
    pub node: Option<Box<str>>,
    pub peer: Peer,
    pub is_http: bool,
    /// The id of the connection, as in `CLIENT LIST`.
    pub client: Option<u64>,
    /// Whose certificate it has shown over TLS.
    pub certificate: Option<Arc<str>>,
}

impl AuditEvent {
    pub fn new(at_ms: u64, action: &'static str, result: AuditResult, actor: Actor, peer: Peer) -> Self {
        Self {
            at_ms,
            action,
            result,
            actor,
            database: None,
            token: None,
            node: None,
            peer,
            is_http: false,
            client: None,
            certificate: None,
        }
    }

    /// The way by which it came.
    pub(super) fn route(&self) -> &'static str {
        match (&self.peer, self.is_http) {
            (Peer::Unix(_), false) => "unix",
            (Peer::Unix(_), true) => "http-unix",
            (peer, false) => {
                if peer.is_tls() {
                    "resp-tls"
                } else {
                    "resp"
                }
            }
            (peer, true) => {
                if peer.is_tls() {
                    "https"
                } else {
                    "http"
                }
            }
        }
    }

    pub(super) fn line(&self) -> String {
        let mut line = Line::new(self.at_ms, self.action, self.result, &self.actor, self.route());
        line.database = self.database.as_deref().map(cut);
        line.about_token = self.token;
        line.node = self.node.as_deref().map(cut);
        line.address = Some(self.peer.to_string());
        line.client = self.client;
        line.certificate = self.certificate.as_deref().map(cut);
        line.text()
    }
}

/// A line, in the order of its fields.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    time: String,
    audit: &'static str,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    who: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
    /// The database whose token or user it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about_token: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    via: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<&'a str>,
    /// The further events of the kind since `since`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

impl<'a> Line<'a> {
    pub fn new(at_ms: u64, action: &'static str, result: AuditResult, actor: &'a Actor, route: &'static str) -> Self {
        let (result, reason) = match result {
            AuditResult::Done => ("done", None),
            AuditResult::Refused(reason) => ("refused", Some(reason)),
        };
        let (token, of, user) = match actor {
            Actor::OptionToken(number) => (Some(*number as u64), None, None),
            Actor::Token { database, id } => (Some(u64::from(*id)), Some(&**database), None),
            Actor::User { database, name } => (None, Some(&**database), Some(&**name)),
            Actor::ClientsOf { database } => (None, Some(&**database), None),
            Actor::Admin | Actor::MetricsToken | Actor::Anyone | Actor::Unknown => (None, None, None),
        };
        Self {
            time: time(at_ms),
            audit: action,
            result,
            reason,
            who: actor.kind(),
            token,
            of,
            user,
            database: None,
            about_token: None,
            node: None,
            address: None,
            via: route,
            client: None,
            certificate: None,
            count: None,
            since: None,
        }
    }

    /// The line with its end.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a line has text keys only");
        text.push('\n');
        text
    }
}

pub(super) fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// An origin as it is written: a network for IPv6.
pub(super) fn address_of(origin: Neighbourhood) -> String {
    match origin {
        Neighbourhood::Local => "local".to_owned(),
        Neighbourhood::V4(octets) => Ipv4Addr::from(octets).to_string(),
        Neighbourhood::V6(network) => {
            let mut octets = [0; 16];
            octets[..8].copy_from_slice(&network);
            format!("{}/64", Ipv6Addr::from(octets))
        }
    }
}

fn cut(name: &str) -> &str {
    match name.char_indices().nth(NAME_CHARS_MAX) {
        Some((end, _)) => &name[..end],
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::TokenUse;

    fn peer(is_tls: bool) -> Peer {
        Peer::Tcp { remote: "10.0.0.1:7".parse().unwrap(), local: "10.0.0.2:6379".parse().unwrap(), is_tls }
    }

    #[test]
    fn a_line_says_who_what_when_and_from_where() {
        let actor = Actor::Token { database: "shop".into(), id: 3 };
        let event = AuditEvent {
            database: Some("shop.pr-1".into()),
            client: Some(12),
            ..AuditEvent::new(1_700_000_000_123, "login", AuditResult::Done, actor, peer(true))
        };
        assert_eq!(
            event.line(),
            "{\"time\":\"2023-11-14T22:13:20.123Z\",\"audit\":\"login\",\"result\":\"done\",\"who\":\"token\",\
             \"token\":3,\"of\":\"shop\",\"database\":\"shop.pr-1\",\"address\":\"10.0.0.1:7\",\"via\":\"resp-tls\",\
             \"client\":12}\n"
        );
        let event = AuditEvent {
            is_http: true,
            token: Some(4),
            ..AuditEvent::new(0, "token.revoke", AuditResult::Refused("unknown"), Actor::Admin, peer(false))
        };
        assert_eq!(
            event.line(),
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"audit\":\"token.revoke\",\"result\":\"refused\",\
             \"reason\":\"unknown\",\"who\":\"admin-token\",\"about_token\":4,\"address\":\"10.0.0.1:7\",\"via\":\"http\"}\n"
        );
    }

    #[test]
    fn names_are_escaped_and_cut() {
        let name = "\"\n\u{1}\u{202e}<script>".to_owned() + &"x".repeat(10_000);
        let told = Told { user: name.as_bytes().into(), shown: ShownSecret::Password, ..Told::default() };
        let event = AuditEvent {
            database: Some(name.clone().into()),
            ..AuditEvent::new(0, "login", AuditResult::Done, Actor::of(&told), peer(false))
        };
        let line = event.line();
        assert!(line.len() < 1000 && line.matches('\n').count() == 1, "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        let cut: String = name.chars().take(NAME_CHARS_MAX).collect();
        assert_eq!((&read["user"], &read["database"]), (&cut.clone().into(), &cut.into()));
    }

    #[test]
    fn actors_are_those_of_their_secrets() {
        let token = TokenUse { database: "shop".into(), id: 3, expires_ms: None };
        let of = |shown, token| Actor::of(&Told { shown, token, user: b"ann"[..].into(), ..Told::default() });
        assert_eq!(of(ShownSecret::Nothing, None), Actor::Anyone);
        assert_eq!(of(ShownSecret::AdminToken, None), Actor::Admin);
        assert_eq!(of(ShownSecret::OptionToken(2), None), Actor::OptionToken(2));
        assert_eq!(of(ShownSecret::Token, Some(token)), Actor::Token { database: "shop".into(), id: 3 });
        assert_eq!(of(ShownSecret::Password, None), Actor::User { database: "".into(), name: "ann".into() });
    }

    #[test]
    fn addresses_of_origins() {
        assert_eq!(address_of(Neighbourhood::of(&peer(false))), "10.0.0.1");
        assert_eq!(address_of(Neighbourhood::V6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 2])), "2001:db8:1:2::/64");
        assert_eq!(address_of(Neighbourhood::Local), "local");
    }
}
