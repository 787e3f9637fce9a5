//! A small client for tools that ask a running server: one connection, one command at a time, RESP2.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use dormouse_importer::link::Link;
use dormouse_importer::tls::{TlsChoices, TlsClient};
use dormouse_protocol::Response;

use crate::databases::ADMIN;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server: `redis://[[user]:token@]host[:port]`, `rediss://` for TLS, or `unix://[[user]:token@]/path`.
/// Nothing that prints it prints the token.
///
/// The user matters only where it is `admin`: then the token is the server's admin token.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub endpoint: Endpoint,
    pub token: Option<String>,
    pub is_admin: bool,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Tcp { host: String, port: u16, is_tls: bool },
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let malformed = || {
            "expected redis://host:port, redis://:TOKEN@host:port, rediss:// for TLS, or unix://:TOKEN@/path/of/a/socket".to_string()
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(malformed)?;
        let token_of = |user: &str| {
            let token = user.split_once(':').map_or(user, |(_, token)| token);
            Some(token).filter(|token| !token.is_empty()).map(str::to_string)
        };
        let is_admin =
            |user: Option<&str>| user.is_some_and(|user| user.split_once(':').is_some_and(|(name, _)| name == ADMIN));
        match scheme {
            "redis" | "rediss" => {
                let rest = rest.strip_suffix('/').unwrap_or(rest);
                let (user, host) = match rest.rsplit_once('@') {
                    Some((user, host)) => (Some(user), host),
                    None => (None, rest),
                };
                let (host, port) = match host.rsplit_once(':') {
                    // A colon inside brackets belongs to the address.
                    Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| malformed())?),
                    _ => (host, 6379),
                };
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                if host.is_empty() || host.contains('/') {
                    return Err(malformed());
                }
                let endpoint = Endpoint::Tcp { host: host.to_string(), port, is_tls: scheme == "rediss" };
                Ok(Self { endpoint, is_admin: is_admin(user), token: user.and_then(token_of) })
            }
            "unix" => {
                // The path begins with the first slash behind the token, which may hold slashes itself.
                let (user, path) = match rest.rsplit_once("@/") {
                    Some((user, path)) => (Some(user), format!("/{path}")),
                    None => (None, rest.to_string()),
                };
                if !path.starts_with('/') || path.len() < 2 {
                    return Err(malformed());
                }
                Ok(Self {
                    endpoint: Endpoint::Unix(path.into()),
                    is_admin: is_admin(user),
                    token: user.and_then(token_of),
                })
            }
            _ => Err(malformed()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Address {
    /// The words that make redis-cli enter the database `name` without a token.
    pub fn redis_cli(&self, name: &str) -> String {
        match &self.endpoint {
            Endpoint::Tcp { is_tls: true, .. } => format!("redis-cli --tls -u rediss://{name}:x@{self}"),
            Endpoint::Tcp { .. } => format!("redis-cli -u redis://{name}:x@{self}"),
            Endpoint::Unix(_) => format!("redis-cli -s {self} --user {name} --pass x"),
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.endpoint, Endpoint::Tcp { is_tls: true, .. })
    }

    fn connect(&self, tls: &TlsChoices) -> Result<Box<dyn Transport>, String> {
        let last = match &self.endpoint {
            Endpoint::Unix(path) => match UnixStream::connect(path) {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => Some(error),
            },
            Endpoint::Tcp { host, port, is_tls } => {
                let tls = is_tls.then(|| TlsClient::new(tls)).transpose()?;
                let addresses = (host.as_str(), *port).to_socket_addrs();
                let mut last = None;
                for address in addresses.map_err(|error| format!("the host {host} is unknown: {error}"))? {
                    match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                        Ok(stream) => {
                            // Without it, small requests are slower; they still arrive.
                            let _ = stream.set_nodelay(true);
                            let link = Link::new(stream, tls.as_ref(), host);
                            return match link {
                                Ok(link) => Ok(Box::new(link)),
                                Err(error) => Err(format!("no connection to {self}: {error}")),
                            };
                        }
                        Err(error) => last = Some(error),
                    }
                }
                last
            }
        };
        let why = last.map_or_else(|| "the host has no address".to_string(), |error| error.to_string());
        Err(format!(
            "no server answers at {self} ({why}): start one with `dormouse serve`, or name another with --url or DORMOUSE_URL"
        ))
    }
}

/// A connection's bytes, whatever carries them.
trait Transport: Read + Write + fmt::Debug {}

impl<T: Read + Write + fmt::Debug> Transport for T {}

#[derive(Debug)]
pub struct ToolClient {
    stream: BufReader<Box<dyn Transport>>,
    address: Address,
}

/// The reason for a missing reply.
#[derive(Debug)]
pub enum Trouble {
    /// The server's own words.
    Refused(String),
    Broken(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) | Self::Broken(text) => f.write_str(text),
        }
    }
}

impl ToolClient {
    /// # Errors
    /// A text that says what to do.
    pub fn connect(address: &Address, tls: &TlsChoices) -> Result<Self, String> {
        Ok(Self { stream: BufReader::new(address.connect(tls)?), address: address.clone() })
    }

    pub fn call(&mut self, words: &[&str]) -> Result<Response, Trouble> {
        self.call_bytes(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    }

    pub fn call_bytes(&mut self, words: &[&[u8]]) -> Result<Response, Trouble> {
        let broken = |error: io::Error| Trouble::Broken(format!("the connection to {} broke: {error}", self.address));
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).map_err(broken)?;
        Response::read(&mut self.stream).map_err(broken)?.checked().map_err(Trouble::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, expected) in [
            ("redis://127.0.0.1:7000", Ok(("127.0.0.1:7000", None))),
            ("redis://localhost", Ok(("localhost:6379", None))),
            ("redis://localhost/", Ok(("localhost:6379", None))),
            ("redis://:dm_shop_x@host:1", Ok(("host:1", Some("dm_shop_x")))),
            ("redis://shop:dm_shop_x@host:1", Ok(("host:1", Some("dm_shop_x")))),
            ("redis://:p@ss@host:1", Ok(("host:1", Some("p@ss")))),
            ("redis://admin:dm_shop_x@host:1", Ok(("host:1", Some("dm_shop_x")))),
            ("redis://[::1]:7", Ok(("[::1]:7", None))),
            ("redis://[::1]", Ok(("[::1]:6379", None))),
            ("unix:///run/dormouse.sock", Ok(("/run/dormouse.sock", None))),
            ("unix://:dm_shop_x@/run/dormouse.sock", Ok(("/run/dormouse.sock", Some("dm_shop_x")))),
            ("unix://shop:p/ss@/run/dormouse.sock", Ok(("/run/dormouse.sock", Some("p/ss")))),
            ("redis://", Err("expected redis://")),
            ("redis://host:port", Err("expected redis://")),
            ("localhost:6379", Err("expected redis://")),
            ("unix://dormouse.sock", Err("unix://:TOKEN@/path")),
            ("unix:///", Err("unix://:TOKEN@/path")),
            ("rediss://:t@host", Ok(("host:6379", Some("t")))),
            ("redisss://host", Err("expected redis://")),
        ] {
            match (url.parse::<Address>(), expected) {
                (Ok(address), Ok((shown, token))) => {
                    assert_eq!((address.to_string().as_str(), address.token.as_deref()), (shown, token), "{url}");
                    assert_eq!(
                        (address.is_admin, address.is_tls()),
                        (url.contains("admin"), url.starts_with("rediss"))
                    );
                    assert!(!format!("{address} {address:?}").contains("dm_shop_x"));
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{url}: {error}"),
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
        let enter = |url: &str| url.parse::<Address>().unwrap().redis_cli("pr-1");
        assert_eq!(enter("redis://[::1]"), "redis-cli -u redis://pr-1:x@[::1]:6379");
        assert_eq!(enter("rediss://h"), "redis-cli --tls -u rediss://pr-1:x@h:6379");
        assert_eq!(enter("unix:///run/d.sock"), "redis-cli -s /run/d.sock --user pr-1 --pass x");
    }
}
