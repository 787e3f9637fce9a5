//! Keyspace events of the same random script from the server and from a real one: after each command, the same events
//! in the same order.

use std::env;

use dormouse_client_tests::{
    Kind, Server, Settings, compare,
    resp::{Connection, Reply, Words},
    script::{Script, Step},
};

const TEST: &str = "comparison of keyspace events";
const SEEDS: std::ops::RangeInclusive<u64> = 1..=2;
const COMMANDS: usize = 6000;
/// The channel of the message behind the events of a command.
const MARK: &str = "__key mark";

#[test]
fn events_are_those_of_redis() {
    events_are_those_of(Kind::Redis);
}

#[test]
fn events_are_those_of_valkey() {
    events_are_those_of(Kind::Valkey);
}

#[test]
fn events_are_those_of_redis_8() {
    events_are_those_of(Kind::Redis8);
}

fn events_are_those_of(peer: Kind) {
    if !peer.is_present(TEST) {
        return;
    }
    let commands = env::var("DORMOUSE_COMPARE_COMMANDS").map_or(COMMANDS, |n| n.parse().expect("a number of commands"));
    let ours = Server::start_with(Kind::under_test(), Settings { workers: Some(4), ..Settings::default() });
    let theirs = Server::start_with(peer, Settings::default());
    let mut wrong: Vec<String> = Vec::new();
    for seed in SEEDS {
        let (mut ours, mut theirs) = (Side::new(&ours, seed), Side::new(&theirs, seed));
        let (mut sent, mut heard) = (0, 0);
        let mut before = Vec::new();
        for words in Script::new(seed).flat_map(commands_of) {
            if compare::is_left_out(peer, &words, false) || depends_on_more(&words) {
                continue;
            }
            let replies = (ours.client.call(&words), theirs.client.call(&words));
            let (our_events, their_events) = (ours.events(), theirs.events());
            sent += 1;
            heard += their_events.len();
            before.push(text(&words));
            if compare::diverges(&words, &replies.0, &replies.1) || replies.0.is_error() != replies.1.is_error() {
                for side in [&mut ours, &mut theirs] {
                    side.client.run("DISCARD");
                    side.client.run("FLUSHALL");
                    side.events();
                }
                continue;
            }
            let [our_events, their_events] =
                [our_events, their_events].map(|events| shared(peer, &words, [&replies.0, &replies.1], events));
            if our_events != their_events {
                wrong.push(format!(
                    "seed {seed}, command {sent}: {}\n  {our_events:?}\n  {}: {their_events:?}\n  {:?}\n  before: {}",
                    text(&words),
                    peer.name(),
                    replies.1,
                    before[before.len().saturating_sub(6)..].join("; "),
                ));
            }
            if sent == commands {
                break;
            }
        }
        println!("seed {seed}: {sent} commands, {heard} events");
        assert!(heard > commands / 4, "only {heard} events");
    }
    let shown = wrong.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} commands have other events:\n{shown}", wrong.len());
}

/// The commands of a step whose events do not depend on chance or on time.
fn commands_of(step: Step) -> Vec<Words> {
    let word = |word: &str| vec![word.as_bytes().to_vec()];
    match step {
        Step::Command(words) => vec![words],
        Step::Transaction { commands, end } => {
            let queue = commands.into_iter().filter(|words| !depends_on_more(words));
            std::iter::once(word("MULTI")).chain(queue).chain([word(end)]).collect()
        }
        Step::Watched { watch, other, command } => vec![watch, word("UNWATCH"), other, command],
        Step::Draw { list, draw, after } => vec![list, draw, after],
        Step::Iteration { .. } | Step::Expiry { .. } | Step::Inventory => Vec::new(),
    }
}

/// Whether the events of a command depend on more than the commands before it: a key that lives for a moment.
fn depends_on_more(words: &Words) -> bool {
    let name = words[0].to_ascii_uppercase();
    let time = words.get(2).and_then(|time| std::str::from_utf8(time).ok()?.parse::<u64>().ok());
    name == b"RESTORE" && time.is_some_and(|ms| (1..60_000).contains(&ms)) || name == b"RESET" || name == b"WATCH"
}

/// The events that both servers have. They differ in these:
///
/// - A command that is refused may have read keys before, or not: Redis stops at the first of the wrong type.
/// - A consumer is made when it is first named. 7.0 makes it when it first gets an entry.
/// - A time that has passed deletes a key, with the event `del`. Valkey says `expired`.
/// - `BITFIELD` that only makes a string longer has changed it.
/// - `MSETEX` tells `expire` before `set`, as in Redis. In Valkey it is the other way round.
fn shared(peer: Kind, words: &Words, replies: [&Reply; 2], events: Vec<String>) -> Vec<String> {
    let has_error =
        |reply: &Reply| reply.is_error() || reply.items().is_some_and(|all| all.iter().any(Reply::is_error));
    let is_refused = replies.into_iter().any(has_error);
    let is_bitfield = words[0].eq_ignore_ascii_case(b"BITFIELD") || words[0].eq_ignore_ascii_case(b"EXEC");
    let has = |event: &str, name: &str| event.split([' ', ':']).any(|word| word == name);
    let is_shared = |event: &String| {
        !(is_refused && has(event, "keymiss")
            || peer == Kind::Redis && has(event, "xgroup-createconsumer")
            || is_bitfield && has(event, "setbit"))
    };
    let named = |event: String| match peer {
        Kind::Valkey => event.replace("expired", "del"),
        _ => event,
    };
    let mut events: Vec<String> = events.into_iter().filter(is_shared).map(named).collect();
    if peer == Kind::Valkey && [&b"MSETEX"[..], b"EXEC"].iter().any(|name| words[0].eq_ignore_ascii_case(name)) {
        events.sort();
    }
    events
}

fn text(words: &Words) -> String {
    words.iter().take(40).map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}

/// A server, with a client that sends commands and one that listens to events.
struct Side {
    client: Connection,
    publisher: Connection,
    subscriber: Connection,
}

impl Side {
    fn new(server: &Server, seed: u64) -> Self {
        let [mut client, publisher, mut subscriber] = [0; 3].map(|_| Connection::open(server.port()));
        if seed % 2 == 1 {
            client.run("HELLO 3");
        }
        client.run("FLUSHALL");
        assert_eq!(client.run("CONFIG SET notify-keyspace-events KEAmn"), Reply::Line('+', "OK".into()));
        assert!(!subscriber.run("PSUBSCRIBE __key*").is_error());
        Self { client, publisher, subscriber }
    }

    /// The events since the last call.
    fn events(&mut self) -> Vec<String> {
        self.publisher.call(&["PUBLISH", MARK, ""]);
        let mut events = Vec::new();
        loop {
            let message = self.subscriber.read().expect("a message comes");
            let Some([_, _, channel, message]) = message.items() else { panic!("{message:?} is no message") };
            let text = |reply: &Reply| reply.bytes().unwrap_or_default().escape_ascii().to_string();
            if text(channel) == MARK {
                return events;
            }
            events.push(format!("{} {}", text(channel), text(message)));
        }
    }
}
