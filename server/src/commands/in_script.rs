//! Commands of the session that scripts may call, and the table in which scripts find all commands.

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args::parse;
use dormouse_shard::commands::scripting::host::{Callable, Uncallable};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::keyspace::scripts::Published;
use dormouse_shard::keyspace::{INDEXES, Keyspace};

use crate::commands::TABLE;
use crate::table::Handler;

/// The command of a request of a script.
pub fn find(request: Request<'_>) -> Result<Callable, Uncallable> {
    let entry = TABLE.by_name(request.arg(0)).ok_or(Uncallable::Unknown)?;
    let entry = match request.get(1) {
        Some(sub) if !entry.subcommands.is_empty() => TABLE.subcommand(entry, sub).ok_or(Uncallable::Unknown)?,
        _ => entry,
    };
    if !entry.row.arity.accepts(request.len()) {
        return Err(Uncallable::WrongArity { id: entry.id });
    }
    let run = match entry.action {
        Handler::Keyspace(run) => Some(run),
        Handler::Session(_) | Handler::Container => entry.row.in_script,
    };
    Ok(Callable { row: entry.row, run, id: entry.id })
}

/// `PING [message]`
pub fn ping(_: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    match request.get(1) {
        _ if request.len() > 2 => return Err(Error::WrongArity("ping".into())),
        Some(message) => reply.bulk(message),
        None => reply.simple("PONG"),
    }
    Ok(())
}

/// `ECHO message`
pub fn echo(_: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    reply.bulk(request.arg(1));
    Ok(())
}

/// `SELECT index`: for the rest of the script.
pub fn select(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    db.select(index(request)?);
    reply.ok();
    Ok(())
}

/// The index that a `SELECT` names.
pub fn index(request: Request<'_>) -> Result<u8> {
    let (index,): (i64,) = parse(request, 1)?;
    if i32::try_from(index).is_err() {
        return Err(Error::text("ERR value is out of range, value must between -2147483648 and 2147483647"));
    }
    u8::try_from(index).ok().filter(|index| usize::from(*index) < INDEXES).ok_or(Error::DbIndexOutOfRange)
}

/// `TIME`
pub fn time(db: &mut Keyspace<'_>, reply: &mut Reply, _: Request<'_>) -> Result<()> {
    let now_us = db.shared().scripts.surroundings().map_or(db.now() * 1000, |around| around.now_us());
    reply.array(2);
    reply.bulk_integer((now_us / 1_000_000) as i64);
    reply.bulk_integer((now_us % 1_000_000) as i64);
    Ok(())
}

/// `PUBLISH channel message`: the message leaves with the script's effects.
pub fn publish(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    publish_to(db, reply, request, false)
}

/// `SPUBLISH channel message`
pub fn spublish(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    publish_to(db, reply, request, true)
}

fn publish_to(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>, is_sharded: bool) -> Result<()> {
    let (channel, message): (&[u8], &[u8]) = parse(request, 1)?;
    let receivers = db.shared().scripts.surroundings().map_or(0, |around| around.receivers(channel, is_sharded));
    db.publish(Published { channel: channel.into(), message: message.into(), is_sharded })?;
    reply.integer(receivers as i64);
    Ok(())
}
