//! Kills the server again and again, and checks the surviving data: see `dormouse_client_tests::crash`.
//!
//! `cargo xtask crash` does the same for any number of rounds.

use std::{
    env,
    time::{Duration, Instant},
};

use dormouse_client_tests::{
    Kind,
    crash::{
        self, Settings,
        disk::SmallDisk,
        full,
        node::{self, Node},
        rivals,
    },
    resp::{Reply, request},
    script::Random,
    toolchain, wait_for,
};

const ROUNDS_PER_STORE: usize = 25;

#[test]
fn nothing_that_was_acknowledged_is_lost() {
    survives(Kind::Dormouse, "0", 100);
}

#[test]
fn a_loss_window_is_kept() {
    survives(Kind::Dormouse, "200ms", 60);
}

#[test]
fn the_usual_loss_window_is_kept() {
    survives(Kind::Dormouse, "1s", 10);
}

#[test]
fn a_checkpoint_is_there_without_a_log() {
    survives(Kind::Dormouse, "none", 50);
}

#[test]
fn a_checkpoint_is_there() {
    survives(Kind::Dormouse, "checkpoint", 50);
}

/// Writes that were answered shortly before the disk filled up are in memory only, and no more are answered. So a
/// window that is a duration counts until the last answered write. Writes that never wait in memory must survive.
#[test]
fn a_full_disk_breaks_no_promise() {
    for mode in ["0", "checkpoint", "1s"] {
        run(Kind::Dormouse, mode, 25, true, None);
    }
}

/// The same on a file system that really is full, also while the server starts.
#[test]
fn a_small_disk_breaks_no_promise() {
    if SmallDisk::is_possible() {
        run(Kind::Dormouse, "0", 10, true, Some(24));
    } else {
        println!("skipped: a small disk needs root, who may mount one");
    }
}

/// Two processes that want one bucket.
#[test]
fn one_of_two_processes_has_a_bucket() {
    for (window, rounds) in [(Duration::ZERO, 6), (Duration::from_secs(1), 2)] {
        let seed = number("DORMOUSE_CRASH_SEED").unwrap_or_else(node::unix_ms);
        let rounds = number("DORMOUSE_CRASH_ROUNDS").map_or(rounds, |rounds| rounds as usize);
        let delay = Duration::from_millis(4);
        println!("two processes, loss window {window:?}, seed {seed}");
        match rivals::run(rivals::Settings { seed, rounds, rounds_per_store: ROUNDS_PER_STORE, window, delay }, |_| {})
        {
            Ok(summary) => println!("{summary}"),
            Err(problem) => panic!("{problem}"),
        }
    }
}

/// Ten minutes of it: `cargo xtask crash --release --disk 24 --mode 1s --stay-full 600`.
#[test]
fn a_disk_that_stays_full_costs_next_to_nothing() {
    if !SmallDisk::is_possible() {
        println!("skipped: a small disk needs root, who may mount one");
        return;
    }
    for window in ["0", "1s"] {
        let report = full::measure(24, window, Duration::from_secs(8)).expect("a server that answers");
        println!("loss window {window}, {report}");
        assert!(report.files <= 10 && report.log_lines <= 12 && report.healed, "{report}");
        assert!(report.longest_reply < Duration::from_secs(6) && report.refused > 0, "{report}");
    }
}

/// Whether the harness asks for too much.
#[test]
fn redis_keeps_its_promises_too() {
    if toolchain::present("the crash harness with redis-server", &[("redis-server", "redis-server")]) {
        for mode in ["0", "2s", "checkpoint"] {
            survives(Kind::Redis, mode, 10);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn survives(kind: Kind, mode: &str, rounds: usize) {
    run(kind, mode, rounds, false, None);
}

fn run(kind: Kind, mode: &str, rounds: usize, full_disk: bool, disk_mib: Option<u32>) {
    let seed = number("DORMOUSE_CRASH_SEED").unwrap_or_else(node::unix_ms);
    let rounds = number("DORMOUSE_CRASH_ROUNDS").map_or(rounds, |rounds| rounds as usize);
    let mode = mode.parse().expect("a mode");
    let settings = Settings {
        kind,
        mode,
        seed,
        rounds,
        rounds_per_store: ROUNDS_PER_STORE,
        each_database: false,
        full_disk,
        disk_mib,
    };
    println!("{}, mode {mode}, seed {seed}", kind.name());
    match crash::run(settings, |_| {}) {
        Ok(summary) => println!("{summary}"),
        Err(problem) => panic!("{problem}"),
    }
}

/// A reply that waits for a full disk becomes an error within its bound and in its place. Its command is done once.
#[test]
fn no_reply_is_held_for_longer_than_its_bound() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut node = Node::new(Kind::Dormouse, "0".parse().expect("a mode"), folder.path());
    let target = node.start(&mut Random::new(1)).expect("a server");
    let mut client = target.connect(0).expect("a connection");
    let mut call = |words: &[&str]| {
        let begun = Instant::now();
        let reply = client.try_call(words).expect("a reply");
        assert!(begun.elapsed() < Duration::from_secs(8), "{words:?} took {:?}", begun.elapsed());
        reply
    };
    let is = |reply: &Reply, code: &str| matches!(reply, Reply::Line('-', text) if text.starts_with(code));
    assert!(!call(&["SET", "other", "v"]).is_error());
    node.limit_files(Some(0)).expect("a limit");
    let mut second = target.connect(0).expect("a connection");
    second
        .write(&[request(&["INCR", "n"]), request(&["ECHO", "a"]), request(&["GET", "other"])].concat())
        .expect("sent");
    let replies: Vec<Reply> = (0..3).map(|_| second.read().expect("a reply")).collect();
    assert!(is(&replies[0], "UNCERTAIN"), "{replies:?}");
    assert!(matches!(&replies[1], Reply::Bulk(_, Some(text)) if &text[..] == b"a"), "{replies:?}");
    assert!(is(&call(&["GET", "n"]), "UNCERTAIN"), "a read that would tell of what is not durable");
    assert!(!call(&["GET", "other"]).is_error());
    assert!(is(&call(&["INCR", "n"]), "MISCONF"));
    node.limit_files(None).expect("no limit");
    let healed = wait_for(Duration::from_secs(30), || Some(call(&["INCR", "n"])).filter(|reply| !reply.is_error()));
    assert!(matches!(healed, Some(Reply::Line(':', ref text)) if text == "2"), "{healed:?}");
    node.stop().expect("it ends");
}
