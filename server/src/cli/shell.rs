//! `dormouse db shell`: a prompt for the commands of one database. It is `redis-cli` or `valkey-cli` where one is
//! installed, and a small prompt of its own elsewhere, and over TLS.

use std::io::{BufRead, IsTerminal, Write, stdin, stdout};
use std::process::Command;

use dormouse_protocol::{Response, split_words};

use super::client::{Address, Endpoint, ToolClient, Trouble};

const PROGRAMS: [&str; 2] = ["valkey-cli", "redis-cli"];

/// Opens a prompt for the database that these words enter. `client`: a connection that they have been sent on.
///
/// # Errors
/// When the connection breaks.
pub fn open(address: &Address, credentials: &[String], client: &mut ToolClient, name: &str) -> Result<(), String> {
    // Over TLS, the installed client may not trust what this one trusts.
    for program in PROGRAMS.iter().filter(|_| !address.is_tls()) {
        if let Ok(status) = command(program, address, credentials).status() {
            return match status.success() {
                true => Ok(()),
                false => Err(format!("{program} ended with {status}")),
            };
        }
    }
    prompt(client, name)
}

/// The command line of an installed client. Secrets stay out of it: other users can see it.
fn command(program: &str, address: &Address, credentials: &[String]) -> Command {
    let mut command = Command::new(program);
    match &address.endpoint {
        Endpoint::Tcp { host, port, .. } => command.args(["-h", host, "-p", &port.to_string()]),
        Endpoint::Unix(path) => command.arg("-s").arg(path),
    };
    command.arg("--no-auth-warning");
    match credentials {
        [secret] => command.env("REDISCLI_AUTH", secret),
        [user, secret] => command.env("REDISCLI_AUTH", secret).args(["--user", user]),
        _ => &mut command,
    };
    command
}

fn prompt(client: &mut ToolClient, name: &str) -> Result<(), String> {
    let is_shown = stdin().is_terminal();
    let mut lines = stdin().lock().lines();
    loop {
        if is_shown {
            let mut out = stdout();
            // A closed standard output ends the prompt at the next line.
            let _ = write!(out, "{name}> ").and_then(|()| out.flush());
        }
        let Some(Ok(line)) = lines.next() else { return Ok(()) };
        let words = match split_words(line.trim().as_bytes()) {
            Ok(words) if words.is_empty() => continue,
            Ok(words) => words,
            Err(_) => {
                writeln!(stdout(), "invalid line: a quote is not closed").map_err(|error| error.to_string())?;
                continue;
            }
        };
        let is_end = matches!(words[0].to_ascii_lowercase().as_slice(), b"quit" | b"exit");
        if is_end {
            return Ok(());
        }
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let text = match client.call_bytes(&words) {
            Ok(reply) => text_of(&reply, 0),
            Err(Trouble::Refused(text)) => format!("(error) {text}"),
            Err(Trouble::Broken(text)) => return Err(text),
        };
        writeln!(stdout(), "{text}").map_err(|error| error.to_string())?;
    }
}

/// A reply for people, as redis-cli shows it.
fn text_of(reply: &Response, depth: usize) -> String {
    if let Some(items) = reply.items() {
        if items.is_empty() {
            return "(empty array)".to_owned();
        }
        let indent = " ".repeat(depth * 3);
        let lines = items.iter().enumerate().map(|(at, item)| {
            let before = if at == 0 { "" } else { &indent };
            format!("{before}{}) {}", at + 1, text_of(item, depth + 1))
        });
        return lines.collect::<Vec<_>>().join("\n");
    }
    match (reply, reply.bytes()) {
        (Response::Line(':', number), _) => format!("(integer) {number}"),
        (Response::Line('-', text), _) => format!("(error) {text}"),
        (Response::Line(_, text), _) => text.clone(),
        (_, Some(bytes)) => format!("\"{}\"", bytes.escape_ascii()),
        (_, None) => "(nil)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_shown_as_by_redis_cli() {
        for (reply, expected) in [
            ("+OK\r\n", "OK"),
            (":7\r\n", "(integer) 7"),
            ("$3\r\na\"b\r\n", "\"a\\\"b\""),
            ("$-1\r\n", "(nil)"),
            ("*0\r\n", "(empty array)"),
            ("*2\r\n+a\r\n*2\r\n:1\r\n:2\r\n", "1) a\n2) 1) (integer) 1\n   2) (integer) 2"),
        ] {
            let reply = Response::read(&mut reply.as_bytes()).unwrap();
            assert_eq!(text_of(&reply, 0), expected);
        }
    }

    #[test]
    fn a_secret_is_not_on_the_command_line() {
        let address: Address = "redis://127.0.0.1:7000".parse().unwrap();
        let command = command("redis-cli", &address, &["shop".to_owned(), "s3cret".to_owned()]);
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments, ["-h", "127.0.0.1", "-p", "7000", "--no-auth-warning", "--user", "shop"]);
    }
}
