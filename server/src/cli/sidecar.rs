//! `dormouse sidecar`: the options of [`crate::sidecar`].

use std::net::SocketAddr;
use std::path::PathBuf;

use dormouse_importer::target::ServerUrl;

use super::Failure;
use super::tls::TlsArguments;
use crate::options::{Interval, Size};
use crate::sidecar::{self, SidecarSettings, local};

#[derive(clap::Args, Debug)]
pub struct Sidecar {
    /// The server that has the data: redis://:TOKEN@HOST:PORT, or rediss:// for TLS [default: DORMOUSE_UPSTREAM]
    #[arg(long, value_name = "URL")]
    upstream: Option<ServerUrl>,

    /// Listen for clients on this loopback address; `none` listens on the socket only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6379", value_parser = listen)]
    listen: Listen,

    /// Listen on this Unix socket too
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Answer GET /healthz on this port; 0 answers nowhere
    #[arg(long, value_name = "PORT", default_value_t = 8380)]
    health_port: u16,

    /// Keep replies to reads in so much memory; 0 keeps none
    #[arg(long, value_name = "SIZE", default_value = "16mb")]
    cache: Size,

    /// Most clients at once
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_clients: usize,

    /// Give requests an error when the upstream server has not answered, or could not be reached, for so long
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    upstream_timeout: Interval,

    /// On SIGTERM, wait for so long until the clients have their replies (as a Lambda extension, 1.5 s at most)
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    drain_timeout: Interval,

    /// As a Lambda extension, the name of the file in /opt/extensions that starts the sidecar
    #[arg(long, value_name = "NAME", default_value = "dormouse")]
    lambda_extension: String,

    #[command(flatten)]
    tls: TlsArguments,
}

/// An address, if any.
#[derive(Clone, Copy, Debug)]
struct Listen(Option<SocketAddr>);

/// Clients show no password, so only those on this machine may connect.
fn listen(text: &str) -> Result<Listen, String> {
    if text == "none" {
        return Ok(Listen(None));
    }
    let address = text.parse::<SocketAddr>().map_err(|_| "expected an address such as 127.0.0.1:6379".to_owned())?;
    match address.ip().is_loopback() {
        true => Ok(Listen(Some(address))),
        false => Err("clients need no password here, so it has to be a loopback address".to_owned()),
    }
}

impl Sidecar {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.listen.0.is_none() && self.socket.is_none() {
            return Err(Failure::from("nothing to listen on: name a --socket".to_owned()));
        }
        // Other users of the machine can read arguments, and the URL holds a token.
        let by_environment = || std::env::var("DORMOUSE_UPSTREAM").ok().filter(|url| !url.is_empty());
        let upstream = match (self.upstream, by_environment()) {
            (Some(upstream), _) => upstream,
            (None, Some(url)) => url.parse::<ServerUrl>().map_err(|problem| format!("DORMOUSE_UPSTREAM: {problem}"))?,
            (None, None) => {
                let text = "which server? Name it in DORMOUSE_UPSTREAM or with --upstream: redis://:TOKEN@HOST:PORT";
                return Err(Failure::from(text.to_owned()));
            }
        };
        let time = |interval: Interval| std::time::Duration::from_millis(interval.milliseconds());
        let api = std::env::var("AWS_LAMBDA_RUNTIME_API").ok().filter(|api| !api.is_empty());
        sidecar::run(SidecarSettings {
            tls: self.tls.choices(upstream.is_tls)?,
            upstream,
            listen: self.listen.0,
            socket: self.socket,
            health: (self.health_port > 0).then(|| local(self.health_port)),
            cache_bytes: usize::try_from(self.cache.0).unwrap_or(usize::MAX),
            clients_max: self.max_clients,
            patience: time(self.upstream_timeout),
            drain: time(self.drain_timeout),
            lambda: api.map(|api| (api, self.lambda_extension)),
        })?;
        Ok(())
    }
}
