//! Maintenance of TLBs.
#![expect(unsafe_code)]
// UNSAFETY: TLB and cache maintenance instructions.

use core::arch::asm;

/// Invalidates the calling CPU's translations of both stages with the VMID in `VTTBR_EL2`, and its
/// instruction cache, which may be tagged by the VMID.
pub(crate) fn invalidate_vmid() {
    // SAFETY: dropping cached translations and instructions changes no memory as programs see it.
    // The first barriers make tables that have changed visible and the VMID current, the last ones
    // the invalidation complete.
    unsafe {
        asm!(
            "dsb nshst",
            "isb",
            "tlbi vmalls12e1",
            "ic iallu",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Invalidates, on all CPUs, the translations of the VMID in `VTTBR_EL2`, after a change of its
/// tables.
pub(crate) fn invalidate_vmid_everywhere() {
    // SAFETY: dropping cached translations changes no memory as programs see it. The first barriers
    // make the change visible and the VMID current, the last ones the invalidation complete.
    unsafe {
        asm!(
            "dsb ishst",
            "isb",
            "tlbi vmalls12e1is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}
