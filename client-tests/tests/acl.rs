//! Users and their rules: as the real servers have them, and kept through crashes, sleep and branches.
//!
//! 1. Rules are drawn at random over the commands and categories that both servers have, and given to both with `ACL
//!    SETUSER`. The replies must be the same, and with the newer servers, which show rules as they were given, so must
//!    `ACL LIST` and `ACL GETUSER`.
//! 2. Commands that both servers have, with the same categories and the same number of arguments, are then asked for
//!    with `ACL DRYRUN`. The reply must be the same; of Redis 7.0, which words it otherwise, the verdict.

use std::collections::BTreeMap;

use dormouse_client_tests::{
    Kind, Server, Settings,
    resp::{Connection, Reply, request},
    script::Random,
};

const TEST: &str = "comparison of users with real servers";
/// Users that are compared with each server.
const USERS: usize = 150;
/// Commands that are asked for as each user.
const COMMANDS: usize = 200;

#[test]
fn users_are_those_of_redis() {
    compare(Kind::Redis, 1);
}

#[test]
fn users_are_those_of_valkey() {
    compare(Kind::Valkey, 2);
}

#[test]
fn users_are_those_of_redis_8() {
    compare(Kind::Redis8, 3);
}

/// The categories and the arity of a command.
type Traits = (Vec<String>, i64);

fn compare(peer: Kind, seed: u64) {
    if !peer.is_present(TEST) {
        return;
    }
    let ours = Server::start_with(Kind::under_test(), Settings::default());
    let theirs = Server::start_with(peer, Settings::default());
    let (mut us, mut them) = (Connection::open(ours.port()), Connection::open(theirs.port()));
    let known = commands(&mut us);
    let others = commands(&mut them);
    // Where the categories of commands differ, categories permit different commands.
    let common: Vec<(&String, i64)> = known
        .iter()
        // Redis 7.0 and Valkey find no key in a PFMERGE without a source.
        .filter(|(name, _)| *name != "pfmerge")
        // For Valkey, `OBJECT HELP` uses a logical database.
        .filter(|(name, _)| !name.ends_with("|help"))
        .filter(|(name, traits)| traits.1 != 0 && others.get(*name) == Some(traits))
        .map(|(name, (_, arity))| (name, *arity))
        .collect();
    assert!(common.len() > 200, "only {} commands are the same", common.len());
    let names: Vec<&str> = known.keys().filter(|name| others.contains_key(*name)).map(String::as_str).collect();
    let mut random = Random::new(seed);
    let mut denied = 0;
    for turn in 0..USERS {
        let rules: Vec<String> = (0..1 + random.below(8)).map(|_| rule(&mut random, &names, peer)).collect();
        let mut words = vec!["ACL", "SETUSER", "u"];
        if turn % 2 == 0 {
            words.push("reset");
        }
        words.extend(rules.iter().map(String::as_str));
        let shown = words.join(" ");
        let reply = us.call(&words);
        assert_eq!(reply, them.call(&words), "{shown}");
        if peer != Kind::Redis {
            let listed = |reply: Reply| {
                let lines = reply.items().expect("users").iter().map(|line| line.bytes().map(<[u8]>::to_vec));
                lines.map(|line| without_flags(line.expect("a line"))).collect::<Vec<_>>()
            };
            assert_eq!(listed(us.run("ACL LIST")), listed(them.run("ACL LIST")), "{shown}");
        }
        let lines: Vec<Vec<String>> = (0..COMMANDS).map(|_| line(&mut random, &common)).collect();
        let ask = |connection: &mut Connection| -> Vec<Reply> {
            let bytes: Vec<u8> = lines.iter().flat_map(|line| request(line)).collect();
            connection.write(&bytes).expect("the server reads");
            lines.iter().map(|_| connection.read().expect("the server replies")).collect()
        };
        let (replies, expected) = (ask(&mut us), ask(&mut them));
        for ((line, ours), theirs) in lines.iter().zip(&replies).zip(&expected) {
            let same = match peer {
                Kind::Redis => verdict(ours) == verdict(theirs),
                // Valkey tells either a denied database or a denied command, in an order of its own, and passes over
                // numbers of databases that are none.
                _ if is_of_database(theirs) => verdict(ours) != Some("OK"),
                _ if is_of_database(ours) => true,
                _ => ours == theirs,
            };
            assert!(same, "{shown}\n{}\n  ours: {ours:?}\n  {}: {theirs:?}", line.join(" "), peer.name());
            denied += usize::from(verdict(ours) != Some("OK"));
        }
    }
    let all = USERS * COMMANDS;
    println!("{all} verdicts about {} commands, {denied} of them denials", common.len());
    assert!((all / 10..all * 9 / 10).contains(&denied), "{denied} of {all} verdicts are denials");
}

/// All commands and subcommands.
fn commands(connection: &mut Connection) -> BTreeMap<String, Traits> {
    let text = |reply: &Reply| match reply {
        Reply::Line(_, text) => text.clone(),
        other => String::from_utf8_lossy(other.bytes().expect("a text")).into_owned(),
    };
    let mut found = BTreeMap::new();
    let mut rows: Vec<Reply> = connection.run("COMMAND").items().expect("rows").to_vec();
    while let Some(row) = rows.pop() {
        let fields = row.items().expect("a row");
        let mut categories: Vec<String> = fields[6].items().expect("categories").iter().map(text).collect();
        categories.sort();
        // A malformed request of a command whose keys move has no keys for Redis, and may have some for us.
        let moves = fields[2].items().expect("flags").iter().any(|flag| text(flag) == "movablekeys");
        let arity = if moves { 0 } else { fields[1].number().expect("an arity") as i64 };
        found.insert(text(&fields[0]), (categories, arity));
        rows.extend(fields[9].items().expect("subcommands").iter().cloned());
    }
    found
}

const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
];

const WORDS: &[&str] = &["a", "b", "ab", "1", "2", "c*"];

const PATTERNS: &[&str] = &["*", "a*", "b", "ab", "?", "[a-b]*", "1", "", "c*"];

fn rule(random: &mut Random, names: &[&str], peer: Kind) -> String {
    let sign = if random.one_in(3) { "-" } else { "+" };
    match random.below(14) {
        0..=2 => format!("{sign}{}", random.pick(names)),
        3..=5 => format!("{sign}@{}", random.pick(CATEGORIES)),
        6 => format!("{}{}", random.pick(&["~", "%R~", "%W~", "%RW~"]), random.pick(PATTERNS)),
        7 => format!("&{}", random.pick(PATTERNS)),
        8 => random.pick(&["allkeys", "resetkeys", "allchannels", "resetchannels"]).to_string(),
        9 => random.pick(&["+@all", "-@all", "allcommands", "nocommands", "+@ALL"]).to_string(),
        10 => random.pick(&["on", "off", "nopass", "resetpass", ">secret", "<secret", "clearselectors"]).to_string(),
        11 => format!("+select|{}", random.pick(WORDS)),
        12 => {
            let rules: Vec<String> = (0..1 + random.below(3))
                .map(|_| rule(random, names, peer))
                .filter(|rule| !rule.contains('('))
                .collect();
            format!("({})", rules.join(" "))
        }
        _ if peer == Kind::Valkey => random.pick(&["db=0", "db=1,2", "alldbs", "resetdbs", "db=x"]).to_string(),
        _ => random.pick(&["+nope", "+@nope", "nope", "+config|nope", "%X~a", "+select|", "#12"]).to_string(),
    }
}

/// `ACL DRYRUN` of a command with as many arguments as it needs, or some more.
fn line(random: &mut Random, common: &[(&String, i64)]) -> Vec<String> {
    let (name, arity) = random.pick(common);
    let mut words: Vec<String> = ["ACL", "DRYRUN", "u"].map(str::to_string).to_vec();
    words.extend(name.split('|').map(str::to_string));
    let more = if *arity < 0 { random.below(3) } else { 0 };
    let len = 3 + arity.unsigned_abs() as usize + more;
    while words.len() < len {
        words.push(random.pick(WORDS).to_string());
    }
    words
}

/// The answer of `ACL DRYRUN` in words of our own: `OK`, or the denied part.
fn verdict(reply: &Reply) -> Option<&'static str> {
    let text = match reply {
        Reply::Line('+', _) => return Some("OK"),
        Reply::Line('-', _) => return Some("an error"),
        other => String::from_utf8_lossy(other.bytes()?).into_owned(),
    };
    ["command", "key", "channel"].into_iter().find(|what| text.ends_with(what))
}

/// Whether a logical database is denied.
fn is_of_database(reply: &Reply) -> bool {
    reply.bytes().is_some_and(|text| String::from_utf8_lossy(text).contains("access database"))
}

/// A line of `ACL LIST` without a flag that Redis shows and Valkey does not.
fn without_flags(line: Vec<u8>) -> String {
    String::from_utf8_lossy(&line).replace(" sanitize-payload", "")
}

/// Acknowledged users survive a crash and a sleep, and are copied into a branch.
#[test]
fn users_outlive_crashes_and_sleep() {
    let mut server = Server::start_with(Kind::Dormouse, Settings::default());
    let mut admin = Connection::open(server.port());
    let mut expected = Vec::new();
    let said = |connection: &mut Connection, line: &str| format!("{:?}", connection.run(line));
    for round in 0..8 {
        assert_eq!(
            said(&mut admin, &format!("ACL SETUSER user{round} on >pw{round} ~k{round}* +@all -flushall")),
            "+OK"
        );
        assert_eq!(said(&mut admin, &format!("SET k{round} v")), "+OK");
        if round % 3 == 0 {
            assert_eq!(said(&mut admin, "DORMOUSE CHECKPOINT"), "+OK");
        }
        if round % 4 == 1 {
            assert_eq!(said(&mut admin, &format!("ACL DELUSER user{}", round - 1)), ":1");
        }
        if round == 5 {
            assert_eq!(said(&mut admin, "DORMOUSE BRANCH pr"), "+OK");
        }
        if round % 2 == 0 {
            assert_eq!(said(&mut admin, "DORMOUSE SLEEP"), "+OK");
        }
        expected = admin.run("ACL LIST").items().expect("users").to_vec();
        if round % 2 == 1 {
            server.crash();
        } else {
            server.restart();
        }
        admin = Connection::open(server.port());
        assert_eq!(admin.run("ACL LIST").items(), Some(&expected[..]), "round {round}");
        // After a crash, the server brings what the log has into the store.
        let info = admin.run("INFO").bytes().map(|text| String::from_utf8_lossy(text).into_owned());
        let info = info.expect("a text");
        assert!(round % 2 == 1 || info.contains("awake:0"), "users are known without a wake: {info}");
        let mut user = Connection::open(server.port());
        assert_eq!(said(&mut user, &format!("AUTH user{round} pw{round}")), "+OK");
        assert_eq!(said(&mut user, "GET other"), "-NOPERM No permissions to access a key");
    }
    assert!(expected.len() > 5);
    let mut branch = Connection::open(server.port());
    assert_eq!(said(&mut branch, "AUTH user5 dm_default.pr_pw5"), "+OK");
    assert_eq!(said(&mut branch, "GET k5"), "\"v\"");
    assert!(said(&mut Connection::open(server.port()), "AUTH user6 dm_default.pr_pw6").starts_with("-WRONGPASS"));
}
