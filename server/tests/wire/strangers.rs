//! Connections that have not shown a token: their limits, and the access of tenants beside them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::served::{ADMIN_TOKEN, Connection, Served};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

#[track_caller]
fn check(connection: &mut Connection, line: &str, reply: &str) {
    assert_eq!(connection.say(line).to_string(), reply, "{line}");
}

/// Stops a thread that watches the flag, even if its holder panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Strangers keep arriving and stay; tenants come and go beside them.
#[test]
fn tenants_get_in_beside_any_number_of_strangers() {
    let served = Served::start(&["--token", "dm_shop_s1", "--max-clients", "40"]);
    let mut first = served.connect_with("dm_shop_s1");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The scope waits for the flood, even where an assertion fails.
        let _stop = StopOnDrop(&stop);
        let flood = scope.spawn(|| {
            let mut strangers = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let mut stranger = served.connect_without();
                // A flood that is faster than the server accepts would only fill the system's queue, in which all wait.
                if stranger.try_write(b"PING\r\n").is_ok() {
                    stranger.read();
                }
                strangers.push(stranger);
                if strangers.len() == 1000 {
                    strangers.clear();
                }
            }
        });
        for turn in 0..50 {
            // A connection that is displaced before its AUTH is read has to connect again.
            let mut tenant = (0..100)
                .find_map(|_| {
                    let mut tenant = served.connect_without();
                    tenant.send(&["AUTH", "dm_shop_s1"]);
                    tenant.read().map(|reply| {
                        assert_eq!(reply.to_string(), "+OK");
                        tenant
                    })
                })
                .expect("a tenant gets in");
            check(&mut tenant, &format!("SET k {turn}"), "+OK");
            check(&mut first, "GET k", &format!("\"{turn}\""));
        }
        stop.store(true, Ordering::SeqCst);
        flood.join().unwrap();
    });
    // The places of tenants are counted separately.
    let tenants: Vec<_> = (0..30).map(|_| served.connect_with("dm_shop_s1")).collect();
    let mut last = served.connect_without();
    while last.say("AUTH dm_shop_s1").to_string() == "+OK" {
        std::mem::forget(std::mem::replace(&mut last, served.connect_without()));
    }
    assert_eq!(last.read(), None);
    drop(tenants);
    // The tenants forgotten above would otherwise keep the server from being told to end.
    let mut admin = (0..1000).find_map(|_| {
        let mut admin = served.connect_without();
        let reply = admin.say(&format!("AUTH admin {ADMIN_TOKEN}")).to_string();
        (reply == "+OK").then_some(admin)
    });
    check(admin.as_mut().unwrap(), "PING", "+PONG");
}

#[test]
fn a_stranger_has_little_time() {
    let served = Served::start(&["--token", "dm_shop_s1", "--auth-timeout", "300ms"]);
    let mut tenant = served.connect();
    let mut silent = served.connect_without();
    let mut busy = served.connect_without();
    check(&mut busy, "PING", "-NOAUTH Authentication required.");
    assert_eq!(silent.read(), None);
    assert_eq!(busy.read(), None);
    check(&mut tenant, "PING", "+PONG");
    // Its time begins once it has no identity any more.
    check(&mut tenant, "RESET", "+RESET");
    assert_eq!(tenant.read(), None);
}

#[test]
fn wrong_tokens_are_answered_ever_later_and_not_for_long() {
    let served = Served::start(&["--token", "dm_shop_s1"]);
    let mut guessing = served.connect_without();
    guessing.write(&b"AUTH dm_shop_guess\r\n".repeat(20));
    let begun = Instant::now();
    let mut guesses = 0;
    while let Some(reply) = guessing.read() {
        assert_eq!(reply.to_string(), WRONG);
        guesses += 1;
        // Meanwhile, a tenant at the same address gets in at once.
        let asked = Instant::now();
        check(&mut served.connect_with("dm_shop_s1"), "PING", "+PONG");
        assert!(guesses < 7 || asked.elapsed() < begun.elapsed());
    }
    assert_eq!(guesses, 8);
    assert!(begun.elapsed().as_millis() > 4000, "{:?}", begun.elapsed());
    // HELLO counts as well, and a right token in between resets nothing.
    let mut guessing = served.connect_without();
    for _ in 0..3 {
        check(&mut guessing, "HELLO 3 AUTH shop guess", WRONG);
        check(&mut guessing, "AUTH dm_shop_s1", "+OK");
        check(&mut guessing, "AUTH dm_blog_guess", WRONG);
        check(&mut guessing, "PING", "+PONG");
    }
}

#[test]
fn an_address_that_guesses_on_fresh_connections_waits_and_is_not_locked_out() {
    let served = Served::start(&["--token", "dm_shop_s1"]);
    // Many at the same time: each of them is its connection's first.
    let mut guessing: Vec<_> = (0..80).map(|_| served.connect_without()).collect();
    for connection in &mut guessing {
        connection.write(b"AUTH dm_shop_guess\r\n");
    }
    for connection in &mut guessing {
        assert_eq!(connection.read().map(|reply| reply.to_string()).as_deref(), Some(WRONG));
    }
    // A right token waits like a wrong one, so that silence tells a guesser nothing. Then the client gets in.
    let mut tenant = served.connect_without();
    tenant.write(b"AUTH dm_shop_s1\r\n");
    let begun = Instant::now();
    assert_eq!(tenant.read().map(|reply| reply.to_string()).as_deref(), Some("+OK"));
    assert!(begun.elapsed().as_millis() > 200, "{:?}", begun.elapsed());
    check(&mut tenant, "PING", "+PONG");
}

#[test]
fn a_stranger_may_not_ask_for_ever() {
    let served = Served::start(&["--token", "dm_shop_s1"]);
    let mut asking = served.connect_without();
    asking.write(&b"GET k\r\n".repeat(1500));
    let mut answers = 0;
    while let Some(reply) = asking.read() {
        assert_eq!(reply.to_string(), "-NOAUTH Authentication required.");
        answers += 1;
    }
    assert_eq!(answers, 1001);
    // None of it is charged to a database.
    let mut admin = served.connect_as_admin();
    assert!(admin.say("INFO stats").field("total_commands_processed").parse::<u64>().unwrap() < 10);
    assert!(!admin.say("INFO errorstats").text().contains("NOAUTH"));
}

#[test]
fn the_slow_log_shows_no_secret() {
    let served = Served::start(&["--token", "dm_shop_s3cret", "--token", "hunter2"]);
    let mut admin = served.connect_as_admin();
    check(&mut admin, "CONFIG SET slowlog-log-slower-than 0", "+OK");
    let mut stranger = served.connect_without();
    check(&mut stranger, "AUTH dm_shop_typ0", WRONG);
    let mut shop = served.connect_with("dm_shop_s3cret");
    shop.say("HELLO 3 AUTH shop dm_shop_s3cret SETNAME x");
    check(&mut shop, "AUTH dm_blog_typ0", WRONG);
    check(&mut shop, "HELLO 2 AUTH blog dm_blog_typ0", WRONG);
    shop.say("CONFIG SET requirepass s3cret");
    shop.say("AUTH one two s3cret");
    check(&mut shop, "MULTI", "+OK");
    shop.say("CONFIG SET masterauth s3cret");
    shop.say("AUTH dm_shop_s3cret");
    shop.say("EXEC");
    let log = shop.say("SLOWLOG GET -1").to_string();
    assert!(!log.contains("s3cret") && !log.contains("typ0"), "{log}");
    for shown in [
        r#""AUTH" "(redacted)""#,
        r#""HELLO" "3" "AUTH" "(redacted)" "(redacted)" "SETNAME" "x""#,
        r#""CONFIG" "SET" "requirepass" "(redacted)""#,
    ] {
        assert!(log.contains(shown), "{shown}: {log}");
    }
    let clients = shop.say("CLIENT LIST").to_string();
    assert!(!clients.contains("s3cret"), "{clients}");
    let log = served.connect_with("hunter2").say("SLOWLOG GET -1").to_string();
    assert!(!log.contains(ADMIN_TOKEN) && !log.contains("typ0") && !log.contains("dm_shop"), "{log}");
}

/// A tenant's settings stay within the operator's limits.
#[test]
fn a_tenant_cannot_lift_its_limit() {
    let served = Served::start(&["--token", "dm_shop_s1", "--max-memory", "1mb", "--sleep-after", "1m"]);
    let mut shop = served.connect();
    for line in ["CONFIG SET maxmemory 0", "CONFIG SET maxmemory 2mb", "CONFIG SET sleep-after never"] {
        let refused = shop.say(line).to_string();
        assert!(refused.contains("the limit of the server"), "{line}: {refused}");
    }
    check(&mut shop, "DORMOUSE BRANCH pr", "+OK");
    for token in ["dm_shop_s1", "dm_shop.pr_s1"] {
        let mut client = served.connect_with(token);
        assert!(client.say("CONFIG SET maxmemory 0").text().contains("the limit of the server"));
        check(&mut client, "CONFIG SET maxmemory 512kb", "+OK");
        let value = "x".repeat(300 << 10);
        assert_eq!(client.run(&["SET", "k", &value]).to_string(), "+OK");
        assert!(client.run(&["SET", "l", &value]).to_string().starts_with("-OOM"));
    }
    let mut admin = served.connect_without();
    check(&mut admin, &format!("AUTH shop {ADMIN_TOKEN}"), "+OK");
    check(&mut admin, "CONFIG SET maxmemory 0", "+OK");
    check(&mut shop, "SET l v", "+OK");
}

#[test]
fn tenants_cannot_keep_the_admin_out() {
    let served = Served::start(&["--token", "dm_shop_s1", "--max-clients", "3"]);
    let mut tenants: Vec<_> = (0..3).map(|_| served.connect_with("dm_shop_s1")).collect();
    let mut late = served.connect_without();
    check(&mut late, "AUTH dm_shop_s1", "-ERR max number of clients reached");
    let mut admin = served.connect_as_admin();
    check(&mut admin, "AUTH shop the-admin-token", "+OK");
    let id = admin.say("CLIENT ID").integer();
    check(&mut tenants[0], &format!("CLIENT KILL ID {id}"), ":0");
    check(&mut tenants[0], "CLIENT KILL TYPE normal", ":2");
    check(&mut admin, "PING", "+PONG");
    check(&mut admin, "CLIENT KILL TYPE normal", ":1");
    // After it has given its rights up, it is one of them.
    check(&mut admin, "AUTH dm_shop_s1", "+OK");
    // The places of closed connections are free once these have ended.
    let mut tenant = (0..10_000)
        .find_map(|_| {
            let mut tenant = served.connect_without();
            (tenant.say("AUTH dm_shop_s1").to_string() == "+OK").then_some(tenant)
        })
        .expect("a place is free");
    check(&mut tenant, &format!("CLIENT KILL ID {id}"), ":1");
    assert_eq!(admin.read(), None);
}
