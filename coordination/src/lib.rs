//! Which nodes of a fleet are alive, as a coordinator says.
//!
//! A process [joins](Membership::join) with a name, and keeps a key in the coordinator alive by a lease. All processes watch
//! these keys, so each has a recent list of the others. The coordinator also keeps a secret that all nodes share, and numbers
//! that only grow, by which nodes tell each other to look for something new.
//!
//! # Invariants
//!
//! 1. **Nothing here decides who may write.** The bucket does. A list of members may be old, and two processes may believe
//!    that they have one name; this costs time, never data.
//! 2. **A process gives up before the coordinator gives its lease away.** [`Membership::lease_end_ms`] is counted from the
//!    moment at which the last answered keepalive was sent, less a margin, on the process's own monotonic clock. A process that
//!    was stopped and goes on compares its clock with that number, and finds it past.
//! 3. **The newest process of a name has the key.** An older one learns that it was [replaced](Standing::replaced_by), and does
//!    not take the key back.
//! 4. **A coordinator that fails after the start costs only time.** Every request has a limit, connections are made again with
//!    growing pauses, and the last list is kept.
//! 5. **A quiet fleet writes nothing.** A keepalive is no write for etcd.
//!
//! # Keys in etcd
//!
//! | key | value | lifetime |
//! | --- | --- | --- |
//! | `PREFIX/nodes/NAME` | a [`FleetMember`] in JSON | the lease of its process |
//! | `PREFIX/secret` | 64 hexadecimal digits | for ever |
//! | `PREFIX/topics/TOPIC` | a decimal number of 20 digits, so that etcd compares it as a text | for ever |
//!
//! etcd is spoken to over its JSON gateway, which every member serves on its client port. The client library for its gRPC
//! needs the protobuf compiler wherever it is built.

#![forbid(unsafe_code)]

mod error;
mod etcd;
mod follow;
mod keys;
mod member;
mod membership;
mod pause;
mod secret;
mod standing;
mod tenure;
mod url;
mod view;

pub use error::CoordinationError;
pub use member::{FleetMember, FleetMembers};
pub use membership::Membership;
pub use standing::Standing;
pub use url::ClusterUrl;
