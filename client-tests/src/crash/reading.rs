//! The contents of a server, read through the front door: every key of every index, dealt out to the clients that own
//! it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    declared::{self, Settings},
    model::{
        Entry, FIELDS, GROUP, Key, Log, LogGroup, ONCE, SHARED_COUNTER, SHARED_HASH, SHARED_LIST, Space, Value, part_of,
    },
    node::{Target, unix_ms},
    workload::{CLIENTS, DATABASES, INDEXES},
};
use crate::{
    resp::{Connection, Reply, Words, request},
    server::Kind,
};

/// Requests on their way at once: few enough that neither side waits for the other to read.
const PIPELINE: usize = 100;
/// Keys that may have expired without being removed yet, in a client's part of an index.
const EXPIRING_KEYS: usize = 12;

/// All keys of a server at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// When reading began, in milliseconds of the Unix clock. Values that had expired by then must be gone.
    pub read_ms: u64,
    /// Keys by client, including its parts of shared keys.
    pub spaces: Vec<Space>,
    /// The shared counters.
    pub counters: BTreeMap<Key, i64>,
    /// The settings of each database.
    pub settings: [Settings; DATABASES],
    /// Data that no client can have written.
    pub strange: Vec<String>,
}

impl State {
    pub fn empty() -> Self {
        Self { spaces: vec![Space::new(); CLIENTS], ..Self::default() }
    }

    /// Reads all of the databases in parallel.
    pub fn read(target: &Target) -> io::Result<Self> {
        let mut state = Self { read_ms: unix_ms(), ..Self::empty() };
        let parts = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..DATABASES).map(|n| scope.spawn(move || read_database(target, n))).collect();
            readers.into_iter().map(|reader| reader.join().expect("a reader does not panic")).collect::<Vec<_>>()
        });
        for (database, part) in parts.into_iter().enumerate() {
            let (entries, strange, settings) = part?;
            state.settings[database] = settings;
            state.strange.extend(strange);
            entries.into_iter().for_each(|(key, entry)| state.deal(key, entry));
        }
        Ok(state)
    }

    fn deal(&mut self, key: Key, entry: Entry) {
        if let Some(client) = client_of(&key.name) {
            self.spaces[client].insert(key, entry);
            return;
        }
        let strange = match (&entry.value, entry.expires_ms) {
            (Value::Text(text), None) if key.name.starts_with(SHARED_COUNTER) => match text.parse() {
                Ok(value) => self.counters.insert(key.clone(), value).map(|_| "is there twice".to_string()),
                Err(_) => Some(format!("is the counter `{text}`")),
            },
            (Value::List(elements), None) if key.name == SHARED_LIST => {
                let parts = elements.iter().map(|element| (element, ()));
                self.deal_parts(&key, parts, |value, text, ()| {
                    if let Value::List(list) = value {
                        list.push(text);
                    }
                })
            }
            (Value::Hash(fields), None) if key.name == SHARED_HASH => {
                self.deal_parts(&key, fields, |value, field, text| {
                    if let Value::Hash(hash) = value {
                        hash.insert(field, text.clone());
                    }
                })
            }
            _ => Some("belongs to nobody".into()),
        };
        if let Some(strange) = strange {
            self.strange.push(format!("{key:?} {strange}"));
        }
    }

    /// Gives each client the parts of a shared key that begin with its name. Returns a part that belongs to no client.
    fn deal_parts<'a, T>(
        &mut self,
        key: &Key,
        parts: impl IntoIterator<Item = (&'a String, T)>,
        mut put: impl FnMut(&mut Value, String, T),
    ) -> Option<String> {
        let mut strange = None;
        for (text, more) in parts {
            let (Some(client), Some((_, rest))) = (client_of(text), text.split_once(':')) else {
                strange = Some(format!("holds `{text}`, which is nobody's"));
                continue;
            };
            let empty = match key.name == SHARED_LIST {
                true => Value::List(Vec::new()),
                false => Value::Hash(BTreeMap::new()),
            };
            let name = Key { name: part_of(&key.name, client), ..key.clone() };
            let entry = self.spaces[client].entry(name).or_insert(Entry { value: empty, expires_ms: None });
            put(&mut entry.value, rest.to_string(), more);
        }
        strange
    }
}

/// Returns the client of a name `c<client>:...`.
fn client_of(name: &str) -> Option<usize> {
    let (number, _) = name.strip_prefix('c')?.split_once(':')?;
    number.parse().ok().filter(|client| *client < CLIENTS)
}

fn read_database(target: &Target, database: usize) -> io::Result<(Space, Vec<String>, Settings)> {
    let mut connection = target.connect(database)?;
    let settings = if target.kind == Kind::Dormouse { declared::read(&mut connection)? } else { Settings::default() };
    let (mut space, mut strange) = (Space::new(), Vec::new());
    for index in 0..INDEXES {
        good(connection.try_call(&["SELECT", &(target.first_index(database) + index).to_string()])?)?;
        let names = scan(&mut connection)?;
        let described = describe(&mut connection, &names)?;
        let values = values(&mut connection, &names, &described)?;
        let before = space.len();
        for ((name, (kind, expires_ms)), mut value) in names.iter().zip(described).zip(values) {
            let key = Key { database, index, name: name.clone() };
            match &mut value {
                Some(Value::Hash(fields)) if name.contains(FIELDS) => add_expiries(&mut connection, name, fields)?,
                Some(Value::Stream(_)) if name.contains(ONCE) => value = Some(messages(&mut connection, name)?),
                Some(Value::Stream(log)) => log.group = group(&mut connection, name)?,
                _ => {}
            }
            match value {
                Some(value) => _ = space.insert(key, Entry { value, expires_ms }),
                // The key went between the scan and now, as only expiring keys may.
                None if kind == "none" => {}
                None => strange.push(format!("{key:?} is a {kind} and has no value")),
            }
        }
        let size = good(connection.try_call(&["DBSIZE"])?)?.number().unwrap_or(-1.0);
        let found = space.len() - before;
        if !(found as f64..=(found + CLIENTS * EXPIRING_KEYS) as f64).contains(&size) {
            strange.push(format!("DBSIZE of database {database}, index {index} is {size}; there are {found} keys"));
        }
    }
    Ok((space, strange, settings))
}

fn scan(connection: &mut Connection) -> io::Result<Vec<String>> {
    let (mut names, mut cursor) = (BTreeSet::new(), "0".to_string());
    loop {
        let reply = good(connection.try_call(&["SCAN", &cursor, "COUNT", "1000"])?)?;
        let Some([next, keys]) = reply.items() else { return Err(unexpected(&reply)) };
        names.extend(keys.items().unwrap_or_default().iter().map(text));
        cursor = text(next);
        if cursor == "0" {
            return Ok(names.into_iter().collect());
        }
    }
}

/// Returns the type and the expiry of each key.
fn describe(connection: &mut Connection, names: &[String]) -> io::Result<Vec<(String, Option<u64>)>> {
    let requests = names.iter().flat_map(|name| [words(&["TYPE", name]), words(&["PEXPIRETIME", name])]);
    let replies = pipeline(connection, requests.collect())?;
    let pairs = replies.chunks_exact(2).map(|pair| (text(&pair[0]), pair[1].number().filter(|at| *at >= 0.0)));
    Ok(pairs.map(|(kind, expires_ms)| (kind, expires_ms.map(|at| at as u64))).collect())
}

fn values(
    connection: &mut Connection,
    names: &[String],
    described: &[(String, Option<u64>)],
) -> io::Result<Vec<Option<Value>>> {
    let requests = names.iter().zip(described).map(|(name, (kind, _))| match kind.as_str() {
        "hash" => words(&["HGETALL", name]),
        "list" => words(&["LRANGE", name, "0", "-1"]),
        "stream" => words(&["XRANGE", name, "-", "+"]),
        "set" => words(&["SMEMBERS", name]),
        "zset" => words(&["ZRANGE", name, "0", "-1", "WITHSCORES"]),
        _ => words(&["GET", name]),
    });
    let replies = pipeline(connection, requests.collect())?;
    Ok(replies.iter().zip(described).map(|(reply, (kind, _))| value(kind, reply)).collect())
}

fn value(kind: &str, reply: &Reply) -> Option<Value> {
    let items = || reply.items().filter(|items| !items.is_empty());
    match kind {
        "string" => reply.bytes().map(|_| Value::Text(text(reply))),
        "hash" => {
            let pairs = items()?.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1])));
            Some(Value::Hash(pairs.collect()))
        }
        "list" => Some(Value::List(items()?.iter().map(text).collect())),
        "stream" => {
            let entry = |entry: &Reply| {
                let [at, fields] = entry.items()? else { return None };
                Some((id(at), text(fields.items()?.get(1)?)))
            };
            let entries = reply.items()?.iter().map(entry).collect::<Option<_>>()?;
            Some(Value::Stream(Log { entries, group: None }))
        }
        "set" => Some(Value::Set(items()?.iter().map(text).collect())),
        "zset" => {
            let pairs = items()?.chunks_exact(2).map(|pair| Some((text(&pair[0]), pair[1].number()? as i64)));
            pairs.collect::<Option<_>>().map(Value::Sorted)
        }
        _ => None,
    }
}

/// Adds to each field of a hash when it expires.
fn add_expiries(connection: &mut Connection, name: &str, fields: &mut BTreeMap<String, String>) -> io::Result<()> {
    let count = fields.len().to_string();
    let mut words = vec!["HPEXPIRETIME", name, "FIELDS", &count];
    words.extend(fields.keys().map(String::as_str));
    let reply = good(connection.try_call(&words)?)?;
    let expiries = reply.items().unwrap_or_default().iter().map(|at| at.number().unwrap_or(-1.0));
    fields.values_mut().zip(expiries).for_each(|(value, at)| *value = format!("{value}@{at}"));
    Ok(())
}

/// The messages of a stream and their values: one that was added twice has both.
fn messages(connection: &mut Connection, name: &str) -> io::Result<Value> {
    let entries = good(connection.try_call(&["XRANGE", name, "-", "+"])?)?;
    let mut messages = BTreeMap::<String, String>::new();
    for entry in entries.items().unwrap_or_default() {
        let Some([_, fields]) = entry.items() else { return Err(unexpected(entry)) };
        let Some([message, value]) = fields.items() else { return Err(unexpected(entry)) };
        let values = messages.entry(text(message)).or_default();
        values.push_str(&text(value));
    }
    Ok(Value::Hash(messages))
}

/// The group of a stream.
fn group(connection: &mut Connection, name: &str) -> io::Result<Option<LogGroup>> {
    let groups = good(connection.try_call(&["XINFO", "GROUPS", name])?)?;
    let Some(group) = groups.items().and_then(<[Reply]>::first) else { return Ok(None) };
    let pairs = group.items().unwrap_or_default().chunks_exact(2);
    let last = pairs.clone().find(|pair| text(&pair[0]) == "last-delivered-id").map(|pair| id(&pair[1]));
    let pending = good(connection.try_call(&["XPENDING", name, GROUP, "-", "+", "1000"])?)?;
    let pending = pending.items().unwrap_or_default().iter().filter_map(|entry| entry.items()?.first().map(id));
    Ok(Some(LogGroup { last: last.unwrap_or_default(), pending: pending.collect() }))
}

/// The milliseconds of an id.
fn id(reply: &Reply) -> u64 {
    text(reply).split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or_default()
}

fn pipeline(connection: &mut Connection, requests: Vec<Words>) -> io::Result<Vec<Reply>> {
    let mut replies = Vec::with_capacity(requests.len());
    for lot in requests.chunks(PIPELINE) {
        connection.write(&lot.iter().flat_map(|words| request(words)).collect::<Vec<u8>>())?;
        for _ in lot {
            replies.push(good(connection.read()?)?);
        }
    }
    Ok(replies)
}

fn words(words: &[&str]) -> Words {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(reply.bytes().unwrap_or_default()).into_owned()
}

fn good(reply: Reply) -> io::Result<Reply> {
    if reply.is_error() { Err(unexpected(&reply)) } else { Ok(reply) }
}

fn unexpected(reply: &Reply) -> io::Error {
    io::Error::other(format!("a read was answered {reply:?}"))
}
