//! Commands that concern the connection, the server, or other clients. Those over the keyspace are the engine's.

pub mod connection;
pub mod pubsub;
pub mod transaction;

use dormouse_shard::commands::Family;

use crate::session::SessionRun;

pub const FAMILIES: &[Family<SessionRun>] = &[connection::FAMILY, transaction::FAMILY, pubsub::FAMILY];

/// `now!(ping)` wraps `fn ping(session, reply, arguments)` so that its arguments are parsed from the request; for a
/// subcommand `now!(list, 2)` skips both words of its name.
macro_rules! now {
    ($function:path) => {
        $crate::commands::now!($function, 1)
    };
    ($function:path, $skip:expr) => {{
        fn run(
            session: &mut $crate::session::Session,
            reply: &mut ::dormouse_protocol::Reply,
            request: ::dormouse_protocol::Request<'_>,
        ) -> ::dormouse_shard::error::Result<()> {
            $function(session, reply, ::dormouse_shard::commands::args::parse(request, $skip)?)
        }
        $crate::session::SessionRun::Now(run)
    }};
}
pub(crate) use now;

/// The same for a command that has to wait: `fn info(session, arguments) -> Result<BoxFuture<'static, Answer>>`.
macro_rules! later {
    ($function:path) => {
        $crate::commands::later!($function, 1)
    };
    ($function:path, $skip:expr) => {{
        fn run(
            session: &mut $crate::session::Session,
            request: ::dormouse_protocol::Request<'_>,
        ) -> ::dormouse_shard::error::Result<::futures::future::BoxFuture<'static, $crate::session::Answer>> {
            $function(session, ::dormouse_shard::commands::args::parse(request, $skip)?)
        }
        $crate::session::SessionRun::Later(run)
    }};
}
pub(crate) use later;
