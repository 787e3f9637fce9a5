//! A database on S3: a real server process, a real S3 server, and a network that fails between them.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use dormouse_client_tests::{
    Kind, Server, Settings,
    bucket::{Bucket, Network, Trouble},
    ports::free_port,
    resp::{Connection, Reply},
    server::{Remote, command_on, tool},
    wait_for,
};

/// Starts the S3 server. Returns nothing if it is missing, or if the server under test is not Dormouse.
fn bucket() -> Option<Bucket> {
    if Kind::under_test() == Kind::Dormouse { Bucket::start() } else { None }
}

fn ok() -> Reply {
    Reply::Line('+', "OK".into())
}

#[track_caller]
fn expect(connection: &mut Connection, line: &str, expected: &str) {
    assert_eq!(format!("{:?}", connection.run(line)), expected, "{line}");
}

/// Retries while the store is at fault, which the error must say clearly. Returns the number of faults.
#[track_caller]
fn at_last(connection: &mut Connection, line: &str) -> (Reply, usize) {
    for failed in 0..10 {
        match connection.run(line) {
            Reply::Line('-', text) => {
                let is_named = ["db/default/", "owner/"].iter().any(|object| text.contains(object));
                assert!(text.contains("cannot ") && is_named, "{line}: {text}");
            }
            reply => return (reply, failed),
        }
    }
    panic!("{line} fails again and again");
}

#[test]
fn a_database_lives_on_s3() {
    let Some(bucket) = bucket() else { return };
    let store = bucket.store("some/folder", bucket.port());
    let mut server = Server::start_on(&store);
    let mut connection = Connection::open(server.port());
    let large = "x".repeat(3 << 20);
    for n in 0..2000 {
        connection.run(&format!("SET key:{n} {n}"));
    }
    connection.run("RPUSH list a b c");
    connection.run("ZADD scores 1 a 2 b");
    connection.call(&["SET", "large", &large]);
    expect(&mut connection, "DORMOUSE CHECKPOINT", "+OK");
    let objects = bucket.objects("some/folder");
    assert!(objects.iter().any(|name| name.starts_with("db/default/manifest/")), "{objects:?}");
    assert!(objects.iter().any(|name| name.starts_with("db/default/chunk/")), "{objects:?}");
    assert_eq!(bucket.objects("").len(), objects.len(), "nothing lies outside its folder");

    let check = |connection: &mut Connection| {
        expect(connection, "DBSIZE", ":2003");
        for n in (0..2000).step_by(97) {
            expect(connection, &format!("GET key:{n}"), &format!("\"{n}\""));
        }
        expect(connection, "LRANGE list 0 -1", "*[\"a\", \"b\", \"c\"]");
        expect(connection, "ZSCORE scores b", "\"2\"");
        expect(connection, "STRLEN large", &format!(":{}", large.len()));
    };
    expect(&mut connection, "DORMOUSE SLEEP", "+OK");
    check(&mut connection);
    server.restart();
    check(&mut Connection::open(server.port()));

    let mut connection = Connection::open(server.port());
    connection.run("RPUSH list d");
    connection.run("DEL key:0");
    expect(&mut connection, "DORMOUSE CHECKPOINT", "+OK");
    server.crash();
    let mut connection = Connection::open(server.port());
    expect(&mut connection, "LRANGE list 0 -1", "*[\"a\", \"b\", \"c\", \"d\"]");
    expect(&mut connection, "DBSIZE", ":2002");

    // Objects that no manifest names any more are deleted.
    for n in 0..5 {
        connection.run(&format!("SET key:1 {n}"));
        expect(&mut connection, "DORMOUSE CHECKPOINT", "+OK");
    }
    let manifests = |names: &[String]| names.iter().filter(|name| name.contains("/manifest/")).count();
    assert_eq!(manifests(&bucket.objects("some/folder")), 2);
}

#[test]
fn a_second_process_on_s3_takes_over() {
    let Some(bucket) = bucket() else { return };
    let store = bucket.store("", bucket.port());
    let mut first = Server::start_on(&store);
    let mut to_first = Connection::open(first.port());
    to_first.run("SET owner first");
    expect(&mut to_first, "DORMOUSE CHECKPOINT", "+OK");

    let mut second = Server::start_on(&store);
    let mut to_second = Connection::open(second.port());
    expect(&mut to_second, "GET owner", "\"first\"");
    to_second.run("SET owner second");
    expect(&mut to_second, "DORMOUSE CHECKPOINT", "+OK");

    // From here on, the first server's replies would be lost or outdated: it promises nothing, and ends.
    to_first.run("SET owner nobody");
    let mut refusals = 0;
    for line in [
        "DORMOUSE CHECKPOINT",
        "SAVE",
        "BGSAVE",
        "LASTSAVE",
        "DORMOUSE SLEEP",
        "WAITAOF 1 0 0",
        "DORMOUSE BRANCH other",
        "CONFIG SET loss-window 0",
        "SET owner nobody",
        "GET owner",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        // On a slow machine it may have ended in between.
        let Ok(reply) = to_first.try_call(&words) else { break };
        let reply = format!("{reply:?}");
        assert!(reply.starts_with('-') && reply.contains("taken over by another process"), "{line}: {reply}");
        refusals += 1;
    }
    assert!(refusals > 0, "it ended without a word");
    assert_eq!(first.wait().code(), Some(3), "{}", first.log());
    assert!(first.log().contains("taken over by another process"), "{}", first.log());

    // A third server takes over from the second, with the data that only the second's log has.
    to_second.run("SET more 1");
    to_second.run("CONFIG SET loss-window 0");
    to_second.run("SET last 1");
    let third = Server::start_on(&store);
    let mut to_third = Connection::open(third.port());
    expect(&mut to_third, "MGET owner more last", "*[\"second\", \"1\", \"1\"]");
    to_third.run("SET owner third");
    // The second server has nothing to write, and still finds out.
    let fenced = format!("{:?}", to_second.run("DORMOUSE SLEEP"));
    assert!(fenced.starts_with('-') && fenced.contains("taken over"), "{fenced}");

    drop((to_first, to_second));
    // It also reports that it was overtaken when it is told to end.
    assert_eq!(second.stop().code(), Some(3), "{}", second.log());
    second.resume();
    let mut to_second = Connection::open(second.port());
    expect(&mut to_second, "MGET more last", "*[\"1\", \"1\"]");
}

/// An overtaken process does not wake a sleeping database.
#[test]
fn a_database_that_sleeps_is_woken_by_its_owner_only() {
    let Some(bucket) = bucket() else { return };
    let store = bucket.store("", bucket.port());
    let mut first = Server::start_on(&store);
    let mut to_first = Connection::open(first.port());
    to_first.run("SET k 1");
    expect(&mut to_first, "DORMOUSE SLEEP", "+OK");
    let second = Server::start_on(&store);
    let mut to_second = Connection::open(second.port());
    to_second.run("CONFIG SET loss-window 0");
    expect(&mut to_second, "SET k 2", "+OK");
    let reply = format!("{:?}", to_first.run("GET k"));
    assert!(reply.starts_with('-') && reply.contains("taken over by another process"), "{reply}");
    assert_eq!(first.wait().code(), Some(3), "{}", first.log());
    expect(&mut to_second, "GET k", "\"2\"");
    expect(&mut to_second, "DORMOUSE CHECKPOINT", "+OK");
}

#[test]
fn a_bad_network_to_s3_loses_and_doubles_nothing() {
    let Some(bucket) = bucket() else { return };
    let network = Network::before(bucket.port(), 20);
    let mut server = Server::start_on(&bucket.store("", network.port()));
    network.trouble_one_in(5);
    let mut model = BTreeMap::new();
    let mut pushed = 0;
    for round in 0..12 {
        let mut connection = Connection::open(server.port());
        for n in 0..40 {
            let key = format!("key:{}", (n * 7 + round * 11) % 100);
            let value = format!("{round}-{n}");
            assert_eq!(at_last(&mut connection, &format!("SET {key} {value}")).0, ok());
            model.insert(key, value);
        }
        // A command that failed because of the store has done nothing.
        pushed += 1;
        assert_eq!(at_last(&mut connection, "RPUSH list x").0, Reply::Line(':', pushed.to_string()));
        assert_eq!(at_last(&mut connection, "INCR counter").0, Reply::Line(':', pushed.to_string()));
        let save = if round % 3 == 0 { "DORMOUSE SLEEP" } else { "DORMOUSE CHECKPOINT" };
        assert_eq!(at_last(&mut connection, save).0, ok());
        if round % 4 == 3 {
            server.crash();
        }
        let mut connection = Connection::open(server.port());
        for (key, value) in &model {
            let (reply, _) = at_last(&mut connection, &format!("GET {key}"));
            assert_eq!(reply.bytes(), Some(value.as_bytes()), "{key} in round {round}");
        }
        assert_eq!(at_last(&mut connection, "LLEN list").0, Reply::Line(':', pushed.to_string()));
        assert_eq!(at_last(&mut connection, "DBSIZE").0, Reply::Line(':', (model.len() + 2).to_string()));
    }
    assert!(network.met_any() > 20, "only {} requests met trouble", network.met_any());
    assert!(!server.log().contains("was taken over"), "it fenced itself\n{}", server.log());
}

#[test]
fn a_lost_answer_of_s3_is_made_up_for() {
    let Some(bucket) = bucket() else { return };
    let network = Network::before(bucket.port(), 0);
    let mut server = Server::start_on(&bucket.store("", network.port()));
    let mut connection = Connection::open(server.port());
    for (n, trouble) in
        [Trouble::Unanswered, Trouble::Denied, Trouble::Half, Trouble::Lost, Trouble::Refused].into_iter().enumerate()
    {
        connection.run(&format!("SET k {n}"));
        // The chunk, then the manifest that names it, and the answer to the question whether it is ours.
        for _ in 0..3 {
            network.trouble_next("PUT", trouble);
        }
        network.trouble_next("HEAD", trouble);
        expect(&mut connection, "DORMOUSE CHECKPOINT", "+OK");
        assert!(network.met(trouble) >= 3, "{trouble:?}");
        network.trouble_next("GET", trouble);
        expect(&mut connection, "DORMOUSE SLEEP", "+OK");
        expect(&mut connection, "GET k", &format!("\"{n}\""));
    }
    assert!(!server.log().contains("was taken over"), "it fenced itself\n{}", server.log());
    server.crash();
    expect(&mut Connection::open(server.port()), "GET k", "\"4\"");
}

#[test]
fn s3_that_is_down_is_told_and_survived() {
    let Some(bucket) = bucket() else { return };
    let network = Network::before(bucket.port(), 0);
    let mut server = Server::start_on(&bucket.store("", network.port()));
    let mut connection = Connection::open(server.port());
    connection.run("SET k before");
    expect(&mut connection, "DORMOUSE CHECKPOINT", "+OK");
    connection.run("SET k meanwhile");
    network.set_down(true);
    let failed = format!("{:?}", connection.run("DORMOUSE CHECKPOINT"));
    // Before it commits, a process checks whether it still owns the store.
    let is_told = failed.contains("cannot read owner/") || failed.contains("cannot write db/default/");
    assert!(failed.starts_with('-') && is_told, "{failed}");
    assert!(!failed.contains("dormouse-test"), "no credentials: {failed}");
    expect(&mut connection, "GET k", "\"meanwhile\"");
    network.set_down(false);
    expect(&mut connection, "DORMOUSE CHECKPOINT", "+OK");
    expect(&mut connection, "DORMOUSE SLEEP", "+OK");
    network.set_down(true);
    // A reply is not held for as long as the store may be asked again.
    let failed = format!("{:?}", connection.run("GET k"));
    assert!(failed.starts_with("-TIMEOUT") && failed.contains("waited for its database to wake"), "{failed}");
    network.set_down(false);
    expect(&mut connection, "GET k", "\"meanwhile\"");
    server.restart();
    expect(&mut Connection::open(server.port()), "GET k", "\"meanwhile\"");
}

/// Returns Dormouse's message before it gives up.
#[track_caller]
fn gives_up(store: &Remote) -> String {
    let mut process = command_on(store, free_port(), Settings::default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let ended = wait_for(Duration::from_secs(60), || process.try_wait().expect("it is our child"));
    if ended.is_none() {
        _ = process.kill();
    }
    let output = process.wait_with_output().expect("it has ended");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let code = if said.contains("invalid value for --store") { 2 } else { 1 };
    assert_eq!(ended.and_then(|status| status.code()), Some(code), "{said}");
    assert!(!said.contains("panicked") && !said.contains("secret"), "{said}");
    said
}

#[test]
fn s3_that_cannot_be_used_is_explained() {
    let Some(bucket) = bucket() else { return };
    let store = bucket.store("", bucket.port());
    let with = |name: &'static str, value: &str| {
        let mut store = store.clone();
        store.environment.retain(|(other, _)| *other != name);
        if !value.is_empty() {
            store.environment.push((name, value.to_owned()));
        }
        store
    };
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let mut without_keys = with("AWS_SECRET_ACCESS_KEY", "");
    without_keys.environment.retain(|(name, _)| *name != "AWS_ACCESS_KEY_ID");
    // The address of Amazon's metadata service.
    without_keys.environment.push(("AWS_METADATA_ENDPOINT", nobody.clone()));
    let rows: [(Remote, &[&str]); 8] = [
        (without_keys, &["there are no credentials: set AWS_ACCESS_KEY_ID"]),
        (with("AWS_ENDPOINT_URL", &format!("https://127.0.0.1:{}", bucket.port())), &["cannot be reached"]),
        (with("AWS_SECRET_ACCESS_KEY", "not it"), &["403", "AWS_SECRET_ACCESS_KEY"]),
        (with("AWS_SECRET_ACCESS_KEY", ""), &["but not AWS_SECRET_ACCESS_KEY"]),
        (with("AWS_ALLOW_HTTP", ""), &["AWS_ALLOW_HTTP=true"]),
        (with("AWS_ENDPOINT_URL", &nobody), &["cannot be reached", "AWS_ENDPOINT_URL"]),
        (Remote { url: "s3://no-such-bucket".to_owned(), ..store.clone() }, &["NoSuchBucket", "create it first"]),
        (Remote { url: "s3://a:secret@bucket".to_owned(), ..store.clone() }, &["holds no credentials"]),
    ];
    for (store, expected) in rows {
        let said = gives_up(&store);
        for expected in expected {
            assert!(said.contains(expected), "`{expected}` is not in: {said}");
        }
    }

    // A store that overwrites existing objects could not keep two writers apart.
    let network = Network::before(bucket.port(), 0);
    for _ in 0..3 {
        network.trouble_next("PUT", Trouble::Pretended);
    }
    let said = gives_up(&bucket.store("", network.port()));
    assert!(said.contains("overwrites objects that are there"), "{said}");
}

/// The texts of values have no repetitions, as objects are compressed.
const TEXT: &str = "q7Zk0vXw93LmTb";
const ENCRYPTED_KEYS: usize = 300;

/// Settings of a server with the master key in this file. They stay for the rest of the process.
fn with_key(file: &str) -> Settings {
    let option: &'static str = Box::leak(file.to_owned().into_boxed_str());
    let options: &'static [&'static str] = Box::leak(Box::new(["--master-key", option, "--history", "1h"]));
    Settings { loss_window: Some("0"), options, ..Settings::default() }
}

fn run_tool(store: &Remote, arguments: &[&str]) -> (bool, String) {
    let environment = store.environment.iter().map(|(name, value)| (name, value));
    let output = tool(arguments).envs(environment).output().expect("the tool runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.success(), said)
}

/// The server's time, as `AT` takes it.
fn moment(connection: &mut Connection) -> String {
    let time = format!("{:?}", connection.run("TIME"));
    let digits: Vec<&str> = time.split(|byte: char| !byte.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
    let at = format!("@{}.{:0>6}", digits[0], digits[1]);
    let date = Command::new("date").args(["-u", "-d", &at, "+%FT%T.%3NZ"]).output().expect("date runs");
    String::from_utf8(date.stdout).expect("digits").trim().to_owned()
}

#[test]
fn an_encrypted_store_on_s3_shows_no_data_and_loses_none() {
    let Some(bucket) = bucket() else { return };
    let keys = tempfile::tempdir().expect("a folder");
    let [first, second] = [("first", "0a"), ("second", "0b")].map(|(name, byte)| {
        let path = keys.path().join(name);
        fs::write(&path, byte.repeat(32)).expect("a file");
        format!("file:{}", path.display())
    });
    let store = bucket.store("encrypted", bucket.port());
    let mut server = Server::start_on_with(&store, with_key(&first));
    let mut connection = Connection::open(server.port());
    for n in 0..ENCRYPTED_KEYS {
        connection.run(&format!("SET key:{n} {TEXT}{n}"));
    }
    expect(&mut connection, "DORMOUSE CHECKPOINT", "+OK");
    connection.run(&format!("SET key:0 {TEXT}before"));
    let before = moment(&mut connection);
    while moment(&mut connection) == before {}
    connection.run(&format!("SET key:0 {TEXT}after"));
    expect(&mut connection, "DORMOUSE CHECKPOINT", "+OK");
    connection.run(&format!("SET key:1 {TEXT}logged"));
    let made = format!("{:?}", connection.run(&format!("DORMOUSE BRANCH default.past AT {before}")));
    assert!(!made.starts_with('-'), "{made}");

    let check = |server: &Server| {
        let mut connection = Connection::open(server.port());
        expect(&mut connection, "DBSIZE", &format!(":{ENCRYPTED_KEYS}"));
        for (key, value) in [("0", "after"), ("1", "logged"), ("299", "299")] {
            expect(&mut connection, &format!("GET key:{key}"), &format!("\"{TEXT}{value}\""));
        }
        connection
    };
    server.crash();
    let mut connection = check(&server);
    let mut past = Connection::open(server.port());
    past.run("AUTH default.past x");
    expect(&mut past, "GET key:0", &format!("\"{TEXT}before\""));
    expect(&mut past, "DBSIZE", &format!(":{ENCRYPTED_KEYS}"));
    expect(&mut connection, "DORMOUSE CHECKPOINT", "+OK");
    assert_eq!(bucket.find(TEXT), None);
    assert_eq!(bucket.find("key:1"), None);

    // The master key is changed beside the server.
    let url = store.url.as_str();
    let rotate = ["store", "rotate-key", "--store", url, "--master-key", &first, "--new-master-key", &second];
    let (fine, said) = run_tool(&store, &rotate);
    assert!(fine, "{said}");
    check(&server).run("DEL key:2");
    server.kill();
    for (settings, why) in [(Settings::default(), "--master-key"), (with_key(&first), "not the one")] {
        let output = command_on(&store, free_port(), settings).output().expect("the server runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why) && !said.contains("panicked"), "{said}");
    }
    let server = Server::start_on_with(&store, with_key(&second));
    let mut connection = Connection::open(server.port());
    connection.run(&format!("SET key:2 {TEXT}2"));
    let mut connection = check(&server);

    // A database goes with its key.
    let has_key = || bucket.objects("encrypted").iter().any(|name| name.starts_with("key/db/default.past/"));
    assert!(has_key());
    expect(&mut connection, "DORMOUSE DELETE default.past", "+OK");
    assert!(!has_key());
    check(&server);

    let copies = "s3://bucket/copies";
    for (arguments, expected) in [
        (vec!["backup", "--store", url, "--to", copies, "--master-key", &second], "1 database"),
        (vec!["restore", "--from", copies, "--store", "s3://bucket/restored", "--master-key", &second], "300 keys"),
        (vec!["check", "--store", "s3://bucket/restored", "--master-key", &second], ""),
    ] {
        let (fine, said) = run_tool(&store, &arguments);
        assert!(fine && said.contains(expected), "{arguments:?}: {said}");
    }
    assert_eq!(bucket.find(TEXT), None);
    let server = Server::start_on_with(&bucket.store("restored", bucket.port()), with_key(&second));
    check(&server);
}
