//! `dormouse db` over the admin API: see [`crate::admin`].

use std::fmt::Write;
use std::time::Duration;

use dormouse_importer::output::{print, print_line};
use dormouse_importer::tls::{TlsClient, explain};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::table::{DatabaseRow, DeletedRow, deleted_table, history_of, now_ms, span, table_of, told_deleted};
use super::tls::TlsArguments;
use super::triggers::TriggerAction;
use super::usage::{UsageArguments, UsageSource, window_of};
use crate::ledger::{Period, UsageStep};
use crate::metering::UsageWindow;

const URL: &str = "http://127.0.0.1:8379";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(120);
const LIST_LIMIT: usize = 1000;

/// The forms in which a new database or token is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    Table,
    Json,
    /// The environment variables that client libraries read
    Env,
    /// The URL of the database only
    Url,
}

/// The fields of a token that is to be made.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TokenFields {
    /// The token changes nothing and lists no keys
    #[arg(long, conflicts_with = "user")]
    read_only: bool,
    /// The token has the permissions of this user of the database
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The token only reaches keys and channels that begin with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// The token ends after this time
    #[arg(long, value_name = "DURATION")]
    token_ttl: Option<String>,
}

impl TokenFields {
    fn json(&self) -> Value {
        let mut fields = Map::new();
        if self.read_only {
            fields.insert("scope".to_owned(), json!("read-only"));
        }
        for (name, value) in [("user", &self.user), ("prefix", &self.prefix), ("ttl", &self.token_ttl)] {
            fields.extend(value.as_ref().map(|value| (name.to_owned(), json!(value))));
        }
        Value::Object(fields)
    }
}

/// An operation over the API.
#[derive(Debug)]
pub enum AdminAction {
    List,
    Deleted,
    Show(String),
    Create { name: Option<String>, ttl: Option<String>, settings: Vec<String>, token: TokenFields },
    Set { name: String, ttl: Option<String>, settings: Vec<String> },
    Claim { name: String, ttl: Option<String> },
    Delete { name: String, now: bool },
    Undelete(String),
    Branch { source: String, name: String, ttl: Option<String>, at: Option<String> },
    History(String),
    Sleep(String),
    Wake(String),
    Where(String),
    Move { name: String, node: String },
    Trigger(TriggerAction),
    Usage(String),
    UsageReport { name: String, usage: UsageArguments },
    Url { name: String, token: TokenFields },
    Tokens(String),
    Revoke { name: String, id: u32 },
    Rotate { name: String, id: u32 },
}

/// The API of a running server.
pub struct AdminClient {
    url: String,
    token: String,
    client: Client,
    runtime: Runtime,
}

impl AdminClient {
    /// `url`: of the HTTP port; by default that of a server on this machine.
    ///
    /// # Errors
    /// A text that says what to do.
    pub fn new(url: Option<String>, tls: &TlsArguments) -> Result<Self, String> {
        let by_environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = url.unwrap_or_else(|| URL.to_owned());
        let url = url.trim_end_matches('/').to_owned();
        let is_tls = url.starts_with("https://");
        if !is_tls && !url.starts_with("http://") {
            return Err("invalid --admin-url or DORMOUSE_ADMIN_URL: expected http://HOST:PORT or https://".to_owned());
        }
        let token =
            by_environment("DORMOUSE_ADMIN_TOKEN").ok_or("set DORMOUSE_ADMIN_TOKEN to the server's admin token")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start the client: {error}"))?;
        let mut client = Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT).no_proxy();
        if is_tls {
            let choices = tls.choices(true)?;
            if choices.name.is_some() {
                return Err("--sni is for rediss:// URLs: name the host of the certificate in --admin-url".to_owned());
            }
            client = client.tls_backend_preconfigured(TlsClient::new(&choices)?.config().as_ref().clone());
        }
        let client = client.build();
        let client = client.map_err(|error| format!("cannot start the client: {error}"))?;
        Ok(Self { url, token, client, runtime })
    }

    /// # Errors
    /// The server's own words, or what is wrong with the connection.
    fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answered = self.runtime.block_on(async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status(), response.text().await?))
        });
        let (status, text) = answered.map_err(|error| {
            let mut cause: &(dyn std::error::Error + 'static) = &error;
            while let Some(deeper) = deeper(cause) {
                cause = deeper;
            }
            if let Some(problem) = cause.downcast_ref::<rustls::Error>() {
                return format!("no connection to {}: {}", self.url, explain(problem));
            }
            format!(
                "no server answers at {} ({cause}): start one with `dormouse serve`, or name another with --admin-url or \
                 DORMOUSE_ADMIN_URL",
                self.url
            )
        })?;
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        match status.is_success() {
            true => Ok(value),
            false if status == StatusCode::NOT_FOUND && value["error"].is_null() => {
                Err(format!("the server at {} has no admin API", self.url))
            }
            false => Err(value["error"].as_str().map_or_else(|| format!("the server answers {status}"), str::to_owned)),
        }
    }

    /// # Errors
    /// The server's own words, or what is wrong with the connection.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        self.call(Method::GET, path, None)
    }

    /// # Errors
    /// The server's own words, or what is wrong with the connection.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.call(Method::POST, path, Some(body))
    }

    fn all(&self, deleted: bool) -> Result<Vec<Value>, String> {
        let (mut all, mut after) = (Vec::new(), String::new());
        let which = if deleted { "&deleted=true" } else { "" };
        loop {
            let mut page = self.get(&format!("/v1/databases?limit={LIST_LIMIT}{which}&after={after}"))?;
            all.extend(page["databases"].as_array_mut().map(std::mem::take).unwrap_or_default());
            match page["next"].as_str() {
                Some(next) if next > after.as_str() => after = next.to_owned(),
                _ => return Ok(all),
            }
        }
    }

    /// Does what is asked and prints the result.
    ///
    /// # Errors
    /// A text that says what is wrong and what to do about it.
    pub fn run(&self, action: AdminAction, output: Option<Output>, is_json: bool) -> Result<(), String> {
        let of = |name: &str, what: &str| format!("/v1/databases/{name}{what}");
        let (text, value) = match action {
            AdminAction::List => {
                let all = self.all(false)?;
                let rows: Vec<DatabaseRow> = all.iter().map(row).collect();
                (table_of(&rows, now_ms()), Value::Array(all))
            }
            AdminAction::Deleted => {
                let all = self.all(true)?;
                let ms = |of: &Value, field: &str| of[field].as_str().and_then(unix_ms).unwrap_or(0);
                let rows: Vec<DeletedRow> = all
                    .iter()
                    .map(|of| DeletedRow {
                        name: text_of(of, "name").to_owned(),
                        at_ms: ms(of, "deleted_at"),
                        until_ms: ms(of, "recoverable_until"),
                    })
                    .collect();
                (deleted_table(&rows, now_ms()), Value::Array(all))
            }
            AdminAction::Show(name) => {
                let shown = self.get(&of(&name, ""))?;
                (listing(&shown), shown)
            }
            AdminAction::Create { name, ttl, settings, token } => {
                let body = json!({ "name": name, "ttl": ttl, "settings": pairs(&settings)?, "token": token.json() });
                let made = self.post("/v1/databases", &body)?;
                (told(&made, output.unwrap_or(Output::Table)), made)
            }
            AdminAction::Set { name, ttl, settings } => {
                let body = json!({ "ttl": ttl, "settings": pairs(&settings)? });
                let shown = self.call(Method::PATCH, &of(&name, ""), Some(&body))?;
                (listing(&shown), shown)
            }
            AdminAction::Claim { name, ttl } => {
                let shown = self.post(&of(&name, "/claim"), &json!({ "ttl": ttl }))?;
                (format!("{name} is claimed\n"), shown)
            }
            AdminAction::Delete { name, now } => {
                let gone = self.call(Method::DELETE, &of(&name, if now { "?now=true" } else { "" }), None)?;
                let until_ms = gone["recoverable_until"].as_str().and_then(unix_ms);
                (told_deleted(&name, until_ms, now_ms()), gone)
            }
            AdminAction::Undelete(name) => {
                (format!("{name} is back\n"), self.post(&of(&name, "/undelete"), &json!({}))?)
            }
            AdminAction::Branch { source, name, ttl, at } => {
                let mut body = json!({ "name": name, "ttl": ttl });
                if let Some(at) = &at {
                    body["at"] = json!(at);
                }
                let shown = self.post(&of(&source, "/branches"), &body)?;
                let full = text_of(&shown, "name");
                let moment = at.map_or_else(String::new, |at| format!(" at {at}"));
                let way = format!("make a token for it with: dormouse db url {full}");
                (format!("{full} is a branch of {source}{moment}\n{way}\n"), shown)
            }
            AdminAction::History(name) => {
                let history = self.get(&of(&name, "/history"))?;
                (history_of(&history), history)
            }
            AdminAction::Sleep(name) => (format!("{name} sleeps\n"), self.post(&of(&name, "/sleep"), &json!({}))?),
            AdminAction::Wake(name) => (format!("{name} is awake\n"), self.post(&of(&name, "/wake"), &json!({}))?),
            AdminAction::Where(name) => {
                let place = self.get(&of(&name, "/where"))?;
                let (on, address) = (text_of(&place, "node"), text_of(&place, "address"));
                let state = match place["awake"].as_bool() {
                    Some(true) => ", awake",
                    Some(false) => ", asleep",
                    None => "",
                };
                (format!("{name} is on {on} at {address}{state}\n"), place)
            }
            AdminAction::Move { name, node } => {
                let moved = self.post(&of(&name, "/move"), &json!({ "node": node }))?;
                let is_new = moved["moved"] == Value::Bool(true);
                let text = if is_new { "has moved to" } else { "is already on" };
                (format!("{name} {text} {node}\n"), moved)
            }
            AdminAction::Trigger(action) => {
                let (method, path, body) = action.request();
                let answer = self.call(method, &path, body.as_ref())?;
                (action.told(&answer), answer)
            }
            AdminAction::UsageReport { name, usage } => {
                return usage.report(&name, &mut AdminUsage { client: self, name: name.clone() }, is_json);
            }
            AdminAction::Usage(name) => {
                let usage = self.get(&of(&name, "/usage"))?;
                (listing(&usage["meters"]), usage)
            }
            AdminAction::Url { name, token } => {
                let made = self.post(&of(&name, "/tokens"), &token.json())?;
                (told(&made, output.unwrap_or(Output::Url)), made)
            }
            AdminAction::Tokens(name) => {
                let tokens = self.get(&of(&name, "/tokens"))?;
                (tokens["tokens"].as_array().map(|tokens| token_table(tokens)).unwrap_or_default(), tokens)
            }
            AdminAction::Revoke { name, id } => {
                let gone = self.call(Method::DELETE, &of(&name, &format!("/tokens/{id}")), None)?;
                (format!("token {id} of {name} is revoked\n"), gone)
            }
            AdminAction::Rotate { name, id } => {
                let made = self.post(&of(&name, &format!("/tokens/{id}/rotate")), &json!({}))?;
                (told(&made, output.unwrap_or(Output::Table)), made)
            }
        };
        if is_json || output == Some(Output::Json) { print_line(&value.to_string()) } else { print(&text) }
    }
}

/// The cause of an error. An error of I/O that stands for another one is no step of its own.
fn deeper<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// The usage of one database, over the API.
struct AdminUsage<'a> {
    client: &'a AdminClient,
    name: String,
}

impl UsageSource for AdminUsage<'_> {
    fn windows(&mut self, period: Period) -> Result<Vec<UsageWindow>, String> {
        let step = if period.step == UsageStep::Minutes { "minute" } else { "hour" };
        let (from_ms, to_ms) = (period.from_ms, period.to_ms);
        let path = format!("/v1/databases/{}/usage?from={from_ms}&to={to_ms}&step={step}", self.name);
        let usage = self.client.get(&path)?;
        let unknown = || "the server's answer has no usage windows: it may be of an earlier version".to_owned();
        let windows = usage["windows"].as_array().ok_or_else(unknown)?;
        windows.iter().map(|window| self.window(window)).collect()
    }

    fn commands(&mut self) -> Result<Value, String> {
        let mut usage = self.client.get(&format!("/v1/databases/{}/usage?by=command", self.name))?;
        Ok(usage["commands"].take())
    }

    fn prefixes(&mut self, time: Duration, depth: u64) -> Result<Value, String> {
        let path = format!("/v1/databases/{}/usage?by=prefix", self.name);
        self.client.get(&format!("{path}&for={}ms&depth={depth}", time.as_millis()))?;
        std::thread::sleep(time);
        let mut counts = self.client.get(&path)?;
        // As the database itself reports them.
        let ms = |counts: &Value, name: &str| {
            let time = chrono::DateTime::parse_from_rfc3339(counts[name].as_str().unwrap_or_default());
            time.map_or(0, |time| time.timestamp_millis())
        };
        let (start_ms, end_ms) = (ms(&counts, "start"), ms(&counts, "end"));
        let mut fields = counts.as_object_mut().map(std::mem::take).unwrap_or_default();
        let counting = u8::from(fields.remove("counting") == Some(json!(true)));
        fields.retain(|name, _| !matches!(name.as_str(), "start" | "end" | "database"));
        fields.extend(
            [("counting", json!(counting)), ("start_ms", json!(start_ms)), ("end_ms", json!(end_ms))]
                .map(|(name, value)| (name.to_owned(), value)),
        );
        Ok(Value::Object(fields))
    }
}

impl AdminUsage<'_> {
    fn window(&self, window: &Value) -> Result<UsageWindow, String> {
        let time = |name: &str| {
            let time = chrono::DateTime::parse_from_rfc3339(window[name].as_str()?).ok()?;
            u64::try_from(time.timestamp_millis()).ok()
        };
        let times = time("start").zip(time("end")).ok_or("a usage window of the server has no start or no end")?;
        let events = window["events"].as_array().into_iter().flatten().map(|event| {
            // A number, or a text if it is large.
            let quantity = event["quantity"].as_str().map_or_else(|| event["quantity"].to_string(), str::to_owned);
            (text_of(event, "id"), text_of(event, "meter"), quantity)
        });
        window_of(&self.name, times, events)
    }
}

/// Reads settings as they are written on the command line: `max-memory=100mb`, or `max-memory=` to remove one.
fn pairs(settings: &[String]) -> Result<Value, String> {
    let mut pairs = Map::new();
    for setting in settings {
        let (name, value) =
            setting.split_once('=').ok_or_else(|| format!("invalid setting `{setting}`: expected NAME=VALUE"))?;
        pairs.insert(name.to_owned(), if value.is_empty() { Value::Null } else { json!(value) });
    }
    Ok(Value::Object(pairs))
}

pub fn text_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("-")
}

/// A new token, with what a client needs.
fn told(made: &Value, output: Output) -> String {
    let (redis, rest, token) = (text_of(made, "redis_url"), text_of(made, "rest_url"), text_of(made, "token"));
    match output {
        Output::Url => format!("{redis}\n"),
        Output::Json => format!("{made}\n"),
        Output::Env => format!(
            "REDIS_URL={redis}\nUPSTASH_REDIS_REST_URL={rest}\nUPSTASH_REDIS_REST_TOKEN={token}\n\
             KV_REST_API_URL={rest}\nKV_REST_API_TOKEN={token}\n"
        ),
        Output::Table => {
            let mut out = String::new();
            for (name, field) in [
                ("database", "database"),
                ("token", "token"),
                ("token id", "id"),
                ("scope", "scope"),
                ("expires", "expires_at"),
                ("redis", "redis_url"),
                ("http", "rest_url"),
            ] {
                let value = match &made[field] {
                    Value::Null => continue,
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                // Writing to a string cannot fail.
                let _ = writeln!(out, "{name:9} {value}");
            }
            out
        }
    }
}

fn row(database: &Value) -> DatabaseRow {
    let number = |name: &str| database[name].as_u64();
    DatabaseRow {
        name: text_of(database, "name").to_owned(),
        state: text_of(database, "state").to_owned(),
        keys: number("keys"),
        is_estimated: database["keys_estimated"] == Value::Bool(true),
        stored_bytes: number("stored_bytes"),
        shared_bytes: number("shared_bytes"),
        source: database["source"].as_str().map(str::to_owned),
        expires_ms: database["expires_at"].as_str().and_then(unix_ms),
        problem: database["problem"].as_str().map(str::to_owned),
    }
}

fn unix_ms(time: &str) -> Option<u64> {
    let time = chrono::DateTime::parse_from_rfc3339(time).ok()?;
    u64::try_from(time.timestamp_millis()).ok()
}

fn token_table(tokens: &[Value]) -> String {
    let mut out = format!("{:4}  {:10}  {:16}  {:16}  EXPIRES\n", "ID", "SCOPE", "USER", "PREFIX");
    for token in tokens {
        let expires = match (token["expired"].as_bool(), token["expires_at"].as_str().and_then(unix_ms)) {
            (Some(true), _) => "expired".to_owned(),
            (_, Some(end)) => format!("in {}", span(Duration::from_millis(end.saturating_sub(now_ms())))),
            _ => "never".to_owned(),
        };
        let prefix = token["prefix"].as_str().filter(|prefix| !prefix.is_empty()).unwrap_or("-");
        let (id, scope, user) = (token["id"].to_string(), text_of(token, "scope"), text_of(token, "user"));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{id:4}  {scope:10}  {user:16}  {prefix:16}  {expires}");
    }
    out
}

/// One field a line; what is nested is left to JSON.
pub fn listing(value: &Value) -> String {
    let mut out = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let value = match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(items) => items.len().to_string(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(" "),
            other => other.to_string(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name}: {value}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_database_is_told_in_every_form() {
        let made = json!({
            "database": "shop", "id": 1, "scope": "read-write", "token": "dm_shop_x", "expires_at": null,
            "redis_url": "redis://:dm_shop_x@h:6379", "rest_url": "http://h:8379",
        });
        assert_eq!(told(&made, Output::Url), "redis://:dm_shop_x@h:6379\n");
        let env = told(&made, Output::Env);
        for line in [
            "REDIS_URL=redis://:dm_shop_x@h:6379",
            "UPSTASH_REDIS_REST_URL=http://h:8379",
            "UPSTASH_REDIS_REST_TOKEN=dm_shop_x",
            "KV_REST_API_URL=http://h:8379",
            "KV_REST_API_TOKEN=dm_shop_x",
        ] {
            assert!(env.lines().any(|found| found == line), "{env}");
        }
        let table = told(&made, Output::Table);
        assert!(table.starts_with("database  shop\ntoken     dm_shop_x\ntoken id  1\n"), "{table}");
        assert!(!table.contains("expires"));
    }

    #[test]
    fn settings_are_pairs() {
        let pairs = |settings: &[&str]| pairs(&settings.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(pairs(&["max-memory=1mb", "loss-window="]), Ok(json!({ "max-memory": "1mb", "loss-window": null })));
        assert!(pairs(&["max-memory"]).unwrap_err().contains("NAME=VALUE"));
    }
}
