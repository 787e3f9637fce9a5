//! The contents of a server as a map, and data of every type in every encoding.

use std::collections::BTreeMap;

use dormouse_client_tests::resp::{Connection, Reply, request};

/// A time in the year 2100, in Unix milliseconds.
pub const FAR: u64 = 4_102_444_800_000;

/// Keys by index and name: type, expiry, and content, sorted if it has no order.
pub type Data = BTreeMap<(u8, Vec<u8>), (Vec<u8>, i64, Vec<Reply>)>;

pub fn data(port: u16) -> Data {
    let mut connection = Connection::open(port);
    let mut data = Data::new();
    for index in 0..16 {
        connection.run(&format!("SELECT {index}"));
        // On a busy machine a server that has just begun may load for longer than a reply may take.
        let keys = loop {
            let keys = connection.run("KEYS *");
            if !format!("{keys:?}").starts_with("-TIMEOUT") {
                break keys;
            }
        };
        for key in keys.items().unwrap_or_else(|| panic!("{keys:?} is no list of keys")) {
            let key = key.bytes().expect("a key").to_vec();
            let value = content(&mut connection, &key);
            data.insert((index, key), value);
        }
    }
    data
}

pub fn content(connection: &mut Connection, key: &[u8]) -> (Vec<u8>, i64, Vec<Reply>) {
    let kind = connection.call(&[b"TYPE", key]).bytes().expect("a type").to_vec();
    let expiry = connection.call(&[b"PEXPIRETIME", key]).number().expect("a time") as i64;
    let words: &[&[u8]] = match &kind[..] {
        b"string" => &[b"GET", key],
        b"list" => &[b"LRANGE", key, b"0", b"-1"],
        b"set" => &[b"SMEMBERS", key],
        b"hash" => &[b"HGETALL", key],
        b"zset" => &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
        b"stream" => &[b"XRANGE", key, b"-", b"+"],
        other => panic!("a key of type {}", other.escape_ascii()),
    };
    let reply = connection.call(words);
    let mut content = reply.items().map_or_else(|| vec![reply.clone()], <[Reply]>::to_vec);
    match &kind[..] {
        b"set" => content.sort(),
        b"hash" => {
            let mut pairs: Vec<_> = content.chunks(2).map(<[Reply]>::to_vec).collect();
            pairs.sort();
            content = pairs.concat();
        }
        // Redis 7.0 prints scores with 17 digits, 7.2 the shortest that read back the same.
        b"zset" => {
            for score in content.iter_mut().skip(1).step_by(2) {
                let number = score.number().expect("a score");
                *score = Reply::Line(',', format!("{number:?}"));
            }
        }
        _ => {}
    }
    (kind, expiry, content)
}

#[track_caller]
pub fn assert_same(found: &Data, expected: &Data) {
    for (key, value) in expected {
        let (index, name) = (key.0, key.1.escape_ascii());
        match found.get(key) {
            None => panic!("key {name} of index {index} is missing"),
            Some(found) if found != value => panic!("key {name} of index {index} is {found:?}, not {value:?}"),
            Some(_) => {}
        }
    }
    assert_eq!(found.len(), expected.len(), "there are keys too many");
}

/// Sends commands without waiting for each reply, and checks that none is an error.
pub struct Pipeline {
    connection: Connection,
    requests: Vec<u8>,
    sent: usize,
}

impl Pipeline {
    pub fn open(port: u16) -> Self {
        Self { connection: Connection::open(port), requests: Vec::new(), sent: 0 }
    }

    pub fn add<W: AsRef<[u8]>>(&mut self, words: &[W]) {
        self.requests.extend(request(words));
        self.sent += 1;
        if self.requests.len() > 50_000 {
            self.finish();
        }
    }

    pub fn line(&mut self, line: &str) {
        self.add(&line.split_whitespace().collect::<Vec<_>>());
    }

    pub fn finish(&mut self) {
        self.connection.write(&std::mem::take(&mut self.requests)).expect("the server reads");
        for _ in 0..std::mem::take(&mut self.sent) {
            let reply = self.connection.read().expect("the server replies");
            assert!(!reply.is_error(), "{reply:?}");
        }
    }
}

/// Returns incompressible bytes.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(next).collect()
}

/// Writes keys of every type in every encoding, around every limit, some with an expiry, to each of these indexes, and
/// `strings` more strings.
pub fn fill(port: u16, indexes: &[u8], strings: u64) {
    let mut redis = Pipeline::open(port);
    for index in indexes {
        redis.line(&format!("SELECT {index}"));
        for (at, number) in [
            "0",
            "-1",
            "127",
            "128",
            "-32769",
            "2147483648",
            "9223372036854775807",
            "-9223372036854775808",
            "007",
            "1.5",
        ]
        .into_iter()
        .enumerate()
        {
            redis.line(&format!("SET number:{at} {number}"));
            redis.line(&format!("SET {number} {number}"));
        }
        for (name, value) in [
            ("empty", Vec::new()),
            ("short", b"\0\xff\r\n".to_vec()),
            ("repeats", b"abc".repeat(5000)),
            ("noise", noise(30_000)),
            ("large", noise(2 << 20)),
        ] {
            redis.add(&[b"SET", name.as_bytes(), &value]);
            redis.add(&[b"RPUSH", format!("list {name}").as_bytes(), b"first", &value, &value, b"17"]);
            redis.add(&[b"HSET", format!("hash {name}").as_bytes(), b"f", &value, &value, b"g"]);
            redis.add(&[b"SADD", format!("set {name}").as_bytes(), b"f", &value]);
            redis.add(&[b"ZADD", format!("zset {name}").as_bytes(), b"0.1", b"f", b"inf", &value]);
        }
        redis.add(&[&b"SET"[..], b"\0binary\xff\r\nkey", b"v"]);
        redis.add(&[&b"SET"[..], b"", b"the empty key"]);
        for size in [1, 60, 127, 128, 129, 511, 513, 5000] {
            for element in 0..size {
                let (wide, word) = (element * 1_000_003_i64 * 40_000, format!("word {element}"));
                redis.line(&format!("RPUSH numbers:{size} {wide}"));
                redis.add(&["LPUSH", &format!("words:{size}"), &word]);
                redis.line(&format!("SADD narrow:{size} {element}"));
                redis.line(&format!("SADD wide:{size} {wide}"));
                redis.add(&["SADD", &format!("members:{size}"), &word]);
                redis.add(&["HSET", &format!("fields:{size}"), &word, &element.to_string()]);
                let score = (element as f64 - 100.0) / 7.0;
                redis.add(&["ZADD", &format!("scores:{size}"), &score.to_string(), &word]);
                redis.line(&format!("ZADD integers:{size} {} {element}", element % 10));
            }
            redis.line(&format!("ZADD scores:{size} -inf low inf high"));
        }
        for key in 0..strings {
            redis.line(&format!("SET {{tag}}:{key} {key}"));
            redis.line(&format!("SET plain:{key} value:{key}"));
            if key % 3 == 0 {
                redis.line(&format!("PEXPIREAT plain:{key} {}", FAR + key));
            }
        }
        for key in ["numbers:60", "words:5000", "fields:1", "scores:513", "large"] {
            redis.line(&format!("PEXPIREAT {key} {FAR}"));
        }
    }
    redis.finish();
}
