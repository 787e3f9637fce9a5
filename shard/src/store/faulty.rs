//! A store that fails on demand, for crash and disk-full tests: any other store, wrapped.

use std::{collections::HashSet, fmt, io, sync::Arc};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// What happens to a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written: no space left.
    Full,
    /// Nothing is written, and the error does not say why.
    Lost,
    /// The object is written, yet an error is reported: the answer was lost.
    Unanswered,
    /// This put and all that follows fails, reads too, until [`FaultyStore::revive`]: the process died here.
    Crash,
}

#[derive(Debug, Default)]
struct State {
    /// The fault of the next put that comes after this many good ones.
    next: Option<(usize, Fault)>,
    /// How many more puts and deletes are let through before the process dies.
    changes_left: Option<usize>,
    dead: bool,
    /// Every operation lets others have their turn first.
    interleaved: bool,
    hidden: HashSet<String>,
    flipped: HashSet<(String, usize)>,
    puts: usize,
}

impl State {
    fn count_change(&mut self) {
        match &mut self.changes_left {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
    }
}

/// Wraps a store; faults are set from outside while it is in use.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Mutex<State>,
    held: watch::Sender<bool>,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<FaultyStore> {
        Arc::new(FaultyStore { inner, state: Mutex::default(), held: watch::Sender::new(false) })
    }

    /// Lets `good` puts through, then applies `fault` to one.
    pub fn fail_put_after(&self, good: usize, fault: Fault) {
        self.state.lock().next = Some((good, fault));
    }

    /// Lets so many puts and deletes through; with the next the process dies, as with [`Fault::Crash`].
    pub fn crash_after(&self, changes: usize) {
        self.state.lock().changes_left = Some(changes);
    }

    /// From now on every operation gives way once before it is done: an executor that chooses whom it polls runs the tasks
    /// that use the store in any order of their operations.
    pub fn interleave(&self) {
        self.state.lock().interleaved = true;
    }

    /// Whether the process has died.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// The store is as slow as can be: puts wait until it is released.
    pub fn hold_puts(&self) {
        self.held.send_replace(true);
    }

    pub fn release_puts(&self) {
        self.held.send_replace(false);
    }

    /// Ends a crash: what was written is there, and the store works again.
    pub fn revive(&self) {
        let mut state = self.state.lock();
        state.dead = false;
        state.next = None;
        state.changes_left = None;
    }

    /// Reads of the object find nothing.
    pub fn hide(&self, name: &str) {
        self.state.lock().hidden.insert(name.to_owned());
    }

    /// Ends [`FaultyStore::hide`].
    pub fn show(&self, name: &str) {
        self.state.lock().hidden.remove(name);
    }

    /// Reads of the object find bit 0 of the byte at `offset` changed.
    pub fn flip(&self, name: &str, offset: usize) {
        self.state.lock().flipped.insert((name.to_owned(), offset));
    }

    /// How many puts have been asked for.
    pub fn puts(&self) -> usize {
        self.state.lock().puts
    }

    fn next_fault(&self) -> Option<Fault> {
        let mut state = self.state.lock();
        state.puts += 1;
        state.count_change();
        if state.dead {
            return Some(Fault::Crash);
        }
        match &mut state.next {
            Some((0, fault)) => {
                let fault = *fault;
                state.next = None;
                state.dead = fault == Fault::Crash;
                Some(fault)
            }
            Some((good, _)) => {
                *good -= 1;
                None
            }
            None => None,
        }
    }

    fn turn(&self) -> impl Future<Output = ()> + Send + 'static {
        let interleaved = self.state.lock().interleaved;
        async move {
            if interleaved {
                tokio::task::yield_now().await;
            }
        }
    }

    fn alive(&self) -> Result<()> {
        if self.state.lock().dead { Err(failure(io::ErrorKind::BrokenPipe)) } else { Ok(()) }
    }
}

fn failure(kind: io::ErrorKind) -> Error {
    Error::Generic { store: "FaultyStore", source: Box::new(io::Error::from(kind)) }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.turn().await;
        // The sender lives as long as self, so waiting cannot fail.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        match self.next_fault() {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(Fault::Full) => Err(failure(io::ErrorKind::StorageFull)),
            Some(Fault::Lost | Fault::Crash) => Err(failure(io::ErrorKind::BrokenPipe)),
            Some(Fault::Unanswered) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(failure(io::ErrorKind::TimedOut))
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failure(io::ErrorKind::Unsupported))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.turn().await;
        self.alive()?;
        if self.state.lock().hidden.contains(location.as_ref()) {
            let source = Box::new(io::Error::from(io::ErrorKind::NotFound));
            return Err(Error::NotFound { path: location.to_string(), source });
        }
        let head = options.head;
        let result = self.inner.get_opts(location, options).await?;
        let flipped: Vec<usize> = {
            let state = self.state.lock();
            let of_this = state.flipped.iter().filter(|(name, _)| name == location.as_ref());
            of_this.map(|(_, offset)| *offset).collect()
        };
        if flipped.is_empty() || head {
            return Ok(result);
        }
        let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
        let extensions = result.extensions.clone();
        let mut bytes = result.bytes().await?.to_vec();
        for offset in flipped {
            if let Some(byte) = (offset as u64).checked_sub(range.start).and_then(|at| bytes.get_mut(at as usize)) {
                *byte ^= 1;
            }
        }
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes.into()) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    /// Each call counts as one change: Dormouse deletes one object at a time.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.state.lock().count_change();
        let (turn, alive, inner) = (self.turn(), self.alive(), Arc::clone(&self.inner));
        stream::once(async move {
            turn.await;
            match alive {
                Ok(()) => inner.delete_stream(locations),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (turn, alive, inner, prefix) = (self.turn(), self.alive(), Arc::clone(&self.inner), prefix.cloned());
        stream::once(async move {
            turn.await;
            match alive {
                Ok(()) => inner.list(prefix.as_ref()),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.alive()?;
        self.inner.copy_opts(from, to, options).await
    }
}
