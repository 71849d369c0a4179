//! Data of one physical CPU, for all CPUs.
#![expect(unsafe_code)]
// UNSAFETY: `TPIDR_EL2` holds a reference, and each CPU's own data is used by that CPU only.

use alloc::vec::Vec;
use core::cell::OnceCell;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{Readable, TPIDR_EL2};
use spin::Once;

use super::rendezvous::Answers;
use super::this_cpu::ThisCpu;
use crate::memory::stage1::STACK_SIZE;

/// Bytes of the stack for reporting a fault of the hypervisor.
pub(crate) const EMERGENCY_STACK_SIZE: usize = 16 << 10;

/// Offsets of fields that assembly reads.
pub(crate) mod offsets {
    /// Offset of [`super::PerCpu::stack_top`].
    pub(crate) const STACK_TOP: usize = 0;
    /// Offset of [`super::PerCpu::emergency_top`].
    pub(crate) const EMERGENCY_TOP: usize = 8;
}

/// Data that only its own CPU may touch.
struct Own(OnceCell<ThisCpu>);

// SAFETY: `PerCpu::equip` and `PerCpu::this`, which reach the data, are called with the calling
// CPU's own `PerCpu` only.
unsafe impl Sync for Own {}
// SAFETY: the cell is empty while it moves, on the boot CPU. Its own CPU fills it later.
unsafe impl Send for Own {}

/// One physical CPU.
///
/// # Invariants
/// `TPIDR_EL2` of a CPU is 0 before the CPU is set up. From then on it is the address of the CPU's
/// own `PerCpu`, which lives for ever.
#[repr(C, align(128))]
pub(crate) struct PerCpu {
    /// Top of the stack for exits from the guest.
    pub(crate) stack_top: usize,
    /// Top of the stack for reporting a fault of the hypervisor.
    pub(crate) emergency_top: usize,
    /// Index among the CPUs, in the order of the device tree.
    pub(crate) index: usize,
    /// Affinity fields of `MPIDR_EL1`.
    pub(crate) affinity: u64,
    /// Answers to rendezvous.
    pub(crate) answers: Answers,
    is_up: AtomicBool,
    own: Own,
}

static ALL: Once<Vec<PerCpu>> = Once::new();

/// Stores the list of CPUs and returns it.
///
/// # Panics
/// If called twice.
pub(crate) fn init(cpus: Vec<PerCpu>) -> &'static [PerCpu] {
    assert!(!ALL.is_completed(), "the CPUs are known already");
    ALL.call_once(|| cpus)
}

/// Returns all CPUs, in order, or none before [`init`].
pub(crate) fn all() -> &'static [PerCpu] {
    ALL.get().map_or(&[], Vec::as_slice)
}

impl PerCpu {
    /// Returns the data of a CPU that has not been brought up. `stack_top` and `emergency_top` are
    /// the tops of its two stacks.
    pub(crate) fn new(index: usize, affinity: u64, stack_top: usize, emergency_top: usize) -> Self {
        Self {
            stack_top,
            emergency_top,
            index,
            affinity,
            answers: Answers::default(),
            is_up: AtomicBool::new(false),
            own: Own(OnceCell::new()),
        }
    }

    /// Returns the stack for exits from the guest.
    pub(crate) fn stack(&self) -> Range<usize> {
        self.stack_top - STACK_SIZE..self.stack_top
    }

    /// Returns the stack for reporting a fault of the hypervisor.
    pub(crate) fn emergency_stack(&self) -> Range<usize> {
        self.emergency_top - EMERGENCY_STACK_SIZE..self.emergency_top
    }

    /// Returns the calling CPU's data, or `None` before the CPU is set up.
    pub(crate) fn try_current() -> Option<&'static Self> {
        let address = TPIDR_EL2.get() as *const Self;
        // SAFETY: by the type's invariant.
        unsafe { address.as_ref() }
    }

    /// Returns the calling CPU's data. The CPU must be set up.
    #[inline]
    pub(crate) fn current() -> &'static Self {
        let address = TPIDR_EL2.get() as *const Self;
        debug_assert!(!address.is_null());
        // SAFETY: by the type's invariant. The register is not 0, because a CPU that runs a guest
        // has been set up.
        unsafe { &*address }
    }

    /// Stores the calling CPU's own data; the CPU's data is `self`. From now on the CPU answers
    /// rendezvous.
    ///
    /// # Panics
    /// If called twice.
    pub(super) fn equip(&self, own: ThisCpu) {
        assert!(self.own.0.set(own).is_ok(), "a CPU is brought up once");
        // Relaxed: a rendezvous that does not see the CPU came before the CPU had a vCPU.
        self.is_up.store(true, Ordering::Relaxed);
    }

    /// Returns true if the CPU has been brought up.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Returns the calling CPU's own data; the CPU's data is `self`.
    ///
    /// # Panics
    /// Before [`PerCpu::equip`].
    #[inline]
    pub(super) fn this(&self) -> &ThisCpu {
        (self.own.0.get()).expect("a CPU is brought up before it runs a guest")
    }

    /// Returns the calling CPU's own data; the CPU's data is `self`.
    ///
    /// # Safety
    /// After [`PerCpu::equip`].
    #[inline]
    pub(super) unsafe fn this_unchecked(&self) -> &ThisCpu {
        // SAFETY: by the caller's promise.
        unsafe { self.own.0.get().unwrap_unchecked() }
    }
}

/// Returns the affinity fields of an `MPIDR_EL1` value.
pub(crate) const fn affinity(mpidr: u64) -> u64 {
    mpidr & 0xff_00ff_ffff
}
