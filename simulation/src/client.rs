//! A client's batch, which the executor runs like a transaction of a server.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_shard::commands::{self, Command, Context, Flags, Row, at_least, staging};
use dormouse_shard::database::Database;
use dormouse_shard::error::Error;
use dormouse_shard::execution::once::Once;
use dormouse_shard::execution::{self, Ended, Outcome, Plan, PlannedCommand, Step, Turn, Witness};
use dormouse_shard::keyspace::changes::Watching;
use parking_lot::Mutex;

use crate::book::{Batch, Book};
use crate::clock;
use crate::model::{AGAIN, Key, ONCE, ONCE_WORDS};
use crate::script::Asked;
use crate::scripted;

/// The row of `DORMOUSE IMPORT`, which is in the server's table.
static IMPORT: Row = Command::new("IMPORT", at_least(3), &[], IMPORTS, ()).row;
const IMPORTS: Flags = Flags::WRITE.union(Flags::WHOLE).union(Flags::BY_KEY).union(Flags::SWAPS_INDEXES);

/// The keys that a client watches, and its number in the book.
pub struct Watched {
    watching: Arc<Watching>,
    number: u64,
    book: Arc<Mutex<Book>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.book.lock().unwatch(self.number);
    }
}

/// Watches keys.
///
/// # Errors
/// When the database cannot be woken or a place cannot be loaded.
pub async fn watch(
    database: &Arc<Database>,
    at: usize,
    keys: Vec<Key>,
    number: u64,
    book: &Arc<Mutex<Book>>,
) -> Result<Watched, Error> {
    let watching = Watching::new(&database.shared.watches);
    let mut plan = Plan::new(clock::now_ms(), number);
    plan.watching = Some(Arc::clone(&watching));
    plan.steps.extend(keys.iter().map(|(select, key)| Step::Watch { select: *select, key: key.as_bytes().into() }));
    let told = Arc::clone(book);
    plan.witness = Some(Witness::new(move |_, now_ms| told.lock().watch(number, at, &keys, now_ms)));
    let watched = Watched { watching, number, book: Arc::clone(book) };
    execution::run(database, &Arc::new(plan), &Arc::new(Turn::endless(None))).await?;
    Ok(watched)
}

/// Runs a batch to its end and waits until it may be answered. Returns its replies, unless the log has fallen behind.
///
/// # Errors
/// When the database cannot be woken or a place cannot be loaded.
pub async fn run(
    database: &Arc<Database>,
    at: usize,
    asked: &[Asked],
    seed: u64,
    book: &Arc<Mutex<Book>>,
    watched: Option<&Watched>,
) -> Result<Result<Vec<String>, Error>, Error> {
    let mut plan = Plan::new(clock::now_ms(), seed);
    plan.watching = watched.map(|watched| Arc::clone(&watched.watching));
    let number = watched.map(|watched| watched.number);
    plan.steps.extend(asked.iter().map(|asked| Step::Command(prepare(asked))));
    plan.once = asked.iter().find_map(promise);
    let writes = plan.once.is_some() || plan.commands().any(|command| command.row.flags.contains(Flags::WRITE));
    let (shared, told, asked) = (Arc::clone(&database.shared), Arc::clone(book), asked.to_vec());
    plan.witness = Some(Witness::new(move |outcome, now_ms| {
        let batch = Batch {
            database: at,
            commands: asked.iter().cloned().zip(replies(outcome)).chain(served(outcome)).collect(),
            now_ms,
            written: outcome.left.written,
            sequence: shared.sequence.load(Ordering::SeqCst),
            unlogged: writes && !shared.journal.is_covered(),
            changed: false,
            is_eviction: false,
        };
        let flushed = shared.journal.log().map_or(0, |log| log.flushed());
        let mut book = told.lock();
        number.into_iter().for_each(|number| book.applies(number, now_ms));
        note_served(&mut book, at, outcome);
        book.note(batch, shared.journal.is_strict(), outcome.left.awaited, flushed);
    }));
    let outcome = execution::run(database, &Arc::new(plan), &Arc::new(Turn::endless(None))).await?;
    match &outcome.ended {
        Ended::Refused(error) => return Ok(Err(error.clone())),
        Ended::Changed => number.into_iter().for_each(|number| book.lock().refused(number)),
        Ended::Done | Ended::Repeated => {}
    }
    if let Some(log) = database.shared.journal.log().filter(|_| outcome.left.awaited > 0) {
        log.durable(outcome.left.awaited).await.map_err(|error| Error::Store(error.to_string()))?;
    }
    Ok(Ok(replies(&outcome)))
}

pub fn replies(outcome: &Outcome) -> Vec<String> {
    outcome.each_reply().map(|reply| String::from_utf8_lossy(reply).into_owned()).collect()
}

/// The promise of a request that may be delivered several times.
fn promise(asked: &Asked) -> Option<Once> {
    let (name, [key, ttl_ms, ..]) = asked.words.split_first()? else { return None };
    let ttl_ms = ttl_ms.parse().ok().filter(|_| name == ONCE)?;
    Some(Once::new(key.as_bytes(), ttl_ms, b"default").expect("the script asks for keys and times that there are"))
}

pub fn prepare(asked: &Asked) -> PlannedCommand {
    let words = if asked.words[0] == ONCE { &asked.words[ONCE_WORDS..] } else { &asked.words };
    let request = || OwnedRequest::from_args(&words.iter().map(String::as_bytes).collect::<Vec<_>>());
    let request = scripted::request(words).unwrap_or_else(request);
    let (row, run) = match words[0].as_str() {
        // The server has this row.
        "DORMOUSE" => (&IMPORT, staging::IMPORT),
        _ => commands::find(request.as_request()).expect("the script asks for commands that there are"),
    };
    PlannedCommand {
        row,
        run,
        request,
        context: Context {
            select: asked.select,
            version: Version::Resp2,
            no_touch: false,
            tracker: Default::default(),
        },
    }
}

/// The commands that were run for waiters, as the model knows them.
pub fn served(outcome: &Outcome) -> impl Iterator<Item = (Asked, String)> {
    outcome.served.iter().map(|served| {
        let request = served.waiter.request.as_request();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut words: Vec<String> = request.iter().map(text).collect();
        if words[0] != "BRPOPLPUSH" && !words[0].starts_with('X') {
            words = vec![words[0].clone(), text(&served.key), "0".into()];
        }
        (again(served.waiter.context.select, words), text(&served.reply))
    })
}

/// Tells the book which clients a batch has served.
pub fn note_served(book: &mut Book, at: usize, outcome: &Outcome) {
    for served in &outcome.served {
        if !book.is_open {
            return;
        }
        let reply = String::from_utf8_lossy(&served.reply).into_owned();
        if let Err(problem) = book.served.serve(at, served.waiter.number(), reply) {
            book.fail(problem);
        }
    }
}

/// A command of a client that has waited.
pub fn again(select: u8, mut words: Vec<String>) -> Asked {
    words[0] = format!("{}{}", AGAIN, words[0]);
    Asked { select, words }
}
