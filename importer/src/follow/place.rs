//! The bookkeeping in the target: the data that the target holds, and of which source.
//!
//! ```text
//! 1 incomplete SOURCE RUN STEP              a full sync is under way: only another one helps
//! 1 following SOURCE REPLID OFFSET INDEX    everything before OFFSET of the history REPLID, and nothing after
//! ```
//!
//! `SOURCE` is `host:port` as the user gave it. `INDEX` is the logical index that the stream had selected at `OFFSET`,
//! since the source does not repeat it. `RUN` and `STEP` give the key a new value with every write.

use std::fmt;

/// The bookkeeping key, in index 0 of the target. It exists until the cutover.
pub const KEY: &str = dormouse_storage::shown::MARKER;

const VERSION: &str = "1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourcePlace {
    Incomplete { source: String, run: u64, step: u64 },
    Following { source: String, replid: String, offset: u64, index: u64 },
}

impl SourcePlace {
    pub fn source(&self) -> &str {
        match self {
            Self::Incomplete { source, .. } | Self::Following { source, .. } => source,
        }
    }

    /// # Errors
    /// When the text has neither of the two forms: another version of Dormouse, or another client, wrote it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let strange = || format!("the key {KEY} in the target holds a value that this version does not understand");
        let text = std::str::from_utf8(text).map_err(|_| strange())?;
        let words: Vec<&str> = text.split(' ').collect();
        let number = |text: &str| text.parse::<u64>().map_err(|_| strange());
        match words[..] {
            [VERSION, "incomplete", source, run, step] => {
                Ok(Self::Incomplete { source: source.to_string(), run: number(run)?, step: number(step)? })
            }
            [VERSION, "following", source, replid, offset, index] if is_replid(replid) => Ok(Self::Following {
                source: source.to_string(),
                replid: replid.to_string(),
                offset: number(offset)?,
                index: number(index)?,
            }),
            _ => Err(strange()),
        }
    }
}

/// Whether this names a history: 40 hexadecimal digits in every Redis and Valkey.
pub fn is_replid(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl fmt::Display for SourcePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete { source, run, step } => write!(f, "{VERSION} incomplete {source} {run} {step}"),
            Self::Following { source, replid, offset, index } => {
                write!(f, "{VERSION} following {source} {replid} {offset} {index}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        for place in [
            SourcePlace::Incomplete { source: "[::1]:7".into(), run: 9, step: u64::MAX },
            SourcePlace::Following { source: "h:6379".into(), replid: "0a".repeat(20), offset: 12, index: 3 },
        ] {
            assert_eq!(SourcePlace::parse(place.to_string().as_bytes()).unwrap(), place);
        }
        for text in
            ["", "hello", "2 incomplete h 1 1", "1 following h abc -1 0", "1 following h a\n 1 0", "1 following h ab 1"]
        {
            assert!(SourcePlace::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(SourcePlace::parse(b"\xff").is_err());
    }
}
