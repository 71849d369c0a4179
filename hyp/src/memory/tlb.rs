//! Maintenance of the calling CPU's TLB.
#![expect(unsafe_code)]
// UNSAFETY: TLB and cache maintenance instructions.

use core::arch::asm;

/// Invalidates the calling CPU's translations of EL1 and EL0 with the VMID in `VTTBR_EL2`, and its
/// instruction cache, which may be tagged by the VMID.
pub(crate) fn invalidate_vmid() {
    // SAFETY: dropping cached translations and instructions changes no memory as programs see it.
    // The first ISB makes the VMID current, the second the invalidation complete.
    unsafe {
        asm!(
            "isb",
            "tlbi vmalle1",
            "ic iallu",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}
