//! A capture: the nodes of a set as they were at one moment, taken in steps while the set changes.
//!
//! Nodes are taken by their ids. Before a node changes, gets another id or goes, its stored form is put aside, unless the
//! node was taken already. So an insertion costs the bytes of the nodes that it links, and each node is written once.
//!
//! Invariant: the nodes from `next` to `end` that were not put aside are as they were at the moment.

use std::collections::BTreeMap;

use super::VectorSet;
use super::body::{Capture, WriteNode};
use crate::segment::Captured;

impl VectorSet {
    /// Begins a capture, in place of any other. `id` tells it from others. `head`: written before the nodes. Returns how many
    /// elements it will write.
    pub fn begin_capture(&mut self, id: u64, head: Vec<u8>, write: WriteNode) -> usize {
        let end = self.0.len;
        let capture = Capture { id, head: Some(head), next: 0, end, aside: BTreeMap::new(), write };
        self.0.capture = Some(Box::new(capture));
        1 + end as usize
    }

    /// Appends the next elements of capture `id`, until `out` holds about `bytes_max` bytes; `None`: it does not exist.
    pub fn capture_some(&mut self, id: u64, bytes_max: usize, out: &mut Vec<u8>) -> Option<Captured> {
        let mut capture = self.0.capture.take_if(|capture| capture.id == id)?;
        let mut entries = 0;
        if let Some(head) = capture.head.take() {
            out.extend_from_slice(&head);
            entries += 1;
        }
        while capture.next < capture.end && out.len() < bytes_max {
            match capture.aside.remove(&capture.next) {
                Some(bytes) => out.extend_from_slice(&bytes),
                None => (capture.write)(self.node(capture.next), out),
            }
            capture.next += 1;
            entries += 1;
        }
        let is_done = capture.next == capture.end;
        if !is_done {
            self.0.capture = Some(capture);
        }
        Some(Captured { entries, is_done })
    }

    pub fn captured_id(&self) -> Option<u64> {
        self.0.capture.as_ref().map(|capture| capture.id)
    }

    /// Bytes that were put aside.
    pub fn aside_bytes(&self) -> usize {
        self.0.capture.as_ref().map_or(0, |capture| capture.aside.values().map(|bytes| bytes.len()).sum())
    }

    pub fn end_capture(&mut self) {
        self.0.capture = None;
    }
}
