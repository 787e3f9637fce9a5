//! The names of a database's objects.

use std::fmt::Write;

use crate::codec::reader::{write_bytes, write_varint};
use crate::codec::{CodecError, Reader};
use crate::store::StoreError;

/// The folder of all databases.
pub(super) const ROOT: &str = "db";

/// Longer names would not fit the file name limit of 255 bytes when every byte is escaped.
const DATABASE_BYTES_MAX: usize = 80;

/// The names of one database's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    folder: String,
}

impl Names {
    /// An error for a name that is empty or longer than 80 bytes.
    pub fn new(database: &str) -> Result<Names, StoreError> {
        if database.is_empty() || database.len() > DATABASE_BYTES_MAX {
            return Err(StoreError::Name(database.chars().take(DATABASE_BYTES_MAX).collect()));
        }
        Ok(Names { folder: format!("{ROOT}/{}", escape(database)) })
    }

    /// The folder of all the database's objects.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    pub fn manifests(&self) -> String {
        format!("{}/manifest", self.folder)
    }

    pub fn chunks(&self) -> String {
        format!("{}/chunk", self.folder)
    }

    pub fn tails(&self) -> String {
        format!("{}/tail", self.folder)
    }

    /// The folder of the stretches of its history.
    pub fn history(&self) -> String {
        format!("{}/history", self.folder)
    }

    /// The folder of the markers that say which databases may need objects of this one: see [`super::sharing`].
    pub fn branches(&self) -> String {
        format!("{}/branch", self.folder)
    }

    /// The marker of `branch`, which is made from manifest `number` of `source`.
    pub(super) fn branch(&self, branch: &str, source: &str, number: u64) -> String {
        format!("{}/branch/{}/{}/{number:020}", self.folder, escape(branch), escape(source))
    }

    /// The folder of the lists of objects left when the database was deleted.
    pub(super) fn left(&self) -> String {
        format!("{}/left", self.folder)
    }

    pub(super) fn left_list(&self, number: u64) -> String {
        format!("{}/left/{number:020}", self.folder)
    }

    pub fn manifest(&self, number: u64) -> String {
        format!("{}/manifest/{number:020}", self.folder)
    }

    pub fn chunk(&self, epoch: u64, writer: u64, counter: u64) -> String {
        format!("{}/chunk/{epoch:010}-{writer:016x}-{counter:010}", self.folder)
    }

    pub fn tail(&self, epoch: u64, writer: u64, counter: u64) -> String {
        format!("{}/tail/{epoch:010}-{writer:016x}-{counter:010}", self.folder)
    }

    pub fn stretch(&self, epoch: u64, writer: u64, counter: u64) -> String {
        format!("{}/history/{epoch:010}-{writer:016x}-{counter:010}", self.folder)
    }
}

/// The number of a manifest, from its object's name.
pub(super) fn manifest_number(name: &str) -> Option<u64> {
    let (_, digits) = name.rsplit_once('/')?;
    if digits.len() == 20 { digits.parse().ok() } else { None }
}

/// The database whose folder holds an object.
pub(super) fn owner(object: &str) -> Option<String> {
    let folder = object.strip_prefix(ROOT)?.strip_prefix('/')?;
    let (folder, _) = folder.split_once('/')?;
    unescape(folder)
}

/// Branch, source and number, from the name of a marker.
pub(super) fn marker_parts(name: &str) -> Option<(String, String, u64)> {
    let mut parts = name.rsplit('/');
    let digits = parts.next()?;
    let (source, branch) = (parts.next()?, parts.next()?);
    if digits.len() != 20 || parts.next() != Some("branch") {
        return None;
    }
    Some((unescape(branch)?, unescape(source)?, digits.parse().ok()?))
}

/// Epoch, writer and counter, from the name of a chunk, a tail or a stretch.
pub fn object_origin(name: &str) -> Option<(u64, u64, u64)> {
    let (_, last) = name.rsplit_once('/')?;
    let mut parts = last.split('-');
    let epoch = parts.next()?.parse().ok()?;
    let writer = u64::from_str_radix(parts.next()?, 16).ok()?;
    let counter = parts.next()?.parse().ok()?;
    if parts.next().is_none() { Some((epoch, writer, counter)) } else { None }
}

/// A database's name as one folder name. A byte that is not a small letter, digit, `-`, `_` or inner dot becomes `%`
/// and two hex digits: so no name leads out of its folder, and names that differ in case stay apart even where file
/// names do not.
pub(crate) fn escape(database: &str) -> String {
    let mut escaped = String::with_capacity(database.len());
    for (at, byte) in database.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => escaped.push(char::from(byte)),
            b'.' if at > 0 => escaped.push('.'),
            _ => write!(escaped, "%{byte:02x}").expect("writing to a String cannot fail"),
        }
    }
    escaped
}

/// The inverse of [`escape`]; nothing for a folder name that it never makes.
pub(super) fn unescape(folder: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(folder.len());
    let mut rest = folder.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match byte {
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|database| escape(database) == folder)
}

/// Writes a name without the beginning that it shares with the one before. Returns the name.
pub(super) fn write_name<'n>(out: &mut Vec<u8>, before: &str, name: &'n str) -> &'n str {
    let shared = shared_bytes(before, name);
    write_varint(out, shared as u64);
    write_bytes(out, &name.as_bytes()[shared..]);
    name
}

/// The inverse of [`write_name`].
pub(super) fn read_name(reader: &mut Reader<'_>, before: &str) -> Result<String, CodecError> {
    let shared = usize::try_from(reader.varint()?).ok().and_then(|shared| before.get(..shared));
    let shared = shared.ok_or(CodecError::Malformed("object name"))?;
    let rest = reader.text()?;
    if shared.len() + rest.len() > NAME_BYTES_MAX {
        return Err(CodecError::Malformed("object name"));
    }
    Ok([shared, rest].concat())
}

/// Object stores allow 1,024. Bounds what names that share long beginnings can unfold to.
const NAME_BYTES_MAX: usize = 1024;

fn shared_bytes(before: &str, name: &str) -> usize {
    let shared = before.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    (0..=shared).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escaped_names_stay_in_their_folder() {
        for (database, folder) in [
            ("default", "default"),
            ("my-app_2.test", "my-app_2.test"),
            ("App", "%41pp"),
            ("..", "%2e."),
            (".", "%2e"),
            ("../../etc/passwd", "%2e.%2f..%2fetc%2fpasswd"),
            ("a b#1", "a%20b%231"),
            ("ü%", "%c3%bc%25"),
        ] {
            assert_eq!(escape(database), folder);
            assert_eq!(unescape(folder).as_deref(), Some(database));
        }
        for folder in ["App", "%", "%4", "%4G", "%61", "%2F", "%c3", "%+1", ".", ".."] {
            assert_eq!(unescape(folder), None, "{folder}");
        }
        assert!(Names::new("").is_err());
        assert!(Names::new(&"x".repeat(81)).is_err());
    }

    proptest! {
        #[test]
        fn names_survive(database: String) {
            prop_assert_eq!(unescape(&escape(&database)), Some(database));
        }
    }

    #[test]
    fn objects_tell_their_origin() {
        let names = Names::new("a").unwrap();
        assert_eq!(names.manifest(42), "db/a/manifest/00000000000000000042");
        assert_eq!(manifest_number(&names.manifest(u64::MAX)), Some(u64::MAX));
        assert_eq!(manifest_number("db/a/manifest/42"), None);
        for origin in [(1, 2, 3), (u64::MAX, u64::MAX, u64::MAX)] {
            assert_eq!(object_origin(&names.chunk(origin.0, origin.1, origin.2)), Some(origin));
            assert_eq!(object_origin(&names.tail(origin.0, origin.1, origin.2)), Some(origin));
        }
        assert_eq!(object_origin("db/a/chunk/1-2"), None);
    }

    #[test]
    fn objects_tell_their_owner_and_markers_their_branch() {
        let names = Names::new("A/b").unwrap();
        assert_eq!(owner(&names.chunk(1, 2, 3)).as_deref(), Some("A/b"));
        for object in ["db/a", "db", "dbx/a/chunk/1", "log/a/1", "db/A/chunk/1"] {
            assert_eq!(owner(object), None, "{object}");
        }
        let marker = names.branch("pr/1", "..", 7);
        assert_eq!(marker, "db/%41%2fb/branch/pr%2f1/%2e./00000000000000000007");
        assert_eq!(marker_parts(&marker), Some(("pr/1".to_owned(), "..".to_owned(), 7)));
        for name in ["db/a/branch/b/c/7", "db/a/branch/b/00000000000000000007", "db/a/left/b/c/00000000000000000007"] {
            assert_eq!(marker_parts(name), None, "{name}");
        }
    }
}
