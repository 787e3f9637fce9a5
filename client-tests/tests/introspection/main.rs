//! Replies about the server itself, its commands and its clients, compared with those of the real servers.
//!
//! 1. Lines come from `lines.txt`, and are made for every command and subcommand of Dormouse: too few and too many
//!    arguments, `COMMAND INFO`, `DOCS`, `GETKEYS` and `GETKEYSANDFLAGS` with keys at many positions, `CONFIG GET` of
//!    every parameter. More lines come from [`space`]: the words that each subcommand takes, in every order.
//! 2. Each is asked in RESP2 and RESP3, by itself and in a transaction.
//! 3. Redis 7.0.15 has to agree, else Valkey 9.1.2 or Redis 8.10.2, which have the newer commands. Replies that depend
//!    on the server or on time are compared by their form alone ([`form`]). [`talks`] compares whole conversations.
//! 4. A reply that no server agrees with is refused, unless `differences.txt` has the line with a reason.

mod space;
mod talks;

use std::collections::{BTreeMap, BTreeSet};

use dormouse_client_tests::{
    Kind, Server, Settings,
    resp::{Connection, Reply},
};

const TEST: &str = "comparison of introspection with real servers";

#[test]
fn introspection_is_answered_as_by_the_real_servers() {
    let kinds: Vec<Kind> =
        [Kind::Redis, Kind::Valkey, Kind::Redis8].into_iter().filter(|kind| kind.is_present(TEST)).collect();
    if !kinds.contains(&Kind::Redis) {
        return;
    }
    let ours = Server::start_with(Kind::under_test(), Settings::default());
    let theirs: Vec<Server> = kinds.iter().map(|kind| Server::start_with(*kind, Settings::default())).collect();
    let lines = lines(ours.port());
    let known = differences();
    let mut met = BTreeSet::new();
    let mut refused = Vec::new();
    let (mut compared, mut newer) = (0, 0);
    for mode in [Mode(2, false), Mode(2, true), Mode(3, false), Mode(3, true)] {
        let mut us = open(ours.port(), mode);
        let mut them: Vec<Connection> = theirs.iter().map(|server| open(server.port(), mode)).collect();
        for line in &lines {
            // Thousands of lines, whose replies depend little on the mode.
            if line.starts_with("COMMAND GETKEYS") && mode.0 == 3 {
                continue;
            }
            let said = ask(&mut us, line, mode);
            let replies: Vec<_> = them.iter_mut().map(|connection| ask(connection, line, mode)).collect();
            compared += 1;
            match replies.iter().position(|reply| agree(line, &said, reply)) {
                Some(0) => {}
                Some(_) => newer += 1,
                None if lists_known_commands(line, &said, &replies) => newer += 1,
                None if known.contains_key(line.as_str()) => _ = met.insert(line.clone()),
                // Commands newer than 7.0 cannot be judged without a server that has them.
                None if kinds.len() < 3 => {}
                None => {
                    let replies: Vec<String> = kinds
                        .iter()
                        .zip(&replies)
                        .map(|(kind, reply)| format!("\n  {}: {reply:?}", kind.name()))
                        .collect();
                    refused.push(format!("{mode:?} {line}\n  ours: {said:?}{}", replies.concat()));
                }
            }
        }
    }
    println!("{compared} replies compared, {newer} of them with a newer server than Redis 7.0");
    refused.iter().for_each(|text| println!("{text}"));
    assert!(refused.is_empty(), "{} replies differ and are not listed with a reason", refused.len());
    let idle: Vec<_> = known.keys().filter(|line| !met.contains(**line)).collect();
    assert!(kinds.len() < 3 || idle.is_empty(), "these differ no more: {idle:?}");
}

/// The protocol version, and whether each line is a transaction.
#[derive(Clone, Copy, Debug)]
struct Mode(u8, bool);

fn open(port: u16, mode: Mode) -> Connection {
    let mut connection = Connection::open(port);
    if mode.0 == 3 {
        connection.run("HELLO 3");
    }
    connection
}

/// The replies to a line. In a transaction: the reply when it was queued, and its part of EXEC's reply, or EXEC's
/// error.
#[derive(Debug, PartialEq)]
struct Said {
    queued: Option<Reply>,
    reply: Reply,
}

fn ask(connection: &mut Connection, line: &str, Mode(_, in_transaction): Mode) -> Said {
    let words: Vec<Vec<u8>> = line.split(' ').map(word).collect();
    if !in_transaction {
        return Said { queued: None, reply: canonical(connection.call(&words)) };
    }
    connection.run("MULTI");
    let queued = Some(connection.call(&words));
    let reply = match connection.run("EXEC") {
        Reply::Many('*', Some(mut items)) if items.len() == 1 => items.remove(0),
        other => other,
    };
    Said { queued, reply: canonical(reply) }
}

fn word(text: &str) -> Vec<u8> {
    if text == "\"\"" { Vec::new() } else { text.replace("\\t", "\t").into_bytes() }
}

/// Sorts sets and maps.
fn canonical(reply: Reply) -> Reply {
    match reply {
        Reply::Many(kind, Some(items)) => {
            let mut items: Vec<Reply> = items.into_iter().map(canonical).collect();
            match kind {
                '~' => items.sort(),
                '%' => {
                    let mut pairs: Vec<Vec<Reply>> = items.chunks(2).map(<[Reply]>::to_vec).collect();
                    pairs.sort();
                    items = pairs.concat();
                }
                _ => {}
            }
            Reply::Many(kind, Some(items))
        }
        other => other,
    }
}

/// Whether each command of a list is one of some server's: none of them has all.
fn lists_known_commands(line: &str, ours: &Said, theirs: &[Said]) -> bool {
    // Redis spells the commands of modules as they were registered.
    let lower = |name: &Reply| text(name).map(|name| name.to_ascii_lowercase());
    let names = |said: &Said| said.reply.items().unwrap_or_default().iter().filter_map(lower).collect::<Vec<_>>();
    let known: BTreeSet<String> = theirs.iter().flat_map(names).collect();
    line.to_ascii_uppercase().starts_with("COMMAND LIST")
        && theirs.iter().any(|theirs| theirs.queued == ours.queued)
        && names(ours).iter().all(|name| is_own(name) || known.contains(name))
}

fn agree(line: &str, ours: &Said, theirs: &Said) -> bool {
    ours.queued == theirs.queued && (ours.reply == theirs.reply || form(line, &ours.reply, &theirs.reply))
}

/// Whether two replies that are about the server itself, or about time, have the same form.
fn form(line: &str, ours: &Reply, theirs: &Reply) -> bool {
    if let (Some(ours), Some(theirs)) = (error(ours), error(theirs)) {
        // Each server lists its own values.
        let list = "argument(s) must be one of the following: ";
        return match (ours.split_once(list), theirs.split_once(list)) {
            (Some((ours, _)), Some((theirs, _))) => ours == theirs,
            _ => false,
        };
    }
    if ours.is_error() || theirs.is_error() {
        return false;
    }
    let upper = line.to_ascii_uppercase();
    let words: Vec<&str> = upper.split(' ').collect();
    let texts = |reply: &Reply| -> Vec<Vec<u8>> {
        reply.items().unwrap_or_default().iter().filter_map(Reply::bytes).map(<[u8]>::to_vec).collect()
    };
    match words[..] {
        // Every line of ours is one of theirs, in their order. Their last line has lost a letter after Redis 7.
        [_, "HELP"] => {
            let lines = |reply| {
                texts(reply)
                    .into_iter()
                    .map(|line| if line == b"    Prints this help." { b"    Print this help.".to_vec() } else { line })
            };
            let mut rest = lines(theirs);
            lines(ours).all(|line| rest.any(|other| other == line))
        }
        ["CONFIG", "GET", ..] => pairs(ours) == pairs(theirs),
        // These servers keep no append-only file, so nothing is ever durable there.
        ["WAITAOF", ..] => match (ours.items(), theirs.items()) {
            (Some([ours_durable, ours_replicas]), Some([_, their_replicas])) => {
                [Some(0.0), Some(1.0)].contains(&ours_durable.number()) && ours_replicas == their_replicas
            }
            _ => false,
        },
        // Other lines compare single commands.
        ["COMMAND"] | ["COMMAND", "INFO" | "DOCS" | "COUNT"] => same_kind(ours, theirs),
        ["COMMAND", "LIST", ..] => {
            let theirs: Vec<Vec<u8>> = texts(theirs).iter().map(|name| name.to_ascii_lowercase()).collect();
            texts(ours).iter().all(|name| is_own(&String::from_utf8_lossy(name)) || theirs.contains(name))
        }
        // The server's own tests compare the rows with Redis 7.2's.
        ["COMMAND", "INFO", ..] => {
            let (ours, theirs) = (ours.items().unwrap_or_default(), theirs.items().unwrap_or_default());
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same_kind(ours, theirs))
        }
        ["COMMAND", "DOCS", ..] => same_docs(ours, theirs),
        ["CLIENT", "INFO" | "LIST", ..] => {
            let fields = |reply: &Reply| -> Vec<String> {
                let text = String::from_utf8_lossy(reply.bytes().unwrap_or_default()).into_owned();
                let first = text.lines().next().unwrap_or_default();
                first.split(' ').filter_map(|field| Some(field.split_once('=')?.0.to_string())).collect()
            };
            let ours = fields(ours);
            let mut rest = ours.iter();
            fields(theirs).iter().all(|name| rest.any(|other| other == name))
        }
        ["CLIENT", "ID"] | ["TIME" | "LASTSAVE"] | ["INFO", ..] | ["SLOWLOG" | "COMMANDLOG", "GET" | "LEN", ..] => {
            same_kind(ours, theirs)
        }
        ["LATENCY", "LATEST" | "HISTORY" | "HISTOGRAM", ..] | ["MEMORY", "USAGE", ..] => same_kind(ours, theirs),
        ["OBJECT", "IDLETIME" | "REFCOUNT", ..] => ours.number().is_some() && theirs.number().is_some(),
        _ => false,
    }
}

/// Returns the kind of a reply, and its pairs in order.
fn pairs(reply: &Reply) -> Option<(char, Vec<Vec<Reply>>)> {
    let Reply::Many(kind, Some(items)) = reply else { return None };
    let mut pairs: Vec<Vec<Reply>> = items.chunks(2).map(<[Reply]>::to_vec).collect();
    pairs.sort();
    Some((*kind, pairs))
}

fn same_kind(ours: &Reply, theirs: &Reply) -> bool {
    match (ours, theirs) {
        (Reply::Line(a, _), Reply::Line(b, _)) => a == b,
        (Reply::Bulk(a, ours), Reply::Bulk(b, theirs)) => a == b && ours.is_some() == theirs.is_some(),
        (Reply::Many(a, ours), Reply::Many(b, theirs)) => a == b && ours.is_some() == theirs.is_some(),
        (Reply::Null, Reply::Null) => true,
        _ => false,
    }
}

/// Whether the same commands are documented, with Redis 7.2's group, first version and arguments. The words are our
/// own.
fn same_docs(ours: &Reply, theirs: &Reply) -> bool {
    let field = |docs: &Reply, name: &str| -> Option<Reply> {
        let items = docs.items()?;
        items.chunks(2).find(|pair| pair[0].bytes() == Some(name.as_bytes())).map(|pair| pair[1].clone())
    };
    let (ours, theirs) = (ours.items().unwrap_or_default(), theirs.items().unwrap_or_default());
    ours.len() == theirs.len()
        && ours.chunks(2).zip(theirs.chunks(2)).all(|(ours, theirs)| {
            let same = |name| field(&ours[1], name) == field(&theirs[1], name);
            // Redis spells the commands of modules as they were registered.
            let lower = |name: &Reply| text(name).map(|name| name.to_ascii_lowercase());
            lower(&ours[0]) == lower(&theirs[0])
                && ["since", "group"].into_iter().all(same)
                && field(&ours[1], "arguments").map(plain) == field(&theirs[1], "arguments").map(plain)
                && ["summary", "complexity"].into_iter().all(|name| field(&ours[1], name).is_some())
        })
}

/// Returns arguments without those newer than Redis 7.2, without their display texts, which are newer too, and without what
/// is said of them.
fn plain(arguments: Reply) -> Reply {
    let is_newer = |fields: &[Reply]| {
        let since = fields.chunks(2).find(|pair| pair[0].bytes() == Some(b"since")).and_then(|pair| text(&pair[1]));
        let numbers = |version: String| version.split('.').filter_map(|part| part.parse().ok()).collect::<Vec<u32>>();
        since.map(numbers).is_some_and(|version| version > vec![7, 2, 99])
    };
    let one = |argument: &Reply| {
        let fields = argument.items()?;
        let is_left_out = |name: &Reply| [Some(&b"display_text"[..]), Some(b"summary")].contains(&name.bytes());
        let kept = fields.chunks(2).filter(|pair| !is_left_out(&pair[0]));
        let plain = kept.flat_map(|pair| match pair[0].bytes() {
            Some(b"arguments") => vec![pair[0].clone(), plain(pair[1].clone())],
            _ => pair.to_vec(),
        });
        (!is_newer(fields)).then(|| Reply::Many('%', Some(plain.collect())))
    };
    Reply::Many('*', Some(arguments.items().unwrap_or_default().iter().filter_map(one).collect()))
}

/// Returns the lines of the file, and those that are made from the commands of the server under test.
fn lines(port: u16) -> Vec<String> {
    let written = include_str!("lines.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut lines: Vec<String> = written.map(str::to_string).collect();
    let mut connection = Connection::open(port);
    let names = connection.run("COMMAND LIST");
    let names: BTreeSet<String> = names.items().expect("a list").iter().filter_map(text).collect();
    for name in names.iter().filter(|name| !is_own(name)) {
        lines.push(format!("COMMAND INFO {name}"));
        lines.push(format!("COMMAND DOCS {name}"));
        let words = name.replace('|', " ");
        for arguments in
            ["", " a", " a b", " a b c", " 1 a", " a 1 b", " 2 a b", " a 2 b c", " a 2 b", " a 0", " 0 a", " a b c d e"]
        {
            lines.push(format!("COMMAND GETKEYS {words}{arguments}"));
            lines.push(format!("COMMAND GETKEYSANDFLAGS {words}{arguments}"));
        }
        // Subcommands with wrong numbers of words. Right numbers come from the file only, since the command may have an
        // effect.
        if name.contains('|') {
            let arity = arity(&mut connection, name);
            for more in 0..5i64 {
                if if arity > 0 { 2 + more != arity } else { 2 + more < -arity } {
                    lines.push(format!("{words}{}", " x".repeat(more as usize)));
                }
            }
        }
    }
    let parameters = connection.run("CONFIG GET *");
    let parameters: BTreeSet<String> =
        parameters.items().expect("pairs").chunks(2).filter_map(|pair| text(&pair[0])).collect();
    lines.extend(parameters.iter().map(|name| format!("CONFIG GET {name}")));
    lines.extend(space::lines());
    lines
}

/// Whether a command is one that none of these servers has: our own, Upstash's, and those of modules that they come without.
fn is_own(name: &str) -> bool {
    let starts = ["dormouse", "json.", "bf.", "cf."];
    starts.iter().any(|start| name.starts_with(start)) || ["once", "acl|resttoken"].contains(&name)
}

fn error(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Line('-', text) => Some(text),
        _ => None,
    }
}

fn text(reply: &Reply) -> Option<String> {
    reply.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn arity(connection: &mut Connection, name: &str) -> i64 {
    let info = connection.run(&format!("COMMAND INFO {name}"));
    let arity = info.items().and_then(|rows| rows.first()?.items()?.get(1)?.number());
    arity.expect("a row has an arity") as i64
}

/// Returns the known differences, with their reasons.
fn differences() -> BTreeMap<&'static str, &'static str> {
    let lines = include_str!("differences.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let known: BTreeMap<_, _> = lines.map(|line| line.split_once(" = ").expect("a line, ` = `, a reason")).collect();
    known.iter().for_each(|(line, reason)| {
        assert!(!reason.is_empty() && !reason.contains("not implemented"), "{line}: `{reason}` is no reason")
    });
    known
}
