use proptest::prelude::*;

use super::elements::element_end;
use super::mixed::Taken;
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
    for (pattern, text, expected) in [
        (&b"[\x80-\xff]"[..], &b"\xc3"[..], true),
        (b"[a-\xff]", b"b", false),
        (b"[a-\xff]", b"\0", true),
        (b"[\0-\xff]", b"a", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
    }
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

/// The answers of Redis 7.0.15, Redis 8.10.2 and Valkey 9.1.2.
#[test]
fn a_thousand_stars_match_and_more_do_not() {
    let text = "a".repeat(3_000);
    for (stars, before_a, at_the_end) in [(1000, true, true), (1001, false, true), (1002, false, false)] {
        let pattern = "a*".repeat(stars);
        assert_eq!(matches((pattern.clone() + "aaaaa").as_bytes(), text.as_bytes()), before_a, "{stars}");
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), at_the_end, "{stars}");
    }
}

/// Each of these took seconds or hours when the cost was the product of the lengths. A regression would not end
/// here.
#[test]
fn long_patterns_over_long_texts_are_quick() {
    let text = "a".repeat(256 << 10);
    let long = 128 << 10;
    let class = format!("*[{}]q", "ab".repeat(long));
    let mixed = format!("*{}b", "[ab]".repeat(ELEMENTS_MAX - 1));
    for pattern in [
        format!("*{}b", "a".repeat(long)),
        format!("*{}b*", "a".repeat(long)),
        format!("{}b", "*a".repeat(900)),
        format!("*{}?b", "a".repeat(long)),
        class,
        mixed,
    ] {
        let glob = Glob::new(pattern.as_bytes()).unwrap();
        assert!(!glob.matches(text.as_bytes()), "{}...", &pattern[..20]);
    }
}

#[test]
fn what_would_take_too_long_is_refused() {
    let elements = |count: usize| format!("*{}*", "[ab]".repeat(count));
    assert_eq!(Glob::new(elements(ELEMENTS_MAX).as_bytes()).unwrap().cost(1, 1 << 20), (64 + 1) << 13);
    assert_eq!(Glob::new(elements(ELEMENTS_MAX + 1).as_bytes()).unwrap_err(), TooComplex);
    assert_eq!(Glob::new(format!("{0}x{0}", elements(ELEMENTS_MAX * 2 / 3)).as_bytes()).unwrap_err(), TooComplex);
    // A run that is not searched for costs only its length.
    let anchored = "[ab]".repeat(ELEMENTS_MAX * 2);
    let text = "ab".repeat(ELEMENTS_MAX);
    for pattern in [anchored.clone(), format!("{anchored}*"), format!("*{anchored}")] {
        assert!(matches(pattern.as_bytes(), text.as_bytes()));
    }
}

/// The definition, tried exhaustively: the answer of Redis's recursive matcher without its shortcuts.
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
                        let (from, to) = (from.cast_signed(), to.cast_signed());
                        members.extend((from.min(to)..=from.max(to)).map(i8::cast_unsigned));
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

/// The definition by dynamic programming: quick enough for long runs.
fn naive(pattern: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let mut next = vec![false; text.len() + 1];
        if pattern[at] == b'*' {
            let first = reached.iter().position(|reached| *reached).unwrap_or(next.len());
            next[first..].fill(true);
            at += 1;
        } else {
            for (t, &byte) in text.iter().enumerate() {
                next[t + 1] = reached[t] && match_one(pattern, at, byte, Case::Sensitive).is_some();
            }
            at = element_end(pattern, at);
        }
        reached = next;
    }
    reached[text.len()]
}

/// The bytes that an element matches are read in two ways: all at once, and byte by byte.
#[test]
fn a_class_takes_what_it_matches() {
    for element in [
        "?",
        "a",
        "Q",
        r"\a",
        r"\Q",
        "[a]",
        "[Q]",
        "[^a-c]",
        "[a-Q]",
        "[Q-a]",
        "[\u{80}-\u{ff}]",
        "[\0-\u{7f}]",
        r"[\aB-Y]",
        "[]",
        "[^]",
        "[",
        "[^",
        "[a-",
        r"[a\",
        "[@-`]",
        "[z-z]",
    ] {
        let element = element.as_bytes();
        for case in [Case::Sensitive, Case::Insensitive] {
            let taken = Taken::by(element, case);
            for byte in 0..=255 {
                let matches = match_one(element, 0, byte, case).is_some();
                assert_eq!(taken.contains(byte), matches, "{:?} {byte} {case:?}", element.escape_ascii().to_string());
            }
        }
    }
    for (from, to) in [(i8::MIN, i8::MAX), (-1, 0), (0, 0), (-128, -128), (127, 127), (-65, 63), (-64, 64), (5, 4)] {
        let mut taken = Taken::NONE;
        taken.insert_range(from, to);
        for byte in 0..=255u8 {
            assert_eq!(taken.contains(byte), (from..=to).contains(&byte.cast_signed()), "{from} {to} {byte}");
        }
    }
}

/// The work of a match, in bytes and elements looked at.
#[test]
fn the_cost_counts_every_part_of_a_pattern() {
    let glob = |pattern: &str| Glob::new(pattern.as_bytes()).unwrap().into_owned();
    let long_class = format!("[{}]", "ab".repeat(1000));
    for (pattern, texts, bytes, least) in [
        // A prepared class at the beginning or at the end.
        ("[ab]".repeat(4096) + "*", 10, 10 * 4096, 10 * 4096 / 64),
        (format!("*{}", "[ab]".repeat(4096)), 10, 10 * 4096, 10 * 4096 / 64),
        // The same, too long to be prepared: each class is read for each text.
        (long_class.repeat(5000), 1, 5000, 5000 * 2002 / 64),
        (format!("*{}", long_class.repeat(5000)), 1, 5000, 5000 * 2002 / 64),
        // Each part is searched for separately.
        ("*a".repeat(900), 10, 10 << 10, 10 * 899 / 4),
    ] {
        let cost = glob(&pattern).cost(texts, bytes);
        assert!((least..2 * least + 100).contains(&cost), "{}...: {cost} of {least}", &pattern[..10]);
    }
    assert_eq!(glob("user:*").cost(1000, 1 << 20), (1 << 20) / 1024 + 5000 / 1024);
    assert_eq!(glob("user[0-9]*").cost(1000, 1 << 20), (1 << 20) / 1024 + 5000 / 64);
    assert!(reading_cost(b"user:[0-9]*") < 10);
    assert!(reading_cost("[ab]".repeat(1 << 20).as_bytes()) > 10_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn agrees_with_the_definition(pattern in r"[ab*?\[\]\^\\-]{0,10}", text in r"[ab\-\]\\\[*]{1,8}") {
        let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
        prop_assert_eq!(matches(pattern, text), model(pattern, text));
    }

    /// Runs of more than 64 elements are searched word by word.
    #[test]
    fn long_runs_agree_with_the_definition(
        runs in prop::collection::vec(r"([ab?]|\[ab\]|\[\^a\]){60,70}", 1..3),
        text in "a{0,3}[ab]{55,75}a{0,3}([ab]{60,75})?",
    ) {
        let pattern = format!("*{}*", runs.join("*"));
        prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), naive(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn any_bytes_are_answered(pattern: Vec<u8>, text: Vec<u8>) {
        matches_nocase(&pattern, &text);
        prop_assert_eq!(matches(&pattern, &text), !text.is_empty() && model(&pattern, &text) || pattern.is_empty() && text.is_empty());
    }
}
