//! The start, the reset and the death of a VM.
//!
//! A VM ends by its own PSCI call, by a system error, or because it is killed. The CPU that ends it
//! marks it as ending and makes every other CPU answer a rendezvous: from then on no CPU has one of
//! its vCPUs. Then its interrupt controller is reset, or taken apart and freed after one more
//! rendezvous, because another CPU may be injecting an interrupt. Nothing of another VM is touched.
#![expect(unsafe_code)]
// UNSAFETY: frees the interrupt controller, and uses the contexts of vCPUs that no CPU runs.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

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

/// Wish that somebody has for a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Wish {
    /// The VM is killed.
    Death = 1,
    /// The VM, which is dead, is started.
    Life = 2,
}

/// True if a VM's wish may be open.
static WISHES: AtomicBool = AtomicBool::new(false);

/// State of a VM's life.
mod state {
    /// The VM has not been started, or has ended and been buried.
    pub(super) const DEAD: u8 = 0;
    /// CPUs may run its vCPUs.
    pub(super) const ALIVE: u8 = 1;
    /// A CPU is ending or resetting it.
    pub(super) const ENDING: u8 = 2;
}

/// Life of a VM.
#[derive(Default)]
pub(crate) struct Lifetime {
    /// One of [`state`].
    state: AtomicU8,
    /// Number of the [`Wish`] that is open; 0 if there is none.
    wish: AtomicU8,
    remains: Mutex<Remains>,
}

/// Remains of a VM, of all its deaths together.
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
    /// Returns true if CPUs may run vCPUs of the VM.
    #[inline]
    pub(crate) fn is_alive(&self) -> bool {
        // Acquire: pairs with the Release in `set`. The CPU that has started the VM has made its
        // controller.
        self.state.load(Ordering::Acquire) == state::ALIVE
    }

    /// Returns true if the VM has not been started, or nothing of its end is left to do.
    fn is_dead(&self) -> bool {
        // Acquire: pairs with the Release of the CPU that has buried the VM.
        self.state.load(Ordering::Acquire) == state::DEAD
    }

    /// Marks the VM as ending. Returns false if it is not alive.
    fn claim(&self) -> bool {
        // AcqRel: pairs with `is_alive`, and the winner sees what was done before.
        (self.state)
            .compare_exchange(
                state::ALIVE,
                state::ENDING,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Changes the state of a VM that is not alive. Called by the CPU that ends or starts it.
    fn set(&self, state: u8) {
        // Release: pairs with the Acquire in `is_alive` and `is_dead`.
        self.state.store(state, Ordering::Release);
    }

    /// Leaves a wish for the VM, in place of an earlier one. The next CPU without a vCPU fulfils it,
    /// and the calling CPU is made to become one.
    pub(crate) fn wish(&self, wish: Wish) {
        // Release, both: pairs with the Acquire in `fulfil`. A CPU that takes the flag finds the
        // wish.
        self.wish.store(wish as u8, Ordering::Release);
        WISHES.store(true, Ordering::Release);
        schedule::ask(ThisCpu::get().shared.index);
    }

    /// Returns what the VM's deaths have left so far.
    pub(crate) fn remains(&self) -> Remains {
        *self.remains.lock()
    }
}

/// Returns true if [`fulfil`] has something to do.
pub(crate) fn has_wishes() -> bool {
    // Relaxed: `fulfil` looks again.
    WISHES.load(Ordering::Relaxed)
}

/// Fulfils the wishes so far. The calling CPU has no vCPU.
pub(crate) fn fulfil(cpu: &ThisCpu) {
    // Acquire: pairs with the Release in `wish`.
    if !WISHES.swap(false, Ordering::Acquire) {
        return;
    }
    for vm in super::all() {
        let wish = vm.lifetime.wish.swap(0, Ordering::Acquire);
        if wish == Wish::Death as u8 {
            end(cpu, vm, End::Killed);
        } else if wish == Wish::Life as u8 && vm.lifetime.is_dead() {
            start(vm);
        }
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

/// Powers the first vCPU on. It loads the kernel in its turns, before it runs.
fn power_on(vm: &'static Vm) {
    let (entry, argument) = match &vm.boot {
        &Boot::Once { entry, argument } => (entry, argument),
        Boot::Modules(load) => {
            load.begin();
            (load.entry, load.tree)
        }
    };
    if let Some(devices) = &vm.devices {
        devices.start();
    }
    vm.lifetime.set(state::ALIVE);
    let first = &vm.vcpus()[0];
    let was_off = first.power.power_on(entry, argument);
    debug_assert!(was_off, "no vCPU of a VM that starts is on");
    schedule::wake(first);
}

/// Ends the VM's run. The calling CPU has no vCPU. Does nothing if another CPU has ended it.
pub(crate) fn end(cpu: &ThisCpu, vm: &'static Vm, end: End) {
    if !vm.lifetime.claim() {
        return;
    }
    stop(cpu, vm);
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
        let left = super::all().iter().filter(|vm| vm.lifetime.claim());
        left.for_each(|vm| {
            stop(cpu, vm);
            bury(cpu, vm);
        });
        report::finish(cpu, End::Off);
    }
}

/// Stops the vCPUs, the PCI functions and the console of a VM whose end the calling CPU has claimed.
fn stop(cpu: &ThisCpu, vm: &Vm) {
    rendezvous(cpu);
    if let Some(devices) = &vm.devices {
        devices.stop();
    }
    if let Some(console) = &vm.console {
        console.reset();
    }
    for vcpu in vm.vcpus() {
        vcpu.power.reset();
        // SAFETY: the VM is ending, and every CPU has given its vCPUs up.
        unsafe { vcpu.context() }.is_started = false;
    }
}

/// Returns true if every VM that the run waits for is dead.
fn is_over() -> bool {
    let all = super::all();
    let mut awaited = all.iter().filter(|vm| !vm.is_daemon);
    awaited.all(|vm| vm.lifetime.is_dead())
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
    let vgic = vm
        .take_vgic()
        .expect("a VM that was alive has a controller");
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
    vm.lifetime.set(state::DEAD);
}
