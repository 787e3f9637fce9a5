//! Requests that are delivered several times, by both paths of the executor.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Parsed, Parser, RequestLimits};
use fastrand::Rng;
use tokio::runtime::{Builder, Runtime};

use futures::channel::oneshot;

use super::*;
use crate::commands::testing::show;
use crate::commands::{Command, Context, Flags, at_least, find};
use crate::database::Database;
use crate::execution::ahead::{Ahead, FoundCommand};
use crate::execution::budget::TurnBudget;
use crate::execution::inline::{self, Asker, Front, InlineOutcome, Input};
use crate::execution::plan::PlannedCommand;
use crate::execution::tests::engine;
use crate::execution::turn::Turn;
use crate::keyspace::scripts::ScriptTrace;
use crate::keyspace::{EngineSettings, Left};

const NOW_MS: u64 = 1_700_000_000_000;

/// A database, and a client of it.
struct Bench {
    runtime: Runtime,
    database: Arc<Database>,
    now_ms: u64,
    select: u8,
    version: Version,
    user: &'static str,
}

impl Bench {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let database = runtime.block_on(Database::open("test", 7, engine(runtime.handle())));
        Self { runtime, database, now_ms: NOW_MS, select: 0, version: Version::Resp2, user: "default" }
    }

    /// Runs a request as a plan.
    fn plan(&self, line: &str) -> Vec<u8> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let request = OwnedRequest::from_args(&words);
        let promise = match line.starts_with("ONCE ") {
            true => match Once::parse(request.as_request(), self.user.as_bytes()) {
                Ok(once) => Some(once),
                Err(error) => return format!("-{error}\r\n").into_bytes(),
            },
            false => None,
        };
        let command = if promise.is_some() { request.skip(WORDS) } else { request };
        self.transaction(&[command], promise, None)
    }

    fn transaction(&self, queue: &[OwnedRequest], once: Option<Once>, array: Option<usize>) -> Vec<u8> {
        let mut plan = Plan::new(self.now_ms, 1);
        for request in queue {
            let (row, run) = find(request.as_request()).expect("a command");
            let context =
                Context { select: self.select, version: self.version, no_touch: false, tracker: Default::default() };
            plan.steps.push(Step::Command(PlannedCommand { row, run, request: request.clone(), context }));
        }
        (plan.once, plan.array) = (once, array);
        let turn = Arc::new(Turn::endless(None));
        let outcome =
            self.runtime.block_on(crate::execution::run(&self.database, &Arc::new(plan), &turn)).expect("it runs");
        match outcome.ended {
            Ended::Refused(error) => format!("-{error}\r\n").into_bytes(),
            _ => {
                let each: Vec<&[u8]> = outcome.each_reply().collect();
                assert_eq!(each.len(), queue.len());
                assert_eq!(
                    each.concat(),
                    outcome.replies.buffer[outcome.start..],
                    "the replies are those of the steps"
                );
                outcome.replies.buffer.clone()
            }
        }
    }

    /// Runs requests as a batch of a worker. The number of those that it has run, and their replies.
    fn batch(&self, lines: &[&str]) -> (InlineOutcome, Vec<u8>) {
        let mut input = Vec::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            input.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
            words.iter().for_each(|word| input.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes()));
        }
        let (mut parser, mut ahead) = (Parser::new(RequestLimits::default()), Ahead::default());
        let mut front = Tables { user: self.user, counted: Vec::new() };
        let Ok(Parsed::Complete { request, consumed }) = parser.parse(&input) else { panic!("it is whole") };
        let found = front.find(request.arg(0)).map(|(row, run)| FoundCommand::whole(row, run));
        let found = found.or_else(|| front.find_once(request)).expect("a command");
        ahead.begin(found, consumed, request.spans_in(&input).expect("it is not quoted"));
        let mut reply = Reply::new(self.version);
        let asker =
            Asker { select: self.select, no_touch: false, tracker: Default::default(), now_ms: self.now_ms, seed: 1 };
        let rest = Input { parser: &mut parser, bytes: &input, ahead: &mut ahead };
        let ran = inline::run(&self.database, asker, &mut front, rest, &mut reply, &mut TurnBudget::whole());
        (ran, reply.buffer.clone())
    }

    fn ask(&self, line: &str) -> String {
        shown(&self.plan(line))
    }

    fn receipts(&self) -> u64 {
        self.database.counts()[dormouse_storage::shown::RECEIPTS].0
    }
}

fn shown(reply: &[u8]) -> String {
    show(&Response::read(&mut &*reply).expect("a reply"))
}

static ONCE: Row = Command::<()>::new("ONCE", at_least(4), &[], Flags::WRITE, ()).row;

struct Tables {
    user: &'static str,
    counted: Vec<&'static str>,
}

impl Front for Tables {
    type Entry = &'static Row;
    type Mark = ();

    fn find(&self, name: &[u8]) -> Option<(&'static Row, Run)> {
        commands::FAMILIES.iter().flat_map(|family| family.commands).find_map(|command| {
            let is_it = command.row.name.as_bytes().eq_ignore_ascii_case(name);
            Some((&command.row, command.run.filter(|_| is_it)?))
        })
    }

    fn find_once(&self, request: Request<'_>) -> Option<FoundCommand<&'static Row>> {
        let (entry, run) = self.find(request.get(WORDS)?).filter(|_| request.arg(0) == b"ONCE")?;
        Some(FoundCommand { entry, run, once: Some(&ONCE) })
    }

    fn user(&self) -> &[u8] {
        self.user.as_bytes()
    }

    fn row(entry: &'static Row) -> &'static Row {
        entry
    }

    fn permits(&self, _: &'static Row, _: Request<'_>) -> bool {
        true
    }

    fn begin(&mut self, _: &'static Row, _: usize, _: usize) {}

    fn ran(
        &mut self,
        row: &'static Row,
        _: Request<'_>,
        _: usize,
        _: (&Reply, usize),
        (): (),
        _: Option<&ScriptTrace>,
    ) -> usize {
        self.counted.push(row.name);
        0
    }

    fn left(&mut self, _: Left, _: usize) {}

    fn goes_on(&mut self, _: oneshot::Receiver<Outcome>) {}
}

#[test]
fn a_request_is_run_once_and_answered_as_often_as_it_is_sent() {
    let bench = Bench::new();
    let many = "x".repeat(600);
    for (line, expected) in [
        ("ONCE a 60000 INCRBY n 5", "5"),
        ("ONCE a 60000 INCRBY n 5", "5"),
        ("ONCE b 60000 INCRBY n 5", "10"),
        ("ONCE a 60000 INCRBY n 5", "5"),
        ("GET n", "10"),
        // The time to live is no part of the request.
        ("ONCE a 1 INCRBY n 5", "5"),
        ("ONCE a 60000 INCRBY n 6", "(error) ONCEMISMATCH this key was used for another request"),
        ("ONCE a 60000 INCRBY m 5", "(error) ONCEMISMATCH this key was used for another request"),
        ("ONCE list 60000 RPUSH l a b", "2"),
        ("ONCE list 60000 RPUSH l a b", "2"),
        ("ONCE pop 60000 BLPOP l 0", "[l a]"),
        ("ONCE pop 60000 BLPOP l 0", "[l a]"),
        ("ONCE none 60000 BLPOP empty 0", "nil"),
        ("LRANGE l 0 -1", "[b]"),
        // Errors of the command are repeated, even if it would succeed now.
        ("ONCE e 60000 INCRBY l 1", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("DEL l", "1"),
        ("ONCE e 60000 INCRBY l 1", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("ONCE read 60000 GET n", "10"),
        ("SET n 1", "OK"),
        ("ONCE read 60000 GET n", "10"),
        // Two keys, in any shards.
        ("ONCE set 60000 MSET x 1 y 2", "OK"),
        ("DEL x", "1"),
        ("ONCE set 60000 MSET x 1 y 2", "OK"),
        ("EXISTS x", "0"),
        ("ONCE flush 60000 FLUSHALL", "OK"),
        ("SET n 1", "OK"),
        ("ONCE flush 60000 FLUSHALL", "OK"),
        ("GET n", "1"),
        ("ONCE a 60000 INCRBY n 5", "5"),
        ("DBSIZE", "1"),
        ("ONCE t 0 GET n", "(error) ERR invalid expire time in 'once' command"),
        ("ONCE t -5 GET n", "(error) ERR invalid expire time in 'once' command"),
        ("ONCE t 604800001 GET n", "(error) ERR invalid expire time in 'once' command"),
        ("ONCE t x GET n", "(error) ERR value is not an integer or out of range"),
        ("ONCE  1 GET n", "(error) ERR the key of ONCE must have 1 to 512 bytes"),
        (&format!("ONCE {many} 1 GET n"), "(error) ERR the key of ONCE must have 1 to 512 bytes"),
    ] {
        assert_eq!(bench.ask(line), expected, "{line}");
    }
}

#[test]
fn both_paths_have_the_same_receipts() {
    let bench = Bench::new();
    assert_eq!(bench.ask("ONCE a 60000 INCRBY n 5"), "5");
    let lines =
        ["ONCE a 60000 INCRBY n 5", "INCRBY n 1", "ONCE b 60000 INCRBY n 5", "ONCE b 60000 INCRBY n 5", "GET n"];
    let (ran, replies) = bench.batch(&lines);
    assert!(ran.is_under_lock);
    assert_eq!(String::from_utf8_lossy(&replies), ":5\r\n:6\r\n:11\r\n:11\r\n$2\r\n11\r\n");
    assert_eq!(bench.ask("ONCE b 60000 INCRBY n 5"), "11");
    let (_, replies) = bench.batch(&["ONCE a 60000 INCRBY n 6", "ONCE a 0 INCRBY n 5", "ONCE e 60000 LPUSH n 1"]);
    let shown = String::from_utf8_lossy(&replies).into_owned();
    assert!(
        shown.starts_with("-ONCEMISMATCH this key was used for another request\r\n-ERR invalid expire time"),
        "{shown}"
    );
    assert!(shown.ends_with("\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"), "{shown}");
    assert_eq!((bench.receipts(), bench.ask("GET n")), (3, "11".into()));
}

#[test]
fn a_key_belongs_to_its_request_user_and_index() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask("ONCE a 60000 INCRBY n 5"), "5");
    bench.user = "other";
    assert!(bench.ask("ONCE a 60000 INCRBY n 5").contains("ONCEMISMATCH"));
    bench.user = "default";
    bench.select = 1;
    assert!(bench.ask("ONCE a 60000 INCRBY n 5").contains("ONCEMISMATCH"));
    assert_eq!(bench.ask("ONCE b 60000 INCRBY n 5"), "5");
    bench.select = 0;
    assert!(bench.ask("ONCE b 60000 INCRBY n 5").contains("ONCEMISMATCH"));
    // Words are told apart.
    assert_eq!(bench.ask("ONCE c 60000 RPUSH l ab c"), "2");
    assert!(bench.ask("ONCE c 60000 RPUSH l a bc").contains("ONCEMISMATCH"));
    let (x, y) = ("x".repeat(1000), "y".repeat(1000));
    assert_eq!(bench.ask(&format!("ONCE d 60000 RPUSH l {x} {y} c")), "5");
    assert_eq!(bench.ask(&format!("ONCE d 60000 RPUSH l {x} {y} c")), "5");
    assert!(bench.ask(&format!("ONCE d 60000 RPUSH l {x} {x} c")).contains("ONCEMISMATCH"));
}

#[test]
fn a_receipt_expires() {
    let mut bench = Bench::new();
    for (after_ms, expected) in [(0, "1"), (999, "1"), (1, "2"), (999, "2"), (1, "3")] {
        bench.now_ms += after_ms;
        assert_eq!(bench.ask("ONCE a 1000 INCR n"), expected);
    }
    assert_eq!(bench.receipts(), 1);
}

/// What was refused before it ran may be sent again.
#[test]
fn a_refusal_leaves_no_receipt() {
    let bench = Bench::new();
    let limit = |bytes: usize| {
        let settings = EngineSettings { memory_max: bytes, ..EngineSettings::new(7) };
        bench.database.shared.settings.store(Arc::new(settings));
    };
    limit(1);
    assert!(bench.ask("ONCE a 60000 SET k v").contains("OOM"));
    // The receipt itself needs memory.
    assert!(bench.ask("ONCE b 60000 GET k").contains("OOM"));
    let (_, replies) = bench.batch(&["ONCE a 60000 SET k v"]);
    assert!(replies.starts_with(b"-OOM"));
    limit(0);
    assert_eq!(bench.receipts(), 0);
    assert_eq!(bench.ask("ONCE a 60000 SET k v"), "OK");
    assert_eq!(bench.ask("ONCE b 60000 GET k"), "v");
    assert!(bench.ask("ONCE s 60000 EVALSHA ffffffffffffffffffffffffffffffffffffffff 0").contains("NOSCRIPT"));
    assert_eq!(bench.receipts(), 2);
}

#[test]
fn a_transaction_is_run_once() {
    let bench = Bench::new();
    let queue = |lines: &[&str]| -> Vec<OwnedRequest> {
        lines
            .iter()
            .map(|line| OwnedRequest::from_args(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>()))
            .collect()
    };
    let once = |key: &str| Some(Once::new(key.as_bytes(), 60_000, b"default").expect("a key"));
    let first = queue(&["INCR a", "RPUSH a 1", "INCRBY b 7"]);
    let replies = b"*3\r\n:1\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n:7\r\n".to_vec();
    assert_eq!(bench.transaction(&first, once("t"), Some(3)), replies);
    assert_eq!(bench.transaction(&first, once("t"), Some(3)), replies);
    assert_eq!(
        shown(&bench.transaction(&first[..2], once("t"), Some(2))),
        "(error) ONCEMISMATCH this key was used for another request"
    );
    // A pipeline has its replies without an array around them.
    let flat = b":2\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n:14\r\n".to_vec();
    assert_eq!(bench.transaction(&first, once("p"), None), flat);
    assert_eq!(bench.transaction(&first, once("p"), None), flat);
    assert_eq!((bench.ask("GET a"), bench.ask("GET b")), ("2".into(), "14".into()));
}

#[test]
fn a_reply_that_is_too_long_is_not_run_again() {
    let bench = Bench::new();
    bench.plan(&format!("SET k {}", "v".repeat(600_000)));
    bench.plan(&format!("APPEND k {}", "v".repeat(600_000)));
    assert_eq!(bench.ask("ONCE a 60000 GETDEL k").len(), 1_200_000);
    let told = "(error) ONCETOOLARGE the request was run once; its reply of 1200012 bytes was too large to be kept";
    assert_eq!(bench.ask("ONCE a 60000 GETDEL k"), told);
    bench.plan(&format!("SET k {}", "v".repeat(900_000)));
    let first = bench.plan("ONCE b 60000 GETDEL k");
    assert_eq!(first.len(), 900_011);
    bench.runtime.block_on(bench.database.sleep()).expect("it sleeps");
    assert!(bench.plan("ONCE b 60000 GETDEL k") == first);
    assert_eq!(bench.ask("ONCE a 60000 GETDEL k"), told);
}

#[test]
fn a_reply_is_repeated_in_the_version_of_the_client() {
    let mut bench = Bench::new();
    bench.ask("HSET h f 1");
    bench.version = Version::Resp3;
    assert_eq!(bench.plan("ONCE a 60000 HGETALL h"), b"%1\r\n$1\r\nf\r\n$1\r\n1\r\n");
    assert_eq!(bench.plan("ONCE n 60000 GET none"), b"_\r\n");
    bench.version = Version::Resp2;
    assert_eq!(bench.plan("ONCE a 60000 HGETALL h"), b"*2\r\n$1\r\nf\r\n$1\r\n1\r\n");
    assert_eq!(bench.plan("ONCE n 60000 GET none"), b"$-1\r\n");
    assert_eq!(bench.batch(&["ONCE n 60000 GET none"]).1, b"$-1\r\n");
}

/// The changes of each request in a random schedule are those of one delivery, whatever the database does in between.
#[test]
fn random_deliveries_change_everything_once() {
    for seed in 0..8 {
        let mut rng = Rng::with_seed(seed);
        let mut bench = Bench::new();
        let mut balances: BTreeMap<String, i64> = BTreeMap::new();
        let mut first_replies: HashMap<String, Vec<u8>> = HashMap::new();
        let mut requests: Vec<String> = Vec::new();
        for step in 0..400 {
            let line = match rng.u32(..3) {
                0 if !requests.is_empty() => requests[rng.usize(..requests.len())].clone(),
                _ => {
                    // Some keys share a slot with what they are about.
                    let (from, to, by) = (rng.u32(..6), rng.u32(..6), rng.u32(1..100));
                    let tag = if rng.bool() { format!("{{acc:{from}}}") } else { String::new() };
                    let command = match rng.u32(..3) {
                        0 => format!("INCRBY acc:{from} {by}"),
                        1 => format!("DECRBY acc:{from} {by}"),
                        _ => format!(
                            "EVAL redis.call('INCRBY',KEYS[1],ARGV[1])return(redis.call('DECRBY',KEYS[2],ARGV[1])) 2 acc:{from} \
                             acc:{to} {by}"
                        ),
                    };
                    format!("ONCE {tag}r{step} 60000 {command}")
                }
            };
            let is_first = !first_replies.contains_key(&line);
            let reply = match rng.bool() {
                true => {
                    let (ran, replies) = bench.batch(&[&line]);
                    if ran.used > 0 { replies } else { bench.plan(&line) }
                }
                false => bench.plan(&line),
            };
            let expected = first_replies.entry(line.clone()).or_insert_with(|| reply.clone());
            assert_eq!(*expected, reply, "seed {seed}: {line}");
            if is_first {
                assert!(reply.starts_with(b":"), "{line}: {}", reply.escape_ascii());
                let words: Vec<&str> = line.split(' ').collect();
                let by: i64 = words.last().and_then(|by| by.parse().ok()).expect("a number");
                match words[3] {
                    "INCRBY" => *balances.entry(words[4].into()).or_default() += by,
                    "DECRBY" => *balances.entry(words[4].into()).or_default() -= by,
                    _ => {
                        *balances.entry(words[6].into()).or_default() += by;
                        *balances.entry(words[7].into()).or_default() -= by;
                    }
                }
                requests.push(line);
            }
            bench.now_ms += rng.u64(..3);
            let slot = rng.u16(1..16384);
            match rng.u32(..12) {
                0 => _ = bench.runtime.block_on(bench.database.split(slot)).expect("it splits"),
                1 => {
                    let firsts = bench.database.topology().map_or(Vec::new(), |topology| topology.firsts.clone());
                    if let Some(first) = firsts.last() {
                        bench.runtime.block_on(bench.database.merge(*first)).expect("it merges");
                    }
                }
                2 => _ = bench.runtime.block_on(bench.database.sleep()).expect("it sleeps"),
                3 => _ = bench.runtime.block_on(bench.database.checkpoint()).expect("it is written"),
                4 => assert_eq!(bench.ask("FLUSHDB"), "OK"),
                5 => _ = bench.ask("SWAPDB 2 3"),
                _ => {}
            }
            if bench.ask("DBSIZE") == "0" {
                balances.clear();
            }
        }
        for (account, balance) in balances {
            assert_eq!(bench.ask(&format!("GET {account}")), balance.to_string(), "seed {seed}: {account}");
        }
    }
}
