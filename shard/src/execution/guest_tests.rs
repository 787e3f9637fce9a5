//! Tests of guests: scripts that begin on the thread of their client, and go on on the slow lane where they are long.

use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Parsed, Parser, Reply, RequestLimits, Version};
use futures::channel::oneshot;
use futures::future::join;
use tokio::runtime::{Builder, Runtime};

use super::ahead::{Ahead, FoundCommand};
use super::inline::{self, Asker, Input, Stop};
use super::tests::{Tables, engine};
use super::*;
use crate::commands::find;
use crate::execution::budget::TurnBudget;

const NOW_MS: u64 = 1_700_000_000_000;

/// Pushes as many elements as it is told to.
const PUSHES: &str = "for i = 1, ARGV[1] do redis.call('RPUSH', KEYS[1], i) end return redis.call('LLEN', KEYS[1])";
const FEW: &str = "3";
/// Too many for one turn.
const MANY: &str = "5000";

fn bench() -> (Runtime, Arc<Database>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let database = runtime.block_on(Database::open("test", 7, engine(runtime.handle())));
    (runtime, database)
}

fn plan(words: &[&str]) -> Arc<Plan> {
    let request = OwnedRequest::from_args(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    let (row, run) = find(request.as_request()).expect("a command");
    let context = Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() };
    Arc::new(Plan::one(PlannedCommand { row, run, request, context }, NOW_MS, 1))
}

async fn ask(database: &Arc<Database>, words: &[&str]) -> Outcome {
    run(database, &plan(words), &Arc::new(Turn::endless(None))).await.expect("it runs")
}

fn text(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.replies.buffer).replace("\r\n", " ").trim_end().to_owned()
}

fn was_here(outcome: &Outcome) -> bool {
    outcome.elsewhere.is_zero()
}

/// Lets guests run though an earlier one was slow, as in a build that is not optimised.
fn allow(database: &Database) {
    database.shared.scripts.allow_guests();
}

#[test]
fn a_guest_that_is_long_goes_on_on_the_lane() {
    let (runtime, database) = bench();
    runtime.block_on(async {
        let few = ask(&database, &["EVAL", PUSHES, "1", "l", FEW]).await;
        assert_eq!((text(&few).as_str(), was_here(&few)), (":3", true));
        let many = ask(&database, &["EVAL", PUSHES, "1", "l", MANY]).await;
        assert_eq!((text(&many).as_str(), was_here(&many)), (":5003", false));
        assert!(many.has_changed);
        allow(&database);
        // The next runs begin on the lane, for a while.
        let mut length = 5003;
        loop {
            let few = ask(&database, &["EVAL", PUSHES, "1", "l", FEW]).await;
            length += 3;
            assert_eq!(text(&few), format!(":{length}"));
            if was_here(&few) {
                break;
            }
        }
        let all = text(&ask(&database, &["LRANGE", "l", "0", "5005"]).await);
        let numbers: Vec<usize> = all.split(' ').skip(2).step_by(2).map(|word| word.parse().unwrap()).collect();
        assert!(numbers.into_iter().eq((1..=3).chain(1..=5000).chain(1..=3)));
    });
}

#[test]
fn a_guest_that_has_not_written_runs_again() {
    let (runtime, database) = bench();
    runtime.block_on(async {
        let text_of = "local n = 0 while n < 200000 do n = n + 1 end redis.call('INCR', 'k') return n";
        let outcome = ask(&database, &["EVAL", text_of, "0"]).await;
        assert_eq!((text(&outcome).as_str(), was_here(&outcome)), (":200000", false));
        assert_eq!(text(&ask(&database, &["GET", "k"]).await), "$1 1");
    });
}

#[test]
fn others_see_all_of_a_suspended_script_or_nothing() {
    let (runtime, database) = bench();
    runtime.block_on(async {
        for round in 1..=20 {
            allow(&database);
            let line = format!("{PUSHES} -- {round}");
            let (guest, length) =
                join(ask(&database, &["EVAL", &line, "1", "l", MANY]), ask(&database, &["LLEN", "l"])).await;
            assert_eq!(text(&guest), format!(":{}", round * 5000));
            assert_eq!(text(&length), text(&guest), "it has waited for the script");
        }
    });
}

#[test]
fn a_call_that_is_long_is_made_on_the_lane() {
    let (runtime, database) = bench();
    runtime.block_on(async {
        ask(&database, &["EVAL", PUSHES, "1", "l", "20000"]).await;
        for (body, reply) in [
            ("redis.call('INCR', KEYS[2]) return #redis.call('LRANGE', KEYS[1], 0, -1)", ":20000"),
            ("redis.call('INCR', KEYS[2]) return #redis.pcall('LRANGE', KEYS[1], 0, -1)", ":20000"),
            ("redis.call('SET', KEYS[2], ('x'):rep(70000)) return #redis.call('GET', KEYS[2])", ":70000"),
            ("redis.call('INCR', KEYS[3]) return redis.pcall('LINSERT', KEYS[1], 'BEFORE', 'none', 'x')", ":-1"),
            (
                "redis.call('INCR', KEYS[3]) local r = redis.pcall('SINTERSTORE', 'd', KEYS[1], KEYS[1]) return r.err",
                "$65 WRONGTYPE Operation against a key holding the wrong kind of value",
            ),
        ] {
            allow(&database);
            let script = format!("for i = 1, 1 do end {body}");
            assert_eq!(text(&ask(&database, &["EVAL", &script, "3", "l", "n", "m"]).await), reply, "{body}");
        }
        let fails = "for i = 1, ARGV[1] do redis.call('INCR', 'o') end redis.call('INCR', KEYS[1])";
        allow(&database);
        let reply = text(&ask(&database, &["EVAL", fails, "1", "l", "3000"]).await);
        assert!(reply.starts_with("-WRONGTYPE ") && reply.ends_with("on @user_script:1."), "{reply}");
        assert_eq!(text(&ask(&database, &["GET", "o"]).await), "$4 3000", "what it has written stays");
    });
}

#[test]
fn a_batch_ends_in_front_of_a_script_that_goes_on() {
    let (runtime, database) = bench();
    runtime.block_on(ask(&database, &["SET", "k", "v"]));
    let line = |words: &[&str]| {
        let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect::<Vec<_>>();
        format!("*{}\r\n{}", words.len(), words.concat())
    };
    let (before, script) = (line(&["RPUSH", "l", "first"]), line(&["EVAL", PUSHES, "1", "l", MANY]));
    let input = [&*before, &*script, &*line(&["LLEN", "l"])].concat();
    let asker = Asker { select: 0, no_touch: false, tracker: Default::default(), now_ms: NOW_MS, seed: 1 };
    let mut front = Tables::default();
    let (mut parser, mut ahead, mut reply) =
        (Parser::new(RequestLimits::default()), Ahead::default(), Reply::default());
    reply.set_inline_max(Some(1 << 20));
    let Ok(Parsed::Complete { request, consumed }) = parser.parse(input.as_bytes()) else { panic!("it is whole") };
    let (row, push) = find(request).expect("it is a command");
    let spans = request.spans_in(input.as_bytes()).expect("it is not quoted");
    ahead.begin(FoundCommand::whole(row, push), consumed, spans);
    let rest = Input { parser: &mut parser, bytes: input.as_bytes(), ahead: &mut ahead };
    let ran = inline::run(&database, asker, &mut front, rest, &mut reply, &mut TurnBudget::whole());
    assert_eq!((ran.used, ran.stop), (before.len(), Stop::Wait));
    assert_eq!(&reply.buffer, b":1\r\n");
    let outcome: oneshot::Receiver<Outcome> = front.going_on.take().expect("it goes on");
    let outcome = runtime.block_on(outcome).expect("it runs to its end");
    assert_eq!(text(&outcome), ":5001");
    assert!(outcome.steps.len() == 1 && !was_here(&outcome));
}

/// A script that finds a function by a computed name is no guest that can be suspended: it ends soon.
#[test]
fn a_guest_that_cannot_be_suspended_ends() {
    let (runtime, database) = bench();
    runtime.block_on(async {
        let script = "local s = 'x' redis.call('INCR', 'k') s[('bus'):reverse():sub(1, 0) .. 'g' .. 'sub'](s, '.', \
                      function() while true do end end)";
        let outcome = ask(&database, &["EVAL", script, "0"]).await;
        assert!(text(&outcome).starts_with("-ERR Script ended: it took too long inside"), "{}", text(&outcome));
        allow(&database);
        // Before its first write it runs again on the lane, where it is ended as others are.
        let script = script.replace("redis.call('INCR', 'k')", "").replace("while true do end", "");
        let outcome = ask(&database, &["EVAL", &script, "0"]).await;
        assert_eq!(text(&outcome), "$-1");
    });
}
