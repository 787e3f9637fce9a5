use super::super::testing::{MemorySink, frame, identity, numbers, recover};
use super::*;

fn head(number: u64, lsn: u64) -> Vec<u8> {
    FileHead { writer: 1, number, lsn }.encode().to_vec()
}

/// Two frames, and where the first ends. Databases `a` and `b` are in both, `c` is in the first only.
fn two_frames() -> (Vec<u8>, usize) {
    let mut file = head(1, 0);
    let lsn = frame(&mut file, 0, 0, &[(0, 1), (2, 1), (1, 1), (0, 2)]);
    let middle = file.len();
    frame(&mut file, lsn, lsn, &[(1, 2), (0, 3)]);
    (file, middle)
}

const ALL: [(&str, &[u64]); 3] = [("a", &[1, 2, 3]), ("b", &[1, 2]), ("c", &[1])];

#[test]
fn a_torn_tail_is_cut_off() {
    let (file, middle) = two_frames();
    for length in 0..=file.len() {
        // A sector is written whole or not at all.
        for zeros in [0, if length == 0 || length >= HEADER_BYTES { 100 } else { 0 }] {
            let mut torn = file[..length].to_vec();
            torn.resize(length + zeros, 0);
            let mut sink = MemorySink::of([((1, 1), torn)]);
            let mut recovered = take_over(&mut sink).unwrap().0;
            let (whole, a): (usize, &[u64]) = match length {
                length if length == file.len() => (length, &[1, 2, 3]),
                length if length >= middle => (middle, &[1, 2]),
                _ => (HEADER_BYTES, &[]),
            };
            let entries = recovered.take(&identity("a"));
            assert_eq!(entries.damage, None, "cut to {length}");
            assert_eq!(numbers(&entries), a, "cut to {length}");
            if length >= HEADER_BYTES {
                assert_eq!(sink.0.lock().cut, [(1, whole as u64)], "cut to {length}");
            }
        }
    }
}

/// Only what may not have been durable is written again.
#[test]
fn what_the_frames_say_is_durable_is_left_alone() {
    let mut first = head(1, 0);
    let one = frame(&mut first, 0, 0, &[(0, 1)]);
    let of_one = first.len() as u64;
    let two = frame(&mut first, one, 0, &[(0, 2)]);
    let of_two = first.len() as u64;
    let three = frame(&mut first, two, one, &[(0, 3)]);
    let mut second = head(2, three);
    frame(&mut second, three, three, &[(0, 4)]);
    let durable_of = |files: &[(u64, &[u8])]| {
        let files = files.iter().map(|(number, file)| ((1, *number), file.to_vec()));
        let mut sink = MemorySink::of(files);
        take_over(&mut sink).unwrap();
        sink.0.lock().durable.clone()
    };
    let upto = |end: u64| &first[..end as usize];
    assert_eq!(durable_of(&[(1, upto(of_one))]), [0], "not even its head");
    assert_eq!(durable_of(&[(1, upto(of_two))]), [0], "nothing says so");
    assert_eq!(durable_of(&[(1, &first)]), [of_one]);
    assert_eq!(durable_of(&[(1, &first), (2, &second)]), [0], "the last file is new");
}

#[test]
fn no_flipped_bit_makes_wrong_data_or_loses_what_was_durable() {
    let (file, middle) = two_frames();
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut flipped = file.clone();
            flipped[at] ^= 1 << bit;
            let mut recovered = recover([(1, flipped)]);
            for (name, all) in ALL {
                let entries = recovered.take(&identity(name));
                let found = numbers(&entries);
                assert!(found.iter().all(|number| all.contains(number)), "bit {bit} of byte {at}: {name} {found:?}");
                if at < middle {
                    assert!(entries.damage.is_some(), "bit {bit} of byte {at}: nobody knows of it in {name}");
                } else if entries.damage.is_none() {
                    assert!(found.len() >= all.len() - usize::from(name != "c"), "bit {bit} of byte {at}: {name}");
                }
            }
        }
    }
}

#[test]
fn what_was_written_again_counts_once() {
    let (mut first, mut second) = (head(1, 0), Vec::new());
    let one = frame(&mut first, 0, 0, &[(0, 1)]);
    let two = frame(&mut first, one, one, &[(0, 2), (1, 1)]);
    // The answer to the second frame was an error, although it was written.
    second.extend(head(2, one));
    frame(&mut second, one, one, &[(0, 2), (1, 1)]);
    frame(&mut second, two, two, &[(0, 3)]);
    let mut recovered = recover([(1, first.clone()), (2, second.clone())]);
    assert_eq!(numbers(&recovered.take(&identity("a"))), [1, 2, 3]);
    assert_eq!(numbers(&recovered.take(&identity("b"))), [1]);
    // Or half of it.
    first.truncate(first.len() - 20);
    let mut recovered = recover([(1, first), (2, second)]);
    let entries = recovered.take(&identity("a"));
    assert_eq!((numbers(&entries), entries.damage), (vec![1, 2, 3], None));
}

#[test]
fn a_lost_end_of_a_file_is_damage_where_a_later_file_goes_on() {
    let (mut first, mut second) = (head(1, 0), Vec::new());
    let one = frame(&mut first, 0, 0, &[(0, 1)]);
    let end = first.len();
    let two = frame(&mut first, one, one, &[(2, 1)]);
    second.extend(head(2, two));
    frame(&mut second, two, two, &[(0, 2)]);
    for length in end..first.len() {
        let mut recovered = recover([(1, first[..length].to_vec()), (2, second.clone())]);
        for name in ["a", "c"] {
            let damage = recovered.take(&identity(name)).damage;
            assert!(
                damage.as_ref().is_some_and(|damage| damage.contains("lacks")),
                "{name} cut to {length}: {damage:?}"
            );
        }
    }
}

#[test]
fn files_that_nobody_needed_are_missing_from_between_others() {
    let mut files = Vec::new();
    let mut lsn = 0;
    for number in 1..=3 {
        let mut file = head(number, lsn);
        lsn = frame(&mut file, lsn, lsn, &[(number as u32 % 2, number)]);
        files.push((number, file));
    }
    files.remove(1);
    let mut recovered = recover(files);
    let entries = recovered.take(&identity("b"));
    assert_eq!((numbers(&entries), entries.damage), (vec![1, 3], None));
}

#[test]
fn logs_of_several_processes_follow_each_other() {
    let log = |writer, of: &[(u32, u64)]| {
        let mut file = FileHead { writer, number: 1, lsn: 0 }.encode().to_vec();
        frame(&mut file, 0, 0, of);
        ((writer, 1), file)
    };
    // Writers are numbers without an order.
    let mut sink = MemorySink::of([log(9, &[(0, 1), (1, 1)]), log(2, &[(0, 2)])]);
    let (mut recovered, files) = take_over(&mut sink).unwrap();
    assert_eq!(files.len(), 2);
    assert_eq!(numbers(&recovered.take(&identity("a"))), [1, 2]);
    assert_eq!(numbers(&recovered.take(&identity("b"))), [1]);
}

#[test]
fn a_damaged_log_is_kept() {
    let (mut file, _) = two_frames();
    file[HEADER_BYTES + 50] ^= 1;
    let mut sink = MemorySink::of([((1, 1), file)]);
    let (_, files) = take_over(&mut sink).unwrap();
    let mut ledger = super::super::ledger::Ledger::new(files);
    for name in ["a", "b", "c"] {
        ledger.settled(&identity(name), u64::MAX);
    }
    assert_eq!(ledger.unneeded(None).len(), 0);
    assert_eq!(sink.0.lock().cut, []);
}

#[test]
fn a_file_whose_first_page_was_not_written_was_never_durable() {
    let mut file = head(1, 0);
    let of: Vec<(u32, u64)> = (1..200).map(|sequence| (0, sequence)).collect();
    let lsn = frame(&mut file, 0, 0, &of);
    let one = file.len();
    file[..4096].fill(0);
    let entries = recover([(1, file.clone())]).take(&identity("a"));
    assert_eq!((numbers(&entries), entries.damage), (vec![], None));
    // It was where another frame follows.
    file.truncate(one);
    frame(&mut file, lsn, lsn, &[(0, 200)]);
    assert!(recover([(1, file)]).take(&identity("a")).damage.is_some());
}

#[test]
fn what_looks_like_frames_does_not_take_forever() {
    let mut file = head(1, 0);
    file.extend_from_slice(b"torn");
    let end: usize = 4 << 20;
    while file.len() + 40 < end {
        let left = (end - file.len() - 48) as u64;
        file.extend_from_slice(FRAME_MAGIC);
        file.extend_from_slice(&0u32.to_le_bytes());
        [9u64, 9, 0, left].iter().for_each(|field| file.extend_from_slice(&field.to_le_bytes()));
    }
    file.resize(end, 1);
    // Each checksum is over 2 MiB on average: all of them would take an hour. Nothing can tell what was there.
    assert!(recover([(1, file)]).take(&identity("a")).damage.is_some());
}
