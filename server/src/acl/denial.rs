//! Denials of commands, keys and channels, and their texts.

use dormouse_protocol::Request;

use super::catalogue::Subject;
use super::security_log::DenialReason;

/// The reason why a user may not run a request. A later reason says more than an earlier one: of several selectors, the
/// one that permits most is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denial {
    /// The command itself.
    Command,
    /// The key that is argument number so.
    Key(usize),
    /// The channel that is argument number so.
    Channel(usize),
    /// The logical database that it uses.
    Database,
    /// Keys that the request does not name; the text of the command's error.
    UnnamedKeys(&'static str),
}

impl Denial {
    /// The reason that `ACL LOG` gives; none for what it does not log.
    pub fn reason(self) -> Option<DenialReason> {
        match self {
            Self::Command => Some(DenialReason::Command),
            Self::Key(_) => Some(DenialReason::Key),
            Self::Channel(_) => Some(DenialReason::Channel),
            Self::Database => Some(DenialReason::Database),
            Self::UnnamedKeys(_) => None,
        }
    }

    /// The argument of the request that was denied; none where it is the command.
    pub fn argument(self) -> Option<usize> {
        match self {
            Self::Key(index) | Self::Channel(index) => Some(index),
            Self::Command | Self::Database | Self::UnnamedKeys(_) => None,
        }
    }

    /// The error reply, with its code.
    pub fn reply(self, user: &[u8], subject: &Subject) -> String {
        match self {
            Self::UnnamedKeys(text) => text.to_string(),
            denial => format!("NOPERM {}", denial.text(user, subject)),
        }
    }

    /// The same for a command of a script.
    pub fn text(self, user: &[u8], subject: &Subject) -> String {
        match self {
            Self::Command => {
                let user = String::from_utf8_lossy(user);
                format!("User {user} has no permissions to run the '{}' command", subject.name)
            }
            Self::Key(_) => "No permissions to access a key".to_string(),
            Self::Channel(_) => "No permissions to access a channel".to_string(),
            Self::Database => "No permissions to access database".to_string(),
            Self::UnnamedKeys(text) => text.to_string(),
        }
    }

    /// The reply of `ACL DRYRUN`.
    pub fn verbose(self, user: &[u8], subject: &Subject, request: Request<'_>) -> Vec<u8> {
        let (index, kind): (usize, &[u8]) = match self {
            Self::Key(index) => (index, b"key"),
            Self::Channel(index) => (index, b"channel"),
            denial => return denial.text(user, subject).into_bytes(),
        };
        [b"User ", user, b" has no permissions to access the '", request.arg(index), b"' ", kind].concat()
    }

    /// The reply to a command of a transaction that was permitted when it was queued.
    pub fn changed_reply(self, user: &[u8], subject: &Subject) -> String {
        let reason = match self {
            Self::Command => "no permission to execute the command or subcommand",
            Self::Key(_) => "no permission to touch the specified keys",
            Self::Channel(_) => "no permission to access one of the channels used as arguments",
            Self::Database => "no permission to access the database",
            Self::UnnamedKeys(_) => return self.reply(user, subject),
        };
        format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no longer allowed for the following reason: {reason}"
        )
    }
}
