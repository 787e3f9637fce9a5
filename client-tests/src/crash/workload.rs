//! The clients' load: random operations of one client, each of which leaves a unique trace.
//!
//! Values carry the client's **serial**, which never repeats, even if a crash has lost the value that it was written
//! with. So a value that comes back from the dead fits no permitted state.

use super::model::{Change, Key, SHARED_COUNTER, Space, Value};
use crate::script::Random;

/// Databases, each with a token of its own.
pub const DATABASES: usize = 3;
/// Clients, each of which writes to all of the databases, one after the other.
pub const CLIENTS: usize = 3;
/// Indexes in use: one that all clients share, and two for each client, to flush and swap.
pub const INDEXES: usize = 1 + 2 * CLIENTS;

/// Text keys of a client, more in each database: so many that they fill several segments of the last.
const WIDE_KEYS: [usize; DATABASES] = [30, 200, 1500];
const FAR_MS: u64 = 4_000_000_000_000;
const APPENDED_LEN_MAX: usize = 500;
const LIST_LEN_MAX: usize = 40;
const LOG_LEN_MAX: usize = 20;
const QUADRUPLE: usize = 4;
const ACCOUNTS: usize = 6;

/// How an operation is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Command,
    /// In `MULTI` and `EXEC`.
    Transaction,
    /// In a script that names its keys and runs from its first line to its last.
    Script,
    /// In a script with a loop.
    LongScript,
    /// On a connection that waits for what another pushes.
    Awaited,
}

/// One command, or several that take effect together.
#[derive(Clone, Debug)]
pub struct Operation {
    pub database: usize,
    pub index: usize,
    pub changes: Vec<Change>,
    pub form: Form,
}

impl Operation {
    /// Whether its effect is known only from the reply. No other operation may be sent before that.
    pub fn draws(&self) -> bool {
        matches!(self.changes.as_slice(), [Change::Draw { .. }])
    }
}

/// The operations of one client. Its serial lasts as long as the store.
#[derive(Clone, Debug)]
pub struct Workload {
    pub client: usize,
    pub serial: u64,
    /// Whether the server knows commands that are newer than Redis 7.0.
    pub is_newer: bool,
}

impl Workload {
    pub fn new(client: usize) -> Self {
        Self { client, serial: 0, is_newer: true }
    }

    /// Returns the next operation. `space` is the state after all previous ones.
    pub fn next(&mut self, random: &mut Random, space: &Space, database: usize, now_ms: u64) -> Operation {
        self.serial += 1;
        let own_index = 1 + 2 * self.client + random.below(2);
        let mut index = 0;
        let changes = match random.below(100) {
            0..20 => vec![self.wide(random, database)],
            20..36 => vec![self.text(random, space, database)],
            36..42 => vec![self.expiring(random, space, database, now_ms)],
            42..46 => vec![self.hash(random)],
            46 | 47 if self.is_newer => vec![self.field(random)],
            48 | 49 if self.is_newer => vec![self.once(random)],
            46..54 => vec![self.stream(random, space, database)],
            54..60 => vec![self.list(random)],
            60..68 => vec![self.set(random)],
            68..74 => vec![self.sorted(random)],
            74..86 => {
                let mut changes = self.transaction(random);
                changes.insert(random.below(changes.len() + 1), self.mark());
                changes
            }
            _ => {
                index = own_index;
                self.own_index(random)
            }
        };
        let form = match changes.len() {
            1 => Form::Command,
            // No script swaps or flushes indexes here.
            _ if index > 0 => Form::Transaction,
            _ => *random.pick(&[Form::Transaction, Form::Transaction, Form::Script, Form::LongScript]),
        };
        Operation { database, index, changes, form }
    }

    /// Returns what one connection waits for while another pushes it, as two operations: a push and the pop.
    pub fn handoff(&mut self, database: usize) -> [Operation; 2] {
        self.serial += 1;
        // A fresh key: a crash may have left elements in an earlier one.
        let (key, value) = (format!("c{}:awaited:{}", self.client, self.serial), self.serial.to_string());
        let one = |change, form| Operation { database, index: 0, changes: vec![change], form };
        let push = Change::Push { key: key.clone(), left: false, value };
        [one(push, Form::Command), one(Change::Await { key }, Form::Awaited)]
    }

    fn name(&self, kind: &str, random: &mut Random, number: usize) -> String {
        format!("c{}:{kind}{}", self.client, random.below(number))
    }

    fn value(&self, random: &mut Random) -> String {
        let padding = if random.one_in(16) { random.below(3000) } else { random.below(20) };
        format!("{}:{}", self.serial, "x".repeat(padding))
    }

    fn member(random: &mut Random) -> String {
        format!("m{}", random.below(30))
    }

    /// Returns the change that every transaction makes.
    fn mark(&self) -> Change {
        Change::Increment { key: format!("c{}:transactions", self.client), by: 1 }
    }

    fn wide(&self, random: &mut Random, database: usize) -> Change {
        let number = WIDE_KEYS[database];
        match random.below(6) {
            0 => {
                let keys = 2 + random.below(4);
                let pairs = (0..keys).map(|_| (self.name("wide:", random, number), self.value(random))).collect();
                Change::SetMany { pairs }
            }
            1 => Change::Delete { keys: (0..3).map(|_| self.name("wide:", random, number)).collect() },
            _ => {
                let key = self.name("wide:", random, number);
                Change::Set { key, value: self.value(random), expires_ms: None }
            }
        }
    }

    fn text(&self, random: &mut Random, space: &Space, database: usize) -> Change {
        match random.below(6) {
            0 => Change::Set { key: self.name("text:", random, 12), value: self.value(random), expires_ms: None },
            1 | 2 => {
                let key = self.name("count:", random, 4);
                Change::Increment { key, by: if random.one_in(2) { 1 } else { random.below(100) as i64 - 50 } }
            }
            3 => {
                let key = self.name("append:", random, 3);
                let value = format!("{},", self.serial);
                let at = Key { database, index: 0, name: key.clone() };
                match space.get(&at).map(|entry| &entry.value) {
                    Some(Value::Text(text)) if text.len() > APPENDED_LEN_MAX => {
                        Change::Set { key, value, expires_ms: None }
                    }
                    _ => Change::Append { key, text: value },
                }
            }
            // A name of the same slot, then one of another.
            4 => {
                let from = self.name("text:", random, 12);
                let there = Key { database, index: 0, name: from.clone() };
                let to = format!("c{}:{{{from}}}", self.client);
                match space.contains_key(&there) {
                    true => Change::Rename { from, to },
                    false => Change::Set { key: from, value: self.value(random), expires_ms: None },
                }
            }
            _ => {
                let from = self.name("text:", random, 12);
                let to = self.name("text:", random, 12);
                let there = Key { database, index: 0, name: from.clone() };
                match space.contains_key(&there) {
                    true => Change::Rename { from, to },
                    false => Change::Set { key: from, value: self.value(random), expires_ms: None },
                }
            }
        }
    }

    fn expiring(&self, random: &mut Random, space: &Space, database: usize, now_ms: u64) -> Change {
        let late = self.name("late:", random, 6);
        match random.below(6) {
            0 => Change::Set { key: late, value: self.value(random), expires_ms: Some(FAR_MS + self.serial) },
            1 => Change::ExpireAt { key: late, expires_ms: FAR_MS + self.serial },
            2 => Change::Persist { key: late },
            // A time long past: the key goes at once.
            3 => Change::ExpireAt { key: late, expires_ms: 1 + self.serial },
            _ => {
                // The effect of a command that runs while the key expires is unknown. This one runs after.
                let key = self.name("brief:", random, 6);
                let at = Key { database, index: 0, name: key.clone() };
                let expires_ms = space.get(&at).and_then(|entry| entry.expires_ms);
                match expires_ms.is_some_and(|at| at + 2 < now_ms) {
                    true => Change::Increment { key, by: 1 },
                    false => {
                        let expires_ms = Some(now_ms + 1 + random.below(25) as u64);
                        Change::Set { key, value: self.serial.to_string(), expires_ms }
                    }
                }
            }
        }
    }

    fn hash(&self, random: &mut Random) -> Change {
        let key = self.name("hash:", random, 4);
        let field = Self::member(random);
        match random.below(4) {
            0 => Change::HashDelete { key, field },
            1 => Change::HashIncrement { key, field: format!("n{}", random.below(3)) },
            _ => Change::HashSet { key, field, value: self.value(random) },
        }
    }

    fn field(&self, random: &mut Random) -> Change {
        let key = self.name("fields:", random, 3);
        let field = Self::member(random);
        match random.below(4) {
            0 => Change::HashDelete { key, field },
            _ => Change::FieldSet { key, field, value: self.value(random), expires_ms: FAR_MS + self.serial },
        }
    }

    /// A message of late, perhaps one that was added already.
    fn once(&self, random: &mut Random) -> Change {
        let key = self.name("once:", random, 2);
        match random.below(12) {
            0 => Change::Delete { keys: vec![key] },
            _ => {
                let message = format!("m{}", self.serial / 200 * 4 + random.below(4) as u64);
                Change::AddOnce { key, message, value: self.serial.to_string() }
            }
        }
    }

    fn stream(&self, random: &mut Random, space: &Space, database: usize) -> Change {
        let key = self.name("stream:", random, 3);
        let at = Key { database, index: 0, name: key.clone() };
        let log = match space.get(&at).map(|entry| &entry.value) {
            Some(Value::Stream(log)) => Some(log),
            _ => None,
        };
        let group = log.and_then(|log| log.group.as_ref());
        match (group, random.below(10)) {
            (None, 0..3) => Change::LogGroup { key },
            (Some(_), 0..3) => Change::LogRead { key },
            (Some(group), 3..6) if !group.pending.is_empty() => {
                let nth = random.below(group.pending.len());
                Change::LogAcknowledge { key, id: group.pending.iter().nth(nth).copied().unwrap_or(1) }
            }
            (_, 6) => Change::Delete { keys: vec![key] },
            _ => Change::LogAdd { key, id: self.serial, value: self.value(random), keep: LOG_LEN_MAX },
        }
    }

    fn list(&self, random: &mut Random) -> Change {
        let key = self.name("list:", random, 4);
        match random.below(12) {
            0 | 1 => Change::Pop { key, left: random.one_in(2) },
            2..5 => Change::Move { from: key, to: self.name("list:", random, 4) },
            5 => Change::Trim { key, keep: LIST_LEN_MAX },
            left => Change::Push { key, left: left == 6, value: self.serial.to_string() },
        }
    }

    fn set(&self, random: &mut Random) -> Change {
        let key = self.name("set:", random, 4);
        let member = Self::member(random);
        match random.below(12) {
            0 => Change::Remove { key, member },
            1 | 2 => Change::MoveMember { from: key, to: self.name("set:", random, 4), member },
            3 | 4 => {
                let of = [key, self.name("set:", random, 4)];
                Change::Intersect { into: self.name("set:both:", random, 2), of }
            }
            5 => Change::Draw { key, drawn: None },
            6 => Change::Add { key, member: self.serial.to_string() },
            _ => Change::Add { key, member },
        }
    }

    fn sorted(&self, random: &mut Random) -> Change {
        let key = self.name("sorted:", random, 3);
        let member = Self::member(random);
        match random.below(6) {
            0 => Change::ScoreRemove { key, member },
            1 | 2 => Change::ScoreIncrement { key, member, by: 1 + random.below(9) as i64 },
            _ => Change::Score { key, member, score: self.serial as i64 },
        }
    }

    fn transaction(&self, random: &mut Random) -> Vec<Change> {
        match random.below(8) {
            0..3 => {
                let counter = |number| format!("{SHARED_COUNTER}quadruple:{number}");
                (0..QUADRUPLE).map(|number| Change::SharedAdd { counter: counter(number), by: 1 }).collect()
            }
            3..5 => {
                let amount = 1 + random.below(100) as i64;
                let mut entry = |by| Change::SharedAdd {
                    counter: format!("{SHARED_COUNTER}account:{}", random.below(ACCOUNTS)),
                    by,
                };
                vec![entry(-amount), entry(amount)]
            }
            5 => {
                let value = self.serial.to_string();
                let field = format!("f{}", random.below(10));
                let put = Change::SharedHashSet { client: self.client, field, value: value.clone() };
                // The list only grows, so it is not written every time.
                match random.one_in(2) {
                    true => vec![put, Change::SharedPush { client: self.client, value }],
                    false => vec![put],
                }
            }
            _ => {
                let value = self.value(random);
                let set = |number| {
                    let key = format!("c{}:equal:{number}", self.client);
                    Change::Set { key, value: value.clone(), expires_ms: None }
                };
                (0..3).map(set).chain([self.list(random), self.sorted(random)]).collect()
            }
        }
    }

    /// Returns changes in an index that is the client's alone.
    fn own_index(&self, random: &mut Random) -> Vec<Change> {
        let generation = |number: usize| {
            let key = format!("c{}:generation:{number}", self.client);
            Change::Set { key, value: self.serial.to_string(), expires_ms: None }
        };
        match random.below(8) {
            0 => vec![Change::Flush],
            1 => vec![Change::Flush, generation(0), generation(1)],
            2 => vec![Change::Swap { one: 1 + 2 * self.client, other: 2 + 2 * self.client }],
            3 => vec![generation(0), generation(1)],
            4 => vec![self.hash(random)],
            5 => vec![self.list(random)],
            _ => vec![Change::Set { key: self.name("own:", random, 50), value: self.value(random), expires_ms: None }],
        }
    }
}

/// Returns the counters that transactions raise together, by group: `true` if all of a group are equal, `false` if
/// their sum is 0.
pub fn groups_of_counters() -> [(Vec<String>, bool); 2] {
    let names = |kind: &str, number| (0..number).map(|n| format!("{SHARED_COUNTER}{kind}:{n}")).collect();
    [(names("quadruple", QUADRUPLE), true), (names("account", ACCOUNTS), false)]
}
