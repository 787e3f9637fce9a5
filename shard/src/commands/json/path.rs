//! The path language of RedisJSON: JSONPath (`$.a[0]..b`) and the older paths (`.a[0]`, `a`), which name one value.
//!
//! An older path is one of JSONPath behind `$.`, or `$` where it begins with its point; `.` is the root. A path that is more
//! than steps from the root, as `$.a + 1` or `$.list.length()`, is computed: it names no value of the document, so only
//! commands that return values take it.
//!
//! The libraries for JSONPath implement RFC 9535, which is another language: it has no `=~`, no old paths, no steps without
//! a point and other names, and it selects nothing where RedisJSON selects the first element (`$[-9]`). They also look at
//! trees of values of their own. So the language is [read](super::reader) and evaluated here.

use std::borrow::Cow;

use super::steps::{Expression, PathStep};
use super::{NOT_UTF_8, reader};
use crate::error::{Error, Result};

const IS_COMPUTED: Error =
    Error::text("ERR computed/projection expressions are only supported by JSON.GET/JSON.MGET/JSON.RESP");

/// Patterns in the paths of a request, each of which is compiled and may then take some MiB.
pub const PATTERNS_MAX: usize = 16;
pub const TOO_MANY_PATTERNS: Error = Error::text("ERR too many patterns in a path");

/// A path, read.
#[derive(Debug)]
pub struct Path<'a> {
    /// As the client gave it.
    pub original: &'a [u8],
    /// An old path names one value, and its reply is no array.
    pub is_old: bool,
    pub steps: Vec<PathStep>,
}

/// A path, or a computed one.
#[derive(Debug)]
pub enum Query<'a> {
    Path(Path<'a>),
    /// As the client gave it, and whether it is an old path.
    Computed(&'a [u8], bool, Expression),
}

impl<'a> Path<'a> {
    /// The path of a command that names none.
    pub fn root() -> Self {
        Self { original: b".", is_old: true, steps: Vec::new() }
    }

    /// Reads a path.
    ///
    /// # Errors
    /// When it is none, or computed. The text says where.
    pub fn read(original: &'a [u8]) -> Result<Self> {
        match Query::read(original)? {
            Query::Path(path) => Ok(path),
            Query::Computed(..) => Err(IS_COMPUTED),
        }
    }

    pub fn is_root(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether it names one value at most, whatever the document is.
    pub fn is_static(&self) -> bool {
        self.steps.iter().all(PathStep::is_static)
    }
}

impl<'a> Query<'a> {
    /// The path of a command that names none.
    pub fn root() -> Self {
        Self::Path(Path::root())
    }

    /// Reads a path that may be computed.
    ///
    /// # Errors
    /// When it is none. The text says where.
    pub fn read(original: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(original).map_err(|_| NOT_UTF_8)?;
        if patterns(original).all() > PATTERNS_MAX {
            return Err(TOO_MANY_PATTERNS);
        }
        let is_old = is_old(original);
        let rooted: Cow<'_, str> = match (is_old, text) {
            (false, _) => text.into(),
            (true, ".") => "$".into(),
            (true, text) if text.starts_with('.') => format!("${text}").into(),
            (true, text) => format!("$.{text}").into(),
        };
        match reader::read(&rooted)? {
            Expression::Root(steps) => Ok(Self::Path(Path { original, is_old, steps })),
            computed => Ok(Self::Computed(original, is_old, computed)),
        }
    }

    /// As the client gave it.
    pub fn original(&self) -> &'a [u8] {
        match self {
            Self::Path(path) => path.original,
            Self::Computed(original, ..) => original,
        }
    }

    pub fn is_old(&self) -> bool {
        match self {
            Self::Path(path) => path.is_old,
            Self::Computed(_, is_old, _) => *is_old,
        }
    }
}

/// Whether a path, which may be none, is an old one.
pub fn is_old(path: &[u8]) -> bool {
    !is_json_path(path)
}

/// Whether a path is one of JSONPath: `$` alone, or with a point or a bracket behind it, as `$a` is an old path, or
/// something that only a computed path begins with: parentheses, a sign before such a path, or a function.
fn is_json_path(path: &[u8]) -> bool {
    let spaces = |text: &[u8]| text.iter().take_while(|byte| **byte == b' ').count();
    let is_rooted = |text: &[u8]| matches!(text, [b'$'] | [b'$', b'.' | b'[' | b'~', ..] | [b'(', ..]);
    match path {
        [b'-' | b'+', rest @ ..] => is_rooted(&rest[spaces(rest)..]),
        [first, ..] if first.is_ascii_alphabetic() || *first == b'_' => {
            let name = path.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
            let rest = &path[name..];
            rest.get(spaces(rest)) == Some(&b'(')
        }
        _ => is_rooted(path),
    }
}

/// A bound on the work of a path, from its text alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One value at most, or values that do not overlap: each part of a document is looked at once.
    Once,
    /// So many scans inside of each other, and for each value of them so many more over single values.
    Scans(u32, u32),
}

/// How much of a document a path may look at.
pub fn extent(path: &[u8]) -> Extent {
    let count = |text: &[u8], wanted: &[u8]| text.iter().filter(|byte| wanted.contains(byte)).count();
    let scans = |text: &[u8]| text.windows(2).filter(|pair| pair == b"..").count();
    let (before, behind) = path.split_at(path.iter().position(|byte| *byte == b'?').unwrap_or(path.len()));
    // Each element of an array is looked for in another one.
    let relations = || -> usize {
        [&b"subsetof"[..], b"anyof", b"noneof"].map(|word| positions(behind, word).count()).iter().sum()
    };
    // Steps in a filter are followed for each value that it tests. From the root, they may pass over the whole document.
    let (roots, inner) = match count(behind, b"?") {
        0 => (0, 0),
        filters => {
            (count(path, b"$").saturating_sub(1), filters - 1 + count(behind, b"*:") + scans(behind) + relations())
        }
    };
    let exponent = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match (scans(before).max(1) + roots, inner) {
        (1, 0) => Extent::Once,
        (outer, inner) => Extent::Scans(exponent(outer), exponent(inner)),
    }
}

/// The positions behind each `word`.
fn positions<'p>(path: &'p [u8], word: &'p [u8]) -> impl Iterator<Item = usize> + 'p {
    (word.len()..=path.len()).filter(move |at| path[at - word.len()..*at] == *word)
}

/// Bytes of a filter that are gone through for each value in about the time of a look at it.
const FILTER_BYTES_PER_LOOK: usize = 64;

/// How often a path may look at a value because its lists name it again, because it is computed from several paths, or
/// because its filters have several conditions: the product of their numbers, from its text alone. A text in which it cannot
/// be told where a list ends is taken for more lists than it has.
pub fn repeats(path: &[u8]) -> usize {
    let count = |wanted: u8| path.iter().filter(|byte| **byte == wanted).count();
    let conditions = if count(b'?') > 0 { path.len() / FILTER_BYTES_PER_LOOK } else { 0 };
    let (mut product, mut len) = (count(b'$').max(count(b'@')).max(1) + conditions, 1usize);
    for byte in path {
        match byte {
            b',' => len += 1,
            b'[' | b']' => (product, len) = (product.saturating_mul(len), 1),
            _ => {}
        }
    }
    product.saturating_mul(len)
}

/// How many patterns the filters of a path have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patterns {
    /// Strings in the path itself.
    pub written: usize,
    /// Values that other steps lead to.
    pub computed: usize,
}

impl Patterns {
    pub fn all(self) -> usize {
        self.written + self.computed
    }
}

/// The patterns of a path, from its text alone.
pub fn patterns(path: &[u8]) -> Patterns {
    let mut patterns = Patterns { written: 0, computed: 0 };
    let matches = positions(path, b"=~").map(|at| is_written(&path[at..], &[]));
    let calls = positions(path, b"match").chain(positions(path, b"search"));
    let calls = calls.filter(|at| path[*at..].iter().find(|byte| **byte != b' ') == Some(&b'('));
    let calls = calls.map(|at| is_written(&path[at..], b"("));
    for is_written in matches.chain(calls) {
        *(if is_written { &mut patterns.written } else { &mut patterns.computed }) += 1;
    }
    patterns
}

/// Whether a string that goes on with nothing comes behind `first`, or behind `first` and an argument without quotes and
/// parentheses.
fn is_written(text: &[u8], first: &[u8]) -> bool {
    let trimmed = |text: &mut &[u8]| *text = &text[text.iter().take_while(|byte| **byte == b' ').count()..];
    let mut rest = text;
    trimmed(&mut rest);
    let Some(behind) = rest.strip_prefix(first) else { return false };
    rest = behind;
    trimmed(&mut rest);
    if !first.is_empty() && !matches!(rest, [b'\'' | b'"', ..]) {
        let argument = rest.iter().take_while(|byte| !b",'\"()".contains(byte)).count();
        let Some(behind) = rest[argument..].strip_prefix(b",") else { return false };
        rest = behind;
        trimmed(&mut rest);
    }
    let [quote @ (b'\'' | b'"'), string @ ..] = rest else { return false };
    let mut escaped = false;
    let end = string.iter().position(|byte| {
        let is_end = byte == quote && !escaped;
        escaped = *byte == b'\\' && !escaped;
        is_end
    });
    let Some(end) = end else { return true };
    rest = &string[end + 1..];
    trimmed(&mut rest);
    !matches!(rest, [b'.' | b'~', ..])
}
