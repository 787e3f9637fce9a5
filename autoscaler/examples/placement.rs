//! A day of a large fleet under the policy of placement: `cargo xtask placement`.
//!
//! Options are pairs of a name and a number: `--nodes 500 --databases 1000000 --zones 3 --hours 24 --seed 1`, and the
//! assumptions about prices.

#[path = "../tests/day/mod.rs"]
mod day;

use day::{Day, Options, Prices};

fn main() -> Result<(), String> {
    let (mut options, mut prices) = (Options::default(), Prices::default());
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a number"))?;
        let value: f64 = value.parse().map_err(|_| format!("invalid number `{value}` for {name}"))?;
        match name.as_str() {
            "--nodes" => options.nodes = value as usize,
            "--databases" => options.databases = value as usize,
            "--zones" => options.zones = value as u16,
            "--hours" => options.hours = value,
            "--step-seconds" => options.step_seconds = value as u64,
            "--node-memory-gib" => options.memory_gib = value,
            "--node-processors" => options.processors = value,
            "--node-days" => options.node_days = value,
            "--seed" => options.seed = value as u64,
            "--price-vcpu-hour" => prices.vcpu_hour = value,
            "--price-gib-hour" => prices.gib_hour = value,
            "--price-store-gib-month" => prices.store_gib_month = value,
            "--redis-process-mib" => prices.redis_process_mib = value,
            "--redis-idle-vcpu" => prices.redis_idle_vcpu = value,
            _ => return Err(format!("unknown option {name}")),
        }
    }
    if options.nodes < 3 || options.zones < 2 || options.step_seconds < 1 {
        return Err("a day needs 3 nodes, 2 zones, of which one fails, and steps of a second".into());
    }
    let mut day = Day::new(options);
    let Options { nodes, zones, databases, memory_gib, processors, step_seconds, seed, .. } = day.options;
    println!(
        "{databases} databases in {} parts ({} databases are divided) on at most {nodes} nodes of {processors} vCPUs and {memory_gib} GiB in {zones} zones, \
         a step every {step_seconds} s, seed {seed}",
        day.parts(),
        day.divided()
    );
    println!(
        "Load: Zipf's law, three regions by the time of day, bursts of 3 to 30 times, scheduled wakes each hour; a node \
         lives {} days, zone {} fails from {} to {} h, one move in 50 fails\n",
        day.options.node_days,
        zones - 1,
        day.options.zone_failure[0],
        day.options.zone_failure[1]
    );
    for hour in 0..=day.options.hours as u64 {
        day.run(hour as f64);
        eprint!("\rsimulated until hour {hour}");
    }
    eprintln!();
    print!("{}", day.tally);
    println!("the longest time without an owner, until the end at most: {:.1} s\n", day.unplaced_seconds_max());
    print!("{}", day.tally.cost(&day.options, &prices, day.data_mib()));
    Ok(())
}
