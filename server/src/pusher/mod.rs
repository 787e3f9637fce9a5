//! Pushes usage to a billing system: the events of the [ledger](crate::ledger), and notices about spending limits, as batches
//! of CloudEvents over HTTP.
//!
//! 1. After each write of the ledger, but at most once in `--usage-every`, the pusher looks at the hours that were written to.
//!    Once an hour it looks at the whole ledger, where an overtaken process may have left something.
//! 2. It posts the windows of each object that the [record](dormouse_storage::ledger::pushed) does not have, adds the
//!    object to the record, and saves the record.
//! 3. If the receiver or the store refuses, it tries again after growing pauses, for as long as it takes. Meanwhile no hour
//!    that waits is deleted from the ledger.
//!
//! Invariant: an object is in the record only after a receiver has taken all of its events. So a crash repeats events, with the
//! same ids, and leaves none out. The objects of an hour are merged later; if all of them were pushed, so was the one.
//!
//! A store without a record is new to pushing: then the months before the present one count as pushed.
//!
//! At most one batch and one object of the ledger are in memory, and nothing that is billed waits for the receiver.

mod batch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dormouse_storage::ledger::{self, PushRecord};
use dormouse_storage::retry::{Notice, Retry};
use dormouse_storage::store::{Store, StoreError};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use self::batch::EventBatch;
use crate::ledger::{UsageLedger, shown};
use crate::metering::export;
use crate::options::PushTarget;
use crate::outbound::{PostAnswer, SendError, Sender};
use crate::spending::month_of;

const CONTENT: HeaderValue = HeaderValue::from_static("application/cloudevents-batch+json");
/// Time between two looks at the whole ledger.
const WHOLE_EVERY: Duration = Duration::from_secs(3600);
/// Shortest and longest pause before a retry.
const RETRY_MS: (u64, u64) = (1_000, 60_000);
/// The longest pause that a receiver can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Objects that are pushed before the record is saved.
const OBJECTS_PER_SAVE: usize = 16;
/// Notices that wait for the next look. A limit of a month can be reached once for each database.
const NOTICES_MAX: usize = 10_000;
/// How long a notice that was pushed is remembered: longer than its month.
const NOTICE_SECONDS: u64 = 40 * 24 * 3600;
const SECOND_MS: u64 = 1000;

/// Pushes usage.
pub struct UsagePusher {
    target: PushTarget,
    sender: Sender,
    store: Arc<Store>,
    ledger: Arc<UsageLedger>,
    clock: fn() -> u64,
    /// New notices: ids and events.
    notices: Mutex<Vec<(String, String)>>,
    /// Events of one post.
    batch_max: AtomicUsize,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    events: AtomicU64,
    failures: AtomicU64,
    objects_waiting: AtomicU64,
    /// When the first object that waits was written; 0: none waits.
    oldest_s: AtomicU64,
}

/// The pusher at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushSnapshot {
    /// Events that the receiver has taken, and attempts that failed, since the start.
    pub events: u64,
    pub failures: u64,
    /// Objects of the ledger that wait, and for how long the first has.
    pub objects_waiting: u64,
    pub seconds_behind: u64,
}

/// State between one look and the next.
#[derive(Default)]
struct Progress {
    record: Option<PushRecord>,
    /// Whether the whole ledger was looked at.
    has_looked: bool,
    /// Names of the objects that wait.
    waiting: BTreeSet<String>,
    /// The object whose first windows were pushed.
    begun: Option<(String, usize)>,
}

/// The reason why something could not be pushed.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("the receiver refuses usage with {0}")]
    Refused(PostAnswer),
    #[error("{0}")]
    Header(String),
}

impl PushError {
    /// The pause that the receiver asks for.
    fn retry_after(&self) -> Duration {
        match self {
            Self::Refused(answer) => answer.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX),
            _ => Duration::ZERO,
        }
    }
}

impl UsagePusher {
    pub fn new(target: PushTarget, store: Arc<Store>, ledger: Arc<UsageLedger>, clock: fn() -> u64) -> Arc<Self> {
        ledger.follow();
        Arc::new(Self {
            target,
            sender: Sender::default(),
            store,
            ledger,
            clock,
            notices: Mutex::default(),
            batch_max: AtomicUsize::new(batch::EVENTS_MAX),
            counts: Counts::default(),
        })
    }

    /// Takes an event to be pushed. One with the id of an earlier one is dropped.
    pub fn tell(&self, id: &str, event: String) {
        let mut notices = self.notices.lock();
        if notices.len() < NOTICES_MAX {
            notices.push((id.to_owned(), event));
            drop(notices);
            self.ledger.wake_reader();
        }
    }

    pub fn snapshot(&self) -> PushSnapshot {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (oldest_s, now_s) = (read(&self.counts.oldest_s), (self.clock)() / SECOND_MS);
        PushSnapshot {
            events: read(&self.counts.events),
            failures: read(&self.counts.failures),
            objects_waiting: read(&self.counts.objects_waiting),
            seconds_behind: if oldest_s == 0 { 0 } else { now_s.saturating_sub(oldest_s) },
        }
    }

    /// Pushes what there is, and what comes, for ever.
    pub async fn run(&self) {
        let mut progress = Progress::default();
        let mut retry = Retry::new(RETRY_MS.0, RETRY_MS.1);
        let mut whole_due = Instant::now();
        loop {
            let begun = Instant::now();
            let is_whole = begun >= whole_due;
            match self.push(&mut progress, is_whole).await {
                Ok(()) => {
                    if is_whole {
                        whole_due = begun + WHOLE_EVERY;
                    }
                    if let Some(failures) = retry.succeeded() {
                        tracing::info!(failures, receiver = %self.target.url, "usage is pushed again");
                    }
                    sleep_until(begun + self.target.every).await;
                    // Its end is the time for the next look at everything.
                    let _ = timeout_at(whole_due, self.ledger.written()).await;
                }
                Err(error) => {
                    self.counts.failures.fetch_add(1, Ordering::Relaxed);
                    let (pause, notice) = retry.failed();
                    match notice {
                        Notice::Silent => {}
                        Notice::Began => {
                            tracing::error!(%error, "failed to push usage to {}; it waits", self.target.url)
                        }
                        Notice::Still(failures) => {
                            tracing::error!(%error, failures, "still failing to push usage to {}", self.target.url);
                        }
                    }
                    // Receivers that come back are not overrun by all servers at once.
                    let pause = pause.mul_f64(0.75 + fastrand::f64() / 2.0);
                    sleep(pause.max(error.retry_after())).await;
                }
            }
        }
    }

    /// Looks for what was not pushed, and pushes it.
    async fn push(&self, progress: &mut Progress, is_whole: bool) -> Result<(), PushError> {
        let found = self.find(progress, is_whole).await;
        self.count_waiting(progress);
        found?;
        let pushed = self.push_waiting(progress).await;
        self.count_waiting(progress);
        let saved = match &mut progress.record {
            Some(record) => record.save().await,
            None => Ok(()),
        };
        pushed?;
        Ok(saved?)
    }

    /// Finds the objects that wait, and takes the notices.
    async fn find(&self, progress: &mut Progress, is_whole: bool) -> Result<(), PushError> {
        let now_ms = (self.clock)();
        let record = match &mut progress.record {
            Some(record) => record,
            place => place.insert(self.open(now_ms).await?),
        };
        let notices = std::mem::take(&mut *self.notices.lock());
        let end_s = now_ms / SECOND_MS + NOTICE_SECONDS;
        notices.iter().for_each(|(id, event)| record.take_notice(id, event, end_s));
        record.forget_notices(now_ms / SECOND_MS);
        let look = self.ledger.look(is_whole).await?;
        for hour in &look.merged {
            if hour.names.iter().all(|name| record.has(name)) {
                record.add(&hour.merged);
            }
            hour.names.iter().for_each(|name| _ = progress.waiting.remove(name));
        }
        if is_whole {
            record.retain(look.names.iter().map(String::as_str));
            progress.waiting.clear();
            progress.has_looked = true;
        }
        progress.waiting.extend(look.names.into_iter().filter(|name| !record.has(name)));
        // A notice survives a crash from here on.
        Ok(record.save().await?)
    }

    /// Reads the record, or begins one with the present month.
    async fn open(&self, now_ms: u64) -> Result<PushRecord, PushError> {
        let mut record = PushRecord::open(&self.store).await?;
        if record.is_new() {
            let first = ledger::hour_of(month_of(now_ms) / SECOND_MS + 1);
            let is_earlier = |name: &&String| ledger::hour_of_object(name).is_some_and(|hour| hour < first);
            let look = self.ledger.look(true).await?;
            look.names.iter().filter(is_earlier).for_each(|name| record.add(name));
            record.save().await?;
        }
        Ok(record)
    }

    async fn push_waiting(&self, progress: &mut Progress) -> Result<(), PushError> {
        let Progress { record: Some(record), waiting, begun, .. } = progress else { return Ok(()) };
        let ids: Vec<String> = record.notices().map(|(id, _)| id.to_owned()).collect();
        if waiting.is_empty() && ids.is_empty() {
            return Ok(());
        }
        let mut headers = self.target.headers.read().map_err(PushError::Header)?;
        headers.insert(CONTENT_TYPE, CONTENT);
        if !ids.is_empty() {
            let mut batch = EventBatch::default();
            record.notices().for_each(|(_, event)| batch.add(event));
            self.post(&mut batch, &headers).await?;
            ids.iter().for_each(|id| record.notice_pushed(id));
        }
        let mut damaged = Ok(());
        for (at, name) in waiting.clone().into_iter().enumerate() {
            match self.push_object(&name, begun, &headers).await {
                Ok(()) => {
                    record.add(&name);
                    waiting.remove(&name);
                }
                // It was merged, or deleted by hand; the next look tells.
                Err(PushError::Store(error)) if error.is_missing() => _ = waiting.remove(&name),
                // Others need not wait for it.
                Err(PushError::Store(error @ StoreError::Corrupt { .. })) => damaged = Err(error.into()),
                Err(error) => return Err(error),
            }
            if at % OBJECTS_PER_SAVE == OBJECTS_PER_SAVE - 1 {
                record.save().await?;
            }
        }
        damaged
    }

    /// Pushes the windows of an object, after those that were pushed already.
    async fn push_object(
        &self,
        name: &str,
        begun: &mut Option<(String, usize)>,
        headers: &HeaderMap,
    ) -> Result<(), PushError> {
        let windows = ledger::read_windows(&self.store, name).await?;
        let done = begun.take().filter(|(of, _)| of == name).map_or(0, |(_, done)| done);
        *begun = Some((name.to_owned(), done));
        let mut batch = EventBatch::default();
        for (at, window) in windows.iter().enumerate().skip(done) {
            export::events(&shown(window)).for_each(|event| batch.add(&event));
            if batch.is_full(self.batch_max.load(Ordering::Relaxed)) {
                self.post(&mut batch, headers).await?;
                *begun = Some((name.to_owned(), at + 1));
            }
        }
        self.post(&mut batch, headers).await?;
        *begun = None;
        Ok(())
    }

    /// Posts all events of a batch, in smaller ones if the receiver finds it too large.
    async fn post(&self, batch: &mut EventBatch, headers: &HeaderMap) -> Result<(), PushError> {
        while !batch.is_empty() {
            let count = batch.count(self.batch_max.load(Ordering::Relaxed));
            let answer = self.sender.post(&self.target.url, headers.clone(), batch.body(count)).await?;
            if answer.is_too_large() && count > 1 {
                self.batch_max.store(count / 2, Ordering::Relaxed);
                tracing::info!(events = count / 2, "the receiver of usage gets smaller batches");
                continue;
            }
            if !answer.is_success() {
                return Err(PushError::Refused(answer));
            }
            self.counts.events.fetch_add(count as u64, Ordering::Relaxed);
            batch.remove(count);
        }
        Ok(())
    }

    fn count_waiting(&self, progress: &Progress) {
        // Before that it is unknown what waits, and everything is needed.
        if !progress.has_looked {
            return;
        }
        let waiting = &progress.waiting;
        let oldest_s = waiting.iter().filter_map(|name| ledger::written_s(name)).min();
        self.counts.oldest_s.store(oldest_s.unwrap_or(0), Ordering::Relaxed);
        self.counts.objects_waiting.store(waiting.len() as u64, Ordering::Relaxed);
        let needed = waiting.iter().filter_map(|name| ledger::hour_of_object(name)).min();
        self.ledger.need_from(needed.unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests;
