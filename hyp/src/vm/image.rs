//! A guest's kernel, copied from the boot module to the address where a boot loader would place it.
#![expect(unsafe_code)]
// UNSAFETY: writes memory that is unused, or the guest's before the guest runs.

use core::ops::Range;

use crate::memory::cache;

/// Offset of a flat binary from the start of RAM.
const FLAT_OFFSET: usize = 0x8_0000;

/// Alignment of an `Image`'s load address less its `text_offset`.
const IMAGE_ALIGNMENT: usize = 2 << 20;

/// Smallest `text_offset` that leaves room before the image for a boot loader's data.
const LOADER_ROOM: usize = 4096;

/// Load parameters of an arm64 Linux `Image`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    text_offset: usize,
    /// Bytes of memory in use, uninitialised data included.
    size: usize,
}

impl Header {
    /// Reads the header, if there is one.
    fn read(image: &[u8]) -> Option<Self> {
        const MAGIC: &[u8] = b"ARM\x64";
        if image.get(56..60)? != MAGIC {
            return None;
        }
        let word = |at: usize| Some(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            text_offset: word(8)? as usize,
            size: word(16)? as usize,
        })
    }
}

/// Returns the memory of `image` in the RAM that begins at `ram`, placed as QEMU places kernels.
/// The memory begins with the first instruction.
fn place(image: &[u8], ram: usize) -> Range<usize> {
    match Header::read(image) {
        // Before Linux 3.17 there was no size, and the offset was unreliable.
        Some(header) if header.size != 0 => {
            let room = if header.text_offset < LOADER_ROOM {
                IMAGE_ALIGNMENT
            } else {
                0
            };
            let start = ram + room + header.text_offset;
            start..start + header.size.max(image.len())
        }
        _ => ram + FLAT_OFFSET..ram + FLAT_OFFSET + image.len(),
    }
}

/// Moves the kernel to its place in the RAM that begins at `ram`, and returns the place.
///
/// # Safety
/// The kernel is at the mapped addresses `module`. Nothing else of the guest's memory is in use but
/// `keep`.
///
/// # Panics
/// If the kernel would overwrite a part of `keep`.
pub(crate) unsafe fn load(
    module: &Range<usize>,
    ram: usize,
    keep: &[Range<usize>],
) -> Range<usize> {
    // SAFETY: by the caller's promise, the kernel is there.
    let image = unsafe { core::slice::from_raw_parts(module.start as *const u8, module.len()) };
    let place = place(image, ram);

    for kept in keep {
        assert!(
            place.end <= kept.start || kept.end <= place.start,
            "the guest's kernel, {place:#x?}, does not fit beside {kept:#x?}"
        );
    }

    // SAFETY: the place is memory of the guest outside `keep`, unused by the caller's promise.
    // `copy` allows the place to overlap the module.
    unsafe {
        core::ptr::copy(
            module.start as *const u8,
            place.start as *mut u8,
            module.len(),
        );
    }
    cache::clean_and_invalidate(&place);
    place
}

/// Fills RAM with zeros, the kernel, and the kernel's arguments at the start. Returns the address of
/// the first instruction.
///
/// # Safety
/// The kernel is at the mapped addresses `module`. The RAM is mapped, and nobody uses it.
///
/// # Panics
/// If the RAM is too small.
pub(crate) unsafe fn load_with_arguments(
    module: &Range<usize>,
    arguments: &str,
    ram: &Range<usize>,
) -> usize {
    // A zero ends the arguments: memory behind them is not written again.
    // SAFETY: by the caller's promise.
    unsafe { (ram.start as *mut u8).write_bytes(0, ram.len()) };
    // SAFETY: by the caller's promise.
    let place = unsafe { load(module, ram.start, &[]) };

    assert!(
        place.end <= ram.end && ram.start + arguments.len() < place.start,
        "{place:#x?} does not fit into {ram:#x?}"
    );
    // SAFETY: by the caller's promise. The arguments fit before the kernel.
    unsafe { (ram.start as *mut u8).copy_from(arguments.as_ptr(), arguments.len()) };
    cache::clean_and_invalidate(ram);
    place.start
}
