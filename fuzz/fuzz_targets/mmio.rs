//! Accesses of every frame, in any order and width, from any vCPU, with running vCPUs and
//! interrupting devices.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::operation::Attack;
use vgic_fuzz::run;

fuzz_target!(|data: &[u8]| run(Attack::Mmio, data));
