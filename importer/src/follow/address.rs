//! The address of a source or a target, and the login there.

use std::fmt;

use crate::target::ServerUrl;
use crate::tls::{TlsChoices, TlsClient};

/// An address with its login. `Display` and `Debug` leave out the password.
#[derive(Clone)]
pub struct ServerAddress {
    pub host: String,
    pub port: u16,
    /// How to speak TLS there, if at all.
    pub tls: Option<TlsClient>,
    user: Option<String>,
    password: Option<String>,
}

impl ServerAddress {
    /// Returns the server that a URL names. The environment's `variable` has the password if the URL has none.
    ///
    /// # Errors
    /// When the URL names an index: an import takes all of them. When the files for TLS cannot be used.
    pub fn new(url: &ServerUrl, variable: &str, tls: &TlsChoices) -> Result<Self, String> {
        let ServerUrl { is_tls, host, port, user, password, index } = url.clone();
        if host.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
            return Err("the name of the host has a space in it".to_string());
        }
        if index.is_some_and(|index| index != 0) {
            return Err("the URL names an index, but all SELECT indexes are imported, each into its own".to_string());
        }
        let by_environment = || std::env::var(variable).ok().filter(|password| !password.is_empty());
        let tls = is_tls.then(|| TlsClient::new(tls)).transpose()?;
        Ok(ServerAddress { host, port, tls, user, password: password.or_else(by_environment) })
    }

    /// Returns the words of the AUTH command, if the server needs one.
    pub fn auth(&self) -> Option<Vec<&[u8]>> {
        let password = self.password.as_deref()?;
        let mut words: Vec<&[u8]> = vec![b"AUTH"];
        words.extend(self.user.as_deref().map(str::as_bytes));
        words.push(password.as_bytes());
        Some(words)
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_itself_without_the_password() {
        let address =
            |url: &str| ServerAddress::new(&url.parse().unwrap(), "NOTHING_HAS_THIS_NAME", &TlsChoices::default());
        for (url, shown, auth) in [
            ("redis://h", "h:6379", ""),
            ("redis://h:7/0", "h:7", ""),
            ("redis://:secret@[::1]:7", "[::1]:7", "AUTH secret"),
            ("redis://ada:secret@h", "h:6379", "AUTH ada secret"),
        ] {
            let address = address(url).unwrap();
            assert_eq!(format!("{address} {address:?}"), format!("{shown} {shown}"));
            assert_eq!(address.auth().unwrap_or_default().join(&b' '), auth.as_bytes(), "{url}");
        }
        for url in ["redis://h/3", "redis://a b"] {
            assert!(address(url).is_err(), "{url}");
        }
    }
}
