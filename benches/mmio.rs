//! Trapped accesses of the registers used by running guests.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "mmio/");
    criterion.final_summary();
}
