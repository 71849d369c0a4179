//! The other CPUs: turned on and off by PSCI, and given functions to run by CPU 0 through a
//! mailbox.
//!
//! A CPU without a task spins. If more CPUs are on than the machine has, each hand-over to one of
//! them waits until its turn comes, and so does every step of CPU 0: [`on_all`] has all of them
//! work at the same time.
#![expect(unsafe_code)]
// UNSAFETY: passes a reference to a task to another CPU.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize};

use crate::board::Board;
use crate::case::{Outcome, holds};
use crate::{cpu, psci};

/// Most CPUs that the guest uses.
pub const MAX_CPUS: usize = 1024;

/// Microseconds that a CPU may take for a task. Every wait of a case is shorter.
const PATIENCE: u64 = 60_000_000;

/// Mailbox for one task.
struct Mailbox {
    /// A [`Task`] or [`Shared`] whose type `run` knows, or null.
    task: AtomicPtr<()>,
    /// Function that runs the task: a `fn(*mut ())`, written before `task`. 0 turns the CPU off.
    run: AtomicUsize,
}

static MAILBOXES: [Mailbox; MAX_CPUS] = [const {
    Mailbox {
        task: AtomicPtr::new(ptr::null_mut()),
        run: AtomicUsize::new(0),
    }
}; MAX_CPUS];

/// Number of CPUs that are on, CPU 0 included.
static ON: AtomicUsize = AtomicUsize::new(1);

/// Function to be run once, and its result.
struct Task<F, R> {
    function: UnsafeCell<Option<F>>,
    result: UnsafeCell<Option<R>>,
}

/// Runs the task.
///
/// # Safety
/// `task` is a `Task<F, R>`, and nobody else uses it now.
unsafe fn run<F: FnOnce() -> R, R>(task: *mut ()) {
    // SAFETY: by the caller's promise, `task` is a `Task<F, R>`.
    let task = unsafe { &*task.cast::<Task<F, R>>() };
    // SAFETY: by the caller's promise, nobody else uses the task now.
    if let Some(function) = unsafe { (*task.function.get()).take() } {
        let result = function();
        // SAFETY: by the caller's promise, nobody else uses the task now.
        unsafe { *task.result.get() = Some(result) };
    }
}

/// Runs `remote` on CPU `number` while this CPU runs `local`.
///
/// # Panics
/// If CPU `number` does not answer in time.
pub fn run_beside<R: Send, L>(
    number: usize,
    remote: impl FnOnce() -> R + Send,
    local: impl FnOnce() -> L,
) -> (R, L) {
    fn runner<F: FnOnce() -> R, R>(_: &Task<F, R>) -> unsafe fn(*mut ()) {
        run::<F, R>
    }
    let task = Task {
        function: UnsafeCell::new(Some(remote)),
        result: UnsafeCell::new(None),
    };
    post(number, runner(&task), &raw const task);

    let result = local();
    wait(number);
    let remote = task.result.into_inner();
    (remote.expect("a task that has ended has a result"), result)
}

/// Runs `function` on CPU `number`, possibly the calling CPU.
pub fn on<R: Send>(number: usize, function: impl FnOnce() -> R + Send) -> R {
    if number == cpu::number() {
        function()
    } else {
        run_beside(number, function, || ()).0
    }
}

/// Function to be run by many CPUs, and the first failure that it has returned.
struct Shared<F> {
    function: F,
    has_failed: AtomicBool,
    /// Written once, by the CPU that sets `has_failed`.
    outcome: UnsafeCell<Outcome>,
}

impl<F: Fn(usize) -> Outcome> Shared<F> {
    /// Runs the function on the calling CPU.
    fn run(&self) {
        let outcome = (self.function)(cpu::number());
        // Relaxed: only one CPU writes the outcome, and the mailboxes order it before its reader.
        if outcome.is_err() && !self.has_failed.swap(true, Relaxed) {
            // SAFETY: this CPU alone has set `has_failed`.
            unsafe { *self.outcome.get() = outcome };
        }
    }
}

/// Runs the shared function.
///
/// # Safety
/// `shared` is a `Shared<F>`, and lives until this returns.
unsafe fn run_shared<F: Fn(usize) -> Outcome>(shared: *mut ()) {
    // SAFETY: by the caller's promise, `shared` is a `Shared<F>`.
    unsafe { &*shared.cast::<Shared<F>>() }.run();
}

/// Runs `function` with the CPU's number on every CPU that is on, the calling CPU 0 included, at
/// the same time. Returns the first failure.
///
/// # Panics
/// If a CPU does not answer in time.
pub fn on_all(function: impl Fn(usize) -> Outcome + Sync) -> Outcome {
    fn runner<F: Fn(usize) -> Outcome>(_: &Shared<F>) -> unsafe fn(*mut ()) {
        run_shared::<F>
    }
    let shared = Shared {
        function,
        has_failed: AtomicBool::new(false),
        outcome: UnsafeCell::new(Ok(())),
    };

    let others = 1..count();
    others
        .clone()
        .for_each(|number| post(number, runner(&shared), &raw const shared));
    shared.run();
    others.for_each(wait);
    shared.outcome.into_inner()
}

/// Returns the calling CPU's share of `work`, which all CPUs that are on do together.
pub fn shared_out<I: Iterator>(work: I) -> impl Iterator<Item = I::Item> {
    work.skip(cpu::number()).step_by(count())
}

/// Hands a task to CPU `number`, which has none.
fn post<T>(number: usize, run: unsafe fn(*mut ()), task: *const T) {
    let mailbox = &MAILBOXES[number];
    mailbox.run.store(run as usize, Relaxed);
    // Release: the task is complete; pairs with the Acquire in `secondary`.
    mailbox.task.store(task.cast_mut().cast(), Release);
}

/// Waits until CPU `number` has ended its task.
fn wait(number: usize) {
    // Acquire: pairs with the Release in `secondary`.
    let ended = cpu::spin_until(PATIENCE, || MAILBOXES[number].task.load(Acquire).is_null());
    assert!(ended, "CPU {number} does not answer");
}

/// Runs tasks from the mailbox, on CPUs other than the first. Entered from [`crate::start`].
pub extern "C" fn secondary(number: usize) -> ! {
    let mailbox = &MAILBOXES[number];
    loop {
        // Acquire: pairs with the Release in `post`.
        let task = mailbox.task.load(Acquire);
        if task.is_null() {
            cpu::relax();
            continue;
        }
        let entry = mailbox.run.load(Relaxed);
        if entry == 0 {
            // Release: nothing of this CPU is used any more.
            mailbox.task.store(ptr::null_mut(), Release);
            psci::cpu_off();
        }
        // SAFETY: `post` stored a function of this type.
        let run: unsafe fn(*mut ()) = unsafe { core::mem::transmute(entry) };
        // SAFETY: the poster leaves the task to this CPU, or to all that share it, until the
        // mailbox is empty.
        unsafe { run(task) };
        // Release: pairs with the Acquire in `wait`.
        mailbox.task.store(ptr::null_mut(), Release);
    }
}

/// Returns the number of CPUs that are on: those below the number.
pub fn count() -> usize {
    ON.load(Relaxed)
}

/// Turns CPUs on or off until `count` are on. CPUs with high numbers are off.
///
/// # Panics
/// If a CPU does not turn on or off in time.
pub fn keep_on(machine: &Board, count: usize) {
    let mut on = self::count();
    while on < count {
        // Each CPU that is on turns another one on.
        let more = on.min(count - on);
        let all_on = on_all(|number| {
            let other = on + number;
            let is_on = number >= more || psci::cpu_on(machine.affinity(other), other);
            holds("the CPU can be turned on", is_on)
        });
        assert!(all_on.is_ok(), "a CPU cannot be turned on");
        on += more;
        ON.store(on, Relaxed);
    }

    let surplus = count..on;
    surplus.clone().for_each(ask_off);
    surplus.rev().for_each(|number| await_off(machine, number));
    ON.store(count, Relaxed);
}

/// Turns one CPU on, and waits until it answers.
pub fn turn_on(machine: &Board, number: usize) {
    assert!(
        psci::cpu_on(machine.affinity(number), number),
        "CPU {number} cannot be turned on"
    );
    on(number, || ());
}

/// Turns one CPU off, and waits until it is off.
pub fn turn_off(machine: &Board, number: usize) {
    ask_off(number);
    await_off(machine, number);
}

/// Tells a CPU to turn itself off.
fn ask_off(number: usize) {
    let mailbox = &MAILBOXES[number];
    mailbox.run.store(0, Relaxed);
    let anything = ptr::dangling_mut::<()>();
    // Release: pairs with the Acquire in `secondary`.
    mailbox.task.store(anything, Release);
}

/// Waits until a CPU has turned itself off.
fn await_off(machine: &Board, number: usize) {
    let off = cpu::spin_until(PATIENCE, || {
        psci::affinity_info(machine.affinity(number)) == psci::OFF
    });
    assert!(off, "CPU {number} does not turn itself off");
}
