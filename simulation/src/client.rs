//! A client's batch, as the server runs one that may have to wait: routed, under all its locks, one entry in the log.

use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Reply, Request, Version};
use dormouse_shard::commands::{self, Flags, Row, Run};
use dormouse_shard::database::Database;
use dormouse_shard::error::Error;
use dormouse_shard::keyspace::{Fault, Keyspace};
use dormouse_shard::shard::HeldShard;
use dormouse_shard::topology::{Topology, hold};
use dormouse_storage::log::Lsn;
use parking_lot::Mutex;

use crate::book::{Batch, Book};
use crate::clock;
use crate::script::Asked;

/// How a batch ended.
#[derive(Debug)]
pub enum Ended {
    Done {
        replies: Vec<String>,
        awaited: Lsn,
    },
    /// The log has fallen behind.
    Refused(Error),
}

enum Try {
    Ended(Ended),
    Fault(Fault),
    Rerouted,
}

struct Prepared {
    select: u8,
    request: OwnedRequest,
    row: &'static Row,
    run: Run,
}

/// Runs a batch to its end and waits until it may be answered.
///
/// # Errors
/// When the database cannot be woken or a place cannot be loaded.
pub async fn run(
    database: &Arc<Database>,
    at: usize,
    asked: &[Asked],
    seed: u64,
    book: &Mutex<Book>,
) -> Result<Ended, Error> {
    let prepared: Vec<Prepared> = asked.iter().map(prepare).collect();
    let ended = loop {
        let topology = database.awake().await?;
        let shards = route(&topology, &prepared);
        let held = hold(shards.iter().map(|&shard| Arc::clone(&topology.shards[shard])).collect()).await;
        match under(database, &topology, &shards, &held, at, asked, &prepared, seed, book) {
            Try::Ended(ended) => break ended,
            Try::Rerouted => {}
            Try::Fault(fault) => {
                drop(held);
                database.load(fault).await?;
            }
        }
    };
    if let Ended::Done { awaited, .. } = &ended
        && *awaited > 0
        && let Some(log) = database.shared.journal.log()
    {
        log.durable(*awaited).await.map_err(|error| Error::Store(error.to_string()))?;
    }
    Ok(ended)
}

fn prepare(asked: &Asked) -> Prepared {
    let words: Vec<&[u8]> = asked.words.iter().map(String::as_bytes).collect();
    let request = OwnedRequest::from_args(&words);
    let (row, run) = commands::find(request.as_request()).expect("the script asks for commands that there are");
    Prepared { select: asked.select, request, row, run }
}

/// The shards that a batch needs, ascending.
fn route(topology: &Topology, prepared: &[Prepared]) -> Vec<usize> {
    if prepared.iter().any(|one| one.row.flags.contains(Flags::WHOLE)) {
        return (0..topology.shards.len()).collect();
    }
    let keys = prepared.iter().flat_map(|one| {
        let request = one.request.as_request();
        one.row.key_indexes(request).map(move |key| request.arg(key))
    });
    let mut shards: Vec<usize> = keys.map(|key| topology.of_key(key)).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

/// The first place that the command needs and that is not in memory.
fn missing(db: &Keyspace<'_>, row: &Row, request: Request<'_>) -> Option<Fault> {
    let here = row.key_indexes(request).find_map(|key| db.missing(db.position(request.arg(key))));
    here.or_else(|| {
        let (select, key) = row.elsewhere?(request)?;
        db.missing_in(select, db.position(request.arg(key)))
    })
}

#[expect(clippy::too_many_arguments, reason = "it is the inside of `run`")]
fn under(
    database: &Database,
    topology: &Topology,
    shards: &[usize],
    held: &[HeldShard],
    at: usize,
    asked: &[Asked],
    prepared: &[Prepared],
    seed: u64,
    book: &Mutex<Book>,
) -> Try {
    // The models know nothing of keys that were removed at a time after that of a command which waited.
    let now_ms = clock::now_ms();
    let mut contents: Vec<_> = held.iter().map(HeldShard::contents).collect();
    let moved =
        contents.iter().zip(shards).any(|(contents, &shard)| contents.retired || !topology.matches(shard, contents));
    if contents.len() != shards.len() || moved {
        return Try::Rerouted;
    }
    let parts = contents.iter_mut().map(|contents| &mut **contents);
    let shared = &database.shared;
    let mut db = Keyspace::new(parts, shared, 0, now_ms, seed);
    // After a SWAPDB a command may see any index.
    let swaps = asked.iter().any(|asked| asked.words[0] == "SWAPDB");
    for one in prepared {
        for select in if swaps { 0..16 } else { one.select..one.select + 1 } {
            db.select(select);
            if let Some(fault) = missing(&db, one.row, one.request.as_request()) {
                return Try::Fault(fault);
            }
        }
    }
    let writes = prepared.iter().any(|one| one.row.flags.contains(Flags::WRITE));
    if writes && let Err(error) = shared.journal.admit() {
        return Try::Ended(Ended::Refused(error.into()));
    }
    let mut replies = Vec::new();
    for one in prepared {
        db.select(one.select);
        let mut reply = Reply::new(Version::Resp2);
        if commands::call(one.row, one.run, &mut db, &mut reply, one.request.as_request()).is_err() {
            reply.error("ERR a part of the database was not in memory");
        }
        replies.push(String::from_utf8_lossy(&reply.buffer).into_owned());
    }
    let (is_strict, unlogged) = (shared.journal.is_strict(), writes && !shared.journal.is_covered());
    let left = db.finish();
    drop(db.take_graveyard());
    let flushed = shared.journal.log().map_or(0, |log| log.flushed());
    let batch = Batch {
        database: at,
        commands: asked.iter().cloned().zip(replies.clone()).collect(),
        now_ms,
        written: left.written,
        sequence: shared.sequence.load(std::sync::atomic::Ordering::SeqCst),
        unlogged,
        changed: false,
    };
    book.lock().note(batch, is_strict, left.awaited, flushed);
    Try::Ended(Ended::Done { replies, awaited: left.awaited })
}
