//! A physical CPU that runs vCPUs.

use crate::cpu_interface::{CpuInterface, Vtr, hcr};
use crate::epoch::{CpuLocal, CpuPin};
use crate::error::CpuError;
use crate::intid::CpuId;
use crate::lr::ListRegister;

/// A physical CPU: its place in the epoch, and its list registers. It stays on that CPU.
pub struct Cpu<I> {
    local: CpuLocal,
    interface: I,
    vtr: Vtr,
}

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

/// `ICH_HCR_EL2` while a vCPU is loaded: enabled, with `ICC_DIR_EL1` trapped.
///
/// Trapped always, because a deactivation by `ICC_DIR_EL1` may concern an interrupt in no list register
/// of this CPU, or in another CPU's; the architecture then only counts it, without its INTID. Guests
/// with EOImode 0 never write the register.
pub(crate) const BASE_HCR: u64 = hcr::EN | hcr::TDIR;
