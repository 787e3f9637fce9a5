//! Libraries of functions: they are settings of their database in its manifest, one each.
//!
//! The key is `function:` and the library's name, the value `text:` and its text, or `hex:` and the digits of its bytes
//! where these are no UTF-8.

use std::collections::BTreeMap;

const PREFIX: &str = "function:";
const TEXT: &str = "text:";
const HEX: &str = "hex:";

/// The setting that keeps a library.
pub fn setting(name: &str, text: &[u8]) -> (String, String) {
    let value = match std::str::from_utf8(text) {
        Ok(text) => format!("{TEXT}{text}"),
        Err(_) => text.iter().fold(HEX.to_owned(), |hex, byte| hex + &format!("{byte:02x}")),
    };
    (format!("{PREFIX}{name}"), value)
}

/// Whether a setting keeps a library.
pub fn is_library(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// The texts of the libraries among some settings; `None` for one that is malformed.
pub fn texts(settings: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, Option<Vec<u8>>)> {
    settings.iter().filter(|(key, _)| is_library(key)).map(|(key, value)| (&key[PREFIX.len()..], read(value)))
}

/// The name of a library, as its first line says: `#!lua name=<name>`.
pub fn name_of(text: &[u8]) -> Option<String> {
    let line = text.split(|byte| *byte == b'\n').next().filter(|line| line.starts_with(b"#!"))?;
    let name = line.split(u8::is_ascii_whitespace).find_map(|word| word.strip_prefix(b"name="))?;
    let is_name = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    is_name.then(|| String::from_utf8_lossy(name).into_owned())
}

fn read(value: &str) -> Option<Vec<u8>> {
    if let Some(text) = value.strip_prefix(TEXT) {
        return Some(text.as_bytes().to_vec());
    }
    let hex = value.strip_prefix(HEX)?.as_bytes();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_kept_byte_by_byte() {
        let mut settings = BTreeMap::from([("loss-window".to_owned(), "0".to_owned())]);
        let (plain, binary) = (b"#!lua name=a\n\xc3\xa9", b"#!lua name=b\n\xff\0");
        settings.extend([setting("a", plain), setting("b", binary)]);
        let kept: Vec<_> = texts(&settings).collect();
        assert_eq!(kept, [("a", Some(plain.to_vec())), ("b", Some(binary.to_vec()))]);
        settings.insert("function:c".to_owned(), "hex:0".to_owned());
        settings.insert("function:d".to_owned(), "hex:xy".to_owned());
        assert_eq!(texts(&settings).filter(|(_, text)| text.is_none()).count(), 1);
    }

    #[test]
    fn a_library_says_its_name() {
        assert_eq!(name_of(b"#!lua name=lib\nx").as_deref(), Some("lib"));
        assert_eq!(name_of(b"#!LUA  name=lib_2").as_deref(), Some("lib_2"));
        for text in [&b"return 1"[..], b"#!lua\n", b"#!lua name=\n", b"#!lua name=a-b\n", b"\n#!lua name=a"] {
            assert_eq!(name_of(text), None);
        }
    }
}
