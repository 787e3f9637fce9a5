//! Scripts for the server and for a real redis-server: every reply must be the same.

use std::time::Duration;

use dormouse_client_tests::compare;
use dormouse_client_tests::resp::{Connection, Reply, Words, request};
use dormouse_client_tests::script::{Random, Script, Step};
use dormouse_client_tests::{Kind, Server, Settings, wait_for};

const TEST: &str = "comparison of scripts with a real server";

/// Commands of the random script that are run by scripts.
const COMMANDS: usize = 10_000;

/// Random values for the libraries.
const VALUES: usize = 3000;

struct Pair {
    ours: Connection,
    theirs: Connection,
    peer: Kind,
}

impl Pair {
    fn new(ours: &Server, theirs: &Server, resp3: bool) -> Self {
        let mut pair =
            Self { ours: Connection::open(ours.port()), theirs: Connection::open(theirs.port()), peer: theirs.kind() };
        if resp3 {
            pair.ours.run("HELLO 3");
            pair.theirs.run("HELLO 3");
        }
        pair.both(&[b"FLUSHALL".to_vec()]);
        pair
    }

    fn both(&mut self, words: &[Vec<u8>]) -> (Reply, Reply) {
        (self.ours.call(words), self.theirs.call(words))
    }
}

fn servers() -> Option<(Server, Server)> {
    let present = Kind::Redis.is_present(TEST);
    present.then(|| {
        (
            Server::start_with(Kind::under_test(), Settings::default()),
            Server::start_with(Kind::Redis, Settings::default()),
        )
    })
}

fn words(words: &[&str]) -> Words {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn scripts_get_the_replies_of_redis() {
    let Some((ours, theirs)) = servers() else { return };
    let mut different = Vec::new();
    for resp3 in [false, true] {
        let mut pair = Pair::new(&ours, &theirs, resp3);
        pair.both(&words(&["FUNCTION", "FLUSH"]));
        pair.both(&words(&["SCRIPT", "FLUSH"]));
        for line in include_str!("scripts.txt").lines().filter(|line| !line.is_empty() && !line.starts_with("# ")) {
            let request = match line.strip_prefix("! ") {
                Some(command) => command_of(command),
                None => words(&["EVAL", line, "2", "k1", "k2", "a1", "2", "3.5"]),
            };
            let (ours, theirs) = pair.both(&request);
            if ours != theirs {
                different.push(format!("{line}\n    ours   {ours:?}\n    theirs {theirs:?}"));
            }
        }
    }
    assert!(different.is_empty(), "{} replies differ:\n{}", different.len(), different.join("\n"));
}

/// A command whose text of a script has no word of its own: `\n` is a line end, and the words of a first line belong to it.
fn command_of(line: &str) -> Words {
    let Some(start) = line.find("#!") else { return words(&line.split(' ').collect::<Vec<_>>()) };
    let (before, rest) = line.split_at(start);
    let mut all = words(&before.split_terminator(' ').collect::<Vec<_>>());
    let (text, after) = match before.starts_with("EVAL") {
        true => rest.rsplit_once(' ').expect("a number of keys"),
        false => (rest, ""),
    };
    all.push(text.replace("\\n", "\n").into_bytes());
    if !after.is_empty() {
        all.push(after.as_bytes().to_vec());
    }
    all
}

/// Every command of the random script, run by a script: its reply goes through Lua and back.
#[test]
fn commands_of_scripts_get_the_replies_of_redis() {
    let Some((ours, theirs)) = servers() else { return };
    for seed in [1, 2] {
        let mut pair = Pair::new(&ours, &theirs, seed % 2 == 1);
        let text = if seed == 1 {
            "redis.setresp(3) return redis.pcall(unpack(ARGV))"
        } else {
            "return redis.pcall(unpack(ARGV))"
        };
        let (mut commands, mut refused) = (0, 0);
        for step in Script::new(seed) {
            if commands == COMMANDS {
                break;
            }
            let Step::Command(command) = step else { continue };
            if compare::is_left_out(pair.peer, &command, false) || lives_for_moments(&command) || blocks(&command) {
                continue;
            }
            let request: Words = words(&["EVAL", text, "0"]).into_iter().chain(command.iter().cloned()).collect();
            let (ours, theirs) = pair.both(&request);
            commands += 1;
            refused += usize::from(theirs.is_error());
            if ours == Reply::error("ERR This Redis command is not allowed from script") {
                // Few of the commands that concern the connection or the server run in scripts.
                continue;
            }
            if compare::diverges(&command, &ours, &theirs) {
                pair.both(&[b"FLUSHALL".to_vec()]);
                continue;
            }
            let is_same =
                same_numbers(&ours, &theirs) || compare::agree(pair.peer, &command, &ours, &theirs, compare::APART);
            let shown: Vec<_> = command.iter().map(|word| word.escape_ascii().to_string()).collect();
            assert!(is_same, "seed {seed}, command {commands}: {shown:?}\nours   {ours:?}\ntheirs {theirs:?}");
        }
        println!("seed {seed}: {commands} commands, {refused} of them refused");
    }
}

/// Whether two replies are the same but for the digits of doubles, of which 7.0 writes seventeen.
fn same_numbers(ours: &Reply, theirs: &Reply) -> bool {
    match (ours, theirs) {
        (Reply::Many(kind, Some(ours)), Reply::Many(other, Some(theirs))) => {
            kind == other && ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| same_numbers(a, b))
        }
        (Reply::Line(',', _), Reply::Line(',', _)) => ours.number() == theirs.number(),
        _ => ours == theirs,
    }
}

/// Whether a command may block, which 7.0 refuses in a script. Newer servers run it without waiting.
fn blocks(words: &Words) -> bool {
    let name = words[0].to_ascii_uppercase();
    let names = [
        &b"BLPOP"[..],
        b"BRPOP",
        b"BLMOVE",
        b"BLMOVEM",
        b"BRPOPLPUSH",
        b"BLMPOP",
        b"BZPOPMIN",
        b"BZPOPMAX",
        b"BZMPOP",
        b"WAIT",
        b"WAITAOF",
    ];
    names.contains(&&name[..]) || words.iter().any(|word| word.eq_ignore_ascii_case(b"BLOCK"))
}

/// Whether a command gives a key a time to live that may end while the two servers are compared.
fn lives_for_moments(words: &Words) -> bool {
    let name = words[0].to_ascii_uppercase();
    [&b"EXPIRE"[..], b"PEXPIRE", b"SETEX", b"PSETEX", b"GETEX", b"EXPIREAT", b"PEXPIREAT", b"RESTORE", b"TIME"]
        .contains(&&name[..])
        || name == b"SET" && words.len() > 3
}

/// Random values through `cjson` and `cmsgpack`, and random texts into their readers.
#[test]
fn libraries_answer_as_in_redis() {
    let Some((ours, theirs)) = servers() else { return };
    let mut pair = Pair::new(&ours, &theirs, false);
    let mut random = Random::new(7);
    let mut different = Vec::new();
    for _ in 0..VALUES {
        let value = value(&mut random, 0);
        let texts = [
            format!("return cjson.encode({value})"),
            format!("return cmsgpack.pack({value})"),
            format!("return cjson.encode(cjson.decode(cjson.encode({value})))"),
            format!("return cjson.encode({{cmsgpack.unpack(cmsgpack.pack({value}))}})"),
        ];
        for text in texts {
            let (ours, theirs) = pair.both(&words(&["EVAL", &text, "0"]));
            if ours != theirs {
                different.push(format!("{text}\n    ours   {ours:?}\n    theirs {theirs:?}"));
            }
        }
        let json = spoiled(&mut random);
        for text in ["return cjson.encode(cjson.decode(ARGV[1]))", "return cjson.encode({cmsgpack.unpack(ARGV[1])})"] {
            let request = [words(&["EVAL", text, "0"]), vec![json.clone()]].concat();
            let (ours, theirs) = pair.both(&request);
            if ours != theirs {
                different.push(format!("{text} {}\n    ours   {ours:?}\n    theirs {theirs:?}", json.escape_ascii()));
            }
        }
    }
    different.truncate(20);
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// A Lua expression for a random value.
fn value(random: &mut Random, depth: usize) -> String {
    let numbers = [
        "0",
        "1",
        "-1",
        "127",
        "128",
        "255",
        "256",
        "65535",
        "65536",
        "4294967295",
        "4294967296",
        "-32",
        "-33",
        "-129",
        "-32769",
        "-2147483649",
        "9007199254740992",
        "1e15",
        "1e14",
        "99999999999999",
        "0.1",
        "1/3",
        "-1.5",
        "1e300",
        "1e-7",
        "123456.789",
        "2^63",
        "-2^63",
        "2^64",
        "1e18",
        "3.4e38",
        "16777217",
    ];
    let strings = ["''", "'x'", "'1'", "'a/b'", "'\\n\\t\\0'", "'\\200\\255'", "'é'", "('x'):rep(40)", "'\"'"];
    match random.below(if depth > 3 { 4 } else { 8 }) {
        0 | 1 => (*random.pick(&numbers)).to_owned(),
        2 => (*random.pick(&strings)).to_owned(),
        3 => (*random.pick(&["true", "false", "nil", "cjson.null"])).to_owned(),
        4 | 5 => {
            let items: Vec<_> = (0..random.below(6)).map(|_| value(random, depth + 1)).collect();
            format!("{{{}}}", items.join(", "))
        }
        6 => {
            let pairs: Vec<_> = (0..random.below(5))
                .map(|_| {
                    let key = match random.below(3) {
                        0 => random.pick(&numbers[1..12]).to_owned(),
                        // The order of a table's fields depends on how a build hashes long strings.
                        _ => *random.pick(&strings[..7]),
                    };
                    format!("[{key}] = {}", value(random, depth + 1))
                })
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
        _ => format!("{{{}, x = {}}}", value(random, depth + 1), value(random, depth + 1)),
    }
}

/// JSON with a few bytes changed.
fn spoiled(random: &mut Random) -> Vec<u8> {
    let texts: [&[u8]; 8] = [
        b"{\"a\": [1, 2.5e3, \"x\\n\\u00e9\", true, null, {}]}",
        b"[[[]], {\"k\": {\"l\": -0.5}}]",
        b"\"\\ud83d\\ude00\"",
        b" [ 1 , 2 ] ",
        b"\x93\x01\xa1x\x81\xa1k\xcb\x3f\xf0\0\0\0\0\0\0",
        b"\xcc\xff\xd1\xff\x00\xce\xff\xff\xff\xff",
        b"\xda\x00\x03abc\xc0\xc2\xc3",
        b"-12.5e-3",
    ];
    let mut text = random.pick(&texts).to_vec();
    for _ in 0..random.below(3) {
        let at = random.below(text.len());
        match random.below(3) {
            0 => text[at] = random.below(256) as u8,
            1 => text.insert(at, *random.pick(b"{}[],:\"\\0xe-.nul ")),
            _ => _ = text.remove(at),
        }
    }
    text
}

/// A script uses keys that it does not declare, of any shard, and whether or not they are in memory, even after it has
/// written.
#[test]
fn scripts_use_keys_of_any_shard_that_are_not_in_memory() {
    const KEYS: usize = 500;
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    for key in 0..KEYS {
        connection.run(&format!("SET k{key} {key}"));
    }
    for slot in [4000, 8000, 12000] {
        assert_eq!(connection.run(&format!("DORMOUSE SPLIT {slot}")), Reply::Line('+', "OK".into()));
    }
    let all = format!(
        "redis.call('incr', 'runs') local n = 0 for i = 0, {} do n = n + redis.call('get', 'k' .. i) end return n",
        KEYS - 1
    );
    let sum = Some((KEYS * (KEYS - 1) / 2) as f64);
    for run in 1..=3 {
        assert_eq!(connection.run("DORMOUSE SLEEP"), Reply::Line('+', "OK".into()));
        assert_eq!(connection.call(&words(&["EVAL", &all, "0"])).number(), sum);
        // It has run once, whatever it had to wait for.
        assert_eq!(connection.run("GET runs").number(), Some(f64::from(run)));
        assert_eq!(connection.run("DORMOUSE SLEEP"), Reply::Line('+', "OK".into()));
        connection.run("MULTI");
        connection.run("SET written 1");
        connection.call(&words(&["EVAL", "return redis.call('get', 'k7') + redis.call('get', 'written')", "0"]));
        let replies = connection.run("EXEC");
        assert_eq!(replies.items().and_then(|replies| replies.last()).and_then(Reply::number), Some(8.0));
    }
}

#[test]
fn a_script_counts_replicas_without_waiting() {
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    let mut wait = |count: &str, ms: &str| {
        connection.call(&words(&["EVAL", "return redis.pcall('WAIT', ARGV[1], ARGV[2])", "0", count, ms]))
    };
    assert_eq!(wait("1", "0"), Reply::Line(':', "0".into()));
    assert_eq!(wait("1", "-1"), Reply::error("ERR timeout is negative"));
}

#[test]
fn writes_need_as_many_replicas_as_the_settings_say() {
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    let refused = |reply: &Reply| matches!(reply, Reply::Line('-', text) if text.starts_with("NOREPLICAS Not enough good replicas to write."));
    connection.run("SET k 1");
    connection.run("MULTI");
    connection.run("INCR k");
    assert_eq!(connection.run("CONFIG GET min-slaves-to-write").items().map(<[_]>::len), None, "it is queued");
    let mut other = Connection::open(server.port());
    assert_eq!(other.run("CONFIG SET min-replicas-to-write 1"), Reply::Line('+', "OK".into()));
    let aborted = "EXECABORT Transaction discarded because of: NOREPLICAS Not enough good replicas to write.";
    assert_eq!(connection.run("EXEC"), Reply::error(aborted));
    for line in ["SET k 2", "DEL k", "FLUSHALL"] {
        let reply = connection.run(line);
        assert!(refused(&reply), "{line}: {reply:?}");
    }
    let eval = |text: &str| words(&["EVAL", text, "1", "k"]);
    assert!(refused(&connection.call(&eval("return redis.call('INCR', KEYS[1])"))));
    assert!(refused(&connection.call(&eval("#!lua\nreturn 1"))));
    assert_eq!(connection.call(&eval("return redis.call('GET', KEYS[1])")).bytes(), Some(&b"1"[..]));
    connection.run("CONFIG SET min-replicas-to-write 0");
    assert_eq!(connection.run("INCR k").number(), Some(2.0));
}

#[test]
fn scripts_get_other_random_numbers_in_every_run() {
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    let mut draw =
        || connection.call(&words(&["EVAL", "return tostring(math.random())", "0"])).bytes().unwrap().to_vec();
    let seen: std::collections::BTreeSet<Vec<u8>> = (0..20).map(|_| draw()).collect();
    assert_eq!(seen.len(), 20);
}

#[test]
fn a_script_without_an_end_is_killed() {
    let server = Server::start();
    let (mut connection, mut other) = (Connection::open(server.port()), Connection::open(server.port()));
    connection.run("CONFIG SET busy-reply-threshold 50");
    other.write(&request(&words(&["EVAL", "while true do pcall(function() while true do end end) end", "0"]))).unwrap();
    let busy = Reply::error("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.");
    let is_busy = wait_for(Duration::from_secs(20), || (connection.run("GET k") == busy).then_some(()));
    is_busy.expect("the script is long");
    // Other commands are refused too, and a transaction that lacks one of its commands does not run.
    assert_eq!(connection.run("PING"), busy);
    assert_eq!(connection.run("MULTI"), Reply::Line('+', "OK".into()));
    assert_eq!(connection.run("INCR half"), busy);
    let mut killer = Connection::open(server.port());
    assert_eq!(killer.run("SCRIPT KILL"), Reply::Line('+', "OK".into()));
    let ended = other.read().unwrap();
    assert!(matches!(&ended, Reply::Line('-', text) if text.starts_with("ERR Script killed by user")), "{ended:?}");
    assert_eq!(connection.run("INCR half"), Reply::Line('+', "QUEUED".into()));
    assert_eq!(connection.run("EXEC"), Reply::error("EXECABORT Transaction discarded because of previous errors."));
    assert_eq!(connection.run("EXISTS half").number(), Some(0.0));
    assert_eq!(connection.run("SCRIPT KILL"), Reply::error("NOTBUSY No scripts in execution right now."));
}

/// Each step of these scripts looks at megabytes, so many steps take minutes.
#[test]
fn scripts_of_long_steps_are_killed() {
    let server = Server::start();
    let mut connection = Connection::open(server.port());
    connection.run("CONFIG SET busy-reply-threshold 50");
    for work in [
        "s:lower()",
        "redis.sha1hex(s)",
        "s:find('b', 1, true)",
        "table.insert(t, 1, 0) t[#t] = nil",
        "table.concat(t)",
        "table.sort(t)",
        "local x = s < u",
    ] {
        let script = format!(
            "local s, u, t = ('a'):rep(2 ^ 23), ('a'):rep(2 ^ 23) .. 'b', {{}}
             for i = 1, 2 ^ 17 do t[i] = 1 end while true do {work} end"
        );
        let mut other = Connection::open(server.port());
        other.write(&request(&words(&["EVAL", &script, "0"]))).unwrap();
        let killed = Reply::Line('+', "OK".into());
        let kill = || (connection.run("SCRIPT KILL") == killed).then_some(());
        wait_for(Duration::from_secs(20), kill).expect("the script runs");
        let ended = other.read().unwrap();
        assert!(matches!(&ended, Reply::Line('-', text) if text.starts_with("ERR Script killed")), "{work}: {ended:?}");
    }
}

#[test]
fn functions_survive_sleep_and_crash_and_go_with_branches() {
    let mut server = Server::start();
    let mut connection = Connection::open(server.port());
    let library = "#!lua name=counters\nredis.register_function('add', function(keys, args) return redis.call('incrby', keys[1], args[1]) end)";
    assert_eq!(connection.call(&words(&["FUNCTION", "LOAD", library])).bytes(), Some(&b"counters"[..]));
    assert_eq!(connection.run("FCALL add 1 n 5").number(), Some(5.0));
    connection.run("DORMOUSE SLEEP");
    assert_eq!(connection.run("FCALL add 1 n 5").number(), Some(10.0));
    connection.run("DORMOUSE BRANCH copy");
    connection.run("DORMOUSE CHECKPOINT");
    server.crash();
    let mut connection = Connection::open(server.port());
    assert_eq!(connection.run("FCALL add 1 n 5").number(), Some(15.0));
    let dump = connection.run("FUNCTION DUMP").bytes().expect("a payload").to_vec();
    connection.run("FUNCTION FLUSH");
    assert_eq!(connection.run("FCALL add 1 n 5"), Reply::error("ERR Function not found"));
    let restore = [words(&["FUNCTION", "RESTORE"]), vec![dump]].concat();
    assert_eq!(connection.call(&restore), Reply::Line('+', "OK".into()));
    assert_eq!(connection.run("FCALL add 1 n 5").number(), Some(20.0));
    connection.run("AUTH default.copy x");
    assert_eq!(connection.run("FCALL add 1 n 1").number(), Some(11.0));
}
