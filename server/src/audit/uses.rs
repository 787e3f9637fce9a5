//! Events that may come by the thousand, counted by the minute.
//!
//! 1. The minute begins with its first event. Events are alike that have the same action, result, actor, database and
//!    origin. The first of its kind gets a line; the others are counted.
//! 2. An actor has a number of kinds. What is beyond is counted without its database and origin.
//! 3. So have all tokens and users of an owner together: a tenant may make any number of users. What is beyond is counted
//!    without its actor and action.
//! 4. After the minute the counts are taken, and each becomes a line ([`AuditedUses::take`]).
//!
//! A wrong secret has no actor, so it is counted by its origin alone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::event::{Actor, AuditEvent, AuditResult, Line, address_of, time};
use crate::strangers::Neighbourhood;

const MINUTE: Duration = Duration::from_secs(60);

/// Most kinds of events in a minute, of all actors and of one.
const KINDS_MAX: usize = 16_384;
const KINDS_OF_ACTOR_MAX: usize = 64;
/// The same for the tokens and users of one owner.
const KINDS_OF_OWNER_MAX: usize = 512;
/// The same for those without an actor: each address is a kind.
const KINDS_OF_STRANGERS_MAX: usize = 1024;

/// Outcome of noting an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotedUse {
    /// It is the first of its kind.
    First,
    Counted,
    /// There are too many kinds.
    Beyond,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    action: &'static str,
    result: AuditResult,
    actor: Actor,
    route: &'static str,
    database: Option<Box<str>>,
    origin: Option<Neighbourhood>,
}

impl Kind {
    fn of(event: &AuditEvent) -> Self {
        let is_known = event.actor != Actor::Unknown;
        Self {
            action: event.action,
            result: event.result,
            actor: event.actor.clone(),
            route: event.route(),
            database: event.database.clone().filter(|_| is_known),
            origin: Some(Neighbourhood::of(&event.peer)),
        }
    }

    /// The kind of all clients of an owner whose kinds are too many.
    fn of_owner(self) -> Option<Self> {
        let database = self.actor.owner()?.into();
        Some(Self { action: "others", actor: Actor::ClientsOf { database }, database: None, origin: None, ..self })
    }
}

/// The kinds of events of the current minute.
#[derive(Debug, Default)]
pub struct AuditedUses(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    /// When it has begun, by the monotonic clock and in Unix milliseconds.
    began: Option<(Instant, u64)>,
    /// How many events were counted, and when the last one came.
    counts: HashMap<Kind, (u64, u64)>,
    by_actor: HashMap<Actor, usize>,
    by_owner: HashMap<Box<str>, usize>,
}

impl AuditedUses {
    pub fn note(&self, event: &AuditEvent) -> NotedUse {
        let mut minute = self.0.lock();
        minute.began.get_or_insert_with(|| (Instant::now(), event.at_ms));
        let kind = Kind::of(event);
        if minute.count(&kind, event.at_ms) {
            return NotedUse::Counted;
        }
        if minute.has_room_for(&kind) && minute.of_actor(&kind.actor) < kinds_max(&kind.actor) {
            *minute.by_actor.entry(kind.actor.clone()).or_default() += 1;
            minute.insert(kind, 0, event.at_ms);
            return NotedUse::First;
        }
        let of_actor = Kind { database: None, origin: None, ..kind };
        if minute.count(&of_actor, event.at_ms) {
            return NotedUse::Counted;
        }
        if minute.has_room_for(&of_actor) {
            minute.insert(of_actor, 1, event.at_ms);
            return NotedUse::Counted;
        }
        let Some(of_owner) = of_actor.of_owner() else { return NotedUse::Beyond };
        if !minute.count(&of_owner, event.at_ms) {
            if minute.counts.len() >= KINDS_MAX {
                return NotedUse::Beyond;
            }
            minute.counts.insert(of_owner, (1, event.at_ms));
        }
        NotedUse::Counted
    }

    /// The time until the minute is over; `None`: none has begun.
    pub fn left(&self) -> Option<Duration> {
        let (began, _) = self.0.lock().began?;
        Some(MINUTE.saturating_sub(began.elapsed()))
    }

    /// Ends the minute. Returns the lines of what was counted.
    pub fn take(&self) -> impl Iterator<Item = String> {
        let minute = std::mem::take(&mut *self.0.lock());
        let since = minute.began.map_or(0, |(_, since_ms)| since_ms);
        minute.counts.into_iter().filter(|(_, (count, _))| *count > 0).map(move |(kind, (count, last_ms))| {
            let mut line = Line::new(last_ms, kind.action, kind.result, &kind.actor, kind.route);
            line.database = kind.database.as_deref();
            line.address = kind.origin.map(address_of);
            line.count = Some(count);
            line.since = Some(time(since));
            line.text()
        })
    }
}

impl Minute {
    fn has_room_for(&self, kind: &Kind) -> bool {
        let of_owner = kind.actor.owner().and_then(|owner| self.by_owner.get(owner));
        self.counts.len() < KINDS_MAX && of_owner.is_none_or(|kinds| *kinds < KINDS_OF_OWNER_MAX)
    }

    fn of_actor(&self, actor: &Actor) -> usize {
        self.by_actor.get(actor).copied().unwrap_or(0)
    }

    fn insert(&mut self, kind: Kind, count: u64, at_ms: u64) {
        if let Some(owner) = kind.actor.owner() {
            match self.by_owner.get_mut(owner) {
                Some(kinds) => *kinds += 1,
                None => _ = self.by_owner.insert(owner.into(), 1),
            }
        }
        self.counts.insert(kind, (count, at_ms));
    }

    /// Counts an event of a kind that is known.
    fn count(&mut self, kind: &Kind, at_ms: u64) -> bool {
        let Some((count, last_ms)) = self.counts.get_mut(kind) else { return false };
        *count += 1;
        *last_ms = at_ms;
        true
    }
}

fn kinds_max(actor: &Actor) -> usize {
    match actor {
        Actor::Unknown | Actor::Anyone => KINDS_OF_STRANGERS_MAX,
        Actor::Admin => KINDS_MAX,
        _ => KINDS_OF_ACTOR_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Peer;

    fn event(actor: Actor, database: &str, address: u32) -> AuditEvent {
        let remote = std::net::SocketAddr::from((std::net::Ipv4Addr::from_bits(address), 7));
        let peer = Peer::Tcp { remote, local: "10.0.0.2:6379".parse().unwrap(), is_tls: false };
        let result = if actor == Actor::Unknown { AuditResult::Refused("wrong-secret") } else { AuditResult::Done };
        AuditEvent {
            database: Some(database.into()),
            ..AuditEvent::new(u64::from(address), "login", result, actor, peer)
        }
    }

    fn token(id: u32) -> Actor {
        Actor::Token { database: "shop".into(), id }
    }

    fn counts(uses: &AuditedUses) -> Vec<u64> {
        let lines = uses.take().map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
        let mut counts: Vec<u64> = lines.map(|line| line["count"].as_u64().unwrap()).collect();
        counts.sort_unstable();
        counts
    }

    #[test]
    fn the_first_of_a_kind_is_told_apart() {
        let uses = AuditedUses::default();
        assert_eq!(uses.left(), None);
        assert_eq!(uses.note(&event(token(1), "shop", 1)), NotedUse::First);
        assert_eq!(uses.note(&event(token(1), "shop", 1)), NotedUse::Counted);
        assert_eq!(uses.note(&event(token(1), "shop", 2)), NotedUse::First);
        assert_eq!(uses.note(&event(token(2), "shop", 1)), NotedUse::First);
        assert_eq!(uses.note(&event(token(1), "shop.pr", 1)), NotedUse::First);
        // Wrong secrets are alike whatever they aim at.
        assert_eq!(uses.note(&event(Actor::Unknown, "shop", 1)), NotedUse::First);
        assert_eq!(uses.note(&event(Actor::Unknown, "blog", 1)), NotedUse::Counted);
        assert!(uses.left().unwrap() <= MINUTE);
        assert_eq!(counts(&uses), [1, 1]);
        assert_eq!(uses.left(), None);
        assert_eq!(uses.note(&event(token(1), "shop", 1)), NotedUse::First);
    }

    #[test]
    fn a_tenant_and_the_strangers_are_bounded_and_keep_out_no_other() {
        let uses = AuditedUses::default();
        let firsts = |noted: &[NotedUse]| noted.iter().filter(|noted| **noted == NotedUse::First).count();
        let of_tenant: Vec<NotedUse> = (0..5000).map(|address| uses.note(&event(token(1), "shop", address))).collect();
        assert_eq!(firsts(&of_tenant), KINDS_OF_ACTOR_MAX);
        let of_strangers: Vec<NotedUse> =
            (0..5000).map(|address| uses.note(&event(Actor::Unknown, "shop", address))).collect();
        assert_eq!(firsts(&of_strangers), KINDS_OF_STRANGERS_MAX);
        assert!(!of_tenant.contains(&NotedUse::Beyond) && !of_strangers.contains(&NotedUse::Beyond));
        assert_eq!(uses.note(&event(token(2), "shop", 1)), NotedUse::First);
        assert_eq!(counts(&uses), [5000 - 1024, 5000 - 64]);
        let many = |id: u32| uses.note(&event(Actor::Token { database: format!("shop{id}").into(), id }, "shop", 1));
        let many: Vec<NotedUse> = (0..KINDS_MAX as u32 + 10).map(many).collect();
        assert_eq!((firsts(&many), many.last()), (KINDS_MAX, Some(&NotedUse::Beyond)));
    }

    #[test]
    fn a_tenant_with_many_users_keeps_out_no_other() {
        let uses = AuditedUses::default();
        let user = |number: u32| {
            let database = if number.is_multiple_of(2) { "shop" } else { "shop.pr-1" };
            Actor::User { database: database.into(), name: number.to_string().into() }
        };
        const USERS: u32 = 2 * KINDS_MAX as u32;
        let noted: Vec<NotedUse> = (0..USERS).map(|number| uses.note(&event(user(number), "shop", 1))).collect();
        let firsts = noted.iter().filter(|noted| **noted == NotedUse::First).count();
        assert_eq!((firsts, noted.last()), (KINDS_OF_OWNER_MAX, Some(&NotedUse::Counted)));
        assert_eq!(uses.note(&event(token(1), "blog", 1)), NotedUse::Counted, "`token` is one of shop's");
        assert_eq!(uses.note(&event(Actor::Unknown, "shop", 1)), NotedUse::First);
        let lines: Vec<String> = uses.take().collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let others = format!("\"who\":\"clients\",\"of\":\"shop\",\"via\":\"resp\",\"count\":{}", USERS as usize - 511);
        assert!(lines[0].contains("\"audit\":\"others\"") && lines[0].contains(&others), "{lines:?}");
    }
}
