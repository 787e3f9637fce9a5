//! Values that a path selects, in the order of the document.
//!
//! The work of a selection is bounded ([`Allowance`]): filters that look at the whole document for each value, or several
//! scans inside of each other, would multiply it.

use std::borrow::Cow;

use dormouse_types::json::{Json, JsonNode};
use smallvec::SmallVec;

use super::functions;
use super::operand::{self, Allowance, Operand, TOO_MUCH};
use super::path::{Path, Query};
use super::steps::{Expression, PathFilter, PathStep, Pattern};
use crate::error::Result;

/// Values that a selection may have: a value may be selected several times.
const SELECTED_MAX: usize = 1 << 22;
/// Steps inside of each other. Those of one path are twice the containers in each other at most; filters that begin at the
/// root again would need a stack several times as large.
const LEVELS_MAX: usize = 300;
/// Bytes that the selections of a request may take before another one begins.
pub const SELECTIONS_BYTES_MAX: usize = 32 << 20;

/// Values of a document, or computed from it.
#[derive(Debug, Default)]
pub struct Selected<'d> {
    encoded: Cow<'d, [u8]>,
    places: Vec<u32>,
    /// They are an array, even where an old path asked for them.
    pub are_computed: bool,
}

impl Selected<'_> {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The bytes that it takes beside the document.
    pub fn own_bytes(&self) -> usize {
        let computed = if let Cow::Owned(encoded) = &self.encoded { encoded.capacity() } else { 0 };
        computed + self.places.capacity() * size_of::<u32>()
    }

    pub fn iter(&self) -> impl Iterator<Item = JsonNode<'_>> {
        self.places.iter().map(|at| JsonNode::at_offset(&self.encoded, *at as usize))
    }
}

/// The values that a path selects.
pub fn all<'d>(document: &'d Json, path: &Path<'_>) -> Result<Selected<'d>> {
    Ok(of_document(document, places(document, path)?))
}

/// The values of a path that may be computed. `only_one`: of one that is not, the first value alone.
pub fn queried<'d>(document: &'d Json, query: &Query<'_>, only_one: bool) -> Result<Selected<'d>> {
    match query {
        Query::Path(path) if only_one => {
            Ok(of_document(document, first(document, path)?.iter().map(|value| value.at() as u32).collect()))
        }
        Query::Path(path) => all(document, path),
        Query::Computed(_, _, expression) => {
            let root = document.root();
            let mut selection = Selection::new(root, usize::MAX);
            let result = selection.evaluate(expression, root)?;
            let (mut encoded, mut places, mut next) = (Vec::new(), Vec::new(), 0);
            result.put(&mut selection.allowance, &mut encoded)?;
            while next < encoded.len() {
                places.push(next as u32);
                next = JsonNode::at_offset(&encoded, next).end();
            }
            Ok(Selected { encoded: encoded.into(), places, are_computed: true })
        }
    }
}

fn of_document(document: &Json, places: Vec<u32>) -> Selected<'_> {
    Selected { encoded: document.bytes().into(), places, are_computed: false }
}

/// The offsets of the values that a path selects.
pub fn places(document: &Json, path: &Path<'_>) -> Result<Vec<u32>> {
    let mut selection = Selection::new(document.root(), usize::MAX);
    selection.follow(&path.steps, document.root())?;
    Ok(selection.places)
}

/// The first value that a path selects.
pub fn first<'d>(document: &'d Json, path: &Path<'_>) -> Result<Option<JsonNode<'d>>> {
    follow(document, &path.steps)
}

/// The first value that steps lead to.
pub fn follow<'d>(document: &'d Json, steps: &[PathStep]) -> Result<Option<JsonNode<'d>>> {
    let mut selection = Selection::new(document.root(), 1);
    selection.follow(steps, document.root())?;
    Ok(selection.places.first().map(|at| JsonNode::at_offset(document.bytes(), *at as usize)))
}

struct Selection<'d> {
    root: JsonNode<'d>,
    allowance: Allowance,
    /// Steps inside of each other, those of the filters around included.
    level: usize,
    /// The selection ends when it has so many values.
    wanted: usize,
    places: Vec<u32>,
}

impl<'d> Selection<'d> {
    fn new(root: JsonNode<'d>, wanted: usize) -> Self {
        Self { root, allowance: Allowance::new(), level: 0, wanted, places: Vec::new() }
    }

    fn is_done(&self) -> bool {
        self.places.len() >= self.wanted
    }

    /// Follows the steps from a value.
    fn follow(&mut self, steps: &[PathStep], node: JsonNode<'d>) -> Result<()> {
        let Some((step, rest)) = steps.split_first() else {
            self.allowance.work(1)?;
            if self.places.len() >= SELECTED_MAX {
                return Err(TOO_MUCH);
            }
            self.places.push(node.at() as u32);
            return Ok(());
        };
        self.descend()?;
        match step {
            PathStep::Name(name) => self.member(name, rest, node)?,
            PathStep::Names(names) => names.iter().try_for_each(|name| self.member(name, rest, node))?,
            PathStep::All => {
                for (_, child) in node.children() {
                    self.allowance.work(1)?;
                    self.follow(rest, child)?;
                    if self.is_done() {
                        break;
                    }
                }
            }
            PathStep::Indexes(indexes) if node.is_array() => {
                for index in indexes {
                    let index = absolute(*index, node.len());
                    self.allowance.work(1 + index / 8)?;
                    if let Some(element) = node.element(index) {
                        self.follow(rest, element)?;
                    }
                }
            }
            PathStep::Range { start, end, step } if node.is_array() => {
                let start = start.map_or(0, |start| absolute(start, node.len()));
                let end = end.map_or(node.len(), |end| absolute(end, node.len()));
                let chosen = node.children().enumerate().take(end).skip(start).step_by(*step);
                for (_, (_, element)) in chosen {
                    self.allowance.work(1)?;
                    self.follow(rest, element)?;
                    if self.is_done() {
                        break;
                    }
                }
            }
            PathStep::Indexes(_) | PathStep::Range { .. } => {}
            PathStep::Filter(filter) => {
                for (_, child) in node.children() {
                    self.allowance.work(1)?;
                    if self.passes(filter, child)? {
                        self.follow(rest, child)?;
                        if self.is_done() {
                            break;
                        }
                    }
                }
            }
            PathStep::Everywhere => {
                self.follow(rest, node)?;
                self.everywhere_in(rest, node)?;
            }
        }
        self.level -= 1;
        Ok(())
    }

    fn descend(&mut self) -> Result<()> {
        self.level += 1;
        if self.level > LEVELS_MAX { Err(TOO_MUCH) } else { Ok(()) }
    }

    fn member(&mut self, name: &[u8], rest: &[PathStep], node: JsonNode<'d>) -> Result<()> {
        if node.is_object() {
            self.allowance.work(1 + node.len() / 8)?;
            if let Some(value) = node.get(name) {
                self.follow(rest, value)?;
            }
        }
        Ok(())
    }

    fn everywhere_in(&mut self, rest: &[PathStep], node: JsonNode<'d>) -> Result<()> {
        self.descend()?;
        for (_, child) in node.children() {
            if self.is_done() {
                break;
            }
            self.allowance.work(1)?;
            self.follow(rest, child)?;
            self.everywhere_in(rest, child)?;
        }
        self.level -= 1;
        Ok(())
    }

    fn passes(&mut self, filter: &PathFilter, node: JsonNode<'d>) -> Result<bool> {
        match filter {
            PathFilter::Or(any) => {
                for filter in any {
                    if self.passes(filter, node)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            PathFilter::And(all) => {
                for filter in all {
                    if !self.passes(filter, node)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            PathFilter::Not(filter) => Ok(!self.passes(filter, node)?),
            PathFilter::Test(expression) => Ok(self.evaluate(expression, node)?.holds()),
            PathFilter::Compare(one, comparison, other) => {
                let (one, other) = (self.evaluate(one, node)?, self.evaluate(other, node)?);
                operand::compare(&mut self.allowance, &one, *comparison, &other)
            }
            PathFilter::Matches(text, pattern, known) => {
                let (text, pattern) = (self.evaluate(text, node)?, self.evaluate(pattern, node)?);
                operand::matches(&mut self.allowance, &text, &pattern, known.as_ref(), Pattern::new)
            }
        }
    }

    /// The result of an expression in a filter for the value that is tested.
    fn evaluate<'t>(&mut self, expression: &'t Expression, node: JsonNode<'d>) -> Result<Operand<'t>>
    where
        'd: 't,
    {
        match expression {
            Expression::Here(steps) => self.nodes(steps, node),
            Expression::Root(steps) => self.nodes(steps, self.root),
            Expression::Value(encoded) => Ok(Operand::written(encoded)),
            Expression::Signed(expression, sign) => Ok(functions::signed(&self.evaluate(expression, node)?, *sign)),
            Expression::Chain(first, rest) => {
                let mut result = self.evaluate(first, node)?;
                for (operator, other) in rest {
                    self.allowance.work(1)?;
                    result = functions::calculate(&result, *operator, &self.evaluate(other, node)?);
                }
                Ok(result)
            }
            Expression::Call(function, arguments) => {
                let mut values: SmallVec<[Operand<'t>; 2]> = SmallVec::with_capacity(arguments.len());
                for argument in arguments {
                    values.push(self.evaluate(argument, node)?);
                }
                functions::call(&mut self.allowance, function, &values)
            }
        }
    }

    /// The values that steps in an expression lead to.
    fn nodes<'t>(&mut self, steps: &[PathStep], from: JsonNode<'d>) -> Result<Operand<'t>>
    where
        'd: 't,
    {
        if steps.is_empty() {
            return Ok(Operand::Node(from));
        }
        let mut inner = Selection {
            root: self.root,
            allowance: self.allowance,
            level: self.level,
            wanted: usize::MAX,
            places: Vec::new(),
        };
        let followed = inner.follow(steps, from);
        self.allowance = inner.allowance;
        followed?;
        Ok(match inner.places[..] {
            [] => Operand::Nothing,
            [at] => Operand::Node(self.root.at_same(at as usize)),
            _ => Operand::Nodes(self.root, inner.places),
        })
    }
}

/// A number of an element; negative ones count from the end, and stop at the first.
fn absolute(index: i64, len: usize) -> usize {
    match usize::try_from(index) {
        Ok(index) => index.min(len),
        Err(_) => len.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
    }
}
