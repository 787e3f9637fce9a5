//! The step from an observation to a plan, and the state kept between steps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cut::{self, Cut};
use crate::streak::Streak;
use crate::{Action, DatabaseLoad, InvalidPolicy, NodeLoad, Note, Observation, Policy, Reason, ScalingPlan, ShardLoad};

/// A policy and its memory. It holds all of its state and can be stored: a copy that gets the same observations makes
/// the same plans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Autoscaler {
    policy: Policy,
    latest_ms: u64,
    pressure: Streak,
    databases: BTreeMap<String, Memory>,
}

/// State kept for one database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Memory {
    shards: Vec<ShardMemory>,
    /// Neighbours that were small together.
    pairs: Vec<PairMemory>,
    reshaped: Vec<Reshaped>,
    /// Boundaries that a split for load made.
    cuts: Vec<LoadCut>,
    last_command_ms: u64,
    quiet: Streak,
    dirty: Streak,
    slept_ms: Option<u64>,
    checkpointed_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct ShardMemory {
    slots: Slots,
    large: Streak,
    loaded: Streak,
    noted_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct PairMemory {
    slots: Slots,
    boundary: u16,
    small: Streak,
}

/// Slots that were split or merged, and when.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Reshaped {
    slots: Slots,
    at_ms: u64,
}

/// The load that was too much for one shard. The cut is not undone while the load lasts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct LoadCut {
    at_slot: u16,
    at_ms: u64,
    operations_per_second: f64,
    busy_share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Slots {
    first: u16,
    end: u16,
}

/// A split or merge that is due, before this plan's budget and cool-downs are applied.
struct Reshape {
    urgency: f64,
    slots: Slots,
    cut: Option<LoadCut>,
    action: Action,
}

/// A checkpoint or sleep that is due.
struct Write {
    urgency: f64,
    action: Action,
}

impl Autoscaler {
    pub fn new(policy: Policy) -> Result<Self, InvalidPolicy> {
        policy.validate()?;
        Ok(Autoscaler { policy, latest_ms: 0, pressure: Streak::default(), databases: BTreeMap::new() })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Sets how old the last checkpoint of a changed database may become; `None`: any age.
    pub fn checkpoint_every(&mut self, every_ms: Option<u64>) {
        self.policy.checkpoint_every_ms = every_ms;
    }

    /// Takes one observation and returns a plan. `now` is in milliseconds, on the clock of the observation's moments.
    /// If that clock runs backwards, remembered moments have no meaning any more: the state is dropped and every window
    /// starts over.
    pub fn step(&mut self, observation: &Observation, now: u64) -> ScalingPlan {
        if now < self.latest_ms {
            self.pressure = Streak::default();
            self.databases.clear();
        }
        self.latest_ms = now;
        let mut known = std::mem::take(&mut self.databases);
        let mut memories: Vec<Memory> = Vec::with_capacity(observation.databases.len());
        for database in &observation.databases {
            let mut memory = known.remove(&database.id).unwrap_or_default();
            memory.look(&self.policy, &observation.node, database, now);
            memories.push(memory);
        }

        let mut plan = ScalingPlan::default();
        let sleeps = self.plan_writes(observation, &mut memories, now, &mut plan);
        self.plan_reshapes(observation, &mut memories, &sleeps, now, &mut plan);
        self.databases = observation.databases.iter().map(|database| database.id.clone()).zip(memories).collect();
        plan
    }

    /// Returns the databases that are about to sleep: they are not reshaped.
    fn plan_writes(
        &mut self,
        observation: &Observation,
        memories: &mut [Memory],
        now: u64,
        plan: &mut ScalingPlan,
    ) -> Vec<bool> {
        let policy = &self.policy;
        let early = early_sleepers(policy, &mut self.pressure, observation, memories, now);
        let mut writes: Vec<(usize, Write)> = Vec::new();
        let mut sleeps = vec![false; memories.len()];
        for (index, database) in observation.databases.iter().enumerate() {
            let memory = &memories[index];
            let id = || database.id.clone();
            if let Some(urgency) = memory.sleep_due(database, now).or(early[index]) {
                sleeps[index] = true;
                if past(memory.slept_ms, policy.retry_ms, now) {
                    writes.push((index, Write { urgency, action: Action::Sleep { database: id() } }));
                }
            } else if let Some(urgency) = memory.checkpoint_due(policy, database)
                && past(memory.checkpointed_ms, policy.retry_ms, now)
            {
                writes.push((index, Write { urgency, action: Action::Checkpoint { database: id() } }));
            }
        }
        writes.sort_by(|(_, a), (_, b)| b.urgency.total_cmp(&a.urgency));
        for (index, write) in writes.into_iter().take(policy.writes_max) {
            let memory = &mut memories[index];
            match write.action {
                Action::Sleep { .. } => memory.slept_ms = Some(now),
                _ => memory.checkpointed_ms = Some(now),
            }
            plan.actions.push(write.action);
        }
        sleeps
    }

    fn plan_reshapes(
        &self,
        observation: &Observation,
        memories: &mut [Memory],
        sleeps: &[bool],
        now: u64,
        plan: &mut ScalingPlan,
    ) {
        let mut due: Vec<(usize, Reshape)> = Vec::new();
        for (index, database) in observation.databases.iter().enumerate().filter(|&(index, _)| !sleeps[index]) {
            let splits = memories[index].splits(&self.policy, &observation.node, database, now, &mut plan.notes);
            let merges = memories[index].merges(&self.policy, database, now);
            due.extend(splits.into_iter().chain(merges).map(|reshape| (index, reshape)));
        }
        due.sort_by(|(_, a), (_, b)| b.urgency.total_cmp(&a.urgency));
        let mut reshapes = 0;
        for (index, reshape) in due {
            if reshapes == self.policy.reshapes_max {
                break;
            }
            if memories[index].reshape(&reshape, now) {
                reshapes += 1;
                plan.actions.push(reshape.action);
            }
        }
    }
}

impl Memory {
    /// Step 1: records which conditions hold. Shards and databases that are gone are forgotten.
    fn look(&mut self, policy: &Policy, node: &NodeLoad, database: &DatabaseLoad, now: u64) {
        self.reshaped.retain(|reshaped| now - reshaped.at_ms < policy.merge_cool_down_ms);
        let is_boundary = |slot: u16| database.shards.iter().any(|shard| shard.first_slot == slot);
        self.cuts.retain(|cut| is_boundary(cut.at_slot) || now - cut.at_ms < policy.merge_cool_down_ms);

        let known = std::mem::take(&mut self.shards);
        for shard in &database.shards {
            let slots = Slots::of(shard);
            let blank = ShardMemory { slots, large: Streak::default(), loaded: Streak::default(), noted_ms: None };
            let mut memory = known.iter().find(|memory| memory.slots == slots).copied().unwrap_or(blank);
            memory.large.look(size_ratio(policy, shard) > 1.0, now);
            memory.loaded.look(load_excess(policy, node, shard).is_some(), now);
            self.shards.push(memory);
        }

        let known = std::mem::take(&mut self.pairs);
        for pair in database.shards.windows(2) {
            let (left, right) = (&pair[0], &pair[1]);
            if left.end_slot != right.first_slot || !self.together_small(policy, left, right) {
                continue;
            }
            let slots = Slots { first: left.first_slot, end: right.end_slot };
            let boundary = left.end_slot;
            let same = |memory: &&PairMemory| memory.slots == slots && memory.boundary == boundary;
            let mut small = known.iter().find(same).map_or(Streak::default(), |memory| memory.small);
            small.look(true, now);
            self.pairs.push(PairMemory { slots, boundary, small });
        }

        self.quiet.look(self.quiet.observations == 0 || self.last_command_ms == database.last_command_ms, now);
        self.last_command_ms = database.last_command_ms;
        self.dirty.look(database.dirty_bytes > 0, now);
    }

    /// Step 2.
    fn splits(
        &mut self,
        policy: &Policy,
        node: &NodeLoad,
        database: &DatabaseLoad,
        now: u64,
        notes: &mut Vec<Note>,
    ) -> Vec<Reshape> {
        let mut splits = Vec::new();
        let spread = database.shards.iter().filter(|shard| load_ratio(policy, shard) > policy.merge_fraction).count();
        let may_spread = node.workers > 1 && (spread as f64) < node.workers as f64 * policy.shards_per_worker;
        for (index, shard) in database.shards.iter().enumerate() {
            let memory = self.shards[index];
            if self.cooling(memory.slots, policy.split_cool_down_ms, now) {
                continue;
            }
            let enough = |streak: Streak, window_ms| streak.holds(window_ms, policy.observations_min, now);
            let load =
                load_excess(policy, node, shard).filter(|_| may_spread && enough(memory.loaded, policy.load_window_ms));
            let (urgency, reason, histogram) = match load {
                Some((ratio, reason)) => (ratio, reason, &shard.load_histogram),
                None if enough(memory.large, policy.size_window_ms) => {
                    (size_ratio(policy, shard), Reason::Size, &shard.size_histogram)
                }
                None => continue,
            };
            let database = database.id.clone();
            let note = match cut::cut(shard, histogram, policy) {
                Cut::At(at_slot) => {
                    let cut = (reason != Reason::Size).then_some(LoadCut {
                        at_slot,
                        at_ms: now,
                        operations_per_second: shard.operations_per_second,
                        busy_share: shard.busy_share,
                    });
                    let action = Action::SplitShard { database, shard: shard.id, at_slot, reason };
                    splits.push(Reshape { urgency, slots: memory.slots, cut, action });
                    continue;
                }
                Cut::OneSlot => Note::OneSlot { database, shard: shard.id, slot: shard.first_slot, reason },
                Cut::HotSlot(slot) => Note::HotSlot { database, shard: shard.id, slot, reason },
            };
            if past(memory.noted_ms, policy.merge_cool_down_ms, now) {
                self.shards[index].noted_ms = Some(now);
                notes.push(note);
            }
        }
        splits
    }

    /// Step 3. Merges are never urgent: they come after every split, the smallest first.
    fn merges(&self, policy: &Policy, database: &DatabaseLoad, now: u64) -> Vec<Reshape> {
        let mut merges = Vec::new();
        for pair in &self.pairs {
            if !pair.small.holds(policy.merge_window_ms, policy.observations_min, now)
                || self.cooling(pair.slots, policy.merge_cool_down_ms, now)
            {
                continue;
            }
            let Some(right) = database.shards.iter().position(|shard| shard.first_slot == pair.boundary) else {
                continue;
            };
            let (left, right) = (&database.shards[right - 1], &database.shards[right]);
            let size = size_ratio(policy, left) + size_ratio(policy, right);
            let action = Action::MergeShards { database: database.id.clone(), left: left.id, right: right.id };
            merges.push(Reshape { urgency: -size, slots: pair.slots, cut: None, action });
        }
        merges
    }

    /// Step 4: returns false if the plan already reshapes some of these slots.
    fn reshape(&mut self, reshape: &Reshape, now: u64) -> bool {
        let slots = reshape.slots;
        if self.reshaped.iter().any(|other| other.at_ms == now && other.slots.overlaps(slots)) {
            return false;
        }
        self.reshaped.retain(|other| !slots.covers(other.slots));
        self.reshaped.push(Reshaped { slots, at_ms: now });
        if let Some(cut) = reshape.cut {
            self.cuts.retain(|other| other.at_slot != cut.at_slot);
            self.cuts.push(cut);
        }
        // If the action fails, its conditions must hold for a whole window again.
        for shard in self.shards.iter_mut().filter(|shard| shard.slots.overlaps(slots)) {
            shard.large = Streak::default();
            shard.loaded = Streak::default();
        }
        self.pairs.retain(|pair| !pair.slots.overlaps(slots));
        true
    }

    fn cooling(&self, slots: Slots, cool_down_ms: u64, now: u64) -> bool {
        self.reshaped.iter().any(|reshaped| reshaped.slots.overlaps(slots) && now - reshaped.at_ms < cool_down_ms)
    }

    fn together_small(&self, policy: &Policy, left: &ShardLoad, right: &ShardLoad) -> bool {
        let fraction = policy.merge_fraction;
        let small = size_ratio(policy, left) + size_ratio(policy, right) <= fraction
            && load_ratio(policy, left) + load_ratio(policy, right) <= fraction;
        small
            && self.cuts.iter().filter(|cut| cut.at_slot == right.first_slot).all(|cut| {
                left.operations_per_second + right.operations_per_second <= fraction * cut.operations_per_second
                    && left.busy_share + right.busy_share <= fraction * cut.busy_share
            })
    }

    /// Step 5: how overdue a sleep is, if it is due. An idle time is its own window: seeing it twice is enough.
    fn sleep_due(&self, database: &DatabaseLoad, now: u64) -> Option<f64> {
        let sleep_after = database.sleep_after_ms?;
        let idle = now.saturating_sub(database.last_command_ms);
        (idle >= sleep_after && self.quiet.observations >= 2).then(|| idle as f64 / sleep_after.max(1) as f64)
    }

    fn checkpoint_due(&self, policy: &Policy, database: &DatabaseLoad) -> Option<f64> {
        let by_age = database.checkpoint_age_ms as f64 / policy.checkpoint_every_ms? as f64;
        let by_size = database.dirty_bytes as f64 / policy.dirty_bytes_max as f64;
        // A large database with writes everywhere is dirty again at once: it must not be written without a pause.
        let urgency = if by_age < EARLY { by_age } else { by_age.max(by_size) };
        (urgency >= 1.0 && self.dirty.observations >= 2).then_some(urgency)
    }
}

/// Many changes bring a checkpoint forward to this share of its interval, and no further.
const EARLY: f64 = 0.25;

/// The databases that sleep early because the node runs out of memory: unattended ones first, then the longest idle,
/// until they free enough.
fn early_sleepers(
    policy: &Policy,
    pressure: &mut Streak,
    observation: &Observation,
    memories: &[Memory],
    now: u64,
) -> Vec<Option<f64>> {
    let mut early = vec![None; memories.len()];
    let node = &observation.node;
    let excess = node.memory_bytes as f64 - policy.memory_share_max * node.memory_bytes_max as f64;
    pressure.look(node.memory_bytes_max > 0 && excess > 0.0, now);
    if pressure.observations < policy.observations_min {
        return early;
    }
    let idle_ms = |database: &DatabaseLoad| now.saturating_sub(database.last_command_ms);
    let attended = |database: &DatabaseLoad| database.connected_clients > database.parked_clients;
    let mut idle: Vec<(usize, &DatabaseLoad)> = observation
        .databases
        .iter()
        .enumerate()
        .filter(|(index, database)| {
            database.sleep_after_ms.is_some()
                && idle_ms(database) >= policy.early_sleep_after_ms
                && memories[*index].quiet.observations >= 2
        })
        .collect();
    idle.sort_by_key(|(_, database)| (attended(database), std::cmp::Reverse(idle_ms(database))));
    let mut freed = 0.0;
    for (index, database) in idle {
        if freed >= excess {
            break;
        }
        freed += database.shards.iter().map(|shard| shard.bytes as f64).sum::<f64>();
        early[index] = Some(1.0);
    }
    early
}

/// The share of its size limits that a shard uses; over 1 is too much.
fn size_ratio(policy: &Policy, shard: &ShardLoad) -> f64 {
    f64::max(shard.keys as f64 / policy.keys_max as f64, shard.bytes as f64 / policy.bytes_max as f64)
}

/// The share of its load limits that a shard uses, for the worst of them.
fn load_ratio(policy: &Policy, shard: &ShardLoad) -> f64 {
    let contended = if shard.waits_per_second < policy.waits_per_second_min * policy.merge_fraction {
        0.0
    } else {
        shard.contended_share / policy.contended_share_max
    };
    contended
        .max(shard.busy_share / policy.busy_share_max)
        .max(shard.operations_per_second / policy.operations_per_second_max)
}

/// The excess of a shard's load over a limit now, and the reason, if a split could help. NaN exceeds no limit.
fn load_excess(policy: &Policy, node: &NodeLoad, shard: &ShardLoad) -> Option<(f64, Reason)> {
    let contention = shard.contended_share / policy.contended_share_max;
    if contention > 1.0 && shard.waits_per_second >= policy.waits_per_second_min {
        return Some((contention, Reason::Contention));
    }
    let busy = shard.busy_share / policy.busy_share_max;
    let load = busy.max(shard.operations_per_second / policy.operations_per_second_max);
    (load > 1.0 && node.cpu_busy < policy.cpu_busy_max).then_some((load, Reason::Load))
}

/// Whether at least `ms` have passed since `then`.
fn past(then: Option<u64>, ms: u64, now: u64) -> bool {
    then.is_none_or(|then| now.saturating_sub(then) >= ms)
}

impl Slots {
    fn of(shard: &ShardLoad) -> Slots {
        Slots { first: shard.first_slot, end: shard.end_slot }
    }

    fn overlaps(self, other: Slots) -> bool {
        self.first < other.end && other.first < self.end
    }

    fn covers(self, other: Slots) -> bool {
        self.first <= other.first && other.end <= self.end
    }
}
