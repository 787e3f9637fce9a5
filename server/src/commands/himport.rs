//! `HIMPORT`: hashes whose field names the connection has given ahead. The engine makes them, see
//! [`hash_import`](dormouse_shard::commands::hash_import); the names are the session's.
//!
//! In a transaction, `PREPARE` and its kin count for the commands behind them, although they run when the others have run.

use dormouse_protocol::Reply;
use dormouse_shard::commands::args::Rest;
use dormouse_shard::commands::{Access, Category, Command, Family, Flags, KeySpec, at_least, exactly, hash_import};
use dormouse_shard::error::Result;
use dormouse_shard::keyspace::changes::KeyEvent;
use dormouse_shard::keyspace::field_sets::FieldSet;

use crate::account;
use crate::commands::now;
use crate::session::Session;
use crate::table::SessionRun;

const KEY: &[KeySpec] = &[KeySpec::one(2, Access::OW.union(Access::UPDATE))];
/// By key: the effect is the value, since the names are known to the connection alone.
const SET: Flags = Flags::WRITE.union(Flags::DENY_OOM).union(Flags::BY_KEY);
const EVERYWHERE: &[&str] = &["request_policy:all_shards"];

pub const FAMILY: Family<SessionRun> = Family {
    group: "hash",
    category: Category::HASH,
    commands: &[Command::container(
        "HIMPORT",
        &[
            Command::new("PREPARE", at_least(4), &[], Flags::DENY_OOM, now!(prepare, 2))
                .doc("8.10.0", "O(N) where N is the number of fields", "Names the fields of hashes to come.")
                .tips(EVERYWHERE)
                .in_script(hash_import::PREPARE_IN_SCRIPT)
                .foresee_fields(hash_import::foresee_prepare)
                .stateless(false),
            Command::new("SET", at_least(5), KEY, SET, SessionRun::Keyspace(hash_import::SET))
                .event(KeyEvent::HSET)
                .doc(
                    "8.10.0",
                    "O(N) where N is the number of fields",
                    "Creates or replaces a hash with prepared fields.",
                )
                .field_set(3)
                .grows(hash_import::GROWTH)
                .stateless(false),
            Command::new("DISCARD", exactly(3), &[], Flags::empty(), now!(discard, 2))
                .doc("8.10.0", "O(1)", "Forgets the names of a fieldset.")
                .tips(EVERYWHERE)
                .in_script(hash_import::DISCARD_IN_SCRIPT)
                .foresee_fields(hash_import::foresee_discard)
                .stateless(false),
            Command::new("DISCARDALL", exactly(2), &[], Flags::empty(), now!(discard_all, 2))
                .doc("8.10.0", "O(N) where N is the number of fieldsets", "Forgets the names of all fieldsets.")
                .tips(EVERYWHERE)
                .in_script(hash_import::DISCARD_ALL_IN_SCRIPT)
                .foresee_fields(hash_import::foresee_discard_all)
                .stateless(false),
        ],
    )
    .doc("8.10.0", "Depends on subcommand.", "A container for commands that create hashes with prepared fields.")],
};

/// `HIMPORT PREPARE fieldset field [field ...]`
fn prepare(session: &mut Session, reply: &mut Reply, (name, fields): (&[u8], Rest<'_>)) -> Result<()> {
    let set = FieldSet::new(fields.iter())?;
    let sets = session.field_sets.get_or_insert_default();
    let before = sets.bytes();
    sets.add(name, set)?;
    let after = sets.bytes();
    if let Some(more) = after.checked_sub(before) {
        if let Err(limit) = session.client.hold(more) {
            sets.remove(name);
            session.client.let_go(before.saturating_sub(sets.bytes()));
            return Err(account::refusal(limit));
        }
    } else {
        session.client.let_go(before - after);
    }
    reply.ok();
    Ok(())
}

/// `HIMPORT DISCARD fieldset`
fn discard(session: &mut Session, reply: &mut Reply, (name,): (&[u8],)) -> Result<()> {
    let mut removed = false;
    if let Some(sets) = &mut session.field_sets {
        let before = sets.bytes();
        removed = sets.remove(name);
        session.client.let_go(before - sets.bytes());
    }
    reply.integer(i64::from(removed));
    Ok(())
}

/// `HIMPORT DISCARDALL`
fn discard_all(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let removed = session.forget_fields();
    reply.integer(removed as i64);
    Ok(())
}
