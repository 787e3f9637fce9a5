//! What a seed decides before the first step: how many databases, on what disk, what happens how often.

use dormouse_shard::keyspace::Eviction;
use dormouse_storage::log::Window;

use crate::chance::Chance;
use crate::disk::Rates;
use crate::script::Script;

/// What the schedule does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Ask,
    /// The engine's tasks go on for a while.
    Go,
    Flush,
    /// The store answers.
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
    /// The disk is full from now on, or no longer.
    Fill,
    /// A transaction that watches keys.
    Transact,
    /// A slice of eviction without a command.
    Evict,
    Crash,
    Restart,
}

/// The actions with their weights where they happen often, and rarely.
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

/// How much memory the data of a database may take, and what is dropped at the limit.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub bytes: usize,
    pub policy: Eviction,
}

#[derive(Debug)]
pub struct Plan {
    pub scripts: Vec<Script>,
    /// Where the databases' keys lie.
    pub seeds: Vec<u64>,
    /// The log in files, and deletes that a power cut may undo; else all of it is objects.
    pub is_folder: bool,
    pub rates: Rates,
    pub windows: Vec<Window>,
    /// Windows that may be declared later.
    pub choices: Vec<Window>,
    pub steps: u64,
    /// Whether values of a few hundred bytes count as large, and are written in small pieces.
    pub is_in_pieces: bool,
    /// Of each database.
    pub limits: Vec<Option<Limit>>,
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
