//! Client libraries and a reply that is held for too long: each library shows the error once, and sends nothing again.
//!
//! A library's program increments a counter once, with the library's own defaults, and prints `reply N` or `error
//! TEXT`. Meanwhile the store answers nothing: the log is not flushed (`UNCERTAIN`), or the database does not wake
//! (`TIMEOUT`). Afterwards the counter shows how often the increment was run.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    Kind, Server,
    honest::HonestBucket,
    resp::{Connection, Reply},
    wait_for,
};

/// A time shorter than any library waits.
const REPLY_TIMEOUT: &str = "200ms";
const LIMIT: Duration = Duration::from_secs(60);

/// Checks a library. `program` gets the counter's name as its argument, and the port as the suites do.
pub fn check(program: impl Fn() -> Command) {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let bucket = HonestBucket::start(Duration::ZERO).expect("a free port");
    let mut store = bucket.store("some/folder");
    store.environment.push(("DORMOUSE_LOSS_WINDOW", "0".to_owned()));
    store.environment.push(("DORMOUSE_REPLY_TIMEOUT", REPLY_TIMEOUT.to_owned()));
    store.environment.push(("DORMOUSE_CHECKPOINT_EVERY", "never".to_owned()));
    let mut server = Server::start_on(&store);
    let increment = || {
        let mut command = program();
        command.arg("counter").env("DORMOUSE_TEST_PORT", server.port().to_string());
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("the program runs");
        String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
    };
    let counter = |expected: &str| {
        // The server first catches up with the held requests.
        let settled = wait_for(LIMIT, || {
            let mut connection = Connection::try_open(server.port()).ok()?;
            let reply = connection.try_call(&["GET", "counter"]).ok()?;
            Some(reply).filter(|reply| !reply.is_error())
        });
        let expected = Reply::Bulk('$', Some(expected.as_bytes().to_vec()));
        assert_eq!(settled, Some(expected), "{}", server.log());
    };
    assert_eq!(increment(), "reply 1");

    bucket.hold(true);
    let said = increment();
    assert!(said.starts_with("error") && said.contains("UNCERTAIN no reply within 200 ms"), "{said}");
    bucket.hold(false);
    counter("2");

    let slept = wait_for(LIMIT, || {
        let reply = Connection::open(server.port()).run("DORMOUSE SLEEP");
        Some(reply).filter(|reply| !reply.is_error())
    });
    assert!(slept.is_some(), "{}", server.log());
    bucket.hold(true);
    let said = increment();
    assert!(said.starts_with("error") && said.contains("TIMEOUT no reply within 200 ms"), "{said}");
    bucket.hold(false);
    counter("2");
    assert_eq!(increment(), "reply 3");
    assert_eq!(server.stop().code(), Some(0));
}
