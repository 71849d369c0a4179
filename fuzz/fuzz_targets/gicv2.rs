//! A guest of a GICv2: any access of its frames by any vCPU.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vgic_fuzz::gicv2::run(data));
