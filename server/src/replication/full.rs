//! A full copy for a replica: an RDB of the database as it is at one moment.
//!
//! 1. Wait for the database's turn and the node's: each copy takes a thread, as a slow replica makes it wait.
//! 2. Pin the moment. A database that sleeps stays asleep.
//! 3. `+FULLRESYNC id offset`, then the RDB. A reader that finds its end by a mark gets it as it is read from the store.
//!    Any other is told its length first: then the RDB is made twice, the first time only to count. Nothing of it is kept,
//!    in memory or on disk.
//!
//! The RDB is of version 10, as a replica does not say how old it is. Fields that expire do not fit into it: if there are any, it is
//! of the first version that holds them. That is known only when one is met. A client that wants an RDB and no stream does not ask
//! again, so the RDB is made twice for it, too; a replica does, and gets the newer version then.
//!
//! While it waits the replica gets an empty line each second, so that it does not give up.

use std::future::Future;
use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dormouse_shard::database::Database;
use dormouse_shard::error::Error;
use dormouse_shard::export::{About, ExportError, export};
use dormouse_shard::pinned::PinnedMoment;
use dormouse_shard::replication::READERS;
use dormouse_storage::codec::value::RdbReaders;
use dormouse_storage::rdb::writer::RdbWriter;
use futures::channel::oneshot;
use tokio::sync::Semaphore;

use super::{Announced, Beginning, RdbPart, Replica, Replication, SILENCE, Start, new_id};
use crate::metrics::REDIS_VERSION;

/// Bytes that may wait to be sent before the copy waits too.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Pauses of a copy that waits for its replica: the shortest and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
const BREATH: Duration = Duration::from_secs(1);

/// Sends everything to a replica, and the stream from then on. `turns`: those of the node.
pub fn begin(turns: &Arc<Semaphore>, database: &Arc<Database>, replication: &Arc<Replication>, replica: &Arc<Replica>) {
    let copy = FullCopy {
        turns: Arc::clone(turns),
        database: Arc::clone(database),
        replication: Arc::clone(replication),
        replica: Arc::clone(replica),
    };
    database.engine.background.spawn(async move {
        if let Err(error) = copy.make().await
            && !copy.replica.is_over()
        {
            let (database, client) = (copy.database.name(), copy.replica.client.id);
            tracing::warn!(database, client, %error, "failed to copy a database to a replica");
            copy.replica.kill();
        }
    });
}

struct FullCopy {
    turns: Arc<Semaphore>,
    database: Arc<Database>,
    replication: Arc<Replication>,
    replica: Arc<Replica>,
}

impl FullCopy {
    async fn make(&self) -> Result<(), Error> {
        let gone = || Error::text("ERR the stream has ended");
        let turns = async {
            let own = self.replication.copying.lock().await;
            // It is never closed.
            (own, self.turns.acquire().await.ok())
        };
        let _turns = self.breathing(turns).await?;
        let (sender, receiver) = oneshot::channel();
        let pinned = match self.breathing(self.pin(sender)).await? {
            Ok(pinned) => pinned,
            Err(error) => {
                // A replica tries again later when it reads this; a final error would make it fall back to SYNC.
                let text = error.to_string();
                let text = text.strip_prefix("ERR ").unwrap_or(&text);
                self.replica.send(format!("-NOMASTERLINK {text}\r\n").as_bytes());
                return Err(error);
            }
        };
        let start = self.breathing(receiver).await?.map_err(|_| gone())?;
        if !self.replica.announced.is_old {
            self.replica.send(format!("+FULLRESYNC {} {}\r\n", start.id, start.offset).as_bytes());
        }
        self.replica.is_sent_everything();
        let now_ms = self.replica.now_ms();
        let Announced { knows_eof, rdb_only, .. } = self.replica.announced;
        let mut bytes = 0;
        if !knows_eof || rdb_only {
            let count = || self.write(Arc::clone(&pinned), now_ms, |_| Ok(()));
            let knew = self.replication.fields_expire.load(Ordering::SeqCst);
            bytes = match self.breathing(count()).await? {
                Err(_) if !knew && self.replication.fields_expire.load(Ordering::SeqCst) => {
                    self.breathing(count()).await??
                }
                counted => counted?,
            };
        }
        let mark = new_id();
        match knows_eof {
            true => self.replica.send(format!("$EOF:{mark}\r\n").as_bytes()),
            false => self.replica.send(format!("${bytes}\r\n").as_bytes()),
        }
        let to = Arc::clone(&self.replica);
        self.write(pinned, now_ms, move |bytes| send(&to, bytes)).await?;
        if knows_eof {
            self.replica.send(mark.as_bytes());
        }
        if !self.replica.announced.rdb_only {
            self.replica.has_everything();
        }
        tracing::info!(database = self.database.name(), client = self.replica.client.id, "a replica has everything");
        Ok(())
    }

    /// Pins the database at the moment at which the replica begins.
    async fn pin(&self, told: oneshot::Sender<Start>) -> Result<Arc<PinnedMoment>, Error> {
        let (replication, replica) = (Arc::clone(&self.replication), Arc::clone(&self.replica));
        if replica.announced.rdb_only {
            let view = replication.view();
            // It gets no stream, so it has no beginning in it.
            let _ = told.send(Start { id: view.id, offset: view.offset });
            return self.database.pin(Box::new(|_| ())).await.map(Arc::new);
        }
        let database = Arc::clone(&self.database);
        let beginning = Beginning { limit: replica.held_bytes_max(), replica, told };
        let at = move |ids: &_| replication.begin(&database, beginning, ids);
        self.database.pin(Box::new(at)).await.map(Arc::new)
    }

    /// Writes the RDB to `out`, on a thread of its own. Returns its length.
    async fn write(
        &self,
        pinned: Arc<PinnedMoment>,
        now_ms: u64,
        out: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) -> Result<u64, Error> {
        let runtime = self.database.engine.background.clone();
        let Announced { only, is_valkey_9, .. } = self.replica.announced;
        let target = match (self.replication.fields_expire.load(Ordering::SeqCst), is_valkey_9) {
            (false, _) => READERS,
            (true, false) => RdbReaders::REDIS_7_2,
            (true, true) => RdbReaders::VALKEY_9,
        };
        let functions = self.database.shared.functions.get();
        let written = self.database.engine.background.spawn_blocking(move || -> Result<u64, ExportError> {
            let out = Output(out);
            // The same both times that it is made.
            let about = About { target, server: REDIS_VERSION, now_ms, keeps_expired: true };
            if let Some(part) = only {
                let mut rdb = RdbWriter::with_target(out, target);
                if part == RdbPart::Functions {
                    functions.by_name.values().try_for_each(|library| rdb.function(&library.library.text))?;
                }
                return Ok(rdb.finish()?.1);
            }
            runtime.block_on(async {
                let snapshot = pinned.snapshot().await?;
                let exported = export(&snapshot, out, about, &mut |_| ()).await?.1;
                if exported.left_out > 0 {
                    tracing::warn!(
                        keys = exported.left_out,
                        "a replica lacks keys of types that Redis 7.0 does not have"
                    );
                }
                Ok(exported.bytes)
            })
        });
        let written: Result<u64, ExportError> =
            written.await.map_err(|error| Error::Store(format!("a copy failed: {error}")))?;
        written.map_err(|error| match error {
            ExportError::Database(error) => error,
            ExportError::Output(error) => {
                let is_too_old = error.kind() == io::ErrorKind::Unsupported;
                self.replication.fields_expire.fetch_or(is_too_old, Ordering::SeqCst);
                Error::Store(error.to_string())
            }
        })
    }

    /// Waits, with an empty line for the replica each second.
    async fn breathing<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return Ok(done),
                () = tokio::time::sleep(BREATH) => {
                    if self.replica.is_over() {
                        return Err(Error::text("ERR the replica has gone"));
                    }
                    self.replica.send(b"\n");
                }
            }
        }
    }
}

struct Output<W>(W);

impl<W: FnMut(&[u8]) -> io::Result<()>> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a part of the RDB once enough of what was sent before has left. Called on a thread that may wait.
fn send(replica: &Replica, bytes: &[u8]) -> io::Result<()> {
    // A large value comes in one piece.
    for bytes in bytes.chunks(UNSENT_BYTES_MAX) {
        let (mut pause, shortest) = (PAUSES.0, PAUSES.0);
        let (mut since, mut unsent) = (Instant::now(), usize::MAX);
        loop {
            if replica.is_over() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let now = replica.client.outbox_bytes();
            if now < UNSENT_BYTES_MAX {
                break;
            }
            if now < unsent {
                (since, unsent, pause) = (Instant::now(), now, shortest);
            } else if since.elapsed() > SILENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
        replica.send(bytes);
    }
    Ok(())
}
