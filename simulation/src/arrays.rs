//! Arrays: commands over them, and the naive model of one.

use std::collections::BTreeMap;

use crate::chance::Chance;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArrayModel {
    pub elements: BTreeMap<u64, String>,
    /// The index that was last inserted at.
    pub last_insert: Option<u64>,
}

/// Returns a command over an array. Arrays have keys of their own.
pub fn command(chance: &mut Chance, keys: u64) -> Vec<String> {
    let c = chance;
    let key = format!("a{}", c.below(keys));
    // Near each other, in a few slices, or far apart.
    let near = c.pick(&[40, 300, 300, 20_000, 1 << 40]);
    let index = |c: &mut Chance| c.below(near).to_string();
    let text = |c: &mut Chance| {
        let length = c.pick(&[0, 0, 5, 40, 250]);
        match c.below(4) {
            0 => c.below(100_000).to_string(),
            1 => format!("{}.{}", c.below(100), c.below(1000)),
            _ => format!("v{}{}", c.below(1000), "y".repeat(length as usize)),
        }
    };
    match c.below(14) {
        0..3 => {
            let mut words = vec!["ARSET".to_owned(), key, index(c)];
            let many = c.pick(&[1, 3, 90]);
            words.extend((0..many).map(|_| text(c)));
            words
        }
        3 => vec!["ARMSET".to_owned(), key, index(c), text(c), index(c), text(c)],
        4 | 5 => vec!["ARINSERT".to_owned(), key, text(c), text(c)],
        6 => vec!["ARRING".to_owned(), key, (1 + c.below(60)).to_string(), text(c), text(c)],
        7 => vec!["ARDEL".to_owned(), key, index(c), index(c)],
        8 => vec!["ARDELRANGE".to_owned(), key, index(c), index(c)],
        9 => vec!["ARSEEK".to_owned(), key, index(c)],
        10 => vec!["ARNEXT".to_owned(), key],
        11 => vec!["ARLEN".to_owned(), key],
        12 => vec!["ARGET".to_owned(), key, index(c)],
        _ => vec!["ARSCAN".to_owned(), key, index(c), index(c)],
    }
}

/// Runs a command on an array, and returns its reply.
pub fn reply(array: &mut ArrayModel, words: &[String]) -> String {
    let number = |at: usize| words[at].parse::<u64>().unwrap_or(0);
    let ends = |at: usize| (number(at).min(number(at + 1)), number(at).max(number(at + 1)));
    match words[0].as_str() {
        "ARSET" => {
            let pairs = words[3..].iter().zip(number(2)..);
            integer(pairs.filter(|(text, index)| array.elements.insert(*index, (*text).clone()).is_none()).count())
        }
        "ARMSET" => {
            let pairs = words[2..].chunks(2);
            let is_new =
                |pair: &&[String]| array.elements.insert(pair[0].parse().unwrap_or(0), pair[1].clone()).is_none();
            integer(pairs.filter(is_new).count())
        }
        "ARINSERT" => {
            let mut index = 0;
            for text in &words[2..] {
                index = array.last_insert.map_or(0, |last| last + 1);
                array.elements.insert(index, text.clone());
                array.last_insert = Some(index);
            }
            integer(index)
        }
        "ARRING" => ring(array, number(2), &words[3..]),
        "ARDEL" => integer(
            words[2..].iter().filter(|at| array.elements.remove(&at.parse::<u64>().unwrap_or(0)).is_some()).count(),
        ),
        "ARDELRANGE" => {
            let (low, high) = ends(2);
            let before = array.elements.len();
            array.elements.retain(|index, _| !(low..=high).contains(index));
            integer(before - array.elements.len())
        }
        "ARSEEK" if array.elements.is_empty() => integer(0),
        "ARSEEK" => {
            array.last_insert = number(2).checked_sub(1);
            integer(1)
        }
        "ARNEXT" => integer(array.last_insert.map_or(0, |last| last + 1)),
        "ARLEN" => integer(array.elements.keys().last().map_or(0, |last| last + 1)),
        "ARGET" => array.elements.get(&number(2)).map_or("$-1\r\n".to_owned(), |text| bulk(text)),
        _ => {
            let (low, high) = ends(2);
            let mut found: Vec<String> = array
                .elements
                .range(low..=high)
                .map(|(index, text)| format!("*2\r\n{}{}", integer(*index), bulk(text)))
                .collect();
            if number(2) > number(3) {
                found.reverse();
            }
            format!("*{}\r\n{}", found.len(), found.concat())
        }
    }
}

/// A ring shrinks to its newest elements, and one that has wrapped is laid out from 0 on before it grows.
fn ring(array: &mut ArrayModel, size: u64, texts: &[String]) -> String {
    let span = array.elements.keys().last().map_or(0, |last| last + 1);
    let has_wrapped = array.last_insert.is_some_and(|last| last + 1 < span);
    if span > 0 && (size < span || size > span && has_wrapped) {
        let most = size.min(span);
        let mut at = array.last_insert.map_or(span - 1, |last| last % span);
        let mut kept = Vec::new();
        while (kept.len() as u64) < most
            && let Some(text) = array.elements.get(&at)
        {
            kept.push(text.clone());
            at = at.checked_sub(1).unwrap_or(span - 1);
        }
        kept.reverse();
        array.last_insert = (kept.len() as u64).checked_sub(1);
        array.elements = (0..).zip(kept).collect();
    }
    let mut index = 0;
    for text in texts {
        index = array.last_insert.map_or(0, |last| last + 1) % size;
        array.elements.insert(index, text.clone());
        array.last_insert = Some(index);
    }
    integer(index)
}

fn integer(n: impl std::fmt::Display) -> String {
    format!(":{n}\r\n")
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}
