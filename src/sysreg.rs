//! Trapped system registers: SGI generation, deactivation, and the interface enable (IHI 0069, 12.2).
//!
//! With `HCR_EL2.IMO` and `FMO` set, a guest's `ICC_*` accesses reach the virtual CPU interface without a
//! trap, except for the SGI registers; `ICC_DIR_EL1` traps because the vGIC sets `ICH_HCR_EL2.TDIR`, and
//! `ICC_SRE_EL1` where the embedder traps it.

use crate::Vgic;
use crate::cpu_interface::{CpuInterface, vmcr};
use crate::epoch::Pin;
use crate::host::Host;
use crate::intid::{Affinity, IntId, Kind, VcpuId};
use crate::sync::{Mutant, mutant};
use crate::vcpu::{Cpu, Vcpu};

/// A system register whose accesses the vGIC handles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SysReg {
    /// `ICC_SGI0R_EL1`, write-only: generates Group 0 SGIs.
    Sgi0r,
    /// `ICC_SGI1R_EL1`, write-only: generates Group 1 SGIs.
    Sgi1r,
    /// `ICC_ASGI1R_EL1`, write-only: SGIs of the other security state, which with one state are Group 0.
    Asgi1r,
    /// `ICC_DIR_EL1`, write-only: deactivates an interrupt.
    Dir,
    /// `ICC_SRE_EL1`: the system-register interface is always enabled.
    Sre,
}

impl SysReg {
    /// From the fields of an `MSR`/`MRS`, as the syndrome of a trap gives them (DDI 0487,
    /// `ESR_EL2.ISS` of EC 0x18); `None` for any other register.
    #[must_use]
    pub const fn decode(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Option<Self> {
        match (op0, op1, crn, crm, op2) {
            (3, 0, 12, 11, 1) => Some(Self::Dir),
            (3, 0, 12, 11, 5) => Some(Self::Sgi1r),
            (3, 0, 12, 11, 6) => Some(Self::Asgi1r),
            (3, 0, 12, 11, 7) => Some(Self::Sgi0r),
            (3, 0, 12, 12, 5) => Some(Self::Sre),
            _ => None,
        }
    }
}

/// `ICC_SRE_EL1`: SRE, DFB and DIB are RAO/WI.
const SRE: u64 = 0b111;

impl<H: Host> Vgic<H> {
    /// The value a guest reads from `register`; `None` for a write-only register, whose read is UNDEFINED.
    #[must_use]
    pub fn sysreg_read(&self, register: SysReg) -> Option<u64> {
        (register == SysReg::Sre).then_some(SRE)
    }

    /// A guest's write of `register`, by `vcpu`, which trapped on `cpu` (after [`Vgic::exit`]). An unknown
    /// vCPU is ignored.
    #[inline]
    pub fn sysreg_write<I: CpuInterface>(
        &self,
        cpu: &Cpu<I>,
        pin: &Pin<'_>,
        vcpu: VcpuId,
        register: SysReg,
        value: u64,
    ) {
        let Some(vcpu) = self.vcpu(vcpu) else {
            return;
        };
        match register {
            SysReg::Sgi1r => self.generate_sgi(pin, vcpu, value, true),
            SysReg::Sgi0r | SysReg::Asgi1r => self.generate_sgi(pin, vcpu, value, false),
            SysReg::Dir => self.write_dir(cpu, pin, vcpu, value),
            SysReg::Sre => {}
        }
    }

    /// The SGI registers (12.2.19): INTID in 27:24, and either all vCPUs but the sender (IRM) or those of
    /// a target list of 16, which `RS` and the affinity fields place.
    fn generate_sgi(&self, pin: &Pin<'_>, sender: &Vcpu, value: u64, group1: bool) {
        let Some(intid) = IntId::sgi((value >> 24) as u32 & 0xf) else {
            return;
        };
        if value & 1 << 40 != 0 {
            for index in 0..self.vcpu_count() {
                if index != sender.id.index()
                    && let Some(target) = VcpuId::new(index).and_then(|id| self.vcpu(id))
                {
                    self.send_sgi(pin, target, intid, group1);
                }
            }
            return;
        }
        let range = ((value >> 44) as u8 & 0xf) << 4;
        let affinity = Affinity::new(
            (value >> 48) as u8,
            (value >> 32) as u8,
            (value >> 16) as u8,
            range,
        );
        let topology = self.topology().load(pin.guard());
        let Some(group) = topology.group(affinity) else {
            return;
        };
        let mut list = value as u16;
        while list != 0 {
            let place = list.trailing_zeros() as usize;
            list &= list - 1;
            if let Some(target) = group[place].and_then(|id| self.vcpu(id)) {
                self.send_sgi(pin, target, intid, group1);
            }
        }
    }

    /// Delivers an SGI if the target has it configured in the group it is generated for.
    #[inline]
    fn send_sgi(&self, pin: &Pin<'_>, target: &Vcpu, intid: IntId, group1: bool) {
        if let Some(irq) = target.private(intid)
            && irq.state().group1() == group1
            && !(mutant(Mutant::SgiSkipped) && irq.state().shows_pending())
        {
            let _ = self.raised(pin, irq, irq.raise());
        }
    }

    /// `ICC_DIR_EL1` (12.2.10): ends an active state, wherever the interrupt is. Ignored with EOImode 0,
    /// and for INTIDs that cannot be deactivated.
    fn write_dir<I: CpuInterface>(&self, cpu: &Cpu<I>, pin: &Pin<'_>, vcpu: &Vcpu, value: u64) {
        if cpu.interface().read_vmcr() & vmcr::VEOIM == 0 {
            return;
        }
        let Some(intid) = IntId::new(value as u32 & 0x00ff_ffff) else {
            return;
        };
        if intid.kind() == Kind::Lpi {
            return;
        }
        if let Some(irq) = self.irq(pin, vcpu, intid) {
            // What this vCPU has in its registers may have become active since they were loaded.
            self.sync(cpu, pin, vcpu);
            self.deactivate(pin, irq);
        }
    }
}
