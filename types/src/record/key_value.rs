//! A key with its value and expiry.

use std::{fmt, mem, ptr::NonNull, slice};

use crate::entry::block::{self, block_size, read_bytes, write_bytes};
use crate::entry::number::{self, canonical_integer};
use crate::entry::{Entry, size_class};
use crate::object::{Object, ObjectMut, ObjectRef};
use crate::{Array, Filter, Hash, Json, List, Set, SortedSet, Stream, VectorSet, pace};

/// Longer strings are kept in an allocation of their own, which has room to grow.
pub const RAW_MAX: usize = 16 << 10;

/// The access field of a record where it is a clock: seconds, 24 bits, so it wraps after 194 days.
pub const fn access_clock(now_ms: u64) -> u32 {
    ((now_ms / 1000) & 0xff_ffff) as u32
}

/// The value of a record.
#[derive(Debug)]
pub enum Value<'a> {
    /// A string that spells an integer.
    Int(i64),
    /// Any other string of up to [`RAW_MAX`] bytes.
    Raw(&'a [u8]),
    /// A longer string, or a collection.
    Object(ObjectRef<'a>),
}

/// How a string came to be, which `OBJECT ENCODING` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Given by a client: what spells an integer is stored as one.
    Given,
    /// Computed (`INCRBYFLOAT`): bytes, even where they spell an integer.
    Computed,
    /// Changed in place (`APPEND`, `SETRANGE`): bytes, marked as such.
    Edited,
}

/// A key of the keyspace: one allocation that holds the header, the expiry, the key and the value.
///
/// ```text
/// 0      1        4            5             7
/// | meta | access | key length | data length | expiry (8) | key | data |                   string
/// | meta | access | key length | 0   | pad to 8 | object | expiry (8) | key |              object
///                 4                     8             10
/// | meta | access | key length          | data length | ...                                with a key above 255 bytes
/// ```
///
/// Meta gives the kind of the data (bytes, an integer of 1, 2, 4 or 8 bytes, none beside an object) and that of an object,
/// and says whether bytes were changed in place, and whether the record has an expiry and a long key. Beside an object the
/// bit of an integer belongs to the object's kind: it tells the first eight kinds from the second. Lengths and numbers
/// are little endian and unaligned. An object is eight bytes, aligned: a collection as it is, a text in a box. Access is
/// a clock or counter of 24 bits, for eviction.
pub struct Record(NonNull<u8>);

// SAFETY: a record owns its allocation, and the object in it, alone.
unsafe impl Send for Record {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Record {}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Object>();
};

const INT: u8 = 1 << 0;
const OBJECT: u8 = 1 << 1;
const EXPIRY: u8 = 1 << 2;
const LONG_KEY: u8 = 1 << 3;
/// Says nothing about the layout.
const EDITED: u8 = 1 << 4;
/// The bits from here on are the kind of an object, and say nothing about the layout.
const KIND: u8 = 5;
/// The number of layouts: one for each meta without [`EDITED`] and the kind.
const METAS: usize = 1 << 4;

const TEXT: u8 = 0 << KIND | OBJECT;
const LIST: u8 = 1 << KIND | OBJECT;
const HASH: u8 = 2 << KIND | OBJECT;
const SET: u8 = 3 << KIND | OBJECT;
const SORTED_SET: u8 = 4 << KIND | OBJECT;
const STREAM: u8 = 5 << KIND | OBJECT;
const ARRAY: u8 = 6 << KIND | OBJECT;
const FILTER: u8 = 1 << KIND | OBJECT | INT;
const JSON: u8 = 0 << KIND | OBJECT | INT;
const VECTOR_SET: u8 = 7 << KIND | OBJECT;
/// The bits of a meta that give an object and its kind. [`INT`] is one of them: beside [`OBJECT`] it says that the kind is one
/// of the second eight, which are written as `0 << KIND | OBJECT | INT`. Code that tests for an integer looks at [`OBJECT`]
/// first.
const OBJECT_KIND: u8 = u8::MAX << KIND | OBJECT | INT;

/// A text in the space of a pointer.
type BoxedText = Box<Vec<u8>>;

const OBJECT_BYTES: usize = 8;
const _: () = {
    const fn fits<T>() {
        assert!(size_of::<T>() == OBJECT_BYTES && align_of::<T>() <= OBJECT_BYTES);
    }
    fits::<BoxedText>();
    fits::<List>();
    fits::<Hash>();
    fits::<Set>();
    fits::<SortedSet>();
    fits::<Stream>();
    fits::<Array>();
    fits::<Filter>();
    fits::<Json>();
    fits::<VectorSet>();
};

const ACCESS: usize = 1;
const KEY_LENGTH: usize = 4;
const EXPIRY_BYTES: usize = 8;

/// Everything before the expiry, but the object: the lengths end here.
const fn header_bytes(meta: u8) -> usize {
    if meta & LONG_KEY == 0 { 7 } else { 10 }
}

const fn object_offset(meta: u8) -> usize {
    header_bytes(meta).next_multiple_of(8)
}

/// A value on its way into a record.
enum Body<'a> {
    Int(i64),
    Raw(&'a [u8]),
    Edited(&'a [u8]),
    Object(Object),
}

impl Body<'_> {
    fn meta(&self) -> u8 {
        match self {
            Body::Int(_) => INT,
            Body::Raw(_) => 0,
            Body::Edited(_) => EDITED,
            Body::Object(object) => match object {
                Object::Text(_) => TEXT,
                Object::List(_) => LIST,
                Object::Hash(_) => HASH,
                Object::Set(_) => SET,
                Object::SortedSet(_) => SORTED_SET,
                Object::Stream(_) => STREAM,
                Object::Array(_) => ARRAY,
                Object::Filter(_) => FILTER,
                Object::Json(_) => JSON,
                Object::VectorSet(_) => VECTOR_SET,
            },
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Body::Int(number) => number::width(*number),
            Body::Raw(bytes) | Body::Edited(bytes) => bytes.len(),
            Body::Object(_) => 0,
        }
    }
}

impl<'a> Body<'a> {
    fn string(bytes: &'a [u8], origin: Origin) -> Self {
        match origin {
            _ if bytes.len() > RAW_MAX => Body::Object(Object::Text(pace::copied(bytes))),
            Origin::Given => canonical_integer(bytes).map_or(Body::Raw(bytes), Body::Int),
            Origin::Computed => Body::Raw(bytes),
            Origin::Edited => Body::Edited(bytes),
        }
    }
}

impl Record {
    /// The offset of the key, for each meta: after the header, the object and the expiry.
    const KEY_OFFSETS: [u8; METAS] = {
        let mut offsets = [0; METAS];
        let mut meta = 0;
        while meta < METAS as u8 {
            offsets[meta as usize] =
                Self::expiry_offset(meta) as u8 + if meta & EXPIRY == 0 { 0 } else { EXPIRY_BYTES as u8 };
            meta += 1;
        }
        offsets
    };

    const fn expiry_offset(meta: u8) -> usize {
        if meta & OBJECT == 0 { header_bytes(meta) } else { object_offset(meta) + OBJECT_BYTES }
    }

    #[inline(always)]
    fn key_offset(meta: u8) -> usize {
        usize::from(Self::KEY_OFFSETS[usize::from(meta) % METAS])
    }

    /// A record of a string; `expiry` in Unix milliseconds. The record itself finds out whether the value is an integer.
    pub fn new_raw(key: &[u8], value: &[u8], expiry: Option<u64>) -> Self {
        Self::new_string(key, value, Origin::Given, expiry)
    }

    /// As [`Self::new_raw`], for a string of any origin.
    pub fn new_string(key: &[u8], value: &[u8], origin: Origin, expiry: Option<u64>) -> Self {
        Self::build(key, 0, Body::string(value, origin), expiry)
    }

    /// A record of anything else, or of a string too long to be stored with its key.
    pub fn new_object(key: &[u8], object: Object, expiry: Option<u64>) -> Self {
        Self::build(key, 0, Body::Object(object), expiry)
    }

    #[inline]
    pub fn key(&self) -> &[u8] {
        let meta = self.meta();
        // SAFETY: the key is at the offset that the meta gives, as long as the key length says.
        unsafe { read_bytes(self.0.as_ptr().add(Self::key_offset(meta)), self.key_len(meta)) }
    }

    #[inline]
    pub fn value(&self) -> Value<'_> {
        let meta = self.meta();
        if meta & OBJECT != 0 {
            return Value::Object(self.object(meta));
        }
        // SAFETY: the data follow the key, as long as the data length says.
        let data = unsafe {
            let at = self.0.as_ptr().add(Self::key_offset(meta) + self.key_len(meta));
            read_bytes(at, self.data_len(meta))
        };
        if meta & INT != 0 { Value::Int(number::decode(data)) } else { Value::Raw(data) }
    }

    /// How the string came to be, as far as its form still says so: [`Origin::Computed`] for other bytes that were not changed
    /// in place, so that a copy of that origin has the same form.
    pub fn origin(&self) -> Origin {
        match self.value() {
            Value::Int(_) => Origin::Given,
            _ if self.meta() & EDITED != 0 => Origin::Edited,
            _ => Origin::Computed,
        }
    }

    /// The value, if it is a string of plain bytes, to be changed in place. Bytes that come to spell an integer stay bytes.
    pub fn raw_mut(&mut self) -> Option<&mut [u8]> {
        let meta = self.meta();
        if meta & (OBJECT | INT) != 0 {
            return None;
        }
        // SAFETY: as in `value`; the record is borrowed mutably.
        Some(unsafe {
            let at = self.0.as_ptr().add(Self::key_offset(meta) + self.key_len(meta));
            slice::from_raw_parts_mut(at, self.data_len(meta))
        })
    }

    pub fn object_mut(&mut self) -> Option<ObjectMut<'_>> {
        let meta = self.meta();
        let at = self.object_at(meta);
        // SAFETY: the meta says that the record has an object of this kind, and the record is borrowed mutably.
        unsafe {
            match meta & OBJECT_KIND {
                TEXT => Some(ObjectMut::Text(&mut *at.cast::<BoxedText>())),
                LIST => Some(ObjectMut::List(&mut *at.cast())),
                HASH => Some(ObjectMut::Hash(&mut *at.cast())),
                SET => Some(ObjectMut::Set(&mut *at.cast())),
                SORTED_SET => Some(ObjectMut::SortedSet(&mut *at.cast())),
                STREAM => Some(ObjectMut::Stream(&mut *at.cast())),
                ARRAY => Some(ObjectMut::Array(&mut *at.cast())),
                FILTER => Some(ObjectMut::Filter(&mut *at.cast())),
                JSON => Some(ObjectMut::Json(&mut *at.cast())),
                VECTOR_SET => Some(ObjectMut::VectorSet(&mut *at.cast())),
                _ => None,
            }
        }
    }

    /// Takes the object out; an empty string is left.
    pub fn take_object(&mut self) -> Option<Object> {
        let meta = self.meta();
        if meta & OBJECT == 0 {
            return None;
        }
        let emptied = Self::build(self.key(), self.access(), Body::Raw(b""), self.expiry());
        let before = mem::replace(self, emptied);
        // SAFETY: the record has an object; it is read once, since the record is freed without dropping it.
        let object = unsafe { read_object(before.object_at(meta), meta) };
        before.free_shell();
        Some(object)
    }

    /// When the key expires, in Unix milliseconds.
    #[inline]
    pub fn expiry(&self) -> Option<u64> {
        let meta = self.meta();
        // SAFETY: the meta says that the record has an expiry.
        (meta & EXPIRY != 0).then(|| u64::from_le(unsafe { self.expiry_at(meta).read_unaligned() }))
    }

    /// If an expiry is added or removed, everything after it moves by eight bytes, sometimes to another allocation.
    pub fn set_expiry(&mut self, expiry: Option<u64>) {
        let meta = self.meta();
        let wanted = if expiry.is_some() { meta | EXPIRY } else { meta & !EXPIRY };
        if wanted != meta {
            let (from, to) = (Self::key_offset(meta), Self::key_offset(wanted));
            let tail = self.key_len(meta) + self.data_len(meta);
            let (needed, wanted_bytes) = (from + tail, to + tail);
            let start = self.0.as_ptr();
            // SAFETY: key and data follow the expiry together. Either the allocation has room for them at their new
            // offset; or all is copied to one that has, and the object, which was copied too, is not dropped with the
            // shell.
            unsafe {
                if block_size(needed) == block_size(wanted_bytes) {
                    start.add(to).copy_from(start.add(from), tail);
                } else {
                    let block = block::allocate(wanted_bytes);
                    block.as_ptr().copy_from_nonoverlapping(start, Self::expiry_offset(meta));
                    block.as_ptr().add(to).copy_from_nonoverlapping(start.add(from), tail);
                    block::free(self.0, needed);
                    self.0 = block;
                }
                self.0.as_ptr().write(wanted);
            }
        }
        if let Some(expiry) = expiry {
            // SAFETY: the record has an expiry now.
            unsafe { self.expiry_at(wanted).write_unaligned(expiry.to_le()) };
        }
    }

    /// Replaces value and expiry. Nothing is allocated when the new ones need an allocation of the same block size.
    pub fn set_raw(&mut self, value: &[u8], expiry: Option<u64>) {
        self.set_string(value, Origin::Given, expiry);
    }

    /// As [`Self::set_raw`], for a string of any origin.
    pub fn set_string(&mut self, value: &[u8], origin: Origin, expiry: Option<u64>) {
        if value.len() > RAW_MAX
            && let Some(ObjectMut::Text(text)) = self.object_mut()
            && (value.len()..=value.len().saturating_mul(2)).contains(&text.capacity())
        {
            text.clear();
            pace::extend(text, value);
            self.set_expiry(expiry);
            return;
        }
        self.replace(Body::string(value, origin), expiry);
    }

    /// Replaces value and expiry.
    pub fn set_object(&mut self, object: Object, expiry: Option<u64>) {
        self.replace(Body::Object(object), expiry);
    }

    /// A clock or counter of 24 bits.
    #[inline]
    pub fn access(&self) -> u32 {
        // SAFETY: every record begins with four bytes of meta and access.
        unsafe { u32::from_le(self.0.as_ptr().cast::<u32>().read()) >> (8 * ACCESS) }
    }

    #[inline]
    pub fn set_access(&mut self, access: u32) {
        let word = access << (8 * ACCESS) | u32::from(self.meta());
        // SAFETY: every record begins with four bytes of meta and access, and is aligned to 8.
        unsafe { self.0.as_ptr().cast::<u32>().write(word.to_le()) };
    }

    /// The bytes of the record's own allocation.
    pub fn shell_bytes(&self) -> usize {
        block_size(self.needed())
    }

    #[inline(always)]
    fn meta(&self) -> u8 {
        // SAFETY: every record begins with its meta.
        unsafe { self.0.as_ptr().read() }
    }

    #[inline(always)]
    fn key_len(&self, meta: u8) -> usize {
        // SAFETY: the key length is in one byte or, by the meta, in four, which are aligned.
        unsafe {
            let at = self.0.as_ptr().add(KEY_LENGTH);
            if meta & LONG_KEY == 0 { usize::from(at.read()) } else { u32::from_le(at.cast::<u32>().read()) as usize }
        }
    }

    #[inline(always)]
    fn data_len(&self, meta: u8) -> usize {
        // SAFETY: the two bytes before the end of the header are the data length.
        let len = unsafe { self.0.as_ptr().add(header_bytes(meta) - 2).cast::<u16>().read_unaligned() };
        usize::from(u16::from_le(len))
    }

    fn object_at(&self, meta: u8) -> *mut u8 {
        // It is inside the allocation if the record has an object, the only case in which it is used.
        self.0.as_ptr().wrapping_add(object_offset(meta))
    }

    /// The object of a record whose meta says that it has one.
    fn object(&self, meta: u8) -> ObjectRef<'_> {
        let at = self.object_at(meta);
        // SAFETY: the meta says that the record has an object of this kind, and it stays while the record is borrowed.
        unsafe {
            match meta & OBJECT_KIND {
                LIST => ObjectRef::List(&*at.cast()),
                HASH => ObjectRef::Hash(&*at.cast()),
                SET => ObjectRef::Set(&*at.cast()),
                SORTED_SET => ObjectRef::SortedSet(&*at.cast()),
                STREAM => ObjectRef::Stream(&*at.cast()),
                ARRAY => ObjectRef::Array(&*at.cast()),
                FILTER => ObjectRef::Filter(&*at.cast()),
                JSON => ObjectRef::Json(&*at.cast()),
                VECTOR_SET => ObjectRef::VectorSet(&*at.cast()),
                TEXT => ObjectRef::Text(&*at.cast::<BoxedText>()),
                _ => unreachable!("a record's object is of a known kind"),
            }
        }
    }

    fn expiry_at(&self, meta: u8) -> *mut u64 {
        // SAFETY: the offset is inside the allocation if the record has an expiry, the only case in which it is used.
        unsafe { self.0.as_ptr().add(Self::expiry_offset(meta)).cast() }
    }

    /// The bytes that the content needs; the allocation is of their block size.
    fn needed(&self) -> usize {
        let meta = self.meta();
        Self::key_offset(meta) + self.key_len(meta) + self.data_len(meta)
    }

    fn build(key: &[u8], access: u32, body: Body<'_>, expiry: Option<u64>) -> Self {
        let meta = Self::meta_of(key.len(), &body, expiry);
        let block = block::allocate(Self::key_offset(meta) + key.len() + body.data_len());
        // SAFETY: the allocation has room for the key at its offset.
        unsafe { write_bytes(block.as_ptr().add(Self::key_offset(meta)), key) };
        let mut record = Self(block);
        // SAFETY: the key is in place, the allocation has room for the rest, and it holds no object yet.
        unsafe { record.write_around_key(meta, key.len(), access, body, expiry) };
        record
    }

    fn meta_of(key_len: usize, body: &Body<'_>, expiry: Option<u64>) -> u8 {
        let long_key = if key_len > usize::from(u8::MAX) { LONG_KEY } else { 0 };
        let has_expiry = if expiry.is_some() { EXPIRY } else { 0 };
        body.meta() | long_key | has_expiry
    }

    /// Writes everything but the key.
    ///
    /// # Safety
    /// The allocation has room for this content, the key is at the offset that `meta` gives, and no object would be
    /// overwritten.
    unsafe fn write_around_key(&mut self, meta: u8, key_len: usize, access: u32, body: Body<'_>, expiry: Option<u64>) {
        let start = self.0.as_ptr();
        // SAFETY: each part is written where it is read, inside the allocation.
        unsafe {
            let word = access << (8 * ACCESS) | u32::from(meta);
            start.cast::<u32>().write(word.to_le());
            if meta & LONG_KEY == 0 {
                start.add(KEY_LENGTH).write(key_len as u8);
            } else {
                let key_len = u32::try_from(key_len).expect("no key is longer than 512 MiB");
                start.add(KEY_LENGTH).cast::<u32>().write(key_len.to_le());
            }
            let data_len = body.data_len() as u16;
            start.add(header_bytes(meta) - 2).cast::<u16>().write_unaligned(data_len.to_le());
            if let Some(expiry) = expiry {
                self.expiry_at(meta).write_unaligned(expiry.to_le());
            }
            let data = start.add(Self::key_offset(meta) + key_len);
            match body {
                Body::Int(number) => drop(write_bytes(data, &number.to_le_bytes()[..number::width(number)])),
                Body::Raw(bytes) | Body::Edited(bytes) => drop(write_bytes(data, bytes)),
                Body::Object(object) => write_object(self.object_at(meta), object),
            }
        }
    }

    fn replace(&mut self, body: Body<'_>, expiry: Option<u64>) {
        let (before, key_len) = (self.meta(), self.key_len(self.meta()));
        let meta = Self::meta_of(key_len, &body, expiry);
        let needed = Self::key_offset(meta) + key_len + body.data_len();
        if block_size(needed) != self.shell_bytes() {
            *self = Self::build(self.key(), self.access(), body, expiry);
            return;
        }
        let access = self.access();
        let start = self.0.as_ptr();
        // SAFETY: the allocation has room for the new content. The old object is taken out before anything is written over
        // it; it is dropped last, when the record is whole again.
        let _object = unsafe {
            let object = (before & OBJECT != 0).then(|| read_object(self.object_at(before), before));
            let (from, to) = (Self::key_offset(before), Self::key_offset(meta));
            if from != to {
                start.add(to).copy_from(start.add(from), key_len);
            }
            self.write_around_key(meta, key_len, access, body, expiry);
            object
        };
    }

    /// Frees the allocation but drops no object.
    fn free_shell(self) {
        let needed = self.needed();
        let block = self.0;
        mem::forget(self);
        // SAFETY: the allocation is of the class that its content needs, and the record is gone.
        unsafe { block::free(block, needed) };
    }
}

/// Takes the object of a record out.
///
/// # Safety
/// The record whose meta this is has its object at `at`, and it is not used there again.
unsafe fn read_object(at: *mut u8, meta: u8) -> Object {
    // SAFETY: the caller's promise; the meta says what kind of object it is.
    unsafe {
        match meta & OBJECT_KIND {
            LIST => Object::List(at.cast::<List>().read()),
            HASH => Object::Hash(at.cast::<Hash>().read()),
            SET => Object::Set(at.cast::<Set>().read()),
            SORTED_SET => Object::SortedSet(at.cast::<SortedSet>().read()),
            STREAM => Object::Stream(at.cast::<Stream>().read()),
            ARRAY => Object::Array(at.cast::<Array>().read()),
            FILTER => Object::Filter(at.cast::<Filter>().read()),
            JSON => Object::Json(at.cast::<Json>().read()),
            VECTOR_SET => Object::VectorSet(at.cast::<VectorSet>().read()),
            TEXT => Object::Text(*at.cast::<BoxedText>().read()),
            _ => unreachable!("a record's object is of a known kind"),
        }
    }
}

/// # Safety
/// Eight bytes at `at`, which is aligned to as many, are writable and hold no object yet.
unsafe fn write_object(at: *mut u8, object: Object) {
    // SAFETY: the caller's promise.
    unsafe {
        match object {
            Object::Text(text) => at.cast::<BoxedText>().write(Box::new(text)),
            Object::List(list) => at.cast::<List>().write(list),
            Object::Hash(hash) => at.cast::<Hash>().write(hash),
            Object::Set(set) => at.cast::<Set>().write(set),
            Object::SortedSet(set) => at.cast::<SortedSet>().write(set),
            Object::Stream(stream) => at.cast::<Stream>().write(stream),
            Object::Array(array) => at.cast::<Array>().write(array),
            Object::Filter(filter) => at.cast::<Filter>().write(filter),
            Object::Json(json) => at.cast::<Json>().write(json),
            Object::VectorSet(set) => at.cast::<VectorSet>().write(set),
        }
    }
}

impl Entry for Record {
    #[inline]
    fn key(&self) -> &[u8] {
        self.key()
    }

    /// The bytes of the record's allocation, of a text's box, and of what the object owns.
    fn heap_bytes(&self) -> usize {
        let object = match self.value() {
            Value::Object(object @ ObjectRef::Text(_)) => size_class(size_of::<Vec<u8>>()) + object.heap_bytes(),
            Value::Object(object) => object.heap_bytes(),
            _ => 0,
        };
        self.shell_bytes() + object
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }

    #[inline]
    fn owned_address(&self) -> Option<*const u8> {
        match self.value() {
            Value::Object(object) => Some(object.address()),
            Value::Int(_) | Value::Raw(_) => None,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let meta = self.meta();
        if meta & OBJECT != 0 {
            // SAFETY: the record goes, so the object is never seen again.
            drop(unsafe { read_object(self.object_at(meta), meta) });
        }
        // SAFETY: the allocation is of the class that its content needs.
        unsafe { block::free(self.0, self.needed()) };
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.key().escape_ascii(), self.value())
    }
}
