//! The runs of a fleet as they were read, and the line from a writer to the one that has its log now.
//!
//! 1. The line of a writer begins at its record in its own run, and goes from record to record.
//! 2. If the next record of the run is of a later process of the same node, the line goes on there: that process has read
//!    the log.
//! 3. If it is an adoption, the line goes on at the adopter's record in the adopter's own run.
//! 4. If it is a release, the line ends: the writer needed its log no more, nor one that it had inherited. A line passes over
//!    two kinds of releases, and then the log decides whether it is needed. A lone process releases the store even if
//!    databases need its log. And a release beyond an adoption may be older than the adoption, or than the circle (see below)
//!    for which it does not count.
//! 5. The line of the last writer of a run ends there.
//!
//! Invariant: each step follows from a record that never changes and that nothing can come before. So a line only grows, and
//! a line that ends at a process can leave it only by a record that ends the process itself.
//!
//! Two adoptions do not count, and the line goes on after them in the same run. They come from processes that were stopped
//! between their last look at their own run and the record that they then created, however late:
//!
//! - An adoption by a writer without a record. It was overtaken a day ago, and its record is deleted.
//! - The first one (by run and number) of a circle, as of two nodes that adopted each other. Both are overtaken, so one of
//!   them must be found at the end of the line, to be adopted in turn.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, future, stream};

use super::record::{FOLDER, NODES, OwnerRecord, OwnerRun, read};
use crate::store::{ObjectInfo, Store, StoreError};

/// Records that are read at once.
pub(super) const READS_TOGETHER: usize = 64;
/// A list that takes several requests may lack so many records that were created meanwhile.
const GAP_MAX: u64 = 64;

/// What is remembered from list to list.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By run and number. Records never change, and their numbers are never used again.
    records: HashMap<(OwnerRun, u64), Arc<OwnerRecord>>,
    /// Adopters whose own records are deleted.
    gone: HashSet<u64>,
}

/// The numbers of the records of runs, each with the time of its record.
type Listed = BTreeMap<OwnerRun, BTreeMap<u64, i64>>;

/// A record, and when it was created.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub record: Arc<OwnerRecord>,
    /// Unix milliseconds by the store's clock.
    pub modified_ms: i64,
}

/// A record's place: its run's index, and its own in that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Spot {
    run: usize,
    entry: usize,
}

/// All runs of a store.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// Ordered by run, each with its records in the order of their numbers, without a gap.
    runs: Vec<(OwnerRun, Vec<Entry>)>,
    /// The record of each writer in its own run.
    spots: HashMap<u64, Spot>,
}

/// The end of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The last process of a node.
    Writer { node: String, writer: u64 },
    /// The last process of the run `owner`.
    Lone,
    /// The last process of this node has released its run.
    Released { node: String },
}

/// The line of a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub end: End,
    /// It goes over a release.
    pub passes_release: bool,
    /// It goes over an adoption, even if that does not count.
    pub passes_adoption: bool,
}

enum Next {
    Record(Spot),
    /// The adoption, and the adopter's own record.
    Adopter(Spot, Spot),
    End(End),
}

impl Runs {
    /// Reads all runs, except for the records that are known.
    ///
    /// # Errors
    /// When the store refuses, or a record cannot be read.
    pub async fn read(store: &Store, known: &mut Known) -> Result<Self, StoreError> {
        let (lone, nodes) = future::try_join(store.list(FOLDER), store.list(NODES)).await?;
        let mut listed = Listed::new();
        add(&mut listed, lone.iter().chain(&nodes));
        loop {
            let runs = Self::of(known.read(store, &listed).await?);
            // A list that takes several requests may lack an adopter's record that is older than the adoption.
            let unknown = runs.unknown_adopters(&known.gone);
            if unknown.is_empty() {
                known.forget_all_but(&runs);
                return Ok(runs);
            }
            for (writer, run) in unknown {
                let found = store.list(&run.folder()).await?;
                listed.remove(&run);
                add(&mut listed, &found);
                let again = Self::of(known.read(store, &listed).await?);
                if !again.spots.contains_key(&writer) {
                    known.gone.insert(writer);
                }
            }
        }
    }

    /// Adopters without a record, and the runs that should have one.
    fn unknown_adopters(&self, gone: &HashSet<u64>) -> BTreeMap<u64, OwnerRun> {
        let entries = self.runs.iter().flat_map(|(run, entries)| entries.iter().map(move |entry| (run, &entry.record)));
        let adoptions = entries.filter(|(run, record)| run.is_adopted_by(record));
        let unknown =
            adoptions.filter(|(_, record)| !self.spots.contains_key(&record.writer) && !gone.contains(&record.writer));
        unknown.filter_map(|(_, record)| Some((record.writer, OwnerRun::Node(record.node.clone()?)))).collect()
    }

    pub fn of(runs: Vec<(OwnerRun, Vec<Entry>)>) -> Self {
        let mut spots = HashMap::new();
        for (at, (run, entries)) in runs.iter().enumerate() {
            for (entry, Entry { record, .. }) in entries.iter().enumerate() {
                if !record.is_release() && !run.is_adopted_by(record) {
                    spots.insert(record.writer, Spot { run: at, entry });
                }
            }
        }
        Self { runs, spots }
    }

    pub fn iter(&self) -> impl Iterator<Item = &(OwnerRun, Vec<Entry>)> {
        self.runs.iter()
    }

    pub fn entries(&self, run: &OwnerRun) -> &[Entry] {
        let at = self.runs.binary_search_by(|(other, _)| other.cmp(run));
        at.map_or(&[], |at| &self.runs[at].1)
    }

    /// The last writer of its own that a run has, and whether it has released the run.
    pub fn last_writer(&self, run: &OwnerRun) -> Option<(u64, bool)> {
        let mut own =
            self.entries(run).iter().rev().map(|entry| &entry.record).filter(|record| !run.is_adopted_by(record));
        let last = own.next()?;
        match last.is_release() {
            true => Some((own.next()?.writer, true)),
            false => Some((last.writer, false)),
        }
    }

    /// All writers that have a record in their own run.
    pub fn writers(&self) -> impl Iterator<Item = u64> {
        self.spots.keys().copied()
    }

    /// Whether a record names this writer, if only as an adopter.
    pub fn mentions(&self, writer: u64) -> bool {
        self.runs.iter().flat_map(|(_, entries)| entries).any(|entry| entry.record.writer == writer)
    }

    /// The line of a writer; none if no run has its record.
    pub fn line(&self, writer: u64) -> Option<Line> {
        self.spots.get(&writer).map(|spot| self.line_from(*spot, false))
    }

    /// The line from the last adoption of the run `owner` that counts: logs of lone processes without a record are the
    /// adopter's.
    pub fn line_of_unrecorded(&self) -> Option<Line> {
        let entries = self.entries(&OwnerRun::Lone);
        let adopted = entries.iter().rev().filter(|entry| OwnerRun::Lone.is_adopted_by(&entry.record));
        let spot = adopted.filter_map(|entry| self.spots.get(&entry.record.writer)).next()?;
        Some(self.line_from(*spot, true))
    }

    /// Whether a lone process's record, or none, comes last in `owner/`.
    pub fn is_lone(&self) -> bool {
        let last = self.entries(&OwnerRun::Lone).last();
        !last.is_some_and(|last| {
            OwnerRun::Lone.is_adopted_by(&last.record) && self.spots.contains_key(&last.record.writer)
        })
    }

    /// Whether the writer has released the run just after its record.
    pub fn has_released(&self, writer: u64) -> bool {
        let Some(Spot { run, entry }) = self.spots.get(&writer) else { return false };
        self.runs[*run].1.get(entry + 1).is_some_and(|next| next.record.is_release())
    }

    /// Whether this writer has adopted a run of which records before the adoption are left.
    pub fn is_adopter(&self, writer: u64) -> bool {
        self.runs.iter().any(|(run, entries)| {
            let later = entries.iter().skip(1);
            later.into_iter().any(|entry| entry.record.writer == writer && run.is_adopted_by(&entry.record))
        })
    }

    fn line_from(&self, start: Spot, passes_adoption: bool) -> Line {
        let mut void: BTreeSet<Spot> = BTreeSet::new();
        'again: loop {
            let mut line = Line { end: End::Lone, passes_release: false, passes_adoption };
            // The adoptions, each with the adopter's record. Within a run, numbers only grow.
            let mut path: Vec<(Spot, Spot)> = Vec::new();
            let mut at = start;
            loop {
                match self.next(at, &void, &mut line) {
                    Next::Record(next) => at = next,
                    Next::Adopter(adoption, adopter) => {
                        let first = path.iter().position(|(_, other)| *other == adopter);
                        path.push((adoption, adopter));
                        if let Some(first) = first {
                            void.extend(path[first + 1..].iter().map(|(adoption, _)| *adoption).min());
                            continue 'again;
                        }
                        at = adopter;
                    }
                    Next::End(end) => return Line { end, ..line },
                }
            }
        }
    }

    /// The step after the record of a process.
    fn next(&self, at: Spot, void: &BTreeSet<Spot>, line: &mut Line) -> Next {
        let (run, entries) = &self.runs[at.run];
        let mut is_released = false;
        for (entry, Entry { record, .. }) in entries.iter().enumerate().skip(at.entry + 1) {
            let spot = Spot { entry, ..at };
            if run.is_adopted_by(record) {
                // One that does not count may have counted when a later process of the run ended.
                line.passes_adoption = true;
                if let Some(adopter) = self.spots.get(&record.writer).filter(|_| !void.contains(&spot)) {
                    return Next::Adopter(spot, *adopter);
                }
            } else if !record.is_release() {
                return Next::Record(spot);
            } else if *run == OwnerRun::Lone || line.passes_adoption {
                (is_released, line.passes_release) = (true, true);
            } else {
                is_released = true;
                break;
            }
        }
        Next::End(match run {
            OwnerRun::Lone => End::Lone,
            OwnerRun::Node(node) if is_released => End::Released { node: node.clone() },
            OwnerRun::Node(node) => End::Writer { node: node.clone(), writer: entries[at.entry].record.writer },
        })
    }
}

impl Known {
    /// The runs with these records, all of which are known afterwards.
    async fn read(&mut self, store: &Store, listed: &Listed) -> Result<Vec<(OwnerRun, Vec<Entry>)>, StoreError> {
        let all = listed.iter().flat_map(|(run, numbers)| numbers.keys().map(move |number| (run.clone(), *number)));
        let wanted: Vec<(OwnerRun, u64)> = all.filter(|key| !self.records.contains_key(key)).collect();
        let reads = wanted.into_iter().map(async |key| {
            let record = read(store, &key.0, key.1).await?;
            Ok::<_, StoreError>((key, record))
        });
        let found: Vec<_> = stream::iter(reads).buffered(READS_TOGETHER).try_collect().await?;
        self.records.extend(found.into_iter().filter_map(|(key, record)| Some((key, Arc::new(record?)))));
        let runs = listed.iter().map(|(run, numbers)| {
            let mut entries: Vec<Entry> = Vec::with_capacity(numbers.len());
            for (number, modified_ms) in numbers.iter().rev() {
                let is_next = entries.last().is_none_or(|later| later.record.number == number + 1);
                // The oldest are deleted first, so what comes before a missing one is gone too.
                let record = self.records.get(&(run.clone(), *number));
                let Some(record) = record.filter(|_| is_next) else { break };
                entries.push(Entry { record: Arc::clone(record), modified_ms: *modified_ms });
            }
            entries.reverse();
            (run.clone(), entries)
        });
        Ok(runs.collect())
    }

    fn forget_all_but(&mut self, runs: &Runs) {
        let first = |run: &OwnerRun| runs.entries(run).first().map_or(u64::MAX, |first| first.record.number);
        self.records.retain(|(run, number), _| *number >= first(run));
        self.gone.retain(|writer| runs.mentions(*writer));
    }
}

/// Adds the records of a list, and the numbers that it lacks between others.
fn add<'a>(listed: &mut Listed, objects: impl IntoIterator<Item = &'a ObjectInfo>) {
    for object in objects {
        if let Some((run, number)) = OwnerRun::parse(&object.name) {
            listed.entry(run).or_default().insert(number, object.modified_ms);
        }
    }
    for numbers in listed.values_mut() {
        let pairs: Vec<(u64, u64, i64)> =
            numbers.iter().zip(numbers.iter().skip(1)).map(|((a, _), (b, ms))| (*a, *b, *ms)).collect();
        for (before, after, modified_ms) in pairs.into_iter().filter(|(before, after, _)| after - before <= GAP_MAX) {
            numbers.extend((before + 1..after).map(|number| (number, modified_ms)));
        }
    }
}
