//! The pump: the task that turns queued entries into commands and tells them to the replicas.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dormouse_shard::database::Database;
use dormouse_shard::replication::{ReplicaStream, StreamEnd, command};

use super::{Replication, Start, Waiting};

/// Interval of periodic work.
const BEAT: Duration = Duration::from_secs(1);
/// Time for which the stream goes on without a replica.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Bytes of entries that are turned into commands before they are told.
const TOLD_TOGETHER_BYTES: usize = 256 << 10;

/// It runs while the stream does.
pub(super) struct Pump {
    replication: Arc<Replication>,
    database: Arc<Database>,
    stream: Option<ReplicaStream>,
    /// Since when there has been no replica.
    idle_since_ms: Option<u64>,
    /// When the last `PING` was told.
    pinged_ms: u64,
}

impl Pump {
    pub(super) fn new(replication: &Arc<Replication>, database: &Arc<Database>) -> Self {
        let (replication, database) = (Arc::clone(replication), Arc::clone(database));
        let pinged_ms = (database.engine.clock)();
        Self { replication, database, stream: None, idle_since_ms: None, pinged_ms }
    }

    pub(super) async fn run(mut self) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_due = tokio::select! {
                () = self.replication.wake.notified() => false,
                _ = beat.tick() => true,
            };
            let mut ended = self.drain().await;
            if is_due && ended.is_ok() {
                ended = self.beat();
            }
            if let Err(StreamEnd(why)) = ended {
                tracing::info!(database = self.database.name(), why, "the stream to replicas ends");
                self.replication.end(&self.database);
                return;
            }
        }
    }

    /// Tells everything that is queued.
    async fn drain(&mut self) -> Result<(), StreamEnd> {
        loop {
            let waiting: Vec<Waiting> = {
                let mut queue = self.replication.queue.lock();
                if queue.has_overflown {
                    return Err(StreamEnd(
                        "its clients cannot keep so much: replicas, or this server, are too slow".into(),
                    ));
                }
                let mut bytes = 0;
                let some = queue.waiting.iter().take_while(|waiting| {
                    let before = bytes;
                    bytes += waiting.bytes();
                    before < TOLD_TOGETHER_BYTES
                });
                let count = some.count();
                queue.waiting.drain(..count).collect()
            };
            if waiting.is_empty() {
                return Ok(());
            }
            let bytes = waiting.iter().map(Waiting::bytes).sum();
            let told = self.tell(waiting);
            self.replication.take_out(bytes);
            told?;
            tokio::task::yield_now().await;
        }
    }

    fn tell(&mut self, waiting: Vec<Waiting>) -> Result<(), StreamEnd> {
        let (mut out, mut askers) = (Vec::new(), Vec::new());
        for waiting in waiting {
            match waiting {
                Waiting::Entry(items) => {
                    if let Some(stream) = &mut self.stream {
                        stream.entry(&items, &mut out)?;
                    }
                }
                Waiting::Command(command) => {
                    if self.stream.is_some() {
                        out.extend_from_slice(&command);
                    }
                }
                Waiting::Begin(replica, ids, told) => {
                    self.flush(&mut out);
                    let limits = self.database.shared.settings.load().limits;
                    self.stream.get_or_insert_with(|| ReplicaStream::new(*ids, limits)).begin();
                    let mut history = self.replication.history.lock();
                    // One that has ended was removed already.
                    if !replica.is_over() {
                        history.replicas.push(replica);
                    }
                    let start = Start { id: history.id.clone(), offset: history.backlog.end() };
                    drop(history);
                    // It may have gone.
                    let _ = told.send(start);
                }
                Waiting::Ask(asker) => askers.push(asker),
            }
        }
        if !askers.is_empty() {
            command(&mut out, &[b"REPLCONF", b"GETACK", b"*"]);
        }
        self.flush(&mut out);
        let end = self.replication.history.lock().backlog.end();
        // Each may have given up.
        askers.into_iter().for_each(|asker| _ = asker.send(end));
        Ok(())
    }

    fn flush(&self, out: &mut Vec<u8>) {
        if !out.is_empty() {
            self.replication.tell(out);
            out.clear();
        }
    }

    /// Periodic work: `PING`, and the end of silent replicas and of a stream without any.
    fn beat(&mut self) -> Result<(), StreamEnd> {
        let now_ms = (self.database.engine.clock)();
        let replicas = self.replication.history.lock().replicas.clone();
        replicas.iter().filter(|replica| replica.is_silent(now_ms)).for_each(|replica| replica.kill());
        if replicas.is_empty() {
            let since_ms = *self.idle_since_ms.get_or_insert(now_ms);
            // One may be about to begin.
            let is_copying = self.replication.copying.try_lock().is_err();
            return match now_ms.saturating_sub(since_ms) >= KEPT_FOR.as_millis() as u64 && !is_copying {
                true => Err(StreamEnd("no replica is connected".to_owned())),
                false => Ok(()),
            };
        }
        self.idle_since_ms = None;
        let ping_every_ms = 1000 * u64::from(self.replication.ping_every.load(Ordering::Relaxed));
        if now_ms.saturating_sub(self.pinged_ms) < ping_every_ms {
            return Ok(());
        }
        self.pinged_ms = now_ms;
        let mut ping = Vec::new();
        command(&mut ping, &[b"PING"]);
        self.replication.tell(&ping);
        Ok(())
    }
}
