//! Page-aligned buffers that travel unchanged from a socket to the journal and on to a segment.
//!
//! Their memory is recycled: fresh pages from the kernel cost more than filling them with data does.
#![allow(unsafe_code)] // allocation with an alignment, which no safe type of the standard library offers

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// The alignment of every buffer, in bytes: what direct I/O asks of the strictest common disk.
pub const ALIGN: usize = 4096;

/// The most bytes kept for further use.
const KEPT: usize = 128 << 20;

/// Sizes that are kept: `ALIGN` times 1, 2, 4, … 1024 (4 MiB).
const CLASSES: usize = 11;

/// A byte buffer whose first byte lies on an [`ALIGN`] boundary.
pub struct AlignedBuf {
    memory: Memory,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let (memory, fresh) = Memory::take(len);
        let mut buf = AlignedBuf { memory, len };
        if !fresh {
            buf.fill(0);
        }
        buf
    }

    /// `len` bytes of any value, perhaps those of an earlier buffer: for who writes over all that is ever looked at.
    pub fn for_overwrite(len: usize) -> AlignedBuf {
        AlignedBuf { memory: Memory::take(len).0, len }
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[u8]) -> AlignedBuf {
        let mut buf = Self::for_overwrite(data.len());
        buf.copy_from_slice(data);
        buf
    }

    /// Shares it, without copying, as reference-counted bytes.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Makes it shorter; the memory stays.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the memory has at least `len` bytes, all of which were initialised when it was allocated.
        unsafe { std::slice::from_raw_parts(self.memory.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.memory.ptr.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// Initialised, aligned memory with one owner.
struct Memory {
    ptr: NonNull<u8>,
    size: usize,
}

// SAFETY: it owns its memory alone, as a Vec<u8> does.
unsafe impl Send for Memory {}
// SAFETY: shared references allow reading only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Room for `len` bytes, and whether it is fresh, which means all zero.
    fn take(len: usize) -> (Memory, bool) {
        let pages = len.div_ceil(ALIGN).max(1);
        let class = pages.next_power_of_two().trailing_zeros() as usize;
        if class >= CLASSES {
            return (Memory::allocate(pages * ALIGN), true);
        }
        match POOL.take(class) {
            Some(memory) => (memory, false),
            None => (Memory::allocate(ALIGN << class), true),
        }
    }

    fn allocate(size: usize) -> Memory {
        let layout = Self::layout(size);
        // SAFETY: the layout is never of size zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) });
        Memory { ptr: ptr.unwrap_or_else(|| handle_alloc_error(layout)), size }
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, ALIGN).expect("buffer sizes are far below isize::MAX")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !POOL.keep(self) {
            // SAFETY: allocated in `allocate` with the layout of this size, and nobody else has it.
            unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.size)) }
        }
    }
}

/// Memory that nobody uses now, by size.
struct Pool {
    classes: [Mutex<Vec<Idle>>; CLASSES],
    bytes: AtomicUsize,
}

/// Memory in the pool: without an owner that would give it back a second time.
struct Idle(NonNull<u8>);

// SAFETY: as of `Memory`.
unsafe impl Send for Idle {}

static POOL: Pool = Pool { classes: [const { Mutex::new(Vec::new()) }; CLASSES], bytes: AtomicUsize::new(0) };

impl Pool {
    fn take(&self, class: usize) -> Option<Memory> {
        let Idle(ptr) = self.classes[class].lock().pop()?;
        let size = ALIGN << class;
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        Some(Memory { ptr, size })
    }

    /// Takes over what `memory` owns, if it is of a size that is kept and there is room; it must not be used then.
    fn keep(&self, memory: &mut Memory) -> bool {
        let class = (memory.size / ALIGN).trailing_zeros() as usize;
        if class >= CLASSES || memory.size != ALIGN << class {
            return false;
        }
        if self.bytes.fetch_add(memory.size, Ordering::Relaxed) + memory.size > KEPT {
            self.bytes.fetch_sub(memory.size, Ordering::Relaxed);
            return false;
        }
        self.classes[class].lock().push(Idle(memory.ptr));
        true
    }
}
