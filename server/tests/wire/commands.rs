//! The commands that concern the connection and the server, over TCP.

use crate::served::{Connection, Served, Value};

#[test]
fn commands_answer_as_redis_does() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    for (command, reply) in [
        ("PING", "+PONG"),
        ("NOPE a b", "-ERR unknown command 'NOPE', with args beginning with: 'a' 'b' "),
        ("CLIENT", "-ERR wrong number of arguments for 'client' command"),
        ("CLIENT NOPE", "-ERR unknown subcommand 'NOPE'. Try CLIENT HELP."),
        ("CLIENT ID x", "-ERR wrong number of arguments for 'client|id' command"),
        ("CLIENT GETNAME", "nil"),
        ("CLIENT SETNAME worker-1", "+OK"),
        ("CLIENT GETNAME", "\"worker-1\""),
        ("CLIENT SETNAME a\u{1}b", "-ERR Client names cannot contain spaces, newlines or special characters."),
        ("CLIENT SETINFO lib-name redis-rs", "+OK"),
        ("CLIENT SETINFO LIB-VER 1.0", "+OK"),
        ("CLIENT SETINFO lib-what 1.0", "-ERR Unrecognized option 'lib-what'"),
        ("CLIENT SETINFO lib-ver a\tb", "-ERR lib-ver cannot contain spaces, newlines or special characters."),
        ("CLIENT NO-EVICT ON", "+OK"),
        ("CLIENT NO-EVICT maybe", "-ERR syntax error"),
        ("CLIENT NO-TOUCH maybe", "-ERR syntax error"),
        ("CLIENT REPLY maybe", "-ERR syntax error"),
        ("CLIENT REPLY ON", "+OK"),
        ("CLIENT GETREDIR", ":-1"),
        ("CLIENT TRACKINGINFO", "[\"flags\" [\"off\"] \"redirect\" :-1 \"prefixes\" []]"),
        ("CLIENT LIST TYPE nope", "-ERR Unknown client type 'nope'"),
        ("CLIENT LIST ID x", "-ERR Invalid client ID"),
        ("CLIENT LIST NOPE", "-ERR syntax error"),
        ("CLIENT LIST TYPE replica", "\"\""),
        ("CLIENT KILL 1.2.3.4:5", "-ERR No such client"),
        ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0"),
        ("CLIENT KILL ID 99999", ":0"),
        ("CLIENT KILL TYPE nope", "-ERR Unknown client type 'nope'"),
        ("CLIENT KILL SKIPME maybe", "-ERR syntax error"),
        ("CLIENT KILL ADDR", "-ERR No such client"),
        ("CONFIG GET maxmemory nope", "[\"maxmemory\" \"0\"]"),
        ("CONFIG SET maxmemory 1mb sleep-after never", "+OK"),
        ("CONFIG GET maxmemory sleep-after", "[\"maxmemory\" \"1048576\" \"sleep-after\" \"never\"]"),
        ("CONFIG SET maxmemory 2mb timeout", "-ERR syntax error"),
        ("CONFIG SET nope 1", "-ERR Unknown option or number of arguments for CONFIG SET - 'nope'"),
        (
            "CONFIG SET maxmemory 2mb port 1",
            "-ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config",
        ),
        ("CONFIG GET maxmemory", "[\"maxmemory\" \"1048576\"]"),
        ("CONFIG REWRITE", "+OK"),
        ("CONFIG RESETSTAT", "+OK"),
        ("SLOWLOG LEN", ":0"),
        ("SLOWLOG GET", "[]"),
        ("SLOWLOG GET -2", "-ERR count should be greater than or equal to -1"),
        ("SLOWLOG GET x", "-ERR count should be greater than or equal to -1"),
        ("BGSAVE nope", "-ERR syntax error"),
        ("SAVE", "+OK"),
        ("SHUTDOWN nope", "-ERR syntax error"),
        ("SHUTDOWN SAVE NOSAVE", "-ERR syntax error"),
        ("SHUTDOWN ABORT", "-ERR No shutdown in progress."),
        ("SHUTDOWN ABORT NOW", "-ERR syntax error"),
        ("LATENCY LATEST", "[]"),
        ("LATENCY HISTOGRAM get", "[]"),
        ("LATENCY HISTORY command", "[]"),
        ("LATENCY RESET", ":0"),
        ("MODULE LIST", "[]"),
        ("CLUSTER SLOTS", "-ERR This instance has cluster support disabled"),
        ("CLUSTER INFO", "-ERR This instance has cluster support disabled"),
        ("WAIT 1 100", ":0"),
        ("WAIT x 100", "-ERR value is not an integer or out of range"),
        ("WAIT 1 -1", "-ERR timeout is negative"),
        ("WAIT 1 x", "-ERR timeout is not an integer or out of range"),
        ("WAIT 1 9223372036854775807", "-ERR timeout is out of range"),
        ("WAITAOF x 0 10", "-ERR value is not an integer or out of range"),
        ("WAITAOF 2 0 10", "-ERR value is out of range, value must between 0 and 1"),
        ("WAITAOF 0 x 10", "-ERR value is out of range, must be positive"),
        ("WAITAOF 0 -1 -10", "-ERR value is out of range, must be positive"),
        ("WAITAOF 0 1 x", "-ERR timeout is not an integer or out of range"),
        ("WAITAOF 0 1 -10", "-ERR timeout is negative"),
        ("ACL WHOAMI", "\"default\""),
        ("COMMAND INFO nope", "[nil]"),
        ("COMMAND LIST FILTERBY PATTERN pu*l?SH", "[\"publish\"]"),
        ("COMMAND LIST FILTERBY MODULE json", "[]"),
        ("COMMAND LIST FILTERBY nope x", "-ERR syntax error"),
        ("COMMAND GETKEYS MSET a 1 b 2", "[\"a\" \"b\"]"),
        ("COMMAND GETKEYS ZUNIONSTORE to 2 a b WEIGHTS 1 2", "[\"to\" \"a\" \"b\"]"),
        ("COMMAND GETKEYS OBJECT ENCODING key", "[\"key\"]"),
        ("COMMAND GETKEYS PING", "-ERR The command has no key arguments"),
        ("COMMAND GETKEYS NOPE", "-ERR Invalid command specified"),
        ("COMMAND GETKEYS OBJECT NOPE", "-ERR Invalid command specified"),
        ("COMMAND GETKEYS GET", "-ERR Invalid number of arguments specified for command"),
        ("COMMAND GETKEYS ZUNIONSTORE to 5 a", "-ERR Invalid arguments specified for command"),
        ("COMMAND GETKEYSANDFLAGS SET a 1", "[[\"a\" [\"OW\" \"update\"]]]"),
        ("COMMAND GETKEYSANDFLAGS SET a 1 GET", "[[\"a\" [\"RW\" \"access\" \"update\"]]]"),
        ("DORMOUSE SPLIT 16384", "-ERR slot is out of range (0-16383)"),
        ("DORMOUSE SPLIT x", "-ERR value is not an integer or out of range"),
        ("DORMOUSE SPLIT 0", "-ERR a shard begins at slot 0 already"),
        ("DORMOUSE MERGE 0", "-ERR the first shard has none before it"),
        ("DORMOUSE MERGE 5", "-ERR no shard begins at slot 5"),
        ("DORMOUSE CHECKPOINT", "+OK"),
    ] {
        // Names of flags are simple strings; here they read as texts.
        let answer = client.say(command).to_string();
        let plain = |text: &str| text.replace(['"', '+'], "");
        assert_eq!(plain(&answer), plain(reply), "{command}");
    }
    for container in [
        "CLIENT",
        "CONFIG",
        "COMMAND",
        "SLOWLOG",
        "COMMANDLOG",
        "HOTKEYS",
        "LATENCY",
        "MODULE",
        "ACL",
        "PUBSUB",
        "DORMOUSE",
    ] {
        let help = client.say(&format!("{container} HELP"));
        let first = format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
        assert_eq!(help.items()[0].text(), first);
    }
}

#[test]
fn clients_are_listed_with_redis_fields() {
    let server = Served::start(&[]);
    let (mut client, mut listener) = (server.connect(), server.connect());
    client.say("CLIENT SETNAME main");
    client.say("CLIENT SETINFO lib-name tests");
    client.say("SELECT 3");
    listener.say("PSUBSCRIBE news.*");
    let fields = "id addr laddr fd name age idle flags capa db sub psub ssub multi watch qbuf qbuf-free argv-mem \
                  multi-mem rbs rbp obl oll omem tot-mem events cmd user redir resp lib-name lib-ver tot-net-in \
                  tot-net-out tot-cmds";
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let info = client.say("CLIENT INFO").text().to_string();
    let pairs: Vec<(&str, &str)> = info.trim_end().split(' ').map(|pair| pair.split_once('=').unwrap()).collect();
    assert_eq!(pairs.iter().map(|(name, _)| *name).collect::<Vec<_>>(), fields);
    for (name, value) in
        [("name", "main"), ("db", "3"), ("cmd", "client|info"), ("lib-name", "tests"), ("multi", "-1"), ("flags", "N")]
    {
        assert!(pairs.contains(&(name, value)), "{name}={value} in {info}");
    }
    let all = client.say("CLIENT LIST");
    assert_eq!(all.text().lines().count(), 2);
    let listening = client.say("CLIENT LIST TYPE pubsub");
    let line = listening.text().trim_end();
    assert!(line.contains(" flags=P ") && line.contains(" psub=1 ") && line.contains(" cmd=psubscribe "), "{line}");
    let id = client.say("CLIENT ID").integer();
    assert!(client.say(&format!("CLIENT LIST ID {id} 12345")).text().starts_with(&format!("id={id} ")));
}

/// The filters of Valkey, all of which a client must pass.
#[test]
fn clients_are_filtered() {
    let server = Served::start(&[]);
    let (mut client, mut listener, mut other) = (server.connect(), server.connect(), server.connect());
    client.say("CLIENT SETNAME main");
    client.say("CLIENT CAPA foo redirect");
    client.say("ACL SETUSER bob on nopass +@all ~* &*");
    let (id, listening) = (client.say("CLIENT ID").integer(), listener.say("CLIENT ID").integer());
    listener.say("SUBSCRIBE news");
    other.say("AUTH bob x");
    other.say("CLIENT SETINFO lib-name tests");
    other.say("CLIENT SETINFO lib-ver 2");
    other.say("SELECT 3");
    let port = server.port();
    let letters = |client: &mut Connection, filter: &str| {
        let reply = client.say(&format!("CLIENT LIST {filter}"));
        let lines = reply.text().lines().map(|line| match line {
            _ if line.contains(" name=main ") => 'c',
            _ if line.contains(" user=bob ") => 'o',
            _ => 'l',
        });
        // Ids are given in the order in which connections are accepted.
        lines.collect::<std::collections::BTreeSet<char>>().into_iter().collect::<String>()
    };
    for (filter, expected) in [
        ("TYPE pubsub".to_string(), "l"),
        ("NOT-TYPE pubsub".into(), "co"),
        ("USER bob".into(), "o"),
        ("NOT-USER bob".into(), "cl"),
        ("USER bob TYPE pubsub".into(), ""),
        ("NAME main".into(), "c"),
        ("NOT-NAME main".into(), "lo"),
        ("LIB-NAME tests LIB-VER 2".into(), "o"),
        ("LIB-NAME tests NOT-LIB-VER 2".into(), ""),
        ("DB 3".into(), "o"),
        ("NOT-DB 3".into(), "cl"),
        ("CAPA r".into(), "c"),
        ("NOT-CAPA r".into(), "lo"),
        ("FLAGS P".into(), "l"),
        ("NOT-FLAGS N".into(), "l"),
        ("IP 127.0.0.1 SKIPME yes".into(), "lo"),
        ("NOT-IP 127.0.0.1".into(), ""),
        (format!("LADDR 127.0.0.1:{port}"), "clo"),
        (format!("NOT-LADDR 127.0.0.1:{port}"), ""),
        (format!("ID {id} {listening}"), "cl"),
        (format!("NOT-ID {id} {listening}"), "o"),
        (format!("ID {id} {listening} USER default TYPE pubsub"), "l"),
        ("MAXAGE 1000000".into(), ""),
        ("IDLE 1000000".into(), ""),
    ] {
        assert_eq!(letters(&mut client, &filter), expected, "{filter}");
    }
    for (command, reply) in [
        ("CLIENT LIST FOO bar", "-ERR syntax error"),
        ("CLIENT LIST USER nope", "-ERR No such user 'nope'"),
        ("CLIENT LIST NOT-MAXAGE 5", "-ERR syntax error"),
        ("CLIENT LIST FLAGS Nz", "-ERR Unknown flags found in the provided filter: Nz"),
        ("CLIENT LIST CAPA z", "-ERR Unknown capa found in the provided filter: z"),
        ("CLIENT LIST DB x", "-ERR DB is not an integer or out of range"),
        ("CLIENT LIST DB 16", "-ERR DB number should be between 0 and 15"),
        ("CLIENT LIST IDLE 0", "-ERR idle should be greater than 0"),
        ("CLIENT LIST MAXAGE x", "-ERR maxage is not an integer or out of range"),
        ("CLIENT LIST ID x", "-ERR Invalid client ID"),
        ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0"),
        ("CLIENT KILL ID 0 SKIPME no", "-ERR client-id should be greater than 0"),
        ("CLIENT KILL NAME nope NOT-DB 0", ":0"),
        ("CLIENT KILL USER bob NOT-DB 3", ":0"),
        ("CLIENT KILL USER bob DB 3", ":1"),
        ("CLIENT IMPORT-SOURCE OFF", "+OK"),
    ] {
        assert_eq!(client.say(command).to_string(), reply, "{command}");
    }
    assert!(client.say("CLIENT IMPORT-SOURCE ON").to_string().starts_with("-ERR Dormouse has no mode"));
    assert_eq!(other.read(), None);
}

#[test]
fn clients_are_killed_by_address_id_and_type() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    let mut victims: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let address = victims[0].say("CLIENT INFO").text().split(' ').nth(1).unwrap()["addr=".len()..].to_string();
    assert_eq!(client.say(&format!("CLIENT KILL {address}")).to_string(), "+OK");
    assert_eq!(victims[0].read(), None);
    let id = victims[1].say("CLIENT ID").integer();
    assert_eq!(client.say(&format!("CLIENT KILL ID {id} TYPE pubsub")).integer(), 0);
    assert_eq!(client.say(&format!("CLIENT KILL ID {id} TYPE normal")).integer(), 1);
    assert_eq!(victims[1].read(), None);
    victims[2].say("SUBSCRIBE news");
    assert_eq!(client.say("CLIENT KILL TYPE pubsub").integer(), 1);
    assert_eq!(victims[2].read(), None);
    // The client itself: after the reply, and only if requested.
    let id = client.say("CLIENT ID").integer();
    assert_eq!(client.say(&format!("CLIENT KILL ID {id}")).integer(), 0);
    assert_eq!(client.say(&format!("CLIENT KILL ID {id} SKIPME no")).integer(), 1);
    assert_eq!(client.read(), None);
}

#[test]
fn replies_can_be_switched_off() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.send(&["CLIENT", "REPLY", "SKIP"]);
    client.send(&["SET", "a", "1"]);
    assert_eq!(client.say("GET a").text(), "1");
    client.send(&["CLIENT", "REPLY", "OFF"]);
    client.send(&["INCR", "a"]);
    client.send(&["CLIENT", "REPLY", "SKIP"]);
    client.send(&["INCR", "a"]);
    client.send(&["INCR", "a"]);
    assert_eq!(client.say("CLIENT REPLY ON").to_string(), "+OK");
    assert_eq!(client.say("GET a").text(), "4");
}

#[test]
fn reads_without_touching_leave_idle_times_alone() {
    let server = Served::start(&[]);
    let (mut client, mut quiet) = (server.connect(), server.connect());
    client.say("SET a 1");
    assert_eq!(quiet.say("CLIENT NO-TOUCH ON").to_string(), "+OK");
    let idle = |client: &mut Connection| client.say("OBJECT IDLETIME a").integer();
    client.say_until("OBJECT IDLETIME a", |idle| idle.integer() >= 2);
    quiet.say("GET a");
    quiet.say("MULTI");
    quiet.say("STRLEN a");
    quiet.say("EXEC");
    assert!(idle(&mut client) >= 2);
    assert!(quiet.say("CLIENT INFO").text().contains(" flags=T "));
    quiet.say("TOUCH a");
    assert!(idle(&mut client) < 2);
    client.say_until("OBJECT IDLETIME a", |idle| idle.integer() >= 2);
    quiet.say("CLIENT NO-TOUCH OFF");
    quiet.say("GET a");
    assert!(idle(&mut client) < 2);
}

#[test]
fn info_has_the_sections_and_fields_that_monitors_read() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    for command in ["SET a 1", "SET b 2 EX 1000", "GET a", "GET nope", "LPUSH a 1", "INCR x y", "NOPE"] {
        client.say(command);
    }
    let info = client.say("INFO ALL");
    for section in
        "Server Clients Memory Persistence Stats Replication CPU Modules Commandstats Errorstats Latencystats Cluster \
         Keyspace Dormouse"
            .split(' ')
            .filter(|section| !section.is_empty())
    {
        assert!(info.text().contains(&format!("# {section}\r\n")), "{section}");
    }
    for (name, value) in [
        ("redis_version", "7.2.4"),
        ("redis_mode", "standalone"),
        ("role", "master"),
        ("connected_slaves", "0"),
        ("connected_clients", "1"),
        ("maxmemory_policy", "noeviction"),
        ("keyspace_hits", "1"),
        ("keyspace_misses", "1"),
        ("rdb_changes_since_last_save", "2"),
        ("rdb_last_bgsave_status", "ok"),
        ("rdb_bgsave_in_progress", "0"),
        ("errorstat_WRONGTYPE", "count=1"),
        ("errorstat_ERR", "count=2"),
        ("total_error_replies", "3"),
        ("cluster_enabled", "0"),
        ("database", "default"),
        ("awake", "1"),
        ("resident_keys", "2"),
        ("loading_segments", "0"),
    ] {
        assert_eq!(info.field(name), value, "{name}");
    }
    let keys = info.field("db0");
    let left_ms = keys.strip_prefix("keys=2,expires=1,avg_ttl=").unwrap_or_else(|| panic!("{keys}"));
    assert!((990_000..=1_000_000).contains(&left_ms.parse::<u64>().unwrap()), "{keys}");
    let set = info.field("cmdstat_set");
    assert!(set.starts_with("calls=2,usec=") && set.ends_with(",rejected_calls=0,failed_calls=0"), "{set}");
    assert!(info.field("cmdstat_lpush").ends_with("failed_calls=1"));
    assert!(info.field("used_memory").parse::<u64>().unwrap() > 100);
    let names = "redis_build_id os run_id process_id tcp_port uptime_in_seconds uptime_in_days used_memory_human \
                 used_memory_rss used_memory_peak_human maxmemory mem_allocator blocked_clients master_replid \
                 instantaneous_ops_per_sec instantaneous_input_kbps instantaneous_output_kbps used_cpu_sys used_cpu_user \
                 total_connections_received total_commands_processed total_net_input_bytes total_net_output_bytes \
                 expired_keys evicted_keys number_of_cached_scripts server_name dirty_bytes last_checkpoint_ms \
                 last_wake_us last_sleep_ms store_bytes requests request_units";
    names.split_whitespace().for_each(|name| assert!(!info.field(name).is_empty(), "{name}"));
    let default = client.say("INFO");
    assert!(!default.text().contains("# Commandstats") && default.text().contains("# Keyspace"));
    assert_eq!(client.say("INFO nothing").text(), "");
    let two = client.say("INFO Keyspace cpu").text().to_string();
    assert_eq!(two.matches("# ").count(), 2);
    client.say("CONFIG RESETSTAT");
    let after = client.say("INFO everything");
    assert_eq!((after.field("total_error_replies"), after.field("keyspace_hits")), ("0", "0"));
    assert!(!after.text().contains("cmdstat_set"));
}

#[test]
fn a_sleeping_database_is_looked_at_without_being_woken() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET a 1");
    client.say("SET b 2");
    assert_eq!(client.say("DORMOUSE SLEEP").to_string(), "+OK");
    assert_eq!(client.say("DORMOUSE SLEEP").to_string(), "+OK");
    for command in ["INFO everything", "DORMOUSE SHARDS", "DORMOUSE USAGE", "CLIENT LIST", "COMMAND COUNT", "SAVE"] {
        client.say(command);
        let info = client.say("INFO");
        assert_eq!((info.field("awake"), info.field("used_memory")), ("0", "0"), "{command}");
        assert_eq!(info.field("db0"), "keys=2,expires=0,avg_ttl=0", "{command}");
    }
    assert_eq!(client.say("DORMOUSE SHARDS").items(), []);
    assert_eq!(client.say("GET a").text(), "1");
    let info = client.say("INFO dormouse");
    assert_eq!((info.field("awake"), info.field("sleeps"), info.field("wakes")), ("1", "1", "2"));
}

#[test]
fn a_client_makes_a_bounded_number_of_shards() {
    let server = Served::start(&["--merge-window", "never"]);
    let mut client = server.connect();
    client.say("SET key 1");
    for slot in 1..256 {
        assert_eq!(client.say(&format!("DORMOUSE SPLIT {slot}")).to_string(), "+OK");
    }
    let refused = "-ERR the database has 256 shards or more: no others can be made by hand";
    assert_eq!(client.say("DORMOUSE SPLIT 300").to_string(), refused);
    assert_eq!(client.say("DORMOUSE SPLIT").to_string(), refused);
    assert_eq!(client.say("DORMOUSE MERGE 7").to_string(), "+OK");
    assert_eq!(client.say("DORMOUSE SPLIT 300").to_string(), "+OK");
    assert_eq!(client.say("GET key").text(), "1");
}

#[test]
fn shards_split_and_merge_by_hand() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("HELLO 3");
    for key in 0..2000 {
        client.say(&format!("SET key:{key} {key}"));
    }
    assert_eq!(client.say("DORMOUSE SPLIT").to_string(), "+OK");
    let halves = client.say("DORMOUSE SHARDS");
    assert_eq!(halves.items().len(), 2);
    for half in halves.items() {
        // A histogram of sixteen parts does not locate the middle to the key.
        assert!((800..=1200).contains(&half.at("keys").integer()), "{halves}");
    }
    let cut = halves.items()[1].at("first_slot").integer();
    assert_eq!(halves.items()[0].at("last_slot").integer(), cut - 1);
    assert_eq!(client.say("DORMOUSE SPLIT 100").to_string(), "+OK");
    let shards = client.say("DORMOUSE SHARDS");
    let firsts: Vec<i64> = shards.items().iter().map(|shard| shard.at("first_slot").integer()).collect();
    assert_eq!(firsts, [0, 100, cut]);
    for name in ["expiring", "bytes", "dirty_bytes", "resident_segments", "stored_segments", "operations", "contended"]
    {
        shards.items()[0].at(name).integer();
    }
    assert_eq!(client.say(&format!("DORMOUSE MERGE {cut}")).to_string(), "+OK");
    assert_eq!(client.say("DORMOUSE MERGE 100").to_string(), "+OK");
    assert_eq!(client.say("DORMOUSE SHARDS").items().len(), 1);
    assert_eq!(client.say("GET key:1999").text(), "1999");
    let usage = client.say("DORMOUSE USAGE");
    let meters = usage.at("meters");
    assert!(meters.at("requests").text().parse::<u64>().unwrap() > 2000);
    assert_eq!((meters.at("splits").text(), meters.at("merges").text()), ("2", "2"));
    let window = usage.at("window");
    let start = window.at("start_ms").integer();
    let ids: Vec<&str> = window.at("events").items().iter().map(|event| event.at("id").text()).collect();
    assert!(ids.contains(&format!("default:requests:{}", start / 1000).as_str()), "{ids:?}");
}

#[test]
fn saves_are_seen_by_those_who_wait_for_them() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET a 1");
    let before = client.say("LASTSAVE").integer();
    assert_eq!(client.say("BGSAVE").text(), "Background saving started");
    client.say_until("INFO persistence", |info| info.field("rdb_saves") == "1");
    let info = client.say("INFO persistence");
    assert_eq!(info.field("rdb_changes_since_last_save"), "0");
    assert!(client.say("LASTSAVE").integer() >= before);
    // Nothing has changed, which counts as saved.
    client.say_until("SAVE", |_| true);
    client.say_until("BGSAVE SCHEDULE", |reply| reply.text().starts_with("Background saving"));
    let last = client.say("LASTSAVE").integer();
    client.say_until("TIME", |time| time.items()[0].text().parse::<i64>().unwrap() > last);
    client.say("SAVE");
    assert!(client.say("LASTSAVE").integer() > last);
}

#[test]
fn a_changed_checkpoint_interval_is_acted_upon() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET a 1");
    assert_eq!(client.say("CONFIG SET checkpoint-every 1s").to_string(), "+OK");
    client.say_until("INFO persistence", |info| info.field("rdb_saves") != "0");
}

#[test]
fn slow_commands_are_logged_with_who_sent_them() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("CLIENT SETNAME me");
    client.say("CONFIG SET slowlog-log-slower-than 0");
    client.say("DORMOUSE CHECKPOINT");
    client.say("CONFIG SET slowlog-log-slower-than -1");
    let log = client.say("SLOWLOG GET -1");
    let entry = log.items().iter().find(|entry| entry.items()[3].to_string() == "[\"DORMOUSE\" \"CHECKPOINT\"]");
    let entry = entry.unwrap_or_else(|| panic!("{log}")).items();
    assert_eq!((entry.len(), entry[5].text()), (6, "me"));
    assert!(entry[4].text().starts_with("127.0.0.1:"));
    client.say("SLOWLOG RESET");
    assert_eq!(client.say("SLOWLOG LEN").integer(), 0);
}

#[test]
fn http_is_hung_up_on() {
    let server = Served::start(&[]);
    for line in ["POST / HTTP/1.1\r\n", "Host: 127.0.0.1:6379\r\n"] {
        let mut client = server.connect();
        client.write(line.as_bytes());
        client.write(b"SET stolen 1\r\n");
        assert_eq!(client.read(), None);
    }
    assert_eq!(server.connect().say("EXISTS stolen").integer(), 0);
}

#[test]
fn shutdown_ends_the_server() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET a 1");
    client.send(&["SHUTDOWN"]);
    assert_eq!(client.read(), None);
    assert_eq!(server.ended(), Ok(()));
}

#[test]
fn no_database_sees_another() {
    let tokens = ["--token", "root", "--token", "dm_blue_sky", "--token", "dm_red_rose"];
    let server = Served::start(&tokens);
    let (mut blue, mut red, mut root) =
        (server.connect_with("dm_blue_sky"), server.connect_with("dm_red_rose"), server.connect_as_admin());
    let mut nobody = server.connect_without();
    assert_eq!(nobody.say("CLIENT LIST").to_string(), "-NOAUTH Authentication required.");
    assert_eq!(blue.say("ACL WHOAMI").text(), "default");
    // Keys.
    blue.say("SET key blue");
    assert_eq!(red.say("GET key").to_string(), "nil");
    assert_eq!(red.say("FLUSHALL").to_string(), "+OK");
    assert_eq!(blue.say("GET key").text(), "blue");
    assert_eq!((red.say("DBSIZE").integer(), blue.say("DBSIZE").integer()), (0, 1));
    // Clients.
    for client in [&mut blue, &mut red, &mut root] {
        assert_eq!(client.say("CLIENT LIST").text().lines().count(), 1);
        assert_eq!(client.say("INFO clients").field("connected_clients"), "1");
    }
    let victim = blue.say("CLIENT INFO").text().to_string();
    let (id, address) = (&victim.split(' ').next().unwrap()[3..], &victim.split(' ').nth(1).unwrap()[5..]);
    assert_eq!(red.say(&format!("CLIENT KILL ID {id}")).integer(), 0);
    assert_eq!(red.say(&format!("CLIENT KILL {address}")).to_string(), "-ERR No such client");
    assert_eq!(red.say("CLIENT KILL USER blue").to_string(), "-ERR No such user 'blue'");
    assert_eq!(red.say("CLIENT KILL TYPE normal").integer(), 0);
    assert_eq!(blue.say("PING").to_string(), "+PONG");
    // Settings.
    assert_eq!(red.say("CONFIG SET maxmemory 5mb").to_string(), "+OK");
    assert_eq!(blue.say("CONFIG GET maxmemory").to_string(), "[\"maxmemory\" \"0\"]");
    let refused = red.say("CONFIG SET maxmemory 6mb timeout 5");
    assert!(refused.text().ends_with("can't set protected config"), "{refused}");
    assert_eq!(red.say("CONFIG GET maxmemory timeout").to_string(), "[\"maxmemory\" \"5242880\" \"timeout\" \"0\"]");
    assert_eq!(root.say("CONFIG SET timeout 50").to_string(), "+OK");
    assert!(red.say("SHUTDOWN").text().starts_with("NOPERM"));
    // Messages.
    red.say("SUBSCRIBE news");
    assert_eq!(blue.say("PUBLISH news hello").integer(), 0);
    assert_eq!(blue.say("PUBSUB CHANNELS").items(), []);
    assert_eq!(server.connect_with("dm_red_rose").say("PUBLISH news hello").integer(), 1);
    assert_eq!(red.read().unwrap().to_string(), "[\"message\" \"news\" \"hello\"]");
    // Statistics, the slow log, sleep.
    blue.say("LPUSH key 1");
    let (of_blue, of_root) = (blue.say("INFO all"), root.say("INFO all"));
    assert_eq!(of_blue.field("errorstat_WRONGTYPE"), "count=1");
    assert!(!of_root.text().contains("WRONGTYPE") && !of_root.text().contains("cmdstat_lpush"));
    assert_eq!((of_root.field("database"), of_blue.field("database")), ("default", "blue"));
    root.say("CONFIG SET slowlog-log-slower-than 0");
    blue.say("DORMOUSE SLEEP");
    root.say("CONFIG SET slowlog-log-slower-than -1");
    assert!(!root.say("SLOWLOG GET -1").to_string().contains("SLEEP"));
    assert_eq!(blue.say("INFO").field("awake"), "0");
    assert_eq!(server.connect_with("dm_red_rose").say("SET key red").to_string(), "+OK");
    // A client that leaves a database is no longer visible there. (Closed connections go when the server notices.)
    let mut observer = server.connect_with("dm_red_rose");
    let id = blue.say("CLIENT ID").integer();
    let mine = format!("id={id} ");
    blue.say("AUTH dm_red_rose");
    assert_eq!(blue.say("GET key").text(), "red");
    assert!(observer.say("CLIENT LIST").text().contains(&mine));
    blue.say("RESET");
    assert!(!observer.say("CLIENT LIST").text().contains(&mine));
    assert_eq!(blue.say("GET key").to_string(), "-NOAUTH Authentication required.");
}

#[test]
fn info_tells_what_scripts_functions_and_clients_take() {
    let server = Served::start(&[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    let number = |info: &Value, name: &str| info.field(name).parse::<u64>().unwrap();
    let before = client.say("INFO everything");
    for name in ["used_memory_scripts", "used_memory_overhead", "number_of_cached_scripts", "number_of_libraries"] {
        assert_eq!(before.field(name), "0", "{name}");
    }
    client.say("SET k some-value");
    client.run(&["EVAL", "return 'a script'", "0"]);
    let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)\n\
                   redis.register_function('g', function() return 2 end)";
    assert_eq!(client.run(&["FUNCTION", "LOAD", library]).text(), "lib");
    other.say("SUBSCRIBE channel");
    client.say("WATCH k");
    client.say("CLIENT PAUSE 100000 WRITE");
    let info = client.say("INFO everything");
    for (name, value) in [
        ("number_of_cached_scripts", "1"),
        ("number_of_functions", "2"),
        ("number_of_libraries", "1"),
        ("pubsub_clients", "1"),
        ("watching_clients", "1"),
        ("paused_reason", "client_pause"),
        ("paused_actions", "write"),
    ] {
        assert_eq!(info.field(name), value, "{name}");
    }
    let (scripts, functions) = (number(&info, "used_memory_scripts_eval"), number(&info, "used_memory_functions"));
    assert!(scripts > 0 && functions > 0);
    assert_eq!(number(&info, "used_memory_scripts"), scripts + functions);
    assert_eq!(number(&info, "used_memory_overhead"), scripts + functions);
    assert_eq!(
        number(&info, "used_memory"),
        number(&info, "used_memory_overhead") + number(&info, "used_memory_dataset")
    );
    assert!(number(&info, "used_memory_dataset") > number(&before, "used_memory_dataset"));
    assert!(number(&info, "paused_timeout_milliseconds") > 0);
}

/// As Redis 7.0.15 counts them.
#[test]
fn changes_since_the_last_save_are_those_that_changed_something() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    let mut before = 0;
    for (line, changes) in [
        ("SETBIT s 5 0", 1),
        ("SETBIT s 5 0", 0),
        ("SETBIT s 5 1", 1),
        ("SETBIT s 5 1", 0),
        ("SETBIT s 100 0", 1),
        ("SETBIT s 100 0", 0),
        ("BITFIELD t GET u8 0", 0),
        ("BITFIELD t SET u8 0 0", 1),
        ("BITFIELD t SET u8 0 0", 0),
        ("BITFIELD t SET u8 0 1 SET u8 8 2", 2),
        ("BITFIELD t SET u8 0 1 SET u8 8 2", 0),
        ("BITFIELD t INCRBY u8 0 1 SET u8 8 2 GET u8 0", 1),
        ("BITFIELD t OVERFLOW FAIL INCRBY u2 0 5", 0),
        ("BITFIELD t OVERFLOW FAIL INCRBY u2 0 5 SET u8 0 3", 1),
        ("SET a b", 1),
        ("SET a b", 1),
        ("DEL nosuch", 0),
        ("BITOP AND d s t", 1),
        ("SETRANGE a 0 b", 1),
        ("EXPIRE a 100", 1),
        ("PERSIST a", 1),
        ("MSET x 1 y 2", 2),
        ("ZADD z 1 a", 1),
        ("ZADD z 1 a", 0),
        ("GETDEL nosuch", 0),
        ("GET a", 0),
    ] {
        client.say(line);
        let after = client.say("INFO persistence").field("rdb_changes_since_last_save").parse::<u64>().unwrap();
        assert_eq!(after - before, changes, "{line}");
        before = after;
    }
}

#[test]
fn nothing_expires_while_clients_are_paused() {
    let server = Served::start(&[]);
    let mut client = server.connect();
    client.say("SET kept forever");
    client.say("HSET hash f v");
    client.say("SET k v");
    assert_eq!(client.run(&["MULTI"]).to_string(), "+OK");
    client.say("PEXPIRE k 1");
    client.say("HPEXPIRE hash 1 FIELDS 1 f");
    client.say("CLIENT PAUSE 100000 WRITE");
    client.say("EXEC");
    client.say_until("GET k", |value| value.to_string() == "nil");
    client.say_until("HGET hash f", |value| value.to_string() == "nil");
    for (command, reply) in [("DBSIZE", ":3"), ("EXISTS k", ":0"), ("TTL k", ":-2"), ("GET kept", "\"forever\"")] {
        assert_eq!(client.say(command).to_string(), reply, "{command}");
    }
    assert_eq!(client.say("INFO stats").field("expired_keys"), "0");
    client.say("CLIENT UNPAUSE");
    client.say_until("DBSIZE", |keys| keys.to_string() == ":1");
    assert_eq!(client.say("INFO stats").field("expired_keys"), "1");
}

#[test]
fn every_write_waits_while_writes_are_paused() {
    let server = Served::start(&[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    for write in ["SET k v", "XADD s * f v", "XTRIM s MAXLEN 0", "HINCRBYFLOAT h f 1", "XAUTOCLAIM s g c 0 0"] {
        client.say("CLIENT PAUSE 100000 WRITE");
        other.send(&write.split(' ').collect::<Vec<_>>());
        client.say_until("INFO clients", |info| info.field("blocked_clients") == "1");
        client.say("CLIENT UNPAUSE");
        other.read().expect("a reply");
    }
}

/// As in Redis: consumers of a stream are no change of the stream to those who watch it.
#[test]
fn a_watched_stream_is_touched_by_its_entries_only() {
    let server = Served::start(&[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    let commands = [
        ("XGROUP CREATE s h 0", true),
        ("XGROUP SETID s g 0", true),
        ("XGROUP CREATECONSUMER s g d", true),
        ("XREADGROUP GROUP g c COUNT 1 STREAMS s >", true),
        ("XREADGROUP GROUP g new STREAMS s >", true),
        ("XCLAIM s g d 0 1-1", true),
        ("XAUTOCLAIM s g e 0 0", true),
        ("XNACK s g FAIL IDS 1 1-1", true),
        ("XACKDEL s g ACKED IDS 1 1-1", true),
        ("XACK s g 2-1", true),
        ("XGROUP DELCONSUMER s g c", true),
        ("XGROUP DESTROY s h", true),
        ("XSETID s 9-1", true),
        ("XCFGSET s IDMP-DURATION 50", true),
        ("XGROUP CREATE made g $ MKSTREAM", false),
        ("XADD s * f v", false),
        ("XDEL s 2-1", false),
        ("XTRIM s MAXLEN 1", false),
        ("EXPIRE s 100", false),
    ];
    for entry in ["XADD s 1-1 f v", "XADD s 2-1 f v", "XADD s 3-1 f v", "XGROUP CREATE s g 0"] {
        other.say(entry);
    }
    for (command, goes_on) in commands {
        client.say("WATCH s made");
        let reply = other.say(command).to_string();
        assert!(!reply.contains("ERR") && !reply.contains("NOGROUP"), "{command}: {reply}");
        client.say("MULTI");
        let ran = client.say("EXEC").to_string();
        assert_eq!(ran == "[]", goes_on, "{command}: {ran}");
    }
}
