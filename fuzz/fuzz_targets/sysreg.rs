//! System registers: SGIs and deactivations from any vCPU, arbitrary acknowledgements and EOIs of
//! the guest, and vCPUs moving between CPUs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::operation::Attack;
use vgic_fuzz::run;

fuzz_target!(|data: &[u8]| run(Attack::Sysreg, data));
