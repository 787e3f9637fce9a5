//! Tokens: secrets that clients present with `AUTH`.
//!
//! - `dm_<database>_<secret>` opens a database and its branches. Any other text as a whole is the secret of `default`.
//! - `dm_<owner>.<branch>_<secret>` opens one branch and nothing else.
//! - The admin token has no form of its own. It is accepted only behind a user name: `AUTH admin TOKEN`.
//!
//! A client that has the secret of a database enters its branches with a token that needs no configuration: with
//! `dm_shop_x`, the branch `shop.pr-1` is entered as `dm_shop.pr-1_x`. The token names the owner, so a secret that two
//! databases happen to share opens the branches of each only with that database's own name.

use std::fmt;
use std::str::FromStr;

use super::name::{DEFAULT_DATABASE, check_full_name, owner_and_branch};

const PREFIX: &str = "dm_";

const TOKEN_LEN_MAX: usize = 512;

/// A secret and the database or branch that it opens. Its `Debug` and `Display` show the name only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    name: String,
    text: String,
}

impl Token {
    /// The database or branch that it opens.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it opens one branch, rather than a database and all of its branches.
    pub fn is_of_branch(&self) -> bool {
        owner_and_branch(&self.name).is_some()
    }

    /// Whether `presented` is exactly this token. Takes equally long for a near miss and a far one.
    pub fn matches(&self, presented: &[u8]) -> bool {
        same(self.text.as_bytes(), presented)
    }

    /// The secret part: the text after `dm_<name>_`, or the whole text if it names nothing.
    fn secret(&self) -> &[u8] {
        secret_of(&self.text)
    }
}

fn secret_of(text: &str) -> &[u8] {
    parts(text.as_bytes()).map_or(text.as_bytes(), |(_, secret)| secret)
}

/// A secret that opens no database: the admin token, or the one for `/metrics`. Its `Debug` never prints its text.
#[derive(Clone, PartialEq, Eq)]
pub struct OperatorSecret(String);

impl OperatorSecret {
    /// Takes equally long for a near miss and a far one.
    pub fn matches(&self, presented: &[u8]) -> bool {
        same(self.0.as_bytes(), presented)
    }

    /// Whether a token of a database has the same text or secret.
    fn is_alike(&self, token: &Token) -> bool {
        self.matches(token.text.as_bytes()) || self.matches(token.secret()) || secret_of(&self.0) == token.secret()
    }
}

/// Who may see `/metrics`.
#[derive(Clone, Debug, Default)]
pub enum MetricsAccess {
    /// Everyone on a server without tokens, else the holder of the admin token.
    #[default]
    AsDatabases,
    Everyone,
    /// The holder of this token, or of the admin token.
    Token(OperatorSecret),
}

impl MetricsAccess {
    /// Reads the text of the option: a token, or `none`.
    ///
    /// # Errors
    /// When it is no token, or the same as another.
    pub fn new(text: Option<&str>, tokens: &Tokens) -> Result<Self, String> {
        let Some(text) = text else { return Ok(Self::AsDatabases) };
        if text == "none" {
            return Ok(Self::Everyone);
        }
        let secret: OperatorSecret = text.parse()?;
        if tokens.is_admin(text.as_bytes()) {
            return Err("it is also the admin token: it needs a text of its own".to_string());
        }
        if let Some(token) = tokens.iter().find(|token| secret.is_alike(token)) {
            return Err(format!("it is also {token}: it needs a text of its own"));
        }
        Ok(Self::Token(secret))
    }
}

/// All tokens that a server knows.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    tokens: Vec<Token>,
    admin: Option<OperatorSecret>,
}

impl Tokens {
    /// # Errors
    /// When two tokens contradict each other.
    pub fn new(tokens: Vec<Token>, admin: Option<OperatorSecret>) -> Result<Self, String> {
        for token in &tokens {
            if let Some(admin) = &admin
                && admin.is_alike(token)
            {
                return Err(format!("the admin token is also {token}: it needs a text of its own"));
            }
            let of_owner = |other: &&Token| owner_and_branch(&token.name).is_some_and(|(owner, _)| owner == other.name);
            if let Some(owner) = tokens.iter().filter(of_owner).find(|owner| owner.secret() == token.secret()) {
                return Err(format!(
                    "{token} has the secret of {owner}: a token that opens one branch only needs a secret of its own"
                ));
            }
        }
        Ok(Self { tokens, admin })
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.admin.is_none()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter()
    }

    pub fn has_admin(&self) -> bool {
        self.admin.is_some()
    }

    pub fn is_admin(&self, presented: &[u8]) -> bool {
        self.admin.as_ref().is_some_and(|admin| admin.matches(presented))
    }

    /// Returns the token that equals `presented`. Every token is compared, so that the time does not reveal their
    /// order.
    pub fn find(&self, presented: &[u8]) -> Option<&Token> {
        self.tokens.iter().fold(None, |found, token| if token.matches(presented) { Some(token) } else { found })
    }

    /// Returns the token of the database `owner` that has the secret of `presented`, whatever name that has in front.
    /// Every token is compared.
    pub fn with_secret_of(&self, owner: &str, presented: &[u8]) -> Option<&Token> {
        let (_, secret) = parts(presented)?;
        let is_it = |token: &Token| same(token.secret(), secret) & (token.name == owner);
        self.tokens.iter().fold(None, |found, token| if is_it(token) { Some(token) } else { found })
    }

    /// The number of a token among those that were given, from 1.
    pub fn number_of(&self, token: &Token) -> usize {
        self.tokens.iter().position(|known| known == token).map_or(0, |at| at + 1)
    }
}

/// Takes equally long for a near miss and a far one.
fn same(secret: &[u8], presented: &[u8]) -> bool {
    let differing = secret.iter().zip(presented).fold(0, |differing, (a, b)| differing | (a ^ b));
    secret.len() == presented.len() && std::hint::black_box(differing) == 0
}

/// Splits `dm_<name>_<secret>` into name and secret. A name has no `_`, so the first one ends it.
fn parts(token: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = token.strip_prefix(PREFIX.as_bytes())?;
    let end = memchr::memchr(b'_', rest)?;
    Some((&rest[..end], &rest[end + 1..]))
}

/// The database or branch that a presented text names, even if its secret is wrong.
pub fn named_database(presented: &[u8]) -> Option<&str> {
    parts(presented).and_then(|(name, _)| std::str::from_utf8(name).ok())
}

/// The database or branch that a presented secret is for, and the secret without its name: `default` and the whole text
/// if it names none.
pub fn named_secret(presented: &[u8]) -> (&str, &[u8]) {
    let named = parts(presented).and_then(|(name, secret)| Some((std::str::from_utf8(name).ok()?, secret)));
    named.unwrap_or((DEFAULT_DATABASE, presented))
}

fn check_text(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("a token must not be empty".to_string());
    }
    if text.len() > TOKEN_LEN_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("a token is at most {TOKEN_LEN_MAX} printable ASCII characters without spaces"));
    }
    if [",dm_", ";dm_"].iter().any(|separated| text.contains(separated)) {
        return Err("several tokens are separated by spaces, not by commas or semicolons".to_string());
    }
    Ok(())
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        check_text(text)?;
        let name = match text.strip_prefix(PREFIX) {
            None => DEFAULT_DATABASE,
            Some(rest) => match rest.split_once('_') {
                Some((name, secret)) if !secret.is_empty() => {
                    check_full_name(name)?;
                    name
                }
                _ => return Err("a token that starts with dm_ has the form dm_<database>_<secret>".to_string()),
            },
        };
        Ok(Token { name: name.to_string(), text: text.to_string() })
    }
}

impl FromStr for OperatorSecret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        check_text(text).map(|()| OperatorSecret(text.to_string()))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a token of `{}`", self.name)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for OperatorSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(texts: &[&str], admin: Option<&str>) -> Result<Tokens, String> {
        Tokens::new(texts.iter().map(|text| text.parse().unwrap()).collect(), admin.map(|text| text.parse().unwrap()))
    }

    #[test]
    fn a_token_names_its_database() {
        let long = format!("dm_{}_s", "a".repeat(64));
        for (text, expected) in [
            ("hunter2", Ok("default")),
            ("dm-shop-s3cret", Ok("default")),
            ("dm_shop_s3cret", Ok("shop")),
            ("dm_shop_with_underscores_", Ok("shop")),
            ("dm_shop_dm_blog_x", Ok("shop")),
            ("dm_my-shop-2_x", Ok("my-shop-2")),
            ("dm_shop.pr-1_x", Ok("shop.pr-1")),
            ("dm_shop_x.y", Ok("shop")),
            ("dm_admin_x", Ok("admin")),
            ("dm_shop", Err("dm_<database>_<secret>")),
            ("dm_shop_", Err("dm_<database>_<secret>")),
            ("dm__x", Err("invalid database name")),
            ("dm_Shop_x", Err("invalid database name")),
            ("dm_../etc_x", Err("invalid branch name")),
            ("dm_shop._x", Err("invalid branch name")),
            ("dm_.pr_x", Err("invalid branch name")),
            ("dm_shop.pr.1_x", Err("invalid branch name")),
            ("dm_-a_x", Err("invalid database name")),
            (&long, Err("invalid database name")),
            ("", Err("must not be empty")),
            ("two words", Err("without spaces")),
            ("grün", Err("ASCII")),
        ] {
            match (text.parse::<Token>(), expected) {
                (Ok(token), Ok(name)) => {
                    assert_eq!(token.name(), name, "{text}");
                    assert!(token.matches(text.as_bytes()));
                    assert!(!format!("{token:?} {token}").contains(text), "{token:?} shows its secret");
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (got, _) => panic!("{text} -> {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn only_the_whole_token_opens_its_database() {
        let tokens = tokens(&["hunter2", "dm_shop_x1", "dm_shop_x1_more", "dm_shop.pr-1_own"], Some("root")).unwrap();
        for (presented, expected) in [
            ("hunter2", Some("default")),
            ("dm_shop_x1", Some("shop")),
            ("dm_shop_x1_more", Some("shop")),
            ("dm_shop.pr-1_own", Some("shop.pr-1")),
            ("dm_shop_x", None),
            ("dm_shop_x1_", None),
            ("dm_shop_x11", None),
            ("dm_shop_own", None),
            ("dm_default_hunter2", None),
            ("x1", None),
            ("root", None),
            ("", None),
        ] {
            assert_eq!(tokens.find(presented.as_bytes()).map(Token::name), expected, "{presented}");
            assert_eq!(tokens.is_admin(presented.as_bytes()), presented == "root", "{presented}");
        }
    }

    #[test]
    fn a_secret_is_that_of_its_owner() {
        let tokens =
            tokens(&["hunter2", "dm_shop_x_1", "dm_blog_shared", "dm_news_shared", "dm_shop.pr-1_own"], None).unwrap();
        for (presented, owner, expected) in [
            ("dm_shop.pr-1_x_1", "shop", true),
            ("dm_pr-1_x_1", "shop", true),
            ("dm_default.pr-1_hunter2", "default", true),
            ("dm_blog.a_shared", "blog", true),
            ("dm_news.a_shared", "news", true),
            ("dm_blog.a_shared", "shop", false),
            ("dm_shop.pr-1_shared", "shop", false),
            // The token of one branch opens no other.
            ("dm_shop.pr-2_own", "shop", false),
            ("dm_shop.pr-1_x_", "shop", false),
            ("dm_shop.pr-1_", "shop", false),
            ("dm_shop.pr-1_x_1", "", false),
            ("x_1", "shop", false),
            ("hunter2", "default", false),
            ("", "shop", false),
        ] {
            let found = tokens.with_secret_of(owner, presented.as_bytes());
            assert_eq!(found.is_some(), expected, "{presented} of {owner}");
        }
        let found = tokens.with_secret_of("news", b"dm_news.a_shared").unwrap();
        assert_eq!((found.name(), tokens.number_of(found)), ("news", 4));
        assert_eq!(named_database(b"dm_shop.pr-1_x_1"), Some("shop.pr-1"));
        assert_eq!(named_database(b"dm_pr-1"), None);
        assert_eq!(named_database(b"hunter2"), None);
    }

    #[test]
    fn tokens_that_contradict_each_other_are_refused() {
        for (texts, admin, expected) in [
            (&["root"][..], Some("root"), Err("the admin token is also a token of `default`")),
            (&["dm_shop_root"], Some("root"), Err("the admin token is also a token of `shop`")),
            (&["dm_shop_root"], Some("dm_blog.pr-1_root"), Err("the admin token is also a token of `shop`")),
            (&["dm_shop_root"], Some("dm_shop_root"), Err("the admin token is also a token of `shop`")),
            (&["dm_shop_x", "dm_shop.pr_x"], None, Err("a token of `shop.pr` has the secret of a token of `shop`")),
            (&["dm_blog_x", "dm_shop.pr_x", "dm_shop_y"], None, Ok(())),
            (&["dm_blog_x", "dm_shop_x"], Some("root"), Ok(())),
            (&[], Some("root"), Ok(())),
        ] {
            match (tokens(texts, admin), expected) {
                (Ok(tokens), Ok(())) => assert!(!format!("{tokens:?}").contains("root")),
                (Err(error), Err(part)) => {
                    assert!(error.contains(part), "{error}");
                    assert!(!error.contains("root"), "{error}");
                }
                (got, _) => panic!("{texts:?} -> {got:?}"),
            }
        }
    }

    #[test]
    fn metrics_have_a_token_of_their_own() {
        let tokens = tokens(&["dm_shop_x1"], Some("root")).unwrap();
        let read = |text| MetricsAccess::new(text, &tokens);
        assert!(matches!(read(None), Ok(MetricsAccess::AsDatabases)));
        assert!(matches!(read(Some("none")), Ok(MetricsAccess::Everyone)));
        let Ok(MetricsAccess::Token(secret)) = read(Some("s3cret")) else { panic!("a token") };
        assert!(secret.matches(b"s3cret") && !secret.matches(b"s3cre") && !secret.matches(b""));
        assert!(!format!("{:?}", MetricsAccess::Token(secret)).contains("s3cret"));
        for (text, part) in [
            ("root", "also the admin token"),
            ("dm_shop_x1", "a token of `shop`"),
            ("x1", "a token of `shop`"),
            ("", "empty"),
            ("two words", "without spaces"),
        ] {
            let error = read(Some(text)).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
