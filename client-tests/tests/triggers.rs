//! Triggers: a receiver that fails, stalls and disappears, and a server that is killed, restarted and put to sleep.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dormouse_client_tests::resp::{Connection, Reply, request};
use dormouse_client_tests::script::Random;
use dormouse_client_tests::server::tool;
use dormouse_client_tests::{Kind, Server, Settings, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);
const PRIVATE: &[&str] = &["--trigger-reach", "private"];

/// An event as the receiver got it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    id: String,
    kind: String,
    key: String,
    text: String,
}

/// How the receiver treats requests.
#[derive(Default)]
struct Behaviour {
    /// The status of each answer.
    status: AtomicU16,
    /// One request in so many fails; 0: none.
    fails_one_in: AtomicUsize,
    /// It takes requests, and answers none.
    stalls: AtomicBool,
    ends: AtomicBool,
    requests: AtomicUsize,
    /// Those that it has answered with success, in their order.
    taken: Mutex<Vec<Event>>,
    heads: Mutex<Vec<String>>,
}

struct Receiver {
    port: u16,
    behaviour: Arc<Behaviour>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let behaviour = Arc::new(Behaviour { status: AtomicU16::new(200), ..Behaviour::default() });
        let its = Arc::clone(&behaviour);
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                if its.ends.load(Ordering::SeqCst) {
                    break;
                }
                let its = Arc::clone(&its);
                connections.push(std::thread::spawn(move || serve(stream, &its)));
            }
            connections.into_iter().for_each(|connection| connection.join().expect("no connection panics"));
        });
        Self { port, behaviour, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    fn answer_with(&self, status: u16) {
        self.behaviour.status.store(status, Ordering::SeqCst);
    }

    fn taken(&self) -> Vec<Event> {
        self.behaviour.taken.lock().expect("no connection panics").clone()
    }

    fn requests(&self) -> usize {
        self.behaviour.requests.load(Ordering::SeqCst)
    }

    #[track_caller]
    fn wait_for(&self, what: &str, mut is_there: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
        let found = wait_for(PATIENCE, || Some(self.taken()).filter(|taken| is_there(taken)));
        found.unwrap_or_else(|| panic!("{what}: {} events after {} requests", self.taken().len(), self.requests()))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.behaviour.ends.store(true, Ordering::SeqCst);
        // The listener looks again when a connection comes.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Serves one connection until it ends.
fn serve(stream: TcpStream, behaviour: &Behaviour) {
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let mut writer = stream.try_clone().expect("a handle to a socket");
    let mut reader = BufReader::new(stream);
    while let Some((head, body)) = read_request(&mut reader, behaviour) {
        let number = behaviour.requests.fetch_add(1, Ordering::SeqCst);
        while behaviour.stalls.load(Ordering::SeqCst) && !behaviour.ends.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let one_in = behaviour.fails_one_in.load(Ordering::SeqCst);
        let status = match one_in > 0 && number.is_multiple_of(one_in) {
            true => 503,
            false => behaviour.status.load(Ordering::SeqCst),
        };
        if status == 200 {
            behaviour.heads.lock().expect("no connection panics").push(head);
            behaviour.taken.lock().expect("no connection panics").extend(events(&body));
        }
        let answer = format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n");
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Reads the head and the body of a request; `None` at the end.
fn read_request(reader: &mut BufReader<TcpStream>, behaviour: &Behaviour) -> Option<(String, String)> {
    let (mut head, mut line) = (String::new(), Vec::new());
    loop {
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(_) if behaviour.ends.load(Ordering::SeqCst) => return None,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        }
        if line == b"\r\n" {
            break;
        }
        head += &String::from_utf8_lossy(&std::mem::take(&mut line)).to_ascii_lowercase();
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse().ok()?;
    let (mut body, mut read) = (vec![0; length], 0);
    while read < length {
        match reader.read(&mut body[read..]) {
            Ok(0) => return None,
            Ok(more) => read += more,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    Some((head, String::from_utf8(body).expect("JSON is text")))
}

/// The events in a body. The keys of these tests need no escapes.
fn events(body: &str) -> Vec<Event> {
    let field = |text: &str, name: &str| {
        let rest = text.split(&format!("\"{name}\":\"")).nth(1)?;
        Some(rest.split('"').next()?.to_owned())
    };
    let read = |text: &str| Event {
        id: field(text, "id").expect("each event has an id"),
        kind: field(text, "type").expect("each event has a type"),
        key: field(text, "key").unwrap_or_default(),
        // Behind it, the list goes on or ends.
        text: text.trim_end_matches([',', ']']).to_owned(),
    };
    body.split("{\"specversion\"").skip(1).map(read).collect()
}

/// Runs `dormouse db trigger ...`.
fn db(server: &Server, words: &[&str]) -> Result<String, String> {
    let url = format!("redis://127.0.0.1:{}", server.port());
    let output = tool(&["db", "--url", &url, "trigger"]).args(words).output().expect("the tool runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn start(options: &'static [&'static str]) -> Server {
    start_with(Settings { options, loss_window: Some("0"), ..Settings::default() })
}

fn start_with(settings: Settings) -> Server {
    Server::start_with(Kind::Dormouse, settings)
}

#[track_caller]
fn add(server: &Server, receiver: &Receiver, on: &str, more: &[&str]) -> String {
    let url = receiver.url();
    let mut words = [&["add", "default", "--name", "t", "--on", on, "--to", &url], more].concat();
    if !more.contains(&"--backoff") {
        words.extend(["--backoff", "20ms"]);
    }
    db(server, &words).expect("the trigger is added")
}

/// A field of `INFO dormouse`.
fn info(connection: &mut Connection, name: &str) -> u64 {
    let info = connection.run("INFO dormouse");
    let text = info.text().expect("a text").to_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().expect("a number")
}

/// A meter of the database.
fn meter(connection: &mut Connection, name: &str) -> u64 {
    let usage = connection.run("DORMOUSE USAGE");
    let meter = usage.at("meters").and_then(|meters| meters.at(name)?.text()?.parse().ok());
    meter.unwrap_or_else(|| panic!("no meter {name} in {usage:?}"))
}

fn integer(reply: &Reply) -> i64 {
    reply.integer().unwrap_or_else(|| panic!("{reply:?} is no number"))
}

#[test]
fn events_arrive_as_signed_cloud_events_in_the_order_of_the_changes() {
    let (server, receiver) = (start(PRIVATE), Receiver::start());
    let told =
        add(&server, &receiver, "set,del,@list", &["--keys", "order:*", "--header", "Authorization: Bearer abc"]);
    assert!(told.contains("whsec_"), "{told}");
    let mut connection = Connection::open(server.port());
    let mut expected = Vec::new();
    for at in 0..200 {
        let key = format!("order:{}", at % 7);
        for (line, kind) in [
            (format!("SET {key} {at}"), "set"),
            (format!("SET other:{at} v"), ""),
            (format!("DEL {key}"), "del"),
            (format!("LPUSH {key} a"), "lpush"),
            (format!("EXPIRE {key} 100"), ""),
            (format!("DEL {key}"), "del"),
        ] {
            connection.run(&line);
            if !kind.is_empty() {
                expected.push((format!("dormouse.key.{kind}"), key.clone()));
            }
        }
    }
    // A transaction and a pipeline keep their order too.
    connection.run("MULTI");
    connection.run("SET order:1 a");
    connection.run("SET order:9 a");
    connection.run("DEL order:1");
    connection.run("EXEC");
    expected.extend(
        [("set", "1"), ("set", "9"), ("del", "1")]
            .map(|(kind, key)| (format!("dormouse.key.{kind}"), format!("order:{key}"))),
    );
    let taken = receiver.wait_for("all events", |taken| taken.len() >= expected.len());
    assert_eq!(taken.len(), expected.len(), "each was taken once");
    let per_key = |of: &[(String, String)], key: &str| {
        of.iter().filter(|(_, of)| of == key).map(|(kind, _)| kind.clone()).collect::<Vec<_>>()
    };
    let got: Vec<_> = taken.iter().map(|event| (event.kind.clone(), event.key.clone())).collect();
    for key in got.iter().map(|(_, key)| key.clone()).collect::<BTreeSet<_>>() {
        assert_eq!(per_key(&got, &key), per_key(&expected, &key), "{key}");
    }
    let ids: BTreeSet<_> = taken.iter().map(|event| &event.id).collect();
    assert_eq!(ids.len(), taken.len(), "every event has an id of its own");
    let first = &taken[0].text;
    assert!(first.contains(r#""source":"/dormouse/databases/default""#) && first.contains(r#""subject":"order:0""#));
    for head in receiver.behaviour.heads.lock().expect("no connection panics").iter() {
        for part in [
            "post /hook http/1.1",
            "authorization: bearer abc",
            "content-type: application/cloudevents-batch+json",
            "webhook-id: ",
            "webhook-timestamp: ",
            "webhook-signature: v1,",
        ] {
            assert!(head.contains(part), "{part}: {head}");
        }
    }
    let listed = db(&server, &["list", "default"]).expect("it lists");
    assert!(listed.contains("set,del,@list  order:*  idle   803"), "{listed}");
    let shown = db(&server, &["show", "default", "t"]).expect("it shows");
    assert!(
        shown.contains("headers: Authorization\n") && !shown.contains("abc") && !shown.contains("whsec"),
        "{shown}"
    );
    assert_eq!(info(&mut connection, "trigger_events_waiting"), 0);
    assert_eq!(meter(&mut connection, "trigger_events"), 803);
    // A removed trigger hears of nothing.
    db(&server, &["remove", "default", "t"]).expect("it is removed");
    connection.run("SET order:1 b");
    assert!(db(&server, &["show", "default", "t"]).unwrap_err().contains("no trigger `t`"));
    assert_eq!(receiver.taken().len(), 803);
}

#[test]
fn no_event_of_an_acknowledged_write_is_lost_while_both_sides_fail() {
    const KEYS: usize = 20;
    const KILLS: usize = 6;
    let (mut server, receiver) = (start(PRIVATE), Receiver::start());
    add(&server, &receiver, "set,append,setrange,del", &["--batch", "7", "--attempts", "100"]);
    receiver.behaviour.fails_one_in.store(3, Ordering::SeqCst);
    // Each round of a key is these commands, in this order.
    let rounds = ["SET", "APPEND", "SETRANGE", "DEL"];
    let mut acknowledged: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut random = Random::new(7);
    let mut number = 0;
    for kill in 0..=KILLS {
        let mut connection = Connection::open(server.port());
        for _ in 0..150 {
            let key = format!("k{}:{number}", random.below(KEYS));
            number += 1;
            for word in rounds {
                let line = match word {
                    "SETRANGE" => format!("{word} {key} 0 b"),
                    "DEL" => format!("{word} {key}"),
                    _ => format!("{word} {key} a"),
                };
                assert!(!matches!(connection.run(&line), Reply::Line('-', _)), "{line}");
                acknowledged.entry(key.clone()).or_default().push(word);
            }
        }
        drop(connection);
        match kill {
            KILLS => {}
            kill if kill % 3 == 2 => server.restart(),
            _ => server.crash(),
        }
    }
    receiver.behaviour.fails_one_in.store(0, Ordering::SeqCst);
    let kind = |word: &str| format!("dormouse.key.{}", word.to_ascii_lowercase());
    let expected: usize = acknowledged.values().map(Vec::len).sum();
    let distinct = |taken: &[Event]| taken.iter().map(|event| event.id.clone()).collect::<BTreeSet<_>>().len();
    let taken = receiver.wait_for("all events", |taken| distinct(taken) >= expected);
    assert_eq!(distinct(&taken), expected, "no event has two ids");
    // Each id is the same event each time, and the events of a key come in order when they come first.
    let (mut by_id, mut by_key): (BTreeMap<&str, &str>, BTreeMap<&str, Vec<&str>>) = Default::default();
    for event in &taken {
        match by_id.insert(&event.id, &event.text) {
            Some(before) => assert_eq!(before, event.text),
            None => by_key.entry(&event.key).or_default().push(&event.kind),
        }
    }
    for (key, words) in acknowledged {
        let kinds: Vec<String> = words.into_iter().map(kind).collect();
        assert_eq!(by_key[key.as_str()], kinds, "{key}");
    }
}

#[test]
fn a_receiver_that_does_not_answer_costs_writers_nothing_and_what_is_lost_is_told() {
    const WRITES: usize = 30_000;
    let options = &["--trigger-reach", "private", "--max-memory", "4mb", "--max-memory-policy", "allkeys-lru"];
    let (server, receiver) = (start_with(Settings { options, ..Settings::default() }), Receiver::start());
    receiver.behaviour.stalls.store(true, Ordering::SeqCst);
    add(&server, &receiver, "set", &[]);
    let mut connection = Connection::open(server.port());
    let pipeline: Vec<u8> = (0..WRITES).flat_map(|at| request(&["SET", &format!("k{}", at % 100), "v"])).collect();
    let mut writer = connection.writer();
    let sender = std::thread::spawn(move || writer.write_all(&pipeline).expect("the server reads"));
    for _ in 0..WRITES {
        assert_eq!(connection.read().expect("a reply").text(), Some("OK"));
    }
    sender.join().expect("the writer ends");
    let (waiting, lost) =
        (info(&mut connection, "trigger_events_waiting"), info(&mut connection, "trigger_events_lost"));
    assert!(lost > 0 && waiting > 0, "{waiting} wait, {lost} are lost");
    assert!(info(&mut connection, "trigger_bytes") < 1 << 20);
    receiver.behaviour.stalls.store(false, Ordering::SeqCst);
    let is_told = |event: &Event| event.kind == "dormouse.trigger.lost";
    let taken = receiver.wait_for("the gap", |taken| taken.iter().any(is_told));
    let count = |event: &Event| {
        let rest = event.text.split("\"events\":").nth(1).expect("a count");
        rest.split(',').next().and_then(|count| count.parse::<usize>().ok()).expect("a number")
    };
    let told: usize = taken.iter().filter(|event| is_told(event)).map(count).sum();
    let ids: BTreeSet<_> = taken.iter().filter(|event| !is_told(event)).map(|event| &event.id).collect();
    assert_eq!(ids.len() + told, WRITES, "every event is delivered or counted");
    // From then on nothing is lost.
    connection.run("SET last v");
    receiver.wait_for("a later event", |taken| taken.iter().any(|event| event.key == "last"));
}

#[test]
fn what_cannot_be_delivered_goes_to_the_dead_letters_and_the_rest_goes_on() {
    let (server, receiver) = (start(PRIVATE), Receiver::start());
    receiver.answer_with(410);
    add(&server, &receiver, "set", &["--attempts", "3", "--batch", "1", "--dead-letters", "letters"]);
    let mut connection = Connection::open(server.port());
    connection.run("SET a 1");
    connection.run("SET b 1");
    let is_there = wait_for(PATIENCE, || (integer(&connection.run("XLEN letters")) == 2).then_some(()));
    assert!(is_there.is_some(), "{}", db(&server, &["show", "default", "t"]).unwrap());
    assert_eq!(receiver.requests(), 6);
    let letters = format!("{:?}", connection.run("XRANGE letters - +"));
    let text: String = letters.chars().filter(|symbol| symbol.is_ascii()).collect();
    assert!(text.len() > 100, "{text}");
    receiver.answer_with(200);
    connection.run("SET c 1");
    let taken = receiver.wait_for("a later event", |taken| !taken.is_empty());
    assert_eq!(taken.iter().map(|event| event.key.as_str()).collect::<Vec<_>>(), ["c"]);
    let head = receiver.behaviour.heads.lock().expect("no connection panics")[0].clone();
    assert!(head.contains("content-type: application/cloudevents+json"), "{head}");
    // A key of another type takes no letters: the events wait, and the operator is told.
    connection.run("DEL letters");
    connection.run("SET letters text");
    receiver.answer_with(500);
    connection.run("SET d 1");
    let told = wait_for(PATIENCE, || {
        let shown = db(&server, &["show", "default", "t"]).expect("it shows");
        shown.contains("takes no dead letters").then_some(shown)
    });
    assert!(told.is_some_and(|told| told.contains("WRONGTYPE")));
    connection.run("DEL letters");
    assert!(wait_for(PATIENCE, || (integer(&connection.run("XLEN letters")) == 1).then_some(())).is_some());
    // Nor do they wait for the stream if the receiver takes them after all.
    connection.run("SET letters text");
    connection.run("SET e 1");
    let told = wait_for(PATIENCE, || {
        let shown = db(&server, &["show", "default", "t"]).expect("it shows");
        shown.contains("takes no dead letters").then_some(())
    });
    assert!(told.is_some());
    receiver.answer_with(200);
    receiver.wait_for("what the stream does not take", |taken| taken.iter().any(|event| event.key == "e"));
}

#[test]
fn a_pause_ends_with_the_request_under_way_and_no_request_overtakes_another() {
    const EVENTS: usize = 50;
    let (server, receiver) = (start(PRIVATE), Receiver::start());
    receiver.behaviour.stalls.store(true, Ordering::SeqCst);
    add(&server, &receiver, "set", &["--batch", "1"]);
    let mut connection = Connection::open(server.port());
    connection.run("MULTI");
    (0..EVENTS).for_each(|at| _ = connection.run(&format!("SET k{at} v")));
    connection.run("EXEC");
    assert!(wait_for(PATIENCE, || (receiver.requests() == 1).then_some(())).is_some());
    db(&server, &["pause", "default", "t"]).expect("it is paused");
    db(&server, &["resume", "default", "t"]).expect("it is resumed");
    receiver.behaviour.stalls.store(false, Ordering::SeqCst);
    assert!(wait_for(PATIENCE, || (info(&mut connection, "trigger_events_waiting") == 0).then_some(())).is_some());
    // The first was under way when its task was stopped, so it comes twice.
    let keys: Vec<String> = receiver.taken().into_iter().map(|event| event.key).collect();
    let in_order: Vec<String> = std::iter::once(0).chain(0..EVENTS).map(|at| format!("k{at}")).collect();
    assert_eq!(keys, in_order);
}

#[test]
fn a_rate_is_kept_and_a_pause_keeps_events() {
    let (mut server, receiver) = (start(PRIVATE), Receiver::start());
    add(&server, &receiver, "set", &["--rate", "100", "--batch", "10"]);
    db(&server, &["pause", "default", "t"]).expect("it is paused");
    let mut connection = Connection::open(server.port());
    for at in 0..100 {
        connection.run(&format!("SET k{at} v"));
    }
    drop(connection);
    server.restart();
    assert!(db(&server, &["show", "default", "t"]).expect("it shows").contains("state: paused"));
    assert_eq!(receiver.requests(), 0);
    let began = Instant::now();
    db(&server, &["resume", "default", "t"]).expect("it is resumed");
    receiver.wait_for("all events", |taken| taken.len() == 100);
    // Ten requests, one in a tenth of a second, the first of them at once.
    assert!(began.elapsed() >= Duration::from_millis(850), "{:?}", began.elapsed());
}

#[test]
fn private_addresses_are_refused_unless_the_operator_allows_them() {
    let server = start(&[]);
    let receiver = Receiver::start();
    for (url, problem) in [
        (receiver.url().as_str(), "is not public"),
        ("http://10.0.0.1/", "is not public"),
        ("http://[::1]/", "is not public"),
        ("http://169.254.169.254/latest/meta-data/", "is not that of a server"),
        ("http://user:secret@example.com/", "credentials go in a header"),
        ("file:///etc/passwd", "expected http:// or https://"),
    ] {
        let refused = db(&server, &["add", "default", "--on", "set", "--to", url]).unwrap_err();
        assert!(refused.contains(problem), "{url}: {refused}");
    }
    // A name is looked up when the server connects.
    let url = format!("http://localhost:{}/hook", receiver.port);
    db(&server, &["add", "default", "--name", "t", "--on", "set", "--to", &url]).expect("it is a name");
    let mut connection = Connection::open(server.port());
    connection.run("SET a 1");
    let told = wait_for(PATIENCE, || {
        let shown = db(&server, &["show", "default", "t"]).expect("it shows");
        shown.contains("no address that may be reached").then_some(())
    });
    assert!(told.is_some());
    assert_eq!(receiver.requests(), 0);
    let limited = start(&["--trigger-reach", "private", "--max-triggers", "1"]);
    add(&limited, &receiver, "set", &[]);
    let refused = db(&limited, &["add", "default", "--name", "u", "--on", "set", "--to", &receiver.url()]).unwrap_err();
    assert!(refused.contains("at most 1 triggers"), "{refused}");
}

#[test]
fn a_database_sleeps_while_its_events_wait_and_they_are_delivered_after_all() {
    let settings = Settings { options: PRIVATE, sleep_after: Some("200ms"), ..Settings::default() };
    let (mut server, receiver) = (start_with(settings), Receiver::start());
    receiver.answer_with(503);
    add(&server, &receiver, "set", &["--attempts", "100", "--backoff", "1s"]);
    let mut connection = Connection::open(server.port());
    connection.run("SET a 1");
    let sleeps = |connection: &mut Connection| info(connection, "awake") == 0;
    // It falls asleep although the receiver is asked again and again, and the attempts do not wake it.
    assert!(wait_for(PATIENCE, || sleeps(&mut connection).then_some(())).is_some());
    let (asked, wakes) = (receiver.requests(), meter(&mut connection, "wakes"));
    assert!(wait_for(PATIENCE, || (receiver.requests() > asked + 1).then_some(())).is_some());
    assert_eq!(meter(&mut connection, "wakes"), wakes);
    assert_eq!(info(&mut connection, "trigger_events_waiting"), 1);
    receiver.answer_with(200);
    receiver.wait_for("the event", |taken| taken.len() == 1);
    assert!(wait_for(PATIENCE, || (info(&mut connection, "trigger_events_waiting") == 0).then_some(())).is_some());
    // Events that an earlier process has left in a sleeping database are delivered too.
    receiver.answer_with(503);
    connection.run("SET b 1");
    assert!(wait_for(PATIENCE, || sleeps(&mut connection).then_some(())).is_some());
    drop(connection);
    server.restart();
    receiver.answer_with(200);
    let taken = receiver.wait_for("the event of the earlier process", |taken| taken.len() >= 2);
    assert_eq!(taken.iter().map(|event| event.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let mut connection = Connection::open(server.port());
    assert!(wait_for(PATIENCE, || (info(&mut connection, "trigger_events_waiting") == 0).then_some(())).is_some());
}

#[test]
fn a_branch_has_no_triggers_and_delivers_nothing_of_its_source() {
    let (mut server, receiver) = (start(PRIVATE), Receiver::start());
    receiver.answer_with(503);
    add(&server, &receiver, "set", &["--attempts", "100"]);
    let mut connection = Connection::open(server.port());
    connection.run("SET a 1");
    assert_eq!(connection.run("DORMOUSE BRANCH b").text(), Some("OK"));
    let mut branch = Connection::open(server.port());
    assert_eq!(branch.run("AUTH default.b -").text(), Some("OK"));
    assert_eq!(branch.run("GET a").text(), Some("1"));
    branch.run("SET a 2");
    assert_eq!(info(&mut branch, "triggers"), 0);
    assert_eq!(info(&mut branch, "trigger_bytes"), 0);
    drop((connection, branch));
    server.restart();
    receiver.answer_with(200);
    receiver.wait_for("the event", |taken| !taken.is_empty());
    let mut connection = Connection::open(server.port());
    assert!(wait_for(PATIENCE, || (info(&mut connection, "trigger_events_waiting") == 0).then_some(())).is_some());
    assert_eq!(receiver.taken().len(), 1);
}
