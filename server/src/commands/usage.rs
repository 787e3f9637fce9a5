//! `DORMOUSE USAGE`: the meters of a database, and its usage windows.

use std::sync::Arc;

use dormouse_protocol::Reply;
use dormouse_shard::commands::args::Rest;
use dormouse_shard::error::{Error, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use crate::commands::{TABLE, answer};
use crate::databases::Tenant;
use crate::keeper;
use crate::ledger::{Period, UsageStep};
use crate::metering::prices::money;
use crate::metering::{Totals, UsageWindow};
use crate::prefixes::{COUNT_MS_MAX, DEPTH_MAX, PrefixCounts};
use crate::session::Session;
use crate::spending::MonthlyUse;
use crate::table::Answer;

/// `DORMOUSE USAGE [HOURS from-ms to-ms | WINDOWS from-ms to-ms | COMMANDS | PREFIXES [milliseconds [DEPTH parts]]]`
pub fn usage(session: &mut Session, (words,): (Rest<'_>,)) -> Result<BoxFuture<'static, Answer>> {
    let tenant = Arc::clone(&session.tenant);
    let (_, now_ms) = session.worker.now();
    keeper::settle(&tenant, now_ms);
    let is = |word: &[u8]| words.iter().next().is_some_and(|first| first.eq_ignore_ascii_case(word));
    let moment = |at: usize| std::str::from_utf8(words.iter().nth(at)?).ok()?.parse::<u64>().ok();
    let step = match words.len() {
        0 => return Ok(ready(answer(Ok(()), move |(), reply| write_meters(&tenant, now_ms, reply))).boxed()),
        1 if is(b"COMMANDS") => {
            let totals = tenant.meters.totals(now_ms);
            return Ok(ready(answer(Ok(()), move |(), reply| write_commands(&totals, reply))).boxed());
        }
        1 if is(b"PREFIXES") => {
            let counts = tenant.monitors.counts();
            return Ok(ready(answer(Ok(()), move |(), reply| write_prefixes(counts.as_ref(), now_ms, reply))).boxed());
        }
        2 | 4 if is(b"PREFIXES") => {
            let depth = match words.iter().nth(2) {
                None => 1,
                Some(word) if word.eq_ignore_ascii_case(b"DEPTH") => moment(3).ok_or(Error::NotAnInteger)?,
                Some(_) => return Err(Error::Syntax),
            };
            let length_ms = moment(1).ok_or(Error::NotAnInteger)?;
            if !(1..=COUNT_MS_MAX).contains(&length_ms) || !(1..=DEPTH_MAX).contains(&depth) {
                let text = format!("ERR expected 1 to {COUNT_MS_MAX} milliseconds and a depth of 1 to {DEPTH_MAX}");
                return Err(Error::Text(text.into()));
            }
            tenant.monitors.begin_count(PrefixCounts::new(now_ms, length_ms, depth));
            return Ok(ready(answer(Ok(()), |(), reply| reply.ok())).boxed());
        }
        3 if is(b"HOURS") => UsageStep::Hours,
        3 if is(b"WINDOWS") => UsageStep::Minutes,
        _ => return Err(Error::Syntax),
    };
    let (from_ms, to_ms) = moment(1).zip(moment(2)).ok_or(Error::NotAnInteger)?;
    let period = Period::new(from_ms, to_ms, step).map_err(|problem| Error::Text(format!("ERR {problem}").into()))?;
    let ledger = Arc::clone(&session.node.tenants.ledger);
    Ok(async move {
        let found = ledger.windows(&tenant.meters, period).await;
        let found = found.map_err(|error| Error::Store(format!("the usage ledger cannot be read: {error}")));
        answer(found, |windows, reply| write_windows(&windows, reply))
    }
    .boxed())
}

fn write_meters(tenant: &Tenant, now_ms: u64, reply: &mut Reply) {
    let totals = tenant.meters.totals(now_ms);
    let spent = tenant.spending.spent();
    reply.map(if spent.is_some() { 5 } else { 4 });
    reply.bulk(b"database");
    reply.bulk(tenant.name().as_bytes());
    reply.bulk(b"meters");
    reply.map(totals.meters().count());
    for (meter, total) in totals.meters() {
        reply.bulk(meter.name().as_bytes());
        reply.bulk(total.to_string().as_bytes());
    }
    reply.bulk(b"window");
    write_window(reply, &tenant.meters.usage(now_ms));
    reply.bulk(b"closed");
    write_windows(&tenant.meters.closed_windows(), reply);
    if let Some(spent) = spent {
        reply.bulk(b"spending");
        write_spending(reply, spent, tenant);
    }
}

/// Writes what was used in this month, and its limits.
fn write_spending(reply: &mut Reply, spent: MonthlyUse, tenant: &Tenant) {
    let limits = tenant.limits().spending;
    let fields = [
        ("request_units", spent.request_units.to_string()),
        ("request_units_limit", limits.request_units.to_string()),
        ("money", money(spent.money_nano)),
        ("money_limit", money(limits.money_nano.into())),
    ];
    reply.map(fields.len() + 2);
    reply.bulk(b"since_ms");
    reply.integer(spent.since_ms as i64);
    reply.bulk(b"exceeded");
    reply.integer(i64::from(tenant.spending.is_exceeded()));
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

/// Writes a count by prefix; one that never began has counted nothing.
fn write_prefixes(counts: Option<&PrefixCounts>, now_ms: u64, reply: &mut Reply) {
    let none = PrefixCounts::default();
    let counts = counts.unwrap_or(&none);
    let integer = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let fields = [
        ("counting", u64::from(counts.is_on(now_ms))),
        ("start_ms", counts.began_ms),
        ("end_ms", counts.until_ms),
        ("requests", counts.requests),
        ("without_key", counts.without_key),
        ("others", counts.others),
    ];
    reply.map(fields.len() + 1);
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.integer(integer(value));
    }
    let prefixes = counts.sorted();
    reply.bulk(b"prefixes");
    reply.array(prefixes.len());
    for (prefix, uses) in prefixes {
        reply.map(5);
        reply.bulk(b"prefix");
        reply.bulk(prefix);
        reply.bulk(b"requests");
        reply.integer(integer(uses.requests));
        reply.bulk(b"writes");
        reply.integer(integer(uses.writes));
        reply.bulk(b"command");
        reply.bulk(uses.command.as_bytes());
        reply.bulk(b"client");
        reply.bulk(uses.client.as_bytes());
    }
}

/// Writes what each command has been called for, and how often that was not billed.
fn write_commands(totals: &Totals, reply: &mut Reply) {
    reply.map(totals.commands().count());
    for (index, command) in totals.commands() {
        reply.bulk(TABLE.get(index).name.as_bytes());
        let fields = [
            ("calls", command.calls),
            ("unbilled", command.unbilled),
            ("failed", command.failed),
            ("rejected", command.rejected),
            ("microseconds", command.microseconds()),
        ];
        reply.map(fields.len());
        for (name, value) in fields {
            reply.bulk(name.as_bytes());
            reply.integer(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

fn write_windows(windows: &[UsageWindow], reply: &mut Reply) {
    reply.array(windows.len());
    windows.iter().for_each(|window| write_window(reply, window));
}

fn write_window(reply: &mut Reply, window: &UsageWindow) {
    reply.map(3);
    reply.bulk(b"start_ms");
    reply.integer(window.start_ms as i64);
    reply.bulk(b"end_ms");
    reply.integer(window.end_ms as i64);
    reply.bulk(b"events");
    reply.array(window.events().count());
    for event in window.events() {
        reply.map(3);
        reply.bulk(b"id");
        reply.bulk(event.id.as_bytes());
        reply.bulk(b"meter");
        reply.bulk(event.meter.name().as_bytes());
        reply.bulk(b"quantity");
        reply.bulk(event.quantity.as_bytes());
    }
}
