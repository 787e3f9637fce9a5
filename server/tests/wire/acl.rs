//! Users of databases: who enters where, what each may do, and when changes are in force.

use crate::served::{ADMIN_TOKEN, Connection, Served};

const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.";
const STRANGE: &str = "-NOAUTH Authentication required.";

#[track_caller]
fn check(connection: &mut Connection, line: &str, reply: &str) {
    assert_eq!(connection.say(line).to_string(), reply, "{line}");
}

fn no_command(user: &str, command: &str) -> String {
    format!("-NOPERM User {user} has no permissions to run the '{command}' command")
}

const NO_KEY: &str = "-NOPERM No permissions to access a key";
const NO_CHANNEL: &str = "-NOPERM No permissions to access a channel";

#[test]
fn without_tokens_the_server_is_redis() {
    let served = Served::start(&[]);
    let mut first = served.connect();
    check(&mut first, "ACL LIST", "[\"user default on nopass sanitize-payload ~* &* +@all\"]");
    check(&mut first, "ACL USERS", "[\"default\"]");
    check(&mut first, "ACL WHOAMI", "\"default\"");
    check(
        &mut first,
        "AUTH x",
        "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
    );
    check(&mut first, "AUTH default anything", "+OK");
    check(&mut first, "ACL SETUSER app >s3cret ~app:* +@all", "+OK");
    check(&mut first, "AUTH app s3cret", WRONG);
    check(&mut first, "PING", "+PONG");
    check(&mut first, "ACL SETUSER app on", "+OK");
    check(&mut first, "AUTH app wrong", WRONG);
    let mut app = served.connect();
    check(&mut app, "AUTH app s3cret", "+OK");
    check(&mut app, "ACL WHOAMI", "\"app\"");
    check(&mut app, "SET app:1 v", "+OK");
    check(&mut app, "SET other v", NO_KEY);
    assert!(app.say("CLIENT LIST").text().contains(" user=app "));
    // Its rights end at its database, whatever its rules are.
    assert!(app.say("SHUTDOWN").text().starts_with("NOPERM"));
    check(&mut app, "RESET", "+RESET");
    check(&mut app, "ACL WHOAMI", "\"default\"");
    // A password for `default` shuts new connections out, and leaves the others where they are.
    check(&mut first, "ACL SETUSER default >pw", "+OK");
    check(&mut first, "PING", "+PONG");
    let mut stranger = served.connect();
    check(&mut stranger, "PING", STRANGE);
    check(&mut stranger, "ACL WHOAMI", STRANGE);
    check(&mut stranger, "AUTH nope", WRONG);
    check(&mut stranger, "AUTH pw", "+OK");
    check(&mut stranger, "AUTH default pw", "+OK");
    check(&mut stranger, "ACL SETUSER default off", "+OK");
    check(&mut served.connect(), "AUTH pw", WRONG);
    check(&mut app, "RESET", "+RESET");
    check(&mut app, "PING", STRANGE);
    check(&mut stranger, "ACL SETUSER default on nopass", "+OK");
    check(&mut served.connect(), "PING", "+PONG");
}

/// Databases without tokens have users too.
#[test]
fn a_name_leads_to_a_database_only_as_its_default_user() {
    let served = Served::start(&[]);
    let mut first = served.connect();
    check(&mut first, "DORMOUSE BRANCH pr", "+OK");
    let mut branch = served.connect();
    check(&mut branch, "AUTH default.pr x", "+OK");
    check(&mut branch, "ACL SETUSER app on >b +@all ~*", "+OK");
    check(&mut branch, "SET where branch", "+OK");
    check(&mut first, "AUTH app b", "-WRONGPASS there is no database 'app'");
    let mut app = served.connect();
    check(&mut app, "AUTH app dm_default.pr_b", "+OK");
    check(&mut app, "GET where", "\"branch\"");
    check(&mut app, "ACL WHOAMI", "\"app\"");
    check(&mut branch, "ACL SETUSER default resetpass >pw", "+OK");
    let mut other = served.connect();
    check(&mut other, "AUTH default.pr x", WRONG);
    check(&mut other, "AUTH default.pr pw", "+OK");
    check(&mut other, "GET where", "\"branch\"");
    check(&mut branch, "ACL SETUSER default nopass", "+OK");
}

#[test]
fn a_secret_names_the_database_of_a_user() {
    let served = Served::start(&[
        "--token",
        "root",
        "--token",
        "dm_shop_s1",
        "--token",
        "dm_blog_b1",
        "--token",
        "dm_shop.pr_own",
    ]);
    let mut shop = served.connect_with("dm_shop_s1");
    let mut blog = served.connect_with("dm_blog_b1");
    check(&mut shop, "ACL WHOAMI", "\"default\"");
    check(&mut shop, "SET where shop", "+OK");
    check(&mut blog, "SET where blog", "+OK");
    check(&mut shop, "ACL SETUSER app on >pw ~* &* +@all", "+OK");
    check(&mut shop, "ACL SETUSER free on nopass ~* +get +acl|whoami", "+OK");
    check(&mut shop, "ACL SETUSER blog on >pw ~* +@all", "+OK");
    check(&mut served.connect_with("root"), "ACL SETUSER app on >rootpw ~* +@all", "+OK");
    check(&mut blog, "ACL USERS", "[\"default\"]");
    let enter = |name: &str, secret: &str| {
        let mut connection = served.connect_without();
        let reply = connection.run(&["AUTH", name, secret]).to_string();
        (reply == "+OK").then(|| {
            let place = connection.say("GET where").to_string();
            let user = connection.say("ACL WHOAMI").text().to_string();
            (place, user)
        })
    };
    let entered = |place: &str, user: &str| Some((place.to_string(), user.to_string()));
    // Guesses are held back longer with each; few of these are wrong, and each is on a connection of its own.
    for (name, secret, expected) in [
        ("app", "dm_shop_pw", entered("\"shop\"", "app")),
        ("blog", "dm_shop_pw", entered("\"shop\"", "blog")),
        ("free", "dm_shop_s1", entered("\"shop\"", "free")),
        ("default", "dm_shop_s1", entered("\"shop\"", "default")),
        ("shop", "dm_shop_s1", entered("\"shop\"", "default")),
        ("app", "rootpw", entered("nil", "app")),
        // A password opens nothing in another database, and a token nothing as a user with a password.
        ("app", "dm_blog_pw", None),
        ("app", "pw", None),
        ("app", "dm_shop_s1", None),
        ("app", "dm_blog_b1", None),
        ("app", "dm_shop_rootpw", None),
        ("blog", "dm_blog_pw", None),
        ("free", "dm_shop_anything", None),
        ("free", "anything", None),
        ("free", "dm_blog_b1", None),
        // `default` is nopass everywhere.
        ("default", "dm_shop_anything", None),
        ("default", "dm_default_anything", None),
        ("default", "anything", None),
        ("", "dm_blog_", None),
        ("app", "dm_nowhere_pw", None),
        ("app", "dm_shop.pr_pw", None),
        ("nobody", "dm_shop_pw", None),
    ] {
        assert_eq!(enter(name, secret), expected, "AUTH {name} {secret}");
    }
}

/// Whatever the rules of a user say, it is in one database, without rights to others and to the node.
#[test]
fn no_user_reaches_another_database_or_the_node() {
    let served = Served::start(&["--token", "dm_shop_s1", "--token", "dm_blog_b1"]);
    let mut shop = served.connect_with("dm_shop_s1");
    check(&mut shop, "DORMOUSE BRANCH pr", "+OK");
    check(&mut shop, "ACL SETUSER all on >pw ~* &* +@all", "+OK");
    let mut user = served.connect_without();
    check(&mut user, "AUTH all dm_shop_pw", "+OK");
    for line in [
        "SHUTDOWN",
        "CONFIG SET timeout 5",
        "DORMOUSE BRANCH other",
        "DORMOUSE DELETE pr",
        "DORMOUSE DELETE shop.pr",
        "AUTH shop.pr dm_shop_pw",
        "AUTH blog dm_shop_pw",
        "AUTH blog dm_blog_pw",
        "AUTH admin dm_shop_pw",
        "AUTH all dm_shop.pr_pw",
    ] {
        assert!(user.say(line).to_string().starts_with('-'), "{line}");
    }
    let databases = user.say("DORMOUSE DATABASES").to_string();
    assert!(!databases.contains("blog"), "{databases}");
    assert_eq!(user.say("CLIENT LIST").text().lines().count(), 2);
    check(&mut user, "CONFIG SET maxmemory 5mb", "+OK");
    // The operator is not subject to a tenant's rules, and can undo them.
    check(&mut shop, "ACL SETUSER default off -@all", "+OK");
    check(&mut shop, "GET k", &no_command("default", "get"));
    check(&mut served.connect_without(), "AUTH dm_shop_s1", WRONG);
    let mut operator = served.connect_without();
    check(&mut operator, &format!("AUTH shop {ADMIN_TOKEN}"), "+OK");
    check(&mut operator, "SET k v", "+OK");
    assert_eq!(user.say("CLIENT KILL USER default SKIPME no").integer(), 1);
    assert_eq!(shop.read(), None);
    check(&mut operator, "ACL SETUSER default on +@all", "+OK");
    check(&mut served.connect_with("dm_shop_s1"), "GET k", "\"v\"");
}

/// A branch begins with its source's users, and goes its own way from there.
#[test]
fn a_branch_copies_the_users_of_its_source() {
    let served = Served::start(&["--token", "dm_shop_s1"]);
    let mut shop = served.connect_with("dm_shop_s1");
    check(&mut shop, "SET k v", "+OK");
    check(&mut shop, "ACL SETUSER app on >pw ~* +get", "+OK");
    check(&mut shop, "DORMOUSE BRANCH pr", "+OK");
    check(&mut shop, "ACL SETUSER app >later +set", "+OK");
    check(&mut shop, "ACL SETUSER second on >pw", "+OK");
    let mut branch = served.connect_without();
    check(&mut branch, "AUTH app dm_shop.pr_pw", "+OK");
    check(&mut branch, "GET k", "\"v\"");
    check(&mut branch, "SET k w", &no_command("app", "set"));
    check(&mut served.connect_without(), "AUTH app dm_shop.pr_later", WRONG);
    check(&mut served.connect_without(), "AUTH second dm_shop.pr_pw", WRONG);
    check(&mut served.connect_without(), "AUTH app dm_shop_later", "+OK");
    // What is changed in the branch changes nothing in its source.
    let mut owner = served.connect_with("dm_shop.pr_s1");
    assert_eq!(owner.say("ACL DELUSER app").integer(), 1);
    assert_eq!(branch.read(), None);
    check(&mut served.connect_without(), "AUTH app dm_shop_pw", "+OK");
}

#[test]
fn rules_are_enforced_on_every_way() {
    let served = Served::start(&[]);
    let mut admin = served.connect();
    check(&mut admin, "ACL SETUSER app on >pw ~app:* %R~shared:* &app:* +@all -@dangerous -incr db=0,3", "+OK");
    check(&mut admin, "MSET shared:a 1 other 2", "+OK");
    let mut app = served.connect();
    check(&mut app, "HELLO 2 AUTH app nope", WRONG);
    assert!(app.say("HELLO 2 AUTH app pw").at("proto").integer() == 2);
    for (line, reply) in [
        ("SET app:1 v", "+OK"),
        ("GET shared:a", "\"1\""),
        ("SET shared:a 2", NO_KEY),
        ("GET other", NO_KEY),
        ("MGET app:1 other", NO_KEY),
        ("COPY shared:a app:2", ":1"),
        ("COPY app:2 shared:b", NO_KEY),
        ("INCR app:2", &no_command("app", "incr")),
        ("KEYS *", &no_command("app", "keys")),
        ("CONFIG GET port", &no_command("app", "config|get")),
        ("NOPE", "-ERR unknown command 'NOPE', with args beginning with: "),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("PUBLISH app:c m", ":0"),
        ("PUBLISH c m", NO_CHANNEL),
        ("SUBSCRIBE c", NO_CHANNEL),
        ("SORT app:l BY w_*", &no_command("app", "sort")),
        ("SORT_RO app:l BY w_*", &no_command("app", "sort_ro")),
        ("SELECT 1", "-NOPERM No permissions to access database"),
        ("COPY app:2 app:2 DB 1", "-NOPERM No permissions to access database"),
        ("SELECT 3", "+OK"),
        ("SET app:1 three", "+OK"),
        ("SELECT 0", "+OK"),
        ("WATCH other", NO_KEY),
        ("WATCH app:1", "+OK"),
        ("UNWATCH", "+OK"),
    ] {
        check(&mut app, line, reply);
    }
    // In a pipeline, some of it on the fast path.
    let mut pipeline = String::new();
    let mut expected = Vec::new();
    for n in 0..300 {
        let (line, reply) = match n % 5 {
            0 => ("INCR app:2".to_string(), no_command("app", "incr")),
            1 => ("GET other".to_string(), NO_KEY.to_string()),
            2 => (format!("SET app:{n} v"), "+OK".to_string()),
            3 => ("PUBLISH c m".to_string(), NO_CHANNEL.to_string()),
            _ => ("GET app:1".to_string(), "\"v\"".to_string()),
        };
        pipeline += &format!("{line}\r\n");
        expected.push(reply);
    }
    app.write(pipeline.as_bytes());
    for reply in expected {
        assert_eq!(app.read().unwrap().to_string(), reply);
    }
    // A large request is checked elsewhere.
    let many: Vec<String> = (0..20_000).map(|n| format!("app:{n}")).collect();
    let mut words: Vec<&str> = std::iter::once("EXISTS").chain(many.iter().map(String::as_str)).collect();
    assert!(app.run(&words).integer() > 0);
    words.push("other");
    assert_eq!(app.run(&words).to_string(), NO_KEY);
}

#[test]
fn transactions_are_checked_twice() {
    let served = Served::start(&[]);
    let (mut admin, mut app) = (served.connect(), served.connect());
    check(&mut admin, "ACL SETUSER app on >pw ~* &* +@all", "+OK");
    check(&mut app, "AUTH app pw", "+OK");
    check(&mut admin, "ACL SETUSER app -get", "+OK");
    for (line, reply) in [
        ("MULTI", "+OK"),
        ("SET a 1", "+QUEUED"),
        ("GET a", &no_command("app", "get")),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
        ("MULTI", "+OK"),
        ("SET a 1", "+QUEUED"),
        ("INCR a", "+QUEUED"),
        ("PUBLISH c m", "+QUEUED"),
        ("STRLEN a", "+QUEUED"),
    ] {
        check(&mut app, line, reply);
    }
    check(&mut admin, "ACL SETUSER app -incr resetchannels resetkeys ~a", "+OK");
    let changed = "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no longer allowed for the following reason: ";
    check(
        &mut app,
        "EXEC",
        &format!(
            "[+OK -{changed}no permission to execute the command or subcommand \
             -{changed}no permission to access one of the channels used as arguments :1]"
        ),
    );
    check(&mut app, "MULTI", "+OK");
    check(&mut app, "SET a 2", "+QUEUED");
    check(&mut admin, "ACL SETUSER app -exec resetkeys", "+OK");
    check(
        &mut app,
        "EXEC",
        "-EXECABORT Transaction discarded because of: NOPERM User app has no permissions to run the 'exec' command",
    );
    check(&mut admin, "ACL SETUSER app +exec ~b", "+OK");
    check(&mut app, "MULTI", "+OK");
    check(&mut app, "ACL WHOAMI", "+QUEUED");
    check(&mut app, "ACL SETUSER app +get", "+QUEUED");
    check(&mut app, "ACL GETUSER nobody", "+QUEUED");
    check(&mut app, "EXEC", "[\"app\" +OK nil]");
    check(&mut app, "GET b", "nil");
    let contexts: Vec<String> =
        admin.say("ACL LOG").items().iter().map(|entry| entry.at("context").text().to_string()).collect();
    assert!(contexts.iter().any(|context| context == "multi"), "{contexts:?}");
}

/// A script may do what its caller may do.
#[test]
fn scripts_run_on_behalf_of_their_user() {
    let served = Served::start(&[]);
    let (mut admin, mut app) = (served.connect(), served.connect());
    check(&mut admin, "ACL SETUSER app on >pw ~a* resetchannels &c +@all -incr", "+OK");
    check(&mut admin, "SET b secret", "+OK");
    check(&mut app, "AUTH app pw", "+OK");
    let denied = |reply: &str, text: &str| {
        assert!(reply.starts_with("-ERR ACL failure in script: ") && reply.contains(text), "{reply}");
    };
    let eval =
        |connection: &mut Connection, script: &str, key: &str| connection.run(&["EVAL", script, "1", key]).to_string();
    // Plain scripts, which run on a worker for others, and others.
    for script in [
        "return redis.call('get', KEYS[1])",
        "for n = 1, 2 do redis.call('ping') end return redis.call('get', KEYS[1])",
    ] {
        assert_eq!(eval(&mut app, script, "a"), "nil");
        assert_eq!(eval(&mut app, script, "b"), NO_KEY);
    }
    denied(&eval(&mut app, "return redis.call('get', 'b')", "a"), "No permissions to access a key");
    denied(&eval(&mut app, "return redis.call('incr', KEYS[1])", "a"), "User app has no permissions to run the 'incr'");
    denied(&eval(&mut app, "return redis.call('publish', 'd', 'm')", "a"), "No permissions to access a channel");
    assert_eq!(eval(&mut app, "return redis.pcall('get', 'b')['err'] ~= nil", "a"), ":1");
    assert_eq!(eval(&mut app, "return redis.acl_check_cmd('get', 'b')", "a"), "nil");
    assert_eq!(eval(&mut app, "return redis.acl_check_cmd('get', 'a')", "a"), ":1");
    assert_eq!(eval(&mut admin, "return redis.call('get', 'b')", "a"), "\"secret\"");
    check(&mut app, "MULTI", "+OK");
    assert_eq!(eval(&mut app, "return redis.call('get', 'b')", "a"), "+QUEUED");
    denied(&app.say("EXEC").items()[0].to_string(), "No permissions to access a key");
    let log = admin.say("ACL LOG");
    assert!(log.items().iter().any(|entry| entry.at("context").text() == "lua" && entry.at("object").text() == "b"));
}

#[test]
fn a_user_that_goes_takes_its_connections_along() {
    let served = Served::start(&[]);
    let mut admin = served.connect();
    check(&mut admin, "ACL SETUSER a on nopass ~* &* +@all", "+OK");
    check(&mut admin, "ACL SETUSER b on nopass ~* &* +@all", "+OK");
    check(&mut admin, "ACL DELUSER default", "-ERR The 'default' user cannot be removed");
    let mut connections: Vec<Connection> = (0..3).map(|_| served.connect()).collect();
    for (connection, name) in connections.iter_mut().zip(["a", "a", "b"]) {
        check(connection, &format!("AUTH {name} x"), "+OK");
    }
    assert_eq!(connections[0].say("ACL DELUSER a nobody").integer(), 1);
    assert_eq!(connections[0].read(), None);
    assert_eq!(connections[1].read(), None);
    check(&mut connections[2], "PING", "+PONG");
    // Another user of that name is another user.
    check(&mut admin, "ACL SETUSER a on nopass ~* &* +@all", "+OK");
    check(&mut served.connect(), "AUTH a x", "+OK");
}

#[test]
fn a_subscriber_that_may_listen_no_more_is_closed() {
    let served = Served::start(&[]);
    let mut admin = served.connect();
    check(&mut admin, "ACL SETUSER a on nopass resetchannels &news* &x +@all", "+OK");
    let mut subscribers: Vec<Connection> = (0..4).map(|_| served.connect()).collect();
    for (connection, line) in subscribers.iter_mut().zip(["SUBSCRIBE news1", "PSUBSCRIBE news*", "SUBSCRIBE x", "PING"])
    {
        check(connection, "AUTH a x", "+OK");
        connection.say(line);
    }
    check(&mut admin, "ACL SETUSER a &more", "+OK");
    assert_eq!(admin.say("PUBLISH news1 m").integer(), 2);
    check(&mut admin, "ACL SETUSER a resetchannels &news1 &x", "+OK");
    assert_eq!(admin.say("PUBLISH news1 m").integer(), 1);
    assert_eq!(subscribers[1].read().unwrap().to_string(), "[\"pmessage\" \"news*\" \"news1\" \"m\"]");
    assert_eq!(subscribers[1].read(), None);
    check(&mut subscribers[3], "ACL SETUSER a resetchannels", "+OK");
    for gone in [0, 2] {
        while subscribers[gone].read().is_some() {}
    }
    check(&mut subscribers[3], "PING", "+PONG");
}

#[test]
fn denials_are_logged() {
    let served = Served::start(&["--token", "dm_shop_s1", "--token", "dm_blog_b1"]);
    let mut admin = served.connect_with("dm_shop_s1");
    check(&mut admin, "ACL SETUSER app on >pw ~a &c +get +publish +acl|log", "+OK");
    let mut app = served.connect_without();
    check(&mut app, "AUTH app dm_shop_no", WRONG);
    check(&mut app, "AUTH app dm_shop_pw", "+OK");
    check(&mut app, "GET b", NO_KEY);
    check(&mut app, "GET b", NO_KEY);
    check(&mut app, "SET a b", &no_command("app", "set"));
    check(&mut app, "PUBLISH d m", NO_CHANNEL);
    let log = admin.say("ACL LOG");
    let shown: Vec<String> = log
        .items()
        .iter()
        .map(|entry| {
            let texts = ["reason", "context", "object", "username"].map(|name| entry.at(name).text());
            format!("{} {}", entry.at("count").integer(), texts.join(" "))
        })
        .collect();
    assert_eq!(
        shown,
        ["1 channel toplevel d app", "1 command toplevel set app", "2 key toplevel b app", "1 auth toplevel AUTH app"]
    );
    let names: Vec<&str> = log.items()[0].items().chunks_exact(2).map(|pair| pair[0].text()).collect();
    assert_eq!(
        names,
        [
            "count",
            "reason",
            "context",
            "object",
            "username",
            "age-seconds",
            "client-info",
            "entry-id",
            "timestamp-created",
            "timestamp-last-updated"
        ]
    );
    assert!(log.items()[0].at("client-info").text().contains(" user=app "));
    assert_eq!(admin.say("ACL LOG 1").items().len(), 1);
    check(&mut admin, "ACL LOG -1", "[]");
    check(&mut admin, "ACL LOG x", "-ERR value is not an integer or out of range");
    check(&mut served.connect_with("dm_blog_b1"), "ACL LOG", "[]");
    let stats = admin.say("INFO stats");
    for (name, count) in [("auth", "1"), ("cmd", "1"), ("key", "2"), ("channel", "1")] {
        assert_eq!(stats.field(&format!("acl_access_denied_{name}")), count);
    }
    check(&mut admin, "CONFIG SET acllog-max-len 2", "+OK");
    assert_eq!(admin.say("ACL LOG").items().len(), 2);
    check(&mut admin, "ACL LOG RESET", "+OK");
    check(&mut admin, "ACL LOG", "[]");
}

#[test]
fn commands_answer_as_redis_does() {
    let served = Served::start(&[]);
    let mut client = served.connect();
    for (line, reply) in [
        ("ACL SETUSER", "-ERR wrong number of arguments for 'acl|setuser' command"),
        ("ACL SETUSER a\tb", "-ERR Usernames can't contain spaces or null characters"),
        ("ACL SETUSER a +nope", "-ERR Error in ACL SETUSER modifier '+nope': Unknown command or category name in ACL"),
        ("ACL SETUSER a (+get ~x", "-ERR Unmatched parenthesis in acl selector starting at '(+get'."),
        ("ACL SETUSER a on +get ~k (+set ~s)", "+OK"),
        (
            "ACL GETUSER a",
            "[\"flags\" [\"on\" \"sanitize-payload\"] \"passwords\" [] \"commands\" \"-@all +get\" \"keys\" \"~k\" \
             \"channels\" \"\" \"selectors\" [[\"commands\" \"-@all +set\" \"keys\" \"~s\" \"channels\" \"\"]]]",
        ),
        ("ACL SETUSER a db=2,1", "+OK"),
        (
            "ACL GETUSER a",
            "[\"flags\" [\"on\" \"sanitize-payload\"] \"passwords\" [] \"commands\" \"-@all +get\" \"keys\" \"~k\" \
             \"channels\" \"\" \"databases\" \"db=1,2\" \"selectors\" [[\"commands\" \"-@all +set\" \"keys\" \"~s\" \
             \"channels\" \"\"]]]",
        ),
        ("ACL GETUSER nobody", "nil"),
        ("ACL CAT nope", "-ERR Unknown category 'nope'"),
        ("ACL CAT a b", "-ERR unknown subcommand or wrong number of arguments for 'CAT'. Try ACL HELP."),
        (
            "ACL GENPASS 0",
            "-ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
        ),
        ("ACL GENPASS x", "-ERR value is not an integer or out of range"),
        ("ACL DRYRUN nobody get k", "-ERR User 'nobody' not found"),
        ("ACL DRYRUN a nope", "-ERR Command 'nope' not found"),
        ("ACL DRYRUN a config nope", "-ERR Command 'config' not found"),
        ("ACL DRYRUN a get", "-ERR wrong number of arguments for 'get' command"),
        ("ACL SETUSER a alldbs", "+OK"),
        ("ACL DRYRUN a get k", "+OK"),
        ("ACL DRYRUN a get l", "\"User a has no permissions to access the 'l' key\""),
        ("ACL DRYRUN a config get x", "\"User a has no permissions to run the 'config|get' command\""),
        ("ACL NOPE", "-ERR unknown subcommand 'NOPE'. Try ACL HELP."),
        ("CONFIG GET acllog-max-len", "[\"acllog-max-len\" \"128\"]"),
        ("CONFIG SET acl-pubsub-default resetchannels", "+OK"),
    ] {
        check(&mut client, line, reply);
    }
    for bits in ["", " 1", " 5", " 4096"] {
        let digits = bits.trim().parse::<usize>().unwrap_or(256).div_ceil(4);
        assert_eq!(client.say(&format!("ACL GENPASS{bits}")).text().len(), digits);
    }
    assert!(client.say("ACL SAVE").text().starts_with("ERR This Redis instance is not configured to use an ACL file."));
    // Those of Redis 7.0, and of arrays, documents and the two filters.
    assert_eq!(client.say("ACL CAT").items().len(), 21 + 4);
    assert!(client.say("ACL CAT geo").items().iter().any(|name| name.text() == "geoadd"));
    assert!(client.say("ACL HELP").items().len() > 10);
}

/// Many users, and large ones.
#[test]
fn users_are_bounded() {
    let served = Served::start(&[]);
    let mut client = served.connect();
    let rules: Vec<String> = (0..9000).map(|n| format!("~*{n}*")).collect();
    let words: Vec<&str> = ["ACL", "SETUSER", "a"].into_iter().chain(rules.iter().map(String::as_str)).collect();
    let refused = client.run(&words).to_string();
    assert_eq!(refused, "-ERR the users of a database may take at most 1048576 bytes");
    let rules: Vec<&str> = std::iter::repeat_n("+get", 10_001).collect();
    let words: Vec<&str> = ["ACL", "SETUSER", "a"].into_iter().chain(rules).collect();
    assert_eq!(client.run(&words).to_string(), "-ERR ACL SETUSER takes at most 10000 rules");
    check(&mut client, "ACL USERS", "[\"default\"]");
    let added = (0..5000).take_while(|n| client.say(&format!("ACL SETUSER user{n}")).to_string() == "+OK").count();
    assert!((500..5000).contains(&added), "{added}");
}
