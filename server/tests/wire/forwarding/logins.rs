//! Which logins are forwarded, and what comes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dormouse::databases::aim::LoginAim;
use dormouse::fleet::ServedAt;
use dormouse_shard::error::Error;

use super::{Door, Pair, SECRET, clients, closed_address, join, peering, until};
use crate::node::{Bench, Connection, calls};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

fn info(client: &mut Connection) -> String {
    client.send(&["CLIENT INFO"]);
    client.bulk()
}

#[test]
fn a_token_leads_to_the_node_of_its_database() {
    let pair = Pair::new();
    let mut client = pair.shop();
    client.check("SET key there", "+OK\r\n");
    let mut direct = pair.direct();
    direct.check("GET key", "$5\r\nthere\r\n");
    // The address is that of the client, which has come by a socket here.
    let line = info(&mut client);
    assert!(line.contains(" addr=test:0 ") && line.contains(" user=default "), "{line}");
    assert_eq!(clients(&pair.a).len(), 1);
    // A database of this node is served here.
    let mut here = pair.a.connect();
    here.check("AUTH dm_blog_s3cret", "+OK\r\n");
    here.check("SET key here", "+OK\r\n");
    assert_eq!(pair.resp.accepted(), 1);
    // By any name.
    for line in ["AUTH default dm_shop_s3cret", "AUTH shop dm_shop_s3cret"] {
        let mut client = pair.a.connect();
        client.check(line, "+OK\r\n");
        client.check("GET key", "$5\r\nthere\r\n");
    }
}

#[test]
fn a_greeting_is_answered_by_the_other_node() {
    let pair = Pair::new();
    let mut client = pair.a.connect();
    client.send(&["HELLO 3 AUTH default dm_shop_s3cret SETNAME me"]);
    client.expect("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n");
    client.bulk();
    client.expect("$5\r\nproto\r\n:3\r\n$2\r\nid\r\n");
    client.line();
    client.expect("$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n");
    client.check("SUBSCRIBE news", ">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    client.check("SET key value", "+OK\r\n");
    pair.direct().check("PUBLISH news hello", ":1\r\n");
    client.expect(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n");
    client.check("HGETALL none", "%0\r\n");
}

#[test]
fn what_a_client_has_said_before_comes_along() {
    let pair = Pair::new();
    let mut client = pair.a.connect();
    client.check("AUTH dm_blog_s3cret", "+OK\r\n");
    client.send(&["HELLO 3"]);
    assert_eq!(client.line(), "%7");
    client.send(&["CLIENT SETNAME me", "CLIENT SETINFO LIB-NAME lib", "CLIENT SETINFO LIB-VER 1.2"]);
    client.send(&["CLIENT NO-EVICT ON", "CLIENT NO-TOUCH ON", "ECHO done"]);
    while client.line() != "done" {}
    client.check("AUTH dm_shop_s3cret", "+OK\r\n");
    client.send(&["CLIENT INFO"]);
    let head = client.line();
    assert!(head.starts_with('='), "{head}");
    let line = client.line();
    for part in [" name=me ", " resp=3 ", " lib-name=lib ", " lib-ver=1.2", " flags=UeT ", " db=0 "] {
        assert!(line.contains(part), "{part} {line}");
    }
    // Replies that it does not want.
    for (before, after) in [("CLIENT REPLY OFF", "CLIENT REPLY ON"), ("CLIENT REPLY SKIP", "ECHO on")] {
        let mut client = pair.a.connect();
        client.check("AUTH dm_blog_s3cret", "+OK\r\n");
        client.send(&[before, "AUTH dm_shop_s3cret", after]);
        client.expect(if after.starts_with("CLIENT") { "+OK\r\n" } else { "$2\r\non\r\n" });
        client.check("ECHO more", "$4\r\nmore\r\n");
    }
    // Elsewhere nothing would be tracked.
    let mut client = pair.a.connect();
    client.check("AUTH dm_blog_s3cret", "+OK\r\n");
    client.send(&["HELLO 3", "CLIENT TRACKING ON", "ECHO done"]);
    while client.line() != "done" {}
    client.send(&["AUTH dm_shop_s3cret"]);
    assert!(client.line().starts_with("-ERR another node serves this database: turn CLIENT TRACKING off"));
    client.check("CLIENT TRACKING OFF", "+OK\r\n");
    client.check("AUTH dm_shop_s3cret", "+OK\r\n");
}

#[test]
fn a_login_leads_where_its_secret_does() {
    const ADMIN: &str = "the-admin-token";
    let token = |name: &str| LoginAim::Token(name.into());
    let password = |name: &str| LoginAim::Password(name.into());
    let bench = Bench::of(&["--token", "dm_shop_s3cret", "--token", "hunter2", "--admin-token", ADMIN], None, || {
        1_700_000_000_000
    });
    let mut client = bench.connect();
    client.check("AUTH dm_shop_s3cret", "+OK\r\n");
    client.check("DORMOUSE BRANCH pr-1", "+OK\r\n");
    for (user, secret, expected) in [
        ("", "dm_shop_s3cret", token("shop")),
        ("default", "dm_shop_s3cret", token("shop")),
        ("ann", "dm_shop_s3cret", token("shop")),
        ("shop.pr-1", "dm_shop_s3cret", token("shop.pr-1")),
        ("shop.pr-2", "dm_shop_s3cret", token("shop")),
        ("default.pr-1", "dm_shop_s3cret", token("shop")),
        ("", "dm_shop.pr-1_s3cret", token("shop.pr-1")),
        ("", "dm_shop.pr-2_s3cret", LoginAim::Nowhere),
        ("", "hunter2", token("default")),
        ("admin", ADMIN, LoginAim::Nowhere),
        ("shop", ADMIN, token("shop")),
        ("none", ADMIN, LoginAim::Nowhere),
        ("", ADMIN, LoginAim::Nowhere),
        ("", "dm_shop_wrong", LoginAim::Nowhere),
        ("ann", "dm_shop_wrong", password("shop")),
        ("ann", "dm_none_wrong", LoginAim::Nowhere),
        ("ann", "wrong", password("default")),
        ("", "", LoginAim::Nowhere),
    ] {
        assert_eq!(bench.node.tenants.aim(user.as_bytes(), secret.as_bytes()), expected, "{user} {secret}");
    }
    let bench = Bench::new(&[]);
    bench.connect().check("DORMOUSE BRANCH pr-1", "+OK\r\n");
    for (user, secret, expected) in [
        ("", "x", "default"),
        ("default", "x", "default"),
        ("default.pr-1", "x", "default.pr-1"),
        ("ann", "dm_default.pr-1_pw", "default.pr-1"),
        ("ann", "dm_none_pw", "default"),
    ] {
        assert_eq!(bench.node.tenants.aim(user.as_bytes(), secret.as_bytes()), password(expected), "{user} {secret}");
    }
}

#[test]
fn a_wrong_token_stays_here() {
    let pair = Pair::new();
    for line in
        ["AUTH dm_shop_wrong", "AUTH shop dm_shop_wrong2", "AUTH dm_none_s3cret", "AUTH ann dm_none_pw", "AUTH wrong"]
    {
        let mut client = pair.a.connect();
        client.check(line, WRONG);
        client.check("GET key", "-NOAUTH Authentication required.\r\n");
    }
    // A name that may be a user's has to be asked for.
    assert_eq!(pair.resp.accepted(), 1);
    assert_eq!(pair.a.node.guesses.count.load(Ordering::SeqCst), 5);
}

#[test]
fn a_password_is_decided_where_the_users_are() {
    let pair = Pair::new();
    pair.direct().check("ACL SETUSER ann on >pw ~* +@all", "+OK\r\n");
    let mut client = pair.a.connect();
    client.check("AUTH ann dm_shop_wrong", WRONG);
    assert_eq!(pair.a.node.guesses.count.load(Ordering::SeqCst), 1);
    client.check("GET key", "-NOAUTH Authentication required.\r\n");
    client.check("AUTH ann dm_shop_pw", "+OK\r\n");
    client.check("ACL WHOAMI", "$3\r\nann\r\n");
    // One that is in a database stays there.
    let mut client = pair.a.connect();
    client.check("AUTH dm_blog_s3cret", "+OK\r\n");
    client.check("SET key here", "+OK\r\n");
    client.check("AUTH ann dm_shop_wrong", WRONG);
    client.check("GET key", "$4\r\nhere\r\n");
    // On each connection there is a number of guesses.
    let mut client = pair.a.connect();
    for _ in 0..8 {
        client.check("AUTH ann dm_shop_wrong", WRONG);
    }
    client.expect_end();
}

#[test]
fn without_tokens_the_first_command_leads_there() {
    let pair = Pair::with(&[]);
    let mut client = pair.a.connect();
    client.check("SET key there", "+OK\r\n");
    client.check("GET key", "$5\r\nthere\r\n");
    pair.b.connect().check("GET key", "$5\r\nthere\r\n");
    let mut client = pair.a.connect();
    client.send(&["HELLO 3"]);
    assert_eq!(client.line(), "%7");
    let mut client = pair.a.connect();
    client.send(&["NONSENSE"]);
    assert!(client.line().starts_with("-ERR unknown command"));
    assert_eq!(pair.resp.accepted(), 3);
    // A long one is sent on whole.
    let mut client = pair.a.connect();
    super::write(&mut client, &[b"SET", b"long", &vec![b'x'; 3 << 20]]);
    client.expect("+OK\r\n");
    client.check("STRLEN long", ":3145728\r\n");
    // A command of the node itself needs no database.
    let mut client = pair.a.connect();
    client.check("RESET", "+RESET\r\n");
    client.check("QUIT", "+OK\r\n");
    assert_eq!(pair.resp.accepted(), 4);
    // What is on this node is served here.
    pair.move_to(|| Ok(ServedAt::Here));
    let mut client = pair.a.connect();
    client.check("SET key here", "+OK\r\n");
    client.check("RESET", "+RESET\r\n");
    client.check("GET key", "$4\r\nhere\r\n");
    assert_eq!(pair.resp.accepted(), 4);
}

#[test]
fn a_node_that_cannot_be_reached_is_named() {
    let pair = Pair::new();
    let (address, is_back) = (closed_address(), Arc::<AtomicBool>::default());
    let (gone, there) = (peering(&address, None), peering(&pair.resp.address, None));
    let back = Arc::clone(&is_back);
    pair.move_to(move || Ok(ServedAt::There(Arc::clone(if back.load(Ordering::SeqCst) { &there } else { &gone }))));
    let mut client = pair.a.connect();
    client.send(&["AUTH dm_shop_s3cret"]);
    let error = client.line();
    let expected = format!("-TRYAGAIN database `shop` is served by node `b` at {address}, which cannot be reached (");
    assert!(error.starts_with(&expected) && error.ends_with("): try again"), "{error}");
    is_back.store(true, Ordering::SeqCst);
    client.check("AUTH dm_shop_s3cret", "+OK\r\n");
    client.check("PING", "+PONG\r\n");
    pair.move_to(|| Err(Error::text("ERR the coordinator is away")));
    let mut client = pair.a.connect();
    client.check(
        "AUTH dm_shop_s3cret",
        "-TRYAGAIN cannot tell which node serves database `shop`: ERR the coordinator is away: try again\r\n",
    );
}

#[test]
fn a_client_is_passed_on_a_few_times() {
    // Each of three nodes believes that the next has the database, and the last that it has it itself.
    let benches = [(); 4].map(|()| Bench::new(&super::TOKENS));
    let doors: Vec<Door> = benches.iter().map(|bench| Door::open(bench, false)).collect();
    for (at, bench) in benches.iter().enumerate() {
        let next = doors.get(at + 1).map(|door| peering(&door.address, None));
        join(bench, move |_| Ok(next.clone().map_or(ServedAt::Here, ServedAt::There)));
    }
    let mut client = benches[0].connect();
    client.check("AUTH dm_shop_s3cret", "+OK\r\n");
    client.check("SET key value", "+OK\r\n");
    let line = info(&mut client);
    assert!(line.contains(" addr=test:0 "), "{line}");
    assert_eq!(calls(&benches[3].totals("shop"), "set"), 1);
    // Two that send it to each other.
    let pair = Pair::new();
    let door = Door::open(&pair.a, false);
    let there = peering(&door.address, None);
    let circle = Bench::new(&super::TOKENS);
    join(&circle, move |_| Ok(ServedAt::There(Arc::clone(&there))));
    let other = Door::open(&circle, false);
    let there = peering(&other.address, None);
    pair.move_to(move || Ok(ServedAt::There(Arc::clone(&there))));
    let mut client = pair.a.connect();
    client.send(&["AUTH dm_shop_s3cret"]);
    let error = client.line();
    assert!(error.starts_with("-TRYAGAIN "), "{error}");
    until(|| pair.a.node.clients.list().len() == 1);
    client.check("PING", "-NOAUTH Authentication required.\r\n");
}

#[test]
fn only_nodes_introduce_clients() {
    let pair = Pair::new();
    let denied = "-NOPERM only another node of the fleet may introduce a client, and only once\r\n";
    let introduce = |secret: &str, hops: &str| format!("DORMOUSE FORWARDED {secret} 192.0.2.7:99 {hops} {{}}");
    let mut client = pair.b.connect();
    client.check(&introduce("wrong", "1"), denied);
    client.check(&introduce(SECRET, "1"), "+OK\r\n");
    client.check(&introduce(SECRET, "1"), denied);
    client.check("AUTH dm_shop_s3cret", "+OK\r\n");
    let line = info(&mut client);
    assert!(line.contains(" addr=192.0.2.7:99 "), "{line}");
    client.check(&introduce(SECRET, "1"), denied);
    for hops in ["4", "x"] {
        let mut client = pair.b.connect();
        client.send(&[&introduce(SECRET, hops)]);
        assert!(client.line().starts_with("-ERR "));
        client.expect_end();
    }
    // Guesses are as few as those of tokens.
    let mut client = pair.b.connect();
    for _ in 0..8 {
        client.check(&introduce("wrong", "1"), denied);
    }
    client.expect_end();
    let lone = Bench::new(&super::TOKENS);
    let mut client = lone.connect();
    client.check(&introduce("", "1").replace("FORWARDED ", "FORWARDED \"\""), denied);
    client.check("AUTH dm_shop_s3cret", "+OK\r\n");
    client.check(&introduce(SECRET, "1"), denied);
}

#[test]
fn a_client_on_the_machine_of_another_node_has_no_rights_to_this_one() {
    let pair = Pair::with(&[]);
    let mut direct = pair.b.connect();
    direct.send(&["CONFIG SET maxclients 9000"]);
    direct.expect("+OK\r\n");
    let mut client = pair.a.connect();
    client.send(&["CONFIG SET maxclients 8000"]);
    let error = client.line();
    assert!(error.starts_with('-'), "{error}");
}
