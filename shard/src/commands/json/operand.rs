//! What the expressions in a path come to, how they compare, and the functions over them.
//!
//! A path in an expression comes to nothing, to one value, or to several. Several compare if any of them does. One array is
//! what the operators over sets look into, and so are several values.

use std::borrow::Cow;
use std::cmp::Ordering;

use dormouse_types::json::{self, Children, JsonNode, JsonValue, Numbers, equal};
use dormouse_types::pace;

use super::steps::{Comparison, Function, Operator, Pattern, Sign};
use crate::error::{Error, Result};

pub const TOO_MUCH: Error = Error::text("ERR the path looks at too many values");

/// Values that a path may look at.
const WORK_MAX: usize = 1 << 25;
/// Bytes of the values that a path may compute.
const COMPUTED_BYTES_MAX: usize = 16 << 20;
/// The work of compiling a pattern that is a value.
const PATTERN_WORK: usize = 20_000;
/// Bytes that are looked at in about the time of one value.
const BYTES_PER_VALUE: usize = 16;

/// The work that a path may still do.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    values: usize,
    bytes: usize,
}

impl Budget {
    pub fn new() -> Self {
        Self { values: WORK_MAX, bytes: COMPUTED_BYTES_MAX }
    }

    pub fn work(&mut self, values: usize) -> Result<()> {
        pace::step(values);
        self.values = self.values.checked_sub(values).ok_or(TOO_MUCH)?;
        Ok(())
    }

    fn computed(&mut self, bytes: usize) -> Result<()> {
        self.work(1 + bytes / BYTES_PER_VALUE)?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or(TOO_MUCH)?;
        Ok(())
    }
}

/// What an expression comes to.
#[derive(Clone)]
pub enum Operand<'t> {
    Nothing,
    /// A value of the document.
    Node(JsonNode<'t>),
    /// Two values of the document, or more.
    Nodes(Vec<JsonNode<'t>>),
    /// A value that is written in the path, or computed.
    Value(Cow<'t, [u8]>),
    /// Any number of computed values: the elements of an encoded array.
    Values(Vec<u8>),
}

/// One of the values of an operand.
#[derive(Clone, Copy)]
struct Single<'a> {
    node: JsonNode<'a>,
    is_of_document: bool,
}

/// Values one after the other.
#[derive(Clone)]
enum Nodes<'a> {
    One(Option<JsonNode<'a>>),
    Several(std::slice::Iter<'a, JsonNode<'a>>),
    Elements(Children<'a>),
}

impl Nodes<'_> {
    fn len(&self) -> usize {
        match self {
            Self::One(one) => usize::from(one.is_some()),
            Self::Several(nodes) => nodes.len(),
            Self::Elements(children) => children.len(),
        }
    }
}

impl<'a> Iterator for Nodes<'a> {
    type Item = JsonNode<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(one) => one.take(),
            Self::Several(nodes) => nodes.next().copied(),
            Self::Elements(children) => children.next().map(|(_, element)| element),
        }
    }
}

#[derive(Clone, Copy)]
enum Number {
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

    fn as_float(self) -> f64 {
        match self {
            Self::Integer(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    /// The integer without the fraction, if it has 64 bits.
    fn truncated(self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(number),
            Self::Float(number) => to_integer(number.trunc()),
        }
    }
}

/// A whole float as an integer, if it has 64 bits.
fn to_integer(number: f64) -> Option<i64> {
    // The float of `i64::MAX` is one more.
    (number >= i64::MIN as f64 && number < i64::MAX as f64).then_some(number as i64)
}

impl<'t> Operand<'t> {
    /// The values that a path leads to.
    pub fn of_nodes(mut nodes: Vec<JsonNode<'t>>) -> Self {
        match nodes.len() {
            0 => Self::Nothing,
            1 => nodes.pop().map_or(Self::Nothing, Self::Node),
            _ => Self::Nodes(nodes),
        }
    }

    /// Encoded bytes that are written in the path.
    pub fn written(encoded: &'t [u8]) -> Self {
        Self::Value(Cow::Borrowed(encoded))
    }

    fn computed(encode: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut encoded = Vec::new();
        encode(&mut encoded);
        Self::Value(Cow::Owned(encoded))
    }

    fn integer(number: i64) -> Self {
        Self::computed(|out| json::put_integer(out, number))
    }

    /// Nothing where the result is beyond the range of floats.
    fn float(number: f64) -> Self {
        if number.is_finite() { Self::computed(|out| json::put_float(out, number)) } else { Self::Nothing }
    }

    fn number(number: Number) -> Self {
        match number {
            Number::Integer(number) => Self::integer(number),
            Number::Float(number) => Self::float(number),
        }
    }

    /// The value, if it is one.
    fn single(&self) -> Option<Single<'_>> {
        match self {
            Self::Node(node) => Some(Single { node: *node, is_of_document: true }),
            Self::Value(encoded) => Some(Single { node: JsonNode::of(encoded), is_of_document: false }),
            Self::Nothing | Self::Nodes(_) | Self::Values(_) => None,
        }
    }

    /// All values, each by itself.
    fn singles(&self) -> impl Iterator<Item = Single<'_>> + Clone {
        let is_of_document = matches!(self, Self::Node(_) | Self::Nodes(_));
        self.nodes().map(move |node| Single { node, is_of_document })
    }

    fn nodes(&self) -> Nodes<'_> {
        match self {
            Self::Nothing => Nodes::One(None),
            Self::Node(node) => Nodes::One(Some(*node)),
            Self::Nodes(nodes) => Nodes::Several(nodes.iter()),
            Self::Value(encoded) => Nodes::One(Some(JsonNode::of(encoded))),
            Self::Values(array) => Nodes::Elements(JsonNode::of(array).children()),
        }
    }

    /// The values that operators over sets and functions over lists look at: several, or those in one array.
    fn elements(&self) -> Option<Nodes<'_>> {
        match self {
            Self::Nodes(_) | Self::Values(_) => Some(self.nodes()),
            one => one.single().and_then(|single| elements_of(single.node)),
        }
    }

    fn as_number(&self) -> Option<Number> {
        self.single().and_then(|single| Number::of(single.node))
    }

    fn as_string(&self) -> Option<&[u8]> {
        self.single().and_then(|single| single.node.string())
    }

    /// What it says as a condition: its value if that is a boolean of the path or a function, and whether there is any
    /// value otherwise.
    pub fn holds(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Node(_) | Self::Nodes(_) => true,
            Self::Value(encoded) => !matches!(JsonNode::of(encoded).value(), JsonValue::Bool(false)),
            Self::Values(array) => !JsonNode::of(array).is_empty(),
        }
    }

    /// Appends the values of a computed path.
    pub fn put(&self, budget: &mut Budget, out: &mut Vec<u8>) -> Result<()> {
        if let Self::Nodes(_) = self {
            // Several values are one array, unless they were computed.
            let (mut elements, mut count) = (Vec::new(), 0);
            for node in self.nodes() {
                budget.computed(node.bytes().len())?;
                elements.extend_from_slice(node.bytes());
                count += 1;
            }
            json::put_array(out, &elements, count);
            return Ok(());
        }
        for node in self.nodes() {
            budget.computed(node.bytes().len())?;
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
pub fn compare(budget: &mut Budget, one: &Operand<'_>, comparison: Comparison, other: &Operand<'_>) -> Result<bool> {
    let ordered = |budget: &mut Budget, holds: fn(Ordering) -> bool| {
        any_pair(budget, one, other, |one, other| order(one.node, other.node).is_some_and(holds))
    };
    match comparison {
        Comparison::Equal => any_pair(budget, one, other, same),
        Comparison::NotEqual => any_pair(budget, one, other, same).map(|found| !found),
        Comparison::Less => ordered(budget, Ordering::is_lt),
        Comparison::LessOrEqual => ordered(budget, Ordering::is_le),
        Comparison::Greater => ordered(budget, Ordering::is_gt),
        Comparison::GreaterOrEqual => ordered(budget, Ordering::is_ge),
        Comparison::In => is_in(budget, one, other),
        Comparison::NotIn => is_in(budget, one, other).map(|found| !found),
        Comparison::SubsetOf => relates(budget, one, other, true),
        Comparison::AnyOf => relates(budget, one, other, false),
        Comparison::NoneOf => relates(budget, one, other, false).map(|found| !found),
        Comparison::Size => Ok(has_length(one, |length| {
            other.nodes().any(|size| {
                let size = Number::of(size).and_then(Number::truncated);
                size.is_some_and(|size| usize::try_from(size) == Ok(length))
            })
        })),
        Comparison::Empty => Ok(has_length(one, |length| {
            other.nodes().any(|wanted| match wanted.value() {
                JsonValue::Bool(wanted) => wanted == (length == 0),
                _ => false,
            })
        })),
    }
}

/// Whether a string matches a pattern. `known`: the pattern, if it is written in the path.
pub fn matches(
    budget: &mut Budget,
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
                budget.work(PATTERN_WORK)?;
                own = compile(pattern);
                &own
            }
        };
        for text in text.nodes().filter_map(JsonNode::string) {
            budget.work(1 + text.len() / BYTES_PER_VALUE)?;
            if pattern.is_in(text) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The work of comparing two values.
fn work_of_pair(budget: &mut Budget, one: JsonNode<'_>, other: JsonNode<'_>) -> Result<()> {
    budget.work(1 + one.bytes().len().min(other.bytes().len()) / BYTES_PER_VALUE)
}

/// Whether any value of one operand and any of another are what is asked for.
fn any_pair(
    budget: &mut Budget,
    one: &Operand<'_>,
    other: &Operand<'_>,
    holds: impl Fn(Single<'_>, Single<'_>) -> bool,
) -> Result<bool> {
    let others = other.singles();
    for one in one.singles() {
        for other in others.clone() {
            work_of_pair(budget, one.node, other.node)?;
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
fn is_in(budget: &mut Budget, one: &Operand<'_>, all: &Operand<'_>) -> Result<bool> {
    let Some(all) = all.elements() else { return Ok(false) };
    // Several values do not equal numbers of another type; computed ones equal nothing.
    let is_equal: fn(JsonNode<'_>, JsonNode<'_>) -> bool = match one {
        Operand::Values(_) => return Ok(false),
        Operand::Nodes(_) => |one, element| equal(one, element, Numbers::OfOneType),
        _ => same_element,
    };
    for one in one.nodes() {
        for element in all.clone() {
            work_of_pair(budget, one, element)?;
            if is_equal(one, element) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether all elements of one array, or any, are elements of another operand.
fn relates(budget: &mut Budget, one: &Operand<'_>, other: &Operand<'_>, all: bool) -> Result<bool> {
    let others = other.elements().unwrap_or(Nodes::One(None));
    let mut relates = |array: Nodes<'_>| {
        for element in array {
            let mut found = false;
            for other in others.clone() {
                work_of_pair(budget, element, other)?;
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
        Operand::Nodes(nodes) => {
            for array in nodes.iter().filter_map(|node| elements_of(*node)) {
                if relates(array)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        one => one.elements().map_or(Ok(false), relates),
    }
}

/// Whether any value has a length as it should.
fn has_length(operand: &Operand<'_>, holds: impl Fn(usize) -> bool) -> bool {
    match operand {
        Operand::Values(array) => holds(JsonNode::of(array).len()),
        operand => operand.nodes().filter_map(length).any(holds),
    }
}

/// The characters of a string, or the elements or members of a container.
fn length(node: JsonNode<'_>) -> Option<usize> {
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

/// The result of an operator, which is nothing unless both are numbers.
pub fn calculate<'t>(one: &Operand<'t>, operator: Operator, other: &Operand<'t>) -> Operand<'t> {
    let (Some(one), Some(other)) = (one.as_number(), other.as_number()) else { return Operand::Nothing };
    let whole = match (one, other) {
        (Number::Integer(one), Number::Integer(other)) => match operator {
            Operator::Add => one.checked_add(other),
            Operator::Subtract => one.checked_sub(other),
            Operator::Multiply => one.checked_mul(other),
            Operator::Divide => None,
            Operator::Remainder => return one.checked_rem(other).map_or(Operand::Nothing, Operand::integer),
        },
        _ => None,
    };
    let (first, second) = (one.as_float(), other.as_float());
    match (whole, operator) {
        (Some(whole), _) => Operand::integer(whole),
        (None, Operator::Add) => Operand::float(first + second),
        (None, Operator::Subtract) => Operand::float(first - second),
        (None, Operator::Multiply) => Operand::float(first * second),
        // By zero they are not finite.
        (None, Operator::Divide) => Operand::float(first / second),
        (None, Operator::Remainder) => Operand::float(first % second),
    }
}

/// A number with a sign before it.
pub fn signed<'t>(operand: &Operand<'t>, sign: Sign) -> Operand<'t> {
    match (operand.as_number(), sign) {
        (None, _) => Operand::Nothing,
        (Some(number), Sign::Plus) => Operand::number(number),
        (Some(Number::Integer(number)), Sign::Minus) => {
            number.checked_neg().map_or_else(|| Operand::float(-(number as f64)), Operand::integer)
        }
        (Some(Number::Float(number)), Sign::Minus) => Operand::float(-number),
    }
}

/// The result of a function.
pub fn call<'t>(budget: &mut Budget, function: &Function, arguments: &[Operand<'t>]) -> Result<Operand<'t>> {
    let none = Operand::Nothing;
    let (first, second) = (arguments.first().unwrap_or(&none), arguments.get(1).unwrap_or(&none));
    let bytes: usize = first.single().map_or(0, |single| single.node.bytes().len());
    budget.work(1 + bytes / BYTES_PER_VALUE)?;
    let count = |count: usize| Operand::integer(count as i64);
    Ok(match function {
        Function::Length => match first {
            Operand::Values(array) => count(JsonNode::of(array).len()),
            one => one.single().and_then(|single| length(single.node)).map_or(Operand::Nothing, count),
        },
        Function::Count => count(first.nodes().len()),
        Function::Value => match first {
            Operand::Node(node) => Operand::Node(*node),
            Operand::Values(array) if JsonNode::of(array).len() == 1 => element(budget, first, 0)?,
            _ => Operand::Nothing,
        },
        Function::Ceiling => rounded(first, f64::ceil),
        Function::Floor => rounded(first, f64::floor),
        Function::Abs => match first.as_number() {
            Some(Number::Integer(number)) => number.checked_abs().map_or(Operand::Nothing, Operand::integer),
            Some(Number::Float(number)) => Operand::float(number.abs()),
            None => Operand::Nothing,
        },
        Function::Concat => {
            let mut joined = Vec::new();
            for argument in arguments {
                let Some(string) = argument.as_string() else { return Ok(Operand::Nothing) };
                budget.computed(string.len())?;
                joined.extend_from_slice(string);
            }
            Operand::computed(|out| json::put_string(out, &joined))
        }
        Function::Sum | Function::Min | Function::Max | Function::Average | Function::Deviation => {
            aggregated(budget, function, first)?
        }
        Function::First => element(budget, first, 0)?,
        Function::Last => element(budget, first, -1)?,
        Function::Index => match second.as_number().and_then(Number::truncated) {
            Some(index) => element(budget, first, index)?,
            None => Operand::Nothing,
        },
        Function::Keys => keys(budget, first)?,
        Function::Append => append(budget, first, second)?,
        Function::Match(known) => is_match(budget, first, second, known.as_ref(), Pattern::whole)?,
        Function::Search(known) => is_match(budget, first, second, known.as_ref(), Pattern::new)?,
        Function::Unknown => Operand::Nothing,
    })
}

/// Only one string is matched with one pattern.
fn is_match<'t>(
    budget: &mut Budget,
    text: &Operand<'_>,
    pattern: &Operand<'_>,
    known: Option<&Pattern>,
    compile: fn(&[u8]) -> Pattern,
) -> Result<Operand<'t>> {
    let are_single = text.single().is_some() && pattern.single().is_some();
    let found = are_single && matches(budget, text, pattern, known, compile)?;
    Ok(Operand::computed(|out| json::put_bool(out, found)))
}

fn rounded<'t>(operand: &Operand<'_>, round: fn(f64) -> f64) -> Operand<'t> {
    let number = match operand.as_number() {
        Some(Number::Integer(number)) => Some(number),
        Some(Number::Float(number)) => to_integer(round(number)),
        None => None,
    };
    number.map_or(Operand::Nothing, Operand::integer)
}

/// The result of a function over numbers; nothing if there are none, or something else among them.
fn aggregated<'t>(budget: &mut Budget, function: &Function, operand: &Operand<'_>) -> Result<Operand<'t>> {
    let Some(elements) = operand.elements().filter(|elements| elements.len() > 0) else { return Ok(Operand::Nothing) };
    let (count, mut sum) = (elements.len() as f64, 0.0);
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    budget.work(2 * elements.len())?;
    for element in elements.clone() {
        let Some(number) = element.value().as_float() else { return Ok(Operand::Nothing) };
        sum += number;
        (least, most) = (least.min(number), most.max(number));
    }
    Ok(Operand::float(match function {
        Function::Min => least,
        Function::Max => most,
        Function::Average => sum / count,
        Function::Deviation => {
            let numbers = elements.filter_map(|element| element.value().as_float());
            (numbers.map(|number| (number - sum / count).powi(2)).sum::<f64>() / count).sqrt()
        }
        _ => sum,
    }))
}

/// An element of an array, or one of several values. Negative numbers count from the end.
fn element<'t>(budget: &mut Budget, operand: &Operand<'t>, index: i64) -> Result<Operand<'t>> {
    let position = |len: usize| {
        let index = if index < 0 { index.checked_add(len as i64)? } else { index };
        usize::try_from(index).ok().filter(|index| *index < len)
    };
    let of_computed = |budget: &mut Budget, array: JsonNode<'_>| {
        let Some(element) = position(array.len()).and_then(|index| array.element(index)) else {
            return Ok(Operand::Nothing);
        };
        budget.computed(element.bytes().len())?;
        Ok(Operand::Value(Cow::Owned(element.bytes().to_vec())))
    };
    match operand {
        Operand::Nothing => Ok(Operand::Nothing),
        Operand::Node(node) => {
            let element = position(node.len()).and_then(|index| node.element(index));
            Ok(element.map_or(Operand::Nothing, Operand::Node))
        }
        Operand::Nodes(nodes) => {
            Ok(position(nodes.len()).map_or(Operand::Nothing, |index| Operand::Node(nodes[index])))
        }
        Operand::Value(encoded) => of_computed(budget, JsonNode::of(encoded)),
        Operand::Values(array) => of_computed(budget, JsonNode::of(array)),
    }
}

/// The names of the members of objects.
fn keys<'t>(budget: &mut Budget, operand: &Operand<'_>) -> Result<Operand<'t>> {
    // One value that is no object has no names, and is not an object without members.
    match operand {
        Operand::Values(_) => return Ok(Operand::Nothing),
        Operand::Nodes(_) => {}
        one if one.nodes().any(JsonNode::is_object) => {}
        _ => return Ok(Operand::Nothing),
    }
    let (mut names, mut count) = (Vec::new(), 0);
    for object in operand.nodes().filter(|node| node.is_object()) {
        budget.computed(object.bytes().len())?;
        for (name, _) in object.children() {
            json::put_string(&mut names, name.unwrap_or_default());
            count += 1;
        }
    }
    let mut array = Vec::new();
    json::put_array(&mut array, &names, count);
    Ok(Operand::Values(array))
}

/// The values of an operand, or the elements of an array, with another value behind them.
fn append<'t>(budget: &mut Budget, operand: &Operand<'_>, more: &Operand<'_>) -> Result<Operand<'t>> {
    let (mut values, mut count) = (Vec::new(), 0);
    let mut put = |budget: &mut Budget, node: JsonNode<'_>| {
        budget.computed(node.bytes().len())?;
        values.extend_from_slice(node.bytes());
        count += 1;
        Ok::<_, Error>(())
    };
    let mut before = operand.elements().unwrap_or_else(|| operand.nodes());
    before.try_for_each(|node| put(budget, node))?;
    let mut one = Vec::new();
    match more {
        Operand::Nothing => return Ok(Operand::Nothing),
        // Several values become one.
        Operand::Values(array) => one.extend_from_slice(array),
        more => more.put(budget, &mut one)?,
    }
    put(budget, JsonNode::of(&one))?;
    let mut array = Vec::new();
    json::put_array(&mut array, &values, count);
    Ok(Operand::Values(array))
}
