//! Streams: their part of the model, and the commands over them.
//!
//! The model holds entries, groups, consumers and pending entries. The times at which a consumer was last seen, and a group's
//! count of the entries that it has read, are not in it: a crash may take them back.

use std::collections::{BTreeMap, BTreeSet};

use crate::chance::Chance;
use crate::clock;

/// An id: milliseconds and a number.
pub type Id = (u64, u64);

const NO_KEY: &str = "-ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the \
                      MKSTREAM option to create an empty stream automatically.\r\n";
const TOO_SMALL: &str = "-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n";
const BUSY: &str = "-BUSYGROUP Consumer Group name already exists\r\n";
const NULL_ARRAY: &str = "*-1\r\n";
/// Entries that `XAUTOCLAIM` looks at for each one that it may claim.
const ATTEMPTS: usize = 10;
/// Milliseconds for which a message is remembered.
const REMEMBERED_MS: u64 = 100_000;
/// Ids are made from times rounded down to so many milliseconds, so that clients guess those of each other.
const ROUND_MS: u64 = 300;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamModel {
    pub entries: BTreeMap<Id, Vec<String>>,
    pub last: Id,
    pub max_deleted: Id,
    pub added: u64,
    pub groups: BTreeMap<String, GroupModel>,
    pub messages: Messages,
}

/// The entries that messages have become, by producer and name. Those whose time is over count no more.
#[derive(Debug, Clone, Default)]
pub struct Messages(pub BTreeMap<(String, String), Id>);

impl PartialEq for Messages {
    fn eq(&self, other: &Self) -> bool {
        let now_ms = clock::now_ms();
        let remembered = |messages: &'_ Self| {
            let all = messages.0.iter().filter(|(_, id)| id.0 + REMEMBERED_MS > now_ms);
            all.map(|(name, id)| (name.clone(), *id)).collect::<Vec<_>>()
        };
        remembered(self) == remembered(other)
    }
}

impl Eq for Messages {}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupModel {
    pub last: Id,
    pub consumers: BTreeSet<String>,
    pub pending: BTreeMap<Id, PendingModel>,
}

/// A delivery that was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingModel {
    /// Without a name: it was released.
    pub consumer: String,
    pub delivered_ms: u64,
    pub deliveries: u64,
}

/// The index of the key among a command's words.
pub fn key_at(words: &[String]) -> usize {
    match words[0].as_str() {
        "XGROUP" => 2,
        "XREADGROUP" | "XREAD" => words.len() - 2,
        _ => 1,
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn id_text((ms, number): Id) -> String {
    bulk(&format!("{ms}-{number}"))
}

fn list(all: impl IntoIterator<Item = String>) -> String {
    let all: Vec<String> = all.into_iter().collect();
    format!("*{}\r\n{}", all.len(), all.concat())
}

fn entry_text(id: Id, fields: &[String]) -> String {
    list([id_text(id), list(fields.iter().map(|field| bulk(field)))])
}

fn integer(number: usize) -> String {
    format!(":{number}\r\n")
}

/// Reads an id; one without a number has the number 0.
fn id(text: &str) -> Id {
    let (ms, number) = text.split_once('-').unwrap_or((text, "0"));
    (ms.parse().unwrap_or(0), number.parse().unwrap_or(0))
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or(0)
}

/// The value after a word, if it is among the words.
fn option<'w>(words: &'w [String], name: &str) -> Option<&'w str> {
    let at = words.iter().position(|word| word == name)?;
    words.get(at + 1).map(String::as_str)
}

impl StreamModel {
    fn trim_to(&mut self, len: usize) -> usize {
        let surplus = self.entries.len().saturating_sub(len);
        (0..surplus).for_each(|_| _ = self.entries.pop_first());
        surplus
    }

    /// The reply to an entry of a list of claimed ids.
    fn claimed(&self, id: Id) -> String {
        self.entries.get(&id).map_or_else(|| id_text(id), |fields| entry_text(id, fields))
    }

    /// The id of an entry that `XADD` adds, if it may.
    fn id_to_add(&self, word: &str, now_ms: u64) -> Option<Id> {
        let next = (self.last.0, self.last.1 + 1);
        let id = match (word, word.strip_suffix("-*").and_then(|ms| ms.parse().ok())) {
            ("*", _) if now_ms > self.last.0 => (now_ms, 0),
            ("*", _) => next,
            (_, Some(ms)) if ms == self.last.0 && self.added > 0 => next,
            (_, Some(ms)) => (ms, 0),
            _ => id(word),
        };
        (id > self.last).then_some(id)
    }

    fn is_referred_to(&self, id: Id) -> bool {
        self.groups.values().any(|group| group.last < id || group.pending.contains_key(&id))
    }

    /// Deletes an entry as the references of groups to it allow. Returns whether it may not be deleted, and whether it was.
    fn delete(&mut self, id: Id, references: &str) -> (bool, bool) {
        match references {
            "ACKED" if self.is_referred_to(id) => return (true, false),
            "DELREF" => self.groups.values_mut().for_each(|group| _ = group.pending.remove(&id)),
            _ => {}
        }
        let deleted = self.entries.remove(&id).is_some();
        if deleted {
            self.max_deleted = self.max_deleted.max(id);
        }
        (false, deleted)
    }
}

impl GroupModel {
    fn deliver(&mut self, id: Id, consumer: &str, now_ms: u64) {
        let pending = PendingModel { consumer: consumer.to_owned(), delivered_ms: now_ms, deliveries: 1 };
        self.pending.insert(id, pending);
    }

    /// Claims an entry. `Some(false)`: it is gone.
    fn claim(&mut self, has_entry: bool, id: Id, consumer: &str, idle_ms: u64, now_ms: u64) -> Option<bool> {
        let pending = self.pending.get_mut(&id)?;
        if !has_entry {
            self.pending.remove(&id);
            return Some(false);
        }
        if !pending.consumer.is_empty() && now_ms.saturating_sub(pending.delivered_ms) < idle_ms {
            return None;
        }
        pending.consumer = consumer.to_owned();
        (pending.delivered_ms, pending.deliveries) = (now_ms, pending.deliveries + 1);
        Some(true)
    }
}

/// Runs a command over one stream, which it may create. Returns the expected reply; an empty one means that the client
/// waits. `replied`: the actual reply.
///
/// # Errors
/// An error reply.
pub fn reply(stream: &mut Option<StreamModel>, words: &[String], now_ms: u64, replied: &str) -> Result<String, String> {
    let key = &words[key_at(words)];
    match words[0].as_str() {
        "XADD" => {
            let found = stream.get_or_insert_default();
            let at = if matches!(words[2].as_str(), "MAXLEN" | "IDMP") { 5 } else { 2 };
            let message = (words[2] == "IDMP").then(|| (words[3].clone(), words[4].clone()));
            let known = message.as_ref().and_then(|message| found.messages.0.get(message));
            if let Some(id) = known.filter(|id| id.0 + REMEMBERED_MS > now_ms) {
                return Ok(id_text(*id));
            }
            let id = found.id_to_add(&words[at], now_ms).ok_or(TOO_SMALL)?;
            found.entries.insert(id, words[at + 1..].to_vec());
            (found.last, found.added) = (id, found.added + 1);
            match message {
                Some(message) => _ = found.messages.0.insert(message, id),
                None if at > 2 => _ = found.trim_to(number(&words[4])),
                None => {}
            }
            return Ok(id_text(id));
        }
        "XGROUP" if words[1] == "CREATE" => {
            if stream.is_none() && words.len() < 6 {
                return Err(NO_KEY.into());
            }
            let found = stream.get_or_insert_default();
            if found.groups.contains_key(&words[3]) {
                return Err(BUSY.into());
            }
            let last = if words[4] == "$" { found.last } else { id(&words[4]) };
            found.groups.insert(words[3].clone(), GroupModel { last, ..GroupModel::default() });
            return Ok("+OK\r\n".into());
        }
        "XGROUP" => return change_groups(stream.as_mut(), key, words),
        "XREADGROUP" => return read_group(stream.as_mut(), key, words, now_ms),
        "XCLAIM" | "XAUTOCLAIM" | "XPENDING" | "XNACK" => return pending(stream.as_mut(), key, words, now_ms),
        _ => {}
    }
    let Some(found) = stream else {
        return Ok(match words[0].as_str() {
            "XRANGE" => "*0\r\n".into(),
            "XREAD" => String::new(),
            "XDELEX" | "XACKDEL" => list(words[words.len() - 2..].iter().map(|_| ":-1\r\n".to_owned())),
            _ => integer(0),
        });
    };
    Ok(match words[0].as_str() {
        "XLEN" => integer(found.entries.len()),
        "XRANGE" => list(found.entries.iter().map(|(id, fields)| entry_text(*id, fields))),
        "XDEL" => {
            let mut deleted = 0;
            for id in words[2..].iter().map(|word| id(word)) {
                if found.entries.remove(&id).is_some() {
                    (deleted, found.max_deleted) = (deleted + 1, found.max_deleted.max(id));
                }
            }
            integer(deleted)
        }
        // XDELEX key references IDS 2 id id
        "XDELEX" => list(words[5..].iter().map(|word| match found.delete(id(word), &words[2]) {
            (true, _) => integer(2),
            (false, true) => integer(1),
            (false, false) => ":-1\r\n".into(),
        })),
        // XACKDEL key group references IDS 2 id id
        "XACKDEL" => list(words[6..].iter().map(|word| {
            let group = found.groups.get_mut(&words[2]);
            match group.is_some_and(|group| group.pending.remove(&id(word)).is_some()) {
                true => integer(1 + usize::from(found.delete(id(word), &words[3]).0)),
                false => ":-1\r\n".into(),
            }
        })),
        "XTRIM" => match (words[2].as_str(), words[3].as_str()) {
            ("MINID", _) => {
                let kept = found.entries.split_off(&id(&words[4]));
                integer(std::mem::replace(&mut found.entries, kept).len())
            }
            (_, "=") => integer(found.trim_to(number(&words[4]))),
            // Whole nodes go, so the reply is believed if it leaves enough.
            _ => {
                let surplus = found.entries.len().saturating_sub(number(&words[4]));
                let told = replied.strip_prefix(':').and_then(|rest| rest.trim_end().parse::<usize>().ok());
                match told.filter(|told| *told <= surplus) {
                    Some(told) => integer(found.trim_to(found.entries.len() - told)),
                    None => format!("{surplus} or less"),
                }
            }
        },
        // XREAD [COUNT count] BLOCK 0 STREAMS key id
        "XREAD" => match words[words.len() - 1].as_str() {
            "$" => String::new(),
            after => {
                let after = id(after);
                let entries = found.entries.range((after.0, after.1 + 1)..);
                let entries: Vec<_> = entries.map(|(id, fields)| entry_text(*id, fields)).collect();
                if entries.is_empty() { String::new() } else { list([list([bulk(key), list(entries)])]) }
            }
        },
        "XACK" => {
            let group = found.groups.get_mut(&words[2]);
            let ids = words[3..].iter().map(|word| id(word));
            group.map_or(integer(0), |group| integer(ids.filter(|id| group.pending.remove(id).is_some()).count()))
        }
        other => format!("no such command in the model: {other}"),
    })
}

fn change_groups(stream: Option<&mut StreamModel>, key: &str, words: &[String]) -> Result<String, String> {
    let name = &words[3];
    let found = stream.ok_or(NO_KEY)?;
    if words[1] == "DESTROY" {
        return Ok(integer(found.groups.remove(name).is_some().into()));
    }
    let group = found.groups.get_mut(name);
    let group = group.ok_or_else(|| format!("-NOGROUP No such consumer group '{name}' for key name '{key}'\r\n"))?;
    Ok(match words[1].as_str() {
        "SETID" => {
            group.last = if words[4] == "$" { found.last } else { id(&words[4]) };
            "+OK\r\n".into()
        }
        "CREATECONSUMER" => integer(group.consumers.insert(words[4].clone()).into()),
        _ => {
            group.consumers.remove(&words[4]);
            let before = group.pending.len();
            group.pending.retain(|_, pending| pending.consumer != words[4]);
            integer(before - group.pending.len())
        }
    })
}

/// XREADGROUP GROUP group consumer COUNT count [NOACK] [BLOCK 0] STREAMS key id
fn read_group(stream: Option<&mut StreamModel>, key: &str, words: &[String], now_ms: u64) -> Result<String, String> {
    let (name, consumer, count) = (&words[2], &words[3], number(&words[5]));
    let missing =
        || format!("-NOGROUP No such key '{key}' or consumer group '{name}' in XREADGROUP with GROUP option\r\n");
    let StreamModel { entries, groups, .. } = stream.ok_or_else(missing)?;
    let group = groups.get_mut(name).ok_or_else(missing)?;
    group.consumers.insert(consumer.clone());
    let after = words[words.len() - 1].as_str();
    if after != ">" {
        let from = (id(after).0, id(after).1 + 1);
        let own = group.pending.range_mut(from..).filter(|(_, pending)| pending.consumer == *consumer);
        let read = own.take(count).map(|(id, pending)| match entries.get(id) {
            Some(fields) => {
                (pending.delivered_ms, pending.deliveries) = (now_ms, pending.deliveries + 1);
                entry_text(*id, fields)
            }
            None => list([id_text(*id), NULL_ARRAY.into()]),
        });
        return Ok(list([list([bulk(key), list(read)])]));
    }
    let new: Vec<Id> = entries.range((group.last.0, group.last.1 + 1)..).take(count).map(|(id, _)| *id).collect();
    if new.is_empty() {
        let waits = words.iter().any(|word| word == "BLOCK");
        return Ok(if waits { String::new() } else { NULL_ARRAY.into() });
    }
    for id in &new {
        group.last = *id;
        if !words.iter().any(|word| word == "NOACK") {
            group.deliver(*id, consumer, now_ms);
        }
    }
    Ok(list([list([bulk(key), list(new.iter().map(|id| entry_text(*id, &entries[id])))])]))
}

fn pending(stream: Option<&mut StreamModel>, key: &str, words: &[String], now_ms: u64) -> Result<String, String> {
    let name = &words[2];
    let missing = || format!("-NOGROUP No such key '{key}' or consumer group '{name}'\r\n");
    let found = stream.ok_or_else(missing)?;
    let mut group = found.groups.remove(name).ok_or_else(missing)?;
    let reply = match words[0].as_str() {
        // XPENDING key group - + count
        "XPENDING" => list(group.pending.iter().take(number(&words[5])).map(|(id, pending)| {
            let idle = match pending.consumer.as_str() {
                "" => ":-1\r\n".to_owned(),
                _ => integer(now_ms.saturating_sub(pending.delivered_ms) as usize),
            };
            let numbers = idle + &integer(pending.deliveries as usize);
            format!("*4\r\n{}{}{numbers}", id_text(*id), bulk(&pending.consumer))
        })),
        // XNACK key group SILENT | FAIL IDS 2 id id
        "XNACK" => {
            let mut released = 0;
            for word in &words[6..] {
                let Some(pending) = group.pending.get_mut(&id(word)) else { continue };
                let undone = u64::from(words[3] == "SILENT");
                let deliveries = pending.deliveries.saturating_sub(undone);
                *pending = PendingModel { consumer: String::new(), delivered_ms: 0, deliveries };
                released += 1;
            }
            integer(released)
        }
        // XCLAIM key group consumer min-idle id [id ...]
        "XCLAIM" => {
            group.consumers.insert(words[3].clone());
            let ids = words[5..].iter().map(|word| id(word));
            let mut claim = |id: &Id| {
                let has_entry = found.entries.contains_key(id);
                group.claim(has_entry, *id, &words[3], number(&words[4]) as u64, now_ms) == Some(true)
            };
            let claimed: Vec<Id> = ids.filter(|id| claim(id)).collect();
            list(claimed.into_iter().map(|id| found.claimed(id)))
        }
        // XAUTOCLAIM key group consumer min-idle start COUNT count
        _ => {
            group.consumers.insert(words[3].clone());
            let (idle_ms, count) = (number(&words[4]) as u64, number(option(words, "COUNT").unwrap_or("100")));
            let (mut claimed, mut gone, mut cursor) = (Vec::new(), Vec::new(), (0, 0));
            let all: Vec<Id> = group.pending.range(id(&words[5])..).map(|(id, _)| *id).collect();
            for (seen, id) in all.into_iter().enumerate() {
                if seen == count * ATTEMPTS || claimed.len() + gone.len() == count {
                    cursor = id;
                    break;
                }
                match group.claim(found.entries.contains_key(&id), id, &words[3], idle_ms, now_ms) {
                    Some(true) => claimed.push(id),
                    Some(false) => gone.push(id),
                    None => {}
                }
            }
            let claimed = claimed.into_iter().map(|id| found.claimed(id));
            format!("*3\r\n{}{}{}", id_text(cursor), list(claimed), list(gone.into_iter().map(id_text)))
        }
    };
    found.groups.insert(name.clone(), group);
    Ok(reply)
}

/// Returns a command over a stream. Streams have keys of their own.
pub fn command(chance: &mut Chance, keys: u64) -> Vec<String> {
    let c = chance;
    let now_ms = clock::now_ms();
    let round_ms = now_ms - now_ms % ROUND_MS;
    let key = format!("x{}", c.below(keys));
    let guess = |c: &mut Chance| format!("{}-{}", round_ms - ROUND_MS * c.below(4), c.below(5));
    let group = format!("g{}", c.below(2));
    let consumer = format!("c{}", c.below(3));
    let few = c.below(4).to_string();
    let text = format!("v{}", c.below(1000));
    let idle = c.pick(&["0", "0", "200"]);
    let (one, other) = (guess(c), guess(c));
    let partly = format!("{round_ms}-*");
    let producer = format!("p{}", c.below(3));
    let message = format!("m{}", c.below(6));
    let references = c.pick(&["KEEPREF", "DELREF", "ACKED"]);
    let words: Vec<&str> = match c.below(48) {
        40..44 => vec!["XADD", &key, "IDMP", &producer, &message, "*", "field", &text],
        44 | 45 => vec!["XNACK", &key, &group, c.pick(&["SILENT", "FAIL"]), "IDS", "2", &one, &other],
        46 => vec!["XDELEX", &key, references, "IDS", "2", &one, &other],
        47 => vec!["XACKDEL", &key, &group, references, "IDS", "2", &one, &other],
        0..4 => vec!["XADD", &key, "*", "field", &text],
        4..10 => vec!["XADD", &key, &partly, "field", &text, "other", &few],
        10 => vec!["XADD", &key, &one, "field", &text],
        11 => vec!["XADD", &key, "MAXLEN", "=", "5", "*", "field", &text],
        12 | 13 => vec!["XDEL", &key, &one, &other],
        14 => vec!["XTRIM", &key, "MAXLEN", "=", &few],
        15 => vec!["XTRIM", &key, "MAXLEN", "~", &few],
        16 => vec!["XTRIM", &key, "MINID", "=", &one],
        17 => vec!["XRANGE", &key, "-", "+"],
        18 => vec!["XLEN", &key],
        19..22 => vec!["XGROUP", "CREATE", &key, &group, c.pick(&["$", "0"]), "MKSTREAM"],
        22 => vec!["XGROUP", c.pick(&["DESTROY", "DELCONSUMER", "CREATECONSUMER"]), &key, &group, &consumer],
        23 => vec!["XGROUP", "SETID", &key, &group, c.pick(&["$", &one])],
        24..29 => vec!["XREADGROUP", "GROUP", &group, &consumer, "COUNT", "2", "STREAMS", &key, ">"],
        29 => vec!["XREADGROUP", "GROUP", &group, &consumer, "COUNT", "2", "NOACK", "STREAMS", &key, ">"],
        30 | 31 => vec!["XREADGROUP", "GROUP", &group, &consumer, "COUNT", "9", "STREAMS", &key, "0"],
        32 | 33 => vec!["XACK", &key, &group, &one, &other],
        34 | 35 => vec!["XCLAIM", &key, &group, &consumer, idle, &one, &other],
        36 | 37 => vec!["XAUTOCLAIM", &key, &group, &consumer, idle, "0", "COUNT", "3"],
        38 => vec!["XPENDING", &key, &group, "-", "+", "10"],
        _ => {
            let to = format!("x{}", c.below(keys));
            return match c.below(4) {
                0 => ["RENAME", &key, &to].map(str::to_owned).to_vec(),
                1 => ["COPY", &key, &to, "REPLACE"].map(str::to_owned).to_vec(),
                2 => ["DEL", &key, &to].map(str::to_owned).to_vec(),
                _ => ["GET", &key].map(str::to_owned).to_vec(),
            };
        }
    };
    let words = if words[1] == "DESTROY" { &words[..4] } else { &words[..] };
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Returns a command that may wait for entries.
pub fn blocking(chance: &mut Chance, keys: u64) -> Vec<String> {
    let key = format!("x{}", chance.below(keys));
    let (group, consumer) = (format!("g{}", chance.below(2)), format!("c{}", chance.below(3)));
    let words: &[&str] = match chance.below(3) {
        0 => &["XREAD", "BLOCK", "0", "STREAMS", &key, "$"],
        1 => &["XREADGROUP", "GROUP", &group, &consumer, "COUNT", "1", "BLOCK", "0", "STREAMS", &key, ">"],
        _ => &["XREADGROUP", "GROUP", &group, &consumer, "COUNT", "2", "NOACK", "BLOCK", "0", "STREAMS", &key, ">"],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}
