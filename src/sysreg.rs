//! Trapped system registers: SGI generation, deactivation, and the interface enable (IHI 0069, 12.2).
//!
//! With `HCR_EL2.IMO` and `FMO` set, a guest's `ICC_*` accesses reach the virtual CPU interface without a
//! trap, except for the SGI registers; `ICC_DIR_EL1` traps because the vGIC sets `ICH_HCR_EL2.TDIR`, and
//! `ICC_SRE_EL1` where the embedder traps it.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use crate::cpu::Cpu;
use crate::cpu_interface::{CpuInterface, vmcr};
use crate::delivery::{change, inject};
use crate::entry::fold;
use crate::epoch::CpuPin;
use crate::host::Host;
use crate::intid::{IntId, Kind, VcpuId};
use crate::sync::{Mutant, mutant};
use crate::vm::Vm;
use crate::vm::vcpu::Vcpu;

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
    /// From the syndrome of a trapped `MSR`/`MRS` (DDI 0487, `ESR_EL2.ISS` of EC 0x18): its fields without
    /// the general register and the direction.
    #[inline]
    #[must_use]
    pub const fn from_syndrome(iss: u32) -> Option<Self> {
        /// Op0 in 21:20, Op2 in 19:17, Op1 in 16:14, CRn in 13:10, CRm in 4:1.
        const FIELDS: u32 = 0x3f_fc1e;
        const fn icc(crm: u32, op2: u32) -> u32 {
            3 << 20 | op2 << 17 | 12 << 10 | crm << 1
        }
        const DIR: u32 = icc(11, 1);
        const SGI1R: u32 = icc(11, 5);
        const ASGI1R: u32 = icc(11, 6);
        const SGI0R: u32 = icc(11, 7);
        const SRE: u32 = icc(12, 5);
        let fields = iss & FIELDS;
        // Nearly all of them.
        if fields == SGI1R {
            return Some(Self::Sgi1r);
        }
        match fields {
            DIR => Some(Self::Dir),
            ASGI1R => Some(Self::Asgi1r),
            SGI0R => Some(Self::Sgi0r),
            SRE => Some(Self::Sre),
            _ => None,
        }
    }

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

/// The value a guest reads from `register`; `None` for a write-only register, whose read is UNDEFINED.
#[must_use]
pub(crate) fn sysreg_read(register: SysReg) -> Option<u64> {
    (register == SysReg::Sre).then_some(SRE)
}

/// A guest's write of `register`, by `vcpu`, which trapped on `cpu` (after [`Vgic::exit`]). An unknown
/// vCPU is ignored.
#[inline]
pub(crate) fn sysreg_write<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: VcpuId,
    register: SysReg,
    value: u64,
) {
    let Some(vcpu) = vm.vcpus.get(vcpu.index()) else {
        return;
    };
    match register {
        SysReg::Sgi1r => generate_sgi(vm, pin, vcpu, value, true),
        SysReg::Sgi0r | SysReg::Asgi1r => generate_sgi(vm, pin, vcpu, value, false),
        SysReg::Dir => write_dir(vm, cpu, pin, vcpu, value),
        SysReg::Sre => {}
    }
}

/// The SGI registers (12.2.19): INTID in 27:24, and either all vCPUs but the sender (IRM) or those of
/// a target list of 16, which `RS` and the affinity fields place.
#[inline]
fn generate_sgi<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, sender: &Vcpu, value: u64, group1: bool) {
    const INTID_SHIFT: u32 = 24;
    const INTID: u64 = 0xf << INTID_SHIFT;
    let Some(intid) = IntId::sgi(((value & INTID) >> INTID_SHIFT) as u32) else {
        return;
    };
    if value & !INTID == sender.sgi_to_itself() {
        // Nobody has to be looked up.
        send_sgi(vm, pin, sender, intid, group1);
    } else if value & 1 << 40 != 0 {
        broadcast_sgi(vm, pin, sender, intid, group1);
    } else {
        send_sgis(vm, pin, value, intid, group1);
    }
}

/// To the vCPUs of a target list.
#[inline(never)]
fn send_sgis<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, value: u64, intid: IntId, group1: bool) {
    let topology = vm.topology.load(pin.guard());
    let Some(group) = topology.group(value) else {
        return;
    };
    let mut list = value as u16;
    while list != 0 {
        let place = list.trailing_zeros() as usize;
        list &= list.wrapping_sub(1);
        if let Some(target) = group.member(place).and_then(|id| vm.vcpu(id)) {
            send_sgi(vm, pin, target, intid, group1);
        }
    }
}

/// To all vCPUs but the sender.
#[cold]
fn broadcast_sgi<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, sender: &Vcpu, intid: IntId, group1: bool) {
    for target in vm.present_vcpus() {
        if target.id != sender.id {
            send_sgi(vm, pin, target, intid, group1);
        }
    }
}

/// Delivers an SGI if the target has it configured in the group it is generated for.
#[inline(always)]
fn send_sgi<H: Host>(vm: &Vm<H>, pin: &CpuPin<'_>, target: &Vcpu, intid: IntId, group1: bool) {
    if let Some(irq) = target.private(intid)
        && irq.state().group1() == group1
        && !(mutant(Mutant::SgiSkipped) && irq.state().shows_pending())
    {
        let _ = inject::raised_for(vm, pin, irq, irq.raise(), Some(target));
    }
}

/// `ICC_DIR_EL1` (12.2.10): ends an active state, wherever the interrupt is. Ignored with EOImode 0,
/// and for INTIDs that cannot be deactivated.
pub(crate) fn write_dir<H: Host, I: CpuInterface>(
    vm: &Vm<H>,
    cpu: &Cpu<I>,
    pin: &CpuPin<'_>,
    vcpu: &Vcpu,
    value: u64,
) {
    if cpu.interface().read_vmcr() & vmcr::VEOIM == 0 {
        return;
    }
    let Some(intid) = IntId::new(value as u32 & 0x00ff_ffff) else {
        return;
    };
    if intid.kind() == Kind::Lpi {
        return;
    }
    if let Some(irq) = vm.irq(pin, vcpu, intid) {
        // What this vCPU has in its registers may have become active since they were loaded.
        fold::refresh(cpu, pin, vcpu);
        change::deactivate(vm, pin, irq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syndrome_and_its_fields_name_the_same_register() {
        for encoding in 0_u32..1 << 16 {
            let [op0, op1] = [encoding >> 14, encoding >> 11 & 7];
            let [crn, crm, op2] = [encoding >> 7 & 15, encoding >> 3 & 15, encoding & 7];
            let fields = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1;
            let [op0, op1, crn, crm, op2] = [op0, op1, crn, crm, op2].map(|field| field as u8);
            let register = SysReg::decode(op0, op1, crn, crm, op2);
            // Whatever the general register and the direction are.
            for rest in [0, 1, 31 << 5 | 1] {
                assert_eq!(SysReg::from_syndrome(fields | rest), register);
            }
        }
    }
}
