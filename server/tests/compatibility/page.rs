//! The generated part of `docs/compatibility.md`.

use std::collections::{BTreeMap, BTreeSet};

use crate::peers::{Peer, Peers};
use crate::words::Words;

const BEGIN: &str = "<!-- `cargo xtask docs` writes what follows -->\n";
const END: &str = "<!-- `cargo xtask docs` has written what is above -->\n";

/// The titles of Redis's groups of commands, in the order of the page.
const GROUPS: &[(&str, &str)] = &[
    ("generic", "Keys"),
    ("string", "Strings"),
    ("bitmap", "Bitmaps"),
    ("hyperloglog", "HyperLogLogs"),
    ("hash", "Hashes"),
    ("list", "Lists"),
    ("set", "Sets"),
    ("sorted-set", "Sorted sets"),
    ("geo", "Geo"),
    ("stream", "Streams"),
    ("transactions", "Transactions"),
    ("scripting", "Scripts and functions"),
    ("pubsub", "Publish and subscribe"),
    ("connection", "Connections"),
    ("server", "Server"),
    ("cluster", "Cluster"),
    ("array", "Arrays"),
    ("module", "Vector sets"),
];

/// The beginnings of the names of commands that Redis has in modules, which the peers here are without, and their titles.
const MODULES: &[(&str, &str)] = &[("json.", "JSON"), ("bf.", "Bloom filters"), ("cf.", "Cuckoo filters")];

/// Returns the page with another generated part.
pub fn replaced(page: &str, generated: &str) -> String {
    let (before, rest) = page.split_once(BEGIN).expect("the page says where the generated part begins");
    let (_, after) = rest.split_once(END).expect("the page says where the generated part ends");
    format!("{before}{BEGIN}{generated}{END}{after}")
}

/// Returns the generated part. `ours`: the full names of the commands that Dormouse has.
pub fn generated(ours: &BTreeSet<&str>, peers: &Peers, words: &Words) -> String {
    let mut text = format!("\n## Commands\n\n{}\n", counts(ours, peers, words));
    text += "The versions are those in which Redis and Valkey got a command. `-`: they do not have it.\n";
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in peers.names() {
        let facts = peers.first(name).expect("a name has facts");
        groups.entry(&facts.group).or_default().push(name);
    }
    let unknown: Vec<&&str> = groups.keys().filter(|group| !GROUPS.iter().any(|(of, _)| of == *group)).collect();
    assert!(unknown.is_empty(), "these groups have no title: {unknown:?}");
    for (group, title) in GROUPS {
        let Some(names) = groups.get(group) else { continue };
        text += &format!("\n### {title}\n\n| command | Redis | Valkey | Dormouse |\n| --- | --- | --- | --- |\n");
        for name in names {
            let redis = peers.of(name, Peer::Redis7).or(peers.of(name, Peer::Redis8));
            let since = [redis, peers.of(name, Peer::Valkey9)].map(|facts| facts.map_or("-", |facts| &facts.since));
            let state = state(name, ours, words);
            text += &format!("| `{}` | {} | {} | {state} |\n", shown(name), since[0], since[1]);
        }
    }
    for (beginning, title) in MODULES {
        text += &format!("\n### {title}\n\n| command | Dormouse |\n| --- | --- |\n");
        for name in ours.iter().filter(|name| name.starts_with(beginning)) {
            text += &format!("| `{}` | {} |\n", shown(name), state(name, ours, words));
        }
    }
    text += &rows(words);
    text += &suite();
    text + "\n"
}

fn shown(name: &str) -> String {
    name.replace('|', " ").to_uppercase()
}

fn state(name: &str, ours: &BTreeSet<&str>, words: &Words) -> String {
    match (words.why_refused(name), words.difference(name)) {
        _ if !ours.contains(name) => format!("no: {}", words.why_absent(name).unwrap_or("not yet")),
        (Some(reason), _) => format!("refused: {reason}"),
        (None, Some(difference)) => format!("yes; {difference}"),
        (None, None) => "yes".into(),
    }
}

fn counts(ours: &BTreeSet<&str>, peers: &Peers, words: &Words) -> String {
    let of = |peer: Peer| {
        let names: Vec<&str> = peers.names().filter(|name| peers.of(name, peer).is_some()).collect();
        let runs = names.iter().filter(|name| ours.contains(**name) && words.why_refused(name).is_none()).count();
        format!("{runs} of {} commands and subcommands of {}", names.len(), peer.name())
    };
    let [first, second, third] = Peer::ALL.map(of);
    format!("Dormouse runs {first}, {second}, and {third}. It refuses or lacks the others, for the reasons below.\n")
}

/// The fields that `COMMAND DOCS` gives otherwise, or not at all.
const OWN_WORDS: &str = "with summaries and complexities in our own words and without histories and deprecations";

/// Differences of what `COMMAND` says.
fn rows(words: &Words) -> String {
    let mut text = String::new();
    for (name, column) in words.rows() {
        let reason = words.row(name, column).expect("it is one of them");
        text += &format!("| `{}` | {column} | {reason} |\n", shown(name));
    }
    if text.is_empty() {
        return format!("\n`COMMAND INFO` and `COMMAND DOCS` describe every command as Redis does, {OWN_WORDS}.\n");
    }
    format!(
        "\n### Described differently\n\n`COMMAND INFO` and `COMMAND DOCS` describe the other commands as Redis does, \
         {OWN_WORDS}.\n\n| command | column | reason |\n| --- | --- | --- |\n{text}"
    )
}

/// The results of Redis's own test suite; nothing before a run has been recorded.
fn suite() -> String {
    let results = include_str!("../../../client-tests/upstream/results.txt");
    let reasons = include_str!("../../../client-tests/upstream/known.txt");
    let reason = |unit: &str, test: &str| {
        let line = format!("{unit}: {test} => ");
        let found = reasons.lines().find_map(|reason| reason.strip_prefix(&line));
        found.unwrap_or_else(|| panic!("known.txt has no reason for {line}"))
    };
    let mut lines = results.lines().filter(|line| !line.starts_with('#'));
    let Some(version) = lines.next() else { return String::new() };
    let (mut units, mut failures, mut unit) = (String::new(), String::new(), "");
    let mut sums = [0; 3];
    for line in lines {
        if let Some(test) = line.strip_prefix("- ") {
            failures += &format!("| {unit} | {} | {} |\n", test.replace('|', "\\|"), reason(unit, test));
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let numbers: Vec<usize> = words[1..].iter().map(|word| word.parse().expect("a number")).collect();
        unit = words[0];
        sums.iter_mut().zip(&numbers).for_each(|(sum, number)| *sum += number);
        if numbers[..2] != [0, 0] {
            units += &format!("| {unit} | {} | {} | {} |\n", numbers[0], numbers[1], numbers[2]);
        }
    }
    let [passed, failed, skipped] = sums;
    let mut text = format!(
        "\n## Redis's own tests\n\nThe test suite of {version} in its external mode, unit by unit: {passed} tests passed, \
         {failed} failed. It skipped {skipped} tests and blocks of tests that need what an external server does not give: a \
         restart, its files, its configuration at start, a second server. `cargo xtask upstream --suite PATH` runs it from a \
         checkout. Units without a test that runs are left out.\n\n\
         | unit | passed | failed | skipped |\n| --- | --- | --- | --- |\n{units}"
    );
    if !failures.is_empty() {
        text += &format!("\nThe tests that failed:\n\n| unit | test | reason |\n| --- | --- | --- |\n{failures}");
    }
    text
}
