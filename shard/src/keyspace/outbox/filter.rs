//! The events and keys that a trigger wants.

use dormouse_protocol::glob::Glob;

use super::KEY_BYTES_MAX;
use crate::keyspace::changes::{EventClass, KeyEvent};

/// The cost of comparing the longest key with all patterns of a trigger, in units of about 100 ns. A simple pattern costs 8, one
/// with `?` or a class between stars more than 100.
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
    ("@expired", EventClass::Expired),
    ("@evicted", EventClass::Evicted),
];

/// The events and keys that a trigger wants.
#[derive(Debug)]
pub struct TriggerFilter {
    /// A bit for each class that it wants whole.
    classes: u32,
    names: Vec<&'static str>,
    /// Any of these; none: all keys.
    keys: Vec<Glob<'static>>,
    /// The stream of events that were not delivered: its own events are never wanted.
    left_out: Box<[u8]>,
}

impl TriggerFilter {
    /// Reads the words of events: names such as `set`, classes such as `@string`, and `@all`. An event is wanted if its key
    /// matches one of `keys`, or if there are none, and is not `left_out`.
    ///
    /// # Errors
    /// The problem with them.
    pub fn new<'a>(
        events: impl IntoIterator<Item = &'a str>,
        keys: impl IntoIterator<Item = &'a str>,
        left_out: &[u8],
    ) -> Result<Self, String> {
        let mut filter = Self { classes: 0, names: Vec::new(), keys: Vec::new(), left_out: left_out.into() };
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
        if filter.interest() == 0 {
            return Err("no event: expected names such as `set`, or classes such as `@string`".to_owned());
        }
        for pattern in keys {
            let glob = Glob::new(pattern.as_bytes()).map_err(|_| format!("the pattern `{pattern}` is too complex"))?;
            filter.keys.push(glob.into_owned());
        }
        let cost: usize = filter.keys.iter().map(|pattern| pattern.cost(1, KEY_BYTES_MAX)).sum();
        if cost > COST_MAX {
            return Err("the patterns of keys are too complex: each change of a key is compared with them".to_owned());
        }
        Ok(filter)
    }

    /// A bit for each class of which it wants any event.
    pub(super) fn interest(&self) -> u32 {
        let of_names = NAMES.iter().filter(|(_, names)| names.iter().any(|name| self.names.contains(name)));
        of_names.fold(self.classes, |bits, (class, _)| bits | bit(*class))
    }

    pub(super) fn wants(&self, event: KeyEvent, key: &[u8]) -> bool {
        (self.classes & bit(event.class) != 0 || self.names.contains(&event.name))
            && *key != *self.left_out
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
