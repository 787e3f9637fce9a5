//! The packages of applications, installed once: what their tests and measures start.

use std::{
    env,
    ffi::OsString,
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

/// Returns the class path of all applications in Java.
pub fn java() -> Option<OsString> {
    if !toolchain::present("applications in Java", &[("javac", "default-jdk-headless"), ("mvn", "maven")]) {
        return None;
    }
    let inputs: Vec<String> = [files("java", &["xml"]), files("java/src/main/java", &["java"])].concat();
    let folder = toolchain::installed("applications/java", &names(&inputs), |sources, folder| {
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--no-transfer-progress", "--quiet", "compile", "dependency:copy-dependencies"]);
        maven.arg(format!("-Dbuild.folder={}", folder.display()));
        maven.arg(format!("-DoutputDirectory={}", folder.join("libraries").display()));
        toolchain::step(maven.current_dir(sources))
    })?;
    let (classes, libraries) = (folder.join("classes"), folder.join("libraries/*"));
    Some(env::join_paths([classes, libraries]).expect("the target folder's path has no colon"))
}

/// Returns the program with all applications in Rust. They are a workspace of their own, which only long tests build.
pub fn rust() -> Option<PathBuf> {
    let inputs = [files("rust", &["toml", "lock"]), files("rust/src", &["rs"])].concat();
    let folder = toolchain::installed("applications/rust", &names(&inputs), |sources, folder| {
        let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--locked", "--target-dir"]).arg(folder);
        toolchain::step(build.current_dir(sources))
    })?;
    Some(folder.join("debug/dormouse-applications"))
}

/// Returns the files of a folder with one of these extensions, as seen from the language's own.
fn files(folder: &str, extensions: &[&str]) -> Vec<String> {
    let inner = folder.split_once('/').map_or(String::new(), |(_, inner)| format!("{inner}/"));
    let folder = toolchain::sources("applications").join(folder);
    let has_one = |path: &Path| path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted));
    let mut files: Vec<String> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("the sources are readable").path())
        .filter(|path| has_one(path))
        .filter_map(|path| Some(inner.clone() + path.file_name()?.to_str()?))
        .collect();
    files.sort();
    files
}

fn names(files: &[String]) -> Vec<&str> {
    files.iter().map(String::as_str).collect()
}
