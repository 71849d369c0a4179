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
use crate::vm::ich_shadow::{Registers, bits};
use crate::vm::irq::{ENABLED, GROUP1, Irq, LEVEL};
use crate::vm::redistributor::Redistributor;
use crate::vm::residency::{Place, Residency, Whereabouts};

/// What a vCPU's registers hold, accessible to the CPU that has them.
pub(crate) struct Owned {
    pub(crate) registers: UnsafeCell<RefCell<Registers>>,
    pub(crate) watched: Watched,
}

// SAFETY: `Vcpu::registers` gives access only to the CPU that `Residency` names as the owner, and
// ownership is handed over by `claim` and `release`. The pointers inside are kept alive by the
// ap_list's references.
unsafe impl Sync for Owned {}

// SAFETY: as above.
unsafe impl Send for Owned {}

/// One vCPU of a VM.
// Two 64-byte lines, so that neighbours share neither a line nor a prefetched pair.
#[repr(align(128))]
pub(crate) struct Vcpu {
    pub(crate) id: VcpuId,
    pub(crate) residency: Residency,
    /// Whose writes may be incomplete: see [`Vcpu::awaits`].
    pub(crate) awaited: AtomicU8,
    /// What `ICC_SGI<n>R_EL1` is written with for an SGI to this vCPU alone, but for its INTID; all ones
    /// while the vCPU is absent.
    pub(crate) sgi_to_itself: AtomicU64,
    /// Address of the register read that this vCPU is to try again, or all ones: it has asked another
    /// vCPU to take its list registers back.
    pub(crate) asked: AtomicU64,
    pub(crate) ap_list: SpinLock<ApList>,
    pub(crate) registers: Owned,
    pub(crate) redistributor: Redistributor,
    pub(crate) private: [Irq; IntId::PRIVATE as usize],
}

impl Vcpu {
    pub(crate) fn new(id: VcpuId, on: bool) -> Self {
        Self {
            id,
            residency: Residency::new(on),
            awaited: AtomicU8::new(0),
            sgi_to_itself: AtomicU64::new(u64::MAX),
            asked: AtomicU64::new(u64::MAX),
            ap_list: SpinLock::new(Rank::ApList, ApList::new(id)),
            registers: Owned {
                registers: UnsafeCell::new(RefCell::new(Registers::new(
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
    pub(crate) fn registers(&self, local: &CpuLocal) -> Option<RefMut<'_, Registers>> {
        let here = local.has(self) && self.residency.get().cpu() == Some(local.id());
        // SAFETY: they are.
        here.then(|| unsafe { self.borrow() }).flatten()
    }

    /// As [`Vcpu::registers`], if the vCPU is out of the guest, and not blocked.
    #[inline]
    pub(crate) fn registers_at_home(&self, local: &CpuLocal) -> Option<RefMut<'_, Registers>> {
        let here = local.has(self) && self.residency.get().is(Whereabouts::Out, local.id());
        // SAFETY: they are.
        here.then(|| unsafe { self.borrow() }).flatten()
    }

    /// As [`Vcpu::registers`], once [`Vcpu::glance`] or the like has found whose they are.
    ///
    /// # Safety
    /// They are the calling CPU's.
    #[inline]
    pub(crate) unsafe fn borrow(&self) -> Option<RefMut<'_, Registers>> {
        self.registers.watched.write();
        // SAFETY: `residency` names the calling CPU as the owner, and only the owner changes that;
        // `CpuLocal` is not `Sync`, so there is one caller at a time.
        unsafe { &*self.registers.registers.get() }
            .try_borrow_mut()
            .ok()
    }

    /// Says whether `what` holds of this vCPU's registers, if `cpu` has them, is not at them already, and
    /// the vCPU is there. One look, for what most exits and entries need to know.
    #[inline]
    pub(crate) fn glance(
        &self,
        local: &CpuLocal,
        there: Whereabouts,
        what: fn(&Registers) -> bool,
    ) -> Option<(Place, bool)> {
        let place = self.residency.get();
        if !local.has(self) || !place.is(there, local.id()) {
            return None;
        }
        self.registers.watched.read();
        // SAFETY: as in `borrow`; `what`, which is not given the vCPU, borrows nothing while it looks.
        unsafe { (*self.registers.registers.get()).try_borrow_unguarded() }
            .ok()
            .map(|registers| (place, what(registers)))
    }

    /// Takes the vCPU's registers for `cpu`, and gives access to them.
    pub(crate) fn claim<I>(&self, cpu: &Cpu<I>) -> Result<RefMut<'_, Registers>, Place> {
        self.residency.claim(cpu.local.id())?;
        cpu.local.set_loaded(Some(self));
        self.registers(&cpu.local)
            .ok_or_else(|| self.residency.get())
    }

    /// Relinks what the registers hold, without reading them; for a VM that is dropped.
    ///
    /// # Safety
    /// No CPU runs this vCPU, or will.
    pub(crate) unsafe fn abandon_registers(&self, pin: &CpuPin<'_>) {
        // SAFETY: the caller's promise. Not by a unique reference to the vCPU, whose own interrupts the
        // list points to.
        let registers = unsafe { &*self.registers.registers.get() };
        let mut registers = registers.borrow_mut();
        let mut list = self.ap_list.lock(pin.ledger());
        for index in bits(core::mem::take(&mut registers.in_use)) {
            // SAFETY: by the invariant of `Registers`, queued here and so kept alive by the list's
            // reference; nobody else takes it off.
            if let Some(irq) = unsafe { registers.irqs[index].as_ref() } {
                let _ = irq.fold(ListRegister::EMPTY);
                list.link(irq, irq.state());
            }
        }
    }

    /// Gives the registers up.
    pub(crate) fn release<I>(&self, cpu: &Cpu<I>) {
        cpu.local.set_loaded(None::<&Self>);
        // The last of what this CPU did to them.
        self.registers.watched.write();
        self.residency.release();
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
    pub(crate) fn waits_behind_itself(&self, registers: &Registers) -> bool {
        bits(registers.in_use)
            .filter_map(|index| self.listed(registers, index))
            .any(|irq| irq.state().latch())
    }

    /// The interrupt that register `index` holds or has just been vacated by; still queued here.
    pub(crate) fn listed<'r>(&self, registers: &'r Registers, index: usize) -> Option<&'r Irq> {
        // SAFETY: by the invariant of `Registers` it is queued on this vCPU, so the list's reference
        // keeps it alive; callers look only at registers in use, or at those they have just folded
        // and not pruned yet.
        unsafe { registers.irqs[index].as_ref() }
    }
}
