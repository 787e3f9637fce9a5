use std::sync::Arc;

use futures::executor::block_on;
use object_store::memory::InMemory;
use proptest::prelude::*;

use super::{
    sharing::{Folder, put_left_list},
    *,
};
use crate::{
    codec::tests::for_each_damage,
    store::{FaultyStore, Store, StoreFault},
};

fn sample() -> Manifest {
    let names = Names::new("My App").unwrap();
    let mut manifest = Manifest::new("My App", 0xfeed, 77, 1_700_000_000_000);
    manifest.number = 41;
    manifest.epoch = 3;
    manifest.sequence = 9000;
    manifest.next_object = 12;
    manifest.keyspaces.swap(0, 3);
    manifest.next_keyspace = 20;
    manifest.shard_cuts = vec![5, 8192, 16383];
    for counter in [9, 10] {
        manifest.chunks.push(ChunkInfo { name: names.chunk(3, 77, counter), bytes: 10_000 });
    }
    let (low, high) = Range53::WHOLE.halves();
    for (at, (keyspace, range)) in
        [(0, low), (0, high.halves().1), (3, Range53::WHOLE), (7, high)].into_iter().enumerate()
    {
        manifest.segments.push(SegmentInfo {
            keyspace,
            range,
            location: SegmentLocation { chunk: 1 - at as u32 / 2, offset: 12 + 100 * (at as u64 % 2), len: 100 },
            records: 1000,
            expiring: 10 * at as u32,
            heap_bytes: 123_456,
            sequence: 9000 - at as u64,
            seen: 9000,
            crc: u64::MAX / (at as u64 + 1),
        });
    }
    for counter in [8, 11] {
        let name = names.tail(3, 77, counter);
        manifest.tails.push(TailInfo { name, bytes: 99, effects: 4, from_sequence: 8990 });
    }
    manifest.meters = b"requests".to_vec();
    manifest.cut = 9010;
    manifest.source = Some("shop".to_owned());
    manifest.expires_ms = Some(1_700_000_000_001);
    manifest.settings.insert("loss-window".to_owned(), "0".to_owned());
    manifest
}

#[test]
fn a_manifest_survives() {
    let manifest = sample();
    manifest.check().unwrap();
    assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
    assert_eq!(manifest.segments_of(0).len(), 2);
    assert_eq!(manifest.segments_of(3).len(), 1);
    assert_eq!(manifest.segments_of(5), []);
    assert_eq!(manifest.objects().count(), 4);
    assert_eq!(manifest.stored_bytes(), 20_198);
    let new = Manifest::new("default", 1, 2, 3);
    assert_eq!(Manifest::decode(&new.encode()).unwrap(), new);
}

#[test]
fn consecutive_segments_take_little_room() {
    let mut manifest = Manifest::new("default", 1, 2, 3);
    manifest.chunks.push(ChunkInfo { name: Names::new("default").unwrap().chunk(1, 2, 3), bytes: u64::MAX });
    for at in 0..4096u64 {
        manifest.segments.push(SegmentInfo {
            keyspace: 0,
            range: Range53 { start: at << 41, bits: 41 },
            location: SegmentLocation { chunk: 0, offset: at * 1000, len: 1000 },
            records: 2000,
            expiring: 0,
            heap_bytes: 300_000,
            sequence: 1_000_000,
            seen: 1_000_000,
            crc: at.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        });
    }
    let bytes = manifest.encode();
    assert!(bytes.len() < 4096 * 26, "{} bytes a segment", bytes.len() / 4096);
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
}

/// A manifest in two levels: `segments` of one keyspace, those of others, and pieces.
fn paged_sample(segments: u64) -> Manifest {
    let mut manifest = sample();
    manifest.segments.clear();
    manifest.shard_cuts = vec![8192];
    let bits = 53 - segments.next_power_of_two().ilog2() as u8;
    for (keyspace, at) in (0..segments).map(|at| (0, at)).chain((0..3).map(|at| (7, at))) {
        let sequence = 9000 - at % 7;
        manifest.segments.push(SegmentInfo {
            keyspace,
            range: Range53 { start: at << bits, bits },
            location: SegmentLocation { chunk: (at % 2) as u32, offset: 12 + at, len: 100 },
            records: 1000 + at as u32,
            expiring: at as u32,
            heap_bytes: 123_456,
            sequence,
            seen: sequence + u64::from(at == 20),
            crc: at.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        });
        if at % 50 == 1 {
            let location = SegmentLocation { chunk: 1, offset: 5000 + at, len: 9 };
            manifest.pieces.push(PieceInfo { keyspace, start: at << bits, number: 1, location, crc: at });
        }
    }
    manifest
}

#[test]
fn a_manifest_of_many_segments_has_pages() {
    block_on(async {
        for segments in [format::WHOLE_SEGMENTS_MAX as u64 - 2, 200, 3000] {
            let store = Store::memory();
            let mut manifest = paged_sample(segments);
            (manifest.number, manifest.source) = (0, None);
            commit(&store, &mut manifest).await.unwrap();
            assert_eq!(latest(&store, "My App").await.unwrap().unwrap(), manifest);
            let paged = latest_root(&store, "My App").await.unwrap().unwrap();
            assert!(paged.known.segments.is_empty() && paged.whole().is_none());
            assert_eq!(*paged.read_all(&store).await.unwrap(), manifest);
            assert!(paged.known.objects().eq(manifest.objects()));
            let (readable, damaged) = paged.read_readable(&store).await.unwrap();
            assert!(readable == manifest && damaged.is_empty());
            assert_eq!(paged.shard_cuts(), manifest.shard_cuts);
            for keyspace in [0, 3, 7] {
                let mut keys = manifest.segments_of(keyspace).iter().map(|segment| u64::from(segment.records));
                assert_eq!(paged.counts_of(keyspace).0, keys.by_ref().sum::<u64>());
            }
            let tailed = paged.pages.iter().filter(|page| page.is_tailed);
            assert!(tailed.map(|page| page.keyspace).eq([0]));
            for page in &paged.pages {
                assert!(page.segments <= 32);
                let read = paged.read_page(&store, page).await.unwrap();
                assert!(read.segments.iter().all(|segment| manifest.pieces_of(segment).len() <= read.pieces.len()));
            }
        }
    });
}

proptest! {
    #[test]
    fn pages_hold_all_segments_in_order(
        halvings in proptest::collection::vec(any::<u64>(), 0..400),
        cuts in proptest::collection::btree_set(1u16..SLOTS, 0..9),
        crowded: bool,
    ) {
        let mut ranges = vec![Range53::WHOLE];
        for halving in halvings {
            // Crowds at one position, as keys of one slot are.
            let at = if crowded { ranges.len() - 1 } else { (halving % ranges.len() as u64) as usize };
            if ranges[at].bits > 0 {
                let (low, high) = ranges[at].halves();
                ranges.splice(at..at + 1, [low, high]);
            }
        }
        let cuts: Vec<u16> = cuts.into_iter().collect();
        let mut segments = Vec::new();
        for keyspace in [2, 5] {
            let sample = sample().segments[0];
            segments.extend(ranges.iter().map(|&range| SegmentInfo { keyspace, range, ..sample }));
        }
        let pages = page::cut(&segments, &cuts);
        prop_assert!(pages.iter().flat_map(|(_, segments)| segments.iter()).eq(&segments));
        for (range, segments) in pages {
            prop_assert!(segments.len() <= 32);
            let inside = |segment: &SegmentInfo| {
                segment.range.start >= range.start && segment.range.end() <= range.end()
            };
            prop_assert!(segments.iter().all(inside));
            let through = |cut: &&u16| range.start < u64::from(**cut) << 39 && u64::from(**cut) << 39 < range.end();
            prop_assert!(segments.len() == 1 || cuts.iter().find(through).is_none());
        }
    }
}

#[test]
fn a_damaged_page_spoils_no_other() {
    block_on(async {
        let faulty = FaultyStore::new(Arc::new(InMemory::new()));
        let store = Store::over(faulty.clone(), "memory://");
        let mut manifest = paged_sample(1000);
        (manifest.number, manifest.source) = (0, None);
        commit(&store, &mut manifest).await.unwrap();
        let name = Names::new("My App").unwrap().manifest(1);
        faulty.flip(&name, 30);
        let paged = latest_root(&store, "My App").await.unwrap().unwrap();
        let error = paged.read_page(&store, &paged.pages[0]).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: page 0x0/")) && error.contains("checksum"), "{error}");
        assert!(paged.read_page(&store, &paged.pages[1]).await.is_ok());
        assert!(matches!(paged.read_all(&store).await, Err(StoreError::Corrupt { .. })));
        assert!(matches!(latest(&store, "My App").await, Err(StoreError::Corrupt { .. })));
        let (readable, damaged) = paged.read_readable(&store).await.unwrap();
        assert_eq!(readable.segments, manifest.segments[paged.pages[0].segments as usize..]);
        assert_eq!(damaged.len(), 1);
        // The objects that it names are known all the same, so none of them is garbage.
        for chunk in &manifest.chunks {
            store.put_new(&chunk.name, "").await.unwrap();
        }
        commit(&store, &mut manifest).await.unwrap();
        collect_garbage(&store, &manifest).await.unwrap();
        for chunk in &manifest.chunks {
            assert!(store.get(&chunk.name).await.is_ok());
        }
    });
}

#[test]
fn pages_that_are_held_outlive_their_object() {
    block_on(async {
        let store = Store::memory();
        let mut manifest = paged_sample(4000);
        (manifest.number, manifest.source) = (0, None);
        commit(&store, &mut manifest).await.unwrap();
        let read = latest_root(&store, "My App").await.unwrap().unwrap();
        let held = read.clone().held(&store).await.unwrap();
        store.delete(&Names::new("My App").unwrap().manifest(1)).await.unwrap();
        assert!(read.read_page(&store, &read.pages[0]).await.unwrap_err().is_missing());
        assert!(read.read_all(&store).await.unwrap_err().is_missing());
        assert_eq!(*held.read_all(&store).await.unwrap(), manifest);
    });
}

/// Nothing of it is needed, so nothing is refused for it.
#[test]
fn a_damaged_header_spoils_no_page() {
    block_on(async {
        let faulty = FaultyStore::new(Arc::new(InMemory::new()));
        let store = Store::over(faulty.clone(), "memory://");
        let mut manifest = paged_sample(1000);
        (manifest.number, manifest.source) = (0, None);
        commit(&store, &mut manifest).await.unwrap();
        faulty.flip(&Names::new("My App").unwrap().manifest(1), 3);
        let paged = latest_root(&store, "My App").await.unwrap().unwrap();
        assert_eq!(*paged.read_all(&store).await.unwrap(), manifest);
        assert_eq!(latest(&store, "My App").await.unwrap().unwrap(), manifest);
    });
}

#[test]
fn every_damage_of_a_paged_manifest_is_noticed() {
    let bytes = paged_sample(70).encode();
    assert_eq!(bytes[8], 5);
    for_each_damage(&bytes, |damaged| Manifest::decode(damaged).is_err());
}

#[test]
fn every_damage_is_noticed() {
    for_each_damage(&sample().encode(), |damaged| Manifest::decode(damaged).is_err());
}

#[test]
fn what_does_not_hold_together_is_refused() {
    let refused = |change: fn(&mut Manifest), problem: &str| {
        let mut manifest = sample();
        change(&mut manifest);
        assert_eq!(manifest.check(), Err(problem));
        assert!(Manifest::decode(&manifest.encode()).is_err(), "{problem}");
        let error = block_on(commit(&Store::memory(), &mut manifest)).unwrap_err().to_string();
        assert!(error.contains(problem) || problem == "database name", "{error}");
    };
    refused(|m| m.database.clear(), "database name");
    refused(|m| m.shard_cuts = vec![0], "shard cuts are not ascending slots");
    refused(|m| m.shard_cuts = vec![7, 7], "shard cuts are not ascending slots");
    refused(|m| m.shard_cuts = vec![16384], "shard cuts are not ascending slots");
    refused(|m| m.next_keyspace = 15, "a SELECT index shows a keyspace that does not exist yet");
    refused(|m| m.segments.swap(0, 1), "segments overlap or are out of order");
    refused(|m| m.segments[1].range = Range53::WHOLE, "segments overlap or are out of order");
    refused(|m| m.segments[1].location.chunk = 2, "segment in a chunk that is not listed");
    refused(|m| m.segments[1].location.offset = u64::MAX, "segment beyond the end of its chunk");
    refused(|m| m.cut = m.sequence - 1, "the cut lies before what it must hold");
    refused(|m| m.segments[1].seen = 1, "a segment's body has more than was seen of it");
    refused(|m| m.segments[1].expiring = 1001, "more expiries than records");
}

proptest! {
    #[test]
    fn noise_is_no_manifest(bytes: Vec<u8>, valid_header: bool) {
        let mut object = Vec::new();
        if valid_header {
            object.extend_from_slice(b"DMMANIF\n\x01\0\0\0");
            crate::codec::block::seal_into(&bytes, &mut object);
        } else {
            object = bytes;
        }
        prop_assert!(Manifest::decode(&object).is_err());
    }
}

#[test]
fn only_one_of_two_writers_commits() {
    block_on(async {
        let store = Store::memory();
        assert_eq!(latest(&store, "a").await.unwrap(), None);
        let mut first = Manifest::new("a", 1, 100, 0);
        commit(&store, &mut first).await.unwrap();
        assert_eq!(first.number, 1);

        let mut second = latest(&store, "a").await.unwrap().unwrap();
        assert_eq!(second, first);
        second.epoch += 1;
        second.writer = 200;
        commit(&store, &mut second).await.unwrap();
        let fenced = commit(&store, &mut first).await.unwrap_err();
        assert_eq!(fenced.to_string(), "database `a` was taken over by another writer: manifest 2 exists already");
        assert_eq!(first.number, 1);
        assert!(matches!(collect_garbage(&store, &first).await, Err(StoreError::Fenced { number: 2, .. })));
        assert_eq!(latest(&store, "a").await.unwrap().unwrap(), second);
    });
}

#[test]
fn two_manifests_are_kept_from_the_first_commit_on() {
    block_on(async {
        let store = Store::memory();
        let mut manifest = sample();
        (manifest.number, manifest.source) = (0, None);
        commit(&store, &mut manifest).await.unwrap();
        let kept = history(&store, "My App").await.unwrap();
        let [(1, Ok(first)), (0, Ok(copy))] = &kept[..] else { panic!("{kept:?}") };
        assert_eq!(Manifest { number: 1, ..Manifest::clone(&copy.known) }, *first.known);
        commit(&store, &mut manifest).await.unwrap();
        collect_garbage(&store, &manifest).await.unwrap();
        let kept = history(&store, "My App").await.unwrap();
        assert!(matches!(kept[..], [(2, Ok(_)), (1, Ok(_))]));
    });
}

#[test]
fn a_branch_that_has_lost_its_manifests_is_told_from_one_that_was_deleted() {
    block_on(async {
        let store = Store::memory();
        let names = Names::new("a").unwrap();
        let mut source = Manifest::new("a", 1, 100, 0);
        source.chunks = vec![ChunkInfo { name: names.chunk(1, 100, 0), bytes: 5 }];
        store.put_new(&source.chunks[0].name, "12345").await.unwrap();
        commit(&store, &mut source).await.unwrap();
        let lost = || async { lost_branches(&store, "a").await.unwrap() };
        for turn in 0..3 {
            let mut branch = Manifest { database: "b".to_owned(), source: Some("a".to_owned()), ..source.clone() };
            create_branch(&store, &source, &mut branch).await.unwrap();
            assert_eq!(history(&store, "b").await.unwrap().len(), 2);
            assert_eq!(lost().await, []);
            match turn {
                0 => delete_database(&store, "b").await.unwrap(),
                // A process that ended in the midst of it.
                1 => {
                    let folder = Folder::list(&store, &Names::new("b").unwrap()).await.unwrap();
                    put_left_list(&store, &Names::new("b").unwrap(), &folder).await.unwrap();
                    for number in folder.manifests {
                        store.delete(&Names::new("b").unwrap().manifest(number)).await.unwrap();
                    }
                    assert_eq!(lost().await, []);
                    sweep(&store, 0).await.unwrap();
                }
                _ => {
                    for number in 0..2 {
                        store.delete(&Names::new("b").unwrap().manifest(number)).await.unwrap();
                    }
                    let lost = lost().await;
                    assert!(lost.len() == 1 && lost[0].to_string().contains("branch `b` of database `a`"), "{lost:?}");
                    continue;
                }
            }
            assert_eq!(lost().await, []);
            assert_eq!(store.list("db/b").await.unwrap(), []);
        }
    });
}

#[test]
fn a_commit_whose_answer_was_lost_is_no_stranger() {
    block_on(async {
        let faulty = FaultyStore::new(Arc::new(InMemory::new()));
        let store = Store::over(faulty.clone(), "memory://");
        let mut manifest = Manifest::new("a", 1, 100, 0);
        for changed in [false, true] {
            let before = manifest.number;
            faulty.fail_put_after(0, StoreFault::Unanswered);
            assert!(matches!(commit(&store, &mut manifest).await, Err(StoreError::Unavailable { .. })));
            assert_eq!(manifest.number, before);
            manifest.cut += u64::from(changed);
            commit(&store, &mut manifest).await.unwrap();
            assert_eq!(manifest.number, before + if changed { 2 } else { 1 });
            assert_eq!(latest(&store, "a").await.unwrap().unwrap(), manifest);
        }
        faulty.fail_put_after(0, StoreFault::Full);
        let before = manifest.number;
        assert!(matches!(commit(&store, &mut manifest).await, Err(StoreError::Full { .. })));
        commit(&store, &mut manifest).await.unwrap();
        assert_eq!(manifest.number, before + 1);
    });
}

#[test]
fn garbage_is_what_the_last_two_manifests_do_not_name() {
    block_on(async {
        let store = Store::memory();
        let names = Names::new("a").unwrap();
        let mut manifest = Manifest::new("a", 1, 100, 0);
        for counter in 0..4 {
            let name = names.chunk(1, 100, counter);
            store.put_new(&name, "12345").await.unwrap();
            manifest.chunks = vec![ChunkInfo { name, bytes: 5 }];
            manifest.next_object = counter + 1;
            commit(&store, &mut manifest).await.unwrap();
        }
        let tail = names.tail(1, 100, 4);
        let upcoming = names.chunk(1, 100, 5);
        let newer_writer = names.chunk(2, 300, 0);
        let older_writer = names.chunk(1, 300, 9);
        let stranger = format!("{}/readme", names.chunks());
        for name in [&tail, &upcoming, &newer_writer, &older_writer, &stranger] {
            store.put_new(name, "12345").await.unwrap();
        }
        manifest.next_object = 5;
        assert_eq!(history(&store, "a").await.unwrap().len(), 5);
        let garbage = collect_garbage(&store, &manifest).await.unwrap();
        assert_eq!(garbage, Garbage { objects: 7, bytes: 20 });
        let mut left: Vec<_> =
            store.list(names.folder()).await.unwrap().into_iter().map(|object| object.name).collect();
        let mut expected = vec![names.manifest(3), names.manifest(4), names.chunk(1, 100, 2), names.chunk(1, 100, 3)];
        expected.extend([upcoming, newer_writer, stranger]);
        left.sort();
        expected.sort();
        assert_eq!(left, expected);
        assert_eq!(collect_garbage(&store, &manifest).await.unwrap(), Garbage::default());
    });
}

#[test]
fn damaged_and_misplaced_manifests_are_named() {
    block_on(async {
        let faulty = FaultyStore::new(Arc::new(InMemory::new()));
        let store = Store::over(faulty.clone(), "memory://");
        let mut manifest = Manifest::new("a", 1, 100, 0);
        commit(&store, &mut manifest).await.unwrap();
        commit(&store, &mut manifest).await.unwrap();
        let newest = Names::new("a").unwrap().manifest(2);
        faulty.flip(&newest, 30);
        let error = latest(&store, "a").await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{newest}: checksum mismatch")), "{error}");
        let history = history(&store, "a").await.unwrap();
        assert!(matches!(&history[..], [(2, Err(StoreError::Corrupt { .. })), (1, Ok(_)), (0, Ok(_))]));

        let names = Names::new("b").unwrap();
        store.put_new(&names.manifest(7), manifest.encode()).await.unwrap();
        let error = latest(&store, "b").await.unwrap_err().to_string();
        assert_eq!(error, "db/b/manifest/00000000000000000007: holds manifest 2");
    });
}

#[test]
fn databases_are_listed_and_deleted() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", folder.path().display())).unwrap();
        assert_eq!(databases(&store).await.unwrap(), [""; 0]);
        for name in ["b", "A/../b", "ü", "a"] {
            commit(&store, &mut Manifest::new(name, 1, 1, 1)).await.unwrap();
        }
        assert_eq!(databases(&store).await.unwrap(), ["A/../b", "a", "b", "ü"]);
        delete_database(&store, "A/../b").await.unwrap();
        delete_database(&store, "none").await.unwrap();
        assert_eq!(databases(&store).await.unwrap(), ["a", "b", "ü"]);
        assert_eq!(latest(&store, "A/../b").await.unwrap(), None);
        assert_eq!(latest(&store, "b").await.unwrap().unwrap().number, 1);
    });
}
