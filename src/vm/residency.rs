//! Where a vCPU is, and what it must look at: one word.
//!
//! | bits  | field    | meaning |
//! |-------|----------|---------|
//! | 0     | ON       | powered on; an off vCPU collects interrupts but is never kicked |
//! | 1     | IN_GUEST | running guest code on `cpu` |
//! | 2     | BLOCKED  | waiting for an interrupt; the embedder has to be told |
//! | 4     | NEW      | something was inserted into its ap_list |
//! | 5     | RECALL   | something in its list registers has changed; they must be taken back |
//! | 6     | RECALL_LATER     | the same, but it can wait until it next enters |
//! | 7     | RERAISED    | something in its list registers has come again |
//! | 31:16 | cpu      | physical CPU whose registers hold its state, or none |
//!
//! # No lost wake-up, and one kick
//! A producer publishes (links under the ap_list lock, or changes a state word) and then sets NEW, RERAISED or
//! RECALL here; the result of that one read-modify-write says where the vCPU is. Entering, after and
//! blocking are read-modify-writes of the same word, so the two are totally ordered: either the
//! entry's swap returns the producer's bit and the vCPU looks, or the producer sees IN_GUEST and kicks.
//! Only the producer that finds none of them set kicks or wakes; whoever comes later rides on
//! that, until the vCPU consumes the bits. No further fence is needed on either side.

use crate::intid::CpuId;
use crate::steps::step;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::{AtomicU32, Mutant, mutant, relaxed_by};

const ON: u32 = 1 << 0;
const IN_GUEST: u32 = 1 << 1;
const BLOCKED: u32 = 1 << 2;
/// Something was inserted.
pub(crate) const NEW: u32 = 1 << 4;
/// The list registers must be taken back soon.
pub(crate) const RECALL: u32 = 1 << 5;
/// The list registers must be taken back before the next entry.
pub(crate) const RECALL_LATER: u32 = 1 << 6;
/// An edge of what is in a list register has come. If the guest has finished with the first one, the exit
/// deals with it; else the registers must be taken back.
pub(crate) const RERAISED: u32 = 1 << 7;
/// All of them.
pub(crate) const WORK: u32 = NEW | RECALL | RECALL_LATER | RERAISED;
const CPU_SHIFT: u32 = 16;
const NO_CPU: u32 = 0xffff << CPU_SHIFT;

/// What a producer has to do for the vCPU it has given work to.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kick {
    /// Nothing: it will look by itself, or has been told already.
    Nothing,
    /// Send an IPI to this physical CPU.
    Ipi(CpuId),
    /// Tell the embedder to let it run.
    Wake,
}

/// The word.
pub(crate) struct Residency(AtomicU32);

impl Residency {
    pub(crate) fn new(on: bool) -> Self {
        Self(AtomicU32::new(NO_CPU | if on { ON } else { 0 }))
    }

    /// A copy.
    #[inline]
    pub(crate) fn get(&self) -> ResidencyBits {
        step();
        // Acquire: pairs with the read-modify-writes below, which are AcqRel where they publish.
        ResidencyBits(self.0.load(Acquire))
    }

    /// Gives the vCPU work, which is published already.
    #[inline]
    pub(crate) fn notify(&self, work: u32) -> Kick {
        step();
        debug_assert!(work & !WORK == 0);
        let early = mutant(Mutant::LooksBeforePublishing).then(|| self.get());
        // AcqRel: pairs with the owner's read-modify-writes, which consume the bit.
        let old = ResidencyBits(self.0.fetch_or(work, AcqRel));
        let old = early.unwrap_or(old);
        let told = old.0 & (NEW | RECALL | RERAISED) != 0 && !mutant(Mutant::EveryProducerKicks);
        if work == RECALL_LATER || told {
            Kick::Nothing
        } else if old.in_guest() {
            // Without a CPU it cannot be in the guest.
            old.cpu().map_or(Kick::Nothing, Kick::Ipi)
        } else if old.0 & BLOCKED != 0 {
            Kick::Wake
        } else {
            Kick::Nothing
        }
    }

    /// Takes ownership of the vCPU's registers for `cpu`; fails if another CPU has them.
    pub(crate) fn load(&self, cpu: CpuId) -> Result<(), ResidencyBits> {
        // AcqRel: pairs with `put`: what the former owner saved is visible.
        self.0
            .fetch_update(AcqRel, Acquire, |word| {
                (word & NO_CPU == NO_CPU).then(|| word & !NO_CPU | u32::from(cpu.0) << CPU_SHIFT)
            })
            .map(|_| ())
            .map_err(ResidencyBits)
    }

    /// Gives ownership up. Owner only. The work bits stay.
    pub(crate) fn put(&self) {
        // AcqRel: pairs with `load`.
        let order = relaxed_by(Mutant::PutRelaxed, AcqRel);
        self.0.fetch_or(NO_CPU, order);
    }

    /// Into the guest, consuming the work. Owner only, after `get` said that it is on.
    #[inline]
    pub(crate) fn enter(&self, cpu: CpuId) -> ResidencyBits {
        let entered = ON | IN_GUEST | u32::from(cpu.0) << CPU_SHIFT;
        if mutant(Mutant::EntryDropsWork) {
            let work = self.get();
            self.0.swap(entered, AcqRel);
            return work;
        }
        // AcqRel: pairs with `notify`: what the producer published is visible. Only producers write
        // concurrently, and only the bits that this returns.
        ResidencyBits(self.0.swap(entered, AcqRel))
    }

    /// Out of the guest. Owner only.
    #[inline]
    pub(crate) fn exit(&self) {
        // Relaxed: it publishes nothing; what the guest did is published by the fold's transitions.
        self.0.fetch_and(!IN_GUEST, Relaxed);
    }

    /// Consumes the work outside the guest, and ends blocking. Owner only.
    pub(crate) fn take_work(&self) -> ResidencyBits {
        // AcqRel: pairs with `notify`.
        ResidencyBits(self.0.fetch_and(!(WORK | BLOCKED), AcqRel))
    }

    /// To sleep, unless there is work; true if it now counts as blocked. Owner only.
    pub(crate) fn block(&self) -> bool {
        // AcqRel: pairs with `notify`: either we see its bit, or it sees BLOCKED.
        let old = self.0.fetch_or(BLOCKED, AcqRel);
        if old & WORK == 0 || mutant(Mutant::SleepsWithoutLooking) {
            return true;
        }
        // Relaxed: takes back what the line above did.
        self.0.fetch_and(!BLOCKED, Relaxed);
        false
    }

    /// Powers it on or off; false if it was so already. Powering off is the owner's.
    pub(crate) fn set_power(&self, on: bool) -> bool {
        // AcqRel: pairs with `get` and `load`: powering on hands the vCPU's reset state to the CPU that
        // enters it.
        let old = if on {
            self.0.fetch_or(ON, AcqRel)
        } else {
            self.0.fetch_and(!(ON | BLOCKED), AcqRel)
        };
        (old & ON != 0) != on
    }
}

/// Where a vCPU that is on may be found on the CPU that has its registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whereabouts {
    /// Running the guest's code.
    InGuest,
    /// Out of the guest, and not blocked.
    Out,
}

/// A copy of the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ResidencyBits(u32);

impl ResidencyBits {
    #[inline]
    pub(crate) fn is_on(self) -> bool {
        self.0 & ON != 0
    }

    #[inline]
    pub(crate) fn in_guest(self) -> bool {
        self.0 & IN_GUEST != 0
    }

    /// Whether nothing can be in its list registers that has not been read: it is on no CPU, or blocked.
    /// Out of the guest for a trap, it keeps there what the guest has not finished with.
    pub(crate) fn lrs_are_known(self) -> bool {
        self.0 & BLOCKED != 0 || self.cpu().is_none()
    }

    /// Whether it is on, and there, on `cpu`.
    #[inline]
    pub(crate) fn is(self, there: Whereabouts, cpu: CpuId) -> bool {
        let there = match there {
            Whereabouts::InGuest => ON | IN_GUEST,
            Whereabouts::Out => ON,
        };
        (self.0 ^ u32::from(cpu.0) << CPU_SHIFT) & !WORK == there
    }

    /// The CPU that has its registers.
    #[inline]
    pub(crate) fn cpu(self) -> Option<CpuId> {
        (self.0 & NO_CPU != NO_CPU).then_some(CpuId((self.0 >> CPU_SHIFT) as u16))
    }

    /// Whether there is work of the given kinds.
    #[inline]
    pub(crate) fn has(self, work: u32) -> bool {
        self.0 & work != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CPU: CpuId = CpuId(3);

    #[test]
    fn one_kick_per_stay_in_the_guest() {
        let word = Residency::new(true);
        assert_eq!(word.notify(NEW), Kick::Nothing);
        word.load(CPU).unwrap();
        assert!(word.enter(CPU).has(NEW));
        assert_eq!(word.notify(RECALL_LATER), Kick::Nothing);
        assert_eq!(word.notify(NEW), Kick::Ipi(CPU));
        assert_eq!(word.notify(RECALL), Kick::Nothing);
        word.exit();
        assert_eq!(word.notify(NEW), Kick::Nothing);
        assert_eq!(word.notify(RERAISED), Kick::Nothing);
        let place = word.enter(CPU);
        assert!(
            [NEW, RECALL, RECALL_LATER, RERAISED]
                .iter()
                .all(|work| place.has(*work))
        );
        assert_eq!(word.notify(RERAISED), Kick::Ipi(CPU));
        word.exit();
        let _ = word.enter(CPU);
        assert_eq!(word.notify(RECALL), Kick::Ipi(CPU));
    }

    #[test]
    fn one_wake_per_blocking_and_none_lost() {
        let word = Residency::new(true);
        word.load(CPU).unwrap();
        assert!(word.block());
        assert_eq!(word.notify(NEW), Kick::Wake);
        assert_eq!(word.notify(NEW), Kick::Nothing);
        assert!(!word.block(), "there is work");
        assert!(word.take_work().has(NEW));
        assert!(word.block());
    }

    #[test]
    fn one_owner_at_a_time() {
        let word = Residency::new(false);
        assert!(word.load(CPU).is_ok());
        assert_eq!(word.load(CpuId(4)).unwrap_err().cpu(), Some(CPU));
        word.put();
        assert!(word.load(CpuId(4)).is_ok());
        assert!(!word.get().is_on());
        assert!(word.set_power(true));
        assert!(!word.set_power(true));
        assert!(word.set_power(false));
    }
}
