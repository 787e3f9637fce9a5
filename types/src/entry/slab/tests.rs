use fastrand::Rng;

use super::*;

fn taken(pools: &Pools, class: usize, count: usize) -> Vec<*mut u8> {
    let mut row = Row::EMPTY;
    pools.take(class, count, &mut row);
    row.blocks().to_vec()
}

#[test]
fn blocks_of_every_class_fill_a_slab_and_are_found_in_it() {
    for (class, geometry) in GEOMETRY.iter().enumerate().skip(1) {
        let size = class * STEP;
        let end = geometry.first as usize + geometry.blocks as usize * size;
        assert!(end <= SLAB_BYTES && SLAB_BYTES - end < size + 64 + 8, "{size} bytes");
        assert!(geometry.first as usize >= HEADER_BYTES + geometry.words() * 8, "{size} bytes");
        for number in 0..geometry.blocks as usize {
            assert_eq!(geometry.number(geometry.first as usize + number * size), number, "{size} bytes");
        }
    }
}

#[test]
fn a_slab_leaves_with_its_last_block() {
    let pools = Pools::new();
    let blocks = GEOMETRY[11].blocks as usize;
    let mut all = Vec::new();
    while all.len() < 3 * blocks {
        all.extend(taken(&pools, 11, CACHED_MAX.min(3 * blocks - all.len())));
    }
    assert_eq!(pools.slabs.load(Ordering::Relaxed), 3);
    assert!(pools.lock(11).0.is_null(), "full slabs are in no list");
    let slab = |block: &*mut u8| block.addr() & !(SLAB_BYTES - 1);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 3 * blocks, "no block is taken twice");
    let middle = slab(&all[blocks]);
    let (leave, stay): (Vec<_>, Vec<_>) = all.into_iter().partition(|block| slab(block) == middle);
    // SAFETY: each block was taken once and is given back once.
    unsafe {
        pools.give(11, &leave[1..]);
        assert_eq!(pools.slabs.load(Ordering::Relaxed), 3);
        pools.give(11, &leave[..1]);
        assert_eq!(pools.slabs.load(Ordering::Relaxed), 2);
        pools.give(11, &stay);
    }
    assert_eq!(pools.slabs.load(Ordering::Relaxed), 0);
}

#[test]
fn pools_agree_with_a_model() {
    const CLASSES_TRIED: [usize; 6] = [1, 2, 11, 12, 85, 128];
    let pools = Pools::new();
    let mut rng = Rng::with_seed(1);
    let mut held: Vec<(*mut u8, usize, u8)> = Vec::new();
    let check = |block: *mut u8, class: usize, pattern: u8| {
        // SAFETY: the block is held, and was filled.
        let bytes = unsafe { std::slice::from_raw_parts(block, class * STEP) };
        assert!(bytes.iter().all(|byte| *byte == pattern), "a block of class {class} changed");
    };
    for step in 0..60_000 {
        // Grows and shrinks in turns.
        let grows = rng.u32(..100) < if step / 10_000 % 2 == 0 { 60 } else { 40 };
        if grows || held.is_empty() {
            let class = CLASSES_TRIED[rng.usize(..CLASSES_TRIED.len())];
            for block in taken(&pools, class, rng.usize(1..=CACHED_MAX)) {
                assert_eq!(block.addr() % 8, 0);
                let pattern = rng.u8(..);
                // SAFETY: the block was taken, with this size.
                unsafe { block.write_bytes(pattern, class * STEP) };
                held.push((block, class, pattern));
            }
        } else {
            for _ in 0..rng.usize(1..=CACHED_MAX).min(held.len()) {
                let (block, class, pattern) = held.swap_remove(rng.usize(..held.len()));
                check(block, class, pattern);
                // SAFETY: the block was taken once and is given back once.
                unsafe { pools.give(class, &[block]) };
            }
        }
    }
    let slabs = |blocks: usize| blocks.div_ceil(60) + CLASSES_TRIED.len();
    assert!(pools.slabs.load(Ordering::Relaxed) <= slabs(held.len()));
    for (block, class, pattern) in held {
        check(block, class, pattern);
        // SAFETY: as above.
        unsafe { pools.give(class, &[block]) };
    }
    assert_eq!(pools.slabs.load(Ordering::Relaxed), 0);
}

#[test]
fn a_cache_is_bounded() {
    for class in 1..CLASSES {
        let most = cached_max(class);
        assert!((CACHED_MIN..=CACHED_MAX).contains(&most));
        assert!(most == CACHED_MIN || most * class * STEP <= CACHED_BYTES);
    }
}
