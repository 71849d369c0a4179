//! Names of the Linux functions that the report tells apart, and the map of a Linux's code for the
//! plugin. This file is part of the client, which writes the map, and of the report.

use std::fmt::Write as _;

/// Prefixes of the functions that do the library's work: those of `arch/arm64/kvm/vgic` and of
/// `hyp/vgic-v3-sr.c`, and the handlers of trapped `ICC_*` registers.
pub(crate) const VGIC: [&str; 10] = [
    "vgic_",
    "kvm_vgic_",
    "__vgic_",
    "__gic_v3_",
    "access_gic_",
    "dispatch_mmio_",
    "update_lpi_config",
    "update_affinity",
    "its_sync_lpi_pending_table",
    "extract_bytes",
];

/// Prefixes of other functions by which the rest of KVM enters the virtual interrupt controller: the
/// bus that finds the frame of an address, and the translation of an MSI, which is in
/// `arch/arm64/kvm/vgic` too. For hyp the library does both.
pub(crate) const ENTRIES: [&str; 2] = ["kvm_io_bus_", "kvm_set_msi"];

/// Vectors while a guest runs. The second are those of CPUs with speculation workarounds.
#[allow(dead_code, reason = "only the report counts exits")]
pub(crate) const VECTORS: [&str; 2] = ["__kvm_hyp_vector", "__bp_harden_hyp_vecs"];

/// Vectors of the kernel itself.
const KERNEL_VECTORS: &str = "vectors";

/// Bytes of a stack of the kernel (`THREAD_SIZE`), of a thread or for interrupts.
const STACK: u64 = 16 << 10;

/// Tells whether a function is the virtual interrupt controller's.
pub(crate) fn is_vgic(name: &str) -> bool {
    VGIC.iter().any(|prefix| name.starts_with(prefix))
}

/// Tells whether all that a function executes and calls counts as the virtual interrupt
/// controller's.
pub(crate) fn is_entry(name: &str) -> bool {
    is_vgic(name) || ENTRIES.iter().any(|prefix| name.starts_with(prefix))
}

/// Formats the plugin's map of the code: `functions` are sorted by their addresses.
pub(crate) fn code_map(functions: &[(u64, &str)]) -> String {
    let mut text = format!("stack {STACK:x}\n");
    for (index, &(start, name)) in functions.iter().enumerate() {
        let _ = writeln!(text, "function {start:x} {name}");
        if is_entry(name) {
            let next = functions[index..].iter().find(|next| next.0 != start);
            let end = next.map_or(u64::MAX, |next| next.0);
            let _ = writeln!(text, "vgic {start:x} {end:x}");
        }
        if name == KERNEL_VECTORS {
            let _ = writeln!(text, "vectors {start:x}");
        }
    }
    text
}
