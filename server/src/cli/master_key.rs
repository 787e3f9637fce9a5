//! The option `--master-key` of the tools.

use dormouse_storage::store::{MasterKey, StoreAccess};

use super::Failure;

/// The variable that stands for the option.
const VARIABLE: &str = "DORMOUSE_MASTER_KEY";

/// The master key, unless it is in the environment.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct MasterKeyArgument {
    /// The master key of an encrypted store, as for `serve`: file:PATH, env:NAME or command:COMMAND [default:
    /// DORMOUSE_MASTER_KEY]
    #[arg(long, value_name = "KEY")]
    master_key: Option<String>,
}

impl MasterKeyArgument {
    /// Reads the key.
    pub(super) fn read(&self) -> Result<Option<MasterKey>, Failure> {
        let by_environment = || std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
        match self.master_key.clone().or_else(by_environment) {
            Some(text) => read_master_key("--master-key or DORMOUSE_MASTER_KEY", &text).map(Some),
            None => Ok(None),
        }
    }
}

/// Reads the master key that `option` names as `text`.
pub(super) fn read_master_key(option: &str, text: &str) -> Result<MasterKey, Failure> {
    MasterKey::parse(text).map_err(|problem| format!("invalid value for {option}: {problem}").into())
}

/// How a store with this key is opened.
pub(super) fn access(master_key: Option<&MasterKey>) -> StoreAccess<'_> {
    StoreAccess { master_key, ..StoreAccess::default() }
}
