use std::ffi::OsString;
use std::sync::Arc;

use dormouse_shard::database::Engine;
use dormouse_shard::lane::Lane;
use dormouse_storage::directory::{DatabaseRecord, Deletion, DirectoryWriters, TokenRecord, TokenScope};
use dormouse_storage::store::{FaultyStore, Store};
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::cli::Invocation;
use crate::clients::{Client, TokenUse};
use crate::commands::{COUNTED, SUBJECTS};
use crate::config::Settings;
use crate::directory::secret::{new_secret, token_text};
use crate::options::Tokens;
use crate::peer::Peer;

/// The databases of one node, and its clients.
struct TestNode {
    tenants: Tenants,
    clients: Clients,
}

struct Fleet {
    runtime: Runtime,
    store: Arc<FaultyStore>,
}

impl Fleet {
    fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { runtime, store: FaultyStore::memory() }
    }

    fn node(&self, writer: u64) -> Arc<TestNode> {
        let runtime = self.runtime.handle();
        let engine = Engine {
            store: Arc::new(Store::over(Arc::clone(&self.store) as _, "memory://")),
            lane: Lane::on(runtime),
            loader: Lane::on(runtime),
            patient: Lane::on(runtime),
            background: runtime.clone(),
            clock: || 1000,
            writer,
            log: None,
            recovered: Arc::default(),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        };
        let Ok(Invocation::Serve(options)) = Invocation::parse(["dormouse"].map(OsString::from), []) else { panic!() };
        let (settings, tokens) = (Settings::new(&options), Tokens::default());
        let shared = DirectoryWriters::Shared;
        let opened = Tenants::open(tokens, &engine, shared, &settings, &COUNTED, &SUBJECTS, || 1);
        let node = Arc::new(TestNode { tenants: self.runtime.block_on(opened).unwrap(), clients: Clients::default() });
        let following = Arc::clone(&node);
        self.runtime.spawn(async move { following.tenants.follow_foreign(&following.clients).await });
        node
    }
}

impl TestNode {
    /// Makes a database with a token. Returns the text of the token.
    async fn create(&self, name: &str) -> String {
        let (secret, hash) = new_secret();
        let (scope, prefix) = (TokenScope::ReadWrite, Box::default());
        let token = TokenRecord { id: 1, hash, created_ms: 1, expires_ms: None, scope, prefix };
        let record = DatabaseRecord { next_token: 2, tokens: vec![token], ..DatabaseRecord::new(name, 1) };
        self.set(name, move |_| Some(record.clone())).await;
        token_text(name, &secret)
    }

    async fn set(
        &self,
        name: &str,
        change: impl Fn(Option<DatabaseRecord>) -> Option<DatabaseRecord> + Send + 'static,
    ) {
        let decide = move |before| Ok((change(before), ()));
        self.tenants.directory.change(name, Vec::new(), decide).await.unwrap();
    }

    /// A client that has entered with the first token of a database.
    fn client(&self, database: &str) -> Arc<Client> {
        let client = self.clients.add_stranger(Peer::Unix("test".into()), 0, 10);
        client.told.lock().token = Some(TokenUse { database: database.into(), id: 1, expires_ms: None });
        client
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.tenants.directory.refresh().await;
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn a_database_of_another_node_can_be_entered_at_once() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node(1), fleet.node(2));
    assert!(a.tenants.directory.has_begun() && b.tenants.directory.number() == 1, "one of them has founded it");
    fleet.runtime.block_on(async {
        let token = a.create("shop").await;
        let _found = b.tenants.prepare(b"", token.as_bytes()).await;
        assert!(b.tenants.log_in(b"", token.as_bytes()).is_some());
        // A second token of a database that it has in memory.
        let (secret, hash) = new_secret();
        a.set("shop", move |before| {
            let mut record = before.unwrap();
            record.tokens.push(TokenRecord { id: 2, hash, ..record.tokens[0].clone() });
            Some(DatabaseRecord { next_token: 3, ..record })
        })
        .await;
        let second = token_text("shop", &secret);
        assert!(b.tenants.log_in(b"", second.as_bytes()).is_none());
        let _found = b.tenants.prepare(b"", second.as_bytes()).await;
        assert!(b.tenants.log_in(b"", second.as_bytes()).is_some());
    });
}

#[test]
fn changes_of_another_node_have_their_effects_here() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.node(1), fleet.node(2));
    fleet.runtime.block_on(async {
        let token = a.create("shop").await;
        let _ = b.tenants.prepare(b"", token.as_bytes()).await;
        let (client, other) = (b.client("shop"), b.client("blog"));
        // Settings.
        a.set("shop", |before| {
            let mut record = before.unwrap();
            record.settings.insert("max-memory".into(), "64mb".into());
            Some(record)
        })
        .await;
        let limit = |node: &TestNode| node.tenants.of_name("shop").map(|tenant| tenant.settings_now().max_memory);
        b.until(|node| limit(node) == Some(64 << 20)).await;
        assert!(!client.is_killed());
        // A token.
        a.set("shop", |before| Some(DatabaseRecord { tokens: Vec::new(), ..before.unwrap() })).await;
        b.until(|_| client.is_killed()).await;
        assert!(!other.is_killed());
        // A deletion, taken back, and for good.
        let deleted = Some(Deletion { at_ms: 1, until_ms: 9000 });
        a.set("shop", move |before| Some(DatabaseRecord { deleted, ..before.unwrap() })).await;
        b.until(|node| !node.tenants.has_name("shop")).await;
        a.set("shop", |before| Some(DatabaseRecord { deleted: None, ..before.unwrap() })).await;
        b.until(|node| node.tenants.has_name("shop")).await;
        assert!(b.tenants.opened("shop").await.is_some());
        a.set("shop", |_| None).await;
        b.until(|node| !node.tenants.has_name("shop")).await;
    });
}
