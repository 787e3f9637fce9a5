//! Keys in memory, and how one key wraps another.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// Bytes of every key.
pub(super) const KEY_BYTES: usize = 32;

/// The bytes of a key, which are overwritten when they are dropped.
pub(super) type KeyBytes = Zeroizing<[u8; KEY_BYTES]>;

/// The system has no randomness, or cryptography fails for a reason that it does not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CryptoFailure;

/// A new random key.
pub(super) fn new_key() -> Result<KeyBytes, CryptoFailure> {
    let mut key = KeyBytes::default();
    rand::fill(&mut key[..]).map_err(|_| CryptoFailure)?;
    Ok(key)
}

/// Encrypts a key, or something else that is short, under `wrapping`: a random nonce, the ciphertext, the tag.
pub(super) fn wrap(wrapping: &LessSafeKey, context: &str, secret: &[u8]) -> Result<Vec<u8>, CryptoFailure> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(|_| CryptoFailure)?;
    let mut secret = Zeroizing::new(secret.to_vec());
    let aad = Aad::from(context.as_bytes());
    let tag = wrapping
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut secret)
        .map_err(|_| CryptoFailure)?;
    Ok([&nonce[..], &secret, tag.as_ref()].concat())
}

/// Decrypts the output of [`wrap`]; none if it was another key, another context or other bytes.
pub(super) fn unwrap(wrapping: &LessSafeKey, context: &str, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = wrapped.split_first_chunk::<NONCE_LEN>()?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let aad = Aad::from(context.as_bytes());
    let opened = wrapping.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut sealed).ok()?.len();
    sealed.truncate(opened);
    Some(sealed)
}

/// The key that encrypts with these bytes.
pub(super) fn wrapping_key(bytes: &[u8; KEY_BYTES]) -> Result<LessSafeKey, CryptoFailure> {
    UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new).map_err(|_| CryptoFailure)
}

/// The key that the keys of objects are derived from. Clones share it.
#[derive(Clone)]
pub(super) struct DataKey(Arc<Prk>);

impl DataKey {
    pub(super) fn of(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(Arc::new(Salt::new(HKDF_SHA256, b"dormouse data key").extract(bytes)))
    }

    /// The key for one purpose.
    pub(super) fn derive(&self, purpose: &[&[u8]]) -> Result<LessSafeKey, CryptoFailure> {
        let derived = self.0.expand(purpose, &AES_256_GCM).map_err(|_| CryptoFailure)?;
        Ok(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wrapped_comes_back_with_the_same_key_and_context_only() {
        let key = wrapping_key(&[7; KEY_BYTES]).unwrap();
        let wrapped = wrap(&key, "here", b"secret").unwrap();
        assert_eq!(unwrap(&key, "here", &wrapped).unwrap()[..], b"secret"[..]);
        assert_ne!(wrap(&key, "here", b"secret").unwrap(), wrapped);
        assert!(unwrap(&key, "there", &wrapped).is_none());
        assert!(unwrap(&wrapping_key(&[8; KEY_BYTES]).unwrap(), "here", &wrapped).is_none());
        for at in 0..wrapped.len() {
            let mut damaged = wrapped.clone();
            damaged[at] ^= 1;
            assert!(unwrap(&key, "here", &damaged).is_none());
            assert!(unwrap(&key, "here", &wrapped[..at]).is_none());
        }
    }
}
