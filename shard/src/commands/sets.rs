//! Sets: unique members without an order.

use crate::commands::{Category, Family, Run};

pub(crate) const FAMILY: Family<Run> = Family { group: "set", category: Category::SET, commands: &[] };
