use super::*;

#[test]
fn clients_never_have_all_files() {
    // X06, A7.
    for (files, expected) in [(0, 0), (256, 128), (1024, 512), (4096, 3072), (20_000, 4096), (u64::MAX, 4096)]
    {
        assert_eq!(connections(files), expected, "of {files}");
        assert_eq!(shortage(files).is_none(), expected == 4096, "of {files}");
    }
}
