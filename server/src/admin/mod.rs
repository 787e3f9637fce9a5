//! The admin API: `/v1/...` on the HTTP port, for the operator of the server.
//!
//! 1. A request shows the admin token (`Authorization: Bearer TOKEN`). An address that has shown many wrong tokens, here or
//!    over RESP, waits longer and longer. All refusals are the same.
//! 2. It is counted against a rate. Requests that need no token have a rate of their own, so strangers cannot use up the
//!    operator's.
//! 3. Its body is read within bounds.
//! 4. In a fleet, one for another node, or for a database that another node serves, is [sent on](relay) to that node.
//! 5. The [operation](operations) runs on the background threads, and to its end even if the client goes away.
//! 6. The [audit log](crate::audit) is told of it.
//!
//! Two paths need no token: the description of the API, and `POST /v1/open` on a server that lets anyone make a database
//! ([`open`]). `openapi.json` describes every path; a test compares it with [`ROUTES`].

mod asked;
mod audited;
pub mod gate;
mod nodes;
pub mod open;
pub mod operations;
pub mod rate;
mod relay;
mod shown;
mod triggers;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{QueryRejection, RawPathParamsRejection};
use axum::extract::{MatchedPath, Path, Query, RawPathParams, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use dormouse_storage::directory::DatabaseRecord;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::asked::{
    BranchWish, DatabaseWish, DeleteWish, ListWish, Nothing, SettingsWish, TokenWish, Unread, UsageBreakdown,
    UsageFormat, UsageWish, moment, ttl_ms,
};
use self::audited::{AuditedMatter, AuditedRequest};
use self::gate::{bearer, unauthorized};
use self::open::OpenDoor;
use self::operations::{NewDatabase, NewToken};
use self::rate::RequestRate;
use self::relay::NodeClient;
use self::shown::PublicAddress;
use crate::clock::monotonic_ms;
use crate::databases::Removal;
use crate::directory::ChangeRefusal;
use crate::metering::export;
use crate::node::Node;
use crate::peer::Peer;
use crate::prefixes::PrefixCounts;
use crate::strangers::Neighbourhood;

/// Requests a second, and at once.
const REQUESTS_PER_SECOND: u64 = 2000;
const REQUESTS_AT_ONCE: u64 = 4000;
/// The same for requests without a token, all of them together.
const STRANGERS_PER_SECOND: u64 = 100;
const STRANGERS_AT_ONCE: u64 = 200;

const OPENAPI: &str = include_str!("openapi.json");

/// Every path with its methods, in lower case.
pub const ROUTES: &[(&str, &[&str])] = &[
    ("/v1/openapi.json", &["get"]),
    ("/v1/open", &["post"]),
    ("/v1/databases", &["get", "post"]),
    ("/v1/databases/{name}", &["get", "patch", "delete"]),
    ("/v1/databases/{name}/branches", &["post"]),
    ("/v1/databases/{name}/claim", &["post"]),
    ("/v1/databases/{name}/history", &["get"]),
    ("/v1/databases/{name}/move", &["post"]),
    ("/v1/databases/{name}/sleep", &["post"]),
    ("/v1/databases/{name}/tokens", &["get", "post"]),
    ("/v1/databases/{name}/tokens/{id}", &["delete"]),
    ("/v1/databases/{name}/tokens/{id}/rotate", &["post"]),
    ("/v1/databases/{name}/triggers", &["get", "post"]),
    ("/v1/databases/{name}/triggers/{trigger}", &["get", "delete"]),
    ("/v1/databases/{name}/triggers/{trigger}/pause", &["post"]),
    ("/v1/databases/{name}/triggers/{trigger}/resume", &["post"]),
    ("/v1/databases/{name}/undelete", &["post"]),
    ("/v1/databases/{name}/usage", &["get"]),
    ("/v1/databases/{name}/wake", &["post"]),
    ("/v1/databases/{name}/where", &["get"]),
    ("/v1/nodes", &["get"]),
    ("/v1/nodes/{node}", &["get"]),
    ("/v1/nodes/{node}/drain", &["post"]),
    ("/v1/nodes/{node}/resume", &["post"]),
];

/// The state that all requests share.
#[derive(Clone)]
struct Api {
    node: Arc<Node>,
    rate: Arc<RequestRate>,
    strangers: Arc<RequestRate>,
    door: Option<Arc<OpenDoor>>,
    others: Arc<NodeClient>,
}

/// The routes. `door`: whether and within which limits anyone may make a database.
pub fn router(node: &Arc<Node>, door: Option<OpenDoor>) -> Router {
    let api = Api {
        node: Arc::clone(node),
        rate: Arc::new(RequestRate::new(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE)),
        strangers: Arc::new(RequestRate::new(STRANGERS_PER_SECOND, STRANGERS_AT_ONCE)),
        door: door.map(Arc::new),
        others: Arc::default(),
    };
    ROUTES
        .iter()
        .fold(Router::new(), |router, (path, _)| router.route(path, handlers(path)))
        .method_not_allowed_fallback(async || failure(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods"))
        .layer(from_fn_with_state(api.clone(), relay::relay))
        .layer(from_fn_with_state(api.clone(), admit))
        .with_state(api)
}

fn handlers(path: &str) -> MethodRouter<Api> {
    match path {
        "/v1/openapi.json" => get(async || ([(header::CONTENT_TYPE, "application/json")], OPENAPI)),
        "/v1/open" => post(make_openly),
        "/v1/databases" => get(list).post(create),
        "/v1/databases/{name}" => get(show).patch(set).delete(remove),
        "/v1/databases/{name}/branches" => post(branch),
        "/v1/databases/{name}/claim" => post(claim),
        "/v1/databases/{name}/history" => get(history),
        "/v1/databases/{name}/move" => post(nodes::move_database),
        "/v1/databases/{name}/sleep" => post(sleep),
        "/v1/databases/{name}/tokens" => get(list_tokens).post(add_token),
        "/v1/databases/{name}/tokens/{id}" => delete(revoke),
        "/v1/databases/{name}/tokens/{id}/rotate" => post(rotate),
        "/v1/databases/{name}/triggers" => get(triggers::list).post(triggers::add),
        "/v1/databases/{name}/triggers/{trigger}" => get(triggers::show).delete(triggers::remove),
        "/v1/databases/{name}/triggers/{trigger}/pause" => post(triggers::pause),
        "/v1/databases/{name}/triggers/{trigger}/resume" => post(triggers::resume),
        "/v1/databases/{name}/undelete" => post(undelete),
        "/v1/databases/{name}/usage" => get(usage),
        "/v1/databases/{name}/wake" => post(wake),
        "/v1/databases/{name}/where" => get(nodes::place),
        "/v1/nodes" => get(nodes::list),
        "/v1/nodes/{node}" => get(nodes::show),
        "/v1/nodes/{node}/drain" => post(nodes::drain),
        "/v1/nodes/{node}/resume" => post(nodes::resume),
        _ => MethodRouter::new(),
    }
}

/// Lets a request through that shows the admin token, or needs none, and comes within the rate.
async fn admit(
    State(api): State<Api>,
    route: Option<MatchedPath>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let node = &api.node;
    let audited = {
        let parameters = parameters.iter().flatten();
        AuditedRequest::of(node, &request, route.as_ref().map(MatchedPath::as_str), parameters)
    };
    if matches!(path, "/v1/openapi.json" | "/v1/open") {
        return within(&api, Arc::clone(&api.strangers), audited, request, next).await;
    }
    if !node.tenants.has_admin() {
        let text = "the server has no admin token: start it with DORMOUSE_ADMIN_TOKEN or --admin-token";
        return failure(StatusCode::FORBIDDEN, text);
    }
    let origin = request.extensions().get::<Peer>().map_or(Neighbourhood::Local, Neighbourhood::of);
    let now_ms = || (node.engine.clock)();
    tokio::time::sleep(node.guesses.wait(origin, now_ms())).await;
    if !bearer(request.headers()).is_some_and(|token| node.tenants.is_admin(token)) {
        audited.into_iter().for_each(|audited| audited.denied(node));
        tokio::time::sleep(node.guesses.note(origin, 1, now_ms())).await;
        return unauthorized("the admin token is missing or wrong");
    }
    within(&api, Arc::clone(&api.rate), audited, request, next).await
}

async fn within(
    api: &Api,
    rate: Arc<RequestRate>,
    audited: Option<AuditedRequest>,
    request: Request,
    next: Next,
) -> Response {
    let answered = async move {
        if rate.admits(monotonic_ms()) {
            return next.run(request).await;
        }
        let mut response = failure(StatusCode::TOO_MANY_REQUESTS, "too many requests: try again in a second");
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        response
    };
    let Some(audited) = audited else { return answered.await };
    let node = Arc::clone(&api.node);
    let is_change = audited.is_change();
    let told = async move {
        let response = answered.await;
        audited.end(&node, &response);
        response
    };
    if !is_change {
        return told.await;
    }
    // To its end, even if the client goes away: what was done is told.
    let ended = api.node.engine.background.spawn(told).await;
    ended.unwrap_or_else(|_| unfinished().into_response())
}

fn unfinished() -> Failure {
    Failure(StatusCode::INTERNAL_SERVER_ERROR, "the operation did not come to its end".to_owned())
}

/// The answer to a request.
type Answer = Result<Response, Failure>;

/// Why a request was refused.
struct Failure(StatusCode, String);

impl From<ChangeRefusal> for Failure {
    fn from(refusal: ChangeRefusal) -> Self {
        let status = match &refusal {
            ChangeRefusal::Unknown(_) => StatusCode::NOT_FOUND,
            ChangeRefusal::Conflict(_) => StatusCode::CONFLICT,
            ChangeRefusal::Invalid(_) => StatusCode::BAD_REQUEST,
            ChangeRefusal::Limit(_) => StatusCode::TOO_MANY_REQUESTS,
            ChangeRefusal::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, refusal.to_string())
    }
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLarge => {
                let text = format!("the body is larger than {} bytes", asked::BODY_BYTES_MAX);
                Self(StatusCode::PAYLOAD_TOO_LARGE, text)
            }
            Unread::TooSlow => Self(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned()),
            Unread::Malformed(problem) => Self(StatusCode::BAD_REQUEST, format!("malformed body: {problem}")),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        failure(self.0, &self.1)
    }
}

fn failure(status: StatusCode, message: &str) -> Response {
    answer(status, &json!({ "error": message }))
}

fn answer(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], value.to_string())
        .into_response()
}

/// An answer with what it is about, for the audit log.
fn about(mut answer: Response, database: &str, token: Option<u32>) -> Response {
    answer.extensions_mut().insert(AuditedMatter { database: database.into(), token });
    answer
}

fn ok(value: &Value) -> Answer {
    Ok(answer(StatusCode::OK, value))
}

impl Api {
    /// Runs an operation on the background threads, and to its end.
    async fn run<T: Send + 'static, F: Future<Output = Result<T, ChangeRefusal>> + Send + 'static>(
        &self,
        operation: impl FnOnce(Arc<Node>) -> F,
    ) -> Result<T, Failure> {
        let done = self.node.engine.background.spawn(operation(Arc::clone(&self.node)));
        Ok(done.await.map_err(|_| unfinished())??)
    }

    fn now_ms(&self) -> u64 {
        (self.node.engine.clock)()
    }

    fn address(&self, headers: &HeaderMap) -> PublicAddress {
        PublicAddress::of(&self.node, headers.get(header::HOST).and_then(|host| host.to_str().ok()))
    }

    /// Describes a database, which is opened for that.
    async fn describe(&self, name: String) -> Result<Value, Failure> {
        let described = self.run(async move |node| {
            let tenant = operations::open(&node, &name).await?;
            let record = operations::record(&node, tenant.name())?;
            Ok(shown::database(&record, Some(&tenant), (node.engine.clock)()))
        });
        described.await
    }
}

async fn body<T: DeserializeOwned>(of: Body) -> Result<T, Failure> {
    Ok(asked::body(of).await?)
}

/// `GET /v1/databases?after=NAME&prefix=TEXT&limit=NUMBER&deleted=true`
async fn list(State(api): State<Api>, query: Result<Query<ListWish>, QueryRejection>) -> Answer {
    let Ok(Query(asked)) = query else {
        return Err(
            ChangeRefusal::Invalid("invalid query: expected after, prefix, limit and deleted=true".to_owned()).into()
        );
    };
    let (limit, now_ms, tenants) = (asked.limit()?, api.now_ms(), &api.node.tenants);
    let (after, prefix) = (asked.after.unwrap_or_default(), asked.prefix.unwrap_or_default());
    if asked.deleted {
        let known = tenants.directory.known();
        let is_next = |of: &DatabaseRecord| &*of.name > after.as_str() && of.name.starts_with(&prefix);
        let found: Vec<DatabaseRecord> = known.all_deleted().filter(is_next).take(limit + 1).collect();
        let next = (found.len() > limit).then(|| found[limit - 1].name.clone());
        let shown: Vec<Value> = found.iter().take(limit).map(|of| shown::database(of, None, now_ms)).collect();
        return ok(&json!({ "databases": shown, "next": next }));
    }
    let mut found: std::collections::BTreeMap<Box<str>, _> =
        tenants.directory.known().after(&after, &prefix).take(limit + 1).map(|of| (of.name.clone(), of)).collect();
    for tenant in tenants.all() {
        let name = tenant.name();
        if name > after.as_str() && name.starts_with(&prefix) && !found.contains_key(name) {
            found.insert(name.into(), tenants.record_of(&tenant));
        }
    }
    let more = found.len() > limit;
    let shown: Vec<Value> = found
        .values()
        .take(limit)
        .map(|record| shown::database(record, tenants.of_name(&record.name).as_deref(), now_ms))
        .collect();
    let next = shown.last().filter(|_| more).map(|last| last["name"].clone());
    ok(&json!({ "databases": shown, "next": next }))
}

/// `POST /v1/databases`
async fn create(State(api): State<Api>, headers: HeaderMap, request: Body) -> Answer {
    let DatabaseWish { name, ttl, settings, token } = body(request).await?;
    let token = token.map_or_else(|| Ok(NewToken::plain()), TokenWish::read)?;
    let new = NewDatabase { name, ttl_ms: ttl_ms(ttl.as_deref())?.flatten(), settings, token, is_unclaimed: false };
    made(&api, &headers, new).await
}

/// `POST /v1/open`
async fn make_openly(State(api): State<Api>, headers: HeaderMap, request: Body) -> Answer {
    let Some(door) = api.door.clone() else {
        let text = "this server does not let anyone make a database: it was started without --open";
        return Err(Failure(StatusCode::FORBIDDEN, text.to_owned()));
    };
    let asked: open::OpenWish = body(request).await?;
    let new = door.admit(&api.node, asked, monotonic_ms())?;
    made(&api, &headers, new).await
}

async fn made(api: &Api, headers: &HeaderMap, new: NewDatabase) -> Answer {
    let (record, token) = api.run(async move |node| operations::create(&node, new).await).await?;
    let now_ms = api.now_ms();
    let mut shown = shown::made_token(&record.name, &token, &api.address(headers), now_ms);
    for (name, value) in [
        ("name", json!(&*record.name)),
        ("created_at", shown::time(record.created_ms)),
        ("expires_at", record.expires_ms.map_or(Value::Null, shown::time)),
    ] {
        shown[name] = value;
    }
    Ok(about(answer(StatusCode::CREATED, &shown), &record.name, Some(token.record.id)))
}

/// `GET /v1/databases/{name}`
async fn show(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    ok(&api.describe(name).await?)
}

/// `PATCH /v1/databases/{name}`
async fn set(State(api): State<Api>, Path(name): Path<String>, request: Body) -> Answer {
    let SettingsWish { ttl, settings } = body(request).await?;
    let ttl_ms = ttl_ms(ttl.as_deref())?;
    let of = name.clone();
    api.run(async move |node| operations::set(&node, &of, settings, ttl_ms, false).await).await?;
    ok(&api.describe(name).await?)
}

/// `POST /v1/databases/{name}/claim`
async fn claim(State(api): State<Api>, Path(name): Path<String>, request: Body) -> Answer {
    let SettingsWish { ttl, mut settings } = body(request).await?;
    // It loses the limits and the end of a database that anyone can make.
    for name in open::LIMITS {
        settings.entry((*name).into()).or_insert(None);
    }
    let ttl_ms = ttl_ms(ttl.as_deref())?.flatten();
    let of = name.clone();
    api.run(async move |node| {
        if !operations::record(&node, &of)?.is_unclaimed {
            return Err(ChangeRefusal::Conflict(format!("database `{of}` is claimed already")));
        }
        operations::set(&node, &of, settings, Some(ttl_ms), true).await
    })
    .await?;
    ok(&api.describe(name).await?)
}

/// `DELETE /v1/databases/{name}?now=true`
async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Result<Query<DeleteWish>, QueryRejection>,
) -> Answer {
    let Ok(Query(asked)) = query else {
        return Err(ChangeRefusal::Invalid("invalid query: expected now=true or nothing".to_owned()).into());
    };
    let removal = if asked.now { Removal::ForGood } else { Removal::Recoverable };
    let of = name.clone();
    match api.run(async move |node| operations::delete(&node, &of, removal).await).await? {
        Some(until_ms) => ok(&json!({ "name": name, "deleted": true, "recoverable_until": shown::time(until_ms) })),
        None => ok(&json!({ "name": name, "deleted": true })),
    }
}

/// `POST /v1/databases/{name}/undelete`
async fn undelete(State(api): State<Api>, Path(name): Path<String>, request: Body) -> Answer {
    let Nothing {} = body(request).await?;
    let of = name.clone();
    api.run(async move |node| operations::undelete(&node, &of).await).await?;
    ok(&api.describe(name).await?)
}

/// `POST /v1/databases/{name}/branches`
async fn branch(State(api): State<Api>, Path(source): Path<String>, request: Body) -> Answer {
    let BranchWish { name, ttl, at } = body(request).await?;
    let ttl_ms = ttl_ms(ttl.as_deref())?.flatten();
    let at = moment(at.as_deref())?;
    let full = api.run(async move |node| operations::branch(&node, &source, &name, ttl_ms, at).await).await?;
    let made = answer(StatusCode::CREATED, &api.describe(full.clone()).await?);
    Ok(about(made, &full, None))
}

/// `POST /v1/databases/{name}/sleep`
async fn sleep(State(api): State<Api>, Path(name): Path<String>, request: Body) -> Answer {
    let Nothing {} = body(request).await?;
    let of = name.clone();
    api.run(async move |node| operations::sleep(&node, &of).await).await?;
    ok(&api.describe(name).await?)
}

/// `POST /v1/databases/{name}/wake`
async fn wake(State(api): State<Api>, Path(name): Path<String>, request: Body) -> Answer {
    let Nothing {} = body(request).await?;
    let of = name.clone();
    api.run(async move |node| operations::wake(&node, &of).await).await?;
    ok(&api.describe(name).await?)
}

/// `GET /v1/databases/{name}/history`
async fn history(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let kept = api.run(async move |node| {
        let tenant = operations::open(&node, &name).await?;
        Ok(shown::history(&tenant))
    });
    ok(&kept.await?)
}

/// `GET /v1/databases/{name}/usage?from=TIME&to=TIME&step=minute|hour&format=json|csv|cloudevents`, or `?by=command`, or
/// `?by=prefix&for=DURATION&depth=PARTS`
async fn usage(
    State(api): State<Api>,
    Path(name): Path<String>,
    query: Result<Query<UsageWish>, QueryRejection>,
) -> Answer {
    let Ok(Query(asked)) = query else {
        return Err(ChangeRefusal::Invalid(
            "invalid query: expected from, to, step, format, by, for or depth".to_owned(),
        )
        .into());
    };
    let of = name.clone();
    match asked.breakdown()? {
        None => {}
        Some(UsageBreakdown::Command) => {
            let totals = api.run(async move |node| {
                let tenant = operations::metered(&node, &of).await?;
                Ok(tenant.meters.totals((node.engine.clock)()))
            });
            return ok(&shown::usage_by_command(&name, &totals.await?));
        }
        Some(UsageBreakdown::Prefix(begun)) => {
            let counts = api.run(async move |node| {
                let (tenant, now_ms) = (operations::open(&node, &of).await?, (node.engine.clock)());
                if let Some((length_ms, depth)) = begun {
                    tenant.monitors.begin_count(PrefixCounts::new(now_ms, length_ms, depth));
                }
                let counts = tenant.monitors.counts().unwrap_or_default();
                Ok(shown::usage_by_prefix(&of, &counts, now_ms))
            });
            return ok(&counts.await?);
        }
    }
    let period = asked.period(api.now_ms())?;
    let Some((period, format)) = period else {
        let used = api.run(async move |node| {
            let tenant = operations::metered(&node, &of).await?;
            Ok(shown::usage(&tenant, (node.engine.clock)()))
        });
        return ok(&used.await?);
    };
    let windows = api.run(async move |node| {
        let tenant = operations::metered(&node, &of).await?;
        let found = node.tenants.ledger.windows(&tenant.meters, period).await;
        found.map_err(|error| ChangeRefusal::Store(format!("the usage ledger cannot be read: {error}")))
    });
    let windows = windows.await?;
    let text = |kind: &'static str, text: String| {
        Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], text).into_response())
    };
    match format {
        UsageFormat::Json => ok(&shown::usage_of(&name, period, &windows)),
        UsageFormat::Csv => text("text/csv; charset=utf-8", export::csv(&windows)),
        UsageFormat::CloudEvents => text("application/x-ndjson", export::cloud_events(&windows)),
    }
}

/// `GET /v1/databases/{name}/tokens`
async fn list_tokens(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let record = operations::record(&api.node, &name)?;
    let now_ms = api.now_ms();
    let tokens: Vec<Value> = record.tokens.iter().map(|token| shown::token(token, now_ms)).collect();
    ok(&json!({ "tokens": tokens }))
}

/// `POST /v1/databases/{name}/tokens`
async fn add_token(State(api): State<Api>, Path(name): Path<String>, headers: HeaderMap, request: Body) -> Answer {
    let new = body::<TokenWish>(request).await?.read()?;
    let of = name.clone();
    let made = api.run(async move |node| operations::add(&node, &of, new).await).await?;
    let shown = shown::made_token(&name, &made, &api.address(&headers), api.now_ms());
    Ok(about(answer(StatusCode::CREATED, &shown), &name, Some(made.record.id)))
}

/// `DELETE /v1/databases/{name}/tokens/{id}`
async fn revoke(State(api): State<Api>, Path((name, id)): Path<(String, String)>) -> Answer {
    let id = token_id(&id)?;
    api.run(async move |node| operations::revoke(&node, &name, id).await).await?;
    ok(&json!({ "id": id, "revoked": true }))
}

/// `POST /v1/databases/{name}/tokens/{id}/rotate`
async fn rotate(
    State(api): State<Api>,
    Path((name, id)): Path<(String, String)>,
    headers: HeaderMap,
    request: Body,
) -> Answer {
    let Nothing {} = body(request).await?;
    let (id, of) = (token_id(&id)?, name.clone());
    let made = api.run(async move |node| operations::rotate(&node, &of, id).await).await?;
    ok(&shown::made_token(&name, &made, &api.address(&headers), api.now_ms()))
}

fn token_id(text: &str) -> Result<u32, Failure> {
    let id = text.parse().map_err(|_| ChangeRefusal::Invalid("invalid id of a token: expected a number".to_owned()));
    Ok(id?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_every_route_and_no_other() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let described = description["paths"].as_object().unwrap();
        let names: Vec<&str> = described.keys().map(String::as_str).collect();
        let mut routes: Vec<&str> = ROUTES.iter().map(|(path, _)| *path).collect();
        routes.sort_unstable();
        assert_eq!(names, routes);
        for (path, methods) in ROUTES {
            let operations = described[*path].as_object().unwrap();
            let mut found: Vec<&str> =
                operations.keys().map(String::as_str).filter(|key| *key != "parameters").collect();
            found.sort_unstable();
            let mut methods = methods.to_vec();
            methods.sort_unstable();
            assert_eq!(found, methods, "{path}");
            for method in methods {
                assert!(operations[method]["summary"].is_string(), "{method} {path}");
                assert!(operations[method]["responses"].is_object(), "{method} {path}");
            }
            for named in path.split(['{', '}']).skip(1).step_by(2) {
                assert!(described[*path]["parameters"].to_string().contains(&format!("\"{named}\"")), "{path}");
            }
        }
    }
}
