//! Residency: the place of a vCPU, and the work given to the vCPU, in one word.
//!
//! | bits  | field        | meaning |
//! |-------|--------------|---------|
//! | 0     | ON           | powered on; an off vCPU collects interrupts but is never kicked |
//! | 1     | RUNNING      | in the guest on `cpu`, or out for an exit: an IPI makes it see its work |
//! | 2     | BLOCKED      | waiting for an interrupt; the embedder has to be informed of work |
//! | 3     | SHOWN        | out of the guest, and the states of all its list registers are known |
//! | 4     | RECALL_LATER | a list register has to be folded before the next entry |
//! | 5     | NEW          | an interrupt was inserted into the ap_list |
//! | 6     | RECALL       | a list register has to be folded, and the guest left |
//! | 7     | RELEASE      | the vCPU's CPU has to release a physical PPI |
//! | 8     | RERAISED     | an edge has come of an interrupt in a list register |
//! | 9     | ABSENT       | not a vCPU of the VM: not added yet, or removed |
//! | 31:16 | cpu          | physical CPU that has the vCPU, or none |
//! | 63:32 | registration | number of that CPU's registration; 0 for none |
//!
//! Bits 63:16 are the owner's [`Seat`]. No two registrations share a number, in whatever domain, so
//! that the word alone tells a CPU that the vCPU is its own.
//!
//! # No lost wake-up, and one kick
//! A producer publishes (links under the ap_list lock, or changes a state word) and then sets NEW,
//! RERAISED, RELEASE or RECALL. The result of the read-modify-write gives the place of the vCPU.
//! Only a producer that finds none of the four bits set kicks or wakes. Later producers rely on the
//! first kick until the vCPU consumes the bits. Neither side needs a further fence.
//!
//! RUNNING stays set from the first entry until the vCPU blocks or leaves its CPU, also while the
//! CPU handles an exit. Setting and clearing it are read-modify-writes of the same word, and
//! totally ordered with the producer's: either the swap that sets RUNNING, or the block, finds the
//! producer's bit, or the producer sees RUNNING and kicks, or sees BLOCKED and wakes.
//!
//! An exit does not access the word, and the next entry only loads it. If the load misses a
//! producer's bit, the producer has seen RUNNING, or will. Its IPI stays pending while the CPU
//! masks interrupts, and the guest is left again right after the exception return. The producer's
//! bit is visible to a CPU that has taken the IPI ([`Host::kick`](crate::Host::kick)). A kick of a
//! vCPU whose CPU is at EL2 for another reason costs an exit too many. That is rare, and two atomic
//! operations for each exit would not be.
//!
//! The vCPU's own CPU, out of the guest, needs no IPI for the work that it gives itself: the word
//! that it loads on the way in has the CPU's own bit. The CPU knows by its own record
//! ([`Loaded`](crate::epoch::Loaded)).

use crate::epoch::Seat;
use crate::intid::CpuId;
use crate::steps::step;
#[cfg(loom)]
use crate::sync::AtomicU8;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
#[cfg(not(loom))]
use crate::sync::word;
use crate::sync::{AtomicU64, Mutant, mutant, weakened_by};

const ON: u64 = 1 << 0;
/// The vCPU is in the guest, or out of it for an exit.
pub const RUNNING: u64 = 1 << 1;
/// The vCPU waits for an interrupt.
pub const BLOCKED: u64 = 1 << 2;
const SHOWN: u64 = 1 << 3;
// In this order the work that kicks has adjacent bits, and so has the work that is not RERAISED: an
// instruction tests either.
/// The list registers must be folded before the next entry.
pub const RECALL_LATER: u64 = 1 << 4;
/// An interrupt was inserted.
pub const NEW: u64 = 1 << 5;
/// The list registers must be folded soon.
pub const RECALL: u64 = 1 << 6;
/// The vCPU's CPU has to release a physical PPI: no pending or active state is left, or no
/// connection.
pub const RELEASE: u64 = 1 << 7;
/// An edge has come of an interrupt in a list register. If the guest has ended the first edge, the
/// exit restages the interrupt; else the list registers must be folded.
pub const RERAISED: u64 = 1 << 8;
/// The VM does not have the vCPU, which is off and on no CPU: not added yet, or removed.
const ABSENT: u64 = 1 << 9;
/// Every kind of work.
pub const WORK: u64 = NEW | RECALL | RECALL_LATER | RERAISED | RELEASE;
/// The owner's seat.
const OWNER: u64 = !0xffff;
/// In place of a seat while the vCPU is on no CPU.
const NO_CPU: u64 = Seat::NO_CPU.0;
/// In place of a seat once the VM is being taken apart: no CPU may load the vCPU any more.
const TORN_DOWN: u64 = Seat::TORN_DOWN.0;

/// Step left to a producer after giving work to a vCPU.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kick {
    /// None: the vCPU will find the work, or has been kicked or woken already.
    Nothing,
    /// Send an IPI to this physical CPU.
    Ipi(CpuId),
    /// Inform the embedder that the vCPU has work.
    Wake,
}

/// The residency word of a vCPU. The owner is the CPU that has the vCPU.
#[derive(Debug)]
pub struct Residency(AtomicU64, #[cfg(loom)] AtomicU8);

#[cfg(not(loom))]
word!(Residency, AtomicU64, u64);

impl Residency {
    /// Makes the word of a vCPU on no CPU, powered on or off.
    pub fn new(on: bool) -> Self {
        Self::with(NO_CPU | if on { ON } else { 0 })
    }

    /// Makes the word of a vCPU that has not been added yet.
    pub fn absent() -> Self {
        Self::with(NO_CPU | ABSENT)
    }

    fn with(word: u64) -> Self {
        Self(
            AtomicU64::new(word),
            #[cfg(loom)]
            AtomicU8::new(0),
        )
    }

    /// Returns a copy of the word.
    #[inline]
    pub fn get(&self) -> ResidencyBits {
        step();
        // Acquire: pairs with every access below that publishes.
        ResidencyBits(self.0.load(Acquire))
    }

    /// Returns a copy of the word. A CPU that changes the word afterwards sees what the caller has
    /// seen.
    pub fn get_ordered(&self) -> ResidencyBits {
        // AcqRel: pairs with the Acquire in `load`, and with the AcqRel in `put`: the states folded
        // by the former owner are visible.
        ResidencyBits(self.0.fetch_or(0, AcqRel))
    }

    /// Returns a copy of the word, on the owner's way into the guest or out of it.
    #[inline]
    pub fn get_own(&self) -> ResidencyBits {
        self.explore();
        self.get()
    }

    /// Makes loom explore the order of an owner's load and a producer's read-modify-write. loom 0.7
    /// compares an access with the last one only: a producer that loads the word itself first would
    /// hide the owner's load. The access orders nothing. Elsewhere, the call does nothing.
    #[inline]
    fn explore(&self) {
        #[cfg(loom)]
        // Relaxed: not a part of the protocol.
        self.1.fetch_add(0, Relaxed);
    }

    /// Gives the vCPU `work`, after the reason has been published. Any CPU. `is_out_here` is called
    /// if an IPI may be needed: true if the calling CPU has the vCPU, out of the guest.
    #[inline]
    pub fn notify(&self, work: u64, is_out_here: impl FnOnce() -> bool) -> Kick {
        step();
        debug_assert!(work & !WORK == 0);
        let early = mutant(Mutant::LooksBeforePublishing).then(|| self.get());
        self.explore();
        // AcqRel: pairs with the owner's read-modify-writes, which consume the bit, and with the
        // Acquire in `get`. A CPU that is told to kick or wake sees what the owner's CPU has
        // written before `enter` or `block`.
        let old = ResidencyBits(self.0.fetch_or(work, AcqRel));
        let old = early.unwrap_or(old);

        const KICKS: u64 = NEW | RECALL | RERAISED | RELEASE;
        let kicked = old.0 & KICKS != 0 && !mutant(Mutant::EveryProducerKicks);
        if work == RECALL_LATER || kicked {
            Kick::Nothing
        } else if old.is_running() {
            if is_out_here() && !mutant(Mutant::OwnWorkKicks) {
                return Kick::Nothing;
            }
            // A vCPU that is running is on a CPU.
            old.cpu().map_or(Kick::Nothing, Kick::Ipi)
        } else if old.0 & BLOCKED != 0 {
            Kick::Wake
        } else {
            Kick::Nothing
        }
    }

    /// Makes `cpu` the owner. Returns the word if another CPU is, or if the vCPU is absent.
    pub fn load(&self, cpu: Seat) -> Result<(), ResidencyBits> {
        // Acquire: pairs with the AcqRel in `put`, and with the Release in `reset`: the state saved
        // by the former owner, or reset, is visible. Publishes nothing of the library's: the owner
        // has not changed any. Relaxed on failure: the word alone tells the caller why.
        self.0
            .fetch_update(Acquire, Relaxed, |word| {
                (word & (OWNER | ABSENT) == NO_CPU).then_some(word & !OWNER | cpu.0)
            })
            .map(|_| ())
            .map_err(ResidencyBits)
    }

    /// Claims a vCPU, on no CPU, for the teardown of its VM. Returns the word if the vCPU is on a
    /// CPU, has been claimed before, or is absent.
    pub fn tear_down(&self) -> Result<(), ResidencyBits> {
        if mutant(Mutant::TornDownByStore) {
            let found = self.get();
            if found.0 & OWNER != NO_CPU {
                return Err(found);
            }
            // Release: part of the fault.
            self.0.store(found.0 & !OWNER | TORN_DOWN, Release);
            return Ok(());
        }

        // Acquire: pairs with the AcqRel in `put`: the state saved by the former owner is visible.
        // Publishes nothing: the claim comes before the teardown. Relaxed on failure: the word
        // alone tells the caller why.
        self.0
            .fetch_update(Acquire, Relaxed, |word| {
                (word & (OWNER | ABSENT) == NO_CPU).then_some(word & !OWNER | TORN_DOWN)
            })
            .map(|_| ())
            .map_err(ResidencyBits)
    }

    /// Makes the word of a claimed vCPU anew, powered on or off. Ends the claim.
    pub fn reset(&self, on: bool) {
        // Release: pairs with the Acquire in `load`: the state after the reset is visible.
        self.0.store(NO_CPU | if on { ON } else { 0 }, Release);
    }

    /// Makes a vCPU, powered off and on no CPU, absent: no CPU loads it or powers it on any more.
    /// Returns the word if the vCPU is on or on a CPU.
    pub fn remove(&self) -> Result<(), ResidencyBits> {
        if mutant(Mutant::RemovedByStore) {
            let found = self.get();
            if found.0 & (ON | OWNER) != NO_CPU {
                return Err(found);
            }
            // Release: part of the fault.
            self.0.store(found.0 | ABSENT, Release);
            return Ok(());
        }

        // Acquire: pairs with the AcqRel in `put`: the states folded by the former owner are
        // visible. Publishes nothing: the removal comes afterwards. Relaxed on failure: the word
        // alone tells the caller why.
        self.0
            .fetch_update(Acquire, Relaxed, |word| {
                (word & (ON | OWNER) == NO_CPU).then_some(word | ABSENT)
            })
            .map(|_| ())
            .map_err(ResidencyBits)
    }

    /// Ends the absence of a vCPU, powered off. Work given meanwhile stays.
    pub fn add(&self) {
        // Release: pairs with the Acquire in `load` and `set_power`: the CPU that loads the vCPU
        // sees its state after the removal.
        self.0.fetch_and(!ABSENT, Release);
    }

    /// Gives up the ownership, and ends RUNNING; the work bits stay. Owner only.
    pub fn put(&self) {
        // Relaxed: the owner alone writes the owner's bits and RUNNING.
        let owner = self.0.load(Relaxed) & (OWNER | RUNNING);
        // AcqRel: pairs with the Acquire in `load` and `tear_down`, and with the AcqRel in
        // `get_ordered`: this CPU sees what the caller there has seen.
        let order = weakened_by(Mutant::PutRelaxed, AcqRel);
        self.0.fetch_xor(owner ^ NO_CPU, order);
    }

    /// Marks the vCPU, powered on, as running, and consumes the work. Owner only.
    #[inline]
    pub fn enter(&self, cpu: Seat) -> ResidencyBits {
        let entered = ON | RUNNING | cpu.0;
        if mutant(Mutant::EntryDropsWork) {
            let work = self.get();
            self.0.swap(entered, AcqRel);
            return work;
        }

        // AcqRel: pairs with the AcqRel in `notify`: the producer's change is visible, and to the
        // producer what this CPU has written. Only producers write concurrently, and only the work
        // bits returned by the swap.
        let order = weakened_by(Mutant::EnterRelaxed, AcqRel);
        ResidencyBits(self.0.swap(entered, order))
    }

    /// Records that the state of every interrupt in a list register has been updated since the
    /// exit: other CPUs may show it, until the next entry. Ends RUNNING, with which the vCPU has
    /// come from the guest. Owner only.
    pub fn show_states(&self) {
        // Release: pairs with the Acquire in `get`: a CPU that sees the bit sees the states.
        let order = weakened_by(Mutant::ShownRelaxed, Release);
        let old = self.0.fetch_xor(SHOWN | RUNNING, order);
        debug_assert!(old & (SHOWN | RUNNING) == RUNNING);
    }

    /// Consumes the work outside the guest, and ends RUNNING and blocking. Owner only.
    pub fn take_work(&self) -> ResidencyBits {
        let ended = if mutant(Mutant::RunsAsleep) {
            WORK | BLOCKED
        } else {
            WORK | BLOCKED | RUNNING
        };
        // Acquire: pairs with the AcqRel in `notify`. Publishes nothing: a producer that finds no
        // work left does nothing but leave its own.
        let order = weakened_by(Mutant::TakeWorkRelaxed, Acquire);
        ResidencyBits(self.0.fetch_and(!ended, order))
    }

    /// Marks the vCPU as blocked unless work is left. Returns true if the vCPU is blocked now.
    /// Owner only.
    pub fn block(&self) -> bool {
        // Release: pairs with the Acquire in `get` and the AcqRel in `notify`: a CPU that sees
        // BLOCKED sees the states and what this CPU has written. Either this CPU sees the
        // producer's bit, which the next entry consumes, or the producer sees BLOCKED.
        let order = weakened_by(Mutant::BlockRelaxed, Release);
        let old = self.0.fetch_or(BLOCKED, order);
        if old & WORK == 0 || mutant(Mutant::SleepsWithoutLooking) {
            return true;
        }

        // Relaxed: undoes the line above.
        self.0.fetch_and(!BLOCKED, Relaxed);
        false
    }

    /// Marks a vCPU as blocked that is running on `cpu` without news. Returns false, and changes
    /// nothing, if the word says otherwise. Owner only.
    pub fn block_idle(&self, cpu: Seat) -> bool {
        let (running, blocked) = (cpu.0 | ON | RUNNING, cpu.0 | ON | BLOCKED);
        if mutant(Mutant::IdleBlockedByStore) {
            // Release: part of the fault.
            self.0.store(blocked, Release);
            return true;
        }

        // Release: pairs with the Acquire in `get` and the AcqRel in `notify`: a CPU that sees
        // BLOCKED sees what this CPU has written. Relaxed on failure: only told.
        let order = weakened_by(Mutant::BlockRelaxed, Release);
        self.0
            .compare_exchange(running, blocked, order, Relaxed)
            .is_ok()
    }

    /// Powers the vCPU on or off. Returns false if nothing changed, as for a vCPU that is absent.
    /// Powering off is for the owner only.
    pub fn set_power(&self, on: bool) -> bool {
        let old = if on {
            // AcqRel: pairs with the Acquire in `get` and `load`: the CPU that enters the vCPU sees
            // what this CPU has written. Pairs with the Release below. Relaxed on failure: the word
            // tells that the vCPU is absent.
            let powered = self.0.fetch_update(AcqRel, Relaxed, |word| {
                (word & ABSENT == 0).then_some(word | ON)
            });
            match powered {
                Ok(old) => old,
                Err(_) => return false,
            }
        } else {
            // Release: pairs with the AcqRel above and the Acquire in `get`: a CPU that finds the
            // vCPU off sees what the vCPU's last CPU has written.
            self.0.fetch_and(!(ON | BLOCKED), Release)
        };
        (old & ON != 0) != on
    }
}

/// A copy of the residency word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResidencyBits(u64);

impl ResidencyBits {
    /// Returns true if the vCPU is powered on.
    #[inline]
    pub fn is_on(self) -> bool {
        self.0 & ON != 0
    }

    /// Returns true if the vCPU is in the guest, or out of it for an exit that has not led to a
    /// block or a put.
    #[inline]
    pub fn is_running(self) -> bool {
        self.0 & RUNNING != 0
    }

    /// Returns true if the states of all interrupts in the vCPU's list registers are known: the
    /// vCPU is on no CPU, blocked, or was recalled and has left the guest. Otherwise, while a CPU
    /// handles a trap of the vCPU, the list registers are unread.
    pub fn lrs_are_known(self) -> bool {
        self.0 & (BLOCKED | SHOWN) != 0 || self.cpu().is_none()
    }

    /// Returns true if `cpu` has the vCPU.
    #[inline]
    pub fn is_on_cpu(self, cpu: Seat) -> bool {
        self.0 & OWNER == cpu.0
    }

    /// Returns true if the vCPU is running on `cpu`, without work, and its states are not shown: an
    /// entry leaves the word as it is.
    #[inline]
    pub fn is_without_news(self, cpu: Seat) -> bool {
        self.0 == cpu.0 | ON | RUNNING
    }

    /// Returns true if the vCPU is blocked.
    pub fn is_blocked(self) -> bool {
        self.0 & BLOCKED != 0
    }

    /// Returns the CPU that has the vCPU.
    #[inline]
    pub fn cpu(self) -> Option<CpuId> {
        let cpu = (self.0 >> Seat::CPU_SHIFT) as u16;
        (cpu < CpuId::FIRST_RESERVED).then_some(CpuId(cpu))
    }

    /// Returns the registration of the CPU that has the vCPU.
    pub fn seat(self) -> Option<Seat> {
        self.cpu().map(|_| Seat(self.0 & OWNER))
    }

    /// Returns true if the vCPU's VM is being taken apart, or has been.
    pub fn is_torn_down(self) -> bool {
        self.0 & OWNER == TORN_DOWN
    }

    /// Returns true if the VM does not have the vCPU.
    pub fn is_absent(self) -> bool {
        self.0 & ABSENT != 0
    }

    /// Returns true if work of the given kinds is left.
    #[inline]
    pub fn has(self, work: u64) -> bool {
        self.0 & work != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CPU: CpuId = CpuId(3);
    const SEAT: Seat = Seat::new(7, CPU);
    const OTHER: Seat = Seat::new(8, CpuId(4));

    /// A word whose work other CPUs give.
    struct Word(Residency);

    impl Word {
        fn notify(&self, work: u64) -> Kick {
            self.0.notify(work, || false)
        }
    }

    impl core::ops::Deref for Word {
        type Target = Residency;

        fn deref(&self) -> &Residency {
            &self.0
        }
    }

    #[test]
    fn one_kick_per_stay_in_the_guest() {
        let word = Word(Residency::new(true));
        assert_eq!(word.notify(NEW), Kick::Nothing);
        word.load(SEAT).unwrap();
        assert!(word.enter(SEAT).has(NEW));
        assert_eq!(word.notify(RECALL_LATER), Kick::Nothing);
        assert_eq!(word.notify(NEW), Kick::Ipi(CPU));
        assert_eq!(word.notify(RECALL), Kick::Nothing);
        assert_eq!(word.notify(NEW), Kick::Nothing);
        assert_eq!(word.notify(RERAISED), Kick::Nothing);

        let place = word.enter(SEAT);
        assert!(
            [NEW, RECALL, RECALL_LATER, RERAISED]
                .iter()
                .all(|work| place.has(*work))
        );
        assert_eq!(word.notify(RERAISED), Kick::Ipi(CPU));

        let _ = word.enter(SEAT);
        assert_eq!(word.notify(RECALL), Kick::Ipi(CPU));
    }

    #[test]
    fn an_entry_without_news_leaves_the_word_alone() {
        let word = Word(Residency::new(true));
        word.load(SEAT).unwrap();
        assert!(!word.get().is_without_news(SEAT), "it has not run yet");
        let _ = word.enter(SEAT);
        assert!(word.get().is_without_news(SEAT) && !word.get().is_without_news(OTHER));
        word.show_states();
        assert!(!word.get().is_without_news(SEAT));
        let _ = word.enter(SEAT);
        assert_eq!(word.notify(RECALL_LATER), Kick::Nothing);
        assert!(!word.get().is_without_news(SEAT));
    }

    #[test]
    fn a_vcpu_out_of_the_guest_on_the_calling_cpu_is_not_kicked() {
        let word = Word(Residency::new(true));
        word.load(SEAT).unwrap();
        let _ = word.enter(SEAT);
        assert_eq!(word.0.notify(NEW, || true), Kick::Nothing);
        assert!(word.enter(SEAT).has(NEW));
        assert_eq!(word.notify(NEW), Kick::Ipi(CPU));
    }

    #[test]
    fn a_vcpu_that_looks_for_work_or_is_put_does_not_run() {
        let word = Word(Residency::new(true));
        word.load(SEAT).unwrap();
        let _ = word.enter(SEAT);
        let _ = word.take_work();
        assert!(!word.get().is_running());
        assert_eq!(word.notify(NEW), Kick::Nothing);

        let _ = word.enter(SEAT);
        word.put();
        assert!(!word.get().is_running() && word.get().cpu().is_none());
        assert_eq!(word.notify(NEW), Kick::Nothing);
    }

    #[test]
    fn one_wake_per_blocking_and_none_lost() {
        let word = Word(Residency::new(true));
        word.load(SEAT).unwrap();
        assert!(word.block());
        assert_eq!(word.notify(NEW), Kick::Wake);
        assert_eq!(word.notify(NEW), Kick::Nothing);
        assert!(!word.block(), "there is work");
        assert!(word.take_work().has(NEW));
        assert!(word.block());
    }

    #[test]
    fn another_registration_of_the_same_cpu_is_no_owner() {
        let word = Word(Residency::new(true));
        word.load(SEAT).unwrap();
        let again = Seat::new(9, CPU);
        assert!(word.get().is_on_cpu(SEAT) && !word.get().is_on_cpu(again));
        let _ = word.enter(SEAT);
        assert!(word.get().is_without_news(SEAT) && !word.get().is_without_news(again));
    }

    #[test]
    fn a_vcpu_that_is_torn_down_is_on_no_cpu_and_goes_on_none() {
        let word = Word(Residency::new(true));
        word.load(SEAT).unwrap();
        assert!(word.tear_down().is_err(), "it is on a CPU");
        word.put();
        word.tear_down().unwrap();
        assert!(word.get().is_torn_down() && word.get().cpu().is_none());
        assert!(word.get().lrs_are_known());
        assert!(word.load(SEAT).is_err());
        assert_eq!(word.notify(NEW), Kick::Nothing);
        word.put();
        assert!(word.load(SEAT).is_ok(), "the claim was taken back");
    }

    #[test]
    fn one_owner_at_a_time() {
        let word = Word(Residency::new(false));
        assert!(word.load(SEAT).is_ok());
        assert_eq!(word.load(OTHER).unwrap_err().cpu(), Some(CPU));
        word.put();
        assert!(word.load(OTHER).is_ok());
        assert!(!word.get().is_on());
        assert!(word.set_power(true));
        assert!(!word.set_power(true));
        assert!(word.set_power(false));
    }
}
