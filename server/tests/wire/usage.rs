//! Usage as it leaves the server: pushed to a billing system, and counted by prefix.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use crate::served::{Served, Value};

const PATIENCE: Duration = Duration::from_secs(20);

/// A billing system. It refuses the first request, and takes all others. Returns its URL, and the events that it has taken.
fn receiver() -> (String, mpsc::Receiver<serde_json::Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    let (sender, events) = mpsc::channel();
    std::thread::spawn(move || {
        let mut is_first = true;
        // It ends with the test's process.
        for socket in listener.incoming() {
            let mut stream = BufReader::new(socket.unwrap());
            while let Some(body) = read_request(&mut stream) {
                let refuses = std::mem::take(&mut is_first);
                let status = if refuses { "503 Service Unavailable" } else { "202 Accepted" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                    break;
                }
                let batch: Vec<serde_json::Value> = serde_json::from_slice(&body).unwrap();
                batch.into_iter().filter(|_| !refuses).for_each(|event| _ = sender.send(event));
            }
        }
    });
    (url, events)
}

/// The body of the next request; `None` if there is none.
fn read_request(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let (mut length, mut is_known) = (0, false);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim().to_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("authorization", value)) => is_known = value == "bearer s3cret",
            _ if line.trim().is_empty() => break,
            _ => {}
        }
    }
    assert!(is_known, "a push without its secret");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

#[test]
fn usage_is_pushed() {
    let (url, events) = receiver();
    let pushing = ["--usage-to", &url, "--usage-every", "1ms", "--usage-header", "Authorization: Bearer s3cret"];
    let served = Served::start(&pushing);
    let mut client = served.connect();
    assert_eq!(client.say("DORMOUSE BRANCH pr-1").to_string(), "+OK");
    let mut branch = served.connect();
    assert_eq!(branch.run(&["AUTH", "default.pr-1", "x"]).to_string(), "+OK");
    for number in 1..=7 {
        assert_eq!(branch.say("INCR a").integer(), number);
        assert_eq!(branch.say("GET a").text(), number.to_string());
    }
    // Its window ends with it, not at the end of the minute.
    assert_eq!(client.say("DORMOUSE DELETE pr-1").to_string(), "+OK");
    let requests = loop {
        let event = events.recv_timeout(PATIENCE).expect("an event of requests");
        if event["subject"] == "default.pr-1" && event["data"]["meter"] == "requests" {
            break event;
        }
    };
    assert!(requests["data"]["quantity"].as_str().unwrap().parse::<u64>().unwrap() >= 14, "{requests}");
    let id = requests["id"].as_str().unwrap();
    assert!(id.starts_with("default.pr-1:requests:"), "{id}");
}

#[test]
fn requests_are_counted_by_prefix_on_request() {
    let served = Served::start(&[]);
    let (mut client, mut other) = (served.connect(), served.connect());
    assert_eq!(client.say("GET user:0").to_string(), "nil");
    let nothing = client.say("DORMOUSE USAGE PREFIXES");
    assert_eq!((nothing.at("counting").integer(), nothing.at("requests").integer()), (0, 0));
    for wrong in ["PREFIXES 0", "PREFIXES 600001", "PREFIXES x", "PREFIXES 5 DEEP 1", "PREFIXES 5 DEPTH 5"] {
        let reply = client.say(&format!("DORMOUSE USAGE {wrong}")).to_string();
        assert!(reply.starts_with("-ERR"), "{wrong}: {reply}");
    }
    assert_eq!(client.say("DORMOUSE USAGE PREFIXES 600000").to_string(), "+OK");
    client.say("SET user:1 x");
    client.say("GET user:2");
    for _ in 0..3 {
        other.say("LPOP bull:queue:wait");
    }
    client.say("MULTI");
    client.say("GET user:3");
    client.say("EXEC");
    client.say("PING");
    let counts = client.say("DORMOUSE USAGE PREFIXES");
    assert_eq!(counts.at("counting").integer(), 1);
    let shown = |prefix: &Value| {
        let number = |name: &str| prefix.at(name).integer();
        (prefix.at("prefix").text().to_owned(), number("requests"), number("writes"))
    };
    let found: Vec<_> = counts.at("prefixes").items().iter().map(shown).collect();
    assert_eq!(found, [("bull:".to_owned(), 3, 3), ("user:".to_owned(), 3, 1)], "{counts}");
    assert!(counts.at("prefixes").items()[0].at("client").text().starts_with("127.0.0.1:"), "{counts}");
    // A new count begins with nothing, and ends by itself.
    assert_eq!(client.say("DORMOUSE USAGE PREFIXES 1").to_string(), "+OK");
    client.say_until("DORMOUSE USAGE PREFIXES", |counts| counts.at("counting").integer() == 0);
    client.say("GET user:4");
    let after = client.say("DORMOUSE USAGE PREFIXES");
    assert!(after.at("prefixes").items().is_empty(), "{after}");
}
