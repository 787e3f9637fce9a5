use std::collections::{BTreeMap, BTreeSet};

use dormouse_storage::effect;
use dormouse_storage::shown::OUTBOX_KEYSPACE;
use dormouse_types::segment::Placement;

use super::filter::NAMES;
use super::*;
use crate::commands::testing::Bench;
use crate::keyspace::EngineSettings;
use crate::keyspace::outbox_records::{TRIGGER_BYTES_MIN, TRIGGER_SHARE};
use crate::keyspace::testing::TestLog;

fn filter(events: &str, keys: &[&str]) -> TriggerFilter {
    TriggerFilter::new(events.split(','), keys.iter().copied(), b"dead").expect("a filter")
}

/// A bench with one trigger.
fn triggered(events: &str, keys: &[&str]) -> (Bench, Arc<TriggerQueue>) {
    let bench = Bench::new();
    let queue = TriggerQueue::new(7, filter(events, keys), || ());
    bench.shared.set_triggers(vec![Arc::clone(&queue)]);
    (bench, queue)
}

/// Limits the memory, so that few events can wait. Returns how many bytes.
fn limited(bench: &Bench) -> usize {
    let limit = 4 * TRIGGER_BYTES_MIN;
    let settings = EngineSettings { memory_max: limit * TRIGGER_SHARE, ..EngineSettings::new(7) };
    bench.shared.settings.store(Arc::new(settings));
    limit
}

/// The events that wait, as `name key`, and the gaps.
fn waiting(bench: &mut Bench, queue: &TriggerQueue) -> Vec<String> {
    let entries = queue.first(u64::MAX, usize::MAX);
    let records = bench.keyspace().outbox_records(queue, &entries);
    let mut told = Vec::new();
    for record in records {
        match record {
            OutboxRecord::Events { events, .. } => told
                .extend(events.iter().map(|event| format!("{} {}", event.name, String::from_utf8_lossy(&event.key)))),
            OutboxRecord::Gap { gap, .. } => told.push(format!("gap {:?}", gap.events)),
        }
    }
    told
}

#[test]
fn every_slot_has_a_tag() {
    let tags: BTreeSet<_> = TAGS.iter().collect();
    assert_eq!(tags.len(), usize::from(SLOTS));
    for slot in 0..SLOTS {
        let key = key_of(slot, u64::MAX, 1);
        assert_eq!(read_key(&key), Some((slot, u64::MAX, 1)));
    }
}

/// The bytes are on disk: this test is not to be changed.
#[test]
fn a_record_is_laid_out_as_documented() {
    let (mut bench, queue) = triggered("set", &[]);
    bench.now_ms = 0x0102;
    bench.shared.outbox.salt = 0x0a0b;
    let log = TestLog::of(&mut bench.shared);
    bench.run("SET ab c");
    let effects = log.effects();
    assert_eq!(effects.len(), 2, "the change and its event");
    let event = effects.iter().find(|effect| effect.keyspace == OUTBOX_KEYSPACE).unwrap();
    let number = (0x0102 << 20) + 1;
    let key = key_of(slot_of(b"ab"), 7, number);
    let value =
        [&[1][..], &0x0102u64.to_le_bytes(), &0x0a0bu64.to_le_bytes(), &[0, 3], b"set", &[2, 0], b"ab"].concat();
    let mut body = Vec::new();
    effect::text(&mut body, &key, None, &value);
    assert_eq!((event.position, &event.body), (bench.shared.placement.position(&key), &body));
    assert_eq!(effects[0].sequence, effects[1].sequence, "they are one entry");
    assert_eq!(waiting(&mut bench, &queue), ["set ab"]);
    for damaged in [&b""[..], &[1; 16], &[3; 17], &value[..value.len() - 1], &[&value[..17], &[0, 9]].concat()] {
        assert_eq!(decode(1, damaged), None);
    }
}

#[test]
fn a_trigger_gets_the_events_and_keys_that_it_names_in_order() {
    let (mut bench, queue) = triggered("set,@list,expired", &["order:*", "b"]);
    for command in [
        "SET order:1 a",
        "SET other a",
        "LPUSH order:2 a b",
        "LPOP order:2",
        "SADD order:3 a",
        "SET b 1 PX 5",
        "LPUSH dead a",
        "DEL order:1",
    ] {
        bench.run(command);
    }
    bench.now_ms += 5;
    bench.run("GET b");
    let expected = ["set order:1", "lpush order:2", "lpop order:2", "set b", "expired b"];
    assert_eq!(waiting(&mut bench, &queue), expected);
    // Keys that expire without a command are told, too.
    bench.run("SET order:4 1 PX 5");
    bench.now_ms += 5;
    let (shared, now_ms) = (&bench.shared, bench.now_ms);
    bench.contents.expire(shared, now_ms, usize::MAX);
    assert_eq!(waiting(&mut bench, &queue)[5..], ["set order:4", "expired order:4"]);
}

#[test]
fn dead_letters_are_told_only_to_a_trigger_that_names_them() {
    let mut bench = Bench::new();
    let trigger = |id, keys: &[&str], letters: &str| {
        let filter = TriggerFilter::new(["@all"], keys.iter().copied(), letters.as_bytes()).expect("a filter");
        TriggerQueue::new(id, filter, || ())
    };
    // Each would get what the other could not deliver, for ever.
    let (all, more) = (trigger(1, &[], "letters:all"), trigger(2, &["*"], "letters:more"));
    // One that watches, and one that watches the watcher.
    let watch = trigger(3, &["letters:all"], "letters:watch");
    let watched = trigger(4, &["letters:watch", "x"], "letters:watched");
    let queues = [&all, &more, &watch, &watched];
    bench.shared.set_triggers(queues.map(Arc::clone).to_vec());
    for key in ["letters:all", "letters:more", "letters:watch", "letters:watched", "letters:none"] {
        bench.run(&format!("XADD {key} * event e"));
        bench.run(&format!("XTRIM {key} MAXLEN 0"));
    }
    let told = |queue: &Arc<TriggerQueue>, bench: &mut Bench| waiting(bench, queue).join(",");
    let found = queues.map(|queue| told(queue, &mut bench));
    let of = |key: &str| format!("xadd {key},xtrim {key}");
    assert_eq!(found, [of("letters:none"), of("letters:none"), of("letters:all"), String::new()]);
}

#[test]
fn the_outbox_leaves_most_of_the_memory_to_the_keys() {
    let mut bench = Bench::new();
    let queues: Vec<_> = (0..16).map(|id| TriggerQueue::new(id, filter("set", &[]), || ())).collect();
    bench.shared.set_triggers(queues.clone());
    let memory = limited(&bench) * TRIGGER_SHARE;
    let key = "k".repeat(8000);
    for at in 0..60 {
        bench.run(&format!("SET {key}{at:06} v"));
    }
    let bytes: usize = queues.iter().map(|queue| queue.backlog().bytes).sum();
    assert!(bytes <= memory / 4 + 16 * (HEAD_BYTES + RECORD_BYTES), "{bytes} of {memory} bytes");
    assert!(bytes > memory / 8, "{bytes} of {memory} bytes");
}

#[test]
fn no_client_sees_the_outbox() {
    let (mut bench, queue) = triggered("@all", &[]);
    for at in 0..100 {
        bench.run(&format!("SET key:{at} v"));
    }
    bench.run("FLUSHALL");
    assert_eq!(bench.run("DBSIZE"), "0");
    assert_eq!(bench.run("RANDOMKEY"), "nil");
    assert_eq!(queue.backlog().events, 100);
    assert_eq!(waiting(&mut bench, &queue).len(), 100);
}

#[test]
fn the_words_of_events_are_those_of_the_keyspace() {
    let of_redis = concat!(
        include_str!("../../../tests/data/keyspace-events.txt"),
        include_str!("../../../tests/data/keyspace-events-8.txt"),
        include_str!("../../../tests/data/keyspace-events-json.txt")
    );
    let mut known: BTreeMap<&str, char> = BTreeMap::new();
    for line in of_redis.lines().filter_map(|line| line.strip_prefix("    ")) {
        let mut words = line.split(' ');
        let (class, name) = (words.next().unwrap(), words.next().unwrap());
        known.insert(name, class.chars().next().unwrap());
    }
    known.remove("keymiss");
    // They need more memory than a test has.
    known.insert("evicted", 'e');
    let own: BTreeMap<&str, char> =
        NAMES.iter().flat_map(|(class, names)| names.iter().map(|name| (*name, class.letter()))).collect();
    assert_eq!(own, known);
    for (events, problem) in [
        ("sett", "unknown event `sett`"),
        ("keymiss", "unknown event `keymiss`"),
        ("@strings", "unknown event `@strings`"),
        ("", "unknown event ``"),
    ] {
        let refused = TriggerFilter::new([events], [], b"").unwrap_err();
        assert!(refused.contains(problem), "{refused}");
    }
    assert!(TriggerFilter::new([], [], b"").unwrap_err().contains("no event"));
}

#[test]
fn what_does_not_fit_is_counted_and_writes_go_on() {
    let (mut bench, queue) = triggered("set", &[]);
    let limit = limited(&bench);
    let key = "k".repeat(1000);
    let fit = limit / (1000 + 6 + HEAD_BYTES + RECORD_BYTES);
    let more = 2 * fit;
    for at in 0..more {
        assert_eq!(bench.run(&format!("SET {key}{at:06} v")), "OK");
    }
    let backlog = queue.backlog();
    // The gap has a record too.
    assert!(backlog.bytes <= limit + HEAD_BYTES + RECORD_BYTES, "{backlog:?}");
    assert!(backlog.events > fit as u64 * 9 / 10, "{backlog:?}");
    assert_eq!(backlog.events + backlog.lost, more as u64);
    let entries = queue.first(u64::MAX, usize::MAX);
    assert_eq!(entries.iter().filter(|entry| entry.is_gap).count(), 1);
    // As long as less than a quarter is free, events are lost.
    let (tenth, half) = (entries.len() / 10, entries.len() / 2);
    queue.forget(&entries[..tenth]);
    bench.run("SET a v");
    assert_eq!(queue.backlog().lost, backlog.lost + 1);
    queue.forget(&entries[..half]);
    bench.run("SET b v");
    bench.run("SET c v");
    assert_eq!(queue.backlog().lost, backlog.lost + 1);
    let told = waiting(&mut bench, &queue);
    let expected = [format!("gap Some({})", backlog.lost + 1), "set b".to_owned(), "set c".to_owned()];
    assert_eq!(told[told.len() - 3..], expected);
}

#[test]
fn a_batch_of_many_events_is_bounded_before_it_is_kept() {
    let (mut bench, queue) = triggered("set", &[]);
    let key = "k".repeat(8000);
    let mut noted = crate::keyspace::notices::Noted::default();
    for _ in 0..1200 {
        bench.shared.outbox.capture(&mut noted.captured, KeyEvent::string("set"), 0, key.as_bytes());
    }
    assert!(
        noted.captured.list.iter().map(|captured| captured.events.len()).sum::<usize>() < CAPTURED_BYTES_MAX + 10_000
    );
    let (shared, contents) = (&bench.shared, &mut bench.contents);
    let kept = contents.keep_captured(shared, 1, noted.take_captured(), None);
    Outbox::queue(kept, 0);
    let EventBacklog { events, lost, .. } = queue.backlog();
    assert!(events > 900 && lost > 100, "{events} events, {lost} lost");
    assert_eq!(events + lost, 1200);
    assert!(waiting(&mut bench, &queue).last().unwrap().starts_with("gap Some("));
}

#[test]
fn what_was_queued_out_of_turn_is_not_forgotten_with_its_neighbour() {
    let queue = TriggerQueue::new(7, filter("set", &[]), || ());
    let entry = |number| OutboxEntry { number, slot: 0, is_gap: false, events: 1, bytes: 10, awaited: 0 };
    for number in [1, 3, 2, 4] {
        let mut waiting = queue.waiting.lock();
        waiting.push(entry(number));
        waiting.bytes += 10;
    }
    queue.forget(&[entry(1), entry(3)]);
    // Again, by a task that was slow to end.
    queue.forget(&[entry(1), entry(3)]);
    let left: Vec<u64> = queue.first(u64::MAX, usize::MAX).iter().map(|entry| entry.number).collect();
    assert_eq!((left, queue.backlog()), (vec![2, 4], EventBacklog { events: 2, bytes: 20, lost: 0 }));
}

#[test]
fn patterns_that_cost_much_are_refused() {
    let of = |patterns: &[&str]| TriggerFilter::new(["set"], patterns.iter().copied(), b"").map(drop);
    assert_eq!(of(&["user:*", "*:done", "a*z", "order:[0-9]*", "plain", "a?c*", "*:cart:*"]), Ok(()));
    assert_eq!(of(&["user:*"; 16]), Ok(()));
    assert_eq!(of(&["*:cart:*"; 4]), Ok(()));
    assert!(of(&["*:cart:*"; 5]).unwrap_err().contains("too complex"));
    assert!(of(&["*a*b*"; 16]).unwrap_err().contains("too complex"));
    assert!(of(&["*[a-z]?[0-9]*"; 4]).unwrap_err().contains("too complex"));
}

#[test]
fn a_gap_that_is_told_ends() {
    let (mut bench, queue) = triggered("set", &[]);
    limited(&bench);
    let key = "k".repeat(8000);
    for at in 0..40 {
        bench.run(&format!("SET {key}{at:06} v"));
    }
    let lost = queue.backlog().lost;
    assert!(lost > 0);
    let entries = queue.first(u64::MAX, usize::MAX);
    let last = waiting(&mut bench, &queue).pop().unwrap();
    assert_eq!(last, format!("gap Some({lost})"));
    queue.forget(&entries);
    bench.run("SET a v");
    assert_eq!(waiting(&mut bench, &queue), ["set a"]);
    bench.run(&format!("SET {} v", "k".repeat(KEY_BYTES_MAX + 1)));
    assert_eq!(queue.backlog().events, 1);
}

#[test]
fn records_of_an_earlier_process_are_listed_in_order_and_those_of_other_triggers_are_told() {
    let (mut bench, queue) = triggered("set", &[]);
    let other = TriggerQueue::new(8, filter("set", &[]), || ());
    bench.shared.set_triggers(vec![Arc::clone(&queue), Arc::clone(&other)]);
    for at in 0..500 {
        bench.run(&format!("SET key:{at} v"));
    }
    let expected = waiting(&mut bench, &queue);
    let next = TriggerQueue::new(7, filter("set", &[]), || ());
    let outbox = Outbox::default();
    outbox.set(vec![Arc::clone(&next)]);
    let index = bench.contents.index(SELECT).unwrap();
    let gone = outbox.list(index.iter());
    assert_eq!(gone.len(), 500);
    assert!(gone.iter().all(|key| read_key(key).is_some_and(|(_, trigger, _)| trigger == 8)));
    assert!(outbox.list(index.iter()).is_empty(), "they are listed once");
    assert_eq!(waiting(&mut bench, &next), expected);
    assert!(outbox.next_number(0) > next.first(u64::MAX, usize::MAX).last().unwrap().number);
    // Deleted records leave effects, and are listed no more.
    let log = TestLog::of(&mut bench.shared);
    let mut db = bench.keyspace();
    db.delete_outbox_records(gone.iter().map(|key| &**key));
    drop(db);
    assert_eq!(log.effects().len(), 500);
    assert_eq!(bench.contents.index(SELECT).unwrap().len(), 500);
}
