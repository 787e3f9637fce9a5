//! The admin API, over real sockets.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dormouse::admin::ROUTES;
use serde_json::json;

use super::http::{ADMIN_TOKEN, Client, Running, until};

fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    (folder, url)
}

#[test]
fn a_database_is_made_used_and_deleted() {
    let server = Running::start("memory://", &[]);
    let made = server.done("POST", "/v1/databases", r#"{"name":"shop"}"#);
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("dm_shop_") && token.len() == "dm_shop_".len() + 40, "{token}");
    assert_eq!(made["redis_url"], json!(format!("redis://:{token}@db.example:{}", server.port)));
    assert_eq!(made["rest_url"], json!(format!("http://db.example:{}", server.http_port)));
    assert_eq!((&made["name"], &made["scope"], &made["id"]), (&json!("shop"), &json!("read-write"), &json!(1)));
    let mut client = server.enter(token);
    client.check("SET a 1", "+OK");
    // Another has nothing of it, and cannot enter it.
    let other = server.create(r#"{"name":"blog"}"#);
    let mut stranger = server.enter(&other);
    stranger.check("GET a", "nil");
    stranger.check("DBSIZE", ":0");
    let forged = format!("dm_shop_{}", other.strip_prefix("dm_blog_").unwrap());
    server.connect().check(&format!("AUTH {forged}"), "-WRONGPASS");
    server.connect().check(&format!("AUTH shop {other}"), "-WRONGPASS");
    let shown = server.done("GET", "/v1/databases/shop", "");
    assert_eq!((&shown["keys"], &shown["state"]), (&json!(1), &json!("awake")));
    assert!(!shown.to_string().contains(token), "{shown}");
    // A name is there once.
    let (status, again) = server.call("POST", "/v1/databases", r#"{"name":"shop"}"#);
    assert_eq!((status, again["error"].as_str().unwrap()), (409, "database `shop` exists already"));
    // It is in use, and deleted all the same.
    assert_eq!(server.done("DELETE", "/v1/databases/shop", ""), json!({ "name": "shop", "deleted": true }));
    assert!(client.is_closed());
    server.connect().check(&format!("AUTH {token}"), "-WRONGPASS");
    assert_eq!(server.call("GET", "/v1/databases/shop", "").0, 404);
    // Its name is free, and its successor is empty.
    let next = server.create(r#"{"name":"shop"}"#);
    server.enter(&next).check("GET a", "nil");
}

#[test]
fn everything_is_there_after_a_restart() {
    let (_folder, url) = folder();
    let server = Running::start(&url, &["--loss-window", "0"]);
    let shop = server.create(r#"{"name":"shop","settings":{"max-memory":"100mb"}}"#);
    let reader = server.done("POST", "/v1/databases/shop/tokens", r#"{"scope":"read-only"}"#);
    let gone = server.create(r#"{"name":"gone"}"#);
    server.enter(&shop).check("SET a 1", "+OK");
    server.done("POST", "/v1/databases/shop/branches", r#"{"name":"pr-1"}"#);
    server.done("DELETE", "/v1/databases/gone", "");
    server.stop();

    let server = Running::start(&url, &[]);
    let mut client = server.enter(&shop);
    client.check("GET a", "$1");
    client.check("CONFIG GET maxmemory", "2 elements");
    client.check("CONFIG SET maxmemory 200mb", "-ERR CONFIG SET failed");
    server.enter(reader["token"].as_str().unwrap()).check("SET a 2", "-NOPERM");
    server.connect().check(&format!("AUTH {gone}"), "-WRONGPASS");
    // The secret of the owner opens the branch, which was not opened at the start.
    let branch = shop.replacen("dm_shop_", "dm_shop.pr-1_", 1);
    let mut branch = server.enter(&branch);
    branch.check("GET a", "$1");
    branch.check("SET a 2", "+OK");
    client.check("GET a", "$1");
    let listed = server.done("GET", "/v1/databases", "");
    let names: Vec<&str> =
        listed["databases"].as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "shop", "shop.pr-1"]);
    server.stop();
}

#[test]
fn a_store_of_version_0_2_is_taken_in() {
    let (_folder, url) = folder();
    let server = Running::start(&url, &["--token", "dm_shop_x", "--token", "dm_blog_y"]);
    for token in ["dm_shop_x", "dm_blog_y"] {
        let mut client = server.enter(token);
        client.check("SET a 1", "+OK");
        client.check("DORMOUSE BRANCH pr-1", "+OK");
    }
    server.stop();
    assert!(!_folder.path().join("directory").exists(), "nothing is written that nobody asked for");

    // Its token for `blog` is gone. The directory begins with all that the store has.
    let server = Running::start(&url, &["--token", "dm_shop_x"]);
    let blog = server.done("POST", "/v1/databases/blog/tokens", "{}");
    server.stop();
    let server = Running::start(&url, &["--token", "dm_shop_x"]);
    server.enter(blog["token"].as_str().unwrap()).check("GET a", "$1");
    server.enter("dm_shop_x").check("GET a", "$1");
    server.enter("dm_shop.pr-1_x").check("GET a", "$1");
    assert_eq!(server.call("POST", "/v1/databases", r#"{"name":"blog"}"#).0, 409);
    assert_eq!(server.done("GET", "/v1/databases?prefix=blog.", "")["databases"][0]["name"], json!("blog.pr-1"));
    server.stop();
}

#[test]
fn wrong_requests_are_refused_alike() {
    let server = Running::start("memory://", &[]);
    let token = server.create(r#"{"name":"shop"}"#);
    let refused = server.call_with("GET", "/v1/databases", "", b"");
    assert_eq!(refused.0, 401);
    for headers in [
        "authorization: Bearer the-admin-toke\r\n",
        "authorization: Bearer the-admin-token2\r\n",
        "authorization: Basic the-admin-token\r\n",
        "authorization: the-admin-token\r\n",
        "authorization: Bearer\r\n",
        "authorization: Bearer the-admin-token\r\nauthorization: Bearer the-admin-token\r\n",
        &format!("authorization: Bearer {token}\r\n"),
    ] {
        assert_eq!(server.call_with("GET", "/v1/databases", headers, b""), refused, "{headers}");
        assert_eq!(server.call_with("DELETE", "/v1/databases/none", headers, b""), refused, "{headers}");
    }
    for (method, path, body, status) in [
        ("POST", "/v1/databases", r#"{"name":"Shop"}"#, 400),
        ("POST", "/v1/databases", r#"{"name":"a.b"}"#, 400),
        ("POST", "/v1/databases", r#"{"name":"../x"}"#, 400),
        ("POST", "/v1/databases", r#"{"name":7}"#, 400),
        ("POST", "/v1/databases", r#"{"nam":"x"}"#, 400),
        ("POST", "/v1/databases", r#"{"name":"x""#, 400),
        ("POST", "/v1/databases", r#"["x"]"#, 400),
        ("POST", "/v1/databases", r#"{"ttl":"soon"}"#, 400),
        ("POST", "/v1/databases", r#"{"settings":{"port":"1"}}"#, 400),
        ("POST", "/v1/databases", r#"{"settings":{"max-memory":"lots"}}"#, 400),
        ("POST", "/v1/databases", r#"{"token":{"scope":"all"}}"#, 400),
        ("GET", "/v1/databases?limit=0", "", 400),
        ("GET", "/v1/databases?limit=x", "", 400),
        ("GET", "/v1/databases?page=1", "", 400),
        ("GET", "/v1/databases/none", "", 404),
        ("GET", "/v1/databases/no%20ne", "", 404),
        ("DELETE", "/v1/databases/none", "", 404),
        ("DELETE", "/v1/databases/default", "", 409),
        ("PATCH", "/v1/databases/none", "{}", 404),
        ("PATCH", "/v1/databases/default", r#"{"ttl":"1h"}"#, 409),
        ("POST", "/v1/databases/none/tokens", "{}", 404),
        ("DELETE", "/v1/databases/shop/tokens/99", "", 404),
        ("DELETE", "/v1/databases/shop/tokens/x", "", 400),
        ("POST", "/v1/databases/shop/claim", "", 409),
        ("POST", "/v1/open", "", 403),
        ("PUT", "/v1/databases", "", 405),
        ("GET", "/v1/none", "", 404),
    ] {
        let (found, value) = server.call(method, path, body);
        assert_eq!(found, status, "{method} {path} {body}: {value}");
        assert!(value["error"].is_string(), "{method} {path}: {value}");
    }
    // Nothing of them was made.
    assert_eq!(server.done("GET", "/v1/databases", "")["databases"].as_array().unwrap().len(), 2);
    let large = format!(r#"{{"name":"{}"}}"#, "a".repeat(100 << 10));
    assert_eq!(server.call("POST", "/v1/databases", &large).0, 413);
    // A body that does not come holds up nobody.
    let mut slow = TcpStream::connect(("127.0.0.1", server.http_port)).unwrap();
    let head = "POST /v1/databases HTTP/1.1\r\nhost: x\r\nauthorization: Bearer the-admin-token\r\ncontent-length: 10\r\n\r\n{";
    slow.write_all(head.as_bytes()).unwrap();
    server.done("GET", "/v1/databases", "");
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[test]
fn every_route_is_served() {
    let server = Running::start("memory://", &[]);
    for (path, methods) in ROUTES {
        for method in *methods {
            let path = path.replace("{name}", "none").replace("{id}", "1").replace("{node}", "none");
            let (status, value) = server.call(&method.to_uppercase(), &path, "{}");
            let is_unrouted =
                status == 405 || value["error"].as_str().is_some_and(|text| text.starts_with("nothing is at"));
            assert!(!is_unrouted, "{method} {path}: {status} {value}");
        }
    }
    let description = server.call_with("GET", "/v1/openapi.json", "", b"");
    assert_eq!((description.0, &description.1["openapi"]), (200, &json!("3.1.0")));
}

#[test]
fn a_server_of_no_fleet_says_so() {
    let server = Running::start("memory://", &[]);
    server.create(r#"{"name":"shop"}"#);
    for (method, path, body) in [
        ("GET", "/v1/nodes", ""),
        ("GET", "/v1/nodes/a", ""),
        ("POST", "/v1/nodes/a/drain", ""),
        ("POST", "/v1/nodes/a/resume", "{}"),
        ("GET", "/v1/databases/shop/where", ""),
        ("POST", "/v1/databases/shop/move", r#"{"node":"a"}"#),
    ] {
        let (status, value) = server.call(method, path, body);
        let text = "this server is not a node of a fleet: start it with --cluster";
        assert_eq!((status, value["error"].as_str().unwrap()), (409, text), "{method} {path}");
    }
    assert_eq!(server.call("POST", "/v1/databases/shop/move", "{}").0, 400);
    // A count of hops means nothing here.
    let headers = format!("authorization: Bearer {ADMIN_TOKEN}\r\ndormouse-hops: 9\r\n");
    assert_eq!(server.call_with("GET", "/v1/databases/shop", &headers, b"").0, 200);
}

#[test]
fn lists_come_in_pages() {
    let server = Running::start("memory://", &[]);
    for number in 0..25 {
        server.create(&json!({ "name": format!("d{number:02}") }).to_string());
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.done("GET", &format!("/v1/databases?limit=10&after={after}&prefix=d"), "");
        let found = page["databases"].as_array().unwrap();
        assert!(found.len() <= 10);
        names.extend(found.iter().map(|of| of["name"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    let expected: Vec<String> = (0..25).map(|number| format!("d{number:02}")).chain(["default".to_owned()]).collect();
    assert_eq!(names, expected);
}

#[test]
fn many_are_made_at_once() {
    let server = Running::start("memory://", &[]);
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let make = |thread: usize| {
            let server = &server;
            move || {
                (0..20)
                    .map(|at| server.create(&json!({ "name": format!("d{thread}-{at}") }).to_string()))
                    .collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(make(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), 160);
    for token in tokens.iter().step_by(17) {
        server.enter(token).check("DBSIZE", ":0");
    }
    // Of several that make the same name, one succeeds.
    let made: usize = std::thread::scope(|scope| {
        let make = || server.call("POST", "/v1/databases", r#"{"name":"one"}"#).0;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        threads.into_iter().filter(|_| true).map(|thread| usize::from(thread.join().unwrap() == 201)).sum()
    });
    assert_eq!(made, 1);
}

#[test]
fn a_database_with_a_time_to_live_deletes_itself() {
    let server = Running::start("memory://", &[]);
    let token = server.create(r#"{"name":"preview","ttl":"500ms"}"#);
    let mut client = server.enter(&token);
    client.check("SET a 1", "+OK");
    client.check("DORMOUSE BRANCH fix", "+OK");
    until("the database is gone", || server.call("GET", "/v1/databases/preview", "").0 == 404);
    assert!(client.is_closed());
    assert_eq!(server.call("GET", "/v1/databases/preview.fix", "").0, 404);
    server.connect().check(&format!("AUTH {token}"), "-WRONGPASS");
    // One whose end is taken back stays.
    server.create(r#"{"name":"kept","ttl":"1h"}"#);
    assert!(server.done("GET", "/v1/databases/kept", "")["expires_at"].is_string());
    assert!(server.done("PATCH", "/v1/databases/kept", r#"{"ttl":"never"}"#)["expires_at"].is_null());
}

#[test]
fn anyone_may_make_a_database_that_ends() {
    let server = Running::start("memory://", &["--open=2", "--open-max-memory", "2mb"]);
    let make = |body: &str| server.call_with("POST", "/v1/open", "", body.as_bytes());
    let (status, made) = make("");
    assert_eq!(status, 201, "{made}");
    let (name, token) = (made["name"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert!(made["expires_at"].is_string());
    let mut client = server.enter(token);
    client.check("SET a 1", "+OK");
    client.check("CONFIG SET maxmemory 1gb", "-ERR");
    client.check("DORMOUSE BRANCH more", "-ERR this database has no branches");
    let value = "x".repeat(1 << 20);
    assert!((0..4).any(|at| client.say(&format!("SET k{at} {value}")).starts_with("-OOM")));
    for (body, status) in [(r#"{"ttl":"73h"}"#, 400), (r#"{"ttl":"never"}"#, 400), (r#"{"name":"mine"}"#, 400)] {
        assert_eq!(make(body).0, status, "{body}");
    }
    assert_eq!(make(r#"{"ttl":"1h"}"#).0, 201);
    let (status, full) = make("");
    assert_eq!(status, 429, "{full}");
    // The operator claims one: it has neither end nor limits any more, and makes room for another.
    let claimed = server.done("POST", &format!("/v1/databases/{name}/claim"), "");
    assert_eq!(
        (&claimed["unclaimed"], &claimed["expires_at"], &claimed["settings"]),
        (&json!(false), &json!(null), &json!({}))
    );
    client.check("CONFIG SET maxmemory 1gb", "+OK");
    assert_eq!(make("").0, 201);
    assert_eq!(server.call("POST", &format!("/v1/databases/{name}/claim"), "").0, 409);
}

#[test]
fn a_branch_has_the_limits_of_its_owner_unless_it_has_its_own() {
    let server = Running::start("memory://", &[]);
    let token =
        server.create(r#"{"name":"shop","settings":{"max-requests-per-second":"1","max-requests-burst":"20"}}"#);
    server.done("POST", "/v1/databases/shop/branches", r#"{"name":"pr-1"}"#);
    let set = |settings: &str| {
        server.done("PATCH", "/v1/databases/shop.pr-1", &format!(r#"{{"settings":{settings}}}"#));
    };
    let mut client = server.enter(&token);
    let mut of_branch = server.connect();
    of_branch.check(&format!("AUTH shop.pr-1 {token}"), "+OK");
    let over = "-ERR max requests limit exceeded. Limit: ";
    let refused = |client: &mut Client| (0..40).filter(|_| client.say("INCR n").starts_with(over)).count();
    assert!(refused(&mut client) > 0);
    assert!(refused(&mut of_branch) > 30, "it shares the rate");
    // Settings of its own replace no others.
    set(r#"{"max-memory":"10mb"}"#);
    assert!(refused(&mut of_branch) > 30);
    set(r#"{"max-requests-per-second":"1000"}"#);
    assert_eq!(refused(&mut of_branch), 0);
    assert!(refused(&mut client) > 30, "that of the owner is as it was");
    set(r#"{"max-requests-per-second":null}"#);
    assert!(refused(&mut of_branch) > 30);
}

#[test]
fn limits_on_requests_change_at_once() {
    let server = Running::start("memory://", &[]);
    let token =
        server.create(r#"{"name":"shop","settings":{"max-requests-per-second":"1","max-requests-burst":"20"}}"#);
    let set = |settings: &str| server.done("PATCH", "/v1/databases/shop", &format!(r#"{{"settings":{settings}}}"#));
    let mut client = server.enter(&token);
    let over = "-ERR max requests limit exceeded. Limit: ";
    let is_refused = |client: &mut Client| (0..40).any(|_| client.say("INCR n").starts_with(over));
    assert!(is_refused(&mut client));
    // Over HTTP, with the time after which a request may come again.
    let headers = format!("authorization: Bearer {token}\r\n");
    let ask = |path: &str, body: &str| {
        let (head, body) = server.raw("POST", path, &headers, body.as_bytes());
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body)
    };
    for (path, body) in [
        ("/", r#"["INCR","n"]"#),
        ("/incr/n", ""),
        ("/pipeline", r#"[["INCR","n"]]"#),
        ("/multi-exec", r#"[["INCR","n"]]"#),
    ] {
        // A request may come again within a second.
        until("it is refused", || {
            let (status, head, body) = ask(path, body);
            let is_told = body.starts_with(r#"{"error":"ERR max requests limit exceeded. Limit: 1, Usage: "#);
            assert!(
                status == 200 || status == 429 && is_told && head.contains("\r\nretry-after: 1"),
                "{path}: {head} {body}"
            );
            status == 429
        });
    }
    // A tenant has no say in it.
    set(r#"{"max-requests-per-second":null,"max-requests-burst":null}"#);
    assert!(!is_refused(&mut client), "the connection was open before");
    for parameter in ["max-requests-per-second", "max-connections", "max-request-size", "max-value-size"] {
        client.check(&format!("CONFIG SET {parameter} 1000"), "-ERR Unknown option");
    }
    assert_eq!(ask("/pipeline", r#"[["INCR","n"],["GET","n"]]"#).0, 200);
    // A pipeline that runs out of requests has the error in place of results.
    set(r#"{"max-requests-per-second":"1","max-requests-burst":"10"}"#);
    let many = json!(vec![json!(["INCR", "piped"]); 100]).to_string();
    let (status, _, body) = ask("/pipeline", &many);
    let answers: serde_json::Value = serde_json::from_str(&body).unwrap();
    let answers = answers.as_array().unwrap();
    let served = answers.iter().filter(|answer| answer["result"].is_u64()).count();
    assert!(status == 200 && answers.len() == 100 && (5..20).contains(&served), "{status} {served} {body}");
    assert_eq!(ask("/multi-exec", &many).0, 429);
    // The other limits.
    set(r#"{"max-requests-per-second":"0","max-requests-burst":null,"max-request-size":"2kb","max-value-size":"1kb"}"#);
    client.check(&format!("SET k {}", "x".repeat(1025)), "-ERR max single record size exceeded");
    client.check(&format!("SET k {}", "x".repeat(3000)), "-ERR max request size exceeded");
    let large = json!(["SET", "k", "x".repeat(3000)]).to_string();
    let too_large = r#"{"error":"ERR max request size exceeded"}"#;
    for (path, body) in [("/", &*large), (&*format!("/set/k/{}", "x".repeat(3000)), "")] {
        let (status, _, body) = ask(path, body);
        assert_eq!((status, &*body), (413, too_large));
    }
    let (status, _, body) = ask("/", &json!(["SET", "k", "x".repeat(1500)]).to_string());
    assert_eq!((status, &*body), (400, r#"{"error":"ERR max single record size exceeded"}"#));
    set(r#"{"max-request-size":null,"max-value-size":null,"max-memory":"1mb"}"#);
    client.check(&format!("SET k {}", "x".repeat(3000)), "+OK");
    let (status, _, body) = ask("/set/large", &"x".repeat(2 << 20));
    assert_eq!((status, &*body), (400, r#"{"error":"ERR DB capacity quota exceeded"}"#));
    client.check(&format!("SET k {}", "x".repeat(2 << 20)), "-OOM command not allowed when used memory > 'maxmemory'.");
    set(r#"{"max-connections":"1"}"#);
    server.connect().check(&format!("AUTH {token}"), "-ERR max concurrent connections exceeded");
    let (status, _, body) = ask("/ping", "");
    assert_eq!((status, &*body), (429, r#"{"error":"ERR max concurrent connections exceeded"}"#));
    client.check("GET none", "nil");
    set(r#"{"max-connections":"0"}"#);
    assert_eq!(ask("/ping", "").0, 200);
    assert_eq!(server.done("GET", "/v1/databases/shop", "")["settings"]["max-connections"], json!("0"));
    for (name, value, part) in [
        ("max-requests-per-second", "-1", "expected a number of requests from 1 to 10000000, or 0 for no limit"),
        ("max-requests-burst", "5", "`max-requests-burst` has no effect without `max-requests-per-second`"),
        ("max-connections", "1.5", "expected a number of connections"),
        ("max-request-size", "1", "expected at least 1kb, or 0 for no limit"),
        ("max-value-size", "big", "invalid value for `max-value-size`"),
    ] {
        let body = json!({ "settings": { name: value } }).to_string();
        let (status, refused) = server.call("PATCH", "/v1/databases/shop", &body);
        assert!(status == 400 && refused["error"].as_str().unwrap().contains(part), "{body}: {status} {refused}");
    }
}
