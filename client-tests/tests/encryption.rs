//! Encryption at rest, with the server and the tools as an operator runs them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dormouse_client_tests::{
    Kind, Server, Settings,
    ports::free_port,
    resp::Connection,
    server::{command, tool},
};
use tempfile::TempDir;

/// A text that must not be found in any file. The log and the chunks compress, so it has no repetitions.
const SECRET: &str = "q7Zk0vXw93LmTb";
const KEYS: usize = 500;

/// Two master keys, in files.
struct Keys(TempDir);

impl Keys {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("first"), format!("{}\n", "0a".repeat(32))).expect("a file");
        fs::write(folder.path().join("second"), "0b".repeat(32)).expect("a file");
        Self(folder)
    }

    fn option(&self, name: &str) -> String {
        format!("file:{}", self.0.path().join(name).display())
    }

    /// The settings of a server with that key. The text stays for the rest of the process.
    fn settings(&self, name: &str) -> Settings {
        let option: &'static str = Box::leak(self.option(name).into_boxed_str());
        let options: &'static [&'static str] = Box::leak(Box::new(["--master-key", option]));
        Settings { loss_window: Some("0"), options, ..Settings::default() }
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => walk(&path, found),
                false => drop(found.insert(path.clone(), fs::read(&path).expect("a file"))),
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, &mut found);
    found
}

/// Checks that no file below the folder has the secret, and that there are some of each kind.
fn is_secret(folder: &Path, kinds: &[&str]) {
    let files = files(folder);
    for (path, bytes) in &files {
        let shows = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!shows, "{} has the text of a value", path.display());
    }
    for kind in kinds {
        let is_there = |path: &PathBuf| path.strip_prefix(folder).expect("a part").to_string_lossy().contains(kind);
        assert!(files.keys().any(is_there), "no {kind} in {:?}", files.keys());
    }
}

fn run(arguments: &[&str]) -> (bool, String) {
    let output = tool(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("the tool runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.success(), said)
}

fn set(connection: &mut Connection, keys: std::ops::Range<usize>) {
    for key in keys {
        assert_eq!(format!("{:?}", connection.run(&format!("SET key:{key} {SECRET}{key}"))), "+OK");
    }
}

fn holds(server: &Server, keys: usize) {
    let mut connection = Connection::open(server.port());
    assert_eq!(connection.run("DBSIZE").number(), Some(keys as f64));
    for key in [0, keys - 1] {
        let value = format!("{:?}", connection.run(&format!("GET key:{key}")));
        assert!(value.contains(&format!("{SECRET}{key}")), "{value}");
    }
}

#[test]
fn nothing_on_the_disk_shows_data_and_only_the_key_opens_it() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let keys = Keys::new();
    let mut server = Server::start_with(Kind::Dormouse, keys.settings("first"));
    let store = format!("file://{}", server.data().display());
    let mut connection = Connection::open(server.port());
    set(&mut connection, 0..KEYS);
    assert_eq!(format!("{:?}", connection.run("SAVE")), "+OK");
    set(&mut connection, KEYS..2 * KEYS);
    for answer in ["INFO", "CONFIG GET *"].map(|request| format!("{:?}", connection.run(request))) {
        assert!(!answer.contains("0a0a0a0a"), "{answer}");
    }
    server.kill();
    is_secret(&server.data(), &["db/default/chunk/", "db/default/manifest/", "log/", "key/", "encryption/"]);

    // Nothing opens it without its key, or changes it.
    let before = files(&server.data());
    for (settings, why) in [(Settings::default(), "--master-key"), (keys.settings("second"), "not the one")] {
        let output = command(Kind::Dormouse, free_port(), &server.data(), settings).output().expect("the server runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why) && !said.contains("panicked"), "{said}");
    }
    let second = keys.option("second");
    for tool in [vec!["check", "--store", &store], vec!["check", "--store", &store, "--master-key", &second]] {
        let (fine, said) = run(&tool);
        assert!(!fine && said.contains("encryption"), "{said}");
    }
    assert_eq!(files(&server.data()), before);

    let first = keys.option("first");
    let (fine, said) = run(&["check", "--store", &store, "--master-key", &first]);
    assert!(fine && said.contains("500 writes in the log"), "{said}");
    server.resume();
    holds(&server, 2 * KEYS);
    assert!(server.stop().success());
    is_secret(&server.data(), &["db/default/chunk/"]);

    // Another master key opens the same data, which is not written again.
    let before = files(&server.data());
    let (fine, said) =
        run(&["store", "rotate-key", "--store", &store, "--master-key", &first, "--new-master-key", &second]);
    assert!(fine, "{said}");
    let after = files(&server.data());
    let changed = after.iter().filter(|(path, bytes)| before.get(*path) != Some(bytes)).map(|(path, _)| path);
    let changed: Vec<_> = changed.filter(|path| !path.ends_with("lock")).collect();
    assert!(changed.len() == 1 && changed[0].to_string_lossy().contains("/encryption/"), "{changed:?}");
    assert!(!run(&["check", "--store", &store, "--master-key", &first]).0);
    let (fine, said) = run(&["check", "--store", &store, "--master-key", &second]);
    assert!(fine, "{said}");
}

#[test]
fn backups_of_an_encrypted_store_are_encrypted() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let keys = Keys::new();
    let key = keys.option("first");
    let mut server = Server::start_with(Kind::Dormouse, keys.settings("first"));
    let store = format!("file://{}", server.data().display());
    let mut connection = Connection::open(server.port());
    set(&mut connection, 0..KEYS);
    assert_eq!(format!("{:?}", connection.run("SAVE")), "+OK");
    set(&mut connection, KEYS..KEYS + 10);
    let place = tempfile::tempdir().expect("a folder");
    let to = format!("file://{}/backups", place.path().display());
    let backup = ["backup", "--store", &store, "--to", &to, "--master-key", &key];
    for _ in 0..2 {
        let (fine, said) = run(&backup);
        assert!(fine, "{said}");
    }
    is_secret(&place.path().join("backups"), &["backup/data/", "backup/image/", "backup/point/", "encryption/"]);
    let (fine, said) = run(&["backup", "list", "--from", &to]);
    assert!(!fine && said.contains("--master-key"), "{said}");

    // A place with backups that are not encrypted is not used.
    let plain = format!("file://{}/plain", place.path().display());
    let other = Server::start_with(Kind::Dormouse, Settings::default());
    let other_store = format!("file://{}", other.data().display());
    let (fine, said) = run(&["backup", "--store", &other_store, "--to", &plain]);
    assert!(fine, "{said}");
    let (fine, said) = run(&["backup", "--store", &store, "--to", &plain, "--master-key", &key]);
    assert!(!fine && said.contains("not"), "{said}");
    let (fine, said) = run(&["backup", "list", "--from", &plain]);
    assert!(fine, "{said}");

    let copy = format!("file://{}/copy", place.path().display());
    let restore = ["restore", "--from", &to, "--store", &copy, "--master-key", &key];
    let (fine, said) = run(&restore);
    assert!(fine && said.contains("510 keys"), "{said}");
    is_secret(&place.path().join("copy"), &["db/default/chunk/", "encryption/"]);
    let rdb = place.path().join("dump.rdb");
    let (fine, said) = run(&["export", rdb.to_str().expect("a plain name"), "--store", &copy, "--master-key", &key]);
    assert!(fine && said.contains("510"), "{said}");
    assert!(server.stop().success());
}

#[test]
fn databases_from_before_the_encryption_stay_readable() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let keys = Keys::new();
    let key = keys.option("first");
    let mut server = Server::start_with(Kind::Dormouse, Settings { loss_window: Some("0"), ..Settings::default() });
    let store = format!("file://{}", server.data().display());
    set(&mut Connection::open(server.port()), 0..KEYS);
    server.kill();
    let run_with_key = || {
        let (fine, said) = run(&["check", "--store", &store, "--master-key", &key]);
        assert!(fine, "{said}");
    };
    run_with_key();
    // As an operator would turn it on: with the same folder.
    let port = free_port();
    let child = command(Kind::Dormouse, port, &server.data(), keys.settings("first"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server runs");
    let mut child = Ended(child);
    let mut connection = loop {
        match Connection::try_open(port) {
            Ok(connection) => break connection,
            Err(_) => assert_eq!(child.0.try_wait().expect("a process"), None, "it ended"),
        }
    };
    assert_eq!(connection.run("DBSIZE").number(), Some(KEYS as f64));
    set(&mut connection, KEYS..KEYS + 10);
    assert_eq!(format!("{:?}", connection.run("SAVE")), "+OK");
    drop(child);
    run_with_key();
    let (fine, said) = run(&["check", "--store", &store]);
    assert!(!fine && said.contains("--master-key"), "{said}");
}

/// A process that is killed at the end of a test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
