//! Output of the suite: a line for each test, such as `[ok]: SET and GET (3 ms)`, and more lines after a failed one.

use super::OUTSIDE;

/// The outcomes of one run of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub passed: Vec<String>,
    /// By name, with what the suite said.
    pub failed: Vec<(String, String)>,
    pub skipped: usize,
    /// The test during which the suite gave up waiting.
    pub hung: Option<String>,
    /// Whether the unit was run to its end.
    pub is_done: bool,
}

/// Reads what was printed while `unit` ran.
pub fn read(text: &str, unit: &str) -> Outcomes {
    let file = format!(" in tests/{unit}.tcl");
    let mut outcomes = Outcomes::default();
    let mut is_failure = false;
    for line in text.lines() {
        // The summary repeats the failures.
        if line.trim() == "The End" {
            break;
        }
        let Some((status, rest)) = status(line) else {
            if let Some((_, test)) = line.split_once(" => (IN PROGRESS) ").filter(|_| outcomes.hung.is_some()) {
                outcomes.hung = Some(test.to_string());
            } else if is_failure && let Some((_, said)) = outcomes.failed.last_mut() {
                said.push_str(line);
                said.push('\n');
            }
            continue;
        };
        is_failure = matches!(status, "err" | "exception");
        match status {
            "ok" => outcomes.passed.push(rest.rsplit_once(" (").map_or(rest, |(name, _)| name).to_string()),
            "err" => match rest.strip_suffix(&file) {
                Some(name) => outcomes.failed.push((name.to_string(), String::new())),
                None => outcomes.failed.push((OUTSIDE.to_string(), format!("{rest}\n"))),
            },
            "exception" => outcomes.failed.push((OUTSIDE.to_string(), format!("{rest}\n"))),
            "ignore" => outcomes.skipped += 1,
            "TIMEOUT" => outcomes.hung = Some(OUTSIDE.to_string()),
            "done" => outcomes.is_done = true,
            _ => {}
        }
    }
    outcomes
}

/// Splits `[ok]: rest` and `[1/1 done]: rest`.
fn status(line: &str) -> Option<(&str, &str)> {
    let (status, rest) = line.strip_prefix('[')?.split_once("]: ")?;
    let status = status.rsplit_once(' ').map_or(status, |(_, status)| status);
    let known = ["ok", "err", "exception", "ignore", "skip", "done", "ready", "TIMEOUT"];
    known.contains(&status).then_some((status, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read() {
        let text = "\
[ready]: 17
[ok]: a key (or two) is set (3 ms)
[ignore]: Not supported on external server
[err]: a list in a list in tests/unit/kind.tcl
Expected '1' to be equal to '2'
[with a bracket]
[skip]: not now
[err]: ERR unknown command 'x'
    while executing
[1/1 done]: unit/kind (1 seconds)

                   The End

*** [err]: a list in a list in tests/unit/kind.tcl
";
        assert_eq!(
            read(text, "unit/kind"),
            Outcomes {
                passed: vec!["a key (or two) is set".into()],
                failed: vec![
                    ("a list in a list".into(), "Expected '1' to be equal to '2'\n[with a bracket]\n".into()),
                    (OUTSIDE.into(), "ERR unknown command 'x'\n    while executing\n".into()),
                ],
                skipped: 1,
                hung: None,
                is_done: true,
            }
        );
    }

    #[test]
    fn the_test_that_has_hung_is_named() {
        let text = "[TIMEOUT]: clients state report follows.\nsock5 => (IN PROGRESS) a pop waits\n";
        let outcomes = read(text, "unit/kind");
        assert_eq!((outcomes.hung.as_deref(), outcomes.is_done), (Some("a pop waits"), false));
    }
}
