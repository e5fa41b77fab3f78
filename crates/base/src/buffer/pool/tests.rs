use std::collections::BTreeSet;
use std::pin::pin;
use std::task::Wake;

use super::*;

/// A slab's address, for comparisons.
fn slab_of(piece: NonNull<u8>) -> usize {
    piece.as_ptr() as usize / SLAB
}

fn give(pool: &Pool, class: usize, pieces: Vec<NonNull<u8>>) {
    for piece in pieces {
        // SAFETY: the tests take them from this class and use them no more.
        unsafe { pool.put_back(class, piece) };
    }
}

#[test]
fn sizes_are_powers_of_two_up_to_a_slab() {
    assert_eq!(class_of(0), Some(0));
    assert_eq!(class_of(ALIGN), Some(0));
    assert_eq!(class_of(ALIGN + 1), Some(1));
    assert_eq!(class_of(SLAB), Some(CLASSES - 1));
    assert_eq!(class_of(SLAB + 1), None);
    assert_eq!(size_of(CLASSES - 1), SLAB);
}

#[test]
fn pieces_do_not_overlap_and_idle_slabs_serve_other_sizes() {
    let pool = Pool::new();
    let small = class_of(64 << 10).unwrap();
    let taken: Vec<_> = (0..10 * 32).map(|_| pool.take(small)).collect();
    let places: BTreeSet<_> = taken.iter().map(|p| p.as_ptr() as usize / (64 << 10)).collect();
    assert_eq!(places.len(), taken.len(), "each piece has a place of its own");
    let slabs: BTreeSet<_> = taken.iter().map(|p| slab_of(*p)).collect();
    give(&pool, small, taken);
    let large = class_of(1 << 20).unwrap();
    let again: Vec<_> = (0..16).map(|_| pool.take(large)).collect();
    let reused = again.iter().filter(|p| slabs.contains(&slab_of(**p))).count();
    assert!(reused >= 8, "only {reused} of 16 large pieces lie where small ones were");
    give(&pool, large, again);
}

#[test]
fn pages_beyond_the_limit_go_back_to_the_kernel() {
    let pool = Pool::new();
    pool.limit(4 * SLAB);
    let class = CLASSES - 1;
    let taken: Vec<_> = (0..20).map(|_| pool.take(class)).collect();
    let with_pages = pool.shelf.lock().paged;
    give(&pool, class, taken);
    let shelf = pool.shelf.lock();
    assert!(shelf.warm.len() <= 4 && shelf.paged + 15 <= with_pages, "{} of {with_pages}", shelf.paged);
    drop(shelf);
}

struct Noted(Mutex<bool>);

impl Wake for Noted {
    fn wake(self: std::sync::Arc<Self>) {
        *self.0.lock() = true;
    }
}

#[test]
fn memory_is_prepared_ahead_of_need_and_not_beyond_the_limit() {
    let pool = Pool::new();
    pool.limit(40 * SLAB);
    let noted = std::sync::Arc::new(Noted(Mutex::new(false)));
    let waker = Waker::from(noted.clone());
    let mut keeper = pin!(pool.keep_ready());
    assert!(keeper.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let ready = pool.shelf.lock().warm.len();
    assert!(ready >= READY || pool.shelf.lock().paged >= 40, "{ready} slabs are ready");
    let class = CLASSES - 1;
    let taken: Vec<_> = (0..ready).map(|_| pool.take(class)).collect();
    assert_eq!(
        *noted.0.lock(),
        pool.shelf.lock().is_scarce(),
        "the keeper is woken when it has to do something"
    );
    assert!(keeper.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(pool.shelf.lock().paged <= 40, "no more is prepared than is kept");
    give(&pool, class, taken);
}
