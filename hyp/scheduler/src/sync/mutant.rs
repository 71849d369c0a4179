//! Deliberate faults: proof that the models detect errors.
//!
//! Faults exist only in builds with `--cfg loom --cfg vgic_mutants`, and `loom-tests` selects a
//! fault at run time. In every other build [`mutant`] is the constant `false`, and no code of a
//! fault is left.

use super::Ordering;

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident: $test:literal;)*) => {
        /// A deliberate fault.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[cfg_attr(not(vgic_mutants), expect(unreachable_pub, reason = "for mutated builds"))]
        pub enum Mutant { $($(#[doc = $doc])+ $name,)* }

        /// All faults.
        #[cfg(vgic_mutants)]
        pub const MUTANTS: &[MutantRecord] = &[$(MutantRecord {
            mutant: Mutant::$name,
            name: stringify!($name),
            what: concat!($($doc),+),
            test: $test,
        },)*];
    };
}

/// Description of a fault.
#[cfg(vgic_mutants)]
#[derive(Clone, Copy, Debug)]
pub struct MutantRecord {
    /// The fault.
    pub mutant: Mutant,
    /// Name of the fault.
    pub name: &'static str,
    /// Sentence that states the fault.
    pub what: &'static str,
    /// Model of the protocol `scheduler` that must fail.
    pub test: &'static str,
}

// Name: the model that detects the fault.
mutants! {
    /// A waker queues an entity after a load shows the entity idle, without claiming it.
    WakeByLook: "two_wakers_of_one";
    /// A wake-up is Relaxed instead of AcqRel.
    WakeRelaxed: "wake_against_block";
    /// A vCPU begins to wait with Relaxed instead of Acquire.
    BeginWaitRelaxed: "wake_against_block";
    /// An entity blocks although a wake-up has come.
    BlockPassesWakeUp: "wake_against_block";
    /// An entity blocks with Relaxed instead of Release.
    EntityBlocksRelaxed: "block_against_run_elsewhere";
    /// A CPU picks an entity with Relaxed instead of Acquire.
    PickRelaxed: "wake_against_pick";
    /// A waker leaves the entity's deadline in the timer queue.
    DeadlineKept: "wake_against_deadline";
    /// An entity is put into the timer queue only after the lock was released.
    DeadlineAfterUnlock: "wake_against_deadline";
    /// A CPU queues an entity whose deadline has come, although a waker has claimed the entity.
    ExpiryPassesWaker: "expire_against_wake";
    /// A CPU declares itself idle without looking at its queue.
    IdleWithoutLook: "wakes_against_idle";
    /// A waker that finds a CPU idle when it has queued there does not kick it.
    IdleCpuNotKicked: "wakes_against_idle";
    /// A waker that has claimed an idle CPU does not kick it.
    ClaimedCpuNotKicked: "wakes_against_idle";
    /// A thief leaves the entity on its victim's queue.
    StolenStaysQueued: "steal_against_pick";
    /// A thief clears the mark of its victim after it has released the lock.
    MarkClearedUnlocked: "steal_against_pick";
    /// A waker does not kick a CPU that runs an entity without a tick.
    FirstQueuedWithoutKick: "wake_against_a_cpu_without_tick";
}

/// Index of the selected fault in [`MUTANTS`], or `usize::MAX` for none.
#[cfg(vgic_mutants)]
static SELECTED: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(usize::MAX);

/// Selects a fault. Call before the first use of the scheduler.
#[cfg(vgic_mutants)]
pub fn select(mutant: Mutant) {
    // Relaxed: written before the model begins.
    SELECTED.store(mutant as usize, core::sync::atomic::Ordering::Relaxed);
}

/// Returns true if the fault is selected.
#[cfg(vgic_mutants)]
pub(crate) fn mutant(mutant: Mutant) -> bool {
    // Relaxed: written before the model began.
    SELECTED.load(core::sync::atomic::Ordering::Relaxed) == mutant as usize
}

/// Returns false: only builds with `--cfg vgic_mutants` make faults.
#[cfg(not(vgic_mutants))]
#[inline]
pub(crate) const fn mutant(_: Mutant) -> bool {
    false
}

/// Returns `order`, or Relaxed if the fault is selected.
#[inline]
pub(crate) fn weakened_by(mutant: Mutant, order: Ordering) -> Ordering {
    if self::mutant(mutant) {
        Ordering::Relaxed
    } else {
        order
    }
}
