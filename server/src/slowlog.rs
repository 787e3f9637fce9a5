//! `SLOWLOG`: the last commands of one database that took longer than a threshold.

use std::collections::VecDeque;
use std::time::Duration;

use dormouse_protocol::Request;
use parking_lot::Mutex;

use crate::clients::Client;

/// As Redis keeps of each command: so many arguments, so many bytes of each.
const ARGUMENTS_KEPT: usize = 32;
const BYTES_KEPT: usize = 128;

#[derive(Debug, Clone)]
pub struct Slow {
    pub id: u64,
    pub at_seconds: u64,
    pub microseconds: u64,
    pub arguments: Vec<Vec<u8>>,
    pub peer: String,
    pub name: Vec<u8>,
}

#[derive(Debug, Default)]
pub struct Slowlog {
    entries: Mutex<(u64, VecDeque<Slow>)>,
}

impl Slowlog {
    /// Logs `request` if it took longer than `threshold_us` (negative: nothing is logged), keeping `kept` entries.
    pub fn note(
        &self,
        client: &Client,
        request: Request<'_>,
        took: Duration,
        now_ms: u64,
        threshold_us: i64,
        kept: usize,
    ) {
        let microseconds = took.as_micros() as u64;
        if threshold_us < 0 || microseconds < threshold_us as u64 || kept == 0 {
            return;
        }
        let shorten = |argument: &[u8]| match argument.len().checked_sub(BYTES_KEPT) {
            Some(more) if more > 0 => {
                let mut short = argument[..BYTES_KEPT].to_vec();
                short.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
                short
            }
            _ => argument.to_vec(),
        };
        let mut arguments: Vec<Vec<u8>> = request.iter().take(ARGUMENTS_KEPT).map(shorten).collect();
        if request.len() > ARGUMENTS_KEPT {
            let more = request.len() - ARGUMENTS_KEPT + 1;
            arguments[ARGUMENTS_KEPT - 1] = format!("... ({more} more arguments)").into_bytes();
        }
        let (peer, name) = (client.peer.to_string(), client.told.lock().name.to_vec());
        let mut entries = self.entries.lock();
        let id = entries.0;
        entries.0 += 1;
        entries.1.push_front(Slow { id, at_seconds: now_ms / 1000, microseconds, arguments, peer, name });
        entries.1.truncate(kept);
    }

    /// The newest `count`.
    pub fn newest(&self, count: usize) -> Vec<Slow> {
        self.entries.lock().1.iter().take(count).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.entries.lock().1.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn reset(&self) {
        self.entries.lock().1.clear();
    }
}
