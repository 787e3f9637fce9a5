//! Answers without a result. Each is a JSON object with an `error`, as the clients expect.

use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::body::HttpBody;
use super::client::Gone;
use crate::databases::traffic;

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A refused request.
#[derive(Debug)]
pub struct Refused {
    pub status: StatusCode,
    pub text: String,
    /// Whether the connection ends.
    pub is_last: bool,
    /// Seconds after which the request may be sent again, if that is known.
    pub retry_after_s: Option<u64>,
}

impl Refused {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), is_last: false, retry_after_s: None }
    }

    pub fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// Ends the connection, whose next request cannot be found or is not wanted.
    pub fn last(self) -> Self {
        Self { is_last: true, ..self }
    }

    pub fn into_response(self) -> Response<HttpBody> {
        let mut response = Response::new(HttpBody::Whole(object(&self.text).into()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.is_last {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Why a request has no result.
pub enum NoResult {
    Refused(Refused),
    Gone,
}

impl From<Refused> for NoResult {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Gone> for NoResult {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// The status of an answer that is one error.
pub fn status_of(error: &[u8]) -> StatusCode {
    if traffic::is_over_rate(error) {
        StatusCode::TOO_MANY_REQUESTS
    } else if error.starts_with(b"ONCEMISMATCH ") {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::BAD_REQUEST
    }
}

/// An error as clients over HTTP know it: where Upstash has words of its own for it, in these.
pub fn in_dialect(error: &[u8]) -> &[u8] {
    match error {
        b"OOM command not allowed when used memory > 'maxmemory'." => b"ERR DB capacity quota exceeded",
        error => error,
    }
}

fn object(error: &str) -> Vec<u8> {
    serde_json::json!({ "error": error }).to_string().into_bytes()
}

pub fn draining() -> Response<HttpBody> {
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "ERR the server is shutting down").last().into_response()
}

/// The answer for a client that will not read it.
pub fn gone() -> Response<HttpBody> {
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "ERR the connection was closed").last().into_response()
}

/// The whole answer to a client that is not served at all.
pub fn raw(status: StatusCode, text: &str) -> String {
    let body = String::from_utf8_lossy(&object(text)).into_owned();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
