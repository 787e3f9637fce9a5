//! The variables of the environment that stand for options: `DORMOUSE_<OPTION>`.
//!
//! A variable that names no option is refused, like a misspelled option on the command line: a server that ignored
//! `DORMOUSE_SLEEPAFTER` would run with a default that its operator believes to have changed. Two kinds of variables
//! have the prefix and another meaning:
//!
//! - Kubernetes sets variables in every pod beside a Service named `dormouse` or `dormouse-NAME`, such as
//!   `DORMOUSE_SERVICE_HOST` and `DORMOUSE_PORT=tcp://10.0.0.1:6379`.
//! - The tools read some of their own ([`OF_TOOLS`]).

use std::ffi::OsString;

use super::{Defaults, checked_values, invalid, options_command, takes_several};

const PREFIX: &str = "DORMOUSE_";

/// Variables of the tools, which have no option of that name.
const OF_TOOLS: [&str; 3] = ["DORMOUSE_URL", "DORMOUSE_SOURCE_PASSWORD", "DORMOUSE_TARGET_PASSWORD"];

/// Least similarity of a misspelled name to a suggested one, as in clap.
const SIMILARITY_MIN: f64 = 0.8;

/// Returns the defaults that the environment sets.
///
/// # Errors
/// When a variable names no option, or holds a value that its option refuses.
pub(crate) fn defaults(environment: impl Iterator<Item = (OsString, OsString)>) -> Result<Defaults, clap::Error> {
    let command = options_command();
    let named = |option: &clap::Arg| {
        let name = option.get_long()?;
        Some(format!("{PREFIX}{}", name.to_uppercase().replace('-', "_")))
    };
    let mut defaults = Defaults::new();
    for (variable, value) in environment {
        let Some(variable) = variable.to_str().filter(|variable| variable.starts_with(PREFIX)) else { continue };
        if value.is_empty() || OF_TOOLS.contains(&variable) || is_of_service(variable, &value) {
            continue;
        }
        let Some(option) = command.get_arguments().find(|option| named(option).as_deref() == Some(variable)) else {
            return Err(unknown(variable, command.get_arguments().filter_map(named)));
        };
        let text = value.to_str().ok_or_else(|| invalid(format!("{variable} is not UTF-8")))?;
        let values = match takes_several(option) {
            true => text.split_ascii_whitespace().map(str::to_string).collect(),
            false => vec![text.to_string()],
        };
        let name = option.get_long().unwrap_or_default().to_string();
        defaults.push((name, checked_values(option, values, variable)?));
    }
    Ok(defaults)
}

/// Whether Kubernetes has set the variable for a Service.
fn is_of_service(variable: &str, value: &OsString) -> bool {
    let is_address = value.to_str().is_some_and(|value| value.starts_with("tcp://") || value.starts_with("udp://"));
    let is_of_port = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    variable.contains("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || (variable.ends_with("_PORT") && is_address)
        || variable.split("_PORT_").skip(1).any(is_of_port)
}

fn unknown(variable: &str, known: impl Iterator<Item = String>) -> clap::Error {
    let similarity = |name: &String| strsim::jaro(&name[PREFIX.len()..], &variable[PREFIX.len()..]);
    let nearest = known.max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let advice = match nearest.filter(|name| similarity(name) > SIMILARITY_MIN) {
        Some(name) => format!("did you mean {name}?"),
        None => "`dormouse --help` lists the options".to_string(),
    };
    invalid(format!("the environment variable {variable} names no option: {advice}"))
}
