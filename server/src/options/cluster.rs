//! The modes in which the node answers clients of Redis Cluster.

use std::fmt;

use clap::ValueEnum;

/// Whether `CLUSTER` shows a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ClusterMode {
    /// There is none, as in a Redis without cluster support
    #[default]
    Off,
    /// A cluster of this node alone, which has all slots
    Emulated,
}

impl fmt::Display for ClusterMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Emulated => "emulated",
        })
    }
}

#[derive(clap::Args, Clone, Debug)]
pub struct ClusterOptions {
    /// Answers to clients of Redis Cluster
    #[arg(long, value_name = "MODE", default_value_t, value_enum, help_heading = "Listening")]
    pub cluster_mode: ClusterMode,

    /// The host at which clients of the cluster find it, such as that of a proxy [default: where each has connected to]
    #[arg(long, value_name = "HOST", value_parser = parse_host, help_heading = "Listening")]
    pub cluster_announce_host: Option<String>,

    /// The port at which they find it [default: where each has connected to]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Listening")]
    pub cluster_announce_port: Option<u16>,

    /// The port at which those that use TLS find it [default: where each has connected to]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Listening")]
    pub cluster_announce_tls_port: Option<u16>,
}

/// The longest name of a host.
const HOST_BYTES_MAX: usize = 253;

fn parse_host(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte));
    match is_plain && (1..=HOST_BYTES_MAX).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err("expected a host name or an address, without a port".to_owned()),
    }
}
