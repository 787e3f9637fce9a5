//! Output of the tools.

use std::io::{ErrorKind, Write, stderr, stdout};

use indicatif::HumanCount;

/// Prints a line on standard output.
///
/// # Errors
/// See [`print`].
pub fn print_line(text: &str) -> Result<(), String> {
    print(&format!("{text}\n"))
}

/// Prints on standard output. Ignores a closed pipe, as left by `head`: the reader wants no more.
///
/// # Errors
/// When writing fails, such as on a full disk.
pub fn print(text: &str) -> Result<(), String> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("cannot write to standard output: {error}")),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a line on standard error, if that is open.
pub fn print_error(text: &str) {
    _ = writeln!(stderr(), "{text}");
}

/// Returns a count with its noun: `1 key`, `2,000 keys`.
pub fn counted(count: u64, noun: &str) -> String {
    let ending = match count {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {noun}{ending}", HumanCount(count))
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_singular() {
        let all = [counted(0, "key"), counted(1, "process"), counted(2, "process"), counted(1000, "key")];
        assert_eq!(all, ["0 keys", "1 process", "2 processes", "1,000 keys"]);
    }
}
