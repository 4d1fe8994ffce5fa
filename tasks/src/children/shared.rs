//! Memory that several processes see at once: one page, mapped by the parent and by each child.
//!
//! The page has no name anywhere (`memfd_create`): it is gone when the last process that has it is gone, however that
//! ended. Its size is sealed, so nobody can take it away below the others.
#![expect(
    unsafe_code,
    reason = "memory that other processes change is reached through a pointer; no kept crate hides it"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// Bytes of the mapping: one page, which is the least that the system hands out.
const BYTES: usize = 4096;
/// How many 32-bit words it holds, for what processes wait on. They lie first.
const WORDS: usize = 64;
/// Where the 64-bit cells begin.
const CELLS_AT: usize = 1024;
/// How many 64-bit cells it holds, for values.
const CELLS: usize = 256;

const _: () = assert!(WORDS * 4 <= CELLS_AT && CELLS_AT + CELLS * 8 <= BYTES, "words, then cells, within the page");

/// A page of memory that parent and children share: 64 words and 256 cells, all of them 0 at first.
#[derive(Debug)]
pub(crate) struct Shared {
    memory: OwnedFd,
    map: MmapRaw,
}

impl Shared {
    /// A fresh page.
    ///
    /// # Errors
    /// Where the system has no memory or no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        let memory = memfd_create("tidemill", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memory, BYTES as u64)?;
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::open(memory)
    }

    /// The page that another process has made.
    ///
    /// # Errors
    /// Where it cannot be mapped.
    pub(crate) fn open(memory: OwnedFd) -> io::Result<Self> {
        let map = MmapOptions::new().len(BYTES).map_raw(&memory)?;
        Ok(Self { memory, map })
    }

    /// What processes wait on; see [`super::sync`].
    pub(crate) fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is a page long, page-aligned, readable and writable as long as `self` lives, and its size
        // is sealed. Every process reaches this part of it through these atomics only, never through plain references.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU32>(), WORDS) }
    }

    /// Values: integers, or numbers as their bits.
    pub(crate) fn cells(&self) -> &[AtomicU64] {
        // SAFETY: as above; `CELLS_AT` is a multiple of 8, and no word lies behind it.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(CELLS_AT).cast::<AtomicU64>(), CELLS) }
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    #[test]
    fn what_one_mapping_writes_another_reads() {
        let one = Shared::new().unwrap();
        let other = Shared::open(one.as_fd().try_clone_to_owned().unwrap()).unwrap();

        one.words()[63].store(7, SeqCst);
        one.cells()[255].store(0.1_f64.to_bits(), SeqCst);

        assert_eq!(other.words()[63].load(SeqCst), 7);
        assert_eq!(other.cells()[255].load(SeqCst), 0.1_f64.to_bits());
        assert!(one.words()[..63].iter().all(|word| word.load(SeqCst) == 0), "words and cells do not overlap");
        assert!(one.cells()[..255].iter().all(|cell| cell.load(SeqCst) == 0));
    }

    #[test]
    fn nobody_can_shrink_the_page_below_the_others() {
        let shared = Shared::new().unwrap();

        assert!(ftruncate(&shared, 0).is_err());
    }
}
