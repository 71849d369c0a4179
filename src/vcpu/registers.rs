//! What the hypervisor remembers of the list registers and the rest of a vCPU's `ICH_*` state, so that
//! it touches a register only when its value has to change.

use core::ptr;

use crate::cpu_interface::CpuInterface;
use crate::irq::Irq;
use crate::lr::{self, ListRegister};
use crate::trace::Counters;

/// What is in the registers of the CPU that has the vCPU, or will be loaded into them.
///
/// # Invariants
/// `irqs[n]` is an interrupt that is IN_LR and queued on this vCPU exactly while bit n of `in_use` is
/// set. While the vCPU is on no CPU, `in_use` is 0.
pub(crate) struct Registers {
    /// Last image written to or read from each list register; for the empty ones without state.
    pub(super) images: [ListRegister; lr::MAX],
    pub(super) irqs: [*const Irq; lr::MAX],
    pub(super) in_use: u16,
    /// Registers in use whose deactivation raises EISR instead of ELRSR.
    pub(super) wants_eoi: u16,
    /// Empty registers that still assert EISR and must be overwritten.
    pub(super) stale: u16,
    /// A list register came free while interrupts waited.
    pub(super) refill: bool,
    /// The list registers must be chosen anew.
    pub(super) reload: bool,
    /// Active interrupts wait outside the list registers: EOIcount has to be looked at.
    pub(super) spilled: bool,
    pub(super) hcr: u64,
    pub(super) vmcr: u64,
    /// `ICH_AP0R<n>`, `ICH_AP1R<n>`.
    pub(super) apr: [[u32; 4]; 2],
}

impl Registers {
    /// Of a vCPU after reset.
    pub(crate) const fn new(vmcr: u64) -> Self {
        Self {
            images: [ListRegister::EMPTY; lr::MAX],
            irqs: [ptr::null(); lr::MAX],
            in_use: 0,
            wants_eoi: 0,
            stale: 0,
            refill: false,
            reload: false,
            spilled: false,
            hcr: 0,
            vmcr,
            apr: [[0; 4]; 2],
        }
    }

    /// Puts an image into register `index` for `irq`; writes the register only if it differs.
    #[inline]
    pub(super) fn put(
        &mut self,
        index: usize,
        image: ListRegister,
        irq: &Irq,
        interface: &impl CpuInterface,
        counters: &Counters,
    ) {
        let bit = 1 << index;
        if self.images[index] != image {
            interface.write_lr(index, image);
            counters.ich_lr_writes.add(1);
            self.images[index] = image;
        }
        self.irqs[index] = irq;
        self.in_use |= bit;
        self.stale &= !bit;
        if image.wants_eoi() {
            self.wants_eoi |= bit;
        }
    }

    /// Notes that register `index` holds no interrupt; `image` is what is left in it.
    #[inline]
    pub(super) fn vacate(&mut self, index: usize, image: ListRegister) {
        let bit = 1 << index;
        self.images[index] = image;
        self.in_use &= !bit;
        if self.wants_eoi & bit != 0 || !image.is_empty() {
            self.stale |= bit;
        }
        self.wants_eoi &= !bit;
    }

    /// Overwrites vacated registers that would still act.
    pub(super) fn clean(&mut self, interface: &impl CpuInterface, counters: &Counters) {
        while self.stale != 0 {
            let index = self.stale.trailing_zeros() as usize;
            self.stale &= self.stale - 1;
            interface.write_lr(index, ListRegister::EMPTY);
            counters.ich_lr_writes.add(1);
            self.images[index] = ListRegister::EMPTY;
        }
    }

    /// Writes `ICH_HCR_EL2` if it has to change.
    #[inline]
    pub(super) fn set_hcr(&mut self, value: u64, interface: &impl CpuInterface) {
        if self.hcr != value {
            self.hcr = value;
            interface.write_hcr(value);
        }
    }

    /// Loads what is not in list registers.
    pub(super) fn load(&mut self, interface: &impl CpuInterface) {
        interface.write_vmcr(self.vmcr);
        for group in [false, true] {
            for index in 0..interface.vtr().apr_count() {
                interface.write_apr(group, index, self.apr[usize::from(group)][index]);
            }
        }
        self.images = [ListRegister::EMPTY; lr::MAX];
        self.hcr = 0;
    }

    /// Saves what is not in list registers, which are empty, and turns the interface off.
    pub(super) fn save(&mut self, interface: &impl CpuInterface) {
        self.vmcr = interface.read_vmcr();
        for group in [false, true] {
            for index in 0..interface.vtr().apr_count() {
                self.apr[usize::from(group)][index] = interface.read_apr(group, index);
            }
        }
        self.set_hcr(0, interface);
    }
}
