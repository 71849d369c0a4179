//! Errata of CPUs by which a guest reaches the hypervisor through the virtual CPU interface.
//!
//! `docs/errata.md` has all errata that touch a virtual GIC, and who has to handle which.

use core::fmt;

/// Erratum of a CPU on which the library runs no vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Erratum {
    /// Cavium 30115, of ThunderX: a guest's accesses to the registers of an interrupt group may
    /// mask the physical interrupts of the CPU. Against it all of these accesses have to trap
    /// (`ICH_HCR_EL2.TALL0`, `TALL1`), for which the library has no emulation.
    Cavium30115,
}

/// Revisions of a CPU model that have an erratum.
struct Affected {
    /// `MIDR_EL1` of the model, with the fields of the revision 0.
    model: u64,
    /// Latest revision: `Variant` in the high half of the byte, `Revision` in the low half.
    latest: u8,
    erratum: Erratum,
}

/// Bits of `MIDR_EL1` that name a model: `Implementer`, `Architecture`, `PartNum`.
const MODEL: u64 = 0xff0f_fff0;

/// All models and revisions with an erratum of [`Erratum`].
const AFFECTED: [Affected; 3] = [
    // ThunderX CN88xx, passes 1.0 to 2.2.
    Affected {
        model: 0x430f_0a10,
        latest: 0x12,
        erratum: Erratum::Cavium30115,
    },
    // ThunderX CN81xx, passes 1.0 to 1.2.
    Affected {
        model: 0x430f_0a20,
        latest: 0x02,
        erratum: Erratum::Cavium30115,
    },
    // ThunderX CN83xx, pass 1.0.
    Affected {
        model: 0x430f_0a30,
        latest: 0x00,
        erratum: Erratum::Cavium30115,
    },
];

impl Erratum {
    /// Returns the erratum of the CPU with this `MIDR_EL1`, if the CPU has one.
    #[must_use]
    pub fn of(midr: u64) -> Option<Self> {
        let revision = (midr >> 16 & 0xf0 | midr & 0xf) as u8;
        let affected = AFFECTED
            .iter()
            .find(|it| midr & MODEL == it.model && revision <= it.latest)?;
        Some(affected.erratum)
    }
}

impl fmt::Display for Erratum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cavium30115 => f.write_str("Cavium 30115: a guest can mask the interrupts"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_revisions_with_an_erratum_are_told_from_those_without() {
        let affected = [
            0x430f_0a10, // CN88xx, pass 1.0
            0x431f_0a12, // CN88xx, pass 2.2
            0x430f_0a22, // CN81xx, pass 1.2
            0x430f_0a30, // CN83xx, pass 1.0
        ];
        for midr in affected {
            assert_eq!(Erratum::of(midr), Some(Erratum::Cavium30115), "{midr:#x}");
        }

        let sound = [
            0x431f_0a13, // CN88xx, later than pass 2.2
            0x432f_0a10,
            0x430f_0a23, // CN81xx, later than pass 1.2
            0x430f_0a31, // CN83xx, later than pass 1.0
            0x431f_0af1, // ThunderX2
            0x413f_d0c1, // Neoverse N1, r3p1
            0x410f_d402, // Neoverse V1, r0p2
            0xc00f_ac30, // AmpereOne
            0,
        ];
        for midr in sound {
            assert_eq!(Erratum::of(midr), None, "{midr:#x}");
        }
    }
}
