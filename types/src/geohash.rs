//! Points of the Earth as scores of sorted sets: geohashes of 52 bits.
//!
//! 1. Longitude and latitude become numbers of 26 bits, each the part of its range that is below. Their bits,
//!    interleaved, are a number that a double holds exactly. Points with a common prefix share a **cell**, and the
//!    cells of one step are ranges of scores.
//! 2. A search takes the step whose cells are about as large as its area, and looks at the cell of the centre and at its eight
//!    neighbours, as far as they touch the **bounds** of the area. Which points are within is computed for each.
//! 3. Distances are those on a sphere of [`RADIUS_METERS`], by the haversine formula. The sides of a polygon are straight on a
//!    map whose coordinates are longitude and latitude.
//!
//! Steps, bounds and the order of the neighbours are Redis's, so that unordered results come in Redis's order.

use std::f64::consts::PI;

pub const RADIUS_METERS: f64 = 6_372_797.560_856;
/// The limit of the scores' projection.
pub const LATITUDE_MAX: f64 = 85.051_128_78;
pub const LONGITUDE_MAX: f64 = 180.0;

/// Bits of each coordinate in a score.
const STEP_MAX: u32 = 26;
/// Half of the Earth's circumference, as the estimate of a step has it.
const MERCATOR_MAX: f64 = 20_037_726.37;
const LONGITUDES: u64 = 0xaaaa_aaaa_aaaa_aaaa;
const LATITUDES: u64 = 0x5555_5555_5555_5555;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub longitude: f64,
    pub latitude: f64,
}

impl Point {
    /// The middle of the smallest cell that a score names.
    pub fn of_score(score: f64) -> Self {
        // Scores that no point has, as Redis converts them on x86-64: negative ones wrap around, too large ones are 0.
        let bits = match score {
            ..0.0 => score as i64 as u64,
            18_446_744_073_709_551_616.0.. => 0,
            _ => score as u64,
        };
        let area = Cell { bits, step: STEP_MAX }.area();
        let middle = |low: f64, high: f64, most: f64| ((low + high) / 2.0).clamp(-most, most);
        Self {
            longitude: middle(area.west, area.east, LONGITUDE_MAX),
            latitude: middle(area.south, area.north, LATITUDE_MAX),
        }
    }

    pub fn is_valid(self) -> bool {
        (-LONGITUDE_MAX..=LONGITUDE_MAX).contains(&self.longitude)
            && (-LATITUDE_MAX..=LATITUDE_MAX).contains(&self.latitude)
    }

    pub fn score(self) -> u64 {
        Cell::around(self, STEP_MAX, LATITUDE_MAX).bits
    }

    /// The usual text of a geohash. Its latitudes reach to the poles, and its last letter has no bits left.
    pub fn text(self) -> [u8; 11] {
        const LETTERS: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = Cell::around(self, STEP_MAX, 90.0).bits;
        std::array::from_fn(|at| match at {
            10 => LETTERS[0],
            _ => LETTERS[(bits >> (52 - 5 * (at + 1)) & 31) as usize],
        })
    }

    /// The middle of several points on the sphere.
    pub fn centre_of(points: &[Self]) -> Self {
        let (mut x, mut y, mut z) = (0.0, 0.0, 0.0);
        for point in points {
            let (longitude, latitude) = (radians(point.longitude), radians(point.latitude));
            x += latitude.cos() * longitude.cos();
            y += latitude.cos() * longitude.sin();
            z += latitude.sin();
        }
        Self { longitude: degrees(y.atan2(x)), latitude: degrees(z.atan2((x * x + y * y).sqrt())) }
    }

    pub fn distance_meters(self, other: Self) -> f64 {
        let half_sine = |from: f64, to: f64| ((radians(to) - radians(from)) / 2.0).sin();
        let v = half_sine(self.longitude, other.longitude);
        if v == 0.0 {
            return latitude_distance_meters(self.latitude, other.latitude);
        }
        let u = half_sine(self.latitude, other.latitude);
        let a = u * u + radians(self.latitude).cos() * radians(other.latitude).cos() * v * v;
        2.0 * RADIUS_METERS * a.sqrt().asin()
    }
}

fn latitude_distance_meters(a: f64, b: f64) -> f64 {
    RADIUS_METERS * (radians(b) - radians(a)).abs()
}

fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

fn degrees(radians: f64) -> f64 {
    radians / (PI / 180.0)
}

/// The area of a search: in meters around a centre, or between corners.
#[derive(Debug, Clone)]
pub enum Shape {
    Circle {
        radius: f64,
    },
    Box {
        width: f64,
        height: f64,
    },
    /// Its centre is [that of its corners](Point::centre_of).
    Polygon(Vec<Point>),
}

impl Shape {
    /// The distance of a point from the centre, if it is within.
    pub fn distance(&self, centre: Point, point: Point) -> Option<f64> {
        match self {
            Self::Circle { radius } => Some(centre.distance_meters(point)).filter(|distance| distance <= radius),
            Self::Polygon(corners) => is_between(corners, point).then(|| centre.distance_meters(point)),
            Self::Box { width, height } => {
                if latitude_distance_meters(point.latitude, centre.latitude) > height / 2.0 {
                    return None;
                }
                let beside = Point { latitude: point.latitude, ..centre };
                if point.distance_meters(beside) > width / 2.0 {
                    return None;
                }
                Some(centre.distance_meters(point))
            }
        }
    }

    /// The ranges of scores, each with its end left out, that hold all points within, in the order of a search.
    pub fn score_ranges(&self, centre: Point) -> Vec<(f64, f64)> {
        let bounds = self.bounds(centre);
        let reach = match self {
            Self::Circle { radius } => *radius,
            Self::Box { width, height } => ((width / 2.0) * (width / 2.0) + (height / 2.0) * (height / 2.0)).sqrt(),
            Self::Polygon(_) => bounds.corners().map(|corner| centre.distance_meters(corner)).fold(0.0, f64::max),
        };
        // The middle of corners far from each other may be outside of all of them.
        let centre = if let Self::Polygon(_) = self { bounds.nearest(centre) } else { centre };
        let mut step = step_for(reach, centre.latitude);
        let mut cell = Cell::around(centre, step, LATITUDE_MAX);
        // The centre may be so near to an edge of its cell that the neighbour there does not reach far enough.
        // Redis looks once. A polygon may be much wider than the distances of its corners tell.
        let mut looks = if let Self::Polygon(_) = self { step } else { 1 };
        while step > 1 && looks > 0 && cell.falls_short_of(bounds) {
            step -= 1;
            looks -= 1;
            cell = Cell::around(centre, step, LATITUDE_MAX);
        }
        let area = cell.area();
        let is_useless = |x: i32, y: i32| {
            step >= 2
                && (y < 0 && area.south < bounds.south
                    || y > 0 && area.north > bounds.north
                    || x < 0 && area.west < bounds.west
                    || x > 0 && area.east > bounds.east)
        };
        let mut ranges: Vec<(f64, f64)> = Vec::with_capacity(9);
        for (x, y) in [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)] {
            if is_useless(x, y) {
                continue;
            }
            let range = cell.moved(x, y).scores();
            // Cells of the coarsest steps are neighbours of themselves.
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
        ranges
    }

    fn bounds(&self, centre: Point) -> Area {
        let (width, height) = match self {
            Self::Circle { radius } => (*radius, *radius),
            Self::Box { width, height } => (width / 2.0, height / 2.0),
            Self::Polygon(corners) => return Area::around(corners),
        };
        let latitude_delta = degrees(height / RADIUS_METERS);
        let longitude_delta = |latitude: f64| degrees(width / RADIUS_METERS / radians(latitude).cos());
        // Meridians are closer to each other on the side of the pole.
        let away = if centre.latitude < 0.0 { -latitude_delta } else { latitude_delta };
        let longitude_delta = longitude_delta(centre.latitude + away);
        Area {
            west: centre.longitude - longitude_delta,
            east: centre.longitude + longitude_delta,
            south: centre.latitude - latitude_delta,
            north: centre.latitude + latitude_delta,
        }
    }
}

/// Whether a point is within a polygon: a line from it to the east crosses an odd number of sides.
fn is_between(corners: &[Point], point: Point) -> bool {
    let mut inside = false;
    let mut before = corners.last().copied().unwrap_or(point);
    for &corner in corners {
        if (corner.latitude > point.latitude) != (before.latitude > point.latitude) {
            let (width, height) = (before.longitude - corner.longitude, before.latitude - corner.latitude);
            let crossing = width * (point.latitude - corner.latitude) / height + corner.longitude;
            inside ^= point.longitude < crossing;
        }
        before = corner;
    }
    inside
}

/// The step whose cells are about as large as an area of this reach; they get narrower towards the poles.
fn step_for(mut reach_meters: f64, latitude: f64) -> u32 {
    if reach_meters == 0.0 {
        return STEP_MAX;
    }
    let mut step = 1;
    while reach_meters < MERCATOR_MAX {
        reach_meters *= 2.0;
        step += 1;
    }
    let towards_pole = if latitude.abs() > 80.0 { 2 } else { i32::from(latitude.abs() > 66.0) };
    (step - 2 - towards_pole).clamp(1, STEP_MAX as i32) as u32
}

#[derive(Debug, Clone, Copy)]
struct Area {
    west: f64,
    east: f64,
    south: f64,
    north: f64,
}

impl Area {
    /// The smallest area with these points.
    fn around(points: &[Point]) -> Self {
        let none = Self { west: LONGITUDE_MAX, east: -LONGITUDE_MAX, south: LATITUDE_MAX, north: -LATITUDE_MAX };
        points.iter().fold(none, |area, point| Self {
            west: area.west.min(point.longitude),
            east: area.east.max(point.longitude),
            south: area.south.min(point.latitude),
            north: area.north.max(point.latitude),
        })
    }

    fn corners(self) -> impl Iterator<Item = Point> {
        let Self { west, east, south, north } = self;
        let corners = [(west, north), (east, north), (west, south), (east, south)];
        corners.into_iter().map(|(longitude, latitude)| Point { longitude, latitude })
    }

    /// The point of a polygon's bounds that is nearest to another.
    fn nearest(self, point: Point) -> Point {
        let within = |value: f64, low: f64, high: f64| value.max(low).min(high);
        Point {
            longitude: within(point.longitude, self.west, self.east),
            latitude: within(point.latitude, self.south, self.north),
        }
    }
}

/// All points whose scores begin with these `2 * step` bits.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    bits: u64,
    step: u32,
}

impl Cell {
    /// Whether its neighbours do not reach as far as an area around it.
    fn falls_short_of(self, bounds: Area) -> bool {
        self.moved(0, 1).area().north < bounds.north
            || self.moved(0, -1).area().south > bounds.south
            || self.moved(1, 0).area().east < bounds.east
            || self.moved(-1, 0).area().west > bounds.west
    }

    fn around(point: Point, step: u32, latitude_max: f64) -> Self {
        let part = |value: f64, most: f64| ((value + most) / (2.0 * most) * (1u64 << step) as f64) as u32;
        let (x, y) = (part(point.longitude, LONGITUDE_MAX), part(point.latitude, latitude_max));
        Self { bits: spread(y) | spread(x) << 1, step }
    }

    fn area(self) -> Area {
        let (x, y) = (gather(self.bits >> 1), gather(self.bits));
        let edge = |part: f64, most: f64| -most + part / (1u64 << self.step) as f64 * (2.0 * most);
        Area {
            west: edge(f64::from(x), LONGITUDE_MAX),
            east: edge(f64::from(x) + 1.0, LONGITUDE_MAX),
            south: edge(f64::from(y), LATITUDE_MAX),
            north: edge(f64::from(y) + 1.0, LATITUDE_MAX),
        }
    }

    /// The cell that is `x` cells to the east and `y` to the north, wrapping around the Earth.
    fn moved(self, x: i32, y: i32) -> Self {
        if x == 0 && y == 0 {
            return self;
        }
        let mask = u64::MAX >> (64 - 2 * self.step);
        let moved = |kept: u64, by: i32| {
            let (kept, others) = (kept & mask, !kept & mask);
            let one = kept & kept.wrapping_neg();
            // Through the bits of the other coordinate, a carry passes where they are set, a borrow where they are not.
            let bits = self.bits & kept;
            match by {
                1 => (bits | others).wrapping_add(one) & kept,
                -1 => bits.wrapping_sub(one) & kept,
                _ => bits,
            }
        };
        Self { bits: moved(LONGITUDES, x) | moved(LATITUDES, y), step: self.step }
    }

    fn scores(self) -> (f64, f64) {
        let shift = 2 * (STEP_MAX - self.step);
        ((self.bits << shift) as f64, ((self.bits + 1) << shift) as f64)
    }
}

/// Moves each bit to twice its place.
fn spread(number: u32) -> u64 {
    let mut bits = u64::from(number);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, LATITUDES),
    ] {
        bits = (bits | bits << shift) & mask;
    }
    bits
}

/// Takes every second bit, from the lowest on.
fn gather(bits: u64) -> u32 {
    let mut bits = bits & LATITUDES;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_move_around_the_earth() {
        for step in [1, 2, 5, 26] {
            let side = 1u64 << step;
            for (x, y) in [(0, 0), (1, 0), (side - 1, side - 1), (side / 2, side / 3)] {
                let cell =
                    |x: u64, y: u64| Cell { bits: spread((y % side) as u32) | spread((x % side) as u32) << 1, step };
                for (dx, dy) in [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1)] {
                    let expected = cell(x.wrapping_add_signed(dx.into()), y.wrapping_add_signed(dy.into()));
                    assert_eq!(cell(x, y).moved(dx, dy), expected, "step {step}: {x} {y} moved by {dx} {dy}");
                }
            }
        }
    }

    #[test]
    fn bits_are_interleaved() {
        for number in [0, 1, 2, 0x3ff_ffff, u32::MAX, 0x1234_5678] {
            assert_eq!(gather(spread(number)), number);
            assert_eq!(spread(number) & LONGITUDES, 0);
        }
    }

    #[test]
    fn a_search_misses_no_point() {
        let mut random = fastrand::Rng::with_seed(9);
        let mut part = || random.f64();
        for _ in 0..3000 {
            let centre = Point { longitude: part() * 300.0 - 150.0, latitude: part() * 140.0 - 70.0 };
            let reach = 10f64.powf(part() * 5.5);
            let shape = if part() < 0.5 {
                Shape::Circle { radius: reach }
            } else {
                Shape::Box { width: reach, height: reach * part() }
            };
            let ranges = shape.score_ranges(centre);
            for _ in 0..20 {
                let degrees = reach / 60_000.0;
                let point = Point {
                    longitude: (centre.longitude + (part() - 0.5) * degrees).clamp(-180.0, 180.0),
                    latitude: (centre.latitude + (part() - 0.5) * degrees).clamp(-85.0, 85.0),
                };
                let score = point.score() as f64;
                if shape.distance(centre, Point::of_score(score)).is_some() {
                    let found = ranges.iter().filter(|(low, high)| (*low..*high).contains(&score)).count();
                    assert_eq!(found, 1, "{centre:?} {shape:?} {point:?}");
                }
            }
        }
    }

    /// Around the Earth, at the poles and across the edge of the map, too.
    #[test]
    fn a_search_in_a_polygon_misses_no_point() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut part = || random.f64();
        let mut seen = 0;
        for round in 0..3000 {
            let reach = if round % 3 == 0 { 1.0 } else { 10f64.powf(-part() * 5.0) };
            let (longitude, latitude) =
                ((part() - 0.5) * 360.0 * (1.0 - reach), (part() - 0.5) * 170.0 * (1.0 - reach));
            let mut point = || Point {
                longitude: longitude + (part() - 0.5) * 360.0 * reach,
                latitude: latitude + (part() - 0.5) * 170.0 * reach,
            };
            let corners: Vec<Point> = (0..3 + round % 6).map(|_| point()).collect();
            let (centre, shape) = (Point::centre_of(&corners), Shape::Polygon(corners));
            let ranges = shape.score_ranges(centre);
            for _ in 0..20 {
                let score = point().score() as f64;
                if shape.distance(centre, Point::of_score(score)).is_some() {
                    let found = ranges.iter().filter(|(low, high)| (*low..*high).contains(&score)).count();
                    assert_eq!(found, 1, "{shape:?} {:?}", Point::of_score(score));
                    seen += 1;
                }
            }
        }
        assert!(seen > 5_000, "{seen}");
    }

    #[test]
    fn polygons_have_an_inside() {
        let corners = |text: &[(f64, f64)]| {
            Shape::Polygon(text.iter().map(|&(longitude, latitude)| Point { longitude, latitude }).collect())
        };
        let arrow = corners(&[(0.0, 0.0), (4.0, 0.0), (1.0, 1.0), (0.0, 4.0)]);
        let bow = corners(&[(0.0, 0.0), (4.0, 4.0), (4.0, 0.0), (0.0, 4.0)]);
        for (shape, longitude, latitude, expected) in [
            (&arrow, 0.5, 0.5, true),
            (&arrow, 2.0, 0.5, true),
            (&arrow, 2.0, 2.0, false),
            (&arrow, -1.0, 0.5, false),
            (&bow, 1.0, 2.0, true),
            (&bow, 3.0, 2.0, true),
            (&bow, 2.0, 1.0, false),
            (&bow, 2.0, 3.0, false),
        ] {
            let centre = Point { longitude: 0.0, latitude: 0.0 };
            let found = shape.distance(centre, Point { longitude, latitude }).is_some();
            assert_eq!(found, expected, "{shape:?} {longitude} {latitude}");
        }
    }
}
