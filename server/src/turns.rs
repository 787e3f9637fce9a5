//! Turns: the order in which a worker serves its connections.
//!
//! An event loop runs its tasks in the order in which they become ready. A client would wait for a turn of each busy
//! connection of its worker, however little its own database asks for. So busy connections wait for each other, and
//! any other connection waits for at most one of them:
//!
//! 1. Each turn is charged to the [`Share`] of its database's owner. What was charged a second ago counts half.
//! 2. A *round* is the work since the event loop last looked at its sockets. While it is short and no connection waits,
//!    every connection works at once.
//! 3. From then on connections wait for their turns. Those of a *light* owner still work at once: its turns are short,
//!    and it has had less than an equal part of the worker's time.
//! 4. One task of the worker ([`Turns::serve`]) gives the waiting connections their turns: first those of the owner that
//!    has had least, and each owner's in the order in which they came. When a round is over, it lets the event loop look
//!    at its sockets, so that light connections work before the next.
//!
//! A light client therefore waits for one round at most, and for the turn that exceeds it. Busy owners get equal parts
//! of the worker, however many connections each has.
//!
//! Charges are not made smaller as they age. Later charges are made larger instead, by [`Turns::weight`], so that the
//! order of the owners changes only with new charges.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Length of a round.
const ROUND_NS: u64 = 250_000;
/// A turn below this is short.
const SHORT_NS: u64 = 100_000;
/// Owners that have had this part of the worker's time are counted as active, this often.
const ACTIVE_PART: f64 = 0.001;
const COUNT_EVERY_MS: u64 = 64;
/// Time after which a charge counts half.
const HALF_LIFE_MS: f64 = 1_000.0;
/// Charges are made smaller when later ones count this many times as much.
const WEIGHT_MAX: f64 = 1e12;
/// From this number on, shares of owners without connections are dropped if they have had little.
const SHARES_KEPT: usize = 256;

thread_local! {
    /// Work since this thread's event loop last looked at its sockets.
    static ROUND: Cell<u64> = const { Cell::new(0) };
}

/// Called when the event loop of this thread has looked at its sockets.
pub fn begin_round() {
    ROUND.set(0);
}

/// The order of one worker.
#[derive(Default)]
pub struct Turns {
    /// Kept when an owner's last connection ends: what it has had is remembered if it comes back.
    shares: RefCell<HashMap<Box<str>, Rc<Share>>>,
    /// Number of owners.
    owners: Cell<usize>,
    /// An equal part of the worker's time, counted like charges.
    part: Cell<f64>,
    /// Number of owners that have had a turn lately.
    active: Cell<usize>,
    /// How much a nanosecond counts that is charged now.
    weight: Cell<f64>,
    /// The time of this weight, and when it was 1, in Unix milliseconds.
    now_ms: Cell<u64>,
    since_ms: Cell<u64>,
    /// Owners with waiting connections, in the order in which they began to wait.
    busy: RefCell<VecDeque<Rc<Share>>>,
    /// Waker of the task that gives turns, while no connection waits.
    task: RefCell<Option<Waker>>,
}

/// The time that a worker has spent on one owner's connections.
#[derive(Default)]
pub struct Share {
    work: Cell<f64>,
    /// The longest of its last turns, in nanoseconds.
    turn_ns: Cell<u64>,
    waiting: RefCell<VecDeque<Rc<QueuePlace>>>,
}

/// The place of a connection that waits for its turn.
#[derive(Default)]
pub struct QueuePlace {
    is_called: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl QueuePlace {
    /// Whether its turn has come. If not, the task is woken when it does.
    pub fn is_called(&self, waker: &Waker) -> bool {
        if !self.is_called.get() {
            self.waker.borrow_mut().get_or_insert_with(|| waker.clone()).clone_from(waker);
        }
        self.is_called.get()
    }

    fn call(&self) {
        self.is_called.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Turns {
    /// Returns the share of `owner`.
    pub fn share(&self, owner: &str) -> Rc<Share> {
        let mut shares = self.shares.borrow_mut();
        if let Some(share) = shares.get(owner) {
            return Rc::clone(share);
        }
        if shares.len() >= SHARES_KEPT {
            let negligible = self.part.get() / 1000.0;
            shares.retain(|_, share| Rc::strong_count(share) > 1 || share.work.get() > negligible);
        }
        let share = Rc::<Share>::default();
        shares.insert(owner.into(), Rc::clone(&share));
        self.owners.set(shares.len());
        share
    }

    /// Says what time it is.
    #[inline]
    pub fn tick(&self, now_ms: u64) {
        if now_ms != self.now_ms.get() {
            self.age(now_ms);
        }
    }

    #[cold]
    fn age(&self, now_ms: u64) {
        let before_ms = self.now_ms.replace(now_ms);
        // The first time, and if the clock was set back.
        if self.since_ms.get() == 0 || now_ms < self.since_ms.get() {
            self.since_ms.set(now_ms);
        }
        let weight = ((now_ms - self.since_ms.get()) as f64 / HALF_LIFE_MS).exp2();
        self.weight.set(weight);
        if weight > WEIGHT_MAX {
            self.shares.borrow().values().for_each(|share| share.work.set(share.work.get() / weight));
            self.since_ms.set(now_ms);
            self.weight.set(1.0);
        }
        // All time so far, where each second counts half of the one after it.
        let whole = HALF_LIFE_MS * 1e6 / std::f64::consts::LN_2 * self.weight.get();
        if now_ms / COUNT_EVERY_MS != before_ms / COUNT_EVERY_MS {
            let shares = self.shares.borrow();
            self.active.set(shares.values().filter(|share| share.work.get() > whole * ACTIVE_PART).count());
        }
        self.part.set(whole / self.active.get().max(1) as f64);
    }

    /// Charges `share` for `ns` of work.
    #[inline]
    pub fn charge(&self, share: &Share, ns: u64) {
        // One that is alone need not be compared with others.
        if self.owners.get() <= 1 {
            return;
        }
        ROUND.set(ROUND.get() + ns);
        share.work.set(share.work.get() + ns as f64 * self.weight.get());
        let turn_ns = share.turn_ns.get();
        share.turn_ns.set(ns.max(turn_ns - turn_ns / 16));
    }

    /// Whether all connections that the worker has served lately have the same owner.
    pub fn has_one_owner(&self) -> bool {
        self.owners.get() <= 1
    }

    /// Whether a connection of `share` may work now, without waiting for its turn.
    #[inline]
    pub fn is_free(&self, share: &Share) -> bool {
        self.owners.get() <= 1 || ROUND.get() < ROUND_NS && self.busy.borrow().is_empty() || self.is_light(share)
    }

    fn is_light(&self, share: &Share) -> bool {
        share.turn_ns.get() < SHORT_NS && share.work.get() < self.part.get()
    }

    /// Takes a place among the waiting connections.
    pub fn queue(&self, share: &Rc<Share>) -> Rc<QueuePlace> {
        let place = Rc::new(QueuePlace::default());
        let mut waiting = share.waiting.borrow_mut();
        waiting.push_back(Rc::clone(&place));
        if waiting.len() == 1 {
            self.enter(share);
        }
        place
    }

    /// Gives other connections a turn, and waits for the next one.
    pub async fn pass(&self, share: &Rc<Share>) {
        if self.is_free(share) {
            tokio::task::yield_now().await;
        }
        self.wait(share).await;
    }

    /// Waits until a connection of `share` may work.
    pub async fn wait(&self, share: &Rc<Share>) {
        if !self.is_free(share) {
            let place = self.queue(share);
            poll_fn(|cx| if place.is_called(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
        }
    }

    fn enter(&self, share: &Rc<Share>) {
        self.busy.borrow_mut().push_back(Rc::clone(share));
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Gives turns. It ends with its worker.
    pub async fn serve(&self) {
        loop {
            poll_fn(|cx| match self.busy.borrow().is_empty() {
                true => {
                    *self.task.borrow_mut() = Some(cx.waker().clone());
                    Poll::Pending
                }
                false => Poll::Ready(()),
            })
            .await;
            // All tasks that are ready work first, and the event loop looks at its sockets.
            tokio::task::yield_now().await;
            begin_round();
            while ROUND.get() < ROUND_NS && self.call_next() {
                after_ready_tasks().await;
            }
        }
    }

    /// Calls the next connection. False: none waits.
    fn call_next(&self) -> bool {
        let Some(share) = self.take_least() else { return false };
        let (place, has_more) = {
            let mut waiting = share.waiting.borrow_mut();
            (waiting.pop_front(), !waiting.is_empty())
        };
        if has_more {
            self.enter(&share);
        }
        if let Some(place) = place {
            place.call();
        }
        true
    }

    /// Takes the busy owner that has had least.
    fn take_least(&self) -> Option<Rc<Share>> {
        let mut busy = self.busy.borrow_mut();
        let had = |share: &Rc<Share>| share.work.get();
        let (least, _) = busy.iter().enumerate().min_by(|(_, one), (_, other)| had(one).total_cmp(&had(other)))?;
        busy.remove(least)
    }
}

/// Lets the tasks that are ready now work, without a look at the sockets.
pub async fn after_ready_tasks() {
    let mut is_over = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    const MS: u64 = 1_000_000;

    /// A worker whose owners `a`, `b` and so on have had these times of it.
    fn worker(had_ns: &[u64]) -> (Rc<Turns>, Vec<Rc<Share>>) {
        let turns = Rc::new(Turns::default());
        turns.tick(1_000);
        let names = ["a", "b", "c", "d"];
        let shares: Vec<_> = names.iter().take(had_ns.len()).map(|name| turns.share(name)).collect();
        shares.iter().zip(had_ns).for_each(|(share, ns)| turns.charge(share, *ns));
        turns.tick(1_000 + COUNT_EVERY_MS);
        (turns, shares)
    }

    #[test]
    fn a_light_owner_never_waits() {
        let (turns, shares) = worker(&[500 * MS, 400 * MS, 10_000]);
        let free = || shares.iter().map(|share| turns.is_free(share)).collect::<Vec<_>>();
        assert_eq!(free(), [false, false, true], "the round is over");
        begin_round();
        assert_eq!(free(), [true; 3]);
        let _place = turns.queue(&shares[0]);
        assert_eq!(free(), [false, false, true], "a connection waits, and those of busy owners come after it");
    }

    #[test]
    fn who_is_alone_never_waits() {
        let (turns, shares) = worker(&[500 * MS]);
        assert!(turns.is_free(&shares[0]));
        turns.share("b");
        assert!(turns.is_free(&shares[0]), "earlier work, while it was alone, does not count");
        turns.charge(&shares[0], 500 * MS);
        assert!(!turns.is_free(&shares[0]));
    }

    #[test]
    fn neither_long_turns_nor_many_short_ones_are_light() {
        let (turns, shares) = worker(&[50_000, 50_000]);
        turns.charge(&shares[0], MS);
        (0..50_000).for_each(|_| turns.charge(&shares[1], 50_000));
        let few = turns.share("few");
        turns.charge(&few, 50_000);
        assert_eq!([&shares[0], &shares[1], &few].map(|share| turns.is_free(share)), [false, false, true]);
        // A second later the long turn is forgotten by shorter ones, and the many count half.
        (0..100).for_each(|_| turns.charge(&shares[0], 10_000));
        turns.tick(60_000);
        assert_eq!([&shares[0], &shares[1]].map(|share| turns.is_free(share)), [true, true]);
    }

    #[test]
    fn an_owner_is_remembered_when_it_comes_back() {
        let (turns, mut shares) = worker(&[500 * MS, 400 * MS]);
        shares.remove(0);
        assert!(!turns.is_free(&turns.share("a")));
        // But not forever.
        turns.tick(120_000);
        for n in 0..2 * SHARES_KEPT {
            turns.share(&n.to_string());
        }
        assert!(turns.owners.get() <= SHARES_KEPT + 1);
    }

    #[test]
    fn old_charges_fade_however_long_a_worker_runs() {
        let (turns, shares) = worker(&[500 * MS, 10_000]);
        for second in 2..200 {
            turns.charge(&shares[0], 500 * MS);
            turns.charge(&shares[1], 10_000);
            turns.tick(second * 1000);
            assert_eq!(shares.iter().map(|share| turns.is_free(share)).collect::<Vec<_>>(), [false, true]);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn owners_have_equal_parts_however_many_connections_they_have() {
        LocalSet::new()
            .run_until(async {
                let (turns, shares) = worker(&[MS, MS]);
                let order = Rc::new(RefCell::new(Vec::new()));
                let giver = Rc::clone(&turns);
                spawn_local(async move { giver.serve().await });
                for connection in 0..11 {
                    let owner = usize::from(connection > 0);
                    let (turns, share, order) = (Rc::clone(&turns), Rc::clone(&shares[owner]), Rc::clone(&order));
                    spawn_local(async move {
                        loop {
                            turns.pass(&share).await;
                            order.borrow_mut().push(owner);
                            turns.charge(&share, MS);
                        }
                    });
                }
                // A closed connection does not block the queue.
                drop(turns.queue(&shares[0]));
                while order.borrow().len() < 200 {
                    yield_now().await;
                }
                let of_first = order.borrow()[..200].iter().filter(|owner| **owner == 0).count();
                assert!((90..=110).contains(&of_first), "{of_first} of 200");
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_light_connection_works_between_any_two_busy_turns() {
        LocalSet::new()
            .run_until(async {
                let (turns, shares) = worker(&[100 * MS, 100 * MS, 100 * MS, 10_000]);
                let since_light = Rc::new(Cell::new(0));
                let giver = Rc::clone(&turns);
                spawn_local(async move { giver.serve().await });
                let busy = Rc::new(Cell::new(0));
                for connection in 0..30 {
                    let (turns, share) = (Rc::clone(&turns), Rc::clone(&shares[connection % 3]));
                    let (since_light, busy) = (Rc::clone(&since_light), Rc::clone(&busy));
                    spawn_local(async move {
                        loop {
                            turns.pass(&share).await;
                            turns.charge(&share, MS);
                            busy.set(busy.get() + 1);
                            since_light.set(since_light.get() + 1);
                            assert!(since_light.get() <= 2, "a light connection has waited for several turns");
                        }
                    });
                }
                while busy.get() < 100 {
                    assert!(turns.is_free(&shares[3]));
                    turns.charge(&shares[3], 1_000);
                    since_light.set(0);
                    yield_now().await;
                }
            })
            .await;
    }
}
