//! The command table beside those of Redis 7.2, Redis 8.10 and Valkey 9.1.
//!
//! - `peers.tsv` holds their tables: what `COMMAND INFO` and `COMMAND DOCS` answer, a line for each command and for each
//!   set of facts ([`peers`]).
//! - `words.txt` holds what a person has to write: why a command is missing, how one differs, and why a row differs
//!   ([`words`]).
//! - `info.txt` names the fields of Redis's `INFO`.
//! - [`page`] makes the generated part of `docs/compatibility.md` of both, and of the results of Redis's own test suite.
//!   `cargo xtask docs` writes it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod page;
mod peers;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../wire/served.rs"]
mod served;
mod words;

use std::collections::BTreeSet;
use std::path::Path;

use dormouse::commands::TABLE;

use peers::{Facts, Peers};
use served::{Served, Value};
use words::Words;

/// `INFO` has every field that Redis has, unless the page says that it has not.
#[test]
fn fields_of_info_are_there_or_named_as_absent() {
    let page = include_str!("../../../docs/compatibility.md");
    let (_, about) = page.split_once("- `INFO` has the fields of Redis 7.0.15 except").expect("an entry");
    let (about, _) = about.split_once("Of the fields of Valkey 9").expect("newer fields");
    let absent: BTreeSet<&str> = about.split('`').skip(1).step_by(2).collect();
    let server = Served::start(&[]);
    let info = server.connect().say("INFO everything");
    let ours: BTreeSet<&str> = info.text().lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    let theirs: BTreeSet<&str> =
        include_str!("info.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let silent: Vec<&str> =
        theirs.iter().filter(|name| !ours.contains(*name) && !absent.contains(*name)).copied().collect();
    assert!(silent.is_empty(), "neither there nor named as absent: {silent:?}");
    let stale: Vec<&str> =
        absent.iter().filter(|name| ours.contains(*name) || !theirs.contains(*name)).copied().collect();
    assert!(stale.is_empty(), "named as absent, but there, or not Redis's: {stale:?}");
}

/// Every command that a peer has too is described as there: as in Redis 7.2 if that has it, else as in Redis 8.10, else
/// as in Valkey 9.1.
#[test]
fn rows_are_those_of_the_peers() {
    let (peers, words) = (Peers::read(), Words::read());
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("HELLO 3");
    let ours = client.say("COMMAND");
    assert_eq!(client.say("COMMAND COUNT").integer() as usize, ours.items().len());
    assert_eq!(client.say("COMMAND INFO"), ours);
    let mut wrong = Vec::new();
    let mut excused = BTreeSet::new();
    let rows = ours.items().iter().flat_map(|row| [row].into_iter().chain(row.items()[9].items()));
    for row in rows {
        let name = row.items()[0].text();
        let Some(theirs) = peers.first(name) else {
            // That of ACL is Upstash's. Documents and filters are in modules that the peers are without.
            let is_of_module = ["json.", "bf.", "cf."].iter().any(|beginning| name.starts_with(beginning));
            if !name.starts_with("dormouse") && !is_of_module && !matches!(name, "once" | "acl|resttoken") {
                wrong.push(format!("{name}: no peer has it"));
            }
            continue;
        };
        let docs = client.say(&format!("COMMAND DOCS {name}"));
        let docs = docs.at(name);
        ["summary", "complexity"].iter().for_each(|field| assert!(!docs.at(field).text().is_empty(), "{name}"));
        let ours = facts(row, docs);
        for ((what, ours), (_, theirs)) in ours.columns().into_iter().zip(theirs.columns()) {
            if ours == theirs {
                continue;
            }
            match words.row(name, what) {
                Some(_) => _ = excused.insert((name.to_string(), what)),
                None => wrong.push(format!("{name}: {what}: {ours}, theirs: {theirs}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let idle: Vec<_> =
        words.rows().filter(|(name, what)| !excused.iter().any(|(n, w)| n == name && w == what)).collect();
    assert!(idle.is_empty(), "these differ no more: {idle:?}");
}

/// The facts of one of our rows, in the words of `peers.tsv`.
fn facts(row: &Value, docs: &Value) -> Facts {
    let [_, arity, flags, first, last, step, categories, tips, specs, _] = row.items() else {
        panic!("{row} has not ten elements");
    };
    let sorted = |value: &Value| {
        let names: BTreeSet<&str> = value.items().iter().map(|item| item.text().trim_start_matches('@')).collect();
        listed(names.into_iter())
    };
    let spec = |spec: &Value| {
        let part = |name: &str, words: &[&str]| {
            let search = spec.at(name);
            if search.at("type").text() == "unknown" {
                return "unknown".to_string();
            }
            let fields = search.at("spec");
            let shown = words.iter().map(|word| match fields.at(word) {
                Value::Integer(number) => number.to_string(),
                text => text.text().to_string(),
            });
            shown.collect::<Vec<_>>().join(" ")
        };
        let begin = match spec.at("begin_search").at("type").text() {
            "index" => part("begin_search", &["index"]),
            "keyword" => part("begin_search", &["keyword", "startfrom"]).replace(' ', " from "),
            _ => "unknown".to_string(),
        };
        let find = match spec.at("find_keys").at("type").text() {
            "range" => format!("range {}", part("find_keys", &["lastkey", "keystep", "limit"])),
            "keynum" => format!("keynum {}", part("find_keys", &["keynumidx", "firstkey", "keystep"])),
            _ => "unknown".to_string(),
        };
        let notes = spec.items().chunks_exact(2).find(|pair| pair[0].text() == "notes");
        let notes = notes.map(|pair| format!(" ({})", pair[1].text())).unwrap_or_default();
        format!("{} {begin}: {find}{notes}", sorted(spec.at("flags")))
    };
    let specs: Vec<String> = specs.items().iter().map(spec).collect();
    Facts {
        group: docs.at("group").text().to_string(),
        since: docs.at("since").text().to_string(),
        arity: arity.integer().to_string(),
        flags: sorted(flags),
        range: format!("{} {} {}", first.integer(), last.integer(), step.integer()),
        categories: sorted(categories),
        tips: listed(tips.items().iter().map(Value::text)),
        keys: if specs.is_empty() { "-".into() } else { specs.join("; ") },
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "-".into() } else { names.join(",") }
}

/// `cargo xtask docs` sets the variable that makes this write the page.
#[test]
fn the_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let names: BTreeSet<&str> = TABLE.entries().iter().map(|entry| &*entry.name).collect();
    let generated = page::generated(&names, &Peers::read(), &Words::read());
    let wanted = page::replaced(&page, &generated);
    if std::env::var_os("DORMOUSE_WRITE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    assert!(page == wanted, "docs/compatibility.md is out of date: run `cargo xtask docs`");
}

#[test]
fn words_are_about_commands_that_exist() {
    let (peers, words) = (Peers::read(), Words::read());
    let is_ours = |name: &str| TABLE.by_full_name(name.as_bytes()).is_some();
    let strangers: Vec<&str> = words.absent().filter(|name| !peers.names().any(|of| words::covers(name, of))).collect();
    assert!(strangers.is_empty(), "no peer has {strangers:?}");
    let here: Vec<&str> = words.absent().filter(|name| is_ours(name)).collect();
    assert!(here.is_empty(), "they are not missing: {here:?}");
    let missing: Vec<&str> = words.different().filter(|name| !is_ours(name)).collect();
    assert!(missing.is_empty(), "they are missing: {missing:?}");
}
