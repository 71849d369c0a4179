//! SGIs: to a near and a far vCPU, and to all other vCPUs.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "sgi");
    criterion.final_summary();
}
