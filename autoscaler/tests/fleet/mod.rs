//! A fleet that carries out plans of placement, and checks that each keeps the invariants.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_autoscaler::{
    FleetObservation, Move, MoveReason, NodeId, NodeReport, PartId, PartReport, PlacementPlan, PlacementPolicy, Placer,
};

/// A part with its last report, and the time when a plan last named it.
#[derive(Clone, Debug)]
pub struct Resident {
    pub report: PartReport,
    placed_ms: Option<u64>,
}

pub struct Fleet {
    pub now: u64,
    pub step_ms: u64,
    /// Moves of awake parts are not carried out, and nothing is reported of them.
    pub moves_fail: bool,
    /// How long a move takes; less than the policy's `move_ms_max`.
    pub move_ms: u64,
    pub nodes: BTreeMap<NodeId, NodeReport>,
    pub parts: BTreeMap<PartId, Resident>,
    pub placer: Placer,
    policy: PlacementPolicy,
    changed: BTreeSet<PartId>,
    removed: Vec<PartId>,
    /// Moves of awake parts that are neither done nor given up: when that will be, and whether they succeed.
    pending: Vec<(u64, bool, Move)>,
    /// Moves that count against the bounds.
    bounded: Vec<(u64, NodeId, NodeId)>,
    /// When asleep parts got new owners.
    reassigned: Vec<u64>,
}

/// The use of a node as a plan is gone through.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    memory_bytes: u64,
    busy: f64,
}

impl Fleet {
    pub fn new(policy: PlacementPolicy) -> Fleet {
        Fleet {
            now: 1_000_000,
            step_ms: 10_000,
            moves_fail: false,
            move_ms: 0,
            nodes: BTreeMap::new(),
            parts: BTreeMap::new(),
            placer: Placer::new(policy.clone()).expect("a valid policy"),
            policy,
            changed: BTreeSet::new(),
            removed: Vec::new(),
            pending: Vec::new(),
            bounded: Vec::new(),
            reassigned: Vec::new(),
        }
    }

    /// Adds a node, or gives it other properties.
    pub fn join(&mut self, node: NodeReport) {
        self.nodes.insert(node.node, node);
    }

    /// Ends the lease of a node, if it is alive.
    pub fn die(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Adds a part, or gives it another load. Its owner stays as it is.
    pub fn set(&mut self, report: PartReport) {
        let owner = self.parts.get(&report.part).map_or(report.node, |part| part.report.node);
        let placed_ms = self.parts.get(&report.part).and_then(|part| part.placed_ms);
        self.parts.insert(report.part, Resident { report: PartReport { node: owner, ..report }, placed_ms });
        self.changed.insert(report.part);
    }

    pub fn remove(&mut self, part: PartId) {
        if self.parts.remove(&part).is_some() {
            self.removed.push(part);
            self.pending.retain(|(_, _, planned)| planned.part != part);
        }
    }

    /// Stops draining nodes that are empty, keeps others if the plan wants more nodes, and drains those that it names.
    /// Returns how many nodes are missing.
    pub fn resize(&mut self, plan: &PlacementPlan) -> usize {
        let owners: BTreeSet<NodeId> = self.parts.values().filter_map(|part| part.report.node).collect();
        self.nodes.retain(|id, node| !node.draining || owners.contains(id));
        let open = self.nodes.values().filter(|node| !node.draining).count();
        let missing = plan.nodes.saturating_sub(open);
        let kept = self.nodes.values_mut().filter(|node| node.draining).take(missing);
        let kept = kept.map(|node| node.draining = false).count();
        for node in &plan.drain {
            self.nodes.get_mut(node).expect("a plan names nodes that are alive").draining = true;
        }
        missing - kept
    }

    pub fn step(&mut self) -> PlacementPlan {
        self.now += self.step_ms;
        self.settle();
        let reports = std::mem::take(&mut self.changed).into_iter().filter_map(|part| self.parts.get(&part));
        let observation = FleetObservation {
            nodes: self.nodes.values().copied().collect(),
            parts: reports.map(|part| part.report).collect(),
            removed: std::mem::take(&mut self.removed),
        };
        let plan = self.placer.step(&observation, self.now);
        self.check(&plan);
        for &planned in &plan.moves {
            self.begin(planned);
        }
        plan
    }

    fn begin(&mut self, planned: Move) {
        let part = self.parts.get_mut(&planned.part).expect("a part that was reported");
        part.placed_ms = Some(self.now);
        self.pending.retain(|(_, _, other)| other.part != planned.part);
        if part.report.asleep || !self.moves_fail && self.move_ms == 0 {
            part.report.node = Some(planned.to);
            self.changed.insert(planned.part);
        } else {
            let takes_ms = if self.moves_fail { self.policy.move_ms_max } else { self.move_ms };
            self.pending.push((self.now + takes_ms, !self.moves_fail, planned));
        }
    }

    /// Ends the moves whose time has come. Those from or to nodes that died fail.
    fn settle(&mut self) {
        for part in self.parts.values_mut() {
            if part.report.node.is_some_and(|node| !self.nodes.contains_key(&node)) {
                part.report.node = None;
            }
        }
        let is_alive = |node: NodeId| self.nodes.contains_key(&node);
        let (now, pending) = (self.now, std::mem::take(&mut self.pending));
        for (due_ms, succeeds, planned) in pending {
            let part = self.parts.get_mut(&planned.part).expect("pending moves of removed parts are dropped");
            if !is_alive(planned.to) || planned.from.is_some_and(|from| !is_alive(from)) || part.report.asleep {
                self.changed.insert(planned.part);
            } else if due_ms > now {
                self.pending.push((due_ms, succeeds, planned));
            } else if succeeds {
                part.report.node = Some(planned.to);
                self.changed.insert(planned.part);
            }
        }
    }

    fn check(&mut self, plan: &PlacementPlan) {
        if !plan.moves.is_empty() {
            self.check_moves(plan);
            self.check_bounds(plan);
        }
        let moved: BTreeSet<PartId> = plan.moves.iter().map(|planned| planned.part).collect();
        let pending: BTreeSet<PartId> = self.pending.iter().map(|(.., planned)| planned.part).collect();
        let unplaced: BTreeSet<PartId> = plan.unplaced.iter().map(|part| part.part).collect();
        for part in self.parts.values().map(|part| part.report).filter(|part| !part.asleep) {
            let is_placed = part.node.is_some() || moved.contains(&part.part) || pending.contains(&part.part);
            assert!(is_placed != unplaced.contains(&part.part), "{part:?} has an owner or a reason why not: {plan:?}");
        }
    }

    fn check_moves(&self, plan: &PlacementPlan) {
        let targets: BTreeMap<PartId, NodeId> =
            self.pending.iter().map(|(.., planned)| (planned.part, planned.to)).collect();
        let mut usage: BTreeMap<NodeId, Usage> = self.nodes.keys().map(|node| (*node, Usage::default())).collect();
        let mut owners: BTreeMap<PartId, NodeId> = BTreeMap::new();
        for part in self.parts.values().map(|part| part.report) {
            let target = targets.get(&part.part).copied();
            let (memory_bytes, busy) = if part.asleep { (0, 0.0) } else { (part.memory_bytes, part.busy) };
            if let Some(owner) = target.or(part.node) {
                owners.insert(part.part, owner);
                usage.get_mut(&owner).expect("an owner that is alive").memory_bytes += memory_bytes;
                usage.get_mut(&owner).expect("an owner that is alive").busy += busy;
            }
            if let Some(from) = part.node.filter(|_| target.is_some()) {
                usage.get_mut(&from).expect("an owner that is alive").memory_bytes += memory_bytes;
            }
        }
        let mut seen = BTreeSet::new();
        for planned in &plan.moves {
            assert!(seen.insert(planned.part), "{:?} is moved twice", planned.part);
            assert_eq!(planned.from, owners.get(&planned.part).copied(), "the owner of {planned:?}");
            assert_ne!(planned.from, Some(planned.to), "{planned:?}");
            assert_eq!(self.placer.owner(planned.part), Some(planned.to), "the owner after {planned:?}");
            let to = self.nodes.get(&planned.to).unwrap_or_else(|| panic!("{planned:?} to a dead node"));
            assert!(!to.draining, "{planned:?} to a draining node");
            self.check_limits(planned, &usage);
            self.check_move(planned, &owners);
            let part = self.parts[&planned.part].report;
            if !part.asleep {
                let to = usage.get_mut(&planned.to).expect("alive");
                to.memory_bytes += part.memory_bytes;
                to.busy += part.busy;
                if let Some(from) = planned.from {
                    usage.get_mut(&from).expect("alive").busy -= part.busy;
                }
            }
            owners.insert(planned.part, planned.to);
        }
    }

    /// No move exceeds a limit, except that of an orphan for which there is no other choice.
    fn check_limits(&self, planned: &Move, usage: &BTreeMap<NodeId, Usage>) {
        let part = self.parts[&planned.part].report;
        let has_room = |node: &NodeReport| {
            let used = usage[&node.node];
            let memory = (used.memory_bytes + part.memory_bytes) as f64;
            (node.memory_bytes_max == 0
                || memory <= node.memory_bytes_max as f64 * self.policy.memory_share_max * (1.0 + 1e-9))
                && used.busy + part.busy <= node.processors * self.policy.busy_share_max + 1e-5
        };
        if part.asleep || has_room(&self.nodes[&planned.to]) {
            return;
        }
        assert_eq!(planned.reason, MoveReason::Orphan, "{planned:?} exceeds a limit");
        let other = self.nodes.values().find(|node| !node.draining && has_room(node));
        // A hair's breadth below the limit may count as above it.
        let is_close = other.is_some_and(|node| usage[&node.node].busy + part.busy + 1e-4 > node.processors * 0.8);
        assert!(other.is_none() || is_close, "{planned:?} exceeds a limit, and {other:?} has room");
    }

    fn check_move(&self, planned: &Move, owners: &BTreeMap<PartId, NodeId>) {
        let part = &self.parts[&planned.part];
        let is_draining = planned.from.is_some_and(|from| self.nodes[&from].draining);
        let is_needed = planned.from.is_none() || is_draining;
        assert_eq!(planned.reason == MoveReason::Orphan, planned.from.is_none(), "{planned:?}");
        assert!(planned.reason != MoveReason::Drain || is_draining, "{planned:?}");
        if let Some(placed_ms) = part.placed_ms.filter(|_| planned.reason.is_bounded() && !is_needed) {
            assert!(
                self.now - placed_ms >= self.policy.stay_ms,
                "{planned:?} {} ms after another",
                self.now - placed_ms
            );
        }
        if let Some(from) = planned.from.filter(|_| !is_needed) {
            let crowding = |slot: NodeId| self.crowding(planned.part, slot, owners);
            assert!(crowding(planned.to) <= crowding(from), "{planned:?} brings parts closer together");
        }
    }

    /// The number of other parts of the database in the zone of a node, and on it.
    fn crowding(&self, part: PartId, node: NodeId, owners: &BTreeMap<PartId, NodeId>) -> (usize, usize) {
        let all = PartId { first_slot: 0, ..part }..=PartId { first_slot: u16::MAX, ..part };
        let others = owners.range(all).filter(|(other, owner)| **other != part && !self.nodes[*owner].draining);
        let zone = self.nodes[&node].zone;
        let (mut in_zone, mut on_node) = (0, 0);
        for (_, owner) in others {
            in_zone += usize::from(self.nodes[owner].zone == zone);
            on_node += usize::from(*owner == node);
        }
        (in_zone, on_node)
    }

    fn check_bounds(&mut self, plan: &PlacementPlan) {
        let now = self.now;
        let bounded = plan.moves.iter().filter(|planned| planned.reason.is_bounded());
        self.bounded.extend(bounded.map(|planned| (now, planned.from.expect("an owner"), planned.to)));
        self.bounded.retain(|(at, ..)| now - at < 60_000);
        assert!(self.bounded.len() <= self.policy.moves_per_minute_max, "{} moves a minute", self.bounded.len());
        let mut of_node: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (_, from, to) in &self.bounded {
            *of_node.entry(*from).or_default() += 1;
            *of_node.entry(*to).or_default() += 1;
        }
        let most = of_node.values().max().copied().unwrap_or(0);
        assert!(most <= self.policy.node_moves_per_minute_max, "{most} moves a minute of one node");
        let reassigned = plan.moves.iter().filter(|planned| planned.reason == MoveReason::Reassign);
        self.reassigned.extend(reassigned.map(|_| now));
        self.reassigned.retain(|at| now - at < 60_000);
        let most = self.policy.reassignments_per_minute_max;
        assert!(self.reassigned.len() <= most, "{} reassignments a minute", self.reassigned.len());
    }

    /// The parts that a node owns, awake and asleep ones.
    pub fn owned(&self, node: NodeId) -> (usize, usize) {
        let owned = |asleep: bool| {
            let parts = self.parts.values().map(|part| part.report);
            parts.filter(|part| part.node == Some(node) && part.asleep == asleep).count()
        };
        (owned(false), owned(true))
    }
}
