//! A database put together from its objects alone, for a store without a readable manifest.
//!
//! 1. Chunks name their database, and of each body the keyspace, the range and the last effect ([`ChunkOrigin`]). If
//!    chunks were written for several databases of one name, the youngest database's are taken.
//! 2. The bodies are laid over each other: for each position the latest body counts. Ranges that no body covers are cut
//!    into aligned pieces. A body whose values are in pieces is read with these.
//! 3. Onto each piece the effects of all readable tails are replayed that come after its body, then those of the log.
//!
//! A body may be one that only an older manifest named, so a key that was deleted meanwhile may be back. This is
//! reported, as is every object that could not be read.
//!
//! Chunks of version 1 tell neither the seed nor the sequence. Where the log knows the seed, the order of their names
//! stands for the sequence. Where nothing does, each key is taken from the latest chunk that has it, and neither tails
//! nor log are used.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use dormouse_storage::chunk::{ChunkEntry, ChunkIndex, ChunkOrigin, segment_error};
use dormouse_storage::codec::CodecError;
use dormouse_storage::codec::block::open;
use dormouse_storage::codec::segment::{InPieces, Read, visit_body};
use dormouse_storage::codec::value::pieces::Assembly;
use dormouse_storage::log::format::Identity;
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::log::tail::LogTail;
use dormouse_storage::manifest::{Manifest, Names, SELECT_INDEXES, origin_of};
use dormouse_storage::replay::Effects;
use dormouse_storage::shown::INDEXES;
use dormouse_storage::store::{Store, StoreError};
use dormouse_storage::tail::{Tail, TailRecord};
use dormouse_types::Limits;
use dormouse_types::record::Record;
use dormouse_types::segment::{Placement, Range53, Segment, SlotPlacement, prefix53};

use super::SalvageError;
use crate::export::{About, Export, ExportStep, Exported};
use crate::keyspace::Shared;
use crate::replay::replayed;
use crate::snapshot::{SegmentCounts, UnreadablePage};

/// A body in some chunk, with the fields that order it among others of its range.
#[derive(Debug, Clone)]
struct Body {
    chunk: Arc<str>,
    entry: ChunkEntry,
    /// Later is greater: the sequence, then the chunk's epoch and counter.
    age: (u64, u64, u64),
}

/// Pieces by what they belong to: keyspace, start of the range, sequence, number.
type Pieces = HashMap<(u32, u64, u64, u32), (Arc<str>, ChunkEntry)>;

/// The fragments found of a database.
pub(super) struct Fragments {
    database: String,
    bodies: Vec<Body>,
    pieces: Pieces,
    origin: Option<ChunkOrigin>,
    tails: Vec<Arc<Tail>>,
    log: LogTail,
}

impl Fragments {
    /// Looks for everything in the database's own folder and in the log. `None`: nothing was found.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(super) async fn find(
        store: &Store,
        database: &str,
        recovered: &Recovered,
        left_out: &mut Vec<String>,
    ) -> Result<Option<Fragments>, StoreError> {
        let names = Names::new(database)?;
        let mut found: Vec<(Arc<str>, ChunkIndex)> = Vec::new();
        for object in store.list(&names.chunks()).await? {
            match store.get(&object.name).await.and_then(|chunk| index_of(&object.name, &chunk)) {
                Ok(index) => found.push((object.name.as_str().into(), index)),
                Err(error) => left_out.push(error.to_string()),
            }
        }
        let logged = recovered.identities().into_iter().filter(|identity| &*identity.name == database);
        let logged = logged.max_by_key(|identity| identity.created_ms).cloned();
        let mut origin = found.iter().filter_map(|(_, index)| index.origin).max_by_key(|origin| origin.created_ms);
        if let (None, Some(logged)) = (origin, &logged) {
            let keyspaces = std::array::from_fn(|index| index as u32);
            origin = Some(ChunkOrigin { seed: logged.seed, created_ms: logged.created_ms, keyspaces });
        }
        let mut bodies = Vec::new();
        let mut pieces = Pieces::new();
        for (name, index) in found {
            let is_other = |other: ChunkOrigin| origin.is_none_or(|origin| origin.created_ms != other.created_ms);
            if index.origin.is_some_and(is_other) {
                left_out.push(format!("{name}: it belongs to an earlier database of this name"));
                continue;
            }
            let (epoch, _, counter) = origin_of(&name).unwrap_or_default();
            for entry in index.entries.iter().filter(|entry| entry.piece != 0) {
                let owner = (entry.keyspace, entry.range.start, entry.sequence, entry.piece);
                pieces.insert(owner, (Arc::clone(&name), *entry));
            }
            bodies.extend(index.entries.into_iter().filter(|entry| entry.piece == 0).map(|entry| Body {
                chunk: Arc::clone(&name),
                entry,
                age: (entry.sequence, epoch, counter),
            }));
        }
        // The chunk that was written last knows best which keyspaces are shown.
        bodies.sort_by_key(|body| Reverse(body.age));
        if let (Some(origin), Some(newest)) = (&mut origin, bodies.first())
            && let Ok(chunk) = store.get(&newest.chunk).await
            && let Some(shown) = index_of(&newest.chunk, &chunk).ok().and_then(|index| index.origin)
        {
            *origin = shown;
        }
        let mut fragments = Fragments {
            database: database.to_owned(),
            bodies,
            pieces,
            origin,
            tails: Vec::new(),
            log: LogTail::default(),
        };
        match fragments.origin {
            Some(origin) => fragments.find_effects(store, &names, recovered, origin, left_out).await?,
            None => left_out.push(
                "tails and log: these chunks do not say where keys belong, so what was written after them cannot be \
                 replayed"
                    .to_owned(),
            ),
        }
        let is_empty = fragments.bodies.is_empty() && fragments.tails.is_empty() && fragments.log.is_empty();
        Ok((!is_empty).then_some(fragments))
    }

    async fn find_effects(
        &mut self,
        store: &Store,
        names: &Names,
        recovered: &Recovered,
        origin: ChunkOrigin,
        left_out: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        for object in store.list(&names.tails()).await? {
            let read = Tail::read(store, &object.name).await;
            match read.and_then(|tail| tail.verify().and_then(|()| tail.all()).map(|_| tail)) {
                Ok(tail) => self.tails.push(Arc::new(tail)),
                Err(error) => left_out.push(error.to_string()),
            }
        }
        let ChunkOrigin { seed, created_ms, .. } = origin;
        let entries = recovered.entries_of(&Identity { name: self.database.as_str().into(), seed, created_ms });
        let damage = entries.damage;
        // Without a manifest nothing says where the log must begin.
        let floor = entries.entries.first().map_or(0, |entry| entry.sequence.saturating_sub(1));
        let (log, problem) = LogTail::prefix(entries.entries, floor);
        if let Some(problem) = problem.or(damage) {
            left_out.push(format!("the writes after {} in the log: {problem}", log.sequence));
        }
        self.log = log;
        Ok(())
    }

    /// Writes everything as an RDB.
    ///
    /// # Errors
    /// When the store cannot be asked, or `out` refuses to take more.
    pub(super) async fn export<W: Write + Send>(
        &self,
        store: &Store,
        out: W,
        about: About<'_>,
        watch: &mut (dyn FnMut(ExportStep<'_>) + Send),
        left_out: &mut Vec<String>,
    ) -> Result<(W, Exported), SalvageError> {
        let mut export = Export::begin(out, about).map_err(crate::export::ExportError::from)?;
        let shown = self.shown();
        for (index, keyspace) in shown.iter().enumerate() {
            let bodies: Vec<&Body> = self.bodies.iter().filter(|body| body.entry.keyspace == *keyspace).collect();
            let counts =
                SegmentCounts { keys: bodies.iter().map(|body| u64::from(body.entry.records)).sum(), expiring: 0 };
            let mut refused = None;
            let mut write = |record: &Record| {
                if refused.is_none() {
                    refused = export.record(index, counts, record, &mut *watch).err();
                }
            };
            match self.origin {
                Some(origin) => {
                    self.visit(store, (*keyspace, Range53::WHOLE), &bodies, origin.seed, &mut write, left_out).await
                }
                None => self.visit_by_key(store, &bodies, &mut write, left_out).await,
            }
            if let Some(error) = refused {
                return Err(crate::export::ExportError::from(error).into());
            }
        }
        let hidden: HashSet<u32> = self.bodies.iter().map(|body| body.entry.keyspace).collect();
        let hidden = hidden.iter().filter(|keyspace| !shown.contains(keyspace)).count();
        if hidden > 0 && self.origin.is_none() {
            left_out.push(format!("{hidden} keyspaces: nothing says which index showed them"));
        }
        Ok(export.finish(watch).map_err(crate::export::ExportError::from)?)
    }

    /// Whether they belong to the database that a manifest describes, rather than to another one of its name.
    pub(super) fn is_of(&self, manifest: &Manifest) -> bool {
        self.origin.is_some_and(|origin| (origin.seed, origin.created_ms) == (manifest.seed, manifest.created_ms))
    }

    /// Writes everything known of the segments that a page of the manifest describes.
    ///
    /// # Errors
    /// When the output refuses to take more.
    pub(super) async fn export_page<W: Write + Send>(
        &self,
        store: &Store,
        page: &UnreadablePage,
        export: &mut Export<W>,
        watch: &mut (dyn FnMut(ExportStep<'_>) + Send),
        left_out: &mut Vec<String>,
    ) -> Result<(), SalvageError> {
        let Some(origin) = self.origin else { return Ok(()) };
        let UnreadablePage { index, keyspace, range, counts } = *page;
        let bodies: Vec<&Body> = self.bodies.iter().filter(|body| body.entry.keyspace == keyspace).collect();
        let mut refused = None;
        let mut write = |record: &Record| {
            if refused.is_none() {
                refused = export.record(index, counts, record, &mut *watch).err();
            }
        };
        self.visit(store, (keyspace, range), &bodies, origin.seed, &mut write, left_out).await;
        refused.map_or(Ok(()), |error| Err(crate::export::ExportError::from(error).into()))
    }

    /// Which keyspace each index shows.
    fn shown(&self) -> [u32; INDEXES] {
        let by_chunks =
            self.origin.map_or_else(|| std::array::from_fn(|index| index as u32), |origin| origin.keyspaces);
        let newest = self.bodies.first().map_or(0, |body| body.entry.sequence);
        match &self.log.shown {
            Some(shown) if self.log.sequence >= newest => std::array::from_fn(|index| shown.ids[index]),
            _ => by_chunks,
        }
    }

    /// Shows every key of a range of a keyspace once, in the latest known state of its position.
    async fn visit(
        &self,
        store: &Store,
        (keyspace, range): (u32, Range53),
        bodies: &[&Body],
        seed: u64,
        write: &mut (dyn FnMut(&Record) + Send),
        left_out: &mut Vec<String>,
    ) {
        let shared = Shared::new(&self.database, seed);
        let mut covered = Covered::default();
        for body in bodies {
            let Some(both) = shared_part(body.entry.range, range) else { continue };
            let pieces = covered.uncovered(both);
            if pieces.is_empty() {
                continue;
            }
            match self.records_of(store, body).await {
                Ok(records) => {
                    covered.add(both);
                    self.write_pieces(&shared, keyspace, &pieces, records, body.entry.sequence, write, left_out);
                }
                // Older bodies of the range are better than nothing.
                Err(error) => left_out.push(error.to_string()),
            }
        }
        // Ranges that no body covers: keys that only tails and the log know.
        let pieces = covered.uncovered(range);
        self.write_pieces(&shared, keyspace, &pieces, Found::default(), 0, write, left_out);
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `visit`, which has them all at hand")]
    fn write_pieces(
        &self,
        shared: &Shared,
        keyspace: u32,
        pieces: &[Range53],
        found: Found,
        sequence: u64,
        write: &mut (dyn FnMut(&Record) + Send),
        left_out: &mut Vec<String>,
    ) {
        let placement: SlotPlacement = shared.placement;
        let mut of_piece: Vec<Segment<Record>> = pieces.iter().map(|piece| Segment::new(*piece)).collect();
        for record in found.records {
            let position = placement.position(record.key());
            let at = pieces.partition_point(|piece| piece.end() <= prefix53(position));
            if pieces.get(at).is_some_and(|piece| piece.contains(prefix53(position)))
                && of_piece[at].get(position, record.key()).is_none()
            {
                of_piece[at].insert(position, record, &placement);
            }
        }
        for (piece, segment) in pieces.iter().zip(of_piece) {
            let effects = match self.effects(keyspace, *piece, sequence) {
                Ok(effects) => effects,
                Err(error) => {
                    left_out.push(error.to_string());
                    Vec::new()
                }
            };
            if segment.is_empty() && effects.is_empty() {
                continue;
            }
            let mut effects = Effects { tailed: effects, logged: Vec::new() };
            effects.retain_unseen(&found.later);
            match replayed(shared, keyspace, segment, &effects) {
                Ok(places) => {
                    places.iter().filter_map(|place| place.segment()).flat_map(Segment::iter).for_each(&mut *write);
                }
                Err(error) => left_out.push(error.to_string()),
            }
        }
    }

    /// The records of a body, with the values that are in pieces.
    async fn records_of(&self, store: &Store, body: &Body) -> Result<Found, StoreError> {
        let Body { chunk, entry, .. } = body;
        let limits = Limits::default();
        let failed = |error: CodecError| segment_error(chunk, entry.range, &error);
        let bytes = store.get_range(chunk, entry.offset..entry.offset + entry.len).await?;
        let mut records = Vec::with_capacity(entry.records.min(1 << 16) as usize);
        let mut in_pieces = Vec::new();
        let later = visit_body(&bytes, &limits, |read| match read {
            Read::Whole(record) => records.push(record),
            Read::InPieces(record) => in_pieces.push(record),
        });
        let later = later.map_err(failed)?.into_iter();
        let later = later.map(|(position, by)| (position, entry.sequence.saturating_add(by))).collect();
        for InPieces { key, expiry, access, outline, first, pieces } in in_pieces {
            let mut value = Assembly::new(outline, &limits).map_err(failed)?;
            for number in first..first + pieces {
                let owner = (entry.keyspace, entry.range.start, entry.sequence, number);
                let found = self.pieces.get(&owner);
                let missing = || failed(CodecError::Malformed("a piece of a value is in none of the chunks"));
                let (name, piece) = found.ok_or_else(missing)?;
                let bytes = store.get_range(name, piece.offset..piece.offset + piece.len).await?;
                let pushed = open(&bytes).and_then(|piece| value.push(&piece, &limits));
                pushed.map_err(|error| segment_error(name, entry.range, &error))?;
            }
            let mut record = Record::new_object(&key, value.finish(&limits).map_err(failed)?, expiry);
            record.set_access(access);
            records.push(record);
        }
        Ok(Found { records, later })
    }

    /// Shows every key once, from the latest chunk that has it.
    async fn visit_by_key(
        &self,
        store: &Store,
        bodies: &[&Body],
        write: &mut (dyn FnMut(&Record) + Send),
        left_out: &mut Vec<String>,
    ) {
        let mut seen: HashSet<Box<[u8]>> = HashSet::new();
        for body in bodies {
            match self.records_of(store, body).await {
                Ok(found) => {
                    found.records.iter().filter(|record| seen.insert(record.key().into())).for_each(&mut *write);
                }
                Err(error) => left_out.push(error.to_string()),
            }
        }
    }

    /// The effects on a piece after `sequence`, each once.
    fn effects(&self, keyspace: u32, piece: Range53, sequence: u64) -> Result<Vec<TailRecord>, StoreError> {
        let mut effects = Vec::new();
        for tail in &self.tails {
            effects.extend(tail.effects(keyspace, piece, sequence)?);
        }
        effects.extend(self.log.effects(keyspace, piece, sequence));
        // Stable: an effect of the log follows the value that a tail has of the same moment.
        effects.sort_by_key(|effect| effect.sequence);
        let mut seen = HashSet::new();
        effects.retain(|effect| seen.insert((effect.sequence, effect.position, effect.body.clone())));
        Ok(effects)
    }
}

fn index_of(name: &str, chunk: &Bytes) -> Result<ChunkIndex, StoreError> {
    ChunkIndex::of_chunk(chunk).map_err(|error| StoreError::corrupt(name, format!("its index cannot be read: {error}")))
}

/// The contents of a body.
#[derive(Default)]
struct Found {
    records: Vec<Record>,
    /// Positions of keys that have seen more than the body, and up to which effect.
    later: Vec<(u64, u64)>,
}

/// The intersection of two aligned ranges: the smaller one, or nothing.
fn shared_part(one: Range53, other: Range53) -> Option<Range53> {
    let holds = |outer: Range53, inner: Range53| outer.start <= inner.start && inner.end() <= outer.end();
    let (smaller, larger) = if one.bits > other.bits { (other, one) } else { (one, other) };
    holds(larger, smaller).then_some(smaller)
}

/// Ranges of which something is known: aligned ranges, which either contain one another or share nothing.
#[derive(Debug, Default)]
struct Covered(BTreeMap<u64, Range53>);

impl Covered {
    fn add(&mut self, range: Range53) {
        self.0.retain(|_, known| !(range.start <= known.start && known.end() <= range.end()));
        self.0.insert(range.start, range);
    }

    /// The aligned pieces of a range of which nothing is known, in order.
    fn uncovered(&self, range: Range53) -> Vec<Range53> {
        let mut pieces = Vec::new();
        self.collect(range, &mut pieces);
        pieces
    }

    fn collect(&self, range: Range53, pieces: &mut Vec<Range53>) {
        let holds = |known: &Range53| known.start <= range.start && range.end() <= known.end();
        if self.0.range(..=range.start).next_back().is_some_and(|(_, known)| holds(known)) {
            return;
        }
        if self.0.range(range.start..range.end()).next().is_none() {
            pieces.push(range);
            return;
        }
        let (low, high) = range.halves();
        self.collect(low, pieces);
        self.collect(high, pieces);
    }
}

const _: () = assert!(INDEXES == SELECT_INDEXES);
