//! Entering the guest with so many LPIs pending: into free list registers, again with the same, and in turns
//! of two vCPUs. The accesses of `ICH_*` registers are counted and asserted.

mod common;

use perf_host::runners::{PENDING, accesses};
use vgic::cpu_interface::software::Accesses;

fn main() {
    for pending in PENDING {
        let counted = accesses(pending);
        // More than the registers hold: which groups the guest has enabled, and that it is to come back.
        let overflows = u64::from(pending > 4);
        let enter = Accesses {
            lr_writes: pending.min(4),
            vmcr_reads: overflows,
            hcr_writes: overflows,
            ..Accesses::default()
        };
        assert_eq!(counted.enter, enter, "entry with {pending} pending");
        // The registers are looked at once; with more pending than they hold, what was watched for too.
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
    for group in ["vcpu_enter/", "vcpu_reenter/", "vcpu_switch/"] {
        common::operations(&mut criterion, group);
    }
    criterion.final_summary();
}
