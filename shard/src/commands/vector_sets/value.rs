//! Values of filters, and of the attributes that they look at.

use std::borrow::Cow;

use crate::commands::args::parse_bound;

/// The length of a number's text, at most.
pub(super) const NUMBER_BYTES_MAX: usize = 255;

/// A value while a filter is applied.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Number(f64),
    Text(Cow<'a, [u8]>),
    Tuple(Vec<Value<'a>>),
    /// A list of the filter itself.
    Listed(&'a [Value<'a>]),
    /// The text of an array of attributes, which is well-formed.
    Array(&'a [u8]),
    Null,
}

impl<'a> Value<'a> {
    /// The value as a number: 0 for all but numbers and texts of them.
    pub fn number(&self) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) if text.len() <= NUMBER_BYTES_MAX => match parse_bound(text) {
                None if text.eq_ignore_ascii_case(b"nan") => f64::NAN,
                number => number.unwrap_or(0.0),
            },
            Self::Text(_) | Self::Tuple(_) | Self::Listed(_) | Self::Array(_) | Self::Null => 0.0,
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Self::Number(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Tuple(_) | Self::Listed(_) | Self::Array(_) => true,
            Self::Null => false,
        }
    }

    pub fn equals(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Text(one), Value::Text(other)) => one == other,
            (Self::Null, other) => matches!(other, Value::Null),
            (_, Value::Null) => false,
            (one, other) => one.number() == other.number(),
        }
    }

    pub fn is_in(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Text(part), Value::Text(whole)) => memchr::memmem::find(whole, part).is_some(),
            (_, Value::Tuple(values)) => self.is_among(values.iter().map(Value::borrowed)),
            (_, Value::Listed(values)) => self.is_among(values.iter().map(Value::borrowed)),
            _ => false,
        }
    }

    pub fn is_among<'v>(&self, mut values: impl Iterator<Item = Value<'v>>) -> bool {
        // A text is read as a number once, not for each of them.
        let number = match self {
            Self::Text(_) => Value::Number(self.number()),
            value => value.borrowed(),
        };
        values.any(|value| match value {
            Value::Text(_) => self.equals(&value),
            value => number.equals(&value),
        })
    }

    /// The same, without a copy.
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Number(number) => Value::Number(*number),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Tuple(values) => Value::Listed(values),
            Self::Listed(values) => Value::Listed(values),
            Self::Array(text) => Value::Array(text),
            Self::Null => Value::Null,
        }
    }
}

/// The number that a text spells.
pub(super) fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
