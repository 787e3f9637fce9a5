//! Places: members of sorted sets whose scores are points of the Earth ([`dormouse_types::geohash`]).

mod search;
#[cfg(test)]
mod tests;

use dormouse_protocol::Reply;
use dormouse_types::SortedSet;
use dormouse_types::geohash::Point;
use smallvec::SmallVec;

use crate::commands::args::{Args, Argument, Last, Rest, float};
use crate::commands::sorted_sets::{Rule, add};
use crate::commands::{Access, Category, Command, Family, Find, Flags, KeySpec, Run, at_least, run};
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::keyspace::changes::KeyEvent;

const READ: Flags = Flags::READ;
const WRITE: Flags = Flags::WRITE.union(Flags::DENY_OOM);

const READS: Access = Access::RO.union(Access::ACCESS);
const REPLACES: Access = Access::OW.union(Access::UPDATE);

const KEY_READ: &[KeySpec] = &[KeySpec::one(1, READS)];
const KEY_ADDED: &[KeySpec] = &[KeySpec::one(1, Access::RW.union(Access::UPDATE))];
const KEY_AND_STORE_FROM_6: &[KeySpec] = &[KeySpec::one(1, READS), stored("STORE", 6), stored("STOREDIST", 6)];
const KEY_AND_STORE_FROM_5: &[KeySpec] = &[KeySpec::one(1, READS), stored("STORE", 5), stored("STOREDIST", 5)];
const DESTINATION_AND_KEY: &[KeySpec] = &[KeySpec::one(1, REPLACES), KeySpec::one(2, READS)];

const SEARCH_COMPLEXITY: &str = "O(N+log(M)) where N is the number of elements in the grid-aligned bounding box area \
     around the shape provided as the filter and M is the number of items inside the shape";

const fn stored(word: &'static str, from: u8) -> KeySpec {
    KeySpec { access: REPLACES, find: Find::After { word, from }, notes: "" }
}

pub(crate) const FAMILY: Family<Run> = Family {
    group: "geo",
    category: Category::GEO,
    commands: &[
        Command::new("GEOADD", at_least(5), KEY_ADDED, WRITE, run!(geoadd)).event(KeyEvent::sorted_set("zadd")).doc(
            "3.2.0",
            "O(log(N)) for each item added, where N is the number of elements in the sorted set.",
            "Adds one or more members to a geospatial index. The key is created if it doesn't exist.",
        ),
        Command::new("GEODIST", at_least(4), KEY_READ, READ, run!(geodist)).doc(
            "3.2.0",
            "O(1)",
            "Returns the distance between two members of a geospatial index.",
        ),
        Command::new("GEOHASH", at_least(2), KEY_READ, READ, run!(geohash)).doc(
            "3.2.0",
            "O(1) for each member requested.",
            "Returns members from a geospatial index as geohash strings.",
        ),
        Command::new("GEOPOS", at_least(2), KEY_READ, READ, run!(geopos)).doc(
            "3.2.0",
            "O(1) for each member requested.",
            "Returns the longitude and latitude of members from a geospatial index.",
        ),
        Command::new("GEOSEARCH", at_least(7), KEY_READ, READ, search::geosearch as Run)
            .doc(
                "6.2.0",
                SEARCH_COMPLEXITY,
                "Queries a geospatial index for members inside an area of a box, a circle or a polygon.",
            )
            .cost(|db, request| search::cost(db, request, search::Form::Search)),
        Command::new(
            "GEOSEARCHSTORE",
            at_least(8),
            DESTINATION_AND_KEY,
            WRITE.union(Flags::BY_KEY),
            search::geosearchstore as Run,
        )
        .event(KeyEvent::sorted_set("geosearchstore"))
        .doc(
            "6.2.0",
            SEARCH_COMPLEXITY,
            "Queries a geospatial index for members inside an area of a box, a circle or a polygon, optionally stores the result.",
        )
        .cost(|db, request| search::cost(db, request, search::Form::SearchStore)),
        Command::new(
            "GEORADIUS",
            at_least(6),
            KEY_AND_STORE_FROM_6,
            WRITE.union(Flags::BY_KEY),
            search::georadius as Run,
        )
        .event(KeyEvent::sorted_set("georadiusstore"))
        .doc(
            "3.2.0",
            SEARCH_COMPLEXITY,
            "Queries a geospatial index for members within a distance from a coordinate, optionally stores the result.",
        )
        .cost(|db, request| search::cost(db, request, search::Form::Radius { stores: true })),
        Command::new("GEORADIUS_RO", at_least(6), KEY_READ, READ, search::georadius_ro as Run)
            .doc(
                "3.2.10",
                SEARCH_COMPLEXITY,
                "Returns members from a geospatial index that are within a distance from a coordinate.",
            )
            .cost(|db, request| search::cost(db, request, search::Form::Radius { stores: false })),
        Command::new(
            "GEORADIUSBYMEMBER",
            at_least(5),
            KEY_AND_STORE_FROM_5,
            WRITE.union(Flags::BY_KEY),
            search::georadiusbymember as Run,
        )
        .event(KeyEvent::sorted_set("georadiusstore"))
        .doc(
            "3.2.0",
            SEARCH_COMPLEXITY,
            "Queries a geospatial index for members within a distance from a member, optionally stores the result.",
        )
        .cost(|db, request| search::cost(db, request, search::Form::RadiusByMember { stores: true })),
        Command::new("GEORADIUSBYMEMBER_RO", at_least(5), KEY_READ, READ, search::georadiusbymember_ro as Run)
            .doc(
                "3.2.10",
                SEARCH_COMPLEXITY,
                "Returns members from a geospatial index that are within a distance from a member.",
            )
            .cost(|db, request| search::cost(db, request, search::Form::RadiusByMember { stores: false })),
    ],
};

/// `GEOADD key [NX | XX] [CH] longitude latitude member [longitude latitude member ...]`
fn geoadd(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, AddOptions(rule), places): (&[u8], AddOptions, Rest<'_>),
) -> Result<()> {
    if !places.len().is_multiple_of(3) || places.is_empty() || rule.only_new && rule.only_present {
        return Err(Error::Syntax);
    }
    let mut scored = SmallVec::<[(f64, &[u8]); 8]>::new();
    for at in (0..places.len()).step_by(3) {
        let point = point(places.at(at), places.at(at + 1))?;
        scored.push((point.score() as f64, places.at(at + 2)));
    }
    add(db, reply, key, rule, &scored)
}

/// `GEODIST key member1 member2 [M | KM | FT | MI]`
fn geodist(
    db: &mut Keyspace<'_>,
    reply: &mut Reply,
    (key, a, b, Last(unit)): (&[u8], &[u8], &[u8], Last<Unit>),
) -> Result<()> {
    let Unit(meters) = unit.unwrap_or(Unit(1.0));
    let set = db.read::<SortedSet>(key)?;
    let place = |member| set.and_then(|set| set.score(member)).map(Point::of_score);
    match (place(a), place(b)) {
        (Some(a), Some(b)) => write_distance(reply, a.distance_meters(b) / meters),
        _ => reply.null(),
    }
    Ok(())
}

/// `GEOHASH key [member [member ...]]`
fn geohash(db: &mut Keyspace<'_>, reply: &mut Reply, (key, members): (&[u8], Rest<'_>)) -> Result<()> {
    let set = db.read::<SortedSet>(key)?;
    reply.array(members.len());
    for member in members.iter() {
        match set.and_then(|set| set.score(member)) {
            Some(score) => reply.bulk(&Point::of_score(score).text()),
            None => reply.null(),
        }
    }
    Ok(())
}

/// `GEOPOS key [member [member ...]]`
fn geopos(db: &mut Keyspace<'_>, reply: &mut Reply, (key, members): (&[u8], Rest<'_>)) -> Result<()> {
    let set = db.read::<SortedSet>(key)?;
    reply.array(members.len());
    for member in members.iter() {
        match set.and_then(|set| set.score(member)) {
            Some(score) => write_point(reply, Point::of_score(score)),
            None => reply.null_array(),
        }
    }
    Ok(())
}

struct AddOptions(Rule);

impl<'a> Argument<'a> for AddOptions {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let mut rule = Rule::default();
        loop {
            if args.word("NX") {
                rule.only_new = true;
            } else if args.word("XX") {
                rule.only_present = true;
            } else if args.word("CH") {
                rule.counts_changes = true;
            } else {
                return Ok(Self(rule));
            }
        }
    }
}

/// The length of a unit in meters.
#[derive(Debug, Clone, Copy)]
struct Unit(f64);

impl<'a> Argument<'a> for Unit {
    fn take(args: &mut Args<'a>) -> Result<Self> {
        let unit = args.upper();
        args.skip();
        match unit.ok_or(Error::Syntax)?.as_bytes() {
            b"M" => Ok(Self(1.0)),
            b"KM" => Ok(Self(1000.0)),
            b"FT" => Ok(Self(0.3048)),
            b"MI" => Ok(Self(1609.34)),
            _ => Err(Error::text("ERR unsupported unit provided. please use M, KM, FT, MI")),
        }
    }
}

fn point(longitude: &[u8], latitude: &[u8]) -> Result<Point> {
    let point = Point { longitude: float(longitude)?, latitude: float(latitude)? };
    if point.is_valid() {
        return Ok(point);
    }
    let Point { longitude, latitude } = point;
    let text = format!("ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}");
    Err(Error::Text(text.into()))
}

fn write_distance(reply: &mut Reply, distance: f64) {
    reply.bulk(format!("{distance:.4}").as_bytes());
}

fn write_point(reply: &mut Reply, point: Point) {
    reply.array(2);
    for coordinate in [point.longitude, point.latitude] {
        let text = format!("{coordinate:.17}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        reply.double_text(text);
    }
}
