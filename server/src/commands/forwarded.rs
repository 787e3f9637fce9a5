//! `DORMOUSE FORWARDED`: the introduction of a client that another node of the fleet passes on.

use std::sync::atomic::Ordering;

use dormouse_protocol::{Reply, Version};
use dormouse_shard::error::{Error, Result};

use crate::forwarding::introduction::{Introduction, WantedReplies};
use crate::forwarding::is_secret;
use crate::session::{ReplyMode, Session};
use crate::strangers;

/// `DORMOUSE FORWARDED secret address hops notes`
pub fn forwarded(
    session: &mut Session,
    reply: &mut Reply,
    (secret, address, hops, notes): (&[u8], &[u8], &[u8], &[u8]),
) -> Result<()> {
    let node = session.node.clone();
    let is_fresh = !session.authenticated && session.hops == 0;
    if !is_fresh || !node.directions.get().is_some_and(|fleet| is_secret(fleet.secret(), secret)) {
        // A stranger that guesses is slowed like one that guesses tokens.
        if !session.authenticated {
            session.guessed();
        }
        return Err(Error::text("NOPERM only another node of the fleet may introduce a client, and only once"));
    }
    let introduction = Introduction::parse(address, hops, notes).map_err(|problem| {
        session.closing = true;
        Error::Text(format!("ERR {problem}").into())
    })?;
    introduce(session, introduction);
    reply.ok();
    Ok(())
}

/// Takes over what another node says of a client.
pub fn introduce(session: &mut Session, Introduction { peer, hops, notes }: Introduction) {
    let (node, client) = (&session.node, &session.client);
    let (_, now_ms) = session.worker.now();
    let peer = peer.by(&client.peer(), notes.is_tls);
    node.clients.show(client, Some(peer), now_ms, strangers::places(node.max_clients()));
    session.hops = hops;
    {
        let mut told = client.told.lock();
        told.name = notes.name.into_bytes().into();
        told.library = notes.library.into();
        told.library_version = notes.library_version.into();
        told.certificate = notes.certificate.filter(|_| node.audit.is_on()).map(Into::into);
    }
    client.no_evict.store(notes.no_evict, Ordering::Relaxed);
    client.no_touch.store(notes.no_touch, Ordering::Relaxed);
    client.can_redirect.store(notes.can_redirect, Ordering::Relaxed);
    session.reply_mode = match notes.replies {
        WantedReplies::All => ReplyMode::On,
        WantedReplies::SkipFirst => ReplyMode::SkipNext,
        WantedReplies::None => ReplyMode::OffNext,
    };
    session.set_version(if notes.resp3 { Version::Resp3 } else { Version::Resp2 });
}
