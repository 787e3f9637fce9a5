//! The places where `unsafe` is allowed, and the reasons that exceptions to lints must carry.

use serde_json::Value;

use super::{Problem, source};

/// Paths that may use `unsafe`.
///
/// The record is one allocation behind a thin pointer, the segment a table of such pointers: measurements justify both,
/// and the fuzz targets run them under the address sanitizer. Scripts keep their values on Lua's own stack, which measurements
/// justify too.
const UNSAFE: &[&str] = &["scripting/src/stack", "types/src/entry", "types/src/record", "types/src/segment"];

/// The crates that cannot forbid `unsafe` as a whole.
const UNSAFE_CRATES: &[&str] = &["dormouse-scripting", "dormouse-types"];

const FORBID: &str = "#![forbid(unsafe_code)]";

pub(crate) fn unsafe_code(path: &str, text: &str) -> Vec<Problem> {
    if !path.ends_with(".rs") || UNSAFE.iter().any(|allowed| path.starts_with(allowed)) {
        return Vec::new();
    }
    let code = source::code(text);
    let lines = code.lines().enumerate().filter(|(_, line)| source::has_word(line, "unsafe"));
    lines
        .map(|(index, _)| {
            Problem::at(index + 1, "`unsafe` belongs to the record and segment modules, and to the Lua stack")
        })
        .collect()
}

/// Checks that every library and program of the workspace forbids `unsafe` at its root.
pub(crate) fn forbidden_unsafe(metadata: &Value, read: impl Fn(&str) -> String) -> Vec<String> {
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if package["name"].as_str().is_some_and(|name| UNSAFE_CRATES.contains(&name)) {
            continue;
        }
        for target in package["targets"].as_array().into_iter().flatten() {
            let is = |kind: &str| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind));
            let path = target["src_path"].as_str().unwrap_or_default();
            if (is("lib") || is("bin")) && !read(path).contains(FORBID) {
                problems.push(format!("{path}: must say {FORBID}"));
            }
        }
    }
    problems
}

/// Checks that `#[allow(...)]`, `#[expect(...)]` and `#[ignore]` carry a reason.
pub(crate) fn reasons(path: &str, text: &str) -> Vec<Problem> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    let code = source::code(text);
    let mut problems = Vec::new();
    for attribute in ["allow", "expect"] {
        for opening in [format!("#[{attribute}("), format!("#![{attribute}(")] {
            for (at, _) in code.match_indices(&opening) {
                let end = code[at..].find(")]").map_or(code.len(), |length| at + length);
                if !code[at..end].contains("reason") {
                    let line = code[..at].matches('\n').count() + 1;
                    problems.push(Problem::at(
                        line,
                        format!("an exception carries its reason: {opening}..., reason = \"...\")]"),
                    ));
                }
            }
        }
    }
    for (index, line) in code.lines().enumerate() {
        if line.trim() == "#[ignore]" {
            problems.push(Problem::at(index + 1, "an ignored test says why: #[ignore = \"...\"]"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_stays_where_it_is_allowed() {
        let text = "// unsafe\nfn f() { unsafe { g() } }";
        assert_eq!(unsafe_code("server/src/lib.rs", text)[0].line, 2);
        assert_eq!(unsafe_code("types/src/list.rs", "unsafe impl Send for X {}").len(), 1);
        assert_eq!(unsafe_code("types/src/segment/bucket.rs", text), []);
        assert_eq!(unsafe_code("scripting/src/vm.rs", text).len(), 1);
        assert_eq!(unsafe_code("scripting/src/stack/mod.rs", text), []);
        assert_eq!(unsafe_code("types/src/lib.rs", "#![deny(unsafe_code)]"), []);
    }

    #[test]
    fn crates_forbid_it() {
        let target = |kind: &str, path: &str| serde_json::json!({ "kind": [kind], "src_path": path });
        let metadata = serde_json::json!({ "packages": [
            { "name": "dormouse", "targets": [target("bin", "good"), target("lib", "bad"), target("test", "test")] },
            { "name": "dormouse-types", "targets": [target("lib", "types")] },
        ] });
        let read = |path: &str| if path == "good" { format!("//! Doc.\n{FORBID}\n") } else { String::new() };
        assert_eq!(forbidden_unsafe(&metadata, read), [format!("bad: must say {FORBID}")]);
    }

    #[test]
    fn exceptions_carry_reasons() {
        let count = |text: &str| reasons("a.rs", text).len();
        assert_eq!(count("#[allow(dead_code)]\nfn f() {}"), 1);
        assert_eq!(count("#[allow(\n  dead_code,\n  reason = \"used by the fuzzer\"\n)]"), 0);
        assert_eq!(count("#![allow(dead_code)] // reason"), 1);
        assert_eq!(count("#[ignore]\n#[ignore = \"takes an hour\"]"), 1);
        assert_eq!(count("// #[allow(dead_code)]"), 0);
    }
}
