//! Entry into the guest with a number of LPIs pending: into free list registers, a re-entry with
//! the list registers unchanged, switches between two vCPUs, and moves of one between two CPUs. The
//! accesses of `ICH_*` registers are counted and asserted.

mod common;

use perf_host::runners::{PENDING, accesses};
use vgic::cpu_interface::software::Accesses;

fn main() {
    for pending in PENDING {
        let counted = accesses(pending);

        // With more pending than list registers, entry reads the guest's group enables and sets
        // NPIE.
        let overflows = u64::from(pending > 4);
        let enter = Accesses {
            lr_writes: pending.min(4),
            vmcr_reads: overflows,
            hcr_writes: overflows,
            barriers: u64::from(pending > 0),
            ..Accesses::default()
        };
        assert_eq!(counted.enter, enter, "entry with {pending} pending");

        // Re-entry reads ELRSR once, and MISR once if more is pending than the list registers hold.
        let reenter = counted.reenter.total();
        let most = match pending {
            0 => 0,
            1..=4 => 1,
            _ => 2,
        };
        assert!(
            reenter <= most,
            "re-entry with {pending} pending: {:?}",
            counted.reenter
        );

        println!(
            "vcpu_enter/{pending}: {} ICH writes, {} reads; re-entry: {} of both",
            enter.lr_writes + enter.hcr_writes,
            enter.vmcr_reads,
            reenter
        );
    }

    let mut criterion = common::criterion();
    for group in ["vcpu_enter/", "vcpu_reenter/", "vcpu_switch/", "vcpu_move/"] {
        common::operations(&mut criterion, group);
    }
    criterion.final_summary();
}
