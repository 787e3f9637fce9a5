//! `HOTKEYS`: the keys of the database that take most time or traffic, see [`hotkeys`](crate::hotkeys).

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args::{Args, integer};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result};

use crate::commands::{help, now};
use crate::hotkeys::{COUNT_MAX, HotKeysRequest, Measurement, TopKeys};
use crate::metering::Meter;
use crate::session::Session;
use crate::table::SessionRun;

const ADMIN: Flags = Flags::ADMIN.union(Flags::NO_SCRIPT);
const SPECIAL: &[&str] = &["request_policy:special"];
const DURATION_S_MAX: i64 = 1_000_000;
const SLOTS: i64 = 16384;

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[Command::container(
        "HOTKEYS",
        &[
            Command::new("GET", exactly(2), &[], ADMIN, now!(get, 2))
                .doc(
                    "8.6.0",
                    "O(K) where K is the number of hot keys returned.",
                    "Returns the hot keys that were found.",
                )
                .tips(&["nondeterministic_output", "request_policy:special", "response_policy:special"]),
            Command::new("HELP", exactly(2), &[], Flags::LOADING.union(Flags::STALE), now!(show_help, 2)).doc(
                "8.6.1",
                "O(1)",
                "Returns helpful text about the different subcommands.",
            ),
            Command::new("RESET", exactly(2), &[], ADMIN, now!(reset, 2))
                .doc("8.6.0", "O(1)", "Forgets the hot keys that were found.")
                .tips(SPECIAL),
            Command::new("START", at_least(2), &[], ADMIN, SessionRun::Now(start))
                .doc("8.6.0", "O(1)", "Begins to look for hot keys.")
                .tips(SPECIAL),
            Command::new("STOP", exactly(2), &[], ADMIN, now!(stop, 2))
                .doc("8.6.0", "O(1)", "Ends the look for hot keys.")
                .tips(SPECIAL),
        ],
    )
    .doc("8.6.0", "Depends on subcommand.", "A container for hot key commands.")],
};

/// `HOTKEYS START METRICS count [CPU] [NET] [COUNT k] [DURATION seconds] [SAMPLE ratio] [SLOTS count slot [slot ...]]`
fn start(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    const RUNNING: Error = Error::text("ERR hotkey tracking session already in progress");
    let (_, now_ms) = session.worker.now();
    let hot = &session.tenant.hotkeys;
    if hot.at(now_ms).as_ref().is_some_and(|running| running.ended_ms.is_none()) {
        return Err(RUNNING);
    }
    let asked = read(&mut Args::new(request, 2), session.node.facts.cluster.is_shown())?;
    if !hot.begin(asked, now_ms, cpu_us(session, now_ms)) {
        return Err(RUNNING);
    }
    reply.ok();
    Ok(())
}

fn read(args: &mut Args<'_>, is_cluster: bool) -> Result<HotKeysRequest> {
    if !args.word("METRICS") || args.is_empty() {
        return Err(Error::text("ERR METRICS parameter is required"));
    }
    let metrics = within(args.bytes()?, 1, 2).ok_or(Error::text("ERR METRICS count must be > 0 and <= 2"))?;
    let mut asked = HotKeysRequest { count: 10, sample: 1, ..HotKeysRequest::default() };
    for _ in 0..metrics {
        let times = args.word("CPU");
        let bytes = !times && args.word("NET");
        if times && std::mem::replace(&mut asked.times, true) {
            return Err(Error::text("ERR METRICS CPU defined more than once!"));
        }
        if bytes && std::mem::replace(&mut asked.bytes, true) {
            return Err(Error::text("ERR METRICS NET defined more than once!"));
        }
        if !times && !bytes {
            // As in Redis, a word that is not known counts as a metric all the same.
            args.bytes()
                .map_err(|_| Error::text("ERR METRICS count does not match number of metric types provided"))?;
        }
    }
    if !asked.times && !asked.bytes {
        return Err(Error::text("ERR METRICS no valid metrics passed. Supported: CPU|NET"));
    }
    while !args.is_empty() {
        if args.len() > 1 && args.word("COUNT") {
            let count = within(args.bytes()?, 1, COUNT_MAX as i64);
            asked.count = count.ok_or(Error::text("ERR COUNT must be between 1 and 64"))? as usize;
        } else if args.len() > 1 && args.word("DURATION") {
            let seconds = within(args.bytes()?, 1, DURATION_S_MAX);
            let seconds = seconds.ok_or(Error::text("ERR DURATION must be between 1 and 1000000"))?;
            asked.duration_ms = Some(seconds as u64 * 1000);
        } else if args.len() > 1 && args.word("SAMPLE") {
            let ratio = within(args.bytes()?, 1, i32::MAX.into());
            asked.sample = ratio.ok_or(Error::text("ERR SAMPLE ratio must be positive"))? as u64;
        } else if args.len() > 1 && args.word("SLOTS") {
            if !is_cluster {
                return Err(Error::text("ERR SLOTS parameter cannot be used in non-cluster mode"));
            }
            if !asked.slots.is_empty() {
                return Err(Error::text("ERR SLOTS parameter already specified"));
            }
            asked.slots = slots(args)?;
        } else {
            return Err(Error::Syntax);
        }
    }
    Ok(asked)
}

/// `count slot [slot ...]`, in ascending order.
fn slots(args: &mut Args<'_>) -> Result<Vec<u16>> {
    let count = within(args.bytes()?, 1, SLOTS);
    let count = count.ok_or(Error::text("ERR SLOTS count must be between 1 and 16384"))? as usize;
    if count > args.len() {
        return Err(Error::text("ERR not enough slot numbers provided"));
    }
    let mut slots = Vec::with_capacity(count);
    for _ in 0..count {
        let slot = within(args.bytes()?, 0, SLOTS - 1);
        slots.push(slot.ok_or(Error::text("ERR Invalid or out of range slot"))? as u16);
    }
    slots.sort_unstable();
    if slots.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::text("ERR duplicate slot number"));
    }
    Ok(slots)
}

fn within(word: &[u8], min: i64, max: i64) -> Option<i64> {
    integer(word).ok().filter(|number| (min..=max).contains(number))
}

/// The processor time of the database's commands so far.
fn cpu_us(session: &Session, now_ms: u64) -> u128 {
    session.tenant.meters.totals(now_ms)[Meter::CpuMicroseconds]
}

/// `HOTKEYS STOP`
fn stop(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let (_, now_ms) = session.worker.now();
    if session.tenant.hotkeys.end(now_ms) {
        reply.ok()
    } else {
        reply.null()
    }
    Ok(())
}

/// `HOTKEYS RESET`
fn reset(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let (_, now_ms) = session.worker.now();
    if !session.tenant.hotkeys.forget(now_ms) {
        return Err(Error::text("ERR hotkey tracking session in progress, stop tracking first"));
    }
    reply.ok();
    Ok(())
}

/// `HOTKEYS GET`
fn get(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let (_, now_ms) = session.worker.now();
    let cpu_us = cpu_us(session, now_ms);
    match &*session.tenant.hotkeys.at(now_ms) {
        None => reply.null(),
        Some(measurement) => {
            reply.array(1);
            write(reply, measurement, now_ms, cpu_us);
        }
    }
    Ok(())
}

fn write(reply: &mut Reply, measurement: &Measurement, now_ms: u64, cpu_us: u128) {
    let Measurement { asked, all, selected, sampled, .. } = measurement;
    let (has_slots, is_sampled) = (!asked.slots.is_empty(), asked.sample > 1);
    let mut pairs: Vec<(&str, u64)> = Vec::new();
    let us = |nanoseconds: u64| nanoseconds / 1000;
    if has_slots && is_sampled {
        pairs.push(("sampled-commands-selected-slots-us", us(sampled.nanoseconds)));
    }
    if has_slots {
        pairs.push(("all-commands-selected-slots-us", us(selected.nanoseconds)));
    }
    pairs.push(("all-commands-all-slots-us", us(all.nanoseconds)));
    if has_slots && is_sampled {
        pairs.push(("net-bytes-sampled-commands-selected-slots", sampled.bytes));
    }
    if has_slots {
        pairs.push(("net-bytes-all-commands-selected-slots", selected.bytes));
    }
    pairs.push(("net-bytes-all-commands-all-slots", all.bytes));
    pairs.push(("collection-start-time-unix-ms", measurement.began_ms));
    let ended_ms = measurement.ended_ms.unwrap_or(now_ms);
    pairs.push(("collection-duration-ms", ended_ms.saturating_sub(measurement.began_ms)));
    if asked.times {
        // That of the database; how much of it was the system's is not known.
        let cpu_ms = cpu_us.saturating_sub(measurement.cpu_us_before) / 1000;
        pairs.push(("total-cpu-time-user-ms", u64::try_from(cpu_ms).unwrap_or(u64::MAX)));
        pairs.push(("total-cpu-time-sys-ms", 0));
    }
    if asked.bytes {
        pairs.push(("total-net-bytes", measurement.by_bytes.total));
    }
    reply.map(3 + pairs.len() + usize::from(asked.times) + usize::from(asked.bytes));
    reply.bulk(b"tracking-active");
    reply.integer(i64::from(measurement.ended_ms.is_none()));
    reply.bulk(b"sample-ratio");
    reply.integer(asked.sample as i64);
    reply.bulk(b"selected-slots");
    write_ranges(reply, &asked.slots);
    for (name, value) in pairs {
        reply.bulk(name.as_bytes());
        reply.integer(value as i64);
    }
    let mut list = |name: &str, keys: &TopKeys, unit: u64| {
        reply.bulk(name.as_bytes());
        let most = keys.most(asked.count);
        reply.array(2 * most.len());
        for (key, amount) in most {
            reply.bulk(key);
            reply.integer((amount / unit) as i64);
        }
    };
    if asked.times {
        list("by-cpu-time-us", &measurement.by_time, 1000);
    }
    if asked.bytes {
        list("by-net-bytes", &measurement.by_bytes, 1);
    }
}

/// Writes slots as ranges: one or two numbers each. None: all.
fn write_ranges(reply: &mut Reply, slots: &[u16]) {
    let whole = [(0, (SLOTS - 1) as u16)];
    let mut ranges: Vec<(u16, u16)> = if slots.is_empty() { whole.to_vec() } else { Vec::new() };
    for slot in slots {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *slot => *last = *slot,
            _ => ranges.push((*slot, *slot)),
        }
    }
    reply.array(ranges.len());
    for (first, last) in ranges {
        reply.array(if first == last { 1 } else { 2 });
        reply.integer(first.into());
        if first != last {
            reply.integer(last.into());
        }
    }
}

/// `HOTKEYS HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "HOTKEYS",
        &[
            "START METRICS <count> [CPU] [NET] [COUNT <k>] [DURATION <seconds>] [SAMPLE <ratio>] [SLOTS <count> <slot> ...]",
            "    Start tracking the busiest keys of this database. Options are:",
            "    * METRICS <count> [CPU] [NET]",
            "      Rank keys by CPU time, by bytes of requests and replies, or by both.",
            "    * COUNT <k>",
            "      The number of keys to return (default: 10).",
            "    * DURATION <seconds>",
            "      Stop after this many seconds (default: only on STOP).",
            "    * SAMPLE <ratio>",
            "      Track one command out of this many (default: 1, every command).",
            "    * SLOTS <count> <slot> ...",
            "      Track these slots, in cluster mode only (default: all).",
            "STOP",
            "    Stop tracking. GET still returns the results.",
            "GET",
            "    Return the results.",
            "RESET",
            "    Drop the results. Tracking must have been stopped.",
        ],
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::{OwnedRequest, Version};

    use super::*;

    #[test]
    fn options_are_read_as_in_redis() {
        let asked = |line: &str, is_cluster: bool| {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let request = OwnedRequest::from_args(&words);
            read(&mut Args::new(request.as_request(), 0), is_cluster).map_err(|error| error.to_string())
        };
        let base = HotKeysRequest { count: 10, sample: 1, ..HotKeysRequest::default() };
        for (line, expected) in [
            ("METRICS 1 cpu", HotKeysRequest { times: true, ..base.clone() }),
            (
                "METRICS 2 NET CPU COUNT 3 COUNT 2",
                HotKeysRequest { times: true, bytes: true, count: 2, ..base.clone() },
            ),
            ("METRICS 2 CPU FOO", HotKeysRequest { times: true, ..base.clone() }),
            (
                "METRICS 1 NET DURATION 7 SAMPLE 100 SLOTS 3 9 1 2",
                HotKeysRequest { bytes: true, duration_ms: Some(7000), sample: 100, slots: vec![1, 2, 9], ..base },
            ),
        ] {
            assert_eq!(asked(line, true), Ok(expected), "{line}");
        }
        for (line, error) in [
            ("COUNT 5", "ERR METRICS parameter is required"),
            ("METRICS", "ERR METRICS parameter is required"),
            ("METRICS 0", "ERR METRICS count must be > 0 and <= 2"),
            ("METRICS x CPU", "ERR METRICS count must be > 0 and <= 2"),
            ("METRICS 2 CPU", "ERR METRICS count does not match number of metric types provided"),
            ("METRICS 2 CPU CPU", "ERR METRICS CPU defined more than once!"),
            ("METRICS 1 FOO", "ERR METRICS no valid metrics passed. Supported: CPU|NET"),
            ("METRICS 1 CPU NET", "ERR syntax error"),
            ("METRICS 1 CPU COUNT", "ERR syntax error"),
            ("METRICS 1 CPU COUNT 65", "ERR COUNT must be between 1 and 64"),
            ("METRICS 1 CPU DURATION 0", "ERR DURATION must be between 1 and 1000000"),
            ("METRICS 1 CPU SAMPLE 0", "ERR SAMPLE ratio must be positive"),
            ("METRICS 1 CPU SLOTS 1 5", "ERR SLOTS parameter cannot be used in non-cluster mode"),
        ] {
            assert_eq!(asked(line, false), Err(error.to_string()), "{line}");
        }
        for (line, error) in [
            ("METRICS 1 CPU SLOTS 0 5", "ERR SLOTS count must be between 1 and 16384"),
            ("METRICS 1 CPU SLOTS 2 5", "ERR not enough slot numbers provided"),
            ("METRICS 1 CPU SLOTS 2 5 5", "ERR duplicate slot number"),
            ("METRICS 1 CPU SLOTS 1 16384", "ERR Invalid or out of range slot"),
            ("METRICS 1 CPU SLOTS 1 5 SLOTS 1 6", "ERR SLOTS parameter already specified"),
        ] {
            assert_eq!(asked(line, true), Err(error.to_string()), "{line}");
        }
    }

    #[test]
    fn neighbouring_slots_are_one_range() {
        let mut reply = Reply::new(Version::Resp2);
        write_ranges(&mut reply, &[1, 2, 3, 9]);
        assert_eq!(reply.buffer, b"*2\r\n*2\r\n:1\r\n:3\r\n*1\r\n:9\r\n");
    }
}
