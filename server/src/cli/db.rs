//! `dormouse db`: the databases of a running server, asked over its own protocol or over its admin API ([`super::admin`]).
//!
//! Operations of the operator alone go over the API. Everything else goes there if `--admin-url` or DORMOUSE_ADMIN_URL is
//! given, and `--url` is not.
//!
//! With a token, the connection is in the token's database, and enters its branches with the same secret. With the
//! admin token, or without one (a server that only listens on this machine), it enters any database by name. The short
//! name of a branch is enough: it means one of the token's database, else one of `default`.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dormouse_importer::output::{print, print_line};
use dormouse_protocol::Response;
use serde_json::{Value, json};

use super::admin::{AdminAction, AdminClient, Output, TokenFields};
use super::client::{Address, Endpoint, ToolClient, Trouble};
use super::shell;
use super::table::{DatabaseRow, DeletedRow, deleted_table, history_of, now_ms, span, table_of, told_deleted};
use super::tls::TlsArguments;
use super::triggers::TriggerAction;
use super::unrepeated::Unrepeated;
use super::usage::{UsageArguments, UsageSource, parse_name, window_of};
use crate::clock::rfc3339;
use crate::databases::ADMIN;
use crate::ledger::{Period, UsageStep};
use crate::metering::UsageWindow;
use crate::options::{DEFAULT_DATABASE, Interval, PastMoment, branch_name, named_database, owner_and_branch};

const URL: &str = "redis://127.0.0.1:6379";

#[derive(clap::Args, Debug)]
pub struct Db {
    #[command(subcommand)]
    action: Action,

    /// The server, as redis://[:TOKEN@]HOST:PORT, rediss://... with TLS, or unix://[:TOKEN@]/PATH [default: DORMOUSE_URL, or
    /// redis://127.0.0.1:6379; a token is also taken from DORMOUSE_TOKEN, the admin token from
    /// redis://admin:TOKEN@HOST:PORT or DORMOUSE_ADMIN_TOKEN]
    #[arg(long, value_name = "URL", global = true, value_parser = Unrepeated::<Address>::new())]
    url: Option<Address>,

    #[command(flatten)]
    tls: TlsArguments,

    /// The HTTP port of the server, as http://HOST:PORT or https://HOST:PORT, for what only the operator may do; the admin token
    /// is taken from DORMOUSE_ADMIN_TOKEN [default: DORMOUSE_ADMIN_URL, or http://127.0.0.1:8379]
    #[arg(long, value_name = "URL", global = true, conflicts_with = "url")]
    admin_url: Option<String>,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the database and its branches; all databases without a token or with the admin token
    List {
        /// List those that were deleted and can be brought back
        #[arg(long)]
        deleted: bool,
    },
    /// Make a database, and a token that opens it
    Create {
        /// The name of the database [default: the server chooses one]
        #[arg(value_parser = parse_name)]
        name: Option<String>,
        /// Delete the database after this time, such as 1h or 7d
        #[arg(long, value_name = "DURATION")]
        ttl: Option<String>,
        /// An operator's setting of the database, such as max-memory=100mb; may be repeated
        #[arg(long = "set", value_name = "NAME=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        token: TokenFields,
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Change the operator's settings of a database: history, max-memory, max-memory-clients, max-memory-policy,
    /// max-requests-per-second, max-requests-burst, max-connections, max-request-size, max-key-size, max-value-size,
    /// sleep-after, loss-window, spending-limit-units, spending-limit-money
    Set {
        #[arg(value_parser = parse_name)]
        name: String,
        /// The settings; one without a value is removed
        #[arg(value_name = "NAME=VALUE")]
        settings: Vec<String>,
        /// Delete the database after this time, counted from now, or `never`
        #[arg(long, value_name = "DURATION")]
        ttl: Option<String>,
    },
    /// Make a new token for a database, and print the URL with it
    Url {
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        token: TokenFields,
        #[arg(long, value_enum, default_value = "url")]
        output: Output,
    },
    /// List the tokens of a database
    Tokens {
        #[arg(value_parser = parse_name)]
        name: String,
    },
    /// Revoke a token of a database, and close its connections
    Revoke {
        #[arg(value_parser = parse_name)]
        name: String,
        /// The id of the token: see `dormouse db tokens`
        id: u32,
    },
    /// Replace a token of a database by a new one
    Rotate {
        #[arg(value_parser = parse_name)]
        name: String,
        /// The id of the token: see `dormouse db tokens`
        id: u32,
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Claim a database that somebody made on a server with --open: it loses its end and its limits
    Claim {
        #[arg(value_parser = parse_name)]
        name: String,
        /// Delete the database after this time, counted from now
        #[arg(long, value_name = "DURATION")]
        ttl: Option<String>,
    },
    /// Open a prompt for the commands of a database: redis-cli or valkey-cli if one is installed
    Shell {
        /// The database [default: the token's own, or `default`]
        #[arg(value_parser = parse_name)]
        name: Option<String>,
    },
    /// Make a branch of a database as it is now, or as it was at a moment of its history; the two share what neither changes
    Branch {
        /// The database to branch
        #[arg(value_parser = parse_name)]
        source: String,
        /// The name of the branch, such as pr-1
        #[arg(value_parser = parse_name)]
        name: String,
        /// Delete the branch after this time, such as 1h or 7d
        #[arg(long, value_name = "DURATION", default_value = "never", hide_default_value = true)]
        ttl: Interval,
        /// The moment that the branch shows: a time such as 2026-11-27T12:00:00Z, or -30s, -5m, -1h, -2d for the time since
        /// then [default: now]
        #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
        at: Option<PastMoment>,
    },
    /// Show which moments of the past a branch of a database can be made of
    History {
        /// The database [default: the token's own, or `default`]
        #[arg(value_parser = parse_name)]
        name: Option<String>,
    },
    /// Delete a branch; with the admin token, also a database that no token opens. It can be brought back for the time that the
    /// server declares (--deleted-grace)
    Delete {
        /// The branch or database to delete
        #[arg(value_parser = parse_name)]
        name: String,
        /// Delete it for good, also if it is deleted already
        #[arg(long)]
        now: bool,
    },
    /// Bring back a deleted branch or database, with its data, settings and tokens
    Undelete {
        /// The branch or database: see `dormouse db list --deleted`
        #[arg(value_parser = parse_name)]
        name: String,
    },
    /// Show one database
    Show {
        /// The database [default: the token's own, or `default`]
        #[arg(value_parser = parse_name)]
        name: Option<String>,
    },
    /// Put a database to sleep
    Sleep {
        /// The database [default: the token's own, or `default`]
        #[arg(value_parser = parse_name)]
        name: Option<String>,
    },
    /// Wake a database
    Wake {
        /// The database [default: the token's own, or `default`]
        #[arg(value_parser = parse_name)]
        name: Option<String>,
    },
    /// Show which node of a fleet serves a database
    Where {
        #[arg(value_parser = parse_name)]
        name: String,
    },
    /// Move a database, with its branches, to another node of a fleet, and disconnect its clients
    Move {
        #[arg(value_parser = parse_name)]
        name: String,
        /// The name of the node: see `dormouse node list`
        node: String,
    },
    /// Send the events of keys to a URL
    #[command(subcommand)]
    Trigger(TriggerAction),
    /// Show what a database has used: since it was made, or with one of these options in a period
    Usage(UsageArguments),
}

impl Db {
    /// # Errors
    /// A text that says what is wrong and what to do about it.
    pub fn run(self) -> Result<(), String> {
        let by_environment = by_environment("DORMOUSE_ADMIN_URL");
        let prefers_api = self.admin_url.is_some() || by_environment.is_some() && self.url.is_none();
        let action = match self.action.over_api(prefers_api) {
            Ok((action, output)) => {
                let url = self.admin_url.or(by_environment);
                if url.is_none() {
                    check_is_here(&url_or_default(self.url)?)?;
                }
                return AdminClient::new(url, &self.tls)?.run(action, output, self.json);
            }
            Err(action) => *action,
        };
        let mut session = Session::start(self.url, &self.tls)?;
        let started = Instant::now();
        let (text, value) = match action {
            Action::Shell { name } => {
                let name = session.enter(name.as_deref())?;
                return shell::open(&session.address, &session.entered, &mut session.client, &name);
            }
            Action::List { deleted: true } => {
                session.enter(None)?;
                let deleted = session.call(&["DORMOUSE", "DATABASES", "DELETED"])?;
                let rows: Vec<DeletedRow> = deleted.items().unwrap_or_default().iter().map(deleted_row).collect();
                (deleted_table(&rows, now_ms()), json_of_many(&deleted))
            }
            Action::List { deleted: false } => {
                session.enter(None)?;
                let databases = session.call(&["DORMOUSE", "DATABASES"])?;
                (table(databases.items().unwrap_or_default(), now_ms()), json_of_many(&databases))
            }
            Action::Branch { source, name, ttl, at } => {
                let source = session.enter(Some(&source))?;
                let owner = owner_and_branch(&source).map_or(source.as_str(), |(owner, _)| owner);
                let name = branch_name(owner, &name)?;
                let ttl_ms = ttl.duration().map(|ttl| ttl.as_millis().to_string());
                let at = at.map(|at| at.to_string());
                let mut words = vec!["DORMOUSE", "BRANCH", &name];
                for (option, value) in [("TTL", &ttl_ms), ("AT", &at)] {
                    words.extend(value.iter().flat_map(|value| [option, value.as_str()]));
                }
                session.call(&words)?;
                let took = started.elapsed();
                let way = session.way_into(&name);
                let end = ttl.duration().map_or_else(String::new, |ttl| format!(", to be deleted in {}", span(ttl)));
                let moment = at.map_or_else(String::new, |at| format!(" at {at}"));
                let took_ms = took.as_millis();
                let text = format!("{name} is a branch of {source}{moment}, made in {took_ms} ms{end}\n{way}\n");
                (text, json!({ "name": name, "source": source, "made_in_ms": took.as_millis() as u64 }))
            }
            Action::Delete { name, now } => {
                session.enter(None)?;
                let request: &[&str] = &["DORMOUSE", "DELETE", &name, "NOW"];
                session.call(&request[..if now { 4 } else { 3 }])?;
                let until_ms = if now { None } else { session.recoverable_until(&name) };
                (told_deleted(&name, until_ms, now_ms()), json!({ "name": name, "deleted": true }))
            }
            Action::Undelete { name } => {
                session.enter(None)?;
                session.call(&["DORMOUSE", "UNDELETE", &name])?;
                (format!("{name} is back\n"), json!({ "name": name, "deleted": false }))
            }
            Action::Show { name } => {
                session.enter(None)?;
                let names = name.map_or_else(|| vec![session.own()], |name| session.possible(&name));
                let databases = session.call(&["DORMOUSE", "DATABASES"])?;
                let named = |name: &String| {
                    let mut all = databases.items().unwrap_or_default().iter();
                    all.find(|database| database.at("name").and_then(Response::text) == Some(name))
                };
                let found = names.iter().find_map(named).ok_or_else(|| unknown(&names[0]))?;
                (listing(found, ""), json_of(found))
            }
            Action::Sleep { name } => {
                let name = session.enter(name.as_deref())?;
                session.call(&["DORMOUSE", "SLEEP"])?;
                (format!("{name} sleeps\n"), json!({ "name": name, "awake": false }))
            }
            Action::Wake { name } => {
                let name = session.enter(name.as_deref())?;
                // The first command that needs the keyspace wakes it.
                let keys = session.call(&["DBSIZE"])?.integer().unwrap_or(0);
                (format!("{name} is awake\n"), json!({ "name": name, "awake": true, "keys": keys }))
            }
            Action::History { name } => {
                session.enter(name.as_deref())?;
                let history = json_of(&session.call(&["DORMOUSE", "HISTORY"])?);
                (history_of(&history), history)
            }
            Action::Trigger(action) => {
                session.enter(Some(action.database()))?;
                let words = action.words();
                let request: Vec<&str> =
                    ["DORMOUSE", "TRIGGER"].into_iter().chain(words.iter().map(String::as_str)).collect();
                let reply = session.call(&request)?;
                let answer = reply.text().and_then(|text| serde_json::from_str(text).ok());
                let answer: Value = answer.ok_or("the server's answer is not in JSON")?;
                (action.told(&answer), answer)
            }
            Action::Usage(usage) if !usage.is_plain() => {
                let name = session.enter(usage.name.as_deref())?;
                return usage.report(&name, &mut SessionUsage { session: &mut session, name: name.clone() }, self.json);
            }
            Action::Usage(usage) => {
                session.enter(usage.name.as_deref())?;
                let usage = session.call(&["DORMOUSE", "USAGE"])?;
                let meters = usage.at("meters").map(|meters| listing(meters, "")).unwrap_or_default();
                (meters, json_of(&usage))
            }
            // They went over the API.
            Action::Create { .. }
            | Action::Set { .. }
            | Action::Url { .. }
            | Action::Tokens { .. }
            | Action::Revoke { .. }
            | Action::Rotate { .. }
            | Action::Where { .. }
            | Action::Move { .. }
            | Action::Claim { .. } => return Err("this needs the admin API: use --admin-url".to_owned()),
        };
        if self.json { print_line(&value.to_string()) } else { print(&text) }
    }
}

/// Checkpoints those of `databases` that are awake on a running server; all of them if there are none.
///
/// # Errors
/// A text that says what is wrong and what to do about it.
pub(super) fn checkpoint(url: Address, tls: &TlsArguments, databases: &[String]) -> Result<(), String> {
    let mut session = Session::start(Some(url), tls)?;
    session.enter(None)?;
    let listed = session.call(&["DORMOUSE", "DATABASES"])?;
    let is_awake = |database: &&Response| database.at("awake").and_then(Response::integer) == Some(1);
    let awake = listed.items().unwrap_or_default().iter().filter(is_awake);
    let names: Vec<&str> = awake.filter_map(|database| database.at("name").and_then(Response::text)).collect();
    for name in names.into_iter().filter(|name| databases.is_empty() || databases.iter().any(|wanted| wanted == name)) {
        session.enter(Some(name))?;
        session.call(&["DORMOUSE", "CHECKPOINT"]).map_err(|problem| format!("database `{name}`: {problem}"))?;
    }
    Ok(())
}

impl Action {
    /// The request to the API, and how to print its answer; the action itself if it goes over the server's own protocol.
    fn over_api(self, prefers_api: bool) -> Result<(AdminAction, Option<Output>), Box<Self>> {
        let own = |name: Option<String>| name.unwrap_or_else(|| DEFAULT_DATABASE.to_owned());
        Ok(match self {
            Self::Create { name, ttl, settings, token, output } => {
                (AdminAction::Create { name, ttl, settings, token }, Some(output))
            }
            Self::Set { name, settings, ttl } => (AdminAction::Set { name, ttl, settings }, None),
            Self::Url { name, token, output } => (AdminAction::Url { name, token }, Some(output)),
            Self::Tokens { name } => (AdminAction::Tokens(name), None),
            Self::Revoke { name, id } => (AdminAction::Revoke { name, id }, None),
            Self::Rotate { name, id, output } => (AdminAction::Rotate { name, id }, Some(output)),
            Self::Claim { name, ttl } => (AdminAction::Claim { name, ttl }, None),
            Self::Where { name } => (AdminAction::Where(name), None),
            Self::Move { name, node } => (AdminAction::Move { name, node }, None),
            action if !prefers_api => return Err(Box::new(action)),
            Self::List { deleted } => (if deleted { AdminAction::Deleted } else { AdminAction::List }, None),
            Self::Branch { source, name, ttl, at } => {
                let ttl = ttl.duration().map(|_| ttl.to_string());
                (AdminAction::Branch { source, name, ttl, at: at.map(|at| at.to_string()) }, None)
            }
            Self::History { name } => (AdminAction::History(own(name)), None),
            Self::Delete { name, now } => (AdminAction::Delete { name, now }, None),
            Self::Undelete { name } => (AdminAction::Undelete(name), None),
            Self::Show { name } => (AdminAction::Show(own(name)), None),
            Self::Sleep { name } => (AdminAction::Sleep(own(name)), None),
            Self::Wake { name } => (AdminAction::Wake(own(name)), None),
            Self::Trigger(action) => (AdminAction::Trigger(action), None),
            Self::Usage(mut usage) => {
                let name = own(usage.name.take());
                let is_plain = usage.is_plain();
                (if is_plain { AdminAction::Usage(name) } else { AdminAction::UsageReport { name, usage } }, None)
            }
            action @ Self::Shell { .. } => return Err(Box::new(action)),
        })
    }
}

fn by_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The server that is meant: as given, by the environment, or on this machine.
fn url_or_default(url: Option<Address>) -> Result<Address, String> {
    let Some(address) = url else {
        let url = by_environment("DORMOUSE_URL");
        let parsed = url.as_deref().unwrap_or(URL).parse::<Address>();
        return parsed.map_err(|problem| format!("DORMOUSE_URL: {problem}"));
    };
    Ok(address)
}

/// Refuses a server elsewhere, whose HTTP port has another address than the default: the operation would reach a server on
/// this machine.
fn check_is_here(address: &Address) -> Result<(), String> {
    let Endpoint::Tcp { host, is_tls, .. } = &address.endpoint else { return Ok(()) };
    if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return Ok(());
    }
    let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let example = if *is_tls { format!("https://{shown}:8443") } else { format!("http://{shown}:8379") };
    Err(format!(
        "this goes over the HTTP port of {host}: name it with --admin-url or DORMOUSE_ADMIN_URL, such as {example}"
    ))
}

/// A connection, with the credentials that open databases.
struct Session {
    client: ToolClient,
    address: Address,
    /// The words that have entered the present database.
    entered: Vec<String>,
}

impl Session {
    fn start(url: Option<Address>, tls: &TlsArguments) -> Result<Self, String> {
        let mut address = url_or_default(url)?;
        if address.token.is_none() {
            let tokens = by_environment("DORMOUSE_TOKEN");
            address.token = tokens.and_then(|tokens| tokens.split_ascii_whitespace().next().map(str::to_string));
        }
        if address.token.is_none() {
            address.token = by_environment("DORMOUSE_ADMIN_TOKEN");
            address.is_admin = address.token.is_some();
        }
        let client = ToolClient::connect(&address, &tls.choices(address.is_tls())?)?;
        Ok(Self { client, address, entered: Vec::new() })
    }

    /// The database that the token opens by itself.
    fn own(&self) -> String {
        let token = self.address.token.as_ref().filter(|_| !self.address.is_admin);
        let named = token.and_then(|token| named_database(token.as_bytes()));
        named.unwrap_or(DEFAULT_DATABASE).to_string()
    }

    /// Returns the databases that `name` may mean: the branch first if a token names its owner.
    fn possible(&self, name: &str) -> Vec<String> {
        let own = self.own();
        let owner = owner_and_branch(&own).map_or(own.as_str(), |(owner, _)| owner);
        let has_own = self.address.token.is_some() && !self.address.is_admin;
        match branch_name(owner, name) {
            Ok(branch) if name == own || branch == name => vec![name.to_string()],
            Ok(branch) if has_own => vec![branch, name.to_string()],
            Ok(branch) => vec![name.to_string(), branch],
            Err(_) => vec![name.to_string()],
        }
    }

    /// Enters a database, by default its own. Returns the name of the database.
    fn enter(&mut self, name: Option<&str>) -> Result<String, String> {
        let own = self.own();
        let Some(name) = name else {
            let words = match &self.address.token {
                Some(token) if self.address.is_admin => vec![ADMIN.to_owned(), token.clone()],
                Some(token) => vec![token.clone()],
                // A server that requires a token says so at the next command.
                None => return Ok(own),
            };
            return match self.authenticate(words) {
                Ok(_) => Ok(own),
                Err(trouble) if self.drops_token(&trouble) => Ok(own),
                Err(Trouble::Refused(text)) if text.starts_with("WRONGPASS") => {
                    Err("the server does not know this token".to_string())
                }
                Err(trouble) => Err(trouble.to_string()),
            };
        };
        if name == own && self.address.token.is_some() {
            return self.enter(None);
        }
        let possible = self.possible(name);
        for name in &possible {
            let words = match &self.address.token {
                Some(token) if self.address.is_admin => vec![name.clone(), token.clone()],
                Some(token) => match owner_and_branch(name) {
                    Some(_) => vec![token_for(name, token)],
                    // A branch of version 0.1.0 is found by its short name too, and no other database is opened.
                    None => continue,
                },
                None => vec![name.clone(), "-".to_owned()],
            };
            match self.authenticate(words) {
                Ok(_) => return Ok(name.clone()),
                Err(trouble) if self.drops_token(&trouble) => return self.enter(Some(name)),
                Err(Trouble::Refused(text)) if text.starts_with("WRONGPASS") => {}
                Err(trouble) => return Err(trouble.to_string()),
            }
        }
        Err(match &self.address.token {
            Some(_) if !self.address.is_admin => {
                format!("the token of {own} does not open {name}: it opens {own} and its branches")
            }
            Some(_) => unknown(name),
            None => unknown(name) + ", or the server asks for a token: set DORMOUSE_TOKEN",
        })
    }

    fn authenticate(&mut self, words: Vec<String>) -> Result<Response, Trouble> {
        let request: Vec<&str> = std::iter::once("AUTH").chain(words.iter().map(String::as_str)).collect();
        let entered = self.client.call(&request)?;
        self.entered = words;
        Ok(entered)
    }

    /// Drops the token from the environment if the server has no tokens.
    fn drops_token(&mut self, trouble: &Trouble) -> bool {
        let drops = self.address.token.is_some()
            && matches!(trouble, Trouble::Refused(text) if text.contains("without any password configured"));
        if drops {
            self.address.token = None;
            self.address.is_admin = false;
        }
        drops
    }

    fn call(&mut self, words: &[&str]) -> Result<Response, String> {
        self.client.call(words).map_err(|trouble| match trouble {
            Trouble::Refused(text) if text.starts_with("NOAUTH") => {
                "the server asks for a token: set DORMOUSE_TOKEN, or use --url redis://:TOKEN@HOST:PORT".to_string()
            }
            Trouble::Refused(text) if text.starts_with("ERR unknown command 'DORMOUSE'") => {
                format!("the server at {} is not a Dormouse", self.address)
            }
            // The first word is for programs.
            Trouble::Refused(text) => text.strip_prefix("ERR ").unwrap_or(&text).to_string(),
            Trouble::Broken(text) => text,
        })
    }

    /// Until when a database that was just deleted can be brought back, if it can. A server before 0.3 does not say.
    fn recoverable_until(&mut self, name: &str) -> Option<u64> {
        let deleted = self.call(&["DORMOUSE", "DATABASES", "DELETED"]).ok()?;
        let names = self.possible(name);
        let rows = deleted.items()?.iter().map(deleted_row).collect::<Vec<_>>();
        rows.into_iter().filter(|row| names.contains(&row.name)).map(|row| row.until_ms).max()
    }

    /// Describes how any client enters the branch `name`.
    fn way_into(&self, name: &str) -> String {
        match &self.address.token {
            // The secret itself is not repeated: a terminal has a history.
            Some(_) if self.address.is_admin => {
                format!("enter it with the user name {name} and the token of its owner")
            }
            Some(_) => format!("enter it with the token dm_{name}_SECRET, where SECRET is that of your own token"),
            None => format!("enter it with: {}", self.address.redis_cli(name)),
        }
    }
}

/// The usage of the database that a session has entered.
struct SessionUsage<'a> {
    session: &'a mut Session,
    name: String,
}

impl UsageSource for SessionUsage<'_> {
    fn windows(&mut self, period: Period) -> Result<Vec<UsageWindow>, String> {
        let step = if period.step == UsageStep::Minutes { "WINDOWS" } else { "HOURS" };
        let (from, to) = (period.from_ms.to_string(), period.to_ms.to_string());
        let windows = self.session.call(&["DORMOUSE", "USAGE", step, &from, &to])?;
        let window = |window: &Response| {
            let time = |name: &str| window.at(name)?.integer()?.try_into().ok();
            let times =
                time("start_ms").zip(time("end_ms")).ok_or("a usage window of the server has no start or no end")?;
            let text = |event: &'_ Response, name: &str| event.at(name).and_then(Response::text).map(str::to_owned);
            let events: Vec<_> = window.at("events").and_then(Response::items).unwrap_or_default().iter().collect();
            let fields: Option<Vec<_>> = events
                .into_iter()
                .map(|event| Some((text(event, "id")?, text(event, "meter")?, text(event, "quantity")?)))
                .collect();
            let fields = fields.ok_or("an event of the server lacks a field")?;
            window_of(&self.name, times, fields.iter().map(|(id, meter, of)| (&**id, &**meter, of.clone())))
        };
        windows.items().unwrap_or_default().iter().map(window).collect()
    }

    fn commands(&mut self) -> Result<Value, String> {
        Ok(json_of(&self.session.call(&["DORMOUSE", "USAGE", "COMMANDS"])?))
    }

    fn prefixes(&mut self, time: Duration, depth: u64) -> Result<Value, String> {
        let (time_ms, depth) = (time.as_millis().to_string(), depth.to_string());
        self.session.call(&["DORMOUSE", "USAGE", "PREFIXES", &time_ms, "DEPTH", &depth])?;
        std::thread::sleep(time);
        Ok(json_of(&self.session.call(&["DORMOUSE", "USAGE", "PREFIXES"])?))
    }
}

/// Derives the token of a branch from that of a database that it descends from.
fn token_for(branch: &str, token: &str) -> String {
    let secret = named_database(token.as_bytes()).and_then(|own| token.strip_prefix(&format!("dm_{own}_")));
    format!("dm_{branch}_{}", secret.unwrap_or(token))
}

fn unknown(name: &str) -> String {
    format!("no database {name} that this connection can see: `dormouse db list` shows those")
}

fn deleted_row(database: &Response) -> DeletedRow {
    let number = |name: &str| database.at(name).and_then(Response::integer).map_or(0, |number| number.max(0) as u64);
    let name = database.at("name").and_then(Response::text).unwrap_or_default().to_owned();
    DeletedRow { name, at_ms: number("deleted_ms"), until_ms: number("recoverable_until_ms") }
}

/// Formats databases as a table.
fn table(databases: &[Response], now_ms: u64) -> String {
    let row = |database: &Response| {
        let text = |name: &str| database.at(name).and_then(Response::text).map(str::to_owned);
        let number = |name: &str| database.at(name).and_then(Response::integer).map(|number| number.max(0) as u64);
        // Servers before 0.2 only report whether it is awake.
        let awake = if number("awake") == Some(1) { "awake" } else { "asleep" };
        DatabaseRow {
            name: text("name").unwrap_or_default(),
            state: text("state").unwrap_or_else(|| awake.to_owned()),
            keys: number("keys").or(Some(0)),
            is_estimated: number("keys_estimated") == Some(1),
            stored_bytes: number("stored_bytes").or(Some(0)),
            shared_bytes: number("shared_bytes").or(Some(0)),
            source: text("source"),
            expires_ms: number("expires_ms"),
            problem: text("problem"),
        }
    };
    table_of(&databases.iter().map(row).collect::<Vec<_>>(), now_ms)
}

/// Formats a map, one field a line.
fn listing(map: &Response, indent: &str) -> String {
    let mut out = String::new();
    for pair in map.items().unwrap_or_default().chunks_exact(2) {
        let value = pair[1].bytes().map_or_else(|| "-".into(), String::from_utf8_lossy);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{indent}{}: {value}", pair[0].text().unwrap_or_default());
    }
    out
}

fn json_of_many(list: &Response) -> Value {
    list.items().unwrap_or_default().iter().map(json_of).collect()
}

/// Converts a reply to JSON. Maps come as alternating keys and values: an array is taken for a map if it begins with a
/// text and every second element is one.
fn json_of(reply: &Response) -> Value {
    if let Some(items) = reply.items() {
        let keys: Option<Vec<&str>> = items.iter().step_by(2).map(Response::text).collect();
        return match keys.filter(|keys| !keys.is_empty() && keys.len() * 2 == items.len()) {
            Some(keys) => {
                let values = items.iter().skip(1).step_by(2);
                Value::Object(keys.into_iter().zip(values).map(|(key, value)| field(key, value)).collect())
            }
            None => items.iter().map(json_of).collect(),
        };
    }
    match (reply.integer(), reply.bytes()) {
        (Some(integer), _) => json!(integer),
        (None, Some(bytes)) => json!(String::from_utf8_lossy(bytes)),
        (None, None) => Value::Null,
    }
}

/// A field with its value in JSON's own types. RESP2 has neither booleans nor times nor numbers beyond 63 bits.
fn field(name: &str, value: &Response) -> (String, Value) {
    match (name, value) {
        ("awake" | "keys_estimated", Response::Line(':', yes)) => (name.to_string(), json!(yes != "0")),
        (
            "start_ms"
            | "end_ms"
            | "expires_ms"
            | "created_ms"
            | "deleted_ms"
            | "recoverable_until_ms"
            | "from_ms"
            | "until_ms",
            value,
        ) => {
            let stem = name.trim_end_matches("_ms");
            let stem = match stem {
                "expires" => "expires_at",
                "created" => "created_at",
                "deleted" => "deleted_at",
                _ => stem,
            };
            (stem.to_string(), unix_ms(value).and_then(rfc3339).map_or(Value::Null, Value::String))
        }
        ("quantity", value) => (name.to_string(), value.text().map_or(Value::Null, number)),
        ("meters", Response::Many(_, Some(meters))) => {
            let meters = meters.chunks_exact(2).filter_map(|pair| Some((pair[0].text()?, pair[1].text()?)));
            (name.to_string(), meters.map(|(meter, total)| (meter.to_string(), number(total))).collect())
        }
        _ => (name.to_string(), json_of(value)),
    }
}

/// A count as a JSON number, or as a text if it is too large for programs to read without loss.
fn number(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number))
}

fn unix_ms(value: &Response) -> Option<u64> {
    value.integer().and_then(|time| u64::try_from(time).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Response {
        Response::Bulk('$', Some(text.into()))
    }

    fn integer(integer: u64) -> Response {
        Response::Line(':', integer.to_string())
    }

    fn many(items: Vec<Response>) -> Response {
        Response::Many('*', Some(items))
    }

    fn map(fields: &[(&str, Response)]) -> Response {
        many(fields.iter().flat_map(|(name, value)| [text(name), value.clone()]).collect())
    }

    #[test]
    fn databases_are_shown_in_columns() {
        let databases = [
            map(&[
                ("name", text("default")),
                ("source", Response::Bulk('$', None)),
                ("awake", integer(1)),
                ("keys", integer(7)),
            ]),
            map(&[
                ("name", text("pr-1")),
                ("source", text("default")),
                ("awake", integer(0)),
                ("keys", integer(200_000)),
                ("keys_estimated", integer(1)),
                ("stored_bytes", integer(2_763_505)),
                ("shared_bytes", integer(2000)),
                ("created_ms", integer(61_000)),
                ("expires_ms", integer(3_600_000 + 61_000)),
            ]),
        ];
        let expected = "\
NAME     STATE   KEYS     STORED   SHARED   SOURCE   EXPIRES
default  awake   7        0 B      0 B      -        never
pr-1     asleep  ~200000  2.6 MiB  2.0 KiB  default  in 1h1m
";
        assert_eq!(table(&databases, 1000), expected);
        assert_eq!(json_of(&databases[0]).to_string(), r#"{"awake":true,"keys":7,"name":"default","source":null}"#);
        let branch = json_of(&databases[1]);
        assert_eq!((&branch["awake"], &branch["expires_at"]), (&json!(false), &json!("1970-01-01T01:01:01.000Z")));
        assert_eq!(branch["keys_estimated"], json!(true));
        assert_eq!(branch["created_at"], json!("1970-01-01T00:01:01.000Z"));
        assert_eq!(listing(&databases[0], ""), "name: default\nsource: -\nawake: 1\nkeys: 7\n");
    }

    #[test]
    fn usage_has_numbers_and_times() {
        let event = map(&[("id", text("7:requests:0")), ("meter", text("requests")), ("quantity", text("12"))]);
        let usage = map(&[
            ("database", text("7")),
            ("meters", map(&[("requests", text("12")), ("memory_byte_milliseconds", text("18446744073709551615"))])),
            (
                "window",
                map(&[
                    ("start_ms", integer(1_795_424_400_000)),
                    ("end_ms", integer(1_795_428_000_000)),
                    ("events", many(vec![event])),
                ]),
            ),
        ]);
        let expected = json!({
            "database": "7",
            "meters": { "requests": 12, "memory_byte_milliseconds": 18_446_744_073_709_551_615_u64 },
            "window": {
                "start": "2026-11-23T09:00:00.000Z",
                "end": "2026-11-23T10:00:00.000Z",
                "events": [{ "id": "7:requests:0", "meter": "requests", "quantity": 12 }],
            },
        });
        assert_eq!(json_of(&usage), expected);
    }

    #[test]
    fn a_branch_is_entered_with_the_secret_of_its_source() {
        for (token, expected) in
            [("dm_shop_x_1", "dm_a.pr-1_x_1"), ("hunter2", "dm_a.pr-1_hunter2"), ("dm_shop", "dm_a.pr-1_dm_shop")]
        {
            assert_eq!(token_for("a.pr-1", token), expected);
        }
    }
}
