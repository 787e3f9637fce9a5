//! `examples/ci-job`: databases for pull requests, as the jobs of its workflow make them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use super::http::{ADMIN_TOKEN, Running};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/ci-job");

struct Job<'a> {
    server: &'a Running,
    token: &'a str,
    folder: tempfile::TempDir,
}

impl<'a> Job<'a> {
    /// A checkout that has the script where the workflow expects it.
    fn new(server: &'a Running, token: &'a str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("ci")).unwrap();
        std::fs::copy(Path::new(FOLDER).join("database.sh"), folder.path().join("ci/database.sh")).unwrap();
        Self { server, token, folder }
    }

    /// Runs a line as a step of a job does.
    fn run(&self, line: &str, number: &str) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_dormouse"));
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
            command.env_remove(name);
        }
        command.env("PATH", path).env("GITHUB_ENV", self.folder.path().join("env")).env("NUMBER", number);
        command
            .env("DORMOUSE_URL", format!("redis://127.0.0.1:{}", self.server.port))
            .env("DORMOUSE_TOKEN", self.token);
        command.env("DORMOUSE_ADMIN_URL", format!("http://127.0.0.1:{}", self.server.http_port));
        command.env("DORMOUSE_ADMIN_TOKEN", ADMIN_TOKEN);
        command.args(["-e", "-c", line]).current_dir(self.folder.path()).output().unwrap()
    }

    #[track_caller]
    fn done(&self, line: &str, number: &str) -> String {
        let output = self.run(line, number);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The outputs of the steps so far, for those that follow.
    fn variables(&self) -> BTreeMap<String, String> {
        variables(&std::fs::read_to_string(self.folder.path().join("env")).unwrap())
    }
}

fn variables(text: &str) -> BTreeMap<String, String> {
    text.lines().map(|line| line.split_once('=').unwrap()).map(|(name, value)| (name.into(), value.into())).collect()
}

/// The user and the secret of a URL.
fn credentials(url: &str) -> String {
    let (credentials, _) = url.strip_prefix("redis://").unwrap().split_once('@').unwrap();
    credentials.replace(':', " ").trim().to_owned()
}

#[test]
fn each_pull_request_has_a_branch() {
    let server = Running::start("memory://", &["--deleted-grace", "1h"]);
    let token = server.create(r#"{"name":"shop"}"#);
    let mut shop = server.enter(&token);
    shop.check("SET a old", "+OK");
    let workflow = std::fs::read_to_string(Path::new(FOLDER).join("pull-request.yml")).unwrap();
    let steps: Vec<&str> = workflow.lines().filter_map(|line| line.trim().strip_prefix("- run: ci/")).collect();
    let [open, close] = steps[..] else { panic!("{steps:?}") };
    let (open, close) = (format!("ci/{open}"), format!("ci/{close}"));
    let job = Job::new(&server, &token);
    job.done(&open, "17");
    let url = job.variables().remove("REDIS_URL").unwrap();
    assert!(url.ends_with(&format!("@127.0.0.1:{}", server.port)), "{url}");
    let enter = format!("AUTH {}", credentials(&url));
    let mut branch = server.connect();
    branch.check(&enter, "+OK");
    branch.check("GET a", "$old");
    branch.check("SET a changed", "+OK");
    shop.check("GET a", "$old");
    let shown = server.done("GET", "/v1/databases/shop.pr-17", "");
    assert!(shown["expires_at"].is_string(), "{shown}");
    // A further push begins again.
    shop.check("SET a new", "+OK");
    job.done(&open, "17");
    assert!(branch.is_closed());
    let mut branch = server.connect();
    branch.check(&enter, "+OK");
    branch.check("GET a", "$new");
    // Closing leaves nothing, not even something that could be brought back. It may be done twice.
    for _ in 0..2 {
        job.done(&close, "17");
        assert_eq!(server.call("GET", "/v1/databases/shop.pr-17", "").0, 404);
    }
    let deleted = server.done("GET", "/v1/databases?deleted=true", "");
    assert_eq!(deleted["databases"].as_array().unwrap().len(), 0, "{deleted}");
}

#[test]
fn a_run_of_tests_has_an_empty_database() {
    let server = Running::start("memory://", &[]);
    let job = Job::new(&server, "");
    let made = variables(&job.done("ci/database.sh empty", ""));
    let mut client = server.connect();
    client.check(&format!("AUTH {}", credentials(&made["REDIS_URL"])), "+OK");
    client.check("DBSIZE", ":0");
    assert_eq!(made["UPSTASH_REDIS_REST_URL"], format!("http://127.0.0.1:{}", server.http_port));
    for (line, expected) in
        [("ci/database.sh", "usage: "), ("ci/database.sh open", "usage: "), ("ci/database.sh shut 1", "usage: ")]
    {
        let output = job.run(line, "");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.starts_with(expected), "{line}: {told}");
    }
    // Without a token, or with a wrong one, it says why.
    for (token, expected) in [("", "DORMOUSE_TOKEN: set it to the token"), ("dm_shop_wrong", "dormouse: ")] {
        let output = Job::new(&server, token).run("ci/database.sh open 17", "");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(expected), "{told}");
        assert!(output.stdout.is_empty());
    }
}
