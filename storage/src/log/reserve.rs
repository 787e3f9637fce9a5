//! A reserve of disk space: the file `reserve` in the store's folder.
//!
//! Making room on a full disk needs some room itself: the log must take the entries that are in memory, and a
//! checkpoint must be written before the log files that it replaces can be deleted. So space for that is allocated
//! while the disk has some, and given up when a write finds the disk full. Nothing is ever read from the file.
//!
//! A file system that cannot allocate space ahead has no reserve. Its full disk is noticed when a write fails.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The smallest reserve: enough for manifests, a tail and a few frames. On a small disk it is less.
const BASE_BYTES: u64 = 4 << 20;
/// The part of a small disk that this may be.
const BASE_SHARE: u64 = 8;
/// The step by which the reserve grows and shrinks.
const STEP_BYTES: u64 = 1 << 20;
/// Room beyond the reserve that must be free before writes are accepted again, so that they are not refused again at
/// once. In parts of the disk, and at most.
const MARGIN: (u64, u64) = (16, 16 << 20);

/// Invariant: the file has `held` bytes, all of them allocated.
#[derive(Debug)]
pub struct Reserve {
    folder: PathBuf,
    held: u64,
    is_supported: bool,
}

impl Reserve {
    /// The reserve of a store's folder, as an earlier process may have left it.
    pub fn of(folder: &Path) -> Self {
        let held = std::fs::metadata(folder.join("reserve")).map_or(0, |found| found.len());
        Self { folder: folder.to_owned(), held, is_supported: true }
    }

    /// Whether the reserve covers `needed` bytes without any change.
    pub fn covers(&self, needed: u64) -> bool {
        let wanted = self.wanted(needed);
        !self.is_supported || (wanted..=wanted + 8 * STEP_BYTES).contains(&self.held)
    }

    /// Makes the reserve cover `needed` bytes.
    ///
    /// # Errors
    /// When the disk has not enough room: the reserve is as it was.
    pub fn cover(&mut self, needed: u64) -> io::Result<()> {
        if self.covers(needed) {
            return Ok(());
        }
        let wanted = self.wanted(needed);
        // Asked first: to find out by trying, a file system may have to take all that is left, which costs time again and again.
        if space(&self.folder).is_some_and(|(free, _)| free < wanted.saturating_sub(self.held)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join("reserve"))?;
        if wanted < self.held {
            file.set_len(wanted)?;
            self.held = wanted;
            return Ok(());
        }
        match allocate(&file, self.held, wanted - self.held) {
            Ok(()) => self.held = wanted,
            Err(error) => {
                // A part may have been allocated.
                let _ = file.set_len(self.held);
                match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => return Err(error),
                    // A limit of this process is no sign of a full disk.
                    io::ErrorKind::FileTooLarge => {}
                    _ => self.is_supported = false,
                }
            }
        }
        Ok(())
    }

    /// Gives up at least `bytes`, or all of the reserve. False: nothing was left.
    pub fn give_up(&mut self, bytes: u64) -> bool {
        if self.held == 0 {
            return false;
        }
        let rest = self.held.saturating_sub(bytes.next_multiple_of(STEP_BYTES));
        let cut = OpenOptions::new().write(true).open(self.folder.join("reserve")).and_then(|file| file.set_len(rest));
        // One that was deleted by hand holds nothing any more.
        self.held = if cut.is_ok() { rest } else { 0 };
        cut.is_ok()
    }

    /// Whether enough is free beyond the reserve for writes to go on for a while.
    pub fn has_margin(&self) -> bool {
        let (share, most) = MARGIN;
        space(&self.folder).is_none_or(|(free, total)| free >= (total / share).min(most))
    }

    fn wanted(&self, needed: u64) -> u64 {
        let base = space(&self.folder).map_or(BASE_BYTES, |(_, total)| (total / BASE_SHARE).min(BASE_BYTES));
        (base + needed).next_multiple_of(STEP_BYTES)
    }
}

/// Free bytes of a folder's file system, for us, and all of its bytes.
fn space(folder: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some((found.f_bavail.saturating_mul(found.f_frsize), found.f_blocks.saturating_mul(found.f_frsize)))
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), from, bytes).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_shrinks_and_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = || std::fs::metadata(folder.path().join("reserve")).map_or(0, |found| found.len());
        let mut reserve = Reserve::of(folder.path());
        assert!(!reserve.give_up(1), "there is none");
        reserve.cover(0).unwrap();
        if !reserve.is_supported {
            return;
        }
        let base = bytes();
        assert!((STEP_BYTES..=BASE_BYTES).contains(&base));
        reserve.cover(10 << 20).unwrap();
        assert_eq!(bytes(), base + (10 << 20));
        assert_eq!(reserve.cover(1 << 60).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(bytes(), base + (10 << 20), "nothing was taken for it");
        assert!(reserve.covers(9 << 20), "it does not shrink for a little");
        reserve.cover(0).unwrap();
        assert_eq!(bytes(), base);
        assert!(reserve.give_up(1));
        assert_eq!(bytes(), base - STEP_BYTES);
        assert!(reserve.give_up(u64::MAX / 2));
        assert_eq!(bytes(), 0);
        assert!(!reserve.give_up(1));
        reserve.cover(0).unwrap();
        assert_eq!(Reserve::of(folder.path()).held, base, "the next process finds it");
    }
}
