//! Scripts and functions that run several commands, as one word list that the model can read.
//!
//! The words are the kind of script, and then its commands, each with the number of its words before it. [`request`] makes
//! the request of it that a client sends: the commands stand in a script's text, or come as arguments of a function. The
//! reply has the reply to each command, so the model runs one after the other.

use dormouse_protocol::OwnedRequest;
use dormouse_shard::commands;

/// A straight line of commands whose keys are in `KEYS`: runs on the shards of its keys.
pub const PLAIN: &str = "(plain script)";
/// A script with a loop, which takes all shards.
pub const LOOP: &str = "(script)";
/// The function of the library that the database may have.
pub const FUNCTION: &str = "(function)";

/// The error reply if no library is loaded.
pub const NO_FUNCTION: &str = "-ERR Function not found\r\n";

/// Whether a script, or a command of one, was refused: for want of memory, or because the log cannot take writes.
pub fn is_refused(reply: &str) -> bool {
    reply.starts_with("-OOM ") || reply.starts_with("-MISCONF ")
}

/// Returns the words of a script over these commands.
pub fn words(kind: &str, commands: &[Vec<String>]) -> Vec<String> {
    let commands = commands.iter().flat_map(|words| [words.len().to_string()].into_iter().chain(words.iter().cloned()));
    [kind.to_owned()].into_iter().chain(commands).collect()
}

/// The commands of a script; none of any other command.
pub fn commands(words: &[String]) -> Option<Vec<&[String]>> {
    if ![PLAIN, LOOP, FUNCTION].contains(&words[0].as_str()) {
        return None;
    }
    let (mut rest, mut commands) = (&words[1..], Vec::new());
    while let Some((len, more)) = rest.split_first() {
        let (words, more) = more.split_at(len.parse().unwrap_or(more.len()).min(more.len()));
        commands.push(words);
        rest = more;
    }
    Some(commands)
}

/// The text of a library whose function runs its arguments, and replies with the library's version first.
pub fn library(version: u64) -> String {
    format!(
        "#!lua name=library\nredis.register_function('run', function(keys, args)
  local replies, at = {{{version}}}, 1
  while at <= #args do
    local many = tonumber(args[at])
    replies[#replies + 1] = redis.pcall(unpack(args, at + 1, at + many))
    at = at + many + 1
  end
  return replies
end)"
    )
}

/// The version in the text of a library.
pub fn version(library: &str) -> Option<u64> {
    library.split_once("at = {")?.1.split_once('}')?.0.parse().ok()
}

/// The request of a script.
pub fn request(words: &[String]) -> Option<OwnedRequest> {
    let all = commands(words)?;
    let (mut keys, mut arguments, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for words in &all {
        let request: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        let request = OwnedRequest::from_args(&request);
        let (row, _) = commands::find(request.as_request()).expect("the script asks for commands that there are");
        let at: Vec<usize> = row.key_indexes(request.as_request()).collect();
        let mut call = vec![format!("'{}'", words[0])];
        for (number, word) in words.iter().enumerate().skip(1) {
            let (name, list) = if at.contains(&number) { ("KEYS", &mut keys) } else { ("ARGV", &mut arguments) };
            list.push(word.clone());
            call.push(format!("{name}[{}]", list.len()));
        }
        calls.push(format!("redis.pcall({})", call.join(", ")));
    }
    let calls = calls.join(", ");
    let count = keys.len().to_string();
    let head = match words[0].as_str() {
        FUNCTION => {
            arguments = words[1..].to_vec();
            vec!["FCALL".to_owned(), "run".to_owned(), count]
        }
        PLAIN => vec!["EVAL".to_owned(), format!("return {{{calls}}}"), count],
        _ => vec!["EVAL".to_owned(), format!("local r = {{}} while #r == 0 do r = {{{calls}}} end return r"), count],
    };
    let all: Vec<String> = head.into_iter().chain(keys).chain(arguments).collect();
    Some(OwnedRequest::from_args(&all.iter().map(String::as_bytes).collect::<Vec<_>>()))
}

/// Splits the reply of an array into those of its elements.
pub fn elements(reply: &str) -> Vec<&str> {
    let Some((count, mut rest)) = reply.strip_prefix('*').and_then(|rest| rest.split_once("\r\n")) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for _ in 0..count.parse::<usize>().unwrap_or(0) {
        let Some(len) = length(rest) else { break };
        let (element, more) = rest.split_at(len);
        all.push(element);
        rest = more;
    }
    all
}

/// The length of the first reply of a text.
fn length(text: &str) -> Option<usize> {
    let line = text.find("\r\n")? + 2;
    let count: i64 = text[1..line - 2].parse().unwrap_or(0);
    match text.as_bytes()[0] {
        b'$' if count >= 0 => Some(line + count as usize + 2).filter(|end| *end <= text.len()),
        b'*' => (0..count.max(0)).try_fold(line, |end, _| Some(end + length(&text[end..])?)),
        _ => Some(line),
    }
}
