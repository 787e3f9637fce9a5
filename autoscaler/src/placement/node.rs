//! A node as the policy sees it: its limits, the sums over its parts, and its windows.

use super::observation::{NodeId, NodeReport, ZoneId};
use super::policy::PlacementPolicy;
use crate::streak::Streak;

/// The needs of a part, in integers, so that sums over parts never drift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) memory_kib: u32,
    /// Millionths of a processor.
    pub(crate) busy: u32,
}

impl Demand {
    /// Rounds memory up, to at most 4 TiB. A load that is not a number counts as none: an infinite one would make the
    /// fleet grow by hundreds of nodes.
    pub(crate) fn new(memory_bytes: u64, busy: f64) -> Self {
        let memory_kib = u32::try_from(memory_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        Demand { memory_kib, busy: if busy.is_finite() { (busy * 1e6) as u32 } else { 0 } }
    }

    pub(crate) fn processors(self) -> f64 {
        f64::from(self.busy) / 1e6
    }

    pub(crate) fn plus(self, other: Demand) -> Demand {
        let memory_kib = self.memory_kib.saturating_add(other.memory_kib);
        Demand { memory_kib, busy: self.busy.saturating_add(other.busy) }
    }
}

/// The part lists of an owner. Awake and asleep parts are apart, since only the former have a load.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Residents {
    pub(crate) awake: Vec<u32>,
    pub(crate) asleep: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) zone: ZoneId,
    pub(crate) draining: bool,
    memory_kib_max: f64,
    processors: f64,
    /// Sums over the parts that are here or on their way here.
    pub(crate) memory_kib: u64,
    /// Millionths of a processor.
    pub(crate) busy: u64,
    /// Memory of parts on their way to other nodes, which is still in use.
    pub(crate) leaving_kib: u64,
    pub(crate) residents: Residents,
    pub(crate) over: Streak,
    pub(crate) high: Streak,
    pub(crate) low: Streak,
    /// The node is fuller than others and gives parts until it no longer is.
    pub(crate) giving: bool,
    /// The node is emptier than others and takes parts until it no longer is.
    pub(crate) taking: bool,
}

impl Node {
    pub(crate) fn new(report: &NodeReport) -> Self {
        let mut node = Node {
            id: report.node,
            zone: report.zone,
            draining: report.draining,
            memory_kib_max: 0.0,
            processors: 0.0,
            memory_kib: 0,
            busy: 0,
            leaving_kib: 0,
            residents: Residents::default(),
            over: Streak::default(),
            high: Streak::default(),
            low: Streak::default(),
            giving: false,
            taking: false,
        };
        node.report(report);
        node
    }

    pub(crate) fn report(&mut self, report: &NodeReport) {
        self.zone = report.zone;
        self.draining = report.draining;
        self.memory_kib_max =
            if report.memory_bytes_max == 0 { f64::INFINITY } else { report.memory_bytes_max as f64 / 1024.0 };
        self.processors = if report.processors > 0.0 { report.processors } else { 0.0 };
    }

    pub(crate) fn memory_limit_kib(&self, policy: &PlacementPolicy) -> f64 {
        self.memory_kib_max * policy.memory_share_max
    }

    /// In processors.
    pub(crate) fn busy_limit(&self, policy: &PlacementPolicy) -> f64 {
        self.processors * policy.busy_share_max
    }

    pub(crate) fn fullness(&self, policy: &PlacementPolicy) -> f64 {
        self.fullness_of(policy, self.memory_kib, self.busy)
    }

    /// The fullness with one part more. Memory of parts that are leaving does not count: it will be free.
    pub(crate) fn fullness_with(&self, policy: &PlacementPolicy, demand: Demand) -> f64 {
        let memory_kib = self.memory_kib + u64::from(demand.memory_kib);
        self.fullness_of(policy, memory_kib, self.busy + u64::from(demand.busy))
    }

    /// The fullness without one of its parts.
    pub(crate) fn fullness_without(&self, policy: &PlacementPolicy, demand: Demand) -> f64 {
        let memory_kib = self.memory_kib.saturating_sub(u64::from(demand.memory_kib));
        self.fullness_of(policy, memory_kib, self.busy.saturating_sub(u64::from(demand.busy)))
    }

    fn fullness_of(&self, policy: &PlacementPolicy, memory_kib: u64, busy: u64) -> f64 {
        let memory = ratio(memory_kib as f64, self.memory_limit_kib(policy));
        memory.max(ratio(busy as f64 / 1e6, self.busy_limit(policy)))
    }

    /// Whether the part fits within both limits, even while other parts are still leaving.
    pub(crate) fn has_room(&self, policy: &PlacementPolicy, demand: Demand) -> bool {
        self.memory_with(demand) <= self.memory_limit_kib(policy)
            && (self.busy + u64::from(demand.busy)) as f64 / 1e6 <= self.busy_limit(policy)
    }

    /// Whether the part's memory fits, above the limit that holds for other moves and at any load.
    pub(crate) fn has_room_for_orphan(&self, policy: &PlacementPolicy, demand: Demand) -> bool {
        self.memory_with(demand) <= self.memory_kib_max * policy.memory_share_orphan_max
    }

    /// Whether the part would be within both limits if the node were empty.
    pub(crate) fn suits(&self, policy: &PlacementPolicy, demand: Demand) -> bool {
        f64::from(demand.memory_kib) <= self.memory_limit_kib(policy) && demand.processors() <= self.busy_limit(policy)
    }

    /// Whether the part's memory would fit if the node were empty.
    pub(crate) fn could_hold(&self, policy: &PlacementPolicy, demand: Demand) -> bool {
        f64::from(demand.memory_kib) <= self.memory_kib_max * policy.memory_share_orphan_max
    }

    fn memory_with(&self, demand: Demand) -> f64 {
        (self.memory_kib + self.leaving_kib + u64::from(demand.memory_kib)) as f64
    }
}

/// The number of some nodes, and their limits together: KiB, processors.
pub(crate) fn limits<'a>(policy: &PlacementPolicy, nodes: impl Iterator<Item = (u16, &'a Node)>) -> (usize, f64, f64) {
    nodes.fold((0, 0.0, 0.0), |(nodes, limit_kib, limit_busy), (_, node)| {
        (nodes + 1, limit_kib + node.memory_limit_kib(policy), limit_busy + node.busy_limit(policy))
    })
}

/// A share of a limit. A use without any limit's worth of room is a large number, not infinity, so that means stay
/// finite.
pub(crate) fn ratio(used: f64, limit: f64) -> f64 {
    if used <= 0.0 { 0.0 } else { (used / limit).min(1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_no_load() {
        for busy in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            assert_eq!(Demand::new(1, busy), Demand { memory_kib: 1, busy: 0 });
        }
        assert_eq!(Demand::new(u64::MAX, 1e300), Demand { memory_kib: u32::MAX, busy: u32::MAX });
    }
}
