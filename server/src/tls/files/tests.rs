//! Certificates that can be used, and the complaints about others.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

use super::*;

/// An authority that signs certificates for `localhost`.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn issue(&self, name: &str) -> (String, String) {
        self.issue_until(name, 4000)
    }

    fn issue_until(&self, name: &str, year: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// Writes a certificate, its key and that of the authority into a folder.
    pub fn files(&self, folder: &Path, name: &str) -> TlsFiles {
        let [certificate, key, authorities] = ["tls.crt", "tls.key", "ca.crt"].map(|file| folder.join(file));
        let (certificate_text, key_text) = self.issue(name);
        write(&certificate, &certificate_text);
        write(&key, &key_text);
        write(&authorities, &self.0.pem());
        let client_certificates = ClientCertificates::No;
        TlsFiles { certificate, key, authorities: Some(authorities), client_certificates }
    }
}

/// Replaces a file: its number changes, whatever the clock of the folder says.
pub fn write(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}

#[test]
fn files_that_cannot_be_used_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = authority.files(folder.path(), "a");
    assert_eq!(files.load().map(|configs| configs.doubt()), Ok(None));
    let place = |name: &str, text: &str| {
        let path = folder.path().join(name);
        write(&path, text);
        path
    };
    let (certificate_text, key_text) = authority.issue("b");
    let (certificate, key) = (place("other.crt", &certificate_text), place("other.key", &key_text));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGj\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let [garbage, cut, encrypted] = [
        place("garbage", "garbage"),
        place("cut", &certificate_text[..certificate_text.len() / 2]),
        place("encrypted", encrypted),
    ];
    let missing = folder.path().join("missing");
    let client_certificates = ClientCertificates::Yes;
    let rows = [
        (TlsFiles { certificate: missing.clone(), ..files.clone() }, "--tls-cert-file", "missing: no such file"),
        (TlsFiles { certificate: garbage.clone(), ..files.clone() }, "--tls-cert-file", "it holds no PEM"),
        (TlsFiles { certificate: key.clone(), ..files.clone() }, "--tls-cert-file", "it holds a private key"),
        (TlsFiles { certificate: cut, ..files.clone() }, "--tls-cert-file", "damaged PEM"),
        (TlsFiles { key: missing.clone(), ..files.clone() }, "--tls-key-file", "missing: no such file"),
        (TlsFiles { key: garbage.clone(), ..files.clone() }, "--tls-key-file", "it holds no PEM"),
        (TlsFiles { key: certificate, ..files.clone() }, "--tls-key-file", "it holds a certificate"),
        (TlsFiles { key: encrypted, ..files.clone() }, "--tls-key-file", "the key is encrypted"),
        (TlsFiles { key, ..files.clone() }, "--tls-key-file", "does not belong to the first certificate of"),
        (
            TlsFiles { authorities: Some(missing), client_certificates, ..files.clone() },
            "--tls-ca-cert-file",
            "no such file",
        ),
        (
            TlsFiles { authorities: Some(garbage), client_certificates, ..files.clone() },
            "--tls-ca-cert-file",
            "it holds no PEM",
        ),
    ];
    for (files, option, part) in rows {
        let error = files.load().unwrap_err();
        assert!(error.starts_with(option) && error.contains(part), "{error}");
    }
}

#[test]
fn a_certificate_that_has_expired_is_used_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = authority.files(folder.path(), "a");
    let (certificate, key) = authority.issue_until("a", 2020);
    write(&files.certificate, &certificate);
    write(&files.key, &key);
    let configs = files.load().unwrap();
    assert!(configs.doubt().unwrap().contains(" days ago"), "{:?}", configs.doubt());
    assert_eq!(configs.valid_s, (946_684_800, 1_577_836_800));
}
