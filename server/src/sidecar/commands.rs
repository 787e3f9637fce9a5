//! The way of a request through the sidecar, by the row of its command.

use dormouse_protocol::Request;
use dormouse_shard::commands::{Category, Flags, Row};
use smallvec::SmallVec;

use crate::commands::TABLE;
use crate::table::CommandEntry;

/// The way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestRoute {
    /// It stands for itself: any connection will do.
    Shared,
    /// It needs, or changes, the state of its connection, or waits there.
    Own,
    /// It begins a transaction, which any connection will do for if the client has sent the whole of it.
    Transaction,
    /// It answers for the connection of the client, which ends at the sidecar.
    Here(Local),
    /// It would answer for what other clients have done.
    Refused,
}

/// A command that the sidecar answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    Hello,
    Authenticate,
    Select,
    SetName,
    Name,
    /// The name and version of a library.
    Describe,
    Reset,
    Quit,
}

/// Effect of a request on the copies of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// Its reply depends on its one key alone, which stands at 1.
    Reads,
    /// It changes its keys.
    Changes,
    /// It may change any key.
    ChangesAll,
}

/// Facts about a request that goes to the upstream server.
#[derive(Debug)]
pub struct Known {
    pub effect: Effect,
    /// The key that it reads, or those that it changes.
    pub keys: SmallVec<[Box<[u8]>; 1]>,
    /// Whether it may be sent twice.
    pub only_reads: bool,
    /// Whether it has to end the transaction that is open.
    pub ends_transaction: bool,
}

impl Known {
    pub fn of(request: Request<'_>) -> Self {
        let effect = effect(request);
        let entry = named(request);
        let is_read =
            |entry: &CommandEntry| entry.row.flags.contains(Flags::READ) && !entry.row.flags.contains(Flags::WRITE);
        let keys = match (effect, entry) {
            (Effect::Reads | Effect::Changes, Some(entry)) => {
                let (row, inner) = innermost(entry, request);
                row.key_indexes(inner).filter_map(|at| inner.get(at).map(Box::from)).collect()
            }
            _ => SmallVec::new(),
        };
        Self { effect, keys, only_reads: entry.is_some_and(is_read), ends_transaction: false }
    }
}

/// The command of a request, and the request of it: what stands behind `ONCE`.
fn innermost<'r>(entry: &'static CommandEntry, request: Request<'r>) -> (&'static Row, Request<'r>) {
    let inner = request.skip(ONCE_WORDS);
    match named(inner) {
        Some(behind) if &*entry.name == "once" => (behind.row, inner),
        _ => (entry.row, request),
    }
}

/// The words in front of the command in `ONCE key ttl COMMAND`.
pub const ONCE_WORDS: usize = 3;

fn named(request: Request<'_>) -> Option<&'static CommandEntry> {
    if request.is_empty() { None } else { TABLE.named(request) }
}

pub fn route(request: Request<'_>) -> RequestRoute {
    let Some(entry) = named(request) else { return RequestRoute::Own };
    match &*entry.name {
        "hello" => RequestRoute::Here(Local::Hello),
        "auth" => RequestRoute::Here(Local::Authenticate),
        "select" => RequestRoute::Here(Local::Select),
        "client|setname" => RequestRoute::Here(Local::SetName),
        "client|getname" => RequestRoute::Here(Local::Name),
        "client|setinfo" => RequestRoute::Here(Local::Describe),
        "reset" => RequestRoute::Here(Local::Reset),
        "quit" => RequestRoute::Here(Local::Quit),
        "once" => route(request.skip(ONCE_WORDS)),
        "multi" => RequestRoute::Transaction,
        "wait" | "waitaof" => RequestRoute::Refused,
        // Their replies never end.
        "monitor" | "sync" | "psync" => RequestRoute::Own,
        _ if waits(entry, request) => RequestRoute::Own,
        _ if entry.is_stateless => RequestRoute::Shared,
        _ => RequestRoute::Own,
    }
}

/// Whether a request may wait: some commands do only if they are asked to.
fn waits(entry: &CommandEntry, request: Request<'_>) -> bool {
    entry.row.flags.contains(Flags::BLOCKING) && request.iter().any(|word| word.eq_ignore_ascii_case(b"BLOCK"))
}

/// Whether a request ends the transaction that was begun before it.
pub fn ends_transaction(request: Request<'_>) -> bool {
    matches!(named(request).map(|entry| &*entry.name), Some("exec" | "discard"))
}

pub fn effect(request: Request<'_>) -> Effect {
    match named(request) {
        None => Effect::ChangesAll,
        Some(entry) if &*entry.name == "once" => match effect(request.skip(ONCE_WORDS)) {
            Effect::Reads => Effect::None,
            effect => effect,
        },
        Some(entry) => effect_of(entry, request),
    }
}

fn effect_of(entry: &CommandEntry, request: Request<'_>) -> Effect {
    let row = entry.row;
    let is_script = entry.category.contains(Category::SCRIPTING) && row.has_keys();
    if row.flags.contains(Flags::WRITE) || is_script && !row.flags.contains(Flags::READ) {
        return if row.first_key(request).is_some() { Effect::Changes } else { Effect::ChangesAll };
    }
    // An order that varies is as good in a copy.
    let varies = || row.tips.contains(&"nondeterministic_output");
    let has_one_key = || row.first_key(request) == Some(1) && row.key_indexes(request).count() == 1;
    let is_fetch = row.flags.contains(Flags::READ)
        && !is_script
        && row.strays.is_none()
        && row.unnamed.is_none()
        && !varies()
        && has_one_key();
    if is_fetch { Effect::Reads } else { Effect::None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dormouse_protocol::{Parsed, Parser, RequestLimits};

    fn with<T>(line: &str, look: impl FnOnce(Request<'_>) -> T) -> T {
        let line = format!("{line}\r\n");
        let mut parser = Parser::new(RequestLimits::default());
        match parser.parse(line.as_bytes()) {
            Ok(Parsed::Complete { request, .. }) => look(request),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn routes() {
        for (line, expected) in [
            ("GET a", RequestRoute::Shared),
            ("SET a 1", RequestRoute::Shared),
            ("PING", RequestRoute::Shared),
            ("INFO", RequestRoute::Shared),
            ("PUBLISH c m", RequestRoute::Shared),
            ("EVAL x 0", RequestRoute::Shared),
            ("ONCE k 1000 INCR a", RequestRoute::Shared),
            ("SCAN 0", RequestRoute::Shared),
            ("hello 3", RequestRoute::Here(Local::Hello)),
            ("CLIENT SETINFO LIB-NAME x", RequestRoute::Here(Local::Describe)),
            ("MULTI", RequestRoute::Transaction),
            ("EXEC", RequestRoute::Own),
            ("WATCH a", RequestRoute::Own),
            ("BLPOP a 0", RequestRoute::Own),
            ("XREAD BLOCK 0 STREAMS a $", RequestRoute::Own),
            ("XREAD STREAMS a 0", RequestRoute::Shared),
            ("SUBSCRIBE c", RequestRoute::Own),
            ("MONITOR", RequestRoute::Own),
            ("CLIENT TRACKING ON", RequestRoute::Own),
            ("CLIENT REPLY OFF", RequestRoute::Own),
            ("JSON.GET a", RequestRoute::Shared),
            ("FT.SEARCH a x", RequestRoute::Own),
            ("WAIT 1 0", RequestRoute::Refused),
        ] {
            assert_eq!(with(line, route), expected, "{line}");
        }
    }

    #[test]
    fn effects() {
        for (line, expected) in [
            ("GET a", Effect::Reads),
            ("HGETALL a", Effect::Reads),
            ("ZRANGE a 0 -1", Effect::Reads),
            ("EXISTS a", Effect::Reads),
            ("EXISTS a b", Effect::None),
            ("TTL a", Effect::None),
            ("HTTL a FIELDS 1 f", Effect::None),
            ("HPTTL a FIELDS 1 f", Effect::None),
            ("SRANDMEMBER a", Effect::None),
            ("MGET a b", Effect::None),
            ("SORT_RO a", Effect::None),
            ("PING", Effect::None),
            ("PUBLISH c m", Effect::None),
            ("INFO", Effect::None),
            ("SCRIPT LOAD x", Effect::None),
            ("SET a 1", Effect::Changes),
            ("MSET a 1 b 2", Effect::Changes),
            ("EVAL x 1 a", Effect::Changes),
            ("EVAL x 0", Effect::ChangesAll),
            ("EVAL_RO x 1 a", Effect::None),
            ("FLUSHALL", Effect::ChangesAll),
            ("SWAPDB 0 1", Effect::ChangesAll),
            ("ONCE k 1000 INCR a", Effect::Changes),
            ("ONCE k 1000 GET a", Effect::None),
            ("JSON.SET a $ 1", Effect::Changes),
            ("FT.ADD a", Effect::ChangesAll),
        ] {
            assert_eq!(with(line, effect), expected, "{line}");
        }
    }
}
