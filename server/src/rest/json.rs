//! Bodies: a command as a JSON array, or an array of commands.
//!
//! The words of a command are strings, numbers and booleans. A number is the text that the client has sent, whatever its
//! size or precision. Nothing but the words is kept of a body.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

use super::idempotency::{COMMANDS_MAX, IdempotencyKey};
use super::input::{RespText, Words};

/// Why a body was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyProblem {
    /// It is not JSON of the right form.
    Malformed,
    /// It has no commands.
    Empty,
    /// A command has no words.
    EmptyCommand,
    /// A word is null, an array or an object.
    WrongWord,
    /// It has a key, and too many commands for one.
    TooManyForKey,
}

/// Reads one command, which is run once if it has a key.
///
/// # Errors
/// When the body is not one.
pub fn command(body: &[u8], key: Option<&IdempotencyKey>) -> Result<RespText, BodyProblem> {
    let mut reading = Reading::of(body, key);
    let mut json = Deserializer::from_slice(body);
    let read = OneCommand(&mut reading).deserialize(&mut json).and_then(|()| json.end());
    match reading.end(read.is_ok()) {
        Err(BodyProblem::EmptyCommand) => Err(BodyProblem::Empty),
        read => read,
    }
}

/// Reads an array of commands, each of which is run once if they have a key.
///
/// # Errors
/// When the body is not one.
pub fn commands(body: &[u8], key: Option<&IdempotencyKey>) -> Result<RespText, BodyProblem> {
    let mut reading = Reading { number: Some(0), ..Reading::of(body, key) };
    let mut json = Deserializer::from_slice(body);
    let read = ManyCommands(&mut reading).deserialize(&mut json).and_then(|()| json.end());
    let input = reading.end(read.is_ok())?;
    if input.is_empty() { Err(BodyProblem::Empty) } else { Ok(input) }
}

/// The commands so far.
struct Reading<'k> {
    input: RespText,
    problem: BodyProblem,
    key: Option<&'k IdempotencyKey>,
    /// How many commands of an array have begun.
    number: Option<usize>,
}

impl<'k> Reading<'k> {
    fn of(body: &[u8], key: Option<&'k IdempotencyKey>) -> Self {
        let input = RespText::with_room_for(body.len() + body.len() / 2 + 32);
        Self { input, problem: BodyProblem::Malformed, key, number: None }
    }

    fn begin<E: serde::de::Error>(&mut self) -> Result<Words<'_>, E> {
        let Some(key) = self.key else { return Ok(self.input.begin()) };
        if let Some(number) = &mut self.number {
            *number += 1;
            if *number > COMMANDS_MAX {
                return self.fail(BodyProblem::TooManyForKey);
            }
        }
        Ok(self.input.begin_once(key, self.number))
    }

    fn end(self, is_read: bool) -> Result<RespText, BodyProblem> {
        if is_read { Ok(self.input) } else { Err(self.problem) }
    }

    /// Notes a problem that JSON does not know.
    fn fail<T, E: serde::de::Error>(&mut self, problem: BodyProblem) -> Result<T, E> {
        self.problem = problem;
        Err(E::custom("not a command"))
    }
}

struct ManyCommands<'r, 'k>(&'r mut Reading<'k>);

impl<'de> DeserializeSeed<'de> for ManyCommands<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ManyCommands<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of commands")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut commands: A) -> Result<(), A::Error> {
        while commands.next_element_seed(OneCommand(self.0))?.is_some() {}
        Ok(())
    }
}

struct OneCommand<'r, 'k>(&'r mut Reading<'k>);

impl<'de> DeserializeSeed<'de> for OneCommand<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for OneCommand<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let mut words = self.0.begin::<A::Error>()?;
        let mut is_right = true;
        while is_right && let Some(word) = array.next_element::<&RawValue>()? {
            is_right = add(&mut words, word.get())?;
        }
        let count = words.end();
        match (is_right, count) {
            (false, _) => self.0.fail(BodyProblem::WrongWord),
            (true, 0) => self.0.fail(BodyProblem::EmptyCommand),
            (true, _) => Ok(()),
        }
    }
}

/// Adds a word as it stands in the body. Returns whether it can be one.
fn add<E: serde::de::Error>(words: &mut Words<'_>, word: &str) -> Result<bool, E> {
    match word.as_bytes() {
        [b'"', text @ .., b'"'] if memchr::memchr(b'\\', text).is_none() => words.add(text),
        [b'"', ..] => Deserializer::from_str(word).deserialize_bytes(Unescaped(words)).map_err(E::custom)?,
        [b'n' | b'[' | b'{', ..] => return Ok(false),
        number => words.add(number),
    }
    Ok(true)
}

/// A string with escapes. Halves of surrogate pairs are kept, as a browser sends them.
struct Unescaped<'w, 'i>(&'w mut Words<'i>);

impl Visitor<'_> for Unescaped<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.add(text.as_bytes());
        Ok(())
    }

    fn visit_bytes<E>(self, text: &[u8]) -> Result<(), E> {
        self.0.add(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resp(words: &[&[u8]]) -> Vec<u8> {
        RespText::of(words).rest().to_vec()
    }

    #[test]
    fn words_are_what_the_client_wrote() {
        for (body, words) in [
            (r#"["SET","k","v"]"#, &[&b"SET"[..], b"k", b"v"][..]),
            (r#" [ "A" , 1 , -2.50 , 1e3 , true , false ] "#, &[b"A", b"1", b"-2.50", b"1e3", b"true", b"false"]),
            (r#"["A",123456789012345678901234567890.00]"#, &[b"A", b"123456789012345678901234567890.00"]),
            (r#"["A","\n\"\\\/\u0041\ud83d\ude00","\u0000"]"#, &[b"A", "\n\"\\/A\u{1f600}".as_bytes(), b"\0"]),
            (r#"["A","\ud800"]"#, &[b"A", b"\xed\xa0\x80"]),
            (r#"["A","","é"]"#, &[b"A", b"", "é".as_bytes()]),
        ] {
            assert_eq!(command(body.as_bytes(), None).unwrap().rest(), resp(words), "{body}");
            let body = format!("[{body},{body}]");
            assert_eq!(commands(body.as_bytes(), None).unwrap().rest(), resp(words).repeat(2), "{body}");
        }
    }

    #[test]
    fn bodies_that_are_no_commands() {
        for (body, expected) in [
            ("", BodyProblem::Malformed),
            ("{}", BodyProblem::Malformed),
            ("\"PING\"", BodyProblem::Malformed),
            (r#"["PING"] x"#, BodyProblem::Malformed),
            (r#"["PING""#, BodyProblem::Malformed),
            (r#"["PING",]"#, BodyProblem::Malformed),
            (r#"["\x"]"#, BodyProblem::Malformed),
            ("[\"a\nb\"]", BodyProblem::Malformed),
            (r#"["A",01]"#, BodyProblem::Malformed),
            (r#"["A",nil]"#, BodyProblem::Malformed),
            ("[]", BodyProblem::Empty),
            (r#"["SET","k",null]"#, BodyProblem::WrongWord),
            (r#"["SET","k",{"a":1}]"#, BodyProblem::WrongWord),
            (r#"["SET",["k"]]"#, BodyProblem::WrongWord),
        ] {
            assert_eq!(command(body.as_bytes(), None).unwrap_err(), expected, "{body}");
        }
        assert_eq!(command(b"[\"\xff\"]", None).unwrap_err(), BodyProblem::Malformed);
        for (body, expected) in [
            ("[]", BodyProblem::Empty),
            ("[[]]", BodyProblem::EmptyCommand),
            (r#"[["PING"],[]]"#, BodyProblem::EmptyCommand),
            (r#"["PING"]"#, BodyProblem::Malformed),
            (r#"[["PING"],null]"#, BodyProblem::Malformed),
            (r#"[["GET",null]]"#, BodyProblem::WrongWord),
            (r#"[["PING"]"#, BodyProblem::Malformed),
        ] {
            assert_eq!(commands(body.as_bytes(), None).unwrap_err(), expected, "{body}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion() {
        let deep = format!(r#"["A",{}"#, "[".repeat(1 << 20));
        assert!(command(deep.as_bytes(), None).is_err());
    }
}
