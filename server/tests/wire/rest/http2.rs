//! HTTP/2, with prior knowledge.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::served::Served;

type Client = SendRequest<Full<Bytes>>;

async fn connect(server: &Served) -> Client {
    let io = TokioIo::new(TcpStream::connect(("127.0.0.1", server.http_port)).await.unwrap());
    let (client, connection) = handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn send(client: &mut Client, path: &str, token: &str, body: String) -> Response<Incoming> {
    let request = Request::post(format!("http://localhost{path}")).header("authorization", format!("Bearer {token}"));
    client.ready().await.unwrap();
    client.send_request(request.body(Full::from(body)).unwrap()).await.unwrap()
}

async fn ask(client: &mut Client, path: &str, token: &str, body: Value) -> (u16, Value) {
    let response = send(client, path, token, body.to_string()).await;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

#[test]
fn requests_of_one_connection_run_at_the_same_time() {
    let server = Served::start_http(&["--token", "secret", "--token", "dm_two_other"]);
    block_on(async {
        let mut client = connect(&server).await;
        assert_eq!(ask(&mut client, "/", "secret", json!(["SET", "k", "v"])).await, (200, json!({ "result": "OK" })));
        assert_eq!(ask(&mut client, "/", "wrong", json!(["GET", "k"])).await.0, 401);
        let mut all = JoinSet::new();
        for n in 0..300 {
            let mut client = client.clone();
            let token = if n % 2 == 0 { "secret" } else { "dm_two_other" };
            all.spawn(async move { ask(&mut client, "/pipeline", token, json!([["INCR", "n"], ["GET", "k"]])).await });
        }
        let mut seen = (0, 0);
        while let Some(answer) = all.join_next().await {
            let (status, answer) = answer.unwrap();
            assert_eq!(status, 200);
            match answer[1]["result"].as_str() {
                Some("v") => seen.0 += 1,
                _ => seen.1 += 1,
            }
        }
        assert_eq!(seen, (150, 150));
        for token in ["secret", "dm_two_other"] {
            assert_eq!(
                ask(&mut client, "/get/n", token, json!([])).await.1["error"],
                json!("ERR wrong number of arguments for 'get' command")
            );
            assert_eq!(ask(&mut client, "/", token, json!(["GET", "n"])).await, (200, json!({ "result": "150" })));
        }
    });
}

#[test]
fn large_answers_and_a_client_that_goes_away() {
    let server = Served::start_http(&[]);
    block_on(async {
        let mut client = connect(&server).await;
        let value = "x".repeat(5_000_000);
        assert_eq!(ask(&mut client, "/", "", json!(["SET", "large", value])).await.0, 200);
        let twice = ask(&mut client, "/pipeline", "", json!([["GET", "large"], ["GET", "large"]])).await;
        assert_eq!(twice, (200, json!([{ "result": value }, { "result": value }])));
        // Nobody reads this answer.
        drop(send(&mut client, "/", "", json!(["GET", "large"]).to_string()).await);
        assert_eq!(ask(&mut client, "/", "", json!(["STRLEN", "large"])).await.1, json!({ "result": 5_000_000 }));
    });
}

#[test]
fn events_beside_requests() {
    let server = Served::start_http(&[]);
    block_on(async {
        let mut client = connect(&server).await;
        let mut events = send(&mut client, "/subscribe/c", "", "[]".into()).await.into_body();
        let first = events.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "data: subscribe,c,1\n\n");
        assert_eq!(ask(&mut client, "/", "", json!(["PUBLISH", "c", "x"])).await.1, json!({ "result": 1 }));
        assert_eq!(events.frame().await.unwrap().unwrap().into_data().unwrap(), "data: message,c,x\n\n");
        drop(events);
        while ask(&mut client, "/", "", json!(["PUBLISH", "c", "x"])).await.1 != json!({ "result": 0 }) {}
        // The end of a client ends the connection.
        server.connect().say("CLIENT KILL TYPE normal SKIPME yes");
        while client.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn on_the_port() {
    let server = Served::start_http(&["--token", "dm_shop_secret"]);
    block_on(async {
        let mut client = connect(&server).await;
        assert_eq!(ask(&mut client, "/", "dm_shop_secret", json!(["PING"])).await, (200, json!({ "result": "PONG" })));
        assert_eq!(ask(&mut client, "/", "dm_shop_wrong", json!(["PING"])).await.0, 401);
        let healthz = Request::get("http://localhost/healthz").body(Full::default()).unwrap();
        assert_eq!(client.send_request(healthz).await.unwrap().status(), 200);
    });
}
