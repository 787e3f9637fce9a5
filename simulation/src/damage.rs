//! Damage of durable data: one bit of an object or of the log is wrong for the life of one process.
//!
//! 1. Between two processes a bit is flipped: in an object of a database, or in the log before its last whole frame. (If
//!    the last frame is damaged, nothing distinguishes it from one that a power cut tore.)
//! 2. A reader must find each database as it was, or report an error. Damage of an object may only concern the database
//!    that owns it; damage of the log may concern all of them.
//! 3. A process lives with the damage. The models check its replies as ever, so it may refuse, but never serve anything
//!    else. The other databases must notice nothing.
//! 4. The bit is flipped back, as if the object were restored from a copy. The next process must find everything that was
//!    promised, before the damage and during it.

use dormouse_storage::log::format::{FRAME_MAGIC, read_frame};

use crate::chance::Chance;
use crate::disk::{Disk, Place};
use crate::node::name;

/// A flipped bit.
#[derive(Debug, Clone)]
pub struct Damage {
    place: Place,
    at: usize,
    sound: u8,
    damaged: u8,
    /// The database that owns the object; none if the log is damaged.
    owner: Option<usize>,
}

impl Damage {
    /// Flips a bit of the disk's durable data. `None` if there is no such data. `databases`: their number.
    pub fn new(disk: &Disk, chance: &mut Chance, databases: usize) -> Option<Self> {
        let candidates = match chance.below(3) {
            0 => places_of_log(disk),
            _ => objects_of(disk, chance.below(databases as u64) as usize),
        };
        let (place, end, owner) = candidates.get(chance.below(candidates.len() as u64) as usize)?.clone();
        let at = chance.below(end as u64) as usize;
        let sound = *disk.bytes(&place)?.get(at)?;
        let damage = Self { place, at, sound, damaged: sound ^ 1 << chance.below(8), owner };
        disk.set_byte(&damage.place, at, sound, damage.damaged);
        disk.note(format!("{damage:?}"));
        Some(damage)
    }

    /// Flips the bit back, wherever the damaged bytes still are.
    pub fn heal(&self, disk: &Disk) {
        disk.set_byte(&self.place, self.at, self.damaged, self.sound);
        disk.note(format!("{:?} is restored", self.place));
    }

    /// Whether a database may suffer from it.
    pub fn concerns(&self, database: usize) -> bool {
        self.owner.is_none_or(|owner| owner == database)
    }
}

/// A place, the number of its bytes that may be damaged, and the database that owns it.
type Candidate = (Place, usize, Option<usize>);

fn objects_of(disk: &Disk, owner: usize) -> Vec<Candidate> {
    let folder = format!("db/{}/", name(owner));
    // A takeover copies pages of a manifest as they are, so damage of one may outlive the object.
    let is_copied = |rest: &str| !disk.is_folder && rest.starts_with("manifest/");
    let is_own = |object: &String| object.strip_prefix(&folder).is_some_and(|rest| !is_copied(rest));
    let own = disk.names().into_iter().filter(is_own);
    let sized = own.map(Place::Object).filter_map(|place| Some((disk.bytes(&place)?.len(), place)));
    sized.map(|(bytes, place)| (place, bytes, Some(owner))).collect()
}

/// The parts of the log that are known to be durable: each file or object, and how many of its bytes.
fn places_of_log(disk: &Disk) -> Vec<Candidate> {
    let mut places = Vec::new();
    let files = disk.log_files();
    for of_writer in files.chunk_by(|(a, _), (b, _)| a.0 == b.0) {
        let Some(last) = of_writer.iter().rposition(|(_, bytes)| last_frame(bytes).is_some()) else { continue };
        for (at, ((writer, number), bytes)) in of_writer[..=last].iter().enumerate() {
            let end =
                if at == last { last_frame(bytes) } else { bytes.iter().rposition(|byte| *byte != 0).map(|at| at + 1) };
            let place = disk.place_of_log(*writer, *number);
            places.extend(end.filter(|end| *end > 0).map(|end| (place, end, None)));
        }
    }
    places
}

/// Where the last whole frame of a file begins.
fn last_frame(file: &[u8]) -> Option<usize> {
    let begins = (0..file.len().saturating_sub(FRAME_MAGIC.len())).rev();
    begins.filter(|at| file[*at..].starts_with(FRAME_MAGIC)).find(|at| read_frame(file, *at).is_ok())
}
