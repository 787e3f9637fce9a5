//! The sum of what test runners report.

use std::fmt;
use std::ops::AddAssign;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl Count {
    pub fn of(passes: bool) -> Count {
        if passes { Count { passed: 1, ..Count::default() } } else { Count { failed: 1, ..Count::default() } }
    }

    pub fn skipped() -> Count {
        Count { skipped: 1, ..Count::default() }
    }

    /// Adds one line of a test runner's output.
    ///
    /// - `test result: ok. 8 passed; 0 failed; 1 ignored; ...` ends each test binary.
    /// - `X was NOT tested: ...` comes from a client test whose toolchain is missing; its own runner then wrongly
    ///   counts it as passed.
    pub fn add_line(&mut self, line: &str) {
        if let Some((_, counts)) = line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". ")) {
            for part in counts.split(';') {
                let mut words = part.split_whitespace();
                let (Some(number), Some(what)) = (words.next().and_then(|word| word.parse::<u32>().ok()), words.next())
                else {
                    continue;
                };
                match what {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.skipped += number,
                    _ => {}
                }
            }
        } else if line.contains(" was NOT tested: ") {
            self.skipped += 1;
            self.passed = self.passed.saturating_sub(1);
        }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lines: &[&str]) -> String {
        let mut count = Count::default();
        lines.iter().for_each(|line| count.add_line(line));
        count.to_string()
    }

    #[test]
    fn runners_are_summed() {
        let lines = [
            "test result: ok. 8 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            "test segment::splits ... ok",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ];
        assert_eq!(count(&lines), "11 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_suite_that_was_not_run_did_not_pass() {
        let result = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(count(&[result, "go-redis was NOT tested: `go` is missing"]), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(
            count(&["", "12 passed", "test result:", "test result: ok. lots passed;"]),
            Count::default().to_string()
        );
    }
}
