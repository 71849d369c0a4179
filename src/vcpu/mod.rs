//! One vCPU: its private interrupts, its ap_list, and where it is.
//!
//! * [`residency`]: where the vCPU is, and the kick protocol;
//! * [`registers`]: what its list registers hold;
//! * [`entry`]: into the guest and out of it, onto a CPU and off it;
//! * [`flush`]: choosing what the list registers hold;
//! * [`fold`]: taking back what the guest has done with them;
//! * [`blocking`]: whether it has something to wake up for.
#![expect(unsafe_code)]
// UNSAFETY: gives the CPU that owns a vCPU's registers access to what is remembered of them.

mod blocking;
mod entry;
mod flush;
mod fold;
mod registers;
pub(crate) mod residency;
#[cfg(all(test, not(loom)))]
mod tests;

use core::cell::{RefCell, RefMut, UnsafeCell};

use crate::ap_list::{ApList, Class, Classes};
use crate::cpu_interface::{CpuInterface, Vtr, hcr};
use crate::epoch::{CpuLocal, CpuPin};
use crate::intid::{Affinity, CpuId, IntId, VcpuId};
use crate::irq::{ENABLED, GROUP1, Irq, LEVEL};
use crate::lr::ListRegister;
use crate::mmio::gicr::Redistributor;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::{AtomicU8, AtomicU64, Rank, SpinLock, Watched};

pub use blocking::Blocked;
pub use entry::EntryError;
pub(crate) use registers::Registers;
use residency::{Place, RECALL, Residency, Whereabouts};

/// A physical CPU: its place in the epoch, and its list registers. It stays on that CPU.
pub struct Cpu<I> {
    local: CpuLocal,
    interface: I,
    vtr: Vtr,
}

/// Why a physical CPU cannot run vCPUs: what its `ICH_VTR_EL2` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CpuError {
    /// Not 1-16 list registers.
    ListRegisters(u8),
    /// Not 5-7 bits of preemption.
    PreemptionBits(u8),
    /// `ICH_HCR_EL2.TDIR` does not exist.
    NoDirTrap,
}

impl core::fmt::Display for CpuError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ListRegisters(n) => write!(f, "{n} list registers; the architecture has 1 to 16"),
            Self::PreemptionBits(n) => write!(f, "{n} bits of preemption; supported are 5 to 7"),
            Self::NoDirTrap => write!(f, "ICC_DIR_EL1 cannot be trapped (ICH_VTR_EL2.TDS is 0)"),
        }
    }
}

impl core::error::Error for CpuError {}

impl<I: CpuInterface> Cpu<I> {
    /// As [`Cpu::try_new`].
    ///
    /// # Panics
    /// If this CPU cannot run vCPUs.
    pub fn new(local: CpuLocal, interface: I) -> Self {
        match Self::try_new(local, interface) {
            Ok(cpu) => cpu,
            Err(error) => panic!("{error}"),
        }
    }

    /// The CPU that `local` was registered on, with the interface of that CPU. Empties its list registers
    /// and turns the virtual interface off.
    ///
    /// # Errors
    /// [`CpuError`] if it cannot run vCPUs; its registers have not been touched then.
    pub fn try_new(local: CpuLocal, interface: I) -> Result<Self, CpuError> {
        let vtr = interface.vtr();
        if !(1..=crate::lr::MAX).contains(&usize::from(vtr.list_registers)) {
            return Err(CpuError::ListRegisters(vtr.list_registers));
        }
        if !(5..=7).contains(&vtr.preemption_bits) {
            return Err(CpuError::PreemptionBits(vtr.preemption_bits));
        }
        if !vtr.traps_dir {
            return Err(CpuError::NoDirTrap);
        }
        interface.write_hcr(0);
        for index in 0..usize::from(vtr.list_registers) {
            interface.write_lr(index, ListRegister::EMPTY);
        }
        Ok(Self {
            local,
            interface,
            vtr,
        })
    }

    /// Which physical CPU this is.
    #[inline]
    #[must_use]
    pub fn id(&self) -> CpuId {
        self.local.id()
    }

    /// Pins this CPU: see [`CpuLocal::pin`].
    #[inline]
    pub fn pin(&self) -> CpuPin<'_> {
        self.local.pin()
    }

    /// The registers.
    #[inline]
    #[must_use]
    pub fn interface(&self) -> &I {
        &self.interface
    }

    /// The constant properties of the registers.
    #[inline]
    #[must_use]
    pub fn vtr(&self) -> Vtr {
        self.vtr
    }

    /// This CPU's epoch membership and counters.
    #[inline]
    #[must_use]
    pub fn local(&self) -> &CpuLocal {
        &self.local
    }
}

/// What a vCPU's registers hold, accessible to the CPU that has them.
struct Owned {
    registers: UnsafeCell<RefCell<Registers>>,
    watched: Watched,
}

// SAFETY: `Vcpu::registers` gives access only to the CPU that `Residency` names as the owner, and
// ownership is handed over by `claim` and `release`. The pointers inside are kept alive by the
// ap_list's references.
unsafe impl Sync for Owned {}
// SAFETY: as above.
unsafe impl Send for Owned {}

/// `GICR_CTLR.RWP` waits for this vCPU to take its list registers back.
pub(crate) const AWAITED_BY_GICR: u8 = 1 << 0;
/// `GICD_CTLR.RWP` does.
pub(crate) const AWAITED_BY_GICD: u8 = 1 << 1;

/// One vCPU of a VM.
// Two 64-byte lines, so that neighbours share neither a line nor a prefetched pair.
#[repr(align(128))]
pub(crate) struct Vcpu {
    pub(crate) id: VcpuId,
    pub(crate) residency: Residency,
    /// Whose writes may be incomplete: see [`Vcpu::awaits`].
    awaited: AtomicU8,
    /// What `ICC_SGI<n>R_EL1` is written with for an SGI to this vCPU alone, but for its INTID; all ones
    /// while the vCPU is absent.
    sgi_to_itself: AtomicU64,
    /// Address of the register read that this vCPU is to try again, or all ones: it has asked another
    /// vCPU to take its list registers back.
    pub(crate) asked: AtomicU64,
    pub(crate) ap_list: SpinLock<ApList>,
    registers: Owned,
    pub(crate) redistributor: Redistributor,
    private: [Irq; IntId::PRIVATE as usize],
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
    unsafe fn borrow(&self) -> Option<RefMut<'_, Registers>> {
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
    fn glance(
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
    fn claim<I>(&self, cpu: &Cpu<I>) -> Result<RefMut<'_, Registers>, residency::Place> {
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
        for index in registers::bits(core::mem::take(&mut registers.in_use)) {
            // SAFETY: by the invariant of `Registers`, queued here and so kept alive by the list's
            // reference; nobody else takes it off.
            if let Some(irq) = unsafe { registers.irqs[index].as_ref() } {
                let _ = irq.fold(ListRegister::EMPTY);
                list.link(irq, irq.state());
            }
        }
    }

    /// Gives the registers up.
    fn release<I>(&self, cpu: &Cpu<I>) {
        cpu.local.set_loaded(None::<&Self>);
        // The last of what this CPU did to them.
        self.registers.watched.write();
        self.residency.release();
    }

    /// Whether a write of the distributor's or redistributor's registers, `by`, is incomplete because this
    /// vCPU is in the guest and has not taken its list registers back since.
    ///
    /// What decides is the residency word: RECALL was set after the write's change, and an entry consumes
    /// it before it takes the registers back, before the guest runs. `awaited` only says for whom that
    /// may be, so that nobody else waits. It is cleared before RECALL is consumed: one that is set later
    /// is for a later RECALL, or stays behind without effect until the next.
    pub(crate) fn awaits(&self, by: u8) -> bool {
        // Acquire: pairs with `await_recall`.
        let place = self.residency.get();
        self.awaited.load(Acquire) & by != 0 && place.in_guest() && place.has(RECALL)
    }

    /// Notes that a write waits for this vCPU, if it does; after its recall was sent. True if none of
    /// the same register was noted before.
    pub(crate) fn await_recall(&self, by: u8) -> bool {
        let place = self.residency.get();
        // AcqRel: pairs with `recalled` and `awaits`.
        place.in_guest() && place.has(RECALL) && self.awaited.fetch_or(by, AcqRel) & by == 0
    }

    /// Forgets who waited for this vCPU, which is out of the guest and about to consume the RECALL in
    /// `place`; returns who it was.
    #[inline]
    pub(crate) fn recalled(&self, place: Place) -> u8 {
        // Acquire: pairs with `await_recall`; the common case writes nothing.
        if !place.has(RECALL) || self.awaited.load(Acquire) == 0 {
            return 0;
        }
        // AcqRel: as above.
        self.awaited.swap(0, AcqRel)
    }

    /// Classes that may go into this vCPU's list registers while the distributor allows `groups`.
    #[inline]
    pub(crate) fn open_classes(&self, groups: Classes) -> Classes {
        let lpis = groups.contains(Class::Group1) && self.redistributor.lpis_enabled();
        groups.with(Class::Lpi, lpis)
    }
}

/// `ICH_HCR_EL2` while a vCPU is loaded: enabled, with `ICC_DIR_EL1` trapped.
///
/// Trapped always, because a deactivation by `ICC_DIR_EL1` may concern an interrupt in no list register
/// of this CPU, or in another CPU's; the architecture then only counts it, without its INTID. Guests
/// with EOImode 0 never write the register.
pub(crate) const BASE_HCR: u64 = hcr::EN | hcr::TDIR;
