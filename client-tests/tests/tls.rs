//! Real clients over TLS: redis-cli, client libraries in other languages, replicas, and the program's own tools.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use dormouse_client_tests::{
    Kind, Server, Settings,
    certificates::Certificates,
    importer::Importer,
    resp::{Connection, Reply, request},
    sameness, server, toolchain, wait_for,
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(60);
/// Starts a server that has a port for TLS, and asks clients for certificates or not.
fn start_over_tls(kind: Kind, asks: &'static str) -> Server {
    Server::start_with(kind, Settings { tls: Some(asks), ..Settings::default() })
}

fn start() -> Server {
    start_over_tls(Kind::Dormouse, "no")
}

fn start_asking() -> Server {
    start_over_tls(Kind::Dormouse, "yes")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn redis_cli(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    let authority = server.certificates().file("ca.crt");
    command.args(["--tls", "--cacert", &authority, "-p", &server.tls_port().to_string()]).args(arguments);
    command
}

fn has_redis_cli() -> bool {
    toolchain::present("redis-cli over TLS", &[("redis-cli", "redis-tools")])
}

#[test]
fn redis_cli_reads_and_writes() {
    if !has_redis_cli() {
        return;
    }
    let server = start();
    let says = |arguments: &[&str]| {
        let output = redis_cli(&server, arguments).stdin(Stdio::null()).output().expect("redis-cli runs");
        text(&output.stdout).trim_end().to_owned()
    };
    assert_eq!(says(&["SET", "a", "1"]), "OK");
    assert_eq!(says(&["INCR", "a"]), "2");
    let commands: Vec<u8> =
        (0..20_000).flat_map(|i| request(&["SET".into(), format!("key:{i}"), "x".repeat(i % 300)])).collect();
    let mut pipe = redis_cli(&server, &["--pipe"]);
    let mut pipe = pipe.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("redis-cli runs");
    std::io::Write::write_all(&mut pipe.stdin.take().expect("a pipe"), &commands).expect("redis-cli reads");
    let report = text(&pipe.wait_with_output().expect("redis-cli ends").stdout);
    assert!(report.contains("errors: 0, replies: 20000"), "{report}");
    assert_eq!(says(&["DBSIZE"]), "20001");
    assert_eq!(says(&["CONFIG", "GET", "tls-port"]), format!("tls-port\n{}", server.tls_port()));
    let file = server.data().join("taken.rdb").display().to_string();
    let taken = redis_cli(&server, &["--rdb", &file]).stdin(Stdio::null()).output().expect("redis-cli runs");
    assert!(taken.status.success(), "{taken:?}");
    assert!(std::fs::metadata(&file).is_ok_and(|file| file.len() > 20_000));
}

#[test]
fn redis_cli_shows_its_certificate() {
    if !has_redis_cli() {
        return;
    }
    let server = start_asking();
    let [certificate, key] = ["client.crt", "client.key"].map(|name| server.certificates().file(name));
    let says = |arguments: &[&str]| {
        let output = redis_cli(&server, arguments).stdin(Stdio::null()).output().expect("redis-cli runs");
        text(&output.stdout).trim_end().to_owned()
    };
    assert_eq!(says(&["--cert", &certificate, "--key", &key, "PING"]), "PONG");
    assert_ne!(says(&["PING"]), "PONG");
    // An unknown authority's is as good as none.
    let other = Certificates::default();
    assert_ne!(says(&["--cert", &other.file("client.crt"), "--key", &other.file("client.key"), "PING"]), "PONG");
}

/// Runs a tool of the program with the URL of a server behind its first words.
fn tool(words: &[&str], url: &str, more: &[&str]) -> Output {
    server::tool(&[words, &[url], more].concat()).output().expect("the program runs")
}

#[test]
fn tools_say_why_they_do_not_trust() {
    let (server, asking) = (start(), start_asking());
    let url = |server: &Server, host: &str| format!("rediss://{host}:{}", server.tls_port());
    let (known, unknown) = (server.certificates().file("ca.crt"), asking.certificates().file("ca.crt"));
    let [certificate, key] = ["client.crt", "client.key"].map(|name| asking.certificates().file(name));
    let list = |url: &str, more: &[&str]| tool(&["db", "list", "--url"], url, more);
    let (url, asking_url) = (url(&server, "localhost"), url(&asking, "127.0.0.1"));
    for (url, more) in [
        (&url, &["--tls-ca-cert-file", &known][..]),
        (&url, &["--cacert", &unknown, "--insecure"]),
        (&asking_url, &["--cacert", &unknown, "--cert", &certificate, "--key", &key]),
    ] {
        let listed = list(url, more);
        assert!(listed.status.success() && text(&listed.stdout).contains("default"), "{listed:?}");
    }
    let plain = format!("redis://127.0.0.1:{}", server.port());
    let no_tls = format!("rediss://127.0.0.1:{}", server.port());
    let elsewhere = url.replace("localhost", "127.0.0.2");
    for (url, more, part) in [
        (&url, &["--cacert", &unknown][..], "no known authority has signed its certificate"),
        (&url, &["--cacert", "/nonexistent"], "/nonexistent"),
        (&url, &["--cacert", &known, "--sni", "example.com"], "its certificate is for another name"),
        (&elsewhere, &["--cacert", &known], "no server answers at"),
        (&asking_url, &["--cacert", &unknown], "it asks for a certificate"),
        (&no_tls, &["--cacert", &known], "it does not speak TLS on this port"),
        (&plain, &["--cacert", &known], "write rediss://"),
    ] {
        let refused = list(url, more);
        let complaint = text(&refused.stderr);
        assert!(!refused.status.success() && complaint.contains(part), "{url} {more:?}: {complaint}");
    }
}

/// Fills a server with values of all sizes.
fn fill(server: &Server) {
    let mut connection = Connection::open(server.port());
    for n in 0..2_000 {
        let value = "x".repeat(n * 37 % 5_000);
        assert_eq!(connection.call(&["SET", &format!("key:{n}"), &value]), Reply::Line('+', "OK".into()));
    }
    connection.call(&["SET", "large", &"y".repeat(5 << 20)]);
}

/// From a Redis over TLS into Dormouse over TLS, with writes that are followed, by an importer that has its own
/// certificate.
#[test]
fn an_import_from_and_to_tls() {
    if !Kind::Redis.is_present("imports over TLS") {
        return;
    }
    let source = start_over_tls(Kind::Redis, "yes");
    let target = start();
    fill(&source);
    let url = |server: &Server| format!("rediss://localhost:{}", server.tls_port());
    // Both authorities in one file.
    let both = target.certificates().path("both.crt");
    let authorities =
        [&source, &target].map(|server| std::fs::read(server.certificates().path("ca.crt")).expect("a file"));
    std::fs::write(&both, authorities.concat()).expect("a writable folder");
    let [certificate, key] = ["client.crt", "client.key"].map(|name| source.certificates().file(name));
    let (from, to, both) = (url(&source), url(&target), both.display().to_string());
    let arguments = [&from, "--to", &to, "--follow", "--cacert", &both, "--cert", &certificate, "--key", &key];
    let mut importer = Importer::start(&arguments);
    let size = |server: &Server| Connection::open(server.port()).run("DBSIZE").number();
    assert!(wait_for(LIMIT, || (size(&target) >= Some(2_001.0)).then_some(())).is_some(), "{}", importer.log());
    let mut writer = Connection::open(source.port());
    for n in 0..1_000 {
        writer.call(&["INCR", &format!("counter:{}", n % 10)]);
    }
    let last = || Connection::open(target.port()).run("GET counter:9").bytes() == Some(b"100");
    assert!(wait_for(LIMIT, || last().then_some(())).is_some(), "{}", importer.log());
    importer.signal(Signal::INT);
    let (status, log, _) = importer.wait(LIMIT);
    assert!(status.success(), "{log}");
    assert_eq!(sameness::difference(Kind::Redis, source.port(), target.port(), &[]), None);
}

/// From a file, into a server.
#[test]
fn a_file_goes_in_over_tls() {
    let (source, target) = (Server::start_with(Kind::Dormouse, Settings::default()), start());
    fill(&source);
    let file = source.data().join("dump.rdb").display().to_string();
    if !has_redis_cli() {
        return;
    }
    let port = source.port().to_string();
    let taken = Command::new("redis-cli").args(["-p", &port, "--rdb", &file]).output().expect("redis-cli runs");
    assert!(taken.status.success(), "{taken:?}");
    let url = format!("rediss://localhost:{}/0", target.tls_port());
    let authority = target.certificates().file("ca.crt");
    let imported = tool(&["import", &file, "--to"], &url, &["--cacert", &authority]);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(Connection::open(target.port()).run("DBSIZE").number(), Some(2_001.0));
    assert_eq!(Connection::open(target.port()).run("STRLEN large").number(), Some((5 << 20) as f64));
}

/// A Redis becomes a replica over TLS.
#[test]
fn a_replica_follows_over_tls() {
    if !Kind::Redis.is_present("replicas over TLS") {
        return;
    }
    let source = start();
    let replica = start_over_tls(Kind::Redis, "no");
    fill(&source);
    let mut of_replica = Connection::open(replica.port());
    let authority = source.certificates().file("ca.crt");
    for (name, value) in [("tls-ca-cert-file", authority.as_str()), ("tls-replication", "yes")] {
        assert_eq!(of_replica.call(&["CONFIG", "SET", name, value]), Reply::Line('+', "OK".into()));
    }
    of_replica.call(&["REPLICAOF", "127.0.0.1", &source.tls_port().to_string()]);
    let written = Connection::open(source.port()).run("INCR written");
    assert_eq!(written.number(), Some(1.0));
    let arrived = || (Connection::open(replica.port()).run("GET written").bytes() == Some(b"1")).then_some(());
    assert!(wait_for(LIMIT, arrived).is_some(), "{}{}", source.log(), replica.log());
    assert_eq!(of_replica.run("REPLICAOF NO ONE"), Reply::Line('+', "OK".into()));
    assert_eq!(sameness::difference(Kind::Redis, source.port(), replica.port(), &[]), None);
}
