//! Marks of events for a hypervisor that measures by itself, with the feature `calls`.
//!
//! The hypervisor calls enclose the markers for the plugin.

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::calls::{ABOUT, MARK, PART, WHOLE};
use crate::cpu::{hypercall, relax};
use crate::event::Event;
use crate::host::Console;

/// Rounds of the event with nothing in it.
const ROUNDS: u32 = 2000;

/// True between the marks of an event.
static IS_MEASURING: AtomicBool = AtomicBool::new(false);

/// Begins the event of a marker's `immediate`.
#[inline(always)]
pub(crate) fn begin(immediate: u16) {
    IS_MEASURING.store(true, Relaxed);
    hypercall(MARK, u64::from(immediate & 0xff), 0, 0);
}

/// Ends the event.
#[inline(always)]
pub(crate) fn end() {
    hypercall(MARK, 0, 0, 0);
    IS_MEASURING.store(false, Relaxed);
}

/// Waits until no event is measured: a sleep is no part of one.
pub(crate) fn wait_for_end() {
    while IS_MEASURING.load(Relaxed) {
        relax();
    }
}

/// Measures the event with nothing in it. Returns true if the VM has the whole machine.
///
/// # Panics
/// If the hypervisor does not measure.
pub(crate) fn calibrate() -> bool {
    let _ = writeln!(Console, "guest: Marks");
    for _ in 0..ROUNDS {
        let result = hypercall(MARK, Event::END as u64, 0, 0);
        assert!(result == 0, "the hypervisor does not measure");
        hypercall(MARK, 0, 0, 0);
    }
    match hypercall(ABOUT, 0, 0, 0) {
        WHOLE => true,
        PART => false,
        other => panic!("unknown answer {other:#x}"),
    }
}
