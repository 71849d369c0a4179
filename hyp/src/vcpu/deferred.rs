//! Long requests of the guest to its interrupt controller, executed on exits, one slice at a time.

use crate::cpu::clock;
use crate::cpu::this_cpu::{PinnedCpu, ThisCpu};
use crate::vm::controller::Controller;

/// Microseconds that the guest runs between two slices, if nothing else makes it exit.
const INTERVAL: u64 = 50;

/// Executes a slice. If work remains, a timer makes the guest exit for the next slice: the guest
/// may wait for the result without a trap.
#[cold]
pub(crate) fn advance(cpu: &ThisCpu, vgic: &Controller, pin: &PinnedCpu<'_>) {
    (vgic.advance(pin)).expect("this CPU is of the VM's domain");
    if vgic.has_deferred() {
        (cpu.timer).set_earlier(clock::now() + clock::ticks(INTERVAL));
    }
}
