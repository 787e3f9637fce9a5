//! The connected clients: their list, and their places on the node.
//!
//! A [`Client`] is shared; its session is not.

mod client;
mod outbox;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use self::client::Common;
pub use self::client::{Client, SessionWait, ShownSecret, TokenUse, Told, blocked};
pub use self::outbox::OutputLimit;
use crate::account::{self, Account, CONNECTION_BYTES};
use crate::peer::Peer;
use crate::strangers::{self, Strangers};

/// All clients of the node. Clients that have not shown a token do not count toward the limit of clients.
#[derive(Debug)]
pub struct Clients {
    all: Mutex<All>,
    last_id: AtomicU64,
    count: AtomicUsize,
    pub accepted: AtomicU64,
    pub rejected: AtomicU64,
    is_draining: AtomicBool,
    /// The account of all clients.
    pub memory: Arc<Account>,
    /// The account of clients that have not shown a token.
    strangers_memory: Arc<Account>,
    /// Told of each of them.
    estranged: Notify,
    common: Arc<Common>,
}

impl Default for Clients {
    fn default() -> Self {
        let memory = Account::new(account::TOTAL, usize::MAX);
        Self {
            all: Mutex::default(),
            last_id: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            strangers_memory: Account::with_each_min(
                account::OF_STRANGERS,
                strangers::MEMORY_MAX,
                strangers::MEMORY_EACH_MIN,
            ),
            estranged: Notify::new(),
            common: Arc::new(Common {
                memory: Arc::clone(&memory),
                written_max: AtomicUsize::new(usize::MAX),
                ends_commands: AtomicBool::new(false),
                lagging: Mutex::default(),
            }),
            memory,
        }
    }
}

#[derive(Debug, Default)]
struct All {
    by_id: BTreeMap<u64, Arc<Client>>,
    /// Number of welcome clients, in total and for each database.
    welcome: usize,
    by_database: HashMap<Arc<str>, usize>,
    strangers: Strangers,
}

/// The number of clients that the node takes.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    pub max: usize,
    /// The number that the client's own database takes, with its branches.
    pub of_database: usize,
    /// The number of databases that share the places. Each can claim its part of a quarter of them, whatever the others
    /// take.
    pub databases: usize,
    /// Whether new clients are refused because the process has no memory left.
    pub is_out_of_memory: bool,
}

/// The reason why the node refuses a client. `Display` is the text that the client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("ERR max number of clients reached")]
    TooMany,
    #[error("ERR max concurrent connections exceeded")]
    TooManyOfDatabase,
    #[error("OOM no new clients are taken when used memory > 'maxmemory-total'.")]
    OutOfMemory,
}

impl All {
    /// Gives a client of `database` a place.
    fn admit(&mut self, database: &Arc<str>, places: Places) -> Result<(), Refusal> {
        if places.is_out_of_memory {
            return Err(Refusal::OutOfMemory);
        }
        if self.by_database.get(database).copied().unwrap_or(0) >= places.of_database {
            return Err(Refusal::TooManyOfDatabase);
        }
        if self.welcome + self.kept_for_others(database, places) >= places.max {
            return Err(Refusal::TooMany);
        }
        self.welcome += 1;
        *self.by_database.entry(Arc::clone(database)).or_default() += 1;
        Ok(())
    }

    fn dismiss(&mut self, database: &Arc<str>) {
        self.welcome -= 1;
        if let Some(count) = self.by_database.get_mut(database) {
            *count -= 1;
            if *count == 0 {
                self.by_database.remove(database);
            }
        }
    }

    /// Number of places that the other databases can still claim.
    fn kept_for_others(&self, database: &Arc<str>, places: Places) -> usize {
        let quarter = places.max / 4;
        if self.welcome + quarter < places.max {
            return 0;
        }
        let share = quarter / places.databases.max(1);
        let claimed =
            self.by_database.iter().filter(|(name, _)| *name != database).map(|(_, count)| *count.min(&share));
        (share * places.databases.saturating_sub(1)).saturating_sub(claimed.sum())
    }
}

impl Clients {
    /// Adds a client of a database that requires no token.
    ///
    /// # Errors
    /// When the node does not take it.
    pub fn add(
        &self,
        peer: Peer,
        database: &Arc<str>,
        account: &Arc<Account>,
        now_ms: u64,
        places: Places,
    ) -> Result<Arc<Client>, Refusal> {
        let mut all = self.all.lock();
        all.admit(database, places).inspect_err(|_| self.reject())?;
        let client = self.enlist(&mut all, peer, Arc::clone(database), account, now_ms);
        *client.welcome_in.lock() = Some(Arc::clone(database));
        Ok(client)
    }

    fn reject(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a client that has to show a token. If strangers hold more than `places`, an older one is closed.
    pub fn add_stranger(&self, peer: Peer, now_ms: u64, places: usize) -> Arc<Client> {
        let mut all = self.all.lock();
        let client = self.enlist(&mut all, peer, "".into(), &self.strangers_memory, now_ms);
        self.close_for(&mut all, &client, now_ms, places);
        client
    }

    /// Records that a client has shown a token of `database`.
    ///
    /// # Errors
    /// When the node does not take it. Then it keeps its previous place.
    pub fn welcome(&self, client: &Client, database: &Arc<str>, places: Places) -> Result<(), Refusal> {
        let mut all = self.all.lock();
        let mut place = client.welcome_in.lock();
        if place.as_ref() == Some(database) {
            return Ok(());
        }
        // A client that comes from another database gives up its place there.
        let before = place.take();
        before.iter().for_each(|before| all.dismiss(before));
        if let Err(refusal) = all.admit(database, places) {
            self.reject();
            if let Some(before) = before {
                all.welcome += 1;
                *all.by_database.entry(Arc::clone(&before)).or_default() += 1;
                *place = Some(before);
            }
            return Err(refusal);
        }
        *place = Some(Arc::clone(database));
        all.strangers.remove(client.id);
        Ok(())
    }

    /// Requires a client to show a token again.
    pub fn estrange(&self, client: &Arc<Client>, now_ms: u64, places: usize) {
        let mut all = self.all.lock();
        if let Some(database) = client.welcome_in.lock().take() {
            all.dismiss(&database);
            client.charge_to(&self.strangers_memory);
            self.close_for(&mut all, client, now_ms, places);
        }
    }

    /// Shows a client with the address that a node of the fleet has given for it; `None`: with that of its connection. A
    /// stranger counts for the shown address from then on.
    pub fn show(&self, client: &Client, peer: Option<Peer>, now_ms: u64, places: usize) {
        client.show_peer(peer);
        let mut all = self.all.lock();
        if client.welcome_in.lock().is_none() {
            self.close_for(&mut all, client, now_ms, places);
        }
    }

    /// Closes strangers that connected before `since_ms`.
    pub fn close_strangers_before(&self, since_ms: u64) {
        let all = self.all.lock();
        all.strangers.before(since_ms).iter().filter_map(|id| all.by_id.get(id)).for_each(|client| client.kill());
    }

    /// Closes the strangers that keep most memory, if all strangers together keep too much.
    pub fn close_hoarding_strangers(&self) {
        if let Some(bytes) = self.strangers_memory.is_crowded() {
            self.evict(&self.strangers_memory, bytes);
        }
    }

    pub fn strangers(&self) -> usize {
        self.all.lock().strangers.len()
    }

    /// Waits until there is a client that has not shown a token.
    pub async fn until_strangers(&self) {
        loop {
            let estranged = self.estranged.notified();
            if self.strangers() > 0 {
                return;
            }
            estranged.await;
        }
    }

    fn close_for(&self, all: &mut All, stranger: &Client, now_ms: u64, places: usize) {
        self.estranged.notify_waiters();
        if let Some(client) = all.strangers.add(stranger.id, &stranger.peer(), now_ms, places) {
            self.reject();
            all.by_id.get(&client).inspect(|client| client.kill());
        }
    }

    /// Closes the clients that keep most memory of `account`, until `bytes` are free. Returns the number of closed
    /// clients.
    pub fn evict(&self, account: &Arc<Account>, bytes: usize) -> usize {
        let mut hoarders: Vec<_> = self.list();
        hoarders.retain(|client| {
            client.is_charged_to(account) && !client.no_evict.load(Ordering::Relaxed) && !client.is_killed()
        });
        hoarders.sort_by_cached_key(|client| std::cmp::Reverse(client.held_bytes()));
        let (mut left, mut closed) = (bytes, 0);
        for client in hoarders {
            // Closing a client that holds next to nothing would not help.
            if left == 0 || client.held_bytes() <= client.peer().connection_bytes() + CONNECTION_BYTES {
                break;
            }
            left = left.saturating_sub(client.held_bytes());
            tracing::warn!(database = &*client.database(), client = client.id, peer = %client.peer(), bytes = client.held_bytes(), "closed: it keeps most of the memory that its fellows may keep together");
            client.kill();
            closed += 1;
        }
        closed
    }

    fn enlist(
        &self,
        all: &mut All,
        peer: Peer,
        database: Arc<str>,
        account: &Arc<Account>,
        now_ms: u64,
    ) -> Arc<Client> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Client::new(id, peer, database, account, &self.common, now_ms);
        let client = Arc::new(client);
        client.hold_anyway(client.peer().connection_bytes());
        all.by_id.insert(id, Arc::clone(&client));
        self.count.store(all.by_id.len(), Ordering::Relaxed);
        client
    }

    pub fn remove(&self, id: u64) {
        let mut all = self.all.lock();
        all.strangers.remove(id);
        if let Some(client) = all.by_id.remove(&id) {
            let database = client.welcome_in.lock().take();
            database.iter().for_each(|database| all.dismiss(database));
            client.leave();
            client.let_go(usize::MAX);
        }
        self.count.store(all.by_id.len(), Ordering::Relaxed);
    }

    /// Limits the bytes of replies of each client.
    pub fn limit_written(&self, bytes: usize) {
        self.common.written_max.store(bytes, Ordering::Relaxed);
    }

    /// The clients whose output may wait for too long. The caller [looks at each](Client::check_output), which keeps those
    /// among them that still have any.
    pub fn lagging(&self) -> Vec<Arc<Client>> {
        let lagging = std::mem::take(&mut *self.common.lagging.lock());
        if lagging.is_empty() {
            return Vec::new();
        }
        let all = self.all.lock();
        lagging.iter().filter_map(|id| all.by_id.get(id)).cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Closes every client once it has its replies, including clients that connect from now on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        self.list().iter().for_each(|client| client.waker.wake());
    }

    /// Asks for the end of all commands that run and have changed nothing.
    pub fn end_commands(&self) {
        self.common.ends_commands.store(true, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// All clients in the order of their ids.
    pub fn list(&self) -> Vec<Arc<Client>> {
        self.all.lock().by_id.values().cloned().collect()
    }

    /// How many clients have a place for a database.
    pub fn count_of(&self, database: &str) -> usize {
        self.all.lock().by_database.get(database).copied().unwrap_or(0)
    }

    /// The clients of one database: no tenant sees another's. A closed client is left out even if its worker has yet to
    /// notice.
    pub fn of_database(&self, database: &str) -> Vec<Arc<Client>> {
        let mut clients = self.list();
        clients.retain(|client| client.is_of(database));
        clients
    }

    /// Those of one database among the next `count` clients of all, from id `from` on, and where to continue.
    pub fn some_of_database(&self, database: &str, from: u64, count: usize) -> (Vec<Arc<Client>>, Option<u64>) {
        let mut clients: Vec<_> =
            self.all.lock().by_id.range(from..).take(count).map(|(_, it)| Arc::clone(it)).collect();
        let next = clients.last().filter(|_| clients.len() == count).map(|last| last.id + 1);
        clients.retain(|client| client.is_of(database));
        (clients, next)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, poll};

    use super::outbox::{CHARGED_AT_ONCE, PIECE_BYTES};
    use super::*;

    fn places(max: usize, databases: usize) -> Places {
        Places { max, of_database: usize::MAX, databases, is_out_of_memory: false }
    }

    /// Adds clients of `database` until the node refuses one. Returns the number of added clients.
    fn fill(clients: &Clients, database: &str, places: Places) -> usize {
        let account = Account::new(account::OF_DATABASE, usize::MAX);
        let add = || clients.add(Peer::Unix("test".into()), &database.into(), &account, 0, places);
        std::iter::from_fn(|| add().ok()).count()
    }

    #[test]
    fn a_database_cannot_take_all_places() {
        let clients = Clients::default();
        assert_eq!(fill(&clients, "alone", places(100, 1)), 100, "but it can where it is alone");
        let clients = Clients::default();
        // A quarter of the places is shared: 5 for each of 5.
        assert_eq!(fill(&clients, "greedy", places(100, 5)), 80);
        assert_eq!(fill(&clients, "second", places(100, 5)), 5);
        assert_eq!(fill(&clients, "third", places(100, 5)), 5);
        assert_eq!(fill(&clients, "greedy", places(100, 5)), 0);
        assert_eq!(fill(&clients, "fourth", places(100, 5)), 5);
        assert_eq!(fill(&clients, "fifth", places(100, 5)), 5);
        // A client that leaves frees its place for another one.
        let first = clients.list().remove(0);
        clients.remove(first.id);
        assert_eq!(fill(&clients, "fifth", places(100, 5)), 1);
    }

    #[test]
    fn a_database_has_a_limit_of_its_own() {
        let clients = Clients::default();
        let limited = Places { of_database: 3, ..places(100, 2) };
        assert_eq!(fill(&clients, "small", limited), 3);
        assert_eq!(fill(&clients, "other", places(10, 2)), 7, "the others are not concerned");
        let client = clients.list().remove(0);
        assert_eq!(clients.welcome(&client, &"small".into(), limited), Ok(()), "it has its place");
        assert_eq!(clients.welcome(&clients.list()[5], &"small".into(), limited), Err(Refusal::TooManyOfDatabase));
        // A limit that was lowered closes nothing, and lets none in before enough have left.
        assert_eq!(fill(&clients, "small", Places { of_database: 2, ..limited }), 0);
        clients.remove(client.id);
        assert_eq!(fill(&clients, "small", Places { of_database: 2, ..limited }), 0);
        assert_eq!(fill(&clients, "small", limited), 1);
    }

    #[test]
    fn messages_are_taken_in_their_order_and_in_pieces() {
        let clients = Clients::default();
        assert_eq!(fill(&clients, "reader", places(1, 1)), 1);
        let client = clients.list().remove(0);
        let limit = OutputLimit { hard_bytes: 0, soft_bytes: 0, soft_seconds: 0 };
        let messages: Vec<Vec<u8>> =
            [10, 20, PIECE_BYTES, 30, 3 * PIECE_BYTES, 40].iter().zip(0..).map(|(len, n)| vec![n; *len]).collect();
        let own = client.held_bytes();
        messages.iter().for_each(|message| client.tell(message, limit, 0));
        let all = messages.concat();
        let is_charged = |bytes: usize| {
            let charged = client.held_bytes() - own;
            client.outbox_bytes() == bytes && (bytes..=bytes + CHARGED_AT_ONCE).contains(&charged)
        };
        assert!(is_charged(all.len()));
        let mut taken = Vec::new();
        for turn in 0.. {
            let mut some = Vec::with_capacity(turn);
            client.take_messages(&mut some, PIECE_BYTES);
            assert!(!some.is_empty() && some.len() <= 4 * PIECE_BYTES);
            taken.append(&mut some);
            let left = all.len() - taken.len();
            assert!(is_charged(left));
            if !client.has_messages() {
                break;
            }
        }
        assert_eq!(client.held_bytes(), own);
        assert_eq!(taken, all);
    }

    #[test]
    fn only_clients_that_lag_are_looked_at() {
        let clients = Clients::default();
        assert_eq!(fill(&clients, "reader", places(4, 1)), 4);
        let all = clients.list();
        let limit = OutputLimit { hard_bytes: 0, soft_bytes: 100, soft_seconds: 10 };
        let lagging = || clients.lagging().iter().map(|client| client.id).collect::<Vec<_>>();
        all[0].tell(&[0; 100], limit, 0);
        assert!(lagging().is_empty(), "a short message is sent at once");
        // The second is above the soft limit, the third does not read its replies.
        (0..2).for_each(|_| all[1].tell(&[0; 101], limit, 0));
        (0..2).for_each(|_| all[2].wait_to_send(101));
        for (now_ms, expected) in [(5_000, 2), (15_000, 2), (15_001, 1)] {
            let looked_at = clients.lagging();
            assert_eq!(looked_at.len(), expected, "{now_ms}");
            looked_at.iter().for_each(|client| client.check_output(limit, now_ms));
        }
        assert_eq!(all.iter().map(|client| client.is_killed()).collect::<Vec<_>>(), [false, true, true, false]);
        // One that has sent everything, and comes again.
        all[3].wait_to_send(10);
        for left in [10, 0] {
            all[3].output_bytes.store(left, Ordering::Relaxed);
            let looked_at = clients.lagging();
            assert_eq!(looked_at.len(), 1);
            looked_at[0].check_output(limit, 20_000);
        }
        assert!(lagging().is_empty());
        all[3].wait_to_send(10);
        assert_eq!(lagging(), [all[3].id]);
    }

    #[tokio::test]
    async fn strangers_are_awaited() {
        let clients = Clients::default();
        let mut waiting = Box::pin(clients.until_strangers());
        assert!(poll!(&mut waiting).is_pending());
        let stranger = clients.add_stranger(Peer::Unix("test".into()), 0, 10);
        assert!(poll!(&mut waiting).is_ready());
        clients.until_strangers().await;
        clients.remove(stranger.id);
        assert!(clients.until_strangers().now_or_never().is_none());
    }

    #[test]
    fn without_memory_no_client_is_taken() {
        let clients = Clients::default();
        let account = Account::new(account::OF_DATABASE, usize::MAX);
        let full = Places { is_out_of_memory: true, ..places(10, 1) };
        let refused = clients.add(Peer::Unix("test".into()), &"a".into(), &account, 0, full);
        assert_eq!(refused.err(), Some(Refusal::OutOfMemory));
        assert_eq!((clients.count(), account.used()), (0, 0));
    }

    #[test]
    fn strangers_together_have_a_bound_and_each_can_say_who_it_is() {
        let clients = Clients::default();
        let add = || clients.add_stranger(Peer::Unix("test".into()), 0, 1024);
        let mut hoarders = Vec::new();
        while hoarders.len() < 1000 {
            let hoarder = add();
            if hoarder.hold(160 << 10).is_err() {
                break;
            }
            hoarders.push(hoarder);
        }
        assert!(clients.memory.used() <= strangers::MEMORY_MAX, "{}", clients.memory.used());
        let late = add();
        assert_eq!(late.hold(1000), Ok(()), "that is enough for a token");
        assert_eq!(late.hold(160 << 10), Err(account::OF_STRANGERS));
        clients.close_hoarding_strangers();
        assert!(!late.is_killed() && hoarders.iter().any(|hoarder| hoarder.is_killed()));
    }

    #[test]
    fn a_reply_that_gets_along_with_less_room_harms_nobody() {
        let clients = Clients::default();
        let account = Account::new(account::OF_DATABASE, 10 << 20);
        let add = || clients.add(Peer::Unix("test".into()), &"a".into(), &account, 0, places(10, 1)).unwrap();
        let (small, large) = (add(), add());
        large.hold(9 << 20).unwrap();
        let mut reply = dormouse_protocol::Reply::within(Default::default(), Some(Arc::clone(&small) as _));
        let written = (0..100).take_while(|_| {
            let start = reply.len();
            reply.bulk(&[b'x'; 8 << 10]);
            reply.settle(start);
            reply.granted() < 900 << 10
        });
        assert!(written.count() > 80, "so much fits");
        assert_eq!((account.is_crowded(), account.refusals()), (None, 0));
    }

    #[test]
    fn a_client_takes_its_charges_with_it() {
        let clients = Clients::default();
        let accounts = [100 << 10, 10 << 10].map(|limit| Account::new(account::OF_DATABASE, limit));
        let add = || clients.add(Peer::Unix("test".into()), &"a".into(), &accounts[0], 0, places(10, 1)).unwrap();
        let (small, large) = (add(), add());
        small.hold(20 << 10).unwrap();
        large.hold(60 << 10).unwrap();
        assert_eq!(large.hold(20 << 10), Err(account::OF_DATABASE));
        assert_eq!(accounts[0].is_crowded(), None, "it has most of it itself");
        assert_eq!(small.hold(20 << 10), Err(account::OF_DATABASE));
        assert_eq!(clients.memory.used(), 2 * CONNECTION_BYTES + (80 << 10));
        // The largest client is closed, and only as many as needed.
        assert_eq!(clients.evict(&accounts[0], accounts[0].is_crowded().unwrap()), 1);
        assert_eq!((small.is_killed(), large.is_killed()), (false, true));
        clients.remove(large.id);
        assert_eq!(accounts[0].used(), CONNECTION_BYTES + (20 << 10));
        small.charge_to(&accounts[1]);
        assert_eq!((accounts[0].used(), accounts[1].used()), (0, CONNECTION_BYTES + (20 << 10)));
        assert_eq!(small.hold(1), Err(account::OF_DATABASE), "what it has brought is more than it may have here");
        small.let_go(usize::MAX);
        assert_eq!((accounts[1].used(), clients.memory.used()), (0, 0));
        clients.memory.set_limit(10);
        assert_eq!(small.hold(11), Err(account::TOTAL));
        assert_eq!(accounts[1].used(), 0, "nothing of a refused charge stays");
    }
}
