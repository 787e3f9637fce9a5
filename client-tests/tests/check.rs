//! `dormouse check` finds what is wrong with a store that a real server made, and gets out what can be read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use dormouse_client_tests::{Kind, Server, Settings, resp::Connection, server::tool, toolchain};

const KEYS: usize = 3000;

/// A store with a checkpoint of [`KEYS`] keys, then a second one, then ten writes that only the log has: as a crash leaves
/// it.
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
    // A clean end would make a checkpoint of them.
    server.kill();
    Some(server)
}

/// Whether all is well, and what was said.
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

/// The files of a folder below the data, in order, however deep.
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

/// What can be got out, as redis-server counts it after it has loaded the file.
fn salvaged(server: &Server) -> (usize, String) {
    let mut redis = Server::start_with(Kind::Redis, Settings::default());
    assert!(redis.stop().success());
    let dump = redis.data().join("dump.rdb");
    let file = dump.to_str().expect("a plain name");
    // What every Redis since 5 reads.
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
    if has_redis() {
        let (keys, said) = salvaged(&server);
        assert!(keys == KEYS + 10 && said.contains("nothing was left out"), "{keys} {said}");
    }
    // Beside a server too, and the server has all of it.
    server.resume();
    let (fine, said) = check(&server, &["--database", "default"]);
    assert!(fine, "{said}");
    assert_eq!(Connection::open(server.port()).run("DBSIZE").number(), Some(3010.0));
    let (fine, said) = check(&server, &["--database", "nobody"]);
    assert!(!fine && said.contains("there is no database `nobody`"), "{said}");
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
        assert!(keys >= KEYS / 2 && said.contains("left out: what only manifest"), "{keys} {said}");
    }
}

#[test]
fn a_damaged_log_is_found_and_a_torn_one_is_told_apart() {
    let Some(server) = store() else { return };
    let log = files(&server, "log").pop().expect("writes are logged");
    let whole = fs::read(&log).expect("a log");
    let frames: Vec<usize> = places(&whole, b"DMFR");
    assert!(frames.len() > 9, "each write was waited for");
    let (middle, last) = (frames[frames.len() - 5], frames[frames.len() - 1]);
    // In the middle.
    change(&log, |bytes| bytes[middle + 60] ^= 1);
    let (fine, said) = check(&server, &[]);
    assert!(!fine && said.contains("log: DAMAGED") && said.contains("is damaged at byte"), "{said}");
    if has_redis() {
        let (keys, said) = salvaged(&server);
        assert!((KEYS..KEYS + 10).contains(&keys) && said.contains("in the log"), "{keys} {said}");
    }
    // A write that a power cut tore was never acknowledged.
    fs::write(&log, &whole[..last + 20]).expect("a log");
    let (fine, said) = check(&server, &[]);
    assert!(fine && said.contains("9 writes in the log") && said.contains("nothing is lost"), "{said}");
    // That the last of the log are missing cannot be seen, but that those between are.
    fs::write(&log, [&whole[..middle], &whole[frames[frames.len() - 4]..]].concat()).expect("a log");
    let (fine, said) = check(&server, &[]);
    assert!(!fine, "{said}");
}

fn places(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle).map(|(at, _)| at).collect()
}
