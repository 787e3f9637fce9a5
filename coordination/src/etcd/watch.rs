//! A watch of all keys below a prefix.

use super::failure::EtcdFailure;
use super::wire::{Change, Message, WatchAnswer};

/// A message of a watch may not be longer. The keys of 10,000 nodes in one are a third of it.
const MESSAGE_MAX: usize = 16 << 20;

/// An answer of etcd that has one message a line.
pub(crate) struct Watch {
    response: reqwest::Response,
    lines: Lines,
}

/// Bytes that are cut into lines.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    /// The length of the part of the buffer that has no end of line.
    searched: usize,
}

impl Watch {
    pub(super) fn new(response: reqwest::Response) -> Self {
        Self { response, lines: Lines::default() }
    }

    /// Waits for the next changes, in their order. There are none in the first message, which says that the watch has begun.
    ///
    /// # Errors
    /// The watch is over: canceled, for one because etcd has forgotten the revision at which it was to begin; cut; or its
    /// message is invalid.
    pub(crate) async fn next(&mut self) -> Result<Vec<Change>, EtcdFailure> {
        let line = self.line().await?;
        let message: Message<WatchAnswer> = serde_json::from_slice(&line)
            .map_err(|error| EtcdFailure::Refused(format!("a message of a watch cannot be read: {error}")))?;
        if let Some(failure) = message.error {
            return Err(EtcdFailure::of_answer(failure.grpc_code, 0, &failure.message));
        }
        let answer = message.result.unwrap_or_default();
        if answer.canceled && answer.compact_revision > 0 {
            return Err(EtcdFailure::Unreachable("the revisions before a watch were compacted".to_owned()));
        }
        if answer.canceled {
            let reason = format!("a watch was canceled: {}", answer.cancel_reason);
            return Err(EtcdFailure::of_answer(None, 0, &reason));
        }
        Ok(answer.events.into_iter().map(Change::from).collect())
    }

    async fn line(&mut self) -> Result<Vec<u8>, EtcdFailure> {
        loop {
            if let Some(line) = self.lines.next() {
                return Ok(line);
            }
            if self.lines.buffer.len() > MESSAGE_MAX {
                return Err(EtcdFailure::Refused("a message of a watch is longer than 16 MiB".to_owned()));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.lines.buffer.extend_from_slice(&chunk),
                Ok(None) => return Err(EtcdFailure::Unreachable("etcd has ended a watch".to_owned())),
                Err(error) => {
                    return Err(EtcdFailure::Unreachable(format!("a watch was cut: {}", error.without_url())));
                }
            }
        }
    }
}

impl Lines {
    /// Removes the first line if it is complete, and returns it with its end.
    fn next(&mut self) -> Option<Vec<u8>> {
        let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let rest = self.buffer.split_off(self.searched + end + 1);
        self.searched = 0;
        Some(std::mem::replace(&mut self.buffer, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn lines_are_whole_however_they_arrive(text in "[ab\n]{0,60}", cuts in proptest::collection::vec(1_usize..9, 0..20)) {
            let (mut lines, mut rest, mut found) = (Lines::default(), text.as_bytes(), Vec::new());
            for cut in cuts.into_iter().chain([text.len()]) {
                let (chunk, later) = rest.split_at(cut.min(rest.len()));
                lines.buffer.extend_from_slice(chunk);
                found.extend(std::iter::from_fn(|| lines.next()));
                rest = later;
            }
            let expected: Vec<&[u8]> =
                text.as_bytes().split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).collect();
            proptest::prop_assert_eq!(found, expected);
        }
    }
}
