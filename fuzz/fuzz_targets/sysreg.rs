//! System registers: SGIs and deactivations from any vCPU, and a guest that acknowledges and ends what it
//! likes, while vCPUs move between CPUs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::operation::Attack;
use vgic_fuzz::run;

fuzz_target!(|data: &[u8]| run(Attack::Sysreg, data));
