//! CPUs and the vCPUs that they run: which one, from when to when.
//!
//! A CPU picks a vCPU ([`run`]), loads it ([`load`]), and gives it up ([`leave`]) when it waits for
//! an interrupt and another can run, when its turn is over, when it is off, or when its VM is
//! ending. In between, exits come back to the guest without a word to the scheduler, which is asked
//! only after an interrupt ([`attend`]).
//!
//! A vCPU that waits for an interrupt stays loaded while nothing else can run, and the CPU sleeps.
//! Its timers then run in hardware. Those of a vCPU that is on no CPU are a deadline in the timer
//! queue of the CPU that gave it up.
#![expect(unsafe_code)]
// UNSAFETY: enters the guest, and uses the context of the vCPU that the calling CPU runs.

use aarch64_cpu::asm::barrier;
use scheduler::{Counts, Here, Parameters, Scheduler};
use spin::Once;
use vgic::intid::VcpuId;

use crate::cpu::clock::{self, now};
use crate::cpu::this_cpu::{Loaded, ThisCpu};
use crate::exception::enter_guest;
use crate::exception::frame::Frame;
use crate::gic;
use crate::vcpu::context::stop_timers;
use crate::vcpu::power::PowerState;
use crate::vcpu::{Vcpu, deferred, interrupts, spinning};
use crate::vm::Extent;
use crate::vm::controller::Controller;
use crate::vm::lifetime::{self, End};

static SCHEDULER: Once<Scheduler> = Once::new();

/// Reason why a CPU gives its vCPU up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leave {
    /// Another vCPU's turn has come, or the CPU has to start or kill a VM.
    Preempted,
    /// The vCPU waits for an interrupt.
    Blocked,
    /// The vCPU powers itself off.
    Off,
    /// The vCPU was suspended, and resumes in its reset state.
    Resumed,
    /// The vCPU ends its VM's run.
    End(End),
    /// The VM is ending.
    Ended,
}

/// Creates the scheduler of `cpus` CPUs.
pub(crate) fn init(cpus: usize) {
    SCHEDULER.call_once(|| Scheduler::new(cpus, parameters()));
}

/// Returns the parameters: two vCPUs have turns of 2 ms, more have shorter ones. The shortest is
/// for the guests' locks: each CPU that waits in the queue of a spin lock passes the lock on in a
/// turn of its own.
fn parameters() -> Parameters {
    let millisecond = clock::ticks(1000);
    Parameters {
        latency: 4 * millisecond,
        least_turn: millisecond / 8,
        brief_turn: millisecond / 256,
        granularity: millisecond / 2,
    }
}

/// Returns the longest time, in microseconds, for which one vCPU keeps another of its weight
/// waiting: its turn, another that it is owed after a sleep, and what it must owe to be preempted.
pub(crate) fn wait_bound_us() -> u64 {
    let parameters = parameters();
    // Two vCPUs have the longest turns: half the latency.
    let ticks = parameters.latency + parameters.granularity;
    clock::microseconds(ticks)
}

/// Returns the scheduler's counts of CPU number `cpu`.
pub(crate) fn counts(cpu: usize) -> Counts {
    scheduler().counts(cpu)
}

fn scheduler() -> &'static Scheduler {
    SCHEDULER
        .get()
        .expect("the scheduler is made before a vCPU")
}

/// Returns the scheduler on CPU number `cpu`, for the CPU itself.
pub(crate) fn on(cpu: usize) -> Here<'static> {
    scheduler().on(cpu)
}

/// Wakes a vCPU: it runs, or looks for interrupts again. Its news was published before.
pub(crate) fn wake(vcpu: &'static Vcpu) {
    let cpu = ThisCpu::get();
    kick(cpu.here.wake(&vcpu.entity, now()));
    if cpu.here.needs_resched() {
        // The vCPU may be owed time here, and a trap goes back to the guest without a look.
        cpu.gic.kick(cpu.shared.index);
    } else if cpu.here.has_queued()
        && let Some(event) = cpu.here.next_event()
    {
        // A kick would cost an exit, which is in vain if the guest's next step is a WFI.
        cpu.timer.set_earlier(event);
    }
}

/// Returns true if the calling CPU, whose data is `cpu`, has to call [`attend`] before it enters a
/// guest.
#[inline]
pub(crate) fn wants_attention(cpu: &ThisCpu) -> bool {
    cpu.here.needs_resched()
}

/// Makes CPU number `cpu` call [`attend`], after a kick if it is another than the calling one.
pub(crate) fn ask(cpu: usize) {
    scheduler().ask(cpu);
}

/// Notes that the hypervisor's timer of the calling CPU, whose data is `cpu`, has fired.
pub(crate) fn timer_has_fired(cpu: &ThisCpu) {
    ask(cpu.shared.index);
}

/// Decides if the calling CPU, whose data is `cpu`, gives its vCPU up. Answers rendezvous.
#[cold]
pub(crate) fn attend(cpu: &ThisCpu, loaded: Loaded) -> Option<Leave> {
    let here = cpu.here;
    let is_over = here.tick(now());
    // Looked at after `tick`, which forgets the requests so far.
    let question = cpu.shared.answers.question();
    if !loaded.vcpu.vm.lifetime.is_alive() {
        return Some(Leave::Ended);
    }
    cpu.shared.answers.answer(question);
    if is_over || lifetime::has_wishes() {
        return Some(Leave::Preempted);
    }
    cpu.timer.set(here.next_event());
    None
}

/// Declares the calling CPU, whose data is `cpu`, asleep with its vCPU loaded. Returns false if it
/// has to give the vCPU up instead. A vCPU of a VM with the whole machine has its CPU for itself,
/// and the scheduler is not told.
pub(crate) fn begin_sleep(cpu: &ThisCpu, loaded: Loaded) -> bool {
    let here = cpu.here;
    if loaded.vcpu.vm.extent == Extent::Whole {
        return !here.needs_resched();
    }
    if here.needs_resched() || here.has_queued() || here.can_steal() {
        return false;
    }
    if !here.begin_idle(now()) {
        return false;
    }
    cpu.timer.set(here.next_event());
    true
}

/// Ends the sleep of the calling CPU, whose data is `cpu`.
pub(crate) fn end_sleep(cpu: &ThisCpu, loaded: Loaded) {
    if loaded.vcpu.vm.extent == Extent::Part && cpu.here.end_idle(now()) {
        // Another vCPU's deadline has come. If this one continues, it has a turn now.
        ask(cpu.shared.index);
    }
}

/// Runs vCPUs on the calling CPU, whose data is `cpu`, for ever.
pub(crate) fn run(cpu: &'static ThisCpu) -> ! {
    let here = cpu.here;
    loop {
        let picked = here.pick(now());
        // Answered after `pick`, which forgets the requests so far.
        answer(cpu);
        lifetime::fulfil(cpu);
        match picked {
            Some(entity) => {
                let vcpu = Vcpu::of(entity);
                load(cpu, here, vcpu);
                put_aside(here, vcpu);
            }
            None => idle(cpu, here),
        }
    }
}

/// Answers the rendezvous that the calling CPU is asked to. It has no vCPU.
fn answer(cpu: &ThisCpu) {
    if !cpu.shared.answers.is_answered() {
        let question = cpu.shared.answers.question();
        // The asker may wait for objects that this CPU has unlinked.
        let pin = cpu.vgic_cpu.pin();
        pin.collect_garbage();
        cpu.ledger.settle(&pin);
        cpu.shared.answers.answer(question);
    }
}

/// Sleeps, without a vCPU, until one is queued here, or something else is to be done.
fn idle(cpu: &ThisCpu, here: Here<'_>) {
    if !here.begin_idle(now()) {
        return;
    }
    cpu.timer.set(here.next_event());
    while here.is_idle() && !here.needs_resched() {
        interrupts::wait_for_interrupt();
        interrupts::handle_physical(cpu, None, &cpu.vgic_cpu.pin());
    }
    here.end_idle(now());
}

/// Enters a vCPU that the calling CPU has picked. Returns if the vCPU cannot run.
fn load(cpu: &ThisCpu, here: Here<'_>, vcpu: &'static Vcpu) {
    let (vm, id) = (vcpu.vm, vcpu.id);
    let Some(vgic) = vm.vgic().filter(|_| vm.lifetime.is_alive()) else {
        return;
    };
    // SAFETY: this CPU has picked the vCPU.
    let context = unsafe { vcpu.context() };
    // SAFETY: until the kernel is loaded, only the first vCPU is on, and it is here. Afterwards
    // nothing is copied.
    if vcpu.power.has_start() && !unsafe { vm.load_slice() } {
        return;
    }
    if let Some((entry, argument)) = vcpu.power.take_start() {
        reset_interface(cpu, vgic, id);
        vcpu.delay.cancel();
        context.start(entry, argument);
    }
    if !context.is_started {
        return;
    }

    vm.activate(cpu.shared.index, vcpu);
    let frame = context.restore();
    cpu.set_loaded(Some(Loaded { vcpu, vgic }));
    cpu.timer.set(here.next_event());
    {
        let pin = cpu.vgic_cpu.pin();
        cpu.ledger.open(&pin, vm);
        if vgic.has_deferred() {
            deferred::advance(cpu, vgic, &pin);
        }
        vcpu.delay.load();
        vcpu.delay.end();
        (vgic.enter(&pin, id)).expect("the vCPU is on, and on no other CPU");
    }
    if vcpu.entity.is_brief() {
        // The way here may have been longer than the turn, in which the vCPU has to get ahead.
        here.restart_turn(now());
        if let Some(event) = here.next_event() {
            // Not instead of an earlier look at deferred work.
            cpu.timer.set_earlier(event);
        }
    }
    // SAFETY: stage 2 and the vCPU's registers have just been set.
    unsafe { enter_guest(frame) }
}

/// Powers a vCPU on, with a CPU interface in its reset state. No CPU has the vCPU.
fn reset_interface(cpu: &ThisCpu, vgic: &Controller, id: VcpuId) {
    if vgic.is_powered_on(id) {
        // It was suspended.
        let pin = cpu.vgic_cpu.pin();
        (vgic.enter(&pin, id)).expect("the vCPU is on, and on no CPU");
        // The exit reads the status of registers that the entry has written.
        barrier::isb(barrier::SY);
        let off = vgic.exit(&pin, id);
        let off = off.and_then(|()| vgic.power_off(&pin, id));
        off.expect("the vCPU has just been entered here");
    }
    vgic.host().deactivate_ppis(cpu.shared.index);
    vgic.power_on(id);
}

/// Gives up a vCPU that the calling CPU has picked and that cannot run.
fn put_aside(here: Here<'_>, vcpu: &'static Vcpu) {
    vcpu.entity.begin_wait();
    // A start that was requested before is seen here. One that is requested later is a wake-up.
    let can_run = vcpu.power.has_start() && vcpu.vm.lifetime.is_alive();
    if can_run || !here.block(None, now()) {
        kick(here.preempt(now(), false));
    }
}

/// Gives up the vCPU that the calling CPU runs, with its general registers in `frame`, and runs
/// others.
pub(crate) fn leave(cpu: &'static ThisCpu, loaded: Loaded, frame: &Frame, why: Leave) -> ! {
    let Loaded { vcpu, vgic } = loaded;
    let id = vcpu.id;
    // SAFETY: this CPU runs the vCPU.
    let context = unsafe { vcpu.context() };
    context.save(frame);
    let deadline = context.deadline();
    stop_timers();
    {
        let pin = cpu.vgic_cpu.pin();
        let gone = match why {
            Leave::Off | Leave::Resumed => vgic.power_off(&pin, id),
            _ => vgic.vcpu_put(&pin, id),
        };
        gone.expect("the vCPU has just left the guest here");
    }
    cpu.set_loaded(None);
    vcpu.el2_time.end();

    let here = cpu.here;
    match why {
        Leave::Preempted | Leave::Resumed => {
            vcpu.delay.begin();
            // The look at the guest's instructions is dear, and nobody asks beside few.
            let spins =
                why == Leave::Preempted && here.is_crowded() && spinning::is_spinning(vcpu.vm);
            kick(here.preempt(now(), spins));
        }
        Leave::Blocked => {
            // A timer that has fired already is one that the guest has masked.
            vcpu.delay
                .block(deadline.filter(|&deadline| deadline > now()));
            if !here.block(deadline, now()) {
                kick(here.preempt(now(), false));
            }
        }
        Leave::Off => {
            context.is_started = false;
            vcpu.power.power_off();
            if vgic.has_deferred() {
                hand_over_deferred(vcpu);
            }
            put_aside(here, vcpu);
        }
        Leave::End(end) => {
            // In the vCPU's time: a VM that ends again and again has no more than its share.
            here.serve();
            lifetime::end(cpu, vcpu.vm, end);
            put_aside(here, vcpu);
        }
        Leave::Ended => put_aside(here, vcpu),
    }
    run(cpu)
}

/// Wakes another vCPU of the VM, to do the deferred work of one that is off.
fn hand_over_deferred(off: &Vcpu) {
    let mut vcpus = off.vm.vcpus().iter();
    if let Some(other) = vcpus.find(|vcpu| vcpu.power.state() == PowerState::On) {
        wake(other);
    }
}

/// Kicks a CPU, if there is one.
fn kick(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        gic::get().kick(cpu);
    }
}
