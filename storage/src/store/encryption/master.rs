//! The master key, which the operator keeps outside the store.
//!
//! | given as | the key |
//! | --- | --- |
//! | `file:PATH` | 64 hexadecimal digits in a file, as `openssl rand -hex 32` makes them |
//! | `env:NAME` | the same in an environment variable |
//! | `command:COMMAND` | stays where the command keeps it, such as a key management service |
//!
//! A command is run by `/bin/sh` with one more argument, once when the store is opened:
//!
//! - `wrap`: reads 64 hexadecimal digits from standard input and prints them encrypted, in whatever form;
//! - `unwrap`: reads what `wrap` has printed, and prints the 64 digits.
//!
//! When a key is wrapped, it is unwrapped again before it is used. A command has a minute, and a process group of its own.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use aws_lc_rs::aead::LessSafeKey;
use rustix::process::{Pid, Signal, kill_process_group};
use zeroize::Zeroizing;

use super::keys::{CryptoFailure, KEY_BYTES, KeyBytes, unwrap, wrap, wrapping_key};

/// The most bytes of a file, and of the output of a command.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// A command that takes longer is ended.
const COMMAND_MS_MAX: u64 = 60_000;

const CONTEXT: &str = "dormouse root key";

/// The first bytes of a wrapped key, by what has wrapped it.
const BY_KEY: &[u8] = b"key\n";
const BY_COMMAND: &[u8] = b"cmd\n";

/// The operator's key. Its text never holds the key itself.
pub struct MasterKey(Source);

enum Source {
    Key(Box<LessSafeKey>),
    Command(String),
}

impl MasterKey {
    /// Reads the key from the place that `text` names.
    ///
    /// # Errors
    /// The problem, without anything of the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORMS: &str = "expected file:PATH, env:NAME or command:COMMAND";
        let digits = match text.split_once(':') {
            Some(("command", command)) if !command.trim().is_empty() => {
                return Ok(Self(Source::Command(command.to_owned())));
            }
            Some(("file", path)) if !path.is_empty() => read_file(path)?,
            Some(("env", name)) if !name.is_empty() => match std::env::var(name) {
                Ok(digits) => Zeroizing::new(digits),
                Err(_) => return Err(format!("the environment variable {name} is not set, or is no text")),
            },
            // It may be the key itself, so it is not repeated.
            _ => return Err(format!("{FORMS}; the key itself does not belong on a command line")),
        };
        let key = from_hex(&digits).ok_or("the key is not 64 hexadecimal digits, as `openssl rand -hex 32` prints")?;
        Self::of(&key).map_err(|CryptoFailure| "the key cannot be used".to_owned())
    }

    /// A key of these bytes, for tests.
    #[doc(hidden)]
    pub fn of_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self::of(&Zeroizing::new(bytes)).expect("every 32 bytes are a key")
    }

    fn of(key: &KeyBytes) -> Result<Self, CryptoFailure> {
        Ok(Self(Source::Key(Box::new(wrapping_key(key)?))))
    }

    /// Encrypts a key.
    ///
    /// # Errors
    /// The problem.
    pub(super) fn wrap(&self, key: &KeyBytes) -> Result<Vec<u8>, String> {
        match &self.0 {
            Source::Key(own) => {
                let wrapped = wrap(own, CONTEXT, &key[..]).map_err(|CryptoFailure| "the system has no randomness")?;
                Ok([BY_KEY, &wrapped[..]].concat())
            }
            Source::Command(command) => {
                let digits = to_hex(key);
                let wrapped = run(command, "wrap", digits.as_bytes(), COMMAND_MS_MAX)?;
                if wrapped.is_empty() {
                    return Err("the command of the master key printed nothing for `wrap`".to_owned());
                }
                Ok([BY_COMMAND, &wrapped[..]].concat())
            }
        }
    }

    /// Decrypts a key.
    ///
    /// # Errors
    /// The problem.
    pub(super) fn unwrap(&self, wrapped: &[u8]) -> Result<KeyBytes, String> {
        const WRONG: &str = "the master key is not the one that the store is encrypted with";
        match (&self.0, wrapped.strip_prefix(BY_KEY), wrapped.strip_prefix(BY_COMMAND)) {
            (Source::Key(own), Some(wrapped), _) => {
                let key = unwrap(own, CONTEXT, wrapped).ok_or(WRONG)?;
                let bytes: &[u8; KEY_BYTES] = key[..].try_into().map_err(|_| WRONG)?;
                Ok(Zeroizing::new(*bytes))
            }
            (Source::Command(command), _, Some(wrapped)) => {
                let printed = run(command, "unwrap", wrapped, COMMAND_MS_MAX)?;
                let digits = std::str::from_utf8(&printed).ok();
                digits.and_then(from_hex).ok_or_else(|| {
                    "the command of the master key printed no 64 hexadecimal digits for `unwrap`".to_owned()
                })
            }
            (Source::Key(_), _, Some(_)) => Err("the store is encrypted with a key of `command:`".to_owned()),
            (Source::Command(_), Some(_), _) => {
                Err("the store is encrypted with a key of `file:` or `env:`".to_owned())
            }
            _ => Err("the store's key was encrypted in a way that this version does not know".to_owned()),
        }
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

fn read_file(path: &str) -> Result<Zeroizing<String>, String> {
    // As a whole, so that no part of the key stays in memory that was given back.
    let mut text = Zeroizing::new(String::with_capacity(OUTPUT_BYTES_MAX as usize + 1));
    let read = std::fs::File::open(path).and_then(|file| file.take(OUTPUT_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| format!("cannot read {path}: {error}"))?;
    Ok(text)
}

fn from_hex(text: &str) -> Option<KeyBytes> {
    let digits = text.trim().as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut key = KeyBytes::default();
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(key)
}

fn to_hex(key: &KeyBytes) -> Zeroizing<String> {
    let mut digits = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 1));
    for byte in key.iter() {
        digits.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0')));
    }
    digits.push('\n');
    digits
}

/// Runs the operator's command, and returns what it prints. It and the processes that it starts, unless they leave their
/// process group, are ended after `ms_max`.
fn run(command: &str, action: &'static str, input: &[u8], ms_max: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |problem: &dyn fmt::Display| format!("the command of the master key failed to {action}: {problem}");
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("{command} \"$1\""), "sh", action])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| failed(&error))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let end = || {
        // It may have ended in this moment.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    };
    let (sender, ended) = mpsc::sync_channel(1);
    let input = Zeroizing::new(input.to_vec());
    // On a thread of its own, so that the command can be ended whatever it does: it may read nothing, print without end, or
    // close its output and go on.
    let work = move || {
        // A command that does not read its input says why in its exit code.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(&input));
        // As a whole, so that no part of a key stays in memory that was given back.
        let mut printed = Zeroizing::new(Vec::with_capacity(OUTPUT_BYTES_MAX as usize + 2));
        let stdout = child.stdout.take();
        let read = stdout.map_or(Ok(0), |stdout| stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut printed));
        drop(sender.send(child.wait().and_then(|status| read.map(|_| (status, printed)))));
    };
    if let Err(error) = thread::Builder::new().name("master-key".into()).spawn(work) {
        end();
        return Err(failed(&error));
    }
    let Ok(ended) = ended.recv_timeout(Duration::from_millis(ms_max)) else {
        end();
        return Err(failed(&format_args!("it did not end within {} seconds", ms_max.div_ceil(1000))));
    };
    let (status, printed) = ended.map_err(|error| failed(&error))?;
    if printed.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(failed(&"it printed more than 64 KiB"));
    }
    match status.success() {
        true => Ok(printed),
        false => Err(failed(&status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

    fn secret() -> KeyBytes {
        Zeroizing::new([42; KEY_BYTES])
    }

    #[test]
    fn keys_are_read_from_files_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let spec = format!("file:{}", path.display());
        assert!(MasterKey::parse(&spec).unwrap_err().contains("cannot read"));
        std::fs::write(&path, format!("{DIGITS}\n")).unwrap();
        let key = MasterKey::parse(&spec).unwrap();
        let wrapped = key.wrap(&secret()).unwrap();
        assert_eq!(key.unwrap(&wrapped), Ok(secret()));
        let bytes: Vec<u8> = (0..32).collect();
        let same = MasterKey::of_bytes(bytes.try_into().unwrap());
        assert_eq!(same.unwrap(&wrapped), Ok(secret()));
        let error = MasterKey::of_bytes([1; KEY_BYTES]).unwrap(&wrapped).unwrap_err();
        assert!(error.contains("not the one"), "{error}");
        for bad in ["", "00", &DIGITS[1..], &DIGITS.replace('0', "g"), &format!("{DIGITS}00")] {
            std::fs::write(&path, bad).unwrap();
            let error = MasterKey::parse(&spec).unwrap_err();
            assert!(error.contains("64 hexadecimal digits") && (bad.is_empty() || !error.contains(bad)), "{error}");
        }
        for bad in ["", DIGITS, "file:", "env:", "command:", "vault:x", "file"] {
            let error = MasterKey::parse(bad).unwrap_err();
            assert!(error.contains("expected file:PATH") && !error.contains(DIGITS), "{error}");
        }
        assert!(MasterKey::parse("env:DORMOUSE_NO_SUCH_VARIABLE").unwrap_err().contains("is not set"));
    }

    #[test]
    fn a_command_wraps_and_unwraps() {
        let folder = tempfile::tempdir().unwrap();
        let calls = folder.path().join("calls");
        let reverse = format!("f() {{ echo $1 >> {}; rev; }}; f", calls.display());
        let key = MasterKey::parse(&format!("command:{reverse}")).unwrap();
        let wrapped = key.wrap(&secret()).unwrap();
        assert_eq!(key.unwrap(&wrapped), Ok(secret()));
        assert_eq!(std::fs::read_to_string(calls).unwrap(), "wrap\nunwrap\n");
        let of_bytes = MasterKey::of_bytes([1; KEY_BYTES]);
        assert!(of_bytes.unwrap(&wrapped).unwrap_err().contains("`command:`"));
        assert!(key.unwrap(&of_bytes.wrap(&secret()).unwrap()).unwrap_err().contains("`file:`"));
        assert!(key.unwrap(b"what?").unwrap_err().contains("does not know"));
        let rows = [
            ("exit 3; :", "exit status: 3"),
            ("true", "printed nothing"),
            ("head -c 100000 /dev/zero; :", "more than 64 KiB"),
        ];
        for (command, wanted) in rows {
            let error = MasterKey::parse(&format!("command:{command}")).unwrap().wrap(&secret()).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        let empty = MasterKey::parse("command:echo nonsense; :").unwrap();
        assert!(empty.unwrap(&wrapped).unwrap_err().contains("no 64 hexadecimal digits"));
    }

    /// Whatever it does in the meantime; and nothing of it is left.
    #[test]
    fn a_command_that_does_not_end_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let rows = [
            ("sleep", ""),
            ("output-closed", "exec >&-;"),
            ("input-closed", "exec <&-;"),
            ("prints", "while :; do echo x; done > /dev/null & echo x;"),
        ];
        for (name, first) in rows {
            let note = folder.path().join(name);
            let note = note.display();
            let command = format!("f() {{ echo $$ > {note}; {first} sleep 1000; }}; f");
            // On a busy machine it may be ended before it has begun.
            let group: u32 = [400, 4_000, 40_000]
                .into_iter()
                .find_map(|ms_max| {
                    let error = run(&command, "wrap", &[b'x'; 100_000], ms_max).unwrap_err();
                    assert!(error.contains("did not end"), "{error}");
                    std::fs::read_to_string(note.to_string()).ok()?.trim().parse().ok()
                })
                .expect("it begins");
            // Of the process itself and of those that it has started.
            while live_of_group(group) > 0 {
                thread::yield_now();
            }
        }
    }

    fn live_of_group(group: u32) -> usize {
        let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| stat(entry.unwrap()));
        let is_live = |stat: &String| {
            // After the name: state, parent, group.
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            !matches!(fields.next(), Some("Z" | "X")) && fields.nth(1) == Some(&group.to_string())
        };
        processes.filter(is_live).count()
    }
}
