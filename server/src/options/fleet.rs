//! A node of a fleet.

use std::str::FromStr;

use dormouse_coordination::ClusterUrl;

use super::Interval;

#[derive(clap::Args, Clone, Debug)]
pub struct FleetOptions {
    /// Serve the store together with other nodes, which find each other here: etcd://HOST:PORT/PREFIX. The store must be a
    /// bucket
    #[arg(long, value_name = "URL", help_heading = "Fleet")]
    pub cluster: Option<ClusterUrl>,

    /// Name of this node among them [default: the name of the host]
    #[arg(long, value_name = "NAME", help_heading = "Fleet")]
    pub node_name: Option<NodeName>,

    /// Address at which the other nodes reach its Redis port [default: the first address that it listens on]
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address, help_heading = "Fleet")]
    pub advertise: Option<String>,

    /// Address at which they reach its HTTP port [default: the host of --advertise, and --http-port]
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address, help_heading = "Fleet")]
    pub advertise_http: Option<String>,

    /// Availability zone of this node
    #[arg(long, value_name = "NAME", help_heading = "Fleet")]
    pub zone: Option<String>,

    /// Time after which a node that is not heard of counts as dead, at least 2s
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Fleet")]
    pub lease: Interval,
}

/// The name of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(pub String);

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        match (1..=NODE_NAME_LEN_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("expected 1 to {NODE_NAME_LEN_MAX} lowercase letters, digits, hyphens and dots")),
        }
    }
}

/// The longest name of a node, as of a label in DNS.
const NODE_NAME_LEN_MAX: usize = 63;

fn parse_address(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0) {
        Some(_) => Ok(text.to_owned()),
        None => Err("expected a host or an address, a colon and a port".to_owned()),
    }
}
