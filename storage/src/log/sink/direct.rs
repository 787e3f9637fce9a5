//! A file that grows at its end, written past the system's page cache.
//!
//! The cache would copy each frame into fresh pages that are read only after a crash: more work than all else that the
//! log does. With `O_DIRECT` the disk takes the bytes from this buffer instead. Such writes begin and end at blocks, so
//! the last block is kept as far as it is filled and written again with what follows; zeros fill its rest. A file
//! system that refuses gets the same writes through its cache.
//!
//! A large frame is written from the buffer in which it has gathered instead, if its bytes are aligned ([`Gathered`]).
//!
//! Zeros are written ahead of the end, so that most syncs change no metadata: a third faster. They are no frame, so they
//! end the file for a reader.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
#[cfg(target_os = "linux")]
use rustix::io::Errno;

use crate::log::gathered::{BLOCK, Gathered};

/// Bytes of one write from this buffer, at most.
const BUFFER: usize = 1 << 20;
/// Zeros ahead of the end: at least, at most, and as a multiple of what was appended.
const AHEAD: (usize, usize) = (64 << 10, 512 << 10);
const AHEAD_TIMES: usize = 8;

/// Invariant: the file holds all that was appended before `at`; the held bytes go there.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    /// [`BUFFER`] bytes at `start`, where a block begins.
    memory: Box<[u8]>,
    start: usize,
    held: usize,
    at: u64,
    /// The end of the zeros ahead.
    filled: u64,
    /// The length that it had when it was last known to be whole.
    whole: u64,
}

impl DirectFile {
    /// Creates the file, with nothing in it; `head` is written with what is appended first.
    ///
    /// # Errors
    /// When it exists, or cannot be created.
    pub fn create(path: &Path, head: &[u8]) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        // If the system does not know it or refuses, the cache is used.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::DIRECT);
        let memory = vec![0; BUFFER + BLOCK].into_boxed_slice();
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        let mut made = Self { file, memory, start, held: 0, at: 0, filled: 0, whole: 0 };
        made.buffer()[..head.len()].copy_from_slice(head);
        made.held = head.len();
        Ok(made)
    }

    /// Appends the parts, one after the other, and makes all of the file durable.
    ///
    /// # Errors
    /// When the system refuses: any part of the data may have been written.
    pub fn append(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let mut appended = 0;
        for part in parts {
            let mut rest = *part;
            appended += rest.len();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(BUFFER - self.held));
                let held = self.held;
                self.buffer()[held..held + now.len()].copy_from_slice(now);
                self.held += now.len();
                rest = later;
                if self.held == BUFFER {
                    self.write(BUFFER)?;
                    self.at += BUFFER as u64;
                    self.held = 0;
                }
            }
        }
        self.write_end(appended)?;
        self.file.sync_data()
    }

    /// Appends a frame, without a copy of its entries if possible.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_gathered(&mut self, head: &[u8], entries: &mut Gathered, sum: &[u8]) -> io::Result<()> {
        if entries.len() < AHEAD.1 {
            return self.append(&[head, entries.entries(), sum]);
        }
        let held = &self.memory[self.start..self.start + self.held];
        let written = entries.in_blocks([held, head], sum, |bytes, length| {
            let whole = length / BLOCK * BLOCK;
            write_at(&self.file, bytes, self.at).map(|()| (whole, bytes[whole..length].to_vec()))
        });
        let Some(written) = written else { return self.append(&[head, entries.entries(), sum]) };
        let (whole, rest) = written?;
        self.buffer()[..rest.len()].copy_from_slice(&rest);
        self.held = rest.len();
        self.at += whole as u64;
        self.file.sync_data()
    }

    /// Describes how another program has destroyed what was appended to the file. To be called before and after each
    /// write: one that reaches past the end of a truncated file makes it long again.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn loss(&self) -> io::Result<Option<&'static str>> {
        let found = self.file.metadata()?;
        Ok(if found.nlink() == 0 {
            Some("removed")
        } else if found.len() < self.whole {
            Some("truncated")
        } else {
            None
        })
    }

    /// Notes that all that was appended is in the file.
    pub fn is_whole(&mut self) {
        self.whole = self.at + self.held as u64;
    }

    /// Writes the held bytes and keeps those that fill no whole block.
    fn write_end(&mut self, appended: usize) -> io::Result<()> {
        let needed = self.held.next_multiple_of(BLOCK);
        if self.at + needed as u64 > self.filled && appended < AHEAD.1 {
            let ahead = (appended * AHEAD_TIMES).clamp(AHEAD.0, AHEAD.1);
            let length = (needed + ahead).next_multiple_of(BLOCK).min(BUFFER);
            match self.write(length) {
                Ok(()) => self.filled = self.at + length as u64,
                // A disk without room for zeros may have room for frames.
                Err(_) if needed < length => self.write(needed)?,
                Err(error) => return Err(error),
            }
        } else {
            self.write(needed)?;
        }
        let (whole, held) = (self.held / BLOCK * BLOCK, self.held);
        self.buffer().copy_within(whole..held, 0);
        self.at += whole as u64;
        self.held = held - whole;
        Ok(())
    }

    /// Writes what is held, and zeros to make it `length`, a multiple of a block.
    fn write(&mut self, length: usize) -> io::Result<()> {
        let (start, held) = (self.start, self.held);
        self.buffer()[held..length].fill(0);
        write_at(&self.file, &self.memory[start..start + length], self.at)
    }

    fn buffer(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + BUFFER]
    }
}

/// All bytes of a file that was written like this. The cache has none of them, and would only copy them.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> io::Result<Bytes> {
    #[cfg(target_os = "linux")]
    if let Some(bytes) = read_direct(path)? {
        return Ok(bytes);
    }
    std::fs::read(path).map(Bytes::from)
}

/// `None`: the system does not read it past its cache, or not all of it at once.
#[cfg(target_os = "linux")]
fn read_direct(path: &Path) -> io::Result<Option<Bytes>> {
    let mut options = OpenOptions::new();
    let opened = options.read(true).custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        Err(_) => return Ok(None),
        Ok(file) => file,
    };
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    // A block more than it has, so that the end of the file shows.
    let room = (length / BLOCK + 1) * BLOCK;
    // Begins at a block. Preparing it page by page would take longer than the read itself, so large pages are asked for.
    let Ok(mut memory) = memmap2::MmapMut::map_anon(room) else { return Ok(None) };
    let _ = memory.advise(memmap2::Advice::HugePage);
    match file.read_at(&mut memory, 0) {
        Ok(read) if read == length => Ok(Some(Bytes::from_owner(memory).slice(..length))),
        _ => Ok(None),
    }
}

/// Writes blocks, through the system's cache where it will not have them otherwise.
fn write_at(file: &File, blocks: &[u8], at: u64) -> io::Result<()> {
    match file.write_all_at(blocks, at) {
        #[cfg(target_os = "linux")]
        Err(error)
            if [Errno::INVAL, Errno::OPNOTSUPP].iter().any(|one| error.raw_os_error() == Some(one.raw_os_error())) =>
        {
            rustix::fs::fcntl_setfl(file, rustix::fs::OFlags::empty())?;
            file.write_all_at(blocks, at)
        }
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = DirectFile::create(&path, b"head").unwrap();
        let mut whole = b"head".to_vec();
        for piece in pieces {
            let (first, second) = piece.split_at(piece.len() / 3);
            file.append(&[first, second]).unwrap();
            whole.extend_from_slice(piece);
            // A crash may come after each.
            let found = std::fs::read(&path).unwrap();
            assert_eq!(read(&path).unwrap(), found);
            assert_eq!(found[..whole.len()], whole);
            assert!(found[whole.len()..].iter().all(|byte| *byte == 0));
        }
        (whole, std::fs::read(&path).unwrap())
    }

    #[test]
    fn what_is_appended_is_there() {
        let bytes: Vec<u8> = (0..5 * BUFFER / 2).map(|at| (at % 251) as u8 + 1).collect();
        let lengths = [1, BLOCK - 5, 1, BLOCK, 5000, AHEAD.1, BUFFER - 1, BUFFER, BUFFER + 1, 3, 5 * BUFFER / 2, 100];
        written(&lengths.map(|length| &bytes[..length]));
        for first in [BLOCK - 5, BLOCK - 4, BLOCK - 3, BUFFER - 4, BUFFER - 5, BUFFER - 3] {
            written(&[&bytes[..first], &bytes[..10], &bytes[..10]]);
        }
    }

    #[test]
    fn frames_are_written_from_where_they_gathered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = DirectFile::create(&path, b"head").unwrap();
        let mut whole = b"head".to_vec();
        let mut spare = Vec::with_capacity(4 << 20);
        let lengths = [AHEAD.1, BUFFER, 2 << 20, 100, AHEAD.1 + BLOCK, 3 << 20, AHEAD.1 - 1, AHEAD.1 + 1];
        for (n, length) in (0..).zip(lengths.iter().cycle().take(24)) {
            // Every third guess is wrong.
            let mut gathered = Gathered::begin(spare, file.held + 5 + usize::from(n % 3 == 2));
            gathered.end().extend(std::iter::repeat_n(n + 1, *length));
            whole.extend_from_slice(b"begin");
            whole.extend_from_slice(gathered.entries());
            whole.extend_from_slice(b"end");
            file.append_gathered(b"begin", &mut gathered, b"end").unwrap();
            let found = std::fs::read(&path).unwrap();
            assert!(found[..whole.len()] == whole, "frame {n}");
            assert!(found[whole.len()..].iter().all(|byte| *byte == 0));
            assert_eq!(gathered.len(), *length);
            spare = gathered.into_spare();
        }
    }

    #[test]
    fn zeros_go_ahead_of_small_appends() {
        let (whole, found) = written(&[b"small"]);
        assert!(found.len() >= whole.len() + AHEAD.0);
        let piece = [7; 100];
        let (_, more) = written(&[&piece[..]; 100]);
        assert_eq!(more.len(), (AHEAD.0 + BLOCK), "they are used before there are more");
    }
}
