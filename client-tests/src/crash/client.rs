//! A client that writes until its connections break. It remembers each operation, and when that was sent and
//! acknowledged.
//!
//! It has a connection to each database and goes from one to another: it never sends to one before the other has
//! answered. So its operations have one order, over all databases, which no server may break.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{
    model::{Change, Place, Space},
    node::{Target, unix_ms},
    workload::{DATABASES, Form, Operation, Workload},
};
use crate::{
    resp::{Connection, Reply, request},
    script::Random,
};

const BATCH_LEN_MAX: usize = 16;

/// An operation that was sent, perhaps only in part, and perhaps run.
#[derive(Clone, Debug)]
pub struct Record {
    pub operation: Operation,
    /// The time before the first byte was sent.
    pub sent: Instant,
    pub sent_ms: u64,
    /// The time after the last reply was read.
    pub acknowledged: Option<Instant>,
}

impl Record {
    pub fn place(&self) -> Place {
        Place { database: self.operation.database, index: self.operation.index, now_ms: self.sent_ms }
    }
}

/// A client's knowledge: the former state of its keys, and the operations sent since, in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub base: Space,
    pub records: Vec<Record>,
}

/// A client's pace in one round.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub batch_len_max: usize,
    pub pause: Duration,
    pub operations_max: usize,
}

impl Pace {
    pub fn random(random: &mut Random) -> Self {
        let pauses_us = [0, 0, 0, 200, 1000, 5000];
        Self {
            batch_len_max: if random.one_in(3) { 1 } else { BATCH_LEN_MAX },
            pause: Duration::from_micros(*random.pick(&pauses_us)),
            operations_max: 3000,
        }
    }
}

pub struct Client {
    connections: Vec<Connection>,
    /// Connections that wait.
    waiting: Vec<Connection>,
    /// The index that each connection has selected.
    selected: [usize; DATABASES],
    first_index: [usize; DATABASES],
}

impl Client {
    pub fn connect(target: &Target) -> io::Result<Self> {
        let connections = (0..DATABASES).map(|database| target.connect(database)).collect::<io::Result<_>>()?;
        let waiting = (0..DATABASES).map(|database| target.connect(database)).collect::<io::Result<_>>()?;
        let first_index = std::array::from_fn(|database| target.first_index(database));
        Ok(Self { connections, waiting, selected: [0; DATABASES], first_index })
    }

    /// Writes until the server is gone or, with `may_refuse`, refuses: a refused operation may still take effect. A
    /// wrong reply, or an end before `ending` is set, is a fault.
    pub fn run(
        mut self,
        workload: &mut Workload,
        base: Space,
        pace: Pace,
        random: &mut Random,
        ending: &AtomicBool,
        may_refuse: bool,
    ) -> (History, Option<String>) {
        let mut history = History { base, records: Vec::new() };
        let mut space = history.base.clone();
        while history.records.len() < pace.operations_max {
            let hands = random.one_in(12);
            let done = match hands {
                true => self.hand_over(workload, &mut history, &mut space, random),
                false => self.batch(workload, &mut history, &mut space, pace, random),
            };
            let fault = match done {
                Ok(None) => None,
                // A server that is told to end may say so.
                Ok(Some(_)) | Err(_) if ending.load(Ordering::Relaxed) => break,
                Ok(Some(Unexpected { refusal: true, .. })) if may_refuse => break,
                Ok(Some(Unexpected { text, .. })) => Some(text),
                Err(problem) => Some(format!("the connection broke before the kill: {problem}")),
            };
            if let Some(fault) = fault {
                return (history, Some(format!("client {}: {fault}", workload.client)));
            }
            if !pace.pause.is_zero() {
                std::thread::park_timeout(pace.pause);
            }
        }
        (history, None)
    }

    /// Waits on one connection for an element that another pushes. The server may run the pop in the push or after it, so
    /// either both have taken effect, or the push alone.
    fn hand_over(
        &mut self,
        workload: &mut Workload,
        history: &mut History,
        space: &mut Space,
        random: &mut Random,
    ) -> io::Result<Option<Unexpected>> {
        let database = random.below(DATABASES);
        let (sent, sent_ms) = (Instant::now(), unix_ms());
        if self.selected[database] != 0 {
            self.selected[database] = 0;
            let index = self.first_index[database].to_string();
            let reply = self.connections[database].try_call(&["SELECT", &index])?;
            if reply.is_error() {
                return Ok(Some(Unexpected { refusal: true, text: format!("SELECT was answered {reply:?}") }));
            }
        }
        let [push, pop] = workload.handoff(database);
        let (first_index, first) = (self.first_index[database], history.records.len());
        let requests = [&push, &pop].map(|operation| requests(operation, None, first_index));
        let mut expected = Vec::new();
        for operation in [push, pop] {
            let record = Record { operation, sent, sent_ms, acknowledged: None };
            let mut touched = Vec::new();
            expected.push(record.operation.changes[0].apply(space, record.place(), &mut touched));
            history.records.push(record);
        }
        self.waiting[database].write(&requests[1])?;
        self.connections[database].write(&requests[0])?;
        let records = &mut history.records[first..];
        for ((record, expected), connection) in
            records.iter_mut().zip(expected).zip([&mut self.connections[database], &mut self.waiting[database]])
        {
            let reply = connection.read()?;
            if Some(&reply) != expected.as_ref() {
                let text = format!("{:?} was answered {reply:?} instead of {expected:?}", record.operation);
                return Ok(Some(Unexpected { refusal: reply.is_error(), text }));
            }
            record.acknowledged = Some(Instant::now());
        }
        Ok(None)
    }

    fn batch(
        &mut self,
        workload: &mut Workload,
        history: &mut History,
        space: &mut Space,
        pace: Pace,
        random: &mut Random,
    ) -> io::Result<Option<Unexpected>> {
        let database = random.below(DATABASES);
        let first = history.records.len();
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        let mut touched = Vec::new();
        let (sent, sent_ms) = (Instant::now(), unix_ms());
        for _ in 0..1 + random.below(pace.batch_len_max) {
            let operation = workload.next(random, space, database, sent_ms);
            let record = Record { operation, sent, sent_ms, acknowledged: None };
            let first_index = self.first_index[database];
            let selects = std::mem::replace(&mut self.selected[database], record.operation.index);
            let selects = (selects != record.operation.index).then_some(first_index + record.operation.index);
            bytes.extend(requests(&record.operation, selects, first_index));
            let replies = record.operation.changes.iter().map(|change| {
                touched.clear();
                change.apply(space, record.place(), &mut touched)
            });
            expected.push((selects.is_some(), replies.collect::<Vec<_>>()));
            let last = record.operation.draws();
            history.records.push(record);
            if last {
                break;
            }
        }
        let connection = &mut self.connections[database];
        connection.write(&bytes)?;
        for ((selects, expected), record) in expected.into_iter().zip(&mut history.records[first..]) {
            if selects {
                let reply = connection.read()?;
                if reply.is_error() {
                    return Ok(Some(Unexpected { refusal: true, text: format!("SELECT was answered {reply:?}") }));
                }
            }
            let replies = replies(connection, record.operation.form)?;
            let operation = &mut record.operation;
            let right = replies.len() == expected.len()
                && replies.iter().zip(&expected).all(|(reply, expected)| match expected {
                    Some(expected) => reply == expected,
                    None => !reply.is_error(),
                });
            if !right {
                let text = format!("{operation:?} was answered {replies:?} instead of {expected:?}");
                return Ok(Some(Unexpected { refusal: replies.iter().any(Reply::is_error), text }));
            }
            record.acknowledged = Some(Instant::now());
            if let ([Change::Draw { drawn, .. }], Some(Reply::Bulk(_, Some(member)))) =
                (operation.changes.as_mut_slice(), replies.first())
            {
                *drawn = Some(String::from_utf8_lossy(member).into_owned());
                let place = record.place();
                record.operation.changes[0].apply(space, place, &mut touched);
            }
        }
        Ok(None)
    }
}

/// The request of a script that runs the changes of an operation, or of a command for each of them.
fn script(operation: &Operation, first_index: usize) -> Vec<u8> {
    let (mut calls, mut keys, mut arguments) = (Vec::new(), Vec::new(), Vec::new());
    for change in &operation.changes {
        let words = change.words(first_index);
        let mut call = format!("redis.call('{}'", String::from_utf8_lossy(&words[0]));
        for (number, word) in words.into_iter().enumerate().skip(1) {
            let (name, list) = if number == 1 { ("KEYS", &mut keys) } else { ("ARGV", &mut arguments) };
            list.push(word);
            call.push_str(&format!(", {name}[{}]", list.len()));
        }
        calls.push(call + ")");
    }
    let calls = calls.join(", ");
    let text = match operation.form {
        Form::Script => format!("return {{{calls}}}"),
        _ => format!("local all = {{}} while #all == 0 do all = {{{calls}}} end return all"),
    };
    let count = keys.len().to_string();
    let head = ["EVAL", &text, &count].map(|word| word.as_bytes().to_vec());
    request(&head.into_iter().chain(keys).chain(arguments).collect::<Vec<_>>())
}

/// A reply that contradicts the model.
struct Unexpected {
    /// The reply is an error.
    refusal: bool,
    text: String,
}

fn requests(operation: &Operation, selects: Option<usize>, first_index: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(index) = selects {
        bytes.extend(request(&["SELECT", &index.to_string()]));
    }
    let changes = operation.changes.iter().flat_map(|change| request(&change.words(first_index)));
    match operation.form {
        Form::Command | Form::Awaited => bytes.extend(changes),
        Form::Script | Form::LongScript => bytes.extend(script(operation, first_index)),
        Form::Transaction => {
            bytes.extend(request(&["MULTI"]));
            bytes.extend(changes);
            bytes.extend(request(&["EXEC"]));
        }
    }
    bytes
}

/// Returns the reply to each change of an operation. The replies of a transaction come in that to `EXEC` or
/// to the script.
fn replies(connection: &mut Connection, form: Form) -> io::Result<Vec<Reply>> {
    let mut reply = connection.read()?;
    if matches!(form, Form::Command | Form::Awaited) {
        return Ok(vec![reply]);
    }
    while form == Form::Transaction && matches!(&reply, Reply::Line('+', _)) {
        reply = connection.read()?;
    }
    Ok(match reply {
        Reply::Many(_, Some(replies)) => replies,
        other => vec![other],
    })
}
