use crate::commands::testing::{Bench, check, check_effects, check_resp3};

const SYNTAX: &str = "(error) ERR syntax error";
const WRONGTYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const NO_MEMBER: &str = "(error) ERR could not decode requested zset member";
const UNIT: &str = "(error) ERR unsupported unit provided. please use M, KM, FT, MI";

#[test]
fn places() {
    check(&[
        ("GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania", "2"),
        ("GEOADD g CH 13.361389 38.2 Palermo", "1"),
        ("GEOADD g NX 1 1 Palermo", "0"),
        ("GEOADD g XX 1 2 new", "0"),
        ("GEODIST g Palermo Catania", "170262.6445"),
        ("GEODIST g Palermo Catania km", "170.2626"),
        ("GEODIST g Palermo Palermo mi", "0.0000"),
        ("GEODIST g Palermo none", "nil"),
        ("GEODIST none a b", "nil"),
        ("GEODIST none a b x", UNIT),
        ("GEODIST g Palermo Catania km km", SYNTAX),
        ("GEODIST g Palermo Catania x km", SYNTAX),
        ("GEOHASH g Palermo Catania none", "[sqc92417nu0 sqdtr74hyu0 nil]"),
        ("GEOHASH none a", "[nil]"),
        ("GEOPOS g Palermo none", "[[13.36138933897018433 38.2000006309196749] nil]"),
        ("GEOPOS g", "[]"),
        ("ZSCORE g Palermo", "3479101030759983"),
        ("GEOADD g NX XX 1 2 x", SYNTAX),
        ("GEOADD g 1 2 x 3", SYNTAX),
        ("GEOADD g GT 1 2 x", SYNTAX),
        ("GEOADD g a 2 x", "(error) ERR value is not a valid float"),
        ("GEOADD g 200 38.115556 x", "(error) ERR invalid longitude,latitude pair 200.000000,38.115556"),
        ("GEOADD g 1 2 x 3 95 y", "(error) ERR invalid longitude,latitude pair 3.000000,95.000000"),
        ("ZCARD g", "2"),
        ("SET s v", "OK"),
        ("GEOADD s 1 2 x", WRONGTYPE),
        ("GEOPOS s x", WRONGTYPE),
        ("ZADD odd -5 a 4503599627370496 b 1e30 c inf d", "4"),
        (
            "GEOPOS odd a b c d",
            "[[180 85.0511287799999991] [-179.99999731779098511 85.0511287799999991] \
             [-179.99999731779098511 -85.05112751263942528] [-179.99999731779098511 -85.05112751263942528]]",
        ),
        ("GEOHASH odd a b c", "[bp05b5048p0 bp05b5048p0 00bh0hbj200]"),
    ]);
    check_resp3(&[
        ("GEOADD g 13.361389 38.2 Palermo", "1"),
        ("GEOPOS g Palermo none", "[[13.36138933897018433 38.2000006309196749] nil]"),
        ("GEOSEARCH g FROMMEMBER Palermo BYRADIUS 1 m WITHDIST WITHHASH", "[[Palermo 0.0000 3479101030759983]]"),
    ]);
}

#[test]
fn searches() {
    const FOUND: &str = "[[Catania 56.4413 3479447370796909 [15.08726745843887329 37.50266842333162032]] \
         [Palermo 190.4424 3479099956230698 [13.36138933897018433 38.11555639549629859]]]";
    check(&[
        ("GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania", "2"),
        ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHDIST WITHCOORD WITHHASH", FOUND),
        ("GEORADIUS g 15 37 200 km WITHCOORD WITHDIST WITHHASH ASC", FOUND),
        ("GEORADIUS_RO g 15 37 200 km DESC", "[Palermo Catania]"),
        ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km COUNT 1", "[Catania]"),
        ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km COUNT 1 DESC", "[Palermo]"),
        ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 100 km", "[Catania]"),
        ("GEOSEARCH g FROMMEMBER Palermo BYBOX 400 400 km DESC", "[Catania Palermo]"),
        ("GEORADIUSBYMEMBER g Palermo 200 km WITHDIST DESC", "[[Catania 166.2742] [Palermo 0.0000]]"),
        ("GEORADIUSBYMEMBER_RO g Palermo 1 ft", "[Palermo]"),
        ("GEOSEARCH none FROMMEMBER x BYRADIUS 1 m", "[]"),
        ("GEORADIUSBYMEMBER none x y z", "[]"),
        ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km WITHDIST BYRADIUS 1 km", "[]"),
        ("GEOSEARCHSTORE d g FROMLONLAT 15 37 BYRADIUS 200 km", "2"),
        ("ZRANGE d 0 -1", "[Palermo Catania]"),
        ("GEOSEARCHSTORE d g FROMLONLAT 15 37 BYRADIUS 200 km STOREDIST", "2"),
        ("ZRANGE d 0 -1 WITHSCORES", "[Catania 56.4412578701582 Palermo 190.44242984775784]"),
        ("GEORADIUS g 15 37 200 km STORE other STOREDIST d COUNT 1", "1"),
        ("ZRANGE d 0 -1 WITHSCORES", "[Catania 56.4412578701582]"),
        ("EXISTS other", "0"),
        ("GEOSEARCHSTORE d none FROMLONLAT 15 37 BYRADIUS 200 km", "0"),
        ("EXISTS d", "0"),
        ("GEORADIUSBYMEMBER g Palermo 1 m STORE g", "1"),
        ("ZRANGE g 0 -1", "[Palermo]"),
        ("GEOSEARCH g FROMMEMBER none BYRADIUS 200 km", NO_MEMBER),
        ("GEORADIUSBYMEMBER g none 200 km", NO_MEMBER),
        ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km COUNT 0", "(error) ERR COUNT must be > 0"),
        ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 2 km ANY", "(error) ERR the ANY argument requires COUNT argument"),
        ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS x km", "(error) ERR need numeric radius"),
        ("GEORADIUS none 15 37 -1 km", "(error) ERR radius cannot be negative"),
        ("GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 1 miles", UNIT),
        ("GEOSEARCH g FROMLONLAT 15 37 BYBOX -1 x km", "(error) ERR need numeric height"),
        ("GEOSEARCH g FROMLONLAT 15 37 BYBOX -1 1 km", "(error) ERR height or width cannot be negative"),
        ("GEOSEARCH g FROMLONLAT 15 37 FROMMEMBER Palermo BYBOX 1 1 km", SYNTAX),
        (
            "GEOSEARCH g FROMLONLAT 15 37 ASC COUNT 1",
            "(error) ERR exactly one of BYRADIUS and BYBOX can be specified for GEOSEARCH",
        ),
        (
            "geosearch g BYRADIUS 1 m ASC COUNT 1",
            "(error) ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for geosearch",
        ),
        (
            "GEOSEARCHSTORE d g FROMLONLAT 15 37 BYRADIUS 200 km WITHDIST",
            "(error) ERR GEOSEARCHSTORE is not compatible with WITHDIST, WITHHASH and WITHCOORD options",
        ),
        (
            "GEORADIUS g 15 37 200 km STORE d WITHDIST",
            "(error) ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and WITHCOORD options",
        ),
        ("GEORADIUS_RO g 15 37 200 km STORE d", SYNTAX),
        ("GEORADIUS g 15 95 1 km", "(error) ERR invalid longitude,latitude pair 15.000000,95.000000"),
        ("SET s v", "OK"),
        ("GEORADIUS s 15 95 1 km", WRONGTYPE),
    ]);
}

/// Replies are those of Valkey 9.1.2.
#[test]
fn searches_in_a_polygon() {
    const TRIANGLE: &str = "BYPOLYGON 3 13 37 16 37 15 39";
    const FEW: &str = "(error) ERR GEOSEARCH BYPOLYGON must have at least 3 vertices";
    const NUMBER: &str = "(error) ERR invalid number of vertices";
    let search = |options: &str| format!("GEOSEARCH g {options}");
    check(&[
        ("GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania", "2"),
        (&search(TRIANGLE), "[Catania]"),
        (
            &search("bypolygon 3 13 37 16 37 15 39 WITHDIST WITHCOORD WITHHASH ASC"),
            "[[Catania 41878.3264 3479447370796909 [15.08726745843887329 37.50266842333162032]]]",
        ),
        (&search("BYPOLYGON 3 13 37 16 37 14 39 WITHDIST DESC"), "[[Catania 68853.1583]]"),
        (&search("BYPOLYGON 4 13 37 16 37 16 39 13 39 ASC"), "[Catania Palermo]"),
        (&search("BYPOLYGON 4 13 37 16 37 16 39 13 39 COUNT 1"), "[Catania]"),
        (&search("BYPOLYGON 3 13 37 16 37 14 39 BYPOLYGON 3 13 37 16 37 14 37.1"), "[]"),
        (&search("BYPOLYGON 2 13 37 16 37 14 39"), FEW),
        (&search("BYPOLYGON 4 13 37 16 37 14 39"), FEW),
        (&search("BYPOLYGON -3 13 37 16 37 14 39"), FEW),
        (&search("BYPOLYGON x 13 37 16 37 14 39"), NUMBER),
        (&search("BYPOLYGON 03 13 37 16 37 14 39"), NUMBER),
        (&search("BYPOLYGON 2147483648 13 37 16 37 14 39"), NUMBER),
        (&search("BYPOLYGON 3 13 37 16 37 14 x"), "(error) ERR value is not a valid float"),
        (&search("BYPOLYGON 3 13 37 16 37 14 99"), "(error) ERR invalid longitude,latitude pair 14.000000,99.000000"),
        (&search(&format!("FROMMEMBER Palermo {TRIANGLE}")), SYNTAX),
        (&search(&format!("{TRIANGLE} FROMMEMBER Palermo")), SYNTAX),
        (&search(&format!("{TRIANGLE} FROMLONLAT 1 2")), SYNTAX),
        (&search(&format!("{TRIANGLE} BYRADIUS 5 km")), SYNTAX),
        (&search(&format!("BYRADIUS 5 km {TRIANGLE}")), SYNTAX),
        (&search(&format!("BYBOX 5 5 km {TRIANGLE}")), SYNTAX),
        ("GEOSEARCH none BYPOLYGON 3 13 37 16 37 14 39", "[]"),
        ("GEOSEARCH none BYPOLYGON 3 13 37 16 37 14 x", "(error) ERR value is not a valid float"),
        (&format!("GEOSEARCHSTORE d g {TRIANGLE}"), "1"),
        (&format!("GEOSEARCHSTORE d g {TRIANGLE} STOREDIST"), "1"),
        ("ZRANGE d 0 -1 WITHSCORES", "[Catania 4.187832636273526e+4]"),
    ]);
}

#[test]
fn sides_of_a_polygon_cost_something() {
    let mut bench = Bench::new();
    (0..100).for_each(|n| _ = bench.run(&format!("GEOADD g 1 1 place:{n}")));
    let corners: String = (0..80).map(|n| format!(" {} {}", n % 3, n / 40)).collect();
    assert_eq!(bench.cost("GEOSEARCH g BYPOLYGON 3 0 0 2 0 1 2"), Some(400));
    assert_eq!(bench.cost(&format!("GEOSEARCH g BYPOLYGON 80{corners}")), Some(1400));
}

#[test]
fn a_search_costs_what_its_cells_hold() {
    let mut bench = Bench::new();
    for n in 0..500 {
        bench.run(&format!("GEOADD g {} {} near:{n}", n as f64 / 1e5, n as f64 / 1e5));
        bench.run(&format!("GEOADD g {} 40 far:{n}", 100.0 + n as f64 / 1e5));
    }
    assert_eq!(bench.cost("GEOSEARCH g FROMLONLAT 50 0 BYRADIUS 1 km"), Some(0));
    assert_eq!(bench.cost("GEOSEARCH g FROMLONLAT 0.002 0.002 BYRADIUS 10 km"), Some(2000));
    assert_eq!(bench.cost("GEORADIUS g 50 20 20000 km"), Some(4000));
    assert_eq!(bench.cost("GEOSEARCH g FROMMEMBER none BYRADIUS 10 km"), Some(0));
    assert_eq!(bench.cost("GEOSEARCH none FROMMEMBER none BYRADIUS 10 km"), Some(0));
}

#[test]
fn effects_make_the_same_data() {
    let commands = [
        "GEOADD g 13.361389 38.115556 a 15.087269 37.502669 b",
        "GEOADD g CH XX 13 38 a",
        "GEOSEARCHSTORE d g FROMMEMBER a BYRADIUS 500 km STOREDIST",
        "GEORADIUS g 15 37 10 km STORE d2",
        "GEOSEARCHSTORE d3 g BYPOLYGON 3 13 37 16 37 15 39 STOREDIST",
        "GEORADIUSBYMEMBER g a 500 km STORE g COUNT 1",
    ];
    let words = |line: &&str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    check_effects(&commands.iter().map(words).collect::<Vec<_>>());
}
