use std::fmt;

/// The reason why a connection's bytes are not a request.
///
/// The connection gets the text (after `-ERR `) and is closed, because the start of the next request is unknown.
///
/// `Display` is Redis's text. Redis has none for [`ProtocolError::RequestTooBig`]: it closes the connection silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The count of arguments is not an integer, or above the limit.
    InvalidMultibulkLength,
    /// More arguments than a client may send before it has authenticated.
    UnauthenticatedMultibulkLength,
    /// The line with the count of arguments does not end.
    MultibulkCountTooBig,
    /// The line with an argument's length does not end.
    BulkCountTooBig,
    /// An argument's header begins with this byte.
    ExpectedDollar(u8),
    /// An argument's length is not an integer, negative, or above the limit.
    InvalidBulkLength,
    /// A longer argument than a client may send before it has authenticated.
    UnauthenticatedBulkLength,
    /// An inline request does not end.
    InlineTooBig,
    /// An inline request opens a quote that it does not close, or continues right after a closing quote.
    UnbalancedQuotes,
    /// All arguments together exceed the limit of one request.
    RequestTooBig,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Self::InvalidMultibulkLength => "invalid multibulk length",
            Self::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            Self::MultibulkCountTooBig => "too big mbulk count string",
            Self::BulkCountTooBig => "too big bulk count string",
            Self::ExpectedDollar(got) => return write_expected_dollar(f, got),
            Self::InvalidBulkLength => "invalid bulk length",
            Self::UnauthenticatedBulkLength => "unauthenticated bulk length",
            Self::InlineTooBig => "too big inline request",
            Self::UnbalancedQuotes => "unbalanced quotes in request",
            Self::RequestTooBig => "too big request",
        };
        write!(f, "Protocol error: {text}")
    }
}

impl std::error::Error for ProtocolError {}

/// Redis prints the byte as it is. A Rust string cannot hold bytes above 0x7f and should not hold control characters,
/// so those are escaped; a line end becomes a space, as in every error reply.
fn write_expected_dollar(f: &mut fmt::Formatter<'_>, got: u8) -> fmt::Result {
    f.write_str("Protocol error: expected '$', got '")?;
    match got {
        b'\r' | b'\n' => f.write_str(" ")?,
        b' '..=b'~' => write!(f, "{}", char::from(got))?,
        _ => write!(f, "\\x{got:02x}")?,
    }
    f.write_str("'")
}
