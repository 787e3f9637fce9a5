//! The memory that keys take. The server adds the other subcommands of `MEMORY`.

use dormouse_protocol::Reply;
use dormouse_types::record::Entry;

use crate::commands::args::{Args, Argument};
use crate::commands::keys::examine;
use crate::commands::{Access, Category, Command, Family, Flags, KeySpec, Run, at_least, run};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;

const KEY_EXAMINED: &[KeySpec] = &[KeySpec::one(2, Access::RO)];

pub(crate) const FAMILY: Family<Run> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[Command::container("MEMORY", MEMORY).doc(
        "4.0.0",
        "Depends on subcommand.",
        "A container for memory diagnostics commands.",
    )],
};

const MEMORY: &[Command<Run>] = &[Command::new("USAGE", at_least(3), KEY_EXAMINED, Flags::READ, run!(usage, 2)).doc(
    "4.0.0",
    "O(1)",
    "Estimates the memory usage of a key.",
)];

/// `MEMORY USAGE key [SAMPLES count]`: the exact bytes of the key with its value, whatever the samples.
fn usage(db: &mut Keyspace<'_>, reply: &mut Reply, (key, Samples): (&[u8], Samples)) -> Result<()> {
    examine(db, reply, key, |reply, record| {
        reply.integer(record.heap_bytes() as i64);
        Ok(())
    })
}

/// `[SAMPLES count]`
struct Samples;

impl<'a> Argument<'a> for Samples {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        while args.word("SAMPLES") {
            if args.take::<i64>()? < 0 {
                return Err(Error::Syntax);
            }
        }
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use crate::commands::testing::{Bench, check};

    #[test]
    fn usage() {
        check(&[
            ("MEMORY USAGE k", "nil"),
            ("SET k v", "OK"),
            // 7 bytes of header, the key, the value.
            ("MEMORY USAGE k", "16"),
            ("MEMORY USAGE k SAMPLES 0", "16"),
            ("MEMORY USAGE k samples 5", "16"),
            ("PEXPIRE k 1000", "1"),
            ("MEMORY USAGE k", "24"),
            ("MEMORY USAGE k SAMPLES", "(error) ERR syntax error"),
            ("MEMORY USAGE k SAMPLES -1", "(error) ERR syntax error"),
            ("MEMORY USAGE k SAMPLES x", "(error) ERR value is not an integer or out of range"),
            ("MEMORY USAGE k NOPE 1", "(error) ERR syntax error"),
        ]);
        let mut bench = Bench::new();
        bench.run_args(&[b"SET", b"k", &[b'x'; 100_000]]);
        let bytes: usize = bench.run("MEMORY USAGE k").parse().expect("a number");
        assert!((100_000..130_000).contains(&bytes), "{bytes}");
    }
}
