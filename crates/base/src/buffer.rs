//! Page-aligned buffers that travel unchanged from a socket to the journal and on to a segment.
//!
//! Their memory is recycled: fresh pages from the kernel cost more than filling them with data does. It comes in huge pages
//! where the kernel has them, because a disk takes long runs of memory in fewer and larger requests.
#![allow(unsafe_code)] // memory with an alignment and of huge pages, which no safe type of the standard library offers

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// The alignment of every buffer, in bytes: what direct I/O asks of the strictest common disk.
pub const ALIGN: usize = 4096;

/// The most bytes kept for further use, unless [`keep`] says otherwise.
const KEPT: usize = 128 << 20;

/// What is taken from the kernel at a time, at least: a huge page, in bytes.
const SLAB: usize = 2 << 20;

/// Sizes that are kept: `ALIGN` times 1, 2, 4, … 1024 (4 MiB).
const CLASSES: usize = 11;

/// Sets how many bytes of memory are kept for further use when buffers go: as much as the process will want again.
pub fn keep(bytes: usize) {
    POOL.most.store(bytes, Ordering::Relaxed);
}

/// Takes so much memory from the kernel at once, pages and all, so that those who need it first need not wait for it. That may
/// take seconds: call it from the background.
pub fn warm(bytes: usize) {
    for _ in 0..bytes / SLAB {
        let slab = map_slab(SLAB);
        for page in (0..SLAB).step_by(ALIGN) {
            // SAFETY: it lies inside a mapping that nobody else knows of yet.
            unsafe { slab.add(page).write_volatile(0) };
        }
        POOL.spare.lock().push_back(Idle { ptr: slab, fresh: true });
    }
}

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

/// Shows parts of any lengths, one behind the other, in chunks of `size` bytes (a multiple of [`ALIGN`]; the last one may be
/// shorter) whose memory lies on an [`ALIGN`] boundary, each with its place: what direct I/O asks for. One chunk's memory
/// serves all of them, so that copying stays in the processor's cache.
pub fn in_chunks<E>(
    parts: &[Bytes],
    size: usize,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let total: usize = parts.iter().map(Bytes::len).sum();
    let mut chunk = AlignedBuf::for_overwrite(size.min(total));
    let (mut at, mut filled) = (0, 0);
    for part in parts {
        let mut left = &part[..];
        while !left.is_empty() {
            let n = left.len().min(chunk.len() - filled);
            let (now, later) = left.split_at(n);
            chunk[filled..filled + n].copy_from_slice(now);
            filled += n;
            left = later;
            if filled == chunk.len() {
                each(at, &chunk)?;
                at += filled as u64;
                filled = 0;
            }
        }
    }
    if filled > 0 { each(at, &chunk[..filled]) } else { Ok(()) }
}

/// Writes a chunk of [`in_chunks`] at `at`: its whole blocks past the page cache, the rest through it. `direct` is `file` opened a
/// second time with `O_DIRECT`; it becomes `None` when the file system refuses that after all (`EINVAL`, open(2)).
pub fn write_past_cache(file: &File, direct: &mut Option<&File>, chunk: &[u8], at: u64) -> io::Result<()> {
    let (blocks, rest) = chunk.split_at(chunk.len() / ALIGN * ALIGN);
    match direct.map(|direct| direct.write_all_at(blocks, at)) {
        Some(Err(e)) if e.kind() == io::ErrorKind::InvalidInput => {
            *direct = None;
            file.write_all_at(blocks, at)?;
        }
        Some(other) => other?,
        None => file.write_all_at(blocks, at)?,
    }
    file.write_all_at(rest, at + blocks.len() as u64)
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
        if class < CLASSES {
            let Idle { ptr, fresh } = POOL.take(class);
            return (Memory { ptr, size: ALIGN << class }, fresh);
        }
        let layout = Self::layout(pages * ALIGN);
        // SAFETY: the layout is never of size zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) });
        (Memory { ptr: ptr.unwrap_or_else(|| handle_alloc_error(layout)), size: layout.size() }, true)
    }

    /// The class of the pool it belongs to, if it is not too long for any.
    fn class(&self) -> Option<usize> {
        Some((self.size / ALIGN).trailing_zeros() as usize)
            .filter(|class| self.size == ALIGN << *class && *class < CLASSES)
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, ALIGN).expect("buffer sizes are far below isize::MAX")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.class() {
            Some(class) => POOL.keep(class, self.ptr),
            // SAFETY: allocated in `take` with the layout of this size, and nobody else has it.
            None => unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.size)) },
        }
    }
}

/// Memory that nobody uses now, by size. Its addresses are never given back; its pages are, beyond what is kept.
struct Pool {
    classes: [Mutex<VecDeque<Idle>>; CLASSES],
    /// Whole slabs that have pages and belong to no class yet.
    spare: Mutex<VecDeque<Idle>>,
    bytes: AtomicUsize,
    most: AtomicUsize,
}

/// Initialised memory of one class without an owner.
struct Idle {
    ptr: NonNull<u8>,
    /// All zero, and not counted in [`Pool::bytes`]: it has no pages yet.
    fresh: bool,
}

// SAFETY: as of `Memory`.
unsafe impl Send for Idle {}

static POOL: Pool = Pool {
    classes: [const { Mutex::new(VecDeque::new()) }; CLASSES],
    spare: Mutex::new(VecDeque::new()),
    bytes: AtomicUsize::new(0),
    most: AtomicUsize::new(KEPT),
};

impl Pool {
    fn take(&self, class: usize) -> Idle {
        let size = ALIGN << class;
        let mut idle = self.classes[class].lock();
        if idle.is_empty() {
            let spare = if size <= SLAB { self.spare.lock().pop_front() } else { None };
            let slab = spare.map_or_else(|| map_slab(size.max(SLAB)), |spare| spare.ptr);
            let pieces = (0..size.max(SLAB) / size).rev();
            // SAFETY: every piece lies inside the slab, and they do not overlap.
            idle.extend(pieces.map(|n| Idle { ptr: unsafe { slab.add(n * size) }, fresh: true }));
        }
        let piece = idle.pop_back().expect("a slab has pieces");
        if !piece.fresh {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
        }
        piece
    }

    /// Takes memory back whose owner is gone.
    fn keep(&self, class: usize, ptr: NonNull<u8>) {
        let size = ALIGN << class;
        let mut piece = Idle { ptr, fresh: false };
        if self.bytes.fetch_add(size, Ordering::Relaxed) + size > self.most.load(Ordering::Relaxed) {
            // SAFETY: the range is whole pages of one of our own mappings, and nobody else has it; it reads as zero afterwards.
            piece.fresh = unsafe { madvise(ptr.as_ptr().cast(), size, Advice::LinuxDontNeed) }.is_ok();
            if piece.fresh {
                self.bytes.fetch_sub(size, Ordering::Relaxed);
            }
        }
        let mut idle = self.classes[class].lock();
        match piece.fresh {
            // What has pages is used first.
            true => idle.push_front(piece),
            false => idle.push_back(piece),
        }
    }
}

/// Zero bytes for good, aligned to a huge page, `size` of them: a multiple of one.
fn map_slab(size: usize) -> NonNull<u8> {
    let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    let len = size + SLAB;
    // SAFETY: a new anonymous mapping takes nothing from anybody.
    let mapped = unsafe { mmap_anonymous(std::ptr::null_mut(), len, access, kind) };
    let Ok(start) = mapped else { handle_alloc_error(Memory::layout(size)) };
    let start = start.cast::<u8>();
    // SAFETY: the mapping is longer than `size` by as much as this skips at most.
    let slab = unsafe { start.add(start.align_offset(SLAB)) };
    // SAFETY: advice on our own mapping, which changes none of its bytes. A kernel without huge pages refuses, which is no loss.
    let _ = unsafe { madvise(slab.cast(), size, Advice::LinuxHugepage) };
    NonNull::new(slab).expect("a mapping is not at address zero")
}
