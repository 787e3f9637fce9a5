//! The settings of a database as its manifest keeps them: a line with name and value for each one that differs from the
//! command line's, except for the loss window, which is kept by itself.
//!
//! They are read with the rights of a tenant: what exceeds the operator's limits, or what this version does not know, is
//! left out, and the command line's value holds.

use dormouse_storage::log::Window;

use super::{Access, DatabaseSettings, HINTS, PARAMETERS, Parameter, Scope, Settings, set};

/// Both are the loss window.
const KEPT_ELSEWHERE: [&str; 2] = ["loss-window", "appendfsync"];

fn is_kept(parameter: &Parameter) -> bool {
    parameter.scope == Scope::Database && parameter.set.is_some() && !KEPT_ELSEWHERE.contains(&parameter.name)
}

/// Returns the lines of the settings that differ from those of the command line.
pub fn encode(database: &DatabaseSettings, command_line: &Settings) -> String {
    let mut before = command_line.clone();
    before.database.loss_window = database.loss_window;
    let now = Settings { database: database.clone(), ..before.clone() };
    let mut text = String::new();
    for parameter in PARAMETERS.iter().chain(HINTS).filter(|parameter| is_kept(parameter)) {
        let value = (parameter.get)(&now);
        if value != (parameter.get)(&before) {
            text += &format!("{} {value}\n", parameter.name);
        }
    }
    text
}

/// Returns the command line's settings with those of the lines, for a database with this loss window, and the problems.
pub fn decode(text: &str, command_line: &Settings, loss_window: Window) -> (DatabaseSettings, Vec<String>) {
    let mut settings = command_line.clone();
    settings.database.loss_window = loss_window;
    let mut problems = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let is_kept = PARAMETERS.iter().chain(HINTS).any(|parameter| parameter.name == name && is_kept(parameter));
        if !is_kept {
            problems.push(format!("{name:?} is no setting of a database"));
        } else if let Err(problem) = set(&mut settings, &[(name.as_bytes(), value.as_bytes())], Access::Database) {
            problems.push(problem.to_string());
        }
    }
    (settings.database, problems)
}
