//! A URL to which requests may be sent.

use std::net::IpAddr;

use reqwest::Url;

use super::Reach;

const URL_BYTES_MAX: usize = 2048;

/// The URL of a receiver, checked. Its display is only its origin: paths and queries of webhooks are often secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceiverUrl {
    url: Url,
    reach: Reach,
}

impl ReceiverUrl {
    /// Checks a URL. The addresses of a name are only checked when a connection is made: they may change.
    ///
    /// # Errors
    /// The problem with it.
    pub fn parse(text: &str, reach: Reach) -> Result<Self, String> {
        if text.len() > URL_BYTES_MAX {
            return Err(format!("invalid URL: it is longer than {URL_BYTES_MAX} bytes"));
        }
        let url = Url::parse(text).map_err(|error| format!("invalid URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("invalid URL: expected http:// or https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("invalid URL: credentials go in a header, not in the URL".to_owned());
        }
        if url.fragment().is_some() {
            return Err("invalid URL: a fragment (#) is not sent".to_owned());
        }
        if url.port() == Some(0) {
            return Err("invalid URL: port 0 cannot be connected to".to_owned());
        }
        let found = Self { url, reach };
        // The parser has made an address of every form that a system might take for one, such as 0x7f.1.
        if let Some(address) = found.address()
            && !reach.has(address)
        {
            return Err(match Reach::Private.has(address) {
                true => format!("the address {address} is not public"),
                false => format!("the address {address} is not that of a server"),
            });
        }
        Ok(found)
    }

    /// The address in the URL, if it has one in place of a name.
    fn address(&self) -> Option<IpAddr> {
        self.host().trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    pub fn host(&self) -> &str {
        // A URL of HTTP has a host.
        self.url.host_str().unwrap_or_default()
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The whole URL.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    pub fn reach(&self) -> Reach {
        self.reach
    }
}

impl std::fmt::Display for ReceiverUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url.origin().ascii_serialization())
    }
}

impl std::fmt::Debug for ReceiverUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReceiverUrl({self}, {:?})", self.reach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_http_and_of_a_server_that_may_be_reached() {
        let long = format!("http://example.com/{}", "a".repeat(URL_BYTES_MAX));
        let refused = [
            ("example.com", "relative URL without a base"),
            ("ftp://example.com", "expected http:// or https://"),
            ("file:///etc/passwd", "expected http:// or https://"),
            ("http://", "empty host"),
            ("http://user:secret@example.com", "credentials go in a header"),
            ("http://user@example.com", "credentials go in a header"),
            ("http://example.com/#part", "a fragment"),
            ("http://example.com:0/", "port 0"),
            ("http://example.com:65536/", "invalid port number"),
            ("http://exa mple.com/", "invalid international domain name"),
            (&long, "longer than 2048 bytes"),
            ("http://127.0.0.1/", "127.0.0.1 is not public"),
            ("http://2130706433/", "127.0.0.1 is not public"),
            ("http://0x7f.1/", "127.0.0.1 is not public"),
            ("http://0177.0.0.1./", "127.0.0.1 is not public"),
            ("http://１２７.0.0.1/", "127.0.0.1 is not public"),
            ("http://[::1]:80/", "::1 is not public"),
            ("http://[::ffff:10.0.0.1]/", "is not that of a server"),
            ("http://169.254.169.254/latest/meta-data/", "is not that of a server"),
            ("http://0/", "0.0.0.0 is not that of a server"),
        ];
        for (url, problem) in refused {
            let found = ReceiverUrl::parse(url, Reach::Public).unwrap_err();
            assert!(found.contains(problem), "{url}: {found}");
        }
        for url in ["http://127.0.0.1:8080/a", "http://[::1]/", "http://10.1.2.3/"] {
            assert!(ReceiverUrl::parse(url, Reach::Private).is_ok(), "{url}");
        }
        for url in ["http://169.254.169.254/", "http://0.0.0.0/", "http://[fe80::1]/", "http://[::ffff:127.0.0.1]/"] {
            assert!(ReceiverUrl::parse(url, Reach::Private).is_err(), "{url}");
        }
    }

    #[test]
    fn a_destination_shows_no_secret() {
        let url = "https://hooks.example.com:8443/services/T0/secret?key=secret";
        let found = ReceiverUrl::parse(url, Reach::Public).unwrap();
        assert_eq!((found.to_string().as_str(), found.as_str()), ("https://hooks.example.com:8443", url));
        assert!(!format!("{found:?}").contains("secret"));
    }
}
