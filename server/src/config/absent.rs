//! Parameters of what Dormouse does not have: choices within TLS, an append-only file, a cluster's bus, being a replica, a report of
//! crashes. Each shows the value that is true here, and may be set to it, since tools set what they have read.

use super::{Parameter, always};

/// Rows with fixed values. `fact`: Redis cannot change it either while it runs. `always`: Redis can.
macro_rules! rows {
    ($($kind:ident $value:literal: $($name:literal)*;)*) => {
        &[$($(rows!(@row $kind $name $value),)*)*]
    };
    (@row fact $name:literal $value:literal) => {
        Parameter::fact($name, |_| $value.to_string())
    };
    (@row slave $name:literal $value:literal) => {
        Parameter::fact(concat!("replica-", $name), |_| $value.to_string())
            .settable(|_, text| always($value, text))
            .alias(concat!("slave-", $name))
    };
    (@row always $name:literal $value:literal) => {
        Parameter::fact($name, |_| $value.to_string()).settable(|_, text| always($value, text))
    };
}

pub(super) const ABSENT: &[Parameter] = rows! {
    // No files of its own, and no processes to bind to processors.
    fact "": "aof_rewrite_cpulist" "bgsave_cpulist" "bio_cpulist" "server_cpulist" "aof-rewrite-cpulist" "bgsave-cpulist"
        "bio-cpulist" "server-cpulist" "cluster-config-file" "ignore-warnings"
        "logfile" "pidfile" "syslog-ident" "appendfilename" "appenddirname" "dbfilename";
    fact "local0": "syslog-facility";
    fact "no": "always-show-logo" "disable-thp" "enable-module-command" "enable-protected-configs" "set-proc-title"
        "supervised" "syslog-enabled" "io-threads-do-reads";
    fact "0": "cluster-port" "socket-mark-id";
    // Exported files have a checksum; imported ones may lack it.
    fact "yes": "rdbchecksum";
    // TLS chooses its ciphers itself, keeps no sessions of clients, and resumes by tickets.
    always "": "tls-ca-cert-dir" "tls-ciphers" "tls-ciphersuites" "tls-client-cert-file" "tls-client-key-file"
        "tls-client-key-file-pass" "tls-dh-params-file" "tls-key-file-pass" "tls-protocols";
    always "off": "tls-auth-clients-user";
    always "no": "tls-cluster" "tls-prefer-server-ciphers" "tls-replication";
    always "yes": "tls-session-caching";
    always "0": "tls-session-cache-size" "tls-session-cache-timeout";
    // It is no replica, and no node of a cluster with others.
    always "": "masterauth" "masteruser" "primaryauth" "primaryuser" "bind-source-addr" "cluster-announce-hostname" "cluster-announce-human-nodename";
    slave "": "announce-ip";
    always "ip": "cluster-preferred-endpoint-type";
    always "0": "cluster-announce-bus-port" "cluster-link-sendbuf-limit";
    // A cluster's counts for each slot are counted for the whole database here. Every logical index can be selected.
    always "no": "cluster-slot-stats-enabled" "dual-channel-replication-enabled" "import-mode" "mptcp" "repl-mptcp";
    fact "16": "cluster-databases";
    // It answers as Redis does, its log has no data of users, and payloads of versions that it does not know are refused.
    always "yes": "extended-redis-compatibility" "hide-user-data-from-log";
    always "strict": "rdb-version-check";
    // Entries of the logs of commands are shortened. Hashes have no templates, and sizes of keys are not counted.
    always "32": "slowlog-entry-max-argc";
    always "128": "slowlog-entry-max-string-len";
    always "0": "hash-max-template-entries" "hash-min-template-entries";
    always "no": "key-memory-histograms";
    // Its own account of a crash is its log; the system chooses what it ends when memory is short.
    always "no": "crash-log-enabled" "crash-memcheck-enabled" "oom-score-adj";
    always "0 0 0": "oom-score-adj-values";
    always "default": "shutdown-on-sigint" "shutdown-on-sigterm";
    always "": "proc-title-template" "locale-collate";
    // Strangers are kept out by tokens, whatever the address.
    always "no": "protected-mode";
    // An unfinished request or transaction of one client.
    always "1073741824": "client-query-buffer-limit";
    // Values from outside are always checked.
    always "yes": "sanitize-dump-payload";
    // The end of the stream that is kept for a replica that comes back.
    always "1048576": "repl-backlog-size";
};
