//! The memory of entries when threads share it: an entry may be freed by another thread than the one that made it.

use std::sync::mpsc;
use std::thread;

use dormouse_types::entry::{Entry, Member, slab};
use fastrand::Rng;

fn member(number: usize) -> Member {
    Member::new(number.to_string().repeat(1 + number % 150).as_bytes())
}

fn is_whole(number: usize, member: &Member) -> bool {
    member.as_bytes() == number.to_string().repeat(1 + number % 150).as_bytes()
}

/// In one test, since the slabs are the process's.
#[test]
fn slabs_come_back_when_the_last_entry_goes_and_the_caches_are_flushed() {
    one_thread_allocates_and_two_others_free();
    threads_hand_members_to_each_other();
}

fn one_thread_allocates_and_two_others_free() {
    const MEMBERS: usize = 20_000;
    let (sender, receiver) = mpsc::channel();
    let allocating = thread::spawn(move || {
        for number in 0..MEMBERS {
            assert!(sender.send(member(number)).is_ok(), "the other thread takes all of them");
        }
        // This thread ends without a flush of its own.
    });
    let mut members: Vec<Member> = receiver.iter().collect();
    assert!(allocating.join().is_ok());
    let bytes: usize = members.iter().map(Entry::heap_bytes).filter(|bytes| *bytes <= 1024).sum();
    let slabs = slab::slab_bytes();
    let most = bytes + bytes / 20 + 129 * (64 << 10);
    assert!((bytes..most).contains(&slabs), "{slabs} bytes of slabs for {bytes} bytes");
    assert!(members.iter().enumerate().all(|(number, member)| is_whole(number, member)));
    // Every other one goes, then the rest on another thread, which ends with a full cache.
    let mut number = 0;
    members.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    assert!(thread::spawn(move || drop(members)).join().is_ok());
    slab::flush();
    assert_eq!(slab::slab_bytes(), 0);
}

fn threads_hand_members_to_each_other() {
    const THREADS: usize = 4;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel::<(usize, Member)>()).unzip();
    let mut threads = Vec::new();
    for (thread, receiver) in receivers.into_iter().enumerate() {
        let senders = senders.clone();
        threads.push(thread::spawn(move || {
            let mut rng = Rng::with_seed(thread as u64);
            let free = |(number, member): (usize, Member)| assert!(is_whole(number, &member), "{number} changed");
            for step in 0..20_000 {
                let number = rng.usize(..1_000_000);
                // A receiver that has ended gives the member back in the error.
                if let Err(mpsc::SendError(sent)) = senders[rng.usize(..THREADS)].send((number, member(number))) {
                    free(sent);
                }
                receiver.try_iter().take(2).for_each(free);
                if step % 5000 == 0 {
                    slab::flush();
                }
            }
            drop(senders);
            receiver.iter().for_each(free);
        }));
    }
    drop(senders);
    // A join waits for the destructors of the thread too, and so for the flush of its cache.
    assert!(threads.into_iter().all(|thread| thread.join().is_ok()));
    assert_eq!(slab::slab_bytes(), 0);
}
