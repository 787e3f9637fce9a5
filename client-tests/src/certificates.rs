//! Certificates for servers and clients of a test, from an authority of its own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// Files in a folder: `ca.crt`, and `server` and `client`, each as `.crt` and `.key`. The server's certificate is for
/// `localhost` and 127.0.0.1.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Default for Certificates {
    fn default() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Clients find an authority by its name, so no two have the same.
        params.distinguished_name.push(DnType::CommonName, format!("authority {:016x}", fastrand::u64(..)));
        let key = || KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key()).expect("a certificate");
        let write = |name: String, text: &str| fs::write(folder.path().join(name), text).expect("a writable folder");
        write("ca.crt".to_owned(), &authority.pem());
        for name in ["server", "client"] {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let (mut params, key) = (CertificateParams::new(names).expect("valid names"), key());
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.signed_by(&key, &authority).expect("a certificate");
            write(format!("{name}.crt"), &certificate.pem());
            write(format!("{name}.key"), &key.serialize_pem());
        }
        Self(folder)
    }
}

impl Certificates {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same as text.
    pub fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }
}
