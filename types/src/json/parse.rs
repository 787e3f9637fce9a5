//! From text to an encoded value, in one pass.
//!
//! `serde_json` reads the text; each value that it finds is appended as it comes. A member whose name is there already
//! replaces the earlier one in its place, which is looked for when the object ends.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::node::JsonNode;
use super::{begin_container, end_container, put_bool, put_float, put_integer, put_string, put_unsigned, tag};

/// The reason why a text is no JSON, and the place, in the words of `serde_json`.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ParseError(#[from] serde_json::Error);

/// Objects with more members than this look for names in a table.
pub(super) const FEW: usize = 16;

/// Encodes a text.
///
/// # Errors
/// When it is no JSON, or nested too deep.
pub fn parse(text: &[u8]) -> Result<Vec<u8>, ParseError> {
    let mut out = Vec::with_capacity(text.len());
    let mut from = serde_json::Deserializer::from_slice(text);
    Encode(&mut out).deserialize(&mut from)?;
    from.end()?;
    Ok(out)
}

/// Appends the value that it visits.
struct Encode<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Encode<'_> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Encode<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.push(tag::NULL);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        put_bool(self.0, value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        put_integer(self.0, value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        put_unsigned(self.0, value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        put_float(self.0, value);
        Ok(())
    }

    #[inline]
    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        put_string(self.0, value.as_bytes());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        let start = begin_container(self.0, tag::ARRAY);
        let mut count = 0;
        while from.next_element_seed(Encode(self.0))?.is_some() {
            count += 1;
        }
        end_container(self.0, start, count);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        let start = begin_container(self.0, tag::OBJECT);
        let mut count = 0;
        while from.next_key_seed(Name(self.0))?.is_some() {
            from.next_value_seed(Encode(self.0))?;
            count += 1;
        }
        end_container(self.0, start, count);
        if has_twins(JsonNode::at_offset(self.0, start)) {
            let single = without_twins(JsonNode::at_offset(self.0, start));
            self.0.truncate(start);
            self.0.extend_from_slice(&single);
        }
        Ok(())
    }
}

/// Appends the name of a member.
struct Name<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(Encode(self.0))
    }
}

/// Whether two members of an object have the same name.
pub(super) fn has_twins(object: JsonNode<'_>) -> bool {
    let mut rest = object.children();
    if rest.len() > FEW {
        let mut seen = HashSet::with_capacity(rest.len());
        return rest.any(|(name, _)| !seen.insert(name));
    }
    while let Some((name, _)) = rest.next() {
        let mut others = rest;
        if others.any(|(other, _)| other == name) {
            return true;
        }
    }
    false
}

/// The object with the last value of each name, at the place of the first one.
fn without_twins(object: JsonNode<'_>) -> Vec<u8> {
    let members = object.children();
    let mut last = HashMap::with_capacity(members.len());
    members.for_each(|(name, value)| _ = last.insert(name, value));
    let mut out = Vec::with_capacity(object.bytes().len());
    let start = begin_container(&mut out, tag::OBJECT);
    let mut count = 0;
    for (name, _) in members {
        if let Some(value) = last.remove(&name) {
            put_string(&mut out, name.unwrap_or_default());
            out.extend_from_slice(value.bytes());
            count += 1;
        }
    }
    end_container(&mut out, start, count);
    out
}
