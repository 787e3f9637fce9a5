//! Commands that concern the connection, the server, or other clients. Commands over the keyspace are in the engine.

pub mod absent;
pub mod acl;
pub mod arguments;
pub mod client;
pub mod client_filter;
pub mod client_line;
pub mod client_tracking;
pub mod cluster;
pub mod command_log;
pub mod config;
pub mod connection;
pub mod debug;
pub mod dormouse;
pub mod forwarded;
pub mod functions;
pub mod himport;
pub mod hotkeys;
pub mod in_script;
pub mod info;
pub mod introspection;
pub mod latency;
pub mod lolwut;
pub mod memory;
pub mod pubsub;
pub mod replication;
pub mod scripting;
pub mod server;
pub mod transaction;
pub mod trigger;
pub mod usage;
pub mod waits;

use std::sync::LazyLock;

use dormouse_protocol::Reply;
use dormouse_shard::commands::Family;
use dormouse_shard::commands::scripting::host::set_directory;
use dormouse_shard::commands::write_help as help;
use dormouse_shard::error::Result;
use dormouse_shard::keyspace::Left;
use dormouse_storage::log::Lsn;

use crate::acl::catalogue::{Catalogue, Subject};
use crate::config::Access;
use crate::metering::CountedCommands;
use crate::rights::Rights;
use crate::session::Session;
use crate::table::{Answer, CommandEntry, CommandTable, SessionRun};

pub const FAMILIES: &[Family<SessionRun>] = &[
    connection::FAMILY,
    transaction::FAMILY,
    pubsub::FAMILY,
    scripting::FAMILY,
    functions::FAMILY,
    client::FAMILY,
    config::FAMILY,
    introspection::FAMILY,
    info::FAMILY,
    server::FAMILY,
    command_log::FAMILY,
    hotkeys::FAMILY,
    replication::FAMILY,
    cluster::FAMILY,
    himport::FAMILY,
    waits::FAMILY,
    debug::FAMILY,
    memory::FAMILY,
    lolwut::FAMILY,
    acl::FAMILY,
    dormouse::FAMILY,
];

/// Every command, found by name, also by scripts.
pub static TABLE: LazyLock<CommandTable> = LazyLock::new(|| {
    set_directory(in_script::find);
    CommandTable::new(FAMILIES)
});

/// The table's commands as the meters count them.
pub static COUNTED: LazyLock<CountedCommands> =
    LazyLock::new(|| CountedCommands { names: TABLE.entries().iter().map(|entry| &*entry.name).collect() });

/// The table's commands as rules of users name them.
pub static SUBJECTS: LazyLock<Catalogue> = LazyLock::new(|| {
    let subject = |entry: &CommandEntry| Subject {
        id: entry.id,
        row: entry.row,
        name: entry.name.clone(),
        categories: introspection::categories(entry),
        is_subcommand: entry.name.contains('|'),
        subcommands: entry.subcommands.clone(),
    };
    Catalogue::new(TABLE.entries().iter().map(subject).collect())
});

/// Returns the session's access to settings.
pub fn access(session: &Session) -> Access {
    if session.rights == Rights::Node { Access::Node } else { Access::Database }
}

/// The answer of a command that has waited for `outcome`.
fn answer<T: Send + 'static>(outcome: Result<T>, write: impl FnOnce(T, &mut Reply) + Send + 'static) -> Answer {
    let write = Box::new(move |reply: &mut Reply| match outcome {
        Ok(outcome) => write(outcome, reply),
        Err(error) => reply.error(&error.to_string()),
    });
    Answer { write, left: Left::default() }
}

/// The answer of a command that reports keys: it waits until the log is durable up to `awaited`.
fn tell(awaited: Lsn, write: impl FnOnce(&mut Reply) + Send + 'static) -> Answer {
    Answer { write: Box::new(write), left: Left { awaited, written: 0 } }
}

/// `now!(ping)` makes a row's run of `fn ping(session, reply, arguments)`; for a subcommand `now!(list, 2)` skips both
/// words of its name.
macro_rules! now {
    ($function:path) => {
        $crate::commands::now!($function, 1)
    };
    ($function:path, $skip:expr) => {
        $crate::table::SessionRun::Now($crate::commands::parsed!($function, $skip))
    };
}
pub(crate) use now;

/// Wraps `fn ping(session, reply, arguments)` so that its arguments are parsed from the request.
macro_rules! parsed {
    ($function:path, $skip:expr) => {{
        fn run(
            session: &mut $crate::session::Session,
            reply: &mut ::dormouse_protocol::Reply,
            request: ::dormouse_protocol::Request<'_>,
        ) -> ::dormouse_shard::error::Result<()> {
            $function(session, reply, ::dormouse_shard::commands::args::parse(request, $skip)?)
        }
        run as $crate::table::InTransaction
    }};
}
pub(crate) use parsed;

/// Like `parsed!`, for a command that has to wait: `fn info(session, arguments) -> Result<BoxFuture<'static, Answer>>`.
macro_rules! later {
    ($function:path) => {
        $crate::commands::later!($function, 1)
    };
    ($function:path, $skip:expr) => {{
        fn run(
            session: &mut $crate::session::Session,
            request: ::dormouse_protocol::Request<'_>,
        ) -> ::dormouse_shard::error::Result<::futures::future::BoxFuture<'static, $crate::table::Answer>> {
            $function(session, ::dormouse_shard::commands::args::parse(request, $skip)?)
        }
        $crate::table::SessionRun::Later(run)
    }};
}
pub(crate) use later;
