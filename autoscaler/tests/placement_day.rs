//! A simulated day of a small fleet. `cargo xtask placement` runs one of 500 nodes and a million databases.

mod day;

use day::{Day, Options, Prices};

#[test]
fn a_day_of_fifty_nodes_and_twenty_thousand_databases() {
    let options = Options { nodes: 50, databases: 20_000, step_seconds: 60, start_hour: -1.0, ..Options::default() };
    let mut day = Day::new(options);
    day.run(24.0);
    let tally = &day.tally;
    println!("{tally}\n{}", tally.cost(&day.options, &Prices::default(), day.data_mib()));

    // The fleet follows the load, which is three times as high by day.
    assert!(tally.nodes_min * 10 <= tally.nodes_max * 7, "{} to {} nodes", tally.nodes_min, tally.nodes_max);
    assert!(tally.nodes_max <= day.options.nodes, "{} nodes", tally.nodes_max);
    assert!(day.parts() > day.options.databases, "no database is divided");
    assert!(tally.dead > 10, "only {} nodes died", tally.dead);
    // A part without an owner waits for the lease to end and for the next step, and for nothing else.
    let longest = day.unplaced_seconds_max();
    assert!(!tally.unplaced_seconds.is_empty() && longest <= 10.0 + 60.0 + 1.0, "{longest} s without an owner");
    // The bounds of a minute hold, and the parts of a database are in different zones, but for a while after a failure.
    let bounds = [day.policy.moves_per_minute_max, day.policy.reassignments_per_minute_max];
    assert!(tally.minute_max.iter().zip(bounds).all(|(most, bound)| *most <= bound), "{:?}", tally.minute_max);
    assert!(day.divided() > 10 && tally.crowded() <= 0.02 * day.divided() as f64, "{} crowded", tally.crowded());
    // Few parts move, few nodes are over a limit, and those that are not are alike.
    let hours = tally.awake_seconds / 3_600.0;
    let moves = tally.bounded_moves() as f64;
    assert!(moves > 0.0 && moves * 8.0 <= hours, "{moves} moves in {hours} hours of awake parts");
    assert!(tally.over_share() <= 0.01, "nodes are over a limit for {} of their time", tally.over_share());
    assert!(tally.deviation() <= 0.1, "the fullness of nodes deviates by {}", tally.deviation());
}
