//! `DORMOUSE`: what Redis has no word for: sleep, shards, usage.

use std::sync::Arc;

use dormouse_protocol::Reply;
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::scaling::ShardView;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::commands::{answer, help, later, now};
use crate::keeper;
use crate::session::{Answer, Session, SessionRun};

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const ADMIN: Flags = ANY_TIME.union(Flags::NO_SCRIPT).union(Flags::ADMIN).union(Flags::NO_MULTI);

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[Command::container(
        "DORMOUSE",
        &[
            Command::new("SLEEP", exactly(2), &[], ADMIN, later!(sleep, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of keys that changed since the last checkpoint",
                "Puts the database to sleep: what changed is written to the store, its memory is given back.",
            ),
            Command::new("CHECKPOINT", exactly(2), &[], ADMIN, later!(checkpoint, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of keys that changed since the last checkpoint",
                "Writes what changed to the store; the database stays awake.",
            ),
            Command::new("SHARDS", exactly(2), &[], ADMIN, later!(shards, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of segments",
                "Returns the shards of the database; none while it sleeps.",
            ),
            Command::new("SPLIT", at_least(2), &[], ADMIN, later!(split, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of segments of the shard",
                "Splits the shard of a slot there, or the largest shard in its middle.",
            ),
            Command::new("MERGE", exactly(3), &[], ADMIN, later!(merge, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of segments of the shard",
                "Merges the shard that begins at a slot into the one before it.",
            ),
            Command::new("USAGE", exactly(2), &[], ADMIN, now!(usage, 2)).doc(
                "0.1.0",
                "O(N) where N is the number of commands",
                "Returns the meters of the database, and what the open usage window holds so far.",
            ),
            Command::new("HELP", exactly(2), &[], ANY_TIME, now!(show_help, 2)).doc(
                "0.1.0",
                "O(1)",
                "Returns helpful text about the different subcommands.",
            ),
        ],
    )
    .doc("0.1.0", "Depends on subcommand.", "A container for commands about sleep, shards and usage.")],
};

/// `DORMOUSE SLEEP`
fn sleep(session: &mut Session, (): ()) -> Result<BoxFuture<'static, Answer>> {
    let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
    Ok(async move {
        let slept = keeper::remember(&node, tenant.database.sleep().await.map(drop));
        answer(slept, |(), reply| reply.ok())
    }
    .boxed())
}

/// `DORMOUSE CHECKPOINT`
fn checkpoint(session: &mut Session, (): ()) -> Result<BoxFuture<'static, Answer>> {
    let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
    Ok(async move {
        let written = keeper::remember(&node, tenant.database.checkpoint().await.map(drop));
        answer(written, |(), reply| reply.ok())
    }
    .boxed())
}

/// `DORMOUSE SHARDS`
fn shards(session: &mut Session, (): ()) -> Result<BoxFuture<'static, Answer>> {
    let tenant = Arc::clone(&session.tenant);
    Ok(async move {
        let views = tenant.database.shards(false).await;
        answer(Ok(()), move |(), reply| {
            reply.array(views.len());
            for view in &views {
                let lately = tenant.load_of(view.id);
                let fields = [
                    ("id", view.id),
                    ("first_slot", u64::from(view.first_slot)),
                    ("last_slot", u64::from(view.end_slot - 1)),
                    ("keys", view.keys as u64),
                    ("expiring", view.expiring as u64),
                    ("bytes", view.bytes as u64),
                    ("dirty_bytes", view.dirty_bytes as u64),
                    ("resident_segments", view.resident as u64),
                    ("stored_segments", view.stored as u64),
                    // Of the last second.
                    ("operations", lately.operations),
                    ("contended", lately.contended),
                ];
                reply.map(fields.len());
                for (name, value) in fields {
                    reply.bulk(name.as_bytes());
                    reply.integer(value as i64);
                }
            }
        })
    }
    .boxed())
}

/// `DORMOUSE SPLIT [slot]`
fn split(session: &mut Session, (slot,): (Option<i64>,)) -> Result<BoxFuture<'static, Answer>> {
    let slot = slot.map(slot_number).transpose()?;
    let database = Arc::clone(&session.tenant.database);
    Ok(async move {
        let done = async {
            database.awake().await?;
            let slot = match slot {
                Some(slot) => slot,
                None => middle(&database.shards(false).await)
                    .ok_or(Error::text("ERR no shard has more than one slot: nothing can be split"))?,
            };
            match database.split(slot).await? {
                true => Ok(()),
                false => Err(Error::Text(format!("ERR a shard begins at slot {slot} already").into())),
            }
        };
        answer(done.await, |(), reply| reply.ok())
    }
    .boxed())
}

/// `DORMOUSE MERGE slot`
fn merge(session: &mut Session, (slot,): (i64,)) -> Result<BoxFuture<'static, Answer>> {
    let slot = slot_number(slot)?;
    let database = Arc::clone(&session.tenant.database);
    Ok(async move {
        let done = async {
            database.awake().await?;
            match database.merge(slot).await? {
                true => Ok(()),
                false if slot == 0 => Err(Error::text("ERR the first shard has none before it")),
                false => Err(Error::Text(format!("ERR no shard begins at slot {slot}").into())),
            }
        };
        answer(done.await, |(), reply| reply.ok())
    }
    .boxed())
}

fn slot_number(slot: i64) -> Result<u16> {
    let slot = u16::try_from(slot).ok().filter(|slot| *slot < dormouse_shard::topology::SLOTS);
    slot.ok_or(Error::text("ERR slot is out of range (0-16383)"))
}

/// The slot that halves the largest shard that can be split: where half of its keys lie before it, as far as its size
/// histogram tells.
fn middle(views: &[ShardView]) -> Option<u16> {
    let splittable = views.iter().filter(|view| view.end_slot - view.first_slot > 1);
    let view = splittable.max_by_key(|view| view.keys)?;
    let (first, end) = (u32::from(view.first_slot), u32::from(view.end_slot));
    let parts = view.sizes.len() as f64;
    let half = view.sizes.iter().map(|&keys| f64::from(keys)).sum::<f64>() / 2.0;
    let mut before = 0.0;
    let mut place = 0.5;
    for (part, &keys) in view.sizes.iter().enumerate() {
        let keys = f64::from(keys);
        if keys > 0.0 && before + keys >= half {
            place = (part as f64 + (half - before) / keys) / parts;
            break;
        }
        before += keys;
    }
    let slot = first + (f64::from(end - first) * place).round() as u32;
    u16::try_from(slot.clamp(first + 1, end - 1)).ok()
}

/// `DORMOUSE USAGE`
fn usage(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let (_, now_ms) = session.worker.now();
    let tenant = &session.tenant;
    keeper::settle(tenant, now_ms);
    let totals = tenant.meters.totals(now_ms);
    let window = tenant.meters.usage(now_ms);
    reply.map(3);
    reply.bulk(b"database");
    reply.bulk(tenant.name().as_bytes());
    reply.bulk(b"meters");
    reply.map(totals.meters().count());
    for (meter, total) in totals.meters() {
        reply.bulk(meter.name().as_bytes());
        reply.bulk(total.to_string().as_bytes());
    }
    reply.bulk(b"window");
    reply.map(3);
    reply.bulk(b"start_ms");
    reply.integer(window.start_ms as i64);
    reply.bulk(b"end_ms");
    reply.integer(window.end_ms as i64);
    reply.bulk(b"events");
    reply.array(window.events().count());
    for event in window.events() {
        reply.map(3);
        reply.bulk(b"id");
        reply.bulk(event.id.as_bytes());
        reply.bulk(b"meter");
        reply.bulk(event.meter.name().as_bytes());
        reply.bulk(b"quantity");
        reply.bulk(event.quantity.as_bytes());
    }
    Ok(())
}

/// `DORMOUSE HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "DORMOUSE",
        &[
            "SLEEP",
            "    Put the database to sleep. Answers when it sleeps; connections stay.",
            "CHECKPOINT",
            "    Write what changed since the last checkpoint to the store.",
            "SHARDS",
            "    Show the shards of the database: slots, keys, bytes, load in the last second.",
            "SPLIT [<slot>]",
            "    Split the shard that has <slot> there; without a slot, the largest shard in its middle.",
            "MERGE <slot>",
            "    Merge the shard that begins at <slot> into the one before it.",
            "USAGE",
            "    Show the meters of the database and the open usage window.",
        ],
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_shard_is_cut_where_half_of_its_keys_lie_before() {
        let view = |first_slot, end_slot, filled: &[(usize, u32)]| {
            let mut view = ShardView { first_slot, end_slot, ..ShardView::default() };
            for &(part, keys) in filled {
                view.sizes[part] = keys;
                view.keys += keys as usize;
            }
            view
        };
        let even: Vec<(usize, u32)> = (0..16).map(|part| (part, 10)).collect();
        for (views, expected) in [
            (vec![view(0, 16384, &even)], Some(8192)),
            (vec![view(0, 8192, &[(0, 1)]), view(8192, 16384, &even)], Some(12288)),
            (vec![view(0, 16384, &[])], Some(8192)),
            (vec![view(0, 16384, &[(15, 100)])], Some(15872)),
            (vec![view(0, 16384, &[(0, 100), (1, 300)])], Some(1365)),
            (vec![view(7, 9, &[(0, 100)])], Some(8)),
            // A shard of a single slot stays whole, however large.
            (vec![view(0, 1, &[(0, 100)]), view(1, 16384, &[(8, 2)])], Some(8704)),
            (vec![view(0, 1, &[(0, 100)])], None),
            (vec![], None),
        ] {
            assert_eq!(middle(&views), expected);
        }
    }
}
