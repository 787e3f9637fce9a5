//! The events and keys that a trigger wants.

use dormouse_protocol::glob::Glob;

use super::KEY_BYTES_MAX;
use crate::keyspace::changes::{EventClass, KeyEvent};

/// The cost of comparing the longest key with all patterns of a trigger, in units of about 100 ns. A pattern such as `order:*` costs
/// nothing here, one with text between two stars 8, one with `?` or a class there more than 100.
const COST_MAX: usize = 32;

/// The names of events, with their classes.
pub(super) const NAMES: &[(EventClass, &[&str])] = &[
    (
        EventClass::Generic,
        &["copy_to", "del", "expire", "move_from", "move_to", "persist", "rename_from", "rename_to", "restore"],
    ),
    (EventClass::String, &["append", "incrby", "incrbyfloat", "pfadd", "set", "setbit", "setrange"]),
    (EventClass::List, &["linsert", "lpop", "lpush", "lrem", "lset", "ltrim", "rpop", "rpush", "sortstore"]),
    (EventClass::Set, &["sadd", "sdiffstore", "sinterstore", "spop", "srem", "sunionstore"]),
    (EventClass::Hash, &["hdel", "hexpire", "hexpired", "hincrby", "hincrbyfloat", "hpersist", "hset"]),
    (
        EventClass::SortedSet,
        &[
            "georadiusstore",
            "geosearchstore",
            "zadd",
            "zdiffstore",
            "zincr",
            "zinterstore",
            "zpopmax",
            "zpopmin",
            "zrangestore",
            "zrem",
            "zremrangebylex",
            "zremrangebyrank",
            "zremrangebyscore",
            "zunionstore",
        ],
    ),
    (
        EventClass::Stream,
        &[
            "xadd",
            "xdel",
            "xgroup-create",
            "xgroup-createconsumer",
            "xgroup-delconsumer",
            "xgroup-destroy",
            "xgroup-setid",
            "xsetid",
            "xtrim",
        ],
    ),
    (EventClass::Array, &["ardel", "ardelrange", "arinsert", "armset", "arring", "arseek", "arset"]),
    (
        EventClass::Module,
        &[
            "json.arrappend",
            "json.arrinsert",
            "json.arrpop",
            "json.arrtrim",
            "json.clear",
            "json.del",
            "json.merge",
            "json.mset",
            "json.numincrby",
            "json.nummultby",
            "json.numpowby",
            "json.set",
            "json.strappend",
            "json.toggle",
        ],
    ),
    (EventClass::Expired, &["expired"]),
    (EventClass::Evicted, &["evicted"]),
    (EventClass::New, &["new"]),
];

/// The words for whole classes.
const CLASSES: &[(&str, EventClass)] = &[
    ("@generic", EventClass::Generic),
    ("@string", EventClass::String),
    ("@list", EventClass::List),
    ("@set", EventClass::Set),
    ("@hash", EventClass::Hash),
    ("@zset", EventClass::SortedSet),
    ("@stream", EventClass::Stream),
    ("@array", EventClass::Array),
    ("@module", EventClass::Module),
    ("@expired", EventClass::Expired),
    ("@evicted", EventClass::Evicted),
];

/// The events and keys that a trigger wants.
#[derive(Debug)]
pub struct TriggerFilter {
    /// A bit for each class that it wants whole.
    classes: u32,
    names: Vec<&'static str>,
    /// A bit for each class of which it wants any event.
    interest: u32,
    /// Any of these; none: all keys.
    keys: Vec<Glob<'static>>,
    /// The stream of its events that were not delivered: the events of that are never wanted.
    letters: Box<[u8]>,
}

impl TriggerFilter {
    /// Reads the words of events: names such as `set`, classes such as `@string`, and `@all`. An event is wanted if its key
    /// matches one of `keys`, or if there are none, and is not `letters`.
    ///
    /// # Errors
    /// The problem with them.
    pub fn new<'a>(
        events: impl IntoIterator<Item = &'a str>,
        keys: impl IntoIterator<Item = &'a str>,
        letters: &[u8],
    ) -> Result<Self, String> {
        let mut filter = Self { classes: 0, names: Vec::new(), interest: 0, keys: Vec::new(), letters: letters.into() };
        for word in events {
            let class = CLASSES.iter().find(|(name, _)| *name == word);
            let name = NAMES.iter().flat_map(|(_, names)| *names).find(|name| **name == word);
            match (class, name) {
                (Some((_, class)), _) => filter.classes |= bit(*class),
                (None, Some(name)) if !filter.names.contains(name) => filter.names.push(name),
                (None, Some(_)) => {}
                (None, None) if word == "@all" => CLASSES.iter().for_each(|(_, class)| filter.classes |= bit(*class)),
                (None, None) => return Err(unknown(word)),
            }
        }
        let of_names = NAMES.iter().filter(|(_, names)| names.iter().any(|name| filter.names.contains(name)));
        filter.interest = of_names.fold(filter.classes, |bits, (class, _)| bits | bit(*class));
        if filter.interest == 0 {
            return Err("no event: expected names such as `set`, or classes such as `@string`".to_owned());
        }
        for pattern in keys {
            let glob = Glob::new(pattern.as_bytes()).map_err(|_| format!("the pattern `{pattern}` is too complex"))?;
            filter.keys.push(glob.into_owned());
        }
        // Without a search no more of a key is looked at than the pattern has.
        let looked_at = |glob: &Glob<'_>| if glob.searches() { KEY_BYTES_MAX } else { glob.pattern().len() };
        let cost: usize = filter.keys.iter().map(|pattern| pattern.cost(1, looked_at(pattern))).sum();
        if cost > COST_MAX {
            return Err("the patterns of keys are too complex: each change of a key is compared with them".to_owned());
        }
        Ok(filter)
    }

    /// A bit for each class of which it wants any event.
    pub(super) fn interest(&self) -> u32 {
        self.interest
    }

    /// The stream of its events that were not delivered.
    pub(super) fn letters(&self) -> &[u8] {
        &self.letters
    }

    /// Whether one of its patterns is this very key.
    pub(super) fn names(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|pattern| pattern.pattern() == key)
    }

    pub(super) fn wants(&self, event: KeyEvent, key: &[u8]) -> bool {
        self.interest & bit(event.class) != 0
            && (self.classes & bit(event.class) != 0 || self.names.contains(&event.name))
            && *key != *self.letters
            && (self.keys.is_empty() || self.keys.iter().any(|pattern| pattern.matches(key)))
    }
}

fn bit(class: EventClass) -> u32 {
    1 << class as u32
}

fn unknown(word: &str) -> String {
    let classes: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
    let names: Vec<&str> = NAMES.iter().flat_map(|(_, names)| *names).copied().collect();
    format!(
        "unknown event `{}`: expected @all, a class ({}) or a name ({})",
        word.escape_default(),
        classes.join(", "),
        names.join(", ")
    )
}
