//! `[MAXLEN | MINID [= | ~] threshold] [LIMIT count] [KEEPREF | DELREF | ACKED]`, for `XADD` and `XTRIM`.

use dormouse_types::Limits;
use dormouse_types::stream::{References, Trim, Until, name_of_message};

use super::ids::{PartialId, partial_id, strict_id};
use crate::commands::args::{Args, Argument, Rest, integer};
use crate::error::{Error, Result};

/// Approximate trimming removes at most the entries of so many nodes at once, unless a client says otherwise.
const NODES_MAX: usize = 100;

/// A trimming as a client asks for it.
#[derive(Clone, Copy, Debug)]
pub struct TrimRule {
    until: Until,
    pub is_approximate: bool,
    limit: Option<usize>,
    pub references: References,
}

impl TrimRule {
    pub fn trim(self, limits: &Limits) -> Trim {
        let TrimRule { until, is_approximate, limit, .. } = self;
        let usual = if is_approximate { NODES_MAX * limits.stream_node_max_entries } else { 0 };
        Trim { until, is_approximate, limit: limit.unwrap_or(usual) }
    }
}

/// The options of `XADD`, which precede its id.
#[derive(Debug, Default)]
pub struct AddRules<'a> {
    pub trim: Option<TrimRule>,
    pub must_exist: bool,
    pub message: Option<MessageName<'a>>,
}

/// `IDMP producer message`, or `IDMPAUTO producer`: the message has the name that its fields and values give it.
#[derive(Clone, Copy, Debug)]
pub struct MessageName<'a> {
    pub producer: &'a [u8],
    name: Option<&'a [u8]>,
}

impl<'a> MessageName<'a> {
    /// The name, with room for one that is made.
    pub fn of<'n>(&self, pairs: Rest<'_>, made: &'n mut [u8; 16]) -> &'n [u8]
    where
        'a: 'n,
    {
        match self.name {
            Some(name) => name,
            None => {
                *made = name_of_message((0..pairs.len() / 2).map(|at| (pairs.at(2 * at), pairs.at(2 * at + 1))));
                made
            }
        }
    }
}

/// The options of `XADD`, the id, and the words after it.
#[derive(Debug)]
pub struct AddOptions<'a> {
    pub options: AddRules<'a>,
    /// `None`: `*`.
    pub id: Option<PartialId>,
    pub pairs: Rest<'a>,
}

impl<'a> Argument<'a> for AddOptions<'a> {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let read = read(args, true)?;
        // Without an id there are no pairs either.
        let id = match args.take::<Option<&[u8]>>()? {
            None | Some(b"*") => None,
            Some(word) => Some(partial_id(word)?),
        };
        if id.is_some() && read.message.is_some() {
            let text = "ERR syntax error, IDMP/IDMPAUTO can be used only with auto-generated IDs";
            return Err(Error::text(text));
        }
        // The options are judged together only when the id has been read.
        let options = read.options(true)?;
        let pairs: Rest<'a> = args.take()?;
        if pairs.len() < 2 || !pairs.len().is_multiple_of(2) {
            return Err(Error::WrongArity(args.name()));
        }
        Ok(AddOptions { options, id, pairs })
    }
}

/// The options of `XTRIM`.
#[derive(Debug)]
pub struct TrimOptions(pub TrimRule);

impl<'a> Argument<'a> for TrimOptions {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let options = read(args, false)?.options(false)?;
        options
            .trim
            .map(TrimOptions)
            .ok_or(Error::text("ERR syntax error, XTRIM must be called with a trimming strategy"))
    }
}

/// The options as they were read.
#[derive(Debug, Default)]
struct Read<'a> {
    until: Option<(Until, bool)>,
    limit: Option<usize>,
    must_exist: bool,
    references: Option<References>,
    message: Option<MessageName<'a>>,
}

impl<'a> Read<'a> {
    fn options(self, is_add: bool) -> Result<AddRules<'a>> {
        let Read { until, limit, must_exist, references, message } = self;
        let only_approximate = || Error::text("ERR syntax error, LIMIT cannot be used without the special ~ option");
        let Some((until, is_approximate)) = until else {
            return match limit {
                // Redis does not notice a limit of nothing.
                Some(1..) => {
                    Err(Error::text("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy"))
                }
                Some(0) if is_add => Err(only_approximate()),
                _ => Ok(AddRules { trim: None, must_exist, message }),
            };
        };
        if limit.is_some() && !is_approximate {
            return Err(only_approximate());
        }
        let references = references.unwrap_or_default();
        Ok(AddRules { trim: Some(TrimRule { until, is_approximate, limit, references }), must_exist, message })
    }

    fn set_message(&mut self, word: &str, producer: &'a [u8], name: Option<&'a [u8]>) -> Result<()> {
        let refuse = |text: String| Err(Error::Text(format!("ERR syntax error, {text}").into()));
        if self.message.is_some() {
            return refuse("IDMP/IDMPAUTO specified multiple times".to_owned());
        }
        if producer.is_empty() {
            return refuse(format!("{word} requires a non-empty producer ID"));
        }
        if name.is_some_and(<[u8]>::is_empty) {
            return refuse(format!("{word} requires a non-empty idempotent ID"));
        }
        self.message = Some(MessageName { producer, name });
        Ok(())
    }
}

/// `KEEPREF`, `DELREF` or `ACKED`.
pub fn references(word: &[u8]) -> Option<References> {
    match word {
        b"KEEPREF" => Some(References::Keep),
        b"DELREF" => Some(References::Delete),
        b"ACKED" => Some(References::Respect),
        _ => None,
    }
}

/// Reads options up to the id of `XADD`, or to the end.
fn read<'a>(args: &mut Args<'a>, is_add: bool) -> Result<Read<'a>> {
    let mut read = Read::default();
    // Most often the id comes first.
    if is_add && matches!(args.peek(), Some([b'*' | b'0'..=b'9', ..])) {
        return Ok(read);
    }
    while let Some(word) = args.upper() {
        let has_more = args.len() > 1;
        match word.as_bytes() {
            name @ (b"MAXLEN" | b"MINID") if has_more => {
                if read.until.is_some() {
                    let text = "ERR syntax error, MAXLEN and MINID options at the same time are not compatible";
                    return Err(Error::text(text));
                }
                let is_length = name == b"MAXLEN";
                args.skip();
                let mark = args.peek().filter(|mark| args.len() > 1 && matches!(mark, [b'~' | b'=']));
                if mark.is_some() {
                    args.skip();
                }
                read.until = Some((threshold(args.bytes()?, is_length)?, mark == Some(b"~")));
            }
            b"LIMIT" if has_more => {
                args.skip();
                let count = usize::try_from(integer(args.bytes()?)?);
                read.limit = Some(count.map_err(|_| Error::text("ERR The LIMIT argument must be >= 0."))?);
            }
            b"NOMKSTREAM" if is_add => {
                args.skip();
                read.must_exist = true;
            }
            b"IDMPAUTO" if is_add && has_more => {
                args.skip();
                read.set_message("IDMPAUTO", args.bytes()?, None)?;
            }
            b"IDMP" if is_add && args.len() > 2 => {
                args.skip();
                let (producer, name) = (args.bytes()?, args.bytes()?);
                read.set_message("IDMP", producer, Some(name))?;
            }
            word if read.references.is_none() && references(word).is_some() => {
                read.references = references(word);
                args.skip();
            }
            _ if is_add => break,
            _ => return Err(Error::Syntax),
        }
    }
    Ok(read)
}

fn threshold(word: &[u8], is_length: bool) -> Result<Until> {
    if !is_length {
        return strict_id(word, 0).map(Until::Id);
    }
    let length = usize::try_from(integer(word)?);
    length.map(Until::Length).map_err(|_| Error::text("ERR The MAXLEN argument must be >= 0."))
}
