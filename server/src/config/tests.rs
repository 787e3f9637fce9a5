use std::ffi::OsString;
use std::time::Duration;

use super::*;
use crate::cli::Invocation;

pub(super) fn settings() -> Settings {
    let arguments = ["dormouse", "--store", "file:///data", "--unix-socket", "/run/d.sock"].map(OsString::from);
    match Invocation::parse(arguments, []) {
        Ok(Invocation::Serve(options)) => Settings::new(&options),
        other => panic!("{other:?}"),
    }
}

/// Sets pairs as in `CONFIG SET`, with commas for spaces within values. Returns the error, or an empty text.
fn config_set(settings: &mut Settings, line: &str, access: Access) -> String {
    let words: Vec<String> = line.split(' ').map(|word| word.replace(',', " ")).collect();
    let pairs: Vec<(&[u8], &[u8])> = words.chunks(2).map(|pair| (pair[0].as_bytes(), pair[1].as_bytes())).collect();
    match set(settings, &pairs, access) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

fn value(settings: &Settings, name: &str) -> String {
    let found = get(settings, &[name.as_bytes()], Access::Node);
    assert_eq!(found.len(), 1, "{name}");
    found[0].1.clone()
}

#[test]
fn names_are_unique_and_defaults_are_redis_s() {
    let mut all: Vec<&str> = names().map(|(name, _)| name).collect();
    all.sort_unstable();
    let unique = all.len();
    all.dedup();
    assert_eq!(all.len(), unique);
    let settings = settings();
    for (name, expected) in [
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("maxmemory-samples", "5"),
        ("maxclients", "10000"),
        ("timeout", "0"),
        ("databases", "16"),
        ("save", ""),
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("loss-window", "1s"),
        ("port", "6379"),
        ("bind", "127.0.0.1"),
        ("dir", "/data"),
        ("unixsocket", "/run/d.sock"),
        ("unixsocketperm", "700"),
        ("list-max-ziplist-size", "-2"),
        ("hash-max-listpack-entries", "512"),
        ("hash-max-listpack-value", "64"),
        ("set-max-intset-entries", "512"),
        ("set-max-listpack-entries", "128"),
        ("set-max-listpack-value", "64"),
        ("hll-sparse-max-bytes", "3000"),
        ("stream-node-max-bytes", "4096"),
        ("stream-node-max-entries", "100"),
        ("zset-max-listpack-entries", "128"),
        ("zset-max-listpack-value", "64"),
        ("latency-monitor-threshold", "0"),
        ("latency-tracking-info-percentiles", "50 99 99.9"),
        ("list-compress-depth", "0"),
        ("lazyfree-lazy-user-del", "no"),
        ("activerehashing", "yes"),
        ("slowlog-log-slower-than", "10000"),
        ("slowlog-max-len", "128"),
        ("client-output-buffer-limit", "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"),
        ("sleep-after", "5m"),
        ("checkpoint-every", "1m"),
        ("reply-timeout", "2s"),
    ] {
        assert_eq!(value(&settings, name), expected, "{name}");
    }
}

#[test]
fn get_takes_names_and_patterns() {
    let settings = settings();
    for (patterns, expected) in [
        (&["timeout"][..], &["timeout"][..]),
        (&["TimeOut"], &["TimeOut"]),
        (&["MAXMEMORY-[ps]*"], &["maxmemory-policy", "maxmemory-samples"]),
        (&["list-max-*"], &["list-max-listpack-size", "list-max-ziplist-size"]),
        (&["*", "timeout"], &[]),
        (&["timeout", "TIMEOUT", "time*"], &["timeout"]),
        (
            &["slowlog-*", "port"],
            &[
                "slowlog-log-slower-than",
                "slowlog-max-len",
                "slowlog-entry-max-argc",
                "slowlog-entry-max-string-len",
                "port",
            ],
        ),
        (&["nothing", "t[x-z]meout"], &[]),
        (&["por?"], &["port"]),
        (&["requirepass"], &["requirepass"]),
    ] {
        let bytes: Vec<&[u8]> = patterns.iter().map(|pattern| pattern.as_bytes()).collect();
        let found: Vec<String> = get(&settings, &bytes, Access::Node).into_iter().map(|(name, _)| name).collect();
        match patterns[0] {
            "*" => {
                let all = names().filter(|(_, parameter)| !parameter.is_hidden);
                assert_eq!(found, all.map(|(name, _)| name.to_string()).collect::<Vec<_>>());
            }
            _ => assert_eq!(found, expected, "{patterns:?}"),
        }
    }
}

#[test]
fn set_changes_what_get_shows() {
    for (line, name, expected) in [
        ("maxmemory 100mb", "maxmemory", "104857600"),
        ("MaxMemory 1k", "maxmemory", "1000"),
        ("maxmemory-policy ALLKEYS-LRU", "maxmemory-policy", "allkeys-lru"),
        ("maxmemory-samples 64", "maxmemory-samples", "64"),
        ("maxmemory-policy volatile-lfu", "maxmemory-policy", "volatile-lfu"),
        ("maxmemory-policy volatile-LRM", "maxmemory-policy", "volatile-lrm"),
        ("maxmemory-policy allkeys-lrm", "maxmemory-policy", "allkeys-lrm"),
        ("lfu-log-factor 3", "lfu-log-factor", "3"),
        ("lfu-decay-time 0", "lfu-decay-time", "0"),
        ("sleep-after never", "sleep-after", "never"),
        ("sleep-after 90s", "sleep-after", "1m30s"),
        ("checkpoint-every 5s", "checkpoint-every", "5s"),
        ("reply-timeout never", "reply-timeout", "never"),
        ("hash-max-ziplist-entries 7", "hash-max-listpack-entries", "7"),
        ("hash-max-listpack-value 8", "hash-max-ziplist-value", "8"),
        ("list-max-listpack-size -6", "list-max-ziplist-size", "-6"),
        ("set-max-intset-entries 0", "set-max-intset-entries", "0"),
        ("set-max-listpack-entries 1", "set-max-listpack-entries", "1"),
        ("set-max-listpack-value 2", "set-max-listpack-value", "2"),
        ("zset-max-ziplist-entries 3", "zset-max-listpack-entries", "3"),
        ("zset-max-ziplist-value 4096", "zset-max-listpack-value", "4096"),
        ("maxclients 5", "maxclients", "5"),
        ("timeout 6", "timeout", "6"),
        ("slowlog-log-slower-than -1", "slowlog-log-slower-than", "-1"),
        ("slowlog-max-len 0", "slowlog-max-len", "0"),
        ("latency-monitor-threshold 50", "latency-monitor-threshold", "50"),
        ("list-compress-depth 1", "list-compress-depth", "1"),
        ("activedefrag YES", "activedefrag", "yes"),
        ("notify-keyspace-events ", "notify-keyspace-events", ""),
        ("notify-keyspace-events Kx$l", "notify-keyspace-events", "$lxK"),
        ("appendfsync everysec", "appendfsync", "everysec"),
        ("appendfsync always", "loss-window", "0"),
        ("appendfsync everysec", "loss-window", "1s"),
        ("loss-window 250ms appendfsync everysec", "loss-window", "250ms"),
        ("loss-window 1s", "loss-window", "1s"),
        ("loss-window 0 appendfsync no", "appendfsync", "everysec"),
        (
            "client-output-buffer-limit normal,1mb,0,0,slave,1,2,3",
            "client-output-buffer-limit",
            "normal 1048576 0 0 slave 1 2 3 pubsub 33554432 8388608 60",
        ),
        ("min-slaves-to-write 2", "min-replicas-to-write", "2"),
        ("repl-ping-slave-period 3600", "repl-ping-replica-period", "3600"),
        ("rdb-key-save-delay -1", "rdb-key-save-delay", "-1"),
        ("appendonly no", "appendonly", "yes"),
        ("loss-window none", "appendonly", "no"),
        ("loss-window 0", "appendfsync", "always"),
        ("loss-window 250ms", "loss-window", "250ms"),
        ("save ", "save", ""),
        ("save 3600,1,,300,100", "save", "3600 1 300 100"),
        ("save 900,1 loss-window none", "save", ""),
        ("databases 16 port 6379 dir /data", "port", "6379"),
        ("proto-max-bulk-len 512mb", "proto-max-bulk-len", "536870912"),
        ("timeout 1 hash-max-ziplist-entries 5 hash-max-listpack-entries 6", "hash-max-listpack-entries", "6"),
    ] {
        let mut settings = settings();
        assert_eq!(config_set(&mut settings, line, Access::Node), "", "{line}");
        assert_eq!(value(&settings, name), expected, "{line}");
    }
}

#[test]
fn errors_are_redis_s_and_change_nothing() {
    const UNKNOWN: &str = "Unknown option or number of arguments for CONFIG SET - ";
    let failed =
        |name: &str, reason: &str| format!("CONFIG SET failed (possibly related to argument '{name}') - {reason}");
    for (line, expected) in [
        ("nope 1", format!("{UNKNOWN}'nope'")),
        ("maxmemory 1 nope 1", format!("{UNKNOWN}'nope'")),
        ("timeout 5 maxmemory abc", failed("maxmemory", "argument must be a memory value")),
        ("maxmemory -1", failed("maxmemory", "argument must be a memory value")),
        ("timeout 5 port 1", failed("port", "can't set immutable config")),
        ("databases 3", failed("databases", "can't set immutable config")),
        ("timeout 1 timeout 2", failed("timeout", "duplicate parameter")),
        ("timeout 1 TIMEOUT 2", failed("TIMEOUT", "duplicate parameter")),
        ("timeout -1", failed("timeout", "argument must be between 0 and 2147483647 inclusive")),
        ("timeout 1.5", failed("timeout", "argument couldn't be parsed into an integer")),
        ("timeout 007", failed("timeout", "argument couldn't be parsed into an integer")),
        ("maxclients 0", failed("maxclients", "argument must be between 1 and 4294967295 inclusive")),
        ("maxmemory-samples 0", failed("maxmemory-samples", "argument must be between 1 and 2147483647 inclusive")),
        (
            "maxmemory-policy lru",
            failed(
                "maxmemory-policy",
                "argument(s) must be one of the following: allkeys-lfu, allkeys-lrm, allkeys-lru, allkeys-random, noeviction, volatile-lfu, volatile-lrm, volatile-lru, volatile-random, volatile-ttl",
            ),
        ),
        (
            "slowlog-log-slower-than -2",
            failed("slowlog-log-slower-than", "argument must be between -1 and 9223372036854775807 inclusive"),
        ),
        (
            "client-output-buffer-limit normal,0,0",
            failed("client-output-buffer-limit", "Wrong number of arguments in buffer limit configuration."),
        ),
        (
            "hash-max-listpack-entries 1kb",
            failed("hash-max-listpack-entries", "argument couldn't be parsed into an integer"),
        ),
        ("appendonly maybe", failed("appendonly", "argument must be 'yes' or 'no'")),
        (
            "stop-writes-on-bgsave-error no",
            failed("stop-writes-on-bgsave-error", "argument must be 'yes': this server supports no other value"),
        ),
        ("active-expire-effort 11", failed("active-expire-effort", "argument must be between 1 and 10 inclusive")),
        ("activedefrag maybe", failed("activedefrag", "argument must be 'yes' or 'no'")),
        ("save 900", failed("save", "Invalid save parameters")),
        ("save 0,1", failed("save", "Invalid save parameters")),
        (
            "loss-window none save 900,1",
            failed("save", "argument must be '' without a loss window: see checkpoint-every and loss-window"),
        ),
        ("maxmemory-clients 101%", failed("maxmemory-clients", "percentage argument must be less or equal to 100")),
        ("maxmemory-clients 5%", failed("maxmemory-clients", "argument must be a memory value")),
        (
            "proto-max-bulk-len 1mb",
            failed("proto-max-bulk-len", "argument must be '536870912': this server supports no other value"),
        ),
        ("sleep-after 0", failed("sleep-after", "must be longer than zero (to switch it off, write `never`)")),
    ] {
        let (before, mut settings) = (settings(), settings());
        assert_eq!(config_set(&mut settings, line, Access::Node), expected, "{line}");
        assert_eq!(settings, before, "{line}");
    }
}

#[test]
fn a_database_changes_its_own_settings_only() {
    let mut settings = settings();
    assert_eq!(config_set(&mut settings, "maxmemory 5 sleep-after 1m save ", Access::Database), "");
    let error = config_set(&mut settings, "maxmemory 6 maxclients 1", Access::Database);
    assert_eq!(error, "CONFIG SET failed (possibly related to argument 'maxclients') - can't set protected config");
    assert_eq!(value(&settings, "maxmemory"), "5");
    let changes = set(&mut settings, &[(b"timeout", b"1")], Access::Node);
    assert_eq!(changes, Ok(Changes { node: true, database: false }));
}

/// A tenant's choice stays within the operator's limits given at the start.
#[test]
fn a_tenant_stays_within_the_limits_of_the_server() {
    let unlimited = settings();
    let limits = DatabaseLimits {
        max_memory: 1000,
        max_memory_clients: 500,
        sleep_after: Interval::Every(Duration::from_secs(60)),
        ..settings().limits
    };
    let limited = Settings { limits, ..settings() };
    let memory = "argument must be between 1 and 1000 inclusive, the limit of the server";
    let of_clients = "argument must be between 1 and 500 inclusive, the limit of the server";
    let sleep = "argument must be at most 1m, the limit of the server";
    for (settings, line, reason) in [
        (&unlimited, "maxmemory 0", None),
        (&unlimited, "maxmemory 100gb", None),
        (&unlimited, "sleep-after 6m", Some("argument must be at most 5m, the limit of the server")),
        (&limited, "maxmemory 1000", None),
        (&limited, "maxmemory 1", None),
        (&limited, "maxmemory 1001", Some(memory)),
        (&limited, "maxmemory 0", Some(memory)),
        (&limited, "maxmemory-policy allkeys-lru maxmemory 0", Some(memory)),
        (&limited, "maxmemory-clients 500", None),
        (&limited, "maxmemory-clients 501", Some(of_clients)),
        (&limited, "maxmemory-clients 0", Some(of_clients)),
        (&limited, "sleep-after 1m", None),
        (&limited, "sleep-after 61s", Some(sleep)),
        (&limited, "sleep-after never", Some(sleep)),
    ] {
        let mut of_tenant = settings.clone();
        let error = config_set(&mut of_tenant, line, Access::Database);
        match reason {
            None => assert_eq!(error, "", "{line}"),
            Some(reason) => {
                assert!(error.ends_with(reason), "{line}: {error}");
                assert_eq!(of_tenant, *settings, "{line}");
            }
        }
        let mut of_operator = settings.clone();
        assert_eq!(config_set(&mut of_operator, line, Access::Node), "", "{line}");
    }
}

#[test]
fn every_number_is_bounded() {
    for (name, most) in [
        ("maxmemory-samples", i64::from(i32::MAX)),
        ("list-max-listpack-size", 32_767),
        ("slowlog-max-len", 10_000),
        ("timeout", i64::from(i32::MAX)),
    ] {
        let mut settings = settings();
        assert_eq!(config_set(&mut settings, &format!("{name} {most}"), Access::Node), "");
        let error = config_set(&mut settings, &format!("{name} {}", most + 1), Access::Node);
        assert!(error.ends_with(&format!(" and {most} inclusive")), "{name}: {error}");
    }
    // Those without a bound in Redis have one where they are used.
    let mut settings = settings();
    for (name, bound) in [
        ("maxmemory-samples", i64::from(i32::MAX)),
        ("hash-max-listpack-entries", i64::MAX),
        ("hash-max-listpack-value", i64::MAX),
        ("set-max-intset-entries", i64::MAX),
        ("set-max-listpack-entries", i64::MAX),
        ("set-max-listpack-value", i64::MAX),
        ("zset-max-listpack-entries", i64::MAX),
        ("zset-max-listpack-value", i64::MAX),
        ("hll-sparse-max-bytes", i64::MAX),
        ("stream-node-max-bytes", i64::MAX),
        ("stream-node-max-entries", i64::MAX),
    ] {
        assert_eq!(config_set(&mut settings, &format!("{name} {bound}"), Access::Node), "");
        assert_eq!(value(&settings, name), bound.to_string(), "{name}");
    }
    let limits = settings.database.limits(0);
    assert_eq!((limits.hash_max_listpack_entries, limits.hash_max_listpack_value), (4096, 4096));
    assert_eq!((limits.set_max_listpack_entries, limits.set_max_listpack_value), (4096, 4096));
    assert_eq!((limits.zset_max_listpack_entries, limits.zset_max_listpack_value), (4096, 4096));
    assert_eq!((limits.set_max_intset_entries, limits.hll_sparse_max_bytes), (65_536, 3000));
    assert_eq!((limits.stream_node_max_bytes, limits.stream_node_max_entries), (4096, 100));
    assert_eq!(settings.database.eviction_samples(), 64);
    assert_eq!(config_set(&mut settings, "stream-node-max-bytes 0 stream-node-max-entries 0", Access::Node), "");
    let limits = settings.database.limits(0);
    assert_eq!((limits.stream_node_max_bytes, limits.stream_node_max_entries), (4096, 100), "0 is for no limit");
    assert_eq!(config_set(&mut settings, "hash-max-listpack-value 1kb", Access::Node), "");
    assert_eq!(settings.database.limits(0).hash_max_listpack_value, 1024);
    let error = config_set(&mut settings, "maxclients 4000000000", Access::Node);
    assert!(error.contains("The operating system is not able to handle"), "{error}");
}

/// A tenant does not see the server's location on its machine.
#[test]
fn a_tenant_is_not_told_where_data_lies() {
    let settings = settings();
    let places =
        ["dir", "store", "bind", "unixsocket", "unixsocketperm", "tls-cert-file", "tls-key-file", "tls-ca-cert-file"];
    for name in places {
        assert!(get(&settings, &[name.as_bytes()], Access::Database).is_empty(), "{name}");
        let guess = format!("{name} {}", value(&settings, name));
        assert!(config_set(&mut settings.clone(), &guess, Access::Database).contains("immutable"), "{name}");
        assert_eq!(get(&settings, &[name.as_bytes()], Access::Node).len(), 1, "{name}");
    }
    let of_tenant = get(&settings, &[b"*"], Access::Database).len();
    assert_eq!(of_tenant, get(&settings, &[b"*"], Access::Node).len() - places.len());
}

/// Tools ask for any parameter that Redis has, and set what they have read.
#[test]
fn every_parameter_of_redis_is_answered_and_can_be_set_to_its_value() {
    let mut settings = settings();
    let text = include_str!("redis.txt");
    let mut missing = Vec::new();
    for name in text.lines().filter(|line| !line.starts_with('#')) {
        let found = get(&settings, &[name.as_bytes()], Access::Node);
        let [(shown, value)] = found.as_slice() else {
            missing.push(name);
            continue;
        };
        assert_eq!(shown, name);
        let pair = (name.as_bytes(), value.as_bytes());
        assert_eq!(set(&mut settings, &[pair], Access::Node).err(), None, "{name} {value}");
    }
    assert!(missing.is_empty(), "no parameter: {missing:?}");
}

#[test]
fn what_does_not_hold_is_refused_with_a_reason() {
    let mut settings = settings();
    for (line, reason) in [
        ("tls-port 6380", "can't set immutable config"),
        ("requirepass secret", "a password belongs to a user: ACL SETUSER default >password"),
        ("dbfilename other.rdb", "can't set immutable config"),
        ("repl-backlog-size 2097152", "argument must be '1048576': this server supports no other value"),
        ("repl-diskless-load never", "argument(s) must be one of the following: disabled, on-empty-db, swapdb"),
        ("repl-timeout 0", "argument must be between 1 and 2147483647 inclusive"),
    ] {
        let name = line.split(' ').next().expect("a name");
        let expected = format!("CONFIG SET failed (possibly related to argument '{name}') - {reason}");
        assert_eq!(config_set(&mut settings, line, Access::Node), expected);
    }
    assert_eq!(config_set(&mut settings, "slave-read-only no repl-ping-slave-period 1", Access::Database), "");
    assert_eq!(value(&settings, "replica-read-only"), "no");
    assert_eq!(value(&settings, "repl-ping-replica-period"), "1");
}

#[test]
fn kept_settings_come_back_within_the_limits() {
    let mut command_line = settings();
    command_line.limits.max_memory = 1 << 30;
    command_line.database.max_memory = 1 << 30;
    let mut changed = command_line.clone();
    assert_eq!(kept::encode(&changed.database, &command_line), "");
    // Every setting of a database gets another value than the command line's.
    let values = [
        "yes",
        "no",
        "1",
        "2",
        "60",
        "1mb",
        "allkeys-lru",
        "KEA",
        "3600 1",
        "5s",
        "debug",
        "panic",
        "swapdb",
        "always",
        "4096",
    ];
    for parameter in PARAMETERS.iter().chain(HINTS).filter(|parameter| parameter.scope == Scope::Database) {
        let before = (parameter.get)(&changed);
        for value in values {
            let line = format!("{} {}", parameter.name, value.replace(' ', ","));
            if (parameter.get)(&changed) == before {
                config_set(&mut changed, &line, Access::Database);
            }
        }
        assert_ne!((parameter.get)(&changed), before, "{}", parameter.name);
    }
    changed.database.loss_window = Window::Ms(20);
    let text = kept::encode(&changed.database, &command_line);
    assert!(text.contains("maxmemory 1\n") && text.contains("save 3600 1\n"), "{text}");
    assert!(!text.contains("loss-window") && !text.contains("\nappendfsync"), "it is kept by itself: {text}");
    assert_eq!(kept::decode(&text, &command_line, Window::Ms(20)), (changed.database.clone(), Vec::new()));
    // Only lines that are malformed or above the limits are left out.
    let text = "maxmemory 2147483648\nmaxclients 7\nnonsense\nhz x\n\nloss-window 0\nmaxmemory-policy volatile-ttl\n";
    let (read, problems) = kept::decode(text, &command_line, Window::Ms(20));
    let mut expected = command_line.database.clone();
    (expected.max_memory_policy, expected.loss_window) = (EvictionPolicy::VolatileTtl, Window::Ms(20));
    assert_eq!(read, expected);
    assert_eq!(problems.len(), 6, "{problems:?}");
}
