//! The IRQ and the FIQ of a guest with a GICv2, driven by the hypervisor: `HCR_EL2.VI` and `VF`.
//! For other guests, whose lines the hardware drives, both bits are 0.

use aarch64_cpu::registers::{HCR_EL2, ReadWriteable};
use vgic::VirtualLines;

/// Drives the lines, from the next exception return on, which synchronizes the register.
pub(crate) fn set(lines: VirtualLines) {
    HCR_EL2.modify(HCR_EL2::VI.val(lines.irq.into()) + HCR_EL2::VF.val(lines.fiq.into()));
}

/// Lowers both lines, for a vCPU that leaves the CPU.
#[cold]
pub(crate) fn clear() {
    set(VirtualLines::default());
}
