//! Errors of a store, by who must act, and their messages.
//!
//! Messages are one line and name the object. They repeat neither the store's URL nor the environment's values, which
//! may hold secrets.

use std::{error::Error as _, io, path::PathBuf};

/// The end of a message about a full disk or quota.
pub const FULL: &str = "no space left in the store";

/// An error of the store, by who must act.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operator gave a URL, or an environment for it, that means nothing here.
    #[error("{0}")]
    Url(String),
    /// The store's folder cannot be used.
    #[error("cannot use the store folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    /// The store behind a network cannot be used; the text says what to look at.
    #[error("cannot use the store {url}: {problem}")]
    Unusable { url: String, problem: String },
    /// A later version of Dormouse has written the store.
    #[error(
        "the store has {}, and this is Dormouse {}, which reads formats up to {}: nothing was changed; use that version \
         or a later one (see docs/upgrade.md)",
        format_of(*format, version.as_deref()), super::VERSION, super::FORMAT
    )]
    Newer { format: u32, version: Option<String> },
    /// The store is encrypted, and cannot be opened; or it cannot be encrypted.
    #[error("the encryption of the store: {problem}; nothing was changed")]
    Encrypted { problem: String },
    /// Another process has the folder open.
    #[error("the store folder {} is in use by {}", path.display(), holder(*pid))]
    Locked { path: PathBuf, pid: Option<u32> },
    /// A name that no node of a fleet can have.
    #[error(
        "`{0}` cannot be the name of a node: expected 1 to 63 of the characters a-z, 0-9, `-` and `.`, the first a letter or \
         a digit"
    )]
    NodeName(String),
    /// The nodes of a fleet share a store behind a network.
    #[error("a fleet needs a store that its nodes can share, in a bucket: a folder or memory has one process")]
    NotShared,
    /// The store belongs to a fleet, and this process is none of its nodes.
    #[error(
        "the store belongs to a fleet: node `{node}` has not released it; start this process with --cluster as a node of \
         the fleet, or end all nodes in order first (start `{node}` again for that if it has crashed)"
    )]
    OfFleet { node: String },
    /// The log of a writer has entries, and no node has taken it over.
    #[error("the log {writer:016x} has entries that belong to no node of the fleet: {why}")]
    NoHeir { writer: u64, why: String },
    /// A name that no object can have.
    #[error("`{0}` cannot be the name of an object or database")]
    Name(String),
    /// The object does not exist.
    #[error("{name}: missing from the store")]
    Missing { name: String },
    /// Create-only put of something that exists.
    #[error("{name}: exists already")]
    Exists { name: String },
    /// The disk (or quota) is full; nothing was written.
    #[error("{name}: {FULL}")]
    Full { name: String },
    /// The store was opened for reading only.
    #[error("{name}: the store is open for reading only")]
    ReadOnly { name: String },
    /// The store could not do it; trying again may help. A write may have been carried out all the same.
    #[error("cannot {action} {name}: {}", brief(source))]
    Unavailable { action: &'static str, name: String, source: object_store::Error },
    /// An object holds something else than was written.
    #[error("{name}: {problem}")]
    Corrupt { name: String, problem: String },
    /// A file of the log could not be worked with.
    #[error("cannot {action} {name}: {source}")]
    Log { action: &'static str, name: String, source: io::Error },
    /// A file of the log no longer holds what was written to it.
    #[error("{name}: the file was {how} by another program")]
    LogLost { name: String, how: &'static str },
    /// The log failed; the text says why.
    #[error("{0}")]
    LogFailed(String),
    /// Another process has taken the store at the same moment.
    #[error(
        "another process that started at the same moment has taken the store: owner record {number} exists already"
    )]
    Taken { number: u64 },
    /// Another process has taken over the store, and this one's log is closed.
    #[error("the store was taken over by another process: nothing can be written here any more")]
    LogSealed,
    /// A database of a fleet that this process has not claimed: another one may be writing it.
    #[error("database `{database}` belongs to another node of the fleet")]
    Unclaimed { database: String },
    /// A newer writer owns the database; this one must stop.
    #[error("database `{database}` was taken over by another writer: manifest {number} exists already")]
    Fenced { database: String, number: u64 },
}

impl StoreError {
    pub fn corrupt(name: &str, problem: impl ToString) -> Self {
        StoreError::Corrupt { name: name.to_owned(), problem: problem.to_string() }
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, StoreError::Missing { .. })
    }

    /// Whether it says that another process owns the store.
    pub fn is_taken(&self) -> bool {
        matches!(self, StoreError::Taken { .. } | StoreError::LogSealed)
    }

    /// Classifies the failure of `action` on `name`.
    pub(super) fn of(action: &'static str, name: &str, source: object_store::Error) -> StoreError {
        let name = name.to_owned();
        match source {
            object_store::Error::NotFound { source, .. } if is_about_the_bucket(&source.to_string()) => {
                let source = object_store::Error::Generic { store: "store", source };
                StoreError::Unavailable { action, name, source }
            }
            object_store::Error::NotFound { .. } => StoreError::Missing { name },
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                StoreError::Exists { name }
            }
            object_store::Error::InvalidPath { .. } => StoreError::Name(name),
            source if is_full(&source) => StoreError::Full { name },
            source => StoreError::Unavailable { action, name, source },
        }
    }
}

/// Whether the same request may succeed a moment later. The object_store crate tells final refusals, such as a missing
/// permission, apart; of other errors it does not say, and retries are bounded.
pub(super) fn is_passing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. })
        && !is_full(error)
        && !is_refusal(error)
        && !is_about_the_bucket(&brief(error))
        && !is_final(&error.to_string())
}

/// Answers of the class 4xx that mean this request and not the next one like it: the store is busy, or the request was cut short
/// or too slow, or credentials have expired and are renewed.
const PASSING_STATUS: [u16; 4] = [408, 409, 425, 429];
const PASSING_CODES: [&str; 7] =
    ["RequestTimeout", "IncompleteBody", "BadDigest", "ExpiredToken", "SlowDown", "Throttling", "OperationAborted"];

/// Whether the store refuses what was asked, so that it would do so again: an answer of the class 4xx, such as a name that no
/// bucket can have.
fn is_final(text: &str) -> bool {
    let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
    let is_passing = |status| {
        PASSING_STATUS.contains(&status) || PASSING_CODES.iter().any(|code| text.contains(&format!("<Code>{code}")))
    };
    status.is_some_and(|status| (400..500).contains(&status) && !is_passing(status))
}

/// Whether the store does not accept the credentials, or not for this. Of a list only the text of the error says so.
pub(super) fn is_refusal(error: &object_store::Error) -> bool {
    let says_so = || ["401 ", "403 "].iter().any(|status| brief(error).starts_with(status));
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => true,
        object_store::Error::Generic { .. } => says_so(),
        _ => false,
    }
}

/// Whether no answer came, or only a part of one.
pub(super) fn is_transport(error: &object_store::Error) -> bool {
    causes(error).any(|cause| cause.is::<object_store::client::HttpError>() || cause.is::<io::Error>())
}

/// The error in one line. An answer in XML is shortened to its code and message.
pub(super) fn brief(error: &object_store::Error) -> String {
    const CHARS_MAX: usize = 400;
    // The outermost texts repeat the inner ones, or lack them: the innermost cause comes last where it is new.
    let mut text = error.to_string();
    if let Some(innermost) = causes(error).last().map(ToString::to_string)
        && !text.contains(&innermost)
    {
        text = format!("{text}: {innermost}");
    }
    if let Some(code) = element(&text, "Code") {
        let status =
            text.split_once("status code: ").and_then(|(_, rest)| rest.split_once(':')).map(|(status, _)| status);
        let message = element(&text, "Message").unwrap_or_default();
        text = format!("{}{code}: {message}", status.map(|status| format!("{status}, ")).unwrap_or_default());
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Advice follows, after a semicolon.
    let line = line.trim_end_matches('.');
    match line.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value)
}

/// A bucket or container that is gone is not an object that is gone: nothing may be concluded from it.
pub(super) fn is_about_the_bucket(answer: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist"].iter().any(|sign| answer.contains(sign))
}

fn format_of(format: u32, version: Option<&str>) -> String {
    match (format, version) {
        (format, Some(version)) => format!("format {format}, brought by Dormouse {version}"),
        (format, None) => format!("format {format}, brought by a later Dormouse"),
    }
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => format!("this process (pid {pid})"),
        Some(pid) => format!("another process (pid {pid})"),
        None => "another process".to_owned(),
    }
}

/// Whether an I/O error somewhere below says that the disk or the quota is full.
fn is_full(error: &object_store::Error) -> bool {
    let error = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>());
    error.is_some_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

fn causes(error: &object_store::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(answer: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: answer.into() }
    }

    #[test]
    fn a_list_that_is_refused_is_not_asked_again() {
        let answer = |status: &str, code: &str| {
            refused(&format!(
                "Server returned non-2xx status code: {status}: <Error><Code>{code}</Code><Message>no</Message></Error>"
            ))
        };
        for (status, code, is_final) in [
            ("403 Forbidden", "SignatureDoesNotMatch", true),
            ("401 Unauthorized", "AccessDenied", true),
            ("503 Service Unavailable", "SlowDown", false),
            ("400 Bad Request", "RequestTimeout", false),
        ] {
            let error = answer(status, code);
            assert_eq!((is_refusal(&error), is_passing(&error)), (is_final, !is_final), "{status}");
        }
        for (status, code) in
            [("400 Bad Request", "InvalidBucketName"), ("405 Method Not Allowed", "X"), ("411 Length Required", "X")]
        {
            let error = answer(status, code);
            assert!(
                !is_refusal(&error) && !is_passing(&error),
                "{status}: it is about the request, and no use to repeat it"
            );
        }
        for (status, code) in [("429 Too Many Requests", "X"), ("400 Bad Request", "ExpiredToken"), ("500 Error", "X")]
        {
            assert!(is_passing(&answer(status, code)), "{status}");
        }
    }

    #[test]
    fn an_answer_in_xml_becomes_one_line() {
        let answer = "Error performing PUT http://h/b/k in 3ms - Server returned non-2xx status code: 503 Service \
                      Unavailable: <?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code>\n<Message>Reduce your\nrate.\
                      </Message></Error>";
        assert_eq!(brief(&refused(answer)), "503 Service Unavailable, SlowDown: Reduce your rate");
        assert_eq!(brief(&refused("a\r\n b")), "Generic S3 error: a b");
        assert!(brief(&refused(&"ü".repeat(5000))).len() < 1000);
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_object() {
        let not_found = |answer: &str| object_store::Error::NotFound { path: "k".into(), source: answer.into() };
        assert!(StoreError::of("read", "k", not_found("<Code>NoSuchKey</Code>")).is_missing());
        let error = StoreError::of("read", "k", not_found("<Code>NoSuchBucket</Code><Message>gone</Message>"));
        assert_eq!(error.to_string(), "cannot read k: NoSuchBucket: gone");
    }
}
