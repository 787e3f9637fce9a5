//! How the system's scheduler treats the calling thread.
//!
//! A thread that wakes takes the processor at once from one of lower priority only if that one's slice is over, and a
//! slice is some milliseconds long. A thread with a short slice of its own needs not wait: since Linux 6.12 it goes
//! before those with longer slices. Older systems ignore the slice, and keep the niceness.
//!
//! No library has a safe call for it, so this crate holds the project's only system calls by number.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::time::Duration;

use libc::{SYS_sched_getattr, SYS_sched_setattr, c_long, c_uint, sched_attr};

const CALLING_THREAD: c_uint = 0;
const NO_FLAGS: c_uint = 0;

/// Gives the calling thread a niceness of `nicer` above its own, and this slice if there is one. The system keeps slices between 0.1 and
/// 100 ms. Threads that it starts inherit both.
///
/// # Errors
/// When the system refuses: the thread goes on as before.
pub fn adjust(nicer: i32, slice: Option<Duration>) -> io::Result<()> {
    let mut attributes = attributes()?;
    attributes.sched_nice = (attributes.sched_nice + nicer).min(19);
    if let Some(slice) = slice {
        attributes.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    }
    // SAFETY: the call reads as many bytes of `attributes` as its `size` says, and keeps no pointer.
    done(unsafe { libc::syscall(SYS_sched_setattr, CALLING_THREAD, &raw const attributes, NO_FLAGS) })
}

fn attributes() -> io::Result<sched_attr> {
    let size = size_of::<sched_attr>() as c_uint;
    let mut attributes = MaybeUninit::<sched_attr>::zeroed();
    // SAFETY: the call writes `size` bytes at most, which `attributes` has, and keeps no pointer.
    done(unsafe { libc::syscall(SYS_sched_getattr, CALLING_THREAD, attributes.as_mut_ptr(), size, NO_FLAGS) })?;
    // SAFETY: zeroes are a valid value of each field, and so is what the system wrote.
    Ok(unsafe { attributes.assume_init() })
}

fn done(returned: c_long) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_is_adjusted_alone() {
        let before = attributes().unwrap();
        let adjusted = thread::spawn(|| {
            adjust(3, Some(Duration::from_millis(2))).unwrap();
            attributes().unwrap()
        });
        let adjusted = adjusted.join().unwrap();
        assert_eq!(adjusted.sched_nice, (before.sched_nice + 3).min(19));
        assert_eq!(adjusted.sched_policy, before.sched_policy);
        // Systems before 6.12 say 0, or the slice that all threads have.
        assert!(adjusted.sched_runtime == 2_000_000 || adjusted.sched_runtime == before.sched_runtime);
        assert_eq!(attributes().unwrap().sched_nice, before.sched_nice);
    }

    #[test]
    fn no_slice_and_no_niceness_is_too_large() {
        thread::spawn(|| adjust(100, Some(Duration::from_secs(100))).unwrap()).join().unwrap();
    }
}
