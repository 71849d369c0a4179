//! What the guest has asked its interrupt controller for at length: done a slice at a time, on exits.

use aarch64_cpu::registers::{CNTFRQ_EL0, Readable};
use vgic::epoch::CpuPin;

use super::Controller;
use crate::cpu::{el2_time, hyp_timer};

/// How long the guest has the CPU between two slices, in microseconds, if nothing else makes it exit.
const INTERVAL: u64 = 50;

/// Does a slice. If there is more, the alarm makes the guest exit for the next: it may wait for the outcome
/// without a single access.
#[cold]
pub(crate) fn advance(vgic: &Controller, pin: &CpuPin<'_>) {
    vgic.advance(pin);
    if vgic.has_deferred() {
        hyp_timer::set(el2_time::now() + CNTFRQ_EL0.get() * INTERVAL / 1_000_000);
    }
}
