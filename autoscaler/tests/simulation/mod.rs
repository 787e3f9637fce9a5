//! A node that carries out plans, under loads laid over its slots, and checks that no plan undoes another.

use std::collections::BTreeMap;

use dormouse_autoscaler::{
    Action, Autoscaler, DatabaseLoad, NodeLoad, Observation, Part, Policy, ScalingPlan, ShardLoad,
};
use serde::Deserialize;

pub const STEP_MS: u64 = 1_000;

/// Spread evenly over its slots.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub slots: [u16; 2],
    #[serde(default)]
    pub keys: f64,
    #[serde(default)]
    pub bytes: f64,
    #[serde(default)]
    pub operations_per_second: f64,
    /// Microseconds under the lock for one operation.
    #[serde(default = "one")]
    pub cost_us: f64,
}

fn one() -> f64 {
    1.0
}

#[derive(Clone, Debug)]
pub struct Database {
    pub sleep_after_ms: Option<u64>,
    pub loads: Vec<Load>,
    pub dirty_bytes_per_second: u64,
    pub asleep: bool,
    pub shards: Vec<Shard>,
    last_command_ms: u64,
    dirty_bytes: u64,
    checkpointed_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shard {
    pub id: u64,
    pub first_slot: u16,
    pub end_slot: u16,
}

pub struct Simulation {
    pub now: u64,
    pub workers: usize,
    pub memory_bytes: u64,
    pub memory_bytes_max: u64,
    /// The number of parts into which the observer divides a shard.
    pub parts: u16,
    /// Plans that fail leave the world as it is.
    pub plans_fail: bool,
    pub databases: BTreeMap<String, Database>,
    pub autoscaler: Autoscaler,
    next_id: u64,
    steps: u64,
    /// Every split and merge: moment, database, slots, boundary, and whether it was a split.
    reshapes: Vec<(u64, String, [u16; 2], u16, bool)>,
}

impl Database {
    pub fn new(now: u64) -> Database {
        Database {
            sleep_after_ms: None,
            loads: Vec::new(),
            dirty_bytes_per_second: 0,
            asleep: false,
            shards: vec![Shard { id: 0, first_slot: 0, end_slot: 16_384 }],
            last_command_ms: now,
            dirty_bytes: 0,
            checkpointed_ms: now,
        }
    }

    /// A client's command, which wakes the database.
    pub fn touch(&mut self, now: u64) {
        self.asleep = false;
        self.last_command_ms = now;
    }

    pub fn operations_per_second(&self) -> f64 {
        self.loads.iter().map(|load| load.operations_per_second).sum()
    }

    /// The sum of the loads on these slots.
    pub fn sum(&self, [first, end]: [u16; 2], of: impl Fn(&Load) -> f64) -> f64 {
        let share = |load: &Load| {
            let shared = end.min(load.slots[1]).saturating_sub(first.max(load.slots[0]));
            of(load) * f64::from(shared) / f64::from(load.slots[1] - load.slots[0])
        };
        self.loads.iter().map(share).sum()
    }

    fn histogram(&self, shard: &Shard, parts: u16, of: impl Fn(&Load) -> f64 + Copy) -> Vec<Part> {
        let slots = u32::from(shard.end_slot - shard.first_slot);
        let parts = u32::from(parts).min(slots);
        let start = |part: u32| shard.first_slot + u16::try_from(part * slots / parts).expect("a slot");
        (0..parts)
            .map(|part| Part { first_slot: start(part), weight: self.sum([start(part), start(part + 1)], of) })
            .collect()
    }

    fn observe(&self, simulation: &Simulation, id: &str) -> DatabaseLoad {
        let shards = self.shards.iter().map(|shard| {
            let slots = [shard.first_slot, shard.end_slot];
            let operations_per_second = self.sum(slots, |load| load.operations_per_second);
            let busy_share = self.sum(slots, |load| load.operations_per_second * load.cost_us) / 1e6;
            // A caller finds the lock held when one of the other workers holds it.
            let contended_share = (busy_share * (1.0 - 1.0 / simulation.workers as f64)).min(1.0);
            ShardLoad {
                id: shard.id,
                first_slot: shard.first_slot,
                end_slot: shard.end_slot,
                keys: self.sum(slots, |load| load.keys) as u64,
                bytes: self.sum(slots, |load| load.bytes) as u64,
                operations_per_second,
                contended_share,
                waits_per_second: contended_share * operations_per_second,
                busy_share,
                load_histogram: self.histogram(shard, simulation.parts, |load| load.operations_per_second),
                size_histogram: self.histogram(shard, simulation.parts, |load| load.bytes),
            }
        });
        DatabaseLoad {
            id: id.to_owned(),
            shards: shards.collect(),
            last_command_ms: self.last_command_ms,
            sleep_after_ms: self.sleep_after_ms,
            connected_clients: 1,
            parked_clients: 1,
            dirty_bytes: self.dirty_bytes,
            checkpoint_age_ms: simulation.now - self.checkpointed_ms,
        }
    }
}

impl Simulation {
    pub fn new(policy: Policy, workers: usize) -> Simulation {
        let autoscaler = Autoscaler::new(policy).expect("a valid policy");
        Simulation {
            now: 1_000_000,
            workers,
            memory_bytes: 0,
            memory_bytes_max: 0,
            parts: 16,
            plans_fail: false,
            databases: BTreeMap::new(),
            autoscaler,
            next_id: 1,
            steps: 0,
            reshapes: Vec::new(),
        }
    }

    /// One second: the loads run, the autoscaler looks, its plan is carried out.
    pub fn step(&mut self) -> ScalingPlan {
        self.now += STEP_MS;
        self.steps += 1;
        let now = self.now;
        for database in self.databases.values_mut() {
            if database.operations_per_second() > 0.0 {
                database.touch(now);
            }
            if !database.asleep {
                database.dirty_bytes += database.dirty_bytes_per_second;
            }
        }
        let awake = || self.databases.iter().filter(|(_, database)| !database.asleep);
        let busy: f64 = awake()
            .flat_map(|(_, database)| &database.loads)
            .map(|load| load.operations_per_second * load.cost_us / 1e6)
            .sum();
        let observation = Observation {
            node: NodeLoad {
                workers: self.workers,
                cpu_busy: (busy / self.workers as f64).min(1.0),
                memory_bytes: self.memory_bytes,
                memory_bytes_max: self.memory_bytes_max,
            },
            databases: awake().map(|(id, database)| database.observe(self, id)).collect(),
        };
        let plan = self.autoscaler.step(&observation, now);
        self.check(&plan);
        if !self.plans_fail {
            for action in &plan.actions {
                self.apply(action);
            }
        }
        plan
    }

    fn check(&self, plan: &ScalingPlan) {
        let policy = self.autoscaler.policy();
        let is_reshape = |action: &&Action| matches!(action, Action::SplitShard { .. } | Action::MergeShards { .. });
        let reshapes = plan.actions.iter().filter(is_reshape).count();
        assert!(reshapes <= policy.reshapes_max, "{plan:?}");
        assert!(plan.actions.len() - reshapes <= policy.writes_max, "{plan:?}");
        assert!(self.steps > 1 || plan.actions.is_empty(), "acted on one observation: {plan:?}");
    }

    fn apply(&mut self, action: &Action) {
        let now = self.now;
        let id = action.database().to_owned();
        let database = self.databases.get_mut(&id).expect("a database that was observed");
        let position = |shard: u64| database.shards.iter().position(|other| other.id == shard).expect("a shard");
        let (slots, boundary, is_split) = match *action {
            Action::Sleep { .. } => {
                database.asleep = true;
                database.dirty_bytes = 0;
                return;
            }
            Action::Checkpoint { .. } => {
                database.dirty_bytes = 0;
                database.checkpointed_ms = now;
                return;
            }
            Action::SplitShard { shard, at_slot, .. } => {
                let index = position(shard);
                let Shard { first_slot, end_slot, .. } = database.shards[index];
                assert!(first_slot < at_slot && at_slot < end_slot, "cut outside the shard: {action:?}");
                let left = Shard { id: self.next_id, first_slot, end_slot: at_slot };
                let right = Shard { id: self.next_id + 1, first_slot: at_slot, end_slot };
                database.shards.splice(index..=index, [left, right]);
                self.next_id += 2;
                ([first_slot, end_slot], at_slot, true)
            }
            Action::MergeShards { left, right, .. } => {
                let index = position(left);
                assert_eq!(index + 1, position(right), "not neighbours: {action:?}");
                let (left, right) = (database.shards[index], database.shards[index + 1]);
                let whole = Shard { id: self.next_id, first_slot: left.first_slot, end_slot: right.end_slot };
                database.shards.splice(index..index + 2, [whole]);
                self.next_id += 1;
                ([whole.first_slot, whole.end_slot], right.first_slot, false)
            }
        };
        let policy = self.autoscaler.policy();
        for (at, other_id, other_slots, other_boundary, other_is_split) in &self.reshapes {
            let age = now - at;
            let overlap = slots[0] < other_slots[1] && other_slots[0] < slots[1];
            if *other_id != id || !overlap {
                continue;
            }
            let cool_down = if is_split { policy.split_cool_down_ms } else { policy.merge_cool_down_ms };
            assert!(age >= cool_down, "{action:?} {age} ms after slots {other_slots:?} were reshaped");
            assert!(
                *other_boundary != boundary || *other_is_split != is_split || age >= policy.merge_cool_down_ms,
                "{action:?} again"
            );
        }
        self.reshapes.push((now, id, slots, boundary, is_split));
    }
}
