//! The boot loader's modules.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::vm::options;

/// Memory filled by the boot loader, by physical address.
pub(crate) struct BootModules {
    /// The device tree.
    pub(crate) tree: Range<usize>,
    /// Kernels in order of address: the guest's, or one for each VM. Without any, the guest starts
    /// with the firmware in flash memory.
    pub(crate) kernels: Vec<Kernel>,
    /// Initial RAM disk of every guest that has none of its own.
    pub(crate) initrd: Option<Range<usize>>,
}

/// A guest's kernel.
pub(crate) struct Kernel {
    /// The kernel's image.
    pub(crate) image: Range<usize>,
    /// The kernel's command line, with the hypervisor's options for the VM.
    pub(crate) arguments: String,
    /// The guest's own initial RAM disk.
    pub(crate) ram_disk: Option<Range<usize>>,
}

impl BootModules {
    /// Returns true if each kernel is for a VM with a part of the machine: there are several, or
    /// its command line has options.
    pub(crate) fn are_for_parts(&self) -> bool {
        match &self.kernels[..] {
            [] => false,
            [kernel] => options::are_in(&kernel.arguments),
            _ => true,
        }
    }

    /// Returns everything that the boot loader has loaded for VMs with a part of the machine.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &Range<usize>> {
        let kernels = self.kernels.iter();
        let ranges = kernels.flat_map(|kernel| [Some(&kernel.image), kernel.ram_disk.as_ref()]);
        ranges
            .chain([Some(&self.tree), self.initrd.as_ref()])
            .flatten()
    }
}
