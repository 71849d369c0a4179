//! A vCPU: SGIs, PPIs, ap_list, redistributor, and the shadow of the `ICH_*` registers.
#![expect(unsafe_code)]
// UNSAFETY: gives the CPU that has a vCPU access to the vCPU's shadow.

use core::cell::{RefCell, RefMut, UnsafeCell};
use core::ptr::NonNull;

use arrayvec::ArrayVec;

use crate::epoch::{CpuLocal, CpuPin, VcpuKey};
use crate::fixed::FixedSlice;
use crate::host::PhysicalInterrupt;
use crate::intid::{Affinity, IntId, VcpuId};
use crate::lr;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Mutant, Rank, SpinLock, Watched, mutant};
use crate::vm::ap_list::{ApList, Class, Classes};
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::irq::{ENABLED, Irq, LEVEL};
use crate::vm::redistributor::Redistributor;
use crate::vm::residency::{Residency, ResidencyBits};
use crate::vm::rwp::Waiting;

/// In place of the value for an SGI to a vCPU that the VM does not have.
const NOBODY: u64 = u64::MAX;

/// In the value for an SGI to a vCPU: the hardware has the vCPU's SGIs. The bit is RES0 in
/// `ICC_SGI<n>R_EL1`, so that no guest's value equals the vCPU's, and a look at the bit of its own
/// costs an SGI by state words nothing.
const VIRTUAL_SGIS: u64 = 1 << 63;

/// Lowest bit of the extended PPIs in `physical_ppis`.
const FIRST_EXTENDED_BIT: u32 = 16;

/// Number of extended PPIs that share a bit in `physical_ppis`: 64 take 16 bits, and the word keeps
/// its line.
const EXTENDED_PER_BIT: usize = 4;

/// A vCPU's shadow, accessible to the CPU that has the vCPU.
struct OwnedShadow {
    shadow: UnsafeCell<RefCell<IchShadow>>,
    watched: Watched,
}

// SAFETY: `Vcpu::shadow` gives access only to the owner named by `Residency`, and `Residency::load`
// and `put` hand the ownership over. The ap_list's references keep the interrupts behind
// the shadow's pointers alive.
unsafe impl Sync for OwnedShadow {}
// SAFETY: the shadow points only to interrupts. CPUs share interrupts freely, and the ap_list's
// references keep the interrupts alive.
unsafe impl Send for OwnedShadow {}

/// A vCPU of a VM.
// Two 64-byte lines: neighbours share neither a line nor a prefetched pair. In this order an SGI
// from another CPU takes 6 lines from CPU to CPU, and 15 in the compiler's: the residency, the lock
// and a list of one interrupt fill one line.
#[repr(C, align(128))]
pub(crate) struct Vcpu {
    private: [Irq; IntId::PRIVATE as usize],
    pub(crate) residency: Residency,
    /// Registers with RWP waiting for this vCPU: [`rwp`](super::rwp).
    pub(crate) rwp: Waiting,
    pub(crate) ap_list: SpinLock<ApList, { Rank::ApList as u8 }>,
    shadow: OwnedShadow,
    pub(crate) redistributor: Redistributor,
    // From here on a line that all CPUs read. Only `retry_gpa` and `retries` change, in a read of
    // another vCPU's states that is tried again.
    pub(crate) key: VcpuKey,
    /// Value of `ICC_SGI<n>R_EL1`, without the INTID, for an SGI to this vCPU alone, with
    /// [`VIRTUAL_SGIS`] while the hardware has its SGIs; all ones while the VM does not have the
    /// vCPU.
    sgi_to_itself: AtomicU64,
    pub(crate) id: VcpuId,
    /// PPIs that are, or have been, connected to a physical PPI: bit n for INTID 16 + n, and bit
    /// 16 + n for one of the [`EXTENDED_PER_BIT`] extended ones from INTID 1056 + 4n on.
    physical_ppis: AtomicU32,
    /// Guest-physical address of the register read that this vCPU tries again, after the recall of
    /// another vCPU; all ones for none.
    pub(crate) retry_gpa: AtomicU64,
    /// Number of times that the read at `retry_gpa` was tried again in vain.
    pub(crate) retries: AtomicU16,
    /// The extended PPIs, from INTID 1056 on.
    extended: FixedSlice<Irq>,
}

#[cfg(not(any(loom, debug_assertions)))]
const _: () = {
    let key = core::mem::offset_of!(Vcpu, key);
    assert!(
        key.is_multiple_of(64),
        "the CPU of the vCPU writes before it"
    );
};

impl Vcpu {
    /// Makes a vCPU after reset, which the VM does not have yet. Allocates nothing for no extended
    /// PPIs.
    pub(crate) fn new(key: VcpuKey, id: VcpuId, extended_ppis: u32) -> Self {
        let first = IntId::FIRST_EXTENDED_PPI;
        Self {
            key,
            id,
            residency: Residency::absent(),
            rwp: Waiting::default(),
            sgi_to_itself: AtomicU64::new(NOBODY),
            retry_gpa: AtomicU64::new(u64::MAX),
            retries: AtomicU16::new(0),
            ap_list: SpinLock::new(ApList::new(id)),
            shadow: OwnedShadow {
                shadow: UnsafeCell::new(RefCell::new(IchShadow::after_reset())),
                watched: Watched::default(),
            },
            redistributor: Redistributor::new(),
            physical_ppis: AtomicU32::new(0),
            extended: (first..first.saturating_add(extended_ppis))
                .filter_map(IntId::ppi)
                .map(|intid| Irq::new(intid, LEVEL, Some(id)))
                .collect(),
            private: core::array::from_fn(|n| {
                // SGIs are always edge-triggered; PPIs are level-sensitive after reset.
                let flags = if n < 16 { 0 } else { LEVEL };
                Irq::new(IntId::new(n as u32).expect("below 32"), flags, Some(id))
            }),
        }
    }

    /// Adds the vCPU, in the state after reset, to the VM. Under the lock `Vm::growth`.
    pub(crate) fn add(&self, affinity: Affinity) {
        self.residency.add();
        let target = affinity.sgi_group() | 1 << (affinity.aff0() & 0xf);
        // Release: publishes the state of the vCPU; pairs with the Acquire in `sgi_to_itself`.
        self.sgi_to_itself.store(target, Release);
    }

    /// Takes the vCPU, which is absent by now, from the VM. Under the lock `Vm::growth`. CPUs that
    /// have found the vCPU before may still use it.
    pub(crate) fn remove(&self) {
        // Relaxed: publishes nothing. The locks and fences of the removal decide who may still have
        // found the vCPU.
        self.sgi_to_itself.store(NOBODY, Relaxed);
    }

    /// Makes a vCPU after reset one of a GICv2: SGIs are always enabled, as on most GICv2s
    /// (`GICD_ISENABLER0` of IHI 0048, 4.3.5, leaves it open). The vCPU is claimed, or the VM is
    /// being made.
    pub(crate) fn reset_gicv2(&self) {
        self.redistributor.wake_up();
        let (sgis, _) = self.private.split_at(IntId::FIRST_PPI as usize);
        for sgi in sgis {
            // Nothing is pending: nothing follows.
            let _ = sgi.update(|state| state.with(ENABLED, 0));
        }
    }

    /// Returns the value of `ICC_SGI<n>R_EL1`, without the INTID, for an SGI to the vCPU alone; a
    /// value that equals none of them while the hardware has the vCPU's SGIs, or the VM does not
    /// have the vCPU.
    #[inline]
    pub(crate) fn sgi_to_itself(&self) -> u64 {
        // Acquire: pairs with the Release in `add`.
        self.sgi_to_itself.load(Acquire)
    }

    /// Returns the value of [`Vcpu::sgi_to_itself`] while the hardware has none of the SGIs.
    pub(crate) fn sgi_address(&self) -> u64 {
        match self.sgi_to_itself() {
            NOBODY => NOBODY,
            value => value & !VIRTUAL_SGIS,
        }
    }

    /// Returns true if SGIs to the vCPU are to become pending in its virtual PE. The caller sees
    /// the virtual PE.
    pub(crate) fn has_virtual_sgis(&self) -> bool {
        let value = self.sgi_to_itself();
        value != NOBODY && value & VIRTUAL_SGIS != 0
    }

    /// Lets SGIs become pending in the vCPU's virtual PE from now on, or ends that. A CPU that has
    /// looked before may still use the other way.
    pub(crate) fn set_virtual_sgis(&self, on: bool) {
        // Release: publishes the virtual PE; pairs with the Acquire in `sgi_to_itself`. Relaxed:
        // only compared. A vCPU that the VM does not have any more stays away.
        let _ = self.sgi_to_itself.fetch_update(Release, Relaxed, |value| {
            let marked = if on {
                value | VIRTUAL_SGIS
            } else {
                value & !VIRTUAL_SGIS
            };
            (value != NOBODY).then_some(marked)
        });
    }

    /// Returns true if the VM has the vCPU. The caller sees the vCPU as it was added.
    #[inline]
    pub(crate) fn is_present(&self) -> bool {
        self.sgi_to_itself() != NOBODY
    }

    /// Returns the SGI or PPI `intid`, also an extended PPI.
    #[inline]
    pub(crate) fn private(&self, intid: IntId) -> Option<&Irq> {
        match self.private.get(intid.raw() as usize) {
            Some(irq) => Some(irq),
            None => self.extended_ppi(intid),
        }
    }

    /// Returns the extended PPI `intid`.
    #[cold]
    fn extended_ppi(&self, intid: IntId) -> Option<&Irq> {
        let index = intid.raw().checked_sub(IntId::FIRST_EXTENDED_PPI)?;
        self.extended.get(index as usize)
    }

    /// Returns the SGIs and PPIs, by INTID, without extended PPIs.
    pub(crate) fn privates(&self) -> &[Irq] {
        &self.private
    }

    /// Returns the extended PPIs, by INTID.
    pub(crate) fn extended_ppis(&self) -> &[Irq] {
        &self.extended
    }

    /// Returns every SGI and PPI, by INTID.
    pub(crate) fn all_privates(&self) -> impl Iterator<Item = &Irq> {
        self.private.iter().chain(&self.extended)
    }

    /// Notes that the PPI `intid` has been connected to a physical PPI.
    pub(crate) fn add_physical_ppi(&self, intid: IntId) {
        let extended = intid.raw().checked_sub(IntId::FIRST_EXTENDED_PPI);

        let bit = match extended {
            Some(index) => FIRST_EXTENDED_BIT.wrapping_add(index / EXTENDED_PER_BIT as u32),
            None => intid.raw() & 0xf,
        };

        // Relaxed: comes before the transition that sets CONNECTED, and every user of the bit after
        // a forward, a transition on the user's CPU that has found CONNECTED.
        self.physical_ppis.fetch_or(1 << (bit & 31), Relaxed);
    }

    /// Returns true if a PPI is, or has been, connected to a physical PPI.
    #[inline]
    pub(crate) fn has_physical_ppis(&self) -> bool {
        // Relaxed: ordered by the forward on this CPU, as `add_physical_ppi` says.
        self.physical_ppis.load(Relaxed) != 0
    }

    /// Returns the PPIs that are, or have been, connected to a physical PPI, and extended PPIs
    /// nearby.
    pub(crate) fn physical_ppis(&self) -> impl Iterator<Item = &Irq> {
        // Relaxed: ordered by the forward on this CPU, as `add_physical_ppi` says.
        let connected = self.physical_ppis.load(Relaxed);
        let extended = bits((connected >> FIRST_EXTENDED_BIT) as u16)
            .filter_map(|n| self.extended.chunks(EXTENDED_PER_BIT).nth(n))
            .flatten();
        bits(connected as u16)
            .filter_map(|n| self.private.get(n + IntId::FIRST_PPI as usize))
            .chain(extended)
    }

    /// Returns the classes allowed into this vCPU's list registers while the distributor enables
    /// `groups`.
    #[inline]
    pub(crate) fn enabled_classes(&self, groups: Classes) -> Classes {
        let lpis = groups.contains(Class::Group1)
            && (self.redistributor.lpis_enabled() || mutant(Mutant::DisabledLpiFilled));
        groups.with(Class::Lpi, lpis)
    }
}

/// The shadow.
impl Vcpu {
    /// Borrows the shadow, if the calling CPU has the vCPU and has not borrowed the shadow already.
    #[inline]
    pub(crate) fn shadow(&self, local: &CpuLocal) -> Option<RefMut<'_, IchShadow>> {
        let here = self.residency.get().is_on_cpu(local.seat());
        // SAFETY: the line above has found that the calling CPU has the vCPU.
        here.then(|| unsafe { self.borrow_shadow() }).flatten()
    }

    /// Borrows the shadow as [`Vcpu::shadow`] does, if the vCPU is out of the guest, not blocked.
    #[inline]
    pub(crate) fn shadow_out_of_guest(&self, local: &CpuLocal) -> Option<RefMut<'_, IchShadow>> {
        let here = self.is_out_of_guest(local);
        // SAFETY: the line above has found that the calling CPU has the vCPU.
        here.then(|| unsafe { self.borrow_shadow() }).flatten()
    }

    /// Returns true if the calling CPU has the vCPU out of the guest, not blocked:
    /// the CPU looks at the residency word before entering the guest.
    #[inline]
    pub(crate) fn is_out_of_guest(&self, local: &CpuLocal) -> bool {
        local.loaded().out(self.key).is_some()
    }

    /// Borrows the shadow, unless the calling CPU has borrowed the shadow already.
    ///
    /// # Safety
    /// The calling CPU has the vCPU.
    #[inline]
    pub(crate) unsafe fn borrow_shadow(&self) -> Option<RefMut<'_, IchShadow>> {
        self.shadow.watched.write();
        // SAFETY: `Residency` names the calling CPU as the owner, and only the owner changes the
        // ownership. `CpuLocal` is not `Sync`: one caller at a time.
        unsafe { &*self.shadow.shadow.get() }.try_borrow_mut().ok()
    }

    /// Returns the result of `what` on the shadow, or `None` while the shadow is borrowed. With the
    /// work that the answer avoids, saves 46 of the 97 instructions of vcpu_enter/0 and 106 of the
    /// 151 of vcpu_exit/0.
    ///
    /// # Safety
    /// The calling CPU has the vCPU.
    #[inline]
    pub(crate) unsafe fn peek(&self, what: fn(&IchShadow) -> bool) -> Option<bool> {
        self.shadow.watched.read();
        // SAFETY: the caller promises that the calling CPU has the vCPU, and only the owner changes
        // the ownership. `what` has no access to the vCPU, and borrows nothing meanwhile.
        unsafe { (*self.shadow.shadow.get()).try_borrow_unguarded() }
            .ok()
            .map(what)
    }

    /// Makes the calling CPU the owner of the vCPU, and borrows the shadow. Returns the residency
    /// if another CPU has the vCPU.
    pub(crate) fn load(&self, local: &CpuLocal) -> Result<RefMut<'_, IchShadow>, ResidencyBits> {
        self.residency.load(local.seat())?;
        local.set_loaded(Some(NonNull::from(self).cast()));
        // SAFETY: the calling CPU has just become the owner.
        unsafe { self.borrow_shadow() }.ok_or_else(|| self.residency.get())
    }

    /// Gives up the ownership of the vCPU.
    pub(crate) fn put(&self, local: &CpuLocal) {
        local.set_loaded(None);
        // The last access of the CPU to the shadow.
        self.shadow.watched.write();
        self.residency.put();
    }

    /// Relinks the interrupts of the list registers without reading the registers; for a dropped
    /// VM. Returns the physical interrupts behind the list registers.
    ///
    /// # Safety
    /// No CPU runs the vCPU, or will.
    pub(crate) unsafe fn abandon(
        &self,
        pin: &CpuPin<'_>,
    ) -> ArrayVec<PhysicalInterrupt, { lr::MAX }> {
        let mut physical = ArrayVec::new();
        let Some(cpu) = self.residency.get().cpu() else {
            return physical;
        };

        // SAFETY: the caller promises that no CPU uses the shadow. A shared reference, because the
        // list points to the vCPU's own interrupts.
        let shadow = unsafe { &*self.shadow.shadow.get() };
        let mut shadow = shadow.borrow_mut();

        let mut list = self.ap_list.lock(pin.locks());
        for index in bits(core::mem::take(&mut shadow.in_use)) {
            // SAFETY: by the invariant of `IchShadow` the interrupt is queued on this vCPU. The
            // list's reference keeps the interrupt alive, and no other CPU unlinks.
            if let Some(irq) = unsafe { shadow.irqs[index].as_ref() } {
                if irq.fold_without_read() {
                    physical.push(irq.ended(cpu));
                }
                list.link(irq, irq.state());
            }
        }

        physical
    }

    /// Returns `ICH_VMCR_EL2` and the active priorities of a vCPU on no CPU.
    ///
    /// # Safety
    /// The caller has claimed the vCPU: no CPU has it, or gets it during the call.
    pub(crate) unsafe fn saved_interface(&self) -> (u64, [[u32; 4]; 2]) {
        self.shadow.watched.read();
        // SAFETY: the caller promises that no CPU uses the shadow.
        let shadow = unsafe { &*self.shadow.shadow.get() };
        shadow.borrow().interface()
    }

    /// Replaces the shadow. No list register is in use.
    ///
    /// # Safety
    /// The caller has claimed the vCPU: no CPU has it, or gets it during the call.
    pub(crate) unsafe fn replace_shadow(&self, new: IchShadow) {
        self.shadow.watched.write();
        // SAFETY: the caller promises that no CPU uses the shadow.
        let shadow = unsafe { &*self.shadow.shadow.get() };
        shadow.replace(new);
    }

    /// Returns true if an edge has come of an interrupt in a list register not ended by the guest.
    pub(crate) fn has_reraised(&self, shadow: &IchShadow) -> bool {
        bits(shadow.in_use)
            .filter_map(|index| self.irq_in_lr(shadow, index))
            .any(|irq| irq.state().latch())
    }

    /// Returns the interrupt that list register `index` holds, or held until vacated just now.
    pub(crate) fn irq_in_lr<'r>(&self, shadow: &'r IchShadow, index: usize) -> Option<&'r Irq> {
        // SAFETY: by the invariant of `IchShadow` the interrupt is queued on this vCPU, and the
        // list's reference keeps the interrupt alive. Callers ask only for list registers in use,
        // or just folded and not pruned yet.
        unsafe { shadow.irqs[index].as_ref() }
    }
}
