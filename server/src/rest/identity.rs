//! Who sends a request: a token in its `Authorization` header, or behind `_token=` in its address.
//!
//! - `Bearer TOKEN`: any secret that `AUTH TOKEN` takes, or a [token of a user](user_token).
//! - `Basic USER:SECRET`: what `AUTH USER SECRET` takes.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use percent_encoding::percent_decode;

use super::client::HttpClient;
use super::refusal::Refused;
use crate::acl::user_token;
use crate::commands::connection::log_in;
use crate::options::DEFAULT_DATABASE;
use crate::strangers::Neighbourhood;

/// The credentials of a request as they were presented.
pub fn key(parts: &Parts) -> Option<Cow<'_, [u8]>> {
    if let Some(value) = parts.headers.get(AUTHORIZATION) {
        return Some(value.as_bytes().into());
    }
    let query = parts.uri.query()?;
    let token = query.split('&').find_map(|pair| pair.strip_prefix("_token="))?;
    Some([&b"Bearer "[..], &percent_decode(token.as_bytes()).collect::<Vec<u8>>()].concat().into())
}

/// The user, who may have no name, and the secret in credentials.
pub(super) fn user_and_secret(key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let space = memchr::memchr(b' ', key)?;
    let (scheme, presented) = (&key[..space], key[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"Basic") {
        let decoded = STANDARD.decode(presented).ok()?;
        let colon = memchr::memchr(b':', &decoded)?;
        return Some((decoded[..colon].to_vec(), decoded[colon + 1..].to_vec()));
    }
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return None;
    }
    if let Some(parts) = user_token::parts(presented) {
        return Some(parts);
    }
    Some((Vec::new(), presented.to_vec()))
}

impl HttpClient {
    /// Whether its last request had the same credentials, and is in their database.
    pub fn is_identified(&self, key: Option<&[u8]>) -> bool {
        self.session.authenticated && self.key.as_deref() == key
    }

    /// Waits before credentials are looked at, if wrong ones came from the client's address. Once for each request.
    pub async fn wait_for_guesses(&mut self, key: Option<&[u8]>) {
        let session = &mut self.session;
        // A client that another node passes on has waited there.
        let is_due = key.is_some() && session.hops == 0 && self.key_elsewhere.as_deref() != key;
        if is_due && !std::mem::replace(&mut self.has_waited, true) {
            let (_, now_ms) = session.worker.now();
            session.held_back = session.node.guesses.wait(Neighbourhood::of(&session.client.peer()), now_ms);
            session.hold_back().await;
        }
    }

    /// Enters the database that the credentials of a request open.
    ///
    /// # Errors
    /// When they open none, or the node takes no more clients.
    pub async fn identify(&mut self, key: Option<&[u8]>) -> Result<(), Refused> {
        let is_identified = self.is_identified(key);
        let session = &mut self.session;
        if is_identified {
            return if session.renew() { Ok(()) } else { Err(wrong_token().last()) };
        }
        let Some(key) = key else {
            session.forget();
            // Another node would have got the request.
            if session.is_unsettled && session.node.directions.get().is_some() {
                drop(session.node.tenants.opened(DEFAULT_DATABASE).await);
            }
            session.settle();
            self.key = None;
            return match session.authenticated {
                true => Ok(()),
                false => {
                    session.note_refusal();
                    Err(Refused { is_last: session.closing, ..wrong_token() })
                }
            };
        };
        self.wait_for_guesses(Some(key)).await;
        self.has_waited = false;
        let session = &mut self.session;
        if !session.authenticated {
            session.node.newcomers.wait().await;
        }
        if session.client.is_killed() {
            return Err(wrong_token().last());
        }
        let began = Instant::now();
        let mut looked_for = Duration::ZERO;
        let opened = match user_and_secret(key) {
            Some((user, secret)) => {
                let _found = session.node.tenants.prepare(&user, &secret).await;
                looked_for = began.elapsed();
                log_in(session, &user, &secret, b"AUTH").map_err(|error| error.to_string())
            }
            None => {
                session.guessed();
                session.audit_login(None, Some("malformed"));
                Err(String::from("WRONGPASS"))
            }
        };
        let Err(text) = opened else {
            self.key = Some(key.into());
            return Ok(());
        };
        session.hide_look(looked_for);
        session.hold_back().await;
        let refused = match text.starts_with("WRONGPASS") {
            true => wrong_token(),
            false => Refused::new(StatusCode::TOO_MANY_REQUESTS, text),
        };
        Err(Refused { is_last: session.closing, ..refused })
    }
}

pub(super) fn wrong_token() -> Refused {
    Refused::new(StatusCode::UNAUTHORIZED, "WRONGPASS invalid or missing auth token")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, authorization: Option<&str>) -> Parts {
        let mut request = hyper::Request::get(uri);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn presented(uri: &str, authorization: Option<&str>) -> Option<(String, String)> {
        let parts = parts(uri, authorization);
        let (user, secret) = user_and_secret(&key(&parts)?)?;
        Some((String::from_utf8(user).unwrap(), String::from_utf8(secret).unwrap()))
    }

    #[test]
    fn credentials_are_found() {
        let of_user = format!("Bearer {}", user_token::of(b"ann", b"dm_shop_p_w"));
        for (uri, authorization, expected) in [
            ("/get/a", Some("Bearer dm_shop_x"), Some(("", "dm_shop_x"))),
            ("/get/a", Some("bearer  x "), Some(("", "x"))),
            ("/get/a?_token=dm_shop_a%2Bb", None, Some(("", "dm_shop_a+b"))),
            ("/set/a/b?EX=1&_token=x", None, Some(("", "x"))),
            ("/get/a?_token=y", Some("Bearer x"), Some(("", "x"))),
            ("/get/a", Some("Basic YW5uOnA6dw=="), Some(("ann", "p:w"))),
            ("/get/a", Some(&of_user), Some(("ann", "dm_shop_p_w"))),
            ("/get/a", Some("Bearer dmr_!"), Some(("", "dmr_!"))),
            ("/get/a", Some("Digest x"), None),
            ("/get/a", Some("x"), None),
            ("/get/a?x_token=x", None, None),
            ("/get/a", None, None),
        ] {
            let found = presented(uri, authorization);
            let found = found.as_ref().map(|(user, secret)| (user.as_str(), secret.as_str()));
            assert_eq!(found, expected, "{uri} {authorization:?}");
        }
    }
}
