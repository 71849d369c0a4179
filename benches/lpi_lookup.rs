//! Lookups of an LPI by INTID: borrowed under an epoch guard, owned by a reference, and misses. The
//! tables have 1, 1024 and 65,536 LPIs, and one or several readers. Other tables serve as
//! baselines.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "lpi_lookup/");
    common::loads(&mut criterion, "lpi_lookup");
    criterion.final_summary();
}
