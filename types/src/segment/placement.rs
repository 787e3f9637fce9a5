//! The position of an entry, which never changes.
//!
//! A key's position is `slot (14 bits) ‖ hash (50 bits)`: the slot is Redis Cluster's, so that a run of slots is a run
//! of positions; the hash is keyed by the database's seed, so that an outsider cannot choose keys that collide. Members
//! and fields of a collection have no slot; all their 64 bits are hash.
//!
//! Positions are written to disk, so both functions are fixed for ever: CRC16/XMODEM and the portable version 3 of
//! rapidhash, with secrets derived from the seed as in [`hash`].

use memchr::memchr;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

/// Redis Cluster's number of slots.
pub const SLOTS: u16 = 1 << SLOT_BITS;

pub const SLOT_BITS: u32 = 14;

/// How entries are placed: keyed, and stable for ever.
pub trait Placement: Copy {
    fn position(&self, key: &[u8]) -> u64;
}

/// The keys of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPlacement {
    pub seed: u64,
}

impl Placement for SlotPlacement {
    #[inline]
    fn position(&self, key: &[u8]) -> u64 {
        u64::from(slot_of(key)) << (64 - SLOT_BITS) | hash(self.seed, key) >> SLOT_BITS
    }
}

/// The members or fields of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashPlacement {
    pub seed: u64,
}

impl Placement for HashPlacement {
    #[inline]
    fn position(&self, key: &[u8]) -> u64 {
        hash(self.seed, key)
    }
}

/// The slot of a key: of its hash tag if it has one, that is, of the text between the first `{` and the next `}` unless
/// it is empty.
#[inline]
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS
}

#[inline]
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    if may_have_tag(key) { find_tag(key) } else { None }
}

/// Whether a key has a `{`, as nearly none has. Eight bytes at a time: a call of `memchr` costs more for a short key.
#[inline]
fn may_have_tag(key: &[u8]) -> bool {
    const SHORT: usize = 32;
    let has_brace = |word: &[u8; 8]| {
        // A byte is zero exactly if subtracting one borrows into its top bit, which was clear.
        let zeroed = u64::from_le_bytes(*word) ^ u64::from_ne_bytes([b'{'; 8]);
        zeroed.wrapping_sub(u64::from_ne_bytes([1; 8])) & !zeroed & u64::from_ne_bytes([0x80; 8]) != 0
    };
    match key.last_chunk::<8>() {
        Some(last) if key.len() <= SHORT => has_brace(last) || key.as_chunks().0.iter().any(has_brace),
        Some(_) => true,
        None => key.contains(&b'{'),
    }
}

fn find_tag(key: &[u8]) -> Option<&[u8]> {
    let tagged = &key[memchr(b'{', key)? + 1..];
    let len = memchr(b'}', tagged)?;
    (len > 0).then(|| &tagged[..len])
}

/// rapidhash with published secrets has inputs that collide under every seed (a multiplication by zero swallows the
/// other half of the input), so each secret is mixed with the seed.
#[inline]
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut keyed = RapidSecrets::seed_cpp(seed);
    let mut turn = 0;
    while turn < keyed.secrets.len() {
        keyed.secrets[turn] ^= seed.rotate_left(9 * turn as u32 + 5);
        turn += 1;
    }
    rapidhash_v3_seeded(bytes, &keyed)
}

/// CRC16/XMODEM, eight bytes a step: `CRC[k][byte]` is the checksum of `byte` followed by k zeros, and a checksum is linear.
#[inline]
fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0u16;
    let mut steps = bytes.chunks_exact(8);
    for step in &mut steps {
        crc = CRC[7][usize::from(crc.to_be_bytes()[0] ^ step[0])]
            ^ CRC[6][usize::from(crc.to_be_bytes()[1] ^ step[1])]
            ^ CRC[5][usize::from(step[2])]
            ^ CRC[4][usize::from(step[3])]
            ^ CRC[3][usize::from(step[4])]
            ^ CRC[2][usize::from(step[5])]
            ^ CRC[1][usize::from(step[6])]
            ^ CRC[0][usize::from(step[7])];
    }
    for &byte in steps.remainder() {
        crc = crc << 8 ^ CRC[0][usize::from(crc.to_be_bytes()[0] ^ byte)];
    }
    crc
}

static CRC: [[u16; 256]; 8] = {
    const POLYNOMIAL: u16 = 0x1021;
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = crc << 1 ^ if crc >> 15 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = before << 8 ^ tables[0][(before >> 8) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_redis_clusters() {
        for (key, slot) in [
            ("", 0),
            ("123456789", 0x31c3),
            ("foo", 12182),
            ("bar", 5061),
            ("{user1000}.following", slot_of(b"user1000")),
            ("foo{}{bar}", crc16(b"foo{}{bar}") % SLOTS),
            ("foo{{bar}}zap", slot_of(b"{bar")),
            ("foo{bar}{zap}", 5061),
            ("foo{bar", crc16(b"foo{bar") % SLOTS),
            ("foo}bar{", crc16(b"foo}bar{") % SLOTS),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }

    /// Written once: data on disk are placed so. A change here means that they cannot be found.
    #[test]
    fn positions_never_change() {
        let long = "x".repeat(200);
        for (seed, key, position, hash) in [
            (0, "", 0xce3712f8b3b, 0x338dc4be2cecdae),
            (0, "a", 0xf21d667d1f7cce8b, 0x599f47df33a2e1eb),
            (0, "123456789", 0xc70df9f40cee5ae4, 0x7e7d033b96b916a1),
            (0x9e3779b97f4a7c15, "", 0x2ee2c0b32870d, 0xbb8b02cca1c36a53),
            (0x9e3779b97f4a7c15, "a", 0xf21d14a016e1a985, 0x452805b86a614237),
            (0x9e3779b97f4a7c15, "foo", 0xbe59cb58e63134be, 0x72d6398c4d2fbbd1),
            (0x9e3779b97f4a7c15, "key:000000000001", 0x8b723206d2b32019, 0x8c81b4acc8064101),
            (0x9e3779b97f4a7c15, "{user1000}.following", 0x35cee7105c994b14, 0xb9c4172652c5158b),
            (0x9e3779b97f4a7c15, "twenty-four bytes of key", 0xb91f081dd109e747, 0xc207744279d1d9ee),
            (
                1,
                "a key of more than sixteen, and of more than forty-eight bytes in all",
                0x9d65e7ed9a298b33,
                0x79fb668a62ccd854,
            ),
            (0xffffffffffffffff, &long, 0x98718929b63801a7, 0x624a6d8e0069f1b4),
        ] {
            assert_eq!(SlotPlacement { seed }.position(key.as_bytes()), position, "{key:?} with {seed:#x}");
            assert_eq!(HashPlacement { seed }.position(key.as_bytes()), hash, "{key:?} with {seed:#x}");
        }
    }

    /// The first half of these keys makes one factor of unkeyed rapidhash 0, whatever the seed; the other half then counts
    /// for nothing.
    #[test]
    fn published_secrets_make_no_collisions() {
        let mut key = [0u8; 16];
        key[..8].copy_from_slice(&0x8bb8_4b93_962e_acc9u64.to_le_bytes());
        let mut hashes: Vec<_> = (0..1000u64)
            .map(|number| {
                key[8..].copy_from_slice(&number.to_le_bytes());
                HashPlacement { seed: 0x5eed }.position(&key)
            })
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 1000);
    }

    #[test]
    fn a_step_of_eight_bytes_is_eight_steps_of_one() {
        let text: Vec<u8> = (0..100u8).map(|i| i.wrapping_mul(37) ^ 0xa5).collect();
        for end in 0..text.len() {
            let bytewise =
                text[..end].iter().fold(0u16, |crc, byte| crc << 8 ^ CRC[0][usize::from((crc >> 8) as u8 ^ byte)]);
            assert_eq!(crc16(&text[..end]), bytewise, "{end} bytes");
        }
    }
}
