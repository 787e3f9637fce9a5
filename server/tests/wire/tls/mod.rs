//! Clients over TLS: what a plain connection does, this one does too, and what only TLS has.

pub mod certificates;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::served::{ADMIN_TOKEN, Served};
use certificates::Certificates;
use dormouse_client_tests::ports::free_port;
use dormouse_protocol::Response;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

type Stream = StreamOwned<ClientConnection, TcpStream>;

struct TlsServer {
    certificates: Certificates,
    port: u16,
    served: Served,
}

impl TlsServer {
    fn start(more: &[&str]) -> Self {
        Self::start_with(Certificates::new(), more)
    }

    fn start_with(certificates: Certificates, more: &[&str]) -> Self {
        let port = free_port();
        let options = certificates.options(port);
        let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
        words.extend(more);
        Self { served: Served::start(&words), port, certificates }
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn connect(&self) -> Client {
        self.connect_as(&self.certificates.client(false)).unwrap()
    }

    fn connect_as(&self, config: &Arc<ClientConfig>) -> std::io::Result<Client> {
        let mut session = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
        let mut tcp = self.tcp();
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        Ok(Client(BufReader::new(StreamOwned::new(session, tcp))))
    }

    /// Waits until a field of `INFO` has a value that is wanted.
    fn until(&self, field: &str, wanted: impl Fn(u64) -> bool) {
        let mut admin = self.served.connect_as_admin();
        admin.say_until("INFO everything", |info| wanted(number(info.text(), field)));
    }
}

fn number(info: &str, field: &str) -> u64 {
    let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}")).parse().unwrap()
}

struct Client(BufReader<Stream>);

impl Client {
    fn send(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, line: &str) -> String {
        self.send(line);
        self.line()
    }

    /// Whether the server has closed the connection, in whatever way.
    fn is_closed(&mut self) -> bool {
        match self.0.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

#[test]
fn commands_and_their_end() {
    let server = TlsServer::start(&[]);
    let mut client = server.connect();
    assert_eq!(client.say("SET a b"), "+OK");
    assert_eq!(server.served.connect().say("GET a").text(), "b");
    assert_eq!(client.say("QUIT"), "+OK");
    // The end is authentic: it comes with a close_notify, without which reading is an error.
    assert_eq!(client.0.read_to_end(&mut Vec::new()).unwrap(), 0);
    // A client that closes its side gets the replies to what it has asked before.
    let mut client = server.connect();
    (0..1000).for_each(|_| client.send("INCR n"));
    let stream = client.0.get_mut();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    let mut replies = String::new();
    client.0.read_to_string(&mut replies).unwrap();
    assert_eq!(replies.lines().last(), Some(":1000"));
}

#[test]
fn megabytes_both_ways() {
    const BYTES: usize = 100 << 20;
    let server = TlsServer::start(&["--max-memory-clients", "1gb"]);
    let mut client = server.connect();
    let value: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    client.0.get_mut().write_all(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${BYTES}\r\n").as_bytes()).unwrap();
    client.0.get_mut().write_all(&value).unwrap();
    client.0.get_mut().write_all(b"\r\n").unwrap();
    assert_eq!(client.line(), "+OK");
    client.send("GET a");
    assert_eq!(client.line(), format!("${BYTES}"));
    let mut read = vec![0; BYTES];
    client.0.read_exact(&mut read).unwrap();
    assert!(read == value);
    assert_eq!(client.line(), "");
    // The same in many small requests, sent by another thread than reads the replies.
    let small = &value[..1000];
    let mut request = b"*2\r\n$4\r\nECHO\r\n$1000\r\n".to_vec();
    request.extend_from_slice(small);
    request.extend_from_slice(b"\r\n");
    let requests = request.repeat(64);
    for _ in 0..100 {
        client.0.get_mut().write_all(&requests).unwrap();
        for _ in 0..64 {
            assert_eq!(client.line(), "$1000");
            let mut echoed = [0; 1002];
            client.0.read_exact(&mut echoed).unwrap();
            assert!(echoed.starts_with(small));
        }
    }
}

#[test]
fn a_slow_reader_is_charged_and_goes_on() {
    let server = TlsServer::start(&[]);
    let mut client = server.connect();
    let value = "x".repeat(1 << 20);
    client.0.get_mut().write_all(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1048576\r\n{value}\r\n").as_bytes()).unwrap();
    assert_eq!(client.line(), "+OK");
    (0..16).for_each(|_| client.send("GET a"));
    // Nothing is read until the socket is full.
    server.until("client_recent_max_output_buffer", |bytes| bytes > 0);
    for _ in 0..16 {
        assert_eq!(client.line(), "$1048576");
        assert_eq!(client.line().len(), 1 << 20);
    }
    server.until("client_recent_max_output_buffer", |bytes| bytes == 0);
    assert_eq!(client.say("PING"), "+PONG");
}

#[test]
fn messages_and_waits() {
    let server = TlsServer::start(&[]);
    let mut subscriber = server.connect();
    assert_eq!(subscriber.say("SUBSCRIBE news"), "*3");
    (0..5).for_each(|_| drop(subscriber.line()));
    let mut other = server.connect();
    assert_eq!(other.say("PUBLISH news hello"), ":1");
    let message: Vec<String> = (0..7).map(|_| subscriber.line()).collect();
    assert_eq!(message[2..], ["message", "$4", "news", "$5", "hello"]);
    // A client is served while it waits; another leaves, and gets nothing.
    let (mut waiting, mut leaving) = (server.connect(), server.connect());
    leaving.send("BLPOP list 0");
    server.until("blocked_clients", |clients| clients == 1);
    waiting.send("BLPOP list 0");
    server.until("blocked_clients", |clients| clients == 2);
    // Only its words tell of its end: the connection stays open.
    leaving.0.get_mut().conn.send_close_notify();
    leaving.0.get_mut().flush().unwrap();
    server.until("blocked_clients", |clients| clients == 1);
    assert_eq!(other.say("RPUSH list x"), ":1");
    assert_eq!(waiting.line(), "*2");
    assert_eq!((0..4).map(|_| waiting.line()).last().unwrap(), "x");
    let mut leaving = server.connect();
    leaving.send("BLPOP list 0");
    server.until("blocked_clients", |clients| clients == 1);
    drop(leaving);
    server.until("blocked_clients", |clients| clients == 0);
}

#[test]
fn certificates_of_clients() {
    let authority = |certificates: &Certificates| certificates.path("ca.crt").display().to_string();
    for (mode, expected) in [("yes", [false, true, false]), ("optional", [true, true, false]), ("no", [true; 3])] {
        let certificates = Certificates::new();
        let authority = authority(&certificates);
        let server =
            TlsServer::start_with(certificates, &["--tls-ca-cert-file", &authority, "--tls-auth-clients", mode]);
        let stranger = Certificates::new();
        let mut unknown = (*server.certificates.client(false)).clone();
        unknown.client_auth_cert_resolver = stranger.client(true).client_auth_cert_resolver.clone();
        let clients = [server.certificates.client(false), server.certificates.client(true), Arc::new(unknown)];
        for (config, expected) in clients.iter().zip(expected) {
            // With TLS 1.3 the refusal comes behind the client's part of the handshake.
            let is_served = server.connect_as(config).is_ok_and(|mut client| {
                let sent = client.0.get_mut().write_all(b"PING\r\n").is_ok();
                let mut line = String::new();
                sent && client.0.read_line(&mut line).is_ok() && line == "+PONG\r\n"
            });
            assert_eq!(is_served, expected, "{mode}");
        }
        let mut admin = server.served.connect_as_admin();
        assert_eq!(admin.say("CONFIG GET tls-auth-clients").items()[1].text(), mode);
        assert_eq!(admin.say("CONFIG GET tls-port").items()[1].text(), server.port.to_string());
    }
}

#[test]
fn the_audit_log_names_certificates_and_their_lack() {
    let certificates = Certificates::new();
    let (authority, log) = (certificates.path("ca.crt").display().to_string(), certificates.path("audit.log"));
    let https = free_port().to_string();
    let mut options = vec!["--tls-ca-cert-file", &authority, "--token", "dm_shop_s3cret", "--https-port", &https];
    options.extend(["--audit-log", log.to_str().unwrap()]);
    let server = TlsServer::start_with(certificates, &options);
    let mut client = server.connect_as(&server.certificates.client(true)).unwrap();
    client.0.get_mut().write_all(b"AUTH dm_shop_s3cret\r\n").unwrap();
    let mut line = String::new();
    client.0.read_line(&mut line).unwrap();
    assert_eq!(line, "+OK\r\n");
    // The refusal may come behind the client's part of the handshake.
    let refused = server.connect_as(&server.certificates.client(false));
    assert!(!refused.is_ok_and(|mut client| client.0.read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0)));
    server.until("tls_handshakes_failed", |failed| failed > 0);
    // The same over HTTPS.
    let config = server.certificates.client(false);
    let session = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(session, TcpStream::connect(format!("127.0.0.1:{https}")).unwrap());
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(!stream.read(&mut [0; 100]).is_ok_and(|bytes| bytes > 0));
    server.until("tls_handshakes_failed", |failed| failed > 1);
    let TlsServer { served, certificates: _folder, .. } = server;
    drop(served);
    let log = std::fs::read_to_string(log).unwrap();
    let has = |parts: [&str; 3]| log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(["\"audit\":\"login\"", "\"via\":\"resp-tls\"", "\"certificate\":\"CN="]), "{log}");
    for via in ["resp-tls", "https"] {
        let via = format!("\"via\":\"{via}\"");
        assert!(has(["\"audit\":\"handshake\"", "\"reason\":\"wrong-certificate\"", &via]), "{log}");
    }
}

#[test]
fn what_is_no_handshake_ends_and_disturbs_nobody() {
    let server = TlsServer::start(&["--token", "dm_shop_secret", "--auth-timeout", "1s"]);
    let mut client = server.connect();
    assert_eq!(client.say("AUTH dm_shop_secret"), "+OK");
    let garbage = [&b"PING\r\n"[..], b"\x16\x03\x01\xff\xffx", &[0; 70_000], b"GET / HTTP/1.1\r\n\r\n"];
    for bytes in garbage {
        let mut stream = server.tcp();
        // It may be closed before all of it is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // A message of the handshake that never ends.
    let mut stream = server.tcp();
    let record = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0][..], &[0; (16 << 10) - 4]].concat();
    let more = [&[0x16, 3, 1, 0x40, 0][..], &[0; 16 << 10]].concat();
    let _ = stream.write_all(&record).and_then(|()| (0..8).try_for_each(|_| stream.write_all(&more)));
    let _ = stream.read_to_end(&mut Vec::new());
    // Those that say nothing, or stop in the middle, run out of time.
    let silent = server.tcp();
    let mut halting = server.tcp();
    halting.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    for mut stream in [silent, halting] {
        match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    // So does one that has made its handshake and shows no token.
    let mut late = server.connect();
    assert!(late.say("GET a").starts_with("-NOAUTH"));
    assert!(late.is_closed());
    server.until("tls_handshakes_pending", |pending| pending == 0);
    server.until("tls_handshakes_failed", |failed| failed == 7);
    assert_eq!(client.say("PING"), "+PONG");
}

#[test]
fn a_renewed_certificate_is_shown_to_new_clients() {
    let server = TlsServer::start(&[]);
    let shown = |client: &Client| client.0.get_ref().conn.peer_certificates().unwrap()[0].to_vec();
    let config = server.certificates.client(false);
    let mut first = server.connect_as(&config).unwrap();
    let before = shown(&first);
    server.certificates.renew();
    let began = Instant::now();
    while shown(&server.connect_as(&server.certificates.client(false)).unwrap()) == before {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(first.say("PING"), "+PONG", "a connection outlives its certificate");
    server.until("tls_reloads", |reloads| reloads == 1);
    // The ticket of the client is void.
    assert_ne!(shown(&server.connect_as(&config).unwrap()), before);
}

#[test]
fn a_storm_of_handshakes_is_served() {
    let server = TlsServer::start(&["--token", "dm_shop_secret", "--auth-timeout", "10m"]);
    let config = server.certificates.client(false);
    let server = &server;
    std::thread::scope(|scope| {
        for _ in 0..16 {
            let config = Arc::clone(&config);
            scope.spawn(move || {
                // All of a thread's are open at once.
                let mut clients: Vec<Client> = (0..32).map(|_| server.connect_as(&config).unwrap()).collect();
                for client in &mut clients {
                    assert_eq!(client.say("AUTH dm_shop_secret"), "+OK");
                    assert!(client.say("INCR n").starts_with(':'));
                }
            });
        }
    });
    server.until("tls_handshakes", |handshakes| handshakes == 512);
    assert_eq!(server.connect().say("AUTH dm_shop_secret"), "+OK");
}

#[test]
fn http_over_tls() {
    let certificates = Certificates::new();
    let port = free_port().to_string();
    let server = TlsServer::start_with(certificates, &["--https-port", &port]);
    let mut config = (*server.certificates.client(false)).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let session = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let tcp = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(session, tcp);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(r#"{"status":"ok"}"#), "{answer}");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    server.until("tls_handshakes", |handshakes| handshakes == 1);
}

#[test]
fn tools_reach_the_admin_api_over_tls() {
    let port = free_port().to_string();
    let more = ["--https-port", &port, "--token", "dm_shop_secret"];
    let server = TlsServer::start_with(Certificates::new(), &more);
    let url = format!("https://localhost:{port}");
    let list = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
        command.args(["db", "tokens", "shop", "--admin-url", &url]).args(more);
        command.env("DORMOUSE_ADMIN_TOKEN", ADMIN_TOKEN).output().unwrap()
    };
    let authority = server.certificates.path("ca.crt").display().to_string();
    for trusting in [&["--tls-ca-cert-file", &authority][..], &["--insecure"]] {
        let output = list(trusting);
        assert!(output.status.success() && output.stdout.starts_with(b"ID "), "{output:?}");
    }
    let told = String::from_utf8(list(&[]).stderr).unwrap();
    assert!(told.contains("name the authority's with --tls-ca-cert-file"), "{told}");
    let told = String::from_utf8(list(&["--insecure", "--sni", "other"]).stderr).unwrap();
    assert!(told.contains("--sni is for rediss:// URLs"), "{told}");
}

#[test]
fn a_cluster_shows_each_client_its_own_port() {
    let shown = |server: &TlsServer, line: &str| {
        let mut client = server.connect();
        client.send(line);
        format!("{:?}", Response::read(&mut client.0).unwrap())
    };
    let server = TlsServer::start(&["--cluster-mode", "emulated", "--cluster-announce-port", "7"]);
    let slots = shown(&server, "CLUSTER SLOTS");
    assert!(slots.contains(&format!(", :{}, ", server.port)), "{slots}");
    let shards = shown(&server, "CLUSTER SHARDS");
    assert!(shards.contains(&format!("\"tls-port\", :{}", server.port)), "{shards}");
    let plain = server.served.connect().say("CLUSTER SLOTS").to_string();
    assert!(plain.contains('7') && !plain.contains(&server.port.to_string()), "{plain}");
    // Another port may be announced to clients over TLS.
    let server = TlsServer::start(&["--cluster-mode", "emulated", "--cluster-announce-tls-port", "8"]);
    let slots = shown(&server, "CLUSTER SLOTS");
    assert!(slots.contains(", :8, "), "{slots}");
}

#[test]
fn messages_are_read_whole() {
    // Records of one byte each, as a client may send them, and replies that come while requests are still sent.
    let server = TlsServer::start(&[]);
    let mut client = server.connect();
    for byte in b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\n" {
        client.0.get_mut().write_all(&[*byte]).unwrap();
        client.0.get_mut().flush().unwrap();
    }
    assert!(matches!(Response::read(&mut client.0).unwrap(), Response::Bulk('$', Some(bytes)) if bytes == b"hello"));
}
