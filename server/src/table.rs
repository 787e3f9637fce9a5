//! All commands, found by name: those over the keyspace and those that concern the connection or the server.
//!
//! The look-up is on the path of every command: the ends of the name are loaded as one 128-bit word, folded to one case
//! and hashed by a multiplication into a table that is sparse enough to hit at the first try. Clients write names in
//! upper or lower case, so the word itself is compared with both before anything longer is.

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::{self, Access, Category, Command, Family, Flags, Row, Run};
use dormouse_shard::error::Error;
use dormouse_shard::execution::budget;
use dormouse_shard::keyspace::Left;
use futures::future::{BoxFuture, LocalBoxFuture};

use crate::session::Session;

/// Functions of a session command that does not wait, and of one that may.
pub type InTransaction = fn(&mut Session, &mut Reply, Request<'_>) -> Result<(), Error>;
pub type Patient = fn(&mut Session, Request<'_>) -> Result<BoxFuture<'static, Answer>, Error>;

/// The way to run a command that concerns the connection or the server.
#[derive(Clone, Copy)]
pub enum SessionRun {
    Now(InTransaction),
    /// Like `Now`, but it may take more than a turn.
    Weighed(Weighed),
    /// Like `Now`, but it may lead to another database.
    LogIn(LogIn),
    /// It waits for something. Not allowed in a transaction, whose replies would wait for it.
    Later(Patient),
    /// It waits for something, even in a transaction.
    Waits(InTurns),
    /// It may wait for something, but not in a transaction.
    Either(InTransaction, Patient),
    Exec,
    Watch,
    /// It runs the command that stands behind it.
    Once,
    /// In a transaction it reports the keyspace as of its turn.
    Info,
    /// A command over the keyspace with a row in the server's table, which resolves it.
    Keyspace(Run),
}

/// Runs a request in several turns, between which others have theirs, or waits.
pub type InTurns = for<'a> fn(&'a mut Session, &'a mut Reply, Request<'a>) -> LocalBoxFuture<'a, Result<(), Error>>;

/// A command whose work grows with its arguments, or with data that its database's clients have left.
#[derive(Clone, Copy)]
pub struct Weighed {
    pub run: InTransaction,
    /// Returns the cost of a request beyond its words and bytes, in the unit of [`dormouse_shard::execution::budget`].
    pub weigh: fn(&Session, Request<'_>) -> usize,
    /// Runs a request that takes more than a turn.
    pub in_turns: InTurns,
}

impl Weighed {
    /// Returns the cost of a request.
    pub fn cost(&self, session: &Session, request: Request<'_>) -> usize {
        budget::of_request(request).saturating_add((self.weigh)(session, request))
    }
}

/// A command that logs in.
#[derive(Clone, Copy)]
pub struct LogIn {
    pub run: InTransaction,
    /// Whether a request would lead to another database.
    pub leaves: fn(&Session, Request<'_>) -> bool,
    /// Whether a request may show a token.
    pub shows_token: fn(Request<'_>) -> bool,
    /// The name and the secret that a request shows.
    pub shown: for<'a> fn(Request<'a>) -> Option<Credentials<'a>>,
}

/// A name, which may be empty, and a secret.
pub type Credentials<'a> = (&'a [u8], &'a [u8]);

/// The answer of a command that has waited.
pub struct Answer {
    pub write: Box<dyn FnOnce(&mut Reply) + Send>,
    /// Its log entry, and the log position that must be durable before the reply is sent.
    pub left: Left,
}

impl std::fmt::Debug for SessionRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionRun")
    }
}

/// The way to run a command.
#[derive(Debug, Clone, Copy)]
pub enum Handler {
    Keyspace(Run),
    Session(SessionRun),
    /// It has subcommands only.
    Container,
}

/// Which requests of a command are billed. All are metered.
///
/// The rule is the same for every command, so that a new one needs no decision:
///
/// 1. Never: commands about the connection, the server or the cluster that touch no key, such as `PING`, `AUTH`,
///    `CLIENT`, `CONFIG`, `INFO`, `SLOWLOG` and `DORMOUSE`.
/// 2. Unless the reply is empty: commands that take what they return (`LPOP`, `LMOVE`, `ZPOPMIN`, `SPOP`, `GETDEL`), and
///    those that may wait for something (`BLPOP`, `XREAD`). A null or an empty array is an *empty poll*: the client has
///    looked for something, and there was nothing.
/// 3. Always: everything else. So are the commands of a transaction, whose replies come together with that of `EXEC`, and
///    a request behind `ONCE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Billing {
    Always,
    UnlessEmpty,
    Never,
}

impl Billing {
    fn of(row: &Row, group: &str, action: Handler) -> Self {
        const TAKES: Access = Access::RW.union(Access::ACCESS).union(Access::DELETE);
        let is_of_engine = matches!(action, Handler::Keyspace(_));
        let takes = row.keys.first().is_some_and(|spec| spec.access.contains(TAKES));
        match group {
            "connection" | "server" | "cluster" if !is_of_engine => Self::Never,
            _ if is_of_engine && (takes || row.flags.contains(Flags::BLOCKING)) => Self::UnlessEmpty,
            _ => Self::Always,
        }
    }
}

/// Whether a reply is a null or an empty array.
fn is_empty(reply: &[u8]) -> bool {
    matches!(reply, b"$-1\r\n" | b"*-1\r\n" | b"_\r\n" | b"*0\r\n")
}

#[derive(Debug)]
pub struct CommandEntry {
    /// Its place in the meters.
    pub id: usize,
    pub row: &'static Row,
    /// Lower case, with its container's: `client|list`.
    pub name: Box<str>,
    pub group: &'static str,
    pub category: Category,
    pub action: Handler,
    /// Whether each request stands for itself, so it may come over HTTP.
    pub is_stateless: bool,
    pub billing: Billing,
    /// Indexes into the table.
    pub subcommands: Vec<usize>,
}

impl CommandEntry {
    /// Whether it is allowed before a client has shown a token, and may lead to another database.
    pub fn logs_in(&self) -> bool {
        self.row.flags.contains(Flags::NO_AUTH)
    }

    /// Whether it begins a transaction.
    pub fn begins_transaction(&self) -> bool {
        const ALONE: Flags = Flags::AT_ONCE.union(Flags::NO_MULTI);
        self.row.flags.contains(ALONE) && !self.row.flags.contains(Flags::WRITE) && self.row.keys.is_empty()
    }

    /// Whether a request with this reply is billed.
    #[inline]
    pub fn is_billed(&self, reply: &[u8]) -> bool {
        match self.billing {
            Billing::Always => true,
            Billing::UnlessEmpty => !is_empty(reply),
            Billing::Never => false,
        }
    }
}

#[derive(Debug)]
pub struct CommandTable {
    entries: Vec<CommandEntry>,
    /// By hash of the name.
    buckets: Box<[Bucket]>,
}

/// A slot for one command. An empty bucket has words that no name has.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    upper: u128,
    lower: u128,
    len: u8,
    id: u16,
}

const EMPTY: Bucket = Bucket { upper: 0, lower: 0, len: 0, id: 0 };

const BUCKETS: usize = 2048;

impl CommandTable {
    /// Creates the table of the engine's commands and the server's own.
    pub fn new(own: &'static [Family<SessionRun>]) -> Self {
        let mut table = Self { entries: Vec::new(), buckets: vec![EMPTY; BUCKETS].into() };
        for family in commands::FAMILIES {
            table.add(family, Handler::Keyspace);
        }
        for family in own {
            table.add(family, |run| match run {
                SessionRun::Keyspace(run) => Handler::Keyspace(run),
                run => Handler::Session(run),
            });
        }
        table
    }

    fn add<R: Copy>(&mut self, family: &'static Family<R>, action: fn(R) -> Handler) {
        for command in family.commands {
            let known = self.by_name(command.row.name.as_bytes()).map(|entry| entry.id);
            if let (Some(id), None) = (known, command.run) {
                // The engine has begun this container.
                self.add_subcommands(family, command, id, action);
                continue;
            }
            let id = self.push(family, command, None, action);
            let (upper, name) = (command.row.name, command.row.name.to_ascii_lowercase());
            let found = Bucket {
                upper: word(upper.as_bytes()),
                lower: word(name.as_bytes()),
                len: upper.len() as u8,
                id: id as u16,
            };
            let mut at = bucket(found.upper);
            while self.buckets[at].len != 0 {
                let other = self.buckets[at];
                assert!(
                    (other.upper, other.len) != (found.upper, found.len),
                    "command {upper} stands twice in the table"
                );
                at = (at + 1) % BUCKETS;
            }
            self.buckets[at] = found;
            self.add_subcommands(family, command, id, action);
        }
    }

    fn add_subcommands<R: Copy>(
        &mut self,
        family: &'static Family<R>,
        container: &'static Command<R>,
        id: usize,
        action: fn(R) -> Handler,
    ) {
        for sub in container.subcommands {
            let sub = self.push(family, sub, Some(id), action);
            self.entries[id].subcommands.push(sub);
        }
    }

    fn push<R: Copy>(
        &mut self,
        family: &Family<R>,
        command: &'static Command<R>,
        parent: Option<usize>,
        action: fn(R) -> Handler,
    ) -> usize {
        let row = &command.row;
        let name = match parent {
            Some(parent) => format!("{}|{}", self.entries[parent].name, row.name.to_ascii_lowercase()),
            None => row.name.to_ascii_lowercase(),
        };
        let of_container = parent.and_then(|parent| self.entries[parent].row.is_stateless);
        let seems = || seems_stateless(row, family.category | row.category);
        let is_stateless = row.is_stateless.or(of_container).unwrap_or_else(seems);
        let action = command.run.map_or(Handler::Container, action);
        self.entries.push(CommandEntry {
            id: self.entries.len(),
            row,
            name: name.into(),
            group: family.group,
            category: family.category | row.category,
            action,
            is_stateless,
            billing: Billing::of(row, family.group, action),
            subcommands: Vec::new(),
        });
        self.entries.len() - 1
    }

    pub fn entries(&self) -> &[CommandEntry] {
        &self.entries
    }

    /// Commands without a container, in the table's order.
    pub fn commands(&self) -> impl Iterator<Item = &CommandEntry> {
        self.entries.iter().filter(|entry| !entry.name.contains('|'))
    }

    pub fn get(&self, id: usize) -> &CommandEntry {
        &self.entries[id]
    }

    /// Finds a command by name in any case, without resolving containers.
    #[inline]
    pub fn by_name(&self, name: &[u8]) -> Option<&CommandEntry> {
        let wanted = word(name);
        let mut at = bucket(wanted);
        loop {
            let found = &self.buckets[at];
            if usize::from(found.len) == name.len()
                && name.len() <= 16
                && (wanted == found.upper || wanted == found.lower)
            {
                return (!name.is_empty()).then(|| &self.entries[usize::from(found.id)]);
            }
            if found.len == 0 {
                return None;
            }
            // Mixed case, or another name.
            let entry = &self.entries[usize::from(found.id)];
            if entry.row.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(entry);
            }
            at = (at + 1) % BUCKETS;
        }
    }

    /// Finds a command by a full name such as `client|list` in any case.
    pub fn by_full_name(&self, name: &[u8]) -> Option<&CommandEntry> {
        match name.iter().position(|&byte| byte == b'|') {
            None => self.by_name(name),
            Some(at) => self.subcommand(self.by_name(&name[..at])?, &name[at + 1..]),
        }
    }

    pub fn subcommand(&self, container: &CommandEntry, name: &[u8]) -> Option<&CommandEntry> {
        let mut subcommands = container.subcommands.iter().map(|&id| &self.entries[id]);
        subcommands.find(|entry| entry.row.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Returns the command or subcommand that a request names, whatever its arguments.
    pub fn named(&self, request: Request<'_>) -> Option<&CommandEntry> {
        let entry = self.by_name(request.arg(0))?;
        if entry.subcommands.is_empty() { Some(entry) } else { self.subcommand(entry, request.get(1)?) }
    }

    /// Returns the command of a request, or the error text: unknown command or subcommand, or wrong arity.
    pub fn resolve(&self, request: Request<'_>) -> Result<&CommandEntry, Vec<u8>> {
        let entry = self.by_name(request.arg(0)).ok_or_else(|| unknown_command(request))?;
        let entry = match (entry.subcommands.is_empty(), request.get(1)) {
            (true, _) => entry,
            (false, None) if matches!(entry.action, Handler::Container) => {
                return Err(wrong_arity(&entry.name).into_bytes());
            }
            (false, None) => entry,
            (false, Some(sub)) => match self.subcommand(entry, sub) {
                Some(entry) => entry,
                None => {
                    let mut text = b"ERR unknown subcommand '".to_vec();
                    text.extend_from_slice(shown(sub, 128));
                    text.extend_from_slice(format!("'. Try {} HELP.", entry.row.name).as_bytes());
                    return Err(text);
                }
            },
        };
        if entry.row.arity.accepts(request.len()) { Ok(entry) } else { Err(wrong_arity(&entry.name).into_bytes()) }
    }
}

/// Whether the flags and the category of a command say that each request stands for itself: see [`Row::is_stateless`].
fn seems_stateless(row: &Row, category: Category) -> bool {
    let listens = row.flags.contains(Flags::PUBSUB | Flags::WHILE_SUBSCRIBED);
    let waits = row.flags.contains(Flags::BLOCKING);
    !listens && !waits && !category.intersects(Category::CONNECTION | Category::TRANSACTION)
}

pub fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

fn unknown_command(request: Request<'_>) -> Vec<u8> {
    let mut args = Vec::new();
    for arg in request.iter().skip(1) {
        if args.len() >= 128 {
            break;
        }
        let room = 128 - args.len();
        args.push(b'\'');
        args.extend_from_slice(shown(arg, room));
        args.extend_from_slice(b"' ");
    }
    let name = shown(request.arg(0), 128);
    [b"ERR unknown command '", name, b"', with args beginning with: ", &args].concat()
}

/// The part of an argument that an error text shows: up to a NUL, and not too long.
fn shown(bytes: &[u8], room: usize) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end.min(room)]
}

/// The first and last bytes of a name. They are the whole name if it has at most 16.
#[inline]
fn word(name: &[u8]) -> u128 {
    let wide = |bytes: &[u8; 8]| u128::from(u64::from_le_bytes(*bytes));
    if let (Some(first), Some(last)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        return wide(first) | wide(last) << 64;
    }
    let narrow = |bytes: &[u8; 4]| u128::from(u32::from_le_bytes(*bytes));
    if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        return narrow(first) | narrow(last) << 32;
    }
    match *name {
        [first, _, last] | [first, last] => u128::from(first) | u128::from(name[1]) << 8 | u128::from(last) << 16,
        [only] => u128::from(only),
        _ => 0,
    }
}

/// Returns the bucket for a name with this word, in any case.
#[inline]
fn bucket(word: u128) -> usize {
    let folded = word | 0x2020_2020_2020_2020_2020_2020_2020_2020;
    let mixed = (folded as u64).rotate_left(20) ^ (folded >> 64) as u64;
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::TABLE;

    #[test]
    fn one_command_begins_a_transaction() {
        let begin = TABLE.commands().filter(|entry| entry.begins_transaction());
        assert_eq!(begin.map(|entry| &*entry.name).collect::<Vec<_>>(), ["multi"]);
    }

    #[test]
    fn every_command_is_found_in_every_case() {
        for entry in TABLE.commands() {
            let name = entry.row.name;
            let mixed: String =
                name.char_indices().map(|(i, c)| if i % 2 == 0 { c.to_ascii_lowercase() } else { c }).collect();
            for spelled in [name, &name.to_ascii_lowercase(), &mixed] {
                assert_eq!(TABLE.by_name(spelled.as_bytes()).map(|found| found.id), Some(entry.id), "{spelled}");
            }
            let longer = format!("{name}X");
            assert!(TABLE.by_name(longer.as_bytes()).is_none_or(|found| found.row.name == longer), "{longer}");
        }
    }

    /// A transaction has to be able to run every command that Redis queues. Our own commands may be refused.
    #[test]
    fn only_what_redis_refuses_is_refused_in_a_transaction() {
        for entry in TABLE.entries().iter().filter(|entry| !entry.name.starts_with("dormouse")) {
            let waits = matches!(entry.action, Handler::Session(SessionRun::Later(_)));
            assert!(!waits || entry.row.flags.contains(Flags::NO_MULTI), "{} cannot be queued", entry.name);
        }
    }

    #[test]
    fn empty_polls_and_the_connection_are_not_billed() {
        let billing = |name: &str| TABLE.by_full_name(name.as_bytes()).map(|entry| entry.billing);
        for name in ["PING", "HELLO", "AUTH", "CLIENT|INFO", "INFO", "CONFIG|GET", "COMMAND", "SLOWLOG|GET", "MONITOR"]
        {
            assert_eq!(billing(name), Some(Billing::Never), "{name}");
        }
        let is_of_engine = |entry: &CommandEntry| matches!(entry.action, Handler::Keyspace(_));
        let dormouse = TABLE.entries().iter().filter(|entry| entry.name.starts_with("dormouse"));
        for entry in dormouse.filter(|entry| !is_of_engine(entry)) {
            assert_eq!(entry.billing, Billing::Never, "{}", entry.name);
        }
        for name in [
            "LPOP",
            "RPOP",
            "LMOVE",
            "LMPOP",
            "RPOPLPUSH",
            "BLPOP",
            "BLMOVE",
            "BLMPOP",
            "BRPOPLPUSH",
            "LMOVEM",
            "BLMOVEM",
            "ZPOPMIN",
            "ZMPOP",
        ]
        .into_iter()
        .chain(["BZPOPMAX", "BZMPOP", "SPOP", "GETDEL", "XREAD", "XREADGROUP"])
        {
            assert_eq!(billing(name), Some(Billing::UnlessEmpty), "{name}");
        }
        for name in
            ["GET", "SET", "LRANGE", "XRANGE", "EVAL", "MULTI", "EXEC", "ONCE", "PUBLISH", "SUBSCRIBE", "FLUSHALL"]
                .into_iter()
                .chain(["DBSIZE", "MEMORY|USAGE", "KEYS", "SCAN"])
        {
            assert_eq!(billing(name), Some(Billing::Always), "{name}");
        }
    }

    #[test]
    fn what_is_no_command_is_not_found() {
        for name in ["", "G", "GE", "GE\x54x", "GE\x00", "\x07ET", "a name much longer than any command has", "SETT"] {
            assert!(TABLE.by_name(name.as_bytes()).is_none(), "{name:?}");
        }
    }
}
