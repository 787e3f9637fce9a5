//! One database: its manifests, the objects that they name, and its entries in the log beyond them.

use std::collections::{BTreeMap, HashMap, HashSet};

use dormouse_storage::codec::Reader;
use dormouse_storage::log::format::{EntryKind, Identity, LogItem, read_item};
use dormouse_storage::log::recovery::Recovered;
use dormouse_storage::log::sink::FOLDER;
use dormouse_storage::log::tail::LogTail;
use dormouse_storage::manifest::{self, History, Manifest, Names, PageInfo};
use dormouse_storage::shown::is_hidden;
use dormouse_storage::store::{Store, StoreError};
use dormouse_storage::stretch::StretchContents;
use dormouse_types::segment::SlotPlacement;

use super::objects::{Fault, Wanted, check_chunk, check_tail, malformed_effect};
use super::{Checked, Needed, Problem};

/// Problems of one object that are reported one by one.
const TOLD_MAX: usize = 8;

/// `None`: neither a manifest nor the log knows the database.
pub(super) async fn check_database(
    store: &Store,
    name: &str,
    needed: &Needed,
    recovered: &Recovered,
) -> Result<Option<Checked>, StoreError> {
    let history = manifest::history(store, name).await?;
    check_history(store, name, history, needed, recovered).await
}

/// Checks the same once the manifests have been read.
pub(super) async fn check_history(
    store: &Store,
    name: &str,
    history: History,
    needed: &Needed,
    recovered: &Recovered,
) -> Result<Option<Checked>, StoreError> {
    let names = Names::new(name)?;
    let mut checked = Checked { name: name.to_owned(), manifests: history.len(), ..Checked::default() };
    checked.manifest = history.first().map(|(number, _)| *number);
    let mut readable = Vec::new();
    let mut damaged = Vec::new();
    for (at, (number, read)) in history.into_iter().enumerate() {
        match read {
            Ok(paged) => match paged.read_readable(store).await {
                Ok((manifest, pages)) => {
                    checked.problems.extend(
                        pages
                            .into_iter()
                            .map(|(page, error)| damaged_page(&names.manifest(number), at == 0, &page, &error)),
                    );
                    readable.push((at == 0, manifest));
                }
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            },
            // Deleted after it was listed, as a newer one was committed.
            Err(error) if error.is_missing() => {}
            Err(error) => damaged.push((number, at == 0, error)),
        }
    }
    let before = readable.first().map(|(_, manifest)| manifest.number);
    for (number, is_newest, error) in damaged {
        checked.is_unreadable |= is_newest;
        checked.problems.push(damaged_manifest(&names.manifest(number), is_newest, before, &error));
    }
    // Two are kept from the first commit on. A store of version 0.1.0 may have its first one only.
    if let Some(lone) = checked.manifest.filter(|number| checked.manifests == 1 && *number != 1) {
        checked.problems.push(missing_manifest(&names, lone));
    }
    if let Some((_, manifest)) = readable.first() {
        let segments = manifest.segments.iter().filter(|segment| !is_hidden(segment.keyspace));
        checked.keys = segments.map(|segment| u64::from(segment.records)).sum();
        checked.bytes = manifest.stored_bytes();
        checked.chunks = manifest.chunks.len();
        checked.tails = manifest.tails.len();
    }
    check_chunks(store, &readable, &mut checked).await?;
    check_tails(store, &readable, &mut checked).await?;
    check_stretches(store, &readable, &mut checked).await?;
    let newest = readable.first().filter(|(is_newest, _)| *is_newest).map(|(_, manifest)| manifest);
    for lost in manifest::lost_branches(store, name).await? {
        checked.problems.push(Problem {
            object: lost.marker.clone(),
            what: lost.to_string(),
            affected: format!("all keys of `{}`", lost.name),
            remedy: format!(
                "restore {} from a copy of the store; what the branch wrote itself can be salvaged (--database \
                 {} --salvage). Nothing, if the branch was never there: the marker goes after the source's next checkpoints",
                Names::new(&lost.name)?.manifests(), lost.name
            ),
        });
    }
    let is_known = check_logged(name, newest, checked.manifest.is_some(), recovered, &mut checked);
    let is_sure = !needed.is_partial && !checked.is_unreadable;
    count_others(store, &names, &needed.objects, is_sure, &mut checked).await?;
    Ok((checked.manifest.is_some() || is_known).then_some(checked))
}

/// The problem that a lone manifest shows: another one was deleted, and it may have been the newest.
fn missing_manifest(names: &Names, lone: u64) -> Problem {
    Problem {
        object: names.manifest(lone + 1),
        what: format!("may have been deleted: two manifests are kept, and only number {lone} is there"),
        affected: format!("if it was there, everything that was written after manifest {lone} and before it"),
        remedy:
            "restore it from a copy of the store; nothing, if an older manifest was deleted: after the next checkpoint \
                 there are two again"
                .to_owned(),
    }
}

/// `before`: the newest manifest that can be read.
fn damaged_manifest(object: &str, is_newest: bool, before: Option<u64>, error: &StoreError) -> Problem {
    let (affected, remedy) = match (is_newest, before) {
        (true, Some(before)) => (
            "the whole database: it is refused",
            format!(
                "salvage it (--salvage), which goes back to manifest {before} and adds what the log has; or move the \
                 damaged manifest away with the server stopped, which loses what only it knew"
            ),
        ),
        (true, None) => (
            "the whole database: it is refused, and no other manifest of it can be read",
            "salvage it (--salvage) from its chunks, its tails and the log".to_owned(),
        ),
        (false, _) => {
            ("no key: a newer manifest is there", "nothing: it is deleted after the next checkpoints".to_owned())
        }
    };
    let what = error.to_string();
    let what = what.strip_prefix(object).map_or(&*what, |what| what.trim_start_matches(": ")).to_owned();
    Problem { object: object.to_owned(), what, affected: affected.to_owned(), remedy }
}

/// A page that cannot be read, of a manifest that can.
fn damaged_page(object: &str, is_newest: bool, page: &PageInfo, error: &StoreError) -> Problem {
    let (affected, remedy) = match is_newest {
        true => (
            format!("{} keys, which are answered with an error; and no checkpoint succeeds", page.records),
            REMEDY.to_owned(),
        ),
        false => (
            "no key: a newer manifest is there".to_owned(),
            "nothing: it is deleted after the next checkpoints".to_owned(),
        ),
    };
    let what = error.to_string();
    let what = what.strip_prefix(object).map_or(&*what, |what| what.trim_start_matches(": ")).to_owned();
    Problem { object: object.to_owned(), what, affected, remedy }
}

async fn check_chunks(store: &Store, manifests: &[(bool, Manifest)], checked: &mut Checked) -> Result<(), StoreError> {
    // Each chunk once, whichever manifests name it.
    let mut chunks: BTreeMap<&str, (u64, Vec<Wanted>)> = BTreeMap::new();
    let Some((_, first)) = manifests.first() else { return Ok(()) };
    let placement = SlotPlacement { seed: first.seed };
    for (is_newest, manifest) in manifests {
        for chunk in &manifest.chunks {
            chunks.entry(&chunk.name).or_insert((chunk.bytes, Vec::new()));
        }
        let pieces = manifest.pieces.iter().filter_map(|piece| {
            let segment = manifest.segment(piece.keyspace, piece.start)?;
            Some(Wanted { segment: *segment, piece: Some(*piece), is_current: *is_newest })
        });
        let bodies = manifest.segments.iter().filter(|segment| segment.has_body());
        let bodies = bodies.map(|segment| Wanted { segment: *segment, piece: None, is_current: *is_newest });
        for mut one in bodies.chain(pieces) {
            let name = &manifest.chunks[one.location().chunk as usize].name;
            let Some((_, wanted)) = chunks.get_mut(name.as_str()) else { continue };
            one.is_current &= manifest.keyspaces.contains(&one.segment.keyspace);
            if wanted.iter().all(|other| other.location().offset != one.location().offset) {
                wanted.push(one);
            }
        }
    }
    for (name, (bytes, wanted)) in chunks {
        let faults = check_chunk(store, name, bytes, &wanted, &placement).await?;
        tell(name, faults, checked);
    }
    Ok(())
}

async fn check_tails(store: &Store, manifests: &[(bool, Manifest)], checked: &mut Checked) -> Result<(), StoreError> {
    let mut seen = HashSet::new();
    for (is_newest, manifest) in manifests {
        let placement = SlotPlacement { seed: manifest.seed };
        for info in &manifest.tails {
            if seen.insert(&info.name) {
                let faults = check_tail(store, info, *is_newest, &placement).await?;
                tell(&info.name, faults, checked);
            }
        }
    }
    Ok(())
}

/// Checks the stretches of the history, each by itself: their bases name older objects, which are not looked at.
async fn check_stretches(
    store: &Store,
    manifests: &[(bool, Manifest)],
    checked: &mut Checked,
) -> Result<(), StoreError> {
    let Some((_, Manifest { timeline, .. })) = manifests.first() else { return Ok(()) };
    for (at, stretch) in timeline.stretches.iter().enumerate() {
        let until_ms = timeline.stretches.get(at + 1).map_or(timeline.until_ms, |next| next.from_ms);
        let what = match StretchContents::read(store, &stretch.name).await {
            Ok(_) => continue,
            Err(error @ (StoreError::Corrupt { .. } | StoreError::Missing { .. })) => error.to_string(),
            Err(error) => return Err(error),
        };
        checked.problems.push(Problem {
            object: stretch.name.clone(),
            what,
            affected: format!(
                "no key, but the history from {} to {until_ms} (Unix time in milliseconds): no branch of a moment in it can be \
                 made",
                stretch.from_ms
            ),
            remedy: "restore the object from a copy of the store; or nothing: it is deleted with its time".to_owned(),
        });
    }
    Ok(())
}

fn tell(object: &str, faults: Vec<Fault>, checked: &mut Checked) {
    let more = faults.len().saturating_sub(TOLD_MAX);
    let rest: u64 = faults.iter().skip(TOLD_MAX).map(|fault| fault.keys).sum();
    for fault in faults.into_iter().take(TOLD_MAX) {
        let Fault { what, place, keys } = fault;
        let affected = match (keys, place) {
            (0, _) => "no key of the newest manifest".to_owned(),
            (keys, Some(place)) => format!("{keys} keys: {place}"),
            (keys, None) => format!("{keys} keys or writes"),
        };
        let remedy = REMEDY.to_owned();
        checked.problems.push(Problem { object: object.to_owned(), what, affected, remedy });
    }
    if more > 0 {
        checked.problems.push(Problem {
            object: object.to_owned(),
            what: format!("{more} more problems of this kind"),
            affected: format!("{rest} keys"),
            remedy: REMEDY.to_owned(),
        });
    }
}

const REMEDY: &str = "restore the object from a copy of the store; or salvage the database (--salvage) without what \
                      cannot be read, and import that";

/// Checks that the log follows the manifest. Returns whether it knows the database.
fn check_logged(
    name: &str,
    newest: Option<&Manifest>,
    has_manifests: bool,
    recovered: &Recovered,
    checked: &mut Checked,
) -> bool {
    let identity = match newest {
        Some(manifest) => Identity { name: name.into(), seed: manifest.seed, created_ms: manifest.created_ms },
        // Without the newest manifest it is unknown where the log goes on.
        None if has_manifests => return true,
        None => match recovered.identity_of(name) {
            Some(identity) => identity,
            None => return false,
        },
    };
    let entries = recovered.entries_of(&identity);
    let (floor, cut) = newest.map_or((0, 0), |manifest| (manifest.sequence, manifest.cut));
    let is_known = !entries.entries.is_empty();
    let mut problem = |what: String, affected: &str| {
        let remedy = "salvage the database (--salvage), which takes the log as far as it can be read; or remove what is \
                      left of the log with the server stopped, which loses every write since the newest manifest";
        let problem =
            Problem { object: FOLDER.to_owned(), what, affected: affected.to_owned(), remedy: remedy.to_owned() };
        checked.problems.push(problem);
    };
    let mut logged = 0;
    let mut malformed = HashMap::new();
    for entry in entries.entries.iter().filter(|entry| entry.sequence > floor && entry.kind == EntryKind::Effects) {
        logged += 1;
        if let Some(what) = malformed_item(&entry.items, &SlotPlacement { seed: identity.seed }) {
            malformed.entry(what).or_insert(entry.sequence);
        }
    }
    for (what, sequence) in malformed {
        problem(format!("write {sequence} of database {name} is malformed: {what}"), "the keys that it is about");
    }
    // A damaged log is reported once, as such.
    let is_damaged = entries.damage.is_some();
    match LogTail::new(entries, floor, cut) {
        Err(what) if !is_damaged => problem(format!("database {name}: {what}"), "the whole database: it is refused"),
        _ => {}
    }
    checked.logged = logged;
    is_known
}

fn malformed_item(items: &[u8], placement: &SlotPlacement) -> Option<String> {
    let mut reader = Reader::new(items);
    while !reader.is_empty() {
        match read_item(&mut reader) {
            Err(error) => return Some(error.to_string()),
            Ok(LogItem::Ids(_)) => {}
            Ok(LogItem::Effect { position, body, .. }) => {
                if let Some(what) = malformed_effect(position, body, placement) {
                    return Some(what.to_owned());
                }
            }
        }
    }
    None
}

/// Counts the objects in the database's folder that no manifest names.
async fn count_others(
    store: &Store,
    names: &Names,
    needed: &HashSet<String>,
    is_sure: bool,
    checked: &mut Checked,
) -> Result<(), StoreError> {
    for folder in [names.chunks(), names.tails(), names.history()] {
        for object in store.list(&folder).await? {
            if needed.contains(&object.name) {
                continue;
            }
            // Names in a manifest that cannot be read are unknown: they may be all of these objects.
            let spare = if is_sure { &mut checked.garbage } else { &mut checked.unknown };
            spare.add(object.bytes);
        }
    }
    checked.markers = store.list(&format!("{}/branch", names.folder())).await?.len() as u64;
    Ok(())
}
