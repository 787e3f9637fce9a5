//! The results of a day: a line for each hour, and sums.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use dormouse_autoscaler::{MoveReason, PlacementPlan};

use super::Options;

pub struct Counts {
    pub nodes: usize,
    pub awake: usize,
    pub wakes: usize,
    pub bursts: usize,
    pub memory_mib: f64,
    pub busy: f64,
    /// Databases whose parts are closer together than zones allow.
    pub crowded: usize,
}

/// Sums over the steps of an hour.
#[derive(Clone, Default)]
struct Hour {
    steps: f64,
    nodes: f64,
    awake: f64,
    wakes: usize,
    bursts: usize,
    memory_mib: f64,
    busy: f64,
    fullness_mean: f64,
    fullness_deviation: f64,
    fullness_99: f64,
    fullness_max: f64,
    /// Node-seconds over a limit.
    over_seconds: f64,
    moves: BTreeMap<MoveReason, usize>,
    unplaced_max: usize,
    step_ms: f64,
    step_ms_max: f64,
}

#[derive(Default)]
pub struct Tally {
    /// Of the nodes that take parts, in this step.
    pub fullness: Vec<f64>,
    pub failed: usize,
    pub dead: usize,
    pub node_seconds: f64,
    pub nodes_max: usize,
    pub nodes_min: usize,
    pub first_step_ms: f64,
    pub awake_seconds: f64,
    /// The sum over the steps of databases that were crowded.
    crowded: usize,
    /// The moves of the past minute, bounded ones and reassignments, and the most that any minute had.
    minute: VecDeque<(f64, [usize; 2])>,
    pub minute_max: [usize; 2],
    hours: Vec<Hour>,
    /// The times for which awake parts had no owner.
    pub unplaced_seconds: Vec<f64>,
}

/// Assumptions about what things cost.
pub struct Prices {
    pub vcpu_hour: f64,
    pub gib_hour: f64,
    /// Of the store.
    pub store_gib_month: f64,
    /// An idle server of Redis 7.0 has 2.7 MiB of its own, beside the pages of the program that processes share. The rest
    /// is for the kernel and a container.
    pub redis_process_mib: f64,
    /// An idle server of Redis 7.0 wakes ten times a second, for 0.0015 of a processor.
    pub redis_idle_vcpu: f64,
}

impl Default for Prices {
    fn default() -> Prices {
        Prices {
            vcpu_hour: 0.04,
            gib_hour: 0.0045,
            store_gib_month: 0.023,
            redis_process_mib: 4.0,
            redis_idle_vcpu: 0.001,
        }
    }
}

impl Tally {
    pub fn step(&mut self, now: f64, seconds: f64, counts: Counts, plan: &PlacementPlan, elapsed: Duration) {
        let elapsed_ms = elapsed.as_secs_f64() * 1e3;
        if self.first_step_ms == 0.0 {
            self.first_step_ms = elapsed_ms;
        }
        if now <= 0.0 {
            // Nothing counts that happens before midnight.
            let first_step_ms = self.first_step_ms;
            *self = Tally { first_step_ms, ..Tally::default() };
            return;
        }
        let hour = ((now - 1e-9) / 3_600.0) as usize;
        if self.hours.len() <= hour {
            self.hours.resize_with(hour + 1, Hour::default);
        }
        let mut fullness = std::mem::take(&mut self.fullness);
        fullness.sort_by(f64::total_cmp);
        let mean = fullness.iter().sum::<f64>() / fullness.len().max(1) as f64;
        let variance = fullness.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / fullness.len().max(1) as f64;
        let at = |share: f64| fullness.get(((fullness.len() as f64 * share) as usize).min(fullness.len() - 1));

        let sums = &mut self.hours[hour];
        sums.steps += 1.0;
        sums.nodes += counts.nodes as f64;
        sums.awake += counts.awake as f64;
        sums.wakes += counts.wakes;
        sums.bursts += counts.bursts;
        sums.memory_mib += counts.memory_mib;
        sums.busy += counts.busy;
        sums.fullness_mean += mean;
        sums.fullness_deviation += variance.sqrt();
        sums.fullness_99 += at(0.99).copied().unwrap_or(0.0);
        sums.fullness_max = sums.fullness_max.max(at(1.0).copied().unwrap_or(0.0));
        sums.over_seconds += fullness.iter().filter(|fullness| **fullness > 1.0).count() as f64 * seconds;
        for planned in &plan.moves {
            *sums.moves.entry(planned.reason).or_default() += 1;
        }
        sums.unplaced_max = sums.unplaced_max.max(plan.unplaced.len());
        sums.step_ms += elapsed_ms;
        sums.step_ms_max = sums.step_ms_max.max(elapsed_ms);

        let count =
            |counts: fn(&MoveReason) -> bool| plan.moves.iter().filter(|planned| counts(&planned.reason)).count();
        let moves = [count(|reason| reason.is_bounded()), count(|reason| *reason == MoveReason::Reassign)];
        self.minute.retain(|(at, _)| now - at < 60.0);
        self.minute.push_back((now, moves));
        for (kind, most) in self.minute_max.iter_mut().enumerate() {
            *most = (*most).max(self.minute.iter().map(|(_, moves)| moves[kind]).sum());
        }
        self.crowded += counts.crowded;

        self.node_seconds += counts.nodes as f64 * seconds;
        self.awake_seconds += counts.awake as f64 * seconds;
        self.nodes_max = self.nodes_max.max(counts.nodes);
        self.nodes_min = if self.nodes_min == 0 { counts.nodes } else { self.nodes_min.min(counts.nodes) };
    }

    /// An awake part has an owner again, after this long.
    pub fn unplaced(&mut self, seconds: f64) {
        self.unplaced_seconds.push(seconds);
    }

    pub fn moves(&self, reason: MoveReason) -> usize {
        self.hours.iter().filter_map(|hour| hour.moves.get(&reason)).sum()
    }

    /// Moves of awake parts that have an owner.
    pub fn bounded_moves(&self) -> usize {
        self.hours.iter().flat_map(|hour| &hour.moves).filter(|(reason, _)| reason.is_bounded()).map(|(_, n)| n).sum()
    }

    /// The share of the nodes' time in which they were over a limit.
    pub fn over_share(&self) -> f64 {
        self.hours.iter().map(|hour| hour.over_seconds).sum::<f64>() / self.node_seconds
    }

    /// The mean number of databases whose parts were closer together than zones allow.
    pub fn crowded(&self) -> f64 {
        self.crowded as f64 / self.hours.iter().map(|hour| hour.steps).sum::<f64>()
    }

    /// The mean over the day of the deviation of the fullness of the nodes.
    pub fn deviation(&self) -> f64 {
        let steps: f64 = self.hours.iter().map(|hour| hour.steps).sum();
        self.hours.iter().map(|hour| hour.fullness_deviation).sum::<f64>() / steps
    }

    /// The cost of the day, beside that of one Redis process for each database.
    pub fn cost(&self, options: &Options, prices: &Prices, data_mib: f64) -> String {
        let hours = options.hours;
        let node_hour = options.processors * prices.vcpu_hour + options.memory_gib * prices.gib_hour;
        let node_hours = self.node_seconds / 3_600.0;
        let data_gib = data_mib / 1024.0;
        let store = data_gib * prices.store_gib_month * hours / 730.0;
        let fleet = node_hours * node_hour + store;
        let fixed = options.nodes as f64 * hours * node_hour + store;

        let redis_gib = (options.databases as f64 * prices.redis_process_mib / 1024.0 + data_gib) / 0.8;
        let hour_max = self.hours.iter().map(|hour| hour.busy / hour.steps.max(1.0)).fold(0.0, f64::max);
        let redis_vcpu = (hour_max + options.databases as f64 * prices.redis_idle_vcpu) / 0.8;
        let memory = redis_gib * prices.gib_hour * hours;
        let cpu = redis_vcpu * prices.vcpu_hour * hours;
        format!(
            "Cost of the day, with assumed prices: {:.4} $ per vCPU-hour, {:.4} $ per GiB-hour, {:.3} $ per GiB-month in the store
  this fleet                          {fleet:>9.0} $  {node_hours:.0} node-hours of {} vCPUs and {} GiB, {data_gib:.0} GiB in the store; requests to the store are left out
  the same with all {:>4} nodes all day {fixed:>7.0} $
  one Redis process per database      {:>9.0} $  {:.2} times as much: memory {memory:.0} $, CPU {cpu:.0} $
    assumed: {} MiB for an idle process and {} of a vCPU to keep it running, all data in memory, the CPU of the busiest hour all
    day, the same limits of 0.8 of memory and CPU, nothing lost to nodes that are not quite full, no replicas on either side\n",
            prices.vcpu_hour,
            prices.gib_hour,
            prices.store_gib_month,
            options.processors,
            options.memory_gib,
            options.nodes,
            memory + cpu,
            (memory + cpu) / fleet,
            prices.redis_process_mib,
            prices.redis_idle_vcpu,
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "hour  nodes   awake  wakes  CPU   GiB   fullness of nodes          moves of awake parts              not bounded        unplaced  step, ms"
        )?;
        writeln!(
            f,
            "                      /min busy        mean    dev   p99   max  drain spread  over balance  orphans  reassigned  at most   mean   max"
        )?;
        for (number, hour) in self.hours.iter().enumerate() {
            let moves = |reason| hour.moves.get(&reason).copied().unwrap_or(0);
            let mean = |sum: f64| sum / hour.steps.max(1.0);
            writeln!(
                f,
                "{number:>4} {:>6.1} {:>7.0} {:>6.0} {:>4.0} {:>6.0}  {:>5.2}  {:>5.3} {:>5.2} {:>5.2} {:>6} {:>6} {:>5} {:>7} {:>8} {:>11} {:>8} {:>6.1} {:>5.1}",
                mean(hour.nodes),
                mean(hour.awake),
                hour.wakes as f64 / 60.0,
                mean(hour.busy),
                mean(hour.memory_mib) / 1024.0,
                mean(hour.fullness_mean),
                mean(hour.fullness_deviation),
                mean(hour.fullness_99),
                hour.fullness_max,
                moves(MoveReason::Drain),
                moves(MoveReason::Spread),
                moves(MoveReason::Overload),
                moves(MoveReason::Balance),
                moves(MoveReason::Orphan),
                moves(MoveReason::Reassign),
                hour.unplaced_max,
                mean(hour.step_ms),
                hour.step_ms_max,
            )?;
        }
        let mut unplaced = self.unplaced_seconds.clone();
        unplaced.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (unplaced.len() as f64 * share) as usize;
            unplaced.get(index.min(unplaced.len().saturating_sub(1))).copied().unwrap_or(0.0)
        };
        let lost: f64 = unplaced.iter().sum();
        let bursts: usize = self.hours.iter().map(|hour| hour.bursts).sum();
        let wakes: usize = self.hours.iter().map(|hour| hour.wakes).sum();
        writeln!(f)?;
        writeln!(
            f,
            "{} nodes at most, {} at least, {:.1} in the mean; {} died",
            self.nodes_max,
            self.nodes_min,
            self.node_seconds / 3_600.0 / self.hours.len() as f64,
            self.dead
        )?;
        writeln!(
            f,
            "{} moves of awake parts, of which {} failed: one per part awake in {:.1} hours; {wakes} wakes and {bursts} bursts",
            self.bounded_moves(),
            self.failed,
            self.awake_seconds / 3_600.0 / self.bounded_moves().max(1) as f64
        )?;
        writeln!(
            f,
            "{} orphans placed; {} new owners for asleep parts otherwise; in any minute at most {} moves and {} new owners",
            self.moves(MoveReason::Orphan),
            self.moves(MoveReason::Reassign),
            self.minute_max[0],
            self.minute_max[1]
        )?;
        writeln!(f, "databases with two parts more in a zone than in another: {:.2} in the mean", self.crowded())?;
        writeln!(
            f,
            "awake parts without an owner: {} times, {:.1} s at the median, {:.1} s at p99, {:.1} s at most; {:.5} % of the time awake",
            unplaced.len(),
            at(0.5),
            at(0.99),
            at(1.0),
            100.0 * lost / self.awake_seconds
        )?;
        writeln!(
            f,
            "nodes over a limit of 0.8 of CPU or memory: {:.3} % of their time; fullness deviates by {:.3} in the mean",
            100.0 * self.over_share(),
            self.deviation()
        )?;
        writeln!(f, "the first step, which places everything: {:.0} ms", self.first_step_ms)
    }
}
