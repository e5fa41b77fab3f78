use super::*;

#[test]
fn each_trouble_ends_by_itself_and_the_worst_is_told() {
    let mut troubles = Troubles::default();
    let told = |troubles: &Troubles| troubles.worst().map(|(since, why)| (since, why.clone()));
    assert!(troubles.begin(Work::Checkpoint, "late".into(), 5));
    assert!(!troubles.begin(Work::Put, "refused".into(), 7));
    assert_eq!(told(&troubles), Some((5, "refused".into())));
    assert!(!troubles.end(Work::Put));
    assert_eq!(told(&troubles), Some((5, "late".into())));
    assert!(!troubles.end(Work::Map), "it had none");
    assert!(troubles.end(Work::Checkpoint));
    assert!(!troubles.end(Work::Checkpoint), "it is told once");
    assert_eq!(told(&troubles), None);
}
