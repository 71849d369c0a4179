//! The real virtual CPU interface: `ICH_*_EL2` of the CPU that runs (IHI 0069, 12.4).
//!
//! `aarch64-cpu` names most of the registers; `ICH_EISR_EL2` and `ICH_ELRSR_EL2`, which it lacks,
//! stand here in the same style.
//!
//! No access has a barrier. A register read sees what was written to that register before, and both the
//! exception that brings a CPU to EL2 and the `ERET` that leaves it synchronise the context, so a
//! hypervisor that reads on the way in and writes on the way out needs none. What a write does to
//! *another* register (a list register to `ICH_ELRSR_EL2`, say) may be read back at EL2 only after
//! [`CpuInterface::synchronize`], which is an `ISB`.
#![expect(unsafe_code)]
// UNSAFETY: two system registers are read by inline assembly, and an `Ich` may exist only where the
// registers do, which its constructor cannot check.

use aarch64_cpu::{asm::barrier, registers::*};
use core::{fmt, marker::PhantomData};
use tock_registers::register_bitfields;

use super::{CpuInterface, Vtr};
use crate::lr::ListRegister;

register_bitfields! {u64,
    /// End of Interrupt Status Register (IHI 0069, 12.4).
    ICH_EISR_EL2 [
        /// Bit n: list register n is empty and owes an EOI maintenance interrupt.
        Status OFFSET(0) NUMBITS(16) []
    ],
    /// Empty List Register Status Register (IHI 0069, 12.4).
    ICH_ELRSR_EL2 [
        /// Bit n: list register n is empty and owes nothing. Bits of list registers that are not
        /// implemented read as zero.
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
        // SAFETY: the read has no side effect on memory or on the program's state; like every register
        // of `aarch64-cpu`, it is accessible only where the caller's exception level has it (else it
        // traps, which is a defined exception).
        unsafe {
            core::arch::asm!("mrs {}, ICH_EISR_EL2", out(reg) value, options(nomem, nostack, preserves_flags));
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
        // SAFETY: as for `Eisr`.
        unsafe {
            core::arch::asm!("mrs {}, ICH_ELRSR_EL2", out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }
}

/// `ICH_EISR_EL2`: list registers that are empty and owe an EOI maintenance interrupt.
const ICH_EISR_EL2: Eisr = Eisr;
/// `ICH_ELRSR_EL2`: list registers that are empty and owe nothing.
const ICH_ELRSR_EL2: Elrsr = Elrsr;

/// The virtual CPU interface of the CPU that this value lives on.
///
/// The registers are banked per CPU, so an `Ich` is neither `Send` nor `Sync`: every CPU makes its own.
///
/// # Invariants
/// The code that holds it runs at EL2 with `ICC_SRE_EL2.SRE` set, on the CPU that made it; `vtr` is what
/// that CPU's `ICH_VTR_EL2` says.
#[derive(Clone, Copy)]
pub struct Ich {
    vtr: Vtr,
    /// Keeps the value on its CPU.
    not_send: PhantomData<*const ()>,
}

impl Ich {
    /// Takes the CPU's virtual CPU interface and reads what it has from `ICH_VTR_EL2`; changes nothing.
    ///
    /// # Safety
    /// * The caller runs at EL2 of a CPU with the GICv3 system-register interface, and
    ///   `ICC_SRE_EL2.SRE` is 1: otherwise every access is an exception. (`HCR_EL2.IMO` and `FMO` are
    ///   what make the guest's `ICC_*` accesses reach this interface; they are the embedder's.)
    /// * The value is used only on this CPU and only at EL2, also where it is carried by means that
    ///   get past `!Send`.
    /// * Nobody else drives this CPU's `ICH_*` registers while a virtual machine's state is in them.
    #[inline]
    #[must_use]
    pub unsafe fn new() -> Self {
        // INVARIANT: the first two by the caller, the third by this read.
        Self {
            vtr: Vtr::decode(ICH_VTR_EL2.get()),
            not_send: PhantomData,
        }
    }
}

impl fmt::Debug for Ich {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ich").field(&self.vtr).finish()
    }
}

/// Applies `$method` to the list register with the run-time number `$index`. A register's number is
/// part of its instruction, so this is a jump table; the mask spares it a panicking arm.
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

/// As `list_register!`, for the active priorities register `$index` of a group.
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
