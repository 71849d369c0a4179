//! Devices against vCPUs: LPIs accepted and delivered, with guests acknowledging and ending LPIs.
//! Names give `vcpus/devices/events`, with events per device. All LPIs go to one vCPU, are spread,
//! or are spread with other LPIs being moved.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "lpi_stress/");
    common::loads(&mut criterion, "lpi_stress");
    criterion.final_summary();
}
