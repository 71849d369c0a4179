//! Features of the CPU that the identification registers show to a guest that shares it.
#![expect(unsafe_code)]
// UNSAFETY: MRS instructions.

use crate::mrs;

/// Reads a register of EL1 for each feature that is shown, by the lowest bit of its field. A
/// register that is not there is an exception, with which the victim fails.
macro_rules! read_shown {
    ($($id:literal >> $shift:literal, $least:literal: $register:literal;)*) => {
        $({
            let field = mrs!($id) >> $shift & 0xf;
            // All ones: of the implementation's own kind, or absent.
            if field >= $least && field != 0xf {
                let _ = mrs!($register);
            }
        })*
    };
}

/// Checks that a guest can use what it is shown, and is not shown what belongs to another one.
pub(crate) fn check() {
    let [pfr0, pfr1] = [mrs!("id_aa64pfr0_el1"), mrs!("id_aa64pfr1_el1")];
    assert_eq!(pfr0 >> 8 & 0xf, 0, "EL2 is the hypervisor's");
    assert_eq!(pfr0 >> 24 & 0xf, 1, "the GIC is a GICv3");
    assert_eq!(pfr1 >> 36 & 0xf, 0, "the GIC has no NMIs");
    assert!(
        pfr0 >> 16 & 0xf != 0xf && pfr0 >> 20 & 0xf != 0xf,
        "there are floating point and vectors"
    );

    read_shown! {
        "id_aa64pfr0_el1" >> 28, 1: "s3_0_c5_c3_0"; // RAS: ERRIDR_EL1
        "id_aa64pfr0_el1" >> 32, 1: "s3_0_c1_c2_0"; // SVE: ZCR_EL1
        "id_aa64pfr0_el1" >> 40, 1: "s3_0_c10_c5_0"; // MPAM: MPAM1_EL1
        "id_aa64pfr0_el1" >> 44, 1: "s3_3_c13_c2_0"; // AMU: AMCR_EL0
        "id_aa64pfr0_el1" >> 56, 2: "s3_0_c13_c0_7"; // CSV2: SCXTNUM_EL1
        "id_aa64pfr1_el1" >> 8, 2: "s3_0_c1_c0_5"; // MTE: RGSR_EL1
        "id_aa64pfr1_el1" >> 24, 1: "s3_0_c1_c2_6"; // SME: SMCR_EL1
        "id_aa64pfr1_el1" >> 44, 1: "s3_0_c2_c5_0"; // GCS: GCSCR_EL1
        "id_aa64dfr0_el1" >> 8, 1: "s3_3_c9_c12_0"; // PMU: PMCR_EL0
        "id_aa64dfr0_el1" >> 32, 1: "s3_0_c9_c9_7"; // SPE: PMSIDR_EL1
        "id_aa64dfr0_el1" >> 40, 1: "s3_0_c1_c2_1"; // TraceFilt: TRFCR_EL1
        "id_aa64isar1_el1" >> 4, 1: "s3_0_c2_c1_0"; // APA: APIAKeyLo_EL1
        "id_aa64isar1_el1" >> 8, 1: "s3_0_c2_c1_0"; // API: APIAKeyLo_EL1
        "s3_0_c0_c6_2" >> 12, 1: "s3_0_c2_c1_0"; // APA3: APIAKeyLo_EL1
        "id_aa64mmfr1_el1" >> 16, 1: "s3_0_c10_c4_7"; // LO: LORID_EL1
        "s3_0_c0_c7_3" >> 0, 1: "s3_0_c2_c0_3"; // TCRX: TCR2_EL1
        "s3_0_c0_c7_3" >> 4, 1: "s3_0_c1_c0_3"; // SCTLRX: SCTLR2_EL1
        "s3_0_c0_c7_3" >> 8, 1: "s3_0_c10_c2_3"; // S1PIE: PIR_EL1
        "s3_0_c0_c7_3" >> 24, 1: "s3_0_c10_c2_1"; // AIE: MAIR2_EL1
    }
}
