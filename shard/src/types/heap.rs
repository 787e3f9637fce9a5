//! How many bytes an allocation really takes.

/// The bytes that an allocation of `bytes` takes: the allocator's size class, nothing for nothing.
pub(super) const fn allocation(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { size_class(bytes) }
}

const fn size_class(bytes: usize) -> usize {
    if bytes <= 8 {
        return 8;
    }
    if bytes <= 128 {
        return (bytes + 15) & !15;
    }
    let group = usize::BITS - (bytes - 1).leading_zeros() - 1;
    let step = 1 << (group - 2);
    (bytes + step - 1) & !(step - 1)
}

/// A byte buffer that is grown and shrunk from one size class to the next, so that small changes happen in place.
/// New bytes are zero. `used` is how many of the present bytes must survive.
pub(super) fn resize(storage: &mut Box<[u8]>, used: usize, wanted: usize) {
    let capacity = allocation(wanted);
    if capacity == storage.len() {
        return;
    }
    let mut bytes = std::mem::take(storage).into_vec();
    bytes.truncate(used);
    if capacity > bytes.capacity() {
        bytes.reserve_exact(capacity - bytes.len());
    }
    bytes.resize(capacity, 0);
    *storage = bytes.into_boxed_slice();
}
