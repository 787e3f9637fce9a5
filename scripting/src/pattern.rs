//! Patterns of Lua 5.1, matched with a bound.
//!
//! The algorithm is that of the C library, a backtracking matcher, and so are its results. A pattern may make it try
//! exponentially often, so [`Matcher`] counts its steps, and asks every [`STEPS`] whether it may go on. Its recursion has
//! a limit too.

/// Captures that a pattern may have.
pub(crate) const CAPTURES_MAX: usize = 32;

/// Nested items of a pattern that were matched.
const DEPTH_MAX: usize = 1000;

/// Steps between two questions.
const STEPS: u64 = 1 << 16;

/// Why a match has ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The pattern is wrong.
    Text(String),
    /// The question was answered with no.
    Halt,
}

impl From<&str> for Problem {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

type Result<T> = std::result::Result<T, Problem>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Open,
    Position,
    Bytes(usize),
}

/// A capture of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Captured<'a> {
    Text(&'a [u8]),
    /// From 1 on.
    Position(usize),
}

/// A subject and a pattern.
pub(crate) struct Matcher<'a, F> {
    subject: &'a [u8],
    pattern: &'a [u8],
    captures: [(usize, Extent); CAPTURES_MAX],
    level: usize,
    steps: u64,
    depth: usize,
    goes_on: F,
}

impl<'a, F: FnMut() -> bool> Matcher<'a, F> {
    /// `pattern`: without its anchor.
    pub(crate) fn new(subject: &'a [u8], pattern: &'a [u8], goes_on: F) -> Self {
        let captures = [(0, Extent::Open); CAPTURES_MAX];
        Self { subject, pattern, captures, level: 0, steps: 0, depth: 0, goes_on }
    }

    /// The end of a match that begins at `start`.
    pub(crate) fn match_at(&mut self, start: usize) -> Result<Option<usize>> {
        self.level = 0;
        self.run(start, 0)
    }

    /// How many captures the last match has; at least `whole`, the match itself.
    pub(crate) fn count(&self, whole: bool) -> usize {
        if self.level == 0 && whole { 1 } else { self.level }
    }

    /// Capture `at` of the match from `start` to `end`.
    pub(crate) fn capture(&self, at: usize, start: usize, end: usize) -> Result<Captured<'a>> {
        if at >= self.level {
            return if at == 0 {
                Ok(Captured::Text(&self.subject[start..end]))
            } else {
                Err("invalid capture index".into())
            };
        }
        match self.captures[at] {
            (_, Extent::Open) => Err("unfinished capture".into()),
            (from, Extent::Position) => Ok(Captured::Position(from + 1)),
            (from, Extent::Bytes(len)) => Ok(Captured::Text(&self.subject[from..from + len])),
        }
    }

    /// A part of the subject.
    pub(crate) fn text(&self, start: usize, end: usize) -> &'a [u8] {
        &self.subject[start..end]
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS) && !(self.goes_on)() { Err(Problem::Halt) } else { Ok(()) }
    }

    /// Matches the pattern from `p` on at `s`.
    fn run(&mut self, s: usize, p: usize) -> Result<Option<usize>> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("pattern too complex".into());
        }
        let found = self.items(s, p);
        self.depth -= 1;
        found
    }

    fn items(&mut self, mut s: usize, mut p: usize) -> Result<Option<usize>> {
        loop {
            self.step()?;
            let Some(&item) = self.pattern.get(p) else { return Ok(Some(s)) };
            let next = self.pattern.get(p + 1).copied();
            match (item, next) {
                (b'(', Some(b')')) => return self.open(s, p + 2, Extent::Position),
                (b'(', _) => return self.open(s, p + 1, Extent::Open),
                (b')', _) => return self.close(s, p + 1),
                (b'%', Some(b'b')) => match self.balance(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => return Ok(None),
                },
                (b'%', Some(b'f')) => {
                    p += 2;
                    if self.pattern.get(p) != Some(&b'[') {
                        return Err("missing '[' after '%f' in pattern".into());
                    }
                    let end = self.class_end(p)?;
                    let before = if s == 0 { 0 } else { self.subject[s - 1] };
                    let after = self.subject.get(s).copied().unwrap_or(0);
                    if self.in_set(before, p, end - 1)? || !self.in_set(after, p, end - 1)? {
                        return Ok(None);
                    }
                    p = end;
                }
                (b'%', Some(digit @ b'0'..=b'9')) => match self.back_reference(s, digit)? {
                    Some(end) => (s, p) = (end, p + 2),
                    None => return Ok(None),
                },
                (b'$', None) => return Ok((s == self.subject.len()).then_some(s)),
                _ => {
                    let end = self.class_end(p)?;
                    let is_match = self.is_single(s, p, end)?;
                    match self.pattern.get(end) {
                        Some(b'?') => {
                            if is_match && let Some(found) = self.run(s + 1, end + 1)? {
                                return Ok(Some(found));
                            }
                            p = end + 1;
                        }
                        Some(b'*') => return self.most(s, p, end),
                        Some(b'+') => return if is_match { self.most(s + 1, p, end) } else { Ok(None) },
                        Some(b'-') => return self.least(s, p, end),
                        _ if !is_match => return Ok(None),
                        _ => (s, p) = (s + 1, end),
                    }
                }
            }
        }
    }

    fn class_end(&self, p: usize) -> Result<usize> {
        match self.pattern.get(p) {
            Some(b'%') => match self.pattern.get(p + 1) {
                Some(_) => Ok(p + 2),
                None => Err("malformed pattern (ends with '%')".into()),
            },
            Some(b'[') => {
                let mut at = p + 1;
                if self.pattern.get(at) == Some(&b'^') {
                    at += 1;
                }
                // A bracket that comes first is a character.
                loop {
                    let Some(&byte) = self.pattern.get(at) else {
                        return Err("malformed pattern (missing ']')".into());
                    };
                    at += 1;
                    if byte == b'%' && at < self.pattern.len() {
                        at += 1;
                    }
                    if self.pattern.get(at) == Some(&b']') {
                        return Ok(at + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    fn is_single(&mut self, s: usize, p: usize, end: usize) -> Result<bool> {
        let Some(&byte) = self.subject.get(s) else { return Ok(false) };
        Ok(match self.pattern[p] {
            b'.' => true,
            b'%' => is_of_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1)?,
            other => other == byte,
        })
    }

    /// Whether a byte is in the set that begins at `p` and whose closing bracket is at `end`.
    fn in_set(&mut self, byte: u8, p: usize, end: usize) -> Result<bool> {
        let mut at = p + 1;
        let is_negated = self.pattern.get(at) == Some(&b'^');
        if is_negated {
            at += 1;
        }
        while at < end {
            self.step()?;
            let item = self.pattern[at];
            if item == b'%' {
                at += 1;
                if is_of_class(byte, self.pattern[at]) {
                    return Ok(!is_negated);
                }
                at += 1;
            } else if self.pattern.get(at + 1) == Some(&b'-') && at + 2 < end {
                if (item..=self.pattern[at + 2]).contains(&byte) {
                    return Ok(!is_negated);
                }
                at += 3;
            } else {
                if item == byte {
                    return Ok(!is_negated);
                }
                at += 1;
            }
        }
        Ok(is_negated)
    }

    fn most(&mut self, s: usize, p: usize, end: usize) -> Result<Option<usize>> {
        let mut count = 0;
        while self.is_single(s + count, p, end)? {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(found) = self.run(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    fn least(&mut self, mut s: usize, p: usize, end: usize) -> Result<Option<usize>> {
        loop {
            if let Some(found) = self.run(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.is_single(s, p, end)? {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open(&mut self, s: usize, p: usize, extent: Extent) -> Result<Option<usize>> {
        if self.level >= CAPTURES_MAX {
            return Err("too many captures".into());
        }
        self.captures[self.level] = (s, extent);
        self.level += 1;
        let found = self.run(s, p)?;
        if found.is_none() {
            self.level -= 1;
        }
        Ok(found)
    }

    fn close(&mut self, s: usize, p: usize) -> Result<Option<usize>> {
        let open = self.captures[..self.level].iter().rposition(|(_, extent)| *extent == Extent::Open);
        let at = open.ok_or(Problem::from("invalid pattern capture"))?;
        self.captures[at].1 = Extent::Bytes(s - self.captures[at].0);
        let found = self.run(s, p)?;
        if found.is_none() {
            self.captures[at].1 = Extent::Open;
        }
        Ok(found)
    }

    fn balance(&mut self, s: usize, p: usize) -> Result<Option<usize>> {
        let (Some(&open), Some(&close)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return Err("unbalanced pattern".into());
        };
        if self.subject.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for at in s + 1..self.subject.len() {
            self.step()?;
            let byte = self.subject[at];
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    fn back_reference(&mut self, s: usize, digit: u8) -> Result<Option<usize>> {
        let at = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let known = self.captures.get(at).filter(|_| at < self.level);
        let Some(&(from, Extent::Bytes(len))) = known else { return Err("invalid capture index".into()) };
        let is_same = self.subject.get(s..s + len) == Some(&self.subject[from..from + len]);
        self.steps += len as u64 / 64;
        Ok(is_same.then_some(s + len))
    }
}

fn is_of_class(byte: u8, class: u8) -> bool {
    let is_in = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    is_in != class.is_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(subject: &str, pattern: &str) -> std::result::Result<Option<(usize, usize)>, Problem> {
        let mut matcher = Matcher::new(subject.as_bytes(), pattern.as_bytes(), || true);
        for start in 0..=subject.len() {
            if let Some(end) = matcher.match_at(start)? {
                return Ok(Some((start, end)));
            }
        }
        Ok(None)
    }

    #[test]
    fn patterns_match_as_in_lua() {
        for (subject, pattern, found) in [
            ("hello", "l+", Some((2, 4))),
            ("hello", "l-o", Some((2, 5))),
            ("hello", "x", None),
            ("key=value", "(%w+)=(%w+)", Some((0, 9))),
            ("a.b", "%.", Some((1, 2))),
            ("[x]", "[]]", Some((2, 3))),
            ("abc", "[^a]", Some((1, 2))),
            ("f(a(b)c)d", "%b()", Some((1, 8))),
            ("THE (quick) fox", "%f[%a]%a+", Some((0, 3))),
            ("xyxy", "(xy)%1", Some((0, 4))),
            ("", "", Some((0, 0))),
            ("abc", "c$", Some((2, 3))),
            ("a$c", "$c", Some((1, 3))),
            ("x-y", "[a-]", Some((1, 2))),
            ("colour", "colou?r", Some((0, 6))),
        ] {
            assert_eq!(find(subject, pattern), Ok(found), "{subject} {pattern}");
        }
        for pattern in ["%", "[a", "(", ")", "%b", "%f", "%1", "[%"] {
            assert!(
                matches!(
                    find("aaa", pattern).or_else(|problem| match problem {
                        Problem::Text(text) => Err(text),
                        Problem::Halt => Ok(None),
                    }),
                    Err(_) | Ok(Some(_))
                ),
                "{pattern}"
            );
        }
    }

    #[test]
    fn a_long_search_is_asked_about() {
        let (subject, pattern) = ("a".repeat(40), "a?".repeat(40) + "b");
        let mut asked = 0;
        let mut matcher = Matcher::new(subject.as_bytes(), pattern.as_bytes(), || {
            asked += 1;
            asked < 3
        });
        assert_eq!(matcher.match_at(0), Err(Problem::Halt));
        assert_eq!(asked, 3);
    }

    #[test]
    fn a_deep_pattern_is_an_error() {
        let (subject, pattern) = ("a".repeat(5000), "a?".repeat(5000));
        assert_eq!(find(&subject, &pattern), Err(Problem::Text("pattern too complex".into())));
    }
}
