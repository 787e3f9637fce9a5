use dormouse_storage::chunk::ChunkEntry;
use dormouse_types::record::Record;

use super::super::seen::InChunk;
use super::*;

fn visit(keyspace: u32, range: Range53, sequence: u64, written: Written) -> Visited {
    let records = u32::from(!matches!(written, Written::Empty));
    Visited { keyspace, range, sequence, records, expiring: 0, heap_bytes: 7, written }
}

fn body(offset: u64) -> Written {
    let entry = ChunkEntry {
        keyspace: 0,
        range: Range53::WHOLE,
        offset,
        len: 10,
        raw_len: 10,
        records: 1,
        crc: 5,
        sequence: 0,
        piece: 0,
    };
    Written::Body { body: InChunk { entry, chunk: 0 }, pieces: Vec::new() }
}

fn manifest(segments: &[(Range53, u64, u64)]) -> Manifest {
    let mut manifest = Manifest::new("a", 1, 2, 3);
    manifest.chunks.push(ChunkInfo { name: "old".into(), bytes: 1000 });
    for (at, (range, sequence, seen)) in segments.iter().enumerate() {
        let location = SegmentLocation { chunk: 0, offset: 10 * at as u64, len: 10 };
        manifest.segments.push(SegmentInfo {
            keyspace: 0,
            range: *range,
            location,
            records: 1,
            expiring: 0,
            heap_bytes: 1,
            sequence: *sequence,
            seen: *seen,
            crc: 1,
        });
    }
    manifest
}

fn record(sequence: u64, position: u64, make: impl FnOnce(&mut Vec<u8>)) -> TailRecord {
    let mut body = Vec::new();
    make(&mut body);
    TailRecord { sequence, now_ms: 0, keyspace: 0, position, body: body.into() }
}

fn new_chunk() -> Vec<ChunkInfo> {
    vec![ChunkInfo { name: "new".into(), bytes: 1000 }]
}

#[test]
fn what_was_visited_twice_counts_as_it_was_seen_last() {
    let (left, right) = Range53::WHOLE.halves();
    let visited = [
        visit(0, left, 4, body(0)),
        visit(0, right, 5, Written::Keys),
        visit(0, Range53::WHOLE, 6, body(10)),
        visit(1, left, 7, Written::Empty),
    ];
    let seen = last_seen(&visited);
    assert_eq!(seen.values().map(|visited| visited.sequence).collect::<Vec<_>>(), [6, 7]);
}

#[test]
fn a_place_written_whole_replaces_all_that_it_overlaps() {
    let (left, right) = Range53::WHOLE.halves();
    for (stored, visits, expected) in [
        (vec![(left, 1, 1), (right, 1, 3)], vec![visit(0, Range53::WHOLE, 9, body(0))], vec![(Range53::WHOLE, 9, 9)]),
        (
            vec![(Range53::WHOLE, 1, 3)],
            vec![visit(0, left, 8, body(0)), visit(0, right, 9, Written::Empty)],
            vec![(left, 8, 8), (right, 9, 9)],
        ),
        // The body stays; the changes are in the tail.
        (vec![(left, 1, 1), (right, 2, 2)], vec![visit(0, right, 9, Written::Keys)], vec![(left, 1, 1), (right, 2, 9)]),
        // Nothing was stored: the tail has it all.
        (vec![(left, 1, 1)], vec![visit(0, right, 9, Written::Keys)], vec![(left, 1, 1), (right, 0, 9)]),
        // A keyspace that was flushed.
        (vec![(left, 1, 1)], vec![visit(77, right, 9, body(0))], vec![(left, 1, 1)]),
    ] {
        let mut manifest = manifest(&stored);
        replace_segments(&mut manifest, &last_seen(&visits), new_chunk());
        let found: Vec<_> = manifest.segments.iter().map(|s| (s.range, s.sequence, s.seen)).collect();
        assert_eq!(found, expected, "{visits:?}");
        manifest.cut = 9;
        assert_eq!(manifest.check(), Ok(()));
    }
}

#[test]
fn tails_go_when_every_place_has_been_written_since() {
    let (left, right) = Range53::WHOLE.halves();
    let tail = TailInfo { name: "t".into(), bytes: 1, effects: 1, from_sequence: 0 };
    let mut kept = manifest(&[(left, 1, 2), (right, 3, 3)]);
    kept.tails.push(tail.clone());
    prune(&mut kept);
    assert_eq!((kept.tails.len(), kept.segments.len()), (1, 2));
    let mut gone = manifest(&[(left, 2, 2), (right, 3, 3)]);
    gone.tails.push(tail);
    (gone.sequence, gone.segments[0].records, gone.segments[0].location.len) = (2, 0, 0);
    prune(&mut gone);
    // The empty range needs no entry any more: the log begins after it was seen empty.
    assert_eq!((gone.tails.len(), gone.segments.len()), (0, 1));
}

#[test]
fn of_a_key_only_the_newest_value_is_kept() {
    let value = |key: &'static [u8]| move |out: &mut Vec<u8>| effect::value(out, &Record::new_raw(key, b"v", None));
    let command = |out: &mut Vec<u8>| effect::command(out, [&b"INCR"[..], b"c"].into_iter());
    let mut records = vec![
        record(5, 40, value(b"a")),
        record(3, 40, value(b"a")),
        record(6, 40, |out| effect::delete(out, b"other key, same position")),
        record(4, 50, command),
        record(5, 50, command),
        record(1, 60, value(b"is in the body")),
        TailRecord { keyspace: 99, ..record(9, 60, value(b"of a keyspace that is gone")) },
    ];
    needed_only(&manifest(&[(Range53::WHOLE, 2, 9)]), &mut records);
    let left: Vec<_> = records.iter().map(|record| (record.position, record.sequence)).collect();
    assert_eq!(left, [(40, 5), (40, 6), (50, 4), (50, 5)]);
}

#[test]
fn tails_are_merged_by_size() {
    let tail = |bytes| TailInfo { name: "t".into(), bytes, effects: 1, from_sequence: 0 };
    for (sizes, new, left) in
        [(&[1000, 100, 10][..], 1, 3), (&[1000, 100, 10], 5, 2), (&[1000, 100, 40], 20, 1), (&[1000], 400, 0)]
    {
        let mut manifest = manifest(&[]);
        manifest.tails = sizes.iter().map(|size| tail(*size)).collect();
        let merged = tails_to_merge(&mut manifest, new).len();
        assert_eq!((manifest.tails.len(), merged), (left, sizes.len() - left), "{sizes:?} {new}");
    }
}

#[test]
fn chunks_that_are_hardly_used_are_found() {
    let quarters: Vec<Range53> = {
        let (left, right) = Range53::WHOLE.halves();
        [left.halves(), right.halves()].into_iter().flat_map(|(a, b)| [a, b]).collect()
    };
    let mut manifest = manifest(&quarters.iter().map(|range| (*range, 1, 1)).collect::<Vec<_>>());
    manifest.chunks =
        ["full", "sparse", "unused"].map(|name| ChunkInfo { name: name.into(), bytes: 2 * CHUNK_GAIN_MIN }).to_vec();
    for (at, (chunk, len)) in [(0, CHUNK_GAIN_MIN), (0, CHUNK_GAIN_MIN), (1, 100), (1, 100)].into_iter().enumerate() {
        manifest.segments[at].location = SegmentLocation { chunk, offset: 0, len };
    }
    assert_eq!(sparse_chunks(&manifest), [1]);
    manifest.drop_unused_chunks();
    assert_eq!(manifest.chunks.iter().map(|chunk| &*chunk.name).collect::<Vec<_>>(), ["full", "sparse"]);
    assert_eq!(manifest.segments.iter().map(|segment| segment.location.chunk).collect::<Vec<_>>(), [0, 0, 1, 1]);
    manifest.chunks[1].bytes = CHUNK_GAIN_MIN / 2;
    assert_eq!(sparse_chunks(&manifest), [0u32; 0]);
}

#[test]
fn pieces_stay_and_go_with_their_bodies() {
    let (left, right) = Range53::WHOLE.halves();
    let mut manifest = manifest(&[(left, 3, 3), (right, 3, 3)]);
    let location = |chunk: u32, offset: u64| SegmentLocation { chunk, offset, len: 10 };
    for start in [left.start, right.start] {
        for number in [1, 2] {
            let location = location(0, 500 + start / 2 + u64::from(number) * 10);
            manifest.pieces.push(PieceInfo {
                keyspace: 0,
                start,
                number,
                location: SegmentLocation { offset: 30 + 10 * u64::from(number), ..location },
                crc: 9,
            });
        }
    }
    let Written::Body { body: written, .. } = body(100) else { panic!("a body") };
    let piece =
        |number: u32, offset: u64| InChunk { entry: ChunkEntry { piece: number, offset, ..written.entry }, ..written };
    let visited = [
        visit(0, left, 8, Written::Body { body: written, pieces: vec![piece(1, 200), piece(4, 210)] }),
        // Other changes are in the tail.
        visit(0, right, 8, Written::Keys),
    ];
    replace_segments(&mut manifest, &last_seen(&visited), new_chunk());
    manifest.cut = 9;
    manifest.check().unwrap();
    let numbers = |manifest: &Manifest, at: usize| -> Vec<(u32, SegmentLocation)> {
        manifest.pieces_of(&manifest.segments[at]).iter().map(|piece| (piece.number, piece.location)).collect()
    };
    assert_eq!(numbers(&manifest, 0), [(1, location(1, 200)), (4, location(1, 210))]);
    assert_eq!(numbers(&manifest, 1).len(), 2);
    // A chunk of which only a piece is needed is needed.
    manifest.segments[1].location = location(1, 300);
    manifest.drop_unused_chunks();
    assert_eq!(manifest.chunks.len(), 2);
    // A place that is empty now has none.
    replace_segments(&mut manifest, &last_seen(&[visit(0, Range53::WHOLE, 9, Written::Empty)]), Vec::new());
    assert!(manifest.pieces.is_empty());
    manifest.drop_unused_chunks();
    assert!(manifest.chunks.is_empty());
}
