use super::*;

#[test]
fn the_smaller_of_machine_and_control_group_counts() {
    let machine = "MemTotal:        4194304 kB\nMemFree:  1 kB\n";
    assert_eq!(share(machine, "max\n"), ByteSize::mib(256));
    assert_eq!(share(machine, "2147483648\n"), ByteSize::mib(128));
    assert_eq!(share("MemTotal: 268435456 kB\n", ""), MOST);
    assert_eq!(share("", ""), LEAST, "what cannot be read is taken for a small machine");
}
