//! Doctored states: the verdict has to refuse each of them, and accept the originals.

use super::*;
use crate::{
    crash::{
        model::{Entry, SHARED_COUNTER, SHARED_LIST, part_of},
        workload::{CLIENTS, Form, Operation, Workload},
    },
    script::Random,
};

const READ_MS: u64 = 10_000_000;
const STEP: Duration = Duration::from_millis(1);

/// An imagined round: clients in turn, an operation each millisecond, acknowledged half a millisecond later, and the
/// state at any moment.
struct Imagined {
    trial: Trial,
    /// The state before the first operation, after it, and so on.
    states: Vec<State>,
    first: Instant,
}

/// Returns the client that sends the operation of this number.
fn client_of(number: usize) -> usize {
    number % CLIENTS
}

impl Imagined {
    fn new(seed: u64, mode: Mode, operations: usize) -> Self {
        let mut workloads: Vec<Workload> = (0..CLIENTS).map(Workload::new).collect();
        let mut random = Random::new(seed);
        Self::of(mode, operations, |number, state| {
            let client = client_of(number);
            let database = random.below(DATABASES);
            let mut operation = workloads[client].next(&mut random, &state.spaces[client], database, number as u64);
            for change in &mut operation.changes {
                if let Change::Draw { key, drawn } = change {
                    let at = Key { database, index: 0, name: key.clone() };
                    if let Some(Value::Set(members)) = state.spaces[client].get(&at).map(|entry| &entry.value) {
                        *drawn = members.first().cloned();
                    }
                }
            }
            operation
        })
    }

    fn of(mode: Mode, operations: usize, mut next: impl FnMut(usize, &State) -> Operation) -> Self {
        let first = Instant::now();
        let mut histories = vec![History::default(); CLIENTS];
        let mut state = State { read_ms: READ_MS, ..State::empty() };
        let mut states = vec![state.clone()];
        for number in 0..operations {
            let sent = first + STEP * number as u32;
            let operation = next(number, &state);
            let record = Record { operation, sent, sent_ms: number as u64, acknowledged: Some(sent + STEP / 2) };
            apply(&mut state, client_of(number), &record);
            histories[client_of(number)].records.push(record);
            states.push(state.clone());
        }
        // Values that have expired when the state is read are gone.
        for state in &mut states {
            state.spaces.iter_mut().for_each(|space| space.retain(|_, entry| !entry.expired(READ_MS)));
        }
        let killed = Some(first + STEP * operations as u32);
        let trial = Trial {
            mode,
            one_log: mode.one_log(),
            histories,
            counters: BTreeMap::new(),
            killed,
            last_of_full: None,
            checkpoints: [None; DATABASES],
            declared: Default::default(),
        };
        Self { trial, states, first }
    }

    /// Returns a round in which every client sets a text key of its own, in each database in turn, and marks a shared
    /// counter.
    fn plain(mode: Mode, operations: usize) -> Self {
        Self::of(mode, operations, |number, _| {
            let (client, turn) = (client_of(number), number / CLIENTS);
            let key = format!("c{client}:text:{}", turn % 5);
            let set = Change::Set { key, value: number.to_string(), expires_ms: None };
            let mark = Change::Increment { key: format!("c{client}:transactions"), by: 1 };
            let add = |group: usize| Change::SharedAdd { counter: format!("{SHARED_COUNTER}quadruple:{group}"), by: 1 };
            let push = Change::SharedPush { client, value: number.to_string() };
            let mut changes = vec![set, mark, push];
            changes.extend((0..4).map(add));
            Operation { database: turn % DATABASES, index: 0, changes, form: Form::Transaction }
        })
    }

    fn last(&self) -> State {
        self.states.last().expect("the first state is always there").clone()
    }
}

fn apply(state: &mut State, client: usize, record: &Record) {
    let mut touched = Vec::new();
    for change in &record.operation.changes {
        _ = change.apply(&mut state.spaces[client], record.place(), &mut touched);
    }
    for (counter, by) in added(record) {
        *state.counters.entry(counter).or_insert(0) += by;
    }
}

fn mode(text: &str) -> Mode {
    text.parse().expect("a mode")
}

fn key(database: usize, name: &str) -> Key {
    Key { database, index: 0, name: name.into() }
}

#[track_caller]
fn refused(trial: &Trial, state: &State, as_what: impl Fn(&Wrong) -> bool) {
    match trial.judge(state) {
        Err(wrong) if as_what(&wrong) => {}
        Err(wrong) => panic!("refused for another reason: {wrong}"),
        Ok(toll) => panic!("accepted: {toll:?}"),
    }
}

fn no_prefix(wrong: &Wrong) -> bool {
    matches!(wrong, Wrong::NoPrefix { .. })
}

fn lost(wrong: &Wrong) -> bool {
    matches!(wrong, Wrong::Lost { .. })
}

#[test]
fn every_moment_is_a_state_that_may_survive_without_a_log() {
    for seed in 0..3 {
        let imagined = Imagined::new(seed, mode("none"), 400);
        for state in imagined.states.iter().step_by(7) {
            imagined.trial.judge(state).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
    }
}

#[test]
fn only_the_last_state_may_survive_where_nothing_may_be_lost() {
    for seed in 0..3 {
        let imagined = Imagined::new(seed, mode("0"), 300);
        imagined.trial.judge(&imagined.last()).unwrap_or_else(|wrong| panic!("{wrong}"));
        let toll = |state: &State| imagined.trial.judge(state);
        let different = imagined.states.iter().filter(|state| **state != imagined.last());
        assert!(different.clone().count() > 250);
        different.for_each(|state| _ = toll(state).expect_err("a write is lost"));
    }
}

#[test]
fn a_window_reaches_back_as_far_as_it_is_long() {
    let imagined = Imagined::plain(mode("100ms"), 600);
    let judged = |age: usize| imagined.trial.judge(&imagined.states[600 - age]);
    for age in [0, 1, 50, 99] {
        let toll = judged(age).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!((toll.sent, toll.lost), (600, age));
    }
    for age in [110, 300, 600] {
        refused(&imagined.trial, &imagined.states[600 - age], lost);
    }
}

#[test]
fn an_orderly_stop_promises_everything() {
    let mut imagined = Imagined::plain(mode("none"), 60);
    imagined.trial.killed = None;
    assert!(imagined.trial.judge(&imagined.last()).is_ok());
    refused(&imagined.trial, &imagined.states[59], lost);
}

#[test]
fn an_answered_checkpoint_is_a_promise_in_every_mode() {
    for text in ["none", "checkpoint", "10s"] {
        let mut imagined = Imagined::plain(mode(text), 600);
        imagined.trial.checkpoints[1] = Some(imagined.first + STEP * 300);
        assert!(imagined.trial.judge(&imagined.states[300]).is_ok());
        assert!(imagined.trial.judge(&imagined.states[450]).is_ok());
        refused(&imagined.trial, &imagined.states[290], lost);
    }
}

#[test]
fn databases_fall_behind_each_other_only_without_a_log() {
    for (text, accepted) in [("none", true), ("10s", false)] {
        let imagined = Imagined::plain(mode(text), 300);
        let (early, late) = (&imagined.states[100], &imagined.states[200]);
        let mut mixed = State { read_ms: READ_MS, ..State::empty() };
        for client in 0..CLIENTS {
            let late = late.spaces[client].iter().filter(|(key, _)| key.database > 0);
            let early = early.spaces[client].iter().filter(|(key, _)| key.database == 0);
            mixed.spaces[client] = early.chain(late).map(|(key, entry)| (key.clone(), entry.clone())).collect();
        }
        let late = late.counters.iter().filter(|(key, _)| key.database > 0);
        let early = early.counters.iter().filter(|(key, _)| key.database == 0);
        mixed.counters = early.chain(late).map(|(key, by)| (key.clone(), *by)).collect();
        match accepted {
            true => assert!(imagined.trial.judge(&mixed).is_ok()),
            false => refused(&imagined.trial, &mixed, no_prefix),
        }
    }
}

#[test]
fn a_write_that_is_lost_out_of_the_middle() {
    let imagined = Imagined::plain(mode("none"), 300);
    let mut state = imagined.last();
    let text = state.spaces[1].get_mut(&key(0, "c1:text:0")).expect("it was set");
    text.value = Value::Text("4".into());
    refused(&imagined.trial, &state, no_prefix);
    let mut state = imagined.last();
    state.spaces[1].remove(&key(0, "c1:text:0"));
    refused(&imagined.trial, &state, no_prefix);
}

#[test]
fn a_list_out_of_order() {
    let imagined = Imagined::plain(mode("none"), 300);
    let doctors: [fn(&mut Vec<String>); 3] =
        [|list| list.swap(3, 4), |list| _ = list.remove(5), |list| list.push("7".into())];
    for doctor in doctors {
        let mut state = imagined.last();
        let list = state.spaces[2].get_mut(&key(0, &part_of(SHARED_LIST, 2))).expect("it was pushed to");
        let Value::List(list) = &mut list.value else { panic!("a list") };
        doctor(list);
        refused(&imagined.trial, &state, no_prefix);
    }
}

#[test]
fn a_transaction_in_part() {
    let imagined = Imagined::plain(mode("none"), 300);
    // The client's own keys, then a shared one.
    let trial = &imagined.trial;
    let mut state = imagined.last();
    let mark = state.spaces[0].get_mut(&key(0, "c0:transactions")).expect("it was raised");
    let Value::Text(count) = &mut mark.value else { panic!("a number") };
    *count = (count.parse::<i64>().unwrap() - 1).to_string();
    refused(trial, &state, no_prefix);
    let mut state = imagined.last();
    *state.counters.get_mut(&key(0, "shared:counter:quadruple:2")).unwrap() -= 1;
    refused(trial, &state, |wrong| matches!(wrong, Wrong::Counters(text) if text.contains("not equal")));
}

#[test]
fn a_counter_raised_twice() {
    let imagined = Imagined::plain(mode("none"), 300);
    let mut state = imagined.last();
    let mark = state.spaces[0].get_mut(&key(1, "c0:transactions")).expect("it was raised");
    let Value::Text(count) = &mut mark.value else { panic!("a number") };
    *count = (count.parse::<i64>().unwrap() + 1).to_string();
    refused(&imagined.trial, &state, no_prefix);
    let mut state = imagined.last();
    (0..4).for_each(|n| *state.counters.get_mut(&key(1, &format!("{SHARED_COUNTER}quadruple:{n}"))).unwrap() += 1);
    refused(&imagined.trial, &state, |wrong| matches!(wrong, Wrong::Counters(text) if text.contains("expected")));
}

#[test]
fn accounts_that_do_not_balance() {
    let imagined = Imagined::plain(mode("none"), 30);
    let mut state = imagined.last();
    state.counters.insert(key(2, &format!("{SHARED_COUNTER}account:3")), 5);
    refused(&imagined.trial, &state, |wrong| matches!(wrong, Wrong::Counters(text) if text.contains("sum up")));
}

#[test]
fn a_key_that_nobody_wrote_or_that_has_expired() {
    let imagined = Imagined::plain(mode("none"), 30);
    let entry = |expires_ms| Entry { value: Value::Text("1".into()), expires_ms };
    for (name, expires_ms) in [("c0:made up", None), ("c0:brief:1", Some(READ_MS - 1))] {
        let mut state = imagined.last();
        state.spaces[0].insert(key(0, name), entry(expires_ms));
        refused(&imagined.trial, &state, no_prefix);
    }
    let mut state = imagined.last();
    state.strange.push("a key".into());
    refused(&imagined.trial, &state, |wrong| matches!(wrong, Wrong::Strange(_)));
    // A forgotten or an added expiry.
    let mut state = imagined.last();
    state.spaces[0].get_mut(&key(0, "c0:text:0")).expect("it was set").expires_ms = Some(READ_MS + 1);
    refused(&imagined.trial, &state, no_prefix);
}

#[test]
fn one_client_that_falls_behind_another() {
    let imagined = Imagined::plain(mode("none"), 300);
    let mut state = imagined.last();
    // Client 1 as it was long ago, without everything that it has added since.
    let there = imagined.states[150].spaces[1].clone();
    state.spaces[1] = there;
    for record in &imagined.trial.histories[1].records[50..] {
        added(record).for_each(|(counter, by)| *state.counters.get_mut(&counter).unwrap() -= by);
    }
    refused(&imagined.trial, &state, |wrong| matches!(wrong, Wrong::NotOneMoment { .. }));
}

#[test]
fn what_was_not_acknowledged_may_be_there_or_not() {
    let mut imagined = Imagined::plain(mode("0"), 300);
    for client in 0..CLIENTS {
        imagined.trial.histories[client].records.last_mut().expect("there are some").acknowledged = None;
    }
    for state in &imagined.states[300 - CLIENTS..] {
        assert!(imagined.trial.judge(state).is_ok());
    }
    refused(&imagined.trial, &imagined.states[300 - CLIENTS - 1], lost);
}

#[test]
fn a_draw_that_was_not_answered_has_taken_one_member_or_none() {
    let add = |member: &str| Change::Add { key: "c0:set:0".into(), member: member.into() };
    let changes = [vec![add("a"), add("b"), add("c")], vec![Change::Draw { key: "c0:set:0".into(), drawn: None }]];
    let mut imagined = Imagined::of(mode("0"), 1 + CLIENTS, |number, _| {
        let changes = changes.get(number / CLIENTS).filter(|_| client_of(number) == 0).cloned().unwrap_or_default();
        Operation { database: 0, index: 0, changes, form: Form::Command }
    });
    imagined.trial.histories[0].records[1].acknowledged = None;
    let state = |members: &[&str]| {
        let mut state = imagined.last();
        let set = state.spaces[0].get_mut(&key(0, "c0:set:0")).expect("it was added to");
        set.value = Value::Set(members.iter().map(|member| member.to_string()).collect());
        state
    };
    for members in [&["a", "b", "c"][..], &["b", "c"], &["a", "c"], &["a", "b"]] {
        assert!(imagined.trial.judge(&state(members)).is_ok(), "{members:?}");
    }
    for members in [&["a"][..], &["a", "b", "d"], &["a", "b", "c", "d"]] {
        refused(&imagined.trial, &state(members), no_prefix);
    }
}

#[test]
fn lost_settings() {
    let imagined = Imagined::new(5, "0".parse().expect("a mode"), 50);
    let (mut trial, mut state) = (imagined.trial.clone(), imagined.states[50].clone());
    trial.declared[1] = Declarations::after([3, 4]);
    assert!(matches!(trial.judge(&state), Err(Wrong::Settings(_))));
    state.settings[1] = [3, 4];
    trial.judge(&state).expect("what was declared is there");
}
