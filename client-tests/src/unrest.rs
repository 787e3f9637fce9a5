//! Unrest that clients must not notice: another connection splits, merges and puts to sleep the database all the time.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    resp::{Connection, Reply},
    script::Random,
};

const SLOTS: usize = 16384;

/// Limit of shards: more than workers, but few enough that a command over all of them can lock them quickly.
const SHARDS_MAX: usize = 8;

/// A thread of unrest. It runs until dropped.
pub struct Unrest {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Unrest {
    /// Splits and merges shards at random.
    pub fn of_shards(port: u16, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self::start(port, move |connection| {
            let shards = connection.run("DORMOUSE SHARDS");
            let number = shards.items().map_or(0, <[Reply]>::len);
            if number < SHARDS_MAX && (number < 2 || random.one_in(2)) {
                connection.run(&format!("DORMOUSE SPLIT {}", 1 + random.below(SLOTS - 1)));
            } else if number > 1 {
                let shard = shards.items().and_then(|shards| shards[1 + random.below(number - 1)].items());
                connection.run(&format!("DORMOUSE MERGE {}", field(shard.unwrap_or_default(), b"first_slot")));
            }
            Duration::from_millis(random.below(20) as u64)
        })
    }

    /// Puts the database to sleep again and again.
    pub fn of_sleep(port: u16, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self::start(port, move |connection| {
            let reply = connection.run("DORMOUSE SLEEP");
            // A database that the script writes to in each round of its last checkpoint stays awake.
            let awake = matches!(&reply, Reply::Line('-', text) if text.starts_with("ERR clients go on writing"));
            assert!(awake || reply == Reply::Line('+', "OK".into()), "{reply:?}");
            Duration::from_millis(random.below(10) as u64)
        })
    }

    /// Starts the thread. `once` returns how long to wait until the next time.
    fn start(port: u16, mut once: impl FnMut(&mut Connection) -> Duration + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut connection = Connection::open(port);
            let mut pause = Duration::ZERO;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = once(&mut connection);
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Unrest {
    fn drop(&mut self) {
        self.stop.take();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the unrest came to a bad end");
    }
}

/// Returns the number of the field `name` in a flat map.
fn field(map: &[Reply], name: &[u8]) -> u64 {
    let pair = map.chunks_exact(2).find(|pair| pair[0].bytes() == Some(name));
    pair.and_then(|pair| pair[1].number()).expect("a field of the shard") as u64
}
