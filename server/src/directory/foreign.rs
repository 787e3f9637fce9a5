//! The names whose records other nodes have changed, for those who act upon it.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Each name is kept once until it is taken, so they are no more than databases had names.
#[derive(Debug, Default)]
pub(super) struct ForeignNames {
    names: Mutex<BTreeSet<Box<str>>>,
    told: Notify,
}

impl ForeignNames {
    pub fn add(&self, names: BTreeSet<Box<str>>) {
        self.names.lock().extend(names);
        self.told.notify_one();
    }

    /// Waits until there are some, and takes them.
    pub async fn take(&self) -> BTreeSet<Box<str>> {
        loop {
            let names = std::mem::take(&mut *self.names.lock());
            if !names.is_empty() {
                return names;
            }
            self.told.notified().await;
        }
    }
}
