//! The target's data is replaced at once, when the copy is complete, and not before.

use dormouse_client_tests::resp::{Connection, Reply};
use dormouse_client_tests::{Kind, wait_for};
use rustix::process::Signal;

use super::{KEY, LIMIT, MoveIn, field};

/// Starts a target with data of its own, and a source that takes its time.
fn start(seed: u64) -> Option<(MoveIn, Connection, Connection)> {
    let move_in = MoveIn::start(Kind::under_test(), seed)?;
    if move_in.target.kind() == Kind::Redis {
        return None;
    }
    let (mut source, mut target) = (Connection::open(move_in.source.port()), Connection::open(move_in.target.port()));
    for n in 0..200 {
        source.run(&format!("SET new:{n} {n}"));
        target.run(&format!("SET old:{n} {n}"));
    }
    for connection in [&mut source, &mut target] {
        connection.run("SELECT 15");
        connection.run("SET everywhere 1");
        connection.run("SELECT 0");
    }
    target.run("SET everywhere 0");
    target.run("EXPIRE old:7 100000");
    Some((move_in, source, target))
}

/// Counts the keys of the target that a client sees.
fn shown(target: &mut Connection) -> (usize, usize) {
    let count = |target: &mut Connection, pattern: &str| {
        target.run(&format!("KEYS {pattern}")).items().expect("KEYS answers a list").len()
    };
    (count(target, "old:*"), count(target, "new:*"))
}

fn load(server: &mut Connection, name: &str, comment: &str) -> Reply {
    let text = format!("#!lua name={name}\nredis.register_function('{name}', function() return 1 end) --{comment}");
    server.call(&[&b"FUNCTION"[..], b"LOAD", text.as_bytes()])
}

/// The names and texts of a server's libraries, sorted.
fn texts(server: &mut Connection) -> Vec<String> {
    let reply = server.run("FUNCTION LIST WITHCODE");
    let mut texts: Vec<String> = reply.items().expect("a list").iter().map(|library| format!("{library:?}")).collect();
    texts.sort();
    texts
}

fn libraries(server: &mut Connection) -> Vec<String> {
    let name = |library: &Reply| String::from_utf8_lossy(library.items()?.get(1)?.bytes()?).into_owned().into();
    server.run("FUNCTION LIST").items().expect("a list").iter().filter_map(name).collect()
}

/// A target without keys may have libraries all the same.
#[test]
fn libraries_of_an_empty_target_are_replaced_on_request() {
    let Some((mut move_in, mut source, mut target)) = start(24) else { return };
    target.run("FLUSHALL");
    load(&mut target, "lib", "of the target");
    load(&mut target, "other", "");
    load(&mut source, "lib", "");
    let before = texts(&mut target);
    let mut importer = move_in.follow(&[]);
    let (status, log, _) = importer.wait(LIMIT);
    assert!(!status.success() && log.contains("already exists") && log.contains("--replace"), "{log}");
    assert_eq!((texts(&mut target), shown(&mut target)), (before, (0, 0)));
    target.run("FUNCTION DELETE lib");
    move_in.importer = Some(move_in.follow(&[]));
    move_in.catch_up();
    assert_eq!(libraries(&mut target), ["lib", "other"]);
    move_in.kill();
    target.run("DORMOUSE IMPORT END");
    target.run("FLUSHALL");
    move_in.importer = Some(move_in.follow(&["--replace"]));
    move_in.catch_up();
    assert_eq!(texts(&mut target), texts(&mut source));
}

#[test]
fn functions_come_with_the_data() {
    let Some((mut move_in, mut source, mut target)) = start(23) else { return };
    load(&mut target, "old", "");
    load(&mut target, "first", "of the target");
    load(&mut source, "first", "");
    load(&mut source, "second", "");
    move_in.importer = Some(move_in.follow(&["--replace"]));
    move_in.catch_up();
    assert_eq!(texts(&mut target), texts(&mut source));
    assert_eq!(target.run("FCALL second 0").number(), Some(1.0));
    // Each change comes over the stream, in a transaction too, and again if a link drops.
    load(&mut source, "third", "");
    let dump = source.run("FUNCTION DUMP").bytes().expect("a payload").to_vec();
    source.run("FUNCTION DELETE first");
    move_in.catch_up();
    assert_eq!(texts(&mut target), texts(&mut source));
    for policy in ["FLUSH", "REPLACE"] {
        source.run("FUNCTION DELETE second");
        move_in.to_target.drop_links();
        assert!(!source.call(&[&b"FUNCTION"[..], b"RESTORE", &dump, policy.as_bytes()]).is_error());
        move_in.to_source.drop_links();
        move_in.catch_up();
        assert_eq!(texts(&mut target), texts(&mut source));
    }
    source.run("FUNCTION FLUSH");
    assert!(!source.call(&[&b"FUNCTION"[..], b"RESTORE", &dump]).is_error());
    source.run("MULTI");
    source.run("SET new:0 changed");
    source.run("FUNCTION DELETE third");
    source.run("EXEC");
    move_in.catch_up();
    move_in.cut_over();
    assert_eq!(texts(&mut target), texts(&mut source));
    assert_eq!(libraries(&mut target).len(), 2);
    move_in.compare();
}

/// `--replace` copies everything again, even if the copy is cut off and the target still has the place of an earlier
/// import.
#[test]
fn a_copy_that_was_asked_for_is_made_however_often_it_is_cut_off() {
    let Some((mut move_in, mut source, mut target)) = start(22) else { return };
    move_in.importer = Some(move_in.follow(&["--replace"]));
    move_in.get_further();
    move_in.kill();
    target.run("SET not-from-there 1");
    source.run("CONFIG SET rdb-key-save-delay 20000");
    move_in.importer = Some(move_in.follow(&["--replace"]));
    let staging = || (field(&mut target, "dormouse", "import_staging") == "1").then_some(());
    assert!(wait_for(LIMIT, staging).is_some(), "nothing is staged");
    source.run("CONFIG SET rdb-key-save-delay 0");
    move_in.to_source.drop_links();
    let importer = move_in.importer.as_ref().expect("it was started");
    let copied = wait_for(LIMIT, || importer.log().contains("now following the source").then_some(()));
    assert!(copied.is_some(), "{}", importer.log());
    move_in.catch_up();
    move_in.cut_over();
    assert_eq!(target.run("EXISTS not-from-there").number(), Some(0.0));
    move_in.compare();
}

#[test]
fn an_import_that_is_refused_or_killed_leaves_the_target_as_it_was() {
    let Some((mut move_in, mut source, mut target)) = start(21) else { return };
    assert_eq!(load(&mut target, "kept", "").bytes(), Some(&b"kept"[..]));
    // The target is asked to change its functions before it refuses to show the data.
    load(&mut source, "small", "");
    target.run("CONFIG SET maxmemory 100kb");
    source.run(&format!("SET large {}", "x".repeat(100_000)));
    let mut importer = move_in.follow(&["--replace"]);
    let (status, log, _) = importer.wait(LIMIT);
    assert!(!status.success() && log.contains("OOM"), "{log}");
    assert_eq!((shown(&mut target), libraries(&mut target)), ((200, 0), vec!["kept".to_owned()]));
    target.run("CONFIG SET maxmemory 0");
    source.run("DEL large");
    // Redis takes a library that is larger than a Dormouse database may have.
    assert_eq!(load(&mut source, "large", &"-".repeat(2 << 20)).bytes(), Some(&b"large"[..]));
    for arguments in [&["--replace"][..], &["--replace", "--stop-when-caught-up"]] {
        let mut importer = move_in.follow(arguments);
        let (status, log, _) = importer.wait(LIMIT);
        assert!(!status.success() && log.contains("cannot take the source's functions"), "{log}");
        assert_eq!(shown(&mut target), (200, 0));
        assert_eq!(libraries(&mut target), ["kept"]);
    }
    source.run("FLUSHALL");
    source.run("FUNCTION FLUSH");
    // The source sends its copy whenever it has some kilobytes, six seconds for all of it: it is not done in between.
    let value = "v".repeat(1024);
    for n in 0..200 {
        source.run(&format!("SET new:{n} {value}"));
    }
    source.run("CONFIG SET rdb-key-save-delay 30000");
    for signal in [Signal::KILL, Signal::TERM] {
        move_in.importer = Some(move_in.follow(&["--replace"]));
        let staging = || (field(&mut target, "dormouse", "import_staged_keys") != "0").then_some(());
        assert!(wait_for(LIMIT, staging).is_some(), "nothing is staged");
        assert_eq!(shown(&mut target), (200, 0));
        let mut importer = move_in.importer.take().expect("it was started");
        importer.signal(signal);
        let (status, log, _) = importer.wait(LIMIT);
        assert!(!status.success(), "{log}");
        // The target does what the importer no longer can.
        let dropped = || (field(&mut target, "dormouse", "import_staging") == "0").then_some(());
        assert!(wait_for(LIMIT, dropped).is_some(), "what was staged is kept");
        assert_eq!(shown(&mut target), (200, 0));
        assert_eq!(target.run("GET everywhere").bytes(), Some(&b"0"[..]));
        assert!(target.run("TTL old:7").number() > Some(1.0), "the old data expires by the target's clock");
    }
    // A copy that a crash of the target interrupts is dropped too.
    move_in.importer = Some(move_in.follow(&["--replace"]));
    let staging = || (field(&mut target, "dormouse", "import_staged_keys") != "0").then_some(());
    assert!(wait_for(LIMIT, staging).is_some(), "nothing is staged");
    move_in.kill();
    move_in.target.crash();
    let mut target = Connection::open(move_in.target.port());
    assert_eq!(shown(&mut target), (200, 0));
    let dropped = || (field(&mut target, "dormouse", "import_staging") == "0").then_some(());
    assert!(wait_for(LIMIT, dropped).is_some(), "what was staged is kept");
    source.run("CONFIG SET rdb-key-save-delay 0");
    move_in.importer = Some(move_in.follow(&["--replace"]));
    move_in.get_further();
    assert_eq!(shown(&mut target), (0, 200));
    move_in.cut_over();
    move_in.compare();
}

#[test]
fn a_target_shows_all_of_the_old_data_or_all_of_the_new() {
    let Some((mut move_in, mut source, mut target)) = start(22) else { return };
    source.run("CONFIG SET rdb-key-save-delay 3000");
    move_in.importer = Some(move_in.follow(&["--replace"]));
    let replaced = || match shown_at_once(&mut target) {
        ([200.0, 0.0], b'0') => None,
        ([0.0, 200.0], b'1') => Some(()),
        other => panic!("something between the old data and the new: {other:?}"),
    };
    assert!(wait_for(LIMIT, replaced).is_some(), "the new data does not come");
    // The same command with --replace copies everything again. Without it, the import continues at the target's place.
    move_in.get_further();
    move_in.kill();
    target.run("SET by-hand 1");
    // Each place differs from the previous one.
    source.run("INCR tick");
    source.run("CONFIG SET rdb-key-save-delay 0");
    let mut importer = move_in.follow(&["--stop-when-caught-up"]);
    let (status, log, _) = importer.wait(LIMIT);
    assert!(status.success() && log.contains("goes on from offset"), "{log}");
    assert_eq!(target.run("EXISTS by-hand").number(), Some(1.0));
    source.run("INCR tick");
    move_in.importer = Some(move_in.follow(&["--replace"]));
    move_in.get_further();
    move_in.kill();
    target.run("SET by-hand 1");
    let mut importer = move_in.follow(&["--replace", "--stop-when-caught-up"]);
    let (status, log, _) = importer.wait(LIMIT);
    assert!(status.success() && !log.contains("goes on from offset"), "{log}");
    assert_eq!(target.run(&format!("EXISTS by-hand {KEY}")).number(), Some(0.0));
    move_in.compare();
}

/// Returns, for one moment, how many keys of the old and of the new data are visible, and the value of `everywhere` in
/// index 15.
fn shown_at_once(target: &mut Connection) -> ([f64; 2], u8) {
    let names = |prefix: &str| (0..200).map(|n| format!(" {prefix}:{n}")).collect::<String>();
    target.run("MULTI");
    target.run(&format!("EXISTS{}", names("old")));
    target.run(&format!("EXISTS{}", names("new")));
    target.run("EXISTS everywhere");
    let reply = target.run("EXEC");
    let items = reply.items().expect("EXEC answers a list");
    let number = |at: usize| items[at].number().expect("EXISTS answers a number");
    // Only index 15 of the source has the key.
    ([number(0), number(1)], if number(2) == 1.0 { b'0' } else { b'1' })
}
