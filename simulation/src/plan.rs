//! The plan: a seed's decisions before the first step. It has the number of databases, the kind of disk, and the
//! frequency of each action.

use dormouse_shard::keyspace::Eviction;
use dormouse_storage::log::Window;

use crate::chance::Chance;
use crate::disk::Rates;
use crate::script::Script;

/// The next action of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Ask,
    /// Lets the engine's tasks run for a while.
    Go,
    Flush,
    /// Lets the store answer a request.
    Answer,
    Checkpoint,
    Sleep,
    Split,
    Merge,
    LoadAll,
    Expire,
    Wait,
    Declare,
    Compare,
    /// Fills the disk, or makes room again.
    Fill,
    /// Runs a transaction that watches keys.
    Transact,
    /// Runs a slice of eviction without a command.
    Evict,
    /// Makes a branch.
    Branch,
    /// Makes a branch of a moment that has passed.
    Return,
    /// Deletes a branch.
    Delete,
    /// Delivers a request, once or several times at once, perhaps not for the first time.
    Deliver,
    /// A client waits in a blocking command.
    Block,
    /// Changes the users, or the library of functions.
    DeclareSettings,
    Crash,
    Restart,
}

/// The actions, each with its weights when it is frequent and when it is rare.
const ACTIONS: &[(Action, u64, u64)] = &[
    (Action::Ask, 300, 60),
    (Action::Go, 300, 60),
    (Action::Flush, 120, 20),
    (Action::Answer, 400, 80),
    (Action::Checkpoint, 40, 8),
    (Action::Sleep, 15, 3),
    (Action::Split, 15, 2),
    (Action::Merge, 12, 2),
    (Action::LoadAll, 6, 0),
    (Action::Expire, 30, 4),
    (Action::Wait, 40, 5),
    (Action::Declare, 8, 0),
    (Action::Compare, 6, 1),
    (Action::Crash, 10, 2),
    (Action::Restart, 4, 0),
];

/// Limit of the memory of a database's data, and the policy for dropping keys at it.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub bytes: usize,
    pub policy: Eviction,
}

#[derive(Debug)]
pub struct Plan {
    pub scripts: Vec<Script>,
    /// Seeds that decide where the databases' keys go.
    pub seeds: Vec<u64>,
    /// Whether the log is in files and a power cut may undo deletes. Otherwise everything is objects.
    pub is_folder: bool,
    pub rates: Rates,
    pub windows: Vec<Window>,
    /// Loss windows that may be declared later.
    pub choices: Vec<Window>,
    pub steps: u64,
    /// Whether values of a few hundred bytes count as large, and are written in small pieces.
    pub is_in_pieces: bool,
    /// The limit of each database.
    pub limits: Vec<Option<Limit>>,
    /// Whether the store is encrypted.
    pub is_encrypted: bool,
    /// For how long the databases keep their history; 0: not at all.
    pub history_ms: u64,
    weights: Vec<(Action, u64)>,
}

impl Plan {
    pub fn new(chance: &mut Chance) -> Self {
        let databases = 1 + chance.below(2);
        let all = [Window::Zero, Window::Zero, Window::Ms(100), Window::Ms(1000), Window::Ms(60_000), Window::None];
        let choices = match chance.below(3) {
            0 => vec![Window::Zero],
            1 => vec![Window::Zero, Window::Ms(60_000), Window::Ms(1000)],
            _ => all.to_vec(),
        };
        let weights = ACTIONS
            .iter()
            .map(|(action, often, rarely)| (*action, if chance.permille(700) { *often } else { *rarely }));
        let weights = weights.collect();
        Self {
            scripts: (0..databases).map(|_| Script::new(chance)).collect(),
            seeds: (0..databases).map(|_| chance.draw()).collect(),
            is_folder: chance.permille(650),
            rates: Rates {
                store: chance.pick(&[0, 0, 20, 150]),
                log: chance.pick(&[0, 0, 30, 200]),
                crash: chance.pick(&[0, 2, 8]),
            },
            windows: (0..databases).map(|_| chance.pick(&choices)).collect(),
            choices,
            steps: 60 + chance.below(chance.clone().pick(&[100, 400, 900])),
            weights,
            is_in_pieces: chance.permille(600),
            limits: vec![None; databases as usize],
            is_encrypted: chance.clone().permille(350),
            history_ms: 0,
        }
    }

    pub fn next(&self, chance: &mut Chance) -> Action {
        let all: u64 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut left = chance.below(all);
        for (action, weight) in &self.weights {
            if left < *weight {
                return *action;
            }
            left -= weight;
        }
        Action::Go
    }
}
