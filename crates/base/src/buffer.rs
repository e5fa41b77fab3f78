//! Page-aligned buffers that travel unchanged from a socket to the journal and on to a segment.
#![allow(unsafe_code)] // allocation with an alignment, which no safe type of the standard library offers

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytes::Bytes;

/// The alignment of every buffer, in bytes: what direct I/O asks of the strictest common disk.
pub const ALIGN: usize = 4096;

/// A byte buffer whose first byte lies on an [`ALIGN`] boundary.
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: it owns its memory alone, as a Vec<u8> does.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared references allow reading only.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> AlignedBuf {
        // SAFETY: the layout is never of size zero.
        Self::with(len, |layout| unsafe { alloc_zeroed(layout) })
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[u8]) -> AlignedBuf {
        // SAFETY: the layout is never of size zero.
        let buf = Self::with(data.len(), |layout| unsafe { alloc(layout) });
        // SAFETY: the allocation holds at least data.len() bytes, is new, and every byte of `len` is written here.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), buf.ptr.as_ptr(), data.len()) };
        buf
    }

    fn with(len: usize, allocate: impl Fn(Layout) -> *mut u8) -> AlignedBuf {
        let size = len.next_multiple_of(ALIGN).max(ALIGN);
        let layout = Layout::from_size_align(size, ALIGN).expect("buffer sizes are far below isize::MAX");
        let ptr = NonNull::new(allocate(layout)).unwrap_or_else(|| handle_alloc_error(layout));
        AlignedBuf { ptr, len, layout }
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
        // SAFETY: `len` bytes from `ptr` are ours and were written at allocation.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `with`.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}
