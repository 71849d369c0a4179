//! What belongs to one physical CPU.
#![expect(unsafe_code)]
// UNSAFETY: `TPIDR_EL2` holds a reference.

use alloc::vec::Vec;

use aarch64_cpu::registers::{Readable, TPIDR_EL2};
use spin::Once;

use crate::guest::power::Power;

/// Offsets of fields that assembly reads.
pub(crate) mod offsets {
    /// [`super::PerCpu::stack_top`].
    pub(crate) const STACK_TOP: usize = 0;
    /// [`super::PerCpu::emergency_top`].
    pub(crate) const EMERGENCY_TOP: usize = 8;
}

/// One physical CPU, and the one vCPU that lives on it.
///
/// # Invariants
/// `TPIDR_EL2` of a CPU is 0, before it is set up, or the address of its own `PerCpu`, which lives for
/// ever.
#[repr(C, align(128))]
pub(crate) struct PerCpu {
    /// Where the stack ends that every exit from the guest begins on.
    pub(crate) stack_top: usize,
    /// Where the stack ends that a fault of the hypervisor itself is reported on.
    pub(crate) emergency_top: usize,
    /// Place among the CPUs, and among the vCPUs: the order of the device tree.
    pub(crate) index: usize,
    /// The affinity fields of `MPIDR_EL1`.
    pub(crate) affinity: u64,
    /// Whether the vCPU is on.
    pub(crate) power: Power,
}

static ALL: Once<Vec<PerCpu>> = Once::new();

/// Settles which CPUs there are.
///
/// # Panics
/// If that has been done.
pub(crate) fn init(cpus: Vec<PerCpu>) -> &'static [PerCpu] {
    assert!(!ALL.is_completed(), "the CPUs are known already");
    ALL.call_once(|| cpus)
}

/// All CPUs, in order; none before [`init`].
pub(crate) fn all() -> &'static [PerCpu] {
    ALL.get().map_or(&[], Vec::as_slice)
}

impl PerCpu {
    /// The calling CPU, or `None` before it is set up.
    pub(crate) fn try_current() -> Option<&'static Self> {
        let address = TPIDR_EL2.get() as *const Self;
        // SAFETY: by the type's invariant.
        unsafe { address.as_ref() }
    }

    /// The calling CPU, which must be set up.
    #[inline]
    pub(crate) fn current() -> &'static Self {
        let address = TPIDR_EL2.get() as *const Self;
        debug_assert!(!address.is_null());
        // SAFETY: by the type's invariant, and what runs a guest has been set up.
        unsafe { &*address }
    }
}

/// The affinity fields of an `MPIDR_EL1` value.
pub(crate) const fn affinity(mpidr: u64) -> u64 {
    mpidr & 0xff_00ff_ffff
}
