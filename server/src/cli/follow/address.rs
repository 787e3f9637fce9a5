//! `redis://[user:password@]host[:port]`, of a source or a target.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

const PORT: u16 = 6379;

/// Where a Redis listens, and who we are there. It shows itself without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    pub port: u16,
    pub user: Option<String>,
    pub password: Option<String>,
}

impl Address {
    /// Whether `text` is a URL of this kind rather than the name of a file.
    pub fn is_one(text: &str) -> bool {
        ["redis://", "rediss://", "valkey://", "valkeys://"].iter().any(|scheme| text.starts_with(scheme))
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// The words of the AUTH command, where one is needed.
    pub fn auth(&self) -> Option<Vec<&[u8]>> {
        let password = self.password.as_deref()?;
        let mut words: Vec<&[u8]> = vec![b"AUTH"];
        words.extend(self.user.as_deref().map(str::as_bytes));
        words.push(password.as_bytes());
        Some(words)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The text is not repeated in complaints: it may hold a password.
        let url = Url::parse(text).map_err(|error| format!("not a URL such as redis://host:6379: {error}"))?;
        match url.scheme() {
            "redis" | "valkey" => {}
            "rediss" | "valkeys" => {
                return Err("TLS is not supported yet: use redis:// through a tunnel (stunnel, ssh -L)".to_string());
            }
            other => return Err(format!("`{other}://` is not redis://")),
        }
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Domain(name)) if !name.is_empty() => decode(name)?,
            _ => return Err("the URL names no host".to_string()),
        };
        if host.bytes().any(|byte| byte.is_ascii_whitespace()) {
            return Err("the name of the host has a space in it".to_string());
        }
        if !matches!(url.path(), "" | "/" | "/0") || url.query().is_some() || url.fragment().is_some() {
            return Err("nothing may follow the port: all SELECT indexes are imported, each into its own".to_string());
        }
        // As redis-cli has it: what stands alone before the @ is a password.
        let (user, password) = match (url.username(), url.password()) {
            ("", None) => (None, None),
            (password, None) => (None, Some(decode(password)?)),
            ("", Some(password)) => (None, Some(decode(password)?)),
            (user, Some(password)) => (Some(decode(user)?), Some(decode(password)?)),
        };
        Ok(Address { host, port: url.port().unwrap_or(PORT), user, password })
    }
}

fn decode(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| "the URL is not UTF-8 once decoded".to_string())?;
    Ok(text.into_owned())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_understood_as_redis_cli_does() {
        for (text, shown, user, password) in [
            ("redis://localhost", "localhost:6379", None, None),
            ("redis://10.0.0.7:7000/", "10.0.0.7:7000", None, None),
            ("valkey://h:1/0", "h:1", None, None),
            ("redis://[::1]:7", "[::1]:7", None, None),
            ("redis://secret@h", "h:6379", None, Some("secret")),
            ("redis://:dm_shop_x@h", "h:6379", None, Some("dm_shop_x")),
            ("redis://ada:p%40ss%2f@h", "h:6379", Some("ada"), Some("p@ss/")),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!((address.user.as_deref(), address.password.as_deref()), (user, password), "{text}");
            assert!(password.is_none_or(|password| !format!("{address:?}").contains(password)));
        }
        for (text, part) in [
            ("rediss://h", "TLS"),
            ("http://h", "not redis://"),
            ("redis://", "host"),
            ("redis://h/3", "all SELECT indexes"),
            ("redis://h:99999", "port"),
            ("redis://h%20i", "space"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
