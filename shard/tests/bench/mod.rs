//! Test bench of this folder: a database that runs commands as a server does.

use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_shard::commands::{Context, find};
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::execution::{self, Ended, Plan, PlannedCommand, Step, Turn};
use dormouse_shard::lane::Lane;
use dormouse_storage::log::Log;
use dormouse_storage::store::Store;
use tokio::runtime::{Builder, Runtime};

pub const NOW_MS: u64 = 1_700_000_000_000;

/// A database over a store in memory, on a runtime of one thread.
pub struct Bench {
    pub runtime: Runtime,
    pub database: Arc<Database>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_log(None)
    }

    /// Returns a bench whose writes go to `log`.
    pub fn with_log(log: Option<Arc<Log>>) -> Self {
        Self::over(Arc::new(Store::memory()), log)
    }

    /// Returns a bench over a store.
    pub fn over(store: Arc<Store>, log: Option<Arc<Log>>) -> Self {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let engine = Engine {
            store,
            lane: Lane::new("lane", 1, 0).expect("a thread"),
            loader: Lane::on(runtime.handle()),
            patient: Lane::on(runtime.handle()),
            background: runtime.handle().clone(),
            clock: || NOW_MS,
            writer: 1,
            log,
            recovered: Arc::default(),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        };
        let database = runtime.block_on(Database::open("test", 7, engine));
        Self { runtime, database }
    }

    /// Runs commands, each with its logical index; several run as one transaction. Returns their replies, or the
    /// refusal of them, or of a load that they need.
    pub async fn run_beside(&self, queue: &[(u8, &[&[u8]])]) -> String {
        let mut plan = Plan::new(NOW_MS, 1);
        plan.steps.extend(queue.iter().map(|(select, args)| {
            let request = OwnedRequest::from_args(args);
            let (row, run) = find(request.as_request()).expect("a command");
            let context =
                Context { select: *select, version: Version::Resp2, no_touch: false, tracker: Default::default() };
            Step::Command(PlannedCommand { row, run, request, context })
        }));
        let (plan, turn) = (Arc::new(plan), Arc::new(Turn::endless(None)));
        let outcome = match execution::run(&self.database, &plan, &turn).await {
            Ok(outcome) => outcome,
            Err(error) => return error.to_string(),
        };
        match outcome.ended {
            Ended::Refused(error) => error.to_string(),
            _ => String::from_utf8_lossy(&outcome.replies.buffer).into_owned(),
        }
    }

    /// Runs a command while other tasks run.
    pub async fn line_beside(&self, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.run_beside(&[(0, &args)]).await
    }

    /// Runs commands without other tasks.
    pub fn run(&self, queue: &[(u8, &[&[u8]])]) -> String {
        self.runtime.block_on(self.run_beside(queue))
    }

    pub fn line(&self, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.run(&[(0, &args)])
    }
}
