//! `DORMOUSE IMPORT`: what an import does to the indexes as wholes. The server has the row.

use dormouse_protocol::Reply;

use crate::commands::args::{Args, Argument, integer};
use crate::commands::{Run, run};
use crate::error::{Error, Result};
use crate::keyspace::{INDEXES, Keyspace};

/// Runs `DORMOUSE IMPORT ...` under the locks of all shards.
pub const IMPORT: Run = run!(import, 2);

/// The staged index that belongs to the one that `word` names, for `DORMOUSE STAGED`.
pub fn index(word: &[u8]) -> Option<u8> {
    let index = integer(word).ok().and_then(|index| u8::try_from(index).ok())?;
    (usize::from(index) < INDEXES).then_some(index + INDEXES as u8)
}

/// `DORMOUSE IMPORT <BEGIN | SHOW [REPLACE] | END | DISCARD>`
fn import(db: &mut Keyspace<'_>, reply: &mut Reply, (step,): (Step,)) -> Result<()> {
    match step {
        Step::Begin | Step::Show { .. } | Step::Discard if db.needs_watched() => return Ok(()),
        Step::Begin => db.begin_staging(),
        Step::Show { .. } | Step::Discard if !db.is_staging() => return Err(Error::NothingStaged),
        Step::Show { replaces: false } if db.visible() > 0 => {
            let text = format!("ERR the database holds {} keys: SHOW REPLACE replaces them", db.visible());
            return Err(Error::Text(text.into()));
        }
        Step::Show { .. } => db.show_staged(),
        Step::Discard => db.discard_staged(),
        Step::End if !db.is_following() => return Err(Error::text("ERR the database follows no source")),
        Step::End => db.end_following(),
    }
    reply.ok();
    Ok(())
}

enum Step {
    /// Empties the staged indexes. Nothing in them expires.
    Begin,
    /// Puts them in the place of the others, which must be empty unless `replaces`.
    Show { replaces: bool },
    /// Lets what was shown expire by this server's clock.
    End,
    /// Drops what is staged.
    Discard,
}

impl<'a> Argument<'a> for Step {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.word("BEGIN") {
            Ok(Self::Begin)
        } else if args.word("SHOW") {
            Ok(Self::Show { replaces: args.word("REPLACE") })
        } else if args.word("END") {
            Ok(Self::End)
        } else if args.word("DISCARD") {
            Ok(Self::Discard)
        } else {
            Err(Error::Syntax)
        }
    }
}
