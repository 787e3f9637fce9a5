//! The names of databases and branches.
//!
//! A database has a plain name: `shop`. A branch has the name of its owner in front: `shop.pr-1`. The owner is the
//! database at the root of its lineage, however many branches are in between. Plain names have no dot, so no branch can
//! take the name of a database, and no two owners share a name for a branch.

/// The database of clients that present no token, or one that names no database.
pub const DEFAULT_DATABASE: &str = "default";

/// Longest name of a database, or of a branch with its owner. A usage event's id holds the name and stays within 100
/// characters.
pub const DATABASE_NAME_LEN_MAX: usize = 63;

const SEPARATOR: char = '.';

/// Checks the name of a database that is no branch. Such names are safe in a path, a host name, a metric label and a
/// token.
pub fn check_database_name(name: &str) -> Result<(), String> {
    if is_plain(name) {
        return Ok(());
    }
    Err(format!(
        "invalid database name `{}`: expected 1 to {DATABASE_NAME_LEN_MAX} lower-case letters, digits and inner hyphens",
        name.escape_default()
    ))
}

/// Checks the name of a database or, with its owner in front, of a branch.
pub fn check_full_name(name: &str) -> Result<(), String> {
    match name.split_once(SEPARATOR) {
        None => check_database_name(name),
        Some((owner, branch)) if is_plain(owner) && is_plain(branch) && name.len() <= DATABASE_NAME_LEN_MAX => Ok(()),
        Some(_) => Err(format!(
            "invalid branch name `{}`: expected OWNER.BRANCH, each of lower-case letters, digits and inner hyphens, \
             together at most {DATABASE_NAME_LEN_MAX} characters",
            name.escape_default()
        )),
    }
}

/// Returns the full name of a branch of `owner`, from `pr-1` or from `shop.pr-1`.
///
/// # Errors
/// When the name is malformed, too long, or has another owner in front.
pub fn branch_name(owner: &str, name: &str) -> Result<String, String> {
    let full = match name.split_once(SEPARATOR) {
        None => {
            check_database_name(name)?;
            format!("{owner}{SEPARATOR}{name}")
        }
        Some((named, _)) if named == owner => name.to_string(),
        Some(_) => {
            check_full_name(name)?;
            return Err(format!(
                "`{name}` is not a branch of `{owner}`: branches of `{owner}` are named {owner}.BRANCH"
            ));
        }
    };
    check_full_name(&full).map(|()| full)
}

/// Returns owner and branch of a full name; `None` for the name of a database.
pub fn owner_and_branch(name: &str) -> Option<(&str, &str)> {
    name.split_once(SEPARATOR)
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !name.is_empty()
        && name.len() <= DATABASE_NAME_LEN_MAX
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a".repeat(63);
        let longer = "a".repeat(64);
        let together = format!("{}.b", "a".repeat(61));
        for (name, is_database, is_full) in [
            ("shop", true, true),
            ("my-shop-2", true, true),
            ("0", true, true),
            ("admin", true, true),
            (&long, true, true),
            (&longer, false, false),
            (&together, false, true),
            (&format!("{together}b"), false, false),
            ("shop.pr-1", false, true),
            ("shop.default", false, true),
            ("", false, false),
            (".", false, false),
            ("..", false, false),
            (".pr-1", false, false),
            ("shop.", false, false),
            ("shop..pr", false, false),
            ("shop.pr.1", false, false),
            ("shop.-a", false, false),
            ("shop-.a", false, false),
            ("-a", false, false),
            ("Shop", false, false),
            ("shop_pr", false, false),
            ("../etc", false, false),
            ("shop.pr/1", false, false),
            ("shöp", false, false),
            ("a b", false, false),
        ] {
            assert_eq!(check_database_name(name).is_ok(), is_database, "{name}");
            assert_eq!(check_full_name(name).is_ok(), is_full, "{name}");
        }
    }

    #[test]
    fn a_branch_is_named_within_its_owner() {
        for (owner, name, expected) in [
            ("shop", "pr-1", Ok("shop.pr-1")),
            ("shop", "shop.pr-1", Ok("shop.pr-1")),
            ("shop", "shop", Ok("shop.shop")),
            ("shop", "default", Ok("shop.default")),
            ("shop", "blog.pr-1", Err("`blog.pr-1` is not a branch of `shop`")),
            ("shop", "shop-2.pr-1", Err("is not a branch of `shop`")),
            ("shop", "sho.p", Err("is not a branch of `shop`")),
            ("shop", "shop.pr.1", Err("invalid branch name")),
            ("shop", ".pr-1", Err("invalid branch name")),
            ("shop", "", Err("invalid database name")),
            ("shop", &"a".repeat(59), Err("together at most 63")),
        ] {
            match (branch_name(owner, name), expected) {
                (Ok(full), Ok(expected)) => assert_eq!(full, expected),
                (Err(error), Err(part)) => assert!(error.contains(part), "{name}: {error}"),
                (got, _) => panic!("{owner} {name} -> {got:?}"),
            }
        }
    }
}
