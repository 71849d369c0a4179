//! The calling vCPU: system registers, barriers, interrupt masks.
#![expect(unsafe_code)]
// UNSAFETY: MRS, MSR and the like.

use core::arch::asm;

/// Most vCPUs that the guest uses.
pub(crate) const MAX_VCPUS: usize = 8;

/// Reads a system register.
#[macro_export]
macro_rules! mrs {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: the read has no effect on memory. An absent register is an exception that is
        // handled.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack)) };
        value
    }};
}

/// Writes a system register.
#[macro_export]
macro_rules! msr {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: a write of a register that changes how memory is seen is justified by its caller.
        // An absent register is an exception that is handled.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack));
        };
    }};
}

/// Returns the number of the calling vCPU, in the order of the redistributors.
pub(crate) fn index() -> usize {
    mrs!("tpidr_el1") as usize
}

/// Returns the affinity of a vCPU on QEMU's `virt` board, with clusters of 16, in the layout of
/// `MPIDR_EL1`.
pub(crate) fn affinity(index: usize) -> u64 {
    ((index / 16) << 8 | (index % 16)) as u64
}

/// Returns the time in ticks.
pub(crate) fn now() -> u64 {
    synchronize();
    mrs!("cntvct_el0")
}

/// Returns the ticks in a second.
pub(crate) fn frequency() -> u64 {
    mrs!("cntfrq_el0")
}

/// Makes writes of system registers take effect.
pub(crate) fn synchronize() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) };
}

/// Makes earlier writes visible before anything that follows.
pub(crate) fn publish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}

/// Unmasks interrupts.
pub(crate) fn unmask() {
    // SAFETY: the handler is ready for them.
    unsafe { asm!("msr daifclr, #3", options(nostack)) };
}

/// Masks interrupts.
pub(crate) fn mask() {
    // SAFETY: delays interrupts only.
    unsafe { asm!("msr daifset, #3", options(nostack)) };
}

/// Waits for an interrupt, masked or not.
pub(crate) fn wait() {
    // SAFETY: waits only.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
}
