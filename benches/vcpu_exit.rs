//! Exit from the guest after its EOI of every interrupt in the list registers, with a number of
//! LPIs pending. The accesses of `ICH_*` registers are counted and asserted.

mod common;

use perf_host::runners::{PENDING, accesses};
use vgic::cpu_interface::software::Accesses;

fn main() {
    for pending in PENDING {
        let exit = accesses(pending).exit;
        let expected = Accesses {
            elrsr_reads: u64::from(pending > 0),
            // MISR shows a newly enabled group with interrupts outside the list registers.
            misr_reads: u64::from(pending > 4),
            // The guest has taken all that fit: the exit ends the maintenance interrupt.
            hcr_writes: u64::from(pending > 4),
            ..Accesses::default()
        };
        assert_eq!(exit, expected, "exit with {pending} pending");
        println!(
            "vcpu_exit/{pending}: {} ICH reads, {} writes",
            exit.total() - exit.hcr_writes,
            exit.hcr_writes
        );
    }
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "vcpu_exit/");
    criterion.final_summary();
}
