//! A vCPU: its registers, its power, its interrupts, and its place in the scheduler.
#![expect(unsafe_code)]
// UNSAFETY: the context belongs to the CPU that runs the vCPU.

pub(crate) mod context;
pub(crate) mod deferred;
pub(crate) mod delay;
pub(crate) mod interrupts;
pub(crate) mod power;
pub(crate) mod spinning;
pub(crate) mod switch;
pub(crate) mod vector;

use core::cell::UnsafeCell;

use scheduler::Entity;
use vgic::intid::VcpuId;
use vgic::trace::Counter;

use crate::cpu::el2_time::El2Time;
use crate::cpu::this_cpu::PinnedCpu;
use crate::vm::choice::{Choice, Note};
use crate::vm::controller::Controller;
use crate::vm::{self, Extent, Vm};
use context::Context;
use delay::Delay;
use power::Power;

/// Bits of a vCPU's number in an entity's number. The VM's number is above them.
const NUMBER_BITS: u32 = 12;

/// A vCPU. It lives for ever, as its VM does.
///
/// In this order, each group in cache lines of its own: the fields that nobody writes, which all
/// CPUs read; the scheduling state; the fields that other CPUs write for the vCPU; and the fields
/// of the CPU that runs the vCPU.
#[repr(C, align(128))]
pub(crate) struct Vcpu {
    pub(crate) vm: &'static Vm,
    /// Affinity fields of the `MPIDR_EL1` that the guest reads.
    pub(crate) affinity: u64,
    pub(crate) id: VcpuId,
    /// Scheduling state.
    pub(crate) entity: Entity,
    /// Power state, as PSCI has it.
    pub(crate) power: Power,
    /// Longest time from an interrupt to its delivery.
    pub(crate) delay: Delay,
    context: UnsafeCell<Context>,
    /// Longest time at EL2 of one exit.
    pub(crate) el2_time: El2Time,
    exits: [Counter; ExitReason::ALL.len()],
    /// Choice between direct injection and list registers, if the VM's vCPUs choose.
    choice: Choice,
}

// `context` begins a cache line.
const _: () = assert!(align_of::<Context>() == 64 && align_of::<Entity>() == 64);

// SAFETY: `context` is reached through `Vcpu::context` only, by one CPU at a time.
unsafe impl Sync for Vcpu {}

impl Vcpu {
    /// Returns a vCPU that is off. That of a VM with the whole machine runs on the CPU of its own
    /// number only.
    pub(crate) fn new(vm: &'static Vm, id: VcpuId, affinity: u64, weight: u32) -> Self {
        let number = (vm.index << NUMBER_BITS | id.index()) as u32;
        Self {
            vm,
            id,
            affinity,
            power: Power::new(),
            entity: match vm.extent {
                Extent::Whole => Entity::bound(number, weight, id.index()),
                Extent::Part => Entity::new(number, weight, 0),
            },
            el2_time: El2Time::default(),
            delay: Delay::default(),
            exits: Default::default(),
            choice: Choice::default(),
            context: UnsafeCell::new(Context::new()),
        }
    }

    /// Returns the vCPU of an entity.
    pub(crate) fn of(entity: &Entity) -> &'static Self {
        let number = entity.id() as usize;
        let vm = vm::all()[number >> NUMBER_BITS];
        &vm.vcpus()[number & ((1 << NUMBER_BITS) - 1)]
    }

    /// Returns the registers.
    ///
    /// # Safety
    /// The calling CPU runs the vCPU: it has picked it from its run queue and not given it up
    /// since, or no CPU runs the vCPU, because its VM is stopped. No other reference lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller's promise makes it exclusive"
    )]
    pub(crate) unsafe fn context(&self) -> &mut Context {
        // SAFETY: by the caller's promise, nobody else uses the context.
        unsafe { &mut *self.context.get() }
    }

    /// Returns true if MSIs are to reach the vCPU directly, on a machine with a GICv4.
    pub(crate) fn wants_direct(&self) -> bool {
        !self.vm.is_choosing || self.choice.is_direct()
    }

    /// Notes an event that the vCPU's choice depends on, if it has one, and carries a new choice
    /// out.
    #[inline]
    pub(crate) fn note(&self, vgic: &Controller, pin: &PinnedCpu<'_>, note: Note) {
        if self.vm.is_choosing
            && let Some(on) = self.choice.note(note)
        {
            // Without a virtual PE, and in a VM that is being saved, the vCPU stays as it is, and
            // chooses again after its term.
            let _ = vgic.set_direct_vcpu(pin, self.id, on);
        }
    }

    /// Counts an exit. Called by the CPU that runs the vCPU.
    #[inline]
    pub(crate) fn count(&self, reason: ExitReason) {
        self.exits[reason as usize].add(1);
    }

    /// Returns the number of exits for `reason` so far.
    pub(crate) fn exits(&self, reason: ExitReason) -> u64 {
        self.exits[reason as usize].get()
    }
}

/// Reason for an exit from the guest, or for a wake-up while the vCPU waits on its CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum ExitReason {
    /// `HVC` or `SMC`.
    Hypercall,
    /// Access to a frame of the interrupt controller, or to another emulated device.
    Mmio,
    /// Access to a system register of the interrupt controller.
    SystemRegister,
    /// `WFI`.
    Wfi,
    /// Kick, of another CPU or of this one ([`crate::gic::KICK_SGI`]).
    Kick,
    /// Maintenance interrupt: the list registers need attention.
    Maintenance,
    /// Physical PPI, the hypervisor's timer included.
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
