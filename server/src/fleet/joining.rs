//! How a process becomes a member of a fleet.

use std::net::SocketAddr;
use std::time::Duration;

use dormouse_coordination::{FleetMember, Membership};
use dormouse_storage::store::Store;

use crate::clock::boot_ms;
use crate::options::{Interval, NodeName, Options};

/// The shortest lease: etcd grants none that is shorter.
const LEASE_MIN: Duration = Duration::from_secs(2);

/// The reason why a process is no member of a fleet, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinFailure {
    /// An option has a wrong value.
    Option(String),
    /// The coordinator cannot be reached, or refuses. A supervisor may start the process again.
    Coordinator(String),
}

impl From<String> for JoinFailure {
    fn from(problem: String) -> Self {
        Self::Option(problem)
    }
}

/// Joins the fleet that the options name, and returns the name of this node too; `None`: they name no fleet. `addresses`: where it listens for RESP and HTTP.
///
/// # Errors
/// When an option is wrong, or the coordinator cannot be reached or refuses.
pub async fn join(
    options: &Options,
    store: &Store,
    writer: u64,
    (resp, http): (&[SocketAddr], Option<SocketAddr>),
) -> Result<Option<(Membership, String)>, JoinFailure> {
    let options = &options.fleet;
    let Some(url) = &options.cluster else { return Ok(None) };
    if store.folder().is_some() || store.is_volatile() {
        return Err("--cluster needs a store that several nodes can reach: a bucket, such as s3://BUCKET"
            .to_owned()
            .into());
    }
    let lease = match options.lease {
        Interval::Every(lease) if lease >= LEASE_MIN => lease,
        _ => return Err("invalid value for --lease: expected 2s or more".to_owned().into()),
    };
    let name = match &options.node_name {
        Some(name) => name.0.clone(),
        None => host_name()?,
    };
    let advertise = match (&options.advertise, resp.first()) {
        (Some(advertise), _) => advertise.clone(),
        (None, Some(address)) if !address.ip().is_unspecified() => address.to_string(),
        (None, _) => {
            return Err("--cluster needs --advertise HOST:PORT: the address at which other nodes reach this one"
                .to_owned()
                .into());
        }
    };
    let host = advertise.rsplit_once(':').map_or(&*advertise, |(host, _)| host);
    let http = options.advertise_http.clone().or_else(|| http.map(|http| format!("{host}:{}", http.port())));
    let member = FleetMember {
        name: name.clone(),
        writer,
        advertise,
        http,
        zone: options.zone.clone(),
        is_draining: false,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let joined = Membership::join(url, member, lease, boot_ms).await;
    joined
        .map(|membership| Some((membership, name)))
        .map_err(|error| JoinFailure::Coordinator(format!("cannot join the fleet at {url}: {error}")))
}

fn host_name() -> Result<String, String> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    let parsed: Result<NodeName, _> = name.parse();
    parsed.map(|name| name.0).map_err(|problem| {
        format!("the name of the host, `{name}`, cannot be that of a node ({problem}): set --node-name")
    })
}
