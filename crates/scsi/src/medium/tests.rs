use std::pin::pin;
use std::task::{Context, Poll, Waker};

use base::{Entropy, SeededEntropy};

use super::*;

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the medium waits although it is not paused"),
    }
}

fn disk(blocks: u64) -> MemoryMedium {
    MemoryMedium::new(Geometry { block_size: 512, blocks, physical_exponent: 3 })
}

#[test]
fn the_memory_medium_agrees_with_a_plain_array() {
    const BLOCKS: u64 = 64;
    let chance = SeededEntropy::new(7);
    let medium = disk(BLOCKS);
    let mut model = vec![(0u8, Provisioning::Deallocated); BLOCKS as usize];
    for round in 0..4000u32 {
        let lba = chance.below(BLOCKS);
        let blocks = chance.below(BLOCKS - lba + 1);
        let fill = chance.next_u64() as u8;
        let range = &mut model[lba as usize..(lba + blocks) as usize];
        match chance.below(4) {
            0 => {
                now(medium.zero(lba, blocks, true)).unwrap();
                range.fill((0, Provisioning::Deallocated));
            }
            1 => {
                now(medium.zero(lba, blocks, false)).unwrap();
                range.fill((0, Provisioning::Anchored));
            }
            2 => {
                let data = Bytes::from(vec![fill; blocks as usize * 512]);
                let admission = medium.try_admit(data.len() as u64).unwrap();
                now(medium.write(lba, vec![data], false, admission)).unwrap();
                range.fill((fill, Provisioning::Mapped));
            }
            _ => {
                let admission = medium.try_admit(0).unwrap();
                let change = Box::new(move |data: &mut [u8]| {
                    data.fill(fill);
                    round % 2 == 0
                });
                now(medium.update(lba, blocks as u32, admission, change)).unwrap();
                if round % 2 == 0 {
                    range.fill((fill, Provisioning::Mapped));
                }
            }
        }
        let read = now(medium.read(0, BLOCKS as u32)).unwrap().concat();
        for (block, (fill, kind)) in read.chunks(512).zip(&model) {
            assert!(block.iter().all(|b| b == fill), "round {round}");
            assert!(*fill == 0 || *kind == Provisioning::Mapped);
        }
        let mut at = 0;
        while at < BLOCKS {
            let (kind, length) = now(medium.provisioning(at, BLOCKS - at)).unwrap();
            assert!(
                model[at as usize..(at + length) as usize].iter().all(|(_, k)| *k == kind),
                "round {round}"
            );
            assert!(at + length == BLOCKS || model[(at + length) as usize].1 != kind);
            at += length;
        }
    }
    assert_eq!(medium.admitted(), 0);
}

#[test]
fn it_refuses_what_lies_beyond_its_end() {
    let medium = disk(8);
    assert!(now(medium.read(8, 1)).is_err());
    assert!(now(medium.zero(u64::MAX, 2, true)).is_err());
    assert!(now(medium.read(8, 0)).is_ok());
}

#[test]
fn it_pauses_fails_and_limits_when_told() {
    let medium = disk(8);
    medium.pause();
    assert!(medium.try_read(0, 1).is_none());
    {
        let mut read = pin!(medium.read(0, 1));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(read.as_mut().poll(&mut cx).is_pending());
        medium.resume();
        assert!(read.as_mut().poll(&mut cx).is_ready());
    }
    medium.spoil(3);
    assert_eq!(now(medium.read(2, 4)).unwrap_err().kind(), base::ErrorKind::Corrupt);
    assert!(now(medium.read(4, 4)).is_ok());
    medium.fail(Operation::Flush, Some(base::ErrorKind::Unavailable));
    assert_eq!(now(medium.flush()).unwrap_err().kind(), base::ErrorKind::Unavailable);
    medium.fail(Operation::Flush, None);
    assert!(now(medium.flush()).is_ok());
    medium.limit_admission(1000);
    let first = medium.try_admit(900).unwrap();
    assert!(medium.try_admit(900).is_none());
    let mut second = pin!(medium.admit(900));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(second.as_mut().poll(&mut cx).is_pending());
    drop(first);
    assert!(second.as_mut().poll(&mut cx).is_ready());
}
