//! Triggers: the events of a database's keys, delivered to a URL.
//!
//! 1. A [definition](TriggerDefinition) says which events of which keys go where. The definitions of a database are a setting
//!    in its manifest, so they survive a crash, and are known while it sleeps. Branches and restored copies begin without any.
//! 2. The keyspace keeps each wanted event as hidden data of the database, in the entry of the log that has the change
//!    ([`dormouse_shard::keyspace::outbox`]). So each event of a change that is not lost is delivered *at least once*, and no
//!    receiver hears of a change that a crash undoes.
//! 3. A task for each trigger ([`delivery`]) posts events as [CloudEvents](event), one batch after the other, until the
//!    receiver has taken them, and deletes them then. So events of a key arrive in the order of its changes, and what waits is
//!    the cursor: there is no other.
//! 4. A batch that fails is repeated after a delay that doubles, with chance in it. After the last attempt its events go to
//!    the *dead letters*, a stream in the database, and the next batch has its turn.
//!
//! A receiver that is slow or gone costs no writer anything. What waits is bounded by the outbox; what exceeds it is lost, and
//! an event says how many were. A task holds one batch in memory.
//!
//! A task that ends lets its successor begin when its last request is answered, so that no request of a trigger overtakes
//! another. It may end in the middle of a record, which its successor sends from the beginning.
//!
//! An idle trigger does not hold its database: it may fall asleep, and leave memory. One with events to deliver keeps its
//! database in memory; while it waits for the next attempt the database may sleep, and the attempt itself does not wake it.
//! The directory knows which databases have triggers, and they are opened when the process starts, so that what an earlier
//! process has left is delivered.
//!
//! Requests go through [`outbound`](crate::outbound): to public addresses, unless the operator allows others.

mod dead_letters;
mod definition;
mod delivery;
mod event;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use dormouse_shard::database::Database;
use dormouse_shard::error::Error;
use dormouse_shard::keyspace::outbox::TriggerQueue;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, Notify};

pub use self::definition::{TriggerDefinition, TriggerWish};
use self::definition::{decode, encode};
use self::delivery::{DeliveryProgress, deliver};
use crate::directory::ChangeRefusal;
use crate::outbound::{LookupShare, Reach};

/// The operator's limits on triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerLimits {
    /// Most triggers of one database.
    pub triggers_max: usize,
    pub reach: Reach,
}

/// The database of a trigger as its deliveries see it. It stays in memory as long as they hold it.
pub trait TriggerHost: Send + Sync {
    fn database(&self) -> &Arc<Database>;
    /// Events were delivered: that is a use of the database.
    fn delivered(&self, events: u64);
    /// Charges memory to the clients of the database; false if it does not fit.
    fn take(&self, bytes: usize) -> bool;
    fn give(&self, bytes: usize);
}

/// The triggers of one database.
pub struct Triggers {
    database: Weak<Database>,
    limits: TriggerLimits,
    background: Handle,
    /// Its part of the lookups of hosts.
    lookups: LookupShare,
    active: Mutex<BTreeMap<Box<str>, Arc<Trigger>>>,
    /// The host of deliveries; `None` while nothing is to be delivered.
    host: Mutex<Option<Weak<dyn TriggerHost>>>,
}

/// One trigger that is in force.
pub(crate) struct Trigger {
    definition: TriggerDefinition,
    queue: Arc<TriggerQueue>,
    /// Told when something was queued and nothing waited before.
    arrived: Arc<Notify>,
    /// Held by the task that delivers.
    turn: Arc<AsyncMutex<()>>,
    progress: Mutex<DeliveryProgress>,
    run: Mutex<Option<Arc<Run>>>,
}

/// A task that delivers, from the side of those who end it.
#[derive(Default)]
struct Run {
    is_stopped: AtomicBool,
    stopped: Notify,
}

impl Run {
    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.stopped.notify_one();
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }
}

impl Trigger {
    /// `before`: the one that had the id, whose events wait for this one.
    fn new(definition: TriggerDefinition, before: Option<&Self>) -> Result<Arc<Self>, String> {
        let (queue, arrived, turn) = match before {
            Some(Self { queue, arrived, turn, .. }) => (Arc::clone(queue), Arc::clone(arrived), Arc::clone(turn)),
            None => {
                let arrived = Arc::<Notify>::default();
                let tells = Arc::clone(&arrived);
                let queue = TriggerQueue::new(definition.id, definition.filter()?, move || tells.notify_one());
                (queue, arrived, Arc::default())
            }
        };
        Ok(Arc::new(Self { definition, queue, arrived, turn, progress: Mutex::default(), run: Mutex::default() }))
    }

    fn stop(&self) {
        if let Some(run) = self.run.lock().take() {
            run.stop();
        }
    }

    fn shown(&self) -> Value {
        let mut shown = self.definition.shown();
        let backlog = self.queue.backlog();
        let mut state = self.progress.lock().shown(self.definition.is_paused, backlog.events > 0);
        state["waiting"] = json!(backlog.events);
        state["waiting_bytes"] = json!(backlog.bytes);
        state["lost"] = json!(backlog.lost);
        shown["deliveries"] = state;
        shown
    }
}

impl Triggers {
    pub fn new(database: &Arc<Database>, limits: TriggerLimits, background: &Handle) -> Arc<Self> {
        let triggers = Arc::new(Self {
            database: Arc::downgrade(database),
            limits,
            background: background.clone(),
            lookups: LookupShare::default(),
            active: Mutex::default(),
            host: Mutex::default(),
        });
        triggers.adopt(database, database.triggers().as_deref());
        let adopting = Arc::downgrade(&triggers);
        database.on_triggers_adopted(Box::new(move |text| {
            if let Some(triggers) = adopting.upgrade()
                && let Some(database) = triggers.database.upgrade()
            {
                triggers.adopt(&database, text);
            }
        }));
        triggers
    }

    /// Takes the triggers that a manifest has.
    fn adopt(&self, database: &Database, text: Option<&str>) {
        let (definitions, problems) = decode(text.unwrap_or_default());
        for problem in problems {
            tracing::error!(database = database.name(), problem, "a trigger in the manifest is left out");
        }
        let before = self.active.lock().clone();
        let mut active = BTreeMap::new();
        for definition in definitions {
            let known = before.get(&definition.name).filter(|known| known.definition == definition);
            let changed = before.values().find(|known| known.definition.id == definition.id).map(|known| &**known);
            match known.map_or_else(|| Trigger::new(definition.clone(), changed), |known| Ok(Arc::clone(known))) {
                Ok(trigger) => _ = active.insert(trigger.definition.name.clone(), trigger),
                Err(problem) => {
                    tracing::error!(database = database.name(), problem, "a trigger in the manifest is left out");
                }
            }
        }
        self.publish(database, active);
    }

    /// Puts triggers into force in place of those before.
    fn publish(&self, database: &Database, active: BTreeMap<Box<str>, Arc<Trigger>>) {
        database.shared.set_triggers(active.values().map(|trigger| Arc::clone(&trigger.queue)).collect());
        let before = std::mem::replace(&mut *self.active.lock(), active);
        let active = self.active.lock().clone();
        let is_gone = |old: &&Arc<Trigger>| !active.values().any(|new| Arc::ptr_eq(new, old));
        before.values().filter(is_gone).for_each(|trigger| trigger.stop());
        self.start_all();
    }

    /// Delivers from now on.
    pub fn start(&self, host: Weak<dyn TriggerHost>) {
        *self.host.lock() = Some(host);
        self.start_all();
    }

    /// Delivers nothing any more; what is under way may still arrive.
    pub fn stop(&self) {
        *self.host.lock() = None;
        self.active.lock().values().for_each(|trigger| trigger.stop());
    }

    fn start_all(&self) {
        let Some(host) = self.host.lock().clone() else { return };
        for trigger in self.active.lock().values() {
            let mut run = trigger.run.lock();
            if run.is_none() {
                let begun = run.insert(Arc::default());
                let (trigger, run, reach) = (Arc::clone(trigger), Arc::clone(begun), self.limits.reach);
                let lookups = self.lookups.clone();
                self.background.spawn(deliver(Weak::clone(&host), trigger, run, (reach, lookups)));
            }
        }
    }

    pub fn len(&self) -> usize {
        self.active.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All triggers, with how their deliveries go.
    pub fn list(&self) -> Vec<Value> {
        self.active.lock().values().map(|trigger| trigger.shown()).collect()
    }

    /// One trigger, with how its deliveries go.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn show(&self, name: &str) -> Result<Value, ChangeRefusal> {
        self.active.lock().get(name).map(|trigger| trigger.shown()).ok_or_else(|| unknown(name))
    }

    /// Events that wait, and events that were lost since the start, over all triggers.
    pub fn waiting_and_lost(&self) -> (u64, u64) {
        let active = self.active.lock();
        active
            .values()
            .map(|trigger| trigger.queue.backlog())
            .fold((0, 0), |(waiting, lost), backlog| (waiting + backlog.events, lost + backlog.lost))
    }

    /// Checks a trigger that is to be added, as far as it can be without changing anything.
    ///
    /// # Errors
    /// When it makes no sense, or this server has none.
    pub fn check(&self, wish: &TriggerWish, now_ms: u64) -> Result<(), ChangeRefusal> {
        self.define(wish.clone(), now_ms).map(drop)
    }

    fn define(&self, wish: TriggerWish, now_ms: u64) -> Result<TriggerDefinition, ChangeRefusal> {
        if self.limits.triggers_max == 0 {
            return Err(ChangeRefusal::Limit("this server has no triggers (--max-triggers 0)".to_owned()));
        }
        wish.define(self.limits.reach, now_ms).map_err(ChangeRefusal::Invalid)
    }

    /// Adds a trigger. Returns it with its signing secret, which is not shown again.
    ///
    /// # Errors
    /// When it makes no sense, its name is taken, the database has too many, or the store refuses.
    pub async fn add(self: &Arc<Self>, wish: TriggerWish, now_ms: u64) -> Result<Value, ChangeRefusal> {
        let definition = self.define(wish, now_ms)?;
        let trigger = Trigger::new(definition, None).map_err(ChangeRefusal::Invalid)?;
        let (added, max) = (Arc::clone(&trigger), self.limits.triggers_max);
        self.change(move |active| {
            let name = &added.definition.name;
            if active.contains_key(name) {
                return Err(Error::Text(format!("ERR the database has a trigger `{name}` already").into()));
            }
            if active.len() >= max {
                let text = format!("ERR a database may have at most {max} triggers (max-triggers): remove one first");
                return Err(Error::Text(text.into()));
            }
            active.insert(name.clone(), Arc::clone(&added));
            Ok(())
        })
        .await?;
        let mut shown = trigger.shown();
        shown["secret"] = json!(&*trigger.definition.secret);
        Ok(shown)
    }

    /// Removes a trigger, and drops what it has not delivered.
    ///
    /// # Errors
    /// When there is none of that name, or the store refuses.
    pub async fn remove(self: &Arc<Self>, name: &str) -> Result<(), ChangeRefusal> {
        let gone = self.active.lock().get(name).cloned().ok_or_else(|| unknown(name))?;
        let of = name.to_owned();
        self.change(move |active| active.remove(of.as_str()).map(drop).ok_or_else(|| gone_meanwhile(&of))).await?;
        let Some(database) = self.database.upgrade() else { return Ok(()) };
        if let Err(error) = database.drop_undelivered(&gone.queue).await {
            tracing::warn!(database = database.name(), %error, "failed to drop the events of a removed trigger");
        }
        Ok(())
    }

    /// Pauses the deliveries of a trigger, or resumes them. Events are kept meanwhile.
    ///
    /// # Errors
    /// When there is none of that name, or the store refuses.
    pub async fn pause(self: &Arc<Self>, name: &str, is_paused: bool) -> Result<Value, ChangeRefusal> {
        self.show(name)?;
        let of = name.to_owned();
        self.change(move |active| {
            let before = active.get(of.as_str()).ok_or_else(|| gone_meanwhile(&of))?;
            let definition = TriggerDefinition { is_paused, ..before.definition.clone() };
            let refused = |problem: String| Error::Text(format!("ERR {problem}").into());
            let after = Trigger::new(definition, Some(&**before)).map_err(refused)?;
            *after.progress.lock() = before.progress.lock().clone();
            active.insert(of.into(), after);
            Ok(())
        })
        .await?;
        self.show(name)
    }

    /// Changes the triggers, in the store first.
    async fn change(
        self: &Arc<Self>,
        change: impl FnOnce(&mut BTreeMap<Box<str>, Arc<Trigger>>) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), ChangeRefusal> {
        let Some(database) = self.database.upgrade() else { return Ok(()) };
        let (own, publishing, of) = (Arc::clone(self), Arc::clone(self), Arc::clone(&database));
        let changed = database.declare_triggers(
            move || {
                let mut active = own.active.lock().clone();
                change(&mut active)?;
                let text = encode(active.values().map(|trigger| &trigger.definition));
                Ok((text.map(Arc::from), active))
            },
            move |active| publishing.publish(&of, active),
        );
        changed.await.map_err(|error| match error {
            Error::Store(_) | Error::Damaged(_) | Error::OutOfTotal => ChangeRefusal::Store(error.to_string()),
            error => {
                let text = error.to_string();
                ChangeRefusal::Conflict(text.strip_prefix("ERR ").unwrap_or(&text).to_owned())
            }
        })
    }
}

impl Drop for Triggers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn unknown(name: &str) -> ChangeRefusal {
    ChangeRefusal::Unknown(format!("there is no trigger `{}`", name.escape_default()))
}

fn gone_meanwhile(name: &str) -> Error {
    Error::Text(format!("ERR the trigger `{name}` was just removed").into())
}
