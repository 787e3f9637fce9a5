//! Documents, filters and vector sets: commands over them, and naive models.
//!
//! A document is an object of numbers. Bloom filters are precise enough, and their items so named, that no schedule meets a false
//! answer. So the model of one is the set of its items, and of a Cuckoo filter, which is not, the number of items is compared. Searches of vectors are approximate: what is
//! compared is what a set holds.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_types::filter::Cuckoo;
use dormouse_types::json::JsonValue;
use dormouse_types::{Filter, Json, VectorSet};

use crate::chance::Chance;

/// Items that filters may have.
const ITEMS: u64 = 60;
const NO_KEY: &str = "-ERR could not perform this operation on a key that doesn't exist\r\n";
const NEW_AT_ROOT: &str = "-ERR new objects must be created at the root\r\n";

/// The members, in order.
pub type DocumentModel = Vec<(String, i64)>;
/// Components and attributes, by name.
pub type VectorsModel = BTreeMap<String, ([i64; 2], String)>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterModel {
    /// The items of a Bloom filter.
    pub items: BTreeSet<String>,
    /// The number of items of a Cuckoo filter; `None` for a Bloom filter.
    pub count: Option<u64>,
}

/// Returns a command over one of them. Each kind has keys of its own.
pub fn command(chance: &mut Chance, keys: u64) -> Vec<String> {
    let c = chance;
    let line = match c.below(4) {
        0 | 1 => document(c, keys),
        2 => filter(c, keys),
        _ => vectors(c, keys),
    };
    line.split(' ').map(str::to_owned).collect()
}

fn document(c: &mut Chance, keys: u64) -> String {
    let key = format!("j{}", c.below(keys));
    let member = |c: &mut Chance| format!("m{}", c.below(30));
    let number = |c: &mut Chance| c.below(2000) as i64 - 1000;
    match c.below(8) {
        0 => {
            let members: BTreeMap<String, i64> = (0..1 + c.below(40)).map(|_| (member(c), number(c))).collect();
            let members: Vec<String> = members.iter().map(|(name, number)| format!("\"{name}\":{number}")).collect();
            format!("JSON.SET {key} $ {{{}}}", members.join(","))
        }
        1 => format!("JSON.SET {key} $.{} {}", member(c), number(c)),
        2 | 3 => format!("JSON.NUMINCRBY {key} $.{} {}", member(c), number(c)),
        4 => format!("JSON.MERGE {key} $ {{\"{}\":{}}}", member(c), number(c)),
        5 | 6 => format!("JSON.DEL {key} $.{}", member(c)),
        _ => format!("JSON.GET {key} $"),
    }
}

fn filter(c: &mut Chance, keys: u64) -> String {
    let item = |c: &mut Chance| item(c.below(ITEMS));
    match c.below(6) {
        // It grows, link by link.
        0 | 1 => {
            format!("BF.INSERT b{} CAPACITY 10 ERROR 0.0000001 ITEMS {} {}", c.below(keys), item(c), item(c))
        }
        2 => format!("BF.EXISTS b{} {}", c.below(keys), item(c)),
        3 | 4 => format!("CF.ADD c{} {}", c.below(keys), item(c)),
        _ => format!("CF.DEL c{} {}", c.below(keys), item(c)),
    }
}

/// The name of an item of filters. Among others, such as `i0` to `i59`, one in a hundred filters gives a false answer.
fn item(number: u64) -> String {
    format!("no{number}")
}

fn vectors(c: &mut Chance, keys: u64) -> String {
    let (key, name) = (format!("v{}", c.below(keys)), format!("n{}", c.below(40)));
    match c.below(8) {
        0..3 => {
            let (x, y) = (1 + c.below(50), c.below(50));
            let attributes = if c.below(2) == 0 { format!(" SETATTR {{\"x\":{x}}}") } else { String::new() };
            format!("VADD {key} VALUES 2 {x} {y} {name} NOQUANT{attributes} M 4")
        }
        3 | 4 => format!("VREM {key} {name}"),
        5 => format!("VSETATTR {key} {name} {{\"y\":{}}}", c.below(100)),
        6 => format!("VGETATTR {key} {name}"),
        _ => format!("VCARD {key}"),
    }
}

/// Runs a command on a document, and returns its reply.
pub fn reply_of_document(document: &mut DocumentModel, words: &[String]) -> String {
    let exists = !document.is_empty();
    let name = words[2].trim_start_matches(['$', '.']);
    let at = document.iter().position(|(member, _)| member == name);
    let number = |word: &str| word.parse::<i64>().unwrap_or(0);
    match (words[0].as_str(), at) {
        ("JSON.SET", _) if name.is_empty() => {
            *document = members(&words[3]);
            "+OK\r\n".into()
        }
        ("JSON.SET", _) if !exists => NEW_AT_ROOT.into(),
        ("JSON.SET", at) => {
            set(document, at, name, number(&words[3]));
            "+OK\r\n".into()
        }
        ("JSON.MERGE", _) => {
            for (name, number) in members(&words[3]) {
                let at = document.iter().position(|(member, _)| *member == name);
                set(document, at, &name, number);
            }
            "+OK\r\n".into()
        }
        ("JSON.NUMINCRBY", _) if !exists => NO_KEY.into(),
        ("JSON.NUMINCRBY", None) => bulk("[]"),
        ("JSON.NUMINCRBY", Some(at)) => {
            document[at].1 += number(&words[3]);
            bulk(&format!("[{}]", document[at].1))
        }
        ("JSON.DEL", None) => ":0\r\n".into(),
        ("JSON.DEL", Some(at)) => {
            document.remove(at);
            ":1\r\n".into()
        }
        _ if !exists => "$-1\r\n".into(),
        _ => {
            let members: Vec<String> = document.iter().map(|(name, number)| format!("\"{name}\":{number}")).collect();
            bulk(&format!("[{{{}}}]", members.join(",")))
        }
    }
}

fn set(document: &mut DocumentModel, at: Option<usize>, name: &str, number: i64) {
    match at {
        Some(at) => document[at].1 = number,
        None => document.push((name.to_owned(), number)),
    }
}

/// The members in the text of an object.
fn members(text: &str) -> DocumentModel {
    let member = |text: &str| {
        let (name, number) = text.split_once(':')?;
        Some((name.trim_matches('"').to_owned(), number.parse().ok()?))
    };
    text.trim_matches(['{', '}']).split(',').filter_map(member).collect()
}

/// Runs a command on a filter; `None`: there is none. A reply that a Cuckoo filter may have given is believed.
pub fn reply_of_filter(filter: &mut Option<FilterModel>, words: &[String], replied: &str) -> String {
    match words[0].as_str() {
        "BF.INSERT" => {
            let items = &mut filter.get_or_insert_default().items;
            let added: Vec<String> =
                words[7..].iter().map(|item| format!(":{}\r\n", u8::from(items.insert(item.clone())))).collect();
            format!("*{}\r\n{}", added.len(), added.concat())
        }
        "BF.EXISTS" => {
            let exists = filter.as_ref().is_some_and(|filter| filter.items.contains(&words[2]));
            format!(":{}\r\n", u8::from(exists))
        }
        "CF.ADD" => {
            *filter.get_or_insert_default().count.get_or_insert_default() += 1;
            ":1\r\n".into()
        }
        _ => match filter.as_mut().and_then(|filter| filter.count.as_mut()) {
            None => "-Not found\r\n".into(),
            Some(count) if *count > 0 && replied == ":1\r\n" => {
                *count -= 1;
                replied.to_owned()
            }
            Some(_) => ":0\r\n".into(),
        },
    }
}

/// Runs a command on a vector set, and returns its reply.
pub fn reply_of_vectors(set: &mut VectorsModel, words: &[String]) -> String {
    let component = |at: usize| words[at].parse::<i64>().unwrap_or(0);
    match words[0].as_str() {
        "VADD" => {
            let vector = [component(4), component(5)];
            let given = words.iter().position(|word| word == "SETATTR").map(|at| words[at + 1].clone());
            let before = set.remove(&words[6]);
            let is_new = before.is_none();
            let kept = before.map(|(_, attributes)| attributes).unwrap_or_default();
            set.insert(words[6].clone(), (vector, given.unwrap_or(kept)));
            format!(":{}\r\n", u8::from(is_new))
        }
        "VREM" => format!(":{}\r\n", u8::from(set.remove(&words[2]).is_some())),
        "VSETATTR" => {
            let found = set.get_mut(&words[2]).map(|(_, attributes)| attributes.clone_from(&words[3]));
            format!(":{}\r\n", u8::from(found.is_some()))
        }
        "VGETATTR" => match set.get(&words[2]) {
            Some((_, attributes)) if !attributes.is_empty() => bulk(attributes),
            _ => "$-1\r\n".into(),
        },
        _ => format!(":{}\r\n", set.len()),
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

pub fn document_model(json: &Json) -> DocumentModel {
    let member = |(name, node): (Option<&[u8]>, dormouse_types::json::JsonNode<'_>)| {
        let number = match node.value() {
            JsonValue::Integer(number) => number,
            _ => i64::MIN,
        };
        (String::from_utf8_lossy(name.unwrap_or_default()).into_owned(), number)
    };
    json.root().children().map(member).collect()
}

pub fn filter_model(filter: &Filter) -> FilterModel {
    let items = (0..ITEMS).map(item);
    match filter.bloom() {
        Some(bloom) => {
            FilterModel { items: items.filter(|item| bloom.contains(item.as_bytes())).collect(), count: None }
        }
        None => FilterModel { items: BTreeSet::new(), count: filter.cuckoo().map(Cuckoo::items) },
    }
}

pub fn vectors_model(set: &VectorSet) -> VectorsModel {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let node = |id: u32| {
        let node = set.node(id);
        // A vector is kept as its direction and its length.
        let components = node.components();
        let component = |at: usize| components.get(at).map_or(i64::MIN, |component| component.round() as i64);
        (text(node.name()), ([component(0), component(1)], text(node.attributes())))
    };
    set.names_from(b"").map(node).collect()
}

#[cfg(test)]
mod tests {
    use dormouse_types::filter::Bloom;

    use super::*;

    #[test]
    fn bloom_filters_give_no_false_answer() {
        for seed in 0..2000 {
            let mut chance = Chance::new(seed);
            let mut bloom = Bloom::with_capacity(10, 0.000_000_1, 2, false).expect("it is small");
            let mut added = BTreeSet::new();
            for turn in 0..ITEMS {
                let number = chance.below(ITEMS);
                bloom.add(item(number).as_bytes());
                added.insert(number);
                if turn % 10 > 0 {
                    continue;
                }
                let found: BTreeSet<u64> =
                    (0..ITEMS).filter(|number| bloom.contains(item(*number).as_bytes())).collect();
                assert_eq!(found, added, "seed {seed}");
            }
        }
    }
}
