//! The hardware's virtual CPU interface: `ICH_*_EL2` of the running CPU (IHI 0069, 12.4).
//!
//! `aarch64-cpu` names most of the registers. `ICH_EISR_EL2` and `ICH_ELRSR_EL2`, missing in
//! `aarch64-cpu`, are defined here in the same style.
//!
//! No access has a barrier. A read of a register sees earlier writes of the same register. The
//! exception to EL2 and the `ERET` from EL2 both synchronise the context, so a hypervisor that
//! reads after the exception and writes before the `ERET` needs no barrier. The effect of a write
//! on *another* register (of a list register on `ICH_ELRSR_EL2`, say) may be read at EL2 only after
//! [`CpuInterface::synchronize`], an `ISB`. An entry that may have written a list register ends
//! with it, because the embedder may exit without the `ERET`.
#![expect(unsafe_code)]
// UNSAFETY: three system registers are read by inline assembly, and the constructor of `Ich` cannot
// check that the CPU has the registers.

use aarch64_cpu::{asm::barrier, registers::*};
use core::{fmt, marker::PhantomData};
use tock_registers::register_bitfields;

use super::{CpuInterface, ICC_CTLR_EXT_RANGE, Vtr};
use crate::lr::ListRegister;

register_bitfields! {u64,
    /// End of Interrupt Status Register (IHI 0069, 12.4).
    ICH_EISR_EL2 [
        /// Bit n: list register n is empty, with an EOI maintenance interrupt outstanding.
        Status OFFSET(0) NUMBITS(16) []
    ],
    /// Empty List Register Status Register (IHI 0069, 12.4).
    ICH_ELRSR_EL2 [
        /// Bit n: list register n is empty, without an EOI maintenance interrupt. Bits of
        /// unimplemented list registers read as zero.
        Status OFFSET(0) NUMBITS(16) []
    ]
}

/// The register behind `ICH_EISR_EL2`; read-only.
struct Eisr;

impl Readable for Eisr {
    type T = u64;
    type R = ICH_EISR_EL2::Register;

    #[inline]
    fn get(&self) -> u64 {
        let value;
        // SAFETY: the read has no side effect on memory or on the program's state. At an exception
        // level without the register, the read is a defined exception, like for every register of
        // `aarch64-cpu`.
        unsafe {
            core::arch::asm!(
                "mrs {}, ICH_EISR_EL2",
                out(reg) value,
                options(nomem, nostack, preserves_flags)
            );
        }

        value
    }
}

/// The register behind `ICH_ELRSR_EL2`; read-only.
struct Elrsr;

impl Readable for Elrsr {
    type T = u64;
    type R = ICH_ELRSR_EL2::Register;

    #[inline]
    fn get(&self) -> u64 {
        let value;
        // SAFETY: the read has no side effect on memory or on the program's state. At an exception
        // level without the register, the read is a defined exception, like for every register of
        // `aarch64-cpu`.
        unsafe {
            core::arch::asm!(
                "mrs {}, ICH_ELRSR_EL2",
                out(reg) value,
                options(nomem, nostack, preserves_flags)
            );
        }

        value
    }
}

/// `ICH_EISR_EL2`: empty list registers with an EOI maintenance interrupt outstanding.
const ICH_EISR_EL2: Eisr = Eisr;
/// `ICH_ELRSR_EL2`: empty list registers without an EOI maintenance interrupt.
const ICH_ELRSR_EL2: Elrsr = Elrsr;

/// Returns `ICC_CTLR_EL1` of the CPU (IHI 0069, 12.2), for its properties.
#[inline]
fn icc_ctlr() -> u64 {
    let value;
    // SAFETY: the read has no side effect on memory or on the program's state. At an exception
    // level without the register, the read is a defined exception, like for every register of
    // `aarch64-cpu`.
    unsafe {
        core::arch::asm!(
            "mrs {}, ICC_CTLR_EL1",
            out(reg) value,
            options(nomem, nostack, preserves_flags)
        );
    }

    value
}

/// The virtual CPU interface of the CPU that created the value.
///
/// The registers are banked per CPU, so an `Ich` is neither `Send` nor `Sync`, and every CPU
/// creates its own.
///
/// # Invariants
/// * The holder runs at EL2 with `ICC_SRE_EL2.SRE` set, on the CPU that created the value.
/// * `vtr` is the decoded `ICH_VTR_EL2` of the CPU, with the extended range of its `ICC_CTLR_EL1`
///   or of the embedder's knowledge.
#[derive(Clone, Copy)]
pub struct Ich {
    vtr: Vtr,
    /// Keeps the value on its CPU.
    not_send: PhantomData<*const ()>,
}

impl Ich {
    /// Creates the interface of the running CPU. Reads `ICH_VTR_EL2` and `ICC_CTLR_EL1`, and writes
    /// no register.
    ///
    /// # Safety
    /// * The caller runs at EL2 of a CPU with the GICv3 system-register interface, and
    ///   `ICC_SRE_EL2.SRE` is 1; otherwise every access is an exception. (The embedder sets
    ///   `HCR_EL2.IMO` and `FMO`, for the guest's `ICC_*` accesses to reach the interface.)
    /// * The value is used only on the same CPU and only at EL2, even if moved by means beyond the
    ///   reach of `!Send`.
    /// * No other code drives the CPU's `ICH_*` registers while the registers hold the state of a
    ///   virtual machine.
    #[inline]
    #[must_use]
    pub unsafe fn new() -> Self {
        // INVARIANT: the caller guarantees EL2, SRE and the CPU; the read below gives `vtr`.
        Self {
            vtr: Vtr::decode(ICH_VTR_EL2.get()).with_icc_ctlr(icc_ctlr()),
            not_send: PhantomData,
        }
    }

    /// Returns the interface of a CPU with INTIDs 1024-8191 in list registers and guests, although
    /// `ICC_CTLR_EL1.ExtRange` is 0.
    ///
    /// For an emulator that takes these INTIDs all the same, such as QEMU 10. On hardware the
    /// architecture says UNPREDICTABLE. With `shown`, the guest reads ExtRange as 1:
    /// `ICC_CTLR_EL1`, `ICC_PMR_EL1` and `ICC_RPR_EL1` trap, as on a CPU without TDIR ([`Vtr`]),
    /// and the embedder passes them on. Otherwise the guest reads 0, and may warn, but on a CPU
    /// without TDIR reads 1.
    #[inline]
    #[must_use]
    pub const fn assume_extended_range(self, shown: bool) -> Self {
        let vtr = self.vtr.with_icc_ctlr(ICC_CTLR_EXT_RANGE);
        Self {
            vtr: Vtr {
                traps_dir: vtr.traps_dir && !shown,
                ..vtr
            },
            ..self
        }
    }
}

impl fmt::Debug for Ich {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ich").field(&self.vtr).finish()
    }
}

/// Applies `$method` to list register `$index`, a number known at run time.
///
/// The number of a register is part of the instruction, so the macro is a jump table. The mask
/// avoids a panicking arm.
macro_rules! list_register {
    ($index:expr, $method:ident($($value:expr)?)) => {
        match $index & 15 {
            0 => ICH_LR0_EL2.$method($($value)?),
            1 => ICH_LR1_EL2.$method($($value)?),
            2 => ICH_LR2_EL2.$method($($value)?),
            3 => ICH_LR3_EL2.$method($($value)?),
            4 => ICH_LR4_EL2.$method($($value)?),
            5 => ICH_LR5_EL2.$method($($value)?),
            6 => ICH_LR6_EL2.$method($($value)?),
            7 => ICH_LR7_EL2.$method($($value)?),
            8 => ICH_LR8_EL2.$method($($value)?),
            9 => ICH_LR9_EL2.$method($($value)?),
            10 => ICH_LR10_EL2.$method($($value)?),
            11 => ICH_LR11_EL2.$method($($value)?),
            12 => ICH_LR12_EL2.$method($($value)?),
            13 => ICH_LR13_EL2.$method($($value)?),
            14 => ICH_LR14_EL2.$method($($value)?),
            _ => ICH_LR15_EL2.$method($($value)?),
        }
    };
}

/// Applies `$method` to active priorities register `$index` of a group, by a jump table.
macro_rules! active_priorities {
    ($group1:expr, $index:expr, $method:ident($($value:expr)?)) => {
        match ($group1, $index & 3) {
            (false, 0) => ICH_AP0R0_EL2.$method($($value)?),
            (false, 1) => ICH_AP0R1_EL2.$method($($value)?),
            (false, 2) => ICH_AP0R2_EL2.$method($($value)?),
            (false, _) => ICH_AP0R3_EL2.$method($($value)?),
            (true, 0) => ICH_AP1R0_EL2.$method($($value)?),
            (true, 1) => ICH_AP1R1_EL2.$method($($value)?),
            (true, 2) => ICH_AP1R2_EL2.$method($($value)?),
            (true, _) => ICH_AP1R3_EL2.$method($($value)?),
        }
    };
}

impl CpuInterface for Ich {
    #[inline]
    fn vtr(&self) -> Vtr {
        self.vtr
    }

    fn midr(&self) -> u64 {
        MIDR_EL1.get()
    }

    #[inline]
    fn read_lr(&self, index: usize) -> ListRegister {
        debug_assert!(index < usize::from(self.vtr.list_registers));
        ListRegister(list_register!(index, get()))
    }

    #[inline]
    fn write_lr(&self, index: usize, value: ListRegister) {
        debug_assert!(index < usize::from(self.vtr.list_registers));
        list_register!(index, set(value.0));
    }

    #[inline]
    fn read_elrsr(&self) -> u16 {
        ICH_ELRSR_EL2.read(ICH_ELRSR_EL2::Status) as u16
    }

    #[inline]
    fn read_eisr(&self) -> u16 {
        ICH_EISR_EL2.read(ICH_EISR_EL2::Status) as u16
    }

    #[inline]
    fn read_misr(&self) -> u64 {
        ICH_MISR_EL2.get()
    }

    #[inline]
    fn read_hcr(&self) -> u64 {
        ICH_HCR_EL2.get()
    }

    #[inline]
    fn write_hcr(&self, value: u64) {
        ICH_HCR_EL2.set(value);
    }

    #[inline]
    fn read_vmcr(&self) -> u64 {
        ICH_VMCR_EL2.get()
    }

    #[inline]
    fn write_vmcr(&self, value: u64) {
        ICH_VMCR_EL2.set(value);
    }

    #[inline]
    fn read_apr(&self, group1: bool, index: usize) -> u32 {
        debug_assert!(index < self.vtr.apr_count());
        active_priorities!(group1, index, get()) as u32
    }

    #[inline]
    fn write_apr(&self, group1: bool, index: usize, value: u32) {
        debug_assert!(index < self.vtr.apr_count());
        active_priorities!(group1, index, set(u64::from(value)));
    }

    #[inline]
    fn synchronize(&self) {
        barrier::isb(barrier::SY);
    }
}
