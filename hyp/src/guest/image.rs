//! The guest's kernel: from where the boot loader has put it to where it would have put it without us.
#![expect(unsafe_code)]
// UNSAFETY: moves memory about that is nobody's, or the guest's before it runs.

use core::ops::Range;

use crate::memory::cache;

/// Where a flat binary is loaded, from the start of RAM.
const FLAT_OFFSET: usize = 0x8_0000;

/// What an `Image` lies at, less its own `text_offset`, is a multiple of this.
const IMAGE_ALIGNMENT: usize = 2 << 20;

/// A `text_offset` below this leaves no room before the image for what boot loaders put there.
const LOADER_ROOM: usize = 4096;

/// How an arm64 Linux `Image` wants to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    text_offset: usize,
    /// Bytes of memory it uses, its uninitialised data included.
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

/// Where `image` belongs in the RAM that begins at `ram`, as QEMU places kernels: the memory that it
/// uses, which begins with its first instruction.
fn place(image: &[u8], ram: usize) -> Range<usize> {
    match Header::read(image) {
        // Before Linux 3.17 there was no size, and the offset is not to be trusted.
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

/// Moves the kernel to its place in the RAM that begins at `ram`, and returns it.
///
/// # Safety
/// The kernel is at the mapped addresses `module`; nothing in the guest's memory is in use but that and
/// what is in `keep`.
///
/// # Panics
/// If it would overwrite anything of `keep`.
pub(crate) unsafe fn load(
    module: &Range<usize>,
    ram: usize,
    keep: &[Range<usize>],
) -> Range<usize> {
    // SAFETY: by the caller's promise.
    let image = unsafe { core::slice::from_raw_parts(module.start as *const u8, module.len()) };
    let place = place(image, ram);
    for kept in keep {
        assert!(
            place.end <= kept.start || kept.end <= place.start,
            "the guest's kernel, {place:#x?}, does not fit beside {kept:#x?}"
        );
    }
    // SAFETY: the place is memory of the guest that nothing is kept in; it may overlap the module.
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
