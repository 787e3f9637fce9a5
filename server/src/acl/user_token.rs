//! Tokens that stand for a user and his secret, for requests over HTTP: see [`crate::rest`].
//!
//! Such a token is `dmr_` and the base64 of the user's name, a NUL, and the secret that `AUTH` takes behind the name. So it
//! needs no memory, survives a restart, and ends with the password.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const PREFIX: &str = "dmr_";

/// Returns the token that opens what `AUTH user secret` opens.
pub fn of(user: &[u8], secret: &[u8]) -> String {
    PREFIX.to_owned() + &URL_SAFE_NO_PAD.encode([user, b"\0", secret].concat())
}

/// The user and the secret of a token; `None` if it is of another kind.
pub fn parts(token: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let decoded = URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX.as_bytes())?).ok()?;
    let end = memchr::memchr(0, &decoded)?;
    Some((decoded[..end].to_vec(), decoded[end + 1..].to_vec()))
}
