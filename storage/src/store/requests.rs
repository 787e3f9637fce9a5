//! Requests to a store behind a network: each has a time limit, and failures that may pass are retried, a bounded
//! number of times.
//!
//! 1. A request runs on a runtime of its own, since its socket and its timers need one, and the caller may be a thread
//!    without one (a lane of the engine). When its caller no longer waits, it is dropped.
//! 2. One attempt takes as long as [`Patience`] allows for its size. No answer, half an answer, and the store's own
//!    failures (5xx, throttling) are tried again after a pause that doubles ([`Retry`]). Final refusals are not. A
//!    store that fails is logged once a minute.
//! 3. The client library below is set not to retry, so that retries happen only here.
//!
//! Reads and deletes can be repeated as they are. Creating an object cannot: a first attempt may have been carried out
//! and only its answer lost, and then the second one finds the object. So when a repeated attempt finds the name taken,
//! the contents are compared ([`Requests::create`]). Names carry the number of their writer, so that a writer that
//! finds its own bytes under a name it has just tried to create has found its own object. If no attempt before may have
//! been carried out, a refusal is taken at its word.

use std::{
    fmt,
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, path::Path};
use parking_lot::Mutex;
use tokio::{runtime::Runtime, task::JoinHandle};

use super::error::{brief, is_about_the_bucket, is_passing};
use crate::retry::Retry;
use crate::stopwatch::Stopwatch;

/// An object that is created at the first start, and refused at every one.
pub(super) const ONCE: &str = "create-only";

/// For connections and their encryption. They never wait for a shard or a client.
const THREADS: usize = 2;

/// The longest pause, in parts of the first.
const PAUSE_FACTOR_MAX: u64 = 32;

/// Time limits and retries of requests to a store behind a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often in all, at least once.
    pub attempts: u32,
    /// The first pause; each is twice the one before, up to [`PAUSE_FACTOR_MAX`] times the first.
    pub pause_ms: u64,
    /// How long an answer may take.
    pub answer_ms: u64,
    /// How much longer for each MiB that is sent or read.
    pub answer_ms_per_mib: u64,
}

impl Default for Patience {
    /// Gives up a store that does not answer at all after about a minute, and one that refuses after 7 seconds.
    fn default() -> Patience {
        Patience { attempts: 7, pause_ms: 100, answer_ms: 8_000, answer_ms_per_mib: 1_000 }
    }
}

impl Patience {
    pub(super) fn limit(&self, bytes: u64) -> Duration {
        let more = (bytes >> 10).saturating_mul(self.answer_ms_per_mib) >> 10;
        Duration::from_millis(self.answer_ms.saturating_add(more))
    }

    /// Repeats a request until it is answered, fails for good, or exhausts the patience.
    pub(super) async fn repeat<T, F>(self, name: &str, mut ask: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut attempts = Attempts::new(self);
        loop {
            match ask().await {
                Err(error) if is_passing(&error) => attempts.failed(name, error).await?,
                result => return result,
            }
        }
    }
}

/// The attempts to make one request.
struct Attempts {
    patience: Patience,
    failed: u32,
    retry: Retry,
}

impl Attempts {
    fn new(patience: Patience) -> Self {
        let retry = Retry::new(patience.pause_ms, patience.pause_ms.saturating_mul(PAUSE_FACTOR_MAX));
        Self { patience, failed: 0, retry }
    }

    /// Waits before the next attempt, or returns the error after the last one.
    async fn failed(&mut self, name: &str, error: Error) -> Result<(), Error> {
        self.failed += 1;
        if self.failed >= self.patience.attempts {
            return Err(error);
        }
        if let Some(silent) = is_to_be_logged() {
            let (failed, error) = (self.failed, brief(&error));
            tracing::info!(object = name, failed, error, silent, "a request to the store failed and is retried");
        }
        let (pause, _) = self.retry.failed();
        tokio::time::sleep(self.spread(pause, name)).await;
        Ok(())
    }

    /// Requests that failed together should not all come back together, so a quarter of the pause depends on the
    /// object's name.
    fn spread(&self, pause: Duration, name: &str) -> Duration {
        let part = rapidhash::v3::rapidhash_v3(name.as_bytes()).wrapping_add(u64::from(self.failed)) % 256;
        pause - (pause / 4).mul_f64(part as f64 / 256.0)
    }
}

/// Failed attempts are logged no more often than this, whatever requests they are of.
const LOGGED_EVERY_US: u64 = 60_000_000;

/// Whether to log a failed attempt now: if so, the number of unlogged ones since the last that was.
fn is_to_be_logged() -> Option<u64> {
    static LAST: Mutex<(Option<Stopwatch>, u64)> = Mutex::new((None, 0));
    let mut last = LAST.lock();
    if last.0.is_some_and(|logged| logged.us() < LOGGED_EVERY_US) {
        last.1 += 1;
        return None;
    }
    last.0 = Some(Stopwatch::start());
    Some(std::mem::take(&mut last.1))
}

/// An answer within the time limit, or an error that may pass.
pub(super) async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, answer).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("no answer within {} ms", limit.as_millis());
            Err(Error::Generic { store: "store", source: Box::new(io::Error::new(io::ErrorKind::TimedOut, text)) })
        }
    }
}

/// The time limits of a request, if it has any.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits(pub(super) Option<Patience>);

impl Limits {
    /// Waits for the answer to a request that sends or returns `bytes` bytes.
    pub(super) async fn answer<T>(
        self,
        bytes: u64,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match self.0 {
            Some(patience) => within(patience.limit(bytes), answer).await,
            None => answer.await,
        }
    }
}

/// The runtime of a store behind a network, and how patient it is.
pub(super) struct Requests {
    /// Set until drop.
    runtime: Option<Runtime>,
    pub(super) patience: Patience,
}

impl Requests {
    pub(super) fn start(patience: Patience) -> io::Result<Requests> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("store")
            .enable_all()
            .build()?;
        Ok(Requests { runtime: Some(runtime), patience })
    }

    /// Runs a request to its end, whatever thread waits for it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let mut running = Running(self.runtime().spawn(request));
        (&mut running.0).await.unwrap_or_else(|source| Err(Error::JoinError { source }))
    }

    /// The same on a thread that can do nothing else meanwhile, in a runtime or not.
    pub(super) fn wait<T: Send + 'static>(&self, request: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.runtime().spawn(async move { drop(sender.send(request.await)) });
        receiver.recv().map_err(io::Error::other)
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is there until drop")
    }

    /// Creates the object, or fails with [`Error::AlreadyExists`] if another writer has created it.
    pub(super) async fn create(
        &self,
        objects: &Arc<dyn ObjectStore>,
        path: &Path,
        bytes: PutPayload,
    ) -> Result<(), Error> {
        let (objects, path, patience) = (Arc::clone(objects), path.clone(), self.patience);
        let limit = patience.limit(bytes.content_length() as u64);
        self.run(async move {
            let doubtful = AtomicBool::new(false);
            let attempt = || create_once(&objects, &path, &bytes, &doubtful, limit);
            patience.repeat(path.as_ref(), attempt).await
        })
        .await
    }

    /// Whether the store refuses to create an object that exists. Any refusal counts, even that of an attempt which
    /// finds the object of an earlier one.
    pub(super) async fn create_is_exclusive(
        &self,
        objects: &Arc<dyn ObjectStore>,
        path: &Path,
        bytes: PutPayload,
    ) -> Result<bool, Error> {
        let (objects, path, patience) = (Arc::clone(objects), path.clone(), self.patience);
        let limit = patience.limit(bytes.content_length() as u64);
        self.run(async move {
            // The first is accepted where the object is new.
            for _ in 0..2 {
                let attempt = || within(limit, objects.put_opts(&path, bytes.clone(), PutMode::Create.into()));
                match patience.repeat(path.as_ref(), attempt).await {
                    Ok(_) => {}
                    Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            Ok(false)
        })
        .await
    }

    /// Every object below the prefix, ordered by name. A listing that breaks off goes on after its last name.
    pub(super) async fn list(&self, objects: &Arc<dyn ObjectStore>, prefix: Path) -> Result<Vec<ObjectMeta>, Error> {
        let (objects, patience) = (Arc::clone(objects), self.patience);
        self.run(async move {
            let (mut found, mut attempts): (Vec<ObjectMeta>, _) = (Vec::new(), Attempts::new(patience));
            loop {
                let mut listing = match found.last() {
                    None => objects.list(Some(&prefix)),
                    Some(last) => objects.list_with_offset(Some(&prefix), &last.location),
                };
                let error = loop {
                    match within(patience.limit(0), async { listing.next().await.transpose() }).await {
                        Ok(Some(object)) => {
                            found.push(object);
                            attempts = Attempts::new(patience);
                        }
                        Ok(None) => return Ok(found),
                        Err(error) => break error,
                    }
                };
                if found.is_empty() && is_nothing(&error, &objects, Limits(Some(patience))).await {
                    return Ok(found);
                }
                if !is_passing(&error) {
                    return Err(error);
                }
                attempts.failed(prefix.as_ref(), error).await?;
            }
        })
        .await
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // Without waiting, so that a store may be dropped from inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// Whether a list failed because the list is empty: some servers then answer that the bucket does not exist, although
/// it holds an object of ours.
pub(super) async fn is_nothing(error: &Error, objects: &Arc<dyn ObjectStore>, limits: Limits) -> bool {
    is_about_the_bucket(&brief(error)) && limits.answer(0, objects.head(&Path::from(ONCE))).await.is_ok()
}

/// The name was refused for a request that is under way at the same time, or that did not last: the next attempt tells. The
/// refusal's own text says that every attempt would end like it.
fn underway() -> Error {
    Error::Generic { store: "store", source: "the name was refused, but no object has it".into() }
}

/// One attempt. `doubtful`: an earlier one may have been carried out.
async fn create_once(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: &PutPayload,
    doubtful: &AtomicBool,
    limit: Duration,
) -> Result<(), Error> {
    let put = objects.put_opts(path, bytes.clone(), PutMode::Create.into());
    let taken = match within(limit, put).await {
        Ok(_) => return Ok(()),
        Err(error @ (Error::AlreadyExists { .. } | Error::Precondition { .. })) => error,
        Err(error) => {
            doubtful.store(true, Ordering::Relaxed);
            return Err(error);
        }
    };
    let size = match within(limit, objects.head(path)).await {
        Ok(meta) => meta.size,
        Err(Error::NotFound { .. }) => return Err(underway()),
        Err(error) => return Err(error),
    };
    if !doubtful.load(Ordering::Relaxed) || size != bytes.content_length() as u64 {
        return Err(taken);
    }
    let found = within(limit, async { objects.get(path).await?.bytes().await }).await?;
    let mut rest = &found[..];
    let is_ours = bytes.iter().all(|part| match rest.split_at_checked(part.len()) {
        Some((same, after)) if same == part => {
            rest = after;
            true
        }
        _ => false,
    });
    if is_ours && rest.is_empty() { Ok(()) } else { Err(taken) }
}

/// A request that ends when its caller no longer waits.
struct Running<T>(JoinHandle<T>);

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        // Nothing happens to one that has ended.
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Seen on versitygw, while two requests asked for one name.
    #[tokio::test]
    async fn a_name_that_is_refused_and_not_taken_is_asked_for_again() {
        let refused = || Error::Generic { store: "S3", source: "status code: 412 Precondition Failed".into() };
        assert!(!is_passing(&refused()) && is_passing(&underway()));
        let answers = Mutex::new(VecDeque::from([Err(underway()), Ok(())]));
        let patience = Patience { attempts: 2, pause_ms: 1, ..Patience::default() };
        assert!(patience.repeat("a", async || answers.lock().pop_front().expect("two attempts")).await.is_ok());
    }
}
