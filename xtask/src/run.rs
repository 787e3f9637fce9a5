//! Running other programs; their output is passed on line by line and counted.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;

use crate::{Count, Outcome};

/// The cargo that runs this program, in the workspace.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

pub(crate) fn succeeded(status: ExitStatus) -> Outcome {
    if status.success() { Ok(Count::of(true)) } else { Err(format!("ended with {status}")) }
}

/// One check that either passes or fails.
pub(crate) fn check(command: &mut Command) -> Outcome {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    Ok(Count::of(status.success()))
}

/// A test runner, with its own counts. A runner that fails without a failed test counts as one failure.
pub(crate) fn tests(command: &mut Command) -> Outcome {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(command, &error))?;
    let count = Mutex::new(Count::default());
    let output = child.stdout.take().expect("its output is a pipe");
    let errors = child.stderr.take().expect("its errors are a pipe");
    std::thread::scope(|scope| {
        scope.spawn(|| pass_on(output, &mut std::io::stdout(), &count));
        pass_on(errors, &mut std::io::stderr(), &count);
    });
    let status = child.wait().map_err(|error| error.to_string())?;
    let mut count = count.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

/// A program's output on both streams, and whether it succeeded.
pub(crate) fn output(command: &mut Command) -> Result<(bool, String), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, &error))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

fn pass_on(from: impl Read, to: &mut impl Write, count: &Mutex<Count>) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
        // A closed terminal is no reason to stop counting.
        _ = to.write_all(&line);
        count.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).add_line(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!("cannot start {}: {error}", command.get_program().to_string_lossy())
}
