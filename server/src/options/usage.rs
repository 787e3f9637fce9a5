//! The options of pushing usage to a billing system.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};

use super::Interval;
use crate::outbound::{HeaderSource, Reach, ReceiverUrl, parse_header};

/// Where usage is pushed to.
#[derive(Clone, Debug)]
pub struct PushTarget {
    pub url: ReceiverUrl,
    /// The shortest time between two pushes.
    pub every: Duration,
    pub headers: HeaderSource,
}

#[derive(clap::Args, Clone, Debug)]
pub struct UsagePushOptions {
    /// Push the usage of all databases to this URL, as batches of CloudEvents over HTTP
    #[arg(long, value_name = "URL", value_parser = parse_url, help_heading = "Databases")]
    usage_to: Option<ReceiverUrl>,

    /// Push usage at most this often. It is known by the minute
    #[arg(long, value_name = "DURATION", default_value = "1m", help_heading = "Databases")]
    usage_every: Interval,

    /// A header of these requests, such as `Authorization: Bearer SECRET`. Best given as DORMOUSE_USAGE_HEADER: other users can
    /// see the command line
    #[arg(long = "usage-header", value_name = "HEADER", hide_default_value = true, help_heading = "Databases")]
    usage_header_text: Option<String>,

    /// A file with headers of these requests, one a line. It is read again for each push
    #[arg(long, value_name = "FILE", help_heading = "Databases")]
    usage_header_file: Option<PathBuf>,

    #[arg(skip)]
    usage_header: Option<(HeaderName, HeaderValue)>,
}

impl UsagePushOptions {
    /// Takes the secret out of the texts.
    ///
    /// # Errors
    /// The option that is wrong, and why.
    pub fn check(&mut self) -> Result<(), String> {
        let header = self.usage_header_text.take().map(|text| parse_header(&text)).transpose();
        self.usage_header = header
            .map_err(|problem| format!("invalid value for '--usage-header' or DORMOUSE_USAGE_HEADER: {problem}"))?;
        if self.usage_every.duration().is_none() {
            return Err("--usage-every needs a duration: leave --usage-to out to push nothing".to_owned());
        }
        if self.usage_to.is_none() && (self.usage_header.is_some() || self.usage_header_file.is_some()) {
            return Err("a header of usage needs a receiver: set --usage-to too".to_owned());
        }
        Ok(())
    }

    /// Where usage goes, if it is pushed.
    pub fn target(&self) -> Option<PushTarget> {
        Some(PushTarget {
            url: self.usage_to.clone()?,
            every: self.usage_every.duration()?,
            headers: HeaderSource { header: self.usage_header.clone(), file: self.usage_header_file.clone() },
        })
    }
}

/// The operator's own receiver may be in a private network.
fn parse_url(text: &str) -> Result<ReceiverUrl, String> {
    ReceiverUrl::parse(text, Reach::Private)
}
