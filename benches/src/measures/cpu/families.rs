//! Commands of streams, bitmaps, HyperLogLogs, geo, scripts, publish and subscribe, of fields that expire, and of arrays.

use std::fmt::Write;

use super::workloads::{Audience, KnownTo, Workload, field};
use crate::Result;
use crate::client::{Client, command};
use crate::load::{Commands, value};
use crate::report::Target;
use crate::server::Kind;

/// Enough different commands that each key gets about as many as the others.
const COMMANDS: u64 = 200_000;
/// Large values: streams, bitmaps and HyperLogLogs.
const LARGE: u64 = 100;
/// Small hashes with fields that expire, and counters.
const SMALL: u64 = 10_000;
const FIELDS: u64 = 10;
/// Entries of a stream.
const ENTRIES: u64 = 1_000;
const RANGE: u64 = 50;
/// Pending entries of a stream whose group claims them.
const PENDING: u64 = 100;
/// Streams that a group reads.
const QUEUES: u64 = 1_000;
/// Fewer than all entries, because chance gives some streams more commands than others.
const QUEUED_READ_MAX: u64 = QUEUES * ENTRIES * 7 / 10;
const BITMAP_BYTES: u64 = 10 * 1024;
/// Elements of a HyperLogLog: more than a sparse one holds.
const COUNTED: u64 = 10_000;
const PLACES: u64 = 100_000;
const NEAREST: u64 = 10;
/// Elements of an array, from an index on that has as many digits as the last.
const ELEMENTS: u64 = 500_000;
const FIRST: u64 = 1_000_000;
const SUBSCRIBERS: usize = 100;
const CHANNEL: &str = "news";
const SCRIPT: &str = "return redis.call('incr', KEYS[1])";
const SCRIPT_SHA: &str = "2bab3b661081db58bd2341920e0ba7cf5dc77b25";
const READ_ALL: &str = "redis.call('xreadgroup', 'group', 'readers', 'one', 'streams', KEYS[1], '>') return 1";
const LIBRARY: &str = "#!lua name=counters\n\
    redis.register_function('count', function(keys, args) return redis.call('incr', keys[1]) end)";

pub(super) fn workloads() -> Vec<Workload> {
    let of_best = |label: &str, commands: Commands| Workload::new(label, commands, Target::OfBest(0.70));
    let newer = |label: &str, commands: Commands| Workload { known_to: KnownTo::Newer, ..of_best(label, commands) };
    let large = |name: &str, index: u64| format!("{name}:{:03}", index % LARGE);
    let xadd = Commands::of_strings(COMMANDS, |index, request| {
        command(request, &[b"XADD", large("log", index).as_bytes(), b"*", b"a", number(index).as_bytes(), b"b", b"7"]);
    });
    let entries: String = (0..RANGE).map(entry_reply).collect();
    let xrange = Commands::of_samples(COMMANDS, format!("*{RANGE}\r\n{entries}").as_bytes(), |index, request| {
        let start = entry_id(index / LARGE % (ENTRIES - RANGE));
        let end = entry_id(index / LARGE % (ENTRIES - RANGE) + RANGE - 1);
        command(request, &[b"XRANGE", large("stream", index).as_bytes(), start.as_bytes(), end.as_bytes()]);
    });
    let new_entry = format!("*1\r\n*2\r\n$10\r\n{}\r\n*1\r\n{}", queue(0), entry_reply(0));
    let xreadgroup = Commands::of_samples(COMMANDS, new_entry.as_bytes(), |index, request| {
        let key = queue(index % QUEUES);
        let arguments = ["XREADGROUP", "GROUP", "readers", "one", "COUNT", "1", "STREAMS", &key, ">"];
        command(request, &arguments.map(str::as_bytes));
    });
    let once = Commands::of_strings(COMMANDS, |index, request| {
        let (key, producer) = (large("once", index), format!("producer:{}", index / LARGE % 4));
        let (message, number) = (format!("message:{index:08}"), number(index));
        let arguments = ["XADD", &key, "IDMP", &producer, &message, "*", "a", &number, "b", "7"];
        command(request, &arguments.map(str::as_bytes));
    });
    // With the idle time and the number of deliveries.
    let claimed = format!("*1\r\n*2\r\n$9\r\nclaim:000\r\n*1\r\n{}:1\r\n:1\r\n", entry_reply(0));
    let claim = Commands::of_texts(COMMANDS, claimed.as_bytes(), |index, request| {
        let key = large("claim", index);
        let arguments = ["XREADGROUP", "GROUP", "readers", "two", "COUNT", "1", "CLAIM", "0", "STREAMS", &key, ">"];
        command(request, &arguments.map(str::as_bytes));
    });
    let setbit = Commands::of_lines(COMMANDS, ":", |index, request| {
        let offset = (10_000 + index * 7_919 % (BITMAP_BYTES * 8 - 10_000)).to_string();
        let bit = if index % 3 == 0 { "1" } else { "0" };
        command(request, &[b"SETBIT", large("bitmap", index).as_bytes(), offset.as_bytes(), bit.as_bytes()]);
    });
    let bitcount = Commands::of_lines(COMMANDS, ":", |index, request| {
        command(request, &[b"BITCOUNT", large("bitmap", index).as_bytes()]);
    });
    let pfadd = Commands::of_lines(COMMANDS, ":", |index, request| {
        command(request, &[b"PFADD", large("visitors", index).as_bytes(), visitor(index * 7_919).as_bytes()]);
    });
    let geosearch = Commands::of_arrays(COMMANDS, NEAREST as usize, place(0).len(), |index, request| {
        // Far enough from the borders of the area that there are places on all sides.
        let (longitude, latitude) = (11.0 + spread(index, 0) * 8.0, 41.0 + spread(index, 1) * 8.0);
        let (longitude, latitude) = (format!("{longitude:.6}"), format!("{latitude:.6}"));
        let arguments = ["FROMLONLAT", &longitude, &latitude, "BYRADIUS", "10", "km", "ASC", "COUNT", "10"];
        let arguments: Vec<&[u8]> =
            ["GEOSEARCH", "places"].iter().chain(&arguments).map(|one| one.as_bytes()).collect();
        command(request, &arguments);
    });
    let counted = |name: &'static str, what: &'static str| {
        Commands::of_lines(COMMANDS, ":", move |index, request| {
            command(request, &[name, what, "1", &format!("counter:{:06}", index % SMALL)].map(str::as_bytes));
        })
    };
    let mut text = [0; 64];
    value(0, &mut text);
    let publish = Commands::of_lines(COMMANDS, &format!(":{SUBSCRIBERS}\r\n"), |_, request| {
        command(request, &[b"PUBLISH", CHANNEL.as_bytes(), &text]);
    });
    let message = format!("*3\r\n$7\r\nmessage\r\n${}\r\n{CHANNEL}\r\n${}\r\n", CHANNEL.len(), text.len());
    let audience = Audience { channel: CHANNEL, count: SUBSCRIBERS, message_length: message.len() + text.len() + 2 };
    let timed = |index: u64| (format!("timed:{:06}", index % SMALL), field(index / SMALL % FIELDS));
    let hgetex = Commands::of_arrays(COMMANDS, 1, 16, |index, request| {
        let (key, field) = timed(index);
        command(request, &["HGETEX", &key, "EX", "100000", "FIELDS", "1", &field].map(str::as_bytes));
    });
    let hsetex = Commands::of_lines(COMMANDS, ":1", |index, request| {
        let (key, field) = timed(index);
        let mut text = [0; 16];
        value(index, &mut text);
        let arguments = ["HSETEX", &key, "EX", "100000", "FIELDS", "1", &field].map(str::as_bytes);
        command(request, &[&arguments[..], &[&text]].concat());
    });
    let of_redis = |label: &str, commands: Commands| Workload { known_to: KnownTo::Redis8, ..of_best(label, commands) };
    let arset = Commands::of_lines(COMMANDS, ":0", |index, request| {
        let at = FIRST + index * 7_919 % ELEMENTS;
        command(request, &["ARSET", "array", &at.to_string(), &element(index * 31)].map(str::as_bytes));
    });
    let argetrange = Commands::of_arrays(COMMANDS, RANGE as usize, element(0).len(), |index, request| {
        let at = FIRST + index * 7_919 % (ELEMENTS - RANGE);
        let end = (at + RANGE - 1).to_string();
        command(request, &["ARGETRANGE", "array", &at.to_string(), &end].map(str::as_bytes));
    });
    vec![
        of_best("XADD", xadd),
        of_best("XRANGE of 50 entries", xrange),
        Workload {
            before: Some(reset_groups),
            commands_max: QUEUED_READ_MAX,
            ..of_best("XREADGROUP COUNT 1", xreadgroup)
        },
        Workload { known_to: KnownTo::Redis8, ..of_best("XADD IDMP", once) },
        Workload { known_to: KnownTo::Redis8, ..of_best("XREADGROUP CLAIM, COUNT 1 of 100", claim) },
        of_best("SETBIT", setbit),
        of_best("BITCOUNT of 10 KB", bitcount),
        of_best("PFADD", pfadd),
        of_best("GEOSEARCH of 10 in 100,000", geosearch),
        of_best("EVAL of INCR", counted("EVAL", SCRIPT)),
        of_best("EVALSHA of INCR", counted("EVALSHA", SCRIPT_SHA)),
        of_best("FCALL of INCR", counted("FCALL", "count")),
        Workload { audience: Some(audience), ..of_best("PUBLISH to 100 subscribers", publish) },
        newer("HGETEX", hgetex),
        newer("HSETEX", hsetex),
        of_redis("ARSET", arset),
        of_redis("ARGETRANGE of 50", argetrange),
    ]
}

/// Fills a server with the data that the workloads need.
pub(super) fn prepare(kind: Kind, client: &mut Client) -> Result<()> {
    if kind == Kind::Limit {
        return Ok(());
    }
    let add = |key: String, at: u64, request: &mut Vec<u8>| {
        let arguments = ["XADD", &key, &entry_id(at), "a", &number(at), "b", "7"];
        command(request, &arguments.map(str::as_bytes));
    };
    client
        .fill(LARGE * ENTRIES, |index, request| add(format!("stream:{:03}", index % LARGE), index / LARGE, request))?;
    client.fill(QUEUES * ENTRIES, |index, request| add(queue(index % QUEUES), index / QUEUES, request))?;
    client
        .fill(LARGE * PENDING, |index, request| add(format!("claim:{:03}", index % LARGE), index / LARGE, request))?;
    client.fill(2 * LARGE, |index, request| {
        let key = format!("claim:{:03}", index / 2);
        match index % 2 {
            0 => command(request, &["XGROUP", "CREATE", &key, "readers", "0"].map(str::as_bytes)),
            _ => {
                // The reply has one line.
                command(request, &["EVAL", READ_ALL, "1", &key].map(str::as_bytes));
            }
        }
    })?;
    let mut bits = vec![0; BITMAP_BYTES as usize];
    client.fill(LARGE, |index, request| {
        value(index, &mut bits);
        command(request, &[b"SET", format!("bitmap:{index:03}").as_bytes(), &bits]);
    })?;
    client.fill(LARGE * COUNTED / 100, |index, request| {
        let (key, from) = (format!("visitors:{:03}", index % LARGE), index / LARGE * 100);
        let visitors: Vec<String> = (from..from + 100).map(visitor).collect();
        let arguments = ["PFADD", &key].into_iter().chain(visitors.iter().map(String::as_str));
        command(request, &arguments.map(str::as_bytes).collect::<Vec<_>>());
    })?;
    client.fill(PLACES, |index, request| {
        let (longitude, latitude) = (10.0 + spread(index, 0) * 10.0, 40.0 + spread(index, 1) * 10.0);
        let arguments = ["GEOADD", "places", &longitude.to_string(), &latitude.to_string(), &place(index)];
        command(request, &arguments.map(str::as_bytes));
    })?;
    if matches!(kind, Kind::Dormouse | Kind::Redis8) {
        client.fill(ELEMENTS, |index, request| {
            command(request, &["ARSET", "array", &(FIRST + index).to_string(), &element(index)].map(str::as_bytes));
        })?;
    }
    client.call(&["SCRIPT", "LOAD", SCRIPT])?;
    client.call(&["FUNCTION", "LOAD", LIBRARY])?;
    let mut text = [0; 16];
    client.fill(SMALL * FIELDS, |index, request| {
        value(index, &mut text);
        let key = format!("timed:{:06}", index % SMALL);
        command(request, &[b"HSET", key.as_bytes(), field(index / SMALL).as_bytes(), &text]);
    })
}

/// Makes all entries new again.
fn reset_groups(client: &mut Client) -> Result<()> {
    client.fill(QUEUES * 2, |index, request| match index % 2 {
        0 => command(request, &["XGROUP", "DESTROY", &queue(index / 2), "readers"].map(str::as_bytes)),
        _ => command(request, &["XGROUP", "CREATE", &queue(index / 2), "readers", "0"].map(str::as_bytes)),
    })
}

/// A number of six digits.
fn element(index: u64) -> String {
    (100_000 + index % 900_000).to_string()
}

fn queue(index: u64) -> String {
    format!("queue:{index:04}")
}

/// One entry each millisecond.
fn entry_id(at: u64) -> String {
    format!("{}-0", 1_700_000_000_000 + at)
}

/// Two digits.
fn number(at: u64) -> String {
    (10 + at % 90).to_string()
}

/// An entry as XRANGE returns it.
fn entry_reply(at: u64) -> String {
    let mut reply = "*2\r\n".to_owned();
    let id = entry_id(at);
    // Writing to a string cannot fail.
    let _ = write!(reply, "${}\r\n{id}\r\n*4\r\n$1\r\na\r\n$2\r\n{}\r\n$1\r\nb\r\n$1\r\n7\r\n", id.len(), number(at));
    reply
}

fn visitor(index: u64) -> String {
    format!("visitor:{:06}", index % (COUNTED * 2))
}

fn place(index: u64) -> String {
    format!("place:{index:06}")
}

/// Numbers below 1 that cover the area evenly: multiples of an irrational number for each of the two dimensions.
fn spread(index: u64, dimension: usize) -> f64 {
    const STEPS: [f64; 2] = [0.754_877_666_246_692_7, 0.569_840_290_998_053_2];
    (index as f64 * STEPS[dimension]).fract()
}
