//! An MSI, from the device's write to what the vCPU will see of it: new, pending already, in a list register;
//! by several threads to one vCPU, to vCPUs of their own, and while others are moved or mapped anew.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "inject_");
    common::loads(&mut criterion, "inject_msi");
    criterion.final_summary();
}
