//! TLS: the certificate that clients see, and their connections.
//!
//! 1. [`TlsFiles`] makes configurations of the files that the options name.
//! 2. [`Tls`] holds the current ones. It looks at the files every second ([`Tls::follow`]). When they have changed, and
//!    have then stayed as they are for a second, new connections get a configuration made of the new files. If these
//!    cannot be used, the old configuration stays and the reason is logged once.
//! 3. A [`TlsSocket`] carries a connection over rustls, within bounds on what it keeps.
//!
//! Handshakes are made elsewhere: see [`crate::handshakes`].

mod files;
mod socket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dormouse_storage::durations::Durations;
use rustls::ServerConfig;

pub use self::files::{ClientCertificates, TlsFiles};
use self::files::{Stamp, TlsConfigs};
pub use self::socket::{MovedTlsSocket, TlsSocket};

/// Interval at which the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The current configurations of TLS.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    configs: ArcSwap<TlsConfigs>,
    /// Completed handshakes, those that failed, and those under way.
    pub handshakes: AtomicU64,
    pub handshakes_failed: AtomicU64,
    pub handshakes_pending: AtomicU64,
    /// Time of the completed ones, in which others had their turns too.
    pub handshake_times: Durations,
    /// How often changed files were put to use.
    reloads: AtomicU64,
    /// Whether the files on the disk cannot be used.
    is_stale: AtomicBool,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// The option whose file cannot be used, and the reason.
    pub fn open(files: TlsFiles) -> Result<(Arc<Self>, FileWatch), String> {
        let stamp = files.stamp();
        let configs = files.load()?;
        warn(&files, &configs);
        let tls = Arc::new(Self {
            files,
            configs: ArcSwap::from_pointee(configs),
            handshakes: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            handshakes_pending: AtomicU64::new(0),
            handshake_times: Durations::new(),
            reloads: AtomicU64::new(0),
            is_stale: AtomicBool::new(false),
        });
        let watch = FileWatch { tls: Arc::clone(&tls), tried: stamp, last: stamp };
        Ok((tls, watch))
    }

    /// Counts a handshake that begins now.
    pub fn begin_handshake(&self) -> Instant {
        self.handshakes_pending.fetch_add(1, Ordering::Relaxed);
        Instant::now()
    }

    /// Counts its end.
    pub fn end_handshake(&self, began: Instant, is_made: bool) {
        self.handshakes_pending.fetch_sub(1, Ordering::Relaxed);
        if is_made {
            self.handshakes.fetch_add(1, Ordering::Relaxed);
            self.handshake_times.add(began.elapsed());
        } else {
            self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The configuration for new connections of the Redis protocol.
    pub fn for_redis(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.configs.load().redis)
    }

    /// The same for HTTP.
    pub fn for_http(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.configs.load().http)
    }

    /// When the certificate expires, in Unix seconds.
    pub fn expires_s(&self) -> u64 {
        self.configs.load().valid_s.1
    }

    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// Whether the files have changed and cannot be used, so that the configuration is that of earlier ones.
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }
}

fn warn(files: &TlsFiles, configs: &TlsConfigs) {
    if let Some(doubt) = configs.doubt() {
        tracing::warn!("clients will refuse the certificate {}: {doubt}", files.certificate.display());
    }
}

/// Follows changes of the files.
#[derive(Debug)]
pub struct FileWatch {
    tls: Arc<Tls>,
    /// The files that the configuration was made of, or should have been.
    tried: Stamp,
    /// The files at the last look.
    last: Stamp,
}

impl FileWatch {
    /// Looks at the files for ever.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // A folder of another machine may not answer.
            let looked = tokio::task::spawn_blocking(move || {
                self.look();
                self
            });
            match looked.await {
                Ok(watch) => self = watch,
                Err(_) => return,
            }
        }
    }

    /// Reads changed files, unless they have changed since the last look as well: the certificate and its key may be
    /// written one after the other.
    fn look(&mut self) {
        let now = self.tls.files.stamp();
        let is_settled = std::mem::replace(&mut self.last, now) == now;
        if now == self.tried || !is_settled {
            return;
        }
        self.tried = now;
        let loaded = self.tls.files.load();
        self.tls.is_stale.store(loaded.is_err(), Ordering::Relaxed);
        match loaded {
            Ok(configs) => {
                warn(&self.tls.files, &configs);
                self.tls.configs.store(Arc::new(configs));
                self.tls.reloads.fetch_add(1, Ordering::Relaxed);
                tracing::info!("the files of TLS have changed: new connections get the new certificate");
            }
            Err(problem) => tracing::error!("the files of TLS have changed, and the old ones stay in use: {problem}"),
        }
    }
}

#[cfg(test)]
mod tests;
