//! The places that a segment of the store becomes when the effects that it has not seen are replayed onto it.
//! [`dormouse_storage::replay`] says which effects those are, and in which order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dormouse_storage::replay::Effects;
use dormouse_storage::shown::ALL_INDEXES;
use dormouse_storage::shown::FOLLOWED_TIME;
use dormouse_storage::tail::TailRecord;
use dormouse_types::Limits;
use dormouse_types::record::Record;
use dormouse_types::segment::SLOTS;
use dormouse_types::segment::Segment;

use crate::commands;
use crate::error::Result;
use crate::keyspace::place::{Dirty, Place};
use crate::keyspace::{Contents, EngineSettings, Index, Keyspace, Shared};

/// Returns the places that a segment becomes when its effects are replayed onto it. Changes that only the log had are
/// dirty.
///
/// # Errors
/// When an effect is malformed.
pub fn replayed(shared: &Shared, keyspace: u32, segment: Segment<Record>, effects: &Effects) -> Result<Vec<Place>> {
    if effects.tailed.is_empty() && effects.logged.is_empty() {
        return Ok(vec![Place::resident(segment, Dirty::Clean)]);
    }
    // A stream that was made with other settings has an effect that says so.
    let Limits { stream_idmp_duration_s, stream_idmp_maxsize, .. } = Limits::REDIS;
    let limits = Limits { stream_idmp_duration_s, stream_idmp_maxsize, ..shared.settings.load().limits };
    // Replayed in a scratch keyspace, so that no watches are touched and nothing is logged.
    let scratch = Shared::new(&shared.name, shared.placement.seed);
    scratch.settings.store(Arc::new(EngineSettings { limits, ..**shared.settings.load() }));
    let mut places = vec![Place::resident(segment, Dirty::Clean)];
    for (effects, are_stored) in [(&effects.tailed, true), (&effects.logged, false)] {
        let mut contents = Contents::empty(0, SLOTS, shared.placement, [keyspace; ALL_INDEXES]);
        contents.put_index(0, Some(Box::new(Index::new(keyspace, places))));
        for TailRecord { now_ms, body, .. } in effects {
            scratch.followed.store(u32::from(now_ms & FOLLOWED_TIME != 0), Ordering::Relaxed);
            let mut db = Keyspace::new([&mut contents], &scratch, 0, now_ms & !FOLLOWED_TIME, 0);
            commands::replay(&mut db, body)?;
        }
        places = contents.put_index(0, None).map(|index| index.into_places()).unwrap_or_default();
        if let ([place], true) = (&mut places[..], are_stored) {
            place.dirty = Dirty::Clean;
        }
    }
    Ok(places)
}
