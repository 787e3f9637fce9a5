//! Operations of a keyspace for running scripts, beside the commands that they call.

use dormouse_types::segment::SLOTS;

use super::notices::PendingMessage;
use super::scripts::{Published, ScriptCall, ScriptTrace};
use super::{Fault, Keyspace};
use crate::error::{Error, Result};

/// Bytes of messages that the scripts of one plan publish.
const PUBLISHED_BYTES_MAX: usize = 64 << 20;

impl Keyspace<'_> {
    /// Whether all shards are held.
    pub fn holds_all(&self) -> bool {
        let slots = self.shards.iter().map(|shard| usize::from(shard.end_slot - shard.first_slot)).sum::<usize>();
        slots == usize::from(SLOTS)
    }

    /// Says whether the commands that follow must run to their end: others of the same plan have run already.
    pub fn set_must_finish(&mut self, must_finish: bool) {
        self.must_finish = must_finish;
    }

    pub fn must_finish(&self) -> bool {
        self.must_finish
    }

    /// Notes that a place must be loaded before the command runs again.
    pub fn fault_at(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Loads a place while the locks are held. The thread waits for the store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load_now(&mut self, fault: Fault) -> Result<()> {
        self.shared.memory.check(self.shared.used.load(std::sync::atomic::Ordering::Relaxed))?;
        loop {
            let at = self.shard_at(fault.prefix << 11);
            let Some(index) = self.shards[at].index(fault.select) else { return Ok(()) };
            let (id, place) = (index.id, index.place(fault.prefix));
            let Some(stored) = place.stored().cloned() else { return Ok(()) };
            let range = place.range;
            let loader = self.shared.loader.get().ok_or_else(|| Error::Store("the database is not served".into()))?;
            let places = loader.read(id, range, &stored)?;
            if let Some(index) = self.shards[at].index_mut(fault.select) {
                index.install(&stored, range, places);
            }
        }
    }

    /// Takes a message that a script publishes; it leaves when the script's effects are in the log.
    ///
    /// # Errors
    /// When there are too many.
    pub fn publish(&mut self, published: Published) -> Result<()> {
        let bytes = |published: &Published| published.channel.len() + published.message.len();
        let so_far: usize = self.published.iter().map(bytes).sum();
        if so_far + bytes(&published) > PUBLISHED_BYTES_MAX {
            return Err(Error::text("OOM a script publishes too much"));
        }
        // It stays behind the events before it.
        if self.shared.notices.is_on() {
            let Published { channel, message, is_sharded } = published;
            if !self
                .shared
                .notices
                .note_message(&mut self.noted, PendingMessage::Message { channel, message, is_sharded })
            {
                return Err(Error::text("OOM a script publishes too much"));
            }
            return Ok(());
        }
        self.published.push(published);
        Ok(())
    }

    /// Notes a call of a script.
    pub fn note_call(&mut self, call: &ScriptCall<'_>) {
        if let Some(surroundings) = self.shared.scripts.surroundings() {
            let spare = &mut self.spare_trace;
            self.trace.get_or_insert_with(|| spare.take().unwrap_or_default()).note(&**surroundings, call);
        }
    }

    /// Forgets the calls of a script that runs again.
    pub fn forget_calls(&mut self) {
        self.trace = None;
    }

    /// The calls of the script that has run, if it was one and made any.
    #[inline]
    pub fn take_calls(&mut self) -> Option<Box<ScriptTrace>> {
        self.trace.take()
    }

    /// Takes back calls that have been counted, for the allocations of the next ones.
    #[inline]
    pub fn reuse_calls(&mut self, calls: Option<Box<ScriptTrace>>) {
        if let Some(mut calls) = calls {
            calls.clear();
            self.spare_trace = Some(calls);
        }
    }

    pub fn take_published(&mut self) -> Vec<Published> {
        std::mem::take(&mut self.published)
    }
}
