//! Requests that another node of the fleet answers: every node answers for all.
//!
//! 1. A request for a [node](NODE_ROUTES) goes to that node, and one for a database that needs it in memory to the node that
//!    serves it. It goes as it came, with its method, path, body, `Host` and `Authorization`, and its answer comes back as it is.
//!    So all nodes have the same admin token.
//! 2. The request has passed the checks of this node before: nothing is sent on for strangers.
//! 3. A header counts the nodes that have sent a request on, up to [`HOPS_MAX`]. A node that gets one and would send it on as well
//!    looks again where the database is, since an old answer may have brought the request here.
//! 4. A node that does not answer may have died. Its databases are looked for again, within [`FOUND_WITHIN`], unless the request
//!    changes something and was sent: it may have been carried out. Each request has a connection of its own, so a node that is
//!    gone is found out before the request is sent.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use reqwest::Client;
use tokio::time::{Instant, sleep};

use super::{Api, Failure, asked, unfinished};
use crate::fleet::{Fleet, Peering, ServedAt};
use crate::node::Node;

/// Counts the nodes that have sent a request on.
const HOPS: HeaderName = HeaderName::from_static("dormouse-hops");
const HOPS_MAX: u32 = 3;
/// Time for a node to be found that answers.
const FOUND_WITHIN: Duration = Duration::from_secs(15);
const RETRY_EVERY: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for a whole exchange: longer than a drain takes.
const TIMEOUT: Duration = Duration::from_secs(100);
/// Most attempts to find a database that moves meanwhile.
const LOOKS: usize = 3;

/// Routes that the named node answers.
pub const NODE_ROUTES: &[&str] = &["/v1/nodes/{node}", "/v1/nodes/{node}/drain", "/v1/nodes/{node}/resume"];

/// Whether a route needs its database in memory. The others need the directory only, which all nodes have.
fn needs_database(method: &Method, route: &str) -> bool {
    let is_answered_anywhere = route == "/v1/databases/{name}/where" || route == "/v1/databases/{name}/tokens";
    // A client of a revoked token is disconnected where its database is.
    let is_of_database = route.starts_with("/v1/databases/{name}");
    is_of_database && !is_answered_anywhere && *method != Method::OPTIONS
}

/// The client for other nodes, made when it is first needed.
#[derive(Debug, Default)]
pub struct NodeClient {
    client: OnceLock<Client>,
}

impl NodeClient {
    fn get(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let made = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        let made = made.map_err(|error| unavailable(format!("no client for other nodes can be made: {error}")))?;
        Ok(self.client.get_or_init(|| made))
    }
}

/// A request that can be sent more than once.
#[derive(Debug, Clone)]
struct Relayed {
    method: Method,
    path_and_query: String,
    headers: HeaderMap,
    body: Bytes,
}

/// Why another node has not answered.
enum Unanswered {
    /// The request has done nothing, so another node may get it.
    Unreached(String),
    Broken(String),
}

/// Sends a request on if another node has to answer it.
pub async fn relay(
    State(api): State<Api>,
    route: Option<MatchedPath>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let (Some(fleet), Some(route)) = (api.node.fleet.get(), route) else { return next.run(request).await };
    let first = parameters.iter().flatten().next().map(|(_, value)| value.to_owned());
    let Some(of) = first else { return next.run(request).await };
    let subject = match route.as_str() {
        route if NODE_ROUTES.contains(&route) => Subject::Node(of),
        route if needs_database(request.method(), route) && api.node.tenants.is_known(&of) => Subject::Database(of),
        _ => return next.run(request).await,
    };
    // On the background threads: the connections to other nodes belong to them.
    let (client, node, fleet) = (Arc::clone(&api.others), Arc::clone(&api.node), Arc::clone(fleet));
    let answered =
        api.node.engine.background.spawn(async move { answer(&client, &node, &fleet, &subject, request).await });
    match answered.await {
        Ok(Ok(Answered::There(response))) => response,
        Ok(Ok(Answered::Here(request))) => next.run(request).await,
        Ok(Err(failure)) => failure.into_response(),
        Err(_) => unfinished().into_response(),
    }
}

#[derive(Debug)]
enum Subject {
    Node(String),
    Database(String),
}

enum Answered {
    /// This node has to answer.
    Here(Request),
    There(Response),
}

async fn answer(
    client: &NodeClient,
    node: &Node,
    fleet: &Fleet,
    subject: &Subject,
    request: Request,
) -> Result<Answered, Failure> {
    let hops = hops(request.headers());
    if hops > 0
        && let Subject::Database(name) = subject
        && matches!(fleet.locate(name).await, Ok(ServedAt::There(_)))
    {
        fleet.forget(name);
    }
    let Some(mut other) = other_node(node, fleet, subject).await? else { return Ok(Answered::Here(request)) };
    if hops >= HOPS_MAX {
        return Err(unavailable("several nodes have sent this request on: try again".to_owned()));
    }
    let (parts, body) = request.into_parts();
    let relayed = Relayed::of(&parts, asked::bytes(body).await?, hops + 1);
    let until = Instant::now() + FOUND_WITHIN;
    loop {
        let problem = match relayed.send(client.get()?, &other).await? {
            Ok(response) => return Ok(Answered::There(response)),
            Err(Unanswered::Broken(problem)) => return Err(unavailable(problem)),
            Err(Unanswered::Unreached(problem)) => problem,
        };
        let Subject::Database(name) = subject else { return Err(unavailable(problem)) };
        if Instant::now() >= until {
            return Err(unavailable(problem));
        }
        sleep(RETRY_EVERY).await;
        fleet.forget(name);
        match other_node(node, fleet, subject).await? {
            Some(found) => other = found,
            None => return Ok(Answered::Here(Request::from_parts(parts, Body::from(relayed.body)))),
        }
    }
}

/// The node that has to answer, if it is not this one.
async fn other_node(node: &Node, fleet: &Fleet, subject: &Subject) -> Result<Option<Arc<Peering>>, Failure> {
    let name = match subject {
        Subject::Node(name) => {
            let members = fleet.members();
            // The node itself answers for one that is no member.
            let other = members.named(name).filter(|member| member.name != fleet.name());
            return Ok(other.map(|member| Arc::new(Peering::from(&**member))));
        }
        Subject::Database(name) => name,
    };
    for _ in 0..LOOKS {
        match fleet.locate(name).await {
            Ok(ServedAt::There(other)) => return Ok(Some(other)),
            // If it proves to be elsewhere, the fleet has forgotten that it was here.
            Ok(ServedAt::Here) if node.tenants.directory.deleted(name).is_none() => {
                if node.tenants.opened(name).await.is_some() {
                    return Ok(None);
                }
            }
            Ok(ServedAt::Here) => return Ok(None),
            Err(error) => return Err(unavailable(format!("database `{name}` cannot be found: {error}"))),
        }
    }
    Ok(None)
}

impl Relayed {
    fn of(parts: &Parts, body: Bytes, hops: u32) -> Self {
        let mut headers = HeaderMap::new();
        for name in [header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT, header::HOST] {
            if let Some(value) = parts.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(HOPS, hops.into());
        let path_and_query = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Self { method: parts.method.clone(), path_and_query, headers, body }
    }

    async fn send(&self, client: &Client, to: &Peering) -> Result<Result<Response, Unanswered>, Failure> {
        let name = &to.name;
        let Some(http) = &to.http else {
            let text = format!("node {name} serves no HTTP: start it with --http-port, or with --advertise-http");
            return Err(Failure(StatusCode::CONFLICT, text));
        };
        let request = client
            .request(self.method.clone(), format!("http://{http}{}", self.path_and_query))
            .headers(self.headers.clone())
            .body(self.body.clone());
        Ok(match request.send().await {
            Ok(response) => Ok(answer_of(response)),
            Err(error) if error.is_connect() => {
                Err(Unanswered::Unreached(format!("node {name} does not answer at {http}")))
            }
            Err(error) if error.is_timeout() => Err(Unanswered::Broken(format!("node {name} did not answer in time"))),
            Err(_) if self.method.is_safe() => {
                Err(Unanswered::Unreached(format!("node {name} broke off before it had answered")))
            }
            Err(_) => {
                let text = "broke off before it had answered: the request may have been carried out";
                Err(Unanswered::Broken(format!("node {name} {text}")))
            }
        })
    }
}

/// Another node's answer, without the headers that are about its connection.
fn answer_of(response: reqwest::Response) -> Response {
    let (mut parts, body) = axum::http::Response::from(response).into_parts();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, HeaderName::from_static("keep-alive")] {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, Body::new(body))
}

/// The number of nodes that have sent a request on. One that cannot be read is that of a request that is not sent on.
fn hops(headers: &HeaderMap) -> u32 {
    let Some(value) = headers.get(HOPS) else { return 0 };
    value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(HOPS_MAX)
}

fn unavailable(problem: String) -> Failure {
    Failure(StatusCode::SERVICE_UNAVAILABLE, problem)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use axum::http::HeaderValue;

    use super::super::ROUTES;
    use super::*;

    #[test]
    fn routes_that_need_a_database_in_memory() {
        for (path, methods) in ROUTES {
            let is_of_database = path.starts_with("/v1/databases/{name}");
            let is_anywhere = path.ends_with("/where") || path.ends_with("/tokens");
            for method in *methods {
                let method: Method = method.to_uppercase().parse().unwrap();
                assert_eq!(needs_database(&method, path), is_of_database && !is_anywhere, "{method} {path}");
            }
        }
        let of_nodes = |path: &&&str| path.starts_with("/v1/nodes/");
        let routes: Vec<&str> = ROUTES.iter().map(|(path, _)| path).filter(of_nodes).copied().collect();
        assert_eq!(routes, NODE_ROUTES);
    }

    #[test]
    fn hops_are_counted_and_bounded() {
        let of = |text: &'static str| hops(&HeaderMap::from_iter([(HOPS, HeaderValue::from_static(text))]));
        assert_eq!((hops(&HeaderMap::new()), of("0"), of("2"), of("99")), (0, 0, 2, 99));
        for text in ["", "x", "-1", "99999999999"] {
            assert_eq!(of(text), HOPS_MAX, "{text}");
        }
    }

    fn request() -> Request {
        let request = Request::post("/v1/databases/shop/sleep?x=1").header(header::AUTHORIZATION, "Bearer r00t");
        request.header("x-other", "1").header(header::HOST, "db.example").body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_sent_as_it_came_and_its_answer_returned() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap().to_string();
        let echo = async |request: Request| {
            let (parts, body) = request.into_parts();
            let body = asked::bytes(body).await.ok().unwrap();
            let told = ["authorization", "host", "dormouse-hops", "x-other"].map(|name| {
                let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
                value.unwrap_or("-").to_owned()
            });
            let told = format!("{} {} {} {}", parts.method, parts.uri, told.join(" "), body.len());
            (StatusCode::CONFLICT, [("x-seen", "1")], told)
        };
        let served = tokio::spawn(axum::serve(listener, axum::Router::new().fallback(echo)).into_future());
        let (parts, _) = request().into_parts();
        let relayed = Relayed::of(&parts, Bytes::from_static(b"{}"), 2);
        let to = Peering { name: "b".to_owned(), address: "b:1".to_owned(), http: Some(http) };
        let client = NodeClient::default();
        let Ok(Ok(response)) = relayed.send(client.get().ok().unwrap(), &to).await else { panic!("no answer") };
        assert_eq!(
            (response.status(), &response.headers()["x-seen"]),
            (StatusCode::CONFLICT, &HeaderValue::from_static("1"))
        );
        let told = asked::bytes(response.into_body()).await.ok().unwrap();
        assert_eq!(&told[..], b"POST /v1/databases/shop/sleep?x=1 Bearer r00t db.example 2 - 2");
        served.abort();
    }

    #[tokio::test]
    async fn a_node_that_cannot_be_reached_has_not_got_the_request() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (parts, _) = request().into_parts();
        let relayed = Relayed::of(&parts, Bytes::new(), 1);
        let mut to = Peering { name: "b".to_owned(), address: "b:1".to_owned(), http: Some(free) };
        let client = NodeClient::default();
        let client = client.get().ok().unwrap();
        let sent = relayed.send(client, &to).await;
        assert!(matches!(sent, Ok(Err(Unanswered::Unreached(text))) if text.starts_with("node b does not answer at ")));
        to.http = None;
        let refused = relayed.send(client, &to).await;
        assert!(matches!(refused, Err(Failure(StatusCode::CONFLICT, text)) if text.contains("--http-port")));
    }
}
