//! Leaving the guest after it has handled all that was in its list registers, with so many LPIs pending. The
//! accesses of `ICH_*` registers are counted and asserted.

mod common;

use perf_host::runners::{PENDING, accesses};
use vgic::cpu_interface::software::Accesses;

fn main() {
    for pending in PENDING {
        let exit = accesses(pending).exit;
        let expected = Accesses {
            elrsr_reads: u64::from(pending > 0),
            // Whether the guest has enabled a group whose interrupts had to stay outside.
            misr_reads: u64::from(pending > 4),
            ..Accesses::default()
        };
        assert_eq!(exit, expected, "exit with {pending} pending");
        println!("vcpu_exit/{pending}: {} ICH reads, no writes", exit.total());
    }
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "vcpu_exit/");
    criterion.final_summary();
}
