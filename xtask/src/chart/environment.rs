//! A check of the container's environment in the chart against the server that reads it.
//!
//! 1. Each rendered `DORMOUSE_<OPTION>` must be an option that `dormouse serve --help` lists: the server ignores
//!    variables that it does not know.
//! 2. The server is started with exactly these variables, and must report that it listens. The command line overrides
//!    only the options that would collide with other processes on this machine; the variables are checked all the same. Files
//!    stand for those that the pod gets from Secrets.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::run;

/// Stands for the value that the pod takes from its Secret.
const SECRET: &str = "dm_shop_0123456789abcdef 0123456789abcdef";
/// The same for the token of metrics: there is one.
const METRICS_SECRET: &str = "fedcba9876543210";
/// Stands for the contents of the master key's file.
const MASTER_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

/// The same for the file of headers.
const HEADERS: &str = "Authorization: Bearer 0123456789abcdef\n";

/// The problems of the environment in a rendered StatefulSet.
pub(super) fn problems(server: &Path, rendered: &str) -> Result<Vec<String>, String> {
    let environment = environment(rendered);
    let (_, help) = run::output(Command::new(server).args(["serve", "--help"]))?;
    let mut problems: Vec<String> = unknown(&environment, &help).collect();
    if environment.is_empty() {
        problems.push("the container has no environment".to_owned());
    }
    problems.extend(refusal(server, &environment)?);
    Ok(problems)
}

/// The `env` of the only container. A value from a Secret is missing here.
fn environment(rendered: &str) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for line in rendered.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- name: ") {
            let secret = if name == "DORMOUSE_METRICS_TOKEN" { METRICS_SECRET } else { SECRET };
            variables.push((name.to_owned(), secret.to_owned()));
        } else if let (Some(value), Some((_, last))) = (line.strip_prefix("value: "), variables.last_mut()) {
            *last = value.trim_matches('"').to_owned();
        }
    }
    variables.retain(|(name, _)| name.starts_with("DORMOUSE_"));
    variables
}

fn unknown<'a>(environment: &'a [(String, String)], help: &'a str) -> impl Iterator<Item = String> + 'a {
    environment.iter().filter_map(|(name, _)| {
        let option = name.trim_start_matches("DORMOUSE_").to_lowercase().replace('_', "-");
        let known = help.split_ascii_whitespace().any(|word| word.strip_prefix("--") == Some(&option));
        (!known).then(|| format!("{name} is set, and there is no option --{option}"))
    })
}

/// The reason why the server does not start with this environment, if it does not.
fn refusal(server: &Path, environment: &[(String, String)]) -> Result<Option<String>, String> {
    let temporary = |end: &str| std::env::temp_dir().join(format!("dormouse-chart-{}.{end}", std::process::id()));
    let (socket, key, headers) = (temporary("sock"), temporary("key"), temporary("headers"));
    for (file, text) in [(&key, MASTER_KEY), (&headers, HEADERS)] {
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let mut command = Command::new(server);
    command.env_clear().envs(environment.iter().cloned());
    if environment.iter().any(|(name, value)| name == "DORMOUSE_MASTER_KEY" && value.starts_with("file:/")) {
        command.env("DORMOUSE_MASTER_KEY", format!("file:{}", key.display()));
    }
    if environment.iter().any(|(name, _)| name == "DORMOUSE_USAGE_HEADER_FILE") {
        command.env("DORMOUSE_USAGE_HEADER_FILE", &headers);
    }
    command
        .args(["serve", "--port", "0", "--http-port", "0", "--tls-port", "0", "--https-port", "0"])
        .args(["--store", "memory://", "--unix-socket"])
        .arg(&socket);
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", server.display()))?;
    let mut line = String::new();
    let read = process.stdout.take().map(|output| BufReader::new(output).read_line(&mut line));
    // It has started, or ended by itself; a store in memory has nothing to save.
    let _ = process.kill();
    let ended = process.wait_with_output().map_err(|error| error.to_string())?;
    for file in [&socket, &key, &headers] {
        // The server has made no socket if it has not started.
        let _ = std::fs::remove_file(file);
    }
    let listens = matches!(read, Some(Ok(_))) && line.contains("listens on");
    Ok((!listens).then(|| format!("the server refuses it: {}", String::from_utf8_lossy(&ended.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENDERED: &str = "          env:
            - name: DORMOUSE_PORT
              value: \"6379\"
            - name: RUST_BACKTRACE
              value: full
            - name: DORMOUSE_TOKEN
              valueFrom:
                secretKeyRef:
                  name: release-dormouse
                  key: token
            - name: DORMOUSE_SLEEPAFTER
              value: 5m
            - name: DORMOUSE_MAX_MEMORY
              value: \"0\"
          ports:
            - name: redis
              containerPort: 6379
";

    #[test]
    fn an_environment_is_read_and_a_wrong_name_found() {
        let environment = environment(RENDERED);
        let shown: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("DORMOUSE_PORT", "6379"),
                ("DORMOUSE_TOKEN", SECRET),
                ("DORMOUSE_SLEEPAFTER", "5m"),
                ("DORMOUSE_MAX_MEMORY", "0")
            ]
        );
        let help = "--port <PORT> --token <TOKEN> --sleep-after <DURATION> --max-memory <SIZE> --max-memory-policy";
        let unknown: Vec<String> = unknown(&environment, help).collect();
        assert_eq!(unknown, ["DORMOUSE_SLEEPAFTER is set, and there is no option --sleepafter"]);
    }
}
