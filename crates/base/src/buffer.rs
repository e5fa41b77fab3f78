//! Page-aligned buffers that travel unchanged from a socket to the journal and on to a segment.
//!
//! Their memory is recycled: fresh pages from the kernel cost more than filling them with data does. It comes in huge pages
//! where the kernel has them, because a disk takes long runs of memory in fewer and larger requests.
#![allow(unsafe_code)] // memory with an alignment and of huge pages, which no safe type of the standard library offers

mod pool;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use bytes::Bytes;
use pool::{LONG, POOL, Pool};

/// The alignment of every buffer, in bytes: what direct I/O asks of the strictest common disk.
pub const ALIGN: usize = 4096;

/// Sets how many bytes of memory are kept for further use when buffers go: as much as the process will want again.
pub fn keep(bytes: usize) {
    POOL.limit(bytes);
}

/// Takes so much memory from the kernel at once, pages and all, so that those who need it first need not wait for it. That may
/// take seconds: call it from the background.
pub fn warm(bytes: usize) {
    POOL.warm(bytes);
}

/// Takes more from the kernel whenever little is left, up to what is kept: who fills buffers for the first time need not wait
/// for pages. Never ends; it is for a thread of the background.
pub async fn keep_ready() {
    POOL.keep_ready().await;
}

/// The bytes of memory that a buffer of `len` bytes takes.
pub fn footprint(len: usize) -> usize {
    pool::class_of(len).map_or_else(|| len.next_multiple_of(ALIGN), pool::size_of)
}

/// A byte buffer whose first byte lies on an [`ALIGN`] boundary.
pub struct AlignedBuf {
    memory: Memory,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let mut buf = Self::for_overwrite(len);
        buf.fill(0);
        buf
    }

    /// `len` bytes of any value, perhaps those of an earlier buffer: for who writes over all that is ever looked at.
    pub fn for_overwrite(len: usize) -> AlignedBuf {
        AlignedBuf { memory: Memory::take(&POOL, len), len }
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[u8]) -> AlignedBuf {
        let mut buf = Self::for_overwrite(data.len());
        buf.copy_from_slice(data);
        buf
    }

    /// The same, for who keeps it long.
    pub fn long_copy_of(data: &[u8]) -> AlignedBuf {
        let mut buf = AlignedBuf { memory: Memory::take(&LONG, data.len()), len: data.len() };
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
    /// Where it goes back to, unless it is too long for it.
    pool: &'static Pool,
}

// SAFETY: it owns its memory alone, as a Vec<u8> does.
unsafe impl Send for Memory {}
// SAFETY: shared references allow reading only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Room for `len` bytes, of any value.
    fn take(pool: &'static Pool, len: usize) -> Memory {
        if let Some(class) = pool::class_of(len) {
            return Memory { ptr: pool.take(class), size: pool::size_of(class), pool };
        }
        let layout = Self::layout(footprint(len));
        // SAFETY: the layout is never of size zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) });
        Memory { ptr: ptr.unwrap_or_else(|| handle_alloc_error(layout)), size: layout.size(), pool }
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, ALIGN).expect("buffer sizes are far below isize::MAX")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match pool::class_of(self.size) {
            // SAFETY: `take` had it from this class of this pool, whose size it has, and nobody else knows of it.
            Some(class) => unsafe { self.pool.put_back(class, self.ptr) },
            // SAFETY: allocated in `take` with the layout of this size, and nobody else has it.
            None => unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.size)) },
        }
    }
}
