//! CPUs and the vCPUs that they run: which one, from when to when.
//!
//! A CPU picks a vCPU ([`run`]), enters it, and gives it up ([`leave`](crate::vcpu::switch::leave))
//! when it waits for an interrupt and another can run, when its turn is over, when it is off, or
//! when its VM is ending. In between, exits come back to the guest without a word to the scheduler,
//! which is asked only after an interrupt ([`attend`]).
//!
//! A vCPU that waits for an interrupt stays loaded while nothing else can run, and the CPU sleeps.
//! Its timers then run in hardware. Those of a vCPU that is on no CPU are a deadline in the timer
//! queue of the CPU that gave it up.

use scheduler::{Counts, Here, Parameters, Scheduler};
use spin::Once;

use crate::cpu::clock::{self, now};
use crate::cpu::this_cpu::{Loaded, ThisCpu};
use crate::gic;
use crate::vcpu::switch::{self, Leave};
use crate::vcpu::{Vcpu, context, interrupts};
use crate::vm::Extent;
use crate::vm::{lifetime, saved};

static SCHEDULER: Once<Scheduler> = Once::new();

/// Creates the scheduler of `cpus` CPUs.
pub(crate) fn init(cpus: usize) {
    SCHEDULER.call_once(|| Scheduler::new(cpus, parameters()));
}

/// Returns the parameters: two vCPUs have turns of 2 ms, more have shorter ones. The least turn is
/// for the guests' locks: each vCPU that waits in the queue of a spin lock passes the lock on in a
/// turn of its own. One that spins has a brief turn.
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
    // Two vCPUs of equal weight have turns of half the latency; more have shorter ones.
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
    kick(cpu.here.wake(&vcpu.entity, now));
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
    saved::look(cpu);
    if has_clock_ahead(cpu) {
        context::look_at_virtual_timer();
    }
}

/// Makes the hypervisor's timer of the calling CPU, whose data is `cpu`, fire at the next event.
pub(crate) fn set_timer(cpu: &ThisCpu) {
    let look = has_clock_ahead(cpu).then(|| now() + clock::ticks(LOOK));
    let events = [cpu.here.next_event(), saved::next(cpu.shared.index), look];
    cpu.timer.set(events.into_iter().flatten().min());
}

/// Microseconds between two looks at the virtual timer of a guest whose clock is ahead.
const LOOK: u64 = 1000;

/// Returns true if the calling CPU, whose data is `cpu`, runs a vCPU whose clock is ahead of the
/// machine's: a VM that was restored on a machine that has started later.
///
/// QEMU 10.0 never lets the virtual timer fire then. It adds deadline and `CNTVOFF_EL2`, and takes
/// a sum of more than 64 bits for the end of time.
fn has_clock_ahead(cpu: &ThisCpu) -> bool {
    let loaded = cpu.loaded();
    loaded.is_some_and(|loaded| loaded.vcpu.vm.clock_offset().cast_signed() < 0)
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
    set_timer(cpu);
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
    set_timer(cpu);
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
            Some(entity) => switch::try_enter(cpu, here, Vcpu::of(entity)),
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
    set_timer(cpu);
    while here.is_idle() && !here.needs_resched() {
        interrupts::wait_for_interrupt();
        interrupts::handle_physical(cpu, None, &cpu.vgic_cpu.pin());
    }
    here.end_idle(now());
}

/// Kicks a CPU, if there is one.
pub(crate) fn kick(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        gic::get().kick(cpu);
    }
}
