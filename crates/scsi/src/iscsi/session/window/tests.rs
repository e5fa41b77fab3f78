use super::*;

#[test]
fn the_window_is_what_was_promised() {
    let mut w = Window::new(u32::MAX, 0, 4);
    assert_eq!((w.expected(), w.last()), (u32::MAX, 2));
    assert_eq!(w.place(u32::MAX), Place::Next);
    assert_eq!((w.place(0), w.place(2)), (Place::Ahead, Place::Ahead));
    assert_eq!((w.place(3), w.place(u32::MAX - 1)), (Place::Outside, Place::Outside));
    w.advance();
    w.open(4); // full: nothing more is promised
    assert_eq!((w.expected(), w.last()), (0, 2));
    w.open(3);
    assert_eq!(w.last(), 2);
    w.open(0);
    assert_eq!(w.last(), 3);
    w.open(4); // and nothing is taken back
    assert_eq!(w.last(), 3);
}

#[test]
fn a_closed_window_admits_nothing() {
    let mut w = Window::new(5, 0, 1);
    assert_eq!(w.place(5), Place::Next);
    w.advance();
    w.open(1);
    assert_eq!(w.place(6), Place::Outside);
    w.open(0);
    assert_eq!(w.place(6), Place::Next);
}
