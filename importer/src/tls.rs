//! TLS as a client: whom to trust, who to be, and what went wrong.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};

/// How to speak to servers over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsChoices {
    /// The certificates of authorities, in PEM; by default those that the system trusts.
    pub authorities: Option<PathBuf>,
    /// The client's certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate, if it is not the host's.
    pub name: Option<String>,
    /// Whether any certificate will do.
    pub is_insecure: bool,
}

/// The choices with their files read.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: Option<String>,
}

impl TlsClient {
    /// # Errors
    /// The file that cannot be used, and the reason.
    pub fn new(choices: &TlsChoices) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let builder = if choices.is_insecure {
            let algorithms = provider.signature_verification_algorithms;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
        } else {
            builder.with_root_certificates(roots(choices.authorities.as_deref())?)
        };
        let config = match &choices.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let unusable = |error: &dyn std::fmt::Display| format!("{}: {error}", key.display());
                let read = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(&error))?;
                builder.with_client_auth_cert(chain, read).map_err(|error| unusable(&error))?
            }
        };
        Ok(Self { config: Arc::new(config), name: choices.name.clone() })
    }

    /// The configuration, for connections that others make.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The name that the certificate of `host` must have.
    ///
    /// # Errors
    /// When it is none that a certificate could have.
    pub fn server_name(&self, host: &str) -> io::Result<ServerName<'static>> {
        let name = self.name.as_deref().unwrap_or(host).to_owned();
        ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
    }

    /// A session with `host` whose handshake has yet to be made.
    ///
    /// # Errors
    /// When the name of the host is none that a certificate could have.
    pub fn session(&self, host: &str) -> io::Result<ClientConnection> {
        let invalid = |error: Error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
        ClientConnection::new(self.config(), self.server_name(host)?).map_err(invalid)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))?;
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| unusable(&error))?;
    if read.is_empty() { Err(unusable(&"it holds no certificate")) } else { Ok(read) }
}

fn roots(authorities: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
                return Err(format!(
                    "the system has no certificates of authorities{why}: name those to trust with --tls-ca-cert-file"
                ));
            }
        }
    }
    Ok(roots)
}

/// Says what went wrong, and what to do about it.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no known authority has signed its certificate: name the authority's with --tls-ca-cert-file".to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            format!("its certificate is for another name ({error}): connect to that name, or give it with --sni")
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired".to_owned()
        }
        Error::InvalidCertificate(_) => format!("its certificate cannot be trusted: {error}"),
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it asks for a certificate: give one with --tls-cert-file and --tls-key-file".to_owned()
        }
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::DecryptError,
        ) => format!("it does not accept the certificate of --tls-cert-file: {error}"),
        Error::InvalidMessage(_) => "it does not speak TLS on this port: redis:// connects without".to_owned(),
        _ => format!("TLS: {error}"),
    }
}

/// Takes any certificate for the server's, if the server has its key.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
