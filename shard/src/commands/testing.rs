//! Commands are tested as commands: tables of command and reply over one keyspace whose clock stands still.

use std::collections::BTreeMap;
use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Reply, Response, Version};
use dormouse_storage::shown::{INDEXES, first_ids};
use dormouse_types::ObjectRef;
use dormouse_types::record::Value;
use dormouse_types::segment::SLOTS;

use super::{call, find, replay};
use crate::error::Error;
use crate::keyspace::testing::TestLog;
use crate::keyspace::{Contents, EngineSettings, Keyspace, Limits, Shared};

/// One shard with one database, a held clock and a fixed seed.
pub(crate) struct Bench {
    pub contents: Contents,
    pub shared: Shared,
    pub select: u8,
    pub now_ms: u64,
    pub version: Version,
    seed: u64,
}

impl Bench {
    pub fn new() -> Self {
        let shared = Shared::new("test", 7);
        let contents = Contents::empty(0, SLOTS, shared.placement, first_ids());
        Self { contents, shared, select: 0, now_ms: 1_700_000_000_000, version: Version::Resp2, seed: 1 }
    }

    /// The same with other limits.
    pub fn with_limits(limits: Limits) -> Self {
        let bench = Self::new();
        bench.shared.settings.store(Arc::new(EngineSettings { limits, ..EngineSettings::new(7) }));
        bench
    }

    /// Runs a command given as a line: words between spaces, or in double quotes with `\xHH`, `\n`, `\"` and `\\`.
    pub fn run(&mut self, line: &str) -> String {
        let words = words(line);
        let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        self.run_args(&args)
    }

    /// Runs a command and shows its reply as `redis-cli` would, on one line: `nil`, `[a b [c]]`, `(error) ...`.
    pub fn run_args(&mut self, args: &[&[u8]]) -> String {
        let reply = self.run_raw(args);
        show(&Response::read(&mut &reply[..]).expect("a reply"))
    }

    pub fn run_raw(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let request = OwnedRequest::from_args(args);
        let mut reply = Reply::new(self.version);
        match find(request.as_request()) {
            None => reply.error(&Error::WrongArity(String::from_utf8_lossy(args[0]).to_lowercase()).to_string()),
            Some((row, run)) => {
                self.seed += 1;
                let mut db = Keyspace::new([&mut self.contents], &self.shared, self.select, self.now_ms, self.seed);
                call(row, run, &mut db, &mut reply, request.as_request()).expect("everything is resident");
            }
        }
        reply.buffer.clone()
    }

    /// The cost that the command's row declares for the line; `None` if it declares none.
    pub fn cost(&mut self, line: &str) -> Option<usize> {
        let words = words(line);
        let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let request = OwnedRequest::from_args(&args);
        let (row, _) = find(request.as_request()).expect("a command");
        let db = self.keyspace();
        row.cost.map(|cost| cost(&db, request.as_request()))
    }

    /// How many bytes the command's row says that the line may add beyond its own.
    pub fn growth(&mut self, line: &str) -> usize {
        let words = words(line);
        let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let request = OwnedRequest::from_args(&args);
        let (row, _) = find(request.as_request()).expect("a command");
        row.growth(&self.keyspace(), request.as_request())
    }

    /// How many bytes the command's row says that the line needs while it runs.
    pub fn needs(&mut self, line: &str) -> usize {
        let words = words(line);
        let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let request = OwnedRequest::from_args(&args);
        let (row, _) = find(request.as_request()).expect("a command");
        row.need(&self.keyspace(), request.as_request())
    }

    pub fn keyspace(&mut self) -> Keyspace<'_> {
        Keyspace::new([&mut self.contents], &self.shared, self.select, self.now_ms, self.seed)
    }

    /// Every key of the selected index: its expiry and its value, elements without an order of their own sorted.
    pub fn data(&mut self) -> BTreeMap<Vec<u8>, (Option<u64>, String)> {
        let mut data = BTreeMap::new();
        self.keyspace().for_each(|record| {
            let value = match record.value() {
                Value::Object(ObjectRef::Hash(hash)) => {
                    let until = |expiry: Option<u64>| expiry.map(|at| format!(" until {at}")).unwrap_or_default();
                    sorted(
                        hash.entries().map(|(f, v, expiry)| (f.to_vec(), [v.to_vec(), until(expiry).into()].concat())),
                    )
                }
                Value::Object(ObjectRef::Set(set)) => sorted(set.iter().map(|member| (member.to_vec(), Vec::new()))),
                Value::Object(ObjectRef::List(list)) => {
                    format!("{:?}", list.iter().map(|i| i.to_vec()).collect::<Vec<_>>())
                }
                Value::Object(ObjectRef::SortedSet(set)) => {
                    format!("{:?}", set.iter().map(|(member, score)| (member.to_vec(), score)).collect::<Vec<_>>())
                }
                // The origin of a string is forgotten when it is stored.
                Value::Int(number) => format!("{:?}", number.to_string().as_bytes()),
                other => format!("{other:?}").trim_start_matches("Raw(").trim_end_matches(')').into(),
            };
            data.insert(record.key().to_vec(), (record.expiry(), value));
        });
        data
    }
}

fn sorted(pairs: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> String {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    format!("{pairs:?}")
}

/// Runs each command and compares its reply.
pub(crate) fn check(table: &[(&str, &str)]) {
    check_with(Version::Resp2, table);
}

/// Runs each command and compares its reply, by a client that has said `HELLO 3`.
pub(crate) fn check_resp3(table: &[(&str, &str)]) {
    check_with(Version::Resp3, table);
}

fn check_with(version: Version, table: &[(&str, &str)]) {
    let mut bench = Bench::new();
    bench.version = version;
    for (at, (command, expected)) in table.iter().enumerate() {
        assert_eq!(&bench.run(command), expected, "reply to line {at}: {command}");
    }
}

/// Runs the commands and checks that replaying their effects onto nothing yields the same data. The effects are
/// replayed key by key, as segments are: an effect that needed another key would show.
pub(crate) fn check_effects(commands: &[Vec<Vec<u8>>]) {
    check_effects_of(Bench::new(), commands);
}

/// The same with a bench whose settings differ from those under which the effects are replayed.
pub(crate) fn check_effects_of(bench: Bench, commands: &[Vec<Vec<u8>>]) {
    check_effects_with(bench, commands, |_| {});
}

/// The same, with something done when the log begins.
pub(crate) fn check_effects_with(mut bench: Bench, commands: &[Vec<Vec<u8>>], begin: impl FnOnce(&Shared)) {
    let log = TestLog::of(&mut bench.shared);
    begin(&bench.shared);
    for command in commands {
        let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        bench.run_args(&args);
        bench.now_ms += 1;
    }
    let mut effects = log.effects();
    effects.sort_by_key(|effect| effect.position);
    for select in 0..INDEXES as u8 {
        // An effect belongs to a keyspace, whichever index shows that now, if any still does.
        let keyspace = bench.contents.ids[usize::from(select)];
        let mut replayed = Bench::new();
        for effect in effects.iter().filter(|effect| effect.keyspace == keyspace) {
            let mut db = Keyspace::new([&mut replayed.contents], &replayed.shared, 0, effect.now_ms, 1);
            replay(&mut db, &effect.body).expect("effects are well-formed");
        }
        replayed.now_ms = bench.now_ms;
        bench.select = select;
        assert_eq!(replayed.data(), bench.data(), "index {select}");
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut bytes = line.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let mut word = Vec::new();
        match byte {
            b' ' => continue,
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => match bytes.next() {
                            Some(b'x') => {
                                let hex: String =
                                    [bytes.next(), bytes.next()].into_iter().flatten().map(char::from).collect();
                                word.push(u8::from_str_radix(&hex, 16).expect("two hexadecimal digits"));
                            }
                            Some(b'n') => word.push(b'\n'),
                            Some(other) => word.push(other),
                            None => break,
                        },
                        other => word.push(other),
                    }
                }
            }
            other => {
                word.push(other);
                while let Some(byte) = bytes.next_if(|byte| *byte != b' ') {
                    word.push(byte);
                }
            }
        }
        words.push(word);
    }
    words
}

/// A reply as text.
pub(crate) fn show(reply: &Response) -> String {
    let many = |items: &[Response]| items.iter().map(show).collect::<Vec<_>>().join(" ");
    match reply {
        Response::Line('-', text) => format!("(error) {text}"),
        Response::Line('#', text) => if text == "t" { "true" } else { "false" }.into(),
        Response::Line(_, text) => text.clone(),
        Response::Bulk(_, Some(bytes)) if bytes.is_empty() => "\"\"".into(),
        Response::Bulk(_, Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Response::Many('%', Some(items)) => format!("{{{}}}", many(items)),
        Response::Many(_, Some(items)) => format!("[{}]", many(items)),
        Response::Bulk(_, None) | Response::Many(_, None) | Response::Null => "nil".into(),
    }
}
