//! Documents against their text, and changes against a tree of values.

use std::fmt::Write as _;

use fastrand::Rng;

use super::*;

fn document(text: &str) -> Json {
    Json::of(&parse(text.as_bytes()).unwrap()).unwrap()
}

fn text(json: &Json) -> String {
    let mut out = Vec::new();
    write(json.root(), Style::default(), &mut out);
    assert_eq!(text_bytes(json.root(), Style::default()), out.len());
    String::from_utf8(out).unwrap()
}

/// Checks that a document is what its bytes say, and returns its text.
fn sound(json: &Json) -> String {
    assert_eq!(Json::from_bytes(json.bytes()).unwrap().bytes(), json.bytes());
    let text = text(json);
    // Its own text gives the same bytes, so every value has its shortest form.
    assert_eq!(parse(text.as_bytes()).unwrap(), json.bytes(), "{text}");
    text
}

#[test]
fn values_come_back_as_they_are() {
    for same in [
        "null",
        "true",
        "false",
        "0",
        "63",
        "64",
        "-1",
        "-128",
        "-129",
        "32767",
        "32768",
        "2147483648",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "18446744073709551615",
        "1.5",
        "-0.0",
        "1.0",
        "1e100",
        "1e-7",
        "0.1",
        "5e-324",
        "1.7976931348623157e308",
        "0.30000000000000004",
        r#""""#,
        r#""text""#,
        r#""é ☃ 😀""#,
        r#""\" \\ / \b \f \n \r \t \u0000 \u001f""#,
        "[]",
        "{}",
        "[1,[2,[]],{}]",
        r#"{"b":1,"a":{"":null},"é":[true]}"#,
    ] {
        assert_eq!(sound(&document(same)), same);
    }
    for (given, kept) in [
        (" [ 1 , 2 ]\n", "[1,2]"),
        ("18446744073709551616", "1.8446744073709552e19"),
        ("-9223372036854775809", "-9.223372036854776e18"),
        ("-0", "-0.0"),
        ("1E2", "100.0"),
        ("10000000000000000.0", "1e16"),
        (r#""\u0041\u00e9\ud83d\ude00\/""#, r#""Aé😀/""#),
        (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
        (r#"{"a":{"x":1,"x":2},"\u0061":[]}"#, r#"{"a":[]}"#),
    ] {
        assert_eq!(sound(&document(given)), kept);
    }
    let long = format!("{:?}", "x".repeat(300));
    assert_eq!(sound(&document(&long)), long);
}

#[test]
fn many_members_of_one_name_are_one() {
    let mut given = String::from("{");
    for at in 0..1000 {
        _ = write!(given, "\"key{}\":{at},", at % 100);
    }
    given += "\"last\":null}";
    let expected: Vec<String> = (0..100).map(|at| format!("\"key{at}\":{}", 900 + at)).collect();
    assert_eq!(sound(&document(&given)), format!("{{{},\"last\":null}}", expected.join(",")));
}

#[test]
fn what_is_no_json_is_refused() {
    for (given, problem) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("nul", "EOF while parsing a value at line 1 column 3"),
        ("[1,]", "trailing comma at line 1 column 4"),
        ("{\"a\"}", "expected `:` at line 1 column 5"),
        ("{a:1}", "key must be a string at line 1 column 2"),
        ("1 2", "trailing characters at line 1 column 3"),
        ("'a'", "expected value at line 1 column 1"),
        ("01", "invalid number at line 1 column 2"),
        ("NaN", "expected value at line 1 column 1"),
        ("1e999", "number out of range at line 1 column 5"),
        ("\"\\ud800\"", "unexpected end of hex escape at line 1 column 8"),
        ("\"\n\"", "control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0"),
    ] {
        assert_eq!(parse(given.as_bytes()).unwrap_err().to_string(), problem, "{given}");
    }
    assert!(parse(b"\"\xff\"").is_err());
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(sound(&document(&nested(DEPTH_MAX))), nested(DEPTH_MAX));
    assert_eq!(document(&nested(DEPTH_MAX)).root().depth(), DEPTH_MAX);
    let problem = parse(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err().to_string();
    assert_eq!(problem, "recursion limit exceeded at line 1 column 128");
}

/// The bytes of a chunk: they must never change.
#[test]
fn the_encoding_stays() {
    for (text, hex) in [
        ("null", "00"),
        ("false", "01"),
        ("true", "02"),
        ("63", "7f"),
        ("64", "0340"),
        ("-1", "03ff"),
        ("1000", "04e803"),
        ("100000", "05a0860100"),
        ("10000000000", "0600e40b5402000000"),
        ("18446744073709551615", "07ffffffffffffffff"),
        ("1.5", "08000000000000f83f"),
        ("\"ab\"", "826162"),
        ("[1,\"x\"]", "0a0300000002000000418178"),
        ("{\"k\":[]}", "0b0b00000001000000816b0a0000000000000000"),
    ] {
        let bytes: String = parse(text.as_bytes()).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes, hex, "{text}");
    }
    let long = parse(format!("{:?}", "y".repeat(128)).as_bytes()).unwrap();
    assert_eq!(&long[..6], b"\x09\x80\0\0\0y");
}

#[test]
fn damaged_bytes_are_refused_or_another_document() {
    let whole = document(r#"{"name":"é","list":[1,300,-5.5,null,true,{"deep":[[],{}]}],"big":18446744073709551615}"#);
    let bytes = whole.bytes();
    for len in 0..bytes.len() {
        assert!(Json::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert!(Json::from_bytes(&[bytes, b"\0"].concat()).is_err());
    let mut accepted = 0;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << bit;
            if let Ok(other) = Json::from_bytes(&damaged) {
                accepted += 1;
                let mut out = Vec::new();
                write(other.root(), Style::default(), &mut out);
                assert!(parse(&out).is_ok());
                assert!(other.root().depth() <= DEPTH_MAX);
            }
        }
    }
    assert!(accepted > 100, "other letters and numbers are fine");
    for (forged, problem) in [
        (&b"\x08\0\0\0\0\0\0\xf0\x7f"[..], "JSON number that is not finite"),
        (b"\x07\x01\0\0\0\0\0\0\0", "JSON integer in a longer form"),
        (b"\x81\xff", "JSON string that is not UTF-8"),
        (b"\x0c", "tag of a JSON value"),
        (b"\x0a\x01\0\0\0\x02\0\0\0\0", "number of values in a JSON container"),
        (b"\x0b\x02\0\0\0\x01\0\0\0\0\0", "name of a JSON member"),
        (b"\x0b\x06\0\0\0\x02\0\0\0\x81a\0\x81a\0", "member twice in a JSON object"),
        (b"\x0a\xff\xff\xff\xff\x01\0\0\0\0", "JSON document ends early"),
        (b"\x09\xff\xff\xff\xff", "JSON document ends early"),
    ] {
        assert_eq!(Json::from_bytes(forged).unwrap_err(), Malformed(problem));
    }
    let mut deep = Vec::new();
    for level in (0..=DEPTH_MAX as u32).rev() {
        deep.extend_from_slice(b"\x0a");
        deep.extend_from_slice(&(level * 9).to_le_bytes());
        deep.extend_from_slice(&u32::from(level > 0).to_le_bytes());
    }
    assert_eq!(Json::from_bytes(&deep).unwrap_err(), Malformed("JSON document nested too deep"));
    assert!(Json::from_bytes(&deep[9..]).is_ok());
}

#[test]
fn white_space_stands_where_it_should() {
    let json = document(r#"{"a":[1,{}],"b":{"c":[]}}"#);
    let style = Style { indent: b"\t", newline: b"\n", space: b" " };
    let mut out = Vec::new();
    write(json.root(), style, &mut out);
    let expected = "{\n\t\"a\": [\n\t\t1,\n\t\t{}\n\t],\n\t\"b\": {\n\t\t\"c\": []\n\t}\n}";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    assert_eq!(text_bytes(json.root(), style), expected.len());
}

#[test]
fn values_are_compared() {
    let same = |one: &str, other: &str, numbers| equal(document(one).root(), document(other).root(), numbers);
    for (one, other, strictly, by_value) in [
        ("1", "1", true, true),
        ("1", "1.0", false, true),
        ("18446744073709551615", "1.8446744073709552e19", false, true),
        ("1", "\"1\"", false, false),
        ("null", "false", false, false),
        ("[1,2]", "[1,2]", true, true),
        ("[1,2]", "[2,1]", false, false),
        ("[1]", "[1,2]", false, false),
        (r#"{"a":1,"b":[2]}"#, r#"{"b":[2],"a":1}"#, true, true),
        (r#"{"a":1,"b":2}"#, r#"{"a":1,"c":2}"#, false, false),
        (r#"{"a":1}"#, r#"{"a":1.0}"#, false, true),
    ] {
        assert_eq!(same(one, other, Numbers::OfOneType), strictly, "{one} {other}");
        assert_eq!(same(one, other, Numbers::ByValue), by_value, "{one} {other}");
        assert_eq!(same(other, one, Numbers::ByValue), by_value, "{other} {one}");
    }
    let many = |order: &mut dyn Iterator<Item = u32>| {
        let members: Vec<String> = order.map(|at| format!("\"{at}\":{at}")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert!(same(&many(&mut (0..500)), &many(&mut (0..500).rev()), Numbers::OfOneType));
    assert!(!same(&many(&mut (0..500)), &many(&mut (1..501)), Numbers::OfOneType));
}

/// The examples of RFC 7396, appendix A.
#[test]
fn patches_are_merged() {
    for (target, patch, result) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"a":"foo"}"#, "\"bar\"", "\"bar\""),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ] {
        let mut merged = Vec::new();
        merge(Some(document(target).root()), document(patch).root(), &mut merged);
        assert_eq!(sound(&Json::of(&merged).unwrap()), result);
    }
}

/// A tree of values.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Leaf(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    fn random(rng: &mut Rng, depth: usize) -> Self {
        let leaves = ["null", "true", "7", "-300", "1.5", "\"text\"", "18446744073709551615"];
        let count = rng.usize(..5);
        match rng.u8(..if depth == 0 { 3 } else { 8 }) {
            0..2 => Tree::Leaf(leaves[rng.usize(..leaves.len())].into()),
            2 => Tree::Leaf(format!("{:?}", "s".repeat(rng.usize(..200)))),
            3..6 => Tree::Array((0..count).map(|_| Tree::random(rng, depth - 1)).collect()),
            _ => Tree::Object((0..count).map(|at| (format!("k{at}"), Tree::random(rng, depth - 1))).collect()),
        }
    }

    fn text(&self) -> String {
        match self {
            Tree::Leaf(text) => text.clone(),
            Tree::Array(elements) => format!("[{}]", elements.iter().map(Tree::text).collect::<Vec<_>>().join(",")),
            Tree::Object(members) => {
                let member = |(name, value): &(String, Tree)| format!("{name:?}:{}", value.text());
                format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
            }
        }
    }

    fn children(&mut self) -> Vec<&mut Tree> {
        match self {
            Tree::Leaf(_) => Vec::new(),
            Tree::Array(elements) => elements.iter_mut().collect(),
            Tree::Object(members) => members.iter_mut().map(|(_, value)| value).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Keep,
    Replace(u32),
    /// At the front, for an array.
    Insert(u32),
    /// The last one, for a container.
    Cut,
    Remove,
}

/// Does to a tree what its actions say, from the inside to the outside; `at` counts values as the document has them. Returns
/// whether it stays.
fn act(tree: &mut Tree, actions: &[Action], at: &mut usize) -> bool {
    let own = actions[*at];
    *at += 1;
    let stays: Vec<bool> = tree.children().into_iter().map(|child| act(child, actions, at)).collect();
    let mut stays = stays.into_iter();
    match tree {
        Tree::Leaf(_) => {}
        Tree::Array(elements) => elements.retain(|_| stays.next().unwrap()),
        Tree::Object(members) => members.retain(|_| stays.next().unwrap()),
    }
    match (own, tree) {
        (Action::Replace(number), tree) => *tree = Tree::Leaf(number.to_string()),
        (Action::Insert(number), Tree::Array(elements)) => elements.insert(0, Tree::Leaf(number.to_string())),
        (Action::Cut, Tree::Array(elements)) => drop(elements.pop()),
        (Action::Cut, Tree::Object(members)) => drop(members.pop()),
        (Action::Remove, _) => return false,
        _ => {}
    }
    true
}

/// The offsets of all values.
fn all_places(node: JsonNode<'_>, places: &mut Vec<usize>) {
    places.push(node.at());
    node.children().for_each(|(_, child)| all_places(child, places));
}

fn edit_of(action: Action, node: JsonNode<'_>) -> Edit {
    let encoded = |number: u32| {
        let mut bytes = Vec::new();
        put_integer(&mut bytes, number.into());
        bytes
    };
    match action {
        Action::Replace(number) => Edit::Replace(encoded(number)),
        Action::Insert(number) if node.is_array() => Edit::Insert { at: HEAD_BYTES, bytes: encoded(number), count: 1 },
        Action::Cut if !node.is_empty() => {
            let mut children = node.children();
            let mut at = 0;
            for _ in 0..children.len() {
                at = children.offset();
                children.next();
            }
            Edit::Cut { at: at - node.at(), bytes: node.end() - at, count: 1 }
        }
        Action::Remove => Edit::Remove,
        Action::Keep | Action::Insert(_) | Action::Cut => Edit::Keep,
    }
}

#[test]
fn changes_are_those_of_a_tree() {
    let mut rng = Rng::with_seed(3);
    for round in 0..3000 {
        let mut tree = Tree::random(&mut rng, 5);
        let mut json = document(&tree.text());
        let before = json.clone();
        let mut all = Vec::new();
        all_places(json.root(), &mut all);
        // One change is made where it is, several in a pass.
        let count = if round % 2 == 0 { 1 } else { rng.usize(2..6) };
        let mut actions = vec![Action::Keep; all.len()];
        for _ in 0..count {
            let action = match rng.u8(..5) {
                0 => Action::Replace(rng.u32(..)),
                1 => Action::Insert(rng.u32(..)),
                2 => Action::Cut,
                3 => Action::Keep,
                _ => Action::Remove,
            };
            actions[rng.usize(..all.len())] = action;
        }
        let chosen: Vec<usize> = (0..all.len()).filter(|at| actions[*at] != Action::Keep).collect();
        let places: Vec<usize> = chosen.iter().map(|at| all[*at]).collect();
        let changed =
            json.edit::<EditError>(&places, |number, node| Ok(edit_of(actions[chosen[number]], node))).unwrap();
        if act(&mut tree, &actions, &mut 0) {
            assert_eq!(sound(&json), tree.text(), "{actions:?} of {before:?}");
        } else {
            assert!(json.is_empty());
        }
        assert!(changed || json.bytes() == before.bytes());
        assert_eq!(json.heap_bytes(), json.0.heap_bytes());
    }
}

#[test]
fn members_are_added() {
    let mut json = document(r#"{"a":{"b":[{}]},"c":1}"#);
    let place = |json: &Json| json.root().get(b"a").unwrap().get(b"b").unwrap().element(0).unwrap().at();
    json.add_member(place(&json), b"new", &parse(b"[1]").unwrap()).unwrap();
    json.add_member(place(&json), "é".as_bytes(), &parse(b"null").unwrap()).unwrap();
    json.add_member(0, &[b'n'; 200], &parse(b"2").unwrap()).unwrap();
    assert_eq!(sound(&json), format!(r#"{{"a":{{"b":[{{"new":[1],"é":null}}]}},"c":1,"{}":2}}"#, "n".repeat(200)));
}

#[test]
fn a_document_becomes_no_deeper_than_it_may() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let inner = parse(nested(100).as_bytes()).unwrap();
    for (outer, fits) in [(DEPTH_MAX - 100, true), (DEPTH_MAX - 99, false)] {
        let mut json = document(&nested(outer));
        let before = json.bytes().to_vec();
        let mut node = json.root();
        while let Some(next) = node.element(0) {
            node = next;
        }
        let (at, end) = (node.at(), node.bytes().len());
        let insert = |_: usize, _: JsonNode<'_>| Ok(Edit::Insert { at: end, bytes: inner.clone(), count: 1 });
        let inserted = json.edit::<EditError>(&[at], insert);
        assert_eq!(inserted, if fits { Ok(true) } else { Err(EditError::TooDeep) });
        assert_eq!(json.root().depth(), if fits { DEPTH_MAX } else { outer });
        if !fits {
            assert_eq!(json.bytes(), before);
            // The same in a pass over the whole.
            let inserted = json.edit::<EditError>(&[0, at], |number, node| match number {
                0 => Ok(Edit::Keep),
                _ => insert(number, node),
            });
            assert_eq!((inserted, json.bytes()), (Err(EditError::TooDeep), &before[..]));
        }
    }
}
