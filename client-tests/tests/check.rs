//! `dormouse check` finds the faults of a store that a real server made, and salvages the readable data.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use dormouse_client_tests::{
    Kind, Server, Settings,
    resp::{Connection, Reply},
    server::tool,
    toolchain,
};

const KEYS: usize = 3000;

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Returns a store as a crash leaves it: a checkpoint of [`KEYS`] keys, then a second one, then ten writes that only
/// the log has.
fn store() -> Option<Server> {
    if Kind::under_test() != Kind::Dormouse {
        return None;
    }
    let mut server = Server::start_with(Kind::Dormouse, Settings::default());
    let mut connection = Connection::open(server.port());
    let set = |connection: &mut Connection, from: usize, to: usize| {
        for key in from..to {
            assert_eq!(format!("{:?}", connection.run(&format!("SET key:{key} value:{key}"))), "+OK");
        }
    };
    assert_eq!(format!("{:?}", connection.run("CONFIG SET loss-window 0")), "+OK");
    for part in [0..KEYS / 2, KEYS / 2..KEYS] {
        set(&mut connection, part.start, part.end);
        assert_eq!(format!("{:?}", connection.run("SAVE")), "+OK");
    }
    set(&mut connection, KEYS, KEYS + 10);
    // A clean end would write them to a checkpoint.
    server.kill();
    Some(server)
}

/// Runs the check. Returns whether all is well, and the output.
fn check(server: &Server, more: &[&str]) -> (bool, String) {
    let store = format!("file://{}", server.data().display());
    let mut arguments = vec!["check", "--store", &store];
    arguments.extend(more);
    let output = tool(&arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).output().expect("the tool runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    (output.status.success(), said)
}

/// Returns the files of a folder below the data, in order, however deep.
fn files(server: &Server, folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&server.data().join(folder), &mut found);
    found.sort();
    found
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("a file");
    change(&mut bytes);
    fs::write(path, bytes).expect("a file");
}

/// Returns the salvaged keys, as redis-server counts them after it has loaded the file.
fn salvaged(server: &Server) -> (usize, String) {
    let mut redis = Server::start_with(Kind::Redis, Settings::default());
    assert!(redis.stop().success());
    let dump = redis.data().join("dump.rdb");
    let file = dump.to_str().expect("a plain name");
    // Every Redis since 5 reads this version.
    let (_, said) = check(server, &["--database", "default", "--salvage", file, "--rdb-version", "9"]);
    redis.resume();
    let size = Connection::open(redis.port()).run("DBSIZE").number().expect("a number") as usize;
    (size, said)
}

fn has_redis() -> bool {
    toolchain::present("check", &[("redis-server", "redis-server")])
}

#[test]
fn a_store_that_a_crash_left_is_fine() {
    let Some(mut server) = store() else { return };
    let (fine, said) = check(&server, &[]);
    assert!(fine, "{said}");
    assert!(said.contains("default: fine: 3,000 keys") && said.contains("10 writes in the log"), "{said}");
    let (fine, said) = check(&server, &["--json"]);
    assert!(fine && said.contains(r#""keys":3000"#) && said.contains(r#""logged_writes":10"#), "{said}");
    if has_redis() {
        let (keys, said) = salvaged(&server);
        assert!(keys == KEYS + 10 && said.contains("nothing was left out"), "{keys} {said}");
    }
    // The check also works beside a server, and the server has all of the data.
    server.resume();
    let (fine, said) = check(&server, &["--database", "default"]);
    assert!(fine, "{said}");
    assert_eq!(Connection::open(server.port()).run("DBSIZE").number(), Some(3010.0));
    let (fine, said) = check(&server, &["--database", "nobody"]);
    assert!(!fine && said.contains("database `nobody` does not exist"), "{said}");
}

#[test]
fn damaged_chunks_are_found_and_the_rest_is_salvaged() {
    let Some(server) = store() else { return };
    let chunk =
        files(&server, "db/default/chunk").into_iter().max_by_key(|path| fs::metadata(path).expect("a file").len());
    let chunk = chunk.expect("a checkpoint writes chunks");
    let whole = fs::read(&chunk).expect("a chunk");
    change(&chunk, |bytes| bytes[100] ^= 1);
    let (fine, said) = check(&server, &[]);
    assert!(!fine && said.contains("DAMAGED") && said.contains("db/default/chunk/"), "{said}");
    if has_redis() {
        let (keys, said) = salvaged(&server);
        assert!(keys < KEYS + 10 && said.contains("left out:"), "{keys} {said}");
    }
    fs::remove_file(&chunk).expect("a chunk");
    let (fine, said) = check(&server, &[]);
    assert!(!fine && said.contains("missing from the store"), "{said}");
    let (fine, said) = check(&server, &["--json"]);
    assert!(!fine && said.contains(r#""damaged":true"#) && said.contains(r#""remedy":"#), "{said}");
    fs::write(&chunk, whole).expect("a chunk");
    assert!(check(&server, &[]).0);
}

#[test]
fn a_damaged_newest_manifest_is_found_and_the_one_before_is_salvaged() {
    let Some(server) = store() else { return };
    let manifests = files(&server, "db/default/manifest");
    change(manifests.last().expect("there are manifests"), |bytes| bytes[30] ^= 1);
    let (fine, said) = check(&server, &[]);
    assert!(!fine && said.contains("the whole database: it is refused"), "{said}");
    if has_redis() {
        let (keys, said) = salvaged(&server);
        assert!(keys >= KEYS / 2 && said.contains("left out: data that only manifest"), "{keys} {said}");
    }
}

#[test]
fn a_damaged_log_is_found_and_a_torn_one_is_told_apart() {
    let Some(server) = store() else { return };
    let log = files(&server, "log").pop().expect("writes are logged");
    let whole = fs::read(&log).expect("a log");
    let frames: Vec<usize> = places(&whole, b"DMFR");
    assert!(frames.len() > 9, "each write was waited for");
    let middle = frames[frames.len() - 5];
    // Damage in the middle.
    change(&log, |bytes| bytes[middle + 60] ^= 1);
    let (fine, said) = check(&server, &[]);
    assert!(!fine && said.contains("log: DAMAGED") && said.contains("is damaged at byte"), "{said}");
    if has_redis() {
        let (keys, said) = salvaged(&server);
        assert!((KEYS..KEYS + 10).contains(&keys) && said.contains("in the log"), "{keys} {said}");
    }
    // The disk has written one sector of a frame and not the next. Such a frame of a power cut was never acknowledged.
    let is_split = |at: &&usize| **at / SECTOR != (**at + 60) / SECTOR;
    let split = *frames.iter().rev().find(is_split).expect("frames are shorter than sectors");
    let mut torn = whole.clone();
    torn[(split / SECTOR + 1) * SECTOR..].fill(0);
    fs::write(&log, torn).expect("a log");
    let (fine, said) = check(&server, &[]);
    assert!(fine && said.contains("a crash tore it") && !said.contains("nothing is lost"), "{said}");
    // Some frames from between are missing.
    fs::write(&log, [&whole[..middle], &whole[frames[frames.len() - 4]..]].concat()).expect("a log");
    let (fine, said) = check(&server, &[]);
    assert!(!fine, "{said}");
}

/// Returns all of a reply, whose own form is shortened.
fn text(reply: &Reply) -> String {
    match (reply.items(), reply.bytes()) {
        (Some(items), _) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        (None, Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        (None, None) => format!("{reply:?}"),
    }
}

#[test]
fn what_no_crash_explains_is_found_and_told_at_start() {
    let Some(mut server) = store() else { return };
    let log = files(&server, "log").pop().expect("writes are logged");
    let whole = fs::read(&log).expect("a log");
    let frames = places(&whole, b"DMFR");
    let last = frames[frames.len() - 1];
    let end = whole.iter().rposition(|byte| *byte != 0).expect("frames") + 1;
    let mut flipped = whole.clone();
    flipped[last + 60] ^= 1;
    let changes: [(&str, Vec<u8>); 4] = [
        ("a bit of the last frame", flipped),
        ("cut in a frame", whole[..last + 20].to_vec()),
        ("cut behind a frame", whole[..end].to_vec()),
        ("emptied", Vec::new()),
    ];
    for (what, bytes) in changes {
        fs::write(&log, bytes).expect("a log");
        let (fine, said) = check(&server, &[]);
        assert!(!fine && said.contains("may be missing") && !said.contains("nothing is lost"), "{what}: {said}");
    }
    fs::remove_dir_all(log.parent().expect("a folder")).expect("a log");
    let (fine, said) = check(&server, &[]);
    assert!(!fine && said.contains("it is gone") && said.contains("may be missing"), "{said}");
    // The database is served, and its server reports the unknown part.
    server.resume();
    assert!(server.log().contains("may be missing"));
    let mut connection = Connection::open(server.port());
    assert_eq!(connection.run("DBSIZE").number(), Some(KEYS as f64));
    let info = text(&connection.run("INFO dormouse"));
    assert!(info.contains("may_be_missing: ") && info.contains("store_status:ok"), "{info}");
    // The next start has nothing to report.
    server.restart();
    let info = text(&Connection::open(server.port()).run("INFO dormouse"));
    assert!(info.contains("problems:0"), "{info}");
    assert!(check(&server, &[]).0);
}

#[test]
fn a_branch_without_manifests_is_missed() {
    let Some(mut server) = store() else { return };
    server.resume();
    let mut connection = Connection::open(server.port());
    for line in ["DORMOUSE BRANCH kept", "DORMOUSE BRANCH lost", "DORMOUSE BRANCH deleted", "DORMOUSE DELETE deleted"] {
        assert_eq!(text(&connection.run(line)), "OK");
    }
    server.kill();
    assert!(check(&server, &[]).0);
    let manifests = files(&server, "db/default.lost/manifest");
    assert_eq!(manifests.len(), 2, "two are kept from the first commit on");
    manifests.iter().for_each(|manifest| fs::remove_file(manifest).expect("a manifest"));
    let (fine, said) = check(&server, &[]);
    assert!(!fine && said.contains("branch `default.lost` of database `default` has no manifest"), "{said}");
    server.resume();
    let found = dormouse_client_tests::wait_for(std::time::Duration::from_secs(20), || {
        let info = text(&Connection::open(server.port()).run("INFO dormouse"));
        info.contains("may_be_missing: branch `default.lost`").then_some(())
    });
    assert!(found.is_some());
}

#[test]
fn a_damaged_database_says_so_everywhere() {
    let Some(mut server) = store() else { return };
    let chunk =
        files(&server, "db/default/chunk").into_iter().max_by_key(|path| fs::metadata(path).expect("a file").len());
    fs::remove_file(chunk.expect("a checkpoint writes chunks")).expect("a chunk");
    server.resume();
    let mut connection = Connection::open(server.port());
    let missing = (0..KEYS).map(|key| text(&connection.run(&format!("GET key:{key}"))));
    assert!(missing.into_iter().any(|reply| reply.contains("missing from the store")));
    for (line, parts) in [
        ("INFO dormouse", &["state:damaged", "store_status:err", "problem_0:data: database `default`: db/"][..]),
        ("INFO persistence", &["data_status:err"]),
        ("SAVE", &["STORE database `default`: db/default/chunk/", "missing from the store"]),
        ("DORMOUSE CHECKPOINT", &["STORE database `default`: db/default/chunk/", "missing from the store"]),
        ("DORMOUSE DATABASES", &["damaged", "database `default`: db/default/chunk/"]),
    ] {
        let reply = text(&connection.run(line));
        assert!(parts.iter().all(|part| reply.contains(part)), "{line}: {reply}");
    }
    server.kill();
    // With a damaged manifest, the whole database is refused.
    let manifests = files(&server, "db/default/manifest");
    change(manifests.last().expect("there are manifests"), |bytes| bytes[30] ^= 1);
    server.resume();
    let mut connection = Connection::open(server.port());
    for (line, parts) in [
        ("GET key:1", &["STORE db/default/manifest/", "checksum mismatch"][..]),
        ("INFO dormouse", &["state:refused", "store_status:err", "problem_0:manifest: database `default`: db/"]),
        ("SAVE", &["STORE database `default`: db/default/manifest/"]),
        ("DORMOUSE DATABASES", &["refused"]),
    ] {
        let reply = text(&connection.run(line));
        assert!(parts.iter().all(|part| reply.contains(part)), "{line}: {reply}");
    }
    let (fine, said) = check(&server, &[]);
    assert!(!fine && said.contains("checksum mismatch"), "{said}");
}

/// Runs a tool. Returns its exit code and its output.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = tool(arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).output().expect("the tool runs");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_folder_that_is_no_store_is_told() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let other = folder.path().join("other");
    fs::create_dir_all(other.join("log/nginx")).expect("a folder");
    fs::write(other.join("log/nginx/access"), "").expect("a file");
    let file = folder.path().join("x.rdb");
    let file = file.to_str().expect("a plain name");
    let plain = folder.path().join("plain");
    fs::write(&plain, "").expect("a file");
    for path in [folder.path().join("absent"), folder.path().join("other"), plain] {
        let store = format!("file://{}", path.display());
        for arguments in [
            &["check", "--store", &store][..],
            &["check", "--store", &store, "--database", "default", "--salvage", file],
            &["export", file, "--database", "default", "--store", &store],
        ] {
            let (code, said) = run(arguments);
            assert!(code == Some(2) && said.contains("no Dormouse store here"), "{arguments:?}: {code:?} {said}");
        }
    }
    let store = format!("file://{}", other.display());
    let (code, said) = run(&["import", file, "--database", "default", "--store", &store]);
    assert!(code == Some(2) && said.contains("no Dormouse store here"), "{code:?} {said}");
    assert_eq!(fs::read_dir(&other).expect("a folder").count(), 1, "nothing was written");
}

#[test]
fn a_database_that_only_the_log_has_is_exported() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let mut server = Server::start_with(Kind::Dormouse, Settings::default());
    let mut connection = Connection::open(server.port());
    assert_eq!(format!("{:?}", connection.run("CONFIG SET loss-window 0")), "+OK");
    assert_eq!(format!("{:?}", connection.run("SET a 1")), "+OK");
    let store = format!("file://{}", server.data().display());
    let folder = tempfile::tempdir().expect("a folder");
    for turn in 0..2 {
        let file = folder.path().join(format!("{turn}.rdb"));
        let file = file.to_str().expect("a plain name");
        let (code, said) = run(&["export", file, "--database", "default", "--store", &store]);
        assert!(code == Some(0) && said.contains("1 keys") || said.contains("1 key"), "{code:?} {said}");
        if turn == 0 {
            server.kill();
        }
    }
    let file = folder.path().join("1.rdb");
    let file = file.to_str().expect("a plain name");
    // Data that only the log has is replaced like any other.
    let import = ["import", file, "--database", "default", "--store", &store];
    let (code, said) = run(&import);
    assert!(code == Some(1) && said.contains("holds data already"), "{code:?} {said}");
    let (code, said) = run(&[&import[..], &["--replace"]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(check(&server, &[]).0);
    assert_eq!(files(&server, "db/default/manifest").len(), 2, "an import keeps two manifests too");
    let (code, said) = run(&["export", file, "--database", "nobody", "--store", &store]);
    assert!(code == Some(1) && said.contains("database `nobody` does not exist"), "{code:?} {said}");
}

fn places(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle).map(|(at, _)| at).collect()
}
