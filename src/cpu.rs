//! A physical CPU that runs vCPUs.

use crate::cpu_interface::{CpuInterface, Vtr, hcr};
use crate::epoch::{CpuLocal, CpuPin};
use crate::error::CpuError;
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
    /// Empties the list registers and turns the virtual interface off.
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
    /// Empties the list registers and turns the virtual interface off.
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

    /// Returns the identifier of the physical CPU.
    #[inline]
    #[must_use]
    pub fn id(&self) -> CpuId {
        self.local.id()
    }

    /// Pins the CPU; see [`CpuLocal::pin`].
    #[inline]
    pub fn pin(&self) -> CpuPin<'_> {
        self.local.pin()
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

/// Value of `ICH_HCR_EL2` while a vCPU is loaded: enabled, with `ICC_DIR_EL1` trapped.
///
/// The trap is always on: the guest may deactivate, by `ICC_DIR_EL1`, an interrupt in no list
/// register of this CPU, or in a list register of another CPU. The architecture only counts such a
/// deactivation, without the INTID. Guests with EOImode 0 never write the register.
pub(crate) const BASE_HCR: u64 = hcr::EN | hcr::TDIR;
