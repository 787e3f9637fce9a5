//! The parts of `DEBUG` that read the keyspace. The server has its row, and checks whether the client may use it.
//!
//! `DIGEST` and `DIGEST-VALUE` give what Redis gives for the same data: every part of a value is mixed into a SHA-1, in an
//! order that matters for lists and streams only.

use dormouse_protocol::{Reply, Request};
use dormouse_scripting::Sha;
use dormouse_storage::codec::dump::dump_bytes;
use dormouse_types::array::INDEX_MAX;
use dormouse_types::record::{Record, Value};
use dormouse_types::{Array, ObjectRef};

use super::keys::encoding_of;
use super::{Access, Command, Flags, KeySpec, Run, at_least, exactly};
use crate::error::{Error, Result};
use crate::keyspace::{INDEXES, Keyspace};

/// Gaps of an array from so many indices on are wide.
const WIDE_GAP: u64 = 1_000_000;

/// `DEBUG OBJECT key`
pub static OBJECT: Command<Run> =
    Command::new("DEBUG", exactly(3), &[KeySpec::one(2, Access::RO)], Flags::READ, object as Run);
/// `DEBUG DIGEST-VALUE key [key ...]`
pub static DIGEST_VALUE: Command<Run> = Command::new(
    "DEBUG",
    at_least(2),
    &[KeySpec::rest(2, Access::RO)],
    Flags::READ.union(Flags::SLOW_LANE),
    digest_value as Run,
);
/// `DEBUG DIGEST`
pub static DIGEST: Command<Run> = Command::new(
    "DEBUG",
    exactly(2),
    &[],
    Flags::READ.union(Flags::WHOLE).union(Flags::SLOW_LANE).union(Flags::ALL_RESIDENT),
    digest as Run,
);

/// Bytes of a payload of `DUMP` beside the value: its type, a version and a checksum.
const DUMP_ENVELOPE: u64 = 11;

fn object(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let uses = db.uses();
    let record = db.record_of(request.arg(2)).ok_or(Error::text("ERR no such key"))?;
    let idle = uses.idle_seconds(record.access()).unwrap_or(0);
    let (access, length) = (record.access(), dump_bytes(&record.value()).saturating_sub(DUMP_ENVELOPE));
    reply.simple(&format!(
        "Value at:0x0 refcount:1 encoding:{} serializedlength:{length} lru:{access} lru_seconds_idle:{idle}",
        encoding_of(record)
    ));
    Ok(())
}

fn digest_value(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    reply.array(request.len() - 2);
    for key in request.iter().skip(2) {
        let mut digest = Digest::default();
        if let Some(record) = db.record_of(key) {
            digest.add_value(record);
        }
        reply.simple(&digest.to_string());
    }
    Ok(())
}

fn digest(db: &mut Keyspace<'_>, reply: &mut Reply, _: Request<'_>) -> Result<()> {
    let (mut whole, selected) = (Digest::default(), db.selected());
    for index in 0..INDEXES as u8 {
        db.select(index);
        let mut is_empty = true;
        db.for_each(|record| {
            if std::mem::take(&mut is_empty) {
                whole.mix(&u32::from(index).to_be_bytes());
            }
            let mut one = Digest::default();
            one.mix(record.key());
            one.add_value(record);
            whole.add(&one.0);
        });
    }
    db.select(selected);
    reply.simple(&whole.to_string());
    Ok(())
}

/// A digest of parts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Digest([u8; 20]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Sha(self.0).fmt(f)
    }
}

impl Digest {
    /// Adds a part whose place does not matter.
    fn add(&mut self, part: &[u8]) {
        self.0.iter_mut().zip(Sha::of(part).0).for_each(|(byte, other)| *byte ^= other);
    }

    /// Adds a part behind those so far.
    fn mix(&mut self, part: &[u8]) {
        self.add(part);
        self.0 = Sha::of(&self.0).0;
    }

    /// Adds an array with its gaps. Of a wide gap, of which Redis adds each index, only the width counts.
    fn add_array(&mut self, array: &Array) {
        let mut next = 0;
        array.visit(0, INDEX_MAX, false, |index, element| {
            match index - next {
                gap @ ..WIDE_GAP => (0..gap).for_each(|_| self.mix(b"(null)")),
                gap => self.mix(&gap.to_be_bytes()),
            }
            element.with_text(|text| self.mix(text));
            next = index + 1;
            false
        });
    }

    fn add_value(&mut self, record: &Record) {
        let value = record.value();
        // Redis's numbers of the types.
        let kind: u32 = match &value {
            Value::Int(_) | Value::Raw(_) | Value::Object(ObjectRef::Text(_)) => 0,
            Value::Object(ObjectRef::List(_)) => 1,
            Value::Object(ObjectRef::Set(_)) => 2,
            Value::Object(ObjectRef::SortedSet(_)) => 3,
            Value::Object(ObjectRef::Hash(_)) => 4,
            // Those of a module.
            Value::Object(ObjectRef::Filter(_) | ObjectRef::Json(_) | ObjectRef::VectorSet(_)) => 5,
            Value::Object(ObjectRef::Stream(_)) => 6,
            Value::Object(ObjectRef::Array(_)) => 7,
        };
        self.mix(&kind.to_be_bytes());
        match value {
            Value::Int(number) => self.mix(number.to_string().as_bytes()),
            Value::Raw(text) => self.mix(text),
            Value::Object(ObjectRef::Text(text)) => self.mix(text),
            Value::Object(ObjectRef::Json(json)) => self.mix(json.bytes()),
            Value::Object(ObjectRef::List(list)) => list.iter().for_each(|item| item.with_text(|text| self.mix(text))),
            Value::Object(ObjectRef::Set(set)) => set.iter().for_each(|item| item.with_text(|text| self.add(text))),
            Value::Object(ObjectRef::SortedSet(set)) => set.iter().for_each(|(member, score)| {
                let mut pair = Self::default();
                member.with_text(|text| pair.mix(text));
                pair.mix(seventeen_digits(score).as_bytes());
                self.add(&pair.0);
            }),
            Value::Object(ObjectRef::Hash(hash)) => hash.iter().for_each(|(field, value)| {
                let mut pair = Self::default();
                field.with_text(|text| pair.mix(text));
                value.with_text(|text| pair.mix(text));
                self.add(&pair.0);
            }),
            Value::Object(ObjectRef::Filter(filter)) => {
                let mut head = Vec::new();
                filter.write_head(&mut head);
                self.mix(&head);
                filter.parts().all().for_each(|run| self.mix(run));
            }
            Value::Object(ObjectRef::Stream(stream)) => stream.entries().iter().for_each(|entry| {
                self.mix(format!("{}.{}", entry.id.ms, entry.id.seq).as_bytes());
                entry.fields().for_each(|(field, value)| {
                    field.with_text(|text| self.mix(text));
                    value.with_text(|text| self.mix(text));
                });
            }),
            Value::Object(ObjectRef::Array(array)) => self.add_array(array),
            Value::Object(ObjectRef::VectorSet(set)) => (0..set.len() as u32).map(|id| set.node(id)).for_each(|node| {
                let mut element = Self::default();
                let mut vector = Vec::new();
                node.vector().append_to(&mut vector);
                [node.name(), node.attributes(), &vector].iter().for_each(|part| element.mix(part));
                self.add(&element.0);
            }),
        }
        if record.expiry().is_some() {
            self.add(b"!!expire!!");
        }
    }
}

/// A number as C's `%.17g` writes it.
fn seventeen_digits(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_string();
    }
    let scientific = format!("{value:.16e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let shortened = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text.to_string(),
    };
    if (-4..17).contains(&exponent) {
        return shortened(&format!("{value:.*}", (16 - exponent) as usize));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", shortened(digits), exponent.abs())
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::{OwnedRequest, Version};

    use super::*;
    use crate::commands::testing::Bench;

    fn ask(bench: &mut Bench, command: &Command<Run>, words: &[&str]) -> String {
        let args: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let request = OwnedRequest::from_args(&args);
        let mut reply = Reply::new(Version::Resp2);
        let run = command.run.expect("a command");
        match run(&mut bench.keyspace(), &mut reply, request.as_request()) {
            Ok(()) => String::from_utf8(reply.buffer).unwrap().replace("\r\n", " ").trim().to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// The digests are what Redis 7.0.15 says after the same commands.
    #[test]
    fn digests_are_those_of_redis() {
        let mut bench = Bench::new();
        let zero = "0000000000000000000000000000000000000000";
        assert_eq!(ask(&mut bench, &DIGEST, &["DEBUG", "DIGEST"]), format!("+{zero}"));
        for line in COMMANDS {
            bench.run(line);
        }
        let mut words = vec!["DEBUG", "DIGEST-VALUE"];
        words.extend(KEYS);
        let digests = ask(&mut bench, &DIGEST_VALUE, &words);
        let digests: Vec<&str> = digests.split(' ').skip(1).map(|digest| &digest[1..]).collect();
        assert_eq!(digests, VALUES);
        assert_eq!(ask(&mut bench, &DIGEST, &["DEBUG", "DIGEST"]), format!("+{WHOLE}"));
    }

    #[test]
    fn numbers_have_seventeen_digits() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (0.1, "0.10000000000000001"),
            (3.0e20, "3e+20"),
            (1e-7, "9.9999999999999995e-08"),
            (0.0001, "0.0001"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (12_345_678_901_234_568.0, "12345678901234568"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(seventeen_digits(number), text);
        }
    }

    const COMMANDS: &[&str] = &[
        "SET s 12345",
        "SET e hello",
        "SET t x EX 100000",
        "RPUSH l a b 3",
        "SADD si 1 2 3",
        "SADD sh a b",
        "HSET h f v g 1",
        "ZADD z 1 a 2.5 b 0.1 c 3e20 d",
        "XADD x 1-1 f v",
        "XADD x 2-0 f w g 7",
    ];
    const KEYS: &[&str] = &["s", "e", "t", "l", "si", "sh", "h", "z", "x", "nokey"];
    const VALUES: &[&str] = &[
        "e1cf90774e995ae03de66e8109dc5cb9d9c2dc83",
        "36b23a1456b2dce2c3ed252c456761301dba8060",
        "0745672cb1bf060476eedeb8a28f5ffe1ff5a2be",
        "09eb1fc9381ee92790d59930ab462945f8cd948b",
        "2a462a3f51a1db89738ebbeef0c47ce1bbc85246",
        "dd99329063ca0f1f28df2ac68d94b82fd95501c6",
        "6679ee22f89ed8001eeb5309d0900265ea56c03a",
        "7b49ef19dc33b9c1f8c38312023b52c39b400df6",
        "5307094c8d5f881e93f06befd5f73b2fbfb634d8",
        "0000000000000000000000000000000000000000",
    ];
    const WHOLE: &str = "f6abf8808a75f0a424ad6cc21e27b948d634eb4e";
}
