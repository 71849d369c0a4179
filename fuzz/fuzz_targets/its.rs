//! ITS commands, meant well and not, from memory that may change as it is read, with MSIs between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::operation::Attack;
use vgic_fuzz::run;

fuzz_target!(|data: &[u8]| run(Attack::Its, data));
