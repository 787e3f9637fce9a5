//! Redis's listpack: a sequence of strings and integers in one allocation.
//!
//! ```text
//! total bytes u32 LE | count u16 LE | entry ... | 0xFF
//! entry: encoding and data | back-length
//!
//! 0xxxxxxx                       integer 0..127
//! 110xxxxx xxxxxxxx              integer of 13 bits, two's complement, high bits first
//! 0xF1 0xF2 0xF3 0xF4            integer of 16, 24, 32, 64 bits, little-endian
//! 10xxxxxx                       string of up to 63 bytes
//! 1110xxxx xxxxxxxx              string of up to 4095 bytes, high bits first
//! 0xF0 u32 LE                    string of up to 4 GiB
//! ```
//!
//! The back-length is the length of encoding and data in 7-bit digits, most significant first; every digit but the first
//! has its high bit set, so that it can be read from right to left to find where the entry before starts. A count of
//! 0xFFFF means that the entries must be counted.
//!
//! Positions are byte offsets. The storage is a [`Buffer`], which keeps the total; a listpack without entries has none.
//!
//! [`Listpack`] and [`ListpackRef`] trust their bytes; what comes from outside goes through [`Listpack::from_bytes`].
//! Every item has one encoding, the shortest, so that items can be compared without decoding them.

use super::Malformed;
use super::item::Item;
use crate::entry::{Buffer, TOTAL_BYTES, packed};

const HEADER: usize = 6;
const END: u8 = 0xFF;
const EMPTY: &[u8] = &[7, 0, 0, 0, 0, 0, END];
/// The bytes of a listpack without entries.
pub(super) const EMPTY_BYTES: usize = EMPTY.len();
const COUNT_UNKNOWN: u16 = u16::MAX;
/// Bytes of items that are pushed together and encoded once, on the stack: those of a small entry of a stream.
const SHORT_RUN: usize = 128;

/// A listpack never grows beyond this by more than a few entries' overhead, whatever the settings say: a buffer has 30
/// bits for its total.
pub const BYTES_MAX: usize = (1 << 30) - (1 << 10);

packed! {
    /// An owned listpack.
    pub struct Listpack
}

/// A borrowed listpack.
#[derive(Clone, Copy)]
pub struct ListpackRef<'a> {
    storage: &'a [u8],
}

impl Listpack {
    pub fn new() -> Self {
        Listpack::default()
    }

    /// Copies a listpack from outside, after checking every byte of it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let (count, canonical) = check(bytes)?;
        let mut listpack = Listpack::new();
        if canonical && count > 0 {
            listpack.storage = Buffer::of(&bytes[TOTAL_BYTES..]);
            listpack.set_count(count);
        } else {
            let (mut at, mut left) = (HEADER, count);
            while left > 0 {
                let len = entry_len(&bytes[at..]);
                listpack.push_back(decode(&bytes[at..]));
                at += len + back_length_len(len);
                left -= 1;
            }
        }
        Ok(listpack)
    }

    /// Takes back the storage of [`Listpack::into_storage`].
    pub(super) fn from_storage(storage: Buffer) -> Self {
        Listpack { storage }
    }

    pub(super) fn into_storage(self) -> Buffer {
        self.storage
    }

    pub fn view(&self) -> ListpackRef<'_> {
        ListpackRef { storage: self.storage.bytes() }
    }

    pub fn heap_bytes(&self) -> usize {
        self.storage.heap_bytes()
    }

    pub fn push_back(&mut self, item: Item<'_>) {
        self.insert(self.view().end(), item);
    }

    /// Pushes one item after the other, with room made once.
    pub fn push_all<'i>(&mut self, items: impl Iterator<Item = Item<'i>> + Clone) {
        self.insert_all(self.view().end(), items);
    }

    /// Inserts items in their order before the entry at `at`, or at the end, with room made once.
    pub(super) fn insert_all<'i>(&mut self, at: usize, items: impl Iterator<Item = Item<'i>> + Clone) {
        let mut run = ShortRun::default();
        if items.clone().all(|item| run.push(item)) {
            if run.count > 0 {
                self.splice(at, at, run.len, run.count);
                self.written(at, at + run.len).copy_from_slice(&run.bytes[..run.len]);
            }
            return;
        }
        let (bytes, count) =
            items.clone().fold((0, 0), |(bytes, count), item| (bytes + Encoded::new(item).len(), count + 1));
        self.splice(at, at, bytes, count);
        let mut at = at;
        for item in items {
            let entry = Encoded::new(item);
            entry.write(self.written(at, at + entry.len()));
            at += entry.len();
        }
    }

    pub fn push_front(&mut self, item: Item<'_>) {
        self.insert(HEADER, item);
    }

    /// Inserts before the entry at `at`, or at the end. Returns the position of the entry after the new one.
    pub fn insert(&mut self, at: usize, item: Item<'_>) -> usize {
        let entry = Encoded::new(item);
        self.splice(at, at, entry.len(), 1);
        entry.write(self.written(at, at + entry.len()));
        at + entry.len()
    }

    /// Inserts two entries that belong together.
    pub fn insert_pair(&mut self, at: usize, first: Item<'_>, second: Item<'_>) {
        let (first, second) = (Encoded::new(first), Encoded::new(second));
        let between = at + first.len();
        let after = between + second.len();
        self.splice(at, at, after - at, 2);
        first.write(self.written(at, between));
        second.write(self.written(between, after));
    }

    /// Inserts entries that belong together.
    pub fn insert_run<const N: usize>(&mut self, at: usize, items: [Item<'_>; N]) {
        let entries = items.map(Encoded::new);
        self.splice(at, at, entries.iter().map(Encoded::len).sum(), N as isize);
        let mut at = at;
        for entry in entries {
            entry.write(self.written(at, at + entry.len()));
            at += entry.len();
        }
    }

    /// Marks a listpack that is not empty; it stays marked until it is. The mark says nothing about the entries, but it is
    /// in the bytes of [`ListpackRef::bytes`], which Redis does not know then: see [`Self::to_bytes`].
    pub(super) fn mark(&mut self) {
        self.storage.mark();
    }

    #[inline]
    pub(super) fn is_marked(&self) -> bool {
        self.storage.is_marked()
    }

    /// A copy in Redis's format, without the mark.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.view().bytes().to_vec();
        let total = bytes.len() as u32;
        bytes[..TOTAL_BYTES].copy_from_slice(&total.to_le_bytes());
        bytes
    }

    /// Replaces the two entries at `at` by others, which go before the entry at `to`, or to the end. `to` is a position of
    /// the listpack as it was, outside the two entries.
    pub fn move_pair(&mut self, at: usize, to: usize, first: Item<'_>, second: Item<'_>) {
        let (first, second) = (Encoded::new(first), Encoded::new(second));
        let (between, fresh) = (first.len(), first.len() + second.len());
        let view = self.view();
        let after = view.after(view.after(at));
        self.splice(at, after, fresh, 0);
        let place = if to <= at {
            self.move_bytes(to, at, to + fresh);
            to
        } else {
            let place = to - (after - at);
            self.move_bytes(at + fresh, place + fresh, at);
            place
        };
        first.write(self.written(place, place + between));
        second.write(self.written(place + between, place + fresh));
    }

    pub fn replace(&mut self, at: usize, item: Item<'_>) {
        let entry = Encoded::new(item);
        let after = self.view().after(at);
        if after - at != entry.len() {
            self.splice(at, after, entry.len(), 0);
        }
        entry.write(self.written(at, at + entry.len()));
    }

    /// Moves `entries` entries from `at` on to before the entry at `to`, or to the end.
    pub fn move_run(&mut self, at: usize, entries: usize, to: usize) {
        let view = self.view();
        let after = (0..entries).fold(at, |at, _| view.after(at));
        match to {
            _ if to < at => self.written(to, after).rotate_right(after - at),
            _ if to > after => self.written(at, to).rotate_left(after - at),
            _ => {}
        }
    }

    /// Removes `entries` entries from `at` on (at most to the end). The entries after them are at `at` then.
    pub fn remove(&mut self, at: usize, entries: usize) {
        let (mut after, mut removed) = (at, 0);
        let end = self.view().end();
        while removed < entries && after < end {
            after = self.view().after(after);
            removed += 1;
        }
        self.splice(at, after, 0, -(removed as isize));
    }

    /// Cuts the listpack in two at `at`; returns the second part.
    pub fn split_off(&mut self, at: usize) -> Listpack {
        let view = self.view();
        let (end, count) = (view.end(), view.len());
        let mut moved = 0;
        let mut from = at;
        while from < end {
            from = view.after(from);
            moved += 1;
        }
        let mut second = Listpack::new();
        if moved > 0 {
            second.splice(HEADER, HEADER, end - at, moved as isize);
            second.written(HEADER, HEADER + end - at).copy_from_slice(&self.storage.bytes()[at..end]);
            if moved == count {
                self.storage = Buffer::default();
            } else {
                self.splice(at, end, 0, -(moved as isize));
            }
        }
        second
    }

    /// Copies all entries of `other` after its own.
    pub fn append(&mut self, other: ListpackRef<'_>) {
        if other.is_empty() {
            return;
        }
        let (at, body) = (self.view().end(), other.body());
        self.splice(at, at, body.len(), other.len() as isize);
        self.written(at, at + body.len()).copy_from_slice(body);
    }

    /// Replaces the bytes between two positions by `fresh` new ones, which the caller fills, and counts `entries` more.
    fn splice(&mut self, from: usize, to: usize, fresh: usize, entries: isize) {
        let view = self.view();
        let (used, count) = (view.bytes_len(), view.len());
        let count = count.wrapping_add_signed(entries);
        if count == 0 {
            self.storage = Buffer::default();
            return;
        }
        let wanted = used - (to - from) + fresh;
        if self.storage.is_empty() {
            self.storage.resize(0, wanted);
            self.written(HEADER, HEADER + 1)[0] = END;
        } else if wanted > used {
            self.storage.resize(used, wanted);
        }
        if from + fresh != to {
            self.move_bytes(to, used, from + fresh);
        }
        if wanted < used {
            self.storage.resize(wanted, wanted);
        }
        self.set_count(count);
    }

    fn set_count(&mut self, count: usize) {
        let count = u16::try_from(count).unwrap_or(COUNT_UNKNOWN);
        self.written(TOTAL_BYTES, HEADER).copy_from_slice(&count.to_le_bytes());
    }

    /// The bytes from one position to another, to be written.
    #[inline]
    fn written(&mut self, from: usize, to: usize) -> &mut [u8] {
        &mut self.storage.body_mut()[from - TOTAL_BYTES..to - TOTAL_BYTES]
    }

    /// Copies the bytes between two positions to a third.
    #[inline]
    fn move_bytes(&mut self, from: usize, end: usize, to: usize) {
        self.storage.body_mut().copy_within(from - TOTAL_BYTES..end - TOTAL_BYTES, to - TOTAL_BYTES);
    }
}

impl std::fmt::Debug for Listpack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.view().iter()).finish()
    }
}

impl<'a> ListpackRef<'a> {
    /// `storage` is that of a [`Listpack`].
    pub(super) fn from_storage(storage: &'a [u8]) -> Self {
        ListpackRef { storage }
    }

    /// The listpack in Redis's format.
    pub fn bytes(self) -> &'a [u8] {
        if self.storage.is_empty() { EMPTY } else { self.storage }
    }

    pub fn bytes_len(self) -> usize {
        self.bytes().len()
    }

    /// The number of entries; beyond 65534 they must be counted.
    pub fn len(self) -> usize {
        match self.storage {
            [_, _, _, _, a, b, ..] => match u16::from_le_bytes([*a, *b]) {
                COUNT_UNKNOWN => self.count(),
                count => usize::from(count),
            },
            _ => 0,
        }
    }

    pub fn is_empty(self) -> bool {
        self.storage.is_empty()
    }

    fn count(self) -> usize {
        let (mut at, mut count) = (HEADER, 0);
        while self.storage[at] != END {
            at = self.after(at);
            count += 1;
        }
        count
    }

    /// The encoded entries alone.
    fn body(self) -> &'a [u8] {
        &self.bytes()[HEADER..self.end()]
    }

    /// The position of the first entry, even if the listpack is empty.
    pub fn start(self) -> usize {
        HEADER
    }

    /// The position after the last entry.
    pub fn end(self) -> usize {
        self.bytes_len() - 1
    }

    pub fn first(self) -> Option<usize> {
        (!self.is_empty()).then_some(HEADER)
    }

    pub fn last(self) -> Option<usize> {
        (!self.is_empty()).then(|| self.before(self.end()))
    }

    /// The position after the entry at `at`.
    #[inline]
    pub fn after(self, at: usize) -> usize {
        step(self.storage, at, self.storage[at])
    }

    pub fn next(self, at: usize) -> Option<usize> {
        let next = self.after(at);
        (self.storage[next] != END).then_some(next)
    }

    /// The entry before position `at`, which must not be the start.
    pub fn before(self, at: usize) -> usize {
        let (len, digits) = read_back_length(&self.storage[..at]);
        at - len - digits
    }

    pub fn previous(self, at: usize) -> Option<usize> {
        (at > HEADER).then(|| self.before(at))
    }

    pub fn item(self, at: usize) -> Item<'a> {
        decode(&self.storage[at..])
    }

    /// The item at `at`, and the position after it.
    #[inline]
    pub fn read(self, at: usize) -> (Item<'a>, usize) {
        let code = self.storage[at];
        if let 0x80..0xC0 = code {
            // A short string, as most items are.
            let end = at + 1 + usize::from(code & 0x3F);
            return (Item::Bytes(&self.storage[at + 1..end]), end + 1);
        }
        (self.item(at), step(self.storage, at, code))
    }

    /// The entries from the one at `from` on.
    pub(super) fn iter_from(self, from: usize) -> Iter<'a> {
        Iter { listpack: self, front: from, back: self.end() }
    }

    /// The position of an entry by its index, from the nearer end.
    pub fn seek(self, index: usize) -> Option<usize> {
        let count = self.len();
        if index >= count {
            return None;
        }
        if index <= count / 2 {
            Some((0..index).fold(HEADER, |at, _| self.after(at)))
        } else {
            Some((index..count).fold(self.end(), |at, _| self.before(at)))
        }
    }

    pub fn get(self, index: usize) -> Option<Item<'a>> {
        self.seek(index).map(|at| self.item(at))
    }

    /// The first entry equal to `text` among the entry at `from`, the one `skip` entries after it, and so on.
    pub fn find(self, from: usize, text: &[u8], skip: usize) -> Option<usize> {
        let wanted = Encoded::new(Item::parse(text));
        let head = wanted.head();
        // The first byte tells kinds and short lengths apart. The last one tells most texts of one length apart, which often
        // share how they begin.
        let last = head.len() + wanted.body.len() - 1;
        let (first_byte, last_byte) = (head[0], *wanted.body.last().unwrap_or(&head[head.len() - 1]));
        let bytes = self.storage.get(..self.end())?;
        let mut at = from;
        while let Some(&code) = bytes.get(at) {
            if code == first_byte
                && bytes.get(at + last) == Some(&last_byte)
                && bytes[at..].starts_with(head)
                && bytes[at + head.len()..].starts_with(wanted.body)
            {
                return Some(at);
            }
            at = step(bytes, at, code);
            for _ in 0..skip {
                at = step(bytes, at, *bytes.get(at)?);
            }
        }
        None
    }

    /// Whether `bytes` more bytes of text, of two items at most, leave the listpack within what one may ever be.
    pub(super) fn has_room(self, bytes: usize) -> bool {
        self.bytes_len().saturating_add(bytes) < BYTES_MAX
    }

    /// Whether two of the first items of every `step` are the same.
    pub(super) fn has_duplicates(self, step: usize) -> bool {
        let mut items: Vec<&[u8]> = Vec::with_capacity(self.len() / step);
        let (mut at, end, mut index) = (HEADER, self.end(), 0);
        while at < end {
            let after = self.after(at);
            if index % step == 0 {
                items.push(&self.storage[at..after]);
            }
            index += 1;
            at = after;
        }
        items.sort_unstable();
        items.windows(2).any(|two| two[0] == two[1])
    }

    /// The items two by two.
    pub fn pairs(self) -> impl Iterator<Item = (Item<'a>, Item<'a>)> + Clone {
        let mut items = self.iter();
        std::iter::from_fn(move || Some((items.next()?, items.next()?)))
    }

    pub fn iter(self) -> Iter<'a> {
        Iter { listpack: self, front: HEADER, back: self.end() }
    }
}

impl<'a> IntoIterator for ListpackRef<'a> {
    type Item = Item<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The entries from either end.
#[derive(Clone)]
pub struct Iter<'a> {
    listpack: ListpackRef<'a>,
    front: usize,
    back: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        (self.front < self.back).then(|| {
            let (item, after) = self.listpack.read(self.front);
            self.front = after;
            item
        })
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        (self.front < self.back).then(|| {
            self.back = self.listpack.before(self.back);
            self.listpack.item(self.back)
        })
    }
}

/// A listpack of these items in Redis's format.
pub(super) fn bytes_of<'i>(items: impl Iterator<Item = Item<'i>> + Clone) -> Vec<u8> {
    let (bytes, count) =
        items.clone().fold((EMPTY_BYTES, 0), |(bytes, count), item| (bytes + encoded_len(item), count + 1));
    let mut listpack = vec![END; bytes];
    listpack[..TOTAL_BYTES].copy_from_slice(&(bytes as u32).to_le_bytes());
    listpack[TOTAL_BYTES..HEADER].copy_from_slice(&u16::try_from(count).unwrap_or(COUNT_UNKNOWN).to_le_bytes());
    let mut at = HEADER;
    for item in items {
        let entry = Encoded::new(item);
        entry.write(&mut listpack[at..at + entry.len()]);
        at += entry.len();
    }
    listpack
}

/// The bytes that an item takes in a listpack.
pub fn encoded_len(item: Item<'_>) -> usize {
    Encoded::new(item).len()
}

/// An entry about to be written: encoding byte, length or number, the string's bytes.
pub(super) struct Encoded<'a> {
    head: [u8; 9],
    head_len: u8,
    body: &'a [u8],
}

impl<'a> Encoded<'a> {
    pub fn new(item: Item<'a>) -> Self {
        match item {
            Item::Int(number) => Encoded::integer(number),
            // Only what is not the text of an integer may be stored as a string.
            Item::Bytes(text) => match super::parse_i64(text) {
                Some(number) => Encoded::integer(number),
                None => Encoded::string(text),
            },
        }
    }

    fn integer(number: i64) -> Self {
        let bytes = number.to_le_bytes();
        let mut head = [0; 9];
        let head_len = match number {
            0..=127 => {
                head[0] = bytes[0];
                1
            }
            -4096..=4095 => {
                head[0] = 0xC0 | (bytes[1] & 0x1F);
                head[1] = bytes[0];
                2
            }
            _ => {
                let (code, width) = match number {
                    -0x8000..=0x7FFF => (0xF1, 2),
                    -0x80_0000..=0x7F_FFFF => (0xF2, 3),
                    -0x8000_0000..=0x7FFF_FFFF => (0xF3, 4),
                    _ => (0xF4, 8),
                };
                head[0] = code;
                head[1..=width].copy_from_slice(&bytes[..width]);
                1 + width as u8
            }
        };
        Encoded { head, head_len, body: &[] }
    }

    fn string(text: &'a [u8]) -> Self {
        let len = (text.len() as u32).to_le_bytes();
        let mut head = [0; 9];
        let head_len = match text.len() {
            0..64 => {
                head[0] = 0x80 | len[0];
                1
            }
            64..4096 => {
                head[0] = 0xE0 | len[1];
                head[1] = len[0];
                2
            }
            _ => {
                head[0] = 0xF0;
                head[1..5].copy_from_slice(&len);
                5
            }
        };
        Encoded { head, head_len, body: text }
    }

    /// The encoding byte, and what of length or number follows it.
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_len)]
    }

    /// The entry's bytes with its back-length.
    fn len(&self) -> usize {
        let len = usize::from(self.head_len) + self.body.len();
        len + back_length_len(len)
    }

    fn write(&self, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut(usize::from(self.head_len));
        // Most heads have one byte, and most numbers no body: a copy is a call.
        match head {
            [code] => *code = self.head[0],
            head => head.copy_from_slice(self.head()),
        }
        let (body, back) = rest.split_at_mut(self.body.len());
        if !body.is_empty() {
            body.copy_from_slice(self.body);
        }
        let mut len = usize::from(self.head_len) + self.body.len();
        if let [digit] = back {
            *digit = len as u8;
            return;
        }
        for (i, digit) in back.iter_mut().enumerate().rev() {
            *digit = (len & 0x7F) as u8 | if i == 0 { 0 } else { 0x80 };
            len >>= 7;
        }
    }
}

/// Entries that are encoded one by one, and copied into a listpack together.
struct ShortRun {
    bytes: [u8; SHORT_RUN],
    len: usize,
    count: isize,
}

impl Default for ShortRun {
    fn default() -> Self {
        ShortRun { bytes: [0; SHORT_RUN], len: 0, count: 0 }
    }
}

impl ShortRun {
    /// Returns false if there is no room for the item.
    fn push(&mut self, item: Item<'_>) -> bool {
        if let Item::Int(number @ 0..=127) = item
            && let Some([code, back]) = self.bytes.get_mut(self.len..self.len + 2)
        {
            (*code, *back) = (number as u8, 1);
            self.len += 2;
        } else {
            let entry = Encoded::new(item);
            let end = self.len + entry.len();
            let Some(out) = self.bytes.get_mut(self.len..end) else { return false };
            entry.write(out);
            self.len = end;
        }
        self.count += 1;
        true
    }
}

/// How many digits the back-length of an entry of `len` bytes has. The odd limits are Redis's.
fn back_length_len(len: usize) -> usize {
    match len {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}

/// Reads the back-length that ends where `bytes` ends: its value and its digits.
fn read_back_length(bytes: &[u8]) -> (usize, usize) {
    let (mut value, mut digits) = (0, 0);
    for &digit in bytes.iter().rev().take(5) {
        value |= usize::from(digit & 0x7F) << (7 * digits);
        digits += 1;
        if digit & 0x80 == 0 {
            break;
        }
    }
    (value, digits)
}

/// The bytes of the entry's encoding and data. `bytes` starts with a well-formed entry.
fn entry_len(bytes: &[u8]) -> usize {
    match bytes[0] {
        0..0x80 => 1,
        code @ 0x80..0xC0 => 1 + usize::from(code & 0x3F),
        0xC0..0xE0 => 2,
        code @ 0xE0..0xF0 => 2 + (usize::from(code & 0x0F) << 8 | usize::from(bytes[1])),
        0xF0 => 5 + u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize,
        0xF1 => 3,
        0xF2 => 4,
        0xF3 => 5,
        _ => 9,
    }
}

/// The bytes of entries with their back-lengths, by their first byte; 0 where that alone does not say.
static LENGTHS: [u8; 256] = {
    let mut lengths = [0; 256];
    let mut code = 0;
    while code < 0xE0 {
        lengths[code] = match code {
            0..0x80 => 2,
            0x80..0xC0 => 2 + (code & 0x3F) as u8,
            _ => 3,
        };
        code += 1;
    }
    (lengths[0xF1], lengths[0xF2], lengths[0xF3], lengths[0xF4]) = (4, 5, 6, 10);
    lengths
};

/// The position after the entry at `at`, which begins with `code`.
#[inline(always)]
fn step(bytes: &[u8], at: usize, code: u8) -> usize {
    match LENGTHS[usize::from(code)] {
        0 => {
            let len = entry_len(&bytes[at..]);
            at + len + back_length_len(len)
        }
        len => at + usize::from(len),
    }
}

fn decode(bytes: &[u8]) -> Item<'_> {
    match bytes[0] {
        small @ 0..0x80 => Item::Int(i64::from(small)),
        0x80..0xC0 => Item::Bytes(&bytes[1..entry_len(bytes)]),
        high @ 0xC0..0xE0 => {
            let number = i16::from_be_bytes([high, bytes[1]]);
            // Drops the three bits of the encoding and extends the sign of the 13 others.
            Item::Int(i64::from(number << 3 >> 3))
        }
        0xE0..0xF0 => Item::Bytes(&bytes[2..entry_len(bytes)]),
        0xF0 => Item::Bytes(&bytes[5..entry_len(bytes)]),
        0xF1 => Item::Int(i64::from(i16::from_le_bytes([bytes[1], bytes[2]]))),
        // Extends the sign of 24 bits.
        0xF2 => Item::Int(i64::from(i32::from_le_bytes([0, bytes[1], bytes[2], bytes[3]]) >> 8)),
        0xF3 => Item::Int(i64::from(i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]))),
        _ => {
            let number = bytes[1..9].try_into().expect("a slice of eight bytes");
            Item::Int(i64::from_le_bytes(number))
        }
    }
}

/// Checks a listpack from outside: every length, every back-length, and the count. Returns the number of entries, and
/// whether each has the encoding that Redis (and [`ListpackRef::find`]) would choose for it.
fn check(bytes: &[u8]) -> Result<(usize, bool), Malformed> {
    const BAD: Malformed = Malformed("listpack");
    let [a, b, c, d, e, f, .., END] = *bytes else { return Err(BAD) };
    if u32::from_le_bytes([a, b, c, d]) as usize != bytes.len() || bytes.len() > BYTES_MAX {
        return Err(BAD);
    }
    let entries = &bytes[..bytes.len() - 1];
    let (mut at, mut count, mut canonical) = (HEADER, 0, true);
    while at < entries.len() {
        let rest = &entries[at..];
        let header = match rest[0] {
            0..0xC0 => 1,
            0xC0..0xF0 => 2,
            0xF0 => 5,
            0xF1..=0xF4 => 1,
            _ => return Err(BAD),
        };
        if rest.len() < header {
            return Err(BAD);
        }
        let len = entry_len(rest);
        let digits = back_length_len(len);
        if rest.len() < len + digits {
            return Err(BAD);
        }
        if read_back_length(&rest[..len + digits]) != (len, digits) {
            return Err(BAD);
        }
        canonical &= rest.starts_with(Encoded::new(decode(rest)).head());
        at += len + digits;
        count += 1;
    }
    match u16::from_le_bytes([e, f]) {
        COUNT_UNKNOWN => Ok((count, canonical)),
        claimed if usize::from(claimed) == count => Ok((count, canonical)),
        _ => Err(BAD),
    }
}

#[cfg(test)]
mod tests;
