//! Data of the calling CPU, which no other CPU may touch.
#![expect(unsafe_code)]
// UNSAFETY: assumes, without a check, that a CPU that has left the guest runs a vCPU.

use core::cell::Cell;

use scheduler::Here;
use vgic::Cpu;
use vgic::cpu_interface::ich::Ich;

use super::hyp_timer::HypTimer;
use super::percpu::PerCpu;
use crate::gic::Gic;
use crate::vcpu::Vcpu;
use crate::vm::controller::Controller;
use crate::vm::counts::Ledger;

/// The calling CPU, pinned.
pub(crate) type PinnedCpu<'c> = vgic::PinnedCpu<'c, Ich>;

/// vCPU that a CPU runs.
#[derive(Clone, Copy)]
pub(crate) struct Loaded {
    pub(crate) vcpu: &'static Vcpu,
    /// Interrupt controller of the vCPU's VM.
    pub(crate) vgic: &'static Controller,
}

/// The calling CPU: a reference proves that the code runs there.
pub(crate) struct ThisCpu {
    /// The CPU's data for all CPUs.
    pub(crate) shared: &'static PerCpu,
    /// The library's part of the CPU.
    pub(crate) vgic_cpu: Cpu<Ich>,
    /// The scheduler on the CPU.
    pub(crate) here: Here<'static>,
    /// The physical interrupt controller.
    pub(crate) gic: &'static Gic,
    /// The hypervisor's timer.
    pub(crate) timer: HypTimer,
    /// Counts of interrupts, on their way to the VMs.
    pub(crate) ledger: Ledger,
    loaded: Cell<Option<Loaded>>,
}

impl ThisCpu {
    /// Stores the own data of the calling CPU, whose data for all CPUs is `shared`.
    ///
    /// # Panics
    /// If called twice on a CPU.
    pub(crate) fn equip(
        shared: &'static PerCpu,
        vgic_cpu: Cpu<Ich>,
        here: Here<'static>,
        gic: &'static Gic,
    ) {
        shared.equip(Self {
            shared,
            vgic_cpu,
            here,
            gic,
            timer: HypTimer::default(),
            ledger: Ledger::default(),
            loaded: Cell::new(None),
        });
    }

    /// Returns the calling CPU, which has been brought up.
    #[inline]
    pub(crate) fn get() -> &'static Self {
        PerCpu::current().this()
    }

    /// Returns the calling CPU, and the vCPU that it runs.
    ///
    /// # Safety
    /// The CPU runs a vCPU.
    #[inline]
    pub(crate) unsafe fn with_loaded() -> (&'static Self, Loaded) {
        // SAFETY: a CPU that runs a vCPU has been brought up.
        let cpu = unsafe { PerCpu::current().this_unchecked() };
        // SAFETY: by the caller's promise.
        (cpu, unsafe { cpu.loaded.get().unwrap_unchecked() })
    }

    /// Returns the vCPU that the CPU runs, if it runs one.
    pub(crate) fn loaded(&self) -> Option<Loaded> {
        self.loaded.get()
    }

    /// Sets the vCPU that the CPU runs.
    pub(crate) fn set_loaded(&self, loaded: Option<Loaded>) {
        self.loaded.set(loaded);
    }
}
