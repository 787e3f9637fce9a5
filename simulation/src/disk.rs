//! The simulated disk: the data that a node's store and log have written, and the part of it that would survive.
//!
//! 1. A request to the store waits until the schedule answers it, in any order: done, refused, done with the answer
//!    lost. Requests of the log are answered at once, and so are all requests while the disk is [`Disk::at_once`].
//! 2. A *crash* ends the process: requests under way happen or don't, and every earlier handle is dead. A crash may
//!    come in the middle of any request.
//! 3. A *power cut* is a crash that also takes data that was not durable: deletes may be undone, and any subset of the
//!    unsynced sectors of a log file survives, see [`crate::files`].
//!
//! Objects are created whole or not at all, as a folder does it by a link and an object store by its protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::ThreadId;
use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::chance::Chance;
use crate::file::LogFile;
use crate::trace::Trace;

/// The kind of a request to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Put,
    Get,
    List,
    Delete,
}

/// The fate of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// Nothing is done: no space is left.
    Full,
    /// Nothing is done, and the error does not say why.
    Lost,
    /// The request is done, yet an error is reported.
    Unanswered,
    /// The process dies before the request is done, or after.
    Crash {
        done: bool,
    },
}

/// Where bytes are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An object, by its name.
    Object(String),
    /// A file of the log, by its writer and number.
    LogFile(u64, u64),
}

/// Frequency of each fault, in a thousand requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    pub store: u64,
    pub log: u64,
    /// The process dies in the request.
    pub crash: u64,
}

struct Waiting {
    kind: Kind,
    name: String,
    /// The bytes that a put would create.
    bytes: Option<Bytes>,
    answer: oneshot::Sender<Verdict>,
}

pub struct State {
    pub chance: Chance,
    pub rates: Rates,
    pub at_once: bool,
    /// The process that may use the disk; handles of earlier ones are dead.
    pub process: u64,
    /// Whether the process has died in a request: nothing more is done for it.
    pub dead: bool,
    /// Whether chunks have no room.
    pub is_full: bool,
    /// Faults of this process's life.
    pub faults: u64,
    pub logs: BTreeMap<(u64, u64), LogFile>,
    /// Files with a durable name whose removal was not synced.
    pub removed_logs: BTreeMap<(u64, u64), LogFile>,
    pub trace: Trace,
    waiting: BTreeMap<u64, Waiting>,
    asked: u64,
    deleted: BTreeMap<String, Bytes>,
}

pub struct Disk {
    state: Mutex<State>,
    objects: InMemory,
    /// Whether deletes are not durable before a power cut, as in a folder.
    pub is_folder: bool,
    pub is_encrypted: bool,
}

impl Disk {
    pub fn new(chance: Chance, rates: Rates, is_folder: bool, is_encrypted: bool) -> Arc<Self> {
        let state = State {
            chance,
            rates,
            at_once: true,
            process: 0,
            dead: false,
            is_full: false,
            faults: 0,
            logs: BTreeMap::new(),
            removed_logs: BTreeMap::new(),
            trace: Trace::default(),
            waiting: BTreeMap::new(),
            asked: 0,
            deleted: BTreeMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), objects: InMemory::new(), is_folder, is_encrypted })
    }

    pub fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.state.lock())
    }

    pub fn note(&self, step: String) {
        self.state.lock().trace.note(step);
    }

    /// Answers one of the waiting requests, chosen by chance. Returns false if none waits.
    pub fn answer_one(&self) -> bool {
        let mut state = self.state.lock();
        let chosen = state.chance.draw() as usize % state.waiting.len().max(1);
        let Some(id) = state.waiting.keys().nth(chosen).copied() else { return false };
        state.answer(id);
        true
    }

    /// Ends all waits and faults: waiting requests are done.
    pub fn calm(&self) {
        let mut state = self.state.lock();
        state.rates = Rates::default();
        state.at_once = true;
        state.is_full = false;
        while let Some(id) = state.waiting.keys().next().copied() {
            state.answer(id);
        }
    }

    /// Ends the process: each of its requests happens or doesn't.
    pub fn crash(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.dead = false;
            state.is_full = false;
            state.rates = Rates::default();
            state.process += 1;
            state.faults = 0;
            state.at_once = true;
            std::mem::take(&mut state.waiting)
        };
        for Waiting { kind, name, bytes, .. } in waiting.into_values() {
            if !self.with(|state| state.chance.permille(500)) {
                continue;
            }
            self.note(format!("  after all: {kind:?} {name}"));
            let path = Path::from(name);
            match kind {
                Kind::Put => drop(self.create(&path, bytes.unwrap_or_default())),
                Kind::Delete => drop(self.delete(&path)),
                Kind::Get | Kind::List => {}
            }
        }
    }

    /// Loses all data that was not durable. Comes after [`Self::crash`].
    pub fn cut_power(&self) {
        let mut back = Vec::new();
        self.with(|state| {
            let State { chance, logs, removed_logs, deleted, trace, .. } = state;
            for (place, file) in std::mem::take(removed_logs) {
                let has_successor = logs.get(&place).is_some_and(|successor| successor.has_name);
                if chance.permille(400) && !has_successor {
                    trace.note(format!("  removed log file {} is back", place.1));
                    logs.insert(place, file);
                }
            }
            logs.retain(|_, file| file.has_name || chance.permille(500));
            for (place, file) in logs.iter_mut() {
                let lost = file.cut_power(chance);
                if lost > 0 {
                    trace.note(format!("  log file {} lost {lost} sectors", place.1));
                }
            }
            back.extend(std::mem::take(deleted).into_iter().filter(|_| chance.permille(300)));
        });
        for (name, bytes) in back {
            self.note(format!("  deleted object {name} is back"));
            let _ = self.create(&Path::from(name), bytes);
        }
    }

    /// Returns the names of all objects, ordered.
    pub fn names(&self) -> Vec<String> {
        let all = now(self.objects.list(None).collect::<Vec<_>>()).unwrap_or_default();
        let mut names: Vec<String> = all.into_iter().flatten().map(|object| object.location.to_string()).collect();
        names.sort();
        names
    }

    pub fn place_of_log(&self, writer: u64, number: u64) -> Place {
        match self.is_folder {
            true => Place::LogFile(writer, number),
            false => Place::Object(format!("log/{writer:016x}/{number:012}")),
        }
    }

    /// Returns the files of the log, ordered, each with its writer, its number, and its bytes.
    pub fn log_files(&self) -> Vec<((u64, u64), Bytes)> {
        let places: Vec<(u64, u64)> = match self.is_folder {
            true => self.with(|state| state.logs.keys().copied().collect()),
            false => self
                .names()
                .iter()
                .filter_map(|name| {
                    let (writer, number) = name.strip_prefix("log/")?.split_once('/')?;
                    Some((u64::from_str_radix(writer, 16).ok()?, number.parse().ok()?))
                })
                .collect(),
        };
        let read = |(writer, number)| Some(((writer, number), self.bytes(&self.place_of_log(writer, number))?));
        places.into_iter().filter_map(read).collect()
    }

    pub fn bytes(&self, place: &Place) -> Option<Bytes> {
        match place {
            Place::Object(name) => {
                now(async { self.objects.get(&Path::from(name.as_str())).await?.bytes().await })?.ok()
            }
            Place::LogFile(writer, number) => {
                self.with(|state| Some(Bytes::from(state.logs.get(&(*writer, *number))?.durable.clone())))
            }
        }
    }

    /// Replaces a byte wherever the place's bytes are kept, also where a power cut may find them.
    pub fn set_byte(&self, place: &Place, at: usize, from: u8, to: u8) {
        let set = |bytes: &mut Vec<u8>| {
            bytes.get_mut(at).filter(|byte| **byte == from).into_iter().for_each(|byte| *byte = to)
        };
        match place {
            Place::Object(name) => {
                if let Some(bytes) = self.bytes(place) {
                    let mut bytes = bytes.to_vec();
                    set(&mut bytes);
                    now(self.objects.put(&Path::from(name.as_str()), bytes.into()));
                }
                self.with(|state| {
                    if let Some(bytes) = state.deleted.get_mut(name) {
                        let mut changed = bytes.to_vec();
                        set(&mut changed);
                        *bytes = changed.into();
                    }
                });
            }
            Place::LogFile(writer, number) => self.with(|state| {
                let file = (*writer, *number);
                for file in state.logs.get_mut(&file).into_iter().chain(state.removed_logs.get_mut(&file)) {
                    set(&mut file.seen);
                    set(&mut file.durable);
                }
            }),
        }
    }

    fn create(&self, path: &Path, bytes: Bytes) -> Result<PutResult> {
        let options = PutOptions { mode: object_store::PutMode::Create, ..PutOptions::default() };
        now(self.objects.put_opts(path, bytes.into(), options)).unwrap_or_else(|| Err(failure(io::ErrorKind::Other)))
    }

    fn delete(&self, path: &Path) -> Result<()> {
        if self.is_folder
            && let Some(Ok(bytes)) = now(async { self.objects.get(path).await?.bytes().await })
        {
            self.with(|state| state.deleted.insert(path.to_string(), bytes));
        }
        now(self.objects.delete(path)).unwrap_or(Ok(()))
    }
}

impl State {
    /// Returns the fate of a request of the log.
    pub fn log_verdict(&mut self) -> Verdict {
        let fault = self.rates.log;
        self.draw(Kind::Put, "log/", fault)
    }

    fn draw(&mut self, kind: Kind, name: &str, rate: u64) -> Verdict {
        if self.dead {
            return Verdict::Lost;
        }
        if self.rates.crash > 0 && self.chance.permille(self.rates.crash) {
            self.dead = true;
            return Verdict::Crash { done: self.chance.permille(500) };
        }
        if self.is_full && kind == Kind::Put && name.contains("/chunk/") {
            self.faults += 1;
            return Verdict::Full;
        }
        if rate == 0 || !self.chance.permille(rate) {
            return Verdict::Done;
        }
        self.faults += 1;
        match kind {
            Kind::Put => self.chance.pick(&[Verdict::Full, Verdict::Lost, Verdict::Unanswered]),
            Kind::Delete => self.chance.pick(&[Verdict::Lost, Verdict::Unanswered]),
            Kind::Get | Kind::List => Verdict::Lost,
        }
    }

    fn answer(&mut self, id: u64) {
        let Some(waiting) = self.waiting.remove(&id) else { return };
        let rate = self.rates.store;
        let verdict = self.draw(waiting.kind, &waiting.name, rate);
        self.trace.note(format!("  {:?} {}: {verdict:?}", waiting.kind, waiting.name));
        // The task that asked may have gone.
        let _ = waiting.answer.send(verdict);
    }
}

/// One process's handle on the disk's objects.
pub struct Objects {
    disk: Arc<Disk>,
    process: u64,
    /// The thread of the process. Another one reads what this one waits for, in the midst of a script.
    thread: ThreadId,
}

impl Objects {
    pub fn new(disk: &Arc<Disk>) -> Arc<Self> {
        let thread = std::thread::current().id();
        Arc::new(Self { disk: Arc::clone(disk), process: disk.with(|state| state.process), thread })
    }

    async fn ask(&self, kind: Kind, name: &str, bytes: Option<Bytes>) -> Verdict {
        let answer = self.disk.with(|state| {
            if state.process != self.process || state.dead {
                return Err(Verdict::Lost);
            }
            if std::thread::current().id() != self.thread {
                return Err(Verdict::Done);
            }
            // The log asks from inside a turn of its flusher, which waits for nothing else.
            let is_of_log = name == "log" || name.starts_with("log/") || name.starts_with("key/log/");
            if state.at_once || is_of_log {
                let rate = if is_of_log { state.rates.log } else { state.rates.store };
                let verdict = state.draw(kind, name, rate);
                if verdict != Verdict::Done {
                    state.trace.note(format!("  {kind:?} {name}: {verdict:?}"));
                }
                return Err(verdict);
            }
            let (sender, receiver) = oneshot::channel();
            state.asked += 1;
            let id = state.asked;
            state.waiting.insert(id, Waiting { kind, name: name.to_owned(), bytes, answer: sender });
            Ok(receiver)
        });
        match answer {
            Ok(receiver) => receiver.await.unwrap_or(Verdict::Lost),
            Err(verdict) => verdict,
        }
    }
}

/// Returns the outcome of a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    future.now_or_never()
}

fn failure(kind: io::ErrorKind) -> Error {
    Error::Generic { store: "simulation", source: Box::new(io::Error::from(kind)) }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("process", &self.process).finish_non_exhaustive()
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulation")
    }
}

#[async_trait]
impl ObjectStore for Objects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
        let bytes = Bytes::from(payload);
        match self.ask(Kind::Put, location.as_ref(), Some(bytes.clone())).await {
            Verdict::Done => self.disk.create(location, bytes),
            Verdict::Unanswered | Verdict::Crash { done: true } => {
                self.disk.create(location, bytes)?;
                Err(failure(io::ErrorKind::TimedOut))
            }
            Verdict::Full => Err(failure(io::ErrorKind::StorageFull)),
            Verdict::Lost | Verdict::Crash { done: false } => Err(failure(io::ErrorKind::BrokenPipe)),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failure(io::ErrorKind::Unsupported))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.ask(Kind::Get, location.as_ref(), None).await {
            Verdict::Done => self.disk.objects.get_opts(location, options).await,
            _ => Err(failure(io::ErrorKind::BrokenPipe)),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let handle = Self { disk: Arc::clone(&self.disk), process: self.process, thread: self.thread };
        let handle = Arc::new(handle);
        let delete = move |location: Result<Path>| {
            let handle = Arc::clone(&handle);
            async move {
                let location = location?;
                match handle.ask(Kind::Delete, location.as_ref(), None).await {
                    Verdict::Done => handle.disk.delete(&location).map(|()| location),
                    Verdict::Unanswered | Verdict::Crash { done: true } => {
                        handle.disk.delete(&location)?;
                        Err(failure(io::ErrorKind::TimedOut))
                    }
                    _ => Err(failure(io::ErrorKind::BrokenPipe)),
                }
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let handle = Self { disk: Arc::clone(&self.disk), process: self.process, thread: self.thread };
        let prefix = prefix.cloned();
        let listing = async move {
            let name = prefix.as_ref().map(ToString::to_string).unwrap_or_default();
            let found: Vec<Result<ObjectMeta>> = match handle.ask(Kind::List, &name, None).await {
                Verdict::Done => handle.disk.objects.list(prefix.as_ref()).collect().await,
                _ => vec![Err(failure(io::ErrorKind::BrokenPipe))],
            };
            futures::stream::iter(found)
        };
        futures::stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.ask(Kind::List, prefix.map_or("", |prefix| prefix.as_ref()), None).await {
            Verdict::Done => self.disk.objects.list_with_delimiter(prefix).await,
            _ => Err(failure(io::ErrorKind::BrokenPipe)),
        }
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failure(io::ErrorKind::Unsupported))
    }
}
