//! The options of TLS, with Redis's names.

use std::path::PathBuf;

use crate::tls::{ClientCertificates, TlsFiles};

#[derive(clap::Args, Clone, Debug)]
pub struct TlsOptions {
    /// Port of the Redis protocol over TLS (0: off)
    #[arg(long, value_name = "PORT", default_value_t = 0, help_heading = "TLS")]
    pub tls_port: u16,

    /// Port of what --http-port serves, over TLS (0: off)
    #[arg(long, value_name = "PORT", default_value_t = 0, help_heading = "TLS")]
    pub https_port: u16,

    /// The server's certificate in PEM, followed by those between it and a known authority. Changed files are noticed
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_cert_file: Option<PathBuf>,

    /// The key of the certificate in PEM, not encrypted
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_key_file: Option<PathBuf>,

    /// Certificates in PEM of the authorities that sign the certificates of clients
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_ca_cert_file: Option<PathBuf>,

    /// Whether clients show certificates [default: yes with --tls-ca-cert-file, else no]
    #[arg(long, value_name = "WHETHER", value_enum, help_heading = "TLS")]
    tls_auth_clients: Option<ClientCertificates>,
}

impl TlsOptions {
    /// The files, if any port uses them.
    ///
    /// # Errors
    /// The rule between the options that is broken.
    pub fn files(&self) -> Result<Option<TlsFiles>, String> {
        let port = match (self.tls_port, self.https_port) {
            (0, 0) => return Ok(None),
            (0, _) => "--https-port",
            _ => "--tls-port",
        };
        let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_key_file) else {
            let missing = if self.tls_cert_file.is_none() { "--tls-cert-file" } else { "--tls-key-file" };
            return Err(format!("{port} needs a certificate and its key: set {missing} too"));
        };
        let has_authorities = self.tls_ca_cert_file.is_some();
        let by_default = if has_authorities { ClientCertificates::Yes } else { ClientCertificates::No };
        let client_certificates = self.tls_auth_clients.unwrap_or(by_default);
        if client_certificates != ClientCertificates::No && !has_authorities {
            return Err(format!(
                "--tls-auth-clients {} needs --tls-ca-cert-file: which authorities sign the certificates of clients?",
                client_certificates.name()
            ));
        }
        Ok(Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            authorities: self.tls_ca_cert_file.clone(),
            client_certificates,
        }))
    }
}
