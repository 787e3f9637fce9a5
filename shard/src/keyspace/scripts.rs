//! The scripts of a database: the known ones, the running one, and what they reach beyond the engine.
//!
//! - A script is known from its first `EVAL` or `SCRIPT LOAD` on, until `SCRIPT FLUSH` or the end of the process.
//!   Those that clients have loaded stay; of those that were only run, the last [`RUN_MAX`] stay, as in Redis 7.4. Their
//!   texts count in the memory of the database, and are bounded by [`BYTES_MAX`].
//! - One script at a time may be long in a database: it holds all shards that it may use. While it runs, others see it
//!   here, and may end it as long as it has not written.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dormouse_protocol::Request;
use dormouse_scripting::{Script, Sha, vm};
use dormouse_storage::stopwatch::Stopwatch;
use parking_lot::{Mutex, RwLock};
use rapidhash::RapidHashMap;

/// Scripts that were run and not loaded.
pub const RUN_MAX: usize = 500;

/// Bytes of the known scripts of a database.
pub const BYTES_MAX: usize = 16 << 20;

/// A known script.
#[derive(Debug)]
pub struct KnownScript {
    pub script: Script,
    /// It is a straight line over declared keys, whose length is known before its first write. See
    /// [`crate::commands::scripting`].
    pub is_plain: bool,
    can_be_guest: bool,
    /// When it was long the last time; `None`: not lately.
    long: Mutex<Option<Stopwatch>>,
    was_long: AtomicBool,
}

/// Seconds for which a script that was long is no guest.
const LANE_SECONDS: u64 = 1;

impl KnownScript {
    pub fn new(script: Script, is_plain: bool) -> Self {
        let can_be_guest = script.can_be_suspended && vm::suspends();
        Self { script, is_plain, can_be_guest, long: Mutex::default(), was_long: AtomicBool::new(false) }
    }

    /// Whether it may begin on a thread that serves others, and be suspended there.
    #[inline]
    pub fn may_be_guest(&self) -> bool {
        self.can_be_guest
            && (!self.was_long.load(Ordering::Relaxed) || !is_lately(&self.long, &self.was_long, LANE_SECONDS))
    }

    /// It has been long: the next runs begin on the slow lane.
    pub fn note_long(&self) {
        *self.long.lock() = Some(Stopwatch::start());
        self.was_long.store(true, Ordering::Relaxed);
    }
}

/// Whether `since` is less than so many seconds ago. If not, it is forgotten, and the mark that says that it is set is
/// taken away.
#[cold]
fn is_lately(since: &Mutex<Option<Stopwatch>>, mark: &AtomicBool, seconds: u64) -> bool {
    let mut since = since.lock();
    if since.as_ref().is_some_and(|since| since.elapsed().as_secs() < seconds) {
        return true;
    }
    *since = None;
    mark.store(false, Ordering::Relaxed);
    false
}

/// The scripts of a database.
#[derive(Default)]
pub struct Scripts {
    known: RwLock<Known>,
    /// Those that may be ended, in the order in which they began. Several may run at once if they name their keys.
    running: Mutex<Vec<Arc<Running>>>,
    /// Services that scripts use outside the engine.
    surroundings: OnceLock<Arc<dyn ScriptSurroundings>>,
    busy: Arc<BusyMark>,
    /// Set while no script may begin on a thread that serves others.
    bars_guests: AtomicBool,
    barred: Mutex<Option<Stopwatch>>,
}

/// Says whether a script has run for so long that other clients are told.
#[derive(Debug, Default)]
struct BusyMark {
    after_ms: AtomicU64,
    /// Every request reads it, so it needs no lock.
    is_set: AtomicBool,
}

/// Seconds for which no script of a database may be a guest, after one has kept its thread for too long.
const BARRED_SECONDS: u64 = 60;

#[derive(Default)]
struct Known {
    scripts: RapidHashMap<Sha, Entry>,
    /// Those that were run and not loaded, by the number of the run that made them known.
    run: std::collections::BTreeMap<u64, Sha>,
    next: u64,
    bytes: usize,
}

struct Entry {
    known: Arc<KnownScript>,
    /// Its number among those that were only run.
    run: Option<u64>,
}

/// A script that runs and may be ended.
#[derive(Debug)]
pub struct Running {
    /// The script's hash, or the function's name.
    pub title: Box<str>,
    pub is_function: bool,
    /// The request that runs it, shortened.
    pub request: Vec<Box<[u8]>>,
    started: Stopwatch,
    busy: Arc<BusyMark>,
    has_written: AtomicBool,
    is_killed: AtomicBool,
}

/// Why a script cannot be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unkillable {
    NotRunning,
    /// It has changed data.
    HasWritten,
    /// It is a function where a script was meant, or the other way round.
    OtherKind,
}

/// Services that scripts use outside the engine.
pub trait ScriptSurroundings: Send + Sync {
    /// How many clients a message to a channel reaches.
    fn receivers(&self, channel: &[u8], is_sharded: bool) -> usize;

    /// How many replicas have acknowledged everything that was sent to them, or have it in their append-only files.
    fn replicas_in_step(&self, in_file: bool) -> usize;

    /// Unix microseconds.
    fn now_us(&self) -> u64;

    /// Whether the process shows its databases as clusters.
    fn shows_cluster(&self) -> bool;

    /// Takes a line that a script has logged.
    fn log(&self, level: i64, line: &str);

    /// Appends what clients that monitor the database see of a call, if there are any. `command`: its index in the table of
    /// the process.
    fn append_shown(&self, command: usize, select: u8, request: Request<'_>, lines: &mut Vec<u8>);

    /// Shows lines before the script has ended.
    fn show(&self, lines: &[u8]);
}

/// The calls of a script, for the caller that ran it.
#[derive(Debug, Default)]
pub struct ScriptTrace {
    pub commands: Vec<CalledCommand>,
    /// The first words of its errors, and how often each came. Few are different.
    pub errors: Vec<(Box<[u8]>, u64)>,
    /// The first word of the last call's reply, if that was an error.
    last_error: Option<Box<[u8]>>,
    /// The lines of its calls for clients in `MONITOR`.
    pub lines: Vec<u8>,
}

/// The calls of one command by a script.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CalledCommand {
    /// Its index in the table of the process.
    pub command: usize,
    pub calls: u64,
    pub nanoseconds: u64,
    pub rejected: u64,
    pub failed: u64,
}

/// One call of a script.
#[derive(Debug, Clone, Copy)]
pub struct ScriptCall<'a> {
    /// The index of the command in the table of the process; `None`: there is no such command.
    pub command: Option<usize>,
    /// Whether it ran, rather than being rejected before.
    pub has_run: bool,
    pub took: Duration,
    pub select: u8,
    pub request: Request<'a>,
    pub reply: &'a [u8],
}

/// Most different errors of one script that are counted, and bytes of their words.
const ERRORS_MAX: usize = 16;
const ERROR_WORD_MAX: usize = 64;

/// The first word of an encoded error, without its mark.
fn error_word(reply: &[u8]) -> Option<&[u8]> {
    let text = reply.strip_prefix(b"-")?;
    let word = text.split(|byte| matches!(byte, b' ' | b'\r')).next().unwrap_or_default();
    Some(&word[..word.len().min(ERROR_WORD_MAX)])
}

/// Bytes of lines beyond which they are shown before the script has ended.
const LINES_BYTES_MAX: usize = 1 << 20;

impl ScriptTrace {
    /// Notes a call.
    pub fn note(&mut self, surroundings: &dyn ScriptSurroundings, call: &ScriptCall<'_>) {
        let error = error_word(call.reply);
        if let Some(command) = call.command {
            let counts = self.counts_of(command);
            counts.calls += u64::from(call.has_run);
            counts.rejected += u64::from(!call.has_run);
            counts.failed += u64::from(call.has_run && error.is_some());
            counts.nanoseconds += call.took.as_nanos() as u64;
        }
        if let Some(word) = error {
            match self.errors.iter().position(|(known, _)| **known == *word) {
                Some(at) => self.errors[at].1 += 1,
                None if self.errors.len() < ERRORS_MAX => self.errors.push((word.into(), 1)),
                None => {}
            }
        }
        self.last_error = error.map(Box::from);
        if let Some(command) = call.command.filter(|_| call.has_run) {
            surroundings.append_shown(command, call.select, call.request, &mut self.lines);
            if self.lines.len() > LINES_BYTES_MAX {
                surroundings.show(&std::mem::take(&mut self.lines));
            }
        }
    }

    /// Forgets the calls, and keeps small allocations.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.errors.clear();
        self.last_error = None;
        self.lines = Vec::new();
    }

    fn counts_of(&mut self, command: usize) -> &mut CalledCommand {
        let known = self.commands.iter().position(|counts| counts.command == command);
        let at = known.unwrap_or_else(|| {
            self.commands.push(CalledCommand { command, ..CalledCommand::default() });
            self.commands.len() - 1
        });
        &mut self.commands[at]
    }

    /// Whether the error that a script has replied with is that of its last call, and counted already. A script that
    /// replies with an error of its own after a failed call is taken for one too if both begin with the same word.
    pub fn explains(&self, reply: &[u8]) -> bool {
        self.last_error.as_deref().is_some_and(|word| error_word(reply) == Some(word))
    }
}

/// The user on whose behalf a script runs, if requests of the user have to be checked.
pub trait ScriptUser: fmt::Debug + Send + Sync {
    /// Checks a request of a script, and logs what is denied.
    ///
    /// # Errors
    /// The text that says what is denied.
    fn check(&self, request: Request<'_>, select: u8) -> Result<(), String>;

    /// Whether the user may run a request.
    fn may_run(&self, request: Request<'_>, select: u8) -> bool;
}

/// A message that a script has published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub channel: Box<[u8]>,
    pub message: Box<[u8]>,
    pub is_sharded: bool,
}

/// Milliseconds for which a script runs before others are told, unless the settings say otherwise.
const BUSY_AFTER_MS: u64 = 5000;

impl fmt::Debug for Scripts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scripts({})", self.known.read().scripts.len())
    }
}

impl Scripts {
    pub fn new() -> Self {
        let scripts = Self::default();
        scripts.busy.after_ms.store(BUSY_AFTER_MS, Ordering::Relaxed);
        scripts
    }

    /// Names what scripts reach beyond the engine, once.
    pub fn surround(&self, surroundings: Arc<dyn ScriptSurroundings>) {
        // A second database of the name is the same one.
        let _ = self.surroundings.set(surroundings);
    }

    pub fn surroundings(&self) -> Option<&Arc<dyn ScriptSurroundings>> {
        self.surroundings.get()
    }

    pub fn set_busy_after_ms(&self, ms: u64) {
        self.busy.after_ms.store(ms, Ordering::Relaxed);
    }

    /// Lets no script be a guest for a while.
    pub fn bar_guests(&self) {
        *self.barred.lock() = Some(Stopwatch::start());
        self.bars_guests.store(true, Ordering::Relaxed);
    }

    /// Lets scripts be guests again at once.
    #[cfg(test)]
    pub(crate) fn allow_guests(&self) {
        self.bars_guests.store(false, Ordering::Relaxed);
    }

    /// Whether scripts may be guests.
    pub fn takes_guests(&self) -> bool {
        !self.bars_guests.load(Ordering::Relaxed) || !is_lately(&self.barred, &self.bars_guests, BARRED_SECONDS)
    }

    pub fn get(&self, sha: Sha) -> Option<Arc<KnownScript>> {
        self.known.read().scripts.get(&sha).map(|entry| Arc::clone(&entry.known))
    }

    /// Notes a script. `loaded`: a client has loaded it, so it stays. False: it does not fit. The change of the bytes is
    /// added to `used`.
    pub fn learn(&self, known: &Arc<KnownScript>, loaded: bool, used: &AtomicUsize) -> bool {
        let sha = known.script.sha;
        if !loaded && self.known.read().scripts.contains_key(&sha) {
            return true;
        }
        let mut all = self.known.write();
        let before = all.bytes;
        let fits = all.learn(known, loaded);
        used.fetch_add(all.bytes, Ordering::Relaxed);
        used.fetch_sub(before, Ordering::Relaxed);
        fits
    }

    /// Forgets all scripts.
    pub fn flush(&self, used: &AtomicUsize) {
        let all = std::mem::take(&mut *self.known.write());
        used.fetch_sub(all.bytes, Ordering::Relaxed);
    }

    /// How many are known, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let known = self.known.read();
        (known.scripts.len(), known.bytes)
    }

    pub fn begin(&self, running: Running) -> Arc<Running> {
        let running = Arc::new(running);
        self.running.lock().push(Arc::clone(&running));
        running
    }

    pub fn end(&self, running: &Arc<Running>) {
        let mut all = self.running.lock();
        all.retain(|other| !Arc::ptr_eq(other, running));
        // Another one that has run for long sets it again.
        self.busy.is_set.store(false, Ordering::Relaxed);
    }

    /// The script that has run for longest.
    pub fn running(&self) -> Option<Arc<Running>> {
        self.running.lock().first().cloned()
    }

    /// Whether a script has run for so long that other clients are told.
    pub fn is_busy(&self) -> bool {
        self.busy.is_set.load(Ordering::Relaxed)
    }

    /// Ends the running scripts, or functions.
    ///
    /// # Errors
    /// When none can be ended.
    pub fn kill(&self, is_function: bool) -> Result<(), Unkillable> {
        let all = self.running.lock();
        let mut refusal = if all.is_empty() { Unkillable::NotRunning } else { Unkillable::OtherKind };
        let mut is_any_killed = false;
        for running in all.iter().filter(|running| running.is_function == is_function) {
            refusal = Unkillable::HasWritten;
            is_any_killed |= running.kill();
        }
        if is_any_killed { Ok(()) } else { Err(refusal) }
    }
}

impl Known {
    fn learn(&mut self, known: &Arc<KnownScript>, loaded: bool) -> bool {
        let sha = known.script.sha;
        if let Some(entry) = self.scripts.get_mut(&sha) {
            if loaded && let Some(run) = entry.run.take() {
                self.run.remove(&run);
            }
            return true;
        }
        let bytes = known.script.bytes();
        while !self.run.is_empty() && (self.run.len() >= RUN_MAX || self.bytes + bytes > BYTES_MAX) {
            let Some((_, oldest)) = self.run.pop_first() else { break };
            self.forget(oldest);
        }
        if self.bytes + bytes > BYTES_MAX {
            return false;
        }
        self.bytes += bytes;
        let run = (!loaded).then(|| {
            self.next += 1;
            self.run.insert(self.next, sha);
            self.next
        });
        self.scripts.insert(sha, Entry { known: Arc::clone(known), run });
        true
    }

    fn forget(&mut self, sha: Sha) {
        if let Some(entry) = self.scripts.remove(&sha) {
            self.bytes -= entry.known.script.bytes();
        }
    }
}

impl Running {
    /// `started`: runs since its beginning.
    pub fn new(scripts: &Scripts, title: &str, is_function: bool, request: Request<'_>, started: Stopwatch) -> Self {
        const WORDS_MAX: usize = 32;
        const WORD_BYTES_MAX: usize = 128;
        let request =
            request.iter().take(WORDS_MAX).map(|word| word[..word.len().min(WORD_BYTES_MAX)].into()).collect();
        Self {
            title: title.into(),
            is_function,
            request,
            started,
            busy: Arc::clone(&scripts.busy),
            has_written: AtomicBool::new(false),
            is_killed: AtomicBool::new(false),
        }
    }

    pub fn elapsed_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// It changes data from now on. False: it was killed before.
    pub fn writes(&self) -> bool {
        self.has_written.store(true, Ordering::SeqCst);
        !self.is_killed.load(Ordering::SeqCst)
    }

    pub fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::SeqCst)
    }

    /// Asks for its end. False: it has changed data.
    fn kill(&self) -> bool {
        self.is_killed.store(true, Ordering::SeqCst);
        let has_written = self.has_written.load(Ordering::SeqCst);
        if has_written {
            self.is_killed.store(false, Ordering::SeqCst);
        }
        !has_written
    }

    /// Notes the time; returns it in milliseconds.
    pub fn tick(&self) -> u64 {
        let elapsed_ms = self.elapsed_ms();
        if elapsed_ms >= self.busy.after_ms.load(Ordering::Relaxed) {
            self.busy.is_set.store(true, Ordering::Relaxed);
        }
        elapsed_ms
    }
}

/// Scripts by their texts, so that a text that is sent again and again need not be hashed each time.
#[derive(Default)]
pub struct Texts {
    by_hash: RapidHashMap<u64, Arc<KnownScript>>,
    /// The one that was asked for last: most clients send the same again and again.
    last: Option<Arc<KnownScript>>,
}

/// Texts that a thread keeps, and the bytes of each at most.
const TEXTS_MAX: usize = 256;
pub const TEXT_BYTES_MAX: usize = 8 << 10;

impl Texts {
    pub fn get(&mut self, text: &[u8]) -> Option<Arc<KnownScript>> {
        let is_it = |known: &&Arc<KnownScript>| *known.script.text == *text;
        if let Some(known) = self.last.as_ref().filter(is_it) {
            return Some(Arc::clone(known));
        }
        let known = self.by_hash.get(&hash(text)).filter(is_it)?;
        self.last = Some(Arc::clone(known));
        Some(Arc::clone(known))
    }

    pub fn keep(&mut self, known: &Arc<KnownScript>) {
        if known.script.text.len() > TEXT_BYTES_MAX {
            return;
        }
        if self.by_hash.len() >= TEXTS_MAX {
            self.by_hash.clear();
        }
        self.by_hash.insert(hash(&known.script.text), Arc::clone(known));
    }
}

fn hash(text: &[u8]) -> u64 {
    rapidhash::v3::rapidhash_v3(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &str) -> Arc<KnownScript> {
        Arc::new(KnownScript::new(Script::new(text.as_bytes()).unwrap(), false))
    }

    #[test]
    fn scripts_that_were_only_run_give_way() {
        let (scripts, used) = (Scripts::new(), AtomicUsize::new(0));
        let loaded = known("return 'loaded'");
        assert!(scripts.learn(&loaded, true, &used));
        let first = known("return 0");
        for number in 0..=RUN_MAX {
            assert!(scripts.learn(&known(&format!("return {number}")), false, &used));
        }
        assert!(scripts.get(first.script.sha).is_none());
        assert!(scripts.get(loaded.script.sha).is_some());
        assert_eq!((scripts.size().0, scripts.size().1), (RUN_MAX + 1, used.load(Ordering::Relaxed)));
        scripts.flush(&used);
        assert_eq!((scripts.size(), used.load(Ordering::Relaxed)), ((0, 0), 0));
    }

    #[test]
    fn texts_are_bounded() {
        let (scripts, used) = (Scripts::new(), AtomicUsize::new(0));
        let large = |number: usize| known(&format!("--{number}{}", "x".repeat(1 << 20)));
        let fitting = (0..32).filter(|number| scripts.learn(&large(*number), true, &used)).count();
        assert_eq!(fitting, 15);
        assert!(!scripts.learn(&large(99), false, &used));
    }

    #[test]
    fn guests_rest_after_they_were_long() {
        let guest = known("for i = 1, 2 do redis.call('incr', KEYS[1]) end");
        assert!(guest.may_be_guest());
        guest.note_long();
        assert!(!guest.may_be_guest());
        assert!(!known("pcall(redis.call, 'incr', KEYS[1])").may_be_guest());
        let scripts = Scripts::new();
        assert!(scripts.takes_guests());
        scripts.bar_guests();
        assert!(!scripts.takes_guests());
    }

    #[test]
    fn a_script_that_has_written_is_not_ended() {
        let scripts = Scripts::new();
        assert_eq!(scripts.kill(false), Err(Unkillable::NotRunning));
        let request = dormouse_protocol::OwnedRequest::from_args(&[b"EVAL", b"x", b"0"]);
        let running = scripts.begin(Running::new(&scripts, "x", false, request.as_request(), Stopwatch::start()));
        assert_eq!(scripts.kill(true), Err(Unkillable::OtherKind));
        assert!(running.writes());
        assert_eq!(scripts.kill(false), Err(Unkillable::HasWritten));
        assert!(!running.is_killed());
        scripts.end(&running);
        let running = scripts.begin(Running::new(&scripts, "y", false, request.as_request(), Stopwatch::start()));
        assert_eq!(scripts.kill(false), Ok(()));
        assert!(running.is_killed() && !running.writes());
        // Of two that run at once the one is ended that may be.
        let other = scripts.begin(Running::new(&scripts, "z", false, request.as_request(), Stopwatch::start()));
        assert_eq!(scripts.kill(false), Ok(()));
        assert!(other.is_killed());
        scripts.end(&running);
        scripts.end(&other);
        assert_eq!(scripts.kill(false), Err(Unkillable::NotRunning));
    }
}
