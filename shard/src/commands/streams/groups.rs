//! `XGROUP`: groups and their consumers.

use dormouse_protocol::{Reply, Request};
use dormouse_types::Stream;
use dormouse_types::stream::Group;

use super::ids::{id_or_end, strict_id};
use super::{CONSUMERS_PER_ELEMENT, producers, write_help};
use crate::commands::args::{Args, Argument, Rest, integer};
use crate::error::{Error, Result, repeated};
use crate::keyspace::{Change, Keyspace};

const NO_KEY: Error = Error::text(
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option \
     to create an empty stream automatically.",
);

/// Memory that a consumer takes beside its name.
const CONSUMER_BYTES: usize = 160;

pub fn no_group(key: &[u8], group: &[u8]) -> Error {
    let (key, group) = (repeated(key), repeated(group));
    Error::Text(format!("NOGROUP No such consumer group '{group}' for key name '{key}'").into())
}

/// `[MKSTREAM] [ENTRIESREAD entries-read]`
#[derive(Debug, Default)]
struct Options {
    makes_stream: bool,
    read: Option<u64>,
}

/// `subcommand` is named in errors.
fn options(words: Rest<'_>, is_create: bool, subcommand: &str) -> Result<Options> {
    let mut options = Options::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if is_create && word.eq_ignore_ascii_case(b"MKSTREAM") {
            options.makes_stream = true;
        } else if word.eq_ignore_ascii_case(b"ENTRIESREAD")
            && let Some(value) = words.next()
        {
            options.read = match integer(value)? {
                -1 => None,
                read => {
                    let read = u64::try_from(read);
                    Some(read.map_err(|_| Error::text("ERR value for ENTRIESREAD must be positive or -1"))?)
                }
            };
        } else {
            return Err(subcommand_syntax(subcommand));
        }
    }
    Ok(options)
}

fn subcommand_syntax(subcommand: &str) -> Error {
    let text = format!("ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try XGROUP HELP.");
    Error::Text(text.into())
}

/// The id and options of `CREATE` and `SETID`, read after the key has been looked at.
pub struct GroupPosition<'a> {
    /// As the client wrote it.
    subcommand: String,
    id: &'a [u8],
    options: Rest<'a>,
}

impl<'a> Argument<'a> for GroupPosition<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        Ok(GroupPosition { subcommand: args.subcommand(), id: args.bytes()?, options: args.take()? })
    }
}

/// `XGROUP CREATE key group id | $ [MKSTREAM] [ENTRIESREAD entries-read]`
pub fn create(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, name, position): (&[u8], &[u8], GroupPosition<'_>),
) -> Result<()> {
    let GroupPosition { subcommand, id, options: words } = position;
    let options = options(words, true, &subcommand)?;
    let found = db.read_to_change::<Stream>(key)?.map(|stream| stream.entries().last);
    if found.is_none() && !options.makes_stream {
        return Err(NO_KEY);
    }
    if words.len() > 3 {
        return Err(subcommand_syntax(&subcommand));
    }
    let last = match id {
        b"$" => found.unwrap_or_default(),
        word => strict_id(word, 0)?,
    };
    let settings = producers::settings_of_new(db, key);
    let added = db.update(key, |stream: &mut Stream, _| {
        if let Some(settings) = settings {
            stream.set_idempotency(settings);
        }
        let added = stream.add_group(name, last, options.read);
        Change::beside_when(added, added)
    })?;
    if !added {
        return Err(Error::text("BUSYGROUP Consumer Group name already exists"));
    }
    if settings.is_some() && db.names_effects() {
        let (last, read) = (last.to_string(), options.read.map(|read| read.to_string()));
        let mut words = vec![&b"XGROUP"[..], b"CREATE", key, name, last.as_bytes(), b"MKSTREAM"];
        words.extend(read.iter().flat_map(|read| [&b"ENTRIESREAD"[..], read.as_bytes()]));
        db.effect(key, &words);
        producers::record(db, key, settings, None);
    }
    reply.ok();
    Ok(())
}

/// `XGROUP SETID key group id | $ [ENTRIESREAD entries-read]`
pub fn set_id(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, name, position): (&[u8], &[u8], GroupPosition<'_>),
) -> Result<()> {
    let GroupPosition { subcommand, id, options: words } = position;
    let options = options(words, false, &subcommand)?;
    check_group(db, key, name)?;
    if words.len() > 2 {
        return Err(subcommand_syntax(&subcommand));
    }
    let last = match id {
        b"$" => db.read_to_change::<Stream>(key)?.map(|stream| stream.entries().last).unwrap_or_default(),
        word => id_or_end(word, 0)?,
    };
    change(db, key, name, |group| {
        group.set(last, options.read);
        Change::Beside(())
    })?;
    reply.ok();
    Ok(())
}

/// `XGROUP DESTROY key group`
pub fn destroy(db: &mut Keyspace<'_>, reply: &mut Reply, (key, name): (&[u8], &[u8])) -> Result<()> {
    let destroyed = db.update_existing(key, |stream: &mut Stream, _| {
        let destroyed = stream.remove_group(name);
        Change::beside_when(destroyed, destroyed)
    })?;
    reply.integer(destroyed.ok_or(NO_KEY)?.into());
    Ok(())
}

/// `XGROUP CREATECONSUMER key group consumer`
pub fn create_consumer(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, name, consumer): (&[u8], &[u8], &[u8]),
) -> Result<()> {
    let now = db.now() as i64;
    check_group(db, key, name)?;
    let created = change(db, key, name, |group| {
        let (_, created) = group.owner_or_new(consumer, now);
        Change::beside_when(created, created)
    })?;
    reply.integer(created.unwrap_or_default().into());
    Ok(())
}

/// `XGROUP DELCONSUMER key group consumer`
pub fn delete_consumer(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, name, consumer): (&[u8], &[u8], &[u8]),
) -> Result<()> {
    check_group(db, key, name)?;
    let deleted = change(db, key, name, |group| {
        let deleted = group.delete_consumer(consumer);
        Change::beside_when(deleted.is_some(), deleted.unwrap_or(0))
    })?;
    reply.integer(deleted.unwrap_or(0) as i64);
    Ok(())
}

/// `XGROUP HELP`
pub fn help(_: &mut Keyspace<'_>, reply: &mut Reply, (): ()) -> Result<()> {
    write_help(
        reply,
        "XGROUP",
        &[
            "CREATE <key> <groupname> <id|$> [option]",
            "    Create a new consumer group. Options are:",
            "    * MKSTREAM",
            "      Create the empty stream if it does not exist.",
            "    * ENTRIESREAD entries_read",
            "      Set the group's entries_read counter (internal use).",
            "CREATECONSUMER <key> <groupname> <consumer>",
            "    Create a new consumer in the specified group.",
            "DELCONSUMER <key> <groupname> <consumer>",
            "    Remove the specified consumer.",
            "DESTROY <key> <groupname>",
            "    Remove the specified group.",
            "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
            "    Set the current group ID and entries_read counter.",
        ],
    );
    Ok(())
}

/// The groups that may move to make or close a gap.
pub fn cost_of_moving(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    db.peek_collection::<Stream>(request.arg(2)).map_or(0, |stream| stream.groups().len())
}

/// The consumers of a group that may move to make room for a name.
pub fn cost_of_consumer(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    named(db, request).map_or(0, |group| group.consumer_len() / CONSUMERS_PER_ELEMENT)
}

/// Memory of a consumer, if the group has none of that name yet.
pub fn growth_of_consumer(group: &Group, name: &[u8]) -> usize {
    if group.owner(name).is_some() { 0 } else { CONSUMER_BYTES + name.len() }
}

/// All consumers and pending entries of the group that the third argument names.
pub fn cost_of_group(db: &Keyspace<'_>, request: Request<'_>) -> usize {
    named(db, request).map_or(0, |group| group.pending_len() + group.consumer_len())
}

fn named<'a>(db: &'a Keyspace<'_>, request: Request<'_>) -> Option<&'a Group> {
    db.peek_collection::<Stream>(request.arg(2))?.group(request.get(3)?)
}

fn check_group(db: &mut Keyspace<'_>, key: &[u8], name: &[u8]) -> Result<()> {
    let stream = db.read_to_change::<Stream>(key)?.ok_or(NO_KEY)?;
    stream.group(name).map(drop).ok_or_else(|| no_group(key, name))
}

/// Changes a group, if it exists.
pub fn change<R>(
    db: &mut Keyspace<'_>,
    key: &[u8],
    name: &[u8],
    change: impl FnOnce(&mut Group) -> Change<R>,
) -> Result<Option<R>> {
    let changed = db.update_existing(key, |stream: &mut Stream, _| {
        stream.change_group(name, |_, group| change(group)).map_or(Change::No(None), |change| change.map(Some))
    })?;
    Ok(changed.flatten())
}
