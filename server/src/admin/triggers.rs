//! Triggers over the admin API.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::json;

use super::asked::Nothing;
use super::{Answer, Api, answer, body, ok, operations};
use crate::triggers::TriggerWish;

/// `GET /v1/databases/{name}/triggers`
pub(super) async fn list(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let found = api.run(async move |node| Ok(operations::open(&node, &name).await?.triggers.list()));
    ok(&json!({ "triggers": found.await? }))
}

/// `POST /v1/databases/{name}/triggers`
pub(super) async fn add(State(api): State<Api>, Path(name): Path<String>, request: Body) -> Answer {
    let wish: TriggerWish = body(request).await?;
    let made = api.run(async move |node| operations::add_trigger(&node, &name, wish).await).await?;
    Ok(answer(StatusCode::CREATED, &made))
}

/// `GET /v1/databases/{name}/triggers/{trigger}`
pub(super) async fn show(State(api): State<Api>, Path((name, trigger)): Path<(String, String)>) -> Answer {
    let found = api.run(async move |node| operations::open(&node, &name).await?.triggers.show(&trigger));
    ok(&found.await?)
}

/// `DELETE /v1/databases/{name}/triggers/{trigger}`
pub(super) async fn remove(State(api): State<Api>, Path((name, trigger)): Path<(String, String)>) -> Answer {
    let of = trigger.clone();
    api.run(async move |node| operations::remove_trigger(&node, &name, &of).await).await?;
    ok(&json!({ "name": trigger, "removed": true }))
}

/// `POST /v1/databases/{name}/triggers/{trigger}/pause`
pub(super) async fn pause(State(api): State<Api>, Path(of): Path<(String, String)>, request: Body) -> Answer {
    set_paused(api, of, request, true).await
}

/// `POST /v1/databases/{name}/triggers/{trigger}/resume`
pub(super) async fn resume(State(api): State<Api>, Path(of): Path<(String, String)>, request: Body) -> Answer {
    set_paused(api, of, request, false).await
}

async fn set_paused(api: Api, (name, trigger): (String, String), request: Body, is_paused: bool) -> Answer {
    let Nothing {} = body(request).await?;
    ok(&api.run(async move |node| operations::pause_trigger(&node, &name, &trigger, is_paused).await).await?)
}
