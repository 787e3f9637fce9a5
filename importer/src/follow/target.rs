//! The running Dormouse (or Redis) that is filled: one transaction for each batch, and only if no other client was
//! faster.
//!
//! One write sends, for a batch:
//!
//! ```text
//! MULTI  <the batch's requests>  SELECT 0  SET __dormouse_import__ <place>  EXEC
//! WATCH __dormouse_import__  GET __dormouse_import__
//! ```
//!
//! 1. The last two prepare the next batch. If GET answers the place just written, the key has not changed since, and
//!    EXEC will refuse if it changes from now on.
//! 2. So a batch is applied only onto the place that it was made for. That also holds for a delayed batch of an earlier
//!    connection, which arrives after we have reconnected: by then the key has changed, or its EXEC changes the key and
//!    ours is refused.
//! 3. Hence one batch is on its way at a time, and pipelining takes place inside of it.
//! 4. A Dormouse is filled beside its data: `DORMOUSE IMPORT BEGIN` opens staged indexes, and the batch that ends the
//!    full sync replaces the old indexes with them. From then on nothing in them expires by the target's clock, until
//!    `DORMOUSE IMPORT END` at the cutover. While a full sync runs, the key is in staged index 0. A Redis can do
//!    neither: it is emptied first, and expires keys by its own clock.
//! 5. Libraries of functions are changed before the batch that brings them, outside its transaction. Those of a copy that
//!    the target then refuses are undone; those of the stream are newer than the data until the next import, which sends
//!    them again. The target refuses that only if a function has moved from one library to another in between: the import
//!    then ends with its error.

use std::collections::HashSet;
use std::io;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use dormouse_protocol::Response;

use super::Interruption;
use super::address::ServerAddress;
use super::place::{KEY, SourcePlace};
use super::pulse::field;
use super::queue::{STAGED, UnitBatch, select};
use super::wire::{Connection, request};

/// Limit of the time for one batch.
const PATIENCE: Duration = Duration::from_secs(300);
/// The assumed number of indexes of a server that does not report it.
const INDEXES: u64 = 16;
/// Number of requests whose answers fit into any socket's buffer. Up to it, we can write without reading.
const ANSWERS_BUFFERED: usize = 512;
const ERRORS_KEPT: usize = 20;

/// The target's commands, in capitals, and its number of logical indexes.
#[derive(Clone, Debug)]
pub struct Abilities {
    pub commands: Arc<HashSet<String>>,
    pub indexes: u64,
    /// The target can be filled beside its data, and follow the source's clock.
    pub stages: bool,
}

/// The state of an import in the target.
#[derive(Debug, Default)]
pub struct TargetState {
    pub place: Option<SourcePlace>,
    /// The place of the staged data.
    pub staged: Option<SourcePlace>,
    /// Nothing expires by the target's clock.
    pub follows: bool,
}

/// The action of a transaction apart from its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bookkeeping {
    None,
    /// Begins a full sync. `flush`: empties a target that cannot stage.
    Begin {
        flush: bool,
    },
    /// Ends the import.
    End,
}

pub struct TargetLink {
    connection: Connection,
    /// The key's value when it was last watched.
    recorded: Option<Vec<u8>>,
    /// Between batches, staged index 0 is selected rather than index 0.
    is_staging: bool,
    /// Shown data may replace other keys.
    pub replaces: bool,
    pub abilities: Abilities,
    name: String,
}

/// Requests that the target answered with an error although it ran the transaction: each request with its error.
#[derive(Debug, Default)]
pub struct Refusals {
    pub kept: Vec<(String, String)>,
    pub count: u64,
    /// Those among them that would have restored a key.
    pub restores: u64,
}

impl TargetLink {
    /// Connects and reads the bookkeeping.
    pub fn open(address: &ServerAddress) -> Result<(Self, TargetState), Interruption> {
        let name = format!("the target {address}");
        let dropped = |error: io::Error| Interruption::dropped(&name, &error);
        let mut connection = Connection::open(address, PATIENCE).map_err(dropped)?;
        if let Some(words) = address.auth() {
            connection.call(&words).map_err(dropped)?.checked().map_err(|text| refusal(&name, &text))?;
        }
        connection.call(&[b"PING"]).map_err(dropped)?.checked().map_err(|text| refusal(&name, &text))?;
        let commands = commands(&mut connection).map_err(dropped)?;
        if let Some(missing) = ["MULTI", "WATCH", "RESTORE"].iter().find(|name| !commands.contains(**name)) {
            return Err(Interruption::Final(format!("{name} has no {missing}, which an import needs")));
        }
        let indexes = match connection.call(&[b"CONFIG", b"GET", b"databases"]).map_err(dropped)? {
            Response::Many(_, Some(pair)) => match pair.get(1) {
                Some(Response::Bulk(_, Some(number))) => String::from_utf8_lossy(number).parse().unwrap_or(INDEXES),
                _ => INDEXES,
            },
            _ => INDEXES,
        };
        let state = match connection.call(&[b"INFO", b"dormouse"]).map_err(dropped)? {
            Response::Bulk(_, Some(text)) => String::from_utf8_lossy(&text).into_owned(),
            _ => String::new(),
        };
        let state = |name: &str| field(&state, name).map(|value| value == "1");
        let stages = commands.contains("DORMOUSE") && state("import_following").is_some();
        let mut staged = None;
        if stages {
            for words in [&[b"DORMOUSE", &b"STAGED"[..], b"0"][..], &[b"WATCH", KEY.as_bytes()]] {
                connection.call(words).map_err(dropped)?.checked().map_err(|text| refusal(&name, &text))?;
            }
            // Without staged data the index does not exist.
            if let Response::Bulk(_, Some(text)) = connection.call(&[b"GET", KEY.as_bytes()]).map_err(dropped)? {
                staged = Some(SourcePlace::parse(&text).map_err(Interruption::Final)?);
            }
            connection.call(&[b"SELECT", b"0"]).map_err(dropped)?.checked().map_err(|text| refusal(&name, &text))?;
        }
        connection.call(&[b"WATCH", KEY.as_bytes()]).map_err(dropped)?.checked().map_err(|t| refusal(&name, &t))?;
        let recorded = match connection.call(&[b"GET", KEY.as_bytes()]).map_err(dropped)? {
            Response::Bulk(_, Some(text)) => Some(text),
            reply if reply.is_null() => None,
            other => return Err(Interruption::Final(format!("{name} answers GET {KEY} with {other:?}"))),
        };
        let place = recorded.as_deref().map(SourcePlace::parse).transpose().map_err(Interruption::Final)?;
        let found = TargetState { place, staged, follows: state("import_following") == Some(true) };
        let abilities = Abilities { commands: Arc::new(commands), indexes, stages };
        Ok((TargetLink { connection, recorded, is_staging: false, replaces: false, abilities, name }, found))
    }

    /// Drops the staged data, unless it has changed since it was found.
    pub fn discard(&mut self) -> Result<(), Interruption> {
        let mut requests = Vec::new();
        for words in [&[&b"MULTI"[..]][..], &[b"DORMOUSE", b"IMPORT", b"DISCARD"], &[b"EXEC"]] {
            request(&mut requests, words);
        }
        let dropped = |error: io::Error| Interruption::dropped(&self.name, &error);
        self.connection.write(&requests).map_err(dropped)?;
        for _ in 0..3 {
            self.connection.reply().map_err(dropped)?.checked().map_err(|text| refusal(&self.name, &text))?;
        }
        Ok(())
    }

    /// Returns the number of keys in all indexes. Index 0 is selected afterwards, as before.
    pub fn keys(&mut self) -> Result<u64, Interruption> {
        let mut keys = 0;
        for index in (0..self.abilities.indexes).rev() {
            for words in [&[b"SELECT", index.to_string().as_bytes()][..], &[b"DBSIZE"]] {
                match self.connection.call(words).map_err(|error| Interruption::dropped(&self.name, &error))? {
                    reply @ Response::Line(':', _) => {
                        keys += reply.integer().and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
                    }
                    reply => drop(reply.checked().map_err(|text| refusal(&self.name, &text))?),
                }
            }
        }
        Ok(keys)
    }

    /// Asks for a change of libraries. The inner error is a refusal that will not pass.
    pub fn change_functions(&mut self, words: &[Vec<u8>]) -> Result<Result<(), String>, Interruption> {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let reply = self.connection.call(&words).map_err(|error| Interruption::dropped(&self.name, &error))?;
        let Err(text) = reply.checked() else { return Ok(Ok(())) };
        // It was deleted before the link dropped.
        let is_gone =
            words.get(1).is_some_and(|kind| kind.eq_ignore_ascii_case(b"DELETE")) && text.contains("Library not found");
        match refusal(&self.name, &text) {
            _ if is_gone => Ok(Ok(())),
            Interruption::Final(_) => Ok(Err(text)),
            passing => Err(passing),
        }
    }

    /// The libraries, as a payload of `FUNCTION DUMP`.
    pub fn functions(&mut self) -> Result<Vec<u8>, Interruption> {
        let reply = self.connection.call(&[b"FUNCTION", b"DUMP"]);
        match reply.map_err(|error| Interruption::dropped(&self.name, &error))?.checked() {
            Ok(Response::Bulk(_, Some(payload))) => Ok(payload),
            Ok(other) => Err(Interruption::Final(format!("{} answers FUNCTION DUMP with {other:?}", self.name))),
            Err(text) => Err(refusal(&self.name, &text)),
        }
    }

    /// Restores libraries from such a payload, by a policy of `FUNCTION RESTORE`. The inner error is a refusal.
    pub fn restore_functions(&mut self, payload: &[u8], policy: &[u8]) -> Result<Result<(), String>, Interruption> {
        self.change_functions(&[&b"FUNCTION"[..], b"RESTORE", payload, policy].map(<[u8]>::to_vec))
    }

    /// Applies a batch and records the place that it leads to; `None` removes the bookkeeping.
    ///
    /// # Errors
    /// When the batch was not applied, or when that is unknown.
    pub fn apply(
        &mut self,
        turn: Bookkeeping,
        batch: &UnitBatch,
        place: Option<&SourcePlace>,
    ) -> Result<Refusals, Interruption> {
        let recorded = place.map(|place| place.to_string().into_bytes());
        let mut head = Vec::new();
        request(&mut head, &[b"MULTI"]);
        let mut before = 0;
        let stages = self.abilities.stages;
        match turn {
            Bookkeeping::Begin { .. } if stages => {
                request(&mut head, &[b"DORMOUSE", b"IMPORT", b"BEGIN"]);
                select(&mut head, STAGED);
                before += 2;
                self.is_staging = true;
            }
            Bookkeeping::Begin { flush: true } => {
                request(&mut head, &[b"FLUSHALL"]);
                before += 1;
            }
            Bookkeeping::Begin { flush: false } | Bookkeeping::None | Bookkeeping::End => {}
        }
        if batch.swaps {
            // A swap would leave the bookkeeping in another index.
            request(&mut head, &[b"DEL", KEY.as_bytes()]);
            before += 1;
        }
        let mut tail = Vec::new();
        let mut after = 1;
        let home = if self.is_staging { STAGED } else { 0 };
        if batch.index != home && !batch.starts.is_empty() {
            select(&mut tail, home);
            after += 1;
        }
        match &recorded {
            Some(text) => request(&mut tail, &[b"SET", KEY.as_bytes(), text]),
            None => request(&mut tail, &[b"DEL", KEY.as_bytes()]),
        }
        if batch.shows {
            let show: [&[u8]; 4] = [b"DORMOUSE", b"IMPORT", b"SHOW", b"REPLACE"];
            request(&mut tail, if self.replaces { &show } else { &show[..3] });
            select(&mut tail, 0);
            after += 2;
            self.is_staging = false;
        }
        if stages && turn == Bookkeeping::End {
            request(&mut tail, &[b"DORMOUSE", b"IMPORT", b"END"]);
            after += 1;
        }
        request(&mut tail, &[b"EXEC"]);
        request(&mut tail, &[b"WATCH", KEY.as_bytes()]);
        request(&mut tail, &[b"GET", KEY.as_bytes()]);
        let pieces = [&head[..], &batch.requests, &tail];
        let counts = Counts { before, batch: batch.starts.len(), after };
        let refusals = if counts.all() <= ANSWERS_BUFFERED {
            let written = pieces.iter().try_for_each(|piece| self.connection.write(piece));
            // An error reply may precede the end of the connection, and says more.
            self.answers(batch, counts).and_then(|answers| {
                written.map_err(|error| Interruption::dropped(&self.name, &error))?;
                Ok(answers)
            })
        } else {
            let mut stream = self.connection.stream();
            std::thread::scope(|scope| {
                scope.spawn(move || pieces.iter().try_for_each(|piece| stream.write_all(piece)));
                let answers = self.answers(batch, counts);
                if answers.is_err() {
                    // This thread reads no more, so the writing thread must not wait.
                    self.connection.close();
                }
                answers
            })
        }?;
        if self.watched()? != recorded {
            return Err(Interruption::overtaken(&self.name));
        }
        self.recorded = recorded;
        Ok(refusals)
    }

    /// Whether the key, as last seen, holds this place.
    pub fn has_recorded(&self, place: &SourcePlace) -> bool {
        self.recorded.as_deref() == Some(place.to_string().as_bytes())
    }

    pub fn close(&self) {
        self.connection.close();
    }

    /// Reads the answers to MULTI, to the queued requests, and to EXEC.
    fn answers(&mut self, batch: &UnitBatch, counts: Counts) -> Result<Refusals, Interruption> {
        let name = self.name.clone();
        let dropped = |error: io::Error| Interruption::dropped(&name, &error);
        let what = |at: usize| match at.checked_sub(counts.before) {
            Some(at) if at < counts.batch => describe(batch.requests.get(batch.starts[at]..).unwrap_or_default()),
            _ => "its bookkeeping".to_string(),
        };
        self.connection.reply().map_err(dropped)?.checked().map_err(|text| refusal(&name, &text))?;
        let mut complaint = None;
        for at in 0..counts.all() {
            if let Err(text) = self.connection.reply().map_err(dropped)?.checked() {
                complaint.get_or_insert((at, text));
            }
        }
        match self.connection.array().map_err(dropped)? {
            Ok(count) if count == counts.all() as u64 => {}
            Err(reply) if reply.is_null() => return Err(Interruption::overtaken(&name)),
            Err(Response::Line('-', text)) => {
                return Err(match complaint {
                    Some((at, cause)) => refusal(&format!("{name}, asked for {},", what(at)), &cause),
                    None => refusal(&name, text.trim_start_matches("EXECABORT Transaction discarded because of: ")),
                });
            }
            Ok(_) | Err(_) => {
                return Err(Interruption::Final(format!("{name} answers EXEC with an unexpected reply")));
            }
        }
        let mut refusals = Refusals::default();
        for at in 0..counts.all() {
            if let Err(text) = self.connection.reply().map_err(dropped)?.checked() {
                if at < counts.before || at >= counts.before + counts.batch {
                    return Err(refusal(&name, &text));
                }
                let what = what(at);
                refusals.count += 1;
                refusals.restores += u64::from(what.split(' ').next() == Some("RESTORE"));
                if refusals.kept.len() < ERRORS_KEPT {
                    refusals.kept.push((what, text));
                }
            }
        }
        Ok(refusals)
    }

    /// Reads the answers to WATCH and GET.
    fn watched(&mut self) -> Result<Option<Vec<u8>>, Interruption> {
        let dropped = |error: io::Error| Interruption::dropped(&self.name, &error);
        self.connection.reply().map_err(dropped)?.checked().map_err(|text| refusal(&self.name, &text))?;
        match self.connection.reply().map_err(dropped)?.checked().map_err(|text| refusal(&self.name, &text))? {
            Response::Bulk(_, text) => Ok(text),
            _ => Ok(None),
        }
    }
}

/// Numbers of requests in a transaction: ours, the batch's, ours.
#[derive(Clone, Copy)]
struct Counts {
    before: usize,
    batch: usize,
    after: usize,
}

impl Counts {
    fn all(self) -> usize {
        self.before + self.batch + self.after
    }
}

fn commands(connection: &mut Connection) -> io::Result<HashSet<String>> {
    let mut reply = connection.call(&[b"COMMAND", b"LIST"])?;
    if reply.is_error() {
        // Redis 6 cannot list the names alone.
        reply = connection.call(&[b"COMMAND"])?;
    }
    let name = |item: &Response| Some(String::from_utf8_lossy(item.bytes()?).to_uppercase());
    let names = reply.items().unwrap_or_default().iter().filter_map(|item| match item.items() {
        Some(row) => row.first().and_then(name),
        None => name(item),
    });
    Ok(names.collect())
}

/// Classifies an error of the target. Some pass by themselves.
fn refusal(name: &str, text: &str) -> Interruption {
    let kind = text.split(' ').next().unwrap_or_default();
    let passes = ["LOADING", "BUSY", "TRYAGAIN", "MISCONF", "MASTERDOWN", "CLUSTERDOWN"].contains(&kind)
        || text.to_ascii_lowercase().contains("try again");
    if passes {
        return Interruption::Dropped(format!("{name} answers: {text}"));
    }
    let advice = match kind {
        "OOM" => {
            "; give it more memory (CONFIG SET maxmemory), which must hold the old data and the new until the copy is complete, and start the import again"
        }
        "NOAUTH" | "WRONGPASS" => "; give the token in the URL: redis://:TOKEN@host:port",
        _ if text.contains("SHOW REPLACE") => {
            "; they were written during the copy, so the copy was dropped. --replace deletes existing data"
        }
        _ => "",
    };
    Interruption::Final(format!("{name} answers: {text}{advice}"))
}

/// Returns the first words of a request, for a message.
fn describe(bytes: &[u8]) -> String {
    let mut rest = bytes;
    let mut line = || {
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let (line, behind) = rest.split_at(end + 1);
        rest = behind;
        Some(line)
    };
    let words: i64 =
        line().map_or(0, |line| String::from_utf8_lossy(line).trim_start_matches('*').trim().parse().unwrap_or(0));
    let mut text = String::new();
    for at in 0..words.clamp(0, 2) {
        line();
        let Some(word) = line() else { break };
        let word = word.strip_suffix(b"\r\n").unwrap_or(word);
        if at > 0 {
            text.push(' ');
        }
        text.push_str(&word[..word.len().min(80)].escape_ascii().to_string());
    }
    if words > 2 {
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_described_by_its_first_words() {
        let mut bytes = Vec::new();
        request(&mut bytes, &[b"RESTORE", b"a\xff", b"0", b"..."]);
        request(&mut bytes, &[b"DEL", b"x"]);
        assert_eq!(describe(&bytes), "RESTORE a\\xff ...");
        assert_eq!(describe(b"*1\r\n$8\r\nFLUSHALL\r\n"), "FLUSHALL");
        assert_eq!(describe(b"*9\r\n$"), " ...");
        assert_eq!(describe(b""), "");
    }

    #[test]
    fn errors_that_pass_are_told_from_those_that_do_not() {
        assert!(matches!(refusal("t", "LOADING Redis is loading the dataset in memory"), Interruption::Dropped(_)));
        assert!(matches!(refusal("t", "ERR the log is behind, try again"), Interruption::Dropped(_)));
        assert!(
            matches!(refusal("t", "OOM command not allowed"), Interruption::Final(text) if text.contains("maxmemory"))
        );
        assert!(matches!(refusal("t", "ERR syntax error"), Interruption::Final(_)));
    }
}
