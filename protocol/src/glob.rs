//! Patterns as in `KEYS`, `SCAN MATCH`, `PSUBSCRIBE`, `CONFIG GET`: `*`, `?`, `[abc]`, `[^a-z]`, `\` before a byte that
//! is meant plainly. A class that is not closed ends with the pattern.
//!
//! Every element but `*` takes one byte. So when the elements after a star fail, only the nearest star needs to take
//! one byte more: if those elements match anywhere, the earliest place leaves the most to all that follows. That makes
//! a match cost at most pattern length times text length, whatever the pattern.
//!
//! As in Redis, an empty text matches only an empty pattern, not even `*`: commands that mean every key by a lone `*`
//! do not ask here.

/// Whether the whole of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_folded(pattern, text, |byte| byte)
}

/// Like [`matches`], the case of ASCII letters aside.
pub fn matches_nocase(pattern: &[u8], text: &[u8]) -> bool {
    matches_folded(pattern, text, |byte| byte.to_ascii_lowercase())
}

#[inline(always)]
fn matches_folded(pattern: &[u8], text: &[u8], fold: impl Fn(u8) -> u8 + Copy) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // The nearest star: the pattern after it, and where in the text its next try begins.
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            if p == pattern.len() {
                return true;
            }
            star = Some((p, t));
        } else if let Some(after) = match_one(pattern, p, text[t], fold) {
            p = after;
            t += 1;
        } else if let Some((after_star, next)) = star {
            p = after_star;
            t = next + 1;
            star = Some((after_star, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Matches one byte with the element at `p`, which is no star. Returns where the next element begins.
#[inline(always)]
fn match_one(pattern: &[u8], p: usize, byte: u8, fold: impl Fn(u8) -> u8 + Copy) -> Option<usize> {
    match (*pattern.get(p)?, pattern.get(p + 1)) {
        (b'?', _) => Some(p + 1),
        (b'[', _) => match_class(pattern, p + 1, byte, fold),
        (b'\\', Some(&escaped)) => (fold(escaped) == fold(byte)).then_some(p + 2),
        (plain, _) => (fold(plain) == fold(byte)).then_some(p + 1),
    }
}

/// Matches one byte with the class whose inside begins at `p`. An escaped byte keeps its case and a range does not end
/// at `]`; both as in Redis.
fn match_class(pattern: &[u8], mut p: usize, byte: u8, fold: impl Fn(u8) -> u8 + Copy) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match pattern[p..] {
            [] => break,
            [b'\\', escaped, ..] => {
                found |= escaped == byte;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [from, b'-', to, ..] => {
                let (from, to) = (from.min(to), from.max(to));
                found |= (fold(from)..=fold(to)).contains(&fold(byte));
                p += 3;
            }
            [plain, ..] => {
                found |= fold(plain) == fold(byte);
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", false),
            ("", "a", false),
            ("*", "a", true),
            ("**", "a", true),
            ("a*", "a", true),
            ("a**", "a", true),
            ("a*b", "ab", true),
            ("a*b", "acbcb", true),
            ("a*b", "acbc", false),
            ("*a*", "bab", true),
            ("?", "", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[", "a", false),
            ("[^", "a", true),
            ("[abc", "b", true),
            ("[a-", "-", true),
            ("[]-a]", "]", false),
            ("[a-]]", "^", true),
            (r"[\]]", "]", true),
            (r"[\-a]", "-", true),
            (r"[a\", r"\", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            (r"\", r"\", true),
            (r"a\", "a", false),
            (r"\a", "a", true),
            ("A", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} {text:?}");
        }
        assert!(matches(b"[\x80-\xff]", b"\xc3"));
    }

    #[test]
    fn case_aside() {
        for (pattern, text, expected) in [
            ("aB*", "AbC", true),
            ("[a-c]", "B", true),
            ("[A-C]", "b", true),
            ("[x]", "X", true),
            (r"[\x]", "X", false),
            (r"\x", "X", true),
            ("[^a]", "A", false),
        ] {
            assert_eq!(matches_nocase(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn many_stars_do_not_blow_up() {
        let pattern = "a*".repeat(5_000) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(10_000).as_bytes()));
        assert!(!matches("*a*".repeat(2_000).as_bytes(), b"b".repeat(10_000).as_slice()));
    }

    /// The definition, tried exhaustively: what Redis's recursive matcher answers without its shortcuts.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        let Some((&first, after)) = pattern.split_first() else {
            return text.is_empty();
        };
        if first == b'*' {
            return (0..=text.len()).any(|taken| model(after, &text[taken..]));
        }
        let Some((&byte, text)) = text.split_first() else {
            return false;
        };
        match first {
            b'?' => model(after, text),
            b'[' => {
                let (negated, mut rest) = match after {
                    [b'^', rest @ ..] => (true, rest),
                    rest => (false, rest),
                };
                let mut members = Vec::new();
                loop {
                    match rest {
                        [] => break,
                        [b'\\', escaped, tail @ ..] => {
                            members.push(*escaped);
                            rest = tail;
                        }
                        [b']', tail @ ..] => {
                            rest = tail;
                            break;
                        }
                        [from, b'-', to, tail @ ..] => {
                            members.extend(*from.min(to)..=*from.max(to));
                            rest = tail;
                        }
                        [plain, tail @ ..] => {
                            members.push(*plain);
                            rest = tail;
                        }
                    }
                }
                members.contains(&byte) != negated && model(rest, text)
            }
            b'\\' if !after.is_empty() => after[0] == byte && model(&after[1..], text),
            plain => plain == byte && model(after, text),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn agrees_with_the_definition(pattern in r"[ab*?\[\]\^\\-]{0,10}", text in r"[ab\-\]\\\[*]{1,8}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), model(pattern, text));
        }

        #[test]
        fn any_bytes_are_answered(pattern: Vec<u8>, text: Vec<u8>) {
            matches_nocase(&pattern, &text);
            prop_assert_eq!(matches(&pattern, &text), !text.is_empty() && model(&pattern, &text) || pattern.is_empty() && text.is_empty());
        }
    }
}
