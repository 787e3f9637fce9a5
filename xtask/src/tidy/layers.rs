//! Rules about which module may know which. ARCHITECTURE.md gives the reasons; this module checks the rules. (The
//! `clippy.toml` of `types/`, `storage/` and `shard/` bans the clock from the whole engine too; that rule has
//! exceptions, with reasons.)

use serde_json::Value;

use super::{Problem, source};

struct Folder {
    /// Files whose path starts with this.
    path: &'static str,
    /// Paths that they must not name, nor anything below.
    must_not_name: &'static [&'static str],
    what: &'static str,
}

const FOLDERS: &[Folder] = &[
    Folder {
        path: "protocol/src/",
        must_not_name: &["std::net", "std::fs", "std::thread", "std::future", "tokio", "futures"],
        what: "the protocol must not know sockets, files, or async",
    },
    Folder {
        path: "autoscaler/src/",
        must_not_name: &[
            "std::time",
            "std::net",
            "std::fs",
            "std::thread",
            "std::env",
            "dormouse_protocol",
            "dormouse_types",
            "dormouse_storage",
            "dormouse_shard",
        ],
        what: "the policy must not know clocks, IO, RESP, commands, or formats",
    },
    Folder {
        path: "coordination/src/",
        must_not_name: &[
            "std::fs",
            "std::time::Instant",
            "std::time::SystemTime",
            "dormouse_protocol",
            "dormouse_types",
            "dormouse_storage",
            "dormouse_shard",
        ],
        what: "a coordinator says who is alive: it must not know files, data, or another clock than the one passed in",
    },
    Folder {
        path: "scripting/src/",
        must_not_name: &["std::net", "std::fs", "std::thread", "std::env", "tokio", "futures"],
        what: "the virtual machine must not know IO or async",
    },
    Folder {
        path: "types/src/segment/",
        must_not_name: &[
            "crate::hash",
            "crate::list",
            "crate::set",
            "crate::sorted_set",
            "crate::object",
            "crate::Object",
            "dormouse_protocol",
        ],
        what: "segments must not know values",
    },
    Folder {
        path: "types/",
        must_not_name: &["dormouse_protocol::Reply", "std::fs", "std::net", "std::thread", "tokio"],
        what: "data structures must not know replies or IO",
    },
    Folder {
        path: "shard/src/keyspace/",
        must_not_name: &["dormouse_protocol::Reply", "dormouse_protocol::Version", "std::fs", "std::net", "tokio"],
        what: "the keyspace must not know replies or IO",
    },
    Folder {
        path: "shard/src/commands/",
        must_not_name: &["tokio", "futures", "std::net", "std::fs", "std::time", "dormouse_storage::store"],
        what: "commands must not know sockets, async, the store, or the system clock",
    },
    Folder {
        path: "storage/src/",
        must_not_name: &["dormouse_protocol::Reply", "std::net", "tokio::net"],
        what: "storage must not know replies or connections",
    },
    Folder {
        path: "shard/src/",
        must_not_name: &["std::net", "tokio::net", "axum", "clap", "prometheus", "object_store"],
        what: "the engine must not know connections, HTTP, options, or the protocols of stores",
    },
    Folder {
        path: "importer/src/",
        must_not_name: &["tokio", "clap", "dormouse_protocol::Reply", "dormouse_protocol::Parser"],
        what: "an importer is a client: it must not know options, async, or how a server reads and replies",
    },
    Folder {
        path: "server/src/",
        must_not_name: &["dormouse_types"],
        what: "the server must not know how a value is stored",
    },
    Folder {
        path: "simulation/",
        must_not_name: &["std::net", "std::fs", "std::time", "tokio::time", "dormouse"],
        what: "a simulation must not know sockets, files, or the system clock",
    },
    Folder {
        path: "client-tests/",
        must_not_name: NO_CLIENT,
        what: "client tests know the server by its sockets only",
    },
    Folder { path: "benches/src/", must_not_name: NO_CLIENT, what: "benches know the server by its sockets only" },
    Folder {
        path: "benches/limit/",
        must_not_name: &[
            "dormouse",
            "dormouse_shard",
            "dormouse_storage",
            "dormouse_types",
            "dormouse_protocol::Reply",
        ],
        what: "the bare loop shares the server's parser, and nothing else",
    },
];

/// Paths that a client of a server does not need. It reads replies with `dormouse_protocol::Response`.
const NO_CLIENT: &[&str] = &[
    "dormouse",
    "dormouse_autoscaler",
    "dormouse_importer",
    "dormouse_shard",
    "dormouse_storage",
    "dormouse_types",
    "dormouse_protocol::OwnedRequest",
    "dormouse_protocol::Parser",
    "dormouse_protocol::Reply",
    "dormouse_protocol::Request",
];

pub(crate) fn uses(path: &str, text: &str) -> Vec<Problem> {
    let folders: Vec<&Folder> = FOLDERS.iter().filter(|folder| path.starts_with(folder.path)).collect();
    if folders.is_empty() || !path.ends_with(".rs") {
        return Vec::new();
    }
    let below = |path: &str, ancestor: &str| {
        path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let mut problems = Vec::new();
    for (line, named) in source::paths(&source::module(path), &source::code(text)) {
        for folder in &folders {
            if folder.must_not_name.iter().any(|banned| below(&named, banned)) {
                problems.push(Problem::at(line, format!("{}: {named}", folder.what)));
                break;
            }
        }
    }
    problems
}

/// The crates of the workspace that each crate may depend on. Arrows point down only. `FOLDERS` lists those that only a
/// crate's tests may name.
const CRATES: &[(&str, &[&str])] = &[
    (
        "dormouse",
        &[
            "dormouse-autoscaler",
            "dormouse-coordination",
            "dormouse-importer",
            "dormouse-shard",
            "dormouse-scripting",
            "dormouse-storage",
            "dormouse-types",
            "dormouse-protocol",
            // Its tests take their ports from there.
            "dormouse-client-tests",
        ],
    ),
    ("dormouse-importer", &["dormouse-storage", "dormouse-protocol"]),
    ("dormouse-shard", &["dormouse-storage", "dormouse-scripting", "dormouse-types", "dormouse-protocol"]),
    ("dormouse-scripting", &["dormouse-protocol"]),
    ("dormouse-storage", &["dormouse-types", "dormouse-protocol"]),
    ("dormouse-types", &["dormouse-protocol"]),
    ("dormouse-protocol", &[]),
    ("dormouse-autoscaler", &[]),
    // Its tests take their ports from there.
    ("dormouse-coordination", &["dormouse-client-tests"]),
    (
        "dormouse-simulation",
        &["dormouse-shard", "dormouse-storage", "dormouse-scripting", "dormouse-types", "dormouse-protocol"],
    ),
    ("dormouse-benches", &["dormouse-client-tests", "dormouse-protocol"]),
    ("dormouse-client-tests", &["dormouse-protocol"]),
    ("xtask", &[]),
];

/// The arrows between crates, from `cargo metadata`.
pub(crate) fn dependencies(metadata: &Value) -> Vec<String> {
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let packages = array(&metadata["packages"]);
    let own: Vec<String> = packages.iter().map(name).collect();
    let mut problems = Vec::new();
    for package in &packages {
        let from = name(package);
        let Some((_, allowed)) = CRATES.iter().find(|(crate_name, _)| *crate_name == from) else {
            problems.push(format!("{from}: say in xtask/src/tidy/layers.rs which crates it may depend on"));
            continue;
        };
        for to in array(&package["dependencies"]).iter().map(name).filter(|to| own.contains(to)) {
            if !allowed.contains(&to.as_str()) {
                problems.push(format!("{from} must not depend on {to}: arrows point down only"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        uses(path, text).len()
    }

    #[test]
    fn a_folder_does_not_know_what_it_must_not() {
        assert_eq!(problems("types/src/segment/mod.rs", "use crate::list::List;"), 1);
        assert_eq!(problems("types/src/segment/mod.rs", "use crate::{record, set};"), 1);
        assert_eq!(problems("types/src/segment/table.rs", "use super::super::hash::Hash;"), 1);
        assert_eq!(problems("types/src/list.rs", "fn f() { std::fs::read(path) }"), 1);
        assert_eq!(problems("shard/src/commands/list.rs", "use dormouse_types::List;"), 0);
        assert_eq!(problems("shard/src/commands/list.rs", "use std::time::Duration;"), 1);
        assert_eq!(problems("shard/src/shard.rs", "use std::time::Duration;"), 0);
        assert_eq!(problems("shard/src/shard.rs", "use std::{net, time};"), 1);
        assert_eq!(problems("server/src/session.rs", "use {dormouse_shard::Shard, dormouse_types::List};"), 1);
        assert_eq!(problems("autoscaler/src/lib.rs", "// std::time is not ours\nlet a = \"std::time::Instant\";"), 0);
        assert_eq!(problems("client-tests/src/lib.rs", "use dormouse_client_tests::Suite;"), 0);
    }

    #[test]
    fn arrows_point_down() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "dormouse-protocol", "dependencies": [{ "name": "itoa" }, { "name": "dormouse-shard" }] },
            { "name": "dormouse-shard", "dependencies": [{ "name": "dormouse-protocol" }] },
            { "name": "dormouse-console", "dependencies": [] },
        ] });
        let problems = dependencies(&metadata);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("dormouse-protocol must not depend on dormouse-shard"));
        assert!(problems[1].starts_with("dormouse-console"));
    }
}
