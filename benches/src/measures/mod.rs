//! The measures, one file each: what it starts, what it does to it, and its tables.

mod cpu;

use clap::ValueEnum;

use crate::report::Table;
use crate::{Bench, Result};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// Server CPU per command, and throughput, by pipeline.
    Cpu,
}

impl Measure {
    pub fn chosen(named: &[Self]) -> Vec<Self> {
        if named.is_empty() { Self::value_variants().to_vec() } else { named.to_vec() }
    }

    pub fn name(self) -> &'static str {
        match self {
            Measure::Cpu => "cpu",
        }
    }

    pub fn run(self, bench: &Bench) -> Result<Vec<Table>> {
        match self {
            Measure::Cpu => cpu::measure(bench),
        }
    }
}
