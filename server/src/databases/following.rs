//! Changes that other nodes have made to records, for the databases and clients that are here.
//!
//! A caller that changes a record here acts upon it after it is durable. For a record that another node has changed, this does
//! the same: a connection whose token is gone is closed, a deleted database leaves memory, one that was brought back returns,
//! and settings are given to databases in memory. It looks at the records as they are by then, so several changes of one
//! record need one look, and a look too many does no harm.

use std::collections::BTreeSet;

use super::Tenants;
use crate::clients::Clients;
use crate::options::DEFAULT_DATABASE;

impl Tenants {
    /// Follows the changes of other nodes. It never ends.
    pub async fn follow_foreign(&self, clients: &Clients) {
        loop {
            let names = self.directory.foreign().await;
            self.close_revoked(&names, clients);
            for name in names {
                if self.directory.known().has(&name) {
                    self.bring_back(&name).await;
                    if let Err(error) = self.give_settings(&name).await {
                        tracing::warn!(database = &*name, %error, "failed to give a database its settings");
                    }
                } else {
                    self.take_deleted(&name, clients).await;
                }
            }
        }
    }

    /// Closes the connections that have entered with a token of these databases that is there no more.
    fn close_revoked(&self, names: &BTreeSet<Box<str>>, clients: &Clients) {
        let is_revoked = |client: &crate::clients::Client| {
            let token = client.told.lock().token.clone();
            token.is_some_and(|token| names.contains(&token.database) && !self.is_granted(&token))
        };
        clients.list().iter().filter(|client| is_revoked(client)).for_each(|client| client.kill());
    }

    /// Puts a database that was hidden back into the map, if it is in memory.
    async fn bring_back(&self, name: &str) {
        let turn = self.turns.of(name);
        let _held = turn.come().await;
        let hidden = self.hidden.write().remove(name);
        if let Some(tenant) = hidden {
            // They are among those of the departed already.
            tenant.meters.reset_statistics((tenant.database.engine.clock)());
            self.put(tenant);
        }
    }

    /// Takes a database out of the map that another node has deleted, and disconnects its clients. If it can be brought back
    /// and has something that the store lacks, it is hidden, as if it had been deleted here.
    async fn take_deleted(&self, name: &str, clients: &Clients) {
        // There always is a `default`, and a database for each token of the command line.
        if name == DEFAULT_DATABASE || self.tokens.iter().any(|token| token.name() == name) {
            return;
        }
        // A deletion that is under way here does this itself.
        let Ok(_reserved) = self.reserve(name) else { return };
        let turn = self.turns.of(name);
        let _held = turn.come().await;
        let (is_there, is_hidden) = {
            let known = self.directory.known();
            (known.has(name), known.deleted(name).is_some())
        };
        if is_there {
            return;
        }
        if !is_hidden {
            self.hidden.write().remove(name);
        }
        let Some(tenant) = self.of_name(name) else { return };
        if is_hidden && (tenant.database.is_awake() || tenant.database.has_recovered()) {
            self.hidden.write().insert(name.into(), tenant);
        }
        self.take(name, |_| true);
        clients.of_database(name).iter().for_each(|client| client.kill());
    }
}

#[cfg(test)]
mod tests;
