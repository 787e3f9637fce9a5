//! The clients' commands: random, over few enough keys that they meet.

use crate::chance::Chance;
use crate::model::{INDEXES, STAGED};
use crate::{arrays, documents, scripted, streams};

/// One command and its logical index.
#[derive(Debug, Clone)]
pub struct Asked {
    pub select: u8,
    pub words: Vec<String>,
}

/// The behaviour of one database's clients.
#[derive(Debug, Clone)]
pub struct Script {
    /// Keys of each kind.
    pub keys: u64,
    /// Commands in a thousand that concern whole indexes.
    pub whole: u64,
    pub selects: u8,
    /// Whether keys expire. While an import is followed, the source decides that, and there is none here.
    pub has_expiries: bool,
}

impl Script {
    pub fn new(chance: &mut Chance) -> Self {
        let keys = chance.pick(&[2, 6, 60]);
        Self { keys, whole: chance.pick(&[0, 0, 5, 30]), selects: chance.pick(&[1, 1, INDEXES]), has_expiries: true }
    }

    /// Returns one entry of the log: a command, or a transaction of several.
    pub fn batch(&self, chance: &mut Chance) -> Vec<Asked> {
        let many = if chance.permille(250) { 2 + chance.below(4) } else { 1 };
        (0..many).map(|_| self.command(chance)).collect()
    }

    /// Returns commands that make all possible texts.
    pub fn fill(&self) -> Vec<Asked> {
        let key = |n: u64| [format!("t{n}"), format!("filled-{n}")];
        let all: Vec<u64> = (0..self.keys).collect();
        all.chunks(50)
            .map(|some| {
                let words = ["MSET".to_owned()].into_iter().chain(some.iter().flat_map(|&n| key(n))).collect();
                Asked { select: 0, words }
            })
            .collect()
    }

    /// Returns a command that makes a value large, or larger.
    pub fn growth(&self, chance: &mut Chance) -> Asked {
        let c = chance;
        let select = c.below(u64::from(self.selects)) as u8;
        let text = |c: &mut Chance, length: u64| format!("{}{}", c.below(1000), "x".repeat(length as usize));
        let (command, kind) =
            c.pick(&[("SET", 't'), ("APPEND", 't'), ("RPUSH", 'l'), ("HSET", 'h'), ("SADD", 's'), ("ZADD", 'z')]);
        let mut words = vec![command.to_owned(), format!("{kind}{}", c.below(self.keys.min(3)))];
        let length = c.pick(&[2_000, 10_000, 20_000]);
        match kind {
            't' => words.push(text(c, length * 8)),
            'l' => (0..8).for_each(|_| words.push(text(c, length))),
            // Some of them replace existing elements.
            'h' => (0..12).for_each(|field| words.extend([format!("m{field}"), text(c, length)])),
            's' => (0..8).for_each(|_| words.push(text(c, length))),
            _ => (0..8).for_each(|score| words.extend([score.to_string(), text(c, length)])),
        }
        Asked { select, words }
    }

    /// Returns a batch of an import: mostly data for a staged index, sometimes a step.
    pub fn import(&self, chance: &mut Chance) -> Vec<Asked> {
        let step = match chance.below(20) {
            0..3 => "BEGIN",
            3 | 4 => "SHOW REPLACE",
            5 => "END",
            6 => "DISCARD",
            _ => {
                let select = STAGED + chance.below(u64::from(self.selects)) as u8;
                let words = loop {
                    let words = self.keyed(chance);
                    if words[0] != "MOVE" {
                        break words;
                    }
                };
                return vec![Asked { select, words }];
            }
        };
        let words = ["DORMOUSE", "IMPORT"].into_iter().chain(step.split(' ')).map(str::to_owned).collect();
        vec![Asked { select: 0, words }]
    }

    /// Returns a command that may wait.
    pub fn blocking(&self, chance: &mut Chance) -> Asked {
        let select = chance.below(u64::from(self.selects)) as u8;
        let (command, kind) = chance.pick(&[("BLPOP", 'l'), ("BRPOPLPUSH", 'l'), ("BZPOPMIN", 'z')]);
        let mut key = || {
            let kind = if chance.permille(15) { chance.pick(&['t', 'l', 'h', 's', 'z']) } else { kind };
            format!("{kind}{}", chance.below(self.keys))
        };
        let mut words = vec![command.to_owned(), key(), key()];
        if command != "BRPOPLPUSH" && words[1] == words[2] {
            words.pop();
        }
        words.push("0".into());
        Asked { select, words }
    }

    /// Returns a command over a stream.
    pub fn stream(&self, chance: &mut Chance) -> Asked {
        let select = chance.below(u64::from(self.selects)) as u8;
        Asked { select, words: streams::command(chance, self.keys) }
    }

    /// Returns a command over an array.
    pub fn array(&self, chance: &mut Chance) -> Asked {
        let select = chance.below(u64::from(self.selects)) as u8;
        Asked { select, words: arrays::command(chance, self.keys) }
    }

    /// Returns a command over a document, a filter or a vector set.
    pub fn document(&self, chance: &mut Chance) -> Asked {
        let select = chance.below(u64::from(self.selects)) as u8;
        Asked { select, words: documents::command(chance, self.keys) }
    }

    /// Returns a command that may wait for entries of a stream.
    pub fn blocking_read(&self, chance: &mut Chance) -> Asked {
        let select = chance.below(u64::from(self.selects)) as u8;
        Asked { select, words: streams::blocking(chance, self.keys) }
    }

    /// Returns a script, or a call of a function, over several keys.
    pub fn scripted(&self, chance: &mut Chance, streams: bool) -> Asked {
        let select = chance.below(u64::from(self.selects)) as u8;
        let kind = chance.pick(&[scripted::PLAIN, scripted::PLAIN, scripted::LOOP, scripted::FUNCTION]);
        let commands: Vec<Vec<String>> = (0..2 + chance.below(4))
            .map(|_| match streams && chance.permille(300) {
                true => streams::command(chance, self.keys),
                false => self.keyed(chance).into_iter().filter(|word| !word.is_empty()).collect(),
            })
            .collect();
        Asked { select, words: scripted::words(kind, &commands) }
    }

    /// Returns a command that counts keys.
    pub fn counting(&self, chance: &mut Chance) -> Asked {
        Asked { select: chance.below(u64::from(self.selects)) as u8, words: vec!["DBSIZE".into()] }
    }

    fn command(&self, chance: &mut Chance) -> Asked {
        let select = chance.below(u64::from(self.selects)) as u8;
        let words = if chance.permille(self.whole) { self.whole(chance) } else { self.keyed(chance) };
        Asked { select, words: words.into_iter().filter(|word| !word.is_empty()).collect() }
    }

    fn whole(&self, chance: &mut Chance) -> Vec<String> {
        let index = |chance: &mut Chance| chance.below(u64::from(INDEXES)).to_string();
        match chance.below(6) {
            0..3 => vec!["FLUSHDB".into()],
            3 => vec!["FLUSHALL".into()],
            _ => vec!["SWAPDB".into(), index(chance), index(chance)],
        }
    }

    fn keyed(&self, chance: &mut Chance) -> Vec<String> {
        let keys = self.keys;
        // A key is nearly always of its own kind.
        let key = |chance: &mut Chance, kind: char| {
            let kind = if chance.permille(15) { chance.pick(&['t', 'l', 'h', 's', 'z']) } else { kind };
            format!("{kind}{}", chance.below(keys))
        };
        let any = |chance: &mut Chance| {
            let kind = chance.pick(&['t', 'l', 'h', 's', 'z']);
            key(chance, kind)
        };
        let few = |chance: &mut Chance| format!("m{}", chance.below(12));
        let text = |chance: &mut Chance| {
            let length = match chance.below(60) {
                0 => 3000,
                1..5 => 200,
                _ => chance.below(20),
            };
            format!("v{}{}", chance.below(1000), "x".repeat(length as usize))
        };
        let small = |chance: &mut Chance| (chance.below(21) as i64 - 10).to_string();
        let c = chance;
        let kind = match c.below(40) {
            // These would make keys expire.
            4 | 17 if !self.has_expiries => 0,
            kind => kind,
        };
        match kind {
            0..4 => vec!["SET".into(), key(c, 't'), text(c)],
            4 => vec!["SET".into(), key(c, 't'), text(c), "PX".into(), (1 + c.below(3000)).to_string()],
            5 => vec!["SET".into(), key(c, 't'), text(c), c.pick(&["NX", "KEEPTTL"]).into()],
            6 => vec!["MSET".into(), key(c, 't'), text(c), key(c, 't'), text(c)],
            7 | 8 => vec!["GET".into(), key(c, 't')],
            9 => vec!["MGET".into(), key(c, 't'), key(c, 't'), key(c, 't')],
            10 => vec!["APPEND".into(), key(c, 't'), text(c)],
            // Numbers have keys of their own.
            11..14 => vec!["INCRBY".into(), format!("n{}", c.below(keys)), small(c)],
            14 => vec!["GETDEL".into(), key(c, 't')],
            15 => vec!["DEL".into(), any(c), any(c)],
            16 => vec!["EXISTS".into(), any(c)],
            17 => {
                let at = crate::clock::now_ms() + c.below(4000);
                vec!["PEXPIREAT".into(), any(c), at.saturating_sub(500).to_string()]
            }
            18 => vec!["PERSIST".into(), any(c)],
            19 => vec!["RENAME".into(), any(c), any(c)],
            20 => vec!["COPY".into(), key(c, 'h'), key(c, 'l'), "REPLACE".into()],
            21 => vec!["MOVE".into(), any(c), c.below(u64::from(INDEXES)).to_string()],
            22 => vec!["LPUSH".into(), key(c, 'l'), text(c)],
            23 => vec!["RPUSH".into(), key(c, 'l'), text(c), few(c)],
            24 => vec!["LPOP".into(), key(c, 'l')],
            25 => vec!["RPOPLPUSH".into(), key(c, 'l'), key(c, 'l')],
            26 => vec!["LRANGE".into(), key(c, 'l'), "0".into(), "-1".into()],
            27 => vec!["LTRIM".into(), key(c, 'l'), "1".into(), "-1".into()],
            28 => vec!["HSET".into(), key(c, 'h'), few(c), small(c), few(c), small(c)],
            29 => vec!["HDEL".into(), key(c, 'h'), few(c), few(c)],
            30 => vec!["HGET".into(), key(c, 'h'), few(c)],
            31 => vec!["HINCRBY".into(), key(c, 'h'), few(c), small(c)],
            32 => vec!["SADD".into(), key(c, 's'), few(c), few(c)],
            33 => vec!["SREM".into(), key(c, 's'), few(c)],
            34 => vec!["SPOP".into(), key(c, 's')],
            35 => vec!["SMOVE".into(), key(c, 's'), key(c, 's'), few(c)],
            36 => vec!["SUNIONSTORE".into(), key(c, 's'), key(c, 's'), key(c, 's')],
            37 => vec!["ZADD".into(), key(c, 'z'), small(c), few(c), small(c), few(c)],
            38 => vec!["ZINCRBY".into(), key(c, 'z'), small(c), few(c)],
            _ => match c.below(3) {
                0 => vec!["ZREM".into(), key(c, 'z'), few(c)],
                1 => vec!["ZSCORE".into(), key(c, 'z'), few(c)],
                _ => vec!["ZPOPMIN".into(), key(c, 'z')],
            },
        }
    }

    /// Returns a command over a hash whose fields expire. Such hashes have keys of their own.
    pub fn field(&self, chance: &mut Chance) -> Asked {
        let c = chance;
        let select = c.below(u64::from(self.selects)) as u8;
        let key = format!("f{}", c.below(self.keys));
        let names = c.pick(&[6, 300]);
        let name = format!("m{}", c.below(names));
        let at = (crate::clock::now_ms() + c.below(4000)).saturating_sub(300).to_string();
        let number = c.below(100).to_string();
        let words: Vec<&str> = match c.below(12) {
            0..4 => vec!["HSETEX", &key, "PXAT", &at, "FIELDS", "1", &name, &number],
            4 | 5 => vec!["HPEXPIREAT", &key, &at, "FIELDS", "1", &name],
            6 => vec!["HPERSIST", &key, "FIELDS", "1", &name],
            7 => vec!["HGETDEL", &key, "FIELDS", "1", &name],
            8 => vec!["HGETEX", &key, "PXAT", &at, "FIELDS", "1", &name],
            9 => vec!["HSET", &key, &name, &number],
            10 => vec!["HINCRBY", &key, &name, &number],
            _ => vec!["HGET", &key, &name],
        };
        Asked { select, words: words.into_iter().map(str::to_owned).collect() }
    }
}
