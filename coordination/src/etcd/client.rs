//! Requests to etcd.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::failure::EtcdFailure;
use super::watch::Watch;
use super::wire::{Done, Failure, KeyValue, Lease, Login, Message, Range, Transaction, base64};
use crate::url::Credentials;

/// An answer may not be longer. The keys of 10,000 nodes are a third of it.
const ANSWER_MAX: usize = 16 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The limit of a request to one endpoint.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// A connection whose other end is silent for some 20 s is cut, so that a watch of a quiet fleet notices a lost host.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_secs(3);
const PROBES: u32 = 3;

/// A client of the endpoints of one etcd.
pub(crate) struct Etcd {
    http: reqwest::Client,
    endpoints: Vec<String>,
    /// The endpoint that is asked first: the last that has answered.
    first: AtomicUsize,
    credentials: Option<Credentials>,
    token: Mutex<Option<Arc<str>>>,
    /// Monotonic milliseconds.
    clock: fn() -> u64,
}

/// The outcome of a conditional put.
#[derive(Debug)]
pub(crate) enum Put {
    /// Done in this revision.
    Done(i64),
    /// The condition did not hold. The key's value is this, if it has one.
    Refused(Option<KeyValue>),
}

impl Etcd {
    /// # Errors
    /// The client for HTTP cannot be made.
    pub(crate) fn new(
        endpoints: Vec<String>,
        credentials: Option<Credentials>,
        clock: fn() -> u64,
    ) -> Result<Self, EtcdFailure> {
        let http = reqwest::Client::builder()
            // Traffic within a cluster goes through no proxy, and etcd redirects no request.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .tcp_keepalive(PROBE_AFTER)
            .tcp_keepalive_interval(PROBE_INTERVAL)
            .tcp_keepalive_retries(PROBES)
            .build()
            .map_err(|error| EtcdFailure::Refused(chain(&error)))?;
        let first = AtomicUsize::new(fastrand::usize(..endpoints.len().max(1)));
        Ok(Self { http, endpoints, first, credentials, token: Mutex::new(None), clock })
    }

    /// Grants a lease of at least `ttl` seconds. Returns its id, its seconds, and the moment before the request was sent.
    pub(crate) async fn grant(&self, ttl: u64) -> Result<(i64, u64, u64), EtcdFailure> {
        let body = json!({ "TTL": ttl.to_string() });
        let (lease, sent_ms) = self.call_at::<Lease>("lease/grant", &body, REQUEST_LIMIT).await?;
        Ok((lease.id, seconds(&lease), sent_ms))
    }

    /// Renews a lease. Returns its seconds, 0 if it has ended, and the moment before the request was sent. The limit is for
    /// each endpoint.
    pub(crate) async fn keep_alive(&self, id: i64, limit: Duration) -> Result<(u64, u64), EtcdFailure> {
        let body = json!({ "ID": id.to_string() });
        let (message, sent_ms) = self.call_at::<Message<Lease>>("lease/keepalive", &body, limit).await?;
        match message {
            Message { result: Some(lease), error: None } => Ok((seconds(&lease), sent_ms)),
            Message { error, .. } => {
                let failure = error.unwrap_or_default();
                Err(EtcdFailure::of_answer(failure.grpc_code, 0, &failure.message))
            }
        }
    }

    /// Ends a lease, and deletes its keys.
    pub(crate) async fn revoke(&self, id: i64) -> Result<(), EtcdFailure> {
        match self.call::<Done>("lease/revoke", &json!({ "ID": id.to_string() })).await {
            Ok(Done {}) | Err(EtcdFailure::LeaseGone) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Puts a value under a lease, whatever was there. Returns the revision.
    pub(crate) async fn put(&self, key: &str, value: &[u8], lease: i64) -> Result<i64, EtcdFailure> {
        let body = json!({ "key": base64(key), "value": base64(value), "lease": lease.to_string() });
        Ok(self.call::<Range>("kv/put", &body).await?.header.revision)
    }

    /// Puts a value if the key was last changed in the revision `expected`, where 0 says that the key does not exist.
    /// Without a lease the key stays for ever.
    pub(crate) async fn put_over(
        &self,
        expected: i64,
        key: &str,
        value: &[u8],
        lease: Option<i64>,
    ) -> Result<Put, EtcdFailure> {
        let key = base64(key);
        let lease = lease.unwrap_or(0).to_string();
        let body = json!({
            "compare": [{ "result": "EQUAL", "target": "MOD", "key": key, "mod_revision": expected.to_string() }],
            "success": [{ "request_put": { "key": key, "value": base64(value), "lease": lease } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let answer: Transaction = self.call("kv/txn", &body).await?;
        Ok(match answer.succeeded {
            true => Put::Done(answer.header.revision),
            false => {
                let range = answer.responses.into_iter().next().unwrap_or_default().response_range;
                Put::Refused(range.kvs.into_iter().next())
            }
        })
    }

    /// Puts a value if the key has a smaller one, compared as bytes, or none. Else it writes nothing.
    pub(crate) async fn put_larger(&self, key: &str, value: &[u8]) -> Result<(), EtcdFailure> {
        let (key, value) = (base64(key), base64(value));
        let put = json!({ "request_put": { "key": key, "value": value } });
        // A comparison with the value of a key that does not exist is false.
        let body = json!({
            "compare": [{ "result": "LESS", "target": "VALUE", "key": key, "value": value }],
            "success": [put],
            "failure": [{ "request_txn": {
                "compare": [{ "result": "EQUAL", "target": "MOD", "key": key, "mod_revision": "0" }],
                "success": [put],
            } }],
        });
        self.call::<Done>("kv/txn", &body).await.map(|Done {}| ())
    }

    /// Returns all keys that start with `root`, and the revision at which it looked, which is none of the past.
    pub(crate) async fn read(&self, root: &str) -> Result<(Vec<KeyValue>, i64), EtcdFailure> {
        let body = json!({ "key": base64(root), "range_end": base64(end_of(root)) });
        let range: Range = self.call("kv/range", &body).await?;
        Ok((range.kvs, range.header.revision))
    }

    /// Watches all keys that start with `root`, for changes from a revision on.
    pub(crate) async fn watch(&self, root: &str, from_revision: i64) -> Result<Watch, EtcdFailure> {
        let create = json!({
            "key": base64(root),
            "range_end": base64(end_of(root)),
            "start_revision": from_revision.to_string(),
        });
        let body = json!({ "create_request": create });
        let mut failure = no_endpoints();
        for (index, endpoint) in self.rotation() {
            match self.send(endpoint, "watch", &body, REQUEST_LIMIT).await {
                Ok(response) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(Watch::new(response));
                }
                Err(EtcdFailure::Unreachable(reason)) => failure = EtcdFailure::Unreachable(reason),
                Err(other) => return Err(other),
            }
        }
        Err(failure)
    }

    /// Forgets the token, so that the next request logs in.
    pub(crate) fn log_out(&self) {
        *self.token.lock() = None;
    }

    async fn call<A: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<A, EtcdFailure> {
        Ok(self.call_at(path, body, REQUEST_LIMIT).await?.0)
    }

    /// Asks each endpoint once, until one answers. Returns the answer with the moment before that request was sent.
    async fn call_at<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<(A, u64), EtcdFailure> {
        let mut failure = no_endpoints();
        for (index, endpoint) in self.rotation() {
            let sent_ms = (self.clock)();
            let answer = timeout(limit, async { read(self.send(endpoint, path, body, limit).await?).await }).await;
            match answer.unwrap_or_else(|_| Err(silent(endpoint, limit))) {
                Ok(bytes) => {
                    self.first.store(index, Ordering::Relaxed);
                    let answer = serde_json::from_slice(&bytes).map_err(|error| {
                        EtcdFailure::Refused(format!("{endpoint} does not answer as etcd would: {error}"))
                    })?;
                    return Ok((answer, sent_ms));
                }
                Err(EtcdFailure::Unreachable(reason)) => failure = EtcdFailure::Unreachable(reason),
                Err(other) => return Err(other),
            }
        }
        Err(failure)
    }

    /// All endpoints, beginning with the last that has answered.
    fn rotation(&self) -> impl Iterator<Item = (usize, &str)> {
        let (first, count) = (self.first.load(Ordering::Relaxed), self.endpoints.len());
        (first..first + count).map(move |index| (index % count, self.endpoints[index % count].as_str()))
    }

    /// Sends a request to an endpoint, and logs in before it if need be. Returns an answer that is a success.
    async fn send(
        &self,
        endpoint: &str,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<reqwest::Response, EtcdFailure> {
        let Some(credentials) = &self.credentials else { return self.post(endpoint, path, body, None, limit).await };
        let had_token = self.token.lock().clone();
        if let Some(token) = &had_token {
            match self.post(endpoint, path, body, Some(token), limit).await {
                Err(EtcdFailure::Unauthenticated(_)) => {}
                other => return other,
            }
        }
        let login = json!({ "name": credentials.user, "password": credentials.password });
        let answer = read(self.post(endpoint, "auth/authenticate", &login, None, limit).await?).await?;
        let Ok(Login { token }) = serde_json::from_slice(&answer) else {
            return Err(EtcdFailure::Refused("the answer to a login has no token".to_owned()));
        };
        let token: Arc<str> = token.into();
        *self.token.lock() = Some(Arc::clone(&token));
        self.post(endpoint, path, body, Some(&token), limit).await
    }

    async fn post(
        &self,
        endpoint: &str,
        path: &str,
        body: &Value,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<reqwest::Response, EtcdFailure> {
        let mut request = self.http.post(format!("http://{endpoint}/v3/{path}"));
        request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        // A member that has lost its leader ends a watch that asks for this, instead of keeping it without any news.
        request = request.header("Grpc-Metadata-hasleader", "true");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let response = match timeout(limit, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(EtcdFailure::Unreachable(chain(&error.without_url()))),
            Err(_) => return Err(silent(endpoint, limit)),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = timeout(limit, read(response)).await.unwrap_or_else(|_| Err(silent(endpoint, limit)))?;
        let failure: Failure = serde_json::from_slice(&body).unwrap_or_default();
        let text = match failure.message.as_str() {
            "" if status == StatusCode::NOT_FOUND => {
                format!("{endpoint} has no JSON gateway, or is no etcd: --enable-grpc-gateway must not be false")
            }
            "" => format!("{endpoint} answered with HTTP status {status}"),
            message => message.to_owned(),
        };
        Err(EtcdFailure::of_answer(failure.grpc_code, status.as_u16(), &text))
    }
}

/// Reads an answer to its end.
async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, EtcdFailure> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= ANSWER_MAX => bytes.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(EtcdFailure::Refused("an answer is longer than 16 MiB".to_owned())),
            Ok(None) => return Ok(bytes),
            Err(error) => return Err(EtcdFailure::Unreachable(chain(&error.without_url()))),
        }
    }
}

fn no_endpoints() -> EtcdFailure {
    EtcdFailure::Unreachable("no endpoints".to_owned())
}

fn silent(endpoint: &str, limit: Duration) -> EtcdFailure {
    EtcdFailure::Unreachable(format!("{endpoint} does not answer within {} ms", limit.as_millis()))
}

fn seconds(lease: &Lease) -> u64 {
    lease.ttl.try_into().unwrap_or(0)
}

/// The first key after all that start with `root`, which ends with a slash.
fn end_of(root: &str) -> Vec<u8> {
    let mut end = root.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// An error with its causes, the innermost of which says most.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
