//! `dormouse db`, as people and scripts use it, and branches over a restart.

use std::{fs, process::Command, time::Duration};

use dormouse_client_tests::{Kind, Server, Settings, resp::Connection, server, wait_for};

struct Tool {
    server: Server,
    token: Option<&'static str>,
}

impl Tool {
    /// Starts the server. Returns nothing if the server under test is not Dormouse.
    fn start(tokens: &'static [&'static str]) -> Option<Self> {
        let server = (Kind::under_test() == Kind::Dormouse)
            .then(|| Server::start_with(Kind::Dormouse, Settings { tokens, ..Settings::default() }))?;
        Some(Self { server, token: tokens.first().copied() })
    }

    /// Runs `dormouse db ARGUMENTS`. Returns success, standard output, standard error.
    fn run(&self, arguments: &str) -> (bool, String, String) {
        let mut command = Command::new(server::dormouse());
        command.arg("db").args(arguments.split_whitespace());
        command.env("DORMOUSE_URL", format!("redis://127.0.0.1:{}", self.server.port()));
        match self.token {
            Some(token) => command.env("DORMOUSE_TOKEN", token),
            None => command.env_remove("DORMOUSE_TOKEN"),
        };
        let output = command.output().expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    #[track_caller]
    fn says(&self, arguments: &str) -> String {
        let (success, out, error) = self.run(arguments);
        assert!(success && error.is_empty(), "{arguments}: {out}{error}");
        out
    }

    #[track_caller]
    fn fails(&self, arguments: &str, part: &str) {
        let (success, out, error) = self.run(arguments);
        assert!(!success && out.is_empty(), "{arguments}: {out}");
        assert!(error.contains(part), "{arguments}: {error}");
    }

    fn enter(&self, name: &str) -> Connection {
        let mut connection = Connection::open(self.server.port());
        check(&mut connection, &format!("AUTH {name} x"), "+OK");
        connection
    }

    fn chunks(&self, database: &str) -> usize {
        fs::read_dir(self.server.data().join("db").join(database).join("chunk")).map_or(0, Iterator::count)
    }
}

#[track_caller]
fn check(connection: &mut Connection, line: &str, reply: &str) {
    assert_eq!(format!("{:?}", connection.run(line)), reply, "{line}");
}

/// Returns the first column of the lines below the headings.
fn listed(table: &str) -> Vec<&str> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

#[test]
fn branches_from_the_command_line() {
    let Some(mut tool) = Tool::start(&[]) else { return };
    let mut main = Connection::open(tool.server.port());
    for key in 0..500 {
        check(&mut main, &format!("SET key:{key} {key}"), "+OK");
    }
    let made = tool.says("branch default pr-1 --ttl 1h30m");
    assert!(made.starts_with("default.pr-1 is a branch of default, made in "), "{made}");
    assert!(made.contains("deleted in 1h30m"), "{made}");
    assert!(made.contains(&format!("redis-cli -u redis://default.pr-1:x@127.0.0.1:{}", tool.server.port())), "{made}");
    assert_eq!(tool.chunks("default.pr-1"), 0);
    let mut branch = tool.enter("default.pr-1");
    check(&mut branch, "GET key:7", "\"7\"");
    check(&mut branch, "SET key:7 changed", "+OK");
    check(&mut main, "GET key:7", "\"7\"");
    // The tool accepts the short name of a branch of `default`.
    assert_eq!(tool.says("branch pr-1 pr-2 --json").split(',').count(), 3);
    assert_eq!(listed(&tool.says("list")), ["default", "default.pr-1", "default.pr-2"]);
    assert_eq!(tool.says("sleep pr-1"), "default.pr-1 sleeps\n");
    assert!(tool.says("show pr-1").contains("awake: 0\nkeys: 500\n"));
    assert_eq!(tool.says("wake default.pr-1"), "default.pr-1 is awake\n");
    let shown = tool.says("show default.pr-1 --json");
    assert!(shown.contains(r#""awake":true"#) && shown.contains(r#""source":"default""#), "{shown}");
    assert!(tool.says("usage pr-1").contains("requests: "));
    assert!(tool.says("usage --json").contains(r#""database":"default""#));

    tool.server.restart();
    assert_eq!(listed(&tool.says("list")), ["default", "default.pr-1", "default.pr-2"]);
    let mut second = tool.enter("default.pr-2");
    check(&mut second, "GET key:7", "\"changed\"");
    check(&mut second, "DBSIZE", ":500");
    assert_eq!(tool.says("delete pr-1"), "pr-1 is deleted\n");
    check(&mut second, "GET key:499", "\"499\"");
    assert_eq!(listed(&tool.says("list")), ["default", "default.pr-2"]);

    tool.fails("branch default pr-2", "a database of that name exists");
    tool.fails("branch nobody pr-3", "no database nobody that this connection can see");
    tool.fails("branch default shop.pr-3", "`shop.pr-3` is not a branch of `default`");
    tool.fails("delete default", "the database `default` cannot be deleted");
    tool.fails("delete pr-1", "no branch of that name");
    tool.fails("branch default Not_A_Name", "invalid database name `Not_A_Name`");
    tool.fails("list --url redis://127.0.0.1:1", "start one with `dormouse serve`");
    tool.fails("list --url http://127.0.0.1:1", "expected redis://");
}

/// A database and its branches keep their declared loss window. Other databases have the server's.
#[test]
fn a_declared_window_outlives_the_server() {
    let Some(mut tool) = Tool::start(&[]) else { return };
    let mut main = Connection::open(tool.server.port());
    tool.says("branch default before");
    check(&mut main, "CONFIG SET loss-window 0", "+OK");
    check(&mut main, "SET k 1", "+OK");
    tool.says("branch default after");
    check(&mut tool.enter("default.after"), "CONFIG SET maxmemory-samples 7", "+OK");
    let windows = [("default", "0"), ("default.before", "1s"), ("default.after", "0")];
    for kill in [false, true] {
        if kill {
            tool.server.crash();
        } else {
            tool.server.restart();
        }
        for (name, window) in windows {
            let said = format!("{:?}", tool.enter(name).run("CONFIG GET loss-window"));
            assert!(said.contains(&format!("\"{window}\"")), "{name}: {said}");
        }
    }
    check(&mut tool.enter("default.after"), "CONFIG SET loss-window 250ms", "+OK");
    check(&mut tool.enter("default.after"), "DORMOUSE SLEEP", "+OK");
    check(&mut tool.enter("default"), "CONFIG SET loss-window 1s", "+OK");
    tool.server.crash();
    for (name, window) in [("default", "1s"), ("default.after", "250ms")] {
        let said = format!("{:?}", tool.enter(name).run("CONFIG GET loss-window"));
        assert!(said.contains(&format!("\"{window}\"")), "{name}: {said}");
    }
}

#[test]
fn a_source_goes_on_while_its_branch_reads_old_chunks() {
    let Some(mut tool) = Tool::start(&[]) else { return };
    let mut main = Connection::open(tool.server.port());
    let fill = |main: &mut Connection, value: &str| {
        for key in 0..300 {
            check(main, &format!("SET key:{key} {value}"), "+OK");
        }
        check(main, "DORMOUSE CHECKPOINT", "+OK");
    };
    fill(&mut main, "old");
    tool.says("branch default kept");
    tool.says("branch default short --ttl 1ms");
    for round in 0..3 {
        fill(&mut main, &format!("round-{round}"));
    }
    tool.server.restart();
    let mut kept = tool.enter("default.kept");
    check(&mut kept, "GET key:299", "\"old\"");
    check(&mut kept, "DBSIZE", ":300");
    let gone = || (listed(&tool.says("list")) == ["default", "default.kept"]).then_some(());
    wait_for(Duration::from_secs(30), gone).expect("a branch whose time is over is deleted, also after a restart");
    // The chunks that only the branch needs are deleted with it.
    let before = tool.chunks("default");
    tool.says("delete kept");
    assert!(tool.chunks("default") < before);
    assert!(!tool.server.data().join("db").join("default.kept").exists());
    let mut main = Connection::open(tool.server.port());
    check(&mut main, "GET key:299", "\"round-2\"");
}

#[test]
fn tokens_lead_into_branches() {
    let Some(mut tool) = Tool::start(&["dm_shop_3f9a41c07be2", "dm_other_a7701dce5598"]) else { return };
    let made = tool.says("branch shop pr-1");
    assert!(made.contains("dm_shop.pr-1_SECRET") && !made.contains("3f9a"), "{made}");
    let mut branch = Connection::open(tool.server.port());
    check(&mut branch, "AUTH dm_shop.pr-1_3f9a41c07be2", "+OK");
    check(&mut branch, "SET k v", "+OK");
    assert_eq!(tool.says("sleep pr-1"), "shop.pr-1 sleeps\n");
    assert_eq!(listed(&tool.says("list")), ["shop", "shop.pr-1"]);
    tool.fails("sleep other", "does not open other");
    tool.server.restart();
    let mut branch = Connection::open(tool.server.port());
    check(&mut branch, "AUTH shop.pr-1 dm_shop_3f9a41c07be2", "+OK");
    check(&mut branch, "GET k", "\"v\"");
    tool.token = None;
    tool.fails("list", "set DORMOUSE_TOKEN");
    tool.fails("sleep pr-1", "set DORMOUSE_TOKEN");
    tool.token = Some("dm_shop_wrong");
    tool.fails("list", "does not know this token");
}
