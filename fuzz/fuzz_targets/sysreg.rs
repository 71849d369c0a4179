//! System registers: SGIs and deactivations from any vCPU, and a guest that acknowledges and ends what it
//! likes, while vCPUs move between CPUs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::{Op, run};

fuzz_target!(|ops: Vec<Op>| {
    run(true, &ops, |op| {
        !matches!(
            op,
            Op::Access { .. } | Op::Command { .. } | Op::RawCommand { .. } | Op::Poke { .. }
        )
    });
});
