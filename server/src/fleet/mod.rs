//! The fleet as this node sees it: where each database is served, and which databases this node may take.
//!
//! A database belongs to the writer of its newest manifest ([`dormouse_shard::claiming`]). To find the node that serves one:
//!
//! 1. A branch is served where its owner is, so the question is about the owner.
//! 2. The newest manifest names a writer. If a member of the fleet writes as that, it serves the database.
//! 3. Otherwise the runs of owner records name the writer's heir ([`Heir`]): a later process of its node, or the survivor that has
//!    adopted it. If there is none, or no manifest yet, the database is *free*: the node that is [chosen](chosen) for its name
//!    takes it at its first use.
//! 4. The heir may be dead as well: then a survivor adopts it, and the question is asked again.
//!
//! Answers are kept, and forgotten as soon as one proves wrong. An old answer costs time only: a node that is asked for a database
//! which it does not own finds the owner in turn, and no process writes a database that it has not claimed.

mod directions;
mod duty;
mod joining;
mod news;
mod rendezvous;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dormouse_coordination::{FleetMember, FleetMembers, Membership};
use dormouse_shard::claims::Claims;
use dormouse_shard::error::{Error, Result};
use dormouse_storage::log::Log;
use dormouse_storage::manifest;
use dormouse_storage::owner::Heir;
use dormouse_storage::store::{Store, StoreError};
use futures::FutureExt;
use futures::future::BoxFuture;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

pub use self::directions::{Directions, Peering, ServedAt, ToldDirections};
pub use self::duty::FleetDuty;
pub use self::joining::{JoinFailure, join};
pub use self::news::tell_of_steps;
pub use self::rendezvous::chosen;
use crate::clock::boot_ms;
use crate::databases::Whereabouts;
use crate::options::owner_and_branch;

/// Most databases whose places are remembered.
const PLACES_MAX: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("not zero");
/// Longest time for which a question waits for the adoption of a dead node, beyond the lease.
const ADOPTION_WITHIN: Duration = Duration::from_secs(10);
/// Interval between looks at a node that is being adopted.
const ADOPTION_LOOK_EVERY: Duration = Duration::from_millis(100);

impl From<&FleetMember> for Peering {
    fn from(member: &FleetMember) -> Self {
        Self { name: member.name.clone(), address: member.advertise.clone(), http: member.http.clone() }
    }
}

/// The owner of a database, as far as the store and the members tell.
enum Found {
    /// It may be taken by any node.
    Free,
    Member(Arc<FleetMember>),
    /// The node of this name is not a member, or this process is its heir and has not read its log: it is to be adopted.
    Dead(String),
}

pub struct Fleet {
    store: Arc<Store>,
    membership: Membership,
    name: String,
    secret: Arc<str>,
    /// The log of this process: it knows whose logs it has read besides.
    log: Arc<Log>,
    writer: u64,
    /// Told when the log of a dead node is missed.
    pub missed: Notify,
    pub duty: FleetDuty,
    places: Mutex<LruCache<Box<str>, ServedAt>>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("name", &self.name()).field("writer", &self.writer).finish_non_exhaustive()
    }
}

impl Fleet {
    /// The fleet of a process that writes `store` and this log as `writer`.
    pub fn new(store: Arc<Store>, log: Arc<Log>, (membership, name): (Membership, String), writer: u64) -> Arc<Self> {
        let places = Mutex::new(LruCache::new(PLACES_MAX));
        let secret = membership.secret();
        let (missed, duty) = (Notify::new(), FleetDuty::default());
        Arc::new(Self { store, membership, name, secret, log, writer, missed, duty, places })
    }

    /// The name of this node.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn writer(&self) -> u64 {
        self.writer
    }

    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    pub fn members(&self) -> Arc<FleetMembers> {
        self.membership.members()
    }

    /// The members beside this node.
    pub fn others(&self) -> FleetMembers {
        self.members().iter().filter(|member| member.name != self.name).cloned().collect()
    }

    /// Begins to give all databases away and takes no new ones, or ends that.
    pub fn set_draining(&self, is_draining: bool) {
        self.duty.set_draining(is_draining);
        self.membership.set_draining(is_draining);
        self.forget_all();
    }

    /// The nodes that have died and are not adopted yet, with their writers: those that are no members, and have not released
    /// their runs. One that starts is among them for a moment.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn dead(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let Some(owner) = self.log.owner() else { return Ok(Vec::new()) };
        let holders = owner.heirs().holders().await?;
        let members = self.members();
        let is_absent = |(node, writer): &(String, u64)| {
            *writer != self.writer && members.of_writer(*writer).is_none() && members.named(node).is_none()
        };
        Ok(holders.into_iter().filter(is_absent).collect())
    }

    /// Milliseconds that are left of the lease of this node.
    pub fn lease_left_ms(&self) -> u64 {
        self.membership.lease_end_ms().load(Ordering::Acquire).saturating_sub(boot_ms())
    }

    /// The node that serves a database.
    ///
    /// # Errors
    /// When the store cannot be asked, or the dead node that owned it is not adopted within a bound.
    pub async fn locate(&self, database: &str) -> Result<ServedAt> {
        let owner = owner_and_branch(database).map_or(database, |(owner, _)| owner);
        if let Some(place) = self.places.lock().get(owner) {
            return Ok(place.clone());
        }
        let until = Instant::now() + ADOPTION_WITHIN;
        loop {
            let place = match self.find(owner).await? {
                Found::Free => match chosen(owner, &self.members()) {
                    Some(member) => self.place_of(&member),
                    // No member takes databases: then this node does.
                    None => ServedAt::Here,
                },
                Found::Member(member) => self.place_of(&member),
                Found::Dead(node) if Instant::now() >= until => {
                    return Err(Error::Text(
                        format!("TRYAGAIN node {node} of the fleet is dead, and its databases are being taken over")
                            .into(),
                    ));
                }
                Found::Dead(_) => {
                    self.missed.notify_one();
                    sleep(ADOPTION_LOOK_EVERY).await;
                    continue;
                }
            };
            self.places.lock().put(owner.into(), place.clone());
            return Ok(place);
        }
    }

    fn place_of(&self, member: &FleetMember) -> ServedAt {
        if member.name == self.name() { ServedAt::Here } else { ServedAt::There(Arc::new(member.into())) }
    }

    async fn find(&self, owner: &str) -> Result<Found> {
        let newest = manifest::latest_root(&self.store, owner).await.map_err(store_error)?;
        match newest {
            Some(newest) => self.find_writer(newest.known.writer).await,
            None => Ok(Found::Free),
        }
    }

    async fn find_writer(&self, writer: u64) -> Result<Found> {
        let members = self.members();
        if let Some(member) = members.of_writer(writer) {
            return Ok(Found::Member(Arc::clone(member)));
        }
        let Heir::Writer { node, writer: heir } = self.heir_of(writer).await? else { return Ok(Found::Free) };
        let is_missed = heir == self.writer && !self.log.has_read_log_of(writer);
        Ok(match self.members().of_writer(heir).filter(|_| !is_missed) {
            Some(member) => Found::Member(Arc::clone(member)),
            None => Found::Dead(node),
        })
    }

    async fn heir_of(&self, writer: u64) -> Result<Heir> {
        match self.log.owner() {
            Some(owner) => owner.heirs().heir_of(writer).await.map_err(store_error),
            None => Ok(Heir::Free),
        }
    }

    /// Notes where a database is served.
    pub fn place(&self, database: &str, place: ServedAt) {
        let owner = owner_and_branch(database).map_or(database, |(owner, _)| owner);
        self.places.lock().put(owner.into(), place);
    }

    /// Forgets where a database is served, since that has proved wrong.
    pub fn forget(&self, database: &str) {
        let owner = owner_and_branch(database).map_or(database, |(owner, _)| owner);
        self.places.lock().pop(owner);
    }

    /// Forgets all places.
    pub fn forget_all(&self) {
        self.places.lock().clear();
    }
}

impl Whereabouts for Fleet {
    fn is_here<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.locate(database).map(|place| place.map(|place| matches!(place, ServedAt::Here))).boxed()
    }

    fn forget(&self, database: &str) {
        Self::forget(self, database);
    }
}

impl Directions for Fleet {
    fn locate<'a>(&'a self, database: &'a str) -> BoxFuture<'a, Result<ServedAt>> {
        Self::locate(self, database).boxed()
    }

    fn secret(&self) -> &str {
        &self.secret
    }

    fn forget(&self, database: &str) {
        Self::forget(self, database);
    }
}

impl Claims for Fleet {
    fn may_take<'a>(&'a self, database: &'a str, writer: Option<u64>) -> BoxFuture<'a, Result<()>> {
        async move {
            let Some(writer) = writer else { return Ok(()) };
            // Its log has been read, and what that says has come with it.
            if self.log.has_read_log_of(writer) {
                return Ok(());
            }
            // While its writer is a member, the store need not be asked.
            let is_free =
                self.members().of_writer(writer).is_none() && matches!(self.heir_of(writer).await?, Heir::Free);
            match is_free {
                true => Ok(()),
                false => Err(Error::Elsewhere(database.to_owned())),
            }
        }
        .boxed()
    }
}

fn store_error(error: impl fmt::Display) -> Error {
    Error::Store(error.to_string())
}
