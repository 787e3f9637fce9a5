//! The encryption of a process's log, frame by frame.
//!
//! Each process that writes a log has a key for it, in the store as long as its log is. A frame's key is derived from that and
//! a random **salt** of the frame, so a frame that is written again, or copied into a later object, needs no other nonce. The
//! associated data is the frame's head: so its place in the log, by its lsn, is bound to its contents.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use aws_lc_rs::rand;

use super::keys::{CryptoFailure, DataKey};

const SALT_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// Bytes that an encrypted frame has more than another one: a salt and two tags.
pub const SEALED_FRAME_BYTES: usize = SALT_BYTES + 2 * TAG_BYTES;

/// Encrypts and decrypts the frames of one writer.
#[derive(Debug, Clone)]
pub struct LogCipher {
    key: DataKey,
    writer: u64,
}

impl LogCipher {
    pub(super) fn new(key: DataKey, writer: u64) -> Self {
        Self { key, writer }
    }

    /// Encrypts the entries of a frame where they are. Returns what stands in the place of its names: the salt, the tag of
    /// the entries, the encrypted names and their tag. `head`: the bytes of the frame before the names.
    ///
    /// # Errors
    /// When the system has no randomness: nothing is changed.
    pub fn seal(&self, head: &[u8], names: &[u8], entries: &mut [u8]) -> Result<Vec<u8>, &'static str> {
        const FAILED: &str = "the system has no randomness";
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_| FAILED)?;
        let key = self.frame_key(&salt).map_err(|CryptoFailure| FAILED)?;
        let mut names = names.to_vec();
        let of_names = key.seal_in_place_separate_tag(nonce(1), Aad::from(head), &mut names).map_err(|_| FAILED)?;
        let of_entries = key.seal_in_place_separate_tag(nonce(2), Aad::from(head), entries).map_err(|_| FAILED)?;
        Ok([&salt[..], of_entries.as_ref(), &names, of_names.as_ref()].concat())
    }

    /// The names and the entries of a frame; none if this is not what was written under that head.
    pub fn open(&self, head: &[u8], names: &[u8], entries: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let (salt, rest) = names.split_first_chunk::<SALT_BYTES>()?;
        let (of_entries, rest) = rest.split_first_chunk::<TAG_BYTES>()?;
        let (names, of_names) = rest.split_last_chunk::<TAG_BYTES>()?;
        let key = self.frame_key(salt).ok()?;
        let open = |number, sealed: &[u8], tag: &[u8]| {
            let mut opened = vec![0; sealed.len()];
            key.open_separate_gather(nonce(number), Aad::from(head), sealed, tag, &mut opened).ok()?;
            Some(opened)
        };
        Some((open(1, names, of_names)?, open(2, entries, of_entries)?))
    }

    fn frame_key(&self, salt: &[u8; SALT_BYTES]) -> Result<LessSafeKey, CryptoFailure> {
        self.key.derive(&[b"dormouse log frame\0", &self.writer.to_le_bytes(), salt])
    }
}

/// Each key is of one frame, which has two parts.
fn nonce(part: u8) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 1] = part;
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_under_its_head_only() {
        let cipher = LogCipher::new(DataKey::of(&[1; 32]), 7);
        let mut sealed = b"entries".to_vec();
        let names = cipher.seal(b"head", b"names", &mut sealed).unwrap();
        assert_eq!(names.len(), b"names".len() + SEALED_FRAME_BYTES);
        assert_ne!(sealed, b"entries");
        assert_eq!(cipher.open(b"head", &names, &sealed), Some((b"names".to_vec(), b"entries".to_vec())));
        assert_eq!(cipher.open(b"heap", &names, &sealed), None);
        assert_eq!(LogCipher::new(DataKey::of(&[1; 32]), 8).open(b"head", &names, &sealed), None);
        assert_eq!(LogCipher::new(DataKey::of(&[2; 32]), 7).open(b"head", &names, &sealed), None);
        for at in 0..names.len() {
            let mut damaged = names.clone();
            damaged[at] ^= 1;
            assert_eq!(cipher.open(b"head", &damaged, &sealed), None);
            assert_eq!(cipher.open(b"head", &names[..at], &sealed), None);
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(cipher.open(b"head", &names, &damaged), None);
        }
    }
}
