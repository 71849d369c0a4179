//! Saves in place: a VM is stopped at a random moment, its interrupt controller is saved, and a new
//! one is restored and takes the old one's place.
//!
//! The guest must notice nothing but time. An embedder that migrates a VM does the same between two
//! machines; here every guest can be run with it, the one that tests the controller foremost.
//!
//! 1. The CPU that saves claims the VM and takes the controller away: from then on others find
//!    none. After a rendezvous no CPU has a vCPU of the VM, or is in a call of the controller.
//! 2. The controller is saved, and taken apart.
//! 3. A new one is made, with the state in its binary form, and is what others find.
//! 4. Interrupts of the machine that came meanwhile are forwarded to it, and the vCPUs are woken.
//!    One that waited for an interrupt wakes up for nothing, as the architecture allows. One that
//!    was suspended stays so.
//!
//! The events of PCI functions stay mapped in the physical ITS: the new controller takes the old
//! one's [`Mirror`](super::host::Mirror).
#![expect(unsafe_code)]
// UNSAFETY: frees the interrupt controller, and uses the contexts of vCPUs that no CPU runs.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use spin::Mutex;
use vgic::Blocked;

use super::Vm;
use super::console::set_line;
use super::controller::{self, Controller};
use super::lifetime::{Wish, take_apart};
use super::options::Options;
use crate::cpu::clock::{now, ticks};
use crate::cpu::rendezvous::{free_garbage, rendezvous};
use crate::cpu::this_cpu::ThisCpu;
use crate::schedule;
use crate::vcpu::power::PowerState;
use crate::vcpu::{Vcpu, interrupts};

/// Number of the CPU whose timer fires at the moments.
const CPU: usize = 0;

/// Moment that does not come.
const NEVER: u64 = u64::MAX;

/// The next moment of any VM, in ticks.
static NEXT: AtomicU64 = AtomicU64::new(NEVER);

/// Random moments at which a VM is saved in place.
pub(crate) struct Moments {
    /// Longest time from one moment to the next, in ticks.
    longest: u64,
    random: Mutex<ChaCha8Rng>,
    /// Time of the next moment, in ticks, or [`NEVER`] during a save.
    next: AtomicU64,
    /// Saves so far.
    saves: AtomicU64,
}

impl Moments {
    /// Returns the moments that the options of a VM ask for, if they do.
    pub(crate) fn of(options: &Options) -> Option<Self> {
        let milliseconds = u64::from(options.saved?);
        // Evenly spread up to twice the average.
        let longest = ticks(2000 * milliseconds);
        let moments = Self {
            longest,
            random: Mutex::new(ChaCha8Rng::seed_from_u64(options.seed.into())),
            next: AtomicU64::new(0),
            saves: AtomicU64::new(0),
        };
        moments.choose();
        Some(moments)
    }

    /// Chooses the next moment.
    fn choose(&self) {
        let after = self.random.lock().next_u64() % self.longest;
        let next = now() + after;
        // Relaxed, here and below: the moments are times and counts of their own.
        self.next.store(next, Ordering::Relaxed);
        NEXT.fetch_min(next, Ordering::Relaxed);
    }

    /// Returns the number of saves so far.
    pub(crate) fn saves(&self) -> u64 {
        self.saves.load(Ordering::Relaxed)
    }
}

/// Returns the next moment at which CPU number `cpu` calls [`look`], if there is one.
pub(crate) fn next(cpu: usize) -> Option<u64> {
    let next = NEXT.load(Ordering::Relaxed);
    (cpu == CPU && next != NEVER).then_some(next)
}

/// Leaves the wish to save each VM whose moment has come, if the calling CPU, whose data is `cpu`,
/// looks after that.
pub(crate) fn look(cpu: &ThisCpu) {
    let now = now();
    if next(cpu.shared.index).is_none_or(|next| next > now) {
        return;
    }
    NEXT.store(NEVER, Ordering::Relaxed);
    for vm in super::all() {
        let Some(moments) = &vm.moments else {
            continue;
        };
        if moments.next.load(Ordering::Relaxed) <= now {
            // The next one is chosen after this save, so that the guest has its time in between.
            moments.next.store(NEVER, Ordering::Relaxed);
            vm.lifetime.wish(Wish::Save);
        } else {
            NEXT.fetch_min(moments.next.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Interrupts of the machine that arrive for a VM that is being saved: SPIs and LPIs, by their
/// physical INTIDs. `None` while the VM is not.
#[derive(Default)]
pub(crate) struct Held(Mutex<Option<BTreeSet<u32>>>);

impl Held {
    /// Keeps a physical interrupt for the VM's next interrupt controller, if the VM is being saved.
    /// Returns false if it is not: the interrupt is the VM's by now, or nobody's.
    pub(crate) fn keep(&self, intid: u32) -> bool {
        let mut held = self.0.lock();
        held.as_mut().map(|held| held.insert(intid)).is_some()
    }
}

/// Saves and restores a VM in place, if it is alive, and chooses the next moment. The calling CPU
/// has no vCPU.
pub(super) fn fulfil(cpu: &ThisCpu, vm: &'static Vm) {
    let is_saved = vm.lifetime.claim_save();
    if is_saved {
        save_in_place(cpu, vm);
    }
    if let Some(moments) = &vm.moments {
        moments.saves.fetch_add(is_saved.into(), Ordering::Relaxed);
        moments.choose();
    }
}

/// Saves and restores a VM, which the calling CPU has claimed, in place.
///
/// # Panics
/// If the VM cannot be saved, or its state not be restored.
fn save_in_place(cpu: &ThisCpu, vm: &'static Vm) {
    *vm.held.0.lock() = Some(BTreeSet::new());
    let old = vm.take_vgic().expect("the VM was alive");
    rendezvous(cpu);
    // SAFETY: the pointer came from a box, and is taken once. Every CPU has answered a rendezvous
    // since: none uses the controller.
    let old = unsafe { Box::from_raw(old.as_ptr()) };

    let saved = old.save(&cpu.vgic_cpu.pin());
    let saved = saved.unwrap_or_else(|error| panic!("{} is not saved: {error}", vm.name));
    let bytes = postcard::to_allocvec(&saved).expect("a state has a binary form");
    drop(saved);
    let mirror = old.host().take_mirror();
    take_apart(cpu, vm, old);
    // Nobody is left to free it but the next controller's guest, which may not do much.
    free_garbage(cpu);

    let state = postcard::from_bytes(&bytes).expect("the binary form is that of a state");
    let new = {
        let pin = cpu.vgic_cpu.pin();
        let new = controller::create(vm, mirror, &pin);
        let restored = new.restore(&pin, &state);
        restored.unwrap_or_else(|error| panic!("{} is not restored: {error}", vm.name));
        new
    };
    resume(cpu, vm, new);
}

/// Gives a VM that is being saved its new interrupt controller, and lets it run.
fn resume(cpu: &ThisCpu, vm: &'static Vm, vgic: Box<Controller>) {
    let on = vm.vcpus().iter();
    let on = on.filter(|vcpu| vcpu.power.state() == PowerState::On);
    let woken: Vec<&Vcpu> = on
        .filter(|vcpu| !stays_suspended(cpu, &vgic, vcpu))
        .collect();

    let held = {
        // Under the lock: a CPU that has found no controller keeps its interrupt before, or finds
        // this one afterwards. By then the VM is alive, so that a wake-up is none for nothing.
        let mut held = vm.held.0.lock();
        vm.lifetime.go_on();
        vm.set_vgic(vgic);
        mem::take(&mut *held)
    };
    {
        let pin = cpu.vgic_cpu.pin();
        for intid in held.into_iter().flatten() {
            interrupts::take_again(cpu, &pin, intid);
        }
        if let (Some(console), Some(vgic)) = (&vm.console, vm.vgic()) {
            console.repeat(|high| set_line(vgic, &pin, high));
        }
    }
    woken.into_iter().for_each(schedule::wake);
}

/// Returns true if a vCPU was suspended, and goes on to be: no interrupt is pending, and no timer
/// has fired. The scheduler knows its deadline. No CPU runs the vCPU, and no other CPU knows the
/// controller.
fn stays_suspended(cpu: &ThisCpu, vgic: &Controller, vcpu: &Vcpu) -> bool {
    // SAFETY: the VM is being saved: no CPU runs the vCPU.
    let context = unsafe { vcpu.context() };
    let resumes_later = vcpu.power.has_start() && context.is_started;
    // One that has been woken by now was powered off, for its resumption.
    if !resumes_later || !vgic.is_powered_on(vcpu.id) {
        return false;
    }
    let deadline = context.deadline(vcpu.vm.clock_offset());
    if deadline.is_some_and(|deadline| deadline <= now()) {
        return false;
    }

    let pin = cpu.vgic_cpu.pin();
    (vgic.enter(&pin, vcpu.id)).expect("the vCPU is on, and on no CPU");
    // The exit reads the status of registers that the entry has written.
    barrier::isb(barrier::SY);
    let blocked = vgic.exit(&pin, vcpu.id);
    let blocked = blocked.and_then(|()| vgic.block(&pin, vcpu.id));
    let blocked = blocked.and_then(|blocked| vgic.vcpu_put(&pin, vcpu.id).map(|()| blocked));
    blocked.expect("the vCPU has just been entered here") != Blocked::No
}
