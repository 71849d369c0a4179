//! Embedders that call the public API in any order, with any CPU, pin, vCPU, VM and domain.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vgic_fuzz::actor::{Actor, Shared};
use vgic_fuzz::input::Input;

/// Largest number of calls: VMs make an input slow.
const CALLS: usize = 600;

fuzz_target!(|data: &[u8]| {
    let shared = Shared::default();
    let mut actor = Actor::new(&shared, Input::new(data));
    actor.act(CALLS);
    actor.finish();
});
