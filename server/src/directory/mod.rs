//! The databases and tokens that the node was told of while it ran.
//!
//! 1. [`KnownDatabases`] has all records in memory, a few bytes each. Logins and lists read them there.
//! 2. A change is a function from the record of one name to its next one. The [`scribe`] runs the functions that wait, one
//!    after the other, makes all of their results durable in one step, and publishes them. So a change is answered when it is
//!    durable, concurrent changes share a write, and none sees a record that the other has changed meanwhile.
//! 3. The directory begins with the first change. That step also holds the databases that the store has by then, so
//!    from then on the directory knows all of them.
//! 4. In a fleet each node has a directory over the same objects, which begins with the first node's start. A change that
//!    another node's comes before is decided again. The node hears of the steps of others ([`DatabaseDirectory::hear`]), or looks
//!    for them before it refuses a name ([`DatabaseDirectory::refresh`]); it tells of its own
//!    ([`DatabaseDirectory::own_steps`]), and which records others have changed ([`DatabaseDirectory::foreign`]).

mod foreign;
mod known;
mod scribe;
pub mod secret;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dormouse_shard::database::Engine;
use dormouse_storage::directory::{DatabaseRecord, DirectoryLog, DirectoryWriters};
use dormouse_storage::store::StoreError;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};

use self::foreign::ForeignNames;
pub use self::known::KnownDatabases;
use self::scribe::{Asked, AskedChange, Wishes};

/// Most changes that wait.
const WAITING_MAX: usize = 1024;
/// The longest time that a caller waits for a look at what other nodes have written.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// The reason why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// The present state excludes it.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A limit of the server.
    #[error("{0}")]
    Limit(String),
    /// The store refuses; the change may be made later all the same.
    #[error("{0}")]
    Store(String),
}

pub struct DatabaseDirectory {
    known: RwLock<KnownDatabases>,
    asked: mpsc::Sender<Asked>,
    looks: mpsc::Sender<oneshot::Sender<()>>,
    /// The last step that another node has told of.
    heard: watch::Sender<u64>,
    /// The last step of this node.
    own: watch::Sender<u64>,
    foreign: ForeignNames,
    /// The last step, which is in memory; 0: the store has no directory.
    number: AtomicU64,
    tokens: AtomicUsize,
    is_shared: bool,
}

impl DatabaseDirectory {
    /// Reads the directory of the store. `writers`: whether other nodes write to it, too.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn open(engine: &Engine, writers: DirectoryWriters) -> Result<Arc<Self>, StoreError> {
        let mut known = KnownDatabases::default();
        let owner = engine.log.as_ref().and_then(|log| log.owner().cloned());
        let mut apply = |change| known.apply(change);
        let log = DirectoryLog::read(&engine.store, writers, owner, engine.writer, &mut apply).await?;
        let (asked, changes) = mpsc::channel(WAITING_MAX);
        let (looks, looking) = mpsc::channel(scribe::LOOKING_MAX);
        let (heard, hearing) = watch::channel(log.number());
        let directory = Arc::new(Self {
            number: AtomicU64::new(log.number()),
            tokens: AtomicUsize::new(known.tokens()),
            known: RwLock::new(known),
            asked,
            looks,
            heard,
            own: watch::Sender::default(),
            foreign: ForeignNames::default(),
            is_shared: writers == DirectoryWriters::Shared,
        });
        let wishes = Wishes { changes, looks: looking, heard: hearing };
        engine.background.spawn(scribe::write(log, writers, wishes, Arc::downgrade(&directory)));
        Ok(directory)
    }

    /// Whether other nodes write to it, too.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether the store has a directory: then it knows every database of the store.
    pub fn has_begun(&self) -> bool {
        self.number() > 0
    }

    /// The last step that is known here.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Follows other nodes at least to this step, of which one of them has told. Costs nothing if it is known here.
    pub fn hear(&self, number: u64) {
        if self.is_shared && number > self.number() {
            self.heard.send_if_modified(|heard| {
                let is_news = number > *heard;
                *heard = number.max(*heard);
                is_news
            });
        }
    }

    /// Looks for steps of other nodes: those that existed when it was called are known afterwards, unless the store refuses or
    /// is slow. All callers together make a few requests a second.
    pub async fn refresh(&self) {
        let (answer, answered) = oneshot::channel();
        if self.is_shared && self.looks.try_send(answer).is_ok() {
            // If it takes too long, the caller goes on with what is known.
            let _ = tokio::time::timeout(LOOK_MAX, answered).await;
        }
    }

    /// The last step that this node has written, for those who tell the other nodes; 0 if it has written none.
    pub fn own_steps(&self) -> watch::Receiver<u64> {
        self.own.subscribe()
    }

    /// Waits for changes that no caller here has made, and takes the names of their databases: changes of other nodes, and own
    /// ones that were made although the caller was told that the store had failed. For one caller, which looks at the records
    /// as they are by then. There are none without other nodes.
    pub async fn foreign(&self) -> BTreeSet<Box<str>> {
        self.foreign.take().await
    }

    /// Whether any database has a token here.
    pub fn has_tokens(&self) -> bool {
        self.tokens.load(Ordering::Acquire) > 0
    }

    pub fn known(&self) -> parking_lot::RwLockReadGuard<'_, KnownDatabases> {
        self.known.read()
    }

    pub fn find(&self, name: &str) -> Option<DatabaseRecord> {
        self.known.read().find(name)
    }

    /// The record of a database, deleted or not.
    pub fn held(&self, name: &str) -> Option<DatabaseRecord> {
        self.known.read().held(name)
    }

    /// The record of a deleted database that can be brought back.
    pub fn deleted(&self, name: &str) -> Option<DatabaseRecord> {
        self.known.read().deleted(name)
    }

    /// Changes the record of one name, deleted or not: `decide` turns the present one into the next one, and a value for the caller.
    /// It runs again if another node has changed the directory meanwhile; the last time counts. `founding`: the databases to
    /// begin the directory with, if it has not begun.
    ///
    /// # Errors
    /// As `decide`, or when the store refuses.
    pub async fn change<T: Send + 'static>(
        &self,
        name: &str,
        founding: Vec<DatabaseRecord>,
        decide: impl FnMut(Option<DatabaseRecord>) -> Result<(Option<DatabaseRecord>, T), ChangeRefusal> + Send + 'static,
    ) -> Result<T, ChangeRefusal> {
        self.ask(name, founding, false, decide).await
    }

    /// Begins the directory with these databases, unless it has begun: of several nodes that do this at the same time, one
    /// begins it.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn begin(&self, founding: Vec<DatabaseRecord>) -> Result<(), ChangeRefusal> {
        self.ask("", founding, true, |present| Ok((present, ()))).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        name: &str,
        founding: Vec<DatabaseRecord>,
        begins: bool,
        decide: impl FnMut(Option<DatabaseRecord>) -> Result<(Option<DatabaseRecord>, T), ChangeRefusal> + Send + 'static,
    ) -> Result<T, ChangeRefusal> {
        let (answer, answered) = oneshot::channel();
        let change = Box::new(Waiting { decide, value: None, answer });
        let asked = Asked { name: name.into(), founding, begins, change };
        self.asked.send(asked).await.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// A caller that waits for its change.
struct Waiting<T, F> {
    decide: F,
    /// The last decision's value for the caller.
    value: Option<T>,
    answer: oneshot::Sender<Result<T, ChangeRefusal>>,
}

impl<T: Send, F> AskedChange for Waiting<T, F>
where
    F: FnMut(Option<DatabaseRecord>) -> Result<(Option<DatabaseRecord>, T), ChangeRefusal> + Send,
{
    fn decide(&mut self, present: Option<DatabaseRecord>) -> Result<Option<DatabaseRecord>, ChangeRefusal> {
        let (record, value) = (self.decide)(present)?;
        self.value = Some(value);
        Ok(record)
    }

    fn tell(self: Box<Self>, outcome: Result<(), ChangeRefusal>) {
        let Self { value, answer, .. } = *self;
        // A caller that has gone away needs no answer.
        let _ = answer.send(outcome.and_then(|()| value.ok_or_else(ended)));
    }
}

fn ended() -> ChangeRefusal {
    ChangeRefusal::Store("the server is shutting down".to_owned())
}

#[cfg(test)]
mod tests;
