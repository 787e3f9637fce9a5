//! Every request is delivered one to three times, at the same time and over a server that is killed again and again. In the end
//! every balance is right, and every reply to a request was the same.

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use dormouse_client_tests::crash::node::{self, Node, Target};
use dormouse_client_tests::resp::{Connection, Reply};
use dormouse_client_tests::script::Random;
use dormouse_client_tests::{Kind, wait_for};

const CLIENTS: usize = 4;
const ACCOUNTS: usize = 5;
const REQUESTS: usize = 150;
const KILLS: usize = 12;
const PATIENCE: Duration = Duration::from_secs(60);

/// A transfer between two accounts, in one of several forms.
#[derive(Clone)]
struct Transfer {
    key: String,
    from: String,
    to: String,
    amount: i64,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Script,
    Transaction,
    /// One side of it; the other side is a request of its own.
    Deposit,
}

const SCRIPT: &str = "redis.call('DECRBY', KEYS[1], ARGV[1]) return redis.call('INCRBY', KEYS[2], ARGV[1])";
const TTL_MS: &str = "3600000";

impl Transfer {
    fn random(random: &mut Random, client: usize, number: usize) -> Self {
        let account = |random: &mut Random| format!("account:{}", random.below(ACCOUNTS));
        let (from, to) = (account(random), account(random));
        // Some keys share a slot with an account.
        let tag = if random.one_in(2) { format!("{{{from}}}:") } else { String::new() };
        let form = *random.pick(&[Form::Script, Form::Transaction, Form::Deposit]);
        Self { key: format!("{tag}{client}:{number}"), from, to, amount: 1 + random.below(1000) as i64, form }
    }

    /// Sends the request and returns its reply.
    fn deliver(&self, connection: &mut Connection) -> std::io::Result<Reply> {
        let Self { key, from, to, amount, form } = self;
        let (by, less) = (amount.to_string(), (-amount).to_string());
        match form {
            Form::Script => connection.try_call(&["ONCE", key, TTL_MS, "EVAL", SCRIPT, "2", from, to, &by]),
            Form::Transaction => {
                connection.try_call(&["MULTI"])?;
                connection.try_call(&["INCRBY", from, &less])?;
                connection.try_call(&["INCRBY", to, &by])?;
                connection.try_call(&["ONCE", key, TTL_MS, "EXEC"])
            }
            Form::Deposit => connection.try_call(&["ONCE", key, TTL_MS, "INCRBY", to, &by]),
        }
    }

    fn add_to(&self, balances: &mut BTreeMap<String, i64>) {
        if !matches!(self.form, Form::Deposit) {
            *balances.entry(self.from.clone()).or_default() -= self.amount;
        }
        *balances.entry(self.to.clone()).or_default() += self.amount;
    }
}

/// Delivers a request until it has a reply that is no refusal.
fn deliver_until_answered(transfer: &Transfer, target: &RwLock<Target>, connection: &mut Option<Connection>) -> Reply {
    let answered = wait_for(PATIENCE, || {
        let target = *target.read().expect("no thread panics while it holds this");
        if connection.is_none() {
            *connection = target.connect(0).ok();
        }
        let reply = connection.as_mut().and_then(|connection| transfer.deliver(connection).ok());
        match reply {
            // It was not run, or may yet be lost.
            Some(Reply::Line('-', text))
                if ["MISCONF", "TIMEOUT", "BUSY", "UNCERTAIN", "EXECABORT", "ERR the server is shutting"]
                    .iter()
                    .any(|start| text.starts_with(start)) =>
            {
                *connection = None;
                None
            }
            Some(reply) => Some(reply),
            None => {
                *connection = None;
                None
            }
        }
    });
    answered.expect("the server comes back")
}

#[test]
fn every_balance_is_right() {
    let seed = env::var("DORMOUSE_CRASH_SEED").ok().map_or_else(node::unix_ms, |seed| seed.parse().expect("a number"));
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let mut node = Node::new(Kind::Dormouse, "0".parse().expect("a mode"), folder.path());
    let target = RwLock::new(node.start(&mut random).expect("a server"));
    let balances = Mutex::new(BTreeMap::new());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (target, balances, is_over) = (&target, &balances, &is_over);
                let mut random = Random::new(seed ^ (client as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                scope.spawn(move || {
                    let mut connections = [None, None, None];
                    let mut earlier: Vec<(Transfer, Reply)> = Vec::new();
                    // A fast machine has answered its share long before the last kill.
                    let mut number = 0;
                    while number < REQUESTS || !is_over.load(Ordering::Relaxed) {
                        number += 1;
                        let transfer = Transfer::random(&mut random, client, number);
                        let copies = 1 + random.below(3);
                        let replies: Vec<Reply> = std::thread::scope(|scope| {
                            let copies: Vec<_> = connections[..copies]
                                .iter_mut()
                                .map(|connection| {
                                    let transfer = &transfer;
                                    scope.spawn(move || deliver_until_answered(transfer, target, connection))
                                })
                                .collect();
                            copies.into_iter().map(|copy| copy.join().expect("a reply")).collect()
                        });
                        assert!(replies.iter().all(|reply| *reply == replies[0]), "{}: {replies:?}", transfer.key);
                        assert!(!replies[0].is_error(), "{}: {replies:?}", transfer.key);
                        transfer.add_to(&mut balances.lock().expect("no thread panics while it holds this"));
                        earlier.push((transfer, replies[0].clone()));
                        // A late copy of an earlier request.
                        let (late, reply) = random.pick(&earlier);
                        assert_eq!(deliver_until_answered(late, target, &mut connections[0]), *reply, "{}", late.key);
                    }
                })
            })
            .collect();
        let killer = scope.spawn(|| {
            let mut random = Random::new(seed ^ 7);
            for _ in 0..KILLS {
                std::thread::park_timeout(Duration::from_millis(100 + random.below(400) as u64));
                if let Ok(mut connection) = target.read().expect("no thread panics while it holds this").connect(0) {
                    let disturbance =
                        *random.pick(&["DORMOUSE SLEEP", "DORMOUSE CHECKPOINT", "DORMOUSE SPLIT 9000", "PING"]);
                    let words: Vec<&str> = disturbance.split(' ').collect();
                    // It may be killed before it answers.
                    let _ = connection.write(&dormouse_client_tests::resp::request(&words));
                    std::thread::park_timeout(Duration::from_millis(random.below(20) as u64));
                }
                node.kill().expect("it is ours");
                *target.write().expect("no thread panics while it holds this") =
                    node.start(&mut random).expect("it starts again");
            }
        });
        let is_killed = killer.join();
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("every request is answered as it was at first");
        }
        is_killed.expect("it kills and starts");
    });
    let mut client = target.read().expect("no thread panics while it holds this").connect(0).expect("a server");
    for (account, balance) in balances.lock().expect("no thread panics while it holds this").iter() {
        let found = client.call(&["GET", account]);
        assert_eq!(found.text().and_then(|text| text.parse().ok()), Some(*balance), "{account}: {found:?}");
    }
    node.stop().expect("it ends");
}
