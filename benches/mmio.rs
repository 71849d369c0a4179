//! Trapped accesses of the registers that guests use while they run.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "mmio/");
    criterion.final_summary();
}
