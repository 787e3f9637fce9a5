//! The searches: `GEOSEARCH`, and its older forms, `GEORADIUS` and its kin.
//!
//! Redis reads the arguments of a search while it looks at the set: whether a member exists decides which error comes
//! first. So the request is read with the set at hand.

use std::ops::Bound;

use dormouse_protocol::{Reply, Request};
use dormouse_types::geohash::{Point, Shape};
use dormouse_types::{Item, ScoreRange, SortedSet};

use super::{Unit, point, write_distance, write_point};
use crate::commands::args::{Args, float, integer};
use crate::commands::elements::{MEMBER_BYTES, write_item};
use crate::commands::work;
use crate::error::{Error, Result, repeated};
use crate::keyspace::Keyspace;

/// A point takes as long as so many elements: its distance needs half a dozen trigonometric functions.
const POINT_COST: usize = 4;
/// So many sides of a polygon take as long as an element.
const SIDES_PER_ELEMENT: usize = 8;

/// `GEOSEARCH key ((FROMMEMBER member | FROMLONLAT longitude latitude) (BYRADIUS radius unit | BYBOX width height unit)
/// | BYPOLYGON numvertices longitude latitude [longitude latitude ...])
/// [ASC | DESC] [COUNT count [ANY]] [WITHCOORD] [WITHDIST] [WITHHASH]`
pub(super) fn geosearch(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    run(db, reply, request, Form::Search)
}

/// `GEOSEARCHSTORE destination source ((FROMMEMBER member | FROMLONLAT longitude latitude)
/// (BYRADIUS radius unit | BYBOX width height unit) | BYPOLYGON numvertices longitude latitude [longitude latitude ...])
/// [ASC | DESC] [COUNT count [ANY]] [STOREDIST]`
pub(super) fn geosearchstore(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    run(db, reply, request, Form::SearchStore)
}

/// `GEORADIUS key longitude latitude radius unit [ASC | DESC] [COUNT count [ANY]] [WITHCOORD] [WITHDIST] [WITHHASH]
/// [STORE key | STOREDIST key]`
pub(super) fn georadius(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    run(db, reply, request, Form::Radius { stores: true })
}

/// `GEORADIUS_RO`, which has no `STORE`.
pub(super) fn georadius_ro(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    run(db, reply, request, Form::Radius { stores: false })
}

/// `GEORADIUSBYMEMBER key member radius unit`, and the options of `GEORADIUS`.
pub(super) fn georadiusbymember(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    run(db, reply, request, Form::RadiusByMember { stores: true })
}

/// `GEORADIUSBYMEMBER_RO`, which has no `STORE`.
pub(super) fn georadiusbymember_ro(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>) -> Result<()> {
    run(db, reply, request, Form::RadiusByMember { stores: false })
}

/// The points in the cells that will be looked at.
pub(super) fn cost(db: &Keyspace<'_>, request: Request<'_>, form: Form) -> usize {
    let Some(set) = db.peek_collection::<SortedSet>(request.arg(form.source())) else { return 0 };
    let Ok(search) = Search::read(form, request, Some(set)) else { return 0 };
    let sides = if let Shape::Polygon(corners) = &search.shape { corners.len() } else { 0 };
    let points = search.ranges().iter().map(|range| set.score_ranks(range).len()).sum::<usize>();
    points.saturating_mul(POINT_COST + sides / SIDES_PER_ELEMENT)
}

/// Which command it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Search,
    SearchStore,
    Radius { stores: bool },
    RadiusByMember { stores: bool },
}

impl Form {
    /// The argument that names the set.
    fn source(self) -> usize {
        if self == Self::SearchStore { 2 } else { 1 }
    }
}

fn run(db: &mut Keyspace<'_>, reply: &mut Reply, request: Request<'_>, form: Form) -> Result<()> {
    let limits = *db.limits();
    let set = db.read::<SortedSet>(request.arg(form.source()))?;
    let search = Search::read(form, request, set)?;
    let found = set.map_or(Ok(Vec::new()), |set| search.find(set, reply))?;
    let Some(destination) = search.destination else {
        search.write(reply, &found);
        return Ok(());
    };
    let bytes: usize = found.iter().map(|found| found.member.with_text(<[u8]>::len)).sum();
    work(reply, bytes + found.len() * MEMBER_BYTES)?;
    let mut result = SortedSet::with_capacity(found.len(), &limits);
    for Found { member, score, distance, .. } in &found {
        let score = if search.stores_distances { distance / search.unit } else { *score };
        member.with_text(|member| result.insert(score, member, &limits));
    }
    reply.integer(found.len() as i64);
    db.put_result(destination, result)
}

struct Search<'a> {
    /// `None` for a search in a missing set, where it is unknown.
    centre: Option<Point>,
    shape: Shape,
    /// The meters of the unit that distances are told in.
    unit: f64,
    with_distance: bool,
    with_score: bool,
    with_point: bool,
    order: Option<Order>,
    /// 0: all.
    count: usize,
    /// Any points will do, not only the nearest.
    any: bool,
    destination: Option<&'a [u8]>,
    stores_distances: bool,
}

#[derive(Clone, Copy)]
enum Order {
    Ascending,
    Descending,
}

struct Found<'s> {
    member: Item<'s>,
    score: f64,
    point: Point,
    /// In meters.
    distance: f64,
}

impl<'a> Search<'a> {
    fn read(form: Form, request: Request<'a>, set: Option<&SortedSet>) -> Result<Self> {
        let mut args = Args::new(request, form.source() + 1);
        let mut search = Self {
            centre: None,
            shape: Shape::Circle { radius: 0.0 },
            unit: 1.0,
            with_distance: false,
            with_score: false,
            with_point: false,
            order: None,
            count: 0,
            any: false,
            destination: (form == Form::SearchStore).then(|| request.arg(1)),
            stores_distances: false,
        };
        match form {
            Form::Radius { .. } => {
                search.centre = Some(point(args.bytes()?, args.bytes()?)?);
                search.take_circle(&mut args)?;
            }
            Form::RadiusByMember { .. } => {
                let member = args.bytes()?;
                match set {
                    Some(set) => {
                        search.centre = Some(place_of(set, member)?);
                        search.take_circle(&mut args)?;
                    }
                    // Redis does not look at them then.
                    None => drop((args.bytes()?, args.bytes()?)),
                }
            }
            Form::Search | Form::SearchStore => search.take_area(&mut args, form, request, set)?,
        }
        if !matches!(form, Form::Search | Form::SearchStore) {
            while !args.is_empty() {
                search.take_option(&mut args, form)?;
            }
        }
        search.check(form)?;
        if search.count > 0 && search.order.is_none() && !search.any {
            // The nearest are wanted, so all must be compared.
            search.order = Some(Order::Ascending);
        }
        Ok(search)
    }

    /// Takes centre, shape and options of `GEOSEARCH`, which come in any order.
    fn take_area(
        &mut self,
        args: &mut Args<'a>,
        form: Form,
        request: Request<'a>,
        set: Option<&SortedSet>,
    ) -> Result<()> {
        let (mut by_member, mut by_point, mut by_radius, mut by_box) = (false, false, false, false);
        let mut by_polygon = false;
        while !args.is_empty() {
            let more = args.len() - 1;
            if more >= 1 && !by_point && !by_polygon && args.word("FROMMEMBER") {
                let member = args.bytes()?;
                if let Some(set) = set {
                    self.centre = Some(place_of(set, member)?);
                }
                by_member = true;
            } else if more >= 2 && !by_member && !by_polygon && args.word("FROMLONLAT") {
                self.centre = Some(point(args.bytes()?, args.bytes()?)?);
                by_point = true;
            } else if more >= 2 && !by_box && !by_polygon && args.word("BYRADIUS") {
                self.take_circle(args)?;
                by_radius = true;
            } else if more >= 3 && !by_radius && !by_polygon && args.word("BYBOX") {
                self.take_box(args)?;
                by_box = true;
            } else if more >= 2 && !(by_member || by_point || by_radius || by_box) && args.word("BYPOLYGON") {
                self.take_polygon(args)?;
                by_polygon = true;
            } else {
                self.take_option(args, form)?;
            }
        }
        self.check_stored(form)?;
        let refuse = |what: &str| {
            let name = repeated(request.arg(0));
            Err(Error::Text(format!("ERR exactly one of {what} can be specified for {name}").into()))
        };
        if by_polygon {
            return Ok(());
        }
        if !(by_member || by_point) {
            return refuse("FROMMEMBER or FROMLONLAT");
        }
        if by_radius || by_box { Ok(()) } else { refuse("BYRADIUS and BYBOX") }
    }

    fn take_option(&mut self, args: &mut Args<'a>, form: Form) -> Result<()> {
        let more = args.len() - 1;
        let stores = matches!(form, Form::Radius { stores: true } | Form::RadiusByMember { stores: true });
        if args.word("WITHDIST") {
            self.with_distance = true;
        } else if args.word("WITHHASH") {
            self.with_score = true;
        } else if args.word("WITHCOORD") {
            self.with_point = true;
        } else if args.word("ANY") {
            self.any = true;
        } else if args.word("ASC") {
            self.order = Some(Order::Ascending);
        } else if args.word("DESC") {
            self.order = Some(Order::Descending);
        } else if more >= 1 && args.word("COUNT") {
            let count = integer(args.bytes()?)?;
            self.count =
                usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Error::text("ERR COUNT must be > 0"))?;
        } else if stores && more >= 1 && args.word("STORE") {
            (self.destination, self.stores_distances) = (Some(args.bytes()?), false);
        } else if stores && more >= 1 && args.word("STOREDIST") {
            (self.destination, self.stores_distances) = (Some(args.bytes()?), true);
        } else if form == Form::SearchStore && args.word("STOREDIST") {
            self.stores_distances = true;
        } else {
            return Err(Error::Syntax);
        }
        Ok(())
    }

    fn check_stored(&self, form: Form) -> Result<()> {
        if self.destination.is_none() || !(self.with_distance || self.with_score || self.with_point) {
            return Ok(());
        }
        let what = if form == Form::SearchStore { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
        let text = format!("ERR {what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options");
        Err(Error::Text(text.into()))
    }

    fn check(&self, form: Form) -> Result<()> {
        self.check_stored(form)?;
        if self.any && self.count == 0 {
            return Err(Error::text("ERR the ANY argument requires COUNT argument"));
        }
        Ok(())
    }

    fn take_circle(&mut self, args: &mut Args<'a>) -> Result<()> {
        let radius = float(args.bytes()?).map_err(|_| Error::text("ERR need numeric radius"))?;
        if radius < 0.0 {
            return Err(Error::text("ERR radius cannot be negative"));
        }
        let Unit(meters) = args.take()?;
        (self.shape, self.unit) = (Shape::Circle { radius: radius * meters }, meters);
        Ok(())
    }

    fn take_box(&mut self, args: &mut Args<'a>) -> Result<()> {
        let width = float(args.bytes()?).map_err(|_| Error::text("ERR need numeric width"))?;
        let height = float(args.bytes()?).map_err(|_| Error::text("ERR need numeric height"))?;
        if width < 0.0 || height < 0.0 {
            return Err(Error::text("ERR height or width cannot be negative"));
        }
        let Unit(meters) = args.take()?;
        (self.shape, self.unit) = (Shape::Box { width: width * meters, height: height * meters }, meters);
        Ok(())
    }

    fn take_polygon(&mut self, args: &mut Args<'a>) -> Result<()> {
        let corners = integer(args.bytes()?).ok().and_then(|corners| i32::try_from(corners).ok());
        let corners = corners.ok_or(Error::text("ERR invalid number of vertices"))?;
        let corners = usize::try_from(corners).ok().filter(|corners| *corners >= 3 && *corners <= args.len() / 2);
        let corners = corners.ok_or(Error::text("ERR GEOSEARCH BYPOLYGON must have at least 3 vertices"))?;
        let corners = (0..corners).map(|_| point(args.bytes()?, args.bytes()?)).collect::<Result<Vec<Point>>>()?;
        (self.centre, self.unit) = (Some(Point::centre_of(&corners)), 1.0);
        self.shape = Shape::Polygon(corners);
        Ok(())
    }

    fn ranges(&self) -> Vec<ScoreRange> {
        let Some(centre) = self.centre else { return Vec::new() };
        let ranges = self.shape.score_ranges(centre).into_iter();
        ranges.map(|(min, max)| ScoreRange { min: Bound::Included(min), max: Bound::Excluded(max) }).collect()
    }

    fn find<'s>(&self, set: &'s SortedSet, reply: &mut Reply) -> Result<Vec<Found<'s>>> {
        let Some(centre) = self.centre else { return Ok(Vec::new()) };
        let enough = if self.any { self.count } else { usize::MAX };
        let mut found = Vec::new();
        'cells: for range in self.ranges() {
            for (member, score) in set.range(set.score_ranks(&range)) {
                let point = Point::of_score(score);
                if let Some(distance) = self.shape.distance(centre, point) {
                    // Twice, as the room doubles, or is sorted with as much beside it.
                    work(reply, 2 * size_of::<Found<'_>>())?;
                    found.push(Found { member, score, point, distance });
                    if found.len() >= enough {
                        break 'cells;
                    }
                }
            }
        }
        match self.order {
            Some(Order::Ascending) => found.sort_by(|a, b| a.distance.total_cmp(&b.distance)),
            Some(Order::Descending) => found.sort_by(|a, b| b.distance.total_cmp(&a.distance)),
            None => {}
        }
        if self.count > 0 {
            found.truncate(self.count);
        }
        Ok(found)
    }

    fn write(&self, reply: &mut Reply, found: &[Found<'_>]) {
        let options = [self.with_distance, self.with_score, self.with_point].into_iter().filter(|with| *with).count();
        reply.array(found.len());
        for Found { member, score, point, distance } in found {
            if options > 0 {
                reply.array(1 + options);
            }
            write_item(reply, *member);
            if self.with_distance {
                write_distance(reply, distance / self.unit);
            }
            if self.with_score {
                reply.integer(*score as i64);
            }
            if self.with_point {
                write_point(reply, *point);
            }
        }
    }
}

fn place_of(set: &SortedSet, member: &[u8]) -> Result<Point> {
    let score = set.score(member).ok_or(Error::text("ERR could not decode requested zset member"))?;
    Ok(Point::of_score(score))
}
