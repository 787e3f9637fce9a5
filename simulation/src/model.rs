//! The model: a database as naive maps, with the expected reply to each command.
//!
//! The model holds only the state that replies follow from. It believes a random reply (`SPOP`) if that is possible,
//! and applies it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::arrays::{self, ArrayModel};
use crate::documents::{self, DocumentModel, FilterModel, VectorsModel};
use crate::scripted;
use crate::streams::{self, StreamModel};

/// Logical indexes that the schedules use.
pub const INDEXES: u8 = 3;
/// The first staged index: each logical index has one.
pub const STAGED: u8 = 16;

/// The index of receipts. The model keeps the reply of each as a text.
pub const RECEIPTS: u8 = 32;

/// Returns the indexes that schedules use, the hidden ones included.
pub fn all_indexes() -> impl Iterator<Item = u8> {
    (0..INDEXES).chain(STAGED..STAGED + INDEXES).chain([RECEIPTS])
}

fn is_staged(index: u8) -> bool {
    (STAGED..RECEIPTS).contains(&index)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    List(VecDeque<String>),
    Hash(BTreeMap<String, Field>),
    Set(BTreeSet<String>),
    Sorted(BTreeMap<String, i64>),
    Stream(StreamModel),
    Array(ArrayModel),
    Document(DocumentModel),
    Filter(FilterModel),
    Vectors(VectorsModel),
}

/// The value of a hash's field, and its expiry. A field that has expired is kept until a command writes or deletes it: the
/// engine may have it or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub value: String,
    pub expiry: Option<u64>,
}

impl Field {
    fn lives(&self, now_ms: u64) -> bool {
        self.expiry.is_none_or(|at| at > now_ms)
    }
}

/// A value with its expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Value,
    pub expiry: Option<u64>,
}

impl Entry {
    /// The entry as readers see it at `now_ms`; `None`: nothing of it is left.
    fn alive(&self, now_ms: u64) -> Option<Self> {
        if self.expiry.is_some_and(|at| at <= now_ms) {
            return None;
        }
        let Value::Hash(fields) = &self.value else { return Some(self.clone()) };
        let living = fields.iter().filter(|(_, field)| field.lives(now_ms));
        let fields: BTreeMap<_, _> = living.map(|(name, field)| (name.clone(), field.clone())).collect();
        (!fields.is_empty()).then_some(Entry { value: Value::Hash(fields), expiry: self.expiry })
    }
}

pub type Key = (u8, String);

/// Keys that a command may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    Keys(Vec<Key>),
    All,
}

/// The contents of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub keys: BTreeMap<Key, Entry>,
    /// Whether an import fills the staged indexes.
    pub is_staging: bool,
}

/// Pseudo-command: the database has dropped a key by itself.
pub const EVICTED: &str = "(evicted)";

/// Prefix of the command of a client that has waited: for it, a key of another type is like none.
pub const AGAIN: &str = "(again) ";

/// Stands before a command that may be delivered several times, with its key and time to live.
pub const ONCE: &str = "ONCE";
pub const ONCE_WORDS: usize = 3;

/// Commands that change nothing.
pub const READS: &[&str] = &[
    "GET", "MGET", "EXISTS", "LRANGE", "HGET", "SCARD", "ZSCORE", "DBSIZE", "XLEN", "XRANGE", "XPENDING", "XREAD",
    "ARNEXT", "ARLEN", "ARGET", "ARSCAN",
];

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
const NOT_AN_INTEGER: &str = "-ERR value is not an integer or out of range\r\n";
const NOTHING_STAGED: &str = "-ERR nothing is being staged: DORMOUSE IMPORT BEGIN comes first\r\n";
const OK: &str = "+OK\r\n";
const NIL: &str = "$-1\r\n";

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn integer(n: impl TryInto<i64>) -> String {
    format!(":{}\r\n", n.try_into().unwrap_or(i64::MAX))
}

fn array(all: impl ExactSizeIterator<Item = String>) -> String {
    format!("*{}\r\n{}", all.len(), all.collect::<String>())
}

/// Returns the only line of a bulk reply.
fn bulk_text(reply: &str) -> Option<&str> {
    reply.strip_prefix('$')?.split_once("\r\n")?.1.strip_suffix("\r\n")
}

/// The collection of one kind under a key, created if missing. `Err`: the reply that refuses.
macro_rules! of_kind {
    ($self:ident, $key:expr, $kind:ident) => {{
        let made = || Entry { value: Value::$kind(Default::default()), expiry: None };
        match &mut $self.keys.entry($key.clone()).or_insert_with(made).value {
            Value::$kind(found) => found,
            _ => return Err(WRONG_TYPE.into()),
        }
    }};
}

impl Model {
    /// Returns the entry of a key at `now_ms`.
    pub fn alive_entry(&self, key: &Key, now_ms: u64) -> Option<Entry> {
        self.keys.get(key)?.alive(now_ms)
    }

    /// Returns the contents at `now_ms`.
    pub fn alive(&self, now_ms: u64) -> Self {
        let keys = self.keys.iter().filter_map(|(key, entry)| Some((key.clone(), entry.alive(now_ms)?)));
        Self { keys: keys.collect(), is_staging: self.is_staging }
    }

    /// Returns the contents that clients see: without staged data, as a branch begins.
    pub fn shown(&self) -> Self {
        let keys = self.keys.iter().filter(|((index, _), _)| !is_staged(*index));
        Self { keys: keys.map(|(key, entry)| (key.clone(), entry.clone())).collect(), is_staging: false }
    }

    /// Runs a command. Returns the expected reply and the keys that it concerned. `replied`: the actual reply.
    pub fn run(&mut self, select: u8, words: &[String], now_ms: u64, replied: &str) -> (String, Touched) {
        if words[0] == ONCE {
            return self.run_once(select, words, now_ms, replied);
        }
        let touched = touched(select, words);
        if let Some(commands) = scripted::commands(words) {
            return (self.run_script(select, (&words[0], commands), now_ms, replied), touched);
        }
        if let Touched::Keys(keys) = &touched {
            for key in keys {
                if self.keys.get(key).is_some_and(|entry| entry.expiry.is_some_and(|at| at <= now_ms)) {
                    self.keys.remove(key);
                }
            }
        }
        let reply = self.reply(select, words, now_ms, replied).unwrap_or_else(|error| error);
        if let Touched::Keys(keys) = &touched {
            for key in keys {
                let is_empty = self.keys.get(key).is_some_and(|entry| match &entry.value {
                    Value::Text(_) | Value::Stream(_) | Value::Filter(_) => false,
                    Value::List(list) => list.is_empty(),
                    Value::Hash(hash) => hash.is_empty(),
                    Value::Set(set) => set.is_empty(),
                    Value::Sorted(set) => set.is_empty(),
                    Value::Array(array) => array.elements.is_empty(),
                    Value::Document(document) => document.is_empty(),
                    Value::Vectors(set) => set.is_empty(),
                });
                if is_empty {
                    self.keys.remove(key);
                }
            }
        }
        (reply, touched)
    }

    /// Runs a request that was not run before. The reply of any other is repeated, and tells of nothing but its receipt.
    fn run_once(&mut self, select: u8, words: &[String], now_ms: u64, replied: &str) -> (String, Touched) {
        let receipt = (RECEIPTS, words[1].clone());
        if let Some(Entry { value: Value::Text(reply), .. }) = self.alive_entry(&receipt, now_ms) {
            return (reply, Touched::Keys(vec![receipt]));
        }
        let reply = self.run(select, &words[ONCE_WORDS..], now_ms, replied).0;
        let expiry = words[2].parse::<u64>().ok().map(|ttl_ms| now_ms + ttl_ms);
        self.keys.insert(receipt, Entry { value: Value::Text(reply.clone()), expiry });
        (reply, touched(select, words))
    }

    /// Runs the commands of a script. Each may be refused, as a command of its own may be.
    fn run_script(
        &mut self,
        select: u8,
        (kind, commands): (&str, Vec<&[String]>),
        now_ms: u64,
        replied: &str,
    ) -> String {
        if scripted::is_refused(replied) || replied == scripted::NO_FUNCTION {
            return replied.to_owned();
        }
        let mut told = scripted::elements(replied).into_iter();
        // The library's version is known to the book.
        let mut replies: Vec<String> =
            told.by_ref().take(usize::from(kind == scripted::FUNCTION)).map(str::to_owned).collect();
        for words in commands {
            let told = told.next().unwrap_or_default();
            replies.push(match scripted::is_refused(told) {
                true => told.to_owned(),
                // Lua has one null.
                false => self.run(select, words, now_ms, told).0.replace("*-1\r\n", NIL),
            });
        }
        array(replies.into_iter())
    }

    fn reply(&mut self, select: u8, words: &[String], now_ms: u64, replied: &str) -> Result<String, String> {
        let key = |at: usize| -> Key { (select, words[at].clone()) };
        let rest = |from: usize| words[from..].iter();
        if select >= STAGED && !self.is_staging {
            return Err(NOTHING_STAGED.into());
        }
        Ok(match words[0].as_str() {
            "SET" => {
                let flag = words.get(3).map_or("", String::as_str);
                if flag == "NX" && self.keys.contains_key(&key(1)) {
                    return Ok(NIL.into());
                }
                let expiry = match flag {
                    "PX" => words[4].parse::<u64>().ok().map(|ms| now_ms + ms),
                    "KEEPTTL" => self.keys.get(&key(1)).and_then(|entry| entry.expiry),
                    _ => None,
                };
                self.keys.insert(key(1), Entry { value: Value::Text(words[2].clone()), expiry });
                OK.into()
            }
            "MSET" => {
                for at in (1..words.len()).step_by(2) {
                    self.keys.insert(key(at), Entry { value: Value::Text(words[at + 1].clone()), expiry: None });
                }
                OK.into()
            }
            "GET" => self.text(&key(1))?.map_or(NIL.into(), bulk),
            "GETDEL" => {
                let reply = self.text(&key(1))?.map_or(NIL.into(), bulk);
                self.keys.remove(&key(1));
                reply
            }
            "MGET" => array((1..words.len()).map(|at| self.text(&key(at)).ok().flatten().map_or(NIL.into(), bulk))),
            "APPEND" => {
                let text = of_kind!(self, &key(1), Text);
                text.push_str(&words[2]);
                integer(text.len())
            }
            "INCRBY" => {
                let before: i64 = match self.text(&key(1))? {
                    Some(text) => text.parse().ok().filter(|n: &i64| n.to_string() == text).ok_or(NOT_AN_INTEGER)?,
                    None => 0,
                };
                let after = before + words[2].parse::<i64>().unwrap_or(0);
                *of_kind!(self, &key(1), Text) = after.to_string();
                integer(after)
            }
            "DORMOUSE" => match words[2].as_str() {
                "BEGIN" => {
                    self.keys.retain(|(index, _), _| !is_staged(*index));
                    self.is_staging = true;
                    OK.into()
                }
                "SHOW" | "DISCARD" if !self.is_staging => return Err(NOTHING_STAGED.into()),
                "SHOW" => {
                    let all = std::mem::take(&mut self.keys).into_iter();
                    let kept = all.filter(|((index, _), _)| *index >= STAGED);
                    let shown = |index| if is_staged(index) { index - STAGED } else { index };
                    self.keys = kept.map(|((index, key), entry)| ((shown(index), key), entry)).collect();
                    self.is_staging = false;
                    OK.into()
                }
                "DISCARD" => {
                    self.keys.retain(|(index, _), _| !is_staged(*index));
                    self.is_staging = false;
                    OK.into()
                }
                // Whether a source is followed is not modelled: nothing here depends on it.
                _ => replied.to_owned(),
            },
            // A key that the database has dropped by itself.
            EVICTED => {
                self.keys.remove(&key(1));
                String::new()
            }
            // Keys whose time is over count until they are removed.
            "DBSIZE" => {
                let alive = |(key, entry): (&Key, &Entry)| key.0 == select && entry.alive(now_ms).is_some();
                let least = self.keys.iter().filter(|pair| alive(*pair)).count();
                let told = replied.strip_prefix(':').and_then(|rest| rest.trim_end().parse::<usize>().ok());
                if told.is_some_and(|told| told >= least) { replied.to_owned() } else { format!("{least} or more") }
            }
            "DEL" => integer((1..words.len()).filter(|at| self.keys.remove(&key(*at)).is_some()).count()),
            "EXISTS" => integer((1..words.len()).filter(|at| self.keys.contains_key(&key(*at))).count()),
            "PEXPIREAT" => {
                let at: u64 = words[2].parse().unwrap_or(0);
                match self.keys.get_mut(&key(1)) {
                    Some(entry) => entry.expiry = Some(at),
                    None => return Ok(integer(0)),
                }
                if at <= now_ms {
                    self.keys.remove(&key(1));
                }
                integer(1)
            }
            "PERSIST" => {
                integer(u8::from(self.keys.get_mut(&key(1)).is_some_and(|entry| entry.expiry.take().is_some())))
            }
            "RENAME" => {
                let entry = self.keys.remove(&key(1)).ok_or("-ERR no such key\r\n")?;
                self.keys.insert(key(2), entry);
                OK.into()
            }
            "COPY" | "MOVE" if (words[0] == "COPY" && key(1) == key(2)) || words[2] == select.to_string() => {
                "-ERR source and destination objects are the same\r\n".into()
            }
            "COPY" => {
                let Some(entry) = self.keys.get(&key(1)).cloned() else { return Ok(integer(0)) };
                self.keys.insert(key(2), entry);
                integer(1)
            }
            "MOVE" => {
                let to = (words[2].parse().unwrap_or(0), words[1].clone());
                if !self.keys.contains_key(&key(1)) || self.keys.contains_key(&to) {
                    return Ok(integer(0));
                }
                let entry = self.keys.remove(&key(1)).ok_or_else(String::new)?;
                self.keys.insert(to, entry);
                integer(1)
            }
            "LPUSH" | "RPUSH" => {
                let list = of_kind!(self, &key(1), List);
                for element in rest(2) {
                    if words[0] == "LPUSH" { list.push_front(element.clone()) } else { list.push_back(element.clone()) }
                }
                integer(list.len())
            }
            "LPOP" => of_kind!(self, &key(1), List).pop_front().map_or(NIL.into(), |element| bulk(&element)),
            "RPOPLPUSH" => {
                if !self.keys.contains_key(&key(1)) {
                    return Ok(NIL.into());
                }
                of_kind!(self, &key(1), List);
                of_kind!(self, &key(2), List);
                let moved = of_kind!(self, &key(1), List).pop_back().unwrap_or_default();
                of_kind!(self, &key(2), List).push_front(moved.clone());
                bulk(&moved)
            }
            "BLPOP" | "BZPOPMIN" | "BRPOPLPUSH" => self.take(select, words, now_ms, false)?,
            name if name.starts_with(AGAIN) => self.take(select, words, now_ms, true)?,
            name if name.starts_with("JSON.") => documents::reply_of_document(of_kind!(self, &key(1), Document), words),
            name if name.starts_with('V') => documents::reply_of_vectors(of_kind!(self, &key(1), Vectors), words),
            "BF.INSERT" | "BF.EXISTS" | "CF.ADD" | "CF.DEL" => {
                let (mut filter, expiry) = match self.keys.get(&key(1)) {
                    None => (None, None),
                    Some(Entry { value: Value::Filter(filter), expiry }) => (Some(filter.clone()), *expiry),
                    Some(_) => return Err(WRONG_TYPE.into()),
                };
                let reply = documents::reply_of_filter(&mut filter, words, replied);
                if let Some(filter) = filter {
                    self.keys.insert(key(1), Entry { value: Value::Filter(filter), expiry });
                }
                reply
            }
            name if name.starts_with("AR") => arrays::reply(of_kind!(self, &key(1), Array), words),
            name if name.starts_with('X') => {
                let key = key(streams::key_at(words));
                let (mut stream, expiry) = match self.keys.get(&key) {
                    None => (None, None),
                    Some(Entry { value: Value::Stream(stream), expiry }) => (Some(stream.clone()), *expiry),
                    Some(_) => return Err(WRONG_TYPE.into()),
                };
                let reply = streams::reply(&mut stream, words, now_ms, replied);
                if let Some(stream) = stream.filter(|_| reply.is_ok()) {
                    self.keys.insert(key, Entry { value: Value::Stream(stream), expiry });
                }
                reply?
            }
            "LRANGE" => array(of_kind!(self, &key(1), List).iter().map(|element| bulk(element))),
            "LTRIM" => {
                // LTRIM key 1 -1
                of_kind!(self, &key(1), List).pop_front();
                OK.into()
            }
            "HSET" => {
                let hash = of_kind!(self, &key(1), Hash);
                let pairs = words[2..].chunks(2);
                let before = hash.clone();
                let mut added = 0;
                for pair in pairs {
                    added += usize::from(!hash.get(&pair[0]).is_some_and(|field| field.lives(now_ms)));
                    hash.insert(pair[0].clone(), Field { value: pair[1].clone(), expiry: None });
                }
                counted(added, words[2..].iter().step_by(2), &before, now_ms, replied, false)
            }
            "HDEL" => {
                let hash = of_kind!(self, &key(1), Hash);
                let before = hash.clone();
                let removed =
                    rest(2).filter_map(|field| hash.remove(field)).filter(|field| field.lives(now_ms)).count();
                counted(removed, words[2..].iter(), &before, now_ms, replied, true)
            }
            "HGET" => {
                field(of_kind!(self, &key(1), Hash), &words[2], now_ms).map_or(NIL.into(), |found| bulk(&found.value))
            }
            "HINCRBY" => {
                let hash = of_kind!(self, &key(1), Hash);
                let found = field(hash, &words[2], now_ms);
                let before = match &found {
                    Some(found) => found.value.parse::<i64>().map_err(|_| "-ERR hash value is not an integer\r\n")?,
                    None => 0,
                };
                let after = before + words[3].parse::<i64>().unwrap_or(0);
                let expiry = found.and_then(|found| found.expiry);
                hash.insert(words[2].clone(), Field { value: after.to_string(), expiry });
                integer(after)
            }
            // HPEXPIREAT key time FIELDS 1 field
            "HPEXPIREAT" => {
                let at: u64 = words[2].parse().unwrap_or(0);
                let Some(Entry { value: Value::Hash(hash), .. }) = self.keys.get_mut(&key(1)) else {
                    return self.no_hash(&key(1), "*1\r\n:-2\r\n");
                };
                let code = match field(hash, &words[5], now_ms) {
                    None => -2,
                    Some(_) if at <= now_ms => {
                        hash.remove(&words[5]);
                        2
                    }
                    Some(found) => {
                        hash.insert(words[5].clone(), Field { expiry: Some(at), ..found });
                        1
                    }
                };
                array([integer(code)].into_iter())
            }
            // HPERSIST key FIELDS 1 field
            "HPERSIST" => {
                let Some(Entry { value: Value::Hash(hash), .. }) = self.keys.get_mut(&key(1)) else {
                    return self.no_hash(&key(1), "*1\r\n:-2\r\n");
                };
                let code = match field(hash, &words[4], now_ms) {
                    None => -2,
                    Some(Field { expiry: None, .. }) => -1,
                    Some(found) => {
                        hash.insert(words[4].clone(), Field { expiry: None, ..found });
                        1
                    }
                };
                array([integer(code)].into_iter())
            }
            // HGETDEL key FIELDS 1 field; HGETEX key PXAT time FIELDS 1 field
            "HGETDEL" | "HGETEX" => {
                let Some(Entry { value: Value::Hash(hash), .. }) = self.keys.get_mut(&key(1)) else {
                    return self.no_hash(&key(1), "*1\r\n$-1\r\n");
                };
                let name = &words[words.len() - 1];
                let found = field(hash, name, now_ms);
                let at: Option<u64> = if words[0] == "HGETEX" { words[3].parse().ok() } else { None };
                match &found {
                    Some(found) if at.is_some_and(|at| at > now_ms) => {
                        hash.insert(name.clone(), Field { expiry: at, ..found.clone() });
                    }
                    _ => drop(hash.remove(name)),
                }
                array([found.map_or(NIL.into(), |found| bulk(&found.value))].into_iter())
            }
            // HSETEX key PXAT time FIELDS 1 field value
            "HSETEX" => {
                let at: u64 = words[3].parse().unwrap_or(0);
                let hash = of_kind!(self, &key(1), Hash);
                match at > now_ms {
                    true => _ = hash.insert(words[6].clone(), Field { value: words[7].clone(), expiry: Some(at) }),
                    false => _ = hash.remove(&words[6]),
                }
                integer(1)
            }
            "SADD" => {
                let set = of_kind!(self, &key(1), Set);
                integer(rest(2).filter(|member| set.insert((*member).clone())).count())
            }
            "SREM" => {
                let set = of_kind!(self, &key(1), Set);
                integer(rest(2).filter(|member| set.remove(*member)).count())
            }
            "SCARD" => integer(of_kind!(self, &key(1), Set).len()),
            "SPOP" => {
                let set = of_kind!(self, &key(1), Set);
                let popped = bulk_text(replied).filter(|member| set.remove(*member));
                match popped {
                    Some(_) => replied.to_owned(),
                    None if set.is_empty() => NIL.into(),
                    None => format!("one of {set:?}"),
                }
            }
            "SMOVE" => {
                if !self.keys.contains_key(&key(1)) {
                    return Ok(integer(0));
                }
                of_kind!(self, &key(1), Set);
                if self.keys.contains_key(&key(2)) {
                    of_kind!(self, &key(2), Set);
                }
                if !of_kind!(self, &key(1), Set).contains(&words[3]) {
                    return Ok(integer(0));
                }
                of_kind!(self, &key(1), Set).remove(&words[3]);
                of_kind!(self, &key(2), Set).insert(words[3].clone());
                integer(1)
            }
            "SUNIONSTORE" => {
                let mut union = BTreeSet::new();
                for at in 2..words.len() {
                    match self.keys.get(&key(at)).map(|entry| &entry.value) {
                        Some(Value::Set(set)) => union.extend(set.iter().cloned()),
                        Some(_) => return Err(WRONG_TYPE.into()),
                        None => {}
                    }
                }
                let count = union.len();
                self.keys.insert(key(1), Entry { value: Value::Set(union), expiry: None });
                integer(count)
            }
            "ZADD" => {
                let set = of_kind!(self, &key(1), Sorted);
                let pairs = words[2..].chunks(2);
                integer(
                    pairs.filter(|pair| set.insert(pair[1].clone(), pair[0].parse().unwrap_or(0)).is_none()).count(),
                )
            }
            "ZINCRBY" => {
                let score = of_kind!(self, &key(1), Sorted).entry(words[3].clone()).or_default();
                *score += words[2].parse::<i64>().unwrap_or(0);
                bulk(&score.to_string())
            }
            "ZREM" => {
                let set = of_kind!(self, &key(1), Sorted);
                integer(rest(2).filter(|member| set.remove(*member).is_some()).count())
            }
            "ZSCORE" => {
                of_kind!(self, &key(1), Sorted).get(&words[2]).map_or(NIL.into(), |score| bulk(&score.to_string()))
            }
            "ZPOPMIN" => {
                let set = of_kind!(self, &key(1), Sorted);
                let Some((score, member)) = set.iter().map(|(member, score)| (*score, member.clone())).min() else {
                    return Ok("*0\r\n".into());
                };
                set.remove(&member);
                array([bulk(&member), bulk(&score.to_string())].into_iter())
            }
            "FLUSHDB" => {
                self.keys.retain(|(index, _), _| *index != select);
                OK.into()
            }
            "FLUSHALL" => {
                self.keys.retain(|(index, _), _| *index >= STAGED);
                OK.into()
            }
            "SWAPDB" => {
                let (a, b): (u8, u8) = (words[1].parse().unwrap_or(0), words[2].parse().unwrap_or(0));
                let other = |index: u8| {
                    if index == a {
                        b
                    } else if index == b {
                        a
                    } else {
                        index
                    }
                };
                let all = std::mem::take(&mut self.keys).into_iter();
                self.keys = all.map(|((index, key), entry)| ((other(index), key), entry)).collect();
                OK.into()
            }
            other => format!("no such command in the model: {other}"),
        })
    }

    /// A blocking command. A client that waits gets no reply.
    fn take(&mut self, select: u8, words: &[String], now_ms: u64, has_waited: bool) -> Result<String, String> {
        let name = words[0].trim_start_matches(AGAIN);
        if name.starts_with('X') {
            return self.read_again(select, &renamed(name, words), now_ms);
        }
        let keys = if name == "BRPOPLPUSH" { 1..2 } else { 1..words.len() - 1 };
        for key in keys.map(|at| (select, words[at].clone())) {
            let is_wanted = match self.keys.get(&key).map(|entry| &entry.value) {
                None => continue,
                Some(Value::List(_)) => name != "BZPOPMIN",
                Some(Value::Sorted(_)) => name == "BZPOPMIN",
                Some(_) => false,
            };
            match (is_wanted, has_waited, name) {
                (false, true, _) => {}
                (false, false, _) => return Err(WRONG_TYPE.into()),
                (true, _, "BRPOPLPUSH") => return self.reply(select, &renamed("RPOPLPUSH", words), 0, ""),
                (true, _, "BZPOPMIN") => {
                    let popped = self.reply(select, &["ZPOPMIN".into(), key.1.clone()], 0, "")?;
                    return Ok(popped.replacen("*2\r\n", &format!("*3\r\n{}", bulk(&key.1)), 1));
                }
                (true, ..) => {
                    let popped = self.reply(select, &["LPOP".into(), key.1.clone()], 0, "")?;
                    return Ok(format!("*2\r\n{}{popped}", bulk(&key.1)));
                }
            }
        }
        Ok(String::new())
    }

    /// A read of a client that has waited. It leaves no trace while there is nothing to read.
    fn read_again(&mut self, select: u8, words: &[String], now_ms: u64) -> Result<String, String> {
        let key = (select, words[streams::key_at(words)].clone());
        let before = self.keys.get(&key).cloned();
        if words[0] == "XREAD" && !matches!(&before, Some(Entry { value: Value::Stream(_), .. })) {
            return Ok(String::new());
        }
        let reply = self.reply(select, words, now_ms, "")?;
        if reply.is_empty() {
            before.into_iter().for_each(|before| _ = self.keys.insert(key.clone(), before));
        }
        Ok(reply)
    }

    /// The reply to a command over a key without a hash.
    fn no_hash(&self, key: &Key, missing: &str) -> Result<String, String> {
        if self.keys.contains_key(key) { Err(WRONG_TYPE.into()) } else { Ok(missing.into()) }
    }

    fn text(&self, key: &Key) -> Result<Option<&str>, String> {
        match self.keys.get(key).map(|entry| &entry.value) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WRONG_TYPE.into()),
        }
    }
}

/// The same request with another command.
fn renamed(name: &str, words: &[String]) -> Vec<String> {
    [name.to_owned()].into_iter().chain(words[1..].iter().cloned()).collect()
}

/// A field that has not expired.
fn field(hash: &BTreeMap<String, Field>, name: &str, now_ms: u64) -> Option<Field> {
    hash.get(name).filter(|field| field.lives(now_ms)).cloned()
}

/// The number of fields that a command has added, or deleted. One that has expired counts as old if the engine still has
/// it, so the reply is believed within these bounds.
fn counted<'n>(
    living: usize,
    names: impl Iterator<Item = &'n String>,
    before: &BTreeMap<String, Field>,
    now_ms: u64,
    replied: &str,
    deletes: bool,
) -> String {
    let names: BTreeSet<&String> = names.collect();
    let stale = names.into_iter().filter(|name| before.get(*name).is_some_and(|field| !field.lives(now_ms))).count();
    let possible = if deletes { living..=living + stale } else { living.saturating_sub(stale)..=living };
    let told = replied.strip_prefix(':').and_then(|rest| rest.trim_end().parse::<usize>().ok());
    match told.filter(|told| possible.contains(told)) {
        Some(told) => integer(told),
        None => integer(living),
    }
}

/// Returns the keys that a command concerns.
pub fn touched(select: u8, words: &[String]) -> Touched {
    if let Some(commands) = scripted::commands(words) {
        let mut keys = Vec::new();
        for words in commands {
            match touched(select, words) {
                Touched::Keys(more) => keys.extend(more),
                Touched::All => return Touched::All,
            }
        }
        return Touched::Keys(keys);
    }
    if words[0] == ONCE {
        return match touched(select, &words[ONCE_WORDS..]) {
            Touched::Keys(keys) => Touched::Keys(keys.into_iter().chain([(RECEIPTS, words[1].clone())]).collect()),
            Touched::All => Touched::All,
        };
    }
    let key = |at: usize| (select, words[at].clone());
    Touched::Keys(match words[0].trim_start_matches(AGAIN) {
        "FLUSHDB" | "FLUSHALL" | "SWAPDB" | "DORMOUSE" => return Touched::All,
        "DBSIZE" => Vec::new(),
        name if name.starts_with('X') => vec![key(streams::key_at(&renamed(name, words)))],
        "MSET" => (1..words.len()).step_by(2).map(key).collect(),
        "MGET" | "DEL" | "EXISTS" | "SUNIONSTORE" => (1..words.len()).map(key).collect(),
        "RENAME" | "COPY" | "RPOPLPUSH" | "BRPOPLPUSH" | "SMOVE" => vec![key(1), key(2)],
        "BLPOP" | "BZPOPMIN" => (1..words.len() - 1).map(key).collect(),
        "MOVE" => vec![key(1), (words[2].parse().unwrap_or(0), words[1].clone())],
        _ => vec![key(1)],
    })
}
