//! `GICD_CTLR.RWP` and `GICR_CTLR.RWP`: register writes that are complete once their effects are
//! seen everywhere.
//!
//! A write that disables an interrupt in a list register of a vCPU in the guest recalls the vCPU.
//! Until the vCPU has left the guest and folded, the guest may still take the interrupt, and RWP
//! reads 1 (IHI 0069, 12.9.4 and 12.11.2).
//!
//! The residency word decides: RECALL is set after the write's change. An entry consumes RECALL,
//! then folds the list registers, and then runs the guest. `Vcpu::rwp` only names the waiting
//! registers: RWP of another register stays 0. An entry that has consumed RECALL clears
//! `Vcpu::rwp`, and the fold comes after both. A bit set later is for a later RECALL, or stays
//! without effect until the next RECALL.
//!
//! # A count comes before its reason
//! 1. A write is counted in [`Control`] no later than its change can be seen, and until it has
//!    notified the vCPUs that it recalls. A guest that sees the change sees RWP as 1 until the
//!    change has its effect, whoever made it.
//! 2. A vCPU is counted in `rwp_vcpus` before its flag is set in `Vcpu::rwp`, and the flag is
//!    cleared before the vCPU is counted off. The count is never less than the number of flags.
//! 3. A read of RWP looks at the writes first, with the load that returns the enables, and then at
//!    the vCPUs, which the writes have made wait.
//!
//! # Looks
//! A read looks at a slice of the vCPUs, and returns 1 until all have been looked at, and none had
//! to be waited for. A vCPU that was looked at is not looked at again: it has left the guest since
//! RECALL was sent, and folds before it runs again. A write that makes a vCPU wait has all vCPUs
//! looked at from the first one.
//!
//! # Order
//! RWP as 0 says that no vCPU in the guest takes the interrupt any more. It publishes nothing else:
//! not what a guest has done, and not the folds, which come after the flag is cleared.
//!
//! A reader that has seen a change finds the write counted, or sees the write's end, and with it
//! the count and the flags. If the reader finds a flag already cleared, the CPU that cleared the
//! flag had its vCPU out of the guest, and folds before the guest runs again. The reader need not
//! see that fold: RWP as 0 speaks of vCPUs in the guest only. The count and the flag need their
//! order, for a count that is not too low.

use crate::epoch::CpuPin;
use crate::host::Host;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Mutant, mutant, word};
use crate::vm::Vm;
use crate::vm::residency::{RECALL, ResidencyBits};
use crate::vm::vcpu::Vcpu;

/// The enables in [`Control`].
const ENABLES: u32 = 0x1ff;
/// A write in progress in [`Control`].
const WRITE: u32 = 1 << 9;

/// The enables of `GICD_CTLR` or `GICR_CTLR`, in bits 8:0, and, in bits 31:9, the number of writes
/// in progress of registers that RWP covers.
#[derive(Debug, Default)]
pub struct Control(AtomicU32);

word!(Control, AtomicU32, u32);

/// A write in progress, until dropped.
#[must_use]
#[derive(Debug)]
pub struct Write<'a>(pub &'a Control);

impl Control {
    /// Returns the enables in bits 8:0. The bits above are in use.
    #[inline]
    pub fn get(&self) -> u32 {
        // Acquire: pairs with the Release in `write`. A CPU that finds no write in progress sees
        // the recalls of those that were: pairs with the drop of the write.
        self.0.load(Acquire)
    }

    /// Begins a write of a register with changes elsewhere.
    pub fn begin(&self) -> Write<'_> {
        if !mutant(Mutant::WriteNotCounted) {
            // Relaxed: published by the change, a transition that follows. A CPU that sees the
            // change finds the write in progress, or its end.
            self.0.fetch_add(WRITE, Relaxed);
        }
        Write(self)
    }

    /// Begins a write of the enables, and changes them. Returns the enables from before.
    pub fn write(&self, enables: u32) -> (u32, Write<'_>) {
        let counted = if mutant(Mutant::WriteNotCounted) {
            0
        } else {
            WRITE
        };
        // Release: pairs with the Acquire in `get` and below: a CPU that sees the enables sees the
        // register writes before. A vCPU notified later sees the enables. Acquire: a CPU that
        // changes the enables back sees the register writes before too. Relaxed: only compared.
        let old = self.0.fetch_update(AcqRel, Relaxed, |word| {
            Some((word & !ENABLES | enables).wrapping_add(counted))
        });
        // `fetch_update` does not fail.
        let old = old.unwrap_or_else(|word| word);
        (old & ENABLES, Write(self))
    }

    /// Clears the enables, for a reset.
    pub(crate) fn reset(&self) {
        // Relaxed: ordered by the caller's claim of the vCPUs.
        self.0.fetch_and(!ENABLES, Relaxed);
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        if !mutant(Mutant::WriteNotCounted) {
            // Release: publishes the notifications; pairs with the Acquire in `get`.
            self.0.0.fetch_sub(WRITE, Release);
        }
    }
}

/// A write of the vCPU's redistributor waits: `GICR_CTLR.RWP`.
pub(crate) const RWP_GICR: u8 = 1 << 0;
/// A write of the distributor waits: `GICD_CTLR.RWP`.
pub const RWP_GICD: u8 = 1 << 1;

/// The registers with a write that waits for a vCPU, a bit each: [`RWP_GICR`] and [`RWP_GICD`].
#[derive(Debug, Default)]
pub struct Waiting(AtomicU8);

word!(Waiting, AtomicU8, u8);

impl Waiting {
    /// Returns true if the flag of `register` is set.
    #[inline]
    pub fn has(&self, register: u8) -> bool {
        // Relaxed: the end of the write has published the flag.
        self.0.load(Relaxed) & register != 0
    }

    /// Sets the flag of `register`. Returns false if the flag was set.
    #[inline]
    pub fn set(&self, register: u8) -> bool {
        // Release: publishes the count; pairs with the Acquire here and in `clear`. Acquire: the
        // flag that was there has a count of its own, which comes before the decrement.
        self.0.fetch_or(register, AcqRel) & register == 0
    }

    /// Clears all flags. Returns true if the flag of `GICD_CTLR` was set.
    #[inline]
    pub fn clear(&self) -> bool {
        // Acquire: pairs with the AcqRel in `set`: the increment comes before the decrement.
        self.0.swap(0, Acquire) & RWP_GICD != 0
    }
}

/// Number of vCPUs with [`RWP_GICD`] in [`Waiting`], or about to have the flag, or that had the
/// flag just now.
#[derive(Debug, Default)]
pub struct Awaited(AtomicU32);

word!(Awaited, AtomicU32, u32);

impl Awaited {
    /// Returns true if a vCPU is counted.
    #[inline]
    pub fn any(&self) -> bool {
        // Relaxed: the end of the write has published the count.
        self.0.load(Relaxed) != 0
    }

    /// Counts a vCPU, before its flag is set.
    #[inline]
    pub fn add(&self) {
        // Relaxed: published by the flag, and by the end of the write.
        self.0.fetch_add(1, Relaxed);
    }

    /// Counts a vCPU off, after its flag was cleared.
    #[inline]
    pub fn sub(&self) {
        // Relaxed: ordered by the flag.
        self.0.fetch_sub(1, Relaxed);
    }
}

/// vCPUs that a read of `GICD_CTLR` looks at.
const SLICE: usize = 64;

/// The reads' look at the vCPUs: the next vCPU in bits 31:0, and the number of the round in bits
/// 63:32.
#[derive(Debug, Default)]
pub(crate) struct Looks(AtomicU64);

impl Looks {
    /// Begins a new round: all vCPUs are looked at once more.
    fn renew(&self) {
        // Release: publishes the flag that a vCPU was given; pairs with the Acquire in `look`.
        // Relaxed: the number of the round is only counted up.
        let _ = self.0.fetch_update(Release, Relaxed, |word| {
            Some((word >> 32).wrapping_add(1) << 32)
        });
    }

    /// Looks at the slice of vCPUs that begins at the next vCPU, by `waits`. Returns false if no
    /// vCPU of the `end` vCPUs is left to look at.
    fn look(&self, end: usize, waits: impl FnOnce(usize) -> bool) -> bool {
        // Acquire: pairs with the Release in `renew`: the CPU sees the flags of the round.
        let word = self.0.load(Acquire);
        let next = word as u32 as usize;
        if next >= end {
            return false;
        }
        if waits(next) {
            return true;
        }

        let passed = word.wrapping_add(SLICE as u64);
        // Relaxed: publishes nothing. If a new round was begun, the slice is looked at again.
        let done = (self.0.compare_exchange(word, passed, Relaxed, Relaxed)).is_ok();
        !done || next.saturating_add(SLICE) < end
    }
}

/// Returns true if writes were in progress when [`Control::get`] returned `control`.
#[inline]
pub fn is_being_written(control: u32) -> bool {
    control >= WRITE
}

/// Returns true if a write may wait for a vCPU with this `residency`: the vCPU is running, and has
/// not folded the list registers since RECALL was sent.
#[inline]
pub fn is_recalled(residency: ResidencyBits) -> bool {
    residency.is_running() && residency.has(RECALL)
}

/// Returns true if a write of `register` waits for the vCPU: the vCPU is running and has not folded
/// the list registers since the write.
pub(crate) fn is_waiting(vcpu: &Vcpu, register: u8) -> bool {
    let residency = vcpu.residency.get();
    vcpu.rwp.has(register) && is_recalled(residency)
}

/// Returns true if a write of the distributor waits for any vCPU, or if vCPUs are left to look at.
/// Looks at the vCPUs only if `rwp_vcpus` is not 0: saves 27 of the 174 instructions of
/// mmio/GICD_CTLR_read.
pub(crate) fn gicd_is_waiting<H: Host>(vm: &Vm<H>) -> bool {
    vm.distributor.rwp_vcpus.any() && look(vm)
}

/// Looks at a slice of vCPUs. Returns true unless no write has been found to wait for any vCPU.
#[cold]
fn look<H: Host>(vm: &Vm<H>) -> bool {
    let vcpus = vm.added_vcpus();
    vm.distributor.rwp_looks.look(vcpus.len(), |first| {
        let mut slice = vcpus.iter().skip(first).take(SLICE);
        slice.any(|vcpu| is_waiting(vcpu, RWP_GICD))
    })
}

/// Makes a write of `register` wait for `vcpu`, after RECALL was sent, if the vCPU is running. A
/// vCPU blocked, on no CPU, or out of the guest on the calling CPU folds the list registers before
/// the next entry.
pub(crate) fn expect<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, vcpu: &Vcpu, register: u8) {
    if !is_recalled(vcpu.residency.get()) || vcpu.is_out_of_guest(pin.local()) {
        return;
    }

    if register == RWP_GICR {
        vcpu.rwp.set(RWP_GICR);
        return;
    }

    let count = &vm.distributor.rwp_vcpus;
    if mutant(Mutant::FlagBeforeCount) {
        if vcpu.rwp.set(RWP_GICD) {
            count.add();
        }
        return;
    }

    count.add();
    if !vcpu.rwp.set(RWP_GICD) {
        // The flag that was there has a count of its own.
        count.sub();
    }
    if !mutant(Mutant::WaitingOverlooked) {
        // After the flag: the vCPU is looked at once more. A flag that was there may have been
        // looked at while it had no effect.
        vm.distributor.rwp_looks.renew();
    }
}

/// Ends all waiting for `vcpu` if `residency` has RECALL. The vCPU is out of the guest and about to
/// fold the list registers. The check saves 2 of the 153 instructions of a hypercall.
#[inline]
pub(crate) fn done<H: Host>(vm: &Vm<H>, vcpu: &Vcpu, residency: ResidencyBits) {
    if residency.has(RECALL) && vcpu.rwp.clear() {
        vm.distributor.rwp_vcpus.sub();
    }
}
