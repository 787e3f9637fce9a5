//! `COMMAND`: describes each command from its row in the command table, in the format of Redis 7.2.

use std::borrow::Cow;

use dormouse_protocol::glob::Glob;
use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_shard::commands::args::{Args, Argument, Rest, parse};
use dormouse_shard::commands::{Access, Category, Command, Family, Find, Flags, KeySpec, at_least, exactly};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::execution::budget::TURN;
use dormouse_shard::execution::once;

use crate::commands::TABLE;
use crate::commands::{arguments, help, now, parsed};
use crate::session::Session;
use crate::table::{CommandEntry, Handler, SessionRun, Weighed};

const ANY_TIME: Flags = Flags::LOADING.union(Flags::STALE);
const UNORDERED: &[&str] = &["nondeterministic_output_order"];

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::CONNECTION,
    commands: &[Command::new("COMMAND", at_least(1), &[], ANY_TIME, now!(all))
        .doc(
            "2.8.13",
            "O(N) where N is the total number of Redis commands",
            "Returns detailed information about all commands.",
        )
        .tips(UNORDERED)
        .stateless(true)
        .subcommands(&[
            Command::new("COUNT", exactly(2), &[], ANY_TIME, now!(count, 2)).doc(
                "2.8.13",
                "O(1)",
                "Returns a count of commands.",
            ),
            Command::new("INFO", at_least(2), &[], ANY_TIME, SessionRun::Weighed(INFO))
                .doc(
                    "2.8.13",
                    "O(N) where N is the number of commands to look up",
                    "Returns information about one, multiple or all commands.",
                )
                .tips(UNORDERED),
            Command::new("DOCS", at_least(2), &[], ANY_TIME, SessionRun::Weighed(DOCS))
                .doc(
                    "7.0.0",
                    "O(N) where N is the number of commands to look up",
                    "Returns documentary information about one, multiple or all commands.",
                )
                .tips(UNORDERED),
            Command::new("LIST", at_least(2), &[], ANY_TIME, now!(list, 2))
                .doc("7.0.0", "O(N) where N is the total number of Redis commands", "Returns a list of command names.")
                .tips(UNORDERED),
            Command::new("GETKEYS", at_least(3), &[], ANY_TIME, SessionRun::Now(getkeys)).doc(
                "2.8.13",
                "O(N) where N is the number of arguments to the command",
                "Extracts the key names from an arbitrary command.",
            ),
            Command::new("GETKEYSANDFLAGS", at_least(3), &[], ANY_TIME, SessionRun::Now(getkeysandflags)).doc(
                "7.0.0",
                "O(N) where N is the number of arguments to the command",
                "Extracts the key names and access flags for an arbitrary command.",
            ),
            Command::new("HELP", exactly(2), &[], ANY_TIME, now!(show_help, 2)).doc(
                "5.0.0",
                "O(1)",
                "Returns helpful text about the different subcommands.",
            ),
        ])],
};

/// Cost of describing one command, in elements.
const COST_OF_COMMAND: usize = 100;
/// Number of commands that are described in one turn.
const COMMANDS_OF_A_TURN: usize = TURN / COST_OF_COMMAND;

const INFO: Weighed = Weighed {
    run: parsed!(info, 2),
    weigh: weigh_names,
    in_turns: |session, reply, request| Box::pin(info_in_turns(session, reply, request)),
};
const DOCS: Weighed = Weighed {
    run: parsed!(docs, 2),
    weigh: weigh_names,
    in_turns: |session, reply, request| Box::pin(docs_in_turns(session, reply, request)),
};

fn weigh_names(_: &Session, request: Request<'_>) -> usize {
    COST_OF_COMMAND.saturating_mul(request.len().saturating_sub(2))
}

/// `COMMAND`
fn all(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    reply.array(TABLE.commands().count());
    TABLE.commands().for_each(|entry| write_info(reply, entry));
    Ok(())
}

/// `COMMAND COUNT`
fn count(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    reply.integer(TABLE.commands().count() as i64);
    Ok(())
}

/// `COMMAND INFO [name [name ...]]`
fn info(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    if names.is_empty() {
        return all(session, reply, ());
    }
    reply.array(names.len());
    names.iter().for_each(|name| write_info_of(reply, name));
    Ok(())
}

/// The same for many names.
async fn info_in_turns(session: &Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let names = parse::<Rest<'_>>(request, 2)?;
    reply.array(names.len());
    for (at, name) in names.iter().enumerate() {
        write_info_of(reply, name);
        if at % COMMANDS_OF_A_TURN == 0 {
            session.pass_turn().await;
        }
    }
    Ok(())
}

fn write_info_of(reply: &mut Reply, name: &[u8]) {
    match TABLE.by_full_name(name) {
        Some(entry) => write_info(reply, entry),
        None => reply.null(),
    }
}

/// The ten elements of a command.
fn write_info(reply: &mut Reply, entry: &CommandEntry) {
    let row = entry.row;
    let (first, last, step) = row.key_range();
    reply.array(10);
    reply.bulk(entry.name.as_bytes());
    reply.integer(i64::from(row.arity.0));
    write_names(reply, row.flags_derived().names());
    reply.integer(first);
    reply.integer(last);
    reply.integer(step);
    write_names(reply, categories(entry).names());
    reply.set(row.tips.len());
    row.tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    reply.set(row.keys.len());
    row.keys.iter().for_each(|spec| write_key_spec(reply, spec));
    if entry.subcommands.is_empty() {
        reply.set(0);
    } else {
        reply.array(entry.subcommands.len());
        entry.subcommands.iter().for_each(|&id| write_info(reply, TABLE.get(id)));
    }
}

/// Returns all ACL categories of a command.
pub fn categories(entry: &CommandEntry) -> Category {
    match entry.action {
        Handler::Container => Category::SLOW,
        _ => entry.row.categories(entry.category),
    }
}

fn write_names(reply: &mut Reply, names: impl Iterator<Item = &'static str>) {
    let names: Vec<&str> = names.collect();
    reply.set(names.len());
    names.iter().for_each(|name| reply.simple(name));
}

fn write_key_spec(reply: &mut Reply, spec: &KeySpec) {
    reply.map(3 + usize::from(!spec.notes.is_empty()));
    if !spec.notes.is_empty() {
        reply.bulk(b"notes");
        reply.bulk(spec.notes.as_bytes());
    }
    reply.bulk(b"flags");
    write_names(reply, spec.access.names());
    reply.bulk(b"begin_search");
    match spec.find {
        Find::Range { first, .. } => write_search(reply, "index", &[("index", i64::from(first))]),
        Find::Counted { at, .. } => write_search(reply, "index", &[("index", i64::from(at))]),
        Find::After { word, from } => write_search_of_word(reply, word, from),
        Find::Streams { from } => write_search_of_word(reply, "STREAMS", from),
        Find::Store | Find::Unknown => write_search(reply, "unknown", &[]),
    }
    reply.bulk(b"find_keys");
    match spec.find {
        Find::Range { last, step, .. } => {
            let fields = [("lastkey", i64::from(last)), ("keystep", i64::from(step)), ("limit", 0)];
            write_search(reply, "range", &fields);
        }
        Find::After { .. } => write_search(reply, "range", &[("lastkey", 0), ("keystep", 1), ("limit", 0)]),
        Find::Streams { .. } => write_search(reply, "range", &[("lastkey", -1), ("keystep", 1), ("limit", 2)]),
        Find::Counted { step, .. } => {
            write_search(reply, "keynum", &[("keynumidx", 0), ("firstkey", 1), ("keystep", i64::from(step))]);
        }
        Find::Store | Find::Unknown => write_search(reply, "unknown", &[]),
    }
}

fn write_search_of_word(reply: &mut Reply, word: &str, from: u8) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"keyword");
    reply.bulk(b"spec");
    reply.map(2);
    reply.bulk(b"keyword");
    reply.bulk(word.as_bytes());
    reply.bulk(b"startfrom");
    reply.integer(from.into());
}

fn write_search(reply: &mut Reply, kind: &str, fields: &[(&str, i64)]) {
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(kind.as_bytes());
    reply.bulk(b"spec");
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.integer(*value);
    }
}

/// `COMMAND DOCS [name [name ...]]`
fn docs(_: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    let found: Vec<&CommandEntry> = match names.is_empty() {
        true => TABLE.commands().collect(),
        false => names.iter().filter_map(|name| TABLE.by_full_name(name)).collect(),
    };
    reply.map(found.len());
    found.iter().for_each(|entry| write_docs(reply, entry));
    Ok(())
}

/// The same for many names.
async fn docs_in_turns(session: &Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let mut names = parse::<Rest<'_>>(request, 2)?;
    let mut found: Vec<&CommandEntry> = Vec::new();
    while let Some((some, rest)) = names.split_at(names.len().min(TURN)).filter(|(some, _)| !some.is_empty()) {
        found.extend(some.iter().filter_map(|name| TABLE.by_full_name(name)));
        names = rest;
        session.pass_turn().await;
    }
    reply.map(found.len());
    for some in found.chunks(COMMANDS_OF_A_TURN) {
        some.iter().for_each(|entry| write_docs(reply, entry));
        session.pass_turn().await;
    }
    Ok(())
}

fn write_docs(reply: &mut Reply, entry: &CommandEntry) {
    let row = entry.row;
    reply.bulk(entry.name.as_bytes());
    let fields =
        [("summary", row.summary), ("since", row.since), ("group", entry.group), ("complexity", row.complexity)];
    let has_subcommands = !entry.subcommands.is_empty();
    let arguments = arguments::of(&entry.name);
    reply.map(fields.len() + usize::from(!arguments.is_empty()) + usize::from(has_subcommands));
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    if !arguments.is_empty() {
        reply.bulk(b"arguments");
        arguments::write(reply, arguments);
    }
    if has_subcommands {
        reply.bulk(b"subcommands");
        reply.map(entry.subcommands.len());
        entry.subcommands.iter().for_each(|&id| write_docs(reply, TABLE.get(id)));
    }
}

/// `COMMAND LIST [FILTERBY <MODULE name | ACLCAT category | PATTERN pattern>]`
fn list(_: &mut Session, reply: &mut Reply, (filter,): (Option<Filter>,)) -> Result<()> {
    let start = reply.len();
    let mut found = 0;
    let glob = match &filter {
        Some(Filter::Pattern(pattern)) => Some(Glob::nocase(pattern)?),
        _ => None,
    };
    for entry in TABLE.entries() {
        let takes = match &filter {
            None => true,
            Some(Filter::Module) => false,
            Some(Filter::Category(wanted)) => {
                categories(entry).names().any(|name| name.as_bytes()[1..].eq_ignore_ascii_case(wanted))
            }
            Some(Filter::Pattern(_)) => glob.as_ref().is_some_and(|glob| glob.matches(entry.name.as_bytes())),
        };
        if takes {
            reply.bulk(entry.name.as_bytes());
            found += 1;
        }
    }
    reply.array_since(start, found);
    Ok(())
}

enum Filter {
    /// Matches nothing: the server has no modules.
    Module,
    Category(Box<[u8]>),
    Pattern(Box<[u8]>),
}

impl<'a> Argument<'a> for Filter {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if !args.word("FILTERBY") || args.len() != 2 {
            return Err(Error::Syntax);
        }
        let word = args.upper().ok_or(Error::Syntax)?;
        args.skip();
        let value = args.bytes()?.into();
        match word.as_bytes() {
            b"MODULE" => Ok(Self::Module),
            b"ACLCAT" => Ok(Self::Category(value)),
            b"PATTERN" => Ok(Self::Pattern(value)),
            _ => Err(Error::Syntax),
        }
    }
}

/// `COMMAND GETKEYS command [arg ...]`
fn getkeys(_: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let keys = keys_of(request)?;
    reply.array(keys.len());
    keys.iter().for_each(|(key, _)| reply.bulk(key));
    Ok(())
}

/// `COMMAND GETKEYSANDFLAGS command [arg ...]`
fn getkeysandflags(_: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let keys = keys_of(request)?;
    reply.array(keys.len());
    for (key, access) in keys {
        reply.array(2);
        reply.bulk(key);
        write_names(reply, access.names());
    }
    Ok(())
}

/// Returns the keys of the command that follows the first two words, with the access to each.
fn keys_of(request: Request<'_>) -> Result<Vec<(&[u8], Access)>> {
    let refused = |text: &'static str| Error::Text(Cow::Borrowed(text));
    let mut words: Vec<&[u8]> = request.iter().skip(2).collect();
    let invalid = || refused("ERR Invalid command specified");
    let mut entry = TABLE.by_name(words[0]).ok_or_else(invalid)?;
    if matches!(entry.action, Handler::Session(SessionRun::Once)) && words.len() > once::WORDS {
        // Its keys are those of the command behind it.
        words.drain(..once::WORDS);
        entry = TABLE.by_name(words[0]).ok_or_else(invalid)?;
    }
    if let Some(sub) = words.get(1).filter(|_| !entry.subcommands.is_empty()) {
        entry = TABLE.subcommand(entry, sub).ok_or_else(invalid)?;
    }
    if !entry.row.has_keys() {
        return Err(refused("ERR The command has no key arguments"));
    }
    if !entry.row.arity.accepts(words.len()) {
        return Err(refused("ERR Invalid number of arguments specified for command"));
    }
    let owned = OwnedRequest::from_args(&words);
    let indexes = |spec: &'static KeySpec| spec.indexes(owned.as_request()).map(move |index| (index, spec));
    let access = |spec: &KeySpec| match entry.row.access {
        Some(access) if spec.access.contains(Access::VARIABLE_FLAGS) => access(owned.as_request()),
        _ => spec.access,
    };
    let keys: Vec<(&[u8], Access)> =
        entry.row.keys.iter().flat_map(indexes).map(|(index, spec)| (words[index], access(spec))).collect();
    let complete = entry.row.keys.iter().all(|spec| {
        let counted = matches!(spec.find, Find::Counted { .. });
        !counted || spec.indexes(owned.as_request()).next().is_some()
    });
    if complete && !keys.is_empty() || entry.row.flags.contains(Flags::NO_MANDATORY_KEYS) {
        return Ok(keys);
    }
    Err(refused("ERR Invalid arguments specified for command"))
}

/// `COMMAND HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "COMMAND",
        &[
            "(no subcommand)",
            "    Return details about all Redis commands.",
            "COUNT",
            "    Return the total number of commands in this Redis server.",
            "LIST",
            "    Return a list of all commands in this Redis server.",
            "INFO [<command-name> ...]",
            "    Return details about multiple Redis commands.",
            "    If no command names are given, documentation details for all",
            "    commands are returned.",
            "DOCS [<command-name> ...]",
            "    Return documentation details about multiple Redis commands.",
            "    If no command names are given, documentation details for all",
            "    commands are returned.",
            "GETKEYS <full-command>",
            "    Return the keys from a full Redis command.",
            "GETKEYSANDFLAGS <full-command>",
            "    Return the keys and the access flags from a full Redis command.",
        ],
    );
    Ok(())
}
