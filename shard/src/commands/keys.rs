//! Keys whatever their type: existence, expiry, names, iteration.

use crate::commands::{Category, Family, Run};

pub(crate) const FAMILY: Family<Run> = Family { group: "generic", category: Category::KEYSPACE, commands: &[] };
