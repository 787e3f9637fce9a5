//! Scripts over a host that answers a few commands, and scripts that misbehave.

use std::sync::Arc;
use std::thread;

use dormouse_protocol::{Reply, Request, Version};
use dormouse_scripting::vm::{self, RunLimits, Runnable, ScriptEnd};
use dormouse_scripting::{Course, Halt, Host, Library, Script};

/// Answers commands by their names, and ends a script after some questions.
struct TestHost {
    calls: Vec<String>,
    ticks_left: usize,
    has_written: bool,
    /// Questions after which a guest is suspended, if it can be.
    suspends_after: usize,
}

impl TestHost {
    fn new() -> Self {
        Self { calls: Vec::new(), ticks_left: 50_000, has_written: false, suspends_after: usize::MAX }
    }

    fn suspends(&mut self, can_suspend: bool) -> bool {
        self.suspends_after = self.suspends_after.saturating_sub(1);
        can_suspend && self.suspends_after == 0
    }
}

impl Host for TestHost {
    fn call(&mut self, request: Request<'_>, reply: &mut Reply, can_suspend: bool) -> Result<Course, Halt> {
        if self.suspends(can_suspend) {
            return Ok(Course::Suspend);
        }
        let words: Vec<String> = request.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let name = words[0].clone();
        self.calls.push(words.join(" "));
        match name.as_str() {
            "one" => reply.integer(1),
            "set" => {
                self.has_written = true;
                reply.ok();
            }
            "text" => reply.bulk(b"text"),
            "null" => reply.null(),
            "list" => {
                reply.array(3);
                reply.integer(-5);
                reply.bulk(b"x");
                reply.null();
            }
            "map" => {
                reply.map(1);
                reply.bulk(b"field");
                reply.double(1.5);
            }
            "members" => {
                reply.set(1);
                reply.bulk(b"m");
            }
            "true" => reply.boolean(true),
            "big" => reply.big_number("123456789012345678901234567890"),
            "verbatim" => reply.verbatim("txt", b"as it is"),
            "halt" => return Err(Halt),
            "wrong" => reply.error("WRONGTYPE Operation against a key holding the wrong kind of value"),
            "large" => reply.bulk(&[b'x'; 100_000]),
            _ => reply.error("ERR Unknown Redis command called from script"),
        }
        Ok(Course::On)
    }

    fn step(&mut self, held: usize, can_suspend: bool) -> Result<Course, Halt> {
        if self.suspends(can_suspend) {
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

    fn log(&mut self, level: i64, line: &[u8]) {
        self.calls.push(format!("log {level} {}", String::from_utf8_lossy(line)));
    }
}

const LIMITS: RunLimits = RunLimits {
    memory_bytes: 16 << 20,
    first_memory_bytes: 16 << 20,
    ticks: true,
    guest: false,
    values: 1 << 18,
    chance: 7,
};

const GUEST: RunLimits = RunLimits { ticks: false, guest: true, ..LIMITS };

fn run_with(host: &mut TestHost, version: Version, text: &str, keys: &[&str], arguments: &[&str]) -> Option<String> {
    run_within(LIMITS, host, version, text, keys, arguments)
}

/// A guest that is suspended goes on on another thread.
fn run_within(
    limits: RunLimits,
    host: &mut TestHost,
    version: Version,
    text: &str,
    keys: &[&str],
    arguments: &[&str],
) -> Option<String> {
    let script = match Script::new(text.as_bytes()) {
        Ok(script) => script,
        Err(problem) => return Some(format!("-{problem}")),
    };
    let mut reply = Reply::new(version);
    let run = Runnable::Script(&script);
    let ended = vm::run(
        run,
        keys.iter().map(|key| key.as_bytes()),
        arguments.iter().map(|argument| argument.as_bytes()),
        limits,
        host,
        &mut reply,
    );
    if let ScriptEnd::Suspended(suspended) = ended.ok()? {
        assert!(reply.is_empty());
        let elsewhere = || vm::go_on(suspended, run, LIMITS, host, &mut reply);
        thread::scope(|scope| scope.spawn(elsewhere).join().expect("it does not panic")).ok()?;
    }
    Some(String::from_utf8_lossy(&reply.buffer).replace("\r\n", " ").trim_end().to_owned())
}

fn run(text: &str) -> String {
    run_with(&mut TestHost::new(), Version::Resp2, text, &["k1", "k2"], &["a1", "a2"]).expect("it is not ended")
}

/// Runs a script in all ways, which must agree.
fn run_all(text: &str) -> String {
    let reply = run(text);
    let (mut after, mut calls) = (1, None);
    loop {
        let mut host = TestHost { suspends_after: after, ..TestHost::new() };
        let as_guest = run_within(GUEST, &mut host, Version::Resp2, text, &["k1", "k2"], &["a1", "a2"]);
        assert_eq!(as_guest.as_ref(), Some(&reply), "{text}, suspended after {after} questions");
        assert_eq!(calls.get_or_insert_with(|| host.calls.clone()), &host.calls, "{text}");
        if host.suspends_after > 0 || after == 50 {
            return reply;
        }
        after += 1;
    }
}

#[test]
fn values_become_replies() {
    for (text, reply) in [
        ("return 1", ":1"),
        ("return 3.99", ":3"),
        ("return -3.99", ":-3"),
        ("return 'x'", "$1 x"),
        ("return true", ":1"),
        ("return false", "$-1"),
        ("return nil", "$-1"),
        ("return", "$-1"),
        ("return {1, 2, {3, 'x'}, nil, 5}", "*3 :1 :2 *2 :3 $1 x"),
        ("return {}", "*0"),
        ("return {ok='FINE'}", "+FINE"),
        ("return {err='MY error'}", "-MY error"),
        ("return {double=1.5}", "$3 1.5"),
        ("return redis.status_reply('PONG')", "+PONG"),
        ("return redis.error_reply('My error')", "-My error"),
        ("return redis.error_reply('single')", "-ERR single"),
        ("return redis.error_reply('-CODE text')", "-CODE text"),
        ("return {KEYS[1], KEYS[2], ARGV[1], ARGV[2], #KEYS}", "*5 $2 k1 $2 k2 $2 a1 $2 a2 :2"),
        ("return redis.sha1hex('')", "$40 da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("return redis.REDIS_VERSION", "$5 7.2.4"),
        ("return redis.REDIS_VERSION_NUM", ":459268"),
        ("return tostring(0.1)", "$3 0.1"),
        ("return function() end", "$-1"),
    ] {
        assert_eq!(run_all(text), reply, "{text}");
    }
}

#[test]
fn replies_become_values() {
    for (text, reply) in [
        ("return redis.call('one') + 1", ":2"),
        ("return redis.call('text') .. 's'", "$5 texts"),
        ("return redis.call('null') == false", ":1"),
        ("return #redis.call('list')", ":3"),
        ("return redis.call('set').ok", "$2 OK"),
        ("return redis.call('map')", "*2 $5 field $3 1.5"),
        ("return server.call('one')", ":1"),
        ("return redis.pcall('wrong').err", "$65 WRONGTYPE Operation against a key holding the wrong kind of value"),
        (
            "local ok, e = pcall(redis.call, 'wrong') return e",
            "$65 WRONGTYPE Operation against a key holding the wrong kind of value",
        ),
        ("redis.setresp(3) return redis.call('map').map.field.double", ":1"),
        ("redis.setresp(3) return redis.call('members').set.m", ":1"),
        ("redis.setresp(3) return redis.call('null') == nil", ":1"),
        ("redis.setresp(3) return redis.call('true')", ":1"),
        ("redis.setresp(3) return redis.call('big').big_number", "$30 123456789012345678901234567890"),
        ("redis.setresp(3) return redis.call('verbatim').verbatim_string.string", "$8 as it is"),
    ] {
        assert_eq!(run_all(text), reply, "{text}");
    }
    let mut host = TestHost::new();
    let reply = run_with(
        &mut host,
        Version::Resp3,
        "redis.setresp(3) return {redis.call('map'), redis.call('true'), redis.call('members')}",
        &[],
        &[],
    );
    assert_eq!(reply.unwrap(), "*3 %1 $5 field ,1.5 #t ~1 $1 m");
    run_with(
        &mut host,
        Version::Resp2,
        "redis.call('x', 1, 1.5, 1e17, 'y') redis.log(redis.LOG_WARNING, 'a', 1)",
        &[],
        &[],
    );
    assert_eq!(host.calls[host.calls.len() - 1..], ["x 1 1.5 100000000000000000 y"]);
    run_with(&mut host, Version::Resp2, "redis.log(redis.LOG_WARNING, 'a', 1)", &[], &[]);
    assert_eq!(host.calls[host.calls.len() - 1..], ["log 3 a 1"]);
}

#[test]
fn errors_say_where() {
    let sha = |text: &str| dormouse_scripting::Sha::of(text.as_bytes()).to_string();
    for (text, error) in [
        (
            "return redis.call('wrong')",
            "-WRONGTYPE Operation against a key holding the wrong kind of value script: {}, on @user_script:1.",
        ),
        (
            "local x = 1\nredis.call('nothing')",
            "-ERR Unknown Redis command called from script script: {}, on @user_script:2.",
        ),
        (
            "return foo",
            "-ERR user_script:1: Script attempted to access nonexistent global variable 'foo' script: {}, on @user_script:1.",
        ),
        ("foo = 1", "-ERR user_script:1: Attempt to modify a readonly table script: {}, on @user_script:1."),
        ("redis.call = 1", "-ERR user_script:1: Attempt to modify a readonly table script: {}, on @user_script:1."),
        ("error('boom')", "-ERR user_script:1: boom script: {}, on @user_script:1."),
        ("error({err='CODE text'})", "-CODE text script: {}, on @user_script:1."),
        (
            "return 1 + nil",
            "-ERR user_script:1: attempt to perform arithmetic on a nil value script: {}, on @user_script:1.",
        ),
        (
            "\n\nreturn redis.call()",
            "-ERR Please specify at least one argument for this redis lib call script: {}, on @user_script:3.",
        ),
        (
            "return redis.call({})",
            "-ERR Lua redis lib command arguments must be strings or integers script: {}, on @user_script:1.",
        ),
        (
            "return cjson.decode('[')",
            "-ERR user_script:1: Expected value but found T_END at character 2 script: {}, on @user_script:1.",
        ),
        (
            "return table.concat({1, {}, 3})",
            "-ERR user_script:1: invalid value (table) at index 2 in table for 'concat' script: {}, on @user_script:1.",
        ),
        (
            "local s = table.concat(1) return s",
            "-ERR user_script:1: bad argument #1 to 'concat' (table expected, got number) script: {}, on @user_script:1.",
        ),
    ] {
        assert_eq!(run_all(text), error.replace("{}", &sha(text)), "{text}");
    }
    let compiling = run("return (");
    assert!(
        compiling.starts_with("-ERR Error compiling script (new function): user_script:1: unexpected symbol"),
        "{compiling}"
    );
}

#[test]
fn nothing_of_a_script_stays() {
    for text in [
        "rawset(_G, 'leak', 1)",
        "rawset(string, 'leak', 1)",
        "table.insert(math, 'leak')",
        "getmetatable('').__index = {}",
        "getmetatable(redis).__newindex = nil",
        "string.leak = 1",
        "setmetatable(_G, nil)",
        "for name in pairs(redis) do redis[name] = 1 end",
    ] {
        assert!(run(text).starts_with('-'), "{text}: {}", run(text));
    }
    assert_eq!(run("KEYS.x = 1 ARGV[9] = 2 return 1"), ":1");
    assert_eq!(run("return {KEYS.x, #ARGV}"), "*0");
    assert_eq!(run("return rawget(_G, 'leak') == nil and string.leak == nil and math[1] == nil"), ":1");
    let seen = run("return math.random(1000000)");
    assert_eq!(run("return math.random(1000000)"), seen, "every run has the same chance");
    assert_eq!(run("math.randomseed(5) return 1"), ":1");
    assert_eq!(run("return math.random(1000000)"), seen);
    // What looks into a protected table sees it.
    assert_eq!(run("local n = 0 for name in pairs(redis) do n = n + 1 end return n > 10"), ":1");
    assert_eq!(run("return rawget(redis, 'call') ~= nil and next(math) ~= nil"), ":1");
}

#[test]
fn the_sandbox_has_no_doors() {
    for name in [
        "print",
        "dofile",
        "loadfile",
        "require",
        "module",
        "io",
        "debug",
        "package",
        "getfenv",
        "setfenv",
        "os.execute",
        "os.getenv",
        "os.exit",
        "os.time",
    ] {
        let text = format!("return {name} == nil");
        let reply = run(&text);
        assert!(reply == ":1" || reply.contains("nonexistent global variable"), "{name}: {reply}");
    }
    // Bytecode is no text.
    assert_eq!(run("local f = loadstring(string.dump(function() return 1 end)) return f == nil"), ":1");
    assert_eq!(run("return loadstring('return 5')()"), ":5");
    assert_eq!(run("local t = {'return ', '7'} local i = 0 return load(function() i = i + 1 return t[i] end)()"), ":7");
    assert_eq!(run("return loadstring('leak = 1') ~= nil"), ":1");
    assert!(run("loadstring('leak = 1')()").contains("readonly"));
    assert!(run("return redis.breakpoint()").contains("no script debugger"));
    assert_eq!(run("return type(os.clock())"), "$6 number");
}

#[test]
fn hostile_scripts_end() {
    for text in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "local function f() return f() end return f()",
        "repeat local ok = pcall(error) until false",
        "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) while true do pcall(function() return t[1] end) end",
        "local co = coroutine.wrap(function() while true do end end) co()",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "xpcall(function() while true do end end, function() while true do end end) while true do end",
        "return string.find(string.rep('a', 40), string.rep('a?', 40) .. 'b')",
        "local s = string.rep('a', 10000) return string.match(s, '.-.-.-.-b')",
        "for i in string.gmatch(string.rep('a', 100000), '.-b') do end while true do end",
        "return redis.call('halt')",
        "pcall(redis.call, 'halt') return 1",
        "pcall(function() redis.call('halt') end) return 1",
        "xpcall(function() redis.call('halt') end, function() return 1 end) return 1",
        "local co = coroutine.create(function() redis.call('halt') end) coroutine.resume(co) return 1",
    ] {
        let mut host = TestHost::new();
        host.ticks_left = 50;
        assert_eq!(run_with(&mut host, Version::Resp2, text, &[], &[]), None, "{text}");
    }
    assert_eq!(run("return 1"), ":1", "the virtual machine goes on");
}

/// Each call is one step, and looks at a megabyte or more.
#[test]
fn the_host_is_told_of_long_steps() {
    let text = "local s, t = ('x'):rep(2 ^ 20), {} for i = 1, 2 ^ 16 do t[i] = 1 end for i = 1, 100 do WORK end";
    for work in [
        "string.lower(s)",
        "s:upper()",
        "s:reverse()",
        "redis.sha1hex(s)",
        "s:find('y')",
        "('x'):rep(2 ^ 20)",
        "table.insert(t, 1, 0)",
        "table.remove(t, 1)",
        "table.concat(t)",
        "table.sort(t)",
        "table.maxn(t)",
    ] {
        let mut host = TestHost::new();
        host.ticks_left = 600;
        let text = text.replace("WORK", work);
        let mut reply = run_with(&mut host, Version::Resp2, &text, &[], &[]);
        assert!(host.ticks_left < 400 || reply.take().is_none(), "{work}: {} ticks left", host.ticks_left);
    }
}

#[test]
fn a_guest_goes_on_as_if_it_had_not_been_suspended() {
    for (text, reply) in [
        ("local sum = 0 for i = 1, 3000 do sum = sum + i end return sum", ":4501500"),
        ("local function f(n) if n == 0 then return 0 end return 1 + f(n - 1) end return f(190)", ":190"),
        ("local call = redis.call local t = {} for i = 1, 20 do t[i] = call('one') end return #t", ":20"),
        (
            "local n = 0 for _, v in ipairs(ARGV) do n = n + #v for k in pairs({1, 2}) do n = n + k end end return n",
            ":10",
        ),
        ("return redis.call('one')", ":1"),
        ("return #redis.call('large')", ":100000"),
        ("redis.call('set', 'k') local t = redis.call('large') return #t", ":100000"),
        (
            "redis.call('set', 'k') return redis.pcall('wrong').err",
            "$65 WRONGTYPE Operation against a key holding the wrong kind of value",
        ),
        ("local e = redis.pcall('none') return e", "-ERR Unknown Redis command called from script"),
        (
            "local ok, e = pcall(redis.call, 'wrong') return e",
            "$65 WRONGTYPE Operation against a key holding the wrong kind of value",
        ),
        (
            "local t = {3, 1, 2} table.sort(t, function(a, b) redis.call('one') return a < b end) return t",
            "*3 :1 :2 :3",
        ),
        (
            "local f = coroutine.wrap(function() for i = 1, 500 do redis.call('one') end coroutine.yield(1) end) return f()",
            ":1",
        ),
        ("return {string.gsub('abc', '.', function(c) redis.call('one') return c .. c end)}", "*2 $6 aabbcc :3"),
        (
            "local function g(n) local i = 0 return function() i = i + 1 redis.call('one') if i <= n then return i end end end \
          local s = 0 for i in g(5) do s = s + i end return s",
            ":15",
        ),
    ] {
        assert_eq!(run_all(text), reply, "{text}");
    }
    for text in [
        "for i = 1, 5 do redis.call('one') end redis.call('wrong')",
        "local function f() redis.call('one') redis.call('wrong') end\nf()",
        "return redis.call('wrong')",
        "local function f() return redis.call('wrong') end return f()",
        "redis.call('one') local x = nil + 1",
        "redis.call('one') error('mine')",
        "redis.call('one') error({err='MINE of a table'})",
        "redis.call('one') local t = {} t.x.y = 1",
        "redis.call('one') return unknown",
    ] {
        assert!(run_all(text).starts_with('-'), "{text}");
    }
    // It is ended where it goes on, and the next one finds nothing of it.
    for text in ["redis.call('one') redis.call('halt')", "redis.call('one') while true do end"] {
        for after in 1..5 {
            let mut host = TestHost { suspends_after: after, ticks_left: 100, ..TestHost::new() };
            assert_eq!(run_within(GUEST, &mut host, Version::Resp2, text, &[], &[]), None, "{text}");
        }
    }
    assert_eq!(run_all("return {#KEYS, #ARGV}"), "*2 :2 :2");
}

#[test]
fn a_script_that_outgrows_its_first_memory_runs_elsewhere() {
    let run = |text: &str| {
        let (mut host, script) = (TestHost::new(), Script::new(text.as_bytes()).unwrap());
        let limits = RunLimits { first_memory_bytes: 128 << 10, ticks: false, ..LIMITS };
        let mut reply = Reply::default();
        let ran = vm::run(Runnable::Script(&script), [].into_iter(), [].into_iter(), limits, &mut host, &mut reply);
        ran.map(|_| String::from_utf8_lossy(&reply.buffer).replace("\r\n", " "))
    };
    assert_eq!(run("return 1"), Ok(":1 ".into()));
    for text in [
        "local s = 'x' while true do s = s .. s end",
        "return ('x'):rep(2 ^ 20)",
        "local s = ('x'):rep(2 ^ 16) return {s, s .. 'y', s .. 'z'}",
        // Much more, since garbage of the run before may be collected meanwhile.
        "local t = {} for i = 1, 2 ^ 18 do t[i] = i end return 1",
    ] {
        assert_eq!(run(text), Err(Halt), "{text}");
        // It cannot run again after a write, so it has all memory then.
        let after = run(&format!("redis.call('set', 'k', 'v') {text}"));
        let is_ended = text.contains("while");
        assert!(after.is_ok_and(|reply| reply.starts_with('-') == is_ended), "{text}");
    }
}

#[test]
fn errors_of_wrapped_functions_have_their_place() {
    for (text, error) in [
        ("table.insert(1)", "bad argument #1 to 'insert' (table expected, got number)"),
        ("table.insert()", "bad argument #1 to 'insert' (table expected, got no value)"),
        ("table.insert({}, 1, 2, 3)", "wrong number of arguments to 'insert'"),
        ("table.insert({}, 'x', 2)", "bad argument #2 to 'insert' (number expected, got string)"),
        ("table.remove(5)", "bad argument #1 to 'remove' (table expected, got number)"),
        ("table.sort(nil)", "bad argument #1 to 'sort' (table expected, got nil)"),
        ("table.sort({}, 1)", "bad argument #2 to 'sort' (function expected, got number)"),
        ("table.maxn()", "bad argument #1 to 'maxn' (table expected, got no value)"),
        ("string.lower()", "bad argument #1 to 'lower' (string expected, got no value)"),
    ] {
        let reply = run_all(text);
        assert!(reply.starts_with(&format!("-ERR user_script:1: {error} script: ")), "{text}: {reply}");
        assert!(reply.ends_with("on @user_script:1."), "{text}: {reply}");
        let reply = run(&format!("local ok, e = pcall(function() {text} end) return e"));
        assert!(reply.ends_with(&format!("user_script:1: {error}")), "{text}: {reply}");
    }
}

#[test]
fn memory_is_bounded() {
    for text in [
        "return string.rep('x', 1e9)",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do t[#t + 1] = string.rep('y', 1000) .. #t end",
        "local t = {} for i = 1, 1e9 do t[i] = i end",
        "return string.gsub(string.rep('x', 1e6), 'x', string.rep('y', 1000))",
        "return cjson.encode(string.rep('\\0', 5e6))",
        "local t = {} for i = 1, 1e9 do t[i] = coroutine.create(function() end) end",
        "local function f() return 1 + f() end return f()",
        "local t = {} for i = 1, 1e9 do t[i] = function() return i end end",
        "return ('x'):rep(1e9)",
        "return table.concat({string.rep('x', 9e6), string.rep('x', 9e6)})",
    ] {
        let reply = run(text);
        assert!(reply.contains("not enough memory") || reply.contains("stack overflow"), "{text}: {:.200}", reply);
    }
    assert_eq!(run("return ('').rep('', 1e15)"), "$0", "an empty text is repeated at once");
    assert_eq!(run("return 1"), ":1");
}

#[test]
fn tables_that_hold_each_other_are_few_values() {
    for text in [
        "local t = {} t[1] = t t[2] = t return t",
        "local t = {1} t = {t, t} t = {t, t} for i = 1, 30 do t = {t, t} end return t",
        "local t = {} for i = 1, 30 do t = {t, t} end return cjson.encode(t)",
        "local t = {} for i = 1, 900 do t[i] = t end return cmsgpack.pack(t)",
    ] {
        let reply = run(text);
        let is_bounded = ["too many values", "not enough memory", "stack limit"].iter().any(|why| reply.contains(why));
        assert!(is_bounded, "{text}: {reply:.200}");
    }
}

#[test]
fn deep_things_are_errors() {
    for text in [
        "local t = {} for i = 1, 100000 do t = {t} end return t",
        "local t = {} for i = 1, 100000 do t = {t} end return cjson.encode(t)",
        "return cjson.decode(string.rep('[', 100000))",
        "return cmsgpack.unpack(string.rep('\\145', 100000))",
        "return string.match(string.rep('a', 100000), string.rep('a?', 100000))",
        "return unpack({}, 1, 1e9)",
        "return unpack({}, -2147483647, 2147483647)",
        "return loadstring(string.rep('(', 100000))()",
        "local t = {} for i = 1, 250 do t = setmetatable({}, {__index = t}) end return t.x .. 1",
    ] {
        let reply = run(text);
        assert!(reply.starts_with('-') || reply.contains("-ERR reached lua stack limit"), "{text}: {:.200}", reply);
    }
    // As C does, what is too deep is nil.
    assert!(run("local t = {} for i = 1, 100000 do t = {t} end return cmsgpack.pack(t)").starts_with('$'));
    assert_eq!(run("return 1"), ":1");
}

/// A text that has no error is read in one go, and with a limit value by value.
#[test]
fn a_text_of_message_pack_is_the_same_in_either_way() {
    let same = r"
        local function same(a, b)
          if type(a) ~= 'table' or type(b) ~= 'table' then return a == b or a ~= a and b ~= b end
          for k, v in pairs(a) do if not same(v, b[k]) then return false end end
          for k in pairs(b) do if a[k] == nil then return false end end
          return true
        end
        local function all(...) return {...}, select('#', ...) end
        local function caught(ok, values, n)
          if ok then return values, n end
          return (tostring(values):gsub('^.-:%d+: ', '')), 0
        end
        local function compare(text)
          local a, n = caught(pcall(function() return all(cmsgpack.unpack(text)) end))
          local b, m = caught(pcall(function() return all(select(2, cmsgpack.unpack_limit(text, 6999, 0))) end))
          return same(a, b) and n == m
        end
        local wrong = 0
        for seed = 1, 3000 do
          math.randomseed(seed)
          local bytes = {}
          for at = 1, math.random(1, 12) do
            local kinds = {math.random(0, 255), math.random(128, 223), math.random(192, 223), math.random(0, 127)}
            bytes[at] = string.char(kinds[math.random(1, 4)])
          end
          if not compare(table.concat(bytes)) then wrong = wrong + 1 end
        end
        for _, value in ipairs({0, 127, 128, 255, 256, 65535, 65536, 4294967295, 4294967296, 2^53, -1, -32, -33, -128, -129, -32768, -32769,
          -2147483648, -2147483649, -2^53, 0.5, 1/3, 1e300, '', ('x'):rep(31), ('x'):rep(32), ('x'):rep(255), ('x'):rep(70000), true, false,
          {}, {1, {2, {3}}}, {a = {b = 1}, [2] = 'x'}}) do
          local text = cmsgpack.pack(value)
          if not compare(text) or not same(cmsgpack.unpack(text), value) then wrong = wrong + 1 end
        end
        local many, deep = {}, 1
        for i = 1, 2000 do many[i] = i end
        for i = 1, 15 do deep = {deep, k = deep} end
        for _, text in ipairs({cmsgpack.pack(unpack(many)), cmsgpack.pack(many), cmsgpack.pack(deep), ('\145'):rep(40) .. 'x'}) do
          if not compare(text) then wrong = wrong + 1 end
        end
        return wrong";
    assert_eq!(run(same), ":0");
}

#[test]
fn libraries_pack_and_unpack() {
    for (text, reply) in [
        ("return cjson.encode({1, 2.5, 'x', true, cjson.null, {a = 1}})", "$29 [1,2.5,\"x\",true,null,{\"a\":1}]"),
        ("return cjson.encode({})", "$2 {}"),
        ("return cjson.encode('a/\"\\n')", "$9 \"a\\/\\\"\\n\""),
        ("return cjson.encode({[1] = 1, [3] = {}})", "$11 [1,null,{}]"),
        ("return cjson.encode({[10] = false})", "$52 [null,null,null,null,null,null,null,null,null,false]"),
        ("return cjson.encode({[1.5] = 'x'})", "$11 {\"1.5\":\"x\"}"),
        ("return cjson.encode({[0] = 1e15})", "$11 {\"0\":1e+15}"),
        ("return cjson.encode({[2^40] = 1})", "$19 {\"1099511627776\":1}"),
        ("cjson.encode_number_precision(3) return cjson.encode({1/3})", "$7 [0.333]"),
        ("cjson.encode_invalid_numbers('null') return cjson.encode({0/0})", "$6 [null]"),
        ("cjson.encode_sparse_array(true) return cjson.encode({[100] = 1})", "$9 {\"100\":1}"),
        ("local t = 1 for i = 1, 40 do t = {t} end return #cjson.encode({t})", ":83"),
        ("return cjson.decode('{\"a\": [1, 2, {\"b\": null}]}').a[3].b == cjson.null", ":1"),
        ("return cjson.decode('\"\\\\u00e9\\\\ud83d\\\\ude00\"')", "$6 \u{e9}\u{1f600}"),
        ("return cmsgpack.unpack(cmsgpack.pack({1, 'x', {a = -1.5}}))[3].a * 2", ":-3"),
        ("return {cmsgpack.unpack(cmsgpack.pack(1, 2, 3))}", "*3 :1 :2 :3"),
        ("return struct.size('!8ih')", ":6"),
        ("return {struct.unpack('>I2s', struct.pack('>I2s', 258, 'ab'))}", "*3 :258 $2 ab :6"),
        ("return bit.tohex(-1)", "$8 ffffffff"),
        (
            "return {bit.band(7, 12), bit.bor(1, 2), bit.bxor(5, 1), bit.lshift(1, 31), bit.bnot(0)}",
            "*5 :4 :3 :4 :-2147483648 :-1",
        ),
        ("return {('hello'):find('l(.)')}", "*3 :3 :4 $1 l"),
        ("return {('a,b'):match('(.),(.)')}", "*2 $1 a $1 b"),
        ("return {string.gsub('hello', 'l', {l = 'L'})}", "*2 $5 heLLo :2"),
        ("return {string.gsub('abc', '%w', '%0%0', 2)}", "*2 $5 aabbc :2"),
        ("return string.gsub('abc', '', '-')", "$7 -a-b-c-"),
        (
            "local t = {} for k, v in string.gmatch('a=1, b=2', '(%w)=(%w)') do t[#t+1] = k .. v end return t",
            "*2 $2 a1 $2 b2",
        ),
        ("return {string.find('a.b', '.', 1, true)}", "*2 :2 :2"),
    ] {
        assert_eq!(run_all(text), reply, "{text}");
    }
}

#[test]
fn libraries_register_functions() {
    let text = b"#!lua name=lib\nlocal n = 2\nlocal function double(keys, args) return {keys[1], args[1] * n, redis.call('one')} end\nredis.register_function('double', double)\nredis.register_function{function_name='ro', callback=function() return KEYS end, flags={'no-writes'}, description='d'}";
    let library = Arc::new(Library::new(text).unwrap());
    let mut host = TestHost::new();
    let registered = vm::load(&library).unwrap();
    assert_eq!(registered.iter().map(|function| &*function.name).collect::<Vec<_>>(), ["double", "ro"]);
    assert!(registered[1].flags.no_writes);
    let mut call = |name: &str| {
        let mut reply = Reply::new(Version::Resp2);
        let (keys, arguments) = (["k"], ["21"]);
        let keys = keys.iter().map(|key| key.as_bytes());
        vm::run(
            Runnable::Function(&library, name),
            keys,
            arguments.iter().map(|word| word.as_bytes()),
            LIMITS,
            &mut host,
            &mut reply,
        )
        .unwrap();
        String::from_utf8_lossy(&reply.buffer).replace("\r\n", " ").trim_end().to_owned()
    };
    assert_eq!(call("double"), "*3 $1 k :42 :1");
    assert!(call("ro").contains("nonexistent global variable 'KEYS'"), "{}", call("ro"));
    for (text, problem) in [
        ("return 1", "ERR Missing library metadata"),
        ("#!lua name=x\nreturn 1", "ERR No functions registered"),
        ("#!lua\nreturn 1", "ERR Library name was not given"),
        ("#!js name=x\nreturn 1", "ERR Engine 'js' not found"),
        (
            "#!lua name=a-b\nreturn 1",
            "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long",
        ),
    ] {
        let loaded = Library::new(text.as_bytes()).map_err(|problem| problem.to_string());
        let problem_found = loaded.and_then(|library| vm::load(&Arc::new(library)));
        assert_eq!(problem_found.unwrap_err(), problem, "{text}");
    }
}
