//! The path language of RedisJSON 2: JSONPath (`$.a[0]..b`) and the older paths (`.a[0]`, `a`), which name one value.
//!
//! ```text
//! path     = "$" step*  |  old path: "." | "." step ... | name step ...
//! step     = "." name | "." "*" | "."? bracket | ".." (name | "*" | bracket)
//! bracket  = "[" (numbers | range | strings | "*" | "?" filter) "]"
//! range    = number? ":" number? (":" step?)?
//! filter   = and ("||" and)*          and = inner ("&&" inner)*          inner = "(" filter ")" | test
//! test     = term (("==" | "!=" | "<" | "<=" | ">" | ">=" | "=~") term)?
//! term     = "@" step* | "$" step* | number | string | true | false | null
//! name     = letters, digits and any of -_`~+#%$^/:
//! ```
//!
//! The first step behind `$` or `@` may lack its point. Spaces may stand between all parts.
//!
//! The libraries for JSONPath implement RFC 9535, which is another language: it has no `=~`, no old paths, no steps without
//! a point and other names, and it selects nothing where RedisJSON selects the first element (`$[-9]`). They also look at
//! trees of values of their own. So the language is read and evaluated here.

use std::borrow::Cow;

use dormouse_types::json::{self, JsonNode};
use regex_automata::meta::Regex;

use crate::error::{Error, Result};

/// A path, read.
#[derive(Debug)]
pub struct Path<'a> {
    /// As the client gave it.
    pub original: &'a [u8],
    /// An old path names one value, and its reply is no array.
    pub is_old: bool,
    pub steps: Vec<PathStep>,
}

#[derive(Debug)]
pub enum PathStep {
    Name(Vec<u8>),
    Names(Vec<Vec<u8>>),
    All,
    /// Negative numbers count from the end.
    Indexes(Vec<i64>),
    Range {
        start: Option<i64>,
        end: Option<i64>,
        step: usize,
    },
    Filter(PathFilter),
    /// The steps behind it apply to the value and to everything in it.
    Everywhere,
}

#[derive(Debug)]
pub enum PathFilter {
    Or(Vec<PathFilter>),
    And(Vec<PathFilter>),
    /// Something is selected.
    Exists(Term),
    Compare(Term, Comparison, Term),
    /// A string matches a pattern. `None`: it is the value of the term.
    Matches(Term, Term, Option<Pattern>),
}

#[derive(Debug)]
pub enum Term {
    /// Steps from the value that is tested.
    Here(Vec<PathStep>),
    /// Steps from the outermost value.
    Root(Vec<PathStep>),
    /// An encoded value.
    Value(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A pattern, if it is one.
#[derive(Debug)]
pub struct Pattern(Option<Regex>);

impl Pattern {
    /// Longer patterns match nothing.
    const BYTES_MAX: usize = 1024;
    /// The memory of a compiled pattern, and of its matching.
    const COMPILED_BYTES_MAX: usize = 1 << 20;

    pub fn new(text: &[u8]) -> Self {
        let config = Regex::config()
            .nfa_size_limit(Some(Self::COMPILED_BYTES_MAX))
            .onepass_size_limit(Some(Self::COMPILED_BYTES_MAX))
            .hybrid_cache_capacity(Self::COMPILED_BYTES_MAX);
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= Self::BYTES_MAX);
        Self(text.and_then(|text| Regex::builder().configure(config).build(text).ok()))
    }

    /// Whether it matches a part of `text`. The time is linear.
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

impl<'a> Path<'a> {
    /// The path of a command that names none.
    pub fn root() -> Self {
        Self { original: b".", is_old: true, steps: Vec::new() }
    }

    /// Reads a path.
    ///
    /// # Errors
    /// When it is none. The text says where.
    pub fn read(original: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(original).map_err(|_| Error::text("ERR Path is not valid UTF-8"))?;
        let is_old = !is_json_path(original);
        let rooted: Cow<'_, str> = match (is_old, text) {
            (false, _) => text.into(),
            (true, ".") => "$".into(),
            (true, text) if text.starts_with('.') => format!("${text}").into(),
            (true, text) => format!("$.{text}").into(),
        };
        let mut reader = Reader { text: rooted.as_bytes(), at: 1, depth: 0 };
        let steps = reader.steps()?;
        if reader.at < rooted.len() {
            return Err(reader.unexpected("a step"));
        }
        Ok(Self { original, is_old, steps })
    }

    pub fn is_root(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether it names one value at most, whatever the document is.
    pub fn is_static(&self) -> bool {
        self.steps.iter().all(PathStep::is_static)
    }
}

impl PathStep {
    fn is_static(&self) -> bool {
        match self {
            PathStep::Name(_) => true,
            PathStep::Names(names) => names.len() == 1,
            PathStep::Indexes(indexes) => indexes.len() == 1,
            PathStep::All | PathStep::Range { .. } | PathStep::Filter(_) | PathStep::Everywhere => false,
        }
    }
}

/// `$` alone, or with a point or a bracket behind it: `$a` is an old path.
fn is_json_path(path: &[u8]) -> bool {
    matches!(path, [b'$'] | [b'$', b'.' | b'[', ..])
}

/// A bound on the work of a path, from its text alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One value at most, or values that do not overlap: each part of a document is looked at once.
    Once,
    /// So many scans inside of each other.
    Scans(u32),
}

/// How much of a document a path may look at.
pub fn extent(path: &[u8]) -> Extent {
    let count = |wanted: &[u8]| path.iter().filter(|byte| wanted.contains(byte)).count();
    let scans = path.windows(2).filter(|pair| pair == b"..").count();
    let filters = count(b"?");
    // Steps in a filter are followed for each value that it tests. From the root, they may pass over the whole document.
    let inner = if filters > 0 { filters - 1 + count(b"$").saturating_sub(1) + count(b"*:") } else { 0 };
    match scans.max(1) + inner {
        1 => Extent::Once,
        more => Extent::Scans(u32::try_from(more).unwrap_or(u32::MAX)),
    }
}

/// How often a path may select a value because its lists name it again: the product of their lengths, from its text alone. A
/// text in which it cannot be told where a list ends is taken for more lists than it has.
pub fn repeats(path: &[u8]) -> usize {
    let (mut product, mut len) = (1usize, 1usize);
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

/// The patterns of a path, from its text alone.
pub fn patterns(path: &[u8]) -> Patterns {
    let mut patterns = Patterns { written: 0, computed: 0 };
    for at in 2..=path.len() {
        if path[at - 2..at] == *b"=~" {
            let next = path[at..].iter().find(|byte| **byte != b' ');
            let count = if matches!(next, Some(b'\'' | b'"')) { &mut patterns.written } else { &mut patterns.computed };
            *count += 1;
        }
    }
    patterns
}

/// Filters in filters.
const DEPTH_MAX: usize = 8;

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Takes `token` if it comes next, behind spaces.
    fn take(&mut self, token: &[u8]) -> bool {
        self.skip_spaces();
        let found = self.text[self.at..].starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn unexpected(&self, expected: &str) -> Error {
        let (before, after) = self.text.split_at(self.at.min(self.text.len()));
        let (before, after) = (String::from_utf8_lossy(before), String::from_utf8_lossy(after));
        let place = match after.is_empty() {
            true => format!("\"{before} <<<<----\""),
            false => format!("\"{before} ---->>>> {after}\""),
        };
        Error::Text(format!("Error occurred on position {}, {place}, expected {expected}.", self.at).into())
    }

    /// The steps behind `$` or `@`.
    fn steps(&mut self) -> Result<Vec<PathStep>> {
        let mut steps = Vec::new();
        loop {
            let before = self.at;
            self.skip_spaces();
            match self.peek() {
                Some(b'.') if self.text.get(self.at + 1) == Some(&b'.') => {
                    self.at += 2;
                    steps.push(PathStep::Everywhere);
                    steps.push(self.selector()?);
                }
                Some(b'.') => {
                    self.at += 1;
                    steps.push(self.selector()?);
                }
                Some(b'[') => steps.push(self.bracket()?),
                Some(b'*') if steps.is_empty() => steps.push(self.selector()?),
                Some(byte) if steps.is_empty() && is_in_name(byte) => steps.push(self.selector()?),
                _ => {
                    // Spaces at the end of a path are no part of it.
                    self.at = if self.at == self.text.len() { self.at } else { before };
                    return Ok(steps);
                }
            }
        }
    }

    /// A name, a star, or a bracket.
    fn selector(&mut self) -> Result<PathStep> {
        self.skip_spaces();
        match self.peek() {
            Some(b'*') => {
                self.at += 1;
                Ok(PathStep::All)
            }
            Some(b'[') => self.bracket(),
            Some(byte) if is_in_name(byte) => {
                let start = self.at;
                while self.peek().is_some_and(is_in_name) {
                    self.at += 1;
                }
                Ok(PathStep::Name(self.text[start..self.at].to_vec()))
            }
            _ => Err(self.unexpected("a name, '*' or '['")),
        }
    }

    fn bracket(&mut self) -> Result<PathStep> {
        self.at += 1;
        self.skip_spaces();
        let step = match self.peek() {
            Some(b'*') => {
                self.at += 1;
                PathStep::All
            }
            Some(b'?') => {
                self.at += 1;
                PathStep::Filter(self.filter()?)
            }
            Some(b'"' | b'\'') => {
                let mut names = vec![self.string()?];
                while self.take(b",") {
                    self.skip_spaces();
                    names.push(self.string()?);
                }
                PathStep::Names(names)
            }
            Some(b'-' | b'0'..=b'9' | b':') => self.numbers()?,
            _ => return Err(self.unexpected("a number, a string, '*', ':' or '?'")),
        };
        if self.take(b"]") { Ok(step) } else { Err(self.unexpected("']'")) }
    }

    /// Numbers, or a range.
    fn numbers(&mut self) -> Result<PathStep> {
        let start = self.number()?;
        if !self.take(b":") {
            let mut indexes: Vec<i64> = start.into_iter().collect();
            while self.take(b",") {
                self.skip_spaces();
                indexes.push(self.number()?.ok_or_else(|| self.unexpected("a number"))?);
            }
            return Ok(PathStep::Indexes(indexes));
        }
        self.skip_spaces();
        let end = self.number()?;
        let mut step = None;
        if self.take(b":") {
            self.skip_spaces();
            let before = self.at;
            step = self.number()?;
            if step.is_some_and(|step| step < 1) {
                self.at = before;
                return Err(self.unexpected("a positive number"));
            }
        }
        Ok(PathStep::Range { start, end, step: step.and_then(|step| usize::try_from(step).ok()).unwrap_or(1) })
    }

    fn number(&mut self) -> Result<Option<i64>> {
        let start = self.at;
        self.digits();
        if self.at == start {
            return Ok(None);
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        let leads_with_zero = matches!(text.trim_start_matches('-').as_bytes(), [b'0', _, ..]);
        match text.parse() {
            Ok(number) if !leads_with_zero => Ok(Some(number)),
            _ => {
                self.at = start;
                Err(self.unexpected("a number"))
            }
        }
    }

    fn digits(&mut self) {
        self.at += usize::from(self.peek() == Some(b'-'));
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// A string in either kind of quotes. A backslash stands before the quote or another one.
    fn string(&mut self) -> Result<Vec<u8>> {
        let quote =
            self.peek().filter(|byte| matches!(byte, b'"' | b'\'')).ok_or_else(|| self.unexpected("a string"))?;
        self.at += 1;
        let mut string = Vec::new();
        loop {
            match self.peek() {
                None => return Err(self.unexpected("the end of a string")),
                Some(byte) if byte == quote => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    // In patterns a backslash stands for itself before anything else.
                    let next = self.text.get(self.at + 1).copied();
                    match next {
                        Some(next) if next == quote || next == b'\\' => string.push(next),
                        Some(next) => string.extend_from_slice(&[b'\\', next]),
                        None => return Err(self.unexpected("the end of a string")),
                    }
                    self.at += 2;
                }
                Some(byte) => {
                    string.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn filter(&mut self) -> Result<PathFilter> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.unexpected("fewer filters in each other"));
        }
        let mut any = vec![self.conjunction()?];
        while self.take(b"||") {
            any.push(self.conjunction()?);
        }
        self.depth -= 1;
        Ok(if any.len() == 1 { any.remove(0) } else { PathFilter::Or(any) })
    }

    fn conjunction(&mut self) -> Result<PathFilter> {
        let mut all = vec![self.inner()?];
        while self.take(b"&&") {
            all.push(self.inner()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { PathFilter::And(all) })
    }

    fn inner(&mut self) -> Result<PathFilter> {
        if self.take(b"(") {
            let filter = self.filter()?;
            return if self.take(b")") { Ok(filter) } else { Err(self.unexpected("')', '&&' or '||'")) };
        }
        let term = self.term()?;
        const COMPARISONS: [(&[u8], Comparison); 6] = [
            (b"==", Comparison::Equal),
            (b"!=", Comparison::NotEqual),
            (b"<=", Comparison::LessOrEqual),
            (b">=", Comparison::GreaterOrEqual),
            (b"<", Comparison::Less),
            (b">", Comparison::Greater),
        ];
        if self.take(b"=~") {
            let pattern = self.term()?;
            let known = match &pattern {
                Term::Value(encoded) => JsonNode::of(encoded).string().map(Pattern::new),
                Term::Here(_) | Term::Root(_) => None,
            };
            return Ok(PathFilter::Matches(term, pattern, known));
        }
        match COMPARISONS.iter().find(|(token, _)| self.take(token)) {
            Some((_, comparison)) => Ok(PathFilter::Compare(term, *comparison, self.term()?)),
            None => Ok(PathFilter::Exists(term)),
        }
    }

    fn term(&mut self) -> Result<Term> {
        self.skip_spaces();
        let mut encoded = Vec::new();
        match self.peek() {
            Some(b'@') => {
                self.at += 1;
                return self.steps().map(Term::Here);
            }
            Some(b'$') => {
                self.at += 1;
                return self.steps().map(Term::Root);
            }
            Some(b'"' | b'\'') => {
                let string = self.string()?;
                json::put_string(&mut encoded, &string);
            }
            Some(b'-' | b'0'..=b'9') => {
                let start = self.at;
                self.digits();
                if self.peek() == Some(b'.') {
                    self.at += 1;
                    self.digits();
                }
                encoded = json::parse(&self.text[start..self.at]).map_err(|_| {
                    self.at = start;
                    self.unexpected("a number")
                })?;
            }
            _ if self.take(b"true") => json::put_bool(&mut encoded, true),
            _ if self.take(b"false") => json::put_bool(&mut encoded, false),
            _ if self.take(b"null") => json::put_null(&mut encoded),
            _ => return Err(self.unexpected("'@', '$', a number, a string, true, false or null")),
        }
        Ok(Term::Value(encoded))
    }
}

fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_`~+#%$^/:".contains(&byte)
}
