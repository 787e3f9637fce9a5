//! Moving in from a live Redis: `dormouse import redis://source --follow --to redis://:TOKEN@target`.
//!
//! A process that is a replica to the source and a client to the target, so that both may be anywhere.
//!
//! # Exactly once
//!
//! The stream holds INCRs, so a command that is applied twice is as wrong as one that is missing. The links may drop at
//! any moment, and this process may be killed.
//!
//! 1. A key in the target, [`KEY`](place::KEY), says which offset of the source's history the target is at. It is written
//!    in the transaction that brings it there, so it is always true. Where the target loses its last writes in a crash, it
//!    loses both together.
//! 2. **Invariant: a batch is applied only if the key holds the place that the batch begins at.** [`target`] says how
//!    WATCH sees to that, also for batches of earlier connections that arrive late, and for a second importer.
//! 3. After any failure, and after a restart, everything begins with that key: PSYNC asks for the byte behind it, so there is
//!    one way to go on, whatever has failed. What this process remembers about what it has read counts only once the key
//!    says that the target holds it ([`brought`]).
//! 4. A place is always between two units. A unit is a command, or a transaction of the source, which is therefore never
//!    split: neither by a dropped link, nor for a reader of the target.
//! 5. A full sync fills a copy beside what the target holds, and replaces that in the transaction that says so. One that was
//!    interrupted leaves a copy that the target drops.
//! 6. From then on until the cutover the target expires nothing by itself: the stream says what has expired. So a command of
//!    the stream finds every key that it found in the source. The engine's `keyspace::staging` has the details.
//! 7. What remains: a command that the target refuses inside of a transaction that it then commits. The target is marked
//!    as incomplete right after, which a crash, or a link that drops, between the two would leave undone.
//!
//! | module | holds |
//! | --- | --- |
//! | [`session`] | one attempt: connect, compare, copy until a link drops |
//! | [`preflight`] | what cannot be taken, as far as the source tells before the copy |
//! | [`source`], [`reader`], [`translate`] | the replication protocol; the RDB and the stream as units; what newer servers say |
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

/// How often the same batch may fail before we stop to believe that the link is at fault.
const FAILURES_MAX: u32 = 20;
/// How often a source may end a full sync before its first byte, and altogether.
const CUT_OFF_AT_ONCE_MAX: u32 = 3;
const CUT_OFF_MAX: u32 = 10;
const BACKOFF_SOURCE: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// How to move in.
#[derive(Clone, Copy, Debug)]
pub struct LiveOptions {
    /// Replace all data of the target, rather than refusing a target that holds some.
    pub replaces: bool,
    /// Leave out what cannot be taken, rather than giving up.
    pub skips: bool,
    /// After the copy, follow the writes of the source until Ctrl-C cuts over.
    pub follows: bool,
    /// Cut over by itself as soon as the target has everything.
    pub stops_when_caught_up: bool,
    /// When cutting over, the source holds back writes for this time.
    pub pause: Option<Duration>,
}

/// Why a session ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// Trying again helps, or may.
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

    /// The bookkeeping is not what it was.
    fn overtaken(who: &str) -> Self {
        Self::Dropped(format!("{who}: the key {KEY} was changed by another import or by a batch that came late"))
    }
}

/// Imports from the running server at `source`, a URL, to another.
///
/// # Errors
/// Why the target is not the user's yet.
pub fn run(source: &str, target: Option<&ServerUrl>, options: LiveOptions) -> Result<(), String> {
    let source = source.parse().and_then(|url| ServerAddress::new(&url, "DORMOUSE_SOURCE_PASSWORD"));
    let source = source.map_err(|error| format!("the source: {error}"))?;
    let target = target.ok_or("where to? Name a running Dormouse: --to redis://:TOKEN@127.0.0.1:6379")?;
    let target = ServerAddress::new(target, "DORMOUSE_TARGET_PASSWORD").map_err(|error| format!("--to: {error}"))?;
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

/// Session after session, until one ends well or nothing helps.
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
            // The source has forked for nothing, and shall not do so all the time.
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

/// Gives up on a source that ends one full sync after the other.
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
