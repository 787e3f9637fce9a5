//! Tokens with scopes, prefixes and ends; rotated and revoked while their connections are open.

use serde_json::{Value, json};

use super::http::{Client, Running};

fn add(server: &Running, body: &str) -> (String, u64) {
    let made = server.done("POST", "/v1/databases/shop/tokens", body);
    (made["token"].as_str().unwrap().to_owned(), made["id"].as_u64().unwrap())
}

fn shop(more: &[&str]) -> (Running, Client, String) {
    let server = Running::start("memory://", more);
    let token = server.create(r#"{"name":"shop"}"#);
    let client = server.enter(&token);
    (server, client, token)
}

#[test]
fn a_scope_limits_a_token() {
    let (server, mut owner, _) = shop(&[]);
    owner.check("MSET p:1 a q:1 b", "+OK");
    owner.check("ACL SETUSER app on nopass ~q:* +get", "+OK");
    let (reader, _) = add(&server, r#"{"scope":"read-only"}"#);
    let mut reader = server.enter(&reader);
    for (line, reply) in [
        ("GET p:1", "$a"),
        ("SET p:1 x", "-NOPERM"),
        ("SCAN 0", "-NOPERM"),
        ("KEYS *", "-NOPERM"),
        ("DORMOUSE BRANCH x", "-NOPERM"),
        ("EVAL return(redis.call('set','p:1','x')) 0", "-ERR"),
        ("EVAL return(redis.call('get','p:1')) 0", "$a"),
        ("MULTI", "+OK"),
        ("SET p:1 x", "-NOPERM"),
        ("EXEC", "-EXECABORT"),
        ("ACL WHOAMI", "$default"),
    ] {
        reader.check(line, reply);
    }
    let (prefixed, _) = add(&server, r#"{"prefix":"p:"}"#);
    let mut prefixed = server.enter(&prefixed);
    for (line, reply) in [
        ("GET p:1", "$a"),
        ("SET p:2 x", "+OK"),
        ("GET q:1", "-NOPERM"),
        ("MGET p:1 q:1", "-NOPERM"),
        ("FLUSHALL", "-NOPERM"),
        ("DBSIZE", "-NOPERM"),
        ("CLUSTER GETKEYSINSLOT 0 10", "-NOPERM"),
        ("EVAL return(redis.call('cluster','getkeysinslot','0','10')) 0", "-ERR"),
        ("SUBSCRIBE q:news", "-NOPERM"),
        // Nor does it take a receipt that another client may need.
        ("ONCE p:order 60000 INCR p:n", ":1"),
        ("ONCE order 60000 INCR p:n", "-NOPERM No permissions to access a key"),
        ("ONCE q:order 60000 INCR p:n", "-NOPERM No permissions to access a key"),
        ("EVAL return(redis.call('get','q:1')) 0", "-ERR"),
        ("EVAL return(redis.call('get','p:2')) 0", "$x"),
    ] {
        prefixed.check(line, reply);
    }
    let (app, _) = add(&server, r#"{"user":"app"}"#);
    for mut app in [server.enter(&app), {
        let mut named = server.connect();
        named.check(&format!("AUTH app {app}"), "+OK");
        named
    }] {
        app.check("GET q:1", "$b");
        app.check("GET p:1", "-NOPERM");
        app.check("SET q:1 x", "-NOPERM");
    }
    // It is that of no other user, even if any password would do.
    owner.check("ACL SETUSER other on nopass ~* +@all", "+OK");
    server.connect().check(&format!("AUTH other {app}"), "-WRONGPASS");
    server.connect().check(&format!("HELLO 3 AUTH other {app}"), "-WRONGPASS");
    // It follows its user.
    let mut app = server.enter(&app);
    owner.check("ACL SETUSER app ~p:*", "+OK");
    app.check("GET p:1", "$a");
    owner.check("ACL SETUSER app off", "+OK");
    // What limits the database's own user limits its tokens.
    owner.check("ACL SETUSER default -get", "+OK");
    reader.check("GET p:1", "-NOPERM");
    reader.check("SET p:1 x", "-NOPERM");
}

#[test]
fn a_token_is_revoked_at_once() {
    let (server, mut owner, first) = shop(&[]);
    let (second, id) = add(&server, "{}");
    let mut client = server.enter(&second);
    client.check("SET a 1", "+OK");
    // One that waits, and one that listens.
    let mut waits = server.enter(&second);
    waits.check("PING", "+PONG");
    let waiting = std::thread::spawn(move || waits.say("BLPOP nothing 0"));
    let mut listens = server.enter(&second);
    listens.check("SUBSCRIBE news", "3 elements");
    let listed = server.done("GET", "/v1/databases/shop/tokens", "");
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains(second.strip_prefix("dm_shop_").unwrap()));
    server.done("DELETE", &format!("/v1/databases/shop/tokens/{id}"), "");
    assert!(client.is_closed() && listens.is_closed());
    assert_eq!(waiting.join().unwrap(), "closed");
    server.connect().check(&format!("AUTH {second}"), "-WRONGPASS");
    server.connect().check(&format!("HELLO 3 AUTH default {second}"), "-WRONGPASS");
    // The other token goes on.
    owner.check("GET a", "$1");
    server.enter(&first).check("GET a", "$1");
}

#[test]
fn a_rotated_token_has_another_secret() {
    let (server, _, _) = shop(&[]);
    let (before, id) = add(&server, r#"{"scope":"read-only","prefix":"p:"}"#);
    let mut client = server.enter(&before);
    let rotated = server.done("POST", &format!("/v1/databases/shop/tokens/{id}/rotate"), "");
    assert!(client.is_closed());
    assert_eq!((&rotated["scope"], &rotated["prefix"]), (&json!("read-only"), &json!("p:")));
    assert_ne!(rotated["id"].as_u64().unwrap(), id);
    server.connect().check(&format!("AUTH {before}"), "-WRONGPASS");
    let mut client = server.enter(rotated["token"].as_str().unwrap());
    client.check("GET p:1", "nil");
    client.check("GET q:1", "-NOPERM");
}

#[test]
fn a_token_ends() {
    let (server, _, _) = shop(&[]);
    let (token, _) = add(&server, r#"{"ttl":"700ms"}"#);
    let mut client = server.enter(&token);
    assert!(client.is_closed());
    server.connect().check(&format!("AUTH {token}"), "-WRONGPASS");
    let listed = server.done("GET", "/v1/databases/shop/tokens", "");
    let expired: Vec<&Value> = listed["tokens"].as_array().unwrap().iter().map(|token| &token["expired"]).collect();
    assert_eq!(expired, [&json!(false), &json!(true)]);
}

#[test]
fn wrong_tokens_of_every_kind_get_the_same_reply() {
    let (server, _, token) = shop(&["--token", "dm_blog_s3cret"]);
    let replies: Vec<String> = [
        &token[..token.len() - 1],
        &format!("{token}0"),
        &token.to_uppercase(),
        "dm_shop_",
        "dm_none_0123456789012345678901234567890123456789",
        "dm_blog_0123456789012345678901234567890123456789",
        "dm_shop.none_0123456789012345678901234567890123456789",
        "hunter2",
    ]
    .iter()
    .map(|wrong| server.connect().say(&format!("AUTH {wrong}")))
    .collect();
    assert!(replies.iter().all(|reply| *reply == replies[0] && reply.starts_with("-WRONGPASS")), "{replies:?}");
    // Tokens of the command line work beside those of the directory.
    server.enter("dm_blog_s3cret").check("PING", "+PONG");
    // A token of a branch's owner opens the branch, one of the branch nothing else.
    server.done("POST", "/v1/databases/shop/branches", r#"{"name":"pr-1"}"#);
    server.enter(&token.replacen("dm_shop_", "dm_shop.pr-1_", 1)).check("PING", "+PONG");
    let own = server.done("POST", "/v1/databases/shop.pr-1/tokens", "{}");
    let own = own["token"].as_str().unwrap();
    server.enter(own).check("DORMOUSE BRANCH x", "-NOPERM");
    server.connect().check(&format!("AUTH {}", own.replacen("dm_shop.pr-1_", "dm_shop_", 1)), "-WRONGPASS");
}

#[test]
fn tokens_open_their_database_over_http_too() {
    let server = Running::start("memory://", &[]);
    let owner = server.create(r#"{"name":"shop"}"#);
    let post = |token: &str, path: &str, body: &str| {
        server.call_with("POST", path, &format!("authorization: Bearer {token}\r\n"), body.as_bytes())
    };
    // Nobody has used the database yet.
    assert_eq!(post(&owner, "/", r#"["SET","a","1"]"#), (200, json!({ "result": "OK" })));
    let (reader, id) = add(&server, r#"{"scope":"read-only"}"#);
    assert_eq!(post(&reader, "/get/a", ""), (200, json!({ "result": "1" })));
    let (status, refused) = post(&reader, "/", r#"["SET","a","2"]"#);
    assert!(status == 400 && refused["error"].as_str().unwrap().starts_with("NOPERM"), "{status} {refused}");
    server.done("DELETE", &format!("/v1/databases/shop/tokens/{id}"), "");
    let wrong = json!({ "error": "WRONGPASS invalid or missing auth token" });
    assert_eq!(post(&reader, "/get/a", ""), (401, wrong));
    assert_eq!(post(&owner, "/get/a", ""), (200, json!({ "result": "1" })));
}
