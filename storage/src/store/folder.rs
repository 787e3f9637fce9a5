//! A folder as a store: created, checked, locked against a second process, and cleaned after a crash.
//!
//! The file `lock` in the folder is held with an exclusive file lock, which the kernel drops when the process ends
//! however it ends. It contains the holder's process id while the folder is open and nothing after a clean close; so a
//! process id that the next process finds tells of a crash, and only then is the folder walked for the temporary files
//! of unfinished writes. A clean start reads nothing but the lock.
//!
//! A file survives a power cut when it and every folder above it are synced. The write that creates a folder syncs its
//! parent, but another write can find the folder before that, and a process may die in between. So a process syncs the
//! way up from each folder that it writes to once by itself ([`FolderLock::sync_way_to`]).

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use object_store::path;
use parking_lot::Mutex;

use super::StoreError;

#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
    folder: PathBuf,
    /// Folders of objects whose way up to `folder` was synced by this process, and which have not been removed since.
    synced: Mutex<HashSet<PathBuf>>,
    /// The store has the marker of its format.
    is_marked: AtomicBool,
    /// Writes that have begun and not returned: dropped futures whose temporary file may remain.
    unfinished: AtomicUsize,
}

impl FolderLock {
    /// Creates the folder if needed, checks that files can be made in it, and locks it.
    pub(super) fn acquire(folder: &Path) -> Result<FolderLock, StoreError> {
        let fail = |source| StoreError::Folder { path: folder.to_owned(), source };
        create_folder(folder).map_err(fail)?;
        let mut options = OpenOptions::new();
        let path = folder.join("lock");
        let mut file = options.create(true).truncate(false).read(true).write(true).open(path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { path: folder.to_owned(), pid: read_pid(&mut file).ok().flatten() });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        unless_full(check_writable(folder)).map_err(fail)?;
        let crashed = file.metadata().map_err(fail)?.len() > 0;
        if crashed {
            remove_unfinished(folder).map_err(fail)?;
        }
        unless_full(write_pid(&mut file)).map_err(fail)?;
        Ok(FolderLock {
            file,
            folder: folder.to_owned(),
            synced: Mutex::default(),
            is_marked: AtomicBool::new(true),
            unfinished: AtomicUsize::new(0),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn is_marked(&self) -> bool {
        self.is_marked.load(Ordering::Relaxed)
    }

    pub(super) fn set_marked(&self, is_marked: bool) {
        self.is_marked.store(is_marked, Ordering::Relaxed);
    }

    pub(super) fn begin_write(&self) {
        self.unfinished.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_write(&self) {
        self.unfinished.fetch_sub(1, Ordering::Relaxed);
    }

    /// After an object was created: makes the folders on the way to it durable, unless that was done before.
    pub(super) fn sync_way_to(&self, object: &path::Path) -> io::Result<()> {
        let object = self.folder.join(object.as_ref());
        let Some(parent) = object.parent().filter(|parent| !self.synced.lock().contains(*parent)) else {
            return Ok(());
        };
        for folder in parent.ancestors().take_while(|folder| folder.starts_with(&self.folder)) {
            File::open(folder)?.sync_all()?;
        }
        self.synced.lock().insert(parent.to_owned());
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn ways(&self) -> usize {
        self.synced.lock().len()
    }

    /// A delete removes folders that have become empty; they may be created again.
    pub(super) fn forget_way_to(&self, object: &path::Path) {
        if let Some(parent) = self.folder.join(object.as_ref()).parent()
            && !parent.exists()
        {
            // Its parents may be gone too, and with them the ways to other folders.
            self.synced.lock().clear();
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if *self.unfinished.get_mut() == 0 {
            // Should this fail, the next start walks the folder once more than needed.
            let _ = self.file.set_len(0);
        }
    }
}

/// Creates the folder with its missing parents, each of them durably.
fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if folder.exists() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is a file, not a folder"));
    }
    let missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
    fs::create_dir_all(folder)?;
    for created in missing {
        let parent = match created.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => continue,
        };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// A full disk can still be read, and waking a database must not depend on writing.
fn unless_full(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Ok(()),
        result => result,
    }
}

fn check_writable(folder: &Path) -> io::Result<()> {
    let probe = folder.join("lock#1");
    File::create(&probe)?;
    fs::remove_file(probe)
}

fn read_pid(file: &mut File) -> io::Result<Option<u32>> {
    let mut text = String::new();
    file.rewind()?;
    file.take(32).read_to_string(&mut text)?;
    Ok(text.trim().parse().ok())
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Deletes the temporary files of writes that a crash cut off: `<object>#<number>`, a name no object has.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    let mut folders = VecDeque::from([PathBuf::from(folder)]);
    while let Some(folder) = folders.pop_front() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push_back(entry.path());
            } else if kind.is_file() && is_unfinished(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

fn is_unfinished(name: &str) -> bool {
    name.split_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}
