//! The subcommands that are tools: they run to completion, with or without a running server.

mod admin;
mod backup;
mod check;
mod client;
mod db;
mod export;
mod import;
mod invocation;
mod master_key;
mod nodes;
mod restore;
mod shell;
mod sidecar;
mod store;
mod table;
mod tls;
mod triggers;
mod unrepeated;
mod usage;

use std::process::ExitCode;
use std::sync::Arc;

use dormouse_importer::output::print_error;
use dormouse_storage::store::{MasterKey, Store, StoreAccess, StoreError};
use futures::executor::block_on;

#[cfg(test)]
pub(crate) use self::invocation::CommandLine;
pub use self::invocation::{Invocation, version};

/// The failure of a tool: its message and its exit code.
#[derive(Debug)]
struct Failure {
    text: String,
    code: u8,
}

/// Exit code of a tool that finds no store.
const NO_STORE: u8 = 2;

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, code: 1 }
    }
}

/// A subcommand that does something and ends.
#[derive(clap::Subcommand, Debug)]
pub enum Tool {
    /// Copy databases into another bucket or folder, what has changed since the last time; list and delete such copies
    Backup(Box<backup::Backup>),
    /// Check that all data in a store can be read, or write what can be read of a database into an RDB file
    Check(check::Check),
    /// Make, list, branch, delete, show, put to sleep and wake the databases of a running server, and their tokens
    Db(Box<db::Db>),
    /// Write a database into an RDB file, which Redis and Valkey load
    Export(export::Export),
    /// Read an RDB file into a database, or move in from a running Redis or Valkey
    Import(Box<import::ImportArguments>),
    /// List, show and drain the nodes of a fleet
    Node(nodes::NodeArguments),
    /// Serve clients on this machine over few connections to a server elsewhere, and keep replies near
    Sidecar(Box<sidecar::Sidecar>),
    /// Bring databases back from a backup, into a store that no server has open
    Restore(restore::RestoreArguments),
    /// Change the master key of an encrypted store
    Store(store::StoreArguments),
}

impl Tool {
    pub fn run(self) -> ExitCode {
        let done = match self {
            Tool::Backup(backup) => backup.run(),
            Tool::Db(db) => db.run().map(|()| ExitCode::SUCCESS).map_err(Failure::from),
            Tool::Check(check) => check.run(),
            Tool::Export(export) => export.run().map(|()| ExitCode::SUCCESS),
            Tool::Import(import) => import.run().map(|()| ExitCode::SUCCESS),
            Tool::Node(node) => node.run().map(|()| ExitCode::SUCCESS).map_err(Failure::from),
            Tool::Sidecar(sidecar) => sidecar.run().map(|()| ExitCode::SUCCESS),
            Tool::Restore(restore) => restore.run(),
            Tool::Store(store) => store.run().map(|()| ExitCode::SUCCESS),
        };
        match done {
            Ok(code) => code,
            Err(Failure { text, code }) => {
                print_error(&format!("dormouse: {text}"));
                ExitCode::from(code)
            }
        }
    }
}

/// Opens an existing store, for a tool that only reads.
fn open_to_read(url: &str, master_key: Option<&MasterKey>) -> Result<Arc<Store>, Failure> {
    open_to_read_with(url, master_key::access(master_key))
}

/// The same with variables of its own too.
fn open_to_read_with(url: &str, access: StoreAccess<'_>) -> Result<Arc<Store>, Failure> {
    check_is_no_file(url)?;
    let none = || Failure {
        text: format!("no Dormouse store here: {url} has no database and no log; nothing was changed"),
        code: NO_STORE,
    };
    let store = match Store::open_read_only_with(url, access) {
        Ok(store) => Arc::new(store),
        Err(StoreError::Folder { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Err(none());
        }
        Err(error) => return Err(error.to_string().into()),
    };
    match block_on(store.is_dormouse()) {
        Ok(true) => Ok(store),
        Ok(false) => Err(none()),
        Err(error) => Err(error.to_string().into()),
    }
}

/// Refuses a URL that names a file where a store has its folder.
fn check_is_no_file(url: &str) -> Result<(), Failure> {
    let path = url.strip_prefix("file://").map(std::path::Path::new);
    match path.is_some_and(|path| path.exists() && !path.is_dir()) {
        true => Err(Failure {
            text: format!("no Dormouse store here: {url} is a file, and a store is a folder; nothing was changed"),
            code: NO_STORE,
        }),
        false => Ok(()),
    }
}

/// Whether a file does not count as data: the system or the user keeps such files in every folder.
fn is_no_data(name: &std::ffi::OsStr) -> bool {
    name == "lost+found" || name == "lock" || name.as_encoded_bytes().starts_with(b".")
}

/// Refuses a folder that holds something other than a store: a tool must not mix its objects with other files. An empty
/// or missing folder becomes a store.
fn check_is_store_or_empty(url: &str, master_key: Option<&MasterKey>) -> Result<(), Failure> {
    check_is_no_file(url)?;
    let Some(folder) = url.strip_prefix("file://").map(std::path::Path::new) else { return Ok(()) };
    let Ok(mut entries) = std::fs::read_dir(folder) else { return Ok(()) };
    match entries.any(|entry| entry.is_ok_and(|entry| !is_no_data(&entry.file_name()))) {
        true => open_to_read(url, master_key).map(drop).map_err(|failure| match failure.code {
            NO_STORE => Failure {
                text: format!(
                    "no Dormouse store here: {url} holds other files; name an empty folder, or one that is not there"
                ),
                ..failure
            },
            _ => failure,
        }),
        false => Ok(()),
    }
}

/// Where the data is and in which database, for tools that work on the store.
#[derive(clap::Args, Clone, Debug)]
struct ServedAt {
    /// The database
    #[arg(long, value_name = "NAME", default_value = crate::options::DEFAULT_DATABASE,
          value_parser = parse_database)]
    database: String,

    /// Where the data is stored, as for `serve` [default: DORMOUSE_STORE, or file://./dormouse-data]
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    #[command(flatten)]
    master_key: master_key::MasterKeyArgument,
}

impl ServedAt {
    fn store_url(&self) -> String {
        store_url(self.store.as_deref())
    }
}

fn store_url(given: Option<&str>) -> String {
    let by_environment = || std::env::var("DORMOUSE_STORE").ok().filter(|url| !url.is_empty());
    given.map(str::to_owned).or_else(by_environment).unwrap_or_else(|| "file://./dormouse-data".to_owned())
}

fn parse_database(name: &str) -> Result<String, String> {
    crate::options::check_full_name(name).map(|()| name.to_owned())
}
