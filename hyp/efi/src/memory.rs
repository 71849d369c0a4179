//! Memory for what is loaded, and the RAM that the hypervisor will find.

#![expect(unsafe_code)]
// UNSAFETY: writes pages that the firmware has allocated.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use uefi::boot::{self, AllocateType, MemoryType, PAGE_SIZE};
use uefi::mem::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap};

/// The alignment of an arm64 `Image`, and of the hypervisor's pieces.
const BLOCK: usize = 2 << 20;

/// Loaded images.
pub(crate) struct Pages {
    /// The images, in order of address.
    pub(crate) pieces: Vec<Range<u64>>,
}

impl Pages {
    /// Returns the addresses from the first image to the end of the last.
    pub(crate) fn whole(&self) -> Range<u64> {
        let start = self.pieces.first().map_or(0, |piece| piece.start);
        let end = self.pieces.last().map_or(start, |piece| piece.end);
        start..end
    }
}

/// Copies images to memory that lasts, each to a block of its own.
///
/// # Errors
/// That there is not so much memory.
pub(crate) fn load(images: &[&[u8]]) -> Result<Pages, String> {
    let sizes = images.iter().map(|image| image.len());
    let places = allocate(sizes)?;
    for (image, place) in images.iter().zip(&places) {
        // SAFETY: the place has just been allocated, and is as large as the image.
        unsafe {
            let to = place.start as *mut u8;
            core::ptr::copy_nonoverlapping(image.as_ptr(), to, image.len());
        }
    }
    Ok(Pages { pieces: places })
}

/// Copies the hypervisor's image, whose header tells how much memory it wants.
///
/// # Errors
/// That there is not so much memory, or that the image has no header.
pub(crate) fn load_hypervisor(image: &[u8]) -> Result<Range<u64>, String> {
    const MAGIC: Range<usize> = 56..60;
    const SIZE: Range<usize> = 16..24;
    if image.get(MAGIC) != Some(b"ARM\x64") {
        return Err("this hyp.efi was built without the hypervisor's image".into());
    }
    let size = image[SIZE].try_into().map(u64::from_le_bytes);
    let size = size.expect("the range has eight bytes") as usize;

    let places = allocate([size.max(image.len())].into_iter())?;
    let place = places[0].clone();
    // SAFETY: the place has just been allocated, and is at least as large as the image.
    unsafe {
        core::ptr::copy_nonoverlapping(image.as_ptr(), place.start as *mut u8, image.len());
    }
    Ok(place)
}

/// Allocates places of these sizes, each at a block's beginning, with ascending addresses.
fn allocate(sizes: impl Iterator<Item = usize> + Clone) -> Result<Vec<Range<u64>>, String> {
    let total: usize = sizes.clone().map(|size| size.next_multiple_of(BLOCK)).sum();
    let count = (total + BLOCK) / PAGE_SIZE;
    let start = boot::allocate_pages(AllocateType::AnyPages, MemoryType::LOADER_DATA, count);
    let start = start.map_err(|error| format!("there are not {} MiB: {error}", total >> 20))?;
    let mut next = start.addr().get().next_multiple_of(BLOCK);
    let place = |size: usize| {
        let start = next;
        next += size.next_multiple_of(BLOCK);
        start as u64..(start + size) as u64
    };
    Ok(sizes.map(place).collect())
}

/// Returns the RAM that is free once the firmware has been left. Memory that runtime services, ACPI
/// tables or anybody else keeps is left out.
///
/// # Errors
/// That the firmware does not tell.
pub(crate) fn ram() -> Result<Vec<Range<u64>>, String> {
    let map = boot::memory_map(MemoryType::LOADER_DATA);
    let map = map.map_err(|error| format!("the firmware has no memory map: {error}"))?;
    let mut pieces: Vec<Range<u64>> = (map.entries())
        .filter(|entry| is_free(entry))
        .map(|entry| {
            let size = entry.page_count * PAGE_SIZE as u64;
            entry.phys_start..entry.phys_start + size
        })
        .collect();
    pieces.sort_by_key(|piece| piece.start);

    pieces.dedup_by(|next, piece| {
        let touches = piece.end == next.start;
        if touches {
            piece.end = next.end;
        }
        touches
    });
    Ok(pieces)
}

/// Returns true for memory that is free once the firmware has been left.
fn is_free(entry: &MemoryDescriptor) -> bool {
    let is_kept = !matches!(
        entry.ty,
        MemoryType::CONVENTIONAL
            | MemoryType::LOADER_CODE
            | MemoryType::LOADER_DATA
            | MemoryType::BOOT_SERVICES_CODE
            | MemoryType::BOOT_SERVICES_DATA
    );
    !is_kept && entry.att.contains(MemoryAttribute::WRITE_BACK)
}
