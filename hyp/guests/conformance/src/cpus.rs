//! The other CPUs: turned on and off by PSCI, and given functions to run by CPU 0 through a
//! mailbox.
#![expect(unsafe_code)]
// UNSAFETY: passes a reference to a task to another CPU.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicUsize};

use crate::machine::Machine;
use crate::{cpu, psci};

/// Most CPUs that the guest uses.
pub(crate) const MAX_CPUS: usize = 8;

/// Microseconds that a CPU may take for a task. Every wait of a case is shorter.
const PATIENCE: u64 = 60_000_000;

/// Mailbox for one task.
struct Mailbox {
    /// A [`Task`] whose type `run` knows, or null.
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
pub(crate) fn run_beside<R: Send, L>(
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
    let mailbox = &MAILBOXES[number];
    let entry: unsafe fn(*mut ()) = runner(&task);
    mailbox.run.store(entry as usize, Relaxed);
    // Release: the task is complete; pairs with the Acquire in `secondary`.
    mailbox
        .task
        .store((&raw const task).cast_mut().cast(), Release);

    let result = local();
    // Acquire: pairs with the Release in `secondary`.
    let ended = cpu::spin_until(PATIENCE, || mailbox.task.load(Acquire).is_null());
    assert!(ended, "CPU {number} does not answer");
    let remote = task.result.into_inner();
    (remote.expect("a task that has ended has a result"), result)
}

/// Runs `function` on CPU `number`, possibly the calling CPU.
pub(crate) fn on<R: Send>(number: usize, function: impl FnOnce() -> R + Send) -> R {
    if number == cpu::number() {
        function()
    } else {
        run_beside(number, function, || ()).0
    }
}

/// Runs tasks from the mailbox, on CPUs other than the first. Entered from [`crate::start`].
pub(crate) extern "C" fn secondary(number: usize) -> ! {
    let mailbox = &MAILBOXES[number];
    loop {
        // Acquire: pairs with the Release in `run_beside`.
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
        // SAFETY: `run_beside` stored a function of this type.
        let run: unsafe fn(*mut ()) = unsafe { core::mem::transmute(entry) };
        // SAFETY: `run_beside` leaves the task to this CPU until the mailbox is empty.
        unsafe { run(task) };
        // Release: pairs with the Acquire in `run_beside`.
        mailbox.task.store(ptr::null_mut(), Release);
    }
}

/// Turns CPUs on or off until `count` are on. CPUs with high numbers are off.
///
/// # Panics
/// If a CPU does not turn on or off in time.
pub(crate) fn keep_on(machine: &Machine, count: usize) {
    let mut on = ON.load(Relaxed);
    while on < count {
        turn_on(machine, on);
        on += 1;
    }
    while on > count {
        on -= 1;
        turn_off(machine, on);
    }
    ON.store(on, Relaxed);
}

/// Turns one CPU on, and waits until it answers.
pub(crate) fn turn_on(machine: &Machine, number: usize) {
    assert!(
        psci::cpu_on(machine.affinity(number), number),
        "CPU {number} cannot be turned on"
    );
    on(number, || ());
}

/// Turns one CPU off, and waits until it is off.
pub(crate) fn turn_off(machine: &Machine, number: usize) {
    let mailbox = &MAILBOXES[number];
    mailbox.run.store(0, Relaxed);
    let anything = ptr::dangling_mut::<()>();
    // Release: pairs with the Acquire in `secondary`.
    mailbox.task.store(anything, Release);
    let off = cpu::spin_until(PATIENCE, || {
        psci::affinity_info(machine.affinity(number)) == psci::OFF
    });
    assert!(off, "CPU {number} does not turn itself off");
}
