//! One word has one meaning: no two public types of the server's crates share a name.
//!
//! The tools around the server ([`TOOLS`]) are exempt: nothing depends on them, and a model of a thing may have its
//! name.

use std::collections::BTreeMap;

use super::source;

/// Crates that nothing else depends on.
const TOOLS: &[&str] = &["benches", "client-tests", "fuzz", "simulation", "xtask"];

/// Names that may be shared, each with its reason.
const SHARED: &[(&str, &str)] = &[];

pub(crate) fn names(files: &[(&str, String)]) -> Vec<String> {
    problems(files, SHARED)
}

fn problems(files: &[(&str, String)], shared: &[(&str, &str)]) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (path, text) in files {
        let krate = path.split('/').next().unwrap_or_default();
        let is_test = source::module(path).iter().any(|part| *part == "testing" || part.ends_with("tests"));
        if !path.ends_with(".rs") || !path.contains("/src/") || TOOLS.contains(&krate) || is_test {
            continue;
        }
        for name in public_types(&source::without_tests(&source::code(text))) {
            places.entry(name).or_default().push(path);
        }
    }
    let mut problems = Vec::new();
    let is_shared = |name: &str| places.get(name).is_some_and(|places| places.len() > 1);
    let allowed = |name: &str| shared.iter().any(|(shared, _)| *shared == name);
    for (name, places) in places.iter().filter(|(name, _)| is_shared(name) && !allowed(name)) {
        problems.push(format!("`{name}` is the name of {} public types: {}", places.len(), places.join(", ")));
    }
    let listed = shared.iter().map(|(name, _)| name);
    problems.extend(
        listed.filter(|name| !is_shared(name)).map(|name| {
            format!("`{name}` is the name of one type now: take it off the list in xtask/src/tidy/types.rs")
        }),
    );
    problems
}

/// The types that a file declares at its top level for users of its crate.
fn public_types(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in code.lines() {
        let Some(rest) = line.strip_prefix("pub ") else { continue };
        let declared =
            ["struct ", "enum ", "trait ", "type ", "union "].iter().find_map(|kind| rest.strip_prefix(kind));
        if let Some(declared) = declared {
            names.push(declared.chars().take_while(|c| source::is_word(*c)).collect());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)], shared: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<(&str, String)> = files.iter().map(|(path, text)| (*path, (*text).to_owned())).collect();
        problems(&files, shared)
    }

    #[test]
    fn a_name_is_one_type() {
        let twice =
            [("a/src/x.rs", "pub struct Place(u8);\nstruct Own;"), ("b/src/y.rs", "pub enum Place {}\nstruct Own;")];
        assert_eq!(found(&twice, &[]), ["`Place` is the name of 2 public types: a/src/x.rs, b/src/y.rs"]);
        assert_eq!(found(&twice, &[("Place", "a reason")]), [""; 0]);
        assert_eq!(found(&twice[..1], &[("Place", "a reason")]).len(), 1);
    }

    #[test]
    fn tests_and_tools_are_left_out() {
        for (path, text) in [
            ("b/src/y/tests.rs", "pub struct Place;"),
            ("b/tests/y.rs", "pub struct Place;"),
            ("simulation/src/y.rs", "pub struct Place;"),
            ("b/src/y.rs", "// pub struct Place;\n#[cfg(test)]\nmod tests {\npub struct Place;\n}"),
            ("b/src/y.rs", "pub(crate) struct Place;\nmod m {\n    pub struct Place;\n}"),
        ] {
            assert_eq!(found(&[("a/src/x.rs", "pub struct Place;"), (path, text)], &[]), [""; 0], "{path}: {text}");
        }
    }
}
