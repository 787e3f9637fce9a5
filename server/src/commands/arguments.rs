//! The arguments that `COMMAND DOCS` describes, read once from `arguments.txt`, which documents its own format.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use dormouse_protocol::Reply;

/// One argument of a command.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DocumentedArgument {
    name: &'static str,
    kind: &'static str,
    key_spec: Option<i64>,
    token: Option<&'static str>,
    since: Option<&'static str>,
    deprecated_since: Option<&'static str>,
    /// The text to display, if it differs from the name.
    display: Option<&'static str>,
    optional: bool,
    multiple: bool,
    multiple_token: bool,
    /// The arguments of a block, or the choices of a one-of.
    inner: Vec<DocumentedArgument>,
}

static ARGUMENTS: LazyLock<BTreeMap<&'static str, Vec<DocumentedArgument>>> = LazyLock::new(|| {
    let lines = include_str!("arguments.txt").lines().filter(|line| !line.starts_with('#'));
    let line = |line: &'static str| {
        let mut words = line.split(' ');
        Some((words.next()?, read(&mut words)))
    };
    lines.filter_map(line).collect()
});

/// Returns the arguments of a command, by its full name in lower case.
pub fn of(name: &str) -> &'static [DocumentedArgument] {
    ARGUMENTS.get(name).map_or(&[], Vec::as_slice)
}

/// Reads arguments until the end or a closing brace.
fn read(words: &mut std::str::Split<'static, char>) -> Vec<DocumentedArgument> {
    let mut arguments: Vec<DocumentedArgument> = Vec::new();
    while let Some(word) = words.next() {
        match (word, arguments.last_mut()) {
            ("}", _) => break,
            ("{", Some(last)) => last.inner = read(words),
            _ => arguments.push(argument(word)),
        }
    }
    arguments
}

fn argument(word: &'static str) -> DocumentedArgument {
    const MARKS: [char; 8] = ['#', '=', '@', '!', '?', '*', '+', '~'];
    let (name, mut rest) = word.split_once(':').unwrap_or((word, ""));
    let mut take = |mark: Option<char>| {
        // A token may begin with a mark: `*` of XADD is one.
        let begin = usize::from(mark == Some('='));
        let end = rest.get(begin..).and_then(|rest| rest.find(MARKS)).map_or(rest.len(), |at| begin + at);
        let (taken, after) = rest.split_at(end);
        rest = after;
        let mark = rest.chars().next();
        rest = rest.get(1..).unwrap_or_default();
        (taken, mark)
    };
    let (kind, mut mark) = take(None);
    let mut argument = DocumentedArgument { name, kind, ..DocumentedArgument::default() };
    while let Some(of) = mark {
        let (value, next) = take(mark);
        match of {
            '#' => argument.key_spec = value.parse().ok(),
            '=' => argument.token = Some(value),
            '@' => argument.since = Some(value),
            '!' => argument.deprecated_since = Some(value),
            '?' => argument.optional = true,
            '*' => argument.multiple = true,
            '+' => argument.multiple_token = true,
            _ => argument.display = Some(value),
        }
        mark = next;
    }
    argument
}

/// Writes the arguments in Redis's format and order of fields.
pub fn write(reply: &mut Reply, arguments: &[DocumentedArgument]) {
    reply.array(arguments.len());
    arguments.iter().for_each(|argument| write_one(reply, argument));
}

fn write_one(reply: &mut Reply, argument: &DocumentedArgument) {
    // A block is displayed by its inner arguments.
    let display = argument.inner.is_empty().then(|| argument.display.unwrap_or(argument.name));
    let flags: Vec<&str> =
        [(argument.optional, "optional"), (argument.multiple, "multiple"), (argument.multiple_token, "multiple_token")]
            .into_iter()
            .filter_map(|(set, name)| set.then_some(name))
            .collect();
    let texts = [
        ("name", Some(argument.name)),
        ("type", Some(argument.kind)),
        ("display_text", display),
        ("token", argument.token),
        ("since", argument.since),
        ("deprecated_since", argument.deprecated_since),
    ];
    let fields = texts.iter().filter(|(_, text)| text.is_some()).count();
    let more = [argument.key_spec.is_some(), !flags.is_empty(), !argument.inner.is_empty()];
    reply.map(fields + more.into_iter().filter(|more| *more).count());
    for (at, (name, text)) in texts.into_iter().enumerate() {
        if let Some(text) = text {
            reply.bulk(name.as_bytes());
            reply.bulk(text.as_bytes());
        }
        if at == 2
            && let Some(spec) = argument.key_spec
        {
            reply.bulk(b"key_spec_index");
            reply.integer(spec);
        }
    }
    if !flags.is_empty() {
        reply.bulk(b"flags");
        reply.set(flags.len());
        flags.iter().for_each(|flag| reply.simple(flag));
    }
    if !argument.inner.is_empty() {
        reply.bulk(b"arguments");
        write(reply, &argument.inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::TABLE;
    use crate::table::CommandEntry;

    #[test]
    fn every_line_is_of_a_command_of_ours() {
        let names: Vec<&str> = TABLE.entries().iter().map(|entry| &*entry.name).collect();
        let strangers: Vec<_> = ARGUMENTS.keys().filter(|name| !names.contains(name)).collect();
        assert!(strangers.is_empty(), "{strangers:?}");
        assert!(ARGUMENTS.len() > 150);
    }

    #[test]
    fn what_takes_arguments_documents_them() {
        let takes_some = |entry: &&CommandEntry| {
            let words = 1 + entry.name.matches('|').count();
            entry.subcommands.is_empty() && usize::from(entry.row.arity.0.unsigned_abs()) > words
        };
        // Those of Dormouse's own, and of a command whose arguments Redis does not document either.
        let ours = |entry: &&CommandEntry| entry.name.starts_with("dormouse") || *entry.name == *"debug";
        let entries = TABLE.entries().iter().filter(|entry| takes_some(entry) && !ours(entry));
        let undocumented: Vec<_> = entries.map(|entry| &entry.name).filter(|name| of(name).is_empty()).collect();
        assert!(undocumented.is_empty(), "{undocumented:?}");
    }

    #[test]
    fn a_key_is_one_of_the_specs_of_its_row() {
        fn check(name: &str, specs: usize, arguments: &[DocumentedArgument]) {
            for argument in arguments {
                assert!(argument.key_spec.is_none_or(|spec| (spec as usize) < specs), "{name}: {argument:?}");
                let known =
                    ["string", "integer", "double", "key", "pattern", "unix-time", "pure-token", "oneof", "block"];
                assert!(known.contains(&argument.kind), "{name}: {argument:?}");
                check(name, specs, &argument.inner);
            }
        }
        for entry in TABLE.entries() {
            check(&entry.name, entry.row.keys.len(), of(&entry.name));
        }
    }

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let mut words =
            "key:key#0 condition:oneof@2.6.12? { nx:pure-token=NX xx:pure-token=XX!7.0.0 } id:string=ID*+~the-id"
                .split(' ');
        let read = read(&mut words);
        assert_eq!(
            read[0],
            DocumentedArgument { name: "key", kind: "key", key_spec: Some(0), ..DocumentedArgument::default() }
        );
        assert_eq!((read[1].since, read[1].optional, read[1].inner.len()), (Some("2.6.12"), true, 2));
        assert_eq!((read[1].inner[1].token, read[1].inner[1].deprecated_since), (Some("XX"), Some("7.0.0")));
        assert_eq!((read[2].token, read[2].display), (Some("ID"), Some("the-id")));
        assert!(read[2].multiple && read[2].multiple_token && !read[2].optional);
    }
}
