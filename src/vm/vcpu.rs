//! One vCPU: its private interrupts, its ap_list, and where it is.
#![expect(unsafe_code)]
// UNSAFETY: gives the CPU that owns a vCPU's registers access to what is remembered of them.

use core::cell::{RefCell, RefMut, UnsafeCell};

use crate::cpu::Cpu;
use crate::epoch::{CpuLocal, CpuPin};
use crate::intid::{Affinity, IntId, VcpuId};
use crate::lr::ListRegister;
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU8, AtomicU64, Rank, SpinLock, Watched};
use crate::vm::ap_list::{ApList, Class, Classes};
use crate::vm::ich_shadow::{IchShadow, bits};
use crate::vm::irq::{ENABLED, GROUP1, Irq, LEVEL};
use crate::vm::redistributor::Redistributor;
use crate::vm::residency::{Residency, ResidencyBits, Whereabouts};

/// What a vCPU's registers hold, accessible to the CPU that has them.
pub(crate) struct OwnedShadow {
    pub(crate) shadow: UnsafeCell<RefCell<IchShadow>>,
    pub(crate) watched: Watched,
}

// SAFETY: `Vcpu::registers` gives access only to the CPU that `Residency` names as the owner, and
// ownership is handed over by `load` and `put`. The pointers inside are kept alive by the
// ap_list's references.
unsafe impl Sync for OwnedShadow {}

// SAFETY: as above.
unsafe impl Send for OwnedShadow {}

/// One vCPU of a VM.
// Two 64-byte lines, so that neighbours share neither a line nor a prefetched pair.
#[repr(align(128))]
pub(crate) struct Vcpu {
    pub(crate) id: VcpuId,
    pub(crate) residency: Residency,
    /// Whose writes may be incomplete: see [`Vcpu::rwp_pending`].
    pub(crate) rwp: AtomicU8,
    /// What `ICC_SGI<n>R_EL1` is written with for an SGI to this vCPU alone, but for its INTID; all ones
    /// while the vCPU is absent.
    pub(crate) sgi_to_itself: AtomicU64,
    /// Address of the register read that this vCPU is to try again, or all ones: it has retry_gpa another
    /// vCPU to take its list registers back.
    pub(crate) retry_gpa: AtomicU64,
    pub(crate) ap_list: SpinLock<ApList>,
    pub(crate) shadow: OwnedShadow,
    pub(crate) redistributor: Redistributor,
    pub(crate) private: [Irq; IntId::PRIVATE as usize],
}

impl Vcpu {
    pub(crate) fn new(id: VcpuId, on: bool) -> Self {
        Self {
            id,
            residency: Residency::new(on),
            rwp: AtomicU8::new(0),
            sgi_to_itself: AtomicU64::new(u64::MAX),
            retry_gpa: AtomicU64::new(u64::MAX),
            ap_list: SpinLock::new(Rank::ApList, ApList::new(id)),
            shadow: OwnedShadow {
                shadow: UnsafeCell::new(RefCell::new(IchShadow::new(
                    crate::cpu_interface::vmcr::reset(5),
                ))),
                watched: Watched::default(),
            },
            redistributor: Redistributor::new(),
            private: core::array::from_fn(|n| {
                // SGIs are always edge-triggered and, here, always enabled-able; PPIs start as level.
                let flags = if n < 16 { 0 } else { LEVEL };
                Irq::new(
                    IntId::new(n as u32).expect("below 32"),
                    flags & !(ENABLED | GROUP1),
                    Some(id),
                )
            }),
        }
    }

    /// Tells the vCPU, which is about to be present, its affinity.
    pub(crate) fn set_affinity(&self, affinity: Affinity) {
        let target = affinity.sgi_group() | 1 << (affinity.aff0() & 0xf);
        // Relaxed: written once, before the vCPU is present, which publishes it.
        self.sgi_to_itself.store(target, Relaxed);
    }

    /// What `ICC_SGI<n>R_EL1` holds for an SGI to this vCPU alone, without its INTID.
    #[inline]
    pub(crate) fn sgi_to_itself(&self) -> u64 {
        // Relaxed: as in `set_affinity`.
        self.sgi_to_itself.load(Relaxed)
    }

    /// The SGI or PPI with this INTID.
    #[inline]
    pub(crate) fn private(&self, intid: IntId) -> Option<&Irq> {
        self.private.get(intid.raw() as usize)
    }

    pub(crate) fn privates(&self) -> &[Irq] {
        &self.private
    }

    /// What this vCPU's registers hold, if they are the calling CPU's and nobody is at them already.
    #[inline]
    pub(crate) fn shadow(&self, local: &CpuLocal) -> Option<RefMut<'_, IchShadow>> {
        let here = local.has(self) && self.residency.get().cpu() == Some(local.id());
        // SAFETY: they are.
        here.then(|| unsafe { self.borrow() }).flatten()
    }

    /// As [`Vcpu::registers`], if the vCPU is out of the guest, and not blocked.
    #[inline]
    pub(crate) fn shadow_out_of_guest(&self, local: &CpuLocal) -> Option<RefMut<'_, IchShadow>> {
        let here = local.has(self) && self.residency.get().is(Whereabouts::Out, local.id());
        // SAFETY: they are.
        here.then(|| unsafe { self.borrow() }).flatten()
    }

    /// As [`Vcpu::registers`], once [`Vcpu::peek`] or the like has found whose they are.
    ///
    /// # Safety
    /// They are the calling CPU's.
    #[inline]
    pub(crate) unsafe fn borrow(&self) -> Option<RefMut<'_, IchShadow>> {
        self.shadow.watched.write();
        // SAFETY: `residency` names the calling CPU as the owner, and only the owner changes that;
        // `CpuLocal` is not `Sync`, so there is one caller at a time.
        unsafe { &*self.shadow.shadow.get() }.try_borrow_mut().ok()
    }

    /// Says whether `what` holds of this vCPU's registers, if `cpu` has them, is not at them already, and
    /// the vCPU is there. One look, for what most exits and entries need to know.
    #[inline]
    pub(crate) fn peek(
        &self,
        local: &CpuLocal,
        there: Whereabouts,
        what: fn(&IchShadow) -> bool,
    ) -> Option<(ResidencyBits, bool)> {
        let place = self.residency.get();
        if !local.has(self) || !place.is(there, local.id()) {
            return None;
        }
        self.shadow.watched.read();
        // SAFETY: as in `borrow`; `what`, which is not given the vCPU, borrows nothing while it looks.
        unsafe { (*self.shadow.shadow.get()).try_borrow_unguarded() }
            .ok()
            .map(|shadow| (place, what(shadow)))
    }

    /// Takes the vCPU's registers for `cpu`, and gives access to them.
    pub(crate) fn load<I>(&self, cpu: &Cpu<I>) -> Result<RefMut<'_, IchShadow>, ResidencyBits> {
        self.residency.load(cpu.local.id())?;
        cpu.local.set_loaded(Some(self));
        self.shadow(&cpu.local).ok_or_else(|| self.residency.get())
    }

    /// Relinks what the registers hold, without reading them; for a VM that is dropped.
    ///
    /// # Safety
    /// No CPU runs this vCPU, or will.
    pub(crate) unsafe fn abandon(&self, pin: &CpuPin<'_>) {
        // SAFETY: the caller's promise. Not by a unique reference to the vCPU, whose own interrupts the
        // list points to.
        let shadow = unsafe { &*self.shadow.shadow.get() };
        let mut shadow = shadow.borrow_mut();
        let mut list = self.ap_list.lock(pin.ledger());
        for index in bits(core::mem::take(&mut shadow.in_use)) {
            // SAFETY: by the invariant of `IchShadow`, queued here and so kept alive by the list's
            // reference; nobody else takes it off.
            if let Some(irq) = unsafe { shadow.irqs[index].as_ref() } {
                let _ = irq.fold(ListRegister::EMPTY);
                list.link(irq, irq.state());
            }
        }
    }

    /// Gives the registers up.
    pub(crate) fn put<I>(&self, cpu: &Cpu<I>) {
        cpu.local.set_loaded(None::<&Self>);
        // The last of what this CPU did to them.
        self.shadow.watched.write();
        self.residency.put();
    }

    /// Classes that may go into this vCPU's list registers while the distributor allows `groups`.
    #[inline]
    pub(crate) fn open_classes(&self, groups: Classes) -> Classes {
        let lpis = groups.contains(Class::Group1) && self.redistributor.lpis_enabled();
        groups.with(Class::Lpi, lpis)
    }
}

impl Vcpu {
    /// Whether an interrupt has come again while it is in a list register, which the guest has not finished
    /// with.
    #[cold]
    pub(crate) fn waits_behind_itself(&self, shadow: &IchShadow) -> bool {
        bits(shadow.in_use)
            .filter_map(|index| self.listed(shadow, index))
            .any(|irq| irq.state().latch())
    }

    /// The interrupt that register `index` holds or has just been vacated by; still queued here.
    pub(crate) fn listed<'r>(&self, shadow: &'r IchShadow, index: usize) -> Option<&'r Irq> {
        // SAFETY: by the invariant of `IchShadow` it is queued on this vCPU, so the list's reference
        // keeps it alive; callers look only at registers in use, or at those they have just folded
        // and not pruned yet.
        unsafe { shadow.irqs[index].as_ref() }
    }
}
