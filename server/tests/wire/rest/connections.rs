//! Connections: who is served, and how.

use std::io::Write;
use std::time::Duration;

use dormouse::metering::Meter;
use serde_json::json;

use super::http;
use super::http::Http;
use crate::node::{Bench, calls};
use crate::served::{ADMIN_TOKEN, Served};

const UNAUTHORIZED: &str = r#"401 {"error":"WRONGPASS invalid or missing auth token"}"#;

#[test]
fn tokens_lead_to_databases() {
    let bench = Bench::new(&["dm_one_secret", "dm_two_other"]);
    let mut client = http(&bench);
    let one = "authorization: Bearer dm_one_secret";
    let two = "authorization: Bearer dm_two_other";
    for (line, headers, expected) in [
        ("GET /set/k/1", one, r#"200 {"result":"OK"}"#),
        ("GET /get/k", two, r#"200 {"result":null}"#),
        ("GET /set/k/2", two, r#"200 {"result":"OK"}"#),
        ("GET /get/k", one, r#"200 {"result":"1"}"#),
        ("GET /get/k", "", UNAUTHORIZED),
        ("GET /get/k", "authorization: Bearer dm_one_wrong", UNAUTHORIZED),
        ("GET /get/k", "authorization: Bearer", UNAUTHORIZED),
        ("GET /get/k", "authorization: Digest x", UNAUTHORIZED),
        ("GET /get/k?_token=dm_two_other", "", r#"200 {"result":"2"}"#),
        ("GET /set/k/3?_token=dm_two_other&XX", "", r#"200 {"result":"OK"}"#),
        // `one:dm_one_secret`
        ("GET /get/k", "authorization: Basic b25lOmRtX29uZV9zZWNyZXQ=", r#"200 {"result":"1"}"#),
        ("GET /get/k", two, r#"200 {"result":"3"}"#),
    ] {
        assert_eq!(client.ask(line, headers, b"").to_string(), expected, "{line} {headers}");
    }
    assert_eq!(calls(&bench.totals("one"), "GET"), 2);
    assert_eq!(calls(&bench.totals("two"), "GET"), 3);
}

#[test]
fn wrong_tokens_end_the_connection() {
    let bench = Bench::new(&["dm_one_secret"]);
    let mut client = http(&bench).with_token("dm_one_wrong");
    let mut answers = 0;
    loop {
        let answer = client.ask("GET /ping", "", b"");
        assert_eq!(answer.to_string(), UNAUTHORIZED);
        answers += 1;
        if answer.header("connection") == Some("close") {
            break;
        }
    }
    assert_eq!(answers, 8);
    assert!(client.is_closed());
}

#[test]
fn a_user_has_his_rights() {
    let bench = Bench::new(&["dm_one_secret"]);
    let mut admin = bench.connect();
    admin.check("AUTH dm_one_secret", "+OK\r\n");
    admin.check("ACL SETUSER ann on >pass ~a:* +@read -keys", "+OK\r\n");
    let mut client = http(&bench);
    // `ann:dm_one_pass`
    let ann = "authorization: Basic YW5uOmRtX29uZV9wYXNz";
    assert_eq!(client.ask("GET /get/a:1", ann, b"").to_string(), r#"200 {"result":null}"#);
    let answer = client.ask("GET /set/a:1/x", ann, b"").to_string();
    assert_eq!(answer, r#"400 {"error":"NOPERM User ann has no permissions to run the 'set' command"}"#);
    let answer = client.ask("POST /pipeline", ann, br#"[["GET","b"],["KEYS","*"],["GET","a:2"]]"#);
    assert_eq!(answer.status, 200);
    assert!(answer.json()[0]["error"].as_str().unwrap().starts_with("NOPERM No permissions to access a key"));
    assert!(answer.json()[1]["error"].as_str().unwrap().starts_with("NOPERM User ann"));
    assert_eq!(answer.json()[2], json!({ "result": null }));
    // The rights of a user who is gone end with him.
    admin.check("ACL DELUSER ann", ":1\r\n");
    assert!(client.is_closed());
    assert_eq!(http(&bench).ask("GET /get/a:1", ann, b"").to_string(), UNAUTHORIZED);
}

#[test]
fn a_user_has_a_token() {
    for tokens in [&["dm_one_secret", "secret"][..], &[]] {
        let bench = Bench::new(tokens);
        let mut admin = bench.connect();
        let name = if tokens.is_empty() { "default" } else { "one" };
        if !tokens.is_empty() {
            admin.check("AUTH dm_one_secret", "+OK\r\n");
        }
        admin.check("ACL SETUSER reader on >pa_ss ~a:* +@read", "+OK\r\n");
        let wrong = "-ERR Wrong password or user \"reader\" does not exist\r\n";
        admin.check("ACL RESTTOKEN reader wrong", wrong);
        admin.send(&["ACL RESTTOKEN reader pa_ss"]);
        let token = admin.bulk();
        admin.send(&[&format!("ACL RESTTOKEN reader dm_{name}_pa_ss")]);
        assert_eq!(admin.bulk(), token);
        let mut client = http(&bench).with_token(&token);
        assert_eq!(client.get("/get/a:1"), r#"200 {"result":null}"#);
        assert_eq!(
            client.get("/acl/whoami"),
            r#"400 {"error":"NOPERM User reader has no permissions to run the 'acl|whoami' command"}"#
        );
        assert!(client.get("/set/a:1/x").starts_with("400 {\"error\":\"NOPERM"));
        // A page may show it.
        assert_eq!(client.ask("GET /get/a:1", "origin: https://example.com", b"").status, 200);
        admin.check("ACL SETUSER reader <pa_ss >other", "+OK\r\n");
        assert_eq!(http(&bench).with_token(&token).get("/get/a:1"), UNAUTHORIZED);
    }
}

#[test]
fn web_pages_need_a_token() {
    let open = Bench::new(&[]);
    let mut client = http(&open);
    let page = "origin: https://example.com";
    for headers in [page, "sec-fetch-site: cross-site", "sec-fetch-site: same-site", "origin: null"] {
        let answer = client.ask("GET /ping", headers, b"");
        assert_eq!(answer.status, 403, "{headers}");
        assert!(answer.json()["error"].as_str().unwrap().starts_with("NOPERM a web page may not use"));
    }
    assert_eq!(client.ask("GET /ping", "sec-fetch-site: none", b"").status, 200);
    let preflight = client.ask("OPTIONS /", page, b"");
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, None));
    let mut renamed = Http::over(open.connect_http());
    renamed.write(b"GET /ping HTTP/1.1\r\nhost: example.com\r\n\r\n");
    assert_eq!(renamed.read(false).status, 403, "a page's own name leads here");

    let closed = Bench::new(&["dm_one_secret"]);
    let mut client = http(&closed);
    let asked = "origin: https://example.com\naccess-control-request-method: POST\naccess-control-request-headers: authorization,upstash-encoding";
    let preflight = client.ask("OPTIONS /pipeline", asked, b"");
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization,upstash-encoding"));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, HEAD, POST, PUT, OPTIONS"));
    let answer = client.ask("GET /ping", &format!("{page}\nauthorization: Bearer dm_one_secret"), b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
    let refused = client.ask("GET /ping", page, b"");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("*")));
}

#[test]
fn requests_in_every_shape() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    // Several in one write.
    let one = "GET /incr/n HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write(one.repeat(10).as_bytes());
    for n in 1..=10 {
        assert_eq!(client.read(false).to_string(), format!("200 {{\"result\":{n}}}"));
    }
    // A body in chunks, byte by byte.
    let chunked =
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n[\"GET\r\n6\r\n\",\"n\"]\r\n0\r\n\r\n";
    for byte in chunked.bytes() {
        client.write(&[byte]);
    }
    assert_eq!(client.read(false).to_string(), r#"200 {"result":"10"}"#);
    client.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 8\r\n\r\n");
    assert_eq!(client.head().status, 100);
    client.write(br#"["PING"]"#);
    assert_eq!(client.read(false).to_string(), r#"200 {"result":"PONG"}"#);
    let answer = client.ask("GET /ping", "connection: close", b"");
    assert_eq!((answer.to_string().as_str(), answer.header("connection")), (r#"200 {"result":"PONG"}"#, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn what_is_too_large_is_refused() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    client.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n");
    assert_eq!(client.read(false).to_string(), r#"413 {"error":"ERR max request size exceeded"}"#);
    assert!(client.is_closed());
    let mut client = http(&bench);
    let long = format!("GET /get/{} HTTP/1.1\r\nhost: x\r\n\r\n", "k".repeat(50_000));
    client.write(long.as_bytes());
    assert_eq!(client.read(false).to_string(), r#"200 {"result":null}"#);
    let mut socket = bench.connect_http();
    // The server may close before all is written.
    let _ = socket.write_all(format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)).as_bytes());
    assert!(Http::over(socket).line().starts_with("HTTP/1.1 431") || bench.node.clients.list().len() <= 1);
}

#[test]
fn clients_are_listed_and_closed() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    assert_eq!(client.get("/ping"), r#"200 {"result":"PONG"}"#);
    let mut admin = bench.connect();
    admin.check("PING", "+PONG\r\n");
    let clients = bench.node.clients.list();
    let found = clients.iter().find(|client| &*client.told.lock().library == "http").expect("it is listed");
    admin.check(&format!("CLIENT KILL ID {}", found.id), ":1\r\n");
    assert!(client.is_closed());
    while bench.node.clients.list().len() > 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn bytes_are_those_on_the_wire() {
    let bench = Bench::new(&["dm_one_secret"]);
    let mut client = http(&bench).with_token("dm_one_secret");
    let value = "v".repeat(100_000);
    const METERS: [Meter; 6] = [
        Meter::Requests,
        Meter::BytesIn,
        Meter::BytesOut,
        Meter::UnbilledRequests,
        Meter::UnbilledBytesIn,
        Meter::UnbilledBytesOut,
    ];
    for (line, body, requests, unbilled) in [
        ("GET /ping", String::new(), 1, 1),
        ("GET /set/k/v", String::new(), 1, 0),
        ("POST /pipeline", json!([["SET", "a", value], ["GET", "a"], ["nothing"]]).to_string(), 2, 0),
        // The bytes of an answer with something that is billed are billed.
        ("POST /pipeline", json!([["SET", "a", value], ["LPOP", "none"]]).to_string(), 2, 1),
        ("POST /pipeline", json!([["PING"], ["LPOP", "none"], ["ECHO", "x"]]).to_string(), 3, 3),
        ("POST /multi-exec", json!([["SET", "a", 1], ["GET", "a"]]).to_string(), 4, 0),
        ("POST /", json!(["LRANGE", "none", 0, 1]).to_string(), 1, 0),
        ("POST /", json!(["RPOP", "none"]).to_string(), 1, 1),
        ("GET /get/k", String::new(), 1, 0),
    ] {
        let settled = |sent: usize, received: usize, before: [u128; 6]| {
            let spent = || {
                let totals = bench.totals("one");
                std::array::from_fn(|at| totals[METERS[at]] - before[at])
            };
            let (sent, received) = (sent as u128, received as u128);
            let moved = if requests == unbilled { [sent, received] } else { [0, 0] };
            let expected = [requests, sent, received, unbilled, moved[0], moved[1]];
            // The bytes of an answer are counted just after they are written.
            for _ in 0..1000 {
                if spent() == expected {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(spent(), expected, "{line}");
        };
        let totals = bench.totals("one");
        let before = METERS.map(|meter| totals[meter]);
        let (sent, received) = client.exchange(line, body.as_bytes());
        settled(sent, received, before);
    }
}

#[test]
fn a_sleeping_database_holds_up_no_other() {
    let bench = Bench::new(&["secret", "dm_two_other"]);
    let mut one = http(&bench).with_token("secret");
    assert_eq!(one.get("/set/k/1"), r#"200 {"result":"OK"}"#);
    bench.sleep();
    let manifests = bench.runtime.block_on(bench.node.engine.store.list("db/default/manifest")).expect("a listing");
    manifests.iter().for_each(|manifest| bench.faults.hide(&manifest.name));
    one.send("GET /get/k", "", b"");
    let mut two = http(&bench).with_token("dm_two_other");
    for n in 1..=100 {
        assert_eq!(two.get("/incr/n"), format!("200 {{\"result\":{n}}}"));
    }
    manifests.iter().for_each(|manifest| bench.faults.show(&manifest.name));
    let answer = one.read(false);
    // It may have been refused meanwhile.
    assert!(answer.status == 200 || answer.json()["error"].is_string(), "{answer}");
    assert_eq!(one.get("/get/k"), r#"200 {"result":"1"}"#);
}

#[test]
fn one_port_for_probes_and_databases() {
    let server = Served::start_http(&["--token", "dm_shop_secret"]);
    let mut client = Http::at(server.http_port).with_token("dm_shop_secret");
    for _ in 0..2 {
        assert_eq!(client.get("/healthz"), r#"200 {"status":"ok"}"#);
    }
    assert_eq!(client.post("/pipeline", r#"[["SET","k","v"],["GET","k"]]"#), r#"200 [{"result":"OK"},{"result":"v"}]"#);
    assert_eq!(client.get("/get/k"), r#"200 {"result":"v"}"#);
    // The connection now belongs to a worker.
    assert_eq!(client.get("/healthz"), r#"200 {"status":"ok"}"#);
    assert_eq!(client.get("/readyz"), r#"200 {"status":"ready"}"#);
    // The metrics name other databases too: a tenant does not see them.
    assert!(client.get("/metrics").starts_with("401 "));
    let mut admin = Http::at(server.http_port).with_token(ADMIN_TOKEN);
    assert!(admin.get("/metrics").contains("redis_uptime_in_seconds"));
    assert_eq!(client.get("/get/k"), r#"200 {"result":"v"}"#);
    // A large first request.
    let mut client = Http::at(server.http_port).with_token("dm_shop_secret");
    let value = "x".repeat(3_000_000);
    assert_eq!(client.post("/set/large", &value), r#"200 {"result":"OK"}"#);
    assert_eq!(client.get("/strlen/large"), r#"200 {"result":3000000}"#);
    // A first request with a value in its address.
    for bytes in [10_000, 20_000, 60_000] {
        let mut client = Http::at(server.http_port).with_token("dm_shop_secret");
        assert_eq!(client.get(&format!("/set/long/{}", "x".repeat(bytes))), r#"200 {"result":"OK"}"#);
        assert_eq!(client.get("/strlen/long"), format!("200 {{\"result\":{bytes}}}"));
    }
    // In one write with a probe.
    let mut client = Http::at(server.http_port);
    let both = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /get/k?_token=dm_shop_secret HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write(both.as_bytes());
    assert_eq!(client.read(false).to_string(), r#"200 {"status":"ok"}"#);
    let answer = client.read(false);
    assert!(answer.status == 400 && client.is_closed() || answer.to_string() == r#"200 {"result":"v"}"#, "{answer}");
    assert_eq!(Http::at(server.http_port).get("/get/k"), UNAUTHORIZED);
    assert_eq!(server.connect().say("GET k").text(), "v");
}

#[test]
fn metrics_are_for_the_holder_of_their_token() {
    let server = Served::start_http(&["--token", "dm_shop_secret", "--metrics-token", "m3trics"]);
    let client = || Http::at(server.http_port);
    for (token, status) in [("m3trics", 200), (ADMIN_TOKEN, 200), ("m3tric", 401), ("dm_shop_secret", 401), ("", 401)] {
        let answer = client().with_token(token).get("/metrics");
        assert!(answer.starts_with(&format!("{status} ")), "{token}: {answer}");
        assert_eq!(answer.contains("redis_up"), status == 200, "{token}: {answer}");
    }
    assert!(client().get("/metrics").starts_with("401 "));
    assert_eq!(client().get("/healthz"), r#"200 {"status":"ok"}"#);
    assert_eq!(client().get("/readyz"), r#"200 {"status":"ready"}"#);
    // It opens nothing else.
    assert!(client().with_token("m3trics").get("/get/k").starts_with("401 "));
    assert!(client().with_token("m3trics").get("/v1/databases").starts_with("401 "));
    let open = Served::start_http(&["--token", "dm_shop_secret", "--metrics-token", "none"]);
    assert!(Http::at(open.http_port).get("/metrics").starts_with("200 "));
}
