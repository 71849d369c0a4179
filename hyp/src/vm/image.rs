//! The kernel, the initial RAM disk and the device tree of a guest, copied to where a boot loader
//! would place them.
#![expect(unsafe_code)]
// UNSAFETY: writes memory that is unused, or a guest's while the guest does not run.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use spin::Mutex;

use crate::machine::entropy::{self, Seed};
use crate::memory::cache;
use crate::memory::ranges::Pages;

/// Offset of a flat binary from the start of RAM.
const FLAT_OFFSET: usize = 0x8_0000;

/// Alignment of an `Image`'s load address less its `text_offset`.
const IMAGE_ALIGNMENT: usize = 2 << 20;

/// Smallest `text_offset` that leaves room before the image for a boot loader's data.
const LOADER_ROOM: usize = 4096;

/// Bytes that are copied at once, while nothing else happens on the CPU.
const SLICE: usize = 1 << 20;

/// Alignment of an initial RAM disk.
const INITRD_ALIGNMENT: usize = 4096;

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
/// The memory begins with the first instruction. If its header says that it ends beyond the last
/// address, it ends there.
fn place(image: &[u8], ram: usize) -> Range<usize> {
    match Header::read(image) {
        // Before Linux 3.17 there was no size, and the offset was unreliable.
        Some(header) if header.size != 0 => {
            let room = if header.text_offset < LOADER_ROOM {
                IMAGE_ALIGNMENT
            } else {
                0
            };
            let start = (ram + room).saturating_add(header.text_offset);
            start..start.saturating_add(header.size.max(image.len()))
        }
        _ => ram + FLAT_OFFSET..ram + FLAT_OFFSET + image.len(),
    }
}

/// Moves the kernel to its place in the guest's `memory`, and returns the place: the lowest one
/// where it overwrites nothing of `keep`.
///
/// # Safety
/// The kernel is at the mapped addresses `module`. Nothing else of the guest's memory is in use but
/// `keep`.
///
/// # Panics
/// If there is no such place.
pub(crate) unsafe fn load(
    module: &Range<usize>,
    memory: &Pages,
    keep: &[Range<usize>],
) -> Range<usize> {
    // SAFETY: by the caller's promise, the kernel is there.
    let image = unsafe { core::slice::from_raw_parts(module.start as *const u8, module.len()) };

    // A place begins where memory does, or where something that is kept ends.
    let begins = (memory.iter().map(|piece| piece.start)).chain(keep.iter().map(|kept| kept.end));
    let places = begins.map(|start| place(image, start.next_multiple_of(IMAGE_ALIGNMENT)));
    let is_free = |place: &Range<usize>| {
        let mut kept = keep.iter();
        memory.contains(place)
            && kept.all(|kept| place.end <= kept.start || kept.end <= place.start)
    };
    let place = (places.filter(is_free))
        .min_by_key(|place| place.start)
        .unwrap_or_else(|| panic!("there is no room in RAM for the guest's kernel"));

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

/// Plan of a VM's RAM at its start, and how far the plan is carried out.
///
/// # Invariants
/// The sources of the copies are mapped and never written. The destinations are in the VM's RAM.
pub(crate) struct Load {
    /// Guest-physical address of the first instruction.
    pub(crate) entry: u64,
    /// Guest-physical address of the device tree.
    pub(crate) tree: u64,
    copies: Vec<Copy>,
    progress: Mutex<Progress>,
}

/// Bytes at a physical address, and the physical address that they are copied to.
struct Copy {
    from: Source,
    to: usize,
}

enum Source {
    Module(Range<usize>),
    Built(Vec<u8>),
    /// Seed of this start.
    Seed,
}

impl Source {
    fn bytes<'a>(&'a self, seed: &'a Seed) -> &'a [u8] {
        match self {
            // SAFETY: by the invariants of `Load`.
            Self::Module(at) => unsafe {
                core::slice::from_raw_parts(at.start as *const u8, at.len())
            },
            Self::Built(bytes) => bytes,
            Self::Seed => seed,
        }
    }
}

/// Next byte to copy.
#[derive(Default)]
struct Progress {
    copy: usize,
    byte: usize,
    seed: Seed,
}

impl Load {
    /// Plans the RAM at the physical addresses `ram`, which the guest sees at `at`: the device tree
    /// first, then the kernel, and the initial RAM disk at the end. `tree` makes the device tree,
    /// given the guest-physical addresses of the initial RAM disk. Each start has a new random seed
    /// in the tree, if the tree has one.
    ///
    /// # Safety
    /// The modules are mapped, and nobody writes them any more. The RAM is mapped and the VM's
    /// alone.
    ///
    /// # Errors
    /// Why the VM cannot be started.
    pub(crate) unsafe fn plan(
        ram: &Range<usize>,
        at: usize,
        kernel: &Range<usize>,
        initrd: Option<&Range<usize>>,
        tree: impl FnOnce(Option<&Range<usize>>) -> Vec<u8>,
    ) -> Result<Self, String> {
        // SAFETY: by the caller's promise, the kernel is there.
        let image = unsafe { core::slice::from_raw_parts(kernel.start as *const u8, kernel.len()) };
        let header = Header::read(image).filter(|header| header.size != 0);
        let header = header.ok_or("the kernel is no arm64 Image")?;
        let place = place(image, ram.start);
        let guest_address = |physical: usize| physical - ram.start + at;

        let does_not_fit = || {
            format!(
                "{} MiB of RAM do not hold the kernel, of {} MiB, and what belongs to it",
                ram.len() >> 20,
                header.size.div_ceil(1 << 20)
            )
        };

        let initrd = match initrd {
            Some(module) => {
                let room = ram.len().checked_sub(module.len());
                let start = ram.start + room.ok_or_else(does_not_fit)?;
                // RAM begins at a block, so that this is not before it.
                let start = start / INITRD_ALIGNMENT * INITRD_ALIGNMENT;
                Some((Source::Module(module.clone()), start..start + module.len()))
            }
            None => None,
        };
        let visible = initrd
            .as_ref()
            .map(|(_, place)| guest_address(place.start)..guest_address(place.end));
        let tree = tree(visible.as_ref());

        let end = initrd.as_ref().map_or(ram.end, |(_, place)| place.start);
        if place.end > end || ram.start + tree.len() > place.start {
            return Err(does_not_fit());
        }

        let seed = seed_offset(&tree).map(|offset| Copy {
            from: Source::Seed,
            to: ram.start + offset,
        });
        let entry = guest_address(place.start) as u64;
        let mut copies = alloc::vec![
            Copy {
                from: Source::Module(kernel.clone()),
                to: place.start
            },
            Copy {
                from: Source::Built(tree),
                to: ram.start
            },
        ];
        copies.extend(seed);
        copies.extend(initrd.map(|(from, place)| Copy {
            from,
            to: place.start,
        }));
        // INVARIANT: by the caller's promise, and the check above.
        Ok(Self {
            entry,
            tree: at as u64,
            copies,
            progress: Mutex::new(Progress::default()),
        })
    }

    /// Begins to carry the plan out.
    pub(crate) fn begin(&self) {
        *self.progress.lock() = Progress {
            seed: entropy::seed().unwrap_or_default(),
            ..Progress::default()
        };
    }

    /// Returns true if the plan is carried out.
    pub(crate) fn is_carried_out(&self) -> bool {
        self.progress.lock().copy >= self.copies.len()
    }

    /// Considers the plan carried out: the RAM has other contents.
    pub(crate) fn skip(&self) {
        self.progress.lock().copy = self.copies.len();
    }

    /// Copies a bounded number of bytes. Returns true if the plan is carried out.
    ///
    /// # Safety
    /// No vCPU of the VM runs, unless the plan is carried out: then nothing is copied.
    pub(crate) unsafe fn advance(&self) -> bool {
        let mut progress = self.progress.lock();
        let Some(copy) = self.copies.get(progress.copy) else {
            return true;
        };

        let source = copy.from.bytes(&progress.seed);
        let bytes = &source[progress.byte..];
        let bytes = &bytes[..bytes.len().min(SLICE)];
        let to = copy.to + progress.byte;
        // SAFETY: by the invariants and the caller's promise, nobody uses the destination.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        cache::clean_and_invalidate(&(to..to + bytes.len()));

        let next = progress.byte + bytes.len();
        if next == source.len() {
            progress.copy += 1;
            progress.byte = 0;
            if progress.copy == self.copies.len() {
                cache::invalidate_instructions();
            }
        } else {
            progress.byte = next;
        }
        progress.copy == self.copies.len()
    }
}

/// Returns the offset of the seed in a device tree that has one.
fn seed_offset(tree: &[u8]) -> Option<usize> {
    let fdt = Fdt::new(tree).ok()?;
    let seed = fdt.find_node("/chosen")?.property(entropy::PROPERTY)?;
    Some(seed.value().as_ptr().addr() - tree.as_ptr().addr())
}
