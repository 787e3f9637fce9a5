//! Values as bytes, for moving a key to another server.

use dormouse_protocol::{Reply, Request};
use dormouse_storage::codec::dump::{RestoreError, dump_bytes, dump_into, restore, restored_bytes_max};
use dormouse_storage::codec::value::kind;

use crate::commands::args::{Args, Argument, integer};
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, cost, exactly, run};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::keyspace::changes::KeyEvent;

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, Access::RO.union(Access::ACCESS))];
const KEY_WRITTEN: &[KeySpec] = &[KeySpec::one(1, Access::OW.union(Access::UPDATE))];

/// By key: the recorded effect is the value and the moment of its expiry, in whatever form they were given.
const WRITE: Flags = Flags::WRITE.union(Flags::DENY_OOM).union(Flags::BY_KEY);

/// About what a small element of a collection takes in a payload.
const COMPRESSED: u8 = 0xc3;

const RESTORE_COMPLEXITY: &str = "O(1) to create the new key and additional O(N*M) to reconstruct the serialized value, \
    where N is the number of Redis objects composing the value and M their average size. For small string values the time \
    complexity is thus O(1). However for sorted set values the complexity is O(N*M*log(N)) because inserting values into \
    sorted sets is O(log(N)).";

pub(crate) const FAMILY: Family<Run> = Family {
    group: "generic",
    category: Category::KEYSPACE,
    commands: &[
        Command::new("DUMP", exactly(2), KEY_READ, Flags::READ, run!(dump_key))
            .doc(
                "2.6.0",
                "O(1) to access the key and additional O(N*M) to serialize it, where N is the number of Redis objects \
                 composing the value and M their average size. For small string values the time complexity is thus O(1).",
                "Returns a serialized representation of the value stored at a key.",
            )
            .tips(&["nondeterministic_output"])
            .cost(cost::copied),
        Command::new("RESTORE", at_least(4), KEY_WRITTEN, WRITE, run!(restore_key)).event(KeyEvent::generic("restore"))
            .doc(
                "2.6.0",
                RESTORE_COMPLEXITY,
                "Creates a key from the serialized representation of a value.",
            )
            .also(Category::DANGEROUS)
            .cost(restore_cost)
            .grows(restore_growth),
    ],
};

/// `RESTORE` as it is sent between the nodes of a cluster.
pub(crate) const ASKING: Family<Run> = Family {
    group: "server",
    category: Category::KEYSPACE,
    commands: &[Command::new(
        "RESTORE-ASKING",
        at_least(4),
        KEY_WRITTEN,
        WRITE.union(Flags::ASKING),
        run!(restore_key),
    )
    .event(KeyEvent::generic("restore"))
    .doc("3.0.0", RESTORE_COMPLEXITY, "An internal command for migrating keys in a cluster.")
    .also(Category::DANGEROUS)
    .cost(restore_cost)
    .grows(restore_growth)],
};

/// `DUMP key`
///
/// The value is visited twice, so that the payload is made in the reply itself, which is charged beforehand.
fn dump_key(db: &mut Keyspace<'_>, reply: &mut Reply, (key,): (&[u8],)) -> Result<()> {
    match db.record_of(key) {
        Some(record) => {
            let value = record.value();
            let bytes = usize::try_from(dump_bytes(&value)).unwrap_or(usize::MAX);
            reply.bulk_with(bytes, |buffer| dump_into(&value, buffer));
        }
        None => reply.null(),
    }
    Ok(())
}

/// `RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds | FREQ frequency]`
fn restore_key(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, ttl, payload, options): (&[u8], &[u8], &[u8], Options),
) -> Result<()> {
    if !options.replace && db.contains(key) {
        return Err(Error::text("BUSYKEY Target key name already exists."));
    }
    let ttl = integer(ttl)?;
    let ttl = u64::try_from(ttl).map_err(|_| Error::text("ERR Invalid TTL value, must be >= 0"))?;
    let value = restore(payload, db.limits()).map_err(|error| match error {
        RestoreError::Envelope => Error::text("ERR DUMP payload version or checksum are wrong"),
        RestoreError::Value(_) => Error::text("ERR Bad data format"),
        RestoreError::Unsupported(what) => Error::Text(format!("ERR Bad data format: {what} is not supported").into()),
    })?;
    let expiry = match ttl {
        0 => None,
        at if options.absolute => Some(at),
        // A moment beyond the end of time has passed, as in Redis.
        after => Some(db.now().checked_add(after).filter(|at| i64::try_from(*at).is_ok()).unwrap_or(0)),
    };
    if expiry.is_some_and(|at| db.has_passed(at)) {
        if options.replace {
            db.delete(key);
        }
    } else {
        db.restore(key, value, expiry, (options.idle_s, options.frequency));
    }
    reply.ok();
    Ok(())
}

/// Bytes that are cleared in about the time of one element.
const CLEARED_BYTES: usize = 256;

/// A compressed payload may hold many times its bytes, and an element may be as short as two.
fn restore_cost(_: &Keyspace<'_>, request: Request<'_>) -> usize {
    match request.get(3) {
        None => 0,
        Some([kind::STRING, length, ..]) if *length != COMPRESSED => 0,
        // Memory is cleared where a value takes many times as much as its payload.
        Some(payload) => (payload.len() / 2).max(restored_bytes_max(payload) / CLEARED_BYTES),
    }
}

/// A payload may be compressed.
fn restore_growth(_: &Keyspace<'_>, request: Request<'_>) -> usize {
    request.get(3).map_or(0, |payload| restored_bytes_max(payload).saturating_sub(payload.len()))
}

#[derive(Debug, Default)]
struct Options {
    replace: bool,
    absolute: bool,
    idle_s: Option<u64>,
    frequency: Option<u8>,
}

impl<'a> Argument<'a> for Options {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut options = Options::default();
        while !args.is_empty() {
            if args.word("REPLACE") {
                options.replace = true;
            } else if args.word("ABSTTL") {
                options.absolute = true;
            } else if options.frequency.is_none() && args.len() > 1 && args.word("IDLETIME") {
                let idle = u64::try_from(args.take::<i64>()?);
                options.idle_s = Some(idle.map_err(|_| Error::text("ERR Invalid IDLETIME value, must be >= 0"))?);
            } else if options.idle_s.is_none() && args.len() > 1 && args.word("FREQ") {
                // No eviction policy here counts accesses: it is checked and forgotten.
                let frequency = u8::try_from(args.take::<i64>()?);
                let refusal = |_| Error::text("ERR Invalid FREQ value, must be >= 0 and <= 255");
                options.frequency = Some(frequency.map_err(refusal)?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, check_effects};
    use super::restored_bytes_max;
    use crate::keyspace::{EngineSettings, Eviction, Limits};

    /// The payload that `DUMP key` answers, as a bulk string.
    fn payload(bench: &mut Bench, key: &str) -> Vec<u8> {
        let reply = bench.run_raw(&[b"DUMP", key.as_bytes()]);
        let start = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        reply[start..reply.len() - 2].to_vec()
    }

    #[test]
    fn values_come_back_as_they_were() {
        let mut bench = Bench::new();
        for line in [
            "SET text hello",
            "SET number 12345",
            "RPUSH list a 2 c",
            "SADD integers 1 2 3",
            "SADD words x y z",
            "HSET hash f v g 1",
            "ZADD scores 1.5 a 2 b",
        ] {
            bench.run(line);
        }
        assert_eq!(bench.run("DUMP none"), "nil");
        let before = bench.data();
        let keys: Vec<Vec<u8>> = before.keys().cloned().collect();
        for key in &keys {
            let payload = payload(&mut bench, std::str::from_utf8(key).unwrap());
            assert_eq!(
                bench.run_args(&[b"RESTORE", key, b"0", &payload]),
                "(error) BUSYKEY Target key name already exists."
            );
            assert_eq!(bench.run_args(&[b"RESTORE", b"other", b"0", &payload]), "OK");
            assert_eq!(bench.run_args(&[b"RESTORE", key, b"0", &payload, b"REPLACE"]), "OK");
            let data = bench.data();
            assert_eq!(data[key], data[&b"other"[..]]);
            bench.run("DEL other");
        }
        assert_eq!(bench.data(), before);
    }

    #[test]
    fn a_length_beyond_all_memory_is_refused() {
        let mut bench = Bench::new();
        // A string, a list of one, a list of one node, a packed set.
        for head in [&[0][..], &[1, 1], &[18, 1, 2], &[20]] {
            // One byte is said to stand for 2^64 - 1.
            let compressed = [&[0xc3, 1, 0x81][..], &[0xff; 8], &[0]].concat();
            let payload = [head, &compressed, &[11, 0], &[0; 8]].concat();
            assert_eq!(restored_bytes_max(&payload), 0, "{head:?}");
            let reply = bench.run_args(&[b"RESTORE", b"d", b"0", &payload]);
            assert_eq!(reply, "(error) ERR Bad data format", "{head:?}");
        }
    }

    /// Whatever limits it was packed under, it may be unpacked here.
    #[test]
    fn no_value_takes_more_memory_than_its_payload_says() {
        let mut packed = Bench::new();
        let mut settings = **packed.shared.settings.load();
        let numbers = |wanted: usize| (0..wanted).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        settings.limits = Limits {
            hash_max_listpack_entries: 5000,
            set_max_intset_entries: 5000,
            set_max_listpack_entries: 5000,
            zset_max_listpack_entries: 5000,
            ..settings.limits
        };
        packed.shared.settings.store(settings.into());
        for line in [
            format!("SET text {}", "x".repeat(100_000)),
            format!("RPUSH list {}", numbers(4000)),
            format!("SADD integers {}", numbers(4000)),
            format!("SADD members x {}", numbers(4000)),
            format!("HSET hash {}", numbers(4000)),
            format!("ZADD scores {}", numbers(4000)),
        ] {
            packed.run(&line);
        }
        let mut unpacked = Bench::new();
        for key in ["text", "list", "integers", "members", "hash", "scores"] {
            let again = |from: &mut Bench, to: &mut Bench| {
                let payload = payload(from, key);
                assert_eq!(to.run_args(&[b"RESTORE", key.as_bytes(), b"0", &payload, b"REPLACE"]), "OK");
                let (said, takes) = (restored_bytes_max(&payload), to.keyspace().value_bytes(key.as_bytes()));
                assert!(said >= takes - takes / 8, "{key}: {takes} bytes, and at most {said} were said");
            };
            again(&mut packed, &mut unpacked);
            let mut other = Bench::new();
            again(&mut unpacked, &mut other);
        }
    }

    #[test]
    fn options_and_errors() {
        let mut bench = Bench::new();
        bench.run("SET k v");
        let good = payload(&mut bench, "k");
        let mut newer = good.clone();
        newer[3] = 13;
        let sealed = |mut body: Vec<u8>| {
            body.extend_from_slice(&11u16.to_le_bytes());
            body.extend_from_slice(&dormouse_storage::codec::checksum(&body).to_le_bytes());
            body
        };
        let now = bench.now_ms.to_string();
        let then = (bench.now_ms + 5000).to_string();
        for (words, expected) in [
            (vec!["k", "x", "PAYLOAD"], "(error) BUSYKEY Target key name already exists."),
            (vec!["n", "x", "PAYLOAD"], "(error) ERR value is not an integer or out of range"),
            (vec!["n", "-1", "PAYLOAD"], "(error) ERR Invalid TTL value, must be >= 0"),
            (vec!["n", "0", "junk"], "(error) ERR DUMP payload version or checksum are wrong"),
            (vec!["n", "0", ""], "(error) ERR DUMP payload version or checksum are wrong"),
            (vec!["n", "0", "PAYLOAD", "IDLETIME", "-1"], "(error) ERR Invalid IDLETIME value, must be >= 0"),
            (vec!["n", "0", "PAYLOAD", "FREQ", "256"], "(error) ERR Invalid FREQ value, must be >= 0 and <= 255"),
            (vec!["n", "0", "PAYLOAD", "FREQ", "-1"], "(error) ERR Invalid FREQ value, must be >= 0 and <= 255"),
            (vec!["n", "0", "PAYLOAD", "FREQ", "x"], "(error) ERR value is not an integer or out of range"),
            (vec!["n", "0", "PAYLOAD", "FREQ"], "(error) ERR syntax error"),
            (vec!["n", "0", "PAYLOAD", "FREQ", "1", "IDLETIME", "1"], "(error) ERR syntax error"),
            (vec!["n", "0", "PAYLOAD", "KEEP"], "(error) ERR syntax error"),
            (vec!["n", &now, "PAYLOAD", "ABSTTL"], "OK"),
        ] {
            let mut args: Vec<&[u8]> = vec![b"RESTORE"];
            args.extend(words.iter().map(|word| if *word == "PAYLOAD" { &good[..] } else { word.as_bytes() }));
            assert_eq!(bench.run_args(&args), expected, "{words:?}");
            assert_eq!(bench.run("EXISTS n"), "0", "{words:?}");
        }
        let wrong = "(error) ERR DUMP payload version or checksum are wrong";
        assert_eq!(bench.run_args(&[b"RESTORE", b"n", b"0", &newer]), wrong);
        for (body, complaint) in [
            (&b"\x00\x05v"[..], ""),
            (b"\x00\x01vv", ""),
            (b"\x01\x00", ""),
            (b"\x1e\x00", ""),
            (b"\x21\x00", ""),
            (b"\x0f\x00", ""),
            (b"\x1b\x00", ""),
            (b"\x07\x00", ": a module's value is not supported"),
            (b"\x1c\x00", ""),
            (b"\x1c\x00\x00", ""),
            (b"\x1c\x01\x02", ""),
            (b"\x1c\x01\x00\x05\x04\x01v", ""),
            (b"\x1c\x01\x00\x05\x03\x0812345678", ""),
            (b"\x1c\x01\x00\x81\xff\xff\xff\xff\xff\xff\xff\xff\x03\x01v", ""),
            (b"\x18........\x01\x01\x01f", ""),
            (b"\x19........\x01f", ""),
        ] {
            let payload = sealed(body.to_vec());
            let expected = format!("(error) ERR Bad data format{complaint}");
            assert_eq!(bench.run_args(&[b"RESTORE", b"n", b"0", &payload]), expected);
        }
        // A checksum of zero is not compared, a version is.
        for (version, expected) in [(15, "OK"), (80, "OK"), (16, wrong), (79, wrong), (81, wrong)] {
            let mut unsummed = good[..good.len() - 10].to_vec();
            unsummed.extend_from_slice(&[version, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(bench.run_args(&[b"RESTORE", b"n", b"0", &unsummed, b"REPLACE"]), expected, "{version}");
        }
        bench.run("DEL n");
        assert_eq!(
            bench.run_args(&[b"RESTORE", b"n", b"5000", &good, b"idletime", b"100", b"absttl", b"replace"]),
            "OK"
        );
        assert_eq!(bench.run("EXISTS n"), "0", "it had expired in 1970");
        assert_eq!(bench.run_args(&[b"RESTORE", b"n", then.as_bytes(), &good, b"absttl", b"IDLETIME", b"100"]), "OK");
        assert_eq!((bench.run("PTTL n"), bench.run("OBJECT IDLETIME n")), ("5000".into(), "100".into()));
        assert_eq!(bench.run_args(&[b"RESTORE", b"n", b"7000", &good, b"REPLACE", b"FREQ", b"255"]), "OK");
        assert_eq!((bench.run("PTTL n"), bench.run("OBJECT IDLETIME n")), ("7000".into(), "0".into()));
        let settings = EngineSettings { eviction: Eviction::AllKeysLfu, ..EngineSettings::new(7) };
        bench.shared.settings.store(settings.into());
        assert_eq!(bench.run_args(&[b"RESTORE", b"n", b"7000", &good, b"REPLACE", b"FREQ", b"100"]), "OK");
        assert_eq!(bench.run("OBJECT FREQ n"), "100");
        assert!(bench.run("OBJECT IDLETIME n").starts_with("(error) ERR An LFU maxmemory policy is selected"));
        assert_eq!(bench.run_args(&[b"RESTORE", b"n", b"7000", &good, b"REPLACE", b"IDLETIME", b"100"]), "OK");
        bench.shared.settings.store(EngineSettings::new(7).into());
        assert_eq!(bench.run_args(&[b"RESTORE", b"n", b"9223372036854775807", &good, b"REPLACE"]), "OK");
        assert_eq!(bench.run("EXISTS n"), "0", "it is beyond the end of time");
        assert_eq!(bench.run_args(&[b"RESTORE", b"n", b"1", &good, b"REPLACE", b"ABSTTL"]), "OK");
        assert_eq!(bench.run("EXISTS n"), "0");
    }

    #[test]
    fn effects_are_values() {
        let mut bench = Bench::new();
        bench.run("RPUSH k a b c");
        let good = payload(&mut bench, "k");
        let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
        check_effects(&[
            words(&[b"SET", b"a", b"1"]),
            words(&[b"RESTORE", b"a", b"0", &good, b"REPLACE"]),
            words(&[b"RESTORE", b"b", b"100000", &good]),
            words(&[b"SET", b"c", b"1"]),
            words(&[b"RESTORE", b"c", b"1", &good, b"REPLACE", b"ABSTTL"]),
        ]);
    }
}
