//! Pipelines of scripts that run on the slow lane together.

use crate::served::{Connection, Served};

const COUNTS: &str = "local n for i=1,3 do n=redis.call('INCR',KEYS[1]) end return n";

/// Sends all requests at once and returns what each is answered with.
fn pipeline(client: &mut Connection, requests: &[&[&str]]) -> Vec<String> {
    let mut bytes = Vec::new();
    for words in requests {
        bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in *words {
            bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
    }
    client.write(&bytes);
    requests.iter().map(|_| client.read().unwrap().to_string()).collect()
}

/// Their effects stay, so their messages must not be lost.
#[test]
fn scripts_that_have_run_for_a_client_that_has_gone_are_counted_and_their_messages_published() {
    let server = Served::start(&[]);
    let mut other = server.connect();
    let mut subscriber = server.connect();
    assert_eq!(subscriber.say("SUBSCRIBE c").to_string(), "[\"subscribe\" \"c\" :1]");
    // The replies fill the buffer, so that some are written, in vain, before the others have been looked at.
    let script =
        "local n for i=1,3 do n=redis.call('INCR','k') end redis.call('PUBLISH','c',n) return ('x'):rep(60000)";
    let mut ran = 0;
    for _ in 0..20 {
        let mut client = server.connect();
        let id = client.say("CLIENT ID").integer();
        let request = format!("*3\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n0\r\n", script.len());
        client.write(request.repeat(30).as_bytes());
        drop(client);
        while other.say(&format!("CLIENT LIST ID {id}")).text().contains("id=") {}
        let sum: i64 = other.say("GET k").text().parse().unwrap();
        for n in ran + 1..=sum / 3 {
            assert_eq!(subscriber.read().unwrap().to_string(), format!("[\"message\" \"c\" \"{}\"]", 3 * n));
        }
        ran = sum / 3;
    }
    let stats = other.say("INFO commandstats").to_string();
    assert!(stats.contains(&format!("cmdstat_eval:calls={ran},")), "{ran}: {stats}");
}

#[test]
fn a_pipeline_of_scripts_is_answered_in_order() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    let sha = client.run(&["SCRIPT", "LOAD", COUNTS]).text().to_owned();
    let counts: &[&str] = &["EVALSHA", &sha, "1", "k"];
    let mut requests: Vec<&[&str]> = vec![counts; 100];
    let fails: &[&str] = &["EVAL", "while true do return redis.error_reply('MY ERR') end", "0"];
    let unknown: &[&str] = &["EVALSHA", "0000000000000000000000000000000000000000", "0"];
    requests.extend([
        &["GET", "k"][..],
        counts,
        fails,
        counts,
        unknown,
        counts,
        &["MULTI"],
        counts,
        counts,
        &["EXEC"],
        counts,
        &["SELECT", "1"],
        counts,
        counts,
        &["SELECT", "0"],
        counts,
        &["PING"],
    ]);
    let replies = pipeline(&mut client, &requests);
    let sums: Vec<String> = (1..=100).map(|n| format!(":{}", 3 * n)).collect();
    assert_eq!(replies[..100], sums);
    let rest: Vec<&str> = replies[100..].iter().map(String::as_str).collect();
    assert_eq!(
        rest,
        [
            "\"300\"",
            ":303",
            "-MY ERR",
            ":306",
            "-NOSCRIPT No matching script. Please use EVAL.",
            ":309",
            "+OK",
            "+QUEUED",
            "+QUEUED",
            "[:312 :315]",
            ":318",
            "+OK",
            ":3",
            ":6",
            "+OK",
            ":321",
            "+PONG"
        ]
    );
    let stats = client.say("INFO commandstats").to_string();
    let calls = |command: &str| {
        let start = stats.find(&format!("cmdstat_{command}:calls=")).unwrap() + command.len() + 15;
        stats[start..].split(',').next().unwrap().parse::<u64>().unwrap()
    };
    // The unknown one is a call too.
    assert_eq!((calls("evalsha"), calls("incr"), calls("eval")), (110, 327, 1));
}

#[test]
fn scripts_of_a_user_with_rules_are_checked_one_by_one() {
    let server = Served::start(&[]);
    let mut admin = server.connect();
    let sha = admin.run(&["SCRIPT", "LOAD", COUNTS]).text().to_owned();
    admin.say("ACL SETUSER limited on >secret ~mine* +@all");
    let mut client = server.connect();
    client.say("AUTH limited secret");
    let (mine, others): (&[&str], &[&str]) = (&["EVALSHA", &sha, "1", "mine"], &["EVALSHA", &sha, "1", "others"]);
    let replies = pipeline(&mut client, &[mine, mine, others, mine]);
    assert_eq!((&*replies[0], &*replies[1], &*replies[3]), (":3", ":6", ":9"));
    assert!(replies[2].starts_with("-NOPERM"), "{}", replies[2]);
    assert_eq!(admin.say("EXISTS others").integer(), 0);
}
