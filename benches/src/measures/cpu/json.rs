//! Whole JSON documents of 1 KiB, such as an order in a shop: strings, numbers, nested arrays and objects.
//!
//! The newest Redis has these commands only with a module. The rows have servers of their own, which hold nothing but
//! the documents, so the module is loaded in no other row.

use super::workloads::{KnownTo, Workload};
use crate::Result;
use crate::client::{Client, command};
use crate::load::{Commands, value};
use crate::report::Target;

const KEYS: u64 = 10_000;
const DOCUMENT_LENGTH: usize = 1024;

pub(super) fn workloads() -> Vec<Workload> {
    let of_best = |label: &str, commands: Commands| Workload {
        known_to: KnownTo::Redis8,
        ..Workload::new(label, commands, Target::OfBest(0.70))
    };
    let set = Commands::of_samples(KEYS, b"+OK\r\n", |index, request| {
        // Another document than the key had at first.
        write(index, index * 31 + 7, request);
    });
    let sample = format!("${DOCUMENT_LENGTH}\r\n{}\r\n", document(0));
    let get = Commands::of_samples(KEYS, sample.as_bytes(), |index, request| {
        command(request, &["JSON.GET", &key(index)].map(str::as_bytes));
    });
    vec![of_best("JSON.SET of 1 KiB", set), of_best("JSON.GET of 1 KiB", get)]
}

/// Fills a server with a document at each key.
pub(super) fn prepare(client: &mut Client) -> Result<()> {
    client.fill(KEYS, |index, request| write(index, index, request))
}

fn write(index: u64, of: u64, request: &mut Vec<u8>) {
    command(request, &["JSON.SET", &key(index), "$", &document(of)].map(str::as_bytes));
}

fn key(index: u64) -> String {
    format!("order:{index:010}")
}

/// A document without white space.
///
/// All have one length. Their numbers are written as they were read, so the replies of all servers have one length, too.
fn document(index: u64) -> String {
    let of = |count: u64, from: u64| from + index * 7_919 % count;
    let item = |at: u64| {
        let (product, count, price) = (of(90_000, 10_000 + at), 1 + (index + at) % 9, of(90, 10 + at));
        let tag = ["new", "red", "large"][(index + at) as usize % 3];
        [
            format!(r#"{{"sku":"P-{product}","title":"Notebook A5, \"dotted\"""#),
            format!(r#""count":{count},"price":{price}.25,"tags":["paper","{tag}"]}}"#),
        ]
        .join(",")
    };
    let (customer, total, second, is_gift) = (of(900_000, 100_000), of(900, 100), of(50, 10), index.is_multiple_of(2));
    let members = [
        format!(r#""id":"order-{index:08}","status":"paid","placed":"2026-03-14T09:26:{second}Z""#),
        format!(r#""total":{total}.75,"currency":"EUR","gift":{is_gift}"#),
        format!(r#""customer":{{"id":{customer},"name":"Ada Lovelace","email":"ada.{customer}@example.com""#),
        r#""verified":true,"referrer":null}"#.to_owned(),
        format!(r#""address":{{"street":"Rämistrasse {second}","city":"Zürich","zip":"80{second}""#),
        format!(r#""country":"CH","location":[47.37{second}1,8.54{second}3]}}"#),
        format!(r#""items":[{}]"#, (0..4).map(item).collect::<Vec<_>>().join(",")),
        format!(r#""events":[{{"at":17734803{second},"kind":"created"}},{{"at":17734804{second},"kind":"paid"}}]"#),
    ];
    let mut text = format!(r#"{{{},"note":""#, members.join(","));
    // The note fills the rest.
    let mut note = vec![0; DOCUMENT_LENGTH.saturating_sub(text.len() + 2)];
    value(index, &mut note);
    text.push_str(&String::from_utf8_lossy(&note));
    text.push_str("\"}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_one_length_and_their_text() {
        for index in (0..100).chain([KEYS - 1, (KEYS - 1) * 31 + 7]) {
            let text = document(index);
            assert_eq!(text.len(), DOCUMENT_LENGTH);
            let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(parsed["items"].as_array().map(Vec::len), Some(4));
            assert_ne!(text, document(index + 1));
        }
    }
}
