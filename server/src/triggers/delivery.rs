//! The task of one trigger: it delivers what waits, one batch after the other.
//!
//! 1. It waits, holding nothing, until an event is queued, or the first time until it knows whether an earlier process has
//!    left any.
//! 2. It reads the first records, and posts their events. As long as that works the database stays awake.
//! 3. After a failure it waits. The batch is in its memory, so the next attempt needs no database. After the last one the
//!    events go to the dead letters. If these take none, the receiver is asked again.
//! 4. It deletes the records. If that fails, it is repeated, and the batch is not sent again.

use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use dormouse_shard::keyspace::outbox::OutboxEntry;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::event::{CloudEvent, body, cloud_events, headers};
use super::{Run, Trigger, TriggerHost, dead_letters};
use crate::clock::rfc3339;
use crate::outbound::{LookupShare, PostAnswer, Reach, ReceiverUrl, SendError, Sender};

/// The longest delay between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(15 * 60);
/// Bytes of records that are read at once, about.
const READ_BYTES: usize = 128 << 10;
/// Memory for an event beside its key, with its part of a body.
const EVENT_BYTES: usize = 1024;
/// An event has its key twice, and so has the body, where a byte may take six.
const COPIES: usize = 2 + 2 * 6;
/// Most requests of all triggers that are under way.
const POSTS_MAX: usize = 1024;
/// A cause that is kept has so many characters at most.
const REASON_CHARS_MAX: usize = 300;
/// Time between two lines of a kind about one trigger in the log.
const LINES_EVERY: Duration = Duration::from_secs(60);

/// Posts for all databases of the process, which share the connections to a receiver.
static SENDER: LazyLock<Sender> = LazyLock::new(Sender::default);

/// Places for requests.
static POSTS: Semaphore = Semaphore::const_new(POSTS_MAX);

/// How the deliveries of a trigger go, since the process started.
#[derive(Clone, Debug, Default)]
pub struct DeliveryProgress {
    delivered: u64,
    requests: u64,
    failures: u64,
    dead_lettered: u64,
    /// Attempts for the present batch that have failed.
    attempts: u32,
    last_delivered_ms: Option<u64>,
    next_attempt_ms: Option<u64>,
    problem: Option<String>,
}

impl DeliveryProgress {
    pub fn shown(&self, is_paused: bool, is_waiting: bool) -> Value {
        let time = |ms: Option<u64>| ms.and_then(rfc3339);
        let state = match (is_paused, self.next_attempt_ms) {
            (true, _) => "paused",
            (false, Some(_)) => "retrying",
            (false, None) if is_waiting => "delivering",
            (false, None) => "idle",
        };
        json!({
            "state": state,
            "delivered": self.delivered,
            "requests": self.requests,
            "failures": self.failures,
            "dead_lettered": self.dead_lettered,
            "attempts": self.attempts,
            "last_delivered_at": time(self.last_delivered_ms),
            "next_attempt_at": time(self.next_attempt_ms),
            "problem": self.problem,
        })
    }
}

/// Delivers the events of a trigger until it is stopped, or its database leaves memory.
pub async fn deliver(
    host: Weak<dyn TriggerHost>,
    trigger: Arc<Trigger>,
    run: Arc<Run>,
    (reach, lookups): (Reach, LookupShare),
) {
    let (mut due, mut lines) = (None, Lines::default());
    // One that was there before may still wait for an answer.
    let _turn = trigger.turn.lock().await;
    while !run.is_stopped() {
        if trigger.definition.is_paused {
            run.stopped.notified().await;
            continue;
        }
        let Some(present) = host.upgrade() else { break };
        let is_new = present.database().may_have_unlisted_events();
        if is_new || !trigger.queue.is_empty() {
            let (trigger, run, lookups) = (&*trigger, &*run, &lookups);
            let courier = Courier { host: present, trigger, run, reach, lookups, due: &mut due, lines: &mut lines };
            // It ends without success only if it is stopped.
            let _ = courier.work(is_new).await;
            continue;
        }
        drop(present);
        tokio::select! {
            () = trigger.arrived.notified() => {}
            () = run.stopped.notified() => {}
        }
    }
    // The next task of the trigger may wait already, for what has woken this one.
    trigger.arrived.notify_one();
}

/// A task with something to deliver. It keeps the database in memory.
struct Courier<'t> {
    host: Arc<dyn TriggerHost>,
    trigger: &'t Trigger,
    run: &'t Run,
    reach: Reach,
    lookups: &'t LookupShare,
    /// When the rate permits the next request.
    due: &'t mut Option<Instant>,
    lines: &'t mut Lines,
}

/// Lets a line of each kind into the log once in a while: how often a receiver fails is not the operator's to decide.
#[derive(Default)]
struct Lines {
    failed: Option<Instant>,
    waits: Option<Instant>,
    gave_up: Option<Instant>,
    /// Events in the dead letters of which no line has told.
    untold: usize,
}

/// Whether a line is due, which it is not again for a while.
fn is_due(last: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= LINES_EVERY);
    if is_due {
        *last = Some(now);
    }
    is_due
}

/// The task is to end.
struct Stopped;

/// Memory that is charged to the database until it is dropped.
struct Charged(Arc<dyn TriggerHost>, usize);

impl Drop for Charged {
    fn drop(&mut self) {
        self.0.give(self.1);
    }
}

impl Courier<'_> {
    /// Delivers until nothing waits. `is_new`: what earlier processes have left is not queued yet.
    async fn work(mut self, is_new: bool) -> Result<(), Stopped> {
        let database = Arc::clone(self.host.database());
        let mut failures = 0;
        if is_new {
            // The wake queues it.
            while let Err(error) = database.awake_briefly().await {
                failures += 1;
                self.is_in_trouble(&error.to_string(), failures).await?;
            }
        }
        loop {
            if self.run.is_stopped() {
                return Err(Stopped);
            }
            let events_max = self.trigger.definition.batch.into();
            let entries = self.trigger.queue.first(events_max, READ_BYTES);
            if entries.is_empty() {
                return Ok(());
            }
            self.deliver(&entries).await?;
        }
    }

    /// Delivers the events of some records, and deletes them.
    async fn deliver(&mut self, mut entries: &[OutboxEntry]) -> Result<(), Stopped> {
        let database = Arc::clone(self.host.database());
        let mut failures = 0;
        let mut running = Some(database.keep_running());
        let (records, _charged) = loop {
            let problem = match self.charge(entries) {
                None if entries.len() > 1 => {
                    entries = &entries[..entries.len() / 2];
                    continue;
                }
                Some(charged) => match database.undelivered(&self.trigger.queue, entries).await {
                    Ok(records) => break (records, charged),
                    Err(error) => error.to_string(),
                },
                None => "no memory is left for what the clients of the database make the server keep".to_owned(),
            };
            failures += 1;
            running = None;
            self.is_in_trouble(&problem, failures).await?;
        };
        let definition = &self.trigger.definition;
        let events = cloud_events(database.name(), &definition.name, records);
        for batch in events.chunks(events_together(definition.batch, definition.rate)) {
            if self.post(batch, &mut running).await? {
                self.host.delivered(batch.len() as u64);
            }
        }
        failures = 0;
        while let Err(error) = database.delivered(&self.trigger.queue, entries).await {
            failures += 1;
            self.is_in_trouble(&error.to_string(), failures).await?;
        }
        drop(running);
        Ok(())
    }

    /// Charges the memory for the events of some records, and for the body of a request with them.
    fn charge(&self, entries: &[OutboxEntry]) -> Option<Charged> {
        let sizes = entries.iter().map(|entry| EVENT_BYTES * entry.events as usize + COPIES * entry.bytes as usize);
        let bytes = sizes.sum();
        self.host.take(bytes).then(|| Charged(Arc::clone(&self.host), bytes))
    }

    /// Posts one batch until it is taken, or goes to the dead letters. Returns whether it was taken. Begins no attempt when it
    /// is stopped.
    async fn post<R>(&mut self, batch: &[CloudEvent], running: &mut Option<R>) -> Result<bool, Stopped> {
        let definition = &self.trigger.definition;
        let (text, kind) = body(batch, definition.batch > 1);
        let secret = definition.secret_bytes();
        let mut attempts = 0;
        loop {
            self.wait_for_rate(batch.len()).await?;
            if self.run.is_stopped() {
                return Err(Stopped);
            }
            let failed = match self.prepared() {
                Err(problem) => Failed::without_answer(problem),
                Ok((receiver, own)) => {
                    // It is never closed.
                    let _place = POSTS.acquire().await;
                    let now_ms = (self.host.database().engine.clock)();
                    let headers = headers(&own, &secret, batch, (&text[..], kind), now_ms / 1000);
                    let posted = self.lookups.scope(SENDER.post(&receiver, headers, text.clone())).await;
                    match Failed::of(posted) {
                        None => {
                            let mut progress = self.trigger.progress.lock();
                            progress.requests += 1;
                            progress.delivered += batch.len() as u64;
                            progress.last_delivered_ms = Some(now_ms);
                            (progress.attempts, progress.next_attempt_ms, progress.problem) = (0, None, None);
                            return Ok(true);
                        }
                        Some(failed) => failed,
                    }
                }
            };
            attempts += 1;
            let mut reason: String = failed.problem.chars().take(REASON_CHARS_MAX).collect();
            if attempts == 1 && is_due(&mut self.lines.failed, Instant::now()) {
                let (database, reason) = (self.host.database().name(), &failed.logged);
                tracing::info!(database, trigger = &*definition.name, reason, "failed to deliver events");
            }
            if attempts >= definition.attempts {
                match self.give_up(batch, (&reason, &failed.logged), attempts).await {
                    Ok(()) => return Ok(false),
                    Err(problem) => reason = problem.chars().take(REASON_CHARS_MAX).collect(),
                }
                self.tell_waiting(&reason);
            }
            {
                let mut progress = self.trigger.progress.lock();
                progress.requests += 1;
                progress.failures += 1;
                progress.attempts = attempts;
                progress.problem = Some(reason);
            }
            // The database may sleep until the next attempt, and beyond it if that fails too.
            *running = None;
            let delay = backoff(definition.backoff_ms, attempts, fastrand::f64());
            self.wait(delay.max(failed.retry_after.unwrap_or_default().min(BACKOFF_MAX))).await?;
        }
    }

    /// Puts a batch that could not be delivered into the dead letters, with the reason.
    ///
    /// # Errors
    /// When the stream does not take it.
    async fn give_up(
        &mut self,
        batch: &[CloudEvent],
        (reason, logged): (&str, &str),
        attempts: u32,
    ) -> Result<(), String> {
        let (database, definition) = (self.host.database(), &self.trigger.definition);
        let put = dead_letters::put(database, &definition.dead_letters, batch, reason, attempts).await;
        put.map_err(|error| format!("the stream `{}` takes no dead letters: {error}", definition.dead_letters))?;
        self.lines.untold += batch.len();
        if is_due(&mut self.lines.gave_up, Instant::now()) {
            let (database, trigger, reason) = (database.name(), &*definition.name, logged);
            let events = std::mem::take(&mut self.lines.untold);
            tracing::warn!(
                database,
                trigger,
                events,
                reason,
                "events were not delivered: they are in the dead letters"
            );
        }
        let mut progress = self.trigger.progress.lock();
        progress.requests += 1;
        progress.failures += 1;
        progress.dead_lettered += batch.len() as u64;
        (progress.attempts, progress.next_attempt_ms, progress.problem) = (0, None, Some(reason.to_owned()));
        Ok(())
    }

    fn prepared(&self) -> Result<(ReceiverUrl, Vec<(HeaderName, HeaderValue)>), String> {
        let definition = &self.trigger.definition;
        // The operator may have changed what can be reached.
        Ok((definition.receiver(self.reach)?, definition.parsed_headers()?))
    }

    fn tell_waiting(&mut self, problem: &str) {
        if is_due(&mut self.lines.waits, Instant::now()) {
            let (database, trigger) = (self.host.database().name(), &*self.trigger.definition.name);
            tracing::warn!(database, trigger, problem, "the deliveries of a trigger wait");
        }
    }

    /// Waits after a failure of the database itself.
    async fn is_in_trouble(&mut self, problem: &str, failures: u32) -> Result<(), Stopped> {
        self.tell_waiting(problem);
        self.trigger.progress.lock().problem = Some(problem.chars().take(REASON_CHARS_MAX).collect());
        self.wait(backoff(self.trigger.definition.backoff_ms, failures, fastrand::f64())).await
    }

    async fn wait_for_rate(&mut self, events: usize) -> Result<(), Stopped> {
        let rate = self.trigger.definition.rate;
        if rate == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let due = self.due.map_or(now, |due| due.max(now));
        *self.due = Some(due + Duration::from_secs(1).mul_f64(events as f64 / f64::from(rate)));
        match due.saturating_duration_since(now) {
            Duration::ZERO => Ok(()),
            delay => self.until_stopped(delay).await,
        }
    }

    /// Waits for the next attempt.
    async fn wait(&self, delay: Duration) -> Result<(), Stopped> {
        let now_ms = (self.host.database().engine.clock)();
        self.trigger.progress.lock().next_attempt_ms = Some(now_ms.saturating_add(delay.as_millis() as u64));
        let waited = self.until_stopped(delay).await;
        self.trigger.progress.lock().next_attempt_ms = None;
        waited
    }

    async fn until_stopped(&self, delay: Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.run.stopped.notified() => {}
        }
        if self.run.is_stopped() { Err(Stopped) } else { Ok(()) }
    }
}

/// The events of one request at most. A request counts for the second in which it is sent.
fn events_together(batch: u32, rate: u32) -> usize {
    if rate == 0 { batch as usize } else { batch.min(rate) as usize }
}

/// Why a request was in vain.
struct Failed {
    problem: String,
    /// The same without what the receiver has answered, which may repeat the user's secrets.
    logged: String,
    retry_after: Option<Duration>,
}

impl Failed {
    /// `None`: the receiver has taken it.
    fn of(outcome: Result<PostAnswer, SendError>) -> Option<Self> {
        match outcome {
            Ok(answer) if answer.is_success() => None,
            Ok(answer) => {
                let (problem, logged) = (answer.to_string(), answer.status_text());
                Some(Self { problem, logged, retry_after: answer.retry_after })
            }
            Err(error) => Some(Self::without_answer(error.to_string())),
        }
    }

    fn without_answer(problem: String) -> Self {
        Self { logged: problem.clone(), problem, retry_after: None }
    }
}

/// The delay after so many attempts: it doubles, and a half of it is left to `chance`, from 0 to 1.
fn backoff(first_ms: u64, attempts: u32, chance: f64) -> Duration {
    let doubled = first_ms.saturating_mul(1 << (attempts.clamp(1, 32) - 1));
    let whole = Duration::from_millis(doubled).min(BACKOFF_MAX.max(Duration::from_millis(first_ms)));
    whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_no_more_events_than_a_second_may_have() {
        assert_eq!(
            [(100, 0), (100, 10), (7, 10), (1, 1)].map(|(batch, rate)| events_together(batch, rate)),
            [100, 10, 7, 1]
        );
    }

    #[test]
    fn the_log_has_a_line_in_a_while() {
        let (mut last, now) = (None, Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(
            [0, 0, 59, 60, 61, 120].map(|second| is_due(&mut last, at(second))),
            [true, false, false, true, false, true]
        );
    }

    #[test]
    fn the_delay_doubles_up_to_a_bound() {
        let ms = |first_ms, attempts, chance| backoff(first_ms, attempts, chance).as_millis();
        assert_eq!([1, 2, 3, 11, 100].map(|attempts| ms(1000, attempts, 1.0)), [1000, 2000, 4000, 900_000, 900_000]);
        assert_eq!([0.0, 0.5].map(|chance| ms(1000, 2, chance)), [1000, 1500]);
        assert_eq!(ms(3_600_000, 5, 1.0), 3_600_000);
    }
}
