//! The library against a reference model: random operations are done to both, and what a guest can
//! observe is compared after each.
//!
//! 64 sequences unless `PROPTEST_CASES` says otherwise; `cargo xtask test` asks for a million operations, with
//! an optimised build, after which [`coverage`] must have seen everything on its list (`-- --nocapture` shows
//! it). A counter-example is shrunk, printed, kept in `tests/proptest-regressions`, and
//! understood: then it gets a name in `regressions.rs`.
#![cfg(not(miri))]
#![allow(unreachable_pub, reason = "rooms of one program")]

mod coverage;
mod machine;
mod operation;
#[path = "../reference/mod.rs"]
mod reference;
mod regressions;
mod strategies;

use machine::Machine;
use operation::Operation;
use proptest::prelude::*;

/// Operations in a sequence, at most; half as many on average.
const LENGTH: usize = 400;

/// Does them all, comparing after each, and every register at the end.
fn check(operations: &[Operation]) {
    check_on(4, operations);
}

/// On CPUs with so many list registers.
fn check_on(list_registers: u8, operations: &[Operation]) {
    let mut machine = Machine::new(list_registers);
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
        // The default is for smaller ones.
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => config.cases,
            None => 64,
        },
        max_shrink_iters: 20_000,
        source_file: Some(file!()),
        test_name: Some("the_library_does_what_the_reference_does"),
        ..config
    };
    // Most CPUs have four list registers; the architecture has 1 to 16.
    let count = prop_oneof![4 => Just(4_u8), 1 => 1..4_u8, 1 => Just(16)];
    proptest!(config, |(count in count, operations in strategies::sequence(LENGTH))| {
        check_on(count, &operations);
    });
    coverage::report();
}
