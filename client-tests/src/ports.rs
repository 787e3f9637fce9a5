//! Ports for servers of tests.
//!
//! A port that the system chooses may be given away again before a server listens on it, or while the server restarts: to
//! another test program, or to a connection that begins at it. These ports are below those that Linux chooses from, and a
//! process locks the block that it takes them from. No port is returned twice.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

const FIRST: u16 = 10_000;
/// Linux chooses from 32768 on.
const END: u16 = 32_000;
const BLOCK: u16 = 50;

/// The blocks that this process has, and the next port of the last.
static TAKEN: Mutex<(Vec<File>, u16)> = Mutex::new((Vec::new(), FIRST));

/// Returns a port of the loopback address that is free, and remains so until the server of this process uses it.
///
/// # Panics
/// When all ports are taken.
pub fn free_port() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (blocks, next) = &mut *taken;
    loop {
        if next.is_multiple_of(BLOCK) {
            let (block, first) = lock_block(*next).expect("no test needs all ports");
            blocks.push(block);
            *next = first;
        }
        let port = *next;
        *next += 1;
        // A server that does not belong to any test may have it.
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Locks the first free block from a port on. Returns it with its first port.
fn lock_block(from: u16) -> Option<(File, u16)> {
    let folder = std::env::temp_dir().join("dormouse-test-ports");
    std::fs::create_dir_all(&folder).expect("a folder for locks");
    (from..END).step_by(BLOCK.into()).find_map(|first| {
        // The file of another user cannot be opened, which is as good as locked.
        let file = OpenOptions::new().create(true).append(true).open(folder.join(first.to_string())).ok()?;
        file.try_lock().ok().map(|()| (file, first + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_locked_and_ports_differ() {
        let ports: Vec<u16> = (0..2 * BLOCK).map(|_| free_port()).collect();
        assert!(ports.windows(2).all(|pair| pair[0] < pair[1]) && ports.iter().all(|port| (FIRST..END).contains(port)));
        let (_, first) = lock_block(FIRST).expect("free blocks");
        assert!(TAKEN.lock().unwrap().1 < first, "a block is given away twice");
    }
}
