//! The texts about commands that are written by hand, in `words.txt`:
//!
//! ```text
//! absent NAME: why it is missing; `ar*` is for every name with this beginning
//! differs NAME: how it differs
//! refused NAME: why it is always answered with an error
//! row NAME COLUMN: why what COMMAND says of it differs
//! ```

use std::collections::BTreeMap;

pub struct Words {
    absent: BTreeMap<&'static str, &'static str>,
    differs: BTreeMap<&'static str, &'static str>,
    refused: BTreeMap<&'static str, &'static str>,
    rows: BTreeMap<(&'static str, &'static str), &'static str>,
}

/// Whether an entry of `absent` is about a command.
pub fn covers(entry: &str, name: &str) -> bool {
    match entry.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => entry == name || name.strip_prefix(entry).is_some_and(|rest| rest.starts_with('|')),
    }
}

impl Words {
    pub fn read() -> Self {
        let (absent, differs, refused, rows) = Default::default();
        let mut words = Self { absent, differs, refused, rows };
        let lines = include_str!("words.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let (subject, text) = line.split_once(": ").unwrap_or_else(|| panic!("no text: {line}"));
            assert!(!text.trim().is_empty(), "no text: {line}");
            let before = match subject.split(' ').collect::<Vec<_>>()[..] {
                ["absent", name] => words.absent.insert(name, text),
                ["differs", name] => words.differs.insert(name, text),
                ["refused", name] => words.refused.insert(name, text),
                ["row", name, column] => words.rows.insert((name, column), text),
                _ => panic!("no such subject: {line}"),
            };
            assert!(before.is_none(), "it stands twice: {line}");
        }
        words
    }

    /// Why a command is missing. The longest entry about it counts.
    pub fn why_absent(&self, name: &str) -> Option<&'static str> {
        let about = self.absent.iter().filter(|(entry, _)| covers(entry, name));
        about.max_by_key(|(entry, _)| entry.len()).map(|(_, text)| *text)
    }

    pub fn difference(&self, name: &str) -> Option<&'static str> {
        self.differs.get(name).copied()
    }

    pub fn why_refused(&self, name: &str) -> Option<&'static str> {
        self.refused.get(name).copied()
    }

    pub fn row(&self, name: &str, column: &str) -> Option<&'static str> {
        self.rows.iter().find(|((of, what), _)| *of == name && *what == column).map(|(_, text)| *text)
    }

    pub fn absent(&self) -> impl Iterator<Item = &'static str> {
        self.absent.keys().copied()
    }

    pub fn different(&self) -> impl Iterator<Item = &'static str> {
        self.differs.keys().chain(self.refused.keys()).copied()
    }

    pub fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.rows.keys().copied()
    }
}
