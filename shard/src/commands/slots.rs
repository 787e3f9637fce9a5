//! `CLUSTER COUNTKEYSINSLOT` and `GETKEYSINSLOT`: the keys of one slot. The server has the rows.
//!
//! Positions begin with the slot, so the keys of a slot are neighbours.

use dormouse_protocol::Reply;
use dormouse_types::segment::{SLOTS, slot_of};

use super::{Run, run};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::keyspace::index::slot_start;

/// Runs `CLUSTER COUNTKEYSINSLOT slot` under the locks of all shards.
pub const COUNT: Run = run!(count, 2);
/// Runs `CLUSTER GETKEYSINSLOT slot count` under the locks of all shards.
pub const LIST: Run = run!(list, 2);

/// Keys that are visited together.
const STEP: usize = 64;

fn count(db: &mut Keyspace<'_>, reply: &mut Reply, (slot,): (i64,)) -> Result<()> {
    let slot = valid(slot).ok_or(Error::text("ERR Invalid slot"))?;
    let mut count = 0;
    visit(db, slot, |_| {
        count += 1;
        true
    });
    reply.integer(count);
    Ok(())
}

fn list(db: &mut Keyspace<'_>, reply: &mut Reply, (slot, most): (i64, i64)) -> Result<()> {
    const INVALID: Error = Error::text("ERR Invalid slot or number of keys");
    let (slot, most) = (valid(slot).ok_or(INVALID)?, usize::try_from(most).map_err(|_| INVALID)?);
    let (start, mut len) = (reply.len(), 0);
    visit(db, slot, |key| {
        if len < most {
            reply.bulk(key);
            len += 1;
        }
        len < most
    });
    reply.array_since(start, len);
    Ok(())
}

fn valid(slot: i64) -> Option<u16> {
    u16::try_from(slot).ok().filter(|slot| *slot < SLOTS)
}

/// Shows the keys of a slot to `visit`, until that returns false or a place has to be loaded first.
fn visit(db: &mut Keyspace<'_>, slot: u16, mut visit: impl FnMut(&[u8]) -> bool) {
    let (mut at, end) = (slot_start(slot), slot_start(slot + 1));
    let mut goes_on = true;
    while goes_on && at < end {
        let next = db.scan(at, STEP, |record| {
            if goes_on && slot_of(record.key()) == slot {
                goes_on = visit(record.key());
            }
        });
        if db.has_fault() || next == 0 {
            return;
        }
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::{OwnedRequest, Version};

    use super::*;
    use crate::commands::testing::Bench;

    fn ask(bench: &mut Bench, run: Run, words: &[&str]) -> String {
        let args: Vec<&[u8]> = ["CLUSTER", "X"].iter().chain(words).map(|word| word.as_bytes()).collect();
        let request = OwnedRequest::from_args(&args);
        let mut reply = Reply::new(Version::Resp2);
        let done = run(&mut bench.keyspace(), &mut reply, request.as_request());
        match done {
            Ok(()) => String::from_utf8(reply.buffer).unwrap().replace("\r\n", " "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_keys_of_a_slot_are_found() {
        let mut bench = Bench::new();
        for n in 0..3000 {
            bench.run(&format!("SET key:{n} 1"));
        }
        let mut tagged = Vec::new();
        for n in 0..200 {
            bench.run(&format!("SET {{tag}}{n} 1"));
            tagged.push(format!("{{tag}}{n}"));
        }
        let slot = slot_of(b"tag").to_string();
        let others = (0..3000).filter(|n| slot_of(format!("key:{n}").as_bytes()).to_string() == slot).count();
        assert_eq!(ask(&mut bench, COUNT, &[&slot]), format!(":{} ", 200 + others));
        let sum: usize = (0..SLOTS)
            .map(|slot| ask(&mut bench, COUNT, &[&slot.to_string()])[1..].trim().parse::<usize>().unwrap())
            .sum();
        assert_eq!(sum, 3200);
        let all = ask(&mut bench, LIST, &[&slot, "1000"]);
        assert!(tagged.iter().all(|key| all.contains(&format!(" {key} "))), "{all}");
        assert!(ask(&mut bench, LIST, &[&slot, "7"]).starts_with("*7 "));
        assert_eq!(ask(&mut bench, LIST, &[&slot, "0"]), "*0 ");
        for (run, words) in [(COUNT, &["16384"][..]), (COUNT, &["-1"]), (LIST, &["0", "-1"]), (LIST, &["99999", "1"])] {
            assert!(ask(&mut bench, run, words).starts_with("ERR Invalid slot"), "{words:?}");
        }
    }
}
