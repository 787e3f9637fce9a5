//! Server-assisted client-side caching: what clients are told to forget, and when.

#[expect(dead_code, reason = "no test here looks at the meters")]
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
    // What it changes itself is told behind the reply.
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
    let (mut reader, mut writer) = (tracking(&bench, ""), bench.connect());
    writer.check("SET k 1 EX 5", "+OK\r\n");
    reader.check("GET k", "$1\r\n1\r\n");
    CLOCK_MS.fetch_add(6_000, Ordering::SeqCst);
    writer.check("SET k 2", "+OK\r\n");
    reader.expect(&forget(&["k"]));
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
