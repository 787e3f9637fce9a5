use dormouse_scripting::{Library, Script};

use super::{are_plain, is_plain};
use crate::commands::testing::{Bench, check, check_effects};

#[test]
fn scripts_run_commands() {
    check(&[
        (r#"EVAL "return redis.call('set', KEYS[1], ARGV[1])" 1 k v"#, "OK"),
        (r#"EVAL "return redis.call('get', KEYS[1])" 1 k"#, "v"),
        (
            r#"EVAL "for i = 1, 3 do redis.call('rpush', 'l', i) end return redis.call('lrange', 'l', 0, -1)" 0"#,
            "[1 2 3]",
        ),
        (r#"EVAL "return {redis.call('incr', 'n'), redis.call('incr', 'n')}" 0"#, "[1 2]"),
        (
            r#"EVAL "return redis.pcall('incr', 'l').err" 0"#,
            "WRONGTYPE Operation against a key holding the wrong kind of value",
        ),
        (r#"EVAL "return redis.call('dbsize')" 0"#, "3"),
        (r#"EVAL "redis.call('flushall') return redis.call('dbsize')" 0"#, "0"),
        (r#"EVAL_RO "return redis.call('get', 'k')" 0"#, "nil"),
        (
            r#"EVAL_RO "return redis.pcall('set', 'k', 'v').err" 0"#,
            "ERR Write commands are not allowed from read-only scripts.",
        ),
        (
            "EVAL \"#!lua flags=no-writes\\nreturn redis.pcall('set', 'k', 'v').err\" 0",
            "ERR Write commands are not allowed from read-only scripts.",
        ),
        ("EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0", "(error) NOSCRIPT No matching script. Please use EVAL."),
        (r#"EVAL "return 1" 0"#, "1"),
        ("EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0", "1"),
        ("EVALSHA E0E1F9FABFC9D4800C877A703B823AC0578FF8DB 0", "1"),
        (r#"EVAL "return 1" x"#, "(error) ERR value is not an integer or out of range"),
        (r#"EVAL "return 1" 1"#, "(error) ERR Number of keys can't be greater than number of args"),
        (r#"EVAL "return 1" -1"#, "(error) ERR Number of keys can't be negative"),
        ("FCALL nothing 0", "(error) ERR Function not found"),
    ]);
}

#[test]
fn a_script_leaves_the_effects_of_its_commands() {
    let line = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    check_effects(&[
        line(&["EVAL", "redis.call('set', KEYS[1], ARGV[1])", "1", "a", "1"]),
        line(&["EVAL", "redis.call('incrby', 'a', 5) redis.call('sadd', 's', 1, 2, 3) redis.call('spop', 's')", "0"]),
        line(&["EVAL", "redis.call('set', 'gone', 1) redis.call('del', 'gone') redis.call('rename', 'a', 'b')", "0"]),
        line(&["EVAL", "redis.call('select', 3) redis.call('set', 'there', 'x', 'px', 100000)", "0"]),
        line(&["EVAL", "redis.call('rpush', 'l', 'x') error('after a write')", "0"]),
        line(&["EVAL", "pcall(redis.call, 'incr', 'l') redis.call('lpush', 'l', 'y')", "0"]),
        line(&["SET", "after", "1"]),
    ]);
}

#[test]
fn what_is_plain_is_known_from_the_text() {
    let is = |text: &str| is_plain(&Script::new(text.as_bytes()).unwrap());
    for text in [
        "return redis.call('incr', KEYS[1])",
        "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end",
        "local n = redis.call('INCR', KEYS[1]) if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end return n",
        "redis.call('zremrangebyscore', KEYS[1], 0, ARGV[1]) return redis.call('zcard', KEYS[1])",
        "return redis.call('mget', KEYS[1], KEYS[2])",
        "return redis.call('zunionstore', KEYS[1], 2, KEYS[2], KEYS[3])",
        "return 1",
    ] {
        assert!(is(text), "{text}");
    }
    for text in [
        "return redis.call('incr', 'k')",
        "return redis.call('mget', KEYS[1], 'k')",
        "return redis.call('mget', unpack(KEYS))",
        "redis.call('set', KEYS[1], 1) return redis.call('lrange', KEYS[2], 0, -1)",
        "return redis.call('zunionstore', KEYS[1], 2, KEYS[2], 'k')",
        "return redis.call('zunionstore', KEYS[1], ARGV[1], KEYS[2], KEYS[3])",
        "return redis.call('sort', KEYS[1], ARGV[1], 'k')",
        "return redis.call('keys', '*')",
        "return redis.call('flushall')",
        "return redis.call('move', KEYS[1], 1)",
        "return redis.call('eval', 'return 1', 0)",
        "return redis.call('publish', 'c', 'm')",
        "for i = 1, 2 do redis.call('incr', KEYS[1]) end",
    ] {
        assert!(!is(text), "{text}");
    }
}

/// Nothing interrupts a plain script, and each operation may be on all the memory that it may take.
#[test]
fn a_plain_script_has_few_operations() {
    let is = |text: &str| is_plain(&Script::new(text.as_bytes()).unwrap());
    for operation in ["s = s .. s ", "b = s < t ", "s = string.lower(s) ", "s = redis.sha1hex(s) "] {
        let some = operation.repeat(20);
        assert!(is(&format!("local s, t, b = ARGV[1] {some} return redis.call('set', KEYS[1], s)")), "{operation}");
        assert!(is(&format!("local s, t, b = ARGV[1] redis.call('set', KEYS[1], s) {some}")), "{operation}");
        let after = operation.repeat(40);
        assert!(!is(&format!("local s, t, b = ARGV[1] redis.call('set', KEYS[1], s) {after}")), "{operation}");
        let many = operation.repeat(250);
        assert!(!is(&format!("local s, t, b = ARGV[1] {many} return redis.call('set', KEYS[1], s)")), "{operation}");
    }
}

#[test]
fn functions_are_plain_as_scripts_are() {
    let plain = |body: &str| {
        let text = format!("#!lua name=l\nredis.register_function('f', function(keys, args) {body} end)");
        let library = Library::new(text.as_bytes()).unwrap();
        library.calls.iter().any(|(name, calls)| &**name == "f" && are_plain(calls))
    };
    for body in ["return redis.call('incr', keys[1])", "return redis.call('set', keys[1], args[1])", "return 1"] {
        assert!(plain(body), "{body}");
    }
    for body in [
        "return redis.call('incr', args[1])",
        "return redis.call('incr', 'k')",
        "return redis.call('keys', '*')",
        "redis.call('set', keys[1], 1) return redis.call('lrange', keys[2], 0, -1)",
        "for i = 1, 2 do redis.call('incr', keys[1]) end",
    ] {
        assert!(!plain(body), "{body}");
    }
}

#[test]
fn a_full_database_refuses_what_adds_to_it() {
    let mut bench = Bench::new();
    bench.run("SET large xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    let mut settings = **bench.shared.settings.load();
    settings.memory_max = 1;
    bench.shared.settings.store(std::sync::Arc::new(settings));
    bench.shared.used.store(1000, std::sync::atomic::Ordering::Relaxed);
    let full = "OOM command not allowed when used memory > 'maxmemory'.";
    assert_eq!(bench.run(r#"EVAL "return redis.pcall('set', 'k', 'v').err" 0"#), full);
    assert_eq!(bench.run(r#"EVAL "return redis.call('del', 'large')" 0"#), "1");
    let refused = bench.run("EVAL \"#!lua\\nreturn 1\" 0");
    assert!(refused.starts_with("(error) OOM allow-oom flag is not set on the script"), "{refused}");
    assert_eq!(bench.run("EVAL \"#!lua flags=allow-oom\\nreturn redis.call('set', 'k', 'v')\" 0"), "OK");
    assert_eq!(bench.run("EVAL \"#!lua flags=no-writes\\nreturn 1\" 0"), "1");
}
