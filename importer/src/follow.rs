//! Moving in from a live Redis: `dormouse import redis://source --follow --to redis://:TOKEN@target`.
//!
//! The importer is a process of its own: a replica to the source and a client to the target. Both may be anywhere.
//!
//! # Exactly once
//!
//! The stream holds INCRs, so applying a command twice is as wrong as losing one. The links may drop at any moment, and
//! this process may be killed.
//!
//! 1. A key in the target, [`KEY`](place::KEY), records the offset of the source's history that the target is at. The
//!    transaction that brings the target to an offset also writes the key, so the key is always true. A target that
//!    loses its last writes in a crash loses both together.
//! 2. **Invariant: a batch is applied only if the key holds the place that the batch begins at.** [`target`] describes
//!    how WATCH enforces this, also for late batches of earlier connections and for a second importer.
//! 3. After any failure, and after a restart, everything begins with that key: PSYNC asks for the byte behind it. So
//!    one recovery path serves every failure. What this process remembers about its reads counts only once the key says
//!    that the target holds it ([`brought`]).
//! 4. A place is always between two units. A unit is a command or a transaction of the source. So a transaction is
//!    never split: neither by a dropped link, nor for a reader of the target.
//! 5. A full sync fills a copy beside the target's data. The transaction that completes the sync replaces the data with
//!    the copy. After an interrupted sync, the target drops the copy.
//! 6. From then on until the cutover the target expires nothing by itself: the stream says what has expired. So a
//!    command of the stream finds every key that it found in the source. The engine's `keyspace::staging` has the
//!    details.
//! 7. One gap remains: the target may refuse a command inside a transaction and still commit the transaction. The
//!    importer marks the target as incomplete right after. A crash or a dropped link between the two loses the mark.
//!
//! | module | holds |
//! | --- | --- |
//! | [`session`] | one attempt: connect, compare, copy until a link drops |
//! | [`preflight`] | data that the target cannot take, as far as the source tells before the copy |
//! | [`source`], [`reader`], [`translate`] | replication protocol; the RDB and the stream as units; newer commands |
//! | [`queue`], [`brought`] | units on their way into the next batch; what counts once the target has it |
//! | [`target`], [`place`] | batches as transactions; the bookkeeping |
//! | [`pulse`], [`meters`], [`progress`] | acknowledgements, lag, display |
//! | [`address`], [`wire`], [`signals`] | URLs, a blocking connection, Ctrl-C |

mod address;
mod brought;
mod left_out;
mod meters;
mod place;
mod preflight;
mod progress;
mod pulse;
mod queue;
mod reader;
mod session;
mod signals;
mod source;
mod target;
mod translate;
mod wire;

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::HumanCount;

use self::address::ServerAddress;
use self::meters::ImportMeters;
use self::place::KEY;
use self::progress::LiveProgress;
use self::session::{Ending, LiveImport, Remembered};
use self::signals::Signals;
use crate::output::print_line;
use crate::target::ServerUrl;
use crate::tls::TlsChoices;

/// How often the same batch may fail before the importer stops blaming the link.
const FAILURES_MAX: u32 = 20;
/// How often a source may end a full sync before its first byte, and in total.
const CUT_OFF_AT_ONCE_MAX: u32 = 3;
const CUT_OFF_MAX: u32 = 10;
const BACKOFF_SOURCE: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// Options of a live import.
#[derive(Clone, Copy, Debug)]
pub struct LiveOptions {
    /// Replace all data of the target, rather than refusing a target that holds some.
    pub replaces: bool,
    /// Leave out what the target cannot take, rather than giving up.
    pub skips: bool,
    /// After the copy, follow the writes of the source until Ctrl-C cuts over.
    pub follows: bool,
    /// Cut over as soon as the target has everything, without waiting for Ctrl-C.
    pub stops_when_caught_up: bool,
    /// How long the source holds back writes during the cutover.
    pub pause: Option<Duration>,
}

/// The reason that a session ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// A failure that another attempt may overcome.
    Dropped(String),
    Final(String),
}

impl Interruption {
    fn dropped(who: &str, error: &io::Error) -> Self {
        let text = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it closed the connection".to_string(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it has not answered for too long".to_string(),
            _ => error.to_string(),
        };
        Self::Dropped(format!("{who}: {text}"))
    }

    /// Returns the interruption for a changed bookkeeping.
    fn overtaken(who: &str) -> Self {
        Self::Dropped(format!("{who}: the key {KEY} was changed by another import or by a batch that came late"))
    }
}

/// Imports from the running server at `source`, a URL, to another.
///
/// # Errors
/// The reason that the target is not ready for use.
pub fn run(source: &str, target: Option<&ServerUrl>, tls: &TlsChoices, options: LiveOptions) -> Result<(), String> {
    let source = source.parse().and_then(|url| ServerAddress::new(&url, "DORMOUSE_SOURCE_PASSWORD", tls));
    let source = source.map_err(|error| format!("the source: {error}"))?;
    let target = target.ok_or("where to? Name a running Dormouse: --to redis://:TOKEN@127.0.0.1:6379")?;
    let target =
        ServerAddress::new(target, "DORMOUSE_TARGET_PASSWORD", tls).map_err(|error| format!("--to: {error}"))?;
    if source.to_string() == target.to_string() {
        return Err("source and target are the same server".to_string());
    }
    let import = LiveImport {
        source,
        target,
        follows: options.follows,
        replaces: options.replaces,
        skips: options.skips,
        stops_when_caught_up: options.stops_when_caught_up,
        pause: options.pause,
        meters: ImportMeters::default(),
        progress: LiveProgress::new(),
        signals: Signals::catch().map_err(|error| format!("cannot wait for signals: {error}"))?,
    };
    import.progress.note(&format!("importing from {} to {}", import.source, import.target));
    let mut memory = Remembered::default();
    let outcome = sessions(&import, &mut memory);
    import.clean_up(&memory);
    import.progress.clear();
    for (what, count) in memory.brought.sum().skipped.iter() {
        import.progress.note(&format!("left out: {what}, {} times", HumanCount(count)));
    }
    match outcome? {
        Ending::CutOver { paused } => print_line(&summary(&import, paused)),
        Ending::Stopped if memory.syncing => {
            Err("stopped before the copy was complete: the target is as it was".to_string())
        }
        Ending::Stopped => Err(format!(
            "stopped before the cutover; the same command goes on from here. The target keeps the key {KEY} until then"
        )),
    }
}

/// Runs sessions until one ends well or a failure is final.
fn sessions(import: &LiveImport, memory: &mut Remembered) -> Result<Ending, String> {
    let mut backoff = BACKOFF_MIN;
    let (mut failures, mut reached) = (0, 0);
    loop {
        let text = match import.session(memory) {
            Ok(outcome) => return Ok(outcome),
            Err(Interruption::Final(text)) => return Err(text),
            Err(Interruption::Dropped(text)) if !memory.reached => return Err(text),
            Err(Interruption::Dropped(text)) => text,
        };
        let applied = import.meters.applied();
        if applied != reached {
            (failures, reached) = (0, applied);
            backoff = BACKOFF_MIN;
        }
        if memory.syncing && text.starts_with("the source") {
            judge_source(import, memory, &text)?;
            // The source has forked in vain. Don't make it do so all the time.
            backoff = backoff.max(BACKOFF_SOURCE);
        }
        failures += u32::from(memory.sending);
        if failures > FAILURES_MAX {
            return Err(format!("{text}; this happened {failures} times without getting any further"));
        }
        import.progress.note(&format!("{text}; trying again"));
        let until = Instant::now() + backoff;
        backoff = BACKOFF_MAX.min(backoff * 2);
        while Instant::now() < until {
            if import.is_stopped() {
                return Ok(Ending::Stopped);
            }
            std::thread::park_timeout(POLL);
        }
    }
}

/// Gives up on a source that breaks off one full sync after the other.
fn judge_source(import: &LiveImport, memory: &mut Remembered, text: &str) -> Result<(), String> {
    memory.cut_off += 1;
    if import.meters.snapshot_bytes.load(Ordering::Relaxed) == 0 {
        memory.cut_off_at_once += 1;
        if memory.cut_off_at_once >= CUT_OFF_AT_ONCE_MAX {
            return Err(format!(
                "{text}. It did so {} times before it sent any of its data; its log says why: perhaps it cannot fork, or \
                 cannot write a value in the format that replicas are sent",
                memory.cut_off_at_once
            ));
        }
        return Ok(());
    }
    memory.cut_off_at_once = 0;
    let advice = "a source gives up on a replica that is too slow when too many writes wait for the end of a full sync: for \
                  a large or busy one, CONFIG SET client-output-buffer-limit \"replica 0 0 0\" there while the import runs";
    if memory.cut_off >= CUT_OFF_MAX {
        return Err(format!("{text}. This happened {} times in the middle of a full sync; {advice}", memory.cut_off));
    }
    if memory.cut_off == 2 {
        import.progress.note(advice);
    }
    Ok(())
}

fn summary(import: &LiveImport, paused: Option<Duration>) -> String {
    let keys = HumanCount(import.meters.keys.load(Ordering::Relaxed));
    let commands = HumanCount(import.meters.commands.load(Ordering::Relaxed));
    let advice = match (import.follows, paused) {
        (false, _) => "what was written to the source since is not in the target".to_string(),
        (true, None) => "what is written to the source from now on is not in the target".to_string(),
        (true, Some(left)) => {
            format!(
                "the source takes no writes for another {:.1} s: point clients to the target now",
                left.as_secs_f64()
            )
        }
    };
    let what = if import.follows {
        format!("cut over: {keys} keys copied, then {commands} commands applied")
    } else {
        format!("imported {keys} keys")
    };
    format!("{what}; {advice}")
}
