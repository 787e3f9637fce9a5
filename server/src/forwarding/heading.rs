//! The header by which a node passes a request over HTTP on to another.
//!
//! ```text
//! dormouse-forwarded: hops address secret
//! ```
//!
//! The address is the client's, with `tls:` in front if it came over TLS. A request with a wrong secret is one of a client: the
//! header is taken out and means nothing. So are headers that concern one connection only.

use hyper::header::{
    CONNECTION, EXPECT, HeaderMap, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use super::introduction::ShownPeer;
use super::{HOPS_MAX, is_secret};
use crate::fleet::Directions;

const FORWARDED: &str = "dormouse-forwarded";
const OVER_TLS: &str = "tls:";

/// The header by which a node introduces a request that it passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// Nodes that have passed it on, with this one.
    pub hops: u8,
    pub peer: ShownPeer,
    pub is_tls: bool,
}

impl Heading {
    /// Takes it out of the headers of a request. `None`: a client has sent the request to this node.
    pub fn take(headers: &mut HeaderMap, fleet: &dyn Directions) -> Option<Self> {
        let value = headers.remove(FORWARDED)?;
        let mut parts = value.as_bytes().splitn(3, |byte| *byte == b' ');
        let (hops, address, secret) = (parts.next()?, parts.next()?, parts.next()?);
        if !is_secret(fleet.secret(), secret) {
            return None;
        }
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let hops = text(hops)?.parse().ok().filter(|hops| (1..=HOPS_MAX).contains(hops))?;
        let address = text(address)?;
        let over_tls = address.strip_prefix(OVER_TLS);
        Some(Self { hops, peer: ShownPeer::parse(over_tls.unwrap_or(address))?, is_tls: over_tls.is_some() })
    }

    /// Adds it to the headers of a request.
    pub fn add(&self, secret: &str, headers: &mut HeaderMap) {
        let scheme = if self.is_tls { OVER_TLS } else { "" };
        // The path of a socket may have spaces, and nothing follows from it.
        let address = self.peer.to_string().replace(|byte: char| !byte.is_ascii_graphic(), "_");
        if let Ok(mut value) = HeaderValue::from_str(&format!("{} {scheme}{address} {secret}", self.hops)) {
            value.set_sensitive(true);
            headers.insert(FORWARDED, value);
        }
    }
}

/// Removes headers that concern one connection only.
pub fn keep_end_to_end(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    named.iter().for_each(|name| _ = headers.remove(name.as_str()));
    for name in [CONNECTION, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", FORWARDED] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{ServedAt, ToldDirections};

    #[test]
    fn only_a_node_can_say_who_a_client_is() {
        let fleet = ToldDirections::new("s 1", |_| Ok(ServedAt::Here));
        let heading = |hops, address: &str, is_tls| Heading { hops, peer: ShownPeer::parse(address).unwrap(), is_tls };
        for written in [heading(1, "192.0.2.7:9", false), heading(3, "[::1]:9", true), heading(2, "unix:/a_b", false)] {
            let mut headers = HeaderMap::new();
            written.add("s 1", &mut headers);
            assert_eq!(Heading::take(&mut headers, &*fleet), Some(written));
            assert!(headers.is_empty());
        }
        for value in ["", "1", "1 192.0.2.7:9", "1 192.0.2.7:9 s", "4 192.0.2.7:9 s 1", "0 192.0.2.7:9 s 1", "1 x s 1"]
        {
            let mut headers = HeaderMap::new();
            headers.insert(FORWARDED, HeaderValue::from_static(value));
            assert_eq!(Heading::take(&mut headers, &*fleet), None, "{value}");
            assert!(headers.is_empty(), "a client's own header goes nowhere");
        }
    }

    #[test]
    fn what_concerns_one_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("authorization", "Bearer x"),
            ("content-length", "7"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        keep_end_to_end(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(|name| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-length"]);
    }
}
