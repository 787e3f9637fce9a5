//! `dormouse db`: the databases of a running server, asked over its own protocol.
//!
//! With a token, the connection is in the token's database, and enters its branches with the same secret. With the
//! admin token, or without one (a server that only listens on this machine), it enters any database by name. The short
//! name of a branch is enough: it means one of the token's database, else one of `default`.

use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dormouse_importer::output::{print, print_line};
use dormouse_protocol::Response;
use serde_json::{Value, json};

use super::client::{Address, ToolClient, Trouble};
use super::unrepeated::Unrepeated;
use crate::databases::ADMIN;
use crate::options::{DEFAULT_DATABASE, Interval, branch_name, check_full_name, named_database, owner_and_branch};

const URL: &str = "redis://127.0.0.1:6379";

#[derive(clap::Args, Debug)]
pub struct Db {
    #[command(subcommand)]
    action: Action,

    /// The server, as redis://[:TOKEN@]HOST:PORT or unix://[:TOKEN@]/PATH [default: DORMOUSE_URL, or
    /// redis://127.0.0.1:6379; a token is also taken from DORMOUSE_TOKEN, the admin token from
    /// redis://admin:TOKEN@HOST:PORT or DORMOUSE_ADMIN_TOKEN]
    #[arg(long, value_name = "URL", global = true, value_parser = Unrepeated::<Address>::new())]
    url: Option<Address>,

    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the database and its branches; all databases without a token or with the admin token
    List,
    /// Make a branch of a database as it is now; the two share what neither changes
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
    },
    /// Delete a branch for good; with the admin token, also a database that no token opens
    Delete {
        /// The branch or database to delete
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
    /// Show what a database has used
    Usage {
        /// The database [default: the token's own, or `default`]
        #[arg(value_parser = parse_name)]
        name: Option<String>,
    },
}

impl Db {
    /// # Errors
    /// A text that says what is wrong and what to do about it.
    pub fn run(self) -> Result<(), String> {
        let mut session = Session::start(self.url)?;
        let started = Instant::now();
        let (text, value) = match self.action {
            Action::List => {
                session.enter(None)?;
                let databases = session.call(&["DORMOUSE", "DATABASES"])?;
                (table(databases.items().unwrap_or_default(), now_ms()), json_of_many(&databases))
            }
            Action::Branch { source, name, ttl } => {
                let source = session.enter(Some(&source))?;
                let owner = owner_and_branch(&source).map_or(source.as_str(), |(owner, _)| owner);
                let name = branch_name(owner, &name)?;
                let ttl_ms = ttl.duration().map(|ttl| ttl.as_millis().to_string());
                match &ttl_ms {
                    Some(ttl_ms) => session.call(&["DORMOUSE", "BRANCH", &name, "TTL", ttl_ms])?,
                    None => session.call(&["DORMOUSE", "BRANCH", &name])?,
                };
                let took = started.elapsed();
                let way = session.way_into(&name);
                let end = ttl.duration().map_or_else(String::new, |ttl| format!(", to be deleted in {}", span(ttl)));
                let text = format!("{name} is a branch of {source}, made in {} ms{end}\n{way}\n", took.as_millis());
                (text, json!({ "name": name, "source": source, "made_in_ms": took.as_millis() as u64 }))
            }
            Action::Delete { name } => {
                session.enter(None)?;
                session.call(&["DORMOUSE", "DELETE", &name])?;
                (format!("{name} is deleted\n"), json!({ "name": name, "deleted": true }))
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
            Action::Usage { name } => {
                session.enter(name.as_deref())?;
                let usage = session.call(&["DORMOUSE", "USAGE"])?;
                let meters = usage.at("meters").map(|meters| listing(meters, "")).unwrap_or_default();
                (meters, json_of(&usage))
            }
        };
        if self.json { print_line(&value.to_string()) } else { print(&text) }
    }
}

/// A connection, with the credentials that open databases.
struct Session {
    client: ToolClient,
    address: Address,
}

impl Session {
    fn start(url: Option<Address>) -> Result<Self, String> {
        let by_environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut address = match url {
            Some(address) => address,
            None => {
                let url = by_environment("DORMOUSE_URL");
                let parsed = url.as_deref().unwrap_or(URL).parse::<Address>();
                parsed.map_err(|problem| format!("DORMOUSE_URL: {problem}"))?
            }
        };
        if address.token.is_none() {
            let tokens = by_environment("DORMOUSE_TOKEN");
            address.token = tokens.and_then(|tokens| tokens.split_ascii_whitespace().next().map(str::to_string));
        }
        if address.token.is_none() {
            address.token = by_environment("DORMOUSE_ADMIN_TOKEN");
            address.is_admin = address.token.is_some();
        }
        Ok(Self { client: ToolClient::connect(&address)?, address })
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
            let entered = match &self.address.token {
                Some(token) if self.address.is_admin => self.client.call(&["AUTH", ADMIN, token]),
                Some(token) => self.client.call(&["AUTH", token]),
                // A server that requires a token says so at the next command.
                None => return Ok(own),
            };
            return match entered {
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
            let entered = match &self.address.token {
                Some(token) if self.address.is_admin => self.client.call(&["AUTH", name, token]),
                Some(token) => match owner_and_branch(name) {
                    Some(_) => self.client.call(&["AUTH", &token_for(name, token)]),
                    // A branch of version 0.1.0 is found by its short name too, and no other database is opened.
                    None => continue,
                },
                None => self.client.call(&["AUTH", name, "-"]),
            };
            match entered {
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

/// Derives the token of a branch from that of a database that it descends from.
fn token_for(branch: &str, token: &str) -> String {
    let secret = named_database(token.as_bytes()).and_then(|own| token.strip_prefix(&format!("dm_{own}_")));
    format!("dm_{branch}_{}", secret.unwrap_or(token))
}

fn unknown(name: &str) -> String {
    format!("no database {name} that this connection can see: `dormouse db list` shows those")
}

fn parse_name(name: &str) -> Result<String, String> {
    check_full_name(name).map(|()| name.to_string())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Formats databases as a table: a line of headings, then one line for each.
fn table(databases: &[Response], now_ms: u64) -> String {
    let mut rows = vec![["NAME", "STATE", "KEYS", "STORED", "SHARED", "SOURCE", "EXPIRES"].map(str::to_string)];
    for database in databases {
        let text = |name: &str| database.at(name).and_then(Response::text).unwrap_or("-").to_string();
        let number = |name: &str| database.at(name).and_then(Response::integer).map(|number| number.max(0) as u64);
        let left = |end: u64| format!("in {}", span(Duration::from_millis(end.saturating_sub(now_ms))));
        // Servers before 0.2 only report whether it is awake.
        let awake = if number("awake") == Some(1) { "awake" } else { "asleep" };
        let state = database.at("state").and_then(Response::text).unwrap_or(awake);
        rows.push([
            text("name"),
            state.to_string(),
            number("keys").unwrap_or(0).to_string(),
            size(number("stored_bytes").unwrap_or(0)),
            size(number("shared_bytes").unwrap_or(0)),
            text("source"),
            number("expires_ms").map_or_else(|| "never".to_string(), left),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>();
        out += cells.join("  ").trim_end();
        out += "\n";
    }
    for problem in databases.iter().filter_map(|database| database.at("problem").and_then(Response::text)) {
        out += problem;
        out += "\n";
    }
    out
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
        ("awake", Response::Line(':', awake)) => (name.to_string(), json!(awake != "0")),
        ("start_ms" | "end_ms" | "expires_ms" | "created_ms", value) => {
            let stem = name.trim_end_matches("_ms");
            let stem = match stem {
                "expires" => "expires_at",
                "created" => "created_at",
                _ => stem,
            };
            (stem.to_string(), value.integer().and_then(rfc3339).map_or(Value::Null, Value::String))
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

/// Unix milliseconds in RFC 3339 format, in UTC.
fn rfc3339(unix_ms: i64) -> Option<String> {
    let time = chrono::DateTime::from_timestamp_millis(unix_ms)?;
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// Formats bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// The two largest units of a duration.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let parts = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds % 60, "s")];
    let shown: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).take(2).map(|(count, unit)| format!("{count}{unit}")).collect();
    if shown.is_empty() { "0s".to_string() } else { shown.join("") }
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
                ("stored_bytes", integer(2_763_505)),
                ("shared_bytes", integer(2000)),
                ("created_ms", integer(61_000)),
                ("expires_ms", integer(3_600_000 + 61_000)),
            ]),
        ];
        let expected = "\
NAME     STATE   KEYS    STORED   SHARED   SOURCE   EXPIRES
default  awake   7       0 B      0 B      -        never
pr-1     asleep  200000  2.6 MiB  2.0 KiB  default  in 1h1m
";
        assert_eq!(table(&databases, 1000), expected);
        assert_eq!(json_of(&databases[0]).to_string(), r#"{"awake":true,"keys":7,"name":"default","source":null}"#);
        let branch = json_of(&databases[1]);
        assert_eq!((&branch["awake"], &branch["expires_at"]), (&json!(false), &json!("1970-01-01T01:01:01.000Z")));
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
