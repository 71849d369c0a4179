//! Identification registers as guests read them (DDI 0487, D23.2; the reads trap by
//! `HCR_EL2.TID3`).
//!
//! A guest reads the CPU's value, but for the features that it does not have. The library has the
//! values of the fields about the GIC ([`vgic::sysreg::IdRegister`]), and the tables here have
//! those of the others. A feature without a trap stays usable to a guest that does not look.
#![expect(unsafe_code)]
// UNSAFETY: MRS instructions.

use vgic::sysreg::IdRegister;

/// Guest that reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reader {
    /// The guest has a part of the machine, and shares the CPU.
    pub(crate) has_part: bool,
    /// The guest has a GICv2.
    pub(crate) has_gicv2: bool,
}

impl Reader {
    /// A guest with a part of the machine, and a GICv3.
    pub(crate) const PART: Self = Self {
        has_part: true,
        has_gicv2: false,
    };
}

/// Register of the space that traps: CRm and op2 of its encoding.
type Register = (u8, u8);

const PFR0_AARCH32: Register = (1, 0);
const PFR1_AARCH32: Register = (1, 1);
const DFR0_AARCH32: Register = (1, 2);
const PFR2_AARCH32: Register = (3, 4);
const PFR0: Register = (4, 0);
const PFR1: Register = (4, 1);
const PFR2: Register = (4, 2);
const SMFR0: Register = (4, 5);
const FPFR0: Register = (4, 7);
const DFR0: Register = (5, 0);
const DFR1: Register = (5, 1);
const DFR2: Register = (5, 2);
const ISAR0: Register = (6, 0);
const ISAR1: Register = (6, 1);
const ISAR2: Register = (6, 2);
const ISAR3: Register = (6, 3);
const MMFR0: Register = (7, 0);
const MMFR1: Register = (7, 1);
const MMFR2: Register = (7, 2);
const MMFR3: Register = (7, 3);
const MMFR4: Register = (7, 4);

/// Rule for one field of four bits: the register, the field's lowest bit, and the largest value
/// that a guest reads. Zero hides the feature.
type Rule = (Register, u32, u64);

/// Largest value of a field whose feature is hidden.
const ABSENT: u64 = 0;

/// Registers of extensions whose EL2 controls the hypervisor does not set. They read as zero.
const LATER: [Register; 5] = [PFR2, FPFR0, DFR1, DFR2, MMFR4];

/// Rules for every guest.
const EVERY_GUEST: [Rule; 24] = [
    // EL2 is the hypervisor's, and so is what only software at EL2 can use.
    (PFR0, 8, ABSENT),          // EL2
    (PFR0, 36, ABSENT),         // SEL2
    (PFR1_AARCH32, 12, ABSENT), // Virtualization
    (PFR1_AARCH32, 24, ABSENT), // Virt_frac
    (MMFR0, 56, ABSENT),        // FGT
    (MMFR0, 60, 1),             // ECV: the offset of the physical counter
    (MMFR1, 4, ABSENT),         // VMIDBits
    (MMFR1, 8, ABSENT),         // VH
    (MMFR1, 28, ABSENT),        // XNX
    (MMFR1, 32, ABSENT),        // TWED
    (MMFR1, 40, ABSENT),        // HCX
    (MMFR2, 24, ABSENT),        // NV
    (MMFR2, 40, ABSENT),        // FWB
    (MMFR2, 56, ABSENT),        // EVT
    (MMFR3, 12, ABSENT),        // S2PIE
    (MMFR3, 20, ABSENT),        // S2POE
    (MMFR3, 28, ABSENT),        // MEC
    (MMFR3, 36, ABSENT),        // D128_2
    (DFR0, 60, ABSENT),         // HPMN0
    // RME: realms belong to EL3.
    (PFR0, 52, ABSENT),
    // MPAM and MPAM_frac: MPAM2_EL2 is left as it was found, and may trap.
    (PFR0, 40, ABSENT),
    (PFR1, 16, ABSENT),
    // WFxT: WFIT traps, and a vCPU that waits knows no time-out.
    (ISAR2, 0, ABSENT),
    // LS64: HCRX_EL2 traps the 64-byte loads and stores.
    (ISAR1, 60, ABSENT),
];

/// Rules for guests with a part of the machine, besides those for every guest. Their features have
/// registers outside the [`Context`](crate::vcpu::context::Context), or trap.
const PART: [Rule; 38] = [
    (PFR1, 24, ABSENT), // SME
    // Registers of errors, activity monitors, and the software's context number.
    (PFR0, 28, ABSENT),         // RAS
    (PFR0, 44, ABSENT),         // AMU
    (PFR0, 56, 1),              // CSV2
    (PFR0_AARCH32, 28, ABSENT), // RAS
    (PFR0_AARCH32, 20, ABSENT), // AMU
    (PFR1, 12, ABSENT),         // RAS_frac
    (PFR1, 32, 1),              // CSV2_frac
    (PFR2_AARCH32, 8, ABSENT),  // RAS_frac
    // MTE: allocation tags. Its instructions work, as on memory without tags.
    (PFR1, 8, 1),
    // GCS, THE, DF2, PFAR: registers.
    (PFR1, 44, ABSENT),
    (PFR1, 48, ABSENT),
    (PFR1, 56, ABSENT),
    (PFR1, 60, ABSENT),
    // APA, API, GPA, GPI, GPA3, APA3, PAC_frac: keys of pointer authentication.
    (ISAR1, 4, ABSENT),
    (ISAR1, 8, ABSENT),
    (ISAR1, 24, ABSENT),
    (ISAR1, 28, ABSENT),
    (ISAR2, 8, ABSENT),
    (ISAR2, 12, ABSENT),
    (ISAR2, 24, ABSENT),
    // MOPS, SYSREG_128, SYSINSTR_128: HCRX_EL2 traps them.
    (ISAR2, 16, ABSENT),
    (ISAR2, 32, ABSENT),
    (ISAR2, 36, ABSENT),
    // TME: no transactions.
    (ISAR0, 24, ABSENT),
    // Tracing, performance monitors, profiling, trace buffers and branch records.
    (DFR0, 4, ABSENT),          // TraceVer
    (DFR0, 8, ABSENT),          // PMUVer
    (DFR0, 16, ABSENT),         // PMSS
    (DFR0, 32, ABSENT),         // PMSVer
    (DFR0, 40, ABSENT),         // TraceFilt
    (DFR0, 44, ABSENT),         // TraceBuffer
    (DFR0, 48, ABSENT),         // MTPMU
    (DFR0, 52, ABSENT),         // BRBE
    (DFR0, 56, ABSENT),         // ExtTrcBuff
    (DFR0_AARCH32, 12, ABSENT), // CopTrc
    (DFR0_AARCH32, 16, ABSENT), // MMapTrc
    (DFR0_AARCH32, 24, ABSENT), // PerfMon
    // LO: registers of limited ordering.
    (MMFR1, 16, ABSENT),
];

/// Registers that guests with a part of the machine read as zero, besides [`LATER`]: long vectors,
/// and translation controls that are not switched.
const PART_ZERO: [Register; 3] = [SMFR0, ISAR3, MMFR3];

/// Returns the value that a guest reads from an identification register, if the syndrome of a
/// trapped `MRS` names one.
#[cold]
pub(crate) fn read(iss: u32, reader: Reader) -> Option<u64> {
    /// op0 of 3, op1 and CRn of 0.
    const SPACE_FIELDS: u32 = 3 << 20 | 7 << 14 | 0xf << 10;
    if iss & SPACE_FIELDS != SPACE {
        return None;
    }

    let register = ((iss >> 1 & 0xf) as u8, (iss >> 17 & 7) as u8);
    let cpu = cpu_value(register)?;
    let cpu = match IdRegister::from_syndrome(iss) {
        Some(id) if reader.has_gicv2 => id.gicv2_guest_value(cpu),
        Some(id) => id.guest_value(cpu),
        None => cpu,
    };
    Some(guest_value(register, cpu, reader))
}

/// op0 of 3, and op1 and CRn of 0, in the syndrome of a trapped `MRS`.
const SPACE: u32 = 3 << 20;

/// Returns all registers of the space that traps, as `reader` reads them.
pub(crate) fn all(reader: Reader) -> impl Iterator<Item = u64> {
    let registers = (1..=7).flat_map(|crm: u32| (0..=7).map(move |op2: u32| (crm, op2)));
    registers.filter_map(move |(crm, op2)| read(SPACE | crm << 1 | op2 << 17, reader))
}

/// Applies the tables to the CPU's value of a register.
fn guest_value(register: Register, cpu: u64, reader: Reader) -> u64 {
    let part = reader.has_part;
    if LATER.contains(&register) || part && PART_ZERO.contains(&register) {
        return 0;
    }

    let rules = EVERY_GUEST.iter().chain(PART.iter().filter(|_| part));
    let mine = rules.filter(|(of, ..)| *of == register);
    mine.fold(cpu, |value, &(_, shift, most)| {
        let shown = (value >> shift & 0xf).min(most);
        value & !(0xf << shift) | shown << shift
    })
}

/// Reads the CPU's register. Returns `None` for one whose read does not trap by
/// `HCR_EL2.TID3`.
fn cpu_value(register: Register) -> Option<u64> {
    macro_rules! read {
        ($($crm:literal: $($op2:literal)*;)*) => {
            match register {
                $($(($crm, $op2) => {
                    let value: u64;
                    // SAFETY: registers of the identification space have no side effects, and those
                    // that are not allocated read as zero.
                    unsafe {
                        core::arch::asm!(
                            concat!("mrs {}, s3_0_c0_c", $crm, "_", $op2),
                            out(reg) value,
                            options(nomem, nostack, preserves_flags)
                        );
                    }
                    Some(value)
                })*)*
                _ => None,
            }
        };
    }
    read! {
        1: 0 1 2 3 4 5 6 7;
        2: 0 1 2 3 4 5 6 7;
        3: 0 1 2 3 4 5 6 7;
        4: 0 1 2 3 4 5 6 7;
        5: 0 1 2 3 4 5 6 7;
        6: 0 1 2 3 4 5 6 7;
        7: 0 1 2 3 4 5 6 7;
    }
}
