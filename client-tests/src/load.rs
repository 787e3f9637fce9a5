//! A load on the source: a thread that writes until it is ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{
    resp::{Connection, Words, request},
    script::{Random, Script, Step},
};

const PIPELINE: usize = 40;
const NAMES: usize = 60;
/// Keys that an index has at the end at least. Some of them expire before they are compared.
const KEYS_LEFT: f64 = 10.0;
/// Script commands that have no place in a load: they change the connection or the server.
const NOT_DATA: [&[u8]; 12] = [
    b"QUIT",
    b"RESET",
    b"HELLO",
    b"AUTH",
    b"CLIENT",
    b"CONFIG",
    b"SUBSCRIBE",
    b"PSUBSCRIBE",
    b"SSUBSCRIBE",
    b"MONITOR",
    b"SHUTDOWN",
    b"DEBUG",
];

pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Load {
    /// Sends commands that must not be applied twice, in several indexes, in transactions and scripts. With `expires`,
    /// also to keys that are just about to expire.
    pub fn of_counters(port: u16, seed: u64, expires: bool) -> Self {
        let mut random = Random::new(seed);
        Self::start(port, move |commands| counters(&mut random, commands, expires))
    }

    /// Sends every command that writes, chosen at random.
    pub fn of_scripts(port: u16, seed: u64) -> Self {
        let mut script = Script::new(seed);
        Self::start(port, move |commands| {
            let single = |words: Words| vec![words];
            let multi = |commands: Vec<Words>, end: &str| {
                let edge = |word: &str| vec![word.as_bytes().to_vec()];
                [vec![edge("MULTI")], commands, vec![edge(end)]].concat()
            };
            let step = match script.next().expect("a script has no end") {
                Step::Command(words) => single(words),
                Step::Transaction { commands, end } => multi(commands, end),
                Step::Watched { other, command, .. } => [single(other), multi(single(command), "EXEC")].concat(),
                Step::Draw { draw, .. } => single(draw),
                Step::Expiry { command, .. } => single(command),
                Step::Iteration { .. } | Step::Inventory => Vec::new(),
            };
            commands.extend(step.into_iter().filter(|words| {
                let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
                !NOT_DATA.contains(&name.as_slice()) && !adds_to_plain_bytes(&name, words) && !is_untold(&name, words)
            }));
        })
    }

    /// Ends the load, as soon as something is left of it to compare. Returns the number of answered commands.
    pub fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the load found nothing wrong")
    }

    fn start(port: u16, mut step: impl FnMut(&mut Vec<Words>) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut connection = Connection::open(port);
            let mut answered = 0;
            let mut commands = Vec::new();
            // A script may end with FLUSHALL.
            let mut has_enough = false;
            while !stopped.load(Ordering::SeqCst) || !has_enough {
                while commands.len() < PIPELINE {
                    step(&mut commands);
                }
                let bytes: Vec<u8> = commands.iter().flat_map(|words| request(words)).collect();
                connection.write(&bytes).expect("the source reads");
                for _ in commands.drain(..) {
                    connection.read().expect("the source answers");
                    answered += 1;
                }
                has_enough = connection.run("DBSIZE").number().is_some_and(|keys| keys >= KEYS_LEFT);
                // The pause lets the importer catch up. Without it, the test would never end.
                std::thread::park_timeout(Duration::from_millis(2));
            }
            answered
        });
        Self { stop, thread }
    }
}

/// Whether PFADD meets a string that the script edits byte by byte. Redis adds to a HyperLogLog with damaged registers, and
/// the target refuses to: docs/compatibility.md says so.
fn adds_to_plain_bytes(name: &[u8], words: &Words) -> bool {
    [&b"PFADD"[..], b"PFDEBUG"].contains(&name) && words.get(1).is_some_and(|key| !key.starts_with(b"p"))
}

/// Whether a Redis may change something without telling its replicas: where `BITFIELD` fails, it has lengthened the string
/// with zeros, or has made it.
fn is_untold(name: &[u8], words: &Words) -> bool {
    name == b"BITFIELD" && words.iter().any(|word| word.eq_ignore_ascii_case(b"FAIL"))
}

fn counters(random: &mut Random, commands: &mut Vec<Words>, expires: bool) {
    let (n, m) = (random.below(NAMES), random.below(NAMES));
    let line = match random.below(28) {
        0 => format!("SELECT {}", random.pick(&[0, 0, 1, 9, 15])),
        1..5 => format!("INCR counter:{n}"),
        5 => format!("INCRBYFLOAT float:{n} 0.5"),
        6 => format!("APPEND text:{n} {m},"),
        7..9 => format!("HINCRBY hash:{n} field:{m} 1"),
        9..11 => format!("RPUSH list:{n} {m} {n}"),
        11 => format!("LPOP list:{n}"),
        12 => format!("LMOVE list:{n} list:{m} LEFT RIGHT"),
        13..15 => format!("SADD set:{n} {m} member:{m}"),
        15 => format!("SPOP set:{n} 2"),
        16..18 => format!("ZINCRBY sorted:{n} 1.5 {m}"),
        18 => format!("ZPOPMIN sorted:{n}"),
        19 => format!("SET short:{n} 1 PX {}", 1 + random.below(150)),
        20 if expires => format!("INCR short:{n}"),
        21 => format!("PEXPIRE counter:{n} 7200000"),
        22 => format!("DEL hash:{n}"),
        23 => format!("RENAME text:{n} text:{m}"),
        24 => format!("SET large:{n} {}", "x".repeat(random.below(5_000))),
        25 => format!("COPY list:{n} list:{m} REPLACE"),
        26 => {
            let lines = [
                "MULTI".to_string(),
                format!("INCR counter:{n}"),
                format!("RPUSH list:{m} transaction"),
                "SELECT 5".to_string(),
                format!("INCR counter:{m}"),
                "EXEC".to_string(),
            ];
            commands.extend(lines.iter().map(|line| words(line)));
            return;
        }
        _ => {
            let script = "redis.call('INCR', KEYS[1]); redis.call('SADD', KEYS[2], ARGV[1]); return 1";
            let call = ["EVAL", script, "2", &format!("counter:{n}"), &format!("set:{m}"), "scripted"];
            commands.push(call.iter().map(|word| word.as_bytes().to_vec()).collect());
            return;
        }
    };
    commands.push(words(&line));
}

fn words(line: &str) -> Words {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}
