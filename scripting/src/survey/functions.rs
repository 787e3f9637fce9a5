//! The functions of a library that are straight lines.
//!
//! A library's own text must not change what the names in its functions mean. So a library is only looked into if it is a
//! list of these statements:
//!
//! 1. `local name = literal`;
//! 2. `local function name(parameters) ... end`, or `local name = function(parameters) ... end`;
//! 3. `redis.register_function(...)` with a literal name and such a function, by its name or in place, or the same with
//!    a table of literals.
//!
//! No name is one that the survey of a script gives a meaning. Then each function is a script of its own, whose first
//! parameter is its `KEYS`.

use std::collections::{HashMap, HashSet};

use super::{CallSite, GLOBALS, Token, UNKNOWN, is_keyword, library, only_reads, survey_tokens, tokens};

/// A registered function that is a straight line.
pub(crate) struct StraightFunction {
    pub(crate) name: Box<str>,
    pub(crate) calls: Vec<CallSite>,
    /// It only reads elements of its keys and arguments.
    pub(crate) only_reads_words: bool,
}

/// The registered functions that are straight lines. `None`: the library is something else.
pub(crate) fn survey_library(text: &[u8]) -> Option<Vec<StraightFunction>> {
    if text.len() > super::TEXT_BYTES_MAX {
        return None;
    }
    let tokens = tokens(text)?;
    let mut reader = Reader { tokens: &tokens, at: 0, named: HashMap::new(), registered: Vec::new() };
    while reader.at < tokens.len() {
        reader.statement()?;
    }
    // A name is found in letters of either case.
    let names: HashSet<Vec<u8>> = reader.registered.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    if names.len() < reader.registered.len() {
        return None;
    }
    let straight = |(name, function): (Vec<u8>, Function<'_>)| {
        let name = String::from_utf8(name).ok()?.into_boxed_str();
        let only_reads_words = function.arguments.is_none_or(|arguments| only_reads(function.body, arguments));
        Some(StraightFunction { name, calls: function.survey()?, only_reads_words })
    };
    Some(reader.registered.into_iter().filter_map(straight).collect())
}

#[derive(Clone, Copy)]
struct Function<'t> {
    /// The name of its first parameter.
    keys: Option<&'t str>,
    /// That of its second.
    arguments: Option<&'t str>,
    body: &'t [Token],
}

impl Function<'_> {
    fn survey(self) -> Option<Vec<CallSite>> {
        let is_keys = |token: &Token| matches!(token, Token::Name(name) if name == "KEYS");
        if self.body.iter().any(is_keys) {
            return None;
        }
        let renamed = |(at, token): (usize, &Token)| match token {
            Token::Name(name) if Some(name.as_str()) == self.keys => {
                let is_field = at > 0 && matches!(self.body[at - 1], Token::Symbol("." | ":"));
                if is_field { token.clone() } else { Token::Name("KEYS".to_owned()) }
            }
            _ => token.clone(),
        };
        survey_tokens(&self.body.iter().enumerate().map(renamed).collect::<Vec<_>>())
    }
}

struct Reader<'t> {
    tokens: &'t [Token],
    at: usize,
    /// Local functions.
    named: HashMap<&'t str, Function<'t>>,
    registered: Vec<(Vec<u8>, Function<'t>)>,
}

impl<'t> Reader<'t> {
    fn statement(&mut self) -> Option<()> {
        if self.symbol(";").is_some() {
            return Some(());
        }
        if self.word("local").is_none() {
            return self.registration();
        }
        if self.word("function").is_some() {
            let name = self.free_name()?;
            let function = self.function()?;
            self.named.insert(name, function);
            return Some(());
        }
        let name = self.free_name()?;
        self.symbol("=")?;
        if self.word("function").is_some() {
            let function = self.function()?;
            self.named.insert(name, function);
            return Some(());
        }
        self.named.remove(name);
        self.literal()?;
        // Whatever else belongs to the value is no statement of its own.
        Some(())
    }

    fn registration(&mut self) -> Option<()> {
        ["redis", "server"].iter().find(|name| self.word(name).is_some())?;
        self.symbol(".")?;
        self.word("register_function")?;
        let has_parenthesis = self.symbol("(").is_some();
        if self.symbol("{").is_some() {
            self.named_arguments()?;
        } else {
            let name = self.string()?;
            self.symbol(",")?;
            let function = self.callback()?;
            self.registered.push((name, function));
        }
        if has_parenthesis { self.symbol(")") } else { Some(()) }
    }

    fn named_arguments(&mut self) -> Option<()> {
        let (mut name, mut callback) = (None, None);
        while self.symbol("}").is_none() {
            let field = self.name()?;
            self.symbol("=")?;
            match field {
                "function_name" if name.is_none() => name = Some(self.string()?),
                "callback" if callback.is_none() => callback = Some(self.callback()?),
                "description" => drop(self.string()?),
                "flags" => {
                    self.symbol("{")?;
                    while self.symbol("}").is_none() {
                        self.string()?;
                        _ = self.symbol(",");
                    }
                }
                _ => return None,
            }
            _ = self.symbol(",");
        }
        self.registered.push((name?, callback?));
        Some(())
    }

    fn callback(&mut self) -> Option<Function<'t>> {
        if self.word("function").is_some() {
            return self.function();
        }
        let name = self.name()?;
        self.named.get(name).copied()
    }

    /// From the parameters on.
    fn function(&mut self) -> Option<Function<'t>> {
        self.symbol("(")?;
        let mut parameters = Vec::new();
        while self.symbol(")").is_none() {
            parameters.push(self.free_name()?);
            if self.symbol(",").is_none() && self.peek() != Some(&Token::Symbol(")")) {
                return None;
            }
        }
        let start = self.at;
        let mut depth = 1usize;
        while depth > 0 {
            // A field may be called like a keyword nowhere, so these words open and close blocks.
            if let Token::Name(name) = self.peek()? {
                match name.as_str() {
                    "function" | "if" | "do" | "repeat" => depth += 1,
                    "end" | "until" => depth -= 1,
                    _ => {}
                }
            }
            self.at += 1;
        }
        // Of two parameters with one name the second counts.
        let reachable = |at: usize| parameters.get(at).copied().filter(|name| !parameters[at + 1..].contains(name));
        let (keys, arguments) = (reachable(0), reachable(1));
        Some(Function { keys, arguments, body: &self.tokens[start..self.at - 1] })
    }

    /// A name that means nothing to the survey of a script.
    fn free_name(&mut self) -> Option<&'t str> {
        let name = self.name()?;
        let has_meaning = is_keyword(name)
            || library(name).is_some()
            || GLOBALS.contains(&name)
            || UNKNOWN.contains(&name)
            || name == "KEYS";
        (!has_meaning).then_some(name)
    }

    fn literal(&mut self) -> Option<()> {
        let is_literal = match self.peek()? {
            Token::String(_) | Token::Number(_) => true,
            Token::Name(name) => matches!(name.as_str(), "true" | "false" | "nil"),
            Token::Symbol(_) => false,
        };
        self.at += usize::from(is_literal);
        is_literal.then_some(())
    }

    fn name(&mut self) -> Option<&'t str> {
        let Token::Name(name) = self.tokens.get(self.at)? else { return None };
        self.at += 1;
        Some(name)
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        let Token::String(text) = self.peek()? else { return None };
        let text = text.clone();
        self.at += 1;
        Some(text)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is_it = matches!(self.peek()?, Token::Name(name) if name == word);
        self.at += usize::from(is_it);
        is_it.then_some(())
    }

    fn symbol(&mut self, symbol: &str) -> Option<()> {
        let is_it = matches!(self.peek()?, Token::Symbol(found) if *found == symbol);
        self.at += usize::from(is_it);
        is_it.then_some(())
    }

    fn peek(&self) -> Option<&'t Token> {
        self.tokens.get(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Option<Vec<String>> {
        Some(survey_library(text.as_bytes())?.into_iter().map(|straight| straight.name.into()).collect())
    }

    #[test]
    fn straight_functions_are_found() {
        for (text, functions) in [
            ("redis.register_function('f', function(keys, args) return redis.call('incr', keys[1]) end)", &["f"][..]),
            ("local function f(k, a) return #k end redis.register_function('g', f)", &["g"]),
            ("local f = function() return 1 end; server.register_function('g', f)", &["g"]),
            (
                "redis.register_function{function_name='f', callback=function(keys) if keys[1] then return 1 end end,
                 flags={'no-writes', 'allow-oom'}, description='one'}",
                &["f"],
            ),
            (
                "local limit = 10
                 local function slow(keys, args) for i = 1, limit do redis.call('incr', keys[1]) end end
                 local function fast(keys, args) return redis.call('get', keys[1]) or limit end
                 redis.register_function('slow', slow)
                 redis.register_function('fast', fast)",
                &["fast"],
            ),
            ("redis.register_function('f', function(keys) return {a.keys, redis.call('get', keys[1])} end)", &["f"]),
        ] {
            assert_eq!(names(text).unwrap(), functions, "{text}");
        }
    }

    #[test]
    fn functions_that_may_be_long_are_not() {
        for body in [
            "while true do end",
            "repeat until false",
            "for i = 1, 9 do end",
            "local f = function() end",
            "return helper(keys)",
            "return helper'x'",
            "keys[1] = 'x'",
            "keys = args",
            "local keys = {'x'}",
            "local k = keys return redis.call('get', k[1])",
            "return KEYS[1]",
            "return redis.call('del', unpack(keys))",
            "return ('x'):rep(1e9)",
            "return redis.call(args[1], keys[1])",
        ] {
            let text = format!(
                "local function helper(x) while true do end end
                 redis.register_function('f', function(keys, args) {body} end)"
            );
            assert_eq!(names(&text), Some(vec![]), "{body}");
        }
        // The first of two parameters with one name is out of reach.
        let text = "redis.register_function('f', function(k, k) return redis.call('get', k[1]) end)";
        let StraightFunction { calls, .. } = survey_library(text.as_bytes()).unwrap().remove(0);
        assert_eq!(calls[0].arguments[1], crate::survey::CallArgument::Other);
    }

    #[test]
    fn libraries_that_change_the_meaning_of_names_are_not_looked_into() {
        let f = "redis.register_function('f', function(keys, args) return tonumber(keys[1]) end)";
        for before in [
            "local tonumber = 1",
            "local function tonumber(x) while true do end end",
            "local redis = {}",
            "local function redis() end",
            "local x = redis",
            "local x = {}",
            "local x = 1 + 2",
            "local x, tonumber = 1",
            "tonumber = 1",
            "function tonumber() end",
            "do local x = 1 end",
            "while true do end",
            "redis.call('get', 'x')",
            "redis.register_function('g', redis.call)",
            "redis.register_function('g', function(redis, args) end)",
            "redis.register_function('g', function(...) end)",
            "redis.register_function('g', function(keys)",
            "redis.register_function(name, function(keys) end)",
            "redis.register_function{function_name='g'}",
            "redis.register_function('F', function(keys) while true do end end)",
            "end",
        ] {
            assert_eq!(names(&format!("{before}\n{f}")), None, "{before}");
        }
        assert_eq!(names(&format!("--{}\n{f}", "x".repeat(super::super::TEXT_BYTES_MAX))), None);
    }
}
