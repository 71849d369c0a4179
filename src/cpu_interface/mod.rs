//! The hypervisor's side of a physical CPU's virtual CPU interface: the `ICH_*` registers.
//!
//! `ich` accesses the hardware's registers at EL2, and [`software`] models the registers for hosts.
//! The library uses either through [`CpuInterface`]. [`priority`] is the arithmetic of priorities,
//! for the model and for hypervisors.

use crate::lr::ListRegister;

#[cfg(target_arch = "aarch64")]
pub mod ich;
pub mod priority;
pub mod software;

/// Constant properties of an implementation, from `ICH_VTR_EL2` (IHI 0069, 12.4.10).
///
/// | field | bits | meaning | supported |
/// |---|---|---|---|
/// | `ListRegs` | 4:0 | list registers, less 1 | 1 to 16; else [`CpuError::ListRegisters`] |
/// | `DVIM` | 18 | directly injected interrupts can be masked | either; not used |
/// | `TDS` | 19 | writes of `ICC_DIR_EL1` trap alone (`ICH_HCR_EL2.TDIR`) | either; see below |
/// | `nV4` | 20 | no direct injection | either; not used |
/// | `A3V` | 21 | `Aff3` of SGIs is not always 0 | either: the SGI registers trap |
/// | `SEIS` | 22 | a guest's mistake is an SError | 0; else [`CpuError::LocalSErrors`] |
/// | `IDbits` | 25:23 | bits of a virtual INTID: 16 or 24 | either; a VM with more is refused |
/// | `PREbits` | 28:26 | bits of preemption, less 1 | 5 to 7; else [`CpuError::PreemptionBits`] |
/// | `PRIbits` | 31:29 | bits of priority, less 1 | 5 to 8; else [`CpuError::PriorityBits`] |
///
/// Without `TDS`, as on Cortex-A53 and A72, [`hcr::TC`] traps `ICC_DIR_EL1`, and with it
/// `ICC_PMR_EL1`, `ICC_CTLR_EL1` and `ICC_RPR_EL1`, which the vGIC emulates
/// ([`SysReg`](crate::sysreg::SysReg)). A guest that masks by priority then exits for each mask.
///
/// One property is of `ICC_CTLR_EL1`, which the CPU interface has at EL2 beside the `ICH_*`
/// registers: `ExtRange` ([`Vtr::with_icc_ctlr`]).
///
/// [`CpuError::ListRegisters`]: crate::CpuError::ListRegisters
/// [`CpuError::LocalSErrors`]: crate::CpuError::LocalSErrors
/// [`CpuError::PreemptionBits`]: crate::CpuError::PreemptionBits
/// [`CpuError::PriorityBits`]: crate::CpuError::PriorityBits
///
/// Later versions may have more fields: begin with [`Vtr::decode`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vtr {
    /// Number of list registers, 1-16.
    pub list_registers: u8,
    /// Number of bits of a virtual priority, 5-8.
    pub priority_bits: u8,
    /// Number of bits of a virtual preemption level, 5-7. `ICH_AP0R<n>_EL2` and `ICH_AP1R<n>_EL2`
    /// exist for n below 2^(bits - 5).
    pub preemption_bits: u8,
    /// Number of bits of a virtual INTID, 16 or 24. Many cores have 16, even under a distributor
    /// with more. A CPU refuses to enter a vCPU of a VM with more
    /// ([`EntryError::IntidBits`](crate::EntryError::IntidBits)).
    pub id_bits: u8,
    /// Presence of `ICH_HCR_EL2.TDIR` (`TDS`), the trap of only the writes of `ICC_DIR_EL1`.
    pub traps_dir: bool,
    /// Support of other values than 0 of `Aff3` in SGIs (`A3V`).
    pub affinity3: bool,
    /// Generation of SErrors for mistakes of the guest (`SEIS`), such as the end of an interrupt
    /// that is not active. The SError is the CPU's: nothing virtualises it.
    pub local_serrors: bool,
    /// Direct injection of virtual interrupts (`nV4` = 0).
    pub direct_injection: bool,
    /// Masking of directly injected interrupts (`DVIM`).
    pub masks_direct_injection: bool,
    /// Support of INTIDs 1024-8191 (`ICC_CTLR_EL1.ExtRange`): extended PPIs and extended SPIs.
    /// `ICV_CTLR_EL1.ExtRange`, which a guest reads, is an alias. A CPU without the range refuses
    /// to enter a vCPU of a VM with extended interrupts
    /// ([`EntryError::ExtendedRange`](crate::EntryError::ExtendedRange)).
    pub extended_range: bool,
}

/// `ICC_CTLR_EL1.ExtRange`.
pub(crate) const ICC_CTLR_EXT_RANGE: u64 = 1 << 19;

impl Vtr {
    /// Decodes a value of `ICH_VTR_EL2`, which tells nothing of the extended range.
    #[must_use]
    pub const fn decode(value: u64) -> Self {
        Self {
            list_registers: (value & 0x1f) as u8 + 1,
            masks_direct_injection: value & (1 << 18) != 0,
            traps_dir: value & (1 << 19) != 0,
            direct_injection: value & (1 << 20) == 0,
            affinity3: value & (1 << 21) != 0,
            local_serrors: value & (1 << 22) != 0,
            // 0b000 is 16 bits, 0b001 is 24 bits. Other values are reserved: at least 16.
            id_bits: if (value >> 23) & 7 == 1 { 24 } else { 16 },
            preemption_bits: ((value >> 26) & 7) as u8 + 1,
            priority_bits: ((value >> 29) & 7) as u8 + 1,
            extended_range: false,
        }
    }

    /// Returns the properties with those of `ICC_CTLR_EL1`, read at EL2: `ExtRange`, bit 19
    /// (IHI 0069, 12.2).
    #[must_use]
    pub const fn with_icc_ctlr(self, value: u64) -> Self {
        Self {
            extended_range: value & ICC_CTLR_EXT_RANGE != 0,
            ..self
        }
    }

    /// Returns a mask with a bit for each list register.
    #[inline]
    #[must_use]
    pub(crate) const fn all(self) -> u16 {
        (u32::MAX >> (32 - self.list_registers as u32)) as u16
    }

    /// Returns the number of active priorities registers of each group: 1, 2 or 4.
    #[must_use]
    pub const fn apr_count(self) -> usize {
        1 << (self.preemption_bits - 5)
    }
}

/// Bits of `ICH_HCR_EL2` (IHI 0069, 12.4.6).
pub mod hcr {
    /// The virtual CPU interface is enabled.
    pub const EN: u64 = 1 << 0;
    /// Maintenance interrupt when at most one list register is valid.
    pub const UIE: u64 = 1 << 1;
    /// Maintenance interrupt when `EOIcount` is not zero.
    pub const LRENPIE: u64 = 1 << 2;
    /// Maintenance interrupt when no list register is pending; pending and active does not count.
    pub const NPIE: u64 = 1 << 3;
    /// Maintenance interrupt while the guest has Group 0 enabled.
    pub const VGRP0EIE: u64 = 1 << 4;
    /// Maintenance interrupt while the guest has Group 0 disabled.
    pub const VGRP0DIE: u64 = 1 << 5;
    /// Maintenance interrupt while the guest has Group 1 enabled.
    pub const VGRP1EIE: u64 = 1 << 6;
    /// Maintenance interrupt while the guest has Group 1 disabled.
    pub const VGRP1DIE: u64 = 1 << 7;
    /// Trap of EL1 accesses to the registers common to both groups.
    pub const TC: u64 = 1 << 10;
    /// Trap of EL1 accesses to the registers of Group 0.
    pub const TALL0: u64 = 1 << 11;
    /// Trap of EL1 accesses to the registers of Group 1.
    pub const TALL1: u64 = 1 << 12;
    /// Trap of EL1 writes of `ICC_DIR_EL1`.
    pub const TDIR: u64 = 1 << 14;
    /// Lowest bit of the 5-bit `EOIcount`: deactivations without a matching list register.
    pub const EOI_COUNT_SHIFT: u32 = 27;
    /// The field `EOIcount`.
    pub const EOI_COUNT: u64 = 0x1f << EOI_COUNT_SHIFT;
}

/// Bits of `ICH_MISR_EL2` (IHI 0069, 12.4), the maintenance conditions. The maintenance interrupt
/// is asserted while any condition holds and [`hcr::EN`] is set.
pub mod misr {
    /// A bit of `ICH_EISR_EL2` is set.
    pub const EOI: u64 = 1 << 0;
    /// Underflow: [`UIE`](super::hcr::UIE) and at most one valid list register.
    pub const U: u64 = 1 << 1;
    /// [`LRENPIE`](super::hcr::LRENPIE) and `EOIcount` is not zero.
    pub const LRENP: u64 = 1 << 2;
    /// [`NPIE`](super::hcr::NPIE) and no list register is pending.
    pub const NP: u64 = 1 << 3;
    /// [`VGRP0EIE`](super::hcr::VGRP0EIE) and Group 0 is enabled.
    pub const VGRP0E: u64 = 1 << 4;
    /// [`VGRP0DIE`](super::hcr::VGRP0DIE) and Group 0 is disabled.
    pub const VGRP0D: u64 = 1 << 5;
    /// [`VGRP1EIE`](super::hcr::VGRP1EIE) and Group 1 is enabled.
    pub const VGRP1E: u64 = 1 << 6;
    /// [`VGRP1DIE`](super::hcr::VGRP1DIE) and Group 1 is disabled.
    pub const VGRP1D: u64 = 1 << 7;
}

/// Bits of `ICH_VMCR_EL2` (IHI 0069, 12.4.9), the hypervisor's view of the guest's control
/// registers.
pub mod vmcr {
    /// Group 0 enabled by the guest's `ICC_IGRPEN0_EL1`.
    pub const VENG0: u64 = 1 << 0;
    /// Group 1 enabled by the guest's `ICC_IGRPEN1_EL1`.
    pub const VENG1: u64 = 1 << 1;
    /// Group 0 interrupts are signalled as FIQ. RES1 with the system-register interface.
    pub const VFIQEN: u64 = 1 << 3;
    /// The guest's `ICC_CTLR_EL1.CBPR`: one binary point for both groups.
    pub const VCBPR: u64 = 1 << 4;
    /// The guest's `ICC_CTLR_EL1.EOImode`.
    pub const VEOIM: u64 = 1 << 9;
    /// Lowest bit of the 3-bit binary point of Group 1.
    pub const VBPR1_SHIFT: u32 = 18;
    /// Lowest bit of the 3-bit binary point of Group 0.
    pub const VBPR0_SHIFT: u32 = 21;
    /// Lowest bit of the 8-bit priority mask.
    pub const VPMR_SHIFT: u32 = 24;

    /// Returns the reset value for `preemption_bits` 5-7: both groups disabled, priority mask 0,
    /// the smallest binary points.
    #[must_use]
    pub const fn reset(preemption_bits: u8) -> u64 {
        let bpr0 = 7 - preemption_bits as u64;
        VFIQEN | (bpr0 << VBPR0_SHIFT) | ((bpr0 + 1) << VBPR1_SHIFT)
    }

    /// Returns the enable bit of a group: [`VENG0`] or [`VENG1`].
    #[must_use]
    pub const fn group_enable(group1: bool) -> u64 {
        if group1 { VENG1 } else { VENG0 }
    }

    /// Returns the guest's priority mask, 0-255.
    #[must_use]
    pub const fn priority_mask(vmcr: u64) -> u8 {
        (vmcr >> VPMR_SHIFT) as u8
    }
}

/// The `ICH_*` registers of the calling physical CPU.
///
/// Methods take `&self` because the registers are banked per CPU; an implementation must not be
/// shared between CPUs. Indices are below [`Vtr::list_registers`] or [`Vtr::apr_count`].
pub trait CpuInterface {
    /// Returns the decoded `ICH_VTR_EL2`, a constant.
    fn vtr(&self) -> Vtr;
    /// Returns `MIDR_EL1` of the physical CPU, by which [`Cpu::try_new`](crate::Cpu::try_new) tells
    /// an [`Erratum`](crate::Erratum); 0 if the registers are no CPU's.
    fn midr(&self) -> u64 {
        0
    }
    /// Reads `ICH_LR<index>_EL2`.
    fn read_lr(&self, index: usize) -> ListRegister;
    /// Writes `ICH_LR<index>_EL2`.
    fn write_lr(&self, index: usize, value: ListRegister);
    /// Reads `ICH_ELRSR_EL2`: bit n is set if list register n is empty, without an EOI maintenance
    /// interrupt.
    fn read_elrsr(&self) -> u16;
    /// Reads `ICH_EISR_EL2`: bit n is set if list register n is empty, with an EOI maintenance
    /// interrupt outstanding.
    fn read_eisr(&self) -> u16;
    /// Reads `ICH_MISR_EL2`: the maintenance conditions that hold, as bits of [`misr`].
    fn read_misr(&self) -> u64;
    /// Reads `ICH_HCR_EL2`.
    fn read_hcr(&self) -> u64;
    /// Writes `ICH_HCR_EL2`.
    fn write_hcr(&self, value: u64);
    /// Reads `ICH_VMCR_EL2`.
    fn read_vmcr(&self) -> u64;
    /// Writes `ICH_VMCR_EL2`.
    fn write_vmcr(&self, value: u64);
    /// Reads `ICH_AP0R<index>_EL2` (`group1` false) or `ICH_AP1R<index>_EL2`.
    fn read_apr(&self, group1: bool, index: usize) -> u32;
    /// Writes `ICH_AP0R<index>_EL2` (`group1` false) or `ICH_AP1R<index>_EL2`.
    fn write_apr(&self, group1: bool, index: usize, value: u32);
    /// Orders the register writes before the caller's further register reads: an `ISB` on hardware.
    ///
    /// A return to the guest by `ERET` needs no call.
    fn synchronize(&self);
}
