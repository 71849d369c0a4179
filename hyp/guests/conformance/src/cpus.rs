//! The other CPUs: turned on and off by PSCI, and given functions to run by CPU 0 through a mailbox.
#![expect(unsafe_code)]
// UNSAFETY: hands a reference to what is to be run to another CPU.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicUsize};

use crate::machine::Machine;
use crate::{cpu, psci};

/// Most CPUs that the guest uses.
pub(crate) const MAX_CPUS: usize = 8;

/// How long a CPU may take for what it is asked to do. Every wait of a case is shorter.
const PATIENCE: u64 = 60_000_000;

/// What a CPU is to do, if anything.
struct Mailbox {
    /// A [`Task`] whose type `run` knows; null while there is nothing to do.
    task: AtomicPtr<()>,
    /// Runs it: a `fn(*mut ())`, written before `task`.
    run: AtomicUsize,
}

static MAILBOXES: [Mailbox; MAX_CPUS] = [const {
    Mailbox {
        task: AtomicPtr::new(ptr::null_mut()),
        run: AtomicUsize::new(0),
    }
}; MAX_CPUS];

/// CPUs that are on, CPU 0 included.
static ON: AtomicUsize = AtomicUsize::new(1);

/// Something to be run once, and what came of it.
struct Task<F, R> {
    function: UnsafeCell<Option<F>>,
    result: UnsafeCell<Option<R>>,
}

/// Runs the task.
///
/// # Safety
/// `task` is a `Task<F, R>`, and nobody else uses it now.
unsafe fn run<F: FnOnce() -> R, R>(task: *mut ()) {
    // SAFETY: by the caller's promise.
    let task = unsafe { &*task.cast::<Task<F, R>>() };
    // SAFETY: as above.
    if let Some(function) = unsafe { (*task.function.get()).take() } {
        let result = function();
        // SAFETY: as above.
        unsafe { *task.result.get() = Some(result) };
    }
}

/// Has CPU `number` run `remote` while this one runs `local`.
///
/// # Panics
/// If that CPU does not come to an end.
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

/// Has CPU `number` run `function`, which may be this one.
pub(crate) fn on<R: Send>(number: usize, function: impl FnOnce() -> R + Send) -> R {
    if number == cpu::number() {
        function()
    } else {
        run_beside(number, function, || ()).0
    }
}

/// Where CPUs other than the first go on after [`crate::start`].
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
            // Release: nothing of ours is used any more.
            mailbox.task.store(ptr::null_mut(), Release);
            psci::cpu_off();
        }
        // SAFETY: `run_beside` stored a function of this type.
        let run: unsafe fn(*mut ()) = unsafe { core::mem::transmute(entry) };
        // SAFETY: `run_beside` gives the task to us until the mailbox is empty.
        unsafe { run(task) };
        // Release: pairs with the Acquire in `run_beside`.
        mailbox.task.store(ptr::null_mut(), Release);
    }
}

/// Turns CPUs on and off, until so many are on. The last ones are turned off.
///
/// # Panics
/// If one of them does not come up, or does not go down.
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

/// Turns one CPU off, and waits until it is.
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
