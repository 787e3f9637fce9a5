//! `DEBUG`: who may use it, and what it does.

use std::time::{Duration, Instant};

use crate::served::Served;

#[test]
fn nobody_may_debug_unless_the_operator_says_so() {
    let server = Served::start(&[]);
    let refusal = server.connect().say("DEBUG DIGEST").to_string();
    assert!(refusal.starts_with("-ERR DEBUG command not allowed. If the enable-debug-command option"), "{refusal}");
    let server = Served::start(&["--enable-debug-command", "local"]);
    assert_eq!(
        server.connect().say("CONFIG GET enable-debug-command").to_string(),
        "[\"enable-debug-command\" \"local\"]"
    );
    assert_eq!(server.connect().say("DEBUG DIGEST").to_string(), format!("+{}", "0".repeat(40)));
}

#[test]
fn commands_answer_as_redis_does() {
    let server = Served::start(&["--enable-debug-command", "yes"]);
    let mut client = server.connect();
    let hello = "+36b23a1456b2dce2c3ed252c456761301dba8060";
    let none = format!("+{}", "0".repeat(40));
    for (command, reply) in [
        ("SET k hello", "+OK"),
        ("DEBUG OBJECT none", "-ERR no such key"),
        ("DEBUG POPULATE 1200 key 10", "+OK"),
        ("DBSIZE", ":1201"),
        ("STRLEN key:1199", ":10"),
        ("DEBUG POPULATE x", "-ERR value is out of range, must be positive"),
        ("DEBUG DIGEST-VALUE k none", &format!("[{hello} {none}]")),
        ("DEBUG RELOAD", "+OK"),
        ("DBSIZE", ":1201"),
        ("DEBUG LOADAOF", "+OK"),
        ("DEBUG DIGEST-VALUE k", &format!("[{hello}]")),
        ("DEBUG SET-ACTIVE-EXPIRE 0", "+OK"),
        ("DEBUG SET-ACTIVE-EXPIRE 1", "+OK"),
        ("DEBUG ERROR MYERR", "-MYERR"),
        ("DEBUG LOG line", "+OK"),
        ("DEBUG PROTOCOL integer", ":12345"),
        ("DEBUG SEGFAULT", "-ERR this would stop the process, which serves other databases too"),
        ("DEBUG NOPE", "-ERR unknown subcommand or wrong number of arguments for 'NOPE'. Try DEBUG HELP."),
        ("DEBUG SLEEP 0", "+OK"),
        ("MULTI", "+OK"),
        ("DEBUG DIGEST-VALUE none", "+QUEUED"),
        ("GET k", "+QUEUED"),
        ("EXEC", &format!("[[{none}] \"hello\"]")),
    ] {
        assert_eq!(client.say(command).to_string(), reply, "{command}");
    }
    let object = client.say("DEBUG OBJECT k").to_string();
    assert!(object.starts_with("+Value at:0x0 refcount:1 encoding:embstr serializedlength:6 lru:"), "{object}");
}

#[test]
fn a_sleep_is_a_slow_command_of_its_database() {
    let server = Served::start(&["--enable-debug-command", "yes"]);
    let mut client = server.connect();
    let began = Instant::now();
    assert_eq!(client.say("DEBUG SLEEP 0.1").to_string(), "+OK");
    assert!(began.elapsed() >= Duration::from_millis(100));
    let slow = client.say("SLOWLOG GET 1").to_string();
    assert!(slow.contains("\"DEBUG\" \"SLEEP\" \"0.1\""), "{slow}");
}
