//! Tokens: a secret that names its database, so that `redis://:TOKEN@host` is all that a client needs.
//!
//! `dm_<database>_<secret>` opens `<database>`; any other text is as a whole the secret of the database `default`. A secret
//! opens the branches of its database too, and theirs: with `dm_shop_x`, a client enters the branch `pr-1` of `shop` with
//! `dm_pr-1_x`.

use std::fmt;
use std::str::FromStr;

/// The database of clients that present no token, or one that names no database.
pub const DEFAULT_DATABASE: &str = "default";

/// Longest name of a database. A usage event's id holds the name and stays within 100 characters.
pub const DATABASE_NAME_LEN_MAX: usize = 63;

const PREFIX: &str = "dm_";

/// A secret and the database that it opens. Its `Debug` and `Display` show the database only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    database: String,
    secret: String,
}

impl Token {
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Whether `presented` is this token, whole. Takes as long for a near miss as for a far one.
    pub fn matches(&self, presented: &[u8]) -> bool {
        same(self.secret.as_bytes(), presented)
    }

    /// What is secret of it: the text behind `dm_<database>_`.
    fn secret_part(&self) -> &[u8] {
        parts(self.secret.as_bytes()).map_or(self.secret.as_bytes(), |(_, secret)| secret)
    }
}

/// Takes as long for a near miss as for a far one.
fn same(secret: &[u8], presented: &[u8]) -> bool {
    let differing = secret.iter().zip(presented).fold(0, |differing, (a, b)| differing | (a ^ b));
    secret.len() == presented.len() && std::hint::black_box(differing) == 0
}

/// The database and the secret of `dm_<database>_<secret>`.
fn parts(token: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = token.strip_prefix(PREFIX.as_bytes())?;
    let end = memchr::memchr(b'_', rest)?;
    Some((&rest[..end], &rest[end + 1..]))
}

/// The database that a presented text names, whether or not its secret is right.
pub fn named_database(presented: &[u8]) -> Option<&str> {
    parts(presented).and_then(|(database, _)| std::str::from_utf8(database).ok())
}

/// Whether a presented text has the secret of a token of one of `ancestors`. Every token is compared.
pub fn inherits(tokens: &[Token], presented: &[u8], ancestors: &[String]) -> bool {
    let secret = parts(presented).map_or(&[][..], |(_, secret)| secret);
    tokens.iter().fold(false, |found, token| {
        let is_right = same(token.secret_part(), secret);
        found | (is_right & ancestors.iter().any(|ancestor| ancestor == token.database()))
    })
}

/// Which database a presented token opens. Every token is compared, so that the time says nothing about their order.
pub fn database_of<'a>(tokens: &'a [Token], presented: &[u8]) -> Option<&'a str> {
    tokens.iter().fold(None, |found, token| if token.matches(presented) { Some(token.database()) } else { found })
}

/// Names are safe in a path, a host name, a metric label and a token: lower-case letters, digits and inner hyphens.
pub fn check_database_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = !name.is_empty()
        && name.len() <= DATABASE_NAME_LEN_MAX
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits {
        return Ok(());
    }
    Err(format!(
        "`{}` is no name for a database: 1 to {DATABASE_NAME_LEN_MAX} lower-case letters, digits and inner hyphens",
        name.escape_default()
    ))
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a token must not be empty".to_string());
        }
        if text.len() > 512 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token is at most 512 printable ASCII characters without spaces".to_string());
        }
        if [",dm_", ";dm_"].iter().any(|separated| text.contains(separated)) {
            return Err("several tokens are separated by spaces, not by commas or semicolons".to_string());
        }
        let database = match text.strip_prefix(PREFIX) {
            None => DEFAULT_DATABASE,
            Some(rest) => match rest.split_once('_') {
                Some((database, secret)) if !secret.is_empty() => {
                    check_database_name(database)?;
                    database
                }
                _ => return Err("a token that starts with dm_ has the form dm_<database>_<secret>".to_string()),
            },
        };
        Ok(Token { database: database.to_string(), secret: text.to_string() })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a token of `{}`", self.database)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("database", &self.database).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_database() {
        let long = format!("dm_{}_s", "a".repeat(64));
        for (text, expected) in [
            ("hunter2", Ok("default")),
            ("dm-shop-s3cret", Ok("default")),
            ("dm_shop_s3cret", Ok("shop")),
            ("dm_shop_with_underscores_", Ok("shop")),
            ("dm_my-shop-2_x", Ok("my-shop-2")),
            ("dm_shop", Err("dm_<database>_<secret>")),
            ("dm_shop_", Err("dm_<database>_<secret>")),
            ("dm__x", Err("no name for a database")),
            ("dm_Shop_x", Err("no name for a database")),
            ("dm_../etc_x", Err("no name for a database")),
            ("dm_-a_x", Err("no name for a database")),
            (&long, Err("no name for a database")),
            ("", Err("must not be empty")),
            ("two words", Err("without spaces")),
            ("grün", Err("ASCII")),
        ] {
            match (text.parse::<Token>(), expected) {
                (Ok(token), Ok(database)) => {
                    assert_eq!(token.database(), database, "{text}");
                    assert!(token.matches(text.as_bytes()));
                    assert!(!format!("{token:?} {token}").contains(text), "{token:?} shows its secret");
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (got, _) => panic!("{text} -> {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_branch_has_the_secrets_of_what_it_descends_from() {
        let tokens: Vec<Token> = ["hunter2", "dm_shop_x_1", "dm_other_x2"].iter().map(|t| t.parse().unwrap()).collect();
        let ancestors = |names: &str| names.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        for (presented, from, expected) in [
            ("dm_pr-1_x_1", "shop", true),
            ("dm_pr-1_x_1", "pr-0 shop", true),
            ("dm_pr-1_hunter2", "default", true),
            ("dm_pr-1_x2", "shop", false),
            ("dm_pr-1_x_1", "default", false),
            ("dm_pr-1_x_1", "", false),
            ("dm_pr-1_x_", "shop", false),
            ("dm_pr-1_", "shop default", false),
            ("x_1", "shop", false),
            ("hunter2", "default", false),
            ("", "shop default", false),
        ] {
            assert_eq!(inherits(&tokens, presented.as_bytes(), &ancestors(from)), expected, "{presented} from {from}");
        }
        assert_eq!(named_database(b"dm_pr-1_x_1"), Some("pr-1"));
        assert_eq!(named_database(b"dm_pr-1"), None);
        assert_eq!(named_database(b"hunter2"), None);
    }

    #[test]
    fn only_the_whole_token_opens_its_database() {
        let tokens: Vec<Token> = ["hunter2", "dm_shop_x1"].iter().map(|text| text.parse().unwrap()).collect();
        for (presented, expected) in [
            ("hunter2", Some("default")),
            ("dm_shop_x1", Some("shop")),
            ("dm_shop_x", None),
            ("dm_shop_x11", None),
            ("dm_shop_x2", None),
            ("x1", None),
            ("", None),
        ] {
            assert_eq!(database_of(&tokens, presented.as_bytes()), expected, "{presented}");
        }
    }
}
