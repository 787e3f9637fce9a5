//! Regular expressions of `ARGREP`: POSIX extended ones over bytes, with the additions of the library that Redis uses.
//!
//! An expression is translated to the syntax of the `regex` crate, which runs in linear time:
//!
//! | Redis | here |
//! | --- | --- |
//! | `[...]`: a backslash is a byte like any other, `[:alpha:]`, no nested classes | the set of its bytes |
//! | `*` and other repetitions where nothing comes before | repeat nothing |
//! | `a{,3}` | `a{0,3}` |
//! | `)` without its `(`, `}` | themselves |
//! | `\w \W \s \S \d \D \b \B \< \>`, `\t \n \r \f \a \e`, `\x41`, `\x{41}`, `\Q...\E` | the same |
//! | any other byte after a backslash | itself |
//! | `(?i)`, `(?-i)`, `(?n)`, `(?:...)`, `(?#...)` | the same |
//!
//! Not supported: approximate matching (`a{+1}`). An expression that takes too much memory when it is compiled is refused.

use regex::bytes::{Regex, RegexBuilder};

use crate::error::{Error, Result};

/// The longest expression.
const BYTES_MAX: usize = 2048;
/// The memory of a compiled expression, and of what it keeps while it searches, at most.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// The memory that an expression may need in all.
pub(super) const NEEDED_BYTES: usize = 3 * COMPILED_BYTES_MAX;
/// The most repetitions that can be written.
const REPEATS_MAX: u32 = 255;

/// Why an expression is not one, as Redis says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    Expression,
    Collating,
    Class,
    TrailingBackslash,
    Reference,
    Bracket,
    Parenthesis,
    Brace,
    Contents,
    Range,
    Memory,
    Repetition,
    TooMany,
    /// A reference to a group that exists.
    Unsupported,
}

impl Problem {
    fn text(self) -> &'static str {
        match self {
            Problem::Expression => "ERR invalid regular expression: Invalid regexp",
            Problem::Collating => "ERR invalid regular expression: Unknown collating element",
            Problem::Class => "ERR invalid regular expression: Unknown character class name",
            Problem::TrailingBackslash => "ERR invalid regular expression: Trailing backslash",
            Problem::Reference => "ERR invalid regular expression: Invalid back reference",
            Problem::Bracket => "ERR invalid regular expression: Missing ']'",
            Problem::Parenthesis => "ERR invalid regular expression: Missing ')'",
            Problem::Brace => "ERR invalid regular expression: Missing '}'",
            Problem::Contents => "ERR invalid regular expression: Invalid contents of {}",
            Problem::Range => "ERR invalid regular expression: Invalid character range",
            Problem::Memory => "ERR invalid regular expression: Out of memory",
            Problem::Repetition => "ERR invalid regular expression: Invalid use of repetition operators",
            Problem::TooMany => "ERR invalid regular expression: Maximum repetition in {} larger than 255",
            Problem::Unsupported => "ERR regular expression backreferences are not supported",
        }
    }
}

/// Refuses an expression that is longer than Redis takes.
pub(super) fn check_length(expression: &[u8]) -> Result<()> {
    match expression.len() {
        ..=BYTES_MAX => Ok(()),
        _ => Err(Error::text("ERR regular expression is too long, maximum is 2048 bytes")),
    }
}

/// Compiles an expression. `nocase`: letters match in either case.
pub(super) fn compile(expression: &[u8], nocase: bool) -> Result<Regex> {
    if expression.is_empty() {
        return Err(Error::text("ERR regular expression is empty"));
    }
    let translated = Translation::of(expression).map_err(|problem| Error::text(problem.text()))?;
    let mut builder = RegexBuilder::new(&translated);
    builder.unicode(false).dot_matches_new_line(true).case_insensitive(nocase);
    builder.size_limit(COMPILED_BYTES_MAX).dfa_size_limit(COMPILED_BYTES_MAX);
    // A translated expression is well formed, so it is only refused for its size or depth.
    builder.build().map_err(|_| Error::text(Problem::Memory.text()))
}

struct Translation<'a> {
    rest: &'a [u8],
    out: String,
    /// Groups that are open.
    depth: usize,
    /// Groups that have begun, without those of `(?`.
    groups: usize,
}

/// The last part of an expression, for the repetition behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Part,
    Repetition,
}

impl<'a> Translation<'a> {
    fn of(expression: &'a [u8]) -> Result<String, Problem> {
        let mut translation = Translation { rest: expression, out: String::new(), depth: 0, groups: 0 };
        translation.all()?;
        Ok(translation.out)
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn takes(&mut self, word: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn all(&mut self) -> Result<(), Problem> {
        let mut before = Before::Nothing;
        while let Some(byte) = self.next() {
            before = match byte {
                b'\\' => self.escape()?,
                b'[' => {
                    self.bracket()?;
                    Before::Part
                }
                b'(' => self.open()?,
                b')' if self.depth > 0 => {
                    self.depth -= 1;
                    self.out.push(')');
                    Before::Part
                }
                b'|' => {
                    self.out.push('|');
                    Before::Nothing
                }
                b'^' | b'$' => {
                    // Repeated, it has to be in a group of its own.
                    self.out.push_str(if byte == b'^' { "(?:^)" } else { "(?:$)" });
                    Before::Part
                }
                b'.' => {
                    self.out.push('.');
                    Before::Part
                }
                b'*' | b'+' | b'?' => {
                    match before {
                        Before::Repetition => return Err(Problem::Repetition),
                        Before::Nothing => self.out.push_str("(?:)"),
                        Before::Part => {}
                    }
                    self.out.push(char::from(byte));
                    self.lazy();
                    Before::Repetition
                }
                b'{' => {
                    if before == Before::Nothing {
                        self.out.push_str("(?:)");
                    }
                    self.braces()?;
                    self.lazy();
                    Before::Repetition
                }
                byte => {
                    self.literal(byte);
                    Before::Part
                }
            };
        }
        if self.depth > 0 { Err(Problem::Parenthesis) } else { Ok(()) }
    }

    /// Whether the shortest or the longest text is found makes no difference: all question marks behind a repetition are
    /// passed over.
    fn lazy(&mut self) {
        while self.takes(b"?") {}
    }

    fn literal(&mut self, byte: u8) {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b' ' => self.out.push(char::from(byte)),
            other => self.out.push_str(&format!("\\x{other:02x}")),
        }
    }

    fn open(&mut self) -> Result<Before, Problem> {
        if !self.takes(b"?") {
            (self.depth, self.groups) = (self.depth + 1, self.groups + 1);
            self.out.push_str("(?:");
            return Ok(Before::Nothing);
        }
        if self.takes(b"#") {
            let end = self.rest.iter().position(|byte| *byte == b')').ok_or(Problem::Expression)?;
            self.rest = &self.rest[end + 1..];
            return Ok(Before::Nothing);
        }
        let (mut nocase, mut by_lines, mut is_on) = (None, None, true);
        loop {
            match self.next().ok_or(Problem::Expression)? {
                b'i' => nocase = Some(is_on),
                b'n' => by_lines = Some(is_on),
                // They only concern which text is found.
                b'r' | b'U' => {}
                b'-' => is_on = false,
                end @ (b')' | b':') => {
                    self.flags(nocase, by_lines, end);
                    return Ok(Before::Nothing);
                }
                _ => return Err(Problem::Expression),
            }
        }
    }

    /// Writes flags for the rest of a group, or with a colon as the `end` for a group of their own. `by_lines`: a dot matches
    /// no end of a line, and lines begin and end where the text does.
    fn flags(&mut self, nocase: Option<bool>, by_lines: Option<bool>, end: u8) {
        let (mut on, mut off) = (String::new(), String::new());
        for (flag, setting) in [('i', nocase), ('m', by_lines), ('s', by_lines.map(|by_lines| !by_lines))] {
            match setting {
                Some(true) => on.push(flag),
                Some(false) => off.push(flag),
                None => {}
            }
        }
        if !off.is_empty() {
            on.push('-');
        }
        if end == b':' {
            self.depth += 1;
            self.out.push_str(&format!("(?{on}{off}:"));
        } else if !on.is_empty() {
            self.out.push_str(&format!("(?{on}{off})"));
        }
    }

    fn escape(&mut self) -> Result<Before, Problem> {
        match self.next().ok_or(Problem::TrailingBackslash)? {
            class @ (b'w' | b'W' | b's' | b'S' | b'd' | b'D') => {
                self.out.push('\\');
                self.out.push(char::from(class));
            }
            anchor @ (b'b' | b'B' | b'<' | b'>') => {
                self.out.push_str("(?:\\");
                self.out.push(char::from(anchor));
                self.out.push(')');
            }
            b't' => self.literal(b'\t'),
            b'n' => self.literal(b'\n'),
            b'r' => self.literal(b'\r'),
            b'f' => self.literal(0x0c),
            b'a' => self.literal(0x07),
            b'e' => self.literal(0x1b),
            b'x' => self.hexadecimal()?,
            b'Q' => {
                let end = self.rest.windows(2).position(|word| word == b"\\E");
                let (quoted, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest.strip_prefix(b"\\E").unwrap_or(rest);
                quoted.iter().for_each(|byte| self.literal(*byte));
                if quoted.is_empty() {
                    return Ok(Before::Nothing);
                }
            }
            digit @ b'0'..=b'9' => {
                let exists = usize::from(digit - b'0') <= self.groups;
                return Err(if exists { Problem::Unsupported } else { Problem::Reference });
            }
            other => self.literal(other),
        }
        Ok(Before::Part)
    }

    /// `\x41`, up to two digits; or `\x{41}`. A value above 255 matches no byte.
    fn hexadecimal(&mut self) -> Result<(), Problem> {
        let is_braced = self.takes(b"{");
        let most = if is_braced { 8 } else { 2 };
        let count = self.rest.iter().take(most).take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, rest) = self.rest.split_at(count);
        let value = digits
            .iter()
            .fold(0u64, |value, digit| value * 16 + u64::from(char::from(*digit).to_digit(16).unwrap_or(0)));
        self.rest = rest;
        if is_braced && !self.takes(b"}") {
            return Err(Problem::Brace);
        }
        match u8::try_from(value) {
            Ok(byte) => self.literal(byte),
            Err(_) => self.out.push_str("[^\\x00-\\xff]"),
        }
        Ok(())
    }

    /// `{2}`, `{2,}`, `{,3}` or `{2,3}`, after its first brace.
    fn braces(&mut self) -> Result<(), Problem> {
        let end = self.rest.iter().position(|byte| *byte == b'}').ok_or(Problem::Brace)?;
        let (contents, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        let number = |digits: &[u8]| -> Result<Option<u32>, Problem> {
            if !digits.iter().all(u8::is_ascii_digit) {
                return Err(Problem::Contents);
            }
            let value = digits
                .iter()
                .fold(0u32, |value, digit| value.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
            if value > REPEATS_MAX { Err(Problem::TooMany) } else { Ok((!digits.is_empty()).then_some(value)) }
        };
        match contents.iter().position(|byte| *byte == b',') {
            None => {
                let count = number(contents)?.ok_or(Problem::Contents)?;
                self.out.push_str(&format!("{{{count}}}"));
            }
            Some(comma) => {
                let (least, most) = (number(&contents[..comma])?.unwrap_or(0), number(&contents[comma + 1..])?);
                if most.is_some_and(|most| most < least) {
                    return Err(Problem::Contents);
                }
                let most = most.map(|most| most.to_string()).unwrap_or_default();
                self.out.push_str(&format!("{{{least},{most}}}"));
            }
        }
        Ok(())
    }

    /// `[abc]`, `[^a-z]`, `[[:alpha:]_]`, after its first bracket.
    fn bracket(&mut self) -> Result<(), Problem> {
        let is_negated = self.takes(b"^");
        let mut bytes = [false; 256];
        let mut is_first = true;
        loop {
            let byte = self.next().ok_or(Problem::Bracket)?;
            match (byte, self.rest) {
                (b']', _) if !is_first => break,
                (b'[', [b'.' | b'=', ..]) => return Err(Problem::Collating),
                (b'[', [b':', rest @ ..]) => {
                    let end = rest.iter().position(|byte| *byte == b':').ok_or(Problem::Class)?;
                    let of_class = class(&rest[..end]).ok_or(Problem::Class)?;
                    (0..=u8::MAX).filter(of_class).for_each(|byte| bytes[usize::from(byte)] = true);
                    self.rest = rest[end + 1..].strip_prefix(b"]").ok_or(Problem::Class)?;
                }
                (from, [b'-', to, rest @ ..]) if *to != b']' => {
                    if *to == b'[' && matches!(rest, [b'.' | b'=', ..]) {
                        return Err(Problem::Collating);
                    }
                    if *to < from || *to == b'[' && rest.first() == Some(&b':') {
                        return Err(Problem::Range);
                    }
                    bytes[usize::from(from)..=usize::from(*to)].fill(true);
                    self.rest = rest;
                }
                (b'-', rest) if !is_first && rest.first().is_some_and(|next| *next != b']') => {
                    return Err(Problem::Range);
                }
                (byte, _) => bytes[usize::from(byte)] = true,
            }
            is_first = false;
        }
        self.out.push_str(if is_negated { "[^" } else { "[" });
        for (byte, is_member) in bytes.iter().enumerate() {
            if *is_member {
                self.out.push_str(&format!("\\x{byte:02x}"));
            }
        }
        self.out.push(']');
        Ok(())
    }
}

/// The bytes of a class with a name.
fn class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts that are looked through.
    const TEXTS: [&[u8]; 19] = [
        b"abc",
        b"ABC",
        b"a]b",
        b"a\\b",
        b"a1b",
        b"a\nb",
        b"\xc3\xa9",
        b"",
        b"a{2}",
        b"aa",
        b"a+b",
        b"foo bar",
        b"(x)",
        b"x\x00y",
        b"^x$",
        b"a-b",
        b"aaa",
        b"\td",
        b"a[b",
    ];

    /// Matches of Redis 8.10.2: an expression, and the numbers of the texts above.
    #[test]
    fn texts_are_found_as_in_redis() {
        let all: Vec<usize> = (0..TEXTS.len()).collect();
        let of = |numbers: &[usize]| numbers.to_vec();
        let a_b = of(&[2, 3, 4, 5, 10, 15, 18]);
        let with_a = of(&[0, 2, 3, 4, 5, 8, 9, 10, 11, 15, 16, 18]);
        for (expression, found) in [
            ("b$", a_b.clone()),
            ("a.b", a_b),
            ("^a", of(&[0, 2, 3, 4, 5, 8, 9, 10, 15, 16, 18])),
            ("[]]", of(&[2])),
            ("[a\\]b]", of(&[])),
            ("[\\d]", of(&[3, 17])),
            ("\\d", of(&[4, 8])),
            ("\\w+ \\w", of(&[11])),
            ("a{2}", of(&[9, 16])),
            ("a\\{", of(&[8])),
            ("a{,2}$", all.clone()),
            ("^a{2,}$", of(&[9, 16])),
            ("*a", with_a.clone()),
            ("(*a)", with_a.clone()),
            ("(?#c)a", with_a),
            ("a|", all.clone()),
            ("(|z)", all.clone()),
            ("^*", all.clone()),
            ("{1}", all.clone()),
            ("a{0}", all),
            ("a)", of(&[])),
            ("[[:alpha:]][[:digit:]]", of(&[4])),
            ("\\<bar", of(&[11])),
            ("\\bbar\\b", of(&[11])),
            ("bar\\>", of(&[11])),
            ("o\\B", of(&[11])),
            ("(?i)abc", of(&[0, 1])),
            ("(?:a)1", of(&[4])),
            ("a{255}", of(&[])),
            ("\\x41", of(&[1])),
            ("\\x{41}", of(&[1])),
            ("\\x{100}", of(&[])),
            ("\\x", of(&[13])),
            ("\\t", of(&[17])),
            ("\\n", of(&[5])),
            ("\\q", of(&[])),
            ("\\Qa+b\\E", of(&[10])),
            ("[^a-z]", of(&[1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 17, 18])),
            ("[-a]b", of(&[0, 15])),
            ("a+?b", of(&[0])),
            ("a{2}?", of(&[9, 16])),
            ("x.y", of(&[13])),
            ("\\.", of(&[])),
            ("\\(x\\)", of(&[12])),
            ("x)", of(&[12])),
            ("a^", of(&[])),
            ("[[a]b]", of(&[])),
            ("a{2}{3}", of(&[])),
            ("\\A", of(&[1])),
            ("~", of(&[])),
            ("(?i:B)C", of(&[1])),
        ] {
            let regex = compile(expression.as_bytes(), false).expect(expression);
            let matches: Vec<usize> = (0..TEXTS.len()).filter(|at| regex.is_match(TEXTS[*at])).collect();
            assert_eq!(matches, found, "{expression}");
        }
        let found = |expression: &str| {
            let regex = compile(expression.as_bytes(), true).expect(expression);
            (0..TEXTS.len()).filter(|at| regex.is_match(TEXTS[*at])).collect::<Vec<_>>()
        };
        assert_eq!(found("ABC"), [0, 1]);
        assert_eq!(found("[^a-c]+"), [2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 17, 18]);
    }

    #[test]
    fn others_are_refused_as_in_redis() {
        for (expression, problem) in [
            ("a{", Problem::Brace),
            ("a{1,", Problem::Brace),
            ("\\x{zz}", Problem::Brace),
            ("a**", Problem::Repetition),
            ("a*+", Problem::Repetition),
            ("(a", Problem::Parenthesis),
            ("(?:", Problem::Parenthesis),
            ("[a", Problem::Bracket),
            ("[]", Problem::Bracket),
            ("[a\\", Problem::Bracket),
            ("[z-a]", Problem::Range),
            ("[a-z-9]", Problem::Range),
            ("[[:alpha:]-z]", Problem::Range),
            ("[a-[:alpha:]]", Problem::Range),
            ("[[:foo:]]", Problem::Class),
            ("[[:", Problem::Class),
            ("[[.a.]]", Problem::Collating),
            ("[[=a=]]", Problem::Collating),
            ("\\", Problem::TrailingBackslash),
            ("\\1", Problem::Reference),
            ("(a)\\1", Problem::Unsupported),
            ("\\0", Problem::Unsupported),
            ("a{256}", Problem::TooMany),
            ("a{1,300}", Problem::TooMany),
            ("a{x}", Problem::Contents),
            ("a{3,2}", Problem::Contents),
            ("{}", Problem::Contents),
            ("(?=a)", Problem::Expression),
            ("(?P<n>a)", Problem::Expression),
            ("(?x)a", Problem::Expression),
            ("(?i", Problem::Expression),
            ("(?#", Problem::Expression),
            // Redis takes this for approximate matching.
            ("a{+1}", Problem::Contents),
            ("((a{255}){255}){255}", Problem::Memory),
        ] {
            let error = compile(expression.as_bytes(), false).expect_err(expression);
            assert_eq!(error, Error::text(problem.text()), "{expression}");
        }
        assert!(compile(b"", false).is_err() && check_length(&[b'a'; 2049]).is_err());
        assert!(compile("(".repeat(1024).as_bytes(), false).is_err());
    }

    /// Whatever is not refused for what it says is well formed for the `regex` crate.
    #[test]
    fn all_expressions_are_translated() {
        let mut rng = fastrand::Rng::with_seed(5);
        let parts: &[&[u8]] = &[
            b"a",
            b"(",
            b")",
            b"[",
            b"]",
            b"[^",
            b"*",
            b"+",
            b"?",
            b"{2}",
            b"{1,3}",
            b"|",
            b"^",
            b"$",
            b"\\",
            b"-",
            b"b",
            b".",
            b"(?i)",
            b"(?n)",
            b"(?-n:",
            b"(?i-n)",
            b"(?in)",
            b"(?n-i)",
            b"(?ni-r)",
            b"\\w",
            b"\\<",
            b"[:alpha:]",
            b"\\Q",
            b"\\E",
            b"\xff",
            b"#",
            b" ",
            b"&&",
            b"~~",
            b"--",
        ];
        for _ in 0..3000 {
            let expression: Vec<u8> =
                (0..rng.usize(1..12)).flat_map(|_| parts[rng.usize(..parts.len())].iter().copied()).collect();
            if let Ok(translated) = Translation::of(&expression) {
                let parsed = RegexBuilder::new(&translated).unicode(false).build();
                assert!(parsed.is_ok(), "{:?} became {translated:?}: {parsed:?}", String::from_utf8_lossy(&expression));
            }
        }
    }
}
