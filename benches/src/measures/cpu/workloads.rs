//! The commands sent to the servers, with the data that they need.
//!
//! Strings are among 100,000 keys of 16 bytes with values of 64. Most collections are small, as usual: ten elements, in
//! 10,000 keys; those read in ranges have 1,000 elements, in 100 keys.

use crate::Result;
use crate::client::{Client, command};
use crate::load::{Commands, key, value};
use crate::report::Target;
use crate::server::Kind;

pub(super) const KEYS: u64 = 100_000;
const VALUE_LENGTH: usize = 64;
/// Number of keys in a command with several keys.
const SEVERAL: u64 = 10;
/// Small collections, with their elements.
const SMALL: u64 = 10_000;
const FEW: u64 = 10;
/// Number of different commands for each of them.
const VARIANTS: u64 = 200;
/// Large collections, with their elements.
const LARGE: u64 = 100;
const MANY: u64 = 1_000;
/// Sets to intersect, their members, and the number of members that two of them share.
const SETS: u64 = 1_000;
const MEMBERS: u64 = 100;
const SHARED: u64 = 50;

/// Sends a numbered command to the small collection at a key.
pub(super) type WriteSmall = fn(u64, &[u8], &mut dyn FnMut(&[&[u8]]));

/// A kind of command in a pipeline.
pub(super) struct Workload {
    pub label: String,
    pub commands: Commands,
    pub pipeline: usize,
    pub target: Option<Target>,
    pub known_to: KnownTo,
    /// Runs before each round.
    pub before: Option<fn(&mut Client) -> Result<()>>,
    /// Most commands of a round.
    pub commands_max: u64,
    pub audience: Option<Audience>,
}

/// The servers that have a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownTo {
    /// The bare loop too.
    All,
    Servers,
    /// All but Redis 7.0.
    Newer,
    /// The newest Redis.
    Redis8,
}

/// Subscribers, each of which gets one message for every command.
pub(super) struct Audience {
    pub channel: &'static str,
    pub count: usize,
    pub message_length: usize,
}

impl Workload {
    pub fn new(label: &str, commands: Commands, target: Target) -> Self {
        Self {
            label: label.to_owned(),
            commands,
            pipeline: 16,
            target: Some(target),
            known_to: KnownTo::Servers,
            before: None,
            commands_max: u64::MAX,
            audience: None,
        }
    }

    pub fn is_known_to(&self, kind: Kind) -> bool {
        match kind {
            Kind::Limit => self.known_to == KnownTo::All,
            Kind::Redis => matches!(self.known_to, KnownTo::All | KnownTo::Servers),
            Kind::Valkey => self.known_to != KnownTo::Redis8,
            Kind::Redis8 | Kind::Dormouse => true,
        }
    }
}

/// SET and GET.
pub(super) fn plain() -> Vec<Workload> {
    let mut workloads = Vec::new();
    for (pipeline, target) in [(1, Target::OfRedis(0.88)), (16, Target::OfValkey(0.65)), (64, Target::OfValkey(0.35))] {
        for (name, commands) in [("SET", Commands::set(KEYS, VALUE_LENGTH)), ("GET", Commands::get(KEYS, VALUE_LENGTH))]
        {
            let label = format!("{name}, pipeline {pipeline}");
            workloads.push(Workload { pipeline, known_to: KnownTo::All, ..Workload::new(&label, commands, target) });
        }
    }
    workloads
}

/// Target for SET and GET relative to the bare loop, by pipeline.
pub(super) fn of_limit(pipeline: usize) -> Target {
    Target::OfLimit(match pipeline {
        1 => 1.05,
        16 => 1.10,
        _ => 1.15,
    })
}

/// Commands over ten strings each.
pub(super) fn several(is_swept: bool) -> Vec<Workload> {
    let (read, write) = if is_swept { (0.80, 0.80) } else { (0.55, 0.70) };
    let keys = |index: u64| (0..SEVERAL).map(move |at| key((index + at * 7_919) % KEYS));
    let mget = Commands::of_arrays(KEYS, SEVERAL as usize, VALUE_LENGTH, |index, request| {
        let keys: Vec<String> = keys(index).collect();
        arguments(request, "MGET", keys.iter().map(String::as_bytes));
    });
    let mut text = [0; VALUE_LENGTH];
    let mset = Commands::of_lines(KEYS, "+OK", |index, request| {
        value(index, &mut text);
        let keys: Vec<String> = keys(index).collect();
        arguments(request, "MSET", keys.iter().flat_map(|key| [key.as_bytes(), &text]));
    });
    vec![
        Workload::new("MGET 10", mget, Target::OfValkey(read)),
        Workload::new("MSET 10", mset, Target::OfValkey(write)),
    ]
}

/// Commands over collections.
pub(super) fn collections() -> Vec<Workload> {
    let small = |name: &'static str, reply: &str, write: WriteSmall| {
        Commands::of_lines(SMALL * VARIANTS, reply, |index, request| {
            let key = format!("{name}:{:06}", index % SMALL);
            write(index / SMALL, key.as_bytes(), &mut |arguments| command(request, arguments));
        })
    };
    let hset = small("hash", ":0", |at, key, send| {
        let mut text = [0; 16];
        value(at, &mut text);
        send(&[b"HSET", key, field(at % FEW).as_bytes(), &text]);
    });
    // Half of the members are new at first; then all exist.
    let sadd = small("set", ":", |at, key, send| send(&[b"SADD", key, member(at % (FEW * 2)).as_bytes()]));
    let zadd = small("sorted", ":0", |at, key, send| {
        let score = (100_000 + at * 7_919 % 900_000).to_string();
        send(&[b"ZADD", key, score.as_bytes(), member(at % FEW).as_bytes()]);
    });
    let lpush = small("list", ":", |at, key, send| {
        let mut text = [0; 16];
        value(at, &mut text);
        send(&[b"LPUSH", key, &text]);
    });
    let large = |name: &str, index: u64| format!("large-{name}:{:03}", index % LARGE);
    let zrank = Commands::of_lines(LARGE * MANY, ":", |index, request| {
        let key = large("sorted", index);
        command(request, &[b"ZRANK", key.as_bytes(), member(index / LARGE).as_bytes()]);
    });
    let lrange = Commands::of_arrays(LARGE, 100, 16, |index, request| {
        command(request, &[b"LRANGE", large("list", index).as_bytes(), b"0", b"99"]);
    });
    let zrange = Commands::of_arrays(LARGE * 900, 50, member(0).len(), |index, request| {
        let (from, key) = (100_000 + index / LARGE, large("sorted", index));
        let (min, max) = (from.to_string(), (from + 49).to_string());
        command(request, &[b"ZRANGEBYSCORE", key.as_bytes(), min.as_bytes(), max.as_bytes()]);
    });
    let sinter = Commands::of_arrays(SETS, SHARED as usize, 8, |index, request| {
        let (one, other) = (intersected(0, index), intersected(1, index));
        command(request, &[b"SINTER", one.as_bytes(), other.as_bytes()]);
    });
    vec![
        Workload::new("HSET", hset, Target::OfBest(0.60)),
        Workload::new("SADD", sadd, Target::OfBest(0.60)),
        Workload::new("ZADD", zadd, Target::OfBest(0.60)),
        Workload::new("LPUSH", lpush, Target::OfBest(0.60)),
        Workload::new("ZRANK", zrank, Target::OfBest(0.60)),
        Workload::new("LRANGE 100", lrange, Target::OfBest(0.48)),
        Workload::new("ZRANGEBYSCORE 50", zrange, Target::OfBest(0.62)),
        Workload::new("SINTER of two sets of 100", sinter, Target::OfRedis(0.80)),
    ]
}

/// Fills a server with the data that the workloads need.
pub(super) fn prepare(kind: Kind, client: &mut Client) -> Result<()> {
    let mut text = [0; VALUE_LENGTH];
    client.fill(KEYS, |index, request| {
        value(index, &mut text);
        command(request, &[b"SET", key(index).as_bytes(), &text]);
    })?;
    if kind == Kind::Limit {
        return Ok(());
    }
    let mut text = [0; 16];
    client.fill(SMALL * FEW, |index, request| {
        let (at, of) = (index / SMALL, index % SMALL);
        value(at, &mut text);
        command(request, &[b"HSET", format!("hash:{of:06}").as_bytes(), field(at).as_bytes(), &text]);
    })?;
    client.fill(SMALL * FEW, |index, request| {
        let (at, of) = (index / SMALL, index % SMALL);
        command(request, &[b"SADD", format!("set:{of:06}").as_bytes(), member(at).as_bytes()]);
    })?;
    client.fill(SMALL * FEW, |index, request| {
        let (at, of) = (index / SMALL, index % SMALL);
        let score = (100_000 + at).to_string();
        command(request, &[b"ZADD", format!("sorted:{of:06}").as_bytes(), score.as_bytes(), member(at).as_bytes()]);
    })?;
    client.fill(LARGE * MANY, |index, request| {
        let (at, of) = (index / LARGE, index % LARGE);
        value(at, &mut text);
        command(request, &[b"RPUSH", format!("large-list:{of:03}").as_bytes(), &text]);
    })?;
    client.fill(LARGE * MANY, |index, request| {
        let (at, of) = (index / LARGE, index % LARGE);
        let score = (100_000 + at).to_string();
        command(
            request,
            &[b"ZADD", format!("large-sorted:{of:03}").as_bytes(), score.as_bytes(), member(at).as_bytes()],
        );
    })?;
    client.fill(SETS * MEMBERS * 2, |index, request| {
        let (side, at, of) = (index % 2, index / 2 / SETS, index / 2 % SETS);
        // The sides share the first members; the others are their own.
        let member = if at < SHARED { at } else { at + side * MEMBERS };
        // Each set has its own order of members.
        let member = format!("item-{:03}", member * 7 % 1_000);
        command(request, &[b"SADD", intersected(side, of).as_bytes(), member.as_bytes()]);
    })
}

fn arguments<'a>(request: &mut Vec<u8>, name: &'a str, rest: impl Iterator<Item = &'a [u8]>) {
    let all: Vec<&[u8]> = std::iter::once(name.as_bytes()).chain(rest).collect();
    command(request, &all);
}

pub(super) fn field(at: u64) -> String {
    format!("field:{at:03}")
}

fn member(at: u64) -> String {
    format!("member:{at:06}")
}

fn intersected(side: u64, of: u64) -> String {
    format!("side{side}:{of:06}")
}
