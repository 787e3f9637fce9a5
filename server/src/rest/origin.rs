//! Web pages. Any page can make a browser send requests to a server on the browser's machine or network.
//!
//! A request with a token is answered for every page: the page knows the token. So browsers are told that they may send
//! one (CORS), and that pages may read the answer. A server that asks for no secret has nothing but its address between
//! its data and every page, so it answers none:
//!
//! - A request with an `Origin`, or a `Sec-Fetch-Site` of a page, comes from one.
//! - A page may also be served from a name that its owner lets point to this server. So the name in `Host` must be one
//!   that nobody can register, or an address.

use std::net::IpAddr;

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, HOST, HeaderMap,
    HeaderValue, ORIGIN,
};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use super::body::HttpBody;
use super::refusal::Refused;
use crate::node::Node;
use crate::session::Session;

/// Ends of names that are never public.
const PRIVATE_NAMES: [&str; 4] = [".localhost", ".local", ".internal", ".test"];
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, OPTIONS");
const EVERY_ORIGIN: HeaderValue = HeaderValue::from_static("*");
/// How long browsers remember the permission: a day.
const REMEMBERED: HeaderValue = HeaderValue::from_static("86400");
/// Headers of answers that pages may read.
const EXPOSED: HeaderValue = HeaderValue::from_static("upstash-sync-token");
const DEFAULT_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, idempotency-key, idempotency-ttl");

/// Answers a browser that asks whether a page may send a request.
pub fn preflight(parts: &Parts, node: &Node) -> Response<HttpBody> {
    let mut response = Response::new(HttpBody::Whole(Default::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    if node.tenants.needs_token() || !node.tenants.admits_newcomers() {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, EVERY_ORIGIN);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        let wanted = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.cloned().unwrap_or(DEFAULT_HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, REMEMBERED);
    }
    response
}

/// Lets the page that has sent a request read the answer.
pub fn let_read(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, EVERY_ORIGIN);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}

/// # Errors
/// When a web page may have sent a request for which the session needed no secret.
pub fn check(parts: &Parts, session: &Session) -> Result<(), Refused> {
    if session.node.tenants.needs_token() || !session.permissions.user().is_nopass {
        return Ok(());
    }
    let site = parts.headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if parts.headers.contains_key(ORIGIN) || site.is_some_and(|site| site != b"none") {
        return Err(refused("a web page may not use a database that needs no token"));
    }
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = parts.uri.authority().map(|authority| authority.as_str()).or(host);
    if !host.is_none_or(is_private) {
        return Err(refused("a database that needs no token is not served under a public name"));
    }
    Ok(())
}

fn refused(why: &str) -> Refused {
    Refused::new(StatusCode::FORBIDDEN, format!("NOPERM {why}; start the server with --token"))
}

/// Whether no owner of a public name can lead browsers here by it.
fn is_private(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || !name.contains('.') || PRIVATE_NAMES.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_anyone_may_own_are_not_private() {
        for host in [
            "localhost",
            "localhost:8379",
            "127.0.0.1:8379",
            "[::1]:8379",
            "[fd00::1]",
            "10.0.0.7",
            "dormouse",
            "dormouse:80",
            "dormouse.default.svc.cluster.local:8379",
            "host.docker.internal",
            "a.LOCALHOST.",
        ] {
            assert!(is_private(host), "{host}");
        }
        for host in ["example.com", "example.com:8379", "localhost.example.com", "127.0.0.1.nip.io", "local.dev:1"] {
            assert!(!is_private(host), "{host}");
        }
    }
}
