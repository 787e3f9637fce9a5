//! Secrets of tokens: made here, shown once, kept as hashes.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use dormouse_storage::directory::{DatabaseRecord, TokenRecord};

use crate::acl::password::generate;

/// Hexadecimal digits of a secret: 160 bits.
const SECRET_DIGITS: usize = 40;

/// A new secret, and its hash.
pub fn new_secret() -> (String, [u8; 32]) {
    let secret = generate(SECRET_DIGITS);
    let hash = hash_of(secret.as_bytes());
    (secret, hash)
}

/// The text that opens `database` with a secret.
pub fn token_text(database: &str, secret: &str) -> String {
    format!("dm_{database}_{secret}")
}

pub fn hash_of(secret: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, secret).as_ref());
    hash
}

/// Finds the token of a database that has this hash. Every token is compared, each in the same time, and one is compared
/// even if there is no such database.
pub fn find_token<'a>(record: Option<&'a DatabaseRecord>, hash: &[u8; 32]) -> Option<&'a TokenRecord> {
    let nothing = std::hint::black_box([0; 32]);
    let is_nothing = verify_slices_are_equal(&nothing, hash).is_ok();
    let tokens = record.map(|record| &record.tokens[..]).unwrap_or_default();
    let found =
        tokens.iter().fold(
            None,
            |found, token| {
                if verify_slices_are_equal(&token.hash, hash).is_ok() { Some(token) } else { found }
            },
        );
    found.filter(|_| !is_nothing)
}

#[cfg(test)]
mod tests {
    use dormouse_storage::directory::TokenScope;

    use super::*;

    #[test]
    fn a_secret_is_found_by_its_hash_only() {
        let (first, hash) = new_secret();
        let (second, other) = new_secret();
        assert!(first != second && first.len() == SECRET_DIGITS);
        let mut record = DatabaseRecord::new("shop", 1);
        for (id, hash) in [(1, hash), (2, other)] {
            let scope = TokenScope::ReadWrite;
            record.tokens.push(TokenRecord {
                id,
                hash,
                created_ms: 1,
                expires_ms: None,
                scope,
                prefix: Box::default(),
            });
        }
        let find = |secret: &str| find_token(Some(&record), &hash_of(secret.as_bytes())).map(|token| token.id);
        assert_eq!((find(&first), find(&second)), (Some(1), Some(2)));
        assert_eq!((find(&first[1..]), find("")), (None, None));
        assert_eq!(find_token(None, &hash), None);
        assert_eq!(token_text("shop", "x"), "dm_shop_x");
    }
}
