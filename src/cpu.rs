//! A physical CPU that runs vCPUs.

use core::fmt;
use core::ops::Deref;

use crate::cpu_interface::{CpuInterface, Vtr, hcr};
use crate::epoch::{CpuLocal, CpuPin};
use crate::erratum::Erratum;
use crate::error::{CpuError, EntryError};
use crate::intid::CpuId;
use crate::lr::ListRegister;

/// A physical CPU's membership of the epoch, and its `ICH_*` registers.
///
/// The value stays on its CPU: [`CpuLocal`] is neither `Send` nor `Sync`.
pub struct Cpu<I> {
    local: CpuLocal,
    interface: I,
    vtr: Vtr,
}

impl<I: CpuInterface> Cpu<I> {
    /// Creates the CPU that `local` was registered on, with the interface of the same CPU.
    ///
    /// Turns the virtual interface off, empties the list registers, and clears the active
    /// priorities.
    ///
    /// # Panics
    /// If the CPU cannot run vCPUs; see [`CpuError`].
    pub fn new(local: CpuLocal, interface: I) -> Self {
        match Self::try_new(local, interface) {
            Ok(cpu) => cpu,
            Err(error) => panic!("{error}"),
        }
    }

    /// Creates the CPU that `local` was registered on, with the interface of the same CPU.
    ///
    /// Turns the virtual interface off, empties the list registers, and clears the active
    /// priorities.
    ///
    /// # Errors
    /// [`CpuError`] if the CPU cannot run vCPUs. No register is written then.
    pub fn try_new(local: CpuLocal, interface: I) -> Result<Self, CpuError> {
        let vtr = interface.vtr();
        if !(1..=crate::lr::MAX).contains(&usize::from(vtr.list_registers)) {
            return Err(CpuError::ListRegisters(vtr.list_registers));
        }

        if !(5..=7).contains(&vtr.preemption_bits) {
            return Err(CpuError::PreemptionBits(vtr.preemption_bits));
        }

        if !(vtr.preemption_bits..=8).contains(&vtr.priority_bits) {
            return Err(CpuError::PriorityBits(vtr.priority_bits));
        }

        if vtr.local_serrors {
            return Err(CpuError::LocalSErrors);
        }

        if let Some(erratum) = Erratum::of(interface.midr()) {
            return Err(CpuError::Erratum(erratum));
        }

        let cpu = Self {
            local,
            interface,
            vtr,
        };
        cpu.clear();
        Ok(cpu)
    }

    /// Turns the virtual interface off, empties the list registers, and clears the active
    /// priorities.
    fn clear(&self) {
        self.interface.write_hcr(0);
        for index in 0..usize::from(self.vtr.list_registers) {
            self.interface.write_lr(index, ListRegister::EMPTY);
        }
        clear_active_priorities(&self.interface);
    }

    /// Frees a CPU whose loaded vCPU has ended with its VM: turns the virtual interface off,
    /// empties the list registers, and clears the active priorities. Without such a vCPU the call
    /// does nothing.
    ///
    /// [`Vgic::enter`](crate::Vgic::enter) of another VM's vCPU frees the CPU too.
    ///
    /// # Errors
    /// [`EntryError::CpuInUse`] if the loaded vCPU's VM exists: the vCPU is to be put
    /// ([`Vgic::vcpu_put`](crate::Vgic::vcpu_put)).
    pub fn release(&self) -> Result<(), EntryError> {
        if self.local.is_loaded() {
            return Err(EntryError::CpuInUse);
        }

        if self.local.outlived_a_vm() {
            self.clear();
            self.local.set_loaded(None);
        }

        Ok(())
    }

    /// Returns the identifier of the physical CPU.
    #[inline]
    #[must_use]
    pub fn id(&self) -> CpuId {
        self.local.id()
    }

    /// Pins the CPU for its work between an exit and the next entry; see [`CpuLocal::pin`].
    #[inline]
    pub fn pin(&self) -> PinnedCpu<'_, I> {
        PinnedCpu {
            cpu: self,
            pin: self.local.pin(),
        }
    }

    /// Returns the CPU's `ICH_*` registers.
    #[inline]
    #[must_use]
    pub fn interface(&self) -> &I {
        &self.interface
    }

    /// Returns the constant properties of the registers, from `ICH_VTR_EL2`.
    #[inline]
    #[must_use]
    pub fn vtr(&self) -> Vtr {
        self.vtr
    }

    /// Returns the CPU's epoch membership and counters.
    #[inline]
    #[must_use]
    pub fn local(&self) -> &CpuLocal {
        &self.local
    }
}

impl<I> fmt::Debug for Cpu<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu")
            .field("local", &self.local)
            .field("vtr", &self.vtr)
            .finish_non_exhaustive()
    }
}

/// A [`Cpu`] with a pin of the same CPU: for the calls that run vCPUs. Derefs to the pin.
#[must_use]
pub struct PinnedCpu<'c, I> {
    cpu: &'c Cpu<I>,
    pin: CpuPin<'c>,
}

impl<'c, I> PinnedCpu<'c, I> {
    /// Returns the CPU.
    #[inline]
    #[must_use]
    pub fn cpu(&self) -> &'c Cpu<I> {
        self.cpu
    }

    /// Moves the pin to the current epoch; see [`CpuPin::renew`].
    #[inline]
    pub fn renew(&mut self) {
        self.pin.renew();
    }

    /// Runs `f` outside the epoch; see [`CpuPin::unpinned`].
    pub fn unpinned<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.pin.unpinned(f)
    }

    /// Leaves the epoch, as a drop of the pin does; see [`CpuPin::leave`].
    #[inline(always)]
    pub fn leave(&mut self) {
        self.pin.leave();
    }
}

impl<I> fmt::Debug for PinnedCpu<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedCpu")
            .field("cpu", self.cpu)
            .finish_non_exhaustive()
    }
}

// No `DerefMut`: a swap of two pins would part a pin from its CPU.
impl<'c, I> Deref for PinnedCpu<'c, I> {
    type Target = CpuPin<'c>;

    #[inline]
    fn deref(&self) -> &CpuPin<'c> {
        &self.pin
    }
}

/// Value of `ICH_HCR_EL2` while a vCPU is loaded: enabled, with `ICC_DIR_EL1` trapped.
///
/// The trap is always on: the guest may deactivate, by `ICC_DIR_EL1`, an interrupt in no list
/// register of this CPU, or in a list register of another CPU. The architecture only counts such a
/// deactivation, without the INTID. Guests with EOImode 0 never write the register.
///
/// A register may hold other bits in place of these: [`hcr_flip`].
pub(crate) const BASE_HCR: u64 = hcr::EN | hcr::TDIR;

/// Returns the bits in which `ICH_HCR_EL2` of a CPU differs from the shadow's value while a vCPU is
/// loaded.
///
/// * A CPU without TDIR (`ICH_VTR_EL2.TDS` is 0) traps the registers common to both groups instead.
/// * The interface of a GICv2 (`in_memory`) signals nothing, and all system registers of a GICv3
///   trap.
pub(crate) const fn hcr_flip(vtr: Vtr, in_memory: bool) -> u16 {
    let bits = if in_memory {
        BASE_HCR | hcr::TC | hcr::TALL0 | hcr::TALL1
    } else if vtr.traps_dir {
        0
    } else {
        hcr::TDIR | hcr::TC
    };
    bits as u16
}

const _: () = assert!((BASE_HCR | hcr::TC | hcr::TALL0 | hcr::TALL1) >> u16::BITS == 0);

/// Clears the active priorities of a CPU.
#[cold]
pub(crate) fn clear_active_priorities(interface: &impl CpuInterface) {
    for group1 in [false, true] {
        for index in 0..interface.vtr().apr_count() {
            interface.write_apr(group1, index, 0);
        }
    }
}
