//! The steps and expressions of a path that has been read.

use std::cell::RefCell;

use regex_automata::Input;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{NFA, WhichCaptures, pikevm::PikeVM};

use crate::error::Result;

#[derive(Debug)]
pub enum PathStep {
    Name(Vec<u8>),
    Names(Vec<Vec<u8>>),
    All,
    /// Negative numbers count from the end.
    Indexes(Vec<i64>),
    Range {
        start: Option<i64>,
        end: Option<i64>,
        step: usize,
    },
    Filter(PathFilter),
    /// The steps behind it apply to the value and to everything in it.
    Everywhere,
}

impl PathStep {
    /// Whether it leads to one value at most, whatever the document is.
    pub fn is_static(&self) -> bool {
        match self {
            PathStep::Name(_) => true,
            PathStep::Names(names) => names.len() == 1,
            PathStep::Indexes(indexes) => indexes.len() == 1,
            PathStep::All | PathStep::Range { .. } | PathStep::Filter(_) | PathStep::Everywhere => false,
        }
    }
}

#[derive(Debug)]
pub enum PathFilter {
    Or(Vec<PathFilter>),
    And(Vec<PathFilter>),
    Not(Box<PathFilter>),
    /// Something is selected, or a condition holds.
    Test(Expression),
    Compare(Expression, Comparison, Expression),
    /// A string matches a pattern. `None`: it is the value of the expression.
    Matches(Expression, Expression, Option<Pattern>),
}

#[derive(Debug)]
pub enum Expression {
    /// Steps from the value that is tested.
    Here(Vec<PathStep>),
    /// Steps from the outermost value.
    Root(Vec<PathStep>),
    /// An encoded value.
    Value(Vec<u8>),
    /// A number with its sign turned, or as it is.
    Signed(Box<Expression>, Sign),
    /// Operators of one precedence, from the left.
    Chain(Box<Expression>, Vec<(Operator, Expression)>),
    Call(Function, Vec<Expression>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    Plus,
    Minus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
    SubsetOf,
    AnyOf,
    NoneOf,
    Size,
    Empty,
}

#[derive(Debug)]
pub enum Function {
    Length,
    Count,
    Value,
    Ceiling,
    Floor,
    Abs,
    Concat,
    Sum,
    Min,
    Max,
    Average,
    Deviation,
    First,
    Last,
    Index,
    Keys,
    Append,
    /// The whole string matches. `None`: the pattern is the value of an expression.
    Match(Option<Pattern>),
    /// A part of the string matches.
    Search(Option<Pattern>),
    /// One without a meaning, or with the wrong number of arguments: it has no value.
    Unknown,
}

impl Function {
    /// The function of a name. `arguments`: the receiver of a method is the first one.
    pub fn named(name: &[u8], arguments: usize) -> Self {
        let (function, counts) = match name {
            b"length" => (Self::Length, 1..=1),
            b"count" => (Self::Count, 1..=1),
            b"value" => (Self::Value, 1..=1),
            b"ceiling" => (Self::Ceiling, 1..=1),
            b"floor" => (Self::Floor, 1..=1),
            b"abs" => (Self::Abs, 1..=1),
            b"concat" => (Self::Concat, 1..=usize::MAX),
            b"sum" => (Self::Sum, 1..=1),
            b"min" => (Self::Min, 1..=1),
            b"max" => (Self::Max, 1..=1),
            b"avg" => (Self::Average, 1..=1),
            b"stddev" => (Self::Deviation, 1..=1),
            b"first" => (Self::First, 1..=1),
            b"last" => (Self::Last, 1..=1),
            b"index" => (Self::Index, 2..=2),
            b"keys" => (Self::Keys, 1..=1),
            b"append" => (Self::Append, 2..=2),
            b"match" => (Self::Match(None), 0..=usize::MAX),
            b"search" => (Self::Search(None), 0..=usize::MAX),
            _ => (Self::Unknown, 0..=usize::MAX),
        };
        if counts.contains(&arguments) { function } else { Self::Unknown }
    }
}

/// A pattern, if it is one.
#[derive(Debug)]
pub struct Pattern(Option<Box<Machine>>);

/// A pattern as a machine that is in several states at once. Which ones follow on a byte is remembered while there is
/// memory for that; a text that leads to more has each state followed by itself.
#[derive(Debug)]
struct Machine {
    states: usize,
    remembered: DFA,
    cache: RefCell<Cache>,
    each: PikeVM,
}

impl Pattern {
    /// Longer patterns match nothing.
    const BYTES_MAX: usize = 1024;
    /// The memory of a compiled pattern, and of its matching.
    const COMPILED_BYTES_MAX: usize = 1 << 20;

    /// A pattern that matches a part of a text.
    pub fn new(text: &[u8]) -> Self {
        Self::of(text, Self::compiled)
    }

    /// A pattern that matches a text as a whole.
    pub fn whole(text: &[u8]) -> Self {
        Self::of(text, |text| Self::compiled(&format!("^(?:{text})$")))
    }

    fn of(text: &[u8], compiled: impl FnOnce(&str) -> Option<Machine>) -> Self {
        Self(
            std::str::from_utf8(text)
                .ok()
                .filter(|text| text.len() <= Self::BYTES_MAX)
                .and_then(compiled)
                .map(Box::new),
        )
    }

    fn compiled(text: &str) -> Option<Machine> {
        let config = NFA::config().which_captures(WhichCaptures::None).nfa_size_limit(Some(Self::COMPILED_BYTES_MAX));
        let nfa = NFA::compiler().configure(config).build(text).ok()?;
        // The words of Unicode are not remembered, so a text with other letters than those of ASCII is given up.
        let config = DFA::config()
            .unicode_word_boundary(true)
            .cache_capacity(Self::COMPILED_BYTES_MAX)
            .skip_cache_capacity_check(true)
            .minimum_cache_clear_count(Some(0));
        let remembered = DFA::builder().configure(config).build_from_nfa(nfa.clone()).ok()?;
        let cache = RefCell::new(remembered.create_cache());
        Some(Machine { states: nfa.states().len(), remembered, cache, each: PikeVM::new_from_nfa(nfa).ok()? })
    }

    /// Whether it matches `text`. The time is that of a look at each byte, and of the steps that `work` is told of before
    /// they are made.
    pub fn is_in(&self, text: &[u8], work: impl FnOnce(usize) -> Result<()>) -> Result<bool> {
        let Some(machine) = &self.0 else { return Ok(false) };
        let Machine { states, remembered, cache, each } = &**machine;
        let mut cache = cache.borrow_mut();
        if let Ok(found) = remembered.try_search_fwd(&mut cache, &Input::new(text).earliest(true)) {
            return Ok(found.is_some());
        }
        // States that the machine remembers took steps to find.
        work(text.len().saturating_mul(*states).saturating_add(cache.memory_usage()))?;
        cache.reset(remembered);
        Ok(each.is_match(&mut each.create_cache(), text))
    }
}
