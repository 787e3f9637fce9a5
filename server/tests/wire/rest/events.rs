//! Server-sent events.

use std::time::{Duration, Instant};

use super::http;
use super::http::Http;
use crate::node::{Bench, Connection};

/// A stream of events.
struct Events {
    http: Http,
    rest: String,
}

impl Events {
    fn open(mut http: Http, line: &str) -> Self {
        http.send(line, "accept: text/event-stream", b"[]");
        let head = http.head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        Self { http, rest: String::new() }
    }

    /// The next event or comment; `None`: the stream has ended.
    fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.rest.split_once("\n\n") {
                let event = event.to_owned();
                self.rest = rest.to_owned();
                return Some(event);
            }
            self.rest += &String::from_utf8(self.http.next_chunk()?).unwrap();
        }
    }

    #[track_caller]
    fn expect(&mut self, event: &str) {
        assert_eq!(self.next().as_deref(), Some(event));
    }
}

#[track_caller]
fn until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "still not so");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn receivers(client: &mut Connection, channel: &str) -> usize {
    client.send(&[&format!("PUBSUB NUMSUB {channel}")]);
    client.expect(&format!("*2\r\n${}\r\n{channel}\r\n:", channel.len()));
    client.line().parse().unwrap()
}

#[test]
fn channels_and_patterns() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    let mut chat = Events::open(http(&bench), "POST /subscribe/a/b?c");
    chat.expect("data: subscribe,a/b?c,1");
    let mut news = Events::open(http(&bench), "GET /psubscribe/news:*");
    news.expect("data: psubscribe,news:*,1");
    client.check("PUBLISH a/b?c hello", ":1\r\n");
    chat.expect("data: message,a/b?c,hello");
    for n in 0..2000 {
        client.check(&format!("PUBLISH news:{n} n,{n}"), ":1\r\n");
    }
    for n in 0..2000 {
        news.expect(&format!("data: pmessage,news:*,news:{n},n,{n}"));
    }
    // The connections end with their clients.
    drop(chat);
    until(|| receivers(&mut client, "a/b?c") == 0);
    drop(news);
    until(|| bench.node.clients.list().len() == 1);
}

#[test]
fn commands_are_monitored() {
    let bench = Bench::new(&["dm_one_secret"]);
    let mut client = bench.connect();
    client.check("AUTH dm_one_secret", "+OK\r\n");
    let mut monitor = Events::open(http(&bench), "POST /monitor?_token=dm_one_secret");
    monitor.expect("data: OK");
    client.check("SET k v", "+OK\r\n");
    let mut other = http(&bench).with_token("dm_one_secret");
    other.post("/pipeline", r#"[["GET","k"],["INCR","n"]]"#);
    for shown in [r#""SET" "k" "v""#, r#""GET" "k""#, r#""INCR" "n""#] {
        let event = monitor.next().expect("an event");
        assert!(event.starts_with("data: 1") && event.ends_with(&format!("[0 unix:test] {shown}")), "{event}");
    }
}

#[test]
fn a_subscriber_needs_the_right() {
    let bench = Bench::new(&["dm_one_secret"]);
    let mut admin = bench.connect();
    admin.check("AUTH dm_one_secret", "+OK\r\n");
    admin.check("ACL SETUSER ann on >pass +@all &news", "+OK\r\n");
    // `ann:dm_one_pass`
    let ann = "authorization: Basic YW5uOmRtX29uZV9wYXNz";
    let refused = http(&bench).ask("POST /subscribe/other", ann, b"[]");
    assert_eq!(refused.status, 400);
    assert!(refused.json()["error"].as_str().unwrap().starts_with("NOPERM"), "{refused}");
    let mut news = Events::open(http(&bench).with(ann), "POST /subscribe/news");
    news.expect("data: subscribe,news,1");
    admin.check("ACL SETUSER ann resetchannels", "+OK\r\n");
    admin.check("PUBLISH news x", ":0\r\n");
    assert_eq!(news.next(), None, "its user may not listen any more");
}

#[test]
fn a_client_that_reads_too_slowly_is_closed() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.check("CONFIG SET client-output-buffer-limit 'pubsub 2mb 0 0'", "+OK\r\n");
    let mut slow = Events::open(http(&bench), "POST /subscribe/c");
    slow.expect("data: subscribe,c,1");
    let mut fast = Events::open(http(&bench), "POST /subscribe/d");
    fast.expect("data: subscribe,d,1");
    let message = "x".repeat(10_000);
    until(|| {
        client.send(&[&format!("PUBLISH c {message}")]);
        client.line() == ":0"
    });
    until(|| bench.node.clients.list().len() == 2);
    client.check("PUBLISH d y", ":1\r\n");
    fast.expect("data: message,d,y");
    while slow.next().is_some() {}
}

#[test]
fn a_listener_keeps_no_database_awake() {
    let bench = Bench::new(&[]);
    let mut client = bench.connect();
    client.check("SET k v", "+OK\r\n");
    let mut events = Events::open(http(&bench), "POST /subscribe/c");
    events.expect("data: subscribe,c,1");
    bench.sleep();
    client.check("PUBLISH c x", ":1\r\n");
    events.expect("data: message,c,x");
    assert!(!bench.tenant("default").database.is_awake());
}

#[test]
fn silence_is_interrupted() {
    let bench = Bench::new(&[]);
    let mut events = Events::open(http(&bench), "POST /subscribe/c");
    events.expect("data: subscribe,c,1");
    events.expect(":hb");
}

#[test]
fn a_server_that_ends_ends_the_streams() {
    let bench = Bench::new(&[]);
    let mut events = Events::open(http(&bench), "POST /subscribe/c");
    events.expect("data: subscribe,c,1");
    bench.node.drain();
    assert_eq!(events.next(), None);
}
