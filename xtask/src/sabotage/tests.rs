//! A sabotage that does not fit the sources any more is found here, in every test run, and not only when it is tried.

use super::{ALL, sabotaged};
use crate::setup;

#[test]
fn every_sabotage_has_its_line() {
    for sabotage in ALL {
        let text = std::fs::read_to_string(setup::root().join(sabotage.file)).unwrap();
        let changed = sabotaged(&text, sabotage).unwrap();
        assert_ne!(changed, text, "{}", sabotage.name);
        assert!(sabotaged(&changed.replace(sabotage.line, ""), sabotage).is_err(), "{}", sabotage.name);
        assert!(sabotaged(&format!("{text}\n{}\n", sabotage.line), sabotage).is_err(), "{}", sabotage.name);
        assert!(!sabotage.tests.is_empty());
    }
}
