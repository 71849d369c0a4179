//! ITS commands, valid and invalid, from memory changing between reads, with MSIs in between.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::operation::Attack;
use vgic_fuzz::run;

fuzz_target!(|data: &[u8]| run(Attack::Its, data));
