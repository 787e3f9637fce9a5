//! A database on each kind of store that runs on one machine.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use dormouse_client_tests::{
    Kind, Server, Settings,
    emulator::{Emulated, Emulator},
    ports::free_port,
    resp::{Connection, Reply},
    server::{Remote, command_on, tool},
    wait_for,
};

const WRITERS: usize = 4;
/// Answers that each client has at least before the server is killed.
const WRITES_EACH: usize = 40;
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

#[track_caller]
fn expect(connection: &mut Connection, line: &str, expected: &str) {
    assert_eq!(format!("{:?}", connection.run(line)), expected, "{line}");
}

fn works(emulator: Emulator) {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let Some(emulated) = Emulated::start(emulator) else { return };
    let store = emulated.store();
    let mut server = Server::start_on(&store);
    assert!(!server.log().contains("is retried"), "an empty store is asked in vain\n{}", server.log());

    let mut connection = Connection::open(server.port());
    expect(&mut connection, "SET k v", "+OK");
    expect(&mut connection, "RPUSH list a b c", ":3");
    expect(&mut connection, "DORMOUSE SLEEP", "+OK");
    expect(&mut connection, "GET k", "\"v\"");
    drop(connection);
    server.restart();
    let mut connection = Connection::open(server.port());
    expect(&mut connection, "GET k", "\"v\"");
    expect(&mut connection, "LRANGE list 0 -1", "*[\"a\", \"b\", \"c\"]");

    for round in 0..2 {
        expect(&mut Connection::open(server.port()), "CONFIG SET loss-window 0", "+OK");
        let acknowledged = killed_while_written_to(&mut server, round);
        server.resume();
        let mut connection = Connection::open(server.port());
        for (writer, last) in acknowledged.into_iter().enumerate() {
            for number in 1..=last {
                let key = format!("r{round}:w{writer}:{number}");
                expect(&mut connection, &format!("GET {key}"), &format!("\"{number}\""));
            }
        }
    }
    assert_eq!(server.stop().code(), Some(0));
    check(&store);
}

/// Writes with several clients, and kills the server meanwhile. Returns the last acknowledged write of each.
fn killed_while_written_to(server: &mut Server, round: usize) -> Vec<usize> {
    let (port, ends) = (server.port(), Arc::new(AtomicBool::new(false)));
    let counts: Vec<_> = (0..WRITERS).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let writers: Vec<_> = counts
        .iter()
        .enumerate()
        .map(|(writer, count)| {
            let (ends, count) = (Arc::clone(&ends), Arc::clone(count));
            thread::spawn(move || {
                let mut connection = Connection::open(port);
                for number in 1.. {
                    let key = format!("r{round}:w{writer}:{number}");
                    let written = connection.try_call(&["SET", &key, &number.to_string()]);
                    if !matches!(written, Ok(Reply::Line('+', _))) || ends.load(Ordering::SeqCst) {
                        return;
                    }
                    count.store(number, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let enough = || counts.iter().all(|count| count.load(Ordering::SeqCst) >= WRITES_EACH);
    assert!(wait_for(ANSWER_LIMIT, || enough().then_some(())).is_some(), "writes are not answered");
    server.kill();
    ends.store(true, Ordering::SeqCst);
    writers.into_iter().for_each(|writer| writer.join().expect("a writer ends with its connection"));
    counts.iter().map(|count| count.load(Ordering::SeqCst)).collect()
}

fn check(store: &Remote) {
    let mut check = tool(&["check", "--store", &store.url]);
    let environment = store.environment.iter().filter(|(name, _)| !name.starts_with("DORMOUSE_"));
    let output = check
        .envs(environment.map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .output()
        .expect("the tool runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
fn moto() {
    works(Emulator::Moto);
}

#[test]
fn gofakes3_in_memory() {
    works(Emulator::Gofakes3);
}

#[test]
fn gofakes3_over_a_folder() {
    works(Emulator::Gofakes3Folder);
}

#[test]
fn rclone() {
    works(Emulator::Rclone);
}

#[test]
fn azurite() {
    works(Emulator::Azurite);
}

#[test]
fn fake_gcs_server() {
    works(Emulator::FakeGcs);
}

/// The store refuses a second create of an object, but lets many concurrent ones win.
#[test]
fn a_store_that_lets_several_creates_win_is_refused() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let Some(emulated) = Emulated::start(Emulator::S3sFs) else { return };
    let store = emulated.store();
    let mut server = command_on(&store, free_port(), Settings::default());
    let output = server.stdin(Stdio::null()).output().expect("the server runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("of 16 requests that created one object at the same time"), "{said}");
}
