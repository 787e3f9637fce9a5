//! The log's files on the simulated disk: the twin of the engine's `log::sink::Files`, call for call.
//!
//! A removed file may come back until the next process settles, unless its name is durable again for another file: a
//! name belongs to one file, and the sync of the folder that makes the new one durable removes the old one.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use dormouse_storage::log::sink::{Found, Remover, Sink};
use dormouse_storage::store::encryption::LogKeys;
use dormouse_storage::store::{Store, StoreError};

use crate::disk::{Disk, State, Verdict};
use crate::file::LogFile;

/// Zeros written ahead of the end of a file, in bytes.
const AHEAD_BYTES: usize = 4096;

/// One process's handle on the log's files.
pub struct SimulatedFiles {
    disk: Arc<Disk>,
    process: u64,
    current: Option<Current>,
    keys: Option<LogKeys>,
}

struct Current {
    place: (u64, u64),
    /// The head of a file that has no content yet.
    unwritten: Vec<u8>,
    at: usize,
    filled: usize,
}

impl SimulatedFiles {
    /// Approximate size of one file, in bytes.
    pub const BYTES: u64 = 6000;

    pub fn new(disk: &Arc<Disk>) -> Self {
        Self { disk: Arc::clone(disk), process: disk.with(|state| state.process), current: None, keys: None }
    }

    /// The same for a store that may be encrypted.
    pub fn of(disk: &Arc<Disk>, store: &Store) -> Self {
        Self { keys: LogKeys::of(store), ..Self::new(disk) }
    }

    /// Does a request to the disk according to its fate.
    fn act<R>(
        &self,
        action: &'static str,
        place: (u64, u64),
        act: impl FnOnce(&mut State, Verdict) -> Option<R>,
    ) -> Result<R, StoreError> {
        let name = format!("log/{:016x}/{:012}", place.0, place.1);
        self.disk.with(|state| {
            let verdict = if state.process == self.process { state.log_verdict() } else { Verdict::Lost };
            if verdict != Verdict::Done {
                state.trace.note(format!("  {action} log file {}: {verdict:?}", place.1));
            }
            let done = act(state, verdict);
            match (done, verdict) {
                (Some(done), Verdict::Done) => Ok(done),
                (None, Verdict::Done) => Err(StoreError::Missing { name }),
                (_, Verdict::Full) => Err(StoreError::Full { name }),
                _ => Err(StoreError::Log { action, name, source: io::Error::from(io::ErrorKind::Other) }),
            }
        })
    }
}

impl Sink for SimulatedFiles {
    fn keys(&self) -> Option<LogKeys> {
        self.keys.clone()
    }

    fn found(&mut self) -> Result<Vec<Found>, StoreError> {
        let places: Vec<(u64, u64)> = self.disk.with(|state| state.logs.keys().copied().collect());
        let mut found: Vec<Found> = Vec::new();
        for (writer, number) in places {
            match found.last_mut() {
                Some(last) if last.writer == writer => last.numbers.push(number),
                _ => found.push(Found { writer, numbers: vec![number] }),
            }
        }
        Ok(found)
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.disk.with(|state| {
            state.removed_logs.clear();
            state.logs.values_mut().for_each(|file| file.has_name = true);
        });
        Ok(())
    }

    fn read(&mut self, writer: u64, number: u64) -> Result<Bytes, StoreError> {
        let place = (writer, number);
        let bytes = self.disk.with(|state| state.logs.get(&place).map(|file| Bytes::from(file.seen.clone())));
        bytes.ok_or_else(|| StoreError::Missing { name: format!("log/{writer:016x}/{number:012}") })
    }

    fn begin(&mut self, writer: u64, number: u64, head: &[u8]) -> Result<(), StoreError> {
        self.current = None;
        let place = (writer, number);
        self.act("begin", place, |state, verdict| {
            if matches!(verdict, Verdict::Full | Verdict::Lost | Verdict::Crash { done: false }) {
                return None;
            }
            let is_new = !state.logs.contains_key(&place);
            assert!(is_new, "a log file is begun twice");
            // If the answer is lost, the name was not synced.
            let has_name = verdict == Verdict::Done;
            state.logs.insert(place, LogFile { has_name, ..LogFile::default() });
            Some(())
        })?;
        self.current = Some(Current { place, unwritten: head.to_vec(), at: 0, filled: 0 });
        Ok(())
    }

    fn append(&mut self, frame: &[&[u8]]) -> Result<(), StoreError> {
        let Some(mut current) = self.current.take() else {
            return Err(StoreError::LogFailed("no file was begun".into()));
        };
        let frame = [std::mem::take(&mut current.unwritten), frame.concat()].concat();
        self.act("append to", current.place, |state, verdict| {
            let State { logs, chance, .. } = state;
            let file = logs.get_mut(&current.place)?;
            // Without space, or at death, part of it is written.
            let written = match verdict {
                Verdict::Lost if chance.permille(500) => return None,
                Verdict::Full | Verdict::Crash { done: false } => chance.below(frame.len() as u64) as usize,
                _ => frame.len(),
            };
            let end = current.at + written;
            if file.seen.len() < end {
                file.seen.resize(end, 0);
            }
            file.seen[current.at..end].copy_from_slice(&frame[..written]);
            if written < frame.len() {
                return None;
            }
            current.at = end;
            // Even without room for zeros, frames may have room.
            if current.at > current.filled && chance.permille(800) {
                current.filled = current.at + AHEAD_BYTES;
                file.seen.resize(current.filled, 0);
            }
            match verdict {
                Verdict::Done => file.sync(),
                Verdict::Crash { .. } => {}
                _ => file.fail_sync(chance),
            }
            Some(())
        })?;
        self.current = Some(current);
        Ok(())
    }

    fn cut(&mut self, writer: u64, number: u64, durable: u64, length: u64) -> Result<(), StoreError> {
        let place = (writer, number);
        self.act("cut", place, |state, verdict| {
            let file = state.logs.get_mut(&place)?;
            if verdict == Verdict::Done {
                file.seen.truncate(length as usize);
                let rewritten = &file.seen[(durable as usize).min(file.seen.len())..];
                let kept = &file.durable[..(durable as usize).min(file.durable.len())];
                *file = LogFile {
                    durable: [kept, rewritten].concat(),
                    seen: std::mem::take(&mut file.seen),
                    lost: Vec::new(),
                    has_name: true,
                };
            }
            Some(())
        })
    }

    fn reader(&self) -> Box<dyn Sink> {
        Box::new(Self { disk: Arc::clone(&self.disk), process: self.process, current: None, keys: self.keys.clone() })
    }

    fn remover(&self) -> Remover {
        let files = Self { disk: Arc::clone(&self.disk), process: self.process, current: None, keys: None };
        Box::new(move |places| {
            places.iter().try_for_each(|place| {
                files.act("remove", *place, |state, verdict| {
                    if matches!(verdict, Verdict::Done | Verdict::Unanswered | Verdict::Crash { done: true })
                        && let Some(file) = state.logs.remove(place)
                        && file.has_name
                    {
                        state.removed_logs.insert(*place, file);
                    }
                    Some(())
                })
            })
        })
    }

    fn is_sealed(&mut self, _: u64, _: u64) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn file_bytes(&self) -> u64 {
        Self::BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use crate::disk::Rates;

    const PLACE: (u64, u64) = (1, 1);

    /// Returns a disk on which a file was written and then removed, and nothing was synced since.
    fn removed(seed: u64) -> (Arc<Disk>, SimulatedFiles) {
        let disk = Disk::new(Chance::new(seed), Rates::default(), true, false);
        let mut files = SimulatedFiles::new(&disk);
        files.begin(PLACE.0, PLACE.1, b"first").unwrap();
        files.append(&[b"frame"]).unwrap();
        files.remover()(&[PLACE]).unwrap();
        (disk, files)
    }

    fn found(disk: &Arc<Disk>) -> Option<Bytes> {
        SimulatedFiles::new(disk).read(PLACE.0, PLACE.1).ok()
    }

    #[test]
    fn a_removed_file_does_not_take_the_place_of_a_new_one_of_its_name() {
        for seed in 0..64 {
            let (disk, mut files) = removed(seed);
            files.begin(PLACE.0, PLACE.1, b"second").unwrap();
            files.append(&[b"frame"]).unwrap();
            disk.cut_power();
            assert!(found(&disk).unwrap().starts_with(b"secondframe"), "seed {seed}");
        }
    }

    #[test]
    fn a_removed_file_may_come_back_until_its_name_is_durable_again() {
        let (mut first, mut none) = (0, 0);
        for seed in 0..64 {
            let (disk, files) = removed(seed);
            // The file was begun, but the folder could not be synced. So the file is removed again.
            disk.with(|state| state.logs.insert(PLACE, LogFile::default()));
            files.remover()(&[PLACE]).unwrap();
            disk.cut_power();
            match found(&disk) {
                Some(bytes) => {
                    assert!(bytes.starts_with(b"firstframe"), "seed {seed}");
                    first += 1;
                }
                None => none += 1,
            }
        }
        assert!(first > 0 && none > 0, "{first}, {none}");
    }
}
