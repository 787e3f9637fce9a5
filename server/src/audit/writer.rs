//! The thread of the audit log. Nothing but it waits for the disk.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::Shared;

/// Where lines are written.
pub type AuditSink = Box<dyn Write + Send>;

#[derive(Debug)]
pub enum AuditMessage {
    Line(String),
    /// Something has changed that is not a line.
    Wake,
    /// Write all and end; the sender is dropped when that is done.
    End(Sender<()>),
}

/// The state of the thread.
pub struct Writing {
    sink: AuditSink,
    messages: Receiver<AuditMessage>,
    shared: Arc<Shared>,
    open: Box<dyn Fn() -> io::Result<AuditSink> + Send>,
    /// Whether the last line was cut off.
    is_torn: bool,
}

impl Writing {
    pub fn new(
        sink: AuditSink,
        messages: Receiver<AuditMessage>,
        shared: Arc<Shared>,
        open: Box<dyn Fn() -> io::Result<AuditSink> + Send>,
    ) -> Self {
        Self { sink, messages, shared, open, is_torn: false }
    }

    pub fn run(mut self) {
        loop {
            let left = self.shared.uses.left();
            if left == Some(Duration::ZERO) {
                self.write_counts();
                continue;
            }
            let message = match left {
                Some(left) => self.messages.recv_timeout(left),
                None => self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            self.reopen_if_asked();
            match message {
                Ok(AuditMessage::Line(line)) => self.write(&line),
                Ok(AuditMessage::Wake) | Err(RecvTimeoutError::Timeout) => {}
                Ok(AuditMessage::End(_done)) => return self.write_counts(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write_counts(&mut self) {
        let shared = Arc::clone(&self.shared);
        shared.uses.take().for_each(|line| self.write(&line));
    }

    fn write(&mut self, line: &str) {
        let end: &[u8] = if self.is_torn { b"\n" } else { b"" };
        let written = self.sink.write_all(&[end, line.as_bytes()].concat()).and_then(|()| self.sink.flush());
        self.is_torn = written.is_err();
        let shared = &self.shared;
        match written {
            Ok(()) => {
                shared.lines.fetch_add(1, Ordering::Relaxed);
                if shared.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the audit log is written again");
                }
            }
            Err(error) => {
                let was_failing = shared.is_failing.swap(true, Ordering::Relaxed);
                shared.dropped.fetch_add(1, Ordering::Relaxed);
                if !was_failing {
                    tracing::error!(%error, "failed to write the audit log; events are lost until it can be written");
                }
            }
        }
    }

    fn reopen_if_asked(&mut self) {
        if !self.shared.reopens.swap(false, Ordering::Acquire) {
            return;
        }
        match (self.open)() {
            Ok(sink) => {
                self.sink = sink;
                self.is_torn = false;
            }
            Err(error) => tracing::error!(%error, "failed to open the audit log again; the old file is written on"),
        }
    }
}
