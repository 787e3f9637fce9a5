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
    workload::{DATABASES, Operation, Workload},
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
    /// The index that each connection has selected.
    selected: [usize; DATABASES],
    first_index: [usize; DATABASES],
}

impl Client {
    pub fn connect(target: &Target) -> io::Result<Self> {
        let connections = (0..DATABASES).map(|database| target.connect(database)).collect::<io::Result<_>>()?;
        let first_index = std::array::from_fn(|database| target.first_index(database));
        Ok(Self { connections, selected: [0; DATABASES], first_index })
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
            let fault = match self.batch(workload, &mut history, &mut space, pace, random) {
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
            let replies = replies(connection, record.operation.transaction)?;
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
    if operation.transaction {
        bytes.extend(request(&["MULTI"]));
    }
    operation.changes.iter().for_each(|change| bytes.extend(request(&change.words(first_index))));
    if operation.transaction {
        bytes.extend(request(&["EXEC"]));
    }
    bytes
}

/// Returns the reply to each change of an operation. The replies of a transaction come in that to `EXEC`.
fn replies(connection: &mut Connection, transaction: bool) -> io::Result<Vec<Reply>> {
    let mut reply = connection.read()?;
    if !transaction {
        return Ok(vec![reply]);
    }
    while matches!(&reply, Reply::Line('+', _)) {
        reply = connection.read()?;
    }
    Ok(match reply {
        Reply::Many(_, Some(replies)) => replies,
        other => vec![other],
    })
}
