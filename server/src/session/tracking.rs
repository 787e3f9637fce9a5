//! A session that tracks keys: `CLIENT TRACKING`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Version};
use dormouse_shard::commands::tracked;
use dormouse_shard::keyspace::tracking::{Invalidated, Tracker, TrackingMode};

use super::Session;
use crate::clients::Client;
use crate::teller::{self, Teller};
use crate::tracking_clients::{TRACKS, TRACKS_PREFIXES, TrackingClient};

/// How a session tracks keys.
#[derive(Debug)]
pub struct SessionTracking {
    mode: TrackingMode,
    no_loop: bool,
    redirect: Option<Arc<Client>>,
    /// `CLIENT CACHING` was given for the next command.
    is_caching_given: bool,
    /// Bytes charged to the client for its prefixes.
    bytes: usize,
}

/// The tracking of a session, and its prefixes.
type Tracked = (Box<SessionTracking>, Vec<Box<[u8]>>);

impl Session {
    pub fn tracking_mode(&self) -> TrackingMode {
        self.tracking.as_ref().map_or(TrackingMode::Off, |tracking| tracking.mode)
    }

    /// How its next command tracks keys.
    #[inline]
    pub fn tracker(&self) -> Tracker {
        match &self.tracking {
            None => Tracker { client: self.client.id, ..Tracker::default() },
            Some(tracking) => self.tracker_of(tracking),
        }
    }

    fn tracker_of(&self, tracking: &SessionTracking) -> Tracker {
        Tracker {
            client: self.client.id,
            mode: tracking.mode,
            is_caching_given: tracking.is_caching_given,
            is_told_of_own: !tracking.no_loop,
            is_in_line: self.version == Version::Resp3
                && tracking.redirect.is_none()
                && tracking.mode != TrackingMode::Broadcast,
        }
    }

    /// Tracks keys from now on. `prefixes`: those that a session in broadcasting mode adds to its own, for which `bytes` are
    /// charged.
    pub fn track(
        &mut self,
        mode: TrackingMode,
        no_loop: bool,
        redirect: Option<Arc<Client>>,
        prefixes: Option<&[&[u8]]>,
        bytes: usize,
    ) {
        let shared = &self.tenant.database.shared;
        shared.tracking.set_messenger(|| Box::new(Teller::new(&self.node, &self.tenant)));
        self.tenant.tracking_clients.insert(TrackingClient {
            client: Arc::clone(&self.client),
            redirect: redirect.clone(),
            no_loop,
            is_broadcast: mode == TrackingMode::Broadcast,
            database: self.tenant.name().into(),
        });
        shared.tracking.enable(self.client.id, prefixes.map(|prefixes| prefixes.iter().copied()));
        let flags = if mode == TrackingMode::Broadcast { TRACKS | TRACKS_PREFIXES } else { TRACKS };
        self.client.tracking.store(flags, Ordering::Relaxed);
        let target = redirect.as_ref().map_or(0, |target| target.id as i64);
        self.client.redirect.store(target, Ordering::Relaxed);
        let (is_caching_given, before) =
            self.tracking.as_ref().map_or((false, 0), |before| (before.is_caching_given, before.bytes));
        self.tracking =
            Some(Box::new(SessionTracking { mode, no_loop, redirect, is_caching_given, bytes: before + bytes }));
    }

    /// Tracks no keys any more.
    pub fn stop_tracking(&mut self) {
        if let Some(tracking) = self.tracking.take() {
            self.tenant.tracking_clients.remove(self.client.id);
            self.tenant.database.shared.tracking.disable(self.client.id);
            self.client.tracking.store(0, Ordering::Relaxed);
            self.client.redirect.store(-1, Ordering::Relaxed);
            self.client.let_go(tracking.bytes);
        }
    }

    /// Called before the commands of a transaction that will turn tracking on in between: what they read must not change
    /// unnoticed until then.
    pub fn expect_tracking(&self, mode: TrackingMode) {
        if mode != TrackingMode::Off && self.tracking.is_none() {
            self.tenant.database.shared.tracking.enable(self.client.id, None::<std::iter::Empty<&[u8]>>);
        }
    }

    /// Called after them.
    pub fn settle_tracking(&self) {
        if self.tracking.is_none() {
            self.tenant.database.shared.tracking.disable(self.client.id);
        }
    }

    /// Stops tracking here, to go on in another database.
    pub(super) fn take_tracking(&mut self) -> Option<Tracked> {
        let prefixes = self.tenant.database.shared.tracking.prefixes(self.client.id);
        let tracking = self.tracking.take()?;
        self.tracking = Some(Box::new(SessionTracking { redirect: None, ..*tracking }));
        let redirect = tracking.redirect.clone();
        self.stop_tracking();
        Some((Box::new(SessionTracking { redirect, ..*tracking }), prefixes))
    }

    /// Tracks the same in this database. Whatever its client has kept is of another one.
    pub(super) fn track_again(&mut self, (tracking, prefixes): Tracked) {
        let prefixes: BTreeSet<&[u8]> = prefixes.iter().map(|prefix| &**prefix).collect();
        let prefixes: Vec<&[u8]> = prefixes.into_iter().collect();
        let of_mode = (tracking.mode == TrackingMode::Broadcast).then_some(&*prefixes);
        self.client.hold_anyway(tracking.bytes);
        self.track(tracking.mode, tracking.no_loop, tracking.redirect, of_mode, tracking.bytes);
        if let Some(client) = self.tenant.tracking_clients.get(self.client.id) {
            client.tell(None, teller::limits(&self.node));
        }
    }

    /// Notes that `CLIENT CACHING` was given for the next command.
    pub fn expect_cached(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            tracking.is_caching_given = true;
        }
    }

    /// The command has run that `CLIENT CACHING` was given for.
    #[inline]
    pub fn end_caching(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            tracking.is_caching_given = false;
        }
    }

    pub fn is_caching_given(&self) -> bool {
        self.tracking.as_ref().is_some_and(|tracking| tracking.is_caching_given)
    }

    /// Writes what the client itself has to forget after its command. It is told even if it wants no replies.
    pub fn write_own(&mut self, reply: &mut Reply) {
        if self.own.is_empty() {
            return;
        }
        let own = std::mem::take(&mut self.own);
        let tracker = self.tracker();
        if tracker.is_in_line {
            own.iter().for_each(|own| tracked::write(own, reply));
            return;
        }
        let Some(client) = self.tenant.tracking_clients.get(self.client.id) else { return };
        for own in own {
            let keys = match &own {
                Invalidated::Key(key) => Some(crate::tracking_clients::encode(std::iter::once(&**key))),
                Invalidated::All => None,
            };
            client.tell(keys.as_deref(), teller::limits(&self.node));
        }
    }
}
