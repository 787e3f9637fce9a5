//! What a schedule has beyond the plainest one. Each feature has chances of its own, so that a seed's plain schedule stays what
//! it was when others are added.

use crate::chance::Chance;
use crate::plan::Action;
use crate::script::{Asked, Script};

/// Times in a thousand steps that the disk becomes full or has room again, or that shards and so places are cut or merged, which
/// decides what is stored as one.
const FILLS: u64 = 45;
/// Batches in a thousand with a command that makes a value large.
const GROWTHS: u64 = 150;

/// Turns in a thousand at which a batch comes while a process ends.
const EAGERNESS: u64 = 250;

/// Which features a schedule has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// The disk is full for a while, but for tails and manifests, which the reserve has room for.
    pub full_disk: bool,
    /// Values of so many bytes that they are stored in pieces as on any server.
    pub large_values: bool,
    /// Clients go on writing while the process is told to end, so that the last checkpoint is made under their noses.
    pub eager_clients: bool,
}

impl Features {
    /// Those of a seed.
    pub fn of(seed: u64) -> Self {
        let has = |feature: u64| Chance::new(seed ^ feature << 56).permille(300);
        Self { full_disk: has(1), large_values: has(2), eager_clients: has(3) }
    }
}

/// The features of a run and what decides what they do.
pub struct Extras {
    pub features: Features,
    chance: Chance,
}

impl Extras {
    pub fn new(seed: u64, features: Features) -> Self {
        Self { features, chance: Chance::new(!seed) }
    }

    /// What happens before the next step, if anything.
    pub fn action(&mut self) -> Option<Action> {
        let Features { full_disk, .. } = self.features;
        let fills = full_disk && self.chance.permille(FILLS);
        fills.then(|| self.chance.pick(&[Action::Fill, Action::Split, Action::Merge]))
    }

    /// Whether another batch comes while the process is told to end.
    pub fn asks_to_the_end(&mut self) -> bool {
        self.features.eager_clients && self.chance.permille(EAGERNESS)
    }

    /// Adds to what a client asks for.
    pub fn add_to(&mut self, asked: &mut Vec<Asked>, script: &Script) {
        if self.features.large_values && self.chance.permille(GROWTHS) {
            asked.push(script.growth(&mut self.chance));
        }
    }
}
