//! The secret of a fleet.

use std::sync::Arc;

use crate::etcd::{Etcd, EtcdFailure, Put};
use crate::keys::Keys;
use crate::view::read_secret;

/// Returns the secret of the fleet. If there is none, `proposed` becomes it.
pub(crate) async fn establish(etcd: &Etcd, keys: &Keys, proposed: Arc<str>) -> Result<Arc<str>, EtcdFailure> {
    match etcd.put_over(0, &keys.secret(), proposed.as_bytes(), None).await? {
        Put::Done(_) => Ok(proposed),
        Put::Refused(existing) => existing
            .and_then(|kv| read_secret(&kv.value))
            .ok_or_else(|| EtcdFailure::Refused(format!("the secret of the fleet, {}, cannot be read", keys.secret()))),
    }
}

/// 32 random bytes in hexadecimal.
///
/// # Errors
/// The system has no random numbers.
pub(crate) fn random() -> Result<Arc<str>, EtcdFailure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| EtcdFailure::Refused(format!("no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
}
