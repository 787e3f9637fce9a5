//! Input that no client library would send: the server answers in Redis's exact words, and no other client is harmed.

use std::time::Duration;

use dormouse_client_tests::{
    Kind, Server, Settings,
    resp::{Connection, Reply, request},
    wait_for,
};

const MIB: usize = 1 << 20;

/// Checks that the server says exactly `reply` to `bytes` and closes the connection.
#[track_caller]
fn closes(server: &Server, bytes: &[u8], reply: &str) {
    let mut connection = Connection::open(server.port());
    // The server may close before everything is written.
    _ = connection.write(bytes);
    let said = connection.read_to_end();
    let shown = bytes[..bytes.len().min(60)].escape_ascii();
    assert_eq!(String::from_utf8_lossy(&said), reply, "after `{shown}`");
}

#[track_caller]
fn still_serves(server: &Server) {
    assert_eq!(Connection::open(server.port()).run("PING"), Reply::Line('+', "PONG".into()));
}

#[test]
fn malformed_requests_get_protocol_errors() {
    let server = Server::start();
    let cases: [(&[u8], &str); 20] = [
        (b"*x\r\n", "invalid multibulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1 \r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*1\r\nGET\r\n", "expected '$', got 'G'"),
        (b"*1\r\n:5\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", "expected '$', got '*'"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$-9223372036854775808\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775808\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$1x\r\nk\r\n", "invalid bulk length"),
        (b"SET k \"unbalanced\r\n", "unbalanced quotes in request"),
        (b"SET k 'unbalanced\r\n", "unbalanced quotes in request"),
        (b"SET k \"v\"tail\r\n", "unbalanced quotes in request"),
    ];
    for (bytes, problem) in cases {
        closes(&server, bytes, &format!("-ERR Protocol error: {problem}\r\n"));
    }
    still_serves(&server);
}

#[test]
fn requests_before_a_malformed_one_are_answered() {
    let server = Server::start();
    let said = "+PONG\r\n-ERR Protocol error: expected '$', got 'x'\r\n";
    closes(&server, b"PING\r\n*1\r\nxyz\r\n*1\r\n$4\r\nPING\r\n", said);
}

#[test]
fn endless_lines_are_cut_off() {
    let server = Server::start();
    closes(&server, &vec![b'a'; MIB], "-ERR Protocol error: too big inline request\r\n");
    closes(
        &server,
        &[b"*".as_slice(), &vec![b'1'; MIB]].concat(),
        "-ERR Protocol error: too big mbulk count string\r\n",
    );
    let length = [b"*1\r\n$".as_slice(), &vec![b'1'; MIB]].concat();
    closes(&server, &length, "-ERR Protocol error: too big bulk count string\r\n");
    // Long but valid input is accepted.
    let word = "a".repeat(60_000);
    let mut connection = Connection::open(server.port());
    connection.write(format!("ECHO {word}\r\n").as_bytes()).expect("the server reads");
    assert_eq!(connection.read().expect("a reply"), Reply::Bulk('$', Some(word.into())));
}

#[test]
fn nesting_bombs_are_refused_at_their_first_level() {
    let server = Server::start();
    for bomb in [
        "*1\r\n".repeat(100_000),
        "*1000000\r\n".repeat(1000),
        format!("*2\r\n$3\r\nGET\r\n{}", "*1\r\n".repeat(10_000)),
    ] {
        closes(&server, bomb.as_bytes(), "-ERR Protocol error: expected '$', got '*'\r\n");
    }
    still_serves(&server);
}

#[test]
fn promised_lengths_cost_no_memory() {
    let server = Server::start();
    let before = server.memory();
    let promises =
        ["*1000000\r\n", "*2\r\n$3\r\nGET\r\n$536870912\r\n", "*1000000\r\n$536870912\r\n", "*1048576\r\n$0\r\n\r\n"];
    let connections: Vec<_> = (0..200)
        .map(|i| {
            let mut connection = Connection::open(server.port());
            connection.write(promises[i % promises.len()].as_bytes()).expect("the server reads");
            connection
        })
        .collect();
    still_serves(&server);
    let grown = server.memory().saturating_sub(before);
    assert!(grown < 64 * MIB as u64, "{} connections that promise a lot take {grown} bytes", connections.len());
}

#[test]
fn requests_may_come_byte_by_byte() {
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    let requests =
        [request(&["SET", "k", "a\r\nb"]), b"\r\n  get   \"k\"  \r\n*0\r\n*-5\r\nECHO '\\x41'\n".to_vec()].concat();
    for byte in requests {
        connection.write(&[byte]).expect("the server reads");
    }
    let replies: Vec<_> = (0..3).map(|_| connection.read().expect("a reply")).collect();
    let expected = [
        Reply::Line('+', "OK".into()),
        Reply::Bulk('$', Some(b"a\r\nb".to_vec())),
        Reply::Bulk('$', Some(b"\\x41".to_vec())),
    ];
    assert_eq!(replies, expected);
}

#[test]
fn clients_that_leave_halfway_change_nothing() {
    let server = Server::start();
    let whole = request(&["SET", "k", "complete"]);
    for end in 1..whole.len() {
        Connection::open(server.port()).write(&whole[..end]).expect("the server reads");
    }
    assert_eq!(Connection::open(server.port()).run("GET k"), Reply::Bulk('$', None));
}

#[test]
fn noise_harms_nobody() {
    let server = Server::start();
    let mut state = 1_u64;
    let mut noise = || {
        // A linear congruential generator with Knuth's constants.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let pieces: [&[u8]; 12] = [
        b"*3\r\n",
        b"$3\r\n",
        b"SET",
        b"\r\n",
        b"$-1\r\n",
        b"*",
        b"\n",
        b"\0",
        b"\xff\xfe",
        b"GET k\r\n",
        b"\"",
        b"$5\r\nab",
    ];
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..noise() % 40).flat_map(|_| pieces[noise() % pieces.len()]).copied().collect();
        _ = Connection::open(server.port()).write(&bytes);
    }
    still_serves(&server);
}

#[test]
fn unknown_commands_and_wrong_arities_are_named() {
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    let long = "x".repeat(300);
    let mut unknown = |words: &[&str], text: &str| {
        assert_eq!(connection.call(words), Reply::error(&format!("ERR unknown command {text}")), "{words:?}");
    };
    unknown(&["nonsense"], "'nonsense', with args beginning with: ");
    unknown(&["NonSense", "a", "B c"], "'NonSense', with args beginning with: 'a' 'B c' ");
    unknown(&["a\r\nb", "c\nd"], "'a  b', with args beginning with: 'c d' ");
    unknown(&[""], "'', with args beginning with: ");
    unknown(&[&long], &format!("'{}', with args beginning with: ", &long[..128]));
    unknown(&["x", &long], &format!("'x', with args beginning with: '{}' ", &long[..128]));
    let hundred = &long[..100];
    unknown(&["x", hundred, hundred, "y"], &format!("'x', with args beginning with: '{hundred}' '{}' ", &long[..25]));
    let subcommand = connection.run("CLIENT nonsense");
    assert_eq!(subcommand, Reply::error("ERR unknown subcommand 'nonsense'. Try CLIENT HELP."));
    for (line, name) in [("get", "get"), ("SET k", "set"), ("GET a b", "get"), ("zadd z 1", "zadd")] {
        let text = format!("ERR wrong number of arguments for '{name}' command");
        assert_eq!(connection.run(line), Reply::error(&text), "{line}");
    }
    assert_eq!(connection.run("CONFIG GET"), Reply::error("ERR wrong number of arguments for 'config|get' command"));
}

#[test]
fn clients_over_the_limit_are_told() {
    let server = Server::start_with(Kind::under_test(), Settings { max_clients: Some(10), ..Settings::default() });
    let mut served = Vec::new();
    let refused = wait_for(Duration::from_secs(10), || {
        let mut connection = Connection::open(server.port());
        _ = connection.write(b"PING\r\n");
        match connection.read() {
            Ok(Reply::Line('+', _)) => {
                served.push(connection);
                None
            }
            Ok(reply) => Some(reply),
            Err(_) => None, // Its refusal was lost, because the PING was on its way when the server closed.
        }
    });
    assert_eq!(refused, Some(Reply::error("ERR max number of clients reached")));
    assert_eq!(served.len(), 10);
    for connection in &mut served {
        assert_eq!(connection.run("PING"), Reply::Line('+', "PONG".into()));
    }
    served.pop();
    let freed = wait_for(Duration::from_secs(10), || {
        let mut connection = Connection::open(server.port());
        connection.write(b"PING\r\n").ok()?;
        (connection.read().ok()? == Reply::Line('+', "PONG".into())).then_some(())
    });
    assert!(freed.is_some(), "a place that was freed is given again");
}

#[test]
fn a_slow_reader_gets_every_byte_and_holds_up_nobody() {
    let server = Server::start();
    let value = vec![b'v'; MIB];
    let mut slow = Connection::open(server.port());
    slow.call(&[b"SET".as_slice(), b"big", &value]);
    let get = request(&["GET", "big"]);
    for _ in 0..64 {
        slow.write(&get).expect("the server reads requests");
    }
    // 64 MiB of replies are pending, more than any socket buffer holds.
    for _ in 0..100 {
        still_serves(&server);
    }
    for _ in 0..64 {
        assert!(slow.read().expect("a reply") == Reply::Bulk('$', Some(value.clone())));
    }
}

#[test]
fn a_subscriber_that_never_reads_is_dropped() {
    let server = Server::start();
    let (mut deaf, mut publisher) = (Connection::open(server.port()), Connection::open(server.port()));
    deaf.run("SUBSCRIBE news");
    let publish = request(&[b"PUBLISH".as_slice(), b"news", &vec![b'm'; MIB]]);
    // Socket buffers take some, the output buffer 32 MiB: the default of client-output-buffer-limit.
    let dropped = wait_for(Duration::from_secs(60), || {
        publisher.write(&publish).expect("the server reads");
        (publisher.read().expect("a reply") == Reply::Line(':', "0".into())).then_some(())
    });
    assert!(dropped.is_some(), "the subscriber is still there");
    assert!(server.memory() < 256 * MIB as u64, "{} bytes of memory", server.memory());
    assert_eq!(publisher.run("PING"), Reply::Line('+', "PONG".into()));
}

#[test]
fn a_full_memory_refuses_writes_and_serves_reads() {
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    let ok = Reply::Line('+', "OK".into());
    let full = Reply::error("OOM command not allowed when used memory > 'maxmemory'.");
    assert_eq!(connection.run("SET k v"), ok);
    assert_eq!(connection.run("CONFIG SET maxmemory 1"), ok);
    assert_eq!(connection.run("SET k w"), full);
    assert_eq!(connection.run("RPUSH l a"), full);
    assert_eq!(connection.run("MULTI"), ok);
    assert_eq!(connection.run("SET k w"), full);
    let aborted = "EXECABORT Transaction discarded because of previous errors.";
    assert_eq!(connection.run("EXEC"), Reply::error(aborted));
    assert_eq!(connection.run("GET k"), Reply::Bulk('$', Some(b"v".to_vec())));
    assert_eq!(connection.run("DEL k"), Reply::Line(':', "1".into()));
    assert_eq!(connection.run("CONFIG SET maxmemory 0"), ok);
    assert_eq!(connection.run("SET k w"), ok);
}

#[test]
fn modes_refuse_what_does_not_fit() {
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    let mut check = |line: &str, reply: &str| assert_eq!(format!("{:?}", connection.run(line)), reply, "{line}");
    check("HELLO 4", "-NOPROTO unsupported protocol version");
    check("HELLO x", "-ERR Protocol version is not an integer or out of range");
    check("HELLO 2 SETNAME", "-ERR Syntax error in HELLO option 'SETNAME'");
    check("CLIENT REPLY MAYBE", "-ERR syntax error");
    check("SUBSCRIBE a", "*[\"subscribe\", \"a\", :1]");
    let text = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context";
    check("GET k", &format!("-ERR Can't execute 'get': {text}"));
    check("PING hello", "*[\"pong\", \"hello\"]");
    check("UNSUBSCRIBE", "*[\"unsubscribe\", \"a\", :0]");
    check("GET k", "$-1");
    check("MULTI", "+OK");
    check("RESET", "+RESET");
    check("EXEC", "-ERR EXEC without MULTI");
    check("QUIT", "+OK");
    assert!(connection.read_to_end().is_empty());
}
