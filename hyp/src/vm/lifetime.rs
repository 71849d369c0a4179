//! The start, the reset and the death of a VM.
//!
//! A VM ends by its own PSCI call, by a system error, or because it is killed. The CPU that ends it
//! claims it and makes every other CPU answer a rendezvous: from then on no CPU has one of
//! its vCPUs. Then its interrupt controller is reset, or taken apart and freed after one more
//! rendezvous, because another CPU may be injecting an interrupt. Nothing of another VM is touched.
#![expect(unsafe_code)]
// UNSAFETY: frees the interrupt controller, and uses the contexts of vCPUs that no CPU runs.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use spin::Mutex;
use vgic::TeardownError;
use vgic::intid::Kind;

use super::console::set_line;
use super::controller::Controller;
use super::host::Mirror;
use super::{Boot, Extent, Vm, controller, saved, snapshot};
use crate::cpu::rendezvous::rendezvous;
use crate::cpu::this_cpu::ThisCpu;
use crate::println;
use crate::report;
use crate::schedule;
use crate::vcpu::power::PowerState;

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

/// Wish that somebody has for a VM: a bit each. The death comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Wish {
    /// The VM is killed.
    Death = 1 << 0,
    /// The VM, which is dead, is started.
    Life = 1 << 1,
    /// The VM is saved and restored in place.
    Save = 1 << 2,
    /// A snapshot is taken of the VM, and its run ends.
    Snapshot = 1 << 3,
    /// The VM moves to another machine, and its run here ends.
    Migration = 1 << 4,
}

/// True if a VM's wish may be open.
static WISHES: AtomicBool = AtomicBool::new(false);

/// True from the death on of the last VM that the run waits for.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// State of a VM's life.
mod state {
    /// The VM has not been started, or has ended and been buried.
    pub(super) const DEAD: u8 = 0;
    /// CPUs may run its vCPUs.
    pub(super) const ALIVE: u8 = 1;
    /// A CPU is starting, resetting or ending it.
    pub(super) const CHANGING: u8 = 2;
    /// A CPU is saving it in place.
    pub(super) const SAVING: u8 = 3;
}

/// Life of a VM.
#[derive(Default)]
pub(crate) struct Lifetime {
    /// One of [`state`].
    state: AtomicU8,
    /// Bits of each [`Wish`] that is open.
    wishes: AtomicU8,
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

    /// Returns true if a CPU is starting, resetting or ending the VM.
    fn is_changing(&self) -> bool {
        // Relaxed: a look, after which the VM may be in any state.
        self.state.load(Ordering::Relaxed) == state::CHANGING
    }

    /// Returns true if a CPU is saving the VM in place.
    fn is_saving(&self) -> bool {
        // Relaxed: as in `is_changing`.
        self.state.load(Ordering::Relaxed) == state::SAVING
    }

    /// Returns true if the VM has not been started, or nothing of its end is left to do.
    pub(crate) fn is_dead(&self) -> bool {
        // Acquire: pairs with the Release of the CPU that has buried the VM. SeqCst: see `claim`.
        self.state.load(Ordering::SeqCst) == state::DEAD
    }

    /// Makes the calling CPU the one that changes a VM in the state `from`. Returns false if the VM
    /// is in another state.
    fn claim(&self, from: u8) -> bool {
        self.claim_for(from, state::CHANGING)
    }

    /// Makes the calling CPU the one that makes the VM of a snapshot. Returns false if the VM is
    /// not dead.
    pub(super) fn claim_birth(&self) -> bool {
        self.claim(state::DEAD)
    }

    /// Leaves the VM dead, by the CPU that has claimed its birth.
    pub(super) fn give_up_birth(&self) {
        self.set(state::DEAD);
    }

    /// Makes the calling CPU the one that saves the VM in place. Returns false if the VM is not
    /// alive.
    pub(super) fn claim_save(&self) -> bool {
        self.claim_for(state::ALIVE, state::SAVING)
    }

    /// Lets the VM go on, by the CPU that has claimed it. Its vCPUs are still to be woken.
    pub(super) fn go_on(&self) {
        self.set(state::ALIVE);
    }

    /// Moves a VM from one state to another. Returns false if the VM is in a third one.
    fn claim_for(&self, from: u8, to: u8) -> bool {
        // Acquire: pairs with the Release in `set`, by which the last claim ended. SeqCst: see
        // `start`, and `is_over`, of which two CPUs that bury the last two VMs must not both miss
        // the other's.
        (self.state)
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Ends the change of the VM, by the CPU that has claimed it.
    fn set(&self, state: u8) {
        // Release: pairs with the Acquire in `is_alive` and `is_dead`. SeqCst: see `claim`.
        self.state.store(state, Ordering::SeqCst);
    }

    /// Leaves a wish for the VM. The next CPU without a vCPU fulfils it, and the calling CPU is
    /// made to become one.
    pub(crate) fn wish(&self, wish: Wish) {
        // Release, both: pairs with the Acquire in `fulfil`. A CPU that takes the flag finds the
        // wish.
        self.wishes.fetch_or(wish as u8, Ordering::Release);
        WISHES.store(true, Ordering::Release);
        // The kick is for a CPU that is on its way into a guest.
        let cpu = ThisCpu::get();
        schedule::ask(cpu.shared.index);
        cpu.gic.kick(cpu.shared.index);
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

/// Fulfils the wishes so far, but for those of VMs that another CPU is changing: they stay open.
/// The calling CPU has no vCPU.
pub(crate) fn fulfil(cpu: &ThisCpu) {
    // Acquire: pairs with the Release in `wish`.
    if !WISHES.swap(false, Ordering::Acquire) {
        return;
    }
    for vm in super::all() {
        let wishes = vm.lifetime.wishes.swap(0, Ordering::Acquire);
        let has = |wish: Wish| wishes & wish as u8 != 0;
        let lifetime = &vm.lifetime;
        let is_killed = !has(Wish::Death) || end(cpu, vm, End::Killed) || lifetime.is_dead();
        if !is_killed {
            lifetime.wish(Wish::Death);
        }
        // A start waits for the death that was wished for with it.
        if has(Wish::Life) && (!is_killed || !start(vm) && lifetime.is_changing()) {
            lifetime.wish(Wish::Life);
        }
        if has(Wish::Save) {
            saved::fulfil(cpu, vm);
        }
        if has(Wish::Snapshot) {
            snapshot::take(cpu, vm);
        }
        if has(Wish::Migration) {
            snapshot::migrate(cpu, vm);
        }
    }
}

/// Creates the interrupt controller of a dead VM, and starts its first vCPU. Returns false, and
/// does nothing, if the VM is not dead or the run is over.
///
/// # Panics
/// If the VM's configuration is refused.
pub(crate) fn start(vm: &'static Vm) -> bool {
    if !vm.lifetime.claim(state::DEAD) {
        return false;
    }
    // SeqCst, as the claim: the CPU that ends the run sets the flag and then looks for VMs that are
    // not dead. Either it finds this one, or the flag is seen here.
    if IS_OVER.load(Ordering::SeqCst) {
        vm.lifetime.set(state::DEAD);
        return false;
    }
    let pin = ThisCpu::get().vgic_cpu.pin();
    vm.set_vgic(controller::create(vm, Mirror::default(), &pin));
    power_on(vm);
    true
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

/// Ends the VM's run. The calling CPU has no vCPU. Returns false, and does nothing, if the VM is
/// not alive. The end of a VM that is being saved comes after the save.
pub(crate) fn end(cpu: &ThisCpu, vm: &'static Vm, end: End) -> bool {
    while !vm.lifetime.claim(state::ALIVE) {
        if !vm.lifetime.is_saving() {
            return false;
        }
        // The CPU that saves the VM may wait for this one.
        rendezvous(cpu);
    }
    stop(cpu, vm);
    if end == End::Reset && vm.extent == Extent::Part {
        reset(cpu, vm);
        return true;
    }
    conclude(cpu, vm, end);
    true
}

/// Ends the run of a VM that has been stopped.
fn conclude(cpu: &ThisCpu, vm: &'static Vm, end: End) {
    bury(cpu, vm);
    if vm.extent == Extent::Whole {
        report::finish(cpu, end);
    }
    println!("hyp: {} is dead", vm.name);
    finish_if_over(cpu);
}

/// Ends the run if no VM is left that it waits for. The calling CPU has no vCPU.
pub(crate) fn finish_if_over(cpu: &ThisCpu) {
    if is_over() && !IS_OVER.swap(true, Ordering::SeqCst) {
        bury_the_rest(cpu);
        report::finish(cpu, End::Off);
    }
}

/// Ends every VM that is left. The calling CPU is the one that ends the run.
fn bury_the_rest(cpu: &ThisCpu) {
    while let Some(vm) = super::all().iter().find(|vm| !vm.lifetime.is_dead()) {
        if vm.lifetime.claim(state::ALIVE) {
            stop(cpu, vm);
            bury(cpu, vm);
        } else {
            // Another CPU is changing the VM, and may wait for this one.
            rendezvous(cpu);
        }
    }
}

/// Ends the run of a VM that the calling CPU has claimed for a save, and whose snapshot it has
/// taken.
pub(super) fn end_saved(cpu: &ThisCpu, vm: &'static Vm) {
    stop(cpu, vm);
    conclude(cpu, vm, End::Off);
}

/// Wakes every vCPU of the VM that is on, after [`Lifetime::go_on`].
pub(super) fn wake_all(vm: &'static Vm) {
    let vcpus = vm.vcpus().iter();
    vcpus
        .filter(|vcpu| vcpu.power.state() == PowerState::On)
        .for_each(schedule::wake);
}

/// Stops the vCPUs, the PCI functions and the console of a VM whose end the calling CPU has
/// claimed.
fn stop(cpu: &ThisCpu, vm: &Vm) {
    rendezvous(cpu);
    if let Some(devices) = &vm.devices {
        devices.stop();
    }
    if let Some(console) = &vm.console {
        console.reset();
    }
    if let Some(entropy) = &vm.entropy {
        entropy.reset();
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
    // A reset leaves the lines as they are: the console's is low.
    set_line(vgic, &cpu.vgic_cpu.pin(), false);
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
    take_apart(cpu, vm, vgic);
    vm.lifetime.remains.lock().deaths += 1;
    vm.lifetime.set(state::DEAD);
}

/// Takes an interrupt controller of the VM apart and frees it. No CPU uses it.
///
/// # Panics
/// If a CPU uses it.
pub(super) fn take_apart(cpu: &ThisCpu, vm: &Vm, vgic: Box<Controller>) {
    let report = match vgic.teardown(&cpu.vgic_cpu.pin()) {
        Ok(report) => report,
        Err(error) => panic!("{}: {error}", vm.name),
    };
    vm.lifetime.remains.lock().add(&Remains {
        references: report.references,
        pending: report.pending,
        withdrawn: report.withdrawn,
        ..Remains::default()
    });
}
