//! System registers missing from `aarch64-cpu`, in its style.
#![expect(unsafe_code)]
// UNSAFETY: MRS and MSR instructions.

use core::arch::asm;

use aarch64_cpu::registers::{Readable, Writeable};

macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = $encoding:literal;)*) => {$(
        $(#[$doc])*
        #[allow(
            non_camel_case_types,
            clippy::upper_case_acronyms,
            reason = "the architecture's name"
        )]
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl Readable for $name {
            type T = u64;
            type R = ();

            #[inline]
            fn get(&self) -> u64 {
                let value;
                // SAFETY: reading these registers has no side effect on memory.
                unsafe {
                    asm!(
                        concat!("mrs {}, ", $encoding),
                        out(reg) value,
                        options(nomem, nostack, preserves_flags)
                    );
                }
                value
            }
        }

        impl Writeable for $name {
            type T = u64;
            type R = ();

            #[inline]
            fn set(&self, value: u64) {
                // SAFETY: these registers do not change how EL2 itself sees memory.
                unsafe {
                    asm!(
                        concat!("msr ", $encoding, ", {}"),
                        in(reg) value,
                        options(nostack, preserves_flags)
                    );
                }
            }
        }
    )*};
}

registers! {
    /// Extended hypervisor configuration (FEAT_HCX).
    HCRX_EL2 = "s3_4_c1_c2_2";
    /// Traps of AArch32 system registers.
    HSTR_EL2 = "hstr_el2";
    /// Value of `MIDR_EL1` for the guest.
    VPIDR_EL2 = "vpidr_el2";
    /// Value of `MPIDR_EL1` for the guest.
    VMPIDR_EL2 = "vmpidr_el2";
    /// Memory partitions of EL2, and traps of those of EL1 (FEAT_MPAM).
    MPAM2_EL2 = "s3_4_c10_c5_0";
    /// Deferred error of the guest (FEAT_RAS).
    VDISR_EL2 = "s3_4_c12_c1_1";
    /// Floating-point control.
    FPCR = "s3_3_c4_c4_0";
    /// Floating-point status.
    FPSR = "s3_3_c4_c4_1";
    /// Vector length that EL1 uses (FEAT_SVE).
    ZCR_EL1 = "s3_0_c1_c2_0";
    /// Vector lengths that the guest may use (FEAT_SVE).
    ZCR_EL2 = "s3_4_c1_c2_0";
    /// Streaming vector lengths that the guest may use (FEAT_SME).
    SMCR_EL2 = "s3_4_c1_c2_6";
    /// Fine-grained traps of register reads (FEAT_FGT).
    HFGRTR_EL2 = "s3_4_c1_c1_4";
    /// Fine-grained traps of register writes (FEAT_FGT).
    HFGWTR_EL2 = "s3_4_c1_c1_5";
    /// Fine-grained traps of instructions (FEAT_FGT).
    HFGITR_EL2 = "s3_4_c1_c1_6";
    /// Fine-grained traps of debug register reads (FEAT_FGT).
    HDFGRTR_EL2 = "s3_4_c3_c1_4";
    /// Fine-grained traps of debug register writes (FEAT_FGT).
    HDFGWTR_EL2 = "s3_4_c3_c1_5";
    /// Deadline of the hypervisor's physical timer.
    CNTHP_CVAL_EL2 = "cnthp_cval_el2";
    /// Performance monitors control; `N` is the number of counters.
    PMCR_EL0 = "pmcr_el0";
    /// AArch64 instruction set attributes 0: atomic instructions.
    ID_AA64ISAR0 = "id_aa64isar0_el1";
    /// AArch64 instruction set attributes 1: pointer authentication.
    ID_AA64ISAR1 = "id_aa64isar1_el1";
    /// AArch64 instruction set attributes 2.
    ID_AA64ISAR2 = "id_aa64isar2_el1";
    /// AArch64 memory model features 0.
    ID_AA64MMFR0 = "id_aa64mmfr0_el1";
    /// AArch64 memory model features 1.
    ID_AA64MMFR1 = "id_aa64mmfr1_el1";
    /// AArch64 processor features 0.
    ID_AA64PFR0 = "id_aa64pfr0_el1";
    /// AArch64 processor features 1.
    ID_AA64PFR1 = "id_aa64pfr1_el1";
    /// AArch64 debug features.
    ID_AA64DFR0 = "id_aa64dfr0_el1";
    /// Physical interrupt acknowledge, Group 1; reading it acknowledges.
    ICC_IAR1_EL1 = "s3_0_c12_c12_0";
    /// Highest priority pending physical interrupt, Group 1.
    ICC_HPPIR1_EL1 = "s3_0_c12_c12_2";
    /// End of a physical interrupt, Group 1.
    ICC_EOIR1_EL1 = "s3_0_c12_c12_1";
    /// Deactivation of a physical interrupt.
    ICC_DIR_EL1 = "s3_0_c12_c11_1";
    /// Generation of physical SGIs, Group 1.
    ICC_SGI1R_EL1 = "s3_0_c12_c11_5";
    /// Priority mask of the physical CPU interface.
    ICC_PMR_EL1 = "s3_0_c4_c6_0";
    /// Binary point of the physical CPU interface, Group 1.
    ICC_BPR1_EL1 = "s3_0_c12_c12_3";
    /// Control of the physical CPU interface.
    ICC_CTLR_EL1 = "s3_0_c12_c12_4";
    /// Enable of Group 1 at the physical CPU interface.
    ICC_IGRPEN1_EL1 = "s3_0_c12_c12_7";
}

#[cfg(feature = "pmu")]
registers! {
    /// Cycles.
    PMCCNTR_EL0 = "pmccntr_el0";
    /// Exception levels at which cycles are counted.
    PMCCFILTR_EL0 = "pmccfiltr_el0";
    /// Enables of counters.
    PMCNTENSET_EL0 = "pmcntenset_el0";
    /// Event counter 0.
    PMEVCNTR0_EL0 = "pmevcntr0_el0";
    /// Event of counter 0, and the exception levels at which the event is counted.
    PMEVTYPER0_EL0 = "pmevtyper0_el0";
    /// Revision, beside that of `MIDR_EL1`.
    REVIDR_EL1 = "revidr_el1";
}

/// Reads the 4-bit field of an identification register that begins at bit `shift`.
pub(crate) fn id_field(register: impl Readable<T = u64>, shift: u32) -> u64 {
    (register.get() >> shift) & 0xf
}
