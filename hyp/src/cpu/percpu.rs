//! Data of one physical CPU.
#![expect(unsafe_code)]
// UNSAFETY: `TPIDR_EL2` holds a reference, and each CPU's `vgic::Cpu` is used by that CPU only.

use alloc::vec::Vec;
use core::cell::OnceCell;

use aarch64_cpu::registers::{Readable, TPIDR_EL2};
use spin::Once;
use vgic::Cpu;
use vgic::cpu_interface::ich::Ich;
use vgic::intid::VcpuId;
use vgic::trace::Counter;

use super::el2_time::El2Time;
use crate::vcpu::interrupts;
use crate::vcpu::power::Power;

/// Offsets of fields that assembly reads.
pub(crate) mod offsets {
    /// Offset of [`super::PerCpu::stack_top`].
    pub(crate) const STACK_TOP: usize = 0;
    /// Offset of [`super::PerCpu::emergency_top`].
    pub(crate) const EMERGENCY_TOP: usize = 8;
}

/// Reason for an exit from the guest, or for a wake-up while the vCPU is blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum ExitReason {
    /// `HVC` or `SMC`.
    Hypercall,
    /// Access to a frame of the interrupt controller.
    Mmio,
    /// Access to a system register of the interrupt controller.
    SystemRegister,
    /// `WFI`.
    Wfi,
    /// SGI of another CPU ([`crate::gic::KICK_SGI`]).
    Kick,
    /// Maintenance interrupt: the list registers need attention.
    Maintenance,
    /// Physical PPI.
    Ppi,
    /// Physical SPI.
    Spi,
    /// Physical LPI.
    Lpi,
    /// Any other reason.
    Other,
}

impl ExitReason {
    /// Every reason, in the order of the report.
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

    /// Returns the reason's name in reports.
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

/// The calling CPU, pinned.
pub(crate) type PinnedCpu<'c> = vgic::PinnedCpu<'c, Ich>;

/// Data that only its own CPU may touch.
struct CpuLocal(OnceCell<Cpu<Ich>>);

// SAFETY: `PerCpu::set_vgic_cpu` and `PerCpu::vgic_cpu` are called with the calling CPU's own
// `PerCpu` only, which `PerCpu::current` returns.
unsafe impl Sync for CpuLocal {}
// SAFETY: the cell is empty while it moves, on the boot CPU. Its own CPU fills it later.
unsafe impl Send for CpuLocal {}

/// One physical CPU, and the guest's vCPU that runs on it.
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
    /// Index among the CPUs, and among the vCPUs, in the order of the device tree.
    pub(crate) index: usize,
    /// The guest's vCPU on this CPU.
    pub(crate) vcpu: VcpuId,
    /// Affinity fields of `MPIDR_EL1`.
    pub(crate) affinity: u64,
    /// Power state of the vCPU.
    pub(crate) power: Power,
    /// Longest time at EL2 of one exit.
    pub(crate) el2_time: El2Time,
    vgic_cpu: CpuLocal,
    exits: [Counter; ExitReason::ALL.len()],
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

/// Returns the CPU with this affinity.
pub(crate) fn find(affinity: u64) -> Option<&'static PerCpu> {
    // Device trees usually number the CPUs in order, and then the first guess is right.
    let guess = (all().get(affinity as usize)).filter(|cpu| cpu.affinity == affinity);
    guess.or_else(|| all().iter().find(|cpu| cpu.affinity == affinity))
}

impl PerCpu {
    /// Returns the data of a CPU that has not been brought up. `stack_top` and `emergency_top` are
    /// the tops of its two stacks.
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

    /// Stores `cpu`, the library's part of the calling CPU, whose data `self` is.
    ///
    /// # Panics
    /// If called twice.
    pub(crate) fn set_vgic_cpu(&self, cpu: Cpu<Ich>) {
        assert!(self.vgic_cpu.0.set(cpu).is_ok(), "a CPU is brought up once");
    }

    /// Returns the library's part of the calling CPU, whose data `self` is.
    ///
    /// # Panics
    /// Before [`PerCpu::set_vgic_cpu`].
    #[inline]
    pub(crate) fn vgic_cpu(&self) -> &Cpu<Ich> {
        self.vgic_cpu
            .0
            .get()
            .expect("a CPU is brought up before it runs a guest")
    }

    /// Counts an exit of the calling CPU, whose data `self` is.
    #[inline]
    pub(crate) fn count(&self, reason: ExitReason) {
        self.exits[reason as usize].add(1);
    }

    /// Returns the number of exits for `reason` so far.
    pub(crate) fn exits(&self, reason: ExitReason) -> u64 {
        self.exits[reason as usize].get()
    }
}

/// Returns the affinity fields of an `MPIDR_EL1` value.
pub(crate) const fn affinity(mpidr: u64) -> u64 {
    mpidr & 0xff_00ff_ffff
}
