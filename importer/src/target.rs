//! The server that receives an import.

use std::fmt;
use std::str::FromStr;

/// `redis://[user:password@]host[:port][/index]`, or `rediss://` for TLS. Its `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    pub is_tls: bool,
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
    pub password: Option<String>,
    /// The logical index that receives everything.
    pub index: Option<u64>,
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_tls, rest) = match text.split_once("://") {
            Some(("redis", rest)) => (false, rest),
            Some(("rediss", rest)) => (true, rest),
            _ => return Err("expected a URL such as redis://:TOKEN@127.0.0.1:6379".to_owned()),
        };
        // The message does not repeat the URL, which may hold a password.
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, address) = place.rsplit_once('@').map_or((None, place), |(login, address)| (Some(login), address));
        let (user, password) = match login {
            None => (None, None),
            Some(login) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (unescaped(user)?, unescaped(password)?)
            }
        };
        let bracketed = address.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err("the URL names no host".to_owned());
        }
        let port =
            port.map_or(Ok(6379), |port| port.parse().map_err(|_| "the URL's port is not a number".to_owned()))?;
        let index = match path {
            "" => None,
            path => Some(path.parse().map_err(|_| "the path of the URL is not a logical index".to_owned())?),
        };
        Ok(ServerUrl { is_tls, host: host.to_owned(), port, user, password, index })
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Decodes `%XX` in a text. Returns nothing for an empty one.
fn unescaped(text: &str) -> Result<Option<String>, String> {
    let broken = || "the URL has a broken % escape".to_owned();
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or_else(broken)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(broken());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| broken())?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    let text = String::from_utf8(bytes).map_err(|_| broken())?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let shown = |text: &str| match text.parse::<ServerUrl>() {
            Ok(ServerUrl { is_tls, host, port, user, password, index }) => {
                let tls = if is_tls { "tls " } else { "" };
                format!("{tls}{host} {port} {user:?} {password:?} {index:?}").replace("None", "-")
            }
            Err(complaint) => complaint,
        };
        for (text, expected) in [
            ("redis://h", "h 6379 - - -"),
            ("redis://h:1/", "h 1 - - -"),
            ("redis://:dm_a_b@h:1/3", "h 1 - Some(\"dm_a_b\") Some(3)"),
            ("redis://u:p%40%3a%2F@h", "h 6379 Some(\"u\") Some(\"p@:/\") -"),
            ("redis://[::1]:7", "::1 7 - - -"),
            ("redis://[::1]", "::1 6379 - - -"),
            ("redis://", "the URL names no host"),
            ("redis://h:x", "the URL's port is not a number"),
            ("redis://h/x", "the path of the URL is not a logical index"),
            ("redis://:%4@h", "the URL has a broken % escape"),
            ("redis://:%+1@h", "the URL has a broken % escape"),
            ("rediss://:p@h:7", "tls h 7 - Some(\"p\") -"),
            ("h:1", "expected a URL such as redis://:TOKEN@127.0.0.1:6379"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        assert!(!format!("{:?}", "redis://:secret@h".parse::<ServerUrl>()).contains("secret"));
    }
}
