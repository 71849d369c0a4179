//! Looking an LPI up by its INTID: borrowed under an epoch guard, owned by a reference, and in vain; among 1,
//! 1024 and 65,536, by one thread and by several, beside what others do.

mod common;

fn main() {
    let mut criterion = common::criterion();
    common::operations(&mut criterion, "lpi_lookup/");
    common::loads(&mut criterion, "lpi_lookup");
    criterion.final_summary();
}
