//! `dormouse store`: what is done with a store as a whole.

use dormouse_importer::output::print_line;
use dormouse_storage::store::{Store, StoreError, encryption};
use futures::executor::block_on;

use super::master_key::{MasterKeyArgument, access, read_master_key};
use super::{Failure, check_is_no_file, open_to_read, store_url};

#[derive(clap::Args, Debug)]
pub struct StoreArguments {
    #[command(subcommand)]
    action: StoreAction,
}

#[derive(clap::Subcommand, Debug)]
enum StoreAction {
    /// Change the master key of an encrypted store. No data is written again. A server that has a folder open must be stopped;
    /// beside one that uses a bucket it may be done at any time
    RotateKey(RotateKey),
}

#[derive(clap::Args, Debug)]
struct RotateKey {
    /// Where the data or the backups are stored, as for `serve` [default: DORMOUSE_STORE, or file://./dormouse-data]
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    #[command(flatten)]
    master_key: MasterKeyArgument,

    /// The master key from now on: file:PATH, env:NAME or command:COMMAND
    #[arg(long, value_name = "KEY")]
    new_master_key: String,
}

impl StoreArguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.action {
            StoreAction::RotateKey(rotate) => rotate.run(),
        }
    }
}

impl RotateKey {
    fn run(self) -> Result<(), Failure> {
        let url = store_url(self.store.as_deref());
        let master_key = self.master_key.read()?;
        let new = read_master_key("--new-master-key", &self.new_master_key)?;
        check_is_no_file(&url)?;
        // A store that is not encrypted must not become so.
        if !open_to_read(&url, master_key.as_ref())?.is_encrypted() {
            return Err("the store is not encrypted; nothing was changed".to_owned().into());
        }
        let store = Store::open_with(&url, access(master_key.as_ref())).map_err(|error| match error {
            StoreError::Locked { .. } => format!("{error}: stop the server first"),
            error => error.to_string(),
        })?;
        let old_root = block_on(encryption::rotate(&store, &new)).map_err(|error| match error {
            StoreError::Unavailable { .. } => {
                format!("{error}: either master key may open the store now; try the new one first")
            }
            error => error.to_string(),
        })?;
        print_line("the store opens with the new master key from now on; the old one is not needed any more")?;
        match old_root {
            None => Ok(()),
            Some(error) => Err(format!(
                "the root key as the old master key has wrapped it was not deleted ({error}): the next start of the server \
                 deletes it"
            )
            .into()),
        }
    }
}
