//! Arrows between the modules at the top of a crate, each a file or a folder, must not form a circle.
//!
//! 1. A module points at another if its code names it: `crate::log::Log`, or `super::log::Log`. A name that the crate's
//!    root exports stands for the module that defines it. Tests may point anywhere.
//! 2. A module that can be reached from itself is in a circle. Circles inside a folder are allowed: a parent and its
//!    parts are one idea.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::source;

/// The folders of the crates whose modules are checked.
const CRATES: &[&str] =
    &["autoscaler", "importer", "protocol", "server", "shard", "simulation", "storage", "types", "xtask"];

/// The problems with the arrows of all crates.
pub(crate) fn circles(files: &[(&str, String)]) -> Vec<String> {
    CRATES.iter().flat_map(|name| problems(name, files)).collect()
}

fn problems(name: &str, files: &[(&str, String)]) -> Vec<String> {
    let arrows = Arrows::of(name, files);
    let mut problems = Vec::new();
    let mut told = BTreeSet::new();
    for module in arrows.0.keys() {
        let Some(circle) = arrows.circle(module) else { continue };
        // The same circle is found from each of its modules.
        let modules: BTreeSet<String> = circle.iter().map(|step| step.from.clone()).collect();
        if told.insert(modules) {
            let steps = circle.iter().map(Step::told).collect::<Vec<_>>().join(", ");
            problems.push(format!("{name}: modules must not point at each other in a circle: {steps}"));
        }
    }
    problems
}

/// An arrow, and its place in the code.
struct Step {
    from: String,
    to: String,
    file: String,
    line: usize,
}

impl Step {
    fn told(&self) -> String {
        format!("{} -> {} ({}:{})", self.from, self.to, self.file, self.line)
    }
}

/// For each module, the modules that it names, each with a place.
struct Arrows(BTreeMap<String, BTreeMap<String, (String, usize)>>);

impl Arrows {
    fn of(name: &str, files: &[(&str, String)]) -> Self {
        let prefix = format!("{name}/src/");
        let inside = || files.iter().filter(|(path, _)| path.starts_with(&prefix) && path.ends_with(".rs"));
        let top = |path: &str| source::module(path).first().map(|module| (*module).to_owned());
        let modules: BTreeSet<String> = inside().filter_map(|(path, _)| top(path)).collect();
        let mut exported = BTreeMap::new();
        for (_, text) in inside().filter(|(path, _)| source::module(path).is_empty()) {
            for (_, path) in source::paths(&[], &source::code(text)) {
                let mut parts = path.split("::").skip_while(|part| matches!(*part, "crate" | "self"));
                if let (Some(first), Some(last)) = (parts.next(), parts.last())
                    && modules.contains(first)
                {
                    exported.insert(last.to_owned(), first.to_owned());
                }
            }
        }
        let mut arrows: BTreeMap<String, BTreeMap<String, (String, usize)>> =
            modules.iter().map(|module| (module.clone(), BTreeMap::new())).collect();
        for (path, text) in inside() {
            let module = source::module(path);
            let Some(arrows) = module.first().and_then(|from| arrows.get_mut(*from)) else { continue };
            if module.iter().any(|part| *part == "testing" || part.ends_with("tests")) {
                continue;
            }
            for (line, named) in source::paths(&module, &source::without_tests(&source::code(text))) {
                let Some(named) = named.strip_prefix("crate::").and_then(|rest| rest.split("::").next()) else {
                    continue;
                };
                let to = if modules.contains(named) { Some(named) } else { exported.get(named).map(String::as_str) };
                if let Some(to) = to.filter(|to| *to != module[0]) {
                    arrows.entry(to.to_owned()).or_insert_with(|| ((*path).to_owned(), line));
                }
            }
        }
        Self(arrows)
    }

    /// The shortest path from a module back to itself.
    fn circle(&self, module: &str) -> Option<Vec<Step>> {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([module]);
        while let Some(at) = queue.pop_front() {
            for to in self.0.get(at)?.keys() {
                if to == module {
                    let mut steps = vec![self.step(at, module)];
                    let mut at = at;
                    while at != module {
                        steps.push(self.step(before[at], at));
                        at = before[at];
                    }
                    steps.reverse();
                    return Some(steps);
                }
                if !before.contains_key(to.as_str()) {
                    before.insert(to, at);
                    queue.push_back(to);
                }
            }
        }
        None
    }

    fn step(&self, from: &str, to: &str) -> Step {
        let (file, line) = self.0[from][to].clone();
        Step { from: from.to_owned(), to: to.to_owned(), file, line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &[(&str, &str)] = &[
        ("a/src/lib.rs", "pub mod keys;\npub mod log;\npub mod store;\npub use store::Store;"),
        ("a/src/keys/mod.rs", "use crate::log::Log;\nuse super::keys::index::Index;"),
        ("a/src/keys/index.rs", "use super::Key;"),
        ("a/src/log.rs", "use crate::Store;\n// crate::keys"),
        ("a/src/store.rs", "fn f() {}"),
        ("b/src/keys.rs", "use crate::log::Log;"),
    ];

    /// The problems of crate `a` if a file has another text.
    fn found(path: &str, text: &str) -> Vec<String> {
        let mut tree: BTreeMap<&str, &str> = TREE.iter().copied().collect();
        tree.insert(path, text);
        let files: Vec<(&str, String)> = tree.into_iter().map(|(path, text)| (path, text.to_owned())).collect();
        problems("a", &files)
    }

    #[test]
    fn arrows_down_are_no_circle() {
        assert_eq!(found("a/src/store.rs", "use std::sync::Arc;"), [""; 0]);
    }

    #[test]
    fn a_circle_is_told_once_with_its_arrows() {
        let expected = "a: modules must not point at each other in a circle: keys -> log (a/src/keys/mod.rs:1), log -> \
                        store (a/src/log.rs:1), store -> keys (a/src/store.rs:2)";
        assert_eq!(found("a/src/store.rs", "\nuse crate::keys::Key;"), [expected]);
        assert_eq!(found("a/src/store.rs", "\nuse super::{keys::Key, x::Y};"), [expected]);
        let at_once = found("a/src/store.rs", "fn f() { crate::log::g() }");
        assert_eq!(at_once.len(), 1, "{at_once:?}");
        assert!(at_once[0].contains("log -> store (a/src/log.rs:1), store -> log"), "{at_once:?}");
    }

    #[test]
    fn tests_point_anywhere() {
        assert_eq!(found("a/src/store/tests.rs", "use crate::keys::Key;"), [""; 0]);
        assert_eq!(found("a/src/store.rs", "#[cfg(test)]\nmod tests {\n    use crate::keys::Key;\n}"), [""; 0]);
    }
}
