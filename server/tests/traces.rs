//! A server sends its spans to a collector, and nothing of its tenants' data with them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use dormouse_client_tests::ports::free_port;

const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "dm_shop_a-token-that-stays-secret";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[test]
fn requests_wakes_and_slow_commands_are_spans() {
    let (endpoint, bodies) = collector();
    let (port, http_port) = (free_port(), free_port());
    let mut server = Command::new(env!("CARGO_BIN_EXE_dormouse"));
    server
        .args(["serve", "--store", "memory://", "--token", TOKEN, "--admin-token", "admin"])
        .args(["--port", &port.to_string(), "--http-port", &http_port.to_string()])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .stdout(Stdio::null());
    let server = Running(server.spawn().unwrap());
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", http_port)).is_err() {
        assert!(began.elapsed() < PATIENCE, "the server does not start");
        thread::yield_now();
    }
    let body = r#"[["SET","the-key","the-value"],["SORT","the-key"]]"#;
    let mut http = TcpStream::connect(("127.0.0.1", http_port)).unwrap();
    write!(
        http,
        "POST /pipeline HTTP/1.1\r\nHost: dormouse\r\nAuthorization: Bearer {TOKEN}\r\ntraceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut redis = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(redis, "AUTH {TOKEN}\r\nDEBUG SLEEP 0\r\nBGSAVE\r\nQUIT\r\n").unwrap();
    redis.read_to_string(&mut answer).unwrap();

    let trace: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&TRACE[2 * at..2 * at + 2], 16).unwrap()).collect();
    let wanted: [&[u8]; 7] =
        [b"POST /pipeline", b"/pipeline", b"wake", b"shop", b"service.name", b"checkpoint", &trace];
    let mut sent = Vec::new();
    while !wanted.iter().all(|word| holds(&sent, word)) {
        let left = PATIENCE.checked_sub(began.elapsed()).unwrap_or_default();
        match bodies.recv_timeout(left) {
            Ok(body) => sent.extend_from_slice(&body),
            Err(_) => panic!("not all spans came: {}", sent.escape_ascii()),
        }
    }
    drop(server);
    sent.extend(bodies.try_iter().flatten());
    for secret in [TOKEN, "the-key", "the-value"] {
        assert!(!holds(&sent, secret.as_bytes()), "a span tells {secret}");
    }
}

fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// A server that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Starts a collector: every body that it gets is sent on.
fn collector() -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                while let Some(body) = exchange(&stream) {
                    if sender.send(body).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (endpoint, receiver)
}

/// Reads one request and answers it. `None`: the client has gone.
fn exchange(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let mut len = 0;
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 0 && line != "\r\n" {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            len = value.trim().parse().ok()?;
        }
        line.clear();
    }
    if line.is_empty() {
        return None;
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n").ok()?;
    Some(body)
}
