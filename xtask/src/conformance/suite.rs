//! The programs with the cases: one for each architecture of the GIC.

use super::Place;

/// The cases of one architecture of the GIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Suite {
    /// The cases of a GICv3, by IHI 0069.
    V3,
    /// The cases of a GICv2, by IHI 0048.
    V2,
}

impl Suite {
    /// Returns the suite for a value of `--gic`.
    pub(super) const fn of(gic: u8) -> Self {
        match gic {
            2 => Self::V2,
            _ => Self::V3,
        }
    }

    /// Returns the name of the program, which is that of its reports too.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::V3 => "conformance",
            Self::V2 => "conformance-v2",
        }
    }

    /// Returns the most vCPUs that the architecture has.
    pub(super) const fn most_vcpus(self) -> u16 {
        match self {
            Self::V3 => u16::MAX,
            Self::V2 => 8,
        }
    }

    /// Returns the places that have a column in the table of the groups.
    pub(super) const fn columns(self) -> &'static [Place] {
        match self {
            Self::V3 => &[Place::Hyp, Place::Qemu, Place::Kvm],
            Self::V2 => &[Place::Hyp, Place::Qemu],
        }
    }

    /// Returns the names of its tables in `docs/conformance.md`: groups, and deviations.
    pub(super) const fn tables(self) -> (&'static str, &'static str) {
        match self {
            Self::V3 => (
                "cargo xtask conformance",
                "cargo xtask conformance: deviations",
            ),
            Self::V2 => (
                "cargo xtask conformance --gic 2",
                "cargo xtask conformance --gic 2: deviations",
            ),
        }
    }
}
