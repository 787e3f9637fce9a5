//! The health endpoint: `GET /healthz` is 200 if requests can be answered, else 503 with the reason.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::upstream::Upstream;

type Answer = (StatusCode, String);

/// Questions to the thread of the sidecar. The server of the endpoint may run on any.
type Questions = mpsc::Sender<oneshot::Sender<Answer>>;

/// Serves the endpoint, forever.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(address: SocketAddr, upstream: Rc<Upstream>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let (questions, mut asked) = mpsc::channel(1);
    let router = Router::new().route("/healthz", get(show)).with_state(questions);
    let answer = async {
        while let Some(question) = asked.recv().await {
            // Who has asked may be gone.
            let _ = question.send(state(&upstream));
        }
    };
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served,
        () = answer => Ok(()),
    }
}

fn state(upstream: &Upstream) -> Answer {
    match upstream.problem() {
        None => {
            let (keys, bytes, hits) = upstream.copies();
            (StatusCode::OK, format!("ok\ncached_keys:{keys}\ncached_bytes:{bytes}\ncache_hits:{hits}\n"))
        }
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn show(State(questions): State<Questions>) -> Answer {
    let (question, answer) = oneshot::channel();
    let ends = || (StatusCode::SERVICE_UNAVAILABLE, "the sidecar ends\n".to_owned());
    match questions.send(question).await {
        Ok(()) => answer.await.unwrap_or_else(|_| ends()),
        Err(_) => ends(),
    }
}
