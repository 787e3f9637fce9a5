//! The list of known failures: a line `unit: test => reason` for each. The reason of one that depends on chance begins with
//! `sometimes: `. One that would leave the suite's connection in a state in which the tests after it fail is not run and counts
//! as failed: its reason begins with `left out: `.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Known(BTreeMap<(String, String), String>);

impl Known {
    /// Reads the list. Blank lines and lines that begin with `#` say nothing.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut known = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let parts = line.split_once(" => ").and_then(|(test, reason)| Some((test.split_once(": ")?, reason)));
            let ((unit, test), reason) = parts.ok_or_else(|| format!("not `unit: test => reason`: {line}"))?;
            if reason.trim().is_empty() {
                return Err(format!("no reason: {line}"));
            }
            if known.insert((unit.to_string(), test.to_string()), reason.to_string()).is_some() {
                return Err(format!("listed twice: {line}"));
            }
        }
        Ok(Self(known))
    }

    pub fn reason(&self, unit: &str, test: &str) -> Option<&str> {
        self.0.get(&(unit.to_string(), test.to_string())).map(String::as_str)
    }

    /// The tests of a unit that are not run, with the reasons.
    pub fn left_out<'a>(&'a self, unit: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let of_unit = self.0.iter().filter(move |((of, _), _)| of == unit);
        of_unit.filter_map(|((_, test), reason)| Some((test.as_str(), reason.strip_prefix("left out: ")?)))
    }

    /// The tests of a unit that are known to fail every time.
    pub fn of_unit<'a>(&'a self, unit: &'a str) -> impl Iterator<Item = &'a str> {
        let always = self.0.iter().filter(|(_, reason)| !reason.starts_with("sometimes: "));
        always.filter(move |((of, _), _)| of == unit).map(|((_, test), _)| test.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read() {
        let known = Known::read("# why\n\nunit/dump: RESTORE: a => b => there is no a\n").expect("a list");
        assert_eq!(known.reason("unit/dump", "RESTORE: a"), Some("b => there is no a"));
        assert_eq!(known.of_unit("unit/dump").collect::<Vec<_>>(), ["RESTORE: a"]);
        let known = Known::read("unit/dump: a => sometimes: b").expect("a list");
        assert_eq!((known.reason("unit/dump", "a"), known.of_unit("unit/dump").count()), (Some("sometimes: b"), 0));
        let known = Known::read("unit/dump: a => left out: b").expect("a list");
        assert_eq!(known.left_out("unit/dump").collect::<Vec<_>>(), [("a", "b")]);
        assert_eq!((known.of_unit("unit/dump").count(), known.left_out("unit/auth").count()), (1, 0));
        assert!(Known::read("unit/dump: RESTORE").is_err());
        assert!(Known::read("unit/dump: RESTORE => ").is_err());
        assert!(Known::read("a: b => c\na: b => d").is_err());
    }
}
