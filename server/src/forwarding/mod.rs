//! Clients whose database another node of the fleet serves.
//!
//! 1. A login leads to a database, which the directory knows ([`crate::databases::aim`]). The [fleet](crate::fleet) knows
//!    which node serves it.
//! 2. This node connects to that one, and [introduces](introduction) the client: `DORMOUSE FORWARDED secret address hops
//!    notes`. The notes are what the client has said on its connection so far. The login follows as the client sent it
//!    ([`link`]). A node that cannot be reached is looked for once more before the client gets an error ([`reach`]).
//! 3. A login that the other node refuses leaves the client where it is. After any other answer the connection belongs to
//!    the other node: from then on bytes are [copied](copying) both ways unread.
//! 4. Requests over HTTP are passed on one by one ([`heading`], [`http`]).
//!
//! A token is compared with the directory before it leaves this node. A password is known only to the node that has the
//! database, so such a login is forwarded unverified; this node bounds and delays those as it does logins for which it opens a
//! database itself. The other node neither delays nor limits what is forwarded.
//!
//! TLS of a client ends here. Between nodes the bytes are plain, so the network between them must be private.
//!
//! Invariants:
//!
//! - Nothing that a client sent runs twice: only a login, which may be repeated, is sent before the other node has taken the
//!   connection.
//! - A client is billed by the node that serves its database, and only there.
//! - A client is passed on [`HOPS_MAX`] times at most, whatever the nodes believe about each other.

pub mod copying;
pub mod heading;
pub mod http;
pub mod introduction;
pub mod link;
pub mod reach;

/// Most nodes that a client is passed on by.
pub const HOPS_MAX: u8 = 3;

/// Whether a node has shown the secret of the fleet. Takes equally long for a near miss and a far one.
pub fn is_secret(known: &str, shown: &[u8]) -> bool {
    !known.is_empty() && aws_lc_rs::constant_time::verify_slices_are_equal(known.as_bytes(), shown).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_counts() {
        for (known, shown, expected) in
            [("abc", "abc", true), ("abc", "abd", false), ("abc", "ab", false), ("abc", "", false), ("", "", false)]
        {
            assert_eq!(is_secret(known, shown.as_bytes()), expected, "{known} {shown}");
        }
    }
}
