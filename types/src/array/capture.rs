//! Captures: an array as it was at one moment, in parts, while it goes on changing.

use std::collections::BTreeMap;

use super::{Array, Element, NO_INSERT, Sliced};
use crate::entry::{FormMut, FormRef};
use crate::pace;

/// A part of a captured array. The head comes first, and the elements in order.
#[derive(Clone, Copy, Debug)]
pub enum ArrayPart<'a> {
    Head { last_insert: Option<u64> },
    Element { index: u64, element: Element<'a> },
}

/// A capture under way.
///
/// Invariant: an index from `next` to `end` had at the moment the text that `aside` has under it, or else the element that
/// it has now.
#[derive(Debug)]
pub(super) struct Capture {
    id: u64,
    /// Until it has been handed out.
    head: Option<u64>,
    next: u64,
    end: u64,
    aside: BTreeMap<u64, Option<Box<[u8]>>>,
    aside_bytes: usize,
}

impl Capture {
    fn lacks(&self, index: u64) -> bool {
        (self.next..=self.end).contains(&index) && !self.aside.contains_key(&index)
    }

    fn put_aside(&mut self, index: u64, before: Option<Box<[u8]>>) {
        self.aside_bytes += aside_bytes(before.as_deref());
        self.aside.insert(index, before);
    }
}

fn aside_bytes(text: Option<&[u8]>) -> usize {
    size_of::<(u64, Option<Box<[u8]>>)>() + text.map_or(0, <[u8]>::len)
}

impl Sliced {
    /// To be called before the element at an index changes, goes or comes.
    #[inline]
    pub(super) fn note(&mut self, index: u64) {
        if self.capture.is_some() {
            self.put_aside(index);
        }
    }

    #[cold]
    fn put_aside(&mut self, index: u64) {
        let Some(mut capture) = self.capture.take() else { return };
        if capture.lacks(index) {
            capture.put_aside(index, self.get(index).map(|element| element.to_vec().into()));
        }
        self.capture = Some(capture);
    }

    /// To be called before the elements of a range go.
    pub(super) fn note_range(&mut self, low: u64, high: u64) {
        let Some(mut capture) = self.capture.take() else { return };
        self.visit(low.max(capture.next), high.min(capture.end), false, |index, element| {
            pace::step(1);
            if capture.lacks(index) {
                capture.put_aside(index, Some(element.to_vec().into()));
            }
            false
        });
        self.capture = Some(capture);
    }
}

impl Array {
    /// Begins a capture of a sliced array, in place of any other. `id` tells it from others. Returns how many parts it will
    /// hand out. `None`: the array is packed.
    pub fn begin_capture(&mut self, id: u64) -> Option<usize> {
        let highest = self.highest();
        let FormMut::Large(sliced) = self.0.view_mut() else { return None };
        let (next, end) = highest.map_or((1, 0), |highest| (0, highest));
        let head = Some(sliced.last_insert);
        sliced.capture = Some(Box::new(Capture { id, head, next, end, aside: BTreeMap::new(), aside_bytes: 0 }));
        Some(sliced.count + 1)
    }

    /// Shows the next parts of capture `id`, in order, until `visit` says that it has enough. Returns whether that was all;
    /// `None`: the capture does not exist.
    pub fn capture_some(&mut self, id: u64, mut visit: impl FnMut(ArrayPart<'_>) -> bool) -> Option<bool> {
        let FormMut::Large(sliced) = self.0.view_mut() else { return None };
        let mut capture = sliced.capture.take_if(|capture| capture.id == id)?;
        let is_done = sliced.hand_out(&mut capture, &mut visit);
        if !is_done {
            sliced.capture = Some(capture);
        }
        Some(is_done)
    }

    /// The capture in progress.
    pub fn captured_id(&self) -> Option<u64> {
        match self.0.view() {
            FormRef::Packed(_) => None,
            FormRef::Large(sliced) => sliced.capture.as_ref().map(|capture| capture.id),
        }
    }

    /// Bytes that it has put aside.
    pub fn aside_bytes(&self) -> usize {
        match self.0.view() {
            FormRef::Packed(_) => 0,
            FormRef::Large(sliced) => sliced.capture.as_ref().map_or(0, |capture| capture.aside_bytes),
        }
    }

    /// Ends whatever capture is under way.
    pub fn end_capture(&mut self) {
        if let FormMut::Large(sliced) = self.0.view_mut() {
            sliced.capture = None;
        }
    }
}

impl Sliced {
    /// Shows parts until `visit` has enough, or all are shown; returns whether they are.
    fn hand_out(&self, capture: &mut Capture, visit: &mut impl FnMut(ArrayPart<'_>) -> bool) -> bool {
        if let Some(last_insert) = capture.head.take() {
            let last_insert = (last_insert != NO_INSERT).then_some(last_insert);
            if visit(ArrayPart::Head { last_insert }) {
                return false;
            }
        }
        while capture.next <= capture.end {
            let aside = capture.aside.first_key_value().map(|(index, _)| *index);
            // The elements before the next one that was put aside are as they were.
            let until = aside.map_or(Some(capture.end), |aside| aside.checked_sub(1));
            let next = &mut capture.next;
            if let Some(until) = until
                && self.visit(*next, until, false, |index, element| {
                    *next = index + 1;
                    visit(ArrayPart::Element { index, element })
                })
            {
                return false;
            }
            let Some((index, text)) = capture.aside.pop_first() else { break };
            capture.aside_bytes -= aside_bytes(text.as_deref());
            capture.next = index + 1;
            if let Some(text) = text
                && visit(ArrayPart::Element { index, element: Element::parse(&text) })
            {
                return false;
            }
        }
        true
    }
}
