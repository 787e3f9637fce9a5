//! Tokens: a client without one gets nowhere, and a client with one sees one database.

use std::io::{Read, Write};
use std::net::TcpStream;

use dormouse_client_tests::{Kind, Server, Settings, ports::free_port, resp::Connection, server::tool};

const TOKENS: &[&str] = &["dm_one_3f9a41c07be2", "dm_two_a7701dce5598"];

fn server() -> Server {
    Server::start_with(Kind::under_test(), Settings { tokens: TOKENS, ..Settings::default() })
}

#[track_caller]
fn check(connection: &mut Connection, line: &str, reply: &str) {
    assert_eq!(format!("{:?}", connection.run(line)), reply, "{line}");
}

#[test]
fn nothing_is_answered_without_a_token() {
    let server = server();
    let mut connection = Connection::open(server.port());
    for line in ["PING", "GET k", "SET k v", "MULTI", "SUBSCRIBE a", "INFO", "CLIENT ID", "SELECT 1", "COMMAND"] {
        check(&mut connection, line, "-NOAUTH Authentication required.");
    }
    check(&mut connection, "AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.");
    check(&mut connection, "AUTH nobody wrong", "-WRONGPASS invalid username-password pair or user is disabled.");
    check(&mut connection, "AUTH a b c", "-ERR syntax error");
    check(&mut connection, "AUTH", "-ERR wrong number of arguments for 'auth' command");
    check(
        &mut connection,
        "HELLO 3 AUTH default wrong",
        "-WRONGPASS invalid username-password pair or user is disabled.",
    );
    let hello = "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at \
                 the same time";
    // Redis 7.0 omits the version.
    let old = if server.kind() == Kind::Redis { "<proto> " } else { "" };
    check(&mut connection, "HELLO 3", &hello.replace(old, ""));
    check(&mut connection, "GET k", "-NOAUTH Authentication required.");
    check(&mut connection, &format!("AUTH {}", TOKENS[0]), "+OK");
    check(&mut connection, "SET k v", "+OK");
    check(&mut connection, "AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.");
    check(&mut connection, "GET k", "\"v\"");
    check(&mut connection, "RESET", "+RESET");
    check(&mut connection, "GET k", "-NOAUTH Authentication required.");
    check(&mut connection, &format!("AUTH default {}", TOKENS[0]), "+OK");
    check(&mut connection, "GET k", "\"v\"");
}

/// redis-cli reads an empty name out of `redis://:TOKEN@host` and sends it. Redis has no such user.
#[test]
fn an_empty_user_is_none() {
    let server = server();
    if server.kind() == Kind::Redis {
        return;
    }
    let mut connection = Connection::open(server.port());
    let reply = connection.call(&["AUTH", "", TOKENS[1]]);
    assert_eq!(format!("{reply:?}"), "+OK");
    check(&mut connection, "SET k v", "+OK");
    let reply = connection.call(&["AUTH", "", "wrong"]);
    assert_eq!(format!("{reply:?}"), "-WRONGPASS invalid username-password pair or user is disabled.");
}

#[test]
fn hello_may_bring_the_token() {
    let server = server();
    let mut connection = Connection::open(server.port());
    let hello = connection.run(&format!("HELLO 3 AUTH default {} SETNAME tour", TOKENS[0]));
    assert!(format!("{hello:?}").starts_with("%[\"server\", \"redis\", "), "{hello:?}");
    check(&mut connection, "CLIENT GETNAME", "\"tour\"");
    check(&mut connection, "GET none", "_");
}

#[test]
fn who_has_no_token_sends_little() {
    let server = server();
    for (bytes, problem) in [
        ("*11\r\n", "unauthenticated multibulk length"),
        ("*2\r\n$4\r\nAUTH\r\n$16385\r\n", "unauthenticated bulk length"),
    ] {
        let mut connection = Connection::open(server.port());
        connection.write(bytes.as_bytes()).expect("the server reads");
        let said = String::from_utf8_lossy(&connection.read_to_end()).into_owned();
        assert_eq!(said, format!("-ERR Protocol error: {problem}\r\n"));
    }
}

#[test]
fn a_server_without_tokens_says_so() {
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    let text = "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                configuration is correct?";
    check(&mut connection, "AUTH secret", text);
    check(&mut connection, "PING", "+PONG");
}

#[test]
fn each_token_opens_its_own_database() {
    let mut server = server();
    if server.kind() != Kind::Dormouse {
        return;
    }
    let open = |server: &Server, token: &str| {
        let mut connection = Connection::open(server.port());
        check(&mut connection, &format!("AUTH {token}"), "+OK");
        connection
    };
    let (mut one, mut two) = (open(&server, TOKENS[0]), open(&server, TOKENS[1]));
    check(&mut one, "SET k one", "+OK");
    check(&mut two, "GET k", "$-1");
    check(&mut two, "SET k two", "+OK");
    check(&mut two, "SUBSCRIBE news", "*[\"subscribe\", \"news\", :1]");
    check(&mut one, "PUBLISH news hello", ":0");
    check(&mut one, "PUBSUB CHANNELS", "*[]");
    check(&mut one, "DORMOUSE SLEEP", "+OK");
    check(&mut two, "UNSUBSCRIBE", "*[\"unsubscribe\", \"news\", :0]");
    check(&mut two, "GET k", "\"two\"");
    check(&mut two, "FLUSHALL", "+OK");
    check(&mut one, "GET k", "\"one\"");
    server.restart();
    check(&mut open(&server, TOKENS[0]), "GET k", "\"one\"");
    check(&mut open(&server, TOKENS[1]), "DBSIZE", ":0");
}

/// Sends bytes to a port, and reads until the server closes the connection.
fn send(port: u16, bytes: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.write_all(bytes.as_bytes()).expect("the server reads");
    let mut answer = Vec::new();
    // The server may close with bytes unread.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn no_secret_is_logged() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    #[rustfmt::skip]
    const OPTIONS: &[&str] = &[
        "--admin-token", "4dm1n-0f2c", "--metrics-token", "m3tr1c5-77", "--slowlog-log-slower-than", "0",
        "--log-level", "trace", "--log-format", "json", "--audit-log", "stderr",
    ];
    let http_port = free_port();
    let settings = Settings { tokens: TOKENS, http_port: Some(http_port), options: OPTIONS, ..Settings::default() };
    let mut server = Server::start_with(Kind::Dormouse, settings);
    let mut connection = Connection::open(server.port());
    for (line, reply) in [
        ("AUTH dm_one_wr0ng-91ab", "-WRONGPASS"),
        ("HELLO 2 AUTH default wr0ng-91ab", "-WRONGPASS"),
        ("HELLO 2 AUTH default dm_one_3f9a41c07be2", ""),
        ("ACL SETUSER ann on >p4ss-5d21 ~* &* +@all", "+OK"),
        ("AUTH ann dm_one_p4ss-5d21", "+OK"),
        ("CONFIG SET requirepass r3qu1re-40", "-"),
        ("CONFIG SET masterauth r3qu1re-40", ""),
        ("ACL GETUSER ann", ""),
        ("SLOWLOG GET", ""),
        ("EVAL redis.log(redis.LOG_WARNING,'hello') 0", ""),
        ("AUTH admin 4dm1n-0f2c", "+OK"),
        ("DEBUG SLEEP 0", ""),
    ] {
        let found = format!("{:?}", connection.run(line));
        assert!(found.starts_with(reply), "{line}: {found}");
    }
    for (head, status) in [
        ("GET /get/k?_token=dm_one_3f9a41c07be2 HTTP/1.1\r\n", 200),
        ("GET /get/k HTTP/1.1\r\nauthorization: Bearer dm_two_a7701dce5598\r\n", 200),
        ("GET /get/k HTTP/1.1\r\nauthorization: Bearer wr0ng-91ab\r\n", 401),
        ("GET /get/k HTTP/1.1\r\nauthorization: Basic YW5uOnA0c3MtNWQyMQ==\r\n", 401),
        ("GET /metrics HTTP/1.1\r\nauthorization: Bearer m3tr1c5-77\r\n", 200),
        ("GET /metrics HTTP/1.1\r\nauthorization: Bearer wr0ng-91ab\r\n", 401),
        ("GET /v1/databases HTTP/1.1\r\nauthorization: Bearer 4dm1n-0f2c\r\n", 200),
        ("GET /v1/databases HTTP/1.1\r\nauthorization: Bearer wr0ng-91ab\r\n", 401),
    ] {
        let answer = send(http_port, &format!("{head}host: x\r\nconnection: close\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
    }
    // HTTP at the port of Redis, and what is no protocol at all.
    send(server.port(), "POST /?_token=dm_one_3f9a41c07be2 HTTP/1.1\r\nhost: x\r\n\r\n");
    send(server.port(), "*1\r\n$x wr0ng-91ab\r\n");
    assert!(server.stop().success());
    let log = server.log();
    for (line, fields) in [
        ("a script says: hello", ["\"database\":\"one\"", "\"level\":\"WARN\""]),
        ("the client speaks HTTP", ["\"client\":", "\"peer\":\"127.0.0.1:"]),
        ("\"audit\":\"login\"", ["\"client\":", "\"who\":\"option-token\""]),
    ] {
        let found = log.lines().any(|found| found.contains(line) && fields.iter().all(|field| found.contains(field)));
        assert!(found, "no line with {line} and {fields:?} in\n{log}");
    }
    let secrets = ["3f9a41c07be2", "a7701dce5598", "4dm1n-0f2c", "m3tr1c5-77", "wr0ng-91ab", "p4ss-5d21", "r3qu1re-40"];
    for line in log.lines() {
        for secret in secrets.iter().chain(&["YW5uOnA0c3MtNWQyMQ"]) {
            assert!(!line.contains(secret), "{secret} is in {line}");
        }
    }
    let output = tool(&["serve", "--store", "s3://key:us3r1nf0-18@bucket"]).output().expect("the server starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && !said.contains("us3r1nf0-18"), "{said}");
}
