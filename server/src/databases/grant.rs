//! The rights of a token of the directory: the permissions of a user of its database, within bounds.

use std::sync::{Arc, OnceLock};

use dormouse_storage::directory::{TokenRecord, TokenScope};

use crate::acl::catalogue::Catalogue;
use crate::acl::user::User;

/// The commands that a read-only token permits: those that change nothing, neither in the database nor for its other
/// clients. As elsewhere, such tokens are made for browsers, so they do not list keys.
const READ_ONLY: &[&str] = &[
    "+@all",
    "-@write",
    // In Redis these are a module's, and in no category.
    "-vadd",
    "-vrem",
    "-vsetattr",
    "-@admin",
    "-@dangerous",
    "-scan",
    "-clusterscan",
    "-keys",
    "-randomkey",
    "-cluster|getkeysinslot",
    "-publish",
    "-spublish",
    "-script|flush",
    "-script|kill",
    "-function|kill",
    "-dormouse",
    "+info",
    "+sort_ro",
];

/// The commands that a token with a prefix permits: none that sees or changes keys without naming them.
const PREFIXED: &[&str] = &[
    "+@all",
    "-@admin",
    "-@dangerous",
    "-scan",
    "-clusterscan",
    "-randomkey",
    "-dbsize",
    "-cluster|countkeysinslot",
    "-cluster|getkeysinslot",
    "-cluster|slot-stats",
    "-memory|stats",
    "-memory|purge",
    "-flushdb",
    "-flushall",
    "-swapdb",
    "-pubsub",
    "-client|tracking",
    "-script|flush",
    "-script|kill",
    "-function|load",
    "-function|delete",
    "-function|flush",
    "-function|restore",
    "-function|kill",
    "-dormouse",
    "+sort",
    "+sort_ro",
    "+restore",
];

/// The bounds of a token; `None`: it has none.
pub fn bounds(token: &TokenRecord, catalogue: &'static Catalogue) -> Option<Arc<User>> {
    static ALL_KEYS: OnceLock<Arc<User>> = OnceLock::new();
    let is_read_only = token.scope == TokenScope::ReadOnly;
    match (is_read_only, token.prefix.is_empty()) {
        (false, true) => None,
        (true, true) => Some(Arc::clone(ALL_KEYS.get_or_init(|| Arc::new(bounds_of(&[READ_ONLY], b"", catalogue))))),
        (false, false) => Some(Arc::new(bounds_of(&[PREFIXED], &token.prefix, catalogue))),
        (true, false) => Some(Arc::new(bounds_of(&[READ_ONLY, PREFIXED], &token.prefix, catalogue))),
    }
}

/// A user who may do what each list of rules permits, with keys, channels and receipts that begin with `prefix`.
fn bounds_of(lists: &[&[&str]], prefix: &[u8], catalogue: &Catalogue) -> User {
    let mut keys = vec![b'~'];
    for byte in prefix {
        if b"*?[]\\".contains(byte) {
            keys.push(b'\\');
        }
        keys.push(*byte);
    }
    keys.push(b'*');
    let channels = [b"&", &keys[1..]].concat();
    let mut bounds: Option<User> = None;
    for rules in lists {
        let mut user = User::new(b"token", 0, catalogue);
        let rules = rules.iter().map(|rule| rule.as_bytes()).chain([b"on".as_slice(), b"nopass", &keys, &channels]);
        for rule in rules {
            user.apply(rule, catalogue).expect("each is a rule");
        }
        user.limit_receipts(prefix);
        bounds = Some(match bounds {
            Some(bounds) => user.within(Arc::new(bounds)),
            None => user,
        });
    }
    bounds.expect("there is a list")
}

/// The name of the user whose permissions a token has.
pub fn user_name(token: &TokenRecord) -> &[u8] {
    match &token.scope {
        TokenScope::User(user) => user.as_bytes(),
        TokenScope::ReadWrite | TokenScope::ReadOnly => crate::acl::user::DEFAULT_USER,
    }
}

#[cfg(test)]
mod tests {
    use dormouse_protocol::OwnedRequest;
    use dormouse_shard::commands::Flags;

    use super::*;
    use crate::commands::{SUBJECTS, TABLE};

    fn token(scope: TokenScope, prefix: &[u8]) -> TokenRecord {
        TokenRecord { id: 1, hash: [0; 32], created_ms: 0, expires_ms: None, scope, prefix: prefix.into() }
    }

    #[track_caller]
    fn check(bounds: &User, permitted: &[&str], denied: &[&str]) {
        for (lines, is_permitted) in [(permitted, true), (denied, false)] {
            for line in lines {
                let request = OwnedRequest::from_args(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
                let entry = TABLE.resolve(request.as_request()).unwrap_or_else(|_| panic!("{line} is no command"));
                let checked = bounds.check(SUBJECTS.get(entry.id), request.as_request(), 0);
                assert_eq!(checked.is_ok(), is_permitted, "{line}");
            }
        }
    }

    #[test]
    fn a_plain_token_has_no_bounds() {
        assert!(bounds(&token(TokenScope::ReadWrite, b""), &SUBJECTS).is_none());
        assert!(bounds(&token(TokenScope::User("app".into()), b""), &SUBJECTS).is_none());
    }

    #[test]
    fn a_read_only_token_changes_nothing_and_lists_no_keys() {
        let bounds = bounds(&token(TokenScope::ReadOnly, b""), &SUBJECTS).unwrap();
        check(
            &bounds,
            &["GET a", "HGETALL a", "ZRANGE a 0 -1", "MULTI", "SUBSCRIBE a", "HSCAN a 0", "SORT_RO a", "INFO", "PING"],
            &[
                "SET a 1",
                "DEL a",
                "GETDEL a",
                "SCAN 0",
                "KEYS *",
                "RANDOMKEY",
                "CLUSTER GETKEYSINSLOT 0 10",
                "FLUSHALL",
                "PUBLISH a b",
                "CONFIG GET x",
                "ACL SETUSER x",
                "DORMOUSE SLEEP",
                "SCRIPT FLUSH",
                "FUNCTION LOAD x",
                "MONITOR",
                "SHUTDOWN",
                "SORT a STORE b",
            ],
        );
    }

    #[test]
    fn a_read_only_token_permits_no_command_that_writes() {
        let bounds = bounds(&token(TokenScope::ReadOnly, b""), &SUBJECTS).unwrap();
        let permitted = SUBJECTS.iter().filter(|subject| {
            let words = subject.name.split('|').map(str::as_bytes).chain([b"1".as_slice(); 8]);
            let request = OwnedRequest::from_args(&words.collect::<Vec<_>>());
            subject.row.flags.contains(Flags::WRITE) && bounds.check(subject, request.as_request(), 0).is_ok()
        });
        let permitted: Vec<&str> = permitted.map(|subject| &*subject.name).collect();
        assert_eq!(permitted, [""; 0]);
    }

    #[test]
    fn a_prefix_is_a_prefix_whatever_its_bytes() {
        let bounds = bounds(&token(TokenScope::ReadWrite, b"a*["), &SUBJECTS).unwrap();
        check(
            &bounds,
            &[
                "SET a*[1 x",
                "GET a*[",
                "MSET a*[1 x a*[2 y",
                "PUBLISH a*[c m",
                "SUBSCRIBE a*[c",
                "DEL a*[1",
                "ONCE a*[1 1000 SET a*[1 x",
            ],
            &[
                "SET a1[ x",
                "SET ab[ x",
                "GET a*",
                "MSET a*[1 x b y",
                "PUBLISH c m",
                "PSUBSCRIBE *",
                "FLUSHDB",
                "RANDOMKEY",
                "DBSIZE",
                "SCAN 0",
                "SORT a*[1 BY w_*",
                "CLIENT TRACKING ON BCAST",
                "PUBSUB CHANNELS",
                "CLUSTER GETKEYSINSLOT 0 10",
                "CLUSTER COUNTKEYSINSLOT 0",
                "CLUSTER SLOT-STATS SLOTSRANGE 0 1",
                "CLUSTER FLUSHSLOT 0",
                "CLUSTERSCAN 0",
                "MEMORY STATS",
                "ONCE a 1000 SET a*[1 x",
            ],
        );
        let bounds = super::bounds(&token(TokenScope::ReadOnly, b"p:"), &SUBJECTS).unwrap();
        check(&bounds, &["GET p:1"], &["GET q", "SET p:1 x", "SCAN 0", "CLUSTERSCAN 0", "PUBLISH p:c m"]);
    }

    /// The commands without keys and channels that a prefix permits. One that is new has to be looked at: it may be here only if
    /// it neither shows nor changes keys, or what other clients do.
    const WITHOUT_KEYS: &[&str] = &[
        "acl|cat",
        "acl|genpass",
        "acl|help",
        "acl|resttoken",
        "acl|whoami",
        "asking",
        "auth",
        "backup|help",
        "client|caching",
        "client|capa",
        "client|getname",
        "client|getredir",
        "client|help",
        "client|id",
        "client|import-source",
        "client|info",
        "client|no-touch",
        "client|reply",
        "client|setinfo",
        "client|setname",
        "client|trackinginfo",
        "cluster|help",
        "cluster|info",
        "cluster|keyslot",
        "cluster|links",
        "cluster|myid",
        "cluster|myshardid",
        "cluster|nodes",
        "cluster|shards",
        "cluster|slots",
        "commandlog|help",
        "command|count",
        "command|docs",
        "command|getkeys",
        "command|getkeysandflags",
        "command|help",
        "command|info",
        "command|list",
        "config|help",
        "discard",
        "dormouse|forwarded",
        "echo",
        "exec",
        "function|dump",
        "function|help",
        "function|list",
        "function|stats",
        "hello",
        "himport|discard",
        "himport|discardall",
        "himport|prepare",
        "hotkeys|help",
        "json.debug|help",
        "latency|help",
        "lolwut",
        "memory|doctor",
        "memory|help",
        "memory|malloc-stats",
        "module|help",
        "multi",
        "object|help",
        "ping",
        "punsubscribe",
        "quit",
        "readonly",
        "readwrite",
        "reset",
        "script|debug",
        "script|exists",
        "script|help",
        "script|load",
        "script|show",
        "select",
        "slowlog|help",
        "time",
        "unsubscribe",
        "unwatch",
        "wait",
        "waitaof",
        "xgroup|help",
        "xinfo|help",
    ];

    #[test]
    fn a_prefix_permits_no_command_that_reaches_keys_without_naming_them() {
        let bounds = bounds(&token(TokenScope::ReadWrite, b"p:"), &SUBJECTS).unwrap();
        let permitted = SUBJECTS.iter().filter(|subject| {
            let words: Vec<&[u8]> = subject.name.split('|').map(str::as_bytes).collect();
            let request = OwnedRequest::from_args(&words);
            let names_nothing = subject.row.keys.is_empty() && subject.row.channels.is_none();
            subject.subcommands.is_empty() && names_nothing && bounds.check(subject, request.as_request(), 0).is_ok()
        });
        let mut permitted: Vec<&str> = permitted.map(|subject| &*subject.name).collect();
        permitted.sort_unstable();
        assert_eq!(permitted, WITHOUT_KEYS);
    }
}
