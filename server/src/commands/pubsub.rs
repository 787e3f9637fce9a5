//! Publish and subscribe. Nothing here wakes the database.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use dormouse_protocol::Reply;
use dormouse_protocol::glob::Glob;
use dormouse_shard::commands::args::{LastOfSubcommand, Rest};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least, exactly};
use dormouse_shard::error::Result;

use crate::account;
use crate::commands::{help, now};
use crate::pubsub::{ChannelName, SubscriptionKind, bytes_of};
use crate::session::{Session, Subscriptions};
use crate::table::SessionRun;

/// A confirmation without the name.
const CONFIRMATION_BYTES: usize = 64;

const BASE: Flags = Flags::PUBSUB.union(Flags::LOADING).union(Flags::STALE);
const SUBSCRIBER: Flags = BASE.union(Flags::NO_SCRIPT).union(Flags::WHILE_SUBSCRIBED);

pub const FAMILY: Family<SessionRun> = Family {
    group: "pubsub",
    // Their flag says it, but of HELP.
    category: Category::empty(),
    commands: &[
        Command::new("SUBSCRIBE", at_least(2), &[], SUBSCRIBER, now!(subscribe)).doc(
            "2.0.0",
            "O(N) where N is the number of channels to subscribe to.",
            "Listens for messages published to channels.",
        ),
        Command::new("UNSUBSCRIBE", at_least(1), &[], SUBSCRIBER, now!(unsubscribe)).doc(
            "2.0.0",
            "O(N) where N is the number of channels to unsubscribe.",
            "Stops listening to messages posted to channels.",
        ),
        Command::new("PSUBSCRIBE", at_least(2), &[], SUBSCRIBER, now!(psubscribe)).doc(
            "2.0.0",
            "O(N) where N is the number of patterns to subscribe to.",
            "Listens for messages published to channels that match one or more patterns.",
        ),
        Command::new("PUNSUBSCRIBE", at_least(1), &[], SUBSCRIBER, now!(punsubscribe)).doc(
            "2.0.0",
            "O(N) where N is the number of patterns to unsubscribe.",
            "Stops listening to messages published to channels that match one or more patterns.",
        ),
        Command::new("PUBLISH", exactly(3), &[], BASE.union(Flags::FAST), now!(publish)).doc(
            "2.0.0",
            "O(N+M) where N is the number of clients subscribed to the receiving channel and M is the total number of subscribed patterns (by any client).",
            "Posts a message to a channel.",
        ),
        Command::container(
            "PUBSUB",
            &[
                Command::new("CHANNELS", at_least(2), &[], BASE, now!(channels, 2)).doc(
                    "2.8.0",
                    "O(N) where N is the number of active channels, and assuming constant time pattern matching (relatively short channels and patterns)",
                    "Returns the active channels.",
                ),
                Command::new("NUMSUB", at_least(2), &[], BASE, now!(numsub, 2)).doc(
                    "2.8.0",
                    "O(N) for the NUMSUB subcommand, where N is the number of requested channels",
                    "Returns a count of subscribers to channels.",
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

/// `SUBSCRIBE channel [channel ...]`
fn subscribe(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    add_all(session, reply, SubscriptionKind::Channel, names)
}

/// `PSUBSCRIBE pattern [pattern ...]`
fn psubscribe(session: &mut Session, reply: &mut Reply, (names,): (Rest<'_>,)) -> Result<()> {
    add_all(session, reply, SubscriptionKind::Pattern, names)
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
    reply.integer(session.publish(channel, message) as i64);
    Ok(())
}

/// `PUBSUB CHANNELS [pattern]`
fn channels(
    session: &mut Session,
    reply: &mut Reply,
    (LastOfSubcommand(pattern),): (LastOfSubcommand<&[u8]>,),
) -> Result<()> {
    let glob = pattern.map(Glob::new).transpose()?;
    let channels = session.tenant.pubsub.channels(glob.as_ref());
    reply.array(channels.len());
    channels.iter().for_each(|channel| reply.bulk(channel));
    Ok(())
}

/// `PUBSUB NUMSUB [channel [channel ...]]`
fn numsub(session: &mut Session, reply: &mut Reply, (channels,): (Rest<'_>,)) -> Result<()> {
    reply.array(2 * channels.len());
    for channel in channels.iter() {
        reply.bulk(channel);
        reply.integer(session.tenant.pubsub.subscribers(channel) as i64);
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
        ],
    );
    Ok(())
}

fn names_of(subscriptions: &mut Subscriptions, kind: SubscriptionKind) -> &mut BTreeSet<ChannelName> {
    match kind {
        SubscriptionKind::Channel => &mut subscriptions.channels,
        SubscriptionKind::Pattern => &mut subscriptions.patterns,
    }
}

/// Subscribes to all of the names, or to none where a pattern is too complex or they take too much memory.
fn add_all(session: &mut Session, reply: &mut Reply, kind: SubscriptionKind, names: Rest<'_>) -> Result<()> {
    if kind == SubscriptionKind::Pattern {
        names.iter().try_for_each(|name| Glob::new(name).map(drop))?;
    }
    let kept = session.subscriptions.as_mut().map(|subscriptions| &*names_of(subscriptions, kind));
    let added: BTreeSet<&[u8]> = names.iter().filter(|name| kept.is_none_or(|kept| !kept.contains(*name))).collect();
    let bytes: usize = added.iter().map(|name| bytes_of(kind, name)).sum();
    // The confirmations have to fit too.
    let confirmed: usize = names.iter().map(|name| name.len() + CONFIRMATION_BYTES).sum();
    session.client.hold(bytes + confirmed).map_err(account::refusal)?;
    session.client.let_go(confirmed);
    let word = if kind == SubscriptionKind::Channel { "subscribe" } else { "psubscribe" };
    for name in names.iter() {
        let known = session.tenant.pubsub.subscribe(kind, name, &session.client)?;
        names_of(session.subscriptions.get_or_insert_default(), kind).insert(known);
        confirm(session, reply, word, Some(name));
    }
    Ok(())
}

fn remove(session: &mut Session, reply: &mut Reply, kind: SubscriptionKind, names: Rest<'_>) {
    let word = if kind == SubscriptionKind::Channel { "unsubscribe" } else { "punsubscribe" };
    let mut gone: Vec<ChannelName> = names.iter().map(Into::into).collect();
    if names.is_empty() {
        let all = session.subscriptions.as_mut().map(|subscriptions| names_of(subscriptions, kind));
        gone = all.map(|names| names.iter().cloned().collect()).unwrap_or_default();
        if gone.is_empty() {
            confirm(session, reply, word, None);
        }
    }
    for name in gone {
        if let Some(subscriptions) = &mut session.subscriptions {
            if names_of(subscriptions, kind).remove(&name) {
                session.client.let_go(bytes_of(kind, &name));
            }
            session.tenant.pubsub.unsubscribe(kind, &name, session.client.id);
        }
        confirm(session, reply, word, Some(&name));
    }
    if session.subscriptions.as_ref().is_some_and(|left| left.channels.is_empty() && left.patterns.is_empty()) {
        session.subscriptions = None;
    }
}

fn confirm(session: &mut Session, reply: &mut Reply, word: &str, name: Option<&[u8]>) {
    let from = reply.len();
    let (channels, patterns) =
        session.subscriptions.as_ref().map_or((0, 0), |all| (all.channels.len(), all.patterns.len()));
    session.client.channels.store(channels as u32, Ordering::Relaxed);
    session.client.patterns.store(patterns as u32, Ordering::Relaxed);
    reply.push(3);
    reply.bulk(word.as_bytes());
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.integer((channels + patterns) as i64);
    session.note_push(from..reply.len());
}
