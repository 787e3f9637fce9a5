//! Requests that lead to a database which another node of the fleet serves: see [`crate::forwarding`].
//!
//! A login leads where its secret does. Any other request leads to the database of the connection, which is looked for with
//! the first of them on a server without tokens.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use dormouse_protocol::{OwnedRequest, Reply, Request};
use dormouse_shard::error::{Error, Result};
use dormouse_shard::replication::command;

use crate::clients::Client;
use crate::commands::TABLE;
use crate::databases::aim::LoginAim;
use crate::fleet::{Directions, ServedAt};
use crate::forwarding::introduction::{ClientNotes, Introduction, ShownPeer, WantedReplies};
use crate::forwarding::link::FirstRequest;
use crate::forwarding::reach::{Reached, reach};
use crate::options::DEFAULT_DATABASE;
use crate::session::{FrontEnd, ReplyMode, Session};
use crate::table::{Credentials, Handler, SessionRun};

/// Where a request leads.
struct Destination {
    database: Box<str>,
    is_login: bool,
    /// Whether only the node that serves the database can tell whether the secret is right.
    is_unverified: bool,
}

impl Session {
    /// Finds out whether a request leads to another node, and takes the connection there or writes why that failed. Returns
    /// whether it is answered, or will be there. `shown`: the credentials of a login.
    pub(super) async fn is_led_away(
        &mut self,
        request: &OwnedRequest,
        shown: Option<Credentials<'_>>,
        reply: &mut Reply,
    ) -> bool {
        let Some(fleet) = self.node.directions.get() else { return false };
        if self.transaction.is_some() || self.front != FrontEnd::Resp {
            return false;
        }
        let Some(destination) = self.destination(request.as_request(), shown).await else { return false };
        let (fleet, before) = (Arc::clone(fleet), reply.len());
        match self.lead(&*fleet, &destination, request, reply).await {
            Ok(is_away) if !is_away => return false,
            Ok(_) => {}
            Err(error) => reply.error(&error.to_string()),
        }
        reply.settle(before);
        if self.link.is_none() {
            self.leave_out(reply, before);
        }
        true
    }

    async fn destination(&self, request: Request<'_>, shown: Option<Credentials<'_>>) -> Option<Destination> {
        let (database, is_login, is_unverified) = match shown {
            Some((user, secret)) => match self.node.tenants.aim_with_news(user, secret).await {
                LoginAim::Nowhere => return None,
                LoginAim::Token(database) => (database, true, false),
                LoginAim::Password(database) => (database, true, true),
            },
            None if self.is_unsettled && needs_database(request) => (DEFAULT_DATABASE.into(), false, false),
            None => return None,
        };
        Some(Destination { database, is_login, is_unverified })
    }

    /// Returns whether the request is answered, or will be on another node.
    ///
    /// # Errors
    /// When the database is elsewhere and its node cannot be reached, or the client cannot go there.
    async fn lead(
        &mut self,
        fleet: &dyn Directions,
        destination: &Destination,
        request: &OwnedRequest,
        reply: &mut Reply,
    ) -> Result<bool> {
        let Destination { database, is_login, is_unverified } = destination;
        // Elsewhere nothing of this one's keys would be tracked, and the client would not know.
        if self.client.tracking.load(Ordering::Relaxed) != 0
            && matches!(fleet.locate(database).await?, ServedAt::There(_))
        {
            return Err(Error::text(
                "ERR another node serves this database: turn CLIENT TRACKING off before you enter it",
            ));
        }
        let (node, client) = (Arc::clone(&self.node), Arc::clone(&self.client));
        let introduction = self.introduction();
        let sent = encoded(request.as_request());
        let first = match is_login {
            true => FirstRequest::Login { request: &sent, is_answered: self.reply_mode == ReplyMode::On },
            false => FirstRequest::Other(&sent),
        };
        let reaching = async {
            let _place = if *is_unverified { node.tenants.place_to_try().await } else { None };
            let began = Instant::now();
            let reached = reach(fleet, database, &introduction, first).await;
            if *is_unverified && !matches!(reached, Ok(Reached::Here)) {
                node.tenants.note_look(began);
            }
            reached
        };
        match unless_killed(&client, reaching).await {
            None => {}
            Some(Ok(Reached::Here)) => {
                if !is_login {
                    if self.node.tenants.opened(DEFAULT_DATABASE).await.is_none() {
                        return Err(Error::Elsewhere(DEFAULT_DATABASE.to_owned()));
                    }
                    self.settle();
                }
                return Ok(false);
            }
            Some(Ok(Reached::There(link))) => {
                self.depart(database)?;
                self.link = Some(Box::new(link));
            }
            Some(Ok(Reached::Refused(error))) => {
                if error.starts_with(b"WRONGPASS") {
                    self.guessed();
                }
                reply.error_bytes(&error);
            }
            Some(Err(error)) => return Err(error),
        }
        Ok(true)
    }

    /// The state of the client that another node needs to take it over.
    pub fn introduction(&self) -> Introduction {
        let is = |said: &std::sync::atomic::AtomicBool| said.load(Ordering::Relaxed);
        let (client, peer) = (&self.client, self.client.peer());
        let told = client.told.lock();
        let notes = ClientNotes {
            resp3: self.version == dormouse_protocol::Version::Resp3,
            name: String::from_utf8_lossy(&told.name).into_owned(),
            library: told.library.to_string(),
            library_version: told.library_version.to_string(),
            no_evict: is(&client.no_evict),
            no_touch: is(&client.no_touch),
            can_redirect: is(&client.can_redirect),
            replies: match self.reply_mode {
                ReplyMode::On => WantedReplies::All,
                ReplyMode::Skip | ReplyMode::SkipNext => WantedReplies::SkipFirst,
                ReplyMode::Off | ReplyMode::OffNext => WantedReplies::None,
            },
            is_tls: peer.is_tls(),
            certificate: told.certificate.as_deref().map(str::to_owned),
        };
        Introduction { peer: ShownPeer::of(&peer), hops: self.hops.saturating_add(1), notes }
    }
}

/// Whether a request that shows no token depends on the database of the connection.
fn needs_database(request: Request<'_>) -> bool {
    // The error of an unknown command depends on that, too.
    TABLE
        .resolve(request)
        .map_or(true, |entry| matches!(entry.action, Handler::Session(SessionRun::LogIn(_))) || !entry.logs_in())
}

/// A request in the form in which it is sent on.
fn encoded(request: Request<'_>) -> Vec<u8> {
    let words: Vec<&[u8]> = (0..request.len()).map(|at| request.arg(at)).collect();
    let mut out = Vec::with_capacity(request.bytes() + 16 * words.len() + 16);
    command(&mut out, &words);
    out
}

/// Returns the output of `work`; `None`: the client was killed meanwhile.
async fn unless_killed<T>(client: &Client, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        client.waker.register(cx.waker());
        match client.is_killed() {
            true => Poll::Ready(None),
            false => work.as_mut().poll(cx).map(Some),
        }
    })
    .await
}
