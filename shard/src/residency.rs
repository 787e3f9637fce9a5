//! Residency: places that are in the store only are loaded when a command needs them, the others in the background.
//!
//! 1. Under the shard's lock: get the description of the stored place (an `Arc` that names its body).
//! 2. Without the lock: read the body and the pieces of large values, one at a time (see
//!    [`dormouse_storage::loading`]), and replay the effects of the tails and the log onto them. The memory that this
//!    takes is reserved before, so that many large values that are asked for at once are not all read: without room for
//!    it the load is refused.
//! 3. Under the lock again: install it, if the place still holds that very `Arc`. If not, another caller was faster.
//!
//! A place that stands for a page of the manifest becomes the places of that page in the same steps, and then the
//! needed ones among these are loaded.
//!
//! A body that cannot be read leaves the place as it is: commands that need it are answered with an error that names
//! the object, the others go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dormouse_storage::loading::{Loaded, READ_TOGETHER, load};
use dormouse_storage::replay::{Body, Effects, Stored};
use dormouse_storage::stopwatch::Stopwatch;
use dormouse_storage::store::StoreError;
use dormouse_types::segment::Range53;
use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::Mutex as AsyncMutex;

use crate::database::{Database, read_error, store_error};
use crate::error::{Error, Result};
use crate::health::ConditionKind;
use crate::keyspace::Fault;
use crate::keyspace::place::Place;
use crate::keyspace::settings::Loader;
use crate::memory::{COUNTED_BYTES, MEMORY, Reservation};
use crate::places::places_of_page;
use crate::replay::replayed;
use crate::shard::HeldShard;
use crate::topology::{Topology, hold};

/// Whether a load may be refused for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// A client asked for it, or nobody yet.
    Refusable,
    /// Work that has begun needs it.
    Needed,
}

/// A stored place: its shard and range, and its description.
#[derive(Debug, Clone)]
struct Wanted {
    keyspace: u32,
    range: Range53,
    stored: Arc<Stored>,
}

impl Database {
    /// Loads the place that a command asked for. Does nothing if it is in memory already.
    ///
    /// # Errors
    /// When it cannot be read; the text names the object.
    pub async fn load(self: &Arc<Self>, fault: Fault) -> Result<()> {
        MEMORY.check(self.used_bytes())?;
        let database = Arc::clone(self);
        let loaded = self.loader.drive(async move {
            while let Some(place) = database.wanted(fault).await {
                let _turn = database.turn_of(place.range.start).lock().await;
                // Another caller may have loaded it meanwhile, or a part of it.
                let Some(wanted) = database.wanted(fault).await else { break };
                if wanted.range != place.range {
                    continue;
                }
                let loaded = database.load_one(&wanted, None, Admission::Refusable).await;
                loaded.inspect_err(|error| database.note_failed_load(error))?;
                if wanted.stored.page.is_none() {
                    break;
                }
            }
            Ok(())
        });
        let failed = || Error::Store(format!("a load of database {} failed", self.name()));
        loaded.await.unwrap_or_else(|undone| Err(undone.error(failed)))
    }

    /// Loads everything.
    ///
    /// # Errors
    /// At the first place that cannot be read.
    pub async fn load_all(self: &Arc<Self>) -> Result<()> {
        MEMORY.check(self.used_bytes())?;
        let database = Arc::clone(self);
        let loaded = self.engine.background.spawn(async move {
            let Some(topology) = database.topology() else { return Ok(()) };
            database.read_pages(&topology).await?;
            let wanted = database.all_stored(|_| true).await;
            database.load_many(wanted, Admission::Refusable).await.map_or(Ok(()), Err)
        });
        loaded.await.map_err(|error| Error::Store(format!("a load of database {} failed: {error}", self.name())))?
    }

    /// Loads the places that `which` chooses. Afterwards no place stands for a page any more.
    pub(crate) async fn load_where(
        self: &Arc<Self>,
        which: impl Fn(&Stored) -> bool + Copy + Send + 'static,
    ) -> Result<()> {
        let wanted = self.all_stored(which).await;
        self.load_many(wanted, Admission::Needed).await.map_or(Ok(()), Err)
    }

    pub(crate) fn load_in_background(self: &Arc<Self>) {
        if MEMORY.is_full() || self.shared.is_full() {
            // Requested places are loaded all the same, one by one.
            return;
        }
        let database = Arc::clone(self);
        self.patient.start(async move {
            let started = Stopwatch::start();
            database.counters.loading.store(1, Ordering::Relaxed);
            // Read errors have been noted. If all could be read, nothing is damaged any more.
            let unread = match database.topology() {
                Some(topology) => database.read_pages(&topology).await.err(),
                None => None,
            };
            let wanted = database.all_stored(|stored| stored.page.is_none()).await;
            let failed = database.load_many(wanted, Admission::Refusable).await.or(unread);
            if failed.is_none() && database.is_awake() {
                database.health.resolve(ConditionKind::Data);
            }
            database.counters.load_us_last.store(started.us(), Ordering::Relaxed);
            database.counters.loading.store(0, Ordering::Relaxed);
        });
    }

    /// Replaces every place that stands for a page by those of the page. Goes on after an error; the first one is returned.
    pub(crate) async fn read_pages(self: &Arc<Self>, topology: &Topology) -> Result<()> {
        let mut failed = None;
        for wanted in self.all_stored_of(topology, |stored| stored.page.is_some()).await {
            if let Err(error) = self.load_one(&wanted, None, Admission::Needed).await {
                self.note_unread(ConditionKind::Data, &error);
                failed.get_or_insert(error);
            }
            tokio::task::yield_now().await;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Called on a thread of the loader.
    async fn wanted(&self, fault: Fault) -> Option<Wanted> {
        let topology = self.topology()?;
        let gate = Arc::clone(&topology.shards[topology.of_slot((fault.prefix >> 39) as u16)]);
        let held = hold(vec![gate]).await;
        let contents = held.first()?.contents();
        let index = contents.index(fault.select).filter(|_| contents.covers((fault.prefix >> 39) as u16))?;
        let place = index.place(fault.prefix);
        place.stored().map(|stored| Wanted { keyspace: index.id, range: place.range, stored: Arc::clone(stored) })
    }

    async fn all_stored(&self, which: impl Fn(&Stored) -> bool + Copy + Send + 'static) -> Vec<Wanted> {
        match self.topology() {
            Some(topology) => self.all_stored_of(&topology, which).await,
            None => Vec::new(),
        }
    }

    async fn all_stored_of(
        &self,
        topology: &Topology,
        which: impl Fn(&Stored) -> bool + Copy + Send + 'static,
    ) -> Vec<Wanted> {
        let mut all = Vec::new();
        for gate in &topology.shards {
            let find = move |held: &[HeldShard]| {
                let mut found = Vec::new();
                for contents in held.iter().map(HeldShard::contents) {
                    for (_, index) in contents.indexes() {
                        let stored = index.places().iter().filter_map(|place| Some((place.range, place.stored()?)));
                        found.extend(stored.filter(|(_, stored)| which(stored)).map(|(range, stored)| Wanted {
                            keyspace: index.id,
                            range,
                            stored: Arc::clone(stored),
                        }));
                    }
                }
                found
            };
            // Without the process's threads nothing is loaded any more.
            all.append(&mut self.under(vec![Arc::clone(gate)], find).await.unwrap_or_default());
        }
        all
    }

    /// The lock under which the place that begins at `prefix` is loaded, so that it is read once, whichever of its keys
    /// are wanted.
    fn turn_of(&self, prefix: u64) -> &AsyncMutex<()> {
        &self.turns[prefix as usize >> 7 & (self.turns.len() - 1)]
    }

    /// Notes an error of a load, unless it was refused for want of memory: then nothing is wrong with the store.
    fn note_failed_load(&self, error: &Error) {
        if *error != Error::OutOfTotal {
            self.note_unread(ConditionKind::Data, error);
        }
    }

    /// Loads places in order, reading neighbours together. Goes on after an error; the first one is returned. Without
    /// room for a place, it ends.
    async fn load_many(self: &Arc<Self>, wanted: Vec<Wanted>, admission: Admission) -> Option<Error> {
        let mut failed = None;
        let mut rest = &wanted[..];
        while let [first, ..] = rest {
            if !self.is_awake() {
                break;
            }
            let run = together(rest);
            let (group, after) = rest.split_at(run);
            rest = after;
            let bytes = match read_together(self, group).await {
                Ok(bytes) => bytes,
                Err(_) if group.len() > 1 => None,
                Err(_) if !self.is_wanted(first).await => continue,
                Err(error) => {
                    self.note_unread(ConditionKind::Data, &error);
                    failed.get_or_insert(error);
                    continue;
                }
            };
            let start = first.stored.body.as_ref().map_or(0, |body| body.offset);
            for wanted in group {
                let slice = wanted.stored.body.as_ref().zip(bytes.as_ref()).map(|(body, bytes)| {
                    let at = (body.offset - start) as usize;
                    bytes.slice(at..at + body.len as usize)
                });
                // Places with large values are read by one caller, and others wait for it.
                let in_turn = !wanted.stored.pieces.is_empty();
                let turn = if in_turn { Some(self.turn_of(wanted.range.start).lock().await) } else { None };
                if turn.is_some() && !self.is_wanted(wanted).await {
                    continue;
                }
                if let Err(error) = self.load_one(wanted, slice, admission).await {
                    self.note_failed_load(&error);
                    let is_full = error == Error::OutOfTotal;
                    failed.get_or_insert(error);
                    if is_full {
                        return failed;
                    }
                }
                // Other tasks of the background threads get their turn between two places.
                tokio::task::yield_now().await;
            }
        }
        failed
    }

    /// Loads one place; `read`: its body, if that was read already. A read error is ignored if the place is no longer
    /// wanted: another caller was faster, and the body may have been replaced and deleted since.
    async fn load_one(self: &Arc<Self>, wanted: &Wanted, read: Option<Bytes>, admission: Admission) -> Result<()> {
        match self.read_one(wanted, read, admission).await {
            Err(error) if self.is_wanted(wanted).await => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a place is still only in the store, under the same description.
    async fn is_wanted(&self, wanted: &Wanted) -> bool {
        let Some(topology) = self.topology() else { return false };
        let gate = Arc::clone(&topology.shards[topology.of_slot((wanted.range.start >> 39) as u16)]);
        let wanted = wanted.clone();
        let look = move |held: &[HeldShard]| {
            let Some(mut contents) = held.first().map(HeldShard::contents) else { return false };
            let index = contents.by_id(wanted.keyspace).filter(|index| index.covers(wanted.range.start));
            let stored = index.and_then(|index| index.place(wanted.range.start).stored().cloned());
            stored.is_some_and(|stored| Arc::ptr_eq(&stored, &wanted.stored))
        };
        self.under(vec![gate], look).await.unwrap_or(false)
    }

    async fn read_one(self: &Arc<Self>, wanted: &Wanted, read: Option<Bytes>, admission: Admission) -> Result<()> {
        let is_page = wanted.stored.page.is_some();
        // Held until the place is in memory, and counted there.
        let _room = self.room_for(&wanted.stored, admission)?;
        let (places, records) = self.read_places(wanted, read).await?;
        if self.install(wanted, places).await && !is_page {
            self.counters.loads.fetch_add(1, Ordering::Relaxed);
            self.counters.loaded_keys.fetch_add(records as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reserves the memory for a place. Little memory is left to the next measurement.
    fn room_for(&self, stored: &Stored, admission: Admission) -> Result<Option<Reservation>> {
        match (stored.loaded_bytes(), admission) {
            (..COUNTED_BYTES, _) => Ok(None),
            (bytes, Admission::Refusable) => MEMORY.reserve(bytes, self.used_bytes()).map(Some),
            (bytes, Admission::Needed) => Ok(Some(MEMORY.claim(bytes))),
        }
    }

    /// The places that replace a stored one, and how many records they have.
    async fn read_places(&self, wanted: &Wanted, read: Option<Bytes>) -> Result<(Vec<Place>, usize)> {
        let Wanted { keyspace, range, stored } = wanted;
        let store = &self.engine.store;
        if let Some((unread, replay)) = stored.page.as_ref().zip(stored.replay.as_ref()) {
            let page = unread.manifest.read_page(store, unread.info()).await.map_err(read_error)?;
            return Ok((places_of_page(unread, &page, replay), 0));
        }
        let limits = self.shared.settings.load().limits;
        let loaded = load(store, stored, *range, &self.shared.placement, &limits, read).await;
        let Loaded { segment, later } = loaded.map_err(store_error)?;
        let mut effects = match &stored.replay {
            Some(replay) => replay.effects(*keyspace, *range, stored).map_err(store_error)?,
            None => Effects::default(),
        };
        effects.retain_unseen(&later);
        let records = segment.len();
        let mut places = replayed(&self.shared, *keyspace, segment, &effects)?;
        if stored.uncounted {
            // The next manifest gets their counts.
            places.iter_mut().for_each(|place| place.dirty.note_counts());
        }
        Ok((places, records))
    }

    /// Loads places that are not those of a shard yet. A damaged one stays as it is.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn read_all(&self, keyspace: u32, mut places: Vec<Place>) -> Result<Vec<Place>> {
        let mut read = Vec::new();
        places.reverse();
        while let Some(place) = places.pop() {
            let Some(stored) = place.stored().cloned() else {
                read.push(place);
                continue;
            };
            let wanted = Wanted { keyspace, range: place.range, stored };
            match self.read_places(&wanted, None).await {
                Ok((found, _)) => places.extend(found.into_iter().rev()),
                Err(error @ Error::Store(_)) if !self.is_damaged(&wanted).await => return Err(error),
                Err(error) => {
                    self.note_unread(ConditionKind::Data, &error);
                    read.push(place);
                }
            }
        }
        Ok(read)
    }

    /// Whether a place that could not be read never will be.
    async fn is_damaged(&self, Wanted { range, stored, .. }: &Wanted) -> bool {
        if stored.page.is_some() {
            return false;
        }
        let (store, limits) = (&self.engine.store, self.shared.settings.load().limits);
        let read = load(store, stored, *range, &self.shared.placement, &limits, None).await;
        matches!(read, Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }))
    }

    /// Lets commands that hold a shard's lock load places of it: see [`crate::keyspace::Keyspace::load_now`].
    pub(crate) fn offer_loads(self: &Arc<Self>) {
        let database = Arc::downgrade(self);
        let loader = Loader::new(move |keyspace, range, stored| {
            let gone = || Error::Store("the database is closed".into());
            let database = database.upgrade().ok_or_else(gone)?;
            let wanted = Wanted { keyspace, range, stored: Arc::clone(stored) };
            // A script that has written runs to its end.
            let _room = database.room_for(stored, Admission::Needed)?;
            let its = Arc::clone(&database);
            let load = async move { its.read_places(&wanted, None).await };
            let (places, records) = wait_for(&database.engine.background, load).ok_or_else(gone)??;
            database.counters.loads.fetch_add(1, Ordering::Relaxed);
            database.counters.loaded_keys.fetch_add(records as u64, Ordering::Relaxed);
            Ok(places)
        });
        // It is offered once.
        let _ = self.shared.loader.set(loader);
    }

    /// Replaces the wanted place by the places read. False if another caller was faster.
    async fn install(&self, wanted: &Wanted, places: Vec<Place>) -> bool {
        let Wanted { keyspace, range, stored } = wanted.clone();
        // The shards may have been split or merged meanwhile: the shard that has the place now is asked.
        let Some(topology) = self.topology() else { return false };
        let gate = Arc::clone(&topology.shards[topology.of_slot((range.start >> 39) as u16)]);
        let install = move |held: &[HeldShard]| {
            let Some(mut contents) = held.first().map(HeldShard::contents) else { return false };
            let index = contents.by_id(keyspace).filter(|index| index.covers(range.start));
            index.is_some_and(|index| index.install(&stored, range, places))
        };
        self.under(vec![gate], install).await.unwrap_or(false)
    }
}

/// How many of the first places have bodies that follow each other in one chunk.
fn together(wanted: &[Wanted]) -> usize {
    let Some(Body { chunk, offset, .. }) = wanted[0].stored.body.as_ref() else { return 1 };
    let mut end = *offset;
    let follows = |wanted: &&Wanted| {
        let Some(body) = wanted.stored.body.as_ref() else { return false };
        let next = Arc::ptr_eq(&body.chunk, chunk) || body.chunk == *chunk;
        let fits = next && body.offset == end && body.offset + body.len - offset <= READ_TOGETHER;
        end = body.offset + body.len;
        fits
    };
    wanted.iter().take_while(follows).count().max(1)
}

async fn read_together(database: &Database, group: &[Wanted]) -> Result<Option<Bytes>> {
    let bodies = || group.iter().filter_map(|wanted| wanted.stored.body.as_ref());
    let (Some(first), Some(last)) = (bodies().next(), bodies().next_back()) else { return Ok(None) };
    let range = first.offset..last.offset + last.len;
    database.engine.store.get_range(&first.chunk, range).await.map(Some).map_err(store_error)
}

/// Runs a load while the thread waits. `None`: the runtime ends.
fn wait_for<T: Send + 'static>(background: &Handle, load: impl Future<Output = T> + Send + 'static) -> Option<T> {
    if background.runtime_flavor() == RuntimeFlavor::CurrentThread {
        // Its only thread would wait for itself.
        let run = move || Some(Builder::new_current_thread().enable_time().build().ok()?.block_on(load));
        return std::thread::spawn(run).join().ok().flatten();
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    background.spawn(async move {
        // The receiver waits.
        let _ = sender.send(load.await);
    });
    receiver.recv().ok()
}
