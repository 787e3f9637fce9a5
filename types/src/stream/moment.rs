//! The memory of a moment: what ids named then, while they go on changing.

use std::collections::BTreeMap;

use super::StreamId;

/// The ids of a moment's values.
pub(super) trait Sequence: Ord + Copy {
    const MIN: Self;

    /// The id after this one; `None` after the last.
    fn next(self) -> Option<Self>;
}

impl Sequence for StreamId {
    const MIN: Self = StreamId::MIN;

    fn next(self) -> Option<Self> {
        self.next()
    }
}

/// Values by their ids as they were at one moment, which are handed out in order. What changes before it is handed out is
/// put aside first.
///
/// Invariant: an id from `next` to `end` named at the moment what `aside` has under it, or else what it names now.
#[derive(Debug)]
pub(super) struct Moment<V, I = StreamId> {
    next: Option<I>,
    end: I,
    aside: BTreeMap<I, Option<V>>,
}

impl<V, I: Sequence> Moment<V, I> {
    /// `end`: the highest id that exists; `None`: nothing does.
    pub fn new(end: Option<I>) -> Self {
        Moment { next: end.map(|_| I::MIN), end: end.unwrap_or(I::MIN), aside: BTreeMap::new() }
    }

    /// To be called before what `id` names is changed, removed or added. `before`: what it names now.
    #[inline]
    pub fn note(&mut self, id: I, before: impl FnOnce() -> Option<V>) {
        if self.next.is_some_and(|next| next <= id) && id <= self.end {
            self.aside.entry(id).or_insert_with(before);
        }
    }

    /// Hands out the next value to `visit`. `live`: the first value from one id to another; it may also be behind. Returns whether
    /// there was one.
    pub fn step<'v>(&mut self, live: impl Fn(I, I) -> Option<(I, &'v V)>, visit: impl FnOnce(I, &V)) -> bool
    where
        V: 'v,
    {
        while let Some(next) = self.next {
            let aside = self.aside.first_key_value().map(|(id, _)| *id);
            let last = aside.map_or(self.end, |aside| aside.min(self.end));
            let found = live(next, last).filter(|(id, _)| *id <= self.end);
            match (found, aside) {
                (Some((id, value)), aside) if aside.is_none_or(|aside| id < aside) => {
                    self.next = id.next();
                    visit(id, value);
                    return true;
                }
                (_, Some(id)) => {
                    self.next = id.next();
                    if let Some(Some(value)) = self.aside.remove(&id) {
                        visit(id, &value);
                        return true;
                    }
                }
                _ => self.next = None,
            }
        }
        false
    }

    pub fn aside(&self) -> impl Iterator<Item = Option<&V>> {
        self.aside.values().map(Option::as_ref)
    }
}
