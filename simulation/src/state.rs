//! The contents of a database in the form of the models: read from the store and the log without waking it, or from
//! memory.

use std::sync::Arc;

use dormouse_shard::database::Database;
use dormouse_shard::error::Result;
use dormouse_shard::keyspace::Keyspace;
use dormouse_shard::keyspace::receipts::{Receipt, ReceiptReply};
use dormouse_shard::snapshot::Snapshot;
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::store::Store;
use dormouse_types::array::INDEX_MAX;
use dormouse_types::record::{Record, Value as Held};
use dormouse_types::stream::{Group, Pending, StreamEntry};
use dormouse_types::{Array, Item, ObjectRef, Stream, StreamId};

use crate::arrays::ArrayModel;
use crate::clock;
use crate::documents::{document_model, filter_model, vectors_model};
use crate::model::{Entry, Field, INDEXES, Model, RECEIPTS, Value, all_indexes};
use crate::streams::{GroupModel, Messages, PendingModel, StreamModel};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn entry(select: u8, record: &Record) -> Entry {
    let value = match record.value() {
        Held::Raw(bytes) if select == RECEIPTS => Value::Text(reply_of(bytes)),
        Held::Object(ObjectRef::Text(bytes)) if select == RECEIPTS => Value::Text(reply_of(bytes)),
        Held::Int(number) => Value::Text(number.to_string()),
        Held::Raw(bytes) => Value::Text(text(bytes)),
        Held::Object(ObjectRef::Text(bytes)) => Value::Text(text(bytes)),
        Held::Object(ObjectRef::List(list)) => Value::List(list.iter().map(|item| text(&item.to_vec())).collect()),
        Held::Object(ObjectRef::Hash(hash)) => {
            let field = |(name, value, expiry): (Item<'_>, Item<'_>, Option<u64>)| {
                (text(&name.to_vec()), Field { value: text(&value.to_vec()), expiry })
            };
            Value::Hash(hash.entries().map(field).collect())
        }
        Held::Object(ObjectRef::Set(set)) => Value::Set(set.iter().map(|member| text(&member.to_vec())).collect()),
        Held::Object(ObjectRef::SortedSet(set)) => {
            Value::Sorted(set.iter().map(|(member, score)| (text(&member.to_vec()), score as i64)).collect())
        }
        Held::Object(ObjectRef::Stream(stream)) => Value::Stream(stream_model(stream)),
        Held::Object(ObjectRef::Array(array)) => Value::Array(array_model(array)),
        Held::Object(ObjectRef::Filter(filter)) => Value::Filter(filter_model(filter)),
        Held::Object(ObjectRef::Json(json)) => Value::Document(document_model(json)),
        Held::Object(ObjectRef::VectorSet(set)) => Value::Vectors(vectors_model(set)),
    };
    Entry { value, expiry: record.expiry() }
}

fn array_model(array: &Array) -> ArrayModel {
    let mut model = ArrayModel { last_insert: array.last_insert(), ..ArrayModel::default() };
    array.visit(0, INDEX_MAX, false, |index, element| {
        model.elements.insert(index, text(&element.to_vec()));
        false
    });
    model
}

fn stream_model(stream: &Stream) -> StreamModel {
    let id = |id: StreamId| (id.ms, id.seq);
    let fields = |entry: &StreamEntry<'_>| {
        entry.fields().flat_map(|(field, value)| [field, value].map(|item| text(&item.to_vec()))).collect()
    };
    let group = |group: &Group| {
        let name = |owner| group.consumer(owner).map_or(String::new(), |consumer| text(consumer.name()));
        let pending = |pending: &Pending| {
            let (delivered_ms, deliveries) = (pending.delivered_ms as u64, pending.deliveries);
            (id(pending.id), PendingModel { consumer: name(pending.owner), delivered_ms, deliveries })
        };
        let model = GroupModel {
            last: id(group.last()),
            consumers: group.consumers().map(|(_, consumer)| text(consumer.name())).collect(),
            pending: group.pending_from(StreamId::MIN).map(pending).collect(),
        };
        (text(group.name()), model)
    };
    let messages = stream.producers().flat_map(|(producer, messages)| {
        let producer = text(producer);
        messages.map(move |(message, entry)| ((producer.clone(), text(message)), id(entry))).collect::<Vec<_>>()
    });
    let head = stream.entries().head();
    StreamModel {
        entries: stream.entries().iter().map(|entry| (id(entry.id), fields(&entry))).collect(),
        last: id(head.last),
        max_deleted: id(head.max_deleted),
        added: head.added,
        groups: stream.groups().map(group).collect(),
        messages: Messages(messages.collect()),
    }
}

/// The reply that a receipt keeps.
fn reply_of(receipt: &[u8]) -> String {
    match Receipt::decode(receipt).map(|receipt| receipt.reply) {
        Some(ReceiptReply::Kept(_, reply)) => text(reply),
        other => format!("{other:?}"),
    }
}

/// Returns the contents of a database in the store and the log, with what has expired and was not removed yet.
///
/// # Errors
/// When it cannot be read.
pub async fn stored(store: &Store, name: &str, recovered: Recovered) -> Result<Model> {
    let mut model = Model::default();
    if let Some(snapshot) = Snapshot::open(store, name, recovered).await? {
        model.is_staging = snapshot.is_staging();
        for select in all_indexes() {
            let mut visit = |record: &Record| {
                model.keys.insert((select, text(record.key())), entry(select, record));
                Ok(())
            };
            snapshot.visit(usize::from(select), &mut visit).await?;
        }
    }
    Ok(model)
}

/// When nothing of a record is left: its own expiry, or the last of its fields.
fn gone_at(record: &Record) -> Option<u64> {
    let fields = match record.value() {
        Held::Object(ObjectRef::Hash(hash)) => {
            hash.entries().map(|(_, _, expiry)| expiry.unwrap_or(u64::MAX)).max().filter(|at| *at < u64::MAX)
        }
        _ => None,
    };
    [record.expiry(), fields].into_iter().flatten().min()
}

/// The keys of a logical index in memory.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub counted: usize,
    pub held: usize,
    /// Those held that have expired since a moment.
    pub stale: usize,
}

/// Returns the numbers of keys in each logical index of a database in memory. `since`: the moment from which on keys
/// count as stale.
///
/// # Errors
/// When a part cannot be loaded.
pub async fn counts(database: &Arc<Database>, since: u64) -> Result<Vec<Counts>> {
    loop {
        database.awake().await?;
        database.load_all().await?;
        let Some((_, held)) = database.hold_all().await else { continue };
        let mut contents: Vec<_> = held.iter().map(|held| held.contents()).collect();
        let now_ms = clock::now_ms();
        let records =
            |select| contents.iter().filter_map(move |shard| shard.index(select)).flat_map(|index| index.iter());
        let is_stale = |record: &&Record| gone_at(record).is_some_and(|at| (since + 1..=now_ms).contains(&at));
        let found: Vec<(usize, usize)> =
            (0..INDEXES).map(|select| (records(select).count(), records(select).filter(is_stale).count())).collect();
        let parts = contents.iter_mut().map(|contents| &mut **contents);
        let mut db = Keyspace::new(parts, &database.shared, 0, clock::now_ms(), 1);
        if db.is_resident() {
            let counts = (0..INDEXES).zip(found).map(|(select, (held, stale))| {
                db.select(select);
                Counts { counted: db.count(), held, stale }
            });
            return Ok(counts.collect());
        }
    }
}

/// Returns the contents of a database in memory, all of it loaded.
///
/// # Errors
/// When a part cannot be loaded.
pub async fn awake(database: &Arc<Database>) -> Result<Model> {
    loop {
        database.awake().await?;
        database.load_all().await?;
        let Some((_, held)) = database.hold_all().await else { continue };
        let mut contents: Vec<_> = held.iter().map(|held| held.contents()).collect();
        let parts = contents.iter_mut().map(|contents| &mut **contents);
        let mut db = Keyspace::new(parts, &database.shared, 0, clock::now_ms(), 1);
        if !db.is_resident() {
            continue;
        }
        let mut model = Model { is_staging: db.is_staging(), ..Model::default() };
        for select in all_indexes() {
            db.select(select);
            db.for_each(|record| drop(model.keys.insert((select, text(record.key())), entry(select, record))));
        }
        return Ok(model.alive(clock::now_ms()));
    }
}
