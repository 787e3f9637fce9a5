//! Facts about a script that are known without running it: whether it is a straight line, and the commands that it calls.
//!
//! A script on the path of every connection must end soon, and nothing can interrupt it once it has written. So only a
//! script whose end is certain from its text may run there. The survey reads the tokens of the text, and accepts
//!
//! 1. no loops and no functions: `for`, `while`, `repeat` and `function` do not occur. So each token runs once at most,
//!    in the order of the text;
//! 2. no call but of `redis.call` and `redis.pcall` with the command's name as a literal, and of the functions of
//!    [`GLOBALS`] and [`LIBRARIES`], whose work is linear in their arguments;
//! 3. none of these names as anything but a call: so no call can be of another function than its name says.
//!
//! Whatever else occurs, the script is none of these, and the survey ends with `None`. That is no verdict on the script:
//! it runs elsewhere.

mod functions;
mod guests;

pub(crate) use functions::{StraightFunction, survey_library};
pub(crate) use guests::can_be_suspended;

/// A call of a command, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSite {
    /// The arguments, the command's name first.
    pub arguments: Vec<CallArgument>,
    /// Operations behind it in the text whose work may be linear in their operands.
    pub operations_after: usize,
}

/// An argument, as far as the text tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallArgument {
    /// `KEYS[...]`
    Key,
    Literal(Vec<u8>),
    Other,
}

/// A longer text is not looked at.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// Nor is one with more tokens: each may be an operation on all the memory that a script may take.
const TOKENS_MAX: usize = 1000;

/// Functions whose work is at most linear in their arguments, and that call no function of the script.
const GLOBALS: &[&str] = &["tonumber", "tostring", "type", "assert", "error", "select"];

/// The same of libraries.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("redis", &["status_reply", "error_reply", "sha1hex", "setresp"]),
    ("server", &["status_reply", "error_reply", "sha1hex", "setresp"]),
    ("math", &["floor", "ceil", "abs", "min", "max", "fmod", "modf", "sqrt", "pow", "log", "exp", "random"]),
    ("string", &["len", "sub", "lower", "upper", "byte", "char", "reverse"]),
    ("bit", &["tobit", "bnot", "band", "bor", "bxor", "lshift", "rshift", "arshift"]),
    ("cjson", &["encode", "decode"]),
    ("cmsgpack", &["pack", "unpack"]),
];

/// Functions and libraries whose work has no such bound, or that would give a script others.
const UNKNOWN: &[&str] = &[
    "_G",
    "collectgarbage",
    "coroutine",
    "getfenv",
    "getmetatable",
    "ipairs",
    "load",
    "loadstring",
    "newproxy",
    "next",
    "os",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawset",
    "setfenv",
    "setmetatable",
    "struct",
    "table",
    "unpack",
    "xpcall",
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Name(String),
    String(Vec<u8>),
    Number(Vec<u8>),
    Symbol(&'static str),
}

/// The calls of a script that is a straight line.
pub fn survey(text: &[u8]) -> Option<Vec<CallSite>> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    survey_tokens(&tokens(text)?)
}

/// Whether a script only reads elements of `KEYS` and `ARGV`, as far as it names them.
pub(crate) fn only_reads_words(text: &[u8]) -> bool {
    tokens(text).is_some_and(|tokens| only_reads(&tokens, "KEYS") && only_reads(&tokens, "ARGV"))
}

/// Whether a script only reads elements of the table with this name.
fn only_reads(tokens: &[Token], name: &str) -> bool {
    let mut depth = 0usize;
    (0..tokens.len()).all(|at| match &tokens[at] {
        Token::Symbol("(" | "[" | "{") => {
            depth += 1;
            true
        }
        Token::Symbol(")" | "]" | "}") => {
            depth = depth.saturating_sub(1);
            true
        }
        Token::Name(found) if found == name => check_keys(tokens, at, depth).is_some(),
        _ => true,
    })
}

fn survey_tokens(tokens: &[Token]) -> Option<Vec<CallSite>> {
    if tokens.len() > TOKENS_MAX {
        return None;
    }
    let (mut sites, mut depth) = (Vec::<CallSite>::new(), 0usize);
    for at in 0..tokens.len() {
        if is_linear(&tokens[at]) {
            sites.iter_mut().for_each(|site| site.operations_after += 1);
        }
        match tokens[at] {
            Token::Symbol("(" | "[" | "{") => depth += 1,
            Token::Symbol(")" | "]" | "}") => depth = depth.checked_sub(1)?,
            _ => {}
        }
        match &tokens[at] {
            Token::Name(name) if name == "KEYS" => check_keys(tokens, at, depth)?,
            Token::Name(name) => check_name(tokens, at, name, &mut sites)?,
            // A call of what an index, a call or a string gives.
            Token::Symbol("(") if at > 0 && ends_value(&tokens[at - 1]) && !is_known_call(tokens, at) => return None,
            Token::Symbol("{") | Token::String(_) if at > 0 && ends_value(&tokens[at - 1]) => return None,
            _ => {}
        }
    }
    Some(sites)
}

/// Whether the work of an operation may be linear in its operands: texts are joined, compared, converted, and passed to
/// functions.
fn is_linear(token: &Token) -> bool {
    matches!(token, Token::Symbol(".." | "<" | ">" | "<=" | ">=" | "+" | "-" | "*" | "/" | "%" | "^" | "("))
}

/// Whether a token may be the end of an expression that could be called.
fn ends_value(token: &Token) -> bool {
    match token {
        Token::Name(name) => !is_keyword(name),
        Token::String(_) | Token::Symbol(")" | "]" | "}") => true,
        Token::Number(_) | Token::Symbol(_) => false,
    }
}

fn is_keyword(name: &str) -> bool {
    const KEYWORDS: &[&str] = &[
        "and", "do", "else", "elseif", "end", "false", "if", "in", "local", "nil", "not", "or", "return", "then",
        "true",
    ];
    KEYWORDS.contains(&name)
}

/// Whether the parenthesis at `at` belongs to a call that [`check_name`] accepts.
fn is_known_call(tokens: &[Token], at: usize) -> bool {
    let Some(Token::Name(name)) = tokens.get(at.wrapping_sub(1)) else { return false };
    match at.checked_sub(2).and_then(|dot| tokens.get(dot)) {
        Some(Token::Symbol(".")) => match at.checked_sub(3).and_then(|owner| tokens.get(owner)) {
            Some(Token::Name(owner)) => {
                let is_of_library = at < 4 || !matches!(tokens[at - 4], Token::Symbol("." | ":"));
                let is_command =
                    matches!(owner.as_str(), "redis" | "server") && matches!(name.as_str(), "call" | "pcall");
                is_of_library && (is_command || library(owner).is_some_and(|known| known.contains(&name.as_str())))
            }
            _ => false,
        },
        Some(Token::Symbol(":")) => false,
        _ => GLOBALS.contains(&name.as_str()),
    }
}

fn library(name: &str) -> Option<&'static [&'static str]> {
    LIBRARIES.iter().find(|(library, _)| *library == name).map(|(_, functions)| *functions)
}

fn check_name(tokens: &[Token], at: usize, name: &str, sites: &mut Vec<CallSite>) -> Option<()> {
    const REFUSED: &[&str] = &["for", "while", "repeat", "until", "function", "goto", "break"];
    if REFUSED.contains(&name) {
        return None;
    }
    let is_field = at > 0 && matches!(tokens[at - 1], Token::Symbol("." | ":"));
    if is_field {
        return Some(());
    }
    if library(name).is_some() {
        // `name . function (`, or a constant of a library that is no function.
        let [Token::Symbol("."), Token::Name(field), rest @ ..] = &tokens[at + 1..] else { return None };
        if !matches!(rest.first(), Some(Token::Symbol("("))) {
            let is_constant = field.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
                || (name, field.as_str()) == ("cjson", "null")
                || (name, field.as_str()) == ("math", "huge");
            return is_constant.then_some(());
        }
        if !is_known_call(tokens, at + 3) {
            return None;
        }
        if matches!(name, "redis" | "server") && matches!(field.as_str(), "call" | "pcall") {
            sites.push(site(tokens, at + 3)?);
        }
        return Some(());
    }
    if GLOBALS.contains(&name) {
        return matches!(tokens.get(at + 1), Some(Token::Symbol("("))).then_some(());
    }
    (!UNKNOWN.contains(&name)).then_some(())
}

/// Declared keys may be read only, so that `KEYS[1]` is one; the same for arguments. `depth`: in how many brackets the name at `at` is.
fn check_keys(tokens: &[Token], at: usize, depth: usize) -> Option<()> {
    let before = at.checked_sub(1).and_then(|before| tokens.get(before));
    if before == Some(&Token::Symbol("#")) {
        return (tokens.get(at + 1) != Some(&Token::Symbol("["))).then_some(());
    }
    let begins_statement = match before {
        None | Some(Token::Symbol(";")) => true,
        Some(Token::Name(name)) if is_keyword(name) => {
            matches!(name.as_str(), "then" | "else" | "do" | "end" | "local")
        }
        Some(token) => ends_value(token),
    };
    let mut inner = 0usize;
    let end = tokens[at + 1..].iter().position(|token| {
        match token {
            Token::Symbol("[") => inner += 1,
            Token::Symbol("]") => inner = inner.saturating_sub(1),
            _ => {}
        }
        inner == 0
    })?;
    let is_indexed = tokens.get(at + 1) == Some(&Token::Symbol("["));
    let after = tokens.get(at + 2 + end);
    // At the top it may be one of several names that are assigned to.
    let is_listed = depth == 0 && [before, after].contains(&Some(&Token::Symbol(",")));
    (is_indexed && !begins_statement && !is_listed && after != Some(&Token::Symbol("="))).then_some(())
}

/// The call whose opening parenthesis is at `open`.
fn site(tokens: &[Token], open: usize) -> Option<CallSite> {
    let mut arguments = Vec::new();
    let (mut depth, mut start) = (0usize, open + 1);
    for at in open..tokens.len() {
        let Token::Symbol(symbol) = tokens[at] else { continue };
        match symbol {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            _ => {}
        }
        let is_end = depth == 0;
        if is_end || depth == 1 && symbol == "," {
            arguments.push(argument(&tokens[start..at]));
            start = at + 1;
        }
        if is_end {
            // The name must be known, and a call among the arguments may stand for several if it is the last.
            let is_named = matches!(arguments.first(), Some(CallArgument::Literal(_)));
            let is_counted = !matches!(tokens.get(at - 1), Some(Token::Symbol(")" | "...")));
            return (is_named && is_counted).then_some(CallSite { arguments, operations_after: 0 });
        }
    }
    None
}

fn argument(tokens: &[Token]) -> CallArgument {
    match tokens {
        [Token::String(bytes) | Token::Number(bytes)] => CallArgument::Literal(bytes.clone()),
        [Token::Name(keys), Token::Symbol("["), inner @ .., Token::Symbol("]")]
            if keys == "KEYS" && !inner.contains(&Token::Symbol("]")) =>
        {
            CallArgument::Key
        }
        _ => CallArgument::Other,
    }
}

/// The tokens of Lua 5.1. `None`: the text is none, or uses what is not looked at.
fn tokens(text: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut at =
        if text.starts_with(b"#") { text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len()) } else { 0 };
    while let Some(&byte) = text.get(at) {
        let rest = &text[at..];
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c => at += 1,
            b'-' if rest.starts_with(b"--") => {
                at += 2;
                at += match long_bracket(&text[at..]) {
                    Some((_, len)) => len,
                    None if is_long(&text[at..]) => return None,
                    None => text[at..].iter().position(|byte| *byte == b'\n').unwrap_or(text.len() - at),
                };
            }
            b'"' | b'\'' => {
                let (string, len) = quoted(rest)?;
                tokens.push(Token::String(string));
                at += len;
            }
            b'[' if is_long(rest) => {
                let (string, len) = long_bracket(rest)?;
                tokens.push(Token::String(string.to_vec()));
                at += len;
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
                tokens.push(Token::Name(String::from_utf8_lossy(&rest[..len]).into_owned()));
                at += len;
            }
            b'0'..=b'9' => {
                let len = number(rest);
                tokens.push(Token::Number(rest[..len].to_vec()));
                at += len;
            }
            b'.' if rest.get(1).is_some_and(u8::is_ascii_digit) => {
                let len = number(rest);
                tokens.push(Token::Number(rest[..len].to_vec()));
                at += len;
            }
            _ => {
                const SYMBOLS: &[&str] = &[
                    "...", "..", "==", "~=", "<=", ">=", "+", "-", "*", "/", "%", "^", "#", "<", ">", "=", "(", ")",
                    "{", "}", "[", "]", ";", ":", ",", ".",
                ];
                let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(symbol.as_bytes()))?;
                tokens.push(Token::Symbol(symbol));
                at += symbol.len();
            }
        }
    }
    Some(tokens)
}

fn number(text: &[u8]) -> usize {
    let mut len = 0;
    while let Some(&byte) = text.get(len) {
        let is_sign = matches!(byte, b'+' | b'-') && matches!(text.get(len.wrapping_sub(1)), Some(b'e' | b'E'));
        if !byte.is_ascii_alphanumeric() && byte != b'.' && byte != b'_' && !is_sign {
            break;
        }
        len += 1;
    }
    len
}

fn is_long(text: &[u8]) -> bool {
    let equals = text.iter().skip(1).take_while(|byte| **byte == b'=').count();
    text.first() == Some(&b'[') && text.get(1 + equals) == Some(&b'[')
}

/// The content of `[==[ ... ]==]`, and the length of all of it.
fn long_bracket(text: &[u8]) -> Option<(&[u8], usize)> {
    if !is_long(text) {
        return None;
    }
    let equals = text.iter().skip(1).take_while(|byte| **byte == b'=').count();
    let close = [&b"]"[..], &vec![b'='; equals], b"]"].concat();
    let start = equals + 2;
    let end = text[start..].windows(close.len()).position(|window| window == close)?;
    Some((&text[start..start + end], start + end + close.len()))
}

/// The content of a quoted string without escapes, and the length of all of it.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let quote = text[0];
    let mut content = Vec::new();
    let mut at = 1;
    loop {
        match *text.get(at)? {
            b'\\' => {
                // Its text matters only for a command's name, which no script writes that way.
                content.extend_from_slice(&[b'\\', *text.get(at + 1)?]);
                at += 2;
            }
            b'\n' => return None,
            byte if byte == quote => return Some((content, at + 1)),
            byte => {
                content.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Option<Vec<String>> {
        let name = |site: CallSite| match site.arguments.into_iter().next() {
            Some(CallArgument::Literal(name)) => String::from_utf8(name).unwrap(),
            other => panic!("{other:?}"),
        };
        Some(survey(text.as_bytes())?.into_iter().map(name).collect())
    }

    #[test]
    fn straight_lines_are_known() {
        for (text, calls) in [
            ("return 1", &[][..]),
            ("return redis.call('incr', KEYS[1])", &["incr"]),
            ("return {KEYS[1], ARGV[1]}", &[]),
            (
                "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call(\"del\",KEYS[1]) else return 0 end",
                &["get", "del"],
            ),
            ("local n = tonumber(redis.call('get', KEYS[1]) or '0') -- for\nreturn n + 1", &["get"]),
            ("local t = redis.call('TIME') return t[1] .. t[2]", &["TIME"]),
            ("return server.pcall([[SET]], KEYS[1], cjson.encode({a=1, b=cjson.null}))", &["SET"]),
            ("#!lua flags=no-writes\nreturn redis.sha1hex('x')", &[]),
            ("--[[ while ]] return math.floor(ARGV[1] / 2)", &[]),
            ("return redis.status_reply('OK')", &[]),
        ] {
            let calls: Vec<String> = calls.iter().map(ToString::to_string).collect();
            // A call as the last argument may stand for several, which a command's arguments must not.
            let expected = (!text.contains("encode")).then_some(calls);
            assert_eq!(names(text), expected, "{text}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for text in [
            "while true do end",
            "for i = 1, 2 do end",
            "repeat until true",
            "local f = function() end",
            "local call = redis.call return call('incr', KEYS[1])",
            "local r = redis return r.call('incr', KEYS[1])",
            "return redis['call']('incr', KEYS[1])",
            "return redis.call(ARGV[1], KEYS[1])",
            "return redis.call('del', unpack(KEYS))",
            "return redis.call('del', ...)",
            "return string.rep('x', 1e9)",
            "return ('x'):rep(1e9)",
            "return ('x')['rep']('x', 1e9)",
            "local s = 'x' return s[ARGV[1]](s, 1e9)",
            "local s = string return s.rep('x', 1e9)",
            "local f = ('x')[ARGV[1]] return f('x', 1e9)",
            "local f = ('x')[ARGV[1]] return f'x'",
            "local f = ('x')[ARGV[1]] return f{1}",
            "local tonumber = ('x')[ARGV[1]] return tonumber('x', 1e9)",
            "return string.find('x', 'y')",
            "return loadstring('while true do end')()",
            "_G.x = 1",
            "return redis.call 'ping'",
            "redis.call = 1",
            "local redis = {call = 1}",
            "local x = a.redis.call('get')",
            "return setmetatable({}, {})",
            "return 'unfinished",
            "return ~",
            "return --[[ unfinished",
            "KEYS[1] = 'x'",
            "local k = KEYS k[1] = 'x'",
            "local KEYS = {'x'}",
            "KEYS = {'x'}",
            "local a a, KEYS[1] = 1, 2",
            "KEYS[1], KEYS[2] = 1, 2",
        ] {
            assert_eq!(survey(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn arguments_may_only_be_read() {
        for text in
            ["return 1", "return {#ARGV, ARGV[1]}", "if ARGV[1] == ARGV[2] then return redis.call('get', KEYS[1]) end"]
        {
            assert!(only_reads_words(text.as_bytes()), "{text}");
        }
        for text in [
            "return ARGV",
            "local a = ARGV a[1] = 'x'",
            "ARGV[1] = 'x'",
            "return {ARGV}",
            "return cjson.encode(ARGV)",
            "local ARGV = {}",
            "local a a, ARGV[1] = 1, 2",
            "return 'unfinished",
        ] {
            assert!(!only_reads_words(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn arguments_are_what_the_text_says() {
        let sites = survey(b"redis.call('zunionstore', KEYS[1], 2, KEYS[ARGV[1]], KEYS[2] .. 'x', ARGV[2], 'weights')");
        // The index of a key must not hold another one.
        assert_eq!(
            sites.unwrap()[0].arguments[1..],
            [
                CallArgument::Key,
                CallArgument::Literal(b"2".to_vec()),
                CallArgument::Other,
                CallArgument::Other,
                CallArgument::Other,
                CallArgument::Literal(b"weights".to_vec()),
            ]
        );
    }
}
