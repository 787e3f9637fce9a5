//! The packages of applications, installed once: what their tests and measures start.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::toolchain;

/// Returns the folder with the packages and scripts for Node. Like the others here, nothing if a tool is missing.
pub fn node() -> Option<PathBuf> {
    if !toolchain::present("applications for Node", &[("node", "nodejs"), ("npm", "npm")]) {
        return None;
    }
    let inputs = files("node", &["js", "json"]);
    toolchain::installed("applications/node", &names(&inputs), |sources, folder| {
        // Node finds packages beside the script that asks for them.
        for file in &inputs {
            fs::copy(sources.join(file), folder.join(file)).map_err(|e| format!("{file}: {e}"))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]);
        toolchain::step(npm.current_dir(folder))
    })
}

/// Returns the Python that has the packages of `requirements`, a file beside the scripts.
pub fn python(requirements: &str) -> Option<PathBuf> {
    if !toolchain::present("applications for Python", &[("python3", "python3-venv")]) {
        return None;
    }
    let sources = toolchain::sources("applications/python");
    let wanted = sources.join(requirements);
    let name = format!("applications/python-{}", requirements.trim_end_matches(".txt"));
    // The folder of the sources is not called like that of the packages.
    let input = wanted.to_str().expect("this workspace's path is text");
    let folder = toolchain::installed(&name, &[input], |_, folder| {
        toolchain::step(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
        let mut pip = Command::new(folder.join("venv/bin/pip"));
        toolchain::step(pip.args(["install", "--quiet", "--requirement"]).arg(&wanted))
    })?;
    Some(folder.join("venv/bin/python"))
}

/// Returns the program with all applications in Go.
pub fn go() -> Option<PathBuf> {
    if !toolchain::present("applications in Go", &[("go", "golang-go")]) {
        return None;
    }
    let inputs = files("go", &["go", "mod", "sum"]);
    let folder = toolchain::installed("applications/go", &names(&inputs), |sources, folder| {
        let mut build = Command::new("go");
        toolchain::step(build.args(["build", "-o"]).arg(folder.join("applications")).arg(".").current_dir(sources))
    })?;
    Some(folder.join("applications"))
}

/// Returns the files of a language with one of these extensions.
fn files(language: &str, extensions: &[&str]) -> Vec<String> {
    let folder = toolchain::sources("applications").join(language);
    let has_one = |path: &Path| path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted));
    let mut files: Vec<String> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("the sources are readable").path())
        .filter(|path| has_one(path))
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    files.sort();
    files
}

fn names(files: &[String]) -> Vec<&str> {
    files.iter().map(String::as_str).collect()
}
