//! The rights of a connection. They come from its token, never from the name of its database.

/// The levels of rights. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// One branch: its keys, its settings, its statistics.
    Branch,
    /// A database, and making, seeing and deleting its branches.
    Database,
    /// The whole node: its end, settings that all databases share, and deleting databases that no token opens.
    Node,
}
