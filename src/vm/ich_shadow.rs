//! The shadow of a vCPU's `ICH_*` registers: what they hold, so that the hypervisor accesses a
//! register only when its value has to change.

use core::ptr;

use crate::cpu::{self, BASE_HCR};
use crate::cpu_interface::{CpuInterface, vmcr};
use crate::lr::{self, ListRegister};
use crate::trace::Counters;
use crate::vm::irq::Irq;

/// Work to do before the next entry: in bits 15:0 the list registers whose image has been staged
/// and not yet written, and the bits below.
#[derive(Clone, Copy)]
pub(crate) struct Due(pub(super) u32);

/// A list register became free while interrupts waited.
const REFILL: u32 = 1 << 16;
/// The interrupts in list registers have to be chosen anew.
const REFOLD: u32 = 1 << 17;

impl Due {
    /// Returns the staged list registers, a bit each.
    #[inline]
    pub(super) fn staged(self) -> u16 {
        self.0 as u16
    }

    /// Returns whether the interrupts in list registers have to be chosen anew.
    #[inline]
    pub(crate) fn refold(self) -> bool {
        self.0 & REFOLD != 0
    }

    /// Returns whether there is more to do than to write staged list registers.
    #[inline]
    pub(crate) fn fill(self) -> bool {
        self.0 & (REFILL | REFOLD) != 0
    }

    /// Asks for a refill if `on`.
    #[inline]
    pub(crate) fn add_refill(&mut self, on: bool) {
        self.0 |= if on { REFILL } else { 0 };
    }

    /// Asks for a refold if `on`.
    #[inline]
    pub(crate) fn add_refold(&mut self, on: bool) {
        self.0 |= if on { REFOLD } else { 0 };
    }

    /// Ends refill and refold.
    #[inline]
    pub(crate) fn filled(&mut self) {
        self.0 &= !(REFILL | REFOLD);
    }
}

/// The `ICH_*` registers of a vCPU: their values on the CPU that has the vCPU, or the values to
/// restore.
///
/// # Invariants
/// * `irqs[n]` is an interrupt that is IN_LR and queued on this vCPU exactly while bit n of
///   `in_use` is set. While the vCPU is on no CPU, `in_use` is 0.
/// * Staged list registers are a part of `in_use`, and there are none while the vCPU is in the
///   guest.
pub(crate) struct IchShadow {
    /// Image of each list register: last written to it or read from it, or staged. Without state,
    /// and perhaps empty, for a list register that is free.
    pub(crate) images: [ListRegister; lr::MAX],
    pub(crate) irqs: [*const Irq; lr::MAX],
    /// The list registers that the CPU has, a bit each.
    pub(super) usable: u16,
    /// The list registers that hold an interrupt, a bit each.
    pub(crate) in_use: u16,
    /// List registers in use whose deactivation raises EISR instead of ELRSR.
    pub(crate) wants_eoi: u16,
    /// List registers whose image had HW set when filled. The bit of a list register that is not in
    /// use, or that has been filled since, means nothing.
    pub(crate) forwarded: u16,
    /// Free list registers that still assert EISR and must be overwritten.
    pub(crate) stale: u16,
    /// Work to do before the next entry.
    pub(crate) due: Due,
    /// The last flush has left interrupts outside the list registers, perhaps of a group that is
    /// disabled at the distributor. Some may have gone since.
    pub(crate) others_wait: bool,
    pub(crate) hcr: u64,
    /// `ICH_VMCR_EL2`, whose upper half is RES0. The shadow has no room for the half: the fields
    /// behind the shadow in [`Vcpu`](super::vcpu::Vcpu) have cache lines of their own.
    vmcr: u32,
    /// Bits in which `ICH_HCR_EL2` differs from `hcr`: [`cpu::hcr_flip`].
    hcr_flip: u16,
    /// `ICH_AP0R<n>`, `ICH_AP1R<n>`.
    apr: [[u32; 4]; 2],
    /// True if a bit of `apr` is set. The active priorities of a CPU without a vCPU are 0, so that
    /// a load seldom writes them: few vCPUs leave their CPU with an interrupt active.
    has_active_priorities: bool,
}

impl IchShadow {
    /// Makes the shadow of a vCPU after reset. The binary points are the smallest that every CPU
    /// supports, those of five bits of preemption: the next CPU of the vCPU may be any.
    pub(crate) const fn after_reset() -> Self {
        Self {
            images: [ListRegister::EMPTY; lr::MAX],
            irqs: [ptr::null(); lr::MAX],
            usable: 0,
            in_use: 0,
            wants_eoi: 0,
            forwarded: 0,
            stale: 0,
            due: Due(0),
            others_wait: false,
            hcr: 0,
            hcr_flip: 0,
            vmcr: vmcr::reset(5) as u32,
            apr: [[0; 4]; 2],
            has_active_priorities: false,
        }
    }

    /// Makes the shadow of a vCPU with this `ICH_VMCR_EL2` and these active priorities.
    pub(crate) fn with_interface(vmcr: u64, apr: [[u32; 4]; 2]) -> Self {
        Self {
            vmcr: vmcr as u32,
            apr,
            has_active_priorities: apr.iter().flatten().any(|&bits| bits != 0),
            ..Self::after_reset()
        }
    }

    /// Returns `ICH_VMCR_EL2` and the active priorities, as saved when the vCPU left its last CPU.
    pub(crate) fn interface(&self) -> (u64, [[u32; 4]; 2]) {
        (self.vmcr.into(), self.apr)
    }

    /// Returns whether an exit has nothing to fold: no list register is in use, and, as HCR says,
    /// no interrupt outside them depends on the guest.
    #[inline]
    pub(crate) fn is_untouched(&self) -> bool {
        self.in_use == 0 && self.hcr == BASE_HCR
    }

    /// Returns whether the vCPU has no interrupt at all before new work comes.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.is_untouched() && self.nothing_due() && !self.others_wait
    }

    /// Returns whether an entry without new work leaves the list registers as they are.
    #[inline]
    pub(crate) fn nothing_due(&self) -> bool {
        self.due.0 == 0
    }

    /// Returns the value of list register `index`: the staged image, or the register's.
    #[inline]
    pub(crate) fn read_lr(
        &self,
        index: usize,
        interface: &impl CpuInterface,
        counters: &Counters,
    ) -> ListRegister {
        if self.due.staged() >> index & 1 != 0 {
            return self.images[index];
        }
        counters.ich_lr_reads.add(1);
        interface.read_lr(index)
    }

    /// Fills list register `index` with `image` for `irq`; writes the register only if it differs.
    // Inlined: saves 9 of the 793 instructions of an SGI to a vCPU in WFI.
    #[inline(always)]
    pub(crate) fn set_lr(
        &mut self,
        index: usize,
        image: ListRegister,
        irq: &Irq,
        interface: &impl CpuInterface,
        counters: &Counters,
    ) {
        let bit = 1 << index;
        self.check(index, image);
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
        self.note_forwarded(index, image);
    }

    /// Notes a list register that is backed by a physical interrupt.
    #[inline]
    pub(super) fn note_forwarded(&mut self, index: usize, image: ListRegister) {
        if image.is_hw() {
            self.forwarded |= 1 << index;
        }
    }

    /// Panics in debug builds on what the architecture forbids (IHI 0069, 6.2.2): a special INTID,
    /// a list register in use overwritten, or two list registers with one vINTID or pINTID.
    #[inline]
    #[cfg_attr(not(debug_assertions), expect(unused_variables))]
    pub(super) fn check(&self, index: usize, image: ListRegister) {
        #[cfg(debug_assertions)]
        {
            let (vintid, pintid) = (image.vintid(), image.pintid());
            assert!(
                crate::intid::IntId::new(vintid).is_some(),
                "{image:?} has a special vINTID"
            );
            assert!(
                self.in_use >> index & 1 == 0,
                "{image:?} overwrites another"
            );
            for other in bits(self.in_use).map(|other| self.images[other]) {
                assert!(
                    other.vintid() != vintid,
                    "vINTID {vintid} is in two list registers: {other:?}, {image:?}"
                );
                assert!(
                    !(other.is_hw() && image.is_hw() && other.pintid() == pintid),
                    "pINTID {pintid} is in two list registers: {other:?}, {image:?}"
                );
            }
        }
    }

    /// Frees list register `index`, which holds `image` unless it was staged and not written.
    #[inline]
    pub(crate) fn vacate(&mut self, index: usize, image: ListRegister) {
        let bit = 1 << index;
        let image = if self.due.staged() & bit == 0 {
            image
        } else {
            ListRegister::EMPTY
        };

        self.due.0 &= !u32::from(bit);
        self.images[index] = image;
        self.in_use &= !bit;
        if self.wants_eoi & bit != 0 || !image.is_empty() {
            self.stale |= bit;
        }

        self.wants_eoi &= !bit;
    }

    /// Frees list register `index`, which the guest has ended and which asked for no maintenance
    /// interrupt. Saves 19 of the 238 instructions of vcpu_exit/1.
    #[inline]
    pub(crate) fn vacate_plain(&mut self, index: usize) {
        let bit = 1 << index;
        debug_assert!((self.due.staged() | self.wants_eoi) & bit == 0);
        // The register keeps the rest of the image, which nothing asks for.
        self.images[index] = ListRegister::EMPTY;
        self.in_use &= !bit;
    }

    /// Overwrites free list registers that would still act.
    pub(crate) fn clean(&mut self, interface: &impl CpuInterface, counters: &Counters) {
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
    pub(crate) fn set_hcr(&mut self, value: u64, interface: &impl CpuInterface) {
        if self.hcr != value {
            self.hcr = value;
            interface.write_hcr(self.in_register(value));
        }
    }

    /// Returns `ICH_HCR_EL2` for a value of `hcr`, and the other way round.
    #[inline]
    pub(crate) fn in_register(&self, value: u64) -> u64 {
        if value == 0 {
            0
        } else {
            value ^ u64::from(self.hcr_flip)
        }
    }

    /// Restores VMCR and the active priorities to the CPU that loads the vCPU. No list register is
    /// in use, and the CPU's active priorities are 0. `hcr_flip` is that of the CPU and the vCPU.
    pub(crate) fn restore(&mut self, interface: &impl CpuInterface, hcr_flip: u16) {
        self.hcr_flip = hcr_flip;
        self.usable = interface.vtr().all();
        interface.write_vmcr(self.vmcr.into());
        if self.has_active_priorities {
            self.restore_active_priorities(interface);
        }

        // Most CPUs have four list registers, or fewer. The others' images are of no use there.
        let (first, others) = self.images.split_at_mut(4);
        first.fill(ListRegister::EMPTY);
        if interface.vtr().list_registers > 4 {
            others.fill(ListRegister::EMPTY);
        }
        self.hcr = 0;
    }

    /// Restores the active priorities.
    #[cold]
    fn restore_active_priorities(&self, interface: &impl CpuInterface) {
        for group in [false, true] {
            for index in 0..interface.vtr().apr_count() {
                interface.write_apr(group, index, self.apr[usize::from(group)][index]);
            }
        }
    }

    /// Saves VMCR and the active priorities of the CPU that puts the vCPU, clears the active
    /// priorities for the next vCPU, and turns the interface off. No list register is in use.
    pub(crate) fn save(&mut self, interface: &impl CpuInterface) {
        self.vmcr = interface.read_vmcr() as u32;
        let mut active = 0;
        for group in [false, true] {
            for index in 0..interface.vtr().apr_count() {
                // Read always: the guest writes the active priorities without a trap.
                let bits = interface.read_apr(group, index);
                self.apr[usize::from(group)][index] = bits;
                active |= bits;
            }
        }

        self.has_active_priorities = active != 0;
        if active != 0 {
            cpu::clear_active_priorities(interface);
        }
        self.set_hcr(0, interface);
    }
}

/// Returns the indices of the bits that are set, lowest first.
pub(crate) fn bits(mut set: u16) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        (set != 0).then(|| {
            let index = set.trailing_zeros() as usize;
            set &= set - 1;
            index
        })
    })
}

#[cfg(all(test, debug_assertions, not(loom)))]
mod tests {
    use super::*;
    use crate::cpu_interface::software::SoftwareInterface;
    use crate::intid::IntId;

    fn put(images: &[u64]) {
        let mut shadow = IchShadow::after_reset();
        let irq = Irq::new(IntId::spi(40).unwrap(), 0, None);
        let (interface, counters) = (SoftwareInterface::default(), Counters::default());
        for (index, image) in images.iter().enumerate() {
            let image = ListRegister(ListRegister::PENDING | image);
            shadow.set_lr(index, image, &irq, &interface, &counters);
        }
    }

    #[test]
    fn different_interrupts_are_in_order() {
        put(&[40, 41, ListRegister::HW | 33 << 32 | 42, 16384]);
    }

    #[test]
    #[should_panic(expected = "vINTID 40 is in two list registers")]
    fn one_register_for_a_vintid() {
        put(&[40, 41, 40]);
    }

    #[test]
    #[should_panic(expected = "pINTID 33 is in two list registers")]
    fn one_register_for_a_pintid() {
        let hw = ListRegister::HW | 33 << ListRegister::PINTID_SHIFT;
        put(&[hw | 40, hw | 41]);
    }

    #[test]
    #[should_panic(expected = "has a special vINTID")]
    fn no_register_for_a_special_intid() {
        put(&[1020]);
    }
}
