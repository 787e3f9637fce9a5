//! Histories: operations with their moments and answers, and whether one order explains them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use dormouse_client_tests::toolchain;

/// Nanoseconds since the first call, the same clock for all threads.
pub fn now_ns() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGIN.get_or_init(Instant::now).elapsed().as_nanos()).expect("a test ends within centuries")
}

/// An operation on a key. A register knows `set` and `get`, a counter `incr` and `get`. They are not mixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub client: usize,
    /// The database and the key.
    pub key: String,
    pub kind: &'static str,
    /// The value that is set, which no other operation sets.
    pub input: String,
    /// The answer; empty for no value. `None`: none came, and the operation may have been carried out.
    pub output: Option<String>,
    pub call_ns: u64,
    pub return_ns: u64,
}

impl Operation {
    /// One line of JSON. No text in it needs an escape.
    fn json(&self) -> String {
        let Self { client, key, kind, input, output, call_ns, return_ns } = self;
        let (known, output) = (output.is_some(), output.as_deref().unwrap_or_default());
        format!(
            "{{\"client\":{client},\"key\":\"{key}\",\"kind\":\"{kind}\",\"input\":\"{input}\",\"known\":{known},\
             \"output\":\"{output}\",\"call\":{call_ns},\"return\":{return_ns}}}\n"
        )
    }
}

/// Why no order explains a history.
///
/// # Errors
/// The keys whose operations no order explains, each with its last operations.
///
/// # Panics
/// When the checker fails.
pub fn check(operations: &[Operation]) -> Result<(), String> {
    let Some(program) = checker() else { return Ok(()) };
    let mut process = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = process.stdin.take().expect("its input is a pipe");
    let lines: String = operations.iter().map(Operation::json).collect();
    // It reads everything before it says anything.
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(said),
        _ => panic!("the checker ended with {}: {said}", output.status),
    }
}

/// Fails with the evidence unless an order explains a history.
pub fn assert_linearizable(operations: &[Operation]) {
    if let Err(keys) = check(operations) {
        let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in operations {
            by_key.entry(&operation.key).or_default().push(operation);
        }
        let file = std::env::temp_dir().join(format!("dormouse-fleet-history-{}.jsonl", std::process::id()));
        _ = std::fs::write(&file, operations.iter().map(Operation::json).collect::<String>());
        panic!("no order explains these keys (all operations are in {}):\n{keys}", file.display());
    }
}

/// The checker, built once; nothing where Go is missing.
fn checker() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        if !toolchain::present("the linearizability of a fleet", &[("go", "golang-go")]) {
            return None;
        }
        let inputs = ["go.mod", "go.sum", "main.go"];
        let folder = toolchain::installed("tests/fleet/checker", &inputs, |sources, folder| {
            let mut go = Command::new("go");
            toolchain::step(go.args(["build", "-o"]).arg(folder.join("checker")).arg(".").current_dir(sources))
        })?;
        Some(folder.join("checker"))
    };
    PROGRAM.get_or_init(build).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `client kind key input output call return`, with `-` for no value and `?` for no answer.
    fn history(lines: &[&str]) -> Vec<Operation> {
        let operation = |line: &&str| {
            let words: Vec<&str> = line.split(' ').collect();
            let text = |word: &str| if word == "-" { String::new() } else { word.to_owned() };
            let kind = ["set", "get", "incr"].into_iter().find(|kind| *kind == words[1]).expect("a kind");
            Operation {
                client: words[0].parse().unwrap(),
                kind,
                key: text(words[2]),
                input: text(words[3]),
                output: (words[4] != "?").then(|| text(words[4])),
                call_ns: words[5].parse().unwrap(),
                return_ns: words[6].parse().unwrap(),
            }
        };
        lines.iter().map(operation).collect()
    }

    fn explains(lines: &[&str]) -> bool {
        check(&history(lines)).is_ok()
    }

    #[test]
    fn a_history_that_an_order_explains_passes() {
        for lines in [
            &["0 get r - - 1 2", "0 set r x OK 3 4", "1 get r - x 5 6"][..],
            // Beside a write, either value.
            &["0 set r x OK 1 9", "1 get r - - 2 3", "2 get r - x 4 5"],
            // A write without an answer is carried out late, or never.
            &["0 set r x ? 1 2", "1 get r - - 3 4", "1 get r - x 5 6", "1 get r - x 7 8"],
            &["0 set r x ? 1 2", "1 get r - - 3 4", "1 get r - - 5 6"],
            &["0 incr c - 1 1 2", "1 incr c - ? 1 9", "0 incr c - 3 10 11", "1 get c - 3 12 13"],
            // Keys do not matter to each other.
            &["0 set r x OK 1 2", "0 get s - - 3 4", "0 incr c - 1 5 6"],
        ] {
            assert!(explains(lines), "{lines:?}");
        }
    }

    #[test]
    fn a_broken_history_is_found() {
        if checker().is_none() {
            return;
        }
        for lines in [
            // A write is lost.
            &["0 set r x OK 1 2", "1 get r - - 3 4"][..],
            // A value comes back.
            &["0 set r x OK 1 2", "0 set r y OK 3 4", "1 get r - x 5 6"],
            // A read goes back in time, beside a write.
            &["0 set r x OK 1 9", "1 get r - x 2 3", "2 get r - - 4 5"],
            // A write that was not made.
            &["0 get r - x 1 2"],
            // A write without an answer is undone.
            &["0 set r x ? 1 2", "1 get r - x 3 4", "1 get r - - 5 6"],
            // Counters: a number twice, a number left out, a number lost.
            &["0 incr c - 1 1 2", "1 incr c - 1 3 4"],
            &["0 incr c - 1 1 2", "1 incr c - 3 3 4"],
            &["0 incr c - 1 1 2", "1 get c - - 3 4"],
            // It begins after that number was given.
            &["0 incr c - 2 1 2", "1 incr c - 1 3 4"],
            // Two owners: each sees its own.
            &["0 set r x OK 1 2", "1 set r y OK 3 4", "0 get r - x 5 6", "1 get r - y 5 6"],
        ] {
            assert!(!explains(lines), "{lines:?}");
        }
    }

    #[test]
    fn the_key_is_named() {
        if checker().is_none() {
            return;
        }
        let said = check(&history(&["0 set good x OK 1 2", "0 set bad x OK 1 2", "1 get bad - - 3 4"])).unwrap_err();
        assert!(said.contains("bad") && !said.contains("good"), "{said}");
    }
}
