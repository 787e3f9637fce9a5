//! Tests of budgets: the work of a turn, and plans that are known to be short before they run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use dormouse_protocol::{OwnedRequest, Parsed, Parser, RequestLimits, Version};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};

use super::ahead::{Ahead, FoundCommand};
use super::budget::{Estimate, Fit, TURN, TurnBudget};
use super::inline::{self, Asker, Front, Input, Stop};
use super::*;
use crate::commands::testing::Bench;
use crate::commands::{Row, Run, find};
use crate::database::Engine;
use crate::keyspace::Left;
use crate::keyspace::scripts::ScriptTrace;
use crate::lane::Lane;
use dormouse_protocol::Request;
use dormouse_storage::store::Store;

const NOW_MS: u64 = 1_700_000_000_000;

fn command(line: &str) -> PlannedCommand {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let request = OwnedRequest::from_args(&args);
    let (row, run) = find(request.as_request()).expect("a command");
    PlannedCommand {
        row,
        run,
        request,
        context: Context { select: 0, version: Version::Resp2, no_touch: false, tracker: Default::default() },
    }
}

fn plan(queue: &[&str]) -> Plan {
    let mut plan = Plan::new(NOW_MS, 1);
    plan.steps.extend(queue.iter().map(|line| Step::Command(command(line))));
    plan
}

pub(super) fn engine(runtime: &Handle) -> Engine {
    Engine {
        store: Arc::new(Store::memory()),
        lane: Lane::new("lane", 1, 0).expect("a thread"),
        loader: Lane::on(runtime),
        patient: Lane::on(runtime),
        background: runtime.clone(),
        clock: || NOW_MS,
        writer: 1,
        log: None,
        recovered: Arc::default(),
        give_back: || {},
        health: Arc::default(),
        claims: None,
    }
}

#[test]
fn a_budget_is_spent_once() {
    let mut budget = TurnBudget::whole();
    assert_eq!(budget.take(TURN - 1), Fit::Now);
    assert_eq!(budget.take(2), Fit::Later);
    assert_eq!(budget.take(1), Fit::Now);
    assert_eq!(budget.take(1), Fit::Later);
    assert_eq!(budget.take(TURN + 1), Fit::Never);
}

#[test]
fn a_queue_is_short_only_if_that_is_known() {
    let mut bench = Bench::new();
    for (key, length) in [("half", TURN / 2), ("few", 10)] {
        let elements: Vec<String> = (0..length).map(|n| n.to_string()).collect();
        for (command, key) in [("RPUSH", format!("{key}:list")), ("SADD", format!("{key}:set"))] {
            bench.run(&format!("{command} {key} {}", elements.join(" ")));
        }
    }
    let long = format!("x{}", "y".repeat(TURN * 60));
    let pushes = format!("RPUSH l {}", "e ".repeat(TURN / 2).trim_end());
    for (queue, is_short) in [
        (&["GET k"][..], true),
        (&["LRANGE half:list 0 -1"], true),
        (&["LRANGE half:list 0 -1", "GET k"], true),
        (&["LRANGE half:list 0 -1", "LRANGE half:list 0 -1"], false),
        // Pushed elements are counted at once for each later command.
        (&["RPUSH l a b c", "LRANGE l 0 -1"], true),
        (&[&pushes, "GET k"], true),
        (&[&pushes, "LRANGE l 0 -1", "LRANGE l 0 -1"], false),
        // The size of a copy is unknown beforehand.
        (&["RENAME half:list l", "GET k"], true),
        (&["RENAME half:list l", "LRANGE l 0 -1"], false),
        (&["SUNIONSTORE d half:set few:set", "SMEMBERS d"], false),
        (&["RENAME half:list l", "LRANGE few:list 0 -1"], true),
        (&["SADD few:set a", "SINTER few:set half:set"], false),
        (&["SWAPDB 0 1", "GET k"], true),
        (&["SWAPDB 0 1", "LRANGE l 0 -1"], false),
        (&[&format!("SADD s {long}"), &format!("SSCAN s 0 MATCH {long}")], false),
    ] {
        let plan = plan(queue);
        let shown: Vec<&str> = queue.iter().map(|line| &line[..line.len().min(40)]).collect();
        assert_eq!(Estimate::of(&mut bench.keyspace(), &plan).is_short(), is_short, "{shown:?}");
    }
}

/// Commands that are long by themselves, each over a value or with arguments that take more than a turn.
#[test]
fn a_command_that_takes_more_than_a_turn_is_not_short() {
    let mut bench = Bench::new();
    let many = TURN + 10;
    let elements: Vec<String> = (0..many).map(|n| n.to_string()).collect();
    let pairs: Vec<String> = elements.iter().map(|n| format!("{n} {n}")).collect();
    let (elements, pairs) = (elements.join(" "), pairs.join(" "));
    let bytes = "v".repeat(TURN * 256);
    for line in [
        format!("RPUSH list {elements}"),
        format!("SADD set {elements}"),
        format!("ZADD zset {pairs}"),
        format!("HSET hash {pairs}"),
        format!("SET string {bytes}"),
        format!("SADD wide {bytes} {bytes}2"),
        format!("RPUSH wide-list {bytes} {bytes}2"),
        // One that is long, and many that make the average short.
        format!("RPUSH uneven {bytes} {elements}"),
        format!("ZADD uneven-zset -1 {bytes} {pairs}"),
    ] {
        bench.run(&line);
        assert!(!Estimate::of(&mut bench.keyspace(), &plan(&[&line])).is_short(), "{}", &line[..20]);
    }
    // As long as its room.
    bench.run(&format!("SETRANGE room {} x", (4 << 20) - 1));
    for line in [
        format!("LPOP list {many}"),
        format!("RPOP list {many}"),
        format!("LMPOP 1 list LEFT COUNT {many}"),
        "LTRIM list 0 5".into(),
        "LTRIM list 5 -1".into(),
        "RENAME set other".into(),
        "RENAMENX string other".into(),
        "MOVE hash 1".into(),
        "COPY string other".into(),
        "DUMP string".into(),
        "DUMP zset".into(),
        "GETDEL string".into(),
        "GETSET string v".into(),
        "GETEX string PERSIST".into(),
        "SET string v GET".into(),
        "APPEND room x".into(),
        "LPOP uneven".into(),
        "LMPOP 2 none uneven LEFT".into(),
        "LMOVE uneven other LEFT LEFT".into(),
        "RPOPLPUSH wide-list other".into(),
        "RPOP wide-list 2".into(),
        "SPOP wide".into(),
        "SPOP wide 1".into(),
        "ZPOPMIN uneven-zset".into(),
        "ZMPOP 2 none uneven-zset MIN".into(),
        "RPOP uneven".into(),
        "ZPOPMAX uneven-zset".into(),
        format!("SETRANGE string {} v", bytes.len()),
        "SETRANGE none 100000000 v".into(),
        "SRANDMEMBER wide -20".into(),
        "SUNIONSTORE other wide none".into(),
        "SINTERSTORE other wide wide".into(),
        "ZRANGESTORE other zset 0 -1".into(),
        format!("DEL {elements}"),
        format!("MSET {pairs}"),
        format!("MGET {elements}"),
        format!("GEOPOS zset {elements}"),
    ] {
        let is_short = Estimate::of(&mut bench.keyspace(), &plan(&[&line])).is_short();
        let expected = ["LTRIM list 5 -1", "RPOP uneven", "ZPOPMAX uneven-zset"].contains(&&*line);
        assert_eq!(is_short, expected, "{}", &line[..line.len().min(40)]);
    }
    // Each is short, and all together are not: of a queue, no reply is taken back.
    bench.run(&format!("SET string {}", "v".repeat(100 << 10)));
    let gets = ["GET string"; 30];
    assert!(Estimate::of(&mut bench.keyspace(), &plan(&gets[..1])).is_short());
    assert!(!Estimate::of(&mut bench.keyspace(), &plan(&gets)).is_short());
    let set = format!("SET new {}", "v".repeat(100 << 10));
    let gets: Vec<&str> = std::iter::once(&set[..]).chain(["GET new"; 30]).collect();
    assert!(!Estimate::of(&mut bench.keyspace(), &plan(&gets)).is_short());
    assert!(Estimate::of(&mut bench.keyspace(), &plan(&["INCR n"; 500])).is_short());
}

/// Where each of these plans runs, with one thread for the worker and one for the lane.
#[test]
fn a_plan_that_is_not_short_runs_on_the_lane() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let database = runtime.block_on(Database::open("test", 7, engine(runtime.handle())));
    let elements: Vec<String> = (0..TURN).map(|n| n.to_string()).collect();
    let fill = format!("RPUSH long {}", elements.join(" "));
    for (queue, lane) in [
        (&[&fill[..]][..], true),
        (&["LRANGE long 0 10"], false),
        (&["LPOP long 9999", "GET k"], true),
        (&[&fill[..]], true),
        (&["SORT long"], true),
        (&["KEYS *"], true),
        (&["SET k v", "KEYS nomatch*"], true),
        (&["SET k v", "SORT long"], true),
        (&["SET k v", "GET k"], false),
    ] {
        let ran_on = Arc::new(Mutex::new(None));
        let mut plan = plan(queue);
        let on = Arc::clone(&ran_on);
        plan.witness = Some(Witness::new(move |_, _| {
            *on.lock() = Some(std::thread::current().name().unwrap_or_default().starts_with("lane"));
        }));
        let (plan, turn) = (Arc::new(plan), Arc::new(Turn::endless(None)));
        // The thread of the lane that ran the plan before may still hold the lock, and would run this one as a job.
        while database.topology().is_some_and(|topology| topology.shards[0].try_hold().is_none()) {
            std::thread::yield_now();
        }
        let outcome = runtime.block_on(run(&database, &plan, &turn)).expect("it runs");
        assert_eq!(outcome.ended, Ended::Done);
        assert_eq!(*ran_on.lock(), Some(lane), "{:?}", queue.last());
        assert_eq!(outcome.elsewhere > Duration::ZERO, lane, "the time on the lane is told");
    }
}

/// A client that has the reply to a write finds it in the counts, even if the thread that ran it has not unlocked yet.
#[test]
fn a_write_on_another_thread_counts_before_its_reply_leaves() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let database = runtime.block_on(Database::open("test", 7, engine(runtime.handle())));
    let turn = Arc::new(Turn::endless(None));
    runtime.block_on(run(&database, &Arc::new(plan(&["SET a 1"])), &turn)).expect("it runs");
    let gate = Arc::clone(&database.topology().expect("it is awake").shards[0]);
    let held = gate.try_hold().expect("the lock is free");
    let second = Arc::new(plan(&["SET b 1"]));
    let mut second = Box::pin(run(&database, &second, &turn));
    runtime.block_on(async { assert!(futures::poll!(&mut second).is_pending()) });
    let (counted, shared) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&database.shared));
    let seen = Arc::clone(&counted);
    gate.leave(Job::Run(Box::new(move |_| seen.store(shared.counts[0].0.load(Ordering::Relaxed), Ordering::Relaxed))));
    drop(held);
    assert_eq!(counted.load(Ordering::Relaxed), 2);
    runtime.block_on(second).expect("it has run");
}

/// A command behind a SWAPDB finds its keys in memory, whichever index they were in: also in one that it names itself.
#[test]
fn a_queue_that_swaps_indexes_is_loaded_before_it_runs() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let database = runtime.block_on(Database::open("test", 7, engine(runtime.handle())));
    let in_index = |select: u8, queue: &[&str]| {
        let mut plan = plan(queue);
        for step in &mut plan.steps {
            if let Step::Command(command) = step {
                command.context.select = select;
            }
        }
        let outcome = runtime.block_on(run(&database, &Arc::new(plan), &Arc::new(Turn::endless(None))));
        let outcome = outcome.expect("it runs");
        String::from_utf8_lossy(&outcome.replies.buffer[outcome.start..]).into_owned()
    };
    // So many keys that the first command of the plan finds only its own place in memory.
    let many: Vec<String> = (0..20_000).map(|n| format!("key:{n} v")).collect();
    let fill: Vec<String> = many.chunks(1000).map(|pairs| format!("MSET {}", pairs.join(" "))).collect();
    let fill: Vec<&str> = fill.iter().map(String::as_str).collect();
    for (queue, expected) in [
        (&["SWAPDB 3 4", "COPY a b DB 3"][..], "+OK\r\n:0\r\n"),
        (&["SWAPDB 3 4", "COPY a b DB 3 REPLACE"], "+OK\r\n:1\r\n"),
        (&["SWAPDB 3 4", "MOVE b 3"], "+OK\r\n:0\r\n"),
        (&["SWAPDB 0 4", "GET b"], "+OK\r\n$1\r\n4\r\n"),
    ] {
        in_index(0, &["FLUSHALL", "SET a 0", "SET b 0"]);
        in_index(4, &fill);
        in_index(4, &["SET b 4"]);
        runtime.block_on(database.sleep()).expect("it sleeps");
        assert_eq!(in_index(0, queue), expected, "{queue:?}");
    }
}

#[derive(Default)]
pub(super) struct Tables {
    ran: usize,
    /// The script that has begun last and goes on elsewhere.
    pub going_on: Option<oneshot::Receiver<Outcome>>,
}

impl Front for Tables {
    type Entry = &'static Row;
    type Mark = ();

    fn find(&self, name: &[u8]) -> Option<(&'static Row, Run)> {
        crate::commands::FAMILIES.iter().flat_map(|family| family.commands).find_map(|command| {
            let is_it = command.row.name.as_bytes().eq_ignore_ascii_case(name);
            Some((&command.row, command.run.filter(|_| is_it)?))
        })
    }

    fn find_once(&self, _: Request<'_>) -> Option<FoundCommand<&'static Row>> {
        None
    }

    fn user(&self) -> &[u8] {
        b"default"
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
        _: &'static Row,
        _: Request<'_>,
        _: usize,
        _: (&Reply, usize),
        (): (),
        _: Option<&ScriptTrace>,
    ) -> usize {
        self.ran += 1;
        0
    }

    fn left(&mut self, _: Left, _: usize) {}

    fn goes_on(&mut self, outcome: oneshot::Receiver<Outcome>) {
        self.going_on = Some(outcome);
    }
}

/// A pipeline of commands of which each is nearly too long ends its turn after each of them.
#[test]
fn a_batch_ends_its_turn_when_its_budget_is_spent() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let database = runtime.block_on(Database::open("test", 7, engine(runtime.handle())));
    let length = TURN - 20;
    let elements: Vec<String> = (0..length).map(|n| n.to_string()).collect();
    // Each half fits into a turn.
    for half in elements.chunks(length / 2) {
        let fill = plan(&[&format!("RPUSH long {}", half.join(" "))]);
        runtime.block_on(run(&database, &Arc::new(fill), &Arc::new(Turn::endless(None)))).expect("it runs");
    }
    let one = b"*3\r\n$4\r\nLPOS\r\n$4\r\nlong\r\n$6\r\nabsent\r\n";
    let input = one.repeat(20);
    let asker = Asker { select: 0, no_touch: false, tracker: Default::default(), now_ms: NOW_MS, seed: 1 };
    let (mut at, mut turns) = (0, 0);
    let mut front = Tables::default();
    loop {
        let (mut parser, mut ahead, mut reply) =
            (Parser::new(RequestLimits::default()), Ahead::default(), Reply::default());
        let Ok(Parsed::Complete { request, consumed }) = parser.parse(&input[at..]) else { panic!("it is whole") };
        let (row, lpos) = front.find(request.arg(0)).expect("it is a command");
        ahead.begin(
            FoundCommand::whole(row, lpos),
            consumed,
            request.spans_in(&input[at..]).expect("it is not quoted"),
        );
        let rest = Input { parser: &mut parser, bytes: &input[at..], ahead: &mut ahead };
        let ran = inline::run(&database, asker, &mut front, rest, &mut reply, &mut TurnBudget::whole());
        assert_eq!(ran.used, one.len(), "one in each turn");
        at += ran.used;
        turns += 1;
        match ran.stop {
            Stop::Yield => assert!(at < input.len()),
            stop => {
                assert_eq!((stop, at), (Stop::Read, input.len()));
                break;
            }
        }
    }
    assert_eq!((turns, front.ran), (20, 20));
}

#[test]
fn scripts_that_follow_a_script_run_in_its_turn() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let database = runtime.block_on(Database::open("test", 7, engine(runtime.handle())));
    let counts = "EVAL pcall(type,1)\tlocal\tn\tfor\ti=1,3\tdo\tn=redis.call('INCR',KEYS[1])\tend\treturn\tn 1 k";
    let followers = |lines: &[&str], time: Duration| Followers {
        plans: lines.iter().map(|line| Arc::new(plan(&[line]))).collect(),
        time,
    };
    let turn = Arc::new(Turn::endless(None));
    let scripts = [counts, "EVAL while\ttrue\tdo\terror('no')\tend 0", "GET k", counts];
    let first = Arc::new(plan(&[counts]));
    let ran = run_within(&database, &first, followers(&scripts, Duration::MAX), &turn);
    let (outcome, behind) = runtime.block_on(ran).expect("it runs");
    let text = |outcome: &Outcome| String::from_utf8_lossy(&outcome.replies.buffer).into_owned();
    assert_eq!(text(&outcome), ":3\r\n");
    let behind: Vec<String> = behind.iter().map(|outcome| text(outcome.as_ref().expect("it has run"))).collect();
    assert_eq!((&*behind[0], &*behind[2], &*behind[3]), (":6\r\n", "$1\r\n6\r\n", ":9\r\n"));
    assert!(behind[1].starts_with("-ERR"), "{}", behind[1]);

    // The turn is over, and a plan that runs on the worker has none to share.
    let ran = run_within(&database, &first, followers(&scripts, Duration::ZERO), &turn);
    assert_eq!(runtime.block_on(ran).expect("it runs").1.len(), 0);
    let first = Arc::new(plan(&["GET k"]));
    let ran = run_within(&database, &first, followers(&scripts, Duration::MAX), &turn);
    let (outcome, behind) = runtime.block_on(ran).expect("it runs");
    assert_eq!((&*text(&outcome), behind.len()), ("$2\r\n12\r\n", 0));
}

/// A client that asks for the end of what runs for it.
#[derive(Debug, Default)]
struct Impatient(AtomicBool);

impl Caller for Impatient {
    fn is_gone(&self) -> bool {
        false
    }

    fn ends(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn register(&self, _: &std::task::Waker) {}
}

/// A database with collections that take many steps.
fn with_collections(runtime: &Runtime, elements: usize) -> Arc<Database> {
    let database = runtime.block_on(Database::open("test", 7, engine(runtime.handle())));
    let numbers: Vec<usize> = (0..elements).collect();
    for some in numbers.chunks(500) {
        let words = |word: &dyn Fn(&usize) -> String| some.iter().map(word).collect::<Vec<_>>().join(" ");
        let filled = plan(&[
            &format!("RPUSH long {}", words(&|n| n.to_string())),
            &format!("SADD set {}", words(&|n| format!("m{n}"))),
            &format!("ZADD sorted {}", words(&|n| format!("{n} m{n}"))),
            &format!("HSET hash {}", words(&|n| format!("m{n} v"))),
            &format!("MSET {}", words(&|n| format!("{{k}}{n} v"))),
        ]);
        runtime.block_on(run(&database, &Arc::new(filled), &Arc::new(Turn::endless(None)))).expect("it runs");
    }
    database
}

#[test]
fn what_only_reads_ends_when_its_client_asks_for_it() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let database = with_collections(&runtime, 20_000);
    let caller = Arc::new(Impatient::default());
    let ran = |line: &str, ends: bool| {
        caller.0.store(ends, Ordering::Relaxed);
        let turn = Arc::new(Turn::endless(Some(Arc::clone(&caller) as _)));
        let outcome = runtime.block_on(run(&database, &Arc::new(plan(&[line])), &turn)).expect("it runs");
        let text = String::from_utf8_lossy(&outcome.replies.buffer).into_owned();
        text.split("\r\n").next().unwrap_or_default().to_owned()
    };
    let ended = "-ERR Command ended before it was done: its client is gone, or the server ends";
    for (line, whole) in [
        ("LRANGE long 0 -1", "*20000"),
        ("LRANGE long -19999 -1", "*19999"),
        ("SMEMBERS set", "*20000"),
        ("HGETALL hash", "*40000"),
        ("ZRANGE sorted 0 -1", "*20000"),
        ("ZREVRANGE sorted 0 -1", "*20000"),
        ("KEYS {k}*", "*20000"),
        ("SINTERCARD 2 set set", ":20000"),
        ("ZINTERCARD 2 sorted set", ":20000"),
        ("SORT long", "*20000"),
        ("SORT_RO long", "*20000"),
        ("SORT long STORE stored", ":20000"),
        ("SUNIONSTORE stored set set", ":20000"),
        ("ZUNIONSTORE stored 2 sorted set", ":20000"),
    ] {
        assert_eq!(ran(line, true), ended, "{line}");
        assert_eq!(ran("EXISTS stored", true), ":0", "{line}");
        assert_eq!(ran(line, false), whole, "{line}");
        ran("DEL stored", false);
    }
    // What writes is done in full.
    assert_eq!(ran("LTRIM long 10000 -1", true), "+OK");
    assert_eq!(ran("COPY set copy", true), ":1");
    assert_eq!(ran("SCARD copy", true), ":20000");
    assert_eq!(ran("LLEN long", true), ":10000");
}

#[test]
fn scripts_end_in_the_middle_of_a_long_command_unless_they_have_written() {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let database = with_collections(&runtime, 20_000);
    let caller = Arc::new(Impatient(AtomicBool::new(true)));
    let ran = |line: &str| {
        let turn = Arc::new(Turn::endless(Some(Arc::clone(&caller) as _)));
        let outcome = runtime.block_on(run(&database, &Arc::new(plan(&[line])), &turn)).expect("it runs");
        String::from_utf8_lossy(&outcome.replies.buffer).into_owned()
    };
    for script in [
        // A plain one, and one that hides the error.
        "EVAL return\t#redis.call('SMEMBERS',KEYS[1]) 1 set",
        "EVAL pcall(redis.call,'SORT','long')\tredis.call('SET','written','1') 0",
        "EVAL_RO pcall(redis.call,'SMEMBERS','set')\treturn\t1 0",
    ] {
        let reply = ran(script);
        assert!(reply.starts_with("-ERR Script ended since its client is gone"), "{script}: {reply}");
        assert_eq!(ran("EXISTS written"), ":0\r\n");
    }
    let script = "EVAL redis.call('SET','written','1')\treturn\t#redis.call('SMEMBERS','set') 0";
    assert_eq!(ran(script), ":20000\r\n");
    assert_eq!(ran("GET written"), "$1\r\n1\r\n");
}

/// The client of a long read goes. The read ends, and its outcome tells what it has cost.
#[test]
fn what_has_been_used_is_told_when_a_client_goes() {
    #[derive(Debug)]
    struct Gone(Stopwatch);
    impl Caller for Gone {
        fn is_gone(&self) -> bool {
            self.0.elapsed() > Duration::from_millis(20)
        }
        fn register(&self, waker: &std::task::Waker) {
            waker.wake_by_ref();
        }
    }
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let database = with_collections(&runtime, 100_000);
    let turn = Arc::new(Turn::endless(Some(Arc::new(Gone(Stopwatch::start())))));
    let outcome = runtime.block_on(run(&database, &Arc::new(plan(&["SORT long ALPHA"])), &turn));
    // On a busy machine the client is gone before the command has begun.
    if let Ok(outcome) = outcome {
        assert!(outcome.replies.buffer.starts_with(b"-ERR Command ended"));
        assert!(outcome.elsewhere > Duration::ZERO);
    }
}
