#![allow(clippy::disallowed_methods)] // real threads are what is tested here

use super::wait_here;

#[test]
fn a_write_that_has_to_wait_for_room_is_waited_for_on_the_spot() {
    assert_eq!(wait_here(async { 5 }), 5);
    let (tell, told) = tokio::sync::oneshot::channel();
    let other = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        tell.send(7).unwrap();
    });
    assert_eq!(wait_here(told).unwrap(), 7);
    other.join().unwrap();
}
