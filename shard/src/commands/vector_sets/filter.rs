//! Filters: expressions over the attributes of an element.
//!
//! ```text
//! .year >= 1980 and (.genre == "drama" or .rating / 2 > 4) and .director in ["lee", "kubrick"]
//! ```
//!
//! 1. The text is cut into tokens: numbers, strings, lists, fields, `null`, operators.
//! 2. Operators are put behind their operands by their precedence, with a stack of those that wait for their second operand
//!    (Dijkstra's shunting-yard algorithm).
//! 3. Such a program is run for an element, with a stack of values. If the element lacks a field, it does not pass.
//!
//! The accepted expressions and the places that errors name are Redis's: a position is known of an error in a token; any other
//! error is "near" the whole text.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::json::{self, is_space};
use super::value::{NUMBER_BYTES_MAX, Value, number};
use crate::error::{Error, Result, repeated};

/// The length of a filter, at most.
const BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Open,
    Close,
    Not,
    Power,
    Times,
    Over,
    Modulo,
    Plus,
    Minus,
    Above,
    AtLeast,
    Below,
    AtMost,
    Equals,
    Differs,
    In,
    And,
    Or,
}

/// The operators' names with their precedences. One that begins another's name comes before it.
const OPERATORS: &[(&str, Operator, u8)] = &[
    ("(", Operator::Open, 7),
    (")", Operator::Close, 7),
    ("!", Operator::Not, 6),
    ("not", Operator::Not, 6),
    ("*", Operator::Times, 4),
    ("**", Operator::Power, 5),
    ("/", Operator::Over, 4),
    ("%", Operator::Modulo, 4),
    ("+", Operator::Plus, 3),
    ("-", Operator::Minus, 3),
    (">", Operator::Above, 2),
    (">=", Operator::AtLeast, 2),
    ("<", Operator::Below, 2),
    ("<=", Operator::AtMost, 2),
    ("==", Operator::Equals, 2),
    ("!=", Operator::Differs, 2),
    ("in", Operator::In, 2),
    ("and", Operator::And, 1),
    ("&&", Operator::And, 1),
    ("or", Operator::Or, 0),
    ("||", Operator::Or, 0),
];

impl Operator {
    fn precedence(self) -> u8 {
        OPERATORS.iter().find(|(_, operator, _)| *operator == self).map_or(0, |(_, _, precedence)| *precedence)
    }

    fn operands(self) -> usize {
        match self {
            Self::Open | Self::Close => 0,
            Self::Not => 1,
            _ => 2,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token<'a> {
    Value(Value<'a>),
    Field(&'a [u8]),
    Operator(Operator),
}

/// A filter, ready to be applied.
#[derive(Debug)]
pub(super) struct Filter<'a>(Vec<Token<'a>>);

impl<'a> Filter<'a> {
    /// # Errors
    /// When the text is no expression.
    pub fn new(text: &'a [u8]) -> Result<Self> {
        if text.len() > BYTES_MAX {
            return Err(Error::text("ERR the FILTER expression is longer than 64 KiB"));
        }
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let near = |at: usize| {
            let from = text.get(at..).filter(|rest| !rest.is_empty()).unwrap_or(text);
            Error::Text(format!("ERR syntax error in FILTER expression near: {}", repeated(from)).into())
        };
        let mut reading = Reading { text, at: 0 };
        let tokens = reading.tokens().ok_or_else(|| near(reading.at))?;
        program(tokens).map(Filter).ok_or_else(|| near(0))
    }

    /// Whether an element with these attributes passes.
    pub fn passes(&self, attributes: &[u8]) -> bool {
        self.value(attributes).is_some_and(|value| value.is_true())
    }

    fn value<'v>(&'v self, attributes: &'v [u8]) -> Option<Value<'v>> {
        let mut stack: SmallVec<[Value<'v>; 8]> = SmallVec::new();
        for token in &self.0 {
            let value = match token {
                Token::Value(value) => value.borrowed(),
                Token::Field([]) => return None,
                Token::Field(name) => json::field(attributes, name)?,
                Token::Operator(operator) => {
                    let last = stack.pop()?;
                    let first = if operator.operands() == 2 { stack.pop()? } else { Value::Null };
                    Value::Number(apply(*operator, &first, &last))
                }
            };
            stack.push(value);
        }
        stack.pop()
    }
}

fn apply(operator: Operator, first: &Value<'_>, last: &Value<'_>) -> f64 {
    let (a, b) = (|| first.number(), || last.number());
    let truth = |is_true: bool| f64::from(u8::from(is_true));
    match operator {
        Operator::Not => truth(!last.is_true()),
        Operator::Power => a().powf(b()),
        Operator::Times => a() * b(),
        Operator::Over => a() / b(),
        Operator::Modulo => a() % b(),
        Operator::Plus => a() + b(),
        Operator::Minus => a() - b(),
        Operator::Above => truth(a() > b()),
        Operator::AtLeast => truth(a() >= b()),
        Operator::Below => truth(a() < b()),
        Operator::AtMost => truth(a() <= b()),
        Operator::Equals => truth(first.equals(last)),
        Operator::Differs => truth(!first.equals(last)),
        Operator::In => truth(match last {
            Value::Array(text) => first.is_among(json::elements(text)),
            last => first.is_in(last),
        }),
        Operator::And => truth(first.is_true() && last.is_true()),
        Operator::Or => truth(first.is_true() || last.is_true()),
        Operator::Open | Operator::Close => 0.0,
    }
}

/// A text that is being cut into tokens.
struct Reading<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reading<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn run(&mut self, is_in: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.text[self.at..];
        let len = rest.iter().take_while(|byte| is_in(**byte)).count();
        self.at += len;
        &rest[..len]
    }

    /// All tokens; `None`: what comes next is none.
    fn tokens(&mut self) -> Option<Vec<Token<'a>>> {
        let mut tokens = Vec::new();
        loop {
            self.run(is_space);
            let Some(byte) = self.peek() else { return Some(tokens) };
            let next = self.text.get(self.at + 1).copied();
            // A minus belongs to a number where no operand is in front of it.
            let begins_operand = match tokens.last() {
                None => true,
                Some(Token::Operator(operator)) => *operator != Operator::Close,
                Some(Token::Value(_) | Token::Field(_)) => false,
            };
            tokens.push(match byte {
                b'0'..=b'9' => Token::Value(self.number()?),
                b'-' if begins_operand && next.is_some_and(|next| next.is_ascii_digit()) => {
                    Token::Value(self.number()?)
                }
                b'"' | b'\'' => Token::Value(self.string()?),
                b'.' if next.is_none_or(is_of_field) => {
                    self.at += 1;
                    Token::Field(self.run(is_of_field))
                }
                b'[' => Token::Value(self.tuple()?),
                byte if is_of_operator(byte) => self.operator()?,
                _ => return None,
            });
        }
    }

    fn number(&mut self) -> Option<Value<'a>> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        self.run(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E'));
        if self.at - start > NUMBER_BYTES_MAX {
            self.at = start + NUMBER_BYTES_MAX;
            return None;
        }
        number(&self.text[start..self.at]).map(Value::Number)
    }

    /// A string, whose escapes stay as they are: a backslash only keeps a quote from ending it.
    fn string(&mut self) -> Option<Value<'a>> {
        let quote = self.peek()?;
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek()? {
                b'\\' if self.at + 1 < self.text.len() => self.at += 2,
                byte if byte == quote => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(Value::Text(Cow::Borrowed(&self.text[start..self.at - 1])))
    }

    /// A list of numbers and strings.
    fn tuple(&mut self) -> Option<Value<'a>> {
        let mut values = Vec::new();
        self.at += 1;
        loop {
            self.run(is_space);
            match self.peek()? {
                b']' => break,
                b'0'..=b'9' | b'-' => values.push(self.number()?),
                b'"' | b'\'' => values.push(self.string()?),
                _ => return None,
            }
            self.run(is_space);
            match self.peek()? {
                b']' => break,
                b',' => self.at += 1,
                _ => return None,
            }
        }
        self.at += 1;
        Some(Value::Tuple(values))
    }

    /// The longest operator that begins here, or `null`.
    fn operator(&mut self) -> Option<Token<'a>> {
        let start = self.at;
        let run = self.run(is_of_operator);
        if run == b"null" {
            return Some(Token::Value(Value::Null));
        }
        let (name, operator, _) = OPERATORS.iter().rev().find(|(name, ..)| run.starts_with(name.as_bytes()))?;
        self.at = start + name.len();
        Some(Token::Operator(*operator))
    }
}

fn is_of_field(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn is_of_operator(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || b"+-*%/!()<>=|&".contains(&byte)
}

/// Puts operators behind their operands; `None`: some lack one, or operands are left over.
fn program(tokens: Vec<Token<'_>>) -> Option<Vec<Token<'_>>> {
    let mut program = Program { tokens: Vec::with_capacity(tokens.len()), values: 0 };
    let mut waiting: Vec<Operator> = Vec::new();
    for token in tokens {
        match token {
            Token::Operator(Operator::Open) => waiting.push(Operator::Open),
            Token::Operator(Operator::Close) => loop {
                match waiting.pop()? {
                    Operator::Open => break,
                    operator => program.push(operator)?,
                }
            },
            Token::Operator(operator) => {
                let is_first = |waiting: Operator| match operator {
                    // The only one that is applied from right to left.
                    Operator::Power => waiting.precedence() > operator.precedence(),
                    _ => waiting.precedence() >= operator.precedence(),
                };
                while let Some(last) = waiting.pop_if(|last| *last != Operator::Open && is_first(*last)) {
                    program.push(last)?;
                }
                waiting.push(operator);
            }
            operand => {
                program.tokens.push(operand);
                program.values += 1;
            }
        }
    }
    while let Some(operator) = waiting.pop() {
        if operator == Operator::Open {
            return None;
        }
        program.push(operator)?;
    }
    (program.values == 1).then_some(program.tokens)
}

/// A program with the number of values that it leaves.
struct Program<'a> {
    tokens: Vec<Token<'a>>,
    values: usize,
}

impl Program<'_> {
    fn push(&mut self, operator: Operator) -> Option<()> {
        let operands = operator.operands();
        self.values = self.values.checked_sub(operands)? + 1;
        self.tokens.push(Token::Operator(operator));
        Some(())
    }
}

#[cfg(test)]
mod tests;
