//! The judgement of a state after a crash: whether the server may hold it.
//!
//! The surviving data is one moment of the writes: of the whole node if it keeps one log, of each database by itself if
//! only checkpoints count. Such a scope is judged as follows.
//!
//! 1. For each client, the model repeats its operations in the scope, one after the other, from the state before the
//!    round. After each operation, it knows the keys that differ from those found. The **fits** are the numbers of
//!    operations after which none differs. Without a fit, something was lost out of the middle, done twice, done in
//!    part, or made up.
//! 2. The **floor** is the number of operations up to the last promised one. A fit must not be below it.
//! 3. A shared counter must be the sum of what the surviving operations have added to it.
//! 4. The surviving operations of all clients must be one moment: an operation that was acknowledged before another was
//!    sent survives if the other does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    time::{Duration, Instant},
};

use super::{
    client::{History, Record},
    declared::Declarations,
    disturbance::Checkpoints,
    mode::Mode,
    model::{Change, Key, Space, Value},
    reading::State,
    workload::{DATABASES, groups_of_counters},
};

/// A round as known when the server is up again.
#[derive(Clone, Debug)]
pub struct Trial {
    pub mode: Mode,
    /// Whether the lost writes were last in the whole node, and not only in each database.
    pub one_log: bool,
    /// Histories by client.
    pub histories: Vec<History>,
    /// The shared counters before the round.
    pub counters: BTreeMap<Key, i64>,
    /// The time before the signal was sent; nothing for an orderly stop, which promises every acknowledged write.
    pub killed: Option<Instant>,
    /// The last acknowledged write, if files could not be written for a while, as if on a full disk without a reserve. Then
    /// nothing is acknowledged, while earlier writes grow older in memory: a loss window counts until this write, not until
    /// the kill.
    pub last_of_full: Option<Instant>,
    pub checkpoints: Checkpoints,
    /// The settings of each database that were declared in the round.
    pub declared: [Declarations; DATABASES],
}

/// The permitted loss of a crash.
#[derive(Clone, Copy, Debug, Default)]
pub struct Toll {
    pub sent: usize,
    pub acknowledged: usize,
    pub promised: usize,
    /// Acknowledged operations that are gone.
    pub lost: usize,
    /// Time from the acknowledgement of the oldest lost operation to the kill.
    pub lost_age_max: Duration,
}

impl Toll {
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.promised += other.promised;
        self.lost += other.lost;
        self.lost_age_max = self.lost_age_max.max(other.lost_age_max);
    }
}

/// A fault of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The state has keys that no client can have written.
    Strange(Vec<String>),
    /// The state is none of those that a client has led to.
    NoPrefix { client: usize, nearest: usize, sent: usize, differences: String },
    /// The state lies too far back.
    Lost { client: usize, there: usize, promised: usize, first_lost: String },
    /// Shared counters are not the sum of their additions.
    Counters(String),
    /// A database has settings that it must have lost or never had.
    Settings(String),
    /// The state has a later operation and lacks an earlier one.
    NotOneMoment { lacks: String, has: String },
}

impl Trial {
    pub fn judge(&self, found: &State) -> Result<Toll, Wrong> {
        if !found.strange.is_empty() {
            return Err(Wrong::Strange(found.strange.clone()));
        }
        for (database, (declared, settings)) in self.declared.iter().zip(found.settings).enumerate() {
            if !declared.allow(settings) {
                let text = format!("database {database} has {settings:?}, and was told {declared:?}");
                return Err(Wrong::Settings(text));
            }
        }
        // Number of databases in a scope.
        let breadth = if self.one_log { DATABASES } else { 1 };
        let mut toll = Toll::default();
        let mut counters = self.counters.clone();
        for scope in (0..DATABASES).step_by(breadth).map(|database| database..database + breadth) {
            let mut cuts = Vec::new();
            for (client, history) in self.histories.iter().enumerate() {
                let in_scope = |record: &&Record| scope.contains(&record.operation.database);
                let records: Vec<&Record> = history.records.iter().filter(in_scope).collect();
                let within = |space: &Space| {
                    let keys = space.iter().filter(|(key, _)| scope.contains(&key.database));
                    keys.map(|(key, entry)| (key.clone(), entry.clone())).collect::<Space>()
                };
                let floor = records.iter().rposition(|record| self.promises(record)).map_or(0, |last| last + 1);
                let fits = Fits::find(&records, within(&history.base), &within(&found.spaces[client]), found.read_ms);
                let Some(&there) = fits.numbers.last() else {
                    return Err(fits.no_prefix(client, &records));
                };
                if there < floor {
                    let first_lost = describe(records[there]);
                    return Err(Wrong::Lost { client, there, promised: floor, first_lost });
                }
                self.count(&records, there, floor, &mut toll);
                for (counter, by) in records[..there].iter().flat_map(|record| added(record)) {
                    *counters.entry(counter).or_insert(0) += by;
                }
                let least = fits.numbers.iter().copied().find(|fit| *fit >= floor).unwrap_or(there);
                cuts.push(Cut { records, least, there });
            }
            one_moment(&cuts)?;
        }
        judge_counters(&counters, &found.counters)?;
        Ok(toll)
    }

    /// Whether a crash must not lose the operation.
    fn promises(&self, record: &Record) -> bool {
        let Some(acknowledged) = record.acknowledged else { return false };
        let Some(killed) = self.killed else { return true };
        let checkpointed = self.checkpoints[record.operation.database].is_some_and(|asked| acknowledged < asked);
        checkpointed
            || match self.mode.window() {
                // An acknowledgement counts even if it came while the process was being killed.
                Some(Duration::ZERO) => true,
                Some(window) => acknowledged + window < self.last_of_full.map_or(killed, |last| last.min(killed)),
                None => false,
            }
    }

    fn count(&self, records: &[&Record], there: usize, floor: usize, toll: &mut Toll) {
        toll.sent += records.len();
        toll.acknowledged += records.iter().filter(|record| record.acknowledged.is_some()).count();
        toll.promised += floor;
        let lost = || records[there..].iter().filter_map(|record| record.acknowledged);
        toll.lost += lost().count();
        if let (Some(killed), Some(oldest)) = (self.killed, lost().min()) {
            toll.lost_age_max = toll.lost_age_max.max(killed.saturating_duration_since(oldest));
        }
    }
}

/// The numbers of a client's operations after which its keys are those that were found.
struct Fits {
    /// Ascending.
    numbers: Vec<usize>,
    /// The number with the fewest different keys, and the differences.
    nearest: usize,
    differences: BTreeMap<Key, String>,
}

impl Fits {
    fn find(records: &[&Record], mut space: Space, found: &Space, read_ms: u64) -> Self {
        let differs = |space: &Space, key: &Key| {
            space.get(key).filter(|entry| !entry.expired(read_ms))
                != found.get(key).filter(|entry| !entry.expired(read_ms))
        };
        let keys: BTreeSet<&Key> = space.keys().chain(found.keys()).collect();
        let mut wrong: BTreeSet<Key> = keys.into_iter().filter(|key| differs(&space, key)).cloned().collect();
        // Reading must not return expired keys.
        let expired: Vec<Key> = found.iter().filter(|(_, e)| e.expired(read_ms)).map(|(key, _)| key.clone()).collect();
        wrong.extend(expired.iter().cloned());
        let mut fits = Self { numbers: Vec::new(), nearest: 0, differences: BTreeMap::new() };
        let mut fewest = usize::MAX;
        for number in 0..=records.len() {
            if wrong.is_empty() {
                fits.numbers.push(number);
            } else if fits.numbers.is_empty() && wrong.len() <= fewest {
                fewest = wrong.len();
                fits.nearest = number;
                let difference = |key: &Key| format!("expected {}, found {}", shown(&space, key), shown(found, key));
                fits.differences = wrong.iter().take(20).map(|key| (key.clone(), difference(key))).collect();
            }
            let Some(record) = records.get(number) else { break };
            let mut touched = Vec::new();
            for change in &record.operation.changes {
                match unknown_draw(record, change, &space, found) {
                    Some(drawn) => _ = drawn.apply(&mut space, record.place(), &mut touched),
                    None => _ = change.apply(&mut space, record.place(), &mut touched),
                }
            }
            for key in touched {
                match differs(&space, &key) || expired.contains(&key) {
                    true => _ = wrong.insert(key),
                    false => _ = wrong.remove(&key),
                }
            }
        }
        fits
    }

    fn no_prefix(self, client: usize, records: &[&Record]) -> Wrong {
        let mut text = String::new();
        for (key, difference) in &self.differences {
            _ = writeln!(text, "  {key:?}: {difference}");
        }
        _ = writeln!(text, "  operations around the nearest state, of those that concern these keys:");
        let concerns = |record: &Record| {
            let mut touched = Vec::new();
            let mut space = Space::new();
            record.operation.changes.iter().for_each(|change| {
                _ = change.apply(&mut space, record.place(), &mut touched);
            });
            touched.iter().any(|key| self.differences.contains_key(key))
                || record.operation.changes.iter().any(|change| matches!(change, Change::Flush | Change::Swap { .. }))
        };
        let around = records.iter().enumerate().filter(|(_, record)| concerns(record));
        let mut around: Vec<_> =
            around.map(|(number, record)| (number.abs_diff(self.nearest), number, record)).collect();
        around.sort_by_key(|(distance, number, _)| (*distance, *number));
        around.truncate(24);
        around.sort_by_key(|(_, number, _)| *number);
        for (_, number, record) in around {
            _ = writeln!(text, "  {number}: {}", describe(record));
        }
        Wrong::NoPrefix { client, nearest: self.nearest, sent: records.len(), differences: text }
    }
}

/// An unanswered draw has taken whatever is missing.
fn unknown_draw(record: &Record, change: &Change, space: &Space, found: &Space) -> Option<Change> {
    let Change::Draw { key, drawn: None } = change else { return None };
    if record.acknowledged.is_some() {
        return None;
    }
    let at = Key { database: record.operation.database, index: record.operation.index, name: key.clone() };
    let members = |space: &Space| match space.get(&at).map(|entry| &entry.value) {
        Some(Value::Set(members)) => members.clone(),
        _ => BTreeSet::new(),
    };
    let (before, after) = (members(space), members(found));
    let mut missing = before.difference(&after);
    match (missing.next(), missing.next()) {
        (Some(member), None) => Some(Change::Draw { key: key.clone(), drawn: Some(member.clone()) }),
        _ => None,
    }
}

/// The surviving operations of one client: at least `least`, as far as its keys tell, at most `there`.
struct Cut<'a> {
    records: Vec<&'a Record>,
    least: usize,
    there: usize,
}

fn one_moment(cuts: &[Cut]) -> Result<(), Wrong> {
    let last_sent = cuts.iter().filter_map(|cut| cut.records[..cut.least].last()).max_by_key(|record| record.sent);
    let Some(has) = last_sent else { return Ok(()) };
    for cut in cuts {
        if let Some(lacks) = cut.records.get(cut.there)
            && lacks.acknowledged.is_some_and(|acknowledged| acknowledged < has.sent)
        {
            return Err(Wrong::NotOneMoment { lacks: describe(lacks), has: describe(has) });
        }
    }
    Ok(())
}

fn added(record: &Record) -> impl Iterator<Item = (Key, i64)> {
    let (database, index) = (record.operation.database, record.operation.index);
    let adds = record.operation.changes.iter().filter_map(Change::adds);
    adds.map(move |(name, by)| (Key { database, index, name: name.into() }, by))
}

fn judge_counters(expected: &BTreeMap<Key, i64>, found: &BTreeMap<Key, i64>) -> Result<(), Wrong> {
    for database in 0..DATABASES {
        for (names, equal) in groups_of_counters() {
            let value =
                |name: &String| found.get(&Key { database, index: 0, name: name.clone() }).copied().unwrap_or(0);
            let values: Vec<i64> = names.iter().map(value).collect();
            let right = match equal {
                true => values.iter().all(|value| *value == values[0]),
                false => values.iter().sum::<i64>() == 0,
            };
            if !right {
                let rule = if equal { "are not equal" } else { "do not sum up to 0" };
                return Err(Wrong::Counters(format!("in database {database}, {names:?} {rule}: {values:?}")));
            }
        }
    }
    let value = |counters: &BTreeMap<Key, i64>, key| counters.get(key).copied().unwrap_or(0);
    let keys: BTreeSet<&Key> = expected.keys().chain(found.keys()).collect();
    let wrong = keys.into_iter().filter(|key| value(expected, key) != value(found, key));
    let wrong: Vec<String> =
        wrong.map(|key| format!("{key:?}: expected {}, found {}", value(expected, key), value(found, key))).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Wrong::Counters(wrong.join("\n  "))) }
}

fn shown(space: &Space, key: &Key) -> String {
    space.get(key).map_or("nothing".into(), |entry| shorten(format!("{entry:?}")))
}

fn describe(record: &Record) -> String {
    let state = if record.acknowledged.is_some() { "acknowledged" } else { "not acknowledged" };
    let operation = &record.operation;
    let (database, index) = (operation.database, operation.index);
    shorten(format!("{state}, sent at {} ms, {database}/{index}: {:?}", record.sent_ms, operation.changes))
}

fn shorten(mut text: String) -> String {
    if text.len() > 600 {
        let end = (0..=600).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(text) => write!(f, "settings: {text}"),
            Self::Strange(strange) => write!(f, "there is what nobody has written:\n  {}", strange.join("\n  ")),
            Self::NoPrefix { client, nearest, sent, differences } => write!(
                f,
                "client {client}: the state is none of those after its {sent} operations; after {nearest}, which comes \
                 nearest, these keys differ:\n{differences}"
            ),
            Self::Lost { client, there, promised, first_lost } => write!(
                f,
                "client {client}: {there} operations are there, {promised} were promised; the first that is lost:\n  \
                 {first_lost}"
            ),
            Self::Counters(text) => write!(f, "shared counters: {text}"),
            Self::NotOneMoment { lacks, has } => {
                write!(f, "not one moment: there is\n  {has}\nbut not, acknowledged before that was sent,\n  {lacks}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
