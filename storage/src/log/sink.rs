//! The destination of a log's bytes: files in a folder, or objects in a store.
//!
//! Each process writes a log of its own, `log/<writer>/<number>`. A file that exists is never begun again: after an
//! error whatever was not durable goes into another one, since it is unknown what the system still holds of the old
//! one. A file without a durable frame is deleted, and the other one takes its number, so that failures leave no gap
//! between the numbers. The deleted one cannot come back in its place: the folder is synced before anything in the new
//! one counts.
//!
//! - [`Files`]: an append-only file each 16 MiB, written past the page cache where the system lets us ([`direct`]).
//! - [`Objects`]: an object for each flush, created only if absent. A process that takes the store over
//!   ([`crate::owner`]) creates the next object of the log itself, as a *seal*: from then on the old writer's flushes
//!   fail, and it is fenced. Everything that it has acknowledged precedes the seal.

mod direct;
mod recent;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use bytes::Bytes;
use futures::executor::block_on;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use self::direct::DirectFile;
pub use self::recent::Restating;
use self::recent::{Composed, Recent};
use super::gathered::Gathered;
use crate::owner::{Inherited, Ownership, Predecessors};
pub use crate::seal::FOLDER;
use crate::seal::{SEAL, folder};
use crate::stopwatch::Stopwatch;
use crate::store::encryption::LogKeys;
use crate::store::{GUARD_WRITER, ObjectInfo, Store, StoreError};

/// A seal that takes longer is told, and told again after each such time.
const SLOW_SEAL_US: u64 = 1_000_000;

/// A log that was found: the writer, and the numbers of its files in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub writer: u64,
    pub numbers: Vec<u64>,
}

/// Deletes files, each told by its writer and its number, in any order, or fails when the store refuses. Called beside all else,
/// since deleting may take long: a file system that discards blocks does so meanwhile.
pub type Remover = Box<dyn Fn(&[(u64, u64)]) -> Result<(), StoreError> + Send + Sync>;

/// Takes a file that was read, with its writer and its number.
pub type TakeFile<'a> = dyn FnMut((u64, u64), Result<Bytes, StoreError>) -> Result<(), StoreError> + 'a;

/// Files of one log, with their numbers.
pub type InTurn<'s> = Box<dyn Iterator<Item = (u64, Result<Bytes, StoreError>)> + 's>;

/// Earlier files of a log whose frames a later one has too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restated {
    /// These are needed no more.
    pub numbers: Vec<u64>,
    /// Files before this one will never be restated.
    pub from: u64,
}

/// All calls come from one thread at a time, and may wait.
pub trait Sink: Send {
    /// Every log in the store.
    ///
    /// # Errors
    /// When the store cannot be listed.
    fn found(&mut self) -> Result<Vec<Found>, StoreError>;
    /// Makes the list of files durable, so that none that an earlier process has deleted comes back.
    ///
    /// # Errors
    /// When the store refuses.
    fn settle(&mut self) -> Result<(), StoreError>;
    /// All bytes of one file.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&mut self, writer: u64, number: u64) -> Result<Bytes, StoreError>;
    /// Reads files, each told by its writer and its number, and hands them over in the same order. A sink whose requests take
    /// long makes several at a time.
    ///
    /// # Errors
    /// The error that `each` returns.
    fn read_each(&mut self, files: &[(u64, u64)], each: &mut TakeFile<'_>) -> Result<(), StoreError> {
        files.iter().try_for_each(|file| each(*file, self.read(file.0, file.1)))
    }
    /// Reads files of one log one after the other, as they are taken. A sink that waits for a disk reads the next one
    /// meanwhile.
    fn read_in_turn<'s>(&'s mut self, writer: u64, numbers: &'s [u64]) -> InTurn<'s> {
        Box::new(numbers.iter().map(move |number| (*number, self.read(writer, *number))))
    }
    /// Processes that may be alive and have no log yet that could be found.
    fn predecessors(&self) -> Vec<u64> {
        Vec::new()
    }
    /// The proof that this process owns a store without a lock.
    fn owner(&self) -> Option<Arc<Ownership>> {
        None
    }
    /// The keys of the logs, if the store is encrypted.
    fn keys(&self) -> Option<LogKeys> {
        None
    }
    /// Keeps writers from adding to their logs, each told with the last number of its log, or 0 where it has none.
    /// Returns the files that they have added meanwhile. If a lock says that all writers are gone, this does nothing.
    ///
    /// # Errors
    /// When the store refuses.
    fn seal(&mut self, _logs: &[(u64, u64)]) -> Result<Vec<(u64, u64)>, StoreError> {
        Ok(Vec::new())
    }
    /// Begins a file. Nothing need be in it before something is appended.
    ///
    /// # Errors
    /// When the store refuses; [`StoreError::Fenced`] when another process has it.
    fn begin(&mut self, writer: u64, number: u64, head: &[u8]) -> Result<(), StoreError>;
    /// Appends a frame, given in parts, to the file that was begun last and makes all of it durable.
    ///
    /// # Errors
    /// When the store refuses: the file is not to be written any more.
    fn append(&mut self, frame: &[&[u8]]) -> Result<(), StoreError>;
    /// The same of a frame whose entries may be written from where they are; they remain.
    ///
    /// # Errors
    /// As [`Self::append`].
    fn append_gathered(&mut self, head: &[u8], entries: &mut Gathered, sum: &[u8]) -> Result<(), StoreError> {
        self.append(&[head, entries.entries(), sum])
    }
    /// The files that the last file appended to restates. To be called after each append.
    fn restated(&mut self) -> Restated {
        Restated { numbers: Vec::new(), from: u64::MAX }
    }
    /// Nothing more is appended to the file that was begun last.
    fn end(&mut self) {}
    /// Whether a file exists, as far as that can be told at once.
    fn is_there(&mut self, _writer: u64, _number: u64) -> bool {
        true
    }
    /// Cuts the bytes after `length` off a file that another process left behind, and makes the rest durable, even if
    /// that process's last sync has failed. Those before `durable` are known to be.
    ///
    /// # Errors
    /// When the store refuses.
    fn cut(&mut self, writer: u64, number: u64, durable: u64, length: u64) -> Result<(), StoreError>;
    /// Returns a remover of files that are no longer written; it ignores missing ones.
    fn remover(&self) -> Remover;
    /// Reads files of the same store beside all else that is done with them.
    fn reader(&self) -> Box<dyn Sink>;
    /// Whether another process has sealed this log after file `number`.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn is_sealed(&mut self, writer: u64, number: u64) -> Result<bool, StoreError>;
    /// The file that an earlier process was writing when it ended, where that is known; `forget`: it is about to be read.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn written_last(&mut self, _forget: bool) -> Result<Option<(u64, u64)>, StoreError> {
        Ok(None)
    }
    /// Bytes after which a new file is begun; 0: with each frame.
    fn file_bytes(&self) -> u64;
}

/// The name of a file or object.
pub fn name(writer: u64, number: u64) -> String {
    format!("{FOLDER}/{writer:016x}/{number:012}")
}

/// Writer and number from the end of a path or of an object's name. The guard of the store's format is no log.
fn parse(writer: &str, number: &str) -> Option<(u64, u64)> {
    let whole = writer.len() == 16 && number.len() == 12;
    let parsed = whole.then(|| Some((u64::from_str_radix(writer, 16).ok()?, number.parse().ok()?))).flatten();
    parsed.filter(|(writer, _)| *writer != GUARD_WRITER)
}

fn grouped(mut all: Vec<(u64, u64)>) -> Vec<Found> {
    all.sort_unstable();
    let mut found: Vec<Found> = Vec::new();
    for (writer, number) in all {
        match found.last_mut() {
            Some(last) if last.writer == writer => last.numbers.push(number),
            _ => found.push(Found { writer, numbers: vec![number] }),
        }
    }
    found
}

/// A log in a folder of a local file system.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    /// The file that was begun last, and its name.
    current: Option<(DirectFile, String)>,
    /// The file that [`LAST`] names.
    noted: String,
    /// Held while a folder comes or goes: one that goes just when a file is begun in it would take the file's name along.
    folders: Arc<Mutex<()>>,
    /// The name of the log's folder may not be durable yet.
    is_folder_new: bool,
    /// Must be marked with its format before anything is written.
    store: Option<Arc<Store>>,
    keys: Option<LogKeys>,
    /// Makes the names in a folder durable. A test fails here.
    sync_folder: fn(&Path) -> io::Result<()>,
}

/// Names the file that is being written, in the store's folder.
const LAST: &str = "last-log";

impl Files {
    /// Bytes of one file, more or less: the last one is rewritten after a crash.
    pub const BYTES: u64 = 16 << 20;

    /// `folder`: the store's.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            current: None,
            noted: String::new(),
            folders: Arc::default(),
            is_folder_new: false,
            store: None,
            keys: None,
            sync_folder,
        }
    }

    /// The same in the folder of a store that may be encrypted.
    pub fn of(folder: &Path, store: &Store) -> Self {
        Self { keys: LogKeys::of(store), ..Self::new(folder) }
    }

    /// The same for the process that writes the store.
    pub fn writing(folder: &Path, store: &Arc<Store>) -> Self {
        Self { store: Some(Arc::clone(store)), ..Self::of(folder, store) }
    }

    fn path(&self, writer: u64, number: u64) -> PathBuf {
        self.folder.join(name(writer, number))
    }

    /// Writes to the file that was begun, which ends with the first error.
    fn write(&mut self, write: impl FnOnce(&mut DirectFile) -> io::Result<()>) -> Result<(), StoreError> {
        let Some((mut file, name)) = self.current.take() else {
            return Err(failed("write", FOLDER, io::Error::other("no file was begun")));
        };
        let look = |file: &DirectFile| match file.loss() {
            Ok(None) => Ok(()),
            Ok(Some(how)) => Err(StoreError::LogLost { name: name.clone(), how }),
            Err(error) => Err(failed("look at", &name, error)),
        };
        look(&file)?;
        write(&mut file).map_err(|error| failed("write", &name, error))?;
        look(&file)?;
        file.is_whole();
        if self.noted != name {
            self.note(&name);
        }
        self.current = Some((file, name));
        Ok(())
    }

    /// Notes which file is being written, so that it is missed if it is gone after a crash. Without the note nothing is lost, so
    /// a disk that refuses it is no error.
    fn note(&mut self, name: &str) {
        let _folders = self.folders.lock();
        let unfinished = self.folder.join(format!("{LAST}#1"));
        let note = || -> io::Result<()> {
            let file = File::create(&unfinished)?;
            file.write_all_at(format!("{name}\n").as_bytes(), 0)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.folder.join(LAST))?;
            (self.sync_folder)(&self.folder)
        };
        match note() {
            Ok(()) => name.clone_into(&mut self.noted),
            Err(_) => {
                // On a full disk, a byte more.
                let _ = fs::remove_file(&unfinished);
            }
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a folder's note for good, before the file goes that it names: a note that comes back after a power cut is a false
/// alarm. It costs nothing else, so an error is none.
fn remove_note(folder: &Path, sync_folder: fn(&Path) -> io::Result<()>) {
    if fs::remove_file(folder.join(LAST)).is_ok() {
        let _ = sync_folder(folder);
    }
}

/// The file that a folder's note names.
fn noted(folder: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(folder.join(LAST)).ok()?;
    let (writer, number) = text.trim().strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
    parse(writer, number)
}

fn failed(action: &'static str, name: &str, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { name: name.to_owned() },
        io::ErrorKind::NotFound => StoreError::Missing { name: name.to_owned() },
        _ => StoreError::Log { action, name: name.to_owned(), source },
    }
}

/// The name under which earlier versions rewrote a file; it is none of a log's.
fn anew(path: &Path) -> PathBuf {
    path.with_extension("anew")
}

/// The names in a folder that may be missing.
fn entries(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
    }
}

impl Sink for Files {
    fn keys(&self) -> Option<LogKeys> {
        self.keys.clone()
    }

    fn found(&mut self) -> Result<Vec<Found>, StoreError> {
        let logs = self.folder.join(FOLDER);
        let list = || -> io::Result<Vec<(u64, u64)>> {
            let mut all = Vec::new();
            for writer in entries(&logs)? {
                for number in entries(&logs.join(&writer))? {
                    all.extend(parse(&writer, &number));
                }
            }
            Ok(all)
        };
        list().map(grouped).map_err(|error| failed("list", FOLDER, error))
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        let logs = self.folder.join(FOLDER);
        let sync = || -> io::Result<()> {
            for writer in entries(&logs)? {
                if logs.join(&writer).is_dir() {
                    (self.sync_folder)(&logs.join(&writer))?;
                }
            }
            if logs.exists() { (self.sync_folder)(&logs) } else { Ok(()) }
        };
        sync().map_err(|error| failed("sync", FOLDER, error))
    }

    fn read(&mut self, writer: u64, number: u64) -> Result<Bytes, StoreError> {
        direct::read(&self.path(writer, number)).map_err(|error| failed("read", &name(writer, number), error))
    }

    fn read_in_turn<'s>(&'s mut self, writer: u64, numbers: &'s [u64]) -> InTurn<'s> {
        let (mut files, all) = (Self::new(&self.folder), numbers.to_vec());
        let (sender, receiver) = mpsc::sync_channel(1);
        let read = move || {
            // The receiver is gone when the rest is not wanted.
            all.into_iter().map(|number| (number, files.read(writer, number))).try_for_each(|file| sender.send(file))
        };
        match thread::Builder::new().name("log-reader".into()).spawn(read) {
            // A reader that ended early must not look like the end of the log.
            Ok(_) => Box::new(numbers.iter().map(move |number| {
                let ended = || failed("read", &name(writer, *number), io::Error::other("the reader of the log ended"));
                receiver.recv().unwrap_or_else(|_| (*number, Err(ended())))
            })),
            // The system refuses a thread.
            Err(_) => Box::new(numbers.iter().map(move |number| (*number, self.read(writer, *number)))),
        }
    }

    fn begin(&mut self, writer: u64, number: u64, head: &[u8]) -> Result<(), StoreError> {
        self.current = None;
        if let Some(store) = &self.store {
            store.mark()?;
        }
        let path = self.path(writer, number);
        let _folders = self.folders.lock();
        let folder = path.parent().unwrap_or(&self.folder);
        // It stays new until its own name was synced, in this attempt or in a later one.
        self.is_folder_new |= !folder.exists();
        let begin = || -> io::Result<DirectFile> {
            fs::create_dir_all(folder)?;
            let file = DirectFile::create(&path, head)?;
            // The name must be durable before what is written under it counts.
            (self.sync_folder)(folder)?;
            if self.is_folder_new {
                folder.ancestors().skip(1).take(2).try_for_each(self.sync_folder)?;
            }
            Ok(file)
        };
        let name = name(writer, number);
        let file = begin().map_err(|error| failed("begin", &name, error))?;
        self.is_folder_new = false;
        self.current = Some((file, name));
        Ok(())
    }

    fn append(&mut self, frame: &[&[u8]]) -> Result<(), StoreError> {
        self.write(|file| file.append(frame))
    }

    fn append_gathered(&mut self, head: &[u8], entries: &mut Gathered, sum: &[u8]) -> Result<(), StoreError> {
        self.write(|file| file.append_gathered(head, entries, sum))
    }

    fn end(&mut self) {
        self.current = None;
    }

    fn is_there(&mut self, writer: u64, number: u64) -> bool {
        !matches!(self.path(writer, number).symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    fn cut(&mut self, writer: u64, number: u64, durable: u64, length: u64) -> Result<(), StoreError> {
        let path = self.path(writer, number);
        let cut = || -> io::Result<()> {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let length = length.min(file.metadata()?.len());
            let mut bytes = vec![0; usize::try_from(length.saturating_sub(durable)).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut bytes, durable)?;
            // Written again, in place: after a sync that failed, another one of the same file says nothing of what that has
            // left out. The bytes are the same, so a crash in between harms nothing, and no room is needed.
            file.write_all_at(&bytes, durable)?;
            file.set_len(length)?;
            file.sync_all()?;
            (self.sync_folder)(path.parent().unwrap_or(&self.folder))
        };
        match cut().map_err(|error| failed("cut", &name(writer, number), error)) {
            // A file system that writes overwritten data elsewhere. Readable data is served all the same.
            Err(error @ StoreError::Full { .. }) => {
                tracing::warn!(%error, "failed to make the end of an earlier process's log durable");
                Ok(())
            }
            cut => cut,
        }
    }

    fn reader(&self) -> Box<dyn Sink> {
        Box::new(Self { keys: self.keys.clone(), ..Self::new(&self.folder) })
    }

    fn remover(&self) -> Remover {
        let (folder, folders, sync_folder) = (self.folder.clone(), Arc::clone(&self.folders), self.sync_folder);
        Box::new(move |files| {
            for (writer, number) in files {
                let path = folder.join(name(*writer, *number));
                if noted(&folder) == Some((*writer, *number)) {
                    let _folders = folders.lock();
                    remove_note(&folder, sync_folder);
                }
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failed("delete", &name(*writer, *number), error));
                    }
                    _ => {}
                }
                // Left by a process that ended while it wrote it.
                let _ = fs::remove_file(anew(&path));
                let _folders = folders.lock();
                // Fails, as it should, while it holds other files.
                let _ = path.parent().map(fs::remove_dir);
            }
            Ok(())
        })
    }

    fn is_sealed(&mut self, _: u64, _: u64) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn written_last(&mut self, forget: bool) -> Result<Option<(u64, u64)>, StoreError> {
        let last = noted(&self.folder);
        if forget && last.is_some() {
            remove_note(&self.folder, self.sync_folder);
        }
        Ok(last)
    }

    fn file_bytes(&self) -> u64 {
        Self::BYTES
    }
}

/// A log of objects.
#[derive(Debug)]
pub struct Objects {
    store: Arc<Store>,
    begun: Option<(u64, u64, Vec<u8>)>,
    recent: Recent,
    /// The object that was to be created under this number when the store did not answer. It may exist, so no other
    /// can.
    unanswered: Option<(u64, Composed)>,
    restated: Vec<u64>,
    owner: Option<Arc<Ownership>>,
    before: Predecessors,
    /// Of a node: the logs that it takes over, in the order of their writers. The others belong to living processes.
    inherited: Option<Vec<Inherited>>,
    /// Writers whose logs were found sealed.
    sealed: HashSet<u64>,
}

/// Objects of a log that are read at the same time. A round trip of 30 ms and objects of a few KiB make that about 2,000
/// objects a second.
const READS_TOGETHER: usize = 64;

/// Logs that are listed at the same time.
const LISTS_TOGETHER: usize = 32;

/// Logs that are sealed at the same time.
const SEALS_TOGETHER: usize = 32;

/// All bytes of an object of a log; none of a seal, which is the end of a log.
async fn read_object(store: &Store, writer: u64, number: u64) -> Result<Bytes, StoreError> {
    let bytes = store.get(&name(writer, number)).await?;
    Ok(if &bytes[..] == SEAL { Bytes::new() } else { bytes })
}

impl Objects {
    /// For a process that only looks, and for one that owns the store by other means.
    pub fn new(store: Arc<Store>) -> Self {
        Self::restating(store, Restating::default())
    }

    /// The same where small objects are restated sooner or later than they would be.
    pub fn restating(store: Arc<Store>, restating: Restating) -> Self {
        Self {
            store,
            begun: None,
            recent: Recent::new(restating),
            unanswered: None,
            restated: Vec::new(),
            owner: None,
            before: Predecessors::default(),
            inherited: None,
            sealed: HashSet::new(),
        }
    }

    /// Takes the store for the process that writes as `writer`.
    ///
    /// # Errors
    /// As [`Ownership::take`].
    pub fn take(store: Arc<Store>, writer: u64, clock: fn() -> u64) -> Result<Self, StoreError> {
        let (owner, before) = block_on(Ownership::take(&store, writer, clock))?;
        tell_of(&owner, &before);
        Ok(Self { owner: Some(owner), before, ..Self::new(store) })
    }

    /// Takes the run of a node for the process that writes as `writer`.
    ///
    /// # Errors
    /// As [`Ownership::take_node`].
    pub fn take_node(store: Arc<Store>, node: &str, writer: u64, clock: fn() -> u64) -> Result<Self, StoreError> {
        let (owner, before) = block_on(Ownership::take_node(&store, node, writer, clock))?;
        tell_of(&owner, &before);
        let inherited = block_on(owner.inherited())?;
        Ok(Self::inheriting(owner, inherited))
    }

    /// Takes over these logs only, for a process of a node.
    pub fn inheriting(owner: Arc<Ownership>, inherited: Vec<Inherited>) -> Self {
        let store = Arc::clone(owner.store());
        Self { owner: Some(owner), inherited: Some(inherited), ..Self::new(store) }
    }

    /// The writers of the logs that it takes over, if it is that of a node.
    pub fn inherited(&self) -> impl Iterator<Item = u64> {
        self.inherited.iter().flatten().map(|inherited| inherited.writer)
    }

    /// The objects of all logs that it may read.
    fn list(&self) -> Result<Vec<ObjectInfo>, StoreError> {
        let Some(inherited) = &self.inherited else { return block_on(self.store.list(FOLDER)) };
        let store = &self.store;
        let lists = inherited.iter().map(async |log| store.list(&folder(log.writer)).await);
        let all: Vec<Vec<ObjectInfo>> = block_on(stream::iter(lists).buffered(LISTS_TOGETHER).try_collect())?;
        Ok(all.concat())
    }

    /// Whether the log of this writer needs no seal.
    fn has_ended(&self, writer: u64) -> bool {
        match &self.inherited {
            Some(inherited) => {
                let found = inherited.binary_search_by_key(&writer, |inherited| inherited.writer);
                found.is_ok_and(|at| inherited[at].has_ended)
            }
            None => self.before.has_ended(writer),
        }
    }

    async fn write(&self, name: &str, object: Bytes) -> Result<(), StoreError> {
        match self.store.put_new(name, object.clone()).await {
            Err(StoreError::Exists { .. }) => match self.store.get(name).await {
                // The answer to an earlier attempt was lost.
                Ok(there) if there == object => Ok(()),
                Ok(there) if &there[..] == SEAL => Err(StoreError::LogSealed),
                Ok(_) => Err(StoreError::Exists { name: name.to_owned() }),
                Err(error) => Err(error),
            },
            written => written,
        }
    }
}

/// Tells of the process before, if it may be alive.
fn tell_of(owner: &Ownership, before: &Predecessors) {
    if let Some(record) = before.records.last().filter(|record| !record.is_release()) {
        tracing::info!(
            number = owner.number(),
            before = record.number,
            since_ms = record.since_ms,
            "taking the store over from a process that has not ended in order, and may be alive"
        );
    }
}

/// Writer and number of an object.
fn parse_name(name: &str) -> Option<(u64, u64)> {
    let mut parts = name.rsplit('/');
    let (number, writer) = (parts.next()?, parts.next()?);
    parse(writer, number)
}

/// The numbers of a writer's objects after `number`.
async fn after(store: &Store, writer: u64, number: u64) -> Result<Vec<u64>, StoreError> {
    let listed = store.list(&folder(writer)).await?;
    let numbers = listed.iter().filter_map(|object| parse_name(&object.name));
    Ok(numbers.map(|(_, other)| other).filter(|other| *other > number).collect())
}

/// Seals one log. Returns the files that its writer has added after `last`.
async fn seal(store: &Store, writer: u64, last: u64) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut added = Vec::new();
    let mut next = last + 1;
    let mut told = Stopwatch::start();
    loop {
        if told.us() > SLOW_SEAL_US {
            told = Stopwatch::start();
            tracing::warn!(log = folder(writer), added = added.len(), "its writer still adds to the log");
        }
        let newer = match store.put_new(&name(writer, next), SEAL).await {
            // The writer keeps its last object, so what it has written beyond the seal would be found.
            Ok(()) => {
                let newer = after(store, writer, next).await?;
                if newer.is_empty() {
                    return Ok(added);
                }
                newer
            }
            // The writer was faster, and may have added many.
            Err(StoreError::Exists { .. }) => {
                match futures::join!(get(store, writer, next), after(store, writer, next - 1)) {
                    (Ok(Some(there)), _) if &there[..] == SEAL => return Ok(added),
                    (there, newer) => {
                        let newer = there.and(newer)?;
                        // That one may be gone by now, restated by a later one.
                        added.extend((newer.first() != Some(&next)).then_some((writer, next)));
                        newer
                    }
                }
            }
            Err(error) => return Err(error),
        };
        next = newer.last().map_or(next, |last| *last) + 1;
        added.extend(newer.into_iter().map(|number| (writer, number)));
    }
}

/// An object of a log; none if it is gone.
async fn get(store: &Store, writer: u64, number: u64) -> Result<Option<Bytes>, StoreError> {
    match store.get(&name(writer, number)).await {
        Err(error) if error.is_missing() => Ok(None),
        found => found.map(Some),
    }
}

impl Sink for Objects {
    fn found(&mut self) -> Result<Vec<Found>, StoreError> {
        let all = self.list()?;
        let (mut numbers, mut seals) = (Vec::new(), HashMap::new());
        for object in &all {
            let Some((writer, number)) = parse_name(&object.name) else { continue };
            match object.bytes == SEAL.len() as u64 {
                true => drop(seals.insert(writer, number)),
                false => numbers.push((writer, number)),
            }
        }
        let found = grouped(numbers);
        // A seal counts only at the end: the writer may have deleted the objects before it, after it wrote more.
        let last = |writer: u64| found.iter().find(|found| found.writer == writer)?.numbers.last().copied();
        self.sealed =
            seals.into_iter().filter(|(writer, seal)| last(*writer) < Some(*seal)).map(|(writer, _)| writer).collect();
        Ok(found)
    }

    fn predecessors(&self) -> Vec<u64> {
        match &self.inherited {
            Some(inherited) => {
                inherited.iter().filter(|inherited| inherited.may_begin).map(|inherited| inherited.writer).collect()
            }
            None => self.before.alive().map(|record| record.writer).collect(),
        }
    }

    fn owner(&self) -> Option<Arc<Ownership>> {
        self.owner.clone()
    }

    fn keys(&self) -> Option<LogKeys> {
        LogKeys::of(&self.store)
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        // The contents that a store returns are durable.
        Ok(())
    }

    fn read(&mut self, writer: u64, number: u64) -> Result<Bytes, StoreError> {
        block_on(read_object(&self.store, writer, number))
    }

    fn read_each(&mut self, files: &[(u64, u64)], each: &mut TakeFile<'_>) -> Result<(), StoreError> {
        let store = &self.store;
        let reads = files.iter().map(|file| async { (*file, read_object(store, file.0, file.1).await) });
        let mut reads = stream::iter(reads).buffered(READS_TOGETHER);
        while let Some((file, bytes)) = block_on(reads.next()) {
            each(file, bytes)?;
        }
        Ok(())
    }

    fn seal(&mut self, logs: &[(u64, u64)]) -> Result<Vec<(u64, u64)>, StoreError> {
        let open = logs.iter().filter(|(writer, _)| !self.sealed.contains(writer) && !self.has_ended(*writer));
        let seals = open.map(|(writer, last)| seal(&self.store, *writer, *last));
        let added: Vec<Vec<(u64, u64)>> = block_on(stream::iter(seals).buffered(SEALS_TOGETHER).try_collect())?;
        Ok(added.concat())
    }

    fn begin(&mut self, writer: u64, number: u64, head: &[u8]) -> Result<(), StoreError> {
        self.begun = Some((writer, number, head.to_vec()));
        Ok(())
    }

    fn append(&mut self, frame: &[&[u8]]) -> Result<(), StoreError> {
        let Some((writer, number, head)) = self.begun.take() else {
            return Err(failed("write", FOLDER, io::Error::other("no object was begun")));
        };
        let tried = self.unanswered.take().filter(|(tried, object)| *tried == number && object.is_of(frame));
        let object = tried.map_or_else(|| self.recent.compose(&head, frame), |(_, object)| object);
        let name = name(writer, number);
        let write = self.write(&name, object.bytes.clone());
        let written = match &self.owner {
            Some(owner) => block_on(owner.beside(write)),
            None => block_on(write),
        };
        match written {
            Ok(()) => {}
            Err(error @ (StoreError::Exists { .. } | StoreError::LogSealed)) => return Err(error),
            // It may have been written all the same: the next attempt is for this very object.
            Err(error) => {
                self.begun = Some((writer, number, head));
                self.unanswered = Some((number, object));
                return Err(error);
            }
        }
        self.restated = self.recent.written(number, object);
        Ok(())
    }

    fn restated(&mut self) -> Restated {
        Restated { numbers: std::mem::take(&mut self.restated), from: self.recent.first().unwrap_or(u64::MAX) }
    }

    fn cut(&mut self, _: u64, _: u64, _: u64, _: u64) -> Result<(), StoreError> {
        // An object exists whole or not at all.
        Ok(())
    }

    fn reader(&self) -> Box<dyn Sink> {
        Box::new(Self::new(Arc::clone(&self.store)))
    }

    fn remover(&self) -> Remover {
        let store = Arc::clone(&self.store);
        Box::new(move |files| {
            let names: Vec<String> = files.iter().map(|(writer, number)| name(*writer, *number)).collect();
            block_on(store.delete_many(&names))
        })
    }

    fn is_sealed(&mut self, writer: u64, number: u64) -> Result<bool, StoreError> {
        let next = name(writer, number + 1);
        let sealed = async {
            match self.store.get(&next).await {
                Ok(bytes) => Ok(&bytes[..] == SEAL),
                Err(error) if error.is_missing() => Ok(false),
                Err(error) => Err(error),
            }
        };
        let Some(owner) = &self.owner else { return block_on(sealed) };
        // A version that keeps no records seals all the same.
        match block_on(futures::future::join(sealed, owner.look())) {
            (_, Err(StoreError::LogSealed)) | (Ok(true), _) => Ok(true),
            (sealed, looked) => looked.and(sealed),
        }
    }

    fn file_bytes(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests;
