//! The filters of `CLIENT LIST` and `CLIENT KILL`: those of Redis and Valkey, all of which a client must pass.
//!
//! Most have a form with `NOT-` in front. A filter that is given twice counts once, as it was given last.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use dormouse_protocol::Request;
use dormouse_shard::commands::args::{Args, integer};
use dormouse_shard::error::{Error, Result, repeated};
use dormouse_shard::keyspace::INDEXES;

use crate::acl::Acl;
use crate::clients::Client;
use crate::commands::client_line::flags;

/// The letters that Redis and Valkey have for clients.
const FLAGS: &[u8] = b"bcdegirtuxABEIMNOPRSTU";

/// Which clients a request is about.
#[derive(Debug, Default)]
pub struct ClientFilter<'a> {
    wanted: Properties<'a>,
    unwanted: Properties<'a>,
    age_seconds: Option<u64>,
    idle_seconds: Option<u64>,
    skip_me: bool,
}

/// Properties of a client, those that a request names.
#[derive(Debug, Default)]
struct Properties<'a> {
    ids: Option<BTreeSet<i64>>,
    class: Option<Class>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    ip: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    name: Option<&'a [u8]>,
    library: Option<&'a [u8]>,
    library_version: Option<&'a [u8]>,
    flags: Option<&'a [u8]>,
    /// Whether it can follow redirections, if that is asked for.
    capabilities: Option<&'a [u8]>,
    index: Option<u8>,
}

/// Redis's client types. This server has no master, but a request may ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Normal,
    PubSub,
    Replica,
    Master,
}

impl Class {
    fn named(name: &[u8]) -> Result<Self> {
        match name.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Self::Normal),
            b"pubsub" => Ok(Self::PubSub),
            b"slave" | b"replica" => Ok(Self::Replica),
            b"master" | b"primary" => Ok(Self::Master),
            _ => Err(Error::Text(format!("ERR Unknown client type '{}'", repeated(name)).into())),
        }
    }

    fn of(client: &Client) -> Self {
        match client.is_replica.load(Ordering::Relaxed) {
            true => Self::Replica,
            false if client.is_subscriber() => Self::PubSub,
            false => Self::Normal,
        }
    }
}

/// `CLIENT KILL ip:port`
pub fn is_old_kill(request: Request<'_>) -> bool {
    request.len() == 3
}

impl<'a> ClientFilter<'a> {
    /// Reads the filter of a `CLIENT LIST`.
    pub fn of_list(request: Request<'a>, acl: &Acl) -> Result<Self> {
        let mut filter = Self::default();
        let is_of_ids = request.len() > 3 && request.arg(2).eq_ignore_ascii_case(b"ID");
        // And it looks at the shape of a request before its values.
        let read = check_shape(&mut Args::new(request, 2))
            .and_then(|()| filter.read(&mut Args::new(request, 2), acl, i64::MIN));
        match read {
            // Redis has an error of its own for what may be an id.
            Err(Error::Syntax) if is_of_ids => Err(Error::text("ERR Invalid client ID")),
            read => read.map(|()| filter),
        }
    }

    /// Reads the filter of a `CLIENT KILL`.
    pub fn of_kill(request: Request<'a>, acl: &Acl) -> Result<Self> {
        let mut args = Args::new(request, 2);
        let mut filter = Self::default();
        if is_old_kill(request) {
            filter.wanted.address = Some(args.bytes()?);
            return Ok(filter);
        }
        filter.skip_me = true;
        filter.read(&mut args, acl, 1)?;
        Ok(filter)
    }

    /// `id_min`: the lowest id that is one.
    fn read(&mut self, args: &mut Args<'a>, acl: &Acl, id_min: i64) -> Result<()> {
        while !args.is_empty() {
            let word = args.upper().ok_or(Error::Syntax)?;
            args.skip();
            let word = word.as_bytes();
            match word {
                b"SKIPME" => self.skip_me = yes_or_no(args.bytes()?)?,
                b"MAXAGE" => self.age_seconds = Some(seconds(args.bytes()?, "maxage")?),
                b"IDLE" => self.idle_seconds = Some(seconds(args.bytes()?, "idle")?),
                _ => match word.strip_prefix(b"NOT-") {
                    Some(word) => self.unwanted.read((word, "NOT-"), args, acl, id_min.max(1))?,
                    None => self.wanted.read((word, ""), args, acl, id_min)?,
                },
            }
        }
        Ok(())
    }

    /// Whether it takes a client. `me`: the one that asks.
    pub fn takes(&self, client: &Client, me: &Client, now_ms: u64) -> bool {
        let seconds = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1000;
        !(self.skip_me && client.id == me.id)
            && self.age_seconds.is_none_or(|age| seconds(client.connected_ms) >= age)
            && self.idle_seconds.is_none_or(|idle| seconds(client.active_ms.load(Ordering::Relaxed)) >= idle)
            && self.wanted.all(client, true)
            && self.unwanted.all(client, false)
    }
}

impl<'a> Properties<'a> {
    /// Reads one that `word` names, which `before` stands in front of.
    fn read(&mut self, (word, before): (&[u8], &str), args: &mut Args<'a>, acl: &Acl, id_min: i64) -> Result<()> {
        let value = args.bytes()?;
        match word {
            b"ID" => self.ids = Some(ids(value, args, id_min, before.is_empty())?),
            b"TYPE" => self.class = Some(Class::named(value)?),
            b"USER" if acl.user(value).is_some() => self.user = Some(value),
            b"USER" => return Err(Error::Text(format!("ERR No such user '{}'", repeated(value)).into())),
            b"ADDR" => self.address = Some(value),
            b"LADDR" => self.local_address = Some(value),
            b"IP" => self.ip = Some(value),
            b"NAME" => self.name = Some(value),
            b"LIB-NAME" => self.library = Some(value),
            b"LIB-VER" => self.library_version = Some(value),
            b"FLAGS" if value.iter().all(|letter| FLAGS.contains(letter)) => self.flags = Some(value),
            b"FLAGS" => return Err(unknown("flags", before, value)),
            b"CAPA" if value.iter().all(|letter| *letter == b'r') => self.capabilities = Some(value),
            b"CAPA" => return Err(unknown("capa", before, value)),
            b"DB" => {
                let wrong = |problem: &str| Error::Text(format!("ERR {before}DB {problem}").into());
                let index = integer(value).map_err(|_| wrong("is not an integer or out of range"))?;
                let index = u8::try_from(index).ok().filter(|index| usize::from(*index) < INDEXES);
                let outside = || wrong(&format!("number should be between 0 and {}", INDEXES - 1));
                self.index = Some(index.ok_or_else(outside)?);
            }
            _ => return Err(Error::Syntax),
        }
        Ok(())
    }

    /// Whether each of them that is named is `present` in a client.
    fn all(&self, client: &Client, present: bool) -> bool {
        let told = || client.told.lock();
        let is =
            |named: &Option<&[u8]>, holds: &dyn Fn(&[u8]) -> bool| named.is_none_or(|value| holds(value) == present);
        self.ids.as_ref().is_none_or(|ids| ids.contains(&(client.id as i64)) == present)
            && self.class.is_none_or(|class| (class == Class::of(client)) == present)
            && self.index.is_none_or(|index| (index == client.select.load(Ordering::Relaxed)) == present)
            && is(&self.address, &|address| address == client.peer().to_string().as_bytes())
            && is(&self.local_address, &|address| address == client.peer().local().as_bytes())
            && is(&self.ip, &|ip| ip == client.peer().ip().as_bytes())
            && is(&self.user, &|user| user == &*told().user)
            // A connection without a name matches none, not even an empty one.
            && is(&self.name, &|name| !name.is_empty() && name == &*told().name)
            && is(&self.library, &|name| !name.is_empty() && name == told().library.as_bytes())
            && is(&self.library_version, &|version| !version.is_empty() && version == told().library_version.as_bytes())
            && is(&self.capabilities, &|letters| letters.is_empty() || client.can_redirect.load(Ordering::Relaxed))
            && is(&self.flags, &|letters| {
                let flags = flags(client);
                letters.iter().all(|letter| flags.as_bytes().contains(letter))
            })
    }
}

/// Fails unless the words are filters with a value each; `ID` may have several.
fn check_shape(args: &mut Args<'_>) -> Result<()> {
    const WORDS: [&[u8]; 15] = [
        b"ADDR",
        b"CAPA",
        b"DB",
        b"FLAGS",
        b"ID",
        b"IDLE",
        b"IP",
        b"LADDR",
        b"LIB-NAME",
        b"LIB-VER",
        b"MAXAGE",
        b"NAME",
        b"SKIPME",
        b"TYPE",
        b"USER",
    ];
    while let Some(word) = args.upper() {
        args.skip();
        let word = word.as_bytes();
        let word = word.strip_prefix(b"NOT-").unwrap_or(word);
        if !WORDS.contains(&word) {
            return Err(Error::Syntax);
        }
        args.bytes()?;
        while word == b"ID" && args.peek().is_some_and(|word| integer(word).is_ok()) {
            args.skip();
        }
    }
    Ok(())
}

/// `id [id ...]`, up to the first word that is no number.
fn ids(first: &[u8], args: &mut Args<'_>, min: i64, is_wanted: bool) -> Result<BTreeSet<i64>> {
    let read = |word: &[u8]| match integer(word) {
        Ok(id) if id >= min => Ok(id),
        Err(_) if min < 0 || !is_wanted => Err(Error::Syntax),
        _ => Err(Error::text("ERR client-id should be greater than 0")),
    };
    let mut ids = BTreeSet::from([read(first)?]);
    while let Some(word) = args.peek().filter(|word| integer(word).is_ok()) {
        ids.insert(read(word)?);
        args.skip();
    }
    Ok(ids)
}

fn seconds(value: &[u8], name: &str) -> Result<u64> {
    let text = |problem: &str| Error::Text(format!("ERR {name} {problem}").into());
    let seconds = integer(value).map_err(|_| text("is not an integer or out of range"))?;
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).ok_or_else(|| text("should be greater than 0"))
}

fn yes_or_no(value: &[u8]) -> Result<bool> {
    match value.to_ascii_lowercase().as_slice() {
        b"yes" => Ok(true),
        b"no" => Ok(false),
        _ => Err(Error::Syntax),
    }
}

fn unknown(what: &str, before: &str, value: &[u8]) -> Error {
    let filter = match before {
        "" => "provided".to_owned(),
        before => format!("{before}{}", what.to_ascii_uppercase()),
    };
    Error::Text(format!("ERR Unknown {what} found in the {filter} filter: {}", repeated(value)).into())
}
