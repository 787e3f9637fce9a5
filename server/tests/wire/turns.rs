//! Session commands that take more than a turn reply as they do otherwise.

use crate::served::{Connection, Served, Value};

/// Far more names than one turn takes.
const MANY: usize = 12_000;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("name{n}")).collect()
}

fn send_all(client: &mut Connection, command: &str, names: &[String]) {
    client.send(&std::iter::once(command).chain(names.iter().map(String::as_str)).collect::<Vec<_>>());
}

fn confirmation(value: &Value) -> (String, String, i64) {
    let items = value.items();
    let name = if items[1] == Value::Null { String::new() } else { items[1].text().to_owned() };
    (items[0].text().to_owned(), name, items[2].integer())
}

#[test]
fn many_names_are_subscribed_to_one_by_one() {
    let server = Served::start(&[]);
    let (mut listener, mut other) = (server.connect(), server.connect());
    let names = names(MANY);
    for (adds, removes) in [("subscribe", "unsubscribe"), ("psubscribe", "punsubscribe")] {
        send_all(&mut listener, adds, &names);
        for (n, name) in names.iter().enumerate() {
            let confirmed = confirmation(&listener.read().unwrap());
            assert_eq!(confirmed, (adds.to_owned(), name.clone(), n as i64 + 1));
        }
        assert_eq!(other.say("PUBLISH name7 hello").integer(), 1);
        assert_eq!(listener.read().unwrap().items().last().unwrap().text(), "hello");
        // Half of them by name, the rest at once.
        send_all(&mut listener, removes, &names[..MANY / 2]);
        for (n, name) in names[..MANY / 2].iter().enumerate() {
            let confirmed = confirmation(&listener.read().unwrap());
            assert_eq!(confirmed, (removes.to_owned(), name.clone(), (MANY - n) as i64 - 1));
        }
        listener.send(&[removes]);
        let left = MANY - MANY / 2;
        let confirmed: Vec<_> = (0..left).map(|_| confirmation(&listener.read().unwrap())).collect();
        assert!(confirmed.iter().all(|(word, _, _)| word == removes));
        assert_eq!(confirmed.last().unwrap().2, 0);
        assert_eq!(other.say("PUBLISH name7 hello").integer(), 0);
        // It no longer listens, so it may send any command.
        assert_eq!(listener.say("GET none"), Value::Null);
    }
}

#[test]
fn of_many_patterns_all_are_subscribed_to_or_none() {
    let server = Served::start(&[]);
    let (mut listener, mut other) = (server.connect(), server.connect());
    let mut patterns = names(MANY);
    patterns.push(format!("*{}*", "?".repeat(5000)));
    send_all(&mut listener, "PSUBSCRIBE", &patterns);
    let refusal = listener.read().unwrap().to_string();
    assert!(refusal.starts_with("-ERR the pattern is too complex"), "{refusal}");
    assert_eq!(other.say("PUBSUB NUMPAT").integer(), 0);
    assert_eq!(listener.say("GET none"), Value::Null);
    let clients = other.say("CLIENT LIST").text().to_owned();
    assert!(!clients.contains("psub=1"), "{clients}");
}

#[test]
fn many_channels_are_told_of() {
    let server = Served::start(&[]);
    let (mut listener, mut other) = (server.connect(), server.connect());
    let names = names(MANY);
    send_all(&mut listener, "SUBSCRIBE", &names);
    (0..MANY).for_each(|_| drop(listener.read().unwrap()));
    for (line, expected) in [("PUBSUB CHANNELS", MANY), ("PUBSUB CHANNELS name1*", 3_111), ("PUBSUB CHANNELS x*", 0)] {
        assert_eq!(other.say(line).items().len(), expected, "{line}");
    }
    let words: Vec<&str> = ["PUBSUB", "NUMSUB"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let counts = other.run(&[&words[..], &["none"]].concat());
    let (last, known) = counts.items().split_at(2 * MANY);
    assert_eq!(known, [Value::Bulk("none".into()), Value::Integer(0)]);
    assert!(last.chunks(2).zip(&names).all(|(pair, name)| pair[0].text() == name && pair[1].integer() == 1));
}

#[test]
fn many_commands_are_told_of() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    for command in ["INFO", "DOCS"] {
        let few = client.run(&["COMMAND", command, "get", "client|list", "none"]);
        let repeated = ["get", "client|list", "none"].repeat(100);
        let many = client.run(&[&["COMMAND", command], &repeated[..]].concat());
        assert_eq!(many.items().len(), 100 * few.items().len(), "{command}");
        assert!(many.items().chunks(few.items().len()).all(|some| some == few.items()), "{command}");
    }
    assert_eq!(client.say("COMMAND DOCS get").items()[0].text(), "get");
}

#[test]
fn what_is_named_many_times_is_told_once() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    let own = client.say("CLIENT ID").integer().to_string();
    let mut words = vec!["CLIENT", "LIST", "ID"];
    words.extend([&*own, "999999999"].repeat(MANY));
    assert_eq!(client.run(&words).text().lines().count(), 1);
    let mut words = vec!["CONFIG", "GET"];
    words.extend(["maxmemory", "none", "[x]*", "maxmemor?"].repeat(MANY));
    assert_eq!(client.run(&words).items().len(), 2);
    let mut words = vec!["LATENCY", "HISTOGRAM"];
    words.extend(["client", "client|id", "none", "none|id"].repeat(MANY));
    let told = client.run(&words);
    let names: Vec<&str> = told.items().iter().step_by(2).map(Value::text).collect();
    assert_eq!(names, ["client|id", "client|list"]);
}

/// Each pattern examines each byte of the channel, so the message takes far more than a turn.
#[test]
fn a_message_to_long_patterns_reaches_everybody() {
    let server = Served::start(&[]);
    let mut publisher = server.connect();
    let channel = "a".repeat(60_000);
    let mut listeners: Vec<Connection> = (0..3).map(|_| server.connect()).collect();
    for (n, listener) in listeners.iter_mut().enumerate() {
        let patterns = [format!("*{}*", "?".repeat(2000 + n)), "a*a".into(), format!("*{}b", "?".repeat(3000))];
        for pattern in &patterns {
            listener.run(&["PSUBSCRIBE", pattern]);
        }
        listener.run(&["SUBSCRIBE", &channel]);
    }
    for message in ["one", "two"] {
        assert_eq!(publisher.run(&["PUBLISH", &channel, message]).integer(), 9);
        for listener in &mut listeners {
            for _ in 0..3 {
                assert_eq!(listener.read().unwrap().items().last().unwrap().text(), message);
            }
        }
    }
    // In a transaction too.
    publisher.say("MULTI");
    publisher.run(&["PUBLISH", &channel, "three"]);
    assert_eq!(publisher.say("EXEC").items(), [Value::Integer(9)]);
}

/// Clients whose lines take more than a turn.
const CLIENTS: usize = 300;

#[test]
fn many_clients_are_listed_and_killed_in_turns() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    let mut others: Vec<Connection> = (0..CLIENTS).map(|_| server.connect()).collect();
    for (n, other) in others.iter_mut().enumerate() {
        assert_eq!(other.say(&format!("CLIENT SETNAME other{n}")).text(), "OK");
    }
    let listed = client.say("CLIENT LIST");
    let lines: Vec<&str> = listed.text().lines().collect();
    assert_eq!(lines.len(), CLIENTS + 1);
    for n in 0..CLIENTS {
        assert_eq!(lines.iter().filter(|line| line.contains(&format!(" name=other{n} "))).count(), 1, "{n}");
    }
    assert_eq!(client.say("CLIENT LIST TYPE replica").text(), "");
    assert_eq!(client.say("CLIENT KILL MAXAGE 1000000").integer(), 0);
    assert_eq!(client.say("CLIENT KILL TYPE normal").integer(), CLIENTS as i64);
    assert_eq!(client.say("CLIENT LIST").text().lines().count(), 1);
    assert!(others.iter_mut().all(|other| other.read().is_none()), "they are closed");
}

#[test]
fn many_entries_of_the_slow_log_are_shown_in_turns() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    assert_eq!(client.say("CONFIG SET slowlog-max-len 1000 slowlog-log-slower-than 0").text(), "OK");
    for n in 0..500 {
        assert_eq!(client.say(&format!("ECHO {n}")).text(), n.to_string());
    }
    let shown = client.say("SLOWLOG GET -1");
    let words: Vec<&str> = shown.items().iter().map(|entry| entry.items()[3].items()[1].text()).collect();
    let echoed: Vec<String> = (0..500).rev().map(|n| n.to_string()).collect();
    assert_eq!(words[..500], echoed, "the newest first");
    assert_eq!(client.say("SLOWLOG GET 400").items().len(), 400);
    assert_eq!(client.say("SLOWLOG GET").items().len(), 10);
}

#[test]
fn many_keys_are_watched_elsewhere() {
    let server = Served::start(&[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    send_all(&mut client, "WATCH", &names(MANY));
    assert_eq!(client.read().unwrap().text(), "OK");
    assert_eq!(other.say("SET name11999 x").text(), "OK");
    assert_eq!(client.say("MULTI").text(), "OK");
    assert_eq!(client.say("GET name1").text(), "QUEUED");
    assert_eq!(client.say("EXEC"), Value::Null);
}

#[test]
fn a_report_on_many_clients_runs_on_a_lane() {
    /// More than a turn looks at.
    const CLIENTS: usize = 600;
    let server = Served::start(&[]);
    let mut client = server.connect();
    let few = client.say("INFO everything");
    let many: Vec<Connection> = (0..CLIENTS).map(|_| server.connect()).collect();
    let count = (CLIENTS + 1).to_string();
    client.say_until("INFO clients", |info| info.field("connected_clients") == count);
    let all = client.say("INFO everything");
    let names = |info: &Value| {
        let fields = info.text().lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned());
        // Calls of commands, of which there have been others since.
        fields.filter(|name| !name.starts_with("cmdstat") && !name.starts_with("latency_per")).collect::<Vec<_>>()
    };
    assert_eq!(names(&all), names(&few));
    assert_eq!(client.say("SET a 1").text(), "OK");
    for line in ["MULTI", "INFO keyspace", "SET b 2", "INFO keyspace"] {
        client.say(line);
    }
    let replies = client.say("EXEC");
    let keys = |at: usize| replies.items()[at].field("db0").to_owned();
    assert!(keys(0).starts_with("keys=1,") && keys(2).starts_with("keys=2,"), "{replies}");
    drop(many);
}
