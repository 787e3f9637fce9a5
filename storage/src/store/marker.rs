//! The format marker: which builds may touch a store.
//!
//! ```text
//! format/<number, 6 digits>    one object for each format that the store has had, created and never changed: a line with
//!                              the format, a line with the version of Dormouse that brought it
//! ```
//!
//! The highest number is the store's format. It stands for everything that the store may hold: the versions of
//! manifests, chunks, tails and log files, and the kinds of objects.
//!
//! 1. Before a store is locked, cleaned, probed or written, the markers are listed. A higher format than [`FORMAT`] is
//!    refused with both versions named ([`StoreError::Newer`]), also by the tools that only read.
//! 2. A writer then creates the marker of its own format if it is missing, before any other object. So an object that
//!    an older build would misread never exists without a marker that keeps that build away.
//!
//! Version 0.1.0 knows no markers. It is kept away by the *guard*, a file in the log of a writer that no process is,
//! `log/0000000000000000/000000000001`: a whole frame of 0.1.0's format with an entry of a kind that 0.1.0 refuses to read past.
//! It reads that log first, so it ends before it has sealed, cut or written anything. In a bucket the guard is followed by a
//! seal, or 0.1.0 would create one. This build skips that writer wherever it lists logs.
//!
//! # Raising the format
//!
//! When a build writes anything that the release before it cannot read, or must not ignore (a new kind of object, a new
//! version of one), and [`FORMAT`] is still that of the release:
//!
//! 1. Raise [`FORMAT`] by one, and add a row to the table below. What comes after that until the next release needs no other.
//! 2. Go on reading everything older. The golden stores in `shard/tests/golden/stores` prove it.
//! 3. At the release, add a golden store that its own binary made, and the way up and back to `docs/upgrade.md`.
//!
//! | format | since | brought |
//! | --- | --- | --- |
//! | 1 | 0.1.0 | no marker: manifests 1 and 2, chunks 1, tails 1, logs 1 |
//! | 2 | builds between 0.1.0 and 0.2.0 | markers, the guard, records of owners, merged log objects |
//! | 3 | builds between 0.1.0 and 0.2.0 | values in pieces: manifests 4, chunks 3 |
//! | 4 | 0.2.0 | manifests in two levels: manifests 5; users among a manifest's settings |
//! | 5 | builds after 0.2.0 | receipts: a keyspace that manifests do not list among those that are shown; history: manifests 6, stretches 1; encryption |

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use super::{FORMAT, Store, StoreError, VERSION};
use crate::codec::checksum;

/// The format of a store without a marker, if it is one.
const UNMARKED: u32 = 1;

const FOLDER: &str = "format";
const DIGITS: usize = 6;
/// The most bytes of a marker's text that are read.
const TEXT_BYTES_MAX: usize = 256;

const GUARD: &str = "log/0000000000000000/000000000001";
const GUARD_SEAL: &str = "log/0000000000000000/000000000002";

/// The writer of the guard: no process has this number.
pub(crate) const GUARD_WRITER: u64 = 0;

fn name(format: u32) -> String {
    format!("{FOLDER}/{format:0DIGITS$}")
}

fn text() -> String {
    format!("Dormouse store format {FORMAT}\nbrought by Dormouse {VERSION}\n")
}

/// The format that a marker stands for, from its name. Every build names them so, whatever the format.
fn number(name: &str) -> Option<u32> {
    let last = name.rsplit('/').next()?;
    let is_number = last.len() == DIGITS && last.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| last.parse().ok()).flatten()
}

/// The version that brought a format, from its marker's text.
fn version(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(&text[..text.len().min(TEXT_BYTES_MAX)]).ok()?;
    let version = text.lines().nth(1)?.strip_prefix("brought by Dormouse ")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
    (!version.is_empty() && version.bytes().all(is_plain)).then(|| version.to_owned())
}

fn newer(format: u32, text: &[u8]) -> StoreError {
    StoreError::Newer { format, version: version(text) }
}

/// The format of a store behind a network, or of any other that is read by requests.
///
/// # Errors
/// [`StoreError::Newer`], or when the store cannot be asked.
pub(super) async fn check(store: &Store) -> Result<u32, StoreError> {
    let markers = store.list(FOLDER).await?;
    let highest = markers.iter().filter_map(|marker| Some((number(&marker.name)?, &marker.name))).max();
    match highest {
        None => Ok(UNMARKED),
        Some((format, _)) if format <= FORMAT => Ok(format),
        Some((format, name)) => Err(newer(format, &store.get(name).await.unwrap_or_default())),
    }
}

/// Marks the store as one of this build's format. `found`: the result of [`check`].
///
/// # Errors
/// When the store refuses.
pub(super) async fn claim(store: &Store, found: u32) -> Result<(), StoreError> {
    if found >= FORMAT {
        return Ok(());
    }
    let objects = [(GUARD, guard()), (GUARD_SEAL, b"DMSEAL\n\n".to_vec()), (&name(FORMAT), text().into_bytes())];
    for (name, bytes) in objects {
        match store.put_new(name, bytes).await {
            Ok(()) | Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Databases that are looked at before a folder called `db` is taken for another program's.
const LOOKED_AT_MAX: usize = 100;

/// Whether a store of any version exists: a marker, a database's objects, or a log.
///
/// # Errors
/// When the store cannot be asked.
pub(super) async fn is_store(store: &Store) -> Result<bool, StoreError> {
    if store.list(FOLDER).await?.iter().any(|object| number(&object.name).is_some()) {
        return Ok(true);
    }
    let is_writer = |name: &String| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if store.list_folders("log").await?.iter().any(is_writer) {
        return Ok(true);
    }
    for database in store.list_folders("db").await?.iter().take(LOOKED_AT_MAX) {
        let folders = store.list_folders(&format!("db/{database}")).await?;
        if folders.iter().any(|folder| ["manifest", "chunk", "tail", "branch", "left"].contains(&folder.as_str())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The format of a store in a folder, which need not exist.
///
/// # Errors
/// As [`check`].
pub(super) fn check_folder(folder: &Path) -> Result<u32, StoreError> {
    let failed = |source| StoreError::Folder { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(UNMARKED);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut highest = (UNMARKED, String::new());
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if let Some(format) = number(&name).filter(|format| *format > highest.0) {
            highest = (format, name);
        }
    }
    match highest {
        (format, _) if format <= FORMAT => Ok(format),
        (format, name) => {
            let mut text = Vec::new();
            // Without its text the marker still says that it is newer.
            let _ = File::open(folder.join(FOLDER).join(name))
                .and_then(|file| file.take(TEXT_BYTES_MAX as u64).read_to_end(&mut text));
            Err(newer(format, &text))
        }
    }
}

/// Marks the store in a folder that this process has locked.
///
/// # Errors
/// [`StoreError::Full`] if the disk has no room: the store can still be read, and is marked before anything is written.
/// Others when the folder refuses.
pub(super) fn claim_folder(folder: &Path, found: u32) -> Result<(), StoreError> {
    if found >= FORMAT {
        return Ok(());
    }
    let claimed = create(folder, GUARD, &guard()).and_then(|()| create(folder, &name(FORMAT), text().as_bytes()));
    match claimed {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Err(StoreError::Full { name: name(FORMAT) })
        }
        claimed => claimed.map_err(|source| StoreError::Folder { path: folder.to_owned(), source }),
    }
}

/// Creates a file durably, as [`Store::put_new`] does. An existing one stays; the process that created it may have
/// ended before it was durable.
fn create(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let path = folder.join(name);
    let parent = path.parent().unwrap_or(folder);
    if !path.exists() {
        fs::create_dir_all(parent)?;
        let unfinished = parent.join(format!("{}#1", path.file_name().unwrap_or_default().to_string_lossy()));
        let written = File::create(&unfinished).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)
        });
        if written.is_err() {
            // The error that counts is the one before.
            let _ = fs::remove_file(&unfinished);
        }
        written?;
    }
    for way in parent.ancestors().take_while(|way| way.starts_with(folder)) {
        File::open(way)?.sync_all()?;
    }
    Ok(())
}

/// The bytes of the guard, in the format of logs that 0.1.0 reads, which never changes any more: the head of a file, and a frame
/// with one entry of kind `u32::MAX`.
fn guard() -> Vec<u8> {
    let mut file = b"DMLOG\n\n\n".to_vec();
    file.extend_from_slice(&1u32.to_le_bytes());
    for field in [GUARD_WRITER, 1, 0] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    file.extend_from_slice(&checksum(&file).to_le_bytes());
    let mut frame = b"DMFR".to_vec();
    frame.extend_from_slice(&0u32.to_le_bytes());
    for field in [0u64, 0, 0, 32] {
        frame.extend_from_slice(&field.to_le_bytes());
    }
    frame.extend_from_slice(&0u32.to_le_bytes());
    frame.extend_from_slice(&u32::MAX.to_le_bytes());
    frame.extend_from_slice(&[0; 24]);
    frame.extend_from_slice(&checksum(&frame).to_le_bytes());
    file.extend_from_slice(&frame);
    file
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    fn files(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else {
                found.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }

    fn all(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        files(folder, &mut found);
        found
    }

    #[test]
    fn a_store_is_marked_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        drop(Store::open(&url).unwrap());
        assert_eq!(check_folder(folder.path()).unwrap(), FORMAT);
        let marker = fs::read_to_string(folder.path().join("format/000005")).unwrap();
        assert_eq!(marker, format!("Dormouse store format 5\nbrought by Dormouse {VERSION}\n"));
        let before = all(folder.path());
        drop(Store::open(&url).unwrap());
        assert_eq!(all(folder.path()), before);
    }

    /// As where the disk was full at the start.
    #[test]
    fn a_store_that_could_not_be_marked_is_marked_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let store = std::sync::Arc::new(Store::open(&url).unwrap());
        let marker = folder.path().join(name(FORMAT));
        let unmark = || {
            fs::remove_file(&marker).unwrap();
            fs::write(folder.path().join(FOLDER).join("in the way"), "").unwrap();
            store.lock.as_ref().unwrap().set_marked(false);
        };
        unmark();
        futures::executor::block_on(store.put_new("a", "1")).unwrap();
        assert!(marker.exists());
        unmark();
        let mut files = crate::log::sink::Files::writing(folder.path(), &store);
        crate::log::sink::Sink::begin(&mut files, 7, 1, b"head").unwrap();
        assert!(marker.exists());
        // Once is enough.
        fs::remove_file(&marker).unwrap();
        futures::executor::block_on(store.put_new("b", "1")).unwrap();
        assert!(!marker.exists());
    }

    #[test]
    fn a_newer_store_is_refused_and_not_touched() {
        let rows = [
            ("000006", "Dormouse store format 6\nbrought by Dormouse 0.9.0\n", "format 6, brought by Dormouse 0.9.0"),
            ("900000", "", "format 900000, brought by a later Dormouse"),
        ];
        for (marker, text, wanted) in rows {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join(FOLDER)).unwrap();
            fs::write(folder.path().join(FOLDER).join(marker), text).unwrap();
            // As a crash of the newer one has left it: a process id in the lock, a write that was not finished.
            fs::write(folder.path().join("lock"), "1\n").unwrap();
            fs::write(folder.path().join("format/1#1"), "unfinished").unwrap();
            let before = all(folder.path());
            let url = format!("file://{}", folder.path().display());
            for opened in [Store::open(&url), Store::open_read_only(&url)] {
                let error = opened.unwrap_err().to_string();
                assert!(error.contains(wanted) && error.contains(VERSION), "{error}");
            }
            assert_eq!(all(folder.path()), before);
        }
    }

    #[test]
    fn a_folder_of_something_else_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let is_store = || futures::executor::block_on(Store::open_read_only(&url).unwrap().is_dormouse()).unwrap();
        assert!(!is_store());
        for other in ["log/nginx", "db/sudo/lectured", "format/a4", "lost+found"] {
            fs::create_dir_all(folder.path().join(other)).unwrap();
            fs::write(folder.path().join(other).join("file"), "").unwrap();
        }
        assert!(!is_store());
        drop(Store::open(&url).unwrap());
        assert!(is_store());
        for old in ["log/00000000000000ff/000000000001", "db/default/manifest/00000000000000000001"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(old);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
            let store = Store::open_read_only(&format!("file://{}", folder.path().display())).unwrap();
            assert!(futures::executor::block_on(store.is_dormouse()).unwrap(), "{old}");
        }
    }

    #[test]
    fn a_newer_store_that_is_asked_by_requests_is_refused() {
        futures::executor::block_on(async {
            let store = Store::memory();
            assert_eq!(check(&store).await.unwrap(), UNMARKED);
            claim(&store, UNMARKED).await.unwrap();
            claim(&store, UNMARKED).await.unwrap();
            assert_eq!(check(&store).await.unwrap(), FORMAT);
            assert_eq!(store.list("").await.unwrap().len(), 3);
            store.put_new("format/000007", "Dormouse store format 7\nbrought by Dormouse 2.0.0\n").await.unwrap();
            let error = check(&store).await.unwrap_err().to_string();
            assert!(error.contains("format 7, brought by Dormouse 2.0.0"), "{error}");
        });
    }
}
