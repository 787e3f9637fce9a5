//! One session: a link to the target, a link to the source, and the data that passes between them until one of them
//! drops.
//!
//! 1. Connect to the target and read the bookkeeping.
//! 2. Ask the source for what comes behind it, or for everything. In the second case, begin a copy beside the target's
//!    data. The copy replaces that data once it is complete.
//! 3. Run three threads: the reader fills the queue, this one takes batches out of it and has the target apply them,
//!    the pulse keeps the source and the user informed.
//! 4. When it is time to cut over, ask the source how far it is, apply everything until there, and remove the
//!    bookkeeping.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use indicatif::HumanCount;

use super::Interruption;
use super::address::ServerAddress;
use super::brought::Brought;
use super::left_out::LeftOut;
use super::meters::ImportMeters;
use super::place::{KEY, SourcePlace};
use super::preflight::obstacle;
use super::progress::LiveProgress;
use super::pulse::{Pulse, ask};
use super::queue::{TakenBatch, UnitBatch, UnitQueue};
use super::reader::{Position, SourceReader};
use super::signals::{Signals, Wish};
use super::source::{Feed, SyncAnswer, acknowledge};
use super::target::{Bookkeeping, Refusals, TargetLink, TargetState};
use crate::link::Link;
use crate::output::counted;

const TICK: Duration = Duration::from_millis(100);
/// After this silence, a source that we may not ask is assumed to have sent everything.
const SILENCE: Duration = Duration::from_secs(10);
/// The distance from the source at which an automatic cutover begins.
const NEAR_BYTES: u64 = 1 << 20;

/// The user's request, and the state that all sessions share.
pub struct LiveImport {
    pub source: ServerAddress,
    pub target: ServerAddress,
    pub follows: bool,
    pub replaces: bool,
    pub skips: bool,
    pub stops_when_caught_up: bool,
    pub pause: Option<Duration>,
    pub meters: ImportMeters,
    pub progress: LiveProgress,
    pub signals: Signals,
}

/// State that this process keeps from one session to the next. The target holds whatever matters for the data.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Both servers have been reached once. From then on, failures are retried.
    pub reached: bool,
    /// The bookkeeping beside the data is ours.
    begun: bool,
    /// The full syncs of this process, as the bookkeeping names them.
    runs: Vec<u64>,
    /// A full sync has begun and not ended.
    pub syncing: bool,
    /// How many full syncs in a row the source broke off, and how many of them before the first byte.
    pub cut_off: u32,
    pub cut_off_at_once: u32,
    /// The removal of the bookkeeping was the last request sent. If the bookkeeping is gone, the import is over.
    removing: bool,
    full_syncs: u32,
    cutover: Option<Cutover>,
    /// The session ended while a batch was being applied: the batch's contents may have caused the failure.
    pub sending: bool,
    pub brought: Brought,
    /// The target's libraries of functions before those of the copy, until it shows the copy: a payload of `FUNCTION DUMP`.
    functions_before: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Cutover {
    begun: Instant,
    /// Everything up to this offset is applied first.
    until: Option<u64>,
    paused_until: Option<Instant>,
}

/// How an import ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The target is ready for use. `paused`: how long the source takes no writes.
    CutOver { paused: Option<Duration> },
    /// The bookkeeping remains.
    Stopped,
}

impl Remembered {
    /// Whether this process has not yet changed the target.
    fn is_new(&self) -> bool {
        !self.begun && self.runs.is_empty()
    }
}

impl LiveImport {
    /// Drops the unfinished copy of this process, so that the target is as it was before.
    pub fn clean_up(&self, memory: &Remembered) {
        if !memory.syncing {
            return;
        }
        // If the target cannot be reached now, it drops the copy by itself a little later.
        let Ok((mut target, found)) = TargetLink::open(&self.target) else { return };
        if let Some(before) = &memory.functions_before {
            let _ = target.restore_functions(before, b"FLUSH");
        }
        if match found.staged {
            Some(SourcePlace::Incomplete { run, .. }) => memory.runs.contains(&run),
            // The copy was complete, but could not be shown.
            Some(SourcePlace::Following { .. }) => true,
            None => false,
        } {
            let _ = target.discard();
        }
    }

    /// Whether the user wants an end. Before a full sync is over, no data is ready to cut over to.
    pub fn is_stopped(&self) -> bool {
        match self.signals.wish() {
            Wish::Stop => true,
            Wish::CutOver => !self.meters.following.load(Ordering::Relaxed),
            Wish::GoOn => false,
        }
    }

    /// Copies until a link drops, or the import ends.
    pub fn session(&self, memory: &mut Remembered) -> Result<Ending, Interruption> {
        memory.sending = false;
        let (mut target, found) = TargetLink::open(&self.target)?;
        if found.place.is_none() && memory.removing {
            return Ok(self.outcome(memory));
        }
        if memory.brought.resume(found.place.as_ref()) && matches!(found.place, Some(SourcePlace::Following { .. })) {
            self.reach_following(memory);
        }
        self.show_sum(memory);
        let full = self.judge(&mut target, &found, memory)?;
        let place = found.place;
        // With --replace the user wants everything again, even if a link drops before the target shows it.
        let starts_again = self.replaces && !memory.begun || target.abilities.stages && !found.follows;
        let have = match &place {
            Some(SourcePlace::Following { replid, offset, .. }) if !starts_again => Some((replid.as_str(), *offset)),
            _ => None,
        };
        if have.is_none()
            && memory.is_new()
            && !self.skips
            && let Some(obstacle) = obstacle(&self.source, &target.abilities)
        {
            return Err(Interruption::Final(format!(
                "{obstacle}; with --skip-unsupported such things are left out. Nothing was copied"
            )));
        }
        let (mut feed, answer) = Feed::open(&self.source, have)?;
        memory.reached = true;
        self.meters.acknowledge_from.store(0, Ordering::Relaxed);
        let run = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64);
        let snapshot = matches!(answer, SyncAnswer::Full { .. });
        let renamed = matches!(&answer, SyncAnswer::Continue { replid: Some(_) });
        let position = match (answer, &place) {
            (SyncAnswer::Full { replid, offset }, _) => {
                self.begin(&mut target, place.as_ref().filter(|_| !starts_again), full, run, memory)?;
                Position { replid, offset, index: 0 }
            }
            (SyncAnswer::Continue { replid: new }, Some(SourcePlace::Following { replid, offset, index, .. })) => {
                self.meters.applied.store(*offset, Ordering::Relaxed);
                self.meters.following.store(true, Ordering::Release);
                self.progress.note(&format!("the source goes on from offset {offset}"));
                self.reach_following(memory);
                Position { replid: new.unwrap_or_else(|| replid.clone()), offset: *offset, index: *index }
            }
            (SyncAnswer::Continue { .. }, _) => {
                return Err(Interruption::Final(
                    "the source continues a replication that this import did not begin".to_string(),
                ));
            }
        };
        let link = feed.stream();
        let queue = if snapshot && target.abilities.stages { UnitQueue::staged() } else { UnitQueue::default() };
        let over = AtomicBool::new(false);
        let reader = SourceReader {
            feed: &mut feed,
            queue: &queue,
            meters: &self.meters,
            abilities: target.abilities.clone(),
            replaces: self.replaces || target.replaces,
            skips: self.skips,
            source: self.source.to_string(),
            run,
            position,
            renamed,
            left_out: LeftOut::from(memory.brought.sum().marks.clone()),
        };
        let pulse = Pulse {
            source: &self.source,
            link: &link,
            meters: &self.meters,
            progress: &self.progress,
            over: &over,
            follows: self.follows,
            speaks: memory.full_syncs <= 1 && snapshot,
        };
        // Without following, the stream is not read beyond its beginning.
        let follows = self.follows;
        std::thread::scope(|scope| {
            scope.spawn(move || reader.run(snapshot, follows));
            let pulse = scope.spawn(move || pulse.run());
            let outcome = self.write(&mut target, &queue, &link, run, memory);
            over.store(true, Ordering::Release);
            queue.close();
            link.shutdown();
            target.close();
            pulse.thread().unpark();
            outcome
        })
    }

    /// Checks whether we may write to the target. If a full sync comes, also checks whether the target holds anything.
    fn judge(
        &self,
        target: &mut TargetLink,
        found: &TargetState,
        memory: &Remembered,
    ) -> Result<Content, Interruption> {
        let overtaken = |place: &SourcePlace| {
            Interruption::Final(format!("another import, from {}, has taken over the target", place.source()))
        };
        if let Some(staged @ SourcePlace::Incomplete { source, run, .. }) = &found.staged
            && !memory.runs.contains(run)
        {
            if !memory.is_new() {
                return Err(overtaken(staged));
            }
            if !self.replaces && *source != self.source.to_string() {
                return Err(Interruption::Final(format!(
                    "the target is being filled by an import from {source}; --replace takes it over"
                )));
            }
        }
        match &found.place {
            None if memory.begun => Err(Interruption::Final(format!(
                "the key {KEY} has vanished from the target, which another client may have flushed; start again with --replace"
            ))),
            None => match target.keys()? {
                0 => Ok(Content::Nothing),
                keys if self.replaces => Ok(Content::Foreign(keys)),
                keys => Err(Interruption::Final(format!(
                    "the target {} holds {}: name an empty one, or give --replace to {}",
                    self.target,
                    counted(keys, "key"),
                    match target.abilities.stages {
                        true => "replace all of its data when the copy is complete",
                        false => "delete all of its data before the copy",
                    }
                ))),
            },
            Some(place) if place.source() == self.source.to_string() => Ok(Content::Ours),
            Some(place) if memory.begun => Err(overtaken(place)),
            Some(_) if self.replaces => Ok(Content::Ours),
            Some(place) => Ok(Content::OfAnother(place.source().to_string())),
        }
    }

    /// Begins a copy, and marks it as incomplete.
    fn begin(
        &self,
        target: &mut TargetLink,
        place: Option<&SourcePlace>,
        content: Content,
        run: u64,
        memory: &mut Remembered,
    ) -> Result<(), Interruption> {
        let note = |text: &str| self.progress.note(text);
        match &content {
            Content::Nothing => {}
            Content::Foreign(keys) => {
                let keys = HumanCount(*keys);
                note(&match target.abilities.stages {
                    true => {
                        format!("the target keeps its {keys} keys until the copy is complete, then it replaces them")
                    }
                    false => format!("deleting the {keys} keys of the target (--replace)"),
                });
            }
            Content::OfAnother(source) => {
                return Err(Interruption::Final(format!(
                    "the target holds an unfinished import from {source}; --replace deletes it and starts over"
                )));
            }
            Content::Ours => match place {
                Some(SourcePlace::Following { offset, .. }) => note(&format!(
                    "the source has no longer what followed offset {offset}: everything is copied again. A larger \
                     repl-backlog-size there helps against that"
                )),
                Some(SourcePlace::Incomplete { .. }) => {
                    note("the last import did not come to its end: everything is copied again");
                }
                None => note("everything is copied again"),
            },
        }
        if !target.abilities.stages && self.follows && memory.full_syncs == 0 {
            note(
                "note: the target is no Dormouse that can follow a source: it expires keys by its own clock, so one whose \
                 expiry the source puts off in the last moment may be lost",
            );
        }
        memory.full_syncs += 1;
        memory.cutover = None;
        self.meters.following.store(false, Ordering::Release);
        self.meters.forget_samples();
        memory.brought.begin_copy();
        self.show_sum(memory);
        self.meters.snapshot_bytes.store(0, Ordering::Relaxed);
        let start = SourcePlace::Incomplete { source: self.source.to_string(), run, step: 0 };
        let flush = !matches!(content, Content::Nothing);
        memory.begun |= !target.abilities.stages;
        memory.runs.push(run);
        memory.syncing = true;
        target.replaces = flush;
        target.apply(Bookkeeping::Begin { flush }, &UnitBatch::default(), Some(&start)).map(drop)
    }

    /// Takes batches and applies them.
    fn write(
        &self,
        target: &mut TargetLink,
        queue: &UnitQueue,
        link: &Link,
        run: u64,
        memory: &mut Remembered,
    ) -> Result<Ending, Interruption> {
        loop {
            if self.is_stopped() {
                return Ok(Ending::Stopped);
            }
            match queue.take(TICK) {
                TakenBatch::UnitBatch(batch) => {
                    memory.sending = true;
                    self.apply(target, batch, run, memory)?;
                    memory.sending = false;
                }
                TakenBatch::End(Ok(())) => return self.remove(target, memory),
                TakenBatch::End(Err(fault)) => return Err(fault),
                TakenBatch::Nothing => {}
            }
            let following = self.meters.following.load(Ordering::Relaxed);
            let wanted = self.meters.acknowledge_from.load(Ordering::Relaxed);
            if following && wanted != 0 && self.meters.applied() >= wanted {
                self.meters.acknowledge_from.store(0, Ordering::Relaxed);
                // The thread that reads from a link notices when it breaks.
                let _ = acknowledge(link, self.meters.applied());
            }
            if self.follows && following && self.is_time(memory)? {
                return self.remove(target, memory);
            }
        }
    }

    fn apply(
        &self,
        target: &mut TargetLink,
        mut batch: UnitBatch,
        run: u64,
        memory: &mut Remembered,
    ) -> Result<(), Interruption> {
        let Some(place) = batch.place.take() else { return Ok(()) };
        // A place reached by keepalives alone is not worth a write, which would keep the target awake.
        if batch.must_record && !target.has_recorded(&place) {
            self.change_functions(target, &mut batch, memory)?;
            let (keys, commands) = (batch.tally.keys, batch.tally.commands);
            memory.brought.send(place.clone(), std::mem::take(&mut batch.tally));
            let refusals = target.apply(Bookkeeping::None, &batch, Some(&place))?;
            // The key has changed, so the target refuses a removal that is still on its way.
            memory.removing = false;
            memory.brought.settle();
            self.judge_refusals(target, &refusals, run, memory)?;
            // Keys of a copy are restored; what is left was a command of the stream.
            let keys = refusals.restores.min(keys);
            memory.brought.take_back(keys, (refusals.count - keys).min(commands));
            self.show_sum(memory);
        }
        if let SourcePlace::Following { offset, .. } = place {
            self.reach_following(memory);
            self.meters.applied.store(offset, Ordering::Relaxed);
            if !self.meters.following.swap(true, Ordering::AcqRel) && self.follows {
                let keys = HumanCount(self.meters.keys.load(Ordering::Relaxed));
                self.progress.note(&format!("full sync done: {keys} keys; now following the source"));
            }
        }
        Ok(())
    }

    /// Asks for the changes of libraries that come with a batch. Nothing of the batch is applied if the target refuses one.
    /// Those of a copy are undone if the target does not show it.
    fn change_functions(
        &self,
        target: &mut TargetLink,
        batch: &mut UnitBatch,
        memory: &mut Remembered,
    ) -> Result<(), Interruption> {
        if batch.shows && !batch.functions.is_empty() {
            match &memory.functions_before {
                // The link dropped before the copy was shown.
                Some(before) => drop(target.restore_functions(before, b"FLUSH")?),
                None => memory.functions_before = Some(target.functions()?),
            }
        }
        for words in &batch.functions {
            match target.change_functions(words)? {
                Ok(()) => {}
                Err(error) if self.skips => batch.tally.skipped.add(&format!("the command FUNCTION: {error}"), 1),
                Err(error) => {
                    let is_there = error.contains("already exists") && !self.replaces;
                    let advice = if is_there { "; --replace replaces the target's functions and data" } else { "" };
                    return Err(Interruption::Final(format!(
                        "the target {} cannot take the source's functions: {error}; with --skip-unsupported they are left \
                         out and counted{advice}",
                        self.target
                    )));
                }
            }
        }
        Ok(())
    }

    /// Records that the target shows the data that this process has copied or continues.
    fn reach_following(&self, memory: &mut Remembered) {
        memory.begun = true;
        (memory.syncing, memory.cut_off, memory.cut_off_at_once) = (false, 0, 0);
        memory.functions_before = None;
    }

    fn show_sum(&self, memory: &Remembered) {
        let sum = memory.brought.sum();
        self.meters.keys.store(sum.keys, Ordering::Relaxed);
        self.meters.commands.store(sum.commands, Ordering::Relaxed);
    }

    /// Handles a request that failed although its transaction ran: the target differs from the source.
    fn judge_refusals(
        &self,
        target: &mut TargetLink,
        refusals: &Refusals,
        run: u64,
        memory: &mut Remembered,
    ) -> Result<(), Interruption> {
        let kind = |error: &str| error.split(' ').next().unwrap_or_default().to_string();
        let passing = |error: &str| !["ERR", "WRONGTYPE", "BUSYGROUP", "NOGROUP"].contains(&kind(error).as_str());
        let worst = refusals.kept.iter().find(|(_, error)| !self.skips || passing(error));
        if let Some((what, error)) = worst {
            // The batch recorded its place, which would hide what is missing.
            let broken = SourcePlace::Incomplete { source: self.source.to_string(), run, step: u64::MAX };
            target.apply(Bookkeeping::None, &UnitBatch::default(), Some(&broken))?;
            return Err(Interruption::Final(format!(
                "the target {} answers {what} with: {error}; with --skip-unsupported such commands are left out and \
                 counted. What was copied is incomplete now: the next import begins with a full sync",
                self.target
            )));
        }
        for (what, error) in &refusals.kept {
            let command = what.split(' ').next().unwrap_or_default();
            memory.brought.skip(&format!("the command {command}: {error}"), 1);
        }
        let others = refusals.count - refusals.kept.len() as u64;
        if others > 0 {
            memory.brought.skip("others", others);
        }
        Ok(())
    }

    /// Whether the target has everything that it needs before the cutover.
    fn is_time(&self, memory: &mut Remembered) -> Result<bool, Interruption> {
        let applied = self.meters.applied();
        let newest = self.meters.newest();
        let Some(cutover) = &mut memory.cutover else {
            let near = newest.is_some_and(|sample| sample.offset <= applied + NEAR_BYTES);
            if self.signals.wish() == Wish::CutOver || self.stops_when_caught_up && near {
                let paused_until = self.pause.map(|pause| self.pause_source(pause)).transpose()?;
                memory.cutover = Some(Cutover { begun: Instant::now(), until: None, paused_until });
            }
            return Ok(false);
        };
        if cutover.until.is_none() {
            cutover.until = newest.filter(|sample| sample.asked >= cutover.begun).map(|sample| sample.offset);
            if cutover.until.is_none() && cutover.begun.elapsed() > SILENCE {
                self.progress.note("the source does not answer INFO: cutting over with the writes received so far");
                cutover.until = Some(applied);
            }
        }
        if cutover.until.is_none_or(|until| until > applied) {
            return Ok(false);
        }
        if cutover.paused_until.is_some_and(|until| until <= Instant::now()) {
            self.progress.note("the source was not paused for long enough to catch up with it: once more");
            memory.cutover = None;
            return Ok(false);
        }
        Ok(true)
    }

    /// Makes the source hold back writes. Returns until when.
    fn pause_source(&self, pause: Duration) -> Result<Instant, Interruption> {
        let until = Instant::now() + pause;
        let name = format!("the source {}", self.source);
        let mut connection = ask(&self.source).map_err(|error| Interruption::Dropped(format!("{name}: {error}")))?;
        let reply = connection.call(&[b"CLIENT", b"PAUSE", pause.as_millis().to_string().as_bytes(), b"WRITE"]);
        let reply = reply.map_err(|error| Interruption::dropped(&name, &error))?;
        reply.checked().map_err(|text| Interruption::Final(format!("{name} cannot be paused: {text}")))?;
        self.progress.note(&format!("writes to the source are held back for {} s", pause.as_secs_f64()));
        Ok(until)
    }

    fn remove(&self, target: &mut TargetLink, memory: &mut Remembered) -> Result<Ending, Interruption> {
        memory.removing = true;
        target.apply(Bookkeeping::End, &UnitBatch::default(), None)?;
        Ok(self.outcome(memory))
    }

    fn outcome(&self, memory: &Remembered) -> Ending {
        let paused_until = memory.cutover.as_ref().and_then(|cutover| cutover.paused_until);
        Ending::CutOver { paused: paused_until.map(|until| until.saturating_duration_since(Instant::now())) }
    }
}

/// The target's content before a full sync.
enum Content {
    Nothing,
    /// Keys that no import has brought.
    Foreign(u64),
    /// Data of an unfinished import of the same source, or of any source with --replace.
    Ours,
    OfAnother(String),
}
