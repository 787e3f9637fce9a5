//! The effect of one client's commands on its keys: a naive Redis over a map.
//!
//! A key belongs to one client, so a client knows the state after each of its commands without asking the server:
//!
//! - a **private** key is written by its owner alone, and named `c<client>:<rest>`;
//! - a **shared** list or hash is written by all clients. An element or field begins with its client (`c<client>:`), so
//!   each client's part of it is a private key again, and the model keeps it as one;
//! - only a **shared counter** belongs to no client: see [`Change::adds`].

use std::collections::{BTreeMap, BTreeSet};

use crate::resp::{Reply, Words};

/// A key of one of the indexes of one of the databases.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub database: usize,
    pub index: usize,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Hash(BTreeMap<String, String>),
    List(Vec<String>),
    Set(BTreeSet<String>),
    Sorted(BTreeMap<String, i64>),
    Stream(Log),
}

/// A stream, with the group [`GROUP`] once it has one. The ids are numbers of milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub entries: BTreeMap<u64, String>,
    pub group: Option<LogGroup>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogGroup {
    pub last: u64,
    /// Entries that were delivered and not acknowledged.
    pub pending: BTreeSet<u64>,
}

/// A value and its expiry, in milliseconds of the Unix clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub value: Value,
    pub expires_ms: Option<u64>,
}

/// The keys of one client.
pub type Space = BTreeMap<Key, Entry>;

pub const SHARED_LIST: &str = "shared:list";
pub const SHARED_HASH: &str = "shared:hash";
/// The only group of a stream, and its only consumer.
pub const GROUP: &str = "group";
/// Part of the name of a hash whose fields expire: the model has the expiry of a field behind its value.
pub const FIELDS: &str = ":fields:";
/// Part of the name of a stream whose messages are added once: the model has the value of each, as a hash.
pub const ONCE: &str = ":once:";
/// Prefix of the names of shared counters.
pub const SHARED_COUNTER: &str = "shared:counter:";

/// One command. The names are of keys in the operation's own index, unless a number gives another.
#[derive(Clone, Debug)]
pub enum Change {
    Set {
        key: String,
        value: String,
        expires_ms: Option<u64>,
    },
    ExpireAt {
        key: String,
        expires_ms: u64,
    },
    Persist {
        key: String,
    },
    Increment {
        key: String,
        by: i64,
    },
    Append {
        key: String,
        text: String,
    },
    Delete {
        keys: Vec<String>,
    },
    SetMany {
        pairs: Vec<(String, String)>,
    },
    Rename {
        from: String,
        to: String,
    },
    HashSet {
        key: String,
        field: String,
        value: String,
    },
    HashIncrement {
        key: String,
        field: String,
    },
    HashDelete {
        key: String,
        field: String,
    },
    Push {
        key: String,
        left: bool,
        value: String,
    },
    Pop {
        key: String,
        left: bool,
    },
    Move {
        from: String,
        to: String,
    },
    Trim {
        key: String,
        keep: usize,
    },
    Add {
        key: String,
        member: String,
    },
    Remove {
        key: String,
        member: String,
    },
    MoveMember {
        from: String,
        to: String,
        member: String,
    },
    Intersect {
        into: String,
        of: [String; 2],
    },
    /// `SPOP`: the server chooses the member, and its reply tells which.
    Draw {
        key: String,
        drawn: Option<String>,
    },
    Score {
        key: String,
        member: String,
        score: i64,
    },
    ScoreIncrement {
        key: String,
        member: String,
        by: i64,
    },
    ScoreRemove {
        key: String,
        member: String,
    },
    /// `HSETEX` with an expiry that never comes.
    FieldSet {
        key: String,
        field: String,
        value: String,
        expires_ms: u64,
    },
    /// `BLPOP` by a client that waits, perhaps, beside the one that pushes.
    Await {
        key: String,
    },
    LogAdd {
        key: String,
        id: u64,
        value: String,
        keep: usize,
    },
    LogGroup {
        key: String,
    },
    LogRead {
        key: String,
    },
    LogAcknowledge {
        key: String,
        id: u64,
    },
    /// `XADD` of a message that may have been added before.
    AddOnce {
        key: String,
        message: String,
        value: String,
    },
    /// `FLUSHDB` of the operation's index.
    Flush,
    /// `SWAPDB`
    Swap {
        one: usize,
        other: usize,
    },
    SharedPush {
        client: usize,
        value: String,
    },
    SharedHashSet {
        client: usize,
        field: String,
        value: String,
    },
    SharedAdd {
        counter: String,
        by: i64,
    },
}

/// Returns the name of a client's part of a shared key in the model.
pub fn part_of(shared: &str, client: usize) -> String {
    format!("c{client}:{shared}")
}

impl Change {
    /// Returns the request. The server numbers the first index `first_index`.
    pub fn words(&self, first_index: usize) -> Words {
        let text = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Words>();
        match self {
            Self::Set { key, value, expires_ms: None } => text(&["SET", key, value]),
            Self::Set { key, value, expires_ms: Some(ms) } => text(&["SET", key, value, "PXAT", &ms.to_string()]),
            Self::ExpireAt { key, expires_ms } => text(&["PEXPIREAT", key, &expires_ms.to_string()]),
            Self::Persist { key } => text(&["PERSIST", key]),
            Self::Increment { key, by: 1 } => text(&["INCR", key]),
            Self::Increment { key, by } => text(&["INCRBY", key, &by.to_string()]),
            Self::Append { key, text: appended } => text(&["APPEND", key, appended]),
            Self::Delete { keys } => {
                [text(&["DEL"]), keys.iter().map(|key| key.as_bytes().to_vec()).collect()].concat()
            }
            Self::SetMany { pairs } => {
                let pairs: Vec<&str> = pairs.iter().flat_map(|(key, value)| [key.as_str(), value]).collect();
                text(&[&["MSET"], pairs.as_slice()].concat())
            }
            Self::Rename { from, to } => text(&["RENAME", from, to]),
            Self::HashSet { key, field, value } => text(&["HSET", key, field, value]),
            Self::HashIncrement { key, field } => text(&["HINCRBY", key, field, "1"]),
            Self::HashDelete { key, field } => text(&["HDEL", key, field]),
            Self::Push { key, left: true, value } => text(&["LPUSH", key, value]),
            Self::Push { key, left: false, value } => text(&["RPUSH", key, value]),
            Self::Pop { key, left: true } => text(&["LPOP", key]),
            Self::Pop { key, left: false } => text(&["RPOP", key]),
            Self::Move { from, to } => text(&["LMOVE", from, to, "LEFT", "RIGHT"]),
            Self::Trim { key, keep } => text(&["LTRIM", key, &format!("-{keep}"), "-1"]),
            Self::Add { key, member } => text(&["SADD", key, member]),
            Self::Remove { key, member } => text(&["SREM", key, member]),
            Self::MoveMember { from, to, member } => text(&["SMOVE", from, to, member]),
            Self::Intersect { into, of: [one, other] } => text(&["SINTERSTORE", into, one, other]),
            Self::Draw { key, .. } => text(&["SPOP", key]),
            Self::Score { key, member, score } => text(&["ZADD", key, &score.to_string(), member]),
            Self::ScoreIncrement { key, member, by } => text(&["ZINCRBY", key, &by.to_string(), member]),
            Self::ScoreRemove { key, member } => text(&["ZREM", key, member]),
            Self::FieldSet { key, field, value, expires_ms } => {
                text(&["HSETEX", key, "PXAT", &expires_ms.to_string(), "FIELDS", "1", field, value])
            }
            Self::Await { key } => text(&["BLPOP", key, "0"]),
            Self::LogAdd { key, id, value, keep } => {
                text(&["XADD", key, "MAXLEN", "=", &keep.to_string(), &format!("{id}-0"), "value", value])
            }
            Self::LogGroup { key } => text(&["XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM"]),
            Self::LogRead { key } => text(&["XREADGROUP", "GROUP", GROUP, GROUP, "COUNT", "2", "STREAMS", key, ">"]),
            Self::LogAcknowledge { key, id } => text(&["XACK", key, GROUP, &format!("{id}-0")]),
            Self::AddOnce { key, message, value } => {
                text(&["XADD", key, "IDMP", "producer", message, "*", message, value])
            }
            Self::Flush => text(&["FLUSHDB"]),
            Self::Swap { one, other } => {
                text(&["SWAPDB", &(first_index + one).to_string(), &(first_index + other).to_string()])
            }
            Self::SharedPush { client, value } => text(&["RPUSH", SHARED_LIST, &format!("c{client}:{value}")]),
            Self::SharedHashSet { client, field, value } => {
                text(&["HSET", SHARED_HASH, &format!("c{client}:{field}"), value])
            }
            Self::SharedAdd { counter, by } => text(&["INCRBY", counter, &by.to_string()]),
        }
    }

    /// Returns the addition to a shared counter, and its name. The counter's value is the sum over all clients.
    pub fn adds(&self) -> Option<(&str, i64)> {
        if let Self::SharedAdd { counter, by } = self { Some((counter, *by)) } else { None }
    }

    /// Applies to `space` the effect of the command on a database in which it runs at `now_ms`. Returns the expected
    /// reply, if it is certain. `touched` gets the keys whose values may have changed.
    pub fn apply(&self, space: &mut Space, place: Place, touched: &mut Vec<Key>) -> Option<Reply> {
        let mut keys = Keys { space, place, touched };
        match self {
            Self::Set { key, value, expires_ms } => {
                keys.put(key, Value::Text(value.clone()));
                keys.entry(key, Value::Text(value.clone())).expires_ms = *expires_ms;
                Some(ok())
            }
            Self::ExpireAt { key, expires_ms } => {
                let found = keys.change(key, |entry| entry.expires_ms = Some(*expires_ms));
                Some(number(i64::from(found.is_some())))
            }
            Self::Persist { key } => {
                let had = keys.change(key, |entry| entry.expires_ms.take().is_some());
                Some(number(i64::from(had == Some(true))))
            }
            Self::Increment { key, by } => {
                let entry = keys.entry(key, Value::Text("0".into()));
                let Value::Text(text) = &mut entry.value else { return None };
                let sum = text.parse::<i64>().ok()? + by;
                *text = sum.to_string();
                Some(number(sum))
            }
            Self::Append { key, text: appended } => {
                let entry = keys.entry(key, Value::Text(String::new()));
                let Value::Text(text) = &mut entry.value else { return None };
                text.push_str(appended);
                Some(count(text.len()))
            }
            Self::Delete { keys: names } => Some(count(names.iter().filter(|name| keys.take(name).is_some()).count())),
            Self::SetMany { pairs } => {
                pairs.iter().for_each(|(key, value)| keys.put(key, Value::Text(value.clone())));
                Some(ok())
            }
            Self::Rename { from, to } => {
                let Some(entry) = keys.take(from) else { return Some(Reply::error("ERR no such key")) };
                keys.put(to, entry.value.clone());
                keys.change(to, |new| new.expires_ms = entry.expires_ms);
                Some(ok())
            }
            Self::HashSet { key, field, value } => {
                let new = keys.hash(key)?.insert(field.clone(), value.clone()).is_none();
                Some(number(i64::from(new)))
            }
            Self::HashIncrement { key, field } => {
                let value = keys.hash(key)?.entry(field.clone()).or_insert_with(|| "0".into());
                let sum = value.parse::<i64>().ok()? + 1;
                *value = sum.to_string();
                Some(number(sum))
            }
            Self::HashDelete { key, field } => {
                let removed = keys.hash(key)?.remove(field).is_some();
                keys.settle(key);
                Some(number(i64::from(removed)))
            }
            Self::Push { key, left, value } => {
                let list = keys.list(key)?;
                list.insert(if *left { 0 } else { list.len() }, value.clone());
                Some(count(list.len()))
            }
            Self::Pop { key, left } => {
                let popped = keys.pop(key, *left);
                Some(bulk(popped))
            }
            Self::Move { from, to } => {
                let moved = keys.pop(from, true);
                if let Some(value) = &moved {
                    keys.list(to)?.push(value.clone());
                }
                Some(bulk(moved))
            }
            Self::Trim { key, keep } => {
                let list = keys.list(key)?;
                list.drain(..list.len().saturating_sub(*keep));
                keys.settle(key);
                Some(ok())
            }
            Self::Add { key, member } => Some(number(i64::from(keys.set(key)?.insert(member.clone())))),
            Self::Remove { key, member } => {
                let removed = keys.set(key)?.remove(member);
                keys.settle(key);
                Some(number(i64::from(removed)))
            }
            Self::MoveMember { from, to, member } => {
                let removed = keys.set(from)?.remove(member);
                keys.settle(from);
                if removed {
                    keys.set(to)?.insert(member.clone());
                }
                Some(number(i64::from(removed)))
            }
            Self::Intersect { into, of: [one, other] } => {
                let (one, other) = (keys.members(one), keys.members(other));
                let both: BTreeSet<String> = one.intersection(&other).cloned().collect();
                let size = both.len();
                keys.put(into, Value::Set(both));
                keys.settle(into);
                Some(count(size))
            }
            Self::Draw { key, drawn } => {
                let member = drawn.as_ref()?;
                keys.set(key)?.remove(member);
                keys.settle(key);
                Some(bulk(Some(member.clone())))
            }
            Self::Score { key, member, score } => {
                let new = keys.sorted(key)?.insert(member.clone(), *score).is_none();
                Some(number(i64::from(new)))
            }
            Self::ScoreIncrement { key, member, by } => {
                let score = keys.sorted(key)?.entry(member.clone()).or_insert(0);
                *score += by;
                Some(bulk(Some(score.to_string())))
            }
            Self::ScoreRemove { key, member } => {
                let removed = keys.sorted(key)?.remove(member).is_some();
                keys.settle(key);
                Some(number(i64::from(removed)))
            }
            Self::FieldSet { key, field, value, expires_ms } => {
                keys.hash(key)?.insert(field.clone(), format!("{value}@{expires_ms}"));
                Some(number(1))
            }
            Self::Await { key } => {
                let popped = keys.pop(key, true)?;
                Some(many([bulk(Some(key.clone())), bulk(Some(popped))]))
            }
            Self::LogAdd { key, id, value, keep } => {
                let log = keys.log(key)?;
                log.entries.insert(*id, value.clone());
                while log.entries.len() > *keep {
                    log.entries.pop_first();
                }
                Some(bulk(Some(format!("{id}-0"))))
            }
            Self::LogGroup { key } => {
                keys.log(key)?.group = Some(LogGroup::default());
                Some(ok())
            }
            Self::LogRead { key } => {
                let Log { entries, group } = keys.log(key)?;
                let group = group.as_mut()?;
                let read: Vec<(u64, String)> =
                    entries.range(group.last + 1..).take(2).map(|(id, value)| (*id, value.clone())).collect();
                group.pending.extend(read.iter().map(|(id, _)| id));
                group.last = read.last().map_or(group.last, |(id, _)| *id);
                let entry = |(id, value): (u64, String)| {
                    let fields = many(["value".to_owned(), value].map(|word| bulk(Some(word))));
                    many([bulk(Some(format!("{id}-0"))), fields])
                };
                Some(match read.is_empty() {
                    true => Reply::Many('*', None),
                    false => many([many([bulk(Some(key.clone())), many(read.into_iter().map(entry))])]),
                })
            }
            Self::LogAcknowledge { key, id } => {
                let group = keys.log(key)?.group.as_mut();
                Some(number(i64::from(group.is_some_and(|group| group.pending.remove(id)))))
            }
            // The id is made of the server's clock.
            Self::AddOnce { key, message, value } => {
                keys.hash(key)?.entry(message.clone()).or_insert_with(|| value.clone());
                None
            }
            Self::Flush => {
                keys.empty(place.index);
                Some(ok())
            }
            Self::Swap { one, other } => {
                keys.swap(*one, *other);
                Some(ok())
            }
            // The length of the whole list, and the sum, depend on the other clients.
            Self::SharedPush { client, value } => {
                keys.list(&part_of(SHARED_LIST, *client))?.push(value.clone());
                None
            }
            Self::SharedHashSet { client, field, value } => {
                let new = keys.hash(&part_of(SHARED_HASH, *client))?.insert(field.clone(), value.clone()).is_none();
                Some(number(i64::from(new)))
            }
            Self::SharedAdd { .. } => None,
        }
    }
}

/// The index and the time of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub database: usize,
    pub index: usize,
    /// Milliseconds of the Unix clock, not after the server ran it: values that expired before are gone.
    pub now_ms: u64,
}

struct Keys<'a> {
    space: &'a mut Space,
    place: Place,
    touched: &'a mut Vec<Key>,
}

impl Keys<'_> {
    fn key(&mut self, name: &str) -> Key {
        let key = Key { database: self.place.database, index: self.place.index, name: name.into() };
        self.touched.push(key.clone());
        if self.space.get(&key).is_some_and(|entry| entry.expired(self.place.now_ms)) {
            self.space.remove(&key);
        }
        key
    }

    fn put(&mut self, name: &str, value: Value) {
        let key = self.key(name);
        self.space.insert(key, Entry { value, expires_ms: None });
    }

    fn take(&mut self, name: &str) -> Option<Entry> {
        let key = self.key(name);
        self.space.remove(&key)
    }

    fn change<T>(&mut self, name: &str, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let key = self.key(name);
        self.space.get_mut(&key).map(change)
    }

    fn entry(&mut self, name: &str, new: Value) -> &mut Entry {
        let key = self.key(name);
        self.space.entry(key).or_insert(Entry { value: new, expires_ms: None })
    }

    fn hash(&mut self, name: &str) -> Option<&mut BTreeMap<String, String>> {
        let entry = self.entry(name, Value::Hash(BTreeMap::new()));
        if let Value::Hash(hash) = &mut entry.value { Some(hash) } else { None }
    }

    fn list(&mut self, name: &str) -> Option<&mut Vec<String>> {
        let entry = self.entry(name, Value::List(Vec::new()));
        if let Value::List(list) = &mut entry.value { Some(list) } else { None }
    }

    fn set(&mut self, name: &str) -> Option<&mut BTreeSet<String>> {
        let entry = self.entry(name, Value::Set(BTreeSet::new()));
        if let Value::Set(set) = &mut entry.value { Some(set) } else { None }
    }

    fn sorted(&mut self, name: &str) -> Option<&mut BTreeMap<String, i64>> {
        let entry = self.entry(name, Value::Sorted(BTreeMap::new()));
        if let Value::Sorted(sorted) = &mut entry.value { Some(sorted) } else { None }
    }

    fn log(&mut self, name: &str) -> Option<&mut Log> {
        let entry = self.entry(name, Value::Stream(Log::default()));
        if let Value::Stream(log) = &mut entry.value { Some(log) } else { None }
    }

    fn members(&mut self, name: &str) -> BTreeSet<String> {
        let members = self.set(name).map(|set| set.clone()).unwrap_or_default();
        self.settle(name);
        members
    }

    fn pop(&mut self, name: &str, left: bool) -> Option<String> {
        let list = self.list(name)?;
        let popped = match list.is_empty() {
            true => None,
            false => Some(list.remove(if left { 0 } else { list.len() - 1 })),
        };
        self.settle(name);
        popped
    }

    /// Removes an empty collection, which is no key.
    fn settle(&mut self, name: &str) {
        let key = self.key(name);
        if self.space.get(&key).is_some_and(|entry| entry.value.is_empty()) {
            self.space.remove(&key);
        }
    }

    fn empty(&mut self, index: usize) -> Vec<(Key, Entry)> {
        let database = self.place.database;
        let first = Key { database, index, name: String::new() };
        let end = Key { database, index: index + 1, name: String::new() };
        let keys: Vec<Key> = self.space.range(first..end).map(|(key, _)| key.clone()).collect();
        self.touched.extend(keys.iter().cloned());
        keys.into_iter().filter_map(|key| self.space.remove_entry(&key)).collect()
    }

    fn swap(&mut self, one: usize, other: usize) {
        let (ones, others) = (self.empty(one), self.empty(other));
        let moved = ones.into_iter().map(|pair| (pair, other)).chain(others.into_iter().map(|pair| (pair, one)));
        for ((key, entry), index) in moved {
            let key = Key { index, ..key };
            self.touched.push(key.clone());
            self.space.insert(key, entry);
        }
    }
}

impl Entry {
    pub fn expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|at| at <= now_ms)
    }
}

impl Value {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(_) | Self::Stream(_) => false,
            Self::Hash(hash) => hash.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Set(set) => set.is_empty(),
            Self::Sorted(sorted) => sorted.is_empty(),
        }
    }
}

fn ok() -> Reply {
    Reply::Line('+', "OK".into())
}

fn number(value: i64) -> Reply {
    Reply::Line(':', value.to_string())
}

fn count(value: usize) -> Reply {
    Reply::Line(':', value.to_string())
}

fn many(replies: impl IntoIterator<Item = Reply>) -> Reply {
    Reply::Many('*', Some(replies.into_iter().collect()))
}

fn bulk(value: Option<String>) -> Reply {
    Reply::Bulk('$', value.map(String::into_bytes))
}
