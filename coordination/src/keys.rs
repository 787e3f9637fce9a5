//! The layout of a fleet's keys in etcd.

use crate::error::CoordinationError;

const NAME_LENGTH_MAX: usize = 200;

/// The keys below a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

/// The meaning of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    Node(&'a str),
    Topic(&'a str),
    Secret,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// All keys start with this, and those of no other prefix do.
    pub(crate) fn root(&self) -> String {
        format!("{}/", self.prefix)
    }

    pub(crate) fn node(&self, name: &str) -> String {
        format!("{}/nodes/{name}", self.prefix)
    }

    pub(crate) fn topic(&self, topic: &str) -> String {
        format!("{}/topics/{topic}", self.prefix)
    }

    pub(crate) fn secret(&self) -> String {
        format!("{}/secret", self.prefix)
    }

    /// Returns nothing for keys that have no meaning here.
    pub(crate) fn meaning<'a>(&self, key: &'a [u8]) -> Option<Meaning<'a>> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        if let Some(name) = key.strip_prefix("nodes/") {
            return is_name(name).then_some(Meaning::Node(name));
        }
        if let Some(topic) = key.strip_prefix("topics/") {
            return is_name(topic).then_some(Meaning::Topic(topic));
        }
        (key == "secret").then_some(Meaning::Secret)
    }
}

/// # Errors
/// [`CoordinationError::Invalid`].
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), CoordinationError> {
    if is_name(name) {
        return Ok(());
    }
    let text = name.chars().take(NAME_LENGTH_MAX).collect();
    Err(CoordinationError::Invalid { what, text, expected: "1 to 200 letters, digits, `.`, `_` and `-`" })
}

fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_LENGTH_MAX).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Numbers as texts of one length, whose order is that of the numbers.
pub(crate) fn number_text(number: u64) -> String {
    format!("{number:020}")
}

pub(crate) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().filter(|text| text.len() == 20)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        let keys = Keys::new("a/b");
        assert_eq!(keys.meaning(keys.node("n-1").as_bytes()), Some(Meaning::Node("n-1")));
        assert_eq!(keys.meaning(keys.topic("steps").as_bytes()), Some(Meaning::Topic("steps")));
        assert_eq!(keys.meaning(keys.secret().as_bytes()), Some(Meaning::Secret));
        for other in ["a/b", "a/b/nodes/", "a/b/nodes/x/y", "a/bc/secret", "a/b/secrets", "\u{e9}"] {
            assert_eq!(keys.meaning(other.as_bytes()), None, "{other}");
        }
        assert_eq!(keys.meaning(b"a/b/nodes/\xff"), None);
    }

    #[test]
    fn numbers_are_ordered_as_texts() {
        let numbers = [0, 1, 9, 10, 99, 1 << 40, u64::MAX - 1, u64::MAX];
        assert!(numbers.map(number_text).is_sorted());
        assert_eq!(numbers.map(|n| number(number_text(n).as_bytes())), numbers.map(Some));
        for bad in ["", "1", "0000000000000000000x", "99999999999999999999"] {
            assert_eq!(number(bad.as_bytes()), None, "{bad}");
        }
    }
}
