//! The files behind TLS: a certificate with its chain, its key, and the authorities that sign the certificates of clients.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClientCertificates {
    /// Clients need no certificate
    No,
    /// A client may show a certificate, which must then be valid
    Optional,
    /// A client without a valid certificate is refused
    Yes,
}

impl ClientCertificates {
    /// Redis's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Optional => "optional",
            Self::Yes => "yes",
        }
    }
}

/// Where the certificate, its key and the authorities are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The authorities for the certificates of clients.
    pub authorities: Option<PathBuf>,
    pub client_certificates: ClientCertificates,
}

/// What tells one content of a file from another without reading it; `None` for a file that is not there. Symbolic links
/// are followed, so an exchange of the folder behind a link, as Kubernetes makes it for Secrets, counts as a change.
type FileStamp = Option<(u64, u64, u64, i64, i64)>;

/// The stamps of all files.
pub type Stamp = [FileStamp; 3];

/// Configurations made from the files.
#[derive(Debug)]
pub struct TlsConfigs {
    /// For the Redis protocol.
    pub redis: Arc<ServerConfig>,
    /// For HTTP.
    pub http: Arc<ServerConfig>,
    /// When the certificate begins and ceases to be valid, in Unix seconds.
    pub valid_s: (u64, u64),
}

impl TlsConfigs {
    /// The reason why clients will refuse the certificate now, if they will.
    pub fn doubt(&self) -> Option<String> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let (from_s, until_s) = self.valid_s;
        if now_s > until_s {
            return Some(format!("it expired {} ago", span(now_s - until_s)));
        }
        (now_s < from_s).then(|| format!("it is valid only in {}", span(from_s - now_s)))
    }
}

/// When a certificate begins and ceases to be valid, in Unix seconds, if it can be told.
fn validity_s(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some((validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs()))
}

/// Whose certificate it is, if that can be told.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate().subject().to_string())
}

fn span(seconds: u64) -> String {
    match seconds {
        172_800.. => format!("{} days", seconds / 86_400),
        7200.. => format!("{} hours", seconds / 3600),
        _ => format!("{} minutes", seconds / 60),
    }
}

impl TlsFiles {
    pub fn stamp(&self) -> Stamp {
        let of = |path: &Path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
        };
        [of(&self.certificate), of(&self.key), self.authorities.as_deref().and_then(of)]
    }

    /// Reads the files.
    ///
    /// # Errors
    /// The option whose file cannot be used, and the reason.
    pub fn load(&self) -> Result<TlsConfigs, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates("--tls-cert-file", &self.certificate)?;
        let of_certificate =
            |problem: &dyn std::fmt::Display| format!("--tls-cert-file {}: {problem}", self.certificate.display());
        let valid_s = chain.first().and_then(validity_s).unwrap_or((0, u64::MAX));
        let of_key = |problem: &dyn std::fmt::Display| format!("--tls-key-file {}: {problem}", self.key.display());
        let key = provider.key_provider.load_private_key(private_key(&self.key)?).map_err(|error| of_key(&error))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                let place = self.certificate.display();
                return Err(of_key(&format!("the key does not belong to the first certificate of {place}")));
            }
            Err(error) => return Err(of_certificate(&error)),
        }
        let verifier = self.verifier(&provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let mut redis = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
        // The client keeps the ticket, so resumption costs no memory. Tickets of an earlier configuration are void, and
        // with them the certificates that the clients have shown.
        redis.session_storage = Arc::new(NoServerSessionStorage {});
        redis.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
        redis.send_tls13_tickets = 1;
        let mut http = redis.clone();
        http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsConfigs { redis: Arc::new(redis), http: Arc::new(http), valid_s })
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let path = match &self.authorities {
            Some(path) if self.client_certificates != ClientCertificates::No => path,
            _ => return Ok(WebPkiClientVerifier::no_client_auth()),
        };
        let broken = |problem: &dyn std::fmt::Display| format!("--tls-ca-cert-file {}: {problem}", path.display());
        let mut roots = RootCertStore::empty();
        for certificate in certificates("--tls-ca-cert-file", path)? {
            roots.add(certificate).map_err(|error| broken(&error))?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if self.client_certificates == ClientCertificates::Optional {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map(|verifier| verifier as _).map_err(|error| broken(&error))
    }
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "no such file".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
            _ => error.to_string(),
        };
        format!("{option} {}: {why}", path.display())
    })
}

/// The certificates of a PEM file, at least one.
fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(option, path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| format!("{option} {}: damaged PEM: {error}", path.display()))?;
    if !found.is_empty() {
        return Ok(found);
    }
    let is_key = PrivateKeyDer::from_pem_slice(&text).is_ok();
    let why = if is_key { "it holds a private key" } else { "it holds no PEM (-----BEGIN CERTIFICATE-----)" };
    Err(format!("{option} {}: no certificate: {why}", path.display()))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read("--tls-key-file", path)?;
    let problem = |why: &str| format!("--tls-key-file {}: {why}", path.display());
    let has = |mark: &[u8]| memchr::memmem::find(&text, mark).is_some();
    if has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED") {
        let advice = "`openssl pkey -in FILE -out NEW` writes it without a passphrase";
        return Err(problem(&format!("the key is encrypted, and this server cannot ask for a passphrase: {advice}")));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if has(b"-----BEGIN CERTIFICATE-----") => problem("no key: it holds a certificate"),
        pem::Error::NoItemsFound => problem("no key: it holds no PEM (-----BEGIN PRIVATE KEY-----)"),
        error => problem(&format!("damaged PEM: {error}")),
    })
}

#[cfg(test)]
pub(super) mod tests;
