//! Server-assisted client-side caching: what clients are told to forget, and when.

#[expect(dead_code, reason = "no test here looks at the meters")]
#[path = "wire/node.rs"]
mod node;

use std::sync::atomic::Ordering;

use dormouse_storage::log::Window;
use node::{Bench, CLOCK_MS, Connection};

const ALL: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";

/// The push that names some keys.
fn forget(keys: &[&str]) -> String {
    let keys_text: String = keys.iter().map(|key| format!("${}\r\n{key}\r\n", key.len())).collect();
    format!(">2\r\n$10\r\ninvalidate\r\n*{}\r\n{keys_text}", keys.len())
}

/// A connection with RESP3 that tracks keys.
fn tracking(bench: &Bench, options: &str) -> Connection {
    let mut client = bench.connect();
    client.send(&["HELLO 3"]);
    let mut read = Vec::new();
    while !read.ends_with(b"modules\r\n*0\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut client.stream, &mut byte).expect("a reply");
        read.extend(byte);
    }
    client.check(&format!("CLIENT TRACKING ON {options}"), "+OK\r\n");
    client
}

fn counts(bench: &Bench) -> (usize, usize, usize, usize) {
    let counts = bench.tenant("default").database.shared.tracking.counts();
    (counts.clients, counts.keys, counts.items, counts.prefixes)
}

#[test]
fn a_change_is_told_once_to_those_who_have_read_the_key() {
    let bench = Bench::new(&[]);
    let (mut reader, mut other, mut writer) = (tracking(&bench, ""), tracking(&bench, ""), bench.connect());
    writer.check("SET k 1", "+OK\r\n");
    reader.check("GET k", "$1\r\n1\r\n");
    other.check("MGET k missing", "*2\r\n$1\r\n1\r\n_\r\n");
    assert_eq!(counts(&bench), (2, 2, 3, 0));
    writer.send(&["SET k 2", "SET k 3", "SET missing 1"]);
    writer.expect("+OK\r\n+OK\r\n+OK\r\n");
    reader.expect(&forget(&["k"]));
    reader.check("GET k", "$1\r\n3\r\n");
    other.expect(&(forget(&["k"]) + &forget(&["missing"])));
    assert_eq!(counts(&bench), (2, 1, 1, 0));
    // Invalidations for its own changes follow the reply.
    reader.send(&["SET k 4", "GET k", "MULTI", "GET k", "DEL k", "GET k", "EXEC", "PING"]);
    reader.expect(&("+OK\r\n".to_string() + &forget(&["k"]) + "$1\r\n4\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n"));
    reader.expect(&("*3\r\n$1\r\n4\r\n:1\r\n_\r\n".to_string() + &forget(&["k"]) + "+PONG\r\n"));
    drop((reader, other));
    while counts(&bench) != (0, 0, 0, 0) {
        std::thread::yield_now();
    }
}

#[test]
fn whole_indexes_are_told_as_all() {
    let bench = Bench::new(&[]);
    let (mut reader, mut prefixed, mut writer) = (tracking(&bench, ""), tracking(&bench, "BCAST"), bench.connect());
    for command in ["FLUSHALL", "FLUSHDB", "SWAPDB 0 1"] {
        reader.check("GET k", "_\r\n");
        writer.check(command, "+OK\r\n");
        reader.expect(ALL);
        prefixed.expect(ALL);
        reader.send(&["GET k", command, "PING"]);
        reader.expect(&format!("_\r\n+OK\r\n{ALL}+PONG\r\n"));
        prefixed.expect(ALL);
    }
}

#[test]
fn what_is_kept_stays_right_while_the_database_sleeps() {
    let bench = Bench::new(&[]);
    let (mut reader, mut writer) = (tracking(&bench, ""), bench.connect());
    writer.check("MSET k 1 l 1", "+OK\r\n");
    writer.check("SET expires 1 EX 100", "+OK\r\n");
    writer.check("HSET h f v", ":1\r\n");
    writer.check("HEXPIRE h 100 FIELDS 1 f", "*1\r\n:1\r\n");
    reader.check("MGET k l expires", "*3\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n1\r\n");
    reader.check("HGET h f", "$1\r\nv\r\n");
    bench.sleep();
    // Nothing removes what expires during the sleep, so it is forgotten before.
    let mut told = [forget(&["expires"]), forget(&["h"])];
    let mut read = vec![0; told.concat().len()];
    std::io::Read::read_exact(&mut reader.stream, &mut read).expect("two pushes");
    let read = String::from_utf8(read).expect("text");
    if !read.starts_with(&told[0]) {
        told.reverse();
    }
    assert_eq!(read, told.concat());
    assert_eq!(counts(&bench).1, 2);
    writer.check("SET k 2", "+OK\r\n");
    reader.expect(&forget(&["k"]));
    bench.unload();
    writer.check("DEL l", ":1\r\n");
    reader.expect(&forget(&["l"]));
}

#[test]
fn expired_keys_are_told_when_they_go() {
    let bench = Bench::new(&[]);
    let (mut reader, mut other) = (Cached::new(&bench, ""), Cached::new(&bench, ""));
    // It may expire before it is read.
    let mut lives_ms = 10;
    while reader.copies.get("k").is_none_or(|copy| copy == "_\r\n") {
        lives_ms *= 2;
        other.run(&[&format!("SET k 1 PX {lives_ms}")]);
        reader.get("k");
    }
    while other.run(&["GET k"]) != ["_\r\n"] {}
    while !reader.copies.is_empty() {
        reader.next();
    }
}

#[test]
fn nothing_is_told_before_it_is_durable() {
    let (bench, log) = Bench::logged();
    let (mut reader, mut writer) = (tracking(&bench, ""), bench.connect());
    let mut prefixed = tracking(&bench, "BCAST PREFIX k");
    reader.check("GET k", "_\r\n");
    writer.send(&["SET k 1"]);
    let told = &bench.tenant("default").database.shared.told;
    while told.load(Ordering::SeqCst) <= log.flushed() {
        std::thread::yield_now();
    }
    assert!(reader.is_silent() && prefixed.is_silent() && writer.is_silent());
    log.flush().expect("the log is well");
    writer.expect("+OK\r\n");
    reader.expect(&forget(&["k"]));
    prefixed.expect(&forget(&["k"]));
    assert_eq!(bench.tenant("default").database.shared.journal.window(), Window::Zero);
}

#[test]
fn the_table_is_bounded_and_what_is_dropped_is_told() {
    let bench = Bench::new(&[]);
    let mut reader = tracking(&bench, "");
    reader.check("CONFIG SET tracking-table-max-keys 10", "+OK\r\n");
    for key in 0..10 {
        reader.check(&format!("GET {key}"), "_\r\n");
    }
    reader.send(&["GET 9", "GET x"]);
    reader.expect("_\r\n_\r\n");
    assert_eq!(counts(&bench), (1, 10, 10, 0));
    reader.expect(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\n");
}

#[test]
fn a_lower_limit_is_told_at_once() {
    let bench = Bench::new(&[]);
    let mut reader = tracking(&bench, "");
    let mut other = bench.connect();
    for key in 0..1200 {
        reader.check(&format!("GET {key:04}"), "_\r\n");
    }
    other.check("CONFIG SET tracking-table-max-keys 1199", "+OK\r\n");
    reader.expect(">2\r\n$10\r\ninvalidate\r\n*1\r\n$4\r\n");
    let mut key = [0; 6];
    std::io::Read::read_exact(&mut reader.stream, &mut key).expect("the key and its line end");
    assert_eq!(counts(&bench), (1, 1199, 1199, 0));
    other.check("CONFIG SET tracking-table-max-keys 5", "+OK\r\n");
    reader.expect(ALL);
    assert_eq!(counts(&bench), (1, 0, 0, 0));
}

#[test]
fn a_client_that_enters_another_database_forgets_all_and_goes_on_tracking() {
    let bench = Bench::new(&["dm_shop_1", "dm_blog_2"]);
    let (mut reader, mut writer) = (bench.connect(), bench.connect());
    reader.check("AUTH dm_shop_1", "+OK\r\n");
    writer.check("AUTH dm_blog_2", "+OK\r\n");
    reader.send(&["HELLO 3"]);
    let mut read = Vec::new();
    while !read.ends_with(b"modules\r\n*0\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut reader.stream, &mut byte).expect("a reply");
        read.extend(byte);
    }
    reader.send(&["CLIENT TRACKING ON", "GET k", "AUTH dm_blog_2", "GET k"]);
    reader.expect("+OK\r\n_\r\n+OK\r\n");
    let mut read = vec![0; ALL.len() + 3];
    std::io::Read::read_exact(&mut reader.stream, &mut read).expect("a push and a reply");
    let read = String::from_utf8(read).expect("text");
    assert!(read == format!("{ALL}_\r\n") || read == format!("_\r\n{ALL}"), "{read}");
    writer.check("SET k 1", "+OK\r\n");
    reader.expect(&forget(&["k"]));
    assert_eq!(bench.tenant("shop").database.shared.tracking.counts().clients, 0);
}

#[test]
fn a_client_of_another_database_is_no_target() {
    let bench = Bench::new(&["dm_shop_1", "dm_blog_2"]);
    let (mut reader, mut other) = (bench.connect(), bench.connect());
    reader.check("AUTH dm_shop_1", "+OK\r\n");
    other.check("AUTH dm_blog_2", "+OK\r\n");
    for id in 0..9 {
        other.send(&[&format!("CLIENT TRACKING ON REDIRECT {id}"), "CLIENT ID", "CLIENT TRACKING OFF"]);
        let mut read = String::new();
        while !read.ends_with("+OK\r\n") || read.matches("\r\n").count() < 3 {
            let mut byte = [0];
            std::io::Read::read_exact(&mut other.stream, &mut byte).expect("a reply");
            read.push(char::from(byte[0]));
        }
        let own = read.contains(&format!("\r\n:{id}\r\n"));
        assert_eq!(read.starts_with("+OK"), own, "{id}: {read}");
    }
}

/// A client with copies of what it has read.
struct Cached {
    connection: Connection,
    read: Vec<u8>,
    copies: std::collections::BTreeMap<String, String>,
    options: &'static str,
}

impl Cached {
    fn new(bench: &Bench, options: &'static str) -> Self {
        Self { connection: tracking(bench, options), read: Vec::new(), copies: Default::default(), options }
    }

    /// Reads one reply or push, and forgets what a push says. Returns a reply as text.
    fn next(&mut self) -> Option<String> {
        loop {
            let Some(length) = dormouse_protocol::Response::length(&self.read) else {
                let mut bytes = [0; 4096];
                let count = std::io::Read::read(&mut self.connection.stream, &mut bytes).expect("a message in time");
                assert!(count > 0, "an open connection");
                self.read.extend(&bytes[..count]);
                continue;
            };
            let message: Vec<u8> = self.read.drain(..length).collect();
            let text = String::from_utf8(message).expect("text");
            let Some(push) = text.strip_prefix(">2\r\n$10\r\ninvalidate\r\n") else { return Some(text) };
            match push.strip_prefix("_\r\n") {
                Some(_) => self.copies.clear(),
                None => push.split("\r\n").skip(2).step_by(2).for_each(|key| drop(self.copies.remove(key))),
            }
            return None;
        }
    }

    /// Sends commands and returns the reply to each. Pushes in between count.
    fn run(&mut self, lines: &[&str]) -> Vec<String> {
        self.connection.send(lines);
        let mut replies = Vec::new();
        while replies.len() < lines.len() {
            replies.extend(self.next());
        }
        replies
    }

    /// Reads a key and keeps the copy, if it would be told of changes.
    fn get(&mut self, key: &str) {
        let opts_in = self.options.contains("OPTIN");
        let get = format!("GET {key}");
        let lines: &[&str] = if opts_in { &["CLIENT CACHING YES", &get] } else { &[&get] };
        // It must keep the reply before it looks at pushes behind it.
        self.connection.send(lines);
        let mut left = lines.len();
        while left > 0 {
            if let Some(reply) = self.next() {
                left -= 1;
                if left == 0 {
                    self.copies.insert(key.to_string(), reply);
                }
            }
        }
    }
}

#[test]
fn no_copy_stays_stale_whatever_changes_a_key() {
    let bench = Bench::new(&[]);
    let mut rng = fastrand::Rng::with_seed(11);
    let database = std::sync::Arc::clone(&bench.tenant("default").database);
    let options = ["", "NOLOOP", "OPTIN", "OPTOUT", "BCAST", "BCAST PREFIX k1 PREFIX k2 PREFIX k3"];
    let mut clients: Vec<Cached> = options.iter().map(|options| Cached::new(&bench, options)).collect();
    let mut plain = Cached::new(&bench, "");
    plain.run(&["CLIENT TRACKING OFF"]);
    plain.run(&["CONFIG SET tracking-table-max-keys 12"]);
    let key = |rng: &mut fastrand::Rng| format!("k{}", rng.u8(1..25));
    for round in 0..4000 {
        let (a, b, n) = (key(&mut rng), key(&mut rng), rng.u32(..1000));
        match rng.u8(..100) {
            0..55 => {
                let client = rng.usize(..clients.len());
                let follows =
                    !clients[client].options.contains("PREFIX") || ["k1", "k2", "k3"].iter().any(|p| a.starts_with(p));
                if follows {
                    clients[client].get(&a);
                }
            }
            55..57 => bench.sleep(),
            57 => {
                let sizes = plain.run(&["DBSIZE", "SELECT 1", "DBSIZE", "SELECT 0"]);
                // Only data that is somewhere can be unloaded.
                if sizes[0] != ":0\r\n" || sizes[2] != ":0\r\n" {
                    bench.unload();
                }
            }
            58 => drop(bench.runtime.block_on(database.split(rng.u16(1..16383)))),
            59 => {
                CLOCK_MS.fetch_add(rng.u64(..20_000), Ordering::SeqCst);
            }
            60 => drop(plain.run(&["FLUSHALL"])),
            61 => drop(plain.run(&["SWAPDB 0 1"])),
            _ => {
                let lines: Vec<String> = match rng.u8(..12) {
                    0 => vec![format!("SET {a} {n}")],
                    1 => vec![format!("SET {a} {n} PX {}", rng.u32(1..30_000))],
                    2 => vec![format!("DEL {a} {b}")],
                    3 => vec![format!("RENAME {a} {b}")],
                    4 => vec![format!("COPY {a} {b} REPLACE")],
                    5 => vec![format!("MSET {a} {n} {b} {n}")],
                    6 => vec!["MULTI".into(), format!("SET {a} {n}"), format!("DEL {b}"), "EXEC".into()],
                    7 => vec![format!("APPEND {a} x")],
                    8 => vec![format!("GETDEL {a}")],
                    9 => vec![format!("PEXPIRE {a} {}", rng.u32(1..30_000))],
                    10 => vec![format!("MOVE {a} 1")],
                    _ => vec![format!("EVAL \"return redis.call('set',KEYS[1],'{n}')\" 1 {a}")],
                };
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                // A client with NOLOOP is not told of its own changes.
                let writer = rng.usize(..clients.len() + 2);
                match clients.get_mut(writer) {
                    Some(client) if !client.options.contains("NOLOOP") => drop(client.run(&lines)),
                    _ => drop(plain.run(&lines)),
                }
            }
        }
        if round % 4 != 0 {
            continue;
        }
        let kept: std::collections::BTreeSet<String> =
            clients.iter().flat_map(|client| client.copies.keys().cloned()).collect();
        let mut told: Vec<String> = Vec::new();
        for key in kept {
            let now = plain.run(&[&format!("GET {key}")]).remove(0);
            for client in &mut clients {
                // The invalidation is on its way: if the copy stays stale, this read waits too long and fails.
                while client.copies.get(&key).is_some_and(|copy| *copy != now) {
                    told.extend(client.next());
                }
            }
        }
        assert!(told.is_empty(), "{told:?}");
    }
}
