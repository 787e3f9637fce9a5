//! Events that go to a receiver in one request, as the array of CloudEvents' JSON batch format.

use std::collections::VecDeque;

use bytes::Bytes;

/// Most events of one request.
pub const EVENTS_MAX: usize = 1000;
/// Most bytes of one request, unless a single event has more.
const BYTES_MAX: usize = 512 << 10;

/// Events in order.
#[derive(Debug, Default)]
pub struct EventBatch {
    events: VecDeque<String>,
    bytes: usize,
}

impl EventBatch {
    pub fn add(&mut self, event: &str) {
        self.bytes += event.len() + 1;
        self.events.push_back(event.to_owned());
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub fn is_full(&self, events_max: usize) -> bool {
        self.events.len() >= events_max || self.bytes >= BYTES_MAX
    }

    /// How many of the first events go into one request.
    pub fn count(&self, events_max: usize) -> usize {
        let mut bytes = 1;
        let fits = |event: &&String| {
            bytes += event.len() + 1;
            bytes <= BYTES_MAX
        };
        self.events.iter().take(events_max).take_while(fits).count().max(1)
    }

    /// The body of a request with the first `count` events.
    pub fn body(&self, count: usize) -> Bytes {
        let mut body = String::from("[");
        for (at, event) in self.events.iter().take(count).enumerate() {
            if at > 0 {
                body.push(',');
            }
            body += event;
        }
        body.push(']');
        body.into()
    }

    /// Removes the first `count` events.
    pub fn remove(&mut self, count: usize) {
        self.events.drain(..count).for_each(|event| self.bytes -= event.len() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_sent_in_parts_that_fit() {
        let mut batch = EventBatch::default();
        (0..5).for_each(|number| batch.add(&number.to_string()));
        assert!(batch.is_full(5) && !batch.is_full(6));
        assert_eq!((batch.count(3), batch.count(100)), (3, 5));
        assert_eq!(&batch.body(3)[..], b"[0,1,2]");
        batch.remove(3);
        assert_eq!(&batch.body(2)[..], b"[3,4]");
        batch.remove(2);
        assert!(batch.is_empty() && batch.bytes == 0);
        let large = "x".repeat(BYTES_MAX / 2);
        (0..3).for_each(|_| batch.add(&large));
        assert!(batch.is_full(100));
        assert_eq!(batch.count(100), 1);
        let mut batch = EventBatch::default();
        batch.add(&"x".repeat(2 * BYTES_MAX));
        assert_eq!(batch.count(100), 1, "alone it is sent nonetheless");
    }
}
