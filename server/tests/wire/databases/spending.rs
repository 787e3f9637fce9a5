//! Spending limits, and the ways around them that a tenant might try.

use super::http::{Running, until};

const REFUSED: &str = "-ERR max requests limit exceeded. Limit: 20, Usage: ";

#[test]
fn a_limit_has_no_way_around_it() {
    let server = Running::start("memory://", &[]);
    let token = server.create(r#"{"name":"shop","settings":{"spending-limit-units":"20"}}"#);
    let mut client = server.enter(&token);
    client.check("DORMOUSE BRANCH before", "+OK");
    let mut before = server.enter(&token.replacen("dm_shop_", "dm_shop.before_", 1));
    before.check("SET a 1", "+OK");
    until("the limit is reached", || client.say("SET a 1").starts_with(REFUSED));
    client.check("PING", "+PONG");
    // Behind `ONCE`.
    client.check("ONCE k 60000 SET a 2", REFUSED);
    client.check("ONCE k 60000 GET a", REFUSED);
    client.check("MULTI", "+OK");
    client.check("SET a 2", REFUSED);
    client.check("ONCE k 60000 EXEC", "-EXECABORT");
    for headers in ["", "idempotency-key: k\r\n"] {
        let headers = format!("authorization: Bearer {token}\r\n{headers}");
        let (head, body) = server.raw("POST", "/set/a/2", &headers, b"");
        assert!(head.starts_with("HTTP/1.1 429 ") && body.contains(&REFUSED[1..]), "{head} {body}");
    }
    // In branches, those that were there before and new ones.
    until("branches share the limit", || before.say("SET a 1").starts_with(REFUSED));
    client.check("DORMOUSE BRANCH after", "+OK");
    let mut after = server.enter(&token.replacen("dm_shop_", "dm_shop.after_", 1));
    after.check("SET a 2", REFUSED);
    client.check("DORMOUSE DELETE before", "+OK");
    client.check("DORMOUSE DELETE after", "+OK");
    client.check("DORMOUSE BRANCH after", "+OK");
    server.enter(&token.replacen("dm_shop_", "dm_shop.after_", 1)).check("SET a 2", REFUSED);
    // Others are not concerned.
    let other = server.create(r#"{"name":"shopping","settings":{"spending-limit-units":"20"}}"#);
    server.enter(&other).check("SET a 1", "+OK");
    server.done("PATCH", "/v1/databases/shop", r#"{"settings":{"spending-limit-units":"1000"}}"#);
    until("the limit is higher", || client.say("GET a") == "$1");
}
