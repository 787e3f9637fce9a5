//! Hashes: fields and their values.

use crate::commands::{Category, Family, Run};

pub(crate) const FAMILY: Family<Run> = Family { group: "hash", category: Category::HASH, commands: &[] };
