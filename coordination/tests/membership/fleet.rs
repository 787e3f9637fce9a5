//! A fleet whose coordinator is well.

use dormouse_coordination::Standing;
use serde_json::json;

use super::server::Server;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn members_see_each_other() {
    let Some(server) = Server::start() else { return };
    let b = join(&server.url(), member("b", 2), LONG).await;
    assert_eq!(b.members().iter().map(|member| (**member).clone()).collect::<Vec<_>>(), [member("b", 2)]);
    let a = join(&server.url(), member("a", 1), LONG).await;
    // The newcomer sees all at once.
    let names = |members: &FleetMembers| members.iter().map(|member| member.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a.members()), ["a", "b"]);
    until(&b, "the newcomer", |members| members.len() == 2).await;
    assert_eq!(a.members(), b.members());
    assert_eq!(b.members().of_writer(1).map(|found| (**found).clone()), Some(member("a", 1)));
    assert!(may_serve(&a) && may_serve(&b));
    // Another fleet in the same etcd is another fleet, even if its prefix begins like this one.
    let other = join(&format!("{}2", server.url()), member("c", 3), LONG).await;
    assert_eq!((names(&other.members()), *a.secret() == *other.secret()), (vec!["c".to_owned()], false));
    a.announce("x", 1).await.unwrap();
    in_time("the topic", b.heard("x").wait_for(|number| *number == 1)).await.unwrap();
    assert_eq!(a.members().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_leaves_is_gone_at_once() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (join(&server.url(), member("a", 1), LONG).await, join(&server.url(), member("b", 2), LONG).await);
    until(&a, "both", |members| members.len() == 2).await;
    b.leave().await.unwrap();
    assert_eq!(b.lease_end_ms().load(Ordering::Acquire), 0);
    assert_eq!(*b.standing().borrow(), Standing { has_left: true, ..Standing::default() });
    // Its lease would have lasted far longer than the test waits.
    until(&a, "one has left", |members| members.len() == 1).await;
    b.leave().await.unwrap();
    let again = join(&server.url(), member("b", 3), LONG).await;
    until(&a, "it is back", |members| members.of_writer(3).is_some()).await;
    assert!(may_serve(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_is_seen() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (join(&server.url(), member("a", 1), LONG).await, join(&server.url(), member("b", 2), LONG).await);
    for is_draining in [true, false] {
        b.set_draining(is_draining);
        for membership in [&a, &b] {
            until(membership, "draining", |members| {
                members.named("b").is_some_and(|member| member.is_draining == is_draining)
            })
            .await;
        }
    }
    let before = server.revision().await;
    b.set_draining(false);
    a.set_draining(true);
    until(&b, "the other", |members| members.named("a").is_some_and(|member| member.is_draining)).await;
    assert_eq!(server.revision().await, before + 1, "a change that changes nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_process_of_a_name_replaces_the_older() {
    let Some(server) = Server::start() else { return };
    let witness = join(&server.url(), member("w", 9), LONG).await;
    let older = join(&server.url(), member("a", 1), LONG).await;
    let newer = join(&server.url(), member("a", 2), LONG).await;
    assert_eq!(in_time("the older notices", older.until_replaced()).await, 2);
    assert_eq!(older.lease_end_ms().load(Ordering::Acquire), 0);
    assert_eq!(older.standing().borrow().replaced_by, Some(2));
    older.set_draining(true);
    // The older one gives its lease back, and the key of the newer stays.
    older.leave().await.unwrap();
    witness.announce("x", 1).await.unwrap();
    for membership in [&witness, &newer] {
        in_time("the topic", membership.heard("x").wait_for(|number| *number == 1)).await.unwrap();
        let seen = membership.members();
        assert_eq!(seen.named("a").map(|seen| (**seen).clone()), Some(member("a", 2)));
        assert_eq!(seen.of_writer(1), None);
    }
    assert!(may_serve(&newer));
    assert_eq!(*newer.standing().borrow(), Standing::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_has_one_secret() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    let joins: Vec<_> = (0..8)
        .map(|number| {
            let url = url.clone();
            tokio::spawn(async move { join(&url, member(&format!("n{number}"), number), LONG).await })
        })
        .collect();
    let mut fleet = Vec::new();
    for join in joins {
        fleet.push(join.await.unwrap());
    }
    let secret = fleet[0].secret();
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    assert!(fleet.iter().all(|membership| membership.secret() == secret));
    // An operator may replace it.
    server.put("secret", "another").await;
    for membership in &fleet {
        eventually("the new secret", || &*membership.secret() == "another").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_topics_only_grow() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (join(&server.url(), member("a", 1), LONG).await, join(&server.url(), member("b", 2), LONG).await);
    let mut heard = b.heard("steps");
    assert_eq!(*heard.borrow(), 0);
    let announcers: Vec<_> = [a.clone(), b.clone()]
        .into_iter()
        .enumerate()
        .map(|(index, membership)| {
            tokio::spawn(async move {
                // Both go up and down, so that most numbers come too late.
                for number in 0..60_u64 {
                    let number = (number * 37 + 11 * u64::try_from(index).unwrap()) % 97;
                    membership.announce("steps", number).await.unwrap();
                }
            })
        })
        .collect();
    let mut last = 0;
    while last < 96 {
        let number = *in_time("larger numbers", heard.wait_for(|number| *number > last)).await.unwrap();
        assert!(number > last);
        last = number;
    }
    for announcer in announcers {
        announcer.await.unwrap();
    }
    // One that joins later hears of it. What is not larger is not written.
    let late = join(&server.url(), member("c", 3), LONG).await;
    assert_eq!(*late.heard("steps").borrow(), 96);
    let revision = server.revision().await;
    late.announce("steps", 96).await.unwrap();
    late.announce("steps", 5).await.unwrap();
    assert_eq!(server.revision().await, revision);
    a.announce("steps", u64::MAX).await.unwrap();
    in_time("the largest number", heard.wait_for(|number| *number == u64::MAX)).await.unwrap();
    for topic in ["", "a/b", "\u{e9}"] {
        assert!(matches!(a.announce(topic, 1).await, Err(CoordinationError::Invalid { what: "topic", .. })), "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_fleet_writes_nothing() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (join(&server.url(), member("a", 1), SHORT).await, join(&server.url(), member("b", 2), SHORT).await);
    let before = server.revision().await;
    for membership in [&a, &b] {
        let end = membership.lease_end_ms();
        for _ in 0..4 {
            let last = end.load(Ordering::Acquire);
            eventually("a keepalive", || end.load(Ordering::Acquire) > last).await;
        }
    }
    assert_eq!(server.revision().await, before);
    assert_eq!(*a.standing().borrow(), Standing::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_requests_are_refused() {
    let Some(server) = Server::start() else { return };
    for (member, lease) in [
        (member("", 1), LONG),
        (member("a/b", 1), LONG),
        (FleetMember { advertise: "x".repeat(20_000), ..member("a", 1) }, LONG),
        (member("a", 1), Duration::ZERO),
        (member("a", 1), Duration::from_secs(3601)),
    ] {
        let refused = try_join(&server.url(), member, lease).await.err();
        assert!(matches!(refused, Some(CoordinationError::Invalid { .. })), "{refused:?}");
    }
    let unsupported = try_join("kubernetes://default", member("a", 1), LONG).await.err().map(|error| error.to_string());
    assert!(unsupported.is_some_and(|text| text.contains("kubernetes://default is not supported")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_may_ask_for_a_password() {
    let Some(mut server) = Server::start() else { return };
    server.ask("auth/user/add", json!({ "name": "root", "password": "p@ss" })).await;
    server.ask("auth/role/add", json!({ "name": "root" })).await;
    server.ask("auth/user/grant", json!({ "user": "root", "role": "root" })).await;
    server.ask("auth/enable", json!({})).await;
    let refused = try_join(&server.url(), member("a", 1), LONG).await.err();
    assert!(matches!(refused, Some(CoordinationError::Refused { .. })), "{refused:?}");
    let with = |password: &str| server.url().replace("etcd://", &format!("etcd://root:{password}@"));
    let refused = try_join(&with("wr0ng"), member("a", 1), LONG).await.err().unwrap().to_string();
    assert!(refused.contains("authentication failed") && !refused.contains("wr0ng"), "{refused}");
    let url = with("p%40ss");
    let (a, b) = (join(&url, member("a", 1), SHORT).await, join(&url, member("b", 2), SHORT).await);
    until(&a, "both", |members| members.len() == 2).await;
    // A restart forgets all tokens.
    server.kill();
    server.restart();
    b.set_draining(true);
    until(&a, "a change after the restart", |members| members.named("b").is_some_and(|b| b.is_draining)).await;
    let end = a.lease_end_ms();
    let last = end.load(Ordering::Acquire);
    eventually("a keepalive after the restart", || end.load(Ordering::Acquire) > last && may_serve(&a)).await;
}
