//! What a request asks for, by its address.

use hyper::http::request::Parts;
use percent_encoding::percent_decode;

use super::idempotency::IdempotencyKey;
use super::input::RespText;
use crate::pubsub::SubscriptionKind;

/// Whether a path belongs to the operator of the server, not to a database.
pub fn is_of_operator(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics") || path.starts_with("/v1/")
}

/// Returns the form of a request's path, without anything that a client puts into it.
pub fn form(parts: &Parts) -> &'static str {
    let path = parts.uri.path();
    if is_of_operator(path) {
        return match path {
            "/healthz" => "/healthz",
            "/readyz" => "/readyz",
            "/metrics" => "/metrics",
            _ => "/v1/{path}",
        };
    }
    match Route::of(parts) {
        Route::Command => "/",
        Route::Pipeline => "/pipeline",
        Route::MultiExec => "/multi-exec",
        Route::Path => "/{command}",
        Route::Subscribe(SubscriptionKind::Channel, _) => "/subscribe/{channel}",
        Route::Subscribe(..) => "/psubscribe/{pattern}",
        Route::Monitor => "/monitor",
    }
}

/// The forms of requests.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `/`: the body is a command.
    Command,
    /// `/pipeline`: the body is an array of commands.
    Pipeline,
    /// `/multi-exec`: the same, as one transaction.
    MultiExec,
    /// `/set/key/value`.
    Path,
    /// `/subscribe/channel` or `/psubscribe/pattern`.
    Subscribe(SubscriptionKind, Vec<u8>),
    /// `/monitor`.
    Monitor,
}

impl Route {
    pub fn of(parts: &Parts) -> Self {
        let path = parts.uri.path();
        match path.strip_suffix('/').unwrap_or(path) {
            "" => return Self::Command,
            "/pipeline" => return Self::Pipeline,
            "/multi-exec" => return Self::MultiExec,
            "/monitor" => return Self::Monitor,
            _ => {}
        }
        for (prefix, kind) in [("/subscribe/", SubscriptionKind::Channel), ("/psubscribe/", SubscriptionKind::Pattern)]
        {
            if let Some(name) = path.strip_prefix(prefix) {
                return Self::Subscribe(kind, channel(name, parts.uri.query()));
            }
        }
        Self::Path
    }
}

/// A channel or a pattern: clients do not escape the `/` and `?` in it.
fn channel(path: &str, query: Option<&str>) -> Vec<u8> {
    let mut name: Vec<u8> = percent_decode(path.as_bytes()).collect();
    let is_token = |pair: &&str| pair.starts_with("_token=");
    match query.map(|query| query.split('&').filter(|pair| !is_token(pair)).collect::<Vec<_>>().join("&")) {
        // There was nothing but the token.
        Some(rest) if rest.is_empty() && query.is_some_and(|query| !query.is_empty()) => {}
        Some(rest) => {
            name.push(b'?');
            name.extend(percent_decode(rest.as_bytes()));
        }
        None => {}
    }
    name
}

/// The command in an address: its words, then the body, then the options in the query. It is run once if it has a key.
pub fn command(parts: &Parts, body: &[u8], key: Option<&IdempotencyKey>) -> RespText {
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    let mut input = RespText::with_room_for(path.len() + query.len() + body.len() + 64);
    let mut words = match key {
        Some(key) => input.begin_once(key, None),
        None => input.begin(),
    };
    let mut decoded = Vec::new();
    for word in path.trim_start_matches('/').split('/') {
        decoded.clear();
        decoded.extend(percent_decode(word.as_bytes()));
        words.add(&decoded);
    }
    if !body.is_empty() {
        words.add(body);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("_token=")) {
        let (name, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)));
        for word in [Some(name), value].into_iter().flatten() {
            decoded.clear();
            let spaced: Vec<u8> = word.bytes().map(|byte| if byte == b'+' { b' ' } else { byte }).collect();
            decoded.extend(percent_decode(&spaced));
            words.add(&decoded);
        }
    }
    words.end();
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str) -> Parts {
        hyper::Request::get(uri).body(()).unwrap().into_parts().0
    }

    #[test]
    fn an_address_is_a_command() {
        for (uri, body, words) in [
            ("/set/foo/bar", "", &[&b"set"[..], b"foo", b"bar"][..]),
            ("/set/foo?EX=100&NX", "bar", &[b"set", b"foo", b"bar", b"EX", b"100", b"NX"]),
            ("/set/a%2Fb/%00%ff%25?_token=x&EX=1", "", &[b"set", b"a/b", b"\0\xff%", b"EX", b"1"]),
            ("/get/a?_token=x", "", &[b"get", b"a"]),
            ("/set/k/?a+b=c%2Bd", "", &[b"set", b"k", b"", b"a b", b"c+d"]),
            ("/eval/return%201/0", "", &[b"eval", b"return 1", b"0"]),
        ] {
            assert_eq!(Route::of(&parts(uri)), Route::Path);
            assert_eq!(command(&parts(uri), body.as_bytes(), None).rest(), RespText::of(words).rest(), "{uri}");
        }
    }

    #[test]
    fn other_routes() {
        let subscribe = |name: &str| Route::Subscribe(SubscriptionKind::Channel, name.into());
        for (uri, expected) in [
            ("/", Route::Command),
            ("/?_token=x", Route::Command),
            ("/pipeline", Route::Pipeline),
            ("/pipeline/", Route::Pipeline),
            ("/multi-exec", Route::MultiExec),
            ("/monitor", Route::Monitor),
            ("/subscribe/chat", subscribe("chat")),
            ("/subscribe/a/b?c=d&e", subscribe("a/b?c=d&e")),
            ("/subscribe/a%20b?_token=x", subscribe("a b")),
            ("/subscribe/a?b&_token=x", subscribe("a?b")),
            ("/subscribe/a?", subscribe("a?")),
            ("/psubscribe/a*", Route::Subscribe(SubscriptionKind::Pattern, b"a*".to_vec())),
        ] {
            assert_eq!(Route::of(&parts(uri)), expected, "{uri}");
        }
    }
}
