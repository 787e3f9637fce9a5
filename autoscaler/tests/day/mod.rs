//! A day of a fleet: its load, nodes that die and join, a zone that fails, and a provider that follows the recommended
//! number of nodes.
//!
//! The fleet is told everything as a coordinator would be: which nodes have a lease, which parts woke or fell asleep,
//! and once a minute the load of each awake part, if it differs. Plans are carried out before the next step, but some moves fail.

mod load;
mod random;
mod tally;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Instant;

use dormouse_autoscaler::{
    FleetObservation, MoveReason, NodeId, NodeReport, PartId, PartReport, PlacementPlan, PlacementPolicy, Placer,
    ZoneId,
};

use load::Load;
pub use tally::{Prices, Tally};

pub struct Options {
    /// The most nodes.
    pub nodes: usize,
    pub databases: usize,
    pub zones: u16,
    pub memory_gib: f64,
    pub processors: f64,
    pub step_seconds: u64,
    pub hours: f64,
    /// The hour at which the simulation starts. What happens before midnight does not count.
    pub start_hour: f64,
    /// The highest load of the day without bursts, as shares of the memory and processors of all nodes.
    pub peak_memory_share: f64,
    pub peak_busy_share: f64,
    /// The mean time until a node dies.
    pub node_days: f64,
    /// Hours between which a zone is gone.
    pub zone_failure: [f64; 2],
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: 500,
            databases: 1_000_000,
            zones: 3,
            memory_gib: 32.0,
            processors: 8.0,
            step_seconds: 10,
            hours: 24.0,
            start_hour: -2.0,
            peak_memory_share: 0.38,
            peak_busy_share: 0.46,
            node_days: 30.0,
            zone_failure: [11.0, 11.75],
            seed: 1,
        }
    }
}

/// From the last sign of life of a node to the end of its lease.
const LEASE_SECONDS: f64 = 10.0;
/// From the order of a node to its lease.
const JOIN_SECONDS: f64 = 120.0;
/// From a plan to the first command that the new owner of an orphan answers.
const TAKEOVER_SECONDS: f64 = 1.0;
/// One in this many moves fails.
const FAILING: usize = 50;
/// How often the load of a part is looked at, and the difference that is worth a report: of a processor, and of itself.
const REPORT_SECONDS: u64 = 60;
const REPORTED_BUSY: f64 = 0.002;
const REPORTED_SHARE: f64 = 0.1;

/// A node, with the load that was last reported of its parts.
pub struct Member {
    report: NodeReport,
    memory_mib: f64,
    busy: f64,
    parts: i64,
    /// When it died, if it did, while its lease still holds.
    died: Option<f64>,
}

pub struct Day {
    pub options: Options,
    pub policy: PlacementPolicy,
    pub placer: Placer,
    pub tally: Tally,
    load: Load,
    units: HashMap<PartId, u32>,
    /// The parts of each database that has several.
    divided: Vec<Range<usize>>,
    /// The load of each part that counts at its owner: memory, processors.
    counted: Vec<(f32, f32)>,
    nodes: BTreeMap<NodeId, Member>,
    next_node: u32,
    /// When nodes will join.
    ordered: Vec<f64>,
    /// Moves that fail: when that is reported.
    failing: Vec<(f64, u32)>,
    /// Awake parts without an owner, and since when.
    lost: BTreeMap<u32, f64>,
    failed_zone: Option<ZoneId>,
    now: f64,
    steps: u64,
}

impl Day {
    pub fn new(options: Options) -> Day {
        let policy = PlacementPolicy { nodes_min: 3, nodes_max: options.nodes, ..PlacementPolicy::default() };
        let placer = Placer::new(policy.clone()).expect("a valid policy");
        let load = Load::new(&options);
        let units = load.units.iter().enumerate().map(|(number, unit)| (unit.id, number as u32)).collect();
        let mut end = 0;
        let databases = load.units.chunk_by(|a, b| a.id.database == b.id.database).map(|units| {
            end += units.len();
            end - units.len()..end
        });
        let divided = databases.filter(|units| units.len() > 1).collect();
        let counted = vec![(0.0, 0.0); load.units.len()];
        let now = options.start_hour * 3_600.0;
        let mut day = Day {
            options,
            policy,
            placer,
            tally: Tally::default(),
            load,
            units,
            divided,
            counted,
            nodes: BTreeMap::new(),
            next_node: 1,
            ordered: Vec::new(),
            failing: Vec::new(),
            lost: BTreeMap::new(),
            failed_zone: None,
            now,
            steps: 0,
        };
        (0..day.options.nodes * 6 / 10).for_each(|_| day.join());
        day
    }

    pub fn data_mib(&self) -> f64 {
        self.load.data_mib()
    }

    pub fn parts(&self) -> usize {
        self.load.units.len()
    }

    pub fn divided(&self) -> usize {
        self.divided.len()
    }

    /// The longest time for which an awake part had no owner, or has had none.
    pub fn unplaced_seconds_max(&self) -> f64 {
        let lost = self.lost.values().map(|since| self.now - since);
        self.tally.unplaced_seconds.iter().copied().chain(lost).fold(0.0, f64::max)
    }

    /// Runs until an hour of the day.
    pub fn run(&mut self, hour: f64) {
        while self.now < hour * 3_600.0 {
            self.step();
        }
    }

    fn step(&mut self) {
        let seconds = self.options.step_seconds as f64;
        self.now += seconds;
        self.steps += 1;
        if self.steps > 1 {
            self.load.pass(self.now, seconds);
        }
        self.change_nodes(seconds);
        let observation = self.observe();
        let start = Instant::now();
        // The clock of the policy does not start at 0.
        let plan = self.placer.step(&observation, 1_000_000_000 + (self.steps * self.options.step_seconds) * 1_000);
        let elapsed = start.elapsed();
        self.carry_out(&plan);
        self.provide(&plan);

        let nodes = self.nodes.values().filter(|node| !node.report.draining);
        let (memory_kib, busy) = (self.policy.memory_share_max, self.policy.busy_share_max);
        let fullness = nodes.map(|node| {
            let memory = node.memory_mib / (self.options.memory_gib * 1024.0 * memory_kib);
            memory.max(node.busy / (self.options.processors * busy))
        });
        self.tally.fullness = fullness.collect();
        let awake = self.load.awake().count();
        let (memory_mib, busy) =
            self.nodes.values().fold((0.0, 0.0), |sum, node| (sum.0 + node.memory_mib, sum.1 + node.busy));
        let (wakes, bursts) = (std::mem::take(&mut self.load.wakes), std::mem::take(&mut self.load.bursts));
        let (nodes, crowded) = (self.nodes.len(), self.crowded());
        let counts = tally::Counts { nodes, awake, wakes, bursts, memory_mib, busy, crowded };
        self.tally.step(self.now, seconds, counts, &plan, elapsed);
    }

    /// The databases of which one zone has at least two parts more than another.
    fn crowded(&self) -> usize {
        let open = || self.nodes.values().map(|node| node.report).filter(|node| !node.draining);
        let zones: BTreeMap<ZoneId, usize> = open().map(|node| (node.zone, 0)).collect();
        let is_crowded = |units: &&Range<usize>| {
            let mut zones = zones.clone();
            for owner in self.load.units[(*units).clone()].iter().filter_map(|unit| unit.owner) {
                if let Some(node) = self.nodes.get(&owner).filter(|node| !node.report.draining) {
                    *zones.entry(node.report.zone).or_default() += 1;
                }
            }
            let (least, most) = (zones.values().min(), zones.values().max());
            most.zip(least).is_some_and(|(most, least)| most - least >= 2)
        };
        self.divided.iter().filter(is_crowded).count()
    }

    /// Nodes die, a zone fails, and what was ordered joins.
    fn change_nodes(&mut self, seconds: f64) {
        let hour = self.now / 3_600.0;
        let [from, until] = self.options.zone_failure;
        let is_failed = (from..until).contains(&hour);
        if is_failed && self.failed_zone.is_none() {
            let zone = ZoneId(self.options.zones - 1);
            self.failed_zone = Some(zone);
            let at = self.now - seconds * self.load.random.share();
            let of_zone = self.nodes.values_mut().filter(|node| node.report.zone == zone);
            of_zone.for_each(|node| node.died = Some(at));
        } else if !is_failed {
            self.failed_zone = None;
        }
        let deaths = self.nodes.len() as f64 * seconds / (self.options.node_days * 86_400.0);
        for _ in 0..self.load.random.events(deaths) {
            let number = self.load.random.below(self.nodes.len());
            let at = self.now - seconds * self.load.random.share();
            let node = self.nodes.values_mut().nth(number).expect("less than the number of nodes");
            node.died.get_or_insert(at);
        }
        let ends = |node: &Member| node.died.filter(|died| died + LEASE_SECONDS <= self.now);
        let dead: BTreeMap<NodeId, f64> = self.nodes.iter().filter_map(|(id, node)| Some((*id, ends(node)?))).collect();
        if !dead.is_empty() {
            self.bury(&dead);
        }
        let due = self.ordered.iter().filter(|at| **at <= self.now).count();
        self.ordered.retain(|at| *at > self.now);
        (0..due).for_each(|_| self.join());
    }

    fn bury(&mut self, dead: &BTreeMap<NodeId, f64>) {
        self.tally.dead += dead.len();
        for (number, unit) in self.load.units.iter_mut().enumerate() {
            if let Some(died) = unit.owner.and_then(|owner| dead.get(&owner)) {
                unit.owner = None;
                if unit.awake {
                    self.lost.insert(number as u32, *died);
                }
            }
        }
        self.nodes.retain(|id, _| !dead.contains_key(id));
    }

    /// A new node, in the zone with the fewest.
    fn join(&mut self) {
        let zones = (0..self.options.zones).map(ZoneId).filter(|zone| Some(*zone) != self.failed_zone);
        let members = |zone: &ZoneId| self.nodes.values().filter(|node| node.report.zone == *zone).count();
        let zone = zones.min_by_key(members).expect("a zone that works");
        let node = NodeId(self.next_node);
        self.next_node += 1;
        let memory_bytes_max = (self.options.memory_gib * f64::from(1 << 30)) as u64;
        let report = NodeReport { node, zone, memory_bytes_max, processors: self.options.processors, draining: false };
        self.nodes.insert(node, Member { report, memory_mib: 0.0, busy: 0.0, parts: 0, died: None });
    }

    fn observe(&mut self) -> FleetObservation {
        let mut changed = std::mem::take(&mut self.load.changed);
        let every = (REPORT_SECONDS / self.options.step_seconds).max(1);
        let due = self.load.awake().filter(|unit| u64::from(*unit) % every == self.steps % every).collect::<Vec<_>>();
        for unit in due {
            let (before, busy) = (f64::from(self.counted[unit as usize].1), self.load.busy(unit, self.now));
            if (busy - before).abs() > f64::max(REPORTED_BUSY, REPORTED_SHARE * before) {
                changed.push(unit);
            }
        }
        let failed: Vec<u32> = self.failing.iter().filter(|(at, _)| *at <= self.now).map(|(_, unit)| *unit).collect();
        self.failing.retain(|(at, _)| *at > self.now);
        changed.extend(failed);
        let mut parts = Vec::with_capacity(changed.len());
        for unit in changed {
            let (part, node, awake) = {
                let unit = &self.load.units[unit as usize];
                (unit.id, unit.owner, unit.awake)
            };
            let busy = if awake { self.load.busy(unit, self.now) } else { 0.0 };
            let memory_mib = if awake { self.load.units[unit as usize].memory_mib } else { 0.0 };
            self.count(unit, memory_mib, busy as f32);
            if !awake {
                self.found(unit);
            } else if node.is_none() {
                self.lost.entry(unit).or_insert(self.now);
            }
            let memory_bytes = (f64::from(memory_mib) * f64::from(1 << 20)) as u64;
            parts.push(PartReport { part, node, asleep: !awake, memory_bytes, busy });
        }
        FleetObservation { nodes: self.nodes.values().map(|node| node.report).collect(), parts, removed: Vec::new() }
    }

    /// Counts the load of a part at its owner.
    fn count(&mut self, unit: u32, memory_mib: f32, busy: f32) {
        let before = std::mem::replace(&mut self.counted[unit as usize], (memory_mib, busy));
        let owner = self.load.units[unit as usize].owner;
        if let Some(node) = owner.and_then(|owner| self.nodes.get_mut(&owner)) {
            node.memory_mib += f64::from(memory_mib) - f64::from(before.0);
            node.busy += f64::from(busy) - f64::from(before.1);
        }
    }

    fn found(&mut self, unit: u32) {
        if let Some(since) = self.lost.remove(&unit) {
            self.tally.unplaced(self.now + TAKEOVER_SECONDS - since);
        }
    }

    fn carry_out(&mut self, plan: &PlacementPlan) {
        for planned in &plan.moves {
            let unit = self.units[&planned.part];
            let is_awake_move = planned.reason.is_bounded();
            if is_awake_move && self.load.random.below(FAILING) == 0 {
                let at = self.now + self.policy.move_ms_max as f64 / 1_000.0;
                self.failing.push((at, unit));
                self.tally.failed += 1;
                continue;
            }
            let (memory_mib, busy) = self.counted[unit as usize];
            let former = self.load.units[unit as usize].owner.replace(planned.to);
            if let Some(node) = former.and_then(|former| self.nodes.get_mut(&former)) {
                node.memory_mib -= f64::from(memory_mib);
                node.busy -= f64::from(busy);
                node.parts -= 1;
            }
            let node = self.nodes.get_mut(&planned.to).expect("a plan names nodes that are alive");
            node.memory_mib += f64::from(memory_mib);
            node.busy += f64::from(busy);
            node.parts += 1;
            if planned.reason == MoveReason::Orphan {
                self.found(unit);
            }
            if self.load.units[unit as usize].awake {
                self.load.changed.push(unit);
            }
        }
    }

    /// Orders nodes, drains them, and stops those that are empty.
    fn provide(&mut self, plan: &PlacementPlan) {
        self.nodes.retain(|_, node| !node.report.draining || node.parts > 0);
        let open = self.nodes.values().filter(|node| !node.report.draining).count();
        let missing = plan.nodes.saturating_sub(open);
        // Nodes that are being emptied are the quickest to get.
        let draining = self.nodes.values_mut().filter(|node| node.report.draining && node.died.is_none());
        let kept = draining.take(missing).map(|node| node.report.draining = false).count();
        let ordered = (missing - kept).saturating_sub(self.ordered.len());
        self.ordered.extend(std::iter::repeat_n(self.now + JOIN_SECONDS, ordered));
        for node in &plan.drain {
            if let Some(node) = self.nodes.get_mut(node) {
                node.report.draining = true;
            }
        }
    }
}
