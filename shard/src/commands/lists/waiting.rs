//! The blocking commands of lists.

use dormouse_protocol::{Reply, Request};
use dormouse_types::{End, List};

use super::{Keys, PopAtMost, cost_of_end, move_one, pop_event, pop_name, pop_some};
use crate::commands::blocking::{KeysAndTimeout, Timeout, wait_or};
use crate::commands::elements::write_item;
use crate::error::Result;
use crate::keyspace::{Change, Keyspace, Offer, Wait};

/// `BLPOP key [key ...] timeout`
pub fn blpop(db: &mut Keyspace<'_>, reply: &mut Reply, (wanted,): (KeysAndTimeout<'_>,)) -> Result<()> {
    pop_or_wait(db, reply, wanted, End::Head)
}

/// `BRPOP key [key ...] timeout`
pub fn brpop(db: &mut Keyspace<'_>, reply: &mut Reply, (wanted,): (KeysAndTimeout<'_>,)) -> Result<()> {
    pop_or_wait(db, reply, wanted, End::Tail)
}

fn pop_or_wait(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    KeysAndTimeout { keys, timeout }: KeysAndTimeout<'_>,
    end: End,
) -> Result<()> {
    let timeout_ms = timeout.after(db.now())?;
    db.call_changes(pop_event(end));
    for key in keys.iter() {
        if !db.looks_at(key) {
            continue;
        }
        let popped = db.update_existing(key, |list: &mut List, limits| {
            reply.array(2);
            reply.bulk(key);
            list.pop(end, limits, |item| write_item(reply, item));
            Change::Yes(())
        });
        if db.found_waiting(popped)?.is_some() {
            db.effect(key, &[pop_name(end), key]);
            return Ok(());
        }
    }
    wait_or(db, reply, Wait::new(Offer::List, timeout_ms), Reply::null_array)
}

/// `BLMOVE source destination <LEFT | RIGHT> <LEFT | RIGHT> timeout`
pub fn blmove(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (source, destination, from, to, timeout): (&[u8], &[u8], End, End, Timeout),
) -> Result<()> {
    let timeout_ms = timeout.after(db.now())?;
    if move_one(db, reply, (source, destination, from, to))? {
        return Ok(());
    }
    let wait = Wait { moves: true, ..Wait::new(Offer::List, timeout_ms) };
    wait_or(db, reply, wait, Reply::null)
}

/// `BRPOPLPUSH source destination timeout`
pub fn brpoplpush(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (source, destination, timeout): (&[u8], &[u8], Timeout),
) -> Result<()> {
    blmove(db, reply, (source, destination, End::Tail, End::Head, timeout))
}

/// `BLMPOP timeout numkeys key [key ...] <LEFT | RIGHT> [COUNT count]`
pub fn blmpop(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (timeout, keys, end, count): (&[u8], Keys<'_>, End, PopAtMost),
) -> Result<()> {
    let timeout_ms = Timeout::seconds(timeout)?.after(db.now())?;
    if pop_some(db, reply, keys, end, count)? {
        return Ok(());
    }
    wait_or(db, reply, Wait::new(Offer::List, timeout_ms), Reply::null_array)
}

/// An element of any of the keys, the last argument not counted.
pub fn cost_of_first(db: &Keyspace<'_>, request: Request<'_>, end: End) -> usize {
    let keys = request.iter().take(request.len() - 1).skip(1);
    keys.map(|key| cost_of_end(db, key, end, 1)).max().unwrap_or(0)
}
