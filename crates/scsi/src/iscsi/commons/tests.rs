use super::*;

const MOST: usize = 64 << 20;

fn share(commons: &Arc<Commons>) -> Share {
    Share::new(commons, &Arc::default(), 0)
}

/// Whether it was told that it is its turn.
fn called(share: &Share) -> bool {
    share.mailbox.take().iter().any(|notice| matches!(notice, Notice::Room))
}

#[test]
fn each_leaves_as_much_as_it_takes() {
    let commons = Commons::new(MOST);
    let mut shares: Vec<_> = (0..8).map(|_| share(&commons)).collect();
    for share in &mut shares {
        while share.reach(share.total() + QUANTUM) {}
    }
    let have: Vec<_> = shares.iter().map(|share| share.total() >> 20).collect();
    assert_eq!(have[..4], [32, 16, 8, 4]);
    assert!(have.iter().sum::<usize>() < MOST >> 20);
    // What is given back goes to who comes next, and in the end all have the same.
    for _ in 0..200 {
        for share in &mut shares {
            let had = share.total();
            share.settle(had.saturating_sub(2 * QUANTUM));
            while share.reach(share.total() + QUANTUM) {}
        }
    }
    let have: Vec<_> = shares.iter().map(|share| share.total() as f64 / (MOST / 9) as f64).collect();
    assert!(have.iter().all(|part| (0.8..1.2).contains(part)), "{have:?}");
    drop(shares);
    assert_eq!(commons.drawn.load(Ordering::SeqCst), 0);
}

#[test]
fn the_first_in_the_queue_may_have_all_and_the_others_wait() {
    let commons = Commons::new(MOST);
    let (mut holder, mut large, mut small) = (share(&commons), share(&commons), share(&commons));
    assert!(holder.reach(30 << 20));
    assert!(!large.reach_or_wait(40 << 20) && !small.reach_or_wait(1 << 20));
    assert!(!holder.reach(31 << 20), "who waits is not passed");
    holder.settle(0);
    assert!(called(&large) && !called(&small));
    large.called();
    assert!(large.reach_or_wait(40 << 20));
    large.tried();
    assert!(called(&small));
    small.called();
    assert!(small.reach_or_wait(1 << 20));
    small.tried();
    // Who has something looks again when that is gone; it does not hold up the others.
    assert!(!small.reach_or_wait(30 << 20) && !small.queued);
    drop(large);
    assert!(holder.reach(1 << 20));
}

#[test]
fn who_leaves_the_queue_lets_the_next_one_in() {
    let commons = Commons::new(MOST);
    let (mut holder, mut first, mut second) = (share(&commons), share(&commons), share(&commons));
    assert!(holder.reach(32 << 20));
    assert!(!first.reach_or_wait(60 << 20) && !second.reach_or_wait(30 << 20));
    first.called();
    first.tried(); // what it was for is no more
    assert!(called(&second) && second.reach_or_wait(30 << 20));
    second.tried();
    assert_eq!(commons.waiting.load(Ordering::SeqCst), 0);
    // So does one that goes altogether.
    let mut third = share(&commons);
    assert!(!first.reach_or_wait(60 << 20) && !third.reach_or_wait(60 << 20));
    drop(first);
    assert!(called(&third));
    drop((holder, second));
    assert!(third.reach_or_wait(MOST + 1), "larger than all of it: alone");
}

#[test]
fn nothing_is_lost_or_left_over_between_threads() {
    let commons = Commons::new(8 << 20);
    std::thread::scope(|scope| {
        for seed in 0..4usize {
            let commons = commons.clone();
            scope.spawn(move || {
                let mut share = share(&commons);
                for round in 0..2000 {
                    let need = (1 + (round * 7 + seed * 3) % 20) * QUANTUM;
                    let deadline = 2_000_000;
                    let reached = (0..deadline).any(|_| {
                        share.called();
                        share.reach_or_wait(need) || {
                            std::thread::yield_now();
                            false
                        }
                    });
                    assert!(reached, "it never has its turn");
                    share.tried();
                    assert!(commons.drawn.load(Ordering::SeqCst) <= 8 << 20);
                    share.settle(0);
                }
            });
        }
    });
    assert_eq!(commons.drawn.load(Ordering::SeqCst), 0);
}
