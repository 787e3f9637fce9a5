//! HyperLogLogs: how many distinct elements were added, to within 0.81 %, in at most 12 KiB. They are kept in strings, byte
//! for byte as Redis keeps them.
//!
//! 1. The hash of an element says which of 16,384 **registers** it concerns, by its low 14 bits, and gives a **rank**: how
//!    many bits up to the first 1 of the others. A register keeps the highest rank that it has seen.
//! 2. From how many registers have each rank, the number of elements follows: Otmar Ertl, "New cardinality estimation
//!    algorithms for HyperLogLog sketches", 2017, algorithm 6. The result is cached in the header until a register rises.
//! 3. Registers are *sparse* (runs) while they are few, then *dense* (6 bits each).
//!
//! ```text
//! header, 16 bytes:  "HYLL" | 0 dense, 1 sparse | 3 unused | cached count, 8, little endian; its highest bit: not valid
//! dense:             register i in the 6 bits from bit 6 i on, bit 0 being the lowest of the first byte
//! sparse:            00 llllll            l + 1 registers are 0
//!                    01 llllll llllllll   l + 1 registers are 0
//!                    1 vvvvv ll           l + 1 registers are v + 1
//! ```

use std::array;

use crate::murmur::murmur64a;

pub const REGISTERS: usize = 1 << INDEX_BITS;
/// Most bytes of a sparse form: Redis's default for `hll-sparse-max-bytes`.
pub const SPARSE_BYTES_MAX: usize = 3000;

const INDEX_BITS: u32 = 14;
/// Ranks are from 1 to one more than the bits of a hash that are left.
const RANK_BITS: u32 = 64 - INDEX_BITS;

const HEADER: usize = 16;
const MAGIC: &[u8] = b"HYLL";
const FORM: usize = 4;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
const CACHE: usize = 8;
const STALE: u8 = 0x80;
/// Bytes of a dense form.
pub const DENSE_BYTES: usize = HEADER + REGISTERS * 6 / 8;

const ZEROS_MAX: usize = 64;
/// The highest rank and the longest run of a value in the sparse form.
const VALUE_MAX: u8 = 32;
const VALUES_MAX: usize = 4;
/// How many opcodes from the one before a change on are looked at for runs to be joined.
const JOINED_MAX: usize = 5;

/// A string whose header is a HyperLogLog's, but whose registers are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupted;

/// One without elements.
pub fn empty() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[SPARSE, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 7]);
    bytes.push(STALE);
    push_zeros(&mut bytes, REGISTERS);
    bytes
}

/// Whether the header, and the length of a dense one, are right. All functions below need that.
pub fn is_one(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER
        && bytes.starts_with(MAGIC)
        && match bytes[FORM] {
            DENSE => bytes.len() == DENSE_BYTES,
            form => form == SPARSE,
        }
}

pub fn is_dense(bytes: &[u8]) -> bool {
    bytes[FORM] == DENSE
}

/// Whether all registers can be read. A sparse form that passes is sound for all changes.
pub fn check(bytes: &[u8]) -> Result<(), Corrupted> {
    if is_dense(bytes) { Ok(()) } else { each_run(bytes, |_, _, _| {}) }
}

/// Adds an element to one that [`check`] has passed; whether a register rose. A sparse form that would have more than
/// `sparse_max` bytes becomes dense.
pub fn add(bytes: &mut Vec<u8>, element: &[u8], sparse_max: usize) -> bool {
    let (index, rank) = place(element);
    raise(bytes, index, rank, sparse_max)
}

/// Adds an element to a dense one; whether a register rose.
pub fn add_dense(bytes: &mut [u8], element: &[u8]) -> bool {
    let (index, rank) = place(element);
    let raised = raise_dense(bytes, index, rank);
    if raised {
        mark_stale(bytes);
    }
    raised
}

/// Raises a register of one that [`check`] has passed to `rank`, if it is lower; whether it was.
pub fn raise(bytes: &mut Vec<u8>, index: usize, rank: u8, sparse_max: usize) -> bool {
    let raised = match is_dense(bytes) {
        true => raise_dense(bytes, index, rank),
        false => raise_sparse(bytes, index, rank, sparse_max),
    };
    if raised {
        mark_stale(bytes);
    }
    raised
}

/// Forgets the cached count.
pub fn mark_stale(bytes: &mut [u8]) {
    bytes[CACHE + 7] |= STALE;
}

/// The cached count, if it still holds.
pub fn cached(bytes: &[u8]) -> Option<u64> {
    let count: [u8; 8] = array::from_fn(|i| bytes[CACHE + i]);
    (count[7] & STALE == 0).then(|| u64::from_le_bytes(count))
}

/// Makes one that [`check`] has passed dense; whether it was not.
pub fn make_dense(bytes: &mut Vec<u8>) -> bool {
    if is_dense(bytes) {
        return false;
    }
    let mut dense = vec![0; DENSE_BYTES];
    dense[..HEADER].copy_from_slice(&bytes[..HEADER]);
    dense[FORM] = DENSE;
    each_run(bytes, |first, len, value| (first..first + len).for_each(|index| set_dense(&mut dense, index, value)))
        .expect("the registers were checked");
    *bytes = dense;
    true
}

/// The sparse form as text: `Z:3` and `z:3` for zeros, `v:5,2` for two registers of 5.
pub fn describe_sparse(bytes: &[u8]) -> Result<String, Corrupted> {
    let mut words = Vec::new();
    each_opcode(bytes, |opcode, len, value| {
        words.push(match opcode {
            Opcode::Zeros => format!("z:{len}"),
            Opcode::ManyZeros => format!("Z:{len}"),
            Opcode::Values => format!("v:{value},{len}"),
        });
    })?;
    Ok(words.join(" "))
}

/// The highest rank of each register over several HyperLogLogs.
pub struct Registers(Box<[u8; REGISTERS]>);

impl Default for Registers {
    fn default() -> Self {
        Self(Box::new([0; REGISTERS]))
    }
}

impl Registers {
    pub fn of(bytes: &[u8]) -> Result<Self, Corrupted> {
        let mut registers = Self::default();
        registers.merge(bytes)?;
        Ok(registers)
    }

    pub fn merge(&mut self, bytes: &[u8]) -> Result<(), Corrupted> {
        if is_dense(bytes) {
            for (index, register) in self.0.iter_mut().enumerate() {
                *register = (*register).max(dense(bytes, index));
            }
            return Ok(());
        }
        let registers = &mut self.0;
        each_run(bytes, |first, len, value| {
            registers[first..first + len].iter_mut().for_each(|register| *register = (*register).max(value));
        })
    }

    /// Index and rank of each register that has one.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u8)> {
        self.0.iter().copied().enumerate().filter(|(_, rank)| *rank > 0)
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.0[..]
    }

    /// The estimate of the number of elements.
    pub fn count(&self) -> u64 {
        let mut histogram = [0u32; 64];
        self.0.iter().for_each(|rank| histogram[usize::from(*rank) % 64] += 1);
        estimate(&histogram)
    }
}

fn estimate(histogram: &[u32; 64]) -> u64 {
    /// 1 / (2 ln 2)
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let m = REGISTERS as f64;
    let highest = RANK_BITS as usize + 1;
    let mut z = m * tau((m - f64::from(histogram[highest])) / m);
    for rank in (1..highest).rev() {
        z += f64::from(histogram[rank]);
        z *= 0.5;
    }
    z += m * sigma(f64::from(histogram[0]) / m);
    (ALPHA * m * m / z).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

/// The register and the rank of an element.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur64a(element, 0xadc8_3b19);
    // A 1 above all bits of the hash bounds the rank.
    let rest = hash >> INDEX_BITS | 1 << RANK_BITS;
    ((hash as usize) % REGISTERS, rest.trailing_zeros() as u8 + 1)
}

// ---- dense ----------------------------------------------------------------------------------------------------------------

/// The two bytes that hold a register, the lower one first; the last register has no second byte.
fn pair(bytes: &[u8], index: usize) -> (usize, u16, u32) {
    let at = HEADER + index * 6 / 8;
    let high = bytes.get(at + 1).copied().unwrap_or(0);
    (at, u16::from_le_bytes([bytes[at], high]), (index * 6 % 8) as u32)
}

fn dense(bytes: &[u8], index: usize) -> u8 {
    let (_, pair, shift) = pair(bytes, index);
    (pair >> shift & 0x3f) as u8
}

fn set_dense(bytes: &mut [u8], index: usize, rank: u8) {
    let (at, pair, shift) = pair(bytes, index);
    let [low, high] = (pair & !(0x3f << shift) | u16::from(rank) << shift).to_le_bytes();
    bytes[at] = low;
    if let Some(byte) = bytes.get_mut(at + 1) {
        *byte = high;
    }
}

fn raise_dense(bytes: &mut [u8], index: usize, rank: u8) -> bool {
    let rises = rank > dense(bytes, index);
    if rises {
        set_dense(bytes, index, rank);
    }
    rises
}

// ---- sparse ---------------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Zeros,
    ManyZeros,
    Values,
}

/// The opcode at `at`: its kind, its registers, their value, its bytes. `None` where it is cut off, or at the end.
fn opcode(bytes: &[u8], at: usize) -> Option<(Opcode, usize, u8, usize)> {
    let first = *bytes.get(at)?;
    Some(match first >> 6 {
        0 => (Opcode::Zeros, usize::from(first & 0x3f) + 1, 0, 1),
        1 => {
            let second = *bytes.get(at + 1)?;
            (Opcode::ManyZeros, (usize::from(first & 0x3f) << 8 | usize::from(second)) + 1, 0, 2)
        }
        _ => (Opcode::Values, usize::from(first & 3) + 1, (first >> 2 & 0x1f) + 1, 1),
    })
}

/// Visits the opcodes, which must cover all registers exactly, so at most one per register.
fn each_opcode(bytes: &[u8], mut visit: impl FnMut(Opcode, usize, u8)) -> Result<(), Corrupted> {
    let (mut at, mut covered) = (HEADER, 0);
    while at < bytes.len() {
        let (opcode, len, value, size) = opcode(bytes, at).ok_or(Corrupted)?;
        covered += len;
        if covered > REGISTERS {
            return Err(Corrupted);
        }
        visit(opcode, len, value);
        at += size;
    }
    if covered == REGISTERS { Ok(()) } else { Err(Corrupted) }
}

/// Visits first register, number and value of each run.
fn each_run(bytes: &[u8], mut visit: impl FnMut(usize, usize, u8)) -> Result<(), Corrupted> {
    let mut first = 0;
    each_opcode(bytes, |_, len, value| {
        visit(first, len, value);
        first += len;
    })
}

fn push_zeros(bytes: &mut Vec<u8>, len: usize) {
    if len > ZEROS_MAX {
        bytes.extend_from_slice(&[0x40 | ((len - 1) >> 8) as u8, (len - 1) as u8]);
    } else if len > 0 {
        bytes.push((len - 1) as u8);
    }
}

fn push_values(bytes: &mut Vec<u8>, value: u8, len: usize) {
    if len > 0 {
        bytes.push(values(value, len));
    }
}

fn values(value: u8, len: usize) -> u8 {
    0x80 | (value - 1) << 2 | (len - 1) as u8
}

/// The opcode that covers the register is replaced by up to three: the registers before it, the register itself, the
/// registers after it. Then runs around are joined. A sparse form that becomes too long, or needs too high a rank,
/// becomes dense.
fn raise_sparse(bytes: &mut Vec<u8>, index: usize, rank: u8, sparse_max: usize) -> bool {
    if rank > VALUE_MAX {
        make_dense(bytes);
        return raise_dense(bytes, index, rank);
    }
    let (mut at, mut first, mut before) = (HEADER, 0, None);
    let (kind, len, value, size) = loop {
        let found = opcode(bytes, at).expect("the registers were checked");
        let (_, len, _, size) = found;
        if index < first + len {
            break found;
        }
        before = Some(at);
        (at, first) = (at + size, first + len);
    };
    if value >= rank {
        return false;
    }
    let mut parts = Vec::with_capacity(5);
    let (left, right) = (index - first, first + len - 1 - index);
    if kind == Opcode::Values {
        push_values(&mut parts, value, left);
        push_values(&mut parts, rank, 1);
        push_values(&mut parts, value, right);
    } else {
        push_zeros(&mut parts, left);
        push_values(&mut parts, rank, 1);
        push_zeros(&mut parts, right);
    }
    if parts.len() > size && bytes.len() + parts.len() - size > sparse_max {
        make_dense(bytes);
        return raise_dense(bytes, index, rank);
    }
    bytes.splice(at..at + size, parts);
    join(bytes, before.unwrap_or(HEADER));
    true
}

/// Joins neighbours of one value, near `at`, as far as a run may be long.
fn join(bytes: &mut Vec<u8>, mut at: usize) {
    for _ in 0..JOINED_MAX {
        let Some((kind, len, value, size)) = opcode(bytes, at) else { return };
        if kind == Opcode::Values
            && let Some((Opcode::Values, next_len, next_value, _)) = opcode(bytes, at + 1)
            && value == next_value
            && len + next_len <= VALUES_MAX
        {
            bytes[at + 1] = values(value, len + next_len);
            bytes.remove(at);
        } else {
            at += size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_redis() {
        // The bytes that Redis makes of `PFADD h a b c`.
        let mut bytes = empty();
        for element in ["a", "b", "c"] {
            assert!(add(&mut bytes, element.as_bytes(), SPARSE_BYTES_MAX));
        }
        assert!(!add(&mut bytes, b"b", SPARSE_BYTES_MAX));
        assert_eq!(Registers::of(&bytes).map(|registers| registers.count()), Ok(3));
        assert_eq!(describe_sparse(&bytes).unwrap(), DESCRIBED);
    }

    const DESCRIBED: &str = "Z:8436 v:1,1 Z:4274 v:2,1 Z:3068 v:1,1 Z:603";

    #[test]
    fn sparse_and_dense_are_the_same_registers() {
        let (mut sparse, mut reference) = (empty(), [0u8; REGISTERS]);
        let mut dense = empty();
        make_dense(&mut dense);
        for number in 0..40_000u32 {
            let element = number.to_string();
            let (index, rank) = place(element.as_bytes());
            let rises = rank > reference[index];
            reference[index] = reference[index].max(rank);
            assert_eq!(add(&mut sparse, element.as_bytes(), SPARSE_BYTES_MAX), rises);
            assert_eq!(add(&mut dense, element.as_bytes(), SPARSE_BYTES_MAX), rises);
            if number.is_multiple_of(97) {
                assert_eq!(check(&sparse), Ok(()));
                assert_eq!(Registers::of(&sparse).unwrap().as_slice(), reference);
                assert_eq!(Registers::of(&dense).unwrap().as_slice(), reference);
            }
            assert!(is_dense(&sparse) || sparse.len() <= SPARSE_BYTES_MAX);
        }
        assert!(is_dense(&sparse));
        let count = Registers::of(&sparse).unwrap().count();
        assert!(count.abs_diff(40_000) < 1_000, "{count}");
    }

    #[test]
    fn a_sparse_form_stays_within_its_limit() {
        for sparse_max in [0, 30, 500] {
            let mut bytes = empty();
            for number in 0..1000u32 {
                add(&mut bytes, &number.to_le_bytes(), sparse_max);
                assert!(is_dense(&bytes) || bytes.len() <= sparse_max.max(empty().len()), "{sparse_max}");
            }
            assert!(is_dense(&bytes), "{sparse_max}");
        }
    }

    #[test]
    fn what_is_not_whole_is_corrupted() {
        let sparse = |opcodes: &[u8]| [&empty()[..HEADER], opcodes].concat();
        for opcodes in [&[][..], &[0x7f], &[0x7f, 0xfe], &[0x7f, 0xff, 0], &[0x80], &[0x3f; 255], &[0xfc; 70_000]] {
            assert_eq!(check(&sparse(opcodes)), Err(Corrupted), "{} opcodes", opcodes.len());
        }
        assert_eq!(check(&sparse(&[0x3f; 256])), Ok(()));
        assert!(!is_one(b"HYLL"));
        assert!(!is_one(&[&b"HYLL\0\0\0\0"[..], &[0; 100]].concat()));
    }
}
