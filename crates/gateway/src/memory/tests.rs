use super::*;

#[test]
fn the_smaller_of_machine_and_control_group_counts() {
    let machine = "MemTotal:        4194304 kB\nMemFree:  1 kB\n";
    assert_eq!(smaller(machine, "max\n"), ByteSize::gib(4));
    assert_eq!(smaller(machine, "2147483648\n"), ByteSize::gib(2));
    assert_eq!(smaller("MemTotal: 268435456 kB\n", ""), ByteSize::gib(256));
    assert_eq!(smaller("", ""), ByteSize(0), "what cannot be read is taken for a small machine");
    assert!((LEAST..=MOST_DIRTY).contains(&for_dirty_data()));
    assert!(for_cache_indexes() >= ByteSize::mib(128));
}

#[test]
fn sessions_take_an_eighth_of_the_machine_at_most() {
    // X06, A7.
    for (machine, common, sessions) in
        [(0, 128, 512), (1 << 30, 128, 512), (4 << 30, 256, 1024), (64 << 30, 1024, 4096)]
    {
        let limits = limits(ByteSize(machine));
        assert_eq!((limits.common_bytes >> 20, limits.sessions), (common, sessions));
        let most = limits.common_bytes + limits.sessions * 2 * limits.own_bytes;
        assert!(machine < 4 << 30 || most as u64 <= machine / 8);
    }
}
