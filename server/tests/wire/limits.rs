//! Memory that clients make the server keep is charged to their database, and bounded.

use crate::served::{ADMIN_TOKEN, Connection, Served, Value};

const OPTIONS: &[&str] = &["--max-memory", "64mb", "--max-memory-clients", "8mb"];

/// Returns a number of `INFO memory`.
fn info(client: &mut Connection, field: &str) -> usize {
    let text = client.say("INFO memory").text().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).parse().expect("a number")
}

fn error(reply: &Value) -> String {
    let text = reply.to_string();
    assert!(text.starts_with('-'), "{text:.100} is no error");
    text
}

const REFUSED: &str = "-OOM command not allowed when used memory > 'maxmemory-clients'.";

#[test]
fn a_reply_that_does_not_fit_is_an_error() {
    let server = Served::start(OPTIONS);
    let mut client = server.connect();
    client.run(&["SET", "big", &"x".repeat(3 << 20)]);
    assert_eq!(client.say("STRLEN big").integer(), 3 << 20);
    (0..3).for_each(|_| drop(client.run(&["RPUSH", "list", &"y".repeat(3 << 20)])));
    assert_eq!(client.say("GET big").text().len(), 3 << 20);
    let too_large = "-OOM the reply is too large: it would exceed 'maxmemory-clients'";
    for line in ["MGET big big big big", "LRANGE list 0 -1"] {
        assert_eq!(client.say(line).to_string(), too_large, "{line}");
        assert_eq!(client.say("PING").to_string(), "+PONG", "the connection goes on");
    }
    // In a transaction each reply has its place, even if it does not fit.
    client.say("MULTI");
    for line in ["GET big", "GET big", "GET big", "INCR n", "GET big"] {
        assert_eq!(client.say(line).to_string(), "+QUEUED");
    }
    let replies = client.say("EXEC");
    let replies = replies.items();
    assert_eq!(replies.len(), 5);
    assert_eq!(replies[0].text().len() + replies[1].text().len(), 6 << 20);
    for at in [2, 4] {
        assert_eq!(error(&replies[at]), too_large);
    }
    assert_eq!(replies[3].integer(), 1, "what was asked is done all the same");
    assert!(info(&mut client, "mem_clients_refused") >= 4);
    assert!(info(&mut client, "mem_clients_normal") < 1 << 20, "nothing of it stays");
    assert!(info(&mut client, "mem_clients_peak") <= 8 << 20);
}

#[test]
fn a_reply_is_bounded_by_the_output_limit_too() {
    let server = Served::start(&["--client-output-buffer-limit", "normal 1mb 0 0"]);
    let mut client = server.connect();
    client.run(&["SET", "big", &"x".repeat(900 << 10)]);
    assert_eq!(client.say("GET big").text().len(), 900 << 10);
    let error = client.say("MGET big big").to_string();
    assert_eq!(error, "-OOM the reply is too large: it would exceed 'client-output-buffer-limit'");
    assert_eq!(client.say("PING").to_string(), "+PONG");
}

#[test]
fn names_are_bounded() {
    let server = Served::start(OPTIONS);
    let mut client = server.connect();
    let (longest, longer) = ("n".repeat(1024), "n".repeat(1025));
    let refused = "-ERR a name may have at most 1024 bytes";
    assert_eq!(client.run(&["CLIENT", "SETNAME", &longest]).to_string(), "+OK");
    for words in [
        &["CLIENT", "SETNAME", &longer][..],
        &["CLIENT", "SETINFO", "LIB-NAME", &longer],
        &["CLIENT", "SETINFO", "LIB-VER", &longer],
        &["HELLO", "2", "SETNAME", &longer],
    ] {
        assert_eq!(client.run(words).to_string(), refused);
    }
    assert_eq!(client.say("CLIENT GETNAME").text(), longest);
}

#[test]
fn subscriptions_and_watches_are_charged_and_let_go() {
    let server = Served::start(OPTIONS);
    let (mut client, mut other) = (server.connect(), server.connect());
    client.say("HELLO 3");
    let empty = info(&mut other, "mem_clients_normal");
    let name = |n: usize| format!("{n}{}", "c".repeat(1 << 20));
    let mut held = 0;
    let refusal = loop {
        let reply = client.run(&["SUBSCRIBE", &name(held)]);
        if !matches!(reply, Value::Push(_)) {
            break error(&reply);
        }
        held += 1;
    };
    assert_eq!(refusal, REFUSED);
    assert!((4..8).contains(&held), "{held} names of 1 MiB");
    assert!(info(&mut other, "mem_clients_normal") >= held << 20);
    assert_eq!(other.say("PUBSUB CHANNELS nothing*").items().len(), 0);
    // All of one command's names or none are added.
    client.say("RESET");
    client.say("HELLO 3");
    let names: Vec<String> = (0..3).map(name).collect();
    let words: Vec<&str> = ["SUBSCRIBE"].into_iter().chain(names.iter().map(String::as_str)).collect();
    assert_eq!(error(&client.run(&words)), REFUSED);
    assert_eq!(other.run(&["PUBLISH", &names[0], "m"]).integer(), 0);
    for (command, way_back) in [("WATCH", "UNWATCH"), ("WATCH", "RESET"), ("PSUBSCRIBE", "RESET")] {
        client.say("HELLO 3");
        while !client.run(&[command, &format!("{}?", name(held))]).to_string().starts_with('-') {
            held += 1;
        }
        assert!(info(&mut other, "mem_clients_normal") > empty + (1 << 20), "{command}");
        client.say(way_back);
        assert!(info(&mut other, "mem_clients_normal") < empty + (256 << 10), "{way_back}");
    }
}

#[test]
fn a_queue_is_charged() {
    let server = Served::start(OPTIONS);
    let (mut client, mut other) = (server.connect(), server.connect());
    let value = "v".repeat(1 << 20);
    client.say("MULTI");
    let queued = (0..20).take_while(|_| client.run(&["SET", "k", &value]).to_string() == "+QUEUED").count();
    assert!((4..8).contains(&queued), "{queued} values of 1 MiB");
    let abort = "-EXECABORT Transaction discarded because of previous errors.";
    assert_eq!(client.say("EXEC").to_string(), abort);
    assert!(info(&mut other, "mem_clients_normal") < 256 << 10);
    client.say("MULTI");
    assert_eq!(client.run(&["SET", "k", &value]).to_string(), "+QUEUED");
    assert!(info(&mut other, "mem_clients_normal") > 1 << 20);
    client.say("EXEC");
    assert!(info(&mut other, "mem_clients_normal") < 256 << 10);
}

#[test]
fn a_request_that_does_not_fit_ends_its_connection_only() {
    let server = Served::start(OPTIONS);
    let (mut client, mut other) = (server.connect(), server.connect());
    client.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$67108864\r\n");
    let piece = vec![b'x'; 1 << 20];
    // The server may close the connection before it has read everything.
    let _ = (0..64).try_for_each(|_| client.try_write(&piece));
    assert!(client.read().is_none_or(|reply| reply.to_string() == REFUSED));
    assert_eq!(other.say("PING").to_string(), "+PONG");
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_when_the_account_is_full() {
    let server = Served::start(OPTIONS);
    let (mut client, mut other) = (server.connect(), server.connect());
    client.say("HELLO 3");
    client.say("SUBSCRIBE c");
    let message = "m".repeat(1 << 20);
    let mut heard = 0;
    while other.run(&["PUBLISH", "c", &message]).integer() == 1 {
        heard += 1;
        assert!(heard < 100, "it hears everything though it reads nothing");
    }
    assert!(info(&mut other, "mem_clients_peak") <= 9 << 20);
}

#[test]
fn branches_are_bounded_and_share_a_limit() {
    let server = Served::start(&["--token", "dm_shop_s", "--max-memory", "4mb", "--max-branches", "3"]);
    let mut client = server.connect();
    for n in 0..3 {
        assert_eq!(client.say(&format!("DORMOUSE BRANCH b{n}")).to_string(), "+OK");
    }
    let refused = "-ERR a database may have at most 3 branches (max-branches): delete one first";
    assert_eq!(client.say("DORMOUSE BRANCH b3").to_string(), refused);
    assert_eq!(client.say("DORMOUSE DELETE b2").to_string(), "+OK");
    assert_eq!(client.say("DORMOUSE BRANCH b3").to_string(), "+OK");
    // Memory that the database uses is not available to its branches.
    let value = "v".repeat(1 << 18);
    let stored = (0..30).take_while(|n| client.run(&["SET", &format!("k{n}"), &value]).to_string() == "+OK").count();
    assert!((14..=17).contains(&stored), "{stored} values of 256 KiB");
    let mut of_branch = server.connect_without();
    assert_eq!(of_branch.run(&["AUTH", "shop.b0", "dm_shop_s"]).to_string(), "+OK");
    let full = "-OOM command not allowed when used memory > 'maxmemory'.";
    let set = format!("SET k {value}");
    of_branch.say_until(&set, |reply| reply.to_string() == full);
    client.say("FLUSHALL");
    of_branch.say_until(&set, |reply| reply.to_string() == "+OK");
}

#[test]
fn an_evicting_database_keeps_its_limit_over_several_shards() {
    const LIMIT: usize = 8 << 20;
    let server = Served::start(&["--max-memory", "8mb", "--max-memory-policy", "allkeys-lru"]);
    let mut client = server.connect();
    for slot in ["4096", "8192", "12288"] {
        client.say("SET seed 1");
        assert_eq!(client.say(&format!("DORMOUSE SPLIT {slot}")).to_string(), "+OK");
    }
    let used = |client: &mut Connection| info(client, "used_memory_dataset");
    let small = "s".repeat(60);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (mut client, small) = (server.connect(), &small);
            scope.spawn(move || {
                for n in 0..10_000 {
                    client.send(&["SET", &format!("small:{writer}:{n}"), small]);
                    if n % 100 == 99 {
                        (0..100).for_each(|_| assert_eq!(client.read().expect("a reply").to_string(), "+OK"));
                    }
                }
            });
        }
    });
    assert!(used(&mut client) <= LIMIT);
    let large = "l".repeat(1 << 20);
    for n in 0..20 {
        assert_eq!(client.run(&["SET", &format!("large:{n}"), &large]).to_string(), "+OK");
        let used = used(&mut client);
        assert!(used <= LIMIT, "{used} bytes in use");
    }
    // A transaction makes room for all of its writes before it begins.
    client.say("MULTI");
    for n in 0..4 {
        client.run(&["SET", &format!("queued:{n}"), &large]);
    }
    assert_eq!(client.say("EXEC").items().len(), 4);
    assert!(used(&mut client) <= LIMIT);
    // A transaction that can never fit is refused and evicts nothing.
    let keys = client.say("DBSIZE").integer();
    let reply = client.run(&["SET", "huge", &"h".repeat(9 << 20)]).to_string();
    assert!(reply.starts_with("-OOM"), "{reply}");
    assert_eq!(client.say("DBSIZE").integer(), keys);
    // A lowered limit takes effect without a write.
    assert_eq!(client.say("CONFIG SET maxmemory 2mb").to_string(), "+OK");
    client.say_until("INFO memory", |reply| {
        let used = reply.text().lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
        used.is_some_and(|used| used.parse::<usize>().expect("a number") <= 2 << 20)
    });
}

/// A few bytes that request half a gigabyte of zeros are refused like a value of that size.
#[test]
fn a_far_bit_is_refused_before_it_is_stored() {
    let server = Served::start(&["--max-memory", "4mb"]);
    let mut client = server.connect();
    let full = "-OOM command not allowed when used memory > 'maxmemory'.";
    assert_eq!(client.say("SETBIT k 100 1").to_string(), ":0");
    for line in
        ["SETBIT k 4294967295 1", "SETBIT new 4294967295 1", "SETRANGE k 536870911 x", "BITFIELD k SET u8 4294967280 1"]
    {
        assert_eq!(client.say(line).to_string(), full, "{line}");
    }
    assert_eq!(client.say("STRLEN k").to_string(), ":13");
    assert_eq!(client.say("SETBIT k 8000000 1").to_string(), ":0");
    assert_eq!(client.say("BITFIELD k GET u8 4294967280").to_string(), "[:0]");
}

#[test]
fn long_patterns_do_not_hold_the_server() {
    let server = Served::start(&[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    let text = "a".repeat(512 << 10);
    client.run(&["SET", &text, "1"]);
    client.run(&["SADD", "s", &text, "x"]);
    client.run(&["HSET", "h", &text, "x"]);
    client.run(&["ZADD", "z", "1", &text]);
    client.say("HELLO 3");
    other.run(&["SUBSCRIBE", &text]);
    let long = format!("*{}b", "a".repeat(256 << 10));
    let class = format!("*[{}]q", "ab".repeat(100_000));
    // Each would take minutes if the cost were the product of the lengths.
    for pattern in [&long, &class] {
        assert_eq!(client.run(&["KEYS", pattern]).items().len(), 0);
        assert_eq!(client.run(&["SCAN", "0", "MATCH", pattern]).items()[1].items().len(), 0);
        for (scan, key) in [("SSCAN", "s"), ("HSCAN", "h"), ("ZSCAN", "z")] {
            assert_eq!(client.run(&[scan, key, "0", "MATCH", pattern]).items()[1].items().len(), 0, "{scan}");
        }
        assert_eq!(client.run(&["PUBSUB", "CHANNELS", pattern]).items().len(), 0);
        assert_eq!(client.run(&["CONFIG", "GET", pattern]).items().len(), 0);
        assert!(matches!(client.run(&["PSUBSCRIBE", pattern]), Value::Push(_)));
        assert_eq!(server.connect().run(&["PUBLISH", &text, "m"]).integer(), 1);
        client.run(&["PUNSUBSCRIBE", pattern]);
    }
    let refused = "-ERR the pattern is too complex: between its stars it may have at most 4096 elements in parts with '?' \
                   or '['";
    let complex = format!("*{}*", "[ab]".repeat(5000));
    for words in [
        &["KEYS", &complex][..],
        &["SCAN", "0", "MATCH", &complex],
        &["SSCAN", "s", "0", "MATCH", &complex],
        &["PSUBSCRIBE", &complex],
    ] {
        assert_eq!(client.run(words).to_string(), refused, "{}", words[0]);
    }
}

#[test]
fn more_arguments_than_the_limit_end_the_connection() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.write(b"*1048577\r\n");
    assert_eq!(client.read().unwrap().to_string(), "-ERR Protocol error: invalid multibulk length");
    assert_eq!(client.read(), None);
    let mut client = server.connect();
    client.write(b"*1048576\r\n$4\r\nPING\r\n");
    client.write("$0\r\n\r\n".repeat((1 << 20) - 1).as_bytes());
    assert_eq!(client.read().unwrap().to_string(), "-ERR wrong number of arguments for 'ping' command");
}

#[test]
fn a_transaction_that_grows_without_bound_is_stopped() {
    let server = Served::start(&["--max-memory", "40mb"]);
    let mut client = server.connect();
    let full = "OOM command not allowed when used memory > 'maxmemory'.";
    // A transaction known to need too much is refused as a whole, before anything is done.
    client.say("MULTI");
    client.say("SET first 1");
    for n in 0..20 {
        assert_eq!(client.say(&format!("SETRANGE range{n} 10000000 x")).to_string(), "+QUEUED");
    }
    assert_eq!(client.say("EXEC").to_string(), format!("-EXECABORT Transaction discarded because of: {full}"));
    assert_eq!(client.say("DBSIZE").integer(), 0);
    // The size of a copy of data that the transaction itself makes is known only then.
    client.say("MULTI");
    for line in ["SET first 1", "SETRANGE range 10000000 x"] {
        assert_eq!(client.say(line).to_string(), "+QUEUED");
    }
    for n in 0..20 {
        assert_eq!(client.say(&format!("COPY range range{n}")).to_string(), "+QUEUED");
    }
    client.say("DEL first");
    let replies = client.say("EXEC");
    let replies = replies.items();
    let done = replies[2..22].iter().take_while(|reply| **reply == Value::Integer(1)).count();
    assert!((2..=5).contains(&done), "{done} copies of 10 MB");
    assert_eq!(replies[21].to_string(), format!("-{full}"));
    assert_eq!(replies[22].integer(), 1, "what takes no memory is done");
    assert!(info(&mut client, "used_memory") < 64 << 20);
}

#[test]
fn a_server_that_ends_answers_what_it_has_begun() {
    let server = Served::start(&[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    let numbers: Vec<String> = (0..10_000).map(|n| (n * 7919 % 10_007).to_string()).collect();
    let mut words = vec!["RPUSH", "list"];
    words.extend(numbers.iter().map(String::as_str));
    (0..2).for_each(|_| drop(client.run(&words)));
    // Several of them: one may finish before it is seen. All are to end within the time that a server has to end, on any
    // machine.
    for _ in 0..3 {
        client.send(&["SORT", "list", "DESC", "LIMIT", "0", "1"]);
    }
    other.say_until("CLIENT LIST", |clients| clients.text().contains("cmd=sort"));
    other.send(&["SHUTDOWN", "NOSAVE"]);
    for _ in 0..3 {
        assert_eq!(client.read().expect("it is answered").items()[0].text(), "10006");
    }
    assert_eq!(client.read(), None);
    drop(other);
    server.ended().unwrap();
}

/// Sends one command again and again in a pipeline. Returns how many were not over the rate, and the first refusal.
fn pipeline(client: &mut Connection, line: &str, count: usize) -> (usize, Option<String>) {
    let words: Vec<&str> = line.split(' ').collect();
    (0..count).for_each(|_| client.send(&words));
    let replies: Vec<String> = (0..count).map(|_| client.read().unwrap().to_string()).collect();
    let is_refused = |reply: &String| reply.starts_with(OVER_RATE);
    let refused = replies.iter().filter(|reply| is_refused(reply)).count();
    (count - refused, replies.into_iter().find(is_refused))
}

const OVER_RATE: &str = "-ERR max requests limit exceeded. Limit: 1, Usage: ";

#[test]
fn requests_over_the_rate_are_refused() {
    let options = ["--max-requests-per-second", "1", "--max-requests-burst", "50"];
    let tokens = ["--token", "dm_shop_abcdefgh", "--token", "dm_other_abcdefgh"];
    let server = Served::start(&[&options[..], &tokens].concat());
    let mut client = server.connect();
    let start = std::time::Instant::now();
    let (served, error) = pipeline(&mut client, "INCR n", 500);
    let refilled = start.elapsed().as_secs() as usize + 1;
    assert!((50..=50 + refilled).contains(&served), "{served} of a burst of 50");
    let error = error.unwrap();
    let usage: u64 = error.strip_prefix(OVER_RATE).unwrap().parse().unwrap();
    assert!((50..=500).contains(&usage), "{error}");
    // What was refused has not been run. Another connection of the database has no requests either, whatever they are.
    let mut other = server.connect();
    let count = other.say_until("GET n", |reply| !reply.to_string().starts_with(OVER_RATE)).to_string();
    assert_eq!(count, format!("\"{served}\""));
    for line in ["SET a 1", "PING", "NOTHING", "SUBSCRIBE", "EVAL return{} 0"] {
        assert!(pipeline(&mut other, line, 10).1.is_some(), "{line}");
    }
    assert_eq!(other.say_until("PING", |reply| !reply.to_string().starts_with('-')).to_string(), "+PONG");
    // A database with requests left notices nothing, nor does the operator.
    let mut quiet = server.connect_with("dm_other_abcdefgh");
    assert_eq!(pipeline(&mut quiet, "INCR n", 40), (40, None));
    let mut admin = server.connect_as_admin();
    assert_eq!(pipeline(&mut admin, "INCR n", 200), (200, None));
    assert_eq!(admin.run(&["AUTH", "shop", ADMIN_TOKEN]).to_string(), "+OK");
    let info = admin.say("INFO everything");
    assert!(info.field("refused_requests").parse::<usize>().unwrap() >= 500 - served);
    assert_eq!((info.field("max_requests_per_second"), info.field("max_requests_burst")), ("1", "50"));
    assert!(info.field("errorstat_ERR").starts_with("count="));
    assert!(!info.field("cmdstat_incr").contains("rejected_calls=0"), "{info}");
}

#[test]
fn branches_share_the_rate_of_their_database() {
    let options = ["--max-requests-per-second", "1", "--max-requests-burst", "50", "--token", "dm_shop_abcdefgh"];
    let server = Served::start(&options);
    let mut client = server.connect();
    for name in ["b0", "b1", "b2"] {
        client.say_until(&format!("DORMOUSE BRANCH {name}"), |reply| reply.to_string() == "+OK");
    }
    let mut enter = |name: &str| {
        let mut client = server.connect_without();
        assert_eq!(client.run(&["AUTH", name, "dm_shop_abcdefgh"]).to_string(), "+OK");
        pipeline(&mut client, "INCR n", 50).0
    };
    let served = ["shop", "shop.b0", "shop.b1", "shop.b2"].map(&mut enter);
    assert!(served.iter().sum::<usize>() < 60, "{served:?}");
}

#[test]
fn a_transaction_over_the_rate_is_discarded() {
    let options = ["--max-requests-per-second", "1", "--max-requests-burst", "50", "--token", "dm_shop_abcdefgh"];
    let server = Served::start(&options);
    let mut client = server.connect();
    assert_eq!(client.say("MULTI").to_string(), "+OK");
    let (queued, error) = pipeline(&mut client, "INCR n", 100);
    assert!((40..60).contains(&queued) && error.is_some(), "{queued}");
    assert_eq!(client.say("EXEC").to_string(), "-EXECABORT Transaction discarded because of previous errors.");
    // Nothing is left open: this one is run, as soon as it may be.
    assert_eq!(client.say_until("INCR n", |reply| !reply.to_string().starts_with('-')).to_string(), ":1");
    // A client may always leave.
    let mut other = server.connect();
    assert_eq!(other.say("RESET").to_string(), "+RESET");
    assert_eq!(client.say("QUIT").to_string(), "+OK");
}

/// `MULTI` has no effect of its own, and what follows a refused one would run by itself.
#[test]
fn a_transaction_runs_whole_or_not_at_all() {
    let options = ["--max-requests-per-second", "100000", "--max-requests-burst", "1", "--token", "dm_shop_abcdefgh"];
    let server = Served::start(&options);
    let mut client = server.connect();
    const TRANSACTIONS: usize = 2000;
    for _ in 0..TRANSACTIONS {
        ["MULTI", "INCR n", "EXEC"].iter().for_each(|line| client.send(&line.split(' ').collect::<Vec<_>>()));
    }
    let replies: Vec<String> = (0..3 * TRANSACTIONS).map(|_| client.read().unwrap().to_string()).collect();
    let bare = replies.iter().find(|reply| reply.starts_with(':'));
    assert_eq!(bare, None, "a command of a transaction has run outside");
    assert!(replies.iter().any(|reply| reply.starts_with("-EXECABORT")), "the rate was never reached");
}

#[test]
fn requests_that_are_too_large_are_answered() {
    let server = Served::start(&["--max-request-size", "10kb"]);
    let mut client = server.connect();
    let (small, large, huge) = ("s".repeat(8 << 10), "l".repeat(12 << 10), "h".repeat(4 << 20));
    let refused = "-ERR max request size exceeded";
    for value in [&small, &large, &huge, &small, &large] {
        client.send(&["SET", "k", value]);
        client.send(&["INCR", "n"]);
    }
    let replies: Vec<String> = (0..10).map(|_| client.read().unwrap().to_string()).collect();
    let expected = ["+OK", ":1", refused, ":2", refused, ":3", "+OK", ":4", refused, ":5"];
    assert_eq!(replies, expected, "the connection goes on");
    assert_eq!(client.say("STRLEN k").integer(), 8 << 10);
    assert_eq!(client.say("MULTI").to_string(), "+OK");
    assert_eq!(client.run(&["SET", "k", &large]).to_string(), refused);
    assert!(client.say("EXEC").to_string().starts_with("-EXECABORT"));
    // A pipeline of small requests is no large one.
    let (count, error) = pipeline(&mut client, "SET a 1", 5000);
    assert_eq!((count, error), (5000, None));
    let info = client.say("INFO dormouse");
    assert_eq!((info.field("max_request_size"), info.field("refused_requests")), ("10240", "4"));
}

#[test]
fn records_that_are_too_large_are_refused() {
    let server = Served::start(&["--max-value-size", "10kb", "--max-key-size", "100"]);
    let mut client = server.connect();
    let (key, long_key) = ("k".repeat(100), "k".repeat(101));
    let (six, nine, eleven) = ("s".repeat(6 << 10), "n".repeat(9 << 10), "e".repeat(11 << 10));
    let add = "return redis.call('APPEND', KEYS[1], ARGV[1])";
    let value = "-ERR max single record size exceeded";
    let of_key = "-ERR max key size exceeded. Limit: 100 bytes, Actual: 101 bytes";
    for (words, expected) in [
        (&["SET", &key, &nine][..], "+OK"),
        (&["APPEND", &key, &six], value),
        (&["EVAL", add, "1", &key, &six], "-ERR max single record size exceeded script: "),
        // What replaces a value has all of the room.
        (&["SET", &key, &nine], "+OK"),
        (&["SETEX", &key, "100", &nine], "+OK"),
        (&["MSET", &key, &nine, "other", &nine, "third", &nine], "+OK"),
        (&["MSET", &key, "1", "other", &eleven], value),
        (&["SET", &key, &eleven], value),
        (&["SETNX", "new", &eleven], value),
        (&["SETRANGE", &key, "10300", "x"], value),
        (&["SETBIT", "bits", "100000", "1"], value),
        (&["SETBIT", "bits", "70000", "1"], ":0"),
        (&["BITFIELD", &key, "GET", "u8", "0"], "[:110]"),
        (&["COPY", &key, "copy"], ":1"),
        (&["RPUSH", "list", &six], ":1"),
        (&["RPUSH", "list", &six], value),
        (&["LPUSHX", "list", "a", "b"], ":3"),
        (&["LPOP", "list"], "\"b\""),
        (&["HSET", "hash", "a", &six], ":1"),
        (&["HSET", "hash", "b", &six], value),
        (&["HDEL", "hash", "a"], ":1"),
        (&["HSET", "hash", "b", &six], ":1"),
        (&["SADD", "one", &six], ":1"),
        (&["SADD", "two", &nine], ":1"),
        (&["SUNIONSTORE", "both", "one", "two"], value),
        (&["SUNIONSTORE", "both", "one"], ":1"),
        // Commands that Redis does not refuse without memory, but that add to a record.
        (&["SADD", "three", &nine], ":1"),
        (&["SMOVE", "one", "three", &six], value),
        (&["SMOVE", "three", "four", &nine], ":1"),
        (&["XGROUP", "CREATE", "jobs", "g", "$", "MKSTREAM"], "+OK"),
        (&["XADD", "jobs", "1-1", "f", "v"], "\"1-1\""),
        (&["XREADGROUP", "GROUP", "g", "c", "STREAMS", "jobs", ">"], "[[\"jobs\" [[\"1-1\" [\"f\" \"v\"]]]]]"),
        (&["XREADGROUP", "GROUP", "g", &six, "STREAMS", "jobs", ">"], "nil"),
        (&["XREADGROUP", "GROUP", "g", &nine, "STREAMS", "jobs", ">"], value),
        (&["XREADGROUP", "GROUP", "g", &six, "STREAMS", "jobs", ">"], "nil"),
        (&["XCLAIM", "jobs", "g", &nine, "0", "1-1", "JUSTID"], value),
        (&["XAUTOCLAIM", "jobs", "g", &nine, "0", "0", "JUSTID"], value),
        (&["XCLAIM", "jobs", "g", "c", "0", "1-1", "JUSTID"], "[\"1-1\"]"),
        (&["XACK", "jobs", "g", "1-1"], ":1"),
        (&["ZADD", "z", "1", &six, "2", &nine], value),
        (&["ZADD", "z", "1", &six], ":1"),
        (&["ZUNIONSTORE", "zs", "2", "z", "two"], value),
        (&["XADD", "x", "*", "f", &eleven], value),
        (&["SORT", "list", "ALPHA", "STORE", "sorted"], ":2"),
        // Keys.
        (&["SET", &long_key, "1"], of_key),
        (&["RPUSH", &long_key, "1"], of_key),
        (&["MSET", "a", "1", &long_key, "1"], of_key),
        (&["RENAME", "list", &long_key], of_key),
        (&["GET", &long_key], "nil"),
        (&["DEL", &long_key], ":0"),
        // A request that was refused leaves no receipt.
        (&["ONCE", "r", "60000", "APPEND", &key, &six], value),
        (&["DEL", &key], ":1"),
        (&["ONCE", "r", "60000", "APPEND", &key, &six], ":6144"),
    ] {
        let reply = client.run(words).to_string();
        let is_right = reply == expected || expected.ends_with("script: ") && reply.starts_with(expected);
        assert!(is_right, "{:?}: {reply}", words.iter().map(|word| &word[..word.len().min(20)]).collect::<Vec<_>>());
    }
    client.say("MULTI");
    for value in [&six, &six] {
        client.run(&["APPEND", "queued", value]);
    }
    assert_eq!(client.say("EXEC").to_string(), format!("[:6144 {value}]"));
}

#[test]
fn reads_and_deletes_go_on_without_memory() {
    let server = Served::start(&["--max-memory", "2mb"]);
    let mut client = server.connect();
    client.say("RPUSH list a b c");
    client.say("HSET hash a 1 b 2");
    client.say("SET counter 5");
    let full = "-OOM command not allowed when used memory > 'maxmemory'.";
    let value = "v".repeat(64 << 10);
    let set = |client: &mut Connection, at: usize| client.run(&["SET", &format!("k{at}"), &value]).to_string();
    let stored = (0..100).take_while(|at| set(&mut client, *at) == "+OK").count();
    assert!((20..40).contains(&stored), "{stored} values of 64 KiB");
    for (line, expected) in [
        ("STRLEN k0", ":65536"),
        ("GETRANGE k0 0 1", "\"vv\""),
        ("LRANGE list 0 -1", "[\"a\" \"b\" \"c\"]"),
        ("EXISTS k1 none", ":1"),
        ("EVAL return{redis.call('GET','counter')} 0", "[\"5\"]"),
        ("LPOP list", "\"a\""),
        ("LTRIM list 0 0", "+OK"),
        ("HDEL hash a", ":1"),
        ("EXPIRE hash 100", ":1"),
        ("RENAME hash renamed", "+OK"),
        ("GETDEL counter", "\"5\""),
        ("UNLINK k0", ":1"),
        ("DEL k1", ":1"),
    ] {
        assert_eq!(client.say(line).to_string(), expected, "{line}");
    }
    client.say_until(&format!("SET k0 {value}"), |reply| reply.to_string() == "+OK");
    assert!((0..10).any(|at| set(&mut client, 100 + at) == full));
    assert_eq!(client.say("FLUSHALL").to_string(), "+OK");
    client.say_until(&format!("SET k0 {value}"), |reply| reply.to_string() == "+OK");
}

#[test]
fn connections_are_limited() {
    let server =
        Served::start(&["--max-connections", "3", "--token", "dm_shop_abcdefgh", "--token", "dm_other_abcdefgh"]);
    let mut all: Vec<Connection> = (0..3).map(|_| server.connect()).collect();
    let refused = "-ERR max concurrent connections exceeded";
    let enter = |server: &Served| server.connect_without().run(&["AUTH", "dm_shop_abcdefgh"]).to_string();
    assert_eq!(enter(&server), refused);
    // A branch is no way around it. The others, and the operator, are not concerned.
    assert_eq!(all[0].say("DORMOUSE BRANCH b").to_string(), "+OK");
    assert_eq!(server.connect_without().run(&["AUTH", "shop.b", "dm_shop_abcdefgh"]).to_string(), refused);
    assert_eq!(server.connect_with("dm_other_abcdefgh").say("PING").to_string(), "+PONG");
    assert_eq!(server.connect_without().run(&["AUTH", "shop", ADMIN_TOKEN]).to_string(), "+OK");
    assert_eq!(all[1].run(&["AUTH", "dm_shop_abcdefgh"]).to_string(), "+OK", "who is in may log in again");
    all.pop();
    let mut client = server.connect_without();
    while client.run(&["AUTH", "dm_shop_abcdefgh"]).to_string() != "+OK" {
        client = server.connect_without();
    }
    assert_eq!(client.say("GET a").to_string(), "nil");
}
