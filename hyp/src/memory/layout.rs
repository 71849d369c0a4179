//! The hypervisor's address map.
//!
//! ```text
//! virtual       IMAGE_BASE                                 STACKS_BASE
//!               | text | rodata | data | bss | .. | heap |  | guard | stack | guard | stack ..
//! physical      home.start                        home.end
//! ```
//!
//! The image and the heap are one piece of physical memory, the *home*, at the top of RAM and
//! hidden from the guest. The home is mapped linearly: virtual and physical address differ by a
//! constant. Other memory and devices are mapped by identity, below 512 GiB * 511. Stacks have a
//! window of their own, so that an unmapped page lies below each.
//!
//! The heap grows with each VM with a part of the machine, by memory that no VM has. With such VMs,
//! all free memory has a second mapping, linear as the home's and next to it.
#![expect(unsafe_code)]
// UNSAFETY: declares the symbols of the linker script.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Virtual address that the image is linked for, as in `link.ld`.
pub(crate) const IMAGE_BASE: usize = 0xff80_0000_0000;

/// Virtual address of the CPUs' stacks.
pub(crate) const STACKS_BASE: usize = IMAGE_BASE + (1 << 38);

/// Virtual address, in the first GiB of the image, through which [`crate::boot`] copies the image.
pub(crate) const COPY_WINDOW: usize = IMAGE_BASE + (768 << 20);

/// Bytes of the blocks that the home consists of.
pub(crate) const BLOCK: usize = 2 << 20;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// Heap bytes for the guest's interrupt controller and the tables of the physical one.
const HEAP: usize = 24 << 20;

/// Heap bytes for saves in place of that interrupt controller: its state, and what is left of the
/// last one beside the next.
const HEAP_FOR_SAVES: usize = 3 * HEAP;

/// Heap bytes for each CPU: its stacks, its redistributor's tables.
const HEAP_PER_CPU: usize = 448 << 10;

/// Heap bytes for each vCPU: its registers, its interrupts, its collection in an ITS.
const HEAP_PER_VCPU: usize = 16 << 10;

/// Heap bytes for each virtual PE of a GICv4: its pending table, which has to be aligned.
const HEAP_PER_VIRTUAL_PE: usize = 64 << 10;

/// Virtual PEs and tables of as many bytes that a VM has beside those of its vCPUs: its two
/// configuration tables, and the virtual PE that takes pending states out.
const MORE_VIRTUAL_PES: usize = 3;

/// Heap bytes for each VM with a part of the machine whose guest maps all that its quotas allow,
/// and keeps unmapping: its LPIs and devices, and what is not freed yet (`SECURITY.md`, bounded
/// memory).
const HEAP_PER_VM: usize = 8 << 20;

/// Heap bytes for each event that such a VM may map: its translation, and the physical event's.
const HEAP_PER_EVENT: usize = 128;

/// Heap bytes for each extended SPI, and for each extended PPI of a vCPU.
const HEAP_PER_EXTENDED: usize = 128;

/// Physical address minus virtual address of the home.
static OFFSET: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    static image_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static image_end: u8;
}

/// Parts of the image by virtual address, each a whole number of pages.
pub(crate) struct Image {
    /// Instructions.
    pub(crate) text: Range<usize>,
    /// Constants.
    pub(crate) rodata: Range<usize>,
    /// Variables.
    pub(crate) data: Range<usize>,
}

/// Returns the addresses of the image's parts.
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

/// Returns the bytes from the start of the image to its end.
pub(crate) fn image_size() -> usize {
    image().data.end - IMAGE_BASE
}

/// Returns the bytes from the start of the home to the heap.
pub(crate) fn heap_offset() -> usize {
    image_size().next_multiple_of(BLOCK)
}

/// Returns the bytes of physical memory that the hypervisor needs on a machine with `cpus` CPUs,
/// with a vCPU for each, whose guest is saved in place if `is_saved`.
pub(crate) fn home_size(cpus: usize, is_saved: bool) -> usize {
    let saves = if is_saved { HEAP_FOR_SAVES } else { 0 };
    // Before the GIC's version is known.
    let direct = (cpus + MORE_VIRTUAL_PES) * HEAP_PER_VIRTUAL_PE;
    let heap = HEAP + saves + direct + cpus * (HEAP_PER_CPU + HEAP_PER_VCPU);
    heap_offset() + heap.next_multiple_of(BLOCK)
}

/// Returns the bytes of physical memory, in whole blocks, that the heap grows by for a VM with a
/// part of the machine that has so many vCPUs, of which `virtual_pes` have a virtual PE, and may
/// map so many events, and is saved if `is_saved`. So many bytes of RAM, `by_pages`, are mapped
/// page by page. `extended` interrupts of the extended ranges are all vCPUs' together.
pub(crate) fn growth_for(
    vcpus: usize,
    virtual_pes: usize,
    events: usize,
    is_saved: bool,
    by_pages: usize,
    extended: usize,
) -> usize {
    let size = HEAP_PER_VM
        + vcpus * HEAP_PER_VCPU
        + events * HEAP_PER_EVENT
        + extended * HEAP_PER_EXTENDED;
    let copies = if is_saved {
        1 + HEAP_FOR_SAVES / HEAP
    } else {
        1
    };
    let tables = by_pages / PAGE * size_of::<u64>();
    let direct = match virtual_pes {
        0 => 0,
        _ => (virtual_pes + MORE_VIRTUAL_PES) * HEAP_PER_VIRTUAL_PE,
    };
    (copies * size + direct + tables).next_multiple_of(BLOCK)
}

/// Sets the physical address of the home.
pub(crate) fn set_home(physical: usize) {
    OFFSET.store(physical.wrapping_sub(IMAGE_BASE), Ordering::Relaxed);
}

/// Returns the physical address of a virtual address in the image or the heap, not on a stack.
pub(crate) fn physical(address: usize) -> usize {
    address.wrapping_add(OFFSET.load(Ordering::Relaxed))
}

/// Returns the virtual address of a physical address in the image or the heap.
pub(crate) fn virtual_address(physical: usize) -> usize {
    physical.wrapping_sub(OFFSET.load(Ordering::Relaxed))
}

/// Returns the difference of physical and virtual address in the image and the heap.
pub(crate) fn physical_offset() -> isize {
    OFFSET.load(Ordering::Relaxed).cast_signed()
}
