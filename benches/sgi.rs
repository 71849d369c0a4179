//! SGIs: to one vCPU, near and far, and to all others.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "sgi");
    criterion.final_summary();
}
