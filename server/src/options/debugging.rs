//! Whether clients may send `DEBUG`.

use std::fmt;

use clap::ValueEnum;

/// Redis's `enable-debug-command`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DebugCommand {
    /// No client may
    #[default]
    No,
    /// Clients on this machine may
    Local,
    /// All clients may, each for its own database
    Yes,
}

impl fmt::Display for DebugCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::Local => "local",
            Self::Yes => "yes",
        })
    }
}
