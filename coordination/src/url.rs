//! The address of a coordinator.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::CoordinationError;

/// `etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/PREFIX` or `kubernetes://NAMESPACE`.
///
/// Special characters of user and password are percent-encoded. Texts made from an address have no password.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterUrl {
    pub(crate) coordinator: Coordinator,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Coordinator {
    Etcd {
        credentials: Option<Credentials>,
        /// `HOST:PORT`, at least one.
        endpoints: Vec<String>,
        /// Without a slash at either end.
        prefix: String,
    },
    Kubernetes {
        namespace: String,
    },
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

const ENDPOINTS_MAX: usize = 32;
const PREFIX_LENGTH_MAX: usize = 512;
/// Of a DNS label, which a namespace of Kubernetes is.
const NAMESPACE_LENGTH_MAX: usize = 63;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl FromStr for ClusterUrl {
    type Err = CoordinationError;

    /// # Errors
    /// [`CoordinationError::Address`].
    fn from_str(text: &str) -> Result<Self, CoordinationError> {
        let coordinator = match text.split_once("://") {
            Some(("etcd", rest)) => etcd(rest),
            Some(("kubernetes", rest)) => kubernetes(rest),
            _ => Err("expected etcd://HOST:PORT[,HOST:PORT...]/PREFIX or kubernetes://NAMESPACE"),
        };
        coordinator
            .map(|coordinator| Self { coordinator })
            .map_err(|reason| CoordinationError::Address { text: without_password(text), reason })
    }
}

fn etcd(rest: &str) -> Result<Coordinator, &'static str> {
    let (authority, path) = rest.split_once('/').ok_or("a prefix for keys is missing: etcd://HOST:PORT/PREFIX")?;
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (Some(self::credentials(credentials)?), hosts),
        None => (None, authority),
    };
    let endpoints: Vec<String> = hosts.split(',').map(str::to_owned).collect();
    if endpoints.len() > ENDPOINTS_MAX {
        return Err("more than 32 endpoints");
    }
    endpoints.iter().try_for_each(|endpoint| check_endpoint(endpoint))?;
    let prefix = path.trim_end_matches('/');
    if prefix.is_empty() {
        return Err("a prefix for keys is missing: etcd://HOST:PORT/PREFIX");
    }
    if prefix.len() > PREFIX_LENGTH_MAX {
        return Err("the prefix is longer than 512 bytes");
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if !prefix.bytes().all(is_allowed) || prefix.split('/').any(str::is_empty) {
        return Err("a prefix has letters, digits, `.`, `_` and `-`, and single slashes between them");
    }
    Ok(Coordinator::Etcd { credentials, endpoints, prefix: prefix.to_owned() })
}

fn credentials(text: &str) -> Result<Credentials, &'static str> {
    let (user, password) = text.split_once(':').ok_or("expected USER:PASSWORD before `@`")?;
    let decode = |text| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(|text| text.into_owned()).map_err(|_| "user and password are not UTF-8")
    };
    let credentials = Credentials { user: decode(user)?, password: decode(password)? };
    if credentials.user.is_empty() { Err("the user before `:` is empty") } else { Ok(credentials) }
}

fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    const FORM: &str = "each endpoint is HOST:PORT, and an IPv6 address stands in brackets";
    let (host, port) = endpoint.rsplit_once(':').ok_or(FORM)?;
    match port.parse::<u16>() {
        Ok(port) if port > 0 => {}
        _ => return Err("a port is a number from 1 to 65535"),
    }
    let is_valid = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    if is_valid { Ok(()) } else { Err(FORM) }
}

fn kubernetes(namespace: &str) -> Result<Coordinator, &'static str> {
    let is_label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().next_back()];
        label.len() <= NAMESPACE_LENGTH_MAX
            && ends.iter().all(|end| end.is_some_and(|end| end != b'-'))
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if !is_label(namespace) {
        return Err("a namespace has up to 63 lower-case letters, digits and hyphens");
    }
    Ok(Coordinator::Kubernetes { namespace: namespace.to_owned() })
}

/// Cuts everything up to the last `@`, which may hold a password.
fn without_password(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        (None, Some((_, rest))) => format!("***@{rest}"),
        _ => text.to_owned(),
    }
}

impl fmt::Display for ClusterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.coordinator {
            Coordinator::Etcd { credentials, endpoints, prefix } => {
                f.write_str("etcd://")?;
                if let Some(credentials) = credentials {
                    write!(f, "{}@", utf8_percent_encode(&credentials.user, UNRESERVED))?;
                }
                write!(f, "{}/{prefix}", endpoints.join(","))
            }
            Coordinator::Kubernetes { namespace } => write!(f, "kubernetes://{namespace}"),
        }
    }
}

/// As [`Display`](fmt::Display), so that no log has a password.
impl fmt::Debug for ClusterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<ClusterUrl>() {
            Ok(url) => url.to_string(),
            Err(CoordinationError::Address { reason, .. }) => reason.to_owned(),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn addresses_are_read_and_shown() {
        for text in [
            "etcd://127.0.0.1:2379/dormouse",
            "etcd://a:1,b.example:2379,[::1]:65535/one/two.three",
            "kubernetes://default",
        ] {
            assert_eq!(shown(text), text);
        }
        assert_eq!(shown("etcd://a:1/dormouse/"), "etcd://a:1/dormouse");
    }

    #[test]
    fn a_password_is_never_shown() {
        let url: ClusterUrl = "etcd://me%40home:p%40ss%2Fw:x@a:1/d".parse().unwrap();
        let Coordinator::Etcd { credentials: Some(credentials), .. } = &url.coordinator else {
            panic!("no credentials")
        };
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("me@home", "p@ss/w:x"));
        assert_eq!(format!("{url} {url:?}"), "etcd://me%40home@a:1/d etcd://me%40home@a:1/d");
        for bad in ["etcd://me:secret@a/d", "etcd://me:sec@ret@a:0/d", "etc://me:secret@a:1/d", "me:secret@a:1"] {
            let error = bad.parse::<ClusterUrl>().unwrap_err().to_string();
            assert!(!error.contains("sec") && error.contains("***@"), "{error}");
        }
    }

    #[test]
    fn faulty_addresses_say_what_is_missing() {
        for (text, reason) in [
            ("", "expected etcd://"),
            ("redis://a:1/d", "expected etcd://"),
            ("etcd://a:1", "a prefix for keys is missing"),
            ("etcd://a:1//", "a prefix for keys is missing"),
            ("etcd://a:1/b//c", "single slashes"),
            ("etcd://a:1/ü", "a prefix has letters"),
            ("etcd:///d", "each endpoint is HOST:PORT"),
            ("etcd://a/d", "each endpoint is HOST:PORT"),
            ("etcd://a:1,/d", "each endpoint is HOST:PORT"),
            ("etcd://a b:1/d", "each endpoint is HOST:PORT"),
            ("etcd://::1:1/d", "each endpoint is HOST:PORT"),
            ("etcd://a:0/d", "a port is a number"),
            ("etcd://a:65536/d", "a port is a number"),
            ("etcd://me@a:1/d", "expected USER:PASSWORD"),
            ("etcd://:x@a:1/d", "the user before"),
            ("kubernetes://", "a namespace has"),
            ("kubernetes://-a", "a namespace has"),
            ("kubernetes://A", "a namespace has"),
        ] {
            assert!(shown(text).contains(reason), "{text}: {}", shown(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(etcd://|kubernetes://)?[a-z0-9:@,/%\\[\\]\u{e9}-]{0,40}") {
            if let Ok(url) = text.parse::<ClusterUrl>() {
                // A user without its password is no address.
                if !text.contains('@') {
                    proptest::prop_assert_eq!(url.to_string().parse::<ClusterUrl>(), Ok(url));
                }
            }
        }
    }
}
