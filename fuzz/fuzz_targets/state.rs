//! States and tables of anybody's: a VM restored from encoded bytes, and one restored by KVM's
//! attributes from a hostile guest's tables.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::{attributes, restore};

fuzz_target!(|data: &[u8]| match data.split_first() {
    Some((choice, data)) if choice & 1 == 0 => restore(data),
    Some((_, data)) => attributes::run(data),
    None => {}
});
