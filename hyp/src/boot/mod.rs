//! From the boot loader to the guest.
//!
//! 1. [`head`]: assembly. Turns the MMU on with the [`early`] tables and runs the image at its link
//!    address.
//! 2. [`boot`]: reads the device tree, chooses the hypervisor's memory at the top of RAM, starts
//!    the heap there, makes the final tables, moves the image, and gives up the boot loader's
//!    memory.
//! 3. [`crate::start::run`]: creates the guest and starts the CPUs.
#![expect(unsafe_code)]
// UNSAFETY: takes memory by the addresses that the device tree gives.

mod early;
mod head;
pub(crate) mod modules;
pub(crate) mod secondary;

pub(crate) use head::boot_stack;

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
use crate::start;
use crate::vm::options;
use modules::{BootModules, Kernel};

/// Bytes of a device tree's header up to and including its size.
const TREE_SIZE_END: usize = 8;

/// Boots the hypervisor. Entered by assembly on the boot CPU, with the physical addresses of the
/// device tree and the image.
extern "C" fn boot(tree: usize, image: usize) -> ! {
    // SAFETY: the boot loader has put a device tree there, `head` has mapped it, and nobody writes
    // it.
    let blob = unsafe { tree_at(tree) };
    let fdt = Fdt::new(blob).expect("the boot loader's device tree is well-formed");
    if let Some(registers) = tree::console(&fdt) {
        early::map_device(registers.start);
        let registers = NonNull::new(registers.start as *mut _).expect("no device is at 0");
        // SAFETY: the device tree describes a PL011 there. The early and the final tables map it.
        unsafe { console::start(registers) };
    }

    assert!(
        tree::kernels(&fdt).next().is_some() || tree::flash(&fdt).next().is_some(),
        "no guest: the device tree has neither a module that is compatible with multiboot,kernel \
         nor flash memory with firmware"
    );

    let tree = tree..tree + blob.len();
    let initrd = tree::initrd(&fdt);
    let old = image..image + layout::image_size();
    let home = choose_home(&fdt, || {
        let images = tree::kernels(&fdt).map(|(_, range)| range);
        let loaded = images.chain(tree::ram_disks(&fdt)).chain(initrd.clone());
        let used = [tree.clone(), old.clone()].into_iter().chain(loaded);
        used.chain(tree::reserved(&fdt))
    });
    layout::set_home(home.start);

    let heap = IMAGE_BASE + layout::heap_offset()..IMAGE_BASE + home.len();
    early::map_memory(heap.start, home.start + layout::heap_offset(), heap.len());
    // SAFETY: the range has just been mapped, and only the hypervisor uses its home.
    unsafe { heap::add(heap.start, heap.len()) };

    let modules = BootModules {
        tree,
        kernels: kernels(&fdt),
        initrd,
    };

    let machine = Machine::read(&fdt);
    let mut guest_memory = machine.memory.clone();
    guest_memory.remove(&home);
    if modules.are_for_parts() {
        // A guest with the whole machine reads of it in its own tree.
        tree::reserved(&fdt).for_each(|range| guest_memory.remove(&range));
    }
    let mut stage1 = Stage1::new(&home);
    stage1.map_memory(&guest_memory);
    if modules.are_for_parts() {
        stage1.map_heap_room(&guest_memory);
    }
    stage1.map_devices(&hypervisor_devices(&machine));
    let cpus = start::make_cpus(&machine, &mut stage1);
    let root = stage1.into_root();
    head::FINAL_ROOT.store(root, Ordering::Relaxed);

    early::map_memory(COPY_WINDOW, home.start, layout::heap_offset());
    // SAFETY: the window maps the home's first part. `head` maps the image by identity at its old
    // place and the final tables at its new one. The final tables map all other memory in use.
    unsafe { head::relocate(COPY_WINDOW, layout::image_size(), image, home.start, root) };
    // Dirty cache lines of the old place must not overwrite what the guest puts there.
    cache::clean_and_invalidate(&old);

    start::run(machine, modules, home, guest_memory, cpus)
}

/// Returns the guests' kernels, in order of address. An initial RAM disk among the modules is of
/// the kernel before it.
fn kernels(fdt: &Fdt<'_>) -> Vec<Kernel> {
    let kernels = tree::kernels(fdt).map(|(module, image)| Kernel {
        image,
        arguments: tree::arguments(&module).into(),
        ram_disk: None,
    });
    let mut kernels: Vec<Kernel> = kernels.collect();
    kernels.sort_by_key(|kernel| kernel.image.start);
    for ram_disk in tree::ram_disks(fdt) {
        let after = kernels.partition_point(|kernel| kernel.image.start < ram_disk.start);
        if let Some(kernel) = after
            .checked_sub(1)
            .and_then(|place| kernels.get_mut(place))
        {
            kernel.ram_disk = Some(ram_disk);
        }
    }
    kernels
}

/// Returns the devices that the hypervisor itself drives.
fn hypervisor_devices(machine: &Machine) -> Pages {
    let mut devices = Pages::default();
    devices.add(&machine.console);
    let frames = machine.gic.frames().chain(&machine.smmu);
    frames.for_each(|frame| devices.add(frame));
    if let Some(pci) = &machine.pci {
        devices.add(&pci.bus_0());
    }
    devices
}

/// Returns the device tree at a mapped address.
///
/// # Safety
/// A device tree is there, and nobody writes it while the result lives.
unsafe fn tree_at(address: usize) -> &'static [u8] {
    // SAFETY: by the caller's promise, a device tree with a header is there.
    let header = unsafe { core::slice::from_raw_parts(address as *const u8, TREE_SIZE_END) };
    let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    // SAFETY: by the caller's promise, a device tree of the size in its header is there.
    unsafe { core::slice::from_raw_parts(address as *const u8, size) }
}

/// Chooses the hypervisor's memory: the highest place in the highest piece of RAM of which nothing
/// is `used`.
///
/// # Panics
/// If there is no room for the hypervisor itself.
fn choose_home<U: Iterator<Item = Range<usize>>>(
    tree: &Fdt<'_>,
    used: impl Fn() -> U,
) -> Range<usize> {
    let ram = tree::memory(tree)
        .max_by_key(|range| range.end)
        .expect("the machine has RAM");
    let is_saved = options::are_saves_in(tree::command_line(tree));
    let size = layout::home_size(tree::cpus(tree).count(), is_saved);
    let mut end = ram.end / BLOCK * BLOCK;
    loop {
        let home = end.saturating_sub(size)..end;
        assert!(
            home.start >= ram.start,
            "no room: the hypervisor needs {size:#x} bytes in one piece, of {ram:#x?}"
        );
        match used().find(|used| used.start < home.end && home.start < used.end) {
            Some(used) => end = used.start / BLOCK * BLOCK,
            None => return home,
        }
    }
}
