//! A selector: which commands a user may run, on which keys, channels and logical databases, together.
//!
//! Command rules are applied to a set of allowed commands as they come, and kept as texts, so that their order can be
//! shown and the same rules can be applied to the commands of another version. A rule replaces an earlier one for the
//! same command or category, and earlier rules for subcommands of its command.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_protocol::Request;
use dormouse_protocol::glob::Glob;
use dormouse_shard::commands::{Access, Channels, Databases, Flags, KeySpec, Row};
use dormouse_shard::error::repeated;

use super::catalogue::{Catalogue, Subject, category};
use super::denial::Denial;
use super::rule_error::RuleError;

/// The uses of matching keys that a pattern permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyUse {
    read: bool,
    write: bool,
}

impl KeyUse {
    const ALL: Self = Self { read: true, write: true };
    const READ: Self = Self { read: true, write: false };

    /// The permission that a command needs for a key that it uses so.
    fn needed(access: Access) -> Self {
        let write = access.intersects(Access::INSERT.union(Access::DELETE).union(Access::UPDATE));
        Self { read: access.contains(Access::ACCESS), write }
    }

    fn includes(self, needed: Self) -> bool {
        self.read >= needed.read && self.write >= needed.write
    }

    fn prefix(self) -> &'static str {
        match (self.read, self.write) {
            (true, false) => "%R~",
            (false, true) => "%W~",
            _ => "~",
        }
    }
}

#[derive(Clone, Debug)]
struct KeyPattern {
    permits: KeyUse,
    glob: Glob<'static>,
}

#[derive(Clone, Debug)]
struct CommandRule {
    allow: bool,
    /// Lower case, without the sign.
    text: Box<str>,
}

/// A form of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesForm {
    /// Redis's: `%R~* %W~*` is shown as `~*`, which means something else as a rule.
    Shown,
    /// Rules that make the same selector again.
    Kept,
}

/// The largest number of a logical database in a rule.
const DATABASE_MAX: i64 = i32::MAX as i64;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Selector {
    /// A bit for each command of the catalogue.
    allowed: Box<[u64]>,
    /// Every command: nothing was taken away since `+@all`.
    all_commands: bool,
    /// The rules follow `+@all`, so they permit commands of later versions.
    from_all: bool,
    command_rules: Vec<CommandRule>,
    /// First arguments with which a command may be run that is not allowed otherwise, by the command's place.
    first_arguments: BTreeMap<usize, Vec<Box<[u8]>>>,
    all_keys: bool,
    keys: Vec<KeyPattern>,
    all_channels: bool,
    channels: Vec<Glob<'static>>,
    /// `None`: all.
    databases: Option<BTreeSet<u32>>,
}

impl Selector {
    /// A selector that permits nothing.
    pub fn new(catalogue: &Catalogue) -> Self {
        Self {
            allowed: vec![0; catalogue.len().div_ceil(64)].into(),
            all_commands: false,
            from_all: false,
            command_rules: Vec::new(),
            first_arguments: BTreeMap::new(),
            all_keys: false,
            keys: Vec::new(),
            all_channels: false,
            channels: Vec::new(),
            databases: None,
        }
    }

    /// Applies one rule.
    ///
    /// # Errors
    /// When the rule makes no sense; nothing has changed.
    pub fn apply(&mut self, rule: &[u8], catalogue: &Catalogue) -> Result<(), RuleError> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        match rule {
            _ if is("allkeys") || is("~*") => self.set_all_keys(true),
            _ if is("resetkeys") => self.set_all_keys(false),
            _ if is("allchannels") || is("&*") => self.set_all_channels(true),
            _ if is("resetchannels") => self.set_all_channels(false),
            _ if is("allcommands") || is("+@all") => self.set_all_commands(true),
            _ if is("nocommands") || is("-@all") => self.set_all_commands(false),
            _ if is("alldbs") => self.databases = None,
            _ if is("resetdbs") => self.databases = Some(BTreeSet::new()),
            [b'~', pattern @ ..] => self.add_keys(KeyUse::ALL, pattern)?,
            [b'%', ..] if self.all_keys => return Err(RuleError::AfterAllKeys),
            [b'%', rest @ ..] => {
                let (permits, pattern) = key_use(rest).ok_or(RuleError::Syntax)?;
                self.add_keys(permits, pattern)?;
            }
            [b'&', pattern @ ..] => self.add_channels(pattern)?,
            [sign @ (b'+' | b'-'), b'@', name @ ..] => self.set_category(name, *sign == b'+', catalogue)?,
            [b'+', name @ ..] if name.contains(&b'|') => self.allow_part(name, catalogue)?,
            [sign @ (b'+' | b'-'), name @ ..] => {
                let subject = catalogue.find(name).ok_or(RuleError::Unknown)?;
                self.set(subject, *sign == b'+', catalogue);
                self.note_rule(&subject.name, *sign == b'+');
            }
            [b'd' | b'D', b'b' | b'B', b'=', list @ ..] => self.databases = Some(databases(list)?),
            _ => return Err(RuleError::Syntax),
        }
        Ok(())
    }

    fn set_all_keys(&mut self, all: bool) {
        self.all_keys = all;
        self.keys.clear();
    }

    fn set_all_channels(&mut self, all: bool) {
        self.all_channels = all;
        self.channels.clear();
    }

    fn set_all_commands(&mut self, all: bool) {
        self.allowed.fill(if all { u64::MAX } else { 0 });
        (self.all_commands, self.from_all) = (all, all);
        self.command_rules.clear();
        self.first_arguments.clear();
    }

    fn add_keys(&mut self, permits: KeyUse, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(RuleError::AfterAllKeys);
        }
        let glob = glob(pattern)?;
        match self.keys.iter_mut().find(|known| known.glob.pattern() == pattern) {
            Some(known) => {
                known.permits.read |= permits.read;
                known.permits.write |= permits.write;
            }
            None => self.keys.push(KeyPattern { permits, glob }),
        }
        Ok(())
    }

    fn add_channels(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_channels {
            return Err(RuleError::AfterAllChannels);
        }
        let glob = glob(pattern)?;
        if self.channels.iter().all(|known| known.pattern() != pattern) {
            self.channels.push(glob);
        }
        Ok(())
    }

    fn set_category(&mut self, name: &[u8], allow: bool, catalogue: &Catalogue) -> Result<(), RuleError> {
        let category = category(name).ok_or(RuleError::Unknown)?;
        self.note_rule(&format!("@{}", repeated(name)), allow);
        catalogue.of_category(category).for_each(|subject| self.set(subject, allow, catalogue));
        Ok(())
    }

    /// `+container|subcommand` or `+command|first-argument`.
    fn allow_part(&mut self, name: &[u8], catalogue: &Catalogue) -> Result<(), RuleError> {
        let bar = memchr::memrchr(b'|', name).ok_or(RuleError::Syntax)?;
        let (whole, part) = (&name[..bar], &name[bar + 1..]);
        let subject = catalogue.find(whole).ok_or(RuleError::Unknown)?;
        if subject.is_subcommand {
            return Err(RuleError::FirstArgOfSubcommand);
        }
        // A space would end the rule where it is shown.
        if part.is_empty() || has_spaces(part) || std::str::from_utf8(part).is_err() {
            return Err(RuleError::Syntax);
        }
        if subject.subcommands.is_empty() {
            let known = self.first_arguments.entry(subject.id).or_default();
            if !known.iter().any(|argument| argument.eq_ignore_ascii_case(part)) {
                known.push(part.into());
            }
        } else {
            self.set(catalogue.find(name).ok_or(RuleError::Unknown)?, true, catalogue);
        }
        self.note_rule(&repeated(name), true);
        Ok(())
    }

    /// Allows or forbids a command, with its subcommands.
    fn set(&mut self, subject: &Subject, allow: bool, catalogue: &Catalogue) {
        self.set_bit(subject.id, allow);
        self.first_arguments.remove(&subject.id);
        subject.subcommands.iter().for_each(|id| self.set_bit(catalogue.get(*id).id, allow));
        self.all_commands &= allow;
    }

    fn set_bit(&mut self, id: usize, allow: bool) {
        let (word, bit) = (id / 64, 1 << (id % 64));
        match allow {
            true => self.allowed[word] |= bit,
            false => self.allowed[word] &= !bit,
        }
    }

    fn note_rule(&mut self, text: &str, allow: bool) {
        let text = text.to_ascii_lowercase();
        self.command_rules.retain(|rule| match rule.text.strip_prefix(&*text) {
            Some(rest) => !rest.is_empty() && !rest.starts_with('|'),
            None => true,
        });
        self.command_rules.push(CommandRule { allow, text: text.into() });
    }

    /// Whether it permits everything.
    pub fn is_unrestricted(&self) -> bool {
        self.all_commands && self.all_keys && self.all_channels && self.databases.is_none()
    }

    /// Whether it permits only some logical databases.
    pub fn limits_databases(&self) -> bool {
        self.databases.is_some()
    }

    /// Checks a request that sees the logical database `select`.
    ///
    /// # Errors
    /// The first thing that it forbids.
    pub fn check(&self, subject: &Subject, request: Request<'_>, select: u8) -> Result<(), Denial> {
        let row = subject.row;
        if !self.all_commands && !row.flags.contains(Flags::NO_AUTH) && !self.allows(subject, request) {
            return Err(Denial::Command);
        }
        if let Some(databases) = &self.databases
            && !may_use(databases, row, request, select)
        {
            return Err(Denial::Database);
        }
        if !self.all_keys {
            for spec in row.keys.iter().filter(|spec| !spec.access.contains(Access::NOT_KEY)) {
                self.check_keys(subject, spec, request)?;
            }
        }
        match row.channels {
            Some(channels) if !self.all_channels => self.check_channels(channels, request),
            _ => Ok(()),
        }
    }

    fn allows(&self, subject: &Subject, request: Request<'_>) -> bool {
        let id = subject.id;
        self.allowed[id / 64] >> (id % 64) & 1 != 0
            || self.first_arguments.get(&id).is_some_and(|allowed| {
                request.get(1).is_some_and(|first| allowed.iter().any(|known| known.eq_ignore_ascii_case(first)))
            })
    }

    fn check_keys(&self, subject: &Subject, spec: &KeySpec, request: Request<'_>) -> Result<(), Denial> {
        let access = match subject.row.access {
            Some(access) if spec.access.contains(Access::VARIABLE_FLAGS) => access(request),
            _ => spec.access,
        };
        let needed = KeyUse::needed(access);
        let is_permitted =
            |key: &[u8]| self.keys.iter().any(|pattern| pattern.permits.includes(needed) && pattern.glob.matches(key));
        match spec.indexes(request).find(|index| !is_permitted(request.arg(*index))) {
            Some(index) => Err(Denial::Key(index)),
            None => Ok(()),
        }
    }

    fn check_channels(&self, channels: Channels, request: Request<'_>) -> Result<(), Denial> {
        let end = if channels == Channels::First { 2.min(request.len()) } else { request.len() };
        let is_permitted = |name: &[u8]| self.may_use_channel(name, channels == Channels::Patterns);
        match (1..end).find(|index| !is_permitted(request.arg(*index))) {
            Some(index) => Err(Denial::Channel(index)),
            None => Ok(()),
        }
    }

    /// Whether a channel, or exactly this pattern, may be listened to.
    pub fn may_use_channel(&self, name: &[u8], is_pattern: bool) -> bool {
        self.all_channels
            || self.channels.iter().any(|known| match is_pattern {
                true => known.pattern() == name,
                false => known.matches(name),
            })
    }

    /// Whether it permits to read every key.
    pub fn reads_all_keys(&self) -> bool {
        self.all_keys
            || self.keys.iter().any(|known| known.permits.includes(KeyUse::READ) && known.glob.pattern() == b"*")
    }

    /// Number of patterns that a key or a channel may be compared with, and the cost of comparing texts of `bytes`
    /// together with each of them, in the unit of [`dormouse_shard::execution::budget`].
    pub fn cost(&self, texts: usize, bytes: usize) -> usize {
        let globs = self.keys.iter().map(|known| &known.glob).chain(&self.channels);
        globs.map(|glob| texts.div_ceil(4).saturating_add(glob.cost(texts, bytes))).fold(0, usize::saturating_add)
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let globs = self.keys.iter().map(|known| &known.glob).chain(&self.channels);
        let first = self.first_arguments.values().flatten().map(|argument| 64 + argument.len());
        size_of::<Self>()
            + size_of_val(&*self.allowed)
            + globs.map(|glob| size_of::<KeyPattern>() + glob.heap_bytes()).sum::<usize>()
            + self.command_rules.iter().map(|rule| size_of::<CommandRule>() + rule.text.len()).sum::<usize>()
            + first.sum::<usize>()
            + self.databases.as_ref().map_or(0, |databases| 16 * databases.len())
    }

    /// The rules that make it, as `ACL LIST` shows them, or as they can be applied again.
    pub fn describe(&self, out: &mut Vec<u8>, form: RulesForm) {
        let start = out.len();
        self.write_keys(out, form);
        if out.len() > start {
            out.push(b' ');
        }
        if !self.all_channels {
            out.extend_from_slice(b"resetchannels ");
        }
        let start = out.len();
        self.describe_channels(out);
        if out.len() > start {
            out.push(b' ');
        }
        if self.databases.is_some() {
            self.describe_databases(out);
            out.push(b' ');
        }
        self.describe_commands(out);
    }

    pub fn describe_commands(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.from_all { b"+@all" } else { b"-@all" });
        for CommandRule { allow, text } in &self.command_rules {
            out.extend_from_slice(if *allow { b" +" } else { b" -" });
            out.extend_from_slice(text.as_bytes());
        }
    }

    pub fn describe_keys(&self, out: &mut Vec<u8>) {
        self.write_keys(out, RulesForm::Shown);
    }

    fn write_keys(&self, out: &mut Vec<u8>, form: RulesForm) {
        if self.all_keys {
            out.extend_from_slice(b"~*");
        }
        for (at, KeyPattern { permits, glob }) in self.keys.iter().enumerate() {
            let is_ambiguous = *permits == KeyUse::ALL && glob.pattern() == b"*";
            let prefix = if is_ambiguous && form == RulesForm::Kept { "%RW~" } else { permits.prefix() };
            out.extend_from_slice(if at > 0 { b" " } else { b"" });
            out.extend_from_slice(prefix.as_bytes());
            out.extend_from_slice(glob.pattern());
        }
    }

    pub fn describe_channels(&self, out: &mut Vec<u8>) {
        if self.all_channels {
            out.extend_from_slice(b"&*");
        }
        for (at, pattern) in self.channels.iter().enumerate() {
            out.extend_from_slice(if at > 0 { b" &" } else { b"&" });
            out.extend_from_slice(pattern.pattern());
        }
    }

    pub fn describe_databases(&self, out: &mut Vec<u8>) {
        match &self.databases {
            None => out.extend_from_slice(b"alldbs"),
            Some(databases) if databases.is_empty() => out.extend_from_slice(b"resetdbs"),
            Some(databases) => {
                let numbers: Vec<String> = databases.iter().map(u32::to_string).collect();
                out.extend_from_slice(format!("db={}", numbers.join(",")).as_bytes());
            }
        }
    }
}

/// Whether a request of a command uses only logical databases among `permitted`.
fn may_use(permitted: &BTreeSet<u32>, row: &Row, request: Request<'_>, select: u8) -> bool {
    let has = |database: u32| permitted.contains(&database);
    let is_selected = has(u32::from(select));
    let elsewhere = row.elsewhere.and_then(|elsewhere| elsewhere(request));
    let uses_own = match row.databases {
        // `KEYS` and its like name no keys, but read them.
        Databases::OfKeys => {
            let is_over_keys = row.has_keys() || row.flags.intersects(Flags::READ.union(Flags::WRITE));
            !is_over_keys || is_selected
        }
        Databases::Selected => is_selected,
        Databases::All => false,
        Databases::Named(named) => named(request).into_iter().flatten().all(has),
    };
    uses_own && elsewhere.is_none_or(|(database, _)| has(u32::from(database)))
}

/// Reads `R~pattern`, `W~pattern` or `RW~pattern`.
fn key_use(rest: &[u8]) -> Option<(KeyUse, &[u8])> {
    let end = rest.iter().position(|byte| *byte == b'~').unwrap_or(rest.len());
    let mut permits = KeyUse { read: false, write: false };
    for letter in &rest[..end] {
        let flag = match letter.to_ascii_uppercase() {
            b'R' => &mut permits.read,
            b'W' => &mut permits.write,
            _ => return None,
        };
        if std::mem::replace(flag, true) {
            return None;
        }
    }
    (permits.read || permits.write).then(|| (permits, rest.get(end + 1..).unwrap_or_default()))
}

fn databases(list: &[u8]) -> Result<BTreeSet<u32>, RuleError> {
    let mut databases = BTreeSet::new();
    for number in list.split(|byte| *byte == b',') {
        let number: i64 =
            std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()).ok_or(RuleError::Syntax)?;
        if !(0..=DATABASE_MAX).contains(&number) {
            return Err(RuleError::DatabaseOutOfRange);
        }
        databases.insert(number as u32);
    }
    Ok(databases)
}

/// Whether a word has bytes that Redis takes for spaces, or zero bytes: they would make a rule ambiguous where it is
/// shown.
pub fn has_spaces(word: &[u8]) -> bool {
    word.iter().any(|byte| matches!(byte, b' ' | b'\t'..=b'\r' | 0))
}

fn glob(pattern: &[u8]) -> Result<Glob<'static>, RuleError> {
    if has_spaces(pattern) {
        return Err(RuleError::Syntax);
    }
    Ok(Glob::new(pattern)?.into_owned())
}
