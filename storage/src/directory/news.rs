//! Outcomes of a step, and changes that are to be applied.

use super::format::DirectoryChange;

/// Durable changes that the caller has to apply, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectoryNews {
    /// Whether they are the whole directory: a record that they do not put is gone.
    pub is_whole: bool,
    pub changes: Vec<DirectoryChange>,
}

impl DirectoryNews {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        !self.is_whole && self.changes.is_empty()
    }
}

impl From<Vec<DirectoryChange>> for DirectoryNews {
    fn from(changes: Vec<DirectoryChange>) -> Self {
        Self { is_whole: false, changes }
    }
}

/// The outcome of an attempt to make changes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryCommit {
    /// They are. The news come before them: a late step of an earlier process, or an own one that had failed.
    Made { news: DirectoryNews, changes: Vec<DirectoryChange> },
    /// Nothing was written, since other steps came first. The changes have to be decided again.
    Overtaken(DirectoryNews),
}
