//! Replies about the server, its clients and their commands that need no other server for comparison.

use crate::served::{Connection, Served, Value};

/// Opens a connection. Returns it with its connection id.
fn with_id(server: &Served) -> (Connection, i64) {
    let mut connection = server.connect();
    let id = connection.say("CLIENT ID").integer();
    (connection, id)
}

fn is_listed(clients: &Value, id: i64) -> bool {
    clients.text().lines().any(|line| line.starts_with(&format!("id={id} ")))
}

/// Returns the number of a field such as `qbuf=26` of `CLIENT INFO`.
fn field(line: &str, name: &str) -> u64 {
    let value = line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {line}")).parse().expect("a number")
}

#[test]
fn a_key_lives_for_as_long_as_was_said() {
    let server = Served::start(&[]);
    let mut clients = [server.connect(), server.connect(), server.connect(), server.connect()];
    for round in 0..2000 {
        let (first, second) = (round % 4, (round + 1) % 4);
        let time = clients[first].say("TIME");
        let part = |at: usize| time.items()[at].text().parse::<i64>().expect("a number");
        let now_us = part(0) * 1_000_000 + part(1);
        clients[second].say("SET k v PX 100000");
        let at = clients[first].say("PEXPIRETIME k").integer();
        assert!(at * 1000 + 999 >= now_us + 100_000_000, "{at} ms is less than 100 s after {now_us} us");
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        clients[first].say(&format!("PEXPIREAT k {}", since.as_millis() + 10_000));
        let left = clients[second].say("PTTL k").integer();
        assert!(left <= 10_000, "{left} ms are left of 10,000");
    }
}

#[test]
fn subscriptions_are_confirmed_while_replies_are_off() {
    for (hello, push) in [("HELLO 2", false), ("HELLO 3", true)] {
        let server = Served::start(&[]);
        let mut client = server.connect();
        client.say(hello);
        let message = |words: [Value; 3]| if push { Value::Push(words.into()) } else { Value::Array(words.into()) };
        let text = |text: &str| Value::Bulk(text.into());
        client.send(&["CLIENT", "REPLY", "OFF"]);
        client.send(&["PING"]);
        client.send(&["SUBSCRIBE", "ch"]);
        assert_eq!(client.read(), Some(message([text("subscribe"), text("ch"), Value::Integer(1)])));
        server.connect().say("PUBLISH ch m");
        assert_eq!(client.read(), Some(message([text("message"), text("ch"), text("m")])));
        client.send(&["UNSUBSCRIBE", "ch"]);
        assert_eq!(client.read(), Some(message([text("unsubscribe"), text("ch"), Value::Integer(0)])));
        // In a transaction only the pushes remain; even the array around them is left out.
        for words in
            [&["MULTI"][..], &["SUBSCRIBE", "a"], &["GET", "k"], &["PSUBSCRIBE", "p*"], &["UNSUBSCRIBE"], &["EXEC"]]
        {
            client.send(words);
        }
        for (word, name, left) in [("subscribe", "a", 1), ("psubscribe", "p*", 2), ("unsubscribe", "a", 1)] {
            assert_eq!(client.read(), Some(message([text(word), text(name), Value::Integer(left)])));
        }
        client.send(&["PUNSUBSCRIBE", "p*"]);
        assert_eq!(client.read(), Some(message([text("punsubscribe"), text("p*"), Value::Integer(0)])));
        // An error is a reply.
        client.send(&["SUBSCRIBE"]);
        client.send(&["CLIENT", "REPLY", "ON"]);
        assert_eq!(client.read(), Some(Value::Simple("OK".into())));
        client.send(&["CLIENT", "REPLY", "SKIP"]);
        client.send(&["PSUBSCRIBE", "p*"]);
        assert_eq!(client.read(), Some(message([text("psubscribe"), text("p*"), Value::Integer(1)])));
        assert_ne!(client.say("PING").to_string(), "-ERR");
    }
}

#[test]
fn messages_stand_where_a_subscriber_expects_them() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("HELLO 3");
    client.say("SUBSCRIBE a");
    // Its own messages follow the reply, and come before the confirmation that it no longer listens.
    client.write(b"PUBLISH a 1\r\nPING\r\nPUBLISH a 2\r\nUNSUBSCRIBE a\r\nPUBLISH a 3\r\nPING\r\n");
    let said: Vec<String> = (0..8).map(|_| client.read().expect("a reply").to_string()).collect();
    let is_message = |text: &str, message: &str| text.contains("message") && text.contains(message);
    assert!(said[0] == ":1" && is_message(&said[1], "1") && said[2] == "+PONG", "{said:?}");
    assert!(said[3] == ":1" && is_message(&said[4], "2") && said[5].contains("unsubscribe"), "{said:?}");
    assert_eq!(said[6..], [":0", "+PONG"]);
}

#[test]
fn an_exec_that_is_refused_ends_its_transaction() {
    let server = Served::start(&["--token", "dm_shop_s3cret"]);
    let mut client = server.connect_without();
    let aborted = "-EXECABORT Transaction discarded because of: ";
    assert_eq!(client.say("EXEC").to_string(), format!("{aborted}NOAUTH Authentication required."));
    client.say("AUTH dm_shop_s3cret");
    client.say("SUBSCRIBE a");
    assert!(client.say("EXEC").to_string().starts_with(&format!("{aborted}Can't execute 'exec'")));
}

#[test]
fn a_transaction_says_no_more_and_no_less_than_it_should() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("MULTI");
    let refused = "-ERR Command 'client|reply' not allowed inside a transaction";
    assert_eq!(client.say("CLIENT REPLY SKIP").to_string(), refused);
    client.say("PING a");
    assert_eq!(client.say("EXEC").to_string(), "-EXECABORT Transaction discarded because of previous errors.");

    client.say("SET before 1");
    client.say("MULTI");
    for line in ["SET within 1 EX 100", "INFO keyspace", "WAITAOF 0 0 0", "SELECT 1", "SET other 1", "INFO"] {
        assert_eq!(client.say(line).to_string(), "+QUEUED", "{line}");
    }
    let said = client.say("EXEC");
    let said = said.items();
    assert!(said[1].field("db0").starts_with("keys=2,expires=1,"), "{}", said[1]);
    assert_eq!(said[2].items().len(), 2);
    assert!(said[5].field("db1").starts_with("keys=1,expires=0,"), "{}", said[5]);
}

#[test]
fn a_transaction_that_asks_nothing_of_the_keys_wakes_nobody() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET k v");
    assert_eq!(client.say("DORMOUSE SLEEP").to_string(), "+OK");
    for line in ["MULTI", "PING", "INFO server", "SELECT 0", "COMMAND COUNT", "INFO dormouse"] {
        client.say(line);
    }
    let said = client.say("EXEC");
    assert_eq!(said.items()[4].field("awake"), "0");
    assert_eq!(client.say("INFO dormouse").field("awake"), "0");
    assert_eq!(client.say("GET k").to_string(), "\"v\"");
}

#[test]
fn who_was_closed_is_listed_no_more() {
    let server = Served::start(&[]);
    let mut killer = server.connect();
    for round in 0..300 {
        let (_victim, id) = with_id(&server);
        let mut other = server.connect();
        assert_eq!(killer.say(&format!("CLIENT KILL ID {id}")).integer(), 1);
        assert!(!is_listed(&other.say("CLIENT LIST"), id), "round {round}");
        assert_eq!(other.say(&format!("CLIENT KILL ID {id}")).integer(), 0, "round {round}");
        // A client that closes itself.
        let (mut suicide, id) = with_id(&server);
        suicide.say(&format!("CLIENT KILL ID {id} SKIPME no"));
        assert!(!is_listed(&other.say("CLIENT LIST"), id), "round {round}");
    }
}

#[test]
fn who_does_not_read_is_closed_when_its_time_is_over() {
    let server = Served::start(&[]);
    let mut publisher = server.connect();
    publisher.run(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 100000 1"]);
    let (mut listener, id) = with_id(&server);
    listener.say("SUBSCRIBE ch");
    let message = "m".repeat(300_000);
    for _ in 0..30 {
        publisher.run(&["PUBLISH", "ch", &message]);
    }
    publisher.say_until("CLIENT LIST", |clients| !is_listed(clients, id));
}

#[test]
fn a_client_knows_its_buffers() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.run(&["SET", "large", &"v".repeat(100_000)]);
    client.say("GET large");
    let line = client.say("CLIENT INFO");
    let line = line.text().trim_end();
    // Two words: CLIENT and INFO.
    assert_eq!(field(line, "argv-mem"), 10, "{line}");
    assert_eq!(field(line, "qbuf"), 26, "{line}");
    assert_eq!(field(line, "qbuf-free"), 0);
    assert!(field(line, "rbs") > 0 && field(line, "rbp") >= 100_000, "{line}");
    assert!(field(line, "tot-mem") > field(line, "rbs") + 36, "{line}");
    client.say("MULTI");
    client.run(&["SET", "k", &"v".repeat(10_000)]);
    let mut other = server.connect();
    let clients = other.say("CLIENT LIST");
    let line = clients.text().lines().next().expect("the first client");
    assert!((10_000..20_000).contains(&field(line, "multi-mem")), "{line}");
    client.say("DISCARD");
    assert_eq!(field(other.say("CLIENT LIST").text().lines().next().expect("the first"), "multi-mem"), 0);
}

/// Returns the names in the slow log, the newest first.
fn slow(client: &mut Connection) -> Vec<String> {
    let log = client.say("SLOWLOG GET -1");
    log.items().iter().map(|entry| entry.items()[3].items()[0].text().to_uppercase()).collect()
}

#[test]
fn slow_commands_of_the_quick_way_are_logged() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("CONFIG SET slowlog-log-slower-than 1000");
    let numbers: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
    let words = |first: &[&str], each: &dyn Fn(&str) -> Vec<String>| -> Vec<String> {
        first.iter().map(ToString::to_string).chain(numbers.iter().flat_map(|number| each(number))).collect()
    };
    let one = |number: &str| vec![number.to_string()];
    let two = |number: &str| vec![number.to_string(), number.to_string()];
    for (first, each) in [
        (&["LPUSH", "l"][..], &one as &dyn Fn(&str) -> Vec<String>),
        (&["HSET", "h"], &two),
        (&["SADD", "s"], &one),
        (&["ZADD", "z"], &two),
        (&["MGET"], &one),
    ] {
        client.say("SLOWLOG RESET");
        let words = words(first, each);
        client.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(slow(&mut client), [first[0]]);
    }
    // A large reply, alone and within a pipeline.
    client.run(&["SET", "large", &"v".repeat(64 << 20)]);
    client.say("SLOWLOG RESET");
    client.say("GET large");
    assert_eq!(slow(&mut client), ["GET"]);
    client.say("SLOWLOG RESET");
    client.write(b"PING\r\nEXISTS l\r\nGET large\r\nEXISTS l\r\nPING\r\n");
    (0..5).for_each(|_| _ = client.read());
    assert_eq!(slow(&mut client), ["GET"]);
    // A small command in a pipeline. Only its cost shows that it may be slow: it adds 2 MiB of zeros.
    client.say("CONFIG SET slowlog-log-slower-than 150");
    client.say("SLOWLOG RESET");
    let far = |key: &str| format!("SETBIT {key} 19000000 1\r\n");
    client.write(format!("PING\r\nEXISTS l\r\n{}{}{}{}PING\r\n", far("a"), far("b"), far("c"), far("d")).as_bytes());
    (0..7).for_each(|_| _ = client.read());
    let named = slow(&mut client);
    assert!(named.contains(&"SETBIT".to_owned()), "{named:?}");
    // Nothing else was logged.
    client.say("CONFIG SET slowlog-log-slower-than 10000000");
    client.say("SLOWLOG RESET");
    client.say("GET large");
    assert_eq!(client.say("SLOWLOG LEN").integer(), 0);
    // Everything is logged.
    client.say("CONFIG SET slowlog-log-slower-than 0");
    client.say("SLOWLOG RESET");
    client.write(b"PING\r\nEXISTS l\r\nSTRLEN large\r\n");
    (0..3).for_each(|_| _ = client.read());
    assert_eq!(slow(&mut client)[..3], ["STRLEN", "EXISTS", "PING"]);
}

#[test]
fn a_command_in_a_transaction_has_its_own_time() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    let numbers: Vec<String> = (0..50_000).map(|number| number.to_string()).collect();
    let words: Vec<&str> = ["RPUSH", "big"].into_iter().chain(numbers.iter().map(String::as_str)).collect();
    client.run(&words);
    client.say("CONFIG SET slowlog-log-slower-than 1000");
    client.say("CONFIG SET latency-monitor-threshold 1");
    client.say("CONFIG RESETSTAT");
    client.say("SLOWLOG RESET");
    client.say("LATENCY RESET");
    for line in ["MULTI", "SORT big STORE d", "GET k", "EXEC"] {
        client.say(line);
    }
    assert_eq!(slow(&mut client), ["SORT"]);
    let latest = client.say("LATENCY LATEST");
    let event = latest.items()[0].items();
    assert_eq!(event[0].text(), "command");
    assert!(event[2].integer() >= 1 && event[3].integer() >= event[2].integer(), "{latest}");
    assert!(!client.say("LATENCY HISTORY command").items().is_empty());
    assert_eq!(client.say("LATENCY RESET nothing").integer(), 0);
    assert_eq!(client.say("LATENCY RESET").integer(), 1);
    assert_eq!(client.say("LATENCY HISTORY command").items(), []);
    let stats = client.say("INFO commandstats");
    let usec = |name: &str| -> u64 {
        let text = stats.field(&format!("cmdstat_{name}"));
        let usec = text.split(',').find_map(|part| part.strip_prefix("usec=")).expect("usec");
        usec.parse().expect("a number")
    };
    assert!(usec("sort") >= 1000, "{}", usec("sort"));
    assert!(usec("exec") < usec("sort"), "exec {}, sort {}", usec("exec"), usec("sort"));
}

#[test]
fn times_are_told_by_histograms() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("CONFIG RESETSTAT");
    (0..100).for_each(|_| _ = client.say("GET k"));
    client.write("GET k\r\n".repeat(50).as_bytes());
    (0..50).for_each(|_| _ = client.read());
    client.say("KEYS *");
    let said = client.say("LATENCY HISTOGRAM get keys nothing");
    assert_eq!(said.items().len(), 4);
    for (name, calls) in [("get", 150), ("keys", 1)] {
        let histogram = said.at(name);
        assert_eq!(histogram.at("calls").integer(), calls);
        let steps = histogram.at("histogram_usec").items();
        assert_eq!(steps.last().expect("a step").integer(), calls, "{said}");
    }
    assert!(client.say("LATENCY HISTOGRAM config").at("config|resetstat").at("calls").integer() >= 1);
    let stats = client.say("INFO latencystats");
    let percentiles = stats.field("latency_percentiles_usec_get");
    assert!(percentiles.starts_with("p50=") && percentiles.contains(",p99.9="), "{percentiles}");
    client.say("CONFIG RESETSTAT");
    assert_eq!(client.say("LATENCY HISTOGRAM get").items(), []);
}

#[test]
fn what_keys_have_left_is_told() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    for key in 0..200 {
        client.say(&format!("SET k{key} v PX {}", 100_000 + key * 1000));
        client.say(&format!("SET forever{key} v"));
    }
    let said = client.say("INFO keyspace");
    let left = said.field("db0").split("avg_ttl=").nth(1).expect("avg_ttl").parse::<u64>().expect("a number");
    assert!((90_000..310_000).contains(&left), "{said}");
    assert!(client.say("INFO memory").field("used_memory_peak").parse::<u64>().expect("bytes") > 0);
}

#[test]
fn a_client_of_a_cluster_learns_that_there_is_none() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    for line in
        ["READONLY", "READWRITE", "ASKING", "CLUSTER KEYSLOT a", "CLUSTER MYSHARDID", "CLUSTER SETSLOT 1 STABLE"]
    {
        assert_eq!(client.say(line).to_string(), "-ERR This instance has cluster support disabled", "{line}");
    }
    assert_eq!(client.say("READONLY x").to_string(), "-ERR wrong number of arguments for 'readonly' command");
}
