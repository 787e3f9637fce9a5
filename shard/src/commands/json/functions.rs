//! Operators and functions over what the expressions in a path come to. What they are not defined for comes to nothing.

use std::borrow::Cow;

use dormouse_types::json::{self, JsonNode};

use super::operand::{Allowance, BYTES_PER_VALUE, Number, Operand, length, matches, to_integer};
use super::steps::{Function, Operator, Pattern, Sign};
use crate::error::{Error, Result};

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
pub fn call<'t>(allowance: &mut Allowance, function: &Function, arguments: &[Operand<'t>]) -> Result<Operand<'t>> {
    let none = Operand::Nothing;
    let (first, second) = (arguments.first().unwrap_or(&none), arguments.get(1).unwrap_or(&none));
    let bytes: usize = first.single().map_or(0, |single| single.node.bytes().len());
    allowance.work(1 + bytes / BYTES_PER_VALUE)?;
    let count = |count: usize| Operand::integer(count as i64);
    Ok(match function {
        Function::Length => match first {
            Operand::Values(array) => count(JsonNode::of(array).len()),
            one => one.single().and_then(|single| length(single.node)).map_or(Operand::Nothing, count),
        },
        Function::Count => count(first.nodes().len()),
        Function::Value => match first {
            Operand::Node(node) => Operand::Node(*node),
            Operand::Values(array) if JsonNode::of(array).len() == 1 => element(allowance, first, 0)?,
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
                allowance.computed(string.len())?;
                joined.extend_from_slice(string);
            }
            Operand::computed(|out| json::put_string(out, &joined))
        }
        Function::Sum | Function::Min | Function::Max | Function::Average | Function::Deviation => {
            aggregated(allowance, function, first)?
        }
        Function::First => element(allowance, first, 0)?,
        Function::Last => element(allowance, first, -1)?,
        Function::Index => match second.as_number().and_then(Number::truncated) {
            Some(index) => element(allowance, first, index)?,
            None => Operand::Nothing,
        },
        Function::Keys => keys(allowance, first)?,
        Function::Append => append(allowance, first, second)?,
        Function::Match(known) => is_match(allowance, first, second, known.as_ref(), Pattern::whole)?,
        Function::Search(known) => is_match(allowance, first, second, known.as_ref(), Pattern::new)?,
        Function::Unknown => Operand::Nothing,
    })
}

/// Only one string is matched with one pattern.
fn is_match<'t>(
    allowance: &mut Allowance,
    text: &Operand<'_>,
    pattern: &Operand<'_>,
    known: Option<&Pattern>,
    compile: fn(&[u8]) -> Pattern,
) -> Result<Operand<'t>> {
    let are_single = text.single().is_some() && pattern.single().is_some();
    let found = are_single && matches(allowance, text, pattern, known, compile)?;
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
fn aggregated<'t>(allowance: &mut Allowance, function: &Function, operand: &Operand<'_>) -> Result<Operand<'t>> {
    let Some(elements) = operand.elements().filter(|elements| elements.len() > 0) else { return Ok(Operand::Nothing) };
    let (count, mut sum) = (elements.len() as f64, 0.0);
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    allowance.work(2 * elements.len())?;
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
fn element<'t>(allowance: &mut Allowance, operand: &Operand<'t>, index: i64) -> Result<Operand<'t>> {
    let position = |len: usize| {
        let index = if index < 0 { index.checked_add(len as i64)? } else { index };
        usize::try_from(index).ok().filter(|index| *index < len)
    };
    let of_computed = |allowance: &mut Allowance, array: JsonNode<'_>| {
        let Some(element) = position(array.len()).and_then(|index| array.element(index)) else {
            return Ok(Operand::Nothing);
        };
        allowance.computed(element.bytes().len())?;
        Ok(Operand::Value(Cow::Owned(element.bytes().to_vec())))
    };
    match operand {
        Operand::Nothing => Ok(Operand::Nothing),
        Operand::Node(node) => {
            let element = position(node.len()).and_then(|index| node.element(index));
            Ok(element.map_or(Operand::Nothing, Operand::Node))
        }
        Operand::Nodes(document, places) => {
            let place = position(places.len()).map(|index| places[index] as usize);
            Ok(place.map_or(Operand::Nothing, |at| Operand::Node(document.at_same(at))))
        }
        Operand::Value(encoded) => of_computed(allowance, JsonNode::of(encoded)),
        Operand::Values(array) => of_computed(allowance, JsonNode::of(array)),
    }
}

/// The names of the members of objects.
fn keys<'t>(allowance: &mut Allowance, operand: &Operand<'_>) -> Result<Operand<'t>> {
    // One value that is no object has no names, and is not an object without members.
    match operand {
        Operand::Values(_) => return Ok(Operand::Nothing),
        Operand::Nodes(..) => {}
        one if one.nodes().any(JsonNode::is_object) => {}
        _ => return Ok(Operand::Nothing),
    }
    let (mut names, mut count) = (Vec::new(), 0);
    for object in operand.nodes().filter(|node| node.is_object()) {
        for (name, _) in object.children() {
            let name = name.unwrap_or_default();
            allowance.computed(name.len())?;
            json::put_string(&mut names, name);
            count += 1;
        }
    }
    let mut array = Vec::new();
    json::put_array(&mut array, &names, count);
    Ok(Operand::Values(array))
}

/// The values of an operand, or the elements of an array, with another value behind them.
fn append<'t>(allowance: &mut Allowance, operand: &Operand<'_>, more: &Operand<'_>) -> Result<Operand<'t>> {
    let (mut values, mut count) = (Vec::new(), 0);
    let mut put = |allowance: &mut Allowance, node: JsonNode<'_>| {
        allowance.computed(node.bytes().len())?;
        values.extend_from_slice(node.bytes());
        count += 1;
        Ok::<_, Error>(())
    };
    let mut before = operand.elements().unwrap_or_else(|| operand.nodes());
    before.try_for_each(|node| put(allowance, node))?;
    let mut one = Vec::new();
    match more {
        Operand::Nothing => return Ok(Operand::Nothing),
        // Several values become one.
        Operand::Values(array) => one.extend_from_slice(array),
        more => more.put(allowance, &mut one)?,
    }
    put(allowance, JsonNode::of(&one))?;
    let mut array = Vec::new();
    json::put_array(&mut array, &values, count);
    Ok(Operand::Values(array))
}
