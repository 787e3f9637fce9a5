//! Spending limits: how much a database and its branches may use together in a calendar month (UTC), in request units, or in
//! money by the price file.
//!
//! 1. What an owner and its branches have used in the month is in the [ledger](crate::ledger), also what deleted branches have.
//!    It is read when the first of them is opened, or gets its first limit: the *base*. The meters of those in memory tell what
//!    has come since, from a mark on. So a limit holds over sleep, crash and move, and a tenant does not escape it by branches.
//! 2. What leaves memory adds what it has used since its mark to the base. A database that enters memory later gets its mark
//!    then.
//! 3. The keeper compares once a second. Above the limit a flag is set, which a batch of commands looks at once; so a
//!    database may use more than its limit for about a second.
//! 4. Then everything that would be billed is refused, and the refusals are not billed. The operator's requests run.
//!
//! What was used is not known while the ledger cannot be read. Until then nothing is refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Datelike, Utc};
use dormouse_storage::store::StoreError;
use parking_lot::Mutex;
use serde_json::json;

use crate::ledger::UsageLedger;
use crate::metering::export::envelope;
use crate::metering::prices::{Prices, money};
use crate::metering::{DatabaseMeters, Meter, MeterMark, UsageWindow, rfc3339};
use crate::saving::Attempts;

/// Hundredths of a limit at which a warning is logged.
const WARNING_PERCENT: u128 = 80;

/// The operator's limits on what a database may use in a month; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpendingLimits {
    pub request_units: u64,
    /// Billionths of the currency of the price file.
    pub money_nano: u64,
}

/// The usage of a database and its branches in the present month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MonthlyUse {
    /// Unix milliseconds of the beginning of the month.
    pub since_ms: u64,
    pub request_units: u128,
    pub money_nano: u128,
}

/// The spending of one database in memory.
#[derive(Default)]
pub struct Spending {
    is_exceeded: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Usage before this mark is part of its owner's base.
    mark: Option<MeterMark>,
    /// Together with all of its owner.
    spent: Option<MonthlyUse>,
    refusal: Option<Arc<str>>,
}

/// A database that has limits, or leaves memory.
#[derive(Clone, Copy)]
pub struct Spender<'a> {
    /// The name of its owner, or its own.
    pub owner: &'a str,
    pub meters: &'a DatabaseMeters,
    pub spending: &'a Spending,
    pub limits: SpendingLimits,
}

/// The spending of all owners whose databases have limits. Its lock is taken before those of single databases.
pub struct SpendingBook {
    prices: Option<Arc<Prices>>,
    owners: Mutex<HashMap<Box<str>, OwnerUse>>,
}

#[derive(Default)]
struct OwnerUse {
    since_ms: u64,
    /// `None`: the ledger was not read yet.
    base: Option<MonthlyUse>,
    /// The usage of databases that have left memory while the ledger was read.
    left: MonthlyUse,
    is_reading: bool,
    attempts: Attempts,
    /// The usage of each database in memory since its mark.
    live: BTreeMap<Box<str>, MonthlyUse>,
    /// The months of the last warning, and of the last time that a limit was reached.
    warned_ms: Option<u64>,
    reached_ms: Option<u64>,
}

/// What the keeper has to do for a database.
#[derive(Debug, PartialEq, Eq)]
pub enum SpendingEvent {
    /// Begin [`SpendingBook::read`].
    Read,
    /// Log this, and tell the operator.
    Tell(SpendingNotice),
}

/// News about what a database and its branches have spent, once in a month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpendingNotice {
    /// Whether a limit is reached; else it is near.
    pub is_reached: bool,
    pub spent: MonthlyUse,
    pub limits: SpendingLimits,
    /// Of the price file, if there is one.
    pub currency: String,
}

impl std::fmt::Display for SpendingNotice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { spent, limits, currency, .. } = self;
        let mut told = Vec::new();
        if limits.request_units > 0 {
            told.push(format!("{} of {} request units", spent.request_units, limits.request_units));
        }
        if limits.money_nano > 0 {
            told.push(format!("{} of {} {currency}", money(spent.money_nano), money(limits.money_nano.into())));
        }
        match self.is_reached {
            true => write!(f, "the spending limit is reached: {}", told.join(", ")),
            false => write!(f, "{WARNING_PERCENT} % of the spending limit are used: {}", told.join(", ")),
        }
    }
}

impl SpendingNotice {
    /// The id of its event: one for each owner, month and kind.
    pub fn id(&self, owner: &str) -> String {
        let kind = if self.is_reached { "spending_limit" } else { "spending_warning" };
        format!("{owner}:{kind}:{}", self.spent.since_ms / 1000)
    }

    /// Its event, as JSON.
    pub fn event(&self, owner: &str, now_ms: u64) -> String {
        let Self { spent, limits, currency, .. } = self;
        let mut data = json!({
            "month": rfc3339(spent.since_ms),
            "request_units": spent.request_units.to_string(),
        });
        if limits.request_units > 0 {
            data["request_units_limit"] = json!(limits.request_units.to_string());
        }
        if limits.money_nano > 0 {
            data["money"] = json!(money(spent.money_nano));
            data["money_limit"] = json!(money(limits.money_nano.into()));
            data["currency"] = json!(currency);
        }
        let kind = if self.is_reached { "dormouse.spending.limit" } else { "dormouse.spending.warning" };
        envelope(&self.id(owner), kind, owner, now_ms, data).to_string()
    }
}

impl SpendingLimits {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Spending {
    /// Whether commands that would be billed are refused.
    #[inline]
    pub fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// The error for such a command.
    pub fn refusal(&self) -> Arc<str> {
        self.state.lock().refusal.clone().unwrap_or_else(|| "ERR max requests limit exceeded".into())
    }

    /// What was used in this month, if it is known.
    pub fn spent(&self) -> Option<MonthlyUse> {
        self.state.lock().spent
    }

    fn clear(&self) {
        if self.is_exceeded.swap(false, Ordering::Relaxed) {
            let mut state = self.state.lock();
            (state.spent, state.refusal) = (None, None);
        }
    }

    /// Compares with the limits.
    fn compare(&self, limits: SpendingLimits, prices: Option<&Prices>, spent: MonthlyUse) {
        let exceeded = exceeded(limits, prices, spent);
        let mut state = self.state.lock();
        state.spent = Some(spent);
        self.is_exceeded.store(exceeded.is_some(), Ordering::Relaxed);
        state.refusal = exceeded.map(Into::into);
    }
}

impl SpendingBook {
    pub fn new(prices: Option<Arc<Prices>>) -> Self {
        Self { prices, owners: Mutex::default() }
    }

    /// Compares what was used with the limits. To be called often.
    pub fn look(&self, of: Spender<'_>, now_ms: u64) -> Option<SpendingEvent> {
        let (limits, prices) = (of.limits, self.prices.as_deref());
        if limits.is_none() {
            of.spending.clear();
            return None;
        }
        let mut owners = self.owners.lock();
        if !owners.contains_key(of.owner) {
            owners.insert(of.owner.into(), OwnerUse::default());
        }
        let used = owners.get_mut(of.owner)?;
        used.begin_month(month_of(now_ms));
        if used.base.is_none() {
            let begins = !used.is_reading && used.attempts.is_due();
            used.is_reading |= begins;
            return begins.then_some(SpendingEvent::Read);
        }
        let own = self.since_mark(of, used.since_ms, now_ms);
        used.live.insert(of.meters.database().into(), own);
        let spent = used.total()?;
        of.spending.compare(limits, prices, spent);
        let month = Some(used.since_ms);
        let is_reached = used.warned_ms == month;
        let is_news = match is_reached {
            false => is_near(limits, spent) && used.warned_ms.replace(used.since_ms) != month,
            true => of.spending.is_exceeded() && used.reached_ms.replace(used.since_ms) != month,
        };
        is_news.then(|| {
            let currency = prices.map_or_else(String::new, |prices| prices.currency.clone());
            SpendingEvent::Tell(SpendingNotice { is_reached, spent, limits, currency })
        })
    }

    /// Notes a database that has entered memory: a new branch is refused from its first command on if its owner is.
    pub fn enter(&self, of: Spender<'_>, now_ms: u64) {
        let owners = self.owners.lock();
        let Some(used) = owners.get(of.owner).filter(|used| used.base.is_some() || used.is_reading) else { return };
        of.spending.state.lock().mark = Some(of.meters.mark(now_ms));
        if let Some(spent) = used.total().filter(|spent| spent.since_ms == month_of(now_ms))
            && !of.limits.is_none()
        {
            of.spending.compare(of.limits, self.prices.as_deref(), spent);
        }
    }

    /// Notes a database that has left memory.
    pub fn leave(&self, of: Spender<'_>, now_ms: u64) {
        let mut owners = self.owners.lock();
        let Some(used) = owners.get_mut(of.owner) else { return };
        used.begin_month(month_of(now_ms));
        used.live.remove(of.meters.database());
        if of.spending.state.lock().mark.is_some() {
            let own = self.since_mark(of, used.since_ms, now_ms);
            of.spending.state.lock().mark = None;
            match &mut used.base {
                Some(base) => *base = base.plus(own),
                None => used.left = used.left.plus(own),
            }
        }
        // The ledger will tell when one of them is opened again.
        if used.live.is_empty() && !used.is_reading {
            owners.remove(of.owner);
        }
    }

    /// Its usage in the month since its mark.
    fn since_mark(&self, of: Spender<'_>, since_ms: u64, now_ms: u64) -> MonthlyUse {
        let mut state = of.spending.state.lock();
        let mark = state.mark.filter(|mark| mark.at_ms >= since_ms);
        // The month has begun since, with nothing.
        let mark = *state.mark.insert(mark.unwrap_or_else(|| of.meters.mark(now_ms)));
        let more = of.meters.used_since(&mark, now_ms);
        MonthlyUse::of(since_ms, &[more], self.prices.as_deref(), mark.at_ms, now_ms)
    }

    /// Reads what an owner and its branches have used in this month before now. `in_memory`: all of them that are.
    ///
    /// # Errors
    /// When the ledger cannot be read. It is tried again later.
    pub async fn read(
        &self,
        ledger: &UsageLedger,
        owner: &str,
        in_memory: &[Spender<'_>],
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let since_ms = month_of(now_ms);
        let mut until = Vec::with_capacity(in_memory.len());
        {
            let mut owners = self.owners.lock();
            let used = owners.entry(owner.into()).or_default();
            used.left = MonthlyUse::default();
            for of in in_memory {
                let mut mark = of.meters.mark_of_window(now_ms);
                until.push((of.meters, mark.at_ms));
                // A minute may have begun in the month before.
                mark.at_ms = mark.at_ms.max(since_ms);
                of.spending.state.lock().mark = Some(mark);
            }
        }
        let windows = ledger.hours_of_owner(owner, &until, since_ms).await;
        let mut owners = self.owners.lock();
        let used = owners.entry(owner.into()).or_default();
        used.is_reading = false;
        used.attempts.note(windows.is_ok());
        let mut base = MonthlyUse { since_ms, ..used.left };
        for (name, windows) in windows? {
            // A branch has a price from its first hour on.
            let first_ms = windows.first().map_or(since_ms, |first| first.start_ms.max(since_ms));
            let from_ms = if name == owner { since_ms } else { first_ms };
            let last_ms = windows.last().map_or(from_ms, |last| last.end_ms);
            let to_ms = until.iter().find(|(meters, _)| meters.database() == name).map_or(last_ms, |(_, until)| *until);
            base = base.plus(MonthlyUse::of(since_ms, &windows, self.prices.as_deref(), from_ms, to_ms.max(from_ms)));
        }
        used.since_ms = since_ms;
        used.base = Some(base);
        Ok(())
    }
}

impl OwnerUse {
    /// The month begins with nothing.
    fn begin_month(&mut self, since_ms: u64) {
        if self.since_ms == since_ms {
            return;
        }
        self.since_ms = since_ms;
        self.left = MonthlyUse::default();
        self.live.clear();
        if self.base.is_some() {
            self.base = Some(MonthlyUse { since_ms, ..MonthlyUse::default() });
        }
    }

    fn total(&self) -> Option<MonthlyUse> {
        Some(self.live.values().fold(self.base?, |sum, of| sum.plus(*of)))
    }
}

impl MonthlyUse {
    fn of(since_ms: u64, windows: &[UsageWindow], prices: Option<&Prices>, from_ms: u64, to_ms: u64) -> Self {
        let units = windows.iter().map(|window| {
            window.quantity(Meter::RequestUnits).saturating_sub(window.quantity(Meter::UnbilledRequestUnits))
        });
        let money_nano = prices.map_or(0, |prices| prices.estimate(windows, from_ms, to_ms).total_nano);
        Self { since_ms, request_units: units.fold(0, u128::saturating_add), money_nano }
    }

    fn plus(self, more: Self) -> Self {
        Self {
            since_ms: self.since_ms,
            request_units: self.request_units.saturating_add(more.request_units),
            money_nano: self.money_nano.saturating_add(more.money_nano),
        }
    }
}

/// The error if a limit is reached.
fn exceeded(limits: SpendingLimits, prices: Option<&Prices>, spent: MonthlyUse) -> Option<String> {
    if limits.request_units > 0 && spent.request_units >= limits.request_units.into() {
        let (limit, usage) = (limits.request_units, spent.request_units);
        return Some(format!("ERR max requests limit exceeded. Limit: {limit}, Usage: {usage}"));
    }
    let currency = prices.map_or("", |prices| &prices.currency);
    (limits.money_nano > 0 && spent.money_nano >= limits.money_nano.into()).then(|| {
        let (limit, usage) = (money(limits.money_nano.into()), money(spent.money_nano));
        format!("ERR max cost limit exceeded. Limit: {limit} {currency}, Usage: {usage} {currency}")
    })
}

fn is_near(limits: SpendingLimits, spent: MonthlyUse) -> bool {
    let near = |limit: u64, used: u128| limit > 0 && used.saturating_mul(100) >= u128::from(limit) * WARNING_PERCENT;
    near(limits.request_units, spent.request_units) || near(limits.money_nano, spent.money_nano)
}

/// The beginning of the month in UTC, in Unix milliseconds.
pub fn month_of(unix_ms: u64) -> u64 {
    let time = i64::try_from(unix_ms).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    let first = time.and_then(|time| time.date_naive().with_day(1)?.and_hms_opt(0, 0, 0));
    first.and_then(|first| u64::try_from(first.and_utc().timestamp_millis()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dormouse_storage::store::Store;

    use super::*;
    use crate::metering::{Batch, WINDOW_MS};

    /// 5 December 2026, 13:00 UTC.
    const NOW_MS: u64 = 1_796_475_600_000;
    const DAY_MS: u64 = 24 * 3_600_000;

    fn used(meters: &Arc<DatabaseMeters>, requests: u64) {
        let writer = meters.writer();
        let mut batch = Batch::new();
        (0..requests).for_each(|_| batch.request(0, 1, 1));
        batch.request(0, 1, 1);
        batch.unbill(0, 1, 1);
        writer.commit(&mut batch, 0);
    }

    fn told(event: Option<SpendingEvent>) -> SpendingNotice {
        let Some(SpendingEvent::Tell(notice)) = event else { panic!("{event:?}") };
        notice
    }

    fn units(request_units: u64) -> SpendingLimits {
        SpendingLimits { request_units, money_nano: 0 }
    }

    /// A database with a limit, and the book.
    struct Bench {
        ledger: Arc<UsageLedger>,
        book: SpendingBook,
    }

    impl Bench {
        async fn new(prices: Option<Prices>) -> Self {
            let store = Arc::new(Store::memory());
            let ledger = UsageLedger::open(&store, 1, || NOW_MS).await;
            Self { ledger, book: SpendingBook::new(prices.map(Arc::new)) }
        }

        fn open(&self, name: &str, now_ms: u64) -> (Arc<DatabaseMeters>, Spending) {
            (DatabaseMeters::new(name, 1, now_ms, &self.ledger.recorded(name)), Spending::default())
        }

        async fn read(&self, some: &[Spender<'_>]) {
            self.book.read(&self.ledger, "a", some, NOW_MS).await.unwrap();
        }
    }

    fn spender<'a>((meters, spending): &'a (Arc<DatabaseMeters>, Spending), limits: SpendingLimits) -> Spender<'a> {
        Spender { owner: "a", meters, spending, limits }
    }

    #[tokio::test]
    async fn a_limit_holds_from_the_beginning_of_the_month_on() {
        let bench = Bench::new(None).await;
        let last_month_ms = NOW_MS - 10 * DAY_MS;
        let (meters, _) = bench.open("a", last_month_ms);
        used(&meters, 1000);
        meters.close_window(last_month_ms + WINDOW_MS);
        meters.close_window(NOW_MS - DAY_MS);
        used(&meters, 70);
        meters.close_window(NOW_MS);
        bench.ledger.record(std::slice::from_ref(&meters)).await.unwrap();
        // Another process.
        let (opened, limits) = (bench.open("a", NOW_MS), units(100));
        let (meters, spending) = &opened;
        let look = |limits: SpendingLimits, now_ms: u64| bench.book.look(spender(&opened, limits), now_ms);
        assert_eq!(look(SpendingLimits::default(), NOW_MS), None);
        assert_eq!(look(limits, NOW_MS), Some(SpendingEvent::Read));
        assert_eq!(look(limits, NOW_MS), None, "it is being read");
        bench.read(&[spender(&opened, limits)]).await;
        assert_eq!(look(limits, NOW_MS), None);
        assert_eq!(spending.spent().unwrap().request_units, 70, "only those that are billed, of this month");
        used(meters, 10);
        let notice = told(look(limits, NOW_MS));
        assert_eq!(notice.to_string(), "80 % of the spending limit are used: 80 of 100 request units");
        assert_eq!(notice.id("a"), "a:spending_warning:1796083200");
        used(meters, 10);
        assert_eq!(look(limits, NOW_MS), None, "one warning in a month");
        used(meters, 10);
        assert!(!spending.is_exceeded());
        let notice = told(look(limits, NOW_MS));
        let event: serde_json::Value = serde_json::from_str(&notice.event("a", NOW_MS)).unwrap();
        let expected = json!({
            "specversion": "1.0",
            "id": "a:spending_limit:1796083200",
            "source": "dormouse",
            "type": "dormouse.spending.limit",
            "subject": "a",
            "time": "2026-12-05T13:00:00Z",
            "datacontenttype": "application/json",
            "data": { "month": "2026-12-01T00:00:00Z", "request_units": "100", "request_units_limit": "100" },
        });
        assert_eq!(event, expected);
        assert_eq!(notice.to_string(), "the spending limit is reached: 100 of 100 request units");
        assert_eq!(look(limits, NOW_MS), None, "once in a month");
        assert!(spending.is_exceeded());
        assert_eq!(&*spending.refusal(), "ERR max requests limit exceeded. Limit: 100, Usage: 100");
        // A higher limit, none, and a new month.
        look(units(200), NOW_MS);
        assert!(!spending.is_exceeded());
        look(limits, NOW_MS);
        assert!(spending.is_exceeded());
        look(limits, NOW_MS + 31 * DAY_MS);
        assert!(!spending.is_exceeded());
        assert_eq!(spending.spent().unwrap().request_units, 0);
        used(meters, 100);
        assert!(look(limits, NOW_MS + 31 * DAY_MS).is_some());
        assert!(spending.is_exceeded());
        look(SpendingLimits::default(), NOW_MS + 31 * DAY_MS);
        assert!(!spending.is_exceeded());
    }

    #[tokio::test]
    async fn branches_spend_what_their_owner_may() {
        let (bench, limits) = (Bench::new(None).await, units(100));
        let earlier_ms = NOW_MS - WINDOW_MS;
        let owner = bench.open("a", earlier_ms);
        // A branch that was deleted before: its last window is not in the store yet. Others are other owners'.
        for (name, requests) in [("a.gone", 10), ("ab", 1000), ("b.a", 1000)] {
            let (meters, _) = bench.open(name, earlier_ms);
            used(&meters, requests);
            bench.ledger.take_leave(&meters);
        }
        let spent = |of: &(Arc<DatabaseMeters>, Spending)| {
            bench.book.look(spender(of, limits), NOW_MS);
            of.1.spent().unwrap().request_units
        };
        bench.book.look(spender(&owner, limits), NOW_MS);
        bench.read(&[spender(&owner, limits)]).await;
        used(&owner.0, 10);
        assert_eq!(spent(&owner), 20);
        // Branches come and go, also with the same name.
        for round in 1..=4 {
            let branch = bench.open("a.b", earlier_ms);
            bench.book.enter(spender(&branch, limits), NOW_MS);
            used(&branch.0, 15);
            assert_eq!(spent(&branch), 20 * round + 15);
            used(&branch.0, 5);
            bench.book.leave(spender(&branch, limits), NOW_MS);
            bench.ledger.take_leave(&branch.0);
            assert_eq!(spent(&owner), 20 * (1 + round));
        }
        assert!(owner.1.is_exceeded());
        let branch = bench.open("a.c", earlier_ms);
        bench.book.enter(spender(&branch, limits), NOW_MS);
        assert!(branch.1.is_exceeded(), "from the first command on");
        assert_eq!(&*branch.1.refusal(), "ERR max requests limit exceeded. Limit: 100, Usage: 100");
        // When all have left memory, the ledger tells.
        for of in [&branch, &owner] {
            bench.book.leave(spender(of, limits), NOW_MS);
            bench.ledger.take_leave(&of.0);
        }
        let owner = bench.open("a", NOW_MS);
        bench.book.enter(spender(&owner, limits), NOW_MS);
        assert_eq!(bench.book.look(spender(&owner, limits), NOW_MS), Some(SpendingEvent::Read));
        bench.read(&[spender(&owner, limits)]).await;
        assert_eq!(spent(&owner), 100);
    }

    #[tokio::test]
    async fn a_limit_can_be_money() {
        let text = "currency = \"USD\"\n[[charge]]\nname = \"a\"\nmeter = \"requests\"\nprice = \"0.5\"\nper = 10\n";
        let bench = Bench::new(Some(Prices::parse(text, false).unwrap())).await;
        let limits = SpendingLimits { request_units: 0, money_nano: 1_000_000_000 };
        let opened = bench.open("a", NOW_MS);
        bench.read(&[spender(&opened, limits)]).await;
        used(&opened.0, 19);
        let warning = "80 % of the spending limit are used: 0.95 of 1.00 USD";
        let found = bench.book.look(spender(&opened, limits), NOW_MS);
        assert_eq!(told(found).to_string(), warning);
        used(&opened.0, 1);
        bench.book.look(spender(&opened, limits), NOW_MS);
        assert_eq!(&*opened.1.refusal(), "ERR max cost limit exceeded. Limit: 1.00 USD, Usage: 1.00 USD");
    }
}
