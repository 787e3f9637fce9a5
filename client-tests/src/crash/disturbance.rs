//! Disturbances in the server besides writes, so that a kill hits them: checkpoints, sleep and wake, splits, merges.
//!
//! An answered checkpoint is a promise too: every write that was acknowledged before the request for it survives.

use std::{
    io,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use super::{declared::Declarations, node::Target, workload::DATABASES};
use crate::{
    resp::{Connection, Reply},
    script::Random,
    server::Kind,
};

const SLOTS: usize = 16384;
const SHARDS_MAX: usize = 6;

/// For each database, when the last answered checkpoint was requested.
pub type Checkpoints = [Option<Instant>; DATABASES];

/// Frequency of each disturbance of one database.
#[derive(Clone, Copy, Debug)]
pub struct Temper {
    pub pause_ms_max: usize,
    /// Sleeps, out of ten disturbances. The rest are checkpoints and splits.
    pub sleeps: usize,
}

impl Temper {
    pub fn random(random: &mut Random) -> Self {
        Self { pause_ms_max: *random.pick(&[2, 10, 40, 200]), sleeps: *random.pick(&[0, 2, 5]) }
    }
}

/// The outcome of the disturbances.
#[derive(Debug, Default)]
pub struct Ended {
    /// When the last answered checkpoint was requested.
    pub checkpoint: Option<Instant>,
    /// The request that the kill interrupted.
    pub unanswered: Option<String>,
    /// Requests that failed because of a full disk.
    pub refused: usize,
    pub fault: Option<String>,
    pub declared: Declarations,
}

pub struct Disturbance {
    kind: Kind,
    connection: Connection,
    database: usize,
}

impl Disturbance {
    pub fn connect(target: &Target, database: usize) -> io::Result<Self> {
        Ok(Self { kind: target.kind, connection: target.connect(database)?, database })
    }

    /// Disturbs the server until it is gone. Tells `begun` about each request before sending it.
    pub fn run(
        mut self,
        temper: Temper,
        random: &mut Random,
        declared: Declarations,
        (begun, ending): (&Sender<String>, &AtomicBool),
        may_refuse: bool,
    ) -> Ended {
        let mut ended = Ended { declared, ..Ended::default() };
        let fault = loop {
            std::thread::park_timeout(Duration::from_millis(random.below(temper.pause_ms_max) as u64));
            match self.once(temper, random, begun, &mut ended) {
                Ok(None) => {}
                Ok(Some(_)) if may_refuse => ended.refused += 1,
                Ok(Some(refusal)) => break refusal,
                Err(problem) => break format!("the connection broke before the kill: {problem}"),
            }
        };
        // A server that is told to end may say so.
        if !ending.load(Ordering::Relaxed) {
            ended.fault = Some(format!("database {}: {fault}", self.database));
        }
        ended
    }

    fn once(
        &mut self,
        temper: Temper,
        random: &mut Random,
        begun: &Sender<String>,
        ended: &mut Ended,
    ) -> io::Result<Option<String>> {
        if self.kind == Kind::Dormouse && random.one_in(6) {
            let (setting, version) = (random.below(2), 1 + random.below(1 << 40) as u64);
            _ = begun.send("DECLARE".to_owned());
            ended.unanswered = Some("DECLARE".to_owned());
            let (words, reply) = ended.declared.declare(&mut self.connection, setting, version)?;
            ended.unanswered = None;
            return Ok(reply.is_error().then(|| format!("{} was answered {reply:?}", words.join(" "))));
        }
        let words = self.choose(temper, random)?;
        let name = words.iter().find(|word| *word != "DORMOUSE").cloned().unwrap_or_default();
        let saves = ["SAVE", "SLEEP", "CHECKPOINT"].contains(&name.as_str());
        let asked = Instant::now();
        // After the decision to kill, the receiver is gone.
        _ = begun.send(name.clone());
        ended.unanswered = Some(name);
        let reply = self.connection.try_call(&words)?;
        ended.unanswered = None;
        if saves && !reply.is_error() {
            ended.checkpoint = Some(asked);
        }
        let refused = reply.is_error() && !self.races(&words);
        Ok(refused.then(|| format!("{} was answered {reply:?}", words.join(" "))))
    }

    fn choose(&mut self, temper: Temper, random: &mut Random) -> io::Result<Vec<String>> {
        let chosen = random.below(10);
        let line = match self.kind {
            Kind::Redis | Kind::Valkey | Kind::Redis8 if chosen < 5 => "SAVE".into(),
            Kind::Redis | Kind::Valkey | Kind::Redis8 if chosen < 7 => "BGSAVE".into(),
            Kind::Redis | Kind::Valkey | Kind::Redis8 => "BGREWRITEAOF".into(),
            Kind::Dormouse if chosen < temper.sleeps => "DORMOUSE SLEEP".into(),
            // Branches come and go beside the database. It must not lose the data that it shares with them.
            Kind::Dormouse if chosen < 7 && random.one_in(4) => {
                format!("DORMOUSE BRANCH branch-{} TTL 300", random.below(1 << 40))
            }
            Kind::Dormouse if chosen < 7 => "DORMOUSE CHECKPOINT".into(),
            Kind::Dormouse => {
                let shards = self.connection.try_call(&["DORMOUSE", "SHARDS"])?;
                let first_slots: Vec<u64> = shards.items().unwrap_or_default().iter().filter_map(first_slot).collect();
                match first_slots.len() {
                    number if number < 2 || (number < SHARDS_MAX && random.one_in(2)) => {
                        format!("DORMOUSE SPLIT {}", 1 + random.below(SLOTS - 1))
                    }
                    number => format!("DORMOUSE MERGE {}", first_slots[1 + random.below(number - 1)]),
                }
            }
        };
        Ok(line.split(' ').map(String::from).collect())
    }

    /// Whether an error may come from a race. The server itself may have split or merged shards since they were looked
    /// at. A database that clients write to stays awake. Redis saves once at a time.
    fn races(&self, words: &[String]) -> bool {
        self.kind != Kind::Dormouse || ["SPLIT", "MERGE", "SLEEP"].contains(&words[1].as_str())
    }
}

fn first_slot(shard: &Reply) -> Option<u64> {
    let pair = shard.items()?.chunks_exact(2).find(|pair| pair[0].bytes() == Some(b"first_slot"))?;
    pair[1].number().map(|number| number as u64)
}
