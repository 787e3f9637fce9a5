//! The pace of threads whose long work may wait: every so often such a thread offers its processor to others.
//!
//! The system lets a running thread finish its slice, up to 4 ms, before one that wakes, however much lower its priority
//! is. So a thread that serves clients would wait that long for each long command beside it. Loops over many elements
//! therefore say how far they have come ([`step`]), and a thread that has asked for it ([`give_way`]) offers its processor
//! every one or two tenths of a millisecond. On all other threads a step is a subtraction.
//!
//! Long work may also be told to end before it is done:
//!
//! 1. A thread [listens](listen) to a request for an end while it runs the work of a caller.
//! 2. Work whose result can be thrown away, since it changes nothing, is marked as [endable].
//! 3. Between two steps of such work the thread asks whether the work is to end. From then on [`goes_on`] says no, loops and
//!    iterators stop where they are, and what they have found is thrown away.
//!
//! Invariant: work that is not marked never sees an end, so what changes data is done in full, whatever it shares with what
//! only reads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Bytes that are copied in about the time of one element.
pub const BYTES_PER_ELEMENT: usize = 256;
/// Bytes that are copied at once.
const COPIED_AT_ONCE: usize = 256 << 10;

/// Work between two offers, in elements looked at.
const OFFER_EVERY: usize = 4_000;

thread_local! {
    /// Called when the thread offers its processor.
    static OFFER: Cell<Option<fn()>> = const { Cell::new(None) };
    /// Work until the next offer.
    static LEFT: Cell<usize> = const { Cell::new(OFFER_EVERY) };
    /// Asked at each offer whether endable work is to end.
    static ENDING: RefCell<Option<EndAsked>> = const { RefCell::new(None) };
    static COURSE: Cell<Course> = const { Cell::new(Course::Deaf) };
}

/// Says whether the work of a thread is to end.
pub type EndAsked = Rc<dyn Fn() -> bool>;

/// The error of work that was ended before it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// The thread listens to no request for an end.
    Deaf,
    /// It listens, but its present work is done in full.
    Firm,
    Endable,
    Ended,
}

/// Lets the calling thread offer its processor from now on, by a call of `offer`.
pub fn give_way(offer: fn()) {
    OFFER.set(Some(offer));
}

/// Says that the calling thread has looked at about so many elements, or does so next. Not to be called while it holds a
/// lock that others wait for by blocking.
#[inline]
pub fn step(elements: usize) {
    match LEFT.get().checked_sub(elements) {
        Some(left) => LEFT.set(left),
        None => offer(),
    }
}

/// The same in a loop of work that may be [endable]. Returns whether it goes on: if not, the result does not matter any more.
#[inline]
#[must_use]
pub fn goes_on(elements: usize) -> bool {
    step(elements);
    !is_ended()
}

/// Whether the present work is to stop, since its result is thrown away.
#[inline]
pub fn is_ended() -> bool {
    COURSE.get() == Course::Ended
}

/// Whether the thread listens to a request for an end.
#[inline]
pub fn listens() -> bool {
    COURSE.get() != Course::Deaf
}

/// Lets [endable] work of this thread be ended by `ending` until the result is dropped; `None`: by nothing. The work that goes
/// on around it is no part of that.
#[must_use]
pub fn listen(ending: Option<EndAsked>) -> Listening {
    let course = if ending.is_some() { Course::Firm } else { Course::Deaf };
    Listening { before: ENDING.replace(ending), course: COURSE.replace(course) }
}

/// The request for an end to which the thread listens.
pub fn ending() -> Option<EndAsked> {
    ENDING.with_borrow(Clone::clone)
}

/// While it lives, a thread listens to another request for an end than before.
pub struct Listening {
    before: Option<EndAsked>,
    course: Course,
}

impl Drop for Listening {
    fn drop(&mut self) {
        ENDING.set(self.before.take());
        COURSE.set(self.course);
    }
}

/// Runs work that changes nothing, and so may be ended at any step.
///
/// # Errors
/// It was ended, and its result is thrown away.
pub fn endable<T>(work: impl FnOnce() -> T) -> Result<T, Unfinished> {
    /// Restores the course after a panic, too.
    struct Before(Course);
    impl Drop for Before {
        fn drop(&mut self) {
            COURSE.set(self.0);
        }
    }
    let _before = match COURSE.get() {
        Course::Firm => Some(Before(COURSE.replace(Course::Endable))),
        Course::Deaf | Course::Endable | Course::Ended => None,
    };
    let done = work();
    if is_ended() { Err(Unfinished) } else { Ok(done) }
}

/// Appends `bytes`, in steps if they are many.
#[inline]
pub fn extend(to: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() <= COPIED_AT_ONCE {
        to.extend_from_slice(bytes);
        return;
    }
    make_room(to, bytes.len());
    for part in bytes.chunks(COPIED_AT_ONCE) {
        step(part.len() / BYTES_PER_ELEMENT);
        to.extend_from_slice(part);
    }
}

/// Makes room for `more` bytes, as `Vec::reserve` does. A large vector is moved in steps.
pub fn make_room(to: &mut Vec<u8>, more: usize) {
    if more > to.capacity() - to.len() {
        make_room_exact(to, more.max(to.len()));
    }
}

/// The same as `Vec::reserve_exact`.
pub fn make_room_exact(to: &mut Vec<u8>, more: usize) {
    if to.len() <= COPIED_AT_ONCE || more <= to.capacity() - to.len() {
        to.reserve_exact(more);
        return;
    }
    let mut moved = Vec::with_capacity(to.len() + more);
    extend(&mut moved, to);
    *to = moved;
}

/// A copy of `bytes`, made in steps if they are many.
pub fn copied(bytes: &[u8]) -> Vec<u8> {
    let mut copy = Vec::with_capacity(bytes.len());
    extend(&mut copy, bytes);
    copy
}

/// Appends zeros up to a length of `len`, in steps if they are many.
pub fn lengthen(to: &mut Vec<u8>, len: usize) {
    make_room_exact(to, len.saturating_sub(to.len()));
    while to.len() < len {
        let more = COPIED_AT_ONCE.min(len - to.len());
        step(more / BYTES_PER_ELEMENT);
        to.resize(to.len() + more, 0);
    }
}

/// Copies `bytes` over `to`, which is as long, in steps if they are many.
///
/// # Panics
/// If the lengths differ.
#[inline]
pub fn copy(to: &mut [u8], bytes: &[u8]) {
    if bytes.len() <= COPIED_AT_ONCE {
        to.copy_from_slice(bytes);
        return;
    }
    assert_eq!(to.len(), bytes.len(), "a copy is as long");
    for (to, part) in to.chunks_mut(COPIED_AT_ONCE).zip(bytes.chunks(COPIED_AT_ONCE)) {
        step(part.len() / BYTES_PER_ELEMENT);
        to.copy_from_slice(part);
    }
}

#[cold]
fn offer() {
    LEFT.set(OFFER_EVERY);
    if let Some(offer) = OFFER.get() {
        offer();
    }
    if COURSE.get() == Course::Endable && ending().is_some_and(|ending| ending()) {
        COURSE.set(Course::Ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static OFFERS: Cell<usize> = const { Cell::new(0) };
    }

    /// Runs `work` as on a new thread, and returns how often that has offered its processor.
    fn offers(work: impl FnOnce()) -> usize {
        LEFT.set(OFFER_EVERY);
        OFFERS.set(0);
        work();
        OFFER.set(None);
        OFFERS.get()
    }

    fn give_way_here() {
        give_way(|| OFFERS.set(OFFERS.get() + 1));
    }

    #[test]
    fn only_a_thread_that_gives_way_offers_its_processor() {
        assert_eq!(offers(|| (0..10 * OFFER_EVERY).for_each(|_| step(1))), 0);
        let ten = offers(|| {
            give_way_here();
            (0..10 * (OFFER_EVERY + 1)).for_each(|_| step(1));
        });
        assert_eq!(ten, 10);
        let once = offers(|| {
            give_way_here();
            step(usize::MAX);
        });
        assert_eq!(once, 1, "however long a step is");
    }

    /// The elements that a loop looks at, of many.
    fn looked_at() -> usize {
        (0..10 * OFFER_EVERY).take_while(|_| goes_on(1)).count()
    }

    #[test]
    fn only_endable_work_ends_early() {
        let all = 10 * OFFER_EVERY;
        assert_eq!(endable(looked_at), Ok(all), "nothing asks for an end");
        let is_wanted = Rc::new(Cell::new(true));
        let asked = Rc::clone(&is_wanted);
        let listening = listen(Some(Rc::new(move || !asked.get())));
        assert_eq!(endable(looked_at), Ok(all));
        is_wanted.set(false);
        assert_eq!(looked_at(), all, "it may change something");
        let mut seen = 0;
        assert_eq!(endable(|| seen = looked_at()), Err(Unfinished));
        assert!(seen > 0 && seen <= 2 * OFFER_EVERY, "{seen}");
        assert!(!is_ended(), "the next work is another");
        let nested = endable(|| {
            let inner = endable(looked_at);
            (inner, looked_at())
        });
        assert_eq!(nested, Err(Unfinished), "what is around it is ended too");
        {
            let _deaf = listen(None);
            assert_eq!(endable(looked_at), Ok(all), "work of another caller");
        }
        assert_eq!(endable(looked_at), Err(Unfinished));
        assert!(std::panic::catch_unwind(|| endable(|| panic!("in a command"))).is_err());
        assert_eq!(looked_at(), all, "a panic ends what could be ended");
        drop(listening);
        assert!(!listens() && endable(looked_at) == Ok(all));
    }

    #[test]
    fn copies_are_whole_and_offer_the_processor_on_the_way() {
        let megabytes = offers(|| {
            give_way_here();
            for len in [0, 1, COPIED_AT_ONCE, COPIED_AT_ONCE + 1, 16 << 20] {
                let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
                assert!(copied(&bytes) == bytes);
                let mut over = vec![0; len];
                copy(&mut over, &bytes);
                assert!(over == bytes);
                make_room(&mut over, len + 1);
                assert!(over == bytes && over.capacity() > 2 * len);
                lengthen(&mut over, len + 3 * COPIED_AT_ONCE);
                assert!(over[..len] == bytes && over[len..].iter().all(|byte| *byte == 0));
                assert_eq!(over.len(), len + 3 * COPIED_AT_ONCE);
            }
        });
        assert!(megabytes > 10, "{megabytes}");
    }
}
