//! Replies on their way to a client: they wait until the writes that they report are durable.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use crate::held::Sealed;
use crate::late;
use crate::session::Session;

/// Holds the replies of a session back until the writes that they report are durable. Replies that are late become
/// errors. Returns whether the client still gets them.
pub async fn hold_back(session: &mut Session, buffer: &mut Vec<u8>) -> bool {
    let awaited = std::mem::take(&mut session.awaited);
    let awaiting = std::mem::take(&mut session.awaiting);
    let database = Arc::clone(&session.tenant.database);
    let Some(log) = database.shared.journal.log().filter(|log| log.flushed() < awaited) else { return true };
    let limit = session.node.settings().reply_timeout.duration();
    let deadline = limit.map(|limit| tokio::time::Instant::from_std(session.since + limit));
    let (client, worker) = (&session.client, Rc::clone(&session.worker));
    let mut durable = pin!(worker.held.until_durable(log, awaited));
    let mut timer = pin!(at(deadline));
    let error = poll_fn(|cx| {
        client.waker.register(cx.waker());
        if client.is_killed() {
            return Poll::Ready(Err(()));
        }
        match durable.as_mut().poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(None)),
            Poll::Ready(Err(Sealed)) => Poll::Ready(Ok(Some(late::TAKEN_OVER.to_owned()))),
            Poll::Pending => timer
                .as_mut()
                .poll(cx)
                .map(|()| Ok(Some(late::text(limit.unwrap_or_default().as_millis(), log.problem().as_deref())))),
        }
    })
    .await;
    let text = match error {
        Ok(Some(text)) => text,
        Ok(None) => return true,
        Err(()) => return false,
    };
    session.publish_when_durable();
    let Some(replaced) = late::replace(buffer, &awaiting, log.flushed(), &text) else { return false };
    (0..replaced).for_each(|_| session.tenant.errors.count(format!("-{text}").as_bytes()));
    true
}

/// Waits until a moment; forever if it is `None`.
async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
