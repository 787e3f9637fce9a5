//! `dormouse backup` and `dormouse restore`, with the real program, beside a server under load.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dormouse_protocol::Response;
use serde_json::Value;

use super::http::{ADMIN_TOKEN, Running, until};

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
        command.env_remove(name);
    }
    command.env("DORMOUSE_ADMIN_TOKEN", ADMIN_TOKEN).args(words);
    command
}

fn run(words: &[&str]) -> Output {
    program(words).output().unwrap()
}

#[track_caller]
fn done(words: &[&str]) -> String {
    let output = run(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(words: &[&str], code: i32) -> String {
    let output = run(words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    (folder, url)
}

/// The keys of a database with their values.
type Contents = BTreeMap<String, Vec<String>>;

/// Everything that a server has.
fn contents(server: &Running) -> BTreeMap<String, Contents> {
    let listed = server.done("GET", "/v1/databases", "");
    let names = listed["databases"].as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap().to_owned());
    names.map(|name| (name.clone(), contents_of(server, &name))).collect()
}

fn contents_of(server: &Running, database: &str) -> Contents {
    let mut client = server.connect();
    client.check(&format!("AUTH {database} {ADMIN_TOKEN}"), "+OK");
    let texts = |reply: Option<Response>| -> Vec<String> {
        let reply = reply.unwrap();
        let text = |item: &Response| item.text().unwrap().to_owned();
        reply.items().map_or_else(|| vec![text(&reply)], |items| items.iter().map(text).collect())
    };
    let keys = texts(client.try_say("KEYS *"));
    client.check("DBSIZE", &format!(":{}", keys.len()));
    let value = |key: String| {
        let request = if key.starts_with("list") { format!("LRANGE {key} 0 -1") } else { format!("GET {key}") };
        let value = texts(client.try_say(&request));
        (key, value)
    };
    keys.into_iter().map(value).collect()
}

/// The number of transactions of `shop`.
fn first_of(server: &Running) -> u64 {
    let mut client = server.connect();
    client.check(&format!("AUTH shop {ADMIN_TOKEN}"), "+OK");
    client.say("GET first")[1..].parse().unwrap()
}

/// Writes to a database until it is told to stop. Between two transactions `pause` is free.
fn write(server: &Running, token: &str, pause: &Mutex<()>, written: &AtomicU64, stop: &AtomicBool) {
    let mut client = server.enter(token);
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // The others have a turn too.
        std::thread::yield_now();
        let _turn = pause.lock().unwrap();
        client.check("MULTI", "+OK");
        for line in [
            "INCR first".to_owned(),
            format!("SET key:{} {n}:{}", n % 300, "v".repeat(n % 90)),
            format!("RPUSH list:{} {n}", n % 20),
            format!("DEL key:{}", n * 7 % 300),
            format!("SETEX mortal:{} 3600 {n}", n % 50),
            "INCR second".to_owned(),
        ] {
            client.check(&line, "+QUEUED");
        }
        client.check("EXEC", "6 elements");
        written.fetch_add(1, Ordering::Relaxed);
    }
}

fn points(to: &str) -> Vec<String> {
    let listed: Value = serde_json::from_str(&done(&["backup", "list", "--from", to, "--json"])).unwrap();
    listed.as_array().unwrap().iter().map(|point| point["backup"].as_str().unwrap().to_owned()).collect()
}

/// Restores everything of a point into a new folder, checks it, and shows it to `look`.
fn restored(to: &str, point: &str, look: impl FnOnce(&Running)) {
    let (_folder, url) = folder();
    done(&["restore", "--from", to, "--store", &url, "--at", point]);
    let checked = done(&["check", "--store", &url]);
    assert!(checked.contains("no problem was found"), "{checked}");
    let server = Running::start(&url, &[]);
    look(&server);
    server.stop();
}

#[test]
fn every_nights_backup_is_what_the_databases_were() {
    let ((store, url), (_backups, to)) = (folder(), folder());
    let server = Running::start(&url, &["--loss-window", "0", "--checkpoint-every", "300ms"]);
    let (shop, blog) = (server.create(r#"{"name":"shop"}"#), server.create(r#"{"name":"blog"}"#));
    let (pause, written, stop) = (Mutex::new(()), [AtomicU64::new(0), AtomicU64::new(0)], AtomicBool::new(false));
    let mut nights = Vec::new();
    let mut between = (0, 0);
    std::thread::scope(|scope| {
        for (token, written) in [&shop, &blog].into_iter().zip(&written) {
            let (server, pause, stop) = (&server, &pause, &stop);
            scope.spawn(move || write(server, token, pause, written, stop));
        }
        let _stops = Stops(&stop);
        let mut client = server.enter(&shop);
        for day in ["BRANCH pr-1", "SPLIT", "SLEEP", "DELETE pr-1"] {
            let counts = || written.each_ref().map(|written| written.load(Ordering::Relaxed));
            let before = counts();
            until("writes go on", || counts().iter().zip(before).all(|(now, before)| *now > before + 25));
            // A database that is written to without a pause may stay awake.
            let _ = client.say(&format!("DORMOUSE {day}"));
            let _held = pause.lock().unwrap();
            nights.push(contents(&server));
            done(&["backup", "--store", &url, "--to", &to]);
        }
        // A night in which nothing is held.
        between.0 = first_of(&server);
        let address = format!("redis://admin:{ADMIN_TOKEN}@127.0.0.1:{}", server.port);
        done(&["backup", "--store", &url, "--to", &to, "--url", &address]);
        between.1 = first_of(&server);
    });
    nights.push(contents(&server));
    let names: Vec<Vec<&str>> = nights.iter().map(|night| night.keys().map(String::as_str).collect()).collect();
    assert_eq!(names[2], ["blog", "default", "shop", "shop.pr-1"]);
    assert_eq!(names[3], ["blog", "default", "shop"]);
    server.stop();

    let points = points(&to);
    assert_eq!(points.len(), 5);
    for (point, night) in points.iter().zip(&nights[..4]) {
        restored(&to, point, |server| {
            assert_eq!(&contents(server), night, "{point}");
            // Tokens come back too.
            server.enter(&shop).check("EXISTS first", ":1");
        });
    }
    restored(&to, &points[4], |server| {
        let shop = contents_of(server, "shop");
        let (first, second) = (&shop["first"][0], &shop["second"][0]);
        assert_eq!(first, second, "a transaction is there as a whole");
        assert!((between.0..=between.1).contains(&first.parse::<u64>().unwrap()), "{first}: {between:?}");
    });

    // A backup that is killed leaves no point, and the next one is whole.
    let (backups, to) = folder();
    for objects in [1, 2] {
        let mut child = program(&["backup", "--store", &url, "--to", &to])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("objects are copied", || count(&backups.path().join("backup/data")) >= objects);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    done(&["backup", "--store", &url, "--to", &to]);
    let newest = self::points(&to).pop().unwrap();
    restored(&to, &newest, |server| assert_eq!(&contents(server), &nights[4]));
    let last = self::points(&to);
    done(&["backup", "prune", "--to", &to, "--keep", "1ms"]);
    assert_eq!(self::points(&to), last[last.len() - 1..]);
    restored(&to, &newest, |server| assert_eq!(&contents(server), &nights[4]));
    wrong_requests(&url, &to, store.path());
}

/// Ends the writers, also when a test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The number of files in a folder, at any depth.
fn count(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

fn wrong_requests(url: &str, to: &str, store: &Path) {
    let files = count(store);
    assert!(refused(&["backup", "--store", url, "--to", url], 1).contains("is a store with databases"));
    assert!(
        refused(&["backup", "--store", url, "--to", to, "--database", "none"], 1).contains("`none` does not exist")
    );
    assert!(refused(&["backup", "--store", url], 2).contains("--to"));
    let (_empty, empty) = folder();
    assert!(refused(&["backup", "list", "--from", &empty], 2).contains("no backup here"));
    assert!(refused(&["restore", "--from", &empty, "--store", url], 2).contains("no backup here"));
    assert!(refused(&["restore", "--from", url, "--store", &empty], 2).contains("no backup here"));
    let restore = ["restore", "--from", to, "--store", url];
    assert!(refused(&[&restore[..], &["--at", "1999"]].concat(), 1).contains("no backup `1999`"));
    assert!(refused(&restore, 1).contains("database `blog` exists already"));
    assert!(refused(&[&restore[..], &["--database", "none"]].concat(), 1).contains("has no database `none`"));
    assert_eq!(count(store), files, "nothing was changed");
    // Beside the others, under a name of its own.
    let renamed = [&restore[..], &["--database", "shop", "--as", "old-shop"]].concat();
    assert!(done(&renamed).contains("old-shop: "));
    let server = Running::start(url, &[]);
    assert_eq!(contents_of(&server, "old-shop"), contents_of(&server, "shop"));
    let stderr = refused(&[&restore[..], &["--replace"]].concat(), 1);
    assert!(stderr.contains("stop the server first"), "{stderr}");
    let made = server.done("POST", "/v1/databases/old-shop/tokens", "{}");
    server.enter(made["token"].as_str().unwrap()).check("EXISTS first", ":1");
    server.stop();
}
