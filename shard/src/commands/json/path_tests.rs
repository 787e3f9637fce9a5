//! The language of paths: filters, functions, arithmetic and computed paths, with the values that RedisJSON 8.10 selects.

use dormouse_protocol::Version;

use crate::commands::testing::Bench;

const DOCUMENT: &str = r#"{"a":7,"f":2.5,"neg":-3,"big":9223372036854775807,"t":"hello","u":"naïve","yes":true,"no":false,"nil":null,"obj":{"x":1,"y":[2]},"none":{},"list":[1,2.0,"x",[1],{"k":1},null],"nums":[4,1.5,3],"users":[{"id":1,"tags":["a","b"],"name":"Ann","pat":"^A"},{"id":2,"tags":["c"],"name":"Bob","pat":"b$"},{"id":3,"tags":[],"name":"Cy","age":40},{"id":"4","name":5}]}"#;

/// Filters, and what they select.
const FILTERS: &[(&str, &str)] = &[
    ("$.users[?(!@.age)].id", r#"[1,2,"4"]"#),
    ("$.users[?!@.age].id", r#"[1,2,"4"]"#),
    ("$.users[?(!(@.id==1||@.id==2))].id", r#"[3,"4"]"#),
    ("$.users[?!!@.age].id", "[3]"),
    ("$.users[?(@.id in [1,3])].id", "[1,3]"),
    (r#"$.users[?@.id in [1.0,"4"]].id"#, r#"[1,"4"]"#),
    ("$.users[?(@.id nin [1,3])].id", r#"[2,"4"]"#),
    ("$.users[?('a' in @.tags)].id", "[1]"),
    (r#"$.users[?(@.name in ["Ann",5])].id"#, r#"[1,"4"]"#),
    ("$.users[?(@.id in $.nums)].id", "[3]"),
    ("$.users[?(@.id in 1)].id", "[]"),
    (r#"$.users[?(@.tags subsetof ["a","b","z"])].id"#, "[1,3]"),
    (r#"$.users[?(@.tags anyof ["b","c"])].id"#, "[1,2]"),
    (r#"$.users[?(@.tags noneof ["b"])].id"#, r#"[2,3,"4"]"#),
    ("$.users[?(@.tags size 2)].id", "[1]"),
    ("$.users[?(@.name sizeof 3)].id", "[1,2]"),
    ("$.users[?(@.tags size 1.9)].id", "[2]"),
    ("$.users[?(@.tags size @.tags.append(1))].id", "[]"),
    ("$.users[?(@.tags size $.nums)].id", "[]"),
    ("$.users[?(@.tags size $.nums[*])].id", "[2]"),
    ("$.users[?(@.tags size $..id)].id", "[1,2]"),
    ("$.users[?(@.tags empty true)].id", "[3]"),
    ("$.users[?(@.tags empty false)].id", "[1,2]"),
    (r#"$.users[?(@.tags==["a","b"])].id"#, "[1]"),
    (r#"$.users[?(@.tags!=["a","b"])].id"#, r#"[2,3,"4"]"#),
    ("$.list[?(@==[1])]", "[[1]]"),
    ("$.list[?(@==[1.0])]", "[]"),
    (r#"$.list[?(@=={"k":1})]"#, r#"[{"k":1}]"#),
    ("$.list[?@ in [1,[1],null]]", "[1,[1],null]"),
    ("$.list[?(@==2)]", "[2.0]"),
    ("$.list[?(@.k)]", r#"[{"k":1}]"#),
    ("$[?(@==$.obj)]", r#"[{"x":1,"y":[2]}]"#),
    ("$.users[?(@.name=~'^A')].id", "[1]"),
    ("$.users[?('Bob'=~@.pat)].id", "[2]"),
    ("$.users[?(@.name=~@.pat)].id", "[1,2]"),
    ("$.users[?('Bob'=~'o')].id", r#"[1,2,3,"4"]"#),
    (r#"$.users[?match(@.name,"B.b")].id"#, "[2]"),
    (r#"$.users[?match(@.name,"B")].id"#, "[]"),
    (r#"$.users[?search(@.name,"B")].id"#, "[2]"),
    (r#"$.users[?@.name.search("n{2}")].id"#, "[1]"),
    ("$.users[?(search(@.name,@.pat))].id", "[1,2]"),
    ("$.users[?(length(@.name)==3)].id", "[1,2]"),
    ("$.users[?(@.tags.length()>0)].id", "[1,2]"),
    ("$.users[?(count(@.*)==4)].id", "[1,2,3]"),
    ("$.users[?(value(@.id)==2)].id", "[2]"),
    ("$.users[?(@.id + 1 == 3)].id", "[2]"),
    ("$.users[?(@.id * 2 - 1 > 2)].id", "[2,3]"),
    ("$.users[?((@.id + 1) * 2 == 6)].id", "[2]"),
    ("$.users[?(-@.id == -2)].id", "[2]"),
    ("$.users[?(@.id % 2 == 1)].id", "[1,3]"),
    ("$.users[?(@.id / 2 == 0.5)].id", "[1]"),
    (r#"$.users[?(@.tags.first()=="c")].id"#, "[2]"),
    (r#"$.users[?(@.tags.last()=="b")].id"#, "[1]"),
    (r#"$.users[?(@.tags.index(1)=="b")].id"#, "[1]"),
    (r#"$.users[?(@.keys() anyof ["age"])].id"#, "[3]"),
    (r#"$.users[?(@~ anyof ["age"])].id"#, "[3]"),
    (r#"$.users[?(concat(@.name,"!")=="Ann!")].id"#, "[1]"),
    ("$.users[?(true)].id", r#"[1,2,3,"4"]"#),
    ("$.users[?(false)].id", "[]"),
    ("$.users[?(null)].id", r#"[1,2,3,"4"]"#),
    ("$.users[?(@.id==1&&true)].id", "[1]"),
    ("$.users[?(@.id==1||@.id==3&&@.age)].id", "[1,3]"),
    ("$.users[?((@.id))].id", r#"[1,2,3,"4"]"#),
    ("$.users[?(nothing(@))].id", "[]"),
    ("$.users[?(length(@.name,1))].id", "[]"),
    ("$.users[?(@in[1])]", "[]"),
    ("$.obj[?(@==1)]", "[1]"),
    ("$.users[?(@.id==1)] [ 'id' ]", "[1]"),
];

/// Other steps and computed paths, and what they come to.
const COMPUTED: &[(&str, &str)] = &[
    ("$.a + 1", "[8]"),
    ("$.a - $.f", "[4.5]"),
    ("$.a * 2", "[14]"),
    ("$.a / 2", "[3.5]"),
    ("$.a % 4", "[3]"),
    ("$.a / 0", "[]"),
    ("$.a % 0", "[]"),
    ("$.big + 1", "[9.223372036854776e18]"),
    ("$.t + 1", "[]"),
    ("$.missing + 1", "[]"),
    ("-$.a", "[-7]"),
    ("+ $.f", "[2.5]"),
    ("($.a + $.neg) * 2", "[8]"),
    ("($..id)", r#"[1,2,3,"4"]"#),
    ("($.a)", "[7]"),
    ("1 + 2 * 3", "[]"),
    ("(1 + 2) * 3", "[9]"),
    ("8 - 2 - 1", "[]"),
    ("length($.t)", "[5]"),
    ("$.u.length()", "[5]"),
    ("$.obj.length()", "[2]"),
    ("$.a.length()", "[]"),
    ("$.nums.sum()", "[8.5]"),
    ("$.nums.min()", "[1.5]"),
    ("$.nums.max()", "[4.0]"),
    ("$.nums.avg()", "[2.8333333333333335]"),
    ("[2,4]", "(error) ERR Path does not exist"),
    ("stddev([2,4])", "[1.0]"),
    ("sum([])", "[]"),
    ("$.list.sum()", "[]"),
    ("$.f.ceiling()", "[3]"),
    ("$.f.floor()", "[2]"),
    ("$.neg.abs()", "[3]"),
    ("abs(-2.5)", "[2.5]"),
    (r#"concat($.t,"-",$.u)"#, r#"["hello-naïve"]"#),
    ("concat($.t,$.a)", "[]"),
    ("$.obj~", r#"["x","y"]"#),
    ("$.obj.keys()", r#"["x","y"]"#),
    ("$.none.keys()", "[]"),
    ("$.a.keys()", "[]"),
    (
        "$.users[*].keys()",
        r#"["id","tags","name","pat","id","tags","name","pat","id","tags","name","age","id","name"]"#,
    ),
    ("$.obj.keys().length()", "[2]"),
    ("$.obj.keys().count()", "[2]"),
    ("$.nums.append(9)", "[4,1.5,3,9]"),
    (r#"$.a.append("x")"#, r#"[7,"x"]"#),
    ("$.missing.append(1)", "[1]"),
    ("$.a.append($.missing)", "[]"),
    ("$.nums.append($..id)", r#"[4,1.5,3,[1,2,3,"4"]]"#),
    ("$.users[*].id.append(0)", r#"[1,2,3,"4",0]"#),
    ("$.nums.first()", "[4]"),
    ("$.nums.last()", "[3]"),
    ("$.nums.index(1)", "[1.5]"),
    ("$.nums.index(-1)", "[3]"),
    ("$.nums.index(0.9)", "[4]"),
    ("$.nums.index(3)", "[]"),
    ("$..id.index(2)", "[3]"),
    ("$.users[*].id.count()", "[4]"),
    ("$.missing.count()", "[0]"),
    ("$.users.count()", "[1]"),
    ("value($.a)", "[7]"),
    ("value($..id)", "[]"),
    ("value(1)", "[]"),
    (r#"match($.t,"h.*o")"#, "[true]"),
    (r#"$.t.search("ell")"#, "[true]"),
    ("true", "(error) ERR Path does not exist"),
    (".a + 1", "[8]"),
    ("a + 1", "[8]"),
    ("a.length()", "[]"),
    ("$length", "(error) ERR Path does not exist"),
    ("$.t.length", "[]"),
    ("$.nums.nothing()", "[]"),
    ("$.nums.length(1)", "[]"),
    ("$[99999999999999999999]", "[]"),
    ("$.nums[-99999999999999999999]", "[4]"),
    ("$.nums[0:99999999999999999999]", "[4,1.5,3]"),
    ("$.nums[::99999999999999999999]", "[4]"),
    ("$.in", "[]"),
    ("$in", "(error) ERR Path does not exist"),
];

/// Texts that are no paths.
const REFUSED: &[&str] = &[
    "($.nums).sum()",
    r#""x""#,
    "$.a~b",
    "$[?(@.id in [1]]",
    "$[?(in)]",
    "$.a +",
    "$.a + +",
    "$.f(",
    "$.users[?(@.tags == [1,])]",
    "@.a",
];

fn bench() -> Bench {
    let mut bench = Bench::new();
    assert_eq!(bench.run_args(&[b"JSON.SET", b"k", b"$", DOCUMENT.as_bytes()]), "OK");
    bench
}

#[test]
fn filters_and_computed_paths() {
    let mut bench = bench();
    for (path, found) in FILTERS.iter().chain(COMPUTED) {
        assert_eq!(&bench.run_args(&[b"JSON.GET", b"k", path.as_bytes()]), found, "{path}");
    }
    for path in REFUSED {
        let reply = bench.run_args(&[b"JSON.GET", b"k", path.as_bytes()]);
        assert!(reply.starts_with("(error) Error occurred at position "), "{path}: {reply}");
    }
}

/// Commands that return values take computed paths, and others do not.
#[test]
fn commands_with_computed_paths() {
    const ONLY_READ: &str =
        "(error) ERR computed/projection expressions are only supported by JSON.GET/JSON.MGET/JSON.RESP";
    let mut bench = bench();
    let run = |bench: &mut Bench, words: &[&str]| {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        bench.run_args(&words)
    };
    for (words, reply) in [
        (&["JSON.GET", "k", "$.a", "$.a + 1"][..], "{\"$.a\":[7],\"$.a + 1\":[8]}"),
        (&["JSON.GET", "k", ".a", "a + 1"], "{\".a\":7,\"a + 1\":[8]}"),
        (&["JSON.GET", "k", ".a", "missing + 1"], "{\".a\":7,\"missing + 1\":[]}"),
        (
            &["JSON.GET", "k", "SPACE", "_", "INDENT", "|", "$.nums.append($.obj)"],
            "[|4,|1.5,|3,|{||\"x\":_1,||\"y\":_[|||2||]|}]",
        ),
        (&["JSON.GET", "none", "$.a + 1"], "nil"),
        (&["JSON.MGET", "k", "none", "$.a + 1"], "[[8] nil]"),
        (&["JSON.RESP", "k", "$.nums.append($.obj)"], "[4 1.5 3 [{ x 1 y [[ 2]]]"),
        (&["JSON.RESP", "k", "a + 1"], "[8]"),
        (&["JSON.TYPE", "k", "$.a + 1"], ONLY_READ),
        (&["JSON.SET", "k", "$.a + 1", "1"], ONLY_READ),
        (&["JSON.DEL", "k", "$.obj~"], ONLY_READ),
        (&["JSON.NUMINCRBY", "k", "-$.a", "1"], ONLY_READ),
        (&["JSON.ARRLEN", "k", "length($.a)"], ONLY_READ),
        (&["JSON.MSET", "k", "(1)", "1"], ONLY_READ),
        (&["JSON.SET", "k", "($.a)", "8"], "OK"),
        (&["JSON.GET", "k", "$.a"], "[8]"),
    ] {
        assert_eq!(run(&mut bench, words), reply, "{words:?}");
    }
    bench.version = Version::Resp3;
    assert_eq!(run(&mut bench, &["JSON.GET", "k", "FORMAT", "EXPAND", "$.a / 2", "a + 1"]), "[[4] [9]]");
}

/// A path may select one array many times.
#[test]
fn what_is_searched_is_bounded() {
    let mut bench = Bench::new();
    // About 1 MiB.
    let array = format!("[{}]", vec!["123456789"; 100_000].join(","));
    let document = format!("{{\"a\":{array}}}");
    assert_eq!(bench.run_args(&[b"JSON.SET", b"k", b"$", document.as_bytes()]), "OK");
    for (times, reply) in [(3, "[-1 -1 -1]"), (200, REFUSED_WORK)] {
        let path = format!("$[{}]", vec!["\"a\""; times].join(","));
        assert_eq!(bench.run_args(&[b"JSON.ARRINDEX", b"k", path.as_bytes(), b"1", b"0", b"1"]), reply, "{times}");
    }
}

/// Paths from clients are of any form, and cost no more than they say.
#[test]
fn computed_paths_are_bounded() {
    let mut bench = bench();
    for (open, close) in
        [("(", ")"), ("!(", ")"), ("[", "]"), ("{\"a\":", "}"), ("length(", ")"), ("-(", ")"), ("", ".abs()")]
    {
        for path in [
            format!("$.users[?({}1{})]", open.repeat(5000), close.repeat(5000)),
            format!("({}$.a{})", open.repeat(60_000), close.repeat(60_000)),
        ] {
            let reply = bench.run_args(&[b"JSON.GET", b"k", path.as_bytes()]);
            assert!(reply.starts_with("(error) Error occurred at position "), "{open}");
        }
    }
    let sum = "$.a".to_owned() + &" + 1".repeat(50_000);
    assert_eq!(bench.run_args(&[b"JSON.GET", b"k", sum.as_bytes()]), "[50007]");
    let letters = vec![b'x'; 1 << 20];
    assert_eq!(bench.run_args(&[b"JSON.SET", b"s", b"$", &[b"\"", &letters[..], b"\""].concat()]), "OK");
    let joined = format!("concat({})", vec!["$"; 40].join(","));
    let refused = "(error) ERR the path looks at too many values";
    assert_eq!(bench.run_args(&[b"JSON.GET", b"s", joined.as_bytes()]), refused);
    let doubled = "$".to_owned() + &".append($)".repeat(40);
    assert_eq!(bench.run_args(&[b"JSON.GET", b"s", doubled.as_bytes()]), refused);
    let cost = |bench: &mut Bench, path: &str| bench.cost(&format!("JSON.GET s {path}")).unwrap();
    let once = cost(&mut bench, "$.a");
    assert!(cost(&mut bench, "$[?@.a.in.@.b]") < 3 * once);
    assert!(cost(&mut bench, "$[?@.a.subsetof.@.b]") > 1000 * once);
    assert!(cost(&mut bench, "concat($,$,$,$)") >= 4 * once);
}

const REFUSED_WORK: &str = "(error) ERR the path looks at too many values";

/// A document of so many strings and as many numbers.
fn bench_of_pairs(count: usize) -> Bench {
    let mut bench = Bench::new();
    let document = format!("{{\"a\":[{}],\"b\":[{}]}}", vec!["\"ab\""; count].join(","), vec!["99"; count].join(","));
    assert_eq!(bench.run_args(&[b"JSON.SET", b"k", b"$", document.as_bytes()]), "OK");
    bench
}

/// Each length is compared with each one that is asked for, and the characters of a string are counted each time.
#[test]
fn lengths_are_work() {
    let mut bench = bench_of_pairs(20_000);
    for path in ["$[?$.a[*]size$.b[*]]", "$[?$.a[*]empty$.b[*]]"] {
        assert_eq!(bench.run_args(&[b"JSON.GET", b"k", path.as_bytes()]), REFUSED_WORK, "{path}");
    }
    let text = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(bench.run_args(&[b"JSON.SET", b"k", b"$.s", text.as_bytes()]), "OK");
    assert_eq!(bench.run_args(&[b"JSON.GET", b"k", b"$.b[?$.s size 5]"]), REFUSED_WORK);
}

/// A request has many paths, and what it holds of them is bounded.
#[test]
fn paths_of_one_request_are_bounded() {
    let mut bench = bench_of_pairs(500_000);
    let run = |bench: &mut Bench, paths: &[String]| {
        let mut words = vec![&b"JSON.GET"[..], b"k"];
        words.extend(paths.iter().map(String::as_bytes));
        bench.run_args(&words)
    };
    let computed: Vec<String> = (0..60).map(|more| format!("$.b.append({more})")).collect();
    assert_eq!(run(&mut bench, &computed), REFUSED_WORK);
    let places: Vec<String> = (0..60).map(|spaces| format!("$.b[{}*]", " ".repeat(spaces))).collect();
    assert_eq!(run(&mut bench, &places), REFUSED_WORK);
    let patterns: Vec<String> = (0..60).map(|number| format!("$[?@=~'{number}']")).collect();
    assert_eq!(run(&mut bench, &patterns), "(error) ERR too many patterns in a path");
    let conditions = format!("$[?{}]", vec!["@=~'x'"; 60].join("||"));
    assert_eq!(run(&mut bench, &[conditions]), "(error) ERR too many patterns in a path");
    assert_eq!(run(&mut bench, &patterns[..10]).matches("[]").count(), 10);
}

/// The names of an object are short beside the rest of it.
#[test]
fn names_of_a_large_object() {
    let mut bench = Bench::new();
    let document = format!("{{\"a\":\"{}\",\"b\":1}}", "x".repeat(17 << 20));
    assert_eq!(bench.run_args(&[b"JSON.SET", b"k", b"$", document.as_bytes()]), "OK");
    assert_eq!(bench.run_args(&[b"JSON.GET", b"k", b"$~"]), "[\"a\",\"b\"]");
}

/// A pattern whose states on a text are too many to remember takes a step for each of them.
#[test]
fn patterns_with_many_states() {
    let mut bench = Bench::new();
    let mut number = 1u64;
    let digits: String = std::iter::repeat_with(|| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if number >> 63 == 0 { '0' } else { '1' }
    })
    .take(1 << 20)
    .collect();
    let document = format!("[\"{digits}\",\"1{}\",\"ein Bär\"]", "0".repeat(900));
    assert_eq!(bench.run_args(&[b"JSON.SET", b"k", b"$", document.as_bytes()]), "OK");
    for (path, found) in [
        ("$[?@=~'[01]*1[01]{900}x']", REFUSED_WORK),
        ("$[1:][?@=~'[01]*1[01]{900}x']", "[]"),
        ("$[?match(@,'.*B\\\\w+')]", "[\"ein Bär\"]"),
        ("$[?search(@,'\\\\bBär\\\\b')]", "[\"ein Bär\"]"),
        ("$[?match(@,'Bär')]", "[]"),
        ("$[?search(@,'^$')]", "[]"),
    ] {
        assert_eq!(bench.run_args(&[b"JSON.GET", b"k", path.as_bytes()]), found, "{path}");
    }
}

/// The work of a filter on each value, and the text of a path itself, are part of its cost.
#[test]
fn costs_of_conditions() {
    let mut bench = bench_of_pairs(10_000);
    let mut cost = |path: &str| bench.cost(&format!("JSON.GET k {path}")).unwrap();
    let (once, all) = (cost("$.a[?@==1]"), cost("$.a[*]"));
    for (path, least) in [
        (format!("$.a[?{}]", vec!["@==1"; 1000].join("&&")), 500 * once),
        (format!("$.a[?{}]", vec!["1==1"; 1000].join("&&")), 40 * once),
        (format!("({})", vec!["sum(@.b)"; 1000].join("+")), 500 * all),
        (format!("(1{})", "+1".repeat(100_000)), 20_000),
    ] {
        assert!(cost(&path) >= least, "{}", &path[..20]);
    }
    // Filters and scans in each other cost more than can be counted, and not nothing.
    assert_eq!(cost(&"$..a[?$..b]".repeat(20)), usize::MAX);
}

/// A filter in a filter may be asked for each byte of a document, however short that is.
#[test]
fn costs_of_filters_in_filters() {
    let mut bench = Bench::new();
    let document = format!("[{}]", ["1"; 40].join(","));
    assert_eq!(bench.run_args(&[b"JSON.SET", b"k", b"$", document.as_bytes()]), "OK");
    let mut cost = |path: &str| bench.cost(&format!("JSON.GET k {path}")).unwrap();
    for (path, least) in [
        ("$[?$[?1==2]]", 40),
        ("$[?$[?$[?$[?1==2]]]]", 40 * 40 * 40),
        ("$[?$[*]==$[*]]", 40 * 40),
        ("$[?$..*==$..*]", 40 * 40),
    ] {
        assert!(cost(path) >= least, "{path}");
    }
}

/// The deepest path over the deepest document.
#[test]
fn deep_paths_over_deep_documents() {
    let mut bench = Bench::new();
    let document = format!("{}{}", "[".repeat(127), "]".repeat(127));
    assert_eq!(bench.run_args(&[b"JSON.SET", b"k", b"$", document.as_bytes()]), "OK");
    let nested = |filters: usize, step: &str| {
        (0..filters).fold("$".to_owned(), |path, _| format!("${}[?((((({path})))))]", step.repeat(125)))
    };
    for (path, found) in
        [(nested(2, "[0]"), "[array]"), (nested(8, "[0]"), REFUSED_WORK), (nested(8, "..[0]"), REFUSED_WORK)]
    {
        assert_eq!(bench.run_args(&[b"JSON.TYPE", b"k", path.as_bytes()]), found);
    }
}
