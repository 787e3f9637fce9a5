//! The task that keeps a [`View`] right.
//!
//! 1. Read all keys, in a revision that is not of the past.
//! 2. Watch from the next revision on, and apply each message.
//! 3. If the watch ends for any reason, pause and begin again. The last view is kept meanwhile.
//!
//! A connection always begins with a read. So it does not matter what etcd has compacted since, nor whether it is a new etcd
//! with empty disks, whose revisions mean nothing to an old watch.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::etcd::{Etcd, EtcdFailure, Watch};
use crate::pause::Pauses;
use crate::view::View;

/// A watch that is quiet for so long is opened again, in case a proxy has lost it. Probes of the connection notice a lost host
/// much sooner.
const QUIET_MAX: Duration = Duration::from_secs(300);

/// Reads all keys below `root` into a view. Returns the revision.
pub(crate) async fn read(etcd: &Etcd, root: &str, view: &mut View) -> Result<i64, EtcdFailure> {
    let (keys, revision) = etcd.read(root).await?;
    view.replace(&keys, revision);
    Ok(revision)
}

/// Follows a view that has just been read in `revision`, and never ends.
pub(crate) async fn follow(etcd: Arc<Etcd>, root: String, mut view: View, revision: i64) {
    let mut known = Some(revision);
    let mut pauses = Pauses::default();
    let mut is_lost = false;
    loop {
        let failure = match follow_once(&etcd, &root, &mut view, known.take(), &mut pauses, &mut is_lost).await {
            Ok(()) => continue,
            Err(failure) => failure,
        };
        if !std::mem::replace(&mut is_lost, true) {
            warn!("lost the watch of the fleet's members, will connect again: {failure}");
        }
        // A watch does not say that it was canceled because of an old token.
        etcd.log_out();
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Returns without an error when the watch has been quiet for long.
async fn follow_once(
    etcd: &Etcd,
    root: &str,
    view: &mut View,
    known: Option<i64>,
    pauses: &mut Pauses,
    is_lost: &mut bool,
) -> Result<(), EtcdFailure> {
    let revision = match known {
        Some(revision) => revision,
        None => read(etcd, root, view).await?,
    };
    let mut watch: Watch = etcd.watch(root, revision.saturating_add(1)).await?;
    loop {
        let Ok(changes) = timeout(QUIET_MAX, watch.next()).await else { return Ok(()) };
        view.apply(&changes?);
        pauses.reset();
        if std::mem::take(is_lost) {
            info!("follows the fleet's members again");
        }
    }
}
