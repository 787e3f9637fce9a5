//! The audit log of a server: who has done what, and no secret.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use super::http::{ADMIN_TOKEN, Running};

const BLOG: &str = "dm_blog_0123456789abcdef";

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// A line in short: what, its result, who, the token, the database, the way, and the count.
fn shown(line: &Value) -> String {
    let fields = ["audit", "result", "reason", "who", "token", "of", "user", "database", "about_token", "via", "count"];
    let words = fields.iter().filter_map(|field| match &line[*field] {
        Value::Null => None,
        Value::String(text) => Some(format!("{field}={text}")),
        other => Some(format!("{field}={other}")),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn actions_and_logins_are_told_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let server = Running::start("memory://", &["--audit-log", path.to_str().unwrap(), "--token", BLOG]);
    let mut secrets = vec![ADMIN_TOKEN.to_owned(), BLOG.to_owned(), "s3cretly".to_owned(), "wr0ng-guess".to_owned()];

    // Changes over the API.
    let shop = server.create(r#"{"name":"shop"}"#);
    assert_eq!(server.call("POST", "/v1/databases", r#"{"name":"shop"}"#).0, 409);
    let reader = server.done("POST", "/v1/databases/shop/tokens", r#"{"scope":"read-only"}"#);
    let rotated = server.done("POST", "/v1/databases/shop/tokens/2/rotate", "");
    server.done("DELETE", "/v1/databases/shop/tokens/3", "");
    assert_eq!(server.call("DELETE", "/v1/databases/shop/tokens/9", "").0, 404);
    server.done("POST", "/v1/databases/shop/branches", r#"{"name":"pr-1"}"#);
    assert_eq!(server.call("PATCH", "/v1/databases/no%0Asuch", "{}").0, 404);
    assert_eq!(server.call("POST", "/v1/open", "").0, 403);
    (0..3).for_each(|_| _ = server.done("GET", "/v1/databases", ""));
    (0..2).for_each(|_| _ = server.call_with("GET", "/v1/databases", "authorization: Bearer wr0ng-guess\r\n", b""));
    secrets.extend([&shop, reader["token"].as_str().unwrap(), rotated["token"].as_str().unwrap()].map(String::from));

    // Logins, and the commands of a tenant.
    (0..3).for_each(|_| _ = server.enter(&shop));
    let mut tenant = server.enter(BLOG);
    tenant.check("DORMOUSE BRANCH pr-2", "+OK");
    tenant.check("DORMOUSE DELETE pr-2", "+OK");
    tenant.check("ACL SETUSER ann on >s3cretly ~* +@all", "+OK");
    tenant.check("MULTI", "+OK");
    tenant.check("CONFIG SET maxmemory 0", "+QUEUED");
    tenant.check("EXEC", "1 elements");
    tenant.check("SHUTDOWN", "-NOPERM");
    server.connect().check("AUTH ann dm_blog_s3cretly", "+OK");
    (0..2).for_each(|_| server.connect().check("AUTH dm_shop_wr0ng-guess", "-WRONGPASS"));
    let bearer = format!("authorization: Bearer {shop}\r\n");
    (0..2).for_each(|_| _ = server.call_with("GET", "/set/a/1", &bearer, b""));
    assert_eq!(server.call_with("GET", "/get/a", "authorization: wr0ng-guess\r\n", b"").0, 401);

    let metrics = server.call_with("GET", "/v1/databases/shop/usage", "", b"");
    assert_eq!(metrics.0, 401);
    server.stop();

    let lines = lines(&path);
    let found: Vec<String> = lines.iter().map(shown).collect();
    for expected in [
        "audit=database.create result=done who=admin-token database=shop about_token=1 via=http",
        "audit=database.create result=refused reason=conflict who=admin-token via=http",
        "audit=token.create result=done who=admin-token database=shop about_token=2 via=http",
        "audit=token.rotate result=done who=admin-token database=shop about_token=2 via=http",
        "audit=token.revoke result=done who=admin-token database=shop about_token=3 via=http",
        "audit=token.revoke result=refused reason=unknown who=admin-token database=shop about_token=9 via=http",
        "audit=branch.create result=done who=admin-token database=shop.pr-1 via=http",
        "audit=database.set result=refused reason=unknown who=admin-token database=no\nsuch via=http",
        "audit=database.open result=refused reason=denied who=anyone via=http",
        "audit=database.list result=done who=admin-token via=http",
        "audit=database.list result=done who=admin-token via=http count=2",
        "audit=database.list result=refused reason=wrong-secret who=unknown via=http",
        "audit=database.list result=refused reason=wrong-secret who=unknown via=http count=1",
        "audit=login result=done who=token token=1 of=shop database=shop via=resp",
        "audit=login result=done who=token token=1 of=shop database=shop via=resp count=2",
        "audit=login result=done who=token token=1 of=shop database=shop via=http",
        "audit=login result=done who=token token=1 of=shop database=shop via=http count=1",
        "audit=login result=done who=option-token token=1 database=blog via=resp",
        "audit=dormouse|branch result=done who=option-token token=1 database=blog.pr-2 via=resp",
        "audit=dormouse|delete result=done who=option-token token=1 database=pr-2 via=resp",
        "audit=acl|setuser result=done who=option-token token=1 database=blog via=resp",
        "audit=config|set result=done who=option-token token=1 database=blog via=resp",
        "audit=shutdown result=refused reason=denied who=option-token token=1 database=blog via=resp",
        "audit=login result=done who=user of=blog user=ann database=blog via=resp",
        "audit=login result=refused reason=wrong-secret who=unknown database=shop via=resp",
        "audit=login result=refused reason=wrong-secret who=unknown via=resp count=1",
        "audit=login result=refused reason=malformed who=unknown via=http",
        "audit=login result=done who=admin-token database=default via=resp",
    ] {
        let times = found.iter().filter(|found| *found == expected).count();
        assert_eq!(times, 1, "{expected}\nin\n{}", found.join("\n"));
    }
    assert!(found.iter().any(|line| line.starts_with("audit=shutdown") && line.contains("who=admin-token")));
    for line in &lines {
        assert!(line["time"].as_str().unwrap().ends_with('Z') && line["address"].as_str().is_some(), "{line}");
    }
    let text = std::fs::read_to_string(&path).unwrap();
    for secret in &secrets {
        let part = secret.rsplit('_').next().unwrap();
        let hash: String = digest(&SHA256, part.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!text.contains(part) && !text.contains(&hash), "{secret} is in\n{text}");
    }
}

#[test]
fn a_file_that_cannot_be_opened_ends_the_start() {
    use dormouse::cli::Invocation;
    use dormouse::server::{Failure, Server};
    let words =
        ["dormouse", "--port", "0", "--http-port", "0", "--store", "memory://", "--audit-log", "/no/such/folder/a"];
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listens = ["--unix-socket", socket.to_str().unwrap()];
    let words = words.iter().chain(&listens).map(OsString::from);
    let Ok(Invocation::Serve(options)) = Invocation::parse(words, []) else { unreachable!() };
    match Server::start(*options).map(drop) {
        Err(Failure::Option(text)) => assert!(text.contains("--audit-log") && text.contains("/no/such"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_dashboard_and_the_alerts_find_their_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file://{}", folder.path().join("store").display());
    let path = folder.path().join("audit.log");
    // No receiver listens there, which is enough for the metrics of pushes.
    let options = ["--audit-log", path.to_str().unwrap(), "--usage-to", "http://127.0.0.1:1/"];
    let server = Running::start(&store, &options);
    server.enter(&server.create(r#"{"name":"shop"}"#)).check("SET a 1", "+OK");
    let mut stream = TcpStream::connect(("127.0.0.1", server.http_port)).unwrap();
    let head = format!("authorization: Bearer {ADMIN_TOKEN}\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(format!("GET /metrics HTTP/1.1\r\n{head}").as_bytes()).unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    for file in [
        include_str!("../../../../charts/dormouse/dashboards/dormouse.json"),
        include_str!("../../../../charts/dormouse/rules/dormouse.yaml"),
    ] {
        let words = file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names = words.filter(|word| word.starts_with("dormouse_") || word.starts_with("redis_"));
        // This server has no certificate.
        for name in names.filter(|name| !name.starts_with("dormouse_tls_")) {
            let is_there = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            assert!(metrics.lines().any(is_there), "{name} is missing in\n{metrics}");
        }
    }
}
