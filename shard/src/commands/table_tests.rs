//! Properties of every row: it is complete, and it does not contradict itself. A test of the server compares all rows with
//! those of other servers.

use std::collections::BTreeSet;

use dormouse_protocol::OwnedRequest;

use super::{Category, Command, FAMILIES, Find, Flags, KeySpec, Run};

/// Every command and subcommand with its family's category and its name as Redis spells it: `object|encoding`.
fn rows() -> Vec<(String, Category, &'static Command<Run>)> {
    let mut rows = Vec::new();
    for family in FAMILIES {
        for command in family.commands {
            let name = command.row.name.to_lowercase();
            for sub in command.subcommands {
                rows.push((format!("{name}|{}", sub.row.name.to_lowercase()), family.category, sub));
            }
            rows.push((name, family.category, command));
        }
    }
    rows
}

#[test]
fn names_are_unique_and_upper_case() {
    let mut seen = BTreeSet::new();
    for (name, _, command) in rows() {
        assert_eq!(command.row.name, command.row.name.to_uppercase());
        assert!(seen.insert(name.clone()), "{name} stands twice");
    }
}

#[test]
fn the_arity_covers_the_keys() {
    for (name, _, Command { row, .. }) in rows() {
        let least = i64::from(row.arity.0.abs());
        for spec in row.keys {
            let needed = match spec.find {
                // A run to the end may be empty: `PFMERGE destination`.
                Find::Range { first, last: ..0, .. } => i64::from(first) - 1,
                Find::Range { first, last, .. } => i64::from(first) + i64::from(last),
                // A script may have no keys.
                Find::Counted { at, .. } if row.flags.contains(Flags::NO_MANDATORY_KEYS) => i64::from(at),
                Find::Counted { at, .. } => i64::from(at) + 1,
                Find::Store | Find::After { .. } | Find::Streams { .. } | Find::Unknown => 0,
            };
            assert!(needed < least, "{name} may be too short for its keys");
        }
    }
}

#[test]
fn a_command_reads_or_writes() {
    for (name, _, Command { row, .. }) in rows() {
        let (reads, writes) = (row.flags.contains(Flags::READ), row.flags.contains(Flags::WRITE));
        assert!(!(reads && writes), "{name}");
        // What a script does with its keys is up to it.
        let is_known = !row.flags.contains(Flags::NO_MANDATORY_KEYS);
        assert!(reads || writes || row.keys.is_empty() || !is_known, "{name} has keys and does nothing with them");
        assert!(writes || !row.flags.contains(Flags::DENY_OOM), "{name} needs memory and does not write");
    }
}

#[test]
fn what_writes_by_more_than_one_key_records_by_key() {
    for (name, _, Command { row, .. }) in rows() {
        let one = matches!(row.keys, [KeySpec { find: Find::Range { last: 0, .. }, .. }]);
        if row.flags.contains(Flags::WRITE) && !row.keys.is_empty() && !one {
            assert!(row.flags.contains(Flags::BY_KEY), "{name}");
        }
    }
}

#[test]
fn what_takes_the_whole_does_not_name_all_its_keys() {
    for (name, _, Command { row, .. }) in rows() {
        let unknown = row.keys.iter().any(|spec| spec.find == Find::Unknown);
        if row.flags.intersects(Flags::WHOLE | Flags::BY_CURSOR) {
            assert!(row.keys.is_empty() || unknown, "{name}");
        } else {
            assert!(!unknown, "{name} looks for keys on shards that it does not hold");
        }
    }
}

#[test]
fn keys_of_other_indexes_are_known() {
    let elsewhere = |words: &[&[u8]]| {
        let request = OwnedRequest::from_args(words);
        let request = request.as_request();
        let (row, _) = super::find(request).expect("the command is ours");
        row.elsewhere.and_then(|elsewhere| elsewhere(request))
    };
    assert_eq!(elsewhere(&[b"MOVE", b"k", b"3"]), Some((3, 1)));
    assert_eq!(elsewhere(&[b"MOVE", b"k", b"16"]), None);
    assert_eq!(elsewhere(&[b"COPY", b"a", b"b"]), None);
    assert_eq!(elsewhere(&[b"COPY", b"a", b"b", b"REPLACE", b"db", b"5"]), Some((5, 2)));
    assert_eq!(elsewhere(&[b"COPY", b"a", b"b", b"DB"]), None);
    assert_eq!(elsewhere(&[b"RENAME", b"a", b"b"]), None);
}

#[test]
fn the_key_after_store_is_found() {
    let keys = |words: &[&[u8]]| {
        let request = OwnedRequest::from_args(words);
        let request = request.as_request();
        let (row, _) = super::find(request).expect("SORT is ours");
        row.key_indexes(request).collect::<Vec<_>>()
    };
    assert_eq!(keys(&[b"SORT", b"k"]), [1]);
    assert_eq!(keys(&[b"SORT", b"k", b"store", b"d"]), [1, 3]);
    assert_eq!(keys(&[b"SORT", b"k", b"STORE", b"d", b"STORE", b"e", b"ALPHA"]), [1, 5]);
    assert_eq!(keys(&[b"SORT", b"k", b"STORE"]), [1]);
    assert_eq!(keys(&[b"SORT", b"STORE", b"d"]), [1]);
}

#[test]
fn the_keys_of_counted_pairs_are_found() {
    let keys = |line: &str| {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let request = OwnedRequest::from_args(&words);
        let (row, _) = super::find(request.as_request()).expect("the command is ours");
        let mut each = Vec::new();
        row.for_each_key(request.as_request(), |key| each.push(key));
        assert_eq!(row.key_indexes(request.as_request()).collect::<Vec<_>>(), each, "{line}");
        each
    };
    assert_eq!(keys("MSETEX 2 a 1 b 2"), [2, 4]);
    assert_eq!(keys("MSETEX 1 a 1 EX 5"), [2]);
    assert_eq!(keys("MSETEX 2 a 1 b"), [2, 4]);
    assert_eq!(keys("MSETEX 3 a 1 b 2"), [0; 0]);
    assert_eq!(keys("MSETEX 0 a 1"), [0; 0]);
    assert_eq!(keys("MSETEX -1 a 1"), [0; 0]);
    assert_eq!(keys("MSETEX 18446744073709551615 a 1"), [0; 0]);
    assert_eq!(keys("SDIFFCARD 2 a b LIMIT 1"), [2, 3]);
}

#[test]
fn the_keys_after_streams_are_found() {
    let keys = |line: &str| {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let request = OwnedRequest::from_args(&words);
        let (row, _) = super::find(request.as_request()).expect("the command is ours");
        row.key_indexes(request.as_request()).collect::<Vec<_>>()
    };
    assert_eq!(keys("XREAD COUNT 5 streams a b 0 $"), [4, 5]);
    assert_eq!(keys("XREAD STREAMS STREAMS 0"), [2]);
    assert_eq!(keys("XREAD STREAMS a b 0"), [0; 0]);
    assert_eq!(keys("XREAD COUNT 5 a STREAMS b 0"), [0; 0]);
    assert_eq!(keys("XREADGROUP NOACK GROUP STREAMS streams BLOCK 5 STREAMS a >"), [8]);
}

#[test]
fn every_command_is_documented() {
    for (name, _, Command { row, .. }) in rows() {
        for (what, text) in [("summary", row.summary), ("since", row.since), ("complexity", row.complexity)] {
            assert!(!text.is_empty(), "{name} lacks its {what}");
        }
        assert_eq!(row.since.split('.').count(), 3, "{name} is since {:?}", row.since);
    }
}

#[test]
fn every_flag_has_a_bit_of_its_own() {
    // An iteration over values would leave out the second of two flags with one bit.
    let flags = <Flags as bitflags::Flags>::FLAGS.iter().map(|flag| (flag.name(), flag.value().bits()));
    let categories = <Category as bitflags::Flags>::FLAGS.iter().map(|flag| (flag.name(), flag.value().bits().into()));
    for named in [flags.collect::<Vec<(&str, u64)>>(), categories.collect()] {
        let mut taken = 0;
        for (name, bits) in named {
            assert_eq!(bits.count_ones(), 1, "{name}");
            assert_eq!(taken & bits, 0, "{name} has the bit of another flag");
            taken |= bits;
        }
    }
}
