//! A command is known by its row: nothing outside of the table asks for a command's name.
//!
//! 1. The names are those of all `Command::new("NAME", ...)` rows.
//! 2. In the server and the engine, no code compares a request's first word, or something called a name or a command,
//!    with one of them. What differs between commands is a flag or a function of the row.
//!
//! Other words that are compared are options: those of `SET key value GET` have nothing to do with the command `GET`.

use std::collections::BTreeSet;

use super::source;

/// The folders that are checked.
const FOLDERS: &[&str] = &["server/src/", "shard/src/"];

/// Files that may compare names, each with its reason.
const ALLOWED: &[(&str, &str)] = &[
    ("server/src/command_log.rs", "secrets are hidden in requests for commands that no row has, too"),
    (
        "server/src/sidecar/commands.rs",
        "it answers in place of a server, for the few commands that concern the connection",
    ),
    ("shard/src/replication.rs", "it writes commands, for another server"),
];

/// Files that may have a `match` on words: options of commands, settings of databases, and the words of the tools.
const PARSERS: &[&str] = &["/commands/", "/cli/", "/commands.rs", "/quota.rs"];

/// The ends of expressions that give a command's name.
const SUBJECTS: &[&str] = &["arg(0)", "get(0)", "name", "name()", "command"];

pub(crate) fn names(files: &[(&str, String)]) -> Vec<String> {
    let checked = || files.iter().filter(|(path, _)| is_checked(path));
    let rows: BTreeSet<&str> = checked().flat_map(|(_, text)| rows(text)).collect();
    let mut problems = Vec::new();
    for (path, text) in checked().filter(|(path, _)| ALLOWED.iter().all(|(allowed, _)| allowed != path)) {
        let may_match = PARSERS.iter().any(|part| path.contains(part));
        let code = source::without_tests(&source::code(text));
        for (index, (line, code)) in text.lines().zip(code.lines()).enumerate() {
            if code.trim().is_empty() {
                continue;
            }
            let is_arm = code.contains("=>") && !may_match;
            let mut names = literals(line).filter(|(_, word)| rows.contains(word.to_ascii_uppercase().as_str()));
            if let Some((_, name)) = names.find(|(before, _)| is_arm && !before.contains("=>") || is_compared(before)) {
                let line = index + 1;
                problems.push(format!("{path}:{line}: `{name}` is tested by its name: let its row say what differs"));
            }
        }
    }
    problems
}

fn is_checked(path: &str) -> bool {
    let is_test = |part: &&str| matches!(*part, "testing" | "costs") || part.ends_with("tests");
    path.ends_with(".rs")
        && FOLDERS.iter().any(|folder| path.starts_with(folder))
        && !source::module(path).iter().any(is_test)
}

/// The names of the rows in a file.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("Command::new(").map(|(at, start)| text[at + start.len()..].trim_start());
    starts.filter_map(|row| row.strip_prefix('"')?.split_once('"')).map(|(name, _)| name)
}

/// The string literals of a line that are one word, each with what is before it.
fn literals(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let quotes: Vec<usize> = line.match_indices('"').map(|(at, _)| at).collect();
    let pairs: Vec<_> = quotes.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let words = pairs.into_iter().map(|(from, to)| (&line[..from], &line[from + 1..to]));
    words.filter(|(_, word)| !word.is_empty() && word.chars().all(source::is_word))
}

/// Whether the literal after `before` is compared with a command's name.
fn is_compared(before: &str) -> bool {
    let before = before.trim_end_matches('b').trim_end_matches('&').trim_end_matches("Some(").trim_end();
    let signs = ["==", "!=", ".eq_ignore_ascii_case("];
    let compared = signs.iter().find_map(|sign| before.strip_suffix(sign));
    let matched =
        before.rsplit_once("matches!(").and_then(|(_, rest)| rest.split_once(',')).map(|(subject, _)| subject);
    compared.or(matched).is_some_and(|subject| {
        let subject = subject.trim_end();
        let subject = subject.strip_suffix(".as_bytes()").unwrap_or(subject);
        let rests = SUBJECTS.iter().filter_map(|end| subject.strip_suffix(end));
        rests.into_iter().any(|rest| !rest.chars().next_back().is_some_and(source::is_word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        let table = "Command::new(\"GET\", x),\n    Command::new(\n        \"FLUSHALL\", x)";
        names(&[("shard/src/commands/strings.rs", table.to_owned()), (path, text.to_owned())]).len()
    }

    #[test]
    fn a_name_outside_of_the_table_is_a_problem() {
        let path = "server/src/session.rs";
        for line in [
            "if entry.name == \"get\" {",
            "let waits = !name.eq_ignore_ascii_case(b\"FLUSHALL\");",
            "matches!(request.arg(0), b\"GET\" | b\"SET\")",
            "if request.get(0) != Some(b\"get\") {",
            "    b\"GET\" => run(),",
        ] {
            assert_eq!(found(path, line), 1, "{line}");
            assert_eq!(found("server/tests/session.rs", line), 0, "{line}");
            assert_eq!(found("server/src/command_log.rs", line), 0, "{line}");
        }
    }

    #[test]
    fn options_and_other_words_are_none() {
        for line in [
            "if word.eq_ignore_ascii_case(b\"GET\") {",
            "if name == \"default\" {",
            "// if name == \"GET\"",
            "let command = \"GET\";",
            "    Reason::Get => \"get\",",
            "#[cfg(test)]\nmod tests {\n    assert!(name == \"GET\");\n}",
        ] {
            assert_eq!(found("server/src/session.rs", line), 0, "{line}");
        }
        assert_eq!(found("shard/src/commands/bitmaps.rs", "b\"GET\" => read.gets = true,"), 0);
    }
}
