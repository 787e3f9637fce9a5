//! Whole conversations, compared with the real servers: subscriptions, transactions, `CLIENT REPLY` and `RESET` in any
//! order, all sent at once. Ours is right if it equals that of one of the servers, to the byte and in order.

use dormouse_client_tests::resp::{Connection, Reply, request};
use dormouse_client_tests::script::Random;
use dormouse_client_tests::{Kind, Server, Settings};

use super::{TEST, canonical};

const TALKS: usize = 400;
const LINES: usize = 12;
const LAST: &str = "the-last-word";

const WORDS: &[&str] = &[
    "SUBSCRIBE a",
    "SUBSCRIBE a b a",
    "PSUBSCRIBE p*",
    "UNSUBSCRIBE",
    "UNSUBSCRIBE a",
    "UNSUBSCRIBE nosuch",
    "PUNSUBSCRIBE",
    "PUNSUBSCRIBE p*",
    "PUBLISH a m",
    "PUBLISH pq m",
    "PUBSUB NUMSUB a b",
    "PUBSUB NUMPAT",
    "PING",
    "PING x",
    "ECHO e",
    "GET k",
    "SET k v",
    "SELECT 1",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH k",
    "UNWATCH",
    "RESET",
    "HELLO 2",
    "CLIENT REPLY OFF",
    "CLIENT REPLY ON",
    "CLIENT REPLY SKIP",
    "CLIENT NO-EVICT on",
    "CLIENT SETNAME n",
    "CLIENT GETNAME",
];

#[test]
fn connections_are_talked_to_as_by_the_real_servers() {
    let kinds: Vec<Kind> =
        [Kind::Redis, Kind::Valkey, Kind::Redis8].into_iter().filter(|kind| kind.is_present(TEST)).collect();
    let ours = Server::start_with(Kind::under_test(), Settings::default());
    let theirs: Vec<Server> = kinds.iter().map(|kind| Server::start_with(*kind, Settings::default())).collect();
    let mut random = Random::new(1);
    for talk in 0..TALKS {
        let lines = draw(&mut random);
        let hello = if talk % 2 == 0 { "HELLO 2" } else { "HELLO 3" };
        let said = transcript(ours.port(), hello, &lines);
        let others: Vec<_> = theirs.iter().map(|server| transcript(server.port(), hello, &lines)).collect();
        let shown = || kinds.iter().zip(&others).map(|(kind, said)| format!("\n  {}: {said:?}", kind.name()));
        assert!(
            others.is_empty() || others.contains(&said),
            "{hello} {lines:?}\n  ours: {said:?}{}",
            shown().collect::<String>()
        );
    }
}

/// Draws lines that all servers treat alike. In a transaction they differ about `CLIENT REPLY`, and about MULTI and
/// WATCH.
fn draw(random: &mut Random) -> Vec<&'static str> {
    let (mut lines, mut queues) = (Vec::new(), false);
    while lines.len() < LINES {
        let line = *random.pick(WORDS);
        if queues && (line.starts_with("CLIENT REPLY") || line == "MULTI" || line == "WATCH k") {
            continue;
        }
        queues = (queues || line == "MULTI") && !["EXEC", "DISCARD", "RESET"].contains(&line);
        lines.push(line);
    }
    lines
}

/// Returns all replies to these lines. The RESET behind them ends whatever state they leave.
fn transcript(port: u16, hello: &str, lines: &[&str]) -> Vec<Reply> {
    let mut connection = Connection::open(port);
    connection.run("FLUSHALL");
    connection.run(hello);
    let last = format!("ECHO {LAST}");
    let all = lines.iter().copied().chain(["RESET", &last]);
    let bytes: Vec<u8> = all.flat_map(|line| request(&line.split(' ').collect::<Vec<_>>())).collect();
    connection.write(&bytes).expect("the server reads");
    let mut said = Vec::new();
    loop {
        let reply = connection.read().expect("the server replies");
        if reply.bytes() == Some(LAST.as_bytes()) {
            return said;
        }
        said.push(canonical(plain(reply)));
    }
}

/// Removes a server's own data from a reply.
fn plain(reply: Reply) -> Reply {
    match reply {
        Reply::Many(kind, Some(items)) => {
            let is_hello = items.first().and_then(Reply::bytes) == Some(b"server");
            let items = if is_hello { Vec::new() } else { items.into_iter().map(plain).collect() };
            Reply::Many(kind, Some(items))
        }
        other => other,
    }
}
