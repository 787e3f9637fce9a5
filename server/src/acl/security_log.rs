//! `ACL LOG`: what users of one database were denied, and wrong passwords. Bounded in entries and in bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Entries that are alike within this time are one.
const GROUPED_WITHIN_MS: u64 = 60_000;
/// Number of entries that a new one is compared with.
const COMPARED: usize = 10;
/// Bytes kept of each text of an entry. Redis has no limit.
const TEXT_BYTES_MAX: usize = 512;

/// Why an entry was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialReason {
    Command,
    Key,
    Channel,
    Database,
    Auth,
}

impl DenialReason {
    pub const ALL: [Self; 5] = [Self::Auth, Self::Command, Self::Key, Self::Channel, Self::Database];

    /// Its field of `INFO stats`.
    pub fn info_name(self) -> &'static str {
        match self {
            Self::Auth => "acl_access_denied_auth",
            Self::Command => "acl_access_denied_cmd",
            Self::Key => "acl_access_denied_key",
            Self::Channel => "acl_access_denied_channel",
            Self::Database => "acl_access_denied_db",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Key => "key",
            Self::Channel => "channel",
            Self::Database => "database",
            Self::Auth => "auth",
        }
    }
}

/// From where a denied command came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialContext {
    Toplevel,
    Multi,
    Lua,
}

impl DenialContext {
    pub fn name(self) -> &'static str {
        match self {
            Self::Toplevel => "toplevel",
            Self::Multi => "multi",
            Self::Lua => "lua",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedDenial {
    pub count: u64,
    pub reason: DenialReason,
    pub origin: DenialContext,
    /// The command, key or channel.
    pub object: Box<[u8]>,
    pub user: Box<[u8]>,
    /// The last client, as `CLIENT LIST` shows it.
    pub client: String,
    pub id: u64,
    pub created_ms: u64,
    pub updated_ms: u64,
}

/// A denial that is to be logged.
#[derive(Clone, Copy, Debug)]
pub struct Denied<'a> {
    pub reason: DenialReason,
    pub origin: DenialContext,
    pub object: &'a [u8],
    pub user: &'a [u8],
}

impl LoggedDenial {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.object.len() + self.user.len() + self.client.capacity()
    }
}

/// Bytes that a change of the log keeps beyond those before, and bytes that it keeps no longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    pub taken: usize,
    pub given: usize,
}

#[derive(Debug, Default)]
struct Entries {
    next_id: u64,
    newest_first: VecDeque<LoggedDenial>,
}

impl Entries {
    fn truncate(&mut self, kept: usize) -> usize {
        let dropped = self.newest_first.split_off(self.newest_first.len().min(kept));
        dropped.iter().map(LoggedDenial::bytes).sum()
    }
}

#[derive(Debug, Default)]
pub struct SecurityLog {
    entries: Mutex<Entries>,
    /// Number of denials since the start, by reason.
    counts: [AtomicU64; DenialReason::ALL.len()],
}

impl SecurityLog {
    /// Logs a denial, keeping at most `kept` entries.
    pub fn note(&self, denied: Denied<'_>, client: String, now_ms: u64, kept: usize) -> Growth {
        let Denied { reason, origin, object, user } = denied;
        self.count_of(reason).fetch_add(1, Ordering::Relaxed);
        let (object, user) = (shortened(object), shortened(user));
        let mut entries = self.entries.lock();
        let all = &mut entries.newest_first;
        let is_same = |entry: &LoggedDenial| {
            entry.reason == reason
                && entry.origin == origin
                && now_ms.abs_diff(entry.updated_ms) <= GROUPED_WITHIN_MS
                && *entry.object == *object
                && *entry.user == *user
        };
        let same = all.iter().take(COMPARED).position(is_same).and_then(|at| all.remove(at));
        let before = same.as_ref().map_or(0, LoggedDenial::bytes);
        let entry = match same {
            Some(entry) => LoggedDenial { count: entry.count + 1, client, updated_ms: now_ms, ..entry },
            None => {
                let id = entries.next_id;
                entries.next_id += 1;
                LoggedDenial {
                    count: 1,
                    reason,
                    origin,
                    object: object.into(),
                    user: user.into(),
                    client,
                    id,
                    created_ms: now_ms,
                    updated_ms: now_ms,
                }
            }
        };
        let taken = entry.bytes();
        entries.newest_first.push_front(entry);
        Growth { taken, given: before + entries.truncate(kept) }
    }

    fn count_of(&self, reason: DenialReason) -> &AtomicU64 {
        let at = DenialReason::ALL.iter().position(|known| *known == reason);
        &self.counts[at.expect("every reason has a count")]
    }

    /// Number of denials since the start.
    pub fn count(&self, reason: DenialReason) -> u64 {
        self.count_of(reason).load(Ordering::Relaxed)
    }

    /// Forgets the counts, as `CONFIG RESETSTAT` does.
    pub fn reset_counts(&self) {
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// The newest entries, at most `count`.
    pub fn newest(&self, count: usize) -> Vec<LoggedDenial> {
        self.entries.lock().newest_first.iter().take(count).cloned().collect()
    }

    pub fn clear(&self) -> Growth {
        self.truncate(0)
    }

    /// Drops entries beyond `kept`, the oldest first.
    pub fn truncate(&self, kept: usize) -> Growth {
        Growth { taken: 0, given: self.entries.lock().truncate(kept) }
    }
}

fn shortened(text: &[u8]) -> &[u8] {
    &text[..text.len().min(TEXT_BYTES_MAX)]
}
