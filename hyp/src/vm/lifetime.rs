//! The start, the reset and the death of a VM.
//!
//! A VM ends by its own PSCI call, by a system error, or because it is killed. The CPU that ends it
//! marks it as ending and makes every other CPU answer a rendezvous: from then on no CPU has one of
//! its vCPUs. Then its interrupt controller is reset, or taken apart and freed after one more
//! rendezvous, because another CPU may be injecting an interrupt. Nothing of another VM is touched.
#![expect(unsafe_code)]
// UNSAFETY: frees the interrupt controller, and uses the contexts of vCPUs that no CPU runs.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, Ordering};

use spin::Mutex;
use vgic::TeardownError;
use vgic::intid::Kind;

use super::{Boot, Share, Vm, controller};
use crate::cpu::rendezvous::rendezvous;
use crate::cpu::this_cpu::ThisCpu;
use crate::println;
use crate::report;
use crate::schedule;

/// End of a VM's run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum End {
    /// `SYSTEM_OFF`.
    Off = 1,
    /// `SYSTEM_RESET`.
    Reset = 2,
    /// The hypervisor kills the VM.
    Killed = 3,
}

/// Life of a VM.
#[derive(Default)]
pub(crate) struct Lifetime {
    /// Number of the [`End`] that is in progress or has come; 0 while the VM lives.
    end: AtomicU8,
    remains: Mutex<Remains>,
}

/// What the deaths of a VM have left, all together.
#[derive(Clone, Copy, Default)]
pub(crate) struct Remains {
    pub(crate) deaths: u64,
    pub(crate) resets: u64,
    /// References left.
    pub(crate) references: u64,
    /// Pending interrupts, by kind.
    pub(crate) pending: [u64; Kind::COUNT],
    /// Pending states that the teardowns withdrew, by kind.
    pub(crate) withdrawn: [u64; Kind::COUNT],
}

impl Remains {
    /// Adds what is left of another VM.
    pub(crate) fn add(&mut self, other: &Self) {
        self.deaths += other.deaths;
        self.resets += other.resets;
        self.references += other.references;
        for kind in Kind::ALL {
            self.pending[kind as usize] += other.pending[kind as usize];
            self.withdrawn[kind as usize] += other.withdrawn[kind as usize];
        }
    }
}

impl Lifetime {
    /// Returns true if no CPU may run a vCPU of the VM.
    #[inline]
    pub(crate) fn is_ending(&self) -> bool {
        // Acquire: pairs with the exchange in `claim`.
        self.end.load(Ordering::Acquire) != 0
    }

    /// Marks the VM as ending. Returns false if it ends or is dead already.
    fn claim(&self, end: End) -> bool {
        // AcqRel: the winner sees the end of an earlier life, and pairs with `is_ending`.
        (self.end)
            .compare_exchange(0, end as u8, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Marks the VM as alive.
    fn revive(&self) {
        // Release: pairs with the Acquire in `is_ending`.
        self.end.store(0, Ordering::Release);
    }

    /// Returns what the VM's deaths have left so far.
    pub(crate) fn remains(&self) -> Remains {
        *self.remains.lock()
    }
}

/// Creates the interrupt controller of a dead VM, and starts its first vCPU.
///
/// # Panics
/// If the VM's configuration is refused.
pub(crate) fn start(vm: &'static Vm) {
    let pin = ThisCpu::get().vgic_cpu.pin();
    vm.set_vgic(controller::create(vm, &pin));
    power_on(vm);
}

/// Powers the first vCPU on. It loads the kernel in its time slices, before it runs.
fn power_on(vm: &'static Vm) {
    let (entry, argument) = match &vm.boot {
        &Boot::Once { entry, argument } => (entry, argument),
        Boot::Modules(load) => {
            load.begin();
            (load.entry, load.tree)
        }
    };
    vm.lifetime.revive();
    let first = &vm.vcpus()[0];
    let was_off = first.power.power_on(entry, argument);
    debug_assert!(was_off, "no vCPU of a VM that starts is on");
    schedule::wake(first);
}

/// Ends the VM's run. The calling CPU has no vCPU. Does nothing if another CPU has ended it.
pub(crate) fn end(cpu: &ThisCpu, vm: &'static Vm, end: End) {
    if !vm.lifetime.claim(end) {
        return;
    }
    rendezvous(cpu);

    if let Some(console) = &vm.console {
        console.reset();
    }
    for vcpu in vm.vcpus() {
        vcpu.power.reset();
        // SAFETY: the VM is ending, and every CPU has given its vCPUs up.
        unsafe { vcpu.context() }.is_started = false;
    }
    if end == End::Reset && vm.share == Share::Part {
        reset(cpu, vm);
        return;
    }

    bury(cpu, vm);
    if vm.share == Share::Machine {
        report::finish(cpu, end);
    }
    println!("hyp: {} is dead", vm.name);
    if is_over() {
        let left = super::all()
            .iter()
            .filter(|vm| vm.lifetime.claim(End::Killed));
        left.for_each(|vm| {
            rendezvous(cpu);
            bury(cpu, vm);
        });
        report::finish(cpu, End::Off);
    }
}

/// Returns true if every VM that the run waits for is dead.
fn is_over() -> bool {
    let all = super::all();
    let mut awaited = all.iter().filter(|vm| !vm.is_daemon);
    awaited.all(|vm| vm.lifetime.is_ending() && vm.vgic().is_none())
}

/// Resets the VM's interrupt controller and starts the VM again. No CPU has a vCPU of it.
fn reset(cpu: &ThisCpu, vm: &'static Vm) {
    let vgic = vm.vgic().expect("the VM was alive");
    loop {
        let pin = cpu.vgic_cpu.pin();
        match vgic.reset(&pin) {
            Ok(()) => break,
            // Too many unmapped LPIs wait for other CPUs, which go on.
            Err(TeardownError::Unreclaimed) => pin.collect_garbage(),
            Err(error) => panic!("{} is not reset: {error}", vm.name),
        }
        rendezvous(cpu);
    }
    vm.lifetime.remains.lock().resets += 1;
    power_on(vm);
}

/// Takes the VM's interrupt controller apart and frees it. No CPU has a vCPU of the VM.
fn bury(cpu: &ThisCpu, vm: &Vm) {
    let Some(vgic) = vm.take_vgic() else {
        return;
    };
    rendezvous(cpu);
    // SAFETY: the pointer came from a box, and is taken once. Every CPU has answered a rendezvous
    // since: none uses the controller.
    let vgic = unsafe { Box::from_raw(vgic.as_ptr()) };
    let report = match vgic.teardown(&cpu.vgic_cpu.pin()) {
        Ok(report) => report,
        Err(error) => panic!("{}: {error}", vm.name),
    };
    vm.lifetime.remains.lock().add(&Remains {
        deaths: 1,
        resets: 0,
        references: report.references,
        pending: report.pending,
        withdrawn: report.withdrawn,
    });
}
