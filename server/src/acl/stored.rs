//! The users of a database as its manifest keeps them: the lines of `ACL LIST`, each ended by a line feed. Bytes that
//! are not printable ASCII, and backslashes, are written as `\x` and two hexadecimal digits.
//!
//! Rules name commands and categories, so they are applied anew to the commands of the version that reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Users;
use super::catalogue::Catalogue;
use super::selector::RulesForm;
use super::user::{DEFAULT_USER, User, join_selectors};

/// Encodes users.
pub fn encode(users: &Users) -> String {
    let mut text = String::new();
    for user in users.values() {
        for byte in user.describe(RulesForm::Kept) {
            match byte {
                b' '..=b'~' if byte != b'\\' => text.push(char::from(byte)),
                _ => text += &format!("\\x{byte:02x}"),
            }
        }
        text.push('\n');
    }
    text
}

/// Decodes users. A user whose rules cannot be read is there, but disabled and without rights; so is `default` if the
/// text does not have it. Returns also the problems.
pub fn decode(text: &str, catalogue: &Catalogue, mut identity: impl FnMut() -> u64) -> (Users, Vec<String>) {
    let (mut users, mut problems) = (BTreeMap::new(), Vec::new());
    for line in text.lines() {
        let Some(line) = unescape(line) else {
            problems.push("a line of the users is malformed".to_string());
            continue;
        };
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(b"user"), Some(name)) = (words.next(), words.next()) else {
            problems.push("a line of the users names none".to_string());
            continue;
        };
        let mut user = User::new(name, identity(), catalogue);
        let applied = match join_selectors(words) {
            Ok(rules) => {
                rules.iter().try_for_each(|rule| user.apply(rule, catalogue).map_err(|error| error.to_string()))
            }
            Err(_) => Err("a parenthesis is not closed".to_string()),
        };
        if let Err(problem) = applied {
            problems.push(format!("user {}: {problem}", String::from_utf8_lossy(name)));
            user = User::new(name, user.identity, catalogue);
        }
        users.insert(user.name.clone(), Arc::new(user));
    }
    if !users.contains_key(DEFAULT_USER) {
        problems.push("the users lack `default`".to_string());
        users.insert(DEFAULT_USER.into(), Arc::new(User::new(DEFAULT_USER, identity(), catalogue)));
    }
    (users, problems)
}

fn unescape(line: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(1..3)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| rest[0] == b'x')?);
        rest = &rest[3..];
    }
    Some(bytes)
}
