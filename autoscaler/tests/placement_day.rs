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
    let longest = tally.unplaced_seconds.iter().copied().fold(0.0, f64::max);
    assert!(!tally.unplaced_seconds.is_empty() && longest <= 10.0 + 60.0 + 1.0, "{longest} s without an owner");
    // Few parts move, few nodes are over a limit, and those that are not are alike.
    let hours = tally.awake_seconds / 3_600.0;
    let moves = tally.bounded_moves() as f64;
    assert!(moves > 0.0 && moves * 8.0 <= hours, "{moves} moves in {hours} hours of awake parts");
    assert!(tally.over_share() <= 0.01, "nodes are over a limit for {} of their time", tally.over_share());
    assert!(tally.deviation() <= 0.1, "the fullness of nodes deviates by {}", tally.deviation());
}
