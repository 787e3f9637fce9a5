//! Headers that a user adds to requests.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use reqwest::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Longest value of a header that a user adds.
pub const VALUE_BYTES_MAX: usize = 4096;

/// Headers that say where a request ends, whom it is for, or what its body is: the sender sets these.
const OWN: [HeaderName; 11] = [
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    HOST,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Bytes of a file with headers, and headers in it.
const FILE_BYTES_MAX: u64 = 64 << 10;
const HEADERS_MAX: usize = 32;

/// The headers that an operator adds to requests: one, and those in a file, one a line.
#[derive(Clone, Debug, Default)]
pub struct HeaderSource {
    pub header: Option<(HeaderName, HeaderValue)>,
    pub file: Option<PathBuf>,
}

impl HeaderSource {
    /// Reads the file, which may have changed.
    ///
    /// # Errors
    /// When it cannot be read, or a line of it is no header.
    pub fn read(&self) -> Result<HeaderMap, String> {
        let mut headers: HeaderMap = self.header.clone().into_iter().collect();
        let Some(path) = &self.file else { return Ok(headers) };
        let named = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
        if read.map_err(|error| named(&error))? as u64 > FILE_BYTES_MAX {
            return Err(named(&"too large for a file of headers"));
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let (name, value) = parse_header(line).map_err(|problem| named(&problem))?;
            headers.append(name, value);
        }
        if headers.len() > HEADERS_MAX {
            return Err(named(&"too many headers"));
        }
        Ok(headers)
    }
}

/// Reads `Name: value`. The value is marked as a secret.
///
/// # Errors
/// The problem with it, without the value.
pub fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("invalid header: expected `Name: value`")?;
    let name = name.trim();
    let parsed = name.parse::<HeaderName>().map_err(|_| "invalid header: its name has other characters than a name")?;
    if OWN.contains(&parsed) || name.eq_ignore_ascii_case("keep-alive") {
        return Err(format!("invalid header `{name}`: the server sets it"));
    }
    let value = value.trim();
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("invalid header `{name}`: its value is longer than {VALUE_BYTES_MAX} bytes"));
    }
    let invalid = |_| format!("invalid header `{name}`: its value has other characters than visible ASCII");
    let mut value = HeaderValue::from_str(value).map_err(invalid)?;
    value.set_sensitive(true);
    Ok((parsed, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_header_in_each_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        let source = HeaderSource { header: Some(parse_header("a: 1").unwrap()), file: Some(path.clone()) };
        assert!(source.read().unwrap_err().contains("headers: No such file"));
        std::fs::write(&path, "# of the biller\nAuthorization: Bearer x\n\n  b: 2\n").unwrap();
        let headers = source.read().unwrap();
        assert!(headers.len() == 3 && headers["authorization"] == "Bearer x");
        for (text, problem) in [
            ("secret\n".to_owned(), "headers: invalid header: expected"),
            ("a: b\n".repeat(40), "too many headers"),
            ("a".repeat(70_000), "too large"),
        ] {
            std::fs::write(&path, text).unwrap();
            let found = source.read().unwrap_err();
            assert!(found.contains(problem) && !found.contains("secret"), "{found}");
        }
    }

    #[test]
    fn headers_are_read_and_those_of_the_request_refused() {
        let (name, value) = parse_header("Authorization:  Bearer abc ").unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap(), value.is_sensitive()),
            ("authorization", "Bearer abc", true)
        );
        for (text, problem) in [
            ("Authorization", "expected `Name: value`"),
            ("a b: c", "its name"),
            (": c", "its name"),
            ("host: example.com", "the server sets it"),
            ("Transfer-Encoding: chunked", "the server sets it"),
            ("a: b\r\nc: d", "its value has other characters"),
        ] {
            let found = parse_header(text).unwrap_err();
            assert!(found.contains(problem), "{text}: {found}");
        }
        assert!(parse_header(&format!("a: {}", "b".repeat(VALUE_BYTES_MAX + 1))).is_err());
    }
}
