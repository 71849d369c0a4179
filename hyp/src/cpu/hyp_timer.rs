//! The hypervisor's own timer on each CPU: `CNTHP`.

use aarch64_cpu::registers::{CNTHP_CTL_EL2, Writeable};

use super::registers::CNTHP_CVAL_EL2;

/// Its interrupt: a PPI by the number that Arm's Base System Architecture gives it.
pub(crate) const PPI: u32 = 26;

/// Interrupts the calling CPU at this time, in ticks of the system counter.
pub(crate) fn set(at: u64) {
    CNTHP_CVAL_EL2.set(at);
    CNTHP_CTL_EL2.write(CNTHP_CTL_EL2::ENABLE::SET);
}

/// Does not.
pub(crate) fn stop() {
    CNTHP_CTL_EL2.set(0);
}
