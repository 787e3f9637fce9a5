//! Bloom filters: whether an item was added, never wrong about one that was, and rarely about one that was not.
//!
//! 1. An item has two hashes, *a* and *b*; its bits in a filter of *m* bits are `(a + i b) mod m`, for each of `k` hashes.
//! 2. For an error rate *e* a filter needs `bpe = -ln e / ln² 2` bits for each item, and `k = ⌈bpe ln 2⌉`.
//! 3. A filter that is full gets another *link*, larger by its growth, with half of the error rate of the one before. The
//!    first has half of the given rate, so the rates of all links add up to less than that. An item is in the filter if it
//!    is in any link.
//!
//! Hashes, sizes and the order of bits are those of RedisBloom, so filters move between servers. Old ones have hashes of
//! 32 bits, or a power of two as their number of bits.
//!
//! The head of a filter, which [`Bloom::write_head`] writes and `BF.SCANDUMP` replies first, little-endian:
//!
//! ```text
//! | items u64 | links u32 | options u32 | growth u32 |
//! then for each link
//! | bytes u64 | bits u64 | items u64 | error rate f64 | bpe f64 | hashes u32 | capacity u64 | log2 of the bits u8 |
//! ```

use super::blocks::Blocks;
use super::{BadFilter, PART_BYTES_MAX, Parts, SHELL_BYTES};
use crate::heap;
use crate::murmur::{murmur32, murmur64a};

/// Bits of the options.
pub const EXACT_SIZE: u32 = 1;
const SIZE_IN_BITS: u32 = 2;
pub const HASHES_OF_64_BITS: u32 = 4;
pub const FIXED: u32 = 8;

/// RedisBloom's defaults.
pub const CAPACITY: u64 = 100;
pub const ERROR_RATE: f64 = 0.01;
pub const GROWTH: u32 = 2;

/// ln² 2, with the digits that RedisBloom has.
const LN_2_SQUARED: f64 = 0.480_453_013_918_201;
#[expect(clippy::approx_constant, reason = "with one digit more, some filters would have another number of hashes")]
const LN_2: f64 = 0.693_147_180_559_945;

/// By how much a link's error rate is lower than that of the one before.
const TIGHTENING: f64 = 0.5;

/// The smallest positive error rate needs 1,074 hashes, and after so many halvings it is zero.
const HASHES_MAX: u32 = 1100;
const LINKS_MAX: usize = 1100;

const HEAD: usize = 20;
const LINK: usize = 53;

/// The sizes of RedisBloom's structures, for [`Bloom::shown_bytes`].
const SHOWN_HEAD: u64 = 32;
const SHOWN_LINK: u64 = 64;

#[derive(Debug, Clone, PartialEq)]
struct Link {
    /// The number of bits modulo which an item's bits are, unless it is a power of two.
    bits: u64,
    items: u64,
    error_rate: f64,
    bits_per_item: f64,
    hashes: u32,
    capacity: u64,
    /// The binary logarithm of the number of bits, if that is a power of two; else 0.
    log_2: u8,
}

impl Link {
    /// # Errors
    /// [`BadFilter`] when there is no such link, or it would be too large.
    fn new(items: u64, error_rate: f64, options: u32) -> Result<Self, BadFilter> {
        if items == 0 || !(error_rate > 0.0 && error_rate < 1.0) {
            return Err(BadFilter::Invalid);
        }
        let bits_per_item = (error_rate.ln() / LN_2_SQUARED).abs();
        let needed = items as f64 * bits_per_item;
        let (bits, log_2, capacity) = if options & SIZE_IN_BITS != 0 {
            let log_2 = u8::try_from(items).ok().filter(|log_2| *log_2 < 64).ok_or(BadFilter::Invalid)?;
            let bits = 1u64 << log_2;
            (bits, log_2, (bits as f64 / bits_per_item) as u64)
        } else if options & EXACT_SIZE != 0 {
            ((needed as u64).max(1), 0, items)
        } else {
            let log_2 = (needed.log2().floor() + 1.0).max(0.0);
            if log_2 > 63.0 {
                return Err(BadFilter::TooLarge);
            }
            let bits = 1u64 << log_2 as u32;
            let more = (bits as f64 - needed).max(0.0) / bits_per_item;
            (bits, log_2 as u8, items.saturating_add(more as u64))
        };
        let bytes = bits.div_ceil(64).saturating_mul(8);
        if bytes > PART_BYTES_MAX as u64 {
            return Err(BadFilter::TooLarge);
        }
        let hashes = hashes_for(bits_per_item);
        Ok(Link { bits: bytes * 8, items: 0, error_rate, bits_per_item, hashes, capacity, log_2 })
    }

    fn bytes(&self) -> usize {
        // Invariant: at most PART_BYTES_MAX.
        (self.bits / 8) as usize
    }

    /// The bits of an item.
    #[inline]
    fn places(&self, (a, b): (u64, u64)) -> impl Iterator<Item = u64> + use<> {
        let modulus = if self.log_2 > 0 { 1 << self.log_2 } else { self.bits };
        (0..u64::from(self.hashes)).map(move |i| a.wrapping_add(i.wrapping_mul(b)) % modulus)
    }

    #[inline]
    fn has(&self, data: &Blocks, hash: (u64, u64)) -> bool {
        self.places(hash).all(|bit| data.get((bit / 8) as usize) & 1 << (bit % 8) != 0)
    }

    fn next(&self, growth: u32, options: u32) -> Result<Link, BadFilter> {
        let capacity = self.capacity.checked_mul(growth.into()).ok_or(BadFilter::TooLarge)?;
        Link::new(capacity, self.error_rate * TIGHTENING, options)
    }
}

fn hashes_for(bits_per_item: f64) -> u32 {
    (LN_2 * bits_per_item).ceil() as u32
}

/// The result of an addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BloomAdded {
    New,
    /// It may have been there before.
    Known,
    /// The filter has its number of items, and does not grow.
    Full,
    /// It cannot grow: the next link would be too large, or its error rate zero.
    Failed,
}

/// A Bloom filter.
#[derive(Debug, Clone)]
pub struct Bloom {
    links: Vec<Link>,
    parts: Parts,
    items: u64,
    options: u32,
    growth: u32,
}

impl Default for Bloom {
    fn default() -> Self {
        Bloom::with_capacity(CAPACITY, ERROR_RATE, GROWTH, false).expect("the defaults are those of a small filter")
    }
}

/// The options of filters that are made here.
const fn options_of(is_fixed: bool) -> u32 {
    EXACT_SIZE | HASHES_OF_64_BITS | if is_fixed { FIXED } else { 0 }
}

impl Bloom {
    /// An empty filter.
    ///
    /// # Errors
    /// [`BadFilter`] when the arguments are out of range, or it would be too large.
    pub fn with_capacity(items: u64, error_rate: f64, growth: u32, is_fixed: bool) -> Result<Self, BadFilter> {
        let options = options_of(is_fixed);
        let first = Link::new(items, first_rate(error_rate, is_fixed), options)?;
        let mut parts = Parts::default();
        parts.push(Blocks::zeroed(first.bytes()));
        Ok(Bloom { links: vec![first], parts, items: 0, options, growth })
    }

    /// The bytes of the filter that [`Self::with_capacity`] makes, with so many new items at most; 0 if it makes none.
    pub fn bytes_for(capacity: u64, error_rate: f64, growth: u32, is_fixed: bool, items: usize) -> usize {
        let options = options_of(is_fixed);
        let Ok(first) = Link::new(capacity, first_rate(error_rate, is_fixed), options) else { return 0 };
        let bytes = Blocks::heap_bytes_for(first.bytes());
        let (links, added) = added_bytes(first, growth, options, items);
        let lists = heap::growth(&Vec::<Link>::new(), 1 + links) + Parts::default().lists_growth(1 + links);
        bytes.saturating_add(added).saturating_add(lists + SHELL_BYTES)
    }

    /// The bytes that so many new items add at most.
    pub fn growth_for(&self, items: usize) -> usize {
        let Some(last) = self.links.last() else { return 0 };
        let (links, bytes) = added_bytes(last.clone(), self.growth, self.options, items);
        bytes.saturating_add(heap::growth(&self.links, links)).saturating_add(self.parts.lists_growth(links))
    }

    /// The hashes that an item needs, in all links.
    pub fn hashes(&self) -> usize {
        self.links.iter().map(|link| link.hashes as usize).sum()
    }

    pub fn add(&mut self, item: &[u8]) -> BloomAdded {
        let hash = self.hash(item);
        if self.has(hash) {
            return BloomAdded::Known;
        }
        let Some(last) = self.links.last() else { return BloomAdded::Failed };
        if last.items >= last.capacity {
            if self.is_fixed() {
                return BloomAdded::Full;
            }
            if self.links.len() >= LINKS_MAX {
                return BloomAdded::Failed;
            }
            let Ok(next) = last.next(self.growth, self.options) else { return BloomAdded::Failed };
            self.parts.push(Blocks::zeroed(next.bytes()));
            self.links.push(next);
        }
        let part = self.links.len() - 1;
        let link = &mut self.links[part];
        for bit in link.places(hash) {
            let at = (bit / 8) as usize;
            let byte = self.parts.get(part, at);
            self.parts.set(part, at, byte | 1 << (bit % 8));
        }
        // A filter from elsewhere may say that it has any number of items.
        link.items = link.items.saturating_add(1);
        self.items = self.items.saturating_add(1);
        BloomAdded::New
    }

    /// Whether the item may have been added; false: it was not.
    pub fn contains(&self, item: &[u8]) -> bool {
        self.has(self.hash(item))
    }

    fn has(&self, hash: (u64, u64)) -> bool {
        self.links.iter().zip(self.parts.iter()).rev().any(|(link, data)| link.has(data, hash))
    }

    fn hash(&self, item: &[u8]) -> (u64, u64) {
        if self.options & HASHES_OF_64_BITS != 0 {
            let a = murmur64a(item, 0xc6a4_a793_5bd1_e995);
            (a, murmur64a(item, a))
        } else {
            let a = murmur32(item, 0x9747_b28c);
            (a.into(), murmur32(item, a).into())
        }
    }

    pub fn is_fixed(&self) -> bool {
        self.options & FIXED != 0
    }

    /// The number of items that were new when they were added.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// The number of items that it can hold at its error rate.
    pub fn capacity(&self) -> u64 {
        self.links.iter().fold(0, |sum: u64, link| sum.saturating_add(link.capacity))
    }

    pub fn links(&self) -> usize {
        self.links.len()
    }

    pub fn growth(&self) -> u32 {
        self.growth
    }

    /// The bytes that RedisBloom would take for it.
    pub fn shown_bytes(&self) -> u64 {
        SHOWN_HEAD + SHOWN_LINK * self.links.len() as u64 + self.parts.len() as u64
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    pub fn parts_mut(&mut self) -> &mut Parts {
        &mut self.parts
    }

    pub fn heap_bytes(&self) -> usize {
        heap::allocation(self.links.capacity() * size_of::<Link>()) + self.parts.heap_bytes()
    }

    /// Appends everything but the bits.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.items.to_le_bytes());
        out.extend_from_slice(&(self.links.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.options.to_le_bytes());
        out.extend_from_slice(&self.growth.to_le_bytes());
        for link in &self.links {
            for number in [link.bytes() as u64, link.bits, link.items] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&link.error_rate.to_le_bytes());
            out.extend_from_slice(&link.bits_per_item.to_le_bytes());
            out.extend_from_slice(&link.hashes.to_le_bytes());
            out.extend_from_slice(&link.capacity.to_le_bytes());
            out.push(link.log_2);
        }
    }

    /// The length of the head that `bytes` begins with, as far as they tell.
    pub fn head_bytes(bytes: &[u8]) -> Option<usize> {
        let links = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        (links as usize).checked_mul(LINK)?.checked_add(HEAD)
    }

    /// A filter whose bits are still to be [loaded](Parts::load), from its head.
    ///
    /// # Errors
    /// [`BadFilter`] when it is not the head of a filter, or that would be too large.
    pub fn from_head(head: &[u8]) -> Result<Self, BadFilter> {
        let (head, links) = head.split_at_checked(HEAD).ok_or(BadFilter::Invalid)?;
        let (links, []) = links.as_chunks::<LINK>() else { return Err(BadFilter::Invalid) };
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (items, options, growth) = (u64::from(number(0)) | u64::from(number(4)) << 32, number(12), number(16));
        if links.is_empty() || links.len() != number(8) as usize || links.len() > LINKS_MAX {
            return Err(BadFilter::Invalid);
        }
        let links = links.iter().map(read_link).collect::<Result<Vec<Link>, BadFilter>>()?;
        Bloom::from_links(links, (items, options, growth))
    }

    fn from_links(links: Vec<Link>, (items, options, growth): (u64, u32, u32)) -> Result<Self, BadFilter> {
        let mut sum = 0u64;
        for link in &links {
            check_link(link)?;
            sum = sum.checked_add(link.items).ok_or(BadFilter::Invalid)?;
        }
        let known = EXACT_SIZE | SIZE_IN_BITS | HASHES_OF_64_BITS | FIXED;
        if sum != items || options & !known != 0 {
            return Err(BadFilter::Invalid);
        }
        let parts = Parts::to_load(links.iter().map(Link::bytes));
        Ok(Bloom { links, parts, items, options, growth })
    }

    pub(super) fn begin_capture(&mut self, id: u64, cell_bytes: usize) -> usize {
        let mut head = Vec::new();
        self.write_head(&mut head);
        self.parts.begin_capture(id, cell_bytes, head)
    }
}

/// The number of links that so many new items need behind `last`, and their bytes.
fn added_bytes(mut last: Link, growth: u32, options: u32, items: usize) -> (usize, usize) {
    let (mut left, mut links, mut bytes) = (items as u64, 0, 0usize);
    loop {
        let room = last.capacity.saturating_sub(last.items);
        if left <= room || options & FIXED != 0 {
            return (links, bytes);
        }
        left -= room;
        let Ok(next) = last.next(growth, options) else { return (links, bytes) };
        bytes = bytes.saturating_add(Blocks::heap_bytes_for(next.bytes()));
        links += 1;
        last = next;
    }
}

fn first_rate(error_rate: f64, is_fixed: bool) -> f64 {
    if is_fixed { error_rate } else { error_rate * TIGHTENING }
}

fn read_link(bytes: &[u8; LINK]) -> Result<Link, BadFilter> {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let link = Link {
        bits: word(8),
        items: word(16),
        error_rate: f64::from_bits(word(24)),
        bits_per_item: f64::from_bits(word(32)),
        hashes: u32::from_le_bytes([bytes[40], bytes[41], bytes[42], bytes[43]]),
        capacity: word(44),
        log_2: bytes[52],
    };
    if Some(link.bits) == word(0).checked_mul(8) { Ok(link) } else { Err(BadFilter::Invalid) }
}

fn check_link(link: &Link) -> Result<(), BadFilter> {
    let rate = link.error_rate > 0.0 && link.error_rate < 1.0;
    let size = link.log_2 == 0 || link.log_2 < 64 && link.bits >= 1 << link.log_2;
    let hashes = link.hashes == hashes_for(link.bits_per_item) && (1..=HASHES_MAX).contains(&link.hashes);
    if !rate || !size || !hashes || link.bits == 0 || !link.bits.is_multiple_of(8) {
        return Err(BadFilter::Invalid);
    }
    if link.bits / 8 > PART_BYTES_MAX as u64 { Err(BadFilter::TooLarge) } else { Ok(()) }
}

/// The fields of a link in a module's value in RDB, in that order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BloomLink {
    pub capacity: u64,
    pub error_rate: f64,
    pub hashes: u64,
    pub bits_per_item: f64,
    pub bits: u64,
    pub log_2: u64,
    pub items: u64,
}

impl Bloom {
    pub fn options(&self) -> u32 {
        self.options
    }

    pub fn each_link(&self) -> impl Iterator<Item = BloomLink> {
        self.links.iter().map(|link| BloomLink {
            capacity: link.capacity,
            error_rate: link.error_rate,
            hashes: link.hashes.into(),
            bits_per_item: link.bits_per_item,
            bits: link.bits,
            log_2: link.log_2.into(),
            items: link.items,
        })
    }

    /// A filter of links whose bits are still to be loaded.
    ///
    /// # Errors
    /// [`BadFilter`] when there is no such filter, or it would be too large.
    pub fn from_module(links: &[BloomLink], items: u64, options: u64, growth: u64) -> Result<Self, BadFilter> {
        if links.is_empty() || links.len() > LINKS_MAX {
            return Err(BadFilter::Invalid);
        }
        let invalid = |_| BadFilter::Invalid;
        let links = links.iter().map(|link| {
            Ok(Link {
                bits: link.bits,
                items: link.items,
                error_rate: link.error_rate,
                bits_per_item: link.bits_per_item,
                hashes: u32::try_from(link.hashes).map_err(invalid)?,
                capacity: link.capacity,
                log_2: u8::try_from(link.log_2).map_err(invalid)?,
            })
        });
        let links = links.collect::<Result<Vec<Link>, BadFilter>>()?;
        let (options, growth) = (u32::try_from(options).map_err(invalid)?, u32::try_from(growth).map_err(invalid)?);
        Bloom::from_links(links, (items, options, growth))
    }
}
