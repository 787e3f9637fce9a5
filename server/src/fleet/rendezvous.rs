//! The node that takes a free database: every node finds the same one without asking.
//!
//! Each member draws a number from its own name and the database's, and the highest one wins (rendezvous hashing). So a
//! member that comes or goes changes the answer only for databases that it wins or has won.

use std::sync::Arc;

use dormouse_coordination::{FleetMember, FleetMembers};
use twox_hash::XxHash64;

/// The member that takes a free database: none that is draining, unless all are.
pub fn chosen(database: &str, members: &FleetMembers) -> Option<Arc<FleetMember>> {
    let highest = |among: &mut dyn Iterator<Item = &Arc<FleetMember>>| {
        among.max_by_key(|member| (draw(database, &member.name), member.name.clone())).cloned()
    };
    highest(&mut members.iter().filter(|member| !member.is_draining)).or_else(|| highest(&mut members.iter()))
}

fn draw(database: &str, node: &str) -> u64 {
    let mut drawn = Vec::with_capacity(database.len() + node.len() + 1);
    drawn.extend_from_slice(node.as_bytes());
    drawn.push(0);
    drawn.extend_from_slice(database.as_bytes());
    XxHash64::oneshot(0, &drawn)
}
