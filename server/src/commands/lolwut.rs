//! `LOLWUT`: who is there, with a drawing.

use dormouse_protocol::Reply;
use dormouse_shard::commands::args::{Args, Argument, Rest};
use dormouse_shard::commands::{Category, Command, Family, Flags, at_least};
use dormouse_shard::error::Result;

use crate::commands::now;
use crate::metrics::REDIS_VERSION;
use crate::session::Session;
use crate::table::SessionRun;

pub const FAMILY: Family<SessionRun> = Family {
    group: "server",
    category: Category::empty(),
    commands: &[Command::new("LOLWUT", at_least(1), &[], Flags::READ.union(Flags::FAST), now!(lolwut)).doc(
        "5.0.0",
        "O(1)",
        "Displays computer art and the Redis version",
    )],
};

/// A dormouse, asleep.
const DRAWING: &str = "     _.-\"\"\"-._   z\n   .'  -   -  '. z\n  (    _____    )\n   '-.(_____).-'\n";

/// `LOLWUT [VERSION version] [argument ...]`: the same for every version.
fn lolwut(_: &mut Session, reply: &mut Reply, (Version, _): (Version, Rest<'_>)) -> Result<()> {
    let text = format!("{DRAWING}\nDormouse {}, Redis ver. {REDIS_VERSION}\n", env!("CARGO_PKG_VERSION"));
    reply.verbatim("txt", text.as_bytes());
    Ok(())
}

/// `[VERSION version]`
struct Version;

impl<'a> Argument<'a> for Version {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        if args.len() >= 2 && args.word("VERSION") {
            args.take::<i64>()?;
        }
        Ok(Self)
    }
}
