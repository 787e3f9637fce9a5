//! A small client for tools that ask a running server: one connection, one command at a time, RESP2.
//!
//! What comes from the server is not trusted more than a server is by any client: nesting is bounded, and nothing is
//! allocated before its bytes are there.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest line that begins a reply.
const LINE_BYTES_MAX: u64 = 64 << 10;
const DEPTH_MAX: usize = 16;

/// `redis://[[user]:token@]host[:port]`. Nothing that prints it prints the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
    pub token: Option<String>,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let malformed = || "expected redis://host:port or redis://:TOKEN@host:port".to_string();
        let rest = match url.split_once("://") {
            Some(("redis", rest)) => rest,
            Some(("rediss", _)) => return Err("rediss:// needs TLS, which is not there yet".to_string()),
            _ => return Err(malformed()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let token = user.map(|user| user.split_once(':').map_or(user, |(_, token)| token));
        let (host, port) = match place.rsplit_once(':') {
            // A colon inside brackets belongs to the address.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| malformed())?),
            _ => (place, 6379),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains('/') {
            return Err(malformed());
        }
        Ok(Self { host: host.to_string(), port, token: token.filter(|t| !t.is_empty()).map(str::to_string) })
    }
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
        write!(f, "Address({self})")
    }
}

/// A reply that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Integer(i64),
    Null,
    /// A map's keys and values in turn.
    Many(Vec<Reply>),
}

impl Reply {
    pub fn items(&self) -> &[Reply] {
        if let Self::Many(items) = self { items } else { &[] }
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub fn integer(&self) -> Option<i64> {
        if let Self::Integer(integer) = self { Some(*integer) } else { None }
    }

    /// The value of `name` in a map.
    pub fn at(&self, name: &str) -> Option<&Reply> {
        let mut pairs = self.items().chunks_exact(2);
        pairs.find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
    }
}

#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
    address: Address,
}

/// Why there is no reply.
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

impl Client {
    /// # Errors
    /// A text that says what to do.
    pub fn connect(address: &Address) -> Result<Self, String> {
        let found = (address.host.as_str(), address.port)
            .to_socket_addrs()
            .map_err(|error| format!("{} is not known here: {error}", address.host))?;
        let mut last = None;
        for place in found {
            match TcpStream::connect_timeout(&place, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    // Without it, small requests are slower; they still arrive.
                    let _ = stream.set_nodelay(true);
                    return Ok(Self { stream: BufReader::new(stream), address: address.clone() });
                }
                Err(error) => last = Some(error),
            }
        }
        let why = last.map_or_else(|| "no address".to_string(), |error| error.to_string());
        Err(format!(
            "no server answers at {address} ({why}): start one with `dormouse serve`, or say where it is with --url \
             redis://HOST:PORT or DORMOUSE_URL"
        ))
    }

    pub fn call(&mut self, words: &[&str]) -> Result<Reply, Trouble> {
        let broken = |error: io::Error| Trouble::Broken(format!("the connection to {} broke: {error}", self.address));
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request += &format!("${}\r\n{word}\r\n", word.len()));
        self.stream.get_mut().write_all(request.as_bytes()).map_err(broken)?;
        read(&mut self.stream, 0).map_err(broken)?.map_err(Trouble::Refused)
    }
}

/// A reply, or the text of an error.
fn read(stream: &mut impl BufRead, depth: usize) -> io::Result<Result<Reply, String>> {
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "what answers does not speak the Redis protocol");
    let mut line = Vec::new();
    stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it"));
    }
    let text = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok()).ok_or_else(nonsense)?;
    let (kind, rest) = text.split_at_checked(1).ok_or_else(nonsense)?;
    let number = || rest.parse::<i64>().map_err(|_| nonsense());
    Ok(Ok(match kind {
        "+" => Reply::Text(rest.to_string()),
        "-" => return Ok(Err(rest.to_string())),
        ":" => Reply::Integer(number()?),
        "$" | "*" if number()? < 0 => Reply::Null,
        "$" => {
            let length = number()? as u64;
            let mut bytes = Vec::new();
            stream.by_ref().take(length.saturating_add(2)).read_to_end(&mut bytes)?;
            match bytes.strip_suffix(b"\r\n") {
                Some(bytes) if bytes.len() as u64 == length => Reply::Text(String::from_utf8_lossy(bytes).into_owned()),
                _ => return Err(nonsense()),
            }
        }
        "*" if depth < DEPTH_MAX => {
            let mut items = Vec::new();
            for _ in 0..number()? {
                match read(stream, depth + 1)? {
                    Ok(item) => items.push(item),
                    Err(text) => return Ok(Err(text)),
                }
            }
            Reply::Many(items)
        }
        _ => return Err(nonsense()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, expected) in [
            ("redis://127.0.0.1:7000", Ok(("127.0.0.1", 7000, None))),
            ("redis://localhost", Ok(("localhost", 6379, None))),
            ("redis://localhost/", Ok(("localhost", 6379, None))),
            ("redis://:dm_shop_x@host:1", Ok(("host", 1, Some("dm_shop_x")))),
            ("redis://shop:dm_shop_x@host:1", Ok(("host", 1, Some("dm_shop_x")))),
            ("redis://:p@ss@host:1", Ok(("host", 1, Some("p@ss")))),
            ("redis://[::1]:7", Ok(("::1", 7, None))),
            ("redis://[::1]", Ok(("::1", 6379, None))),
            ("redis://", Err("expected redis://")),
            ("redis://host:port", Err("expected redis://")),
            ("localhost:6379", Err("expected redis://")),
            ("rediss://host", Err("TLS")),
        ] {
            match (url.parse::<Address>(), expected) {
                (Ok(address), Ok(expected)) => {
                    assert_eq!((address.host.as_str(), address.port, address.token.as_deref()), expected, "{url}");
                    assert!(!format!("{address} {address:?}").contains("dm_shop_x"));
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{url}: {error}"),
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
    }

    #[test]
    fn replies_and_nonsense() {
        let text = |text: &str| Reply::Text(text.to_string());
        for (bytes, expected) in [
            ("+OK\r\n", Ok(text("OK"))),
            ("$3\r\na\r\n\r\n", Ok(text("a\r\n"))),
            ("$-1\r\n", Ok(Reply::Null)),
            ("*2\r\n:-7\r\n*0\r\n", Ok(Reply::Many(vec![Reply::Integer(-7), Reply::Many(Vec::new())]))),
            ("-ERR no\r\n", Err("ERR no")),
        ] {
            assert_eq!(read(&mut bytes.as_bytes(), 0).unwrap(), expected.map_err(str::to_string), "{bytes:?}");
        }
        let deep = "*1\r\n".repeat(100_000);
        for bytes in
            ["", "HTTP/1.1 400\r\n", "$5\r\nab\r\n", "*9000000000\r\n", "$9000000000000\r\n", "+no end", "é\r\n", &deep]
        {
            assert!(read(&mut bytes.as_bytes(), 0).is_err(), "{bytes:.20}");
        }
    }
}
