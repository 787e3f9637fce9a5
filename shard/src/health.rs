//! The problems of a node or one of its databases, kept in one place and reported with the same words everywhere:
//! `/readyz`, `INFO`, metrics, `DORMOUSE DATABASES`, replies and logs.
//!
//! 1. Code that meets a problem reports it as a [`Condition`]: its kind, and a text that names the object ([`Health::report`]).
//!    It is counted each time, and kept once.
//! 2. When the same thing succeeds again, the condition is resolved ([`Health::resolve`]). A damaged or missing object stays
//!    known until a load has read everything.
//! 3. [`Condition::told`] makes the text that people and programs see.
//!
//! A database and the node have a [`Health`] each. A node is ready when neither it nor any of its databases has a
//! condition that [`ConditionKind::is_serious`]: one that loses or refuses what a client asks for. A node with thousands of databases
//! is not ready because of one of them, and says of which. A router that needs the readiness of a single database
//! reads `DORMOUSE DATABASES` or the metric by database instead.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Conditions that are kept; more are counted only.
const KEPT_MAX: usize = 64;

/// The sort of a problem: by who must act, and how it is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionKind {
    /// The newest manifest cannot be read: the database is refused.
    Manifest,
    /// A chunk or a tail is missing or damaged: keys in it are refused.
    Data,
    /// The log is damaged, or lacks entries that a manifest needs: the database is refused.
    Log,
    /// Another process has taken the store or the database over: everything is refused here.
    TakenOver,
    /// The store has no space left.
    Full,
    /// The store or the log refused the last write.
    Store,
    /// Acknowledged data may be missing; the rest is served.
    MayBeMissing,
}

impl ConditionKind {
    pub const ALL: [ConditionKind; 7] = [
        ConditionKind::Manifest,
        ConditionKind::Data,
        ConditionKind::Log,
        ConditionKind::TakenOver,
        ConditionKind::Full,
        ConditionKind::Store,
        ConditionKind::MayBeMissing,
    ];

    /// As metrics and replies name it.
    pub fn name(self) -> &'static str {
        match self {
            ConditionKind::Manifest => "manifest",
            ConditionKind::Data => "data",
            ConditionKind::Log => "log",
            ConditionKind::TakenOver => "taken_over",
            ConditionKind::Full => "full",
            ConditionKind::Store => "store",
            ConditionKind::MayBeMissing => "may_be_missing",
        }
    }

    /// Whether a node with such a condition is not ready.
    pub fn is_serious(self) -> bool {
        self != ConditionKind::MayBeMissing
    }

    /// Whether a newer text replaces the one before: there is one newest manifest, and one store.
    fn is_single(self) -> bool {
        matches!(self, ConditionKind::Manifest | ConditionKind::TakenOver | ConditionKind::Full | ConditionKind::Store)
    }
}

/// A present problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub kind: ConditionKind,
    /// The object and its defect.
    pub what: String,
}

impl Condition {
    /// The text that reports it: of the node, or of one database.
    pub fn told(&self, database: Option<&str>) -> String {
        // Many errors name their database themselves.
        let prefix = database.map(|name| (format!("database {name}"), format!("database `{name}`")));
        match prefix {
            Some((plain, quoted)) if !self.what.starts_with(&plain) && !self.what.starts_with(&quoted) => {
                format!("{quoted}: {}", self.what)
            }
            _ => self.what.clone(),
        }
    }
}

/// The conditions of one node or database.
#[derive(Debug, Default)]
pub struct Health {
    conditions: Mutex<Vec<Condition>>,
    reported: [AtomicU64; ConditionKind::ALL.len()],
}

impl Health {
    /// Counts a problem and keeps it until it is resolved. Returns true if it is new, so that it may be logged once.
    pub fn report(&self, kind: ConditionKind, what: impl Into<String>) -> bool {
        self.reported[kind as usize].fetch_add(1, Ordering::Relaxed);
        let condition = Condition { kind, what: what.into() };
        let mut conditions = self.conditions.lock();
        if conditions.contains(&condition) {
            return false;
        }
        let same = conditions.iter_mut().find(|known| kind.is_single() && known.kind == kind);
        match same {
            Some(known) => {
                *known = condition;
                false
            }
            None => {
                if conditions.len() < KEPT_MAX {
                    conditions.push(condition);
                }
                true
            }
        }
    }

    /// Resolves all problems of this kind. Returns true if there were any.
    pub fn resolve(&self, kind: ConditionKind) -> bool {
        let mut conditions = self.conditions.lock();
        let before = conditions.len();
        conditions.retain(|condition| condition.kind != kind);
        conditions.len() < before
    }

    /// In the order in which they were met.
    pub fn conditions(&self) -> Vec<Condition> {
        self.conditions.lock().clone()
    }

    pub fn is_well(&self) -> bool {
        !self.conditions.lock().iter().any(|condition| condition.kind.is_serious())
    }

    /// How often a problem of this kind was met since the process started.
    pub fn reported(&self, kind: ConditionKind) -> u64 {
        self.reported[kind as usize].load(Ordering::Relaxed)
    }

    /// One word for the worst present problem: `refused`, `damaged`, `full`, `failing`, or nothing.
    pub fn state(&self) -> Option<&'static str> {
        let worst = self.conditions.lock().iter().map(|condition| condition.kind).min()?;
        match worst {
            ConditionKind::Manifest | ConditionKind::Log | ConditionKind::TakenOver => Some("refused"),
            ConditionKind::Data => Some("damaged"),
            ConditionKind::Full => Some("full"),
            ConditionKind::Store => Some("failing"),
            ConditionKind::MayBeMissing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_kept_once_and_counted_each_time() {
        let health = Health::default();
        assert!(health.report(ConditionKind::Data, "db/a/chunk/1: missing from the store"));
        assert!(!health.report(ConditionKind::Data, "db/a/chunk/1: missing from the store"));
        assert!(health.report(ConditionKind::Data, "db/a/chunk/2: missing from the store"));
        assert_eq!((health.conditions().len(), health.reported(ConditionKind::Data)), (2, 3));
        assert_eq!((health.state(), health.is_well()), (Some("damaged"), false));
        assert!(health.resolve(ConditionKind::Data) && !health.resolve(ConditionKind::Data));
        assert!(health.is_well() && health.state().is_none());
    }

    #[test]
    fn the_store_has_one_condition_of_a_kind() {
        let health = Health::default();
        assert!(health.report(ConditionKind::Store, "first"));
        assert!(!health.report(ConditionKind::Store, "second"));
        assert_eq!(health.conditions(), [Condition { kind: ConditionKind::Store, what: "second".to_owned() }]);
        for at in 0..2 * KEPT_MAX {
            health.report(ConditionKind::Data, at.to_string());
        }
        assert_eq!(health.conditions().len(), KEPT_MAX);
        health.resolve(ConditionKind::Data);
        health.resolve(ConditionKind::Store);
        health.report(ConditionKind::MayBeMissing, "writes after 5");
        assert!(health.is_well() && health.state().is_none());
    }

    #[test]
    fn a_text_names_its_database_once() {
        let told = |what: &str| Condition { kind: ConditionKind::Log, what: what.to_owned() }.told(Some("shop"));
        assert_eq!(told("log/1: damaged"), "database `shop`: log/1: damaged");
        assert_eq!(told("database shop: the log lacks writes 1 to 2"), "database shop: the log lacks writes 1 to 2");
        assert_eq!(told("database `shop` was taken over"), "database `shop` was taken over");
    }

    #[test]
    fn kinds_stand_in_the_order_of_their_numbers() {
        for (at, kind) in ConditionKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
    }
}
