//! The EL2 registers that decide what a guest may do on this CPU without a trap.
//!
//! A guest with the whole machine never leaves its CPUs, so that nothing is switched, and has every
//! feature of the CPU but those that [`super::id_registers`] hides: [`configure`] allows all that
//! an extension's EL2 controls can allow. Only what the hypervisor must see traps.
//!
//! VMs with a part of the machine share the CPUs. Such a VM has the registers that are switched
//! between VMs; all others trap ([`configure_for_parts`]).

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTHCTL_EL2, CNTVOFF_EL2, CPTR_EL2, HCR_EL2, ICC_SRE_EL2, MDCR_EL2, MIDR_EL1, MPIDR_EL1,
    ReadWriteable, Readable, Writeable,
};

use crate::vcpu::vector;

use super::registers::{
    HCRX_EL2, HDFGRTR_EL2, HDFGWTR_EL2, HFGITR_EL2, HFGRTR_EL2, HFGWTR_EL2, HSTR_EL2, ID_AA64DFR0,
    ID_AA64ISAR1, ID_AA64ISAR2, ID_AA64MMFR0, ID_AA64MMFR1, ID_AA64PFR0, ID_AA64PFR1, MPAM2_EL2,
    PMCR_EL0, SMCR_EL2, VDISR_EL2, VMPIDR_EL2, VPIDR_EL2, ZCR_EL2, id_field,
};

/// Configures the calling CPU for a guest with the whole machine.
pub(crate) fn configure() {
    HCR_EL2.set(guest_hcr());
    VPIDR_EL2.set(MIDR_EL1.get());
    VMPIDR_EL2.set(MPIDR_EL1.get());
    HSTR_EL2.set(0);
    // The guest reads the counter and programs the physical timer without a trap.
    CNTHCTL_EL2.write(CNTHCTL_EL2::EL1PCEN.val(1) + CNTHCTL_EL2::EL1PCTEN.val(1));
    CNTVOFF_EL2.set(0);

    ICC_SRE_EL2.write(
        ICC_SRE_EL2::ENABLE.val(1)
            + ICC_SRE_EL2::DIB.val(1)
            + ICC_SRE_EL2::DFB.val(1)
            + ICC_SRE_EL2::SRE.val(1),
    );

    enable_vector_extensions();
    give_debug_and_profiling();
    enable_extensions();
    barrier::isb(barrier::SY);
}

/// Configures the calling CPU, after [`configure`], for VMs with a part of the
/// machine: registers outside their [`Context`](crate::vcpu::context::Context) trap.
pub(crate) fn configure_for_parts() {
    // Besides what always traps: system errors, the auxiliary control registers, implementation
    // defined registers, and cache maintenance by set and way. Pointer authentication keys,
    // allocation tags and the registers of CSV2 are not let through.
    //
    // Maintenance of one CPU's TLB and instruction cache, and barriers, reach all CPUs: the vCPU
    // may have left translations and instructions on another one, and may come back there.
    HCR_EL2.write(
        HCR_EL2::VM::Enable
            + HCR_EL2::RW::EL1IsAarch64
            + HCR_EL2::TSC.val(1)
            + HCR_EL2::IMO.val(1)
            + HCR_EL2::FMO.val(1)
            + HCR_EL2::AMO.val(1)
            + HCR_EL2::FB.val(1)
            + HCR_EL2::BSU::InnerShareable
            + HCR_EL2::TWI.val(1)
            + HCR_EL2::TACR.val(1)
            + HCR_EL2::TID3.val(1)
            + HCR_EL2::TLOR.val(1)
            + HCR_EL2::TIDCP.val(1)
            + HCR_EL2::TSW.val(1)
            + HCR_EL2::TERR.val(u64::from(has_error_records())),
    );

    /// Bits that are RES1 unless an extension exists whose accesses they trap, SVE and SME among
    /// them.
    const RES1: u64 = 0x33ff;
    const TRACE: u64 = 1 << 20;
    const ACTIVITY_MONITORS: u64 = 1 << 30;
    let sve = if vector::has_sve() {
        vector::SVE_TRAP
    } else {
        0
    };
    CPTR_EL2.set(RES1 & !sve | TRACE | ACTIVITY_MONITORS);
    barrier::isb(barrier::SY);
    vector::limit_length();

    // A vCPU could leave another the legacy interface to the GIC.
    ICC_SRE_EL2.modify(ICC_SRE_EL2::ENABLE.val(0));
    if id_field(ID_AA64PFR0, 40) != 0 || id_field(ID_AA64PFR1, 16) != 0 {
        // A vCPU could choose the partitions of another's memory accesses (FEAT_MPAM):
        // TRAPMPAM0EL1, TRAPMPAM1EL1.
        MPAM2_EL2.set(1 << 49 | 1 << 48);
    }

    MDCR_EL2.modify(
        MDCR_EL2::TDRA.val(1)
            + MDCR_EL2::TDOSA.val(1)
            + MDCR_EL2::TDA.val(1)
            + MDCR_EL2::TPM.val(1)
            + MDCR_EL2::TPMCR.val(1)
            + MDCR_EL2::TPMS.val(1)
            + MDCR_EL2::TTRF.val(u64::from(id_field(ID_AA64DFR0, 40) != 0))
            + MDCR_EL2::E2PB.val(0)
            + MDCR_EL2::E2TB.val(0),
    );

    if id_field(ID_AA64MMFR1, 40) != 0 {
        HCRX_EL2.set(0);
    }
    if id_field(ID_AA64MMFR0, 56) != 0 {
        HFGRTR_EL2.set(0);
        HFGWTR_EL2.set(0);
        HFGITR_EL2.set(0);
        HDFGRTR_EL2.set(0);
        HDFGWTR_EL2.set(0);
    }
    barrier::isb(barrier::SY);
}

/// Clears, on the calling CPU, what a VM has written to a register that neither traps nor is saved:
/// the deferred error of FEAT_RAS, which VMs do not have.
pub(crate) fn clear_unswitched() {
    if has_error_records() {
        VDISR_EL2.set(0);
    }
}

/// Returns true if the CPU has FEAT_RAS.
fn has_error_records() -> bool {
    id_field(ID_AA64PFR0, 28) != 0
}

/// Returns `HCR_EL2` for a guest with the whole machine.
fn guest_hcr() -> u64 {
    // Physical interrupts are taken to EL2, the guest's ICC_* accesses go to the virtual interface,
    // and WFI and the identification registers trap.
    let base = HCR_EL2::VM::Enable
        + HCR_EL2::RW::EL1IsAarch64
        + HCR_EL2::TSC.val(1)
        + HCR_EL2::IMO.val(1)
        + HCR_EL2::FMO.val(1)
        + HCR_EL2::TWI.val(1)
        + HCR_EL2::TID3.val(1);
    let mut value = base.value;

    let isar1_and_2 = [
        id_field(ID_AA64ISAR1, 4),
        id_field(ID_AA64ISAR1, 8),
        id_field(ID_AA64ISAR2, 12),
    ];
    if isar1_and_2
        .iter()
        .any(|&authentication| authentication != 0)
    {
        value |= (HCR_EL2::API.val(1) + HCR_EL2::APK.val(1)).value;
    }

    if id_field(ID_AA64PFR1, 8) >= 2 {
        value |= HCR_EL2::ATA.val(1).value; // FEAT_MTE2
    }
    if id_field(ID_AA64PFR0, 56) != 0 || id_field(ID_AA64PFR1, 28) != 0 {
        value |= HCR_EL2::EnSCXT.val(1).value; // FEAT_CSV2_2
    }
    if id_field(ID_AA64PFR0, 28) >= 2 {
        value |= HCR_EL2::FIEN.val(1).value; // FEAT_RASv1p1
    }
    value
}

/// Lets floating point, SVE and SME through, with the longest vectors of the CPU.
fn enable_vector_extensions() {
    /// Bits that are RES1 without SVE and SME, the trap bits of both among them.
    const RES1: u64 = 0x33ff;
    const TZ: u64 = 1 << 8;
    const TSM: u64 = 1 << 12;
    const LONGEST: u64 = 0xf;
    const FULL_A64: u64 = 1 << 31;
    let sve = id_field(ID_AA64PFR0, 32) != 0;
    let sme = id_field(ID_AA64PFR1, 24) != 0;
    CPTR_EL2.set(RES1 & !(if sve { TZ } else { 0 }) & !(if sme { TSM } else { 0 }));
    barrier::isb(barrier::SY);
    if sve {
        ZCR_EL2.set(LONGEST);
    }
    if sme {
        SMCR_EL2.set(LONGEST | FULL_A64);
    }
}

/// Gives the guest every event counter, and the profiling and trace buffers.
fn give_debug_and_profiling() {
    let monitors = id_field(ID_AA64DFR0, 8);
    let counters = if matches!(monitors, 0 | 0xf) {
        0
    } else {
        (PMCR_EL0.get() >> 11) & 0x1f
    };
    MDCR_EL2.write(
        MDCR_EL2::HPMN.val(counters)
            + MDCR_EL2::E2PB::OwnedByEL1
            + MDCR_EL2::E2TB::EL1OwnerNotTrapped,
    );
}

/// Sets the EL2 controls of later extensions, which trap while they are clear.
fn enable_extensions() {
    if id_field(ID_AA64MMFR1, 40) != 0 {
        // FEAT_HCX: EnIDCP128, MSCEn, TCR2En, SCTLR2En, PTTWI, D128En, GCSEn. Each is RES0 without
        // its extension.
        HCRX_EL2.set(1 << 22 | 1 << 21 | 1 << 17 | 1 << 16 | 1 << 15 | 1 << 14 | 1 << 11);
    }
    if id_field(ID_AA64MMFR0, 56) != 0 {
        // FEAT_FGT: the bits whose names begin with n, which trap while they are clear. Of
        // registers: ACCDATA, GCS, SMPRI, TPIDR2, RCWMASK, PIR, POR, S2POR, MAIR2 and AMAIR2. Of
        // instructions: the branch record buffer and GCS. Of debug registers: the branch record
        // buffer and PMSNEVFR.
        let registers = 1 << 50 | (0xfff << 52);
        HFGRTR_EL2.set(registers);
        HFGWTR_EL2.set(registers);
        HFGITR_EL2.set(0x1f << 55);
        HDFGRTR_EL2.set(0xf << 59);
        HDFGWTR_EL2.set(0xf << 59);
    }
}
