//! Scripts at random, in little memory: whatever they do, each ends with one reply or none, and the next one runs.
//!
//! Most of them fail soon, somewhere between the machine's own code and ours: that is the point. `DORMOUSE_SCRIPTS=100000` runs more
//! of them than the usual few, best under the address sanitizer.

use std::fmt::Write;

use dormouse_protocol::{Reply, Request, Response, Version};
use dormouse_scripting::vm::{self, RunLimits, Runnable, ScriptEnd};
use dormouse_scripting::{Course, Halt, Host, Script};
use fastrand::Rng;

const SCRIPTS: u64 = 1500;

/// Answers with replies of every kind, and ends some scripts.
struct RandomHost {
    rng: Rng,
    ticks_left: usize,
    has_written: bool,
}

impl RandomHost {
    fn answer(&mut self, reply: &mut Reply, depth: usize) {
        match self.rng.u8(..if depth < 5 { 15 } else { 10 }) {
            0 => reply.integer(self.rng.i64(..)),
            1 => reply.ok(),
            2 => reply.null(),
            3 => reply.boolean(self.rng.bool()),
            4 => reply.double([0.5, f64::NAN, f64::INFINITY, -0.0][self.rng.usize(..4)]),
            5 => reply.big_number("-123456789012345678901234567890"),
            6 => reply.verbatim("txt", b"as it is"),
            7 => reply.bulk(&vec![b'x'; [0, 1, 40, 5000, 200_000][self.rng.usize(..5)]]),
            8 if depth == 0 => reply.error("ERR at random"),
            8 | 9 => reply.bulk(b"text"),
            10 => reply.array(0),
            11 | 12 => {
                let len = self.rng.usize(..4);
                reply.array(len);
                (0..len).for_each(|_| self.answer(reply, depth + 1));
            }
            13 => {
                let len = self.rng.usize(..3);
                reply.set(len);
                (0..len).for_each(|_| self.answer(reply, depth + 1));
            }
            _ => {
                let len = self.rng.usize(..3);
                reply.map(len);
                (0..2 * len).for_each(|_| self.answer(reply, depth + 1));
            }
        }
    }
}

impl Host for RandomHost {
    fn call(&mut self, _: Request<'_>, reply: &mut Reply, can_suspend: bool) -> Result<Course, Halt> {
        if can_suspend && self.rng.u8(..10) == 0 {
            return Ok(Course::Suspend);
        }
        self.has_written |= self.rng.u8(..4) == 0;
        if self.rng.u8(..60) == 0 {
            return Err(Halt);
        }
        self.answer(reply, 0);
        Ok(Course::On)
    }

    fn step(&mut self, held: usize, can_suspend: bool) -> Result<Course, Halt> {
        if can_suspend && self.rng.u8(..10) == 0 {
            return Ok(Course::Suspend);
        }
        self.tick(held).map(|()| Course::On)
    }

    fn tick(&mut self, _: usize) -> Result<(), Halt> {
        self.ticks_left = self.ticks_left.checked_sub(1).ok_or(Halt)?;
        Ok(())
    }

    fn weigh(&mut self, _: usize) -> Result<(), Halt> {
        self.tick(0)
    }

    fn outgrow(&mut self) -> Result<(), Halt> {
        if self.has_written { Ok(()) } else { Err(Halt) }
    }

    fn is_final(&self) -> bool {
        self.has_written
    }

    fn allows(&mut self, _: Request<'_>) -> Option<bool> {
        Some(true)
    }

    fn log(&mut self, _: i64, _: &[u8]) {}
}

/// A script that is being written.
struct Author {
    rng: Rng,
    text: String,
    /// Expressions and statements that may still be written.
    left: usize,
}

const ATOMS: &[&str] = &[
    "nil",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "0/0",
    "1/0",
    "2^53",
    "''",
    "'text'",
    "'\\0\\r\\n'",
    "KEYS",
    "ARGV",
    "KEYS[1]",
    "ARGV[2]",
    "#ARGV",
    "a",
    "b",
    "c",
    "redis",
    "_G",
    "string",
    "f",
];
const OPERATORS: &[&str] = &["+", "-", "*", "/", "%", "^", "..", "==", "~=", "<", "<=", "and", "or"];
const FUNCTIONS: &[&str] = &[
    "redis.call",
    "redis.pcall",
    "redis.call",
    "redis.error_reply",
    "redis.status_reply",
    "redis.sha1hex",
    "redis.setresp",
    "redis.log",
    "redis.acl_check_cmd",
    "pcall",
    "xpcall",
    "error",
    "assert",
    "tostring",
    "tonumber",
    "type",
    "select",
    "unpack",
    "next",
    "pairs",
    "ipairs",
    "rawget",
    "rawset",
    "rawequal",
    "setmetatable",
    "getmetatable",
    "loadstring",
    "collectgarbage",
    "cjson.encode",
    "cjson.decode",
    "cmsgpack.pack",
    "cmsgpack.unpack",
    "struct.pack",
    "struct.unpack",
    "bit.band",
    "string.rep",
    "string.format",
    "string.gsub",
    "string.find",
    "string.sub",
    "string.byte",
    "table.concat",
    "table.insert",
    "table.remove",
    "table.sort",
    "math.random",
    "coroutine.create",
    "coroutine.resume",
    "coroutine.wrap",
    "coroutine.yield",
    "f",
    "a",
];
const FIELDS: &[&str] =
    &["ok", "err", "double", "map", "set", "big_number", "verbatim_string", "string", "format", "1", "x"];
const METAMETHODS: &[&str] = &[
    "__index",
    "__newindex",
    "__call",
    "__gc",
    "__tostring",
    "__concat",
    "__eq",
    "__lt",
    "__len",
    "__add",
    "__mode",
    "__metatable",
];

impl Author {
    fn pick(&mut self, of: &[&'static str]) -> &'static str {
        of[self.rng.usize(..of.len())]
    }

    fn add(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn list(&mut self, most: usize, depth: usize) {
        for at in 0..self.rng.usize(..=most) {
            if at > 0 {
                self.add(", ");
            }
            self.expression(depth);
        }
    }

    fn function(&mut self, parameters: &str, depth: usize) {
        self.add("function(");
        self.add(parameters);
        self.add(") ");
        self.block(depth);
        self.add(" return ");
        self.expression(depth);
        self.add(" end");
    }

    fn expression(&mut self, depth: usize) {
        self.left = self.left.saturating_sub(1);
        if depth > 6 || self.left == 0 {
            let atom = self.pick(ATOMS);
            return self.add(atom);
        }
        let depth = depth + 1;
        match self.rng.u8(..20) {
            0..=5 => {
                let atom = self.pick(ATOMS);
                self.add(atom);
            }
            6 | 7 => {
                self.add("(");
                self.expression(depth);
                let operator = self.pick(OPERATORS);
                let _ = write!(self.text, " {operator} ");
                self.expression(depth);
                self.add(")");
            }
            8 | 9 => {
                self.add("{");
                self.list(3, depth);
                self.add("}");
            }
            10 => {
                self.add("{");
                for _ in 0..self.rng.usize(..3) {
                    let field = self.pick(FIELDS);
                    let _ = write!(self.text, "['{field}'] = ");
                    self.expression(depth);
                    self.add(", ");
                }
                self.add("}");
            }
            11 => {
                let method = self.pick(METAMETHODS);
                let _ = write!(self.text, "setmetatable({{}}, {{{method} = ");
                self.function("self, x", depth);
                self.add("})");
            }
            12 => self.function("x, y", depth),
            13 => {
                self.add("coroutine.wrap(");
                self.function("x", depth);
                self.add(")(");
                self.list(1, depth);
                self.add(")");
            }
            14 => {
                self.add("#(");
                self.expression(depth);
                self.add(")");
            }
            15 => {
                self.add("('text'):rep(");
                let times = ["3", "1000", "30000", "1e6"][self.rng.usize(..4)];
                self.add(times);
                self.add(")");
            }
            _ => {
                let function = self.pick(FUNCTIONS);
                self.add(function);
                self.add("(");
                self.list(3, depth);
                self.add(")");
            }
        }
    }

    fn block(&mut self, depth: usize) {
        for _ in 0..self.rng.usize(..3) {
            self.statement(depth + 1);
        }
    }

    fn statement(&mut self, depth: usize) {
        if depth > 6 || self.left == 0 {
            return;
        }
        match self.rng.u8(..9) {
            0..=2 => {
                let name = self.pick(&["a", "b", "c", "f"]);
                let _ = write!(self.text, "{name} = ");
                self.expression(depth);
            }
            3 => {
                self.add("a[");
                self.expression(depth);
                self.add("] = ");
                self.expression(depth);
            }
            4 => {
                self.add("if ");
                self.expression(depth);
                self.add(" then ");
                self.block(depth);
                self.add("else ");
                self.block(depth);
                self.add("end");
            }
            5 => {
                let times = ["3", "50", "1e9"][self.rng.usize(..3)];
                let _ = write!(self.text, "for i = 1, {times} do b = i ");
                self.block(depth);
                self.add("end");
            }
            _ => {
                self.add("c = pcall(");
                self.function("", depth);
                self.add(")");
            }
        }
        self.add(" ");
    }

    fn script(mut self) -> String {
        // Some are straight lines.
        if self.rng.bool() {
            self.add("local a, b, c, f = {}, 1, 'c', function(...) return ... end ");
            for _ in 0..self.rng.usize(..6) {
                self.statement(0);
            }
        }
        self.add("return ");
        self.expression(0);
        self.text
    }
}

#[test]
fn any_script_ends_with_one_reply_or_none() {
    let count = std::env::var("DORMOUSE_SCRIPTS").ok().and_then(|count| count.parse().ok()).unwrap_or(SCRIPTS);
    let (mut replied, mut failed, mut suspended_runs) = (0, 0, 0);
    for seed in 0..count {
        let mut rng = Rng::with_seed(seed);
        let text = Author { rng: rng.fork(), text: String::new(), left: 120 }.script();
        let Ok(script) = Script::new(text.as_bytes()) else { continue };
        let memory_bytes = [4 << 10, 40 << 10, 80 << 10, 1 << 20][rng.usize(..4)] + rng.usize(..200);
        let first_memory_bytes = if rng.bool() { memory_bytes } else { memory_bytes / 2 };
        let guest = rng.bool();
        let limits = RunLimits { memory_bytes, first_memory_bytes, ticks: !guest, guest, values: 4096, chance: seed };
        let word = |rng: &mut Rng| vec![b'w'; [0, 5, 500, 20_000][rng.usize(..4)]];
        let words = |rng: &mut Rng| (0..rng.usize(..5)).map(|_| word(rng)).collect::<Vec<_>>();
        let (keys, arguments) = (words(&mut rng), words(&mut rng));
        let mut host = RandomHost { rng: rng.fork(), ticks_left: 100, has_written: false };
        let mut reply = Reply::new(if rng.bool() { Version::Resp3 } else { Version::Resp2 });
        let (keys, arguments) = (keys.iter().map(Vec::as_slice), arguments.iter().map(Vec::as_slice));
        let run = Runnable::Script(&script);
        let ran = match vm::run(run, keys, arguments, limits, &mut host, &mut reply) {
            Ok(ScriptEnd::Suspended(suspended)) => {
                assert!(reply.is_empty(), "{seed}: {text}");
                suspended_runs += 1;
                vm::go_on(suspended, run, limits, &mut host, &mut reply)
            }
            ran => ran.map(drop),
        };
        match ran {
            Ok(()) => {
                assert_eq!(Response::length(&reply.buffer), Some(reply.len()), "{seed}: {text}");
                replied += 1;
                failed += usize::from(reply.buffer[0] == b'-');
            }
            Err(Halt) => assert!(reply.is_empty(), "{seed}: {text}"),
        }
    }
    assert!(suspended_runs > count as usize / 100, "{suspended_runs} of {count} were suspended");
    assert!(
        replied * 2 > count as usize && failed < replied,
        "{replied} of {count} have a reply, and {failed} an error"
    );
}
