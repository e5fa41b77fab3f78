use super::*;

#[test]
fn the_smaller_of_machine_and_control_group_counts() {
    let machine = "MemTotal:        4194304 kB\nMemFree:  1 kB\n";
    assert_eq!(smaller(machine, "max\n"), ByteSize::gib(4));
    assert_eq!(smaller(machine, "2147483648\n"), ByteSize::gib(2));
    assert_eq!(smaller("MemTotal: 268435456 kB\n", ""), ByteSize::gib(256));
    assert_eq!(smaller("", ""), ByteSize(0), "what cannot be read is taken for a small machine");
    assert!((LEAST..=MOST).contains(&for_dirty_data()));
    assert!(for_cache_indexes() >= ByteSize::mib(128));
}
