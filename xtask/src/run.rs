//! Running other programs, whose output is shown and counted.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Instant;

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

/// Runs the test programs, each as a command with its name, as many at once as there are processors. The output of each is
/// shown in one piece when it ends. A program that fails without a failed test counts as one failure.
pub(crate) fn side_by_side(programs: Vec<(String, Command)>) -> Outcome {
    let (left, total) = (Mutex::new(programs.into_iter()), Mutex::new(Count::default()));
    let next = || left.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some((name, mut command)) = next() {
                    println!("running {name}");
                    let start = Instant::now();
                    let (succeeded, text) = output(&mut command).unwrap_or_else(|problem| (false, problem));
                    let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    *total += counted(succeeded, &text);
                    println!("\n{name}, {:.1} s{text}", start.elapsed().as_secs_f64());
                }
            });
        }
    });
    Ok(total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

fn counted(succeeded: bool, text: &str) -> Count {
    let mut count = Count::default();
    text.lines().for_each(|line| count.add_line(line));
    if !succeeded && count.failed == 0 {
        count.failed = 1;
    }
    count
}

/// A program's output on both streams, and whether it succeeded.
pub(crate) fn output(command: &mut Command) -> Result<(bool, String), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, &error))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!("cannot start {}: {error}", command.get_program().to_string_lossy())
}
