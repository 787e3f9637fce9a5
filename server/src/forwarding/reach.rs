//! The search for the node that serves a database.

use std::time::Duration;

use dormouse_shard::error::Error;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::HOPS_MAX;
use super::introduction::Introduction;
use super::link::{Dialled, FirstRequest, NodeLink, dial};
use crate::fleet::{Directions, Peering, ServedAt};

/// Time for which a node is looked for. A node that dies is replaced within seconds; a client that is told so tries again.
const SEARCH_MAX: Duration = Duration::from_secs(3);
/// Pause before the second attempt. It doubles with each.
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// Where a client of a database is served.
#[derive(Debug)]
pub enum Reached {
    Here,
    There(NodeLink),
    /// The other node has refused the login with this error.
    Refused(Vec<u8>),
}

/// Finds the node that serves `database`, and connects a client to it if that is another one.
///
/// # Errors
/// When no node is known to serve it, or that node cannot be reached.
pub async fn reach(
    fleet: &dyn Directions,
    database: &str,
    introduction: &Introduction,
    first: FirstRequest<'_>,
) -> Result<Reached, Error> {
    let mut written = Vec::new();
    introduction.write(fleet.secret(), &mut written);
    if introduction.hops > 1 {
        doubt(fleet, database).await;
    }
    search(fleet, database, async |place| {
        let node = match place {
            ServedAt::Here => return Ok(Reached::Here),
            ServedAt::There(_) if introduction.hops > HOPS_MAX => {
                return Err(format!("the nodes of the fleet do not agree which of them serves database `{database}`"));
            }
            ServedAt::There(node) => node,
        };
        match dial(&node, &written, first).await {
            Ok(Dialled::Open(link)) => Ok(Reached::There(link)),
            Ok(Dialled::Refused(error)) => Ok(Reached::Refused(error)),
            Err(problem) => Err(unreachable(database, &node, problem)),
        }
    })
    .await
}

/// Forgets that another node serves `database`, because a node has sent a client here.
///
/// Of two memories that contradict each other, one is older. A database that has moved is remembered by its new owner where it was
/// before; without a doubt, both owners would send its clients to each other until the search ends.
pub async fn doubt(fleet: &dyn Directions, database: &str) {
    // A place that cannot be found is not remembered.
    if matches!(timeout(SEARCH_MAX, fleet.locate(database)).await, Ok(Ok(ServedAt::There(_)))) {
        fleet.forget(database);
    }
}

/// The text about a node that did not take a client.
pub fn unreachable(database: &str, node: &Peering, problem: impl std::fmt::Display) -> String {
    format!("database `{database}` is served by node `{}` at {}, which {problem}", node.name, node.address)
}

/// Asks where a database is, and tries what `attempt` does there. After a failure both are repeated until the time is over.
///
/// # Errors
/// The last failure.
pub async fn search<T>(
    fleet: &dyn Directions,
    database: &str,
    attempt: impl AsyncFnMut(ServedAt) -> Result<T, String>,
) -> Result<T, Error> {
    search_within(SEARCH_MAX, fleet, database, attempt).await
}

async fn search_within<T>(
    time: Duration,
    fleet: &dyn Directions,
    database: &str,
    mut attempt: impl AsyncFnMut(ServedAt) -> Result<T, String>,
) -> Result<T, Error> {
    let (until, mut pause) = (Instant::now() + time, PAUSE_FIRST);
    loop {
        let problem = match timeout_at(until, fleet.locate(database)).await {
            Ok(Ok(place)) => match attempt(place).await {
                Ok(done) => return Ok(done),
                Err(problem) => problem,
            },
            Ok(Err(error)) => format!("cannot tell which node serves database `{database}`: {}", error.detail()),
            Err(_) => format!("cannot tell which node serves database `{database}`: the coordinator does not answer"),
        };
        fleet.forget(database);
        if Instant::now() + pause >= until {
            tracing::warn!(database, problem, "failed to forward a client");
            return Err(Error::Text(format!("TRYAGAIN {problem}: try again").into()));
        }
        sleep(pause).await;
        pause *= 2;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::fleet::ToldDirections;

    fn node() -> Arc<Peering> {
        Arc::new(Peering { name: "b".into(), address: "192.0.2.1:6379".into(), http: None })
    }

    #[tokio::test]
    async fn a_database_that_comes_home_is_found() {
        let asked = Arc::new(AtomicUsize::new(0));
        let its = Arc::clone(&asked);
        let fleet = ToldDirections::new("s", move |_| match its.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Error::text("ERR not now")),
            1 => Ok(ServedAt::There(node())),
            _ => Ok(ServedAt::Here),
        });
        let found = search(&*fleet, "shop", async |place| match place {
            ServedAt::Here => Ok("here"),
            ServedAt::There(_) => Err("away".to_owned()),
        })
        .await;
        assert_eq!((found.unwrap(), asked.load(Ordering::SeqCst)), ("here", 3));
    }

    #[tokio::test]
    async fn a_node_that_clients_are_sent_to_looks_again() {
        let asked = Arc::new(AtomicUsize::new(0));
        let its = Arc::clone(&asked);
        // It remembers the former owner, until it is told to forget.
        let fleet = ToldDirections::new("s", move |_| match its.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(ServedAt::There(node())),
            _ => Ok(ServedAt::Here),
        });
        doubt(&*fleet, "shop").await;
        let found = search(&*fleet, "shop", async |place| match place {
            ServedAt::Here => Ok("here"),
            ServedAt::There(_) => Err("away".to_owned()),
        })
        .await;
        assert_eq!((found.unwrap(), asked.load(Ordering::SeqCst)), ("here", 2));
    }

    #[tokio::test]
    async fn the_search_has_an_end() {
        let time = Duration::from_millis(200);
        let fleet = ToldDirections::new("s", |_| Ok(ServedAt::There(node())));
        let tried = AtomicUsize::new(0);
        let refused = search_within(time, &*fleet, "shop", async |_| {
            tried.fetch_add(1, Ordering::SeqCst);
            Err::<(), _>(unreachable("shop", &node(), "cannot be reached (refused)"))
        });
        let text = refused.await.unwrap_err().to_string();
        assert_eq!(
            text,
            "TRYAGAIN database `shop` is served by node `b` at 192.0.2.1:6379, which cannot be reached (refused): try again"
        );
        // At 0 and 50 ms at least; the third would come at 150 ms.
        assert!((1..=3).contains(&tried.load(Ordering::SeqCst)));
        let fleet = ToldDirections::new("s", |_| Err(Error::text("ERR etcd is away")));
        let text = search_within(time, &*fleet, "shop", async |_| Ok(())).await.unwrap_err().to_string();
        assert!(text.starts_with("TRYAGAIN cannot tell which node serves database `shop`"), "{text}");
    }
}
