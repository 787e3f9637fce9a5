//! Backups: databases of one store, copied into another one, where each backup is a *point* that can be restored.
//!
//! A backup only reads its source, even while a server writes it: chunks, tails and manifests never change.
//!
//! 1. *Begin* ([`BackupRun`]): the run takes the next number. Runs before it that have not ended can make no point any more.
//! 2. The directory of the source is read. Of each database the newest manifest is read, then the log, once for many
//!    databases. The effects that the log has beyond a manifest become one more tail: together they are the
//!    [image](DatabaseImage) of the database at one moment. An image needs no log.
//! 3. Every object that the image names is copied, unless an earlier point has it. What is copied is checked first: each
//!    body, piece and block against its checksum. Then the image is written.
//! 4. *Commit*: one object lists the databases, the objects that each of them needs, their sizes and checksums. The point
//!    exists from here on, as a whole.
//!
//! A server may delete an object between its manifest and the copy: a newer manifest needs it no more. Then the database is
//! begun again from that manifest. What is copied by then stays copied.
//!
//! ```text
//! backup/run/<number, 12 digits>      a run has taken this number
//! backup/point/<number, 12 digits>    the point of that run; or that it will never make one
//! backup/data/<name>                  a copied chunk or tail, under its name in the source
//! backup/image/<number>/<database>    an image: a manifest
//! ```
//!
//! Invariants:
//!
//! 1. Every object that a point names exists, as long as it was written. Only a run deletes objects ([`prune`]), after it has
//!    ended all runs before it and listed the points that remain. A run that is overtaken finds the name of its point taken.
//! 2. Names of chunks and tails hold the random number of their writer, so two objects of one name are the same object, even
//!    if they come from different stores.

mod format;
mod image;
mod run;
mod target;

pub use self::format::{BackupPoint, ImageOrigin, Saved, SavedData, SavedDatabase, SavedObject};
pub use self::image::DatabaseImage;
pub use self::run::{BackupError, BackupOrder, BackupReport, BackupStep};
pub use self::target::{BackupRun, Pruned, data_name, points, prune, read_data, read_image};

#[cfg(test)]
mod tests;
