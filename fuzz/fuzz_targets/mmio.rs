//! Accesses of every frame, in any order and width, from any vCPU, while vCPUs run and devices interrupt.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::{Op, run};

fuzz_target!(|input: (bool, Vec<Op>)| {
    run(input.0, &input.1, |op| {
        !matches!(op, Op::Command { .. } | Op::RawCommand { .. })
    });
});
