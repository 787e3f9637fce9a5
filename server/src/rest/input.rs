//! The commands of a request, as RESP.

use dormouse_protocol::{OwnedRequest, Request, Span};
use dormouse_shard::execution::once;

use super::idempotency::{self, IdempotencyKey};

/// Room for the header of a command, which is written when its arguments have been counted.
const HEADER: &[u8] = b"*0\r\n";

#[derive(Debug, Default)]
pub struct RespText {
    bytes: Vec<u8>,
    /// Where the next command begins.
    at: usize,
}

impl RespText {
    pub fn with_room_for(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), at: 0 }
    }

    /// A command of these words.
    pub fn of(words: &[&[u8]]) -> Self {
        let mut input = Self::default();
        let mut command = input.begin();
        words.iter().for_each(|word| command.add(word));
        command.end();
        input
    }

    /// Begins a command.
    pub fn begin(&mut self) -> Words<'_> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(HEADER);
        Words { bytes: &mut self.bytes, start, count: 0, promise: None }
    }

    /// Begins a command that is run once if it is [kept](idempotency::is_kept); `number`: its place in a pipeline.
    pub fn begin_once(&mut self, key: &IdempotencyKey, number: Option<usize>) -> Words<'_> {
        let mut command = self.begin();
        key.words(number).iter().for_each(|word| command.add(word));
        command.count = 0;
        command.promise = Some(Promise { end: command.bytes.len(), name: [NO_WORD; 2] });
        command
    }

    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    pub fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Takes a large request out, with the buffer.
    pub fn take(&mut self, bytes: usize, spans: Box<[Span]>) -> OwnedRequest {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        let following = self.bytes.split_off(bytes);
        OwnedRequest::within(std::mem::replace(&mut self.bytes, following), spans)
    }
}

/// A command that is being written.
pub struct Words<'i> {
    bytes: &'i mut Vec<u8>,
    start: usize,
    /// Words of the client.
    count: usize,
    promise: Option<Promise>,
}

/// The words of `ONCE` in front of a command. They go if the command turns out not to be kept.
struct Promise {
    /// Where they end.
    end: usize,
    /// The first words of the command, which name it.
    name: [Span; 2],
}

const NO_WORD: Span = Span { offset: 0, len: 0 };

impl Words<'_> {
    pub fn add(&mut self, word: &[u8]) {
        self.bytes.push(b'$');
        match u8::try_from(word.len()) {
            Ok(length @ 0..10) => self.bytes.push(b'0' + length),
            _ => self.bytes.extend_from_slice(itoa::Buffer::new().format(word.len()).as_bytes()),
        }
        self.bytes.extend_from_slice(b"\r\n");
        if let Some(promise) = &mut self.promise
            && let Some(place) = promise.name.get_mut(self.count)
        {
            *place = Span { offset: self.bytes.len() as u32, len: word.len() as u32 };
        }
        self.bytes.extend_from_slice(word);
        self.bytes.extend_from_slice(b"\r\n");
        self.count += 1;
    }

    /// Ends the command. Returns the number of the client's words.
    pub fn end(self) -> usize {
        let mut words = self.count;
        if let Some(Promise { end, name }) = self.promise {
            let named = Request::new(self.bytes, &name[..words.min(name.len())]);
            if words > 0 && idempotency::is_kept(named) {
                words += once::WORDS;
            } else {
                self.bytes.drain(self.start + HEADER.len()..end);
            }
        }
        match u8::try_from(words) {
            Ok(count @ 0..10) => self.bytes[self.start + 1] = b'0' + count,
            _ => {
                let mut digits = itoa::Buffer::new();
                let digits = digits.format(words).bytes();
                self.bytes.splice(self.start + 1..self.start + 2, digits);
            }
        }
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_as_clients_write_them() {
        assert_eq!(RespText::of(&[b"GET", b"0123456789"]).rest(), b"*2\r\n$3\r\nGET\r\n$10\r\n0123456789\r\n");
        let mut input = RespText::of(&[b"PING"]);
        let mut words = input.begin();
        (0..12).for_each(|_| words.add(b""));
        assert_eq!(words.end(), 12);
        let expected = [&b"*1\r\n$4\r\nPING\r\n*12\r\n"[..], &b"$0\r\n\r\n".repeat(12)].concat();
        assert_eq!(input.rest(), expected);
    }
}
