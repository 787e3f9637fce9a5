//! Checks of bytes from a disk or a client, before they are taken for an encoded value.

use super::node::{JsonNode, length};
use super::parse::has_twins;
use super::{DEPTH_MAX, HEAD_BYTES, tag};
use crate::{Malformed, pace};

const TRUNCATED: Malformed = Malformed("JSON document ends early");

/// Checks that `bytes` are one encoded value.
pub(super) fn check(bytes: &[u8]) -> Result<(), Malformed> {
    match value(bytes, 0, DEPTH_MAX)? {
        end if end == bytes.len() => Ok(()),
        _ => Err(Malformed("bytes behind a JSON document")),
    }
}

/// Checks the value at `at`, which may have `depth` containers in each other; returns its end.
fn value(bytes: &[u8], at: usize, depth: usize) -> Result<usize, Malformed> {
    let rest = bytes.get(at + 1..).ok_or(TRUNCATED)?;
    let fixed = |len: usize| if rest.len() < len { Err(TRUNCATED) } else { Ok(at + 1 + len) };
    match bytes[at] {
        tag::NULL | tag::FALSE | tag::TRUE | tag::SMALL..tag::SHORT => Ok(at + 1),
        tag::INT_8 => fixed(1),
        tag::INT_16 => fixed(2),
        tag::INT_32 => fixed(4),
        tag::INT_64 => fixed(8),
        tag::UNSIGNED => match rest.first_chunk().map(|number| u64::from_le_bytes(*number)) {
            Some(number) if number <= i64::MAX as u64 => Err(Malformed("JSON integer in a longer form")),
            _ => fixed(8),
        },
        tag::FLOAT => match rest.first_chunk().map(|number| f64::from_le_bytes(*number)) {
            Some(number) if !number.is_finite() => Err(Malformed("JSON number that is not finite")),
            _ => fixed(8),
        },
        tag::STRING | tag::SHORT.. => string(bytes, at),
        container @ (tag::ARRAY | tag::OBJECT) => {
            let depth = depth.checked_sub(1).ok_or(Malformed("JSON document nested too deep"))?;
            fixed(HEAD_BYTES - 1)?;
            let (inside, count) = (length(rest), length(&rest[4..]));
            let end = fixed((HEAD_BYTES - 1).saturating_add(inside))?;
            let (mut next, mut found) = (at + HEAD_BYTES, 0);
            while next < end {
                if container == tag::OBJECT {
                    next = string(&bytes[..end], next)?;
                }
                next = value(&bytes[..end], next, depth)?;
                found += 1;
            }
            pace::step(found);
            if found != count {
                return Err(Malformed("number of values in a JSON container"));
            }
            if container == tag::OBJECT && has_twins(JsonNode::at_offset(bytes, at)) {
                return Err(Malformed("member twice in a JSON object"));
            }
            Ok(end)
        }
        _ => Err(Malformed("tag of a JSON value")),
    }
}

fn string(bytes: &[u8], at: usize) -> Result<usize, Malformed> {
    let rest = bytes.get(at + 1..).ok_or(TRUNCATED)?;
    let (start, len): (usize, usize) = match bytes[at] {
        short @ tag::SHORT.. => (0, usize::from(short & !tag::SHORT)),
        tag::STRING if rest.len() >= 4 => (4, length(rest)),
        tag::STRING => return Err(TRUNCATED),
        _ => return Err(Malformed("name of a JSON member")),
    };
    let text = rest.get(start..start.saturating_add(len)).ok_or(TRUNCATED)?;
    match std::str::from_utf8(text) {
        Ok(_) => Ok(at + 1 + start + len),
        Err(_) => Err(Malformed("JSON string that is not UTF-8")),
    }
}
