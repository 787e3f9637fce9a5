//! The counters and their sums.

use std::ops::{AddAssign, Index, IndexMut};

/// A counter that users can be billed by, or that explains a bill. The order is that of the saved form: new ones are
/// added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meter {
    Requests,
    /// One for each KiB of payload that a request moves, in and out together, and at least one.
    RequestUnits,
    BytesIn,
    BytesOut,
    CpuMicroseconds,
    /// Memory integrated over time: a GiB for an hour is 2^30 * 3.6 million.
    MemoryByteMilliseconds,
    StoreByteMilliseconds,
    KeyspaceHits,
    KeyspaceMisses,
    ExpiredKeys,
    EvictedKeys,
    Sleeps,
    Wakes,
    Checkpoints,
    CheckpointErrors,
    Splits,
    Merges,
    /// The part of [`Meter::Requests`] that is not billed; the next three likewise. See [`crate::table::Billing`].
    UnbilledRequests,
    UnbilledRequestUnits,
    UnbilledBytesIn,
    UnbilledBytesOut,
    /// Events that triggers have delivered.
    TriggerEvents,
}

pub const METERS: usize = 22;

impl Meter {
    pub const ALL: [Meter; METERS] = [
        Meter::Requests,
        Meter::RequestUnits,
        Meter::BytesIn,
        Meter::BytesOut,
        Meter::CpuMicroseconds,
        Meter::MemoryByteMilliseconds,
        Meter::StoreByteMilliseconds,
        Meter::KeyspaceHits,
        Meter::KeyspaceMisses,
        Meter::ExpiredKeys,
        Meter::EvictedKeys,
        Meter::Sleeps,
        Meter::Wakes,
        Meter::Checkpoints,
        Meter::CheckpointErrors,
        Meter::Splits,
        Meter::Merges,
        Meter::UnbilledRequests,
        Meter::UnbilledRequestUnits,
        Meter::UnbilledBytesIn,
        Meter::UnbilledBytesOut,
        Meter::TriggerEvents,
    ];

    /// Its name in usage reports, `DORMOUSE USAGE` and event ids. It never changes: bills depend on it.
    pub fn name(self) -> &'static str {
        match self {
            Meter::Requests => "requests",
            Meter::RequestUnits => "request_units",
            Meter::BytesIn => "bytes_in",
            Meter::BytesOut => "bytes_out",
            Meter::CpuMicroseconds => "cpu_microseconds",
            Meter::MemoryByteMilliseconds => "memory_byte_milliseconds",
            Meter::StoreByteMilliseconds => "store_byte_milliseconds",
            Meter::KeyspaceHits => "keyspace_hits",
            Meter::KeyspaceMisses => "keyspace_misses",
            Meter::ExpiredKeys => "expired_keys",
            Meter::EvictedKeys => "evicted_keys",
            Meter::Sleeps => "sleeps",
            Meter::Wakes => "wakes",
            Meter::Checkpoints => "checkpoints",
            Meter::CheckpointErrors => "checkpoint_errors",
            Meter::Splits => "splits",
            Meter::Merges => "merges",
            Meter::UnbilledRequests => "unbilled_requests",
            Meter::UnbilledRequestUnits => "unbilled_request_units",
            Meter::UnbilledBytesIn => "unbilled_bytes_in",
            Meter::UnbilledBytesOut => "unbilled_bytes_out",
            Meter::TriggerEvents => "trigger_events",
        }
    }
}

/// Usage of one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandTotals {
    /// Runs, including failed ones.
    pub calls: u64,
    pub nanoseconds: u64,
    /// Refused before they ran: wrong arity, no permission, out of memory. Not in `calls`, and not billed.
    pub rejected: u64,
    /// Ran, and replied with an error.
    pub failed: u64,
    /// Requests that are not billed, whether they ran or not.
    pub unbilled: u64,
}

impl CommandTotals {
    pub fn microseconds(&self) -> u64 {
        self.nanoseconds / 1000
    }
}

impl AddAssign for CommandTotals {
    fn add_assign(&mut self, other: Self) {
        self.calls = self.calls.wrapping_add(other.calls);
        self.nanoseconds = self.nanoseconds.wrapping_add(other.nanoseconds);
        self.rejected = self.rejected.wrapping_add(other.rejected);
        self.failed = self.failed.wrapping_add(other.failed);
        self.unbilled = self.unbilled.wrapping_add(other.unbilled);
    }
}

/// The sums of a database's meters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub(super) meters: [u128; METERS],
    /// By index into the command table. Shorter than the table if its last commands were never called.
    pub(super) commands: Vec<CommandTotals>,
}

impl Index<Meter> for Totals {
    type Output = u128;

    fn index(&self, meter: Meter) -> &u128 {
        &self.meters[meter as usize]
    }
}

impl IndexMut<Meter> for Totals {
    fn index_mut(&mut self, meter: Meter) -> &mut u128 {
        &mut self.meters[meter as usize]
    }
}

impl Totals {
    pub fn meters(&self) -> impl Iterator<Item = (Meter, u128)> + '_ {
        Meter::ALL.into_iter().zip(self.meters)
    }

    /// The commands that were called or rejected, by index into the command table.
    pub fn commands(&self) -> impl Iterator<Item = (usize, CommandTotals)> + '_ {
        self.commands.iter().copied().enumerate().filter(|(_, command)| *command != CommandTotals::default())
    }

    pub fn command(&self, index: usize) -> CommandTotals {
        self.commands.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn add_command(&mut self, index: usize, more: CommandTotals) {
        if more == CommandTotals::default() {
            return;
        }
        if self.commands.len() <= index {
            self.commands.resize(index + 1, CommandTotals::default());
        }
        self.commands[index] += more;
    }

    /// Adds the sums of another database or process.
    pub fn add(&mut self, other: &Totals) {
        for (sum, more) in self.meters.iter_mut().zip(other.meters) {
            *sum = sum.saturating_add(more);
        }
        for (index, command) in other.commands() {
            self.add_command(index, command);
        }
    }

    /// Returns the counts since `earlier`.
    pub fn since(&self, earlier: &Totals) -> Totals {
        let mut difference = self.clone();
        for (sum, less) in difference.meters.iter_mut().zip(earlier.meters) {
            *sum = sum.saturating_sub(less);
        }
        for (command, less) in difference.commands.iter_mut().zip(&earlier.commands) {
            command.calls = command.calls.saturating_sub(less.calls);
            command.nanoseconds = command.nanoseconds.saturating_sub(less.nanoseconds);
            command.rejected = command.rejected.saturating_sub(less.rejected);
            command.failed = command.failed.saturating_sub(less.failed);
            command.unbilled = command.unbilled.saturating_sub(less.unbilled);
        }
        difference
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_meter_stands_at_its_place_under_its_own_name() {
        let mut names: Vec<&str> = Meter::ALL.iter().map(|meter| meter.name()).collect();
        for (index, meter) in Meter::ALL.into_iter().enumerate() {
            assert_eq!(meter as usize, index);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METERS);
    }

    #[test]
    fn a_sum_less_a_part_is_the_rest() {
        let part = |requests, index| {
            let mut totals = Totals::default();
            totals[Meter::Requests] = requests;
            totals.add_command(index, CommandTotals { calls: 1, nanoseconds: 2, rejected: 3, failed: 4, unbilled: 5 });
            totals
        };
        let (first, second) = (part(5, 2), part(7, 9));
        let mut sum = first.clone();
        sum.add(&second);
        assert_eq!(sum[Meter::Requests], 12);
        assert_eq!(sum.commands().map(|(index, _)| index).collect::<Vec<_>>(), [2, 9]);
        assert_eq!(sum.since(&first).commands().collect::<Vec<_>>(), second.commands().collect::<Vec<_>>());
        assert_eq!(sum.since(&second)[Meter::Requests], 5);
    }
}
