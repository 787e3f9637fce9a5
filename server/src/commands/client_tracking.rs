//! `CLIENT TRACKING` and its relatives: server-assisted client-side caching, see [`crate::tracking`].

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::Context;
use dormouse_shard::commands::args::{Args, integer};
use dormouse_shard::error::{Error, Result, repeated};
use dormouse_shard::keyspace::tracking::TrackingMode;

use crate::account::{self, ENTRY_BYTES};
use crate::session::Session;
use crate::tracking_clients::IS_BROKEN;

/// The arguments of `CLIENT TRACKING`. `C`: a client.
struct TrackingRequest<'a, C> {
    /// `ON` or `OFF`; `None`: neither.
    on: Option<bool>,
    redirect: Option<C>,
    prefixes: Vec<&'a [u8]>,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    no_loop: bool,
}

impl<'a, C> TrackingRequest<'a, C> {
    /// Reads them as Redis does, options first. `find` looks a client up.
    fn read(request: Request<'a>, find: impl Fn(u64) -> Option<C>) -> Result<Self> {
        let mut args = Args::new(request, 2);
        let on = if args.word("ON") {
            Some(true)
        } else if args.word("OFF") {
            Some(false)
        } else {
            args.skip();
            None
        };
        let (broadcast, opt_in, opt_out, no_loop) = (false, false, false, false);
        let mut read = Self { on, redirect: None, prefixes: Vec::new(), broadcast, opt_in, opt_out, no_loop };
        while !args.is_empty() {
            if args.len() > 1 && args.word("REDIRECT") {
                if read.redirect.is_some() {
                    return Err(Error::text("ERR A client can only redirect to a single other client"));
                }
                let id = integer(args.bytes()?)?;
                let client = u64::try_from(id).ok().and_then(&find);
                let unknown = Error::text("ERR The client ID you want redirect to does not exist");
                read.redirect = Some(client.ok_or(unknown)?);
            } else if args.word("BCAST") {
                read.broadcast = true;
            } else if args.word("OPTIN") {
                read.opt_in = true;
            } else if args.word("OPTOUT") {
                read.opt_out = true;
            } else if args.word("NOLOOP") {
                read.no_loop = true;
            } else if args.len() > 1 && args.word("PREFIX") {
                read.prefixes.push(args.bytes()?);
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(read)
    }

    fn mode(&self) -> TrackingMode {
        match self {
            Self { broadcast: true, .. } => TrackingMode::Broadcast,
            Self { opt_in: true, .. } => TrackingMode::OptIn,
            Self { opt_out: true, .. } => TrackingMode::OptOut,
            _ => TrackingMode::Reads,
        }
    }

    /// Whether the options go together, and with the mode that the client has.
    fn check(&self, now: TrackingMode) -> Result<()> {
        let is_broadcast = now == TrackingMode::Broadcast;
        let (opt_in, opt_out) = (now == TrackingMode::OptIn, now == TrackingMode::OptOut);
        let problem = if !self.broadcast && !self.prefixes.is_empty() {
            "ERR PREFIX option requires BCAST mode to be enabled"
        } else if now != TrackingMode::Off && is_broadcast != self.broadcast {
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it \
             with a different mode."
        } else if self.broadcast && (self.opt_in || self.opt_out) {
            "ERR OPTIN and OPTOUT are not compatible with BCAST"
        } else if self.opt_in && self.opt_out {
            "ERR You can't specify both OPTIN mode and OPTOUT mode"
        } else if self.opt_in && opt_out || self.opt_out && opt_in {
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it \
             with a different mode."
        } else {
            return Ok(());
        };
        Err(Error::text(problem))
    }

    /// Whether its prefixes overlap, with each other or with those that the client has.
    fn check_prefixes(&self, session: &Session) -> Result<()> {
        let tracking = &session.tenant.database.shared.tracking;
        let overlap = |prefix: &[u8], what: &str, other: &[u8]| {
            let text = format!(
                "ERR Prefix '{}' overlaps with {what} prefix '{}'. Prefixes for a single client must not overlap.",
                repeated(prefix),
                repeated(other)
            );
            Err(Error::Text(text.into()))
        };
        for prefix in &self.prefixes {
            if let Some(other) = tracking.overlapping(session.client.id, prefix) {
                return overlap(prefix, "an existing", &other);
            }
        }
        // In their order, all that start with a prefix follow it.
        let mut sorted = self.prefixes.clone();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[1].starts_with(pair[0])) {
            None => Ok(()),
            Some(pair) => {
                let first = self.prefixes.iter().position(|prefix| pair.contains(prefix)).unwrap_or(0);
                let is_shorter_first = self.prefixes[first] == pair[0];
                overlap(self.prefixes[first], "another provided", pair[usize::from(is_shorter_first)])
            }
        }
    }
}

/// `CLIENT TRACKING <ON | OFF> [REDIRECT client-id] [PREFIX prefix [PREFIX prefix ...]] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`
pub fn tracking(session: &mut Session, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    let find = |id: u64| {
        let clients = session.node.clients.of_database(session.tenant.name());
        clients.into_iter().find(|client| client.id == id)
    };
    let asked = TrackingRequest::read(request, find)?;
    match asked.on {
        Some(false) => session.stop_tracking(),
        Some(true) => {
            asked.check(session.tracking_mode())?;
            asked.check_prefixes(session)?;
            let prefixes = match asked.mode() {
                TrackingMode::Broadcast if asked.prefixes.is_empty() => Some(vec![&b""[..]]),
                TrackingMode::Broadcast => Some(asked.prefixes.clone()),
                _ => None,
            };
            let names: BTreeSet<&[u8]> = prefixes.iter().flatten().copied().collect();
            let bytes = names.iter().map(|prefix| 2 * prefix.len() + ENTRY_BYTES).sum();
            session.client.hold(bytes).map_err(account::refusal)?;
            session.track(asked.mode(), asked.no_loop, asked.redirect, prefixes.as_deref(), bytes);
        }
        None => return Err(Error::Syntax),
    }
    reply.ok();
    Ok(())
}

/// Predicts the mode for the commands of a transaction.
pub fn foresee_tracking(request: Request<'_>, context: &mut Context) {
    let tracker = &mut context.tracker;
    // If the other client that it names does not exist, keys are noted in vain, which does no harm.
    let Ok(asked) = TrackingRequest::read(request, Some) else { return };
    match asked.on {
        Some(true) if asked.check(tracker.mode).is_ok() => {
            tracker.mode = asked.mode();
            tracker.is_told_of_own = !asked.no_loop;
            // It is told when all of the transaction has run, as it has asked by then.
            tracker.is_in_line = !asked.broadcast;
        }
        Some(false) => tracker.mode = TrackingMode::Off,
        _ => {}
    }
}

/// `CLIENT CACHING <YES | NO>`
pub fn caching(session: &mut Session, reply: &mut Reply, (answer,): (&[u8],)) -> Result<()> {
    let mode = session.tracking_mode();
    if mode == TrackingMode::Off {
        return Err(Error::text(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        ));
    }
    check_caching(answer, mode)?;
    session.expect_cached();
    reply.ok();
    Ok(())
}

fn check_caching(answer: &[u8], mode: TrackingMode) -> Result<()> {
    match answer {
        answer if answer.eq_ignore_ascii_case(b"yes") => match mode {
            TrackingMode::OptIn => Ok(()),
            _ => Err(Error::text("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")),
        },
        answer if answer.eq_ignore_ascii_case(b"no") => match mode {
            TrackingMode::OptOut => Ok(()),
            _ => Err(Error::text("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")),
        },
        _ => Err(Error::Syntax),
    }
}

/// Predicts the same for the commands of a transaction.
pub fn foresee_caching(request: Request<'_>, context: &mut Context) {
    if request.get(2).is_some_and(|answer| check_caching(answer, context.tracker.mode).is_ok()) {
        context.tracker.is_caching_given = true;
    }
}

/// `CLIENT GETREDIR`
pub fn getredir(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    reply.integer(session.client.redirect.load(Ordering::Relaxed));
    Ok(())
}

/// `CLIENT TRACKINGINFO`
pub fn trackinginfo(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    let tracker = session.tracker();
    let is_broken = session.client.tracking.load(Ordering::Relaxed) & IS_BROKEN != 0;
    let (opt_in, opt_out) = (tracker.mode == TrackingMode::OptIn, tracker.mode == TrackingMode::OptOut);
    let is_on = tracker.mode != TrackingMode::Off;
    let flags = [
        (!is_on, "off"),
        (is_on, "on"),
        (tracker.mode == TrackingMode::Broadcast, "bcast"),
        (opt_in, "optin"),
        (opt_in && tracker.is_caching_given, "caching-yes"),
        (opt_out, "optout"),
        (opt_out && tracker.is_caching_given, "caching-no"),
        (is_on && !tracker.is_told_of_own, "noloop"),
        (is_broken, "broken_redirect"),
    ];
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(flags.iter().filter(|(is_set, _)| *is_set).count());
    flags.iter().filter(|(is_set, _)| *is_set).for_each(|(_, name)| reply.bulk(name.as_bytes()));
    reply.bulk(b"redirect");
    reply.integer(session.client.redirect.load(Ordering::Relaxed));
    reply.bulk(b"prefixes");
    let prefixes = session.tenant.database.shared.tracking.prefixes(session.client.id);
    reply.array(prefixes.len());
    prefixes.iter().for_each(|prefix| reply.bulk(prefix));
    Ok(())
}
