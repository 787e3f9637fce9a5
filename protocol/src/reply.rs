use std::fmt;
use std::sync::Arc;

use crate::double::format_double;
use crate::integer::{integer_len, write_integer};
use crate::pace;

/// The version of the protocol that a client asked for with `HELLO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    #[default]
    Resp2,
    Resp3,
}

/// Decides how much memory replies may take.
pub trait Budget: fmt::Debug + Send + Sync {
    /// Grants `bytes`.
    ///
    /// # Errors
    /// The name of the limit that the bytes would exceed.
    fn take(&self, bytes: usize) -> Result<(), &'static str>;

    /// Grants `bytes` that are optional: the caller can do with less, so a failure is not counted as a refusal.
    ///
    /// # Errors
    /// The name of the limit that the bytes would exceed.
    fn take_if_free(&self, bytes: usize) -> Result<(), &'static str>;

    /// Takes back granted bytes.
    fn give(&self, bytes: usize);

    /// Grants `bytes` that a command needs while it runs.
    ///
    /// # Errors
    /// The name of the limit that the bytes would exceed.
    fn take_work(&self, bytes: usize) -> Result<(), &'static str>;

    /// Takes back bytes granted for work.
    fn give_work(&self, bytes: usize);
}

/// Buffers up to this size are not charged: a worker keeps one of this size for all of its connections.
const FREE_BYTES: usize = 256 << 10;

/// The longest header: a kind, the digits of a length, and the end of a line.
const HEADER_BYTES_MAX: usize = 23;

/// More than a bulk string of an integer takes.
const TOGETHER_BYTES: usize = 32;

/// Memory for work is requested in steps of this many bytes.
const WORK_BYTES: usize = 256 << 10;

/// A buffer above this size grows by a quarter at a time, not to twice its size.
const DOUBLED_BYTES: usize = 1 << 20;

/// Writes replies to a buffer. Types that RESP2 lacks are written as Redis writes them there: a map as an array of
/// twice the length, a double as a bulk string.
///
/// Aggregates are headers: after `array(n)`, the caller writes n replies.
///
/// A reply that exceeds its [`Budget`] is not written any further. [`Reply::settle`] replaces it by an error.
#[derive(Debug, Default)]
pub struct Reply {
    pub buffer: Vec<u8>,
    version: Version,
    grant: Grant,
    /// The limit that refused the current reply.
    refused: Option<&'static str>,
    /// Bytes that the running command needs for its work.
    work_bytes: usize,
    /// Above this size of the buffer, a reply that can be written elsewhere is not written here.
    inline_max: Option<usize>,
    can_be_deferred: bool,
    is_deferred: bool,
}

/// Bytes granted by a budget; dropping them gives them back.
#[derive(Debug, Default)]
struct Grant {
    budget: Option<Arc<dyn Budget>>,
    bytes: usize,
    /// Bytes for the work of the running command.
    work_bytes: usize,
}

impl Grant {
    fn give_back(&mut self) {
        self.end_work();
        if self.bytes > 0
            && let Some(budget) = &self.budget
        {
            budget.give(std::mem::take(&mut self.bytes));
        }
    }

    fn end_work(&mut self) {
        if self.work_bytes > 0
            && let Some(budget) = &self.budget
        {
            budget.give_work(std::mem::take(&mut self.work_bytes));
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Reply {
    pub fn new(version: Version) -> Self {
        Self::within(version, None)
    }

    /// A buffer whose size `budget` decides.
    pub fn within(version: Version, budget: Option<Arc<dyn Budget>>) -> Self {
        Self { version, grant: Grant { budget, bytes: 0, work_bytes: 0 }, ..Self::default() }
    }

    /// An empty reply within the same budget.
    pub fn another(&self) -> Self {
        Self::within(self.version, self.grant.budget.clone())
    }

    /// Whether a reply that becomes too large for this buffer can be written elsewhere.
    pub fn is_inline(&self) -> bool {
        self.inline_max.is_some()
    }

    /// Takes the current reply back, to be written elsewhere: see [`Self::was_deferred`].
    pub fn defer_now(&mut self) {
        self.is_deferred = true;
    }

    /// Sets how large the buffer may become while it is written here: see [`Self::defer`].
    pub fn set_inline_max(&mut self, bytes: Option<usize>) {
        self.inline_max = bytes;
    }

    /// Sets whether the next command can run again elsewhere if its reply becomes too large for this buffer.
    #[inline]
    pub fn defer(&mut self, can_be_deferred: bool) {
        self.can_be_deferred = can_be_deferred;
    }

    /// Takes back the reply that begins at `start` if it is to be written elsewhere; returns whether it is.
    #[inline]
    pub fn was_deferred(&mut self, start: usize) -> bool {
        if self.is_deferred {
            self.truncate(start);
            self.is_deferred = false;
            return true;
        }
        false
    }

    /// Whether nothing more of the current reply is written: it is to be taken back or too large, or its command was told to
    /// end.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.is_deferred || self.refused.is_some() || pace::is_ended()
    }

    /// Whether the current reply is to be taken back.
    #[inline]
    pub fn is_deferred(&self) -> bool {
        self.is_deferred
    }

    /// Requests `bytes` more for the command's work, until [`Self::end_work`]. A small amount is free.
    ///
    /// # Errors
    /// The name of the limit that the bytes would exceed.
    #[inline]
    pub fn work(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.work_bytes = self.work_bytes.saturating_add(bytes);
        if self.work_bytes <= self.grant.work_bytes.saturating_add(WORK_BYTES) { Ok(()) } else { self.take_work() }
    }

    #[cold]
    fn take_work(&mut self) -> Result<(), &'static str> {
        if let Some(budget) = &self.grant.budget {
            let more = self.work_bytes - self.grant.work_bytes;
            budget.take_work(more)?;
            self.grant.work_bytes += more;
        }
        Ok(())
    }

    /// Ends the command's work.
    #[inline]
    pub fn end_work(&mut self) {
        if self.work_bytes > 0 {
            self.work_bytes = 0;
            self.grant.end_work();
        }
    }

    /// Takes the buffer out; no budget is charged for it from then on.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        self.grant.give_back();
        std::mem::take(&mut self.buffer)
    }

    /// Bytes charged to a budget.
    pub fn granted(&self) -> usize {
        self.grant.bytes
    }

    /// Ends the reply that begins at `start`: an error replaces a refused one.
    #[inline]
    pub fn settle(&mut self, start: usize) {
        if self.refused.is_some() {
            self.refuse(start);
        }
    }

    #[cold]
    fn refuse(&mut self, start: usize) {
        if let Some(limit) = self.refused.take() {
            self.truncate(start);
            self.error(&format!("OOM the reply is too large: it would exceed '{limit}'"));
        }
    }

    /// Appends the replies of `other`; takes its buffer over whole if that saves a copy.
    pub fn append(&mut self, mut other: Reply) {
        if !self.buffer.is_empty() || other.buffer.len() < FREE_BYTES {
            self.raw(&other.buffer);
            return;
        }
        std::mem::swap(&mut self.buffer, &mut other.buffer);
        std::mem::swap(&mut self.grant, &mut other.grant);
    }

    /// Whether there is room for `bytes` more, which are about to be written. If there is none, the reply is given up as by a
    /// write of them.
    pub fn has_room(&mut self, bytes: usize) -> bool {
        self.make_room(bytes)
    }

    /// Makes room for `bytes` more; false if the budget refuses.
    #[inline]
    fn make_room(&mut self, bytes: usize) -> bool {
        bytes <= self.buffer.capacity() - self.buffer.len() || self.grow(bytes)
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, bytes: usize) -> bool {
        if self.refused.is_some() {
            return false;
        }
        let (len, capacity) = (self.buffer.len(), self.buffer.capacity());
        let needed = len + bytes;
        if self.can_be_deferred && self.inline_max.is_some_and(|max| needed > max) {
            self.is_deferred = true;
        }
        if self.is_deferred {
            return false;
        }
        let roomy = needed.max(capacity + if capacity < DOUBLED_BYTES { capacity } else { capacity / 4 });
        let Some(budget) = self.grant.budget.as_ref().filter(|_| needed > FREE_BYTES) else {
            pace::make_room_exact(&mut self.buffer, roomy - len);
            return true;
        };
        // Less is enough when the limit is near.
        let more = |wanted: usize| wanted.saturating_sub(self.grant.bytes);
        let wanted = match budget.take_if_free(more(roomy)) {
            Ok(()) => roomy,
            Err(_) => match budget.take(more(needed)) {
                Ok(()) => needed,
                Err(limit) => {
                    self.refused = Some(limit);
                    return false;
                }
            },
        };
        let more = more(wanted);
        self.grant.bytes += more;
        pace::make_room_exact(&mut self.buffer, wanted - len);
        true
    }

    #[inline]
    pub fn version(&self) -> Version {
        self.version
    }

    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The number of bytes written; with `truncate`, a way to take a reply back.
    #[inline]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.buffer.truncate(len);
        self.refused = None;
    }

    #[inline]
    pub fn ok(&mut self) {
        self.put(b"+OK\r\n");
    }

    /// `+text`. The text must not hold line ends.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']), "a simple string is one line");
        self.line(b'+', text.as_bytes());
    }

    /// The same for a text with bytes that need not be UTF-8.
    pub fn simple_bytes(&mut self, text: &[u8]) {
        debug_assert!(!text.iter().any(|byte| matches!(byte, b'\r' | b'\n')), "a simple string is one line");
        self.line(b'+', text);
    }

    /// `-text`, including the code in front of the text (`ERR syntax error`). Line ends become spaces, since error
    /// texts repeat what clients sent.
    pub fn error(&mut self, text: &str) {
        self.error_bytes(text.as_bytes());
    }

    /// The same for a text with bytes that need not be UTF-8.
    pub fn error_bytes(&mut self, text: &[u8]) {
        let missing = (text.len() + 3).saturating_sub(self.buffer.capacity() - self.buffer.len());
        if missing > 0 {
            // An error may always be written. Its room, and some more, is charged with the next reply.
            self.buffer.reserve_exact(text.len() + 1024 + self.buffer.capacity() / 64);
        }
        self.buffer.push(b'-');
        let start = self.buffer.len();
        self.buffer.extend_from_slice(text);
        for byte in &mut self.buffer[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.buffer.extend_from_slice(b"\r\n");
    }

    #[inline]
    pub fn integer(&mut self, value: i64) {
        match value {
            0 => self.put(b":0\r\n"),
            1 => self.put(b":1\r\n"),
            _ => self.number(b':', value),
        }
    }

    /// A line of a kind with an integer.
    fn number(&mut self, kind: u8, value: i64) {
        let end = 1 + integer_len(value);
        self.put_together(|text| {
            text[0] = kind;
            write_integer(&mut text[1..end], value);
            text[end..end + 2].copy_from_slice(b"\r\n");
            end + 2
        });
    }

    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        // Header and end take at most 25 bytes.
        if !self.make_room(bytes.len() + 25) {
            return;
        }
        self.write_header(b'$', bytes.len());
        self.buffer.extend_from_slice(bytes);
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// A bulk string of exactly `bytes` bytes, which `write` appends to the buffer.
    pub fn bulk_with(&mut self, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.make_room(bytes.saturating_add(25)) {
            return;
        }
        self.write_header(b'$', bytes);
        let start = self.buffer.len();
        write(&mut self.buffer);
        debug_assert_eq!(self.buffer.len() - start, bytes, "a bulk string is as long as it says");
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// The decimal digits of an integer as a bulk string: a string value that is kept as an integer.
    pub fn bulk_integer(&mut self, value: i64) {
        let len = integer_len(value);
        self.put_together(|text| {
            let start = if len < 10 {
                text[..4].copy_from_slice(&[b'$', b'0' + len as u8, b'\r', b'\n']);
                4
            } else {
                text[..5].copy_from_slice(&[b'$', b'0' + (len / 10) as u8, b'0' + (len % 10) as u8, b'\r', b'\n']);
                5
            };
            let end = start + len;
            write_integer(&mut text[start..end], value);
            text[end..end + 2].copy_from_slice(b"\r\n");
            end + 2
        });
    }

    /// RESP2: a bulk string.
    pub fn double(&mut self, value: f64) {
        let text = format_double(value);
        match self.version {
            Version::Resp2 => self.bulk(&text),
            Version::Resp3 => self.line(b',', &text),
        }
    }

    /// A double whose decimal text is given. RESP2: a bulk string.
    pub fn double_text(&mut self, text: &str) {
        match self.version {
            Version::Resp2 => self.bulk(text.as_bytes()),
            Version::Resp3 => self.line(b',', text.as_bytes()),
        }
    }

    /// An integer beyond 64 bits, in decimal digits. RESP2: a bulk string.
    pub fn big_number(&mut self, digits: &str) {
        match self.version {
            Version::Resp2 => self.bulk(digits.as_bytes()),
            Version::Resp3 => self.line(b'(', digits.as_bytes()),
        }
    }

    /// Text to be shown verbatim; `format` is three letters, `txt` or `mkd`. RESP2: a bulk string.
    pub fn verbatim(&mut self, format: &str, text: &[u8]) {
        debug_assert_eq!(format.len(), 3, "a verbatim string's format is three letters");
        match self.version {
            Version::Resp2 => self.bulk(text),
            Version::Resp3 => {
                if !self.make_room(text.len() + 29) {
                    return;
                }
                self.header(b'=', text.len() + 4);
                self.buffer.extend_from_slice(format.as_bytes());
                self.buffer.push(b':');
                self.buffer.extend_from_slice(text);
                self.buffer.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The reply for a missing value.
    #[inline]
    pub fn null(&mut self) {
        self.by_version(b"$-1\r\n", b"_\r\n");
    }

    /// The null reply in place of an array.
    #[inline]
    pub fn null_array(&mut self) {
        self.by_version(b"*-1\r\n", b"_\r\n");
    }

    /// RESP2: 1 or 0.
    pub fn boolean(&mut self, value: bool) {
        match value {
            true => self.by_version(b":1\r\n", b"#t\r\n"),
            false => self.by_version(b":0\r\n", b"#f\r\n"),
        }
    }

    #[inline]
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// `pairs` keys, each followed by its value. RESP2: an array.
    pub fn map(&mut self, pairs: usize) {
        match self.version {
            Version::Resp2 => self.header(b'*', pairs * 2),
            Version::Resp3 => self.header(b'%', pairs),
        }
    }

    /// RESP2: an array.
    pub fn set(&mut self, len: usize) {
        self.header(if self.version == Version::Resp3 { b'~' } else { b'*' }, len);
    }

    /// An unsolicited message, such as a published one. RESP2: an array.
    pub fn push(&mut self, len: usize) {
        self.header(if self.version == Version::Resp3 { b'>' } else { b'*' }, len);
    }

    /// Inserts the header of an array before the bytes written since the buffer was `start` bytes long: `len` replies,
    /// which the caller could not count beforehand.
    pub fn array_since(&mut self, start: usize, len: usize) {
        let end = self.buffer.len();
        self.array(len);
        self.move_header(start, end);
    }

    /// As [`Self::array_since`], with the header of a set.
    pub fn set_since(&mut self, start: usize, len: usize) {
        let end = self.buffer.len();
        self.set(len);
        self.move_header(start, end);
    }

    /// As [`Self::array_since`], with the header of a map of `pairs` pairs.
    pub fn map_since(&mut self, start: usize, pairs: usize) {
        let end = self.buffer.len();
        self.map(pairs);
        self.move_header(start, end);
    }

    fn move_header(&mut self, start: usize, end: usize) {
        if self.refused.is_some() || self.is_deferred {
            return;
        }
        let header = self.buffer.len() - end;
        self.buffer[start..].rotate_right(header);
    }

    /// Bytes that are already encoded replies.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.put(bytes);
    }

    /// Appends a short text that `write` leaves at the start of an array, whose length it returns. The array is appended as a
    /// whole and cut: a copy of a length that varies is a call.
    #[inline]
    fn put_together(&mut self, write: impl FnOnce(&mut [u8; TOGETHER_BYTES]) -> usize) {
        if !self.make_room(TOGETHER_BYTES) {
            return;
        }
        let mut text = [0; TOGETHER_BYTES];
        let end = self.buffer.len() + write(&mut text);
        self.buffer.extend_from_slice(&text);
        self.buffer.truncate(end);
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if self.make_room(bytes.len()) {
            self.buffer.extend_from_slice(bytes);
        }
    }

    #[inline]
    fn by_version(&mut self, resp2: &[u8], resp3: &[u8]) {
        self.put(if self.version == Version::Resp3 { resp3 } else { resp2 });
    }

    #[inline]
    fn header(&mut self, kind: u8, len: usize) {
        if self.make_room(HEADER_BYTES_MAX) {
            self.write_header(kind, len);
        }
    }

    /// Writes a header, for which there is room.
    #[inline]
    fn write_header(&mut self, kind: u8, len: usize) {
        match len as u8 {
            digit if len < 10 => self.buffer.extend_from_slice(&[kind, b'0' + digit, b'\r', b'\n']),
            number if len < 100 => {
                self.buffer.extend_from_slice(&[kind, b'0' + number / 10, b'0' + number % 10, b'\r', b'\n']);
            }
            _ => self.line(kind, itoa::Buffer::new().format(len).as_bytes()),
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        if !self.make_room(text.len() + 3) {
            return;
        }
        self.buffer.push(kind);
        self.buffer.extend_from_slice(text);
        self.buffer.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests;
