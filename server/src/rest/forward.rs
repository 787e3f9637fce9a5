//! Requests for a database that another node of the fleet serves: see [`crate::forwarding`].
//!
//! A request is passed on as it came, its body while it arrives. The other node checks its size and its permissions, and bills
//! it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Uri, Version};

use super::Connection;
use super::body::HttpBody;
use super::client::HttpClient;
use super::identity::{user_and_secret, wrong_token};
use super::passed::PassedBack;
use super::refusal::{NoResult, Refused};
use crate::databases::aim::LoginAim;
use crate::fleet::{Directions, ServedAt};
use crate::forwarding::HOPS_MAX;
use crate::forwarding::heading::{Heading, keep_end_to_end};
use crate::forwarding::http::{self, HttpLink, PassedBody};
use crate::forwarding::introduction::ShownPeer;
use crate::forwarding::reach::{doubt, search, unreachable};
use crate::options::DEFAULT_DATABASE;
use crate::strangers;

/// A request that another node may serve, or the answer of that node.
pub enum Passage {
    /// This node serves it.
    Stays(Incoming),
    Answered(Response<HttpBody>),
}

/// Where a request is served.
enum Whereabouts {
    Here,
    There(HttpLink),
}

/// Takes over what another node says of the client of a request. `None`: the client has sent it to this node.
pub fn introduce(client: &mut HttpClient, heading: Option<&Heading>) {
    let session = &mut client.session;
    let (node, its) = (Arc::clone(&session.node), Arc::clone(&session.client));
    let hops = heading.map_or(0, |heading| heading.hops);
    let before = its.peer();
    let shown = heading.map(|heading| heading.peer.clone().by(&before, heading.is_tls));
    if hops == std::mem::replace(&mut session.hops, hops) && shown.as_ref().is_none_or(|shown| *shown == before) {
        return;
    }
    let (_, now_ms) = session.worker.now();
    node.clients.show(&its, shown, now_ms, strangers::places(node.max_clients()));
}

/// Passes a request on if another node serves its database. `key`: its credentials.
///
/// # Errors
/// When the credentials are wrong, the other node cannot be reached, or this one takes no more clients.
pub async fn pass_on(
    connection: &Rc<Connection>,
    client: &mut HttpClient,
    fleet: &dyn Directions,
    key: Option<&[u8]>,
    parts: &Parts,
    body: Incoming,
) -> Result<Passage, NoResult> {
    client.has_waited = false;
    client.wait_for_guesses(key).await;
    let Some((database, is_unverified)) = destination(client, key).await else { return Ok(Passage::Stays(body)) };
    let node = Arc::clone(&connection.node);
    let _place = if is_unverified { node.tenants.place_to_try().await } else { None };
    let began = Instant::now();
    let hops = client.session.hops.saturating_add(1);
    if hops > 1 {
        doubt(fleet, &database).await;
    }
    let found = search(fleet, &database, async |place| match place {
        ServedAt::Here => Ok(Whereabouts::Here),
        ServedAt::There(_) if hops > HOPS_MAX => {
            Err(format!("the nodes of the fleet do not agree which of them serves database `{database}`"))
        }
        ServedAt::There(node) => {
            let none = || unreachable(&database, &node, "serves no HTTP");
            let link = http::connect(node.http.as_deref().ok_or_else(none)?).await;
            link.map(Whereabouts::There)
                .map_err(|error| unreachable(&database, &node, format!("cannot be reached ({error})")))
        }
    });
    let link = match found.await {
        Ok(Whereabouts::Here) => return Ok(Passage::Stays(body)),
        Ok(Whereabouts::There(link)) => link,
        Err(error) => return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).last().into()),
    };
    let peer = client.session.client.peer();
    let heading = Heading { hops, peer: ShownPeer::of(&peer), is_tls: peer.is_tls() };
    let meter = Rc::clone(&connection.meter);
    meter.pay(None);
    meter.parsed();
    let (forwarded, its) = (Arc::clone(&node.forwarded), Arc::clone(&client.session.client));
    let body = PassedBody::new(body, move |bytes| {
        meter.parsed();
        forwarded.note_bytes(bytes);
        its.note_traffic(bytes, 0, 0);
    });
    let answer = link.send(request(parts, &heading, fleet, body), node.forwarded.begin()).await.map_err(|error| {
        fleet.forget(&database);
        let text = format!("TRYAGAIN the node that serves database `{database}` has not answered ({error})");
        Refused::new(StatusCode::BAD_GATEWAY, text).last()
    })?;
    if is_unverified {
        node.tenants.note_look(began);
        if answer.status() == StatusCode::UNAUTHORIZED {
            client.session.guessed();
            client.session.hide_look(began.elapsed());
            client.session.hold_back().await;
            return Err(Refused { is_last: client.session.closing, ..wrong_token() }.into());
        }
    }
    if answer.status() != StatusCode::UNAUTHORIZED {
        client.key_elsewhere = key.map(Into::into);
        let its = client.session.client.database();
        if client.session.authenticated || *its != *database {
            let refused = |error: dormouse_shard::error::Error| {
                Refused::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()).last()
            };
            client.session.depart(&database).map_err(refused)?;
        }
    }
    let (mut head, body) = answer.into_parts();
    keep_end_to_end(&mut head.headers);
    head.version = Version::default();
    let body = PassedBack::new(body, &head.headers, connection);
    Ok(Passage::Answered(Response::from_parts(head, HttpBody::Passed(Box::new(body)))))
}

/// The database of a request, and whether its secret may be a password, which only the node that serves it can compare.
/// `None`: the request is decided here.
async fn destination(client: &HttpClient, key: Option<&[u8]>) -> Option<(Box<str>, bool)> {
    let tenants = &client.session.node.tenants;
    let Some(key) = key else {
        return (!tenants.needs_token()).then(|| (DEFAULT_DATABASE.into(), false));
    };
    let (user, secret) = user_and_secret(key)?;
    match tenants.aim_with_news(&user, &secret).await {
        LoginAim::Nowhere => None,
        LoginAim::Token(database) => Some((database, false)),
        // One that the other node has taken on this connection is right.
        LoginAim::Password(database) => Some((database, client.key_elsewhere.as_deref() != Some(key))),
    }
}

fn request(parts: &Parts, heading: &Heading, fleet: &dyn Directions, body: PassedBody) -> Request<PassedBody> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.path_and_query().map_or_else(Uri::default, |path| path.clone().into());
    *request.headers_mut() = parts.headers.clone();
    let headers = request.headers_mut();
    keep_end_to_end(headers);
    // Over HTTP/2 the name that the client has used is part of the address.
    if let Some(authority) = parts.uri.authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok()) {
        headers.insert(HOST, authority);
    }
    heading.add(fleet.secret(), headers);
    request
}
