//! HTTP requests to URLs that users or the operator name: the receivers of usage events and of triggers.
//!
//! A user must not make the server talk to what only the server can reach, such as the metadata service of a cloud, the
//! operator's network, or the server's own ports. So:
//!
//! 1. A [`ReceiverUrl`] is a URL that was checked: its scheme, its form, and its address if it has one instead of a name.
//! 2. A name is resolved for each new connection. Addresses that are [out of reach](address) are dropped, and the connection
//!    goes to one of the rest. The name is not resolved again in between, so a name server cannot answer the check with
//!    one address and the connection with another.
//! 3. Redirects are not followed: they are answers like any other. Proxies of the environment are not used, since a proxy
//!    resolves the name itself.
//! 4. Connecting, the whole exchange, and the bytes that are read of an answer are bounded. So are the lookups of one tenant.
//! 5. A receiver has taken what was posted when its status says so, whatever becomes of the rest of the answer. Where the
//!    answer repeats parts of the URL or values of headers, these are replaced, as both are often secrets.
//!
//! A kept connection goes to an address that was checked when it was made. Connections use HTTP/1.1, one exchange at a time:
//! those of HTTP/2 would be shared among the tenants of a receiver, and a slow exchange of one would hold up the others.
//!
//! The caller bounds how many posts are under way, and their bodies; this module keeps neither queue nor retries.
//!
//! `reqwest` does the rest: it is here for `dormouse db` and for object stores already, its resolver can be replaced, and
//! it trusts the authorities of the system (or of `SSL_CERT_FILE`).

mod address;
mod header;
mod receiver_url;
mod resolver;

use std::error::Error as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Certificate, Client, Response, StatusCode, redirect};

pub use self::address::Reach;
pub use self::header::{HeaderSource, parse_header};
pub use self::receiver_url::ReceiverUrl;
pub use self::resolver::LookupShare;
use self::resolver::{CheckedResolver, HostLookup, OutOfReach, look_up};

/// Time for finding a host and connecting to it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole post, to the end of its answer.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes that are read of an answer. A connection whose answer is longer is closed.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Bytes that are kept of an answer.
const EXCERPT_BYTES_MAX: usize = 256;
/// Shorter parts of a request are no secrets.
const SECRET_BYTES_MIN: usize = 6;
/// What replaces them.
const HIDDEN: &str = "***";
/// How long a connection is kept for the next post.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_PER_HOST_MAX: usize = 4;
const USER_AGENT: &str = concat!("dormouse/", env!("CARGO_PKG_VERSION"));

/// Posts to receivers, over connections that it keeps. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Sender {
    shared: Arc<Clients>,
}

/// One client for each reach, made when it is first needed: each holds the certificates of all authorities.
#[derive(Debug, Default)]
struct Clients {
    public: OnceLock<Client>,
    private: OnceLock<Client>,
    /// Authorities that are trusted besides those of the system.
    authorities: Vec<Certificate>,
    /// Time for a whole post, in place of the usual one.
    timeout: Option<Duration>,
    /// In place of the system's.
    lookup: Option<HostLookup>,
}

/// The answer to a post that reached its receiver, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostAnswer {
    pub status: u16,
    /// The time after which the receiver wants the next attempt.
    pub retry_after: Option<Duration>,
    /// The beginning of its body, with other characters than visible ones replaced.
    pub excerpt: String,
}

impl PostAnswer {
    /// Whether the receiver has taken what was posted.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The status and its meaning, without anything that the receiver has written.
    pub fn status_text(&self) -> String {
        let reason = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        format!("status {}{}", self.status, reason.map_or_else(String::new, |reason| format!(" ({reason})")))
    }

    /// Whether the receiver would take less at once.
    pub fn is_too_large(&self) -> bool {
        self.status == 413
    }

    /// Whether the same request may succeed later: the receiver is overloaded, restarting or failing. Other refusals
    /// say that the request or the receiver has to change.
    pub fn is_temporary(&self) -> bool {
        self.status >= 500 || matches!(self.status, 408 | 425 | 429)
    }
}

impl std::fmt::Display for PostAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.status_text())?;
        if self.excerpt.is_empty() { Ok(()) } else { write!(f, ": {}", self.excerpt) }
    }
}

/// A post without an answer. Its texts name no address, and nothing of the URL but its host: users may see them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The host has no address that may be reached.
    #[error("{0} has no address that may be reached")]
    OutOfReach(String),
    /// The host was not found, does not answer, or its certificate is not trusted.
    #[error("cannot connect to {receiver}: {reason}")]
    Connect { receiver: String, reason: String },
    /// The receiver may have got the request.
    #[error("{0} did not answer in time")]
    TimedOut(String),
    /// The connection broke. The receiver may have got the request.
    #[error("no answer from {receiver}: {reason}")]
    Broken { receiver: String, reason: String },
}

impl Sender {
    /// One that also trusts these authorities, in PEM.
    ///
    /// # Errors
    /// When they are not in PEM.
    pub fn trusting(pem: &[u8]) -> Result<Self, String> {
        let authorities = Certificate::from_pem_bundle(pem).map_err(|error| error.to_string())?;
        Ok(Self { shared: Arc::new(Clients { authorities, ..Clients::default() }) })
    }

    /// Sends `body` as a POST request. `headers` should have its content type.
    ///
    /// # Errors
    /// When there is no answer. The request may have arrived nonetheless.
    pub async fn post(&self, receiver: &ReceiverUrl, headers: HeaderMap, body: Bytes) -> Result<PostAnswer, SendError> {
        let client = self.shared.client(receiver.reach());
        let client = client.map_err(|reason| SendError::Connect { receiver: receiver.to_string(), reason })?;
        let secrets = secrets(receiver, &headers);
        let request = client.post(receiver.url().clone()).headers(headers).body(body);
        let response = request.send().await.map_err(|error| explained(receiver, &error))?;
        read(response, &secrets).await.map_err(|error| explained(receiver, &error))
    }
}

impl Clients {
    fn client(&self, reach: Reach) -> Result<&Client, String> {
        let place = match reach {
            Reach::Public => &self.public,
            Reach::Private => &self.private,
        };
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .dns_resolver(CheckedResolver::new(reach, self.lookup.unwrap_or(look_up)))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(self.timeout.unwrap_or(TIMEOUT))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .tls_certs_merge(self.authorities.iter().cloned());
        let client = builder.build().map_err(|error| deepest(&error))?;
        Ok(place.get_or_init(|| client))
    }
}

/// Parts of a request that its sender may want to be kept secret, the longest first.
fn secrets(receiver: &ReceiverUrl, headers: &HeaderMap) -> Vec<String> {
    let url = receiver.url();
    let mut secrets: Vec<String> = [url.path(), url.query().unwrap_or_default()].map(str::to_owned).into();
    secrets.extend(url.path_segments().into_iter().flatten().map(str::to_owned));
    secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
    for value in headers.values().filter(|value| value.is_sensitive()).filter_map(|value| value.to_str().ok()) {
        secrets.push(value.to_owned());
        // Such as the token of an authorization, behind its scheme.
        secrets.extend(value.split_once(' ').map(|(_, token)| token.trim().to_owned()));
    }
    secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// Reads an answer to its end, or as far as is read of any.
async fn read(mut response: Response, secrets: &[String]) -> Result<PostAnswer, reqwest::Error> {
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut kept = Vec::new();
    let mut answer = PostAnswer { status, retry_after: retry_after.map(Duration::from_secs), excerpt: String::new() };
    while kept.len() <= ANSWER_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => kept.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX + 1)]),
            Ok(None) => break,
            Err(_) if answer.is_success() => break,
            Err(error) => return Err(error),
        }
    }
    kept.truncate(EXCERPT_BYTES_MAX + header::VALUE_BYTES_MAX);
    let mut text = String::from_utf8_lossy(&kept).into_owned();
    for secret in secrets {
        text = text.replace(secret, HIDDEN);
    }
    let fits = |(at, symbol): &(usize, char)| at + symbol.len_utf8() <= EXCERPT_BYTES_MAX;
    let visible = |(_, symbol): (usize, char)| if symbol.is_control() { ' ' } else { symbol };
    answer.excerpt = text.trim().char_indices().take_while(fits).map(visible).collect();
    Ok(answer)
}

fn explained(receiver: &ReceiverUrl, error: &reqwest::Error) -> SendError {
    let named = receiver.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        if deeper.is::<OutOfReach>() {
            return SendError::OutOfReach(receiver.host().to_owned());
        }
        cause = deeper.source();
    }
    if error.is_connect() {
        let reason = if error.is_timeout() { "it takes too long".to_owned() } else { deepest(error) };
        SendError::Connect { receiver: named, reason }
    } else if error.is_timeout() {
        SendError::TimedOut(named)
    } else {
        SendError::Broken { receiver: named, reason: deepest(error) }
    }
}

/// The cause of all, which alone has no URL in its text.
fn deepest(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if std::ptr::addr_eq(cause, error) { "the request failed".to_owned() } else { cause.to_string() }
}

#[cfg(test)]
pub(crate) mod tests;
