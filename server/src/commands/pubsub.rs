//! Publish and subscribe. These commands do not wake the database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_protocol::glob::{Glob, reading_cost};
use dormouse_protocol::{Reply, Request};
use dormouse_shard::commands::args::{LastOfSubcommand, Rest, parse};
use dormouse_shard::commands::{Access, Category, Channels, Command, Family, Flags, KeySpec, at_least, exactly};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::execution::budget::{BYTES_PER_ELEMENT, TURN};
use dormouse_shard::execution::route::slot_of;
use futures::channel::oneshot;

use crate::account;
use crate::commands::{help, in_script, now, parsed};
use crate::pubsub::{ChannelName, SubscriptionKind, bytes_of};
use crate::session::{Session, Subscriptions};
use crate::table::{SessionRun, Weighed};

/// Bytes of a confirmation without the name.
const CONFIRMATION_BYTES: usize = 64;
/// The error after a panic on the slow lane.
const VANISHED: &str = "ERR the command failed; the server's log says how";
/// Cost of a subscription beside the bytes of its name, and the bytes of it that cost as much as one element.
const COST_OF_SUBSCRIPTION: usize = 8;
const HASHED_BYTES_PER_ELEMENT: usize = 32;
/// Number of names that are subscribed to or unsubscribed from in one turn.
const NAMES_OF_A_TURN: usize = 1000;

/// Channels that belong to the slot of their names.
const SHARDED_CHANNEL: &[KeySpec] = &[KeySpec::one(1, Access::NOT_KEY)];
const SHARDED_CHANNELS: &[KeySpec] = &[KeySpec::rest(1, Access::NOT_KEY)];

const BASE: Flags = Flags::PUBSUB.union(Flags::LOADING).union(Flags::STALE);
const SUBSCRIBER: Flags = BASE.union(Flags::NO_SCRIPT).union(Flags::WHILE_SUBSCRIBED);

pub const FAMILY: Family<SessionRun> = Family {
    group: "pubsub",
    // Their flags imply the category, except for HELP.
    category: Category::empty(),
    commands: &[
        Command::new("SUBSCRIBE", at_least(2), &[], SUBSCRIBER, SessionRun::Weighed(SUBSCRIBE))
            .channels(Channels::All)
            .doc(
            "2.0.0",
            "O(N) where N is the number of channels to subscribe to.",
            "Listens for messages published to channels.",
        ),
        Command::new("UNSUBSCRIBE", at_least(1), &[], SUBSCRIBER, SessionRun::Weighed(UNSUBSCRIBE)).doc(
            "2.0.0",
            "O(N) where N is the number of channels to unsubscribe.",
            "Stops listening to messages posted to channels.",
        ),
        Command::new("PSUBSCRIBE", at_least(2), &[], SUBSCRIBER, SessionRun::Weighed(PSUBSCRIBE))
            .channels(Channels::Patterns)
            .doc(
            "2.0.0",
            "O(N) where N is the number of patterns to subscribe to.",
            "Listens for messages published to channels that match one or more patterns.",
        ),
        Command::new("PUNSUBSCRIBE", at_least(1), &[], SUBSCRIBER, SessionRun::Weighed(PUNSUBSCRIBE)).doc(
            "2.0.0",
            "O(N) where N is the number of patterns to unsubscribe.",
            "Stops listening to messages published to channels that match one or more patterns.",
        ),
        Command::new("PUBLISH", exactly(3), &[], BASE.union(Flags::FAST).union(Flags::MAY_REPLICATE), SessionRun::Weighed(PUBLISH))
            .channels(Channels::First)
            .doc(
                "2.0.0",
                "O(N+M) where N is the number of clients subscribed to the receiving channel and M is the total number of subscribed patterns (by any client).",
                "Posts a message to a channel.",
            )
            .in_script(in_script::publish),
        Command::new("SSUBSCRIBE", at_least(2), SHARDED_CHANNELS, SUBSCRIBER, SessionRun::Weighed(SSUBSCRIBE))
            .channels(Channels::All)
            .doc(
            "7.0.0",
            "O(N) where N is the number of shard channels to subscribe to.",
            "Listens for messages published to shard channels.",
        ),
        Command::new("SUNSUBSCRIBE", at_least(1), SHARDED_CHANNELS, SUBSCRIBER, SessionRun::Weighed(SUNSUBSCRIBE)).doc(
            "7.0.0",
            "O(N) where N is the number of shard channels to unsubscribe.",
            "Stops listening to messages posted to shard channels.",
        ),
        Command::new("SPUBLISH", exactly(3), SHARDED_CHANNEL, BASE.union(Flags::FAST).union(Flags::MAY_REPLICATE), SessionRun::Weighed(SPUBLISH))
            .channels(Channels::First)
            .doc(
                "7.0.0",
                "O(N) where N is the number of clients subscribed to the receiving shard channel.",
                "Post a message to a shard channel",
            )
            .in_script(in_script::spublish),
        Command::container(
            "PUBSUB",
            &[
                Command::new("CHANNELS", at_least(2), &[], BASE, SessionRun::Weighed(CHANNELS)).doc(
                    "2.8.0",
                    "O(N) where N is the number of active channels, and assuming constant time pattern matching (relatively short channels and patterns)",
                    "Returns the active channels.",
                ),
                Command::new("NUMSUB", at_least(2), &[], BASE, SessionRun::Weighed(NUMSUB)).doc(
                    "2.8.0",
                    "O(N) for the NUMSUB subcommand, where N is the number of requested channels",
                    "Returns a count of subscribers to channels.",
                ),
                Command::new("SHARDCHANNELS", at_least(2), &[], BASE, SessionRun::Weighed(SHARDCHANNELS)).doc(
                    "7.0.0",
                    "O(N) where N is the number of active shard channels, and assuming constant time pattern matching (relatively short shard channels).",
                    "Returns the active shard channels.",
                ),
                Command::new("SHARDNUMSUB", at_least(2), &[], BASE, SessionRun::Weighed(SHARDNUMSUB)).doc(
                    "7.0.0",
                    "O(N) for the SHARDNUMSUB subcommand, where N is the number of requested shard channels",
                    "Returns the count of subscribers of shard channels.",
                ),
                Command::new("NUMPAT", exactly(2), &[], BASE, now!(numpat, 2)).doc(
                    "2.8.0",
                    "O(1)",
                    "Returns a count of unique pattern subscriptions.",
                ),
                Command::new("HELP", exactly(2), &[], Flags::LOADING.union(Flags::STALE), now!(show_help, 2)).doc(
                    "6.2.0",
                    "O(1)",
                    "Returns helpful text about the different subcommands.",
                ),
            ],
        )
        .doc("2.8.0", "Depends on subcommand.", "A container for Pub/Sub commands."),
    ],
};

const SUBSCRIBE: Weighed = Weighed {
    run: parsed!(subscribe, 1),
    weigh: |_, request| request.iter().skip(1).map(|name| cost_of_name(SubscriptionKind::Channel, name)).sum(),
    in_turns: |session, reply, request| Box::pin(add_in_turns(session, reply, SubscriptionKind::Channel, request)),
};
const UNSUBSCRIBE: Weighed = Weighed {
    run: parsed!(unsubscribe, 1),
    weigh: |session, request| cost_of_removal(session, SubscriptionKind::Channel, request),
    in_turns: |session, reply, request| Box::pin(remove_in_turns(session, reply, SubscriptionKind::Channel, request)),
};
const PSUBSCRIBE: Weighed = Weighed {
    run: parsed!(psubscribe, 1),
    weigh: |_, request| request.iter().skip(1).map(|name| cost_of_name(SubscriptionKind::Pattern, name)).sum(),
    in_turns: |session, reply, request| Box::pin(add_in_turns(session, reply, SubscriptionKind::Pattern, request)),
};
const PUNSUBSCRIBE: Weighed = Weighed {
    run: parsed!(punsubscribe, 1),
    weigh: |session, request| cost_of_removal(session, SubscriptionKind::Pattern, request),
    in_turns: |session, reply, request| Box::pin(remove_in_turns(session, reply, SubscriptionKind::Pattern, request)),
};
const SSUBSCRIBE: Weighed = Weighed {
    run: parsed!(ssubscribe, 1),
    weigh: |_, request| request.iter().skip(1).map(|name| cost_of_name(SubscriptionKind::Sharded, name)).sum(),
    in_turns: |session, reply, request| Box::pin(add_in_turns(session, reply, SubscriptionKind::Sharded, request)),
};
const SUNSUBSCRIBE: Weighed = Weighed {
    run: parsed!(sunsubscribe, 1),
    weigh: |session, request| cost_of_removal(session, SubscriptionKind::Sharded, request),
    in_turns: |session, reply, request| Box::pin(remove_in_turns(session, reply, SubscriptionKind::Sharded, request)),
};
const PUBLISH: Weighed = Weighed {
    run: parsed!(publish, 1),
    weigh: |session, request| session.tenant.pubsub.cost(request.arg(1), request.arg(2), false),
    in_turns: |session, reply, request| Box::pin(publish_elsewhere(session, reply, request, false)),
};
const SPUBLISH: Weighed = Weighed {
    run: parsed!(spublish, 1),
    weigh: |session, request| session.tenant.pubsub.cost(request.arg(1), request.arg(2), true),
    in_turns: |session, reply, request| Box::pin(publish_elsewhere(session, reply, request, true)),
};

const CHANNELS: Weighed = Weighed {
    run: parsed!(channels, 2),
    weigh: |session, request| cost_of_listing(session, request, false),
    in_turns: |session, reply, request| Box::pin(channels_in_turns(session, reply, request, false)),
};
const SHARDCHANNELS: Weighed = Weighed {
    run: parsed!(shardchannels, 2),
    weigh: |session, request| cost_of_listing(session, request, true),
    in_turns: |session, reply, request| Box::pin(channels_in_turns(session, reply, request, true)),
};
const NUMSUB: Weighed = Weighed {
    run: parsed!(numsub, 2),
    weigh: |_, request| request.len(),
    in_turns: |session, reply, request| Box::pin(numsub_in_turns(session, reply, request, false)),
};
const SHARDNUMSUB: Weighed = Weighed {
    run: parsed!(shardnumsub, 2),
    weigh: |_, request| request.len(),
    in_turns: |session, reply, request| Box::pin(numsub_in_turns(session, reply, request, true)),
};

fn cost_of_listing(session: &Session, request: Request<'_>, is_sharded: bool) -> usize {
    let pattern = request.get(2).unwrap_or_default();
    let each = 1 + pattern.len() / BYTES_PER_ELEMENT;
    2 * reading_cost(pattern) + each.saturating_mul(session.tenant.pubsub.channel_count(is_sharded))
}

/// Cost of one name of a subscription: it is copied, hashed and compared several times, and a pattern is read twice.
fn cost_of_name(kind: SubscriptionKind, name: &[u8]) -> usize {
    let kept = COST_OF_SUBSCRIPTION + name.len() / HASHED_BYTES_PER_ELEMENT;
    match kind {
        SubscriptionKind::Channel | SubscriptionKind::Sharded => kept,
        SubscriptionKind::Pattern => kept + 2 * reading_cost(name),
    }
}

fn cost_of_removal(session: &Session, kind: SubscriptionKind, request: Request<'_>) -> usize {
    if request.len() > 1 {
        return request.len();
    }
    session.subscriptions.as_ref().map_or(0, |all| match kind {
        SubscriptionKind::Channel => 2 * all.channels.len(),
        SubscriptionKind::Sharded => 2 * all.sharded.len(),
        SubscriptionKind::Pattern => 2 * all.patterns.len(),
    })
}

/// `SUBSCRIBE channel [channel ...]`
fn subscribe(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    add_all(session, reply, SubscriptionKind::Channel, names)
}

/// `PSUBSCRIBE pattern [pattern ...]`
fn psubscribe(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    add_all(session, reply, SubscriptionKind::Pattern, names)
}

/// `SSUBSCRIBE shardchannel [shardchannel ...]`
fn ssubscribe(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    add_all(session, reply, SubscriptionKind::Sharded, names)
}

/// `SUNSUBSCRIBE [shardchannel [shardchannel ...]]`
fn sunsubscribe(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    check_slots(session, names)?;
    remove(session, reply, SubscriptionKind::Sharded, names);
    Ok(())
}

/// In a cluster, the sharded channels of one command belong to one slot.
fn check_slots(session: &Session, names: Rest<'_>) -> Result<()> {
    let mut slots = names.iter().map(slot_of);
    let first = slots.next();
    match session.node.facts.cluster.is_shown() && !slots.all(|slot| Some(slot) == first) {
        true => Err(Error::text("CROSSSLOT Keys in request don't hash to the same slot")),
        false => Ok(()),
    }
}

/// `UNSUBSCRIBE [channel [channel ...]]`
fn unsubscribe(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    remove(session, reply, SubscriptionKind::Channel, names);
    Ok(())
}

/// `PUNSUBSCRIBE [pattern [pattern ...]]`
fn punsubscribe(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    remove(session, reply, SubscriptionKind::Pattern, names);
    Ok(())
}

/// `PUBLISH channel message`
fn publish(session: &mut Session, reply: &mut Reply, (channel, message): (&[u8], &[u8])) -> Result<()> {
    session.tell_replicas(channel, message, false);
    reply.integer(session.publish(channel, message, false) as i64);
    Ok(())
}

/// `SPUBLISH shardchannel message`
fn spublish(session: &mut Session, reply: &mut Reply, (channel, message): (&[u8], &[u8])) -> Result<()> {
    session.tell_replicas(channel, message, true);
    reply.integer(session.publish(channel, message, true) as i64);
    Ok(())
}

/// The same on the slow lane, for a message that takes more than a turn.
async fn publish_elsewhere(
    session: &mut Session,
    reply: &mut Reply,
    request: Request<'_>,
    is_sharded: bool,
) -> Result<()> {
    let (channel, message) = (request.arg(1), request.arg(2));
    session.tell_replicas(channel, message, is_sharded);
    let (tenant, named) = (Arc::clone(&session.tenant), Box::<[u8]>::from(channel));
    let receivers = if is_sharded {
        session.publish(channel, message, true)
    } else if session.follows_events(channel, message, false) {
        elsewhere(session, move || tenant.pubsub.receivers_unlocked(&named)).await?
    } else if session.holds_messages_back() {
        let receivers = elsewhere(session, move || tenant.pubsub.receivers_unlocked(&named)).await?;
        session.hold_message(channel, message, false);
        receivers
    } else {
        let (limit, (_, now_ms)) = (session.node.output_limit_pubsub(), session.worker.now());
        let message = Box::<[u8]>::from(message);
        elsewhere(session, move || tenant.pubsub.publish_unlocked(&named, &message, limit, now_ms)).await?
    };
    reply.integer(receivers as i64);
    Ok(())
}

/// Runs `job` on the slow lane.
async fn elsewhere<T: Send + 'static>(session: &Session, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    // The client may be gone.
    session.tenant.database.on_lane(Vec::new(), || true, move |_| drop(sender.send(job())))?;
    receiver.await.map_err(|_| Error::text(VANISHED))
}

/// `PUBSUB CHANNELS [pattern]`
fn channels(
    session: &mut Session,
    reply: &mut Reply,
    (LastOfSubcommand(pattern),): (LastOfSubcommand<&[u8]>,),
) -> Result<()> {
    let glob = pattern.map(Glob::new).transpose()?;
    write_channels(reply, &session.tenant.pubsub.channels(glob.as_ref(), false));
    Ok(())
}

/// `PUBSUB SHARDCHANNELS [pattern]`
fn shardchannels(
    session: &mut Session,
    reply: &mut Reply,
    (LastOfSubcommand(pattern),): (LastOfSubcommand<&[u8]>,),
) -> Result<()> {
    let glob = pattern.map(Glob::new).transpose()?;
    write_channels(reply, &session.tenant.pubsub.channels(glob.as_ref(), true));
    Ok(())
}

fn write_channels(reply: &mut Reply, channels: &[ChannelName]) {
    reply.array(channels.len());
    channels.iter().for_each(|channel| reply.bulk(channel));
}

/// The same on the slow lane, for many channels or a long pattern.
async fn channels_in_turns(
    session: &mut Session,
    reply: &mut Reply,
    request: Request<'_>,
    is_sharded: bool,
) -> Result<()> {
    let LastOfSubcommand(pattern) = parse::<LastOfSubcommand<&[u8]>>(request, 2)?;
    let (tenant, pattern) = (Arc::clone(&session.tenant), pattern.map(Box::<[u8]>::from));
    let find = move || {
        let glob = pattern.as_deref().map(Glob::new).transpose();
        glob.map(|glob| tenant.pubsub.channels_unlocked(glob.as_ref(), is_sharded))
    };
    let channels = elsewhere(session, find).await??;
    reply.array(channels.len());
    for some in channels.chunks(NAMES_OF_A_TURN) {
        some.iter().for_each(|channel| reply.bulk(channel));
        session.pass_turn().await;
    }
    Ok(())
}

/// `PUBSUB NUMSUB [channel [channel ...]]`
fn numsub(session: &mut Session, reply: &mut Reply, (channels,): (Rest<'_>,)) -> Result<()> {
    write_numbers(session, reply, channels, false);
    Ok(())
}

/// `PUBSUB SHARDNUMSUB [shardchannel [shardchannel ...]]`
fn shardnumsub(session: &mut Session, reply: &mut Reply, (channels,): (Rest<'_>,)) -> Result<()> {
    write_numbers(session, reply, channels, true);
    Ok(())
}

fn write_numbers(session: &Session, reply: &mut Reply, channels: Rest<'_>, is_sharded: bool) {
    reply.array(2 * channels.len());
    for channel in channels.iter() {
        reply.bulk(channel);
        reply.integer(session.tenant.pubsub.subscribers(channel, is_sharded) as i64);
    }
}

/// The same for many channels.
async fn numsub_in_turns(
    session: &mut Session,
    reply: &mut Reply,
    request: Request<'_>,
    is_sharded: bool,
) -> Result<()> {
    let channels = parse::<Rest<'_>>(request, 2)?;
    reply.array(2 * channels.len());
    for (at, channel) in channels.iter().enumerate() {
        reply.bulk(channel);
        reply.integer(session.tenant.pubsub.subscribers(channel, is_sharded) as i64);
        if at % NAMES_OF_A_TURN == 0 {
            session.pass_turn().await;
        }
    }
    Ok(())
}

/// `PUBSUB NUMPAT`
fn numpat(session: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    reply.integer(session.tenant.pubsub.patterns() as i64);
    Ok(())
}

/// `PUBSUB HELP`
fn show_help(_: &mut Session, reply: &mut Reply, (): ()) -> Result<()> {
    help(
        reply,
        "PUBSUB",
        &[
            "CHANNELS [<pattern>]",
            "    Return the currently active channels matching a <pattern> (default: '*').",
            "NUMPAT",
            "    Return number of subscriptions to patterns.",
            "NUMSUB [<channel> ...]",
            "    Return the number of subscribers for the specified channels, excluding",
            "    pattern subscriptions(default: no channels).",
            "SHARDCHANNELS [<pattern>]",
            "    Return the currently active shard level channels matching a <pattern> (default: '*').",
            "SHARDNUMSUB [<shardchannel> ...]",
            "    Return the number of subscribers for the specified shard level channel(s)",
        ],
    );
    Ok(())
}

fn names_of(subscriptions: &mut Subscriptions, kind: SubscriptionKind) -> &mut BTreeSet<ChannelName> {
    match kind {
        SubscriptionKind::Channel => &mut subscriptions.channels,
        SubscriptionKind::Sharded => &mut subscriptions.sharded,
        SubscriptionKind::Pattern => &mut subscriptions.patterns,
    }
}

/// Subscribes to all names, or to none if a pattern is too complex or they take too much memory.
fn add_all(session: &mut Session, reply: &mut Reply, kind: SubscriptionKind, names: Rest<'_>) -> Result<()> {
    match kind {
        SubscriptionKind::Channel => {}
        SubscriptionKind::Pattern => names.iter().try_for_each(|name| Glob::new(name).map(drop))?,
        SubscriptionKind::Sharded if session.is_in_exec => {
            return Err(Error::text("ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client"));
        }
        SubscriptionKind::Sharded => check_slots(session, names)?,
    }
    let kept = session.subscriptions.as_mut().map(|subscriptions| &*names_of(subscriptions, kind));
    let added: BTreeSet<&[u8]> = names.iter().filter(|name| kept.is_none_or(|kept| !kept.contains(*name))).collect();
    let bytes: usize = added.iter().map(|name| bytes_of(kind, name)).sum();
    // The confirmations must fit too.
    let confirmed: usize = names.iter().map(|name| name.len() + CONFIRMATION_BYTES).sum();
    session.client.hold(bytes + confirmed).map_err(account::refusal)?;
    session.client.let_go(confirmed);
    session.tenant.notifier.limit_by(|| {
        let node = Arc::downgrade(&session.node);
        Box::new(move || node.upgrade().map(|node| node.output_limit_pubsub()))
    });
    for name in names.iter() {
        let known = session.tenant.pubsub.subscribe(kind, name, &session.client)?;
        names_of(session.subscriptions.get_or_insert_default(), kind).insert(known);
        confirm(session, reply, kind, word_of_addition(kind), Some(name));
    }
    Ok(())
}

/// The same in several turns. A refusal undoes the subscriptions.
async fn add_in_turns(
    session: &mut Session,
    reply: &mut Reply,
    kind: SubscriptionKind,
    request: Request<'_>,
) -> Result<()> {
    let mut names = parse::<Rest<'_>>(request, 1)?;
    let mut added: Vec<ChannelName> = Vec::new();
    while let Some((piece, rest)) = names.split_at(names_of_a_turn(kind, names)).filter(|(piece, _)| !piece.is_empty())
    {
        let is_new = |session: &mut Session, name: &[u8]| {
            session.subscriptions.as_mut().is_none_or(|all| !names_of(all, kind).contains(name))
        };
        let new: Vec<ChannelName> = piece.iter().filter(|name| is_new(session, name)).map(Into::into).collect();
        if let Err(error) = add_all(session, reply, kind, piece) {
            for (at, name) in added.iter().enumerate() {
                forget(session, kind, name);
                if at % NAMES_OF_A_TURN == 0 {
                    session.pass_turn().await;
                }
            }
            count_subscriptions(session);
            return Err(error);
        }
        added.extend(new);
        names = rest;
        session.pass_turn().await;
    }
    Ok(())
}

/// Returns how many of the names fit into one turn, at least one.
fn names_of_a_turn(kind: SubscriptionKind, names: Rest<'_>) -> usize {
    let mut left = TURN / 4;
    let fit = names.iter().take(NAMES_OF_A_TURN).take_while(|name| {
        let cost = cost_of_name(kind, name);
        let fits = cost <= left;
        left = left.saturating_sub(cost);
        fits
    });
    fit.count().max(1).min(names.len())
}

fn remove(session: &mut Session, reply: &mut Reply, kind: SubscriptionKind, names: Rest<'_>) {
    let names: Vec<ChannelName> = match names.is_empty() {
        true => some_of(session, kind, usize::MAX),
        false => names.iter().map(Into::into).collect(),
    };
    if names.is_empty() {
        confirm(session, reply, kind, word_of_removal(kind), None);
    }
    names.iter().for_each(|name| remove_one(session, reply, kind, name));
}

/// The same in several turns.
async fn remove_in_turns(
    session: &mut Session,
    reply: &mut Reply,
    kind: SubscriptionKind,
    request: Request<'_>,
) -> Result<()> {
    let mut names = parse::<Rest<'_>>(request, 1)?;
    let is_all = names.is_empty();
    loop {
        let piece: Vec<ChannelName> = if is_all {
            some_of(session, kind, NAMES_OF_A_TURN)
        } else {
            let Some((piece, rest)) = names.split_at(names.len().min(NAMES_OF_A_TURN)) else { return Ok(()) };
            names = rest;
            piece.iter().map(Into::into).collect()
        };
        if piece.is_empty() {
            return Ok(());
        }
        piece.iter().for_each(|name| remove_one(session, reply, kind, name));
        session.pass_turn().await;
    }
}

/// Returns up to `count` of the session's subscriptions.
fn some_of(session: &mut Session, kind: SubscriptionKind, count: usize) -> Vec<ChannelName> {
    let all = session.subscriptions.as_mut().map(|subscriptions| names_of(subscriptions, kind));
    all.map(|names| names.iter().take(count).cloned().collect()).unwrap_or_default()
}

const fn word_of_addition(kind: SubscriptionKind) -> &'static str {
    match kind {
        SubscriptionKind::Channel => "subscribe",
        SubscriptionKind::Sharded => "ssubscribe",
        SubscriptionKind::Pattern => "psubscribe",
    }
}

const fn word_of_removal(kind: SubscriptionKind) -> &'static str {
    match kind {
        SubscriptionKind::Channel => "unsubscribe",
        SubscriptionKind::Sharded => "sunsubscribe",
        SubscriptionKind::Pattern => "punsubscribe",
    }
}

fn remove_one(session: &mut Session, reply: &mut Reply, kind: SubscriptionKind, name: &[u8]) {
    forget(session, kind, name);
    confirm(session, reply, kind, word_of_removal(kind), Some(name));
}

/// Ends one subscription; the last one also drops the subscription state.
fn forget(session: &mut Session, kind: SubscriptionKind, name: &[u8]) {
    let Some(subscriptions) = &mut session.subscriptions else { return };
    if names_of(subscriptions, kind).remove(name) {
        session.client.let_go(bytes_of(kind, name));
    }
    if subscriptions.is_empty() {
        session.subscriptions = None;
    }
    session.tenant.pubsub.unsubscribe(kind, name, session.client.id);
}

/// Publishes the session's number of subscriptions to other clients. Returns that of sharded ones, and that of others.
fn count_subscriptions(session: &Session) -> (usize, usize) {
    let all = session.subscriptions.as_ref();
    let (channels, patterns) = all.map_or((0, 0), |all| (all.channels.len(), all.patterns.len()));
    let sharded = all.map_or(0, |all| all.sharded.len());
    session.client.sharded.store(sharded as u32, Ordering::Relaxed);
    session.client.channels.store(channels as u32, Ordering::Relaxed);
    session.client.patterns.store(patterns as u32, Ordering::Relaxed);
    (sharded, channels + patterns)
}

fn confirm(session: &mut Session, reply: &mut Reply, kind: SubscriptionKind, word: &str, name: Option<&[u8]>) {
    let from = reply.len();
    let (sharded, others) = count_subscriptions(session);
    let subscriptions = if kind == SubscriptionKind::Sharded { sharded } else { others };
    reply.push(3);
    reply.bulk(word.as_bytes());
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.integer(subscriptions as i64);
    session.note_push(from..reply.len());
}
