//! From the boot loader to the guest.
//!
//! 1. [`head`]: assembly. The MMU is on, the image runs where it is linked, with the [`early`] tables.
//! 2. [`boot`]: reads the device tree, chooses the home at the top of RAM, starts the heap there, makes
//!    the final tables, moves the image, and lets go of all that the boot loader gave us.
//! 3. [`crate::start::run`]: makes the guest and starts the CPUs.
#![expect(unsafe_code)]
// UNSAFETY: takes memory by the addresses that the device tree gives.

mod early;
mod head;
pub(crate) mod secondary;

use alloc::vec::Vec;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use dtoolkit::fdt::Fdt;

use crate::console;
use crate::machine::{Machine, tree};
use crate::memory::layout::{self, BLOCK, COPY_WINDOW, IMAGE_BASE};
use crate::memory::ranges::Pages;
use crate::memory::stage1::Stage1;
use crate::memory::{cache, heap};
use crate::start::{self, BootModules, Kernel};

/// Bytes of a device tree's header up to and including its size.
const TREE_SIZE_END: usize = 8;

/// Entered by assembly on the boot CPU, with the physical addresses of the device tree and the image.
extern "C" fn boot(tree: usize, image: usize) -> ! {
    // SAFETY: the boot loader has put a device tree there, `head` has mapped it, and nobody writes it.
    let blob = unsafe { tree_at(tree) };
    let fdt = Fdt::new(blob).expect("the boot loader's device tree is well-formed");
    if let Some(registers) = tree::console(&fdt) {
        early::map_device(registers.start);
        let registers = NonNull::new(registers.start as *mut _).expect("no device is at 0");
        // SAFETY: the device tree says that there is a PL011; the final tables map it too.
        unsafe { console::start(registers) };
    }

    assert!(
        tree::kernels(&fdt).next().is_some(),
        "no guest: the device tree has no module that is compatible with multiboot,kernel"
    );
    let tree = tree..tree + blob.len();
    let initrd = tree::initrd(&fdt);
    let old = image..image + layout::image_size();
    let used = [tree.clone(), old.clone()].into_iter();
    let kernels = tree::kernels(&fdt).map(|(_, range)| range);
    let home = choose_home(&fdt, used.chain(kernels).chain(initrd.clone()));
    layout::set_home(home.start);
    let heap = IMAGE_BASE + layout::heap_offset()..IMAGE_BASE + home.len();
    early::map_memory(heap.start, home.start + layout::heap_offset(), heap.len());
    // SAFETY: it has just been mapped, and the home is nobody else's.
    unsafe { heap::start(heap.start, heap.len()) };

    let kernels = tree::kernels(&fdt).map(|(module, image)| Kernel {
        image,
        arguments: tree::arguments(&module).into(),
    });
    let mut kernels: Vec<Kernel> = kernels.collect();
    kernels.sort_by_key(|kernel| kernel.image.start);
    let modules = BootModules {
        tree,
        kernels,
        initrd,
    };
    let machine = Machine::read(&fdt);
    let mut guest_memory = machine.memory.clone();
    guest_memory.remove(&home);
    let mut stage1 = Stage1::new(&home);
    stage1.map_memory(&guest_memory);
    stage1.map_devices(&hypervisor_devices(&machine));
    let cpus = start::make_cpus(&machine, &mut stage1);
    let root = stage1.into_root();
    head::FINAL_ROOT.store(root, Ordering::Relaxed);

    early::map_memory(COPY_WINDOW, home.start, layout::heap_offset());
    // SAFETY: the window maps the home's first part, the image is mapped by identity by `head` where it
    // is and by the final tables where it goes, and those map everything else that is in use.
    unsafe { head::relocate(COPY_WINDOW, layout::image_size(), image, home.start, root) };
    // What the cache holds of the old place must not be written over what the guest puts there.
    cache::clean_and_invalidate(&old);

    start::run(machine, modules, home, guest_memory, cpus)
}

/// The devices that the hypervisor itself drives.
fn hypervisor_devices(machine: &Machine) -> Pages {
    let mut devices = Pages::default();
    devices.add(&machine.console);
    machine.gic.frames().for_each(|frame| devices.add(frame));
    devices
}

/// The device tree at a mapped address.
///
/// # Safety
/// There is one, and nobody writes it while the result lives.
unsafe fn tree_at(address: usize) -> &'static [u8] {
    // SAFETY: by the caller's promise.
    let header = unsafe { core::slice::from_raw_parts(address as *const u8, TREE_SIZE_END) };
    let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    // SAFETY: as above.
    unsafe { core::slice::from_raw_parts(address as *const u8, size) }
}

/// Chooses the memory to live in: the top of the highest piece of RAM.
fn choose_home(tree: &Fdt<'_>, used: impl Iterator<Item = Range<usize>>) -> Range<usize> {
    let ram = tree::memory(tree)
        .max_by_key(|range| range.end)
        .expect("the machine has RAM");
    let size = layout::home_size(tree::cpus(tree).count());
    let end = ram.end / BLOCK * BLOCK;
    let start = end.saturating_sub(size);
    assert!(
        start >= ram.start,
        "the hypervisor needs {size:#x} bytes, of {ram:#x?}"
    );
    for other in used {
        assert!(
            other.end <= start || end <= other.start,
            "no room: the hypervisor's {start:#x}..{end:#x} would overwrite {other:#x?}"
        );
    }
    start..end
}
