use std::io::Write;

use clap::CommandFactory;

use super::*;
use crate::cli::{CommandLine, Invocation, version};

fn parse(arguments: &str, environment: &[(&str, &str)]) -> Result<Invocation, String> {
    let arguments = std::iter::once("dormouse").chain(arguments.split_ascii_whitespace()).map(OsString::from);
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Invocation::parse(arguments, environment).map_err(|error| error.to_string())
}

fn options(arguments: &str, environment: &[(&str, &str)]) -> Options {
    match parse(arguments, environment) {
        Ok(Invocation::Serve(options)) => *options,
        other => panic!("{arguments}: {other:?}"),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn the_command_line_is_well_formed() {
    CommandLine::command().debug_assert();
    let help = CommandLine::command().render_long_help().to_string();
    assert!(help.contains("--sleep-after"), "{help}");
}

#[test]
fn bare_and_serve_are_the_same() {
    for (arguments, port) in [("", 6379), ("serve", 6379), ("--port 1", 1), ("serve --port 2", 2)] {
        let options = options(arguments, &[]);
        assert_eq!(options.port, port, "{arguments}");
        assert_eq!(options.http_port, 8379);
        assert_eq!(options.bind, ["127.0.0.1".parse().unwrap()]);
        assert_eq!(options.sleep_after.to_string(), "5m");
        assert_eq!(options.checkpoint_every.to_string(), "1m");
        assert_eq!(options.store, "file://./dormouse-data");
        assert_eq!(options.max_memory, Size(0));
        assert_eq!(options.policy, Policy::default());
        assert!(options.worker_count().get() >= 1);
    }
    assert!(matches!(parse("version", &[("DORMOUSE_PORT", "many")]), Ok(Invocation::Version)));
    assert!(parse("--help", &[("DORMOUSE_PORT", "many")]).unwrap_err().contains("Usage:"));
    assert!(version().starts_with("dormouse "));
}

#[test]
fn the_command_line_wins_then_the_environment_then_the_file() {
    let file =
        file("port = 1\nhttp-port = 8\nmax-clients = 1\nbind = [\"127.0.0.1\", \"::1\"]\nsleep-after = \"1h\"\n");
    let path = file.path().to_str().unwrap();
    for arguments in [format!("--config {path} --port 3"), format!("serve --config {path} --port 3")] {
        let options = options(&arguments, &[("DORMOUSE_PORT", "2"), ("DORMOUSE_HTTP_PORT", "2")]);
        assert_eq!((options.port, options.http_port, options.max_clients), (3, 2, 1), "{arguments}");
        assert_eq!(options.bind.len(), 2);
        assert_eq!(options.sleep_after.to_string(), "1h");
        assert_eq!(options.slowlog_max_len, 128);
    }
    let by_environment = options("", &[("DORMOUSE_CONFIG", path), ("DORMOUSE_BIND", "127.0.0.1")]);
    assert_eq!((by_environment.port, by_environment.bind.len()), (1, 1));
}

#[test]
fn every_option_reads_every_place() {
    // For each option: a value other than its default, and its form in the options' `Debug`.
    let rows = [
        ("bind", "::1", "bind: [Bind(::1)]"),
        ("port", "7", "port: 7"),
        ("http-port", "0", "http_port: 0"),
        ("tls-port", "7", "tls_port: 7"),
        ("https-port", "7", "https_port: 7"),
        ("tls-cert-file", "/tmp/x", "tls_cert_file: Some(\"/tmp/x\")"),
        ("tls-key-file", "/tmp/x", "tls_key_file: Some(\"/tmp/x\")"),
        ("tls-ca-cert-file", "/tmp/x", "tls_ca_cert_file: Some(\"/tmp/x\")"),
        ("tls-auth-clients", "optional", "tls_auth_clients: Some(Optional)"),
        ("unix-socket", "/tmp/x", "unix_socket: Some(\"/tmp/x\")"),
        ("unix-socket-mode", "660", "unix_socket_mode: FileMode(432)"),
        ("max-clients", "9", "max_clients: 9"),
        ("timeout", "9", "timeout: 9"),
        ("auth-timeout", "3s", "auth_timeout: Every(3s)"),
        ("client-output-buffer-limit", "normal 1 1 1", "normal: OutputBufferLimit { hard_bytes: 1,"),
        ("token", "dm_shop_x", "tokens: [Token { name: \"shop\""),
        ("admin-token", "root", "admin: Some(OperatorSecret)"),
        ("metrics-token", "m3trics", "metrics_access: Token(OperatorSecret)"),
        ("metrics-databases", "7", "metrics_databases: 7"),
        ("audit-log", "/tmp/x", "audit_log: Some(File(\"/tmp/x\"))"),
        ("open", "5", "open: 5"),
        ("open-max-memory", "1mb", "open_max_memory: Size(1048576)"),
        ("enable-debug-command", "yes", "enable_debug_command: Yes"),
        ("cluster-mode", "emulated", "cluster_mode: Emulated"),
        ("cluster-announce-host", "redis.example.com", "cluster_announce_host: Some(\"redis.example.com\")"),
        ("cluster-announce-port", "7", "cluster_announce_port: Some(7)"),
        ("cluster-announce-tls-port", "7", "cluster_announce_tls_port: Some(7)"),
        ("cluster", "etcd://127.0.0.1:2379/dm", "cluster: Some("),
        ("node-name", "node-1", "node_name: Some(NodeName(\"node-1\"))"),
        ("advertise", "10.0.0.1:6379", "advertise: Some(\"10.0.0.1:6379\")"),
        ("advertise-http", "10.0.0.1:8379", "advertise_http: Some(\"10.0.0.1:8379\")"),
        ("zone", "eu-1a", "zone: Some(\"eu-1a\")"),
        ("lease", "9s", "lease: Every(9s)"),
        ("store", "memory://", "store: \"memory://\""),
        ("master-key", "file:/tmp/x", "master_key: Some(\"file:/tmp/x\")"),
        ("sleep-after", "never", "sleep_after: Never"),
        ("loss-window", "250ms", "loss_window: Ms(250)"),
        ("history", "36h", "history: HistorySpan(Some(129600s))"),
        ("checkpoint-every", "3s", "checkpoint_every: Every(3s)"),
        ("reply-timeout", "300ms", "reply_timeout: Every(300ms)"),
        ("max-memory", "1kb", "max_memory: Size(1024)"),
        ("max-memory-policy", "allkeys-lru", "max_memory_policy: AllkeysLru"),
        ("max-memory-clients", "3kb", "max_memory_clients: Some(Size(3072))"),
        ("max-memory-total", "5kb", "max_memory_total: Some(Size(5120))"),
        ("max-requests-per-second", "5", "max_requests_per_second: 5"),
        ("max-requests-burst", "5", "max_requests_burst: 5"),
        ("max-connections", "5", "max_connections: 5"),
        ("max-request-size", "5kb", "max_request_size: Size(5120)"),
        ("max-key-size", "5kb", "max_key_size: Size(5120)"),
        ("max-value-size", "5kb", "max_value_size: Size(5120)"),
        ("max-branches", "5", "max_branches: 5"),
        ("max-triggers", "5", "max_triggers: 5"),
        ("trigger-reach", "private", "trigger_reach: Private"),
        ("ledger-keep", "90d", "ledger_keep: Every(7776000s)"),
        ("spending-limit-units", "5", "spending_limit_units: Some(5)"),
        ("spending-limit-money", "2.5", "spending_limit_money: Some(Money(2500000000))"),
        ("prices", "/tmp/x", "prices: Some(\"/tmp/x\")"),
        ("usage-to", "http://10.0.0.1/events", "usage_to: Some(ReceiverUrl(http://10.0.0.1, Private))"),
        ("usage-every", "5m", "usage_every: Every(300s)"),
        ("usage-header", "Authorization: Bearer s3cret", "usage_header: Some((\"authorization\", Sensitive))"),
        ("usage-header-file", "/tmp/x", "usage_header_file: Some(\"/tmp/x\")"),
        ("deleted-grace", "24h", "deleted_grace: Every(86400s)"),
        ("split-keys", "7", "keys_max: 7"),
        ("split-size", "7kb", "bytes_max: 7168"),
        ("split-size-window", "7s", "size_window_ms: 7000"),
        ("split-busy", "0.33", "busy_share_max: 0.33"),
        ("split-operations", "77", "operations_per_second_max: 77.0"),
        ("split-contention", "0.77", "contended_share_max: 0.77"),
        ("split-load-window", "7m", "load_window_ms: 420000"),
        ("shards-per-worker", "7", "shards_per_worker: 7.0"),
        ("merge-fraction", "0.1", "merge_fraction: 0.1"),
        ("merge-window", "never", "merge_window_ms: 3153600000000"),
        ("checkpoint-size", "7mb", "dirty_bytes_max: 7340032"),
        ("workers", "3", "workers: Some(3)"),
        ("slowlog-log-slower-than", "-1", "slowlog_log_slower_than: -1"),
        ("slowlog-max-len", "3", "slowlog_max_len: 3"),
        ("log-format", "json", "log_format: Json"),
        ("log-level", "debug", "DEBUG"),
    ];
    let defaults = format!("{:?}", options("", &[]));
    for (name, value, expected) in rows {
        assert!(!defaults.contains(expected), "{name}: {value} is the default");
        let file = file(&format!("{name} = \"{value}\""));
        let path = file.path().to_str().unwrap();
        let variable = format!("DORMOUSE_{}", name.to_uppercase().replace('-', "_"));
        // A port needs a certificate, an open door one who can close it, a burst a rate, a header a receiver.
        let needed: &[(&str, &str)] = match name {
            "tls-port" | "https-port" => &[("DORMOUSE_TLS_CERT_FILE", "c"), ("DORMOUSE_TLS_KEY_FILE", "k")],
            "open" => &[("DORMOUSE_ADMIN_TOKEN", "root")],
            "usage-header" | "usage-header-file" => &[("DORMOUSE_USAGE_TO", "http://10.0.0.1")],
            "max-requests-burst" => &[("DORMOUSE_MAX_REQUESTS_PER_SECOND", "1")],
            _ => &[],
        };
        let by_environment = options("", &[needed, &[(&variable, value)]].concat());
        let argument = [OsString::from("dormouse"), OsString::from(format!("--{name}={value}"))];
        let environment = needed.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let Ok(Invocation::Serve(by_argument)) = Invocation::parse(argument, environment) else { panic!("{name}") };
        for options in [*by_argument, by_environment, options(&format!("--config {path}"), needed)] {
            let shown = format!("{options:?}");
            assert!(shown.contains(expected), "{name}: {shown}");
        }
    }
    let declared = options_command().get_arguments().filter(|option| option.get_long() != Some("config")).count();
    assert_eq!(declared, rows.len(), "an option is missing in this test");
}

#[test]
fn several_values() {
    let by_line = options("--bind 127.0.0.1 --bind ::1 --token a --token dm_shop_b", &[]);
    let by_environment = options("", &[("DORMOUSE_BIND", "127.0.0.1 ::1"), ("DORMOUSE_TOKEN", "a  dm_shop_b")]);
    for options in [by_line, by_environment] {
        assert_eq!(options.bind.len(), 2);
        let names: Vec<&str> = options.tokens.iter().map(|token| token.name()).collect();
        assert_eq!(names, ["default", "shop"]);
        assert!(!format!("{options:?}").contains("dm_shop_b"));
    }
}

#[test]
fn complaints() {
    type Row = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
    let rows: &[Row] = &[
        ("--port 65536", &[], &["65536", "--port"]),
        ("--nope", &[], &["--nope"]),
        ("nope", &[], &["nope"]),
        ("--sleep-after 0", &[], &["--sleep-after", "never"]),
        ("--max-memory lots", &[], &["expected a size"]),
        ("--spending-limit-units 0", &[], &["--spending-limit-units", "1.."]),
        ("--spending-limit-money 0", &[], &["expected an amount above 0"]),
        ("--spending-limit-money=-3", &[], &["expected an amount above 0"]),
        ("--usage-to ftp://x", &[], &["--usage-to", "expected http:// or https://"]),
        ("--usage-to http://169.254.169.254/", &[], &["--usage-to", "not that of a server"]),
        ("--usage-to http://x --usage-every never", &[], &["--usage-every needs a duration"]),
        ("--usage-header-file x", &[], &["set --usage-to too"]),
        ("--max-clients 0", &[], &["--max-clients"]),
        ("--workers 0", &[], &["1 to 1024"]),
        ("--timeout 3000000000", &[], &["--timeout"]),
        ("--slowlog-log-slower-than -2", &[], &["--slowlog-log-slower-than"]),
        ("--max-memory-policy lru", &[], &["allkeys-lru"]),
        ("--log-level loud", &[], &["expected error, warn"]),
        ("--port 7 --http-port 7", &[], &["--port and --http-port are both 7"]),
        ("--port 7 --https-port 7", &[], &["--port and --https-port are both 7"]),
        ("--port 0", &[], &["nowhere to listen", "--tls-port", "--unix-socket"]),
        ("--tls-port 7", &[], &["--tls-port needs a certificate", "--tls-cert-file"]),
        ("--https-port 7 --tls-cert-file x", &[], &["--https-port needs a certificate", "--tls-key-file"]),
        (
            "--tls-port 7 --tls-cert-file x --tls-key-file y --tls-auth-clients optional",
            &[],
            &["--tls-auth-clients optional needs --tls-ca-cert-file"],
        ),
        ("--config /nonexistent/x.toml", &[], &["cannot read /nonexistent/x.toml", "--config"]),
        ("", &[("DORMOUSE_PORT", "many")], &["in DORMOUSE_PORT", "'many'"]),
        ("serve", &[("DORMOUSE_BIND", "127.0.0.1 nope")], &["in DORMOUSE_BIND", "'nope'"]),
        ("", &[("DORMOUSE_SLEEPAFTER", "1m")], &["DORMOUSE_SLEEPAFTER names no option", "mean DORMOUSE_SLEEP_AFTER?"]),
        ("", &[("DORMOUSE_X", "1")], &["DORMOUSE_X names no option", "`dormouse --help`"]),
        ("", &[("DORMOUSE_TOKEN", "dm_a_x,dm_b_y")], &["DORMOUSE_TOKEN", "separated by spaces"]),
        ("", &[("DORMOUSE_TOKEN", "hunter2;dm_b_y")], &["DORMOUSE_TOKEN", "separated by spaces"]),
        ("--bind 0.0.0.0", &[], &["0.0.0.0", "without a token", "DORMOUSE_TOKEN", "--bind 127.0.0.1"]),
        ("--bind 127.0.0.1 --bind ::", &[], &["listen on ::"]),
        ("--merge-fraction 0.5", &[], &["--merge-fraction", "at most a third"]),
        ("--split-busy NaN", &[], &["--split-busy", "more than 0"]),
        ("--split-size 0", &[], &["--split-size", "at least 1"]),
        ("--port 1 serve", &[], &["serve"]),
    ];
    for (arguments, environment, parts) in rows {
        let error = parse(arguments, environment).unwrap_err();
        for part in *parts {
            assert!(error.contains(part), "{arguments} {environment:?}: {error}");
        }
    }
    let error = parse("--token dm_shop_hush", &[("DORMOUSE_ADMIN_TOKEN", "hush")]).unwrap_err();
    assert!(error.contains("a text of its own") && !error.contains("hush"), "{error}");
    let error = parse("--usage-to http://x --usage-header hush", &[]).unwrap_err();
    assert!(error.contains("DORMOUSE_USAGE_HEADER: invalid header: expected") && !error.contains("hush"), "{error}");
    let error = parse("--admin-token=", &[]).unwrap_err();
    assert!(error.contains("'--admin-token' or DORMOUSE_ADMIN_TOKEN: a token must not be empty"), "{error}");
    let error = parse("--token dm_oops", &[]).unwrap_err();
    assert!(error.contains("dm_<database>_<secret>") && !error.contains("dm_oops"), "{error}");
}

#[test]
fn complaints_about_a_file() {
    let unended = file("port = 1\ntoken = \"dm_shop_hush");
    let error = parse(&format!("--config {}", unended.path().to_str().unwrap()), &[]).unwrap_err();
    assert!(error.contains("line 2") && !error.contains("hush"), "{error}");
    for (text, parts) in [
        ("port = \"many\"", &["'many'", "--port"][..]),
        ("port = true", &["`port` has a value of the wrong type"]),
        ("port = [1, 2]", &["wrong type"]),
        ("bind = [true]", &["wrong type"]),
        ("prot = 1", &["unknown option `prot`"]),
        ("config = \"x\"", &["unknown option `config`"]),
        ("sleep-after = 1", &["`sleep-after = 1` has no unit: write `sleep-after = \"1s\"`"]),
        ("reply-timeout = 0.5", &["`reply-timeout = 0.5` has no unit"]),
        ("port = ", &["line 1"]),
        ("port = 1\nmax-clients = = 2", &["line 2"]),
        ("[server]\nport = 1", &["unknown option `server`"]),
    ] {
        let file = file(text);
        let path = file.path().to_str().unwrap();
        let error = parse(&format!("--config {path}"), &[]).unwrap_err();
        for part in parts.iter().chain(&[path]) {
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

#[test]
fn a_token_or_loopback() {
    let with_token = [("DORMOUSE_TOKEN", "secret")];
    assert_eq!(options("--bind 0.0.0.0", &with_token).tokens.iter().count(), 1);
    assert!(!options("--bind 0.0.0.0 --admin-token root", &[]).tokens.is_empty());
    options("--bind 127.0.0.2 --bind ::1", &[]);
    // Without TCP, the address does not matter.
    options("--bind 0.0.0.0 --port 0 --http-port 0 --unix-socket /tmp/x", &[]);
}

#[test]
fn a_service_of_kubernetes_is_no_port() {
    assert_eq!(options("", &[("DORMOUSE_PORT", "tcp://10.0.0.1:6379")]).port, 6379);
    assert_eq!(options("", &[("DORMOUSE_PORT", "")]).port, 6379);
    for (variable, value) in [
        ("DORMOUSE_SERVICE_HOST", "10.0.0.1"),
        ("DORMOUSE_SERVICE_PORT", "6379"),
        ("DORMOUSE_SERVICE_PORT_REDIS", "6379"),
        ("DORMOUSE_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ("DORMOUSE_PORT_6379_TCP_PROTO", "tcp"),
        ("DORMOUSE_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("DORMOUSE_CACHE_PORT", "tcp://10.0.0.2:6379"),
        ("DORMOUSE_CACHE_SERVICE_HOST", "10.0.0.2"),
        ("DORMOUSE_URL", "redis://127.0.0.1"),
        ("DORMOUSE_SOURCE_PASSWORD", "hunter2"),
    ] {
        assert_eq!(options("", &[(variable, value)]).port, 6379, "{variable}");
    }
}
