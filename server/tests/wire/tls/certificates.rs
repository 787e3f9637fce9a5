//! Certificates for a test: an authority, a server's, a client's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

pub struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Certificates {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certificates = Self { authority, folder: tempfile::tempdir().unwrap() };
        certificates.renew();
        std::fs::write(certificates.path("ca.crt"), certificates.authority.pem()).unwrap();
        certificates
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self) -> (String, String) {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.authority).unwrap().pem(), key.serialize_pem())
    }

    /// Gives the server another certificate.
    pub fn renew(&self) {
        let (certificate, key) = self.issue();
        replace(&self.path("tls.crt"), &certificate);
        replace(&self.path("tls.key"), &key);
    }

    /// The options of a server that has its certificate here.
    pub fn options(&self, port: u16) -> Vec<String> {
        let file = |option: &str, name: &str| [option.to_owned(), self.path(name).display().to_string()];
        let mut options = vec!["--tls-port".to_owned(), port.to_string()];
        options.extend(file("--tls-cert-file", "tls.crt"));
        options.extend(file("--tls-key-file", "tls.key"));
        options
    }

    /// A client that trusts the authority, with a certificate of its own if it is `known`.
    pub fn client(&self, known: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = if known {
            let (certificate, key) = self.issue();
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        Arc::new(config)
    }
}

/// Replaces a file in one step.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}
