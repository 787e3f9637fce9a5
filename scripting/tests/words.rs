//! Keys and arguments: each run finds its own, whatever ran before; and what happens to a host that panics.

mod random;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use dormouse_protocol::{Reply, Request, Version};
use dormouse_scripting::vm::{self, RunLimits, Runnable};
use dormouse_scripting::{Course, Halt, Host, Library, Script};

/// Answers each command with its words, unless it is `panic`.
struct Echo;

impl Host for Echo {
    fn call(&mut self, request: Request<'_>, reply: &mut Reply, _: bool) -> Result<Course, Halt> {
        assert_ne!(request.arg(0), b"panic", "the host panics");
        reply.array(request.len());
        request.iter().for_each(|word| reply.bulk(word));
        Ok(Course::On)
    }

    fn tick(&mut self, _: usize) -> Result<(), Halt> {
        Ok(())
    }

    fn weigh(&mut self, _: usize) -> Result<(), Halt> {
        Ok(())
    }

    fn outgrow(&mut self) -> Result<(), Halt> {
        Ok(())
    }

    fn is_final(&self) -> bool {
        false
    }

    fn allows(&mut self, _: Request<'_>) -> Option<bool> {
        Some(true)
    }

    fn log(&mut self, _: i64, _: &[u8]) {}
}

const LIMITS: RunLimits = RunLimits {
    memory_bytes: 16 << 20,
    first_memory_bytes: 16 << 20,
    ticks: false,
    guest: false,
    values: 1 << 18,
    chance: 7,
};

fn run_within(limits: RunLimits, run: Runnable<'_>, keys: &[&str], arguments: &[&str]) -> String {
    let mut reply = Reply::new(Version::Resp2);
    let (keys, arguments) = (keys.iter().map(|key| key.as_bytes()), arguments.iter().map(|word| word.as_bytes()));
    vm::run(run, keys, arguments, limits, &mut Echo, &mut reply).expect("it is not ended");
    String::from_utf8_lossy(&reply.buffer).replace("\r\n", " ").trim_end().to_owned()
}

fn run_as(run: Runnable<'_>, keys: &[&str], arguments: &[&str]) -> String {
    run_within(LIMITS, run, keys, arguments)
}

fn run(text: &str, keys: &[&str], arguments: &[&str]) -> String {
    run_as(Runnable::Script(&Script::new(text.as_bytes()).expect("it is a script")), keys, arguments)
}

/// Straight lines share the tables of their words; the others have their own.
#[test]
fn each_script_has_its_own_words() {
    let shared = "return {#KEYS, KEYS[1] or '-', KEYS[2] or '-', #ARGV, ARGV[1] or '-'}";
    let own =
        "local words = ARGV words[#words + 1] = 'more' KEYS[1] = 'changed' return {#KEYS, #ARGV, KEYS[1], ARGV[1]}";
    for _ in 0..3 {
        assert_eq!(run(shared, &["a", "b"], &["x"]), "*5 :2 $1 a $1 b :1 $1 x");
        assert_eq!(run(shared, &["c"], &[]), "*5 :1 $1 c $1 - :0 $1 -");
        assert_eq!(run(own, &["d"], &["y"]), "*4 :1 :2 $7 changed $1 y");
        assert_eq!(run(shared, &[], &["z"]), "*5 :0 $1 - $1 - :1 $1 z");
        let many: Vec<String> = (0..2000).map(|n| format!("key:{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(run("return {#KEYS, KEYS[2000]}", &many, &[]), "*2 :2000 $8 key:1999");
        assert_eq!(run(shared, &["e"], &[]), "*5 :1 $1 e $1 - :0 $1 -");
    }
}

/// An allocation of Lua that fails outside of a protected call ends the process.
#[test]
fn words_that_just_fit_into_memory_are_answered() {
    // So much garbage is collected after each run, the names of the globals with it: they need memory again.
    let memory_bytes = 5 << 20;
    let limits = RunLimits { memory_bytes, first_memory_bytes: memory_bytes, ..LIMITS };
    let script = Script::new(b"return 1").unwrap();
    let of = |bytes: usize| run_within(limits, Runnable::Script(&script), &[], &[&"x".repeat(bytes)]);
    let replies: Vec<String> = (memory_bytes - 600..memory_bytes).step_by(8).map(of).collect();
    let fit = replies.iter().filter(|reply| *reply == ":1").count();
    assert!(replies.iter().all(|reply| *reply == ":1" || reply.ends_with("not enough memory")), "{replies:?}");
    assert!((1..replies.len()).contains(&fit), "{fit}");
}

#[test]
fn a_function_finds_no_words_of_scripts() {
    let library = Arc::new(
        Library::new(
            b"#!lua name=lib\n\
              local kept\n\
              redis.register_function('words', function(keys, args)\n\
                local before = kept and kept[1] or '-'\n\
                kept = keys\n\
                return {before, #keys, #args, tostring(pcall(function() return KEYS end))}\n\
              end)",
        )
        .unwrap(),
    );
    vm::load(&library).unwrap();
    let words = |keys: &[&str], arguments: &[&str]| run_as(Runnable::Function(&library, "words"), keys, arguments);
    for text in ["return KEYS[1]", "local k = KEYS return k[1]"] {
        assert_eq!(run(text, &["k"], &[]), "$1 k");
        assert_eq!(words(&["one"], &["x"]), "*4 $1 - :1 :1 $5 false");
        assert_eq!(words(&["two"], &[]), "*4 $3 one :1 :0 $5 false");
        vm::load(&library).unwrap();
    }
}

#[test]
fn a_panic_of_the_host_comes_through() {
    let caught = |text: &str| {
        catch_unwind(AssertUnwindSafe(|| run(text, &[], &[]))).expect_err("it panics").downcast::<String>().unwrap()
    };
    for text in ["return redis.call('panic')", "return pcall(redis.pcall, 'panic')"] {
        assert!(caught(text).contains("the host panics"), "{text}");
        assert_eq!(run("return redis.call('a', 1, 2.5)", &[], &[]), "*3 $1 a $1 1 $3 2.5");
    }
}

#[test]
fn numbers_are_words_in_full() {
    for (number, word) in [
        ("9007199254740993", "9007199254740992"),
        ("-0", "0"),
        ("1e15", "1000000000000000"),
        ("9223372036854774784", "9223372036854774784"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775808", "9.2233720368547758e+18"),
        ("0.1", "0.10000000000000001"),
        ("1/0", "inf"),
    ] {
        let len = word.len();
        assert_eq!(run(&format!("return redis.call('a', {number})"), &[], &[]), format!("*2 $1 a ${len} {word}"));
    }
}
