//! Sorted sets: unique members ordered by score, ties broken by member.

use crate::commands::{Category, Family, Run};

pub(crate) const FAMILY: Family<Run> = Family { group: "sorted-set", category: Category::SORTED_SET, commands: &[] };
