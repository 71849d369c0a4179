//! Where the hypervisor lives.
//!
//! ```text
//! virtual       IMAGE_BASE                                 STACKS_BASE
//!               | text | rodata | data | bss | .. | heap |  | guard | stack | guard | stack ..
//! physical      home.start                        home.end
//! ```
//! The image and the heap are one piece of physical memory, the *home*, at the top of RAM and hidden
//! from the guest. It is mapped linearly, so the two addresses differ by a constant. Other memory and
//! devices are mapped by identity, below 512 GiB * 511; stacks have a window of their own, so that an
//! unmapped page lies below each.
#![expect(unsafe_code)]
// UNSAFETY: declares the symbols of the linker script.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The virtual address that the image is linked for, as in `link.ld`.
pub(crate) const IMAGE_BASE: usize = 0xff80_0000_0000;

/// Where the windows of the CPUs' stacks begin.
pub(crate) const STACKS_BASE: usize = IMAGE_BASE + (1 << 38);

/// A virtual address of the first GiB that [`crate::boot`] copies the image through.
pub(crate) const COPY_WINDOW: usize = IMAGE_BASE + (768 << 20);

/// Size of the blocks that the home is made of.
pub(crate) const BLOCK: usize = 2 << 20;

/// Size of a page.
pub(crate) const PAGE: usize = 4096;

/// Heap for the guest's interrupt controller and the tables of the physical one.
const HEAP: usize = 24 << 20;

/// Heap for each CPU: its stacks, its redistributor's tables, its vCPU.
const HEAP_PER_CPU: usize = 512 << 10;

/// Physical address minus virtual address of the home.
static OFFSET: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    static image_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static image_end: u8;
}

/// The image's parts by virtual address, each a whole number of pages.
pub(crate) struct Image {
    /// Instructions.
    pub(crate) text: Range<usize>,
    /// Constants.
    pub(crate) rodata: Range<usize>,
    /// Variables.
    pub(crate) data: Range<usize>,
}

/// Returns where the image's parts are mapped.
pub(crate) fn image() -> Image {
    let start = (&raw const image_start).addr();
    let text = (&raw const text_end).addr();
    let rodata = (&raw const rodata_end).addr();
    let end = (&raw const image_end).addr();
    Image {
        text: start..text,
        rodata: text..rodata,
        data: rodata..end,
    }
}

/// Bytes from the start of the image to its end.
pub(crate) fn image_size() -> usize {
    image().data.end - IMAGE_BASE
}

/// Bytes from the start of the home to the heap.
pub(crate) fn heap_offset() -> usize {
    image_size().next_multiple_of(BLOCK)
}

/// Bytes of physical memory that the hypervisor needs on a machine with `cpus` CPUs.
pub(crate) fn home_size(cpus: usize) -> usize {
    heap_offset() + (HEAP + cpus * HEAP_PER_CPU).next_multiple_of(BLOCK)
}

/// Settles at which physical address the home begins.
pub(crate) fn set_home(physical: usize) {
    OFFSET.store(physical.wrapping_sub(IMAGE_BASE), Ordering::Relaxed);
}

/// The physical address behind an address in the image or the heap (not a stack's).
pub(crate) fn physical(address: usize) -> usize {
    address.wrapping_add(OFFSET.load(Ordering::Relaxed))
}

/// Physical address minus virtual address in the image and the heap.
pub(crate) fn physical_offset() -> isize {
    OFFSET.load(Ordering::Relaxed).cast_signed()
}
