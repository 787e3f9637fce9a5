//! How the calls of scripts are counted. The numbers are those of Redis 7.0.15 after the same commands.

use crate::served::{Connection, Served};

/// Calls, rejected calls and failed calls of a command.
fn counts(client: &mut Connection, command: &str) -> Option<[u64; 3]> {
    let text = client.say("INFO commandstats").to_string().replace("\\r\\n", "\n");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")))?.to_string();
    let number = |name: &str| {
        let field = line.split(',').find_map(|field| field.strip_prefix(&format!("{name}=")));
        field.unwrap().trim_matches('"').parse().unwrap()
    };
    Some([number("calls"), number("rejected_calls"), number("failed_calls")])
}

fn errors(client: &mut Connection, word: &str) -> Option<u64> {
    let text = client.say("INFO errorstats").to_string().replace("\\r\\n", "\n");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("errorstat_{word}:count=")))?.to_string();
    Some(line.trim_matches('"').parse().unwrap())
}

#[test]
fn calls_of_scripts_are_counted_as_in_redis() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET k v");
    for script in [
        "redis.call('set',KEYS[1],'1') redis.call('incr',KEYS[1]) redis.pcall('lpush',KEYS[1],'x') \
         return redis.call('get',KEYS[1])",
        "redis.call('lpush',KEYS[1],'x')",
        "return redis.call('nope')",
        "return redis.pcall('get')",
        "return redis.pcall('subscribe','x')",
        "for i=1,10 do redis.call('get',KEYS[1]) end return redis.error_reply('MY ERR')",
    ] {
        client.run(&["EVAL", script, "1", "k"]);
    }
    client.say("MULTI");
    client.run(&["EVAL", "return redis.call('get','k')", "0"]);
    client.say("INCR k");
    client.say("LPUSH k x");
    client.say("EXEC");
    client.say("GET");
    client.say("LPUSH k x");
    assert_eq!(counts(&mut client, "eval"), Some([7, 0, 5]));
    assert_eq!(counts(&mut client, "get"), Some([12, 2, 0]));
    assert_eq!(counts(&mut client, "set"), Some([2, 0, 0]));
    assert_eq!(counts(&mut client, "incr"), Some([2, 0, 0]));
    assert_eq!(counts(&mut client, "lpush"), Some([4, 0, 4]));
    assert_eq!(counts(&mut client, "subscribe"), Some([0, 1, 0]));
    assert_eq!(errors(&mut client, "WRONGTYPE"), Some(4));
    assert_eq!(errors(&mut client, "MY"), Some(1));
    assert_eq!(errors(&mut client, "ERR"), Some(4));
}

#[test]
fn a_script_with_a_refused_call_has_run() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("CONFIG SET maxmemory 1");
    let scripts = ["return redis.call('set',KEYS[1],'1')", "return redis.pcall('set',KEYS[1],'1')"];
    for script in scripts {
        client.run(&["EVAL", script, "1", "k"]);
    }
    client.say("SET k 1");
    assert_eq!(counts(&mut client, "eval"), Some([2, 0, 2]));
    assert_eq!(counts(&mut client, "set"), Some([0, 3, 0]));
    assert_eq!(errors(&mut client, "OOM"), Some(3));
}
