//! The load of a day: databases by Zipf's law, which wake and sleep, follow the time of day in three regions, and burst.

use dormouse_autoscaler::{NodeId, PartId};

use super::Options;
use super::random::Random;

/// How long a part is awake, in the mean, from its first command to its sleep.
const AWAKE_SECONDS: f64 = 900.0;
/// Busier parts than this are divided.
const PART_PROCESSORS_MAX: f64 = 1.5;
/// The vCPUs that one part can keep busy, even in a burst.
const BURST_PROCESSORS_MAX: f64 = 4.0;
const PART_MIB_MAX: f64 = 8_192.0;
/// Share of the databases that are never asleep.
const ALWAYS_AWAKE: f64 = 0.02;
/// Regions: share of the databases, and hours by which their day is later.
const REGIONS: [(f64, f64); 3] = [(0.6, 0.0), (0.25, 7.0), (0.15, -6.0)];
/// Share of the asleep databases that a scheduled job wakes in the first minute of each hour.
const SCHEDULED_SHARE: f64 = 0.02;
const CLASSES: usize = 24;

/// A part, with what it uses when awake, at the height of its day.
pub struct Unit {
    pub id: PartId,
    pub owner: Option<NodeId>,
    pub awake: bool,
    pub memory_mib: f32,
    busy: f32,
    /// A factor on its load.
    burst: f32,
    group: u16,
    /// In its group's list.
    position: u32,
}

/// Parts that are awake equally often, in one region.
struct Group {
    /// The share of the time that a part is awake, at the height of the day.
    awake_share: f64,
    region: usize,
    awake: Vec<u32>,
    asleep: Vec<u32>,
}

pub struct Load {
    pub units: Vec<Unit>,
    pub random: Random,
    /// Parts with something to report.
    pub changed: Vec<u32>,
    /// Wakes and bursts so far.
    pub wakes: usize,
    pub bursts: usize,
    groups: Vec<Group>,
    /// When each ends.
    bursting: Vec<(f64, u32)>,
}

impl Load {
    pub fn new(options: &Options) -> Load {
        let mut random = Random(options.seed);
        let count = options.databases as f64;
        let mut groups = Vec::new();
        for class in 0..CLASSES {
            for region in 0..REGIONS.len() {
                let awake_share = class_share(class);
                groups.push(Group { awake_share, region, awake: Vec::new(), asleep: Vec::new() });
            }
        }
        // The numbers of databases say nothing about their load.
        let mut units: Vec<Unit> = Vec::with_capacity(options.databases + options.databases / 100);
        let (mut busy_sum, mut memory_sum) = (0.0, 0.0);
        let mut drawn = Vec::with_capacity(options.databases);
        for rank in 1..=options.databases {
            let share = rank as f64 / count;
            let class = class_of(share);
            let region = region_of(random.share());
            let busy = 1.0 / rank as f64;
            let memory = (1.0 / share).powf(0.35).min(60.0) * random.normal().exp().min(30.0);
            busy_sum += class_share(class) * busy;
            memory_sum += class_share(class) * memory;
            drawn.push((class, region, busy, memory));
        }
        let peak =
            (0..24).map(|hour| REGIONS.iter().map(|(share, shift)| share * height(f64::from(hour), *shift)).sum());
        let peak: f64 = peak.fold(0.0, f64::max);
        let busy_scale = options.peak_busy_share * options.nodes as f64 * options.processors / busy_sum / peak;
        let memory_mib = options.nodes as f64 * options.memory_gib * 1024.0;
        let memory_scale = options.peak_memory_share * memory_mib / memory_sum / peak.sqrt();
        for (rank, (class, region, busy, memory)) in drawn.into_iter().enumerate() {
            let (busy, memory) = (busy * busy_scale, memory * memory_scale);
            let parts = (busy / PART_PROCESSORS_MAX).max(memory / PART_MIB_MAX).ceil().clamp(1.0, 256.0) as u16;
            let database = (rank as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            for number in 0..parts {
                let skew = if parts == 1 { 1.0 } else { random.between(0.7, 1.3) };
                let class = if parts == 1 { class } else { 0 };
                let unit = Unit {
                    id: PartId { database, first_slot: number * (16_384 / parts) },
                    owner: None,
                    awake: false,
                    memory_mib: (memory / f64::from(parts) * skew) as f32,
                    busy: (busy / f64::from(parts) * skew) as f32,
                    burst: 1.0,
                    group: (class * REGIONS.len() + region) as u16,
                    position: 0,
                };
                units.push(unit);
            }
        }
        let mut load = Load { units, random, changed: Vec::new(), wakes: 0, bursts: 0, groups, bursting: Vec::new() };
        for unit in 0..load.units.len() as u32 {
            let group = &load.groups[usize::from(load.units[unit as usize].group)];
            let share = group.awake_share * height(options.start_hour, REGIONS[group.region].1);
            let awake = group.awake_share == 1.0 || load.random.share() < share;
            load.units[unit as usize].awake = awake;
            load.enlist(unit);
            load.changed.push(unit);
        }
        load.wakes = 0;
        load
    }

    /// Lets `seconds` pass until `now`, in seconds since the first midnight.
    pub fn pass(&mut self, now: f64, seconds: f64) {
        let hour = now / 3_600.0;
        let is_scheduled = now % 3_600.0 < 60.0;
        for group in 0..self.groups.len() {
            let Group { awake_share, region, .. } = self.groups[group];
            if awake_share == 1.0 {
                continue;
            }
            let rate = awake_share / (1.0 - awake_share) / AWAKE_SECONDS * height(hour, REGIONS[region].1);
            let rate = if is_scheduled { rate + SCHEDULED_SHARE / 60.0 } else { rate };
            let asleep = self.groups[group].asleep.len();
            for _ in 0..self.random.events(asleep as f64 * rate * seconds).min(asleep) {
                let number = self.random.below(self.groups[group].asleep.len());
                self.wakes += 1;
                self.turn(self.groups[group].asleep[number]);
            }
            let awake = self.groups[group].awake.len();
            for _ in 0..self.random.events(awake as f64 * seconds / AWAKE_SECONDS).min(awake) {
                let number = self.random.below(self.groups[group].awake.len());
                self.turn(self.groups[group].awake[number]);
            }
        }
        self.burst(now, seconds);
    }

    /// A burst is 3 to 30 times the usual load for 2 to 20 minutes. Half of them hit the busiest hundredth.
    fn burst(&mut self, now: f64, seconds: f64) {
        let (ended, bursting) = self.bursting.iter().partition::<Vec<_>, _>(|(end, _)| *end <= now);
        self.bursting = bursting;
        for (_, unit) in ended {
            self.units[unit as usize].burst = 1.0;
            self.changed.push(unit);
        }
        let per_second = self.units.len() as f64 / 5e6;
        for _ in 0..self.random.events(per_second * seconds) {
            let few = (self.units.len() / 100).max(1);
            let end = if self.random.share() < 0.5 { few } else { self.units.len() };
            let unit = self.random.below(end);
            if self.units[unit].awake && self.units[unit].burst == 1.0 {
                self.units[unit].burst = self.random.between(3.0, 30.0) as f32;
                let end = now + self.random.between(120.0, 1_200.0);
                self.bursting.push((end, unit as u32));
                self.changed.push(unit as u32);
                self.bursts += 1;
            }
        }
    }

    /// The parts that are awake.
    pub fn awake(&self) -> impl Iterator<Item = u32> {
        self.groups.iter().flat_map(|group| group.awake.iter().copied())
    }

    /// The processors that a part keeps busy now.
    pub fn busy(&mut self, unit: u32, now: f64) -> f64 {
        let unit = &self.units[unit as usize];
        let shift = REGIONS[self.groups[usize::from(unit.group)].region].1;
        let busy = f64::from(unit.busy) * height(now / 3_600.0, shift) * f64::from(unit.burst);
        (busy * self.random.between(0.8, 1.2)).min(BURST_PROCESSORS_MAX)
    }

    /// The data of all databases, awake or asleep, in MiB.
    pub fn data_mib(&self) -> f64 {
        self.units.iter().map(|unit| f64::from(unit.memory_mib)).sum()
    }

    fn turn(&mut self, unit: u32) {
        self.delist(unit);
        self.units[unit as usize].awake ^= true;
        self.enlist(unit);
        self.changed.push(unit);
    }

    fn list(&mut self, unit: u32) -> &mut Vec<u32> {
        let Unit { group, awake, .. } = self.units[unit as usize];
        let group = &mut self.groups[usize::from(group)];
        if awake { &mut group.awake } else { &mut group.asleep }
    }

    fn enlist(&mut self, unit: u32) {
        let list = self.list(unit);
        list.push(unit);
        self.units[unit as usize].position = list.len() as u32 - 1;
    }

    fn delist(&mut self, unit: u32) {
        let position = self.units[unit as usize].position;
        let list = self.list(unit);
        list.swap_remove(position as usize);
        if let Some(&moved) = list.get(position as usize) {
            self.units[moved as usize].position = position;
        }
    }
}

/// The busiest are always awake; of the others, the less busy ones less of the time.
fn class_share(class: usize) -> f64 {
    let middle = |class: usize| ALWAYS_AWAKE.powf(1.0 - (class as f64 - 0.5) / (CLASSES - 1) as f64);
    if class == 0 { 1.0 } else { (ALWAYS_AWAKE / middle(class)).powf(0.7) }
}

/// Classes of the rank's share of all ranks: the first is always awake, the others are equally wide in its logarithm.
fn class_of(share: f64) -> usize {
    let depth = 1.0 - share.ln() / ALWAYS_AWAKE.ln();
    if depth <= 0.0 { 0 } else { ((depth * (CLASSES - 1) as f64).ceil() as usize).clamp(1, CLASSES - 1) }
}

fn region_of(share: f64) -> usize {
    if share < REGIONS[0].0 {
        0
    } else if share < REGIONS[0].0 + REGIONS[1].0 {
        1
    } else {
        2
    }
}

/// The load at an hour as a share of its height, which is at 15:00 in the first region.
fn height(hour: f64, shift: f64) -> f64 {
    0.3 + 0.7 * (0.5 + 0.5 * ((hour - 15.0 - shift) / 24.0 * std::f64::consts::TAU).cos())
}
