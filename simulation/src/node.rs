//! One process: its log and its databases, opened on the disk's contents.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_shard::database::{Database, Engine};
use dormouse_shard::lane::Lane;
use dormouse_storage::codec::value::pieces::Sizes;
use dormouse_storage::log::recovery::{self, Recovered};
use dormouse_storage::log::sink::{self, Restating, Sink};
use dormouse_storage::log::{Log, Lsn};
use dormouse_storage::store::{MasterKey, Store};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::clock;
use crate::disk::{Disk, Objects};
use crate::files::SimulatedFiles;
use crate::model::Model;
use crate::plan::Plan;
use crate::state;

pub struct Node {
    pub log: Arc<Log>,
    pub databases: Vec<Arc<Database>>,
}

pub fn name(database: usize) -> &'static str {
    ["a", "b"][database]
}

/// The store, encrypted from the first process on if the disk says so.
///
/// # Errors
/// When its keys cannot be read.
pub async fn store(disk: &Arc<Disk>) -> Result<Arc<Store>, String> {
    let store = Store::over(Objects::new(disk), "simulation://");
    if !disk.is_encrypted {
        return Ok(Arc::new(store));
    }
    let master_key = MasterKey::of_bytes([7; 32]);
    store.encrypted(&master_key).await.map(Arc::new).map_err(|error| error.to_string())
}

fn sink(disk: &Arc<Disk>, store: &Arc<Store>) -> Box<dyn Sink> {
    match disk.is_folder {
        true => Box::new(SimulatedFiles::of(disk, store)),
        // A short interval, so that a short run has it too.
        false => Box::new(sink::Objects::restating(Arc::clone(store), Restating { objects: 4, bytes: 4_000 })),
    }
}

/// The engine of a process, all of which runs on the present runtime.
pub fn engine(store: Arc<Store>, writer: u64, log: &Arc<Log>, recovered: Recovered) -> Engine {
    let lane = Lane::on(&Handle::current());
    Engine {
        store,
        lane: lane.clone(),
        loader: lane.clone(),
        patient: lane,
        background: Handle::current(),
        clock: clock::now_ms,
        writer,
        log: Some(Arc::clone(log)),
        recovered: Arc::new(Mutex::new(recovered)),
        give_back: || {},
        health: Arc::default(),
        claims: None,
    }
}

impl Node {
    /// # Errors
    /// When an earlier log cannot be read.
    pub async fn start(disk: &Arc<Disk>, plan: &Plan, writer: u64) -> Result<Self, String> {
        let store = store(disk).await?;
        let (log, recovered) =
            Log::over(sink(disk, &store), writer, clock::now_ms).map_err(|error| error.to_string())?;
        let engine = engine(store, writer, &log, recovered);
        let mut databases = Vec::new();
        for (at, seed) in plan.seeds.iter().enumerate() {
            let database = Database::open(name(at), *seed, engine.clone()).await;
            database.shared.journal.declare(plan.windows[at]);
            database.keep_history(plan.history_ms);
            if plan.is_in_pieces {
                cut_small(&database);
            }
            if let Some(limit) = plan.limits[at] {
                let mut settings = **database.shared.settings.load();
                (settings.memory_max, settings.eviction) = (limit.bytes, limit.policy);
                database.shared.settings.store(Arc::new(settings));
            }
            databases.push(database);
        }
        Ok(Self { log, databases })
    }

    /// Returns the sequence number of each database.
    pub fn sequences(&self) -> Vec<u64> {
        self.databases.iter().map(|database| database.shared.sequence.load(Ordering::SeqCst)).collect()
    }

    /// Puts everything to sleep and ends the log, as a process does that is told to end.
    ///
    /// # Errors
    /// The data that could not be written.
    pub async fn close(&self) -> Result<(), String> {
        for database in &self.databases {
            database.close().await.map_err(|error| error.to_string())?;
        }
        self.log.finish().map_err(|error| error.to_string())
    }

    pub fn flushed(&self) -> Lsn {
        self.log.flushed()
    }
}

/// Makes values of a few elements large.
fn cut_small(database: &Database) {
    let mut settings = **database.shared.settings.load();
    settings.sizes = Sizes { large_bytes: 200, piece_bytes: 150, step_bytes: 40 };
    settings.limits.hash_max_listpack_entries = 2;
    settings.limits.set_max_listpack_entries = 2;
    settings.limits.set_max_intset_entries = 2;
    settings.limits.zset_max_listpack_entries = 2;
    settings.limits.list_max_listpack_size = 2;
    settings.limits.stream_node_max_entries = 3;
    database.shared.settings.store(Arc::new(settings));
}

/// Returns the contents of a database on the disk, as seen by a mere reader.
///
/// # Errors
/// The data that cannot be read.
pub async fn look(disk: &Arc<Disk>, name: &str) -> Result<Model, String> {
    let store = store(disk).await?;
    let logs = recovery::look(&mut *sink(disk, &store)).map_err(|error| error.to_string())?;
    let recovered: Recovered = recovery::collect(logs);
    state::stored(&store, name, recovered).await.map_err(|error| error.to_string())
}
