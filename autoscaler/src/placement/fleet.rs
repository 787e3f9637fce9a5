//! The tables of nodes and parts, and the moves that are under way.
//!
//! A part takes 32 bytes in one array, beside its key in the index (about 40 bytes) and its number in the list of its
//! owner (4 bytes). The list of an owner is an array too: each part knows its place there, so it leaves in constant
//! time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::node::{Demand, Node, Residents};
use super::observation::{NodeId, NodeReport, PartId, PartReport, ZoneId};

/// The owner of an orphan.
pub(crate) const NOWHERE: u16 = u16::MAX;

/// Invariants: a part is in exactly one list, that of its owner (or, without one, of the orphans), and that list is
/// `awake` or `asleep` as the part is. A node's sums are those over its lists. A part on its way belongs to its
/// destination, and its memory counts at its source, too, until it is reported there or given up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fleet {
    nodes: Vec<Option<Node>>,
    parts: Vec<Part>,
    free: Vec<u32>,
    index: BTreeMap<PartId, u32>,
    /// Databases of several parts.
    divided: BTreeSet<u64>,
    pub(crate) orphans: Residents,
    flights: BTreeMap<u32, Flight>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    database: u64,
    demand: Demand,
    /// In the list of its owner.
    position: u32,
    /// When it was last placed or moved; 0: never.
    moved_s: u32,
    first_slot: u16,
    node: u16,
    asleep: bool,
}

/// A move of an awake part, between the plan and the report of its new owner.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Flight {
    from: u16,
    at_ms: u64,
}

impl Fleet {
    /// Takes the nodes that are alive; of several reports of a node, the last one. The parts of other nodes become orphans.
    pub(crate) fn observe_nodes(&mut self, reports: &[NodeReport]) {
        let mut reports: BTreeMap<NodeId, &NodeReport> = reports.iter().map(|report| (report.node, report)).collect();
        let mut dead = BTreeSet::new();
        for (id, slot) in self.slots() {
            if let Some(report) = reports.remove(&id) {
                self.node_mut(slot).report(report);
            } else {
                dead.insert(slot);
            }
        }
        self.bury(&dead);
        let mut free = 0;
        for report in reports.into_values() {
            while self.nodes.get(free).is_some_and(Option::is_some) {
                free += 1;
            }
            if free == usize::from(NOWHERE) {
                // A slot is 16 bits wide. Nodes beyond that take no parts.
                break;
            }
            if free == self.nodes.len() {
                self.nodes.push(None);
            }
            self.nodes[free] = Some(Node::new(report));
        }
    }

    fn bury(&mut self, dead: &BTreeSet<u16>) {
        let flights = self.flights.iter().map(|(part, flight)| (*part, flight.from));
        let is_concerned = |(part, from): &(u32, u16)| dead.contains(from) || dead.contains(&self.owner(*part));
        for (part, from) in flights.filter(is_concerned).collect::<Vec<_>>() {
            self.land(part);
            // A part on its way from a dead node may never arrive, one on its way there is still where it was.
            self.relocate(part, if dead.contains(&from) { NOWHERE } else { from });
        }
        for slot in dead {
            let Residents { awake, asleep } = self.node(*slot).residents.clone();
            awake.into_iter().chain(asleep).for_each(|part| self.relocate(part, NOWHERE));
            self.nodes[usize::from(*slot)] = None;
        }
    }

    /// Takes what is known of a part. What is reported is true, except that a move may still be under way.
    pub(crate) fn report(&mut self, report: &PartReport, slot: Option<u16>, now: u64, move_ms_max: u64) {
        let part = match self.index.get(&report.part) {
            Some(part) => *part,
            None => self.insert(report.part),
        };
        self.set_load(part, report);
        let owner = slot.unwrap_or(NOWHERE);
        let current = self.parts[part as usize].node;
        if let Some(flight) = self.flights.get(&part).copied() {
            let is_under_way = owner == flight.from && now.saturating_sub(flight.at_ms) < move_ms_max;
            if owner == current || !is_under_way {
                self.land(part);
                self.relocate(part, owner);
            }
        } else if owner != current {
            self.relocate(part, owner);
        }
    }

    fn insert(&mut self, id: PartId) -> u32 {
        let PartId { database, first_slot } = id;
        let demand = Demand::default();
        let part = Part { database, demand, position: 0, moved_s: 0, first_slot, node: NOWHERE, asleep: true };
        let number = match self.free.pop() {
            Some(number) => {
                self.parts[number as usize] = part;
                number
            }
            None => {
                self.parts.push(part);
                u32::try_from(self.parts.len() - 1).expect("fewer than 2^32 parts: each takes memory")
            }
        };
        self.enlist(number);
        if self.parts_of(database).next().is_some() {
            self.divided.insert(database);
        }
        self.index.insert(id, number);
        number
    }

    fn set_load(&mut self, part: u32, report: &PartReport) {
        let Part { asleep, demand, .. } = self.parts[part as usize];
        let new = if report.asleep { Demand::default() } else { Demand::new(report.memory_bytes, report.busy) };
        if asleep == report.asleep && demand == new {
            return;
        }
        if report.asleep {
            self.land(part);
        }
        if let Some(from) = self.flights.get(&part).map(|flight| flight.from)
            && let Some(node) = self.node_if(from)
        {
            node.leaving_kib = node.leaving_kib - u64::from(demand.memory_kib) + u64::from(new.memory_kib);
        }
        self.delist(part);
        self.parts[part as usize].demand = new;
        self.parts[part as usize].asleep = report.asleep;
        self.enlist(part);
    }

    pub(crate) fn remove(&mut self, id: PartId) {
        let Some(part) = self.index.remove(&id) else { return };
        self.land(part);
        self.delist(part);
        self.free.push(part);
        if self.parts_of(id.database).nth(1).is_none() {
            self.divided.remove(&id.database);
        }
    }

    /// Plans a new owner for a part. An awake part is on its way there until its report says so.
    pub(crate) fn send(&mut self, part: u32, to: u16, now: u64) {
        let Part { node: from, demand, asleep, .. } = self.parts[part as usize];
        self.land(part);
        if !asleep {
            self.flights.insert(part, Flight { from, at_ms: now });
            if let Some(node) = self.node_if(from) {
                node.leaving_kib += u64::from(demand.memory_kib);
            }
        }
        self.relocate(part, to);
        // Rounded up, so that no part stays too short, or counts as never moved.
        self.parts[part as usize].moved_s = u32::try_from(now.div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
    }

    /// Forgets all moments, if the clock ran backwards. Moves under way start over.
    pub(crate) fn forget_moments(&mut self, now: u64) {
        self.flights.values_mut().for_each(|flight| flight.at_ms = now);
        self.parts.iter_mut().for_each(|part| part.moved_s = 0);
        for node in self.nodes.iter_mut().flatten() {
            (node.over, node.high, node.low) = Default::default();
        }
    }

    /// Gives up the moves of which nothing was reported for long: their parts are where they were.
    pub(crate) fn expire_flights(&mut self, now: u64, move_ms_max: u64) {
        let is_old = |flight: &Flight| now.saturating_sub(flight.at_ms) >= move_ms_max;
        let flights = self.flights.iter().filter(|(_, flight)| is_old(flight));
        let old: Vec<(u32, u16)> = flights.map(|(part, flight)| (*part, flight.from)).collect();
        for (part, from) in old {
            self.land(part);
            self.relocate(part, from);
        }
    }

    /// Ends a move: its source is free of the part.
    fn land(&mut self, part: u32) {
        let Some(flight) = self.flights.remove(&part) else { return };
        let memory_kib = u64::from(self.parts[part as usize].demand.memory_kib);
        if let Some(node) = self.node_if(flight.from) {
            node.leaving_kib -= memory_kib;
        }
    }

    fn relocate(&mut self, part: u32, to: u16) {
        self.delist(part);
        self.parts[part as usize].node = to;
        self.enlist(part);
    }

    fn enlist(&mut self, part: u32) {
        let Part { node, asleep, demand, .. } = self.parts[part as usize];
        if let Some(node) = self.node_if(node) {
            node.memory_kib += u64::from(demand.memory_kib);
            node.busy += u64::from(demand.busy);
        }
        let list = self.list(node, asleep);
        list.push(part);
        self.parts[part as usize].position = (list.len() - 1) as u32;
    }

    fn delist(&mut self, part: u32) {
        let Part { node, asleep, demand, position, .. } = self.parts[part as usize];
        if let Some(node) = self.node_if(node) {
            node.memory_kib -= u64::from(demand.memory_kib);
            node.busy -= u64::from(demand.busy);
        }
        let list = self.list(node, asleep);
        list.swap_remove(position as usize);
        if let Some(&moved) = list.get(position as usize) {
            self.parts[moved as usize].position = position;
        }
    }

    fn list(&mut self, node: u16, asleep: bool) -> &mut Vec<u32> {
        let residents = match self.nodes.get_mut(usize::from(node)) {
            Some(Some(node)) => &mut node.residents,
            _ => &mut self.orphans,
        };
        if asleep { &mut residents.asleep } else { &mut residents.awake }
    }

    /// All nodes that are alive, by slot.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (u16, &Node)> {
        self.nodes.iter().enumerate().filter_map(|(slot, node)| Some((slot as u16, node.as_ref()?)))
    }

    /// The slots of all nodes that are alive.
    pub(crate) fn slots(&self) -> BTreeMap<NodeId, u16> {
        self.nodes().map(|(slot, node)| (node.id, slot)).collect()
    }

    /// The nodes that take parts.
    pub(crate) fn open_nodes(&self) -> impl Iterator<Item = (u16, &Node)> {
        self.nodes().filter(|(_, node)| !node.draining)
    }

    pub(crate) fn node(&self, slot: u16) -> &Node {
        self.nodes[usize::from(slot)].as_ref().expect("slots come from `nodes`, and nodes die only between steps")
    }

    pub(crate) fn node_mut(&mut self, slot: u16) -> &mut Node {
        self.nodes[usize::from(slot)].as_mut().expect("slots come from `nodes`, and nodes die only between steps")
    }

    fn node_if(&mut self, slot: u16) -> Option<&mut Node> {
        self.nodes.get_mut(usize::from(slot))?.as_mut()
    }

    /// The awake parts of a node in the order in which it is emptied: the busiest first, since those that are idle may
    /// fall asleep meanwhile and need no move.
    pub(crate) fn busiest_first(&self, slot: u16) -> Vec<u32> {
        let mut parts = self.node(slot).residents.awake.clone();
        parts.sort_by_key(|part| {
            let demand = self.demand(*part);
            (Reverse((demand.busy, demand.memory_kib)), *part)
        });
        parts
    }

    pub(crate) fn parts_len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn find(&self, id: PartId) -> Option<u32> {
        self.index.get(&id).copied()
    }

    pub(crate) fn id(&self, part: u32) -> PartId {
        let Part { database, first_slot, .. } = self.parts[part as usize];
        PartId { database, first_slot }
    }

    pub(crate) fn demand(&self, part: u32) -> Demand {
        self.parts[part as usize].demand
    }

    pub(crate) fn owner(&self, part: u32) -> u16 {
        self.parts[part as usize].node
    }

    pub(crate) fn is_asleep(&self, part: u32) -> bool {
        self.parts[part as usize].asleep
    }

    /// Whether the part was placed or moved less than `stay_ms` ago, or is on its way.
    pub(crate) fn stays(&self, part: u32, stay_ms: u64, now: u64) -> bool {
        let moved_s = self.parts[part as usize].moved_s;
        let age_ms = now.saturating_sub(u64::from(moved_s) * 1_000);
        self.is_on_its_way(part) || moved_s > 0 && age_ms < stay_ms
    }

    pub(crate) fn is_on_its_way(&self, part: u32) -> bool {
        self.flights.contains_key(&part)
    }

    /// The parts of a database, in slot order.
    pub(crate) fn parts_of(&self, database: u64) -> impl Iterator<Item = u32> {
        let id = |first_slot| PartId { database, first_slot };
        self.index.range(id(0)..=id(u16::MAX)).map(|(_, part)| *part)
    }

    pub(crate) fn divided(&self) -> &BTreeSet<u64> {
        &self.divided
    }

    pub(crate) fn is_divided(&self, part: u32) -> bool {
        self.divided.contains(&self.parts[part as usize].database)
    }

    /// How many other parts of its database would be beside the part on a node: in the node's zone, and on the node.
    pub(crate) fn crowding(&self, part: u32, slot: u16) -> (usize, usize) {
        if !self.is_divided(part) {
            return (0, 0);
        }
        self.siblings(part).crowding(slot, self.node(slot).zone)
    }

    /// The owners of the other parts of the database.
    pub(crate) fn siblings(&self, part: u32) -> Siblings {
        let others = self.parts_of(self.parts[part as usize].database).filter(|other| *other != part);
        let slots = others.map(|other| self.owner(other)).filter(|slot| *slot != NOWHERE);
        let mut siblings = Siblings::default();
        for (slot, node) in slots.map(|slot| (slot, self.node(slot))).filter(|(_, node)| !node.draining) {
            *siblings.in_zone.entry(node.zone).or_default() += 1;
            *siblings.on_node.entry(slot).or_default() += 1;
        }
        siblings
    }
}

/// How many other parts of a database each zone and node has. Those on draining nodes do not count: they will be elsewhere.
#[derive(Default)]
pub(crate) struct Siblings {
    in_zone: BTreeMap<ZoneId, usize>,
    on_node: BTreeMap<u16, usize>,
}

impl Siblings {
    pub(crate) fn crowding(&self, slot: u16, zone: ZoneId) -> (usize, usize) {
        let count = |found: Option<&usize>| found.copied().unwrap_or(0);
        (count(self.in_zone.get(&zone)), count(self.on_node.get(&slot)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Checks the invariants against the parts alone.
    fn check(fleet: &Fleet) {
        let mut sums: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        let mut leaving: BTreeMap<u16, u64> = BTreeMap::new();
        for (id, &number) in &fleet.index {
            let part = fleet.parts[number as usize];
            assert_eq!(fleet.id(number), *id);
            let residents = match fleet.nodes().find(|(slot, _)| *slot == part.node) {
                Some((_, node)) => &node.residents,
                None => &fleet.orphans,
            };
            let list = if part.asleep { &residents.asleep } else { &residents.awake };
            assert_eq!(list[part.position as usize], number);
            let sum = sums.entry(part.node).or_default();
            *sum = (sum.0 + u64::from(part.demand.memory_kib), sum.1 + u64::from(part.demand.busy));
            if let Some(flight) = fleet.flights.get(&number) {
                assert!(!part.asleep && flight.from != part.node);
                *leaving.entry(flight.from).or_default() += u64::from(part.demand.memory_kib);
            }
            assert_eq!(fleet.is_divided(number), fleet.parts_of(id.database).count() > 1);
        }
        let mut listed = fleet.orphans.awake.len() + fleet.orphans.asleep.len();
        for (slot, node) in fleet.nodes() {
            assert_eq!((node.memory_kib, node.busy), sums.get(&slot).copied().unwrap_or_default());
            assert_eq!(node.leaving_kib, leaving.get(&slot).copied().unwrap_or_default());
            listed += node.residents.awake.len() + node.residents.asleep.len();
        }
        assert_eq!(listed, fleet.parts_len());
    }

    proptest! {
        #[test]
        fn lists_and_sums_follow_the_parts(
            operations in proptest::collection::vec((0u8..6, 0u64..5, 0u16..3, 0u32..5, any::<bool>(), 0u64..9), 1..200),
        ) {
            let mut fleet = Fleet::default();
            let mut alive = BTreeSet::new();
            for (now, (operation, database, first_slot, node, asleep, load)) in operations.into_iter().enumerate() {
                let (now, part) = (now as u64 * 1_000, PartId { database, first_slot });
                match operation {
                    0 => {
                        if !alive.remove(&node) {
                            alive.insert(node);
                        }
                        let report = |node: &u32| NodeReport { node: NodeId(*node), ..Default::default() };
                        fleet.observe_nodes(&alive.iter().map(report).collect::<Vec<_>>());
                    }
                    1 => fleet.remove(part),
                    2 => fleet.expire_flights(now, 20_000),
                    3 => {
                        let to = fleet.nodes().nth(load as usize).map(|(slot, _)| slot);
                        let found = fleet.find(part).filter(|part| Some(fleet.owner(*part)) != to);
                        if let (Some(part), Some(to)) = (found, to) {
                            fleet.send(part, to, now);
                        }
                    }
                    _ => {
                        let slot = fleet.slots().get(&NodeId(node)).copied();
                        let (memory_bytes, busy) = (load << 10, load as f64);
                        let report = PartReport { part, node: Some(NodeId(node)), asleep, memory_bytes, busy };
                        fleet.report(&report, slot, now, 20_000);
                    }
                }
                check(&fleet);
            }
        }
    }

    #[test]
    fn a_part_takes_little_memory() {
        assert_eq!(std::mem::size_of::<Part>(), 32);
    }
}
