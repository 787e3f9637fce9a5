//! `DORMOUSE BRANCH`, `DATABASES` and `DELETE` over a socket, and the ways into a branch.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod served;

use served::{Connection, Served, Value};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

fn names(databases: &Value) -> Vec<&str> {
    databases.items().iter().map(|database| database.at("name").text()).collect()
}

#[track_caller]
fn check(connection: &mut Connection, line: &str, reply: &str) {
    assert_eq!(connection.say(line).to_string(), reply, "{line}");
}

#[test]
fn a_branch_is_entered_by_name_where_there_are_no_tokens() {
    let served = Served::start(&[]);
    let mut main = served.connect();
    check(&mut main, "SET k main", "+OK");
    check(&mut main, "DORMOUSE BRANCH pr-1", "+OK");
    check(&mut main, "DORMOUSE BRANCH pr-1", "-ERR a database of that name exists");
    check(&mut main, "DORMOUSE BRANCH default", "-ERR a database of that name exists");

    let mut branch = served.connect();
    // Whoever meant another database does not go on in this one.
    check(&mut branch, "AUTH pr-2 x", "-WRONGPASS there is no database 'pr-2'");
    check(&mut branch, "GET k", "-NOAUTH Authentication required.");
    check(&mut branch, "AUTH pr-1 whatever", "+OK");
    check(&mut branch, "SET k branch", "+OK");
    check(&mut main, "GET k", "\"main\"");
    check(&mut branch, "GET k", "\"branch\"");
    // Back to where a new connection is.
    check(&mut branch, "RESET", "+RESET");
    check(&mut branch, "GET k", "\"main\"");
    assert_eq!(branch.say("HELLO 3 AUTH pr-1 x").at("proto").integer(), 3);
    check(&mut branch, "GET k", "\"branch\"");
    check(&mut branch, "MULTI", "+OK");
    check(&mut branch, "AUTH default x", "-ERR Command not allowed inside a transaction");
    check(&mut branch, "DISCARD", "+OK");
    let info = branch.say("INFO dormouse");
    assert_eq!((info.field("database"), info.field("source"), info.field("branches")), ("pr-1", "default", "0"));
    check(&mut branch, "AUTH default x", "+OK");
    check(&mut branch, "GET k", "\"main\"");
    assert_eq!(branch.say("INFO dormouse").field("branches"), "1");
    check(
        &mut branch,
        "AUTH secret",
        "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
         configuration is correct?",
    );
}

#[test]
fn databases_are_seen_by_those_whose_branches_they_are() {
    let served = Served::start(&[]);
    let mut main = served.connect();
    check(&mut main, "SET k v", "+OK");
    check(&mut main, "DORMOUSE BRANCH a TTL 3600000", "+OK");
    let mut a = served.connect();
    check(&mut a, "AUTH a x", "+OK");
    check(&mut a, "DORMOUSE BRANCH b", "+OK");
    check(&mut a, "DORMOUSE SLEEP", "+OK");
    let databases = main.say("DORMOUSE DATABASES");
    assert_eq!(names(&databases), ["a", "b", "default"]);
    let of_a = &databases.items()[0];
    assert_eq!(of_a.at("source").text(), "default");
    assert_eq!(of_a.at("awake").integer(), 0);
    assert_eq!(of_a.at("keys").integer(), 1);
    assert_eq!(of_a.at("stored_bytes"), of_a.at("shared_bytes"));
    // The time counts from the command on, a little before the branch is there.
    let lives_ms = of_a.at("expires_ms").integer() - of_a.at("created_ms").integer();
    assert!((1..=3_600_000).contains(&lives_ms), "{lives_ms}");
    let of_b = &databases.items()[1];
    assert_eq!((of_b.at("source").text(), of_b.at("expires_ms")), ("a", &Value::Null));
    assert_eq!(names(&a.say("DORMOUSE DATABASES")), ["a", "b"]);
    let mut b = served.connect();
    check(&mut b, "AUTH b x", "+OK");
    assert_eq!(names(&b.say("DORMOUSE DATABASES")), ["b"]);
    let refused = "-ERR no branch of that name: DORMOUSE DATABASES shows those of this database";
    check(&mut b, "DORMOUSE DELETE a", refused);
    check(&mut b, "DORMOUSE DELETE b", refused);
    check(&mut a, "DORMOUSE DELETE default", refused);
    check(&mut main, "DORMOUSE DELETE default", "-ERR only a branch can be deleted");
    for (line, error) in [
        ("DORMOUSE BRANCH", "-ERR wrong number of arguments for 'dormouse|branch' command"),
        ("DORMOUSE BRANCH c TTL", "-ERR syntax error"),
        ("DORMOUSE BRANCH c TTL 0", "-ERR invalid expire time in 'dormouse|branch' command"),
        ("DORMOUSE BRANCH c TTL 9223372036854775807", "-ERR invalid expire time in 'dormouse|branch' command"),
        ("DORMOUSE BRANCH c PX 5", "-ERR syntax error"),
        ("DORMOUSE DELETE c", refused),
    ] {
        check(&mut main, line, error);
    }
    let bad = main.say("DORMOUSE BRANCH Bad_Name").to_string();
    assert!(bad.starts_with("-ERR `Bad_Name` is no name for a database"), "{bad}");
}

#[test]
fn a_deleted_branch_is_gone_and_its_name_is_free() {
    let served = Served::start(&[]);
    let mut main = served.connect();
    check(&mut main, "SET k one", "+OK");
    check(&mut main, "DORMOUSE BRANCH pr", "+OK");
    let mut old = served.connect();
    check(&mut old, "AUTH pr x", "+OK");
    check(&mut old, "SET mine 1", "+OK");
    check(&mut main, "SET k two", "+OK");
    check(&mut main, "DORMOUSE DELETE pr", "+OK");
    assert_eq!(old.read(), None);
    let mut new = served.connect();
    check(&mut new, "AUTH pr x", "-WRONGPASS there is no database 'pr'");
    check(&mut main, "DORMOUSE BRANCH pr", "+OK");
    check(&mut new, "AUTH pr x", "+OK");
    check(&mut new, "MGET k mine", "[\"two\" nil]");
    let requests = new.say("INFO dormouse").field("requests").parse::<u64>().expect("a number");
    assert!(requests < 10, "{requests} requests are those of the branch before");
    // One in between is deleted: what was made of it stays.
    check(&mut new, "DORMOUSE BRANCH pr-of-pr", "+OK");
    check(&mut main, "DORMOUSE DELETE pr", "+OK");
    let mut last = served.connect();
    check(&mut last, "AUTH pr-of-pr x", "+OK");
    check(&mut last, "GET k", "\"two\"");
    assert_eq!(names(&main.say("DORMOUSE DATABASES")), ["default", "pr-of-pr"]);
}

#[test]
fn a_branch_is_deleted_when_its_time_is_over() {
    let served = Served::start(&[]);
    let mut main = served.connect();
    check(&mut main, "SET k v", "+OK");
    check(&mut main, "DORMOUSE BRANCH short TTL 1", "+OK");
    check(&mut main, "DORMOUSE BRANCH long TTL 10000000", "+OK");
    main.say_until("DORMOUSE DATABASES", |databases| names(databases) == ["default", "long"]);
    check(&mut main, "DORMOUSE BRANCH short", "+OK");
    check(&mut main, "GET k", "\"v\"");
}

#[test]
fn a_branch_has_the_secrets_of_its_source() {
    let served = Served::start(&["--token", "dm_shop_s1", "--token", "hunter2", "--token", "dm_other_s3"]);
    let mut shop = served.connect_with("dm_shop_s1");
    check(&mut shop, "SET k shop", "+OK");
    check(&mut shop, "DORMOUSE BRANCH pr-1", "+OK");
    check(&mut served.connect_with("dm_pr-1_s1"), "DORMOUSE BRANCH pr-2", "+OK");
    check(&mut served.connect_with("hunter2"), "DORMOUSE BRANCH of-default", "+OK");
    check(&mut shop, "DORMOUSE DELETE pr-1", "+OK");
    // The branch of a branch that is gone still is one of the shop's.
    check(&mut served.connect_with("dm_pr-2_s1"), "GET k", "\"shop\"");
    check(&mut served.connect_with("dm_of-default_hunter2"), "GET k", "nil");
    let mut stranger = served.connect_without();
    for token in ["dm_pr-1_s1", "dm_pr-2_s3", "dm_pr-2_hunter2", "dm_pr-2_s", "dm_of-default_s1", "dm_shop_hunter2"] {
        check(&mut stranger, &format!("AUTH {token}"), WRONG);
    }
    check(&mut stranger, "AUTH pr-2 s1", WRONG);
    check(&mut stranger, "AUTH pr-2 dm_pr-2_s1", "+OK");
    check(&mut stranger, "GET k", "\"shop\"");
    assert_eq!(names(&served.connect_with("dm_other_s3").say("DORMOUSE DATABASES")), ["other"]);
    assert_eq!(names(&served.connect_with("hunter2").say("DORMOUSE DATABASES")), ["default", "of-default"]);
    check(&mut served.connect_with("dm_other_s3"), "DORMOUSE BRANCH shop", "-ERR a database of that name exists");
    let refused = "-ERR no branch of that name: DORMOUSE DATABASES shows those of this database";
    check(&mut served.connect_with("dm_other_s3"), "DORMOUSE DELETE pr-2", refused);
    // The server is shut down by whoever drops it, as the first token's database may not.
    let mut main = served.connect_with("hunter2");
    main.send(&["SHUTDOWN", "NOSAVE"]);
    served.ended().expect("it ends in order");
}

#[test]
fn a_token_may_wait_for_its_branch() {
    let served = Served::start(&["--token", "first", "--token", "dm_pr_own"]);
    let mut main = served.connect();
    check(&mut main, "SET k v", "+OK");
    let mut early = served.connect_with("dm_pr_own");
    check(&mut early, "PING", "+PONG");
    check(&mut main, "DORMOUSE BRANCH pr", "+OK");
    // It spoke to a database that nobody had written to.
    assert_eq!(early.read(), None);
    let mut branch = served.connect_with("dm_pr_own");
    check(&mut branch, "GET k", "\"v\"");
    check(&mut served.connect_with("dm_pr_first"), "GET k", "\"v\"");
}
