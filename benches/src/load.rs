//! The load generator: closed-loop connections from one thread, so cheap that it does not limit the measurement.
//!
//! 1. Commands are built beforehand, all of one length, end to end in one buffer: a batch to send is a slice of it.
//! 2. Each connection sends a batch, and the next when the whole reply has arrived. All replies have one length too, so
//!    reading one means counting its bytes and checking its start and its end.
//!    Subscribers only receive, between the replies, so the commands wait for them too.
//! 3. One edge-triggered epoll: nothing follows a complete reply until the next batch, so no read is wasted on finding
//!    that no more bytes wait.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::Result;
use crate::client::command;

const STALLED: Duration = Duration::from_secs(60);

/// Commands of one kind, ready to send.
pub(crate) struct Commands {
    bytes: Vec<u8>,
    command_length: usize,
    count: usize,
    reply_start: Vec<u8>,
    /// The last byte of a reply.
    reply_end: u8,
    replies: Replies,
    /// Each command is sent once, in the order of the commands, until all were.
    in_turn: bool,
}

/// How to find the end of a reply without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Replies {
    /// All have this many bytes.
    Length(usize),
    /// Each has this many lines.
    Lines(usize),
}

/// Most bytes for all commands of a kind: they should not evict the measured server's data from the caches.
const COMMANDS_BYTES_MAX: usize = 16 << 20;

impl Commands {
    /// `SET key value` for random keys among the first `keys` (see [`key`]), with values of `value_length` bytes.
    pub fn set(keys: u64, value_length: usize) -> Self {
        let mut text = vec![0; value_length];
        Self::build(keys, b"+OK\r\n".to_vec(), 5, |index, request| {
            value(index.wrapping_mul(31), &mut text);
            command(request, &[b"SET", key(index).as_bytes(), &text]);
        })
    }

    /// `GET key` for random keys among the first `keys`, all of which must hold values of `value_length` bytes.
    pub fn get(keys: u64, value_length: usize) -> Self {
        let start = format!("${value_length}\r\n").into_bytes();
        let reply_length = start.len() + value_length + 2;
        Self::build(keys, start, reply_length, |index, request| {
            command(request, &[b"GET", key(index).as_bytes()]);
        })
    }

    /// `HSET hash field value` for random fields among the first `fields` of one hash, all of which must exist, with
    /// values of `value_length` bytes.
    pub fn set_fields(hash: &str, fields: u64, value_length: usize) -> Self {
        let mut text = vec![0; value_length];
        Self::build(fields, b":0\r\n".to_vec(), 4, |index, request| {
            value(index.wrapping_mul(17), &mut text);
            command(request, &[b"HSET", hash.as_bytes(), key(index).as_bytes(), &text]);
        })
    }

    /// Commands that `write` builds from random numbers below `keys`; each reply is one line with this start.
    pub fn of_lines(keys: u64, reply_start: &str, write: impl FnMut(u64, &mut Vec<u8>)) -> Self {
        Self::built(keys, reply_start.into(), Replies::Lines(1), write)
    }

    /// The same, each with a reply of a string without line breaks.
    pub fn of_strings(keys: u64, write: impl FnMut(u64, &mut Vec<u8>)) -> Self {
        Self::built(keys, b"$".to_vec(), Replies::Lines(2), write)
    }

    /// The same, each with a reply as long as `sample`, which starts with the same line.
    pub fn of_samples(keys: u64, sample: &[u8], write: impl FnMut(u64, &mut Vec<u8>)) -> Self {
        let line = sample.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut commands = Self::build(keys, line.to_vec(), sample.len(), write);
        commands.reply_end = sample.last().copied().unwrap_or(b'\n');
        commands
    }

    /// The same, each with a reply of as many lines as `sample`, which starts with the same line.
    pub fn of_texts(keys: u64, sample: &[u8], write: impl FnMut(u64, &mut Vec<u8>)) -> Self {
        let line = sample.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let lines = sample.iter().filter(|byte| **byte == b'\n').count();
        Self::built(keys, line.to_vec(), Replies::Lines(lines), write)
    }

    /// The same, each with a reply of an array of `elements` strings of `element_length` bytes.
    pub fn of_arrays(keys: u64, elements: usize, element_length: usize, write: impl FnMut(u64, &mut Vec<u8>)) -> Self {
        let start = format!("*{elements}\r\n${element_length}\r\n").into_bytes();
        let element = format!("${element_length}\r\n\r\n").len() + element_length;
        let length = format!("*{elements}\r\n").len() + elements * element;
        Self::build(keys, start, length, write)
    }

    /// The same commands, each sent once only: a run may have [`Self::count`] of them at most.
    pub fn in_turn(self) -> Self {
        Self { in_turn: true, ..self }
    }

    pub fn count(&self) -> u64 {
        self.count as u64
    }

    fn build(keys: u64, reply_start: Vec<u8>, reply_length: usize, write: impl FnMut(u64, &mut Vec<u8>)) -> Self {
        Self::built(keys, reply_start, Replies::Length(reply_length), write)
    }

    fn built(keys: u64, reply_start: Vec<u8>, replies: Replies, mut write: impl FnMut(u64, &mut Vec<u8>)) -> Self {
        let mut random = fastrand::Rng::with_seed(keys);
        let mut bytes = Vec::new();
        write(random.u64(..keys), &mut bytes);
        let command_length = bytes.len();
        // Enough for the whole keyspace to pass through the server's caches, and few enough to stay small here.
        let count = keys.clamp(1024, 256 * 1024).min((COMMANDS_BYTES_MAX / command_length) as u64) as usize;
        (1..count).for_each(|_| write(random.u64(..keys), &mut bytes));
        assert_eq!(bytes.len(), count * command_length, "commands of one kind have one length");
        Self { command_length, bytes, count, reply_start, reply_end: b'\n', replies, in_turn: false }
    }

    /// The next batch of a connection, of which `sent` commands in turn were sent.
    fn batch(&self, pipeline: usize, random: &mut fastrand::Rng, sent: &mut usize) -> &[u8] {
        let last = self.count - pipeline;
        let start = if self.in_turn { (*sent).min(last) } else { random.usize(..=last) };
        *sent += pipeline;
        &self.bytes[start * self.command_length..(start + pipeline) * self.command_length]
    }
}

/// The counts of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tally {
    pub commands: u64,
    pub elapsed: Duration,
}

/// Connections that are idle between runs.
pub(crate) struct Load<'a> {
    poll: Poll,
    connections: Vec<Connection>,
    /// Each batch is of one kind, chosen at random.
    kinds: &'a [Commands],
    pipeline: usize,
    random: fastrand::Rng,
    /// Commands sent so far.
    sent: usize,
    subscribers: Vec<TcpStream>,
    /// Bytes of one message to a subscriber.
    message_length: usize,
}

struct Connection {
    stream: TcpStream,
    kind: usize,
    sent_at: Instant,
    /// Bytes or lines of the reply received so far.
    received: usize,
    busy: bool,
}

impl<'a> Load<'a> {
    pub fn connect(address: SocketAddr, connections: usize, pipeline: usize, kinds: &'a [Commands]) -> Result<Self> {
        let poll = Poll::new()?;
        let mut opened = Vec::with_capacity(connections);
        for token in 0..connections {
            // Connects while the socket blocks, so that a refusal is an error here.
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(token), Interest::READABLE)?;
            opened.push(Connection { stream, kind: 0, sent_at: Instant::now(), received: 0, busy: false });
        }
        let random = fastrand::Rng::with_seed(1);
        Ok(Self {
            poll,
            connections: opened,
            kinds,
            pipeline,
            random,
            sent: 0,
            subscribers: Vec::new(),
            message_length: 0,
        })
    }

    /// Connects subscribers to a channel, each of which gets `message_length` bytes for every command of a run.
    pub fn subscribe(&mut self, address: SocketAddr, count: usize, channel: &str, message_length: usize) -> Result<()> {
        let mut request = Vec::new();
        command(&mut request, &[b"SUBSCRIBE", channel.as_bytes()]);
        let confirmation = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len());
        self.message_length = message_length;
        for token in self.connections.len()..self.connections.len() + count {
            let mut stream = std::net::TcpStream::connect(address)?;
            stream.write_all(&request)?;
            let mut reply = vec![0; confirmation.len()];
            stream.read_exact(&mut reply)?;
            if reply != confirmation.as_bytes() {
                return Err(format!("unexpected reply: {:?}", String::from_utf8_lossy(&reply)).into());
            }
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            self.poll.registry().register(&mut stream, Token(token), Interest::READABLE)?;
            self.subscribers.push(stream);
        }
        Ok(())
    }

    /// Keeps every connection busy for `duration`, then waits for all replies.
    pub fn run_for(&mut self, duration: Duration) -> Result<Tally> {
        self.run_for_at_most(duration, u64::MAX)
    }

    /// The same, with this many commands at most, and one batch for each connection at least.
    pub fn run_for_at_most(&mut self, duration: Duration, commands: u64) -> Result<Tally> {
        let deadline = Instant::now() + duration;
        let batch = self.pipeline as u64;
        let mut sent = batch * self.connections.len() as u64;
        let go_on = |now| {
            sent += batch;
            now < deadline && sent <= commands
        };
        self.run(go_on, |_| {})
    }

    /// Keeps every connection busy while `go_on` is true, then waits for all replies and messages. `answered` gets the
    /// duration of each batch.
    pub fn run(&mut self, mut go_on: impl FnMut(Instant) -> bool, mut answered: impl FnMut(Duration)) -> Result<Tally> {
        let started = Instant::now();
        let mut scratch = vec![0; 64 * 1024];
        let mut events = Events::with_capacity(self.connections.len() + self.subscribers.len());
        let mut commands = 0;
        let mut busy = self.connections.len();
        let mut delivered = 0;
        let delivery = self.message_length * self.subscribers.len();
        for connection in &mut self.connections {
            connection.send(started, self.kinds, self.pipeline, &mut self.random, &mut self.sent)?;
        }
        let mut now = started;
        while busy > 0 || delivered < commands as usize * delivery {
            match self.poll.poll(&mut events, Some(STALLED)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            if events.is_empty() {
                return Err(format!("no reply on {busy} connections for {STALLED:?}").into());
            }
            for event in &events {
                let Some(connection) = self.connections.get_mut(event.token().0) else {
                    let subscriber = &mut self.subscribers[event.token().0 - self.connections.len()];
                    delivered += drain(subscriber, &mut scratch)?;
                    continue;
                };
                if !connection.busy || !connection.receive(&mut scratch, self.kinds, self.pipeline)? {
                    continue;
                }
                now = Instant::now();
                commands += self.pipeline as u64;
                answered(now - connection.sent_at);
                if go_on(now) {
                    connection.send(now, self.kinds, self.pipeline, &mut self.random, &mut self.sent)?;
                } else {
                    connection.busy = false;
                    busy -= 1;
                }
            }
        }
        if delivered != commands as usize * delivery {
            return Err(format!("{delivered} bytes of messages for {commands} commands").into());
        }
        Ok(Tally { commands, elapsed: now - started })
    }
}

/// Reads all available bytes and returns their number.
fn drain(stream: &mut TcpStream, scratch: &mut [u8]) -> Result<usize> {
    let mut sum = 0;
    loop {
        match stream.read(scratch) {
            Ok(0) => return Err("the server closed a subscriber's connection".into()),
            Ok(length) => sum += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sum),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Connection {
    fn send(
        &mut self,
        now: Instant,
        kinds: &[Commands],
        pipeline: usize,
        random: &mut fastrand::Rng,
        sent: &mut usize,
    ) -> Result<()> {
        self.kind = if kinds.len() == 1 { 0 } else { random.usize(..kinds.len()) };
        let batch = kinds[self.kind].batch(pipeline, random, sent);
        (self.sent_at, self.received, self.busy) = (now, 0, true);
        // Nothing else is under way on this connection, so its send buffer is empty and much larger than a batch.
        match self.stream.write(batch)? {
            written if written == batch.len() => Ok(()),
            written => Err(format!("only {written} of {} bytes fit into the socket", batch.len()).into()),
        }
    }

    /// Reads the available bytes; returns whether they complete the reply.
    fn receive(&mut self, scratch: &mut [u8], kinds: &[Commands], pipeline: usize) -> Result<bool> {
        let commands = &kinds[self.kind];
        let expected = match commands.replies {
            Replies::Length(length) => length * pipeline,
            Replies::Lines(lines) => lines * pipeline,
        };
        loop {
            let length = match self.stream.read(scratch) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let reply = &scratch[..length];
            let compared = commands.reply_start.len().min(length);
            let starts_well = self.received > 0 || reply[..compared] == commands.reply_start[..compared];
            self.received += match commands.replies {
                Replies::Length(_) => length,
                Replies::Lines(_) => reply.iter().filter(|byte| **byte == b'\n').count(),
            };
            let ends_well =
                self.received < expected || (self.received == expected && reply.last() == Some(&commands.reply_end));
            if !starts_well || !ends_well {
                let shown = String::from_utf8_lossy(&reply[..length.min(100)]);
                return Err(format!("unexpected reply: {shown:?}").into());
            }
            if self.received == expected {
                return Ok(true);
            }
        }
    }
}

/// The key with number `index`: 16 bytes.
pub(crate) fn key(index: u64) -> String {
    format!("key:{index:012}")
}

/// Fills `text` with characters that depend on `index` alone, of 64 different ones.
///
/// It compresses to three quarters at best, so a server that compresses its data gains little from it.
pub(crate) fn value(index: u64, text: &mut [u8]) {
    const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = fastrand::Rng::with_seed(index);
    for piece in text.chunks_mut(8) {
        let bits = random.u64(..);
        piece.iter_mut().enumerate().for_each(|(at, byte)| *byte = CHARACTERS[(bits >> (6 * at)) as usize % 64]);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn commands_have_one_length_each() {
        let set = Commands::set(1000, 64);
        assert_eq!(set.command_length, "*3\r\n$3\r\nSET\r\n$16\r\n\r\n$64\r\n\r\n".len() + 16 + 64);
        assert_eq!(set.bytes.len(), set.count * set.command_length);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100 {
            let batch = set.batch(16, &mut random, &mut 0);
            assert_eq!(batch.len(), 16 * set.command_length);
            assert!(batch.starts_with(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:"));
        }
        assert_eq!(Commands::get(1000, 64).replies, Replies::Length(71));
        let arrays =
            Commands::of_arrays(10, 3, 16, |index, request| command(request, &[b"MGET", key(index).as_bytes()]));
        assert_eq!(arrays.replies, Replies::Length(4 + 3 * (5 + 16 + 2)));
    }

    #[test]
    fn values_depend_on_their_index_alone() {
        let of = |index| {
            let mut text = vec![0; 20];
            value(index, &mut text);
            text
        };
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
        assert!(of(5).iter().all(u8::is_ascii_graphic));
    }

    /// A server for one connection that answers each request of `request_length` bytes with `reply`, in two writes.
    fn answering(request_length: usize, reply: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; request_length];
            while stream.read_exact(&mut request).is_ok() {
                let (first, second) = reply.split_at(reply.len() / 2);
                if stream.write_all(first).and_then(|()| stream.write_all(second)).is_err() {
                    return;
                }
            }
        });
        address
    }

    #[test]
    fn counts_what_is_answered_and_refuses_what_is_wrong() {
        let kinds = [Commands::get(100, 3)];
        let length = kinds[0].command_length * 2;
        let mut load = Load::connect(answering(length, b"$3\r\nabc\r\n$3\r\nabc\r\n"), 1, 2, &kinds).unwrap();
        let mut replies = 0;
        let mut left = 4;
        let more = |_| {
            left -= 1;
            left > 0
        };
        let tally = load.run(more, |_| replies += 1).unwrap();
        assert_eq!((tally.commands, replies), (8, 4));

        let lines =
            [Commands::of_lines(100, ":", |index, request| command(request, &[b"INCR", key(index).as_bytes()]))];
        let length = lines[0].command_length * 2;
        let mut load = Load::connect(answering(length, b":9\r\n:10\r\n"), 1, 2, &lines).unwrap();
        assert_eq!(load.run(|_| false, |_| {}).unwrap().commands, 2);

        let length = kinds[0].command_length * 2;
        for wrong in [&b"$-1\r\n$3\r\nabc\r\n"[..], b"-ERR no such command, none\r\n"] {
            let mut load = Load::connect(answering(length, wrong), 1, 2, &kinds).unwrap();
            let error = load.run(|_| false, |_| {}).unwrap_err().to_string();
            assert!(error.starts_with("unexpected reply"), "{error}");
        }
    }
}
