use crate::commands::testing::Bench;

/// Attributes of elements that are named by the digits 0 to c. The last element, d, has none.
const ATTRIBUTES: &[&str] = &[
    "{\"year\":1980,\"name\":\"The Matrix\",\"rating\":4.5,\"tags\":[\"a\",\"b\",3],\"ok\":true,\"none\":null}",
    "{ \"year\" : 1990 , \"name\":\"say \\\"hi\\\"\\n\", \"rating\": \"4\", \"tags\":[], \"ok\": false, \"nested\":{\"year\":1,\"x\":[1,{\"y\":\"}\"}]}, \"neg\":-1.5e1 }",
    "{\"year\":\"abc\",\"name\":\"\",\"a-b_c\":1,\"deep\":[[1],[2]],\"u\":\"\\u0041\"}",
    "{\"year\":2000,\"bad\":tru,\"after\":1}",
    "{\"year\":2010,\"x\":[1,2,\"y\"],\"t\":trueish,\"name\":\"x\"",
    "not json",
    "{}",
    "[1,2]",
    "{\"year\":1e3,\"plus\":+5,\"dot\":1.,\"exp\":1e,\"e2\":1E2}",
    "{\"Year\":1,\"year \":2,\"year\\\"\":3,\"dup\":1,\"dup\":2}",
    "   \t{\"year\":5}   trailing",
    "{\"year\":5 \"x\":1}",
    "{\"s\":\"10\",\"t\":\" 10\",\"h\":\"0x10\",\"z\":\"\",\"inf\":\"inf\",\"n\":10}",
];

/// Filters with the elements that pass in Redis 8.10.2, or where it finds an error. The elements with attributes together
/// are `all`.
const FILTERS: &[(&str, &str)] = &[
    (".year > 1985", "1 3 4"),
    (".year >= 1980 and .year < 2000", "0 1"),
    (".year == 1980", "0"),
    (".year != 1980", "1 2 3 4 8 a b"),
    (".name == \"The Matrix\"", "0"),
    (".name == 'x'", ""),
    (".name", "0 1"),
    (".rating > 4", "0"),
    (".rating == 4", "1"),
    (".rating + 1 == 5", "1"),
    ("\"a\" in .tags", "0"),
    ("3 in .tags", "0"),
    ("\"3\" in .tags", "0"),
    (".year in [1980, 2000, \"abc\"]", "0 2 3"),
    ("\"Mat\" in .name", "0"),
    (".name in \"The Matrix Reloaded\"", "0 2"),
    (".ok", "0"),
    ("not .ok", "1"),
    ("!.ok", "1"),
    (".none == null", "0"),
    (".none", ""),
    ("null == null", "all"),
    ("null", ""),
    (".missing", ""),
    (".missing == null", ""),
    (".missing or 1", ""),
    ("1 or .missing", ""),
    (".year == 1980 or .year == 1990", "0 1"),
    (".year * 2 == 3960", "0"),
    (".year / 10 == 198", "0"),
    (".year % 100 == 80", "0"),
    ("2 ** 3 ** 2 == 512", "all"),
    ("-5 < .neg", ""),
    (".neg < -14", "1"),
    (".year - 1 == 1979", "0"),
    (".year -1 == 1979", "0"),
    (".year-1 == 1979", ""),
    ("(.year - 80) == 1900", "0"),
    (".a-b_c == 1", "2"),
    (".deep", "2"),
    ("[1] in .deep", "2"),
    (".deep == 0", "2"),
    (".u == \"u0041\"", "2"),
    (".bad", ""),
    (".after", ""),
    (".t", "c"),
    (".x", "4"),
    ("2 in .x", "4"),
    ("\"y\" in .x", "4"),
    ("1", "all"),
    ("0", ""),
    ("\"\"", ""),
    ("\"x\"", "all"),
    ("[]", "all"),
    ("[1]", "all"),
    (".", ""),
    (". == 1", "near: . == 1"),
    (".year", "0 1 2 3 4 8 a b"),
    (".year and .name", "0 1"),
    (".year && .name || .ok", "0 1"),
    (".year ==", "near: .year =="),
    ("== .year", "near: == .year"),
    (".year = 1980", "near:  1980"),
    (".year === 1980", "near:  1980"),
    ("()", "near: ()"),
    ("(", "near: ("),
    ("(.year", "near: (.year"),
    (".year)", "near: .year)"),
    ("(1))", "near: (1))"),
    ("1 2", "near: 1 2"),
    ("1 2 +", "all"),
    ("!!1", "near: !!1"),
    ("not not 1", "near: not not 1"),
    ("- 5", "near: - 5"),
    ("-5", "all"),
    ("--5", "near: --5"),
    ("5 - -5 == 10", "all"),
    ("1e3", "all"),
    ("1e", "near: 1e"),
    ("1.2.3", "near: 1.2.3"),
    (".5", ""),
    ("5. == 5", "all"),
    ("1e-2", "near: -2"),
    ("\"unterminated", "near: \"unterminated"),
    ("'a", "near: 'a"),
    ("'it\\'s'", "all"),
    ("[1,]", "all"),
    ("[,1]", "near: ,1]"),
    ("[1 2]", "near: 2]"),
    ("[1,\"a\"", "near: [1,\"a\""),
    ("[.x]", "near: .x]"),
    ("@", "near: @"),
    (".year @ 1", "near: @ 1"),
    ("foo", "near: foo"),
    (".year > foo", "near: .year > foo"),
    ("true", "near: true"),
    ("false", "near: false"),
    (".year > 1 andx", "near: .year > 1 andx"),
    (".year>1980and.year<2000", "1"),
    ("not.ok", "1"),
    ("notx", "near: notx"),
    ("null)", "near: null)"),
    ("(null)", "near: (null)"),
    ("(.none == null)", "near: (.none == null)"),
    ("(.none == null )", "0"),
    (".none==null", "0"),
    ("in", "near: in"),
    ("1 in 1", ""),
    ("1 in \"1\"", ""),
    ("\"1\" in 1", ""),
    (".s == 10", "c"),
    (".t == 10", "c"),
    (".h == 16", "c"),
    (".z == 0", "c"),
    (".inf > 1000000", "c"),
    (".n == \"10\"", "c"),
    (".s == \"10\"", "c"),
    (".s == .n", "c"),
    (".s < .n + 1", "c"),
    ("10 == \"10.0\"", "all"),
    ("\"a\" > 5", ""),
    ("\"abc\" == 0", "all"),
    ("[1] == 0", "all"),
    (".dup", "9"),
    (".dup == 1", "9"),
    (".dup == 2", ""),
    (".Year == 1", "9"),
    (".plus == 5", "8"),
    (".dot", "8"),
    (".exp", ""),
    (".e2 == 100", "8"),
    (".year == 1000", "8"),
    (".year <= 5", "2 a b"),
    ("1 & 1", "near:  1"),
    ("1 | 1", "near:  1"),
    ("1 && 1", "all"),
    ("1||0", "all"),
    ("1 == 1 == 1", "all"),
    ("2 + 3 * 4 == 14", "all"),
    ("(2 + 3) * 4 == 20", "all"),
    ("10 % 4 ** 2 == 10", "all"),
    ("not 1 == 2", ""),
    ("!(1 == 2)", "all"),
    ("5 / 0 > 100", "all"),
    ("0 / 0", "all"),
    ("0 % 0 == 0 % 0", ""),
    ("  ", "near:   "),
    ("\t1\n", "all"),
    (" .year > 1 ) ", "near:  .year > 1 ) "),
    (".nested", ""),
    (".nested.year", "near: .nested.year"),
    (".tags", "0 1"),
    (".tags == []", "0 1"),
    ("\"say\" in .name", "1"),
    (".name == \"say \\\"hi\\\"\\n\"", ""),
    (".x in [1]", ""),
    ("[1,2] in [1,2]", ""),
    ("0 in [[]]", "near: []]"),
    ("\"a'b\" == 'a'", ""),
    (".year >\x001", "near: .year >"),
    (".nested == 1 or 1", ""),
    ("or", "near: or"),
    ("1 or", "near: 1 or"),
    ("or 1", "near: or 1"),
    ("1 + ", "near: 1 + "),
    ("* 2", "near: * 2"),
    ("1 + + 2", "near: 1 + + 2"),
    ("1 + * 2", "near: 1 + * 2"),
    ("1 < 2 < 3", "all"),
    ("3 > 2 > 1", ""),
    (".year == \"1980\"", "0"),
    ("\"1980\" == .year", "0"),
    (".n", "c"),
    ("-.n == -10", "near: -.n == -10"),
    ("0 - .n == -10", "c"),
    ("5-3 == 2", "all"),
    ("5 -3 == 2", "all"),
    (".n -3 == 7", "c"),
    ("(.n) -3 == 7", "c"),
    (".n- 3 == 7", "near: .n- 3 == 7"),
    ("\"a\" in [\"a\"] and \"b\" in [\"b\"]", "all"),
    ("!0 and !0", "all"),
    ("! 0", "all"),
    (".n in [10]", "c"),
    (".n in [\"10\"]", "c"),
    ("\"0x10\" == 16", "all"),
    ("\"1e1\" == 10", "all"),
    ("\"1e400\" > 5", "all"),
    ("\"nan\" == 0", ""),
    ("\"nan\" == \"nan\"", "all"),
    ("\"\" == 0", "all"),
    ("\"\" == null", ""),
    ("null == 0", ""),
    ("0 == null", ""),
    ("null != 0", "all"),
];

#[test]
fn filters_pass_what_passes_in_redis() {
    let mut bench = Bench::new();
    for (at, attributes) in ATTRIBUTES.iter().enumerate() {
        let (x, name) = ((at + 1).to_string(), format!("{at:x}"));
        let words = ["VADD", "v", "VALUES", "2", "1", &x, &name, "SETATTR", attributes].map(str::as_bytes);
        assert_eq!(bench.run_args(&words), "1");
    }
    assert_eq!(bench.run("VADD v VALUES 2 1 99 d"), "1");
    let all = "[0 1 2 3 4 5 6 7 8 9 a b c]";
    for (filter, expected) in FILTERS {
        for is_exact in [false, true] {
            let mut words: Vec<&[u8]> = vec![b"VSIM", b"v", b"VALUES", b"2", b"1", b"1", b"COUNT", b"100", b"FILTER"];
            words.push(filter.as_bytes());
            words.extend(is_exact.then_some(&b"TRUTH"[..]));
            let reply = bench.run_args(&words);
            let expected = match expected.strip_prefix("near: ") {
                Some(near) => {
                    let near = near.replace(['\r', '\n'], " ");
                    assert_eq!(reply, format!("(error) ERR syntax error in FILTER expression near: {near}"));
                    continue;
                }
                None if *expected == "all" => all.to_owned(),
                None => format!("[{expected}]"),
            };
            let mut passed: Vec<&str> = reply.trim_matches(['[', ']']).split(' ').collect();
            passed.sort_unstable();
            assert_eq!(format!("[{}]", passed.join(" ")), expected, "{filter}");
        }
    }
}

#[test]
fn lengths_are_bounded() {
    let mut bench = Bench::new();
    bench.run("VADD v VALUES 1 1 a SETATTR {}");
    let digits = "9".repeat(300);
    let reply = bench.run(&format!("VSIM v ELE a FILTER {digits}"));
    assert_eq!(reply, format!("(error) ERR syntax error in FILTER expression near: {}", &digits[255..]));
    assert_eq!(bench.run(&format!("VSIM v ELE a FILTER {}1{}", "(".repeat(9000), ")".repeat(9000))), "[a]");
    let long = format!("VSIM v ELE a FILTER {}1", "1+".repeat(40_000));
    assert_eq!(bench.run(&long), "(error) ERR the FILTER expression is longer than 64 KiB");
    // Arrays in arrays are read, and do not fill the stack.
    bench.run(&format!("VSETATTR v a {{\"x\":{}1{}}}", "[".repeat(50), "]".repeat(50)));
    assert_eq!(bench.run("VSIM v ELE a FILTER .x"), "[a]");
    bench.run(&format!("VSETATTR v a {{\"x\":{}", "[".repeat(1_000_000)));
    assert_eq!(bench.run("VSIM v ELE a FILTER .x"), "[]");
    assert_eq!(bench.run("VSIM v ELE a FILTER .y"), "[]");
}
