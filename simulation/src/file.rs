//! One file on the simulated disk.
//!
//! A file has two contents: the one that programs see, and the durable one. A sync that succeeds makes them equal. One
//! that fails may have written any sectors, and the system forgets that the others still had to be written: a later
//! sync of the same file says nothing about them. A power cut leaves the durable content, any of the other sectors, and
//! zeros.

use crate::chance::Chance;

const SECTOR_BYTES: usize = 512;

/// A file of the log.
#[derive(Debug, Clone, Default)]
pub struct LogFile {
    /// The content that programs see.
    pub seen: Vec<u8>,
    pub durable: Vec<u8>,
    /// Sectors that a failed sync has given up.
    pub lost: Vec<usize>,
    /// Whether its name survives a power cut.
    pub has_name: bool,
}

impl LogFile {
    pub fn sync(&mut self) {
        let mut durable = self.seen.clone();
        for &sector in &self.lost {
            let (from, to) = (sector * SECTOR_BYTES, ((sector + 1) * SECTOR_BYTES).min(durable.len()));
            for (byte, at) in durable[from.min(to)..to].iter_mut().zip(from..) {
                *byte = self.durable.get(at).copied().unwrap_or(0);
            }
        }
        self.durable = durable;
    }

    /// Returns the sectors whose seen content differs from the durable one.
    fn unsynced(&self) -> Vec<usize> {
        let sectors = self.seen.len().max(self.durable.len()).div_ceil(SECTOR_BYTES);
        let of = |bytes: &[u8], sector: usize| {
            let from = (sector * SECTOR_BYTES).min(bytes.len());
            bytes[from..(from + SECTOR_BYTES).min(bytes.len())].to_vec()
        };
        (0..sectors).filter(|&sector| of(&self.seen, sector) != of(&self.durable, sector)).collect()
    }

    fn write_sector(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.seen.len());
        if from < to {
            if self.durable.len() < to {
                self.durable.resize(to, 0);
            }
            self.durable[from..to].copy_from_slice(&self.seen[from..to]);
        }
    }

    pub fn fail_sync(&mut self, chance: &mut Chance) {
        for sector in self.unsynced() {
            if chance.permille(500) {
                self.write_sector(sector);
            } else {
                self.lost.push(sector);
            }
        }
    }

    /// Cuts the power. Returns how many sectors are lost.
    pub fn cut_power(&mut self, chance: &mut Chance) -> usize {
        let (mut lost, odds) = (0, chance.pick(&[0, 300, 700, 1000]));
        for sector in self.unsynced() {
            if chance.permille(odds) {
                self.write_sector(sector);
            } else {
                lost += 1;
            }
        }
        self.seen = self.durable.clone();
        self.lost.clear();
        self.has_name = true;
        lost
    }
}
