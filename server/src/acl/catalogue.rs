//! The commands as rules name them.

use std::collections::HashMap;

use dormouse_shard::commands::{Category, Row};

/// A command, a container, or a subcommand.
#[derive(Debug)]
pub struct Subject {
    /// Its place in the catalogue, and in the server's table of commands.
    pub id: usize,
    pub row: &'static Row,
    /// Lower case, with its container's: `client|list`.
    pub name: Box<str>,
    pub categories: Category,
    pub is_subcommand: bool,
    /// Their places in the catalogue.
    pub subcommands: Vec<usize>,
}

#[derive(Debug)]
pub struct Catalogue {
    subjects: Vec<Subject>,
    by_name: HashMap<Box<str>, usize>,
}

impl Catalogue {
    /// The subjects must be in the order of their places.
    pub fn new(subjects: Vec<Subject>) -> Self {
        let by_name = subjects.iter().map(|subject| (subject.name.clone(), subject.id)).collect();
        Self { subjects, by_name }
    }

    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    pub fn get(&self, id: usize) -> &Subject {
        &self.subjects[id]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Subject> {
        self.subjects.iter()
    }

    /// Finds a command by its full name in any case.
    pub fn find(&self, name: &[u8]) -> Option<&Subject> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        self.by_name.get(name.as_str()).map(|id| self.get(*id))
    }

    /// Commands of a category, containers and subcommands included.
    pub fn of_category(&self, category: Category) -> impl Iterator<Item = &Subject> {
        self.subjects.iter().filter(move |subject| subject.categories.intersects(category))
    }
}

/// Finds a category by its name in any case, without the `@`.
pub fn category(name: &[u8]) -> Option<Category> {
    Category::all()
        .iter()
        .find(|category| category.names().any(|known| known.as_bytes()[1..].eq_ignore_ascii_case(name)))
}
