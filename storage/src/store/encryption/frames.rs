//! The bytes of an encrypted object: frames that are sealed one by one, so that a part can be read alone.
//!
//! ```text
//! object:  frame | frame | ... | frame          an empty object stays empty
//! frame:   "DMSF" | key number u32 LE | salt, 8 bytes | up to 16 KiB, encrypted | tag, 16 bytes
//! ```
//!
//! Every frame but the last holds 16 KiB of the object, so the place of each follows from the offset in the object, and the
//! object's size from that of its frames. A frame names the key and the salt, so a range needs no second request.
//!
//! - The key of an object is derived (HKDF-SHA-256) from its data key and its **name**. So an object that is copied to another
//!   name cannot be opened there.
//! - The nonce is the **salt**, random and the same in all frames of an object, and the frame's **number**. A name is used for
//!   one object, and for a few attempts to write it at most, so 64 random bits never repeat.
//! - The associated data is the **size** of the whole object. So a frame that is left out, moved or appended is noticed.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use aws_lc_rs::rand;
use bytes::Bytes;
use object_store::PutPayload;

use super::keys::{CryptoFailure, DataKey};

const MAGIC: &[u8; 4] = b"DMSF";
const SALT_BYTES: usize = 8;
const HEAD_BYTES: usize = 8 + SALT_BYTES;
const TAG_BYTES: usize = 16;

/// Bytes of an object in one frame.
pub(in crate::store) const FRAME_BYTES: u64 = 16 << 10;
/// Bytes that a frame has beside them.
pub(in crate::store) const EXTRA_BYTES: u64 = (HEAD_BYTES + TAG_BYTES) as u64;
/// Bytes of a whole frame.
pub(in crate::store) const SEALED_BYTES: u64 = FRAME_BYTES + EXTRA_BYTES;

/// The size of an object whose frames have this size; none if frames cannot have it.
pub(in crate::store) fn plain_bytes(sealed: u64) -> Option<u64> {
    let frames = sealed.div_ceil(SEALED_BYTES);
    let plain = sealed.checked_sub(frames.checked_mul(EXTRA_BYTES)?)?;
    (plain.div_ceil(FRAME_BYTES) == frames).then_some(plain)
}

/// The range of the frames that hold the range of an object.
pub(in crate::store) fn frames_of(range: &std::ops::Range<u64>) -> std::ops::Range<u64> {
    range.start / FRAME_BYTES * SEALED_BYTES..range.end.div_ceil(FRAME_BYTES).saturating_mul(SEALED_BYTES)
}

/// The number of the key that sealed these frames; none if they are no frames.
pub(in crate::store) fn key_number(frames: &[u8]) -> Option<u32> {
    let number = frames.strip_prefix(MAGIC)?.first_chunk()?;
    Some(u32::from_le_bytes(*number))
}

/// The frames of an object.
///
/// # Errors
/// When the object has more frames than can be numbered, or the system has no randomness.
pub(super) fn seal(key: &DataKey, number: u32, name: &str, object: &PutPayload) -> Result<Bytes, &'static str> {
    let total = object.content_length() as u64;
    let count = u32::try_from(total.div_ceil(FRAME_BYTES)).map_err(|_| "it is too large to be encrypted")?;
    let cipher = object_key(key, name)?;
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt).map_err(|_| "the system has no randomness")?;
    let mut out = Vec::with_capacity(object.content_length() + count as usize * EXTRA_BYTES as usize);
    let mut parts = object.iter().map(|part| &part[..]);
    let mut part: &[u8] = &[];
    for frame in 0..count {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&salt);
        let start = out.len();
        let mut left = (total - u64::from(frame) * FRAME_BYTES).min(FRAME_BYTES) as usize;
        while left > 0 {
            if part.is_empty() {
                part = parts.next().ok_or("it is shorter than it says")?;
                continue;
            }
            let (now, later) = part.split_at(left.min(part.len()));
            out.extend_from_slice(now);
            left -= now.len();
            part = later;
        }
        let tag = cipher
            .seal_in_place_separate_tag(nonce(salt, frame), Aad::from(total.to_le_bytes()), &mut out[start..])
            .map_err(|_| "it cannot be encrypted")?;
        out.extend_from_slice(tag.as_ref());
    }
    Ok(out.into())
}

/// Opens frames that follow each other, the first of which is number `first` of an object of `total` bytes.
///
/// # Errors
/// When these are not the frames that were written there.
pub(super) fn open(key: &DataKey, name: &str, first: u64, total: u64, frames: &[u8]) -> Result<Bytes, &'static str> {
    const NOT_THE_FRAMES: &str = "it is not what was written there: its encryption does not fit its key, name and size";
    let cipher = object_key(key, name)?;
    let head = frames.get(..HEAD_BYTES).ok_or(NOT_THE_FRAMES)?;
    let salt: [u8; SALT_BYTES] = head[HEAD_BYTES - SALT_BYTES..].try_into().map_err(|_| NOT_THE_FRAMES)?;
    let count = frames.len().div_ceil(SEALED_BYTES as usize);
    let mut out = vec![0; frames.len().saturating_sub(count * EXTRA_BYTES as usize)];
    let mut opened = out.chunks_mut(FRAME_BYTES as usize);
    for (frame, at) in frames.chunks(SEALED_BYTES as usize).zip(first..) {
        let body = frame.strip_prefix(head).ok_or(NOT_THE_FRAMES)?;
        let (sealed, tag) = body.split_at_checked(body.len().wrapping_sub(TAG_BYTES)).ok_or(NOT_THE_FRAMES)?;
        let into = opened.next().filter(|into| into.len() == sealed.len()).ok_or(NOT_THE_FRAMES)?;
        let nonce = nonce(salt, u32::try_from(at).map_err(|_| NOT_THE_FRAMES)?);
        let aad = Aad::from(total.to_le_bytes());
        cipher.open_separate_gather(nonce, aad, sealed, tag, into).map_err(|_| NOT_THE_FRAMES)?;
    }
    Ok(out.into())
}

fn object_key(key: &DataKey, name: &str) -> Result<LessSafeKey, &'static str> {
    key.derive(&[b"dormouse object\0", name.as_bytes()]).map_err(|CryptoFailure| "its key cannot be derived")
}

fn nonce(salt: [u8; SALT_BYTES], frame: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..SALT_BYTES].copy_from_slice(&salt);
    nonce[SALT_BYTES..].copy_from_slice(&frame.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey::of(&[byte; 32])
    }

    fn sealed(object: &[u8]) -> Bytes {
        // In parts of odd lengths, as a chunk may come.
        let payload: PutPayload = object.chunks(777).map(Bytes::copy_from_slice).collect();
        seal(&key(1), 9, "db/a/chunk/1", &payload).unwrap()
    }

    fn object(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn objects_of_any_size_come_back_whole_and_in_parts() {
        let frame = FRAME_BYTES as usize;
        for bytes in [0, 1, 5, frame - 1, frame, frame + 1, 3 * frame, 3 * frame + 7] {
            let object = object(bytes);
            let frames = sealed(&object);
            let total = bytes as u64;
            assert_eq!(plain_bytes(frames.len() as u64), Some(total));
            assert!(bytes == 0 || key_number(&frames) == Some(9));
            for first in 0..total.div_ceil(FRAME_BYTES) {
                let from = (first * SEALED_BYTES) as usize;
                let opened = open(&key(1), "db/a/chunk/1", first, total, &frames[from..]).unwrap();
                assert_eq!(opened, object[first as usize * frame..]);
            }
        }
        for impossible in [1, EXTRA_BYTES, SEALED_BYTES + 1, SEALED_BYTES + EXTRA_BYTES, 2 * SEALED_BYTES + 3] {
            assert_eq!(plain_bytes(impossible), None);
        }
        assert_eq!(frames_of(&(0..1)), 0..SEALED_BYTES);
        assert_eq!(frames_of(&(FRAME_BYTES..FRAME_BYTES + 1)), SEALED_BYTES..2 * SEALED_BYTES);
        assert_eq!(frames_of(&(FRAME_BYTES - 1..2 * FRAME_BYTES)), 0..2 * SEALED_BYTES);
    }

    #[test]
    fn other_bytes_places_and_keys_are_refused() {
        let object = object(40_000);
        let (frames, total) = (sealed(&object), object.len() as u64);
        let refused = |name: &str, first: u64, total: u64, frames: &[u8]| {
            open(&key(1), name, first, total, frames).unwrap_err();
        };
        refused("db/a/chunk/2", 0, total, &frames);
        open(&key(2), "db/a/chunk/1", 0, total, &frames).unwrap_err();
        let step = SEALED_BYTES as usize;
        refused("db/a/chunk/1", 1, total, &frames[..step]);
        let swapped = [&frames[step..2 * step], &frames[..step], &frames[2 * step..]].concat();
        refused("db/a/chunk/1", 0, total, &swapped);
        // Cut at the end of a frame, so that the rest looks like an object.
        refused("db/a/chunk/1", 0, 2 * FRAME_BYTES, &frames[..2 * step]);
        let doubled = [&frames[..step], &frames[..step], &frames[step..]].concat();
        refused("db/a/chunk/1", 0, total + FRAME_BYTES, &doubled);
        // Of another object under the same name.
        let other = sealed(&object);
        refused("db/a/chunk/1", 0, total, &[&frames[..step], &other[step..]].concat());
        for at in (0..frames.len()).step_by(97).chain([0, 4, 8, 15, 16, frames.len() - 1]) {
            let mut damaged = frames.to_vec();
            damaged[at] ^= 1;
            refused("db/a/chunk/1", 0, total, &damaged);
        }
        for length in [0, 1, HEAD_BYTES, step - 1, step + 3, step + HEAD_BYTES] {
            let _ = open(&key(1), "db/a/chunk/1", 0, total, &frames[..length]);
            refused("db/a/chunk/1", 0, length as u64, &frames[..length]);
        }
    }

    #[test]
    fn nothing_shows() {
        let object = vec![b'a'; 100_000];
        let frames = sealed(&object);
        assert!(!frames.windows(8).any(|window| window == b"aaaaaaaa"));
        assert_ne!(frames, sealed(&object), "the salt is random");
    }
}
