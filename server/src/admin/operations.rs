//! Operations of an operator on databases and tokens while the node runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use dormouse_shard::checkpoint::SleepOutcome;
use dormouse_shard::error::Error;
use dormouse_storage::directory::record::{TOKEN_PREFIX_BYTES_MAX, TOKEN_USER_BYTES_MAX, TOKENS_MAX};
use dormouse_storage::directory::{DatabaseRecord, TokenRecord, TokenScope};
use serde_json::Value;

use crate::acl::password::generate;
use crate::config::quota;
use crate::databases::{Removal, Tenant, still_deleted};
use crate::directory::ChangeRefusal;
use crate::directory::secret::{new_secret, token_text};
use crate::keeper;
use crate::node::Node;
use crate::options::{DEFAULT_DATABASE, PastMoment, branch_name, check_database_name, owner_and_branch};
use crate::triggers::TriggerWish;

/// The settings that are changed: `None` removes one.
pub type SettingChanges = BTreeMap<Box<str>, Option<Box<str>>>;

/// A token that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    pub scope: TokenScope,
    pub prefix: Box<[u8]>,
    pub ttl_ms: Option<u64>,
}

impl NewToken {
    pub fn plain() -> Self {
        Self { scope: TokenScope::ReadWrite, prefix: Box::default(), ttl_ms: None }
    }

    fn check(&self) -> Result<(), ChangeRefusal> {
        if self.prefix.len() > TOKEN_PREFIX_BYTES_MAX {
            let text = format!("invalid prefix: expected at most {TOKEN_PREFIX_BYTES_MAX} bytes");
            return Err(ChangeRefusal::Invalid(text));
        }
        match &self.scope {
            TokenScope::User(user) if user.is_empty() || user.len() > TOKEN_USER_BYTES_MAX => {
                let text = format!("invalid user: expected a name of 1 to {TOKEN_USER_BYTES_MAX} bytes");
                Err(ChangeRefusal::Invalid(text))
            }
            _ => Ok(()),
        }
    }

    fn record(&self, id: u32, hash: [u8; 32], now_ms: u64) -> Result<TokenRecord, ChangeRefusal> {
        let expires_ms = self.ttl_ms.map(|ttl_ms| end_of(now_ms, ttl_ms)).transpose()?;
        Ok(TokenRecord {
            id,
            hash,
            created_ms: now_ms,
            expires_ms,
            scope: self.scope.clone(),
            prefix: self.prefix.clone(),
        })
    }
}

/// A database that is to be made.
#[derive(Debug, Clone)]
pub struct NewDatabase {
    /// `None`: the server chooses one.
    pub name: Option<String>,
    pub ttl_ms: Option<u64>,
    pub settings: SettingChanges,
    pub token: NewToken,
    /// Whether a stranger makes it.
    pub is_unclaimed: bool,
}

/// A token whose secret is shown this once.
#[derive(Debug, Clone)]
pub struct MadeToken {
    pub text: String,
    pub record: TokenRecord,
}

/// Makes a database with one token. Nothing runs for it until its first use.
///
/// # Errors
/// When the name is taken or malformed, or the store refuses.
pub async fn create(node: &Node, new: NewDatabase) -> Result<(DatabaseRecord, MadeToken), ChangeRefusal> {
    let name = match new.name {
        Some(name) => name,
        None => format!("db-{}", generate(16)),
    };
    check_database_name(&name).map_err(ChangeRefusal::Invalid)?;
    new.token.check()?;
    let now_ms = (node.engine.clock)();
    let mut record = DatabaseRecord::new(&name, now_ms);
    record.expires_ms = new.ttl_ms.map(|ttl_ms| end_of(now_ms, ttl_ms)).transpose()?;
    record.is_unclaimed = new.is_unclaimed;
    change_settings(node, &mut record, &new.settings)?;
    let (secret, hash) = new_secret();
    let token = add_token(&mut record, &new.token, hash, now_ms)?;
    let _reserved = node.tenants.reserve(&name).map_err(of_engine)?;
    if node.tenants.directory.deleted(&name).is_some() {
        return Err(ChangeRefusal::Conflict(still_deleted(&name)));
    }
    if !node.tenants.is_free(&name).await.map_err(of_engine)? {
        return Err(exists(&name));
    }
    let made = record.clone();
    let put = move |before: Option<DatabaseRecord>| match before {
        Some(before) => Err(exists(&before.name)),
        None => Ok((Some(record.clone()), ())),
    };
    node.tenants.directory.change(&name, node.tenants.founding(), put).await?;
    Ok((made, MadeToken { text: token_text(&name, &secret), record: token }))
}

/// Returns the record of a database; that of one which the directory does not have is as of now.
///
/// # Errors
/// When there is none.
pub fn record(node: &Node, name: &str) -> Result<DatabaseRecord, ChangeRefusal> {
    let known = node.tenants.directory.find(name);
    known.or_else(|| node.tenants.find(name).map(|tenant| node.tenants.record_of(&tenant))).ok_or_else(|| unknown(name))
}

/// Brings a database into memory.
///
/// # Errors
/// When there is none.
pub async fn open(node: &Node, name: &str) -> Result<Arc<Tenant>, ChangeRefusal> {
    if let Some(tenant) = node.tenants.opened(name).await {
        return Ok(tenant);
    }
    // In a fleet, another node may have made it a moment ago.
    node.tenants.directory.refresh().await;
    node.tenants.opened(name).await.ok_or_else(|| unknown(name))
}

/// Changes the operator's settings and the time to live of a database. `ttl_ms`: `Some(None)` ends the time to live.
///
/// # Errors
/// When a setting makes no sense, or the store refuses.
pub async fn set(
    node: &Arc<Node>,
    name: &str,
    settings: SettingChanges,
    ttl_ms: Option<Option<u64>>,
    claims: bool,
) -> Result<DatabaseRecord, ChangeRefusal> {
    let now_ms = (node.engine.clock)();
    let expires_ms = match ttl_ms {
        Some(Some(ttl_ms)) => Some(Some(end_of(now_ms, ttl_ms)?)),
        Some(None) => Some(None),
        None => None,
    };
    if ttl_ms.is_some() && (owner_and_branch(name).is_some() || name == DEFAULT_DATABASE) {
        let text = "the time to live of a branch is given when it is made, and `default` has none";
        return Err(ChangeRefusal::Conflict(text.to_owned()));
    }
    let of = Arc::clone(node);
    let changed = change(node, name, move |record| {
        change_settings(&of, record, &settings)?;
        if let Some(expires_ms) = expires_ms {
            record.expires_ms = expires_ms;
        }
        record.is_unclaimed &= !claims;
        Ok(record.clone())
    });
    let record = changed.await?;
    node.tenants.give_settings(&record.name).await.map_err(of_engine)?;
    Ok(record)
}

/// Deletes a database, and disconnects its clients. Returns until when it can be brought back, in unix milliseconds. A
/// deleted database is deleted for good.
///
/// # Errors
/// When it must stay, or the store refuses.
pub async fn delete(node: &Node, name: &str, removal: Removal) -> Result<Option<u64>, ChangeRefusal> {
    if removal == Removal::ForGood && node.tenants.directory.deleted(name).is_some() {
        return node.tenants.purge(name).await.map(|()| None).map_err(of_engine);
    }
    let tenant = open(node, name).await?;
    keeper::delete(node, &tenant, removal).await.map_err(of_engine)
}

/// Brings a deleted database back.
///
/// # Errors
/// When there is none, or the store refuses.
pub async fn undelete(node: &Node, name: &str) -> Result<(), ChangeRefusal> {
    node.tenants.undelete(name).await
}

/// A database for a report on what it has used, also a deleted one that can be brought back.
///
/// # Errors
/// When there is none.
pub async fn metered(node: &Node, name: &str) -> Result<Arc<Tenant>, ChangeRefusal> {
    match node.tenants.directory.deleted(name).is_some() {
        true => node.tenants.deleted(name).await.ok_or_else(|| unknown(name)),
        false => open(node, name).await,
    }
}

/// Makes a branch of a database as it is now, or as it was at a moment. Returns its full name.
///
/// # Errors
/// When the name is taken or malformed, the history lacks the moment, or the store refuses.
pub async fn branch(
    node: &Node,
    source: &str,
    name: &str,
    ttl_ms: Option<u64>,
    at: Option<PastMoment>,
) -> Result<String, ChangeRefusal> {
    let source = open(node, source).await?;
    let full = branch_name(source.owner(), name).map_err(ChangeRefusal::Invalid)?;
    let now_ms = (node.engine.clock)();
    let expires_ms = ttl_ms.map(|ttl_ms| end_of(now_ms, ttl_ms)).transpose()?;
    let at_ms = at.map(|at| at.at_ms(now_ms));
    let made = node.tenants.branch(&source, &full, expires_ms, at_ms).await;
    let made = match made {
        Ok(()) | Err(Error::Store(_) | Error::Damaged(_)) => keeper::remember(node, made),
        Err(_) => made,
    };
    made.map(|()| full).map_err(of_engine)
}

/// Puts a database to sleep.
///
/// # Errors
/// When it is in use, or the store refuses.
pub async fn sleep(node: &Node, name: &str) -> Result<(), ChangeRefusal> {
    let tenant = open(node, name).await?;
    match tenant.database.sleep().await.map_err(of_engine)? {
        SleepOutcome::InUse => {
            let text = "clients go on writing to the database: what they have written is saved, but it stays awake";
            Err(ChangeRefusal::Conflict(text.to_owned()))
        }
        SleepOutcome::FellAsleep | SleepOutcome::WasAsleep => Ok(()),
    }
}

/// Wakes a database.
///
/// # Errors
/// When its data cannot be read.
pub async fn wake(node: &Node, name: &str) -> Result<(), ChangeRefusal> {
    let tenant = open(node, name).await?;
    tenant.worked((node.engine.clock)());
    tenant.database.awake().await.map(drop).map_err(of_engine)
}

/// Adds a trigger to a database. Returns it as JSON, with its secret.
///
/// # Errors
/// When it makes no sense, the database has too many, or the store refuses.
pub async fn add_trigger(node: &Node, name: &str, wish: TriggerWish) -> Result<Value, ChangeRefusal> {
    let tenant = open(node, name).await?;
    node.tenants.add_trigger(&tenant, wish).await
}

/// Removes a trigger, and drops what it has not delivered.
///
/// # Errors
/// When there is none of that name, or the store refuses.
pub async fn remove_trigger(node: &Node, name: &str, trigger: &str) -> Result<(), ChangeRefusal> {
    let tenant = open(node, name).await?;
    tenant.triggers.remove(trigger).await
}

/// Pauses a trigger, or resumes it.
///
/// # Errors
/// When there is none of that name, or the store refuses.
pub async fn pause_trigger(node: &Node, name: &str, trigger: &str, is_paused: bool) -> Result<Value, ChangeRefusal> {
    let tenant = open(node, name).await?;
    tenant.triggers.pause(trigger, is_paused).await
}

/// Adds a token to a database.
///
/// # Errors
/// When it has too many, or the store refuses.
pub async fn add(node: &Node, name: &str, new: NewToken) -> Result<MadeToken, ChangeRefusal> {
    new.check()?;
    let now_ms = (node.engine.clock)();
    let (secret, hash) = new_secret();
    let record = change(node, name, move |record| add_token(record, &new, hash, now_ms)).await?;
    Ok(MadeToken { text: token_text(name, &secret), record })
}

/// Replaces the secret of a token. The old one opens nothing any more, and its connections are closed.
///
/// # Errors
/// When there is no such token, or the store refuses.
pub async fn rotate(node: &Node, name: &str, id: u32) -> Result<MadeToken, ChangeRefusal> {
    let (secret, hash) = new_secret();
    let rotated = change(node, name, move |record| {
        let next = record.next_token;
        let old = remove_token(record, id)?;
        record.next_token = next.checked_add(1).ok_or_else(too_many)?;
        let new = TokenRecord { id: next, hash, ..old };
        record.tokens.push(new.clone());
        Ok(new)
    });
    let record = rotated.await?;
    disconnect(node, name, id);
    Ok(MadeToken { text: token_text(name, &secret), record })
}

/// Revokes a token, and closes its connections.
///
/// # Errors
/// When there is no such token, or the store refuses.
pub async fn revoke(node: &Node, name: &str, id: u32) -> Result<(), ChangeRefusal> {
    change(node, name, move |record| remove_token(record, id).map(drop)).await?;
    disconnect(node, name, id);
    Ok(())
}

/// Changes the record of a database that exists, and is not being deleted.
async fn change<T: Send + 'static>(
    node: &Node,
    name: &str,
    change: impl Fn(&mut DatabaseRecord) -> Result<T, ChangeRefusal> + Send + 'static,
) -> Result<T, ChangeRefusal> {
    // A database that a token of the command line names may have no record yet.
    let present = match record(node, name) {
        Ok(present) => present,
        // In a fleet, another node may have made it a moment ago.
        Err(_) => {
            node.tenants.directory.refresh().await;
            record(node, name)?
        }
    };
    let was_known = node.tenants.directory.known().has(name);
    let reserved = node.tenants.reserved();
    let decide = move |before: Option<DatabaseRecord>| {
        if reserved.has(&present.name) {
            let text = format!("database `{}` is just being made or deleted", present.name);
            return Err(ChangeRefusal::Conflict(text));
        }
        // One that was known has been deleted meanwhile.
        let before = before.or_else(|| Some(present.clone()).filter(|_| !was_known));
        let Some(mut record) = before.filter(|record| record.deleted.is_none()) else {
            return Err(ChangeRefusal::Unknown("the database was deleted".to_owned()));
        };
        let value = change(&mut record)?;
        Ok((Some(record), value))
    };
    node.tenants.directory.change(name, node.tenants.founding(), decide).await
}

/// Closes the connections of a token. One that is just entering finds out by itself.
fn disconnect(node: &Node, name: &str, id: u32) {
    let clients = node.clients.list();
    let by_token = |client: &&Arc<crate::clients::Client>| {
        client.told.lock().token.as_ref().is_some_and(|token| &*token.database == name && token.id == id)
    };
    clients.iter().filter(by_token).for_each(|client| client.kill());
}

fn add_token(
    record: &mut DatabaseRecord,
    new: &NewToken,
    hash: [u8; 32],
    now_ms: u64,
) -> Result<TokenRecord, ChangeRefusal> {
    // Expired ones make room.
    record.tokens.retain(|token| !token.is_expired(now_ms));
    if record.tokens.len() >= TOKENS_MAX {
        return Err(too_many());
    }
    let token = new.record(record.next_token, hash, now_ms)?;
    record.next_token = record.next_token.checked_add(1).ok_or_else(too_many)?;
    record.tokens.push(token.clone());
    Ok(token)
}

fn remove_token(record: &mut DatabaseRecord, id: u32) -> Result<TokenRecord, ChangeRefusal> {
    let at = record.tokens.iter().position(|token| token.id == id);
    let at = at.ok_or_else(|| ChangeRefusal::Unknown(format!("database `{}` has no token {id}", record.name)))?;
    Ok(record.tokens.remove(at))
}

fn change_settings(node: &Node, record: &mut DatabaseRecord, changes: &SettingChanges) -> Result<(), ChangeRefusal> {
    for (name, value) in changes {
        match value {
            Some(value) => record.settings.insert(name.clone(), value.clone()),
            None if quota::NAMES.contains(&&**name) => record.settings.remove(name),
            None => return Err(ChangeRefusal::Invalid(quota::unknown(name))),
        };
    }
    node.tenants.check_settings(&record.settings).map_err(ChangeRefusal::Invalid)
}

/// Unix milliseconds after a time to live.
fn end_of(now_ms: u64, ttl_ms: u64) -> Result<u64, ChangeRefusal> {
    let end = now_ms.checked_add(ttl_ms).filter(|end| ttl_ms > 0 && i64::try_from(*end).is_ok());
    end.ok_or_else(|| ChangeRefusal::Invalid("invalid time to live".to_owned()))
}

fn too_many() -> ChangeRefusal {
    ChangeRefusal::Conflict(format!("a database may have at most {TOKENS_MAX} tokens: revoke one first"))
}

fn exists(name: &str) -> ChangeRefusal {
    ChangeRefusal::Conflict(format!("database `{name}` exists already"))
}

/// The refusal for a name that no database has.
pub fn unknown(name: &str) -> ChangeRefusal {
    ChangeRefusal::Unknown(format!("there is no database `{}`", name.escape_default()))
}

/// The engine's refusal. Its first word is for Redis's clients.
pub fn of_engine(error: Error) -> ChangeRefusal {
    match error {
        Error::Store(_) | Error::Damaged(_) | Error::OutOfTotal => ChangeRefusal::Store(error.to_string()),
        Error::MomentInFuture => ChangeRefusal::Invalid("the time is in the future".to_owned()),
        error => {
            let text = error.to_string();
            ChangeRefusal::Conflict(text.strip_prefix("ERR ").unwrap_or(&text).to_owned())
        }
    }
}
