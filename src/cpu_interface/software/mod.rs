//! A model of the GICv3 virtual CPU interface, for hosts.
//!
//! [`SoftwareInterface`] models the registers of a physical CPU. The hypervisor's side is the trait
//! [`CpuInterface`]. The guest's side (`guest.rs`) has a method for each `ICC_*_EL1` access of an
//! EL1 guest, with `HCR_EL2.{IMO,FMO}` set and `ICC_SRE_EL1.SRE` = 1. A test plays both sides, and
//! reads the signals ([`virq`](SoftwareInterface::virq), [`vfiq`](SoftwareInterface::vfiq),
//! [`maintenance`](SoftwareInterface::maintenance)) in between:
//!
//! ```
//! use vgic::cpu_interface::{CpuInterface, hcr, software::SoftwareInterface};
//! use vgic::lr::ListRegister;
//!
//! let cpu = SoftwareInterface::default();
//! // The guest opens its interface; the hypervisor hands it INTID 42 at priority 0xa0.
//! cpu.write_igrpen1(true);
//! cpu.write_pmr(0xf8).unwrap();
//! let pending = ListRegister::PENDING | ListRegister::GROUP1;
//! cpu.write_lr(0, ListRegister(pending | 0xa0 << ListRegister::PRIORITY_SHIFT | 42));
//! cpu.write_hcr(hcr::EN);
//!
//! assert!(cpu.virq());
//! assert_eq!(cpu.read_iar1(), 42);
//! cpu.write_eoir1(42);
//! assert_eq!(cpu.read_elrsr(), 0b1111);
//! assert_eq!(cpu.accesses().lr_writes, 1);
//! ```
//!
//! The model follows IHI 0069, chapters 4.8 (priorities), 6 (virtual interrupts), 12.3 (`ICV_*`)
//! and 12.4 (`ICH_*`). The model makes the following choices left by the architecture; no
//! hypervisor may rely on a choice:
//! * Of equally urgent pending interrupts, the interrupt in the lowest list register is signalled.
//! * An end of interrupt drops a priority before the search for the list register. The end of
//!   interrupt deactivates only an interrupt of the same group and of the dropped priority.
//! * An end of interrupt while no priority is active does nothing, and leaves `EOIcount` unchanged.
//! * `EOIcount` wraps.
//! * A write of `ICC_DIR_EL1` with `EOImode` = 0 is ignored.
//!
//! The model panics on *hypervisor* programming that is UNPREDICTABLE or UNDEFINED. A write checks
//! the contents of the written list register. Two list registers with the same interrupt (6.2.2)
//! are found at the next access of the guest and, in builds with debug assertions, at the next read
//! of a signal or call of [`CpuInterface::synchronize`], because registers are written one at a
//! time.
//!
//! Not modelled: GICv4 direct injection, non-maskable interrupts, the extended INTID ranges, system
//! errors, and the memory-mapped interface. `TALL0` and `TALL1` may be set: the hypervisor then
//! handles every access to a register of the group, and the guest's side here has no part in it.

mod guest;
mod maintenance;

use alloc::vec::Vec;
use core::{
    cell::{Cell, RefCell},
    ops::Sub,
};

use super::{CpuInterface, Vtr, hcr, priority::ActivePriorities, vmcr};
use crate::{
    intid::{IntId, Kind},
    lr::{self, ListRegister},
};
pub use guest::{SPURIOUS, Trapped};

/// Properties of a Neoverse N1 or V1: 4 list registers, 5 bits of priority and of preemption, 16
/// bits of INTID, and the trap of `ICC_DIR_EL1`.
pub const NEOVERSE: Vtr = Vtr {
    list_registers: 4,
    priority_bits: 5,
    preemption_bits: 5,
    id_bits: 16,
    traps_dir: true,
    affinity3: true,
    local_serrors: false,
    direct_injection: false,
    masks_direct_injection: false,
    extended_range: false,
};

/// Counts of the hypervisor's accesses to each kind of register through [`CpuInterface`].
///
/// The cost of an operation is the difference of two readings:
///
/// ```
/// use vgic::cpu_interface::{CpuInterface, software::{Accesses, SoftwareInterface}};
///
/// let cpu = SoftwareInterface::default();
/// let before = cpu.accesses();
/// cpu.read_elrsr();
/// assert_eq!(cpu.accesses() - before, Accesses { elrsr_reads: 1, ..Accesses::default() });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Accesses {
    /// Reads of any `ICH_LR<n>_EL2`.
    pub lr_reads: u64,
    /// Writes of any `ICH_LR<n>_EL2`.
    pub lr_writes: u64,
    /// Reads of `ICH_ELRSR_EL2`.
    pub elrsr_reads: u64,
    /// Reads of `ICH_EISR_EL2`.
    pub eisr_reads: u64,
    /// Reads of `ICH_MISR_EL2`.
    pub misr_reads: u64,
    /// Reads of `ICH_HCR_EL2`.
    pub hcr_reads: u64,
    /// Writes of `ICH_HCR_EL2`.
    pub hcr_writes: u64,
    /// Reads of `ICH_VMCR_EL2`.
    pub vmcr_reads: u64,
    /// Writes of `ICH_VMCR_EL2`.
    pub vmcr_writes: u64,
    /// Reads of any `ICH_AP0R<n>_EL2` or `ICH_AP1R<n>_EL2`.
    pub apr_reads: u64,
    /// Writes of any `ICH_AP0R<n>_EL2` or `ICH_AP1R<n>_EL2`.
    pub apr_writes: u64,
    /// Calls of [`CpuInterface::synchronize`]; not a register access.
    pub barriers: u64,
}

impl Accesses {
    /// Returns the number of all register accesses together, without barriers.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.lr_reads
            + self.lr_writes
            + self.elrsr_reads
            + self.eisr_reads
            + self.misr_reads
            + self.hcr_reads
            + self.hcr_writes
            + self.vmcr_reads
            + self.vmcr_writes
            + self.apr_reads
            + self.apr_writes
    }
}

impl Sub for Accesses {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            lr_reads: self.lr_reads - earlier.lr_reads,
            lr_writes: self.lr_writes - earlier.lr_writes,
            elrsr_reads: self.elrsr_reads - earlier.elrsr_reads,
            eisr_reads: self.eisr_reads - earlier.eisr_reads,
            misr_reads: self.misr_reads - earlier.misr_reads,
            hcr_reads: self.hcr_reads - earlier.hcr_reads,
            hcr_writes: self.hcr_writes - earlier.hcr_writes,
            vmcr_reads: self.vmcr_reads - earlier.vmcr_reads,
            vmcr_writes: self.vmcr_writes - earlier.vmcr_writes,
            apr_reads: self.apr_reads - earlier.apr_reads,
            apr_writes: self.apr_writes - earlier.apr_writes,
            barriers: self.barriers - earlier.barriers,
        }
    }
}

/// The virtual CPU interface of a modelled physical CPU; see the [module](self).
///
/// The value may move between threads but serves a single thread at a time, like the registers of a
/// CPU.
#[derive(Debug)]
pub struct SoftwareInterface {
    vtr: Vtr,
    /// List registers. Entries from `vtr.list_registers` on stay empty.
    lr: [Cell<ListRegister>; lr::MAX],
    hcr: Cell<u64>,
    vmcr: Cell<u64>,
    active: Cell<ActivePriorities>,
    /// Physical INTIDs deactivated since the last [`SoftwareInterface::take_deactivations`].
    deactivations: RefCell<Vec<u32>>,
    accesses: Cell<Accesses>,
}

impl Default for SoftwareInterface {
    /// Creates a [`NEOVERSE`] interface after reset.
    fn default() -> Self {
        Self::new(NEOVERSE)
    }
}

impl SoftwareInterface {
    /// Creates an interface after reset: disabled, with empty list registers and with the guest's
    /// registers from [`vmcr::reset`].
    ///
    /// # Panics
    /// If no architected implementation has the properties in `vtr`.
    #[must_use]
    pub fn new(vtr: Vtr) -> Self {
        assert!(
            (1..=lr::MAX).contains(&usize::from(vtr.list_registers))
                && (5..=8).contains(&vtr.priority_bits)
                && (5..=7).contains(&vtr.preemption_bits)
                && vtr.preemption_bits <= vtr.priority_bits
                && matches!(vtr.id_bits, 16 | 24),
            "not an architected implementation: {vtr:?}"
        );

        Self {
            vtr,
            lr: [const { Cell::new(ListRegister::EMPTY) }; lr::MAX],
            hcr: Cell::new(0),
            vmcr: Cell::new(vmcr::reset(vtr.preemption_bits)),
            active: Cell::new(ActivePriorities::new(vtr.preemption_bits)),
            deactivations: RefCell::default(),
            accesses: Cell::default(),
        }
    }

    /// Returns the counts of the hypervisor's accesses. The guest's accesses and the model's
    /// inspection are not counted.
    #[must_use]
    pub fn accesses(&self) -> Accesses {
        self.accesses.get()
    }

    /// Returns the implemented list registers, in order. Counts no access.
    pub fn list_registers(&self) -> impl Iterator<Item = ListRegister> {
        self.implemented().iter().map(Cell::get)
    }

    /// Takes the physical INTIDs deactivated through list registers with `HW` set since the last
    /// call, oldest first. A test passes the INTIDs to its physical distributor.
    #[must_use = "a deactivation that is not passed on leaves its physical interrupt active"]
    pub fn take_deactivations(&self) -> Vec<u32> {
        self.deactivations.take()
    }

    /// Returns the cells of the implemented list registers.
    fn implemented(&self) -> &[Cell<ListRegister>] {
        &self.lr[..usize::from(self.vtr.list_registers)]
    }

    /// Returns the mask of the implemented bits of a priority.
    fn priority_field(&self) -> u8 {
        0xff << (8 - self.vtr.priority_bits)
    }

    /// Applies `access` to the counts.
    fn count(&self, access: impl FnOnce(&mut Accesses)) {
        let mut accesses = self.accesses.get();
        access(&mut accesses);
        self.accesses.set(accesses);
    }

    /// Stores `ICH_VMCR_EL2`, for either side.
    ///
    /// The priority mask keeps the implemented bits, binary points below the minimum become the
    /// minimum, `VFIQEn` is RES1, and bits outside the fields are RES0.
    fn store_vmcr(&self, value: u64) {
        const FLAGS: u64 = vmcr::VENG0 | vmcr::VENG1 | vmcr::VCBPR | vmcr::VEOIM;
        let minimum = u64::from(7 - self.vtr.preemption_bits);
        let bpr0 = (value >> vmcr::VBPR0_SHIFT & 7).max(minimum);
        let bpr1 = (value >> vmcr::VBPR1_SHIFT & 7).max(minimum + 1);
        let mask = u64::from(vmcr::priority_mask(value) & self.priority_field());
        self.vmcr.set(
            value & FLAGS
                | vmcr::VFIQEN
                | bpr0 << vmcr::VBPR0_SHIFT
                | bpr1 << vmcr::VBPR1_SHIFT
                | mask << vmcr::VPMR_SHIFT,
        );
    }

    /// Stores an active priorities register, or panics if the register is not implemented.
    fn store_apr(&self, group1: bool, index: usize, value: u32) {
        assert!(
            index < self.vtr.apr_count(),
            "ICH_AP<x>R{index} is not implemented"
        );
        let mut active = self.active.get();
        active.set_register(group1, index, value);
        self.active.set(active);
    }

    /// Panics if two list registers hold the same virtual or physical INTID (IHI 0069, 6.2.2).
    fn assert_list_registers_agree(&self) {
        for (index, one) in self
            .list_registers()
            .enumerate()
            .filter(|(_, lr)| !lr.is_empty())
        {
            for other in self
                .list_registers()
                .take(index)
                .filter(|lr| !lr.is_empty())
            {
                assert!(
                    one.vintid() != other.vintid(),
                    "two list registers with the same vINTID: {other:?} and {one:?}"
                );
                assert!(
                    !(one.is_hw() && other.is_hw() && one.pintid() == other.pintid()),
                    "two list registers with the same pINTID: {other:?} and {one:?}"
                );
            }
        }
    }

    /// Panics on contents forbidden in a list register (IHI 0069, 6.2.2 and 12.4,
    /// `ICH_LR<n>_EL2`).
    fn assert_valid(&self, value: ListRegister) {
        const RES0: u64 = 0b1111 << 56 | 0b111 << 45;
        const PINTID: u64 = 0x1fff << ListRegister::PINTID_SHIFT;
        let used = if value.is_hw() {
            PINTID
        } else {
            ListRegister::EOI
        };

        assert!(
            value.0 & (RES0 | PINTID & !used) == 0,
            "reserved bits are set: {:#018x}",
            value.0
        );
        assert!(
            u64::from(value.vintid()) >> self.vtr.id_bits == 0,
            "more than {} INTID bits: {value:?}",
            self.vtr.id_bits
        );

        if value.is_empty() {
            return;
        }

        assert!(
            IntId::new(value.vintid()).is_some(),
            "a special or reserved vINTID: {value:?}"
        );
        // No other INTIDs in this range are valid.
        let is_extended = |intid| (1024..IntId::FIRST_LPI).contains(&intid);
        debug_assert!(
            self.vtr.extended_range || !is_extended(value.vintid()),
            "an extended vINTID, and ICC_CTLR_EL1.ExtRange is 0: {value:?}"
        );
        if value.is_hw() {
            assert!(
                !(value.is_pending() && value.is_active()),
                "pending and active belongs to the physical distributor when HW is set: {value:?}"
            );
            assert!(
                IntId::new(value.pintid())
                    .is_some_and(|p| matches!(p.kind(), Kind::Ppi | Kind::Spi)),
                "a pINTID that cannot be deactivated: {value:?}"
            );
            debug_assert!(
                self.vtr.extended_range || !is_extended(value.pintid()),
                "an extended pINTID, and ICC_CTLR_EL1.ExtRange is 0: {value:?}"
            );
        }
    }
}

impl CpuInterface for SoftwareInterface {
    fn vtr(&self) -> Vtr {
        self.vtr
    }

    fn read_lr(&self, index: usize) -> ListRegister {
        self.count(|accesses| accesses.lr_reads += 1);
        self.implemented()[index].get()
    }

    /// Writes a list register.
    ///
    /// # Panics
    /// If the architecture forbids `value`.
    fn write_lr(&self, index: usize, value: ListRegister) {
        self.count(|accesses| accesses.lr_writes += 1);
        self.assert_valid(value);
        let unimplemented = u64::from(!self.priority_field()) << ListRegister::PRIORITY_SHIFT;
        self.implemented()[index].set(ListRegister(value.0 & !unimplemented));
    }

    fn read_elrsr(&self) -> u16 {
        self.count(|accesses| accesses.elrsr_reads += 1);
        self.elrsr()
    }

    fn read_eisr(&self) -> u16 {
        self.count(|accesses| accesses.eisr_reads += 1);
        self.eisr()
    }

    fn read_misr(&self) -> u64 {
        self.count(|accesses| accesses.misr_reads += 1);
        self.misr()
    }

    fn read_hcr(&self) -> u64 {
        self.count(|accesses| accesses.hcr_reads += 1);
        self.hcr.get()
    }

    /// Writes `ICH_HCR_EL2`.
    ///
    /// # Panics
    /// If `value` sets a bit that is reserved, not implemented or not modelled.
    fn write_hcr(&self, value: u64) {
        const MODELLED: u64 = hcr::EN
            | hcr::UIE
            | hcr::LRENPIE
            | hcr::NPIE
            | hcr::VGRP0EIE
            | hcr::VGRP0DIE
            | hcr::VGRP1EIE
            | hcr::VGRP1DIE
            | hcr::TC
            | hcr::TALL0
            | hcr::TALL1
            | hcr::EOI_COUNT;

        self.count(|accesses| accesses.hcr_writes += 1);
        let known = MODELLED | if self.vtr.traps_dir { hcr::TDIR } else { 0 };
        assert!(
            value & !known == 0,
            "ICH_HCR_EL2 bits without a function here: {:#x}",
            value & !known
        );
        self.hcr.set(value);
    }

    fn read_vmcr(&self) -> u64 {
        self.count(|accesses| accesses.vmcr_reads += 1);
        self.vmcr.get()
    }

    fn write_vmcr(&self, value: u64) {
        self.count(|accesses| accesses.vmcr_writes += 1);
        self.store_vmcr(value);
    }

    fn read_apr(&self, group1: bool, index: usize) -> u32 {
        self.count(|accesses| accesses.apr_reads += 1);
        assert!(
            index < self.vtr.apr_count(),
            "ICH_AP<x>R{index} is not implemented"
        );
        self.active.get().register(group1, index)
    }

    fn write_apr(&self, group1: bool, index: usize, value: u32) {
        self.count(|accesses| accesses.apr_writes += 1);
        self.store_apr(group1, index, value);
    }

    /// Counts a barrier. Builds with debug assertions panic if two list registers hold the same
    /// interrupt: a hypervisor that synchronises has finished its writes of the list registers.
    fn synchronize(&self) {
        self.count(|accesses| accesses.barriers += 1);
        if cfg!(debug_assertions) {
            self.assert_list_registers_agree();
        }
    }
}

#[cfg(test)]
mod tests;
