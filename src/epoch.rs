//! Epoch-based reclamation: frees unlinked objects after their last reader.
//!
//! A hypervisor has a single [`Domain`]. Every physical CPU registers once and owns the returned
//! [`CpuLocal`]. Every operation of the library takes a [`CpuPin`]. The embedder makes a pin at
//! each exit from the guest and drops the pin before the next entry, so no CPU in a guest is in the
//! epoch.
//!
//! Entering the epoch costs a store and a full barrier, and most exits look nothing up. A pin
//! therefore enters the epoch at the first lookup only (`CpuPin::guard`). A pointer to an object
//! that another CPU may free (an LPI, a device, a topology) comes from a lookup, and every lookup
//! takes the guard. SPIs, PPIs, SGIs and vCPUs live as long as their VM, and a linked interrupt
//! lives as long as the link: neither needs the epoch.
#![expect(unsafe_code)]
// UNSAFETY: a pin writes its guard through a shared reference, once.

mod brake;
mod garbage;
mod loaded;
mod releases;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use crossbeam_epoch::{Collector, Guard, LocalHandle};

use crate::error::{ForeignDomain, RegisterError};
use crate::intid::CpuId;
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU8, HeldLocks, Rank, SpinLock, unique_number};
use crate::trace::{Counters, Totals};

use brake::Brake;
pub use garbage::Garbage;
pub(crate) use garbage::Piece;
pub(crate) use loaded::{Loaded, VcpuKey};
pub use releases::{Numbers, Releases};

/// Number of interrupts, devices and events that a CPU unlinks before [`CpuPin::collect`] runs a
/// collection step.
const PILE: u32 = 64;

/// The epoch collector of a hypervisor, shared by all VMs.
pub struct Domain {
    shared: Arc<Shared>,
}

/// A domain, as its CPUs and VMs hold it.
pub(crate) struct Shared {
    collector: Collector,
    brake: Arc<Brake>,
    cpus: SpinLock<Cpus, { Rank::Topology as u8 }>,
}

/// The CPUs of a domain.
#[derive(Default)]
struct Cpus {
    /// Every CPU ever registered.
    registered: Vec<Registration>,
    /// Counts of the drops of VMs.
    drops: Totals,
}

/// A physical CPU that is registered, or was.
struct Registration {
    id: CpuId,
    /// Number of the last registration.
    number: u32,
    /// The CPU's [`CpuLocal`] exists.
    present: bool,
    record: Arc<Record>,
}

/// The part of a CPU's membership that others read or, when a VM ends, write.
#[derive(Default)]
struct Record {
    counters: Counters,
    /// 1 while the CPU has a vCPU of a VM that exists.
    occupied: AtomicU8,
}

/// A registration of a physical CPU, in the layout of bits 63:16 of a residency word: the CPU's
/// identifier in bits 31:16, and in bits 63:32 a number, not 0, of no other registration of any
/// domain.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seat(pub(crate) u64);

impl Seat {
    pub(crate) const CPU_SHIFT: u32 = 16;
    pub(crate) const NO_CPU: Self = Self(0xffff << Self::CPU_SHIFT);
    pub(crate) const TORN_DOWN: Self = Self((CpuId::FIRST_RESERVED as u64) << Self::CPU_SHIFT);

    /// Makes the seat of a registration.
    pub const fn new(number: u32, id: CpuId) -> Self {
        Self((number as u64) << 32 | (id.0 as u64) << Self::CPU_SHIFT)
    }
}

impl Default for Domain {
    fn default() -> Self {
        Self::new()
    }
}

impl Domain {
    /// Creates a domain without CPUs.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                collector: Collector::new(),
                brake: Arc::default(),
                cpus: SpinLock::new(Cpus::default()),
            }),
        }
    }

    /// Adds the calling physical CPU, or thread, to the domain. Allocates. Call once per CPU, at
    /// the CPU's boot; again only after the CPU's [`CpuLocal`] was dropped. The counters of an
    /// identifier that registers again go on.
    ///
    /// # Errors
    /// [`RegisterError`] if `id` is reserved, or if another [`CpuLocal`] of the domain has the
    /// identifier.
    pub fn register(&self, id: CpuId) -> Result<CpuLocal, RegisterError> {
        if id.0 >= CpuId::FIRST_RESERVED {
            return Err(RegisterError::Reserved(id));
        }

        let number = u32::try_from(unique_number()).map_err(|_| RegisterError::Exhausted)?;
        let record = self.enrol(id, number)?;
        // With no lock held: may free what other CPUs have left.
        let handle = self.shared.collector.register();
        self.shared.brake.register_last(&self.shared.collector);
        Ok(CpuLocal::new(
            self.shared.clone(),
            handle,
            id,
            number,
            record,
        ))
    }

    /// Notes that the CPU `id` is present, with the registration `number`. Returns its record.
    fn enrol(&self, id: CpuId, number: u32) -> Result<Arc<Record>, RegisterError> {
        let locks = HeldLocks::default();
        let cpus = &mut self.shared.cpus.lock(&locks).registered;
        match cpus.iter_mut().find(|cpu| cpu.id == id) {
            Some(cpu) if cpu.present => Err(RegisterError::InUse(id)),
            Some(cpu) => {
                cpu.present = true;
                cpu.number = number;
                Ok(cpu.record.clone())
            }
            None => {
                let record = Arc::new(Record::default());
                cpus.push(Registration {
                    id,
                    number,
                    present: true,
                    record: record.clone(),
                });
                Ok(record)
            }
        }
    }

    /// Returns the sum of all CPUs' counters, including CPUs whose [`CpuLocal`] was dropped.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let locks = HeldLocks::default();
        let cpus = self.shared.cpus.lock(&locks);
        let mut totals = cpus.drops;
        for cpu in &cpus.registered {
            totals.add(&cpu.record.counters);
        }
        totals
    }

    /// Returns the domain for a VM to hold.
    pub(crate) fn share(&self) -> Arc<Shared> {
        self.shared.clone()
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No CPUs: their list has a lock, which the caller may hold up.
        f.debug_struct("Domain").finish_non_exhaustive()
    }
}

impl Shared {
    /// Records that the vCPU on the CPU of `seat` has ended with its VM, if the CPU is still
    /// registered.
    pub(crate) fn vcpu_ended(&self, seat: Seat, locks: &HeldLocks) {
        let is_it = |cpu: &&Registration| Seat::new(cpu.number, cpu.id) == seat;
        if let Some(cpu) = self.cpus.lock(locks).registered.iter().find(is_it) {
            // Relaxed: publishes nothing. The CPU that finds its vCPU ended clears list registers
            // of its own, and reads nothing of the VM.
            cpu.record.occupied.store(0, Relaxed);
        }
    }
}

/// A physical CPU's membership of a [`Domain`]. The value stays on its CPU (`!Send`, `!Sync`).
pub struct CpuLocal {
    id: CpuId,
    seat: Seat,
    loaded: Loaded,
    /// Number of objects left to the epoch since the last collection step.
    garbage: Cell<u32>,
    handle: LocalHandle,
    locks: HeldLocks,
    record: Arc<Record>,
    domain: Arc<Shared>,
}

impl CpuLocal {
    /// Makes the membership of a CPU that has been found not to be registered.
    fn new(
        domain: Arc<Shared>,
        handle: LocalHandle,
        id: CpuId,
        number: u32,
        record: Arc<Record>,
    ) -> Self {
        Self {
            id,
            seat: Seat::new(number, id),
            loaded: Loaded::none(),
            garbage: Cell::new(0),
            handle,
            locks: HeldLocks::default(),
            record,
            domain,
        }
    }

    /// Makes a membership for the end of a VM that no other CPU refers to, on any thread. It has no
    /// vCPU, and an epoch of its own: memory left to it is freed with the membership, even beside
    /// CPUs that stay in the domain's epoch.
    pub(crate) fn anonymous(domain: &Arc<Shared>) -> Self {
        let id = CpuId(CpuId::FIRST_RESERVED);
        let handle = Collector::new().register();
        Self::new(domain.clone(), handle, id, 0, Arc::new(Record::default()))
    }

    /// Returns the identifier of the physical CPU.
    #[inline]
    #[must_use]
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Creates a pin for the CPU's work between an exit and the next entry.
    ///
    /// The pin enters the epoch at the first lookup only.
    #[inline]
    pub fn pin(&self) -> CpuPin<'_> {
        CpuPin {
            guard: LateGuard(UnsafeCell::new(ManuallyDrop::new(None))),
            local: self,
        }
    }

    /// Returns the record of the locks that the CPU holds and has taken.
    #[inline]
    pub(crate) fn locks(&self) -> &HeldLocks {
        &self.locks
    }

    /// Returns the CPU's registration, as residency words name it.
    #[inline]
    pub(crate) fn seat(&self) -> Seat {
        self.seat
    }

    /// Returns true if a vCPU of a VM that exists is loaded on the CPU.
    pub(crate) fn is_loaded(&self) -> bool {
        // Relaxed: `Shared::vcpu_ended` publishes nothing else.
        self.loaded.is_some() && self.record.occupied.load(Relaxed) != 0
    }

    /// Returns true if a vCPU of a dropped VM is loaded on the CPU: the list registers still hold
    /// the interrupts of that VM.
    pub(crate) fn outlived_a_vm(&self) -> bool {
        self.loaded.is_some() && !self.is_loaded()
    }

    /// Returns the CPU's record of the loaded vCPU.
    #[inline]
    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Records the address of the vCPU loaded on the CPU, or none.
    pub(crate) fn set_loaded(&self, vcpu: Option<NonNull<()>>) {
        self.loaded.set(vcpu);
        // Relaxed: a VM's end, the other writer, comes after the last use of the VM on this CPU.
        self.record.occupied.store(vcpu.is_some().into(), Relaxed);
    }

    /// Returns the CPU's counters.
    #[inline]
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.record.counters
    }
}

impl fmt::Debug for CpuLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuLocal")
            .field("id", &self.id)
            .field("loaded", &self.is_loaded())
            .field("garbage", &self.garbage.get())
            .finish_non_exhaustive()
    }
}

impl Drop for CpuLocal {
    /// Makes the identifier free for another [`Domain::register`], or keeps the counts of an
    /// anonymous membership.
    fn drop(&mut self) {
        let mut cpus = self.domain.cpus.lock(&self.locks);
        match cpus.registered.iter_mut().find(|cpu| cpu.id == self.id) {
            Some(cpu) => cpu.present = false,
            None => cpus.drops.add(&self.record.counters),
        }
    }
}

/// Evidence of the calling CPU between an exit and the next entry, with its epoch guard.
#[must_use]
pub struct CpuPin<'c> {
    /// Empty until [`CpuPin::enter_here`] writes the guard. A `OnceCell` would check twice for
    /// emptiness.
    guard: LateGuard,
    local: &'c CpuLocal,
}

impl fmt::Debug for CpuPin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuPin")
            .field("local", self.local)
            .finish_non_exhaustive()
    }
}

impl<'c> CpuPin<'c> {
    /// Returns the epoch guard. No object reached by the guard is freed until the pin is dropped.
    ///
    /// The first call enters the epoch, at the cost of a store and a full barrier. The entry of a
    /// pin inside another pin that is in the epoch is a plain increment. While objects wait to be
    /// freed, every 128th entry also frees some of them, and allocates a node per some thousand.
    #[inline]
    pub(crate) fn guard(&self) -> &Guard {
        // SAFETY: a pin is `!Sync`, so only this CPU accesses the cell. `enter_here` alone writes
        // the cell through a shared reference, and only while the cell is empty, before any
        // reference to the guard exists.
        match unsafe { &**self.guard.0.get() } {
            Some(guard) => guard,
            None => self.enter(),
        }
    }

    /// Returns the epoch guard, like [`CpuPin::guard`], with the entry into the epoch inlined: for
    /// callers that are mostly a pin's first. Saves 17 of the 226 instructions of an MSI injected
    /// by the host.
    #[inline]
    pub(crate) fn first_guard(&self) -> &Guard {
        // SAFETY: a pin is `!Sync`, so only this CPU accesses the cell. `enter_here` alone writes
        // the cell through a shared reference, and only while the cell is empty, before any
        // reference to the guard exists.
        match unsafe { &**self.guard.0.get() } {
            Some(guard) => guard,
            None => self.enter_here(),
        }
    }

    /// Enters the epoch, out of line.
    fn enter(&self) -> &Guard {
        self.enter_here()
    }

    /// Enters the epoch and keeps the guard. The cell must be empty.
    #[inline]
    fn enter_here(&self) -> &Guard {
        let guard = self.local.handle.pin();
        let cell = self.guard.0.get();
        // SAFETY: a pin is `!Sync`, so only this CPU accesses the cell. The caller found the cell
        // empty, so no reference to a guard exists and nothing has to be dropped. Destructors that
        // `pin` runs do not have this `CpuPin`. The cell holds a guard after the write.
        unsafe {
            cell.write(ManuallyDrop::new(Some(guard)));
            (*cell).as_ref().unwrap_unchecked()
        }
    }

    /// Returns the calling CPU's membership of the domain.
    #[inline]
    pub(crate) fn local(&self) -> &'c CpuLocal {
        self.local
    }

    /// Checks that the pin is of `domain`: otherwise it does not keep the domain's objects
    /// allocated.
    #[inline]
    pub(crate) fn is_of(&self, domain: &Arc<Shared>) -> Result<(), ForeignDomain> {
        if Arc::ptr_eq(&self.local.domain, domain) {
            Ok(())
        } else {
            Err(ForeignDomain)
        }
    }

    /// Counts an unlinked interrupt, device or event, whose memory the epoch frees.
    #[inline]
    pub(crate) fn leaves_garbage(&self) {
        let garbage = &self.local.garbage;
        garbage.set(garbage.get().wrapping_add(1));
    }

    /// Lets the next [`CpuPin::collect`] run a collection step, however little has been unlinked.
    pub(crate) fn hurry(&self) {
        self.local.garbage.set(PILE);
    }

    /// Runs a collection step if the CPU has unlinked at least [`PILE`] objects since the last
    /// step.
    ///
    /// The step allocates a node of the epoch's queue. Call with no lock held.
    #[inline]
    pub(crate) fn collect(&self) {
        if self.local.garbage.get() >= PILE {
            self.collect_garbage();
        }
    }

    /// Passes on to the domain the objects that this CPU has unlinked, and frees a bounded number
    /// of the domain's unreachable objects.
    ///
    /// The library collects in the course of its work. The call is for a CPU that goes to sleep or
    /// is switched off, whose objects the other CPUs then free, and for reports of the memory in
    /// use. An object becomes unreachable once every CPU has left the epoch, or renewed its pin,
    /// since the object was unlinked: several calls, with new pins, may be needed. Allocates a node
    /// of the epoch's queue. Call with no lock held.
    pub fn collect_garbage(&self) {
        let left = self.local.garbage.replace(0);
        self.guard().flush();
        // An anonymous membership has an epoch of its own.
        if left != 0 && self.local.id.0 < CpuId::FIRST_RESERVED {
            self.local.domain.brake.release();
        }
    }

    /// Returns the identifier of the physical CPU.
    #[inline]
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        self.local.id
    }

    /// Returns the record of the locks that the CPU holds and has taken.
    #[inline]
    pub(crate) fn locks(&self) -> &'c HeldLocks {
        &self.local.locks
    }

    /// Returns the CPU's counters.
    #[inline]
    #[must_use]
    pub fn counters(&self) -> &'c Counters {
        &self.local.record.counters
    }

    /// Runs `f`, a lookup, and counts the lookup and every lock taken in `f`.
    #[inline]
    pub(crate) fn lookup<R>(&self, f: impl FnOnce() -> R) -> R {
        // Copied, because the compiler would read the pin again after `f`: saves 2 of the 158
        // instructions of inject_msi/pending.
        let local = self.local;
        let before = local.locks.acquired();
        let result = f();
        let counters = &local.record.counters;
        counters.lookups.add(1);
        counters
            .lookup_locks_taken
            .add(local.locks.acquired() - before);
        result
    }

    /// Moves the pin to the current epoch, like a drop followed by a new pin.
    ///
    /// For a thread that injects in a loop, say. References obtained under the pin end, by the
    /// `&mut`. A pin in the epoch stays in the epoch, at the cost of two loads and no barrier.
    /// Inside another pin that is in the epoch, the call has no effect.
    #[inline]
    pub fn renew(&mut self) {
        if let Some(guard) = &mut **self.guard.0.get_mut() {
            guard.repin();
        }
    }

    /// Runs `f` outside the epoch, so that a CPU that sleeps in `f` does not hold up reclamation.
    ///
    /// References obtained under the pin end, by the `&mut`. Inside another pin that is in the
    /// epoch, the CPU stays in the epoch.
    pub fn unpinned<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.guard.leave();
        f()
    }

    /// Leaves the epoch, as a drop of the pin does. The next lookup enters the epoch again.
    ///
    /// References obtained under the pin end, by the `&mut`. For a hot path, followed by
    /// `core::mem::forget` of the pin: the compiler turns a drop into a call, and `leave` into a
    /// test if the pin has looked nothing up. Saves 4 of the 134 instructions of a hypercall. A pin
    /// that is forgotten without `leave` stays in the epoch for ever.
    #[inline(always)]
    pub fn leave(&mut self) {
        if self.guard.0.get_mut().is_some() {
            self.guard.leave_out_of_line();
        }
    }
}

/// The epoch guard of a pin, once the pin has entered the epoch.
///
/// Written out, because most pins have not entered the epoch, and the compiler's own drop is a
/// call.
struct LateGuard(UnsafeCell<ManuallyDrop<Option<Guard>>>);

impl LateGuard {
    /// Leaves the epoch, if the pin has entered it.
    #[inline]
    fn leave(&mut self) {
        drop(self.0.get_mut().take());
    }

    /// Leaves the epoch, in a function of its own.
    #[inline(never)]
    fn leave_out_of_line(&mut self) {
        self.leave();
    }
}

impl Drop for LateGuard {
    #[inline(always)]
    fn drop(&mut self) {
        if self.0.get_mut().is_some() {
            self.leave();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicU8;
    use crate::sync::Ordering::Relaxed;

    /// Returns true if an object that `cpu` defers to the epoch is freed while `between` runs
    /// repeatedly.
    fn is_freed(cpu: &CpuLocal, mut between: impl FnMut()) -> bool {
        let freed = Arc::new(AtomicU8::new(0));
        let mark = freed.clone();
        cpu.pin().guard().defer(move || mark.store(1, Relaxed));
        cpu.pin().leaves_garbage();
        for _ in 0..16 {
            between();
            cpu.pin().collect_garbage();
        }

        // Relaxed: one thread stores and loads the mark.
        freed.load(Relaxed) != 0
    }

    #[test]
    fn a_pin_holds_back_what_it_may_have_reached_until_it_is_renewed() {
        let domain = Domain::new();
        let [one, other] = [0, 1].map(|n| domain.register(CpuId(n)).unwrap());
        let mut pin = other.pin();
        assert!(is_freed(&one, || ()), "nothing has been looked up");
        let _ = pin.guard();
        assert!(!is_freed(&one, || ()));
        assert!(is_freed(&one, || pin.renew()));
        // The outer pin keeps the CPU in its epoch, so renewing the inner pin has no effect.
        let mut inner = other.pin();
        let _ = inner.guard();
        assert!(!is_freed(&one, || inner.renew()));
        drop(inner);
        assert!(is_freed(&one, || pin.renew()));
    }
}
