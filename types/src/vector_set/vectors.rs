//! The vectors of a set: scaled to length 1, and quantized.
//!
//! | quantization | component | beside it |
//! | --- | --- | --- |
//! | none | f32 | |
//! | Q8 | i8: 127 stands for the *range*, the greatest magnitude in the vector | the range, f32 |
//! | binary | a bit, 1 if it is positive; in words of 64 | |
//!
//! The length before scaling, the *norm*, is kept with the node, so that a vector can be given back.

use super::distance;
use super::slab::Slab;
use crate::entry::{CACHE_LINE, prefetch};

/// The form in which a set keeps its vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    None,
    Q8,
    Binary,
}

impl Quantization {
    /// Redis's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "f32",
            Self::Q8 => "int8",
            Self::Binary => "bin",
        }
    }

    /// The bytes of a vector with so many components.
    pub fn vector_bytes(self, dim: u32) -> usize {
        let dim = dim as usize;
        match self {
            Self::None => dim * size_of::<f32>(),
            Self::Q8 => dim,
            Self::Binary => dim.div_ceil(64) * size_of::<u64>(),
        }
    }
}

/// A vector that is on its way into a set, or compared with those in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Vector {
    Floats(Vec<f32>),
    Bytes(Vec<i8>, f32),
    Bits(Vec<u64>),
}

/// A vector in a set. That of bytes has its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum VectorRef<'a> {
    Floats(&'a [f32]),
    Bytes(&'a [i8], f32),
    Bits(&'a [u64]),
}

impl Vector {
    /// Scales and quantizes a vector; returns its norm, too.
    pub fn new(components: &[f32], quantization: Quantization) -> (Self, f32) {
        let (scaled, norm) = normalized(components);
        let vector = match quantization {
            Quantization::None => Self::Floats(scaled),
            Quantization::Q8 => quantized(&scaled),
            Quantization::Binary => {
                let word = |part: &[f32]| part.iter().rev().fold(0, |word, x| word << 1 | u64::from(*x > 0.0));
                Self::Bits(scaled.chunks(64).map(word).collect())
            }
        };
        (vector, norm)
    }

    /// A vector from its stored bytes, little-endian; `None` if there are more or fewer.
    pub fn from_bytes(bytes: &[u8], range: f32, quantization: Quantization, dim: u32) -> Option<Self> {
        if bytes.len() != quantization.vector_bytes(dim) {
            return None;
        }
        Some(match quantization {
            Quantization::None => {
                Self::Floats(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            Quantization::Q8 => Self::Bytes(bytes.iter().map(|byte| byte.cast_signed()).collect(), range),
            Quantization::Binary => {
                Self::Bits(bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
            }
        })
    }

    pub fn as_ref(&self) -> VectorRef<'_> {
        match self {
            Self::Floats(floats) => VectorRef::Floats(floats),
            Self::Bytes(bytes, range) => VectorRef::Bytes(bytes, *range),
            Self::Bits(bits) => VectorRef::Bits(bits),
        }
    }

    /// Whether all numbers in it are such as [`Self::new`] makes: with others, distances may be no numbers.
    pub fn is_sound(&self, dim: u32) -> bool {
        const MOST: f32 = 2.0;
        match self {
            Self::Floats(floats) => floats.iter().all(|x| x.abs() <= MOST),
            Self::Bytes(_, range) => range.abs() <= MOST,
            Self::Bits(bits) => match dim % 64 {
                0 => true,
                used => bits.last().is_none_or(|word| word >> used == 0),
            },
        }
    }
}

impl VectorRef<'_> {
    /// The distance of two vectors of a set. Those of different forms are as far from each other as can be.
    #[inline]
    pub(super) fn distance(self, other: VectorRef<'_>, dim: u32) -> f32 {
        match (self, other) {
            (VectorRef::Bytes(one, range), VectorRef::Bytes(other, other_range)) => {
                distance::of_bytes(one, other, (range, other_range))
            }
            (VectorRef::Floats(one), VectorRef::Floats(other)) => distance::of_floats(one, other),
            (VectorRef::Bits(one), VectorRef::Bits(other)) => distance::of_bits(one, other, dim as usize),
            _ => 2.0,
        }
    }

    /// The components as they were given, as far as they are known.
    pub fn components(self, norm: f32, dim: u32) -> Vec<f32> {
        match self {
            VectorRef::Floats(floats) => floats.iter().map(|x| x * norm).collect(),
            VectorRef::Bytes(bytes, range) => bytes.iter().map(|x| f32::from(*x) * range / 127.0 * norm).collect(),
            VectorRef::Bits(bits) => {
                let sign = |at: usize| if bits[at / 64] >> (at % 64) & 1 == 1 { 1.0 } else { -1.0 };
                (0..dim as usize).map(sign).collect()
            }
        }
    }

    /// Appends the stored bytes, little-endian.
    pub fn append_to(self, out: &mut Vec<u8>) {
        match self {
            VectorRef::Floats(floats) => floats.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
            VectorRef::Bytes(bytes, _) => out.extend(bytes.iter().map(|x| x.cast_unsigned())),
            VectorRef::Bits(bits) => bits.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes())),
        }
    }

    /// The value that 127 stands for; 0 where components are not bytes.
    pub fn range(self) -> f32 {
        match self {
            VectorRef::Bytes(_, range) => range,
            VectorRef::Floats(_) | VectorRef::Bits(_) => 0.0,
        }
    }
}

/// A vector of length 1, and the length that it had; zeros stay as they are. The sum is made in the order that Redis uses.
fn normalized(components: &[f32]) -> (Vec<f32>, f32) {
    let (fours, rest) = components.as_chunks::<4>();
    let mut sum = 0.0f32;
    fours.iter().for_each(|x| sum += x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3]);
    rest.iter().for_each(|x| sum += x * x);
    if sum == 0.0 {
        return (components.to_vec(), 1.0);
    }
    let norm = sum.sqrt();
    if !norm.is_finite() {
        // It has no direction that floats could say.
        return (vec![0.0; components.len()], norm);
    }
    (components.iter().map(|x| x / norm).collect(), norm)
}

fn quantized(scaled: &[f32]) -> Vector {
    let range = scaled.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    if range == 0.0 {
        return Vector::Bytes(vec![0; scaled.len()], 0.0);
    }
    let scale = 127.0 / range;
    Vector::Bytes(scaled.iter().map(|x| (x * scale).round() as i8).collect(), range)
}

/// The vectors of all nodes.
#[derive(Clone, Debug)]
pub(super) enum Vectors {
    Floats(Slab<f32>),
    Bytes { components: Slab<i8>, ranges: Slab<f32> },
    Bits(Slab<u64>),
}

impl Vectors {
    pub fn new(quantization: Quantization, dim: u32) -> Self {
        let dim = dim as usize;
        match quantization {
            Quantization::None => Self::Floats(Slab::new(dim)),
            Quantization::Q8 => Self::Bytes { components: Slab::new(dim), ranges: Slab::new(1) },
            Quantization::Binary => Self::Bits(Slab::new(dim.div_ceil(64))),
        }
    }

    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Floats(floats) => floats.heap_bytes(),
            Self::Bytes { components, ranges } => components.heap_bytes() + ranges.heap_bytes(),
            Self::Bits(bits) => bits.heap_bytes(),
        }
    }

    /// The bytes that one more vector adds to the allocations.
    pub fn growth(&self) -> usize {
        match self {
            Self::Floats(floats) => floats.growth(),
            Self::Bytes { components, ranges } => components.growth() + ranges.growth(),
            Self::Bits(bits) => bits.growth(),
        }
    }

    #[inline]
    pub fn get(&self, id: u32) -> VectorRef<'_> {
        match self {
            Self::Bytes { components, ranges } => VectorRef::Bytes(components.get(id), ranges.get(id)[0]),
            Self::Floats(floats) => VectorRef::Floats(floats.get(id)),
            Self::Bits(bits) => VectorRef::Bits(bits.get(id)),
        }
    }

    /// Prefetches the beginning of a vector; the processor continues by itself.
    #[inline]
    pub fn prefetch(&self, id: u32) {
        let (address, bytes) = match self {
            Self::Bytes { components, ranges } => {
                prefetch(ranges.address(id));
                (components.address(id), components.get(id).len())
            }
            Self::Floats(floats) => (floats.address(id), size_of_val(floats.get(id))),
            Self::Bits(bits) => (bits.address(id), size_of_val(bits.get(id))),
        };
        for line in 0..bytes.div_ceil(CACHE_LINE).min(PREFETCHED_LINES) {
            prefetch(address.wrapping_add(line * CACHE_LINE));
        }
    }

    pub fn push(&mut self, vector: &Vector) {
        match (self, vector) {
            (Self::Floats(floats), Vector::Floats(vector)) => floats.push(vector.iter().copied()),
            (Self::Bytes { components, ranges }, Vector::Bytes(vector, range)) => {
                components.push(vector.iter().copied());
                ranges.push([*range]);
            }
            (Self::Bits(bits), Vector::Bits(vector)) => bits.push(vector.iter().copied()),
            _ => unreachable!("a vector is made in the form of its set"),
        }
    }

    pub fn set(&mut self, id: u32, vector: &Vector) {
        match (self, vector) {
            (Self::Floats(floats), Vector::Floats(vector)) => floats.get_mut(id).copy_from_slice(vector),
            (Self::Bytes { components, ranges }, Vector::Bytes(vector, range)) => {
                components.get_mut(id).copy_from_slice(vector);
                ranges.get_mut(id)[0] = *range;
            }
            (Self::Bits(bits), Vector::Bits(vector)) => bits.get_mut(id).copy_from_slice(vector),
            _ => unreachable!("a vector is made in the form of its set"),
        }
    }

    pub fn swap_remove(&mut self, id: u32) {
        match self {
            Self::Floats(floats) => floats.swap_remove(id),
            Self::Bytes { components, ranges } => {
                components.swap_remove(id);
                ranges.swap_remove(id);
            }
            Self::Bits(bits) => bits.swap_remove(id),
        }
    }

    /// Frees a chunk of vectors; returns how many it had, 0 if none are left.
    pub fn drop_chunk(&mut self) -> usize {
        match self {
            Self::Floats(floats) => floats.drop_chunk(),
            Self::Bytes { components, ranges } => components.drop_chunk().max(ranges.drop_chunk()),
            Self::Bits(bits) => bits.drop_chunk(),
        }
    }
}

/// Lines of a vector that are prefetched.
const PREFETCHED_LINES: usize = 8;

#[cfg(test)]
impl Vectors {
    pub fn counted_bytes(&self, len: usize) -> usize {
        match self {
            Self::Floats(floats) => floats.counted_bytes(len),
            Self::Bytes { components, ranges } => components.counted_bytes(len) + ranges.counted_bytes(len),
            Self::Bits(bits) => bits.counted_bytes(len),
        }
    }
}
