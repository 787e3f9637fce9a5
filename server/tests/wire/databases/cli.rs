//! `dormouse db` over the admin API, with the real program.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dormouse::clock::{now_ms, rfc3339};
use dormouse_storage::ledger::{LedgerWindow, LedgerWriter};
use dormouse_storage::store::Store;
use serde_json::{Value, json};

use super::http::{ADMIN_TOKEN, Running, until};

/// `dormouse db` with the admin token in the environment.
fn db(token: &str, words: &[&str]) -> Command {
    let mut command = tool(token);
    command.arg("db").args(words);
    command
}

/// The program with the admin token in the environment.
fn tool(token: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
        command.env_remove(name);
    }
    command.env("DORMOUSE_ADMIN_TOKEN", token);
    command
}

fn run(server: &Running, token: &str, words: &[&str]) -> Output {
    let mut command = db(token, words);
    command.args(["--admin-url", &format!("http://127.0.0.1:{}", server.http_port)]);
    command.output().unwrap()
}

#[track_caller]
fn done(server: &Running, words: &[&str]) -> String {
    let output = run(server, ADMIN_TOKEN, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(server: &Running, words: &[&str]) -> String {
    let output = run(server, ADMIN_TOKEN, words);
    assert!(!output.status.success(), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_operator_has_every_command() {
    let server = Running::start("memory://", &[]);
    let env = done(&server, &["create", "shop", "--ttl", "2h", "--set", "max-memory=10mb", "--output", "env"]);
    let names: Vec<&str> = env.lines().map(|line| line.split_once('=').unwrap().0).collect();
    let expected =
        ["REDIS_URL", "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN", "KV_REST_API_URL", "KV_REST_API_TOKEN"];
    assert_eq!(names, expected);
    let token = env.lines().find_map(|line| line.strip_prefix("KV_REST_API_TOKEN=")).unwrap();
    server.enter(token).check("SET a 1", "+OK");
    let url = done(&server, &["url", "shop", "--read-only"]);
    let read_only = url.trim().strip_prefix("redis://:").unwrap().split('@').next().unwrap();
    server.enter(read_only).check("SET a 2", "-NOPERM");
    let made: Value = serde_json::from_str(&done(&server, &["create", "--output", "json"])).unwrap();
    assert!(made["name"].as_str().unwrap().starts_with("db-"));
    let table = done(&server, &["list"]);
    assert!(table.lines().any(|line| line.starts_with("shop ") && line.contains("in 1h59m")), "{table}");
    assert!(done(&server, &["show", "shop"]).contains("settings: max-memory=10mb"));
    assert!(done(&server, &["set", "shop", "max-requests-per-second=100"]).contains("max-requests-per-second=100"));
    assert!(refused(&server, &["set", "shop", "max-connections=few"]).contains("expected a number of connections"));
    assert!(done(&server, &["set", "shop", "max-memory=", "--ttl", "never"]).contains("expires_at: -"));
    assert!(done(&server, &["tokens", "shop"]).contains("read-only"));
    let rotated = done(&server, &["rotate", "shop", "2", "--output", "url"]);
    assert_ne!(rotated, url);
    server.connect().check(&format!("AUTH {read_only}"), "-WRONGPASS");
    done(&server, &["revoke", "shop", "3"]);
    assert!(done(&server, &["branch", "shop", "pr-1"]).starts_with("shop.pr-1 is a branch of shop\n"));
    done(&server, &["sleep", "shop"]);
    done(&server, &["wake", "shop"]);
    assert!(done(&server, &["usage", "shop"]).contains("requests: "));
    assert!(refused(&server, &["delete", "shop"]).contains("the database has branches"));
    done(&server, &["delete", "shop.pr-1"]);
    done(&server, &["delete", "shop"]);
    assert!(refused(&server, &["show", "shop"]).contains("there is no database `shop`"));
    assert!(refused(&server, &["create", "default"]).contains("exists already"));
    assert!(refused(&server, &["set", "default", "max-memory"]).contains("NAME=VALUE"));
    let wrong = run(&server, "wrong", &["list"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("the admin token is missing or wrong"));
}

#[test]
fn commands_for_a_fleet_say_that_there_is_none() {
    let server = Running::start("memory://", &[]);
    done(&server, &["create", "shop"]);
    let refusal = "this server is not a node of a fleet: start it with --cluster";
    for words in [&["where", "shop"][..], &["move", "shop", "b"]] {
        assert!(refused(&server, words).contains(refusal), "{words:?}");
    }
    let url = format!("http://127.0.0.1:{}", server.http_port);
    for words in [&["list"][..], &["show", "a"], &["drain", "a"], &["resume", "a"]] {
        let output = tool(ADMIN_TOKEN).arg("node").args(words).args(["--admin-url", &url]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(refusal), "{words:?}: {text}");
    }
}

#[test]
fn both_ways_show_when_a_database_ends() {
    let server = Running::start("memory://", &[]);
    done(&server, &["create", "shop", "--ttl", "2h"]);
    let url = format!("redis://127.0.0.1:{}", server.port);
    // It has not been used yet.
    let listed = db(ADMIN_TOKEN, &["list", "--url", &url]).output().unwrap();
    for table in [String::from_utf8(listed.stdout).unwrap(), done(&server, &["list"])] {
        assert!(table.lines().any(|line| line.starts_with("shop ") && line.contains("in 1h59m")), "{table}");
    }
    let shown = db(ADMIN_TOKEN, &["show", "shop", "--json", "--url", &url]).output().unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let over_api: Value = serde_json::from_str(&done(&server, &["show", "shop", "--json"])).unwrap();
    for field in ["created_at", "expires_at"] {
        assert!(shown[field].is_string() && shown[field] == over_api[field], "{field}: {shown} {over_api}");
    }
}

#[test]
fn what_goes_over_the_http_port_reaches_no_other_server() {
    for (url, expected) in [
        ("redis://:x@redis.example.com", "--admin-url or DORMOUSE_ADMIN_URL, such as http://redis.example.com:8379"),
        ("rediss://[2001:db8::1]:6380", "--admin-url or DORMOUSE_ADMIN_URL, such as https://[2001:db8::1]:8443"),
    ] {
        for by_environment in [false, true] {
            let mut command = db(ADMIN_TOKEN, &["create", "shop"]);
            if by_environment {
                command.env("DORMOUSE_URL", url)
            } else {
                command.args(["--url", url])
            };
            let output = command.output().unwrap();
            let told = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && told.contains(expected), "{told}");
        }
    }
}

#[test]
fn usage_is_read_from_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let start_s = (now_s - 7200) / 60 * 60;
    let quantities = vec![(0, 1_000_000), (1, 1_500_000), (17, 200_000)];
    let window = LedgerWindow { database: "shop".into(), era: 0, start_s, end_s: start_s + 60, quantities };
    let store = Arc::new(Store::open(&url).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(LedgerWriter::new(&store, 1).write(&[window], now_s)).unwrap();
    drop(store);
    let server = Running::start(&url, &[]);
    let token = server.create(r#"{"name":"shop"}"#);
    let events = done(&server, &["usage", "shop", "--from", "1d", "--output", "cloudevents"]);
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 3);
    assert_eq!(events[0]["id"], format!("shop:requests:{start_s}"));
    assert_eq!((&events[0]["data"]["quantity"], &events[0]["data"]["billable"]), (&"1000000".into(), &"800000".into()));
    let csv = done(&server, &["usage", "shop", "--from", "30d", "--output", "csv"]);
    assert_eq!((csv.lines().count(), csv.matches("id,database").count()), (4, 1), "{csv}");
    let prices = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/prices/upstash.toml");
    let table = done(&server, &["usage", "shop", "--from", "1d", "--prices", prices]);
    assert!(table.contains("\nrequests                  1000000  800000    200000\n"), "{table}");
    assert!(table.contains("\ntotal") && table.contains("  1.60\n"), "{table}");
    let told = done(&server, &["usage", "shop", "--from", "1d", "--prices", prices, "--output", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["cost"]["total"], &told["meters"]["request_units"]), (&"1.60".into(), &"1500000".into()));
    // The tenant sees it too.
    let mut client = server.enter(&token);
    let period = format!("{} {}", start_s * 1000, now_s * 1000);
    let shown = client.try_say(&format!("DORMOUSE USAGE HOURS {period}")).unwrap();
    let events = shown.items().unwrap()[0].at("events").unwrap();
    assert_eq!(events.items().unwrap()[0].at("quantity").unwrap().text(), Some("1000000"));
    client.check("LPOP none", "nil");
    let commands = done(&server, &["usage", "shop", "--by", "command"]);
    let lpop: Vec<&str> = commands.lines().find(|line| line.starts_with("lpop ")).unwrap().split_whitespace().collect();
    assert_eq!(lpop[..3], ["lpop", "1", "1"]);
    // A count by prefix, from both sides.
    let counted = |query: &str| server.done("GET", &format!("/v1/databases/shop/usage?by=prefix{query}"), "");
    let none = counted("");
    assert_eq!((&none["counting"], &none["start"], &none["prefixes"]), (&false.into(), &Value::Null, &json!([])));
    assert_eq!(counted("&for=1m&depth=2")["counting"], true);
    client.check("SET user:7:name x", "+OK");
    client.check("GET user:7:cart", "nil");
    client.check("PING", "+PONG");
    let counts = counted("");
    assert_eq!((&counts["requests"], &counts["without_key"], &counts["others"]), (&3.into(), &1.into(), &0.into()));
    let prefix = &counts["prefixes"][0];
    assert_eq!((&prefix["prefix"], &prefix["requests"], &prefix["writes"]), (&"user:7:".into(), &2.into(), &1.into()));
    assert_eq!(prefix["command"], "get");
    assert!(counts["start"].as_str().unwrap() < counts["end"].as_str().unwrap(), "{counts}");
    let told = done(&server, &["usage", "shop", "--by", "prefix", "--for", "20ms", "--output", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["counting"], &told["requests"], &told["prefixes"]), (&0.into(), &0.into(), &json!([])));
    assert_eq!(told["end_ms"].as_i64().unwrap() - told["start_ms"].as_i64().unwrap(), 20);
    // Nonsense.
    client.check("DORMOUSE USAGE WINDOWS 5 5", "-ERR invalid period");
    client.check("DORMOUSE USAGE WINDOWS 0 9999999999999", "-ERR the period is too long");
    client.check("DORMOUSE USAGE FORGET 5", "-ERR syntax error");
    for query in [
        "step=day",
        "from=yesterday",
        "from=5&to=5",
        "format=xml",
        "format=csv&step=hour",
        "by=key",
        "colour=1",
        "by=command&for=1m",
        "by=prefix&from=5",
        "by=prefix&for=11m",
        "by=prefix&for=0s",
        "by=prefix&for=never",
        "by=prefix&for=1m&depth=0",
        "by=prefix&for=1m&depth=5",
        "by=prefix&depth=1",
        "for=1m",
        "depth=1",
    ] {
        let (status, value) = server.call("GET", &format!("/v1/databases/shop/usage?{query}"), "");
        assert_eq!(status, 400, "{query}: {value}");
    }
    for (words, problem) in [
        (["--from", "yesterday"], "expected such as 2026-11-30"),
        (["--from", "2100-01-01"], "the period must end after it begins"),
        (["--prices", "/nowhere"], "price file /nowhere: "),
    ] {
        let told = refused(&server, &[&["usage", "shop"], &words[..]].concat());
        assert!(told.contains(problem), "{told}");
    }
}

#[test]
fn a_branch_shows_a_moment_that_has_passed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(&format!("file://{}", folder.path().display()), &[]);
    let token = server.create(r#"{"name":"shop","settings":{"history":"1h"}}"#);
    server.create(r#"{"name":"blog"}"#);
    let mut client = server.enter(&token);
    client.check("SET a old", "+OK");
    let at_ms = now_ms();
    until("the clock has moved", || now_ms() > at_ms);
    client.check("SET a new", "+OK");
    client.check("SET b new", "+OK");
    let at = rfc3339(at_ms).unwrap();
    let told = done(&server, &["branch", "shop", "past", "--at", &at]);
    assert!(told.starts_with(&format!("shop.past is a branch of shop at {at}\n")), "{told}");
    let mut past = server.enter(&token.replacen("dm_shop_", "dm_shop.past_", 1));
    past.check("DBSIZE", ":1");
    past.check("GET a", "$old");
    client.check("GET a", "$new");

    assert!(done(&server, &["show", "shop"]).contains("settings: history=1h"));
    let history = done(&server, &["history", "shop"]);
    assert!(history.starts_with("shop keeps its history for 1h\nfrom: 20"), "{history}");
    let history = server.done("GET", "/v1/databases/shop/history", "");
    assert_eq!((&history["kept_for"], &history["stretches"]), (&json!("1h"), &json!(1)));
    assert!(history["from"].as_str() <= Some(&at) && history["until"].as_str() > Some(&at), "{history}");
    assert!(history["stored_bytes"].as_u64() > Some(0), "{history}");
    client.check("DORMOUSE HISTORY", "12 elements");
    assert!(done(&server, &["history", "blog"]).starts_with("blog keeps no history"));

    for (source, at, problem) in [
        ("shop", "tomorrow", "invalid time `tomorrow`"),
        ("shop", "2999-01-01T00:00:00Z", "the time is in the future"),
        ("shop", "-30d", "the history of shop begins at 20"),
        ("blog", "-1s", "keeps no history"),
    ] {
        let refusal = refused(&server, &["branch", source, "none", "--at", at]);
        assert!(refusal.contains(problem), "{refusal}");
    }
    client.check("DORMOUSE BRANCH none AT -30d", "-ERR the history of shop begins at 20");
    client.check("DORMOUSE BRANCH none AT yesterday", "-ERR invalid time `yesterday`");
    client.check("DORMOUSE BRANCH none AT", "-ERR syntax error");
    let body = r#"{"name":"none","at":"soon"}"#;
    assert_eq!(server.call("POST", "/v1/databases/shop/branches", body).0, 400);
    assert!(refused(&server, &["set", "shop", "history=5s"]).contains("a duration from 1m to 31d"));
    done(&server, &["set", "shop", "history="]);
    assert!(done(&server, &["history", "shop"]).starts_with("shop keeps no history"));
}
