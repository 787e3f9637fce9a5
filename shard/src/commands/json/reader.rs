//! From the text of a path to its steps.
//!
//! ```text
//! path       = expression
//! steps      = step*
//! step       = "." name | "." "*" | "."? bracket | ".." (name | "*" | bracket)
//! bracket    = "[" (numbers | range | strings | "*" | "?" filter) "]"
//! range      = number? ":" number? (":" step?)?
//! filter     = and ("||" and)*
//! and        = inner ("&&" inner)*
//! inner      = "!" inner | test | "(" filter ")"
//! test       = expression (comparison expression)?
//! comparison = "==" | "!=" | "<" | "<=" | ">" | ">=" | "=~"
//!            | "in" | "nin" | "subsetof" | "anyof" | "noneof" | "size" | "sizeof" | "empty"
//! expression = product (("+" | "-") product)*
//! product    = factor (("*" | "/" | "%") factor)*
//! factor     = ("+" | "-")? ("(" expression ")" | term "~" | term method*)
//! method     = "." function "(" (expression ("," expression)*)? ")"
//! term       = "@" steps | "$" steps | literal | function "(" (term ("," term)*)? ")"
//! literal    = number | string | true | false | null | array | object
//! name       = letters, digits and any of -_`+#%$^/:
//! ```
//!
//! The first step behind `$` or `@` may lack its point, unless it is the word of a comparison. Spaces may stand between all
//! parts, and have to stand around operators that could be part of a name.
//!
//! Nothing is read twice: what is in parentheses is read as a filter, and one that is an expression alone may go on as part
//! of a longer one.

use dormouse_types::json::{self, JsonNode};

use super::steps::{Comparison, Expression, Function, Operator, PathFilter, PathStep, Pattern, Sign};
use crate::error::{Error, Result};

/// Filters in filters.
const FILTERS_MAX: usize = 8;
/// Parentheses, functions, methods, negations and containers in each other.
const NESTING_MAX: usize = 64;

/// Bytes of a path on each side of the place where it ends to be one.
const SHOWN_BYTES: usize = 200;

/// Reads a path as a whole.
///
/// # Errors
/// When it is none. The text says where.
pub fn read(text: &str) -> Result<Expression> {
    let mut reader = Reader { text: text.as_bytes(), at: 0, filters: 0, nesting: 0 };
    let expression = reader.expression()?;
    reader.skip_spaces();
    if reader.at < text.len() { Err(reader.unexpected("'.', '[', an operator or the end")) } else { Ok(expression) }
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    filters: usize,
    nesting: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Takes `token` if it comes next, behind spaces.
    fn take(&mut self, token: &[u8]) -> bool {
        self.skip_spaces();
        let found = self.text[self.at..].starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn expect(&mut self, token: &str, expected: &str) -> Result<()> {
        if self.take(token.as_bytes()) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn unexpected(&self, expected: &str) -> Error {
        let (before, after) = self.text.split_at(self.at.min(self.text.len()));
        // A path may be of any length, and an error is one line.
        let before = String::from_utf8_lossy(&before[before.len().saturating_sub(SHOWN_BYTES)..]);
        let after = String::from_utf8_lossy(&after[..after.len().min(SHOWN_BYTES)]);
        let place = match after.is_empty() {
            true => format!("\"{before} <<<<----\""),
            false => format!("\"{before} ---->>>> {after}\""),
        };
        Error::Text(format!("Error occurred at position {}, {place}, expected {expected}.", self.at).into())
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(self.unexpected("less nesting"));
        }
        let read = inner(self)?;
        self.nesting -= 1;
        Ok(read)
    }

    /// The steps behind `$` or `@`.
    fn steps(&mut self) -> Result<Vec<PathStep>> {
        let mut steps = Vec::new();
        loop {
            let before = self.at;
            self.skip_spaces();
            match self.peek() {
                Some(b'.') if self.text.get(self.at + 1) == Some(&b'.') => {
                    self.at += 2;
                    steps.push(PathStep::Everywhere);
                    steps.push(self.selector()?);
                }
                Some(b'.') if self.function_at(self.at + 1).is_none() => {
                    self.at += 1;
                    steps.push(self.selector()?);
                }
                Some(b'[') => steps.push(self.bracket()?),
                Some(b'*') if steps.is_empty() => steps.push(self.selector()?),
                Some(byte) if steps.is_empty() && is_in_name(byte) && self.comparison_word().is_none() => {
                    steps.push(self.selector()?);
                }
                _ => {
                    self.at = before;
                    return Ok(steps);
                }
            }
        }
    }

    /// A name, a star, or a bracket.
    fn selector(&mut self) -> Result<PathStep> {
        self.skip_spaces();
        match self.peek() {
            Some(b'*') => {
                self.at += 1;
                Ok(PathStep::All)
            }
            Some(b'[') => self.bracket(),
            Some(byte) if is_in_name(byte) => {
                let start = self.at;
                while self.peek().is_some_and(is_in_name) {
                    self.at += 1;
                }
                Ok(PathStep::Name(self.text[start..self.at].to_vec()))
            }
            _ => Err(self.unexpected("a name, '*' or '['")),
        }
    }

    fn bracket(&mut self) -> Result<PathStep> {
        self.at += 1;
        self.skip_spaces();
        let step = match self.peek() {
            Some(b'*') => {
                self.at += 1;
                PathStep::All
            }
            Some(b'?') => {
                self.at += 1;
                self.filters += 1;
                if self.filters > FILTERS_MAX {
                    return Err(self.unexpected("fewer filters in each other"));
                }
                let filter = self.filter()?;
                self.filters -= 1;
                PathStep::Filter(filter)
            }
            Some(b'"' | b'\'') => {
                let mut names = vec![self.string()?];
                while self.take(b",") {
                    self.skip_spaces();
                    names.push(self.string()?);
                }
                PathStep::Names(names)
            }
            Some(b'-' | b'0'..=b'9' | b':') => self.numbers()?,
            _ => return Err(self.unexpected("a number, a string, '*', ':' or '?'")),
        };
        self.expect("]", "']'")?;
        Ok(step)
    }

    /// Numbers, or a range.
    fn numbers(&mut self) -> Result<PathStep> {
        let start = self.number()?;
        if !self.take(b":") {
            let mut indexes: Vec<i64> = start.into_iter().collect();
            while self.take(b",") {
                self.skip_spaces();
                indexes.push(self.number()?.ok_or_else(|| self.unexpected("a number"))?);
            }
            return Ok(PathStep::Indexes(indexes));
        }
        self.skip_spaces();
        let end = self.number()?;
        let mut step = None;
        if self.take(b":") {
            self.skip_spaces();
            let before = self.at;
            step = self.number()?;
            if step.is_some_and(|step| step < 1) {
                self.at = before;
                return Err(self.unexpected("a positive number"));
            }
        }
        Ok(PathStep::Range { start, end, step: step.map_or(1, |step| usize::try_from(step).unwrap_or(usize::MAX)) })
    }

    /// A whole number, or the nearest one of 64 bits.
    fn number(&mut self) -> Result<Option<i64>> {
        let start = self.at;
        self.digits();
        let text = &self.text[start..self.at];
        match text.strip_prefix(b"-").unwrap_or(text) {
            [] if text.is_empty() => Ok(None),
            [] | [b'0', _, ..] => {
                self.at = start;
                Err(self.unexpected("a number"))
            }
            _ => {
                let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                Ok(Some(number.unwrap_or(if text[0] == b'-' { i64::MIN } else { i64::MAX })))
            }
        }
    }

    fn digits(&mut self) {
        self.at += usize::from(self.peek() == Some(b'-'));
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// A string in either kind of quotes. A backslash stands before the quote or another one.
    fn string(&mut self) -> Result<Vec<u8>> {
        let quote =
            self.peek().filter(|byte| matches!(byte, b'"' | b'\'')).ok_or_else(|| self.unexpected("a string"))?;
        self.at += 1;
        let mut string = Vec::new();
        loop {
            match self.peek() {
                None => return Err(self.unexpected("the end of a string")),
                Some(byte) if byte == quote => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    // In patterns a backslash stands for itself before anything else.
                    let next = self.text.get(self.at + 1).copied();
                    match next {
                        Some(next) if next == quote || next == b'\\' => string.push(next),
                        Some(next) => string.extend_from_slice(&[b'\\', next]),
                        None => return Err(self.unexpected("the end of a string")),
                    }
                    self.at += 2;
                }
                Some(byte) => {
                    string.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn filter(&mut self) -> Result<PathFilter> {
        let mut any = vec![self.conjunction()?];
        while self.take(b"||") {
            any.push(self.conjunction()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { PathFilter::Or(any) })
    }

    fn conjunction(&mut self) -> Result<PathFilter> {
        let mut all = vec![self.inner()?];
        while self.take(b"&&") {
            all.push(self.inner()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { PathFilter::And(all) })
    }

    fn inner(&mut self) -> Result<PathFilter> {
        if self.take(b"!") {
            return self.nested(Self::inner).map(|filter| PathFilter::Not(Box::new(filter)));
        }
        let first = if self.take(b"(") {
            let filter = self.nested(Self::filter)?;
            self.expect(")", "')', '&&' or '||'")?;
            match filter {
                PathFilter::Test(expression) => self.sum_from(expression)?,
                filter => return Ok(filter),
            }
        } else {
            self.expression()?
        };
        if self.take(b"=~") {
            let pattern = self.expression()?;
            let known = written_string(&pattern).map(Pattern::new);
            return Ok(PathFilter::Matches(first, pattern, known));
        }
        const COMPARISONS: [(&[u8], Comparison); 6] = [
            (b"==", Comparison::Equal),
            (b"!=", Comparison::NotEqual),
            (b"<=", Comparison::LessOrEqual),
            (b">=", Comparison::GreaterOrEqual),
            (b"<", Comparison::Less),
            (b">", Comparison::Greater),
        ];
        let sign = COMPARISONS.iter().find(|(token, _)| self.take(token)).map(|(_, comparison)| *comparison);
        let comparison = sign.or_else(|| {
            let (word, comparison) = self.comparison_word()?;
            self.at += word;
            Some(comparison)
        });
        match comparison {
            Some(comparison) => Ok(PathFilter::Compare(first, comparison, self.expression()?)),
            None => Ok(PathFilter::Test(first)),
        }
    }

    /// The comparison whose word comes next, and the length of the word.
    fn comparison_word(&self) -> Option<(usize, Comparison)> {
        const WORDS: [(&[u8], Comparison); 8] = [
            (b"in", Comparison::In),
            (b"nin", Comparison::NotIn),
            (b"subsetof", Comparison::SubsetOf),
            (b"anyof", Comparison::AnyOf),
            (b"noneof", Comparison::NoneOf),
            (b"sizeof", Comparison::Size),
            (b"size", Comparison::Size),
            (b"empty", Comparison::Empty),
        ];
        let is_in_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let rest = &self.text[self.at..];
        let word = rest.iter().take_while(|byte| is_in_word(byte)).count();
        WORDS.iter().find(|(token, _)| rest[..word] == **token).map(|(_, comparison)| (word, *comparison))
    }

    fn expression(&mut self) -> Result<Expression> {
        let first = self.factor()?;
        self.sum_from(first)
    }

    /// The sum that begins with a factor.
    fn sum_from(&mut self, factor: Expression) -> Result<Expression> {
        const OPERATORS: [(&[u8], Operator); 2] = [(b"+", Operator::Add), (b"-", Operator::Subtract)];
        let first = self.product_from(factor)?;
        self.chain_from(first, &OPERATORS, |reader| {
            let factor = reader.factor()?;
            reader.product_from(factor)
        })
    }

    /// The product that begins with a factor.
    fn product_from(&mut self, factor: Expression) -> Result<Expression> {
        const OPERATORS: [(&[u8], Operator); 3] =
            [(b"*", Operator::Multiply), (b"/", Operator::Divide), (b"%", Operator::Remainder)];
        self.chain_from(factor, &OPERATORS, Self::factor)
    }

    fn chain_from(
        &mut self,
        first: Expression,
        operators: &[(&[u8], Operator)],
        mut operand: impl FnMut(&mut Self) -> Result<Expression>,
    ) -> Result<Expression> {
        let mut rest = Vec::new();
        while let Some((_, operator)) = operators.iter().find(|(token, _)| self.take(token)) {
            rest.push((*operator, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expression::Chain(Box::new(first), rest) })
    }

    fn factor(&mut self) -> Result<Expression> {
        let sign = match () {
            () if self.take(b"-") => Sign::Minus,
            () if self.take(b"+") => Sign::Plus,
            () => return self.primary(),
        };
        let number = self.primary()?;
        Ok(Expression::Signed(Box::new(number), sign))
    }

    fn primary(&mut self) -> Result<Expression> {
        if self.take(b"(") {
            let expression = self.nested(Self::expression)?;
            self.expect(")", "')' or an operator")?;
            return Ok(expression);
        }
        let mut term = self.nested(Self::term)?;
        if self.take(b"~") {
            return Ok(Expression::Call(Function::Keys, vec![term]));
        }
        let before = self.nesting;
        while self.peek() == Some(b'.') {
            let Some(name) = self.function_at(self.at + 1) else { break };
            self.at = name.end;
            // Each method holds the one before it.
            self.nesting += 1;
            if self.nesting > NESTING_MAX {
                return Err(self.unexpected("less nesting"));
            }
            let mut arguments = vec![term];
            self.arguments(&mut arguments, Self::expression)?;
            term = call(&self.text[name], arguments);
            self.skip_spaces();
        }
        self.nesting = before;
        Ok(term)
    }

    /// The name of a function behind `at`, if there is one and its arguments follow.
    fn function_at(&self, at: usize) -> Option<std::ops::Range<usize>> {
        let spaces = |at: usize| at + self.text[at..].iter().take_while(|byte| **byte == b' ').count();
        let start = spaces(at);
        let rest = &self.text[start..];
        rest.first().filter(|byte| byte.is_ascii_alphabetic())?;
        let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        (self.text.get(spaces(start + len)) == Some(&b'(')).then_some(start..start + len)
    }

    /// Arguments in parentheses.
    fn arguments(
        &mut self,
        arguments: &mut Vec<Expression>,
        mut argument: impl FnMut(&mut Self) -> Result<Expression>,
    ) -> Result<()> {
        self.expect("(", "'('")?;
        if self.take(b")") {
            return Ok(());
        }
        loop {
            arguments.push(self.nested(&mut argument)?);
            if self.take(b")") {
                return Ok(());
            }
            self.expect(",", "',' or ')'")?;
        }
    }

    fn term(&mut self) -> Result<Expression> {
        self.skip_spaces();
        match self.peek() {
            Some(b'@') => {
                self.at += 1;
                return self.steps().map(Expression::Here);
            }
            Some(b'$') => {
                self.at += 1;
                return self.steps().map(Expression::Root);
            }
            _ => {}
        }
        let start = self.at;
        let mut text = Vec::new();
        if self.literal(&mut text)? {
            return match json::parse(&text) {
                Ok(encoded) => Ok(Expression::Value(encoded)),
                Err(_) => {
                    self.at = start;
                    Err(self.unexpected("a value"))
                }
            };
        }
        let Some(name) = self.function_at(self.at) else {
            return Err(self.unexpected("'@', '$', a number, a string, true, false, null, '[', '{' or a function"));
        };
        self.at = name.end;
        let mut arguments = Vec::new();
        self.arguments(&mut arguments, Self::term)?;
        Ok(call(&self.text[name], arguments))
    }

    /// Appends a value that is written in the path, in the form of JSON. Returns whether there is one.
    fn literal(&mut self, text: &mut Vec<u8>) -> Result<bool> {
        self.skip_spaces();
        match self.peek() {
            Some(b'"' | b'\'') => json::write_string(&self.string()?, text),
            Some(b'-' | b'0'..=b'9') => {
                let start = self.at;
                self.number()?;
                if self.peek() == Some(b'.') && self.text.get(self.at + 1).is_some_and(u8::is_ascii_digit) {
                    self.at += 1;
                    self.digits();
                }
                text.extend_from_slice(&self.text[start..self.at]);
            }
            Some(b'[') => {
                self.at += 1;
                text.push(b'[');
                self.members(text, b']', |_, _| Ok(()))?;
            }
            Some(b'{') => {
                self.at += 1;
                text.push(b'{');
                self.members(text, b'}', |reader, text| {
                    reader.skip_spaces();
                    json::write_string(&reader.string()?, text);
                    text.push(b':');
                    reader.expect(":", "':'")
                })?;
            }
            _ => {
                for word in [&b"true"[..], b"false", b"null"] {
                    if self.take(word) {
                        text.extend_from_slice(word);
                        return Ok(true);
                    }
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The values of a container up to its end, each behind what `before` reads.
    fn members(
        &mut self,
        text: &mut Vec<u8>,
        end: u8,
        mut before: impl FnMut(&mut Self, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        if self.take(&[end]) {
            text.push(end);
            return Ok(());
        }
        loop {
            before(self, text)?;
            if !self.nested(|reader| reader.literal(text))? {
                return Err(self.unexpected("a value"));
            }
            if self.take(&[end]) {
                text.push(end);
                return Ok(());
            }
            self.expect(",", "',' or the end of the value")?;
            text.push(b',');
        }
    }
}

/// The string that an expression is, if it is written in the path.
fn written_string(expression: &Expression) -> Option<&[u8]> {
    match expression {
        Expression::Value(encoded) => JsonNode::of(encoded).string(),
        _ => None,
    }
}

fn call(name: &[u8], arguments: Vec<Expression>) -> Expression {
    let pattern = arguments.get(1).and_then(written_string);
    let function = match Function::named(name, arguments.len()) {
        Function::Match(_) => Function::Match(pattern.map(Pattern::whole)),
        Function::Search(_) => Function::Search(pattern.map(Pattern::new)),
        other => other,
    };
    Expression::Call(function, arguments)
}

fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_`+#%$^/:".contains(&byte)
}
