//! Databases come into memory when they are used, and leave it some time after they have fallen asleep.
//!
//! 1. A name has a *turn*: one caller opens the database, makes it a branch, or releases it, and the others wait.
//! 2. A login opens the database that its secret opens. A secret that may be a user's password has to be compared with the
//!    users, which the store has: then the database is opened for that, a few at a time.
//! 3. A database that sleeps, has no clients and has not been used for [`RELEASE_AFTER_MS`] is released. Its usage goes to
//!    the ledger first, and if its meters have counted anything, a manifest keeps them. Then it is taken out of the map, unless
//!    a client has found it there meanwhile.
//!
//! Only databases that the directory knows are released, since only they can be found again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dormouse_shard::error::{Error, Result};
use tokio::sync::SemaphorePermit;

use super::aim::LoginAim;
use super::{ADMIN, Tenant, Tenants, Whereabouts};
use crate::metering::Meter;
use crate::options::{DEFAULT_DATABASE, branch_name, check_full_name, named_database, named_secret, owner_and_branch};
use crate::rights::Rights;

/// The longest time of a look at a database's users that [`Tenants::look_time`] knows.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// The time after its last use at which a sleeping database may leave memory.
pub const RELEASE_AFTER_MS: u64 = 60_000;

impl Tenants {
    /// Returns the database or branch with a full name, opening it if it is not in memory. `None`: there is none, or another
    /// node of the fleet serves it.
    pub async fn opened(&self, name: &str) -> Option<Arc<Tenant>> {
        if let Some(whereabouts) = self.whereabouts.get() {
            return match self.opened_in_fleet(name, &**whereabouts).await {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::warn!(database = name, %error, "failed to open a database of the fleet");
                    None
                }
            };
        }
        if let Some(tenant) = self.find(name) {
            return Some(tenant);
        }
        // Most unknown names end here.
        if !self.directory.known().has(name) {
            return None;
        }
        let turn = self.turns.of(name);
        let _held = turn.come().await;
        if let Some(tenant) = self.find(name) {
            return Some(tenant);
        }
        let record = self.record_to_open(name)?;
        let tenant = self.opener.open(name, Some(&record)).await;
        self.put(Arc::clone(&tenant));
        self.follow_settings(&tenant, Some(&record)).await;
        Some(tenant)
    }

    /// Whether the command line or the directory names a database, even a deleted one that can be brought back.
    pub fn is_known(&self, name: &str) -> bool {
        self.is_named(name) || self.directory.known().has(name) || self.directory.deleted(name).is_some()
    }

    /// Whether the command line names a database. It needs no record.
    pub(super) fn is_named(&self, name: &str) -> bool {
        name == DEFAULT_DATABASE || self.tokens.iter().any(|token| token.name() == name)
    }

    /// Whether this node, and no other one of its fleet, looks after a database.
    pub async fn is_here(&self, name: &str) -> bool {
        match self.whereabouts.get() {
            Some(whereabouts) => whereabouts.is_here(name).await.unwrap_or(false),
            None => true,
        }
    }

    /// Joins a fleet. To be called once, before clients are accepted.
    pub fn join(&self, whereabouts: Arc<dyn Whereabouts>) {
        let _ = self.whereabouts.set(whereabouts);
    }

    /// Returns a database in memory that clients can use here.
    fn served(&self, name: &str) -> Option<Arc<Tenant>> {
        self.find(name).filter(|tenant| self.whereabouts.get().is_none() || tenant.database.is_claimed())
    }

    /// The database of a login that opened nothing because this node does not serve it: the database is on its way to another
    /// node, or the store could not be asked. So the secret may be right.
    pub fn missed_by(&self, user: &[u8], presented: &[u8]) -> Option<Box<str>> {
        self.whereabouts.get()?;
        let (LoginAim::Token(database) | LoginAim::Password(database)) = self.aim(user, presented) else { return None };
        let is_open = self.is_named(&database) || self.directory.known().has(&database);
        (is_open && self.served(&database).is_none()).then_some(database)
    }

    /// Opens a database of a fleet, once this process has claimed it.
    ///
    /// # Errors
    /// When it cannot be found out where it is served, or the store refuses the claim.
    async fn opened_in_fleet(&self, name: &str, whereabouts: &dyn Whereabouts) -> Result<Option<Arc<Tenant>>> {
        if let Some(tenant) = self.served(name) {
            return Ok(Some(tenant));
        }
        let is_named = self.is_named(name);
        if !is_named && !self.directory.known().has(name) || !whereabouts.is_here(name).await? {
            return Ok(None);
        }
        if let Some((owner, _)) = owner_and_branch(name) {
            // A branch is looked for where its owner is, so that one comes first.
            Box::pin(self.opened(owner)).await;
        }
        // A deletion elsewhere must be known before the database could be made again.
        self.directory.refresh().await;
        let turn = self.turns.of(name);
        let _held = turn.come().await;
        if let Some(tenant) = self.served(name) {
            return Ok(Some(tenant));
        }
        let record = self.record_to_open(name);
        if record.is_none() && !is_named {
            return Ok(None);
        }
        if let Some(unclaimed) = self.of_name(name)
            && !unclaimed.database.abandon().await
        {
            return Ok(Some(unclaimed));
        }
        // Opened after the question, so that it has all entries that this process has inherited.
        let tenant = self.opener.open(name, record.as_ref()).await;
        match tenant.database.claim().await {
            Ok(()) => {}
            Err(Error::Elsewhere(_)) => {
                // Another node was faster.
                whereabouts.forget(name);
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        if name == DEFAULT_DATABASE {
            self.default.store(Arc::clone(&tenant));
        }
        self.put(Arc::clone(&tenant));
        self.follow_settings(&tenant, record.as_ref()).await;
        Ok(Some(tenant))
    }

    /// Returns the database that `name` means to a client of `owner`: its own branch of that name if it has one.
    /// `opens_others`: whether another database is brought into memory. A tenant who could have that done would learn from
    /// the time that it takes which databases there are.
    pub async fn opened_for(&self, owner: &str, name: &str, opens_others: bool) -> Option<Arc<Tenant>> {
        if let Ok(full) = branch_name(owner, name)
            && let Some(branch) = self.opened(&full).await
        {
            return Some(branch);
        }
        if opens_others { self.opened(name).await } else { self.find(name) }
    }

    /// Brings into memory the database that a name and a secret may open, before [`Tenants::log_in`] or
    /// [`Tenants::log_in_without_token`] looks for it there. It is not released as long as the result is kept. In a fleet, a
    /// login that would be refused has what other nodes have made by now.
    #[must_use]
    pub async fn prepare(&self, user: &[u8], presented: &[u8]) -> Vec<Arc<Tenant>> {
        let found = self.bring(user, presented).await;
        if !self.directory.is_shared() || self.would_enter(user, presented) {
            return found;
        }
        self.directory.refresh().await;
        self.bring(user, presented).await
    }

    /// Whether a name and a secret open something that is in memory, or nothing that another node could have made.
    fn would_enter(&self, user: &[u8], presented: &[u8]) -> bool {
        match self.needs_token() {
            true => named_database(presented).is_none() || self.log_in(user, presented).is_some(),
            // Another node may have made the first token.
            false => {
                named_database(presented).is_none()
                    && self.log_in_without_token(user, presented, Rights::Branch).is_ok()
            }
        }
    }

    async fn bring(&self, user: &[u8], presented: &[u8]) -> Vec<Arc<Tenant>> {
        if !self.directory.has_begun() && self.whereabouts.get().is_none() {
            return Vec::new();
        }
        let user = std::str::from_utf8(user).unwrap_or_default();
        let named = named_secret(presented).0;
        let names: BTreeSet<&str> = [named, user].into_iter().filter(|name| check_full_name(name).is_ok()).collect();
        let mut found: Vec<Arc<Tenant>> = names.iter().filter_map(|name| self.served(name)).collect();
        if found.len() == names.len() {
            return found;
        }
        let is_token = self.tokens.is_admin(presented)
            || self.tokens.find(presented).is_some()
            || named_database(presented).is_some() && self.granted(presented).is_some()
            || self.tokens.with_secret_of(owner_and_branch(named).map_or("", |(owner, _)| owner), presented).is_some();
        if is_token || !self.needs_token() {
            for name in names.into_iter().filter(|name| *name != ADMIN || !is_token) {
                found.extend(self.opened(name).await);
            }
        } else if !user.is_empty() {
            let _place = self.tried.acquire().await;
            let began = Instant::now();
            found.extend(self.opened(named).await);
            if !found.is_empty() {
                self.note_look(began);
            }
        }
        found
    }

    /// Notes how long it took to look at the users of a database, here or on another node.
    pub fn note_look(&self, began: Instant) {
        let took_us = u64::try_from(began.elapsed().min(LOOK_MAX).as_micros()).unwrap_or(u64::MAX);
        let before_us = self.look_us.load(Ordering::Relaxed);
        // What was slow once is forgotten by and by.
        self.look_us.store(took_us.max(before_us - before_us / 16), Ordering::Relaxed);
    }

    /// Waits for a place among the few logins with passwords that are decided at once.
    pub async fn place_to_try(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.tried.acquire().await.ok()
    }

    /// The time for which a refusal is held back at least: as long as if a database had been opened for it, so that it does not
    /// tell whether there is one.
    pub fn look_time(&self) -> Duration {
        Duration::from_micros(self.look_us.load(Ordering::Relaxed))
    }

    /// Releases databases that have not been used for long. To be called now and then.
    pub async fn release_unused(&self, now_ms: u64) {
        self.rates.forget_unused(now_ms.saturating_mul(1000));
        if !self.directory.has_begun() {
            return;
        }
        let candidates: Vec<Arc<Tenant>> = self.all().filter(|tenant| self.is_unused(tenant, now_ms)).collect();
        for tenant in candidates {
            let name: Box<str> = tenant.name().into();
            if let Err(error) = self.release(tenant, now_ms).await {
                tracing::warn!(database = &*name, %error, "failed to write the meters of a sleeping database; it stays in memory");
            }
        }
    }

    /// `tenant`: the only reference beside that of the map, unless somebody uses it. A connection in the database has one.
    fn is_unused(&self, tenant: &Arc<Tenant>, now_ms: u64) -> bool {
        let used_ms = tenant.used_ms.load(Ordering::Relaxed).max(tenant.worked_ms());
        Arc::strong_count(tenant) == 2
            && !tenant.database.is_awake()
            // A clock that was set back makes nothing old.
            && now_ms.checked_sub(used_ms).is_some_and(|since| since >= RELEASE_AFTER_MS)
            && tenant.name() != DEFAULT_DATABASE
            && !(tenant.is_branch() && owner_and_branch(tenant.name()).is_none())
            && self.tokens.iter().all(|token| token.name() != tenant.name())
            && self.directory.known().has(tenant.name())
    }

    /// Takes a sleeping database out of memory. Whoever needs it opens it again.
    ///
    /// # Errors
    /// When the store refuses to keep its meters.
    async fn release(&self, tenant: Arc<Tenant>, now_ms: u64) -> Result<()> {
        let turn = self.turns.of(tenant.name());
        let _held = turn.come().await;
        self.record_usage(&tenant, now_ms).await?;
        let requests = requests_of(&tenant, now_ms);
        let counted = requests != tenant.requests_kept.load(Ordering::Relaxed);
        if !tenant.database.ready_to_drop(counted).await? {
            return Ok(());
        }
        tenant.requests_kept.store(requests, Ordering::Relaxed);
        let name: Box<str> = tenant.name().into();
        let is_settled = tenant.meters.is_settled(now_ms);
        if !self.is_unused(&tenant, now_ms) || requests_of(&tenant, now_ms) != requests || !is_settled {
            return Ok(());
        }
        drop(tenant);
        // The map has the only one: while it is locked, none can be found there.
        if self.take(&name, |here| Arc::strong_count(here) == 1 && !here.database.is_awake()) {
            tracing::debug!(database = &*name, "released: it sleeps, and nobody uses it");
        }
        Ok(())
    }
}

impl Tenants {
    /// Takes a database out of memory that has been handed over to another node of the fleet.
    pub fn let_move(&self, tenant: &Arc<Tenant>) {
        self.take(tenant.name(), |here| Arc::ptr_eq(here, tenant) && tenant.name() != DEFAULT_DATABASE);
    }

    /// Writes the usage of all databases, for a process that ends.
    ///
    /// # Errors
    /// When the store refuses. The manifests have it then.
    pub async fn record_all_usage(&self, now_ms: u64) -> Result<()> {
        let all: Vec<_> = self.all_with_hidden().map(|tenant| Arc::clone(&tenant.meters)).collect();
        all.iter().for_each(|meters| meters.close_window_early(now_ms));
        let recorded = self.ledger.record(&all).await;
        recorded.map_err(|error| Error::Store(format!("the usage is not in the ledger: {error}")))
    }

    /// Writes the usage of a database that leaves memory.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn record_usage(&self, tenant: &Tenant, now_ms: u64) -> Result<()> {
        tenant.meters.close_window(now_ms);
        if !tenant.meters.is_due() {
            return Ok(());
        }
        let recorded = self.ledger.record(&[Arc::clone(&tenant.meters)]).await;
        recorded.map_err(|error| Error::Store(format!("its usage is not in the ledger: {error}")))
    }
}

/// All requests that the meters have counted, as a number that changes with them.
fn requests_of(tenant: &Tenant, now_ms: u64) -> u64 {
    tenant.meters.totals(now_ms)[Meter::Requests] as u64
}
