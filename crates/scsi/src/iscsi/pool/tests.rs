//! Who gets how much.

use base::SeededEntropy;

use super::{Part, Pool, STEP, Share};

#[test]
fn the_first_of_all_may_have_what_a_command_needs() {
    let pool = Pool::new(8 << 20);
    let (mut share, mut other) = (Share::new(pool.clone()), Share::new(pool.clone()));
    assert!(share.reach(16 << 20, Part::Session));
    assert!(!share.reach(17 << 20, Part::Session) && !other.reach(1, Part::Session));
    drop(share);
    assert_eq!(pool.taken(), 0);
    assert!(other.reach(1 << 20, Part::Session) && !other.reach(2 << 20, Part::Session), "an eighth");
}

#[test]
fn the_greedy_leave_some_and_come_to_have_the_same() {
    let size = 64 << 20;
    let pool = Pool::new(size);
    let mut shares: Vec<Share> = (0..32).map(|_| Share::new(pool.clone())).collect();
    let greedy = |share: &mut Share| while share.reach(share.drawn + 4096, Part::Session) {};
    shares.iter_mut().for_each(greedy);
    assert!(shares.iter().all(|share| share.drawn > 0), "none of so many that never end goes without");
    shares.extend((0..992).map(|_| Share::new(pool.clone())));
    let chance = SeededEntropy::new(1);
    for _ in 0..100 * shares.len() {
        let share = &mut shares[chance.below(1024) as usize];
        share.settle(0);
        greedy(share);
    }
    let fair = size / (shares.len() + 7);
    let least = shares.iter().map(|share| share.drawn).min().unwrap();
    eprintln!("{least} {fair} {}", shares.iter().map(|share| share.drawn).max().unwrap());
    assert!(least >= fair / 2, "{least} of {fair}");
    assert!(pool.taken() <= size, "{}", pool.taken());
    drop(shares);
    assert_eq!(pool.taken(), 0);
}

#[test]
fn what_is_drawn_is_given_back_in_steps_and_all_at_rest() {
    let pool = Pool::new(64 << 20);
    let mut share = Share::new(pool.clone());
    assert!(share.reach(1, Part::Session));
    assert_eq!(pool.taken(), STEP);
    assert!(share.reach(STEP, Part::Session));
    share.settle(4096);
    assert_eq!(pool.taken(), STEP, "a little more is kept for the next command");
    assert!(share.reach(8 * STEP, Part::Session));
    share.settle(STEP);
    assert_eq!(pool.taken(), STEP);
    share.settle(0);
    assert_eq!(pool.taken(), 0);
}

#[test]
fn what_had_to_be_is_counted() {
    let pool = Pool::new(1 << 20);
    let (mut a, mut b) = (Share::new(pool.clone()), Share::new(pool.clone()));
    a.settle(2 << 20);
    assert!(!b.reach(1, Part::Session));
    b.settle(1);
    assert!(a.is_overdrawn() && b.is_overdrawn());
    a.settle(0);
    assert!(!b.is_overdrawn() && b.reach(100 << 10, Part::Session));
}

#[test]
fn what_is_kept_for_the_next_command_is_not_missed_by_others() {
    let pool = Pool::new(512 << 20);
    let mut shares: Vec<Share> = (0..1016).map(|_| Share::new(pool.clone())).collect();
    for share in &mut shares {
        share.reach(2 * STEP, Part::Session);
        share.settle(1); // has a byte beyond its own
    }
    let (held, taken) = (shares.iter().filter(|share| share.drawn > 0).count(), pool.taken() >> 20);
    let mut other = Share::new(pool.clone());
    assert!(other.reach(3 << 20, Part::Command), "{held} bytes are held, {taken} MiB taken");
}
