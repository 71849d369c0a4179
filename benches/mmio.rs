//! Trapped accesses of the registers used by running guests. Loads: two threads, and 32, at one
//! ITS's command lock.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "mmio/");
    common::loads(&mut criterion, "contended");
    criterion.final_summary();
}
