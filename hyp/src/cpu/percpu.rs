//! What belongs to one physical CPU.
#![expect(unsafe_code)]
// UNSAFETY: `TPIDR_EL2` holds a reference; a CPU's own part is shared with nobody.

use alloc::vec::Vec;
use core::cell::OnceCell;

use aarch64_cpu::registers::{Readable, TPIDR_EL2};
use spin::Once;
use vgic::Cpu;
use vgic::cpu_interface::ich::Ich;
use vgic::intid::VcpuId;
use vgic::sync::Counter;

use super::el2_time::El2Time;
use crate::guest::interrupts;
use crate::guest::power::Power;

/// Offsets of fields that assembly reads.
pub(crate) mod offsets {
    /// [`super::PerCpu::stack_top`].
    pub(crate) const STACK_TOP: usize = 0;
    /// [`super::PerCpu::emergency_top`].
    pub(crate) const EMERGENCY_TOP: usize = 8;
}

/// Why a CPU left the guest, or woke up while its vCPU waited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum ExitReason {
    /// `HVC` or `SMC`.
    Hypercall,
    /// An access to a frame of the interrupt controller.
    Mmio,
    /// A system register of the interrupt controller.
    SystemRegister,
    /// `WFI`.
    Wfi,
    /// Another CPU's call.
    Kick,
    /// The list registers need attention.
    Maintenance,
    /// A physical PPI.
    Ppi,
    /// A physical SPI.
    Spi,
    /// A physical LPI.
    Lpi,
    /// Anything else.
    Other,
}

impl ExitReason {
    /// All reasons.
    pub(crate) const ALL: [Self; 10] = [
        Self::Hypercall,
        Self::Mmio,
        Self::SystemRegister,
        Self::Wfi,
        Self::Kick,
        Self::Maintenance,
        Self::Ppi,
        Self::Spi,
        Self::Lpi,
        Self::Other,
    ];

    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hypercall => "hypercall",
            Self::Mmio => "mmio",
            Self::SystemRegister => "sysreg",
            Self::Wfi => "wfi",
            Self::Kick => "kick",
            Self::Maintenance => "maintenance",
            Self::Ppi => "ppi",
            Self::Spi => "spi",
            Self::Lpi => "lpi",
            Self::Other => "other",
        }
    }
}

/// What only its own CPU may touch.
struct CpuLocal(OnceCell<Cpu<Ich>>);

// SAFETY: `PerCpu::set_vgic_cpu` and `PerCpu::vgic_cpu` are called with the calling CPU's own `PerCpu` only, which
// `PerCpu::current` gives.
unsafe impl Sync for CpuLocal {}
// SAFETY: made empty on the boot CPU, filled on its own.
unsafe impl Send for CpuLocal {}

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
    /// The vCPU that lives here.
    pub(crate) vcpu: VcpuId,
    /// The affinity fields of `MPIDR_EL1`.
    pub(crate) affinity: u64,
    /// Whether the vCPU is on.
    pub(crate) power: Power,
    /// How long exits take.
    pub(crate) el2_time: El2Time,
    vgic_cpu: CpuLocal,
    exits: [Counter; ExitReason::ALL.len()],
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

/// The CPU with this affinity.
pub(crate) fn find(affinity: u64) -> Option<&'static PerCpu> {
    // The usual tree numbers the CPUs in order, and then the first guess is right.
    let guess = (all().get(affinity as usize)).filter(|cpu| cpu.affinity == affinity);
    guess.or_else(|| all().iter().find(|cpu| cpu.affinity == affinity))
}

impl PerCpu {
    /// A CPU that has not joined in yet, with the ends of its two stacks.
    pub(crate) fn new(index: usize, affinity: u64, stack_top: usize, emergency_top: usize) -> Self {
        Self {
            stack_top,
            emergency_top,
            index,
            vcpu: interrupts::vcpu_of(index),
            affinity,
            power: Power::new(),
            el2_time: El2Time::default(),
            vgic_cpu: CpuLocal(OnceCell::new()),
            exits: Default::default(),
        }
    }

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

    /// Makes the calling CPU, which this is, one that can run its vCPU.
    ///
    /// # Panics
    /// The second time.
    pub(crate) fn set_vgic_cpu(&self, cpu: Cpu<Ich>) {
        assert!(self.vgic_cpu.0.set(cpu).is_ok(), "a CPU joins once");
    }

    /// The calling CPU, which this is, as the interrupt controller knows it.
    ///
    /// # Panics
    /// Before [`PerCpu::set_vgic_cpu`].
    #[inline]
    pub(crate) fn vgic_cpu(&self) -> &Cpu<Ich> {
        self.vgic_cpu
            .0
            .get()
            .expect("a CPU joins before it runs a guest")
    }

    /// Counts an exit of the calling CPU, which this is.
    #[inline]
    pub(crate) fn count(&self, reason: ExitReason) {
        self.exits[reason as usize].add(1);
    }

    /// Exits for this reason so far.
    pub(crate) fn exits(&self, reason: ExitReason) -> u64 {
        self.exits[reason as usize].get()
    }
}

/// The affinity fields of an `MPIDR_EL1` value.
pub(crate) const fn affinity(mpidr: u64) -> u64 {
    mpidr & 0xff_00ff_ffff
}
