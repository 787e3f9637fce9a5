//! `LATENCY`: the times when commands of one database exceeded `latency-monitor-threshold`, by kind of event.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;

/// Number of samples kept for each event, as in Redis.
const SAMPLES_KEPT: usize = 160;

/// The events of one database. Redis has more; the others do not happen here.
#[derive(Debug, Default)]
pub struct Events(Mutex<BTreeMap<&'static str, LatencyEvent>>);

#[derive(Debug, Default, Clone)]
pub struct LatencyEvent {
    /// At most one for each second, the oldest first: Unix seconds, and the longest duration in that second in
    /// milliseconds.
    pub samples: VecDeque<(u64, u64)>,
    pub max_ms: u64,
}

impl Events {
    /// Notes that a command took `took_ms`. Like Redis, distinguishes fast commands from the others.
    pub fn note(&self, is_fast: bool, at_seconds: u64, took_ms: u64) {
        let mut events = self.0.lock();
        let event = events.entry(if is_fast { "fast-command" } else { "command" }).or_default();
        event.max_ms = event.max_ms.max(took_ms);
        match event.samples.back_mut() {
            Some((second, ms)) if *second == at_seconds => *ms = (*ms).max(took_ms),
            _ => event.samples.push_back((at_seconds, took_ms)),
        }
        if event.samples.len() > SAMPLES_KEPT {
            event.samples.pop_front();
        }
    }

    /// Returns every event that has happened, by name.
    pub fn all(&self) -> Vec<(&'static str, LatencyEvent)> {
        self.0.lock().iter().map(|(name, event)| (*name, event.clone())).collect()
    }

    pub fn of(&self, name: &[u8]) -> Option<LatencyEvent> {
        self.0.lock().iter().find(|(event, _)| event.as_bytes() == name).map(|(_, event)| event.clone())
    }

    /// Forgets the events that `is_chosen` selects. Returns their number.
    pub fn reset(&self, is_chosen: impl Fn(&str) -> bool) -> usize {
        let mut events = self.0.lock();
        let before = events.len();
        events.retain(|name, _| !is_chosen(name));
        before - events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_one_sample_and_old_ones_go() {
        let events = Events::default();
        for (second, ms) in [(10, 5), (10, 9), (10, 7), (11, 6)] {
            events.note(false, second, ms);
        }
        let event = events.of(b"command").expect("it happened");
        assert_eq!((Vec::from(event.samples), event.max_ms), (vec![(10, 9), (11, 6)], 9));
        assert!(events.of(b"fast-command").is_none());
        (0..1000).for_each(|second| events.note(true, second, second));
        let event = events.of(b"fast-command").expect("it happened");
        assert_eq!((event.samples.len(), event.samples[0], event.max_ms), (160, (840, 840), 999));
        assert_eq!(events.reset(|name| name == "command"), 1);
        assert_eq!(events.reset(|_| true), 1);
        assert_eq!(events.all().len(), 0);
    }
}
