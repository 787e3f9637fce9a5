//! The databases that have series of their own.
//!
//! A label costs the scraper memory for as long as it keeps data, so their number is limited. A database that has a label
//! keeps it while it is in memory: a counter that came and went would look like a restart. Free labels go to databases with
//! problems first, then to those with most requests.
//!
//! The others together have one series of each gauge, under a name that no database can have. They have no counters: the
//! sum over a changing set of databases is not one.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::DatabaseSnapshot;
use crate::metering::Meter;

/// The label of all databases that have none of their own.
pub const OTHERS: &str = "_other";

/// The databases that have labels.
#[derive(Debug)]
pub struct Labels {
    max: usize,
    held: BTreeSet<String>,
}

/// Databases divided by whether they have labels.
#[derive(Debug, Default)]
pub struct Labelled<'d> {
    pub own: Vec<&'d DatabaseSnapshot>,
    /// The sum of the others' gauges, and their number.
    pub others: Option<DatabaseSnapshot>,
    pub others_count: usize,
}

impl Labels {
    pub fn new(max: usize) -> Self {
        Self { max, held: BTreeSet::new() }
    }

    pub fn divide<'d>(&mut self, databases: &'d [DatabaseSnapshot]) -> Labelled<'d> {
        let present: BTreeSet<&str> = databases.iter().map(|database| database.name.as_str()).collect();
        self.held.retain(|name| present.contains(name.as_str()));
        let mut without: Vec<&DatabaseSnapshot> =
            databases.iter().filter(|database| !self.held.contains(&database.name)).collect();
        without.sort_by_key(|database| (database.is_healthy, Reverse(database.totals[Meter::Requests])));
        let free = self.max.saturating_sub(self.held.len());
        self.held.extend(without.into_iter().take(free).map(|database| database.name.clone()));
        let (own, others): (Vec<_>, Vec<_>) = databases.iter().partition(|database| self.held.contains(&database.name));
        let sum = (!others.is_empty()).then(|| sum(&others));
        Labelled { own, others_count: others.len(), others: sum }
    }
}

/// The sum of the gauges of several databases.
fn sum(databases: &[&DatabaseSnapshot]) -> DatabaseSnapshot {
    let mut sum = DatabaseSnapshot { name: OTHERS.to_owned(), is_healthy: true, ..DatabaseSnapshot::default() };
    for database in databases {
        sum.awake |= database.awake;
        sum.is_healthy &= database.is_healthy;
        for (sum, more) in [
            (&mut sum.connected_clients, database.connected_clients),
            (&mut sum.blocked_clients, database.blocked_clients),
            (&mut sum.shards, database.shards),
            (&mut sum.memory_bytes, database.memory_bytes),
            (&mut sum.memory_max_bytes, database.memory_max_bytes),
            (&mut sum.client_memory_bytes, database.client_memory_bytes),
            (&mut sum.store_bytes, database.store_bytes),
            (&mut sum.shared_bytes, database.shared_bytes),
            (&mut sum.dirty_bytes, database.dirty_bytes),
            (&mut sum.slow_commands_waiting, database.slow_commands_waiting),
        ] {
            *sum += more;
        }
        sum.conditions.iter_mut().zip(database.conditions).for_each(|(sum, more)| *sum += more);
        let oldest = sum.last_checkpoint_unix_ms.into_iter().chain(database.last_checkpoint_unix_ms).min();
        sum.last_checkpoint_unix_ms = oldest;
        for more in &database.logical {
            match sum.logical.iter_mut().find(|logical| logical.index == more.index) {
                Some(logical) => {
                    logical.keys += more.keys;
                    logical.keys_expiring += more.keys_expiring;
                }
                None => sum.logical.push(*more),
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::LogicalSnapshot;

    fn database(name: &str, requests: u128, is_healthy: bool) -> DatabaseSnapshot {
        let mut database = DatabaseSnapshot { name: name.to_owned(), is_healthy, ..DatabaseSnapshot::default() };
        database.totals[Meter::Requests] = requests;
        database.memory_bytes = 10;
        database.logical = vec![LogicalSnapshot { index: 2, keys: 3, ..LogicalSnapshot::default() }];
        database
    }

    fn names<'d>(labelled: &Labelled<'d>) -> Vec<&'d str> {
        labelled.own.iter().map(|database| database.name.as_str()).collect()
    }

    #[test]
    fn a_label_goes_to_the_busy_and_the_ill_and_is_kept() {
        let mut labels = Labels::new(2);
        let all =
            || vec![database("a", 1, true), database("b", 9, true), database("c", 5, true), database("d", 0, false)];
        let first = all();
        let divided = labels.divide(&first);
        assert_eq!((names(&divided), divided.others_count), (vec!["b", "d"], 2));
        let others = divided.others.unwrap();
        assert_eq!((others.name.as_str(), others.memory_bytes, others.keys()), (OTHERS, 20, 6));
        assert!(others.is_healthy);
        // Another is busier now, and gets one when one is free.
        let mut later = all();
        later[0].totals[Meter::Requests] = 100;
        assert_eq!(names(&labels.divide(&later)), ["b", "d"]);
        later.remove(1);
        assert_eq!(names(&labels.divide(&later)), ["a", "d"]);
    }

    #[test]
    fn without_many_databases_all_have_labels() {
        let two = [database("a", 1, true), database("b", 9, true)];
        let divided = Labels::new(2).divide(&two);
        assert_eq!((names(&divided), divided.others_count, divided.others.is_none()), (vec!["a", "b"], 0, true));
        let divided = Labels::new(0).divide(&two);
        assert_eq!((names(&divided).len(), divided.others_count), (0, 2));
    }
}
