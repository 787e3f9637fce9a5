//! A server that cannot serve says why, in one clear message, and ends with exit code 1.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use dormouse_client_tests::{
    Kind, Server, Settings,
    ports::free_port,
    resp::{Connection, request},
    server::{command, terminate},
    wait_for,
};

/// Returns the server's message before it gives up.
#[track_caller]
fn gives_up(command: &mut Command) -> String {
    let mut process =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the server starts");
    let ended = wait_for(Duration::from_secs(30), || process.try_wait().expect("it is our child"));
    if ended.is_none() {
        _ = process.kill();
    }
    let output = process.wait_with_output().expect("it has ended");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn a_port_in_use() {
    let first = Server::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = gives_up(&mut command(first.kind(), first.port(), folder.path(), Settings::default()));
    assert!(said.contains(&first.port().to_string()), "{said}");
    let said = said.to_lowercase();
    assert!(["already in use", "another process"].iter().any(|reason| said.contains(reason)), "{said}");
    assert_eq!(format!("{:?}", Connection::open(first.port()).run("PING")), "+PONG");
}

#[test]
fn a_store_held_by_another_process() {
    let first = Server::start();
    if first.kind() != Kind::Dormouse {
        return;
    }
    let mut connection = Connection::open(first.port());
    connection.run("SET k v");
    let said = gives_up(&mut command(Kind::Dormouse, free_port(), &first.data(), Settings::default()));
    assert!(said.contains(&first.data().display().to_string()), "{said}");
    assert!(said.contains("another process") || said.contains("already held"), "{said}");
    assert_eq!(format!("{:?}", connection.run("GET k")), "\"v\"");
}

/// The log has what was acknowledged.
#[test]
fn a_command_that_goes_on_keeps_no_server_from_its_end() {
    let mut server = Server::start();
    if server.kind() != Kind::Dormouse {
        return;
    }
    let mut connection = Connection::open(server.port());
    let members: String = (0..30_000).map(|member| format!(" {member}")).collect();
    connection.run(&format!("SADD set{members}"));
    connection.run("SET kept 1");
    let mut long = Connection::open(server.port());
    let words: Vec<&str> = ["SINTERCARD", "30000"].into_iter().chain(std::iter::repeat_n("set", 30_000)).collect();
    long.write(&request(&words)).expect("the server reads it");
    // It holds the shard.
    let runs = || format!("{:?}", connection.run("EXISTS set")).contains("TIMEOUT").then_some(());
    wait_for(Duration::from_secs(30), runs).expect("it runs");
    assert_eq!(server.stop().code(), Some(1));
    assert!(server.log().contains("a command of it does not end"), "{}", server.log());
    server.resume();
    assert_eq!(format!("{:?}", Connection::open(server.port()).run("GET kept")), "\"1\"");
}

/// A signal that arrives as soon as a client can connect ends the server in order.
#[test]
fn a_signal_right_after_the_start() {
    for _ in 0..20 {
        let (folder, port) = (tempfile::tempdir().expect("a temporary folder"), free_port());
        let mut process = command(Kind::under_test(), port, folder.path(), Settings::default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let address = (std::net::Ipv4Addr::LOCALHOST, port);
        // No pause between the tries: the moment is to be the first.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(std::time::Instant::now() < deadline, "it does not listen");
        }
        terminate(&process);
        let ended = wait_for(Duration::from_secs(30), || process.try_wait().expect("it is our child"));
        if ended.is_none() {
            _ = process.kill();
        }
        assert_eq!(ended.and_then(|status| status.code()), Some(0));
    }
}

#[test]
fn a_store_that_is_not_writable() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    // A file in place of a folder refuses every user, root as well.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "in the way").expect("a temporary file");
    for store in [file.as_path(), &file.join("below"), Path::new("/proc/dormouse-data")] {
        let said = gives_up(&mut command(Kind::Dormouse, free_port(), store, Settings::default()));
        assert!(said.contains(&store.display().to_string()), "{said}");
    }
}
