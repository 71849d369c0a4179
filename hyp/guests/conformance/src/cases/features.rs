//! Identification registers of the CPU: features of the GIC, and others that are there if they are
//! shown.

use crate::cpu;
use crate::exception::take_fault;
use crate::gic::gicd;
use crate::harness::{Case, Outcome, equal, holds};
use crate::machine::Machine;
use crate::mmio::read_32;

pub(super) const CASES: &[Case] = &[
    Case::new("features.gic", "ID_AA64PFR0_EL1.GIC (DDI 0487)", |_| {
        // Both sides of every comparison have a GICv3.
        equal("GIC", cpu::read!("id_aa64pfr0_el1") >> 24 & 0xf, 1_u64)
    }),
    Case::new("features.nmi", "GICD_TYPER.NMI (12.9)", check_nmi),
    Case::new("features.no_el2", "ID_AA64PFR0_EL1.EL2 (DDI 0487)", |_| {
        equal("EL2", cpu::read!("id_aa64pfr0_el1") >> 8 & 0xf, 0_u64)
    })
    .unlike_kvm("it shows an EL2, which the VM has not, unless its userspace clears the field"),
    Case::new(
        "features.have_registers",
        "ID_AA64*_EL1 (DDI 0487)",
        check_registers,
    ),
];

/// Checks that the CPU shows non-maskable interrupts only if the GIC has them.
fn check_nmi(m: &Machine) -> Outcome {
    let cpu = cpu::read!("id_aa64pfr1_el1") >> 36 & 0xf;
    holds(
        "the CPU does as the GIC",
        (cpu != 0) == (read_32(m.gicd(gicd::TYPER)) & 1 << 9 != 0),
    )
}

/// A feature with a register of EL1 that tells whether the feature can be used.
struct Feature {
    name: &'static str,
    /// The field of the identification register.
    field: fn() -> u64,
    /// The smallest value of the field that promises the register.
    least: u64,
    /// Reads the register.
    read: fn() -> u64,
}

/// Lists features: name, field, smallest value, and register.
macro_rules! features {
    ($($name:literal: $id:literal >> $shift:literal, $least:literal, $register:literal;)*) => {
        [$(Feature {
            name: $name,
            field: || cpu::read!($id) >> $shift & 0xf,
            least: $least,
            read: || cpu::read!($register),
        },)*]
    };
}

/// Features whose registers a hypervisor can trap. Encodings, because assemblers differ in the
/// names that they know.
const FEATURES: [Feature; 23] = features! {
    "RAS": "id_aa64pfr0_el1" >> 28, 1, "s3_0_c5_c3_0"; // ERRIDR_EL1
    "SVE": "id_aa64pfr0_el1" >> 32, 1, "s3_0_c1_c2_0"; // ZCR_EL1
    "MPAM": "id_aa64pfr0_el1" >> 40, 1, "s3_0_c10_c5_0"; // MPAM1_EL1
    "AMU": "id_aa64pfr0_el1" >> 44, 1, "s3_3_c13_c2_0"; // AMCR_EL0
    "CSV2": "id_aa64pfr0_el1" >> 56, 2, "s3_0_c13_c0_7"; // SCXTNUM_EL1
    "MTE": "id_aa64pfr1_el1" >> 8, 2, "s3_0_c1_c0_5"; // RGSR_EL1
    "SME": "id_aa64pfr1_el1" >> 24, 1, "s3_0_c1_c2_6"; // SMCR_EL1
    "NMI": "id_aa64pfr1_el1" >> 36, 1, "s3_0_c4_c3_0"; // ALLINT
    "GCS": "id_aa64pfr1_el1" >> 44, 1, "s3_0_c2_c5_0"; // GCSCR_EL1
    "THE": "id_aa64pfr1_el1" >> 48, 1, "s3_0_c13_c0_6"; // RCWMASK_EL1
    "PMU": "id_aa64dfr0_el1" >> 8, 1, "s3_3_c9_c12_0"; // PMCR_EL0
    "SPE": "id_aa64dfr0_el1" >> 32, 1, "s3_0_c9_c9_7"; // PMSIDR_EL1
    "TraceFilt": "id_aa64dfr0_el1" >> 40, 1, "s3_0_c1_c2_1"; // TRFCR_EL1
    "TraceBuffer": "id_aa64dfr0_el1" >> 44, 1, "s3_0_c9_c11_7"; // TRBIDR_EL1
    "BRBE": "id_aa64dfr0_el1" >> 52, 1, "s2_1_c9_c0_0"; // BRBCR_EL1
    "APA": "id_aa64isar1_el1" >> 4, 1, "s3_0_c2_c1_0"; // APIAKeyLo_EL1
    "API": "id_aa64isar1_el1" >> 8, 1, "s3_0_c2_c1_0"; // APIAKeyLo_EL1
    "LO": "id_aa64mmfr1_el1" >> 16, 1, "s3_0_c10_c4_7"; // LORID_EL1
    "TCRX": "s3_0_c0_c7_3" >> 0, 1, "s3_0_c2_c0_3"; // TCR2_EL1
    "SCTLRX": "s3_0_c0_c7_3" >> 4, 1, "s3_0_c1_c0_3"; // SCTLR2_EL1
    "S1PIE": "s3_0_c0_c7_3" >> 8, 1, "s3_0_c10_c2_3"; // PIR_EL1
    "S1POE": "s3_0_c0_c7_3" >> 16, 1, "s3_0_c10_c2_4"; // POR_EL1
    "AIE": "s3_0_c0_c7_3" >> 24, 1, "s3_0_c10_c2_1"; // MAIR2_EL1
};

/// Checks that the register of every feature shown can be read.
fn check_registers(_: &Machine) -> Outcome {
    /// `CPACR_EL1`: no trap of vectors, SVE and SME among them, to EL1.
    const NO_TRAPS: u64 = 3 << 16 | 3 << 20 | 3 << 24;
    let before = cpu::read!("cpacr_el1");
    cpu::write!("cpacr_el1", NO_TRAPS);
    let lacking = FEATURES.iter().find(|feature| {
        // All ones: of the implementation's own kind.
        let field = (feature.field)();
        field >= feature.least && field != 0xf && {
            let _ = (feature.read)();
            take_fault(cpu::number()).is_some()
        }
    });
    cpu::write!("cpacr_el1", before);
    match lacking {
        None => Ok(()),
        Some(feature) => holds(feature.name, false),
    }
}
