//! MSIs, from the device's write to the state read by the vCPU: a new MSI, a pending MSI, an MSI of
//! an LPI in a list register. Loads: several threads to one vCPU, to vCPUs of their own, and during
//! moves and remappings of other LPIs.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "inject_");
    common::loads(&mut criterion, "inject_msi");
    criterion.final_summary();
}
