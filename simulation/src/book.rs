//! The book of a node: each request to it, and each promise for it. After a crash, the book checks the promises.
//!
//! 1. Every batch is noted while its locks are held, so in the order of cause and effect: its commands, its replies,
//!    and the end of its entry in the log. The models run it too, and their replies must be the same.
//! 2. A batch is *promised* when it and every earlier batch of its database are durable in one of two ways: the log has
//!    said that the entry is durable, or a checkpoint that began after the batch has been committed.
//! 3. In each database, a crash must leave the state after some prefix of the batches that includes all promised ones.
//!    Databases with everything logged must show the same prefix. A database that was not logged must not be ahead of
//!    them: a manifest may not keep its writes and lose the earlier ones of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dormouse_shard::keyspace::Eviction;
use dormouse_shard::keyspace::changes::{EventClass, KeyEvent};
use dormouse_storage::log::Lsn;

use crate::branches::Branches;
use crate::clock;
use crate::damage::Damage;
use crate::declared::{self, SETTINGS, Setting, Versions};
use crate::disk::Disk;
use crate::model::{self, Key, Model, STAGED, Touched};
use crate::plan::Limit;
use crate::script::Asked;
use crate::scripted;
use crate::watches::Watch;

/// One entry of the log, or a batch that only read.
#[derive(Debug)]
pub struct Batch {
    pub database: usize,
    pub commands: Vec<(Asked, String)>,
    pub now_ms: u64,
    /// The position behind its entry; 0: it wrote nothing, or nothing was logged.
    pub written: Lsn,
    /// The database's sequence number after it.
    pub sequence: u64,
    /// Whether it may have written, and was not logged or was logged behind a gap that no checkpoint has closed yet.
    pub unlogged: bool,
    /// Whether it changed something according to the models; set by [`Book::note`].
    pub changed: bool,
    /// Whether it is a key that was dropped for room. Its entry in the log is not known.
    pub is_eviction: bool,
}

#[derive(Debug, Default)]
struct Database {
    /// The contents when the process started.
    base: Model,
    live: Model,
    /// The process's batches, those of other databases included, that precede a committed checkpoint.
    covered: usize,
    /// Where the last write of a key ends in the log, and the last write of all keys.
    written: BTreeMap<Key, Lsn>,
    written_whole: Lsn,
    /// Where the log ended when a loss window was last declared: earlier writes were promised less.
    declared: Lsn,
    /// The versions of its [settings](SETTINGS).
    settings: [Versions; SETTINGS.len()],
}

/// The clients that have waited, by their database and number: the replies on the way to them, and those that have left
/// or have their reply.
#[derive(Debug, Default)]
pub struct Served {
    replies: BTreeMap<(usize, u64), String>,
    gone: BTreeSet<(usize, u64)>,
}

impl Served {
    /// Notes that a command was run for a client that waits.
    ///
    /// # Errors
    /// When the client has left, or was served before.
    pub fn serve(&mut self, at: usize, number: u64, reply: String) -> Result<(), String> {
        if self.gone.contains(&(at, number)) {
            return Err(format!("waiter {number} of database {at} was served {reply:?} after it had left"));
        }
        match self.replies.insert((at, number), reply) {
            None => Ok(()),
            Some(before) => Err(format!("waiter {number} of database {at} was served twice, {before:?} first")),
        }
    }

    /// Notes that a client has its reply.
    ///
    /// # Errors
    /// When that is not what it was served.
    pub fn answered(&mut self, at: usize, number: u64, reply: &str) -> Result<(), String> {
        self.gone.insert((at, number));
        match self.replies.remove(&(at, number)) {
            Some(served) if served == reply => Ok(()),
            served => Err(format!("waiter {number} of database {at} was answered {reply:?} and served {served:?}")),
        }
    }

    /// Notes that a client waits no more.
    ///
    /// # Errors
    /// When it was served.
    pub fn leave(&mut self, at: usize, number: u64) -> Result<(), String> {
        self.gone.insert((at, number));
        match self.replies.remove(&(at, number)) {
            None => Ok(()),
            Some(served) => Err(format!("waiter {number} of database {at} has left, and {served:?} with it")),
        }
    }
}

pub struct Book {
    /// The disk, which traces batches.
    disk: Arc<Disk>,
    databases: Vec<Database>,
    batches: Vec<Batch>,
    /// When each batch was noted, by the held clock.
    noted_ms: Vec<u64>,
    /// Databases with batches that were not logged, or behind a gap: their history lacks moments.
    gaps: BTreeSet<usize>,
    /// Watches by the number that their client gave.
    watches: BTreeMap<u64, Watch>,
    pub served: Served,
    /// Damage that the process lives with.
    pub damage: Option<Damage>,
    pub branches: Branches,
    /// Whether a process lives that may note anything.
    pub is_open: bool,
    /// The first fault.
    pub failure: Option<String>,
}

impl Book {
    pub fn new(disk: &Arc<Disk>, databases: usize) -> Self {
        let databases = (0..databases).map(|_| Database::default()).collect();
        Self {
            disk: Arc::clone(disk),
            databases,
            batches: Vec::new(),
            noted_ms: Vec::new(),
            gaps: BTreeSet::new(),
            watches: BTreeMap::new(),
            served: Served::default(),
            damage: None,
            branches: Branches::default(),
            is_open: false,
            failure: None,
        }
    }

    pub fn fail(&mut self, problem: String) {
        self.failure.get_or_insert(problem);
    }

    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Notes a batch, while its locks are held. `is_strict`: its reply must wait for its own writes and for those that
    /// it tells of. `awaited`: the position that it waits for. `flushed`: the durable position.
    pub fn note(&mut self, mut batch: Batch, is_strict: bool, awaited: Lsn, flushed: Lsn) {
        if !self.is_open {
            return;
        }
        self.disk.note(format!(
            "{} batch {} of database {}: {}, up to {}, number {}",
            batch.now_ms - clock::START_MS,
            self.batches.len() + 1,
            batch.database,
            shown(&batch.commands),
            batch.written,
            batch.sequence
        ));
        let database = &mut self.databases[batch.database];
        for (asked, reply) in &mut batch.commands {
            let before = database.live.alive(batch.now_ms);
            let (expected, touched) = database.live.run(asked.select, &asked.words, batch.now_ms, reply);
            if *reply != expected {
                let asked = asked.words.join(" ");
                self.failure.get_or_insert(format!("`{asked}` was answered {reply:?} instead of {expected:?}"));
            }
            if asked.words[0] == scripted::FUNCTION {
                let library = &database.settings[Setting::Library as usize];
                let version = match reply.as_str() {
                    scripted::NO_FUNCTION => Some(0),
                    reply => scripted::elements(reply).first().and_then(|version| version[1..].trim_end().parse().ok()),
                };
                if !version.is_some_and(|version| library.may_serve(version)) && !scripted::is_refused(reply) {
                    self.failure.get_or_insert(format!("the function of {version:?} was called: {library:?}"));
                }
            }
            let changed = before != database.live.alive(batch.now_ms);
            let writes = !model::READS.contains(&asked.words[0].as_str());
            for watch in self.watches.values_mut().filter(|watch| watch.database == batch.database) {
                watch.see(&touched, writes, &database.live, batch.now_ms);
            }
            batch.changed |= changed;
            let told = match &touched {
                Touched::Keys(keys) => keys.iter().filter_map(|key| database.written.get(key)).max().copied(),
                Touched::All => None,
            };
            let told = told.unwrap_or(0).max(database.written_whole);
            // Whether data is staged is told to the importer, which has waited for its own steps.
            let told = if asked.select >= STAGED { 0 } else { told };
            if is_strict && told > flushed.max(database.declared) && told > awaited {
                let asked = asked.words.join(" ");
                self.failure.get_or_insert(format!("`{asked}` tells of byte {told} of the log and awaits {awaited}"));
            }
            if batch.written > 0 && changed {
                match touched {
                    Touched::Keys(keys) => {
                        let changed =
                            keys.into_iter().filter(|key| before.keys.get(key) != database.live.keys.get(key));
                        database.written.extend(changed.map(|key| (key, batch.written)));
                    }
                    Touched::All => database.written_whole = batch.written,
                }
            }
        }
        if is_strict && batch.written > awaited {
            self.failure.get_or_insert(format!("a write up to {} awaits only {awaited}", batch.written));
        }
        if batch.unlogged || batch.changed && batch.written == 0 {
            self.gaps.insert(batch.database);
        }
        self.batches.push(batch);
        self.noted_ms.push(clock::now_ms());
    }

    /// Notes that the database has removed a key by itself, while its locks are held.
    pub fn removed(&mut self, at: usize, event: KeyEvent, key: Key, limit: Option<Limit>) {
        let now_ms = clock::now_ms();
        if !self.is_open || !matches!(event.class, EventClass::Expired | EventClass::Evicted) {
            return;
        }
        let live = &mut self.databases[at].live;
        let expiry = live.keys.get(&key).map(|entry| entry.expiry);
        if event.class == EventClass::Expired {
            match expiry {
                Some(Some(at)) if at <= now_ms => drop(live.keys.remove(&key)),
                // The previous process has left it, or a command has replaced or dropped the stale key.
                None => {}
                _ => self.fail(format!("{key:?} expired at {now_ms}, but has expiry {expiry:?}")),
            }
            return;
        }
        // The previous process has left a stale key.
        let Some(expiry) = expiry else { return };
        let is_allowed = match limit.map(|limit| limit.policy) {
            None | Some(Eviction::NoEviction) => false,
            Some(Eviction::AllKeysLfu | Eviction::AllKeysLru | Eviction::AllKeysRandom) => true,
            Some(_) => expiry.is_some(),
        };
        if !is_allowed {
            self.fail(format!("{key:?} with expiry {expiry:?} was evicted under {limit:?}"));
        }
        let words = vec![model::EVICTED.to_owned(), key.1];
        let batch = Batch {
            database: at,
            commands: vec![(Asked { select: key.0, words }, String::new())],
            now_ms,
            written: 0,
            sequence: 0,
            unlogged: false,
            changed: false,
            is_eviction: true,
        };
        self.note(batch, false, 0, 0);
    }

    /// Notes that a client watches keys from now on, while their locks are held.
    pub fn watch(&mut self, number: u64, database: usize, keys: &[Key], now_ms: u64) {
        if self.is_open {
            self.disk.note(format!("{number:016x} watches {keys:?} of database {database}"));
            self.watches.insert(number, Watch::new(database, keys, &self.databases[database].live, now_ms));
        }
    }

    /// Notes that a client watches no longer.
    pub fn unwatch(&mut self, number: u64) {
        self.watches.remove(&number);
    }

    /// Notes that a watching transaction runs, while its locks are held. Must precede [`Self::note`].
    pub fn applies(&mut self, number: u64, now_ms: u64) {
        if let Some(watch) = self.watches.remove(&number)
            && watch.must_refuse(&self.databases[watch.database].live, now_ms)
        {
            self.fail(format!("a transaction has run though one of its keys had changed: {watch:?}"));
        }
    }

    /// Notes that a transaction was refused because a key that it watches had changed.
    pub fn refused(&mut self, number: u64) {
        if let Some(watch) = self.watches.remove(&number)
            && !watch.may_refuse(clock::now_ms())
        {
            self.fail(format!("a transaction was refused though none of its keys had changed: {watch:?}"));
        }
    }

    /// Notes that a checkpoint of the database was committed that began after this many batches. What was logged since
    /// is promised too.
    pub fn cover(&mut self, database: usize, batches: usize) {
        if self.is_open {
            let covered = &mut self.databases[database].covered;
            *covered = batches.max(*covered);
            let since = self.batches.iter_mut().skip(batches).filter(|batch| batch.database == database);
            since.filter(|batch| batch.written > 0).for_each(|batch| batch.unlogged = false);
        }
    }

    /// Notes that a loss window was declared when the log ended at `end`.
    pub fn declare(&mut self, database: usize, end: Lsn) {
        self.databases[database].declared = end;
    }

    /// Notes that a change of a setting begins, or how it ends.
    pub fn change_setting(&mut self, database: usize, setting: Setting, version: u64, is_done: Option<bool>) {
        let versions = &mut self.databases[database].settings[setting as usize];
        match is_done {
            _ if !self.is_open => {}
            None => versions.begin(version),
            Some(is_done) => versions.end(version, is_done),
        }
    }

    /// Checks the settings that the process before has left.
    ///
    /// # Errors
    /// Lost settings, or such that were never declared.
    pub fn check_settings(&mut self, at: usize, found: &dormouse_shard::database::Database) -> Result<(), String> {
        for setting in SETTINGS {
            let survived = self.databases[at].settings[setting as usize].survive(declared::version(found, setting));
            survived.map_err(|problem| format!("{setting:?} of database {at}: {problem}"))?;
        }
        Ok(())
    }

    /// Notes that a branch of a database was made since it had this many batches.
    pub fn branched(&mut self, name: String, database: usize, since: usize) {
        if !self.is_open {
            return;
        }
        let mut state = self.databases[database].base.clone();
        let mut states = Vec::new();
        for (number, batch) in self.batches.iter().enumerate().filter(|(_, batch)| batch.database == database) {
            if number >= since {
                states.push(state.shown());
            }
            for (asked, reply) in &batch.commands {
                state.run(asked.select, &asked.words, batch.now_ms, reply);
            }
        }
        states.push(state.shown());
        self.branches.add(name, states);
    }

    /// Returns a moment at which a batch of the database was run, and that is over.
    pub fn moment(&self, database: usize, draw: u64) -> Option<u64> {
        let noted = self.batches.iter().zip(&self.noted_ms).filter(|(batch, _)| batch.database == database);
        let past: Vec<u64> = noted.map(|(_, noted_ms)| *noted_ms).filter(|ms| *ms < clock::now_ms()).collect();
        past.get((draw % past.len().max(1) as u64) as usize).copied()
    }

    /// Notes that a branch of a past moment was made. It has every batch that was noted by then, and none from the first
    /// one on that is younger.
    pub fn returned(&mut self, name: String, database: usize, at_ms: u64) {
        if !self.is_open || self.gaps.contains(&database) {
            return;
        }
        let mut state = self.databases[database].base.clone();
        let mut states = Vec::new();
        let all = self.batches.iter().zip(&self.noted_ms);
        for (batch, noted_ms) in all.filter(|(batch, _)| batch.database == database) {
            if *noted_ms > at_ms {
                states.push(state.shown());
                if batch.now_ms > at_ms && batch.written > 0 {
                    return self.branches.add(name, states);
                }
            }
            for (asked, reply) in &batch.commands {
                state.run(asked.select, &asked.words, batch.now_ms, reply);
            }
        }
        states.push(state.shown());
        self.branches.add(name, states);
    }

    pub fn live(&self, database: usize) -> &Model {
        &self.databases[database].live
    }

    /// Returns how many batches must have survived, up to the last promised one, and the sequence number after it.
    fn promised(&self, at: usize, flushed: Lsn) -> (usize, u64) {
        let covered = self.databases[at].covered;
        let mut promised = (0, 0);
        for (number, batch) in self.batches.iter().enumerate().filter(|(_, batch)| batch.database == at) {
            if number >= covered && (batch.unlogged || batch.written > flushed) {
                break;
            }
            if batch.changed && (number < covered || !batch.is_eviction) {
                promised = (number + 1, batch.sequence);
            }
        }
        promised
    }

    /// Checks the state that a crash has left. `found`: the contents of each database, and its sequence number. From
    /// here on, the models are that state.
    ///
    /// # Errors
    /// Lost data, or data that can never have been.
    pub fn check(&mut self, found: Vec<(Model, u64)>, flushed: Lsn) -> Result<(), String> {
        let now_ms = clock::now_ms();
        // The prefixes, by their lengths, that all logged databases show.
        let mut common: Option<BTreeSet<usize>> = None;
        let mut least_unlogged = 0;
        let mut logged_promise = 0;
        for (at, (found, sequence)) in found.iter().enumerate() {
            let (promised, promised_sequence) = self.promised(at, flushed);
            let fitting = self.fitting(at, found, now_ms);
            let fitting: BTreeSet<usize> = match fitting {
                Ok(fitting) => fitting.into_iter().filter(|length| *length >= promised).collect(),
                Err(problem) => return Err(format!("database {at} shows no state that it ever had: {problem}")),
            };
            if fitting.is_empty() {
                return Err(format!(
                    "database {at} shows a state from before batch {promised} of {}, which was promised",
                    self.batches.len()
                ));
            }
            if *sequence < promised_sequence {
                return Err(format!("database {at} goes on at {sequence}, but {promised_sequence} was promised"));
            }
            if self.batches.iter().any(|batch| batch.database == at && batch.unlogged) {
                least_unlogged = least_unlogged.max(fitting.first().copied().unwrap_or(0));
            } else {
                logged_promise = logged_promise.max(promised);
                common = Some(match common {
                    Some(common) => common.intersection(&fitting).copied().collect(),
                    None => fitting,
                });
            }
        }
        if let Some(common) = common {
            match common.last() {
                None => return Err("the databases show different moments".into()),
                Some(last) if *last < least_unlogged => {
                    return Err(format!("a database shows batch {least_unlogged}, the logged ones only {last}"));
                }
                Some(last) if *last < logged_promise => return Err("the databases are behind their promise".into()),
                Some(_) => {}
            }
        }
        for (database, (found, _)) in self.databases.iter_mut().zip(found) {
            let settings = std::mem::take(&mut database.settings);
            *database = Database { base: found.clone(), live: found, settings, ..Database::default() };
        }
        self.batches.clear();
        self.noted_ms.clear();
        self.gaps.clear();
        self.watches.clear();
        self.served = Served::default();
        Ok(())
    }

    /// Returns the lengths of the prefixes after which a database held what was found.
    fn fitting(&self, at: usize, found: &Model, now_ms: u64) -> Result<BTreeSet<usize>, String> {
        let mut state = self.databases[at].base.clone();
        let differs = |state: &Model, key: &Key| state.alive_entry(key, now_ms) != found.alive_entry(key, now_ms);
        let all = |state: &Model| -> BTreeSet<Key> {
            state.keys.keys().chain(found.keys.keys()).filter(|key| differs(state, key)).cloned().collect()
        };
        let mut wrong = all(&state);
        let mut fitting = BTreeSet::new();
        let mut closest = (usize::MAX, 0, BTreeSet::new());
        for length in 0..=self.batches.len() {
            if let Some(batch) = length.checked_sub(1).map(|last| &self.batches[last])
                && batch.database == at
            {
                for (asked, reply) in &batch.commands {
                    match state.run(asked.select, &asked.words, batch.now_ms, reply).1 {
                        Touched::All => wrong = all(&state),
                        Touched::Keys(keys) => {
                            for key in keys {
                                if differs(&state, &key) {
                                    wrong.insert(key)
                                } else {
                                    wrong.remove(&key)
                                };
                            }
                        }
                    }
                }
            }
            if wrong.is_empty() {
                fitting.insert(length);
            }
            if wrong.len() < closest.0 {
                closest = (wrong.len(), length, wrong.clone());
            }
        }
        if fitting.is_empty() {
            let keys: Vec<&Key> = closest.2.iter().take(5).collect();
            let shown: Vec<_> = keys.iter().map(|key| found.keys.get(key)).collect();
            return Err(format!("after batch {} it differs in {keys:?}: {shown:?}", closest.1));
        }
        Ok(fitting)
    }
}

fn shown(commands: &[(Asked, String)]) -> String {
    let short = |text: &str| text.chars().take(40).collect::<String>().replace("\r\n", " ");
    let one = |(asked, reply): &(Asked, String)| {
        let words: Vec<String> = asked.words.iter().map(|word| short(word)).collect();
        format!("{}:{} -> {}", asked.select, words.join(" "), short(reply))
    };
    commands.iter().map(one).collect::<Vec<_>>().join("; ")
}
