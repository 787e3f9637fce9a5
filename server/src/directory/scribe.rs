//! The one writer of the directory in this process.
//!
//! 1. Changes that wait are decided one after the other, and made durable together.
//! 2. In a fleet other nodes write, too. If one of them was faster, its steps are published first and everything is decided
//!    again. A refusal, and a decision that nothing has to change, may rest on an old record. So they count once a step
//!    that was decided with them exists, or the store was asked for later steps in vain.
//! 3. In between the scribe follows the other nodes: when it is told of a new step, and when a caller wants to look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dormouse_storage::directory::{
    DatabaseRecord, DirectoryChange, DirectoryCommit, DirectoryLog, DirectoryNews, DirectoryWriters,
};
use dormouse_storage::store::StoreError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::{ChangeRefusal, DatabaseDirectory};

/// Most changes that share a step.
const TOGETHER_MAX: usize = 256;
/// Looks for steps of other nodes that callers have asked for come one such time after the other at the earliest.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Most callers that wait for a look.
pub(super) const LOOKING_MAX: usize = 1024;
/// A step that another node has told of, and that the store refuses to give, is tried again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often a decision is made again because other nodes were faster.
const DECISIONS_MAX: usize = 100;

/// A change that waits.
pub(super) struct Asked {
    pub name: Box<str>,
    /// The databases to begin the directory with.
    pub founding: Vec<DatabaseRecord>,
    /// Whether the directory has to begin, whatever is decided.
    pub begins: bool,
    pub change: Box<dyn AskedChange>,
}

/// A change of one record, and the caller who waits for it.
pub(super) trait AskedChange: Send {
    /// Returns the next record, if there is one. May be called several times: the last decision counts.
    ///
    /// # Errors
    /// When the change is refused.
    fn decide(&mut self, present: Option<DatabaseRecord>) -> Result<Option<DatabaseRecord>, ChangeRefusal>;

    /// Tells the caller the outcome of the last decision.
    fn tell(self: Box<Self>, outcome: Result<(), ChangeRefusal>);
}

/// The wishes of callers.
pub(super) struct Wishes {
    pub changes: mpsc::Receiver<Asked>,
    /// Callers that want to know what other nodes have written by now.
    pub looks: mpsc::Receiver<oneshot::Sender<()>>,
    /// The last step that another node has told of.
    pub heard: watch::Receiver<u64>,
}

/// Makes the changes that are asked for, until the directory is dropped.
pub(super) async fn write(
    log: DirectoryLog,
    writers: DirectoryWriters,
    mut wishes: Wishes,
    of: Weak<DatabaseDirectory>,
) {
    let mut scribe = Scribe { log, is_shared: writers == DirectoryWriters::Shared, has_failed: false };
    let mut waiting = Vec::with_capacity(TOGETHER_MAX);
    let mut looking = Vec::new();
    let (mut look_at, mut again_at) = (Instant::now(), None);
    loop {
        let is_told = tokio::select! {
            count = wishes.changes.recv_many(&mut waiting, TOGETHER_MAX) => match count {
                0 => return,
                _ => false,
            },
            told = wishes.heard.changed() => match told {
                Ok(()) => true,
                Err(_) => return,
            },
            look = wishes.looks.recv(), if looking.len() < LOOKING_MAX => match look {
                Some(look) => {
                    looking.push(look);
                    continue;
                }
                None => return,
            },
            () = sleep_until(look_at), if !looking.is_empty() => true,
            () = sleep_until(again_at.unwrap_or(look_at)), if again_at.is_some() => true,
        };
        let Some(directory) = of.upgrade() else { return };
        if !is_told {
            scribe.change(&directory, &mut waiting).await;
            continue;
        }
        while let Ok(look) = wishes.looks.try_recv() {
            looking.push(look);
        }
        let heard = *wishes.heard.borrow_and_update();
        if looking.is_empty() && heard <= scribe.log.number() {
            again_at = None;
            continue;
        }
        look_at = Instant::now() + LOOK_EVERY;
        let is_read = scribe.follow(&directory, heard).await;
        again_at = (!is_read && heard > scribe.log.number()).then(|| Instant::now() + AGAIN_AFTER);
        // A caller that has gone away needs no answer.
        looking.drain(..).for_each(|look| _ = look.send(()));
    }
}

/// A change, and whether its result has to be written, or why it is refused.
type Decided = (Asked, Result<bool, ChangeRefusal>);

struct Scribe {
    log: DirectoryLog,
    is_shared: bool,
    /// Whether the steps of other nodes could not be read the last time.
    has_failed: bool,
}

impl Scribe {
    async fn change(&mut self, directory: &DatabaseDirectory, waiting: &mut Vec<Asked>) {
        if self.log.is_unsure() {
            match self.log.settle().await {
                Ok(news) => {
                    self.publish_news(directory, news);
                    directory.own.send_replace(self.log.number());
                }
                Err(error) => {
                    let refusal = refusal(&error);
                    for Asked { name, mut change, .. } in waiting.drain(..) {
                        let decided = change.decide(directory.held(&name));
                        change.tell(decided.and(Err(refusal.clone())));
                    }
                    return;
                }
            }
        }
        self.step(directory, std::mem::take(waiting)).await;
        if self.log.needs_snapshot() {
            self.keep_snapshot(directory).await;
        }
    }

    /// Reads the steps of other nodes, if the store gives them.
    async fn follow(&mut self, directory: &DatabaseDirectory, heard: u64) -> bool {
        let followed = self.log.follow(heard).await;
        let has_failed = std::mem::replace(&mut self.has_failed, followed.is_err());
        match followed {
            Ok(news) => self.publish_news(directory, news),
            Err(error) if !has_failed => {
                tracing::warn!(%error, "failed to read the changes of databases that other nodes have made");
            }
            Err(_) => {}
        }
        !self.has_failed
    }

    /// Decides changes, until no other node was faster, and makes them durable together.
    async fn step(&mut self, directory: &DatabaseDirectory, mut asked: Vec<Asked>) {
        for _ in 0..DECISIONS_MAX {
            let begins = self.log.number() == 0 && asked.iter().any(|asked| asked.begins);
            let (next, mut decided) = decide(directory, self.log.number(), asked);
            if !self.is_shared {
                // No other process can have changed a record, so these need no step.
                let (changed, others) = decided.into_iter().partition(|(_, outcome)| *outcome == Ok(true));
                tell(others, &Ok(()));
                decided = changed;
            }
            let told = if begins || decided.iter().any(|(_, outcome)| *outcome == Ok(true)) {
                self.commit(directory, next).await
            } else if decided.is_empty() {
                return;
            } else {
                self.confirm(directory).await
            };
            match told {
                Ok(true) => return tell(decided, &Ok(())),
                Ok(false) => asked = decided.into_iter().map(|(asked, _)| asked).collect(),
                Err(refusal) => return tell(decided, &Err(refusal)),
            }
        }
        let text = "other nodes go on changing the directory of databases: try again";
        asked.into_iter().for_each(|asked| asked.change.tell(Err(ChangeRefusal::Conflict(text.to_owned()))));
    }

    /// Makes the next records of some names durable. `false`: another node was faster.
    async fn commit(
        &mut self,
        directory: &DatabaseDirectory,
        next: BTreeMap<Box<str>, Option<DatabaseRecord>>,
    ) -> Result<bool, ChangeRefusal> {
        let changes = next.into_iter().map(|(name, record)| match record {
            Some(record) => DirectoryChange::put(&record),
            None => DirectoryChange::Remove(name),
        });
        match self.log.commit(changes.collect()).await {
            Ok(DirectoryCommit::Made { news, changes }) => {
                self.publish_news(directory, news);
                self.publish(directory, changes.into());
                directory.own.send_replace(self.log.number());
                Ok(true)
            }
            Ok(DirectoryCommit::Overtaken(news)) => {
                self.publish_news(directory, news);
                Ok(false)
            }
            Err(error) => {
                tracing::error!(%error, "failed to change the directory of databases");
                Err(refusal(&error))
            }
        }
    }

    /// Whether no other node has written anything since.
    async fn confirm(&mut self, directory: &DatabaseDirectory) -> Result<bool, ChangeRefusal> {
        let news = self.log.follow(0).await.map_err(|error| refusal(&error))?;
        let is_quiet = news.is_empty();
        self.publish_news(directory, news);
        Ok(is_quiet)
    }

    /// Publishes changes that no caller here waits for.
    fn publish_news(&self, directory: &DatabaseDirectory, news: DirectoryNews) {
        if news.is_empty() {
            return;
        }
        let names = self.publish(directory, news);
        if self.is_shared {
            directory.foreign.add(names);
        }
    }

    /// Returns the names whose records may have changed.
    fn publish(&self, directory: &DatabaseDirectory, news: DirectoryNews) -> BTreeSet<Box<str>> {
        let mut known = directory.known.write();
        let names = match news.is_whole {
            true => known.replace(news.changes),
            false => {
                let names = news.changes.iter().map(|change| change.name().into()).collect();
                news.changes.into_iter().for_each(|change| known.apply(change));
                names
            }
        };
        directory.tokens.store(known.tokens(), Ordering::Release);
        drop(known);
        directory.number.store(self.log.number(), Ordering::Release);
        names
    }
    async fn keep_snapshot(&mut self, directory: &DatabaseDirectory) {
        let kept = match self.log.snapshot_is_due().await {
            Ok(true) => {
                let encoder = {
                    let known = directory.known.read();
                    let records = known.encoded();
                    let mut encoder = self.log.snapshot_encoder(records.len());
                    records.for_each(|record| encoder.put(record));
                    encoder
                };
                self.log.keep_snapshot(encoder).await
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "failed to write a snapshot of the directory of databases");
        }
    }
}

/// Decides changes one after the other. `number`: the last step. Returns the next records of the names that change.
fn decide(
    directory: &DatabaseDirectory,
    number: u64,
    asked: Vec<Asked>,
) -> (BTreeMap<Box<str>, Option<DatabaseRecord>>, Vec<Decided>) {
    let mut next: BTreeMap<Box<str>, Option<DatabaseRecord>> = BTreeMap::new();
    let mut decided = Vec::with_capacity(asked.len());
    for mut asked in asked {
        if number == 0 {
            for record in &asked.founding {
                next.entry(record.name.clone()).or_insert_with(|| Some(record.clone()));
            }
        }
        let before = next.get(&asked.name).cloned().unwrap_or_else(|| directory.held(&asked.name));
        let outcome = match asked.change.decide(before.clone()) {
            Err(refusal) => Err(refusal),
            Ok(record) if record == before && !next.contains_key(&asked.name) => Ok(false),
            Ok(record) => match record.as_ref().and_then(|record| record.check().err()) {
                Some(fault) => {
                    let text = format!("the database would have too much in its record: {fault}");
                    Err(ChangeRefusal::Invalid(text))
                }
                None => {
                    next.insert(asked.name.clone(), record);
                    Ok(true)
                }
            },
        };
        decided.push((asked, outcome));
    }
    (next, decided)
}

/// Tells callers what has become of their changes. Those that were refused are told why.
fn tell(decided: Vec<Decided>, written: &Result<(), ChangeRefusal>) {
    for (asked, outcome) in decided {
        asked.change.tell(outcome.and_then(|_| written.clone()));
    }
}

fn refusal(error: &StoreError) -> ChangeRefusal {
    ChangeRefusal::Store(format!("the store refuses: {error}; the change may be made later all the same"))
}
