//! Lists: ordered elements, quick at both ends.

use crate::commands::{Category, Family, Run};

pub(crate) const FAMILY: Family<Run> = Family { group: "list", category: Category::LIST, commands: &[] };
