//! `DORMOUSE BRANCH`, `DATABASES` and `DELETE` over a socket, and the ways into a branch.

use crate::served::{ADMIN_TOKEN, Connection, Served, Value};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.";
const NO_BRANCH: &str = "-ERR no branch of that name: DORMOUSE DATABASES shows those of this database";
const TAKEN: &str = "-ERR a database of that name exists";

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
    check(&mut main, "DORMOUSE BRANCH pr-1", TAKEN);
    check(&mut main, "DORMOUSE BRANCH default.pr-1", TAKEN);

    let mut branch = served.connect();
    // A client that meant another database does not stay in this one.
    check(&mut branch, "AUTH default.pr-2 x", "-WRONGPASS there is no database 'default.pr-2'");
    check(&mut branch, "GET k", "-NOAUTH Authentication required.");
    check(&mut branch, "AUTH default.pr-1 whatever", "+OK");
    check(&mut branch, "SET k branch", "+OK");
    check(&mut main, "GET k", "\"main\"");
    check(&mut branch, "GET k", "\"branch\"");
    // The connection is in its initial state again.
    check(&mut branch, "RESET", "+RESET");
    check(&mut branch, "GET k", "\"main\"");
    assert_eq!(branch.say("HELLO 3 AUTH default.pr-1 x").at("proto").integer(), 3);
    check(&mut branch, "GET k", "\"branch\"");
    check(&mut branch, "MULTI", "+OK");
    check(&mut branch, "AUTH default x", "-ERR Command not allowed inside a transaction");
    check(&mut branch, "DISCARD", "+OK");
    check(&mut branch, "MULTI", "+OK");
    let twice = "HELLO 3 AUTH default.pr-1 x AUTH default x";
    check(&mut branch, twice, "-ERR Command not allowed inside a transaction");
    check(&mut branch, "DISCARD", "+OK");
    let info = branch.say("INFO dormouse");
    let fields = ["database", "source", "branches"].map(|name| info.field(name));
    assert_eq!(fields, ["default.pr-1", "default", "0"]);
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
    let served = Served::start(&["--token", "hunter2"]);
    let mut main = served.connect();
    check(&mut main, "SET k v", "+OK");
    check(&mut main, "DORMOUSE BRANCH a TTL 3600000", "+OK");
    let mut a = served.connect_with("dm_default.a_hunter2");
    // However deep, a branch is one of its owner's.
    check(&mut a, "DORMOUSE BRANCH b", "+OK");
    check(&mut a, "DORMOUSE SLEEP", "+OK");
    let databases = main.say("DORMOUSE DATABASES");
    assert_eq!(names(&databases), ["default", "default.a", "default.b"]);
    let of_a = &databases.items()[1];
    assert_eq!(of_a.at("source").text(), "default");
    assert_eq!(of_a.at("awake").integer(), 0);
    assert_eq!(of_a.at("keys").integer(), 1);
    assert_eq!(of_a.at("stored_bytes"), of_a.at("shared_bytes"));
    // The time counts from the command on, which is a little before the branch exists.
    let lives_ms = of_a.at("expires_ms").integer() - of_a.at("created_ms").integer();
    assert!((1..=3_600_000).contains(&lives_ms), "{lives_ms}");
    let of_b = &databases.items()[2];
    assert_eq!((of_b.at("source").text(), of_b.at("expires_ms")), ("default.a", &Value::Null));
    assert_eq!(names(&a.say("DORMOUSE DATABASES")), ["default.a", "default.b"]);
    let mut b = served.connect_with("dm_default.b_hunter2");
    assert_eq!(names(&b.say("DORMOUSE DATABASES")), ["default.b"]);
    check(&mut b, "DORMOUSE DELETE a", NO_BRANCH);
    check(&mut b, "DORMOUSE DELETE default", NO_BRANCH);
    check(&mut b, "DORMOUSE DELETE b", "-ERR a database cannot be deleted from within: connect to another one");
    check(&mut main, "DORMOUSE DELETE default", "-NOPERM only a branch can be deleted without the admin token");
    for (line, error) in [
        ("DORMOUSE BRANCH", "-ERR wrong number of arguments for 'dormouse|branch' command"),
        ("DORMOUSE BRANCH c TTL", "-ERR syntax error"),
        ("DORMOUSE BRANCH c TTL 0", "-ERR invalid expire time in 'dormouse|branch' command"),
        ("DORMOUSE BRANCH c TTL 9223372036854775807", "-ERR invalid expire time in 'dormouse|branch' command"),
        ("DORMOUSE BRANCH c PX 5", "-ERR syntax error"),
        ("DORMOUSE DELETE c", NO_BRANCH),
        (
            "DORMOUSE BRANCH shop.c",
            "-ERR `shop.c` is not a branch of `default`: branches of `default` are named default.BRANCH",
        ),
    ] {
        check(&mut main, line, error);
    }
    for (name, part) in [
        ("Bad_Name", "invalid database name `Bad_Name`"),
        ("default.", "invalid branch name `default.`"),
        (".c", "invalid branch name `.c`"),
        ("default.c.d", "invalid branch name `default.c.d`"),
        ("", "invalid database name ``"),
        (&"c".repeat(60), "together at most 63"),
    ] {
        let refused = main.run(&["DORMOUSE", "BRANCH", name]).to_string();
        assert!(refused.contains(part), "{name}: {refused}");
    }
}

#[test]
fn a_deleted_branch_is_gone_and_its_name_is_free() {
    let served = Served::start(&["--token", "dm_shop_s1"]);
    let mut main = served.connect();
    check(&mut main, "SET k one", "+OK");
    check(&mut main, "DORMOUSE BRANCH pr", "+OK");
    let mut old = served.connect_with("dm_shop.pr_s1");
    check(&mut old, "SET mine 1", "+OK");
    check(&mut main, "SET k two", "+OK");
    check(&mut main, "DORMOUSE DELETE pr", "+OK");
    assert_eq!(old.read(), None);
    let mut new = served.connect_without();
    check(&mut new, "AUTH dm_shop.pr_s1", WRONG);
    check(&mut main, "DORMOUSE BRANCH pr", "+OK");
    check(&mut new, "AUTH dm_shop.pr_s1", "+OK");
    check(&mut new, "MGET k mine", "[\"two\" nil]");
    let requests = new.say("INFO dormouse").field("requests").parse::<u64>().expect("a number");
    assert!(requests < 10, "{requests} requests are those of the branch before");
    // Deleting a branch in between keeps the branches made from it.
    check(&mut new, "DORMOUSE BRANCH pr-of-pr", "+OK");
    check(&mut main, "DORMOUSE DELETE shop.pr", "+OK");
    check(&mut served.connect_with("dm_shop.pr-of-pr_s1"), "GET k", "\"two\"");
    assert_eq!(names(&main.say("DORMOUSE DATABASES")), ["shop", "shop.pr-of-pr"]);
}

#[test]
fn a_branch_is_deleted_when_its_time_is_over() {
    let served = Served::start(&[]);
    let mut main = served.connect();
    check(&mut main, "SET k v", "+OK");
    check(&mut main, "DORMOUSE BRANCH short TTL 1", "+OK");
    check(&mut main, "DORMOUSE BRANCH long TTL 10000000", "+OK");
    main.say_until("DORMOUSE DATABASES", |databases| names(databases) == ["default", "default.long"]);
    check(&mut main, "DORMOUSE BRANCH short", "+OK");
    check(&mut main, "GET k", "\"v\"");
}

/// Clients enter a branch that is repeatedly made and deleted: none is ever left in a deleted one.
#[test]
fn no_client_stays_in_a_branch_that_is_gone() {
    let served = Served::start(&[]);
    let mut main = served.connect();
    check(&mut main, "SET k v", "+OK");
    std::thread::scope(|scope| {
        let enters = |_| {
            scope.spawn(|| {
                for _ in 0..40 {
                    let mut client = served.connect_without();
                    client.write(b"AUTH default.pr x\r\nGET k\r\n");
                    if client.read().is_some_and(|reply| reply == Value::Simple("OK".to_string())) {
                        // The branch replied, or the client was disconnected, or refused just before.
                        let reply = client.read().map_or_else(String::new, |reply| reply.to_string());
                        let possible = ["", "\"v\"", "-ERR the database 'default.pr' was deleted"];
                        assert!(possible.contains(&reply.as_str()), "{reply}");
                        assert_eq!(client.read(), None);
                    }
                }
            })
        };
        let clients: Vec<_> = (0..3).map(enters).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            check(&mut main, "DORMOUSE BRANCH pr", "+OK");
            check(&mut main, "DORMOUSE DELETE pr", "+OK");
        }
    });
    check(&mut main, "DORMOUSE DELETE pr", NO_BRANCH);
}

/// If many clients make the same branch at once, one succeeds. Different owners do not conflict.
#[test]
fn a_branch_is_made_once() {
    let served = Served::start(&["--token", "dm_shop_s1", "--token", "dm_blog_s2"]);
    let mut owners = [served.connect_with("dm_shop_s1"), served.connect_with("dm_blog_s2")];
    for owner in &mut owners {
        check(owner, "SET k v", "+OK");
    }
    for round in 0..5 {
        let name = format!("pr-{round}");
        let mut makers: Vec<_> =
            ["dm_shop_s1", "dm_blog_s2"].repeat(3).into_iter().map(|t| served.connect_with(t)).collect();
        makers.iter_mut().for_each(|maker| maker.send(&["DORMOUSE", "BRANCH", &name]));
        let replies: Vec<String> = makers.iter_mut().map(|maker| maker.read().unwrap().to_string()).collect();
        for owner in 0..2 {
            let made = replies.iter().skip(owner).step_by(2).filter(|reply| *reply == "+OK").count();
            assert_eq!(made, 1, "{replies:?}");
        }
    }
}

#[test]
fn a_branch_has_the_secrets_of_its_owner() {
    let tokens = ["--token", "dm_shop_s1", "--token", "hunter2", "--token", "dm_other_s3", "--token", "dm_twin_s1"];
    let served = Served::start(&tokens);
    let mut shop = served.connect_with("dm_shop_s1");
    check(&mut shop, "SET k shop", "+OK");
    check(&mut shop, "DORMOUSE BRANCH pr-1", "+OK");
    check(&mut served.connect_with("dm_shop.pr-1_s1"), "DORMOUSE BRANCH pr-2", "+OK");
    check(&mut served.connect_with("hunter2"), "DORMOUSE BRANCH of-default", "+OK");
    check(&mut shop, "DORMOUSE DELETE pr-1", "+OK");
    // A branch of a deleted branch still belongs to the shop.
    check(&mut served.connect_with("dm_shop.pr-2_s1"), "GET k", "\"shop\"");
    check(&mut served.connect_with("dm_default.of-default_hunter2"), "GET k", "nil");
    for token in ["dm_shop.pr-1_s1", "dm_shop.pr-2_s3", "dm_shop.pr-2_hunter2"] {
        check(&mut served.connect_without(), &format!("AUTH {token}"), WRONG);
    }
    for token in ["dm_shop.pr-2_s", "dm_shop.pr-2_", "dm_default.of-default_s1", "dm_shop_hunter2"] {
        check(&mut served.connect_without(), &format!("AUTH {token}"), WRONG);
    }
    // A secret that two databases share opens the branches of each only by that database's name.
    for token in ["dm_twin.pr-2_s1", "dm_pr-2_s1", "dm_shop.pr-2.x_s1", "dm_.pr-2_s1", "dm_shop.._s1"] {
        check(&mut served.connect_without(), &format!("AUTH {token}"), WRONG);
    }
    for (user, token) in [
        ("pr-2", "dm_shop_s1"),
        ("shop.pr-2", "dm_twin_s1"),
        ("shop.pr-2", "s1"),
        ("default.of-default", "dm_shop_s1"),
        ("other", "dm_shop_s1"),
        ("shop.other", "dm_shop_s1"),
    ] {
        check(&mut served.connect_without(), &format!("AUTH {user} {token}"), WRONG);
    }
    for (user, token) in [
        ("shop.pr-2", "dm_shop.pr-2_s1"),
        ("default", "dm_shop.pr-2_s1"),
        // The token of the owner, behind the name of the branch.
        ("shop.pr-2", "dm_shop_s1"),
    ] {
        let mut client = served.connect_without();
        check(&mut client, &format!("AUTH {user} {token}"), "+OK");
        assert_eq!(client.say("INFO dormouse").field("database"), "shop.pr-2");
    }
    check(&mut served.connect_without(), "HELLO 2 AUTH shop.pr-2 dm_twin_s1", WRONG);
    let mut client = served.connect_without();
    client.say("HELLO 2 AUTH shop.pr-2 dm_shop_s1");
    check(&mut client, "GET k", "\"shop\"");
    assert_eq!(names(&served.connect_with("dm_other_s3").say("DORMOUSE DATABASES")), ["other"]);
    assert_eq!(names(&served.connect_with("dm_twin_s1").say("DORMOUSE DATABASES")), ["twin"]);
    assert_eq!(names(&served.connect_with("hunter2").say("DORMOUSE DATABASES")), ["default", "default.of-default"]);
    for line in ["DORMOUSE DELETE pr-2", "DORMOUSE DELETE shop.pr-2", "DORMOUSE DELETE shop"] {
        check(&mut served.connect_with("dm_other_s3"), line, NO_BRANCH);
    }
}

/// A tenant can never make anything under a name that another token opens, now or later.
#[test]
fn no_tenant_takes_the_name_of_another() {
    let tokens = ["--token", "dm_b_bsecret", "--token", "dm_c_csecret", "--token", "dm_default_dsecret"];
    let served = Served::start(&tokens);
    let mut b = served.connect_with("dm_b_bsecret");
    check(&mut b, "SET k of-b", "+OK");
    // Neither `c` nor `default` has ever been written to.
    for name in ["c", "default", "b", "admin"] {
        check(&mut b, &format!("DORMOUSE BRANCH {name}"), "+OK");
    }
    assert_eq!(names(&b.say("DORMOUSE DATABASES")), ["b", "b.admin", "b.b", "b.c", "b.default"]);
    for line in [
        "AUTH dm_c_bsecret",
        "AUTH dm_default_bsecret",
        "AUTH bsecret",
        "AUTH admin dm_b_bsecret",
        "AUTH c dm_b_bsecret",
    ] {
        check(&mut served.connect_without(), line, WRONG);
    }
    let mut c = served.connect_with("dm_c_csecret");
    check(&mut c, "GET k", "nil");
    check(&mut c, "DORMOUSE BRANCH c", "+OK");
    check(&mut c, "SET k of-c", "+OK");
    check(&mut b, "DORMOUSE DELETE c", "+OK");
    check(&mut c, "GET k", "\"of-c\"");
    assert_eq!(names(&c.say("DORMOUSE DATABASES")), ["c", "c.c"]);
    // The name of a database gives no rights to the server.
    for token in ["dm_default_dsecret", "dm_b.default_bsecret", "dm_b.admin_bsecret"] {
        let mut client = served.connect_with(token);
        check(&mut client, "SHUTDOWN NOSAVE", "-NOPERM SHUTDOWN needs the admin token: AUTH admin TOKEN");
        assert!(client.say("CONFIG SET timeout 1").text().contains("can't set protected config"));
        check(&mut client, "DORMOUSE DELETE c", NO_BRANCH);
    }
}

#[test]
fn rights_to_the_node_come_with_the_admin_token() {
    let served = Served::start(&["--token", "dm_shop_s1", "--token", "dm_admin_s2"]);
    let mut shop = served.connect();
    check(&mut shop, "SET k shop", "+OK");
    check(&mut shop, "DORMOUSE BRANCH pr", "+OK");
    for line in [
        format!("AUTH {ADMIN_TOKEN}"),
        format!("AUTH default.pr {ADMIN_TOKEN}"),
        format!("AUTH nothing {ADMIN_TOKEN}"),
        format!("AUTH dm_shop_{ADMIN_TOKEN}"),
        "AUTH admin the-admin-toke".to_string(),
        "AUTH admin the-admin-token1".to_string(),
    ] {
        check(&mut served.connect_without(), &line, WRONG);
    }
    // A database may be called `admin`: its token opens it, and no more.
    let mut named_admin = served.connect_with("dm_admin_s2");
    check(&mut named_admin, "AUTH admin dm_admin_s2", "+OK");
    assert_eq!(named_admin.say("INFO dormouse").field("database"), "admin");
    assert!(named_admin.say("SHUTDOWN").text().starts_with("NOPERM"));

    let mut admin = served.connect_as_admin();
    check(&mut admin, "ACL WHOAMI", "\"default\"");
    assert_eq!(names(&admin.say("DORMOUSE DATABASES")), ["admin", "default", "shop", "shop.pr"]);
    check(&mut admin, "CONFIG SET timeout 5000", "+OK");
    let error = "-ERR a token opens this database: restart the server without that token, then delete the database";
    check(&mut admin, "DORMOUSE DELETE shop", error);
    check(&mut admin, "DORMOUSE DELETE shop.pr", "+OK");
    check(&mut admin, "DORMOUSE DELETE default", "-ERR the database `default` cannot be deleted");
    // The admin token opens every database by its name.
    check(&mut admin, &format!("AUTH shop {ADMIN_TOKEN}"), "+OK");
    check(&mut admin, "GET k", "\"shop\"");
    check(&mut admin, "DORMOUSE DELETE default", "-ERR the database `default` cannot be deleted");
    // Rights end with the identity.
    check(&mut admin, "AUTH dm_shop_s1", "+OK");
    assert!(admin.say("SHUTDOWN").text().starts_with("NOPERM"));
    check(&mut admin, &format!("AUTH admin {ADMIN_TOKEN}"), "+OK");
    check(&mut admin, "RESET", "+RESET");
    check(&mut admin, "SHUTDOWN", "-NOAUTH Authentication required.");
    check(&mut admin, "AUTH dm_shop_s1", "+OK");
    assert!(admin.say("SHUTDOWN").text().starts_with("NOPERM"));
    let mut admin = served.connect_as_admin();
    admin.send(&["SHUTDOWN", "NOSAVE"]);
    served.ended().expect("it ends in order");
}

/// A token of one branch opens nothing else, and takes no names from its owner.
#[test]
fn a_token_may_open_one_branch() {
    let served = Served::start(&["--token", "dm_shop_first", "--token", "dm_shop.pr_own"]);
    let mut main = served.connect();
    check(&mut main, "SET k v", "+OK");
    check(&mut served.connect_without(), "AUTH dm_shop.pr_own", WRONG);
    check(&mut main, "DORMOUSE BRANCH pr", "+OK");
    check(&mut main, "DORMOUSE BRANCH other", "+OK");
    let mut branch = served.connect_with("dm_shop.pr_own");
    check(&mut branch, "GET k", "\"v\"");
    check(&mut branch, "AUTH shop.pr dm_shop.pr_own", "+OK");
    let refused = "-NOPERM this token opens one branch: it can neither make nor delete branches";
    for line in ["DORMOUSE BRANCH x", "DORMOUSE DELETE pr", "DORMOUSE DELETE other", "DORMOUSE DELETE shop"] {
        check(&mut branch, line, refused);
    }
    assert_eq!(names(&branch.say("DORMOUSE DATABASES")), ["shop.pr"]);
    for line in [
        "AUTH dm_shop_own",
        "AUTH dm_shop.other_own",
        "AUTH shop dm_shop.pr_own",
        "AUTH shop.other dm_shop.pr_own",
        "AUTH shop.pr own",
    ] {
        check(&mut served.connect_without(), line, WRONG);
    }
    check(&mut served.connect_with("dm_shop.pr_first"), "DORMOUSE BRANCH of-pr", "+OK");
}
