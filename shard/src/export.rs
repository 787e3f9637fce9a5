//! Export of a stored database to an RDB, without a server.
//!
//! Keys that have expired are left out, unless the reader wants them, and so are keys of types that the readers of the
//! written version lack. The order of keys is that of their positions.
//!
//! A large value is never in memory as a whole: RDB has the same elements as the store's pieces, so they are read, written
//! and dropped one after the other. Exceptions are streams, whose parts RDB has in another order, a value that was changed
//! since it was stored, and values that an older version of RDB has in another form.

use std::io::{self, Write};

use dormouse_storage::codec::segment::InPieces;
use dormouse_storage::codec::value::newer::Dialect;
use dormouse_storage::codec::value::pieces::{Outline, is_passed_on};
use dormouse_storage::codec::value::{RdbReaders, type_name};
use dormouse_storage::rdb::writer::{Beside, RdbWriter};
use dormouse_storage::shown::INDEXES;
use dormouse_types::record::access_clock;
use dormouse_types::record::{Record, Value};

use crate::error::Error;
use crate::snapshot::{SegmentCounts, Snapshot, Unreadable, Visitor};

/// Number of records between two reports of progress.
const STEP: u64 = 1 << 12;

/// The first version of RDB with functions.
const FUNCTIONS_SINCE: u16 = 10;

/// The volume that an export wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    pub keys: u64,
    pub bytes: u64,
    /// Keys of types that the readers lack, see [`ExportStep::LeftOut`].
    pub left_out: u64,
}

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportStep<'a> {
    Written(Exported),
    /// A key whose type the readers lack. `what` is the type's name, as `TYPE` replies it.
    LeftOut {
        index: usize,
        key: &'a [u8],
        what: &'static str,
    },
}

/// The reason why an export is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Database(#[from] Error),
}

/// Parameters of an export besides the database.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The readers.
    pub target: RdbReaders,
    /// The version of the server that the RDB names.
    pub server: &'a str,
    /// Unix milliseconds.
    pub now_ms: u64,
    /// Whether keys that have expired are written too, for a reader that is told when they go.
    pub keeps_expired: bool,
}

/// Writes all of a database. `watch` receives the progress.
///
/// # Errors
/// When something of the database cannot be read, or `out` refuses to take more.
pub async fn export<W: Write + Send>(
    snapshot: &Snapshot<'_>,
    out: W,
    about: About<'_>,
    watch: &mut (dyn FnMut(ExportStep<'_>) + Send),
) -> Result<(W, Exported), ExportError> {
    let mut export = Export::begin(out, about)?;
    export_all(snapshot, &mut export, true, watch, &mut |unreadable| Err(unreadable.error)).await?;
    Ok(export.finish(watch)?)
}

/// The same, but for each part that cannot be read, asks `damaged` whether to go on without it. Large values are read as a
/// whole before they are written, since what is written cannot be taken back.
///
/// # Errors
/// The error that `damaged` returns, or when the output refuses to take more.
pub(crate) async fn export_readable<W: Write + Send>(
    snapshot: &Snapshot<'_>,
    export: &mut Export<W>,
    watch: &mut (dyn FnMut(ExportStep<'_>) + Send),
    damaged: &mut (dyn FnMut(Unreadable) -> Result<(), Error> + Send),
) -> Result<(), ExportError> {
    export_all(snapshot, export, false, watch, damaged).await
}

/// `in_pieces`: whether an error in the midst of a value ends all.
async fn export_all<W: Write + Send>(
    snapshot: &Snapshot<'_>,
    export: &mut Export<W>,
    in_pieces: bool,
    watch: &mut (dyn FnMut(ExportStep<'_>) + Send),
    damaged: &mut (dyn FnMut(Unreadable) -> Result<(), Error> + Send),
) -> Result<(), ExportError> {
    for text in snapshot.functions() {
        export.library(&text)?;
    }
    for index in 0..INDEXES {
        let counts = snapshot.counts(index);
        let mut writing = Writing { export, index, counts, in_pieces, watch: &mut *watch, refused: None };
        let visited = snapshot.visit_readable(index, &mut writing, &mut *damaged).await;
        if let Some(error) = writing.refused {
            return Err(error.into());
        }
        visited?;
    }
    Ok(())
}

/// The records of one index on their way into an RDB.
struct Writing<'e, W> {
    export: &'e mut Export<W>,
    index: usize,
    counts: SegmentCounts,
    in_pieces: bool,
    watch: &'e mut (dyn FnMut(ExportStep<'_>) + Send),
    /// The error of the output, which cannot pass through the visit: that one's errors are the database's.
    refused: Option<io::Error>,
}

impl<W: Write> Writing<'_, W> {
    fn note(&mut self, written: io::Result<()>) -> Result<(), Error> {
        written.map_err(|error| {
            self.refused = Some(error);
            Error::text("ERR the output refused")
        })
    }
}

impl<W: Write> Visitor for Writing<'_, W> {
    fn record(&mut self, record: &Record) -> Result<(), Error> {
        let written = self.export.record(self.index, self.counts, record, self.watch);
        self.note(written)
    }

    fn takes_pieces_of(&self, outline: Outline) -> bool {
        // What is left out need not be put together.
        let target = self.export.target;
        self.in_pieces && (is_passed_on(outline, target) || target.lacks(outline.kind))
    }

    fn begin(&mut self, record: &InPieces) -> Result<(), Error> {
        let written = self.export.begin_in_pieces(self.index, self.counts, record, self.watch);
        self.note(written)
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), Error> {
        let written = self.export.piece(piece);
        self.note(written)
    }
}

/// An RDB that is being written, record by record, index after index.
pub(crate) struct Export<W> {
    rdb: RdbWriter<W>,
    target: RdbReaders,
    exported: Exported,
    selected: Option<usize>,
    /// Keys that expire by then are left out.
    expired_ms: u64,
    clock: u32,
    /// Whether the record whose pieces come has expired, or is of a type that this version does not have.
    is_skipped: bool,
}

impl<W: Write> Export<W> {
    pub(crate) fn begin(out: W, about: About<'_>) -> io::Result<Self> {
        let About { target, server, now_ms, keeps_expired } = about;
        let mut rdb = RdbWriter::with_target(out, target);
        let name = match target.dialect {
            Dialect::Redis => "redis-ver",
            Dialect::Valkey => "valkey-ver",
        };
        rdb.aux(name, server)?;
        rdb.aux("redis-bits", "64")?;
        rdb.aux("ctime", &(now_ms / 1000).to_string())?;
        rdb.aux("aof-base", "0")?;
        let (exported, clock) = (Exported::default(), access_clock(now_ms));
        let expired_ms = if keeps_expired { 0 } else { now_ms };
        Ok(Self { rdb, target, exported, selected: None, expired_ms, clock, is_skipped: false })
    }

    /// Writes a library of functions, which versions before 10 do not have.
    fn library(&mut self, text: &[u8]) -> io::Result<()> {
        if self.target.version >= FUNCTIONS_SINCE { self.rdb.function(text) } else { Ok(()) }
    }

    /// Writes a record, unless it has expired or the readers lack its type. `counts`: about how many its index has.
    pub(crate) fn record(
        &mut self,
        index: usize,
        counts: SegmentCounts,
        record: &Record,
        watch: &mut (dyn FnMut(ExportStep<'_>) + Send),
    ) -> io::Result<()> {
        if record.expiry().is_some_and(|at| at <= self.expired_ms) {
            return Ok(());
        }
        let value = record.value();
        if let Value::Object(object) = &value
            && !self.rdb.takes(&value)
        {
            self.exported.left_out += 1;
            watch(ExportStep::LeftOut { index, key: record.key(), what: object.kind().name() });
            return Ok(());
        }
        let beside = self.begin_key(index, counts, record.expiry(), record.access(), watch)?;
        self.rdb.record(record.key(), &value, beside)
    }

    /// Begins a record whose value comes in pieces.
    fn begin_in_pieces(
        &mut self,
        index: usize,
        counts: SegmentCounts,
        record: &InPieces,
        watch: &mut (dyn FnMut(ExportStep<'_>) + Send),
    ) -> io::Result<()> {
        let has_expired = record.expiry.is_some_and(|at| at <= self.expired_ms);
        let is_left_out = self.target.lacks(record.outline.kind);
        self.is_skipped = has_expired || is_left_out;
        if is_left_out && !has_expired {
            self.exported.left_out += 1;
            let what = type_name(record.outline.kind);
            watch(ExportStep::LeftOut { index, key: &record.key, what });
        }
        if self.is_skipped {
            return Ok(());
        }
        let beside = self.begin_key(index, counts, record.expiry, record.access, watch)?;
        self.rdb.begin_in_pieces(&record.key, record.outline, beside)
    }

    fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.is_skipped { Ok(()) } else { self.rdb.piece(piece) }
    }

    /// Writes what comes before a key; returns what stands beside it.
    fn begin_key(
        &mut self,
        index: usize,
        counts: SegmentCounts,
        expiry_ms: Option<u64>,
        access: u32,
        watch: &mut (dyn FnMut(ExportStep<'_>) + Send),
    ) -> io::Result<Beside> {
        // The clock wraps; a record that seems half a turn old was used after `now_ms`.
        let idle = Some(self.clock.wrapping_sub(access) & 0xff_ffff).filter(|idle| *idle < 0x80_0000);
        if self.selected != Some(index) {
            self.selected = Some(index);
            self.rdb.select(index as u64)?;
            self.rdb.resize(counts.keys, counts.expiring)?;
        }
        self.exported.keys += 1;
        if self.exported.keys.is_multiple_of(STEP) {
            watch(ExportStep::Written(Exported { bytes: self.rdb.written(), ..self.exported }));
        }
        Ok(Beside { expiry_ms, idle_s: idle.filter(|idle| *idle > 0).map(u64::from), ..Beside::default() })
    }

    pub(crate) fn finish(self, watch: &mut (dyn FnMut(ExportStep<'_>) + Send)) -> io::Result<(W, Exported)> {
        let (out, bytes) = self.rdb.finish()?;
        let exported = Exported { bytes, ..self.exported };
        watch(ExportStep::Written(exported));
        Ok((out, exported))
    }
}
