//! Requests over HTTP for a database of another node.

use std::sync::atomic::Ordering;

use dormouse::fleet::ServedAt;
use dormouse::metering::Meter;

use super::{Pair, clients, closed_address, peering, until};
use crate::node::calls;
use crate::rest::http::Http;

fn http(pair: &Pair) -> Http {
    Http::over(pair.a.connect_http())
}

fn shop(pair: &Pair) -> Http {
    http(pair).with_token("dm_shop_s3cret")
}

#[test]
fn commands_run_on_the_other_node() {
    let pair = Pair::new();
    let mut client = shop(&pair);
    assert_eq!(client.get("/set/key/there"), r#"200 {"result":"OK"}"#);
    assert_eq!(client.post("/", r#"["GET","key"]"#), r#"200 {"result":"there"}"#);
    let pipeline = r#"[["INCR","n"],["INCR","n"],["NONE"]]"#;
    let answer = client.post("/pipeline", pipeline);
    assert!(answer.starts_with(r#"200 [{"result":1},{"result":2},{"error":"ERR unknown command"#), "{answer}");
    assert_eq!(client.post("/multi-exec", r#"[["INCR","n"]]"#), r#"200 [{"result":3}]"#);
    // A query can name the token.
    assert_eq!(http(&pair).get("/get/key?_token=dm_shop_s3cret"), r#"200 {"result":"there"}"#);
    pair.direct().check("GET key", "$5\r\nthere\r\n");
    // One connection serves them all.
    assert_eq!(pair.http.accepted(), 1);
    let mut here = http(&pair).with_token("dm_blog_s3cret");
    assert_eq!(here.get("/set/key/here"), r#"200 {"result":"OK"}"#);
    assert_eq!(here.get("/get/key"), r#"200 {"result":"here"}"#);
    assert_eq!(pair.http.accepted(), 1);
}

#[test]
fn one_connection_may_ask_for_databases_of_several_nodes() {
    let pair = Pair::new();
    let mut client = http(&pair);
    for (path, expected) in [
        ("/set/key/there?_token=dm_shop_s3cret", "OK"),
        ("/set/key/here?_token=dm_blog_s3cret", "OK"),
        ("/get/key?_token=dm_shop_s3cret", "there"),
        ("/get/key?_token=dm_blog_s3cret", "here"),
        ("/get/key?_token=dm_blog_s3cret", "here"),
        ("/get/key?_token=dm_shop_s3cret", "there"),
    ] {
        assert_eq!(client.get(path), format!(r#"200 {{"result":"{expected}"}}"#), "{path}");
    }
}

#[test]
fn wrong_credentials_are_refused() {
    let pair = Pair::new();
    let refusal = r#"401 {"error":"WRONGPASS invalid or missing auth token"}"#;
    assert_eq!(http(&pair).with_token("dm_shop_wrong").get("/get/key"), refusal);
    assert_eq!(http(&pair).get("/get/key"), refusal);
    assert_eq!(pair.http.accepted(), 0);
    pair.direct().check("ACL SETUSER ann on >pw ~* +@all", "+OK\r\n");
    // `ann:dm_shop_no` and `ann:dm_shop_pw`.
    let as_ann = |secret: &str| http(&pair).with(&format!("authorization: Basic {secret}"));
    assert_eq!(as_ann("YW5uOmRtX3Nob3Bfbm8=").get("/get/key"), refusal);
    assert_eq!(pair.a.node.guesses.count.load(Ordering::SeqCst), 2);
    let mut ann = as_ann("YW5uOmRtX3Nob3BfcHc=");
    (0..3).for_each(|_| assert_eq!(ann.get("/acl/whoami"), r#"200 {"result":"ann"}"#));
}

#[test]
fn large_bodies_and_answers_stream_through() {
    let pair = Pair::new();
    let mut client = shop(&pair);
    let value = "x".repeat(10 << 20);
    assert_eq!(client.post("/set/large", &value), r#"200 {"result":"OK"}"#);
    assert_eq!(client.get("/get/large"), format!(r#"200 {{"result":"{value}"}}"#));
    // The other node refuses what is too large.
    let mut client = shop(&pair);
    let answer = client.ask("POST /set/large", "content-length: 100000000\r\nx: y", b"");
    assert_eq!(answer.status, 413);
}

#[test]
fn events_stream_through() {
    let pair = Pair::new();
    let mut events = shop(&pair);
    events.send("GET /subscribe/news", "accept: text/event-stream", b"");
    let head = events.head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let mut read = String::new();
    let mut expect = |expected: &str| {
        while !read.contains("\n\n") {
            read += &String::from_utf8(events.next_chunk().unwrap()).unwrap();
        }
        let (event, rest) = read.split_once("\n\n").unwrap();
        assert_eq!(event, expected);
        read = rest.to_owned();
    };
    expect("data: subscribe,news,1");
    let mut direct = pair.direct();
    for n in 0..100 {
        direct.check(&format!("PUBLISH news {n}"), ":1\r\n");
        expect(&format!("data: message,news,{n}"));
    }
    // The end of the client is one at the other node.
    drop(events);
    until(|| clients(&pair.b).len() == 1 && clients(&pair.a).is_empty());
    let mut events = shop(&pair);
    events.send("GET /subscribe/news", "accept: text/event-stream", b"");
    assert_eq!(events.head().status, 200);
    clients(&pair.a).iter().for_each(|client| client.kill());
    until(|| clients(&pair.b).len() == 1);
}

#[test]
fn only_a_node_says_for_whom_it_asks() {
    let pair = Pair::new();
    let list = |headers: &str| {
        let mut client = Http::over(pair.b.connect_http()).with_token("dm_shop_s3cret");
        client.ask("GET /client/list", headers, b"").to_string()
    };
    for (headers, address) in [
        ("dormouse-forwarded: 1 192.0.2.7:9 the-secret-of-the-fleet", "addr=192.0.2.7:9 "),
        ("dormouse-forwarded: 1 192.0.2.8:9 wrong", "addr=test:0 "),
    ] {
        let shown = list(headers);
        assert!(shown.contains(address) || shown.starts_with("400 "), "{shown}");
    }
    let mut client = shop(&pair);
    let forged = "dormouse-forwarded: 1 192.0.2.7:9 wrong";
    assert_eq!(client.ask("GET /echo/hello", forged, b"").to_string(), r#"200 {"result":"hello"}"#);
}

#[test]
fn a_node_that_cannot_be_reached_is_named() {
    let pair = Pair::new();
    let address = closed_address();
    let gone = peering("192.0.2.1:1", Some(&address));
    pair.move_to(move || Ok(ServedAt::There(gone.clone())));
    let answer = shop(&pair).get("/get/key");
    assert!(
        answer.starts_with("503 ") && answer.contains("TRYAGAIN database `shop` is served by node `b`"),
        "{answer}"
    );
    let without = peering("192.0.2.1:1", None);
    pair.move_to(move || Ok(ServedAt::There(without.clone())));
    let answer = shop(&pair).get("/get/key");
    assert!(answer.contains("which serves no HTTP"), "{answer}");
    pair.move_to(|| Ok(ServedAt::Here));
    assert_eq!(shop(&pair).get("/get/key"), r#"200 {"result":null}"#);
}

#[test]
fn requests_are_billed_once() {
    let pair = Pair::new();
    let mut client = shop(&pair);
    (0..10).for_each(|_| assert_eq!(client.get("/set/key/value"), r#"200 {"result":"OK"}"#));
    drop(client);
    until(|| clients(&pair.a).is_empty());
    let (here, there) = (pair.a.totals("shop"), pair.b.totals("shop"));
    assert_eq!((calls(&here, "set"), calls(&there, "set")), (0, 10));
    assert_eq!((here[Meter::BytesIn], here[Meter::BytesOut]), (0, 0));
    assert!(there[Meter::BytesIn] > 0 && there[Meter::BytesOut] > 0);
    let snapshot = pair.a.node.forwarded.snapshot();
    assert!(snapshot.connections == 0 && snapshot.bytes > 0, "{snapshot:?}");
}

#[test]
fn without_tokens_requests_lead_to_the_default_database() {
    let pair = Pair::with(&[]);
    assert_eq!(http(&pair).get("/set/key/there"), r#"200 {"result":"OK"}"#);
    pair.b.connect().check("GET key", "$5\r\nthere\r\n");
    pair.move_to(|| Ok(ServedAt::Here));
    let mut client = http(&pair);
    assert_eq!(client.get("/get/key"), r#"200 {"result":null}"#);
    assert_eq!(client.get("/get/key"), r#"200 {"result":null}"#);
}
