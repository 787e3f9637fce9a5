//! Whether two values are the same.

use std::collections::HashMap;

use super::node::{Children, JsonNode, JsonValue};
use super::parse::FEW;
use crate::pace;

/// When numbers are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// When they are of one type, too: 1 is not 1.0.
    OfOneType,
    /// By their values alone.
    ByValue,
}

/// Whether two values are the same. The members of objects may be in any order.
pub fn equal(one: JsonNode<'_>, other: JsonNode<'_>, numbers: Numbers) -> bool {
    match (one.value(), other.value()) {
        (JsonValue::Null, JsonValue::Null) => true,
        (JsonValue::Bool(one), JsonValue::Bool(other)) => one == other,
        (JsonValue::Integer(one), JsonValue::Integer(other)) => one == other,
        (JsonValue::Unsigned(one), JsonValue::Unsigned(other)) => one == other,
        (JsonValue::Float(one), JsonValue::Float(other)) => one == other,
        (JsonValue::String(one), JsonValue::String(other)) => one == other,
        (JsonValue::Array(mut one), JsonValue::Array(mut other)) => {
            pace::goes_on(one.len())
                && one.len() == other.len()
                && one.all(|(_, one)| other.next().is_some_and(|(_, other)| equal(one, other, numbers)))
        }
        (JsonValue::Object(one), JsonValue::Object(other)) => {
            one.len() == other.len() && equal_members(one, other, numbers)
        }
        (one, other) if numbers == Numbers::ByValue => match (one.as_float(), other.as_float()) {
            (Some(one), Some(other)) => one == other,
            _ => false,
        },
        _ => false,
    }
}

fn equal_members(one: Children<'_>, other: Children<'_>, numbers: Numbers) -> bool {
    pace::step(one.len());
    let (mut rest, mut rest_of_other) = (one, other);
    // As a rule they are in the same order.
    loop {
        let (before, before_of_other) = (rest, rest_of_other);
        match (rest.next(), rest_of_other.next()) {
            (None, None) => return true,
            (Some((name, one)), Some((name_of_other, other))) if name == name_of_other => {
                if !equal(one, other, numbers) {
                    return false;
                }
            }
            _ => return equal_in_any_order(before, before_of_other, numbers),
        }
    }
}

fn equal_in_any_order(mut one: Children<'_>, other: Children<'_>, numbers: Numbers) -> bool {
    if one.len() <= FEW {
        return one.all(|(name, one)| {
            let mut other = other;
            other.find(|(other, _)| *other == name).is_some_and(|(_, other)| equal(one, other, numbers))
        });
    }
    // Names of other lengths are not looked at: they may be far longer than the object that is compared with them.
    let bytes = |members: Children<'_>| members.map(|(name, _)| name.map_or(0, <[u8]>::len)).sum::<usize>();
    if bytes(one) != bytes(other) {
        return false;
    }
    let mut by_name = HashMap::with_capacity(other.len());
    by_name.extend(other);
    one.all(|(name, one)| by_name.get(&name).is_some_and(|other| equal(one, *other, numbers)))
}

impl JsonValue<'_> {
    /// The nearest float of a number.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Unsigned(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }
}
