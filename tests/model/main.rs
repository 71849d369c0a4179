//! The library against a reference model: random operations are applied to both, and the state
//! observable by a guest is compared after each.
//!
//! The test runs 16 sequences, or the number in `PROPTEST_CASES`. `cargo xtask test` runs a million
//! operations with an optimised build. [`coverage`] must then have seen every listed situation
//! (`-- --nocapture` prints the counts). A counter-example is shrunk, printed and kept in
//! `tests/proptest-regressions`. Once understood, the counter-example gets a name in
//! `regressions.rs`.
#![cfg(not(miri))]
#![allow(unreachable_pub, reason = "modules of one program")]

#[path = "../common/attributes.rs"]
mod attributes;
mod coverage;
#[allow(
    dead_code,
    missing_docs,
    reason = "a module shared by several test programs, each using a part"
)]
#[path = "../common/gicv4.rs"]
mod gicv4;
mod machine;
mod operation;
#[path = "../reference/mod.rs"]
mod reference;
mod regressions;
mod strategies;

use machine::Machine;
use operation::Operation;
use proptest::prelude::*;
use vgic::cpu_interface::Vtr;
use vgic::cpu_interface::software::NEOVERSE;

/// Largest number of operations in a sequence. The average is half as large.
const LENGTH: usize = 400;

/// Applies every operation, comparing after each, and compares every register at the end.
fn check(operations: &[Operation]) {
    check_on(NEOVERSE, false, operations);
}

/// Applies and compares as [`check`], on CPUs with these properties, with a GICv4 or without.
fn check_on(vtr: Vtr, gicv4: bool, operations: &[Operation]) {
    let mut machine = Machine::new(vtr, gicv4);
    for operation in operations {
        machine.apply(operation);
    }
    machine.apply(&Operation::Compare(0));
    machine.finish();
}

#[test]
fn the_library_does_what_the_reference_does() {
    let config = ProptestConfig::default();
    let config = ProptestConfig {
        // The default suits smaller cases.
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => config.cases,
            None => 16,
        },
        max_shrink_iters: 20_000,
        source_file: Some(file!()),
        test_name: Some("the_library_does_what_the_reference_does"),
        ..config
    };

    // Most CPUs have four list registers. The architecture allows 1 to 16.
    let count = prop_oneof![4 => Just(4_u8), 1 => 1..4_u8, 1 => Just(16)];
    // Without the trap of ICC_DIR_EL1 alone, the registers common to both groups trap.
    let traps_dir = prop::bool::weighted(0.8);
    let vtr = (count, traps_dir).prop_map(|(list_registers, traps_dir)| Vtr {
        list_registers,
        traps_dir,
        ..NEOVERSE
    });
    let gicv4 = prop::bool::weighted(0.6);
    let operations = strategies::sequence(LENGTH);
    proptest!(config, |(vtr in vtr, gicv4 in gicv4, operations in operations)| {
        check_on(vtr, gicv4, &operations);
    });
    coverage::report();
}
