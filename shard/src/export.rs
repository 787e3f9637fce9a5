//! Export of a stored database to an RDB, without a server.
//!
//! Keys that have expired are left out, unless the reader wants them. The order of keys is that of their positions.

use std::io::{self, Write};

use dormouse_storage::rdb::writer::{Beside, RdbWriter};
use dormouse_storage::shown::INDEXES;
use dormouse_types::record::Record;
use dormouse_types::record::access_clock;

use crate::error::Error;
use crate::snapshot::{SegmentCounts, Snapshot, Unreadable};

/// Number of records between two reports of progress.
const STEP: u64 = 1 << 12;

/// The first version of RDB with functions.
const FUNCTIONS_SINCE: u16 = 10;

/// The volume that an export wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    pub keys: u64,
    pub bytes: u64,
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
    /// The version of RDB, see [`RdbWriter::with_version`].
    pub version: u16,
    /// The version of Redis that the RDB names.
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
    watch: &mut (dyn FnMut(Exported) + Send),
) -> Result<(W, Exported), ExportError> {
    let mut export = Export::begin(out, about)?;
    export_readable(snapshot, &mut export, watch, &mut |unreadable| Err(unreadable.error)).await?;
    Ok(export.finish(watch)?)
}

/// The same, but for each part that cannot be read, asks `damaged` whether to go on without it.
///
/// # Errors
/// The error that `damaged` returns, or when the output refuses to take more.
pub(crate) async fn export_readable<W: Write + Send>(
    snapshot: &Snapshot<'_>,
    export: &mut Export<W>,
    watch: &mut (dyn FnMut(Exported) + Send),
    damaged: &mut (dyn FnMut(Unreadable) -> Result<(), Error> + Send),
) -> Result<(), ExportError> {
    for text in snapshot.functions() {
        export.library(&text)?;
    }
    for index in 0..INDEXES {
        let counts = snapshot.counts(index);
        // An error of the output cannot pass through the visit, whose errors are the database's.
        let mut refused = None;
        let mut write = |record: &Record| {
            export.record(index, counts, record, &mut *watch).map_err(|error| {
                refused = Some(error);
                Error::text("ERR the output refused")
            })
        };
        let visited = snapshot.visit_readable(index, &mut write, &mut *damaged).await;
        if let Some(error) = refused {
            return Err(error.into());
        }
        visited?;
    }
    Ok(())
}

/// An RDB that is being written, record by record, index after index.
pub(crate) struct Export<W> {
    rdb: RdbWriter<W>,
    version: u16,
    exported: Exported,
    selected: Option<usize>,
    /// Keys that expire by then are left out.
    expired_ms: u64,
    clock: u32,
}

impl<W: Write> Export<W> {
    pub(crate) fn begin(out: W, about: About<'_>) -> io::Result<Self> {
        let About { version, server, now_ms, keeps_expired } = about;
        let mut rdb = RdbWriter::with_version(out, version);
        rdb.aux("redis-ver", server)?;
        rdb.aux("redis-bits", "64")?;
        rdb.aux("ctime", &(now_ms / 1000).to_string())?;
        rdb.aux("aof-base", "0")?;
        let (exported, clock) = (Exported::default(), access_clock(now_ms));
        let expired_ms = if keeps_expired { 0 } else { now_ms };
        Ok(Self { rdb, version, exported, selected: None, expired_ms, clock })
    }

    /// Writes a library of functions, which versions before 10 do not have.
    fn library(&mut self, text: &[u8]) -> io::Result<()> {
        if self.version >= FUNCTIONS_SINCE { self.rdb.function(text) } else { Ok(()) }
    }

    /// Writes a record, unless it has expired. `counts`: about how many its index has.
    pub(crate) fn record(
        &mut self,
        index: usize,
        counts: SegmentCounts,
        record: &Record,
        watch: &mut (dyn FnMut(Exported) + Send),
    ) -> io::Result<()> {
        let expiry_ms = record.expiry();
        if expiry_ms.is_some_and(|at| at <= self.expired_ms) {
            return Ok(());
        }
        // The clock wraps; a record that seems half a turn old was used after `now_ms`.
        let idle = Some(self.clock.wrapping_sub(record.access()) & 0xff_ffff).filter(|idle| *idle < 0x80_0000);
        let beside = Beside { expiry_ms, idle_s: idle.filter(|idle| *idle > 0).map(u64::from), ..Beside::default() };
        if self.selected != Some(index) {
            self.selected = Some(index);
            self.rdb.select(index as u64)?;
            self.rdb.resize(counts.keys, counts.expiring)?;
        }
        self.rdb.record(record.key(), &record.value(), beside)?;
        self.exported.keys += 1;
        if self.exported.keys.is_multiple_of(STEP) {
            watch(Exported { bytes: self.rdb.written(), ..self.exported });
        }
        Ok(())
    }

    pub(crate) fn finish(self, watch: &mut (dyn FnMut(Exported) + Send)) -> io::Result<(W, Exported)> {
        let (out, bytes) = self.rdb.finish()?;
        let exported = Exported { bytes, ..self.exported };
        watch(exported);
        Ok((out, exported))
    }
}
