//! Deleted databases that can be brought back.

use std::process::Command;

use serde_json::{Value, json};

use super::http::{ADMIN_TOKEN, Running, until};

fn names(listed: &Value) -> Vec<&str> {
    listed["databases"].as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap()).collect()
}

#[test]
fn a_deleted_database_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let options = ["--deleted-grace", "1h", "--loss-window", "0"];
    let server = Running::start(&url, &options);
    let shop = server.create(r#"{"name":"shop","settings":{"max-memory":"100mb"}}"#);
    let mut client = server.enter(&shop);
    client.check("SET a 1", "+OK");
    client.check("DORMOUSE BRANCH pr-1", "+OK");
    client.check("SET a 2", "+OK");
    assert!(server.call("DELETE", "/v1/databases/shop", "").1["error"].as_str().unwrap().contains("has branches"));
    client.check("DORMOUSE DELETE pr-1", "+OK");
    client.check("DORMOUSE DATABASES DELETED", "1 elements");
    client.check("DORMOUSE BRANCH pr-1", "-ERR database `shop.pr-1` was deleted and can still be brought back");
    let gone = server.done("DELETE", "/v1/databases/shop", "");
    assert!(gone["recoverable_until"].is_string(), "{gone}");
    assert!(client.is_closed());

    // As if it were not there, also after a restart.
    let check_hidden = |server: &Running| {
        server.connect().check(&format!("AUTH {shop}"), "-WRONGPASS");
        server.connect().check(&format!("AUTH shop {ADMIN_TOKEN}"), "-WRONGPASS");
        for (method, path) in [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/tokens"), ("POST", "/tokens")] {
            assert_eq!(server.call(method, &format!("/v1/databases/shop{path}"), "").0, 404, "{method} {path}");
        }
        assert_eq!(names(&server.done("GET", "/v1/databases", "")), ["default"]);
        let deleted = server.done("GET", "/v1/databases?deleted=true", "");
        assert_eq!(names(&deleted), ["shop", "shop.pr-1"]);
        assert_eq!(deleted["databases"][0]["state"], json!("deleted"));
        let (status, answer) = server.call("POST", "/v1/databases", r#"{"name":"shop"}"#);
        assert_eq!(status, 409);
        assert!(answer["error"].as_str().unwrap().contains("dormouse db undelete shop"), "{answer}");
        let (status, answer) = server.call("POST", "/v1/databases/shop.pr-1/undelete", "");
        assert_eq!((status, answer["error"].as_str().unwrap().contains("bring that back first")), (409, true));
        // It goes on taking room, which is metered.
        assert!(server.done("GET", "/v1/databases/shop/usage", "")["meters"]["store_byte_milliseconds"].is_number());
    };
    check_hidden(&server);
    server.stop();
    let server = Running::start(&url, &options);
    check_hidden(&server);

    let back = server.done("POST", "/v1/databases/shop/undelete", "");
    assert_eq!(back["settings"]["max-memory"], json!("100mb"));
    let mut client = server.enter(&shop);
    client.check("GET a", "$2");
    client.check("DORMOUSE UNDELETE pr-1", "+OK");
    server.enter(&shop.replacen("dm_shop_", "dm_shop.pr-1_", 1)).check("GET a", "$1");
    assert_eq!(server.call("POST", "/v1/databases/shop/undelete", "").0, 404);

    // For good.
    client.check("DORMOUSE DELETE pr-1 NOW", "+OK");
    client.check("DORMOUSE DATABASES DELETED", "0 elements");
    until("the branch's objects are gone", || !folder.path().join("db/shop.pr-1/manifest").exists());
    server.done("DELETE", "/v1/databases/shop", "");
    server.done("DELETE", "/v1/databases/shop?now=true", "");
    assert!(!folder.path().join("db/shop/manifest").exists());
    let next = server.create(r#"{"name":"shop"}"#);
    server.enter(&next).check("GET a", "nil");
    server.connect().check(&format!("AUTH {shop}"), "-WRONGPASS");
    server.stop();
}

#[test]
fn the_time_to_bring_it_back_ends() {
    let server = Running::start("memory://", &["--deleted-grace", "1h"]);
    let made = server.done("POST", "/v1/databases", r#"{"name":"short","ttl":"30m"}"#);
    // A time to live goes on.
    let gone = server.done("DELETE", "/v1/databases/short", "");
    assert_eq!(gone["recoverable_until"], made["expires_at"]);
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
            command.env_remove(name);
        }
        let output = command.env("DORMOUSE_ADMIN_TOKEN", ADMIN_TOKEN).arg("db").args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let api = format!("http://127.0.0.1:{}", server.http_port);
    let redis = format!("redis://admin:{ADMIN_TOKEN}@127.0.0.1:{}", server.port);
    for address in [["--admin-url", &api], ["--url", &redis]] {
        let over = |words: &[&str]| run(&[words, &address[..]].concat());
        let table = over(&["list", "--deleted"]);
        assert!(table.lines().any(|line| line.starts_with("short ") && line.contains("for 29m")), "{table}");
        assert_eq!(over(&["undelete", "short"]), "short is back\n");
        assert!(over(&["delete", "short"]).contains("it can be brought back with: dormouse db undelete short"));
    }
    assert_eq!(run(&["delete", "short", "--now", "--admin-url", &api]), "short is deleted\n");
    server.stop();

    let server = Running::start("memory://", &["--deleted-grace", "1ms"]);
    let token = server.create(r#"{"name":"shop"}"#);
    let mut client = server.enter(&token);
    client.check("SET a 1", "+OK");
    client.check("DORMOUSE BRANCH pr-1", "+OK");
    client.check("DORMOUSE DELETE pr-1", "+OK");
    server.done("DELETE", "/v1/databases/shop", "");
    until("it is deleted for good", || names(&server.done("GET", "/v1/databases?deleted=true", "")).is_empty());
    let token = server.create(r#"{"name":"shop"}"#);
    server.enter(&token).check("GET a", "nil");
}
