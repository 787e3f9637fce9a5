//! Arrows between the modules of one folder must not form a circle, at the top of a crate and at every level below.
//!
//! 1. A folder's modules are its files and its folders, each with all that is below. One points at another if its code
//!    names it or something in it: `crate::log::Log`, or `super::log::Log`. A name that a parent of both imports or
//!    exports stands for the module that defines it. Tests may point anywhere.
//! 2. A module that can be reached from itself is in a circle. A parent and its parts may point at each other: they are
//!    one idea.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::source;

/// The folders of the crates whose modules are checked.
const CRATES: &[&str] = &[
    "autoscaler",
    "coordination",
    "importer",
    "protocol",
    "server",
    "shard",
    "simulation",
    "storage",
    "types",
    "xtask",
];

/// The problems with the arrows of all crates.
pub(crate) fn circles(files: &[(&str, String)]) -> Vec<String> {
    CRATES.iter().flat_map(|name| problems(name, files)).collect()
}

fn problems(name: &str, files: &[(&str, String)]) -> Vec<String> {
    let code = Code::of(name, files);
    code.folders.keys().flat_map(|folder| code.arrows(folder).problems(&told(name, folder))).collect()
}

/// The name of a folder in messages.
fn told(name: &str, folder: &[String]) -> String {
    [&[name.to_owned()], folder].concat().join("::")
}

/// The code of a crate.
struct Code<'a> {
    /// The modules that have modules below them, each with their names.
    folders: BTreeMap<Vec<String>, BTreeSet<String>>,
    /// For each module, the full paths of the names that it imports or exports.
    imported: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
    /// The files that are no tests.
    files: Vec<File<'a>>,
}

struct File<'a> {
    path: &'a str,
    module: Vec<String>,
    /// The paths in this crate that it names, with their lines.
    named: Vec<(usize, Vec<String>)>,
}

impl<'a> Code<'a> {
    fn of(name: &str, files: &[(&'a str, String)]) -> Self {
        let prefix = format!("{name}/src/");
        let parts = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<String>>();
        let mut code = Self { folders: BTreeMap::new(), imported: BTreeMap::new(), files: Vec::new() };
        let inside = || files.iter().filter(|(path, _)| path.starts_with(&prefix) && path.ends_with(".rs"));
        let is_test = |module: &[&str]| module.iter().any(|part| *part == "testing" || part.ends_with("tests"));
        for (path, _) in inside() {
            let module: Vec<String> = source::module(path).into_iter().map(str::to_owned).collect();
            for depth in 0..module.len() {
                code.folders.entry(module[..depth].to_vec()).or_default().insert(module[depth].clone());
            }
        }
        for (path, text) in inside() {
            let module = source::module(path);
            if is_test(&module) {
                continue;
            }
            let own: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
            let text = source::without_tests(&source::code(text));
            let below = code.folders.get(&own);
            let full = |path: &str| {
                let parts = parts(path);
                match parts.split_first() {
                    Some((first, rest)) if first == "crate" => Some(rest.to_vec()),
                    Some((first, _)) if below.is_some_and(|below| below.contains(first)) => {
                        Some([own.clone(), parts].concat())
                    }
                    _ => None,
                }
            };
            let paths = |text: &str| source::paths(&module, text).into_iter();
            let imports = paths(&source::uses(&text)).filter_map(|(_, path)| full(&path));
            let imports = imports.filter_map(|path| Some((path.last()?.clone(), path)));
            code.imported.entry(own.clone()).or_default().extend(imports);
            let named = paths(&text).filter_map(|(line, path)| Some((line, full(&path)?))).collect();
            code.files.push(File { path, module: own, named });
        }
        code
    }

    /// The arrows between the modules of a folder.
    fn arrows(&self, folder: &[String]) -> Arrows {
        let modules = &self.folders[folder];
        let mut arrows = Arrows(modules.iter().map(|module| (module.clone(), BTreeMap::new())).collect());
        for File { path, module, named } in &self.files {
            let Some(from) = module.strip_prefix(folder).and_then(|rest| rest.first()) else { continue };
            for (line, named) in named {
                let named = self.resolved(named, module);
                let to = named.strip_prefix(folder).and_then(|rest| rest.first());
                if let Some(to) = to.filter(|to| *to != from && modules.contains(*to)) {
                    let arrows = arrows.0.entry(from.clone()).or_default();
                    arrows.entry(to.clone()).or_insert_with(|| ((*path).to_owned(), *line));
                }
            }
        }
        arrows
    }

    /// Follows a path through the imports of the modules above `module`.
    fn resolved(&self, path: &[String], module: &[String]) -> Vec<String> {
        let mut path = path.to_vec();
        let mut depth = 0;
        // A module is imported through a few others at most; a bound, as imports may name each other.
        for _ in 0..16 {
            let (Some(folder), Some(name)) = (path.get(..depth), path.get(depth)) else { break };
            if !module.starts_with(folder) {
                break;
            }
            let is_module = self.folders.get(folder).is_some_and(|modules| modules.contains(name));
            match self.imported.get(folder).and_then(|names| names.get(name)) {
                Some(full) if !is_module => {
                    path = [full, &path[depth + 1..]].concat();
                    depth = 0;
                }
                _ => depth += 1,
            }
        }
        path
    }
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
    fn problems(&self, folder: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut told = BTreeSet::new();
        for module in self.0.keys() {
            let Some(circle) = self.circle(module) else { continue };
            // The same circle is found from each of its modules.
            let modules: BTreeSet<String> = circle.iter().map(|step| step.from.clone()).collect();
            if told.insert(modules) {
                let steps = circle.iter().map(Step::told).collect::<Vec<_>>().join(", ");
                problems.push(format!("{folder}: modules must not point at each other in a circle: {steps}"));
            }
        }
        problems
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
    fn folders_are_checked_at_every_level() {
        let circle = "a::keys: modules must not point at each other in a circle: index -> place (a/src/keys/index.rs:1), \
                      place -> index (a/src/keys/place.rs:1)";
        let tree = |index: &str, place: &str| {
            let parent =
                "mod index;\nmod place;\npub use index::Index;\nuse self::place::Place;\nfn f() { index::g() }";
            let files = [("mod", parent), ("index", index), ("place", place)];
            problems(
                "a",
                &files
                    .map(|(name, text)| (format!("a/src/keys/{name}.rs"), text.to_owned()))
                    .iter()
                    .map(|(path, text)| (path.as_str(), text.clone()))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(tree("use super::place::Place;", "use super::index::Index;"), [circle]);
        assert_eq!(tree("use super::Place;", "use super::Index;"), [circle], "through the parent's imports");
        assert_eq!(tree("use crate::keys::Place;", "fn f() -> super::Index {}"), [circle]);
        assert_eq!(tree("use super::Place;", "fn f() { super::g() }"), [""; 0], "a function of the parent itself");
    }

    #[test]
    fn tests_point_anywhere() {
        assert_eq!(found("a/src/store/tests.rs", "use crate::keys::Key;"), [""; 0]);
        assert_eq!(found("a/src/store.rs", "#[cfg(test)]\nmod tests {\n    use crate::keys::Key;\n}"), [""; 0]);
    }
}
