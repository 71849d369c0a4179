//! The counters of the calling CPU: cycles and instructions at EL2 alone, or the system counter on
//! a CPU without them (DDI 0487, "The Performance Monitors Extension").

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTPCT_EL0, MDCR_EL2, ReadWriteable, Readable, Writeable};

use crate::cpu::registers::{
    ID_AA64DFR0, PMCCFILTR_EL0, PMCCNTR_EL0, PMCNTENSET_EL0, PMCR_EL0, PMEVCNTR0_EL0,
    PMEVTYPER0_EL0, id_field,
};

/// A reading of the counters, or the difference of two.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reading {
    /// Cycles, or ticks of the system counter.
    pub(crate) cycles: u64,
    /// Instructions, 0 without a counter for them.
    pub(crate) instructions: u64,
}

impl Reading {
    /// Returns the difference to an earlier reading, less than 2^32 instructions ago.
    pub(crate) fn since(self, earlier: Self) -> Self {
        // The counter of instructions has 32 bits.
        let instructions = self.instructions.wrapping_sub(earlier.instructions) as u32;
        Self {
            cycles: self.cycles.wrapping_sub(earlier.cycles),
            instructions: instructions.into(),
        }
    }
}

/// Returns `ID_AA64DFR0_EL1.PMUVer` of the calling CPU.
pub(crate) fn version() -> u64 {
    id_field(ID_AA64DFR0, 8)
}

/// Returns the number of event counters of the calling CPU, which has performance monitors.
fn event_counters() -> u64 {
    PMCR_EL0.get() >> 11 & 0x1f
}

/// Returns true if the calling CPU counts cycles and instructions at EL2. A version of 0xf is one
/// that is not the architecture's.
pub(crate) fn exist() -> bool {
    !matches!(version(), 0 | 0xf) && event_counters() != 0
}

/// Starts the counters of the calling CPU, and keeps guests from them. A CPU without counters is
/// left as it is.
pub(crate) fn start() {
    /// `P`, `U` and `NSH` of a filter: no events at EL1 and EL0, but those at EL2.
    const AT_EL2: u64 = 1 << 31 | 1 << 30 | 1 << 27;
    /// The event `INST_RETIRED`.
    const INSTRUCTIONS: u64 = 0x8;
    /// `PMCR_EL0`: `LC`, `C`, `P` and `E`. All 64 bits of cycles, everything from zero.
    const ENABLE: u64 = 1 << 6 | 1 << 2 | 1 << 1 | 1;
    /// `PMCNTENSET_EL0`: the cycles, and event counter 0.
    const BOTH: u64 = 1 << 31 | 1;
    if !exist() {
        return;
    }

    MDCR_EL2.modify(
        MDCR_EL2::TPM.val(1) + MDCR_EL2::TPMCR.val(1) + MDCR_EL2::HPMN.val(event_counters()),
    );
    PMCCFILTR_EL0.set(AT_EL2);
    PMEVTYPER0_EL0.set(AT_EL2 | INSTRUCTIONS);
    PMCNTENSET_EL0.set(BOTH);
    PMCR_EL0.set(ENABLE);
    barrier::isb(barrier::SY);
}

/// Reads the counters. `exist` has the value of [`exist`].
#[inline]
pub(crate) fn read(exist: bool) -> Reading {
    // A read must not be executed before what it is to count.
    barrier::isb(barrier::SY);
    if exist {
        Reading {
            cycles: PMCCNTR_EL0.get(),
            instructions: PMEVCNTR0_EL0.get(),
        }
    } else {
        Reading {
            cycles: CNTPCT_EL0.get(),
            instructions: 0,
        }
    }
}
