//! All commands: those over the keyspace and those that concern the connection or the server, found by name.
//!
//! The look-up is on the path of every command: up to 16 bytes of the name are folded to one case in a 128-bit word, which
//! is hashed by a multiplication into a table that is sparse enough to be right at the first try.

use std::sync::LazyLock;

use dormouse_protocol::Request;
use dormouse_shard::commands::{self, Category, Command, Family, Flags, Row, Run};

use crate::session::SessionRun;

/// Who runs a command.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    Keyspace(Run),
    Session(SessionRun),
    /// It has subcommands only.
    Container,
}

#[derive(Debug)]
pub struct Entry {
    /// Its place in the meters.
    pub id: usize,
    pub row: &'static Row,
    /// Lower case, with its container's: `client|list`.
    pub name: Box<str>,
    pub group: &'static str,
    pub category: Category,
    pub action: Action,
    /// Indexes into the table.
    pub subcommands: Vec<usize>,
    /// Its time is taken by itself, not shared with its batch: it may be slow.
    pub timed: bool,
}

#[derive(Debug)]
pub struct Table {
    entries: Vec<Entry>,
    /// Folded names with the index of their entry, by hash; empty where the name is 0.
    buckets: Box<[(u128, u16)]>,
}

pub static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

const BUCKETS: usize = 2048;

impl Table {
    fn new() -> Self {
        let mut table = Self { entries: Vec::new(), buckets: vec![(0, 0); BUCKETS].into() };
        for family in commands::FAMILIES {
            table.add(family, Action::Keyspace);
        }
        for family in crate::commands::FAMILIES {
            table.add(family, Action::Session);
        }
        table
    }

    fn add<R: Copy>(&mut self, family: &'static Family<R>, action: fn(R) -> Action) {
        for command in family.commands {
            let id = self.push(family, command, None, action);
            let folded = fold(command.row.name.as_bytes());
            let mut at = bucket(folded);
            while self.buckets[at].0 != 0 {
                assert_ne!(self.buckets[at].0, folded, "command {} stands twice in the table", command.row.name);
                at = (at + 1) % BUCKETS;
            }
            self.buckets[at] = (folded, id as u16);
            for sub in command.subcommands {
                let sub = self.push(family, sub, Some(id), action);
                self.entries[id].subcommands.push(sub);
            }
        }
    }

    fn push<R: Copy>(
        &mut self,
        family: &Family<R>,
        command: &'static Command<R>,
        parent: Option<usize>,
        action: fn(R) -> Action,
    ) -> usize {
        let row = &command.row;
        let name = match parent {
            Some(parent) => format!("{}|{}", self.entries[parent].name, row.name.to_ascii_lowercase()),
            None => row.name.to_ascii_lowercase(),
        };
        let timed = !row.flags.contains(Flags::FAST) && !row.complexity.starts_with("O(1)");
        self.entries.push(Entry {
            id: self.entries.len(),
            row,
            name: name.into(),
            group: family.group,
            category: family.category | row.category,
            action: command.run.map_or(Action::Container, action),
            subcommands: Vec::new(),
            timed,
        });
        self.entries.len() - 1
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Commands without a container, in the table's order.
    pub fn commands(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.name.contains('|'))
    }

    pub fn get(&self, id: usize) -> &Entry {
        &self.entries[id]
    }

    /// By name in any case, containers unresolved.
    pub fn by_name(&self, name: &[u8]) -> Option<&Entry> {
        let folded = fold(name);
        let mut at = bucket(folded);
        loop {
            let (found, id) = self.buckets[at];
            if found == folded {
                let entry = &self.entries[usize::from(id)];
                return entry.row.name.as_bytes().eq_ignore_ascii_case(name).then_some(entry);
            }
            if found == 0 {
                return None;
            }
            at = (at + 1) % BUCKETS;
        }
    }

    /// By a name such as `client|list` in any case.
    pub fn by_full_name(&self, name: &[u8]) -> Option<&Entry> {
        match name.iter().position(|&byte| byte == b'|') {
            None => self.by_name(name),
            Some(at) => self.subcommand(self.by_name(&name[..at])?, &name[at + 1..]),
        }
    }

    pub fn subcommand(&self, container: &Entry, name: &[u8]) -> Option<&Entry> {
        let mut subcommands = container.subcommands.iter().map(|&id| &self.entries[id]);
        subcommands.find(|entry| entry.row.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The command of a request, or the text of the error: unknown command, subcommand or wrong arity.
    pub fn resolve(&self, request: Request<'_>) -> Result<&Entry, Vec<u8>> {
        let entry = self.by_name(request.arg(0)).ok_or_else(|| unknown_command(request))?;
        let entry = match (entry.subcommands.is_empty(), request.get(1)) {
            (true, _) => entry,
            (false, None) if matches!(entry.action, Action::Container) => {
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

/// As much of an argument as an error text shows: up to a NUL, and not too long.
fn shown(bytes: &[u8], room: usize) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end.min(room)]
}

/// Up to 16 bytes in one case; never 0 for a name.
fn fold(name: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = name.len().min(16);
    bytes[..len].copy_from_slice(&name[..len]);
    (u128::from_le_bytes(bytes) | 0x2020_2020_2020_2020_2020_2020_2020_2020) ^ ((name.len() as u128) << 120)
}

fn bucket(folded: u128) -> usize {
    let mixed = (folded as u64 ^ (folded >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 53) as usize
}
