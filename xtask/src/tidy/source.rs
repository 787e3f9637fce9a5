//! A small part of Rust's syntax: code without comments and strings, and the paths that it names.

/// The text with comments and the insides of strings blanked out, line breaks kept.
pub(crate) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let blank = |code: &mut String, skipped: &str| {
        code.extend(skipped.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
    };
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(is_word);
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            string(rest)
        } else if !after_word && let Some(length) = raw_string(rest) {
            length
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        if length > 0 {
            blank(&mut code, &rest[..length]);
            rest = &rest[length..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"..."`, `br#"..."#` and so on.
fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix("cr")).or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inside = body[hashes..].strip_prefix('"')?;
    let start = text.len() - inside.len();
    let end = format!("\"{}", "#".repeat(hashes));
    Some(inside.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

/// The length of a character literal; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[2..].char_indices().skip(1).find(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 3),
        Some(_) => chars.next().filter(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// Code without its test module, which comes last.
pub(crate) fn without_tests(code: &str) -> String {
    let end = code.match_indices("#[cfg(test)]").find(|(at, attribute)| {
        let behind = code[at + attribute.len()..].trim_start();
        behind
            .strip_prefix("mod ")
            .is_some_and(|module| module.trim_start_matches(is_word).trim_start().starts_with('{'))
    });
    code[..end.map_or(code.len(), |(at, _)| at)].to_owned()
}

/// The `use` items of code, everything else blanked out.
pub(crate) fn uses(code: &str) -> String {
    let mut inside = false;
    let mut before = ' ';
    let kept = code.char_indices().map(|(at, c)| {
        let word = code[at..].strip_prefix("use").filter(|_| !is_word(before));
        inside |= word.is_some_and(|rest| rest.starts_with(char::is_whitespace));
        before = c;
        let kept = if inside || c == '\n' { c } else { ' ' };
        inside &= c != ';';
        kept
    });
    kept.collect()
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` occurs as a whole word in a line of code.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_word)
            && !line[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

/// All paths of at least two segments that the code names, with their lines: `use` trees are expanded, and paths in
/// expressions and types included. `self`, `super` and `crate` are resolved against the file's own module.
pub(crate) fn paths(module: &[&str], code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    // The paths before the open braces.
    let mut prefixes: Vec<Vec<String>> = Vec::new();
    let mut line = 1;
    let mut chars = code.char_indices().peekable();
    let mut current: Vec<String> = Vec::new();
    let mut expects_more = false;
    let mut finish = |current: &mut Vec<String>, prefixes: &[Vec<String>], line: usize| {
        if !current.is_empty() {
            let whole: Vec<&str> = prefixes.iter().flatten().chain(current.iter()).map(String::as_str).collect();
            if whole.len() > 1 {
                paths.push((line, resolve(module, &whole)));
            }
            current.clear();
        }
    };
    while let Some((at, c)) = chars.next() {
        if c == '\n' {
            line += 1;
        } else if is_word(c) && c != '\n' {
            let mut end = at + c.len_utf8();
            while let Some((next, _)) = chars.next_if(|&(_, c)| is_word(c)) {
                end = next + code[next..].chars().next().map_or(1, char::len_utf8);
            }
            if !expects_more {
                finish(&mut current, &prefixes, line);
            }
            current.push(code[at..end].to_owned());
            expects_more = false;
        } else if c == ':' && chars.next_if(|&(_, c)| c == ':').is_some() {
            expects_more = true;
        } else if c == '{' {
            if expects_more {
                prefixes.push(std::mem::take(&mut current));
            } else {
                finish(&mut current, &prefixes, line);
                prefixes.push(Vec::new());
            }
            expects_more = false;
        } else if c == '}' {
            finish(&mut current, &prefixes, line);
            prefixes.pop();
            expects_more = false;
        } else if !c.is_whitespace() {
            finish(&mut current, &prefixes, line);
            expects_more = false;
        }
    }
    finish(&mut current, &prefixes, line);
    paths
}

fn resolve(module: &[&str], path: &[&str]) -> String {
    let mut base: Vec<&str> = module.to_vec();
    let mut rest = path;
    let mut relative = false;
    while let Some((&first, tail)) = rest.split_first() {
        match first {
            "self" => relative = true,
            "super" => {
                relative = true;
                base.pop();
            }
            _ => break,
        }
        rest = tail;
    }
    if relative { [&["crate"], base.as_slice(), rest].concat().join("::") } else { path.join("::") }
}

/// The module path of a file from its crate's root: `shard/src/commands/lists.rs` is `commands`, `lists`.
pub(crate) fn module(path: &str) -> Vec<&str> {
    let Some((_, inside)) = path.split_once("/src/") else { return Vec::new() };
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    inside.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_no_code() {
        let blanked = code("a // b\nc /* d /* e */ f */ g \"h \\\" i\" j r#\"k \" l\"# m 'n' '\\'' &'o p br\"q\"");
        let words: Vec<&str> = blanked.split_whitespace().collect();
        assert_eq!(words, ["a", "c", "g", "j", "m", "&'o", "p"]);
        assert_eq!(blanked.lines().count(), 2);
        assert_eq!(code("for\"x\""), "for   ");
    }

    #[test]
    fn tests_are_cut_off() {
        let code = "use a::B;\n#[cfg(test)]\nuse c::D;\n#[cfg(test)]\nmod tests;\n";
        assert_eq!(without_tests(code), code);
        assert_eq!(without_tests("fn f() {}\n#[cfg(test)]\nmod tests {\n use a::B;\n}"), "fn f() {}\n");
    }

    #[test]
    fn uses_alone_are_left() {
        let code = "pub use a::B;\nfn reuse(x: c::D) {}\nuse {e::F,\ng::H};";
        assert_eq!(uses(code).split_whitespace().collect::<Vec<_>>(), ["use", "a::B;", "use", "{e::F,", "g::H};"]);
        assert_eq!(uses(code).lines().count(), 4);
    }

    #[test]
    fn words_stand_alone() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
    }

    fn found(module: &[&str], text: &str) -> Vec<String> {
        paths(module, &code(text)).into_iter().map(|(_, path)| path).collect()
    }

    #[test]
    fn use_trees_are_spread_out() {
        assert_eq!(found(&[], "use crate::{a::B, c::{D, self}};"), ["crate::a::B", "crate::c::D", "crate::c::self"]);
        assert_eq!(found(&[], "fn f() { g::h(i::J { k: 1 }) } "), ["g::h", "i::J"]);
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(module("shard/src/commands/lists.rs"), ["commands", "lists"]);
        assert_eq!(module("shard/src/commands/mod.rs"), ["commands"]);
        assert_eq!(module("shard/src/lib.rs"), [""; 0]);
        assert_eq!(found(&["types", "list"], "super::super::store::X"), ["crate::store::X"]);
        assert_eq!(found(&["types"], "use self::list::List;"), ["crate::types::list::List"]);
        assert_eq!(found(&[], "use std::{fs, io};"), ["std::fs", "std::io"]);
    }

    #[test]
    fn lines_are_those_of_the_text() {
        assert_eq!(paths(&[], "\nuse a::{\n b,\n};\nc::d"), [(3, "a::b".to_owned()), (5, "c::d".to_owned())]);
    }
}
