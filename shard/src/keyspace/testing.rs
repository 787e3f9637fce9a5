//! Access to a keyspace's effects in its log, for tests.

use std::sync::Arc;

use dormouse_storage::codec::Reader;
use dormouse_storage::log::format::{Identity, LogItem, read_item};
use dormouse_storage::log::sink::Objects;
use dormouse_storage::log::{Journal, Log};
use dormouse_storage::store::Store;

use super::Shared;

/// An effect as the log has it.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub sequence: u64,
    pub now_ms: u64,
    pub keyspace: u32,
    pub followed: bool,
    pub position: u64,
    pub body: Vec<u8>,
}

/// A log in memory, and the one database that writes it.
pub(crate) struct TestLog {
    log: Arc<Log>,
    store: Arc<Store>,
    identity: Identity,
}

impl TestLog {
    /// Logs everything that is written from here on.
    pub fn of(shared: &mut Shared) -> Self {
        let store = Arc::new(Store::memory());
        let identity = Identity { name: "test".into(), seed: shared.placement.seed, created_ms: 1 };
        let (log, _) = Log::over(Box::new(Objects::new(Arc::clone(&store))), 1, || 0).expect("memory does not fail");
        shared.journal = Journal::of(&log, &identity);
        shared.journal.record(true);
        Self { log, store, identity }
    }

    /// All effects, in the order of the log.
    pub fn effects(&self) -> Vec<Kept> {
        self.log.flush().expect("memory does not fail");
        let entries = Log::look(&self.store).expect("memory does not fail").entries_of(&self.identity);
        assert_eq!(entries.damage, None);
        let mut effects = Vec::new();
        for entry in entries.entries {
            let mut reader = Reader::new(&entry.items);
            while let Ok(item) = read_item(&mut reader) {
                if let LogItem::Effect { keyspace, followed, position, body } = item {
                    let (sequence, now_ms, body) = (entry.sequence, entry.now_ms, body.to_vec());
                    effects.push(Kept { sequence, now_ms, keyspace, followed, position, body });
                }
            }
        }
        effects
    }
}
