//! News of the directory, from each node to the others by way of the coordinator.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Fleet;
use crate::directory::DatabaseDirectory;

/// The topic of the coordinator under which the number of the last step is told.
const TOPIC: &str = "directory";
/// Interval between attempts to tell.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Tells other nodes of this node's steps, and hears of theirs. It never ends.
pub async fn tell_of_steps(directory: Arc<DatabaseDirectory>, fleet: Arc<Fleet>) {
    let (mut own, mut heard) = (directory.own_steps(), fleet.membership().heard(TOPIC));
    let mut members = fleet.membership().subscribe();
    loop {
        let mut is_told = true;
        let number = *heard.borrow_and_update();
        directory.hear(number);
        let told = *own.borrow_and_update();
        if told > number
            && let Err(error) = fleet.membership().announce(TOPIC, told).await
        {
            is_told = false;
            tracing::warn!(%error, "failed to tell the other nodes of a change of the directory");
        }
        tokio::select! {
            changed = own.changed() => if changed.is_err() { return },
            changed = heard.changed() => if changed.is_err() { return },
            // A node that has died may not have told of its last step.
            changed = members.changed() => {
                if changed.is_err() {
                    return;
                }
                directory.refresh().await;
            }
            () = sleep(RETRY_EVERY), if !is_told => {}
        }
    }
}
