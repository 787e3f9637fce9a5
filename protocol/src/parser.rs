//! The incremental request parser.
//!
//! A request is an array of bulk strings, `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`, or a line of words, `GET k\r\n` (see
//! [`inline`]). The parser is called again whenever the buffer has grown, with a buffer that still begins at the first
//! byte of the unfinished request, and continues where it stopped:
//!
//! 1. Between requests (`missing == 0`), the first byte tells the two kinds apart.
//! 2. A header (`*count` or `$length`) of up to three digits is read in one step. Anything else (more digits, a part of
//!    a header, a wrong one) takes the slow path, which searches for the line's end and remembers how far it has
//!    searched.
//! 3. An argument's bytes are skipped, never looked at. If some are missing, the parser remembers the length, so a 512
//!    MB argument in 16 KiB reads costs one comparison a read.
//! 4. After the last argument, the spans are the request.
//!
//! The parser does not check what Redis does not check: a header's line ends at its CR whatever the byte after it, and
//! the two bytes after an argument need not be CR LF. Every request that Redis accepts is accepted.
//!
//! [`inline`]: crate::inline

use crate::error::ProtocolError;
use crate::inline;
use crate::request::{Request, Span};

/// Limits of one client's requests, with Redis's numbers unless stated otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Arguments of one request: Redis's number before version 7. Room is made only for arguments that have arrived.
    pub args_max: u32,
    /// One argument (`proto-max-bulk-len`).
    pub bulk_bytes_max: u32,
    /// An inline request, or the line of a header.
    pub line_bytes_max: u32,
    /// One whole request with its headers (`client-query-buffer-limit`).
    pub request_bytes_max: u32,
    /// Until a client has authenticated, its requests are limited to 10 arguments of 16 KiB, which bounds the memory
    /// that strangers can occupy.
    pub authenticated: bool,
}

const ARGS_MAX: u32 = 1024 * 1024;
const UNAUTHENTICATED_ARGS_MAX: u32 = 10;
const UNAUTHENTICATED_BULK_BYTES_MAX: u32 = 16 * 1024;

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            args_max: ARGS_MAX,
            bulk_bytes_max: 512 * 1024 * 1024,
            line_bytes_max: 64 * 1024,
            request_bytes_max: 1024 * 1024 * 1024,
            authenticated: true,
        }
    }
}

impl RequestLimits {
    pub fn unauthenticated() -> Self {
        Self { authenticated: false, ..Self::default() }
    }

    #[inline]
    fn args_allowed(&self) -> u32 {
        if self.authenticated { self.args_max } else { self.args_max.min(UNAUTHENTICATED_ARGS_MAX) }
    }

    #[inline]
    fn bulk_bytes_allowed(&self) -> u32 {
        if self.authenticated { self.bulk_bytes_max } else { self.bulk_bytes_max.min(UNAUTHENTICATED_BULK_BYTES_MAX) }
    }
}

/// The item at the start of the buffer.
#[derive(Clone, Copy, Debug)]
pub enum Parsed<'a> {
    /// A request in the first `consumed` bytes. It may be empty (`*0`, a blank line): skip it.
    Complete { request: Request<'a>, consumed: usize },
    /// The beginning of a request, of which at least `needed` bytes are missing.
    Incomplete { needed: usize },
}

/// Finds the requests in the bytes of one connection.
///
/// Invariant: within a request (`missing > 0`), `spans` are its arguments so far, and `position` is the start of the
/// next header or, if `bulk` holds a length, of the next argument.
pub struct Parser {
    spans: Vec<Span>,
    /// The words of an inline request with quotes: their unquoted bytes are not in the buffer.
    unquoted: Vec<u8>,
    limits: RequestLimits,
    position: u32,
    /// The line that the parser stopped in does not end before this place in the buffer. Later lines begin after it, so
    /// it need not be reset before the request ends.
    searched: u32,
    /// Arguments still to come; zero between requests.
    missing: u32,
    /// The length of the argument at `position`, or [`NO_BULK`].
    bulk: u32,
}

const NO_BULK: u32 = u32::MAX;

/// How many spans an idle parser may keep: 64 bytes of heap.
const SPANS_IDLE: usize = 8;

/// How many spans a busy parser keeps from one request to the next.
const SPANS_BUSY: usize = 1024;

impl Parser {
    pub fn new(limits: RequestLimits) -> Self {
        Self { spans: Vec::new(), unquoted: Vec::new(), limits, position: 0, searched: 0, missing: 0, bulk: NO_BULK }
    }

    pub fn limits(&self) -> &RequestLimits {
        &self.limits
    }

    /// Sets the limits from the next header on: a client that has authenticated in a pipeline may use them at once.
    pub fn set_limits(&mut self, limits: RequestLimits) {
        self.limits = limits;
    }

    /// Whether a request has begun and not ended. Bytes of its first line alone do not count.
    pub fn is_within_request(&self) -> bool {
        self.missing > 0
    }

    /// Missing bytes of an unfinished argument, as its header announces, if `len` bytes of the request have arrived; 0
    /// between arguments.
    pub fn missing_bytes(&self, len: usize) -> usize {
        match (self.missing, self.bulk) {
            (0, _) | (_, NO_BULK) => 0,
            (_, length) => (self.position as usize + length as usize + 2).saturating_sub(len),
        }
    }

    /// Forgets the unfinished request: the next call begins at an earlier request, which was parsed before but not
    /// consumed.
    pub fn restart(&mut self) {
        self.missing = 0;
        self.searched = 0;
        self.bulk = NO_BULK;
    }

    /// Gives back the memory that a large request took. Call it when a connection falls idle; parsing an empty buffer
    /// does it too. An unfinished request is kept.
    pub fn rest(&mut self) {
        if self.missing == 0 {
            self.spans.clear();
            self.spans.shrink_to(SPANS_IDLE);
            self.unquoted = Vec::new();
        }
    }

    /// Memory beyond its own size, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.unquoted.capacity()
    }

    /// Reads one request. `buffer` begins at the first byte of the unfinished request in every call; after `Complete`
    /// the caller drops `consumed` bytes (or passes the rest of the buffer) and calls again.
    ///
    /// After an error the caller closes the connection; the parser is reset.
    #[inline]
    pub fn parse<'a>(&'a mut self, buffer: &'a [u8]) -> Result<Parsed<'a>, ProtocolError> {
        let mut at;
        let mut missing;
        if self.missing == 0 {
            match short_header(buffer, 0, b'*') {
                Some((count, after)) if count.wrapping_sub(1) < self.limits.args_allowed() => {
                    (at, missing) = (after, count);
                    self.begin(count);
                }
                _ => match self.begin_slowly(buffer)? {
                    Begun::Array { after } => (at, missing) = (after, self.missing),
                    Begun::Line { consumed } => return Ok(self.line(buffer, consumed)),
                    Begun::Nothing { needed } => return Ok(Parsed::Incomplete { needed }),
                },
            }
        } else {
            match self.resume(buffer)? {
                Resumed::Headers => (at, missing) = (self.position as usize, self.missing),
                Resumed::Bulk { needed } => return Ok(Parsed::Incomplete { needed }),
            }
        }

        let limit = buffer.len().min(self.limits.request_bytes_max as usize);
        while missing > 0 {
            let (length, start) = match short_header(buffer, at, b'$') {
                Some((length, after)) if length <= self.limits.bulk_bytes_max => (length, after),
                _ => match self.bulk_header_slowly(buffer, at, missing)? {
                    Some(header) => header,
                    None => return Ok(Parsed::Incomplete { needed: 1 }),
                },
            };
            let after = start + length as usize + 2;
            if after > limit {
                let needed = self.stop_within_bulk(buffer, start, length, missing)?;
                return Ok(Parsed::Incomplete { needed });
            }
            self.spans.push(Span { offset: start as u32, len: length });
            at = after;
            missing -= 1;
        }
        self.missing = 0;
        self.searched = 0;
        Ok(Parsed::Complete { request: Request::new(buffer, &self.spans), consumed: at })
    }

    /// Begins a request of `count` arguments. Room is not made for all of them: a client that announces a million
    /// arguments has not sent them yet.
    #[inline]
    fn begin(&mut self, count: u32) {
        self.spans.clear();
        if self.spans.capacity() > SPANS_BUSY {
            self.spans.shrink_to(SPANS_IDLE);
        }
        if self.spans.capacity() < count as usize {
            self.spans.reserve((count as usize).min(SPANS_BUSY));
        }
    }

    /// Reads the start of anything but an array with a short, complete header.
    #[cold]
    #[inline(never)]
    fn begin_slowly(&mut self, buffer: &[u8]) -> Result<Begun, ProtocolError> {
        match buffer.first() {
            None => {
                self.rest();
                return Ok(Begun::Nothing { needed: 1 });
            }
            Some(b'*') => {}
            Some(_) => return self.begin_line(buffer),
        }
        let Some(after) = self.line_end(buffer, 0, ProtocolError::MultibulkCountTooBig)? else {
            return Ok(Begun::Nothing { needed: 1 });
        };
        let limits = &self.limits;
        let count = match parse_length(&buffer[1..after - 2]) {
            Some(count) if count <= i64::from(limits.args_allowed()) => count,
            Some(count) if count <= i64::from(limits.args_max) => {
                return Err(ProtocolError::UnauthenticatedMultibulkLength);
            }
            _ => return Err(ProtocolError::InvalidMultibulkLength),
        };
        // Zero and negative counts are requests without arguments.
        let count = count.max(0) as u32;
        self.begin(count);
        self.missing = count;
        Ok(Begun::Array { after })
    }

    /// A line of words: its spans refer to `unquoted` if that is not empty, else to the buffer.
    fn begin_line(&mut self, buffer: &[u8]) -> Result<Begun, ProtocolError> {
        let line_max = self.limits.line_bytes_max as usize;
        let within = &buffer[..buffer.len().min(line_max + 1)];
        let unsearched = within.get(self.searched as usize..).unwrap_or_default();
        let Some(found) = memchr::memchr(b'\n', unsearched) else {
            if buffer.len() > line_max {
                self.searched = 0;
                return Err(ProtocolError::InlineTooBig);
            }
            self.searched = buffer.len() as u32;
            return Ok(Begun::Nothing { needed: 1 });
        };
        let end = self.searched as usize + found;
        self.searched = 0;
        let line = &buffer[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.spans.clear();
        self.unquoted.clear();
        inline::split(line, &mut self.spans, &mut self.unquoted)?;
        Ok(Begun::Line { consumed: end + 1 })
    }

    fn line<'a>(&'a self, buffer: &'a [u8], consumed: usize) -> Parsed<'a> {
        let bytes = if self.unquoted.is_empty() { buffer } else { &self.unquoted };
        Parsed::Complete { request: Request::new(bytes, &self.spans), consumed }
    }

    /// Continues a request, first with the argument that was incomplete, if any.
    #[cold]
    #[inline(never)]
    fn resume(&mut self, buffer: &[u8]) -> Result<Resumed, ProtocolError> {
        if self.bulk != NO_BULK {
            let (start, length) = (self.position as usize, self.bulk);
            let after = start + length as usize + 2;
            if after > buffer.len() {
                return Ok(Resumed::Bulk { needed: after - buffer.len() });
            }
            self.spans.push(Span { offset: self.position, len: length });
            self.bulk = NO_BULK;
            self.missing -= 1;
            self.position = after as u32;
        }
        Ok(Resumed::Headers)
    }

    /// Reads an argument's header that is long, incomplete, or wrong. Stops there if it is incomplete.
    #[cold]
    #[inline(never)]
    fn bulk_header_slowly(
        &mut self,
        buffer: &[u8],
        at: usize,
        missing: u32,
    ) -> Result<Option<(u32, usize)>, ProtocolError> {
        let Some(after) = self.line_end(buffer, at, ProtocolError::BulkCountTooBig)? else {
            self.position = at as u32;
            self.missing = missing;
            return Ok(None);
        };
        let line = &buffer[at..after - 2];
        let limits = self.limits;
        let error = match (line.first(), line.get(1..).and_then(parse_length)) {
            (Some(b'$'), Some(length @ 0..)) => {
                if length <= i64::from(limits.bulk_bytes_allowed()) {
                    return Ok(Some((length as u32, after)));
                } else if length <= i64::from(limits.bulk_bytes_max) {
                    ProtocolError::UnauthenticatedBulkLength
                } else {
                    ProtocolError::InvalidBulkLength
                }
            }
            (Some(b'$'), _) => ProtocolError::InvalidBulkLength,
            _ => ProtocolError::ExpectedDollar(buffer[at]),
        };
        self.reset();
        Err(error)
    }

    /// The end of the line that begins at `at`: after its CR and the byte that follows. `None` if it does not end yet.
    fn line_end(&mut self, buffer: &[u8], at: usize, too_big: ProtocolError) -> Result<Option<usize>, ProtocolError> {
        let line_max = self.limits.line_bytes_max as usize;
        let rest = buffer.get(at..).unwrap_or_default();
        let within = &rest[..rest.len().min(line_max + 1)];
        let searched = (self.searched as usize).saturating_sub(at);
        match memchr::memchr(b'\r', within.get(searched..).unwrap_or_default()) {
            Some(found) if searched + found + 1 < rest.len() => Ok(Some(at + searched + found + 2)),
            Some(found) => {
                self.searched = (at + searched + found) as u32;
                Ok(None)
            }
            None if rest.len() > line_max => {
                self.reset();
                Err(too_big)
            }
            None => {
                self.searched = (at + rest.len()) as u32;
                Ok(None)
            }
        }
    }

    /// Remembers an incomplete argument. Returns the number of missing bytes.
    #[cold]
    #[inline(never)]
    fn stop_within_bulk(
        &mut self,
        buffer: &[u8],
        start: usize,
        length: u32,
        missing: u32,
    ) -> Result<usize, ProtocolError> {
        let after = start + length as usize + 2;
        if after > self.limits.request_bytes_max as usize {
            self.reset();
            return Err(ProtocolError::RequestTooBig);
        }
        self.position = start as u32;
        self.bulk = length;
        self.missing = missing;
        Ok(after - buffer.len())
    }

    fn reset(&mut self) {
        self.missing = 0;
        self.searched = 0;
        self.bulk = NO_BULK;
        self.rest();
    }
}

enum Begun {
    /// An array of `missing` arguments, the first of which begins at `after`.
    Array {
        after: usize,
    },
    /// A whole inline request.
    Line {
        consumed: usize,
    },
    Nothing {
        needed: usize,
    },
}

enum Resumed {
    Headers,
    Bulk { needed: usize },
}

/// Reads a header of one to three digits at `at`: its number and the end of its line. `None` if it is anything else.
///
/// A complete request always has the six bytes, since at least two bytes follow every header.
#[inline(always)]
fn short_header(buffer: &[u8], at: usize, kind: u8) -> Option<(u32, usize)> {
    let &[first, d1, d2, d3, d4, _] = buffer.get(at..)?.first_chunk::<6>()?;
    let digit = |byte: u8| u32::from(byte).wrapping_sub(u32::from(b'0'));
    let number = digit(d1);
    if first != kind || number > 9 {
        return None;
    }
    if d2 == b'\r' {
        return Some((number, at + 4));
    }
    // Redis accepts no leading zeros, and the slow path does not either.
    if number == 0 || digit(d2) > 9 {
        return None;
    }
    let number = number * 10 + digit(d2);
    if d3 == b'\r' {
        return Some((number, at + 5));
    }
    if digit(d3) > 9 || d4 != b'\r' {
        return None;
    }
    Some((number * 10 + digit(d3), at + 6))
}

/// Parses a decimal integer as Redis reads lengths: no sign but `-`, no leading zeros, no blanks.
fn parse_length(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        b"0" if text.len() == 1 => Some(0),
        [b'1'..=b'9', ..] if digits.iter().all(u8::is_ascii_digit) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}
