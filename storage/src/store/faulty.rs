//! A store that fails on demand, for crash, disk-full and network tests: any other store, wrapped.
//!
//! Faults are set by the kind of request: the next one after a number of good ones, or several in a row. The look of an
//! object that is read (hidden, flipped, torn) is set by its name.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The kinds of requests, each of which fails by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreRequest {
    Put,
    /// Reads of contents and of sizes.
    Get,
    List,
    /// One for each object, even if many are deleted together.
    Delete,
}

/// The fate of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// Nothing is done: no space left.
    Full,
    /// Nothing is done, and the error does not say why.
    Lost,
    /// It is done, yet an error is reported: the answer was lost.
    Unanswered,
    /// It is done, and a gateway repeats it: the answer is the second one's.
    Repeated,
    /// Success is reported, and nothing is done: a delete that does not stick. A read that is ignored finds nothing.
    Ignored,
    /// Half is done, and an error is reported: a put leaves the first half of the object, a read or a list ends early.
    Torn,
    /// This request and all that follow fail, of every kind, until [`FaultyStore::revive`]: the process died here.
    Crash,
}

/// The most times that a request gives way to another one that may never come.
const TURNS_MAX: usize = 20_000;

/// Faults to come.
#[derive(Debug, Clone, Copy)]
struct Plan {
    good: usize,
    bad: usize,
    fault: StoreFault,
}

#[derive(Debug, Default)]
struct State {
    plans: HashMap<StoreRequest, Plan>,
    /// How many more puts and deletes are let through before the process dies.
    changes_left: Option<usize>,
    dead: bool,
    /// Every request lets others have their turn first.
    interleaved: bool,
    /// Creating looks first and writes later.
    looks_first: bool,
    /// A list that finds nothing is refused with this text.
    nothing: Option<&'static str>,
    /// How many requests have looked for an object that they want to create.
    looked: HashMap<String, usize>,
    hidden: HashSet<String>,
    flipped: HashSet<(String, usize)>,
    torn: HashMap<String, u64>,
    asked: HashMap<StoreRequest, usize>,
}

/// Wraps a store; faults are set from outside while it is in use.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
    /// The kinds of requests that wait, and how many of each are let through all the same.
    held: watch::Sender<HashMap<StoreRequest, usize>>,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<FaultyStore> {
        Arc::new(FaultyStore { inner, state: Arc::default(), held: watch::Sender::default() })
    }

    /// The same over a store in this process's memory.
    pub fn memory() -> Arc<FaultyStore> {
        Self::new(Arc::new(object_store::memory::InMemory::new()))
    }

    /// The store below, without faults: what another process would see, and do.
    pub fn inner(&self) -> &Arc<dyn ObjectStore> {
        &self.inner
    }

    /// Lets `good` requests of the kind through, then applies `fault` to the `bad` ones that follow.
    pub fn fail(&self, request: StoreRequest, good: usize, bad: usize, fault: StoreFault) {
        self.state.lock().plans.insert(request, Plan { good, bad, fault });
    }

    /// Lets `good` puts through, then applies `fault` to one.
    pub fn fail_put_after(&self, good: usize, fault: StoreFault) {
        self.fail(StoreRequest::Put, good, 1, fault);
    }

    /// The store is as slow as can be: requests of the kind wait until they are released.
    pub fn hold(&self, request: StoreRequest) {
        self.held.send_if_modified(|held| held.insert(request, 0).is_none());
    }

    /// Lets one put or read through that waits, or will wait.
    pub fn let_one_through(&self, request: StoreRequest) {
        self.held.send_if_modified(|held| held.get_mut(&request).map(|more| *more += 1).is_some());
    }

    pub fn release(&self, request: StoreRequest) {
        self.held.send_if_modified(|held| held.remove(&request).is_some());
    }

    /// Lets a number of puts and deletes through; with the next the process dies, as with [`StoreFault::Crash`].
    pub fn crash_after(&self, changes: usize) {
        self.state.lock().changes_left = Some(changes);
    }

    /// From now on every request gives way once before it is done: an executor that chooses whom it polls runs the tasks
    /// that use the store in any order of their requests.
    pub fn interleave(&self) {
        self.state.lock().interleaved = true;
    }

    /// From now on an object is created in two steps, between which others have their turn: a look whether it is there, and a
    /// write that overwrites. One after the other, requests are refused as they should be; at the same time several win.
    pub fn look_first(&self) {
        self.state.lock().looks_first = true;
    }

    /// From now on lists that find nothing are answered by an error with this text.
    pub fn refuse_empty_lists(&self, text: &'static str) {
        self.state.lock().nothing = Some(text);
    }

    /// Whether the process has died.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    pub fn hold_puts(&self) {
        self.hold(StoreRequest::Put);
    }

    pub fn release_puts(&self) {
        self.release(StoreRequest::Put);
    }

    /// Ends a crash: everything written is kept, and the store works again. No more faults are due.
    pub fn revive(&self) {
        let mut state = self.state.lock();
        state.dead = false;
        state.plans.clear();
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

    /// Ends [`FaultyStore::flip`].
    pub fn mend(&self, name: &str) {
        self.state.lock().flipped.retain(|(flipped, _)| flipped != name);
    }

    /// Reads of the object find its first `bytes` bytes only, as after a write that was cut off.
    pub fn tear(&self, name: &str, bytes: u64) {
        self.state.lock().torn.insert(name.to_owned(), bytes);
    }

    /// How many requests of the kind were made, including those that wait or failed.
    pub fn asked(&self, request: StoreRequest) -> usize {
        self.state.lock().asked.get(&request).copied().unwrap_or_default()
    }

    /// How many puts have been asked for.
    pub fn puts(&self) -> usize {
        self.asked(StoreRequest::Put)
    }

    /// Waits until another request has looked for this object, or none seems about to.
    async fn let_another_look(&self, location: &Path) {
        let looked = || self.state.lock().looked.get(location.as_ref()).copied().unwrap_or_default();
        *self.state.lock().looked.entry(location.to_string()).or_default() += 1;
        for _ in 0..TURNS_MAX {
            if looked() > 1 {
                return;
            }
            // Of the runtime's tasks, and of the system's threads.
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
    }

    /// Counts the request, waits while its kind is held, and returns its fate.
    async fn next_fault(&self, request: StoreRequest) -> Option<StoreFault> {
        *self.state.lock().asked.entry(request).or_default() += 1;
        turn(&self.state).await;
        through(&self.held, request).await;
        self.state.lock().next_fault(request)
    }
}

impl State {
    fn next_fault(&mut self, request: StoreRequest) -> Option<StoreFault> {
        if matches!(request, StoreRequest::Put | StoreRequest::Delete) {
            match &mut self.changes_left {
                Some(0) => self.dead = true,
                Some(left) => *left -= 1,
                None => {}
            }
        }
        if self.dead {
            return Some(StoreFault::Crash);
        }
        let plan = self.plans.get_mut(&request)?;
        if plan.good > 0 {
            plan.good -= 1;
            return None;
        }
        let fault = plan.fault;
        plan.bad = plan.bad.saturating_sub(1);
        if plan.bad == 0 {
            self.plans.remove(&request);
        }
        self.dead = fault == StoreFault::Crash;
        Some(fault)
    }
}

/// Waits while requests of the kind are held, unless this one is let through.
async fn through(held: &watch::Sender<HashMap<StoreRequest, usize>>, request: StoreRequest) {
    let mut is_through = false;
    while !is_through {
        // The sender is alive, so waiting cannot fail.
        let _ = held.subscribe().wait_for(|held| held.get(&request) != Some(&0)).await;
        held.send_if_modified(|held| match held.get_mut(&request) {
            // Another one was faster.
            Some(0) => false,
            more => {
                is_through = true;
                more.map(|more| *more -= 1).is_some()
            }
        });
    }
}

/// Gives way once, where requests are interleaved.
async fn turn(state: &Mutex<State>) {
    let interleaved = state.lock().interleaved;
    if interleaved {
        tokio::task::yield_now().await;
    }
}

fn failure(kind: io::ErrorKind) -> Error {
    Error::Generic { store: "FaultyStore", source: Box::new(io::Error::from(kind)) }
}

fn nothing_at(location: &Path) -> Error {
    Error::NotFound { path: location.to_string(), source: Box::new(io::Error::from(io::ErrorKind::NotFound)) }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let looks_first = self.state.lock().looks_first;
        match self.next_fault(StoreRequest::Put).await {
            None if looks_first => {
                if self.inner.head(location).await.is_ok() {
                    let source = Box::new(io::Error::from(io::ErrorKind::AlreadyExists));
                    return Err(Error::AlreadyExists { path: location.to_string(), source });
                }
                self.let_another_look(location).await;
                self.inner.put(location, payload).await
            }
            None => self.inner.put_opts(location, payload, opts).await,
            Some(StoreFault::Full) => Err(failure(io::ErrorKind::StorageFull)),
            Some(StoreFault::Lost | StoreFault::Crash) => Err(failure(io::ErrorKind::BrokenPipe)),
            Some(StoreFault::Unanswered) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(failure(io::ErrorKind::TimedOut))
            }
            Some(StoreFault::Repeated) => {
                self.inner.put_opts(location, payload.clone(), opts.clone()).await?;
                self.inner.put_opts(location, payload, opts).await
            }
            Some(StoreFault::Ignored) => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
            Some(StoreFault::Torn) => {
                let whole = Bytes::from(payload);
                self.inner.put_opts(location, whole.slice(..whole.len() / 2).into(), opts).await?;
                Err(failure(io::ErrorKind::BrokenPipe))
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failure(io::ErrorKind::Unsupported))
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        let fault = self.next_fault(StoreRequest::Get).await;
        let name = location.as_ref();
        let hidden = self.state.lock().hidden.contains(name);
        match fault {
            Some(StoreFault::Full) => return Err(failure(io::ErrorKind::StorageFull)),
            Some(StoreFault::Lost | StoreFault::Crash) => return Err(failure(io::ErrorKind::BrokenPipe)),
            Some(StoreFault::Unanswered) => return Err(failure(io::ErrorKind::TimedOut)),
            Some(StoreFault::Ignored) => return Err(nothing_at(location)),
            None | Some(StoreFault::Torn | StoreFault::Repeated) if hidden => return Err(nothing_at(location)),
            None | Some(StoreFault::Torn | StoreFault::Repeated) => {}
        }
        let (flipped, torn): (Vec<usize>, Option<u64>) = {
            let state = self.state.lock();
            let of_this = state.flipped.iter().filter(|(flipped, _)| flipped == name);
            (of_this.map(|(_, offset)| *offset).collect(), state.torn.get(name).copied())
        };
        let head = options.head;
        if flipped.is_empty() && torn.is_none() && fault.is_none() {
            return self.inner.get_opts(location, options).await;
        }
        let wanted = options.range.take();
        let result = self.inner.get_opts(location, options).await?;
        let (mut meta, attributes, extensions) =
            (result.meta.clone(), result.attributes.clone(), result.extensions.clone());
        meta.size = meta.size.min(torn.unwrap_or(u64::MAX));
        let range = match wanted {
            Some(wanted) => {
                let range = wanted.as_range(meta.size);
                range.map_err(|error| Error::Generic { store: "FaultyStore", source: Box::new(error) })?
            }
            None => 0..meta.size,
        };
        if head {
            let payload = GetResultPayload::Stream(futures::stream::empty().boxed());
            return Ok(GetResult { payload, meta, range, attributes, extensions });
        }
        let mut bytes = result.bytes().await?.to_vec();
        for offset in flipped {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1;
            }
        }
        let bytes = Bytes::from(bytes).slice(range.start as usize..range.end as usize);
        let parts = match fault {
            Some(_) => vec![Ok(bytes.slice(..bytes.len() / 2)), Err(failure(io::ErrorKind::ConnectionReset))],
            None => vec![Ok(bytes)],
        };
        let payload = GetResultPayload::Stream(futures::stream::iter(parts).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, state, held) = (Arc::clone(&self.inner), Arc::clone(&self.state), self.held.subscribe());
        let delete = move |location: Result<Path>| {
            let (inner, state, mut held) = (Arc::clone(&inner), Arc::clone(&state), held.clone());
            async move {
                let location = location?;
                *state.lock().asked.entry(StoreRequest::Delete).or_default() += 1;
                state.lock().looked.remove(location.as_ref());
                turn(&state).await;
                // This fails once the store is dropped: then no request is held.
                let _ = held.wait_for(|held| !held.contains_key(&StoreRequest::Delete)).await;
                let fault = state.lock().next_fault(StoreRequest::Delete);
                match fault {
                    None => inner.delete(&location).await.map(|()| location),
                    Some(StoreFault::Full) => Err(failure(io::ErrorKind::StorageFull)),
                    Some(StoreFault::Lost | StoreFault::Crash) => Err(failure(io::ErrorKind::BrokenPipe)),
                    Some(StoreFault::Unanswered | StoreFault::Torn | StoreFault::Repeated) => {
                        inner.delete(&location).await?;
                        Err(failure(io::ErrorKind::TimedOut))
                    }
                    Some(StoreFault::Ignored) => Ok(location),
                }
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.next_fault(StoreRequest::List).await {
            None => {
                let listed = self.inner.list_with_delimiter(prefix).await?;
                let nothing = self.state.lock().nothing.filter(|_| listed.common_prefixes.is_empty());
                nothing.map_or(Ok(listed), |text| Err(Error::Generic { store: "FaultyStore", source: text.into() }))
            }
            Some(StoreFault::Ignored) => {
                Ok(ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() })
            }
            Some(_) => Err(failure(io::ErrorKind::BrokenPipe)),
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        if self.state.lock().dead {
            return Err(failure(io::ErrorKind::BrokenPipe));
        }
        self.inner.copy_opts(from, to, options).await
    }
}

impl FaultyStore {
    fn listing(&self, listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (state, mut held) = (Arc::clone(&self.state), self.held.subscribe());
        *state.lock().asked.entry(StoreRequest::List).or_default() += 1;
        let begin = async move {
            turn(&state).await;
            // This fails once the store is dropped: then no request is held.
            let _ = held.wait_for(|held| !held.contains_key(&StoreRequest::List)).await;
            let fault = state.lock().next_fault(StoreRequest::List);
            match fault {
                None => {
                    let Some(text) = state.lock().nothing else { return listing };
                    let all: Vec<_> = listing.collect().await;
                    let nothing = Err(Error::Generic { store: "FaultyStore", source: text.into() });
                    if all.is_empty() {
                        return futures::stream::iter([nothing]).boxed();
                    }
                    futures::stream::iter(all).boxed()
                }
                Some(StoreFault::Ignored) => futures::stream::empty().boxed(),
                Some(StoreFault::Torn) => {
                    let all: Vec<_> = listing.collect().await;
                    let half = all.len() / 2;
                    let broken = Err(failure(io::ErrorKind::ConnectionReset));
                    futures::stream::iter(all.into_iter().take(half).chain([broken])).boxed()
                }
                Some(_) => futures::stream::iter([Err(failure(io::ErrorKind::BrokenPipe))]).boxed(),
            }
        };
        futures::stream::once(begin).flatten().boxed()
    }
}
