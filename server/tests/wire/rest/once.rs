//! `Idempotency-Key`: deliveries of one request, again and again, at the same time, and with lost answers.

use serde_json::json;

use super::http;
use super::http::Http;
use crate::node::Bench;

const MISMATCH: &str = r#"422 {"error":"ONCEMISMATCH this key was used for another request"}"#;
const WRONG_TYPE: &str = r#"{"error":"WRONGTYPE Operation against a key holding the wrong kind of value"}"#;

impl Http {
    fn deliver(&mut self, key: &str, line: &str, body: &str) -> String {
        self.ask(line, &format!("idempotency-key: {key}"), body.as_bytes()).to_string()
    }
}

#[test]
fn a_request_is_run_once() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    let wrong = format!("400 {WRONG_TYPE}");
    for (key, line, body, expected) in [
        ("a", "POST /", r#"["INCRBY","n",5]"#, r#"200 {"result":5}"#),
        ("a", "POST /", r#"["INCRBY","n",5]"#, r#"200 {"result":5}"#),
        // The address says the same.
        ("a", "GET /INCRBY/n/5", "", r#"200 {"result":5}"#),
        ("a", "POST /INCRBY/n", "5", r#"200 {"result":5}"#),
        ("a", "POST /", r#"["INCRBY","n",6]"#, MISMATCH),
        ("a", "GET /incr/n", "", MISMATCH),
        ("b", "PUT /append/n", "0", r#"200 {"result":2}"#),
        ("b", "PUT /append/n", "0", r#"200 {"result":2}"#),
        ("c", "POST /", r#"["LPUSH","n","x"]"#, &wrong),
        ("d", "GET /del/n", "", r#"200 {"result":1}"#),
        // An error is repeated too.
        ("c", "POST /", r#"["LPUSH","n","x"]"#, &wrong),
        ("d", "GET /del/n", "", r#"200 {"result":1}"#),
        ("e", "POST /", r#"["XGROUP","CREATE","s","g","$","MKSTREAM"]"#, r#"200 {"result":"OK"}"#),
        ("e", "POST /", r#"["XGROUP","CREATE","s","g","$","MKSTREAM"]"#, r#"200 {"result":"OK"}"#),
        // What only reads runs each time, and so does what is not over keys.
        ("f", "GET /exists/n", "", r#"200 {"result":0}"#),
        ("f", "GET /set/n/1", "", r#"200 {"result":"OK"}"#),
        ("f", "GET /exists/n", "", r#"200 {"result":1}"#),
        ("f", "GET /publish/channel/x", "", r#"200 {"result":0}"#),
        ("g", "POST /", r#"["INCR"]"#, r#"400 {"error":"ERR wrong number of arguments for 'incr' command"}"#),
        (
            "g",
            "POST /",
            r#"["BLPOP","l",0]"#,
            r#"400 {"error":"ERR Command is not available over HTTP: 'BLPOP'. It needs a connection of its own"}"#,
        ),
        ("g", "POST /", "[]", r#"400 {"error":"ERR empty command"}"#),
        (
            "g",
            "POST /",
            r#"["INCR",null]"#,
            r#"400 {"error":"ERR failed to parse command: null, arrays and objects are not arguments, send them as strings"}"#,
        ),
        ("g", "POST /", r#"["INCR","n"]"#, r#"200 {"result":2}"#),
    ] {
        assert_eq!(client.deliver(key, line, body), expected, "{key} {line} {body}");
    }
    // Over RESP a key is the same key, and `ONCE` itself may come over HTTP.
    let mut other = bench.connect();
    other.check("ONCE a 60000 INCRBY n 5", ":5\r\n");
    assert_eq!(client.post("/", r#"["ONCE","a",60000,"INCRBY","n",5]"#), r#"200 {"result":5}"#);
    assert_eq!(
        client.post("/", r#"["ONCE","h",60000,"EXEC"]"#),
        r#"400 {"error":"ERR Command is not available over HTTP: 'EXEC'. It needs a connection of its own"}"#
    );
    assert_eq!(client.get("/get/n"), r#"200 {"result":"2"}"#);
}

#[test]
fn malformed_headers_are_refused() {
    let bench = Bench::new(&["dm_one_secret"]);
    let mut client = http(&bench).with_token("dm_one_secret");
    for (headers, part) in [
        ("idempotency-key:", "invalid Idempotency-Key"),
        ("idempotency-key: a b", "invalid Idempotency-Key"),
        ("idempotency-key: \u{e9}", "invalid Idempotency-Key"),
        (&format!("idempotency-key: {}", "k".repeat(257)), "invalid Idempotency-Key"),
        ("idempotency-key: a\nidempotency-key: b", "more than one idempotency-key"),
        ("idempotency-key: a\nidempotency-ttl: 0", "invalid Idempotency-TTL"),
        ("idempotency-ttl: 5", "needs an Idempotency-Key"),
    ] {
        let answer = client.ask("POST /", headers, br#"["INCR","n"]"#).to_string();
        assert!(answer.starts_with("400 {\"error\":\"ERR ") && answer.contains(part), "{headers}: {answer}");
    }
    assert_eq!(client.get("/exists/n"), r#"200 {"result":0}"#);
    // A page may send both headers.
    for (asked, allowed) in [
        ("", "authorization, content-type, idempotency-key, idempotency-ttl"),
        ("access-control-request-headers: authorization,idempotency-key\n", "authorization,idempotency-key"),
    ] {
        let answer = client.ask("OPTIONS /", &format!("{asked}origin: https://shop.example"), b"");
        assert_eq!(answer.header("access-control-allow-headers"), Some(allowed));
    }
}

#[test]
fn commands_of_a_pipeline_are_run_once_each() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    let body = r#"[["INCR","n"],["GET","n"],["LPUSH","n","x"],["INCR","n"],["nothing"]]"#;
    let answer = |read: &str| {
        let unknown = json!({ "error": "ERR unknown command 'nothing', with args beginning with: " });
        format!(r#"200 [{{"result":1}},{{"result":"{read}"}},{WRONG_TYPE},{{"result":2}},{unknown}]"#)
    };
    assert_eq!(client.deliver("p", "POST /pipeline", body), answer("1"));
    assert_eq!(client.deliver("p", "POST /pipeline", body), answer("2"), "only the read runs again");
    // Its commands have keys of their own.
    bench.connect().check("ONCE p/4 60000 INCR n", ":2\r\n");
    // One that was cut short: the rest is run.
    assert_eq!(client.deliver("q", "POST /pipeline", r#"[["INCR","n"]]"#), r#"200 [{"result":3}]"#);
    let whole = r#"[["INCR","n"],["INCR","n"]]"#;
    assert_eq!(client.deliver("q", "POST /pipeline", whole), r#"200 [{"result":3},{"result":4}]"#);
    let other = r#"[["DECR","n"],["INCR","n"]]"#;
    let mismatch = MISMATCH.strip_prefix("422 ").unwrap();
    assert_eq!(client.deliver("q", "POST /pipeline", other), format!(r#"200 [{mismatch},{{"result":4}}]"#));
    // Large ones are read elsewhere.
    let many = json!((0..10_000).map(|_| json!(["INCR", "many"])).collect::<Vec<_>>()).to_string();
    let first = client.deliver("r", "POST /pipeline", &many);
    assert_eq!(client.deliver("r", "POST /pipeline", &many), first);
    assert_eq!(client.get("/get/many"), r#"200 {"result":"10000"}"#);
    let more = json!(vec![json!(["INCR", "many"]); 10_001]).to_string();
    let refused = r#"400 {"error":"ERR too many commands for one Idempotency-Key: expected at most 10000"}"#;
    assert_eq!(client.deliver("s", "POST /pipeline", &more), refused);
}

#[test]
fn a_transaction_is_run_once() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    let body = r#"[["INCR","n"],["GET","n"],["RPUSH","l","x"]]"#;
    for _ in 0..2 {
        let expected = r#"200 [{"result":1},{"result":"1"},{"result":1}]"#;
        assert_eq!(client.deliver("t", "POST /multi-exec", body), expected);
    }
    assert_eq!(client.deliver("t", "POST /multi-exec", r#"[["INCR","n"]]"#), MISMATCH);
    for (body, part) in [
        // A transaction that was not run leaves nothing.
        (r#"[["INCR","n"],["GET"]]"#, "EXECABORT"),
        (r#"[["INCR","n"],["PING"]]"#, "behind ONCE, EXEC takes commands over keys"),
        (r#"[["INCR","n"],["ONCE","x",60000,"EXEC"]]"#, "'EXEC'"),
        (r#"[["ONCE","x",60000,"INCR","n"]]"#, "inside MULTI, ONCE goes in front of EXEC"),
    ] {
        let answer = client.deliver("u", "POST /multi-exec", body);
        assert!(answer.starts_with("400 {\"error\":\"") && answer.contains(part), "{body}: {answer}");
    }
    assert_eq!(client.deliver("u", "POST /multi-exec", r#"[["INCR","n"]]"#), r#"200 [{"result":2}]"#);
    // Whoever may not use `ONCE` leaves no transaction open.
    assert_eq!(
        client.post("/", r#"["ACL","SETUSER","app","on",">pw","~*","+@all","-once"]"#),
        r#"200 {"result":"OK"}"#
    );
    let mut app = http(&bench).with("authorization: Basic YXBwOnB3");
    assert!(app.deliver("v", "POST /multi-exec", r#"[["INCR","n"]]"#).contains("NOPERM"));
    assert_eq!(app.get("/incr/n"), r#"200 {"result":3}"#);
}

#[test]
fn scripts_are_run_once() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    let script = "return {redis.call('INCR', KEYS[1]), ARGV[1]}";
    let by_text = json!(["EVAL", script, 1, "n", "x"]).to_string();
    let missing = json!(["EVALSHA", "f".repeat(40), 1, "n"]).to_string();
    let text = r#"400 {"error":"NOSCRIPT No matching script. Please use EVAL."}"#;
    // That it is not known says that nothing was run: the client sends its text with the same key.
    assert_eq!(client.deliver("a", "POST /", &missing), text);
    assert_eq!(client.deliver("a", "POST /", &by_text), r#"200 {"result":[1,"x"]}"#);
    assert_eq!(client.deliver("a", "POST /", &by_text), r#"200 {"result":[1,"x"]}"#);
    let sha = client.ask("POST /", "", json!(["SCRIPT", "LOAD", script]).to_string().as_bytes()).json();
    let by_sha = json!(["EVALSHA", sha["result"], 1, "n", "x"]).to_string();
    for (encoding, expected) in [("", "x"), ("\nupstash-encoding: base64", "eA=="), ("", "x")] {
        let answer = client.ask("POST /", &format!("idempotency-key: b{encoding}"), by_sha.as_bytes());
        assert_eq!(answer.json(), json!({ "result": [2, expected] }), "in the encoding that is asked for");
    }
    let raw = client.ask("POST /", "idempotency-key: b\nupstash-response-format: resp2", by_sha.as_bytes());
    assert_eq!(raw.to_string(), "200 *2\r\n:2\r\n$1\r\nx\r\n");
    // A client of RESP3 has left a receipt in its own types.
    let mut other = bench.connect();
    other.send(&["HELLO 3"]);
    while other.line() != "*0" {}
    other.check("ONCE c 60000 ZINCRBY z 1.5 m", ",1.5\r\n");
    assert_eq!(client.deliver("c", "POST /", r#"["ZINCRBY","z",1.5,"m"]"#), r#"200 {"result":"1.5"}"#);
}

#[test]
fn deliveries_at_the_same_time_and_lost_answers() {
    const REQUESTS: usize = 60;
    let bench = Bench::new(&[]);
    std::thread::scope(|scope| {
        for client in 0..4_usize {
            let bench = &bench;
            // Two clients send the same requests.
            let who = client % 2;
            scope.spawn(move || {
                let mut connection = http(bench);
                for request in 0..REQUESTS {
                    let (path, body, expected) = match request % 3 {
                        0 => ("/", r#"["INCR","n"]"#, "{\"result\":"),
                        1 => ("/pipeline", r#"[["INCR","n"],["INCR","n"]]"#, "[{\"result\":"),
                        _ => ("/multi-exec", r#"[["INCR","n"],["INCR","n"]]"#, "[{\"result\":"),
                    };
                    let (line, headers) = (format!("POST {path}"), format!("idempotency-key: {who}:{request}"));
                    if (request + client) % 2 == 0 {
                        // It never reads the answer.
                        connection.send(&line, &headers, body.as_bytes());
                        connection = http(bench);
                    }
                    let first = connection.ask(&line, &headers, body.as_bytes()).to_string();
                    assert!(first.starts_with(&format!("200 {expected}")), "{first}");
                    let again = connection.ask(&line, &headers, body.as_bytes()).to_string();
                    assert_eq!(again, first, "{line} {headers}");
                }
            });
        }
    });
    let expected = 2 * (REQUESTS / 3) * 5;
    assert_eq!(http(&bench).get("/get/n"), format!(r#"200 {{"result":"{expected}"}}"#));
}

#[test]
fn read_only_tokens_read_with_a_key() {
    let bench = Bench::new(&["dm_one_secret"]);
    let mut owner = http(&bench).with_token("dm_one_secret");
    owner.get("/set/k/v");
    owner.post("/", r#"["ACL","SETUSER","reader","on",">pw","~*","+@read"]"#);
    let token = owner.ask("POST /", "", br#"["ACL","RESTTOKEN","reader","pw"]"#).json();
    let mut reader = http(&bench).with_token(token["result"].as_str().unwrap());
    assert_eq!(reader.deliver("a", "GET /get/k", ""), r#"200 {"result":"v"}"#);
    assert!(reader.deliver("a", "GET /set/k/w", "").starts_with("400 {\"error\":\"NOPERM"));
}
