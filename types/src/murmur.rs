//! MurmurHash2 and MurmurHash64A, by Austin Appleby, in the public domain: <https://github.com/aappleby/smhasher>
//!
//! HyperLogLogs and filters come from other servers with bits that these hashes chose, so no other hash would do.

const M: u64 = 0xc6a4_a793_5bd1_e995;
const M_32: u32 = 0x5bd1_e995;

/// The hash of 64 bits.
pub(crate) fn murmur64a(bytes: &[u8], seed: u64) -> u64 {
    const R: u32 = 47;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = (hash ^ k.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ hash >> R).wrapping_mul(M);
    hash ^ hash >> R
}

/// The hash of 32 bits.
pub(crate) fn murmur32(bytes: &[u8], seed: u32) -> u32 {
    let mut hash = seed ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M_32);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M_32) ^ k.wrapping_mul(M_32);
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(M_32);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M_32);
    hash ^ hash >> 15
}
