//! Other languages' tools: found or loudly missed, their packages installed once and kept under `target/client-tests`.

use std::{
    env, fs,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Whether all tools are present. If one is missing, says so on standard error, past the test harness's capture, and
/// fails under `CI=true`: a suite that never runs proves nothing.
pub fn present(suite: &str, tools: &[(&str, &str)]) -> bool {
    let missing = tools.iter().find(|(program, _)| !runs(program));
    if let Some((program, package)) = missing {
        skip(suite, &format!("`{program}` is missing (Debian: apt-get install {package})"));
    }
    missing.is_none()
}

fn runs(program: &str) -> bool {
    // Only `go` has no `--version`. It exits with an error, which still shows that it is present.
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

pub fn skip(suite: &str, reason: &str) {
    let text = format!("{suite} was NOT tested: {reason}");
    assert!(env::var("CI").as_deref() != Ok("true"), "{text}");
    let bar = "=".repeat(text.len());
    _ = writeln!(std::io::stderr(), "\n{bar}\n{text}\n{bar}");
}

/// Returns Cargo's target folder, found from the path of this program.
pub fn target() -> PathBuf {
    let program = env::current_exe().expect("a running program has a path");
    // Cargo omits the tag if the folder existed before, but never the other file.
    let marks = ["CACHEDIR.TAG", ".rustc_info.json"];
    let target = program.ancestors().find(|folder| marks.iter().any(|mark| folder.join(mark).exists()));
    target.expect("tests are built inside a target folder").to_path_buf()
}

/// Returns the sources of the suite `name`.
pub fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Makes `target/client-tests/<name>` by `install`, unless it was made from the same `inputs` before. Returns nothing
/// on failure (no network, say), which is treated like a missing tool.
pub fn installed(
    name: &str,
    inputs: &[&str],
    install: impl FnOnce(&Path, &Path) -> Result<(), String>,
) -> Option<PathBuf> {
    let (sources, folder) = (sources(name), target().join("client-tests").join(name));
    fs::create_dir_all(&folder).expect("the target folder is writable");
    let lock = File::create(folder.join("lock")).expect("the target folder is writable");
    lock.lock().expect("a local file can be locked");
    let wanted: Vec<u8> = inputs
        .iter()
        .flat_map(|input| fs::read(sources.join(input)).unwrap_or_else(|e| panic!("{name}/{input}: {e}")))
        .collect();
    let stamp = folder.join("stamp");
    if fs::read(&stamp).is_ok_and(|found| found == wanted) {
        return Some(folder);
    }
    match install(&sources, &folder) {
        Ok(()) => {
            fs::write(&stamp, wanted).expect("the target folder is writable");
            Some(folder)
        }
        Err(reason) => {
            skip(name, &reason);
            None
        }
    }
}

/// Runs one installation step. Its output is shown only when it fails.
pub fn step(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{command:?} ended with {}\n{out}{err}", output.status))
}
