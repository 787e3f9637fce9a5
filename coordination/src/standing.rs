//! The standing of this process with the coordinator.

/// The losses and replacements of this process so far. Numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Number of leases of this process that the coordinator has declared ended. After each, another node may have adopted the
    /// databases of this one: the object store says.
    pub leases_lost: u64,
    /// The writer of a newer process that has joined under the same name. This is final: the process does not serve any more.
    pub replaced_by: Option<u64>,
    /// Whether the process has left on its own account.
    pub has_left: bool,
}
