//! The public API in any order: every call returns, with `Ok` or a typed error, and a fresh VM
//! works afterwards. Miri runs these tests too, and finds undefined behaviour.

#[allow(
    unreachable_pub,
    reason = "a module shared with a fuzz target, of which it is public"
)]
mod actor;

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a module shared by several test programs, each using a part"
)]
#[path = "../common/gicv4.rs"]
mod gicv4;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;

use actor::{Actor, Choices, Shared};

/// Pseudorandom numbers.
struct Random {
    state: u64,
}

impl Random {
    fn new(seed: u64) -> Self {
        let state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { state }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl Choices for Random {
    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }

    fn number(&mut self) -> u64 {
        let shift = self.below(64);
        self.next() >> shift
    }

    fn is_over(&self) -> bool {
        false
    }
}

/// Acts alone, with many seeds.
#[test]
fn in_any_order_every_call_returns() {
    let (seeds, steps) = if cfg!(miri) { (1, 25) } else { (60, 1000) };
    for seed in 0..seeds {
        let shared = Shared::default();
        let mut actor = Actor::new(&shared, Random::new(seed));
        actor.act(steps);
        actor.finish();
    }
}

/// Acts with other threads, which make, run and drop the same VMs.
#[test]
fn in_any_order_on_several_threads() {
    let (threads, seeds, steps) = if cfg!(miri) { (2, 1, 10) } else { (4, 8, 1500) };
    for seed in 0..seeds {
        let (shared, all_done) = (Shared::default(), Barrier::new(threads));
        std::thread::scope(|scope| {
            for thread in 0..threads as u64 {
                let (shared, all_done) = (&shared, &all_done);
                scope.spawn(move || {
                    let mut actor = Actor::new(shared, Random::new(seed << 8 | thread));
                    let acted = catch_unwind(AssertUnwindSafe(|| actor.act(steps)));
                    all_done.wait();
                    acted.unwrap();
                    actor.finish();
                });
            }
        });
    }
}
