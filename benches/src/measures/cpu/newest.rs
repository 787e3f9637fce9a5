//! Commands over strings and lists that came with Redis 8.4 to 8.10; Valkey has `MSETEX`.

use super::workloads::{KnownTo, Workload};
use crate::Result;
use crate::client::{Client, command};
use crate::load::{Commands, key, value};
use crate::report::Target;
use crate::server::Kind;

/// The keys of [`super::workloads`].
const KEYS: u64 = super::workloads::KEYS;
const VALUE_LENGTH: usize = 64;
/// Keys or elements in a command with several.
const SEVERAL: u64 = 10;
const COUNTERS: u64 = 10_000;
/// Keys that are deleted; each round has all of them.
const DOOMED: u64 = 200_000;
/// Pairs of lists between which elements move, the elements that each list has at first, and the moves of a round.
const PAIRS: u64 = 200;
const ELEMENTS: u64 = 3_000;
const MOVES_MAX: u64 = 200_000;
const ELEMENT_LENGTH: usize = 16;
/// Elements of a command that fills a list.
const PUSHED: u64 = 100;

pub(super) fn workloads() -> Vec<Workload> {
    let of_redis = |label: &str, known_to: KnownTo, commands: Commands| Workload {
        known_to,
        ..Workload::new(label, commands, Target::OfBest(0.70))
    };
    let mut text = [0; VALUE_LENGTH];
    let msetex = Commands::of_lines(KEYS, ":1", |index, request| {
        value(index, &mut text);
        let count = SEVERAL.to_string();
        let keys: Vec<String> = (0..SEVERAL).map(|at| key((index + at * 7_919) % KEYS)).collect();
        let mut arguments: Vec<&[u8]> = vec![b"MSETEX", count.as_bytes()];
        arguments.extend(keys.iter().flat_map(|key| [key.as_bytes(), &text]));
        arguments.extend([&b"EX"[..], b"100000"]);
        command(request, &arguments);
    });
    let increx = Commands::of_samples(COUNTERS, b"*2\r\n:100000\r\n:1\r\n", |index, request| {
        let arguments = ["INCREX", &counter(index), "UBOUND", "999999", "EX", "100000"];
        command(request, &arguments.map(str::as_bytes));
    });
    let delex = Commands::of_lines(DOOMED, ":", |index, request| {
        command(request, &["DELEX", &doomed(index), "IFEQ", "value"].map(str::as_bytes));
    });
    // Both directions of a pair come one after the other, so none of its lists runs out of elements.
    let mut direction = 0;
    let lmovem = Commands::of_arrays(PAIRS * 2, SEVERAL as usize, ELEMENT_LENGTH, |_, request| {
        let [from, to] = [direction, direction ^ 1].map(list);
        direction += 1;
        command(request, &["LMOVEM", &from, &to, "LEFT", "RIGHT", "COUNT", "10", "BULK"].map(str::as_bytes));
    });
    vec![
        of_redis("MSETEX 10", KnownTo::Newer, msetex),
        Workload { before: Some(reset_counters), ..of_redis("INCREX", KnownTo::Redis8, increx) },
        Workload {
            before: Some(restore_doomed),
            commands_max: DOOMED,
            ..of_redis("DELEX IFEQ", KnownTo::Redis8, delex)
        },
        Workload {
            before: Some(refill_lists),
            commands_max: MOVES_MAX,
            ..of_redis("LMOVEM 10", KnownTo::Redis8, lmovem)
        },
    ]
}

/// Fills a server with the data that the workloads need beside that of their rounds.
pub(super) fn prepare(kind: Kind, client: &mut Client) -> Result<()> {
    if kind == Kind::Limit {
        return Ok(());
    }
    reset_counters(client)
}

/// Numbers of one length, so that all replies have one.
fn reset_counters(client: &mut Client) -> Result<()> {
    client.fill(COUNTERS, |index, request| {
        command(request, &["SET", &counter(index), "100000", "EX", "100000"].map(str::as_bytes));
    })
}

fn restore_doomed(client: &mut Client) -> Result<()> {
    client.fill(DOOMED, |index, request| command(request, &["SET", &doomed(index), "value"].map(str::as_bytes)))
}

fn refill_lists(client: &mut Client) -> Result<()> {
    client.fill(PAIRS * 2, |index, request| command(request, &["DEL", &list(index)].map(str::as_bytes)))?;
    client.fill(PAIRS * 2 * ELEMENTS / PUSHED, |index, request| {
        let key = list(index % (PAIRS * 2));
        let elements = (0..PUSHED).map(|at| {
            let mut text = [0; ELEMENT_LENGTH];
            value(index * PUSHED + at, &mut text);
            text
        });
        let elements: Vec<[u8; ELEMENT_LENGTH]> = elements.collect();
        let arguments = [&b"RPUSH"[..], key.as_bytes()].into_iter().chain(elements.iter().map(<[u8; _]>::as_slice));
        command(request, &arguments.collect::<Vec<_>>());
    })
}

fn counter(index: u64) -> String {
    format!("bounded:{:06}", index % COUNTERS)
}

fn doomed(index: u64) -> String {
    format!("doomed:{:06}", index % DOOMED)
}

fn list(index: u64) -> String {
    format!("moved:{:06}", index % (PAIRS * 2))
}
