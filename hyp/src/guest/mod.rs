//! The guest: one Linux, or whatever else boots like it on this machine.

pub(crate) mod image;
pub(crate) mod power;
pub(crate) mod psci;

use spin::Once;

use crate::cpu::percpu::{self, PerCpu};
use crate::memory::stage2::Stage2;

/// The guest's machine.
pub(crate) struct Guest {
    /// Its memory and devices.
    pub(crate) stage2: Stage2,
}

static GUEST: Once<Guest> = Once::new();

/// Settles what the guest is.
pub(crate) fn init(guest: Guest) {
    GUEST.call_once(|| guest);
}

/// The guest, once there is one.
///
/// # Panics
/// Before [`init`].
pub(crate) fn get() -> &'static Guest {
    GUEST.get().expect("the guest is made before a CPU runs it")
}

/// The CPU whose vCPU has this affinity.
pub(crate) fn find(affinity: u64) -> Option<&'static PerCpu> {
    // The usual tree numbers the CPUs in order, and then the first guess is right.
    let all = percpu::all();
    let guess = all
        .get(affinity as usize)
        .filter(|cpu| cpu.affinity == affinity);
    guess.or_else(|| all.iter().find(|cpu| cpu.affinity == affinity))
}
