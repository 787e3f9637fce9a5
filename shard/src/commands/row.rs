//! Rows of commands: everything that the rest of the system needs to know of a command without running it.
//!
//! A row names the arity, the keys (for routing, residency, `COMMAND GETKEYS` and ACL), the flags, and the
//! documentation. `COMMAND INFO` and `COMMAND DOCS` are answered from rows alone.

use bitflags::bitflags;
use dormouse_protocol::{Request, Version};

use crate::commands::args::Word;
use crate::commands::reach::{Channels, Databases, UnnamedKeys};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::field_sets::FieldSets;
use crate::keyspace::tracking::Tracker;
use crate::keyspace::{Keyspace, Shared};

bitflags! {
    /// Redis's command flags, and below the gap those of our own.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Flags: u64 {
        const READ = 1;
        const WRITE = 1 << 1;
        const FAST = 1 << 2;
        const DENY_OOM = 1 << 3;
        const ADMIN = 1 << 4;
        const PUBSUB = 1 << 5;
        const NO_SCRIPT = 1 << 6;
        const LOADING = 1 << 7;
        const STALE = 1 << 8;
        const NO_AUTH = 1 << 9;
        const NO_MULTI = 1 << 10;
        const ALLOW_BUSY = 1 << 11;
        const NO_MANDATORY_KEYS = 1 << 12;
        const SKIP_SLOWLOG = 1 << 13;
        const SKIP_MONITOR = 1 << 14;
        const BLOCKING = 1 << 15;
        const NO_ASYNC_LOADING = 1 << 16;
        const MOVABLE_KEYS = 1 << 17;
        const ASKING = 1 << 18;
        /// Redis has it in a module, so it is in no category.
        const MODULE = 1 << 19;

        /// Its effects are recorded key by key by the keyspace's own primitives, not as the command verbatim: because
        /// it writes several keys, or its outcome depends on another key or on chance.
        const BY_KEY = 1 << 24;
        /// It reads or writes the whole keyspace: it takes every shard.
        const WHOLE = 1 << 25;
        /// Its cost grows with the keyspace: it runs on the slow lane.
        const SLOW_LANE = 1 << 26;
        /// Everything must be in memory before it runs.
        const ALL_RESIDENT = 1 << 27;
        /// Its first argument is a SCAN cursor, which says which shard it goes to.
        const BY_CURSOR = 1 << 28;
        /// After it, a logical index may hold other keys than before.
        const SWAPS_INDEXES = 1 << 29;
        /// It drops all data: it runs even where a damaged object keeps the data from being stored.
        const FREES_ALL = 1 << 30;
        /// As [`Self::BY_KEY`], but only while the database has replicas. They run its effects at another time, and know
        /// the commands of Redis 7.0: so it depends on neither its time nor its options any more.
        const BY_KEY_TO_REPLICAS = 1 << 31;
        /// The same for a command that names its effects by itself.
        const NAMED_TO_REPLICAS = 1 << 38;

        /// Run in the middle of a transaction instead of queued.
        const AT_ONCE = 1 << 32;
        /// Not queued by MULTI: replies that it leaves out would be missing in EXEC's.
        const NO_QUEUE = 1 << 33;
        /// RESP2 allows it to a client that has subscribed.
        const WHILE_SUBSCRIBED = 1 << 34;
        /// Its reply says that long work is done. It has a bound of its own, or none, as its clients know.
        const PATIENT = 1 << 35;
        /// Run even while `CLIENT PAUSE` holds back all commands.
        const WHILE_PAUSED = 1 << 36;
        /// It is no write, but has effects elsewhere: a pause of writes holds it back.
        const MAY_REPLICATE = 1 << 37;
        /// `CLIENT CACHING` concerns the next command without this flag.
        const KEEPS_CACHING = 1 << 39;
        /// Nothing of the old value of its key stays, although it may reply with it.
        const REPLACES = 1 << 40;
        /// Replicas of Redis 7.0 do not have the type of its key, so they are told nothing of it.
        const NOT_TO_REPLICAS = 1 << 41;
    }
}

bitflags! {
    /// ACL categories. A row names those that its family does not; those from [`Self::READ`] on follow from its flags.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Category: u32 {
        const KEYSPACE = 1;
        const STRING = 1 << 1;
        const LIST = 1 << 2;
        const SET = 1 << 3;
        const SORTED_SET = 1 << 4;
        const HASH = 1 << 5;
        const CONNECTION = 1 << 6;
        const TRANSACTION = 1 << 7;
        const PUBSUB = 1 << 8;
        const ADMIN = 1 << 9;
        const DANGEROUS = 1 << 10;
        const BLOCKING = 1 << 11;
        const STREAM = 1 << 12;
        const SCRIPTING = 1 << 13;
        const BITMAP = 1 << 14;
        const HYPERLOGLOG = 1 << 15;
        const GEO = 1 << 16;
        const ARRAY = 1 << 17;
        const JSON = 1 << 18;

        const READ = 1 << 20;
        const WRITE = 1 << 21;
        const FAST = 1 << 22;
        const SLOW = 1 << 23;

        const BLOOM = 1 << 28;
        const CUCKOO = 1 << 29;
    }
}

bitflags! {
    /// The use that a command makes of the keys of one [`KeySpec`], in Redis's words.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Access: u16 {
        const RO = 1;
        const RW = 1 << 1;
        const OW = 1 << 2;
        const RM = 1 << 3;
        const ACCESS = 1 << 4;
        const UPDATE = 1 << 5;
        const INSERT = 1 << 6;
        const DELETE = 1 << 7;
        const NOT_KEY = 1 << 8;
        const INCOMPLETE = 1 << 9;
        const VARIABLE_FLAGS = 1 << 10;
    }
}

impl Flags {
    /// Redis's names, in the order of its `COMMAND` replies. Those of our own have none.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: &[(Flags, &str)] = &[
            (Flags::WRITE, "write"),
            (Flags::READ, "readonly"),
            (Flags::DENY_OOM, "denyoom"),
            (Flags::ADMIN, "admin"),
            (Flags::PUBSUB, "pubsub"),
            (Flags::NO_SCRIPT, "noscript"),
            (Flags::BLOCKING, "blocking"),
            (Flags::LOADING, "loading"),
            (Flags::STALE, "stale"),
            (Flags::SKIP_MONITOR, "skip_monitor"),
            (Flags::SKIP_SLOWLOG, "skip_slowlog"),
            (Flags::ASKING, "asking"),
            (Flags::FAST, "fast"),
            (Flags::NO_AUTH, "no_auth"),
            (Flags::NO_MANDATORY_KEYS, "no_mandatory_keys"),
            (Flags::NO_ASYNC_LOADING, "no_async_loading"),
            (Flags::NO_MULTI, "no_multi"),
            (Flags::MOVABLE_KEYS, "movablekeys"),
            (Flags::ALLOW_BUSY, "allow_busy"),
            (Flags::MODULE, "module"),
        ];
        NAMES.iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| *name)
    }
}

impl Category {
    /// Redis's names, in the order of its `COMMAND` replies.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: &[(Category, &str)] = &[
            (Category::KEYSPACE, "@keyspace"),
            (Category::READ, "@read"),
            (Category::WRITE, "@write"),
            (Category::SET, "@set"),
            (Category::SORTED_SET, "@sortedset"),
            (Category::LIST, "@list"),
            (Category::HASH, "@hash"),
            (Category::STRING, "@string"),
            (Category::BITMAP, "@bitmap"),
            (Category::HYPERLOGLOG, "@hyperloglog"),
            (Category::GEO, "@geo"),
            (Category::ARRAY, "@array"),
            (Category::STREAM, "@stream"),
            (Category::PUBSUB, "@pubsub"),
            (Category::ADMIN, "@admin"),
            (Category::FAST, "@fast"),
            (Category::SLOW, "@slow"),
            (Category::BLOCKING, "@blocking"),
            (Category::DANGEROUS, "@dangerous"),
            (Category::CONNECTION, "@connection"),
            (Category::TRANSACTION, "@transaction"),
            (Category::SCRIPTING, "@scripting"),
            (Category::BLOOM, "@bloom"),
            (Category::CUCKOO, "@cuckoo"),
            (Category::JSON, "@json"),
        ];
        NAMES.iter().filter(move |(category, _)| self.contains(*category)).map(|(_, name)| *name)
    }
}

impl Access {
    /// Redis's names, in the order of its `COMMAND` replies.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: &[(Access, &str)] = &[
            (Access::RO, "RO"),
            (Access::RW, "RW"),
            (Access::OW, "OW"),
            (Access::RM, "RM"),
            (Access::ACCESS, "access"),
            (Access::UPDATE, "update"),
            (Access::INSERT, "insert"),
            (Access::DELETE, "delete"),
            (Access::NOT_KEY, "not_key"),
            (Access::INCOMPLETE, "incomplete"),
            (Access::VARIABLE_FLAGS, "variable_flags"),
        ];
        NAMES.iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| *name)
    }
}

/// How many arguments a command takes, its name counted: exactly `n`, or at least `-n` where negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arity(pub i16);

pub const fn exactly(n: i16) -> Arity {
    Arity(n)
}

pub const fn at_least(n: i16) -> Arity {
    Arity(-n)
}

impl Arity {
    pub const fn accepts(self, len: usize) -> bool {
        if self.0 >= 0 { len == self.0 as usize } else { len >= (-self.0) as usize }
    }
}

/// The position of some of a command's keys among its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    pub access: Access,
    pub find: Find,
    pub notes: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Find {
    /// From argument `first` to `last` (relative to `first`; -1: the last argument), every `step`th.
    Range { first: u8, last: i8, step: u8 },
    /// Argument `at` holds their number; they are every `step`th argument behind it.
    Counted { at: u8, step: u8 },
    /// The last argument after the word `STORE`, which may stand anywhere among the options of `SORT`. Redis calls it
    /// unknown.
    Store,
    /// The last argument after `word`, which stands at `from` or behind.
    After { word: &'static str, from: u8 },
    /// The first half of the arguments after the word `STREAMS`, which follows the options of `XREAD`.
    Streams { from: u8 },
    /// The arguments don't say: the names are made from values.
    Unknown,
}

impl KeySpec {
    pub const fn one(at: u8, access: Access) -> Self {
        Self { access, find: Find::Range { first: at, last: 0, step: 1 }, notes: "" }
    }

    /// The arguments from `first` to `first + more`.
    pub const fn range(first: u8, more: i8, access: Access) -> Self {
        Self { access, find: Find::Range { first, last: more, step: 1 }, notes: "" }
    }

    /// All arguments from `first` on.
    pub const fn rest(first: u8, access: Access) -> Self {
        Self { access, find: Find::Range { first, last: -1, step: 1 }, notes: "" }
    }

    /// Every second argument from `first` on: `MSET key value [key value ...]`.
    pub const fn pairs(first: u8, access: Access) -> Self {
        Self { access, find: Find::Range { first, last: -1, step: 2 }, notes: "" }
    }

    /// As many as argument `at` says, after it: `ZUNION numkeys key [key ...]`.
    pub const fn counted(at: u8, access: Access) -> Self {
        Self { access, find: Find::Counted { at, step: 1 }, notes: "" }
    }

    /// The same, each with a value behind it: `MSETEX numkeys key value [key value ...]`.
    pub const fn counted_pairs(at: u8, access: Access) -> Self {
        Self { access, find: Find::Counted { at, step: 2 }, notes: "" }
    }

    pub const fn notes(mut self, notes: &'static str) -> Self {
        self.notes = notes;
        self
    }

    /// The indexes of this spec's keys in `request`; empty where the request is malformed.
    pub fn indexes(&self, request: Request<'_>) -> impl Iterator<Item = usize> + use<> {
        let len = request.len();
        let (first, end, step) = match self.find {
            Find::Range { first, last, step } => {
                let end =
                    if last >= 0 { first as usize + last as usize + 1 } else { len + 1 - last.unsigned_abs() as usize };
                (first as usize, end.min(len), step as usize)
            }
            Find::Counted { at, step } => {
                let (at, step) = (at as usize, step as usize);
                let count =
                    request.get(at).and_then(|n| std::str::from_utf8(n).ok()?.parse::<usize>().ok()).unwrap_or(0);
                // Behind the last key, whose value may be missing.
                let end = (at + 2).saturating_add(count.saturating_mul(step)).saturating_sub(step);
                (at + 1, if end <= len { end } else { 0 }, step)
            }
            Find::Store => last_after(request, "STORE", 2),
            Find::After { word, from } => last_after(request, word, from.into()),
            Find::Streams { .. } => streams(request),
            Find::Unknown => (len, len, 1),
        };
        (first..end.max(first)).step_by(step)
    }
}

/// Calls `each` with the index of each key that the specs find in `request`.
#[inline(never)]
fn for_each_found(specs: &[KeySpec], request: Request<'_>, each: impl FnMut(usize)) {
    // Scripts with few keys are many.
    if let [KeySpec { find: Find::Counted { at, step: 1 }, .. }] = specs
        && let Some([digit @ b'0'..=b'9']) = request.get(usize::from(*at))
    {
        let (first, count) = (usize::from(*at) + 1, usize::from(digit - b'0'));
        if first + count <= request.len() {
            (first..first + count).for_each(each);
        }
        return;
    }
    specs.iter().flat_map(|spec| spec.indexes(request)).for_each(each);
}

/// About how many elements a request will look at: thousands of them belong on the slow lane. The function must itself
/// be quick, and changes nothing; keys that are not in memory count as nothing.
pub type Cost = fn(&Keyspace<'_>, Request<'_>) -> usize;

/// A key in another logical index than the selected one: which index, and which argument names it.
pub type Elsewhere = fn(Request<'_>) -> Option<(u8, usize)>;

/// Whether a request may use keys that it does not name: it takes every shard.
pub type Strays = fn(&Shared, Request<'_>) -> Straying;

/// How a request uses keys that it does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Straying {
    Never,
    /// It may, and may begin on a thread that serves others.
    AsGuest,
    /// It may, and runs on the slow lane.
    OnLane,
}

/// Whether a request of a command that may write surely does not: `CLIENT PAUSE` lets it run.
pub type OnlyReads = fn(&Shared, Request<'_>) -> bool;

/// A request's use of its key, for a command whose key spec has [`Access::VARIABLE_FLAGS`].
pub type AccessOf = fn(Request<'_>) -> Access;

/// The last argument of `request` that follows `word` at `from` or behind, as a run of one or none.
fn last_after(request: Request<'_>, word: &str, from: usize) -> (usize, usize, usize) {
    let follows = |at: &usize| request.arg(at - 1).eq_ignore_ascii_case(word.as_bytes());
    let at = (from + 1..request.len()).rev().find(follows).unwrap_or(request.len());
    (at, (at + 1).min(request.len()), 1)
}

/// The keys of `XREAD` and `XREADGROUP`, as a run. The values of options are passed over.
fn streams(request: Request<'_>) -> (usize, usize, usize) {
    let len = request.len();
    let mut at = 1;
    while let Some(word) = request.get(at) {
        let word = Word::new(word);
        at += match word.as_bytes() {
            b"BLOCK" | b"COUNT" | b"CLAIM" | b"MAXCOUNT" | b"MAXSIZE" => 2,
            b"GROUP" => 3,
            b"NOACK" => 1,
            b"STREAMS" if (len - at) % 2 == 1 => return (at + 1, at + 1 + (len - at - 1) / 2, 1),
            _ => break,
        };
    }
    (len, len, 1)
}

/// The state that a session's earlier commands have set for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The logical index that it sees.
    pub select: u8,
    pub version: Version,
    /// `CLIENT NO-TOUCH`.
    pub no_touch: bool,
    /// `CLIENT TRACKING`.
    pub tracker: Tracker,
}

/// The change that a command makes to the session for the commands after it. A transaction asks before it runs any of
/// them, so this must exactly predict the command.
pub type Foresee = fn(Request<'_>, &mut Context);

/// The change that a command makes to the field sets of the connection: the same for them.
pub type ForeseeFields = fn(Request<'_>, &mut FieldSets);

/// One command, or one subcommand, without the function that runs it.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Upper case; a subcommand's own name only (`ENCODING` of `OBJECT`).
    pub name: &'static str,
    pub arity: Arity,
    pub keys: &'static [KeySpec],
    pub flags: Flags,
    /// Added to its family's category.
    pub category: Category,
    pub summary: &'static str,
    pub since: &'static str,
    pub complexity: &'static str,
    pub tips: &'static [&'static str],
    /// For commands whose cost is neither small nor known from the request alone.
    pub cost: Option<Cost>,
    /// For commands that may add more bytes than their arguments have: how many.
    pub grows: Option<Cost>,
    /// For commands that may need much memory while they run, beyond their permanent additions: how many bytes, at
    /// most.
    pub needs: Option<Cost>,
    /// Whether a request grows and needs so little, whatever its keys hold, that this is not counted.
    pub is_modest: Option<fn(Request<'_>) -> bool>,
    /// For commands over two logical indexes. The key is one of the row's too, so it is on a shard that is held.
    pub elsewhere: Option<Elsewhere>,
    pub access: Option<AccessOf>,
    pub foresee: Option<Foresee>,
    pub channels: Option<Channels>,
    pub databases: Databases,
    pub unnamed: Option<UnnamedKeys>,
    /// The event of its changes of a key, except those that delete it.
    pub event: Option<KeyEvent>,
    /// For commands that may use keys that they do not name.
    pub strays: Option<Strays>,
    /// For commands that may write, depending on what they run.
    pub reads: Option<OnlyReads>,
    /// For commands of the session that scripts may call: what runs there.
    pub in_script: Option<super::Run>,
    /// Whether a request stands for itself, where its flags and its category do not tell: it neither needs nor changes
    /// the state of its connection, and does not wait for other clients if it may not.
    pub is_stateless: Option<bool>,
    /// The argument that names the receipt of a request: it is no key, but clients with other keys must not take it.
    pub receipt: Option<usize>,
    /// The argument that names a field set of the connection.
    pub field_set: Option<usize>,
    pub foresee_fields: Option<ForeseeFields>,
}

impl Row {
    const fn bare(name: &'static str, arity: Arity, keys: &'static [KeySpec], flags: Flags) -> Self {
        Self {
            name,
            arity,
            keys,
            flags,
            category: Category::empty(),
            summary: "",
            since: "",
            complexity: "",
            tips: &[],
            cost: None,
            grows: None,
            needs: None,
            is_modest: None,
            elsewhere: None,
            access: None,
            foresee: None,
            channels: None,
            databases: Databases::OfKeys,
            unnamed: None,
            event: None,
            strays: None,
            reads: None,
            in_script: None,
            is_stateless: None,
            receipt: None,
            field_set: None,
            foresee_fields: None,
        }
    }

    /// The indexes of all keys in `request`.
    pub fn key_indexes<'a>(&'a self, request: Request<'a>) -> impl Iterator<Item = usize> + 'a {
        self.keys.iter().flat_map(move |spec| spec.indexes(request))
    }

    /// Calls `each` with the index of each key in `request`. The common case is quick.
    #[inline]
    pub fn for_each_key(&self, request: Request<'_>, mut each: impl FnMut(usize)) {
        match self.keys {
            [KeySpec { find: Find::Range { first, last: 0, .. }, .. }] => {
                if usize::from(*first) < request.len() {
                    each(usize::from(*first));
                }
            }
            specs => for_each_found(specs, request, each),
        }
    }

    /// Whether a request may name keys. The channels of sharded messages have the slots of keys, and are none.
    pub fn has_keys(&self) -> bool {
        self.keys.iter().any(|spec| !spec.access.contains(Access::NOT_KEY))
    }

    /// The index of the first key in `request`. Asked for each write, so the common case is quick.
    #[inline]
    pub fn first_key(&self, request: Request<'_>) -> Option<usize> {
        match self.keys {
            [KeySpec { find: Find::Range { first, last: 0.., .. }, .. }, ..] if usize::from(*first) < request.len() => {
                Some(usize::from(*first))
            }
            _ => self.key_indexes(request).next(),
        }
    }

    /// How many bytes a request may add beyond those of its arguments.
    pub fn growth(&self, db: &Keyspace<'_>, request: Request<'_>) -> usize {
        self.grows.map_or(0, |grows| grows(db, request))
    }

    /// How many bytes a request may need while it runs, beyond what it adds.
    pub fn need(&self, db: &Keyspace<'_>, request: Request<'_>) -> usize {
        self.needs.map_or(0, |needs| needs(db, request))
    }

    /// Redis's legacy triple: first key, last key (negative: from the end), step. Zeros if no plain run of arguments
    /// holds keys.
    pub fn key_range(&self) -> (i64, i64, i64) {
        self.legacy().0
    }

    /// The flags, with [`Flags::MOVABLE_KEYS`] where the legacy triple doesn't tell all keys.
    pub fn flags_derived(&self) -> Flags {
        if self.legacy().1 { self.flags | Flags::MOVABLE_KEYS } else { self.flags }
    }

    /// The triple, and whether it leaves out keys. Redis's rule: a single run of arguments is reported as it is;
    /// several specs are joined if they are runs of step 1 and each begins where the one before ends.
    fn legacy(&self) -> ((i64, i64, i64), bool) {
        let mut incomplete = false;
        let mut joined: Option<(i64, i64)> = None;
        for spec in self.keys {
            incomplete |= spec.access.contains(Access::INCOMPLETE);
            let Find::Range { first, last, step } = spec.find else {
                incomplete = true;
                continue;
            };
            let first = i64::from(first);
            let last = if last >= 0 { first + i64::from(last) } else { i64::from(last) };
            if self.keys.len() == 1 {
                return ((first, last, i64::from(step)), incomplete);
            }
            if step != 1 || joined.is_some_and(|(_, end)| end + 1 != first) {
                incomplete = true;
                continue;
            }
            joined = Some((joined.map_or(first, |(start, _)| start), last));
        }
        match joined {
            Some((first, last)) => ((first, last, 1), incomplete),
            None => ((0, 0, 0), incomplete),
        }
    }

    /// All ACL categories: the row's own, its `family`'s, and those that Redis derives from the flags
    /// of commands of its own.
    pub fn categories(&self, family: Category) -> Category {
        const IMPLIED: &[(Flags, Category)] = &[
            (Flags::WRITE, Category::WRITE),
            (Flags::ADMIN, Category::ADMIN.union(Category::DANGEROUS)),
            (Flags::PUBSUB, Category::PUBSUB),
            (Flags::BLOCKING, Category::BLOCKING),
        ];
        let mut categories = self.category | family;
        if self.flags.contains(Flags::MODULE) {
            return categories;
        }
        for (flag, implied) in IMPLIED {
            if self.flags.contains(*flag) {
                categories |= *implied;
            }
        }
        if self.flags.contains(Flags::READ) && !categories.contains(Category::SCRIPTING) {
            categories |= Category::READ;
        }
        categories | if self.flags.contains(Flags::FAST) { Category::FAST } else { Category::SLOW }
    }
}

/// A row and its function. `R` is a [`super::Run`] for commands over the keyspace; the server has its own kind for
/// those that concern the connection. A container (`OBJECT`) has subcommands and no function of its own.
#[derive(Debug, Clone, Copy)]
pub struct Command<R: 'static> {
    pub row: Row,
    pub run: Option<R>,
    pub subcommands: &'static [Command<R>],
}

impl<R: Copy> Command<R> {
    pub const fn new(name: &'static str, arity: Arity, keys: &'static [KeySpec], flags: Flags, run: R) -> Self {
        Self { row: Row::bare(name, arity, keys, flags), run: Some(run), subcommands: &[] }
    }

    pub const fn container(name: &'static str, subcommands: &'static [Command<R>]) -> Self {
        Self { row: Row::bare(name, at_least(2), &[], Flags::empty()), run: None, subcommands }
    }

    /// All ACL categories of a command of `family`; a container has none but `@slow`, its subcommands have theirs.
    pub fn categories(&self, family: Category) -> Category {
        if self.run.is_none() { Category::SLOW } else { self.row.categories(family) }
    }

    pub const fn doc(mut self, since: &'static str, complexity: &'static str, summary: &'static str) -> Self {
        self.row.since = since;
        self.row.complexity = complexity;
        self.row.summary = summary;
        self
    }

    pub const fn tips(mut self, tips: &'static [&'static str]) -> Self {
        self.row.tips = tips;
        self
    }

    pub const fn cost(mut self, cost: Cost) -> Self {
        self.row.cost = Some(cost);
        self
    }

    pub const fn grows(mut self, grows: Cost) -> Self {
        self.row.grows = Some(grows);
        self
    }

    pub const fn needs(mut self, needs: Cost) -> Self {
        self.row.needs = Some(needs);
        self
    }

    pub const fn modest(mut self, is_modest: fn(Request<'_>) -> bool) -> Self {
        self.row.is_modest = Some(is_modest);
        self
    }

    pub const fn access(mut self, access: AccessOf) -> Self {
        self.row.access = Some(access);
        self
    }

    pub const fn foresee(mut self, foresee: Foresee) -> Self {
        self.row.foresee = Some(foresee);
        self
    }

    pub const fn channels(mut self, channels: Channels) -> Self {
        self.row.channels = Some(channels);
        self
    }

    pub const fn databases(mut self, databases: Databases) -> Self {
        self.row.databases = databases;
        self
    }

    pub const fn unnamed(mut self, unnamed: UnnamedKeys) -> Self {
        self.row.unnamed = Some(unnamed);
        self
    }

    pub const fn event(mut self, event: KeyEvent) -> Self {
        self.row.event = Some(event);
        self
    }

    pub const fn strays(mut self, strays: Strays) -> Self {
        self.row.strays = Some(strays);
        self
    }

    pub const fn reads(mut self, reads: OnlyReads) -> Self {
        self.row.reads = Some(reads);
        self
    }

    pub const fn in_script(mut self, run: super::Run) -> Self {
        self.row.in_script = Some(run);
        self
    }

    pub const fn stateless(mut self, is_stateless: bool) -> Self {
        self.row.is_stateless = Some(is_stateless);
        self
    }

    pub const fn field_set(mut self, argument: usize) -> Self {
        self.row.field_set = Some(argument);
        self
    }

    pub const fn foresee_fields(mut self, foresee: ForeseeFields) -> Self {
        self.row.foresee_fields = Some(foresee);
        self
    }

    pub const fn receipt(mut self, argument: usize) -> Self {
        self.row.receipt = Some(argument);
        self
    }

    pub const fn elsewhere(mut self, elsewhere: Elsewhere) -> Self {
        self.row.elsewhere = Some(elsewhere);
        self
    }

    pub const fn also(mut self, category: Category) -> Self {
        self.row.category = category;
        self
    }

    pub const fn subcommands(mut self, subcommands: &'static [Command<R>]) -> Self {
        self.subcommands = subcommands;
        self
    }
}

/// The commands of one file, and their common properties.
#[derive(Debug, Clone, Copy)]
pub struct Family<R: 'static> {
    /// Redis's documentation group: `sorted-set`.
    pub group: &'static str,
    pub category: Category,
    pub commands: &'static [Command<R>],
}
