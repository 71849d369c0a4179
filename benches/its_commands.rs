//! ITS commands, from the guest's write of `GITS_CWRITER` to completion: single commands and a full
//! queue.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "its_commands/");
    criterion.final_summary();
}
