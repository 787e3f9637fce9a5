//! The sidecar as an extension of AWS Lambda (Extensions API, version 2020-01-01).
//!
//! 1. It registers for `INVOKE` and `SHUTDOWN`.
//! 2. It asks for the next event, without a time limit. Lambda freezes the processes when the function and every extension have
//!    asked, so what is under way is brought to its end first, and nothing relies on a timer.
//! 3. After a freeze the sockets may be dead: with each `INVOKE` the connections are asked whether they live.
//! 4. `SHUTDOWN` leaves two seconds.

use std::rc::Rc;
use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::upstream::Upstream;

/// How long what is under way may hold up the next event.
const SETTLE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(1);
/// The type of the last event.
const LAST: &str = "SHUTDOWN";

/// An extension that is registered.
#[derive(Debug)]
pub struct Extension {
    client: Client,
    api: String,
    id: String,
}

impl Extension {
    /// Registers at `api`, a host and a port, as the file in `/opt/extensions` is called.
    ///
    /// # Errors
    /// When Lambda refuses, or is not there.
    pub async fn register(api: &str, name: &str) -> Result<Self, String> {
        let client = Client::builder().no_proxy().build().map_err(|error| error.to_string())?;
        let api = format!("http://{api}/2020-01-01/extension");
        let request = client.post(format!("{api}/register")).header("Lambda-Extension-Name", name);
        let request = request.header("content-type", "application/json");
        let request = request.body(json!({ "events": ["INVOKE", "SHUTDOWN"] }).to_string());
        let response = request.send().await.map_err(|error| format!("cannot register at {api}: {error}"))?;
        let response = checked(response, "register").await?;
        let id = response.headers().get("Lambda-Extension-Identifier").and_then(|id| id.to_str().ok());
        let id = id.ok_or("Lambda has given the extension no identifier")?.to_owned();
        // A connection is used again once its answer was read.
        let _ = response.bytes().await;
        Ok(Self { client, api, id })
    }

    /// Follows the events until `SHUTDOWN`.
    ///
    /// # Errors
    /// When Lambda refuses, or is gone.
    pub async fn follow(&self, upstream: &Rc<Upstream>) -> Result<(), String> {
        loop {
            let settled = async {
                while !upstream.is_settled() {
                    sleep(LOOK).await;
                }
            };
            // What takes longer goes on after the next thaw.
            let _ = timeout(SETTLE, settled).await;
            let request =
                self.client.get(format!("{}/event/next", self.api)).header("Lambda-Extension-Identifier", &self.id);
            let response = request.send().await.map_err(|error| format!("cannot ask for the next event: {error}"))?;
            let body = checked(response, "event/next").await?.bytes().await.map_err(|error| error.to_string())?;
            let event: Value =
                serde_json::from_slice(&body).map_err(|error| format!("Lambda sends no event: {error}"))?;
            match event["eventType"].as_str() {
                Some(LAST) => return Ok(()),
                _ => upstream.doubt(),
            }
        }
    }

    /// Says why the sidecar cannot start.
    pub async fn report(&self, problem: &str) {
        let request = self.client.post(format!("{}/init/error", self.api));
        let request = request.header("Lambda-Extension-Identifier", &self.id);
        let request = request.header("Lambda-Extension-Function-Error-Type", "Extension.Upstream");
        let body = json!({ "errorMessage": problem, "errorType": "Extension.Upstream", "stackTrace": [] });
        // Lambda ends the process anyway.
        let _ = request.body(body.to_string()).send().await;
    }
}

async fn checked(response: Response, what: &str) -> Result<Response, String> {
    match response.status() {
        StatusCode::OK => Ok(response),
        status => Err(format!("Lambda refuses {what}: {status}")),
    }
}
