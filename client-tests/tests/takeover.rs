//! Two servers, one after the other, over one bucket: the replies to clients and probes, and the data that the second
//! one takes over.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use dormouse_client_tests::{
    Kind, Server, Settings, honest::HonestBucket, ports::free_port, resp::Connection, server::tool, wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

fn bucket() -> HonestBucket {
    HonestBucket::start(Duration::from_millis(2)).expect("a free port")
}

/// Returns the answer to a probe: its status line and its text.
fn probe(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the port for probes");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_process_that_was_overtaken_says_so_before_it_ends() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let bucket = bucket();
    let remote = bucket.store("");
    let http_port = free_port();
    let mut first = Server::start_on_with(&remote, Settings { http_port: Some(http_port), ..Settings::default() });
    let mut connection = Connection::open(first.port());
    for command in ["SET k 1", "CONFIG SET loss-window 0", "SET k 2"] {
        assert_eq!(format!("{:?}", connection.run(command)), "+OK", "{command}");
    }
    assert!(probe(http_port, "/readyz").starts_with("HTTP/1.1 200"));
    let second = Server::start_on(&remote);
    // Each command gets a reply: the connection stays open. The first write may be held when the other one comes.
    let refusal = wait_for(LIMIT, || {
        let reply = connection.try_call(&["SET", "k", "3"]).expect("a reply, not the end of the connection");
        let reply = format!("{reply:?}");
        assert!(reply == "+OK" || reply.contains("taken over"), "{reply}");
        (!reply.starts_with("+OK") && !reply.contains("UNCERTAIN")).then_some(reply)
    });
    let refusal = refusal.expect("it notices");
    let readyz = probe(http_port, "/readyz");
    assert!(readyz.starts_with("HTTP/1.1 503") && readyz.contains("taken over by another process"), "{readyz}");
    let mut other = Connection::open(first.port());
    for command in ["GET k", "SAVE", "DORMOUSE CHECKPOINT", "DORMOUSE SLEEP"] {
        for connection in [&mut connection, &mut other] {
            let reply = format!("{:?}", connection.run(command));
            assert!(reply.contains("taken over by another process"), "{command}: {reply}; before: {refusal}");
        }
    }
    assert_eq!(first.wait().code(), Some(3));
    // Answered writes are there.
    let found = format!("{:?}", Connection::open(second.port()).run("GET k"));
    assert!(found == "\"2\"" || found == "\"3\"", "{found}");
}

/// An import without a server takes a bucket over, as a starting server does: neither loses the other's writes.
#[test]
fn an_import_into_a_bucket_takes_it_over() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let bucket = bucket();
    let remote = bucket.store("");
    let mut server = Server::start_on(&remote);
    let mut connection = Connection::open(server.port());
    for command in ["CONFIG SET loss-window 0", "SET k 1", "DORMOUSE CHECKPOINT", "SET k 2"] {
        assert_eq!(format!("{:?}", connection.run(command)), "+OK", "{command}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = |name: &str, database: &str, file: &str| {
        let mut tool = tool(&[name, file, "--database", database, "--store", &remote.url]);
        tool.envs(remote.environment.iter().map(|(name, value)| (name, value))).current_dir(folder.path());
        let done = tool.output().expect("it runs");
        assert!(done.status.success(), "{name} {database}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run("export", "default", "dump.rdb");
    run("import", "shop", "dump.rdb");
    assert_eq!(server.wait().code(), Some(3));
    run("export", "shop", "again.rdb");
    let records = bucket.names("owner/").len();
    assert_eq!(records, 3, "a server that was overtaken, an import, and its release");
    server.resume();
    assert_eq!(format!("{:?}", Connection::open(server.port()).run("GET k")), "\"2\"");
    run("export", "shop", "after.rdb");
}

/// Otherwise each start would read the logs of all processes since the last checkpoint.
#[test]
fn what_a_crash_left_in_a_bucket_is_checkpointed_at_once() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let bucket = bucket();
    let mut server = Server::start_on(&bucket.store(""));
    let mut connection = Connection::open(server.port());
    assert_eq!(format!("{:?}", connection.run("CONFIG SET loss-window 0")), "+OK");
    for at in 0..20 {
        assert_eq!(format!("{:?}", connection.run(&format!("SET key:{at} value"))), "+OK");
    }
    let left = bucket.names("log/");
    assert!(!left.is_empty());
    // The guard of the store's format stays.
    let is_guard = |name: &String| name.starts_with("log/0000000000000000/");
    server.crash();
    let gone = wait_for(LIMIT, || {
        let now = bucket.names("log/");
        left.iter().all(|name| is_guard(name) || !now.contains(name)).then_some(())
    });
    assert!(gone.is_some(), "{:?}", bucket.names(""));
    assert_eq!(format!("{:?}", Connection::open(server.port()).run("DBSIZE")), ":20");
}
