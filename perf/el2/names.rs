//! Names of the Linux functions that the report tells apart. This file is part of the client, which
//! prints their addresses, and of the report.

/// Prefixes of the functions that do the library's work: those of `arch/arm64/kvm/vgic` and of
/// `hyp/vgic-v3-sr.c`, and the handlers of trapped `ICC_*` registers.
///
/// Functions that they call elsewhere, such as locks, lookups in trees and memory, are not counted.
/// For hyp everything counts that was inlined into the library: the kernel's count is the lower
/// one.
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

/// Vectors while a guest runs. The second are those of CPUs with speculation workarounds.
pub(crate) const VECTORS: [&str; 2] = ["__kvm_hyp_vector", "__bp_harden_hyp_vecs"];
