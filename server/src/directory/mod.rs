//! The databases and tokens that the node was told of while it ran.
//!
//! 1. [`KnownDatabases`] has all records in memory, a few bytes each. Logins and lists read them there.
//! 2. A change is a function from the record of one name to its next one. The [`scribe`] runs the functions that wait, one
//!    after the other, makes all of their results durable in one step, and publishes them. So a change is answered when it is
//!    durable, concurrent changes share a write, and none sees a record that the other has changed meanwhile.
//! 3. The directory begins with the first change. That step also holds the databases that the store has by then, so
//!    from then on the directory knows all of them.

mod known;
mod scribe;
pub mod secret;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dormouse_shard::database::Engine;
use dormouse_storage::directory::{DatabaseRecord, DirectoryLog};
use dormouse_storage::store::StoreError;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

pub use self::known::KnownDatabases;
use self::scribe::{Asked, Decided};

/// Most changes that wait.
const WAITING_MAX: usize = 1024;

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
    /// Whether the store has a directory.
    has_begun: AtomicBool,
    tokens: AtomicUsize,
}

impl DatabaseDirectory {
    /// Reads the directory of the store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn open(engine: &Engine) -> Result<Arc<Self>, StoreError> {
        let mut known = KnownDatabases::default();
        let owner = engine.log.as_ref().and_then(|log| log.owner().cloned());
        let log = DirectoryLog::read(&engine.store, owner, engine.writer, &mut |change| known.apply(change)).await?;
        let (asked, waiting) = mpsc::channel(WAITING_MAX);
        let directory = Arc::new(Self {
            has_begun: AtomicBool::new(log.number() > 0),
            tokens: AtomicUsize::new(known.tokens()),
            known: RwLock::new(known),
            asked,
        });
        engine.background.spawn(scribe::write(log, waiting, Arc::downgrade(&directory)));
        Ok(directory)
    }

    /// Whether the store has a directory: then it knows every database of the store.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
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
    /// `founding`: the databases to begin the directory with, if it has not begun.
    ///
    /// # Errors
    /// As `decide`, or when the store refuses.
    pub async fn change<T: Send + 'static>(
        &self,
        name: &str,
        founding: Vec<DatabaseRecord>,
        decide: impl FnOnce(Option<DatabaseRecord>) -> Result<(Option<DatabaseRecord>, T), ChangeRefusal> + Send + 'static,
    ) -> Result<T, ChangeRefusal> {
        let (answer, answered) = oneshot::channel();
        let decide = move |before: Option<DatabaseRecord>| match decide(before) {
            // A caller that has gone away needs no answer.
            Err(refusal) => {
                let _ = answer.send(Err(refusal));
                None
            }
            Ok((record, value)) => {
                let tell = move |outcome: Result<(), ChangeRefusal>| _ = answer.send(outcome.map(|()| value));
                Some(Decided { record, tell: Box::new(tell) })
            }
        };
        let asked = Asked { name: name.into(), founding, decide: Box::new(decide) };
        let ended = || ChangeRefusal::Store("the server is shutting down".to_owned());
        self.asked.send(asked).await.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}
