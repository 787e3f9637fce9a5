//! The format is a promise: the store of every release opens in this build, with all data equal.
//!
//! Each release's own binary made `golden/stores/VERSION.tar.gz` (`golden/stores/make.py`), once. It is a folder as a
//! kill -9 has left it, with chunks, tails, a branch, data that only the log has, and a text of the contents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dormouse_shard::check::check;
use dormouse_shard::snapshot::Snapshot;
use dormouse_storage::log::Log;
use dormouse_storage::store::Store;
use dormouse_types::record::{Record, Value};
use dormouse_types::stream::Head;
use dormouse_types::{Item, ObjectRef, Stream, StreamId};
use futures::executor::block_on;

const RELEASES: &[&str] = &["0.1.0", "0.2.0"];

fn unpack(version: &str, to: &Path) {
    let archive: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests/golden/stores", &format!("{version}.tar.gz")].iter().collect();
    let status = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(to).status().expect("tar");
    assert!(status.success(), "{} cannot be unpacked", archive.display());
}

fn escaped(text: &[u8]) -> String {
    let mut out = String::new();
    for &byte in text {
        match byte {
            32..127 if byte != b'\\' => out.push(char::from(byte)),
            byte => out += &format!("\\x{byte:02x}"),
        }
    }
    out
}

/// Returns a key as the text shows it: type, expiry, elements.
fn shown(record: &Record) -> String {
    let item = |item: Item<'_>| item.to_vec();
    let pair = |left: Item<'_>, right: String| [&left.to_vec()[..], b"=", right.as_bytes()].concat();
    let (kind, mut elements) = match record.value() {
        Value::Int(number) => ("string", vec![number.to_string().into_bytes()]),
        Value::Raw(bytes) => ("string", vec![bytes.to_vec()]),
        Value::Object(ObjectRef::Text(text)) => ("string", vec![text.to_vec()]),
        Value::Object(ObjectRef::List(list)) => ("list", list.iter().map(item).collect()),
        Value::Object(ObjectRef::Hash(hash)) => {
            let field = |(field, value, expiry): (Item<'_>, Item<'_>, Option<u64>)| {
                let expiry = expiry.map_or(String::new(), |at| format!("@{at}"));
                [&field.to_vec()[..], b"=", &value.to_vec(), expiry.as_bytes()].concat()
            };
            ("hash", hash.entries().map(field).collect())
        }
        Value::Object(ObjectRef::Set(set)) => ("set", set.iter().map(item).collect()),
        Value::Object(ObjectRef::Stream(stream)) => ("stream", shown_stream(stream)),
        Value::Object(ObjectRef::Array(array)) => ("array", vec![format!("{array:?}").into_bytes()]),
        Value::Object(ObjectRef::Filter(filter)) => {
            (ObjectRef::Filter(filter).kind().name(), vec![format!("{filter:?}").into_bytes()])
        }
        Value::Object(ObjectRef::Json(json)) => ("json", vec![format!("{json:?}").into_bytes()]),
        Value::Object(ObjectRef::VectorSet(set)) => ("vectorset", vec![format!("{set:?}").into_bytes()]),
        Value::Object(ObjectRef::SortedSet(set)) => {
            ("zset", set.iter().map(|(it, score)| pair(it, score.to_string())).collect())
        }
    };
    if kind != "list" {
        elements.sort();
    }
    let expiry = record.expiry().map_or_else(|| "-1".to_owned(), |at| at.to_string());
    let elements = elements.iter().map(|element| escaped(element));
    [kind.to_owned(), expiry].into_iter().chain(elements).collect::<Vec<_>>().join("\t")
}

fn shown_stream(stream: &Stream) -> Vec<Vec<u8>> {
    let Head { last, max_deleted, added, .. } = stream.entries().head();
    let mut lines = vec![format!("head {last} {max_deleted} {added}").into_bytes()];
    for entry in stream.entries().iter() {
        let pair = |(field, value): (Item<'_>, Item<'_>)| [field.to_vec(), value.to_vec()].join(&b'=');
        let pairs: Vec<Vec<u8>> = entry.fields().map(pair).collect();
        lines.push([format!("{} ", entry.id).as_bytes(), &pairs.join(&b',')].concat());
    }
    for group in stream.groups() {
        lines.push([b"group ", group.name(), format!(" {}", group.last()).as_bytes()].concat());
        for (_, consumer) in group.consumers() {
            let pending = consumer.pending_from(StreamId::MIN).filter_map(|id| group.pending(id));
            let pending: String = pending.map(|pending| format!(" {}/{}", pending.id, pending.deliveries)).collect();
            lines.push([b"consumer ", consumer.name(), pending.as_bytes()].concat());
        }
    }
    lines
}

/// Contents by database, index and key. Libraries and users are in the index after the last one.
type Keys = BTreeMap<(String, usize, String), String>;

fn found(store: &Arc<Store>, databases: &[&str]) -> Keys {
    let mut keys = Keys::new();
    for &database in databases {
        let recovered = Log::look(store).expect("a log that can be read");
        let snapshot = block_on(Snapshot::open(store, database, recovered)).expect("readable").expect("a database");
        for index in 0..16 {
            block_on(snapshot.visit(index, &mut |record| {
                keys.insert((database.to_owned(), index, escaped(record.key())), shown(record));
                Ok(())
            }))
            .expect("readable");
        }
        for text in snapshot.functions() {
            keys.insert((database.to_owned(), 16, "library".to_owned()), escaped(&text));
        }
        let users = snapshot.manifest().settings.get("users").map_or("", String::as_str);
        for user in users.lines().filter(|user| user.contains("golden")) {
            keys.insert((database.to_owned(), 16, "user".to_owned()), escaped(user.as_bytes()));
        }
    }
    keys
}

fn expected(folder: &Path) -> Keys {
    let text = std::fs::read_to_string(folder.join("expected.txt")).expect("a text");
    let line = |line: &str| {
        let mut fields = line.splitn(4, '\t');
        let mut next = || fields.next().expect("a field").to_owned();
        let (database, index, key, rest) = (next(), next(), next(), next());
        ((database, index.parse().expect("an index"), key), rest)
    };
    text.lines().map(line).collect()
}

#[test]
fn the_store_of_every_release_opens_with_all_data() {
    for version in RELEASES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        unpack(version, folder.path());
        let expected = expected(folder.path());
        let databases: Vec<&str> = {
            let mut names: Vec<&str> = expected.keys().map(|(database, ..)| database.as_str()).collect();
            names.dedup();
            names
        };
        let url = format!("file://{}", folder.path().join("store").display());
        // Opened beside a server, or without one, the store is not written.
        let looked = Arc::new(Store::open_read_only(&url).expect("a store that opens"));
        assert_eq!(found(&looked, &databases), expected, "{version}");
        let report = check(&looked, None, &mut |_| {}).expect("a store that can be asked");
        assert_eq!(report.problems(), 0, "{version}: {report:?}");
        // Opened as its server does, the store is marked with this build's format from then on.
        let store = Arc::new(Store::open(&url).expect("a store that opens"));
        assert_eq!(found(&store, &databases), expected, "{version}, marked");
    }
}
