//! The registers of EL2 that decide what the guest may do on this CPU without asking.
//!
//! A guest that has the machine for itself never leaves its CPUs, so there is nothing to switch, and it
//! has every feature that the CPU has: what an extension's EL2 controls can allow, they allow. What traps
//! is the little that the hypervisor must see ([`configure`]).
//!
//! Vms share the CPUs, so it is the other way round: they have what is switched between them, and
//! all else traps ([`configure_for_vms`]).

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTHCTL_EL2, CNTVOFF_EL2, CPTR_EL2, HCR_EL2, ICC_SRE_EL2, MDCR_EL2, MIDR_EL1, MPIDR_EL1,
    ReadWriteable, Readable, Writeable,
};

use super::registers::{
    HCRX_EL2, HDFGRTR_EL2, HDFGWTR_EL2, HFGITR_EL2, HFGRTR_EL2, HFGWTR_EL2, HSTR_EL2, ID_AA64DFR0,
    ID_AA64ISAR1, ID_AA64ISAR2, ID_AA64MMFR0, ID_AA64MMFR1, ID_AA64PFR0, ID_AA64PFR1, PMCR_EL0,
    SMCR_EL2, VMPIDR_EL2, VPIDR_EL2, ZCR_EL2, id_field,
};

/// Sets the calling CPU up to run a guest.
pub(crate) fn configure() {
    HCR_EL2.set(guest_hcr());
    VPIDR_EL2.set(MIDR_EL1.get());
    VMPIDR_EL2.set(MPIDR_EL1.get());
    HSTR_EL2.set(0);
    // The guest reads the counter and programs the physical timer as on the bare machine.
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

/// Sets the calling CPU, which has been configured, up for vms: what is not in their
/// [`Context`](crate::vms::context::Context) they have not.
pub(crate) fn configure_for_vms() {
    // Besides what always traps: system errors, the auxiliary control registers, what the architecture
    // leaves to implementations, and cache maintenance by set and way. Pointer authentication keys,
    // allocation tags and the registers of CSV2 are not let through.
    HCR_EL2.write(
        HCR_EL2::VM::Enable
            + HCR_EL2::RW::EL1IsAarch64
            + HCR_EL2::TSC.val(1)
            + HCR_EL2::IMO.val(1)
            + HCR_EL2::FMO.val(1)
            + HCR_EL2::AMO.val(1)
            + HCR_EL2::TWI.val(1)
            + HCR_EL2::TACR.val(1)
            + HCR_EL2::TIDCP.val(1)
            + HCR_EL2::TSW.val(1),
    );
    // Vms know the time by the virtual counter and timer alone.
    CNTHCTL_EL2.set(0);
    /// Everything that is RES1 without the extension that it traps: SVE and SME among them.
    const RES1: u64 = 0x33ff;
    const FLOATING_POINT: u64 = 1 << 10;
    const TRACE: u64 = 1 << 20;
    const ACTIVITY_MONITORS: u64 = 1 << 30;
    CPTR_EL2.set(RES1 | FLOATING_POINT | TRACE | ACTIVITY_MONITORS);
    MDCR_EL2.modify(
        MDCR_EL2::TDRA.val(1)
            + MDCR_EL2::TDOSA.val(1)
            + MDCR_EL2::TDA.val(1)
            + MDCR_EL2::TPM.val(1)
            + MDCR_EL2::TPMCR.val(1)
            + MDCR_EL2::TPMS.val(1)
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

fn guest_hcr() -> u64 {
    // Physical interrupts come to EL2, the guest's ICC_* accesses go to the virtual interface, and WFI
    // traps.
    let base = HCR_EL2::VM::Enable
        + HCR_EL2::RW::EL1IsAarch64
        + HCR_EL2::TSC.val(1)
        + HCR_EL2::IMO.val(1)
        + HCR_EL2::FMO.val(1)
        + HCR_EL2::TWI.val(1);
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

/// Floating point, SVE and SME: nothing traps, and the vectors are as long as the CPU has them.
fn enable_vector_extensions() {
    /// The bits that are RES1 without SVE and SME: the trap bits of these two among them.
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

/// The guest owns every counter, and the profiling and trace buffers.
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

/// Later extensions whose EL2 controls trap unless they are set.
fn enable_extensions() {
    if id_field(ID_AA64MMFR1, 40) != 0 {
        // FEAT_HCX: EnIDCP128, MSCEn, TCR2En, SCTLR2En, PTTWI, D128En, GCSEn, each RES0 where the
        // extension it belongs to is missing.
        HCRX_EL2.set(1 << 22 | 1 << 21 | 1 << 17 | 1 << 16 | 1 << 15 | 1 << 14 | 1 << 11);
    }
    if id_field(ID_AA64MMFR0, 56) != 0 {
        // FEAT_FGT: the bits whose names begin with n, which trap while they are clear: of ACCDATA,
        // GCS, SMPRI, TPIDR2, RCWMASK, PIR, POR, S2POR, MAIR2 and AMAIR2; of the branch record buffer
        // and GCS instructions; and of the branch record buffer and PMSNEVFR.
        let registers = 1 << 50 | (0xfff << 52);
        HFGRTR_EL2.set(registers);
        HFGWTR_EL2.set(registers);
        HFGITR_EL2.set(0x1f << 55);
        HDFGRTR_EL2.set(0xf << 59);
        HDFGWTR_EL2.set(0xf << 59);
    }
}
