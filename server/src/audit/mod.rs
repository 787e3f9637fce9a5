//! The audit log: who has administered the server or shown a token, what for, when and from where. Never the secret.
//!
//! 1. An [`AuditEvent`] names its actor by what the server knows of him: the id of a token, the name of a user. It holds
//!    nothing else that a client has written, and its names are cut and escaped, so a line is short whatever was sent.
//! 2. Each change over the admin API gets a line ([`AuditLog::note`]). Logins, reads and commands may come by the
//!    thousand, so they are [`uses`]: the first of its kind in a minute gets a line at once, the others are counted in one
//!    line after the minute. So no tenant can flood the disk, and no wrong token goes unnoticed.
//! 3. Lines wait in a bounded queue for one [thread](writer), which alone touches the file.
//!
//! Invariant: nothing waits for the log. If its disk is full or hangs, lines are dropped, and `/metrics` counts them.

mod event;
mod uses;
mod writer;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Sender};

pub use self::event::{Actor, AuditEvent, AuditResult};
use self::uses::{AuditedUses, NotedUse};
use self::writer::{AuditMessage, AuditSink, Writing};

/// Most lines that wait for the disk, of less than 2 KiB each.
const QUEUE_MAX: usize = 4096;
/// Time for the last lines to be written when the server ends.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Permissions of a new file: it names tenants and their addresses.
const MODE: u32 = 0o600;

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// To the end of a file, which is opened again at SIGHUP.
    File(PathBuf),
    Stderr,
    Stdout,
}

impl FromStr for AuditTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("expected a file, `stderr`, or `-` for standard output".to_owned()),
            "stderr" => Ok(Self::Stderr),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl AuditTarget {
    fn open(&self) -> io::Result<AuditSink> {
        Ok(match self {
            Self::File(path) => Box::new(append_to(path)?),
            Self::Stderr => Box::new(io::stderr()),
            Self::Stdout => Box::new(io::stdout()),
        })
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().append(true).create(true).mode(MODE).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display())))
}

/// A handle of the log.
#[derive(Debug, Clone, Default)]
pub struct AuditLog(Option<Arc<Running>>);

#[derive(Debug)]
struct Running {
    target: AuditTarget,
    queue: Sender<AuditMessage>,
    shared: Arc<Shared>,
}

/// State that the handles share with the thread.
#[derive(Debug, Default)]
struct Shared {
    uses: AuditedUses,
    lines: AtomicU64,
    dropped: AtomicU64,
    is_failing: AtomicBool,
    /// Whether the file has to be opened again.
    reopens: AtomicBool,
}

/// The log at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditSnapshot {
    /// Lines written, and events lost, since the start.
    pub lines: u64,
    pub dropped: u64,
    /// Whether the last line could not be written.
    pub is_failing: bool,
}

impl AuditLog {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// When the file cannot be opened, or the system refuses a thread.
    pub fn start(target: AuditTarget) -> io::Result<Self> {
        let sink = target.open()?;
        let (queue, messages) = channel::bounded(QUEUE_MAX);
        let shared = Arc::<Shared>::default();
        let open = target.clone();
        let writing = Writing::new(sink, messages, Arc::clone(&shared), Box::new(move || open.open()));
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writing.run())?;
        Ok(Self(Some(Arc::new(Running { target, queue, shared }))))
    }

    /// Whether events are kept: if not, none need be made.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it is a file, which SIGHUP opens again.
    pub fn is_file(&self) -> bool {
        self.0.as_ref().is_some_and(|running| matches!(running.target, AuditTarget::File(_)))
    }

    /// Writes a line for the event.
    pub fn note(&self, event: &AuditEvent) {
        if let Some(running) = &self.0 {
            running.put(event.line());
        }
    }

    /// Writes a line for the event, or counts it if one like it has a line already in this minute.
    pub fn note_use(&self, event: &AuditEvent) {
        let Some(running) = &self.0 else { return };
        match running.shared.uses.note(event) {
            NotedUse::First => running.put(event.line()),
            NotedUse::Counted => {}
            NotedUse::Beyond => _ = running.shared.dropped.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Opens the file again, before the next line is written. The old one may have been renamed.
    pub fn reopen(&self) {
        if let Some(running) = &self.0 {
            running.shared.reopens.store(true, Ordering::Release);
            // A full queue wakes the thread too.
            let _ = running.queue.try_send(AuditMessage::Wake);
        }
    }

    /// Writes what waits and the counts of the last minute, unless that takes too long.
    pub fn finish(&self) {
        let Some(running) = &self.0 else { return };
        let deadline = Instant::now() + END_TIMEOUT;
        let (done, ended) = channel::bounded(0);
        if running.queue.send_deadline(AuditMessage::End(done), deadline).is_ok() {
            // Nothing is sent: it ends with the sender.
            let _ = ended.recv_deadline(deadline);
        }
    }

    /// `None`: there is no audit log.
    pub fn snapshot(&self) -> Option<AuditSnapshot> {
        let shared = &self.0.as_ref()?.shared;
        Some(AuditSnapshot {
            lines: shared.lines.load(Ordering::Relaxed),
            dropped: shared.dropped.load(Ordering::Relaxed),
            is_failing: shared.is_failing.load(Ordering::Relaxed),
        })
    }
}

impl Running {
    fn put(&self, line: String) {
        if self.queue.try_send(AuditMessage::Line(line)).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::peer::Peer;

    fn event(action: &'static str, actor: Actor, port: u16) -> AuditEvent {
        let peer = Peer::Tcp {
            remote: format!("10.0.0.1:{port}").parse().unwrap(),
            local: "127.0.0.1:6379".parse().unwrap(),
            is_tls: false,
        };
        AuditEvent::new(1_700_000_000_000, action, AuditResult::Done, actor, peer)
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn targets_are_read() {
        assert_eq!("stderr".parse(), Ok(AuditTarget::Stderr));
        assert_eq!("-".parse(), Ok(AuditTarget::Stdout));
        assert_eq!("a/b.log".parse(), Ok(AuditTarget::File("a/b.log".into())));
        assert!("".parse::<AuditTarget>().is_err());
    }

    #[test]
    fn changes_have_a_line_each_and_uses_one_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::start(AuditTarget::File(path.clone())).unwrap();
        (0..3).for_each(|_| log.note(&event("database.create", Actor::Admin, 1)));
        (0..1000).for_each(|port| log.note_use(&event("login", Actor::Unknown, port)));
        log.finish();
        let lines = lines(&path);
        let of = |action: &str| lines.iter().filter(|line| line["audit"] == action).collect::<Vec<_>>();
        assert_eq!(of("database.create").len(), 3);
        let logins = of("login");
        assert_eq!(logins.len(), 2, "{logins:?}");
        assert_eq!((&logins[0]["address"], &logins[0]["count"]), (&"10.0.0.1:0".into(), &serde_json::Value::Null));
        assert_eq!((&logins[1]["address"], &logins[1]["count"]), (&"10.0.0.1".into(), &999.into()));
        assert_eq!(log.snapshot().unwrap(), AuditSnapshot { lines: 5, dropped: 0, is_failing: false });
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn a_renamed_file_is_left_at_the_signal_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
        let log = AuditLog::start(AuditTarget::File(path.clone())).unwrap();
        let written = |count: u64| {
            let began = Instant::now();
            while log.snapshot().unwrap().lines < count {
                assert!(began.elapsed() < Duration::from_secs(20));
                std::thread::yield_now();
            }
        };
        log.note(&event("a", Actor::Admin, 1));
        written(1);
        std::fs::rename(&path, &old).unwrap();
        log.note(&event("b", Actor::Admin, 1));
        written(2);
        log.reopen();
        log.note(&event("c", Actor::Admin, 1));
        log.finish();
        let actions = |path: &Path| lines(path).iter().map(|line| line["audit"].clone()).collect::<Vec<_>>();
        assert_eq!((actions(&old), actions(&path)), (vec!["a".into(), "b".into()], vec!["c".into()]));
    }

    /// A disk that takes nothing, or whose writes hang, until it is told otherwise.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<DiskState>>);

    #[derive(Default)]
    struct DiskState {
        is_full: bool,
        bytes: Vec<u8>,
    }

    impl io::Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock().unwrap();
            if disk.is_full {
                // A part of the line fits.
                disk.bytes.extend_from_slice(&bytes[..10]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.bytes.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn over(disk: &Disk) -> AuditLog {
        let (queue, messages) = channel::bounded(QUEUE_MAX);
        let shared = Arc::<Shared>::default();
        let same = disk.clone();
        let open = Box::new(move || -> io::Result<AuditSink> { Ok(Box::new(same.clone())) });
        let writing = Writing::new(Box::new(disk.clone()), messages, Arc::clone(&shared), open);
        std::thread::spawn(move || writing.run());
        AuditLog(Some(Arc::new(Running { target: AuditTarget::Stderr, queue, shared })))
    }

    #[test]
    fn a_full_disk_costs_lines_and_is_counted() {
        let disk = Disk::default();
        let log = over(&disk);
        disk.0.lock().unwrap().is_full = true;
        log.note(&event("lost", Actor::Admin, 1));
        let began = Instant::now();
        while log.snapshot().unwrap().dropped == 0 {
            assert!(began.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        assert!(log.snapshot().unwrap().is_failing);
        disk.0.lock().unwrap().is_full = false;
        log.note(&event("kept", Actor::Admin, 1));
        log.finish();
        assert_eq!(log.snapshot().unwrap(), AuditSnapshot { lines: 1, dropped: 1, is_failing: false });
        let text = String::from_utf8(disk.0.lock().unwrap().bytes.clone()).unwrap();
        let whole: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(whole.len(), 1, "the torn line does not spoil the next: {text}");
        assert_eq!(whole[0]["audit"], "kept");
    }

    #[test]
    fn a_disk_that_hangs_holds_up_nothing() {
        let disk = Disk::default();
        let log = over(&disk);
        let hanging = disk.0.lock().unwrap();
        let more = 100;
        (0..QUEUE_MAX + more).for_each(|_| log.note(&event("database.create", Actor::Admin, 1)));
        // The thread may have taken one.
        assert!(log.snapshot().unwrap().dropped >= more as u64 - 1);
        drop(hanging);
        log.finish();
        let AuditSnapshot { lines, dropped, is_failing } = log.snapshot().unwrap();
        assert_eq!((lines + dropped, is_failing), ((QUEUE_MAX + more) as u64, false));
    }

    #[test]
    fn without_a_target_nothing_happens() {
        let log = AuditLog::default();
        log.note(&event("a", Actor::Admin, 1));
        log.note_use(&event("a", Actor::Admin, 1));
        log.reopen();
        log.finish();
        assert_eq!((log.is_on(), log.snapshot()), (false, None));
    }
}
