//! The options of tools that connect to servers over TLS, with the names of `serve` and those of redis-cli.

use std::path::PathBuf;

use dormouse_importer::tls::TlsChoices;

#[derive(clap::Args, Clone, Debug, Default)]
pub struct TlsArguments {
    /// With rediss:// or https://, trust the authorities with these certificates in PEM [default: those that the system trusts]
    #[arg(long, value_name = "FILE", alias = "cacert", global = true, help_heading = "TLS")]
    tls_ca_cert_file: Option<PathBuf>,

    /// With rediss:// or https://, show this certificate to a server that asks for one
    #[arg(long, value_name = "FILE", alias = "cert", requires = "tls_key_file", global = true, help_heading = "TLS")]
    tls_cert_file: Option<PathBuf>,

    /// The key of that certificate
    #[arg(long, value_name = "FILE", alias = "key", requires = "tls_cert_file", global = true, help_heading = "TLS")]
    tls_key_file: Option<PathBuf>,

    /// With rediss://, the name in the server's certificate [default: the host]
    #[arg(long, value_name = "NAME", global = true, help_heading = "TLS")]
    sni: Option<String>,

    /// With rediss:// or https://, accept any certificate: anyone on the way can read and change everything
    #[arg(long, global = true, help_heading = "TLS")]
    insecure: bool,
}

impl TlsArguments {
    /// The choices, for URLs of which one asks for TLS or none does.
    ///
    /// # Errors
    /// When choices are made and no URL asks for TLS.
    pub fn choices(&self, is_tls: bool) -> Result<TlsChoices, String> {
        let identity = self.tls_cert_file.clone().zip(self.tls_key_file.clone());
        let authorities = self.tls_ca_cert_file.clone();
        let choices = TlsChoices { authorities, identity, name: self.sni.clone(), is_insecure: self.insecure };
        match is_tls || choices == TlsChoices::default() {
            true => Ok(choices),
            false => Err("the URL begins with redis://, which is no TLS: write rediss://".to_owned()),
        }
    }
}
