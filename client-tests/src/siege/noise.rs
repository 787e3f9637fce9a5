//! Every kind of misbehaviour. Each round is short and ends by itself. The server may answer as it likes, as long as it
//! keeps serving the others.

use std::{io, time::Duration};

use super::Target;
use crate::resp::{Connection, Reply, request};

/// The kind of a tenant's misbehaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    KeysInMulti,
    LongRanges,
    LongPatterns,
    Sorts,
    BigWrites,
    SubscribeFlood,
    Unions,
    Hoarder,
    SlowReader,
    ConnectionStorm,
    WrongTokens,
    BranchFlood,
    HugeNames,
    HalfRequests,
    LongQueues,
    LongScripts,
    HostileScripts,
}

const MIB: usize = 1 << 20;

impl Kind {
    pub const ALL: [Self; 17] = [
        Self::KeysInMulti,
        Self::LongRanges,
        Self::LongPatterns,
        Self::Sorts,
        Self::BigWrites,
        Self::SubscribeFlood,
        Self::Unions,
        Self::Hoarder,
        Self::SlowReader,
        Self::ConnectionStorm,
        Self::WrongTokens,
        Self::BranchFlood,
        Self::HugeNames,
        Self::HalfRequests,
        Self::LongQueues,
        Self::LongScripts,
        Self::HostileScripts,
    ];

    /// Returns the kind of this name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(name))
    }

    /// Misbehaves for one round.
    ///
    /// # Errors
    /// When the server refuses to go on.
    pub fn make(self, target: &Target, tenant: &str, round: u64) -> io::Result<()> {
        match self {
            Self::ConnectionStorm => connection_storm(target, tenant),
            Self::WrongTokens => wrong_tokens(target, tenant),
            kind => {
                let mut connection = target.connect(tenant)?;
                kind.with(target, tenant, &mut connection, round)
            }
        }
    }

    fn with(self, target: &Target, tenant: &str, connection: &mut Connection, round: u64) -> io::Result<()> {
        let mut run = |words: &[&str]| connection.try_call(words);
        match self {
            Self::KeysInMulti => {
                fill(connection, "keys", target.elements / 25, |n| {
                    ["SET".into(), format!("key:{n}"), "v".into()].into()
                })?;
                run_all(connection, &["MULTI"], 1)?;
                run_all(connection, &["KEYS", "nomatch*"], 8)?;
                run_all(connection, &["EXEC"], 1)
            }
            Self::LongRanges => {
                list(connection, "list", target.elements)?;
                run_all(connection, &["LRANGE", "list", "0", "-1"], 4)
            }
            Self::LongPatterns => {
                let text = "a".repeat(40 << 10);
                run(&["SET", &text, "1"])?;
                run(&["SADD", "set", &text, "x"])?;
                for pattern in [
                    format!("*[{}]q", "ab".repeat(30 << 10)),
                    format!("*{}b", "a".repeat(30 << 10)),
                    format!("*{}b*", "?a".repeat(2000)),
                    "*a".repeat(900) + "b",
                ] {
                    run(&["KEYS", &pattern])?;
                    run(&["SSCAN", "set", "0", "MATCH", &pattern])?;
                    run(&["PUBSUB", "CHANNELS", &pattern])?;
                    run(&["CONFIG", "GET", &pattern])?;
                }
                Ok(())
            }
            Self::Sorts => {
                list(connection, "list", target.elements)?;
                run_all(connection, &["SORT", "list", "DESC", "LIMIT", "0", "10"], 2)?;
                run_all(connection, &["SORT", "list", "BY", "nothing*", "STORE", "sorted"], 1)
            }
            Self::BigWrites => {
                let value = "v".repeat(1000);
                let mut words = vec!["MSET".to_owned()];
                words.extend((0..10_000).flat_map(|n| [format!("big:{}:{n}", round % 5), value.clone()]));
                connection.try_call(&words)?;
                connection.try_call(&["SET", "huge", &"h".repeat(8 * MIB)])?;
                connection.try_call(&["SETRANGE", &format!("range{}", round % 3), "16000000", "x"])?;
                connection.try_call(&["COPY", "huge", "copy", "REPLACE"]).map(drop)
            }
            Self::SubscribeFlood => {
                run(&["HELLO", "3"])?;
                let names: Vec<String> = (0..2000).map(|n| format!("{n}:{}", "c".repeat(1000))).collect();
                let mut words = vec!["SUBSCRIBE"];
                words.extend(names.iter().map(String::as_str));
                connection.write(&request(&words))?;
                (0..names.len()).try_for_each(|_| connection.read().map(drop))?;
                // This connection never reads its replies.
                let mut other = target.connect(tenant)?;
                let message = "m".repeat(256 << 10);
                (0..200).try_for_each(|n| other.try_call(&["PUBLISH", names[n].as_str(), message.as_str()]).map(drop))
            }
            Self::Unions => {
                for set in ["one", "two"] {
                    fill(connection, set, target.elements / 2500, |n| {
                        let members = (0..1000).map(|member| format!("{set}:{}", n * 1000 + member));
                        ["SADD".to_owned(), set.to_owned()].into_iter().chain(members).collect()
                    })?;
                }
                run_all(connection, &["MULTI"], 1)?;
                run_all(connection, &["SUNIONSTORE", "both", "one", "two"], 4)?;
                run_all(connection, &["EXEC"], 1)?;
                run_all(connection, &["SDIFF", "one", "two"], 2)
            }
            Self::Hoarder => {
                run(&["SET", "hoard", &"h".repeat(16 * MIB)])?;
                let mut hoarders = Vec::new();
                for _ in 0..20 {
                    let mut hoarder = target.connect(tenant)?;
                    hoarder.write(&request(&["GET", "hoard"]).repeat(100))?;
                    hoarders.push(hoarder);
                }
                target.pause(Duration::from_secs(2));
                run(&["MULTI"])?;
                run_all(connection, &["GET", "hoard"], 100)?;
                run_all(connection, &["EXEC"], 1)?;
                let mut words = vec!["MGET"];
                words.resize(1001, "hoard");
                connection.try_call(&words).map(drop)
            }
            Self::SlowReader => {
                list(connection, "list", target.elements / 5)?;
                connection.write(&request(&["LRANGE", "list", "0", "-1"]).repeat(50))?;
                target.pause(Duration::from_secs(2));
                (0..3).try_for_each(|_| connection.read().map(drop))
            }
            Self::BranchFlood => {
                for n in 0..12 {
                    run(&["DORMOUSE", "BRANCH", &format!("b{n}")])?;
                }
                for n in 0..8 {
                    let mut branch = target.connect_as_stranger()?;
                    branch.try_call(&["AUTH", &format!("{tenant}.b{n}"), &super::token(tenant)])?;
                    run_all(&mut branch, &["SET", "k", &"v".repeat(4 * MIB)], 2)?;
                }
                let gone = round % 8;
                run(&["DORMOUSE", "DELETE", &format!("b{gone}")]).map(drop)
            }
            Self::HugeNames => {
                run(&["CLIENT", "SETNAME", &"n".repeat(30 * MIB)])?;
                let mut other = target.connect(tenant)?;
                other.try_call(&["CLIENT", "SETINFO", "LIB-NAME", &"l".repeat(30 * MIB)])?;
                let mut watcher = target.connect(tenant)?;
                run_each(&mut watcher, 50, |n| vec!["WATCH".to_owned(), format!("{n}{}", "w".repeat(MIB))])?;
                let mut subscriber = target.connect(tenant)?;
                subscriber.try_call(&["HELLO", "3"])?;
                run_each(&mut subscriber, 50, |n| vec!["PSUBSCRIBE".to_owned(), format!("{n}{}?", "p".repeat(MIB))])
            }
            Self::HalfRequests => {
                let mut halves = Vec::new();
                for _ in 0..10 {
                    let mut half = target.connect(tenant)?;
                    half.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n")?;
                    half.write(&vec![b'x'; 8 * MIB])?;
                    halves.push(half);
                }
                let mut many = target.connect(tenant)?;
                many.write(b"*1048576\r\n")?;
                many.write(&b"$0\r\n\r\n".repeat(500_000))?;
                target.pause(Duration::from_secs(1));
                Ok(())
            }
            Self::LongQueues => {
                run(&["MULTI"])?;
                let value = "q".repeat(64 << 10);
                run_each(connection, 500, |n| vec!["SET".to_owned(), format!("queued{}", n % 10), value.clone()])?;
                run_all(connection, &["EXEC"], 1)
            }
            Self::LongScripts => {
                for script in LONG_SCRIPTS {
                    run(&["EVAL", script, "1", "k"])?;
                }
                Ok(())
            }
            Self::HostileScripts => {
                for script in HOSTILE_SCRIPTS {
                    run(&["EVAL", script, "1", "k"])?;
                }
                // This script catches every error, so it has to be killed.
                connection.write(&request(&["EVAL", "while true do pcall(error, 'x') end", "0"]))?;
                target.pause(Duration::from_millis(200));
                target.connect(tenant)?.try_call(&["SCRIPT", "KILL"])?;
                connection.read().map(drop)
            }
            Self::ConnectionStorm | Self::WrongTokens => Ok(()),
        }
    }
}

/// Scripts of one second: one that only reads, and one that writes all the time.
const LONG_SCRIPTS: [&str; 2] = [
    "local began = os.clock() while os.clock() - began < 1 do redis.call('get', KEYS[1]) end return 1",
    "local began = os.clock() while os.clock() - began < 1 do redis.call('incr', KEYS[1]) end return 1",
];

/// Scripts that ask for more than they may have. Each is an error.
const HOSTILE_SCRIPTS: [&str; 12] = [
    "local s = 'x' while true do s = s .. s end",
    "local t = {} while true do t[#t + 1] = {} end",
    "return string.rep('x', 2 ^ 31)",
    "return ('x'):rep(2 ^ 20):gsub('', ('y'):rep(2 ^ 20))",
    "return string.format('%099d', 1):rep(2 ^ 28)",
    "local function f() return 1 + f() end return f()",
    "local t = {} for i = 1, 2 ^ 12 do t = {t} end return t",
    "local t = {1} for i = 1, 60 do t = {t, t} end return cjson.encode(t)",
    "local t = {1} for i = 1, 60 do t = {t, t} end return t",
    "return ('a'):rep(2 ^ 16):find(('a*'):rep(30) .. 'b')",
    "local t = {} for i = 1, 2 ^ 20 do t[i] = ('x'):rep(2 ^ 10) end return table.concat(t)",
    "redis.call('set', KEYS[1], ('x'):rep(2 ^ 27))",
];

fn connection_storm(target: &Target, tenant: &str) -> io::Result<()> {
    let mut kept = Vec::new();
    for _ in 0..200 {
        kept.push(target.connect(tenant)?);
        // Some connections never log in.
        kept.push(target.connect_as_stranger()?);
        if target.is_over() {
            break;
        }
    }
    target.pause(Duration::from_millis(500));
    Ok(())
}

fn wrong_tokens(target: &Target, tenant: &str) -> io::Result<()> {
    let mut guesser = target.connect_as_stranger()?;
    for n in 0..8 {
        if target.is_over() {
            break;
        }
        guesser.try_call(&["AUTH".to_owned(), format!("dm_{tenant}_guess{n}")])?;
    }
    Ok(())
}

/// Sends the same command again and again, pipelined.
fn run_all(connection: &mut Connection, words: &[&str], times: usize) -> io::Result<()> {
    connection.write(&request(words).repeat(times))?;
    (0..times).try_for_each(|_| connection.read().map(drop))
}

/// Sends one command after the other, until one is refused.
fn run_each(connection: &mut Connection, times: usize, words: impl Fn(usize) -> Vec<String>) -> io::Result<()> {
    for n in 0..times {
        if matches!(connection.try_call(&words(n))?, Reply::Line('-', _)) {
            break;
        }
    }
    Ok(())
}

/// Fills a tenant once, 100 commands at a time. `name` identifies the contents.
fn fill(connection: &mut Connection, name: &str, times: usize, words: impl Fn(usize) -> Vec<String>) -> io::Result<()> {
    let mark = format!("filled:{name}");
    if connection.try_call(&["EXISTS", &mark])? == Reply::Line(':', "1".into()) {
        return Ok(());
    }
    for begin in (0..times).step_by(100) {
        let end = times.min(begin + 100);
        let requests: Vec<u8> = (begin..end).flat_map(|n| request(&words(n))).collect();
        connection.write(&requests)?;
        (begin..end).try_for_each(|_| connection.read().map(drop))?;
    }
    connection.try_call(&["SET", &mark, "1"]).map(drop)
}

/// Makes a list of this many numbers.
fn list(connection: &mut Connection, key: &str, elements: usize) -> io::Result<()> {
    fill(connection, key, elements / 1000, |n| {
        let numbers = (0..1000).map(|number| (number * 7919 % 1000 + n * 1000).to_string());
        ["RPUSH".to_owned(), key.to_owned()].into_iter().chain(numbers).collect()
    })
}
