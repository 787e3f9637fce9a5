//! The trace of a run: a hash over every step, and the last steps to find a cause.

use std::collections::VecDeque;

const STEPS_KEPT: usize = 120;

#[derive(Debug)]
pub struct Trace {
    hash: u64,
    steps: u64,
    last: VecDeque<String>,
    /// All steps go to standard error as they come.
    pub loud: bool,
}

impl Default for Trace {
    fn default() -> Self {
        // FNV-1a.
        Self { hash: 0xcbf2_9ce4_8422_2325, steps: 0, last: VecDeque::new(), loud: false }
    }
}

impl Trace {
    pub fn note(&mut self, step: String) {
        self.steps += 1;
        for byte in step.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let line = format!("{:>5} {step}", self.steps);
        if self.loud {
            eprintln!("{line}");
        }
        if self.last.len() == STEPS_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub fn last(&self) -> String {
        self.last.iter().map(|line| format!("{line}\n")).collect()
    }
}
