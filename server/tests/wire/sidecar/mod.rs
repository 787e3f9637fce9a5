//! `dormouse sidecar` before a real server: sharing, copies, lost connections, freezes, and Lambda.

mod lambda;
mod trouble;
mod wire;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::served::{Connection, Served};
use dormouse_client_tests::ports::free_port;
use rustix::process::{Pid, Signal, kill_process};
use wire::Wire;

const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar in a process of its own, killed when it is dropped.
struct Sidecar {
    child: Child,
    port: u16,
    health_port: u16,
}

impl Sidecar {
    fn start(upstream: &str, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
        command.arg("sidecar");
        Self::start_as(command, upstream, more, &[])
    }

    fn start_as(mut command: Command, upstream: &str, more: &[&str], environment: &[(&str, &str)]) -> Self {
        command.args(["--listen", "127.0.0.1:0"]);
        command.env("DORMOUSE_UPSTREAM", upstream).envs(environment.iter().copied());
        let health_port = free_port();
        command.args(["--health-port", &health_port.to_string()]).args(more);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.strip_prefix("Dormouse sidecar listens on 127.0.0.1:");
        let digits = port.and_then(|port| port.split(|digit: char| !digit.is_ascii_digit()).next());
        let port = digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("it says {line:?}"));
        assert!(!line.contains("secret"), "{line}");
        Self { child, port, health_port }
    }

    fn connect(&self) -> Connection {
        Connection::open(self.port)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The status and the body of `/healthz`.
    fn health(&self) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.health_port)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn hits(&self) -> u64 {
        until("hits", || {
            let (status, body) = self.health();
            let hits = body.lines().find_map(|line| line.strip_prefix("cache_hits:")).map(|hits| hits.parse().unwrap());
            hits.filter(|_| status == 200)
        })
    }

    /// Waits for the end of the process.
    fn ended(&mut self) -> Option<i32> {
        until("the end of the sidecar", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lets time pass for a sidecar that is stopped: longer than it trusts in anything without a sign of life.
fn freeze() {
    std::thread::sleep(Duration::from_millis(1100));
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// The number of connections that the server has, without the one that asks.
fn connections(server: &mut Connection) -> usize {
    server.say("CLIENT LIST").text().lines().count() - 1
}

#[test]
fn clients_share_connections() {
    let server = Served::start(&[]);
    let mut direct = server.connect();
    let sidecar = Sidecar::start(&url(server.port()), &[]);
    let mut clients: Vec<Connection> = (0..20).map(|_| sidecar.connect()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        if at % 2 == 1 {
            assert_eq!(client.say("HELLO 3").at("proto").integer(), 3);
        }
        assert_eq!(client.run(&["SET", &format!("key:{at}"), &at.to_string()]).to_string(), "+OK");
    }
    assert_eq!(connections(&mut direct), 2);
    for (at, client) in clients.iter_mut().enumerate() {
        // A pipeline, with lines of words between arrays.
        client.write(format!("GET key:{at}\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\nPING\r\n").as_bytes());
        assert_eq!(client.read().unwrap().to_string(), format!("\"{at}\""));
        assert_eq!(client.read().unwrap().integer(), at as i64 + 1);
        assert_eq!(client.read().unwrap().to_string(), "+PONG");
    }
    // The types are those of the client's version of the protocol.
    clients[0].say("HSET h f 1");
    assert_eq!(clients[0].say("HGETALL h").to_string(), "[\"f\" \"1\"]");
    assert_eq!(clients[1].say("HGETALL h").to_string(), "{\"f\" \"1\"}");
    // What concerns the connection is answered for the client.
    for (line, reply) in [
        ("CLIENT SETNAME worker", "+OK"),
        ("CLIENT GETNAME", "\"worker\""),
        ("CLIENT SETINFO LIB-NAME test", "+OK"),
        ("SELECT 0", "+OK"),
        ("WAIT 0 0", "-ERR WAIT and WAITAOF ask for the writes of one connection, and the sidecar shares its own"),
        ("NOSUCH", "-ERR unknown command 'NOSUCH', with args beginning with: "),
    ] {
        assert_eq!(clients[0].say(line).to_string(), reply, "{line}");
    }
    assert_eq!(clients[2].say("QUIT").to_string(), "+OK");
    assert!(clients[2].read().is_none());
    // After a command that the sidecar does not know, the client has a connection of its own.
    assert_eq!(connections(&mut direct), 3);
}

#[test]
fn state_gets_a_connection_of_its_own() {
    let server = Served::start(&[]);
    let sidecar = Sidecar::start(&url(server.port()), &[]);
    let (mut waiting, mut pushing) = (sidecar.connect(), sidecar.connect());
    waiting.send(&["BLPOP", "queue", "0"]);
    pushing.say_until("INFO clients", |info| info.field("blocked_clients") == "1");
    assert_eq!(pushing.say("RPUSH queue job").integer(), 1);
    assert_eq!(waiting.read().unwrap().to_string(), "[\"queue\" \"job\"]");
    let mut subscriber = sidecar.connect();
    assert_eq!(subscriber.say("SUBSCRIBE news").to_string(), "[\"subscribe\" \"news\" :1]");
    assert_eq!(pushing.say("PUBLISH news hello").integer(), 1);
    assert_eq!(subscriber.read().unwrap().to_string(), "[\"message\" \"news\" \"hello\"]");
    let mut elsewhere = sidecar.connect();
    elsewhere.say("SET a other");
    assert_eq!(elsewhere.say("SELECT 3").to_string(), "+OK");
    assert_eq!(elsewhere.say("GET a").to_string(), "nil");
    assert_eq!(pushing.say("GET a").to_string(), "\"other\"");
    // In steps, and in one piece, which needs no connection.
    let mut steps = sidecar.connect();
    assert_eq!(steps.say("WATCH a").to_string(), "+OK");
    assert_eq!(steps.say("MULTI").to_string(), "+OK");
    pushing.say("SET a changed");
    assert_eq!(steps.say("SET a 1").to_string(), "+QUEUED");
    assert_eq!(steps.say("EXEC").to_string(), "nil");
    let mut direct = server.connect();
    let before = connections(&mut direct);
    let mut whole = sidecar.connect();
    let words = |words: &[&str]| {
        let head = format!("*{}\r\n", words.len());
        head + &words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect::<String>()
    };
    let request = words(&["MULTI"]) + &words(&["SET", "a", "2"]) + &words(&["INCR", "a"]) + &words(&["EXEC"]);
    whole.write(request.as_bytes());
    let replies: Vec<String> = (0..4).map(|_| whole.read().unwrap().to_string()).collect();
    assert_eq!(replies, ["+OK", "+QUEUED", "+QUEUED", "[+OK :3]"]);
    assert_eq!(connections(&mut direct), before);
}

#[test]
fn copies_are_right() {
    let server = Served::start(&[]);
    let mut direct = server.connect();
    let sidecar = Sidecar::start(&url(server.port()), &[]);
    let (mut one, mut other) = (sidecar.connect(), sidecar.connect());
    other.say("HELLO 3");
    direct.say("SET a 1");
    // The first read of RESP2's connection may come before its news are redirected.
    until("hit", || {
        assert_eq!(one.say("GET a").text(), "1");
        (sidecar.hits() > 0).then_some(())
    });
    let before = direct.say("INFO stats").field("keyspace_hits").to_owned();
    let hits = sidecar.hits();
    for _ in 0..10 {
        assert_eq!(one.say("GET a").text(), "1");
    }
    assert_eq!(direct.say("INFO stats").field("keyspace_hits"), before);
    assert!(sidecar.hits() >= hits + 10);
    // A change from elsewhere is told; one that the client makes is seen at once.
    direct.say("SET a 2");
    one.say_until("GET a", |value| value.text() == "2");
    for n in 3..200 {
        let client = if n % 2 == 0 { &mut one } else { &mut other };
        client.run(&["SET", "a", &n.to_string()]);
        assert_eq!(client.say("GET a").text(), n.to_string());
        assert_eq!(client.say("STRLEN a").integer(), n.to_string().len() as i64);
    }
    // Scripts, flushes and expiry.
    one.say("GET a");
    one.run(&["EVAL", "return redis.call('SET', 'a', 'by script')", "0"]);
    assert_eq!(one.say("GET a").text(), "by script");
    one.say("FLUSHALL");
    assert_eq!(one.say("GET a").to_string(), "nil");
    one.say("SET a short PX 30");
    one.say_until("GET a", |value| value.to_string() == "nil");
}

#[test]
fn a_copy_is_not_served_after_a_freeze() {
    let server = Served::start(&[]);
    let mut direct = server.connect();
    let sidecar = Sidecar::start(&url(server.port()), &[]);
    let mut client = sidecar.connect();
    client.say("HELLO 3");
    client.say("SET a old");
    until("hit", || {
        client.say("GET a");
        (sidecar.hits() > 0).then_some(())
    });
    sidecar.signal(Signal::STOP);
    direct.say("SET a new");
    client.send(&["GET", "a"]);
    freeze();
    sidecar.signal(Signal::CONT);
    assert_eq!(client.read().unwrap().text(), "new");
}

#[test]
fn a_lost_connection_costs_no_read_and_no_certainty() {
    let server = Served::start(&[]);
    let wire = Wire::to(server.port());
    let sidecar = Sidecar::start(&url(wire.port), &["--cache", "0"]);
    let mut client = sidecar.connect();
    client.say("HELLO 3");
    client.say("SET a 1");
    // A write whose reply is lost may have been run, and is not run again.
    wire.hold();
    client.send(&["INCR", "a"]);
    client.send(&["GET", "a"]);
    until("the request at the server", || (server.connect().say("GET a").text() == "2").then_some(()));
    wire.cut();
    let reply = client.read().unwrap().to_string();
    assert!(reply.starts_with("-UNCERTAIN the connection to the upstream server was lost"), "{reply}");
    assert_eq!(client.read().unwrap().text(), "2");
    assert_eq!(client.say("INCR a").integer(), 3);
    // Without a server, requests wait, and then say why they were not run.
    drop(sidecar);
    let sidecar = Sidecar::start(&url(wire.port), &["--upstream-timeout", "300ms"]);
    assert_eq!(sidecar.connect().say("INCR a").integer(), 4);
    wire.refuse();
    wire.cut();
    let reply = until("refusal", || {
        let reply = sidecar.connect().say("INCR a").to_string();
        reply.starts_with("-TRYAGAIN the upstream server cannot be reached: redis://127.0.0.1:").then_some(reply)
    });
    assert!(!reply.contains("secret"));
    until("bad health", || (sidecar.health().0 == 503).then_some(()));
    wire.accept();
    let mut client = sidecar.connect();
    client.say_until("GET a", |value| value.to_string() == "\"4\"");
    until("good health", || (sidecar.health().0 == 200).then_some(()));
}

#[test]
fn a_termination_leaves_no_client_without_its_reply() {
    let server = Served::start(&[]);
    let wire = Wire::to(server.port());
    let mut sidecar = Sidecar::start(&url(wire.port), &[]);
    let (mut busy, mut idle) = (sidecar.connect(), sidecar.connect());
    assert_eq!(busy.say("SET a 1").to_string(), "+OK");
    assert_eq!(idle.say("PING").to_string(), "+PONG");
    wire.hold();
    busy.send(&["INCR", "a"]);
    until("the request at the server", || (server.connect().say("GET a").text() == "2").then_some(()));
    sidecar.signal(Signal::TERM);
    assert!(idle.read().is_none());
    wire.go_on();
    assert_eq!(busy.read().unwrap().integer(), 2);
    assert!(busy.read().is_none());
    assert_eq!(sidecar.ended(), Some(0));
}

#[test]
fn tokens_and_sockets() {
    let server = Served::start(&["--token", "dm_shop_secret"]);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let upstream = format!("redis://:dm_shop_secret@127.0.0.1:{}", server.port());
    let sidecar = Sidecar::start(&upstream, &["--socket", socket.to_str().unwrap()]);
    let mut client = sidecar.connect();
    // No token is needed, and the sidecar's own is welcome.
    assert_eq!(client.say("SET a 1").to_string(), "+OK");
    assert_eq!(client.say("AUTH dm_shop_secret").to_string(), "+OK");
    assert_eq!(client.say("HELLO 3 AUTH default dm_shop_secret SETNAME x").at("proto").integer(), 3);
    assert_eq!(client.say("CLIENT GETNAME").text(), "x");
    assert!(client.say("AUTH dm_shop_wrong").to_string().starts_with("-WRONGPASS"));
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream.write_all(b"GET a\r\n").unwrap();
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"$1\r\n1\r\n");
}

/// The arguments of the second container in `examples/cloud-run`.
#[test]
fn the_example_for_cloud_run() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cloud-run/service.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("args: [sidecar, ")).expect("the arguments");
    let arguments: Vec<&str> = line.trim_end_matches(']').split(", ").map(|word| word.trim_matches('"')).collect();
    let port = arguments[1].rsplit_once(':').unwrap().1;
    assert!(text.contains(&format!("redis://127.0.0.1:{port}")), "the container of the service connects there");
    let probed = arguments[arguments.iter().position(|word| *word == "--health-port").unwrap() + 1];
    assert!(text.contains(&format!("port: {probed}\n")), "the probe asks there");
    let server = Served::start(&[]);
    let more: Vec<&str> = arguments.iter().skip(4).copied().collect();
    let sidecar = Sidecar::start(&url(server.port()), &more);
    assert_eq!(sidecar.connect().say("SET a 1").to_string(), "+OK");
    until("health", || (sidecar.health().0 == 200).then_some(()));
}

#[test]
fn mistakes_are_explained() {
    for (arguments, upstream, expected) in [
        (&["--listen", "0.0.0.0:1"][..], "redis://h", "it has to be a loopback address"),
        (&["--listen", "none"], "redis://h", "nothing to listen on: name a --socket"),
        (&[], "", "which server? Name it in DORMOUSE_UPSTREAM"),
        (&[], "http://h", "DORMOUSE_UPSTREAM: expected a URL such as redis://"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
        let output = command.arg("sidecar").args(arguments).env("DORMOUSE_UPSTREAM", upstream).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(expected) && !output.status.success(), "{arguments:?}: {text}");
    }
}
