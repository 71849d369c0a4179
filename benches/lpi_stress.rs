//! Devices against vCPUs: LPIs accepted, and delivered, while guests acknowledge and end them. Named
//! `vcpus/devices/events` of each device; all to one vCPU, spread, and while other LPIs are moved.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "lpi_stress/");
    common::loads(&mut criterion, "lpi_stress");
    criterion.final_summary();
}
