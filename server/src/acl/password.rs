//! Passwords of users: only their SHA-256 is kept, as in Redis.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

const HASH_BYTES: usize = 32;

/// The hash of a password. `Display` is the text of 64 hexadecimal digits that rules and replies have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordHash([u8; HASH_BYTES]);

impl PasswordHash {
    pub fn of(password: &[u8]) -> Self {
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(digest(&SHA256, password).as_ref());
        Self(hash)
    }

    /// Reads 64 digits in lower case.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; HASH_BYTES];
        if text.len() != 2 * HASH_BYTES {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(hash))
    }

    /// Whether any of `hashes` equals this one. Every hash is compared, each in the same time.
    pub fn is_among(&self, hashes: &[Self]) -> bool {
        hashes.iter().fold(false, |found, hash| found | verify_slices_are_equal(&hash.0, &self.0).is_ok())
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// Returns this many random hexadecimal digits, from the system's generator.
pub fn generate(digits: usize) -> String {
    let mut bytes = vec![0; digits.div_ceil(2)];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    text
}
