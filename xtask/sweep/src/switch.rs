//! Selection of a mutant at run time. A copy of the library has this file as `sync/sweep.rs`.
//!
//! `VGIC_SWEEP` names the mutant by its number. `VGIC_SWEEP_REACHED` names a file. When the program
//! ends, it writes into the file the numbers of the mutants whose code it has reached, and whether
//! it has beside another thread.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::fmt::Write as _;

/// Most mutants.
const MOST: usize = 4096;

/// The number of the selected mutant; `UNREAD` at first.
static SELECTED: AtomicUsize = AtomicUsize::new(UNREAD);

/// Before the environment has been read.
const UNREAD: usize = usize::MAX;

/// No mutant.
const NONE: usize = usize::MAX - 1;

/// No mutant: the code that is reached is recorded.
const RECORDING: usize = usize::MAX - 2;

/// The mutants whose code has been reached.
static REACHED: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];

/// The mutants whose code has been reached since the execution had a second thread.
static BESIDE: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];

/// Returns true if the mutant is selected.
#[inline]
pub(crate) fn is(mutant: usize) -> bool {
    let selected = match SELECTED.load(Ordering::Relaxed) {
        UNREAD => read(),
        selected => selected,
    };
    if selected == RECORDING {
        record(mutant);
    }
    selected == mutant
}

/// Records that the code of a mutant has been reached.
#[cold]
fn record(mutant: usize) {
    REACHED[mutant].store(true, Ordering::Relaxed);
    if is_beside_another() {
        BESIDE[mutant].store(true, Ordering::Relaxed);
    }
}

/// Returns true if another thread than the first has reached the code of a mutant in this
/// execution.
#[cfg(loom)]
fn is_beside_another() -> bool {
    loom::lazy_static! {
        static ref FIRST: loom::thread::ThreadId = loom::thread::current().id();
        static ref OTHERS: AtomicBool = AtomicBool::new(false);
    }
    if loom::thread::current().id() != *FIRST {
        OTHERS.store(true, Ordering::Relaxed);
    }
    OTHERS.load(Ordering::Relaxed)
}

/// Returns true: nothing is known of other threads.
#[cfg(not(loom))]
fn is_beside_another() -> bool {
    true
}

/// Returns `weaker` if the mutant is selected, and `order` otherwise.
#[inline]
pub(crate) fn order(mutant: usize, weaker: Ordering, order: Ordering) -> Ordering {
    if is(mutant) { weaker } else { order }
}

/// Returns a guard that guards nothing if the mutant is selected, and the one taken otherwise.
#[inline]
pub(crate) fn guard<'g>(
    mutant: usize,
    take: impl FnOnce() -> &'g crossbeam_epoch::Guard,
) -> &'g crossbeam_epoch::Guard {
    if is(mutant) {
        // SAFETY: none. This is the fault.
        unsafe { crossbeam_epoch::unprotected() }
    } else {
        take()
    }
}

/// Reads the environment.
#[cold]
#[inline(never)]
fn read() -> usize {
    let recording = std::env::var_os("VGIC_SWEEP_REACHED").is_some();
    let selected = std::env::var("VGIC_SWEEP");
    let selected = match selected.ok().and_then(|text| text.parse().ok()) {
        Some(mutant) => mutant,
        None if recording => RECORDING,
        None => NONE,
    };
    if SELECTED.swap(selected, Ordering::Relaxed) == UNREAD && recording {
        // SAFETY: the function may be called at any time in the life of the process.
        unsafe { atexit(write_reached) };
    }
    selected
}

unsafe extern "C" {
    /// Has the C library call a function when the process exits.
    fn atexit(function: extern "C" fn()) -> core::ffi::c_int;
}

/// Writes the numbers of the mutants whose code has been reached.
extern "C" fn write_reached() {
    let mut text = std::string::String::new();
    for (number, (reached, beside)) in REACHED.iter().zip(&BESIDE).enumerate() {
        if reached.load(Ordering::Relaxed) {
            let beside = beside.load(Ordering::Relaxed);
            let _ = writeln!(text, "{number} {beside}");
        }
    }
    if let Some(path) = std::env::var_os("VGIC_SWEEP_REACHED") {
        let _ = std::fs::write(path, text);
    }
}
