//! `DORMOUSE TRIGGER`: the triggers of a database, for its own clients.

use std::sync::Arc;

use dormouse_shard::commands::args::Rest;
use dormouse_shard::error::{Error, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::commands::answer;
use crate::directory::ChangeRefusal;
use crate::session::Session;
use crate::table::Answer;
use crate::triggers::TriggerWish;

/// The requested action.
enum TriggerRequest {
    Add(Box<TriggerWish>),
    List,
    Show(String),
    Remove(String),
    Pause(String, bool),
}

/// `DORMOUSE TRIGGER ADD json | LIST | SHOW name | REMOVE name | PAUSE name | RESUME name`
pub fn trigger(session: &mut Session, (verb, words): (&[u8], Rest<'_>)) -> Result<BoxFuture<'static, Answer>> {
    let request = TriggerRequest::read(verb, &words)?;
    let (node, tenant) = (Arc::clone(&session.node), Arc::clone(&session.tenant));
    Ok(async move {
        let background = node.engine.background.clone();
        // To its end, even if the client disconnects.
        let done = background.spawn(async move {
            match request {
                TriggerRequest::Add(wish) => node.tenants.add_trigger(&tenant, *wish).await,
                TriggerRequest::List => Ok(json!({ "triggers": tenant.triggers.list() })),
                TriggerRequest::Show(of) => tenant.triggers.show(&of),
                TriggerRequest::Remove(of) => {
                    let removed = tenant.triggers.remove(&of).await;
                    removed.map(|()| json!({ "name": of, "removed": true }))
                }
                TriggerRequest::Pause(of, is_paused) => tenant.triggers.pause(&of, is_paused).await,
            }
        });
        let done = done
            .await
            .unwrap_or_else(|_| Err(ChangeRefusal::Store("the operation did not come to its end".to_owned())));
        let done = done.map_err(|refusal| Error::Text(format!("ERR {refusal}").into()));
        answer(done, |shown: Value, reply| reply.bulk(shown.to_string().as_bytes()))
    }
    .boxed())
}

impl TriggerRequest {
    fn read(verb: &[u8], words: &Rest<'_>) -> Result<Self> {
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        if is("LIST") && words.is_empty() {
            return Ok(Self::List);
        }
        if words.len() != 1 {
            return Err(Error::Syntax);
        }
        let word = words.at(0);
        let name = || String::from_utf8_lossy(word).into_owned();
        if is("ADD") {
            let wish = serde_json::from_slice(word);
            let wish = wish.map_err(|error| Error::Text(format!("ERR malformed trigger: {error}").into()))?;
            Ok(Self::Add(wish))
        } else if is("SHOW") {
            Ok(Self::Show(name()))
        } else if is("REMOVE") {
            Ok(Self::Remove(name()))
        } else if is("PAUSE") || is("RESUME") {
            Ok(Self::Pause(name(), is("PAUSE")))
        } else {
            Err(Error::Syntax)
        }
    }
}
