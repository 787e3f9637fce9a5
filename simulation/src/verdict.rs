//! Verdicts on what a client or a task was told: whether the models and the disk's faults explain it.

use dormouse_shard::error::Error;
use dormouse_shard::keyspace::Eviction;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::book::Book;
use crate::clock;
use crate::disk::Disk;
use crate::model::Model;
use crate::plan::{Action, Limit};
use crate::script::Asked;

/// Limit of keys that could still be dropped when a command is refused for want of memory although its own need is within
/// the limit: those that are not in memory.
const DROPPABLE_MAX: usize = 20;

/// Bytes of an argument's allocation and of its place in a value, beyond its own.
const EACH_BYTES: usize = 40;

pub fn compare(book: &Book, at: usize, found: &Model) -> Result<(), String> {
    let now_ms = clock::now_ms();
    let (expected, found) = (book.live(at).alive(now_ms), found.alive(now_ms));
    if found == expected {
        return Ok(());
    }
    let all = expected.keys.keys().chain(found.keys.keys());
    let key = all.into_iter().find(|key| expected.keys.get(*key) != found.keys.get(*key));
    let pair = key.map(|key| (key, expected.keys.get(key), found.keys.get(key)));
    Err(format!("database {at} in memory is not as the model: key, model, memory: {pair:?}"))
}

/// Checks a refusal of commands for want of memory: the database must have a limit, and either the commands need more than
/// that, or there is nothing that may be dropped.
pub fn refuse(disk: &Disk, book: &Mutex<Book>, at: usize, limit: Option<Limit>, asked: &[Asked]) {
    disk.note(format!("refused for want of memory by database {at}"));
    let mut book = book.lock();
    let droppable = match limit.map(|limit| limit.policy) {
        None => usize::MAX,
        Some(Eviction::NoEviction) => 0,
        Some(Eviction::AllKeysLfu | Eviction::AllKeysLru | Eviction::AllKeysRandom) => book.live(at).keys.len(),
        Some(_) => book.live(at).keys.values().filter(|entry| entry.expiry.is_some()).count(),
    };
    let needed: usize = asked.iter().map(need).sum();
    let is_too_much = limit.is_some_and(|limit| needed > limit.bytes);
    if book.is_open && droppable > DROPPABLE_MAX && !is_too_much {
        book.fail(format!(
            "commands that need {needed} bytes were refused at {limit:?}, though {droppable} keys could be dropped: {asked:?}"
        ));
    }
}

/// The bytes that a command needs, roughly: those of its words, and of what it makes beside them.
fn need(asked: &Asked) -> usize {
    let words: usize = asked.words.iter().map(|word| word.len() + EACH_BYTES).sum();
    let made = match asked.words[0].as_str() {
        // A layer of 1,024 slots.
        "CF.ADD" => 1_600,
        // A link of at most 80 items.
        "BF.INSERT" => 900,
        // A new set, or room for a quarter of its vectors.
        "VADD" => 1_200,
        // A slice that becomes dense.
        name if name.starts_with("AR") => 6_500,
        name if name.starts_with('X') => 1_500,
        // A text of a document and its encoded form.
        name if name.starts_with("JSON.") => words,
        "COPY" => 1_500,
        _ => 0,
    };
    words + made
}

/// Checks an error of a database: it must be due to a fault of the disk, or to damage.
pub fn excuse(disk: &Disk, book: &Mutex<Book>, at: usize, what: &str, error: &Error) {
    disk.note(format!("{what} failed: {error}"));
    // While the log is behind, nothing may be dropped for room.
    if error.to_string().starts_with("MISCONF the log is") {
        return;
    }
    let mut book = book.lock();
    let is_damaged = book.damage.as_ref().is_some_and(|damage| damage.concerns(at));
    let is_excused = is_damaged || disk.with(|state| state.faults > 0 || state.dead);
    if book.is_open && (!is_excused || error.to_string().contains("panicked")) {
        let is_closed = error.to_string().contains("shutting down");
        if !is_closed {
            book.fail(format!("{what} failed without a cause: {error}"));
        }
    }
}

/// Removes the finished tasks.
pub async fn reap(tasks: &mut Vec<(Action, JoinHandle<()>)>) -> Result<(), String> {
    let mut at = 0;
    while at < tasks.len() {
        if tasks[at].1.is_finished() {
            let (action, task) = tasks.remove(at);
            task.await.map_err(|error| format!("{action:?}: {error}"))?;
        } else {
            at += 1;
        }
    }
    Ok(())
}
