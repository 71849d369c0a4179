//! ITS commands, meant well and not, from memory that may change as it is read, with MSIs between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::{Op, run};

fuzz_target!(|ops: Vec<Op>| {
    run(
        true,
        &ops,
        |op| !matches!(op, Op::Access { frame, .. } if frame % 6 < 4),
    );
});
