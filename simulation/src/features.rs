//! Features of a schedule beyond the plainest one. Each feature has chances of its own, so that a seed's plain schedule
//! stays the same when others are added.

use dormouse_shard::keyspace::Eviction;

use crate::chance::Chance;
use crate::model::{Key, ONCE, READS, Touched, touched};
use crate::plan::{Action, Limit, Plan};
use crate::script::{Asked, Script};

/// Times in a thousand steps that the disk becomes full or has room again, or that shards, and so places, are cut or
/// merged. Cutting decides which data is stored together.
const FILLS: u64 = 45;
/// Batches in a thousand with a command that makes a value large.
const GROWTHS: u64 = 150;

/// Turns in a thousand at which a batch comes while a process ends.
const EAGERNESS: u64 = 250;

/// Transactions with watches in a thousand steps.
const TRANSACTIONS: u64 = 120;
/// Transactions in a thousand that are discarded.
const DISCARDS: u64 = 80;
/// Slices of eviction without a command in a thousand steps.
const EVICTIONS: u64 = 60;
/// Branches in a thousand steps.
const BRANCHES: u64 = 15;
/// Clients that wait in a thousand steps.
const BLOCKS: u64 = 100;
/// Processes in a thousand that live with damaged data.
const DAMAGES: u64 = 500;
/// Batches in a thousand with a command that counts keys.
const COUNTINGS: u64 = 200;
/// Batches in a thousand with commands over hashes whose fields expire.
const FIELDS: u64 = 250;
/// Batches in a thousand with commands over arrays.
const ARRAYS: u64 = 300;
/// Batches in a thousand with commands over documents, filters and vector sets.
const DOCUMENTS: u64 = 300;
/// Batches in a thousand with commands over streams.
const STREAMS: u64 = 350;
/// Batches in a thousand with a script.
const SCRIPTS: u64 = 250;
/// Changes of users or functions in a thousand steps.
const DECLARATIONS: u64 = 40;
/// Deliveries in a thousand steps of requests that are run once.
const DELIVERIES: u64 = 100;
/// Batches in a thousand that belong to an import.
const IMPORTS: u64 = 300;
/// Branches of past moments in a thousand steps.
const RETURNS: u64 = 60;
/// Deletions of branches in a thousand steps.
const DELETIONS: u64 = 25;
/// Keys of each kind where manifests have pages.
const PAGED_KEYS: u64 = 60;

/// The features of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// The disk is full for a while, except for tails and manifests, which fit into the reserve.
    pub full_disk: bool,
    /// Values are so large that they are stored in pieces as on any server.
    pub large_values: bool,
    /// Clients continue to write while the process is told to end, so that the last checkpoint races with them.
    pub eager_clients: bool,
    /// Some transactions watch keys before they run.
    pub watches: bool,
    /// The databases have a limit of memory, and a policy for dropping keys at it.
    pub eviction: bool,
    /// The places are so many that manifests have pages.
    pub pages: bool,
    /// Between some processes a bit of durable data is flipped, see [`crate::damage`].
    pub damage: bool,
    /// Branches are made and must stay as they were, see [`crate::branches`].
    pub branches: bool,
    /// Keys are counted.
    pub counts: bool,
    /// Imports stage data beside the databases and replace them with it.
    pub imports: bool,
    /// Clients wait in blocking commands, see [`crate::waits`].
    pub waits: bool,
    /// Fields of hashes expire.
    pub fields: bool,
    /// Clients use arrays.
    pub arrays: bool,
    /// Clients use documents, filters and vector sets.
    pub documents: bool,
    /// Clients use streams.
    pub streams: bool,
    /// Clients run scripts, and functions if there are any.
    pub scripts: bool,
    /// Users and libraries of functions change, see [`crate::declared`].
    pub settings: bool,
    /// Requests are delivered several times, at once and across crashes, and are run once.
    pub deliveries: bool,
    /// The databases keep their history, and branches of past moments are made.
    pub history: bool,
    /// Backups are made between processes, see [`crate::backups`].
    pub backups: bool,
    /// Branches are deleted.
    pub deletions: bool,
}

impl Features {
    pub const NONE: Self = Self {
        full_disk: false,
        large_values: false,
        eager_clients: false,
        watches: false,
        eviction: false,
        pages: false,
        damage: false,
        branches: false,
        counts: false,
        imports: false,
        waits: false,
        fields: false,
        arrays: false,
        documents: false,
        streams: false,
        scripts: false,
        settings: false,
        deliveries: false,
        history: false,
        backups: false,
        deletions: false,
    };

    /// Returns the features of a seed.
    pub fn of(seed: u64) -> Self {
        let has = |feature: u64| Chance::new(seed ^ feature << 56).permille(300);
        Self {
            full_disk: has(1),
            large_values: has(2),
            eager_clients: has(3),
            watches: has(4),
            // A large value, or the tables of many places, may by themselves exceed the limit.
            // Nothing of what an import fills is evicted.
            eviction: has(5) && !has(2) && !has(6) && !has(10),
            pages: has(6),
            damage: has(7),
            branches: has(8),
            counts: has(9),
            imports: has(10),
            waits: has(11),
            fields: has(12),
            arrays: has(23),
            documents: has(24),
            streams: has(13),
            scripts: has(14),
            // Functions need a library.
            settings: has(14) || has(15),
            // Receipts are never evicted.
            deliveries: has(16) && !(has(5) && !has(2) && !has(6) && !has(10)),
            // The entry of an eviction is not known, and damage of a past that is never looked at is not noticed.
            history: has(17) && !has(7) && !(has(5) && !has(2) && !has(6) && !has(10)),
            backups: has(18),
            deletions: has(8) && has(19),
        }
    }
}

/// The features of a run, with the chances that drive them.
pub struct Extras {
    pub features: Features,
    chance: Chance,
    /// Chance for features that were added later.
    later: Chance,
    /// Chance for those that were added last.
    last: Chance,
    /// Chance for clients that wait.
    waits: Chance,
    /// Chance for fields.
    fields: Chance,
    /// Chances for arrays, documents, streams, scripts and settings.
    arrays: Chance,
    documents: Chance,
    streams: Chance,
    scripts: Chance,
    settings: Chance,
    deliveries: Chance,
    history: Chance,
    deletions: Chance,
    /// Requests of each database that were delivered already.
    delivered: Vec<Vec<Asked>>,
}

impl Extras {
    pub fn new(seed: u64, features: Features) -> Self {
        Self {
            features,
            chance: Chance::new(!seed),
            later: Chance::new(seed.rotate_left(32)),
            last: Chance::new(seed.rotate_left(16)),
            waits: Chance::new(seed.rotate_left(48)),
            fields: Chance::new(seed.rotate_left(24)),
            arrays: Chance::new(seed.rotate_left(20)),
            documents: Chance::new(seed.rotate_left(52)),
            streams: Chance::new(seed.rotate_left(40)),
            scripts: Chance::new(seed.rotate_left(8)),
            settings: Chance::new(seed.rotate_left(56)),
            deliveries: Chance::new(seed.rotate_left(12)),
            history: Chance::new(seed.rotate_left(28)),
            deletions: Chance::new(seed.rotate_left(44)),
            delivered: Vec::new(),
        }
    }

    /// Adapts the plan's databases to the features.
    pub fn prepare(&mut self, plan: &mut Plan) {
        if self.features.pages {
            plan.scripts.iter_mut().for_each(|script| script.keys = PAGED_KEYS);
        }
        if self.features.eviction {
            plan.limits = plan.scripts.iter().map(|_| Some(self.limit())).collect();
        }
        if self.features.imports {
            plan.scripts.iter_mut().for_each(|script| script.has_expiries = false);
        }
        if self.features.history {
            plan.history_ms = self.history.pick(&[300, 5_000, 3_600_000]);
        }
    }

    fn limit(&mut self) -> Limit {
        let policies = [
            Eviction::NoEviction,
            Eviction::AllKeysLfu,
            Eviction::AllKeysLru,
            Eviction::AllKeysRandom,
            Eviction::VolatileLfu,
            Eviction::VolatileLru,
            Eviction::VolatileRandom,
            Eviction::VolatileTtl,
        ];
        Limit { bytes: self.later.pick(&[5_000, 7_000, 10_000]), policy: self.later.pick(&policies) }
    }

    /// Returns an action to take before the next step, if any.
    pub fn action(&mut self) -> Option<Action> {
        let Features { full_disk, .. } = self.features;
        let fills = full_disk && self.chance.permille(FILLS);
        if fills {
            return Some(self.chance.pick(&[Action::Fill, Action::Split, Action::Merge]));
        }
        if self.features.watches && self.later.permille(TRANSACTIONS) {
            return Some(Action::Transact);
        }
        if self.features.eviction && self.later.permille(EVICTIONS) {
            return Some(Action::Evict);
        }
        if self.features.waits && self.waits.permille(BLOCKS) {
            return Some(Action::Block);
        }
        if self.features.settings && self.settings.permille(DECLARATIONS) {
            return Some(Action::DeclareSettings);
        }
        if self.features.deliveries && self.deliveries.permille(DELIVERIES) {
            return Some(Action::Deliver);
        }
        if self.features.history && self.history.permille(RETURNS) {
            return Some(Action::Return);
        }
        if self.features.deletions && self.deletions.permille(DELETIONS) {
            return Some(Action::Delete);
        }
        (self.features.branches && self.last.permille(BRANCHES)).then_some(Action::Branch)
    }

    /// Returns the seed of damage, if the next process is to live with some.
    pub fn damages(&mut self) -> Option<u64> {
        (self.features.damage && self.last.permille(DAMAGES)).then(|| self.last.draw())
    }

    /// Whether another batch comes while the process is told to end.
    pub fn asks_to_the_end(&mut self) -> bool {
        self.features.eager_clients && self.chance.permille(EAGERNESS)
    }

    /// Returns the keys that a client watches, its commands after that (none if it discards), and how many turns it
    /// thinks.
    pub fn transaction(&mut self, script: &Script) -> (Vec<Key>, Option<Vec<Asked>>, u64) {
        let chance = &mut self.later;
        let mut keys: Vec<Key> = Vec::new();
        while keys.is_empty() {
            let named = script.batch(chance).into_iter().map(|asked| touched(asked.select, &asked.words));
            keys.extend(named.flat_map(|touched| if let Touched::Keys(keys) = touched { keys } else { Vec::new() }));
        }
        let asked = script.batch(chance);
        (keys, (!chance.permille(DISCARDS)).then_some(asked), chance.below(chance.clone().pick(&[5, 50, 400])))
    }

    /// Returns a blocking command, and for how many turns its client waits.
    pub fn blocking(&mut self, script: &Script) -> (Asked, u64) {
        let asked = match self.features.streams && self.streams.permille(400) {
            true => script.blocking_read(&mut self.streams),
            false => script.blocking(&mut self.waits),
        };
        let turns = self.waits.clone().pick(&[10, 300, 3000]);
        (asked, self.waits.below(turns))
    }

    /// Returns a request to a database, new or delivered before, and how often it is delivered now.
    pub fn delivery(&mut self, at: usize, script: &Script) -> (Asked, u64) {
        let chance = &mut self.deliveries;
        let copies = 1 + chance.below(3);
        if self.delivered.len() <= at {
            self.delivered.resize_with(at + 1, Vec::new);
        }
        let delivered = &mut self.delivered[at];
        if !delivered.is_empty() && chance.permille(500) {
            return (delivered[chance.below(delivered.len() as u64) as usize].clone(), copies);
        }
        let asked = loop {
            let found = script.batch(chance).into_iter().find(|asked| !READS.contains(&asked.words[0].as_str()));
            if let Some(asked) = found {
                break asked;
            }
        };
        let ttl_ms = chance.pick(&[2_000, 600_000, 600_000]);
        let head = [ONCE.to_owned(), format!("r{:x}", chance.draw()), ttl_ms.to_string()];
        let asked = Asked { select: asked.select, words: head.into_iter().chain(asked.words).collect() };
        delivered.push(asked.clone());
        (asked, copies)
    }

    /// Adds to a client's commands.
    pub fn add_to(&mut self, asked: &mut Vec<Asked>, script: &Script) {
        if self.features.large_values && self.chance.permille(GROWTHS) {
            asked.push(script.growth(&mut self.chance));
        }
        if self.features.imports && self.last.permille(IMPORTS) {
            *asked = script.import(&mut self.last);
        }
        if self.features.fields && script.has_expiries && self.fields.permille(FIELDS) {
            asked.extend((0..=self.fields.below(3)).map(|_| script.field(&mut self.fields)));
        }
        if self.features.arrays && self.arrays.permille(ARRAYS) {
            asked.extend((0..=self.arrays.below(4)).map(|_| script.array(&mut self.arrays)));
        }
        if self.features.documents && self.documents.permille(DOCUMENTS) {
            asked.extend((0..=self.documents.below(4)).map(|_| script.document(&mut self.documents)));
        }
        if self.features.streams && self.streams.permille(STREAMS) {
            asked.extend((0..=self.streams.below(4)).map(|_| script.stream(&mut self.streams)));
        }
        if self.features.scripts && self.scripts.permille(SCRIPTS) {
            asked.push(script.scripted(&mut self.scripts, self.features.streams));
        }
        if self.features.counts && self.last.permille(COUNTINGS) {
            asked.push(script.counting(&mut self.last));
        }
    }
}
