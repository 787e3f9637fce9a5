//! Requests and their answers.

use serde_json::{Value, json};

use super::http;
use crate::node::Bench;

#[test]
fn a_command_in_a_body() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    for (body, expected) in [
        (r#"["SET","k","v"]"#, r#"200 {"result":"OK"}"#),
        (r#"["GET","k"]"#, r#"200 {"result":"v"}"#),
        (r#"["get","none"]"#, r#"200 {"result":null}"#),
        (r#"["SET","n",10]"#, r#"200 {"result":"OK"}"#),
        (r#"["INCRBYFLOAT","n",1.5]"#, r#"200 {"result":"11.5"}"#),
        (r#"["HSET","h","a",1,"b",true]"#, r#"200 {"result":2}"#),
        (r#"["HGETALL","h"]"#, r#"200 {"result":["a","1","b","true"]}"#),
        (r#"["HGETALL","none"]"#, r#"200 {"result":[]}"#),
        (r#"["JSON.SET","doc","$","{\"a\":[1,\"é\"]}"]"#, r#"200 {"result":"OK"}"#),
        (r#"["JSON.GET","doc","$.a"]"#, r#"200 {"result":"[[1,\"é\"]]"}"#),
        (r#"["JSON.ARRLEN","doc","$.a"]"#, r#"200 {"result":[2]}"#),
        (r#"["JSON.SET","doc","$.a.b","{"]"#, r#"400 {"error":"EOF while parsing an object at line 1 column 1"}"#),
        (r#"["SMISMEMBER","none","x"]"#, r#"200 {"result":[0]}"#),
        (r#"["ZADD","z",1.5,"m"]"#, r#"200 {"result":1}"#),
        (r#"["ZRANGE","z",0,-1,"WITHSCORES"]"#, r#"200 {"result":["m","1.5"]}"#),
        (
            r#"["EVAL","return {1, {'a', false}, redis.status_reply('fine')}",0]"#,
            r#"200 {"result":[1,["a",null],"fine"]}"#,
        ),
        (r#"["PING"]"#, r#"200 {"result":"PONG"}"#),
        (r#"["ECHO","hi"]"#, r#"200 {"result":"hi"}"#),
        (r#"["SCAN",0,"MATCH","z"]"#, r#"200 {"result":["0",["z"]]}"#),
        (r#"["XADD","s","1-1","f","v"]"#, r#"200 {"result":"1-1"}"#),
        (r#"["XREAD","STREAMS","s","0"]"#, r#"200 {"result":[["s",[["1-1",["f","v"]]]]]}"#),
        (r#"["XREAD","BLOCK","0","STREAMS","s","$"]"#, r#"200 {"result":null}"#),
        (r#"["NOTHING","x"]"#, r#"400 {"error":"ERR unknown command 'NOTHING', with args beginning with: 'x' "}"#),
        (r#"["GET"]"#, r#"400 {"error":"ERR wrong number of arguments for 'get' command"}"#),
        (
            r#"["LPUSH","k","x"]"#,
            r#"400 {"error":"WRONGTYPE Operation against a key holding the wrong kind of value"}"#,
        ),
        ("", r#"400 {"error":"ERR failed to parse command"}"#),
        ("{}", r#"400 {"error":"ERR failed to parse command"}"#),
        ("[]", r#"400 {"error":"ERR empty command"}"#),
        (
            r#"["SET","k",null]"#,
            r#"400 {"error":"ERR failed to parse command: null, arrays and objects are not arguments, send them as strings"}"#,
        ),
    ] {
        assert_eq!(client.post("/", body), expected, "{body}");
    }
    for (shown, expected) in [("", "0"), ("7", "7"), ("x", "0")] {
        let answer = client.ask("POST /", &format!("upstash-sync-token: {shown}"), br#"["INCR","n2"]"#);
        assert_eq!(answer.header("upstash-sync-token"), Some(expected), "it says nothing of the log");
    }
}

#[test]
fn a_transaction_that_cannot_begin_or_go_on_runs_nothing() {
    let bench = Bench::new(&["secret"]);
    let mut admin = bench.connect();
    admin.check("AUTH secret", "+OK\r\n");
    let mut client = http(&bench).with_token("secret");
    let refused = client.post("/multi-exec", r#"[["SET","a",1],["EXEC","x"],["SET","b",2]]"#);
    assert!(refused.starts_with("400") && refused.contains("wrong number of arguments for 'exec'"), "{refused}");
    assert_eq!(client.post("/", r#"["EXISTS","a","b"]"#), r#"200 {"result":0}"#);
    admin.check("ACL SETUSER default -multi", "+OK\r\n");
    let refused = client.post("/multi-exec", r#"[["SET","a",1],["SET","b",2]]"#);
    assert!(refused.starts_with("400") && refused.contains("'multi' command"), "{refused}");
    assert_eq!(client.post("/", r#"["EXISTS","a","b"]"#), r#"200 {"result":0}"#);
}

#[test]
fn commands_that_need_a_connection_are_refused() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    for command in [
        "SELECT 1",
        "AUTH x",
        "HELLO 3",
        "QUIT",
        "RESET",
        "CLIENT ID",
        "MULTI",
        "EXEC",
        "DISCARD",
        "WATCH k",
        "UNWATCH",
        "SUBSCRIBE c",
        "UNSUBSCRIBE",
        "PSUBSCRIBE c",
        "SSUBSCRIBE c",
        "MONITOR",
        "BLPOP l 0",
        "BLMOVE a b LEFT LEFT 0",
        "BZPOPMIN z 0",
        "WAIT 1 0",
        "SYNC",
        "PSYNC ? -1",
        "REPLCONF ACK 1",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let body = json!(words).to_string();
        let name = if words[0] == "CLIENT" { "CLIENT|ID" } else { words[0] };
        let text = format!("ERR Command is not available over HTTP: '{name}'. It needs a connection of its own");
        assert_eq!(client.post("/", &body), format!("400 {}", json!({ "error": text })));
        assert_eq!(client.post("/pipeline", &format!("[{body}]")), format!("200 {}", json!([{ "error": text }])));
    }
    assert_eq!(client.post("/", r#"["PUBLISH","c","m"]"#), r#"200 {"result":0}"#);
    assert_eq!(client.post("/", r#"["COMMAND","COUNT"]"#).split(':').next(), Some("200 {\"result\""));
}

#[test]
fn a_command_in_an_address() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    for (line, body, expected) in [
        ("GET /set/foo/bar", "", r#"200 {"result":"OK"}"#),
        ("GET /get/foo", "", r#"200 {"result":"bar"}"#),
        ("POST /get/foo", "", r#"200 {"result":"bar"}"#),
        ("POST /set/foo?EX=100", "{\"a\":1}", r#"200 {"result":"OK"}"#),
        ("GET /get/foo", "", r#"200 {"result":"{\"a\":1}"}"#),
        ("GET /ttl/foo", "", r#"200 {"result":100}"#),
        ("PUT /append/foo", "x", r#"200 {"result":8}"#),
        ("GET /mget/foo/none", "", r#"200 {"result":["{\"a\":1}x",null]}"#),
        ("GET /set/a%20b%2Fc/1/EX/100", "", r#"200 {"result":"OK"}"#),
        ("GET /exists/a%20b%2Fc", "", r#"200 {"result":1}"#),
        ("GET /nothing", "", r#"400 {"error":"ERR unknown command 'nothing', with args beginning with: "}"#),
        ("DELETE /get/foo", "", r#"405 {"error":"ERR only GET, HEAD, POST and PUT are served"}"#),
        ("PATCH /", "[\"PING\"]", r#"405 {"error":"ERR only GET, HEAD, POST and PUT are served"}"#),
        ("HEAD /get/foo", "", "200 "),
        ("GET /", "", r#"400 {"error":"ERR failed to parse command"}"#),
    ] {
        assert_eq!(client.ask(line, "", body.as_bytes()).to_string(), expected, "{line}");
    }
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    let body = r#"[["SET","a",1],["INCR","a"],["LPUSH","a","x"],["nothing"],["GET","a"],["HGETALL","none"]]"#;
    let expected = json!([
        { "result": "OK" },
        { "result": 2 },
        { "error": "WRONGTYPE Operation against a key holding the wrong kind of value" },
        { "error": "ERR unknown command 'nothing', with args beginning with: " },
        { "result": "2" },
        { "result": [] },
    ]);
    assert_eq!(client.post("/pipeline", body), format!("200 {expected}"));
    for (body, expected) in [
        ("[]", r#"400 {"error":"ERR empty pipeline request"}"#),
        ("[[]]", r#"400 {"error":"ERR empty pipeline command"}"#),
        (r#"["GET","a"]"#, r#"400 {"error":"ERR failed to parse pipeline request"}"#),
        (r#"[["SET","b",1],["#, r#"400 {"error":"ERR failed to parse pipeline request"}"#),
    ] {
        assert_eq!(client.post("/pipeline", body), expected, "{body}");
    }
    assert_eq!(client.get("/exists/b"), r#"200 {"result":0}"#, "nothing of a malformed pipeline is run");
}

#[test]
fn long_pipelines_and_large_values() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    let commands: Vec<Value> =
        (0..20_000).flat_map(|n| [json!(["SET", n, format!("v{n}")]), json!(["GET", n])]).collect();
    let answer = client.ask("POST /pipeline", "", json!(commands).to_string().as_bytes());
    let answers = answer.json();
    assert_eq!(answers.as_array().unwrap().len(), 40_000);
    assert_eq!(answers[39_999], json!({ "result": "v19999" }));
    let value = "\"\\\n\u{0}é\u{1f600} ".repeat(300_000);
    let set = json!(["SET", "large", value]).to_string();
    assert_eq!(client.post("/", &set), r#"200 {"result":"OK"}"#);
    assert_eq!(client.ask("GET /get/large", "", b"").json(), json!({ "result": value }));
    let twice = client.ask("POST /pipeline", "", br#"[["GET","large"],["STRLEN","large"],["GET","large"]]"#);
    assert_eq!(twice.json(), json!([{ "result": value }, { "result": value.len() }, { "result": value }]));
    let raw = client.ask("GET /get/large", "upstash-response-format: resp2", b"");
    assert_eq!(raw.body, [format!("${}\r\n", value.len()).as_bytes(), value.as_bytes(), b"\r\n"].concat());
    let multi = client.ask("POST /multi-exec", "", br#"[["GET","large"],["GET","0"]]"#);
    assert_eq!(multi.json(), json!([{ "result": value }, { "result": "v0" }]));
}

#[test]
fn a_transaction() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    for (body, expected) in [
        (r#"[["SET","a",1],["INCR","a"]]"#, r#"200 [{"result":"OK"},{"result":2}]"#),
        (
            r#"[["SET","t",1],["LPUSH","t","x"],["LRANGE","none",0,-1]]"#,
            r#"200 [{"result":"OK"},{"error":"WRONGTYPE Operation against a key holding the wrong kind of value"},{"result":[]}]"#,
        ),
        (
            r#"[["SET","a","lost"],["nothing"]]"#,
            r#"400 {"error":"EXECABORT Transaction discarded because of: ERR unknown command 'nothing', with args beginning with: "}"#,
        ),
        (
            r#"[["SET","a","lost"],["GET"],["nothing"]]"#,
            r#"400 {"error":"EXECABORT Transaction discarded because of: ERR wrong number of arguments for 'get' command"}"#,
        ),
        (
            r#"[["SET","a","lost"],["EXEC"]]"#,
            r#"400 {"error":"EXECABORT Transaction discarded because of: ERR Command is not available over HTTP: 'EXEC'. It needs a connection of its own"}"#,
        ),
        (
            r#"[["DISCARD"],["SET","a","lost"]]"#,
            r#"400 {"error":"EXECABORT Transaction discarded because of: ERR Command is not available over HTTP: 'DISCARD'. It needs a connection of its own"}"#,
        ),
        ("[]", r#"400 {"error":"ERR empty multi-exec request"}"#),
        ("{}", r#"400 {"error":"ERR failed to parse multi-exec request"}"#),
        (r#"[["GET","a"]]"#, r#"200 [{"result":"2"}]"#),
        (r#"[["PING"],["ECHO","x"]]"#, r#"200 [{"result":"PONG"},{"result":"x"}]"#),
    ] {
        assert_eq!(client.post("/multi-exec", body), expected, "{body}");
    }
    assert_eq!(client.post("/", r#"["GET","a"]"#), r#"200 {"result":"2"}"#, "no transaction is left open");
}

#[test]
fn base64_and_resp2() {
    let bench = Bench::new(&[]);
    let mut client = http(&bench);
    let base64 = "Upstash-Encoding: base64";
    let resp2 = "upstash-response-format: RESP2";
    client.ask("POST /set/bin", "", b"\x80\x00ok");
    for (path, body, headers, expected) in [
        ("/", r#"["SET","k","v"]"#, base64, r#"200 {"result":"OK"}"#),
        ("/", r#"["GET","k"]"#, base64, r#"200 {"result":"dg=="}"#),
        ("/", r#"["GET","bin"]"#, base64, r#"200 {"result":"gABvaw=="}"#),
        ("/", r#"["GET","bin"]"#, "", "200 {\"result\":\"\u{fffd}\\u0000ok\"}"),
        ("/", r#"["PING"]"#, base64, r#"200 {"result":"UE9ORw=="}"#),
        ("/", r#"["NO"]"#, base64, r#"400 {"error":"ERR unknown command 'NO', with args beginning with: "}"#),
        (
            "/pipeline",
            r#"[["GET","k"],["LPUSH","l","OK","b"],["LRANGE","l",0,-1],["NO"]]"#,
            base64,
            r#"200 [{"result":"dg=="},{"result":2},{"result":["Yg==","OK"]},{"error":"ERR unknown command 'NO', with args beginning with: "}]"#,
        ),
        ("/multi-exec", r#"[["GET","k"]]"#, base64, r#"200 [{"result":"dg=="}]"#),
        ("/", r#"["GET","k"]"#, resp2, "200 $1\r\nv\r\n"),
        ("/", r#"["NO"]"#, resp2, "400 -ERR unknown command 'NO', with args beginning with: \r\n"),
        (
            "/pipeline",
            r#"[["GET","k"],["NO"],["INCR","n"]]"#,
            resp2,
            "200 $1\r\nv\r\n-ERR unknown command 'NO', with args beginning with: \r\n:1\r\n",
        ),
        ("/multi-exec", r#"[["GET","k"]]"#, resp2, r#"400 {"error":"ERR resp2 is not available for multi-exec"}"#),
    ] {
        let answer = client.ask(&format!("POST {path}"), headers, body.as_bytes());
        assert_eq!(answer.to_string(), expected, "{body} {headers}");
        let is_raw = headers == resp2 && path != "/multi-exec";
        let expected = if is_raw { "application/octet-stream" } else { "application/json" };
        assert_eq!(answer.header("content-type"), Some(expected));
    }
    let both = format!("{base64}\n{resp2}");
    let answer = client.ask("POST /", &both, br#"["GET","k"]"#).to_string();
    assert_eq!(answer, r#"400 {"error":"ERR base64 is not available for resp2"}"#);
}
