//! Replies to commands over documents, and selections against a naive walk over a tree of values.

use std::sync::Arc;

use dormouse_types::record::Entry;
use fastrand::Rng;
use parking_lot::Mutex;
use serde_json::{Value as Tree, json};

use crate::commands::testing::{Bench, check, check_effects, check_resp3};
use crate::keyspace::changes::KeyEvent;
use crate::keyspace::place::Place;

const WRONGTYPE: &str = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
const NO_KEY: &str = "(error) ERR could not perform this operation on a key that doesn't exist";
const NO_PATH: &str = "(error) ERR Path does not exist";
const NEW_AT_ROOT: &str = "(error) ERR new objects must be created at the root";
const SYNTAX: &str = "(error) ERR syntax error";

/// A line of words between single spaces, none of which has a space of its own: JSON needs no other quotes then.
fn run(bench: &mut Bench, line: &str) -> String {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    bench.run_args(&words)
}

fn table(lines: &[(&str, &str)]) {
    table_of(&mut Bench::new(), lines);
}

fn table_resp3(lines: &[(&str, &str)]) {
    let mut bench = Bench::new();
    bench.version = dormouse_protocol::Version::Resp3;
    table_of(&mut bench, lines);
}

fn table_of(bench: &mut Bench, lines: &[(&str, &str)]) {
    for (at, (line, expected)) in lines.iter().enumerate() {
        assert_eq!(&run(bench, line), expected, "reply to line {at}: {line}");
    }
}

#[test]
fn set_and_get() {
    table(&[
        ("JSON.GET k", "nil"),
        ("JSON.SET k $ {\"a\":1,\"b\":[1,2.0,\"x\"]}", "OK"),
        ("TYPE k", "ReJSON-RL"),
        ("OBJECT ENCODING k", "raw"),
        ("JSON.GET k", "{\"a\":1,\"b\":[1,2.0,\"x\"]}"),
        ("JSON.GET k .", "{\"a\":1,\"b\":[1,2.0,\"x\"]}"),
        ("JSON.GET k $", "[{\"a\":1,\"b\":[1,2.0,\"x\"]}]"),
        ("JSON.GET k $.a", "[1]"),
        ("JSON.GET k .a", "1"),
        ("JSON.GET k a", "1"),
        ("JSON.GET k b[1]", "2.0"),
        ("JSON.GET k [\"b\"][2]", "\"x\""),
        ("JSON.GET k $.none", "[]"),
        ("JSON.GET k .none", NO_PATH),
        ("JSON.GET k $.a $.b[0]", "{\"$.a\":[1],\"$.b[0]\":[1]}"),
        ("JSON.GET k .a .b[0] .a", "{\".a\":1,\".b[0]\":1}"),
        ("JSON.GET k .a $.b", "{\".a\":[1],\"$.b\":[[1,2.0,\"x\"]]}"),
        ("JSON.GET k .a .none", NO_PATH),
        ("JSON.GET k $.none .none", "{\"$.none\":[],\".none\":[]}"),
        ("JSON.GET k NOESCAPE .a", "1"),
        ("JSON.GET k FORMAT STRING .a", "(error) ERR FORMAT argument is not supported on RESP2"),
        ("JSON.GET k .a FORMAT EXPAND", "1"),
        ("JSON.GET k .a FORMAT STRINGS", "(error) ERR wrong reply format"),
        ("JSON.GET k INDENT", "(error) ERR wrong number of arguments for 'json.get' command"),
        ("JSON.SET k $.a 5", "OK"),
        ("JSON.SET k .b[0] {\"n\":null}", "OK"),
        ("JSON.SET k $.new true", "OK"),
        ("JSON.GET k", "{\"a\":5,\"b\":[{\"n\":null},2.0,\"x\"],\"new\":true}"),
        ("JSON.SET k $.b[3] 1", "(error) ERR array index out of range"),
        ("JSON.SET k $.b[0:9] 0", "OK"),
        ("JSON.SET k $.x.y 1", "nil"),
        ("JSON.SET k $.a.y 1", "nil"),
        ("JSON.SET k $.none[*] 1", "(error) Err wrong static path"),
        ("JSON.SET k $..none 1", "(error) Err wrong static path"),
        ("JSON.GET k", "{\"a\":5,\"b\":[0,0,0],\"new\":true}"),
        ("JSON.SET k $.a 1 NX", "nil"),
        ("JSON.SET k $.c 1 NX", "OK"),
        ("JSON.SET k $.c 2 XX", "OK"),
        ("JSON.SET k $.d 2 XX", "nil"),
        ("JSON.SET k $.b[0] 2 NX", "nil"),
        ("JSON.SET k $.b[9] 2 NX", "(error) ERR array index out of range"),
        ("JSON.SET k $ 1 NX", "nil"),
        ("JSON.SET none $ 1 XX", "nil"),
        ("JSON.SET none $.a 1 XX", "nil"),
        ("JSON.SET none $.a 1", NEW_AT_ROOT),
        ("JSON.SET none .a 1 NX", NEW_AT_ROOT),
        ("EXISTS none", "0"),
        ("JSON.SET k $ 1 NX XX", SYNTAX),
        ("JSON.SET k $ 1 NX NX", SYNTAX),
        ("JSON.SET k $ 1 NO", SYNTAX),
        ("JSON.SET k $ 1 FORMAT JSON", "OK"),
        ("JSON.SET k $ 1 FORMAT BSON", "(error) ERR wrong format"),
        ("JSON.SET k $ 1 FORMAT", "(error) ERR wrong number of arguments for 'json.set' command"),
        ("JSON.SET k $ [1,", "(error) EOF while parsing a value at line 1 column 3"),
        ("JSON.SET none $ nope", "(error) expected ident at line 1 column 2"),
        ("EXISTS none", "0"),
        ("JSON.GET k", "1"),
        ("SET s text", "OK"),
        ("JSON.GET s", WRONGTYPE),
        ("JSON.SET s $ 1", WRONGTYPE),
        ("JSON.SET s $ nope", WRONGTYPE),
        ("JSON.SET s $.a 1", WRONGTYPE),
        ("GET k", WRONGTYPE),
        ("LPUSH k a", WRONGTYPE),
        ("SET k text", "OK"),
        ("TYPE k", "string"),
    ]);
}

#[test]
fn a_document_keeps_its_expiry() {
    table(&[
        ("JSON.SET k $ {\"a\":1}", "OK"),
        ("PEXPIRE k 1000", "1"),
        ("JSON.SET k $ {\"a\":2}", "OK"),
        ("JSON.SET k $.a 3", "OK"),
        ("JSON.MERGE k $ {\"b\":1}", "OK"),
        ("PTTL k", "1000"),
        ("COPY k l", "1"),
        ("RENAME l m", "OK"),
        ("PTTL m", "1000"),
        ("JSON.GET m", "{\"a\":3,\"b\":1}"),
        ("JSON.DEL k", "1"),
        ("JSON.SET k $ 1", "OK"),
        ("PTTL k", "-1"),
    ]);
}

#[test]
fn white_space_is_chosen() {
    check(&[
        ("JSON.SET k $ \"{\\\"a\\\":[1,{}],\\\"b\\\":[]}\"", "OK"),
        ("JSON.GET k INDENT _ NEWLINE | SPACE =", "{|_\"a\":=[|__1,|__{}|_],|_\"b\":=[]|}"),
        ("JSON.GET k newline | indent _ $.a $.none", "{|_\"$.a\":[|__[|___1,|___{}|__]|_],|_\"$.none\":[]|}"),
        ("JSON.GET k SPACE = $.a", "[[1,{}]]"),
        ("JSON.GET k INDENT _ .a", "[_1,_{}]"),
    ]);
}

#[test]
fn paths() {
    let document = r#"{"a":1,"nested":{"a":[1,2,3,{"a":"x"}],"b-c":null},"list":[{"n":1,"s":"one"},{"n":2.5,"s":"Two"},{"n":3,"t":[1]},7],"$d":4,"é x":5}"#;
    let set = format!("JSON.SET k $ {}", document.replace("é x", "é_x"));
    let mut bench = Bench::new();
    assert_eq!(run(&mut bench, &set), "OK");
    for (path, found) in [
        ("$..a", r#"[1,[1,2,3,{"a":"x"}],"x"]"#),
        ("$.nested.*", r#"[[1,2,3,{"a":"x"}],null]"#),
        ("$.nested.a[*]", r#"[1,2,3,{"a":"x"}]"#),
        ("$.nested.a[0,2]", "[1,3]"),
        ("$.nested.a[0,0]", "[1,1]"),
        ("$.nested.a[-1]", r#"[{"a":"x"}]"#),
        ("$.nested.a[-99]", "[1]"),
        ("$.nested.a[4]", "[]"),
        ("$.nested.a[1:3]", "[2,3]"),
        ("$.nested.a[:2]", "[1,2]"),
        ("$.nested.a[-2:]", r#"[3,{"a":"x"}]"#),
        ("$.nested.a[::2]", "[1,3]"),
        ("$.nested.a[1::2]", r#"[2,{"a":"x"}]"#),
        ("$.nested.a[:]", r#"[1,2,3,{"a":"x"}]"#),
        ("$.nested.a[3:1]", "[]"),
        ("$.nested.b-c", "[null]"),
        ("$['nested'][\"b-c\"]", "[null]"),
        ("$.['a','$d']", "[1,4]"),
        ("$[\"é_x\"]", "[5]"),
        ("$.nested['a'][3]['a']", "[\"x\"]"),
        ("$.*.*", r#"[[1,2,3,{"a":"x"}],null,{"n":1,"s":"one"},{"n":2.5,"s":"Two"},{"n":3,"t":[1]},7]"#),
        ("$.list[?(@.n>1)].n", "[2.5,3]"),
        ("$.list[?@.n>=2.5].n", "[2.5,3]"),
        ("$.list[?(@.n==1)].s", "[\"one\"]"),
        ("$.list[?(@.n==1.0)].s", "[\"one\"]"),
        ("$.list[?(@.n!=1)]", r#"[{"n":2.5,"s":"Two"},{"n":3,"t":[1]},7]"#),
        ("$.list[?(@.s)].n", "[1,2.5]"),
        ("$.list[?(@.s=='one'||@.n==3)].n", "[1,3]"),
        ("$.list[?(@.n>0&&(@.s=='Two'||@.t))].n", "[2.5,3]"),
        ("$.list[?(@.s=='x'||@.n>2&&@.n<3)].n", "[2.5]"),
        ("$.list[?(@.s=~'^[a-z]+$')].n", "[1]"),
        ("$.list[?(@.s=~'(?i)two')].n", "[2.5]"),
        ("$.list[?(@.s=~'[')].n", "[]"),
        ("$.list[?(@.n==$.a)].s", "[\"one\"]"),
        ("$.list[?(@==7)]", "[7]"),
        ("$.list[?(@.t[0]==1)].n", "[3]"),
        ("$.list[?(@..n>2)].n", "[2.5,3]"),
        ("$.list[?(@.*=='one')].n", "[1]"),
        ("$..[?(@.a)]", r#"[{"a":[1,2,3,{"a":"x"}],"b-c":null},{"a":"x"}]"#),
        ("$.nested[?(@==null)]", "[null]"),
        ("$..*.n", "[1,2.5,3]"),
        ("$..[0]", r#"[1,{"n":1,"s":"one"},1]"#),
        ("$..n", "[1,2.5,3]"),
        ("$.list[?(true)].n", "[1,2.5,3]"),
        ("$.a.b", "[]"),
        ("$.a[0]", "[]"),
        ("nested.a[3].a", "\"x\""),
        (".nested.a[?(@>1)]", "2"),
        ("$d", "4"),
        ("..a", "1"),
        (".list[-1]", "7"),
        ("list.0", NO_PATH),
        ("$.", "error"),
        ("$..", "error"),
        ("$[", "error"),
        ("$[0", "error"),
        ("$[01]", "error"),
        ("$[a]", "error"),
        ("$['a]", "error"),
        ("$.a[?]", "error"),
        ("$.a[?(@.b]", "error"),
        ("$.a[?(@.b==)]", "error"),
        ("$.a[::0]", "error"),
        ("$.a]", "error"),
        ("$.a!", "error"),
        ("$[?(@[?(@[?(@[?(@[?(@[?(@[?(@[?(@[?(@.a)])])])])])])])])]", "error"),
        ("$.é", "error"),
    ] {
        let reply = run(&mut bench, &format!("JSON.GET k {path}"));
        match found {
            "error" => assert!(reply.starts_with("(error) Error occurred at position "), "{path}: {reply}"),
            found => assert_eq!(reply, found, "{path}"),
        }
    }
    let spaced = bench.run_args(&[b"JSON.GET", b"k", b"$. list [ ? ( @ . n > 1 && @ . s ) ] [ 'n' , 's' ] "]);
    assert_eq!(spaced, "[2.5,\"Two\"]");
    for (words, reply) in [
        (&[&b"JSON.GET"[..], b"k", b"$.\xff"][..], "(error) Couldn't parse as UTF-8 string"),
        (&[b"JSON.SET", b"k", b"$.a", b"\"\xff\""], "(error) Couldn't parse as UTF-8 string"),
        (&[b"JSON.NUMINCRBY", b"k", b"$.a", b"\xff"], "(error) Couldn't parse as UTF-8 string"),
    ] {
        assert_eq!(bench.run_args(words), reply);
    }
    let position = bench.run_args(&[b"JSON.GET", b"k", b"$.a[x]"]);
    assert!(position.starts_with("(error) Error occurred at position 4, \"$.a[ ---->>>> x]\", expected"), "{position}");
    let escaped = [&b"JSON.SET"[..], b"e", b"$", br#"{"it's":1,"a\"b":2,"a\\b":3}"#];
    assert_eq!(bench.run_args(&escaped), "OK");
    for (path, found) in
        [(&br#"$["it's"]"#[..], "[1]"), (br"$['it\'s']", "[1]"), (br#"$["a\"b"]"#, "[2]"), (br"$['a\\b']", "[3]")]
    {
        assert_eq!(bench.run_args(&[b"JSON.GET", b"e", path]), found);
    }
}

#[test]
fn a_path_that_multiplies_its_work_is_refused() {
    let mut bench = Bench::new();
    let deep = "{\"a\":".repeat(120) + "1" + &"}".repeat(120);
    assert_eq!(run(&mut bench, &format!("JSON.SET k $ {deep}")), "OK");
    let path = "$".to_owned() + &"..a".repeat(40);
    assert_eq!(run(&mut bench, &format!("JSON.GET k {path}")), "(error) ERR the path looks at too many values");
    assert_eq!(run(&mut bench, &format!("JSON.DEL k {path}")), "(error) ERR the path looks at too many values");
    assert_eq!(run(&mut bench, "JSON.GET k $..a..a..b"), "[]");
    let cost = |bench: &mut Bench, path: &str| bench.cost(&format!("JSON.GET k {path}")).unwrap();
    assert!(cost(&mut bench, "$.a") < 100 && cost(&mut bench, &path) > 1 << 40);
}

#[test]
fn multiple_keys() {
    table(&[
        ("JSON.MSET a $ {\"x\":1} b $ [1,2] a2 . {\"x\":{\"y\":2}}", "OK"),
        ("JSON.MGET a b none a2 $.x", "[[1] [] nil [{\"y\":2}]]"),
        ("JSON.MGET a b none a2 .x", "[1 nil nil {\"y\":2}]"),
        ("SET s text", "OK"),
        ("JSON.MGET s a $.x", "[nil [1]]"),
        (
            "JSON.MGET a $[",
            "(error) Error occurred at position 2, \"$[ <<<<----\", expected a number, a string, '*', ':' or '?'.",
        ),
        ("JSON.MGET a", "(error) ERR wrong number of arguments for 'json.mget' command"),
        ("JSON.MSET a $.x 5 b $[0] 6", "OK"),
        ("JSON.MSET a $.x 7 none $.x 6", NEW_AT_ROOT),
        ("JSON.MSET a $.x 7 b $ nope", "(error) expected ident at line 1 column 2"),
        ("JSON.MSET a $.x 7 s $ 1", WRONGTYPE),
        ("JSON.MGET a b $", "[[{\"x\":5}] [[6,2]]]"),
        ("JSON.MSET a $.x 7 b $[9] 1", "(error) ERR array index out of range"),
        ("JSON.MSET a $.x 7 b $[*].none 1", "(error) Err wrong static path"),
        ("JSON.MGET a b $", "[[{\"x\":5}] [[6,2]]]"),
        ("JSON.MSET a $.x 8 b $.none.x 6", "nil"),
        ("JSON.GET a", "{\"x\":8}"),
        ("JSON.MSET a $.x 1 b $.x", "(error) ERR wrong number of arguments for 'json.mset' command"),
        ("JSON.MSET a $ {\"p\":{}} a $.p 1", "OK"),
        ("JSON.GET a", "{\"p\":1}"),
    ]);
}

#[test]
fn merge() {
    table(&[
        ("JSON.MERGE k $.a 1", NEW_AT_ROOT),
        ("JSON.MERGE k $ {\"a\":{\"b\":1,\"n\":null}}", "OK"),
        ("JSON.GET k", "{\"a\":{\"b\":1,\"n\":null}}"),
        ("JSON.MERGE k $ {\"a\":{\"c\":2,\"n\":null},\"d\":null}", "OK"),
        ("JSON.GET k", "{\"a\":{\"b\":1,\"c\":2}}"),
        ("JSON.MERGE k $.a {\"b\":null}", "OK"),
        ("JSON.MERGE k $.new {\"x\":null}", "OK"),
        ("JSON.GET k", "{\"a\":{\"c\":2},\"new\":{\"x\":null}}"),
        ("JSON.MERGE k $.* {\"m\":[1]}", "OK"),
        ("JSON.GET k", "{\"a\":{\"c\":2,\"m\":[1]},\"new\":{\"x\":null,\"m\":[1]}}"),
        ("JSON.MERGE k $.none.x 1", "nil"),
        ("JSON.MERGE k $ 5 FORMAT JSON", "OK"),
        ("JSON.GET k", "5"),
        ("JSON.MERGE k $ 5 NO", SYNTAX),
    ]);
}

#[test]
fn delete() {
    table(&[
        ("JSON.DEL k", "0"),
        ("JSON.DEL k $.a", "0"),
        ("JSON.SET k $ {\"a\":1,\"b\":{\"a\":2,\"c\":[1,2,3]},\"d\":[{\"a\":1}]}", "OK"),
        ("JSON.DEL k $.none", "0"),
        ("JSON.DEL k $..a", "3"),
        ("JSON.GET k", "{\"b\":{\"c\":[1,2,3]},\"d\":[{}]}"),
        ("JSON.DEL k $.b.c[0,2]", "2"),
        ("JSON.FORGET k .b.c[0]", "1"),
        ("JSON.GET k", "{\"b\":{\"c\":[]},\"d\":[{}]}"),
        ("JSON.DEL k $..*", "2"),
        ("EXISTS k", "0"),
        ("JSON.SET k $ [1]", "OK"),
        ("JSON.DEL k [0]", "1"),
        ("EXISTS k", "0"),
        ("JSON.SET k $ {\"a\":[1,2]}", "OK"),
        ("JSON.DEL k $.a[*]", "2"),
        ("JSON.GET k", "{\"a\":[]}"),
        ("JSON.FORGET k", "1"),
        ("EXISTS k", "0"),
        ("SET s x", "OK"),
        ("JSON.DEL s", WRONGTYPE),
    ]);
}

#[test]
fn numbers() {
    table(&[
        ("JSON.NUMINCRBY k $.a 1", NO_KEY),
        ("JSON.SET k $ {\"i\":1,\"f\":1.5,\"s\":\"x\",\"max\":9223372036854775807,\"u\":18446744073709551615}", "OK"),
        ("JSON.NUMINCRBY k $.i 2", "[3]"),
        ("JSON.NUMINCRBY k .i 2", "5"),
        ("JSON.NUMINCRBY k .i 0.5", "5.5"),
        ("JSON.NUMINCRBY k .i -0.5", "5.0"),
        ("JSON.NUMINCRBY k $.f 1", "[2.5]"),
        ("JSON.NUMINCRBY k $.* 0", "[5.0,2.5,null,9223372036854775807,1.8446744073709552e19]"),
        ("JSON.NUMINCRBY k $.s 1", "[null]"),
        ("JSON.NUMINCRBY k $.none 1", "[]"),
        ("JSON.NUMINCRBY k $.none nope", "[]"),
        ("JSON.NUMINCRBY k $.f nope", "(error) ERR expected ident at line 1 column 2"),
        ("JSON.NUMINCRBY k $.f \u{a0}", "(error) ERR expected value at line 1 column 1"),
        ("JSON.NUMINCRBY k $.f \"1\"", "(error) bad input number"),
        ("JSON.NUMINCRBY k .s 1", "(error) ERR Path does not exist or does not contains a number"),
        ("JSON.NUMINCRBY k $.max 1", "(error) ERR numeric overflow"),
        (
            "JSON.NUMINCRBY k $[i,max] 1",
            "(error) Error occurred at position 2, \"$[ ---->>>> i,max]\", expected a number, a string, '*', ':' or '?'.",
        ),
        ("JSON.SET k $ [1,2,[3],9223372036854775807]", "OK"),
        ("JSON.NUMINCRBY k $[*] 1", "(error) ERR numeric overflow"),
        ("JSON.GET k", "[1,2,[3],9223372036854775807]"),
        ("JSON.NUMMULTBY k $[0:3] 4", "[4,8,null]"),
        ("JSON.NUMMULTBY k $..[0] 2", "[8,6]"),
        ("JSON.NUMINCRBY k $[0,0] 1", "[9,10]"),
        ("JSON.NUMPOWBY k [1] 2", "64"),
        ("JSON.NUMPOWBY k [1] -1", "(error) ERR numeric overflow"),
        ("JSON.NUMPOWBY k [1] 0.5", "8.0"),
        ("JSON.NUMMULTBY k [1] 1e308", "(error) ERR result is not a number"),
        ("JSON.NUMMULTBY k .none 1", "(error) ERR Path does not exist or does not contains a number"),
        ("JSON.GET k", "[10,8.0,[6],9223372036854775807]"),
    ]);
}

#[test]
fn booleans_and_strings() {
    table(&[
        ("JSON.TOGGLE k $", NO_KEY),
        ("JSON.STRAPPEND k $ \"x\"", NO_KEY),
        ("JSON.SET k $ {\"t\":true,\"f\":false,\"s\":\"ab\",\"n\":{\"s\":\"é\",\"t\":false}}", "OK"),
        ("JSON.TOGGLE k $.t", "[0]"),
        ("JSON.TOGGLE k .t", "true"),
        ("JSON.TOGGLE k $..t", "[0 1]"),
        ("JSON.TOGGLE k $.*", "[1 1 nil nil]"),
        ("JSON.TOGGLE k .s", "(error) ERR Path does not exist or not a bool"),
        ("JSON.STRAPPEND k $.s \"cd\"", "[4]"),
        ("JSON.STRAPPEND k .s \"e\\n\"", "6"),
        ("JSON.STRAPPEND k $..s \"!\"", "[7 3]"),
        ("JSON.STRAPPEND k $.t \"x\"", "[nil]"),
        ("JSON.STRAPPEND k $.s 1", "(error) WRONGTYPE wrong type of path value - expected string"),
        ("JSON.STRAPPEND k $.s x", "(error) ERR expected value at line 1 column 1"),
        ("JSON.STRAPPEND k .t \"x\"", "(error) ERR Path does not exist or not a string"),
        ("JSON.STRLEN k $..s", "[7 3]"),
        ("JSON.STRLEN k .s", "7"),
        ("JSON.STRLEN k $.t", "[nil]"),
        ("JSON.STRLEN k .t", "(error) WRONGTYPE wrong type of path value - expected string"),
        ("JSON.STRLEN k .none", NO_PATH),
        ("JSON.STRLEN none", "nil"),
        ("JSON.STRLEN none $", NO_KEY),
        ("JSON.GET k", "{\"t\":true,\"f\":true,\"s\":\"abcde\\n!\",\"n\":{\"s\":\"é!\",\"t\":true}}"),
        ("JSON.SET s $ \"x\"", "OK"),
        ("JSON.STRAPPEND s \"yz\"", "3"),
        ("JSON.GET s", "\"xyz\""),
    ]);
}

#[test]
fn arrays() {
    const NO_ARRAY: &str = "(error) ERR Path does not exist or not an array";
    const NO_INTEGER: &str = "(error) Couldn't parse as integer";
    table(&[
        ("JSON.ARRAPPEND k $.a 1", NO_KEY),
        ("JSON.ARRAPPEND k $.a", "(error) ERR wrong number of arguments for 'json.arrappend' command"),
        ("JSON.SET k $ {\"a\":[1],\"b\":{\"a\":[]},\"c\":2}", "OK"),
        ("JSON.ARRAPPEND k $.a 2 \"x\" [3]", "[4]"),
        ("JSON.ARRAPPEND k .b.a null", "1"),
        ("JSON.ARRAPPEND k $..a 5", "[5 2]"),
        ("JSON.ARRAPPEND k $.c 5", "[nil]"),
        ("JSON.ARRAPPEND k .c 5", NO_ARRAY),
        ("JSON.ARRAPPEND k $.a {", "(error) EOF while parsing an object at line 1 column 1"),
        ("JSON.GET k", "{\"a\":[1,2,\"x\",[3],5],\"b\":{\"a\":[null,5]},\"c\":2}"),
        ("JSON.ARRLEN k $..a", "[5 2]"),
        ("JSON.ARRLEN k .a", "5"),
        ("JSON.ARRLEN k .c", NO_ARRAY),
        ("JSON.ARRLEN k .none", NO_PATH),
        ("JSON.ARRLEN k $.*", "[5 nil nil]"),
        ("JSON.ARRLEN none", "nil"),
        ("JSON.ARRLEN none $", NO_KEY),
        ("JSON.ARRINDEX k $..a 5", "[4 1]"),
        ("JSON.ARRINDEX k .a [3]", "3"),
        ("JSON.ARRINDEX k .a 5.0", "-1"),
        ("JSON.ARRINDEX k .a 5 -2", "4"),
        ("JSON.ARRINDEX k .a 5 0 -1", "-1"),
        ("JSON.ARRINDEX k .a 5 0 5", "4"),
        ("JSON.ARRINDEX k .a 1 1", "-1"),
        ("JSON.ARRINDEX k .a 5 99", "4"),
        ("JSON.ARRINDEX k .a 1 0 0 0", "(error) ERR wrong number of arguments for 'json.arrindex' command"),
        ("JSON.ARRINDEX k .a 1 x", NO_INTEGER),
        ("JSON.ARRINDEX k .a 1 -0", NO_INTEGER),
        ("JSON.ARRINDEX k .a nope", "(error) ERR expected ident at line 1 column 2"),
        ("JSON.ARRINDEX k $.c 2", "[nil]"),
        ("JSON.ARRINDEX k .c 2", "(error) WRONGTYPE wrong type of path value - expected array"),
        ("JSON.ARRINDEX k .none 2", NO_PATH),
        ("JSON.ARRINDEX none $ 2", NO_PATH),
        ("JSON.ARRINSERT k $.a 1 \"y\" \"z\"", "[7]"),
        ("JSON.ARRINSERT k .a -1 4", "8"),
        ("JSON.ARRINSERT k .a 8 6", "9"),
        ("JSON.ARRINSERT k .a +1 4", NO_INTEGER),
        ("JSON.ARRINSERT k .a 01 4", NO_INTEGER),
        ("JSON.ARRINSERT k $..a 3 0", "(error) ERR index out of bounds"),
        ("JSON.ARRINSERT k .a -10 0", "(error) ERR index out of bounds"),
        ("JSON.ARRINSERT k $.c 0 0", "[nil]"),
        ("JSON.GET k", "{\"a\":[1,\"y\",\"z\",2,\"x\",[3],4,5,6],\"b\":{\"a\":[null,5]},\"c\":2}"),
        ("JSON.ARRPOP k $.a", "[6]"),
        ("JSON.ARRPOP k .a -2", "4"),
        ("JSON.ARRPOP k .a 0", "1"),
        ("JSON.ARRPOP k .a -99", "\"y\""),
        ("JSON.ARRPOP k .a 3", "[3]"),
        ("JSON.ARRPOP k $.*", "[5 nil nil]"),
        ("JSON.ARRPOP k $..a 9", "[\"x\" 5]"),
        ("JSON.ARRPOP k .c", NO_ARRAY),
        ("JSON.ARRPOP k", NO_ARRAY),
        ("JSON.GET k", "{\"a\":[\"z\",2],\"b\":{\"a\":[null]},\"c\":2}"),
        ("JSON.ARRPOP k $.b.a", "[null]"),
        ("JSON.ARRPOP k $.b.a", "[nil]"),
        ("JSON.ARRPOP k .b.a", "nil"),
        ("JSON.ARRPOP k FORMAT EXPAND $.a", "(error) ERR FORMAT argument is not supported on RESP2"),
        ("JSON.ARRPOP k FORMAT OTHER $.a", "(error) ERR wrong reply format"),
        ("JSON.SET k $ [0,1,2,3,4,5]", "OK"),
        ("JSON.ARRTRIM k $ 1 -2", "[4]"),
        ("JSON.ARRTRIM k . -3 99", "3"),
        ("JSON.GET k", "[2,3,4]"),
        ("JSON.ARRTRIM k . -99 1", "2"),
        ("JSON.ARRTRIM k . 0 0", "1"),
        ("JSON.ARRTRIM k . 5 9", "0"),
        ("JSON.ARRTRIM k . 0 1", "0"),
        ("JSON.GET k", "[]"),
        ("JSON.ARRTRIM k $.a 0 1", "[]"),
        ("JSON.ARRTRIM k .a 0 1", NO_ARRAY),
        ("JSON.ARRTRIM none . 0 1", NO_KEY),
        ("JSON.ARRTRIM k . x 1", NO_INTEGER),
        ("JSON.SET k $ [[1,[2,3]],[4]]", "OK"),
        ("JSON.ARRPOP k $..*", "[[2] 4 nil 3 nil nil nil]"),
        ("JSON.GET k", "[[1],[]]"),
    ]);
}

#[test]
fn objects_and_types() {
    table(&[
        ("JSON.SET k $ {\"o\":{\"a\":1,\"b\":2},\"p\":{\"o\":{}},\"n\":null,\"x\":1.5,\"t\":true,\"s\":\"\"}", "OK"),
        ("JSON.OBJKEYS k", "[o p n x t s]"),
        ("JSON.OBJKEYS k $..o", "[[a b] []]"),
        ("JSON.OBJKEYS k $.n", "[nil]"),
        ("JSON.OBJKEYS k .n", "(error) ERR Path does not exist or not an object"),
        ("JSON.OBJKEYS k .none", "nil"),
        ("JSON.OBJKEYS none", "nil"),
        ("JSON.OBJKEYS none $", NO_KEY),
        ("JSON.OBJLEN k", "6"),
        ("JSON.OBJLEN k $..o", "[2 0]"),
        ("JSON.OBJLEN k $.x", "[nil]"),
        ("JSON.OBJLEN k .x", "(error) WRONGTYPE wrong type of path value - expected object"),
        ("JSON.OBJLEN k .none", "nil"),
        ("JSON.OBJLEN none", "nil"),
        ("JSON.OBJLEN none $", "(error) ERR Path does not exist or not an object"),
        ("JSON.TYPE k", "object"),
        ("JSON.TYPE k $.*", "[object object null number boolean string]"),
        ("JSON.TYPE k .n", "null"),
        ("JSON.TYPE k .none", "nil"),
        ("JSON.TYPE k $.none", "[]"),
        ("JSON.TYPE none $", "nil"),
        ("JSON.SET u $ [18446744073709551615,1,[]]", "OK"),
        ("JSON.TYPE u $[*]", "[integer integer array]"),
        ("JSON.CLEAR k $.x", "1"),
        ("JSON.CLEAR k $.x", "0"),
        ("JSON.CLEAR k $.*", "2"),
        ("JSON.GET k", "{\"o\":{},\"p\":{},\"n\":null,\"x\":0,\"t\":true,\"s\":\"\"}"),
        ("JSON.CLEAR u $[0,2]", "1"),
        ("JSON.CLEAR u", "1"),
        ("JSON.GET u", "[]"),
        ("JSON.CLEAR none", NO_KEY),
        ("JSON.CLEAR k $ x", "(error) ERR wrong number of arguments for 'json.clear' command"),
        ("JSON.SET r $ {\"a\":[1,2.5,null,true],\"s\":\"x\"}", "OK"),
        ("JSON.RESP r", "[{ a [[ 1 2.5 nil true] s x]"),
        ("JSON.RESP r $.a[1:]", "[2.5 nil true]"),
        ("JSON.RESP r .a[0]", "1"),
        ("JSON.RESP r .none", NO_PATH),
        ("JSON.RESP none", "nil"),
        ("JSON.DEBUG MEMORY none", "0"),
        ("JSON.DEBUG MEMORY none $", "[]"),
        ("JSON.DEBUG MEMORY r .s", "2"),
        ("JSON.DEBUG MEMORY r $.a[*]", "[1 9 1 1]"),
        ("JSON.DEBUG MEMORY r .none", NO_PATH),
        ("MEMORY USAGE none", "nil"),
    ]);
    check(&[(
        "JSON.DEBUG HELP",
        "[JSON.DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are: MEMORY <key> [path]     Reports the memory that values take. HELP     Prints this help.]",
    )]);
}

#[test]
fn replies_of_resp3() {
    table_resp3(&[
        ("JSON.SET k $ {\"a\":[1,2.5,null,\"x\",{\"b\":true}],\"n\":3}", "OK"),
        ("JSON.GET k $.a", "[[1,2.5,null,\"x\",{\"b\":true}]]"),
        ("JSON.GET k .n", "3"),
        ("JSON.GET k FORMAT STRING $.n", "[3]"),
        ("JSON.GET k FORMAT EXPAND $.a $.n", "[[[1 2.5 nil x {b true}]] [3]]"),
        ("JSON.GET k FORMAT EXPAND1 $.a[*]", "[[1 2.5 nil \"x\" {\"b\":true}]]"),
        ("JSON.GET k FORMAT STRINGS $.a", "(error) ERR wrong reply format"),
        ("JSON.TYPE k", "[object]"),
        ("JSON.TYPE k $.*", "[[array integer]]"),
        ("JSON.TYPE none $", "[nil]"),
        ("JSON.NUMINCRBY k $.n 1", "[4]"),
        ("JSON.NUMINCRBY k .n 0.5", "[4.5]"),
        ("JSON.NUMINCRBY k $.* 1", "[nil 5.5]"),
        ("JSON.NUMINCRBY k .none 1", "[]"),
        ("JSON.ARRPOP k FORMAT EXPAND $.a", "[{b true}]"),
        ("JSON.ARRPOP k FORMAT STRINGS .a", "\"x\""),
        ("JSON.ARRPOP k FORMAT EXPAND .a", "(error) Legacy paths are supported only with FORMAT STRINGS"),
        ("JSON.TOGGLE k $.n", "[nil]"),
    ]);
    check_resp3(&[("JSON.GET none", "nil")]);
}

#[test]
fn documents_are_limited() {
    let mut bench = Bench::new();
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(run(&mut bench, &format!("JSON.SET k $ {}", nested(127))), "OK");
    let refused = run(&mut bench, &format!("JSON.SET l $ {}", nested(128)));
    assert_eq!(refused, "(error) recursion limit exceeded at line 1 column 128");
    let innermost = "$".to_owned() + &"[0]".repeat(126);
    assert_eq!(run(&mut bench, &format!("JSON.ARRAPPEND k {innermost} 1")), "[1]");
    let refused = run(&mut bench, &format!("JSON.ARRAPPEND k {innermost} []"));
    assert_eq!(refused, "(error) ERR recursion limit exceeded");
    assert_eq!(run(&mut bench, &format!("JSON.SET k {innermost}[0] []")), "(error) ERR recursion limit exceeded");
    assert_eq!(run(&mut bench, &format!("JSON.GET k {innermost}")), "[[1]]");
}

/// As in RedisJSON: words are read first, then the key, then values, then paths, and numbers where they are needed.
#[test]
fn errors_have_an_order() {
    let bad_path =
        "(error) Error occurred at position 2, \"$[ <<<<----\", expected a number, a string, '*', ':' or '?'.";
    let bad_value = "(error) expected ident at line 1 column 2";
    let not_utf_8 = "(error) Couldn't parse as UTF-8 string";
    let too_few = "(error) ERR wrong number of arguments for 'json.mset' command";
    table(&[
        ("SET s text", "OK"),
        ("JSON.SET k $ {\"a\":[1]}", "OK"),
        ("JSON.SET k $[ nope BAD", SYNTAX),
        ("JSON.SET s $[ nope", WRONGTYPE),
        ("JSON.SET k $[ nope", bad_value),
        ("JSON.SET none $[ nope", bad_value),
        ("JSON.SET k $[ 1", bad_path),
        ("JSON.SET k $[ 1 NX", bad_path),
        ("JSON.SET none $[ 1", NEW_AT_ROOT),
        ("JSON.SET none $[ 1 NX", NEW_AT_ROOT),
        ("JSON.SET none $[ 1 XX", bad_path),
        ("JSON.MERGE k $[ nope BAD", SYNTAX),
        ("JSON.MERGE s $[ nope", WRONGTYPE),
        ("JSON.MERGE k $[ nope", bad_value),
        ("JSON.MERGE k $[ 1", bad_path),
        ("JSON.MERGE none $[ 1", NEW_AT_ROOT),
        ("JSON.GET s $[", WRONGTYPE),
        ("JSON.GET none $[", bad_path),
        ("JSON.GET k $[", bad_path),
        ("JSON.GET k $[ FORMAT nope", "(error) ERR wrong reply format"),
        ("JSON.MSET s $[ nope", WRONGTYPE),
        ("JSON.MSET none $[ nope", NEW_AT_ROOT),
        ("JSON.MSET k $[ nope", bad_path),
        ("JSON.MSET k $ nope k $[ 1", bad_value),
        ("JSON.MSET k $[ 1 k $", bad_path),
        ("JSON.MSET k $ 1 k $", too_few),
        ("JSON.MSET k $ 1 s", WRONGTYPE),
        ("JSON.DEL s $[", WRONGTYPE),
        ("JSON.DEL none $[", bad_path),
        ("JSON.DEL k $[", bad_path),
        ("JSON.CLEAR none $[", NO_KEY),
        ("JSON.ARRAPPEND s $[ nope", bad_value),
        ("JSON.ARRAPPEND s $[ 1", WRONGTYPE),
        ("JSON.ARRAPPEND none $[ 1", NO_KEY),
        ("JSON.ARRAPPEND k $[ 1", bad_path),
        ("JSON.ARRINSERT s $[ x nope", "(error) Couldn't parse as integer"),
        ("JSON.ARRINSERT s $[ 0 nope", bad_value),
        ("JSON.ARRTRIM none $[ 0 x", "(error) Couldn't parse as integer"),
        ("JSON.ARRTRIM none $[ 0 0", NO_KEY),
        ("JSON.ARRPOP s $[", WRONGTYPE),
        ("JSON.ARRPOP none $[", NO_KEY),
        ("JSON.NUMINCRBY s $[ x", WRONGTYPE),
        ("JSON.NUMINCRBY none $[ x", NO_KEY),
        ("JSON.NUMINCRBY k $[ x", bad_path),
        ("JSON.TOGGLE none $[", NO_KEY),
        ("JSON.STRAPPEND none $[ x", NO_KEY),
        ("JSON.GET k", "{\"a\":[1]}"),
    ]);
    let mut bench = Bench::new();
    bench.run("SET s text");
    assert_eq!(bench.run_args(&[b"JSON.SET", b"s", b"\xff", b"1"]), not_utf_8);
    assert_eq!(bench.run_args(&[b"JSON.SET", b"s", b"$[", b"\xff", b"BAD"]), not_utf_8);
    assert_eq!(bench.run_args(&[b"JSON.NUMINCRBY", b"s", b"$[", b"\xff"]), not_utf_8);
    assert_eq!(bench.run_args(&[b"JSON.MGET", b"s", b"\xff"]), not_utf_8);
}

/// A value that is too deep where it would be changes nothing, whatever comes before it and behind it.
#[test]
fn several_documents_are_set_or_none() {
    let mut bench = Bench::new();
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let events = Arc::clone(&heard);
    let listen = move |event: KeyEvent, _: u8, key: &[u8]| {
        events.lock().push(format!("{} {}", event.name, String::from_utf8_lossy(key)));
    };
    assert!(bench.shared.listener.set(Box::new(listen)).is_ok());
    let nested = "[".repeat(100) + &"]".repeat(100);
    let innermost = "$.x".to_owned() + &"[0]".repeat(99);
    run(&mut bench, &format!("JSON.MSET a $ {{\"x\":1}} b $ {{\"x\":{nested}}}"));
    assert_eq!(run(&mut bench, &format!("JSON.ARRAPPEND b {innermost} 1")), "[1]");
    heard.lock().clear();
    let before = bench.data();
    for line in [
        format!("JSON.MSET a $.x 2 b {innermost}[0] {nested} new $ 1"),
        format!("JSON.MSET a $ 2 new $ 1 b {innermost}[0] {nested}"),
        format!("JSON.MSET a $.y 2 a $.z 3 b {innermost}[0] {nested} a $.x 4"),
    ] {
        assert_eq!(run(&mut bench, &line), "(error) ERR recursion limit exceeded", "{line}");
        assert_eq!(bench.data(), before, "{line}");
    }
    assert!(heard.lock().is_empty());
    for (line, reply, events) in [
        (
            "JSON.MSET a $.y 2 b $ 1 a $.y.z 3 new . {} a $.y 3",
            "nil",
            "json.mset a, json.mset b, new new, json.mset new, json.mset a",
        ),
        ("JSON.MGET a b new $", "[[{\"x\":1,\"y\":3}] [1] [{}]]", ""),
        ("JSON.MSET a $ {} a $.p {} a $.p.q 1", "OK", "json.mset a, json.mset a, json.mset a"),
        ("JSON.GET a", "{\"p\":{\"q\":1}}", ""),
    ] {
        assert_eq!(run(&mut bench, line), reply, "{line}");
        assert_eq!(std::mem::take(&mut *heard.lock()).join(", "), events, "{line}");
    }
}

#[test]
fn dumped_documents_come_back() {
    let mut bench = Bench::new();
    run(&mut bench, "JSON.SET k $ {\"a\":[1,\"é\",{}]}");
    let reply = bench.run_raw(&[b"DUMP", b"k"]);
    let start = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let payload = &reply[start..reply.len() - 2];
    assert_eq!(bench.run_args(&[b"RESTORE", b"l", b"0", payload]), "OK");
    assert_eq!(run(&mut bench, "JSON.GET l"), "{\"a\":[1,\"é\",{}]}");
    for at in 0..payload.len() {
        let mut damaged = payload.to_vec();
        damaged[at] ^= 1;
        assert!(bench.run_args(&[b"RESTORE", b"m", b"0", &damaged]).starts_with("(error)"));
    }
    assert_eq!(run(&mut bench, "SCAN 0 TYPE rejson-rl COUNT 100"), "[0 [l k]]".replace("l k", &listed(&mut bench)));
}

/// The keys in the order of a scan.
fn listed(bench: &mut Bench) -> String {
    let all = run(bench, "SCAN 0 COUNT 100");
    all.trim_start_matches("[0 [").trim_end_matches("]]").to_owned()
}

/// Memory is counted as it is taken.
#[test]
fn the_memory_of_documents_is_counted() {
    let mut bench = Bench::new();
    let mut rng = Rng::with_seed(5);
    for _ in 0..400 {
        let key = rng.u8(..3);
        let line = match rng.u8(..7) {
            0 => format!("JSON.SET {key} $ {}", random_tree(&mut rng, 4)),
            1 => format!("JSON.SET {key} {} {}", random_path(&mut rng), random_tree(&mut rng, 2)),
            2 => format!("JSON.DEL {key} {}", random_path(&mut rng)),
            3 => format!("JSON.ARRAPPEND {key} {} {}", random_path(&mut rng), random_tree(&mut rng, 1)),
            4 => format!("JSON.ARRPOP {key} {}", random_path(&mut rng)),
            5 => format!("JSON.MERGE {key} {} {}", random_path(&mut rng), random_tree(&mut rng, 2)),
            _ => format!("JSON.CLEAR {key} {}", random_path(&mut rng)),
        };
        run(&mut bench, &line);
        let Some(index) = bench.contents.index(0) else { continue };
        let segments = index.places().iter().filter_map(Place::segment);
        let records = segments.clone().flat_map(|segment| segment.iter().map(Entry::heap_bytes)).sum::<usize>();
        let tables = segments.map(|segment| segment.heap_bytes()).sum::<usize>();
        assert_eq!(index.bytes(), records + tables + index.places().heap_bytes(), "{line}");
    }
}

#[test]
fn effects_are_replayed() {
    let mut rng = Rng::with_seed(11);
    for round in 0..30 {
        let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
        for _ in 0..60 {
            let (key, path) = (format!("k{}", rng.u8(..3)), random_path(&mut rng));
            let value = random_tree(&mut rng, 2).to_string();
            let line = match rng.u8(..16) {
                0 => format!("JSON.SET {key} $ {value}"),
                1..4 => format!("JSON.SET {key} {path} {value}"),
                4 => format!("JSON.MSET {key} $ {value} other {path} 1 {key} $.a 2"),
                5 => format!("JSON.MERGE {key} {path} {value}"),
                6 => format!("JSON.DEL {key} {path}"),
                7 => format!("JSON.NUMINCRBY {key} {path} 1.5"),
                8 => format!("JSON.TOGGLE {key} {path}"),
                9 => format!("JSON.STRAPPEND {key} {path} \"x\""),
                10 => format!("JSON.ARRAPPEND {key} {path} {value}"),
                11 => format!("JSON.ARRINSERT {key} {path} 0 {value}"),
                12 => format!("JSON.ARRPOP {key} {path} 0"),
                13 => format!("JSON.ARRTRIM {key} {path} 0 1"),
                14 => format!("RENAME {key} k{}", rng.u8(..3)),
                _ => format!("JSON.CLEAR {key} {path}"),
            };
            commands.push(line.split(' ').map(|word| word.as_bytes().to_vec()).collect());
        }
        _ = round;
        check_effects(&commands);
    }
}

fn random_tree(rng: &mut Rng, depth: usize) -> Tree {
    let names = ["a", "b", "c"];
    let count = rng.usize(..4);
    match rng.u8(..if depth == 0 { 5 } else { 9 }) {
        0 => Tree::Null,
        1 => Tree::Bool(rng.bool()),
        2 => json!(rng.i32(-5..5)),
        3 => json!(f64::from(rng.i32(-9..9)) / 2.0),
        4 => json!(["x", "y", "xy"][rng.usize(..3)]),
        5..7 => Tree::Array((0..count).map(|_| random_tree(rng, depth - 1)).collect()),
        _ => Tree::Object(
            names.iter().take(count).map(|name| ((*name).to_owned(), random_tree(rng, depth - 1))).collect(),
        ),
    }
}

const STEPS: [&str; 16] = [
    ".a",
    ".b",
    "['c']",
    "[0]",
    "[1]",
    "[-1]",
    "[*]",
    ".*",
    "..a",
    "..*",
    "['a','b']",
    "[0,1]",
    "[1:]",
    "[:-1]",
    "[::2]",
    "[?(@.a>0)]",
];

fn random_path(rng: &mut Rng) -> String {
    let steps = (0..rng.usize(..4)).map(|_| STEPS[rng.usize(..STEPS.len())]);
    steps.fold("$".to_owned(), |path, step| path + step)
}

/// The values that the steps of a path select, one step after the other.
fn selected<'t>(tree: &'t Tree, path: &str) -> Vec<&'t Tree> {
    let mut rest = path.strip_prefix('$').expect("a root");
    let mut selected = vec![tree];
    while !rest.is_empty() {
        let step = STEPS.iter().filter(|step| rest.starts_with(**step)).max_by_key(|step| step.len()).expect("a step");
        rest = &rest[step.len()..];
        selected = selected.into_iter().flat_map(|value| followed(value, step)).collect();
    }
    selected
}

fn children(tree: &Tree) -> Vec<&Tree> {
    match tree {
        Tree::Array(elements) => elements.iter().collect(),
        Tree::Object(members) => members.values().collect(),
        _ => Vec::new(),
    }
}

fn everything(tree: &Tree) -> Vec<&Tree> {
    let inside = children(tree).into_iter().flat_map(everything);
    std::iter::once(tree).chain(inside).collect()
}

fn followed<'t>(tree: &'t Tree, step: &str) -> Vec<&'t Tree> {
    let elements: Vec<&Tree> = if tree.is_array() { children(tree) } else { Vec::new() };
    let len = elements.len();
    match step {
        ".a" | ".b" => tree.get(&step[1..]).into_iter().collect(),
        "['c']" => tree.get("c").into_iter().collect(),
        "[0]" | "[1]" => elements.get(usize::from(step == "[1]")).copied().into_iter().collect(),
        "[-1]" => elements.last().copied().into_iter().collect(),
        "[*]" | ".*" => children(tree),
        "..a" => everything(tree).into_iter().filter_map(|value| value.get("a")).collect(),
        "..*" => everything(tree).into_iter().flat_map(children).collect(),
        "['a','b']" => ["a", "b"].into_iter().filter_map(|name| tree.get(name)).collect(),
        "[0,1]" => elements.into_iter().take(2).collect(),
        "[1:]" => elements.into_iter().skip(1).collect(),
        "[:-1]" => elements.into_iter().take(len.saturating_sub(1)).collect(),
        "[::2]" => elements.into_iter().step_by(2).collect(),
        "[?(@.a>0)]" => {
            let passes = |value: &&Tree| value.get("a").and_then(Tree::as_f64).is_some_and(|number| number > 0.0);
            children(tree).into_iter().filter(passes).collect()
        }
        other => panic!("no test has the step {other}"),
    }
}

#[test]
fn selections_are_those_of_a_naive_walk() {
    let mut rng = Rng::with_seed(7);
    let (mut bench, mut found) = (Bench::new(), 0);
    for _ in 0..6000 {
        let (tree, path) = (random_tree(&mut rng, 5), random_path(&mut rng));
        if !tree.is_array() && !tree.is_object() {
            continue;
        }
        assert_eq!(run(&mut bench, &format!("JSON.SET k $ {tree}")), "OK");
        let expected = selected(&tree, &path);
        found += expected.len();
        let reply = run(&mut bench, &format!("JSON.GET k {path}"));
        assert_eq!(reply, serde_json::to_string(&expected).unwrap(), "{path} of {tree}");
        let old = if path == "$" { "." } else { &path[1..] };
        let first = expected.first().map_or_else(|| NO_PATH.to_owned(), ToString::to_string);
        assert_eq!(run(&mut bench, &format!("JSON.GET k {old}")), first, "{old} of {tree}");
    }
    assert!(found > 900, "{found}");
}

/// A list that names a value again multiplies what is selected.
#[test]
fn lists_cost_what_they_repeat() {
    let mut bench = Bench::new();
    run(&mut bench, "JSON.SET d $ [[[1]]]");
    let list = format!("[{}]", ["0"; 100].join(","));
    let once = bench.cost("JSON.GET d $[0][0][0]").unwrap();
    assert!(bench.cost(&format!("JSON.GET d ${list}[0][0]")).unwrap() >= 100);
    assert!(bench.cost(&format!("JSON.GET d ${list}{list}{list}")).unwrap() >= 1_000_000);
    assert!(bench.cost("JSON.GET d $[0,1][0][0]").unwrap() <= once + 10);
}
