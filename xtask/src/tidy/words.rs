//! Lengths, names, and leftovers.

use super::{Problem, source};

pub(crate) const LINES_MAX: usize = 1000;
const LINES_LONG: usize = 600;

/// Files that may be longer, each with its reason.
const LONG: &[(&str, &str)] = &[];

const SOURCES: &[&str] = &["rs", "py", "js", "mjs", "ts", "go", "java", "c", "h", "sh", "tpl"];

/// Endings that do not describe a thing.
const EMPTY_ENDINGS: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils", "Impl"];
const EMPTY_FILES: &[&str] = &["util", "utils", "helper", "helpers", "manager", "misc", "common"];

// In pieces, so that this file does not contain them.
const LEFT_BEHIND: &[(&str, &str)] = &[
    (concat!("FIX", "ME"), "is unfinished work"),
    (concat!("TO", "DO"), "is unfinished work"),
    (concat!("XX", "X:"), "is unfinished work"),
    (concat!("to", "do!("), "is unfinished work"),
    (concat!("unimpl", "emented!("), "is unfinished work"),
    (concat!("//", " for now"), "is unfinished work"),
    (concat!("/ho", "me/"), "is a folder of one machine"),
    (concat!("/ro", "ot/"), "is a folder of one machine"),
    (concat!("/Us", "ers/"), "is a folder of one machine"),
    (concat!("\"resol", "ved\": \"http"), "ties a lock file to one registry"),
    (concat!("index", "-url"), "ties packages to one registry"),
];

fn has_extension(path: &str, extensions: &[&str]) -> bool {
    path.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
}

pub(crate) fn length(path: &str, text: &str) -> Vec<Problem> {
    let lines = text.lines().count();
    if lines <= LINES_MAX || !has_extension(path, SOURCES) || LONG.iter().any(|(long, _)| *long == path) {
        return Vec::new();
    }
    vec![Problem::at(0, format!("{lines} lines: split it by idea, or say in xtask/src/tidy/words.rs why not"))]
}

/// The number of lines, if a file is getting long.
pub(crate) fn is_long(path: &str, text: &str) -> Option<usize> {
    let lines = text.lines().count();
    (has_extension(path, SOURCES) && (LINES_LONG + 1..=LINES_MAX).contains(&lines)).then_some(lines)
}

/// Names of types, functions, modules and files.
pub(crate) fn names(path: &str, text: &str) -> Vec<Problem> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    let mut problems = Vec::new();
    let file = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    if EMPTY_FILES.contains(&file) {
        problems.push(Problem::at(0, format!("`{file}` says nothing about what is inside")));
    }
    for (index, line) in source::code(text).lines().enumerate() {
        let mut words = line.split(|c| !source::is_word(c)).filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            if !matches!(word, "struct" | "enum" | "trait" | "type" | "fn" | "mod" | "union") {
                continue;
            }
            let Some(name) = words.next() else { break };
            let empty = EMPTY_ENDINGS.iter().any(|ending| name.ends_with(ending));
            let numbered =
                name.rsplit_once("_v").is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            if empty || numbered || word == "mod" && EMPTY_FILES.contains(&name) {
                problems.push(Problem::at(index + 1, format!("`{name}` says nothing: name it by what it is")));
            }
        }
    }
    problems
}

pub(crate) fn left_behind(path: &str, text: &str) -> Vec<Problem> {
    if path == "Cargo.lock" {
        return Vec::new();
    }
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (banned, what) in LEFT_BEHIND.iter().filter(|(banned, _)| line.contains(banned)) {
            problems.push(Problem::at(index + 1, format!("`{banned}` {what}")));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_short() {
        let lines = |count: usize| "x\n".repeat(count);
        assert_eq!(length("a.rs", &lines(1000)), []);
        assert_eq!(length("a.rs", &lines(1001)).len(), 1);
        assert_eq!(length("package-lock.json", &lines(5000)), []);
        assert_eq!(is_long("a.rs", &lines(601)), Some(601));
        assert_eq!(is_long("a.rs", &lines(600)), None);
        assert_eq!(is_long("a.rs", &lines(1001)), None);
    }

    #[test]
    fn names_say_what_a_thing_is() {
        let count = |text: &str| names("a.rs", text).len();
        assert_eq!(count("struct ShardManager;"), 1);
        assert_eq!(count("pub(crate) trait CodecImpl {}"), 1);
        assert_eq!(count("fn decode_v2() {}"), 1);
        assert_eq!(count("mod utils;"), 1);
        assert_eq!(count("struct Managed; fn implement() {} fn read_value() {}"), 0);
        assert_eq!(count("// struct ShardManager"), 0);
        assert_eq!(names("server/src/utils.rs", "").len(), 1);
    }

    #[test]
    fn nothing_is_left_behind() {
        for (banned, _) in LEFT_BEHIND {
            assert_eq!(left_behind("a.md", &format!("x\n{banned}y")).len(), 1, "{banned}");
        }
        assert_eq!(left_behind("a.md", "all done"), []);
    }
}
