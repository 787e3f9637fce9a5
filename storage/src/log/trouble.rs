//! A log in trouble: its disk is full, or one of its files is gone. Writes are refused, reads go on, and it heals by itself.
//!
//! **Full disk.** The [`Reserve`] covers what the log has on the disk, or what has changed in memory, since that is about what
//! the next checkpoint writes. When the reserve cannot be made large enough, or a write has found the disk full, the log is *short*: writes are
//! refused, and the keeper makes checkpoints, which may use the reserve. They free log files. When the reserve is whole
//! again, with some room beyond it, the log is short no longer.
//!
//! **Lost file.** A file that another program has removed or truncated is noticed before anything in it is acknowledged.
//! Its entries are still in memory, but those in the next file could not be replayed after a crash, as the ones before them
//! are missing. So nothing more counts as durable until checkpoints hold all that the file mentioned.

use std::sync::atomic::Ordering;

use super::format::Identity;
use super::{Log, Output, reserve::Reserve, sink};
use crate::stopwatch::Stopwatch;
use crate::store::StoreError;

/// Why writes are refused, as bits.
pub(super) const FULL: u8 = 1;
pub(super) const SHORT: u8 = 2;
pub(super) const LOST: u8 = 4;
/// Twice as much as [`FULL`]: every writer is refused.
pub(super) const STUFFED: u8 = 8;

/// The reserve covers no more of the log than this: a larger log is brought into the store by checkpoints anyhow.
const COVERED_BYTES_MAX: u64 = 256 << 20;
/// And no more of what a checkpoint would write: places that are written whole may be much larger than what changed.
const DIRTY_BYTES_MAX: u64 = 64 << 20;
/// A checkpoint writes a place whole if more than one in this many of its keys have changed, so about this many bytes
/// for each byte of the log.
const WHOLE_FACTOR: u64 = 8;
/// A store that is full by turns is logged no more often.
const ROOM_LOGGED_EVERY_US: u64 = 60_000_000;
/// Room that a write needs beyond its own bytes: zeros ahead, and the blocks of folders.
const SLACK_BYTES: u64 = 1 << 20;

impl Log {
    /// Keeps room on the disk of this folder from now on.
    pub(super) fn reserve_in(&self, folder: &std::path::Path) {
        *self.reserve.lock() = Some(Reserve::of(folder));
        self.keep_room();
    }

    pub(super) fn is_refusing(&self, why: u8) -> bool {
        self.refusing.load(Ordering::Relaxed) & why != 0
    }

    /// Whether a checkpoint of every database would help: it makes room, or holds what a lost file held.
    pub fn needs_checkpoints(&self) -> bool {
        self.is_refusing(SHORT | LOST)
    }

    /// Whether a checkpoint of this database would let a file go.
    pub fn is_kept_for(&self, database: &Identity) -> bool {
        self.ledger.lock().is_kept_for(database)
    }

    /// Bytes of the files that this process has written and keeps for this database, among others.
    pub fn kept_bytes_for(&self, database: &Identity) -> u64 {
        let files = self.ledger.lock().kept_for(database);
        let sizes = self.sizes.lock();
        let own = files.into_iter().filter(|(writer, _)| *writer == self.writer);
        own.filter_map(|(_, number)| sizes.get(&number)).sum()
    }

    /// The reason for refusing writes, other than a failed flush.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.is_refusing(LOST) {
            let lost = self.lost.lock().first().map(|number| sink::name(self.writer, *number)).unwrap_or_default();
            return Some(format!(
                "{lost} was removed or truncated by another program; a checkpoint has to be made first"
            ));
        }
        self.is_refusing(SHORT).then(|| "no space left in the store".to_owned())
    }

    /// Adjusts the reserve to the log, and notes whether the disk has room.
    pub(super) fn keep_room(&self) {
        let mut reserve = self.reserve.lock();
        let Some(reserve) = &mut *reserve else { return };
        let needed = self.needed_room();
        let was_short = self.is_refusing(SHORT);
        if !was_short && reserve.covers(needed) {
            return;
        }
        match reserve.cover(needed) {
            Err(_) => self.run_short(),
            Ok(()) if was_short && reserve.has_margin() && self.problem.lock().is_none() => {
                self.refusing.fetch_and(!SHORT, Ordering::SeqCst);
                if self.is_room_to_be_logged() {
                    tracing::info!("the store has room again: writes are accepted");
                }
            }
            Ok(()) => {}
        }
    }

    /// Bytes that the next checkpoint may write.
    fn needed_room(&self) -> u64 {
        let kept = self.kept_bytes.load(Ordering::Relaxed);
        let covered = kept.min(COVERED_BYTES_MAX);
        if self.relies_on_tails() {
            return covered;
        }
        // The sums known a moment ago, and the bytes that may have changed since.
        let resident = self.resident_bytes.load(Ordering::Relaxed).saturating_add(kept);
        let dirty = self.dirty_bytes.load(Ordering::Relaxed).max(resident.min(kept.saturating_mul(WHOLE_FACTOR)));
        covered.max(dirty.min(DIRTY_BYTES_MAX))
    }

    /// Whether the last checkpoint found room for no more than a tail of the log's entries. Then room is kept only for
    /// a tail.
    pub fn relies_on_tails(&self) -> bool {
        self.tails_only.load(Ordering::SeqCst)
    }

    /// Says so. True where that is new.
    pub fn rely_on_tails(&self, on: bool) -> bool {
        let is_new = self.tails_only.swap(on, Ordering::SeqCst) != on;
        self.keep_room();
        is_new
    }

    /// Gives up as much of the reserve as a write of `bytes` needs. False: nothing is left to give up.
    pub fn make_room(&self, bytes: u64) -> bool {
        let given = match &mut *self.reserve.lock() {
            Some(reserve) => reserve.give_up(bytes + SLACK_BYTES),
            None => return false,
        };
        self.run_short();
        given
    }

    fn run_short(&self) {
        if self.refusing.fetch_or(SHORT, Ordering::SeqCst) & SHORT == 0 {
            if self.is_room_to_be_logged() {
                tracing::error!("the store is full: writes are refused until it has room, reads go on");
            }
            self.wake_tidy();
        }
    }

    /// A store that is full by turns, as checkpoints make room that writes use up, must not fill the log of the process.
    fn is_room_to_be_logged(&self) -> bool {
        let mut logged = self.room_logged.lock();
        // The end of what was logged is logged, however soon it comes.
        let is_end =
            !self.is_refusing(SHORT) && logged.is_some_and(|_| self.room_end_is_due.swap(false, Ordering::SeqCst));
        let is_due = logged.is_none_or(|logged| logged.us() >= ROOM_LOGGED_EVERY_US);
        if is_due {
            *logged = Some(Stopwatch::start());
            self.room_end_is_due.store(self.is_refusing(SHORT), Ordering::SeqCst);
        }
        is_due || is_end
    }

    /// Sets the bytes that checkpoints would write now, so that room is kept for them, and the bytes of all databases
    /// in memory.
    pub fn expect_checkpoints(&self, dirty_bytes: u64, resident_bytes: u64) {
        self.dirty_bytes.store(dirty_bytes, Ordering::Relaxed);
        self.resident_bytes.store(resident_bytes, Ordering::Relaxed);
        self.keep_room();
    }

    fn wake_tidy(&self) {
        // A thread that has just looked holds the lock until it waits.
        drop(self.ledger.lock());
        self.untidy.notify_one();
    }

    /// Notes that file `number` no longer holds what was written to it.
    pub(super) fn lose(&self, number: u64) {
        if !self.ledger.lock().has(self.writer, number) {
            // Nothing was in it yet.
            return;
        }
        let mut lost = self.lost.lock();
        if lost.contains(&number) {
            return;
        }
        lost.push(number);
        self.refusing.fetch_or(LOST, Ordering::SeqCst);
        tracing::error!(
            "{} was removed or truncated by another program: writes are refused until checkpoints hold its entries",
            sink::name(self.writer, number)
        );
        self.wake_tidy();
    }

    /// Looks for needed files that are gone.
    pub(super) fn look_for_lost(&self, output: &mut Output) {
        let known = self.ledger.lock().of(self.writer);
        for number in known {
            if !output.sink.is_there(self.writer, number) {
                self.lose(number);
            }
        }
    }

    /// Once no lost file is needed any more, all that was written is durable.
    pub(super) fn recover_from_loss(&self) {
        if !self.is_refusing(LOST) {
            return;
        }
        let output = self.output.lock();
        {
            let mut lost = self.lost.lock();
            let ledger = self.ledger.lock();
            lost.retain(|number| ledger.has(self.writer, *number));
            if !lost.is_empty() {
                return;
            }
            self.refusing.fetch_and(!LOST, Ordering::SeqCst);
            self.flushed.store(output.synced, Ordering::SeqCst);
        }
        drop(output);
        tracing::info!("checkpoints hold the entries of the lost log file: writes are accepted again");
        self.wake_all();
    }

    /// Whether a failed write is worth another attempt at once, after what was done about it.
    pub(super) fn relieve(&self, output: &Output, error: &StoreError, bytes: u64) -> bool {
        match error {
            StoreError::Full { .. } => self.make_room(bytes),
            StoreError::LogLost { .. } => {
                if let Some(number) = output.failed {
                    self.lose(number);
                }
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use crate::log::recovery;
    use crate::log::sink::Files;
    use crate::log::testing::{MemorySink, NOW_MS, Writer, identity, numbers, open};
    use crate::log::{Log, Window};

    fn in_folder(folder: &Path) -> Arc<Log> {
        Log::over(Box::new(Files::new(folder)), 1, || NOW_MS).unwrap().0
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let Ok(writers) = fs::read_dir(folder.join("log")) else { return Vec::new() };
        let mut all: Vec<PathBuf> = writers
            .flat_map(|writer| fs::read_dir(writer.unwrap().path()).unwrap())
            .map(|file| file.unwrap().path())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn failures_leave_no_files_behind() {
        let sink = MemorySink::default();
        sink.0.lock().file_bytes = 1 << 20;
        let log = open(&sink);
        let writer = Writer::new(&log, "a");
        writer.write();
        log.flush().unwrap();
        sink.0.lock().fails = true;
        writer.write();
        for _ in 0..100 {
            log.flush().unwrap_err();
        }
        assert_eq!(sink.0.lock().files.len(), 1, "the one with a frame stays");
        sink.0.lock().fails = false;
        log.flush().unwrap();
        let names: Vec<_> = sink.0.lock().files.keys().copied().collect();
        assert_eq!(names, [(1, 1), (1, 2)]);
        let recovered = recovery::take_over(&mut sink.clone()).unwrap().0.take(&identity("a"));
        assert_eq!((numbers(&recovered), recovered.damage), (vec![1, 2], None));
    }

    /// However a file goes, nothing that is written afterwards counts as durable before a checkpoint holds what it held.
    #[test]
    fn the_loss_of_a_file_is_noticed_before_more_is_acknowledged() {
        let remove = |path: &Path| fs::remove_file(path).unwrap();
        let truncate = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
        let remove_folder = |path: &Path| fs::remove_dir_all(path.parent().unwrap()).unwrap();
        for harm in [&remove as &dyn Fn(&Path), &truncate, &remove_folder] {
            let folder = tempfile::tempdir().unwrap();
            let log = in_folder(folder.path());
            let (a, b) = (Writer::new(&log, "a"), Writer::new(&log, "b"));
            a.journal.declare(Window::Zero);
            // More than one block, which would be written again.
            (0..200).for_each(|_| _ = a.write());
            b.write();
            log.flush().unwrap();
            let before = log.flushed();
            harm(&files(folder.path())[0]);
            let after = a.write();
            log.flush().unwrap();
            assert_eq!(log.flushed(), before, "it is not acknowledged");
            assert!(log.written.load(super::Ordering::SeqCst) >= after, "a checkpoint need not wait for itself");
            let refusal = a.journal.admit().unwrap_err().to_string();
            assert!(refusal.starts_with("MISCONF") && refusal.contains("removed or truncated"), "{refusal}");
            assert!(log.needs_checkpoints() && log.problem().is_some());
            // One checkpoint is not enough, as the file had writes of two databases.
            log.settled(&identity("a"), 201);
            log.remove_settled().unwrap();
            assert_eq!(log.flushed(), before);
            log.settled(&identity("b"), 1);
            log.remove_settled().unwrap();
            assert_eq!((log.flushed(), log.needs_checkpoints(), log.problem()), (log.end(), false, None));
            a.journal.admit().unwrap();
            a.write();
            log.flush().unwrap();
            assert_eq!(log.flushed(), log.end());
            drop(log);
            let recovered = recovery::take_over(&mut Files::new(folder.path())).unwrap().0.take(&identity("a"));
            assert!(recovered.damage.is_none());
            assert_eq!(numbers(&recovered).last(), Some(&202));
        }
    }

    #[test]
    fn a_file_that_is_written_no_more_is_missed_too() {
        let folder = tempfile::tempdir().unwrap();
        let log = in_folder(folder.path());
        let a = Writer::new(&log, "a");
        a.write();
        log.flush().unwrap();
        log.output.lock().file = None;
        a.write();
        log.flush().unwrap();
        assert!(!log.needs_checkpoints());
        fs::remove_file(&files(folder.path())[0]).unwrap();
        log.remove_settled().unwrap();
        assert!(log.needs_checkpoints());
        log.settled(&identity("a"), 2);
        log.remove_settled().unwrap();
        assert!(!log.needs_checkpoints());
        assert!(files(folder.path()).is_empty(), "while room is needed the last file goes too");
    }
}
