//! The operator's limits on the requests to one database, and on what a request may store: as options for all databases, and
//! as settings of one.

use super::Size;

/// The highest rate: above it, a limit would not be exact.
const PER_SECOND_MAX: u32 = 10_000_000;
/// The lowest limit on the bytes of a request: those that change limits and delete keys must fit.
const REQUEST_BYTES_MIN: u64 = 1024;

#[derive(clap::Args, Clone, Debug)]
pub struct LimitOptions {
    /// Most requests of one database and its branches a second; more are refused (0: no limit). This and the limits below can
    /// be set for a single database: see `dormouse db set`
    #[arg(long, value_name = "REQUESTS", default_value_t = 0, help_heading = "Databases",
          value_parser = clap::value_parser!(u32).range(..=i64::from(PER_SECOND_MAX)))]
    pub max_requests_per_second: u32,

    /// Requests that may come at once after a pause (0: as many as in a second)
    #[arg(long, value_name = "REQUESTS", default_value_t = 0, help_heading = "Databases",
          value_parser = clap::value_parser!(u32).range(..=i64::from(PER_SECOND_MAX)))]
    pub max_requests_burst: u32,

    /// Most connections to one database and its branches (0: no limit but --max-clients)
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 0, help_heading = "Databases")]
    pub max_connections: u32,

    /// Most bytes of one request, over HTTP of its body (0: no limit of its own)
    #[arg(long, value_name = "SIZE", default_value = "0", help_heading = "Databases")]
    pub max_request_size: Size,

    /// Most bytes of a key that is written (0: no limit)
    #[arg(long, value_name = "SIZE", default_value = "0", help_heading = "Databases")]
    pub max_key_size: Size,

    /// Most bytes of one value, a string or a whole collection, that is written (0: no limit)
    #[arg(long, value_name = "SIZE", default_value = "0", help_heading = "Databases")]
    pub max_value_size: Size,
}

impl LimitOptions {
    pub fn settings(&self) -> RequestLimitSettings {
        RequestLimitSettings {
            per_second: self.max_requests_per_second,
            burst: self.max_requests_burst,
            connections: self.max_connections,
            request_bytes: self.max_request_size.0,
            key_bytes: self.max_key_size.0,
            value_bytes: self.max_value_size.0,
        }
    }
}

/// Limits on requests, connections and records. 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestLimitSettings {
    /// Requests in the long run.
    pub per_second: u32,
    /// Requests that may come at once; 0: as many as in a second.
    pub burst: u32,
    /// Connections to the database and its branches.
    pub connections: u32,
    /// Bytes of one request.
    pub request_bytes: u64,
    /// Bytes of a key that is written.
    pub key_bytes: u64,
    /// Bytes of a value that is written.
    pub value_bytes: u64,
}

impl RequestLimitSettings {
    /// Sets the limit called `name`. Returns whether there is one.
    ///
    /// # Errors
    /// What is expected, if the value makes no sense.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let size = || value.parse::<Size>().map(|size| size.0);
        match name {
            "max-requests-per-second" => self.per_second = number(value, PER_SECOND_MAX, "requests")?,
            "max-requests-burst" => self.burst = number(value, PER_SECOND_MAX, "requests")?,
            "max-connections" => self.connections = number(value, u32::MAX, "connections")?,
            "max-request-size" => self.request_bytes = size()?,
            "max-key-size" => self.key_bytes = size()?,
            "max-value-size" => self.value_bytes = size()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks the rules that a single value cannot tell.
    ///
    /// # Errors
    /// What is expected.
    pub fn check(&self) -> Result<(), String> {
        if self.burst > 0 && self.per_second == 0 {
            return Err("`max-requests-burst` has no effect without `max-requests-per-second`".to_owned());
        }
        if (1..REQUEST_BYTES_MIN).contains(&self.request_bytes) {
            let text = "invalid value for `max-request-size`: expected at least 1kb, or 0 for no limit";
            return Err(text.to_owned());
        }
        Ok(())
    }
}

fn number(value: &str, most: u32, what: &str) -> Result<u32, String> {
    let number = value.parse::<u32>().ok().filter(|number| *number <= most);
    number.ok_or_else(|| format!("expected a number of {what} from 1 to {most}, or 0 for no limit"))
}
