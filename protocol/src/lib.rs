//! RESP2 and RESP3 as a server speaks them: the request parser, the reply writer, and every limit on what a client
//! may send. It knows nothing of commands, sockets or async code: bytes come in, views of bytes and bytes go out.
//!
//! - [`Parser`] finds the requests in a connection's read buffer without copying their arguments: a [`Request`] is a
//!   view of the buffer, an [`OwnedRequest`] outlives the next read.
//! - [`Reply`] writes replies, in the protocol version that the client chose.
//! - [`Response`] reads replies, for tools that are clients; [`translate`] turns one into the other version's.
//! - [`format_double`] spells floating point numbers and [`glob`] matches patterns, both as Redis does; they are here
//!   because commands and the server need the same answer.
//! - [`pace`] lets threads with long work give way to others; it is here because loops on every level take part.
#![forbid(unsafe_code)]

mod double;
mod error;
pub mod glob;
mod inline;
mod integer;
pub mod pace;
mod parser;
mod reply;
mod request;
mod response;
mod translation;

pub use double::{FormattedDouble, format_double};
pub use error::ProtocolError;
pub use inline::split_words;
pub use parser::{Parsed, Parser, RequestLimits};
pub use reply::{Budget, Reply, Version};
pub use request::{OwnedRequest, Request, Span};
pub use response::{ReplyHead, Response};
pub use translation::translate;
