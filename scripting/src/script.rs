//! Scripts and libraries as their authors wrote them: the text, its name, and the flags of its first line.

use std::fmt::{self, Write};

use dormouse_protocol::split_words;

use crate::survey::{CallSite, StraightFunction, can_be_suspended, only_reads_words, survey, survey_library};

/// Bytes of the first line of a library.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The SHA-1 of a script's text, which is its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha(pub [u8; 20]);

impl Sha {
    pub fn of(text: &[u8]) -> Self {
        Self(sha1_smol::Sha1::from(text).digest().bytes())
    }

    /// Reads 40 hexadecimal digits.
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let digits: &[u8; 40] = digits.try_into().ok()?;
        let (mut bytes, mut all) = ([0; 20], 0);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
            all |= high | low;
            *byte = high << 4 | low;
        }
        (all < NO_DIGIT).then_some(Self(bytes))
    }
}

/// The mark of a byte that is no hexadecimal digit.
const NO_DIGIT: u8 = 0x80;

/// The value of each byte as a hexadecimal digit.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        let digit = b"0123456789abcdef"[value];
        digits[digit as usize] = value as u8;
        digits[digit.to_ascii_uppercase() as usize] = value as u8;
        value += 1;
    }
    digits
};

impl fmt::Display for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = |bits: u8| char::from(b"0123456789abcdef"[usize::from(bits & 15)]);
        self.0.iter().try_for_each(|byte| {
            f.write_char(digit(byte >> 4))?;
            f.write_char(digit(*byte))
        })
    }
}

/// The flags of a script or a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScriptFlags {
    pub no_writes: bool,
    pub allow_oom: bool,
    pub allow_stale: bool,
    pub no_cluster: bool,
    pub allow_cross_slot_keys: bool,
    /// Accepted and without a meaning here: every script may use any key.
    pub allow_key_locking: bool,
}

impl ScriptFlags {
    const NAMES: [&str; 6] =
        ["no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys", "allow-key-locking"];

    /// Sets a flag by its name. False: no flag has it.
    pub fn set(&mut self, name: &[u8]) -> bool {
        let flag = match name {
            b"no-writes" => &mut self.no_writes,
            b"allow-oom" => &mut self.allow_oom,
            b"allow-stale" => &mut self.allow_stale,
            b"no-cluster" => &mut self.no_cluster,
            b"allow-cross-slot-keys" => &mut self.allow_cross_slot_keys,
            b"allow-key-locking" => &mut self.allow_key_locking,
            _ => return false,
        };
        *flag = true;
        true
    }

    /// The names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let set = [
            self.no_writes,
            self.allow_oom,
            self.allow_stale,
            self.no_cluster,
            self.allow_cross_slot_keys,
            self.allow_key_locking,
        ];
        Self::NAMES.into_iter().zip(set).filter_map(|(name, is_set)| is_set.then_some(name))
    }
}

/// A script.
#[derive(Debug)]
pub struct Script {
    pub sha: Sha,
    pub text: Box<[u8]>,
    /// `None`: it has no line of flags, and may write whatever the memory.
    pub flags: Option<ScriptFlags>,
    /// Its calls, if it is a straight line.
    pub calls: Option<Vec<CallSite>>,
    /// It only reads elements of `KEYS` and `ARGV`.
    pub(crate) only_reads_words: bool,
    /// Whether it can be suspended wherever it is long.
    pub can_be_suspended: bool,
    /// Bytes of the first line, without its end.
    shebang_bytes: usize,
}

impl Script {
    /// # Errors
    /// The problem of its first line, as the client sees it.
    pub fn new(text: &[u8]) -> Result<Self, String> {
        let (flags, shebang_bytes) = match text.strip_prefix(b"#!") {
            None => (None, 0),
            Some(_) => {
                let end = text.iter().position(|byte| *byte == b'\n').ok_or("ERR Invalid script shebang")?;
                (Some(flags_of(&text[..end])?), end)
            }
        };
        let calls = survey(text);
        let can_be_suspended = can_be_suspended(text);
        // Neither kind reaches the two tables by other names.
        let only_reads_words = (calls.is_some() || can_be_suspended) && only_reads_words(text);
        let sha = Sha::of(text);
        Ok(Self { sha, text: text.into(), flags, calls, only_reads_words, can_be_suspended, shebang_bytes })
    }

    /// The Lua in it. The line of flags is left out, its end is not, so that lines keep their numbers.
    pub fn lua(&self) -> &[u8] {
        &self.text[self.shebang_bytes..]
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.text.len() + size_of::<Self>() + self.calls.as_ref().map_or(0, |calls| calls.len() * 128)
    }
}

/// The flags of a script's first line.
fn flags_of(line: &[u8]) -> Result<ScriptFlags, String> {
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let engine = words.next().unwrap_or_default();
    if engine != b"#!lua" {
        return Err(format!("ERR Unexpected engine in script shebang: {}", shown(engine)));
    }
    let mut flags = ScriptFlags::default();
    for word in words {
        let Some(names) = word.strip_prefix(b"flags=") else {
            return Err(format!("ERR Unknown lua shebang option: {}", shown(word)));
        };
        for name in names.split(|byte| *byte == b',').filter(|name| !name.is_empty()) {
            if !flags.set(name) {
                return Err(format!("ERR Unexpected flag in script shebang: {}", shown(name)));
            }
        }
    }
    Ok(flags)
}

/// A library of functions.
#[derive(Debug)]
pub struct Library {
    pub name: Box<str>,
    pub text: Box<[u8]>,
    pub sha: Sha,
    /// The calls of its functions that are straight lines, by name.
    pub calls: Vec<(Box<str>, Vec<CallSite>)>,
    /// Those of them that only read elements of their keys and arguments.
    readers: Vec<Box<str>>,
    shebang_bytes: usize,
}

impl Library {
    /// # Errors
    /// The problem of its first line, as the client sees it.
    pub fn new(text: &[u8]) -> Result<Self, String> {
        let missing = "ERR Missing library metadata";
        let end = text.iter().position(|byte| *byte == b'\n').filter(|_| text.starts_with(b"#!")).ok_or(missing)?;
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let line = Some(&text[..end]).filter(|line| line.len() <= LINE_BYTES_MAX);
        let words = line.and_then(|line| split_words(line).ok()).ok_or("ERR Invalid library metadata")?;
        let mut words = words.iter().map(Vec::as_slice);
        let engine = words.next().and_then(|first| first.get(2..)).unwrap_or_default();
        let mut name = None;
        for word in words {
            match word.split_at_checked(5).filter(|(option, _)| option.eq_ignore_ascii_case(b"name=")) {
                Some(_) if name.is_some() => {
                    return Err("ERR Invalid metadata value, name argument was given multiple times".into());
                }
                Some((_, given)) => name = Some(given),
                None => return Err(format!("ERR Invalid metadata value given: {}", shown(word))),
            }
        }
        let name = name.ok_or("ERR Library name was not given")?;
        if !is_name(name) {
            return Err(
                "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long"
                    .into(),
            );
        }
        if !engine.eq_ignore_ascii_case(b"lua") {
            return Err(format!("ERR Engine '{}' not found", shown(engine)));
        }
        let (mut calls, mut readers) = (Vec::new(), Vec::new());
        for StraightFunction { name, calls: its, only_reads_words } in survey_library(&text[end..]).unwrap_or_default()
        {
            if only_reads_words {
                readers.push(name.clone());
            }
            calls.push((name, its));
        }
        Ok(Self { name: shown(name).into(), text: text.into(), sha: Sha::of(text), calls, readers, shebang_bytes: end })
    }

    /// Whether a function is a straight line that only reads elements of its keys and arguments.
    pub(crate) fn only_reads_words(&self, function: &str) -> bool {
        self.readers.iter().any(|name| **name == *function)
    }

    /// The Lua in it.
    pub fn lua(&self) -> &[u8] {
        &self.text[self.shebang_bytes..]
    }
}

/// Whether a library or a function may have this name.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_has_flags() {
        let flags = |text: &str| Script::new(text.as_bytes()).map(|script| script.flags);
        let names = |text: &str| flags(text).map(|flags| flags.unwrap().names().collect::<Vec<_>>().join(" "));
        assert_eq!(flags("return 1"), Ok(None));
        assert_eq!(flags("# !lua\nreturn 1"), Ok(None));
        assert_eq!(names("#!lua\nreturn 1").as_deref(), Ok(""));
        assert_eq!(names("#!lua flags=no-writes,allow-oom\n").as_deref(), Ok("no-writes allow-oom"));
        assert_eq!(names("#!lua flags=allow-key-locking\n").as_deref(), Ok("allow-key-locking"));
        for (text, error) in [
            ("#!lua", "ERR Invalid script shebang"),
            ("#!js\n", "ERR Unexpected engine in script shebang: #!js"),
            ("#!lua name=x\n", "ERR Unknown lua shebang option: name=x"),
            ("#!lua flags=fast\n", "ERR Unexpected flag in script shebang: fast"),
        ] {
            assert_eq!(flags(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn the_first_line_of_a_library_has_its_name() {
        let name = |text: &str| Library::new(text.as_bytes()).map(|library| library.name.to_string());
        assert_eq!(name("#!lua name=lib\n").as_deref(), Ok("lib"));
        assert_eq!(name("#!LUA  NAME=\"l\\x69b\"\n").as_deref(), Ok("lib"));
        for (text, error) in [
            ("#!lua name=lib", "ERR Missing library metadata"),
            ("lua name=lib\n", "ERR Missing library metadata"),
            ("#!lua name='lib\n", "ERR Invalid library metadata"),
            ("#!lua\n", "ERR Library name was not given"),
            ("#! name=lib\n", "ERR Engine '' not found"),
            ("#!js name=lib\n", "ERR Engine 'js' not found"),
            ("#!lua name=a name=b\n", "ERR Invalid metadata value, name argument was given multiple times"),
            ("#!lua lib name=a\n", "ERR Invalid metadata value given: lib"),
        ] {
            assert_eq!(name(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn lines_keep_their_numbers() {
        assert_eq!(Script::new(b"#!lua\nreturn 1").unwrap().lua(), b"\nreturn 1");
        assert_eq!(Script::new(b"return 1").unwrap().lua(), b"return 1");
    }

    #[test]
    fn a_name_is_a_hash_in_any_case() {
        let sha = Sha::of(b"return 1");
        assert_eq!(sha.to_string(), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
        assert_eq!(Sha::parse(b"E0E1F9FABFC9D4800c877a703b823ac0578ff8db"), Some(sha));
        assert_eq!(Sha::parse(b"e0"), None);
        assert_eq!(Sha::parse(b"g0e1f9fabfc9d4800c877a703b823ac0578ff8db"), None);
        assert_eq!(Sha::parse(b"e0e1f9fabfc9d4800c877a703b823ac0578ff8d\xff"), None);
    }
}
