//! Scripts that may begin on a thread that serves others, since they can be suspended after any of their steps.
//!
//! Lua 5.1 suspends a coroutine in a hook only while no function of C is between it and the code that runs. So a script is
//! one of these only if its text proves that no such function calls it back for long:
//!
//! 1. it names no function that calls others or makes new code or coroutines ([`REFUSED`]), and libraries only in front of
//!    the name of a function, so that none is found by a computed name;
//! 2. its loops run over `pairs` and `ipairs`, or over a function of the script that makes an iterator without loops and
//!    calls: the virtual machine calls an iterator as it calls functions of C.
//!
//! A string may still be indexed by a computed name, and a search may be long by itself. The host sees neither coming, and
//! bounds them ([`Host::step`](crate::Host::step), [`Host::tick`](crate::Host::tick)).

use super::{Token, ends_value, tokens};

/// A longer text is not looked at, nor one with more tokens.
const TEXT_BYTES_MAX: usize = 64 << 10;
const TOKENS_MAX: usize = 16 << 10;

/// Functions that call functions of the script or make some, and names that lead to them.
const REFUSED: &[&str] = &[
    "_G",
    "coroutine",
    "dofile",
    "foreach",
    "foreachi",
    "getfenv",
    "getmetatable",
    "gfind",
    "gmatch",
    "goto",
    "gsub",
    "load",
    "loadstring",
    "newproxy",
    "setfenv",
    "setmetatable",
    "sort",
    "xpcall",
];

const LIBRARIES: &[&str] = &["bit", "cjson", "cmsgpack", "math", "os", "redis", "server", "string", "struct", "table"];

/// Whether a script with this text can be suspended wherever it is long.
pub(crate) fn can_be_suspended(text: &[u8]) -> bool {
    if text.len() > TEXT_BYTES_MAX {
        return false;
    }
    let Some(tokens) = tokens(text).filter(|tokens| tokens.len() <= TOKENS_MAX) else { return false };
    (0..tokens.len()).all(|at| match &tokens[at] {
        Token::Name(name) => is_fit(&tokens, at, name),
        Token::String(_) | Token::Number(_) | Token::Symbol(_) => true,
    })
}

fn name_at(tokens: &[Token], at: usize) -> Option<&str> {
    match tokens.get(at) {
        Some(Token::Name(name)) => Some(name),
        _ => None,
    }
}

fn is_symbol(tokens: &[Token], at: usize, symbol: &str) -> bool {
    matches!(tokens.get(at), Some(Token::Symbol(found)) if *found == symbol)
}

fn is_fit(tokens: &[Token], at: usize, name: &str) -> bool {
    if REFUSED.contains(&name) {
        return false;
    }
    let is_field = at > 0 && (is_symbol(tokens, at - 1, ".") || is_symbol(tokens, at - 1, ":"));
    if name == "pcall" {
        return is_field && at > 1 && matches!(name_at(tokens, at - 2), Some("redis" | "server"));
    }
    if is_field {
        return true;
    }
    if LIBRARIES.contains(&name) {
        return is_symbol(tokens, at + 1, ".") && name_at(tokens, at + 2).is_some();
    }
    match name {
        "pairs" | "ipairs" => at > 0 && name_at(tokens, at - 1) == Some("in"),
        "in" => iterates_shortly(tokens, at),
        _ => true,
    }
}

/// Whether the loop whose `in` is at `at` calls an iterator that is always short.
fn iterates_shortly(tokens: &[Token], at: usize) -> bool {
    let Some(name) = name_at(tokens, at + 1) else { return false };
    let Some(end) = closing(tokens, at + 2) else { return false };
    name_at(tokens, end + 1) == Some("do") && (matches!(name, "pairs" | "ipairs") || makes_iterators(tokens, name))
}

/// The parenthesis that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    if !is_symbol(tokens, open, "(") {
        return None;
    }
    let mut depth = 0usize;
    (open..tokens.len()).find(|at| {
        match tokens[*at] {
            Token::Symbol("(") => depth += 1,
            Token::Symbol(")") => depth -= 1,
            _ => {}
        }
        depth == 0
    })
}

/// Whether `name` is nothing but a local function of the script that makes [short](is_simple) iterators, and which is called
/// by loops alone.
fn makes_iterators(tokens: &[Token], name: &str) -> bool {
    let mut places = (0..tokens.len()).filter(|at| name_at(tokens, *at) == Some(name));
    let Some(defined) = places.next() else { return false };
    let is_defined = defined > 1
        && name_at(tokens, defined - 1) == Some("function")
        && name_at(tokens, defined - 2) == Some("local");
    let Some(parameters) = closing(tokens, defined + 1).filter(|_| is_defined) else { return false };
    places.all(|at| name_at(tokens, at - 1) == Some("in")) && is_simple(&tokens[parameters + 1..])
}

/// Whether the body of a function that begins here is a straight line that ends with `return function`, and neither it nor that
/// function has loops, or calls but of `math`.
fn is_simple(body: &[Token]) -> bool {
    let is_word = |at: usize, word: &str| name_at(body, at) == Some(word);
    let Some(made) = (0..body.len()).find(|at| is_word(*at, "return")) else { return false };
    let mut depth = 0usize;
    for at in 0..body.len() {
        match &body[at] {
            Token::Name(name) => match name.as_str() {
                "for" | "while" | "repeat" => return false,
                "function" | "if" | "do" if at < made => return false,
                "function" | "if" | "do" => depth += 1,
                "end" if depth == 1 => return is_word(made + 1, "function") && is_word(at + 1, "end"),
                "end" if depth == 0 => return false,
                "end" => depth -= 1,
                _ => {}
            },
            Token::Symbol("(") if !is_call_of_math(body, at) && at > 0 && calls(&body[at - 1]) => return false,
            Token::Symbol("{") | Token::String(_) if at > 0 && calls(&body[at - 1]) => return false,
            _ => {}
        }
    }
    false
}

/// Whether something behind this token is the argument of a call.
fn calls(token: &Token) -> bool {
    !matches!(token, Token::Name(name) if matches!(name.as_str(), "function" | "while" | "until" | "elseif" | "in"))
        && ends_value(token)
}

fn is_call_of_math(tokens: &[Token], open: usize) -> bool {
    open > 2 && is_symbol(tokens, open - 2, ".") && name_at(tokens, open - 3) == Some("math")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCHES: &str = "local function batches(n, size) local i = 0 \
        return function() local from = i * size + 1 i = i + 1 \
        if (from <= n) then return from, math.min(from + size - 1, n) end end end ";

    #[test]
    fn scripts_that_no_function_of_c_calls_back_can_be_suspended() {
        for text in [
            "return 1",
            "for i = 1, #ARGV do redis.call('SET', KEYS[1], ARGV[i]) end",
            "local rcall = redis.call local function f(x) return rcall('GET', x) end return f(KEYS[1])",
            "for _, v in ipairs(ARGV) do redis.pcall('DEL', v) end",
            "for k, v in pairs({1, 2}) do while k < 3 do k = k + 1 end end",
            "repeat local m = string.match(ARGV[1], '.*:(.*)') until m",
            "local t = cmsgpack.unpack(ARGV[1]) table.insert(t, cjson.encode(t)) return table.concat(t)",
            &format!("{BATCHES} for from, to in batches(10, 3) do redis.call('DEL', from) end"),
        ] {
            assert!(can_be_suspended(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn others_may_be_called_back() {
        for text in [
            "pcall(function() end)",
            "local p = redis p.pcall('GET')",
            "local f = _G['pcall'] f()",
            "table.sort(t)",
            "local t = table t['sort']({})",
            "table['sort']({})",
            "('x'):gsub('.', function() end)",
            "return string.gsub('x', 'x', f)",
            "coroutine.wrap(f)()",
            "loadstring('while true do end')()",
            "setmetatable({}, {__index = f})",
            "for x in f do end",
            "for x in f() do end",
            "for x in function() return 1 end do end",
            "for x in pairs(t) and f do end",
            "local pairs = f for x in pairs(t) do end",
            "local function ipairs() return f end for x in ipairs(t) do end",
            "local function g() return function() while true do end end end for x in g() do end",
            "local function g() return function() redis.call('PING') end end for x in g() do end",
            "local function g() return function() f{} end end for x in g() do end",
            "local function g(f) return f end for x in g(f) do end",
            "local function g(f) if f then return f end return function() end end for x in g(f) do end",
            "local function g(f) return function() end, f() end for x in g(f) do end",
            &format!("{BATCHES} batches = f for from, to in batches(10, 3) do end"),
            "local x = [[ ]] .. \"\n",
        ] {
            assert!(!can_be_suspended(text.as_bytes()), "{text}");
        }
    }
}
