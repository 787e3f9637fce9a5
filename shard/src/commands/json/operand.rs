//! The results of the expressions in a path, and how they compare.
//!
//! A path in an expression has no value, one, or several. Several compare if any of them does. One array is
//! what the operators over sets look into, and so are several values.

use std::borrow::Cow;
use std::cmp::Ordering;

use dormouse_types::json::{self, Children, JsonNode, JsonValue, Numbers, equal};
use dormouse_types::pace;

use super::steps::{Comparison, Pattern};
use crate::error::{Error, Result};

pub const TOO_MUCH: Error = Error::text("ERR the path looks at too many values");

/// Values that a path may look at.
const WORK_MAX: usize = 1 << 25;
/// Bytes of the values that a path may compute.
const COMPUTED_BYTES_MAX: usize = 16 << 20;
/// The work of compiling a pattern that is a value.
const PATTERN_WORK: usize = 20_000;
/// Steps of a pattern's machine in about the time of one value.
const STEPS_PER_VALUE: usize = 16;
/// Bytes that are looked at in about the time of one value.
pub const BYTES_PER_VALUE: usize = 16;

/// The work that a path may still do.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    values: usize,
    bytes: usize,
}

impl Allowance {
    pub fn new() -> Self {
        Self { values: WORK_MAX, bytes: COMPUTED_BYTES_MAX }
    }

    pub fn work(&mut self, values: usize) -> Result<()> {
        pace::step(values);
        self.values = self.values.checked_sub(values).ok_or(TOO_MUCH)?;
        Ok(())
    }

    pub fn computed(&mut self, bytes: usize) -> Result<()> {
        self.work(1 + bytes / BYTES_PER_VALUE)?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(TOO_MUCH)?;
        Ok(())
    }
}

/// The result of an expression.
#[derive(Clone)]
pub enum Operand<'t> {
    Nothing,
    /// A value of the document.
    Node(JsonNode<'t>),
    /// Two values of the document, or more: any value of it, and their offsets.
    Nodes(JsonNode<'t>, Vec<u32>),
    /// A value that is written in the path, or computed.
    Value(Cow<'t, [u8]>),
    /// Any number of computed values: the elements of an encoded array.
    Values(Vec<u8>),
}

/// One of the values of an operand.
#[derive(Clone, Copy)]
pub struct Single<'a> {
    pub node: JsonNode<'a>,
    pub is_of_document: bool,
}

/// Values one after the other.
#[derive(Clone)]
pub enum Nodes<'a> {
    One(Option<JsonNode<'a>>),
    Several(JsonNode<'a>, std::slice::Iter<'a, u32>),
    Elements(Children<'a>),
}

impl Nodes<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::One(one) => usize::from(one.is_some()),
            Self::Several(_, places) => places.len(),
            Self::Elements(children) => children.len(),
        }
    }
}

impl<'a> Iterator for Nodes<'a> {
    type Item = JsonNode<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(one) => one.take(),
            Self::Several(document, places) => places.next().map(|at| document.at_same(*at as usize)),
            Self::Elements(children) => children.next().map(|(_, element)| element),
        }
    }
}

#[derive(Clone, Copy)]
pub enum Number {
    Integer(i64),
    Float(f64),
}

impl Number {
    fn of(node: JsonNode<'_>) -> Option<Self> {
        match node.value() {
            JsonValue::Integer(number) => Some(Self::Integer(number)),
            value => value.as_float().map(Self::Float),
        }
    }

    pub fn as_float(self) -> f64 {
        match self {
            Self::Integer(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    /// The integer without the fraction, if it has 64 bits.
    pub fn truncated(self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(number),
            Self::Float(number) => to_integer(number.trunc()),
        }
    }
}

/// A whole float as an integer, if it has 64 bits.
pub fn to_integer(number: f64) -> Option<i64> {
    // The float of `i64::MAX` is one more.
    (number >= i64::MIN as f64 && number < i64::MAX as f64).then_some(number as i64)
}

impl<'t> Operand<'t> {
    /// Encoded bytes that are written in the path.
    pub fn written(encoded: &'t [u8]) -> Self {
        Self::Value(Cow::Borrowed(encoded))
    }

    pub fn computed(encode: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut encoded = Vec::new();
        encode(&mut encoded);
        Self::Value(Cow::Owned(encoded))
    }

    pub fn integer(number: i64) -> Self {
        Self::computed(|out| json::put_integer(out, number))
    }

    /// Nothing where the result is beyond the range of floats.
    pub fn float(number: f64) -> Self {
        if number.is_finite() { Self::computed(|out| json::put_float(out, number)) } else { Self::Nothing }
    }

    pub fn number(number: Number) -> Self {
        match number {
            Number::Integer(number) => Self::integer(number),
            Number::Float(number) => Self::float(number),
        }
    }

    /// The value, if it is one.
    pub fn single(&self) -> Option<Single<'_>> {
        match self {
            Self::Node(node) => Some(Single { node: *node, is_of_document: true }),
            Self::Value(encoded) => Some(Single { node: JsonNode::of(encoded), is_of_document: false }),
            Self::Nothing | Self::Nodes(..) | Self::Values(_) => None,
        }
    }

    /// All values, each by itself.
    fn singles(&self) -> impl Iterator<Item = Single<'_>> + Clone {
        let is_of_document = matches!(self, Self::Node(_) | Self::Nodes(..));
        self.nodes().map(move |node| Single { node, is_of_document })
    }

    pub fn nodes(&self) -> Nodes<'_> {
        match self {
            Self::Nothing => Nodes::One(None),
            Self::Node(node) => Nodes::One(Some(*node)),
            Self::Nodes(document, places) => Nodes::Several(*document, places.iter()),
            Self::Value(encoded) => Nodes::One(Some(JsonNode::of(encoded))),
            Self::Values(array) => Nodes::Elements(JsonNode::of(array).children()),
        }
    }

    /// The values that operators over sets and functions over lists look at: several, or those in one array.
    pub fn elements(&self) -> Option<Nodes<'_>> {
        match self {
            Self::Nodes(..) | Self::Values(_) => Some(self.nodes()),
            one => one.single().and_then(|single| elements_of(single.node)),
        }
    }

    pub fn as_number(&self) -> Option<Number> {
        self.single().and_then(|single| Number::of(single.node))
    }

    pub fn as_string(&self) -> Option<&[u8]> {
        self.single().and_then(|single| single.node.string())
    }

    /// Whether it holds as a condition: its value if that is a boolean of the path or a function, and whether there is any
    /// value otherwise.
    pub fn holds(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Node(_) | Self::Nodes(..) => true,
            Self::Value(encoded) => !matches!(JsonNode::of(encoded).value(), JsonValue::Bool(false)),
            Self::Values(array) => !JsonNode::of(array).is_empty(),
        }
    }

    /// Appends the values of a computed path.
    pub fn put(&self, allowance: &mut Allowance, out: &mut Vec<u8>) -> Result<()> {
        if let Self::Nodes(..) = self {
            // Several values are one array, unless they were computed.
            let (mut elements, mut count) = (Vec::new(), 0);
            for node in self.nodes() {
                allowance.computed(node.bytes().len())?;
                elements.extend_from_slice(node.bytes());
                count += 1;
            }
            json::put_array(out, &elements, count);
            return Ok(());
        }
        for node in self.nodes() {
            allowance.computed(node.bytes().len())?;
            out.extend_from_slice(node.bytes());
        }
        Ok(())
    }
}

/// The elements of an array.
fn elements_of(node: JsonNode<'_>) -> Option<Nodes<'_>> {
    node.is_array().then(|| Nodes::Elements(node.children()))
}

/// Whether two operands compare as they should.
pub fn compare(
    allowance: &mut Allowance,
    one: &Operand<'_>,
    comparison: Comparison,
    other: &Operand<'_>,
) -> Result<bool> {
    let ordered = |allowance: &mut Allowance, holds: fn(Ordering) -> bool| {
        any_pair(allowance, one, other, |one, other| order(one.node, other.node).is_some_and(holds))
    };
    match comparison {
        Comparison::Equal => any_pair(allowance, one, other, same),
        Comparison::NotEqual => any_pair(allowance, one, other, same).map(|found| !found),
        Comparison::Less => ordered(allowance, Ordering::is_lt),
        Comparison::LessOrEqual => ordered(allowance, Ordering::is_le),
        Comparison::Greater => ordered(allowance, Ordering::is_gt),
        Comparison::GreaterOrEqual => ordered(allowance, Ordering::is_ge),
        Comparison::In => is_in(allowance, one, other),
        Comparison::NotIn => is_in(allowance, one, other).map(|found| !found),
        Comparison::SubsetOf => relates(allowance, one, other, true),
        Comparison::AnyOf => relates(allowance, one, other, false),
        Comparison::NoneOf => relates(allowance, one, other, false).map(|found| !found),
        Comparison::Size => any_length(allowance, one, other, |length, size| {
            let size = Number::of(size).and_then(Number::truncated);
            size.is_some_and(|size| usize::try_from(size) == Ok(length))
        }),
        Comparison::Empty => any_length(allowance, one, other, |length, wanted| match wanted.value() {
            JsonValue::Bool(wanted) => wanted == (length == 0),
            _ => false,
        }),
    }
}

/// Whether a string matches a pattern. `known`: the pattern, if it is written in the path.
pub fn matches(
    allowance: &mut Allowance,
    text: &Operand<'_>,
    pattern: &Operand<'_>,
    known: Option<&Pattern>,
    compile: fn(&[u8]) -> Pattern,
) -> Result<bool> {
    for pattern in pattern.nodes().filter_map(JsonNode::string) {
        let own;
        let pattern = match known {
            Some(pattern) => pattern,
            None => {
                allowance.work(PATTERN_WORK)?;
                own = compile(pattern);
                &own
            }
        };
        for text in text.nodes().filter_map(JsonNode::string) {
            allowance.work(1 + text.len() / BYTES_PER_VALUE)?;
            if pattern.is_in(text, |steps| allowance.work(steps / STEPS_PER_VALUE))? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The work of comparing two values.
fn work_of_pair(allowance: &mut Allowance, one: JsonNode<'_>, other: JsonNode<'_>) -> Result<()> {
    allowance.work(1 + one.bytes().len().min(other.bytes().len()) / BYTES_PER_VALUE)
}

/// Whether any value of one operand and any of another are what is asked for.
fn any_pair(
    allowance: &mut Allowance,
    one: &Operand<'_>,
    other: &Operand<'_>,
    holds: impl Fn(Single<'_>, Single<'_>) -> bool,
) -> Result<bool> {
    let others = other.singles();
    for one in one.singles() {
        for other in others.clone() {
            work_of_pair(allowance, one.node, other.node)?;
            if holds(one, other) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether two values are equal. Numbers in a container that is written in the path have to be of one type.
fn same(one: Single<'_>, other: Single<'_>) -> bool {
    let is_written = |single: Single<'_>| !single.is_of_document && single.node.is_container();
    let numbers = if is_written(one) || is_written(other) { Numbers::OfOneType } else { Numbers::ByValue };
    equal(one.node, other.node, numbers)
}

/// Whether two elements are equal. Numbers in them have to be of one type.
fn same_element(one: JsonNode<'_>, other: JsonNode<'_>) -> bool {
    let numbers = if one.is_container() { Numbers::OfOneType } else { Numbers::ByValue };
    equal(one, other, numbers)
}

/// Whether an operand is one of the elements of another.
fn is_in(allowance: &mut Allowance, one: &Operand<'_>, all: &Operand<'_>) -> Result<bool> {
    let Some(all) = all.elements() else { return Ok(false) };
    // Several values do not equal numbers of another type; computed ones equal nothing.
    let is_equal: fn(JsonNode<'_>, JsonNode<'_>) -> bool = match one {
        Operand::Values(_) => return Ok(false),
        Operand::Nodes(..) => |one, element| equal(one, element, Numbers::OfOneType),
        _ => same_element,
    };
    for one in one.nodes() {
        for element in all.clone() {
            work_of_pair(allowance, one, element)?;
            if is_equal(one, element) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether all elements of one array, or any, are elements of another operand.
fn relates(allowance: &mut Allowance, one: &Operand<'_>, other: &Operand<'_>, all: bool) -> Result<bool> {
    let others = other.elements().unwrap_or(Nodes::One(None));
    let mut relates = |array: Nodes<'_>| {
        for element in array {
            let mut found = false;
            for other in others.clone() {
                work_of_pair(allowance, element, other)?;
                found = same_element(element, other);
                if found {
                    break;
                }
            }
            if found != all {
                return Ok(!all);
            }
        }
        Ok(all)
    };
    match one {
        Operand::Nodes(..) => {
            for array in one.nodes().filter_map(elements_of) {
                if relates(array)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        one => one.elements().map_or(Ok(false), relates),
    }
}

/// Whether any value has a length as one of another operand says.
fn any_length(
    allowance: &mut Allowance,
    operand: &Operand<'_>,
    wanted: &Operand<'_>,
    holds: fn(usize, JsonNode<'_>) -> bool,
) -> Result<bool> {
    let nodes = match operand {
        Operand::Values(array) => Nodes::One(Some(JsonNode::of(array))),
        operand => operand.nodes(),
    };
    // Several computed values ask for nothing.
    let wanted = if let Operand::Values(_) = wanted { Nodes::One(None) } else { wanted.nodes() };
    for node in nodes {
        // The characters of a string are counted.
        allowance.work(1 + node.string().map_or(0, <[u8]>::len) / BYTES_PER_VALUE)?;
        let Some(length) = length(node) else { continue };
        for wanted in wanted.clone() {
            allowance.work(1)?;
            if holds(length, wanted) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The characters of a string, or the elements or members of a container.
pub fn length(node: JsonNode<'_>) -> Option<usize> {
    match node.value() {
        JsonValue::String(bytes) => Some(bytes.iter().filter(|byte| (**byte as i8) >= -0x40).count()),
        JsonValue::Array(children) | JsonValue::Object(children) => Some(children.len()),
        _ => None,
    }
}

/// The order of two values of one type that has one.
fn order(one: JsonNode<'_>, other: JsonNode<'_>) -> Option<Ordering> {
    match (one.value(), other.value()) {
        (JsonValue::Null, JsonValue::Null) => Some(Ordering::Equal),
        (JsonValue::Bool(one), JsonValue::Bool(other)) => Some(one.cmp(&other)),
        (JsonValue::String(one), JsonValue::String(other)) => Some(one.cmp(other)),
        (JsonValue::Integer(one), JsonValue::Integer(other)) => Some(one.cmp(&other)),
        (JsonValue::Unsigned(one), JsonValue::Unsigned(other)) => Some(one.cmp(&other)),
        (one, other) => one.as_float()?.partial_cmp(&other.as_float()?),
    }
}
