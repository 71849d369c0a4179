//! The reach of stage 2: how many address bits the tables translate, and where their walk begins.
//!
//! Tables with 4 KiB pages resolve 9 bits at each level. A walk may begin at level 0 on a CPU with
//! 44 physical address bits or more. On other CPUs it begins at level 1, whose one table resolves
//! 39 bits; up to 16 tables side by side then resolve more (DDI 0487, concatenated translation
//! tables).

/// Physical address bits of the values of `ID_AA64MMFR0_EL1.PARange`.
const PA_BITS: [u32; 6] = [32, 36, 40, 42, 44, 48];

/// Bits that one table of level 1 resolves.
const LEVEL_1_BITS: u32 = 39;

/// Fewest bits with which a walk may begin at level 0.
const LEVEL_0_FROM: u32 = 44;

/// Reach of the tables on a kind of CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Reach {
    /// Value of `VTCR_EL2.PS`.
    size: u64,
}

impl Reach {
    /// Returns the reach on a CPU with this `ID_AA64MMFR0_EL1.PARange`: all its physical addresses,
    /// but 48 bits at most, which 4 KiB pages describe without FEAT_LPA2.
    pub(crate) const fn of(pa_range: u64) -> Self {
        let most = PA_BITS.len() as u64 - 1;
        Self {
            size: if pa_range < most { pa_range } else { most },
        }
    }

    /// Returns the number of address bits.
    pub(crate) const fn bits(self) -> u32 {
        PA_BITS[self.size as usize]
    }

    /// Returns the first address out of reach.
    pub(crate) const fn end(self) -> usize {
        1 << self.bits()
    }

    /// Returns the value of `VTCR_EL2.PS`.
    pub(crate) const fn ps(self) -> u64 {
        self.size
    }

    /// Returns the value of `VTCR_EL2.T0SZ`.
    pub(crate) const fn t0sz(self) -> u64 {
        64 - self.bits() as u64
    }

    /// Returns the value of `VTCR_EL2.SL0`: 2 for walks from level 0, 1 for those from level 1.
    pub(crate) const fn sl0(self) -> u64 {
        match self.level_1_tables() {
            None => 2,
            Some(_) => 1,
        }
    }

    /// Returns the number of level 1 tables side by side that a walk begins with, or `None` if it
    /// begins at level 0.
    pub(crate) const fn level_1_tables(self) -> Option<usize> {
        let bits = self.bits();
        if bits >= LEVEL_0_FROM {
            None
        } else {
            Some(1 << bits.saturating_sub(LEVEL_1_BITS))
        }
    }
}
