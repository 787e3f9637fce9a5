//! Events that could not be delivered, in a stream of the database.

use std::sync::Arc;

use dormouse_protocol::{OwnedRequest, Version};
use dormouse_shard::commands::{Context, find};
use dormouse_shard::database::Database;
use dormouse_shard::error::Error;
use dormouse_shard::execution::{self, Ended, Plan, PlannedCommand, Step, Turn};

use super::event::CloudEvent;

/// About so many events are kept in a stream.
const LETTERS_MAX: &str = "10000";

/// Appends events to the stream `key` in index 0, all of them or none.
///
/// # Errors
/// When the database does not take them: the key has another type, or there is no memory.
pub async fn put(
    database: &Arc<Database>,
    key: &str,
    events: &[CloudEvent],
    reason: &str,
    attempts: u32,
) -> Result<(), Error> {
    let mut plan = Plan::new((database.engine.clock)(), 0);
    let attempts = attempts.to_string();
    for event in events {
        let body = serde_json::to_string(event).unwrap_or_default();
        let words =
            ["XADD", key, "MAXLEN", "~", LETTERS_MAX, "*", "event", &body, "reason", reason, "attempts", &attempts];
        let request = OwnedRequest::from_args(&words.map(str::as_bytes));
        let (row, run) = find(request.as_request()).ok_or(Error::Syntax)?;
        let context = Context { select: 0, version: Version::Resp2, no_touch: true, tracker: Default::default() };
        plan.steps.push(Step::Command(PlannedCommand { row, run, request, context }));
    }
    let outcome = execution::run(database, &Arc::new(plan), &Arc::new(Turn::endless(None))).await?;
    let replies = &outcome.replies.buffer[outcome.start..];
    match outcome.ended {
        Ended::Refused(error) => Err(error),
        Ended::Done | Ended::Changed | Ended::Repeated if replies.first() == Some(&b'-') => {
            let line = replies[1..].split(|byte| *byte == b'\r').next().unwrap_or_default();
            Err(Error::Text(String::from_utf8_lossy(line).into_owned().into()))
        }
        Ended::Done | Ended::Changed | Ended::Repeated => Ok(()),
    }
}
