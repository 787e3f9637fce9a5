//! Strangers: connections that have not shown a token, on a server that requires one.
//!
//! Anyone who reaches the port can open them, so they get little, and cannot keep a tenant out:
//!
//! 1. They have places of their own ([`places`]), beside those of `--max-clients`. If all are taken, a new connection
//!    is accepted and an older one is closed: the oldest of the address that has most. A tenant shows its token at
//!    once, so it gets in despite any number of strangers.
//! 2. They have to show a token within `--auth-timeout`.
//! 3. Each wrong token is answered later than the one before on the same connection, which is closed after some. An
//!    address that has shown many wrong tokens waits before each further token is checked ([`Guesses`]), right or
//!    wrong: if only wrong ones waited, silence would reveal as much as a refusal. Right tokens from other addresses
//!    never wait.
//! 4. Memory that they make the server keep is charged to an account of all strangers ([`MEMORY_MAX`]). If it is full,
//!    those that keep most are closed, but each still has room for a token.
//! 5. They may send a number of other requests, all of which are refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::account::{CONNECTION_BYTES, TLS_BYTES};
use crate::peer::Peer;

/// Number of wrong tokens after which a connection is closed.
pub const GUESSES_MAX: u32 = 8;

/// Number of refused requests after which a stranger is closed: many more than a client library sends before its token.
pub const REFUSALS_MAX: u32 = 1000;

/// Delay of the first wrong token on a connection. It doubles with each.
const DELAY_FIRST: Duration = Duration::from_millis(20);
const DELAY_MAX: Duration = Duration::from_secs(2);

/// Number of wrong tokens from one address that cost nothing, and the wait that each one beyond them adds to the next.
const GUESSES_FREE: f64 = 32.0;
const DELAY_STEP: Duration = Duration::from_millis(10);
/// Time after which half of an address's wrong tokens are forgotten.
const HALF_LIFE_MS: f64 = 30_000.0;

/// Most addresses whose wrong tokens are remembered.
const ORIGINS_MAX: usize = 4096;

/// Bytes that all strangers together may make the server keep, including their connections.
pub const MEMORY_MAX: usize = 16 << 20;
/// Bytes that each stranger may have, whatever the others keep: its connection, and a request that shows a token.
pub const MEMORY_EACH_MIN: usize = 2 * CONNECTION_BYTES + TLS_BYTES;

/// Least number of places for strangers.
pub const PLACES_MIN: usize = 16;

/// Returns the places for strangers on a server that takes `max_clients` clients.
pub fn places(max_clients: usize) -> usize {
    (max_clients / 8).clamp(PLACES_MIN, 1024)
}

/// The origin of a connection, at the granularity that one person may control: with IPv6, a customer has a whole
/// network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Neighbourhood {
    Local,
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Neighbourhood {
    pub fn of(peer: &Peer) -> Self {
        let Peer::Tcp { remote, .. } = peer else { return Self::Local };
        match remote.ip().to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let mut network = [0; 8];
                network.copy_from_slice(&address.octets()[..8]);
                Self::V6(network)
            }
        }
    }
}

/// All strangers in the order of their arrival.
#[derive(Debug, Default)]
pub struct Strangers {
    last_turn: u64,
    by_turn: BTreeMap<u64, Stranger>,
    /// Their turns, by client.
    turns: HashMap<u64, u64>,
    by_origin: HashMap<Neighbourhood, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Stranger {
    client: u64,
    origin: Neighbourhood,
    since_ms: u64,
}

impl Strangers {
    pub fn len(&self) -> usize {
        self.by_turn.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }

    /// Adds the client with this id. If there are more than `places`, returns the client to close for it.
    pub fn add(&mut self, client: u64, peer: &Peer, now_ms: u64, places: usize) -> Option<u64> {
        self.remove(client);
        self.last_turn += 1;
        let turn = self.last_turn;
        let origin = Neighbourhood::of(peer);
        self.turns.insert(client, turn);
        self.by_origin.entry(origin).or_default().insert(turn);
        self.by_turn.insert(turn, Stranger { client, origin, since_ms: now_ms });
        if self.len() <= places {
            return None;
        }
        let most = self.by_origin.values().max_by_key(|turns| (turns.len(), turns.first().map(|turn| u64::MAX - turn)));
        let oldest = *most?.first()?;
        let client = self.by_turn.get(&oldest)?.client;
        self.remove(client);
        Some(client)
    }

    /// Removes a client that has shown a token or is gone.
    pub fn remove(&mut self, client: u64) {
        let Some(turn) = self.turns.remove(&client) else { return };
        let Some(stranger) = self.by_turn.remove(&turn) else { return };
        if let Some(turns) = self.by_origin.get_mut(&stranger.origin) {
            turns.remove(&turn);
            if turns.is_empty() {
                self.by_origin.remove(&stranger.origin);
            }
        }
    }

    /// Strangers that came before `since_ms`.
    pub fn before(&self, since_ms: u64) -> Vec<u64> {
        let old = self.by_turn.values().filter(|stranger| stranger.since_ms < since_ms);
        old.map(|stranger| stranger.client).collect()
    }
}

/// Wrong tokens, by origin.
#[derive(Debug, Default)]
pub struct Guesses {
    by_origin: Mutex<HashMap<Neighbourhood, Recent>>,
    /// All of them since the start.
    pub count: AtomicU64,
}

/// A decaying count, as of a moment.
#[derive(Clone, Copy, Debug)]
struct Recent {
    count: f64,
    at_ms: u64,
}

impl Recent {
    fn count(self, now_ms: u64) -> f64 {
        self.count * (-(now_ms.saturating_sub(self.at_ms) as f64) / HALF_LIFE_MS).exp2()
    }
}

impl Guesses {
    /// Time that a token from `origin` waits before it is checked.
    pub fn wait(&self, origin: Neighbourhood, now_ms: u64) -> Duration {
        let count = self.by_origin.lock().get(&origin).map_or(0.0, |recent| recent.count(now_ms));
        DELAY_STEP.mul_f64((count - GUESSES_FREE).clamp(0.0, 1000.0)).min(DELAY_MAX)
    }

    /// Notes a wrong token, the `turn`-th on its connection. Returns how long its refusal is held back.
    pub fn note(&self, origin: Neighbourhood, turn: u32, now_ms: u64) -> Duration {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut by_origin = self.by_origin.lock();
        if by_origin.len() >= ORIGINS_MAX && !by_origin.contains_key(&origin) {
            forget_half(&mut by_origin, now_ms);
        }
        let recent = by_origin.entry(origin).or_insert(Recent { count: 0.0, at_ms: now_ms });
        *recent = Recent { count: recent.count(now_ms) + 1.0, at_ms: now_ms };
        (DELAY_FIRST * 2_u32.saturating_pow(turn.saturating_sub(1).min(16))).min(DELAY_MAX)
    }
}

/// Keeps only the addresses with most guesses.
fn forget_half(by_origin: &mut HashMap<Neighbourhood, Recent>, now_ms: u64) {
    let mut counts: Vec<f64> = by_origin.values().map(|recent| recent.count(now_ms)).collect();
    let middle = counts.len() / 2;
    let (_, median, _) = counts.select_nth_unstable_by(middle, f64::total_cmp);
    let median = *median;
    by_origin.retain(|_, recent| recent.count(now_ms) > median);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clients::{Clients, Places, Refusal};

    fn peer(address: &str) -> Peer {
        let local = "127.0.0.1:6379".parse().unwrap();
        Peer::Tcp { remote: address.parse().unwrap(), local, is_tls: false }
    }

    const ONE: Places = Places { max: 1, of_database: usize::MAX, databases: 1, is_out_of_memory: false };

    /// Adds a stranger from each address. Returns the addresses of those that were closed.
    fn closed(clients: &Clients, addresses: &[&str], places: usize) -> Vec<String> {
        let before = clients.list();
        for (turn, address) in addresses.iter().enumerate() {
            clients.add_stranger(peer(address), turn as u64, places);
        }
        let mut all = before;
        all.extend(clients.list());
        all.sort_by_key(|client| client.id);
        all.dedup_by_key(|client| client.id);
        all.iter().filter(|client| client.is_killed()).map(|client| client.peer().to_string()).collect()
    }

    #[test]
    fn the_oldest_of_the_most_crowded_address_goes() {
        let clients = Clients::default();
        let crowd = ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "10.0.0.1:3"];
        assert!(closed(&clients, &crowd, 4).is_empty());
        assert_eq!(closed(&clients, &["10.0.0.3:1"], 4), ["10.0.0.1:1"]);
        assert_eq!(closed(&clients, &["10.0.0.4:1"], 4), ["10.0.0.1:1", "10.0.0.1:2"]);
        // All have one, so the oldest of all is closed.
        assert_eq!(closed(&clients, &["10.0.0.5:1"], 4).last().unwrap(), "10.0.0.2:1");
        assert_eq!(clients.strangers(), 4);
    }

    #[test]
    fn a_stranger_that_shows_its_token_is_none_any_more() {
        let clients = Clients::default();
        let first = clients.add_stranger(peer("10.0.0.1:1"), 0, 2);
        let shop: Arc<str> = "shop".into();
        assert_eq!(clients.welcome(&first, &shop, ONE), Ok(()));
        for port in 2..50 {
            clients.add_stranger(peer(&format!("10.0.0.1:{port}")), 0, 2);
        }
        assert!(!first.is_killed());
        let last = clients.add_stranger(peer("10.0.0.1:99"), 0, 2);
        assert_eq!(clients.welcome(&last, &shop, ONE), Err(Refusal::TooMany), "one client is all that may be");
        assert_eq!(clients.welcome(&first, &shop, ONE), Ok(()), "it has its place");
        clients.remove(first.id);
        assert_eq!(clients.welcome(&last, &shop, ONE), Ok(()));
        // Back to where it was, and late.
        clients.estrange(&last, 500, 2);
        clients.close_strangers_before(500);
        assert!(!last.is_killed());
        clients.close_strangers_before(501);
        assert!(last.is_killed());
    }

    #[test]
    fn networks_count_as_one_address() {
        let of = |address: &str| Neighbourhood::of(&peer(address));
        assert_eq!(of("[2001:db8:1:2::1]:1"), of("[2001:db8:1:2:ffff::9]:2"));
        assert_ne!(of("[2001:db8:1:2::1]:1"), of("[2001:db8:1:3::1]:1"));
        assert_eq!(of("[::ffff:10.0.0.1]:1"), of("10.0.0.1:7"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
    }

    #[test]
    fn guesses_are_slowed() {
        let guesses = Guesses::default();
        let origin = |network: u32| Neighbourhood::V4(network.to_be_bytes());
        // On one connection.
        let delays: Vec<u128> = (1..=10).map(|turn| guesses.note(origin(1), turn, 0).as_millis()).collect();
        assert_eq!(delays, [20, 40, 80, 160, 320, 640, 1280, 2000, 2000, 2000]);
        // Each on a connection of its own.
        let mut waits = Vec::new();
        for _ in 0..300 {
            waits.push(guesses.wait(origin(2), 0).as_millis());
            assert_eq!(guesses.note(origin(2), 1, 0).as_millis(), 20);
        }
        assert_eq!((waits[0], waits[32], waits[100], waits[299]), (0, 0, 680, 2000));
        // Guesses are forgotten after a while, and never charged to another address.
        assert_eq!(guesses.wait(origin(2), 600_000).as_millis(), 0);
        assert_eq!(guesses.wait(origin(3), 0).as_millis(), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let guesses = Guesses::default();
        let busy = Neighbourhood::V4([9, 9, 9, 9]);
        (0..300).for_each(|_| _ = guesses.note(busy, 1, 0));
        for network in 0..100_000_u64 {
            guesses.note(Neighbourhood::V6(network.to_be_bytes()), 1, network / 1000);
            assert!(guesses.by_origin.lock().len() <= ORIGINS_MAX);
        }
        assert_eq!(guesses.wait(busy, 100).as_millis(), 2000, "the busiest is not forgotten for the others");
    }
}
