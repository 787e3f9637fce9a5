//! Signals: Ctrl-C cuts over; a second one, or SIGTERM, stops where we are; one more ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as Caught;

/// The user's request, by the signals so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    GoOn,
    CutOver,
    Stop,
}

#[derive(Clone, Debug, Default)]
pub struct Signals {
    interrupts: Arc<AtomicU32>,
    terminations: Arc<AtomicU32>,
}

impl Signals {
    /// Counts signals from now on, in a thread that lives as long as the process.
    pub fn catch() -> io::Result<Self> {
        let signals = Signals::default();
        let mut caught = Caught::new([SIGINT, SIGTERM])?;
        let counts = signals.clone();
        std::thread::Builder::new().name("signals".to_string()).spawn(move || {
            for signal in &mut caught {
                let count = if signal == SIGINT { &counts.interrupts } else { &counts.terminations };
                count.fetch_add(1, Ordering::Relaxed);
                if counts.interrupts.load(Ordering::Relaxed) + counts.terminations.load(Ordering::Relaxed) > 2 {
                    std::process::exit(128 + signal);
                }
            }
        })?;
        Ok(signals)
    }

    pub fn wish(&self) -> Wish {
        match (self.interrupts.load(Ordering::Relaxed), self.terminations.load(Ordering::Relaxed)) {
            (0, 0) => Wish::GoOn,
            (1, 0) => Wish::CutOver,
            _ => Wish::Stop,
        }
    }
}
