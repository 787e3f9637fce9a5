//! A connection to the upstream server: made, greeted, ready for requests.

use std::io;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::{Buf, BytesMut};
use dormouse_importer::target::ServerUrl;
use dormouse_importer::tls::{TlsClient, explain};
use dormouse_protocol::{Response, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::scanner::ReplyScanner;

const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// A socket, plain or over TLS.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream for S {}

/// The upstream server, and who the sidecar is there.
#[derive(Debug)]
pub struct UpstreamTarget {
    pub url: ServerUrl,
    pub tls: Option<TlsClient>,
}

/// A connection that has answered all that was asked on it.
pub struct UpstreamLink {
    stream: Box<dyn ByteStream>,
    input: BytesMut,
}

impl std::fmt::Debug for UpstreamLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UpstreamLink")
    }
}

impl UpstreamTarget {
    pub fn index(&self) -> u64 {
        self.url.index.unwrap_or(0)
    }

    /// Whether a client that shows this user, if any, and this password is who the sidecar is.
    pub fn is_login(&self, user: Option<&[u8]>, password: &[u8]) -> bool {
        let own = self.url.password.as_deref().unwrap_or_default().as_bytes();
        let is_password = verify_slices_are_equal(own, password).is_ok() && self.url.password.is_some();
        let is_user = match (&self.url.user, user) {
            (None, user) => user.is_none_or(|user| user == b"default"),
            (Some(own), user) => user.is_some_and(|user| user == own.as_bytes()),
        };
        is_password && is_user
    }

    /// Connects, logs in, and selects the index of the URL.
    ///
    /// # Errors
    /// A text that names the server and says what is wrong.
    pub async fn connect(&self, version: Version) -> Result<UpstreamLink, String> {
        let greeted = async {
            let mut link = self.open().await?;
            self.greet(&mut link, version).await?;
            Ok::<_, String>(link)
        };
        match timeout(CONNECT_PATIENCE, greeted).await {
            Ok(outcome) => outcome.map_err(|problem| format!("{:?}: {problem}", self.url)),
            Err(_) => Err(format!("{:?}: no answer within {} s", self.url, CONNECT_PATIENCE.as_secs())),
        }
    }

    async fn open(&self) -> Result<UpstreamLink, String> {
        let host = self.url.host.as_str();
        let failed = |error: io::Error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            inner.map_or_else(|| error.to_string(), explain)
        };
        let socket = TcpStream::connect((host, self.url.port)).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let stream: Box<dyn ByteStream> = match &self.tls {
            None => Box::new(socket),
            Some(tls) => {
                let name = tls.server_name(host).map_err(failed)?;
                Box::new(TlsConnector::from(tls.config()).connect(name, socket).await.map_err(failed)?)
            }
        };
        Ok(UpstreamLink { stream, input: BytesMut::new() })
    }

    async fn greet(&self, link: &mut UpstreamLink, version: Version) -> Result<(), String> {
        if let Some(password) = &self.url.password {
            let mut words = vec!["AUTH"];
            words.extend(self.url.user.as_deref());
            words.push(password.as_str());
            link.call(&words).await?;
        }
        // An answer tells a server from something that accepts connections and closes them.
        match version {
            Version::Resp2 => link.call(&["PING"]).await?,
            Version::Resp3 => link.call(&["HELLO", "3"]).await?,
        };
        if self.index() != 0 {
            link.call(&["SELECT", &self.index().to_string()]).await?;
        }
        Ok(())
    }
}

impl UpstreamLink {
    /// Sends a request and returns its reply.
    ///
    /// # Errors
    /// The server's refusal, or the reason that there is no reply.
    pub async fn call(&mut self, words: &[&str]) -> Result<Response, String> {
        let failed = |error: io::Error| error.to_string();
        self.stream.write_all(&encoded(words.iter().map(|word| word.as_bytes()))).await.map_err(failed)?;
        self.stream.flush().await.map_err(failed)?;
        let mut scanner = ReplyScanner::default();
        loop {
            if let Some(length) = scanner.scan(&self.input).map_err(failed)? {
                let reply = Response::read(&mut &self.input[..length]).map_err(failed)?;
                self.input.advance(length);
                return reply.checked();
            }
            if self.stream.read_buf(&mut self.input).await.map_err(failed)? == 0 {
                return Err("the connection was closed".to_owned());
            }
        }
    }

    /// The socket, and bytes that were read from it.
    pub fn into_parts(self) -> (Box<dyn ByteStream>, BytesMut) {
        (self.stream, self.input)
    }
}

/// A request of these words.
pub fn encoded<'a>(words: impl ExactSizeIterator<Item = &'a [u8]>) -> BytesMut {
    let mut bytes = BytesMut::new();
    let mut digits = itoa::Buffer::new();
    bytes.extend_from_slice(b"*");
    bytes.extend_from_slice(digits.format(words.len()).as_bytes());
    bytes.extend_from_slice(b"\r\n");
    for word in words {
        bytes.extend_from_slice(b"$");
        bytes.extend_from_slice(digits.format(word.len()).as_bytes());
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
