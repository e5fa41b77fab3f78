//! The memory of buffers, recycled in slabs of a huge page each.
//!
//! A slab in use is cut into pieces of one size; one without a piece in use belongs to no size and serves the next that asks, so
//! that what a burst of small writes took is there for a burst of large ones. Idle slabs keep their pages up to a limit. A
//! thread of the background prepares new ones ahead of need ([`Pool::keep_ready`]).

use std::alloc::{Layout, handle_alloc_error};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use super::ALIGN;

/// A huge page, in bytes.
pub(super) const SLAB: usize = 2 << 20;
/// Sizes of pieces: `ALIGN` times 1, 2, 4, … up to a slab.
pub(super) const CLASSES: usize = (SLAB / ALIGN).trailing_zeros() as usize + 1;
/// The most bytes of idle slabs that keep their pages, unless [`Pool::limit`] says otherwise.
const KEPT: usize = 128 << 20;
/// How many idle slabs with pages there should be while buffers are in demand.
const READY: usize = 32;

/// That of this process.
pub(super) static POOL: Pool = Pool::new();
/// That of buffers that stay long: among those of [`POOL`] each would keep a slab from serving another size.
pub(super) static LONG: Pool = Pool::new();

/// See the module.
pub(super) struct Pool {
    classes: [Mutex<Class>; CLASSES],
    /// Locked after a class, never before.
    shelf: Mutex<Shelf>,
}

/// The slabs of one size of pieces.
struct Class {
    slabs: BTreeMap<Address, Pieces>,
    /// Those with idle pieces; the one a piece came back to last is used first.
    open: Vec<Address>,
}

/// Where a slab begins: a multiple of [`SLAB`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Address(NonNull<u8>);

// SAFETY: it is handed from thread to thread as the owner of the memory there.
unsafe impl Send for Address {}

/// The idle pieces of a slab, by number.
struct Pieces {
    idle: Vec<u16>,
}

/// Slabs that belong to no class.
struct Shelf {
    /// With pages.
    warm: Vec<Address>,
    /// Without: their pages went back to the kernel.
    cold: Vec<Address>,
    /// How many slabs have pages, those of the classes too.
    paged: usize,
    /// How many of the warm ones stay so.
    most: usize,
    /// Who is to prepare more.
    keeper: Option<Waker>,
}

/// The class whose pieces hold so many bytes; `None` for more than a slab.
pub(super) fn class_of(len: usize) -> Option<usize> {
    let class = len.div_ceil(ALIGN).max(1).next_power_of_two().trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

/// The bytes of each piece of a class.
pub(super) fn size_of(class: usize) -> usize {
    ALIGN << class
}

impl Pool {
    const fn new() -> Pool {
        let shelf = Shelf { warm: Vec::new(), cold: Vec::new(), paged: 0, most: KEPT / SLAB, keeper: None };
        let classes = [const { Mutex::new(Class { slabs: BTreeMap::new(), open: Vec::new() }) }; CLASSES];
        Pool { classes, shelf: Mutex::new(shelf) }
    }

    /// An initialised piece that belongs to the caller until it is given to [`Pool::put_back`].
    pub fn take(&self, class: usize) -> NonNull<u8> {
        self.classes[class].lock().take(class, &self.shelf)
    }

    /// Takes a piece back.
    ///
    /// # Safety
    /// It came from [`Pool::take`] of the same class, and nobody uses it any more.
    pub unsafe fn put_back(&self, class: usize, piece: NonNull<u8>) {
        // SAFETY: a piece lies in a slab, which begins at a multiple of its size: the result lies in it too and is not null.
        let slab = Address(unsafe { piece.byte_sub(piece.as_ptr() as usize % SLAB) });
        self.classes[class].lock().put_back(class, slab, piece, &self.shelf);
    }

    /// Sets how many bytes of idle memory keep their pages.
    pub fn limit(&self, bytes: usize) {
        let mut shelf = self.shelf.lock();
        shelf.most = bytes / SLAB;
        shelf.cool();
    }

    /// Prepares so many bytes.
    pub fn warm(&self, bytes: usize) {
        for _ in 0..bytes / SLAB {
            let cold = self.shelf.lock().cold.pop();
            let slab = cold.unwrap_or_else(map);
            touch(slab);
            let mut shelf = self.shelf.lock();
            shelf.paged += 1;
            shelf.warm.push(slab);
        }
    }

    /// Prepares memory whenever it gets scarce, as long as less has pages than may be kept. Never ends; for a thread of the
    /// background.
    pub async fn keep_ready(&self) {
        loop {
            poll_fn(|context| self.shelf.lock().scarce(context)).await;
            self.warm(SLAB);
        }
    }
}

impl Class {
    fn take(&mut self, class: usize, shelf: &Mutex<Shelf>) -> NonNull<u8> {
        let size = size_of(class);
        let slab = match self.open.last() {
            Some(slab) => *slab,
            None => {
                let slab = shelf.lock().take();
                let idle = (0..(SLAB / size) as u16).rev().collect();
                self.slabs.insert(slab, Pieces { idle });
                self.open.push(slab);
                slab
            }
        };
        let pieces = self.slabs.get_mut(&slab).expect("an open slab is one of the class");
        let piece = pieces.idle.pop().expect("an open slab has an idle piece");
        if pieces.idle.is_empty() {
            self.open.pop();
        }
        // SAFETY: the piece lies inside the slab.
        unsafe { slab.0.byte_add(usize::from(piece) * size) }
    }

    fn put_back(&mut self, class: usize, slab: Address, piece: NonNull<u8>, shelf: &Mutex<Shelf>) {
        let size = size_of(class);
        let number = (piece.as_ptr() as usize % SLAB / size) as u16;
        let pieces = self.slabs.get_mut(&slab).expect("a piece comes back to the class it is of");
        pieces.idle.push(number);
        let idle = pieces.idle.len();
        if idle == 1 {
            self.open.push(slab);
        }
        // One idle slab stays, else each buffer of a quiet client would fetch one and bring it back.
        if idle == SLAB / size && self.open.len() > 1 {
            self.slabs.remove(&slab);
            self.open.retain(|open| *open != slab);
            shelf.lock().put_back(slab);
        }
    }
}

impl Shelf {
    fn take(&mut self) -> Address {
        let slab = self.warm.pop().unwrap_or_else(|| {
            self.paged += 1;
            self.cold.pop().unwrap_or_else(map)
        });
        if self.is_scarce()
            && let Some(keeper) = self.keeper.take()
        {
            keeper.wake();
        }
        slab
    }

    fn put_back(&mut self, slab: Address) {
        self.warm.push(slab);
        self.cool();
    }

    /// Gives pages back to the kernel beyond what may be kept.
    fn cool(&mut self) {
        while self.warm.len() > self.most {
            let Some(slab) = self.warm.pop() else { return };
            // SAFETY: the slab is one of our own mappings, and nobody uses it. It reads as zero afterwards.
            match unsafe { madvise(slab.0.as_ptr().cast(), SLAB, Advice::LinuxDontNeed) } {
                Ok(()) => {
                    self.paged -= 1;
                    self.cold.push(slab);
                }
                Err(_) => {
                    // A kernel that does not take pages back leaves them here, where they are of use.
                    self.warm.push(slab);
                    return;
                }
            }
        }
    }

    fn is_scarce(&self) -> bool {
        self.warm.len() < READY && self.paged < self.most
    }

    fn scarce(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.is_scarce() {
            return Poll::Ready(());
        }
        self.keeper = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Zero bytes for good, aligned to a huge page, which the kernel gives pages when they are first touched.
fn map() -> Address {
    let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new anonymous mapping takes nothing from anybody.
    let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), 2 * SLAB, access, kind) };
    let Ok(start) = mapped else { out_of_memory() };
    let start = start.cast::<u8>();
    // SAFETY: the mapping is longer than a slab by as much as this skips at most.
    let slab = unsafe { start.add(start.align_offset(SLAB)) };
    // SAFETY: advice on our own mapping, which changes none of its bytes. A kernel without huge pages refuses, which is no loss.
    let _ = unsafe { madvise(slab.cast(), SLAB, Advice::LinuxHugepage) };
    NonNull::new(slab).map_or_else(|| out_of_memory(), Address)
}

fn out_of_memory() -> ! {
    handle_alloc_error(Layout::from_size_align(SLAB, SLAB).expect("a power of two, far below isize::MAX"))
}

/// Has the kernel give a slab its pages.
fn touch(slab: Address) {
    for page in (0..SLAB).step_by(ALIGN) {
        // SAFETY: it lies inside a slab that nobody else uses, all of whose bytes are zero or of no interest.
        unsafe { slab.0.byte_add(page).write_volatile(0) };
    }
}

#[cfg(test)]
mod tests;
