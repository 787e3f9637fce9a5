//! A collection's two forms in the space of a pointer.

use std::{marker::PhantomData, ptr};

use super::Buffer;

/// A type that is a [`Buffer`] and nothing else, so that a reference to the one is a reference to the other.
///
/// # Safety
/// The type is `#[repr(transparent)]` over a buffer. [`packed!`](packed) declares such types.
pub unsafe trait Packed: Default {}

/// Declares a type with a buffer called `storage`.
macro_rules! packed {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident) => {
        $(#[$attribute])*
        #[derive(Clone, Default)]
        #[repr(transparent)]
        $visibility struct $name {
            storage: $crate::entry::Buffer,
        }

        // SAFETY: the type is transparent over a buffer.
        unsafe impl $crate::entry::Packed for $name {}
    };
}
pub(crate) use packed;

/// A packed form, or a boxed large one: a word whose lowest bit tells them apart.
///
/// Invariant: the word is the bits of a buffer, whose lowest bit is 0 because blocks are aligned to 8 and nothing is null;
/// or it is the address of a box plus 1.
#[repr(transparent)]
pub struct Form<P: Packed, T> {
    word: *mut u8,
    owned: PhantomData<(P, Box<T>)>,
}

/// A form to be read.
pub enum FormRef<'a, P, T> {
    Packed(&'a P),
    Large(&'a T),
}

/// A form to be changed.
pub enum FormMut<'a, P, T> {
    Packed(&'a mut P),
    Large(&'a mut T),
}

// SAFETY: a form owns what it points to, as the types that it stands for do, and a buffer may be sent and shared.
unsafe impl<P: Packed, T: Send> Send for Form<P, T> {}
// SAFETY: as above.
unsafe impl<P: Packed, T: Sync> Sync for Form<P, T> {}

impl<P: Packed, T> Form<P, T> {
    const FITS: () = assert!(
        align_of::<T>() >= 2 && size_of::<P>() == size_of::<*mut u8>() && align_of::<P>() == align_of::<*mut u8>()
    );

    pub fn packed(packed: P) -> Self {
        let mut form = Self::default();
        match form.view_mut() {
            FormMut::Packed(place) => *place = packed,
            FormMut::Large(_) => unreachable!("a new form is packed"),
        }
        form
    }

    pub fn large(large: Box<T>) -> Self {
        let () = Self::FITS;
        Self { word: Box::into_raw(large).cast::<u8>().wrapping_add(1), owned: PhantomData }
    }

    #[inline(always)]
    fn large_at(&self) -> Option<*mut T> {
        (self.word.addr() & 1 != 0).then(|| self.word.wrapping_sub(1).cast())
    }

    /// The address of its allocation: only ever prefetched.
    #[inline]
    pub fn address(&self) -> *const u8 {
        self.word.map_addr(|address| address & !1)
    }

    #[inline(always)]
    pub fn view(&self) -> FormRef<'_, P, T> {
        match self.large_at() {
            // SAFETY: the word is the address of a box plus 1, and is borrowed.
            Some(large) => FormRef::Large(unsafe { &*large }),
            // SAFETY: the word is the bits of a buffer, which is what `P` is.
            None => FormRef::Packed(unsafe { &*ptr::from_ref(&self.word).cast() }),
        }
    }

    #[inline(always)]
    pub fn view_mut(&mut self) -> FormMut<'_, P, T> {
        match self.large_at() {
            // SAFETY: as in `view`, borrowed mutably.
            Some(large) => FormMut::Large(unsafe { &mut *large }),
            // SAFETY: as in `view`, borrowed mutably; whatever buffer is put there is a packed form.
            None => FormMut::Packed(unsafe { &mut *ptr::from_mut(&mut self.word).cast() }),
        }
    }
}

impl<P: Packed, T> Default for Form<P, T> {
    /// Packed and empty.
    fn default() -> Self {
        let () = Self::FITS;
        // An empty buffer is a null pointer.
        Self { word: ptr::null_mut(), owned: PhantomData }
    }
}

impl<P: Packed, T> Drop for Form<P, T> {
    fn drop(&mut self) {
        match self.large_at() {
            // SAFETY: the word came from a box, and the form goes.
            Some(large) => drop(unsafe { Box::from_raw(large) }),
            // SAFETY: the word is the bits of a buffer, and the form goes.
            None => unsafe { ptr::from_mut(&mut self.word).cast::<Buffer>().drop_in_place() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    packed! {
        struct Bytes
    }

    #[test]
    fn a_form_is_one_of_two_and_drops_what_it_has() {
        let counted = Arc::new(());
        let mut form: Form<Bytes, Arc<()>> = Form::default();
        assert_eq!(size_of_val(&form), 8);
        assert!(matches!(form.view(), FormRef::Packed(bytes) if bytes.storage.is_empty()));
        match form.view_mut() {
            FormMut::Packed(bytes) => bytes.storage = Buffer::of(b"abc"),
            FormMut::Large(_) => unreachable!("it is packed"),
        }
        assert!(matches!(form.view(), FormRef::Packed(bytes) if bytes.storage.body() == b"abc"));
        form = Form::large(Box::new(Arc::clone(&counted)));
        assert!(matches!(form.view(), FormRef::Large(large) if Arc::ptr_eq(large, &counted)));
        assert_eq!(Arc::strong_count(&counted), 2);
        form = Form::packed(Bytes { storage: Buffer::of(&[7; 2000]) });
        assert_eq!(Arc::strong_count(&counted), 1);
        assert!(matches!(form.view(), FormRef::Packed(bytes) if bytes.storage.body() == [7; 2000]));
    }
}
