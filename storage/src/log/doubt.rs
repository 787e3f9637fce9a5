//! Signs that writes are missing from a log that can be read to its end.
//!
//! A log ends where no whole frame follows. After a crash that is no damage: the last frame may have been written in
//! part. But a crash leaves traces of its own kind, and other ends of a log must not pass for a crash.
//!
//! 1. **A frame that a power cut tore** lacks sectors: those that the disk had not written yet have their earlier
//!    contents, which are zeros ahead of the end of a file. So a frame whose checksum is wrong although none of its
//!    sectors is zero was whole once, and may have been acknowledged as durable ([`broken_frame`]).
//! 2. **A file that is written** is whole blocks long, with zeros ahead. One that ends elsewhere was cut ([`is_cut`]).
//! 3. **A file that is gone** or empty leaves nothing. So in a folder the file `last-log` beside the log names the file
//!    that was written last, from its first durable frame on, until it is deleted or another process has read the log
//!    ([`missing_file`]).
//!
//! None of this is certain to be a loss, so no database is refused for it. It is reported when a server starts, and by
//! `dormouse check`. What cannot be told from a crash at all is the loss of the last objects in a bucket.

use super::format::{CHECKSUM_BYTES, FRAME_HEAD_BYTES, LENGTHS_BYTES, frame_head, frame_lengths};
use super::gathered::BLOCK;
use super::recovered::ReadLog;
use super::sink::name;
use crate::codec::{CodecError, checksum_of};

/// Bytes that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The length of a frame at `at` that is broken, but not as a crash breaks it.
pub(super) fn broken_frame(file: &[u8], at: usize) -> Option<usize> {
    if let Some(end) = end_with_another_length(file, at) {
        return Some(end - at);
    }
    let data_end = file.iter().rposition(|byte| *byte != 0)? + 1;
    let end = match frame_head(file, at) {
        Ok((_, _, names, entries, _)) => at + FRAME_HEAD_BYTES + names + entries + CHECKSUM_BYTES,
        // It may have been longer than the file was when the power went.
        Err(CodecError::Truncated) if !is_cut(file) => return None,
        Err(_) => data_end,
    };
    let mut from = at;
    while from < end {
        let to = end.min((from / SECTOR_BYTES + 1) * SECTOR_BYTES);
        if file.get(from..to)?.iter().all(|byte| *byte == 0) {
            return None;
        }
        from = to;
    }
    (at < end).then_some(end - at)
}

/// The end of the frame at `at` if one bit of its lengths is wrong and nothing else, as its checksum tells. With a
/// wrong length it would look like a frame of which a crash has left the beginning.
fn end_with_another_length(file: &[u8], at: usize) -> Option<usize> {
    let head: [u8; FRAME_HEAD_BYTES] = file.get(at..at + FRAME_HEAD_BYTES)?.try_into().ok()?;
    let body = at + FRAME_HEAD_BYTES;
    (0..LENGTHS_BYTES * 8).find_map(|bit| {
        let mut head = head;
        head[FRAME_HEAD_BYTES - LENGTHS_BYTES + bit / 8] ^= 1 << (bit % 8);
        let (names, entries) = frame_lengths(&head)?;
        let checked = body.checked_add(names)?.checked_add(entries)?;
        let stored = file.get(checked..checked.checked_add(CHECKSUM_BYTES)?)?;
        (checksum_of(&[&head, &file[body..checked]]).to_le_bytes() == stored).then_some(checked + CHECKSUM_BYTES)
    })
}

/// Whether a file that was being written does not end as one does.
pub(super) fn is_cut(file: &[u8]) -> bool {
    !file.len().is_multiple_of(BLOCK)
}

/// The problem of the file that was written last, as noted beside the log: it is gone or has no frame.
pub(super) fn missing_file(logs: &[ReadLog], (writer, number): (u64, u64)) -> Option<String> {
    let log = logs.iter().find(|log| log.writer == writer);
    let has_frames = log.and_then(|log| log.last_frame).is_some_and(|(last, _)| last >= number);
    let is_known_broken = log.is_some_and(|log| !log.damages.is_empty() || !log.doubts.is_empty());
    let is_cut = log.and_then(|log| log.cut_short) == Some(number);
    if has_frames && !is_cut || is_known_broken {
        return None;
    }
    let file = name(writer, number);
    let what = match log.is_some_and(|log| log.files.contains_key(&number)) {
        true if is_cut => "it is shorter than it was",
        true => "nothing of it can be read",
        false => "it is gone",
    };
    Some(format!("{file}: writes were made durable in it, and {what}: {}", after(log)))
}

/// Which writes may be missing.
pub(super) fn after(log: Option<&ReadLog>) -> String {
    let last = |(identity, entries): (&super::format::Identity, &Vec<super::recovered::LogEntry>)| {
        Some((identity.name.clone(), entries.iter().map(|entry| entry.sequence).max()?))
    };
    let mut ends: Vec<_> = log.iter().flat_map(|log| log.databases.iter().filter_map(last)).collect();
    ends.sort();
    let ends: Vec<String> =
        ends.iter().map(|(name, last)| format!("after write {last} of database `{name}`")).collect();
    match ends.is_empty() {
        true => "everything that was written since the newest manifest of each database may be missing".to_owned(),
        false => format!("writes {} may be missing, in this and in other databases", ends.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::{FileHead, write_frame};

    /// A file as it is written: two frames, and zeros ahead.
    fn file() -> (Vec<u8>, usize) {
        let mut file = FileHead { writer: 1, number: 1, lsn: 0 }.encode().to_vec();
        write_frame(&mut file, 0, 0, &[], &[7; 100]);
        let second = file.len();
        write_frame(&mut file, 100, 100, &[], &[9; 6000]);
        file.resize(4 * BLOCK, 0);
        (file, second)
    }

    #[test]
    fn a_flipped_bit_is_no_crash() {
        let (whole, second) = file();
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for at in second..end {
            for bit in [0, 3, 7] {
                let mut file = whole.clone();
                file[at] ^= 1 << bit;
                assert!(broken_frame(&file, second).is_some(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_without_a_sector_was_torn() {
        let (whole, second) = file();
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for sector in second / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let mut file = whole.clone();
            // The sector's earlier contents: the end of the first frame, and zeros.
            file[(sector * SECTOR_BYTES).max(second)..(sector + 1) * SECTOR_BYTES].fill(0);
            assert_eq!(broken_frame(&file, second), None, "sector {sector}");
        }
    }

    #[test]
    fn a_file_that_was_cut_does_not_end_with_a_block() {
        let (whole, second) = file();
        assert!(!is_cut(&whole) && is_cut(&whole[..second]) && is_cut(&whole[..second + 2000]));
        assert!(broken_frame(&whole[..second + 2000], second).is_some());
        assert_eq!(broken_frame(&whole[..BLOCK], second), None);
    }
}
