use std::fmt;
use std::sync::Arc;

/// The position of one argument in the bytes of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub offset: u32,
    pub len: u32,
}

/// One command: a view of its bytes; `arg(0)` is its name. A read buffer and an [`OwnedRequest`] give the same view.
///
/// Invariant: every span lies inside the buffer.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    buffer: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Request<'a> {
    pub fn new(buffer: &'a [u8], spans: &'a [Span]) -> Self {
        Self { buffer, spans }
    }

    /// The number of arguments, including the command's name.
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the request has no argument, not even a name: `*0` or a blank line, which is skipped without a reply.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `index`. Panics if it does not exist: callers have checked the command's arity.
    #[inline]
    pub fn arg(&self, index: usize) -> &'a [u8] {
        self.slice(self.spans[index])
    }

    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|&span| self.slice(span))
    }

    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone + use<'a> {
        let request = *self;
        self.spans.iter().map(move |&span| request.slice(span))
    }

    /// The request without its first `words` arguments, as of a command that stands within another one.
    #[inline]
    pub fn skip(&self, words: usize) -> Self {
        Self { buffer: self.buffer, spans: &self.spans[words.min(self.spans.len())..] }
    }

    /// The positions of its arguments in `buffer`, if the request is a view of that. A quoted inline request is not:
    /// its unquoted words are stored elsewhere.
    #[inline]
    pub fn spans_in(&self, buffer: &[u8]) -> Option<&'a [Span]> {
        std::ptr::eq(self.buffer, buffer).then_some(self.spans)
    }

    /// The request's payload in bytes: all arguments, without the protocol around them.
    pub fn bytes(&self) -> usize {
        self.spans.iter().map(|span| span.len as usize).sum()
    }

    /// The bytes from the first argument to the last one, with the protocol between them if they are in a read buffer:
    /// about [`Self::bytes`], however many arguments there are.
    #[inline]
    pub fn extent(&self) -> usize {
        let (Some(first), Some(last)) = (self.spans.first(), self.spans.last()) else { return 0 };
        (last.offset as usize + last.len as usize).saturating_sub(first.offset as usize)
    }

    /// A copy that outlives the read buffer.
    pub fn to_owned(&self) -> OwnedRequest {
        OwnedRequest::collect(self.iter(), self.bytes())
    }

    #[inline]
    fn slice(&self, span: Span) -> &'a [u8] {
        let offset = span.offset as usize;
        &self.buffer[offset..offset + span.len as usize]
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|arg| arg.escape_ascii().to_string())).finish()
    }
}

/// A command with its own bytes, in three allocations however many arguments there are.
///
/// For requests that outlive the read buffer: queued in a transaction, blocked on a key, sent to another thread. Clones
/// share the bytes: a thread that hands over a request of many megabytes must not spend milliseconds on another copy.
#[derive(Clone)]
pub struct OwnedRequest {
    owned: Arc<Owned>,
    /// Arguments in front that are no part of it.
    skipped: usize,
}

struct Owned {
    bytes: Vec<u8>,
    spans: Box<[Span]>,
}

impl OwnedRequest {
    /// The request whose arguments are in `bytes` at `spans`, as [`Request::spans_in`] returns them. Nothing is copied.
    pub fn within(bytes: Vec<u8>, spans: Box<[Span]>) -> Self {
        Self { owned: Arc::new(Owned { bytes, spans }), skipped: 0 }
    }

    /// The request without its first `words` arguments. Nothing is copied.
    pub fn skip(&self, words: usize) -> Self {
        Self { owned: Arc::clone(&self.owned), skipped: self.skipped + words }
    }

    /// Panics if the arguments exceed 4 GiB: a parsed request is bounded far below.
    pub fn from_args(args: &[&[u8]]) -> Self {
        Self::collect(args.iter().copied(), args.iter().map(|arg| arg.len()).sum())
    }

    pub fn as_request(&self) -> Request<'_> {
        Request { buffer: &self.owned.bytes, spans: &self.owned.spans }.skip(self.skipped)
    }

    /// Memory beyond its own size, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.owned.bytes.capacity() + size_of_val(&*self.owned.spans)
    }

    fn collect<'a>(args: impl ExactSizeIterator<Item = &'a [u8]>, total: usize) -> Self {
        assert!(u32::try_from(total).is_ok(), "a request is smaller than 4 GiB");
        let mut bytes = Vec::with_capacity(total);
        let mut spans = Vec::with_capacity(args.len());
        for arg in args {
            spans.push(Span { offset: bytes.len() as u32, len: arg.len() as u32 });
            bytes.extend_from_slice(arg);
        }
        Self::within(bytes, spans.into_boxed_slice())
    }
}

impl fmt::Debug for OwnedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_request().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owned_copy_gives_the_same_view() {
        let buffer = b"..SETkv..";
        let spans = [Span { offset: 2, len: 3 }, Span { offset: 6, len: 1 }, Span { offset: 0, len: 0 }];
        let request = Request::new(buffer, &spans);
        let owned = request.to_owned();
        let within = OwnedRequest::within(buffer.to_vec(), request.spans_in(buffer).unwrap().into());
        for view in [
            request,
            owned.as_request(),
            within.as_request(),
            OwnedRequest::from_args(&[b"SET", b"v", b""]).as_request(),
        ] {
            assert_eq!(view.iter().collect::<Vec<_>>(), [&b"SET"[..], b"v", b""]);
            assert_eq!((view.len(), view.bytes(), view.is_empty()), (3, 4, false));
            assert_eq!((view.arg(1), view.get(2), view.get(3)), (&b"v"[..], Some(&b""[..]), None));
        }
        assert_eq!(owned.heap_bytes(), 4 + 3 * 8);
        assert!(std::ptr::eq(owned.clone().as_request().arg(0), owned.as_request().arg(0)), "a clone copies nothing");
        assert_eq!((request.extent(), owned.as_request().extent()), (0, 4));
        for view in [request.skip(1), owned.skip(1).as_request(), owned.skip(0).as_request().skip(1)] {
            assert_eq!(view.iter().collect::<Vec<_>>(), [&b"v"[..], b""]);
        }
        assert!(owned.skip(2).skip(7).as_request().is_empty() && request.skip(4).is_empty());
    }
}
